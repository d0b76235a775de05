//! Normalizations and softmaxes, Dropout.

use super::binary::{Arithmetic, combine};
use super::call::{Call, Outcome, axes, one};
use super::cast::cast;
use super::reduce::{Kind, reduced};
use super::table::{MICROSOFT, Operator, native, wide};
use super::tensor::{Data, Tensor, Value, bad};
use super::unary::mapped;
use crate::error::Result;
use crate::onnx::element::Element;

pub(super) const OPERATORS: &[Operator] = &[
    wide("BatchNormalization", 1, batch),
    wide("InstanceNormalization", 1, instance),
    wide("LayerNormalization", 17, layer),
    wide("LayerNormalization", 1, layer).of(MICROSOFT),
    wide("GroupNormalization", 18, group),
    wide("RMSNormalization", 23, rms),
    wide("SimplifiedLayerNormalization", 1, rms),
    wide("SimplifiedLayerNormalization", 1, rms).of(MICROSOFT),
    wide("SkipLayerNormalization", 1, |c| skip(c, true)).of(MICROSOFT),
    wide("SkipSimplifiedLayerNormalization", 1, |c| skip(c, false)).of(MICROSOFT),
    wide("LpNormalization", 1, lp),
    wide("LRN", 1, lrn),
    wide("MeanVarianceNormalization", 9, mean_variance),
    native("Softmax", 1, |c| softmax_by(c, Form::Plain)),
    wide("LogSoftmax", 1, |c| softmax_by(c, Form::Log)),
    wide("Hardmax", 1, |c| softmax_by(c, Form::Hard)),
    native("Dropout", 1, dropout),
];

/// A vector as a tensor of `rank` dimensions whose only long one is the channel.
fn channel(t: &Tensor, rank: usize) -> Result<Tensor> {
    let mut shape = vec![1; rank.max(2)];
    shape[1] = t.len();
    cast(&t.reshaped(shape)?, Element::F64)
}

fn minus(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    combine(a, b, Arithmetic::Sub)
}

fn times(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    combine(a, b, Arithmetic::Mul)
}

fn plus(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    combine(a, b, Arithmetic::Add)
}

fn batch(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let wide = cast(x, Element::F64)?;
    let eps = f64::from(call.float("epsilon", 1e-5));
    let parameter = |i: usize| channel(call.tensor(i)?, x.rank());
    let (scale, bias, mean, var) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    let training = call.flag("training_mode", false);
    let (own_mean, own_var) = if training {
        let over: Vec<usize> = (0..x.rank()).filter(|d| *d != 1).collect();
        let m = reduced(&wide, Kind::Mean, Some(&over), true)?;
        let centred = minus(&wide, &m)?;
        let v = reduced(&times(&centred, &centred)?, Kind::Mean, Some(&over), true)?;
        (m, v)
    } else {
        (mean.clone(), var.clone())
    };
    let factor = times(&scale, &mapped(&own_var, &|v| 1.0 / (v + eps).sqrt())?)?;
    let y = plus(&times(&minus(&wide, &own_mean)?, &factor)?, &bias)?;
    let mut outputs = vec![Value::Tensor(cast(&y.reshaped(x.shape.clone())?, x.element())?)];
    if training {
        let momentum = f64::from(call.float("momentum", 0.9));
        for (i, old, own) in [(3, &mean, &own_mean), (4, &var, &own_var)] {
            let mixed = plus(&mapped(old, &|v| v * momentum)?, &mapped(own, &|v| v * (1.0 - momentum))?)?;
            let like = call.tensor(i)?;
            outputs.push(Value::Tensor(cast(&mixed.reshaped(like.shape.clone())?, like.element())?));
        }
    }
    Ok(outputs)
}

/// (x − mean) / √(var + eps) over axes, in DOUBLE, with the mean and the reciprocal deviation.
fn standardized(x: &Tensor, over: &[usize], eps: f64, centre: bool) -> Result<[Tensor; 3]> {
    let wide = cast(x, Element::F64)?;
    let mean = reduced(&wide, Kind::Mean, Some(over), true)?;
    let centred = if centre { minus(&wide, &mean)? } else { wide };
    let var = reduced(&times(&centred, &centred)?, Kind::Mean, Some(over), true)?;
    let inverse = mapped(&var, &|v| 1.0 / (v + eps).sqrt())?;
    Ok([times(&centred, &inverse)?, mean, inverse])
}

fn instance(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let over: Vec<usize> = (2..x.rank()).collect();
    let [y, ..] = standardized(x, &over, f64::from(call.float("epsilon", 1e-5)), true)?;
    let y = plus(&times(&y, &channel(call.tensor(1)?, x.rank())?)?, &channel(call.tensor(2)?, x.rank())?)?;
    one(cast(&y, x.element())?)
}

