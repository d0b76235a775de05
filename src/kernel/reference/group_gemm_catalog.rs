//! Kernels 4, 5 and the grouped product of 18 in the catalogue.

use super::array::{Array, Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::exact::Size;
use super::gemm::{self, FP8_BLOCK, MX_BLOCK};
use super::gemm_catalog::{
    W8A8_ORDER, arg, grid, maybe, mxfp4_block, result, size, vector, w8a8_order, zeros,
};
use super::group_gemm::{self, Dequant, Int4, expert_rows};
use super::hardware::{self, Order};
use super::operand::{
    FLOATS, area, choice, expect_grid, floats, int8, int64, is_packed, matrix, misfit, optional, required,
};
use crate::dtype::Dtype;
use crate::error::Result;

const C: &[Arg] = &[arg("C", "bf16|f16|f32[M,N]")];

/// The kernels 4 and 5.
pub(super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "gemm_w4a16_group",
        semantics: "w = f32(q − z)·f32(s), rounded to BF16 (dequant=bf16) or kept in f32; acc = +0; K ascending: acc = acc \
                    + f32(a·w) in f32; C = RNE(acc). Unsigned codes without z subtract 8; G = K / columns of s.",
        inputs: &[
            arg("A", "bf16[M,K]"),
            arg("B", "u4|s4[N,K/2]"),
            arg("s", "f16|bf16|f32[N,K/G]"),
            maybe("z", "u8[N,K/G], one zero point of 4 bits per byte"),
        ],
        outputs: C,
        params: &[Param { name: "dequant", values: "bf16 | f32", default: "\"bf16\"" }],
        run: w4a16_group,
    },
    Kernel {
        name: "gemm_w4a8_group",
        semantics: "acc = +0; per group, ascending: acc = acc + f32(exact integer sum)·sg in f32; then (acc·sc)·sx (acc·sx \
                    without sc); with bias acc = acc + bias in f32; C = RNE(acc).",
        inputs: &[
            arg("A", "s8[M,K]"),
            arg("sx", "f32[M]"),
            arg("B", "s4[N,K/2]"),
            arg("sg", "f32[N,K/G]"),
            maybe("sc", "f32[N]"),
            maybe("bias", "f32|bf16|f16[N]"),
        ],
        outputs: C,
        params: &[],
        run: w4a8_group,
    },
];

/// The grouped product of 18.
pub(super) const GROUPED: &[Kernel] = &[Kernel {
    name: "moe_grouped_gemm",
    semantics: "Rows offsets[e]..offsets[e+1] of A times expert e of B by gemm_fp8_block, gemm_w8a8 or gemm_fp8_mxfp4; all \
                other rows stay 0.",
    inputs: &[
        arg("A", "[R,K] as the base has it"),
        arg("sa", "as the base has it, for R rows"),
        arg("B", "[E,N,…] as the base has it"),
        arg("sb", "[E,…] as the base has it"),
        arg("offsets", "i64[E+1]"),
    ],
    outputs: &[arg("C", "bf16|f16|f32[R,N]")],
    params: &[
        Param { name: "base", values: "fp8_block | w8a8 | fp8_mxfp4", default: "\"fp8_block\"" },
        W8A8_ORDER,
    ],
    run: moe_grouped_gemm,
}];

/// The groups of a row from the scales of 4-bit weights.
fn groups(name: &str, scales: &Array, n: usize, k: usize) -> Result<usize> {
    let [rows, groups] = matrix(name, scales)?;
    if rows != n || (groups == 0 && k > 0) || (groups > 0 && !k.is_multiple_of(groups)) {
        return Err(misfit(name, format!("[{n}, groups that divide {k}]"), format!("{:?}", scales.shape)));
    }
    Ok(groups)
}

fn w4a16_group(call: &Call<'_>) -> Result<Arrays> {
    let dequant = choice(call, "dequant", &[("bf16", Dequant::Bf16), ("f32", Dequant::F32)])?;
    let a = required(call, "A", &[Dtype::BF16])?;
    let b = required(call, "B", &[Dtype::U4, Dtype::I4])?;
    let size = size(a, b)?;
    let s = required(call, "s", FLOATS)?;
    let groups = groups("s", s, size.n, size.k)?;
    let z = zero_points(call, [size.n, groups])?;
    let mut out = zeros(size)?;
    let scales = floats(s);
    let weights = Int4 { codes: &b.bytes, signed: b.dtype == Dtype::I4, scales: &scales, zeros: z, groups };
    group_gemm::w4a16_group(dequant, size, &floats(a), &weights, &mut out)?;
    result(call, size, &out)
}

/// Zero points of 4-bit codes, one per byte.
pub(super) fn zero_points<'a>(call: &Call<'a>, shape: [usize; 2]) -> Result<Option<&'a [u8]>> {
    let Some(z) = optional(call, "z", &[Dtype::U8])? else { return Ok(None) };
    expect_grid("z", z, shape)?;
    match z.bytes.iter().find(|z| **z > 15) {
        Some(large) => Err(misfit("z", "zero points of 4 bits", large)),
        None => Ok(Some(&z.bytes)),
    }
}

