//! The quick pass over a band of rows: both sides decoded and compared, in loops that vectorize.
//!
//! A row is taken in parts that lie in one scale block of either side, a part in chunks of [`CHUNK`] elements, the last
//! padded with zeros, which change nothing. Sums are kept in eight `f64` lanes per row and folded in a fixed order, so
//! that no result depends on instruction set, band or thread. What looks wrong is only noted by row here; the
//! [`careful`](super::careful) pass looks at it element by element.

use super::super::reader::Format;
use crate::dtype::codec::{bf16_from_f32, e4m3_from_f32_clamped, f16_from_f32, f32_from_bf16, f32_from_f16};
use crate::kernel::ExactSum;
use crate::kernel::isa::Body;

/// Elements compared at a time.
const CHUNK: usize = 128;

/// Lanes of the sums.
const LANES: usize = 8;

/// Lanes of what is done in `f32`.
const NARROW: usize = 16;

/// A band of one side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side<'a> {
    /// Its elements, row-major.
    pub(super) bytes: &'a [u8],
    /// How they are decoded.
    pub(super) format: Format,
    /// Its scales, `[⌈rows / block[0]⌉, grid_cols]`; a single 1 for plain values.
    pub(super) scales: &'a [f32],
    /// Rows and columns of a scale block.
    pub(super) block: [usize; 2],
    /// Columns of the scale grid.
    pub(super) grid_cols: usize,
}

impl Side<'_> {
    /// Position of the scale of an element in [`Self::scales`].
    #[inline(always)]
    pub(super) fn unit(&self, row: usize, col: usize) -> usize {
        row / self.block[0] * self.grid_cols + col / self.block[1]
    }

    /// The scale of an element.
    #[inline(always)]
    pub(super) fn scale(&self, row: usize, col: usize) -> f32 {
        self.scales[self.unit(row, col)]
    }
}

/// What the codes of the artifact must be, given its scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Integers `clamp(RNE(x / s), low, 127)`.
    Int8 {
        /// The lowest code.
        low: i32,
    },
    /// Integers from BF16 arithmetic, as compressed-tensors makes them.
    Int8Bf16,
    /// E4M3 of `x / s`, clamped.
    E4m3,
    /// The value rounded to BF16.
    Bf16,
    /// The value rounded to binary16.
    F16,
    /// The value itself.
    F32,
    /// Not known: values are measured, codes are not judged.
    Unknown,
}

/// A band of rows of both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile<'a> {
    /// Rows.
    pub(super) rows: usize,
    /// Columns.
    pub(super) cols: usize,
    /// What the artifact was made from.
    pub(super) source: Side<'a>,
    /// The artifact.
    pub(super) artifact: Side<'a>,
    /// What its codes must be.
    pub(super) expected: Expected,
    /// The largest magnitude of its format, without a scale.
    pub(super) top: f64,
}

/// What the quick pass found in a band.
#[derive(Clone, Debug, Default)]
pub(super) struct Quick {
    /// Σ source², Σ artifact², Σ difference² of rows without NaN or infinity.
    pub(super) sums: [ExactSum; 3],
    /// Largest absolute difference of those rows.
    pub(super) max_abs: f64,
    /// Largest relative difference where the source is not zero.
    pub(super) max_rel: f32,
    /// Elements beyond the top of the artifact's format.
    pub(super) saturated: u64,
    /// Elements that are zero in the artifact only.
    pub(super) flushed: u64,
    /// Largest finite magnitude of the source under each scale of the artifact's side.
    pub(super) amax: Vec<f32>,
    /// Rows that hold a NaN or an infinity: none of the above but `amax` covers them.
    pub(super) odd_rows: Vec<usize>,
    /// Other rows with codes that differ from the expected ones.
    pub(super) wrong_rows: Vec<usize>,
}

/// The quick pass.
pub(super) struct QuickPass<'a>(pub(super) &'a Tile<'a>);

/// Running values of a row.
#[derive(Clone, Copy)]
struct Row {
    sums: [[f64; LANES]; 3],
    max_abs: [f64; LANES],
    max_rel: [f32; NARROW],
    saturated: u64,
    flushed: u32,
    wrong: u32,
}

