//! Units of one row that are a few steps long: groups of the MX formats, of NVFP4 and of group-wise integers.
//!
//! A segment of a row is decoded to `f32` with the magnitudes of its steps, every unit in it gets its scale, and the whole
//! segment is converted under one factor per element: loops are as long as the segment, however short the units are.
//! There is one body per source format and one per sink.

use super::segment::{BLOCK, Rows, SEGMENT, Segment};
use super::{NotFinite, StepScales, Tile};
use crate::kernel::encode::{Encode, Put, Quantizer};
use crate::kernel::isa::{Body, dispatch};
use crate::kernel::reference::{self, Extent, Unit, UnitScale};
use crate::kernel::stats::{LANES, Stats};
use crate::kernel::{Policy, Sink};

/// The widest unit that counts as narrow; its sums are folded once.
const WIDEST: usize = 512;

/// Whether the units of a tile are narrow.
pub(super) fn takes(tile: &Tile<'_>, sink: &Sink<'_>) -> bool {
    matches!(sink, Sink::Quantize { .. }) && tile.unit_shape[0] == 1 && width(tile) <= WIDEST
}

/// Columns of a unit, in whole steps.
fn width(tile: &Tile<'_>) -> usize {
    tile.unit_shape[1].min(tile.cols).next_multiple_of(LANES)
}

/// What a segment is converted to.
struct Coded {
    /// Each step's factor and zero point.
    factor: [f32; SEGMENT / LANES],
    zero: [f32; SEGMENT / LANES],
    code: Vec<u8>,
    /// Each element's normalized value and error.
    t: Vec<f32>,
    e: Vec<f32>,
}

/// Converts a tile's rows.
pub(super) fn convert<E: Encode<1, Setup = Quantizer>>(
    rows: Rows<'_>,
    sink: &mut Sink<'_>,
    policy: Policy,
    setup: Quantizer,
) -> Result<Stats, NotFinite> {
    dispatch(rows.isa, Kernel::<E> { rows, sink, policy, setup, encoder: std::marker::PhantomData })
}

/// The conversion of a tile's rows.
struct Kernel<'a, 's, 'r, E> {
    rows: Rows<'a>,
    sink: &'r mut Sink<'s>,
    policy: Policy,
    setup: Quantizer,
    encoder: std::marker::PhantomData<E>,
}

impl<E: Encode<1, Setup = Quantizer>> Body for Kernel<'_, '_, '_, E> {
    type Out = Result<Stats, NotFinite>;

    #[inline(always)]
    fn run(self) -> Self::Out {
        let Self { rows: source, sink, policy, setup, .. } = self;
        let Tile { values, rows, cols, .. } = source.tile;
        let mut stats = Stats::default();
        if rows == 0 || cols == 0 {
            return Ok(stats);
        }
        let width = width(&source.tile);
        let units = cols.div_ceil(width);
        let segment_units = SEGMENT / width;
        let mut step_scales = StepScales::new(cols);
        let mut segment = Segment::new();
        let mut coded = Coded {
            factor: [1.0; SEGMENT / LANES],
            zero: [0.0; SEGMENT / LANES],
            code: vec![0; SEGMENT],
            t: vec![0.0; SEGMENT],
            e: vec![0.0; SEGMENT],
        };
        let mut sums = Sums::default();
        let mut made: Vec<Option<UnitScale>> = Vec::with_capacity(segment_units);
        let mut searched = Vec::new();
        let mut saturated = 0;
        for row in 0..rows {
            for first_unit in (0..units).step_by(segment_units) {
                let end_unit = units.min(first_unit + segment_units);
                let (start, end) = (first_unit * width, cols.min(end_unit * width));
                source.decode(row, start..end, &mut step_scales, &mut segment);

                made.clear();
                let mut template: Option<E> = None;
                for unit in first_unit..end_unit {
                    let range = unit * width - start..(cols.min((unit + 1) * width) - start);
                    let whole = range.start..range.end.next_multiple_of(LANES);
                    let steps = whole.start / LANES..whole.end / LANES;
                    let mut extent = Extent::default();
                    let (mut not_finite, mut hidden) = (false, false);
                    for step in steps.clone() {
                        let amax = segment.amax[step];
                        not_finite |= !amax.is_finite();
                        hidden |= segment.hidden[step];
                        extent.amax = if amax > extent.amax { amax } else { extent.amax };
                        let scale = segment.scales[step];
                        extent.source_scale =
                            if scale > extent.source_scale { scale } else { extent.source_scale };
                    }
                    if not_finite && !policy.keep_non_finite {
                        return Err(NotFinite);
                    }
                    let mut encoder = None;
                    if !not_finite && !hidden {
                        if E::RANGE {
                            (extent.min, extent.max) = min_max(&segment.values[whole.clone()]);
                        }
                        let scale = match E::scale(&setup, &extent) {
                            Some(scale) => scale,
                            None => {
                                searched.clear();
                                searched.extend_from_slice(&segment.values[range]);
                                E::search(&setup, &extent, &searched)
                            }
                        };
                        encoder = E::new(&setup, &extent, &scale).map(|encoder| (encoder, scale));
                    }
                    let (factor, zero) = match encoder {
                        Some((encoder, scale)) => {
                            stats.zero_rows += u64::from(extent.amax == 0.0);
                            template = Some(encoder);
                            made.push(Some(scale));
                            (encoder.factor(), scale.zero.into())
                        }
                        None => {
                            // The reference converts it; meanwhile it counts for nothing.
                            segment.values[whole].fill(0.0);
                            made.push(None);
                            (1.0, 0.0)
                        }
                    };
                    for step in steps {
                        (coded.factor[step], coded.zero[step]) = (factor, zero);
                    }
                }

                if let Some(template) = template {
                    saturated +=
                        convert_segment(template, &segment.values, source.fits_bf16, &mut coded, end - start);
                    let Sink::Quantize { codes, scales, zeros, .. } = &mut *sink else { return Ok(stats) };
                    codes[row * cols..][start..end].copy_from_slice(&coded.code[..end - start]);
                    let first_scale = row * units + first_unit;
                    sums.of(&coded, width / LANES, (end - start).div_ceil(LANES));
                    for (i, scale) in made.iter().enumerate() {
                        let Some(scale) = scale else { continue };
                        scales[first_scale + i] = scale.stored;
                        if E::RANGE {
                            zeros[first_scale + i] = scale.zero;
                        }
                        stats.elements += width.min(end - start - i * width) as u64;
                        let [signal, noise] = [sums.signal[i], sums.noise[i]].map(f64::from);
                        stats.add_sums(signal, noise, sums.error[i], scale.divisor);
                    }
                }
                for (i, scale) in made.iter().enumerate() {
                    if scale.is_none() {
                        let first = start + i * width;
                        let unit = Unit {
                            rows: row..row + 1,
                            cols: first..cols.min(first + width),
                            scale_index: row * units + first_unit + i,
                        };
                        reference::convert_unit(values, cols, &unit, sink, &mut stats);
                    }
                }
            }
        }
        stats.saturated += saturated;
        Ok(stats)
    }
}

