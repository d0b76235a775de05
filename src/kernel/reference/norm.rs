//! RMS normalization, with a residual and a quantizer: kernels 12.

use super::array::{Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::gemm_catalog::{arg, maybe};
use super::operand::{bad_param, computed, expect_len, flag, floats, matrix, misfit, optional, required};
use super::quant::{self, Recipe};
use super::shape::{expect_shape, real, round_bf16};
use crate::dtype::Dtype;
use crate::error::Result;

/// The parameters of a normalization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the mean of squares.
    pub eps: f64,
    /// Whether `x·r` is rounded to BF16 before the weight multiplies it.
    pub bf16_x: bool,
}

/// `h = bf16(x + residual)`, the sum in binary32.
///
/// # Errors
/// Class Input for slices of unequal lengths.
pub fn add_residual(x: &[f32], residual: &[f32], h: &mut [f32]) -> Result<()> {
    expect_len("residual", residual.len(), x.len())?;
    expect_len("residual_out", h.len(), x.len())?;
    for (h, (x, residual)) in h.iter_mut().zip(x.iter().zip(residual)) {
        *h = round_bf16(x + residual);
    }
    Ok(())
}

/// Normalizes rows of `w.len()` elements: `ss = Σx²` in binary64, columns ascending; `r = f32(1/√(ss/H + eps))`, binary64
/// until then; `y = f32(f32(x·r)·w)`, with `x·r` rounded to BF16 before where the parameters say so. The caller rounds `y`
/// to BF16.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn rmsnorm(norm: Norm, x: &[f32], w: &[f32], y: &mut [f32]) -> Result<()> {
    let columns = w.len();
    if x.len().checked_rem(columns).unwrap_or(x.len()) != 0 {
        return Err(misfit("x", format!("rows of {columns}"), x.len()));
    }
    expect_len("y", y.len(), x.len())?;
    if columns == 0 {
        return Ok(());
    }
    for (x, y) in x.chunks_exact(columns).zip(y.chunks_exact_mut(columns)) {
        let squares = x.iter().fold(0.0, |sum, x| sum + f64::from(*x) * f64::from(*x));
        let r = (1.0 / (squares / columns as f64 + norm.eps).sqrt()) as f32;
        for (y, (x, w)) in y.iter_mut().zip(x.iter().zip(w)) {
            let scaled = x * r;
            *y = if norm.bf16_x { round_bf16(scaled) * w } else { scaled * w };
        }
    }
    Ok(())
}

const X: Arg = arg("x", "bf16[M,H]");
const W: Arg = arg("w", "bf16|f32[H]");
const INPUTS: &[Arg] = &[X, W, maybe("residual", "bf16[M,H]")];
const ADD_INPUTS: &[Arg] = &[X, W, arg("residual", "bf16[M,H]")];
const RESIDUAL_OUT: Arg = maybe("residual_out", "bf16[M,H]");
const OUTPUTS: &[Arg] = &[arg("y", "bf16[M,H]"), RESIDUAL_OUT];
const FP8_OUTPUTS: &[Arg] =
    &[arg("codes", "e4m3[M,H]"), arg("scale", "f32|e8 grid of the recipe"), RESIDUAL_OUT];
const S8_OUTPUTS: &[Arg] = &[arg("codes", "s8[M,H]"), arg("scale", "f32[M,1]"), RESIDUAL_OUT];

const EPS: Param = Param { name: "eps", values: "a number", default: "1e-6" };
const BF16_X: Param = Param { name: "bf16_x", values: "true | false", default: "false" };
const PARAMS: &[Param] = &[EPS, BF16_X];
const FP8_PARAMS: &[Param] =
    &[EPS, BF16_X, Param { name: "recipe", values: "a recipe with E4M3 codes", default: "\"dg_fp8_f32\"" }];
const S8_PARAMS: &[Param] =
    &[EPS, BF16_X, Param { name: "recipe", values: "int8_token", default: "\"int8_token\"" }];

macro_rules! semantics {
    ($tail:literal) => {
        concat!(
            "With a residual h = bf16(f32(x) + f32(residual)), which is residual_out, takes the place of x. ss = Σx² in f64, \
             columns ascending; r = f32(1/√(ss/H + eps)), all f64; y = f32(f32(x·r)·w), x·r rounded to BF16 first if \
             bf16_x; RNE to BF16.",
            $tail
        )
    };
}

