//! Writing by index: ScatterElements, ScatterND, TensorScatter.

use super::binary::{Arithmetic, combine};
use super::call::{Call, Outcome, one};
use super::index::{block_positions, element_positions};
use super::table::{Operator, native, wide};
use super::tensor::{Tensor, bad};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[
    native("Scatter", 9, scatter_elements).until(10),
    wide("ScatterElements", 11, scatter_elements),
    wide("ScatterND", 11, scatter_nd),
    native("TensorScatter", 24, tensor_scatter),
];

/// `updates` written into `x` at flat positions, in order.
fn write(x: &Tensor, updates: &Tensor, positions: &[usize], reduction: &str) -> Result<Tensor> {
    if updates.element() != x.element() || updates.len() != positions.len() {
        return Err(bad("updates do not fit the data")
            .expected(format!("{} elements of {}", positions.len(), x.element()))
            .found(format!("{} elements of {}", updates.len(), updates.element())));
    }
    let op = match reduction {
        "none" => None,
        "add" => Some(Arithmetic::Add),
        "mul" => Some(Arithmetic::Mul),
        "max" => Some(Arithmetic::Max),
        "min" => Some(Arithmetic::Min),
        other => return Err(bad("reduction is wrong").expected("none, add, mul, max or min").found(other)),
    };
    let Some(op) = op else {
        // Later writes win: point at the last update of a position.
        let both = super::shape::concat(&[&x.reshaped([x.len()])?, &updates.reshaped([updates.len()])?], 0)?;
        let mut source: Vec<usize> = (0..x.len()).collect();
        for (i, p) in positions.iter().enumerate() {
            source[*p] = x.len() + i;
        }
        return Tensor::new(x.shape.clone(), both.data().take(&source));
    };
    // In rounds, so that a position appears at most once per round and updates apply in their order.
    let mut result = x.reshaped([x.len()])?;
    let mut seen = vec![0usize; x.len()];
    let mut rounds: Vec<Vec<(usize, usize)>> = Vec::new();
    for (i, p) in positions.iter().enumerate() {
        if rounds.len() == seen[*p] {
            rounds.push(Vec::new());
        }
        rounds[seen[*p]].push((i, *p));
        seen[*p] += 1;
    }
    if rounds.len() > 4096 {
        return Err(bad("too many updates of one position").expected("at most 4096").found(rounds.len()));
    }
    let flat = updates.reshaped([updates.len()])?;
    for round in rounds {
        let (from, to): (Vec<usize>, Vec<usize>) = round.into_iter().unzip();
        let old = Tensor::vector(result.data().take(&to));
        let new = combine(&old, &Tensor::vector(flat.data().take(&from)), op)?;
        result = write(&result, &new, &to, "none")?;
    }
    result.reshaped(x.shape.clone())
}

fn scatter_elements(call: &Call<'_>) -> Outcome {
    let (x, indices, updates) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let at = call.axis(0, x.rank())?;
    let positions = element_positions(x, indices, at)?;
    one(write(x, updates, &positions, &call.text("reduction", "none")?)?)
}

fn scatter_nd(call: &Call<'_>) -> Outcome {
    let (x, indices, updates) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let (starts, block) = block_positions(x, indices, 0)?;
    let positions: Vec<usize> = starts.into_iter().flat_map(|s| s..s + block).collect();
    one(write(x, updates, &positions, &call.text("reduction", "none")?)?)
}

/// Writes `update` into a cache along the sequence axis, from each batch entry's write position on.
fn tensor_scatter(call: &Call<'_>) -> Outcome {
    let (past, update) = (call.tensor(0)?, call.tensor(1)?);
    let at = call.axis(-2, past.rank())?;
    let fits = update.rank() == past.rank()
        && (0..past.rank()).all(|d| d == at || past.shape[d] == update.shape[d])
        && at > 0;
    if !fits {
        return Err(bad("the update does not fit the cache")
            .expected(format!("{:?} but for axis {at}", past.shape))
            .found(format!("{:?}", update.shape)));
    }
    let batch = past.shape[0];
    let starts = match call.optional(2)? {
        Some(t) => t.to_i64s()?,
        None => vec![0; batch],
    };
    if starts.len() != batch {
        return Err(bad("one write position per batch entry is needed").expected(batch).found(starts.len()));
    }
    let circular = match call.text("mode", "linear")?.as_str() {
        "linear" => false,
        "circular" => true,
        other => return Err(bad("mode is wrong").expected("linear or circular").found(other)),
    };
    let (n, len) = (past.shape[at], update.shape[at]);
    let inner: usize = past.shape[at + 1..].iter().product();
    let middle: usize = past.shape[1..at].iter().product();
    let mut positions = Vec::with_capacity(update.len());
    for (b, start) in starts.iter().enumerate() {
        for m in 0..middle {
            for s in 0..len {
                let p = start.saturating_add(s as i64);
                let p = if circular { p.rem_euclid(n.max(1) as i64) } else { p };
                let p = usize::try_from(p).ok().filter(|p| *p < n).ok_or_else(|| {
                    bad("a write position is beyond the cache").expected(format!("below {n}")).found(p)
                })?;
                let base = ((b * middle + m) * n + p) * inner;
                positions.extend(base..base + inner);
            }
        }
    }
    one(write(past, update, &positions, "none")?)
}
