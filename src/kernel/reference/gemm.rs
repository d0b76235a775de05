//! Block-scaled, per-channel and integer products: kernels 1 to 3 and 6 to 8 on slices.
//!
//! All are `C[m,n] = A[m,k]·B[n,k]ᵀ`, row-major. `out` gets the `f32` result `[m, n]`; rounding it further is the
//! caller's. K = 0 gives +0. NaNs propagate.

pub use super::exact::{Factor, Size};
use super::exact::{Product, int8_dots, product};
use super::hardware::{Mode, Order, Scaling};
use super::operand::{area, expect_len, is_packed, misfit};
use crate::dtype::Dtype;
use crate::error::Result;

/// Side of a block of scales of FP8 weights.
pub const FP8_BLOCK: usize = 128;
/// Elements under one scale of an MX format.
pub const MX_BLOCK: usize = 32;
/// Elements under one scale of NVFP4.
pub const NVFP4_BLOCK: usize = 16;

/// `gemm_fp8_block`: E4M3 codes with a scale per row and 128 columns of A and per 128×128 of B. Per block of K, ascending,
/// `acc = acc + d·(sa·sb)` from +0, `d` being the block's dot product by `mode`.
///
/// # Errors
/// Class Input for slices of another length or parameters of `mode` out of range.
#[expect(clippy::too_many_arguments, reason = "the kernel's arguments, by their names")]
pub fn fp8_block(
    mode: &Mode,
    scaling: Scaling,
    size: Size,
    a: &[u8],
    sa: &[f32],
    b: &[u8],
    sb: &[f32],
    out: &mut [f32],
) -> Result<()> {
    let a = Factor { dtype: Dtype::F8E4M3, codes: a, scales: sa, block: [1, FP8_BLOCK] };
    let b = Factor { dtype: Dtype::F8E4M3, codes: b, scales: sb, block: [FP8_BLOCK, FP8_BLOCK] };
    scaled(mode, scaling, size, FP8_BLOCK, [a, b], out)
}

/// `gemm_fp8_token_channel`: E4M3 codes with a scale per row of A and of B. `(d·sa)·sb` with one dot product over all of
/// K, and `+ bias` (`[n]`) in `f32` where there is one.
///
/// # Errors
/// Class Input for slices of another length or parameters of `mode` out of range.
#[expect(clippy::too_many_arguments, reason = "the kernel's arguments, by their names")]
pub fn fp8_token_channel(
    mode: &Mode,
    scaling: Scaling,
    size: Size,
    a: &[u8],
    sa: &[f32],
    b: &[u8],
    sb: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    let block = [1, size.k.max(1)];
    let a = Factor { dtype: Dtype::F8E4M3, codes: a, scales: sa, block };
    let b = Factor { dtype: Dtype::F8E4M3, codes: b, scales: sb, block };
    // With K = 0 there is a scale per row still, and no block that it applies to.
    let rows =
        |f: Factor<'_>, name, rows| if size.k == 0 { expect_len(name, f.scales.len(), rows) } else { Ok(()) };
    rows(a, "sa", size.m)?;
    rows(b, "sb", size.n)?;
    run(mode, scaling, size, block[1], [a, b], false, out)?;
    add_bias("bias", size, bias, out)
}

/// `gemm_mxfp8`: E4M3 or E5M2 codes with a scale per 32 columns on both sides, `acc = acc + d·(sa·sb)`.
///
/// # Errors
/// As [`fp8_block`], and for other formats.
#[expect(clippy::too_many_arguments, reason = "the kernel's arguments, by their names")]
pub fn mxfp8(
    mode: &Mode,
    scaling: Scaling,
    size: Size,
    dtypes: [Dtype; 2],
    a: &[u8],
    sa: &[f32],
    b: &[u8],
    sb: &[f32],
    out: &mut [f32],
) -> Result<()> {
    let block = [1, MX_BLOCK];
    let a = Factor { dtype: dtypes[0], codes: a, scales: sa, block };
    let b = Factor { dtype: dtypes[1], codes: b, scales: sb, block };
    scaled(mode, scaling, size, MX_BLOCK, [a, b], out)
}

/// `gemm_mxfp4` and `gemm_fp8_mxfp4`: A in E2M1 (packed) or E4M3 with a scale per `a_block` columns (32 or 128), B in
/// E2M1 with a scale per 32. Per 32, `acc = acc + (d·sa)·sb`.
///
/// # Errors
/// As [`fp8_block`], and for other formats or an odd K.
#[expect(clippy::too_many_arguments, reason = "the kernel's arguments, by their names")]
pub fn mxfp4(
    mode: &Mode,
    scaling: Scaling,
    size: Size,
    a_dtype: Dtype,
    a_block: usize,
    a: &[u8],
    sa: &[f32],
    b: &[u8],
    sb: &[f32],
    out: &mut [f32],
) -> Result<()> {
    let a = Factor { dtype: a_dtype, codes: a, scales: sa, block: [1, a_block] };
    let b = Factor { dtype: Dtype::F4E2M1, codes: b, scales: sb, block: [1, MX_BLOCK] };
    scaled(mode, scaling, size, MX_BLOCK, [a, b], out)
}

