//! Dense MLPs, routers and experts.

use super::arch::Router;
use super::block::Trace;
use super::math;
use super::side::{Grid, Side};
use crate::error::Result;
use crate::validate::kernels::size;

/// The experts of each token and their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Choice {
    /// Ascending.
    pub(super) experts: Vec<Vec<usize>>,
}

/// The MLP's output before the residual, and the experts that its router chose.
pub(super) fn mlp(
    side: &Side<'_>,
    layer: &str,
    x: &Grid,
    forced: Option<&Choice>,
    trace: &mut Trace<'_>,
) -> Result<(Grid, Option<Choice>)> {
    let at = format!("{layer}.mlp");
    let router = match side.arch.router {
        Some(router) if side.has(&format!("{at}.gate.weight")) => router,
        _ => return Ok((dense(side, layer, "mlp", x, trace)?, None)),
    };
    let scores = scores(side, &at, x, &router, trace)?;
    let own = Choice { experts: scores.iter().map(|s| pick(s, &router)).collect() };
    let used = forced.unwrap_or(&own);
    let hidden = x.cols;
    let mut sum = vec![0f64; x.data.len()];
    let count = scores.first().map_or(0, |s| s.values.len());
    for expert in 0..count {
        let tokens: Vec<usize> =
            (0..x.rows).filter(|t| used.experts[*t].binary_search(&expert).is_ok()).collect();
        if tokens.is_empty() {
            continue;
        }
        let name = format!("mlp.experts.{expert}");
        let y = dense(side, layer, &name, &x.chosen(&tokens), trace)?;
        for (i, token) in tokens.iter().enumerate() {
            let weight = weight_of(&scores[*token], &used.experts[*token], expert, &router);
            // Qwen's weights are rounded like every other output; the others' are f32.
            let weight = if router.sigmoid { weight } else { f64::from(side.rounding.round(weight)) };
            for (to, v) in sum[token * hidden..(token + 1) * hidden].iter_mut().zip(y.row(i)) {
                *to += f64::from(side.rounding.round(f64::from(*v) * weight));
            }
        }
    }
    let routed: Vec<f32> = sum.iter().map(|v| side.rounding.round(*v)).collect();
    let mut out = trace.keep("mlp.experts", Grid::new(x.rows, hidden, routed));
    if side.has(&format!("{at}.shared_experts.down_proj.weight")) {
        let shared = dense(side, layer, "mlp.shared_experts", x, trace)?;
        out = out.plus(&shared, side.rounding);
    }
    Ok((out, Some(own)))
}

/// Gate, up and down of the MLP called `module` below `layer`.
fn dense(side: &Side<'_>, layer: &str, module: &str, x: &Grid, trace: &mut Trace<'_>) -> Result<Grid> {
    let linear = |name: &str, x: &Grid, rows: usize, trace: &mut Trace<'_>| -> Result<Grid> {
        let name = format!("{module}.{name}");
        Ok(trace.keep(&name, side.linear(&format!("{layer}.{name}"), x, rows)?))
    };
    let inter = side.rows(&format!("{layer}.{module}.gate_proj"))?;
    let gate = linear("gate_proj", x, inter, trace)?;
    let up = linear("up_proj", x, inter, trace)?;
    linear("down_proj", &side.swiglu(&gate, &up), x.cols, trace)
}

/// A token's scores, f32: `values` make the weights, `ranks` the choice.
struct Scores {
    values: Vec<f32>,
    ranks: Vec<f32>,
}

fn scores(
    side: &Side<'_>,
    at: &str,
    x: &Grid,
    router: &Router,
    trace: &mut Trace<'_>,
) -> Result<Vec<Scores>> {
    let gate = format!("{at}.gate");
    let experts = side.rows(&gate)?;
    let logits = side.product(&format!("{gate}.weight"), x, experts)?;
    // DeepSeek and GLM route in f32, Qwen in the dtype of the model.
    let logits: Vec<f32> =
        logits.iter().map(|v| if router.sigmoid { *v as f32 } else { side.rounding.round(*v) }).collect();
    let logits = trace.keep("mlp.gate", Grid::new(x.rows, experts, logits));
    let bias = format!("{gate}.e_score_correction_bias");
    let bias = if side.has(&bias) { Some(side.vector(&bias, experts)?) } else { None };
    let mut values = Vec::with_capacity(x.rows * experts);
    for token in 0..x.rows {
        let row = logits.row(token);
        if router.sigmoid {
            values.extend(row.iter().map(|v| math::sigmoid(f64::from(*v)) as f32));
        } else {
            let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let e: Vec<f64> = row.iter().map(|v| math::exp(f64::from(*v) - f64::from(top))).collect();
            let sum: f64 = e.iter().sum();
            values.extend(e.iter().map(|v| (v / sum) as f32));
        }
    }
    let values = Grid::new(x.rows, experts, values);
    let ranks = match &bias {
        None => values.clone(),
        Some(bias) => {
            let sums = values.data.iter().enumerate().map(|(i, v)| v + bias[i % experts]);
            trace.keep("mlp.gate.e_score_correction_bias", Grid::new(x.rows, experts, sums.collect()))
        }
    };
    let rows = (0..x.rows).map(|t| Scores { values: values.row(t).to_vec(), ranks: ranks.row(t).to_vec() });
    Ok(rows.collect())
}

/// The chosen experts, ascending; ties go to the lower index.
fn pick(scores: &Scores, router: &Router) -> Vec<usize> {
    let ranks = &scores.ranks;
    let best = |mut items: Vec<usize>, key: &dyn Fn(usize) -> f32, count: usize| {
        items.sort_by(|a, b| key(*b).total_cmp(&key(*a)).then(a.cmp(b)));
        items.truncate(count);
        items
    };
    let mut allowed: Vec<usize> = (0..ranks.len()).collect();
    if router.groups > 1 && ranks.len().is_multiple_of(router.groups) {
        let width = ranks.len() / router.groups;
        let group_score = |g: usize| -> f32 {
            let mut two = best((g * width..(g + 1) * width).collect(), &|e| ranks[e], 2);
            two.drain(..).map(|e| ranks[e]).sum()
        };
        let totals: Vec<f32> = (0..router.groups).map(group_score).collect();
        let groups = best((0..router.groups).collect(), &|g| totals[g], router.topk_group);
        allowed.retain(|e| groups.contains(&(e / width)));
    }
    let mut chosen = best(allowed, &|e| ranks[e], router.topk);
    chosen.sort_unstable();
    chosen
}

fn weight_of(scores: &Scores, chosen: &[usize], expert: usize, router: &Router) -> f64 {
    let value = f64::from(scores.values[expert]);
    let sum: f64 = chosen.iter().map(|e| f64::from(scores.values[*e])).sum();
    let weight = if router.normalize { value / (sum + 1e-20) } else { value };
    f64::from((weight * router.scale) as f32)
}

impl Side<'_> {
    /// Outputs of a linear, from its weight.
    pub(super) fn rows(&self, module: &str) -> Result<usize> {
        let name = format!("{module}.weight");
        let found = self.shards.checkpoint.find(&name).map(|id| self.shards.checkpoint.tensor(id));
        match found.and_then(|t| t.shape.first()) {
            Some(rows) => Ok(size(*rows)),
            None => self.vector(&name, 0).map(|_| 0),
        }
    }
}
