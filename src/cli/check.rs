//! `check`: a checkpoint against the loader of an engine.

use super::ui::{Ui, size, table};
use crate::error::{Class, Result, quote};
use crate::targets::Target;
use crate::validate::contract::{Finding, check};
use std::collections::BTreeSet;
use std::path::Path;

pub(super) fn run(dir: &Path, target: Option<&str>, engine: Option<&str>, ui: &Ui) -> Result<u8> {
    let target = target.map(Target::find).transpose()?;
    let outcome = check(dir, target, engine)?;
    if ui.json() {
        ui.document(&outcome)?;
    } else {
        let mut text = String::new();
        if !outcome.findings.is_empty() {
            let rows: Vec<Vec<String>> = outcome.findings.iter().map(row).collect();
            text += &table(&["severity", "rule", "where", "expected", "found"], &rows, &[]);
            text.push('\n');
            let mut said = BTreeSet::new();
            for finding in &outcome.findings {
                if said.insert((finding.id, &finding.fix)) {
                    text += &format!("fix {}: {}\n", finding.id, quote(&finding.fix, 300));
                }
            }
            text.push('\n');
        }
        if outcome.scales_sampled {
            text += &format!(
                "scales: {} of {} looked at, both ends of every tensor\n",
                size(outcome.scale_bytes_read),
                size(outcome.scale_bytes)
            );
        }
        let verdict = if outcome.errors == 0 { "pass" } else { "fail" };
        text += &format!(
            "{verdict}: {} ({}), {} errors, {} warnings\n",
            outcome.engine,
            quote(&outcome.engine_reason, 200),
            outcome.errors,
            outcome.warnings
        );
        ui.text(&text)?;
    }
    Ok(if outcome.errors == 0 { 0 } else { Class::Gate.exit_code() })
}

fn row(finding: &Finding) -> Vec<String> {
    let at = finding.tensor.as_ref().or(finding.file.as_ref());
    vec![
        finding.severity.name().to_owned(),
        finding.id.to_owned(),
        at.map_or(String::new(), |text| quote(text, 120)),
        quote(&finding.expected, 70),
        quote(&finding.found, 90),
    ]
}
