//! The fast kernels: one body for every pair of source format and sink, compiled for every instruction set.
//!
//! Values are read twice. The first pass finds the largest magnitude of each unit on the stored integers; the second
//! decodes, converts and sums errors in registers. [`wide`] takes bands of rows that share scales, [`narrow`] units of one
//! row that are a few steps long, whose cost would be that of keeping a band's units apart. Units with non-finite values,
//! and those whose magnitudes need care, go to the reference, so that the bodies have no branches on data.

mod amax;
mod narrow;
mod segment;
mod ssz;
mod wide;

pub(super) use amax::largest_magnitude;

use super::decode;
use super::encode::{
    Quantizer, ToBf16, ToE2m1, ToE4m3, ToF16, ToF32, ToInt, ToIntClamped, ToIntCt, ToIntZero,
};
use super::isa::{Isa, dispatch};
use super::reference;
use super::stats::{LANES, Stats};
use super::{Fault, Policy, Sink, Values, unit_shape};
use crate::dtype::Dtype;
use crate::dtype::scheme::Rule;
use segment::Rows;
use std::ops::Range;

/// Calls `$body` with the decoder of a tile's values as `$source` and the size of its elements as `$size`.
macro_rules! with_source {
    ($values:expr, $otherwise:expr, $body:ident::<$source:ident>($($argument:expr),*)) => {
        match $values {
            Values::Bf16(_) => $body::<decode::Bf16, 2>($($argument),*),
            Values::F16(_) => $body::<decode::F16, 2>($($argument),*),
            Values::F32(_) => $body::<decode::F32, 4>($($argument),*),
            Values::Scaled { element, .. } => match element {
                Dtype::I8 => $body::<decode::Int8, 1>($($argument),*),
                Dtype::F8E4M3 => $body::<decode::E4m3, 1>($($argument),*),
                Dtype::F8E5M2 => $body::<decode::E5m2, 1>($($argument),*),
                Dtype::F8E4M3Fnuz => $body::<decode::E4m3Fnuz, 1>($($argument),*),
                Dtype::F8E5M2Fnuz => $body::<decode::E5m2Fnuz, 1>($($argument),*),
                _ => $otherwise,
            },
        }
    };
}
use with_source;

/// Converts a tile, as [`convert`](super::convert) says. `None`: the layout is left to the reference.
pub(super) fn convert(
    isa: Isa,
    values: &Values<'_>,
    rows: usize,
    cols: usize,
    sink: &mut Sink<'_>,
    policy: Policy,
) -> Option<Result<Stats, Fault>> {
    let tile =
        Tile { values, rows, cols, grid: Grid::new(values, cols), unit_shape: unit_shape(sink, rows, cols) };
    // Steps of 16 columns must not straddle blocks.
    let whole_steps = |width: usize| width >= cols || width.is_multiple_of(LANES);
    if !(whole_steps(tile.grid.block_cols) && whole_steps(tile.unit_shape[1])) {
        return None;
    }
    if has_bad_scale(values, policy) {
        return reference::first_fault(values, rows, cols).map(Err);
    }
    let outcome = if narrow::takes(&tile, sink) {
        with_source!(values, return None, narrow_sink::<D>(isa, tile, sink, policy))
    } else {
        with_source!(values, return None, wide_sink::<D>(isa, tile, sink, policy))
    };
    match outcome? {
        Ok(stats) => Some(Ok(stats)),
        Err(NotFinite) => reference::first_fault(values, rows, cols).map(Err),
    }
}

/// Whether a scale of the source is negative or not finite, and the policy does not keep it.
fn has_bad_scale(values: &Values<'_>, policy: Policy) -> bool {
    match values {
        Values::Scaled { scales, .. } if !policy.keep_non_finite => {
            scales.iter().any(|s| !(*s >= 0.0 && s.is_finite()))
        }
        _ => false,
    }
}

/// A value that the policy does not allow was met.
struct NotFinite;

