//! Values of codes: kernels 9.
//!
//! `f32(code − z)·f32(scale)`, then `·g`, one rounding each; then the rounding of the output's format.

use super::array::{Array, Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::gemm_catalog::{arg, maybe};
use super::group_gemm::Int4;
use super::group_gemm_catalog::zero_points;
use super::operand::{
    SCALES, area, block, computed, decoded, expect_grid, expect_len, floats, is_packed, matrix, misfit,
    optional, required, whole_axes,
};
use crate::dtype::Dtype;
use crate::error::Result;

/// Multiplies `values` (of codes, row-major `[rows, cols]`) by the scales of their blocks, `[⌈rows / block[0]⌉,
/// ⌈cols / block[1]⌉]`, in place: one rounding to `f32` each. Zeros in `block` stand for the whole axis.
///
/// # Errors
/// Class Input for slices of another length.
pub fn scale_blocks(values: &mut [f32], shape: [usize; 2], block: [usize; 2], scales: &[f32]) -> Result<()> {
    let [rows, cols] = shape;
    expect_len("codes", values.len(), area("codes", &[rows, cols])?)?;
    let [block_rows, block_cols] = whole_axes(block, shape);
    let per_row = cols.div_ceil(block_cols);
    expect_len("scale", scales.len(), rows.div_ceil(block_rows) * per_row)?;
    for (row, values) in values.chunks_exact_mut(cols.max(1)).enumerate() {
        let scales = &scales[row / block_rows * per_row..][..per_row];
        for (values, scale) in values.chunks_mut(block_cols).zip(scales) {
            values.iter_mut().for_each(|x| *x *= scale);
        }
    }
    Ok(())
}

/// Values of 4-bit integers in groups, `f32(code − z)·scale`; `out` is `[rows, k]`.
///
/// # Errors
/// Class Input for slices of another length.
pub fn int4_group(weights: &Int4<'_>, [rows, k]: [usize; 2], out: &mut [f32]) -> Result<()> {
    weights.check("codes", rows, k)?;
    expect_len("y", out.len(), area("y", &[rows, k])?)?;
    let mut integers = vec![0; k];
    for (row, out) in out.chunks_exact_mut(k.max(1)).enumerate() {
        weights.values(row, k, &mut integers, out);
    }
    Ok(())
}

const Y: &[Arg] = &[arg("y", "f32|bf16|f16, the shape of the codes")];
const G: Arg = maybe("g", "f32[1]");
const TABLE: &str = "The value of every code, exact, then RNE to the output's format; a NaN keeps its sign.";
const SCALED: &str = "y = f32(code − z)·f32(scale) in f32, with g (f32(code − z)·f32(scale))·g; then RNE to the output's format.";

const fn block_param(default: &'static str) -> Param {
    Param { name: "block", values: "[rows, cols] that share a scale, 0 = the whole axis", default }
}

macro_rules! table {
    ($name:literal, $form:literal, $dtype:ident) => {
        Kernel {
            name: $name,
            semantics: TABLE,
            inputs: &[arg("codes", $form)],
            outputs: Y,
            params: &[],
            run: |call| by_table(call, Dtype::$dtype),
        }
    };
}

macro_rules! scaled {
    ($name:literal, $codes:literal, $scale:literal, $default:literal, $block:expr, $dtypes:expr) => {
        Kernel {
            name: $name,
            semantics: SCALED,
            inputs: &[arg("codes", $codes), arg("scale", $scale), maybe("z", "s8|u8, the grid of scale"), G],
            outputs: Y,
            params: &[block_param($default)],
            run: |call| by_block(call, $block, $dtypes),
        }
    };
}

const FP8: &[Dtype] = &[Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F8E4M3Fnuz, Dtype::F8E5M2Fnuz];
const MXFP8: &[Dtype] = &[Dtype::F8E4M3, Dtype::F8E5M2];

/// The kernels of this file, in order.
pub(super) const KERNELS: &[Kernel] = &[
    table!("dequant_e4m3", "e4m3[…]", F8E4M3),
    table!("dequant_e5m2", "e5m2[…]", F8E5M2),
    table!("dequant_e4m3fnuz", "e4m3fnuz[…]", F8E4M3Fnuz),
    table!("dequant_e2m1", "e2m1[…,K/2]", F4E2M1),
    table!("dequant_e8m0", "e8[…]", F8E8M0),
    table!("dequant_bf16", "bf16[…]", BF16),
    scaled!("dequant_fp8_block", "e4m3|e5m2|fnuz[N,K]", "f32|bf16|f16|e8 grid", "[128,128]", [128, 128], FP8),
    scaled!("dequant_fp8_channel", "e4m3|e5m2|fnuz[N,K]", "f32|bf16|f16|e8[N]", "[1,0]", [1, 0], FP8),
    scaled!("dequant_int8_channel", "s8[N,K]", "f32|bf16|f16|e8[N]", "[1,0]", [1, 0], &[Dtype::I8]),
    scaled!("dequant_int8_block", "s8[N,K]", "f32|bf16|f16|e8 grid", "[128,128]", [128, 128], &[Dtype::I8]),
    Kernel {
        name: "dequant_int4_group",
        semantics: "y = f32(code − z)·f32(scale) in f32, then RNE to the output's format. Unsigned codes without z subtract \
                    8; G = K / columns of scale.",
        inputs: &[
            arg("codes", "u4|s4[N,K/2]"),
            arg("scale", "f32|bf16|f16|e8[N,K/G]"),
            maybe("z", "u8[N,K/G], one zero point of 4 bits per byte"),
            G,
        ],
        outputs: Y,
        params: &[],
        run: by_group,
    },
    scaled!("dequant_mxfp8", "e4m3|e5m2[N,K]", "e8[N,⌈K/32⌉]", "[1,32]", [1, 32], MXFP8),
    scaled!("dequant_mxfp4", "e2m1[N,K/2]", "e8[N,⌈K/32⌉]", "[1,32]", [1, 32], &[Dtype::F4E2M1]),
    scaled!("dequant_nvfp4", "e2m1[N,K/2]", "e4m3[N,⌈K/16⌉]", "[1,16]", [1, 16], &[Dtype::F4E2M1]),
];

/// The shape of the values of codes.
fn value_shape(codes: &Array) -> Result<Vec<usize>> {
    let mut shape = codes.shape.clone();
    if is_packed(codes.dtype) {
        let last = shape
            .last_mut()
            .ok_or_else(|| misfit("codes", "an axis along which codes are packed", "none"))?;
        *last = last.checked_mul(2).ok_or_else(|| misfit("codes", "codes that fit memory", *last))?;
    }
    Ok(shape)
}

fn y(array: Array) -> Arrays {
    [("y".to_owned(), array)].into()
}

fn by_table(call: &Call<'_>, dtype: Dtype) -> Result<Arrays> {
    let codes = required(call, "codes", &[dtype])?;
    let shape = value_shape(codes)?;
    Ok(y(decoded("y", call.wanted("y", Dtype::F32), shape, &floats(codes))?))
}

/// The values of an optional global multiplier.
fn global(call: &Call<'_>) -> Result<Option<f32>> {
    let Some(g) = optional(call, "g", &[Dtype::F32])? else { return Ok(None) };
    expect_len("g", g.elements(), 1)?;
    Ok(Some(floats(g)[0]))
}

fn by_block(call: &Call<'_>, default: [usize; 2], dtypes: &[Dtype]) -> Result<Arrays> {
    let codes = required(call, "codes", dtypes)?;
    let shape = matrix("codes", codes)?;
    let block = block(call, default)?;
    let [block_rows, block_cols] = whole_axes(block, shape);
    let grid = [shape[0].div_ceil(block_rows), shape[1].div_ceil(block_cols)];
    // E4M3 scales are NVFP4's.
    let scale = required(call, "scale", &[SCALES, &[Dtype::F8E4M3]].concat())?;
    expect_grid("scale", scale, grid)?;
    let mut values = floats(codes);
    if let Some(z) = optional(call, "z", &[Dtype::I8, Dtype::U8])? {
        expect_grid("z", z, grid)?;
        let z = floats(z);
        for (index, x) in values.iter_mut().enumerate() {
            let (row, col) = (index / shape[1], index % shape[1]);
            *x -= z[row / block_rows * grid[1] + col / block_cols];
        }
    }
    scale_blocks(&mut values, shape, block, &floats(scale))?;
    finish(call, shape, values)
}

fn by_group(call: &Call<'_>) -> Result<Arrays> {
    let codes = required(call, "codes", &[Dtype::U4, Dtype::I4])?;
    let [rows, k] = matrix("codes", codes)?;
    let scale = required(call, "scale", SCALES)?;
    let [scale_rows, groups] = matrix("scale", scale)?;
    if scale_rows != rows {
        return Err(misfit("scale", format!("{rows} rows"), scale_rows));
    }
    let zeros = zero_points(call, [rows, groups])?;
    let scales = floats(scale);
    let weights =
        Int4 { codes: &codes.bytes, signed: codes.dtype == Dtype::I4, scales: &scales, zeros, groups };
    let mut values = vec![0.0; area("y", &[rows, k])?];
    int4_group(&weights, [rows, k], &mut values)?;
    finish(call, [rows, k], values)
}

fn finish(call: &Call<'_>, shape: [usize; 2], mut values: Vec<f32>) -> Result<Arrays> {
    if let Some(g) = global(call)? {
        values.iter_mut().for_each(|x| *x *= g);
    }
    Ok(y(computed("y", call.wanted("y", Dtype::F32), shape.to_vec(), &values)?))
}
