//! Products: kernels 1 to 8, the grouped product of 18, lm_head.
//!
//! R0 sums a block of K in DOUBLE, where every product and sum of codes is exact in any order, and rounds once to FLOAT;
//! scales follow in FLOAT, blocks are added one by one. R1 and K-ordered sums are a Scan over K: a multiplication and an
//! addition per step.

use super::builder::{Builder, Value};
use super::operand::Frame;
use crate::dtype::Dtype;
use crate::onnx_protobuf::tensor_proto::DataType;

/// Steps of a Scan beyond which a graph would be too slow to be of use.
const MAX_STEPS: usize = 2048;

/// A factor of a product.
pub(super) struct Factor {
    /// FLOAT values `[rows, k]`.
    values: Value,
    /// FLOAT scales `[rows, blocks of K]`.
    scales: Value,
    /// Whether exact sums of its products need more than the 53 bits of DOUBLE.
    wide: bool,
}

/// How the scales of a block enter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// `d·(sa·sb)`.
    Joint,
    /// `(d·sa)·sb`.
    Successive,
}

/// How a block is summed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Exact,
    Sequential,
}

/// The mode of a call; `None` for the hardware model.
fn mode(f: &Frame<'_>) -> Option<Mode> {
    match f.call.text("mode", "R0").as_str() {
        "R0" => Some(Mode::Exact),
        "R1" => Some(Mode::Sequential),
        _ => None,
    }
}

fn order(f: &Frame<'_>, default: Order) -> Option<Order> {
    match f.call.text("order", "").as_str() {
        "" => Some(default),
        "d*(sa*sb)" | "acc*(sx*sw)" => Some(Order::Joint),
        "(d*sa)*sb" | "(acc*sx)*sw" => Some(Order::Successive),
        _ => None,
    }
}

