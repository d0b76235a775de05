//! Products of matrices: MatMul, Gemm, integer and quantized ones, determinants.
//!
//! A product sums over k in rising order, whatever the number of threads.

use super::binary::{Arithmetic, combine};
use super::call::{Call, Float, FloatsOf, Outcome, one};
use super::cast::cast;
use super::table::{Operator, wide};
use super::tensor::{Data, Tensor, bad, broadcast_shape, broadcast_steps, count};
use crate::error::Result;
use crate::onnx::element::Element;
use rayon::prelude::*;

pub(super) const OPERATORS: &[Operator] = &[
    wide("MatMul", 1, |c| one(matmul(c.tensor(0)?, c.tensor(1)?)?)),
    wide("Gemm", 1, gemm),
    wide("MatMulInteger", 10, matmul_integer),
    wide("QLinearMatMul", 10, qlinear),
    wide("Det", 11, det),
];

/// Rows of the result that share a read of `b`.
const ROWS: usize = 4;

/// Columns at a time: the rows of `b` and of the result stay in the cache.
const COLUMNS: usize = 512;

/// `c[m, n] += a[m, k] · b[k, n]`, all row-major.
pub(super) fn product<T: Float>(a: &[T], b: &[T], c: &mut [T], k: usize, n: usize) {
    if n == 0 || k == 0 || c.is_empty() {
        return;
    }
    let work = |(block, c): (usize, &mut [T])| {
        let a = &a[block * ROWS * k..];
        for start in (0..n).step_by(COLUMNS) {
            let end = (start + COLUMNS).min(n);
            let mut rows = c.chunks_mut(n).map(|row| &mut row[start..end]);
            if let (Some(c0), Some(c1), Some(c2), Some(c3)) =
                (rows.next(), rows.next(), rows.next(), rows.next())
            {
                for p in 0..k {
                    let b = &b[p * n + start..p * n + end];
                    let (a0, a1, a2, a3) = (a[p], a[k + p], a[2 * k + p], a[3 * k + p]);
                    let rows = c0.iter_mut().zip(c1.iter_mut()).zip(c2.iter_mut()).zip(c3.iter_mut());
                    for ((((c0, c1), c2), c3), b) in rows.zip(b) {
                        *c0 += a0 * *b;
                        *c1 += a1 * *b;
                        *c2 += a2 * *b;
                        *c3 += a3 * *b;
                    }
                }
                continue;
            }
            for (r, row) in c.chunks_mut(n).enumerate() {
                let row = &mut row[start..end];
                for p in 0..k {
                    let x = a[r * k + p];
                    row.iter_mut().zip(&b[p * n + start..p * n + end]).for_each(|(c, b)| *c += x * *b);
                }
            }
        }
    };
    if c.len() * k > 1 << 16 {
        c.par_chunks_mut(ROWS * n).enumerate().for_each(work);
    } else {
        c.chunks_mut(ROWS * n).enumerate().for_each(work);
    }
}

