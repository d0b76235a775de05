//! `finalize`: joins the slices of one output.

use super::conclude::conclude;
use super::convert::worst;
use super::ui::{Ui, size};
use crate::error::Result;
use crate::exec::finalize;
use crate::io::lock::RunLock;
use crate::io::output::OutputDir;
use crate::io::source::exists;
use crate::plan::Fates;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Serialize)]
struct Document {
    out: String,
    files: usize,
    tensors: usize,
    bytes: u64,
    fates: Fates,
    worst: Vec<super::convert::Worst>,
    verdict: &'static str,
}

pub(super) fn run(out: &Path, overwrite: bool, sha256: bool, jobs: usize, ui: &Ui) -> Result<u8> {
    let partial = finalize::partial_path(out)?;
    if exists(out) && !overwrite {
        return Err(finalize::output_exists(out, "something that is there already"));
    }
    let dir = OutputDir::open(&partial)?;
    let lock = RunLock::exclusive(&dir)?;
    let (plan, digest) = finalize::read_plan(&dir)?;
    let losses = if finalize::is_sealed(&dir, &digest, jobs)? {
        // Killed between manifest and rename: the bytes are all there and verified.
        BTreeMap::new()
    } else {
        let finished = finalize::collect(&dir, &plan, &digest)?;
        let losses = finalize::losses(&dir, &plan)?;
        conclude(&dir, &finished, &losses, sha256, true)?;
        losses
    };
    finalize::seal(&dir, &lock, out, overwrite)?;
    let worst = worst(&plan, &losses);
    if ui.json() {
        ui.document(&Document {
            out: out.display().to_string(),
            files: plan.shards.len() + plan.side_files.len(),
            tensors: plan.outputs.len(),
            bytes: plan.output_bytes(),
            fates: plan.fates(),
            worst,
            verdict: "pass",
        })?;
    } else {
        ui.say(&format!(
            "{}: pass; {} in {} shards",
            out.display(),
            size(plan.output_bytes()),
            plan.shards.len()
        ));
    }
    Ok(0)
}
