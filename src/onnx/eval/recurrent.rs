//! LSTM, GRU, RNN. Gate orders and formulas are those of the operator specifications.

use super::call::{Call, Outcome};
use super::table::{Operator, wide};
use super::tensor::{Data, Tensor, Value, bad, count};
use super::unary::{sigmoid, softplus};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[
    wide("RNN", 1, |c| run(c, Cell::Rnn)),
    wide("GRU", 1, |c| run(c, Cell::Gru)),
    wide("LSTM", 1, |c| run(c, Cell::Lstm)),
];

#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Rnn,
    Gru,
    Lstm,
}

/// An activation with its parameters.
struct Activation {
    name: String,
    alpha: f64,
    beta: f64,
}

impl Activation {
    fn apply(&self, x: f64) -> f64 {
        let (a, b) = (self.alpha, self.beta);
        match self.name.as_str() {
            "sigmoid" => sigmoid(x),
            "tanh" => x.tanh(),
            "relu" => x.max(0.0),
            "affine" => a * x + b,
            "leakyrelu" => {
                if x < 0.0 {
                    a * x
                } else {
                    x
                }
            }
            "thresholdedrelu" => {
                if x > a {
                    x
                } else {
                    0.0
                }
            }
            "scaledtanh" => a * (b * x).tanh(),
            "hardsigmoid" => (a * x + b).clamp(0.0, 1.0),
            "elu" => {
                if x < 0.0 {
                    a * x.exp_m1()
                } else {
                    x
                }
            }
            "softsign" => x / (1.0 + x.abs()),
            _ => softplus(x),
        }
    }
}

fn activations(call: &Call<'_>, defaults: &[&str], directions: usize) -> Result<Vec<Activation>> {
    let names = match call.texts("activations")? {
        Some(names) if !names.is_empty() => names,
        _ => defaults.iter().cycle().take(defaults.len() * directions).map(|s| (*s).to_owned()).collect(),
    };
    if names.len() != defaults.len() * directions {
        return Err(bad("the number of activations is wrong")
            .expected(defaults.len() * directions)
            .found(names.len()));
    }
    // Parameters are given in the order of the activations that take one.
    let mut alphas = call.floats("activation_alpha").unwrap_or(&[]).iter();
    let mut betas = call.floats("activation_beta").unwrap_or(&[]).iter();
    names
        .into_iter()
        .map(|name| {
            let name = name.to_ascii_lowercase();
            let (alpha, beta) = match name.as_str() {
                "sigmoid" | "tanh" | "relu" | "softsign" | "softplus" => (None, None),
                "affine" => (Some(1.0), Some(0.0)),
                "leakyrelu" => (Some(0.01), None),
                "thresholdedrelu" | "elu" => (Some(1.0), None),
                "scaledtanh" => (Some(1.0), Some(1.0)),
                "hardsigmoid" => (Some(0.2), Some(0.5)),
                other => return Err(bad("an activation is unknown").found(other)),
            };
            let alpha = alpha.map_or(0.0, |d: f64| alphas.next().map_or(d, |a| f64::from(*a)));
            let beta = beta.map_or(0.0, |d: f64| betas.next().map_or(d, |b| f64::from(*b)));
            Ok(Activation { name, alpha, beta })
        })
        .collect()
}

/// `out[r] += Σ m[r, k]·v[k]` for a row-major matrix.
fn add_product(m: &[f64], v: &[f64], out: &mut [f64]) {
    if v.is_empty() {
        return;
    }
    for (row, y) in m.chunks(v.len()).zip(out) {
        *y += row.iter().zip(v).map(|(a, b)| a * b).sum::<f64>();
    }
}

struct Weights<'a> {
    w: &'a [f64],
    r: &'a [f64],
    /// Input bias, then recurrent bias; empty for none.
    b: &'a [f64],
    /// Peepholes for input, output and forget gate; empty for none.
    p: &'a [f64],
}

