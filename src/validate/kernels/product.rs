//! Dot products of a few tokens with many weight rows, in `f64`.
//!
//! Each product of two inputs is exact in `f64` and each sum runs over K in ascending order, so the bits depend on no
//! instruction set and no split into bands. Sums of codes (integers, E4M3 × E4M3 within K ≤ 171,000) are exact
//! altogether. Eight tokens at a time are the lanes of a vector: a lane is one sum.

use crate::kernel::isa::{Body, Isa, dispatch};

/// Tokens whose sums run side by side.
pub(crate) const LANES: usize = 8;

/// Activations, packed for [`dots`]: groups of [`LANES`] tokens, each `[cols][LANES]`.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) tokens: usize,
    pub(crate) cols: usize,
    groups: Vec<Vec<[f64; LANES]>>,
}

impl Packed {
    /// Packs `x`, `[tokens, cols]` row-major.
    pub(crate) fn new(x: &[f32], tokens: usize, cols: usize) -> Self {
        let mut groups = vec![vec![[0.0; LANES]; cols]; tokens.div_ceil(LANES)];
        for (token, row) in x.chunks_exact(cols.max(1)).take(tokens).enumerate() {
            for (at, value) in groups[token / LANES].iter_mut().zip(row) {
                at[token % LANES] = f64::from(*value);
            }
        }
        Self { tokens, cols, groups }
    }
}

/// The dot products of `w` (`[rows, cols]`, row-major) with every token, per block of `block` columns:
/// `out[(row × blocks + b) × padded + token]`, `padded` being the tokens rounded up to [`LANES`].
pub(crate) fn dots(x: &Packed, w: &[f32], block: usize) -> Vec<f64> {
    let (cols, padded) = (x.cols, x.groups.len() * LANES);
    let blocks = cols.div_ceil(block.max(1));
    let rows = w.len().checked_div(cols).unwrap_or(0);
    let mut out = vec![0.0; rows * blocks * padded];
    for (group, lanes) in x.groups.iter().enumerate() {
        let body = Dots { x: lanes, w, cols, block, padded, first: group * LANES, out: &mut out };
        dispatch(Isa::chosen(), body);
    }
    out
}

struct Dots<'a> {
    x: &'a [[f64; LANES]],
    w: &'a [f32],
    cols: usize,
    block: usize,
    padded: usize,
    first: usize,
    out: &'a mut [f64],
}

impl Body for Dots<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, w, cols, block, padded, first, out } = self;
        if cols == 0 || block == 0 {
            return;
        }
        let blocks = cols.div_ceil(block);
        // Four rows at a time hide the latency of the additions.
        let mut row = 0;
        let mut quads = w.chunks_exact(4 * cols);
        for quad in &mut quads {
            let (a, rest) = quad.split_at(cols);
            let (b, rest) = rest.split_at(cols);
            let (c, d) = rest.split_at(cols);
            for (index, at) in (0..cols).step_by(block).enumerate() {
                let end = (at + block).min(cols);
                let sums = four(&x[at..end], &a[at..end], &b[at..end], &c[at..end], &d[at..end]);
                for (i, sum) in sums.iter().enumerate() {
                    let to = ((row + i) * blocks + index) * padded + first;
                    out[to..to + LANES].copy_from_slice(sum);
                }
            }
            row += 4;
        }
        for one in quads.remainder().chunks_exact(cols) {
            for (index, at) in (0..cols).step_by(block).enumerate() {
                let end = (at + block).min(cols);
                let mut sum = [0.0f64; LANES];
                for (lanes, w) in x[at..end].iter().zip(&one[at..end]) {
                    add(&mut sum, lanes, *w);
                }
                let to = (row * blocks + index) * padded + first;
                out[to..to + LANES].copy_from_slice(&sum);
            }
            row += 1;
        }
    }
}

#[inline(always)]
fn four(x: &[[f64; LANES]], a: &[f32], b: &[f32], c: &[f32], d: &[f32]) -> [[f64; LANES]; 4] {
    let mut sums = [[0.0f64; LANES]; 4];
    for ((((lanes, a), b), c), d) in x.iter().zip(a).zip(b).zip(c).zip(d) {
        add(&mut sums[0], lanes, *a);
        add(&mut sums[1], lanes, *b);
        add(&mut sums[2], lanes, *c);
        add(&mut sums[3], lanes, *d);
    }
    sums
}

#[inline(always)]
fn add(sum: &mut [f64; LANES], x: &[f64; LANES], w: f32) {
    let w = f64::from(w);
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += x * w;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::kernels::seed::Stream;

    #[test]
    fn sums_are_those_of_a_plain_loop_on_every_instruction_set() {
        for (tokens, rows, cols, block) in
            [(1, 1, 1, 1), (3, 5, 37, 16), (8, 9, 300, 128), (19, 6, 130, 130), (2, 0, 4, 4)]
        {
            let mut stream = Stream::new(1, "product");
            let x = stream.activations(tokens * cols);
            let w: Vec<f32> = (0..rows * cols).map(|_| stream.gaussian()).collect();
            let found = dots(&Packed::new(&x, tokens, cols), &w, block);
            let (blocks, padded) = (cols.div_ceil(block), tokens.div_ceil(LANES) * LANES);
            assert_eq!(found.len(), rows * blocks * padded);
            for row in 0..rows {
                for b in 0..blocks {
                    for token in 0..tokens {
                        let mut sum = 0.0;
                        for k in b * block..((b + 1) * block).min(cols) {
                            sum += f64::from(x[token * cols + k]) * f64::from(w[row * cols + k]);
                        }
                        let at = (row * blocks + b) * padded + token;
                        assert_eq!(found[at].to_bits(), sum.to_bits(), "{row} {b} {token}");
                    }
                }
            }
            for isa in Isa::available() {
                let packed = Packed::new(&x, tokens, cols);
                let mut out = vec![0.0; rows * blocks * padded];
                for (group, lanes) in packed.groups.iter().enumerate() {
                    let first = group * LANES;
                    let body = Dots { x: lanes, w: &w, cols, block, padded, first, out: &mut out };
                    dispatch(isa, body);
                }
                assert_eq!(out, found, "{}", isa.name());
            }
        }
    }
}
