//! `verify`: hashes against the manifest.

use super::ui::Ui;
use crate::artifact::verify::verify;
use crate::error::{Class, Result, quote};
use std::path::Path;

pub(super) fn run(out: &Path, jobs: usize, ui: &Ui) -> Result<u8> {
    let report = verify(out, jobs)?;
    if ui.json() {
        ui.document(&report)?;
    } else {
        let mut text = String::new();
        for failed in &report.failed {
            text += &format!("{}: {}\n", quote(&failed.path, 300), quote(&failed.reason, 300));
        }
        let verdict = if report.failed.is_empty() { "pass" } else { "fail" };
        text += &format!("{verdict}: {} files, {} failed\n", report.files, report.failed.len());
        ui.text(&text)?;
    }
    Ok(if report.failed.is_empty() { 0 } else { Class::Gate.exit_code() })
}
