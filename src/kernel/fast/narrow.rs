//! Units of one row that are a few steps long: groups of the MX formats, of NVFP4 and of group-wise integers.
//!
//! A segment of a row is decoded to `f32`, step by step with its magnitudes, and the units in it are converted from there:
//! one body per source format and one per sink.

use super::{Grid, NotFinite, StepScales, Tile};
use crate::kernel::decode::{Decode, largest_of_step};
use crate::kernel::encode::{Encode, Put, Quantizer};
use crate::kernel::isa::{Body, Isa, dispatch};
use crate::kernel::reference::{self, Extent, Unit};
use crate::kernel::stats::{LANES, Lanes, Stats};
use crate::kernel::{Policy, Sink};
use std::ops::Range;

/// The widest unit that counts as narrow; its sums are folded once.
const WIDEST: usize = 512;

/// Columns that are decoded at a time, about: their values stay in the first-level cache.
const SEGMENT: usize = 2048;

/// Whether the units of a tile are narrow.
pub(super) fn takes(tile: &Tile<'_>, sink: &Sink<'_>) -> bool {
    matches!(sink, Sink::Quantize { .. }) && tile.unit_shape[0] == 1 && width(tile) <= WIDEST
}

/// Columns of a unit, in whole steps.
fn width(tile: &Tile<'_>) -> usize {
    tile.unit_shape[1].min(tile.cols.next_multiple_of(LANES))
}

/// Decoded values of consecutive columns, in whole steps, with what is known of each step.
#[derive(Default)]
struct Segment {
    values: Vec<[f32; LANES]>,
    /// Largest magnitude; not finite where a value is not.
    amax: Vec<f32>,
    /// The source's scale; 0 for plain floats.
    scales: Vec<f32>,
    /// Whether there are non-zero codes under a scale of zero, which the reference counts.
    hidden: Vec<bool>,
}

/// A tile and how its rows are decoded.
pub(super) struct Rows<'a> {
    isa: Isa,
    tile: Tile<'a>,
    policy: Policy,
    fits_bf16: bool,
    decode: fn(Isa, &Grid<'a>, &[f32], Range<usize>, &mut Segment),
}

impl<'a> Rows<'a> {
    pub(super) fn new<D: Decode<N>, const N: usize>(isa: Isa, tile: Tile<'a>, policy: Policy) -> Self {
        Self { isa, tile, policy, fits_bf16: D::FITS_BF16, decode: decode::<D, N> }
    }

    pub(super) fn convert<E: Encode<1, Setup = Quantizer>>(
        self,
        sink: &mut Sink<'_>,
        setup: Quantizer,
    ) -> Result<Stats, NotFinite> {
        dispatch(self.isa, Kernel::<E> { rows: self, sink, setup, encoder: std::marker::PhantomData })
    }
}

/// Decodes elements `range` of a tile, which lie in one row; `scales` are those of their steps.
fn decode<'a, D: Decode<N>, const N: usize>(
    isa: Isa,
    grid: &Grid<'a>,
    scales: &[f32],
    range: Range<usize>,
    out: &mut Segment,
) {
    let elements = &grid.bytes.as_chunks::<N>().0[range];
    dispatch(isa, DecodeSegment::<D, N> { elements, scales, out, source: std::marker::PhantomData });
}

struct DecodeSegment<'a, D, const N: usize> {
    elements: &'a [[u8; N]],
    scales: &'a [f32],
    out: &'a mut Segment,
    source: std::marker::PhantomData<D>,
}

impl<D: Decode<N>, const N: usize> Body for DecodeSegment<'_, D, N> {
    type Out = ();

    #[inline(always)]
    fn run(self) {
        let Self { elements, scales, out, .. } = self;
        let (whole, rest) = elements.as_chunks::<LANES>();
        let steps = elements.len().div_ceil(LANES);
        out.values.resize(steps, [0.0; LANES]);
        out.amax.resize(steps, 0.0);
        out.scales.resize(steps, 0.0);
        out.hidden.resize(steps, false);
        let mut last = [[0; N]; LANES];
        last[..rest.len()].copy_from_slice(rest);
        for i in 0..steps {
            let step = if i < whole.len() { &whole[i] } else { &last };
            let scale = scales[i];
            let magnitude = largest_of_step::<D, N>(step);
            out.amax[i] = D::absolute(magnitude) * scale.abs();
            if D::SCALED {
                out.scales[i] = scale;
                out.hidden[i] = scale == 0.0 && magnitude > D::Magnitude::default();
            }
            let values = &mut out.values[i];
            for lane in 0..LANES {
                values[lane] = D::value(step[lane], scale);
            }
        }
    }
}

/// The conversion of a tile's rows.
struct Kernel<'a, 's, 'r, E> {
    rows: Rows<'a>,
    sink: &'r mut Sink<'s>,
    setup: Quantizer,
    encoder: std::marker::PhantomData<E>,
}

