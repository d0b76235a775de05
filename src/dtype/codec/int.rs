//! Integers of up to 32 bits, signed ones in two's complement.

/// An integer format: width of the code and range of the value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int {
    bits: u32,
    min: i64,
    max: i64,
}

impl Int {
    pub(super) const fn signed(bits: u32) -> Self {
        Self { bits, min: -(1 << (bits - 1)), max: (1 << (bits - 1)) - 1 }
    }

    pub(super) const fn unsigned(bits: u32) -> Self {
        Self { bits, min: 0, max: (1 << bits) - 1 }
    }

    /// A whole byte of which only 0 and 1 are written.
    pub(super) const fn boolean() -> Self {
        Self { bits: 8, min: 0, max: 1 }
    }

    const fn mask(self) -> u32 {
        u32::MAX >> (32 - self.bits)
    }

    /// The value of a code; exact up to 24 bits, beyond that rounded to nearest, ties to even.
    pub(super) const fn decode(self, code: u32) -> f32 {
        let code = code & self.mask();
        if self.min < 0 {
            let shift = 32 - self.bits;
            ((code << shift).cast_signed() >> shift) as f32
        } else {
            code as f32
        }
    }

    /// Round to nearest, ties to even, then clamp to the range; NaN gives 0.
    pub(super) fn encode(self, x: f32) -> u32 {
        // The cast saturates and takes NaN to 0.
        let rounded = (x.round_ties_even() as i64).clamp(self.min, self.max);
        rounded as u32 & self.mask()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_then_clamping() {
        let i4 = Int::signed(4);
        for (x, code) in [
            (0.5, 0x0),
            (1.5, 0x2),
            (2.5, 0x2),
            (-0.5, 0x0),
            (-1.5, 0xE),
            (7.49, 0x7),
            (8.0, 0x7),
            (-8.5, 0x8),
            (-9.0, 0x8),
            (f32::INFINITY, 0x7),
            (f32::NEG_INFINITY, 0x8),
            (f32::NAN, 0x0),
        ] {
            assert_eq!(i4.encode(x), code, "{x}");
        }
        assert_eq!(Int::unsigned(4).encode(-3.0), 0);
        assert_eq!(Int::unsigned(32).encode(f32::MAX), u32::MAX);
        assert_eq!(Int::signed(32).encode(f32::MIN), 0x8000_0000);
        assert_eq!((i4.decode(0xF8), i4.decode(0x07), Int::signed(2).decode(2)), (-8.0, 7.0, -2.0));
        assert_eq!(
            (Int::signed(32).decode(u32::MAX), Int::unsigned(32).decode(1 << 31)),
            (-1.0, 2_147_483_648.0)
        );
    }
}
