//! The fast kernels: one body for every pair of source format and sink, compiled for every instruction set.
//!
//! A band of rows that share scales is read twice. The first pass finds the largest magnitude of each unit on the stored
//! integers; the second decodes, converts and sums errors in registers. Units with non-finite values, and those whose
//! magnitudes need care, go to the reference, so that the bodies have no branches on data.

use super::decode::{self, Decode, largest};
use super::encode::{Encode, Put, ToBf16, ToE4m3, ToF16, ToF32, ToInt8, ToInt8Ct};
use super::isa::{Body, Isa, dispatch};
use super::reference::{self, Unit};
use super::stats::{LANES, Lanes, PIECE, Stats};
use super::{Fault, Policy, Sink, Values, unit_shape};
use crate::dtype::Dtype;
use crate::dtype::scheme::Rule;
use std::ops::Range;

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
    // Steps of 16 columns must not straddle source blocks.
    let whole_steps = |width: usize| width >= cols || width.is_multiple_of(LANES);
    if tile.grid.block_cols < cols && !(whole_steps(tile.grid.block_cols) && whole_steps(tile.unit_shape[1]))
    {
        return None;
    }
    if let Values::Scaled { scales, .. } = values
        && !policy.keep_non_finite
        && scales.iter().any(|s| !(*s >= 0.0 && s.is_finite()))
    {
        return reference::first_fault(values, rows, cols).map(Err);
    }
    let outcome = match values {
        Values::Bf16(_) => source::<decode::Bf16, 2>(isa, tile, sink, policy),
        Values::F16(_) => source::<decode::F16, 2>(isa, tile, sink, policy),
        Values::F32(_) => source::<decode::F32, 4>(isa, tile, sink, policy),
        Values::Scaled { element, .. } => match element {
            Dtype::I8 => source::<decode::Int8, 1>(isa, tile, sink, policy),
            Dtype::F8E4M3 => source::<decode::E4m3, 1>(isa, tile, sink, policy),
            Dtype::F8E5M2 => source::<decode::E5m2, 1>(isa, tile, sink, policy),
            Dtype::F8E4M3Fnuz => source::<decode::E4m3Fnuz, 1>(isa, tile, sink, policy),
            Dtype::F8E5M2Fnuz => source::<decode::E5m2Fnuz, 1>(isa, tile, sink, policy),
            _ => return None,
        },
    };
    match outcome? {
        Ok(stats) => Some(Ok(stats)),
        Err(NotFinite) => reference::first_fault(values, rows, cols).map(Err),
    }
}

/// A value that the policy does not allow was met.
struct NotFinite;

/// Picks the sink.
fn source<D: Decode<N>, const N: usize>(
    isa: Isa,
    tile: Tile<'_>,
    sink: &mut Sink<'_>,
    policy: Policy,
) -> Option<Result<Stats, NotFinite>> {
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
        Sink::Quantize { scheme, .. } => {
            let rule = scheme.rule;
            match rule {
                Rule::Amax127 | Rule::Amax127Bf16 => {
                    dispatch(isa, Kernel::<D, ToInt8, N, 1>::new(tile, sink, policy, rule))
                }
                Rule::Ct127Bf16 => dispatch(isa, Kernel::<D, ToInt8Ct, N, 1>::new(tile, sink, policy, rule)),
                Rule::Amax448 | Rule::DeepseekUe8m0 => {
                    dispatch(isa, Kernel::<D, ToE4m3, N, 1>::new(tile, sink, policy, rule))
                }
                _ => return None,
            }
        }
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

/// The parts of a range of columns that lie in one source block each, with the block's scale.
///
/// No closures here or in the bodies: a closure is a function that every instruction set would share.
struct Parts<'a> {
    block_cols: usize,
    scales: &'a [f32],
    block: usize,
    cols: Range<usize>,
}

impl<'a> Parts<'a> {
    #[inline(always)]
    fn new(block_cols: usize, scales: &'a [f32], cols: Range<usize>) -> Self {
        Self { block_cols, scales, block: cols.start / block_cols, cols }
    }
}

