//! Exact sums of products, at the speed of the processor.
//!
//! An exact sum has no order, so these loops are free to tile, to vectorize and to add in lanes: every instruction set
//! gives the same bits. Products of E4M3, E2M1 and their mixtures are multiples of 2^-18 below 2^17.7, whose sums `f64`
//! holds exactly up to [`EXACT`] of them; longer sums continue in integers. Products with E5M2 are summed in integers.

use super::hardware::{Mode, Scaling};
use crate::dtype::Dtype;
use crate::dtype::codec::decode_table;
use crate::kernel::isa::{Body, Isa, dispatch};

/// Rows, columns and depth of a product `C[m,n] = A[m,k]·B[n,k]ᵀ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows of A and C.
    pub m: usize,
    /// Rows of B, columns of C.
    pub n: usize,
    /// Columns of A and B.
    pub k: usize,
}

/// One factor of a product: codes of `rows × k` elements, row-major, under a grid of scales.
#[derive(Clone, Copy, Debug)]
pub struct Factor<'a> {
    /// `F8E4M3`, `F8E5M2` or `F4E2M1`.
    pub dtype: Dtype,
    /// One byte each; two to a byte for `F4E2M1`, whose `k` is even.
    pub codes: &'a [u8],
    /// `[⌈rows / block[0]⌉, ⌈k / block[1]⌉]`, row-major.
    pub scales: &'a [f32],
    /// Rows and columns that share a scale.
    pub block: [usize; 2],
}

/// A product of scaled factors, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    pub(super) size: Size,
    pub(super) a: Factor<'a>,
    pub(super) b: Factor<'a>,
    /// Elements of K that are summed before scales apply.
    pub(super) block: usize,
    /// Whether the scaled sums of blocks are added to +0, or the only block's is the result.
    pub(super) accumulate: bool,
    pub(super) mode: Mode,
    pub(super) scaling: Scaling,
}

/// Columns of C computed together.
const COLUMNS: usize = 8;
/// Most rows of C computed together.
const ROWS: usize = 16;
/// Elements of K that are decoded at a time.
const PIECE: usize = 256;
/// Products of E4M3 whose sum is exact in `f64`: 448² · 2^18 · 2^17 < 2^53.
const EXACT: usize = 1 << 17;
/// `f64` values of a panel of A, half a megabyte of them.
const PANEL: usize = 1 << 16;

impl Factor<'_> {
    /// The scale of element `col` of `row`.
    #[inline(always)]
    fn scale(&self, row: usize, col: usize, k: usize) -> f32 {
        let per_row = k.div_ceil(self.block[1]);
        self.scales[row / self.block[0] * per_row + col / self.block[1]]
    }

    /// Decodes elements `first..` of `row` into `out`.
    #[inline(always)]
    fn decode(&self, table: &[f64; 256], row: usize, k: usize, first: usize, out: &mut [f64]) {
        if self.dtype == Dtype::F4E2M1 {
            // K is even, so a row starts at a whole byte; `first` may be odd only for a block of odd length.
            for (i, out) in out.iter_mut().enumerate() {
                let element = row * k + first + i;
                *out = table[usize::from(self.codes[element / 2] >> (element % 2 * 4) & 15)];
            }
        } else {
            let codes = &self.codes[row * k + first..][..out.len()];
            for (out, code) in out.iter_mut().zip(codes) {
                *out = table[usize::from(*code)];
            }
        }
    }
}

/// The values of codes, exact.
fn table(dtype: Dtype) -> [f64; 256] {
    decode_table(dtype).map(f64::from)
}

/// Computes a product; `out` is `[m, n]`.
pub(super) fn product(product: &Product<'_>, out: &mut [f32]) {
    product_on(Isa::chosen(), product, out);
}

