//! Reductions over axes, CumSum and CumProd.

use super::call::{Call, Outcome, axes, axis, one};
use super::cast::cast;
use super::table::{Operator, native, wide};
use super::tensor::{Data, Tensor, bad};
use crate::error::Result;
use crate::onnx::element::Element;

pub(super) const OPERATORS: &[Operator] = &[
    wide("ReduceSum", 1, |c| reduce(c, Kind::Sum)),
    wide("ReduceMean", 1, |c| reduce(c, Kind::Mean)),
    wide("ReduceProd", 1, |c| reduce(c, Kind::Prod)),
    native("ReduceMax", 1, |c| reduce(c, Kind::Max)),
    native("ReduceMin", 1, |c| reduce(c, Kind::Min)),
    wide("ReduceL1", 1, |c| reduce(c, Kind::L1)),
    wide("ReduceL2", 1, |c| reduce(c, Kind::L2)),
    wide("ReduceSumSquare", 1, |c| reduce(c, Kind::SumSquare)),
    wide("ReduceLogSum", 1, |c| reduce(c, Kind::LogSum)),
    wide("ReduceLogSumExp", 1, |c| reduce(c, Kind::LogSumExp)),
    wide("CumSum", 11, |c| cumulate(c, false)),
    wide("CumProd", 26, |c| cumulate(c, true)),
];

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Sum,
    Mean,
    Prod,
    Max,
    Min,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

/// The reduction of one group of values. Sums of floats are kept in DOUBLE and rounded once at the end.
fn fold(kind: Kind, values: &[f64]) -> f64 {
    let sum = |f: &dyn Fn(f64) -> f64| values.iter().fold(0.0, |s, v| s + f(*v));
    match kind {
        Kind::Sum => sum(&|v| v),
        Kind::Mean => sum(&|v| v) / values.len() as f64,
        Kind::Prod => values.iter().product(),
        Kind::Max => values.iter().fold(f64::NEG_INFINITY, |m, v| if v.is_nan() || *v > m { *v } else { m }),
        Kind::Min => values.iter().fold(f64::INFINITY, |m, v| if v.is_nan() || *v < m { *v } else { m }),
        Kind::L1 => sum(&f64::abs),
        Kind::L2 => sum(&|v| v * v).sqrt(),
        Kind::SumSquare => sum(&|v| v * v),
        Kind::LogSum => sum(&|v| v).ln(),
        Kind::LogSumExp => {
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if most.is_infinite() { most } else { sum(&|v| (v - most).exp()).ln() + most }
        }
    }
}

/// The same for integers, modulo 2^64.
fn fold_integers(kind: Kind, values: &[i64], unsigned: bool, range: (i128, i128)) -> i64 {
    let sum = |f: &dyn Fn(i64) -> i64| values.iter().fold(0i64, |s, v| s.wrapping_add(f(*v)));
    let key = |v: i64| if unsigned { i128::from(v as u64) } else { i128::from(v) };
    match kind {
        Kind::Sum => sum(&|v| v),
        Kind::Prod => values.iter().fold(1i64, |p, v| p.wrapping_mul(*v)),
        Kind::Max => values.iter().copied().max_by_key(|v| key(*v)).unwrap_or(range.0 as i64),
        Kind::Min => values.iter().copied().min_by_key(|v| key(*v)).unwrap_or(range.1 as i64),
        Kind::L1 => sum(&i64::wrapping_abs),
        Kind::SumSquare => sum(&|v| v.wrapping_mul(v)),
        _ => fold(kind, &values.iter().map(|v| *v as f64).collect::<Vec<_>>()) as i64,
    }
}

/// A tensor reduced over axes (all of them for `None`).
pub(super) fn reduced(x: &Tensor, kind: Kind, which: Option<&[usize]>, keep: bool) -> Result<Tensor> {
    let over: Vec<usize> = which.map_or_else(|| (0..x.rank()).collect(), <[usize]>::to_vec);
    let stay: Vec<usize> = (0..x.rank()).filter(|d| !over.contains(d)).collect();
    let order: Vec<usize> = stay.iter().chain(&over).copied().collect();
    let sorted = if order.is_sorted() { x.clone() } else { x.transposed(&order)? };
    let group: usize = over.iter().map(|d| x.shape[*d]).product();
    let groups: usize = stay.iter().map(|d| x.shape[*d]).product();
    let shape: Vec<usize> = if keep {
        (0..x.rank()).map(|d| if over.contains(&d) { 1 } else { x.shape[d] }).collect()
    } else {
        stay.iter().map(|d| x.shape[*d]).collect()
    };
    let element = x.element();
    let data = if element.is_float() {
        let values = sorted.to_f64s()?;
        Data::F64((0..groups).map(|g| fold(kind, &values[g * group..(g + 1) * group])).collect())
    } else {
        let unsigned = element == Element::U64;
        let range = match element {
            Element::Bool => (0, 1),
            _ => element.integer_range().unwrap_or((i64::MIN.into(), i64::MAX.into())),
        };
        let values = sorted.to_i64s()?;
        let each = |g| fold_integers(kind, &values[g * group..(g + 1) * group], unsigned, range);
        Data::I64((0..groups).map(each).collect())
    };
    cast(&Tensor::new(shape, data)?, element)
}

fn reduce(call: &Call<'_>, kind: Kind) -> Outcome {
    let x = call.tensor(0)?;
    let given = call.ints_at("axes", 1)?.filter(|a| !a.is_empty());
    if given.is_none() && call.flag("noop_with_empty_axes", false) {
        // No axis: every element is a group of its own.
        return one(reduced(x, kind, Some(&[]), true)?);
    }
    let which = given.map(|a| axes(&a, x.rank())).transpose()?;
    one(reduced(x, kind, which.as_deref(), call.flag("keepdims", true))?)
}

fn cumulate(call: &Call<'_>, product: bool) -> Outcome {
    let x = call.tensor(0)?;
    let at = axis(call.tensor(1)?.to_i64()?, x.rank())?;
    let (exclusive, reverse) = (call.flag("exclusive", false), call.flag("reverse", false));
    let n = x.shape[at];
    let inner: usize = x.shape[at + 1..].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let place = |o: usize, k: usize, i: usize| {
        let k = if reverse { n - 1 - k } else { k };
        (o * n + k) * inner + i
    };
    macro_rules! run {
        ($values:expr, $start:expr, $f:expr) => {{
            let values = $values;
            let mut out = values.clone();
            for o in 0..outer {
                for i in 0..inner {
                    let mut acc = $start;
                    for k in 0..n {
                        let p = place(o, k, i);
                        let next = $f(acc, values[p]);
                        out[p] = if exclusive { acc } else { next };
                        acc = next;
                    }
                }
            }
            out
        }};
    }
    let data = if x.element().is_float() {
        let start = if product { 1.0 } else { 0.0 };
        Data::F64(run!(x.to_f64s()?, start, |a: f64, v: f64| if product { a * v } else { a + v }))
    } else if x.element().integer_range().is_some() {
        let start = i64::from(product);
        Data::I64(run!(x.to_i64s()?, start, |a: i64, v: i64| {
            if product { a.wrapping_mul(v) } else { a.wrapping_add(v) }
        }))
    } else {
        return Err(bad("an input has the wrong element type").found(x.element()));
    };
    one(cast(&Tensor::new(x.shape.clone(), data)?, x.element())?)
}
