//! The heat map, the histograms and the size bars.

use super::super::heat::{Cell, HeatMap, Scale};
use super::super::markup::Markup;
use super::super::model::Subject;
use super::super::summary::{Class, Summary, exact, median};
use super::super::svg::{self, Bar};
use super::super::text;
use super::{GROUPS, end_table, left_out, number_cell, table};
use std::collections::BTreeMap;

/// Bars of a histogram.
const BINS: usize = 48;

/// Colours of dtypes and schemes, told apart by every kind of colour vision (Okabe and Ito).
const KINDS: [&str; 7] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c"];

pub(super) fn map(m: &mut Markup, summary: &Summary<'_>, map: Option<&HeatMap>) {
    let Some(map) = map else {
        if summary.report.tensors.iter().any(exact) {
            m.raw("<p>Nothing to draw: every tensor of a layer that was compared holds exactly the source’s values.</p>\n");
        }
        return;
    };
    let cells = || map.rows.iter().flat_map(|row| &row.cells);
    let failed = cells().any(|cell| matches!(cell, Cell::Measured { failed: true, .. }));
    let exact = cells().any(|cell| matches!(cell, Cell::Exact));
    m.raw("<p>Ratio of signal to quantization noise, in decibels: 6 dB are one bit. Experts are shown by the lowest and by ");
    m.raw("the median of a layer.</p>\n");
    svg::legend(m, &map.scale, failed, exact);
    let desc = description(map);
    m.raw("<div class=\"scroll map\" role=\"region\" tabindex=\"0\" aria-label=\"Heat map\">");
    svg::heat_wide(m, map, &desc);
    svg::heat_tall(m, map, &desc);
    m.raw("</div>\n");
    if map.left_out {
        m.raw("<p class=\"more\">More layers or roles than fit are in <code>report.json</code>.</p>\n");
    }
    let outside: Vec<String> = (summary.report.tensors.iter())
        .filter(|row| row.layer.is_none())
        .filter_map(|row| Some(format!("{} {}", text::clip(&row.name, 80), text::db(row.sqnr_db?))))
        .collect();
    if !outside.is_empty() {
        m.raw("<p>Outside the layers: ").breakable(&text::list(&outside, 6)).raw(".</p>\n");
    }
}

/// The map in words.
fn description(map: &HeatMap) -> String {
    let mut lines = Vec::new();
    for row in &map.rows {
        let low = row.cells.iter().zip(&map.layers).filter_map(|(cell, layer)| match cell {
            Cell::Measured { db, .. } => Some((*db, *layer)),
            _ => None,
        });
        if let Some((db, layer)) = low.min_by(|a, b| a.0.total_cmp(&b.0)) {
            let name = [&row.label, " ", row.statistic].concat();
            lines.push(format!("{}: lowest {} in layer {layer}", name.trim(), text::db(db)));
        }
    }
    format!(
        "{} by {}. {}.",
        text::counted(map.layers.len() as u64, "layer"),
        text::counted(map.rows.len() as u64, "row"),
        lines.join("; ")
    )
}

