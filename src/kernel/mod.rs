//! Kernels: a tile of values in, codes, scales and error statistics out.
//!
//! [`mod@reference`] is the definition, in plain scalar code. The fast kernels beside it equal it bit for bit, outputs and
//! statistics, on every instruction set and for every split of a tensor into tiles (the tests hold this).
//!
//! A tile is a band of whole rows of a row-major `[rows, cols]` matrix. It starts on a block row of its source's scales
//! and of its sink's.
//!
//! # Values
//!
//! The value of a scaled code is `f32(code) × scale` with one rounding to `f32`; plain floats widen exactly. A NaN that
//! a product makes is the quiet NaN with the code's sign.
//!
//! # Statistics
//!
//! A *unit* is what shares one scale of the sink: a row, a block, or the tile; a row for casts. With `t = x / n` in
//! `f32`, where `n` is the unit's scale (for casts 1, or a power of two where squares would leave the range of `f32`),
//! a unit adds `n² Σ t²` to the signal and `n² Σ (t − q)²` to the noise, `q` being the decoded code or, for casts,
//! `decoded / n`. The order of the `f32` additions is fixed by [`Lanes`](stats::Lanes), the sums of units are added
//! exactly ([`ExactSum`]), so no freedom is left.

mod decode;
pub mod emit;
mod encode;
mod exact_sum;
mod fast;
pub mod isa;
pub mod pack;
pub mod reference;
mod scan;
pub mod stats;

pub use exact_sum::ExactSum;
pub use isa::Isa;
pub use scan::{count_non_finite, decode_scales, first_not_power_of_two};
pub use stats::Stats;

use crate::dtype::Dtype;
use crate::dtype::scheme::{Rule, Scheme};

/// The values of a tile `[rows, cols]`, row-major, little-endian.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// bfloat16, 2 bytes each.
    Bf16(&'a [u8]),
    /// binary16, 2 bytes each.
    F16(&'a [u8]),
    /// binary32, 4 bytes each.
    F32(&'a [u8]),
    /// 8-bit codes under a grid of scales.
    Scaled {
        /// `F8E4M3`, `F8E5M2`, `F8E4M3Fnuz`, `F8E5M2Fnuz` or `I8`.
        element: Dtype,
        /// One byte each.
        codes: &'a [u8],
        /// The scales of this tile, `[⌈rows / block_rows⌉, ⌈cols / block_cols⌉]`, row-major.
        scales: &'a [f32],
        /// Rows of a block; 1 for one scale per row, at least `rows` for one per tensor.
        block_rows: usize,
        /// Columns of a block, at least `cols` for one scale per row or tensor.
        block_cols: usize,
    },
}

/// Where the converted tile goes.
#[derive(Debug)]
pub enum Sink<'a> {
    /// Rounds every value to a plain float, to nearest, ties to even. A value beyond the format becomes an infinity and
    /// counts as saturated.
    Cast {
        /// `BF16`, `F16` or `F32`.
        to: Dtype,
        /// `rows × cols` elements.
        out: &'a mut [u8],
    },
    /// Makes scales and codes.
    Quantize {
        /// Element, granularity, scale format and rule, which is any but [`Rule::Given`]; the packing plays no part here.
        /// `Tensor` takes the tile for the tensor. [`Rule::Fp4Blocks`] is for scaled values.
        scheme: Scheme,
        /// The tensor's global of [`Rule::Nvfp4`], positive and finite; 1 for every other rule.
        global: f32,
        /// `rows × cols` codes, one byte each: integers in two's complement, FP4 codes in the low nibble.
        codes: &'a mut [u8],
        /// The scales of this tile's rows, `[⌈rows / block rows⌉, ⌈cols / block cols⌉]`, row-major. Scales of rules
        /// that snap to the stored format are exact in it; block scales of NVFP4 are without the global.
        scales: &'a mut [f32],
        /// The zero points, shaped as `scales`, of rules that have them; empty otherwise.
        zeros: &'a mut [i8],
    },
}

/// What to do with values that no weight should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Convert NaNs and infinities instead of reporting a [`Fault`]: they do not enter the maximum of their unit nor the
    /// error sums; in codes a NaN becomes 0 (int8) or a NaN of its sign (FP8), an infinity the largest code of its
    /// sign; casts keep both. Negative and non-finite scales are used as they are.
    pub keep_non_finite: bool,
}

/// The first element, in row-major order, that the policy does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong with it.
    pub kind: FaultKind,
    /// Row in the tile.
    pub row: usize,
    /// Column.
    pub col: usize,
    /// The `f32` pattern of a bad scale, the NaN code, the stored pattern of a plain float, or the `f32` pattern of a
    /// scaled value.
    pub bits: u32,
}

