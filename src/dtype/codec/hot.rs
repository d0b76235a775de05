//! Conversions of single elements for inner loops.
//!
//! Straight-line integer code with selects instead of branches and no tables, so that a loop over a slice vectorizes.
//! Subnormals go through the addition of a power of two whose last place is the smallest step of the format: the
//! addition rounds to nearest even, and no subnormal `f32` ever reaches the floating-point unit's slow path.

/// `x` as an E4M3FN code for `|x| ≤ 448`: round to nearest, ties to even, sign of zero kept (−0.0 and negative underflow
/// give 0x80).
///
/// Callers clamp to ±448 first, because libraries disagree above it. Outside that range the result is still defined, as
/// `encode_ieee` has it: up to 464 rounds to 448; beyond, and for NaN and infinities, 0x7F with the sign of `x`.
#[inline(always)]
pub fn e4m3_from_f32_clamped(x: f32) -> u8 {
    let bits = x.to_bits();
    let sign = (bits >> 24) & 0x80;
    let a = bits & 0x7FFF_FFFF;
    // 2^14: its last place is 2^-9, the smallest subnormal of E4M3.
    let small = (f32::from_bits(a) + 16384.0).to_bits().wrapping_sub(0x4680_0000);
    let rounded = (a + 0x7_FFFF + ((a >> 20) & 1)) >> 20;
    let normal = rounded.wrapping_sub(120 << 3).min(0x7F);
    let magnitude = if a < 0x3C80_0000 { small } else { normal };
    (magnitude | sign) as u8
}

/// The value of an E4M3FN code, exact. 0x7F and 0xFF give a quiet NaN with that sign.
#[inline(always)]
pub const fn f32_from_e4m3(code: u8) -> f32 {
    let code = code as u32;
    let m = code & 0x7F;
    let small = (f32::from_bits(0x4680_0000 | m) - 16384.0).to_bits();
    let normal = (m << 20) + (120 << 23);
    let finite = if m < 8 { small } else { normal };
    let magnitude = if m == 0x7F { 0x7FC0_0000 } else { finite };
    f32::from_bits(magnitude | (code & 0x80) << 24)
}

/// `x` as BF16 bits: round to nearest, ties to even, overflow to infinity. A NaN keeps its sign and the upper part of
/// its payload and becomes quiet.
#[inline(always)]
pub fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let quiet = (bits >> 16) | 0x40;
    // Wraps for NaNs only, which take the other arm.
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
    let nan = bits & 0x7FFF_FFFF > 0x7F80_0000;
    (if nan { quiet } else { rounded }) as u16
}

/// The value of BF16 bits, exact; NaN payloads are kept.
#[inline(always)]
pub const fn f32_from_bf16(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// `x` as binary16 bits: round to nearest, ties to even, overflow (|x| ≥ 65520) to infinity. A NaN keeps its sign and
/// the upper part of its payload and becomes quiet.
#[inline(always)]
pub fn f16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let a = bits & 0x7FFF_FFFF;
    // 0.5: its last place is 2^-24, the smallest subnormal of binary16.
    let small = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3F00_0000);
    let normal = ((a + 0xFFF + ((a >> 13) & 1)) >> 13).wrapping_sub(112 << 10).min(0x7C00);
    let finite = if a < 0x3880_0000 { small } else { normal };
    let quiet = 0x7E00 | ((a >> 13) & 0x1FF);
    let magnitude = if a > 0x7F80_0000 { quiet } else { finite };
    (magnitude | sign) as u16
}

