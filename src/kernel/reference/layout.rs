//! Permutations between storage layouts, with their inverses: kernels 21.
//!
//! Elements of `size` bytes are moved, never read. Padding is zero.

use super::array::{Array, Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::gemm_catalog::arg;
use super::operand::{area, bad_param, checked, choice, count, expect_len, misfit, pack, unpack};
use super::shape::axes;
use crate::dtype::Dtype;
use crate::error::Result;

/// The largest block of FRACTAL_NZ along columns, in bytes.
const NZ_BYTES: usize = 32;
/// Rows of a FRACTAL_NZ tile.
const NZ_ROWS: usize = 16;

/// E8M0 codes `[rows, cols]` as words `[rows, ⌈cols/4⌉]`: four consecutive codes of a row, lowest byte first. The result holds
/// little-endian words.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn ue8m0_pack([rows, cols]: [usize; 2], x: &[u8]) -> Result<Vec<u8>> {
    expect_len("x", x.len(), area("x", &[rows, cols])?)?;
    let words = cols.div_ceil(4);
    let mut y = vec![0; area("y", &[rows, words, 4])?];
    if cols > 0 {
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(4 * words)) {
            y[..cols].copy_from_slice(x);
        }
    }
    Ok(y)
}

/// The inverse of [`ue8m0_pack`]: the first `cols` codes of each row of little-endian words `[rows, words]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn ue8m0_unpack([rows, words]: [usize; 2], cols: usize, x: &[u8]) -> Result<Vec<u8>> {
    let stride = area("x", &[words, 4])?;
    expect_len("x", x.len(), area("x", &[rows, stride])?)?;
    if cols > stride {
        return Err(bad_param("cols", format!("at most {stride}"), cols));
    }
    Ok((0..rows).flat_map(|row| &x[row * stride..][..cols]).copied().collect())
}

/// Words `[rows, words]` transposed to `[words, ⌈rows/4⌉·4]`: rows are contiguous, padded to 16 bytes.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn ue8m0_tma([rows, words]: [usize; 2], x: &[u8]) -> Result<Vec<u8>> {
    expect_len("x", x.len(), area("x", &[rows, words, 4])?)?;
    let stride = padded(rows, 4)?;
    let mut y = vec![0; area("y", &[words, stride, 4])?];
    for (at, word) in x.chunks_exact(4).enumerate() {
        let to = at % words * stride + at / words;
        y[4 * to..][..4].copy_from_slice(word);
    }
    Ok(y)
}

/// The inverse of [`ue8m0_tma`]: words `[rows, words]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn ue8m0_tma_inverse([rows, words]: [usize; 2], x: &[u8]) -> Result<Vec<u8>> {
    let stride = padded(rows, 4)?;
    expect_len("x", x.len(), area("x", &[words, stride, 4])?)?;
    let mut y = vec![0; area("y", &[rows, words, 4])?];
    for (at, word) in y.chunks_exact_mut(4).enumerate() {
        let from = at % words * stride + at / words;
        word.copy_from_slice(&x[4 * from..][..4]);
    }
    Ok(y)
}

fn padded(len: usize, multiple: usize) -> Result<usize> {
    len.checked_next_multiple_of(multiple).ok_or_else(|| misfit("x", "sizes that fit memory", len))
}

/// Columns of a FRACTAL_NZ tile for elements of `size` bytes: 32 bytes of them.
///
/// # Errors
/// Class Input for sizes that do not divide 32.
pub fn nz_columns(size: usize) -> Result<usize> {
    match NZ_BYTES.checked_rem(size) {
        Some(0) => Ok(NZ_BYTES / size),
        _ => Err(misfit("x", "elements of 1, 2, 4, … or 32 bytes", size)),
    }
}