/// Picks the sink of bands.
fn wide_sink<D: decode::Decode<N>, const N: usize>(
    isa: Isa,
    tile: Tile<'_>,
    sink: &mut Sink<'_>,
    policy: Policy,
) -> Option<Result<Stats, NotFinite>> {
    use wide::Kernel;
    Some(match sink {
        Sink::Cast { to: Dtype::BF16, .. } => {
            dispatch(isa, Kernel::<D, ToBf16, N, 2>::new(tile, sink, policy, ()))
        }
        Sink::Cast { to: Dtype::F16, .. } => {
            dispatch(isa, Kernel::<D, ToF16, N, 2>::new(tile, sink, policy, ()))
        }
        Sink::Cast { to: Dtype::F32, .. } => {
            dispatch(isa, Kernel::<D, ToF32, N, 4>::new(tile, sink, policy, ()))
        }
        Sink::Cast { .. } => return None,
        Sink::Quantize { scheme, global, .. } => {
            let setup = Quantizer { scheme: *scheme, global: *global };
            match scheme.rule {
                Rule::Amax127 | Rule::Amax127Bf16 | Rule::Amax7 | Rule::Amax7Eps => {
                    dispatch(isa, Kernel::<D, ToInt, N, 1>::new(tile, sink, policy, setup))
                }
                Rule::Amax127Half | Rule::Amax7Half => {
                    dispatch(isa, Kernel::<D, ToIntClamped, N, 1>::new(tile, sink, policy, setup))
                }
                Rule::Ssz7 => {
                    let found = ssz::scales(&Rows::new::<D, N>(isa, tile));
                    let kernel = Kernel::<D, ToIntClamped, N, 1>::new(tile, sink, policy, setup);
                    dispatch(isa, kernel.with_scales(found))
                }
                Rule::Ct127Bf16 | Rule::Ct7Bf16 => {
                    dispatch(isa, Kernel::<D, ToIntCt, N, 1>::new(tile, sink, policy, setup))
                }
                Rule::Amax448 | Rule::Fp4Blocks => {
                    dispatch(isa, Kernel::<D, ToE4m3<false>, N, 1>::new(tile, sink, policy, setup))
                }
                Rule::DeepseekUe8m0 | Rule::BestUe8m0 => {
                    dispatch(isa, Kernel::<D, ToE4m3<true>, N, 1>::new(tile, sink, policy, setup))
                }
                _ => return None,
            }
        }
    })
}

/// Picks the sink of units of one row.
fn narrow_sink<D: decode::Decode<N>, const N: usize>(
    isa: Isa,
    tile: Tile<'_>,
    sink: &mut Sink<'_>,
    policy: Policy,
) -> Option<Result<Stats, NotFinite>> {
    let Sink::Quantize { scheme, global, .. } = sink else { return None };
    let setup = Quantizer { scheme: *scheme, global: *global };
    let rows = Rows::new::<D, N>(isa, tile);
    Some(match (scheme.rule, scheme.element) {
        (Rule::Amax127 | Rule::Amax127Bf16 | Rule::Amax7 | Rule::Amax7Eps, _) => {
            narrow::convert::<ToInt>(rows, sink, policy, setup)
        }
        (Rule::Amax127Half | Rule::Amax7Half | Rule::Ssz7, _) => {
            narrow::convert::<ToIntClamped>(rows, sink, policy, setup)
        }
        (Rule::Ct127Bf16 | Rule::Ct7Bf16, _) => narrow::convert::<ToIntCt>(rows, sink, policy, setup),
        (Rule::MinMax15, _) => narrow::convert::<ToIntZero>(rows, sink, policy, setup),
        (Rule::Amax448 | Rule::Fp4Blocks, _) => narrow::convert::<ToE4m3<false>>(rows, sink, policy, setup),
        (Rule::DeepseekUe8m0 | Rule::BestUe8m0, _) => {
            narrow::convert::<ToE4m3<true>>(rows, sink, policy, setup)
        }
        (Rule::MxFloor | Rule::MxRceil | Rule::MxEven | Rule::MxBest, Dtype::F8E4M3) => {
            narrow::convert::<ToE4m3<true>>(rows, sink, policy, setup)
        }
        (Rule::MxFloor | Rule::MxRceil | Rule::MxEven | Rule::MxBest, Dtype::F4E2M1) => {
            narrow::convert::<ToE2m1<true>>(rows, sink, policy, setup)
        }
        (Rule::MxAscend, Dtype::F8E4M3) => narrow::convert::<ToE4m3<true, true>>(rows, sink, policy, setup),
        (Rule::MxAscend, Dtype::F4E2M1) => narrow::convert::<ToE2m1<true, true>>(rows, sink, policy, setup),
        (Rule::Nvfp4, _) => narrow::convert::<ToE2m1<false>>(rows, sink, policy, setup),
        _ => return None,
    })
}

