//! What the kernels of a model's blocks share: axes, real parameters, BF16 rounding, exact dot products.

use super::array::{Array, Call};
use super::exp::round_odd;
use super::operand::{bad_param, misfit};
use crate::dtype::codec::{bf16_from_f32, f32_from_bf16};
use crate::error::Result;
use crate::kernel::ExactSum;
use serde_json::Value;

/// The axes of an array that has `N` of them.
pub(super) fn axes<const N: usize>(name: &str, array: &Array) -> Result<[usize; N]> {
    array.shape[..].try_into().map_err(|_| misfit(name, format!("{N} axes"), format!("{:?}", array.shape)))
}

/// Fails unless the array has exactly this shape.
pub(super) fn expect_shape(name: &str, array: &Array, expected: &[usize]) -> Result<()> {
    if array.shape == expected {
        return Ok(());
    }
    Err(misfit(name, format!("{expected:?}"), format!("{:?}", array.shape)))
}

/// The finite real parameter `name`, or `default`.
pub(super) fn real(call: &Call<'_>, name: &str, default: f64) -> Result<f64> {
    match call.params.get(name) {
        None => Ok(default),
        Some(value) => value
            .as_f64()
            .filter(|v| v.is_finite())
            .ok_or_else(|| bad_param(name, "a finite number", Value::to_string(value))),
    }
}

/// `x` rounded to BF16, to nearest, ties to even.
pub fn round_bf16(x: f32) -> f32 {
    f32_from_bf16(bf16_from_f32(x))
}

/// The sum of products, exact, rounded once to binary32. The factors have at most 24 significant bits, and a product is
/// neither below 2^-1022 nor beyond binary64: any two BF16 numbers, or a binary32 and a BF16 number.
pub fn exact_dot(pairs: impl Iterator<Item = (f32, f32)>) -> f32 {
    let mut sum = ExactSum::new();
    for (a, b) in pairs {
        sum.add(f64::from(a) * f64::from(b));
    }
    let hi = sum.to_f64();
    if !hi.is_finite() {
        return hi as f32;
    }
    // The sign of the rest decides where the nearest binary64 lies halfway between two binary32 numbers.
    sum.add(-hi);
    round_odd(hi, sum.to_f64()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_dots_round_once() {
        let tiny = 2f32.powi(-100);
        let dot = |terms: &[f32]| exact_dot(terms.iter().map(|t| (*t, 1.0)));
        // 1 + 2^-24 is halfway between 1 and the next number; binary64 alone would forget the rest.
        assert_eq!(dot(&[1.0, 2f32.powi(-24)]), 1.0);
        assert_eq!(dot(&[1.0, 2f32.powi(-24), tiny]), 1.0 + f32::EPSILON);
        assert_eq!(dot(&[1.0 + f32::EPSILON, 2f32.powi(-24), -tiny]), 1.0 + f32::EPSILON);
        assert_eq!(dot(&[-1.0, -2f32.powi(-24), -tiny]), -1.0 - f32::EPSILON);
        assert_eq!(dot(&[3e38, 3e38, -3e38, -3e38, tiny]), tiny);
        assert_eq!(dot(&[1.0, -1.0]).to_bits(), 0);
        assert_eq!(dot(&[f32::INFINITY, 1.0]), f32::INFINITY);
        assert!(dot(&[f32::INFINITY, f32::NEG_INFINITY]).is_nan());
    }
}
