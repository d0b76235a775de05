//! The scales of [`Rule::Ssz7`](crate::dtype::scheme::Rule::Ssz7) for whole rows.
//!
//! The rule's sums run along a row, one addition after the other. Eight rows at a time, one in each lane, keep that order
//! and fill vectors.

use super::StepScales;
use super::segment::{BLOCK, Rows, SEGMENT, Segment};
use crate::kernel::encode::{LARGEST_QUOTIENT, round_to_int};
use crate::kernel::isa::{Body, dispatch};
use crate::kernel::reference::{SSZ_ROUNDS, amax7_eps, ssz_next};
use crate::kernel::stats::LANES;

/// Rows of a group.
const ROWS: usize = 8;

/// Columns of a block of a group.
const COLS: usize = BLOCK / ROWS;

/// The scale of every row; NaN for rows that are left to others, because of their values. Nothing where rows are not units.
pub(super) fn scales(source: &Rows<'_>) -> Vec<f32> {
    let tile = &source.tile;
    if tile.unit_shape[0] != 1 || tile.unit_shape[1] < tile.cols {
        return Vec::new();
    }
    let mut found = Vec::with_capacity(tile.rows);
    let mut blocks = vec![[0.0; BLOCK]; tile.cols.div_ceil(COLS)];
    let mut segment = Segment::new();
    let mut step_scales = StepScales::new(tile.cols);
    for first_row in (0..tile.rows).step_by(ROWS) {
        let rows = ROWS.min(tile.rows - first_row);
        let mut amax = [0.0; ROWS];
        let mut left = [false; ROWS];
        blocks.fill([0.0; BLOCK]);
        for lane in 0..rows {
            for start in (0..tile.cols).step_by(SEGMENT) {
                let cols = start..tile.cols.min(start + SEGMENT);
                source.decode(first_row + lane, cols.clone(), &mut step_scales, &mut segment);
                for step in 0..cols.len().div_ceil(LANES) {
                    let magnitude = segment.amax[step];
                    left[lane] |= segment.hidden[step] || !magnitude.is_finite();
                    amax[lane] = if magnitude > amax[lane] { magnitude } else { amax[lane] };
                }
                let lines = segment.values[..cols.len()].chunks(COLS);
                for (line, block) in lines.zip(&mut blocks[start / COLS..]) {
                    for (value, lanes) in line.iter().zip(block.as_chunks_mut::<ROWS>().0) {
                        lanes[lane] = *value;
                    }
                }
            }
            if left[lane] {
                // Values that are not finite must not meet the other rows' arithmetic traps.
                blocks.iter_mut().flat_map(|b| b.as_chunks_mut::<ROWS>().0).for_each(|l| l[lane] = 0.0);
                amax[lane] = 0.0;
            }
        }
        let scales = dispatch(source.isa, Group { blocks: &blocks, amax });
        found.extend((0..rows).map(|lane| if left[lane] { f32::NAN } else { scales[lane] }));
    }
    found
}

/// The search for the scales of a group; element `[column, row]` of a block is the value.
struct Group<'a> {
    blocks: &'a [[f32; BLOCK]],
    amax: [f32; ROWS],
}

impl Body for Group<'_> {
    type Out = [f32; ROWS];

    #[inline(always)]
    fn run(self) -> [f32; ROWS] {
        let Self { blocks, amax } = self;
        let mut scales = [0.0; ROWS];
        for lane in 0..ROWS {
            scales[lane] = amax7_eps(amax[lane]);
        }
        let mut sums = sums(blocks, &scales);
        let (mut best, mut least) = (scales, sums.error);
        let mut active = [true; ROWS];
        for _ in 0..SSZ_ROUNDS {
            let mut any = false;
            for lane in 0..ROWS {
                let next = ssz_next(sums.xq[lane], sums.qq[lane]);
                active[lane] &= next != scales[lane] && next > 0.0 && next.is_finite();
                if active[lane] && amax[lane] / next >= LARGEST_QUOTIENT {
                    active[lane] = false;
                    least[lane] = f64::NAN;
                    best[lane] = f32::NAN;
                }
                scales[lane] = if active[lane] { next } else { scales[lane] };
                any |= active[lane];
            }
            if !any {
                break;
            }
            sums = self::sums(blocks, &scales);
            for lane in 0..ROWS {
                if active[lane] && sums.error[lane] < least[lane] {
                    (best[lane], least[lane]) = (scales[lane], sums.error[lane]);
                }
            }
        }
        best
    }
}

/// Sums of a round, by row: Σ x·q, Σ q·q, Σ (x − q·s)².
struct Sums {
    xq: [f64; ROWS],
    qq: [f64; ROWS],
    error: [f64; ROWS],
}

#[inline(always)]
fn sums(blocks: &[[f32; BLOCK]], scales: &[f32; ROWS]) -> Sums {
    let mut scale = [0.0; BLOCK];
    for i in 0..BLOCK {
        scale[i] = scales[i % ROWS];
    }
    let mut wide = [0.0; ROWS];
    for lane in 0..ROWS {
        wide[lane] = f64::from(scales[lane]);
    }
    let mut codes = [0.0; BLOCK];
    let (mut xq, mut qq, mut error) = ([0.0; ROWS], [0.0; ROWS], [0.0; ROWS]);
    for block in blocks {
        for i in 0..BLOCK {
            codes[i] = round_to_int(block[i] / scale[i]).clamp(-8, 7) as f32;
        }
        for (x, q) in block.as_chunks::<ROWS>().0.iter().zip(codes.as_chunks::<ROWS>().0) {
            for lane in 0..ROWS {
                let (x, q) = (f64::from(x[lane]), f64::from(q[lane]));
                let e = x - q * wide[lane];
                xq[lane] += x * q;
                qq[lane] += q * q;
                error[lane] += e * e;
            }
        }
    }
    Sums { xq, qq, error }
}