fn affine(y: &Tensor, scale: Option<&Tensor>, bias: Option<&Tensor>, like: &Tensor) -> Result<Tensor> {
    let mut y = y.clone();
    if let Some(scale) = scale {
        y = times(&y, &cast(scale, Element::F64)?)?;
    }
    if let Some(bias) = bias {
        y = plus(&y, &cast(bias, Element::F64)?)?;
    }
    cast(&y, like.element())
}

fn layer(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let over: Vec<usize> = (call.axis(-1, x.rank())?..x.rank()).collect();
    let [y, mean, inverse] = standardized(x, &over, f64::from(call.float("epsilon", 1e-5)), true)?;
    let y = affine(&y, call.optional(1)?, call.optional(2)?, x)?;
    let stash = |t: &Tensor| cast(t, if x.element() == Element::F64 { Element::F64 } else { Element::F32 });
    Ok(vec![Value::Tensor(y), Value::Tensor(stash(&mean)?), Value::Tensor(stash(&inverse)?)])
}

fn rms(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let over: Vec<usize> = (call.axis(-1, x.rank())?..x.rank()).collect();
    let [y, _, inverse] = standardized(x, &over, f64::from(call.float("epsilon", 1e-5)), false)?;
    let y = affine(&y, call.optional(1)?, None, x)?;
    Ok(vec![Value::Tensor(y), Value::Tensor(cast(&inverse, x.element())?)])
}

/// onnxruntime's fused input + skip (+ bias), normalized; the sum is the fourth output.
fn skip(call: &Call<'_>, centre: bool) -> Outcome {
    let (x, skip) = (call.tensor(0)?, call.tensor(1)?);
    let mut sum = plus(x, skip)?;
    if let Some(bias) = call.optional(if centre { 4 } else { 3 })? {
        sum = plus(&sum, bias)?;
    }
    let last = sum.rank().checked_sub(1).ok_or_else(|| bad("the input is a scalar"))?;
    let [y, mean, inverse] = standardized(&sum, &[last], f64::from(call.float("epsilon", 1e-12)), centre)?;
    let beta = if centre { call.optional(3)? } else { None };
    let y = affine(&y, call.optional(2)?, beta, x)?;
    let outputs = [y, cast(&mean, Element::F32)?, cast(&inverse, Element::F32)?, sum];
    Ok(outputs.into_iter().map(Value::Tensor).collect())
}

fn group(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let groups = usize::try_from(call.int("num_groups", 0)).unwrap_or(0);
    if x.rank() < 2 || groups == 0 || !x.shape[1].is_multiple_of(groups) {
        return Err(bad("num_groups must divide the channels").found(groups));
    }
    let size = x.shape[1] / groups;
    let rest: usize = x.shape[2..].iter().product();
    let split = x.reshaped([x.shape[0], groups, size * rest])?;
    let [y, ..] = standardized(&split, &[2], f64::from(call.float("epsilon", 1e-5)), true)?;
    let parameter = |i: usize| -> Result<Tensor> {
        let t = call.tensor(i)?;
        // Up to version 20 there was one per group.
        let per_group = call.opset < 21 && t.len() == groups;
        let t = if per_group {
            t.reshaped([groups, 1])?.broadcast_to(&[groups, size])?.reshaped([x.shape[1]])?
        } else {
            t.clone()
        };
        channel(&t, x.rank())
    };
    let y = y.reshaped(x.shape.clone())?;
    one(cast(&plus(&times(&y, &parameter(1)?)?, &parameter(2)?)?, x.element())?)
}

fn lp(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let at = call.axis(-1, x.rank())?;
    let kind = match call.int("p", 2) {
        1 => Kind::L1,
        2 => Kind::L2,
        other => return Err(bad("attribute p is wrong").expected("1 or 2").found(other)),
    };
    let wide = cast(x, Element::F64)?;
    let norm = reduced(&wide, kind, Some(&[at]), true)?;
    // A vector of zeros stays one.
    let inverse = mapped(&norm, &|n| if n == 0.0 { 0.0 } else { 1.0 / n })?;
    one(cast(&times(&wide, &inverse)?, x.element())?)
}

