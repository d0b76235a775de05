//! The router of a mixture of experts: kernel 17.

use super::array::{Array, Arrays, Call};
use super::catalog::{Kernel, Param};
use super::exp::{exp_f32, log1p_f32};
use super::gemm_catalog::{arg, maybe};
use super::operand::{area, bad_param, choice, count, expect_len, flag, floats, matrix, optional, required};
use super::shape::{expect_shape, real};
use crate::dtype::Dtype;
use crate::error::Result;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// `1/(1 + expf(−x))`.
    Sigmoid,
    /// `√softplus(x)`, softplus being `log1pf(expf(x))`, and `x` above 20.
    SqrtSoftplus,
    /// `expf(x − max)/Σ`, the sum in binary32, experts ascending.
    Softmax,
}

/// The parameters of a router.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// Groups of neighbouring experts, a divisor of their number.
    pub groups: usize,
    /// Groups that a token may choose from.
    pub topk_group: usize,
    /// Experts per token.
    pub topk: usize,
    /// Multiplies the weights.
    pub scale: f32,
    /// How logits become scores.
    pub scoring: Scoring,
    /// Whether the scores of the chosen experts are divided by their sum.
    pub renormalize: bool,
}

/// Chooses experts for rows of `experts` logits: `idx` and `weights` are `[rows, topk]`, by descending rank, ties to the
/// lower index (NaNs rank last).
///
/// The rank is `score + bias`, for softmax `logit + bias`. A group scores the sum of its two largest ranks; experts outside
/// the best groups rank −∞. The weight is `score/max(Σ, 1e-20)·scale`, Σ over the chosen in the order of output, or
/// `score·scale`. All in binary32.
///
/// # Errors
/// Class Input for parameters and lengths that do not fit.
pub fn moe_gate(
    gate: Gate,
    experts: usize,
    logits: &[f32],
    bias: Option<&[f32]>,
    idx: &mut [i32],
    weights: &mut [f32],
) -> Result<()> {
    let Gate { groups, topk_group, topk, .. } = gate;
    let rows = logits.len().checked_div(experts).unwrap_or(0);
    expect_len("logits", logits.len(), rows * experts)?;
    if groups == 0 || !experts.is_multiple_of(groups) {
        return Err(bad_param("groups", format!("a divisor of {experts} experts"), groups));
    }
    if topk_group == 0 || topk_group > groups {
        return Err(bad_param("topk_group", format!("1..={groups}"), topk_group));
    }
    if topk > experts || i32::try_from(experts).is_err() {
        return Err(bad_param("topk", format!("at most {experts}, which fits 32 bits"), topk));
    }
    if let Some(bias) = bias {
        expect_len("bias", bias.len(), experts)?;
    }
    expect_len("idx", idx.len(), area("idx", &[rows, topk])?)?;
    expect_len("weights", weights.len(), idx.len())?;
    if topk == 0 {
        return Ok(());
    }

    let rows = idx.chunks_exact_mut(topk).zip(weights.chunks_exact_mut(topk));
    for (logits, (idx, weights)) in logits.chunks_exact(experts).zip(rows) {
        let scores = scores(gate.scoring, logits);
        let mut ranks = if gate.scoring == Scoring::Softmax { logits.to_vec() } else { scores.clone() };
        if let Some(bias) = bias {
            ranks.iter_mut().zip(bias).for_each(|(rank, bias)| *rank += bias);
        }
        exclude_groups(gate, &mut ranks);
        let chosen = largest_first(&ranks);
        let chosen = &chosen[..topk];
        let sum = chosen.iter().fold(0.0, |sum, e| sum + scores[*e]);
        // A NaN stays one.
        let sum = if sum < 1e-20 { 1e-20 } else { sum };
        for (expert, (idx, weight)) in chosen.iter().zip(idx.iter_mut().zip(weights)) {
            // The number of experts fits 32 bits.
            *idx = *expert as i32;
            let score = if gate.renormalize { scores[*expert] / sum } else { scores[*expert] };
            *weight = score * gate.scale;
        }
    }
    Ok(())
}