/// A tile and its layout.
#[derive(Clone, Copy)]
struct Tile<'a> {
    values: &'a Values<'a>,
    rows: usize,
    cols: usize,
    grid: Grid<'a>,
    unit_shape: [usize; 2],
}

/// The source's bytes and scales; a plain float is one block under a scale that it ignores.
#[derive(Clone, Copy)]
struct Grid<'a> {
    bytes: &'a [u8],
    scales: &'a [f32],
    block_rows: usize,
    block_cols: usize,
    cols: usize,
}

impl<'a> Grid<'a> {
    fn new(values: &Values<'a>, cols: usize) -> Self {
        match *values {
            Values::Bf16(bytes) | Values::F16(bytes) | Values::F32(bytes) => {
                Self { bytes, scales: &[1.0], block_rows: usize::MAX, block_cols: usize::MAX, cols: 1 }
            }
            Values::Scaled { codes, scales, block_rows, block_cols, .. } => {
                Self { bytes: codes, scales, block_rows, block_cols, cols: cols.div_ceil(block_cols) }
            }
        }
    }

    /// The scales of a row's blocks.
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.scales[row / self.block_rows * self.cols..][..self.cols]
    }
}

/// The source's scales step by step: a row's blocks are whole steps, so that a body need not know their width.
struct StepScales {
    /// The block row that `scales` is of.
    block_row: usize,
    scales: Vec<f32>,
}

impl StepScales {
    fn new(cols: usize) -> Self {
        Self { block_row: usize::MAX, scales: vec![1.0; cols.div_ceil(LANES)] }
    }

    /// The scales of a row.
    #[inline(always)]
    fn row(&mut self, grid: &Grid<'_>, row: usize) -> &[f32] {
        let block_row = row / grid.block_rows;
        if block_row != self.block_row {
            self.block_row = block_row;
            let steps = grid.block_cols / LANES;
            let blocks = &grid.scales[block_row * grid.cols..][..grid.cols];
            match blocks {
                [scale] => self.scales.fill(*scale),
                blocks if steps == 1 => self.scales[..blocks.len()].copy_from_slice(blocks),
                blocks => {
                    for (steps, scale) in self.scales.chunks_mut(steps).zip(blocks) {
                        steps.fill(*scale);
                    }
                }
            }
        }
        &self.scales
    }
}

/// Elements converted at a time. Loops of a constant length over these arrays vectorize as wide as the instruction set
/// allows, and the arrays stay in the first-level cache. 64 overlaps divisions and sums best on AVX2; AVX-512 would gain a
/// tenth from 128, where AVX2 loses as much.
const CHUNK: usize = 64;

/// The columns of unit `j` of a band.
#[inline(always)]
fn unit_range(j: usize, unit_cols: usize, cols: usize) -> Range<usize> {
    j * unit_cols..(j + 1).saturating_mul(unit_cols).min(cols)
}
