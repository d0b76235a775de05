//! Kernels of a model's layers: 12 to 14, 16 and 17, the combination of 18, int8 key-value caches of 20.
//!
//! `expf` and `log1pf` are DOUBLE functions rounded to FLOAT. A runtime's DOUBLE function may be off by an ulp or two; that
//! reaches the FLOAT once in about 2^27 arguments, and the golden sets have none of them.

use super::Emitter;
use super::builder::Value;
use super::operand::Frame;
use super::quant::{Recipe, quantize};
use crate::dtype::Dtype;
use crate::onnx_protobuf::tensor_proto::DataType;

/// The emitter of a kernel of this file.
pub(super) fn emitter(kernel: &str) -> Option<Emitter> {
    Some(match kernel {
        "rmsnorm"
        | "add_rmsnorm"
        | "rmsnorm_quant_fp8"
        | "add_rmsnorm_quant_fp8"
        | "rmsnorm_quant_s8"
        | "add_rmsnorm_quant_s8" => rmsnorm,
        "swiglu" | "swiglu_quant" => swiglu,
        "rope" | "rope_interleaved" | "rope_half" | "rope_half_split" => rope,
        "indexer_logits" => indexer_logits,
        "moe_gate" => moe_gate,
        "moe_combine" => moe_combine,
        "kv_quant_int8" => kv_int8,
        _ => return None,
    })
}

/// A BF16 result, or its codes by a recipe.
fn activation(f: &mut Frame<'_>, y: &Value, default: &str, block: Option<[usize; 2]>) -> Option<()> {
    if f.call.wanted("y").is_some() {
        return f.computed("y", y);
    }
    let recipe = Recipe::named(&f.call.text("recipe", default))?;
    let y = f.bf16(y);
    let shape = [y.dim(0), y.dim(1)];
    let block = block.unwrap_or_else(|| recipe.whole_block(shape));
    quantize(f, recipe, &y, block, ["codes", "scale"])
}

fn rmsnorm(f: &mut Frame<'_>) -> Option<()> {
    let mut x = f.floats("x")?;
    let [rows, columns] = [x.dim(0), x.dim(1)];
    if columns == 0 {
        return None;
    }
    if f.call.array("residual").is_some() {
        let residual = f.floats("residual")?;
        let sum = f.b.binary("Add", &x, &residual);
        x = f.bf16(&sum);
        if f.call.wanted("residual_out").is_some() {
            f.computed("residual_out", &x)?;
        }
    }
    let squared = f.b.cast(&x, DataType::DOUBLE);
    let squared = f.b.reshape(&squared, &[rows, 1, columns]);
    let squares = f.sequential_dots(&squared, &squared, DataType::DOUBLE)?;
    let squares = f.b.reshape(&squares, &[rows, 1]);
    let [count, eps, one] = [columns as f64, f.call.real("eps", 1e-6), 1.0].map(|x| f.b.f64(x));
    let mean = f.b.binary("Div", &squares, &count);
    let mean = f.b.binary("Add", &mean, &eps);
    let root = f.b.unary("Sqrt", &mean);
    let r = f.b.binary("Div", &one, &root);
    let r = f.b.cast(&r, DataType::FLOAT);
    let mut scaled = f.b.binary("Mul", &x, &r);
    if f.call.flag("bf16_x", false) {
        scaled = f.bf16(&scaled);
    }
    let w = f.floats("w")?;
    let y = f.b.binary("Mul", &scaled, &w);
    let default = if f.call.kernel.ends_with("s8") { "int8_token" } else { "dg_fp8_f32" };
    activation(f, &y, default, None)
}

/// `expf` of FLOAT values.
fn exp(f: &mut Frame<'_>, x: &Value) -> Value {
    let x = f.b.cast(x, DataType::DOUBLE);
    let e = f.b.unary("Exp", &x);
    f.b.cast(&e, DataType::FLOAT)
}

