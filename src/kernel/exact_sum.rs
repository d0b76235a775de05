//! An exact sum of `f64`: the result does not depend on the order of the additions.
//!
//! A fixed-point register wide enough for every finite `f64` (Kulisch). Workers sum tiles in any order and any grouping,
//! and a journal stores partial sums as text; the total is the same to the last bit.

use std::fmt::{self, Write as _};

/// Limbs of the register: 2176 bits in units of 2^-1074, of which a sum of 2^64 largest `f64` uses 2162.
const LIMBS: usize = 34;

/// An exact sum of `f64` values, as a two's complement integer in units of 2^-1074.
///
/// Infinities and NaNs are sticky and do not disturb the finite part: the sum is NaN after a NaN or after both
/// infinities, otherwise the infinity that was added.
#[derive(Clone, PartialEq, Eq)]
pub struct ExactSum {
    /// Little-endian.
    limbs: [u64; LIMBS],
    positive_infinity: bool,
    negative_infinity: bool,
    nan: bool,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { limbs: [0; LIMBS], positive_infinity: false, negative_infinity: false, nan: false }
    }
}

impl ExactSum {
    /// Zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `x` exactly.
    pub fn add(&mut self, x: f64) {
        let bits = x.to_bits();
        let field = (bits >> 52) & 0x7FF;
        let fraction = bits & ((1 << 52) - 1);
        if field == 0x7FF {
            match (fraction == 0, x > 0.0) {
                (false, _) => self.nan = true,
                (true, true) => self.positive_infinity = true,
                (true, false) => self.negative_infinity = true,
            }
            return;
        }
        // The value is `significand × 2^shift` units.
        let (significand, shift) = if field == 0 { (fraction, 0) } else { (fraction | 1 << 52, field - 1) };
        let first = (shift / 64) as usize;
        let wide = u128::from(significand) << (shift % 64);
        let parts = [wide as u64, (wide >> 64) as u64];
        if x.is_sign_negative() { self.subtract_at(first, parts) } else { self.add_at(first, parts) }
    }

    fn add_at(&mut self, first: usize, [low, high]: [u64; 2]) {
        let (sum, carry) = self.limbs[first].overflowing_add(low);
        self.limbs[first] = sum;
        let (sum, c1) = self.limbs[first + 1].overflowing_add(high);
        let (sum, c2) = sum.overflowing_add(carry.into());
        self.limbs[first + 1] = sum;
        let mut carry = c1 | c2;
        for limb in &mut self.limbs[first + 2..] {
            if !carry {
                return;
            }
            (*limb, carry) = limb.overflowing_add(1);
        }
    }

    fn subtract_at(&mut self, first: usize, [low, high]: [u64; 2]) {
        let (difference, borrow) = self.limbs[first].overflowing_sub(low);
        self.limbs[first] = difference;
        let (difference, b1) = self.limbs[first + 1].overflowing_sub(high);
        let (difference, b2) = difference.overflowing_sub(borrow.into());
        self.limbs[first + 1] = difference;
        let mut borrow = b1 | b2;
        for limb in &mut self.limbs[first + 2..] {
            if !borrow {
                return;
            }
            (*limb, borrow) = limb.overflowing_sub(1);
        }
    }

    /// Adds another sum exactly.
    pub fn merge(&mut self, other: &ExactSum) {
        let mut carry = false;
        for (limb, part) in self.limbs.iter_mut().zip(&other.limbs) {
            let (sum, c1) = limb.overflowing_add(*part);
            let (sum, c2) = sum.overflowing_add(carry.into());
            *limb = sum;
            carry = c1 | c2;
        }
        self.positive_infinity |= other.positive_infinity;
        self.negative_infinity |= other.negative_infinity;
        self.nan |= other.nan;
    }

    /// The sign and the magnitude in units of 2^-1074.
    fn magnitude(&self) -> (bool, [u64; LIMBS]) {
        let negative = self.limbs[LIMBS - 1] >> 63 == 1;
        (negative, if negative { negate(self.limbs) } else { self.limbs })
    }

