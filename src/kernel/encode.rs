//! Sinks of the fast kernels: finite values to codes or plain floats, without branches.

use super::reference::{self, NORMALIZER_RANGE};
use crate::dtype::scheme::Rule;

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

/// A sink of `M`-byte elements, set up for one unit.
pub(super) trait Encode<const M: usize>: Copy {
    /// What the sink needs besides the unit's magnitude.
    type Setup: Copy;

    /// Whether values can saturate.
    const SATURATES: bool = false;

    /// The encoder of a unit whose values are finite with largest magnitude `amax`, and the unit's normalizer (the scale
    /// of a quantized unit). `None` for magnitudes that are left to the reference.
    fn new(setup: Self::Setup, amax: f32) -> Option<(Self, f32)>;

    /// Converts a value; `fits_bf16` says that it is exact in BF16.
    fn put(self, x: f32, fits_bf16: bool) -> Put<M>;
}

/// Cast to bfloat16.
#[derive(Clone, Copy)]
pub(super) struct ToBf16;

impl Encode<2> for ToBf16 {
    type Setup = ();

    #[inline(always)]
    fn new((): (), amax: f32) -> Option<(Self, f32)> {
        squares_fit(amax).then_some((Self, 1.0))
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
    type Setup = ();

    #[inline(always)]
    fn new((): (), amax: f32) -> Option<(Self, f32)> {
        // 65520 is halfway to the next value and rounds to infinity.
        (squares_fit(amax) && amax < 65520.0).then_some((Self, 1.0))
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
    type Setup = ();

    #[inline(always)]
    fn new((): (), amax: f32) -> Option<(Self, f32)> {
        squares_fit(amax).then_some((Self, 1.0))
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<4> {
        Put { code: x.to_le_bytes(), t: x, e: 0.0, saturated: false }
    }
}

/// Codes of `Amax127` and `Amax127Bf16`.
///
/// No clamp: under `fl(amax / 127)` a value is at most `127 (1 + 2^-23)`, and rounding that scale to BF16 makes it at
/// most 127.25; both round to 127. The floors of the rules only lower it.
#[derive(Clone, Copy)]
pub(super) struct ToInt8 {
    scale: f32,
}

impl Encode<1> for ToInt8 {
    type Setup = Rule;

    #[inline(always)]
    fn new(rule: Rule, amax: f32) -> Option<(Self, f32)> {
        let scale = reference::scale(rule, amax);
        Some((Self { scale }, scale))
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<1> {
        let t = x / self.scale;
        let k = round_to_int(t);
        let q = k as f32;
        Put { code: [k as u8], t, e: t - q, saturated: false }
    }
}

/// Codes of `Ct127Bf16`.
#[derive(Clone, Copy)]
pub(super) struct ToInt8Ct {
    scale: f32,
}

impl Encode<1> for ToInt8Ct {
    type Setup = Rule;

    const SATURATES: bool = true;

    #[inline(always)]
    fn new(rule: Rule, amax: f32) -> Option<(Self, f32)> {
        let scale = reference::scale(rule, amax);
        // Beyond 2^127 rounding to BF16 can overflow, which the reference handles.
        (amax < f32::from_bits(254 << 23)).then_some((Self { scale }, scale))
    }

    #[inline(always)]
    fn put(self, x: f32, fits_bf16: bool) -> Put<1> {
        let t = x / self.scale;
        let y = round_to_bf16(if fits_bf16 { t } else { round_to_bf16(x) / self.scale });
        let rounded = round_to_int(y);
        // On the integer, because clamps of floats do not vectorize.
        let k = rounded.clamp(-128, 127);
        let q = k as f32;
        Put { code: [k as u8], t, e: t - q, saturated: k != rounded }
    }
}

/// Codes of `Amax448` and `DeepseekUe8m0`.
///
/// No clamp: under `fl(amax / 448)` or a larger scale a value is at most `448 (1 + 2^-23)`, which rounds to 448.
#[derive(Clone, Copy)]
pub(super) struct ToE4m3 {
    scale: f32,
}

impl Encode<1> for ToE4m3 {
    type Setup = Rule;

    #[inline(always)]
    fn new(rule: Rule, amax: f32) -> Option<(Self, f32)> {
        let scale = reference::scale(rule, amax);
        Some((Self { scale }, scale))
    }

    #[inline(always)]
    fn put(self, x: f32, _fits_bf16: bool) -> Put<1> {
        let t = (x / self.scale).abs();
        let Rounded { code, q } = round_to_minifloat::<3, 7>(t);
        let sign = (x.to_bits() >> 24) & 0x80;
        Put { code: [(code | sign) as u8], t, e: t - q, saturated: false }
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

/// `t` of magnitude below 2^22 rounded to an integer, to nearest, ties to even. The sum with 1.5 · 2^23 has no bits for
/// a fraction, and its low bits are the integer. (SSE2 has no rounding instruction.)
#[inline(always)]
fn round_to_int(t: f32) -> i32 {
    const SHIFTER: f32 = 12_582_912.0;
    (t + SHIFTER).to_bits().wrapping_sub(SHIFTER.to_bits()) as i32
}

/// A magnitude rounded to a small float: its code without sign, and its value.
struct Rounded {
    code: u32,
    q: f32,
}

/// `a ≥ 0`, which must round to a finite value, rounded to a float of `MANTISSA` mantissa bits and exponent bias `BIAS`,
/// to nearest, ties to even.
///
/// With `2^e` the binade of `a`, raised to that of the smallest normal for subnormals, the sum `a + 2^(e + 23 − MANTISSA)`
/// has the last place of the small float, so the addition does the rounding; the sum's low bits are the significand.
#[inline(always)]
fn round_to_minifloat<const MANTISSA: u32, const BIAS: u32>(a: f32) -> Rounded {
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
