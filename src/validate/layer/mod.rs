//! The layer level: whole decoder blocks, source against artifact, on seeded hidden states; the model level chains them
//! from token ids to logits.
//!
//! The source's blocks compute with its exactly decoded weights, the artifact's as its engine does: activations
//! quantized by the rule of each weight's scheme and multiplied by the reference kernels. Outputs of modules are BF16 on
//! both sides, everything inside a module is wider. Each side follows its own `config.json`, so a patch that changes
//! what the model computes is seen. Weights are read matrix by matrix and expert by expert, and only of experts that a
//! token is routed to.
//!
//! Compared is what a block *adds* to the residual stream, because the stream itself would hide errors behind its input.
//! The experts (and an indexer's keys) of the source are used on both sides, since a near tie decided otherwise is no
//! error of the block's arithmetic; how often the artifact would choose the same is reported by itself.
//!
//! # Gates
//!
//! Three kinds of `calc_diff`, all with the choices of the source:
//!
//! - Every module by itself, on the source's inputs (`layer-module`): one that has no quantized weight (norms, rope and
//!   softmax, the router's bias, the sum of experts) may differ by 1e-5, a float weight by 1e-4 (rounding to BF16 costs
//!   about 1e-6), a quantized one by 5e-3 (five times T5's budget, which is for Gaussians; a real model of 135 M
//!   parameters measures up to 1.2e-3). So a norm, a rope or a router that is not its source's is named, however small
//!   its effect.
//! - What the block adds (`layer-output`): 2e-2 with quantized weights, 2e-4 without. Five matrix multiplications follow
//!   one another in a block, each within T5's 1e-3 on Gaussian inputs, and noise powers add; the outputs of SwiGLU and of
//!   real norms have heavier tails than Gaussians, which a factor of four allows for. A real model of 135 M parameters
//!   measures up to 2.6e-3 (INT8) and 6.5e-3 (FP8) a block.
//! - The logits of a whole model (`model-logits`): 5e-2 and 5e-3; the residual stream averages over blocks, but each
//!   passes on the errors of those before it.

mod arch;
mod attention;
mod block;
mod math;
mod mlp;
mod model;
mod side;

use crate::checkpoint::{Checkpoint, Encoding};
use crate::dtype::Dtype;
use crate::error::{Class, Error, Result};
use crate::report::model::{Check, LayerRow, Level, Metrics, Verdict};
use crate::validate::kernels::{Matrix, Outcome, Request, Shards, Stream};
use crate::validate::metrics::{Accumulator, Tolerance};
use arch::Arch;
use block::{Choices, Out, Trace, block};
use side::{Grid, Rounding, Side};

/// Tokens that go through every block.
pub const TOKENS: usize = 16;

/// Limits of `calc_diff`.
struct Limits {
    block: f64,
    model: f64,
}

impl Limits {
    /// For an artifact with or without quantized weights.
    fn of(side: &Side<'_>) -> Self {
        let coded = |e: &Encoding| matches!(e, Encoding::Codes(_));
        if side.shards.checkpoint.encodings.iter().any(coded) {
            Self { block: 2e-2, model: 5e-2 }
        } else {
            Self { block: 2e-4, model: 5e-3 }
        }
    }

    /// For one module by itself.
    fn module(side: &Side<'_>, module: &str) -> f64 {
        let checkpoint = side.shards.checkpoint;
        match checkpoint.find(&format!("{module}.weight")) {
            Some(id) if matches!(checkpoint.encodings[id as usize], Encoding::Codes(_)) => 5e-3,
            Some(id) if checkpoint.tensor(id).shape.len() == 2 => 1e-4,
            _ => 1e-5,
        }
    }
}

/// Least share of (token, expert) choices that a good artifact shares with its source: near ties fall either way.
const LEAST_AGREEMENT: f64 = 0.8;

/// Bytes per element of a band in work.
const BAND_BYTES: u64 = 16;

