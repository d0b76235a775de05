//! How an engine multiplies with a weight: its activations' quantization and the reference kernel of its scheme.

use super::product::{Packed, exact_band};
use super::weights::{Matrix, size};
use crate::dtype::Dtype;
use crate::dtype::codec::f32_from_e4m3;
use crate::dtype::scheme::Granularity;
use crate::error::Result;
use crate::kernel::reference::gemm::{self, Factor, Size};
use crate::kernel::reference::hardware::{Mode, Order, Scaling};
use crate::kernel::reference::quant::{Recipe, quantize};
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
            (Dtype::I8, Granularity::Channel | Granularity::Row | Granularity::Tensor) => Path::Int8Token,
            (Dtype::F8E4M3, Granularity::Channel | Granularity::Row | Granularity::Tensor) => Path::Fp8Token,
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
            Path::Int8Token => {
                "per-token INT8 activations, INT8 weights per channel, INT32 accumulation".into()
            }
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
    /// `[tokens, cols]`.
    codes: Vec<u8>,
    /// `[tokens, groups]`.
    scales: Vec<f32>,
    /// Code times scale.
    decoded: Packed,
}

impl Activations {
    /// `x` is `[tokens, cols]`, row-major.
    ///
    /// # Errors
    /// Class Input for a shape that no memory holds.
    pub(crate) fn new(x: &[f32], tokens: usize, cols: usize, path: Path) -> Result<Self> {
        let exact = Packed::new(x, tokens, cols);
        let (recipe, group) = match path {
            Path::Float => return Ok(Self { path, exact, coded: None }),
            Path::Int8Token => (Recipe::Int8Token, cols.max(1)),
            Path::Fp8Token => (Recipe::VllmFp8Token, cols.max(1)),
            Path::Fp8Block { cols, ue8m0: false, .. } => (Recipe::VllmFp8Group, cols),
            Path::Fp8Block { cols, ue8m0: true, .. } => (Recipe::DgFp8Ue8m0, cols),
        };
        let groups = cols.div_ceil(group);
        let (mut codes, mut scales) = (vec![0u8; x.len()], vec![0f32; tokens * groups]);
        quantize(recipe, x, [tokens, cols], [1, group], &mut codes, &mut scales)?;
        let decoded = codes.iter().enumerate().map(|(i, code)| {
            let (token, col) = (i / cols, i % cols);
            let value = if path == Path::Int8Token { f32::from(*code as i8) } else { f32_from_e4m3(*code) };
            value * scales[token * groups + col / group]
        });
        let decoded = Packed::new(&decoded.collect::<Vec<f32>>(), tokens, cols);
        Ok(Self { path, exact, coded: Some(Coded { codes, scales, decoded }) })
    }
}

/// What one band of a weight gives, `[tokens][rows of the band]`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Band {
    /// The kernel's output, f32.
    pub(crate) kernel: Vec<f32>,
    /// The exact product of decoded weights and decoded activations; empty unless asked for.
    pub(crate) product: Vec<f64>,
}

/// Runs the kernel of `x.path` on a band of `weight`; also the exact product of what it multiplies when `check`.
pub(crate) fn run_band(weight: &Matrix<'_>, rows: &Range<u64>, x: &Activations, check: bool) -> Result<Band> {
    let (stored, mut scales) = (weight.stored(rows)?, weight.scales(rows)?);
    let (Some(coded), Some((_, scheme))) = (&x.coded, weight.scaled) else {
        let exact = exact_band(&x.exact, &weight.values(rows, &stored, &scales)?);
        let kernel = exact.iter().map(|v| *v as f32).collect();
        return Ok(Band { kernel, product: if check { exact } else { Vec::new() } });
    };
    let product =
        if check { exact_band(&coded.decoded, &weight.values(rows, &stored, &scales)?) } else { Vec::new() };
    let size = Size { m: x.exact.tokens, n: size(rows.end - rows.start), k: x.exact.cols };
    let mut kernel = vec![0f32; size.m * size.n];
    if scheme.granularity == Granularity::Tensor {
        scales = vec![scales.first().copied().unwrap_or(0.0); size.n];
    }
    let (mode, out) = (Mode::Exact, &mut kernel[..]);
    match x.path {
        Path::Int8Token => {
            let (a, b) = (bytemuck::cast_slice(&coded.codes), bytemuck::cast_slice(&stored));
            gemm::w8a8(Order::Successive, size, a, &coded.scales, b, &scales, None, out)?;
        }
        Path::Fp8Token => {
            let scaling = Scaling::new(Order::Successive);
            gemm::fp8_token_channel(
                &mode,
                scaling,
                size,
                &coded.codes,
                &coded.scales,
                &stored,
                &scales,
                None,
                out,
            )?;
        }
        Path::Fp8Block { rows, cols, .. } => {
            let factor = |codes, scales, block| Factor { dtype: Dtype::F8E4M3, codes, scales, block };
            let a = factor(&coded.codes[..], &coded.scales[..], [1, cols]);
            let b = factor(&stored[..], &scales[..], [rows, cols]);
            gemm::scaled(&mode, Scaling::new(Order::Joint), size, cols, [a, b], out)?;
        }
        // Codes exist on the other paths only.
        Path::Float => {}
    }
    Ok(Band { kernel, product })
}