fn run(call: &Call<'_>, cell: Cell) -> Outcome {
    let (gates, defaults): (usize, &[&str]) = match cell {
        Cell::Rnn => (1, &["Tanh"]),
        Cell::Gru => (3, &["Sigmoid", "Tanh"]),
        Cell::Lstm => (4, &["Sigmoid", "Tanh", "Tanh"]),
    };
    let (x, w, r) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let batch_first = call.flag("layout", false);
    let x = if batch_first && x.rank() == 3 { x.transposed(&[1, 0, 2])? } else { x.clone() };
    let refuse =
        |what: &str, found: &[usize]| bad(format!("{what} does not fit")).found(format!("{found:?}"));
    let [steps, batch, width] = x.shape[..] else { return Err(refuse("the input", &x.shape)) };
    let [directions, _, hidden] = r.shape[..] else { return Err(refuse("the recurrent weight", &r.shape)) };
    if w.shape != [directions, gates * hidden, width] || r.shape != [directions, gates * hidden, hidden] {
        return Err(refuse("the weight", &w.shape));
    }
    let direction = call.text("direction", "forward")?;
    if directions != if direction == "bidirectional" { 2 } else { 1 } {
        return Err(bad("the weights have another number of directions")
            .expected(&direction)
            .found(directions));
    }
    let activations = activations(call, defaults, directions)?;
    let clip = call.attribute("clip").map(|a| f64::from(a.f));
    let sized = |i: usize, shape: &[usize]| -> Result<Option<Vec<f64>>> {
        match call.optional(i)? {
            None => Ok(None),
            Some(t) if t.shape == shape => t.to_f64s().map(Some),
            Some(t) => Err(bad(format!("input {i} does not fit"))
                .expected(format!("{shape:?}"))
                .found(format!("{:?}", t.shape))),
        }
    };
    let bias = sized(3, &[directions, 2 * gates * hidden])?.unwrap_or_default();
    let lens = match call.optional(4)? {
        None => vec![steps; batch],
        Some(t) if t.len() == batch => {
            t.to_i64s()?.iter().map(|l| usize::try_from(*l).unwrap_or(0).min(steps)).collect()
        }
        Some(t) => return Err(refuse("sequence_lens", &t.shape)),
    };
    let state = |i: usize| -> Result<Vec<f64>> {
        let Some(t) = call.optional(i)? else { return Ok(vec![0.0; count(&[directions, batch, hidden])?]) };
        let t = if batch_first && t.rank() == 3 { t.transposed(&[1, 0, 2])? } else { t.clone() };
        if t.shape != [directions, batch, hidden] {
            return Err(refuse("an initial state", &t.shape));
        }
        t.to_f64s()
    };
    let mut h = state(5)?;
    let mut c = if cell == Cell::Lstm { state(6)? } else { Vec::new() };
    let peepholes = if cell == Cell::Lstm {
        sized(7, &[directions, 3 * hidden])?.unwrap_or_default()
    } else {
        Vec::new()
    };
    let (xs, ws, rs) = (x.to_f64s()?, w.to_f64s()?, r.to_f64s()?);
    let mut y = vec![0.0; count(&[steps, directions, batch, hidden])?];
    let step = Step { call, cell, hidden, clip };
    let part = |v: &'_ [f64], d: usize, n: usize| -> std::ops::Range<usize> {
        if v.is_empty() { 0..0 } else { d * n..(d + 1) * n }
    };
    for d in 0..directions {
        let backward = d == 1 || direction == "reverse";
        let weights = Weights {
            w: &ws[part(&ws, d, gates * hidden * width)],
            r: &rs[part(&rs, d, gates * hidden * hidden)],
            b: &bias[part(&bias, d, 2 * gates * hidden)],
            p: &peepholes[part(&peepholes, d, 3 * hidden)],
        };
        let own = &activations[d * defaults.len()..(d + 1) * defaults.len()];
        for (n, len) in lens.iter().enumerate() {
            let at = (d * batch + n) * hidden;
            for s in 0..*len {
                let t = if backward { len - 1 - s } else { s };
                let x = &xs[(t * batch + n) * width..][..width];
                let cell_state = c.get_mut(at..at + hidden);
                step.advance(x, &weights, own, &mut h[at..at + hidden], cell_state)?;
                y[((t * directions + d) * batch + n) * hidden..][..hidden]
                    .copy_from_slice(&h[at..at + hidden]);
            }
        }
    }
    let element = x.element();
    let tensor = |shape: Vec<usize>, v: Vec<f64>, order: &[usize]| -> Result<Value> {
        let t = Tensor::new(shape, Data::F64(v))?;
        let t = if batch_first { t.transposed(order)? } else { t };
        super::cast::cast(&t, element).map(Value::Tensor)
    };
    let mut outputs = vec![
        tensor(vec![steps, directions, batch, hidden], y, &[2, 0, 1, 3])?,
        tensor(vec![directions, batch, hidden], h, &[1, 0, 2])?,
    ];
    if cell == Cell::Lstm {
        outputs.push(tensor(vec![directions, batch, hidden], c, &[1, 0, 2])?);
    }
    Ok(outputs)
}

