//! Work units of a plan and what a tile of them costs in memory.
//!
//! A [`Task`] is one evaluation: a tensor copied, or a weight decoded and quantized into codes and scales. Its work is
//! measured in units (bytes of a copy, rows of a matrix) that can be cut anywhere at a multiple of `granule`; every cut
//! gives the same bytes. The executor turns tasks into tiles; `plan` prices them with the same functions.

use super::{Expr, Output, Plan};
use crate::checkpoint::TensorId;
use crate::dtype::Dtype;
use crate::dtype::scheme::{Granularity, Scheme};
use crate::error::{Error, Result};
use crate::io::buffer_pool::class_size;

/// Largest memory of one tile. Larger tiles gain nothing, since the page cache and L2 set the pace, and would make a
/// resumed run repeat more.
pub const TILE_BYTES: u64 = 4 << 20;

/// What a task does.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Source bytes to output bytes; the unit is a byte.
    Copy {
        /// The source tensor.
        source: TensorId,
        /// The output.
        output: u32,
        /// Whether the tensor holds scales.
        scale: bool,
    },
    /// Stored scales to F32; the unit is a scale.
    ScaleF32 {
        /// The source tensor.
        source: TensorId,
        /// The output.
        output: u32,
        /// Whether every scale must be a power of two.
        pow2: bool,
    },
    /// Zero bytes; the unit is a byte.
    Zeros {
        /// The output.
        output: u32,
    },
    /// A value cast to a float format; the unit is a row.
    Cast {
        /// The value.
        value: Value,
        /// The format.
        to: Dtype,
        /// The output.
        output: u32,
    },
    /// A value quantized; the unit is a row.
    Quantize {
        /// The value.
        value: Value,
        /// The scheme.
        scheme: Scheme,
        /// The output of the codes.
        codes: u32,
        /// The output of the scales.
        scales: u32,
    },
}

/// A value that kernels decode row by row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Plain floats.
    Plain {
        /// The source tensor.
        source: TensorId,
    },
    /// Codes with scales.
    Scaled {
        /// The codes.
        codes: TensorId,
        /// The scales.
        scale: TensorId,
        /// The source's scheme.
        scheme: Scheme,
    },
}

impl Value {
    fn of(expr: &Expr) -> Option<Value> {
        match expr {
            Expr::Load(source) => Some(Value::Plain { source: *source }),
            Expr::Dequantize { codes, scale, scheme } => {
                Some(Value::Scaled { codes: *codes, scale: *scale, scheme: *scheme })
            }
            _ => None,
        }
    }
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What is done.
    pub work: Work,
    /// Shard that its outputs lie in.
    pub shard: u32,
    /// Units of work.
    pub units: u64,
    /// Units that cannot be parted.
    pub granule: u64,
    /// Columns, where the unit is a row; 1 otherwise.
    pub cols: u64,
}

/// Bytes of the buffers that a tile needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileBytes {
    /// Codes, or the bytes copied.
    pub input: u64,
    /// Stored scales of the source.
    pub input_scales: u64,
    /// Codes, or the bytes copied.
    pub output: u64,
    /// Scales as F32 and as stored.
    pub output_scales: u64,
}

impl TileBytes {
    /// All of it, as the buffer pool rounds it up.
    pub fn total(self) -> u64 {
        let class = |len: u64| usize::try_from(len).ok().and_then(class_size).map_or(u64::MAX, |c| c as u64);
        [self.input, self.input_scales, self.output, self.output_scales]
            .into_iter()
            .filter(|len| *len > 0)
            .fold(0, |sum, len| sum.saturating_add(class(len)))
    }
}

impl Task {
    /// The output that a message names: the codes of a quantized weight.
    pub fn output(&self) -> u32 {
        match &self.work {
            Work::Copy { output, .. }
            | Work::ScaleF32 { output, .. }
            | Work::Zeros { output }
            | Work::Cast { output, .. } => *output,
            Work::Quantize { codes, .. } => *codes,
        }
    }

    /// Outputs and their bytes per `units`, in the order in which a tile's digest covers them.
    pub fn outputs(&self) -> [Option<u32>; 2] {
        match &self.work {
            Work::Quantize { codes, scales, .. } => [Some(*codes), Some(*scales)],
            _ => [Some(self.output()), None],
        }
    }