impl Frame<'_> {
    /// The factor of codes `codes` with a scale per `block` = rows × columns; `k_block` columns are summed at a time.
    fn factor(&mut self, codes: &str, scales: &str, block: [usize; 2], k_block: usize) -> Option<Factor> {
        let wide = self.call.array(codes)?.dtype == Dtype::F8E5M2;
        let values = self.floats(codes)?;
        let (rows, k) = (values.dim(0), values.dim(1));
        let grid = [rows.div_ceil(block[0]), k.div_ceil(block[1])];
        let scales = self.floats(scales)?;
        let scales = self.b.reshape(&scales, &grid);
        let scales = self.spread(&scales, 0, block[0], rows);
        let scales = self.spread(&scales, 1, block[1] / k_block, k.div_ceil(k_block));
        Some(Factor { values, scales, wide })
    }

    /// Every element of `axis` `times` times, `len` in all.
    pub(super) fn spread(&mut self, value: &Value, axis: usize, times: usize, len: usize) -> Value {
        if times <= 1 {
            return value.clone();
        }
        let indices = self.b.i64s(&(0..len).map(|i| (i / times) as i64).collect::<Vec<_>>());
        self.b.gather(value, &indices, axis)
    }

    /// `[rows, k]` as `[blocks, rows, block]`, padded with zeros.
    fn blocks(&mut self, values: &Value, block: usize) -> Value {
        let (rows, count) = (values.dim(0), values.dim(1).div_ceil(block));
        let padded = self.b.pad(values, 1, count * block);
        let cut = self.b.reshape(&padded, &[rows, count, block]);
        self.b.transpose(&cut, &[1, 0, 2])
    }

    /// The dot products of every block of K, FLOAT `[blocks, m, n]`.
    fn dots(&mut self, mode: Mode, block: usize, x: &Factor, w: &Factor) -> Option<Value> {
        match mode {
            Mode::Exact => {
                let parts = |f: &mut Self, factor: &Factor| {
                    let values = f.b.cast(&factor.values, DataType::DOUBLE);
                    let values = f.blocks(&values, block);
                    if factor.wide { f.halves(&values) } else { vec![values] }
                };
                let (a, b) = (parts(self, x), parts(self, w));
                let b: Vec<Value> = b.iter().map(|b| self.b.transpose(b, &[0, 2, 1])).collect();
                Some(self.exact_dots(&a, &b))
            }
            Mode::Sequential => {
                let (a, b) = (self.blocks(&x.values, block), self.blocks(&w.values, block));
                self.sequential_dots(&a, &b, DataType::FLOAT)
            }
        }
    }

    /// E5M2 values as two summands: magnitudes from 1/2 and below, each of which spans so few bits that DOUBLE holds sums
    /// of products exactly.
    fn halves(&mut self, values: &Value) -> Vec<Value> {
        let (half, zero) = (self.b.f64(0.5), self.b.f64(0.0));
        let magnitude = self.b.unary("Abs", values);
        let small = self.b.binary("Less", &magnitude, &half);
        vec![self.b.select(&small, &zero, values), self.b.select(&small, values, &zero)]
    }

    /// The exact products of sums of summands `[blocks, m, block]` and `[blocks, block, n]`, rounded once to FLOAT.
    fn exact_dots(&mut self, a: &[Value], b: &[Value]) -> Value {
        let product = |f: &mut Self, a: &Value, b: &Value| {
            f.b.node("MatMul", &[a, b], vec![], vec![a.dim(0), a.dim(1), b.dim(2)])
        };
        let high = product(self, &a[0], &b[0]);
        let mut low: Option<Value> = None;
        for (i, a) in a.iter().enumerate() {
            for (j, b) in b.iter().enumerate().filter(|(j, _)| i + j > 0) {
                let part = product(self, a, b);
                // Exact: multiples of 2^-32 below 2^21.
                low = Some(match low {
                    Some(low) => self.b.binary("Add", &low, &part),
                    None => part,
                });
                let _ = j;
            }
        }
        let rounded = match low {
            None => self.b.cast(&high, DataType::FLOAT),
            Some(low) => self.round_sum(&high, &low),
        };
        let zero = self.b.f32(0.0);
        self.plus_zero(&rounded, &zero)
    }

    /// `high + low` rounded once to FLOAT, although DOUBLE need not hold the sum: where the rounded sum is a midpoint of two
    /// FLOAT values, its error says to which of them the exact sum is nearer.
    fn round_sum(&mut self, high: &Value, low: &Value) -> Value {
        let sum = self.b.binary("Add", high, low);
        // The error of a sum, exact (Knuth).
        let low_part = self.b.binary("Sub", &sum, high);
        let high_part = self.b.binary("Sub", &sum, &low_part);
        let low_error = self.b.binary("Sub", low, &low_part);
        let high_error = self.b.binary("Sub", high, &high_part);
        let error = self.b.binary("Add", &high_error, &low_error);
        let nearest = self.b.cast(&sum, DataType::FLOAT);
        let back = self.b.cast(&nearest, DataType::DOUBLE);
        let rest = self.b.binary("Sub", &sum, &back);
        // The value on the other side of `sum`, as far away as `nearest`; a FLOAT only if `sum` is a midpoint.
        let mirrored = self.b.binary("Add", &sum, &rest);
        let other = self.b.cast(&mirrored, DataType::FLOAT);
        let other_back = self.b.cast(&other, DataType::DOUBLE);
        let is_float = self.b.binary("Equal", &other_back, &mirrored);
        let direction = self.b.binary("Mul", &error, &rest);
        let zero = self.b.f64(0.0);
        let beyond = self.b.binary("Greater", &direction, &zero);
        let turn = self.b.binary("And", &is_float, &beyond);
        self.b.select(&turn, &other, &nearest)
    }

    /// Sums of products in the order of the last axis, from +0, in `dtype`: `[blocks, m, block]` and `[blocks, n, block]`
    /// give `[blocks, m, n]`. `None` for long sums.
    fn sequential_dots(&mut self, a: &Value, b: &Value, dtype: DataType) -> Option<Value> {
        let ([count, m, block], n) = ([a.dim(0), a.dim(1), a.dim(2)], b.dim(1));
        if block > MAX_STEPS {
            return None;
        }
        let a = self.b.transpose(a, &[2, 0, 1]);
        let a = self.b.reshape(&a, &[block, count, m, 1]);
        let b = self.b.transpose(b, &[2, 0, 1]);
        let b = self.b.reshape(&b, &[block, count, 1, n]);
        let mut body = Builder::subgraph();
        let acc = body.body_input("acc", dtype, &[count, m, n]);
        let x = body.body_input("a", dtype, &[count, m, 1]);
        let w = body.body_input("b", dtype, &[count, 1, n]);
        let product = body.binary("Mul", &x, &w);
        let sum = body.binary("Add", &acc, &product);
        body.output(&sum, "body_sum", dtype);
        let start = self.zeros(&[count, m, n], dtype);
        Some(self.b.scan(&start, &[&a, &b], body.into_graph("step")))
    }

    /// Zeros of `shape`.
    fn zeros(&mut self, shape: &[usize], dtype: DataType) -> Value {
        let zero = if dtype == DataType::DOUBLE { self.b.f64(0.0) } else { self.b.f32(0.0) };
        let sizes = self.b.i64s(&shape.iter().map(|d| *d as i64).collect::<Vec<_>>());
        self.b.node("Expand", &[&zero, &sizes], vec![], shape.to_vec())
    }

    /// The scaled sums of blocks, FLOAT `[blocks, m, n]`.
    fn scaled_dots(&mut self, order: Order, dots: &Value, sa: &Value, sb: &Value) -> Value {
        let sa = self.b.transpose(sa, &[1, 0]);
        let sa = self.b.reshape(&sa, &[sa.dim(0), sa.dim(1), 1]);
        let sb = self.b.transpose(sb, &[1, 0]);
        let sb = self.b.reshape(&sb, &[sb.dim(0), 1, sb.dim(1)]);
        match order {
            Order::Joint => {
                let scale = self.b.binary("Mul", &sa, &sb);
                self.b.binary("Mul", dots, &scale)
            }
            Order::Successive => {
                let once = self.b.binary("Mul", dots, &sa);
                self.b.binary("Mul", &once, &sb)
            }
        }
    }

    /// +0 plus the elements of the first axis, one after the other.
    fn chain(&mut self, terms: &Value) -> Value {
        let terms = self.b.unstack(terms);
        let mut acc = terms[0].clone();
        for term in &terms[1..] {
            acc = self.b.binary("Add", &acc, term);
        }
        let zero = self.b.f32(0.0);
        self.plus_zero(&acc, &zero)
    }

    /// The sum over blocks of scaled dot products, `[m, n]`.
    fn product(&mut self, mode: Mode, order: Order, block: usize, x: &Factor, w: &Factor) -> Option<Value> {
        let [m, n] = [x.values.dim(0), w.values.dim(0)];
        if x.values.dim(1) == 0 {
            return Some(self.zeros(&[m, n], DataType::FLOAT));
        }
        let dots = self.dots(mode, block, x, w)?;
        let terms = self.scaled_dots(order, &dots, &x.scales, &w.scales);
        Some(self.chain(&terms))
    }

    /// `value + bias` by columns, where there is a bias.
    fn biased(&mut self, value: Value) -> Option<Value> {
        if self.call.array("bias").is_none() {
            return Some(value);
        }
        let bias = self.floats("bias")?;
        let bias = self.b.reshape(&bias, &[value.dim(1)]);
        Some(self.b.binary("Add", &value, &bias))
    }
}