fn swiglu(f: &mut Frame<'_>) -> Option<()> {
    let x = f.floats("x")?;
    let [rows, half] = [x.dim(0), x.dim(1) / 2];
    let mut gate = f.b.slice(&x, 1, 0..half);
    let mut up = f.b.slice(&x, 1, half..2 * half);
    let limit = f.call.real("limit", 0.0) as f32;
    if limit != 0.0 {
        let [high, low] = [limit, -limit].map(|x| f.b.f32(x));
        let above = f.b.binary("Greater", &gate, &high);
        gate = f.b.select(&above, &high, &gate);
        let above = f.b.binary("Greater", &up, &high);
        up = f.b.select(&above, &high, &up);
        let below = f.b.binary("Less", &up, &low);
        up = f.b.select(&below, &low, &up);
    }
    let minus = f.b.unary("Neg", &gate);
    let e = exp(f, &minus);
    let one = f.b.f32(1.0);
    let denominator = f.b.binary("Add", &one, &e);
    let silu = f.b.binary("Div", &gate, &denominator);
    let mut y = f.b.binary("Mul", &silu, &up);
    if let Some(weight) = f.raw("topk_weight") {
        let weight = f.b.reshape(&weight, &[rows, 1]);
        y = f.b.binary("Mul", &y, &weight);
    }
    let default = if f.call.wanted("codes") == Some(Dtype::F8E4M3) { "dg_fp8_f32" } else { "int8_token" };
    let block = Recipe::named(&f.call.text("recipe", default))?.block(f.call, [rows, half]);
    activation(f, &y, default, Some(block))
}

fn rope(f: &mut Frame<'_>) -> Option<()> {
    let x = f.floats("x")?;
    let width = *x.shape.last()?;
    let half = width / 2;
    let tokens = x.dim(0);
    let heads = if x.shape.len() == 3 { x.dim(1) } else { 1 };
    let interleaved = match f.call.kernel {
        "rope_interleaved" => true,
        "rope" => f.call.text("style", "half") == "interleaved",
        _ => false,
    };
    // Pairs along the last axis, or halves along the one before it.
    let (paired, axis) = match interleaved {
        true => ([tokens, heads, half, 2], 3),
        false => ([tokens, heads, 2, half], 2),
    };
    let pairs = f.b.reshape(&x, &paired);
    let [x0, x1] = [0, 1].map(|i| {
        let part = f.b.slice(&pairs, axis, i..i + 1);
        f.b.reshape(&part, &[tokens, heads, half])
    });
    let [cos, sin] = ["cos", "sin"].map(|name| f.raw(name));
    let [cos, sin] = [cos?, sin?].map(|t| f.b.reshape(&t, &[tokens, 1, half]));
    let part = |f: &mut Frame<'_>, op, a: &Value, b: &Value| {
        let a = f.b.binary("Mul", a, &cos);
        let b = f.b.binary("Mul", b, &sin);
        let sum = f.b.binary(op, &a, &b);
        let mut shape = paired.to_vec();
        shape[axis] = 1;
        f.b.reshape(&sum, &shape)
    };
    let even = part(f, "Sub", &x0, &x1);
    let odd = part(f, "Add", &x1, &x0);
    let y = f.b.concat(&[&even, &odd], axis);
    let y = f.b.reshape(&y, &x.shape);
    f.computed("y", &y)
}

fn indexer_logits(f: &mut Frame<'_>) -> Option<()> {
    let [q, k] = ["q", "k"].map(|name| f.doubles(name));
    let (q, k) = (q?, k?);
    let [tokens, heads, width] = [q.dim(0), q.dim(1), q.dim(2)];
    let keys = k.dim(0);
    if width == 0 || heads == 0 {
        return None;
    }
    let q = f.b.reshape(&q, &[tokens * heads, width]);
    let k = f.turned(&k);
    let dots = f.b.node("MatMul", &[&q, &k], vec![], vec![tokens * heads, keys]);
    let dots = f.b.cast(&dots, DataType::FLOAT);
    let zero = f.b.f32(0.0);
    let negative = f.b.binary("LessOrEqual", &dots, &zero);
    let relu = f.b.select(&negative, &zero, &dots);
    let relu = f.b.reshape(&relu, &[tokens, heads, keys]);
    let weights = f.raw("weights")?;
    let weights = f.b.reshape(&weights, &[tokens, heads, 1]);
    let terms = f.b.binary("Mul", &relu, &weights);
    let terms = f.b.transpose(&terms, &[1, 0, 2]);
    let acc = f.chain(&terms);
    let ks = f.raw("ks")?;
    let ks = f.b.reshape(&ks, &[keys]);
    let y = f.b.binary("Mul", &acc, &ks);
    f.computed("y", &y)
}

/// Positions of the elements of the last axis by descending value, equal ones by ascending index; INT32. They are counted:
/// how TopK orders equal values is a runtime's choice.
fn positions(f: &mut Frame<'_>, values: &Value) -> Value {
    let axis = values.shape.len() - 1;
    let n = values.dim(axis);
    let outer = &values.shape[..axis];
    let own = f.b.reshape(values, &[outer, &[n, 1]].concat());
    let other = f.b.reshape(values, &[outer, &[1, n]].concat());
    let greater = f.b.binary("Greater", &other, &own);
    let equal = f.b.binary("Equal", &other, &own);
    let index = indices(f, n);
    let [own, other] = [[n, 1], [1, n]].map(|shape| f.b.reshape(&index, &shape));
    let earlier = f.b.binary("Less", &other, &own);
    let tied = f.b.binary("And", &equal, &earlier);
    let before = f.b.binary("Or", &greater, &tied);
    let before = f.b.cast(&before, DataType::INT32);
    let count = f.b.reduce("ReduceSum", &before, &[axis + 1]);
    f.b.reshape(&count, &values.shape)
}

