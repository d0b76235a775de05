//! Units of many rows or columns: a band of rows that share scales at a time.

use super::{CHUNK, Grid, NotFinite, StepScales, Tile, unit_range};
use crate::kernel::decode::{Decode, largest};
use crate::kernel::encode::{Encode, Put};
use crate::kernel::isa::Body;
use crate::kernel::reference::{self, Extent, Unit, UnitScale};
use crate::kernel::stats::{LANES, Lanes, PIECE, Stats};
use crate::kernel::{Policy, Sink};
use std::ops::Range;

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

/// A unit of the band at hand.
#[derive(Clone, Copy)]
struct State<E> {
    amax: f32,
    source_scale: f32,
    /// What converts the unit; `None` leaves it to the reference.
    encoder: Option<E>,
    normalizer: f32,
    lanes: Lanes,
    not_finite: bool,
    /// Whether it has non-zero codes under a scale of zero, which the reference counts.
    hidden: bool,
}

/// The conversion of a tile from `N`-byte to `M`-byte elements.
pub(super) struct Kernel<'a, 's, D, E: Encode<M>, const N: usize, const M: usize> {
    tile: Tile<'a>,
    sink: &'a mut Sink<'s>,
    policy: Policy,
    setup: E::Setup,
    /// Scales of units that have been searched for, by index; NaN for those that have not.
    found: Vec<f32>,
    source: std::marker::PhantomData<D>,
}

impl<'a, 's, D, E: Encode<M>, const N: usize, const M: usize> Kernel<'a, 's, D, E, N, M> {
    pub(super) fn new(tile: Tile<'a>, sink: &'a mut Sink<'s>, policy: Policy, setup: E::Setup) -> Self {
        Self { tile, sink, policy, setup, found: Vec::new(), source: std::marker::PhantomData }
    }

    /// With these scales of units, by index, where a rule searches for them; NaN is none.
    pub(super) fn with_scales(self, found: Vec<f32>) -> Self {
        Self { found, ..self }
    }
}

impl<D: Decode<N>, E: Encode<M>, const N: usize, const M: usize> Body for Kernel<'_, '_, D, E, N, M> {
    type Out = Result<Stats, NotFinite>;

    #[inline(always)]
    fn run(self) -> Self::Out {
        let Self { tile, sink, policy, setup, found, .. } = self;
        let Tile { values, rows, cols, grid, unit_shape: [unit_rows, unit_cols] } = tile;
        let (elements, _) = grid.bytes.as_chunks::<N>();
        let mut stats = Stats::default();
        if elements.is_empty() {
            return Ok(stats);
        }
        let units = cols.div_ceil(unit_cols);
        let empty = State {
            amax: 0.0,
            source_scale: 0.0,
            encoder: None,
            normalizer: 1.0,
            lanes: Lanes::default(),
            not_finite: false,
            hidden: false,
        };
        let mut scratch = Scratch { scale: [1.0; CHUNK], t: [0.0; CHUNK], e: [0.0; CHUNK] };
        let mut states: Vec<State<E>> = vec![empty; units];
        let mut step_scales = StepScales::new(cols);
        let mut searched = Vec::new();
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
                        if D::SCALED && scale > state.source_scale {
                            state.source_scale = scale;
                        }
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
                let extent =
                    Extent { amax: state.amax, source_scale: state.source_scale, ..Extent::default() };
                let index = first_row / unit_rows * units + j;
                let scale = match (E::scale(&setup, &extent), found.get(index)) {
                    (Some(scale), _) => scale,
                    (None, Some(found)) if !found.is_nan() => UnitScale::of(*found),
                    (None, _) => {
                        let unit = unit_range(j, unit_cols, cols);
                        decode_unit::<D, N>(&grid, elements, cols, band.clone(), unit, &mut searched);
                        E::search(&setup, &extent, &searched)
                    }
                };
                if let Some(encoder) = E::new(&setup, &extent, &scale) {
                    (state.encoder, state.normalizer) = (Some(encoder), scale.divisor);
                    if let Sink::Quantize { scales, .. } = sink {
                        scales[index] = scale.stored;
                        stats.zero_rows += u64::from(state.amax == 0.0);
                    }
                }
            }