/// The kernels of this file, in order.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "rmsnorm",
        semantics: semantics!(""),
        inputs: INPUTS,
        outputs: OUTPUTS,
        params: PARAMS,
        run: |call| run(call, false, None),
    },
    Kernel {
        name: "add_rmsnorm",
        semantics: semantics!(""),
        inputs: ADD_INPUTS,
        outputs: OUTPUTS,
        params: PARAMS,
        run: |call| run(call, true, None),
    },
    Kernel {
        name: "rmsnorm_quant_fp8",
        semantics: semantics!(" The BF16 rows are quantized by the recipe, in its default blocks."),
        inputs: INPUTS,
        outputs: FP8_OUTPUTS,
        params: FP8_PARAMS,
        run: |call| run(call, false, Some(Recipe::DgFp8F32)),
    },
    Kernel {
        name: "add_rmsnorm_quant_fp8",
        semantics: semantics!(" The BF16 rows are quantized by the recipe, in its default blocks."),
        inputs: ADD_INPUTS,
        outputs: FP8_OUTPUTS,
        params: FP8_PARAMS,
        run: |call| run(call, true, Some(Recipe::DgFp8F32)),
    },
    Kernel {
        name: "rmsnorm_quant_s8",
        semantics: semantics!(" The BF16 rows are quantized by int8_token."),
        inputs: INPUTS,
        outputs: S8_OUTPUTS,
        params: S8_PARAMS,
        run: |call| run(call, false, Some(Recipe::Int8Token)),
    },
    Kernel {
        name: "add_rmsnorm_quant_s8",
        semantics: semantics!(" The BF16 rows are quantized by int8_token."),
        inputs: ADD_INPUTS,
        outputs: S8_OUTPUTS,
        params: S8_PARAMS,
        run: |call| run(call, true, Some(Recipe::Int8Token)),
    },
];

/// `default` is the recipe unless a parameter names another with the same format of codes.
fn run(call: &Call<'_>, add: bool, default: Option<Recipe>) -> Result<Arrays> {
    let x = required(call, "x", &[Dtype::BF16])?;
    let [rows, columns] = matrix("x", x)?;
    let w = required(call, "w", &[Dtype::BF16, Dtype::F32])?;
    expect_shape("w", w, &[columns])?;
    let residual = if add {
        Some(required(call, "residual", &[Dtype::BF16])?)
    } else {
        optional(call, "residual", &[Dtype::BF16])?
    };
    let norm = Norm { eps: real(call, "eps", 1e-6)?, bf16_x: flag(call, "bf16_x", false)? };

    let mut values = floats(x);
    let mut y = vec![0.0; values.len()];
    if let Some(residual) = residual {
        expect_shape("residual", residual, &[rows, columns])?;
        add_residual(&values, &floats(residual), &mut y)?;
        std::mem::swap(&mut values, &mut y);
    }
    rmsnorm(norm, &values, &floats(w), &mut y)?;

    let mut outputs = match default {
        None => {
            let y = computed("y", call.wanted("y", Dtype::BF16), vec![rows, columns], &y)?;
            Arrays::from([("y".to_owned(), y)])
        }
        Some(default) => {
            let recipe = recipe(call, default)?;
            y.iter_mut().for_each(|y| *y = round_bf16(*y));
            quant::outputs(call, recipe, &y, [rows, columns], recipe.block(), ["codes", "scale"])?
        }
    };
    if let Some(dtype) = call.wanted.get("residual_out") {
        if residual.is_none() {
            return Err(misfit("residual", "a residual, because residual_out is wanted", "nothing"));
        }
        let h = computed("residual_out", *dtype, vec![rows, columns], &values)?;
        outputs.insert("residual_out".to_owned(), h);
    }
    Ok(outputs)
}

/// The recipe that the parameter names, or `default`; it makes the same format of codes.
pub(super) fn recipe(call: &Call<'_>, default: Recipe) -> Result<Recipe> {
    let Some(value) = call.params.get("recipe") else { return Ok(default) };
    value.as_str().and_then(Recipe::from_name).filter(|recipe| recipe.codes() == default.codes()).ok_or_else(
        || bad_param("recipe", format!("a recipe with {} codes", default.codes().golden_name()), value),
    )
}