/// A matrix `[rows, cols]` as FRACTAL_NZ `[⌈cols/n0⌉, ⌈rows/16⌉, 16, n0]` with `n0` of [`nz_columns`].
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn nz(size: usize, shape: [usize; 2], x: &[u8]) -> Result<Vec<u8>> {
    expect_len("x", x.len(), area("x", &[shape[0], shape[1], size])?)?;
    let mut y = vec![0; area("y", &nz_shape(size, shape)?)?.saturating_mul(size)];
    for_each_nz_run(size, shape, |plain, tiled, len| {
        y[tiled..tiled + len].copy_from_slice(&x[plain..plain + len]);
    })?;
    Ok(y)
}

/// The inverse of [`nz`]: the matrix `[rows, cols]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn nz_inverse(size: usize, shape: [usize; 2], x: &[u8]) -> Result<Vec<u8>> {
    expect_len("x", x.len(), area("x", &nz_shape(size, shape)?)?.saturating_mul(size))?;
    let mut y = vec![0; area("y", &[shape[0], shape[1], size])?];
    for_each_nz_run(size, shape, |plain, tiled, len| {
        y[plain..plain + len].copy_from_slice(&x[tiled..tiled + len]);
    })?;
    Ok(y)
}

/// The shape of a matrix `[rows, cols]` in FRACTAL_NZ.
///
/// # Errors
/// Class Input for sizes that do not divide 32.
pub fn nz_shape(size: usize, [rows, cols]: [usize; 2]) -> Result<[usize; 4]> {
    let n0 = nz_columns(size)?;
    Ok([cols.div_ceil(n0), rows.div_ceil(NZ_ROWS), NZ_ROWS, n0])
}

/// Calls `copy` with the byte offset in the matrix, that in the tiles, and the length of each run of a row within a tile.
fn for_each_nz_run(
    size: usize,
    [rows, cols]: [usize; 2],
    mut copy: impl FnMut(usize, usize, usize),
) -> Result<()> {
    let [_, row_tiles, _, n0] = nz_shape(size, [rows, cols])?;
    for row in 0..rows {
        for first in (0..cols).step_by(n0) {
            let tile = first / n0 * row_tiles + row / NZ_ROWS;
            let tiled = (tile * NZ_ROWS + row % NZ_ROWS) * n0;
            copy((row * cols + first) * size, tiled * size, n0.min(cols - first) * size);
        }
    }
    Ok(())
}

/// Rows of `row_bytes`, gate rows then as many up rows, as gate row `i` at `2i` and up row `i` at `2i + 1`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn interleave(row_bytes: usize, x: &[u8]) -> Result<Vec<u8>> {
    let half = half_rows(row_bytes, x)?;
    let rows = |first: usize| x[first * row_bytes..][..half * row_bytes].chunks_exact(row_bytes.max(1));
    Ok(rows(0).zip(rows(half)).flat_map(|(gate, up)| [gate, up]).flatten().copied().collect())
}

/// The inverse of [`interleave`].
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn deinterleave(row_bytes: usize, x: &[u8]) -> Result<Vec<u8>> {
    half_rows(row_bytes, x)?;
    let rows = |first: usize| x.chunks_exact(row_bytes.max(1)).skip(first).step_by(2);
    Ok(rows(0).chain(rows(1)).flatten().copied().collect())
}

fn half_rows(row_bytes: usize, x: &[u8]) -> Result<usize> {
    let half = x.len() / 2;
    match half.checked_rem(row_bytes) {
        Some(0) if x.len().is_multiple_of(2) => Ok(half / row_bytes),
        None if x.is_empty() => Ok(0),
        _ => Err(misfit("x", format!("an even number of rows of {row_bytes} bytes"), x.len())),
    }
}

/// Every byte with its two nibbles exchanged; its own inverse.
pub fn nibble_swap(x: &[u8]) -> Vec<u8> {
    x.iter().map(|b| b.rotate_left(4)).collect()
}

/// Which element a nibble of a 32-bit word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordOrder {
    /// Elements in order, the first in the lowest nibble (compressed-tensors, GPTQ).
    Ct,
    /// Nibbles 0 to 7 hold elements 0, 2, 4, 6, 1, 3, 5, 7 (AWQ).
    Awq,
}

