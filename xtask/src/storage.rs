//! How checkpoints store a linear: which tensors stand for it, with their dtypes and shapes.

use crate::safetensors::{Dtype, Info};

/// How a scale of an FP8 block is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleFormat {
    /// Arbitrary F32 (V3, R1, Kimi-K2).
    F32,
    /// Powers of two in F32 (V3.1, V3.2).
    F32Pow2,
    /// E8M0.
    E8m0,
    /// The E8M0 byte as U8.
    U8,
    /// BF16 (Qwen3).
    Bf16,
    /// F16 (one Qwen3 release).
    F16,
}

impl ScaleFormat {
    /// The dtype of the scale tensor.
    pub fn dtype(self) -> Dtype {
        match self {
            ScaleFormat::F32 | ScaleFormat::F32Pow2 => Dtype::F32,
            ScaleFormat::E8m0 => Dtype::F8E8m0,
            ScaleFormat::U8 => Dtype::U8,
            ScaleFormat::Bf16 => Dtype::Bf16,
            ScaleFormat::F16 => Dtype::F16,
        }
    }
}

/// How a linear `[N, K]` is stored. `group` is a number of elements along K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the compute dtype.
    Float,
    /// F8_E4M3 in 128x128 blocks with `weight_scale_inv`.
    Fp8(ScaleFormat),
    /// F8_E4M3 in blocks of `rows` x `cols`, the scale under another name.
    #[expect(missing_docs, reason = "said above")]
    Fp8Tiles { rows: u64, cols: u64, scale: &'static str, format: ScaleFormat },
    /// F8_E4M3 with one scale for the tensor and a static one for the activations (ModelOpt).
    Fp8Tensor,
    /// DeepSeek-V4's FP4: I8 `[N, K/2]` and `scale` F8_E8M0 `[N, K/32]`.
    Fp4Bytes,
    /// compressed-tensors MXFP4 and Kimi-K3: `weight_packed` U8 `[N, K/2]` and `weight_scale` U8 `[N, K/32]`.
    Mxfp4Packed,
    /// gpt-oss, for all experts `[E, N, K]`: `X_blocks` U8 `[E, N, K/32, 16]` and `X_scales` U8 `[E, N, K/32]`.
    Mxfp4Blocks,
    /// compressed-tensors NVFP4, whose global scale is a divisor.
    Nvfp4Packed,
    /// ModelOpt NVFP4, whose global scale is a multiplier.
    Nvfp4Modelopt,
    /// compressed-tensors INT4 in I32 along K; zero points (asymmetric only) in I32 along N.
    #[expect(missing_docs, reason = "said above; `shape` is the dtype of `weight_shape`")]
    Int4Packed { group: u64, symmetric: bool, shape: Dtype },
    /// compressed-tensors INT8 in I32 along K, symmetric.
    #[expect(missing_docs, reason = "said above")]
    Int8Packed { group: u64 },
    /// compressed-tensors INT4 in I8 containers, symmetric.
    #[expect(missing_docs, reason = "said above")]
    Int4InI8 { group: u64 },
    /// compressed-tensors INT8 per channel with zero points.
    Int8Asymmetric,
    /// GPTQ, symmetric, version 1 of the format; `act_order` permutes the groups.
    #[expect(missing_docs, reason = "said above")]
    Gptq { group: u64, act_order: bool },
    /// AWQ's GEMM layout, asymmetric.
    #[expect(missing_docs, reason = "said above")]
    Awq { group: u64 },
}

/// DeepSeek-V4's FP8: 128x128 blocks with `scale` F8_E8M0.
pub const V4_FP8: Storage =
    Storage::Fp8Tiles { rows: 128, cols: 128, scale: "scale", format: ScaleFormat::E8m0 };

/// DeepSeek-V4.1's FP8: 32x32 blocks.
pub const V41_FP8: Storage =
    Storage::Fp8Tiles { rows: 32, cols: 32, scale: "scale", format: ScaleFormat::E8m0 };

/// DeepSeek-V4.1's n-gram tables: rows never share a scale.
pub const V41_TABLE: Storage =
    Storage::Fp8Tiles { rows: 1, cols: 32, scale: "scale", format: ScaleFormat::E8m0 };

/// MiniMax-M3's MXFP8.
pub const MXFP8: Storage =
    Storage::Fp8Tiles { rows: 1, cols: 32, scale: "weight_scale_inv", format: ScaleFormat::U8 };

