//! Reading by index: Gather and its kin, Compress, NonZero, OneHot.

use super::call::{Call, Outcome, axis, one};
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, bad, count, strides};
use crate::error::{Error, Result};

pub(super) const OPERATORS: &[Operator] = &[
    native("Gather", 1, gather),
    native("GatherElements", 11, gather_elements),
    native("GatherND", 11, gather_nd),
    native("Compress", 9, compress),
    native("NonZero", 9, non_zero),
    native("OneHot", 9, one_hot),
];

/// A possibly negative index below `n`.
pub(super) fn position(index: i64, n: usize) -> Result<usize> {
    let signed = if index < 0 { index.saturating_add(n as i64) } else { index };
    usize::try_from(signed).ok().filter(|i| *i < n).ok_or_else(|| out_of_range(index, n))
}

fn out_of_range(index: i64, n: usize) -> Error {
    bad("an index is out of range").expected(format!("-{n} to {}", n as i64 - 1)).found(index)
}

/// Elements `indices` of an axis.
pub(super) fn gather_axis(x: &Tensor, indices: &Tensor, at: usize) -> Result<Tensor> {
    let n = x.shape[at];
    let picks: Vec<usize> = indices.to_i64s()?.iter().map(|i| position(*i, n)).collect::<Result<_>>()?;
    let outer: usize = x.shape[..at].iter().product();
    let inner: usize = x.shape[at + 1..].iter().product();
    let mut shape = x.shape[..at].to_vec();
    shape.extend_from_slice(&indices.shape);
    shape.extend_from_slice(&x.shape[at + 1..]);
    let total = count(&shape)?;
    let mut positions = Vec::with_capacity(total);
    for o in 0..outer {
        for pick in &picks {
            let start = (o * n + pick) * inner;
            positions.extend(start..start + inner);
        }
    }
    Tensor::new(shape, x.data().take(&positions))
}

fn gather(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    one(gather_axis(x, call.tensor(1)?, call.axis(0, x.rank())?)?)
}

fn gather_elements(call: &Call<'_>) -> Outcome {
    let (x, indices) = (call.tensor(0)?, call.tensor(1)?);
    let at = call.axis(0, x.rank())?;
    let positions = element_positions(x, indices, at)?;
    one(Tensor::new(indices.shape.clone(), x.data().take(&positions))?)
}

/// Flat positions in `x` of the elements that `indices` names along an axis.
pub(super) fn element_positions(x: &Tensor, indices: &Tensor, at: usize) -> Result<Vec<usize>> {
    let fits = indices.rank() == x.rank() && (0..x.rank()).all(|d| d == at || indices.shape[d] <= x.shape[d]);
    if !fits {
        return Err(bad("indices do not fit the data")
            .expected(format!("{:?} but for axis {at}", x.shape))
            .found(format!("{:?}", indices.shape)));
    }
    let (from, to) = (strides(&x.shape), strides(&indices.shape));
    indices
        .to_i64s()?
        .iter()
        .enumerate()
        .map(|(i, index)| {
            let rest: usize =
                (0..x.rank()).filter(|d| *d != at).map(|d| i / to[d] % indices.shape[d] * from[d]).sum();
            Ok(rest + position(*index, x.shape[at])? * from[at])
        })
        .collect()
}