impl WordOrder {
    fn elements(self) -> [usize; 8] {
        match self {
            WordOrder::Ct => [0, 1, 2, 3, 4, 5, 6, 7],
            WordOrder::Awq => [0, 2, 4, 6, 1, 3, 5, 7],
        }
    }
}

/// Codes of 4 bits, one per byte, as little-endian 32-bit words of 8: nibble `i` holds element `O[i]` of the eight.
///
/// # Errors
/// Class Input unless the codes are a multiple of 8 and below 16.
pub fn pack_i32(order: WordOrder, x: &[u8]) -> Result<Vec<u8>> {
    expect_codes(8, x)?;
    let mut y = Vec::with_capacity(x.len() / 2);
    for codes in x.chunks_exact(8) {
        let nibbles = order.elements().map(|element| codes[element]);
        y.extend(pack(&nibbles));
    }
    Ok(y)
}

/// The inverse of [`pack_i32`].
///
/// # Errors
/// Class Input unless the bytes are a multiple of 4.
pub fn unpack_i32(order: WordOrder, x: &[u8]) -> Result<Vec<u8>> {
    if !x.len().is_multiple_of(4) {
        return Err(misfit("x", "words of 4 bytes", x.len()));
    }
    let mut y = vec![0; area("y", &[x.len(), 2])?];
    for (codes, word) in y.chunks_exact_mut(8).zip(x.chunks_exact(4)) {
        for (element, nibble) in order.elements().into_iter().zip(unpack(word)) {
            codes[element] = nibble;
        }
    }
    Ok(y)
}

/// Codes of 4 bits, one per byte, two to a byte, the even one in the low nibble.
///
/// # Errors
/// Class Input unless the codes are even in number and below 16.
pub fn pack_nibbles(x: &[u8]) -> Result<Vec<u8>> {
    expect_codes(2, x)?;
    Ok(pack(x))
}

/// The inverse of [`pack_nibbles`].
pub fn unpack_nibbles(x: &[u8]) -> Vec<u8> {
    unpack(x)
}

fn expect_codes(multiple: usize, x: &[u8]) -> Result<()> {
    if !x.len().is_multiple_of(multiple) {
        return Err(misfit("x", format!("a multiple of {multiple} codes"), x.len()));
    }
    match x.iter().find(|code| **code > 15) {
        Some(code) => Err(misfit("x", "codes below 16, one per byte", code)),
        None => Ok(()),
    }
}

