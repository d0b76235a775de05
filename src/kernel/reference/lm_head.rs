//! The product with the vocabulary: kernel 19.

use super::array::{Arrays, Call};
use super::catalog::Kernel;
use super::gemm_catalog::arg;
use super::operand::{area, computed, expect_len, floats, matrix, required};
use super::shape::expect_shape;
use crate::dtype::Dtype;
use crate::error::Result;

/// Rows of the vocabulary whose sums run side by side: each sum has one order, so they cannot run in lanes of their own.
const TOGETHER: usize = 8;

/// `C[m,v] = Σ h·b` with exact products added in binary64, columns ascending, no FMA, rounded once to binary32. `h` and `b`
/// have rows of `width` BF16 values; `c` is `[rows of h, rows of b]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn lm_head(
    width: usize,
    [rows, vocabulary]: [usize; 2],
    h: &[f32],
    b: &[f32],
    c: &mut [f32],
) -> Result<()> {
    expect_len("H", h.len(), area("H", &[rows, width])?)?;
    expect_len("B", b.len(), area("B", &[vocabulary, width])?)?;
    expect_len("C", c.len(), area("C", &[rows, vocabulary])?)?;
    for first in (0..vocabulary).step_by(TOGETHER) {
        let count = TOGETHER.min(vocabulary - first);
        let b = &b[first * width..][..count * width];
        for row in 0..rows {
            let h = &h[row * width..][..width];
            let mut sums = [0.0f64; TOGETHER];
            for (k, x) in h.iter().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate().take(count) {
                    *sum += f64::from(*x) * f64::from(b[i * width + k]);
                }
            }
            for (c, sum) in c[row * vocabulary + first..][..count].iter_mut().zip(sums) {
                *c = sum as f32;
            }
        }
    }
    Ok(())
}

/// The kernels of this file.
pub const KERNELS: &[Kernel] = &[Kernel {
    name: "lm_head",
    semantics: "C[m,v] = Σ h·b: products exact in f64, added in f64 from +0, columns ascending, no FMA; RNE to f32.",
    inputs: &[arg("H", "bf16[M,H]"), arg("B", "bf16[V,H]")],
    outputs: &[arg("C", "f32[M,V]")],
    params: &[],
    run,
}];

fn run(call: &Call<'_>) -> Result<Arrays> {
    let h = required(call, "H", &[Dtype::BF16])?;
    let b = required(call, "B", &[Dtype::BF16])?;
    let [rows, width] = matrix("H", h)?;
    let [vocabulary, _] = matrix("B", b)?;
    expect_shape("B", b, &[vocabulary, width])?;
    let mut c = vec![0.0; area("C", &[rows, vocabulary])?];
    lm_head(width, [rows, vocabulary], &floats(h), &floats(b), &mut c)?;
    let c = computed("C", call.wanted("C", Dtype::F32), vec![rows, vocabulary], &c)?;
    Ok([("C".to_owned(), c)].into())
}