fn float_matmul<T: Float + FloatsOf>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (x, y) = (T::slice(a)?, T::slice(b)?);
    let refuse = || {
        bad("matrices do not fit")
            .expected(format!("{:?} times [.., k, n] with the same k", a.shape))
            .found(format!("{:?}", b.shape))
    };
    let mut left = a.shape.clone();
    let mut right = b.shape.clone();
    let (row, column) = (a.rank() == 1, b.rank() == 1);
    if row {
        left.insert(0, 1);
    }
    if column {
        right.push(1);
    }
    let (&[.., m, k], &[.., k2, n]) = (left.as_slice(), right.as_slice()) else {
        return Err(refuse());
    };
    if k != k2 {
        return Err(refuse());
    }
    let batch = broadcast_shape(&left[..left.len() - 2], &right[..right.len() - 2])?;
    let mut shape = batch.clone();
    shape.extend([m, n]);
    let total = count(&shape)?;
    let mut out = vec![T::default(); total];
    let steps_a = broadcast_steps(&left[..left.len() - 2], &batch)?;
    let steps_b = broadcast_steps(&right[..right.len() - 2], &batch)?;
    if total > 0 {
        // One matrix on the right for all: a single product of all rows.
        if right.len() == 2 || steps_b.iter().all(|s| *s == 0) && left[..left.len() - 2] == batch[..] {
            product(x, y, &mut out, k, n);
        } else {
            let mut wanted = batch.clone();
            wanted.push(1);
            let mut chunks = out.chunks_mut(m * n);
            let (mut sa, mut sb) = (steps_a, steps_b);
            sa.push(0);
            sb.push(0);
            super::binary::rows(&wanted, &[&sa, &sb], |starts| {
                if let Some(chunk) = chunks.next() {
                    product(&x[starts[0] * m * k..][..m * k], &y[starts[1] * k * n..][..k * n], chunk, k, n);
                }
            });
        }
    }
    if column {
        shape.pop();
    }
    if row {
        shape.remove(shape.len() - if column { 1 } else { 2 });
    }
    Tensor::new(shape, T::data(out))
}

/// The product of two tensors of matrices.
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match (a.element(), b.element()) {
        (Element::F32, Element::F32) => float_matmul::<f32>(a, b),
        (Element::F64, Element::F64) => float_matmul::<f64>(a, b),
        (x, y) if x == y && x.integer_range().is_some() => {
            // Exact in 32 × 32 bits; modulo 2^64 beyond.
            let (a, b) = (cast(a, Element::F64)?, cast(b, Element::F64)?);
            cast(&float_matmul::<f64>(&a, &b)?, x)
        }
        _ => Err(bad("the inputs must have one number type").expected(a.element()).found(b.element())),
    }
}

fn gemm(call: &Call<'_>) -> Outcome {
    let turned = |t: &Tensor, name: &str| -> Result<Tensor> {
        if t.rank() != 2 {
            return Err(bad("Gemm takes matrices").found(format!("{:?}", t.shape)));
        }
        if call.flag(name, false) { t.transposed(&[1, 0]) } else { Ok(t.clone()) }
    };
    let a = turned(call.tensor(0)?, "transA")?;
    let b = turned(call.tensor(1)?, "transB")?;
    let mut y = matmul(&a, &b)?;
    let scaled = |t: &Tensor, by: f32| -> Result<Tensor> {
        if by == 1.0 {
            return Ok(t.clone());
        }
        combine(t, &cast(&Tensor::scalar(Data::F32(vec![by]))?, t.element())?, Arithmetic::Mul)
    };
    y = scaled(&y, call.float("alpha", 1.0))?;
    if let Some(c) = call.optional(2)? {
        let shape = y.shape.clone();
        y = combine(&y, &scaled(c, call.float("beta", 1.0))?.broadcast_to(&shape)?, Arithmetic::Add)?;
    }
    one(y)
}

/// An integer tensor minus its zero point (one, or one per index of `at`), exact in DOUBLE.
pub(super) fn centred(x: &Tensor, zero: Option<&Tensor>, at: usize) -> Result<Tensor> {
    let wide = cast(x, Element::F64)?;
    let Some(zero) = zero else { return Ok(wide) };
    let zero = cast(zero, Element::F64)?;
    let zero = match zero.rank() {
        1 if zero.len() > 1 => {
            let mut shape = vec![1; x.rank()];
            *shape.get_mut(at).ok_or_else(|| bad("a zero point has no axis"))? = zero.len();
            zero.reshaped(shape)?
        }
        _ => zero,
    };
    combine(&wide, &zero, Arithmetic::Sub)
}

fn matmul_integer(call: &Call<'_>) -> Outcome {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    let a = centred(a, call.optional(2)?, a.rank().saturating_sub(2))?;
    let b = centred(b, call.optional(3)?, b.rank().saturating_sub(1))?;
    let y = matmul(&a, &b)?;
    one(wrapped_i32(&y)?)
}