    /// Byte range of units `start..end` in output `output`, relative to the output's start.
    pub fn output_range(&self, output: u32, start: u64, end: u64) -> (u64, u64) {
        match &self.work {
            Work::Copy { .. } | Work::Zeros { .. } => (start, end - start),
            Work::ScaleF32 { .. } => (start * 4, (end - start) * 4),
            Work::Cast { to, .. } => {
                let row = self.cols * to.bits() / 8;
                (start * row, (end - start) * row)
            }
            Work::Quantize { scheme, codes, .. } if output == *codes => {
                let row = self.cols * scheme.element.bits() / 8;
                (start * row, (end - start) * row)
            }
            Work::Quantize { scheme, .. } => {
                let [rows, cols] = scheme.granularity.grid(self.units, self.cols);
                let (first, last) = scale_rows(scheme.granularity, start, end, rows);
                let row = cols * scheme.scale.bits() / 8;
                (first * row, (last - first) * row)
            }
        }
    }

    /// Buffers of a tile of `units`.
    pub fn tile_bytes(&self, plan: &Plan, units: u64) -> TileBytes {
        let input_of = |value: &Value| match value {
            Value::Plain { source } => {
                (units * self.cols * plan.inputs[*source as usize].dtype.bits() / 8, 0)
            }
            Value::Scaled { codes, scheme, .. } => {
                let [_, grid_cols] = scheme.granularity.grid(self.units, self.cols);
                let rows = units.div_ceil(scheme.granularity.rows()) + 1;
                let scale = rows * grid_cols;
                (
                    units * self.cols * plan.inputs[*codes as usize].dtype.bits() / 8,
                    scale * (4 + scheme.scale.bits() / 8),
                )
            }
        };
        match &self.work {
            Work::Copy { .. } => TileBytes { input: units, ..TileBytes::default() },
            Work::Zeros { .. } => TileBytes { output: units, ..TileBytes::default() },
            Work::ScaleF32 { source, .. } => TileBytes {
                input: units * plan.inputs[*source as usize].dtype.bits() / 8,
                output: units * 4,
                ..TileBytes::default()
            },
            Work::Cast { value, to, .. } => {
                let (input, input_scales) = input_of(value);
                TileBytes { input, input_scales, output: units * self.cols * to.bits() / 8, output_scales: 0 }
            }
            Work::Quantize { value, scheme, .. } => {
                let (input, input_scales) = input_of(value);
                let [_, grid_cols] = scheme.granularity.grid(self.units, self.cols);
                let scales = units.div_ceil(scheme.granularity.rows()) * grid_cols;
                TileBytes {
                    input,
                    input_scales,
                    output: units * self.cols * scheme.element.bits() / 8,
                    output_scales: scales * (4 + scheme.scale.bits() / 8),
                }
            }
        }
    }

    /// Units of a tile that stays within `limit` bytes: a multiple of the granule, at least one granule. What buffers are
    /// rounded up by is left out: rounding a single row would shrink tiles to a few rows.
    pub fn tile_units(&self, plan: &Plan, limit: u64) -> u64 {
        let bytes = self.tile_bytes(plan, self.granule);
        let one = bytes.input + bytes.input_scales + bytes.output + bytes.output_scales;
        let granules = (limit / one.max(1)).max(1);
        (granules * self.granule).min(self.units.max(1))
    }
}

/// Rows `first..last` of the scale grid that rows `start..end` of the weight touch.
pub fn scale_rows(granularity: Granularity, start: u64, end: u64, grid_rows: u64) -> (u64, u64) {
    match granularity {
        Granularity::Tensor => (0, 1),
        _ => (start / granularity.rows(), end.div_ceil(granularity.rows()).min(grid_rows)),
    }
}