fn product_on(isa: Isa, product: &Product<'_>, out: &mut [f32]) {
    let Size { m, n, k } = product.size;
    out.fill(0.0);
    if k == 0 || n == 0 {
        return;
    }
    let tables = [table(product.a.dtype), table(product.b.dtype)];
    let five = |f: &Factor<'_>| f.dtype == Dtype::F8E5M2;
    let whole = product.mode != Mode::Exact || five(&product.a) || five(&product.b);
    let rows = (PANEL / k).clamp(4, ROWS).min(m);
    let mut panel = vec![0.0f64; rows * k];
    let mut line = vec![0.0f64; if whole { k } else { 0 }];
    for first_row in (0..m).step_by(rows.max(1)) {
        let count = rows.min(m - first_row);
        for (i, row) in panel.chunks_exact_mut(k).take(count).enumerate() {
            product.a.decode(&tables[0], first_row + i, k, 0, row);
        }
        let panel = Panel { product, tables: &tables, values: &panel, first_row, count };
        if whole {
            for col in 0..n {
                product.b.decode(&tables[1], col, k, 0, &mut line);
                dispatch(isa, Whole { panel, col, line: &line, out });
            }
        } else {
            for first_col in (0..n).step_by(COLUMNS) {
                dispatch(isa, Tile { panel, first_col, out });
            }
        }
    }
}

/// Decoded rows of A.
#[derive(Clone, Copy)]
struct Panel<'a> {
    product: &'a Product<'a>,
    tables: &'a [[f64; 256]; 2],
    values: &'a [f64],
    first_row: usize,
    count: usize,
}

impl Panel<'_> {
    /// `acc` with the sum `d` of the block at `first` of K.
    #[inline(always)]
    fn scaled(&self, acc: f32, d: f32, row: usize, col: usize, first: usize) -> f32 {
        let Product { size, a, b, scaling, accumulate, .. } = self.product;
        let (sa, sb) = (a.scale(self.first_row + row, first, size.k), b.scale(col, first, size.k));
        if *accumulate { scaling.add(acc, d, sa, sb) } else { scaling.product(d, sa, sb) }
    }
}

/// [`COLUMNS`] columns of a panel by exact sums in `f64`. The columns are the lanes: a step multiplies one element of a row
/// with an element of each.
struct Tile<'a> {
    panel: Panel<'a>,
    first_col: usize,
    out: &'a mut [f32],
}

impl Body for Tile<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Panel { product, tables, values, first_row, count } = self.panel;
        let Product { size: Size { n, k, .. }, a, b, scaling, accumulate, .. } = product;
        let (n, k) = (*n, *k);
        let cols = COLUMNS.min(n - self.first_col);
        let mut tile = [[0.0f64; COLUMNS]; PIECE];
        let mut line = [0.0f64; PIECE];
        let mut accs = [[0.0f32; COLUMNS]; ROWS];
        for block in (0..k).step_by(product.block) {
            let end = block.saturating_add(product.block).min(k);
            let mut sums = [[0.0f64; COLUMNS]; ROWS];
            let mut long: Option<Box<Long>> = None;
            for (index, piece) in (block..end).step_by(PIECE).enumerate() {
                if index > 0 && index % (EXACT / PIECE) == 0 {
                    long.get_or_insert_default().add(&mut sums);
                }
                let len = PIECE.min(end - piece);
                for j in 0..cols {
                    b.decode(&tables[1], self.first_col + j, k, piece, &mut line[..len]);
                    for (tile, x) in tile.iter_mut().zip(&line[..len]) {
                        tile[j] = *x;
                    }
                }
                let row = |i: usize| &values[i * k + piece..][..len];
                let mut groups = sums[..count].chunks_exact_mut(4);
                for (group, sums) in (&mut groups).enumerate() {
                    dots(std::array::from_fn::<_, 4, _>(|i| row(group * 4 + i)), &tile[..len], sums);
                }
                let rest = groups.into_remainder();
                for (i, sums) in rest.chunks_exact_mut(1).enumerate() {
                    dots([row(count / 4 * 4 + i)], &tile[..len], sums);
                }
            }
            let mut sb = [0.0f32; COLUMNS];
            for (j, sb) in sb.iter_mut().enumerate().take(cols) {
                *sb = b.scale(self.first_col + j, block, k);
            }
            for (i, (sums, accs)) in sums.iter().zip(&mut accs).enumerate().take(count) {
                let sa = a.scale(first_row + i, block, k);
                let mut d = sums.map(|sum| sum as f32);
                if let Some(long) = &long {
                    d = std::array::from_fn(|j| long.total(i, j, sums[j]));
                }
                for (acc, (d, sb)) in accs.iter_mut().zip(d.into_iter().zip(sb)) {
                    *acc =
                        if *accumulate { scaling.add(*acc, d, sa, sb) } else { scaling.product(d, sa, sb) };
                }
            }
        }
        for (i, accs) in accs.iter().enumerate().take(count) {
            let out = &mut self.out[(first_row + i) * n + self.first_col..][..cols];
            out.copy_from_slice(&accs[..cols]);
        }
    }
}

