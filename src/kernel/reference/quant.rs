//! Quantizers by recipe: kernels 10.
//!
//! A recipe is a floor, a scale, an order of operations and an encoding. All arithmetic is `f32` with one rounding per
//! operation. Every block sees its own elements only, ragged ones included.

use super::array::{Array, Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::gemm::NVFP4_BLOCK;
use super::gemm_catalog::{arg, maybe};
use super::operand::{
    FLOATS, area, bad_param, block, expect_len, floats, matrix, misfit, optional, pack, required, whole_axes,
};
use crate::dtype::Dtype;
use crate::dtype::codec::{e4m3_from_f32_clamped, e8m0_from_pow2, encode_saturating, f32_from_e4m3};
use crate::error::Result;

/// A quantizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// DeepSeek-V3.2: floor 1e-4, `s = amax·f32(1/448)`, `e4m3(clamp(x/s))`.
    DsFp8F32Mul,
    /// DeepSeek-V3.2 with `scale_fmt`, and V4: as before with `s` rounded up to a power of two.
    DsFp8Ue8m0,
    /// DeepGEMM: floor 1e-4, `s = amax/448`, `e4m3(x·(1/s))` without a clamp.
    DgFp8F32,
    /// DeepGEMM with UE8M0: as before with `s` rounded up to a power of two, exponent code 1..=254.
    DgFp8Ue8m0,
    /// TileKernels: floor 1e-4, `s = amax/448`, `e4m3(clamp(x·(448/amax)))`.
    TkFp8F32,
    /// vLLM per group: floor 1e-10, `s = amax/448`, `e4m3(clamp(x/s))`.
    VllmFp8Group,
    /// vLLM per token, older: `s = max(amax/448, 1/(448·512))`, `e4m3(clamp(x·(1/s)))`.
    VllmFp8Token,
    /// vLLM per token, newer: the same scale, `e4m3(clamp(x/s))`.
    VllmFp8TokenDiv,
    /// DeepSeek-V4: floor 6·2^-126, `s` = `amax·f32(1/6)` rounded up to a power of two, `e2m1(clamp(x/s, ±6))`, ties to
    /// even, the sign of zero kept.
    MxFp4Ds,
    /// DeepGEMM: floor 1e-4, `s` = `amax/6` rounded up to a power of two, `x·(1/s)`, ties to the smaller magnitude, no −0.
    MxFp4Dg,
    /// Per token: floor 1e-4, `s = amax/127`, `clamp(RNE(x/s))`.
    Int8Token,
}

