//! Rows of a tile decoded to `f32`, for kernels that look at values more than once.

use super::{Grid, StepScales, Tile};
use crate::kernel::decode::{Decode, largest_of_step};
use crate::kernel::isa::{Body, Isa, dispatch};
use crate::kernel::stats::LANES;
use std::ops::Range;

/// Elements of a loop of constant length, which the compiler does not unroll but vectorizes.
pub(super) const BLOCK: usize = 256;

/// Elements of a segment, at most. Its arrays stay in the second-level cache at worst.
pub(super) const SEGMENT: usize = 2048;

/// Decoded values of consecutive columns, with what is known of each step. Elements beyond them are 0.
pub(super) struct Segment {
    pub(super) values: Vec<f32>,
    /// Largest magnitude; not finite where a value is not.
    pub(super) amax: [f32; SEGMENT / LANES],
    /// The source's scale; 0 for plain floats.
    pub(super) scales: [f32; SEGMENT / LANES],
    /// Whether there are non-zero codes under a scale of zero, which the reference counts.
    pub(super) hidden: [bool; SEGMENT / LANES],
}

impl Segment {
    pub(super) fn new() -> Self {
        const STEPS: usize = SEGMENT / LANES;
        Self { values: vec![0.0; SEGMENT], amax: [0.0; STEPS], scales: [0.0; STEPS], hidden: [false; STEPS] }
    }
}

/// A tile and how its rows are decoded.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) isa: Isa,
    pub(super) tile: Tile<'a>,
    /// Whether values are exact in BF16.
    pub(super) fits_bf16: bool,
    decode: fn(Isa, &Grid<'a>, &[f32], Range<usize>, &mut Segment),
}

impl<'a> Rows<'a> {
    pub(super) fn new<D: Decode<N>, const N: usize>(isa: Isa, tile: Tile<'a>) -> Self {
        Self { isa, tile, fits_bf16: D::FITS_BF16, decode: decode::<D, N> }
    }

    /// Decodes columns `cols` of a row, at most [`SEGMENT`] from the start of a step.
    pub(super) fn decode(
        &self,
        row: usize,
        cols: Range<usize>,
        step_scales: &mut StepScales,
        out: &mut Segment,
    ) {
        let scales = &step_scales.row(&self.tile.grid, row)[cols.start / LANES..];
        let first = row * self.tile.cols;
        (self.decode)(self.isa, &self.tile.grid, scales, first + cols.start..first + cols.end, out);
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
        let mut padded = [[0; N]; BLOCK];
        let mut scale = [1.0; BLOCK];
        let mut magnitudes = [D::Magnitude::default(); BLOCK];
        let steps = BLOCK / LANES;
        let (values, _) = out.values.as_chunks_mut::<BLOCK>();
        for (index, (chunk, values)) in elements.chunks(BLOCK).zip(values).enumerate() {
            let block = match chunk.as_array::<BLOCK>() {
                Some(block) => block,
                None => {
                    padded[..chunk.len()].copy_from_slice(chunk);
                    &padded
                }
            };
            let first = index * steps;
            let used = chunk.len().div_ceil(LANES);
            if D::SCALED {
                for (step, wide) in scale.as_chunks_mut::<LANES>().0[..used].iter_mut().enumerate() {
                    *wide = [scales[first + step]; LANES];
                }
            }
            for i in 0..BLOCK {
                values[i] = D::value(block[i], scale[i]);
                magnitudes[i] = D::magnitude(block[i]);
            }
            for (step, magnitudes) in magnitudes.as_chunks::<LANES>().0[..used].iter().enumerate() {
                let magnitude = largest_of_step(*magnitudes);
                let scale = scales[first + step];
                out.amax[first + step] = D::absolute(magnitude) * scale.abs();
                if D::SCALED {
                    out.scales[first + step] = scale;
                    out.hidden[first + step] = scale == 0.0 && magnitude > D::Magnitude::default();
                }
            }
            // A scale that is left from another block may be infinite, and its product with 0 a NaN.
            values[chunk.len()..].fill(0.0);
        }
    }
}
