//! Optimizers of the preview training domain: Adagrad, Adam, Momentum.

use super::call::{Call, Outcome};
use super::cast::cast;
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, Value, bad};
use crate::error::Result;

const TRAINING: &str = "ai.onnx.preview.training";

pub(super) const OPERATORS: &[Operator] = &[
    native("Adagrad", 1, adagrad).of(TRAINING),
    native("Adam", 1, adam).of(TRAINING),
    native("Momentum", 1, momentum).of(TRAINING),
];

/// What one update reads and writes: the weight, its gradient, and the states, all of one shape.
type Update<'a> = dyn Fn(f64, f64, &mut [f64]) -> f64 + 'a;

/// Runs an update over every weight: inputs are rate, step, then weights, gradients and each state in groups.
fn optimize(call: &Call<'_>, states: usize, update: &Update<'_>) -> Outcome {
    let groups = 2 + states;
    let n = call.inputs.len().saturating_sub(2) / groups;
    if n == 0 || call.inputs.len() != 2 + n * groups {
        return Err(bad("the number of inputs is wrong").found(call.inputs.len()));
    }
    let mut columns: Vec<Vec<Value>> = vec![Vec::new(); 1 + states];
    for i in 0..n {
        let input = |group: usize| call.tensor(2 + group * n + i);
        let x = input(0)?;
        let read = |group: usize| -> Result<Vec<f64>> {
            let t = input(group)?;
            if t.shape != x.shape {
                return Err(bad("a state does not fit its weight").found(format!("{:?}", t.shape)));
            }
            t.to_f64s()
        };
        let (mut weights, gradients) = (read(0)?, read(1)?);
        let mut own: Vec<Vec<f64>> = (2..groups).map(read).collect::<Result<_>>()?;
        for (k, (weight, gradient)) in weights.iter_mut().zip(gradients).enumerate() {
            let mut state: Vec<f64> = own.iter().map(|values| values[k]).collect();
            *weight = update(*weight, gradient, &mut state);
            own.iter_mut().zip(state).for_each(|(values, v)| values[k] = v);
        }
        for (column, values) in columns.iter_mut().zip(std::iter::once(weights).chain(own)) {
            let t = Tensor::new(x.shape.clone(), Data::F64(values))?;
            column.push(Value::Tensor(cast(&t, x.element())?));
        }
    }
    Ok(columns.into_iter().flatten().collect())
}

struct Settings {
    rate: f64,
    step: f64,
}

fn settings(call: &Call<'_>) -> Result<Settings> {
    Ok(Settings { rate: call.tensor(0)?.to_f64()?, step: call.tensor(1)?.to_f64()? })
}

fn real(call: &Call<'_>, name: &str, default: f32) -> f64 {
    f64::from(call.float(name, default))
}

fn adagrad(call: &Call<'_>) -> Outcome {
    let Settings { rate, step } = settings(call)?;
    let rate = rate / (1.0 + step * real(call, "decay_factor", 0.0));
    let (norm, epsilon) = (real(call, "norm_coefficient", 0.0), real(call, "epsilon", 0.0));
    optimize(call, 1, &|x, g, state| {
        let g = norm * x + g;
        state[0] += g * g;
        x - rate * g / (state[0].sqrt() + epsilon)
    })
}

fn adam(call: &Call<'_>) -> Outcome {
    let Settings { rate, step } = settings(call)?;
    let (alpha, beta) = (real(call, "alpha", 0.9), real(call, "beta", 0.999));
    let (norm, post) = (real(call, "norm_coefficient", 0.0), real(call, "norm_coefficient_post", 0.0));
    let epsilon = real(call, "epsilon", 0.0);
    let rate =
        if step > 0.0 { rate * (1.0 - beta.powf(step)).sqrt() / (1.0 - alpha.powf(step)) } else { rate };
    optimize(call, 2, &|x, g, state| {
        let g = norm * x + g;
        state[0] = alpha * state[0] + (1.0 - alpha) * g;
        state[1] = beta * state[1] + (1.0 - beta) * g * g;
        (1.0 - post) * (x - rate * state[0] / (state[1].sqrt() + epsilon))
    })
}

fn momentum(call: &Call<'_>) -> Outcome {
    let Settings { rate, step } = settings(call)?;
    let (alpha, norm) = (real(call, "alpha", 0.0), real(call, "norm_coefficient", 0.0));
    // The first step takes the whole gradient.
    let beta = if step > 0.0 { real(call, "beta", 0.0) } else { 1.0 };
    let nesterov = call.text("mode", "standard")? == "nesterov";
    optimize(call, 1, &|x, g, state| {
        let g = norm * x + g;
        state[0] = alpha * state[0] + beta * g;
        x - rate * if nesterov { g + alpha * state[0] } else { state[0] }
    })
}