/// Runs the selected blocks, then, for `whole_model`, the model.
///
/// # Errors
/// Reading errors. What the artifact lacks or shapes otherwise is a failing check.
pub fn run(request: &Request<'_>, whole_model: bool) -> Result<Outcome<LayerRow>> {
    let mut outcome = Outcome { rows: Vec::new(), checks: Vec::new(), notes: Vec::new() };
    let source_arch = match Arch::of(request.source) {
        Ok(arch) => arch,
        Err(why) => {
            outcome.checks.push(check(
                "layer-config",
                None,
                Verdict::Skip,
                format!("no block was run: {why}"),
            ));
            return Ok(outcome);
        }
    };
    let artifact_arch = match Arch::of(request.artifact) {
        Ok(arch) => arch,
        Err(why) => {
            let message = format!("the source's blocks can be computed, the artifact's cannot: {why}");
            outcome.checks.push(check("layer-config", None, Verdict::Fail, message));
            return Ok(outcome);
        }
    };
    let differences = source_arch.differences(&artifact_arch);
    if differences.is_empty() {
        let message = format!("both describe the same {} blocks", source_arch.family);
        outcome.checks.push(check("layer-config", None, Verdict::Pass, message));
    } else {
        let message = format!(
            "config.json of the artifact describes another computation than the source's: {}",
            differences.join(", ")
        );
        outcome.checks.push(check("layer-config", None, Verdict::Fail, message));
    }
    let shards = [Shards::new(request.source), Shards::new(request.artifact)];
    let largest = shards.iter().map(largest_band).max().unwrap_or(side::BAND);
    let pool = request.pool(largest * BAND_BYTES)?;
    let side = |shards, arch, engine| Side { shards, arch, rounding: Rounding::Bf16, engine, pool: &pool };
    let source = side(&shards[0], source_arch, false);
    let artifact = side(&shards[1], artifact_arch, true);

    let selected = select(&source, request.sample);
    let total = source.arch.layers + source.arch.mtp_layers;
    if selected.len() < total {
        outcome.notes.push(format!("{} of {total} blocks were run", selected.len()));
    }
    let mut worst: Option<(f64, String)> = None;
    for index in selected {
        let name = source.arch.layer(index);
        let x = Stream::new(request.seed, &name).activations(TOKENS * source.arch.hidden);
        let x = Grid::new(TOKENS, source.arch.hidden, x);
        let mut trace = Trace::default();
        let golden = block(&source, index, &x, None, &mut trace)?;
        let choices = Some(&golden.choices);
        let actual = block(&artifact, index, &x, choices, &mut Trace::default()).and_then(|actual| {
            let mut taught = Trace::taught(&trace);
            block(&artifact, index, &x, choices, &mut taught)?;
            Ok((actual, modules(&trace, &taught)))
        });
        match actual {
            Ok((actual, modules)) => {
                let row = judge(&artifact, index, &golden, &actual, &modules, &mut outcome.checks);
                let value = row.metrics.calc_diff.unwrap_or(0.0);
                if worst.as_ref().is_none_or(|(w, _)| value > *w) {
                    worst = Some((value, row.name.clone()));
                }
                outcome.rows.push(row);
            }
            Err(error) => outcome.checks.push(refused("layer-output", &name, error)?),
        }
    }
    if let Some((value, name)) = worst
        && outcome.rows.iter().all(|r| r.verdict == Some(Verdict::Pass))
    {
        let message = format!("{} blocks; the largest is {name}", outcome.rows.len());
        let mut passed = check("layer-output", None, Verdict::Pass, message);
        (passed.metric, passed.value, passed.limit) =
            (Some("calc_diff".into()), Some(value), Some(Limits::of(&artifact).block));
        outcome.checks.push(passed);
    }
    if whole_model {
        model::run(request, &source, &artifact, &mut outcome)?;
    }
    Ok(outcome)
}

/// The states after layer `index` of a checkpoint for `tokens` states (row-major), in single precision and without
/// quantized activations: what an oracle is compared with.
///
/// # Errors
/// Reading errors; exit 3 for a family whose blocks are not known.
pub fn reference_block(
    checkpoint: &Checkpoint,
    index: usize,
    states: &[f32],
    tokens: usize,
) -> Result<Vec<f32>> {
    reference(checkpoint, |side| {
        let x = Grid::new(tokens, side.arch.hidden, states.to_vec());
        Ok(block(side, index, &x, None, &mut Trace::default())?.states.data)
    })
}

