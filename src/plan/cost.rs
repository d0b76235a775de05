//! Work units of a plan and what a tile of them costs in memory.
//!
//! A [`Task`] is one evaluation: a tensor copied, or a weight decoded and quantized into codes and scales. Its work is
//! measured in units (bytes of a copy, rows of a matrix) that can be cut anywhere at a multiple of `granule`; every cut
//! gives the same bytes. The executor turns tasks into tiles; `plan` prices them with the same functions.

use super::expr::{Axis, Cut, Part};
use super::value::{Source, Value};
use super::{Expr, Output, Plan};
use crate::checkpoint::TensorId;
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::error::{Error, Result};
use crate::io::buffer_pool::class_size;

use super::expr::lcm;

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
        /// Whether the tensor holds scales.
        scale: bool,
    },
    /// Some bytes of each row of a source tensor; the unit is a row.
    CopyRows {
        /// The source tensor.
        source: TensorId,
        /// Whether the tensor holds scales.
        scale: bool,
    },
    /// Stored scales to F32; the unit is a row of them.
    ScaleF32 {
        /// The source tensor.
        source: TensorId,
        /// Whether every scale must be a power of two.
        pow2: bool,
    },
    /// One over a single number; the unit is a byte.
    Reciprocal {
        /// The source tensor.
        source: TensorId,
    },
    /// Power-of-two scales to repeated exponent bytes; the unit is a row of the weight.
    ScaleBytes {
        /// The source tensor.
        source: TensorId,
        /// What its scales cover.
        granularity: Granularity,
        /// Columns of the weight.
        weight_cols: u64,
        /// Columns that share a byte.
        group: u32,
    },
    /// Contents that need no source; the unit is a byte.
    Constant(super::expr::Constant),
    /// A value cast to a float format; the unit is a row.
    Cast {
        /// The value.
        value: Value,
        /// The format.
        to: Dtype,
    },
    /// A value quantized; the unit is a row, or a column where the packing puts K first.
    Quantize {
        /// The value.
        value: Value,
        /// The other values that share the tensor-wide global.
        peers: Vec<Value>,
        /// The scheme.
        scheme: Scheme,
    },
}

/// An output of a task. What the task computes for it is a matrix of stored rows, of which it takes all bytes or some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Index in [`Plan::outputs`].
    pub output: u32,
    /// Which result of a quantizer.
    pub part: Part,
    /// Units in one stored row; `u64::MAX` where the whole task makes a single row.
    pub units: u64,
    /// Bytes of a stored row.
    pub row_bytes: u64,
    /// The bytes of it that the output takes: start and length.
    pub cut: (u64, u64),
}

impl Written {
    /// The stored rows that units `start..end` make: first and number.
    fn rows(&self, start: u64, end: u64) -> (u64, u64) {
        match self.units {
            u64::MAX if start > 0 => (1, 0),
            u64::MAX => (0, 1),
            units => (start / units, end.div_ceil(units) - start / units),
        }
    }

    /// Byte range that units `start..end` fill, relative to the start of the output: offset and length.
    pub fn range(&self, start: u64, end: u64) -> (u64, u64) {
        let (first, count) = self.rows(start, end);
        (first * self.cut.1, count * self.cut.1)
    }

    /// Bytes that the task computes for units `start..end`, before some are taken.
    pub fn bytes(&self, start: u64, end: u64) -> u64 {
        self.rows(start, end).1 * self.row_bytes
    }

    /// Whether all bytes of a row are taken.
    pub fn is_whole(&self) -> bool {
        self.cut == (0, self.row_bytes)
    }
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What is done.
    pub work: Work,
    /// What is written, in the order in which a tile's digest covers it; never empty.
    pub outputs: Vec<Written>,
    /// Shard that its outputs lie in.
    pub shard: u32,
    /// The first unit of the whole that is done here; the units of a tile count from it.
    pub first: u64,
    /// Units of work.
    pub units: u64,
    /// Units that cannot be parted.
    pub granule: u64,
    /// Rows or columns across the units, where the unit is a row or column; 1 otherwise.
    pub across: u64,
    /// What the unit is.
    pub axis: Axis,
}

