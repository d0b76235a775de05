//! Evaluates one tile: reads its source ranges, runs its kernel, writes its output ranges.

use super::schedule::Tile;
use super::shards::Shards;
use super::sources::Sources;
use super::store::{self, Made};
use crate::checkpoint::TensorId;
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::error::{Error, Result};
use crate::io::buffer_pool::{BufferPool, Buffers};
use crate::kernel::{self, Fault, FaultKind, Isa, Policy, Sink, Stats};
use crate::plan::Plan;
use crate::plan::cost::{Task, TileBytes, Work};
use crate::plan::expr::{Axis, Constant};
use crate::plan::value::{Source, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use xxhash_rust::xxh3::Xxh3;

/// Globals of fused modules, by what identifies the module's first value.
pub(super) type Globals = Mutex<BTreeMap<(TensorId, [u64; 3]), Arc<OnceLock<f32>>>>;

/// What every tile needs.
pub(super) struct Evaluator<'a> {
    pub(super) plan: &'a Plan,
    pub(super) tasks: &'a [Task],
    pub(super) sources: &'a Sources<'a>,
    pub(super) shards: &'a Shards<'a>,
    pub(super) pool: &'a BufferPool,
    pub(super) isa: Isa,
    pub(super) policy: Policy,
    /// Globals of modules that share one, by the first tensor and the part of it that they read: experts may lie in one
    /// tensor.
    pub(super) globals: Globals,
}

/// What a tile did.
pub(super) struct Evaluated {
    pub(super) stats: Stats,
    /// XXH3 of the tile's output bytes, codes before companions.
    pub(super) xxh3: u64,
    pub(super) read: u64,
    pub(super) written: u64,
}

