//! E8M0 scales: powers of two without sign and zero. How to round to one is a choice, so it is never implicit.

/// The NaN code.
const NAN: u8 = 0xFF;

/// The nearest E8M0 code, as torch and `ml_dtypes` round: up from a significand of 1.5.
///
/// Anything in (2^-127, 2^-126) gives 2^-126, as theirs does. Zero, negative and non-finite values, and values from
/// 1.5 · 2^127 on, give NaN (0xFF). **Never a scale rule by itself:** rounded down, a scale overflows its block.
pub fn e8m0_nearest(x: f32) -> u8 {
    round(x, 0x40_0000)
}

/// The code of the smallest power of two that is not below `x`.
///
/// Zero, negative and non-finite values, and values above 2^127, give NaN (0xFF).
pub fn e8m0_up(x: f32) -> u8 {
    round(x, 0x7F_FFFF)
}

/// Adds `increment` below the exponent field and keeps the exponent field.
fn round(x: f32, increment: u32) -> u8 {
    let bits = x.to_bits();
    match bits {
        // Up to 2^-127, the smallest value; it is subnormal, so its own increment would carry.
        1..=0x40_0000 => 0,
        // At most 254 carries into 255, which is NaN.
        0x40_0001..0x7F80_0000 => ((bits + increment) >> 23) as u8,
        _ => NAN,
    }
}

/// As [`e8m0_nearest`], but zero gives the smallest and positive overflow the largest code.
pub(super) fn saturating(x: f32) -> u8 {
    let largest = f32::from_bits(0x7F00_0000);
    if x == 0.0 {
        0
    } else if x > largest {
        0xFE
    } else {
        e8m0_nearest(x)
    }
}

#[cfg(test)]
mod tests {
    use super::super::f32_from_e8m0;
    use super::*;

    #[test]
    fn up_is_the_smallest_code_not_below() {
        for i in 0..1u32 << 20 {
            let x = f32::from_bits(i.wrapping_mul(0x9E37_79B1) & 0x7FFF_FFFF);
            let code = e8m0_up(x);
            if !(x > 0.0 && x <= f32_from_e8m0(254)) {
                assert_eq!(code, NAN, "{x:e}");
                continue;
            }
            assert!(f32_from_e8m0(code) >= x, "{x:e}");
            assert!(code == 0 || f32_from_e8m0(code - 1) < x, "{x:e}");
        }
    }

    #[test]
    fn powers_of_two_are_kept_and_their_neighbours_round_as_named() {
        for code in 0..=254u8 {
            let x = f32_from_e8m0(code);
            let above = f32::from_bits(x.to_bits() + 1);
            assert_eq!((e8m0_nearest(x), e8m0_up(x)), (code, code));
            assert_eq!(e8m0_up(above), code + 1);
            assert_eq!(e8m0_nearest(above), if code == 0 { 1 } else { code });
            if (1..254).contains(&code) {
                assert_eq!(e8m0_nearest(x * 1.5), code + 1);
                assert_eq!(e8m0_nearest(f32::from_bits((x * 1.5).to_bits() - 1)), code);
            }
        }
        for x in [0.0, -0.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!((e8m0_nearest(x), e8m0_up(x)), (NAN, NAN), "{x}");
        }
        assert_eq!((saturating(0.0), saturating(f32::INFINITY), saturating(f32::MAX)), (0, 0xFE, 0xFE));
        assert_eq!((saturating(-1.0), saturating(f32::NEG_INFINITY), saturating(f32::NAN)), (NAN, NAN, NAN));
    }
}
