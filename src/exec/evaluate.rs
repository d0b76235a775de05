//! Evaluates one tile: reads its source ranges, runs its kernel, writes its output ranges.

use super::schedule::Tile;
use super::shards::Shards;
use super::sources::Sources;
use crate::checkpoint::TensorId;
use crate::dtype::Dtype;
use crate::dtype::codec;
use crate::dtype::scheme::{Granularity, Scheme};
use crate::error::{Error, Result};
use crate::io::buffer_pool::{BufferPool, Buffers};
use crate::kernel::{self, Fault, FaultKind, Isa, Policy, Sink, Stats, Values};
use crate::plan::Plan;
use crate::plan::cost::{Task, TileBytes, Value, Work, scale_rows};
use xxhash_rust::xxh3::Xxh3;

/// What every tile needs.
pub(super) struct Evaluator<'a> {
    pub(super) plan: &'a Plan,
    pub(super) tasks: &'a [Task],
    pub(super) sources: &'a Sources<'a>,
    pub(super) shards: &'a Shards<'a>,
    pub(super) pool: &'a BufferPool,
    pub(super) isa: Isa,
    pub(super) policy: Policy,
}

/// What a tile did.
pub(super) struct Evaluated {
    pub(super) stats: Stats,
    /// XXH3 of the tile's output bytes, codes before scales.
    pub(super) xxh3: u64,
    pub(super) read: u64,
    pub(super) written: u64,
}

/// The buffers of a tile, in the order in which they are taken.
const INPUT: usize = 0;
const INPUT_SCALES: usize = 1;
const OUTPUT: usize = 2;
const OUTPUT_SCALES: usize = 3;

