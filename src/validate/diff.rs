//! Two checkpoints, decoded, tensor by tensor.
//!
//! Tensors are matched by name. Scales and offsets are not compared themselves: they enter through the weights that they
//! belong to. What is stored alike is compared byte for byte; everything else by decoded values.

use crate::checkpoint::{Checkpoint, Encoding, Stored, TensorId, module_of, natural_cmp};
use crate::dtype::Dtype;
use crate::error::{Class, Error, Result};
use crate::io::source::ReadFile;
use crate::kernel::{self, ExactSum, Isa, Policy, Sink, Values};
use rayon::prelude::*;
use serde::Serialize;
use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

/// Elements of a step: 1 Mi values of each side decoded at once.
const STEP: u64 = 1 << 20;

/// What comparing two tensors says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every value is equal.
    Equal,
    /// Some values differ.
    Differs,
    /// Shapes or kinds differ: values cannot be compared.
    Incomparable,
    /// Only the first checkpoint has it.
    OnlyInA,
    /// Only the second checkpoint has it.
    OnlyInB,
}

impl Verdict {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::Differs => "differs",
            Verdict::Incomparable => "incomparable",
            Verdict::OnlyInA => "only-in-a",
            Verdict::OnlyInB => "only-in-b",
        }
    }
}

/// The comparison of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name.
    pub name: Arc<str>,
    /// What the comparison says.
    pub verdict: Verdict,
    /// Values that differ.
    pub differing: u64,
    /// Values compared.
    pub elements: u64,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Signal-to-noise ratio in dB with the first as signal; null where all values are equal.
    pub sqnr_db: Option<f64>,
}

/// The comparison of two checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Tensors that are equal.
    pub equal: u64,
    /// Tensors that differ in value.
    pub differing: u64,
    /// Tensors that cannot be compared or that one side lacks.
    pub unmatched: u64,
    /// Every tensor, in natural name order.
    pub tensors: Vec<Row>,
}

/// Compares `a` with `b` on `jobs` threads.
///
/// # Errors
/// Reading errors; class Input where a weight has a scale offset other than zero.
pub fn compare(a: &Checkpoint, b: &Checkpoint, jobs: usize) -> Result<Report> {
    let pairs = pairs(a, b);
    let (files_a, files_b) = (Files::new(a), Files::new(b));
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(jobs)
        .build()
        .map_err(|e| Error::new(Class::Io, "threads", "cannot start the worker threads").found(e))?;
    let tensors: Vec<Row> = pool.install(|| {
        pairs
            .par_iter()
            .map(|(ia, ib)| match (ia, ib) {
                (Some(ia), Some(ib)) => compare_pair(&files_a, *ia, &files_b, *ib),
                (Some(ia), None) => Ok(lone(&a.tensor(*ia).name, Verdict::OnlyInA)),
                (None, Some(ib)) => Ok(lone(&b.tensor(*ib).name, Verdict::OnlyInB)),
                (None, None) => Err(Error::internal("diff-pair", "a pair of nothing")),
            })
            .collect::<Result<_>>()
    })?;
    let count = |wanted: &[Verdict]| tensors.iter().filter(|r| wanted.contains(&r.verdict)).count() as u64;
    Ok(Report {
        equal: count(&[Verdict::Equal]),
        differing: count(&[Verdict::Differs]),
        unmatched: count(&[Verdict::Incomparable, Verdict::OnlyInA, Verdict::OnlyInB]),
        tensors,
    })
}

fn lone(name: &Arc<str>, verdict: Verdict) -> Row {
    Row { name: name.clone(), verdict, differing: 0, elements: 0, max_abs: 0.0, sqnr_db: None }
}

/// Tensors of both sides by name, without the scales and offsets that belong to weights.
fn pairs(a: &Checkpoint, b: &Checkpoint) -> Vec<(Option<TensorId>, Option<TensorId>)> {
    let list = |c: &Checkpoint| -> Vec<TensorId> {
        (0..).zip(&c.tensors).filter(|(id, _)| !is_companion(c, *id)).map(|(id, _)| id).collect()
    };
    let (list_a, list_b) = (list(a), list(b));
    let mut out = Vec::with_capacity(list_a.len().max(list_b.len()));
    let (mut i, mut j) = (0, 0);
    loop {
        let order = match (list_a.get(i), list_b.get(j)) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(x), Some(y)) => natural_cmp(&a.tensor(*x).name, &b.tensor(*y).name),
        };
        let left = (order != Ordering::Greater).then(|| list_a[i]);
        let right = (order != Ordering::Less).then(|| list_b[j]);
        i += usize::from(left.is_some());
        j += usize::from(right.is_some());
        out.push((left, right));
    }
    out
}

