//! Signed floats of at most 8 bits, from their definition.

/// What the codes beyond ordinary numbers mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Specials {
    /// The top exponent holds infinity (mantissa 0) and NaNs, as in IEEE 754.
    Ieee,
    /// NaN is all ones below the sign; there is no infinity.
    NanOnly,
    /// The code of −0 is the only NaN; there is no infinity and no −0.
    Fnuz,
    /// Every code is a finite number.
    None,
}

/// A format: sign, `exp_bits`, `man_bits` from the top. The value of (s, e, m) is `(−1)^s · 2^(e − bias) · (1 + m/2^man_bits)`
/// and, for e = 0, `(−1)^s · 2^(1 − bias) · m/2^man_bits`. All values must be normal in binary32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Minifloat {
    pub(super) exp_bits: u32,
    pub(super) man_bits: u32,
    pub(super) bias: u32,
    pub(super) specials: Specials,
}

impl Minifloat {
    const fn sign(self) -> u32 {
        1 << (self.exp_bits + self.man_bits)
    }

    /// The code of +infinity where there is one.
    const fn infinity(self) -> u32 {
        self.sign() - (1 << self.man_bits)
    }

    /// The largest code of a positive finite value.
    pub(super) const fn max_finite(self) -> u32 {
        match self.specials {
            Specials::Ieee => self.infinity() - 1,
            Specials::NanOnly => self.sign() - 2,
            Specials::Fnuz | Specials::None => self.sign() - 1,
        }
    }

    /// The code of NaN with `sign` (0 or the sign bit).
    const fn nan(self, sign: u32) -> u32 {
        match self.specials {
            Specials::Ieee => self.infinity() | 1 << (self.man_bits - 1) | sign,
            Specials::NanOnly => (self.sign() - 1) | sign,
            Specials::Fnuz => self.sign(),
            // ml_dtypes declares −0 the NaN of these formats and negates it for a negative NaN.
            Specials::None => self.sign() ^ sign,
        }
    }

    /// The value of a code. NaNs are quiet, carry no payload and keep the sign bit of the code.
    pub(super) const fn decode(self, code: u32) -> f32 {
        let magnitude = code & (self.sign() - 1);
        let sign = if code & self.sign() != 0 { 1 << 31 } else { 0 };
        let is_nan = match self.specials {
            Specials::Ieee => magnitude > self.infinity(),
            Specials::NanOnly => magnitude == self.sign() - 1,
            Specials::Fnuz => magnitude == 0 && sign != 0,
            Specials::None => false,
        };
        let bits = if is_nan {
            0x7FC0_0000
        } else if matches!(self.specials, Specials::Ieee) && magnitude == self.infinity() {
            0x7F80_0000
        } else if magnitude == 0 {
            0
        } else {
            let delta = 127 - self.bias;
            if magnitude >> self.man_bits != 0 {
                (magnitude << (23 - self.man_bits)) + (delta << 23)
            } else {
                // Subnormal: shift the leading one to the implicit bit and lower the exponent as far.
                let shift = magnitude.leading_zeros() - 8;
                let exponent = delta + 1 + 23 - self.man_bits - shift;
                ((magnitude << shift) & 0x7F_FFFF) | exponent << 23
            }
        };
        f32::from_bits(bits | sign)
    }

    /// The code nearest to `x`, ties to even. What rounds beyond the largest finite value becomes that value when
    /// `saturate` is set or the format has nothing else, otherwise infinity or NaN.
    pub(super) fn encode(self, x: f32, saturate: bool) -> u32 {
        let bits = x.to_bits();
        let a = bits & 0x7FFF_FFFF;
        let sign = if bits >> 31 != 0 { self.sign() } else { 0 };
        if x.is_nan() {
            return self.nan(sign);
        }
        let delta = 127 - self.bias;
        let magnitude = if a < (delta + 1) << 23 {
            // Below the smallest normal, codes count steps of the smallest subnormal. Adding the power of two whose last
            // place is that step rounds to it; a carry into the smallest normal is right by itself.
            let magic = (delta + 1 + 23 - self.man_bits) << 23;
            (f32::from_bits(a) + f32::from_bits(magic)).to_bits() - magic
        } else {
            let shift = 23 - self.man_bits;
            let half = (1 << (shift - 1)) - 1 + ((a >> shift) & 1);
            ((a + half) >> shift) - (delta << self.man_bits)
        };
        if magnitude > self.max_finite() {
            return match self.specials {
                Specials::Ieee if !saturate => self.infinity() | sign,
                Specials::NanOnly | Specials::Fnuz if !saturate => self.nan(sign),
                _ => self.max_finite() | sign,
            };
        }
        if magnitude == 0 && self.specials == Specials::Fnuz { 0 } else { magnitude | sign }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hot;
    use super::*;

    const E4M3: Minifloat = Minifloat { exp_bits: 4, man_bits: 3, bias: 7, specials: Specials::NanOnly };
    const F16: Minifloat = Minifloat { exp_bits: 5, man_bits: 10, bias: 15, specials: Specials::Ieee };

    #[test]
    fn the_inner_loop_conversions_agree_with_the_definition() {
        for code in 0..=255u8 {
            assert_eq!(E4M3.decode(code.into()).to_bits(), hot::f32_from_e4m3(code).to_bits(), "{code:#x}");
        }
        for code in 0..=u16::MAX {
            let (want, got) = (F16.decode(code.into()), hot::f32_from_f16(code));
            assert!(want.to_bits() == got.to_bits() || (want.is_nan() && got.is_nan()), "{code:#x}");
        }
        for i in 0..1u32 << 20 {
            let x = f32::from_bits(i.wrapping_mul(0x9E37_79B1));
            assert_eq!(E4M3.encode(x, false), u32::from(hot::e4m3_from_f32_clamped(x)), "{x:e}");
            if !x.is_nan() {
                assert_eq!(F16.encode(x, false), u32::from(hot::f16_from_f32(x)), "{x:e}");
            }
        }
    }
}
