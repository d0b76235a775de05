//! Worst tensors, kernels, layers, fates and checks as tables.

use super::super::heat::Scale;
use super::super::junit::coordinate;
use super::super::markup::Markup;
use super::super::model::{KernelRow, Metrics, Verdict};
use super::super::summary::{Amount, Rule, Summary, label, level, measured};
use super::super::{svg, text};
use super::{GROUPS, SHOWN, end_table, left_out, name_cell, number_cell, table, verdict_cell};

pub(super) fn worst(m: &mut Markup, summary: &Summary<'_>) {
    if summary.worst.is_empty() {
        return;
    }
    m.raw("<p>Tensors with a failed check first, then those with the lowest ratio of signal to noise.</p>\n");
    let columns = [
        " ",
        "Tensor",
        "Role",
        "Scheme",
        ">SQNR",
        "Why",
        ">Max abs",
        ">Max rel",
        ">Cosine",
        ">Saturated",
        ">Flushed",
    ];
    table(m, "Worst tensors", "worst", &columns);
    for worst in &summary.worst {
        let row = worst.tensor;
        m.raw(if worst.failed { "<tr class=\"bad\"><td class=\"fail\">✗</td>" } else { "<tr><td></td>" });
        name_cell(m, &row.name);
        m.raw("<td>").text(&text::clip(&label(row), 40)).raw("</td><td>");
        m.text(&text::clip(row.scheme.as_deref().unwrap_or("–"), 40)).raw("</td>");
        number_cell(m, row.sqnr_db.map(text::db).as_deref());
        m.raw("<td class=\"why\">").breakable(&worst.why).raw("</td>");
        number_cell(m, row.max_abs.map(text::number).as_deref());
        number_cell(m, row.max_rel.map(text::number).as_deref());
        number_cell(m, row.cosine.map(|v| format!("{v:.6}")).as_deref());
        number_cell(m, row.saturated_pct.map(|v| format!("{} %", text::number(v))).as_deref());
        number_cell(m, row.flushed_pct.map(|v| format!("{} %", text::number(v))).as_deref());
        m.raw("</tr>\n");
    }
    end_table(m);
}

/// Columns of [`metric_cells`].
const METRICS: [&str; 16] = [
    ">calc_diff",
    ">rel_diff",
    ">MERE",
    ">MARE",
    ">RMSE",
    ">diff1",
    ">diff2",
    ">diff3",
    ">diff4 above",
    ">diff4 below",
    ">diff4 unequal",
    ">Max abs",
    ">Cosine",
    ">SQNR",
    ">Bias",
    "NaN, Inf",
];

fn metric_cells(m: &mut Markup, metrics: &Metrics) {
    let diff4 = |i: usize| metrics.diff4.map(|values| values[i]);
    for value in [
        metrics.calc_diff,
        metrics.rel_diff,
        metrics.mere,
        metrics.mare,
        metrics.rmse,
        metrics.diff1,
        metrics.diff2,
        metrics.diff3,
        diff4(0),
        diff4(1),
    ] {
        number_cell(m, value.map(text::number).as_deref());
    }
    let unequal =
        diff4(2).map(|n| if n.fract() == 0.0 && n >= 0.0 { text::count(n as u64) } else { text::number(n) });
    number_cell(m, unequal.as_deref());
    number_cell(m, metrics.max_abs.map(text::number).as_deref());
    number_cell(m, metrics.cosine.map(|v| format!("{v:.6}")).as_deref());
    number_cell(m, metrics.sqnr_db.map(text::db).as_deref());
    number_cell(m, metrics.bias.map(text::number).as_deref());
    m.raw(match metrics.same_specials {
        Some(true) => "<td>same places</td>",
        Some(false) => "<td class=\"fail\">✗ differ</td>",
        None => "<td class=\"none\">–</td>",
    });
}

fn first_bad_cell(m: &mut Markup, metrics: &Metrics) {
    match &metrics.first_bad {
        Some(place) => m.raw("<td>").text(&text::clip(&coordinate(place), 60)).raw("</td>"),
        None => m.raw("<td class=\"none\">–</td>"),
    };
}

