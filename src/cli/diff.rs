//! `diff`: two checkpoints, decoded, tensor by tensor.

use super::ui::{Ui, count, table};
use crate::checkpoint::Checkpoint;
use crate::error::{Class, Result, quote};
use crate::validate::diff::{self, Verdict};
use std::path::Path;

/// Rows shown to people; JSON has all of them.
const SHOWN: usize = 20;

pub(super) fn run(a: &Path, b: &Path, jobs: usize, ui: &Ui) -> Result<u8> {
    let (a, b) = (Checkpoint::open(a)?, Checkpoint::open(b)?);
    let report = diff::compare(&a, &b, jobs)?;
    let code = if report.differing + report.unmatched == 0 { 0 } else { Class::Gate.exit_code() };
    if ui.json() {
        ui.document(&report)?;
        return Ok(code);
    }
    let mut rows: Vec<_> = report.tensors.iter().filter(|r| r.verdict != Verdict::Equal).collect();
    // What cannot be compared first, then the lowest SQNR.
    let key = |r: &diff::Row| (r.verdict == Verdict::Differs, r.sqnr_db.unwrap_or(f64::NEG_INFINITY));
    rows.sort_by(|x, y| key(x).0.cmp(&key(y).0).then(key(x).1.total_cmp(&key(y).1)));
    let hidden = rows.len().saturating_sub(SHOWN);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .take(SHOWN)
        .map(|r| {
            vec![
                quote(&r.name, 120),
                r.verdict.name().to_owned(),
                count(r.differing),
                count(r.elements),
                format!("{:.3e}", r.max_abs),
                r.sqnr_db.map_or_else(String::new, |db| format!("{db:.2}")),
            ]
        })
        .collect();
    let mut text = String::new();
    if !cells.is_empty() {
        text +=
            &table(&["tensor", "verdict", "differing", "of", "max abs", "SQNR dB"], &cells, &[2, 3, 4, 5]);
    }
    if hidden > 0 {
        text += &format!("… and {hidden} more; --json lists all\n");
    }
    text += &format!(
        "{} tensors equal, {} differ, {} unmatched\n",
        count(report.equal),
        count(report.differing),
        count(report.unmatched)
    );
    ui.text(&text)?;
    Ok(code)
}