/// `gemm_fp8_block`, `gemm_mxfp8`, `gemm_mxfp4`, `gemm_fp8_mxfp4`.
pub(super) fn blocks(f: &mut Frame<'_>) -> Option<()> {
    let mode = mode(f)?;
    let (default, block, b_rows) = match f.call.kernel {
        "gemm_fp8_block" => (Order::Joint, 128, 128),
        "gemm_mxfp8" => (Order::Joint, 32, 1),
        _ => (Order::Successive, 32, 1),
    };
    let order = order(f, default)?;
    let a_block = activation_block(f, "A", "sa", block)?;
    let a = f.factor("A", "sa", [1, a_block], block)?;
    let b = f.factor("B", "sb", [b_rows, block], block)?;
    let c = f.product(mode, order, block, &a, &b)?;
    f.computed("C", &c)
}

/// Columns per scale of the activations: `block`, or 128 where their grid is that small.
fn activation_block(f: &Frame<'_>, codes: &str, scales: &str, block: usize) -> Option<usize> {
    let codes = f.call.array(codes)?;
    let k = codes.dim(1) * if codes.dtype.bits() == 4 { 2 } else { 1 };
    let scales = f.call.array(scales)?;
    let columns = if scales.shape.len() == 1 { 1 } else { scales.dim(1) };
    Some(if columns == k.div_ceil(block) { block } else { 128 })
}

