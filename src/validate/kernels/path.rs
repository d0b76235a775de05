//! How an engine multiplies with a weight: its activations' quantization and the reference kernel of its scheme.

use super::product::{LANES, Packed, dots};
use super::weights::{Matrix, code_values};
use crate::dtype::Dtype;
use crate::dtype::codec::{e4m3_from_f32_clamped, f32_from_e4m3};
use crate::dtype::scheme::Granularity;
use crate::error::Result;
use std::ops::Range;

/// The activation path of a linear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// BF16 activations and a float weight, or a weight whose codes no kernel of the catalogue multiplies: the weight is
    /// decoded and nothing else is rounded before the sum (`lm_head`).
    Float,
    /// INT8 per token (`quant_int8_token`) with INT8 per channel or tensor: `gemm_w8a8`.
    Int8Token,
    /// E4M3 per token (`quant_vllm_fp8_token`) with E4M3 per channel or tensor: `gemm_fp8_token_channel`.
    Fp8Token,
    /// E4M3 per token and group of columns with E4M3 blocks: `gemm_fp8_block`.
    Fp8Block {
        /// Columns of a block, and of a group of activations.
        cols: usize,
        /// Rows of a block.
        rows: usize,
        /// Whether scales are powers of two (`quant_dg_fp8_ue8m0`), else `quant_vllm_fp8_group`.
        ue8m0: bool,
    },
}

impl Path {
    /// The path that engines take with `weight` of a checkpoint whose `scale_fmt` is or is not `ue8m0`.
    pub(crate) fn of(weight: &Matrix<'_>, ue8m0: bool) -> Path {
        let Some((_, scheme)) = weight.scaled else { return Path::Float };
        match (scheme.element, scheme.granularity) {
            (Dtype::I8, Granularity::Channel | Granularity::Tensor) => Path::Int8Token,
            (Dtype::F8E4M3, Granularity::Channel | Granularity::Tensor) => Path::Fp8Token,
            (Dtype::F8E4M3, Granularity::Block { rows, cols }) if cols > 0 && rows > 0 => {
                Path::Fp8Block { cols: cols as usize, rows: rows as usize, ue8m0 }
            }
            _ => Path::Float,
        }
    }

    /// The kernel's name in the catalogue.
    pub(crate) fn kernel(self) -> &'static str {
        match self {
            Path::Float => "lm_head",
            Path::Int8Token => "gemm_w8a8",
            Path::Fp8Token => "gemm_fp8_token_channel",
            Path::Fp8Block { .. } => "gemm_fp8_block",
        }
    }

    /// In words, for people.
    pub(crate) fn words(self) -> String {
        match self {
            Path::Float => "BF16 activations, float weights, wide accumulation".into(),
            Path::Int8Token => "per-token INT8 activations, INT8 weights per channel, INT32 accumulation".into(),
            Path::Fp8Token => "per-token FP8 activations, FP8 weights per channel, FP32 accumulation".into(),
            Path::Fp8Block { cols, rows, ue8m0 } => format!(
                "FP8 activations per token and {cols} columns{}, FP8 weights in {rows}x{cols} blocks, FP32 accumulation",
                if ue8m0 { " with power-of-two scales" } else { "" }
            ),
        }
    }
}

/// Activations of a few tokens, as they are and as the path quantizes them.
#[derive(Clone, Debug)]
pub(crate) struct Activations {
    pub(crate) path: Path,
    /// As they are.
    pub(crate) exact: Packed,
    /// Codes and scales; `None` on [`Path::Float`].
    coded: Option<Coded>,
}

#[derive(Clone, Debug)]
struct Coded {
    codes: Packed,
    /// `[groups][tokens]`: a group's scales side by side.
    scales: Vec<f32>,
    /// Code times scale, packed.
    decoded: Packed,
}

impl Activations {
    /// `x` is `[tokens, cols]`, row-major.
    pub(crate) fn new(x: &[f32], tokens: usize, cols: usize, path: Path) -> Self {
        let exact = Packed::new(x, tokens, cols);
        let group = match path {
            Path::Float => return Self { path, exact, coded: None },
            Path::Fp8Block { cols: group, .. } => group,
            _ => cols.max(1),
        };
        let groups = cols.div_ceil(group);
        let (mut codes, mut decoded) = (vec![0f32; x.len()], vec![0f32; x.len()]);
        let mut scales = vec![0f32; groups * tokens];
        for token in 0..tokens {
            for g in 0..groups {
                let range = token * cols + g * group..token * cols + ((g + 1) * group).min(cols);
                let scale = quantize(path, &x[range.clone()], &mut codes[range.clone()]);
                scales[g * tokens + token] = scale;
                for i in range {
                    decoded[i] = codes[i] * scale;
                }
            }
        }
        let pack = |values: &[f32]| Packed::new(values, tokens, cols);
        Self { path, exact, coded: Some(Coded { codes: pack(&codes), scales, decoded: pack(&decoded) }) }
    }
}