/// Adds the dot products of rows with the columns of a tile to `sums`, one entry per row.
#[inline(always)]
fn dots<const R: usize>(rows: [&[f64]; R], tile: &[[f64; COLUMNS]], sums: &mut [[f64; COLUMNS]]) {
    let rows = rows.map(|row| &row[..tile.len()]);
    let mut lanes = [[0.0f64; COLUMNS]; R];
    for (at, columns) in tile.iter().enumerate() {
        for (lanes, row) in lanes.iter_mut().zip(&rows) {
            let x = row[at];
            for (lane, column) in lanes.iter_mut().zip(columns) {
                *lane += x * column;
            }
        }
    }
    for (sums, lanes) in sums.iter_mut().zip(lanes) {
        for (sum, lane) in sums.iter_mut().zip(lanes) {
            *sum += lane;
        }
    }
}

/// Sums of more than [`EXACT`] products, in units of 2^-18.
#[derive(Default)]
struct Long {
    sums: [[i128; COLUMNS]; ROWS],
    not_finite: [[f64; COLUMNS]; ROWS],
}

/// 2^18.
const UNITS: f64 = 262_144.0;

impl Long {
    /// Takes over partial sums and leaves zeros.
    fn add(&mut self, partial: &mut [[f64; COLUMNS]; ROWS]) {
        for (i, partial) in partial.iter_mut().enumerate() {
            for (j, partial) in partial.iter_mut().enumerate() {
                let sum = std::mem::take(partial);
                if sum.is_finite() {
                    self.sums[i][j] += (sum * UNITS) as i128;
                } else {
                    self.not_finite[i][j] += sum;
                }
            }
        }
    }

    /// The whole sum, rounded once.
    fn total(&self, row: usize, col: usize, partial: f64) -> f32 {
        let special = self.not_finite[row][col] + partial;
        if special.is_nan() {
            return f32::NAN;
        }
        (self.sums[row][col] + (partial * UNITS) as i128) as f32 / UNITS as f32
    }
}

/// One column of a panel by any mode, blocks as they are.
struct Whole<'a> {
    panel: Panel<'a>,
    col: usize,
    line: &'a [f64],
    out: &'a mut [f32],
}

impl Body for Whole<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Panel { product, values, first_row, count, .. } = self.panel;
        let Size { n, k, .. } = product.size;
        for i in 0..count {
            let row = &values[i * k..][..k];
            let mut acc = 0.0f32;
            for block in (0..k).step_by(product.block) {
                let end = block.saturating_add(product.block).min(k);
                let (a, b) = (&row[block..end], &self.line[block..end]);
                let d = match product.mode {
                    Mode::Exact => integers(a, b),
                    Mode::Sequential => sequential(a, b),
                    Mode::Hardware(hardware) => hardware.dot(a, b),
                };
                acc = self.panel.scaled(acc, d, i, self.col, block);
            }
            self.out[(first_row + i) * n + self.col] = acc;
        }
    }
}

/// The exact dot product of E5M2 with E5M2 or E4M3, rounded once. Products are multiples of 2^-32 of at most 64 bits.
fn integers(a: &[f64], b: &[f64]) -> f32 {
    /// 2^32.
    const UNITS: f64 = 4_294_967_296.0;
    let mut sum = 0i128;
    let mut special = 0.0f64;
    for (a, b) in a.iter().zip(b) {
        let product = a * b;
        if product.is_finite() {
            sum += (product * UNITS) as i128;
        } else {
            special += product;
        }
    }
    if special == 0.0 { sum as f32 / UNITS as f32 } else { special as f32 }
}

/// The dot product in `f32`, in sequence from +0.
#[inline(always)]
fn sequential(a: &[f64], b: &[f64]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + *a as f32 * *b as f32)
}