struct Step<'a> {
    call: &'a Call<'a>,
    cell: Cell,
    hidden: usize,
    clip: Option<f64>,
}

impl Step<'_> {
    fn clipped(&self, x: f64) -> f64 {
        self.clip.map_or(x, |c| x.clamp(-c.abs(), c.abs()))
    }

    /// One time step of one batch entry.
    fn advance(
        &self,
        x: &[f64],
        weights: &Weights<'_>,
        f: &[Activation],
        h: &mut [f64],
        c: Option<&mut [f64]>,
    ) -> Result<()> {
        let n = self.hidden;
        let rows = weights.w.len() / x.len().max(1);
        let rows = if x.is_empty() { weights.r.len() / n.max(1) } else { rows };
        let (bw, br) = weights.b.split_at(weights.b.len() / 2);
        let mut from_x = if bw.is_empty() { vec![0.0; rows] } else { bw.to_vec() };
        add_product(weights.w, x, &mut from_x);
        let mut from_h = if br.is_empty() { vec![0.0; rows] } else { br.to_vec() };
        add_product(weights.r, h, &mut from_h);
        match self.cell {
            Cell::Rnn => {
                for i in 0..n {
                    h[i] = f[0].apply(self.clipped(from_x[i] + from_h[i]));
                }
            }
            // Gates z, r, h.
            Cell::Gru => {
                let z: Vec<f64> = (0..n).map(|i| f[0].apply(self.clipped(from_x[i] + from_h[i]))).collect();
                let r: Vec<f64> =
                    (n..2 * n).map(|i| f[0].apply(self.clipped(from_x[i] + from_h[i]))).collect();
                let inner: Vec<f64> = if self.call.flag("linear_before_reset", false) {
                    (0..n).map(|i| from_x[2 * n + i] + r[i] * from_h[2 * n + i]).collect()
                } else {
                    let reset: Vec<f64> = h.iter().zip(&r).map(|(h, r)| h * r).collect();
                    let mut inner = from_x[2 * n..].to_vec();
                    if !br.is_empty() {
                        inner.iter_mut().zip(&br[2 * n..]).for_each(|(y, b)| *y += b);
                    }
                    add_product(&weights.r[2 * n * n..], &reset, &mut inner);
                    inner
                };
                for i in 0..n {
                    h[i] = (1.0 - z[i]) * f[1].apply(self.clipped(inner[i])) + z[i] * h[i];
                }
            }
            // Gates i, o, f, c; peepholes i, o, f.
            Cell::Lstm => {
                let c = c.ok_or_else(|| bad("an LSTM has no cell state"))?;
                let peephole = |k: usize, i: usize| weights.p.get(k * n + i).copied().unwrap_or(0.0);
                let coupled = self.call.flag("input_forget", false);
                for i in 0..n {
                    let gate = |k: usize| from_x[k * n + i] + from_h[k * n + i];
                    let input = f[0].apply(self.clipped(gate(0) + peephole(0, i) * c[i]));
                    let forget = if coupled {
                        1.0 - input
                    } else {
                        f[0].apply(self.clipped(gate(2) + peephole(2, i) * c[i]))
                    };
                    let fresh = f[1].apply(self.clipped(gate(3)));
                    c[i] = forget * c[i] + input * fresh;
                    let output = f[0].apply(self.clipped(gate(1) + peephole(1, i) * c[i]));
                    h[i] = output * f[2].apply(c[i]);
                }
            }
        }
        Ok(())
    }
}
