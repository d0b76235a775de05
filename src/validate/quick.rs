//! The checks that every conversion ends with.

use crate::checkpoint::Checkpoint;
use crate::error::{Class, Error, Result};
use crate::plan::Plan;
use std::path::Path;

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