    /// The sum rounded once to `f64`, to nearest, ties to even. An empty or cancelled sum is +0.
    pub fn to_f64(&self) -> f64 {
        match (self.nan, self.positive_infinity, self.negative_infinity) {
            (true, ..) | (_, true, true) => return f64::NAN,
            (_, true, _) => return f64::INFINITY,
            (_, _, true) => return f64::NEG_INFINITY,
            _ => {}
        }
        let (negative, limbs) = self.magnitude();
        let bit = |i: usize| (limbs[i / 64] >> (i % 64)) & 1;
        let top = (0..LIMBS)
            .rev()
            .find(|&i| limbs[i] != 0)
            .map(|i| i * 64 + 63 - limbs[i].leading_zeros() as usize);
        let bits = match top {
            None => 0,
            // Below 2^53 units the integer is the bit pattern: subnormals and the first binade are linear.
            Some(top) if top < 53 => limbs[0],
            Some(top) => {
                let shift = top - 52;
                let low = limbs[shift / 64] >> (shift % 64);
                let next = limbs.get(shift / 64 + 1).copied().unwrap_or(0);
                let high = if shift % 64 == 0 { 0 } else { next << (64 - shift % 64) };
                let significand = (low | high) & ((1 << 53) - 1);
                let half = bit(shift - 1) == 1;
                let below = shift - 1;
                let sticky = limbs[..below / 64].iter().any(|l| *l != 0)
                    || limbs[below / 64] & ((1u64 << (below % 64)) - 1) != 0;
                let up = half && (sticky || significand & 1 == 1);
                // A carry out of the significand moves into the exponent field, which is what rounding up means.
                let bits = ((shift as u64 + 1) << 52) + (significand - (1 << 52)) + u64::from(up);
                bits.min(f64::INFINITY.to_bits())
            }
        };
        let value = f64::from_bits(bits);
        if negative { -value } else { value }
    }

    /// Canonical text, equal if and only if the sums are equal: an optional `-`, the magnitude in hexadecimal without
    /// leading or trailing zero digits, `@` and the number of trailing zero digits in hexadecimal (units of 2^-1074);
    /// `0` for zero. `+inf`, `-inf` and `nan` marks come first.
    pub fn to_hex(&self) -> String {
        let mut text = String::new();
        for (flag, mark) in
            [(self.positive_infinity, "+inf "), (self.negative_infinity, "-inf "), (self.nan, "nan ")]
        {
            if flag {
                text.push_str(mark);
            }
        }
        let (negative, limbs) = self.magnitude();
        let mut digits = String::with_capacity(LIMBS * 16);
        for limb in limbs.iter().rev() {
            // Writing to a string cannot fail.
            let _ = write!(digits, "{limb:016x}");
        }
        let significant = digits.trim_start_matches('0');
        let trimmed = significant.trim_end_matches('0');
        if trimmed.is_empty() {
            text.push('0');
        } else {
            let sign = if negative { "-" } else { "" };
            let _ = write!(text, "{sign}{trimmed}@{:x}", significant.len() - trimmed.len());
        }
        text
    }

    /// The sum that [`to_hex`](Self::to_hex) wrote; `None` for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut sum = Self::default();
        let mut rest = text;
        for (mark, flag) in [
            ("+inf ", &mut sum.positive_infinity),
            ("-inf ", &mut sum.negative_infinity),
            ("nan ", &mut sum.nan),
        ] {
            if let Some(tail) = rest.strip_prefix(mark) {
                *flag = true;
                rest = tail;
            }
        }
        if rest != "0" {
            let (negative, magnitude) = match rest.strip_prefix('-') {
                Some(tail) => (true, tail),
                None => (false, rest),
            };
            let (digits, zeros) = magnitude.split_once('@')?;
            let zeros = usize::from_str_radix(zeros, 16).ok()?;
            if digits.len().checked_add(zeros)? > LIMBS * 16 {
                return None;
            }
            for (i, digit) in digits.bytes().rev().enumerate() {
                let digit = u64::from(char::from(digit).to_digit(16)?);
                let place = zeros + i;
                sum.limbs[place / 16] |= digit << (place % 16 * 4);
            }
            if negative {
                sum.limbs = negate(sum.limbs);
            }
        }
        // One text per sum: anything that is not canonical is foreign.
        (sum.to_hex() == text).then_some(sum)
    }
}

