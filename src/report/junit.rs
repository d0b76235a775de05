//! `junit.xml`: what a CI server shows as tests.
//!
//! A case is a class of tensors (role and scheme), a kernel with its tier, a layer, or a rule that looks at anything
//! else. Each check counts in exactly one case, so that a case fails where and only where something of it failed. A
//! skipped case is one of which nothing was done.

use super::markup::Markup;
use super::model::{Check, KernelRow, LayerRow, Verdict};
use super::summary::{Class, KernelSet, Rule, Summary, explain, level};
use super::text;

/// Failures that one case describes; `report.json` holds all.
const SHOWN: usize = 20;

struct Case {
    name: String,
    /// What failed, a line each.
    failures: Vec<String>,
    /// What was odd, a line each.
    warnings: Vec<String>,
    /// Why nothing was done.
    skipped: Option<String>,
}

/// The document.
pub(super) fn of(summary: &Summary<'_>) -> String {
    let mut suites: Vec<(String, Vec<Case>)> = Vec::new();
    for rule in &summary.rules {
        if rule.apart.is_empty() {
            continue;
        }
        let name = format!("checks.{}", level(rule.level));
        match suites.iter_mut().find(|(suite, _)| *suite == name) {
            Some((_, cases)) => cases.push(of_rule(rule)),
            None => suites.push((name, vec![of_rule(rule)])),
        }
    }
    suites.sort_by(|a, b| a.0.cmp(&b.0));
    suites.push(("tensors".to_owned(), summary.classes.iter().map(of_class).collect()));
    suites.push(("kernels".to_owned(), summary.kernels.iter().map(of_kernel).collect()));
    suites.push(("layers".to_owned(), summary.report.layers.iter().map(of_layer).collect()));
    suites.retain(|(_, cases)| !cases.is_empty());
    let fails = suites.iter().flat_map(|(_, cases)| cases).any(|case| !case.failures.is_empty());
    if !fails && !summary.passed() {
        let line = "the verdict is fail, but no check, kernel or layer says why".to_owned();
        let case = Case { name: "verdict".to_owned(), failures: vec![line], warnings: vec![], skipped: None };
        suites.push(("verdict".to_owned(), vec![case]));
    }
    document(&suites)
}

fn document(suites: &[(String, Vec<Case>)]) -> String {
    let mut m = Markup::default();
    m.raw("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"silicast validate\"");
    totals(&mut m, suites.iter().flat_map(|(_, cases)| cases));
    m.raw(">\n");
    for (name, cases) in suites {
        m.raw("  <testsuite name=\"").text(name).raw("\"");
        totals(&mut m, cases);
        m.raw(">\n");
        for case in cases {
            m.raw("    <testcase classname=\"silicast.").text(name).raw("\" name=\"").text(&case.name);
            if case.failures.is_empty() && case.warnings.is_empty() && case.skipped.is_none() {
                m.raw("\"/>\n");
                continue;
            }
            m.raw("\">\n");
            if let Some(first) = case.failures.first() {
                m.raw("      <failure message=\"").text(first).raw("\">");
                lines(&mut m, &case.failures);
                m.raw("</failure>\n");
            } else if let Some(why) = &case.skipped {
                m.raw("      <skipped message=\"").text(why).raw("\"/>\n");
            }
            if !case.warnings.is_empty() {
                m.raw("      <system-out>");
                lines(&mut m, &case.warnings);
                m.raw("</system-out>\n");
            }
            m.raw("    </testcase>\n");
        }
        m.raw("  </testsuite>\n");
    }
    m.raw("</testsuites>\n");
    m.finish()
}

fn totals<'a>(m: &mut Markup, cases: impl IntoIterator<Item = &'a Case>) {
    let (mut tests, mut failures, mut skipped) = (0, 0, 0);
    for case in cases {
        tests += 1;
        failures += usize::from(!case.failures.is_empty());
        skipped += usize::from(case.failures.is_empty() && case.skipped.is_some());
    }
    m.raw(" tests=\"").int(tests).raw("\" failures=\"").int(failures);
    m.raw("\" errors=\"0\" skipped=\"").int(skipped).raw("\"");
}

fn lines(m: &mut Markup, lines: &[String]) {
    for line in lines.iter().take(SHOWN) {
        m.text(line).raw("\n");
    }
    if lines.len() > SHOWN {
        m.text(&format!("and {} more, see report.json", text::count((lines.len() - SHOWN) as u64))).raw("\n");
    }
}