/// The smallest value, at most +0, and the largest, at least +0, of whole steps.
#[inline(always)]
fn min_max(values: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([0.0f32; LANES], [0.0f32; LANES]);
    for step in values.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            low[i] = if step[i] < low[i] { step[i] } else { low[i] };
            high[i] = if step[i] > high[i] { step[i] } else { high[i] };
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

/// Converts the first `len` values, each under its step's factor; returns how many saturated.
#[inline(always)]
fn convert_segment<E: Encode<1>>(
    template: E,
    values: &[f32],
    fits_bf16: bool,
    coded: &mut Coded,
    len: usize,
) -> u64 {
    let mut saturated = 0;
    let (mut factor, mut zero) = ([1.0; BLOCK], [0.0; BLOCK]);
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(coded.code.as_chunks_mut::<BLOCK>().0);
    let sums = coded.t.as_chunks_mut::<BLOCK>().0.iter_mut().zip(coded.e.as_chunks_mut::<BLOCK>().0);
    let used = len.div_ceil(BLOCK);
    for (index, ((x, code), (t, e))) in blocks.zip(sums).take(used).enumerate() {
        let first = index * (BLOCK / LANES);
        let steps = factor.as_chunks_mut::<LANES>().0.iter_mut().zip(zero.as_chunks_mut::<LANES>().0);
        for (step, (factor, zero)) in (first..).zip(steps) {
            *factor = [coded.factor[step]; LANES];
            if E::RANGE {
                *zero = [coded.zero[step]; LANES];
            }
        }
        let mut count = 0u32;
        for i in 0..BLOCK {
            let put: Put<1> = template.with(factor[i], zero[i]).put(x[i], fits_bf16);
            code[i] = put.code[0];
            t[i] = put.t;
            e[i] = put.e;
            if E::SATURATES {
                count += u32::from(put.saturated);
            }
        }
        saturated += u64::from(count);
    }
    saturated
}

/// Sums of a segment's units, in the order of [`Lanes`](crate::kernel::stats::Lanes).
struct Sums {
    signal: [f32; SEGMENT / LANES],
    noise: [f32; SEGMENT / LANES],
    error: [f32; SEGMENT / LANES],
    /// Sums of each unit in four lanes.
    quarters: [[[f32; 4]; SEGMENT / LANES]; 3],
}

impl Default for Sums {
    fn default() -> Self {
        const UNITS: usize = SEGMENT / LANES;
        let none = [0.0; UNITS];
        Self { signal: none, noise: none, error: none, quarters: [[[0.0; 4]; UNITS]; 3] }
    }
}

impl Sums {
    /// Of units of `width` steps, the last of which may have fewer, in `steps` steps.
    #[inline(always)]
    fn of(&mut self, coded: &Coded, width: usize, steps: usize) {
        let [signals, noises, errors] = &mut self.quarters;
        let t = coded.t.as_chunks::<LANES>().0[..steps].chunks(width);
        let e = coded.e.as_chunks::<LANES>().0[..steps].chunks(width);
        for (unit, (t, e)) in t.zip(e).enumerate() {
            let (mut signal, mut noise, mut error) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
            for (t, e) in t.iter().zip(e) {
                for i in 0..LANES {
                    signal[i] += t[i] * t[i];
                    noise[i] += e[i] * e[i];
                    let a = e[i].abs();
                    error[i] = if a > error[i] { a } else { error[i] };
                }
            }
            for half in [8, 4] {
                for i in 0..half {
                    signal[i] += signal[i + half];
                    noise[i] += noise[i + half];
                    error[i] = if error[i + half] > error[i] { error[i + half] } else { error[i] };
                }
            }
            for i in 0..4 {
                (signals[unit][i], noises[unit][i], errors[unit][i]) = (signal[i], noise[i], error[i]);
            }
        }
        // One unit per lane from here on.
        for unit in 0..SEGMENT / LANES {
            let [a, b, c, d] = signals[unit];
            self.signal[unit] = (a + c) + (b + d);
            let [a, b, c, d] = noises[unit];
            self.noise[unit] = (a + c) + (b + d);
            let [a, b, c, d] = errors[unit];
            let (a, b) = (if c > a { c } else { a }, if d > b { d } else { b });
            self.error[unit] = if b > a { b } else { a };
        }
    }
}