impl Recipe {
    /// Every recipe with its name.
    pub const ALL: [(&'static str, Recipe); 11] = [
        ("ds_fp8_f32_mul", Recipe::DsFp8F32Mul),
        ("ds_fp8_ue8m0", Recipe::DsFp8Ue8m0),
        ("dg_fp8_f32", Recipe::DgFp8F32),
        ("dg_fp8_ue8m0", Recipe::DgFp8Ue8m0),
        ("tk_fp8_f32", Recipe::TkFp8F32),
        ("vllm_fp8_group", Recipe::VllmFp8Group),
        ("vllm_fp8_token", Recipe::VllmFp8Token),
        ("vllm_fp8_token_div", Recipe::VllmFp8TokenDiv),
        ("mx_fp4_ds", Recipe::MxFp4Ds),
        ("mx_fp4_dg", Recipe::MxFp4Dg),
        ("int8_token", Recipe::Int8Token),
    ];

    /// The recipe of a name.
    pub fn from_name(name: &str) -> Option<Recipe> {
        Self::ALL.into_iter().find(|(n, _)| *n == name).map(|(_, recipe)| recipe)
    }

    /// The format of the codes.
    pub fn codes(self) -> Dtype {
        match self {
            Recipe::MxFp4Ds | Recipe::MxFp4Dg => Dtype::F4E2M1,
            Recipe::Int8Token => Dtype::I8,
            _ => Dtype::F8E4M3,
        }
    }

    /// The format of the scales: E8M0 for recipes whose scales are powers of two (`f32` holds those too), else F32.
    pub fn scales(self) -> Dtype {
        match self {
            Recipe::DsFp8Ue8m0 | Recipe::DgFp8Ue8m0 | Recipe::MxFp4Ds | Recipe::MxFp4Dg => Dtype::F8E8M0,
            _ => Dtype::F32,
        }
    }

    /// Rows and columns that share a scale by default; 0 is the whole axis.
    pub fn block(self) -> [usize; 2] {
        match self {
            Recipe::MxFp4Ds | Recipe::MxFp4Dg => [1, 32],
            Recipe::VllmFp8Token | Recipe::VllmFp8TokenDiv | Recipe::Int8Token => [1, 0],
            _ => [1, 128],
        }
    }

    /// The floored largest magnitude and the scale of a block.
    pub fn scale(self, amax: f32) -> [f32; 2] {
        let floor = match self {
            Recipe::VllmFp8Group => 1e-10,
            Recipe::VllmFp8Token | Recipe::VllmFp8TokenDiv => 0.0,
            // 6·2^-126.
            Recipe::MxFp4Ds => 6.0 * f32::MIN_POSITIVE,
            _ => 1e-4,
        };
        let amax = amax.max(floor);
        let scale = match self {
            Recipe::DsFp8F32Mul => amax * (1.0 / 448.0),
            Recipe::DsFp8Ue8m0 => power_of_two_up(amax * (1.0 / 448.0)),
            Recipe::DgFp8F32 | Recipe::TkFp8F32 | Recipe::VllmFp8Group => amax / 448.0,
            Recipe::DgFp8Ue8m0 => power_of_two_up(amax / 448.0),
            Recipe::VllmFp8Token | Recipe::VllmFp8TokenDiv => (amax / 448.0).max(1.0 / (448.0 * 512.0)),
            Recipe::MxFp4Ds => power_of_two_up(amax * (1.0 / 6.0)),
            Recipe::MxFp4Dg => power_of_two_up(amax / 6.0),
            Recipe::Int8Token => amax / 127.0,
        };
        [amax, scale]
    }

    /// The code of `x` in a block with the floored maximum `amax` and that scale.
    pub fn encode(self, x: f32, [amax, scale]: [f32; 2]) -> u8 {
        let e4m3 = |y: f32| e4m3_from_f32_clamped(y.clamp(-448.0, 448.0));
        match self {
            Recipe::DsFp8F32Mul | Recipe::DsFp8Ue8m0 | Recipe::VllmFp8Group | Recipe::VllmFp8TokenDiv => {
                e4m3(x / scale)
            }
            Recipe::DgFp8F32 | Recipe::DgFp8Ue8m0 => e4m3_from_f32_clamped(x * (1.0 / scale)),
            Recipe::TkFp8F32 => e4m3(x * (448.0 / amax)),
            Recipe::VllmFp8Token => e4m3(x * (1.0 / scale)),
            Recipe::MxFp4Ds => encode_saturating(Dtype::F4E2M1, x / scale) as u8,
            Recipe::MxFp4Dg => e2m1_ties_down(x * (1.0 / scale)),
            // The cast saturates, and a NaN gives 0.
            Recipe::Int8Token => (x / scale).round_ties_even().clamp(-128.0, 127.0) as i8 as u8,
        }
    }
}

/// The smallest power of two that is not below `x`, its exponent code within 1..=254.
fn power_of_two_up(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xFF) + u32::from(bits & 0x7F_FFFF != 0);
    f32::from_bits(exponent.clamp(1, 254) << 23)
}

/// E2M1 where every midpoint goes to the smaller magnitude and zero has no sign.
fn e2m1_ties_down(y: f32) -> u8 {
    let magnitude =
        [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0].iter().filter(|mid| y.abs() > **mid).count() as u8;
    if magnitude != 0 && y < 0.0 { magnitude | 8 } else { magnitude }
}