/// `0..n` as INT32.
fn indices(f: &mut Frame<'_>, n: usize) -> Value {
    f.b.constant(DataType::INT32, &[n], (0..n as i32).flat_map(i32::to_le_bytes).collect())
}

/// `[rows, n]` added along the second axis in order, from +0: `[rows, 1]`.
fn row_sum(f: &mut Frame<'_>, values: &Value) -> Option<Value> {
    let [rows, n] = [values.dim(0), values.dim(1)];
    let values = f.b.reshape(values, &[rows, 1, n]);
    let ones = f.b.f32s(&vec![1.0; n]);
    let ones = f.b.reshape(&ones, &[1, 1, n]);
    let sum = f.sequential_dots(&values, &ones, DataType::FLOAT)?;
    Some(f.b.reshape(&sum, &[rows, 1]))
}

fn scores(f: &mut Frame<'_>, scoring: &str, logits: &Value) -> Option<Value> {
    match scoring {
        "sigmoid" => {
            let minus = f.b.unary("Neg", logits);
            let e = exp(f, &minus);
            let one = f.b.f32(1.0);
            let denominator = f.b.binary("Add", &one, &e);
            Some(f.times_reciprocal(&one, &denominator))
        }
        "sqrtsoftplus" => {
            let e = exp(f, logits);
            let e = f.b.cast(&e, DataType::DOUBLE);
            // log1p(e) = log(u)·(e / (u − 1)) with u = 1 + e, where u is not 1: the quotient makes up for the rounding of u.
            let one = f.b.f64(1.0);
            let u = f.b.binary("Add", &e, &one);
            let rest = f.b.binary("Sub", &u, &one);
            let zero = f.b.f64(0.0);
            let lost = f.b.binary("Equal", &rest, &zero);
            let divisor = f.b.select(&lost, &one, &rest);
            let correction = f.b.binary("Div", &e, &divisor);
            let log = f.b.unary("Log", &u);
            let log1p = f.b.binary("Mul", &log, &correction);
            let log1p = f.b.select(&lost, &e, &log1p);
            let softplus = f.b.cast(&log1p, DataType::FLOAT);
            let twenty = f.b.f32(20.0);
            let large = f.b.binary("Greater", logits, &twenty);
            let softplus = f.b.select(&large, logits, &softplus);
            // Rounding a DOUBLE root to FLOAT is the correctly rounded FLOAT root.
            let softplus = f.b.cast(&softplus, DataType::DOUBLE);
            let root = f.b.unary("Sqrt", &softplus);
            Some(f.b.cast(&root, DataType::FLOAT))
        }
        "softmax" => {
            let max = f.b.reduce("ReduceMax", logits, &[1]);
            let shifted = f.b.binary("Sub", logits, &max);
            let e = exp(f, &shifted);
            let sum = row_sum(f, &e)?;
            Some(f.b.binary("Div", &e, &sum))
        }
        _ => None,
    }
}

