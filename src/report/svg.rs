//! Charts as inline SVG: no script, no outside resource, the same bytes everywhere.
//!
//! Colours that depend on the page being light or dark come from its style sheet; those that carry values do not.

use super::heat::{Cell, HeatMap, Scale};
use super::markup::Markup;
use super::text;

/// Width of a [`histogram`] in its own units.
pub(super) const STRIP: f64 = 240.0;

/// Patterns that the charts of a page share.
pub(super) fn definitions(m: &mut Markup) {
    m.raw(
        "<svg width=\"0\" height=\"0\" class=\"defs\" aria-hidden=\"true\"><defs><pattern id=\"exact\" width=\"5\" \
         height=\"5\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect width=\"5\" \
         height=\"5\" class=\"hatch-ground\"/><rect width=\"1.5\" height=\"5\" class=\"hatch\"/></pattern></defs></svg>",
    );
}

fn open(m: &mut Markup, class: &'static str, size: [f64; 2], id: &'static str, title: &str, desc: &str) {
    m.raw("<svg class=\"").raw(class).raw("\" viewBox=\"0 0 ").num(size[0]).raw(" ").num(size[1]);
    m.raw("\" width=\"").num(size[0]).raw("\" height=\"").num(size[1]);
    m.raw("\" role=\"img\" aria-labelledby=\"").raw(id).raw("-t ").raw(id).raw("-d\"><title id=\"").raw(id);
    m.raw("-t\">").text(title).raw("</title><desc id=\"").raw(id).raw("-d\">").text(desc).raw("</desc>");
}

fn rect(m: &mut Markup, at: [f64; 2], size: [f64; 2]) {
    m.raw("<rect x=\"").num(at[0]).raw("\" y=\"").num(at[1]);
    m.raw("\" width=\"").num(size[0]).raw("\" height=\"").num(size[1]).raw("\"");
}

fn label(m: &mut Markup, at: [f64; 2], class: &'static str, anchor: &'static str, text: &str) {
    m.raw("<text x=\"").num(at[0]).raw("\" y=\"").num(at[1]).raw("\" class=\"").raw(class);
    m.raw("\" text-anchor=\"").raw(anchor).raw("\">").text(text).raw("</text>");
}

/// How far apart the labelled layers are.
fn stride(layers: usize) -> usize {
    match layers {
        0..=24 => 1,
        25..=70 => 5,
        _ => 10,
    }
}

/// Layers from left to right, a line per role: for wide pages.
pub(super) fn heat_wide(m: &mut Markup, map: &HeatMap, desc: &str) {
    let (left, top, height) = (172.0, 6.0, 24.0);
    let width = (896.0 / map.layers.len() as f64).clamp(5.0, 46.0);
    let bottom = top + height * map.rows.len() as f64;
    let right = left + width * map.layers.len() as f64;
    open(m, "heat wide", [right + 8.0, bottom + 36.0], "heat-wide", "SQNR by layer and role", desc);
    for (i, row) in map.rows.iter().enumerate() {
        let y = top + height * i as f64;
        row_label(m, [left - 10.0, y + 16.0], row);
        for (j, cell) in row.cells.iter().enumerate() {
            draw_cell(m, map, [i, j], cell, [left + width * j as f64, y], [width, height]);
        }
    }
    let step = stride(map.layers.len());
    for (j, layer) in map.layers.iter().enumerate().filter(|(j, _)| j % step == 0) {
        let x = left + width * (j as f64 + 0.5);
        label(m, [x, bottom + 15.0], "tick", "middle", &layer.to_string());
    }
    label(m, [left, bottom + 31.0], "axis", "start", "layer");
    m.raw("</svg>");
}

/// Layers from top to bottom, a column per role: for narrow pages and paper.
pub(super) fn heat_tall(m: &mut Markup, map: &HeatMap, desc: &str) {
    let (left, top) = (36.0, 146.0);
    let columns = map.rows.len() as f64;
    let width = (312.0 / columns).clamp(8.0, 44.0);
    let height = if map.layers.len() <= 16 { 24.0 } else { 12.0 };
    // Room on the right for the last slanted label.
    let size = [left + width * columns + 56.0, top + height * map.layers.len() as f64 + 6.0];
    open(m, "heat tall", size, "heat-tall", "SQNR by layer and role", desc);
    for (i, row) in map.rows.iter().enumerate() {
        let x = left + width * (i as f64 + 0.5);
        m.raw("<g transform=\"translate(").num(x + 3.0).raw(" ").num(top - 7.0).raw(") rotate(-62)\">");
        let name = if row.statistic.is_empty() {
            row.label.clone()
        } else {
            format!("{} {}", row.label, row.statistic)
        };
        label(m, [0.0, 0.0], "role", "start", &name);
        m.raw("</g>");
        for (j, cell) in row.cells.iter().enumerate() {
            let at = [left + width * i as f64, top + height * j as f64];
            draw_cell(m, map, [i, j], cell, at, [width, height]);
        }
    }
    let step = stride(map.layers.len());
    for (j, layer) in map.layers.iter().enumerate().filter(|(j, _)| j % step == 0) {
        let y = top + height * (j as f64 + 0.5) + 4.0;
        label(m, [left - 7.0, y], "tick", "end", &layer.to_string());
    }
    label(m, [left - 7.0, top - 8.0], "axis", "end", "layer");
    m.raw("</svg>");
}