/// For index vectors in the last dimension of `indices`: the flat start of each addressed block of `x`, and its length.
pub(super) fn block_positions(x: &Tensor, indices: &Tensor, batch: usize) -> Result<(Vec<usize>, usize)> {
    let (Some(depth), true) = (indices.shape.last().copied(), indices.rank() > batch) else {
        return Err(bad("indices must have one dimension more than the batch"));
    };
    if depth + batch > x.rank() || x.shape[..batch] != indices.shape[..batch] {
        return Err(bad("indices do not fit the data")
            .expected(format!("at most {} numbers per index", x.rank() - batch.min(x.rank())))
            .found(depth));
    }
    let steps = strides(&x.shape);
    let block: usize = x.shape[batch + depth..].iter().product();
    let values = indices.to_i64s()?;
    let vectors: usize = indices.shape[..indices.rank() - 1].iter().product();
    let per_batch: usize = indices.shape[batch..indices.rank() - 1].iter().product();
    let batch_step: usize = x.shape[batch..].iter().product();
    let starts = (0..vectors)
        .map(|v| {
            let base = if batch == 0 { 0 } else { v / per_batch.max(1) * batch_step };
            (0..depth).try_fold(base, |sum, d| {
                Ok(sum + position(values[v * depth + d], x.shape[batch + d])? * steps[batch + d])
            })
        })
        .collect::<Result<_>>()?;
    Ok((starts, block))
}

fn gather_nd(call: &Call<'_>) -> Outcome {
    let (x, indices) = (call.tensor(0)?, call.tensor(1)?);
    let batch = usize::try_from(call.int("batch_dims", 0)).unwrap_or(usize::MAX);
    if batch >= x.rank() || batch >= indices.rank() {
        return Err(bad("batch_dims is out of range").found(batch));
    }
    let (starts, block) = block_positions(x, indices, batch)?;
    let depth = indices.shape.last().copied().unwrap_or(0);
    let mut shape = indices.shape[..indices.rank() - 1].to_vec();
    shape.extend_from_slice(&x.shape[batch + depth..]);
    count(&shape)?;
    let positions: Vec<usize> = starts.into_iter().flat_map(|s| s..s + block).collect();
    one(Tensor::new(shape, x.data().take(&positions))?)
}

fn compress(call: &Call<'_>) -> Outcome {
    let (x, keep) = (call.tensor(0)?, call.tensor(1)?.bools()?);
    let (x, at) =
        if call.has("axis") { (x.clone(), call.axis(0, x.rank())?) } else { (x.reshaped([x.len()])?, 0) };
    let picks: Vec<i64> = keep.iter().enumerate().filter(|(_, k)| **k).map(|(i, _)| i as i64).collect();
    one(gather_axis(&x, &Tensor::i64s(picks), at)?)
}

fn non_zero(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let flags: Vec<bool> = match x.data() {
        Data::Str(v) => v.iter().map(|t| !t.is_empty()).collect(),
        _ => x.to_f64s()?.iter().map(|v| *v != 0.0).collect(),
    };
    let hits: Vec<usize> = flags.iter().enumerate().filter(|(_, f)| **f).map(|(i, _)| i).collect();
    let steps = strides(&x.shape);
    let rows = (0..x.rank())
        .flat_map(|d| hits.iter().map(|i| (i / steps[d] % x.shape[d]) as i64).collect::<Vec<_>>());
    one(Tensor::new([x.rank(), hits.len()], Data::I64(rows.collect()))?)
}

fn one_hot(call: &Call<'_>) -> Outcome {
    let (indices, depth, values) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let depth = depth.to_f64s()?.first().copied().unwrap_or(0.0);
    let depth = count(&[depth.max(0.0) as usize])?;
    if values.len() != 2 {
        return Err(bad("values must be the off and the on value").found(values.len()));
    }
    let rank = indices.rank() + 1;
    let at = axis(call.int("axis", -1), rank)?;
    let mut shape = indices.shape.clone();
    shape.insert(at, depth);
    let total = count(&shape)?;
    let inner: usize = shape[at + 1..].iter().product();
    let mut picks = vec![0usize; total];
    for (i, index) in indices.to_f64s()?.iter().enumerate() {
        let index = *index as i64;
        let index = if index < 0 { index + depth as i64 } else { index };
        if let Some(index) = usize::try_from(index).ok().filter(|i| *i < depth) {
            picks[(i / inner * depth + index) * inner + i % inner] = 1;
        }
    }
    one(Tensor::new(shape, values.data().take(&picks))?)
}
