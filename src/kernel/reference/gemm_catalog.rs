//! Kernels 1 to 3 and 6 to 8 in the catalogue.

use super::array::{Array, Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::exact::Size;
use super::gemm::{self, FP8_BLOCK, MX_BLOCK, NVFP4_BLOCK};
use super::hardware::{self, Order};
use super::operand::{
    FLOATS, choice, computed, expect_grid, floats, int8, int32, matrix, misfit, optional, required,
};
use crate::dtype::Dtype;
use crate::error::Result;

const E8_OR_F32: &[Dtype] = &[Dtype::F32, Dtype::F8E8M0];

pub(super) const fn arg(name: &'static str, form: &'static str) -> Arg {
    Arg { name, optional: false, form }
}

pub(super) const fn maybe(name: &'static str, form: &'static str) -> Arg {
    Arg { name, optional: true, form }
}

/// The parameters of a kernel with modes, whose own order of scales is `order`.
const fn modes(order: &'static str) -> [Param; 7] {
    [
        Param { name: "mode", values: "R0 | R1 | R2", default: "\"R0\"" },
        Param { name: "order", values: "d*(sa*sb) | (d*sa)*sb", default: order },
        Param { name: "fma", values: "R2: false | true", default: "false" },
        Param { name: "mma_k", values: "R2: 1..=65536", default: "32" },
        Param { name: "fraction_bits", values: "R2: 0..=32", default: "13" },
        Param { name: "rounding", values: "R2: truncate | rne", default: "\"truncate\"" },
        Param {
            name: "promote_every",
            values: "R2: elements of K, 0 = never within a block",
            default: "128",
        },
    ]
}

const JOINT: &[Param] = &modes("\"d*(sa*sb)\"");
const SUCCESSIVE: &[Param] = &modes("\"(d*sa)*sb\"");
const C: &[Arg] = &[arg("C", "bf16|f16|f32[M,N]")];

/// The kernels 1 to 3.
pub(super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "gemm_fp8_block",
        semantics: "acc = +0; per block of 128 columns, ascending: d = the block's dot product (R0: exact, rounded once to \
                    f32; R1: f32 products and sums in sequence from +0; R2: the hardware model), acc = acc + d·(sa·sb) in \
                    f32; C = RNE(acc).",
        inputs: &[
            arg("A", "e4m3[M,K]"),
            arg("sa", "f32|e8[M,⌈K/128⌉]"),
            arg("B", "e4m3[N,K]"),
            arg("sb", "f32|e8[⌈N/128⌉,⌈K/128⌉]"),
        ],
        outputs: C,
        params: JOINT,
        run: fp8_block,
    },
    Kernel {
        name: "gemm_fp8_token_channel",
        semantics: "d = one dot product over all of K (by mode, as in gemm_fp8_block), acc = (d·sa)·sb in f32; with bias \
                    acc = acc + bias; C = RNE(acc).",
        inputs: &[
            arg("A", "e4m3[M,K]"),
            arg("sa", "f32[M]"),
            arg("B", "e4m3[N,K]"),
            arg("sb", "f32[N]"),
            maybe("bias", "f32|bf16|f16[N]"),
        ],
        outputs: C,
        params: SUCCESSIVE,
        run: fp8_token_channel,
    },
    Kernel {
        name: "gemm_w8a8",
        semantics: "acc = the exact integer sum, plus bias, in integers that do not wrap; rounded once to f32 (RNE), then \
                    (acc·sx)·sw or acc·(sx·sw) in f32; C = RNE.",
        inputs: &[
            arg("A", "s8[M,K]"),
            arg("sx", "f32[M]"),
            arg("B", "s8[N,K]"),
            arg("sw", "f32[N]"),
            maybe("bias", "s32[N]"),
        ],
        outputs: C,
        params: &[W8A8_ORDER],
        run: w8a8,
    },
];