/// The tasks of a placed plan, in the order of their places.
pub fn tasks(plan: &Plan) -> Result<Vec<Task>> {
    let mut tasks = Vec::with_capacity(plan.outputs.len());
    for (i, output) in (0u32..).zip(&plan.outputs) {
        let Some(place) = output.place else {
            return Err(Error::internal("task-unplaced", "an output has no place").tensor(&output.name));
        };
        let unsupported = || {
            Error::internal("task-unsupported", "the executor has no kernel for the expression")
                .tensor(&output.name)
        };
        let shard = place.shard;
        let [rows, cols] = output.ty.matrix();
        let task = match &output.expr {
            Expr::Load(source) => Task {
                work: Work::Copy { source: *source, output: i, scale: is_scale(output) },
                shard,
                units: output.bytes(),
                // A whole number of elements of any format, and of cache lines.
                granule: 64,
                cols: 1,
            },
            Expr::ScaleF32 { scale, pow2 } => Task {
                work: Work::ScaleF32 { source: *scale, output: i, pow2: *pow2 },
                shard,
                units: output.ty.elements(),
                granule: 64,
                cols: 1,
            },
            Expr::Zeros(_) => {
                Task { work: Work::Zeros { output: i }, shard, units: output.bytes(), granule: 64, cols: 1 }
            }
            Expr::Cast { value, to } => {
                let value = Value::of(value).ok_or_else(unsupported)?;
                Task {
                    work: Work::Cast { value, to: *to, output: i },
                    shard,
                    units: rows,
                    granule: granule(&value, 1),
                    cols,
                }
            }
            Expr::Codes { value, scheme } => {
                let scales = (i.saturating_sub(2)..i + 3)
                    .find(|j| match plan.outputs.get(*j as usize).map(|o| &o.expr) {
                        Some(Expr::Scales { value: v, scheme: s }) => v == value && s == scheme,
                        _ => false,
                    })
                    .ok_or_else(unsupported)?;
                let value = Value::of(value).ok_or_else(unsupported)?;
                Task {
                    work: Work::Quantize { value, scheme: *scheme, codes: i, scales },
                    shard,
                    units: rows,
                    granule: match scheme.granularity {
                        Granularity::Tensor => rows.max(1),
                        granularity => granule(&value, granularity.rows()),
                    },
                    cols,
                }
            }
            // Computed with its codes.
            Expr::Scales { .. } => continue,
            Expr::Dequantize { .. } => return Err(unsupported()),
        };
        tasks.push(task);
    }
    tasks.sort_by_key(|t| {
        let place = plan.outputs[t.output() as usize].place;
        (t.shard, place.map(|p| p.offset), t.output())
    });
    Ok(tasks)
}

/// Whether an output that is copied holds the scales of a quantized weight.
fn is_scale(output: &Output) -> bool {
    output.scheme.is_some() && output.ty.dtype.is_plain_float() && output.name.contains(".weight_scale")
}

/// Rows that a tile must hold whole: the scale blocks of source and target.
fn granule(value: &Value, target_rows: u64) -> u64 {
    let source_rows = match value {
        Value::Plain { .. } => 1,
        Value::Scaled { scheme, .. } => scheme.granularity.rows(),
    };
    lcm(source_rows.max(1), target_rows.max(1))
}

fn lcm(a: u64, b: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}

/// Memory of a plan of `inputs` and `outputs` tensors with everything derived from it, in bytes: measured, rounded up.
/// The quick check and the report at the end included.
fn plan_memory(plan: &Plan) -> u64 {
    (8 << 20) + 260 * plan.inputs.len() as u64 + 1000 * plan.outputs.len() as u64
}

/// What a memory budget leaves for tiles: peak memory is promised to stay below the budget and 128 MiB, most of which a
/// plan may use; a larger one is paid from the budget.
///
/// # Errors
/// Exit 2 when nothing useful is left.
pub fn tile_budget(plan: &Plan, memory: u64) -> Result<u64> {
    const FREE: u64 = 96 << 20;
    const LEAST: u64 = 16 << 20;
    let excess = plan_memory(plan).saturating_sub(FREE);
    match memory.checked_sub(excess).filter(|left| *left >= LEAST) {
        Some(left) => Ok(left),
        None => Err(Error::usage(
            "memory-too-small",
            "the plan of so many tensors does not fit the memory budget",
        )
        .expected(format!("--memory of at least {} bytes", excess + LEAST))
        .found(format!("{memory} bytes for {} tensors", plan.outputs.len()))
        .fix("raise --memory")),
    }
}

/// How much of a memory budget one tile may use, so that `jobs` tiles fit.
pub fn tile_limit(budget: u64, jobs: u64) -> u64 {
    (budget / (2 * jobs.max(1))).clamp(1 << 16, TILE_BYTES)
}

/// Largest memory that the tiles in flight use together, or the tensor that does not fit `budget`.
pub fn peak_tile_memory(plan: &Plan, tasks: &[Task], budget: u64, jobs: u64) -> Result<u64> {
    let limit = tile_limit(budget, jobs);
    let mut largest = 0;
    for task in tasks {
        let bytes = task.tile_bytes(plan, task.tile_units(plan, limit)).total();
        if bytes > budget {
            return Err(Error::usage(
                "memory-too-small",
                "one tile of the tensor does not fit the memory budget",
            )
            .tensor(&plan.outputs[task.output() as usize].name)
            .expected(format!("--memory of at least {bytes} bytes"))
            .found(format!("{budget} bytes"))
            .fix("raise --memory, or leave the tensor out of quantization with --ignore"));
        }
        largest = largest.max(bytes);
    }
    Ok((largest * jobs.max(1)).min(budget))
}
