//! The verdict, what failed, what the artifact is, and how to make it again.

use super::super::junit::coordinate;
use super::super::markup::Markup;
use super::super::model::{Check, Subject, Verdict};
use super::super::summary::{Summary, exact, level, measured, median};
use super::super::text;
use super::{SHOWN, left_out};

/// Failures that the top of the page describes.
const FIRST: usize = 12;

pub(super) fn header(m: &mut Markup, summary: &Summary<'_>) {
    let report = summary.report;
    m.raw("<header class=\"")
        .raw(if summary.passed() { "passed" } else { "failed" })
        .raw("\"><div class=\"inner\">\n");
    m.raw("<p class=\"over\">Validation report</p>\n<h1><span class=\"badge\">");
    m.raw(if summary.passed() { "✓ Pass" } else { "✗ Fail" });
    m.raw("</span> <span class=\"subject\">").text(&summary.subject()).raw("</span></h1>\n");
    m.raw("<p class=\"sentence\">").text(&sentence(summary)).raw("</p>\n<ul class=\"tiles\">\n");

    let (failed, checks) = (summary.checks(Verdict::Fail), report.checks.len() as u64);
    let warned = summary.checks(Verdict::Warn);
    let passed = summary.checks(Verdict::Pass);
    tile(
        m,
        "Checks passed",
        &format!("{} of {}", text::count(passed), text::count(checks)),
        &[(failed, "failed"), (warned, "with a warning"), (summary.checks(Verdict::Skip), "skipped")]
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, what)| format!("{} {what}", text::count(*n)))
            .collect::<Vec<_>>()
            .join(", "),
    );
    if let Some((tensor, value)) = summary.lowest() {
        tile(m, "Lowest SQNR", &text::db(value), &text::clip(&tensor.name, 72));
    }
    let all = summary.sqnr();
    if let Some(middle) = median(&all) {
        tile(
            m,
            "Median SQNR",
            &text::db(middle),
            &format!("over {}", text::counted(all.len() as u64, "changed tensor")),
        );
    }
    let exact_tensors = report.tensors.iter().filter(|row| exact(row)).count() as u64;
    let kept = report.tensors.iter().filter(|row| row.fate != "dropped").count() as u64;
    if exact_tensors > 0 {
        let note = format!("{} of {}", text::count(exact_tensors), text::counted(kept, "tensor"));
        tile(m, "Without any difference", &text::percent(exact_tensors, kept), &note);
    }
    let artifact = &report.artifact;
    match &report.source {
        Some(source) => {
            let value = format!("{} → {}", text::size(source.bytes), text::size(artifact.bytes));
            let share = 100.0 * artifact.bytes as f64 / source.bytes.max(1) as f64;
            tile(m, "Size", &value, &format!("{} % of the source", text::number(share.round())));
        }
        None => tile(m, "Size", &text::size(artifact.bytes), &text::counted(artifact.tensors, "tensor")),
    }
    if !report.kernels.is_empty() {
        let total = report.kernels.len();
        let value = format!(
            "{} of {}",
            text::count((total - summary.failed_kernels().len()) as u64),
            text::count(total as u64)
        );
        let worst = report.kernels.iter().filter_map(|row| row.metrics.calc_diff).max_by(f64::total_cmp);
        let note = worst.map(|v| format!("largest calc_diff {}", text::number(v))).unwrap_or_default();
        tile(m, "Kernels within their tier", &value, &note);
    }
    if !report.layers.is_empty() {
        let total = report.layers.len();
        let value = format!(
            "{} of {}",
            text::count((total - summary.failed_layers().len()) as u64),
            text::count(total as u64)
        );
        let worst = report.layers.iter().filter_map(|row| row.metrics.sqnr_db).min_by(f64::total_cmp);
        let note = worst.map(|v| format!("lowest SQNR {}", text::db(v))).unwrap_or_default();
        tile(m, "Layers within their limits", &value, &note);
    }
    m.raw("</ul>\n</div></header>\n");
}

