//! The checks that every conversion ends with.

use super::diff::{self, Verdict};
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Class, Error, Result};
use crate::plan::{Fate, Plan};
use std::path::Path;

/// Least SQNR in dB of a weight whose tensor survives quantization at 8 bits: half of what Gaussian weights reach, so
/// that only broken tensors fail.
const LEAST_SQNR_DB: f64 = 15.0;

/// Holds the artifact in `dir`, opened as a stranger would, against the plan: every tensor with its dtype, shape, file and
/// offset, nothing else.
///
/// # Errors
/// Class Gate naming the first tensor or file that differs.
pub fn quick(artifact: &Checkpoint, dir: &Path, plan: &Plan) -> Result<()> {
    let differs = |name: &str, expected: String, found: String| {
        Error::new(Class::Gate, "artifact-differs", "the finished artifact is not what the plan says")
            .file(dir.display())
            .tensor(name)
            .expected(expected)
            .found(found)
            .fix("keep the folder and report this with the plan; run again with --restart")
    };
    for output in &plan.outputs {
        let Some(id) = artifact.find(&output.name) else {
            return Err(differs(&output.name, output.ty.to_string(), "no such tensor".to_owned()));
        };
        let found = artifact.tensor(id);
        let file = &artifact.files[found.file as usize].name;
        let (expected_file, expected_offset) =
            output.place.map_or(("", 0), |p| (plan.shards[p.shard as usize].name.as_str(), p.offset));
        let same = found.dtype == output.ty.dtype
            && found.shape == output.ty.shape
            && file == expected_file
            && found.offset == expected_offset;
        if !same {
            return Err(differs(
                &output.name,
                format!("{} at byte {expected_offset} of {expected_file}", output.ty),
                format!("{}{:?} at byte {} of {file}", found.dtype, found.shape, found.offset),
            ));
        }
    }
    if artifact.tensors.len() != plan.outputs.len() {
        let known: std::collections::BTreeSet<&str> = plan.outputs.iter().map(|o| o.name.as_ref()).collect();
        let extra = artifact.tensors.iter().find(|t| !known.contains(t.name.as_ref()));
        return Err(differs(
            extra.map_or("", |t| &t.name),
            "no such tensor".to_owned(),
            "a tensor".to_owned(),
        ));
    }
    Ok(())
}

/// Decodes every weight of the artifact in `dir` and compares it with the source.
///
/// # Errors
/// Class Gate naming a tensor that is missing, should be equal and is not, or lost more than quantization explains.
pub fn full(dir: &Path, plan: &Plan, source: &Checkpoint, jobs: usize) -> Result<()> {
    let artifact = Checkpoint::open(dir)?;
    let report = diff::compare(source, &artifact, jobs)?;
    let fail = |name: &str, expected: String, found: String| {
        Error::new(Class::Gate, "tensor-differs", "a tensor of the artifact is not what its source says")
            .file(dir.display())
            .tensor(name)
            .expected(expected)
            .found(found)
            .fix("keep the folder and report this with the plan")
    };
    for row in &report.tensors {
        let fate = plan.outputs.iter().find(|o| o.name == row.name).map(|o| (o.fate, o.ty.dtype));
        match (row.verdict, fate) {
            (Verdict::Equal, _) => {}
            (Verdict::OnlyInA, _) => {
                if !plan.drops.iter().any(|d| plan.inputs[d.source as usize].name == row.name) {
                    return Err(fail(&row.name, "a tensor of that name".to_owned(), "none".to_owned()));
                }
            }
            (Verdict::Differs, Some((Fate::Kept, _))) => {
                return Err(fail(&row.name, "equal values".to_owned(), "other values".to_owned()));
            }
            (Verdict::Differs, Some((_, dtype))) => {
                let least = if dtype == Dtype::BF16 { 2.0 * LEAST_SQNR_DB } else { LEAST_SQNR_DB };
                if row.sqnr_db.is_some_and(|db| db < least) {
                    let found = row.sqnr_db.map_or(String::new(), |db| format!("{db:.1} dB"));
                    return Err(fail(&row.name, format!("an SQNR of at least {least} dB"), found));
                }
            }
            (verdict, _) => {
                return Err(fail(&row.name, "a comparable tensor".to_owned(), verdict.name().to_owned()));
            }
        }
    }
    Ok(())
}