impl Evaluator<'_> {
    /// Reads, computes and writes `tile`.
    pub(super) fn evaluate(&self, tile: Tile) -> Result<Evaluated> {
        let task = &self.tasks[tile.task as usize];
        let bytes = task.tile_bytes(self.plan, tile.end - tile.start);
        let mut buffers = self.take(bytes)?;
        match &task.work {
            Work::Copy { source, .. } => self.copy(task, tile, *source, &mut buffers),
            Work::Zeros { .. } => {
                let [_, _, out, _] = split(&mut buffers)?;
                out.fill(0);
                self.write(task, tile, &[out], Stats::default(), 0)
            }
            Work::ScaleF32 { source, pow2, .. } => self.scale_f32(task, tile, *source, *pow2, &mut buffers),
            Work::Cast { value, to, .. } => self.cast(task, tile, value, *to, &mut buffers),
            Work::Quantize { value, scheme, .. } => self.quantize(task, tile, value, *scheme, &mut buffers),
        }
    }

    fn take(&self, bytes: TileBytes) -> Result<Buffers> {
        let len = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        self.pool.take(&[
            len(bytes.input),
            len(bytes.input_scales),
            len(bytes.output),
            len(bytes.output_scales),
        ])
    }

    fn copy(&self, task: &Task, tile: Tile, source: TensorId, buffers: &mut Buffers) -> Result<Evaluated> {
        let input = &self.plan.inputs[source as usize];
        let [data, ..] = split(buffers)?;
        self.sources.read(input.file, input.offset + tile.start, data)?;
        let non_finite = kernel::count_non_finite(self.isa, input.dtype, data);
        // A scale that passes through is looked at as one that is decoded would be.
        let mut bad_scales = 0;
        if matches!(task.work, Work::Copy { scale: true, .. }) {
            let mut scales = Vec::new();
            kernel::decode_scales(input.dtype, data, &mut scales);
            bad_scales = scales.iter().filter(|s| **s <= 0.0).count() as u64;
        }
        let stats = Stats { non_finite, zero_scale_codes: bad_scales, ..Stats::default() };
        let read = data.len() as u64;
        self.write(task, tile, &[data], stats, read)
    }

    fn scale_f32(
        &self,
        task: &Task,
        tile: Tile,
        source: TensorId,
        pow2: bool,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let input = &self.plan.inputs[source as usize];
        let [data, _, out, _] = split(buffers)?;
        let width = input.dtype.bits() / 8;
        self.sources.read(input.file, input.offset + tile.start * width, data)?;
        let mut scales = Vec::new();
        kernel::decode_scales(input.dtype, data, &mut scales);
        let bad = match pow2 {
            true => kernel::first_not_power_of_two(&scales),
            false if self.policy.keep_non_finite => None,
            false => scales.iter().position(|s| !s.is_finite() || *s < 0.0),
        };
        if let Some(at) = bad {
            let expected = if pow2 {
                "a power of two, as the configuration promises (scale_fmt ue8m0)"
            } else {
                "a finite, positive scale"
            };
            return Err(self
                .fault(source, "scale-invalid", "a scale is not what the source's encoding allows")
                .expected(expected)
                .found(format!("{:e} at position {}", scales[at], tile.start + at as u64))
                .fix("check the download; a checkpoint whose scales are arbitrary must not say scale_fmt ue8m0"));
        }
        for (bytes, scale) in out.chunks_exact_mut(4).zip(&scales) {
            bytes.copy_from_slice(&scale.to_le_bytes());
        }
        let read = data.len() as u64;
        self.write(task, tile, &[out], Stats::default(), read)
    }

    fn cast(
        &self,
        task: &Task,
        tile: Tile,
        value: &Value,
        to: Dtype,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let [data, raw_scales, out, _] = split(buffers)?;
        let mut scales = Vec::new();
        let (values, read) = self.load(task, tile, value, data, raw_scales, &mut scales)?;
        let [rows, cols] = dims(task, tile)?;
        let stats =
            kernel::convert(self.isa, &values, rows, cols, Sink::Cast { to, out: &mut *out }, self.policy)
                .map_err(|fault| self.value_fault(value, tile, &fault))?;
        self.write(task, tile, &[out], stats, read)
    }

    fn quantize(
        &self,
        task: &Task,
        tile: Tile,
        value: &Value,
        scheme: Scheme,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let [data, raw_scales, codes, stored] = split(buffers)?;
        let mut source_scales = Vec::new();
        let (values, read) = self.load(task, tile, value, data, raw_scales, &mut source_scales)?;
        let [rows, cols] = dims(task, tile)?;
        let [grid_rows, grid_cols] = match scheme.granularity {
            Granularity::Tensor => [1, 1],
            granularity => granularity.grid(rows as u64, cols as u64),
        };
        let mut scales = vec![0f32; usize::try_from(grid_rows * grid_cols).unwrap_or(usize::MAX)];
        let sink = Sink::Quantize {
            scheme,
            global: 1.0,
            codes: &mut *codes,
            scales: &mut scales,
            zeros: &mut [],
        };
        let stats = kernel::convert(self.isa, &values, rows, cols, sink, self.policy)
            .map_err(|fault| self.value_fault(value, tile, &fault))?;
        let stored = store_scales(scheme.scale, &scales, stored).ok_or_else(|| {
            Error::internal("scale-format", format!("no kernel stores {} scales", scheme.scale))
        })?;
        self.write(task, tile, &[codes, stored], stats, read)
    }

    /// Reads the codes and scales of rows `tile.start..tile.end`.
    fn load<'b>(
        &self,
        task: &Task,
        tile: Tile,
        value: &Value,
        data: &'b mut [u8],
        raw_scales: &mut [u8],
        scales: &'b mut Vec<f32>,
    ) -> Result<(Values<'b>, u64)> {
        let (source, scaled) = match value {
            Value::Plain { source } => (*source, None),
            Value::Scaled { codes, scale, scheme } => (*codes, Some((*scale, *scheme))),
        };
        let input = &self.plan.inputs[source as usize];
        let row = task.cols * input.dtype.bits() / 8;
        self.sources.read(input.file, input.offset + tile.start * row, data)?;
        let mut read = data.len() as u64;
        let Some((scale, scheme)) = scaled else {
            let values = match input.dtype {
                Dtype::BF16 => Values::Bf16(data),
                Dtype::F16 => Values::F16(data),
                Dtype::F32 => Values::F32(data),
                other => {
                    return Err(Error::internal("value-format", format!("no kernel reads {other} values"))
                        .tensor(&input.name));
                }
            };
            return Ok((values, read));
        };
        let stored = &self.plan.inputs[scale as usize];
        let [grid_rows, grid_cols] = scheme.granularity.grid(task.units, task.cols);
        let (first, last) = scale_rows(scheme.granularity, tile.start, tile.end, grid_rows);
        let width = stored.dtype.bits() / 8;
        let len = usize::try_from((last - first) * grid_cols * width).unwrap_or(usize::MAX);
        let raw = raw_scales
            .get_mut(..len)
            .ok_or_else(|| Error::internal("tile-scales", "a tile's scales exceed their buffer"))?;
        self.sources.read(stored.file, stored.offset + first * grid_cols * width, raw)?;
        // The scales of a tensor are read by every tile; they are counted once.
        read += if scheme.granularity == Granularity::Tensor && tile.start > 0 { 0 } else { len as u64 };
        kernel::decode_scales(stored.dtype, raw, scales);
        let [rows, cols] = dims(task, tile)?;
        let [block_rows, block_cols] = scheme.granularity.unit(rows, cols);
        Ok((Values::Scaled { element: scheme.element, codes: data, scales, block_rows, block_cols }, read))
    }

    fn write(
        &self,
        task: &Task,
        tile: Tile,
        data: &[&mut [u8]],
        stats: Stats,
        read: u64,
    ) -> Result<Evaluated> {
        let mut hash = Xxh3::new();
        let mut written = 0;
        for (output, bytes) in task.outputs().into_iter().flatten().zip(data) {
            let (offset, len) = task.output_range(output, tile.start, tile.end);
            if len != bytes.len() as u64 {
                return Err(Error::internal(
                    "tile-length",
                    format!("a tile has {} bytes for a range of {len}", bytes.len()),
                )
                .tensor(&self.plan.outputs[output as usize].name));
            }
            self.shards.write(output, offset, bytes)?;
            hash.update(bytes);
            written += len;
        }
        Ok(Evaluated { stats, xxh3: hash.digest(), read, written })
    }

    fn fault(&self, tensor: TensorId, code: &'static str, what: &str) -> Error {
        let input = &self.plan.inputs[tensor as usize];
        Error::input(code, what).file(self.sources.path(input.file)).tensor(&input.name)
    }

    /// Phrases a kernel's complaint about rows of a tile.
    fn value_fault(&self, value: &Value, tile: Tile, fault: &Fault) -> Error {
        let (codes, scale) = match value {
            Value::Plain { source } => (*source, *source),
            Value::Scaled { codes, scale, .. } => (*codes, *scale),
        };
        let row = tile.start + fault.row as u64;
        let (tensor, code, what, expected) = match fault.kind {
            FaultKind::NonFiniteScale => {
                (scale, "scale-not-finite", "a scale is NaN or infinite", "finite scales")
            }
            FaultKind::NegativeScale => (scale, "scale-negative", "a scale is negative", "positive scales"),
            FaultKind::NanCode => (codes, "nan-code", "the tensor holds NaN codes", "finite codes"),
            FaultKind::NonFinite => {
                (codes, "non-finite", "the tensor holds NaN or infinite values", "finite values")
            }
        };
        let found = match fault.kind {
            FaultKind::NonFiniteScale | FaultKind::NegativeScale => {
                format!("{:e} for element [{row}, {}]", f32::from_bits(fault.bits), fault.col)
            }
            _ => format!("code 0x{:x} at [{row}, {}]", fault.bits, fault.col),
        };
        self.fault(tensor, code, what)
            .expected(expected)
            .found(found)
            .fix("check the download against its published digests; --nan keep converts such values and reports them")
    }
}

