//! Attention, RotaryEmbedding, SwiGLU.

use super::binary::{Arithmetic, combine};
use super::call::{Call, Outcome, one};
use super::cast::cast;
use super::graph::narrow;
use super::matmul::matmul;
use super::shape::concat;
use super::table::{Operator, native, wide};
use super::tensor::{Data, Tensor, Value, bad};
use super::unary::{mapped, sigmoid};
use crate::error::Result;
use crate::onnx::element::Element;

pub(super) const OPERATORS: &[Operator] =
    &[native("Attention", 23, attention), wide("RotaryEmbedding", 23, rotary), wide("SwiGLU", 27, swiglu)];

/// The type that halves are rounded to after every step, as the function body of the operator does.
pub(super) struct Steps(Element);

impl Steps {
    pub(super) fn of(element: Element) -> Self {
        Self(element)
    }

    /// A FLOAT or DOUBLE tensor holding values of the type.
    pub(super) fn open(&self, t: &Tensor) -> Result<Tensor> {
        cast(t, if self.0 == Element::F64 { Element::F64 } else { Element::F32 })
    }

    pub(super) fn round(&self, t: &Tensor) -> Result<Tensor> {
        match self.0 {
            Element::F16 | Element::BF16 => {
                narrow(t, self.0)?.to_f32s().and_then(|v| Tensor::new(t.shape.clone(), Data::F32(v)))
            }
            _ => Ok(t.clone()),
        }
    }

    pub(super) fn close(&self, t: &Tensor) -> Result<Tensor> {
        cast(t, self.0)
    }
}

/// [batch, sequence, heads·size] as [batch, heads, sequence, size].
pub(super) fn heads(t: &Tensor, heads: i64) -> Result<Tensor> {
    if t.rank() == 4 {
        return Ok(t.clone());
    }
    let n = usize::try_from(heads)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| bad("the number of heads is missing"))?;
    let [b, s, width] = t.shape[..] else {
        return Err(bad("attention takes tensors of 3 or 4 dimensions").found(format!("{:?}", t.shape)));
    };
    if width % n != 0 {
        return Err(bad("the heads do not divide the width").expected(n).found(width));
    }
    t.reshaped([b, s, n, width / n])?.transposed(&[0, 2, 1, 3])
}

/// Every head repeated for its group of queries.
pub(super) fn repeated(t: &Tensor, times: usize) -> Result<Tensor> {
    let [b, h, s, d] = t.shape[..] else { return Err(bad("attention takes tensors of 4 dimensions")) };
    t.reshaped([b, h, 1, s, d])?.broadcast_to(&[b, h, times, s, d])?.reshaped([b, h * times, s, d])
}

