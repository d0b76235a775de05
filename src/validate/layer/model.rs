//! The model level: token ids to logits.

use super::block::{Trace, block};
use super::math;
use super::side::{Grid, Side};
use super::{Limits, TOKENS, check, compare, refused, shared};
use crate::checkpoint::{Kind, Part};
use crate::error::{Error, Result};
use crate::report::model::{LayerRow, Level, Verdict};
use crate::validate::kernels::{Matrix, Outcome, Request, Stream};

/// Runs both models on seeded token ids. Experts and keys are those of the source.
pub(super) fn run(
    request: &Request<'_>,
    source: &Side<'_>,
    artifact: &Side<'_>,
    outcome: &mut Outcome<LayerRow>,
) -> Result<()> {
    let mut stream = Stream::new(request.seed, "token ids");
    let vocabulary = source.arch.vocab.max(1) as u64;
    let ids: Vec<u32> = (0..TOKENS).map(|_| ((stream.next_u64() >> 32) % vocabulary) as u32).collect();
    let mut golden = embed(source, &ids)?;
    let mut agreement: Vec<f64> = Vec::new();
    let actual = (|| {
        let mut actual = embed(artifact, &ids)?;
        for index in 0..source.arch.layers {
            let wanted = block(source, index, &golden, None, &mut Trace::default())?;
            let found = block(artifact, index, &actual, Some(&wanted.choices), &mut Trace::default())?;
            if let (Some(a), Some(b)) = (&wanted.choices.experts, &found.choices.experts) {
                agreement.push(shared(&a.experts, &b.experts));
            }
            (golden, actual) = (wanted.states, found.states);
        }
        head(artifact, &actual)
    })();
    let actual = match actual {
        Ok(actual) => actual,
        Err(error) => {
            let mut failed = refused("model-logits", "model", error)?;
            failed.level = Level::Model;
            outcome.checks.push(failed);
            return Ok(());
        }
    };
    let golden = head(source, &golden)?;
    let limit = Limits::of(artifact).model;
    let metrics = compare(&actual, &golden, limit);
    let good = metrics.calc_diff.is_some_and(|v| v <= limit);
    let (divergence, same) = distributions(&golden, &actual);
    let note = format!(
        "logits of {TOKENS} seeded tokens: KL divergence {divergence:.2e} nats, same top token for {same} of {TOKENS}"
    );
    let verdict = if good { Verdict::Pass } else { Verdict::Fail };
    let mut judged = check("model-logits", None, verdict, note.clone());
    judged.level = Level::Model;
    judged.metric = Some("calc_diff".into());
    (judged.value, judged.limit) = (metrics.calc_diff, Some(limit));
    outcome.checks.push(judged);
    let count = agreement.len() as f64;
    outcome.rows.push(LayerRow {
        name: "model".into(),
        layer: None,
        kind: format!("{} model", source.arch.family.replace('_', "-")),
        metrics,
        routing_agreement: (count > 0.0).then(|| agreement.iter().sum::<f64>() / count),
        verdict: Some(verdict),
        note: Some(note),
    });
    Ok(())
}

/// The embeddings of token ids.
pub(super) fn embed(side: &Side<'_>, ids: &[u32]) -> Result<Grid> {
    let name = format!("{}embed_tokens.weight", side.arch.prefix);
    let matrix = open(side, &name)?;
    let mut data = Vec::with_capacity(ids.len() * side.arch.hidden);
    for id in ids {
        let row = u64::from(*id) % matrix.rows.max(1);
        let granule = matrix.granule();
        let start = row / granule * granule;
        let band = matrix.decoded(&(start..(start + granule).min(matrix.rows)))?;
        let from = ((row - start) * matrix.cols) as usize;
        data.extend(band[from..].iter().take(side.arch.hidden).map(|v| side.rounding.round(f64::from(*v))));
    }
    if data.len() != ids.len() * side.arch.hidden {
        return Err(Error::input("layer-shape", "the embedding's width is not hidden_size")
            .tensor(name)
            .expected(side.arch.hidden)
            .found(matrix.cols));
    }
    Ok(Grid::new(ids.len(), side.arch.hidden, data))
}

/// The final norm and the output head.
pub(super) fn head(side: &Side<'_>, x: &Grid) -> Result<Grid> {
    let name = format!("{}norm.weight", side.arch.prefix);
    let normed = side.rms_norm(&name, x, side.arch.hidden, side.arch.eps)?;
    let checkpoint = side.shards.checkpoint;
    let own = (0..).zip(&checkpoint.tensors).find(|(id, _)| {
        let role = checkpoint.role(*id);
        role.kind == Kind::LmHead && role.part == Part::Weight && role.layer.is_none()
    });
    let name = match own {
        Some((_, tensor)) => tensor.name.to_string(),
        None if side.arch.tied => format!("{}embed_tokens.weight", side.arch.prefix),
        None => "lm_head.weight".into(),
    };
    let rows = open(side, &name)?.rows as usize;
    // Logits leave the model wide.
    let logits = side.product(&name, &normed, rows)?;
    Ok(Grid::new(x.rows, rows, logits.iter().map(|v| *v as f32).collect()))
}

fn open<'a>(side: &Side<'a>, name: &str) -> Result<Matrix<'a>> {
    let id = side.shards.checkpoint.find(name);
    id.and_then(|id| Matrix::open(side.shards, id)).ok_or_else(|| {
        Error::input("layer-absent", "the model needs a matrix that does not exist")
            .tensor(name)
            .fix("validate at the structure level")
    })
}

/// The mean of KL(golden ‖ actual) over tokens, in nats, and the tokens whose largest logit is the same.
fn distributions(golden: &Grid, actual: &Grid) -> (f64, usize) {
    let (mut sum, mut same) = (0.0, 0);
    for token in 0..golden.rows.min(actual.rows) {
        let (g, a) = (log_softmax(golden.row(token)), log_softmax(actual.row(token)));
        sum += g.iter().zip(&a).map(|(g, a)| math::exp(*g) * (g - a)).sum::<f64>();
        let top = |x: &[f64]| (0..x.len()).max_by(|i, j| x[*i].total_cmp(&x[*j]).then(j.cmp(i)));
        same += usize::from(top(&g) == top(&a));
    }
    (sum / golden.rows.max(1) as f64, same)
}

fn log_softmax(x: &[f32]) -> Vec<f64> {
    let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = x.iter().map(|v| math::exp(f64::from(*v) - f64::from(top))).sum();
    let log = math::ln(sum) + f64::from(top);
    x.iter().map(|v| f64::from(*v) - log).collect()
}