impl<E: Encode<1, Setup = Quantizer>> Body for Kernel<'_, '_, '_, E> {
    type Out = Result<Stats, NotFinite>;

    #[inline(always)]
    fn run(self) -> Self::Out {
        let Self { rows: Rows { tile, policy, fits_bf16, decode, isa }, sink, setup, .. } = self;
        let Tile { values, rows, cols, grid, .. } = tile;
        let mut stats = Stats::default();
        if rows == 0 || cols == 0 {
            return Ok(stats);
        }
        let width = width(&tile);
        let units = cols.div_ceil(width);
        let segment_units = (SEGMENT / width).max(1);
        let mut step_scales = StepScales::new(cols);
        let mut segment = Segment::default();
        let mut searched = Vec::new();
        let mut saturated = 0;
        for row in 0..rows {
            for first_unit in (0..units).step_by(segment_units) {
                let end_unit = units.min(first_unit + segment_units);
                let (start, end) = (first_unit * width, cols.min(end_unit * width));
                let scales = &step_scales.row(&grid, row)[start / LANES..];
                decode(isa, &grid, scales, row * cols + start..row * cols + end, &mut segment);
                for unit in first_unit..end_unit {
                    let range = unit * width..cols.min((unit + 1) * width);
                    let steps = (range.start - start) / LANES..(range.end - start).div_ceil(LANES);
                    let scale_index = row * units + unit;

                    let mut extent = Extent::default();
                    let (mut not_finite, mut hidden) = (false, false);
                    for i in steps.clone() {
                        let amax = segment.amax[i];
                        not_finite |= !amax.is_finite();
                        hidden |= segment.hidden[i];
                        extent.amax = if amax > extent.amax { amax } else { extent.amax };
                        let scale = segment.scales[i];
                        extent.source_scale =
                            if scale > extent.source_scale { scale } else { extent.source_scale };
                    }
                    if not_finite && !policy.keep_non_finite {
                        return Err(NotFinite);
                    }
                    let lines = &segment.values[steps];
                    let mut made = None;
                    if !not_finite && !hidden {
                        if E::RANGE {
                            (extent.min, extent.max) = min_max(lines);
                        }
                        let scale = match E::scale(&setup, &extent) {
                            Some(scale) => scale,
                            None => {
                                // Zeros of the last step are no values.
                                searched.clear();
                                searched.extend_from_slice(&lines.as_flattened()[..range.len()]);
                                E::search(&setup, &extent, &searched)
                            }
                        };
                        made = E::new(&setup, &extent, &scale).map(|encoder| (encoder, scale));
                    }
                    let Some((encoder, scale)) = made else {
                        let unit = Unit { rows: row..row + 1, cols: range, scale_index };
                        reference::convert_unit(values, cols, &unit, sink, &mut stats);
                        continue;
                    };
                    let Sink::Quantize { codes, scales, zeros, .. } = &mut *sink else { return Ok(stats) };
                    scales[scale_index] = scale.stored;
                    if let Some(zero) = zeros.get_mut(scale_index) {
                        *zero = scale.zero;
                    }
                    let out = &mut codes[row * cols..][range.clone()];
                    let mut lanes = Lanes::default();
                    saturated += convert_unit(lines, encoder, fits_bf16, out, &mut lanes);
                    stats.elements += range.len() as u64;
                    stats.zero_rows += u64::from(extent.amax == 0.0);
                    stats.add_unit(&mut lanes, scale.divisor);
                }
            }
        }
        stats.saturated += saturated;
        Ok(stats)
    }
}

/// The smallest value, at most +0, and the largest, at least +0.
#[inline(always)]
fn min_max(lines: &[[f32; LANES]]) -> (f32, f32) {
    let (mut low, mut high) = ([0.0f32; LANES], [0.0f32; LANES]);
    for line in lines {
        for i in 0..LANES {
            low[i] = if line[i] < low[i] { line[i] } else { low[i] };
            high[i] = if line[i] > high[i] { line[i] } else { high[i] };
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            low[i] = if low[i + half] < low[i] { low[i + half] } else { low[i] };
            high[i] = if high[i + half] > high[i] { high[i + half] } else { high[i] };
        }
        half /= 2;
    }
    (low[0], high[0])
}

/// Converts a unit; returns how many saturated.
#[inline(always)]
fn convert_unit<E: Encode<1>>(
    lines: &[[f32; LANES]],
    encoder: E,
    fits_bf16: bool,
    out: &mut [u8],
    lanes: &mut Lanes,
) -> u64 {
    let mut count = 0;
    let (pairs, single) = lines.as_chunks::<2>();
    let whole = out.len() / (2 * LANES);
    let (out_pairs, out_rest) = out.as_chunks_mut::<{ 2 * LANES }>();
    for (pair, out) in pairs.iter().zip(out_pairs) {
        count += convert_lines(pair.as_flattened(), encoder, fits_bf16, out, lanes);
    }
    // What is left ends in the middle of two steps: one step, or a row's last ones.
    if !out_rest.is_empty() {
        let mut values = [0.0; 2 * LANES];
        let rest = if whole < pairs.len() { pairs[whole].as_flattened() } else { single.as_flattened() };
        values[..rest.len()].copy_from_slice(rest);
        let mut codes = [0; 2 * LANES];
        count += convert_lines(&values, encoder, fits_bf16, &mut codes, lanes);
        out_rest.copy_from_slice(&codes[..out_rest.len()]);
    }
    count
}

/// Converts two steps.
#[inline(always)]
fn convert_lines<E: Encode<1>>(
    values: &[f32],
    encoder: E,
    fits_bf16: bool,
    out: &mut [u8; 2 * LANES],
    lanes: &mut Lanes,
) -> u64 {
    let (mut t, mut e) = ([0.0; 2 * LANES], [0.0; 2 * LANES]);
    let mut count = 0u32;
    for i in 0..2 * LANES {
        let Put { code: [code], t: normalized, e: error, saturated } = encoder.put(values[i], fits_bf16);
        out[i] = code;
        t[i] = normalized;
        e[i] = error;
        if E::SATURATES {
            count += u32::from(saturated);
        }
    }
    lanes.add(&t, &e);
    count.into()
}
