//! `report.md`, which is also the step summary of a CI run: the verdict and what led to it.

use super::junit::{coordinate, kernel_line};
use super::model::{Report, Verdict};
use super::summary::{Summary, label, level, measured, median};
use super::text;
use std::fmt::Write as _;

/// Rows of one table.
const SHOWN: usize = 50;

/// The Markdown rendering of a report.
pub fn render(report: &Report) -> String {
    of(&Summary::of(report))
}

pub(super) fn of(summary: &Summary<'_>) -> String {
    let mut md = String::new();
    head(summary, &mut md);
    failures(summary, &mut md);
    tensors(summary, &mut md);
    kernels(summary, &mut md);
    layers(summary, &mut md);
    fates(summary, &mut md);
    rules(summary, &mut md);
    let report = summary.report;
    if !report.notes.is_empty() {
        md += "\n## Notes\n\n";
        for note in &report.notes {
            let _ = writeln!(md, "- {}", escape(&text::clip(note, text::MESSAGE)));
        }
    }
    if !report.reproduce.is_empty() {
        md += "\n## Reproduce\n\n";
        for command in &report.reproduce {
            let _ = writeln!(md, "    {}", text::visible(command));
        }
    }
    md
}

fn head(summary: &Summary<'_>, md: &mut String) {
    let report = summary.report;
    let verdict = if summary.passed() { "pass" } else { "fail" };
    let _ = writeln!(md, "# Validation: {verdict}\n\n{}\n", escape(&summary.subject()));
    let artifact = &report.artifact;
    let mut row = |name: &str, value: String| {
        let _ = writeln!(md, "| {name} | {value} |");
    };
    row("", "".to_owned());
    row("---", "---".to_owned());
    let checks = report.checks.len() as u64;
    row(
        "checks",
        format!(
            "{} failed, {} with a warning, {} skipped, of {}",
            text::count(summary.checks(Verdict::Fail)),
            text::count(summary.checks(Verdict::Warn)),
            text::count(summary.checks(Verdict::Skip)),
            text::count(checks)
        ),
    );
    row("level", level(report.level).to_owned());
    if report.sampled < 1.0 {
        row("sampled", format!("{} % of each tensor", text::number(report.sampled * 100.0)));
    }
    row("tensors", text::count(artifact.tensors));
    row(
        "bytes",
        match &report.source {
            Some(source) => format!("{} → {}", text::size(source.bytes), text::size(artifact.bytes)),
            None => text::size(artifact.bytes),
        },
    );
    if let Some((tensor, value)) = summary.lowest() {
        row("lowest SQNR", format!("{}, {}", text::db(value), code(&tensor.name)));
    }
    if let Some(path) = &report.engine_path {
        row("engine path", escape(&text::clip(path, text::MESSAGE)));
    }
    if let Some(digest) = &artifact.plan_digest {
        row("plan", code(digest));
    }
    row("tool", escape(&format!("{} {}", report.tool.name, report.tool.version)));
}

fn failures(summary: &Summary<'_>, md: &mut String) {
    let failed = &summary.failed;
    if !failed.is_empty() {
        *md += "\n## Failed checks\n\n| check | tensor | measured | message |\n|---|---|---|---|\n";
        for check in failed.iter().take(SHOWN) {
            let _ = writeln!(
                md,
                "| {} | {} | {} | {} |",
                code(&check.id),
                check.tensor.as_deref().map(code).unwrap_or_default(),
                escape(&measured(check).unwrap_or_default()),
                escape(&text::clip(&check.message, text::MESSAGE))
            );
        }
        more(failed.len(), md);
    }
    let kernels = summary.failed_kernels();
    if !kernels.is_empty() {
        *md += "\n## Failed kernels\n\n";
        for row in kernels.iter().take(SHOWN) {
            let _ = writeln!(md, "- {}: {}", code(&row.id), escape(&kernel_line(row)));
        }
        more(kernels.len(), md);
    }
}

fn more(total: usize, md: &mut String) {
    if total > SHOWN {
        let _ = writeln!(md, "\n{} more are in report.json.", text::count((total - SHOWN) as u64));
    }
}

