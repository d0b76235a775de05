//! Cuts experts that lie in one tensor into tensors of their own.
//!
//! # What it does
//! `mlp.experts.gate_up_proj` `[E, 2I, H]` and `down_proj` `[E, H, I]` become `mlp.experts.{e}.gate_proj.weight`,
//! `up_proj.weight` and `down_proj.weight`; biases likewise. Stored the other way round (`[E, H, 2I]`, `[E, I, H]`:
//! Qwen3-VL-MoE) they are transposed; where gate and up alternate (gpt-oss) every second row is taken.
//!
//! # Why a chip needs it
//! Every quantized loader reads experts one by one and stacks them itself; a stacked tensor raises there, or loads with
//! the scales of another expert.
//!
//! # Exactness
//! Bitwise: values move, none changes.
//!
//! # Preconditions
//! Weights are decoded. Which dimension is which follows from `hidden_size`, and from the family where both are equal.

use super::{Context, Outcome, Pass, PassSpec};
use crate::checkpoint::{Kind, natural_cmp};
use crate::error::{Error, Result};
use crate::plan::expr::View;
use crate::plan::{Exactness, Expr, Fate, Output, Plan};
use std::sync::Arc;

/// The pass.
pub struct SplitExperts;

static SPEC: PassSpec = PassSpec {
    id: "split-experts",
    summary: "experts in one tensor become tensors of their own",
    exactness: Exactness::Bitwise,
    after: &["decode-source", "drop"],
    source: include_str!("split_experts.rs"),
};

/// Families that store `[in, out]` for each expert.
const TRANSPOSED: &[&str] = &["qwen3_vl_moe", "gpt_oss"];

/// Families whose gate and up rows alternate.
const ALTERNATING: &[&str] = &["gpt_oss"];

impl Pass for SplitExperts {
    fn spec(&self) -> &'static PassSpec {
        &SPEC
    }

    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        if cx.preset.native {
            return Ok(outcome);
        }
        let mut outputs = Vec::with_capacity(plan.outputs.len());
        for output in std::mem::take(&mut plan.outputs) {
            let role = cx.checkpoint.family.role(&output.name, &output.ty.shape);
            if !matches!(role.kind, Kind::ExpertsGateUp | Kind::ExpertsDown) {
                outputs.push(output);
                continue;
            }
            outcome.rewrites += 1;
            split(&output, role.kind, plan, cx, &mut outputs)?;
        }
        if outcome.rewrites > 0 {
            // An expert's tensors follow one another.
            outputs.sort_by(|a, b| natural_cmp(&a.name, &b.name));
        }
        plan.outputs = outputs;
        Ok(outcome)
    }
}

/// The experts of one stacked tensor.
fn split(
    output: &Output,
    kind: Kind,
    plan: &Plan,
    cx: &Context<'_>,
    outputs: &mut Vec<Output>,
) -> Result<()> {
    let wrong = |found: String| {
        Error::unsupported(
            "experts-shape",
            "a tensor of stacked experts has a shape that this version does not know",
        )
        .tensor(&output.name)
        .expected("[experts, out, in], its transpose, or biases [experts, out]")
        .found(found)
        .fix("convert from a release whose experts are tensors of their own")
    };
    let shape: Vec<u64> = output.ty.shape.to_vec();
    let (module, is_bias) = match output.name.strip_suffix("_bias") {
        Some(module) => (module, true),
        None => (output.name.strip_suffix(".weight").unwrap_or(&output.name), false),
    };
    let Some((prefix, _)) = module.rsplit_once('.') else { return Err(wrong(module.to_owned())) };
    let family = cx.checkpoint.family.id;
    let alternating = ALTERNATING.contains(&family);
    let parts: &[&str] = if kind == Kind::ExpertsGateUp { &["gate_proj", "up_proj"] } else { &["down_proj"] };
    let param = if is_bias { "bias" } else { "weight" };
    let views: Vec<(u64, &str, Vec<View>)> = match (shape[..].as_ref(), is_bias) {
        ([experts, out], true) => {
            let rows = out / parts.len() as u64;
            let part = |e: u64, i: u64| match alternating {
                true => View::of_elements(e * out + i, parts.len() as u64, rows),
                false => View::of_elements(e * out + i * rows, 1, rows),
            };
            (0..*experts)
                .flat_map(|e| parts.iter().zip(0..).map(move |(name, i)| (e, *name, i)))
                .map(|(e, name, i)| (e, name, vec![part(e, i)]))
                .collect()
        }
        ([experts, a, b], false) => {
            let turned = is_transposed(kind, *a, *b, output, cx);
            let (out, inner) = if turned { (*b, *a) } else { (*a, *b) };
            if !out.is_multiple_of(parts.len() as u64) {
                return Err(wrong(format!("{shape:?}")));
            }
            let rows = out / parts.len() as u64;
            (0..*experts)
                .flat_map(|e| parts.iter().zip(0..).map(move |(name, i)| (e, *name, i)))
                .map(|(e, name, i)| {
                    let mut views = vec![View::of_rows(e * a, *a, *b)];
                    if turned {
                        views.push(View { transpose: true, ..View::of_rows(0, *a, *b) });
                    }
                    views.push(match alternating && parts.len() == 2 {
                        true => View { step: 2, ..View::of_rows(i, rows, inner) },
                        false => View::of_rows(i * rows, rows, inner),
                    });
                    (e, name, views)
                })
                .collect()
        }
        _ => return Err(wrong(format!("{shape:?}"))),
    };
    let reason: Arc<str> = "an expert of a stacked tensor".into();
    for (expert, part, views) in views {
        let mut expr = output.expr.clone();
        for view in views {
            expr = expr.view(view, &plan.inputs).map_err(&wrong)?;
        }
        let ty = expr.ty(&plan.inputs).map_err(&wrong)?;
        outputs.push(Output {
            name: format!("{prefix}.{expert}.{part}.{param}").into(),
            ty,
            expr,
            fate: Fate::Reencoded,
            reason: reason.clone(),
            ..output.clone()
        });
    }
    Ok(())
}

/// Whether each expert is stored `[in, out]`.
fn is_transposed(kind: Kind, a: u64, b: u64, output: &Output, cx: &Context<'_>) -> bool {
    // Blocks of FP4 are along the inputs, whatever the family does with floats.
    if matches!(output.expr, Expr::Dequantize(_)) {
        return false;
    }
    let hidden = cx.checkpoint.config.count("hidden_size");
    // Hidden features are the inputs of gate and up, and the outputs of down.
    let (inputs, outputs) = if kind == Kind::ExpertsGateUp { (b, a) } else { (a, b) };
    match hidden {
        Some(hidden) if inputs == hidden && outputs != hidden => false,
        Some(hidden) if outputs == hidden && inputs != hidden => true,
        _ => TRANSPOSED.contains(&cx.checkpoint.family.id),
    }
}
