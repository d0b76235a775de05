//! Sinks of the fast kernels: finite values to codes or plain floats, without branches.

mod int;
mod minifloat;

pub(super) use int::{LARGEST_QUOTIENT, ToInt, ToIntClamped, ToIntCt, ToIntZero, round_to_int};
pub(super) use minifloat::{ToE2m1, ToE4m3};

use super::reference::{self, Extent, NORMALIZER_RANGE, UnitScale};
use crate::dtype::scheme::Scheme;
use minifloat::{Rounded, round_to_minifloat};

/// One converted value.
pub(super) struct Put<const M: usize> {
    /// The stored bytes.
    pub(super) code: [u8; M],
    /// The value over the unit's normalizer, or its magnitude.
    pub(super) t: f32,
    /// The normalized error, up to its sign.
    pub(super) e: f32,
    /// Whether the code's range clamped the value.
    pub(super) saturated: bool,
}

/// What scales are made by.
#[derive(Clone, Copy)]
pub(super) struct Quantizer {
    pub(super) scheme: Scheme,
    pub(super) global: f32,
}

impl Quantizer {
    /// The scale of a unit whose values are finite; `None` where it takes all of them.
    pub(super) fn scale(&self, extent: &Extent) -> Option<UnitScale> {
        reference::scale(&self.scheme, self.global, extent)
    }

    /// The scale of a unit with these values.
    pub(super) fn search(&self, extent: &Extent, values: &[f32]) -> UnitScale {
        reference::search(&self.scheme, extent, values)
    }
}

/// A sink of `M`-byte elements, set up for one unit.
pub(super) trait Encode<const M: usize>: Copy {
    /// What the sink needs besides the unit's values.
    type Setup: Copy;

    /// Whether values can saturate.
    const SATURATES: bool = false;

    /// Whether the scale depends on the smallest and the largest value.
    const RANGE: bool = false;

    /// The scale of a unit whose values are finite (1 for casts); `None` where it takes all of the values.
    fn scale(setup: &Self::Setup, extent: &Extent) -> Option<UnitScale>;

    /// The scale of a unit for which [`Encode::scale`] has none.
    fn search(setup: &Self::Setup, extent: &Extent, values: &[f32]) -> UnitScale;

    /// The encoder of a unit, whose normalizer is the scale's divisor. `None` for magnitudes that are left to the
    /// reference.
    fn new(setup: &Self::Setup, extent: &Extent, unit: &UnitScale) -> Option<Self>;

    /// What values are divided by, or multiplied with where that gives the same.
    fn factor(self) -> f32;

    /// The encoder of another unit, with its factor and zero point.
    fn with(self, factor: f32, zero: f32) -> Self;

    /// Converts a value; `fits_bf16` says that it is exact in BF16.
    fn put(self, x: f32, fits_bf16: bool) -> Put<M>;
}

/// What every encoder of codes has in common.
macro_rules! quantizer {
    () => {
        type Setup = Quantizer;

        #[inline(always)]
        fn scale(setup: &Quantizer, extent: &Extent) -> Option<UnitScale> {
            setup.scale(extent)
        }

        fn search(setup: &Quantizer, extent: &Extent, values: &[f32]) -> UnitScale {
            setup.search(extent, values)
        }
    };
}
use quantizer;

/// What every cast has in common.
macro_rules! cast {
    () => {
        type Setup = ();

        #[inline(always)]
        fn scale((): &(), _extent: &Extent) -> Option<UnitScale> {
            Some(UnitScale::of(1.0))
        }

        fn search((): &(), _extent: &Extent, _values: &[f32]) -> UnitScale {
            UnitScale::of(1.0)
        }

        #[inline(always)]
        fn factor(self) -> f32 {
            1.0
        }

        #[inline(always)]
        fn with(self, _factor: f32, _zero: f32) -> Self {
            self
        }
    };
}

/// Cast to bfloat16.
#[derive(Clone, Copy)]
pub(super) struct ToBf16;

impl Encode<2> for ToBf16 {
    cast!();

    #[inline(always)]
    fn new((): &(), extent: &Extent, _unit: &UnitScale) -> Option<Self> {
        squares_fit(extent.amax).then_some(Self)
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<2> {
        let q = round_to_bf16(x);
        Put { code: ((q.to_bits() >> 16) as u16).to_le_bytes(), t: x, e: x - q, saturated: false }
    }
}

/// Cast to binary16.
#[derive(Clone, Copy)]
pub(super) struct ToF16;

impl Encode<2> for ToF16 {
    cast!();

    #[inline(always)]
    fn new((): &(), extent: &Extent, _unit: &UnitScale) -> Option<Self> {
        // 65520 is halfway to the next value and rounds to infinity.
        (squares_fit(extent.amax) && extent.amax < 65520.0).then_some(Self)
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<2> {
        let a = x.abs();
        let Rounded { code, q } = round_to_minifloat::<10, 15>(a);
        let sign = (x.to_bits() >> 16) & 0x8000;
        Put { code: ((code | sign) as u16).to_le_bytes(), t: a, e: a - q, saturated: false }
    }
}

/// Cast to binary32.
#[derive(Clone, Copy)]
pub(super) struct ToF32;

impl Encode<4> for ToF32 {
    cast!();

    #[inline(always)]
    fn new((): &(), extent: &Extent, _unit: &UnitScale) -> Option<Self> {
        squares_fit(extent.amax).then_some(Self)
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<4> {
        Put { code: x.to_le_bytes(), t: x, e: 0.0, saturated: false }
    }
}

/// Whether a row of casts has the normalizer 1; BF16 does not overflow in this range.
#[inline(always)]
fn squares_fit(amax: f32) -> bool {
    let [low, high] = NORMALIZER_RANGE;
    amax == 0.0 || (amax >= low && amax < high)
}

/// A finite `x` rounded to BF16, to nearest, ties to even.
#[inline(always)]
fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000)
}