/// The value of binary16 bits, exact. A NaN keeps its sign and payload and becomes quiet.
#[inline(always)]
pub const fn f32_from_f16(bits: u16) -> f32 {
    let bits = bits as u32;
    let m = bits & 0x7FFF;
    let small = (f32::from_bits(0x3F00_0000 | m) - 0.5).to_bits();
    let normal = (m << 13) + (112 << 23);
    // Infinity's exponent moves from 31 to 255: twice the bias delta.
    let special = ((m << 13) + (224 << 23)) | if m > 0x7C00 { 0x40_0000 } else { 0 };
    let finite = if m < 0x400 { small } else { normal };
    let magnitude = if m >= 0x7C00 { special } else { finite };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// The value of an E8M0 code: `2^(code − 127)`; 0 gives the subnormal 2^-127, 0xFF a quiet NaN.
#[inline(always)]
pub const fn f32_from_e8m0(code: u8) -> f32 {
    let normal = (code as u32) << 23;
    let finite = if code == 0 { 0x40_0000 } else { normal };
    f32::from_bits(if code == 0xFF { 0x7FC0_0000 } else { finite })
}

/// The E8M0 code of `x` if `x` is a power of two that E8M0 holds (2^-127..=2^127), else `None`: zero, negative,
/// non-finite and all other values.
#[inline(always)]
pub fn e8m0_from_pow2(x: f32) -> Option<u8> {
    let bits = x.to_bits();
    match bits {
        0x40_0000 => Some(0),
        // The sign bit is clear, the mantissa zero, the exponent field 1..=254.
        0x80_0000..0x7F80_0000 if bits & 0x7F_FFFF == 0 => Some((bits >> 23) as u8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bits of 4,194,304 `f32` spread over the whole range, every exponent and both signs included.
    fn spread() -> impl Iterator<Item = f32> {
        (0..1u32 << 22).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B1)))
    }

    #[test]
    fn e4m3_round_trips_and_rounds_to_the_nearest() {
        for code in 0..=255u8 {
            assert_eq!(e4m3_from_f32_clamped(f32_from_e4m3(code)), code, "{code:#x}");
        }
        for (x, code) in [
            (448.0, 0x7E),
            (464.0, 0x7E),
            (464.00003, 0x7F),
            (-448.0, 0xFE),
            (-0.0, 0x80),
            (0.000_976_562_5, 0x00),
            (0.000_976_562_6, 0x01),
            (-1e-30, 0x80),
            (0.015_625, 0x08),
            (f32::INFINITY, 0x7F),
            (f32::NEG_INFINITY, 0xFF),
        ] {
            assert_eq!(e4m3_from_f32_clamped(x), code, "{x}");
        }
        for x in spread().filter(|x| x.abs() <= 448.0) {
            let code = e4m3_from_f32_clamped(x);
            let distance = |c: u8| (f64::from(f32_from_e4m3(c)) - f64::from(x)).abs();
            let best = distance(code);
            // Neighbours of the same sign; the tie must have chosen the even code.
            for other in [code.wrapping_sub(1), code + 1] {
                if other & 0x80 == code & 0x80 && other & 0x7F != 0x7F {
                    let d = distance(other);
                    assert!(best < d || (best == d && code & 1 == 0), "{x}: {code:#x} or {other:#x}");
                }
            }
        }
    }

    #[test]
    fn half_precision_agrees_with_the_half_crate() {
        for bits in 0..=u16::MAX {
            let (bf16, f16) = (half::bf16::from_bits(bits), half::f16::from_bits(bits));
            assert_eq!(f32_from_bf16(bits).to_bits(), u32::from(bits) << 16);
            if f16.is_nan() {
                let quiet = u32::from(bits & 0x8000) << 16 | 0x7FC0_0000 | u32::from(bits & 0x3FF) << 13;
                assert_eq!(f32_from_f16(bits).to_bits(), quiet);
                assert_eq!(f16_from_f32(f32_from_f16(bits)), bits | 0x200);
            } else {
                assert_eq!(f32_from_f16(bits).to_bits(), f16.to_f32().to_bits(), "{bits:#x}");
                assert_eq!(f16_from_f32(f32_from_f16(bits)), bits);
            }
            let quiet = if bf16.is_nan() { 0x40 } else { 0 };
            assert_eq!(bf16_from_f32(f32_from_bf16(bits)), bits | quiet);
        }
        for x in spread() {
            assert_eq!(bf16_from_f32(x), half::bf16::from_f32(x).to_bits(), "{x:e}");
            assert_eq!(f16_from_f32(x), half::f16::from_f32(x).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn e8m0_is_a_power_of_two() {
        for code in 0..=254u8 {
            let x = f32_from_e8m0(code);
            assert_eq!(f64::from(x), 2f64.powi(i32::from(code) - 127));
            assert_eq!(e8m0_from_pow2(x), Some(code));
            assert_eq!(e8m0_from_pow2(-x), None);
            assert_eq!(e8m0_from_pow2(f32::from_bits(x.to_bits() + 1)), None);
            assert_eq!(e8m0_from_pow2(f32::from_bits(x.to_bits() - 1)), None);
        }
        assert!(f32_from_e8m0(255).is_nan());
        for x in [0.0, -0.0, 3.0, f32::INFINITY, f32::NAN, f32::from_bits(1), f32::from_bits(0x20_0000)] {
            assert_eq!(e8m0_from_pow2(x), None, "{x:e}");
        }
    }
}
