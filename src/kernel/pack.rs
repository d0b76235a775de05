//! Codes between the layout of a stored tensor and one byte per code, and what else moves or sums codes.
//!
//! A code in a byte is in two's complement, sign-extended, where the element is a signed integer, and the bare pattern
//! otherwise (FP4 in the low nibble). What a [`Packing`] stores is a field of the element's bits; see [`Packing`] for
//! the layouts. All of this is exact, and independent of the instruction set.
//!
//! Buffers hold a band: logical codes `[rows, cols]`, row-major, and the stored elements that cover them, in stored
//! order. For transposed packings that is not one range of the stored tensor.

mod fields;
mod sums;
mod transposed;
mod zeros;

pub use sums::{fp4_to_e4m3, scale_bias, subtract_zeros};
pub use transposed::transpose;
pub use zeros::{pack_zeros, unpack_zeros, zeros_len};

use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use fields::{Field, pack_fields, pack_nibbles, unpack_fields, unpack_nibbles};

/// Bytes of the stored form of codes `[rows, cols]`: whole words for the packings that have words.
///
/// # Panics
/// If the element has fewer than 2 or more than 8 bits.
pub fn stored_len(packing: Packing, element: Dtype, rows: usize, cols: usize) -> usize {
    let bits = Field::new(packing, element).bits;
    match packing {
        Packing::Plain => (rows * cols * bits).div_ceil(8),
        Packing::Bytes => rows * cols,
        Packing::Pairs | Packing::PairsI8 | Packing::Blocks | Packing::SlimQuant => rows * cols.div_ceil(2),
        Packing::RowPairs => rows.div_ceil(2) * cols,
        Packing::Int32 | Packing::Gptq | Packing::GptqV2 => rows * (cols * bits).div_ceil(32) * 4,
        Packing::Awq => cols * rows.div_ceil(8) * 4,
    }
}

/// Reads the codes `[rows, cols]` of a band into `out`, one byte each, row-major.
///
/// `stored` has [`stored_len`] bytes: `[rows / packing.rows(), bytes of a row]`, or for transposed packings
/// `[cols · bits / 32, rows]` (GPTQ) or `[cols, rows / 8]` (AWQ) words.
///
/// # Panics
/// If a length is another one, `rows` or `cols` is no multiple of what the packing's [`rows`](Packing::rows) and
/// [`cols`](Packing::cols) ask for (a bit stream may end in the middle of a word), the element has not 2 to 8 bits, or
/// the packing is one of nibbles and the element has not 4.
pub fn unpack(packing: Packing, element: Dtype, stored: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    let field = check(packing, element, stored.len(), rows, cols, out.len());
    match packing {
        Packing::Plain | Packing::Pairs | Packing::PairsI8 | Packing::Blocks | Packing::Int32 => {
            let (stored_row, row) = row_lengths(packing, field, stored.len(), rows, cols);
            for (stored, out) in stored.chunks_exact(stored_row).zip(out.chunks_exact_mut(row)) {
                unpack_fields(field, stored, out);
            }
        }
        Packing::Bytes => out.copy_from_slice(stored),
        Packing::SlimQuant => unpack_nibbles::<true>(field, stored, out),
        Packing::RowPairs if cols > 0 => {
            for (stored, pair) in stored.chunks_exact(cols).zip(out.chunks_exact_mut(2 * cols)) {
                let (even, odd) = pair.split_at_mut(cols);
                for (byte, (even, odd)) in stored.iter().zip(even.iter_mut().zip(odd)) {
                    (*even, *odd) = (field.code(byte & 15), field.code(byte >> 4));
                }
            }
        }
        Packing::RowPairs => {}
        Packing::Gptq | Packing::GptqV2 => transposed::unpack_words(field, stored, rows, cols, out),
        Packing::Awq => transposed::unpack_awq(field, stored, rows, cols, out),
    }
}

/// Writes the codes `[rows, cols]`, one byte each, row-major, in the stored layout: the inverse of [`unpack`]. Of a code,
/// the bits that the element has are stored, so that it must be in the element's range. Bits that hold no code are zero.
///
/// # Panics
/// As [`unpack`].
pub fn pack(packing: Packing, element: Dtype, codes: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    let field = check(packing, element, out.len(), rows, cols, codes.len());
    match packing {
        Packing::Plain | Packing::Pairs | Packing::PairsI8 | Packing::Blocks | Packing::Int32 => {
            let (stored_row, row) = row_lengths(packing, field, out.len(), rows, cols);
            for (out, codes) in out.chunks_exact_mut(stored_row).zip(codes.chunks_exact(row)) {
                pack_fields(field, codes, out);
            }
        }
        Packing::Bytes => out.copy_from_slice(codes),
        Packing::SlimQuant => pack_nibbles::<true>(field, codes, out),
        Packing::RowPairs if cols > 0 => {
            for (out, pair) in out.chunks_exact_mut(cols).zip(codes.chunks_exact(2 * cols)) {
                let (even, odd) = pair.split_at(cols);
                for (byte, (even, odd)) in out.iter_mut().zip(even.iter().zip(odd)) {
                    *byte = field.field(*even) | field.field(*odd) << 4;
                }
            }
        }
        Packing::RowPairs => {}
        Packing::Gptq | Packing::GptqV2 => transposed::pack_words(field, codes, rows, cols, out),
        Packing::Awq => transposed::pack_awq(field, codes, rows, cols, out),
    }
}

/// The first code that the element cannot hold; `None` where every code is in its range. Codes that came from a stored
/// byte each ([`Packing::Bytes`]) may be out of range.
pub fn first_out_of_range(element: Dtype, codes: &[u8]) -> Option<usize> {
    let field = Field::new(Packing::Plain, element);
    let fits = |code: &u8| field.code(field.field(*code)) == *code;
    if codes.iter().fold(true, |all, code| all & fits(code)) {
        return None;
    }
    codes.iter().position(|code| !fits(code))
}

/// Bytes and codes of what is packed as one stream: a row, or the band where no row ends within a byte or word.
fn row_lengths(packing: Packing, field: Field, stored: usize, rows: usize, cols: usize) -> (usize, usize) {
    let whole = packing == Packing::Plain || stored * 8 == rows * cols * field.bits;
    // Empty bands have no rows; chunks need a length.
    if whole { (stored.max(1), (rows * cols).max(1)) } else { (stored / rows.max(1), cols.max(1)) }
}

fn check(packing: Packing, element: Dtype, stored: usize, rows: usize, cols: usize, codes: usize) -> Field {
    let field = Field::new(packing, element);
    let nibbles = matches!(
        packing,
        Packing::Pairs
            | Packing::PairsI8
            | Packing::Blocks
            | Packing::SlimQuant
            | Packing::RowPairs
            | Packing::Awq
    );
    assert!(!nibbles || field.bits == 4, "{} holds codes of 4 bits, not {element}", packing.name());
    let name = packing.name();
    assert!(codes == rows * cols, "{name}: {codes} codes for [{rows}, {cols}]");
    let expected = stored_len(packing, element, rows, cols);
    assert!(stored == expected, "{name}: {stored} bytes for {expected} of {element} [{rows}, {cols}]");
    let whole_cols = match packing {
        Packing::Int32 => 1,
        _ => packing.cols(field.bits as u64) as usize,
    };
    assert!(
        rows.is_multiple_of(packing.rows() as usize) && cols.is_multiple_of(whole_cols),
        "{name}: [{rows}, {cols}] cannot be packed"
    );
    field
}