fn row_label(m: &mut Markup, at: [f64; 2], row: &super::heat::Row) {
    m.raw("<text x=\"").num(at[0]).raw("\" y=\"").num(at[1]).raw("\" class=\"role\" text-anchor=\"end\">");
    m.text(&row.label);
    if !row.statistic.is_empty() {
        m.raw("<tspan class=\"statistic\"> ").text(row.statistic).raw("</tspan>");
    }
    m.raw("</text>");
}

fn draw_cell(m: &mut Markup, map: &HeatMap, at: [usize; 2], cell: &Cell, corner: [f64; 2], size: [f64; 2]) {
    let row = &map.rows[at[0]];
    let gap = if size[0] < 7.0 { 0.5 } else { 1.0 };
    let inner = [size[0] - gap, size[1] - gap];
    let place = format!("layer {}, {}", map.layers[at[1]], row.label);
    match cell {
        Cell::None => {}
        Cell::Exact => {
            rect(m, corner, inner);
            m.raw(" fill=\"url(#exact)\"><title>").text(&place).raw(": no difference</title></rect>");
        }
        Cell::Measured { db, failed, of } => {
            let class = map.scale.class(*db);
            rect(m, corner, inner);
            m.raw(" fill=\"").raw(map.scale.colour(class)).raw("\"><title>").text(&place).raw(": ");
            m.text(&text::db(*db));
            match (row.statistic, of) {
                ("", 0 | 1) => {}
                ("" | "min", of) => {
                    m.text(&format!(", lowest of {of}"));
                }
                (_, of) => {
                    m.text(&format!(", median of {of}"));
                }
            }
            m.raw(if *failed { ", failed</title></rect>" } else { "</title></rect>" });
            if size[0] >= 34.0 && size[1] >= 18.0 && !failed {
                let ink = if map.scale.light(class) { "on-light" } else { "on-dark" };
                let centre = [corner[0] + inner[0] / 2.0, corner[1] + inner[1] / 2.0 + 4.0];
                label(m, centre, ink, "middle", &format!("{db:.1}"));
            }
            if *failed {
                failed_mark(m, corner, inner);
            }
        }
    }
}

/// A frame and a cross: a shape, so that failure does not depend on colour.
fn failed_mark(m: &mut Markup, at: [f64; 2], size: [f64; 2]) {
    rect(m, [at[0] + 1.0, at[1] + 1.0], [size[0] - 2.0, size[1] - 2.0]);
    m.raw(" class=\"failed-frame\"/>");
    let (x, y) = (at[0] + size[0] / 2.0, at[1] + size[1] / 2.0);
    let arm = (size[0].min(size[1]) / 2.0 - 2.5).clamp(1.0, 6.0);
    for class in ["cross-halo", "cross"] {
        m.raw("<path class=\"").raw(class).raw("\" d=\"M").num(x - arm).raw(" ").num(y - arm).raw("l");
        m.num(2.0 * arm).raw(" ").num(2.0 * arm).raw("m0 ").num(-2.0 * arm).raw("l").num(-2.0 * arm);
        m.raw(" ").num(2.0 * arm).raw("\"/>");
    }
}