fn is_companion(c: &Checkpoint, id: TensorId) -> bool {
    matches!(c.encodings[id as usize], Encoding::ScaleOf { .. } | Encoding::OffsetOf { .. })
}

/// The shards of a checkpoint, opened when first read.
struct Files<'a> {
    checkpoint: &'a Checkpoint,
    open: Vec<OnceLock<ReadFile>>,
}

impl<'a> Files<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, open: checkpoint.files.iter().map(|_| OnceLock::new()).collect() }
    }

    fn read(&self, id: TensorId, offset: u64, len: u64) -> Result<Vec<u8>> {
        let tensor = self.checkpoint.tensor(id);
        let slot = &self.open[tensor.file as usize];
        if slot.get().is_none() {
            let _ = slot.set(self.checkpoint.open_data_file(tensor.file)?);
        }
        let file = slot.get().ok_or_else(|| Error::internal("diff-open", "a shard is not open"))?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, tensor.offset + offset)?;
        Ok(bytes)
    }
}

fn compare_pair(a: &Files<'_>, ia: TensorId, b: &Files<'_>, ib: TensorId) -> Result<Row> {
    let (ta, tb) = (a.checkpoint.tensor(ia), b.checkpoint.tensor(ib));
    let mut row = lone(&ta.name, Verdict::Incomparable);
    let plain = |c: &Checkpoint, id: TensorId| c.encodings[id as usize] == Encoding::Plain;
    if ta.shape != tb.shape {
        return Ok(row);
    }
    row.elements = ta.shape.iter().product();
    if plain(a.checkpoint, ia)
        && plain(b.checkpoint, ib)
        && ta.dtype == tb.dtype
        && equal_bytes(a, ia, b, ib)?
    {
        row.verdict = Verdict::Equal;
        return Ok(row);
    }
    let (Some(da), Some(db)) = (Decoder::new(a, ia)?, Decoder::new(b, ib)?) else { return Ok(row) };
    let mut signal = ExactSum::new();
    let mut noise = ExactSum::new();
    let cols = ta.shape.last().copied().unwrap_or(1);
    let rows = row.elements.checked_div(cols).unwrap_or(0);
    // Whole scale blocks of both sides; very wide rows are decoded one granule at a time.
    let granule = da.granule.max(db.granule);
    let step = (STEP / cols.max(1) / granule).max(1) * granule;
    let mut start = 0;
    while start < rows {
        let end = (start + step).min(rows);
        let (va, vb) = (da.decode(start, end, rows, cols)?, db.decode(start, end, rows, cols)?);
        for (x, y) in va.iter().zip(&vb) {
            if x.to_bits() != y.to_bits() && !(*x == 0.0 && *y == 0.0) {
                row.differing += 1;
            }
            let (x, y) = (f64::from(*x), f64::from(*y));
            let error = (x - y).abs();
            if error.is_finite() {
                row.max_abs = row.max_abs.max(error);
            }
        }
        let (s, n) = sums(&va, &vb);
        signal.add(s);
        noise.add(n);
        start = end;
    }
    row.verdict = if row.differing == 0 { Verdict::Equal } else { Verdict::Differs };
    let (s, n) = (signal.to_f64(), noise.to_f64());
    row.sqnr_db = (s > 0.0 && n > 0.0).then(|| 10.0 * (s / n).log10());
    Ok(row)
}

/// Σ x² and Σ (x − y)² over finite pairs, in f64 and in order.
fn sums(a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut signal, mut noise) = (0f64, 0f64);
    for (x, y) in a.iter().zip(b) {
        if x.is_finite() && y.is_finite() {
            let (x, y) = (f64::from(*x), f64::from(*y));
            signal += x * x;
            noise += (x - y) * (x - y);
        }
    }
    (signal, noise)
}