/// The kernels 6 to 8.
pub(super) const MICROSCALED: &[Kernel] = &[
    Kernel {
        name: "gemm_mxfp8",
        semantics: "acc = +0; per block of 32 columns, ascending: d = the block's dot product (by mode, as in \
                    gemm_fp8_block; R0 is exact for E5M2 too), acc = acc + d·(sa·sb) in f32; C = RNE(acc).",
        inputs: &[
            arg("A", "e4m3|e5m2[M,K]"),
            arg("sa", "e8[M,⌈K/32⌉]"),
            arg("B", "e4m3|e5m2[N,K]"),
            arg("sb", "e8[N,⌈K/32⌉]"),
        ],
        outputs: C,
        params: JOINT,
        run: mxfp8,
    },
    Kernel {
        name: "gemm_mxfp4",
        semantics: "acc = +0; per block of 32 columns, ascending: d = the block's dot product (by mode, as in \
                    gemm_fp8_block), acc = acc + (d·sa)·sb in f32; C = RNE(acc). sa has a scale per 32 or per 128 columns.",
        inputs: MXFP4_INPUTS,
        outputs: C,
        params: SUCCESSIVE,
        run: mxfp4,
    },
    Kernel {
        name: "gemm_fp8_mxfp4",
        semantics: "As gemm_mxfp4, with E4M3 activations: acc = acc + (d·sa[k/4])·sb[k] where sa has a scale per 128 \
                    columns.",
        inputs: &[
            arg("A", "e4m3[M,K]"),
            arg("sa", "f32|e8[M,⌈K/128⌉] or [M,⌈K/32⌉]"),
            arg("B", "e2m1[N,K/2]"),
            arg("sb", "e8[N,⌈K/32⌉]"),
        ],
        outputs: C,
        params: SUCCESSIVE,
        run: fp8_mxfp4,
    },
    Kernel {
        name: "gemm_nvfp4",
        semantics: "acc = +0; per block of 16 columns, ascending: d = the block's dot product (by mode, as in \
                    gemm_fp8_block), acc = acc + d·(sa·sb) in f32; last acc·(ga·gb); C = RNE. The globals are multipliers.",
        inputs: &[
            arg("A", "e2m1[M,K/2]"),
            arg("sa", "e4m3[M,⌈K/16⌉]"),
            arg("ga", "f32[1]"),
            arg("B", "e2m1[N,K/2]"),
            arg("sb", "e4m3[N,⌈K/16⌉]"),
            arg("gb", "f32[1]"),
        ],
        outputs: C,
        params: JOINT,
        run: nvfp4,
    },
];

const MXFP4_INPUTS: &[Arg] = &[
    arg("A", "e2m1[M,K/2] or e4m3[M,K]"),
    arg("sa", "f32|e8[M,⌈K/32⌉] or [M,⌈K/128⌉]"),
    arg("B", "e2m1[N,K/2]"),
    arg("sb", "e8[N,⌈K/32⌉]"),
];

pub(super) const W8A8_ORDER: Param =
    Param { name: "order", values: "(acc*sx)*sw | acc*(sx*sw)", default: "\"(acc*sx)*sw\"" };

/// The sizes of the product of two matrices.
pub(super) fn size(a: &Array, b: &Array) -> Result<Size> {
    let ([m, k], [n, k_of_b]) = (matrix("A", a)?, matrix("B", b)?);
    if k == k_of_b { Ok(Size { m, n, k }) } else { Err(misfit("B", format!("{k} columns as A has"), k_of_b)) }
}

/// The result `C` in the format wanted.
pub(super) fn result(call: &Call<'_>, size: Size, values: &[f32]) -> Result<Arrays> {
    let c = computed("C", call.wanted("C", Dtype::BF16), vec![size.m, size.n], values)?;
    Ok([("C".to_owned(), c)].into())
}

/// A zeroed result.
pub(super) fn zeros(size: Size) -> Result<Vec<f32>> {
    Ok(vec![0.0; super::operand::area("C", &[size.m, size.n])?])
}

/// An argument with values on a grid.
pub(super) fn grid(call: &Call<'_>, name: &str, dtypes: &[Dtype], shape: [usize; 2]) -> Result<Vec<f32>> {
    let array = required(call, name, dtypes)?;
    expect_grid(name, array, shape)?;
    Ok(floats(array))
}

/// An optional argument with `len` values.
pub(super) fn vector(call: &Call<'_>, name: &str, dtypes: &[Dtype], len: usize) -> Result<Option<Vec<f32>>> {
    let Some(array) = optional(call, name, dtypes)? else { return Ok(None) };
    expect_grid(name, array, [len, 1])?;
    Ok(Some(floats(array)))
}

/// Columns per scale of `sa`: 32 or 128, by its shape.
pub(super) fn mxfp4_block(sa: &Array, [m, k]: [usize; 2]) -> Result<usize> {
    [MX_BLOCK, FP8_BLOCK]
        .into_iter()
        .find(|block| expect_grid("sa", sa, [m, k.div_ceil(*block)]).is_ok())
        .ok_or_else(|| {
            misfit(
                "sa",
                format!("[{m}, {}] or [{m}, {}]", k.div_ceil(MX_BLOCK), k.div_ceil(FP8_BLOCK)),
                format!("{:?}", sa.shape),
            )
        })
}

/// The parameter `order` of integer products.
pub(super) fn w8a8_order(call: &Call<'_>) -> Result<Order> {
    choice(call, "order", &[("(acc*sx)*sw", Order::Successive), ("acc*(sx*sw)", Order::Joint)])
}

fn fp8_block(call: &Call<'_>) -> Result<Arrays> {
    let (mode, scaling) = (hardware::mode(call)?, hardware::scaling(call, Order::Joint)?);
    let a = required(call, "A", &[Dtype::F8E4M3])?;
    let b = required(call, "B", &[Dtype::F8E4M3])?;
    let size = size(a, b)?;
    let blocks = size.k.div_ceil(FP8_BLOCK);
    let sa = grid(call, "sa", E8_OR_F32, [size.m, blocks])?;
    let sb = grid(call, "sb", E8_OR_F32, [size.n.div_ceil(FP8_BLOCK), blocks])?;
    let mut out = zeros(size)?;
    gemm::fp8_block(&mode, scaling, size, &a.bytes, &sa, &b.bytes, &sb, &mut out)?;
    result(call, size, &out)
}