/// Quantizes `x`, row-major `[rows, cols]`. `block` is rows and columns that share a scale, 0 for the whole axis; `codes`
/// gets one byte per element (4-bit codes too), `scales` the grid `[⌈rows / block[0]⌉, ⌈cols / block[1]⌉]` as `f32`.
///
/// # Errors
/// Class Input for slices of another length.
pub fn quantize(
    recipe: Recipe,
    x: &[f32],
    shape: [usize; 2],
    block: [usize; 2],
    codes: &mut [u8],
    scales: &mut [f32],
) -> Result<()> {
    let [rows, cols] = shape;
    expect_len("x", x.len(), area("x", &[rows, cols])?)?;
    expect_len("codes", codes.len(), x.len())?;
    let [block_rows, block_cols] = whole_axes(block, shape);
    let grid = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
    expect_len("scale", scales.len(), grid[0] * grid[1])?;
    for (index, scale) in scales.iter_mut().enumerate() {
        let first_row = index / grid[1] * block_rows;
        let first_col = index % grid[1] * block_cols;
        let columns = first_col..first_col.saturating_add(block_cols).min(cols);
        let lines = first_row..first_row.saturating_add(block_rows).min(rows);
        let amax = lines
            .clone()
            .flat_map(|row| &x[row * cols..][columns.clone()])
            .fold(0.0f32, |amax, x| amax.max(x.abs()));
        let unit = recipe.scale(amax);
        *scale = unit[1];
        for row in lines {
            let range = row * cols + columns.start..row * cols + columns.end;
            for (code, x) in codes[range.clone()].iter_mut().zip(&x[range]) {
                *code = recipe.encode(*x, unit);
            }
        }
    }
    Ok(())
}