fn equal_bytes(a: &Files<'_>, ia: TensorId, b: &Files<'_>, ib: TensorId) -> Result<bool> {
    const PIECE: u64 = 4 << 20;
    let bytes = a.checkpoint.tensor(ia).bytes;
    let mut at = 0;
    while at < bytes {
        let len = PIECE.min(bytes - at);
        if a.read(ia, at, len)? != b.read(ib, at, len)? {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}

/// Decodes rows of one tensor.
struct Decoder<'a> {
    files: &'a Files<'a>,
    id: TensorId,
    scale: Option<(TensorId, crate::dtype::scheme::Scheme)>,
    granule: u64,
}

impl<'a> Decoder<'a> {
    /// A decoder of tensor `id`, or `None` where its values are no numbers that can be compared.
    fn new(files: &'a Files<'a>, id: TensorId) -> Result<Option<Self>> {
        let checkpoint = files.checkpoint;
        let tensor = checkpoint.tensor(id);
        match &checkpoint.encodings[id as usize] {
            Encoding::Plain if tensor.dtype.is_plain_float() => {
                Ok(Some(Self { files, id, scale: None, granule: 1 }))
            }
            Encoding::Codes(Stored { scale, scheme, .. }) => {
                let offset = checkpoint.find(&format!("{}.weight_offset", module_of(&tensor.name)));
                let is_offset =
                    |o: &TensorId| matches!(checkpoint.encodings[*o as usize], Encoding::OffsetOf { .. });
                if let Some(offset) = offset.filter(is_offset) {
                    require_zeros(files, offset)?;
                }
                Ok(Some(Self {
                    files,
                    id,
                    scale: Some((*scale, *scheme)),
                    granule: scheme.granularity.rows(),
                }))
            }
            _ => Ok(None),
        }
    }

    fn decode(&self, start: u64, end: u64, rows: u64, cols: u64) -> Result<Vec<f32>> {
        let tensor = self.files.checkpoint.tensor(self.id);
        let width = tensor.dtype.bits() / 8;
        let data = self.files.read(self.id, start * cols * width, (end - start) * cols * width)?;
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let mut scales = Vec::new();
        let values = match self.scale {
            None => match tensor.dtype {
                Dtype::BF16 => Values::Bf16(&data),
                Dtype::F16 => Values::F16(&data),
                _ => Values::F32(&data),
            },
            Some((scale, scheme)) => {
                let stored = self.files.checkpoint.tensor(scale);
                let [grid_rows, grid_cols] = scheme.granularity.grid(rows, cols);
                let (first, last) = crate::plan::cost::scale_rows(scheme.granularity, start, end, grid_rows);
                let width = stored.dtype.bits() / 8;
                let raw =
                    self.files.read(scale, first * grid_cols * width, (last - first) * grid_cols * width)?;
                kernel::decode_scales(stored.dtype, &raw, &mut scales);
                let [block_rows, block_cols] = scheme.granularity.unit(size(end - start), size(cols));
                Values::Scaled {
                    element: scheme.element,
                    codes: &data,
                    scales: &scales,
                    block_rows,
                    block_cols,
                }
            }
        };
        let mut out = vec![0u8; size((end - start) * cols * 4)];
        let sink = Sink::Cast { to: Dtype::F32, out: &mut out };
        // Nothing is refused here: a NaN on one side only is a difference like any other.
        let policy = Policy { keep_non_finite: true };
        kernel::convert(Isa::chosen(), &values, size(end - start), size(cols), sink, policy).map_err(
            |fault| {
                Error::internal("diff-decode", format!("a tensor cannot be decoded: {fault:?}"))
                    .tensor(&tensor.name)
            },
        )?;
        Ok(out.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}

fn require_zeros(files: &Files<'_>, id: TensorId) -> Result<()> {
    let tensor = files.checkpoint.tensor(id);
    let bytes = files.read(id, 0, tensor.bytes)?;
    match bytes.iter().position(|b| *b != 0) {
        None => Ok(()),
        Some(at) => {
            Err(Error::input("offset-not-zero", "a weight has offsets, which no symmetric scheme has")
                .file(&files.checkpoint.files[tensor.file as usize].name)
                .tensor(&tensor.name)
                .expected("zeros")
                .found(format!("other bytes at {at}"))
                .fix("asymmetric weights cannot be compared by this version"))
        }
    }
}
