//! The report that every conversion ends with: the plan's fates and the errors measured while the tiles were made.
//!
//! `silicast validate` re-reads an artifact and measures independently; this costs nothing, because the executor has
//! summed the errors exactly.

use crate::artifact::manifest::Tool;
use crate::checkpoint::{Checkpoint, Encoding, TensorId, natural_cmp};
use crate::dtype::scheme::Rule;
use crate::exec::finalize::{Loss, scheme_name};
use crate::plan::recipe::{NanPolicy, ResolvedRecipe};
use crate::plan::{Fate, Output, Plan};
use crate::report::model::{
    Check, Level, Report, SCHEMA_VERSION, Subject, TensorRow, Tool as ReportTool, Verdict,
};
use std::collections::{BTreeMap, BTreeSet};

/// Least SQNR in dB of a weight at 8 bits that is not remarkable: half of what Gaussian weights reach.
const LEAST_SQNR_DB: f64 = 15.0;

/// The report of a conversion by `plan`, whose finished files are `artifact`. `losses` are by output.
pub fn report(plan: &Plan, digest: &str, artifact: &Checkpoint, losses: &BTreeMap<u32, Loss>) -> Report {
    let tensors = rows(plan, artifact, losses);
    let mut checks = vec![Check {
        id: "plan-agreement".to_owned(),
        level: Level::Structure,
        tensor: None,
        metric: None,
        value: None,
        limit: None,
        verdict: Verdict::Pass,
        message: format!(
            "{} tensors in {} files have the names, formats, shapes and places of the plan",
            plan.outputs.len(),
            plan.shards.len()
        ),
    }];
    checks.extend(remarks(plan, losses));
    let tool = Tool::this();
    Report {
        schema_version: SCHEMA_VERSION,
        verdict: Verdict::Pass,
        level: Level::Structure,
        tool: ReportTool { name: tool.name, version: tool.version },
        artifact: Subject {
            family: Some(plan.header.family.clone()),
            target: Some(plan.header.target.clone()),
            engine: Some(plan.header.engine.clone()),
            scheme: Some(plan.header.scheme.clone()),
            plan_digest: Some(digest.to_owned()),
            files: plan.shards.len() as u64,
            tensors: plan.outputs.len() as u64,
            bytes: plan.output_bytes(),
            bytes_by_scheme: sum(plan.outputs.iter().map(|o| (scheme_name(plan, o), o.bytes()))),
        },
        source: Some(Subject {
            family: Some(plan.header.family.clone()),
            files: plan.sources.len() as u64,
            tensors: plan.inputs.len() as u64,
            bytes: plan.inputs.iter().map(|t| t.bytes).sum(),
            bytes_by_scheme: sum(plan.inputs.iter().map(|t| (t.dtype.golden_name().to_owned(), t.bytes))),
            ..Subject::default()
        }),
        sampled: 1.0,
        engine_path: None,
        checks,
        tensors,
        kernels: Vec::new(),
        layers: Vec::new(),
        notes: vec![
            "The errors were summed exactly while the tensors were converted. `silicast validate OUT --against SRC` \
             reads artifact and source again and measures them independently."
                .to_owned(),
        ],
        reproduce: reproduce(plan),
    }
}

fn sum(parts: impl Iterator<Item = (String, u64)>) -> BTreeMap<String, u64> {
    let mut total = BTreeMap::new();
    for (name, bytes) in parts {
        *total.entry(name).or_default() += bytes;
    }
    total
}

/// What a person should look at: warnings, by output.
pub fn remarks(plan: &Plan, losses: &BTreeMap<u32, Loss>) -> Vec<Check> {
    let mut checks = Vec::new();
    for (index, loss) in losses {
        remark(&plan.outputs[*index as usize], loss, &mut checks);
    }
    checks
}

fn remark(output: &Output, loss: &Loss, checks: &mut Vec<Check>) {
    let mut warn = |id: &str, metric: Option<&str>, value: f64, limit: f64, message: String| {
        checks.push(Check {
            id: id.to_owned(),
            level: Level::Tensor,
            tensor: Some(output.name.to_string()),
            metric: metric.map(str::to_owned),
            value: Some(value),
            limit: Some(limit),
            verdict: Verdict::Warn,
            message,
        });
    };
    if loss.non_finite > 0 {
        let message = format!("{} NaN or infinite values", loss.non_finite);
        warn("non-finite", Some("non_finite"), loss.non_finite as f64, 0.0, message);
    }
    if loss.zero_scale_codes > 0 {
        let message = match loss.computed {
            true => format!("{} non-zero codes under a scale of zero", loss.zero_scale_codes),
            false => format!("{} scales are zero or negative", loss.zero_scale_codes),
        };
        warn("zero-scale", None, loss.zero_scale_codes as f64, 0.0, message);
    }
    // The rule divides by amax / 127.5, so that the largest value of most rows is clipped: no news.
    let clips = output.scheme.is_some_and(|s| s.rule == Rule::Ct127Bf16);
    if loss.saturated > 0 && !clips {
        let message = format!("{} values beyond the range of the format", loss.saturated);
        warn("saturated", None, loss.saturated as f64, 0.0, message);
    }
    if let Some(db) = loss.sqnr_db.filter(|db| *db < LEAST_SQNR_DB) {
        let message = format!("only {db:.1} dB: the tensor hardly survives this scheme");
        warn("sqnr-low", Some("sqnr_db"), db, LEAST_SQNR_DB, message);
    }
}

