//! Products with 4-bit weights in groups, and products per expert: kernels 4, 5 and 18 on slices.

use super::exact::Size;
use super::gemm::add_bias;
use super::operand::{area, expect_len, misfit};
use crate::dtype::codec::{bf16_from_f32, f32_from_bf16};
use crate::error::Result;
use std::ops::Range;

/// 4-bit weights `[rows, k]` with a scale per row and group of columns.
#[derive(Clone, Copy, Debug)]
pub struct Int4<'a> {
    /// Two to a byte along K, even column low: `[rows, k / 2]`.
    pub codes: &'a [u8],
    /// Whether codes are two's complement; unsigned ones without zero points stand for `code − 8`.
    pub signed: bool,
    /// `[rows, groups]`.
    pub scales: &'a [f32],
    /// Zero points, one per byte: `[rows, groups]`.
    pub zeros: Option<&'a [u8]>,
    /// Groups of a row; they divide K.
    pub groups: usize,
}

/// What a weight is rounded to before it is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dequant {
    /// To BF16.
    Bf16,
    /// Not at all: `f32`.
    F32,
}

impl Int4<'_> {
    /// Fails unless the slices fit `[rows, k]`.
    pub(super) fn check(&self, name: &str, rows: usize, k: usize) -> Result<()> {
        if !k.is_multiple_of(2) {
            return Err(misfit(name, "an even K, two codes to a byte", k));
        }
        if self.groups == 0 && k > 0 || self.groups > 0 && !k.is_multiple_of(self.groups) {
            return Err(misfit(name, format!("groups that divide K = {k}"), self.groups));
        }
        expect_len(name, self.codes.len(), area(name, &[rows, k / 2])?)?;
        let grid = area(name, &[rows, self.groups])?;
        expect_len("scale", self.scales.len(), grid)?;
        self.zeros.map_or(Ok(()), |zeros| expect_len("z", zeros.len(), grid))
    }

    /// The integers of `row` less their zero points.
    pub(super) fn integers(&self, row: usize, k: usize, out: &mut [i32]) {
        let group = k / self.groups.max(1);
        for (col, out) in out.iter_mut().enumerate() {
            let element = row * k + col;
            let code = i32::from(self.codes[element / 2] >> (element % 2 * 4) & 15);
            let code = if self.signed { (code ^ 8) - 8 } else { code };
            let zero = match self.zeros {
                Some(zeros) => i32::from(zeros[row * self.groups + col / group]),
                None if self.signed => 0,
                None => 8,
            };
            *out = code - zero;
        }
    }

    /// `f32(code − z)·scale` of `row`, one rounding.
    pub(super) fn values(&self, row: usize, k: usize, integers: &mut [i32], out: &mut [f32]) {
        self.integers(row, k, integers);
        let group = k / self.groups.max(1);
        for (col, (out, q)) in out.iter_mut().zip(integers).enumerate() {
            *out = *q as f32 * self.scales[row * self.groups + col / group];
        }
    }
}

/// `gemm_w4a16_group`: `w = f32(q − z)·s`, rounded to BF16 or kept, then `acc = acc + a·w` in `f32`, K ascending from +0.
/// `a` is `[m, k]` (values of BF16), `b` `[n, k]`, `out` `[m, n]`.
///
/// # Errors
/// Class Input for slices of another length.
pub fn w4a16_group(dequant: Dequant, size: Size, a: &[f32], b: &Int4<'_>, out: &mut [f32]) -> Result<()> {
    let Size { m, n, k } = size;
    expect_len("A", a.len(), area("A", &[m, k])?)?;
    b.check("B", n, k)?;
    expect_len("C", out.len(), area("C", &[m, n])?)?;
    let (mut integers, mut weights) = (vec![0i32; k], vec![0f32; k]);
    for col in 0..n {
        b.values(col, k, &mut integers, &mut weights);
        if dequant == Dequant::Bf16 {
            weights.iter_mut().for_each(|w| *w = f32_from_bf16(bf16_from_f32(*w)));
        }
        for row in 0..m {
            let products = a[row * k..][..k].iter().zip(&weights);
            out[row * n + col] = products.fold(0.0, |acc, (a, w)| acc + a * w);
        }
    }
    Ok(())
}

/// `gemm_w4a8_group`: per group `acc = acc + f32(i32)·sg` from +0, then `(acc·sc)·sx`, or `acc·sx` without `sc` (`[n]`),
/// and `+ bias` (`[n]`) in `f32` where there is one. `a` is `[m, k]` with `sx` `[m]`.
///
/// # Errors
/// Class Input for slices of another length.
pub fn w4a8_group(
    size: Size,
    a: &[i8],
    sx: &[f32],
    b: &Int4<'_>,
    sc: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    let Size { m, n, k } = size;
    expect_len("A", a.len(), area("A", &[m, k])?)?;
    expect_len("sx", sx.len(), m)?;
    b.check("B", n, k)?;
    if let Some(sc) = sc {
        expect_len("sc", sc.len(), n)?;
    }
    expect_len("C", out.len(), area("C", &[m, n])?)?;
    let group = (k / b.groups.max(1)).max(1);
    let mut weights = vec![0i32; k];
    for col in 0..n {
        b.integers(col, k, &mut weights);
        for row in 0..m {
            let a = &a[row * k..][..k];
            let mut acc = 0.0f32;
            for (index, (a, w)) in a.chunks(group).zip(weights.chunks(group)).enumerate() {
                let sum: i64 = a.iter().zip(w).map(|(a, w)| i64::from(i32::from(*a) * w)).sum();
                acc += sum as f32 * b.scales[col * b.groups + index];
            }
            let acc = sc.map_or(acc, |sc| acc * sc[col]);
            out[row * n + col] = acc * sx[row];
        }
    }
    add_bias("bias", size, bias, out)
}

/// The rows of every expert: `offsets[e]..offsets[e + 1]` of `rows` rows.
///
/// # Errors
/// Class Input for offsets that decrease, are negative or lead beyond `rows`.
pub fn expert_rows(offsets: &[i64], rows: usize) -> Result<Vec<Range<usize>>> {
    let bad = |found: &dyn std::fmt::Display| {
        misfit("offsets", format!("ascending offsets from 0 to {rows}, one more than experts"), found)
    };
    let ends: Vec<usize> = offsets
        .iter()
        .map(|o| usize::try_from(*o).ok().filter(|o| *o <= rows).ok_or_else(|| bad(o)))
        .collect::<Result<_>>()?;
    if ends.is_empty() {
        return Err(bad(&"none"));
    }
    ends.windows(2)
        .map(|w| if w[0] <= w[1] { Ok(w[0]..w[1]) } else { Err(bad(&format!("{} after {}", w[1], w[0]))) })
        .collect()
}
