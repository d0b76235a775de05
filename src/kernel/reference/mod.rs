//! The normative kernels, in plain scalar code: the definition of [`convert`](super::convert), and those of the
//! [`catalog`], which golden sets and emitted code are held to.

pub mod array;
pub mod attention;
pub mod catalog;
pub mod combine;
pub mod dequant;
mod encode;
mod exact;
pub mod exp;
pub mod gate;
pub mod gemm;
mod gemm_catalog;
pub mod group_gemm;
mod group_gemm_catalog;
pub mod hardware;
pub mod kv;
pub mod layout;
pub mod lm_head;
pub mod mla;
pub mod norm;
mod operand;
pub mod quant;
pub mod requant;
pub mod rope;
mod search;
pub mod shape;
pub mod swiglu;
mod value;

pub use encode::{
    Extent, NORMALIZER_RANGE, UnitScale, encode, nvfp4_global, scale, scale_of_magnitude, unit_scale,
};
pub(in crate::kernel) use encode::{amax7_eps, code_bounds};
pub(in crate::kernel) use search::ssz_next;
pub use search::{SSZ_ROUNDS, search};
pub use value::{Element, element, first_fault};

use super::stats::{LANES, Lanes, PIECE, Stats};
use super::{Fault, Policy, Sink, Values, check_lengths, unit_shape};
use crate::dtype::Dtype;
use crate::dtype::codec::{bf16_from_f32, f16_from_f32, f32_from_bf16, f32_from_f16};
use crate::dtype::scheme::Rule;
use std::ops::Range;

/// Converts a tile; the contract is that of [`convert`](super::convert).
///
/// # Errors
///
/// The first [`Fault`], unless the policy keeps non-finite values.
///
/// # Panics
///
/// As [`convert`](super::convert).
pub fn convert(
    values: &Values<'_>,
    rows: usize,
    cols: usize,
    mut sink: Sink<'_>,
    policy: Policy,
) -> Result<Stats, Fault> {
    check_lengths(values, rows, cols, &sink);
    if !policy.keep_non_finite
        && let Some(fault) = first_fault(values, rows, cols)
    {
        return Err(fault);
    }
    let mut stats = Stats::default();
    if rows == 0 || cols == 0 {
        return Ok(stats);
    }
    let [unit_rows, unit_cols] = unit_shape(&sink, rows, cols);
    for first_row in (0..rows).step_by(unit_rows) {
        for first_col in (0..cols).step_by(unit_cols) {
            let unit = Unit {
                rows: first_row..first_row.saturating_add(unit_rows).min(rows),
                cols: first_col..first_col.saturating_add(unit_cols).min(cols),
                scale_index: first_row / unit_rows * cols.div_ceil(unit_cols) + first_col / unit_cols,
            };
            convert_unit(values, cols, &unit, &mut sink, &mut stats);
        }
    }
    Ok(stats)
}

/// The elements that share one scale of the sink.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Rows of the tile.
    pub rows: Range<usize>,
    /// Columns of the tile.
    pub cols: Range<usize>,
    /// Where the sink's scale goes.
    pub scale_index: usize,
}

/// What became of one value.
struct Outcome {
    /// The value over the normalizer.
    normalized: f32,
    /// The normalized error.
    error: f32,
    /// Whether the target cannot hold the value.
    saturated: bool,
    /// Whether the value enters the error sums.
    counted: bool,
}