impl Body for QuickPass<'_> {
    type Out = Quick;

    #[inline(always)]
    fn run(self) -> Quick {
        let tile = self.0;
        let Tile { rows, cols, source, artifact, .. } = *tile;
        let mut out = Quick { amax: vec![0.0; artifact.scales.len()], ..Quick::default() };
        let empty = Row {
            sums: [[0.0; LANES]; 3],
            max_abs: [0.0; LANES],
            max_rel: [0.0; NARROW],
            saturated: 0,
            flushed: 0,
            wrong: 0,
        };
        let (source_width, width) = (source.format.width(), artifact.format.width());
        let mut scratch = Scratch::new();
        for row in 0..rows {
            let mut state = empty;
            let source_line = &source.bytes[row * cols * source_width..][..cols * source_width];
            let line = &artifact.bytes[row * cols * width..][..cols * width];
            let mut start = 0;
            while start < cols {
                let boundary = |block: usize| (start / block + 1).saturating_mul(block);
                let part = boundary(source.block[1]).min(boundary(artifact.block[1])).min(cols);
                let unit = artifact.unit(row, start);
                let scales = [source.scale(row, start), artifact.scales[unit]];
                let mut amax = out.amax[unit];
                while start < part {
                    let end = (start + CHUNK).min(part);
                    let codes = &source_line[start * source_width..end * source_width];
                    decode(source.format, codes, &mut scratch.pad, &mut scratch.x);
                    let codes = &line[start * width..end * width];
                    decode(artifact.format, codes, &mut scratch.pad, &mut scratch.y);
                    let largest = compare(&mut scratch, scales, codes, tile.expected, &mut state);
                    amax = if largest > amax { largest } else { amax };
                    // Rounded to f32, a magnitude may lie on the other side of the limit: those are looked at in f64.
                    let limit = tile.top * f64::from(scales[1]);
                    if f64::from(largest) * (1.0 + 1e-6) > limit {
                        state.saturated += beyond(&scratch.x, f64::from(scales[0]), limit);
                    }
                    start = end;
                }
                out.amax[unit] = amax;
            }
            finish_row(row, &state, &mut out);
        }
        out
    }
}

/// Arrays of one chunk.
struct Scratch {
    /// Unscaled values of the source and of the artifact.
    x: [f32; CHUNK],
    y: [f32; CHUNK],
    /// Values of the source, rounded to `f32`: what quantizers start from.
    v: [f32; CHUNK],
    /// Absolute differences.
    d: [f32; CHUNK],
    pad: [u8; 4 * CHUNK],
}

impl Scratch {
    #[inline(always)]
    fn new() -> Self {
        let zeros = [0.0; CHUNK];
        Self { x: zeros, y: zeros, v: zeros, d: zeros, pad: [0; 4 * CHUNK] }
    }
}

/// The bytes of a chunk of elements of `N` bytes, with zeros after them.
#[inline(always)]
fn padded<'a, const N: usize>(bytes: &'a [u8], pad: &'a mut [u8; 4 * CHUNK]) -> &'a [[u8; N]] {
    if bytes.len() == N * CHUNK {
        return bytes.as_chunks::<N>().0;
    }
    pad.fill(0);
    pad[..bytes.len()].copy_from_slice(bytes);
    pad[..N * CHUNK].as_chunks::<N>().0
}

/// Decodes a chunk without its scale.
#[inline(always)]
fn decode(format: Format, bytes: &[u8], pad: &mut [u8; 4 * CHUNK], out: &mut [f32; CHUNK]) {
    match format {
        Format::Bf16 => {
            for (out, b) in out.iter_mut().zip(padded::<2>(bytes, pad)) {
                *out = f32_from_bf16(u16::from_le_bytes(*b));
            }
        }
        Format::F16 => {
            for (out, b) in out.iter_mut().zip(padded::<2>(bytes, pad)) {
                *out = f32_from_f16(u16::from_le_bytes(*b));
            }
        }
        Format::F32 => {
            for (out, b) in out.iter_mut().zip(padded::<4>(bytes, pad)) {
                *out = f32::from_le_bytes(*b);
            }
        }
        Format::I8 => {
            for (out, b) in out.iter_mut().zip(padded::<1>(bytes, pad)) {
                *out = f32::from(b[0] as i8);
            }
        }
        Format::Table(table) => {
            for (out, b) in out.iter_mut().zip(padded::<1>(bytes, pad)) {
                *out = table[usize::from(b[0])];
            }
        }
    }
}

