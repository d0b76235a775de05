//! The weighted sum of experts' results per token: the second of kernels 18.

use super::array::{Arrays, Call};
use super::catalog::Kernel;
use super::gemm_catalog::arg;
use super::operand::{area, computed, expect_len, floats, int64, matrix, misfit, required};
use super::shape::expect_shape;
use crate::dtype::Dtype;
use crate::error::Result;

/// `acc = +0`; `k` ascending: `acc = acc + x[row[t,k]]·weights[t,k]`, product and sum rounded to binary32. `x` has rows of
/// `width`; `row` and `weights` are `[tokens, topk]`, `y` `[tokens, width]`, which the caller rounds to BF16.
///
/// # Errors
/// Class Input for lengths that do not fit and row numbers without a row.
pub fn moe_combine(
    width: usize,
    topk: usize,
    x: &[f32],
    row: &[i64],
    weights: &[f32],
    y: &mut [f32],
) -> Result<()> {
    let rows = x.len().checked_div(width).unwrap_or(0);
    let tokens = y.len().checked_div(width).unwrap_or(0);
    expect_len("x", x.len(), rows * width)?;
    expect_len("y", y.len(), tokens * width)?;
    if width == 0 {
        return Ok(());
    }
    expect_len("row", row.len(), area("row", &[tokens, topk])?)?;
    expect_len("weights", weights.len(), row.len())?;
    y.fill(0.0);
    for (token, y) in y.chunks_exact_mut(width).enumerate() {
        let range = token * topk..(token + 1) * topk;
        for (row, weight) in row[range.clone()].iter().zip(&weights[range]) {
            let at = usize::try_from(*row).ok().filter(|row| *row < rows);
            let at = at.ok_or_else(|| misfit("row", format!("row numbers below {rows}"), row))?;
            for (y, x) in y.iter_mut().zip(&x[at * width..]) {
                *y += x * weight;
            }
        }
    }
    Ok(())
}

/// The kernels of this file.
pub const KERNELS: &[Kernel] = &[Kernel {
    name: "moe_combine",
    semantics: "acc = +0; k ascending: acc = acc + x[row[t,k]]·w[t,k], product and sum rounded to f32; RNE to BF16.",
    inputs: &[arg("x", "bf16[R,H]"), arg("row", "i64[T,topk]"), arg("weights", "f32[T,topk]")],
    outputs: &[arg("y", "bf16[T,H]")],
    params: &[],
    run,
}];

fn run(call: &Call<'_>) -> Result<Arrays> {
    let x = required(call, "x", &[Dtype::BF16])?;
    let row = required(call, "row", &[Dtype::I64])?;
    let weights = required(call, "weights", &[Dtype::F32])?;
    let [_, width] = matrix("x", x)?;
    let [tokens, topk] = matrix("row", row)?;
    expect_shape("weights", weights, &[tokens, topk])?;
    let mut y = vec![0.0; area("y", &[tokens, width])?];
    moe_combine(width, topk, &floats(x), &int64(row), &floats(weights), &mut y)?;
    let y = computed("y", call.wanted("y", Dtype::BF16), vec![tokens, width], &y)?;
    Ok([("y".to_owned(), y)].into())
}