/// The colours of a scale with their edges, and the marks of a map.
pub(super) fn legend(m: &mut Markup, scale: &Scale, failed: bool, exact: bool) {
    let width = 36.0;
    let classes = scale.classes();
    let total = width * classes as f64;
    m.raw("<div class=\"legend\">");
    open(
        m,
        "scale",
        [total, 34.0],
        "scale",
        "Colours of the map",
        "Low ratios are dark, high ones are light.",
    );
    for class in 0..classes {
        rect(m, [width * class as f64, 0.0], [width, 14.0]);
        m.raw(" fill=\"").raw(scale.colour(class)).raw("\"/>");
        if class + 1 < classes {
            let x = width * (class + 1) as f64;
            label(m, [x, 28.0], "tick", "middle", &text::number(scale.edge(class)));
        }
    }
    label(m, [total, 28.0], "tick", "end", "dB");
    m.raw("</svg>");
    if exact {
        m.raw("<span class=\"key\"><svg width=\"18\" height=\"14\" aria-hidden=\"true\">");
        m.raw("<rect width=\"18\" height=\"14\" fill=\"url(#exact)\"/></svg> no difference</span>");
    }
    if failed {
        m.raw("<span class=\"key\"><svg width=\"18\" height=\"14\" aria-hidden=\"true\">");
        rect(m, [0.0, 0.0], [18.0, 14.0]);
        m.raw(" fill=\"").raw(scale.colour(0)).raw("\"/>");
        failed_mark(m, [0.0, 0.0], [18.0, 14.0]);
        m.raw("</svg> a check failed</span>");
    }
    m.raw("</div>");
}

/// A bar of a histogram.
pub(super) struct Bar {
    pub(super) count: u64,
    /// What it stands for, as in `41 to 42 dB`.
    pub(super) range: String,
    /// A colour that carries a value; the page's own otherwise.
    pub(super) colour: Option<&'static str>,
}

/// A small histogram over [`STRIP`] units, to stand above others with the same axis. Bars are linear in their count;
/// one that is not empty is always seen. `mark` is a place on the axis, from 0 to 1.
pub(super) fn histogram(m: &mut Markup, bars: &[Bar], noun: &str, title: &str, mark: Option<f64>) {
    let height = 30.0;
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1) as f64;
    let width = STRIP / bars.len().max(1) as f64;
    m.raw("<svg class=\"strip\" viewBox=\"0 0 ")
        .num(STRIP)
        .raw(" ")
        .num(height)
        .raw("\" role=\"img\"><title>");
    m.text(title).raw("</title>");
    m.raw("<path class=\"base\" d=\"M0 ").num(height - 0.5).raw("h").num(STRIP).raw("\"/>");
    for (i, bar) in bars.iter().enumerate().filter(|(_, bar)| bar.count > 0) {
        let tall = (bar.count as f64 / most * (height - 3.0)).max(2.0);
        rect(m, [width * i as f64, height - 1.0 - tall], [(width - 0.75).max(1.0), tall]);
        match bar.colour {
            Some(colour) => m.raw(" fill=\"").raw(colour).raw("\">"),
            None => m.raw(" class=\"bar\">"),
        };
        m.raw("<title>")
            .text(&bar.range)
            .raw(": ")
            .text(&text::counted(bar.count, noun))
            .raw("</title></rect>");
    }
    if let Some(mark) = mark {
        m.raw("<path class=\"median\" d=\"M").num(mark * STRIP).raw(" 0v").num(height).raw("\"/>");
    }
    m.raw("</svg>");
}

/// The axis of [`histogram`]s: labels at places from 0 to 1.
pub(super) fn strip_axis(m: &mut Markup, ticks: &[(f64, String)]) {
    m.raw("<svg class=\"strip axis\" viewBox=\"0 0 ").num(STRIP).raw(" 16\" aria-hidden=\"true\">");
    for (at, text) in ticks {
        let anchor = match *at {
            at if at < 0.04 => "start",
            at if at > 0.96 => "end",
            _ => "middle",
        };
        label(m, [at * STRIP, 11.0], "tick", anchor, text);
    }
    m.raw("</svg>");
}

/// A bar whose parts are shares of `whole`, stretched over the width of its box. Parts: share, colour, text.
pub(super) fn stack(m: &mut Markup, parts: &[(u64, &'static str, String)], whole: u64, title: &str) {
    m.raw("<svg class=\"stack\" viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\" role=\"img\"><title>");
    m.text(title).raw("</title>");
    let mut x = 0.0;
    for (part, colour, text) in parts {
        let width = 1000.0 * *part as f64 / whole.max(1) as f64;
        rect(m, [x, 0.0], [(width - 1.0).max(0.5), 20.0]);
        m.raw(" fill=\"").raw(colour).raw("\"><title>").text(text).raw("</title></rect>");
        x += width;
    }
    m.raw("</svg>");
}

/// A bar from 0 to `share` of its box.
pub(super) fn meter(m: &mut Markup, share: f64, colour: &'static str) {
    m.raw("<svg class=\"meter\" viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    rect(m, [0.0, 0.0], [100.0, 8.0]);
    m.raw(" class=\"trough\"/>");
    rect(m, [0.0, 0.0], [100.0 * share.clamp(0.0, 1.0), 8.0]);
    m.raw(" fill=\"").raw(colour).raw("\"/></svg>");
}
