//! Zero points of asymmetric codes.

use crate::dtype::Dtype;
use crate::dtype::packing::Packing;

/// Where zero points `[rows, groups]` lie: fields of `bits` bits, in words.
struct Layout {
    packing: Packing,
    bits: usize,
    groups: usize,
    /// Words that hold the zero points of a group.
    words: usize,
}

impl Layout {
    /// `None` for packings that store a byte per zero point.
    fn new(packing: Packing, element: Dtype, rows: usize, groups: usize) -> Option<Self> {
        let bits = element.bits() as usize;
        assert!((2..=8).contains(&bits), "{element} codes have no zero points");
        assert!(packing != Packing::Awq || bits == 4, "awq holds codes of 4 bits, not {element}");
        let in_words = matches!(packing, Packing::Int32 | Packing::Gptq | Packing::GptqV2 | Packing::Awq);
        in_words.then(|| Self { packing, bits, groups, words: (rows * bits).div_ceil(32) })
    }

    /// Index of word `word` of a group in the stored tensor.
    fn index(&self, word: usize, group: usize) -> usize {
        match self.packing {
            Packing::Int32 => word * self.groups + group,
            _ => group * self.words + word,
        }
    }

    /// Word, and shift in it, of the field of a row.
    fn place(&self, row: usize) -> (usize, usize) {
        /// Nibble of an AWQ word that holds row `i` of its 8.
        const AWQ: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
        let at = if self.packing == Packing::Awq { row / 8 * 8 + AWQ[row % 8] } else { row };
        (at * self.bits / 32, at * self.bits % 32)
    }

    fn mask(&self) -> u32 {
        (1 << self.bits) - 1
    }

    /// What is added to a zero point to make its field: GPTQ's first format stores one less.
    fn offset(&self) -> u32 {
        let half = 1u32 << (self.bits - 1);
        if self.packing == Packing::Gptq { half - 1 } else { half }
    }
}

/// Bytes of the stored form of zero points `[rows, groups]`.
///
/// # Panics
/// If the element has fewer than 2 or more than 8 bits, or not 4 for AWQ.
pub fn zeros_len(packing: Packing, element: Dtype, rows: usize, groups: usize) -> usize {
    Layout::new(packing, element, rows, groups).map_or(rows * groups, |layout| layout.words * groups * 4)
}

/// Reads the zero points `[rows, groups]` of a band, row-major, as signed numbers: the unsigned zero point of a packing
/// of unsigned codes minus 2^(bits − 1).
///
/// `stored` has [`zeros_len`] bytes: words `[⌈rows · bits / 32⌉, groups]` for [`Packing::Int32`], words
/// `[groups, ⌈rows · bits / 32⌉]` for GPTQ and AWQ, bytes `[rows, groups]` for the others. GPTQ's first format wraps: a
/// stored 2^bits − 1 is the unsigned zero point 0.
///
/// # Panics
/// If a length is another one, or as [`zeros_len`].
pub fn unpack_zeros(
    packing: Packing,
    element: Dtype,
    stored: &[u8],
    rows: usize,
    groups: usize,
    out: &mut [i8],
) {
    check(packing, element, stored.len(), rows, groups, out.len());
    let Some(layout) = Layout::new(packing, element, rows, groups) else {
        out.iter_mut().zip(stored).for_each(|(zero, byte)| *zero = *byte as i8);
        return;
    };
    if groups == 0 {
        return;
    }
    let words = stored.as_chunks::<4>().0;
    let half = 1i32 << (layout.bits - 1);
    // The field that stands for the least zero point.
    let least = layout.offset().wrapping_sub(half as u32);
    for (row, line) in out.chunks_exact_mut(groups).enumerate() {
        let (word, shift) = layout.place(row);
        for (group, zero) in line.iter_mut().enumerate() {
            let at = |word: usize| u32::from_le_bytes(words[layout.index(word, group)]);
            let mut field = at(word) >> shift;
            if shift + layout.bits > 32 {
                field |= at(word + 1) << (32 - shift);
            }
            *zero = ((field.wrapping_sub(least) & layout.mask()) as i32 - half) as i8;
        }
    }
}

/// Writes zero points `[rows, groups]` in the stored layout: the inverse of [`unpack_zeros`]. Fields without a row are
/// zero.
///
/// # Panics
/// As [`unpack_zeros`].
pub fn pack_zeros(
    packing: Packing,
    element: Dtype,
    zeros: &[i8],
    rows: usize,
    groups: usize,
    out: &mut [u8],
) {
    check(packing, element, out.len(), rows, groups, zeros.len());
    let Some(layout) = Layout::new(packing, element, rows, groups) else {
        out.iter_mut().zip(zeros).for_each(|(byte, zero)| *byte = *zero as u8);
        return;
    };
    if groups == 0 {
        return;
    }
    out.fill(0);
    let words = out.as_chunks_mut::<4>().0;
    for (row, line) in zeros.chunks_exact(groups).enumerate() {
        let (word, shift) = layout.place(row);
        for (group, zero) in line.iter().enumerate() {
            let field = (i32::from(*zero) as u32).wrapping_add(layout.offset()) & layout.mask();
            let mut or = |word: usize, bits: u32| {
                let stored = &mut words[layout.index(word, group)];
                *stored = (u32::from_le_bytes(*stored) | bits).to_le_bytes();
            };
            or(word, field << shift);
            if shift + layout.bits > 32 {
                or(word + 1, field >> (32 - shift));
            }
        }
    }
}

fn check(packing: Packing, element: Dtype, stored: usize, rows: usize, groups: usize, zeros: usize) {
    let name = packing.name();
    assert!(zeros == rows * groups, "{name}: {zeros} zero points for [{rows}, {groups}]");
    let expected = zeros_len(packing, element, rows, groups);
    assert!(stored == expected, "{name}: {stored} bytes of zero points for {expected}");
}