impl Iterator for Parts<'_> {
    type Item = (Range<usize>, f32);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.cols.is_empty() {
            return None;
        }
        let start = self.cols.start;
        let end = (self.block + 1).saturating_mul(self.block_cols).min(self.cols.end);
        let scale = self.scales[self.block];
        self.cols.start = end;
        self.block += 1;
        Some((start..end, scale))
    }
}

/// The columns of unit `j` of a band.
#[inline(always)]
fn unit_range(j: usize, unit_cols: usize, cols: usize) -> Range<usize> {
    j * unit_cols..(j + 1).saturating_mul(unit_cols).min(cols)
}

/// A unit of the band at hand.
#[derive(Clone, Copy)]
struct State<E> {
    amax: f32,
    /// What converts the unit; `None` leaves it to the reference.
    encoder: Option<E>,
    normalizer: f32,
    lanes: Lanes,
    not_finite: bool,
    /// Whether it has non-zero codes under a scale of zero, which the reference counts.
    hidden: bool,
}

/// The conversion of a tile from `N`-byte to `M`-byte elements.
struct Kernel<'a, 's, D, E: Encode<M>, const N: usize, const M: usize> {
    tile: Tile<'a>,
    sink: &'a mut Sink<'s>,
    policy: Policy,
    setup: E::Setup,
    source: std::marker::PhantomData<D>,
}

impl<'a, 's, D, E: Encode<M>, const N: usize, const M: usize> Kernel<'a, 's, D, E, N, M> {
    fn new(tile: Tile<'a>, sink: &'a mut Sink<'s>, policy: Policy, setup: E::Setup) -> Self {
        Self { tile, sink, policy, setup, source: std::marker::PhantomData }
    }
}

impl<D: Decode<N>, E: Encode<M>, const N: usize, const M: usize> Body for Kernel<'_, '_, D, E, N, M> {
    type Out = Result<Stats, NotFinite>;

    #[inline(always)]
    fn run(self) -> Self::Out {
        let Self { tile, sink, policy, setup, .. } = self;
        let Tile { values, rows, cols, grid, unit_shape: [unit_rows, unit_cols] } = tile;
        let (elements, _) = grid.bytes.as_chunks::<N>();
        let mut stats = Stats::default();
        if elements.is_empty() {
            return Ok(stats);
        }
        let units = cols.div_ceil(unit_cols);
        let empty = State {
            amax: 0.0,
            encoder: None,
            normalizer: 1.0,
            lanes: Lanes::default(),
            not_finite: false,
            hidden: false,
        };
        let mut scratch = Scratch { t: [0.0; CHUNK], e: [0.0; CHUNK] };
        let mut states: Vec<State<E>> = vec![empty; units];
        for first_row in (0..rows).step_by(unit_rows) {
            let band = first_row..first_row.saturating_add(unit_rows).min(rows);

            states.fill(empty);
            for row in band.clone() {
                let (line, scales) = (&elements[row * cols..][..cols], grid.row(row));
                for (j, state) in states.iter_mut().enumerate() {
                    for (part, scale) in Parts::new(grid.block_cols, scales, unit_range(j, unit_cols, cols)) {
                        let magnitude = largest::<D, N>(&line[part]);
                        let amax = D::absolute(magnitude) * scale.abs();
                        state.not_finite |= !amax.is_finite();
                        state.hidden |= scale == 0.0 && magnitude > D::Magnitude::default();
                        state.amax = if amax > state.amax { amax } else { state.amax };
                    }
                }
            }

            for (j, state) in states.iter_mut().enumerate() {
                if state.not_finite && !policy.keep_non_finite {
                    return Err(NotFinite);
                }
                if state.not_finite || state.hidden {
                    continue;
                }
                if let Some((encoder, normalizer)) = E::new(setup, state.amax) {
                    (state.encoder, state.normalizer) = (Some(encoder), normalizer);
                    if let Sink::Quantize { scales, .. } = sink {
                        scales[first_row / unit_rows * units + j] = normalizer;
                        stats.zero_rows += u64::from(state.amax == 0.0);
                    }
                }
            }

            let mut saturated = 0;
            for row in band.clone() {
                let (line, scales) = (&elements[row * cols..][..cols], grid.row(row));
                let out = match sink {
                    Sink::Cast { out, .. } => &mut **out,
                    Sink::Quantize { codes, .. } => &mut **codes,
                };
                let out = &mut out.as_chunks_mut::<M>().0[row * cols..][..cols];
                for (j, state) in states.iter_mut().enumerate() {
                    let Some(encoder) = state.encoder else { continue };
                    let unit = unit_range(j, unit_cols, cols);
                    for start in unit.clone().step_by(PIECE) {
                        let piece = start..(start + PIECE).min(unit.end);
                        for (part, scale) in Parts::new(grid.block_cols, scales, piece.clone()) {
                            let (line, out) = (&line[part.clone()], &mut out[part]);
                            saturated += convert_part::<D, E, N, M>(
                                line,
                                scale,
                                encoder,
                                out,
                                &mut state.lanes,
                                &mut scratch,
                            );
                        }
                        state.lanes.end_piece(piece.len());
                    }
                }
            }
            stats.saturated += saturated;

            for (j, state) in states.iter_mut().enumerate() {
                if state.encoder.is_some() {
                    stats.elements += (band.len() * unit_range(j, unit_cols, cols).len()) as u64;
                    stats.add_unit(&mut state.lanes, state.normalizer);
                } else {
                    let scale_index = first_row / unit_rows * units + j;
                    let unit = Unit { rows: band.clone(), cols: unit_range(j, unit_cols, cols), scale_index };
                    reference::convert_unit(values, cols, &unit, sink, &mut stats);
                }
            }
        }
        Ok(stats)
    }
}