/// `gemm_nvfp4`.
pub(super) fn nvfp4(f: &mut Frame<'_>) -> Option<()> {
    let (mode, order) = (mode(f)?, order(f, Order::Joint)?);
    let a = f.factor("A", "sa", [1, 16], 16)?;
    let b = f.factor("B", "sb", [1, 16], 16)?;
    let mut c = f.product(mode, order, 16, &a, &b)?;
    if a.values.dim(1) > 0 {
        let (ga, gb) = (f.raw("ga")?, f.raw("gb")?);
        let [ga, gb] = [ga, gb].map(|g| f.b.reshape(&g, &[1]));
        let g = f.b.binary("Mul", &ga, &gb);
        c = f.b.binary("Mul", &c, &g);
    }
    f.computed("C", &c)
}

/// `gemm_fp8_token_channel`: one block, whose scaled sum is the result.
pub(super) fn token_channel(f: &mut Frame<'_>) -> Option<()> {
    let (mode, order) = (mode(f)?, order(f, Order::Successive)?);
    let k = f.call.array("A")?.dim(1);
    let c = if k == 0 {
        let [m, n] = [f.call.array("A")?.dim(0), f.call.array("B")?.dim(0)];
        f.zeros(&[m, n], DataType::FLOAT)
    } else {
        let a = f.factor("A", "sa", [1, k], k)?;
        let b = f.factor("B", "sb", [1, k], k)?;
        let dots = f.dots(mode, k, &a, &b)?;
        let scaled = f.scaled_dots(order, &dots, &a.scales, &b.scales);
        f.b.reshape(&scaled, &scaled.shape[1..])
    };
    let c = f.biased(c)?;
    f.computed("C", &c)
}

/// Exact integer sums, FLOAT `[m, n]`, of INT8 arguments. DOUBLE and not MatMulInteger, which saturates for UINT8
/// activations on some processors: nobody should copy that node and change a type.
fn integer_dots(f: &mut Frame<'_>, a: &Value, b: &Value, bias: Option<&Value>) -> Value {
    let [a, b] = [a, b].map(|v| f.b.cast(v, DataType::DOUBLE));
    let b = f.b.transpose(&b, &[1, 0]);
    let mut sum = if a.dim(1) == 0 {
        f.zeros(&[a.dim(0), b.dim(1)], DataType::DOUBLE)
    } else {
        f.b.node("MatMul", &[&a, &b], vec![], vec![a.dim(0), b.dim(1)])
    };
    if let Some(bias) = bias {
        let bias = f.b.cast(bias, DataType::DOUBLE);
        let bias = f.b.reshape(&bias, &[sum.dim(1)]);
        sum = f.b.binary("Add", &sum, &bias);
    }
    let rounded = f.b.cast(&sum, DataType::FLOAT);
    let zero = f.b.f32(0.0);
    f.plus_zero(&rounded, &zero)
}