/// The logits `[tokens, vocabulary]` of token ids, as [`reference_block`].
///
/// # Errors
/// As [`reference_block`].
pub fn reference_logits(checkpoint: &Checkpoint, ids: &[u32]) -> Result<Vec<f32>> {
    reference(checkpoint, |side| {
        let mut x = model::embed(side, ids)?;
        for index in 0..side.arch.layers {
            x = block(side, index, &x, None, &mut Trace::default())?.states;
        }
        Ok(model::head(side, &x)?.data)
    })
}

fn reference<T>(checkpoint: &Checkpoint, work: impl FnOnce(&Side<'_>) -> Result<T>) -> Result<T> {
    let arch = Arch::of(checkpoint).map_err(|why| {
        Error::unsupported("layer-family", "the blocks of this model cannot be computed")
            .found(why)
            .fix("validate at the kernel level")
    })?;
    let shards = Shards::new(checkpoint);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|e| Error::new(Class::Io, "threads", "cannot start the worker threads").found(e))?;
    work(&Side { shards: &shards, arch, rounding: Rounding::Single, engine: false, pool: &pool })
}

fn largest_band(shards: &Shards<'_>) -> u64 {
    let ids = (0..).zip(&shards.checkpoint.tensors).map(|(id, _)| id);
    let bands = ids.filter_map(|id| Matrix::open(shards, id)).map(|m| m.granule() * m.cols);
    bands.max().unwrap_or(0).max(side::BAND)
}