/// A histogram of ratios per class, all on one axis.
pub(super) fn distributions(m: &mut Markup, summary: &Summary<'_>, scale: &Scale) {
    let classes: Vec<&Class<'_>> = summary.classes.iter().filter(|class| !class.sqnr.is_empty()).collect();
    let lowest = classes.iter().filter_map(|class| class.sqnr.first()).copied().min_by(f64::total_cmp);
    let highest = classes.iter().filter_map(|class| class.sqnr.last()).copied().max_by(f64::total_cmp);
    let (Some(lowest), Some(highest)) = (lowest, highest) else { return };
    // Bars of a round width; what lies far outside falls into the first or last one.
    let (lowest, highest) = (lowest.max(-60.0), highest.min(240.0).max(lowest.max(-60.0)));
    let width = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|width| (highest / width).floor() - (lowest / width).floor() < BINS as f64)
        .unwrap_or(10.0);
    let bins = ((highest / width).floor() - (lowest / width).floor() + 1.0).max(12.0) as usize;
    let start = (lowest / width).floor() * width;
    let end = start + width * bins as f64;
    let place = |value: f64| ((value - start) / (end - start)).clamp(0.0, 1.0);

    m.raw("<p>Tensors by their ratio of signal to noise, one row per role and scheme, all on the same axis. Colours as in the ");
    m.raw("map; the line is the median.</p>\n");
    table(
        m,
        "SQNR by role and scheme",
        "strips",
        &["Role", "Scheme", ">Tensors", "SQNR, dB", ">Min", ">Median", ">Max"],
    );
    m.raw("<tr class=\"axis\"><td></td><td></td><td></td><td class=\"chart\">");
    svg::strip_axis(m, &ticks(start, end, |value| (place(value), text::number(value))));
    m.raw("</td><td></td><td></td><td></td></tr>\n");
    for class in classes.iter().take(GROUPS) {
        let mut bars: Vec<Bar> = (0..bins)
            .map(|i| {
                let low = start + width * i as f64;
                let range = format!("{} to {} dB", text::number(low), text::number(low + width));
                Bar { count: 0, range, colour: Some(scale.colour(scale.class(low))) }
            })
            .collect();
        for value in &class.sqnr {
            let at = ((value - start) / width).floor().clamp(0.0, (bins - 1) as f64) as usize;
            bars[at].count += 1;
        }
        m.raw("<tr>");
        class_cells(m, class);
        number_cell(m, Some(&text::count(class.sqnr.len() as u64)));
        let middle = median(&class.sqnr);
        let title = format!(
            "{} × {}: {}, median {}",
            text::clip(&class.label, 60),
            text::clip(class.scheme, 60),
            text::counted(class.sqnr.len() as u64, "tensor"),
            middle.map(text::db).unwrap_or_default()
        );
        m.raw("<td class=\"chart\">");
        svg::histogram(m, &bars, "tensor", &title, middle.map(place));
        m.raw("</td>");
        for value in [class.sqnr.first().copied(), middle, class.sqnr.last().copied()] {
            number_cell(m, value.map(|v| format!("{v:.1}")).as_deref());
        }
        m.raw("</tr>\n");
    }
    end_table(m);
    left_out(m, classes.len(), GROUPS);
}

/// Five or so round places between `start` and `end`.
fn ticks(start: f64, end: f64, at: impl Fn(f64) -> (f64, String)) -> Vec<(f64, String)> {
    let step = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]
        .into_iter()
        .find(|step| (end - start) / step <= 7.0)
        .unwrap_or(200.0);
    let first = (start / step).ceil() as i64;
    let last = (end / step).floor() as i64;
    (first..=last.min(first + 12)).map(|i| at(i as f64 * step)).collect()
}

fn class_cells(m: &mut Markup, class: &Class<'_>) {
    m.raw("<th scope=\"row\">").code(&text::clip(&class.label, 60)).raw("</th><td>");
    m.breakable(&text::clip(class.scheme, 60)).raw("</td>");
}

/// A histogram of scale exponents per class, all on one axis.
pub(super) fn exponents(m: &mut Markup, summary: &Summary<'_>) {
    let classes: Vec<&Class<'_>> =
        summary.classes.iter().filter(|class| !class.exponents.is_empty()).collect();
    let lowest = classes.iter().filter_map(|class| class.exponents.keys().next()).min().copied();
    let highest = classes.iter().filter_map(|class| class.exponents.keys().next_back()).max().copied();
    let (Some(lowest), Some(highest)) = (lowest.map(i64::from), highest.map(i64::from)) else { return };
    // Bars of one exponent or of a whole number of them.
    let width = (highest - lowest + 1).div_euclid(BINS as i64) + 1;
    let bins = ((highest - lowest) / width + 1).max(8) as usize;
    m.raw("<p>Scales by ⌊log2⌋. A class spread over many exponents holds rows or blocks of very different magnitude; a lone ");
    m.raw("bar far out is a scale to look at.</p>\n");
    table(
        m,
        "Scale exponents by role and scheme",
        "strips",
        &["Role", "Scheme", ">Scales", "Exponent", ">Lowest", ">Most", ">Highest"],
    );
    m.raw("<tr class=\"axis\"><td></td><td></td><td></td><td class=\"chart\">");
    let at = |value: f64| {
        ((value - lowest as f64 + 0.5 * width as f64) / (bins as f64 * width as f64), text::number(value))
    };
    let mut marks = ticks(lowest as f64, (lowest + bins as i64 * width - 1) as f64, at);
    marks.retain(|(_, text)| !text.contains('.'));
    svg::strip_axis(m, &marks);
    m.raw("</td><td></td><td></td><td></td></tr>\n");
    for class in classes.iter().take(GROUPS) {
        let mut bars: Vec<Bar> = (0..bins as i64)
            .map(|i| {
                let (low, high) = (lowest + width * i, lowest + width * (i + 1) - 1);
                let range = if width == 1 { format!("2^{low}") } else { format!("2^{low} to 2^{high}") };
                Bar { count: 0, range, colour: None }
            })
            .collect();
        for (exponent, n) in &class.exponents {
            let at = ((i64::from(*exponent) - lowest) / width).clamp(0, bins as i64 - 1) as usize;
            bars[at].count = bars[at].count.saturating_add(*n);
        }
        let total = class.exponents.values().fold(0u64, |sum, n| sum.saturating_add(*n));
        m.raw("<tr>");
        class_cells(m, class);
        number_cell(m, Some(&text::count(total)));
        m.raw("<td class=\"chart\">");
        let title = format!(
            "{} × {}: {}",
            text::clip(&class.label, 60),
            text::clip(class.scheme, 60),
            text::counted(total, "scale")
        );
        svg::histogram(m, &bars, "scale", &title, None);
        m.raw("</td>");
        let most = class.exponents.iter().max_by_key(|(exponent, n)| (**n, -i64::from(**exponent)));
        for exponent in [
            class.exponents.keys().next(),
            most.map(|(exponent, _)| exponent),
            class.exponents.keys().next_back(),
        ] {
            number_cell(m, exponent.map(|e| format!("2^{e}")).as_deref());
        }
        m.raw("</tr>\n");
    }
    end_table(m);
    left_out(m, classes.len(), GROUPS);
}

