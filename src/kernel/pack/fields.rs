//! Streams of fields: element `i` at bits `i · b` to `(i + 1) · b`, least significant first.

use crate::dtype::Dtype;
use crate::dtype::packing::Packing;

/// How a field of a stored layout stands for a code: `code = (field ^ flip) − offset`.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) bits: usize,
    mask: u8,
    flip: u8,
    offset: u8,
}

impl Field {
    pub(super) fn new(packing: Packing, element: Dtype) -> Self {
        let bits = element.bits() as usize;
        assert!((2..=8).contains(&bits), "{element} codes do not fit a byte, or are no codes");
        let half = 1u8 << (bits - 1);
        let (flip, offset) = match (element, packing) {
            (
                Dtype::I2 | Dtype::I4 | Dtype::I8,
                Packing::Int32 | Packing::Gptq | Packing::GptqV2 | Packing::Awq,
            ) => (0, half),
            // Two's complement: the flipped sign makes offset binary.
            (Dtype::I2 | Dtype::I4 | Dtype::I8, _) => (half, half),
            _ => (0, 0),
        };
        Self { bits, mask: u8::MAX >> (8 - bits), flip, offset }
    }

    /// The code of a field.
    #[inline(always)]
    pub(super) fn code(self, field: u8) -> u8 {
        (field ^ self.flip).wrapping_sub(self.offset)
    }

    /// The field of a code.
    #[inline(always)]
    pub(super) fn field(self, code: u8) -> u8 {
        (code.wrapping_add(self.offset) ^ self.flip) & self.mask
    }
}

/// Reads `out.len()` codes; bytes of `stored` after the last one are ignored.
pub(super) fn unpack_fields(field: Field, stored: &[u8], out: &mut [u8]) {
    match field.bits {
        4 => unpack_nibbles::<false>(field, stored, out),
        8 => out.iter_mut().zip(stored).for_each(|(code, byte)| *code = field.code(*byte)),
        // Eight fields fill as many bytes as a field has bits.
        bits => {
            for (bytes, codes) in stored.chunks(bits).zip(out.chunks_mut(8)) {
                let mut word = [0; 8];
                word[..bytes.len()].copy_from_slice(bytes);
                let mut word = u64::from_le_bytes(word);
                for code in codes {
                    *code = field.code(word as u8 & field.mask);
                    word >>= bits;
                }
            }
        }
    }
}

/// Writes every code; bytes of `out` after the last one become zero.
pub(super) fn pack_fields(field: Field, codes: &[u8], out: &mut [u8]) {
    let used = (codes.len() * field.bits).div_ceil(8);
    let (out, rest) = out.split_at_mut(used);
    rest.fill(0);
    match field.bits {
        4 => pack_nibbles::<false>(field, codes, out),
        8 => out.iter_mut().zip(codes).for_each(|(byte, code)| *byte = field.field(*code)),
        bits => {
            for (bytes, codes) in out.chunks_mut(bits).zip(codes.chunks(8)) {
                let fields = codes.iter().rev().fold(0, |w, code| w << bits | u64::from(field.field(*code)));
                bytes.copy_from_slice(&fields.to_le_bytes()[..bytes.len()]);
            }
        }
    }
}

/// Codes two to a byte, the first one low or high.
pub(super) fn unpack_nibbles<const HIGH_FIRST: bool>(field: Field, stored: &[u8], out: &mut [u8]) {
    let split = out.len() / 64 * 32;
    let (chunks, rest) = (&stored[..split], &stored[split..]);
    let (out_chunks, out_rest) = out.as_chunks_mut::<64>();
    for (bytes, out) in chunks.as_chunks::<32>().0.iter().zip(out_chunks) {
        for i in 0..32 {
            let (low, high) = (field.code(bytes[i] & 15), field.code(bytes[i] >> 4));
            (out[2 * i], out[2 * i + 1]) = if HIGH_FIRST { (high, low) } else { (low, high) };
        }
    }
    for (byte, pair) in rest.iter().zip(out_rest.chunks_mut(2)) {
        let (low, high) = (field.code(byte & 15), field.code(byte >> 4));
        let both = if HIGH_FIRST { [high, low] } else { [low, high] };
        pair.copy_from_slice(&both[..pair.len()]);
    }
}

/// The inverse of [`unpack_nibbles`]; an odd code at the end leaves its other half zero.
pub(super) fn pack_nibbles<const HIGH_FIRST: bool>(field: Field, codes: &[u8], out: &mut [u8]) {
    let (chunks, rest) = codes.as_chunks::<64>();
    let (out_chunks, out_rest) = out.split_at_mut(chunks.len() * 32);
    for (codes, out) in chunks.iter().zip(out_chunks.as_chunks_mut::<32>().0) {
        for i in 0..32 {
            let (first, second) = (field.field(codes[2 * i]), field.field(codes[2 * i + 1]));
            out[i] = if HIGH_FIRST { first << 4 | second } else { first | second << 4 };
        }
    }
    for (pair, byte) in rest.chunks(2).zip(out_rest) {
        let first = field.field(pair[0]);
        let second = pair.get(1).map_or(0, |code| field.field(*code));
        *byte = if HIGH_FIRST { first << 4 | second } else { first | second << 4 };
    }
}
