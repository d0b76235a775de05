//! One band of rows of one pair: read, compared, judged as far as a band can be.

use super::super::pairs::{Expect, Pair};
use super::super::reader::{Format, Matrix, Store};
use super::careful::{self, Codes, Strictness};
use super::tile::{Expected, Quick, QuickPass, Side, Tile};
use crate::dtype::Dtype;
use crate::dtype::codec::{bf16_from_f32, e8m0_from_pow2, f32_from_bf16};
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::error::{Error, Result};
use crate::io::buffer_pool::BufferPool;
use crate::kernel::isa::dispatch;
use crate::kernel::{self, ExactSum, Isa, reference};
use std::collections::BTreeMap;

/// The first wrong scale of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WrongScale {
    /// Position in the scale grid, row-major.
    pub(super) index: u64,
    /// The scale that should be there.
    pub(super) expected: f32,
    /// The scale that is there.
    pub(super) found: f32,
    /// The largest magnitude of the source under it; `None` where the scale is a copy.
    pub(super) amax: Option<f32>,
}

/// Wrong scales, and what they have in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scales {
    /// How many.
    pub(super) wrong: u64,
    /// The first one.
    pub(super) first: Option<WrongScale>,
    /// Those that are the expected scale before it is rounded to BF16.
    pub(super) unsnapped: u64,
}

impl Scales {
    fn add(&mut self, wrong: WrongScale) {
        self.wrong += 1;
        self.unsnapped += u64::from(to_bf16(wrong.found) == wrong.expected);
        if self.first.as_ref().is_none_or(|f| wrong.index < f.index) {
            self.first = Some(wrong);
        }
    }

    fn merge(&mut self, other: Scales) {
        self.wrong += other.wrong;
        self.unsnapped += other.unsnapped;
        if let Some(first) = other.first
            && self.first.as_ref().is_none_or(|f| first.index < f.index)
        {
            self.first = Some(first);
        }
    }
}

/// The scales of a tensor as values.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ScaleValues {
    /// How many.
    pub(super) count: u64,
    /// Those that BF16 holds.
    pub(super) snapped: u64,
    /// Those that are powers of two.
    pub(super) powers: u64,
    /// Position and value of the first one that BF16 does not hold, that is no power of two, and that is no positive
    /// finite number.
    pub(super) odd: [Option<(u64, f32)>; 3],
    /// Smallest and largest finite scale.
    pub(super) range: Option<[f32; 2]>,
    /// Positive scales by ⌊log2⌋.
    pub(super) exponents: BTreeMap<i32, u64>,
}

impl ScaleValues {
    fn add(&mut self, first: u64, scales: &[f32]) {
        for (index, scale) in (first..).zip(scales.iter().copied()) {
            self.count += 1;
            let snapped = to_bf16(scale) == scale;
            let power = e8m0_from_pow2(scale).is_some();
            self.snapped += u64::from(snapped);
            self.powers += u64::from(power);
            let sound = scale > 0.0 && scale.is_finite();
            for (slot, fine) in self.odd.iter_mut().zip([snapped, power, sound]) {
                if !fine && slot.is_none_or(|(i, _)| index < i) {
                    *slot = Some((index, scale));
                }
            }
            if scale.is_finite() {
                let [low, high] = self.range.get_or_insert([scale, scale]);
                (*low, *high) = (low.min(scale), high.max(scale));
            }
            if sound {
                *self.exponents.entry(exponent(scale)).or_default() += 1;
            }
        }
    }

    fn merge(&mut self, other: ScaleValues) {
        self.count += other.count;
        self.snapped += other.snapped;
        self.powers += other.powers;
        for (slot, theirs) in self.odd.iter_mut().zip(other.odd) {
            *slot = match (*slot, theirs) {
                (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
                (a, b) => a.or(b),
            };
        }
        self.range = match (self.range, other.range) {
            (Some([a, b]), Some([c, d])) => Some([a.min(c), b.max(d)]),
            (a, b) => a.or(b),
        };
        for (exponent, count) in other.exponents {
            *self.exponents.entry(exponent).or_default() += count;
        }
    }
}

/// ⌊log2⌋ of a positive finite number.
fn exponent(x: f32) -> i32 {
    // Subnormals are normal in f64.
    ((f64::from(x).to_bits() >> 52) as i32) - 1023
}

fn to_bf16(x: f32) -> f32 {
    f32_from_bf16(bf16_from_f32(x))
}

/// What is known of a pair after some of its bands.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// Elements looked at.
    pub(super) elements: u64,
    /// Whether some band that should have equalled its source byte for byte did not.
    pub(super) differs: bool,
    /// Elements that should have equalled their source and did not, and the position of the first.
    pub(super) unequal: (u64, Option<u64>),
    /// Whether the sums cover every band.
    pub(super) measured: bool,
    /// Σ source², Σ artifact², Σ difference².
    pub(super) sums: [ExactSum; 3],
    pub(super) max_abs: f64,
    pub(super) max_rel: f64,
    pub(super) saturated: u64,
    pub(super) flushed: u64,
    /// Elements that are NaN or infinite on either side.
    pub(super) non_finite: u64,
    /// Position of the first element that is finite in the source only.
    pub(super) broken: Option<u64>,
    /// Scale units without a non-zero value.
    pub(super) zero_units: u64,
    pub(super) codes: Codes,
    pub(super) scales: Scales,
    pub(super) values: ScaleValues,
    /// Largest magnitude and the scale, where one scale covers the tensor.
    pub(super) whole: Option<(f32, f32)>,
}