fn w4a8_group(call: &Call<'_>) -> Result<Arrays> {
    let a = required(call, "A", &[Dtype::I8])?;
    let b = required(call, "B", &[Dtype::I4])?;
    let size = size(a, b)?;
    let sx = grid(call, "sx", &[Dtype::F32], [size.m, 1])?;
    let sg = required(call, "sg", &[Dtype::F32])?;
    let groups = groups("sg", sg, size.n, size.k)?;
    let sc = vector(call, "sc", &[Dtype::F32], size.n)?;
    let bias = vector(call, "bias", FLOATS, size.n)?;
    let scales = floats(sg);
    let weights = Int4 { codes: &b.bytes, signed: true, scales: &scales, zeros: None, groups };
    let mut out = zeros(size)?;
    group_gemm::w4a8_group(size, int8(&a.bytes), &sx, &weights, sc.as_deref(), bias.as_deref(), &mut out)?;
    result(call, size, &out)
}

/// The product that every expert computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    Fp8Block,
    W8a8,
    Fp8Mxfp4,
}

fn moe_grouped_gemm(call: &Call<'_>) -> Result<Arrays> {
    let base = choice(
        call,
        "base",
        &[("fp8_block", Base::Fp8Block), ("w8a8", Base::W8a8), ("fp8_mxfp4", Base::Fp8Mxfp4)],
    )?;
    let (codes, weights, scales) = match base {
        Base::Fp8Block => (Dtype::F8E4M3, Dtype::F8E4M3, &[Dtype::F32, Dtype::F8E8M0][..]),
        Base::W8a8 => (Dtype::I8, Dtype::I8, &[Dtype::F32][..]),
        Base::Fp8Mxfp4 => (Dtype::F8E4M3, Dtype::F4E2M1, &[Dtype::F8E8M0][..]),
    };
    let a = required(call, "A", &[codes])?;
    let b = required(call, "B", &[weights])?;
    let [rows, k] = matrix("A", a)?;
    let [experts, n, stored] = b.shape[..] else {
        return Err(misfit("B", "three axes", format!("{:?}", b.shape)));
    };
    let packing = if is_packed(weights) { 2 } else { 1 };
    if stored.checked_mul(packing) != Some(k) {
        return Err(misfit("B", format!("{k} columns as A has"), format!("{:?}", b.shape)));
    }
    let offsets = required(call, "offsets", &[Dtype::I64])?;
    let ranges = expert_rows(&int64(offsets), rows)?;
    if ranges.len() != experts {
        return Err(misfit(
            "offsets",
            format!("[{}]", experts.saturating_add(1)),
            format!("{:?}", offsets.shape),
        ));
    }

    // Columns of the grids of scales; an expert's scales follow each other.
    let sa_array =
        required(call, "sa", &[Dtype::F32, Dtype::F8E8M0][..if base == Base::W8a8 { 1 } else { 2 }])?;
    let sa_block = match base {
        Base::Fp8Block => FP8_BLOCK,
        Base::W8a8 => k.max(1),
        Base::Fp8Mxfp4 => mxfp4_block(sa_array, [rows, k])?,
    };
    let sa_cols = if base == Base::W8a8 { 1 } else { k.div_ceil(sa_block) };
    expect_grid("sa", sa_array, [rows, sa_cols])?;
    let sb_array = required(call, "sb", scales)?;
    let [sb_rows, sb_cols] = match base {
        Base::Fp8Block => [n.div_ceil(FP8_BLOCK), k.div_ceil(FP8_BLOCK)],
        Base::W8a8 => [n, 1],
        Base::Fp8Mxfp4 => [n, k.div_ceil(MX_BLOCK)],
    };
    let fits = sb_array.shape == [experts, sb_rows, sb_cols]
        || (base == Base::W8a8 && sb_array.shape == [experts, sb_rows]);
    if !fits {
        let expected = format!("[{experts}, {sb_rows}, {sb_cols}]");
        return Err(misfit("sb", expected, format!("{:?}", sb_array.shape)));
    }
    let (sa, sb) = (floats(sa_array), floats(sb_array));
    let whole = Size { m: rows, n, k };
    let mut out = zeros(whole)?;
    let weight_bytes = area("B", &[n, stored])?;
    let (mode, order) = match base {
        Base::Fp8Block => (hardware::mode(call)?, hardware::scaling(call, Order::Joint)?),
        Base::Fp8Mxfp4 => (hardware::mode(call)?, hardware::scaling(call, Order::Successive)?),
        Base::W8a8 => (hardware::Mode::Exact, hardware::Scaling::new(w8a8_order(call)?)),
    };
    for (expert, range) in ranges.into_iter().enumerate() {
        let size = Size { m: range.len(), n, k };
        let a = &a.bytes[range.start * k..range.end * k];
        let sa = &sa[range.start * sa_cols..range.end * sa_cols];
        let b = &b.bytes[expert * weight_bytes..][..weight_bytes];
        let sb = &sb[expert * sb_rows * sb_cols..][..sb_rows * sb_cols];
        let out = &mut out[range.start * n..range.end * n];
        match base {
            Base::Fp8Block => gemm::fp8_block(&mode, order, size, a, sa, b, sb, out)?,
            Base::W8a8 => gemm::w8a8(order.order, size, int8(a), sa, int8(b), sb, None, out)?,
            Base::Fp8Mxfp4 => {
                gemm::mxfp4(&mode, order, size, Dtype::F8E4M3, sa_block, a, sa, b, sb, out)?;
            }
        }
    }
    result(call, whole, &out)
}