fn lrn(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let size = usize::try_from(call.int("size", 0)).ok().filter(|s| *s > 0);
    let size = size.ok_or_else(|| bad("attribute size must be positive"))?;
    if x.rank() < 2 {
        return Err(bad("the input must have a channel dimension"));
    }
    let [alpha, beta, bias] = [("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)]
        .map(|(name, default)| f64::from(call.float(name, default)));
    let channels = x.shape[1];
    let inner: usize = x.shape[2..].iter().product();
    let values = x.to_f64s()?;
    let before = (size - 1) / 2;
    let after = size / 2;
    let y = (0..values.len()).map(|i| {
        let c = i / inner % channels;
        let sum: f64 = (c.saturating_sub(before)..=c.saturating_add(after).min(channels - 1))
            .map(|k| values[i + k * inner - c * inner])
            .map(|v| v * v)
            .sum();
        values[i] / (bias + alpha / size as f64 * sum).powf(beta)
    });
    one(cast(&Tensor::new(x.shape.clone(), Data::F64(y.collect()))?, x.element())?)
}

fn mean_variance(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let over = axes(call.ints("axes").unwrap_or(&[0, 2, 3]), x.rank())?;
    let [y, ..] = standardized(x, &over, 1e-18, true)?;
    one(cast(&y, x.element())?)
}

/// What a softmax gives.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Plain,
    Log,
    Hard,
}

/// Rounding to the numbers of a type, as arithmetic in that type does after every operation.
pub(super) fn rounding(element: Element) -> fn(f64) -> f64 {
    use crate::dtype::codec;
    match element {
        Element::F16 => |x| codec::f32_from_f16(codec::f16_from_f32(x as f32)).into(),
        Element::BF16 => |x| codec::f32_from_bf16(codec::bf16_from_f32(x as f32)).into(),
        _ => |x| x,
    }
}

/// The softmax of one row, in the arithmetic of a type: halves are rounded after every step, as the reference does;
/// sums of FLOAT16 are kept in FLOAT, those of BFLOAT16 are not.
pub(super) fn softmax_row(row: &mut [f64], element: Element) {
    let round = rounding(element);
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    row.iter_mut().for_each(|v| *v = round(round(*v - most).exp()));
    let sum = match element {
        Element::BF16 => row.iter().fold(0.0, |sum, v| round(sum + v)),
        _ => round(row.iter().sum()),
    };
    row.iter_mut().for_each(|v| *v = round(*v / sum));
}

/// A softmax over one axis. The maximum is taken off first; sums are kept in DOUBLE.
pub(super) fn softmax(x: &Tensor, at: usize, form: Form) -> Result<Tensor> {
    let values = x.to_f64s()?;
    let n = x.shape[at];
    let inner: usize = x.shape[at + 1..].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let mut out = vec![0.0; values.len()];
    let mut row = vec![0.0; n];
    for o in 0..outer {
        for i in 0..inner {
            let place = |k: usize| (o * n + k) * inner + i;
            row.iter_mut().enumerate().for_each(|(k, v)| *v = values[place(k)]);
            match form {
                Form::Plain => softmax_row(&mut row, x.element()),
                Form::Log => {
                    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = row.iter().map(|v| (v - most).exp()).sum();
                    row.iter_mut().for_each(|v| *v = *v - most - sum.ln());
                }
                Form::Hard => {
                    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let first = row.iter().position(|v| *v == most);
                    row.iter_mut()
                        .enumerate()
                        .for_each(|(k, v)| *v = if Some(k) == first { 1.0 } else { 0.0 });
                }
            }
            row.iter().enumerate().for_each(|(k, v)| out[place(k)] = *v);
        }
    }
    cast(&Tensor::new(x.shape.clone(), Data::F64(out))?, x.element())
}

fn softmax_by(call: &Call<'_>, form: Form) -> Outcome {
    let x = call.tensor(0)?;
    if call.opset >= 13 {
        return one(softmax(x, call.axis(-1, x.rank())?, form)?);
    }
    // Before version 13 all dimensions from the axis on are one.
    let at = call.axis(1, x.rank().max(2))?.min(x.rank());
    let rows: usize = x.shape[..at].iter().product();
    let flat = x.reshaped([rows, x.shape[at..].iter().product::<usize>()])?;
    one(softmax(&flat, 1, form)?.reshaped(x.shape.clone())?)
}

fn dropout(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let training = call.opset >= 12
        && call.optional(2)?.is_some_and(|t| t.bools().is_ok_and(|b| b.first() == Some(&true)));
    let ratio = match call.optional(1)? {
        Some(ratio) if call.opset >= 12 => ratio.to_f64()?,
        _ => 0.5,
    };
    if training && ratio != 0.0 {
        return Err(crate::error::Error::unsupported(
            "onnx-random",
            "dropout in training is random, and is not evaluated",
        )
        .expected("training_mode false, or ratio 0")
        .found(ratio));
    }
    let mask = if call.opset < 10 {
        // The first versions give the mask in the data's type.
        cast(&Tensor::new(x.shape.clone(), Data::Bool(vec![true; x.len()]))?, x.element())?
    } else {
        Tensor::new(x.shape.clone(), Data::Bool(vec![true; x.len()]))?
    };
    Ok(vec![Value::Tensor(x.clone()), Value::Tensor(mask)])
}