fn dims(task: &Task, tile: Tile) -> Result<[usize; 2]> {
    let rows = usize::try_from(tile.end - tile.start);
    let cols = usize::try_from(task.cols);
    match (rows, cols) {
        (Ok(rows), Ok(cols)) => Ok([rows, cols]),
        _ => Err(Error::internal("tile-size", "a tile exceeds the address space")),
    }
}

fn split(buffers: &mut Buffers) -> Result<[&mut [u8]; 4]> {
    debug_assert_eq!([INPUT, INPUT_SCALES, OUTPUT, OUTPUT_SCALES], [0, 1, 2, 3]);
    buffers.array_mut::<4>().ok_or_else(|| Error::internal("tile-buffers", "a tile has too few buffers"))
}

/// Writes scales in the format of the scheme into the head of `out`; the bytes written.
fn store_scales<'b>(dtype: Dtype, scales: &[f32], out: &'b mut [u8]) -> Option<&'b mut [u8]> {
    match dtype {
        Dtype::F32 => {
            let out = out.get_mut(..scales.len() * 4)?;
            for (bytes, scale) in out.chunks_exact_mut(4).zip(scales) {
                bytes.copy_from_slice(&scale.to_le_bytes());
            }
            Some(out)
        }
        Dtype::BF16 => {
            let out = out.get_mut(..scales.len() * 2)?;
            for (bytes, scale) in out.chunks_exact_mut(2).zip(scales) {
                bytes.copy_from_slice(&codec::bf16_from_f32(*scale).to_le_bytes());
            }
            Some(out)
        }
        _ => None,
    }
}