impl Measured {
    /// Adds another band; their order does not matter.
    pub(super) fn merge(&mut self, other: Measured) {
        self.elements += other.elements;
        self.differs |= other.differs;
        self.unequal.0 += other.unequal.0;
        self.unequal.1 = least(self.unequal.1, other.unequal.1);
        self.measured |= other.measured;
        for (sum, theirs) in self.sums.iter_mut().zip(&other.sums) {
            sum.merge(theirs);
        }
        self.max_abs = self.max_abs.max(other.max_abs);
        self.max_rel = self.max_rel.max(other.max_rel);
        self.saturated += other.saturated;
        self.flushed += other.flushed;
        self.non_finite += other.non_finite;
        self.broken = least(self.broken, other.broken);
        self.zero_units += other.zero_units;
        self.codes.merge(other.codes);
        self.scales.merge(other.scales);
        self.values.merge(other.values);
        self.whole = match (self.whole, other.whole) {
            (Some((a, s)), Some((b, _))) => Some((a.max(b), s)),
            (a, b) => a.or(b),
        };
    }
}

fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Both checkpoints, and what reading them takes.
pub(super) struct Bench<'a> {
    pub(super) artifact: &'a Store<'a>,
    pub(super) source: &'a Store<'a>,
    pub(super) buffers: &'a BufferPool,
    pub(super) isa: Isa,
}

/// A pair with the shapes of its sides.
#[derive(Clone, Copy)]
pub(super) struct Task<'a> {
    pub(super) pair: &'a Pair,
    pub(super) artifact: Matrix,
    pub(super) source: Option<Matrix>,
}

/// The dtype of a tensor's codes or values as what they are expected to be, and the top of that format.
pub(super) fn target(expect: &Expect, dtype: Dtype) -> (Expected, f64) {
    let top = match dtype {
        Dtype::I8 => 127.0,
        Dtype::F8E4M3 => 448.0,
        Dtype::F8E5M2 | Dtype::F8E5M2Fnuz => 57344.0,
        Dtype::F8E4M3Fnuz => 240.0,
        Dtype::F16 => 65504.0,
        Dtype::BF16 => f64::from(f32::from_bits(0x7F7F_0000)),
        _ => f64::from(f32::MAX),
    };
    let expected = match (expect, dtype) {
        (Expect::Rule(Rule::Amax127), Dtype::I8) => Expected::Int8 { low: -127 },
        (Expect::Rule(Rule::Amax127Bf16) | Expect::Nearest, Dtype::I8) => Expected::Int8 { low: -128 },
        (Expect::Rule(Rule::Ct127Bf16), Dtype::I8) => Expected::Int8Bf16,
        (Expect::Rule(Rule::Amax448 | Rule::DeepseekUe8m0) | Expect::Nearest, Dtype::F8E4M3) => {
            Expected::E4m3
        }
        (Expect::Cast { .. }, Dtype::BF16) => Expected::Bf16,
        (Expect::Cast { .. }, Dtype::F16) => Expected::F16,
        (Expect::Cast { .. }, Dtype::F32) => Expected::F32,
        _ => Expected::Unknown,
    };
    (expected, top)
}

/// The scales of one side of a band.
struct Loaded {
    values: Vec<f32>,
    block: [usize; 2],
    grid_cols: usize,
    /// Position of the first one in the grid.
    first: u64,
}