/// `tensor: rule: measure: message`.
pub(super) fn line(check: &Check) -> String {
    match &check.tensor {
        Some(tensor) => format!("{}: {}", text::clip(tensor, text::NAME), explain(check)),
        None => explain(check),
    }
}

fn of_rule(rule: &Rule<'_>) -> Case {
    let with = |verdict| rule.apart.iter().filter(move |c| c.verdict == verdict);
    let all_skipped = rule.apart.iter().all(|check| check.verdict == Verdict::Skip);
    Case {
        name: text::clip(rule.id, text::NAME).into_owned(),
        failures: with(Verdict::Fail).map(|c| line(c)).collect(),
        warnings: with(Verdict::Warn).map(|c| line(c)).collect(),
        skipped: rule.apart.first().filter(|_| all_skipped).map(|c| line(c)),
    }
}

fn of_class(class: &Class<'_>) -> Case {
    Case {
        name: format!("{} × {}", text::clip(&class.label, text::NAME), text::clip(class.scheme, text::NAME)),
        failures: class.failed.iter().map(|c| line(c)).collect(),
        warnings: class.warned.iter().map(|c| line(c)).collect(),
        skipped: None,
    }
}

fn of_kernel(set: &KernelSet<'_>) -> Case {
    let with = |verdict| set.checks.iter().filter(move |c| c.verdict == verdict).map(|c| line(c));
    let rows =
        |verdict| set.rows.iter().filter(move |r| r.verdict == Some(verdict)).map(|row| kernel_line(row));
    Case {
        name: format!("{} {}", text::clip(set.id, text::NAME), text::clip(set.tier, text::NAME)),
        failures: with(Verdict::Fail).chain(rows(Verdict::Fail)).collect(),
        warnings: with(Verdict::Warn).chain(rows(Verdict::Warn)).collect(),
        skipped: (set.rows.iter().all(|row| row.verdict == Some(Verdict::Skip)) && set.checks.is_empty())
            .then(|| "not run".to_owned()),
    }
}

fn of_layer(layer: &LayerRow) -> Case {
    let mut line = text::clip(&layer.name, text::NAME).into_owned();
    for (name, value) in [("calc_diff", layer.metrics.calc_diff), ("sqnr_db", layer.metrics.sqnr_db)] {
        line += &value.map(|v| format!(", {name} {}", text::metric(name, v))).unwrap_or_default();
    }
    if let Some(bad) = &layer.metrics.first_bad {
        line += &format!(", first beyond tolerance at {}", coordinate(bad));
    }
    if let Some(note) = &layer.note {
        line += &format!(": {}", text::clip(note, text::MESSAGE));
    }
    let when = |verdict| (layer.verdict == Some(verdict)).then(|| line.clone());
    Case {
        name: text::clip(&layer.name, text::NAME).into_owned(),
        failures: when(Verdict::Fail).into_iter().collect(),
        warnings: when(Verdict::Warn).into_iter().collect(),
        skipped: when(Verdict::Skip),
    }
}

/// `case: tier T5, calc_diff 0.002, rel_diff …, first beyond tolerance at [3, 17]`.
pub(super) fn kernel_line(row: &KernelRow) -> String {
    let mut line =
        format!("{}: tier {}", text::clip(&row.case, text::NAME), text::clip(&row.tier, text::NAME));
    let m = &row.metrics;
    for (name, value) in [
        ("calc_diff", m.calc_diff),
        ("rel_diff", m.rel_diff),
        ("max_abs", m.max_abs),
        ("sqnr_db", m.sqnr_db),
        ("cosine", m.cosine),
    ] {
        line += &value.map(|v| format!(", {name} {}", text::metric(name, v))).unwrap_or_default();
    }
    if m.same_specials == Some(false) {
        line += ", NaN or infinities in other places";
    }
    if let Some(bad) = &m.first_bad {
        line += &format!(", first beyond tolerance at {}", coordinate(bad));
    }
    line
}

/// `[3, 17]`.
pub(super) fn coordinate(place: &[u64]) -> String {
    let parts: Vec<String> = place.iter().map(u64::to_string).collect();
    format!("[{}]", parts.join(", "))
}
