//! Order: ArgMax, ArgMin, TopK, Unique.

use super::call::{Call, Outcome, one};
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, Value, bad, count};
use crate::error::Result;
use std::cmp::Ordering;

pub(super) const OPERATORS: &[Operator] = &[
    native("ArgMax", 1, |c| arg(c, true)),
    native("ArgMin", 1, |c| arg(c, false)),
    native("TopK", 1, top_k),
    native("Unique", 11, unique),
];

/// Elements comparable in one order: floats by value, integers exactly.
enum Keys {
    Real(Vec<f64>),
    Whole(Vec<i64>),
    Big(Vec<u64>),
    Text(Vec<String>),
}

impl Keys {
    fn of(x: &Tensor) -> Result<Self> {
        Ok(match x.data() {
            Data::U64(v) => Keys::Big(v.clone()),
            Data::Str(v) => Keys::Text(v.clone()),
            _ if x.element().is_float() => Keys::Real(x.to_f64s()?),
            _ => Keys::Whole(x.to_i64s()?),
        })
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        match self {
            // NaN counts as the largest value, as NumPy sorts it.
            Keys::Real(v) => v[a].partial_cmp(&v[b]).unwrap_or_else(|| v[a].is_nan().cmp(&v[b].is_nan())),
            Keys::Whole(v) => v[a].cmp(&v[b]),
            Keys::Big(v) => v[a].cmp(&v[b]),
            Keys::Text(v) => v[a].cmp(&v[b]),
        }
    }
}

fn arg(call: &Call<'_>, largest: bool) -> Outcome {
    let x = call.tensor(0)?;
    let at = call.axis(0, x.rank())?;
    let n = x.shape[at];
    if n == 0 {
        return Err(bad("an empty axis has no extreme"));
    }
    let last = call.flag("select_last_index", false);
    let keys = Keys::of(x)?;
    let inner: usize = x.shape[at + 1..].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let mut out = Vec::with_capacity(outer * inner);
    for o in 0..outer {
        for i in 0..inner {
            let place = |k: usize| (o * n + k) * inner + i;
            let best = (1..n).fold(0, |best, k| {
                let order = keys.compare(place(k), place(best));
                let order = if largest { order } else { order.reverse() };
                if order.is_gt() || (order.is_eq() && last) { k } else { best }
            });
            out.push(best as i64);
        }
    }
    let mut shape = x.shape.clone();
    if call.flag("keepdims", true) {
        shape[at] = 1;
    } else {
        shape.remove(at);
    }
    one(Tensor::new(shape, Data::I64(out))?)
}

fn top_k(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let at = call.axis(-1, x.rank())?;
    let k = match call.optional(1)? {
        Some(k) => k.to_i64()?,
        None => call.int("k", 0),
    };
    let n = x.shape[at];
    let k = usize::try_from(k)
        .ok()
        .filter(|k| *k <= n)
        .ok_or_else(|| bad("k is out of range").expected(format!("0 to {n}")).found(k))?;
    let largest = call.flag("largest", true);
    let keys = Keys::of(x)?;
    let inner: usize = x.shape[at + 1..].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let mut shape = x.shape.clone();
    shape[at] = k;
    let total = count(&shape)?;
    let mut positions = vec![0usize; total];
    let mut indices = vec![0i64; total];
    for o in 0..outer {
        for i in 0..inner {
            let place = |p: usize| (o * n + p) * inner + i;
            let mut order: Vec<usize> = (0..n).collect();
            // Stable: of equal values the one with the lower index comes first.
            order.sort_by(|a, b| {
                let c = keys.compare(place(*a), place(*b));
                if largest { c.reverse() } else { c }
            });
            for (rank, p) in order.into_iter().take(k).enumerate() {
                let slot = (o * k + rank) * inner + i;
                positions[slot] = place(p);
                indices[slot] = p as i64;
            }
        }
    }
    Ok(vec![
        Value::Tensor(Tensor::new(shape.clone(), x.data().take(&positions))?),
        Value::Tensor(Tensor::new(shape, Data::I64(indices))?),
    ])
}

fn unique(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let (x, at) =
        if call.has("axis") { (x.clone(), call.axis(0, x.rank())?) } else { (x.reshaped([x.len()])?, 0) };
    let n = x.shape[at];
    let inner: usize = x.shape[at + 1..].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let keys = Keys::of(&x)?;
    // Slices along the axis, compared element by element.
    let compare = |a: usize, b: usize| {
        (0..outer)
            .flat_map(|o| (0..inner).map(move |i| (o, i)))
            .map(|(o, i)| keys.compare((o * n + a) * inner + i, (o * n + b) * inner + i))
            .find(|c| c.is_ne())
            .unwrap_or(Ordering::Equal)
    };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| compare(*a, *b));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for p in order {
        match groups.last_mut() {
            Some(group) if compare(group[0], p).is_eq() => group.push(p),
            _ => groups.push(vec![p]),
        }
    }
    if !call.flag("sorted", true) {
        groups.sort_by_key(|g| g[0]);
    }
    let firsts: Vec<i64> = groups.iter().map(|g| g[0] as i64).collect();
    let counts: Vec<i64> = groups.iter().map(|g| g.len() as i64).collect();
    let mut inverse = vec![0i64; n];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|p| inverse[*p] = number as i64);
    }
    let firsts = Tensor::i64s(firsts);
    Ok(vec![
        Value::Tensor(super::index::gather_axis(&x, &firsts, at)?),
        Value::Tensor(firsts),
        Value::Tensor(Tensor::i64s(inverse)),
        Value::Tensor(Tensor::i64s(counts)),
    ])
}