fn tile(m: &mut Markup, name: &str, value: &str, note: &str) {
    m.raw("<li><span class=\"name\">")
        .text(name)
        .raw("</span><span class=\"value\">")
        .text(value)
        .raw("</span>");
    if !note.is_empty() {
        m.raw("<span class=\"note\">").breakable(note).raw("</span>");
    }
    m.raw("</li>\n");
}

/// The verdict in one sentence.
fn sentence(summary: &Summary<'_>) -> String {
    let report = summary.report;
    let depth = match &report.source {
        Some(_) => format!("Compared with its source at level {}", level(report.level)),
        None => format!("Looked at on its own, at level {}", level(report.level)),
    };
    let depth = match report.sampled < 1.0 {
        true => format!("{depth}, {} % of each tensor", text::number(report.sampled * 100.0)),
        false => depth,
    };
    if summary.passed() {
        return match summary.checks(Verdict::Warn) {
            0 => format!("{depth}: nothing failed."),
            n => format!("{depth}: nothing failed, {} to look at.", text::counted(n, "warning")),
        };
    }
    let mut tensors: Vec<&str> = summary.failed.iter().filter_map(|check| check.tensor.as_deref()).collect();
    tensors.sort_unstable();
    tensors.dedup();
    let mut parts = Vec::new();
    if !summary.failed.is_empty() {
        let n = text::counted(summary.failed.len() as u64, "check");
        parts.push(match tensors.len() {
            0 => n,
            t => format!("{n} on {}", text::counted(t as u64, "tensor")),
        });
    }
    for (n, noun) in
        [(summary.failed_kernels().len(), "kernel case"), (summary.failed_layers().len(), "layer")]
    {
        if n > 0 {
            parts.push(text::counted(n as u64, noun));
        }
    }
    format!("{depth}: {} failed.", if parts.is_empty() { "it".to_owned() } else { parts.join(", ") })
}

/// The failures, for whoever has to act on them.
pub(super) fn failures(m: &mut Markup, summary: &Summary<'_>) {
    let (kernels, layers) = (summary.failed_kernels(), summary.failed_layers());
    if summary.failed.is_empty() && kernels.is_empty() && layers.is_empty() {
        return;
    }
    m.raw("<ol class=\"failures\">\n");
    for check in summary.failed.iter().take(FIRST) {
        failure(m, check);
    }
    for row in kernels.iter().take(FIRST) {
        m.raw("<li><p class=\"what\"><strong>").text(&text::clip(&row.id, text::NAME)).raw("</strong> ");
        m.code(&text::clip(&row.case, text::NAME))
            .raw("</p><p class=\"measure\">tier ")
            .text(&text::clip(&row.tier, 16));
        for (name, value) in [("calc_diff", row.metrics.calc_diff), ("rel_diff", row.metrics.rel_diff)] {
            if let Some(value) = value {
                m.raw(" · ").text(name).raw(" ").text(&text::number(value));
            }
        }
        if let Some(bad) = &row.metrics.first_bad {
            m.raw(" · first beyond tolerance at ").text(&coordinate(bad));
        }
        m.raw("</p></li>\n");
    }
    for row in layers.iter().take(FIRST) {
        m.raw("<li><p class=\"what\"><strong>layer</strong> ")
            .code(&text::clip(&row.name, text::NAME))
            .raw("</p>");
        m.raw("<p class=\"measure\">").text(&text::clip(&row.kind, text::NAME));
        if let Some(value) = row.metrics.calc_diff {
            m.raw(" · calc_diff ").text(&text::number(value));
        }
        if let Some(value) = row.metrics.sqnr_db {
            m.raw(" · SQNR ").text(&text::db(value));
        }
        m.raw("</p></li>\n");
    }
    m.raw("</ol>\n");
    if summary.failed.len() > FIRST {
        m.raw("<details><summary>").text(&text::count((summary.failed.len() - FIRST) as u64));
        m.raw(" more failed checks</summary>\n<ol class=\"failures\">\n");
        for check in summary.failed.iter().skip(FIRST).take(SHOWN) {
            failure(m, check);
        }
        m.raw("</ol>\n");
        left_out(m, summary.failed.len(), FIRST + SHOWN);
        m.raw("</details>\n");
    }
}