/// Layers to run: all of them, or a share that is evenly spread and holds the first, the last and one of each kind.
fn select(side: &Side<'_>, sample: f64) -> Vec<usize> {
    let total = side.arch.layers + side.arch.mtp_layers;
    if sample >= 1.0 || total == 0 {
        return (0..total).collect();
    }
    let wanted = ((total as f64 * sample).ceil() as usize).clamp(1, total);
    let mut chosen: Vec<usize> = (0..wanted).map(|i| i * total / wanted).collect();
    chosen.extend([0, side.arch.layers - 1, total - 1]);
    for moe in [false, true] {
        chosen.extend((0..total).find(|l| is_moe(side, *l) == moe));
    }
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

fn is_moe(side: &Side<'_>, index: usize) -> bool {
    side.arch.router.is_some() && side.has(&format!("{}.mlp.gate.weight", side.arch.layer(index)))
}

fn judge(
    artifact: &Side<'_>,
    index: usize,
    golden: &Out,
    actual: &Out,
    modules: &[(String, f64)],
    checks: &mut Vec<Check>,
) -> LayerRow {
    let limit = Limits::of(artifact).block;
    let metrics = compare(&actual.update, &golden.update, limit);
    let agreement = routing(&golden.choices, &actual.choices);
    let name = artifact.arch.layer(index);
    let worst = modules.iter().filter(|(_, v)| *v > 0.0).max_by(|a, b| a.1.total_cmp(&b.1));
    let mut good = true;
    for (module, value) in modules {
        let module = format!("{name}.{module}");
        let limit = Limits::module(artifact, &module);
        if *value <= limit {
            continue;
        }
        good = false;
        let message = format!(
            "on the source's inputs the module gives something else than the source's: calc_diff {value:.2e}, at most \
             {limit:.0e}"
        );
        let mut failed = check("layer-module", Some(&module), Verdict::Fail, message);
        (failed.metric, failed.value, failed.limit) = (Some("calc_diff".into()), Some(*value), Some(limit));
        checks.push(failed);
    }
    if metrics.calc_diff.is_none_or(|v| v > limit) {
        good = false;
        let place = worst.map_or(String::new(), |(m, v)| {
            format!("; the module that differs most on the source's inputs is {name}.{m} (calc_diff {v:.2e})")
        });
        let value = metrics.calc_diff;
        let message = format!(
            "what the block adds differs from the source's: calc_diff {}, at most {limit:.0e}{place}",
            value.map_or("undefined".into(), |v| format!("{v:.2e}"))
        );
        let mut failed = check("layer-output", Some(&name), Verdict::Fail, message);
        (failed.metric, failed.value, failed.limit) = (Some("calc_diff".into()), value, Some(limit));
        checks.push(failed);
    }
    if let Some(share) = agreement
        && share < LEAST_AGREEMENT
    {
        let message = format!(
            "the artifact's router would choose {:.1} % of the same experts, at least {:.0} % expected: look at the \
             router's weight and bias",
            100.0 * share,
            100.0 * LEAST_AGREEMENT
        );
        let mut warning = check("layer-routing", Some(&name), Verdict::Warn, message);
        (warning.metric, warning.value) = (Some("routing_agreement".into()), Some(share));
        warning.limit = Some(LEAST_AGREEMENT);
        checks.push(warning);
    }
    let mut note = "metrics of what the block adds to the residual stream".to_owned();
    if let Some((module, value)) = worst {
        note.push_str(&format!("; on the source's inputs {module} differs most (calc_diff {value:.1e})"));
    }
    if let Some(choice) = &golden.choices.experts {
        let mut used: Vec<usize> = choice.experts.iter().flatten().copied().collect();
        used.sort_unstable();
        used.dedup();
        note.push_str(&format!("; {} experts ran", used.len()));
    }
    if let (Some(a), Some(b)) = (&golden.choices.keys, &actual.choices.keys) {
        let share = shared(a, b);
        note.push_str(&format!("; the indexer chooses {:.1} % of the same keys", 100.0 * share));
    }
    let moe = if is_moe(artifact, index) { "moe" } else { "dense" };
    let mtp = if index >= artifact.arch.layers { " mtp" } else { "" };
    LayerRow {
        name,
        layer: u32::try_from(index).ok(),
        kind: format!("{} {moe}{mtp}", artifact.arch.family.replace('_', "-")),
        metrics,
        routing_agreement: agreement,
        verdict: Some(if good { Verdict::Pass } else { Verdict::Fail }),
        note: Some(note),
    }
}

/// The metrics of a pair; elements within what `limit` of `calc_diff` explains are no candidates for the first bad one.
fn compare(actual: &Grid, golden: &Grid, limit: f64) -> Metrics {
    let squares: f64 =
        golden.data.iter().map(|v| f64::from(*v) * f64::from(*v)).filter(|v| v.is_finite()).sum();
    let rms = (squares / golden.data.len().max(1) as f64).sqrt();
    // At the limit, errors are √(2 × calc_diff) of the rms; five of those hardly ever happen below it.
    let tolerance = Tolerance { absolute: 5.0 * (2.0 * limit).sqrt() * rms, relative: 0.0 };
    let mut all = Accumulator::with_tolerance(Dtype::BF16, tolerance);
    all.add(0, &actual.data, &golden.data);
    all.finish(&[golden.rows as u64, golden.cols as u64])
}

/// `calc_diff` of every module that both sides computed, in order.
fn modules(golden: &Trace<'_>, actual: &Trace<'_>) -> Vec<(String, f64)> {
    let pairs = golden.entries.iter().zip(&actual.entries);
    pairs
        .filter(|((a, x), (b, y))| a == b && (x.rows, x.cols) == (y.rows, y.cols))
        .map(|((name, x), (_, y))| (name.clone(), compare(y, x, 0.0).calc_diff.unwrap_or(f64::INFINITY)))
        .collect()
}

/// The share of (token, expert) choices that both made.
fn routing(golden: &Choices, actual: &Choices) -> Option<f64> {
    let (a, b) = (golden.experts.as_ref()?, actual.experts.as_ref()?);
    Some(shared(&a.experts, &b.experts))
}

fn shared(a: &[Vec<usize>], b: &[Vec<usize>]) -> f64 {
    let total: usize = a.iter().map(Vec::len).sum();
    let same: usize = a.iter().zip(b).map(|(x, y)| x.iter().filter(|e| y.contains(e)).count()).sum();
    if total == 0 { 1.0 } else { same as f64 / total as f64 }
}

/// A failing check from what the artifact lacks; reading errors pass through.
fn refused(id: &str, name: &str, error: Error) -> Result<Check> {
    if !error.code().starts_with("layer-") {
        return Err(error);
    }
    let mut message = error.what_text().to_owned();
    for (what, text) in [("expected", error.expected_text()), ("found", error.found_text())] {
        if let Some(text) = text {
            message.push_str(&format!("; {what} {text}"));
        }
    }
    Ok(check(id, Some(error.tensor_name().unwrap_or(name)), Verdict::Fail, message))
}

fn check(id: &str, tensor: Option<&str>, verdict: Verdict, message: String) -> Check {
    Check {
        id: id.into(),
        level: Level::Layer,
        tensor: tensor.map(str::to_owned),
        metric: None,
        value: None,
        limit: None,
        verdict,
        message,
    }
}