/// `gemm_nvfp4`: E2M1 codes with the values `sa`, `sb` of E4M3 scales per 16 columns and the globals `ga`, `gb`
/// (multipliers). Per 16, `acc = acc + d·(sa·sb)`; last `acc·(ga·gb)`.
///
/// # Errors
/// As [`fp8_block`], and for an odd K.
#[expect(clippy::too_many_arguments, reason = "the kernel's arguments, by their names")]
pub fn nvfp4(
    mode: &Mode,
    scaling: Scaling,
    size: Size,
    a: &[u8],
    sa: &[f32],
    ga: f32,
    b: &[u8],
    sb: &[f32],
    gb: f32,
    out: &mut [f32],
) -> Result<()> {
    let block = [1, NVFP4_BLOCK];
    let a = Factor { dtype: Dtype::F4E2M1, codes: a, scales: sa, block };
    let b = Factor { dtype: Dtype::F4E2M1, codes: b, scales: sb, block };
    scaled(mode, scaling, size, NVFP4_BLOCK, [a, b], out)?;
    if size.k > 0 {
        let g = ga * gb;
        out.iter_mut().for_each(|acc| *acc *= g);
    }
    Ok(())
}

/// Any product of scaled factors: per `block` elements of K, ascending, `acc = acc + d·sa·sb` from +0 in the order of
/// `scaling`, `d` being the dot product by `mode`. A scale must not change within a block of K.
///
/// # Errors
/// Class Input for slices of another length, formats other than E4M3, E5M2 and E2M1, an odd K of packed codes, or
/// parameters of `mode` out of range.
pub fn scaled(
    mode: &Mode,
    scaling: Scaling,
    size: Size,
    block: usize,
    factors: [Factor<'_>; 2],
    out: &mut [f32],
) -> Result<()> {
    run(mode, scaling, size, block, factors, true, out)
}

fn run(
    mode: &Mode,
    scaling: Scaling,
    size: Size,
    block: usize,
    [a, b]: [Factor<'_>; 2],
    accumulate: bool,
    out: &mut [f32],
) -> Result<()> {
    mode.check()?;
    check_factor(["A", "sa"], &a, size.m, size.k, block)?;
    check_factor(["B", "sb"], &b, size.n, size.k, block)?;
    expect_len("C", out.len(), area("C", &[size.m, size.n])?)?;
    product(&Product { size, a, b, block, accumulate, mode: *mode, scaling }, out);
    Ok(())
}

fn check_factor(names: [&str; 2], f: &Factor<'_>, rows: usize, k: usize, block: usize) -> Result<()> {
    if !matches!(f.dtype, Dtype::F8E4M3 | Dtype::F8E5M2 | Dtype::F4E2M1) {
        return Err(misfit(names[0], "F8_E4M3, F8_E5M2 or F4", f.dtype.golden_name()));
    }
    if is_packed(f.dtype) && !k.is_multiple_of(2) {
        return Err(misfit(names[0], "an even K, two codes to a byte", k));
    }
    if f.block.contains(&0) || block == 0 || (!f.block[1].is_multiple_of(block) && f.block[1] < k) {
        return Err(misfit(
            names[1],
            format!("blocks of a multiple of {block} columns"),
            format!("{:?}", f.block),
        ));
    }
    let elements = area(names[0], &[rows, k])?;
    expect_len(names[0], f.codes.len(), if is_packed(f.dtype) { elements / 2 } else { elements })?;
    if k == 0 {
        return Ok(());
    }
    let grid = rows.div_ceil(f.block[0]) * k.div_ceil(f.block[1]);
    expect_len(names[1], f.scales.len(), grid)
}

/// `gemm_w8a8`: exact integer sums, `+ bias` (`[n]`) in integers, rounded once to `f32`, then scaled per row of A (`sx`)
/// and of B (`sw`): `(acc·sx)·sw`, or `acc·(sx·sw)`. Sums beyond 32 bits do not wrap.
///
/// # Errors
/// Class Input for slices of another length.
#[expect(clippy::too_many_arguments, reason = "the kernel's arguments, by their names")]
pub fn w8a8(
    order: Order,
    size: Size,
    a: &[i8],
    sx: &[f32],
    b: &[i8],
    sw: &[f32],
    bias: Option<&[i32]>,
    out: &mut [f32],
) -> Result<()> {
    let Size { m, n, k } = size;
    expect_len("A", a.len(), area("A", &[m, k])?)?;
    expect_len("B", b.len(), area("B", &[n, k])?)?;
    expect_len("sx", sx.len(), m)?;
    expect_len("sw", sw.len(), n)?;
    expect_len("C", out.len(), area("C", &[m, n])?)?;
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), n)?;
    }
    let scaling = Scaling::new(order);
    int8_dots(size, a, b, |row, col, sum| {
        let acc = sum + bias.map_or(0, |bias| i64::from(bias[col]));
        out[row * n + col] = scaling.product(acc as f32, sx[row], sw[col]);
    });
    Ok(())
}

/// Adds `bias[n]` to every row.
pub(super) fn add_bias(name: &str, size: Size, bias: Option<&[f32]>, out: &mut [f32]) -> Result<()> {
    let Some(bias) = bias else { return Ok(()) };
    expect_len(name, bias.len(), size.n)?;
    for row in out.chunks_exact_mut(size.n.max(1)) {
        for (c, bias) in row.iter_mut().zip(bias) {
            *c += bias;
        }
    }
    Ok(())
}