/// Two's complement negation.
fn negate(mut limbs: [u64; LIMBS]) -> [u64; LIMBS] {
    let mut carry = true;
    for limb in &mut limbs {
        (*limb, carry) = (!*limb).overflowing_add(carry.into());
    }
    limbs
}

impl fmt::Debug for ExactSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExactSum({:e} = {})", self.to_f64(), self.to_hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut s = ExactSum::new();
        values.iter().for_each(|v| s.add(*v));
        s
    }

    #[test]
    fn known_sums_are_rounded_once() {
        for (values, expected) in [
            (&[][..], 0.0),
            (&[1e300, 1.0, -1e300], 1.0),
            (&[1e16, 1.0, 1e-30], 1e16 + 2.0),
            (&[1e16, 1.0], 1e16),
            (&[f64::MAX, f64::MAX], f64::INFINITY),
            (&[f64::MAX, f64::MAX, -f64::MAX], f64::MAX),
            (&[f64::MIN_POSITIVE, -5e-324], f64::from_bits(0x000F_FFFF_FFFF_FFFF)),
            (&[5e-324, 5e-324], 1e-323),
            (&[-5e-324], -5e-324),
            (&[0.1; 10][..], 1.0),
            (&[-1.0, f64::INFINITY], f64::INFINITY),
        ] {
            assert_eq!(sum(values).to_f64().to_bits(), f64::to_bits(expected), "{values:?}");
        }
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).to_f64().is_nan());
        assert!(sum(&[f64::NAN]).to_f64().is_nan());
    }

    #[test]
    fn text_is_canonical() {
        assert_eq!(sum(&[]).to_hex(), "0");
        assert_eq!(sum(&[5e-324]).to_hex(), "1@0");
        assert_eq!(sum(&[-1.0]).to_hex(), "-4@10c");
        assert_eq!(sum(&[f64::NAN, 5e-324]).to_hex(), "nan 1@0");
        for text in
            ["", "-", "-0", "1", "01@0", "10@0", "1@", "A@0", "1@ffff", "nan", "é@0", "1@0 ", "-inf +inf 0"]
        {
            assert_eq!(ExactSum::from_hex(text), None, "{text}");
        }
    }

    fn any_finite() -> impl Strategy<Value = f64> {
        any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |x| x.is_finite())
    }

    proptest! {
        #[test]
        fn one_value_is_itself(x in any_finite()) {
            prop_assert_eq!(sum(&[x]).to_f64(), x);
            prop_assert_eq!(sum(&[x, -x]).to_hex(), "0");
        }

        // Two terms: IEEE addition is the correctly rounded sum.
        #[test]
        fn two_values_round_like_the_hardware(x in any_finite(), y in any_finite(), near in -60i32..60) {
            prop_assert_eq!(sum(&[x, y]).to_f64(), x + y);
            let z = f64::from_bits(y.to_bits() & !(0x7FF << 52) | 1023 << 52) * 2f64.powi(near);
            prop_assert_eq!(sum(&[1.7, z]).to_f64(), 1.7 + z);
        }

        #[test]
        fn order_and_grouping_do_not_matter(values in prop::collection::vec(any_finite(), 0..40), at in 0usize..40) {
            let whole = sum(&values);
            let mut reversed = values.clone();
            reversed.reverse();
            prop_assert_eq!(&whole, &sum(&reversed));
            let (left, right) = values.split_at(at.min(values.len()));
            let mut merged = sum(right);
            merged.merge(&sum(left));
            prop_assert_eq!(&whole, &merged);
            prop_assert_eq!(ExactSum::from_hex(&whole.to_hex()), Some(whole));
        }
    }
}