/// Exact integers as INT32, modulo 2^32.
pub(super) fn wrapped_i32(y: &Tensor) -> Result<Tensor> {
    Tensor::new(y.shape.clone(), Data::I32(y.to_f64s()?.iter().map(|v| *v as i64 as i32).collect()))
}

/// A scale or zero point for one axis of a tensor of `rank` dimensions.
pub(super) fn along(t: &Tensor, at: usize, rank: usize) -> Result<Tensor> {
    if t.len() <= 1 {
        return t.reshaped(vec![1; t.len().min(1)]);
    }
    if t.rank() != 1 {
        return Ok(t.clone());
    }
    let mut shape = vec![1; rank];
    *shape.get_mut(at).ok_or_else(|| bad("a scale has no axis"))? = t.len();
    t.reshaped(shape)
}

/// Exact integer sums rescaled and quantized: saturate(RNE(sum · scale) + zero) in the zero point's type.
pub(super) fn requantize(sum: &Tensor, scale: &Tensor, zero: &Tensor) -> Result<Tensor> {
    let wide = combine(sum, scale, Arithmetic::Mul)?;
    let rounded = super::unary::mapped(&wide, &f64::round_ties_even)?;
    let shifted = combine(&rounded, &cast(zero, Element::F64)?, Arithmetic::Add)?;
    let (low, high) = zero.element().integer_range().ok_or_else(|| zero.wrong_type("an integer type"))?;
    let clamped = super::unary::mapped(&shifted, &|v| v.clamp(low as f64, high as f64))?;
    cast(&clamped, zero.element())
}

fn qlinear(call: &Call<'_>) -> Outcome {
    let (a, b) = (call.tensor(0)?, call.tensor(3)?);
    let sum = matmul(
        &centred(a, Some(call.tensor(2)?), a.rank().saturating_sub(2))?,
        &centred(b, Some(call.tensor(5)?), b.rank().saturating_sub(1))?,
    )?;
    let rank = sum.rank();
    let scale = |i: usize, at: usize| cast(&along(call.tensor(i)?, at, rank)?, Element::F64);
    let ab =
        combine(&scale(1, rank.saturating_sub(2))?, &scale(4, rank.saturating_sub(1))?, Arithmetic::Mul)?;
    let y_scale = scale(6, rank.saturating_sub(2))?;
    let y_zero = along(call.tensor(7)?, rank.saturating_sub(2), rank)?;
    let y = requantize(&sum, &combine(&ab, &y_scale, Arithmetic::Div)?, &y_zero)?;
    one(y.reshaped(sum.shape.clone())?)
}

fn det(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let [.., rows, n] = x.shape[..] else {
        return Err(bad("the input must be square matrices"));
    };
    if rows != n {
        return Err(bad("the input must be square matrices").found(format!("{:?}", x.shape)));
    }
    let batch = x.shape[..x.rank() - 2].to_vec();
    let values = x.to_f64s()?;
    let dets = (0..count(&batch)?).map(|b| determinant(values[b * n * n..(b + 1) * n * n].to_vec(), n));
    one(cast(&Tensor::new(batch, Data::F64(dets.collect()))?, x.element())?)
}

/// By elimination with row exchanges.
fn determinant(mut m: Vec<f64>, n: usize) -> f64 {
    let mut det = 1.0;
    for c in 0..n {
        let pivot = (c..n).max_by(|a, b| m[a * n + c].abs().total_cmp(&m[b * n + c].abs())).unwrap_or(c);
        if m[pivot * n + c] == 0.0 {
            return 0.0;
        }
        if pivot != c {
            (0..n).for_each(|j| m.swap(pivot * n + j, c * n + j));
            det = -det;
        }
        det *= m[c * n + c];
        for r in c + 1..n {
            let by = m[r * n + c] / m[c * n + c];
            (c..n).for_each(|j| m[r * n + j] -= by * m[c * n + j]);
        }
    }
    det
}