impl Storage {
    /// Whether the values are codes.
    pub fn is_quantized(self) -> bool {
        self != Storage::Float
    }

    /// The tensors that stand for the linear `module` of `shape`, in the order in which the encoder gives their data.
    pub fn infos(self, module: &str, shape: &[u64], compute: Dtype) -> Vec<Info> {
        let info = |param: &str, dtype, shape: &[u64]| Info {
            name: format!("{module}.{param}"),
            dtype,
            shape: shape.to_vec(),
        };
        let [n, k] = match shape {
            [n, k] => [*n, *k],
            _ => [0, shape.last().copied().unwrap_or(1)],
        };
        let grid = |rows: u64, cols: u64| [n.div_ceil(rows), k.div_ceil(cols)];
        let scalar: &[u64] = &[];
        match self {
            Storage::Float => vec![info("weight", compute, shape)],
            Storage::Fp8(format) => vec![
                info("weight", Dtype::F8E4m3, shape),
                info("weight_scale_inv", format.dtype(), &grid(128, 128)),
            ],
            Storage::Fp8Tiles { rows, cols, scale, format } => {
                vec![info("weight", Dtype::F8E4m3, shape), info(scale, format.dtype(), &grid(rows, cols))]
            }
            Storage::Fp8Tensor => vec![
                info("weight", Dtype::F8E4m3, shape),
                info("weight_scale", Dtype::F32, scalar),
                info("input_scale", Dtype::F32, scalar),
            ],
            Storage::Fp4Bytes => {
                vec![info("weight", Dtype::I8, &[n, k / 2]), info("scale", Dtype::F8E8m0, &grid(1, 32))]
            }
            Storage::Mxfp4Packed => vec![
                info("weight_packed", Dtype::U8, &[n, k / 2]),
                info("weight_scale", Dtype::U8, &grid(1, 32)),
            ],
            Storage::Mxfp4Blocks => {
                let mut scales = shape.to_vec();
                scales.pop();
                scales.push(k / 32);
                let blocks = [&scales[..], &[16]].concat();
                let info = |suffix: &str, shape| Info {
                    name: format!("{module}_{suffix}"),
                    dtype: Dtype::U8,
                    shape,
                };
                vec![info("blocks", blocks), info("scales", scales)]
            }
            Storage::Nvfp4Packed => vec![
                info("weight_packed", Dtype::U8, &[n, k / 2]),
                info("weight_scale", Dtype::F8E4m3, &grid(1, 16)),
                info("weight_global_scale", Dtype::F32, &[1]),
                info("input_global_scale", Dtype::F32, &[1]),
            ],
            Storage::Nvfp4Modelopt => vec![
                info("weight", Dtype::U8, &[n, k / 2]),
                info("weight_scale", Dtype::F8E4m3, &grid(1, 16)),
                info("weight_scale_2", Dtype::F32, scalar),
                info("input_scale", Dtype::F32, scalar),
            ],
            Storage::Int4Packed { group, symmetric, shape } => {
                let mut infos = vec![
                    info("weight_packed", Dtype::I32, &[n, k / 8]),
                    info("weight_scale", compute, &grid(1, group)),
                    info("weight_shape", shape, &[2]),
                ];
                if !symmetric {
                    infos.push(info("weight_zero_point", Dtype::I32, &[n / 8, k / group]));
                }
                infos
            }
            Storage::Int8Packed { group } => vec![
                info("weight_packed", Dtype::I32, &[n, k / 4]),
                info("weight_scale", compute, &grid(1, group)),
                info("weight_shape", Dtype::I64, &[2]),
            ],
            Storage::Int4InI8 { group } => {
                vec![info("weight", Dtype::I8, shape), info("weight_scale", compute, &grid(1, group))]
            }
            Storage::Int8Asymmetric => vec![
                info("weight", Dtype::I8, shape),
                info("weight_scale", compute, &[n, 1]),
                info("weight_zero_point", Dtype::I8, &[n, 1]),
            ],
            Storage::Gptq { group, .. } => vec![
                info("qweight", Dtype::I32, &[k / 8, n]),
                info("qzeros", Dtype::I32, &[k / group, n / 8]),
                info("scales", Dtype::F16, &[k / group, n]),
                info("g_idx", Dtype::I32, &[k]),
            ],
            Storage::Awq { group } => vec![
                info("qweight", Dtype::I32, &[k, n / 8]),
                info("qzeros", Dtype::I32, &[k / group, n / 8]),
                info("scales", Dtype::F16, &[k / group, n]),
            ],
        }
    }
}
