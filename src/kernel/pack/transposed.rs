//! Layouts that have columns first, block by block, so that neither side is walked along a stride that leaves the cache.

use super::fields::{Field, pack_fields, unpack_fields};

/// Transposes a row-major matrix `[rows, cols]` of `N`-byte elements; `out` becomes `[cols, rows]`.
///
/// # Panics
/// If a slice has not `rows × cols × N` bytes.
pub fn transpose<const N: usize>(input: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    /// Elements of a block's side: with any `N` up to 8 two blocks fit the first-level cache.
    const SIDE: usize = 32;
    assert!(input.len() == rows * cols * N && out.len() == input.len(), "not [{rows}, {cols}] of {N} bytes");
    let (input, out) = (input.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
    for first_row in (0..rows).step_by(SIDE) {
        let block_rows = SIDE.min(rows - first_row);
        for first_col in (0..cols).step_by(SIDE) {
            for col in first_col..cols.min(first_col + SIDE) {
                let line = &mut out[col * rows + first_row..][..block_rows];
                for (row, element) in (first_row..).zip(line) {
                    *element = input[row * cols + col];
                }
            }
        }
    }
}

/// Rows of a block of words.
const LINES: usize = 32;

/// Columns of a block of words: whole words of every width.
const COLS: usize = 256;

/// Words of a row of a block, at most.
const WORDS: usize = COLS * 8 / 32;

/// A block of words, row by row of the weight.
type Block = [[[u8; 4]; WORDS]; LINES];

/// Calls `f` with the rows and columns of every block, its words' first index and how many words a row of it has.
fn for_each_block(field: Field, rows: usize, cols: usize, mut f: impl FnMut([usize; 4], usize, usize)) {
    for first_col in (0..cols).step_by(COLS) {
        let end_col = cols.min(first_col + COLS);
        let (first_word, words) =
            (first_col * field.bits / 32, ((end_col - first_col) * field.bits).div_ceil(32));
        for first_row in (0..rows).step_by(LINES) {
            f([first_row, rows.min(first_row + LINES), first_col, end_col], first_word, words);
        }
    }
}

/// Words `[cols · bits / 32, rows]`, fields along the columns.
pub(super) fn unpack_words(field: Field, stored: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    let stored = stored.as_chunks::<4>().0;
    let mut block: Block = [[[0; 4]; WORDS]; LINES];
    for_each_block(field, rows, cols, |[row, end_row, col, end_col], first_word, words| {
        for word in 0..words {
            let line = &stored[(first_word + word) * rows..][row..end_row];
            for (block, stored) in block.iter_mut().zip(line) {
                block[word] = *stored;
            }
        }
        for (row, block) in (row..end_row).zip(&block) {
            unpack_fields(field, block[..words].as_flattened(), &mut out[row * cols..][col..end_col]);
        }
    });
}

/// The inverse of [`unpack_words`].
pub(super) fn pack_words(field: Field, codes: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    let out = out.as_chunks_mut::<4>().0;
    let mut block: Block = [[[0; 4]; WORDS]; LINES];
    for_each_block(field, rows, cols, |[row, end_row, col, end_col], first_word, words| {
        for (row, block) in (row..end_row).zip(&mut block) {
            pack_fields(field, &codes[row * cols..][col..end_col], block[..words].as_flattened_mut());
        }
        for word in 0..words {
            let line = &mut out[(first_word + word) * rows..][row..end_row];
            for (out, block) in line.iter_mut().zip(&block) {
                *out = block[word];
            }
        }
    });
}

/// Words `[cols, rows / 8]` of AutoAWQ.
pub(super) fn unpack_awq(field: Field, stored: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    let stored = stored.as_chunks::<4>().0;
    for_each_square(rows, cols, |group, col, end_col| {
        let mut square = [0; 8];
        for (line, col) in square.iter_mut().zip(col..end_col) {
            *line = spread(u32::from_le_bytes(stored[col * (rows / 8) + group]));
        }
        transpose_bytes(&mut square);
        for (row, line) in (group * 8..).zip(square) {
            let codes = line.to_le_bytes().map(|nibble| field.code(nibble));
            out[row * cols..][col..end_col].copy_from_slice(&codes[..end_col - col]);
        }
    });
}

/// The inverse of [`unpack_awq`].
pub(super) fn pack_awq(field: Field, codes: &[u8], rows: usize, cols: usize, out: &mut [u8]) {
    let out = out.as_chunks_mut::<4>().0;
    for_each_square(rows, cols, |group, col, end_col| {
        let mut square = [0; 8];
        for (row, line) in (group * 8..).zip(&mut square) {
            let mut bytes = [0; 8];
            bytes[..end_col - col].copy_from_slice(&codes[row * cols..][col..end_col]);
            *line = u64::from_le_bytes(bytes.map(|code| field.field(code)));
        }
        transpose_bytes(&mut square);
        for (line, col) in square.into_iter().zip(col..end_col) {
            out[col * (rows / 8) + group] = gather(line).to_le_bytes();
        }
    });
}

/// Calls `f` with every group of 8 rows and range of up to 8 columns, in blocks of whole cache lines.
fn for_each_square(rows: usize, cols: usize, mut f: impl FnMut(usize, usize, usize)) {
    const SIDE: usize = 64;
    for first_col in (0..cols).step_by(SIDE) {
        for first_group in (0..rows / 8).step_by(SIDE / 8) {
            for group in first_group..(rows / 8).min(first_group + SIDE / 8) {
                for col in (first_col..cols.min(first_col + SIDE)).step_by(8) {
                    f(group, col, cols.min(col + 8));
                }
            }
        }
    }
}

/// The nibbles of an AWQ word in bytes, by row: nibbles 0 to 3 are rows 0, 2, 4, 6, nibbles 4 to 7 rows 1, 3, 5, 7.
fn spread(word: u32) -> u64 {
    let half = |x: u32| {
        let x = u64::from(x);
        let x = (x | x << 24) & 0x0000_00FF_0000_00FF;
        (x | x << 12) & 0x000F_000F_000F_000F
    };
    half(word & 0xFFFF) | half(word >> 16) << 8
}

/// The inverse of [`spread`].
fn gather(bytes: u64) -> u32 {
    let half = |x: u64| {
        let x = x & 0x000F_000F_000F_000F;
        let x = (x | x >> 12) & 0x0000_00FF_0000_00FF;
        (x | x >> 24) as u32 & 0xFFFF
    };
    half(bytes) | half(bytes >> 8) << 16
}

/// Transposes an 8 × 8 matrix of bytes: halves, then quarters, then single bytes change places.
fn transpose_bytes(square: &mut [u64; 8]) {
    for (distance, mask) in
        [(4, 0x0000_0000_FFFF_FFFF), (2, 0x0000_FFFF_0000_FFFF), (1, 0x00FF_00FF_00FF_00FF)]
    {
        let shift = 8 * distance;
        for i in (0..8).filter(|i| i & distance == 0) {
            let swapped = (square[i] >> shift ^ square[i + distance]) & mask;
            square[i] ^= swapped << shift;
            square[i + distance] ^= swapped;
        }
    }
}