/// Bytes of the buffers that a tile needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TileBytes {
    /// Codes as stored, or the bytes copied.
    pub input: u64,
    /// Stored scales and zero points of the source, and room for them decoded.
    pub input_scales: u64,
    /// Codes of the source, one to a byte, where they are packed.
    pub unpacked: u64,
    /// Values as F32, where they are materialized.
    pub values: u64,
    /// Codes of the target, one to a byte, where they are packed; rows of which some bytes are taken.
    pub codes: u64,
    /// What is written of codes, casts and copies.
    pub output: u64,
    /// Scales and other companions, computed and as stored.
    pub output_scales: u64,
}

impl TileBytes {
    /// Length of each buffer, in the order of the fields.
    pub fn lengths(self) -> [u64; 7] {
        [
            self.input,
            self.input_scales,
            self.unpacked,
            self.values,
            self.codes,
            self.output,
            self.output_scales,
        ]
    }

    /// All of it, as the buffer pool rounds it up.
    pub fn total(self) -> u64 {
        let class = |len: u64| usize::try_from(len).ok().and_then(class_size).map_or(u64::MAX, |c| c as u64);
        self.lengths().into_iter().filter(|len| *len > 0).fold(0, |sum, len| sum.saturating_add(class(len)))
    }
}

impl Task {
    /// The output that a message names: the codes of a quantized weight.
    pub fn output(&self) -> u32 {
        self.outputs.first().map_or(0, |w| w.output)
    }

    /// Rows and columns of a tile of `units`.
    pub fn rectangle(&self, units: u64) -> [u64; 2] {
        match self.axis {
            Axis::Rows => [units, self.across],
            Axis::Cols => [self.across, units],
        }
    }

    /// Buffers of a tile of `units`.
    pub fn tile_bytes(&self, plan: &Plan, units: u64) -> TileBytes {
        let written = |part: fn(Part) -> bool| -> u64 {
            let mine = self.outputs.iter().filter(|w| part(w.part));
            mine.map(|w| w.bytes(0, units) + if w.is_whole() { 0 } else { w.range(0, units).1 }).sum()
        };
        let codes = |part: Part| part == Part::Codes;
        match &self.work {
            Work::Copy { .. } => TileBytes { input: units, ..TileBytes::default() },
            Work::Constant(_) | Work::Reciprocal { .. } => {
                TileBytes { output: units, ..TileBytes::default() }
            }
            Work::CopyRows { .. } => {
                let bytes = self.outputs[0].bytes(0, units);
                TileBytes { input: bytes, output: written(codes), ..TileBytes::default() }
            }
            Work::ScaleF32 { source, .. } => {
                let scales = units * self.across;
                TileBytes {
                    input: scales * plan.inputs[*source as usize].dtype.bits() / 8,
                    output: written(codes),
                    output_scales: 4 * scales,
                    ..TileBytes::default()
                }
            }
            Work::ScaleBytes { source, granularity, weight_cols, .. } => {
                let rows = units.div_ceil(granularity.rows()) + 1;
                let scales = rows * granularity.grid(1, *weight_cols)[1];
                TileBytes {
                    input: scales * plan.inputs[*source as usize].dtype.bits() / 8,
                    output: written(codes),
                    output_scales: 4 * scales,
                    ..TileBytes::default()
                }
            }
            Work::Cast { value, .. } => {
                let rectangle = self.rectangle(units);
                let mut bytes = self.value_bytes(plan, value, rectangle);
                bytes.output = written(codes);
                bytes
            }
            Work::Quantize { value, scheme, .. } => {
                let rectangle @ [rows, cols] = self.rectangle(units);
                let mut bytes = self.value_bytes(plan, value, rectangle);
                let [grid_rows, grid_cols] = scheme.granularity.grid(rows, cols);
                if scheme.packing != Packing::Plain && scheme.rule != Rule::Given {
                    bytes.codes = rows * cols;
                }
                bytes.output = written(codes);
                // Scales as F32 and zero points; what is written of them.
                bytes.output_scales = grid_rows * grid_cols * 5 + written(|part| part != Part::Codes);
                bytes
            }
        }
    }

