//! Quantizers by recipe: kernels 10.
//!
//! Largest magnitudes, quotients and comparisons in FLOAT, in the order of the recipe. Exponents and E2M1 codes are
//! counted: how many thresholds lie below a value. That has no rounding at all, unlike a logarithm.

use super::builder::Value;
use super::operand::Frame;
use crate::dtype::Dtype;
use crate::onnx_protobuf::tensor_proto::DataType;

/// How codes come from `x` and the scale.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// `e4m3(clamp(x / s))`.
    Divide,
    /// `e4m3(x · (1 / s))`.
    Reciprocal,
    /// `e4m3(clamp(x · (448 / amax)))`.
    OverAmax,
    /// E2M1 of `x / s`, ties to even, zero signed.
    E2m1Even,
    /// E2M1 of `x · (1 / s)`, ties to the smaller magnitude, zero unsigned.
    E2m1Down,
    /// `clamp(RNE(x / s))`.
    Int8,
}

/// A quantizer.
#[derive(Clone, Copy)]
pub(super) struct Recipe {
    /// The smallest largest magnitude.
    floor: f32,
    /// What the largest magnitude is multiplied with, or divided by.
    factor: Result<f32, f32>,
    /// The smallest scale.
    scale_floor: f32,
    /// Whether scales are rounded up to powers of two.
    power: bool,
    encoding: Encoding,
    block: [usize; 2],
}

impl Recipe {
    /// The recipe of a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let base = Recipe {
            floor: 1e-4,
            factor: Err(448.0),
            scale_floor: 0.0,
            power: false,
            encoding: Encoding::Divide,
            block: [1, 128],
        };
        Some(match name {
            "ds_fp8_f32_mul" => Recipe { factor: Ok(1.0 / 448.0), ..base },
            "ds_fp8_ue8m0" => Recipe { factor: Ok(1.0 / 448.0), power: true, ..base },
            "dg_fp8_f32" => Recipe { encoding: Encoding::Reciprocal, ..base },
            "dg_fp8_ue8m0" => Recipe { encoding: Encoding::Reciprocal, power: true, ..base },
            "tk_fp8_f32" => Recipe { encoding: Encoding::OverAmax, ..base },
            "vllm_fp8_group" => Recipe { floor: 1e-10, ..base },
            "vllm_fp8_token" | "vllm_fp8_token_div" => Recipe {
                floor: 0.0,
                scale_floor: 1.0 / (448.0 * 512.0),
                encoding: if name.ends_with("div") { Encoding::Divide } else { Encoding::Reciprocal },
                block: [1, 0],
                ..base
            },
            "mx_fp4_ds" => Recipe {
                floor: 6.0 * f32::MIN_POSITIVE,
                factor: Ok(1.0 / 6.0),
                power: true,
                encoding: Encoding::E2m1Even,
                block: [1, 32],
                ..base
            },
            "mx_fp4_dg" => {
                Recipe { factor: Err(6.0), power: true, encoding: Encoding::E2m1Down, block: [1, 32], ..base }
            }
            "int8_token" => Recipe { factor: Err(127.0), encoding: Encoding::Int8, block: [1, 0], ..base },
            _ => return None,
        })
    }
}

/// `quant_*` but for NVFP4.
pub(super) fn by_recipe(f: &mut Frame<'_>) -> Option<()> {
    let recipe = Recipe::named(f.call.kernel.strip_prefix("quant_")?)?;
    let x = f.floats("x")?;
    let block = f.call.block(recipe.block, [x.dim(0), x.dim(1)]);
    quantize(f, recipe, &x, block, ["codes", "scale"])
}

/// `x` as blocks `[block rows, rows, block columns, columns]`, padded with zeros.
fn blocked(f: &mut Frame<'_>, x: &Value, block: [usize; 2]) -> Value {
    let grid = [x.dim(0).div_ceil(block[0]), x.dim(1).div_ceil(block[1])];
    let padded = f.b.pad(x, 0, grid[0] * block[0]);
    let padded = f.b.pad(&padded, 1, grid[1] * block[1]);
    f.b.reshape(&padded, &[grid[0], block[0], grid[1], block[1]])
}

/// The first `[rows, cols]` of blocks.
fn unblocked(f: &mut Frame<'_>, blocks: &Value, [rows, cols]: [usize; 2]) -> Value {
    let whole = [blocks.dim(0) * blocks.dim(1), blocks.dim(2) * blocks.dim(3)];
    let flat = f.b.reshape(blocks, &whole);
    let flat = f.b.slice(&flat, 0, 0..rows);
    f.b.slice(&flat, 1, 0..cols)
}