/// Quantizes `x`, row-major `[rows, cols]`, to NVFP4: `codes` gets one byte per element, `scales` E4M3 codes
/// `[rows, ⌈cols / 16⌉]`. Returns the global multiplier: `g`, or `amax/(6·448)`, or 1 where all of `x` is zero.
///
/// Per 16: `t = amax/(6·g)`, 0 becomes 1, clamped to `[2^-9, 448]` and cast; `y = x/(scale·g)`; the code is
/// `e2m1(min(|y|, 6))`, ties to even, with the sign of `y < 0`.
///
/// # Errors
/// Class Input for slices of another length, and for a `g` that is not positive and finite.
pub fn nvfp4(
    x: &[f32],
    [rows, cols]: [usize; 2],
    g: Option<f32>,
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<f32> {
    expect_len("x", x.len(), area("x", &[rows, cols])?)?;
    expect_len("codes", codes.len(), x.len())?;
    expect_len("scale", scales.len(), rows * cols.div_ceil(NVFP4_BLOCK))?;
    let largest = |x: &[f32]| x.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
    let g = match g {
        Some(g) if g > 0.0 && g.is_finite() => g,
        Some(g) => return Err(misfit("g", "a positive finite multiplier", g)),
        // The quotient of a tiny maximum may be zero too.
        None => match largest(x) / (6.0 * 448.0) {
            0.0 => 1.0,
            g => g,
        },
    };
    let blocks = x.chunks(cols.max(1)).flat_map(|row| row.chunks(NVFP4_BLOCK));
    let outs = codes.chunks_mut(cols.max(1)).flat_map(|row| row.chunks_mut(NVFP4_BLOCK));
    for ((x, codes), scale) in blocks.zip(outs).zip(scales) {
        let t = match largest(x) / (6.0 * g) {
            0.0 => 1.0,
            t => t,
        };
        *scale = e4m3_from_f32_clamped(t.clamp(0.001_953_125, 448.0));
        let unit = f32_from_e4m3(*scale) * g;
        for (code, x) in codes.iter_mut().zip(x) {
            let y = x / unit;
            let sign = if y < 0.0 { 8 } else { 0 };
            *code = encode_saturating(Dtype::F4E2M1, y.abs()) as u8 & 7 | sign;
        }
    }
    Ok(g)
}

const X: &[Arg] = &[arg("x", "bf16|f32[M,K]")];
const E4M3_F32: &[Arg] = &[arg("codes", "e4m3[M,K]"), arg("scale", "f32 grid")];
const E4M3_E8: &[Arg] = &[arg("codes", "e4m3[M,K]"), arg("scale", "e8|f32 grid")];
const E2M1_E8: &[Arg] = &[arg("codes", "e2m1[M,K/2]"), arg("scale", "e8|f32 grid")];
const INT8_F32: &[Arg] = &[arg("codes", "s8[M,K]"), arg("scale", "f32 grid")];

const fn block_param(default: &'static str) -> Param {
    Param { name: "block", values: "[rows, cols], 0 = the whole axis", default }
}

const GROUP: &[Param] = &[block_param("[1,128]")];
const MX: &[Param] = &[block_param("[1,32]")];
const TOKEN: &[Param] = &[block_param("[1,0]")];

macro_rules! kernel {
    ($name:literal, $recipe:ident, $outputs:ident, $params:ident, $semantics:literal) => {
        Kernel {
            name: $name,
            semantics: $semantics,
            inputs: X,
            outputs: $outputs,
            params: $params,
            run: |call| run(call, Recipe::$recipe),
        }
    };
}

/// The kernels of this file, in order.
pub(super) const KERNELS: &[Kernel] = &[
    kernel!(
        "quant_ds_fp8_f32_mul",
        DsFp8F32Mul,
        E4M3_F32,
        GROUP,
        "Per block: amax = max(max|x|, 1e-4); s = amax·f32(1/448); code = e4m3(clamp(x/s, ±448)), RNE."
    ),
    kernel!(
        "quant_ds_fp8_ue8m0",
        DsFp8Ue8m0,
        E4M3_E8,
        GROUP,
        "Per block: amax = max(max|x|, 1e-4); t = amax·f32(1/448); e = exponent field of t, plus 1 if its mantissa is not 0; \
         s = 2^(e−127); code = e4m3(clamp(x/s, ±448)), RNE."
    ),
    kernel!(
        "quant_dg_fp8_f32",
        DgFp8F32,
        E4M3_F32,
        GROUP,
        "Per block: amax = max(max|x|, 1e-4); s = amax/448; code = e4m3(x·(1/s)), RNE, no clamp."
    ),
    kernel!(
        "quant_dg_fp8_ue8m0",
        DgFp8Ue8m0,
        E4M3_E8,
        GROUP,
        "Per block: amax = max(max|x|, 1e-4); t = amax/448; e = exponent field of t, plus 1 if its mantissa is not 0, within \
         1..=254; s = 2^(e−127); code = e4m3(x·(1/s)), RNE, no clamp."
    ),
    kernel!(
        "quant_tk_fp8_f32",
        TkFp8F32,
        E4M3_F32,
        GROUP,
        "Per block: amax = max(max|x|, 1e-4); s = amax/448; code = e4m3(clamp(x·(448/amax), ±448)), RNE."
    ),
    kernel!(
        "quant_vllm_fp8_group",
        VllmFp8Group,
        E4M3_F32,
        GROUP,
        "Per block: amax = max(max|x|, 1e-10); s = amax/448; code = e4m3(clamp(x/s, ±448)), RNE."
    ),
    kernel!(
        "quant_vllm_fp8_token",
        VllmFp8Token,
        E4M3_F32,
        TOKEN,
        "Per block: s = max(max|x|/448, 1/(448·512)); code = e4m3(clamp(x·(1/s), ±448)), RNE."
    ),
    kernel!(
        "quant_mx_fp4_ds",
        MxFp4Ds,
        E2M1_E8,
        MX,
        "Per block: amax = max(max|x|, 6·2^-126); t = amax·f32(1/6); e = exponent field of t, plus 1 if its mantissa is not \
         0; s = 2^(e−127); code = e2m1(clamp(x/s, ±6)), RNE, the sign of zero kept."
    ),
    kernel!(
        "quant_mx_fp4_dg",
        MxFp4Dg,
        E2M1_E8,
        MX,
        "Per block: amax = max(max|x|, 1e-4); t = amax/6; e = exponent field of t, plus 1 if its mantissa is not 0, within \
         1..=254; s = 2^(e−127); code of x·(1/s): ties to the smaller magnitude, no negative zero."
    ),
    kernel!(
        "quant_int8_token",
        Int8Token,
        INT8_F32,
        TOKEN,
        "Per block: amax = max(max|x|, 1e-4); s = amax/127; code = clamp(RNE(x/s), −128, 127)."
    ),
    Kernel {
        name: "quant_nvfp4",
        semantics: "g = the argument, or max|x|/(6·448) over the tensor, 1 where that is 0. Per 16 columns: t = amax/(6·g), 0 \
                    becomes 1.0; scale = e4m3(clamp(t, 2^-9, 448)); y = x/(scale·g); code = e2m1(min(|y|, 6)), RNE, with \
                    the sign bit (y < 0).",
        inputs: &[arg("x", "bf16|f32[M,K]"), maybe("g", "f32[1]")],
        outputs: &[arg("codes", "e2m1[M,K/2]"), arg("scale", "e4m3[M,⌈K/16⌉]"), maybe("g", "f32[1]")],
        params: &[],
        run: run_nvfp4,
    },
];

fn run(call: &Call<'_>, recipe: Recipe) -> Result<Arrays> {
    let x = required(call, "x", FLOATS)?;
    let shape = matrix("x", x)?;
    outputs(call, recipe, &floats(x), shape, block(call, recipe.block())?, ["codes", "scale"])
}

/// Quantizes `x` into arrays of those names.
pub(super) fn outputs(
    call: &Call<'_>,
    recipe: Recipe,
    x: &[f32],
    shape: [usize; 2],
    block: [usize; 2],
    [codes_name, scale_name]: [&str; 2],
) -> Result<Arrays> {
    let [block_rows, block_cols] = whole_axes(block, shape);
    let grid = vec![shape[0].div_ceil(block_rows), shape[1].div_ceil(block_cols)];
    let mut codes = vec![0; x.len()];
    let mut scales = vec![0.0; area(scale_name, &grid)?];
    quantize(recipe, x, shape, block, &mut codes, &mut scales)?;
    let codes = code_array(recipe.codes(), shape, codes)?;
    let scale = scale_array(scale_name, recipe, call.wanted(scale_name, recipe.scales()), grid, &scales)?;
    Ok([(codes_name.to_owned(), codes), (scale_name.to_owned(), scale)].into())
}

/// Codes, one per byte, as the array that golden sets store.
pub(super) fn code_array(dtype: Dtype, [rows, cols]: [usize; 2], codes: Vec<u8>) -> Result<Array> {
    if dtype != Dtype::F4E2M1 {
        return Ok(Array::new(dtype, [rows, cols], codes));
    }
    if !cols.is_multiple_of(2) {
        return Err(misfit("x", "an even K, two codes to a byte", cols));
    }
    Ok(Array::new(dtype, [rows, cols / 2], pack(&codes)))
}

fn scale_array(name: &str, recipe: Recipe, dtype: Dtype, grid: Vec<usize>, scales: &[f32]) -> Result<Array> {
    match dtype {
        Dtype::F32 => Ok(Array::from_f32(grid, scales)),
        // Only a non-finite maximum has no such code.
        Dtype::F8E8M0 if recipe.scales() == dtype => {
            Ok(Array::new(dtype, grid, scales.iter().map(|s| e8m0_from_pow2(*s).unwrap_or(0xFF)).collect()))
        }
        other => {
            Err(bad_param(name, format!("F32 or {}", recipe.scales().golden_name()), other.golden_name()))
        }
    }
}

fn run_nvfp4(call: &Call<'_>) -> Result<Arrays> {
    let x = required(call, "x", FLOATS)?;
    let shape = matrix("x", x)?;
    let given = match optional(call, "g", &[Dtype::F32])? {
        Some(g) => {
            expect_len("g", g.elements(), 1)?;
            Some(floats(g)[0])
        }
        None => None,
    };
    let grid = [shape[0], shape[1].div_ceil(NVFP4_BLOCK)];
    let mut codes = vec![0; x.elements()];
    let mut scales = vec![0; area("scale", &grid)?];
    let g = nvfp4(&floats(x), shape, given, &mut codes, &mut scales)?;
    let codes = code_array(Dtype::F4E2M1, shape, codes)?;
    let mut outputs: Arrays =
        [("codes".to_owned(), codes), ("scale".to_owned(), Array::new(Dtype::F8E4M3, grid, scales))].into();
    if call.wanted.contains_key("g") {
        outputs.insert("g".to_owned(), Array::from_f32([1], &[g]));
    }
    Ok(outputs)
}
