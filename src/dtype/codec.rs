//! Codes to values and back.
//!
//! A code is the bit pattern of one element, right-aligned in a `u32`. Every conversion is derived from the definition of
//! the format (exponent bits, mantissa bits, bias, special codes), is pure and total, and never panics: bits of a code
//! above the format's width are ignored. Decoding is exact. Encoding rounds to nearest, ties to even; HiF8 and E8M0 say
//! otherwise.
//!
//! There are two encodings, because libraries disagree on what does not fit:
//!
//! - [`encode_saturating`] clamps finite and infinite overflow to the largest finite value of its sign.
//! - [`encode_ieee`] gives infinity, or NaN where the format has no infinity, as `ml_dtypes` and `en_dtypes` do.
//!
//! NaN becomes the format's NaN. Formats without one get what `ml_dtypes` writes: FP4 and FP6 the code of zero with the
//! opposite sign (NaN → 0x8 or 0x20, the code of −0.0), integers 0.

mod e8m0;
mod hif8;
mod hot;
mod int;
mod minifloat;

pub use e8m0::{e8m0_nearest, e8m0_up};
pub use hot::{
    bf16_from_f32, e4m3_from_f32_clamped, e8m0_from_pow2, f16_from_f32, f32_from_bf16, f32_from_e4m3,
    f32_from_e8m0, f32_from_f16,
};

use super::Dtype;
use int::Int;
use minifloat::{Minifloat, Specials};

/// How the codes of a format are to be read.
#[derive(Clone, Copy)]
enum Codec {
    Mini(Minifloat),
    Int(Int),
    Hif8,
    E8m0,
    Bf16,
    F16,
    F32,
    /// 64 bits wide: no 32-bit code exists.
    Wide,
}

const fn codec(dtype: Dtype) -> Codec {
    match dtype {
        Dtype::I2 => Codec::Int(Int::signed(2)),
        Dtype::I4 => Codec::Int(Int::signed(4)),
        Dtype::U4 => Codec::Int(Int::unsigned(4)),
        Dtype::I8 => Codec::Int(Int::signed(8)),
        Dtype::U8 => Codec::Int(Int::unsigned(8)),
        Dtype::I16 => Codec::Int(Int::signed(16)),
        Dtype::U16 => Codec::Int(Int::unsigned(16)),
        Dtype::I32 => Codec::Int(Int::signed(32)),
        Dtype::U32 => Codec::Int(Int::unsigned(32)),
        Dtype::Bool => Codec::Int(Int::boolean()),
        Dtype::HiF8 => Codec::Hif8,
        Dtype::F8E8M0 => Codec::E8m0,
        Dtype::F4E2M1 => mini(2, 1, 1, Specials::None),
        Dtype::F6E2M3 => mini(2, 3, 1, Specials::None),
        Dtype::F6E3M2 => mini(3, 2, 3, Specials::None),
        Dtype::F8E4M3 => mini(4, 3, 7, Specials::NanOnly),
        Dtype::F8E5M2 => mini(5, 2, 15, Specials::Ieee),
        Dtype::F8E4M3Fnuz => mini(4, 3, 8, Specials::Fnuz),
        Dtype::F8E5M2Fnuz => mini(5, 2, 16, Specials::Fnuz),
        Dtype::BF16 => Codec::Bf16,
        Dtype::F16 => Codec::F16,
        Dtype::F32 => Codec::F32,
        Dtype::C64 | Dtype::F64 | Dtype::I64 | Dtype::U64 => Codec::Wide,
    }
}

/// OCP OFP8 and MX v1.0 for the OCP formats, arXiv 2206.02915 for FNUZ.
const fn mini(exp_bits: u32, man_bits: u32, bias: u32, specials: Specials) -> Codec {
    Codec::Mini(Minifloat { exp_bits, man_bits, bias, specials })
}

/// The value of a code, exact (I32 and U32: rounded to nearest even).
///
/// NaN codes give a quiet NaN; BF16 and F32 keep its payload. 64-bit formats have no 32-bit code: NaN.
pub const fn decode(dtype: Dtype, code: u32) -> f32 {
    match codec(dtype) {
        Codec::Mini(f) => f.decode(code),
        Codec::Int(f) => f.decode(code),
        Codec::Hif8 => hif8::decode(code),
        Codec::E8m0 => f32_from_e8m0(code as u8),
        Codec::Bf16 => f32_from_bf16(code as u16),
        Codec::F16 => f32_from_f16(code as u16),
        Codec::F32 => f32::from_bits(code),
        Codec::Wide => f32::NAN,
    }
}