impl Loaded {
    fn side<'a>(&'a self, bytes: &'a [u8], format: Format) -> Side<'a> {
        Side { bytes, format, scales: &self.values, block: self.block, grid_cols: self.grid_cols }
    }
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Bench<'_> {
    /// Compares rows `start..end` of a pair. With `measure`, bands that equal their source byte for byte are summed up
    /// too.
    ///
    /// # Errors
    /// Reading errors; class Usage where the band does not fit the memory budget.
    pub(super) fn look(&self, task: &Task<'_>, start: u64, end: u64, measure: bool) -> Result<Measured> {
        let mine = task.artifact;
        let theirs = task.source.unwrap_or(mine);
        let rows = end - start;
        let has_source = task.source.is_some();
        let lens = [
            rows * mine.row_bytes,
            if has_source { rows * theirs.row_bytes } else { 0 },
            mine.scale_range(self.artifact.checkpoint, start, end).1,
            if has_source { theirs.scale_range(self.source.checkpoint, start, end).1 } else { 0 },
        ];
        let mut buffers = self.buffers.take(&lens.map(size))?;
        let Some([bytes, source_bytes, raw, source_raw]) = buffers.array_mut::<4>() else {
            return Err(Error::internal("validate-buffers", "a band has too few buffers"));
        };
        self.artifact.read(mine.id, start * mine.row_bytes, bytes)?;
        let mut out = Measured { elements: rows * mine.cols, ..Measured::default() };
        let first_index = start * mine.cols;
        if mine.cols == 0 {
            return Ok(out);
        }
        if !has_source {
            let width = size(self.artifact.checkpoint.tensor(mine.id).dtype.bits() / 8).max(1);
            let wrong = |element: &[u8]| element.iter().any(|b| *b != 0);
            note_unequal(&mut out, first_index, bytes.chunks(width).map(wrong));
            return Ok(out);
        }
        self.source.read(theirs.id, start * theirs.row_bytes, source_bytes)?;
        let scales = load_scales(self.artifact, &mine, start, end, raw)?;
        let source_scales = load_scales(self.source, &theirs, start, end, source_raw)?;
        // One scale for the whole tensor is read by every band, and counted by the first.
        if mine.scale.is_some() && !(is_whole(&mine) && start > 0) {
            out.values.add(scales.first, &scales.values);
        }

        let expect = &task.pair.expect;
        if matches!(expect, Expect::Bytes | Expect::Same) {
            self.hold_equal(task, &mut out, first_index, bytes, source_bytes);
            if *expect == Expect::Same {
                hold_scales_equal(&mut out, &scales, &source_scales);
            }
            if !(measure && mine.format.is_some()) {
                return Ok(out);
            }
        }
        let (Some(format), Some(source_format)) = (mine.format, theirs.format) else { return Ok(out) };
        let (expected, top) = target(expect, self.artifact.checkpoint.tensor(mine.id).dtype);
        let tile = Tile {
            rows: size(rows),
            cols: size(mine.cols),
            source: source_scales.side(source_bytes, source_format),
            artifact: scales.side(bytes, format),
            expected,
            top,
        };
        let quick = dispatch(self.isa, QuickPass(&tile));
        judge(&mut out, task, &tile, quick, &scales, first_index);
        Ok(out)
    }

    /// Counts elements that differ from the source's, and non-finite ones.
    fn hold_equal(&self, task: &Task<'_>, out: &mut Measured, first: u64, bytes: &[u8], source: &[u8]) {
        let dtype = self.artifact.checkpoint.tensor(task.artifact.id).dtype;
        if bytes == source {
            out.non_finite = kernel::count_non_finite(self.isa, dtype, bytes);
            return;
        }
        out.differs = true;
        let width = size(dtype.bits() / 8).max(1);
        let wrong = bytes.chunks(width).zip(source.chunks(width)).map(|(a, b)| a != b);
        note_unequal(out, first, wrong);
    }
}

fn note_unequal(out: &mut Measured, first: u64, wrong: impl Iterator<Item = bool>) {
    for (index, wrong) in (first..).zip(wrong) {
        if wrong {
            out.unequal.0 += 1;
            out.unequal.1 = least(out.unequal.1, Some(index));
        }
    }
}

fn is_whole(matrix: &Matrix) -> bool {
    matrix.scale.is_some_and(|(_, scheme)| scheme.granularity == Granularity::Tensor)
}

fn load_scales(store: &Store<'_>, matrix: &Matrix, start: u64, end: u64, raw: &mut [u8]) -> Result<Loaded> {
    let (rows, cols) = (size(end - start), size(matrix.cols));
    let block = matrix.block(rows, cols);
    let Some((id, _)) = matrix.scale else {
        return Ok(Loaded { values: vec![1.0], block, grid_cols: 1, first: 0 });
    };
    let (offset, _, grid_cols) = matrix.scale_range(store.checkpoint, start, end);
    store.read(id, offset, raw)?;
    let dtype = store.checkpoint.tensor(id).dtype;
    let mut values = Vec::new();
    kernel::decode_scales(dtype, raw, &mut values);
    let expected = rows.div_ceil(block[0]) * cols.div_ceil(block[1]);
    if values.len() != expected {
        return Err(Error::internal("validate-scales", "a band has another number of scales than blocks")
            .tensor(&store.checkpoint.tensor(id).name)
            .expected(expected)
            .found(values.len()));
    }
    Ok(Loaded { values, block, grid_cols: size(grid_cols), first: offset / (dtype.bits() / 8).max(1) })
}