/// The kinds of [`Fault`]; for one element the first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The element's scale is a NaN or an infinity.
    NonFiniteScale,
    /// The element's scale is below zero.
    NegativeScale,
    /// The code of a scaled element is a NaN.
    NanCode,
    /// The value is an infinity, or a plain float's NaN.
    NonFinite,
}

/// The block `[rows, cols]` that shares one scale of a sink.
pub(crate) fn unit_shape(sink: &Sink<'_>, rows: usize, cols: usize) -> [usize; 2] {
    match sink {
        Sink::Cast { .. } => [1, cols],
        Sink::Quantize { scheme, .. } => scheme.granularity.unit(rows, cols),
    }
}

/// Converts a tile.
///
/// # Errors
///
/// The first [`Fault`], unless the policy keeps non-finite values. The outputs are unspecified then.
///
/// # Panics
///
/// If a slice does not have the length that its documentation states, or a dtype or rule is none of those listed.
pub fn convert(
    isa: Isa,
    values: &Values<'_>,
    rows: usize,
    cols: usize,
    mut sink: Sink<'_>,
    policy: Policy,
) -> Result<Stats, Fault> {
    check_lengths(values, rows, cols, &sink);
    match fast::convert(isa, values, rows, cols, &mut sink, policy) {
        Some(result) => result,
        None => reference::convert(values, rows, cols, sink, policy),
    }
}

/// The largest finite magnitude of the values of a tile, 0 without any: what the global of [`Rule::Nvfp4`]
/// ([`nvfp4_global`](reference::nvfp4_global)) is made of.
///
/// # Errors
///
/// The first [`Fault`], unless the policy keeps non-finite values.
///
/// # Panics
///
/// If a slice of `values` does not have the length that its documentation states, or a dtype is none of those listed.
pub fn largest_magnitude(
    isa: Isa,
    values: &Values<'_>,
    rows: usize,
    cols: usize,
    policy: Policy,
) -> Result<f32, Fault> {
    check_values(values, rows, cols);
    if rows == 0 || cols == 0 {
        return Ok(0.0);
    }
    fast::largest_magnitude(isa, values, rows, cols, policy)
}

/// Asserts what [`convert`] documents.
pub(crate) fn check_lengths(values: &Values<'_>, rows: usize, cols: usize, sink: &Sink<'_>) {
    check_values(values, rows, cols);
    match sink {
        Sink::Cast { to, out } => {
            expect("cast", out.len(), [rows, cols], if *to == Dtype::F32 { 4 } else { 2 });
        }
        Sink::Quantize { scheme, codes, scales, zeros, .. } => {
            expect("codes", codes.len(), [rows, cols], 1);
            if rows > 0 && cols > 0 {
                expect_grid("scales", scales.len(), [rows, cols], unit_shape(sink, rows, cols));
                let zero_points = if scheme.rule.is_asymmetric() { scales.len() } else { 0 };
                assert!(zeros.len() == zero_points, "{} zero points for {zero_points}", zeros.len());
            }
            let scaled = matches!(values, Values::Scaled { .. });
            assert!(scheme.rule != Rule::Fp4Blocks || scaled, "plain floats have no groups of FP4");
        }
    }
}

fn check_values(values: &Values<'_>, rows: usize, cols: usize) {
    match values {
        Values::Bf16(bytes) | Values::F16(bytes) => expect("values", bytes.len(), [rows, cols], 2),
        Values::F32(bytes) => expect("values", bytes.len(), [rows, cols], 4),
        Values::Scaled { codes, scales, block_rows, block_cols, .. } => {
            expect("values", codes.len(), [rows, cols], 1);
            if rows > 0 && cols > 0 {
                expect_grid("source scales", scales.len(), [rows, cols], [*block_rows, *block_cols]);
            }
        }
    }
}

/// Asserts that `[rows, cols]` elements of `size` bytes have `len` bytes.
fn expect(what: &str, len: usize, [rows, cols]: [usize; 2], size: usize) {
    let expected = rows.checked_mul(cols).and_then(|n| n.checked_mul(size));
    assert!(expected == Some(len), "{what}: {len} bytes for [{rows}, {cols}] of {size} bytes");
}

/// Asserts that `[rows, cols]` elements in such blocks have `len` scales.
fn expect_grid(what: &str, len: usize, [rows, cols]: [usize; 2], [block_rows, block_cols]: [usize; 2]) {
    assert!(block_rows > 0 && block_cols > 0, "{what}: empty blocks");
    let expected = rows.div_ceil(block_rows) * cols.div_ceil(block_cols);
    assert!(
        expected == len,
        "{what}: {len} scales for [{rows}, {cols}] in [{block_rows}, {block_cols}] blocks"
    );
}
