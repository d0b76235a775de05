//! Codes of small floats.

use super::{Encode, Put, Quantizer, quantizer};
use crate::kernel::reference::{Extent, UnitScale};

/// A division by a scale. With `POW2` it is a multiplication by the reciprocal of a power of two, 2^-127 to 2^127: the
/// reciprocal is a number, and both operations round the same real number once.
#[derive(Clone, Copy)]
struct Divide<const POW2: bool>(f32);

impl<const POW2: bool> Divide<POW2> {
    #[inline(always)]
    fn by(scale: f32) -> Self {
        Self(if POW2 { 1.0 / scale } else { scale })
    }

    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        if POW2 { x * self.0 } else { x / self.0 }
    }
}

/// Codes of E4M3; `POW2` for rules whose scales are powers of two, `AWAY` for ties away from zero.
///
/// Under `fl(amax / 448)` or a larger scale a value is at most `448 (1 + 2^-23)`, which rounds to 448; a smaller scale
/// makes the clamp matter.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct ToE4m3<const POW2: bool, const AWAY: bool = false> {
    divide: Divide<POW2>,
}

impl<const POW2: bool, const AWAY: bool> Encode<1> for ToE4m3<POW2, AWAY> {
    quantizer!();

    // No rule with other scales leads beyond 448.
    const SATURATES: bool = POW2;

    #[inline(always)]
    fn new(_setup: &Quantizer, extent: &Extent, unit: &UnitScale) -> Option<Self> {
        let fits = POW2 || extent.amax / unit.divisor < 464.0;
        fits.then_some(Self { divide: Divide::by(unit.divisor) })
    }

    #[inline(always)]
    fn factor(self) -> f32 {
        self.divide.0
    }

    #[inline(always)]
    fn with(self, factor: f32, _zero: f32) -> Self {
        Self { divide: Divide(factor) }
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<1> {
        let t = self.divide.apply(x).abs();
        let a = if POW2 && t > 448.0 { 448.0 } else { t };
        let Rounded { code, q } = round::<3, 7, AWAY>(a);
        let sign = (x.to_bits() >> 24) & 0x80;
        Put { code: [(code | sign) as u8], t, e: t - q, saturated: if AWAY { t >= 464.0 } else { t > 464.0 } }
    }
}

/// Codes of E2M1; `POW2` and `AWAY` as for [`ToE4m3`].
#[derive(Clone, Copy)]
pub(in crate::kernel) struct ToE2m1<const POW2: bool, const AWAY: bool = false> {
    divide: Divide<POW2>,
}

impl<const POW2: bool, const AWAY: bool> Encode<1> for ToE2m1<POW2, AWAY> {
    quantizer!();

    const SATURATES: bool = true;

    #[inline(always)]
    fn new(_setup: &Quantizer, _extent: &Extent, unit: &UnitScale) -> Option<Self> {
        Some(Self { divide: Divide::by(unit.divisor) })
    }

    #[inline(always)]
    fn factor(self) -> f32 {
        self.divide.0
    }

    #[inline(always)]
    fn with(self, factor: f32, _zero: f32) -> Self {
        Self { divide: Divide(factor) }
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<1> {
        let t = self.divide.apply(x).abs();
        let a = if t > 6.0 { 6.0 } else { t };
        let Rounded { code, q } = round::<1, 1, AWAY>(a);
        // Zero has no sign.
        let sign = if x < 0.0 { 8 } else { 0 };
        Put { code: [(code | sign) as u8], t, e: t - q, saturated: t >= 7.0 }
    }
}

/// [`round_to_minifloat`], with ties away from zero if `AWAY`.
#[inline(always)]
fn round<const MANTISSA: u32, const BIAS: u32, const AWAY: bool>(a: f32) -> Rounded {
    let Rounded { code, q } = round_to_minifloat::<MANTISSA, BIAS>(a);
    if !AWAY {
        return Rounded { code, q };
    }
    // What a tie lost is half a step in the binade of `a`, which is at least that of the smallest normal. Only then does
    // the code move on; below the largest value, so that the next code is the next value.
    let smallest = f32::from_bits((127 + 1 - BIAS) << 23);
    let raised = if a > smallest { a } else { smallest };
    let step = f32::from_bits((raised.to_bits() & 0x7F80_0000) - (MANTISSA << 23));
    let is_tie = a - q == step / 2.0;
    Rounded { code: code + u32::from(is_tie), q: if is_tie { q + step } else { q } }
}

/// A magnitude rounded to a small float: its code without sign, and its value.
pub(super) struct Rounded {
    pub(super) code: u32,
    pub(super) q: f32,
}

/// `a ≥ 0`, which must round to a finite value, rounded to a float of `MANTISSA` mantissa bits and exponent bias `BIAS`,
/// to nearest, ties to even.
///
/// With `2^e` the binade of `a`, raised to that of the smallest normal for subnormals, the sum `a + 2^(e + 23 − MANTISSA)`
/// has the last place of the small float, so the addition does the rounding; the sum's low bits are the significand.
#[inline(always)]
pub(super) fn round_to_minifloat<const MANTISSA: u32, const BIAS: u32>(a: f32) -> Rounded {
    let smallest_normal = (127 + 1 - BIAS) << 23;
    let smallest = f32::from_bits(smallest_normal);
    let raised = if a > smallest { a } else { smallest };
    let binade = raised.to_bits() & 0x7F80_0000;
    let shifter = f32::from_bits(binade + ((23 - MANTISSA) << 23));
    let sum = a + shifter;
    // The significand includes the implied one, so the exponent field counts from 0 at the smallest normal; a carry out
    // of the significand moves into it.
    let significand = sum.to_bits().wrapping_sub(shifter.to_bits());
    let exponent = (binade - smallest_normal) >> (23 - MANTISSA);
    Rounded { code: significand + exponent, q: sum - shifter }
}