/// Converts one unit of a tile with `cols` columns, non-finite values included, and adds its statistics.
pub fn convert_unit(values: &Values<'_>, cols: usize, unit: &Unit, sink: &mut Sink<'_>, stats: &mut Stats) {
    let mut extent = Extent::default();
    // Rules that try several scales need the values themselves.
    let mut searched: Vec<f32> = Vec::new();
    let searches = matches!(sink, Sink::Quantize { scheme, .. } if tries_scales(scheme.rule));
    for row in unit.rows.clone() {
        for col in unit.cols.clone() {
            let element = element(values, row, col, cols);
            extent.add(element.value);
            if let Some(scale) = element.scale
                && scale.is_finite()
                && scale > extent.source_scale
            {
                extent.source_scale = scale;
            }
            if searches {
                searched.push(element.value);
            }
        }
    }
    let scale = match sink {
        Sink::Cast { .. } => UnitScale::of(cast_normalizer(extent.amax)),
        Sink::Quantize { scheme, global, scales, zeros, .. } => {
            let scale = scale(scheme, *global, &extent).unwrap_or_else(|| search(scheme, &extent, &searched));
            scales[unit.scale_index] = scale.stored;
            if let Some(zero) = zeros.get_mut(unit.scale_index) {
                *zero = scale.zero;
            }
            stats.zero_rows += u64::from(extent.amax == 0.0);
            scale
        }
    };
    let mut lanes = Lanes::default();
    for row in unit.rows.clone() {
        for piece in unit.cols.clone().step_by(PIECE) {
            let end = (piece + PIECE).min(unit.cols.end);
            for col in piece..end {
                let element = element(values, row, col, cols);
                let outcome = put(element.value, &scale, row * cols + col, sink);
                if outcome.counted {
                    let lane = (col - piece) % LANES;
                    lanes.signal[lane] += outcome.normalized * outcome.normalized;
                    lanes.noise[lane] += outcome.error * outcome.error;
                    lanes.error[lane] = lanes.error[lane].max(outcome.error.abs());
                }
                stats.elements += 1;
                stats.saturated += u64::from(outcome.saturated);
                stats.non_finite += u64::from(!element.value.is_finite());
                stats.zero_scale_codes += u64::from(element.scale == Some(0.0) && element.code_is_not_zero);
            }
            lanes.end_piece(end - piece);
        }
    }
    stats.add_unit(&mut lanes, scale.divisor);
}

/// Whether the rule's scale depends on more than an [`Extent`].
fn tries_scales(rule: Rule) -> bool {
    matches!(rule, Rule::BestUe8m0 | Rule::MxBest | Rule::Ssz7)
}

/// What the errors of a row of casts are divided by: 1 where the squares of the row's values fit `f32` comfortably, the
/// power of two at or below the row's largest magnitude otherwise.
fn cast_normalizer(amax: f32) -> f32 {
    let [low, high] = NORMALIZER_RANGE;
    if amax == 0.0 || (low..high).contains(&amax) {
        return 1.0;
    }
    f32::from_bits((amax.to_bits() & 0x7F80_0000).max(0x0080_0000))
}

/// Converts `x` and stores it at element `index`.
fn put(x: f32, unit: &UnitScale, index: usize, sink: &mut Sink<'_>) -> Outcome {
    let normalizer = unit.divisor;
    let normalized = x / normalizer;
    match sink {
        Sink::Cast { to, out } => {
            let decoded = match to {
                Dtype::BF16 => {
                    let bits = bf16_from_f32(x);
                    out[index * 2..][..2].copy_from_slice(&bits.to_le_bytes());
                    f32_from_bf16(bits)
                }
                Dtype::F16 => {
                    let bits = f16_from_f32(x);
                    out[index * 2..][..2].copy_from_slice(&bits.to_le_bytes());
                    f32_from_f16(bits)
                }
                _ => {
                    assert_eq!(*to, Dtype::F32, "a cast goes to BF16, F16 or F32");
                    out[index * 4..][..4].copy_from_slice(&x.to_bits().to_le_bytes());
                    x
                }
            };
            let counted = x.is_finite() && decoded.is_finite();
            let error = (x - decoded) / normalizer;
            Outcome { normalized, error, saturated: x.is_finite() && decoded.is_infinite(), counted }
        }
        Sink::Quantize { scheme, codes, .. } => {
            let (code, q, saturated) = encode(scheme, x, unit);
            codes[index] = code;
            let counted = x.is_finite();
            Outcome { normalized, error: normalized - q, saturated: saturated && counted, counted }
        }
    }
}