impl Evaluator<'_> {
    /// Reads, computes and writes `tile`.
    pub(super) fn evaluate(&self, tile: Tile) -> Result<Evaluated> {
        let task = &self.tasks[tile.task as usize];
        let bytes = task.tile_bytes(self.plan, tile.end - tile.start);
        let mut buffers = self.take(bytes)?;
        match &task.work {
            Work::Copy { source, scale } => self.copy(task, tile, *source, *scale, &mut buffers),
            Work::CopyRows { source, scale } => self.copy_rows(task, tile, *source, *scale, &mut buffers),
            Work::Constant(constant) => self.constant(task, tile, *constant, &mut buffers),
            Work::Reciprocal { source } => {
                let mut number = [0; 4];
                let input = &self.plan.inputs[*source as usize];
                self.sources.read(input.file, input.offset, &mut number)?;
                let bytes = (1.0 / f32::from_le_bytes(number)).to_le_bytes();
                self.write(task, tile, &[&bytes], Stats::default(), 4)
            }
            Work::ScaleF32 { source, pow2 } => self.scale_f32(task, tile, *source, *pow2, &mut buffers),
            Work::ScaleBytes { source, granularity, weight_cols, group } => self.scale_bytes(
                task,
                tile,
                *source,
                *granularity,
                [*weight_cols, u64::from(*group)],
                &mut buffers,
            ),
            Work::Cast { value, to } => self.cast(task, tile, value, *to, &mut buffers),
            Work::Quantize { value, peers, scheme } => {
                self.quantize(task, tile, value, peers, *scheme, &mut buffers)
            }
        }
    }

    fn take(&self, bytes: TileBytes) -> Result<Buffers> {
        self.pool.take(&bytes.lengths().map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    fn copy(
        &self,
        task: &Task,
        tile: Tile,
        source: TensorId,
        scale: bool,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let input = &self.plan.inputs[source as usize];
        let [data, ..] = split(buffers)?;
        self.sources.read(input.file, input.offset + task.first + tile.start, data)?;
        let stats = self.looked_at(input.dtype, data, scale);
        let read = data.len() as u64;
        self.write(task, tile, &[data], stats, read)
    }

    fn copy_rows(
        &self,
        task: &Task,
        tile: Tile,
        source: TensorId,
        scale: bool,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let input = &self.plan.inputs[source as usize];
        let [data, _, _, _, _, out, _] = split(buffers)?;
        let row = task.outputs[0].row_bytes;
        self.sources.read(input.file, input.offset + (task.first + tile.start) * row, data)?;
        store::take_columns(data, &task.outputs[0], out);
        let stats = self.looked_at(input.dtype, out, scale);
        let read = data.len() as u64;
        self.write(task, tile, &[out], stats, read)
    }

    /// What is worth a word in bytes that are copied. A scale that passes through is looked at as one that is decoded
    /// would be.
    fn looked_at(&self, dtype: Dtype, data: &[u8], scale: bool) -> Stats {
        let non_finite = kernel::count_non_finite(self.isa, dtype, data);
        let mut bad_scales = 0;
        if scale {
            let mut scales = Vec::new();
            kernel::decode_scales(dtype, data, &mut scales);
            bad_scales = scales.iter().filter(|s| **s <= 0.0).count() as u64;
        }
        Stats { non_finite, zero_scale_codes: bad_scales, ..Stats::default() }
    }

    fn constant(
        &self,
        task: &Task,
        tile: Tile,
        constant: Constant,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let [.., out, _] = split(buffers)?;
        store::fill(constant, tile.start, self.plan.outputs[task.output() as usize].ty.dtype, out);
        self.write(task, tile, &[out], Stats::default(), 0)
    }

    /// Reads rows of a scale tensor and refuses what no scale is.
    fn read_scales(
        &self,
        source: TensorId,
        first: u64,
        pow2: bool,
        raw: &mut [u8],
        scales: &mut Vec<f32>,
    ) -> Result<()> {
        let input = &self.plan.inputs[source as usize];
        let width = input.dtype.bits() / 8;
        self.sources.read(input.file, input.offset + first * width, raw)?;
        kernel::decode_scales(input.dtype, raw, scales);
        let bad = match pow2 {
            true => kernel::first_not_power_of_two(scales),
            false if self.policy.keep_non_finite => None,
            false => scales.iter().position(|s| !s.is_finite() || *s < 0.0),
        };
        let Some(at) = bad else { return Ok(()) };
        let expected = if pow2 {
            "a power of two, as the configuration promises (scale_fmt ue8m0)"
        } else {
            "a finite, positive scale"
        };
        Err(self
            .fault(source, "scale-invalid", "a scale is not what the source's encoding allows")
            .expected(expected)
            .found(format!("{:e} at position {}", scales[at], first + at as u64))
            .fix("check the download; a checkpoint whose scales are arbitrary must not say scale_fmt ue8m0"))
    }

    fn scale_f32(
        &self,
        task: &Task,
        tile: Tile,
        source: TensorId,
        pow2: bool,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let [data, _, _, _, _, out, _] = split(buffers)?;
        let mut scales = Vec::new();
        self.read_scales(source, (task.first + tile.start) * task.across, pow2, data, &mut scales)?;
        let bytes: &[u8] = bytemuck::cast_slice(&scales);
        let read = data.len() as u64;
        let written = &task.outputs[0];
        match written.is_whole() {
            true => out[..bytes.len()].copy_from_slice(bytes),
            false => {
                let out = &mut out[..written.range(tile.start, tile.end).1 as usize];
                store::take_columns(bytes, written, out);
            }
        }
        let len = written.range(tile.start, tile.end).1 as usize;
        self.write(task, tile, &[&mut out[..len]], Stats::default(), read)
    }

    fn scale_bytes(
        &self,
        task: &Task,
        tile: Tile,
        source: TensorId,
        granularity: Granularity,
        [weight_cols, group]: [u64; 2],
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let [data, _, _, _, _, out, _] = split(buffers)?;
        let grid_cols = granularity.grid(1, weight_cols)[1];
        let (start, end) = (task.first + tile.start, task.first + tile.end);
        let (first, last) = (start / granularity.rows(), end.div_ceil(granularity.rows()));
        let width = self.plan.inputs[source as usize].dtype.bits() / 8;
        let len = usize::try_from((last - first) * grid_cols * width).unwrap_or(usize::MAX);
        let raw = data.get_mut(..len).ok_or_else(too_small)?;
        let mut scales = Vec::new();
        self.read_scales(source, first * grid_cols, true, raw, &mut scales)?;
        let written = &task.outputs[0];
        let block =
            granularity.unit(usize::MAX, usize::try_from(weight_cols).unwrap_or(usize::MAX))[1] as u64;
        let [taken, len] = [written.cut.0 as usize, written.cut.1 as usize];
        for (row, out) in (start..end).zip(out.chunks_exact_mut(len.max(1))) {
            let line =
                &scales[((row / granularity.rows() - first) * grid_cols) as usize..][..grid_cols as usize];
            for (col, byte) in (taken..taken + len).zip(out) {
                // Exponent of a normal power of two; 2^-127 is subnormal.
                *byte = (line[(col as u64 * group / block) as usize].to_bits() >> 23) as u8;
            }
        }
        let len = written.range(tile.start, tile.end).1 as usize;
        let read = raw.len() as u64;
        self.write(task, tile, &[&mut out[..len]], Stats::default(), read)
    }

    fn cast(
        &self,
        task: &Task,
        tile: Tile,
        value: &Value,
        to: Dtype,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let [raw, side, unpacked, materialized, _, out, _] = split(buffers)?;
        let (start, end) = (task.first + tile.start, task.first + tile.end);
        let rows = [start, end];
        let loaded = self.load(value, rows, [0, task.across], [raw, side, unpacked, materialized])?;
        let [r, c] = loaded.shape;
        let written = task.outputs[0];
        let len = written.bytes(tile.start, tile.end) as usize;
        let (computed, rest) = out.split_at_mut_checked(len).ok_or_else(too_small)?;
        let sink = Sink::Cast { to, out: &mut *computed };
        let stats = kernel::convert(self.isa, &loaded.values(), r, c, sink, self.policy)
            .map_err(|fault| self.value_fault(value, [start, 0], &fault))?;
        let read = loaded.read;
        if written.is_whole() {
            return self.write(task, tile, &[computed], stats, read);
        }
        let rest = &mut rest[..written.range(tile.start, tile.end).1 as usize];
        store::take_columns(computed, &written, rest);
        self.write(task, tile, &[rest], stats, read)
    }

    fn quantize(
        &self,
        task: &Task,
        tile: Tile,
        value: &Value,
        peers: &[Value],
        scheme: Scheme,
        buffers: &mut Buffers,
    ) -> Result<Evaluated> {
        let global = match scheme.rule {
            Rule::Nvfp4 => self.global(value, peers)?,
            _ => 1.0,
        };
        // The last buffer only reserves what scales and companions take.
        let [raw, side, unpacked, materialized, codes, output, _] = split(buffers)?;
        let (start, end) = (task.first + tile.start, task.first + tile.end);
        let (rows, cols, corner) = match task.axis {
            Axis::Rows => ([start, end], [0, task.across], [start, 0]),
            Axis::Cols => ([0, task.across], [start, end], [0, start]),
        };
        let repack = scheme.rule == Rule::Given;
        let loaded = match repack {
            true => self.load_codes(value, rows, cols, [raw, side, unpacked, materialized])?,
            false => self.load(value, rows, cols, [raw, side, unpacked, materialized])?,
        };
        let [r, c] = loaded.shape;
        let [grid_rows, grid_cols] = match scheme.granularity {
            Granularity::Tensor => [1, 1],
            granularity => granularity.grid(r as u64, c as u64).map(|n| n as usize),
        };
        let read = loaded.read;
        let packed = scheme.packing != Packing::Plain;
        let main = task.outputs[0];
        let (stored, gathered) =
            output.split_at_mut_checked(main.bytes(tile.start, tile.end) as usize).ok_or_else(too_small)?;
        let mut made = Made::new(scheme, [r, c], [grid_rows, grid_cols], global);
        let stats = if repack {
            made.scales = loaded.scales().to_vec();
            made.zeros = loaded.zeros().to_vec();
            Stats { elements: (r * c) as u64, ..Stats::default() }
        } else {
            let sink = Sink::Quantize {
                scheme,
                global,
                codes: if packed { codes.get_mut(..r * c).ok_or_else(too_small)? } else { &mut *stored },
                scales: &mut made.scales,
                zeros: &mut made.zeros,
            };
            kernel::convert(self.isa, &loaded.values(), r, c, sink, self.policy)
                .map_err(|fault| self.value_fault(value, corner, &fault))?
        };
        let bytes: &[u8] = match (repack, packed) {
            (true, _) => loaded.codes(),
            (false, true) => codes.get(..r * c).ok_or_else(too_small)?,
            (false, false) => &[],
        };
        if !bytes.is_empty() {
            kernel::pack::pack(scheme.packing, scheme.element, bytes, r, c, stored);
        }
        let codes = if bytes.is_empty() { &*stored } else { bytes };
        let companions: Vec<Vec<u8>> = task.outputs[1..]
            .iter()
            .map(|output| {
                if output.range(tile.start, tile.end).1 == 0 {
                    return Ok(Vec::new());
                }
                let whole = made.part(output.part, codes)?;
                if output.is_whole() {
                    return Ok(whole);
                }
                let mut taken = vec![0; output.range(tile.start, tile.end).1 as usize];
                store::take_columns(&whole, output, &mut taken);
                Ok(taken)
            })
            .collect::<Result<_>>()?;
        let first: &[u8] = match main.is_whole() {
            true => stored,
            false => {
                let gathered =
                    gathered.get_mut(..main.range(tile.start, tile.end).1 as usize).ok_or_else(too_small)?;
                store::take_columns(stored, &main, gathered);
                gathered
            }
        };
        let mut pieces = vec![first];
        pieces.extend(companions.iter().map(Vec::as_slice));
        self.write(task, tile, &pieces, stats, read)
    }

    /// NVFP4's global of a fused module: 2688 over its largest magnitude.
    fn global(&self, value: &Value, peers: &[Value]) -> Result<f32> {
        let first = |value: &Value| {
            let id = match &value.source {
                Source::Plain(id) => *id,
                Source::Scaled(stored) => stored.codes,
            };
            (id, [value.view.row, value.view.step, value.view.col])
        };
        let key = peers.iter().chain([value]).map(first).min().unwrap_or_default();
        let cell = {
            let mut globals = self.globals.lock().unwrap_or_else(PoisonError::into_inner);
            globals.entry(key).or_default().clone()
        };
        if let Some(global) = cell.get() {
            return Ok(*global);
        }
        // Two threads may compute it; they find the same.
        let mut amax = 0f32;
        for value in peers.iter().chain([value]) {
            amax = amax.max(self.largest(value)?);
        }
        let global = 2688.0 / amax;
        Ok(*cell.get_or_init(|| if global.is_finite() { global } else { 1.0 }))
    }

    fn write(&self, task: &Task, tile: Tile, data: &[&[u8]], stats: Stats, read: u64) -> Result<Evaluated> {
        let mut hash = Xxh3::new();
        let mut written = 0;
        for (output, bytes) in task.outputs.iter().zip(data) {
            let (offset, len) = output.range(tile.start, tile.end);
            if len != bytes.len() as u64 {
                return Err(Error::internal(
                    "tile-length",
                    format!("a tile has {} bytes for a range of {len}", bytes.len()),
                )
                .tensor(&self.plan.outputs[output.output as usize].name));
            }
            self.shards.write(output.output, offset, bytes)?;
            hash.update(bytes);
            written += len;
        }
        Ok(Evaluated { stats, xxh3: hash.digest(), read, written })
    }

    pub(super) fn fault(&self, tensor: TensorId, code: &'static str, what: &str) -> Error {
        let input = &self.plan.inputs[tensor as usize];
        Error::input(code, what).file(self.sources.path(input.file)).tensor(&input.name)
    }

    /// Phrases a kernel's complaint about a tile whose first element is `corner` of the value.
    pub(super) fn value_fault(&self, value: &Value, corner: [u64; 2], fault: &Fault) -> Error {
        let (codes, scale) = match &value.source {
            Source::Plain(source) => (*source, *source),
            Source::Scaled(stored) => (stored.codes, stored.scale),
        };
        let [row, col] = position(value, corner, fault);
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
                format!("{:e} for element [{row}, {col}]", f32::from_bits(fault.bits))
            }
            _ => format!("code 0x{:x} at [{row}, {col}]", fault.bits),
        };
        self.fault(tensor, code, what)
            .expected(expected)
            .found(found)
            .fix("check the download against its published digests; --nan keep converts such values and reports them")
    }
}

/// Row and column of the value that a fault in a tile speaks of.
fn position(value: &Value, [row, col]: [u64; 2], fault: &Fault) -> [u64; 2] {
    let (r, c) = (fault.row as u64, fault.col as u64);
    // Where values are materialized, the kernel sees the stored matrix.
    if value.view.transpose { [row + c, col + r] } else { [row + r, col + c] }
}

pub(super) fn too_small() -> Error {
    Error::internal("tile-buffers", "a tile needs more room than it was given")
}

fn split(buffers: &mut Buffers) -> Result<[&mut [u8]; 7]> {
    buffers.array_mut::<7>().ok_or_else(|| Error::internal("tile-buffers", "a tile has too few buffers"))
}
