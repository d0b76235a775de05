//! Elementary functions in plain `f64` arithmetic: the same bits on every platform, within a few units in the last place.

use std::f64::consts::{FRAC_PI_2, LOG2_E};

/// The leading bits of ln 2, so that small multiples are exact, and the rest.
const LN2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
/// The leading bits of π/2 and the rest.
const HALF_PI: [f64; 2] = [1.570_796_326_734_125_6, 6.077_100_506_506_192e-11];

/// eˣ.
pub(super) fn exp(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x < -745.0 {
        return 0.0;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    let n = (x * LOG2_E).round();
    let r = (x - n * LN2[0]) - n * LN2[1];
    // Taylor to r^14 / 14! with |r| ≤ 0.35.
    let mut sum = 1.0;
    for k in (1..=14).rev() {
        sum = 1.0 + r / f64::from(k) * sum;
    }
    scale(sum, n as i32)
}

/// `x · 2ⁿ` in two steps, because 2ⁿ alone may leave the range.
fn scale(x: f64, n: i32) -> f64 {
    let power = |n: i32| f64::from_bits(((1023 + i64::from(n)) as u64) << 52);
    let half = n / 2;
    x * power(half) * power(n - half)
}

/// ln x of a positive normal number.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln m = 2 artanh s.
    let s = (m - 1.0) / (m + 1.0);
    let mut sum = 0.0;
    for k in (0..12).rev() {
        sum = sum * (s * s) + 1.0 / f64::from(2 * k + 1);
    }
    let n = f64::from(exponent);
    n * LN2[0] + (2.0 * s * sum + n * LN2[1])
}

/// `base` to the power of `exponent`, for a positive base.
pub(super) fn pow(base: f64, exponent: f64) -> f64 {
    exp(exponent * ln(base))
}

/// (sin x, cos x) for |x| below a million.
pub(super) fn sin_cos(x: f64) -> (f64, f64) {
    let n = (x / FRAC_PI_2).round();
    let r = (x - n * HALF_PI[0]) - n * HALF_PI[1];
    let z = r * r;
    // Horner's form of the Taylor series with |r| ≤ π/4.
    let (mut s, mut c) = (1.0, 1.0);
    for k in (1..=9).rev() {
        let k = f64::from(k);
        s = 1.0 - z / (2.0 * k * (2.0 * k + 1.0)) * s;
        c = 1.0 - z / (2.0 * k * (2.0 * k - 1.0)) * c;
    }
    let (s, c) = (r * s, c);
    match (n as i64).rem_euclid(4) {
        0 => (s, c),
        1 => (c, -s),
        2 => (-s, -c),
        _ => (-c, s),
    }
}

/// 1 / (1 + e⁻ˣ).
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The platform's library, which is good to an ulp or so, is the oracle.
    #[test]
    fn agrees_with_the_library() {
        for i in -4000..4000 {
            let x = f64::from(i) * 0.173 + 0.011;
            assert!((exp(x) - x.exp()).abs() <= 1e-15 * x.exp(), "exp {x}");
            let (s, c) = sin_cos(x);
            assert!((s - x.sin()).abs() < 1e-13 && (c - x.cos()).abs() < 1e-13, "sin {x}");
            let positive = x.abs();
            assert!((ln(positive) - positive.ln()).abs() <= 1e-15 * (1.0 + positive.ln().abs()), "ln {x}");
        }
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(sin_cos(0.0), (0.0, 1.0));
        assert!((pow(10_000.0, 0.75) - 1000.0).abs() < 1e-11);
        assert!((sigmoid(0.0) - 0.5).abs() < 1e-16);
    }
}
