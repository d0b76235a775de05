//! `inspect`: what a checkpoint is.

use super::ui::{Ui, count, size, table};
use crate::checkpoint::{Checkpoint, summary};
use crate::error::Result;
use std::path::Path;

pub(super) fn run(src: &Path, ui: &Ui) -> Result<u8> {
    let checkpoint = Checkpoint::open(src)?;
    for warning in &checkpoint.warnings {
        ui.warn(warning);
    }
    let summary = summary(&checkpoint);
    if ui.json() {
        ui.document(&summary)?;
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = summary
        .schemes
        .iter()
        .map(|s| vec![s.name.clone(), count(s.tensors as u64), size(s.bytes)])
        .collect();
    let mut text = format!(
        "family   {}\ntensors  {}\nbytes    {} ({})\n\n",
        summary.family,
        count(summary.tensors as u64),
        count(summary.bytes),
        size(summary.bytes)
    );
    text += &table(&["scheme", "tensors", "bytes"], &rows, &[1, 2]);
    for note in &summary.notes {
        text += &format!("note: {}\n", crate::error::quote(note, 600));
    }
    ui.text(&text)?;
    Ok(0)
}