fn attention(call: &Call<'_>) -> Outcome {
    let q0 = call.tensor(0)?;
    let flat = q0.rank() == 3;
    let element = q0.element();
    let steps = Steps::of(element);
    let (q_heads, kv_heads) = (call.int("q_num_heads", 0), call.int("kv_num_heads", 0));
    let q = heads(&steps.open(q0)?, q_heads)?;
    let k = heads(&steps.open(call.tensor(1)?)?, kv_heads)?;
    let v = heads(&steps.open(call.tensor(2)?)?, kv_heads)?;
    let past = call.optional(4)?;
    let join = |past: Option<&Tensor>, t: Tensor| -> Result<Tensor> {
        match past {
            Some(past) if past.rank() == 4 => concat(&[&steps.open(past)?, &t], 2),
            Some(past) => Err(bad("the cache must have 4 dimensions").found(format!("{:?}", past.shape))),
            None => Ok(t),
        }
    };
    let (k, v) = (join(past, k)?, join(call.optional(5)?, v)?);
    let fits =
        q.rank() == 4 && k.rank() == 4 && v.rank() == 4 && k.shape[..3] == v.shape[..3] && k.shape[1] > 0;
    if !fits || q.shape[0] != k.shape[0] || q.shape[3] != k.shape[3] || !q.shape[1].is_multiple_of(k.shape[1])
    {
        return Err(bad("queries, keys and values do not fit")
            .found(format!("{:?}, {:?}, {:?}", q.shape, k.shape, v.shape)));
    }
    let [batch, h, s, size] = q.shape[..] else { return Err(bad("queries must have 4 dimensions")) };
    let total = k.shape[2];
    let scale = match call.attribute("scale") {
        Some(a) => f64::from(a.f),
        None => 1.0 / (size as f64).sqrt(),
    };
    let root = cast(&Tensor::scalar(Data::F64(vec![scale.sqrt()]))?, element)?;
    let root = steps.open(&root)?;
    let scaled = |t: &Tensor| steps.round(&combine(t, &root, Arithmetic::Mul)?);
    let (present_k, present_v) = (k.clone(), v.clone());
    let group = h / k.shape[1];
    let (k, v) = (repeated(&k, group)?, repeated(&v, group)?);
    let mut scores = steps.round(&matmul(&scaled(&q)?, &scaled(&k.transposed(&[0, 1, 3, 2])?)?)?)?;
    let mode = call.int("qk_matmul_output_mode", 0);
    let mut shown = scores.clone();
    let softcap = f64::from(call.float("softcap", 0.0));
    if softcap > 0.0 {
        scores = steps.round(&mapped(&scores, &|x| (x / softcap).tanh() * softcap)?)?;
        if mode == 1 {
            shown = scores.clone();
        }
    } else if mode == 1 {
        shown = scores.clone();
    }
    let nonpad = call.optional(6)?.map(Tensor::to_i64s).transpose()?;
    let bias = bias(call, &steps, [batch, h, s, total], past.map(|p| p.shape[2]), nonpad.as_deref())?;
    let mut biased = steps.round(&combine(&scores, &bias, Arithmetic::Add)?)?;
    if mode == 2 {
        shown = biased.clone();
    }
    let precision = i32::try_from(call.int("softmax_precision", 0)).ok().and_then(Element::from_code);
    let inner = Steps::of(precision.unwrap_or(element));
    biased = inner.round(&inner.open(&biased)?)?;
    // A row whose bias masks every key has no probabilities: zeros, not NaN.
    let biases = bias.broadcast_to(&biased.shape)?.to_f64s()?;
    let values = biased.to_f64s()?;
    let mut p = vec![0.0; values.len()];
    for row in (0..values.len()).step_by(total.max(1)) {
        let range = row..row + total;
        if biases[range.clone()].iter().all(|b| *b == f64::NEG_INFINITY) {
            continue;
        }
        p[range.clone()].copy_from_slice(&values[range.clone()]);
        super::norm::softmax_row(&mut p[range], precision.unwrap_or(element));
    }
    let p = steps.open(&inner.close(&Tensor::new(biased.shape.clone(), Data::F64(p))?)?)?;
    let p = steps.round(&p)?;
    if mode == 3 {
        shown = p.clone();
    }
    let mut y = matmul(&p, &v)?;
    if flat {
        let width = h * v.shape[3];
        y = y.transposed(&[0, 2, 1, 3])?.reshaped([batch, s, width])?;
    }
    [y, present_k, present_v, shown].iter().map(|t| steps.close(t).map(Value::Tensor)).collect()
}