fn hold_scales_equal(out: &mut Measured, scales: &Loaded, source: &Loaded) {
    for (index, (found, expected)) in (scales.first..).zip(scales.values.iter().zip(&source.values)) {
        if found.to_bits() != expected.to_bits() {
            out.differs = true;
            out.scales.add(WrongScale { index, expected: *expected, found: *found, amax: None });
        }
    }
}

/// What the quick pass found, completed by the careful one.
fn judge(
    out: &mut Measured,
    task: &Task<'_>,
    tile: &Tile<'_>,
    quick: Quick,
    scales: &Loaded,
    first_index: u64,
) {
    out.measured = true;
    out.sums = quick.sums;
    out.max_abs = quick.max_abs;
    out.max_rel = quick.max_rel.into();
    out.saturated = quick.saturated;
    out.flushed = quick.flushed;
    let whole = is_whole(&task.artifact);
    let rule = match task.pair.expect {
        Expect::Rule(rule) => Some(rule),
        _ => None,
    };
    let mut by_rule: Option<Vec<f32>> = None;
    if task.artifact.scale.is_some() && whole {
        out.whole = Some((quick.amax[0], scales.values[0]));
    } else if task.artifact.scale.is_some() {
        out.zero_units = quick.amax.iter().filter(|a| **a == 0.0).count() as u64;
        let expected: Option<Vec<f32>> = rule.zip(task.artifact.scale).and_then(|(rule, (_, scheme))| {
            let scheme = Scheme { rule, ..scheme };
            let scale = |amax: &f32| reference::scale_of_magnitude(&scheme, 1.0, *amax).map(|s| s.stored);
            quick.amax.iter().map(scale).collect()
        });
        if let Some(expected) = expected {
            for (i, (expected, found)) in expected.iter().zip(&scales.values).enumerate() {
                if expected.to_bits() != found.to_bits() {
                    let (index, amax) = (scales.first + i as u64, Some(quick.amax[i]));
                    out.scales.add(WrongScale { index, expected: *expected, found: *found, amax });
                }
            }
            if out.scales.wrong > 0 {
                by_rule = Some(expected);
            }
        }
    }
    for row in quick.odd_rows.iter().copied() {
        let odd = careful::odd_row(tile, row);
        for (sum, x) in out.sums.iter_mut().zip(odd.sums) {
            sum.add(x);
        }
        out.max_abs = out.max_abs.max(odd.max_abs);
        out.max_rel = out.max_rel.max(odd.max_rel);
        out.saturated += odd.saturated;
        out.flushed += odd.flushed;
        // Where bytes should be equal, they have been counted already.
        if !matches!(task.pair.expect, Expect::Bytes | Expect::Same) || out.differs {
            out.non_finite += odd.non_finite;
        }
        let at = odd.broken.map(|col| first_index + (row * tile.cols + col) as u64);
        out.broken = least(out.broken, at);
    }
    let nearest = matches!(task.pair.expect, Expect::Nearest | Expect::Cast { exact: false });
    for row in quick.odd_rows.iter().chain(&quick.wrong_rows).copied() {
        let first = first_index + (row * tile.cols) as u64;
        let strictness = match nearest {
            // By the row's own scales, so that it does not matter which rows share a band.
            true => Strictness::Nearest { narrow: row_scales(tile, row).iter().all(|s| to_bf16(*s) == *s) },
            false => Strictness::Exact,
        };
        let stored = careful::codes_of_row(tile, row, &scales.values, strictness, first);
        let by_rule = by_rule.as_ref().filter(|_| stored.wrong > 0);
        // Under a wrong scale every code looks wrong: what counts is whether they fit the scale that should be there.
        let codes = match by_rule.map(|s| careful::codes_of_row(tile, row, s, strictness, first)) {
            Some(codes) if codes.wrong < stored.wrong => codes,
            _ => stored,
        };
        out.codes.merge(codes);
    }
}

/// The scales of the artifact that a row lies under.
fn row_scales<'a>(tile: &Tile<'a>, row: usize) -> &'a [f32] {
    let side = tile.artifact;
    side.scales.get(side.unit(row, 0)..=side.unit(row, tile.cols.saturating_sub(1))).unwrap_or_default()
}

/// Bytes that a band of `rows` rows takes.
pub(super) fn band_bytes(task: &Task<'_>, rows: u64) -> u64 {
    let scale_bytes = |m: &Matrix| {
        let Some((_, scheme)) = m.scale else { return 0 };
        let [_, cols] = scheme.granularity.grid(m.rows, m.cols);
        (rows.div_ceil(scheme.granularity.rows().max(1)) + 1) * cols * 4
    };
    let one = |m: &Matrix| rows * m.row_bytes + scale_bytes(m);
    one(&task.artifact) + task.source.as_ref().map_or(0, one)
}
