//! NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss.

use super::call::Call;
use super::cast::cast;
use super::norm::{Form, softmax};
use super::table::{Operator, wide};
use super::tensor::{Data, Tensor, Value, bad};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[
    wide("NegativeLogLikelihoodLoss", 12, |c| Ok(vec![Value::Tensor(nll(c, c.tensor(0)?)?)])),
    wide("SoftmaxCrossEntropyLoss", 12, |c| {
        let x = c.tensor(0)?;
        if x.rank() < 2 {
            return Err(bad("the scores must have a class dimension"));
        }
        let log = softmax(x, 1, Form::Log)?;
        Ok(vec![Value::Tensor(nll(c, &log)?), Value::Tensor(log)])
    }),
];

/// The loss of log-probabilities [N, C, d…] against classes [N, d…].
fn nll(call: &Call<'_>, x: &Tensor) -> Result<Tensor> {
    let target = call.tensor(1)?;
    let refuse = || {
        bad("classes do not fit the scores")
            .expected(format!("{:?} without dimension 1", x.shape))
            .found(format!("{:?}", target.shape))
    };
    if x.rank() < 2
        || target.rank() + 1 != x.rank()
        || target.shape[0] != x.shape[0]
        || target.shape[1..] != x.shape[2..]
    {
        return Err(refuse());
    }
    let (classes, inner) = (x.shape[1], x.shape[2..].iter().product::<usize>());
    let ignored = call.attribute("ignore_index").map(|a| a.i);
    let weight = match call.optional(2)? {
        Some(w) if w.len() == classes => Some(w.to_f64s()?),
        Some(w) => return Err(bad("one weight per class is needed").expected(classes).found(w.len())),
        None => None,
    };
    let values = x.to_f64s()?;
    let mut losses = Vec::with_capacity(target.len());
    let mut weights = 0.0;
    for (i, class) in target.to_i64s()?.into_iter().enumerate() {
        if ignored == Some(class) {
            losses.push(0.0);
            continue;
        }
        let class = super::index::position(class, classes)?;
        let w = weight.as_ref().map_or(1.0, |w| w[class]);
        weights += w;
        losses.push(-values[(i / inner * classes + class) * inner + i % inner] * w);
    }
    let sum: f64 = losses.iter().sum();
    let (shape, data) = match call.text("reduction", "mean")?.as_str() {
        "none" => (target.shape.clone(), losses),
        "sum" => (Vec::new(), vec![sum]),
        "mean" => (Vec::new(), vec![sum / weights]),
        other => return Err(bad("reduction is wrong").expected("none, sum or mean").found(other)),
    };
    cast(&Tensor::new(shape, Data::F64(data))?, x.element())
}
