//! QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear: per tensor, per axis, in blocks.

use super::call::{Call, Outcome, one};
use super::cast::{Rounding, cast, float_code};
use super::graph::narrow;
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, Value, bad};
use crate::error::Result;
use crate::onnx::element::Element;

pub(super) const OPERATORS: &[Operator] = &[
    native("QuantizeLinear", 10, quantize),
    native("DequantizeLinear", 10, dequantize),
    native("QuantizeLinear", 1, quantize).of(super::table::MICROSOFT),
    native("DequantizeLinear", 1, dequantize).of(super::table::MICROSOFT),
    native("DynamicQuantizeLinear", 11, dynamic),
];

/// Which scale an element takes.
struct Grid {
    axis_len: usize,
    inner: usize,
    /// Elements of a block; 0 for one scale per index.
    block: usize,
    blocks: usize,
}

impl Grid {
    /// The grid of a scale over a tensor of shape `x`.
    fn new(call: &Call<'_>, x: &[usize], scale: &Tensor) -> Result<Self> {
        let refuse = || {
            bad("the scale does not fit the tensor")
                .expected("one scale, one per index of the axis, or one per block of the axis")
                .found(format!("{:?} for {x:?}", scale.shape))
        };
        if scale.len() == 1 && scale.rank() <= 1 {
            return Ok(Self { axis_len: 1, inner: usize::MAX, block: 1, blocks: 1 });
        }
        let axis = call.axis(1, x.len())?;
        let inner = x[axis + 1..].iter().product();
        if scale.rank() == 1 {
            if scale.len() != x[axis] {
                return Err(refuse());
            }
            return Ok(Self { axis_len: x[axis], inner, block: 0, blocks: x[axis] });
        }
        let block = usize::try_from(call.int("block_size", 0)).ok().filter(|b| *b > 0).ok_or_else(refuse)?;
        let mut expected = x.to_vec();
        expected[axis] = x[axis].div_ceil(block);
        if scale.shape != expected {
            return Err(refuse());
        }
        Ok(Self { axis_len: x[axis], inner, block, blocks: expected[axis] })
    }

    fn index(&self, i: usize) -> usize {
        if self.inner == usize::MAX {
            return 0;
        }
        let (rest, column) = (i / self.inner, i % self.inner);
        let (outer, at) = (rest / self.axis_len, rest % self.axis_len);
        match at.checked_div(self.block) {
            Some(block) => (outer * self.blocks + block) * self.inner + column,
            None => at,
        }
    }
}

/// Zero points as integers, of the scale's shape.
fn zero_points(zero: Option<&Tensor>, scale: &Tensor) -> Result<Option<Vec<i64>>> {
    let Some(zero) = zero else { return Ok(None) };
    if zero.len() != scale.len() {
        return Err(bad("zero points do not fit the scales")
            .expected(format!("{:?}", scale.shape))
            .found(format!("{:?}", zero.shape)));
    }
    if zero.element().is_float() {
        // Float types have the zero point 0.
        return Ok(None);
    }
    zero.to_i64s().map(Some)
}

fn element_attribute(call: &Call<'_>, name: &str) -> Result<Option<Element>> {
    match call.int(name, 0) {
        0 => Ok(None),
        code => i32::try_from(code)
            .ok()
            .and_then(Element::from_code)
            .map(Some)
            .ok_or_else(|| bad(format!("attribute {name} names no element type")).found(code)),
    }
}

fn quantize(call: &Call<'_>) -> Outcome {
    let (x, scale, zero) = (call.tensor(0)?, call.tensor(1)?, call.optional(2)?);
    let asked = element_attribute(call, "output_dtype")?;
    let to = zero.map(Tensor::element).or(asked).unwrap_or(Element::U8);
    let precision = element_attribute(call, "precision")?.unwrap_or(x.element());
    let grid = Grid::new(call, &x.shape, scale)?;
    let zeros = zero_points(zero, scale)?;
    let scales = scale.to_f32s()?;
    let mut quotients: Vec<f32> =
        x.to_f32s()?.iter().enumerate().map(|(i, v)| v / scales[grid.index(i)]).collect();
    if matches!(precision, Element::F16 | Element::BF16) {
        let exact = Tensor::vector(Data::F32(quotients));
        quotients = narrow(&exact, precision)?.to_f32s()?;
    }
    let data = match to.integer_range() {
        Some((low, high)) => {
            let (low, high) = (low as f64, high as f64);
            let integer = |(i, q): (usize, &f32)| {
                let zero = zeros.as_ref().map_or(0, |z| z[grid.index(i)]);
                // NaN has no integer: 0, as everywhere in this crate.
                (f64::from(q.round_ties_even()) + zero as f64).clamp(low, high) as i64
            };
            let values = quotients.iter().enumerate().map(integer).collect();
            return one(cast(&Tensor::new(x.shape.clone(), Data::I64(values))?, to)?);
        }
        None if to.is_code() => {
            let rounding = Rounding { saturate: call.flag("saturate", true), ..Rounding::default() };
            Data::Code(to, quotients.iter().map(|q| float_code(*q, to, rounding)).collect())
        }
        None => return Err(bad("the output type is no quantized type").found(to)),
    };
    one(Tensor::new(x.shape.clone(), data)?)
}

fn dequantize(call: &Call<'_>) -> Outcome {
    let (x, scale) = (call.tensor(0)?, call.tensor(1)?);
    let to = element_attribute(call, "output_dtype")?.unwrap_or(scale.element());
    let grid = Grid::new(call, &x.shape, scale)?;
    let zeros = zero_points(call.optional(2)?, scale)?;
    let scales = scale.to_f32s()?;
    let values: Vec<f32> = if x.element().integer_range().is_some() {
        let zero = |i: usize| zeros.as_ref().map_or(0, |z| z[i]);
        let value = |(i, v): (usize, i64)| {
            let at = grid.index(i);
            (v - zero(at)) as f32 * scales[at]
        };
        x.to_i64s()?.into_iter().enumerate().map(value).collect()
    } else {
        x.to_f32s()?.iter().enumerate().map(|(i, v)| v * scales[grid.index(i)]).collect()
    };
    one(cast(&Tensor::new(x.shape.clone(), Data::F32(values))?, to)?)
}

/// Codes, scale and zero point of UINT8 asymmetric quantization over a tensor's own range.
pub(super) fn dynamic_u8(x: &Tensor) -> Result<(Tensor, f32, u8)> {
    let values = x.f32s()?;
    let high = values.iter().fold(0.0f32, |m, v| m.max(*v));
    let low = values.iter().fold(0.0f32, |m, v| m.min(*v));
    let scale = if high == low { 1.0 } else { high - low } / 255.0;
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let codes =
        values.iter().map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8).collect();
    Ok((Tensor::new(x.shape.clone(), Data::U8(codes))?, scale, zero as u8))
}

fn dynamic(call: &Call<'_>) -> Outcome {
    let (codes, scale, zero) = dynamic_u8(call.tensor(0)?)?;
    Ok(vec![
        Value::Tensor(codes),
        Value::Tensor(Tensor::scalar(Data::F32(vec![scale]))?),
        Value::Tensor(Tensor::scalar(Data::U8(vec![zero]))?),
    ])
}