    /// Buffers for a rectangle of a value.
    fn value_bytes(&self, plan: &Plan, value: &Value, [rows, cols]: [u64; 2]) -> TileBytes {
        let elements = rows * cols;
        let bits = match &value.source {
            Source::Scaled(stored) if stored.scheme.packing == Packing::Bytes => 8,
            _ => value.element(plan).bits(),
        };
        let mut bytes = TileBytes { input: (elements * bits).div_ceil(8), ..TileBytes::default() };
        if let Source::Scaled(stored) = &value.source {
            let [rows, cols] = if value.view.transpose { [cols, rows] } else { [rows, cols] };
            let scheme = &stored.scheme;
            let grid_rows = rows.div_ceil(scheme.granularity.rows()) + 1;
            // With activation order a tile needs every group.
            let grid_cols = match (stored.order, self.axis) {
                (Some(_), _) => scheme.granularity.grid(1, value.stored[1])[1],
                _ => scheme.granularity.grid(1, cols)[1] + 1,
            };
            let zeros = u64::from(stored.zero.is_some()) * 6;
            let order = if stored.order.is_some() { 4 * value.stored[1] } else { 0 };
            bytes.input_scales = grid_rows * grid_cols * (4 + scheme.scale.bits() / 8 + zeros) + order;
        }
        if value.is_packed() {
            bytes.unpacked = elements;
        }
        if value.is_materialized() {
            bytes.values = if value.view.transpose { 8 } else { 4 } * elements;
        }
        bytes
    }