/// The additive bias of masks, causality, window and padding: 0 or the mask's value where a key is seen, −∞ elsewhere.
fn bias(
    call: &Call<'_>,
    steps: &Steps,
    [batch, heads, s, total]: [usize; 4],
    past: Option<usize>,
    nonpad: Option<&[i64]>,
) -> Result<Tensor> {
    let minus = f64::NEG_INFINITY;
    let mut base = Tensor::new([1, 1, 1, 1], Data::F64(vec![0.0]))?;
    if let Some(mask) = call.optional(3)? {
        let values: Vec<f64> = match mask.data() {
            Data::Bool(v) => v.iter().map(|b| if *b { 0.0 } else { minus }).collect(),
            _ => mask.to_f64s()?,
        };
        let mut wide = Tensor::new(mask.shape.clone(), Data::F64(values))?;
        let last = wide.rank().checked_sub(1).ok_or_else(|| bad("the mask is a scalar"))?;
        // Keys that the mask does not reach are not seen.
        if let Some(missing @ 1..) =
            total.checked_sub(wide.shape[last]).filter(|_| wide.shape[last] != 1 || total == 1)
        {
            let mut shape = wide.shape.clone();
            shape[last] = missing;
            let fill = Tensor::new([1], Data::F64(vec![minus]))?.broadcast_to(&shape)?;
            wide = concat(&[&wide, &fill], last)?;
        }
        base = wide;
    }
    let values = base.broadcast_to(&[batch, heads, s, total])?.to_f64s()?;
    let (left, right) = (call.int("left_window_size", -1), call.int("right_window_size", -1));
    let causal = call.flag("is_causal", false);
    if nonpad.is_some_and(|n| n.len() != batch) {
        return Err(bad("one sequence length per batch entry is needed").expected(batch));
    }
    let seen = |b: usize, i: usize, j: usize| {
        let offset = match (past, nonpad) {
            (Some(past), _) => past as i64,
            (None, Some(lens)) => lens[b] - s as i64,
            (None, None) => 0,
        };
        let ahead = j as i64 - i as i64 - offset;
        !(causal && ahead > 0
            || left >= 0 && -ahead > left
            || right >= 0 && ahead > right
            || nonpad.is_some_and(|lens| j as i64 >= lens[b]))
    };
    let masked = values.iter().enumerate().map(|(at, v)| {
        let (j, i, b) = (at % total, at / total % s, at / (total * s * heads));
        if seen(b, i, j) { *v } else { minus }
    });
    steps.open(&Tensor::new([batch, heads, s, total], Data::F64(masked.collect()))?)
}

fn rotary(call: &Call<'_>) -> Outcome {
    let x0 = call.tensor(0)?;
    let x = if x0.rank() == 4 {
        x0.transposed(&[0, 2, 1, 3])?
    } else {
        let [b, s, width] = x0.shape[..] else { return Err(bad("the input must have 3 or 4 dimensions")) };
        let n = usize::try_from(call.int("num_heads", 0)).ok().filter(|n| *n > 0 && width % n == 0);
        let n = n.ok_or_else(|| bad("num_heads must divide the width").found(call.int("num_heads", 0)))?;
        x0.reshaped([b, s, n, width / n])?
    };
    let [b, s, n, size] = x.shape[..] else { return Err(bad("the input must have 3 or 4 dimensions")) };
    let rotated = match usize::try_from(call.int("rotary_embedding_dim", 0)).unwrap_or(0) {
        0 => size,
        d if d <= size => d,
        d => return Err(bad("rotary_embedding_dim is larger than a head").expected(size).found(d)),
    };
    let half = rotated / 2;
    let cache = |i: usize| -> Result<Vec<f64>> {
        let t = call.tensor(i)?;
        let t = match call.optional(3)? {
            Some(positions) => super::index::gather_axis(t, positions, 0)?,
            None => t.clone(),
        };
        if t.rank() != 3 || t.shape[1] != s || t.shape[2] != half || (t.shape[0] != b && t.shape[0] != 1) {
            return Err(bad("a cache does not fit")
                .expected(format!("{:?}", [b, s, half]))
                .found(format!("{:?}", t.shape)));
        }
        t.broadcast_to(&[b, s, half])?.to_f64s()
    };
    let (cos, sin) = (cache(1)?, cache(2)?);
    let interleaved = call.flag("interleaved", false);
    let mut values = x.to_f64s()?;
    for (row, head) in values.chunks_mut(size.max(1)).enumerate() {
        let at = row / n * half;
        for i in 0..half {
            let (p, q) = if interleaved { (2 * i, 2 * i + 1) } else { (i, half + i) };
            let (a, b) = (head[p], head[q]);
            head[p] = cos[at + i] * a - sin[at + i] * b;
            head[q] = sin[at + i] * a + cos[at + i] * b;
        }
    }
    let y = cast(&Tensor::new(x.shape.clone(), Data::F64(values))?, x.element())?;
    one(if x0.rank() == 4 { y.transposed(&[0, 2, 1, 3])? } else { y.reshaped(x0.shape.clone())? })
}

fn swiglu(call: &Call<'_>) -> Outcome {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    if a.shape != b.shape {
        return Err(bad("both inputs must have one shape")
            .expected(format!("{:?}", a.shape))
            .found(format!("{:?}", b.shape)));
    }
    let alpha = f64::from(call.float("alpha", 1.0));
    one(combine(&mapped(a, &|v| v * sigmoid(alpha * v))?, b, Arithmetic::Mul)?)
}