fn failure(m: &mut Markup, check: &Check) {
    m.raw("<li><p class=\"what\"><strong>").text(&text::clip(&check.id, text::NAME)).raw("</strong>");
    if let Some(tensor) = &check.tensor {
        m.raw(" ").code(&text::clip(tensor, text::NAME));
    }
    m.raw("</p>");
    if let Some(measured) = measured(check) {
        m.raw("<p class=\"measure\">").text(&measured).raw("</p>");
    }
    if !check.message.is_empty() {
        m.raw("<p class=\"message\">").lines(&check.message, text::MESSAGE).raw("</p>");
    }
    m.raw("</li>\n");
}

/// Artifact and source, fact by fact.
pub(super) fn artifact(m: &mut Markup, summary: &Summary<'_>) {
    let report = summary.report;
    let (artifact, source) = (&report.artifact, report.source.as_ref());
    super::table(
        m,
        "Artifact and source",
        "facts",
        if source.is_some() { &["", "Artifact", "Source"] } else { &["", "Artifact"] },
    );
    let mut fact = |name: &str, of: &dyn Fn(&Subject) -> Option<String>| {
        let (here, there) = (of(artifact), source.and_then(of));
        if here.is_none() && there.is_none() {
            return;
        }
        m.raw("<tr><th scope=\"row\">").text(name).raw("</th>");
        for value in [Some(here), source.map(|_| there)].into_iter().flatten() {
            match value {
                Some(value) => m.raw("<td>").breakable(&text::clip(&value, text::NAME)).raw("</td>"),
                None => m.raw("<td class=\"none\">–</td>"),
            };
        }
        m.raw("</tr>\n");
    };
    fact("Family", &|s| s.family.clone());
    fact("Target", &|s| s.target.clone());
    fact("Engine", &|s| s.engine.clone());
    fact("Scheme", &|s| s.scheme.clone());
    fact("Weight files", &|s| Some(text::count(s.files)));
    fact("Tensors", &|s| Some(text::count(s.tensors)));
    fact("Bytes", &|s| Some(format!("{} ({})", text::size(s.bytes), text::count(s.bytes))));
    fact("Plan digest (BLAKE3)", &|s| s.plan_digest.clone());
    super::end_table(m);
    m.raw("<dl class=\"path\"><dt>Engine path that kernels and layers assume</dt><dd>");
    match &report.engine_path {
        Some(path) => m.text(&text::clip(path, text::MESSAGE)),
        None => m.raw("none: nothing was run through kernels"),
    };
    m.raw("</dd></dl>\n");
}

pub(super) fn notes(m: &mut Markup, summary: &Summary<'_>) {
    let notes = &summary.report.notes;
    if notes.is_empty() {
        return;
    }
    m.raw("<ul>\n");
    for note in notes.iter().take(SHOWN) {
        m.raw("<li>").lines(note, text::MESSAGE).raw("</li>\n");
    }
    m.raw("</ul>\n");
    left_out(m, notes.len(), SHOWN);
}

pub(super) fn reproduce(m: &mut Markup, summary: &Summary<'_>) {
    let report = summary.report;
    m.raw("<p>With ").text(&report.tool.name).raw(" ").text(&report.tool.version);
    m.raw(", equal inputs give equal bytes, on any machine and with any number of threads.");
    if let Some(digest) = &report.artifact.plan_digest {
        m.raw(" The plan has the BLAKE3 digest ").code(&text::clip(digest, text::NAME)).raw(".");
    }
    m.raw("</p>\n");
    if !report.reproduce.is_empty() {
        m.raw("<pre tabindex=\"0\"><code>");
        for command in report.reproduce.iter().take(SHOWN) {
            m.text(&text::clip(command, 4 * text::MESSAGE)).raw("\n");
        }
        m.raw("</code></pre>\n");
    }
}
