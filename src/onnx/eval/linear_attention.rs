//! Attention's recurrent kin: LinearAttention, CausalConvWithState, FlexAttention.

use super::attention::{Steps, repeated};
use super::binary::{Arithmetic, combine};
use super::call::{Call, Outcome, one};
use super::cast::cast;
use super::matmul::matmul;
use super::norm::{Form, softmax};
use super::shape::{concat, part};
use super::table::{Operator, native, wide};
use super::tensor::{Data, Tensor, Value, bad, count};
use super::unary::sigmoid;
use crate::error::Result;
use crate::onnx::element::Element;

pub(super) const OPERATORS: &[Operator] = &[
    wide("LinearAttention", 27, linear_attention),
    wide("CausalConvWithState", 27, causal_conv),
    native("FlexAttention", 1, flex_attention).of("ai.onnx.preview"),
];

fn heads(call: &Call<'_>, name: &str) -> Result<usize> {
    usize::try_from(call.int(name, 0))
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| bad(format!("attribute {name} must be positive")))
}

/// The state S [d_k, d_v] of every key head runs over time: decay, delta correction, write k·vᵀ, read scale·qᵀ·S.
fn linear_attention(call: &Call<'_>) -> Outcome {
    let (q, k, v) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let (hq, hk) = (heads(call, "q_num_heads")?, heads(call, "kv_num_heads")?);
    let rule = call.text("update_rule", "gated_delta")?;
    let (gated, delta) = match rule.as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => {
            return Err(bad("update_rule is wrong")
                .expected("linear, gated, delta or gated_delta")
                .found(other));
        }
    };
    let (&[b, t, wq], &[_, _, wk], &[_, _, wv]) =
        (q.shape.as_slice(), k.shape.as_slice(), v.shape.as_slice())
    else {
        return Err(bad("query, key and value must have 3 dimensions"));
    };
    let fits = k.shape[..2] == [b, t]
        && v.shape[..2] == [b, t]
        && hq % hk == 0
        && wq % hq == 0
        && wk % hk == 0
        && wv % hk == 0;
    let (dk, dv) = (wq / hq, wv / hk);
    if !fits || wk / hk != dk {
        return Err(bad("query, key and value do not fit")
            .found(format!("{:?}, {:?}, {:?}", q.shape, k.shape, v.shape)));
    }
    let given = |i: usize, wanted: bool, widths: &[usize]| -> Result<Option<(Vec<f64>, usize)>> {
        match call.optional(i)? {
            None if !wanted => Ok(None),
            Some(x) if wanted && x.rank() == 3 && x.shape[..2] == [b, t] && widths.contains(&x.shape[2]) => {
                Ok(Some((x.to_f64s()?, x.shape[2])))
            }
            _ => Err(bad(format!("input {i} does not fit update_rule {rule}"))),
        }
    };
    let decay = given(4, gated, &[hk, hk * dk])?;
    let beta = given(5, delta, &[hk, 1])?;
    let mut state = match call.optional(3)? {
        Some(past) if past.shape == [b, hk, dk, dv] => past.to_f64s()?,
        Some(past) => return Err(bad("past_state does not fit").found(format!("{:?}", past.shape))),
        None => vec![0.0; count(&[b, hk, dk, dv])?],
    };
    let scale = match f64::from(call.float("scale", 0.0)) {
        0.0 => 1.0 / (dk as f64).sqrt(),
        s => s,
    };
    let (qs, ks, vs) = (q.to_f64s()?, k.to_f64s()?, v.to_f64s()?);
    let mut out = vec![0.0; count(&[b, t, hq * dv])?];
    for n in 0..b {
        for i in 0..t {
            let row = n * t + i;
            for h in 0..hk {
                let s = &mut state[(n * hk + h) * dk * dv..][..dk * dv];
                let key = &ks[row * wk + h * dk..][..dk];
                let mut value = vs[row * wv + h * dv..][..dv].to_vec();
                if let Some((decay, width)) = &decay {
                    for d in 0..dk {
                        let at = row * width + if *width == hk { h } else { h * dk + d };
                        let by = decay[at].exp();
                        s[d * dv..(d + 1) * dv].iter_mut().for_each(|x| *x *= by);
                    }
                }
                if let Some((beta, width)) = &beta {
                    let by = beta[row * width + if *width == 1 { 0 } else { h }];
                    for (m, x) in value.iter_mut().enumerate() {
                        let retrieved: f64 = (0..dk).map(|d| s[d * dv + m] * key[d]).sum();
                        *x = by * (*x - retrieved);
                    }
                }
                for d in 0..dk {
                    for (m, x) in value.iter().enumerate() {
                        s[d * dv + m] += key[d] * x;
                    }
                }
                let group = hq / hk;
                for g in h * group..(h + 1) * group {
                    let query = &qs[row * wq + g * dk..][..dk];
                    for m in 0..dv {
                        let sum: f64 = (0..dk).map(|d| query[d] * s[d * dv + m]).sum();
                        out[row * hq * dv + g * dv + m] = scale * sum;
                    }
                }
            }
        }
    }
    let y = cast(&Tensor::new([b, t, hq * dv], Data::F64(out))?, q.element())?;
    let present = cast(&Tensor::new([b, hk, dk, dv], Data::F64(state))?, q.element())?;
    Ok(vec![Value::Tensor(y), Value::Tensor(present)])
}