/// Quantizes one group; codes as numbers. Returns the scale.
fn quantize(path: Path, x: &[f32], codes: &mut [f32]) -> f32 {
    let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let fp8 = |v: f32| f32_from_e4m3(e4m3_from_f32_clamped(v.clamp(-448.0, 448.0)));
    match path {
        Path::Float => 1.0,
        Path::Int8Token => {
            let s = amax.max(1e-4) / 127.0;
            for (code, v) in codes.iter_mut().zip(x) {
                *code = (v / s).round_ties_even().clamp(-127.0, 127.0);
            }
            s
        }
        Path::Fp8Token => {
            let s = (amax / 448.0).max(1.0 / (448.0 * 512.0));
            let inverse = 1.0 / s;
            for (code, v) in codes.iter_mut().zip(x) {
                *code = fp8(v * inverse);
            }
            s
        }
        Path::Fp8Block { ue8m0: false, .. } => {
            let s = amax.max(1e-10) / 448.0;
            for (code, v) in codes.iter_mut().zip(x) {
                *code = fp8(v / s);
            }
            s
        }
        Path::Fp8Block { ue8m0: true, .. } => {
            let bits = (amax.max(1e-4) / 448.0).to_bits();
            let exponent = ((bits >> 23) + u32::from(bits & 0x7f_ffff != 0)).clamp(1, 254);
            let s = f32::from_bits(exponent << 23);
            for (code, v) in codes.iter_mut().zip(x) {
                *code = fp8(v * (1.0 / s));
            }
            s
        }
    }
}

/// What one band of a weight gives: `[rows][tokens]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Band {
    /// The kernel's output, f32.
    pub(crate) kernel: Vec<f32>,
    /// The exact product of decoded weights and decoded activations; empty unless asked for.
    pub(crate) product: Vec<f64>,
}

/// Runs the kernel of `x.path` on a band of `weight`; also the exact product of what it multiplies when `check`.
pub(crate) fn run_band(weight: &Matrix<'_>, rows: &Range<u64>, x: &Activations, check: bool) -> Result<Band> {
    let (stored, scales) = (weight.stored(rows)?, weight.scales(rows)?);
    let tokens = x.exact.tokens;
    let (Some(coded), Some((_, scheme))) = (&x.coded, weight.scaled) else {
        let exact = exact_band(&x.exact, &weight.values(rows, &stored, &scales)?);
        let kernel = exact.iter().map(|v| *v as f32).collect();
        return Ok(Band { kernel, product: if check { exact } else { Vec::new() } });
    };
    let product =
        if check { exact_band(&coded.decoded, &weight.values(rows, &stored, &scales)?) } else { Vec::new() };
    let codes = code_values(scheme.element, &stored);
    drop(stored);
    let cols = coded.codes.cols;
    let block = if let Path::Fp8Block { cols, .. } = x.path { cols } else { cols.max(1) };
    let (blocks, padded) = (cols.div_ceil(block), tokens.div_ceil(LANES) * LANES);
    let sums = dots(&coded.codes, &codes, block);
    let mut kernel = Vec::with_capacity(sums.len() / blocks.max(1));
    for (row, sums) in sums.chunks_exact(blocks.max(1) * padded).enumerate() {
        for token in 0..tokens {
            let d = |b: usize| sums[b * padded + token] as f32;
            let y = match x.path {
                Path::Fp8Block { rows: block_rows, .. } => {
                    let mut acc = 0f32;
                    for b in 0..blocks {
                        let sb = scales[row / block_rows * blocks + b];
                        acc += d(b) * (coded.scales[b * tokens + token] * sb);
                    }
                    acc
                }
                _ => {
                    let sb = scales[if scheme.granularity == Granularity::Tensor { 0 } else { row }];
                    let sx = coded.scales[token];
                    d(0) * sx * sb
                }
            };
            kernel.push(y);
        }
    }
    Ok(Band { kernel, product })
}

/// The exact product of a band of values with the tokens: `[rows][tokens]`.
pub(crate) fn exact_band(x: &Packed, w: &[f32]) -> Vec<f64> {
    let padded = x.tokens.div_ceil(LANES) * LANES;
    let sums = dots(x, w, x.cols.max(1));
    if padded == x.tokens {
        return sums;
    }
    sums.chunks_exact(padded.max(1)).flat_map(|row| row[..x.tokens].iter().copied()).collect()
}