fn moe_gate(f: &mut Frame<'_>) -> Option<()> {
    let logits = f.raw("logits")?;
    let [rows, experts] = [logits.dim(0), logits.dim(1)];
    let topk = f.call.unsigned("topk", 8);
    let groups = f.call.unsigned("groups", 1);
    let topk_group = f.call.unsigned("topk_group", 1);
    if rows == 0 || experts == 0 || topk == 0 || groups == 0 {
        return None;
    }
    let scoring = f.call.text("scoring", "sigmoid");
    let scores = scores(f, &scoring, &logits)?;
    let mut ranks = if scoring == "softmax" { logits.clone() } else { scores.clone() };
    if let Some(bias) = f.raw("bias") {
        ranks = f.b.binary("Add", &ranks, &bias);
    }
    if topk_group < groups {
        let size = experts / groups;
        let lowest = f.b.f32(f32::NEG_INFINITY);
        let grouped = f.b.reshape(&ranks, &[rows, groups, size]);
        let mut group = f.b.reduce("ReduceMax", &grouped, &[2]);
        if size > 1 {
            let place = positions(f, &grouped);
            let first = f.b.i32(0);
            let largest = f.b.binary("Equal", &place, &first);
            let others = f.b.select(&largest, &lowest, &grouped);
            let second = f.b.reduce("ReduceMax", &others, &[2]);
            group = f.b.binary("Add", &group, &second);
        }
        let group = f.b.reshape(&group, &[rows, groups]);
        let place = positions(f, &group);
        let limit = f.b.i32(i32::try_from(topk_group).ok()?);
        let chosen = f.b.binary("Less", &place, &limit);
        let chosen = f.b.reshape(&chosen, &[rows, groups, 1]);
        let kept = f.b.select(&chosen, &grouped, &lowest);
        ranks = f.b.reshape(&kept, &[rows, experts]);
    }
    let place = positions(f, &ranks);
    let place = f.b.reshape(&place, &[rows, 1, experts]);
    let wanted = indices(f, topk);
    let wanted = f.b.reshape(&wanted, &[topk, 1]);
    let here = f.b.binary("Equal", &place, &wanted);
    let here = f.b.cast(&here, DataType::INT32);
    let index = indices(f, experts);
    let index = f.b.binary("Mul", &here, &index);
    let index = f.b.reduce("ReduceSum", &index, &[2]);
    let idx = f.b.reshape(&index, &[rows, topk]);
    f.b.output(&idx, "idx", DataType::INT32);
    let idx = Value { name: "idx".to_owned(), ..idx };
    let wide = f.b.cast(&idx, DataType::INT64);
    let wide = f.b.reshape(&wide, &[rows, topk, 1]);
    // Not GatherElements, whose onnx.reference does not take fewer indices than elements.
    let batch = vec![("batch_dims", super::builder::Attribute::Int(1))];
    let mut weights = f.b.node("GatherND", &[&scores, &wide], batch, vec![rows, topk]);
    if f.call.flag("renormalize", true) {
        let sum = row_sum(f, &weights)?;
        let floor = f.b.f32(1e-20);
        let small = f.b.binary("Less", &sum, &floor);
        let sum = f.b.select(&small, &floor, &sum);
        weights = f.b.binary("Div", &weights, &sum);
    }
    let scale = f.b.f32(f.call.real("scale", 1.0) as f32);
    let weights = f.b.binary("Mul", &weights, &scale);
    f.computed("weights", &weights)
}

fn moe_combine(f: &mut Frame<'_>) -> Option<()> {
    let x = f.floats("x")?;
    let [row, weights] = ["row", "weights"].map(|name| f.raw(name));
    let (row, weights) = (row?, weights?);
    let [tokens, topk] = [row.dim(0), row.dim(1)];
    if topk == 0 || x.dim(0) == 0 {
        return None;
    }
    let taken = f.b.gather(&x, &row, 0);
    let weights = f.b.reshape(&weights, &[tokens, topk, 1]);
    let terms = f.b.binary("Mul", &taken, &weights);
    let terms = f.b.transpose(&terms, &[1, 0, 2]);
    let y = f.chain(&terms);
    f.computed("y", &y)
}

fn kv_int8(f: &mut Frame<'_>) -> Option<()> {
    let x = f.floats("x")?;
    if x.shape.contains(&0) {
        return None;
    }
    let [heads, width] = [x.dim(1), x.dim(2)];
    let scale = match f.raw("scale") {
        Some(given) => {
            let shape = if given.shape.len() == 1 { [heads, 1] } else { [heads, width] };
            f.b.reshape(&given, &shape)
        }
        None => {
            let channel = f.call.text("axis", "head") == "channel";
            let magnitude = f.b.unary("Abs", &x);
            let axes: &[usize] = if channel { &[0] } else { &[0, 2] };
            let amax = f.b.reduce("ReduceMax", &magnitude, axes);
            let [floor, top] = [1e-4, 127.0].map(|x| f.b.f32(x));
            let amax = f.b.binary("Max", &amax, &floor);
            let scale = f.b.binary("Div", &amax, &top);
            let shape = if channel { vec![heads, width] } else { vec![heads] };
            let flat = f.b.reshape(&scale, &shape);
            if f.call.wanted("scale_out").is_some() {
                f.b.output(&flat, "scale_out", DataType::FLOAT);
            }
            scale
        }
    };
    let y = f.b.binary("Div", &x, &scale);
    let rounded = f.b.unary("Round", &y);
    let [low, high] = [-127.0, 127.0].map(|x| f.b.f32(x));
    let shape = rounded.shape.clone();
    let clipped = f.b.node("Clip", &[&rounded, &low, &high], vec![], shape);
    let codes = f.b.cast(&clipped, DataType::INT8);
    f.b.output(&codes, "codes", DataType::INT8);
    Some(())
}