fn scores(scoring: Scoring, logits: &[f32]) -> Vec<f32> {
    match scoring {
        Scoring::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + exp_f32(-x))).collect(),
        Scoring::SqrtSoftplus => {
            logits.iter().map(|x| if *x > 20.0 { *x } else { log1p_f32(exp_f32(*x)) }.sqrt()).collect()
        }
        Scoring::Softmax => {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m });
            let exps: Vec<f32> = logits.iter().map(|x| exp_f32(x - max)).collect();
            let sum = exps.iter().fold(0.0, |sum, e| sum + e);
            exps.iter().map(|e| e / sum).collect()
        }
    }
}

/// Ranks of experts outside the best groups become −∞.
fn exclude_groups(gate: Gate, ranks: &mut [f32]) {
    if gate.topk_group == gate.groups {
        return;
    }
    let size = ranks.len() / gate.groups;
    let group_scores: Vec<f32> = ranks
        .chunks_exact(size)
        .map(|group| match largest_first(group)[..] {
            [first, second, ..] => group[first] + group[second],
            [only] => group[only],
            [] => f32::NEG_INFINITY,
        })
        .collect();
    for group in &largest_first(&group_scores)[gate.topk_group..] {
        ranks[group * size..][..size].fill(f32::NEG_INFINITY);
    }
}

/// Positions by descending value, equal ones (±0 too) by ascending position, NaNs last.
fn largest_first(values: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // The sort is stable. NaNs compare equal to each other and below everything else, so the order is total.
    order.sort_by(|a, b| {
        let (a, b) = (values[*a], values[*b]);
        b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
    });
    order
}

/// The kernels of this file.
pub const KERNELS: &[Kernel] = &[Kernel {
    name: "moe_gate",
    semantics: "score: sigmoid 1/(1 + expf(−x)); sqrtsoftplus sqrtf(x > 20 ? x : log1pf(expf(x))); softmax expf(x − max)/Σ, Σ \
                in f32, experts ascending. rank = score + bias (softmax: logit + bias). A group's score is the sum of its 2 \
                largest ranks; experts outside the topk_group best groups rank −inf. idx by descending rank, ties to the \
                lower index. weight = (score/max(Σ score over the chosen, in output order, 1e-20))·scale, without \
                renormalize score·scale. All in f32, expf and log1pf correctly rounded.",
    inputs: &[arg("logits", "f32[T,E]"), maybe("bias", "f32[E]")],
    outputs: &[arg("idx", "i32[T,topk]"), arg("weights", "f32[T,topk]")],
    params: &[
        Param { name: "groups", values: "a divisor of E", default: "1" },
        Param { name: "topk_group", values: "1..=groups", default: "1" },
        Param { name: "topk", values: "0..=E", default: "8" },
        Param { name: "scale", values: "a number, rounded to f32", default: "1.0" },
        Param { name: "scoring", values: "sigmoid | sqrtsoftplus | softmax", default: "\"sigmoid\"" },
        Param { name: "renormalize", values: "true | false", default: "true" },
    ],
    run,
}];

fn run(call: &Call<'_>) -> Result<Arrays> {
    let logits = required(call, "logits", &[Dtype::F32])?;
    let [rows, experts] = matrix("logits", logits)?;
    let bias = optional(call, "bias", &[Dtype::F32])?;
    if let Some(bias) = bias {
        expect_shape("bias", bias, &[experts])?;
    }
    let gate = Gate {
        groups: count(call, "groups", 1)?,
        topk_group: count(call, "topk_group", 1)?,
        topk: count(call, "topk", 8)?,
        scale: real(call, "scale", 1.0)? as f32,
        scoring: choice(
            call,
            "scoring",
            &[
                ("sigmoid", Scoring::Sigmoid),
                ("sqrtsoftplus", Scoring::SqrtSoftplus),
                ("softmax", Scoring::Softmax),
            ],
        )?,
        renormalize: flag(call, "renormalize", true)?,
    };
    if gate.topk > experts {
        return Err(bad_param("topk", format!("at most the {experts} experts"), gate.topk));
    }
    let shape = vec![rows, gate.topk];
    let mut idx = vec![0i32; area("idx", &shape)?];
    let mut weights = vec![0.0; idx.len()];
    moe_gate(gate, experts, &floats(logits), bias.map(floats).as_deref(), &mut idx, &mut weights)?;
    let idx = Array::new(Dtype::I32, shape.clone(), idx.iter().flat_map(|i| i.to_le_bytes()).collect());
    let weights = super::operand::computed("weights", Dtype::F32, shape, &weights)?;
    Ok([("idx".to_owned(), idx), ("weights".to_owned(), weights)].into())
}
