//! Classical machine learning (domain ai.onnx.ml): ArrayFeatureExtractor, Binarizer, LabelEncoder.

use super::call::{Call, Outcome, one};
use super::cast::cast;
use super::index::gather_axis;
use super::table::{ML, Operator, native};
use super::tensor::{Data, Tensor, bad};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[
    native("ArrayFeatureExtractor", 1, extract).of(ML),
    native("Binarizer", 1, binarize).of(ML),
    native("LabelEncoder", 2, encode).of(ML),
];

fn extract(call: &Call<'_>) -> Outcome {
    let (x, indices) = (call.tensor(0)?, call.tensor(1)?);
    let last = x.rank().checked_sub(1).ok_or_else(|| bad("the input is a scalar"))?;
    let flat = indices.reshaped([indices.len()])?;
    let y = gather_axis(x, &flat, last)?;
    // A vector gives a matrix of one row.
    let shape = if x.rank() == 1 { vec![1, indices.len()] } else { y.shape.clone() };
    one(y.reshaped(shape)?)
}

fn binarize(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let threshold = f64::from(call.float("threshold", 0.0));
    let values = x.to_f64s()?.into_iter().map(|v| if v > threshold { 1.0 } else { 0.0 }).collect();
    one(cast(&Tensor::new(x.shape.clone(), Data::F64(values))?, x.element())?)
}

/// Keys and values are given in one of three attribute forms, or as tensors.
fn list(call: &Call<'_>, prefix: &str) -> Result<Tensor> {
    if let Some(v) = call.ints(&format!("{prefix}_int64s")).filter(|v| !v.is_empty()) {
        return Ok(Tensor::i64s(v.to_vec()));
    }
    if let Some(v) = call.floats(&format!("{prefix}_floats")).filter(|v| !v.is_empty()) {
        return Ok(Tensor::vector(Data::F32(v.to_vec())));
    }
    if let Some(v) = call.texts(&format!("{prefix}_strings"))?.filter(|v| !v.is_empty()) {
        return Ok(Tensor::vector(Data::Str(v)));
    }
    let tensor = call.tensor_attribute(&format!("{prefix}_tensor"))?;
    let tensor = tensor.ok_or_else(|| bad(format!("{prefix} are missing")))?;
    tensor.reshaped([tensor.len()])
}

fn encode(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let (keys, values) = (list(call, "keys")?, list(call, "values")?);
    if keys.len() != values.len() || keys.element() != x.element() {
        return Err(bad("keys do not fit")
            .expected(format!("{} of {}", values.len(), x.element()))
            .found(format!("{} of {}", keys.len(), keys.element())));
    }
    let default = match (call.tensor_attribute("default_tensor")?, values.data()) {
        (Some(t), _) if t.len() == 1 => t.reshaped([1])?,
        (_, Data::Str(_)) => Tensor::vector(Data::Str(vec![call.text("default_string", "_Unused")?])),
        (_, Data::I64(_)) => Tensor::i64s(vec![call.int("default_int64", -1)]),
        _ => cast(&Tensor::vector(Data::F32(vec![call.float("default_float", -0.0)])), values.element())?,
    };
    let all = super::shape::concat(&[&values, &default], 0)?;
    let picks: Vec<usize> = match (x.data(), keys.data()) {
        (Data::Str(x), Data::Str(keys)) => {
            x.iter().map(|t| keys.iter().position(|k| k == t).unwrap_or(keys.len())).collect()
        }
        _ => {
            let (x, keys) = (x.to_f64s()?, keys.to_f64s()?);
            // NaN is a key like any other.
            let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
            x.iter().map(|v| keys.iter().position(|k| same(*k, *v)).unwrap_or(keys.len())).collect()
        }
    };
    one(Tensor::new(x.shape.clone(), all.data().take(&picks))?)
}