/// The code of the value nearest to `x`, where finite and infinite overflow gives the largest finite value of its sign.
///
/// E8M0 rounds as [`e8m0_nearest`], with zero to the smallest code and negative values to NaN. HiF8 rounds ties away from
/// zero. Integers are rounded, then clamped. F32 is the bits unchanged, infinities included. 64-bit formats: 0.
pub fn encode_saturating(dtype: Dtype, x: f32) -> u32 {
    match codec(dtype) {
        Codec::Mini(f) => f.encode(x, true),
        Codec::Int(f) => f.encode(x),
        Codec::Hif8 => hif8::encode(x, true),
        Codec::E8m0 => e8m0::saturating(x).into(),
        Codec::Bf16 => saturate(bf16_from_f32(x), 0x7F80),
        Codec::F16 => saturate(f16_from_f32(x), 0x7C00),
        Codec::F32 => x.to_bits(),
        Codec::Wide => 0,
    }
}

/// The code of the value nearest to `x`, where overflow gives infinity, or NaN in a format without infinity.
///
/// FP4 and FP6 have neither and saturate, integers too (`ml_dtypes` would wrap them). E8M0 is [`e8m0_nearest`]. HiF8
/// rounds ties away from zero. 64-bit formats: 0.
pub fn encode_ieee(dtype: Dtype, x: f32) -> u32 {
    match codec(dtype) {
        Codec::Mini(f) => f.encode(x, false),
        Codec::Int(f) => f.encode(x),
        Codec::Hif8 => hif8::encode(x, false),
        Codec::E8m0 => e8m0_nearest(x).into(),
        Codec::Bf16 => bf16_from_f32(x).into(),
        Codec::F16 => f16_from_f32(x).into(),
        Codec::F32 => x.to_bits(),
        Codec::Wide => 0,
    }
}

/// Steps an infinite code down to the largest finite one, whose code is one less.
fn saturate(code: u16, infinity: u16) -> u32 {
    (if code & 0x7FFF == infinity { code - 1 } else { code }).into()
}

/// The values of the codes 0..=255 of a format of at most 8 bits, for lookup; narrower formats repeat.
pub const fn decode_table(dtype: Dtype) -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = decode(dtype, code as u32);
        code += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_above_the_format_are_ignored() {
        for dtype in Dtype::ALL.iter().copied().filter(|d| d.bits() < 32) {
            let width = dtype.bits() as u32;
            for code in 0..1u32 << width.min(12) {
                let high = code | u32::MAX << width;
                assert_eq!(decode(dtype, high).to_bits(), decode(dtype, code).to_bits(), "{dtype} {code:#x}");
            }
        }
    }

    #[test]
    fn every_number_keeps_its_code() {
        for dtype in Dtype::ALL.iter().copied().filter(|d| d.bits() <= 16 && *d != Dtype::Bool) {
            for code in 0..1u32 << dtype.bits() {
                let x = decode(dtype, code);
                if x.is_nan() {
                    continue;
                }
                assert_eq!(encode_ieee(dtype, x), code, "{dtype} {code:#x}");
                if x.is_finite() {
                    assert_eq!(encode_saturating(dtype, x), code, "{dtype} {code:#x}");
                }
            }
        }
    }

    #[test]
    fn largest_values() {
        for (dtype, max, code) in [
            (Dtype::F4E2M1, 6.0, 0x7),
            (Dtype::F6E2M3, 7.5, 0x1F),
            (Dtype::F6E3M2, 28.0, 0x1F),
            (Dtype::F8E4M3, 448.0, 0x7E),
            (Dtype::F8E4M3Fnuz, 240.0, 0x7F),
            (Dtype::F8E5M2, 57344.0, 0x7B),
            (Dtype::F8E5M2Fnuz, 57344.0, 0x7F),
            (Dtype::HiF8, 32768.0, 0x6E),
            (Dtype::F16, 65504.0, 0x7BFF),
            (Dtype::BF16, 3.389_531_4e38, 0x7F7F),
        ] {
            let sign = 1 << (dtype.bits() - 1);
            assert_eq!(decode(dtype, code), max, "{dtype}");
            for x in [max, f32::MAX, f32::INFINITY] {
                assert_eq!(encode_saturating(dtype, x), code, "{dtype} {x}");
                assert_eq!(encode_saturating(dtype, -x), code | sign, "{dtype} -{x}");
            }
        }
    }

    #[test]
    fn tables_are_constants() {
        const E4M3: [f32; 256] = decode_table(Dtype::F8E4M3);
        const E2M1: [f32; 256] = decode_table(Dtype::F4E2M1);
        assert_eq!(E2M1[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(E2M1[0x1A], -1.0);
        for (code, value) in E4M3.iter().enumerate() {
            assert_eq!(value.to_bits(), f32_from_e4m3(code as u8).to_bits());
        }
    }
}
