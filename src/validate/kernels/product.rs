//! Dot products of a few tokens with many weight rows, in `f64`.
//!
//! Each product of two inputs is exact in `f64` and each sum runs over K in ascending order, so the bits depend on no
//! instruction set and no split into bands. Eight tokens at a time are the lanes of a vector: a lane is one sum.

use crate::kernel::isa::{Body, Isa, dispatch};

/// Tokens whose sums run side by side.
const LANES: usize = 8;

/// Activations, packed for [`exact_band`]: groups of [`LANES`] tokens, each `[cols][LANES]`.
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

/// The exact product of every token with a band `w` (`[rows, cols]`, row-major) of values: `[tokens][rows]`.
pub(crate) fn exact_band(x: &Packed, w: &[f32]) -> Vec<f64> {
    let rows = w.len().checked_div(x.cols).unwrap_or(0);
    let mut out = vec![0.0; rows * x.tokens];
    for (lanes, out) in x.groups.iter().zip(out.chunks_mut((rows * LANES).max(1))) {
        dispatch(Isa::chosen(), Dots { x: lanes, w, rows, out });
    }
    out
}

/// `out` is `[up to LANES tokens][rows]`.
struct Dots<'a> {
    x: &'a [[f64; LANES]],
    w: &'a [f32],
    rows: usize,
    out: &'a mut [f64],
}

impl Body for Dots<'_> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { x, w, rows, out } = self;
        let cols = x.len();
        if cols == 0 {
            return;
        }
        let mut put = |row: usize, sum: &[f64; LANES]| {
            for (line, sum) in out.chunks_exact_mut(rows).zip(sum) {
                line[row] = *sum;
            }
        };
        // Four rows at a time hide the latency of the additions.
        let mut row = 0;
        let mut quads = w.chunks_exact(4 * cols);
        for quad in &mut quads {
            let (a, rest) = quad.split_at(cols);
            let (b, rest) = rest.split_at(cols);
            let (c, d) = rest.split_at(cols);
            let mut sums = [[0.0f64; LANES]; 4];
            for ((((lanes, a), b), c), d) in x.iter().zip(a).zip(b).zip(c).zip(d) {
                add(&mut sums[0], lanes, *a);
                add(&mut sums[1], lanes, *b);
                add(&mut sums[2], lanes, *c);
                add(&mut sums[3], lanes, *d);
            }
            for (i, sum) in sums.iter().enumerate() {
                put(row + i, sum);
            }
            row += 4;
        }
        for one in quads.remainder().chunks_exact(cols) {
            let mut sum = [0.0f64; LANES];
            for (lanes, w) in x.iter().zip(one) {
                add(&mut sum, lanes, *w);
            }
            put(row, &sum);
            row += 1;
        }
    }
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
        for (tokens, rows, cols) in [(1, 1, 1), (3, 5, 37), (8, 9, 300), (19, 6, 130), (2, 0, 4), (2, 3, 0)] {
            let mut stream = Stream::new(1, "product");
            let x = stream.activations(tokens * cols);
            let w: Vec<f32> = (0..rows * cols).map(|_| stream.gaussian()).collect();
            let packed = Packed::new(&x, tokens, cols);
            let found = exact_band(&packed, &w);
            if cols == 0 {
                assert!(found.is_empty());
                continue;
            }
            assert_eq!(found.len(), rows * tokens);
            for token in 0..tokens {
                for row in 0..rows {
                    let mut sum = 0.0;
                    for k in 0..cols {
                        sum += f64::from(x[token * cols + k]) * f64::from(w[row * cols + k]);
                    }
                    assert_eq!(found[token * rows + row].to_bits(), sum.to_bits(), "{token} {row}");
                }
            }
            for isa in Isa::available() {
                let mut out = vec![0.0; rows * tokens];
                for (lanes, out) in packed.groups.iter().zip(out.chunks_mut((rows * LANES).max(1))) {
                    dispatch(isa, Dots { x: lanes, w: &w, rows, out });
                }
                assert_eq!(out, found, "{}", isa.name());
            }
        }
    }
}
