//! From finished slices to a sealed artifact: what `convert` and `finalize` do alike.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::exec::finalize::{self, Finished, Loss};
use crate::io::output::OutputDir;
use crate::report;
use crate::validate::{self, conversion};
use std::collections::BTreeMap;

/// Checks the finished files against the plan, adds the report, and writes the manifest, which lists everything.
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
    let mut extra = Vec::new();
    if quick {
        let artifact = Checkpoint::open(dir.path())?;
        validate::quick(&artifact, dir.path(), finished.plan)?;
        let report = conversion::report(finished.plan, finished.digest, &artifact, losses);
        write(dir, report::render(&report), &mut extra)?;
    }
    finalize::write_manifest(dir, finished, &extra, sha256)
}

/// Writes files below `silicast/` and remembers their names.
fn write(dir: &OutputDir, files: Vec<(&'static str, Vec<u8>)>, extra: &mut Vec<String>) -> Result<()> {
    let named: Vec<(String, Vec<u8>)> =
        files.into_iter().map(|(name, bytes)| (format!("silicast/{name}"), bytes)).collect();
    dir.write_many(named.iter().map(|(name, bytes)| (name.clone(), bytes.as_slice())))?;
    extra.extend(named.into_iter().map(|(name, _)| name));
    Ok(())
}