/// Exact integer dot products of the rows of `a` with those of `b`: `put` gets row, column and sum, columns in groups.
pub(super) fn int8_dots(size: Size, a: &[i8], b: &[i8], put: impl FnMut(usize, usize, i64)) {
    if size.k == 0 {
        let mut put = put;
        for row in 0..size.m {
            for col in 0..size.n {
                put(row, col, 0);
            }
        }
        return;
    }
    int8_dots_on(Isa::chosen(), size, a, b, put);
}

fn int8_dots_on(isa: Isa, size: Size, a: &[i8], b: &[i8], put: impl FnMut(usize, usize, i64)) {
    dispatch(isa, Int8 { size, a, b, put });
}

struct Int8<'a, F> {
    size: Size,
    a: &'a [i8],
    b: &'a [i8],
    put: F,
}

/// Elements of int8 that are widened at a time. Sums of so many products fit `i32`.
const WIDE: usize = 4096;

impl<F: FnMut(usize, usize, i64)> Body for Int8<'_, F> {
    type Out = ();

    #[inline(always)]
    fn run(mut self) {
        let Size { m, n, k } = self.size;
        let widened = |wide: &mut [i16], codes: &[i8]| {
            for (wide, code) in wide.iter_mut().zip(codes) {
                *wide = i16::from(*code);
            }
        };
        let mut panel = vec![0i16; ROWS.min(m) * k];
        let mut column = [0i16; WIDE];
        for first_row in (0..m).step_by(ROWS) {
            let count = ROWS.min(m - first_row);
            widened(&mut panel, &self.a[first_row * k..][..count * k]);
            for col in 0..n {
                let mut sums = [0i64; ROWS];
                for first in (0..k).step_by(WIDE) {
                    let len = WIDE.min(k - first);
                    widened(&mut column, &self.b[col * k + first..][..len]);
                    for (sum, row) in sums.iter_mut().zip(panel.chunks_exact(k)).take(count) {
                        let products = row[first..first + len].iter().zip(&column[..len]);
                        *sum += i64::from(products.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>());
                    }
                }
                for (i, sum) in sums.iter().enumerate().take(count) {
                    (self.put)(first_row + i, col, *sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::hardware::{Hardware, Order};
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let size = Size { m: 19, n: 7, k: 1000 };
        let byte = |i: usize| (i.wrapping_mul(0x9E37_79B1) >> 13) as u8;
        let codes = |n: usize| (0..n * size.k).map(byte).map(|c| if c & 0x7F == 0x7F { 0x11 } else { c });
        let (a, b): (Vec<u8>, Vec<u8>) = (codes(size.m).collect(), codes(size.n).collect());
        let scales: Vec<f32> = (1..=size.m * 8).map(|i| 1.0 / i as f32).collect();
        let factor = |codes, rows: usize| Factor {
            dtype: Dtype::F8E4M3,
            codes,
            scales: &scales[..rows * 8],
            block: [1, 128],
        };
        for mode in [Mode::Exact, Mode::Sequential, Mode::Hardware(Hardware::default())] {
            let scaling = Scaling::new(Order::Joint);
            let [a, b] = [factor(&a[..], size.m), factor(&b[..], size.n)];
            let product = Product { size, a, b, block: 128, accumulate: true, mode, scaling };
            let results: Vec<Vec<u32>> = Isa::available()
                .into_iter()
                .map(|isa| {
                    let mut out = vec![0.0; size.m * size.n];
                    product_on(isa, &product, &mut out);
                    out.iter().map(|x| x.to_bits()).collect()
                })
                .collect();
            assert!(results.iter().all(|r| *r == results[0]), "{mode:?}");
        }
        let signed = |codes: &[u8]| codes.iter().map(|c| c.cast_signed()).collect::<Vec<i8>>();
        let (a, b) = (signed(&a), signed(&b));
        for isa in Isa::available() {
            int8_dots_on(isa, size, &a, &b, |row, col, sum| {
                let (a, b) = (&a[row * size.k..][..size.k], &b[col * size.k..][..size.k]);
                let want: i64 = a.iter().zip(b).map(|(a, b)| i64::from(*a) * i64::from(*b)).sum();
                assert_eq!(sum, want, "{} {row} {col}", isa.name());
            });
        }
    }
}
