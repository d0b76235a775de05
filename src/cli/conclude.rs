//! From finished slices to a sealed artifact: what `convert` and `finalize` do alike.

use crate::checkpoint::{Checkpoint, Encoding};
use crate::dtype::scheme::Scheme;
use crate::error::Result;
use crate::exec::finalize::{self, Finished, Loss};
use crate::exec::weight_slices;
use crate::io::output::OutputDir;
use crate::kernel::emit;
use crate::report;
use crate::validate::{self, conversion};
use std::collections::{BTreeMap, BTreeSet};

/// Our folder in an artifact.
const FOLDER: &str = "silicast";

/// Adds the reference kernels, checks the finished files against the plan and adds the report (both unless `quick` is
/// off), and writes the manifest, which lists everything.
///
/// # Errors
/// Class Gate where the files are not what the plan says.
pub(super) fn conclude(
    dir: &OutputDir,
    finished: &Finished<'_>,
    losses: &BTreeMap<u32, Loss>,
    sha256: bool,
    quick: bool,
) -> Result<()> {
    let artifact = Checkpoint::open(dir.path())?;
    let mut files = Vec::new();
    for file in emit::artifact_pack(&schemes(&artifact), &weight_slices::read(&artifact)?)? {
        files.push((format!("{FOLDER}/kernels/{}", file.path), file.bytes));
    }
    if quick {
        validate::quick(&artifact, dir.path(), finished.plan)?;
        let report = conversion::report(finished.plan, finished.digest, &artifact, losses);
        files.extend(
            report::render(&report).into_iter().map(|(name, bytes)| (format!("{FOLDER}/{name}"), bytes)),
        );
    }
    dir.write_many(files.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice())))?;
    let names: Vec<String> = files.into_iter().map(|(name, _)| name).collect();
    finalize::write_manifest(dir, finished, &names, sha256)
}

/// How the artifact's weights are encoded, each encoding once.
fn schemes(artifact: &Checkpoint) -> Vec<Scheme> {
    let schemes: BTreeSet<Scheme> = artifact
        .encodings
        .iter()
        .filter_map(|encoding| match encoding {
            Encoding::Codes(stored) => Some(stored.scheme),
            _ => None,
        })
        .collect();
    schemes.into_iter().collect()
}