const fn kernel(
    name: &'static str,
    semantics: &'static str,
    inputs: &'static [Arg],
    outputs: &'static [Arg],
    params: &'static [Param],
    run: fn(&Call<'_>) -> Result<Arrays>,
) -> Kernel {
    Kernel { name, semantics, inputs, outputs, params, run }
}

const ORDER: Param = Param { name: "order", values: "ct | awq", default: "\"ct\"" };
const ROWS: Param = Param { name: "rows", values: "M", default: "null" };
const COLS: Param = Param { name: "cols", values: "N", default: "null" };
const KG: Param = Param { name: "cols", values: "Kg", default: "null" };

/// The kernels of this file, in order.
pub const KERNELS: &[Kernel] = &[
    kernel(
        "layout_ue8m0_pack",
        "Four consecutive K groups per word, lowest byte first, zero padded.",
        &[arg("x", "e8[MN,Kg]")],
        &[arg("y", "s32[MN,⌈Kg/4⌉]")],
        &[],
        run_ue8m0_pack,
    ),
    kernel(
        "layout_ue8m0_unpack",
        "Inverse of layout_ue8m0_pack; Kg = the last dimension of y, which cols gives (without it all 4·Kw codes).",
        &[arg("x", "s32[MN,Kw]")],
        &[arg("y", "e8[MN,Kg]")],
        &[KG],
        run_ue8m0_unpack,
    ),
    kernel(
        "layout_ue8m0_tma",
        "Words transposed: MN-major, the stride padded to 16 bytes with zeros.",
        &[arg("x", "s32[MN,Kw]")],
        &[arg("y", "s32[Kw,⌈MN/4⌉·4]")],
        &[],
        run_ue8m0_tma,
    ),
    kernel(
        "layout_nz",
        "FRACTAL_NZ tiles, n0 = 32 bytes of elements, zero padded.",
        &[arg("x", "any[M,N]")],
        &[arg("y", "any[⌈N/n0⌉,⌈M/16⌉,16,n0]")],
        &[],
        run_nz,
    ),
    kernel(
        "layout_nz_inverse",
        "The first M rows and N columns of the un-tiled x; M and N are those of y, which rows and cols give (without them all \
         of the tiles).",
        &[arg("x", "any[⌈N/n0⌉,⌈M/16⌉,16,n0]")],
        &[arg("y", "any[M,N]")],
        &[ROWS, COLS],
        run_nz_inverse,
    ),
    kernel(
        "layout_interleave",
        "Gate rows then up rows become gate row i at 2i and up row i at 2i+1.",
        &[arg("x", "any[2I,K]")],
        &[arg("y", "any[2I,K]")],
        &[],
        |call| rows_moved(call, interleave),
    ),
    kernel(
        "layout_deinterleave",
        "Inverse of layout_interleave.",
        &[arg("x", "any[2I,K]")],
        &[arg("y", "any[2I,K]")],
        &[],
        |call| rows_moved(call, deinterleave),
    ),
    kernel(
        "layout_nibble_swap",
        "The two nibbles of every byte exchanged; its own inverse.",
        &[arg("x", "u8[..]")],
        &[arg("y", "u8[..]")],
        &[],
        run_nibble_swap,
    ),
    kernel(
        "layout_pack_i32",
        "Nibble i of word c holds element 8c+O[i]; O = 0..7 (ct, gptq) or 0,2,4,6,1,3,5,7 (awq).",
        &[arg("x", "u4 one per byte[R,K]")],
        &[arg("y", "s32[R,K/8]")],
        &[ORDER],
        run_pack_i32,
    ),
    kernel(
        "layout_pack_nibbles",
        "Two codes to a byte, the even index in the low nibble.",
        &[arg("x", "codes one per byte[..,K]")],
        &[arg("y", "[..,K/2]")],
        &[],
        run_pack_nibbles,
    ),
];

/// The argument in any format, as long as its bytes are those of its shape.
fn any<'a>(call: &Call<'a>) -> Result<&'a Array> {
    let x = call.input("x")?;
    checked("x", x, &[x.dtype])
}

fn typed<'a>(call: &Call<'a>, dtypes: &[Dtype]) -> Result<&'a Array> {
    checked("x", call.input("x")?, dtypes)
}

fn one(dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8>) -> Arrays {
    [("y".to_owned(), Array::new(dtype, shape, bytes))].into()
}

/// The size that the parameter gives, or `default`; null is none.
fn size(call: &Call<'_>, name: &str, default: usize) -> Result<usize> {
    match call.params.get(name) {
        None | Some(serde_json::Value::Null) => Ok(default),
        Some(_) => count(call, name, default),
    }
}

fn run_ue8m0_pack(call: &Call<'_>) -> Result<Arrays> {
    let x = typed(call, &[Dtype::F8E8M0, Dtype::U8])?;
    let [rows, cols] = axes("x", x)?;
    Ok(one(Dtype::I32, vec![rows, cols.div_ceil(4)], ue8m0_pack([rows, cols], &x.bytes)?))
}

fn run_ue8m0_unpack(call: &Call<'_>) -> Result<Arrays> {
    let x = typed(call, &[Dtype::I32])?;
    let [rows, words] = axes("x", x)?;
    let cols = size(call, "cols", words.saturating_mul(4))?;
    let y = ue8m0_unpack([rows, words], cols, &x.bytes)?;
    Ok(one(call.wanted("y", Dtype::F8E8M0), vec![rows, cols], y))
}