/// How many of ascending `thresholds` lie below each of `values`, or at it where `at` says so; INT32.
fn count(f: &mut Frame<'_>, values: &Value, thresholds: &[f32], at: fn(usize) -> bool) -> Value {
    let one = [&values.shape[..], &[1]].concat();
    let column = f.b.reshape(values, &one);
    let axis = values.shape.len();
    let mut total: Option<Value> = None;
    for (op, wanted) in [("Greater", false), ("GreaterOrEqual", true)] {
        let these: Vec<f32> =
            thresholds.iter().enumerate().filter(|(i, _)| at(*i) == wanted).map(|(_, t)| *t).collect();
        if these.is_empty() {
            continue;
        }
        let these = f.b.f32s(&these);
        let passed = f.b.binary(op, &column, &these);
        let passed = f.b.cast(&passed, DataType::INT32);
        let sum = f.b.reduce("ReduceSum", &passed, &[axis]);
        let sum = f.b.reshape(&sum, &values.shape);
        total = Some(match total {
            Some(total) => f.b.binary("Add", &total, &sum),
            None => sum,
        });
    }
    total.unwrap_or_else(|| values.clone())
}

/// Powers of two by their exponent codes 0..=254, as FLOAT holds them.
fn powers() -> Vec<f32> {
    (0..255u32).map(|e| f32::from_bits(if e == 0 { 1 << 22 } else { e << 23 })).collect()
}

/// The exponent codes, within 1..=254, of the smallest powers of two not below `values`; INT32.
fn exponents(f: &mut Frame<'_>, values: &Value) -> Value {
    let below = count(f, values, &powers()[1..254], |_| false);
    let one = f.b.i32(1);
    f.b.binary("Add", &below, &one)
}

/// Magnitudes and signs of E2M1 as codes, INT32.
fn e2m1(f: &mut Frame<'_>, y: &Value, ties: fn(usize) -> bool, signed_zero: Option<&Value>) -> Value {
    let magnitude = f.b.unary("Abs", y);
    let code = count(f, &magnitude, &[0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], ties);
    let zero = f.b.f32(0.0);
    let negative = f.b.binary("Less", signed_zero.unwrap_or(y), &zero);
    let [eight, none] = [8, 0].map(|x| f.b.i32(x));
    let sign = f.b.select(&negative, &eight, &none);
    f.b.binary("Add", &code, &sign)
}

/// Midpoints that round to the even code above them: those between codes 1 and 2, 3 and 4, 5 and 6.
fn even(index: usize) -> bool {
    index % 2 == 1
}

/// Quotients rounded to INT8, half to even.
pub(super) fn integers(f: &mut Frame<'_>, y: &Value) -> Value {
    let rounded = f.b.unary("Round", y);
    let [low, high] = [-128.0, 127.0].map(|x| f.b.f32(x));
    let shape = y.shape.clone();
    let clipped = f.b.node("Clip", &[&rounded, &low, &high], vec![], shape);
    f.b.cast(&clipped, DataType::INT8)
}

/// E4M3 codes of quotients, clamped.
fn e4m3(f: &mut Frame<'_>, y: &Value) -> Value {
    let [low, high] = [-448.0, 448.0].map(|x| f.b.f32(x));
    let shape = y.shape.clone();
    let clipped = f.b.node("Clip", &[y, &low, &high], vec![], shape);
    f.b.cast(&clipped, DataType::FLOAT8E4M3FN)
}

