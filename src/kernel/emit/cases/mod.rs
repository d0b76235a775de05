//! The golden cases of every kernel, family by family.

mod dequant;
mod gemm;
mod grouped;
mod layout;
mod model;
mod quant;
mod route;

use super::golden::Draft;
use super::input::{Operand, SplitMix64, Values, values};
use crate::dtype::Dtype;

/// The drafts of `kernel`; none for a kernel that is not known here.
pub(super) fn drafts(kernel: &'static str) -> Vec<Draft> {
    let families = [
        gemm::drafts as fn(&'static str) -> Vec<Draft>,
        grouped::drafts,
        dequant::drafts,
        quant::drafts,
        model::drafts,
        route::drafts,
        layout::drafts,
    ];
    families.iter().map(|f| f(kernel)).find(|d| !d.is_empty()).unwrap_or_default()
}

/// The random numbers of an argument.
fn rng(kernel: &str, class: &str, arg: &str) -> SplitMix64 {
    SplitMix64::new(&format!("{kernel}/{class}/{arg}"))
}

/// The values of a class that has a matrix of values.
fn kind(class: &str, element: Dtype) -> Values {
    match class {
        "small-int" => Values::SmallInt,
        "bf16-sweep" => Values::Bf16Sweep,
        "exponent-sweep" => Values::ExponentSweep,
        "zero-block" => Values::ZeroBlock,
        "exact-amax" if element == Dtype::F4E2M1 => Values::ExactAmax6,
        "exact-amax" => Values::ExactAmax448,
        "fp4-midpoints" => Values::Fp4Midpoints,
        "signed-zero" => Values::SignedZero,
        "outlier" => Values::Outlier,
        _ => Values::Gaussian,
    }
}

/// Every finite code of a format of at most 8 bits, in order.
fn finite_codes(dtype: Dtype) -> Vec<u8> {
    let last = if dtype.bits() == 4 { 15 } else { 255 };
    (0..=last).filter(|c| crate::dtype::codec::decode(dtype, (*c).into()).is_finite()).collect()
}

/// Every finite code again and again, each row one further.
fn cycle_codes(dtype: Dtype, rows: usize, cols: usize) -> Vec<u8> {
    let codes = finite_codes(dtype);
    (0..rows * cols).map(|i| codes[(i + i / cols.max(1)) % codes.len()]).collect()
}

/// A positive scale within a factor of two of 2^-6.
fn random_scale(rng: &mut SplitMix64) -> f32 {
    (0.5 + rng.uniform()) / 64.0
}

/// One operand of a product by its class. `second` marks the operand beside one whose values go to the ends of the range.
fn operand(
    class: &str,
    op: Operand,
    rng: &mut SplitMix64,
    [rows, cols]: [usize; 2],
    second: bool,
) -> super::input::Coded {
    let kind = kind(class, op.element);
    match class {
        "all-codes" => {
            let codes = cycle_codes(op.element, rows, cols);
            op.with_codes(&codes, rows, cols, |_| random_scale(rng))
        }
        "small-int" | "signed-zero" => op.unit(&values(kind, rng, rows, cols), rows, cols),
        "fp4-midpoints" => {
            // Halves and quarters are no integers.
            let unit = if op.element.is_integer() { 4.0 } else { 1.0 };
            let x: Vec<f32> = values(kind, rng, rows, cols).iter().map(|v| v * unit).collect();
            op.unit(&x, rows, cols)
        }
        "bf16-sweep" | "exponent-sweep" if second => {
            // Small, so that products stay finite.
            let x: Vec<f32> =
                values(Values::Gaussian, rng, rows, cols).iter().map(|v| v / 16_777_216.0).collect();
            op.quantize(&x, rows, cols)
        }
        _ => op.quantize(&values(kind, rng, rows, cols), rows, cols),
    }
}