fn fp8_token_channel(call: &Call<'_>) -> Result<Arrays> {
    let (mode, scaling) = (hardware::mode(call)?, hardware::scaling(call, Order::Successive)?);
    let a = required(call, "A", &[Dtype::F8E4M3])?;
    let b = required(call, "B", &[Dtype::F8E4M3])?;
    let size = size(a, b)?;
    let sa = grid(call, "sa", &[Dtype::F32], [size.m, 1])?;
    let sb = grid(call, "sb", &[Dtype::F32], [size.n, 1])?;
    let bias = vector(call, "bias", FLOATS, size.n)?;
    let mut out = zeros(size)?;
    let bias = bias.as_deref();
    gemm::fp8_token_channel(&mode, scaling, size, &a.bytes, &sa, &b.bytes, &sb, bias, &mut out)?;
    result(call, size, &out)
}

fn w8a8(call: &Call<'_>) -> Result<Arrays> {
    let order = w8a8_order(call)?;
    let a = required(call, "A", &[Dtype::I8])?;
    let b = required(call, "B", &[Dtype::I8])?;
    let size = size(a, b)?;
    let sx = grid(call, "sx", &[Dtype::F32], [size.m, 1])?;
    let sw = grid(call, "sw", &[Dtype::F32], [size.n, 1])?;
    let bias = match optional(call, "bias", &[Dtype::I32])? {
        Some(bias) => {
            expect_grid("bias", bias, [size.n, 1])?;
            Some(int32(bias))
        }
        None => None,
    };
    let mut out = zeros(size)?;
    gemm::w8a8(order, size, int8(&a.bytes), &sx, int8(&b.bytes), &sw, bias.as_deref(), &mut out)?;
    result(call, size, &out)
}

fn mxfp8(call: &Call<'_>) -> Result<Arrays> {
    let (mode, scaling) = (hardware::mode(call)?, hardware::scaling(call, Order::Joint)?);
    let a = required(call, "A", &[Dtype::F8E4M3, Dtype::F8E5M2])?;
    let b = required(call, "B", &[Dtype::F8E4M3, Dtype::F8E5M2])?;
    let size = size(a, b)?;
    let blocks = size.k.div_ceil(MX_BLOCK);
    let sa = grid(call, "sa", &[Dtype::F8E8M0], [size.m, blocks])?;
    let sb = grid(call, "sb", &[Dtype::F8E8M0], [size.n, blocks])?;
    let mut out = zeros(size)?;
    let dtypes = [a.dtype, b.dtype];
    gemm::mxfp8(&mode, scaling, size, dtypes, &a.bytes, &sa, &b.bytes, &sb, &mut out)?;
    result(call, size, &out)
}

fn mxfp4(call: &Call<'_>) -> Result<Arrays> {
    by_mxfp4(call, &[Dtype::F4E2M1, Dtype::F8E4M3])
}

fn fp8_mxfp4(call: &Call<'_>) -> Result<Arrays> {
    by_mxfp4(call, &[Dtype::F8E4M3])
}

fn by_mxfp4(call: &Call<'_>, activations: &[Dtype]) -> Result<Arrays> {
    let (mode, scaling) = (hardware::mode(call)?, hardware::scaling(call, Order::Successive)?);
    let a = required(call, "A", activations)?;
    let b = required(call, "B", &[Dtype::F4E2M1])?;
    let size = size(a, b)?;
    let sa = required(call, "sa", E8_OR_F32)?;
    let block = mxfp4_block(sa, [size.m, size.k])?;
    let sb = grid(call, "sb", &[Dtype::F8E8M0], [size.n, size.k.div_ceil(MX_BLOCK)])?;
    let mut out = zeros(size)?;
    let sa = floats(sa);
    gemm::mxfp4(&mode, scaling, size, a.dtype, block, &a.bytes, &sa, &b.bytes, &sb, &mut out)?;
    result(call, size, &out)
}

fn nvfp4(call: &Call<'_>) -> Result<Arrays> {
    let (mode, scaling) = (hardware::mode(call)?, hardware::scaling(call, Order::Joint)?);
    let a = required(call, "A", &[Dtype::F4E2M1])?;
    let b = required(call, "B", &[Dtype::F4E2M1])?;
    let size = size(a, b)?;
    let blocks = size.k.div_ceil(NVFP4_BLOCK);
    let sa = grid(call, "sa", &[Dtype::F8E4M3], [size.m, blocks])?;
    let sb = grid(call, "sb", &[Dtype::F8E4M3], [size.n, blocks])?;
    let [ga, gb] = [grid(call, "ga", &[Dtype::F32], [1, 1])?[0], grid(call, "gb", &[Dtype::F32], [1, 1])?[0]];
    let mut out = zeros(size)?;
    gemm::nvfp4(&mode, scaling, size, &a.bytes, &sa, ga, &b.bytes, &sb, gb, &mut out)?;
    result(call, size, &out)
}
