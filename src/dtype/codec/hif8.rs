//! Huawei HiFloat8 (arXiv 2409.16626).
//!
//! After the sign, a prefix code (the dot) tells how many exponent bits follow; what is left is mantissa. Exponents near
//! 0 therefore have three mantissa bits, far ones fewer. The leading one of |E| is implied.
//!
//! | after the sign | exponents E | mantissa bits |
//! |---|---|---|
//! | `11 s eee m` | ±(8 + eee) | 1 |
//! | `10 s ee mm` | ±(4 + ee) | 2 |
//! | `01 s e mmm` | ±(2 + e) | 3 |
//! | `001 s mmm` | ±1 | 3 |
//! | `0001 mmm` | 0 | 3 |
//! | `0000 mmm` | mmm − 23, no mantissa (mmm ≠ 0) | 0 |

const NAN: u32 = 0x80;
/// Takes the place of 1.5 · 2^15.
const INFINITY: u32 = 0x6F;
/// 2^15.
const MAX_FINITE: u32 = 0x6E;

/// The value of a code. 0x80 is a positive quiet NaN.
pub(super) const fn decode(code: u32) -> f32 {
    let c = code & 0x7F;
    // Exponent bits after their sign, the smallest |E| of the row, mantissa bits.
    let (exp_bits, base, man_bits) = match c {
        0x60.. => (3, 8, 1),
        0x40.. => (2, 4, 2),
        0x20.. => (1, 2, 3),
        0x10.. => (0, 1, 3),
        _ => (0, 0, 3),
    };
    let bits = if code & 0xFF == NAN {
        return f32::from_bits(0x7FC0_0000);
    } else if c == INFINITY {
        0x7F80_0000
    } else if c == 0 {
        0
    } else if c < 0x08 {
        (c + 127 - 23) << 23
    } else {
        let size = base + ((c >> man_bits) & ((1 << exp_bits) - 1));
        let negative = base != 0 && (c >> (man_bits + exp_bits)) & 1 != 0;
        let exponent = if negative { 127 - size } else { 127 + size };
        exponent << 23 | (c & ((1 << man_bits) - 1)) << (23 - man_bits)
    };
    f32::from_bits(bits | (code & 0x80) << 24)
}

/// The code nearest to `x`, ties away from zero. From 40960 on it is infinity, or ±32768 when `saturate` is set; below
/// 2^-23 it is the only zero; NaN is 0x80.
pub(super) fn encode(x: f32, saturate: bool) -> u32 {
    if x.is_nan() {
        return NAN;
    }
    let bits = x.to_bits();
    let a = bits & 0x7FFF_FFFF;
    let man_bits = match (a >> 23).abs_diff(127) {
        0..=3 => 3,
        4..=7 => 2,
        8..=15 => 1,
        _ => 0,
    };
    let shift = 23 - man_bits;
    // Rounding may carry into the next exponent with a mantissa of zero, which every row can hold.
    let rounded = (a + (1 << (shift - 1))) >> shift << shift;
    let exponent = (rounded >> 23).cast_signed() - 127;
    let size = exponent.unsigned_abs();
    let negative = u32::from(exponent < 0);
    let man = |man_bits: u32| (rounded & 0x7F_FFFF) >> (23 - man_bits);
    let magnitude = match exponent {
        16.. => INFINITY,
        -15..=15 => match size {
            0 => 0x08 | man(3),
            1 => 0x10 | negative << 3 | man(3),
            2..=3 => 0x20 | negative << 4 | (size - 2) << 3 | man(3),
            4..=7 => 0x40 | negative << 4 | (size - 4) << 2 | man(2),
            _ => 0x60 | negative << 4 | (size - 8) << 1 | man(1),
        },
        -22..=-16 => 23 - size,
        // The whole binade [2^-23, 2^-22) is nearer to 2^-22 than to zero, its lower end being the tie.
        _ if a >= (127 - 23) << 23 => 1,
        _ => return 0,
    };
    let magnitude = if magnitude == INFINITY && saturate { MAX_FINITE } else { magnitude };
    magnitude | (bits >> 24) & 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_order_by_value() {
        let mut values: Vec<f32> = (0..0x80).filter(|c| *c != INFINITY).map(decode).collect();
        values.sort_by(f32::total_cmp);
        assert!(values.windows(2).all(|w| w[0] < w[1]), "two codes with one value");
        for code in (0..=0xFF).filter(|c| *c != NAN) {
            assert_eq!(encode(decode(code), false), code, "{code:#x}");
        }
        assert_eq!(decode(INFINITY), f32::INFINITY);
        assert_eq!(decode(0x6E), 32768.0);
        assert_eq!(decode(0x7E), 2f32.powi(-15));
        assert_eq!(decode(0x01), 2f32.powi(-22));
        assert_eq!(decode(0x08), 1.0);
    }

    #[test]
    fn edges() {
        for (x, code) in [
            (0.0, 0),
            (-0.0, 0),
            (2f32.powi(-23), 0x01),
            (2f32.powi(-23).next_down(), 0),
            (40959.996, 0x6E),
            (40960.0, 0x6F),
            (f32::NEG_INFINITY, 0xEF),
        ] {
            assert_eq!(encode(x, false), code, "{x:e}");
        }
        assert_eq!(encode(f32::MAX, true), 0x6E);
        assert_eq!(encode(f32::NEG_INFINITY, true), 0xEE);
        assert_eq!(encode(f32::NAN, true), NAN);
    }
}