fn run_ue8m0_tma(call: &Call<'_>) -> Result<Arrays> {
    let x = typed(call, &[Dtype::I32])?;
    let [rows, words] = axes("x", x)?;
    Ok(one(Dtype::I32, vec![words, padded(rows, 4)?], ue8m0_tma([rows, words], &x.bytes)?))
}

fn run_nz(call: &Call<'_>) -> Result<Arrays> {
    let x = any(call)?;
    let shape = axes("x", x)?;
    let y = nz(x.item_size(), shape, &x.bytes)?;
    Ok(one(x.dtype, nz_shape(x.item_size(), shape)?.to_vec(), y))
}

fn run_nz_inverse(call: &Call<'_>) -> Result<Arrays> {
    let x = any(call)?;
    let [col_tiles, row_tiles, _, n0] = axes("x", x)?;
    let rows = size(call, "rows", row_tiles.saturating_mul(NZ_ROWS))?;
    let cols = size(call, "cols", col_tiles.saturating_mul(n0))?;
    let expected = nz_shape(x.item_size(), [rows, cols])?;
    if x.shape != expected {
        return Err(misfit("x", format!("{expected:?} for [{rows}, {cols}]"), format!("{:?}", x.shape)));
    }
    Ok(one(x.dtype, vec![rows, cols], nz_inverse(x.item_size(), [rows, cols], &x.bytes)?))
}

fn rows_moved(call: &Call<'_>, permute: fn(usize, &[u8]) -> Result<Vec<u8>>) -> Result<Arrays> {
    let x = any(call)?;
    let [rows, cols] = axes("x", x)?;
    if !rows.is_multiple_of(2) {
        return Err(misfit("x", "an even number of rows", rows));
    }
    let y = permute(cols.saturating_mul(x.item_size()), &x.bytes)?;
    Ok(one(x.dtype, vec![rows, cols], y))
}

fn run_nibble_swap(call: &Call<'_>) -> Result<Arrays> {
    let x = any(call)?;
    if x.item_size() != 1 {
        return Err(misfit("x", "bytes", x.dtype.golden_name()));
    }
    Ok(one(x.dtype, x.shape.clone(), nibble_swap(&x.bytes)))
}

fn run_pack_i32(call: &Call<'_>) -> Result<Arrays> {
    let x = typed(call, &[Dtype::U8])?;
    let [rows, cols] = axes("x", x)?;
    if !cols.is_multiple_of(8) {
        return Err(misfit("x", "a multiple of 8 columns", cols));
    }
    let order =
        choice(call, "order", &[("ct", WordOrder::Ct), ("gptq", WordOrder::Ct), ("awq", WordOrder::Awq)])?;
    Ok(one(Dtype::I32, vec![rows, cols / 8], pack_i32(order, &x.bytes)?))
}

fn run_pack_nibbles(call: &Call<'_>) -> Result<Arrays> {
    let x = typed(call, &[Dtype::U8, Dtype::I8])?;
    let Some((cols, outer)) = x.shape.split_last() else {
        return Err(misfit("x", "an axis", "none"));
    };
    if !cols.is_multiple_of(2) {
        return Err(misfit("x", "an even number of codes per row", cols));
    }
    let shape = outer.iter().copied().chain([cols / 2]).collect();
    let dtype = call.wanted("y", Dtype::U8);
    if !matches!(dtype, Dtype::U8 | Dtype::U4 | Dtype::I4 | Dtype::F4E2M1) {
        return Err(misfit("y", "U8, U4, I4 or F4 as the output's format", dtype.golden_name()));
    }
    // Signed codes from −8 to 7 are the nibbles of their two's complement.
    let signed = |byte: &u8| if x.dtype == Dtype::I8 && *byte >= 0xF8 { byte & 15 } else { *byte };
    Ok(one(dtype, shape, pack_nibbles(&x.bytes.iter().map(signed).collect::<Vec<_>>())?))
}