/// A row for every output that is no scale or offset of another, and for every drop, in natural name order.
fn rows(plan: &Plan, artifact: &Checkpoint, losses: &BTreeMap<u32, Loss>) -> Vec<TensorRow> {
    let owner = |id: TensorId| match artifact.encodings.get(id as usize) {
        Some(Encoding::ScaleOf { codes } | Encoding::OffsetOf { codes }) => *codes,
        _ => id,
    };
    // Outputs by the artifact's tensor that they belong to.
    let mut groups: BTreeMap<TensorId, (Option<u32>, Vec<u32>)> = BTreeMap::new();
    for (index, output) in (0u32..).zip(&plan.outputs) {
        let Some(id) = artifact.find(&output.name) else { continue };
        let group = groups.entry(owner(id)).or_default();
        group.1.push(index);
        if owner(id) == id {
            group.0 = Some(index);
        }
    }
    let mut rows: Vec<TensorRow> = groups
        .iter()
        .filter_map(|(id, (main, members))| {
            let main = (*main)?;
            let output = &plan.outputs[main as usize];
            let mut loads = BTreeSet::new();
            for member in members {
                plan.outputs[*member as usize].expr.for_each_load(&mut |source| {
                    loads.insert(source);
                });
            }
            let role = artifact.role(*id);
            let mut row = TensorRow {
                name: output.name.to_string(),
                role: role.label().map(str::to_owned),
                layer: role.layer,
                expert: role.expert,
                fate: output.fate.name().to_owned(),
                scheme: Some(scheme_name(plan, output)),
                exactness: Some(output.exactness.name().to_owned()),
                elements: output.ty.shape.iter().product(),
                bytes: members.iter().map(|m| plan.outputs[*m as usize].bytes()).sum(),
                source_bytes: loads.iter().map(|s| plan.inputs[*s as usize].bytes).sum(),
                reason: Some(output.reason.to_string()),
                ..TensorRow::default()
            };
            if let Some(loss) = losses.get(&main) {
                measured(&mut row, loss);
            }
            Some(row)
        })
        .chain(plan.drops.iter().map(|drop| {
            let input = &plan.inputs[drop.source as usize];
            TensorRow {
                name: input.name.to_string(),
                fate: Fate::Dropped.name().to_owned(),
                elements: input.shape.iter().product(),
                source_bytes: input.bytes,
                reason: Some(drop.reason.to_string()),
                ..TensorRow::default()
            }
        }))
        .collect();
    rows.sort_by(|a, b| natural_cmp(&a.name, &b.name));
    rows
}

fn measured(row: &mut TensorRow, loss: &Loss) {
    row.non_finite = Some(loss.non_finite);
    if !loss.computed {
        return;
    }
    row.sqnr_db = loss.sqnr_db;
    row.rel_frobenius = Some(loss.sqnr_db.map_or(0.0, |db| 10f64.powf(-db / 20.0)));
    row.max_abs = Some(loss.max_abs);
    row.zero_units = Some(loss.zero_rows);
    row.saturated_pct = Some(100.0 * loss.saturated as f64 / (loss.elements.max(1)) as f64);
}

/// The command that makes the artifact again.
fn reproduce(plan: &Plan) -> Vec<String> {
    let header = &plan.header;
    let mut command =
        format!("silicast convert SRC -o OUT --target {} --scheme {}", header.target, header.scheme);
    if let Ok(recipe) = serde_json::from_str::<ResolvedRecipe>(&header.recipe) {
        for (flag, patterns) in [("--include", &recipe.include), ("--ignore", &recipe.ignore)] {
            for pattern in patterns {
                command += &format!(" {flag} '{}'", pattern.replace('\'', r"'\''"));
            }
        }
        if recipe.nan == NanPolicy::Keep {
            command += " --nan keep";
        }
        if recipe.allow_code_files {
            command += " --allow-code-files";
        }
        command += &format!(" --shard-size {}", recipe.shard_bytes);
    }
    vec![command, "silicast validate OUT --against SRC --report DIR".to_owned()]
}