/// Compares a decoded chunk; the largest finite magnitude of the source.
#[inline(always)]
fn compare(scratch: &mut Scratch, scales: [f32; 2], codes: &[u8], expected: Expected, row: &mut Row) -> f32 {
    let Scratch { x, y, v, d, pad } = scratch;
    let [sx, sy] = scales;
    let mut largest = [0f32; NARROW];
    for (v, x) in v.as_chunks_mut::<NARROW>().0.iter_mut().zip(x.as_chunks::<NARROW>().0) {
        for l in 0..NARROW {
            v[l] = x[l] * sx;
            let a = v[l].abs();
            let a = if a < f32::INFINITY { a } else { 0.0 };
            largest[l] = if a > largest[l] { a } else { largest[l] };
        }
    }
    row.wrong += wrong_codes(v, y, sy, codes, expected, pad);

    let (wide_x, wide_y) = (f64::from(sx), f64::from(sy));
    // Locals, because the optimizer keeps them in registers.
    let Row { mut sums, mut max_abs, mut max_rel, .. } = *row;
    for start in (0..CHUNK).step_by(LANES) {
        for l in 0..LANES {
            let a = f64::from(x[start + l]) * wide_x;
            let b = f64::from(y[start + l]) * wide_y;
            let e = a - b;
            sums[0][l] += a * a;
            sums[1][l] += b * b;
            sums[2][l] += e * e;
            let e = e.abs();
            max_abs[l] = if e > max_abs[l] { e } else { max_abs[l] };
            d[start + l] = e as f32;
        }
    }
    for (d, v) in d.as_chunks::<NARROW>().0.iter().zip(v.as_chunks::<NARROW>().0) {
        for l in 0..NARROW {
            let r = d[l] / v[l].abs();
            let r = if v[l] == 0.0 { 0.0 } else { r };
            max_rel[l] = if r > max_rel[l] { r } else { max_rel[l] };
        }
    }
    let mut flushed = 0u32;
    for (x, y) in x.iter().zip(y.iter()) {
        flushed += u32::from((*x != 0.0) & (*y * sy == 0.0));
    }
    (row.sums, row.max_abs, row.max_rel) = (sums, max_abs, max_rel);
    row.flushed += flushed;
    largest.iter().fold(0.0, |a, b| if *b > a { *b } else { a })
}

/// How many codes of a chunk differ from the expected ones. NaN and infinities count as they fall: their rows are
/// looked at again.
#[inline(always)]
fn wrong_codes(
    v: &[f32; CHUNK],
    y: &[f32; CHUNK],
    scale: f32,
    codes: &[u8],
    expected: Expected,
    pad: &mut [u8; 4 * CHUNK],
) -> u32 {
    let mut wrong = 0u32;
    match expected {
        Expected::Int8 { low } => {
            for i in 0..CHUNK {
                let code = round(v[i] / scale).clamp(low, 127);
                wrong += u32::from(code as f32 != y[i]);
            }
        }
        Expected::Int8Bf16 => {
            for i in 0..CHUNK {
                let code = round(to_bf16(to_bf16(v[i]) / scale)).clamp(-128, 127);
                wrong += u32::from(code as f32 != y[i]);
            }
        }
        Expected::E4m3 => {
            for (x, code) in v.iter().zip(padded::<1>(codes, pad)) {
                let t = x / scale;
                let t = if t > 448.0 { 448.0 } else { t };
                let t = if t < -448.0 { -448.0 } else { t };
                wrong += u32::from(e4m3_from_f32_clamped(t) != code[0]);
            }
        }
        Expected::Bf16 => {
            for (x, code) in v.iter().zip(padded::<2>(codes, pad)) {
                wrong += u32::from(bf16_from_f32(*x) != u16::from_le_bytes(*code));
            }
        }
        Expected::F16 => {
            for (x, code) in v.iter().zip(padded::<2>(codes, pad)) {
                wrong += u32::from(f16_from_f32(*x) != u16::from_le_bytes(*code));
            }
        }
        Expected::F32 => {
            for (x, code) in v.iter().zip(padded::<4>(codes, pad)) {
                wrong += u32::from(x.to_bits() != u32::from_le_bytes(*code));
            }
        }
        Expected::Unknown => {}
    }
    wrong
}

/// `t` rounded to an integer, to nearest, ties to even; beyond ±1000 some integer beyond ±999.
///
/// The sum with 1.5 · 2^23 has no bits for a fraction, and its low bits are the integer.
#[inline(always)]
fn round(t: f32) -> i32 {
    const SHIFTER: f32 = 12_582_912.0;
    let t = if t > 1000.0 { 1000.0 } else { t };
    let t = if t < -1000.0 { -1000.0 } else { t };
    (t + SHIFTER).to_bits().wrapping_sub(SHIFTER.to_bits()) as i32
}

#[inline(always)]
fn to_bf16(x: f32) -> f32 {
    f32_from_bf16(bf16_from_f32(x))
}

/// Elements of a chunk whose magnitude exceeds `limit`.
fn beyond(x: &[f32; CHUNK], scale: f64, limit: f64) -> u64 {
    x.iter().filter(|x| (f64::from(**x) * scale).abs() > limit).count() as u64
}

/// Adds a row to the band.
fn finish_row(index: usize, row: &Row, out: &mut Quick) {
    let sums = row.sums.map(fold);
    if !sums.iter().all(|s| s.is_finite()) {
        out.odd_rows.push(index);
        return;
    }
    for (total, sum) in out.sums.iter_mut().zip(sums) {
        total.add(sum);
    }
    out.max_abs = row.max_abs.iter().fold(out.max_abs, |a, b| a.max(*b));
    out.max_rel = row.max_rel.iter().fold(out.max_rel, |a, b| a.max(*b));
    out.saturated += row.saturated;
    out.flushed += u64::from(row.flushed);
    if row.wrong > 0 {
        out.wrong_rows.push(index);
    }
}

fn fold(mut lanes: [f64; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