/// Row and column scales on a matrix.
fn row_column(f: &mut Frame<'_>, order: Order, acc: &Value, row: &Value, column: &Value) -> Value {
    let row = f.b.reshape(row, &[acc.dim(0), 1]);
    let column = f.b.reshape(column, &[acc.dim(1)]);
    match order {
        Order::Joint => {
            let scale = f.b.binary("Mul", &row, &column);
            f.b.binary("Mul", acc, &scale)
        }
        Order::Successive => {
            let once = f.b.binary("Mul", acc, &row);
            f.b.binary("Mul", &once, &column)
        }
    }
}

/// `gemm_w8a8`.
pub(super) fn w8a8(f: &mut Frame<'_>) -> Option<()> {
    let order = order(f, Order::Successive)?;
    let [a, b, sx, sw] = ["A", "B", "sx", "sw"].map(|name| f.raw(name));
    let bias = f.raw("bias");
    let acc = integer_dots(f, &a?, &b?, bias.as_ref());
    let c = row_column(f, order, &acc, &sx?, &sw?);
    f.computed("C", &c)
}

/// Integers of 4-bit weights less their zero points, FLOAT `[n, k]`, of `groups` groups.
pub(super) fn int4(f: &mut Frame<'_>, codes: &str, groups: usize) -> Option<Value> {
    let unsigned = f.call.array(codes)?.dtype == Dtype::U4;
    let mut values = f.floats(codes)?;
    let k = values.dim(1);
    if f.call.array("z").is_some() {
        let z = f.floats("z")?;
        let z = f.spread(&z, 1, k / groups.max(1), k);
        values = f.b.binary("Sub", &values, &z);
    } else if unsigned {
        let eight = f.b.f32(8.0);
        values = f.b.binary("Sub", &values, &eight);
    }
    Some(values)
}

/// `gemm_w4a16_group`.
pub(super) fn w4a16(f: &mut Frame<'_>) -> Option<()> {
    let groups = f.call.array("s")?.dim(1);
    let weights = int4(f, "B", groups)?;
    let (n, k) = (weights.dim(0), weights.dim(1));
    let a = f.floats("A")?;
    let m = a.dim(0);
    let c = if k == 0 {
        f.zeros(&[m, n], DataType::FLOAT)
    } else {
        let s = f.floats("s")?;
        let s = f.spread(&s, 1, k / groups.max(1), k);
        let mut w = f.b.binary("Mul", &weights, &s);
        if f.call.text("dequant", "bf16") == "bf16" {
            w = f.bf16(&w);
        }
        let [a, w] = [a, w].map(|v| f.b.reshape(&v, &[1, v.dim(0), k]));
        let dots = f.sequential_dots(&a, &w, DataType::FLOAT)?;
        f.b.reshape(&dots, &[m, n])
    };
    f.computed("C", &c)
}

/// `gemm_w4a8_group`.
pub(super) fn w4a8(f: &mut Frame<'_>) -> Option<()> {
    let groups = f.call.array("sg")?.dim(1);
    let weights = int4(f, "B", groups)?;
    let a = f.floats("A")?;
    let [m, n, k] = [a.dim(0), weights.dim(0), a.dim(1)];
    let mut acc = if k == 0 {
        f.zeros(&[m, n], DataType::FLOAT)
    } else {
        let scales = f.floats("sg")?;
        let x = Factor { values: a, scales: scales.clone(), wide: false };
        let w = Factor { values: weights, scales, wide: false };
        let dots = f.dots(Mode::Exact, k / groups.max(1), &x, &w)?;
        let sg = f.b.transpose(&w.scales, &[1, 0]);
        let sg = f.b.reshape(&sg, &[groups, 1, n]);
        let terms = f.b.binary("Mul", &dots, &sg);
        f.chain(&terms)
    };
    if let Some(sc) = f.raw("sc") {
        let sc = f.b.reshape(&sc, &[n]);
        acc = f.b.binary("Mul", &acc, &sc);
    }
    let sx = f.raw("sx")?;
    let sx = f.b.reshape(&sx, &[m, 1]);
    let c = f.b.binary("Mul", &acc, &sx);
    let c = f.biased(c)?;
    f.computed("C", &c)
}

