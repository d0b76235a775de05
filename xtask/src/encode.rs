//! Encoders of the element formats that the fixtures store. Written apart from silicast's own, on purpose.

/// BF16 bits of `x`, rounded to nearest even. `x` is finite.
pub fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The value of BF16 bits.
pub fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// F16 bits of `x`, rounded to nearest even. `|x|` is below 65504.
pub fn f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude < 0x3880_0000 {
        // Below 2^-14: a multiple of 2^-24. The product is exact and rounding 1024 up gives the first normal code.
        return sign | (f32::from_bits(magnitude) * 16_777_216.0).round_ties_even() as u16;
    }
    let rounded = magnitude + 0x0fff + ((magnitude >> 13) & 1);
    sign | ((rounded >> 13) - (112 << 10)) as u16
}

/// The value of F16 bits that are neither infinite nor NaN.
pub fn f16_value(bits: u16) -> f32 {
    let sign = if bits & 0x8000 != 0 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = (u32::from(bits >> 10) & 31, u32::from(bits & 0x3ff));
    let magnitude = if exponent == 0 {
        mantissa as f32 / 16_777_216.0
    } else {
        f32::from_bits(((exponent + 112) << 23) | (mantissa << 13))
    };
    sign * magnitude
}

/// The E4M3 (FN) code of `x` clamped to ±448, rounded to nearest even; never a NaN code.
pub fn e4m3(x: f32) -> u8 {
    let bits = x.to_bits();
    let sign = ((bits >> 24) & 0x80) as u8;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    if magnitude >= 448.0 {
        return sign | 0x7e;
    }
    if magnitude < 0.015_625 {
        // Below 2^-6: a multiple of 2^-9.
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let rounded = magnitude.to_bits() + 0x0007_ffff + ((magnitude.to_bits() >> 20) & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
}

/// The value of an E4M3 (FN) code that is not NaN.
pub fn e4m3_value(code: u8) -> f32 {
    let sign = if code & 0x80 != 0 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = (u32::from(code >> 3) & 15, u32::from(code & 7));
    let magnitude = if exponent == 0 {
        mantissa as f32 / 512.0
    } else {
        f32::from_bits(((exponent + 120) << 23) | (mantissa << 20))
    };
    sign * magnitude
}

/// The smallest power of two that is at least `s`, by DeepSeek's bit rule. `s` is a positive normal number.
pub fn pow2_ceil(s: f32) -> f32 {
    let bits = s.to_bits();
    let exponent = (bits >> 23) + u32::from(bits & 0x007f_ffff != 0);
    f32::from_bits(exponent.clamp(1, 254) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e4m3_picks_the_nearest_value_and_the_even_code_on_a_tie() {
        for code in 0..0x7eu8 {
            let (low, high) = (e4m3_value(code), e4m3_value(code + 1));
            assert!(low < high, "{code:#x}");
            assert_eq!(e4m3(low), code);
            assert_eq!(e4m3(-low), code | 0x80);
            let middle = (low + high) / 2.0;
            assert_eq!(e4m3(middle), code + (code & 1), "{code:#x}");
            assert_eq!(e4m3(f32::from_bits(middle.to_bits() - 1)), code);
            assert_eq!(e4m3(f32::from_bits(middle.to_bits() + 1)), code + 1);
        }
        assert_eq!((e4m3_value(1), e4m3_value(0x08), e4m3_value(0x7e)), (0.001_953_125, 0.015_625, 448.0));
        assert_eq!((e4m3(1e9), e4m3(-1e9)), (0x7e, 0xfe));
    }

    #[test]
    fn f16_and_bf16_pick_the_nearest_value_and_the_even_code_on_a_tie() {
        for code in 0..0x7bffu16 {
            let (low, high) = (f16_value(code), f16_value(code + 1));
            let middle = (low + high) / 2.0;
            assert_eq!((f16(low), f16(middle)), (code, code + (code & 1)), "{code:#x}");
            assert_eq!(f16(f32::from_bits(middle.to_bits() + 1)), code + 1);
        }
        assert_eq!((f16(1.0), f16(-2.0), f16(65_504.0)), (0x3c00, 0xc000, 0x7bff));
        for code in 0x0080..0x7f7eu16 {
            let (low, high) = (bf16_value(code), bf16_value(code + 1));
            let middle = low + (high - low) / 2.0;
            assert_eq!((bf16(low), bf16(middle)), (code, code + (code & 1)), "{code:#x}");
        }
    }

    #[test]
    fn powers_of_two_round_up() {
        assert_eq!(pow2_ceil(1.0), 1.0);
        assert_eq!(pow2_ceil(1.000_000_1), 2.0);
        assert_eq!(pow2_ceil(1e-4 / 448.0), 2.0f32.powi(-22));
    }
}