    /// Units of a tile that stays within `limit` bytes: a multiple of the granule, at least one granule. What buffers are
    /// rounded up by is left out: rounding a single row would shrink tiles to a few rows.
    pub fn tile_units(&self, plan: &Plan, limit: u64) -> u64 {
        let one: u64 = self.tile_bytes(plan, self.granule).lengths().iter().sum();
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
///
/// # Errors
/// Internal errors: an output without a place, an expression that no kernel computes.
pub fn tasks(plan: &Plan) -> Result<Vec<Task>> {
    let mut tasks: Vec<Task> = Vec::with_capacity(plan.outputs.len());
    // The expression and shard of the last quantization, whose parts are neighbours.
    let mut open: Option<(&Expr, u32)> = None;
    for (i, output) in (0u32..).zip(&plan.outputs) {
        let Some(place) = output.place else {
            return Err(Error::internal("task-unplaced", "an output has no place").tensor(&output.name));
        };
        let unsupported = |why: String| {
            Error::internal("task-unsupported", "the executor has no kernel for the expression")
                .tensor(&output.name)
                .found(why)
        };
        if let (Some((first, shard)), Some(task)) = (open, tasks.last_mut())
            && shard == place.shard
            && same_quantization(first, &output.expr)
        {
            task.outputs.push(written(output, i, plan).map_err(unsupported)?);
            continue;
        }
        open = part_of(&output.expr).map(|_| (&output.expr, place.shard));
        tasks.push(task(output, i, place.shard, plan).map_err(unsupported)?);
    }
    tasks.sort_by_key(|t| {
        let place = plan.outputs[t.output() as usize].place;
        (t.shard, place.map(|p| p.offset), t.output())
    });
    Ok(tasks)
}

/// The expression of a quantizer's part, and the rank's part of it.
fn part_of(expr: &Expr) -> Option<(&Expr, Option<Cut>)> {
    match expr {
        Expr::Quantize { .. } => Some((expr, None)),
        Expr::Slice { value, cut } if matches!(**value, Expr::Quantize { .. }) => Some((value, Some(*cut))),
        _ => None,
    }
}

/// Whether two expressions are parts of one quantization.
pub fn same_quantization(a: &Expr, b: &Expr) -> bool {
    match (part_of(a), part_of(b)) {
        (
            Some((Expr::Quantize { value, peers, scheme, .. }, cut)),
            Some((Expr::Quantize { value: v, peers: p, scheme: s, .. }, c)),
        ) => cut == c && scheme == s && value == v && peers == p,
        _ => false,
    }
}

fn task(output: &Output, index: u32, shard: u32, plan: &Plan) -> std::result::Result<Task, String> {
    let (expr, cut) = match &output.expr {
        Expr::Slice { value, cut } => (&**value, Some(*cut)),
        expr => (expr, None),
    };
    let whole = expr.ty(&plan.inputs)?;
    let [rows, cols] = matrix_of(&whole.shape);
    let outputs = vec![written(output, index, plan)?];
    let row_units = |granule: u64, work: Work, rows: u64, across: u64| {
        let (first, units) = match cut {
            Some(Cut { axis: Axis::Rows, start, len }) => (start, len),
            _ => (0, rows),
        };
        Task { work, outputs: outputs.clone(), shard, first, units, granule, across, axis: Axis::Rows }
    };
    // A whole number of elements of any format, and of cache lines.
    const BYTES: u64 = 64;
    Ok(match expr {
        Expr::Load(source) => {
            let (source, scale) = (*source, is_scale(output));
            match cut {
                Some(Cut { axis: Axis::Cols, .. }) => {
                    row_units(1, Work::CopyRows { source, scale }, rows, cols)
                }
                _ => {
                    let row = whole.bytes().checked_div(rows).unwrap_or(0);
                    let first = cut.map_or(0, |cut| cut.start * row);
                    Task {
                        work: Work::Copy { source, scale },
                        outputs,
                        shard,
                        first,
                        units: output.bytes(),
                        granule: BYTES,
                        across: 1,
                        axis: Axis::Rows,
                    }
                }
            }
        }
        Expr::ScaleF32 { scale, pow2 } => {
            row_units(1, Work::ScaleF32 { source: *scale, pow2: *pow2 }, rows, cols)
        }
        Expr::ScaleBytes { scale, granularity, shape, group, .. } => {
            let work = Work::ScaleBytes {
                source: *scale,
                granularity: *granularity,
                weight_cols: shape[1],
                group: *group,
            };
            row_units(granularity.rows(), work, rows, cols)
        }
        Expr::Constant { .. } | Expr::Reciprocal(_) => Task {
            work: match expr {
                Expr::Constant { constant, .. } => Work::Constant(*constant),
                Expr::Reciprocal(source) => Work::Reciprocal { source: *source },
                _ => return Err("no constant".to_owned()),
            },
            outputs,
            shard,
            first: 0,
            units: output.bytes(),
            granule: BYTES,
            across: 1,
            axis: Axis::Rows,
        },
        Expr::Cast { value, to } => {
            let value = Value::of(value, plan)?;
            row_units(value.granules()[0], Work::Cast { value, to: *to }, rows, cols)
        }
        Expr::Quantize { value, peers, scheme, .. } => {
            let value = Value::of(value, plan)?;
            let peers = peers.iter().map(|p| Value::of(p, plan)).collect::<std::result::Result<_, _>>()?;
            let [n, k] = value.shape();
            let axis = if scheme.packing.is_transposed() { Axis::Cols } else { Axis::Rows };
            let (units, across, granule) = match axis {
                Axis::Rows => (n, k, row_granule(&value, *scheme, n)),
                Axis::Cols => {
                    let block = scheme.granularity.group().unwrap_or(u32::MAX).into();
                    let packed = scheme.packing.cols(scheme.element.bits());
                    (k, n, lcm(lcm(value.granules()[1], block), packed))
                }
            };
            let (first, units) = match cut {
                Some(cut) if cut.axis == axis => (cut.start, cut.len),
                _ => (0, units),
            };
            let work = Work::Quantize { value, peers, scheme: *scheme };
            Task { work, outputs, shard, first, units, granule: granule.min(units.max(1)), across, axis }
        }
        Expr::Dequantize(_) | Expr::View { .. } => return Err("a value is no output".to_owned()),
        Expr::Slice { .. } => return Err("a slice of a slice".to_owned()),
    })
}

/// Rows that a tile must hold whole: scale blocks and packed rows of source and target, zero points packed along N.
fn row_granule(value: &Value, scheme: Scheme, n: u64) -> u64 {
    let target = match scheme.granularity {
        Granularity::Tensor => n.max(1),
        granularity => granularity.rows(),
    };
    let zeros = if scheme.rule.is_asymmetric() || scheme.packing == Packing::Int32 { 8 } else { 1 };
    lcm(lcm(value.granules()[0], target), lcm(scheme.packing.rows(), zeros))
}

/// How an output takes its bytes from what its task computes.
fn written(output: &Output, index: u32, plan: &Plan) -> std::result::Result<Written, String> {
    let (expr, cut) = match &output.expr {
        Expr::Slice { value, cut } => (&**value, Some(*cut)),
        expr => (expr, None),
    };
    let whole = expr.ty(&plan.inputs)?;
    let byte = Written { output: index, part: Part::Codes, units: 1, row_bytes: 1, cut: (0, 1) };
    let Expr::Quantize { part, value, scheme, .. } = expr else {
        if matches!(expr, Expr::Constant { .. } | Expr::Reciprocal(_))
            || matches!(expr, Expr::Load(_)) && cut.is_none_or(|c| c.axis == Axis::Rows)
        {
            return Ok(byte);
        }
        let [rows, _] = matrix_of(&whole.shape);
        let row_bytes = whole.bytes().checked_div(rows).unwrap_or(0);
        return Ok(Written { row_bytes, cut: taken(row_bytes, &whole.shape, cut, Axis::Rows)?, ..byte });
    };
    let [n, k] = value.ty(&plan.inputs)?.matrix();
    let axis = if scheme.packing.is_transposed() { Axis::Cols } else { Axis::Rows };
    let along = if axis == Axis::Rows { n } else { k };
    let stored_rows = whole.shape.first().copied().unwrap_or(1).max(1);
    let row_bytes = whole.bytes() / stored_rows;
    let units = match part {
        Part::Global => u64::MAX,
        Part::Scales if scheme.granularity == Granularity::Tensor => u64::MAX,
        _ => units_of_a_row(*part, *scheme, axis, along, stored_rows),
    };
    let cut = match part {
        Part::Global => (0, row_bytes),
        _ => match cut {
            Some(cut) if cut.axis != axis => {
                // The rank's own type says how many bytes it takes, its share of the whole where they begin.
                let len = output.ty.bytes() / output.ty.shape.first().copied().unwrap_or(1).max(1);
                let size = if axis == Axis::Rows { k } else { n };
                let shared = len == row_bytes;
                (if shared { 0 } else { begin(row_bytes, cut, size) }, len)
            }
            _ => (0, row_bytes),
        },
    };
    Ok(Written { output: index, part: *part, units, row_bytes, cut })
}

/// Where a rank's bytes begin in a row of `row_bytes` for `size` elements; the ends of blocks lie at even shares.
fn begin(row_bytes: u64, cut: Cut, size: u64) -> u64 {
    // A row holds a whole number of units of equal size, ragged at the end only: rounded up, the share is exact.
    let share = u128::from(row_bytes) * u128::from(cut.start);
    u64::try_from(share.div_ceil(u128::from(size.max(1)))).unwrap_or(u64::MAX)
}

/// Units of the task that make one stored row of a part.
fn units_of_a_row(part: Part, scheme: Scheme, axis: Axis, along: u64, stored_rows: u64) -> u64 {
    let bits = scheme.element.bits();
    match (axis, part) {
        (Axis::Rows, Part::Codes) => scheme.packing.rows(),
        (Axis::Rows, Part::Scales) => scheme.granularity.rows(),
        (Axis::Rows, Part::Zeros) if scheme.packing == Packing::Int32 => 32 / bits,
        (Axis::Rows, Part::Zeros) => scheme.granularity.rows(),
        (Axis::Cols, Part::Codes) if scheme.packing == Packing::Awq => 1,
        (Axis::Cols, Part::Codes) => 32 / bits,
        (Axis::Cols, Part::Scales | Part::Zeros) => {
            scheme.granularity.group().map_or(along.max(1), u64::from)
        }
        _ => along.div_ceil(stored_rows).max(1),
    }
}

/// The bytes of a row of a plain tensor that a rank takes.
fn taken(
    row_bytes: u64,
    shape: &[u64],
    cut: Option<Cut>,
    units: Axis,
) -> std::result::Result<(u64, u64), String> {
    match cut {
        Some(cut) if cut.axis != units => {
            let cols = shape.last().copied().unwrap_or(1).max(1);
            let width = row_bytes / cols;
            Ok((cut.start * width, cut.len * width))
        }
        _ => Ok((0, row_bytes)),
    }
}

/// `[rows, cols]` of a stored tensor, a vector being a column: its elements are units of their own.
fn matrix_of(shape: &[u64]) -> [u64; 2] {
    match shape {
        [] => [1, 1],
        [n] => [*n, 1],
        [outer @ .., last] => [outer.iter().product(), *last],
    }
}

/// Whether an output that is copied holds the scales of a quantized weight.
fn is_scale(output: &Output) -> bool {
    output.scheme.is_some()
        && output.ty.dtype.is_plain_float()
        && [".weight_scale", ".weight_scale_inv", ".scale", ".scales"]
            .iter()
            .any(|s| output.name.ends_with(s))
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
