//! The gated activation of feed-forward blocks: kernels 13.

use super::array::{Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::exp::exp_f32;
use super::gemm_catalog::{arg, maybe};
use super::norm::recipe;
use super::operand::{bad_param, block, computed, expect_len, floats, matrix, misfit, optional, required};
use super::quant::{self, Recipe};
use super::shape::{expect_shape, real, round_bf16};
use crate::dtype::Dtype;
use crate::error::Result;

/// `silu(gate)·up` for rows of `2·half` elements, the gate first. With a `limit` L other than 0: `gate ≤ L`,
/// `−L ≤ up ≤ L`. `e = expf(−g)`; `s = g/(1 + e)`; `y = s·u`, times the row's weight where there is one; each operation
/// rounded to binary32. The caller rounds `y` to BF16.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn swiglu(limit: f32, half: usize, x: &[f32], row_weight: Option<&[f32]>, y: &mut [f32]) -> Result<()> {
    let rows = y.len().checked_div(half).unwrap_or(0);
    expect_len("y", y.len(), rows * half)?;
    if x.len() != y.len().saturating_mul(2) {
        return Err(misfit("x", format!("{rows} rows of twice {half}"), x.len()));
    }
    if let Some(weight) = row_weight {
        expect_len("topk_weight", weight.len(), rows)?;
    }
    if half == 0 {
        return Ok(());
    }
    for (row, (x, y)) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(half)).enumerate() {
        let (gate, up) = x.split_at(half);
        let weight = row_weight.map(|w| w[row]);
        for (y, (g, u)) in y.iter_mut().zip(gate.iter().zip(up)) {
            let (mut g, mut u) = (*g, *u);
            if limit != 0.0 {
                g = if g > limit { limit } else { g };
                u = if u > limit { limit } else { u };
                u = if u < -limit { -limit } else { u };
            }
            let s = g / (1.0 + exp_f32(-g));
            *y = s * u;
            if let Some(weight) = weight {
                *y *= weight;
            }
        }
    }
    Ok(())
}

const INPUTS: &[Arg] = &[arg("x", "bf16[M,2I]"), maybe("topk_weight", "f32[M]")];
const LIMIT: Param = Param { name: "limit", values: "a number, 0 = none", default: "0" };

/// The kernels of this file, in order.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "swiglu",
        semantics: "gate = the first half of a row, up = the second. With limit L other than 0: gate ≤ L, −L ≤ up ≤ L. \
                    e = expf(−g), correctly rounded; s = g/(1 + e); y = s·u, then times topk_weight where given, in f32; \
                    RNE to BF16.",
        inputs: INPUTS,
        outputs: &[arg("y", "bf16[M,I]")],
        params: &[LIMIT],
        run: run_swiglu,
    },
    Kernel {
        name: "swiglu_quant",
        semantics: "As swiglu, rounded to BF16, then quantized by the recipe. Without a recipe: int8_token, or dg_fp8_f32 \
                    where E4M3 codes are wanted.",
        inputs: INPUTS,
        outputs: &[arg("codes", "s8|e4m3[M,I]"), arg("scale", "f32|e8 grid of the recipe")],
        params: &[
            LIMIT,
            Param { name: "recipe", values: "the name of a recipe", default: "\"int8_token\"" },
            Param { name: "block", values: "[rows, cols], 0 = the whole axis", default: "null" },
        ],
        run: run_swiglu_quant,
    },
];

/// The activation with its shape `[M, I]`.
fn activation(call: &Call<'_>) -> Result<([usize; 2], Vec<f32>)> {
    let x = required(call, "x", &[Dtype::BF16])?;
    let [rows, columns] = matrix("x", x)?;
    if !columns.is_multiple_of(2) {
        return Err(misfit("x", "an even number of columns, gate then up", columns));
    }
    let weight = optional(call, "topk_weight", &[Dtype::F32])?;
    if let Some(weight) = weight {
        expect_shape("topk_weight", weight, &[rows])?;
    }
    let weight = weight.map(floats);
    let limit = real(call, "limit", 0.0)? as f32;
    if limit < 0.0 {
        return Err(bad_param("limit", "0 or a positive number", limit));
    }
    let mut y = vec![0.0; x.elements() / 2];
    // Without columns no row shows in the length of y.
    let weight = weight.as_deref().filter(|_| columns > 0);
    swiglu(limit, columns / 2, &floats(x), weight, &mut y)?;
    Ok(([rows, columns / 2], y))
}

fn run_swiglu(call: &Call<'_>) -> Result<Arrays> {
    let (shape, y) = activation(call)?;
    let y = computed("y", call.wanted("y", Dtype::BF16), shape.to_vec(), &y)?;
    Ok([("y".to_owned(), y)].into())
}

fn run_swiglu_quant(call: &Call<'_>) -> Result<Arrays> {
    let (shape, mut y) = activation(call)?;
    y.iter_mut().for_each(|y| *y = round_bf16(*y));
    let named = call.params.get("recipe").and_then(|v| v.as_str()).and_then(Recipe::from_name);
    let default = match call.wanted("codes", named.map_or(Dtype::I8, Recipe::codes)) {
        Dtype::F8E4M3 => Recipe::DgFp8F32,
        Dtype::F4E2M1 => Recipe::MxFp4Ds,
        _ => Recipe::Int8Token,
    };
    let recipe = recipe(call, default)?;
    let block = match call.params.get("block") {
        None | Some(serde_json::Value::Null) => recipe.block(),
        Some(_) => block(call, recipe.block())?,
    };
    quant::outputs(call, recipe, &y, shape, block, ["codes", "scale"])
}
