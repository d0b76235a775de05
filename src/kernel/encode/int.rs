//! Integer codes.

use super::{Encode, Put, Quantizer, quantizer, round_to_bf16};
use crate::kernel::reference::{self, Extent, UnitScale};

/// Quotients up to this magnitude are rounded by [`round_to_int`] with much to spare.
pub(in crate::kernel) const LARGEST_QUOTIENT: f32 = 1_048_576.0;

/// Codes of `Amax127`, `Amax127Bf16`, `Amax7` and `Amax7Eps`.
///
/// No clamp: under `fl(amax / 127)` a value is at most `127 (1 + 2^-23)`, and rounding that scale to BF16 makes it at
/// most 127.25; both round to 127, and likewise with 7. The floors of the rules only lower it.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct ToInt {
    scale: f32,
}

impl Encode<1> for ToInt {
    quantizer!();

    #[inline(always)]
    fn new(_setup: &Quantizer, _extent: &Extent, unit: &UnitScale) -> Option<Self> {
        Some(Self { scale: unit.divisor })
    }

    #[inline(always)]
    fn factor(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn with(self, factor: f32, _zero: f32) -> Self {
        Self { scale: factor }
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<1> {
        let t = x / self.scale;
        let k = round_to_int(t);
        let q = k as f32;
        Put { code: [k as u8], t, e: t - q, saturated: false }
    }
}

/// Codes of `Amax7Half`, `Amax127Half` and `Ssz7`.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct ToIntClamped {
    scale: f32,
    low: i32,
    high: i32,
}

impl Encode<1> for ToIntClamped {
    quantizer!();

    const SATURATES: bool = true;

    #[inline(always)]
    fn new(setup: &Quantizer, extent: &Extent, unit: &UnitScale) -> Option<Self> {
        let [low, high] = bounds(setup);
        // A scale that is stored in F16 may be far too small.
        let fits = extent.amax / unit.divisor < LARGEST_QUOTIENT;
        fits.then_some(Self { scale: unit.divisor, low, high })
    }

    #[inline(always)]
    fn factor(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn with(self, factor: f32, _zero: f32) -> Self {
        Self { scale: factor, ..self }
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<1> {
        let t = x / self.scale;
        clamped(t, t, self.low, self.high)
    }
}

/// Codes of `Ct127Bf16` and `Ct7Bf16`.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct ToIntCt {
    scale: f32,
    low: i32,
    high: i32,
}

impl Encode<1> for ToIntCt {
    quantizer!();

    const SATURATES: bool = true;

    #[inline(always)]
    fn new(setup: &Quantizer, extent: &Extent, unit: &UnitScale) -> Option<Self> {
        let [low, high] = bounds(setup);
        // Beyond 2^127 rounding to BF16 can overflow, which the reference handles.
        (extent.amax < f32::from_bits(254 << 23)).then_some(Self { scale: unit.divisor, low, high })
    }

    #[inline(always)]
    fn factor(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn with(self, factor: f32, _zero: f32) -> Self {
        Self { scale: factor, ..self }
    }

    #[inline(always)]
    fn put(self, x: f32, fits_bf16: bool) -> Put<1> {
        let t = x / self.scale;
        let y = round_to_bf16(if fits_bf16 { t } else { round_to_bf16(x) / self.scale });
        clamped(t, y, self.low, self.high)
    }
}

/// Codes of `MinMax15`.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct ToIntZero {
    scale: f32,
    zero: f32,
}

impl Encode<1> for ToIntZero {
    quantizer!();

    const SATURATES: bool = true;
    const RANGE: bool = true;

    #[inline(always)]
    fn new(_setup: &Quantizer, extent: &Extent, unit: &UnitScale) -> Option<Self> {
        let fits = extent.amax / unit.divisor < LARGEST_QUOTIENT;
        fits.then_some(Self { scale: unit.divisor, zero: unit.zero.into() })
    }

    #[inline(always)]
    fn factor(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn with(self, factor: f32, zero: f32) -> Self {
        Self { scale: factor, zero }
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<1> {
        let t = x / self.scale;
        let rounded = round_to_int(t + self.zero);
        let k = rounded.clamp(-8, 7);
        let q = k as f32 - self.zero;
        Put { code: [k as u8], t, e: t - q, saturated: k != rounded }
    }
}

/// The smallest and the largest code.
#[inline(always)]
fn bounds(setup: &Quantizer) -> [i32; 2] {
    let [low, high] = reference::code_bounds(setup.scheme.rule);
    [low as i32, high as i32]
}

/// The code of `y` as that of `t`.
#[inline(always)]
fn clamped(t: f32, y: f32, low: i32, high: i32) -> Put<1> {
    let rounded = round_to_int(y);
    // On the integer, because clamps of floats do not vectorize.
    let k = rounded.max(low).min(high);
    let q = k as f32;
    Put { code: [k as u8], t, e: t - q, saturated: k != rounded }
}

/// `t` of magnitude below 2^22 rounded to an integer, to nearest, ties to even. The sum with 1.5 · 2^23 has no bits for
/// a fraction, and its low bits are the integer. (SSE2 has no rounding instruction.)
#[inline(always)]
pub(in crate::kernel) fn round_to_int(t: f32) -> i32 {
    const SHIFTER: f32 = 12_582_912.0;
    (t + SHIFTER).to_bits().wrapping_sub(SHIFTER.to_bits()) as i32
}
