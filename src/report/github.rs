//! Annotations of GitHub Actions: workflow commands that a runner reads from the output of a step.

use super::junit::{kernel_line, line};
use super::model::{Report, Verdict};
use super::text;

/// A runner shows ten annotations of a kind per step and drops the rest without a word.
const SHOWN: usize = 10;

/// `::error` and `::warning` commands, a line each, for what failed and what is odd; empty where nothing is. The last
/// of a kind counts those that did not fit. Print them where `GITHUB_ACTIONS` is set; [`super::markdown`] is for the
/// file that `GITHUB_STEP_SUMMARY` names.
pub fn annotations(report: &Report) -> String {
    let mut text = String::new();
    for (verdict, command) in [(Verdict::Fail, "error"), (Verdict::Warn, "warning")] {
        let checks = report.checks.iter().filter(|c| c.verdict == verdict).map(|c| (c.id.as_str(), line(c)));
        let kernels = (report.kernels.iter())
            .filter(|row| row.verdict == Some(verdict))
            .map(|row| (row.id.as_str(), kernel_line(row)));
        let layers = (report.layers.iter())
            .filter(|row| row.verdict == Some(verdict))
            .map(|row| ("layer", text::clip(&row.name, text::NAME).into_owned()));
        let mut found: Vec<(&str, String)> = checks.chain(kernels).chain(layers).collect();
        if found.len() > SHOWN {
            let more = found.len() - (SHOWN - 1);
            found.truncate(SHOWN - 1);
            found.push(("more", format!("{} more, see report.html", text::count(more as u64))));
        }
        for (id, message) in found {
            let title = property(&format!("silicast: {}", text::clip(id, text::NAME)));
            text += &format!("::{command} title={title}::{}\n", data(&message));
        }
    }
    text
}

/// Escapes the message of a command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property of a command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