/// `moe_grouped_gemm`: every row by every expert, then the row's own.
pub(super) fn grouped(f: &mut Frame<'_>) -> Option<()> {
    let base = f.call.text("base", "fp8_block");
    let [experts, n] = [f.call.array("B")?.dim(0), f.call.array("B")?.dim(1)];
    let rows = f.call.array("A")?.dim(0);
    let all = if base == "w8a8" {
        let order = order(f, Order::Successive)?;
        let [a, b, sx, sw] = ["A", "B", "sa", "sb"].map(|name| f.raw(name));
        let (a, b, sw) = (a?, b?, sw?);
        let b = f.b.reshape(&b, &[experts * n, b.dim(2)]);
        let sw = f.b.reshape(&sw, &[experts * n]);
        let acc = integer_dots(f, &a, &b, None);
        row_column(f, order, &acc, &sx?, &sw)
    } else {
        let mode = mode(f)?;
        let (default, block, b_rows) =
            if base == "fp8_block" { (Order::Joint, 128, 128) } else { (Order::Successive, 32, 1) };
        let order = order(f, default)?;
        let a_block = activation_block(f, "A", "sa", block)?;
        let a = f.factor("A", "sa", [1, a_block], block)?;
        let values = f.floats("B")?;
        let k = values.dim(2);
        let values = f.b.reshape(&values, &[experts * n, k]);
        let scales = f.floats("sb")?;
        let scales = f.spread(&scales, 1, b_rows, n);
        let scales = f.b.reshape(&scales, &[experts * n, k.div_ceil(block)]);
        f.product(mode, order, block, &a, &Factor { values, scales, wide: false })?
    };
    let all = f.b.reshape(&all, &[rows, experts, n]);
    let offsets = f.raw("offsets")?;
    let row =
        f.b.constant(DataType::INT64, &[rows, 1], (0..rows as i64).flat_map(i64::to_le_bytes).collect());
    // The expert of a row is how many experts end at or before it.
    let not_before = f.b.binary("GreaterOrEqual", &row, &offsets);
    let passed = f.b.cast(&not_before, DataType::INT64);
    let passed = f.b.reduce("ReduceSum", &passed, &[1]);
    let one = f.b.i64(1);
    let expert = f.b.binary("Sub", &passed, &one);
    let [first, last] = [f.b.i64(0), f.b.i64(experts as i64 - 1)];
    let clipped = f.b.node("Clip", &[&expert, &first, &last], vec![], expert.shape.clone());
    let inside = f.b.binary("Equal", &expert, &clipped);
    let batch = vec![("batch_dims", super::builder::Attribute::Int(1))];
    let own = f.b.node("GatherND", &[&all, &clipped], batch, vec![rows, n]);
    let zero = f.b.f32(0.0);
    let c = f.b.select(&inside, &own, &zero);
    f.computed("C", &c)
}

/// `lm_head`: sums in DOUBLE, in the order of K.
pub(super) fn lm_head(f: &mut Frame<'_>) -> Option<()> {
    let [h, b] = ["H", "B"].map(|name| f.doubles(name));
    let (h, b) = (h?, b?);
    let [m, v, k] = [h.dim(0), b.dim(0), h.dim(1)];
    let [h, b] = [h, b].map(|x| f.b.reshape(&x, &[1, x.dim(0), k]));
    let sums = f.sequential_dots(&h, &b, DataType::DOUBLE)?;
    let sums = f.b.reshape(&sums, &[m, v]);
    let c = f.b.cast(&sums, DataType::FLOAT);
    f.computed("C", &c)
}