/// Bytes of source and artifact by scheme or dtype, to one scale.
pub(super) fn sizes(m: &mut Markup, summary: &Summary<'_>) {
    let artifact = &summary.report.artifact;
    let source = summary.report.source.as_ref();
    let subjects: Vec<(&'static str, &Subject)> =
        source.map(|s| ("Source", s)).into_iter().chain([("Artifact", artifact)]).collect();
    let mut totals: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, subject) in &subjects {
        for (name, bytes) in &subject.bytes_by_scheme {
            let total = totals.entry(name).or_default();
            *total = total.saturating_add(*bytes);
        }
    }
    if totals.is_empty() {
        return;
    }
    let mut names: Vec<(&str, u64)> = totals.into_iter().collect();
    names.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let colour = |name: &str| {
        let at = names.iter().position(|(n, _)| *n == name).unwrap_or(KINDS.len());
        KINDS[at.min(KINDS.len() - 1)]
    };
    let sum =
        |subject: &Subject| subject.bytes_by_scheme.values().fold(0u64, |sum, n| sum.saturating_add(*n));
    let whole = subjects.iter().map(|(_, subject)| sum(subject).max(subject.bytes)).max().unwrap_or(0);
    m.raw("<div class=\"bars\">\n");
    for (title, subject) in &subjects {
        let parts: Vec<(u64, &'static str, String)> = (names.iter())
            .filter_map(|(name, _)| {
                let bytes = *subject.bytes_by_scheme.get(*name)?;
                Some((bytes, colour(name), format!("{}: {}", text::clip(name, 60), text::size(bytes))))
            })
            .take(GROUPS)
            .collect();
        m.raw("<div class=\"bar-row\"><span class=\"bar-name\">").raw(title).raw(" <strong>");
        m.text(&text::size(subject.bytes)).raw("</strong></span>");
        svg::stack(m, &parts, whole, &format!("{title}: {}", text::size(subject.bytes)));
        m.raw("</div>\n");
    }
    m.raw("</div>\n");
    let columns: &[&'static str] = if source.is_some() {
        &["Stored as", ">Before", ">After", ">Share after"]
    } else {
        &["Stored as", ">Bytes", ">Share"]
    };
    table(m, "Bytes by scheme", "sizes", columns);
    for (name, _) in names.iter().take(GROUPS) {
        m.raw("<tr><th scope=\"row\"><svg class=\"swatch\" viewBox=\"0 0 10 10\" aria-hidden=\"true\"><rect width=\"10\" ");
        m.raw("height=\"10\" fill=\"")
            .raw(colour(name))
            .raw("\"/></svg> ")
            .code(&text::clip(name, 60))
            .raw("</th>");
        let here = artifact.bytes_by_scheme.get(*name).copied();
        if let Some(source) = source {
            number_cell(m, source.bytes_by_scheme.get(*name).map(|n| text::size(*n)).as_deref());
        }
        number_cell(m, here.map(text::size).as_deref());
        number_cell(m, here.map(|n| text::percent(n, sum(artifact))).as_deref());
        m.raw("</tr>\n");
    }
    end_table(m);
    left_out(m, names.len(), GROUPS);
}