/// Elements converted at a time. Loops of a constant length over these arrays vectorize as wide as the instruction set
/// allows, and the arrays stay in the first-level cache. 64 overlaps divisions and sums best on AVX2; AVX-512 would gain a
/// tenth from 128, where AVX2 loses as much.
const CHUNK: usize = 64;

/// The normalized values and errors of a chunk.
struct Scratch {
    t: [f32; CHUNK],
    e: [f32; CHUNK],
}

/// Converts consecutive elements under one source scale, and returns how many saturated.
#[inline(always)]
fn convert_part<D: Decode<N>, E: Encode<M>, const N: usize, const M: usize>(
    elements: &[[u8; N]],
    scale: f32,
    encoder: E,
    out: &mut [[u8; M]],
    lanes: &mut Lanes,
    scratch: &mut Scratch,
) -> u64 {
    let (chunks, rest) = elements.as_chunks::<CHUNK>();
    let (out_chunks, out_rest) = out.as_chunks_mut::<CHUNK>();
    let mut saturated = 0;
    for (chunk, out) in chunks.iter().zip(out_chunks) {
        saturated += convert_chunk::<D, E, N, M>(chunk, scale, encoder, out, scratch);
        lanes.add(&scratch.t, &scratch.e);
    }
    if !rest.is_empty() {
        // Zeros add nothing to any sum.
        let mut padded = [[0; N]; CHUNK];
        padded[..rest.len()].copy_from_slice(rest);
        let mut converted = [[0; M]; CHUNK];
        saturated += convert_chunk::<D, E, N, M>(&padded, scale, encoder, &mut converted, scratch);
        out_rest.copy_from_slice(&converted[..rest.len()]);
        lanes.add(&scratch.t, &scratch.e);
    }
    saturated
}

/// Converts one chunk.
#[inline(always)]
fn convert_chunk<D: Decode<N>, E: Encode<M>, const N: usize, const M: usize>(
    chunk: &[[u8; N]; CHUNK],
    scale: f32,
    encoder: E,
    out: &mut [[u8; M]; CHUNK],
    scratch: &mut Scratch,
) -> u64 {
    let mut count = 0u32;
    for i in 0..CHUNK {
        let Put { code, t, e, saturated } = encoder.put(D::value(chunk[i], scale), D::FITS_BF16);
        out[i] = code;
        scratch.t[i] = t;
        scratch.e[i] = e;
        if E::SATURATES {
            count += u32::from(saturated);
        }
    }
    count.into()
}