            let mut saturated = 0;
            for row in band.clone() {
                let line = &elements[row * cols..][..cols];
                let scales = step_scales.row(&grid, row);
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
                        let (line, out) = (&line[piece.clone()], &mut out[piece.clone()]);
                        saturated += convert_piece::<D, E, N, M>(
                            line,
                            &scales[start / LANES..],
                            encoder,
                            out,
                            &mut state.lanes,
                            &mut scratch,
                        );
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

/// Replaces `out` by the values of a unit, row-major.
#[inline(always)]
fn decode_unit<D: Decode<N>, const N: usize>(
    grid: &Grid<'_>,
    elements: &[[u8; N]],
    cols: usize,
    rows: Range<usize>,
    unit: Range<usize>,
    out: &mut Vec<f32>,
) {
    out.clear();
    out.reserve(rows.len() * unit.len());
    for row in rows {
        let line = &elements[row * cols..][..cols];
        for (part, scale) in Parts::new(grid.block_cols, grid.row(row), unit.clone()) {
            for element in &line[part] {
                out.push(D::value(*element, scale));
            }
        }
    }
}

/// The source's scales, the normalized values and the errors of a chunk.
struct Scratch {
    scale: [f32; CHUNK],
    t: [f32; CHUNK],
    e: [f32; CHUNK],
}

/// Converts consecutive elements under the source scales of their steps, and returns how many saturated.
#[inline(always)]
fn convert_piece<D: Decode<N>, E: Encode<M>, const N: usize, const M: usize>(
    elements: &[[u8; N]],
    scales: &[f32],
    encoder: E,
    out: &mut [[u8; M]],
    lanes: &mut Lanes,
    scratch: &mut Scratch,
) -> u64 {
    let (chunks, rest) = elements.as_chunks::<CHUNK>();
    let (out_chunks, out_rest) = out.as_chunks_mut::<CHUNK>();
    let mut steps = scales.chunks(CHUNK / LANES);
    let mut saturated = 0;
    for ((chunk, out), scales) in chunks.iter().zip(out_chunks).zip(&mut steps) {
        expand::<D, N>(scales, scratch);
        saturated += convert_chunk::<D, E, N, M>(chunk, encoder, out, scratch);
        lanes.add(&scratch.t, &scratch.e);
    }
    if !rest.is_empty() {
        // Zeros add nothing to any sum. The next unit's scales may be infinite: a step that holds nothing keeps a scale
        // of this unit.
        let mut padded = [[0; N]; CHUNK];
        padded[..rest.len()].copy_from_slice(rest);
        let mut converted = [[0; M]; CHUNK];
        scratch.scale = [1.0; CHUNK];
        expand::<D, N>(&scales[chunks.len() * (CHUNK / LANES)..][..rest.len().div_ceil(LANES)], scratch);
        saturated += convert_chunk::<D, E, N, M>(&padded, encoder, &mut converted, scratch);
        out_rest.copy_from_slice(&converted[..rest.len()]);
        lanes.add(&scratch.t, &scratch.e);
    }
    saturated
}

/// Repeats the scales of steps for their elements.
#[inline(always)]
fn expand<D: Decode<N>, const N: usize>(scales: &[f32], scratch: &mut Scratch) {
    if D::SCALED {
        for (step, scale) in scratch.scale.as_chunks_mut::<LANES>().0.iter_mut().zip(scales) {
            *step = [*scale; LANES];
        }
    }
}

/// Converts one chunk.
#[inline(always)]
fn convert_chunk<D: Decode<N>, E: Encode<M>, const N: usize, const M: usize>(
    chunk: &[[u8; N]; CHUNK],
    encoder: E,
    out: &mut [[u8; M]; CHUNK],
    scratch: &mut Scratch,
) -> u64 {
    let mut count = 0u32;
    for i in 0..CHUNK {
        let x = D::value(chunk[i], scratch.scale[i]);
        let Put { code, t, e, saturated } = encoder.put(x, D::FITS_BF16);
        out[i] = code;
        scratch.t[i] = t;
        scratch.e[i] = e;
        if E::SATURATES {
            count += u32::from(saturated);
        }
    }
    count.into()
}