/// Codes and scales of `x` by `recipe`, as the outputs of those names.
pub(super) fn quantize(
    f: &mut Frame<'_>,
    recipe: Recipe,
    x: &Value,
    block: [usize; 2],
    [codes_name, scale_name]: [&str; 2],
) -> Option<()> {
    let shape = [x.dim(0), x.dim(1)];
    if shape.contains(&0) {
        // The largest of no magnitudes is a matter of opinion among runtimes.
        return None;
    }
    let x = blocked(f, x, block);
    let magnitude = f.b.unary("Abs", &x);
    let amax = f.b.reduce("ReduceMax", &magnitude, &[1, 3]);
    let floor = f.b.f32(recipe.floor);
    let amax = f.b.binary("Max", &amax, &floor);
    let (op, factor) = match recipe.factor {
        Ok(factor) => ("Mul", factor),
        Err(divisor) => ("Div", divisor),
    };
    let factor = f.b.f32(factor);
    let mut scale = f.b.binary(op, &amax, &factor);
    if recipe.scale_floor > 0.0 {
        let floor = f.b.f32(recipe.scale_floor);
        scale = f.b.binary("Max", &scale, &floor);
    }
    let grid = [x.dim(0), x.dim(2)];
    let mut stored = None;
    if recipe.power {
        let exponent = exponents(f, &scale);
        let table = f.b.f32s(&powers());
        scale = f.b.gather(&table, &exponent, 0);
        if f.call.wanted(scale_name)? == Dtype::F8E8M0 {
            let bytes = f.b.cast(&exponent, DataType::UINT8);
            stored = Some((f.b.reshape(&bytes, &grid), DataType::UINT8));
        }
    }
    let one = f.b.f32(1.0);
    let y = match recipe.encoding {
        Encoding::Divide | Encoding::E2m1Even | Encoding::Int8 => f.b.binary("Div", &x, &scale),
        Encoding::Reciprocal | Encoding::E2m1Down => {
            let reciprocal = f.b.binary("Div", &one, &scale);
            f.b.binary("Mul", &x, &reciprocal)
        }
        Encoding::OverAmax => {
            let top = f.b.f32(448.0);
            let multiplier = f.b.binary("Div", &top, &amax);
            f.b.binary("Mul", &x, &multiplier)
        }
    };
    let y = unblocked(f, &y, shape);
    match recipe.encoding {
        Encoding::Divide | Encoding::Reciprocal | Encoding::OverAmax => {
            let codes = e4m3(f, &y);
            f.b.output(&codes, codes_name, DataType::FLOAT8E4M3FN);
        }
        Encoding::Int8 => {
            let codes = integers(f, &y);
            f.b.output(&codes, codes_name, DataType::INT8);
        }
        Encoding::E2m1Even => {
            // 1 / −0 is negative: the sign of a zero, and of every other value.
            let sign = f.b.binary("Div", &one, &y);
            let codes = e2m1(f, &y, even, Some(&sign));
            let packed = f.pairs(&codes);
            f.b.output(&packed, codes_name, DataType::UINT8);
        }
        Encoding::E2m1Down => {
            let smallest = f.b.f32(0.25);
            let magnitude = f.b.unary("Abs", &y);
            let flushed = f.b.binary("LessOrEqual", &magnitude, &smallest);
            let zero = f.b.f32(0.0);
            let y = f.b.select(&flushed, &zero, &y);
            let codes = e2m1(f, &y, |_| false, None);
            let packed = f.pairs(&codes);
            f.b.output(&packed, codes_name, DataType::UINT8);
        }
    }
    let (scale, dtype) = match stored {
        Some(stored) => stored,
        // An output is what a node computes; a reshape to the same shape is none.
        None => (f.b.reshape(&scale, &grid), DataType::FLOAT),
    };
    f.b.output(&scale, scale_name, dtype);
    Some(())
}

/// `quant_nvfp4`.
pub(super) fn nvfp4(f: &mut Frame<'_>) -> Option<()> {
    let x = f.floats("x")?;
    let shape = [x.dim(0), x.dim(1)];
    if shape.contains(&0) {
        return None;
    }
    let [zero, one] = [0.0, 1.0].map(|x| f.b.f32(x));
    let unit_of_zero = |f: &mut Frame<'_>, value: &Value| {
        let is_zero = f.b.binary("Equal", value, &zero);
        f.b.select(&is_zero, &one, value)
    };
    let given = f.raw("g");
    let g = match &given {
        Some(g) => f.b.reshape(g, &[1]),
        None => {
            let magnitude = f.b.unary("Abs", &x);
            let amax = f.b.reduce("ReduceMax", &magnitude, &[0, 1]);
            let amax = f.b.reshape(&amax, &[1]);
            let top = f.b.f32(6.0 * 448.0);
            let g = f.b.binary("Div", &amax, &top);
            unit_of_zero(f, &g)
        }
    };
    let x = blocked(f, &x, [1, 16]);
    let magnitude = f.b.unary("Abs", &x);
    let amax = f.b.reduce("ReduceMax", &magnitude, &[1, 3]);
    let six = f.b.f32(6.0);
    let divisor = f.b.binary("Mul", &six, &g);
    let t = f.b.binary("Div", &amax, &divisor);
    let t = unit_of_zero(f, &t);
    let [low, high] = [0.001_953_125, 448.0].map(|x| f.b.f32(x));
    let t_shape = t.shape.clone();
    let t = f.b.node("Clip", &[&t, &low, &high], vec![], t_shape);
    let scale = f.b.cast(&t, DataType::FLOAT8E4M3FN);
    let value = f.b.cast(&scale, DataType::FLOAT);
    let unit = f.b.binary("Mul", &value, &g);
    let y = f.b.binary("Div", &x, &unit);
    let y = unblocked(f, &y, shape);
    let codes = e2m1(f, &y, even, None);
    let packed = f.pairs(&codes);
    f.b.output(&packed, "codes", DataType::UINT8);
    let scale = f.b.reshape(&scale, &[shape[0], shape[1].div_ceil(16)]);
    f.b.output(&scale, "scale", DataType::FLOAT8E4M3FN);
    if f.call.wanted("g").is_some() {
        // A multiplier that was given is an output under its own name: the input itself.
        let g = given.unwrap_or_else(|| f.b.unary("Identity", &g));
        f.b.output(&g, "g", DataType::FLOAT);
    }
    Some(())
}