pub(super) fn kernels(m: &mut Markup, summary: &Summary<'_>) {
    if summary.kernels.is_empty() {
        return;
    }
    m.raw("<p>Each linear layer through its reference kernel, and golden sets. A row shows the worst of each metric over its ");
    m.raw("cases; a dash stands for an infinite or undefined value.</p>\n");
    let columns =
        [&["Kernel", "Tier", ">Cases", ">Failed"][..], &METRICS[..], &["First beyond tolerance"][..]]
            .concat();
    table(m, "Kernels by tier", "metrics", &columns);
    for set in summary.kernels.iter().take(GROUPS) {
        let failed = set.failed();
        m.raw(if failed > 0 { "<tr class=\"bad\">" } else { "<tr>" });
        name_cell(m, set.id);
        m.raw("<td>").text(&text::clip(set.tier, 16)).raw("</td>");
        number_cell(m, Some(&text::count(set.rows.len() as u64)));
        m.raw(if failed > 0 { "<td class=\"n fail\">✗ " } else { "<td class=\"n\">" })
            .int(failed)
            .raw("</td>");
        let worst = set.worst();
        metric_cells(m, &worst);
        first_bad_cell(m, &worst);
        m.raw("</tr>\n");
    }
    end_table(m);
    left_out(m, summary.kernels.len(), GROUPS);
    tiers(m, summary);

    let mut rows: Vec<&KernelRow> = summary.report.kernels.iter().collect();
    rows.sort_by(|a, b| {
        let key =
            |row: &KernelRow| (row.verdict == Some(Verdict::Fail), row.metrics.calc_diff.unwrap_or(0.0));
        let (a, b) = (key(a), key(b));
        b.0.cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    m.raw("<details><summary>Single cases, failed and worst first</summary>\n");
    let columns =
        [&["Case", "Kernel", "Tier", "Verdict"][..], &METRICS[..], &["First beyond tolerance"][..]].concat();
    table(m, "Kernel cases", "metrics", &columns);
    for row in rows.iter().take(SHOWN) {
        m.raw("<tr>");
        name_cell(m, &row.case);
        m.raw("<td>")
            .code(&text::clip(&row.id, 60))
            .raw("</td><td>")
            .text(&text::clip(&row.tier, 16))
            .raw("</td>");
        verdict_cell(m, row.verdict);
        metric_cells(m, &row.metrics);
        first_bad_cell(m, &row.metrics);
        m.raw("</tr>\n");
    }
    end_table(m);
    left_out(m, rows.len(), SHOWN);
    m.raw("</details>\n");
}

/// What the tiers claim, for those that occur.
fn tiers(m: &mut Markup, summary: &Summary<'_>) {
    const CLAIMS: [(&str, &str); 6] = [
        ("T0", "every emitter of the reference gives the same bytes"),
        ("T1", "codes, scales, packing and layout are the same bytes"),
        ("T2", "a chip that accumulates in FP32, against the exact-block reference"),
        ("T3", "a chip with a reduced accumulator and promotion"),
        ("T4", "weights decoded to BF16 and multiplied as such"),
        ("T5", "quantized weights and activations, against the source's own"),
    ];
    m.raw("<ul class=\"tiers\">\n");
    for (tier, claim) in CLAIMS {
        if summary.kernels.iter().any(|set| set.tier == tier) {
            m.raw("<li><strong>").text(tier).raw("</strong> ").text(claim).raw("</li>\n");
        }
    }
    m.raw("</ul>\n");
}

pub(super) fn layers(m: &mut Markup, summary: &Summary<'_>, scale: &Scale) {
    let layers = &summary.report.layers;
    if layers.is_empty() {
        return;
    }
    m.raw(
        "<p>Whole decoder blocks on seeded hidden states: the source's weights against the artifact's.</p>\n",
    );
    let most = layers.iter().filter_map(|row| row.metrics.sqnr_db).fold(1.0, f64::max);
    let columns = [
        "Layer",
        "Kind",
        ">SQNR",
        " ",
        ">calc_diff",
        ">rel_diff",
        ">Max abs",
        ">Cosine",
        ">Routing agrees",
        "Verdict",
        "Note",
    ];
    table(m, "Layers", "layers", &columns);
    for row in layers.iter().take(GROUPS) {
        m.raw(if row.verdict == Some(Verdict::Fail) { "<tr class=\"bad\">" } else { "<tr>" });
        name_cell(m, &row.name);
        m.raw("<td>").text(&text::clip(&row.kind, 60)).raw("</td>");
        number_cell(m, row.metrics.sqnr_db.map(text::db).as_deref());
        m.raw("<td class=\"chart\">");
        if let Some(value) = row.metrics.sqnr_db {
            svg::meter(m, value / most, scale.colour(scale.class(value)));
        }
        m.raw("</td>");
        number_cell(m, row.metrics.calc_diff.map(text::number).as_deref());
        number_cell(m, row.metrics.rel_diff.map(text::number).as_deref());
        number_cell(m, row.metrics.max_abs.map(text::number).as_deref());
        number_cell(m, row.metrics.cosine.map(|v| format!("{v:.6}")).as_deref());
        number_cell(m, row.routing_agreement.map(|v| format!("{:.2} %", 100.0 * v)).as_deref());
        verdict_cell(m, row.verdict);
        m.raw("<td class=\"why\">")
            .breakable(&text::clip(row.note.as_deref().unwrap_or(""), text::MESSAGE))
            .raw("</td></tr>\n");
    }
    end_table(m);
    left_out(m, layers.len(), GROUPS);
}

pub(super) fn fates(m: &mut Markup, summary: &Summary<'_>) {
    if summary.fates.is_empty() {
        return;
    }
    let (mut lossless, mut total) = (Amount::default(), Amount::default());
    for ((fate, exactness), amount) in summary.fates.iter().filter(|((fate, _), _)| *fate != "dropped") {
        for sum in
            [Some(&mut total), (*exactness == "bitwise" && *fate != "unknown").then_some(&mut lossless)]
        {
            if let Some(sum) = sum {
                sum.tensors += amount.tensors;
                sum.bytes += amount.bytes;
            }
        }
    }
    m.raw("<p>").text(&text::percent(lossless.tensors, total.tensors)).raw(" of the tensors and ");
    m.text(&text::percent(lossless.bytes, total.bytes))
        .raw(" of the bytes hold exactly the source’s values.</p>\n");
    let columns =
        ["Fate", "Exactness", ">Tensors", ">Share", ">Bytes before", ">Bytes after", "What it means"];
    table(m, "Fate by exactness", "fates", &columns);
    for ((fate, exactness), amount) in summary.fates.iter().take(GROUPS) {
        m.raw("<tr><th scope=\"row\">").text(&text::clip(fate, 40)).raw("</th><td>");
        m.text(&text::clip(if exactness.is_empty() { "–" } else { exactness }, 40)).raw("</td>");
        number_cell(m, Some(&text::count(amount.tensors)));
        number_cell(m, (*fate != "dropped").then(|| text::percent(amount.tensors, total.tensors)).as_deref());
        number_cell(m, Some(&text::size(amount.source_bytes)));
        number_cell(m, Some(&text::size(amount.bytes)));
        m.raw("<td>").raw(meaning(fate, exactness)).raw("</td></tr>\n");
    }
    end_table(m);
}

fn meaning(fate: &str, exactness: &str) -> &'static str {
    match (fate, exactness) {
        ("dropped", _) => "not in the artifact; the plan says why",
        ("kept", "bitwise") => "byte for byte",
        (_, "bitwise") => "another encoding of the same values",
        (_, "rounding") => "each value rounded once to a narrower float",
        (_, "lossy") => "quantized: measured above",
        _ => "",
    }
}

pub(super) fn rules(m: &mut Markup, summary: &Summary<'_>) {
    if summary.rules.is_empty() {
        return;
    }
    let clean = |rule: &&Rule<'_>| rule.total() == rule.passed;
    let (quiet, loud): (Vec<&Rule<'_>>, Vec<&Rule<'_>>) = summary.rules.iter().partition(clean);
    if !loud.is_empty() {
        rule_table(m, "Checks with something to say", &loud);
        for rule in loud.iter().take(GROUPS / 4) {
            let said: Vec<_> = rule.failed.iter().chain(&rule.warned).chain(&rule.skipped).collect();
            m.raw("<details><summary>").code(&text::clip(rule.id, text::NAME)).raw(": ");
            m.text(&text::count(said.len() as u64)).raw("</summary>\n");
            table(m, "Checks of one rule", "said", &["Verdict", "Tensor or file", "Measured", "Message"]);
            for check in said.iter().take(SHOWN / 2) {
                m.raw("<tr>");
                verdict_cell(m, Some(check.verdict));
                match &check.tensor {
                    Some(tensor) => m.raw("<td>").code(&text::clip(tensor, text::NAME)).raw("</td>"),
                    None => m.raw("<td>whole artifact</td>"),
                };
                m.raw("<td>").text(&measured(check).unwrap_or_default()).raw("</td><td class=\"why\">");
                m.lines(&check.message, text::MESSAGE).raw("</td></tr>\n");
            }
            end_table(m);
            left_out(m, said.len(), SHOWN / 2);
            m.raw("</details>\n");
        }
    }
    if !quiet.is_empty() {
        let passed: u64 = quiet.iter().map(|rule| rule.passed).sum();
        m.raw("<details><summary>")
            .text(&text::counted(quiet.len() as u64, "rule"))
            .raw(" with nothing but passes (");
        m.text(&text::counted(passed, "check")).raw(")</summary>\n");
        rule_table(m, "Passed checks", &quiet);
        m.raw("</details>\n");
    }
}

fn rule_table(m: &mut Markup, caption: &'static str, rules: &[&Rule<'_>]) {
    table(m, caption, "rules", &["Rule", "Level", ">Passed", ">Failed", ">Warnings", ">Skipped"]);
    for rule in rules.iter().take(GROUPS) {
        m.raw(if rule.failed.is_empty() { "<tr>" } else { "<tr class=\"bad\">" });
        name_cell(m, rule.id);
        m.raw("<td>").text(level(rule.level)).raw("</td>");
        number_cell(m, Some(&text::count(rule.passed)));
        for n in [rule.failed.len(), rule.warned.len(), rule.skipped.len()] {
            number_cell(m, (n > 0).then(|| text::count(n as u64)).as_deref());
        }
        m.raw("</tr>\n");
    }
    end_table(m);
    left_out(m, rules.len(), GROUPS);
}