fn causal_conv(call: &Call<'_>) -> Outcome {
    let (x, w) = (call.tensor(0)?, call.tensor(1)?);
    let (&[b, c, len], &[cw, 1, k]) = (x.shape.as_slice(), w.shape.as_slice()) else {
        return Err(bad("input must be [batch, channels, length] and weight [channels, 1, k]"));
    };
    if cw != c || k == 0 {
        return Err(bad("the weight does not fit").found(format!("{:?}", w.shape)));
    }
    let past = match call.optional(3)? {
        Some(past) if past.shape == [b, c, k - 1] => past.clone(),
        Some(past) => return Err(bad("past_state does not fit").found(format!("{:?}", past.shape))),
        None => Tensor::zeros(x.element(), &[b, c, k - 1])?,
    };
    let bias = match call.optional(2)? {
        Some(bias) if bias.len() == c => bias.to_f64s()?,
        Some(bias) => return Err(bad("the bias does not fit").found(format!("{:?}", bias.shape))),
        None => vec![0.0; c],
    };
    let silu = match call.text("activation", "none")?.as_str() {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(bad("activation is wrong").expected("none, silu or swish").found(other)),
    };
    let padded = concat(&[&past, x], 2)?;
    let (values, weights) = (padded.to_f64s()?, w.to_f64s()?);
    let total = len + k - 1;
    let y = (0..b * c * len).map(|at| {
        let (row, i) = (at / len, at % len);
        let channel = row % c;
        let sum: f64 = (0..k).map(|j| values[row * total + i + j] * weights[channel * k + j]).sum();
        let y = sum + bias[channel];
        if silu { y * sigmoid(y) } else { y }
    });
    let y = cast(&Tensor::new([b, c, len], Data::F64(y.collect()))?, x.element())?;
    Ok(vec![Value::Tensor(y), Value::Tensor(part(&padded, 2, total - (k - 1), k - 1)?)])
}

fn flex_attention(call: &Call<'_>) -> Outcome {
    let (q, k, v) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let fits =
        q.rank() == 4 && k.rank() == 4 && v.rank() == 4 && k.shape[..3] == v.shape[..3] && k.shape[1] > 0;
    if !fits || q.shape[3] != k.shape[3] || q.shape[0] != k.shape[0] || q.shape[1] % k.shape[1] != 0 {
        return Err(bad("queries, keys and values do not fit")
            .found(format!("{:?}, {:?}, {:?}", q.shape, k.shape, v.shape)));
    }
    let element = q.element();
    let steps = Steps::of(element);
    let scale = match call.attribute("scale") {
        Some(a) => a.f,
        None => (1.0 / (q.shape[3] as f64).sqrt()) as f32,
    };
    let root = steps.open(&cast(&Tensor::scalar(Data::F32(vec![scale.sqrt()]))?, element)?)?;
    let group = q.shape[1] / k.shape[1];
    let scaled = |t: &Tensor| steps.round(&combine(&steps.open(t)?, &root, Arithmetic::Mul)?);
    let keys = scaled(&repeated(k, group)?)?.transposed(&[0, 1, 3, 2])?;
    let scores = steps.round(&matmul(&scaled(q)?, &keys)?)?;
    let asked = i32::try_from(call.int("softmax_precision", 0)).ok().and_then(Element::from_code);
    // Halves are promoted to FLOAT for the softmax.
    let inner = asked.unwrap_or(if element == Element::F64 { Element::F64 } else { Element::F32 });
    let modified = |name: &str, t: Tensor| -> Result<Tensor> {
        if !call.has(name) {
            return Ok(t);
        }
        match call.run(call.graph(name)?, vec![Value::Tensor(t)])?.into_iter().next() {
            Some(Value::Tensor(t)) => cast(&t, inner),
            _ => Err(bad(format!("{name} must give one tensor"))),
        }
    };
    let scores = modified("score_mod", cast(&scores, inner)?)?;
    let precise = Steps::of(inner);
    let p = softmax(&precise.open(&scores)?, 3, Form::Plain)?;
    let p = modified("prob_mod", precise.close(&p)?)?;
    let values = precise.open(&cast(&repeated(v, group)?, inner)?)?;
    one(cast(&precise.close(&matmul(&precise.open(&p)?, &values)?)?, v.element())?)
}
