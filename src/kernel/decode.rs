//! Source formats of the fast kernels: finite codes to values without branches, and largest magnitudes without decoding.

use super::stats::LANES;

/// A source format of `N`-byte elements.
pub(super) trait Decode<const N: usize>: Copy {
    /// An integer that orders elements by magnitude.
    type Magnitude: Copy + Ord + Default;

    /// Whether every value is exact in BF16.
    const FITS_BF16: bool = false;

    /// Whether elements have a scale.
    const SCALED: bool = false;

    /// The magnitude; that of a NaN or an infinity is larger than every finite one.
    fn magnitude(element: [u8; N]) -> Self::Magnitude;

    /// The absolute value of a magnitude without its scale; not finite for a NaN or an infinity.
    fn absolute(magnitude: Self::Magnitude) -> f32;

    /// The value of a finite element; plain floats ignore the scale.
    fn value(element: [u8; N], scale: f32) -> f32;
}

/// bfloat16.
#[derive(Clone, Copy)]
pub(super) struct Bf16;

impl Decode<2> for Bf16 {
    // Signed, because SSE2 has a signed maximum only.
    type Magnitude = i16;

    const FITS_BF16: bool = true;

    #[inline(always)]
    fn magnitude(element: [u8; 2]) -> i16 {
        i16::from_le_bytes(element) & 0x7FFF
    }

    #[inline(always)]
    fn absolute(magnitude: i16) -> f32 {
        f32::from_bits((magnitude as u32) << 16)
    }

    #[inline(always)]
    fn value(element: [u8; 2], _scale: f32) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(element)) << 16)
    }
}

/// binary16.
#[derive(Clone, Copy)]
pub(super) struct F16;

impl Decode<2> for F16 {
    type Magnitude = i16;

    #[inline(always)]
    fn magnitude(element: [u8; 2]) -> i16 {
        i16::from_le_bytes(element) & 0x7FFF
    }

    #[inline(always)]
    fn absolute(magnitude: i16) -> f32 {
        if magnitude >= 0x7C00 { f32::INFINITY } else { Self::value(magnitude.to_le_bytes(), 1.0) }
    }

    #[inline(always)]
    fn value(element: [u8; 2], _scale: f32) -> f32 {
        // The sign is extended over the bits that the exponent's upper part would take, and masked to one bit.
        let bits = (i32::from(i16::from_le_bytes(element)) << 13) as u32 & 0x8FFF_E000;
        f32::from_bits(bits) * power_of_two(127 - 15)
    }
}

/// binary32.
#[derive(Clone, Copy)]
pub(super) struct F32;

impl Decode<4> for F32 {
    type Magnitude = i32;

    #[inline(always)]
    fn magnitude(element: [u8; 4]) -> i32 {
        i32::from_le_bytes(element) & 0x7FFF_FFFF
    }

    #[inline(always)]
    fn absolute(magnitude: i32) -> f32 {
        f32::from_bits(magnitude as u32)
    }

    #[inline(always)]
    fn value(element: [u8; 4], _scale: f32) -> f32 {
        f32::from_le_bytes(element)
    }
}

/// Scaled int8.
#[derive(Clone, Copy)]
pub(super) struct Int8;

impl Decode<1> for Int8 {
    type Magnitude = u8;

    const SCALED: bool = true;

    #[inline(always)]
    fn magnitude([code]: [u8; 1]) -> u8 {
        (code as i8).unsigned_abs()
    }

    #[inline(always)]
    fn absolute(magnitude: u8) -> f32 {
        magnitude.into()
    }

    #[inline(always)]
    fn value([code]: [u8; 1], scale: f32) -> f32 {
        f32::from(code as i8) * scale
    }
}

/// A scaled FP8 format: `MANTISSA` mantissa bits, exponent bias `BIAS`, `FIRST_NON_FINITE` the first magnitude code that
/// is an infinity or NaN, or 0x80 for the FNUZ formats, whose negative zero is the NaN.
#[derive(Clone, Copy)]
pub(super) struct Fp8<const MANTISSA: u32, const BIAS: u32, const FIRST_NON_FINITE: u8>;

pub(super) type E4m3 = Fp8<3, 7, 0x7F>;
pub(super) type E5m2 = Fp8<2, 15, 0x7C>;
pub(super) type E4m3Fnuz = Fp8<3, 8, 0x80>;
pub(super) type E5m2Fnuz = Fp8<2, 16, 0x80>;

impl<const MANTISSA: u32, const BIAS: u32, const FIRST_NON_FINITE: u8> Decode<1>
    for Fp8<MANTISSA, BIAS, FIRST_NON_FINITE>
{
    type Magnitude = u8;

    const SCALED: bool = true;

    #[inline(always)]
    fn magnitude([code]: [u8; 1]) -> u8 {
        let negative_zero_is_nan = FIRST_NON_FINITE == 0x80;
        if negative_zero_is_nan && code == 0x80 { 0x80 } else { code & 0x7F }
    }

    #[inline(always)]
    fn absolute(magnitude: u8) -> f32 {
        if magnitude >= FIRST_NON_FINITE { f32::INFINITY } else { Self::value([magnitude], 1.0) }
    }

    #[inline(always)]
    fn value([code]: [u8; 1], scale: f32) -> f32 {
        // The code's exponent and mantissa land on those of `f32`, subnormals included, with a bias that is too small by
        // a constant: the product with a power of two is exact. The extended sign is masked to one bit.
        let shift = 23 - MANTISSA;
        let bits = (i32::from(code as i8) << shift) as u32 & (0x8000_0000 | 0x7F << shift);
        f32::from_bits(bits) * power_of_two(127 - BIAS) * scale
    }
}

/// `2^exponent`.
#[inline(always)]
const fn power_of_two(exponent: u32) -> f32 {
    f32::from_bits((127 + exponent) << 23)
}

/// The largest magnitude of `elements`; that of zero for none.
#[inline(always)]
pub(super) fn largest<D: Decode<N>, const N: usize>(elements: &[[u8; N]]) -> D::Magnitude {
    // A loop of unknown length is vectorized for long slices only.
    if elements.len() >= 128 {
        let mut largest = D::Magnitude::default();
        for element in elements {
            let magnitude = D::magnitude(*element);
            largest = if magnitude > largest { magnitude } else { largest };
        }
        return largest;
    }
    let (steps, rest) = elements.as_chunks::<LANES>();
    let mut largest = D::Magnitude::default();
    for step in steps {
        let magnitude = largest_of_step(step.map(|element| D::magnitude(element)));
        largest = if magnitude > largest { magnitude } else { largest };
    }
    for element in rest {
        let magnitude = D::magnitude(*element);
        largest = if magnitude > largest { magnitude } else { largest };
    }
    largest
}

/// The largest magnitude of one step.
#[inline(always)]
pub(super) fn largest_of_step<T: Copy + Ord>(mut lanes: [T; LANES]) -> T {
    // Halves, so that the comparisons stay in vectors.
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
        half /= 2;
    }
    lanes[0]
}