fn tensors(summary: &Summary<'_>, md: &mut String) {
    let measured: Vec<_> = summary.classes.iter().filter(|class| !class.sqnr.is_empty()).collect();
    if !measured.is_empty() {
        *md += "\n## SQNR by role and scheme\n\n\
                | role | scheme | tensors | min dB | median dB | max dB | failed checks |\n\
                |---|---|--:|--:|--:|--:|--:|\n";
        let shown = |value: Option<f64>| value.map(|v| format!("{v:.1}")).unwrap_or_default();
        for class in measured.iter().take(SHOWN) {
            let _ = writeln!(
                md,
                "| {} | {} | {} | {} | {} | {} | {} |",
                code(&class.label),
                code(class.scheme),
                text::count(class.tensors.len() as u64),
                shown(class.sqnr.first().copied()),
                shown(median(&class.sqnr)),
                shown(class.sqnr.last().copied()),
                class.failed.len()
            );
        }
        more(measured.len(), md);
    }
    if !summary.worst.is_empty() {
        *md += "\n## Worst tensors\n\n| tensor | role | SQNR | why |\n|---|---|--:|---|\n";
        for worst in &summary.worst {
            let row = worst.tensor;
            let _ = writeln!(
                md,
                "| {} | {} | {} | {} |",
                code(&row.name),
                code(&label(row)),
                row.sqnr_db.map(text::db).unwrap_or_default(),
                escape(&worst.why)
            );
        }
    }
}

fn kernels(summary: &Summary<'_>, md: &mut String) {
    if summary.kernels.is_empty() {
        return;
    }
    *md += "\n## Kernels, worst of each metric\n\n\
            | kernel | tier | cases | failed | calc_diff | rel_diff | MERE | MARE | RMSE | SQNR | first bad |\n\
            |---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|\n";
    let shown = |value: Option<f64>| value.map(text::number).unwrap_or_default();
    for set in summary.kernels.iter().take(SHOWN) {
        let m = set.worst();
        let _ = writeln!(
            md,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            code(set.id),
            escape(&text::clip(set.tier, text::NAME)),
            text::count(set.rows.len() as u64),
            set.failed(),
            shown(m.calc_diff),
            shown(m.rel_diff),
            shown(m.mere),
            shown(m.mare),
            shown(m.rmse),
            m.sqnr_db.map(text::db).unwrap_or_default(),
            escape(&m.first_bad.as_deref().map(coordinate).unwrap_or_default())
        );
    }
    more(summary.kernels.len(), md);
}

fn layers(summary: &Summary<'_>, md: &mut String) {
    let layers = &summary.report.layers;
    if layers.is_empty() {
        return;
    }
    *md += "\n## Layers\n\n| layer | kind | calc_diff | SQNR | routing agreement | verdict |\n\
            |---|---|--:|--:|--:|---|\n";
    // A model has at most some hundred layers, a hostile one more.
    for row in layers.iter().take(4 * SHOWN) {
        let _ = writeln!(
            md,
            "| {} | {} | {} | {} | {} | {} |",
            code(&row.name),
            escape(&text::clip(&row.kind, text::NAME)),
            row.metrics.calc_diff.map(text::number).unwrap_or_default(),
            row.metrics.sqnr_db.map(text::db).unwrap_or_default(),
            row.routing_agreement.map(|share| format!("{:.2} %", 100.0 * share)).unwrap_or_default(),
            row.verdict.map(super::summary::verdict).unwrap_or_default()
        );
    }
}

fn fates(summary: &Summary<'_>, md: &mut String) {
    if summary.fates.is_empty() {
        return;
    }
    *md += "\n## Lossless and lossy\n\n| fate | exactness | tensors | bytes before | bytes after |\n\
            |---|---|--:|--:|--:|\n";
    for ((fate, exactness), amount) in summary.fates.iter().take(SHOWN) {
        let _ = writeln!(
            md,
            "| {} | {} | {} | {} | {} |",
            escape(fate),
            escape(exactness),
            text::count(amount.tensors),
            text::size(amount.source_bytes),
            text::size(amount.bytes)
        );
    }
}

fn rules(summary: &Summary<'_>, md: &mut String) {
    if summary.rules.is_empty() {
        return;
    }
    *md += "\n<details><summary>All checks</summary>\n\n\
            | check | level | passed | failed | warnings | skipped |\n|---|---|--:|--:|--:|--:|\n";
    for rule in summary.rules.iter().take(4 * SHOWN) {
        let _ = writeln!(
            md,
            "| {} | {} | {} | {} | {} | {} |",
            code(rule.id),
            level(rule.level),
            text::count(rule.passed),
            text::count(rule.failed.len() as u64),
            text::count(rule.warned.len() as u64),
            text::count(rule.skipped.len() as u64)
        );
    }
    *md += "\n</details>\n";
}

/// Foreign text as a code span that a table can hold.
fn code(text: &str) -> String {
    let text = text::clip(text, text::NAME).replace('|', "\\|");
    // A fence of one more backtick than the longest run inside.
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    match longest {
        _ if text.trim().is_empty() => String::new(),
        0 => format!("`{text}`"),
        n => format!("{0} {text} {0}", "`".repeat(n + 1)),
    }
}

/// Foreign text in which no character is markup.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text::visible(text).chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '!' => escaped.extend(['\\', c]),
            _ => escaped.push(c),
        }
    }
    escaped
}
