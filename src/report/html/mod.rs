//! `report.html`: one page to read, without scripts and without anything from outside.
//!
//! Its size does not follow the number of tensors: tensors are shown as classes, cells and histograms, and by name only
//! where they failed or are among the worst. `report.json` holds all of them.

mod tables;
mod verdict;
mod views;

use super::heat::{self, Scale};
use super::markup::Markup;
use super::summary::Summary;
use super::svg;
use super::text;

/// Rows of one list of failures, warnings or single rows.
const SHOWN: usize = 100;

/// Rows of one table of groups. No honest report has as many; a forged one may.
const GROUPS: usize = 200;

const STYLE: &str = include_str!("page.css");

/// A part of the page: anchor, heading, and what writes it. One that writes nothing is left out.
type Section = (&'static str, &'static str, String);

/// The page.
pub(super) fn of(summary: &Summary<'_>) -> String {
    let scale = Scale::of(&summary.sqnr());
    let map = heat::of(summary, scale);
    let sections: Vec<Section> = [
        ("failed", "What failed", part(|m| verdict::failures(m, summary))),
        ("artifact", "What this artifact is", part(|m| verdict::artifact(m, summary))),
        ("map", "Accuracy by layer and role", part(|m| views::map(m, summary, map.as_ref()))),
        ("distributions", "Distributions", part(|m| views::distributions(m, summary, &scale))),
        ("worst", "Worst tensors", part(|m| tables::worst(m, summary))),
        ("exponents", "Scale exponents", part(|m| views::exponents(m, summary))),
        ("kernels", "Kernels", part(|m| tables::kernels(m, summary))),
        ("layers", "Layers", part(|m| tables::layers(m, summary, &scale))),
        ("lossless", "Lossless and lossy", part(|m| tables::fates(m, summary))),
        ("sizes", "Sizes", part(|m| views::sizes(m, summary))),
        ("checks", "Checks", part(|m| tables::rules(m, summary))),
        ("notes", "Notes", part(|m| verdict::notes(m, summary))),
        ("reproduce", "Reproduce", part(|m| verdict::reproduce(m, summary))),
    ]
    .into_iter()
    .filter(|(_, _, content)| !content.is_empty())
    .collect();

    let mut m = Markup::default();
    m.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
    m.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n");
    m.raw("<meta name=\"color-scheme\" content=\"light dark\"/>\n");
    m.raw("<meta name=\"referrer\" content=\"no-referrer\"/>\n<title>");
    m.text(if summary.passed() { "Pass" } else { "Fail" }).raw(": ").text(&summary.subject());
    m.raw("</title>\n<style>\n").raw(STYLE).raw("</style>\n</head>\n<body>\n");
    svg::definitions(&mut m);
    verdict::header(&mut m, summary);
    m.raw("<nav aria-label=\"Sections\"><ul>");
    for (anchor, heading, _) in &sections {
        m.raw("<li><a href=\"#").raw(anchor).raw("\">").raw(heading).raw("</a></li>");
    }
    m.raw("</ul></nav>\n<main>\n");
    for (anchor, heading, content) in &sections {
        m.raw("<section id=\"").raw(anchor).raw("\" aria-labelledby=\"").raw(anchor).raw("-h\">\n<h2 id=\"");
        m.raw(anchor).raw("-h\">").raw(heading).raw("</h2>\n").part(content).raw("</section>\n");
    }
    m.raw("</main>\n<footer><p>").text(&summary.report.tool.name).raw(" ").text(&summary.report.tool.version);
    m.raw(", report schema ").int(summary.report.schema_version as usize);
    m.raw(". All rows are in <code>report.json</code>.</p></footer>\n</body>\n</html>\n");
    m.finish()
}

fn part(write: impl FnOnce(&mut Markup)) -> String {
    let mut m = Markup::default();
    write(&mut m);
    m.finish()
}

/// Opens a table that scrolls inside its box; columns whose heading starts with `>` hold numbers.
fn table(m: &mut Markup, caption: &'static str, class: &'static str, columns: &[&'static str]) {
    m.raw("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"").raw(caption);
    m.raw("\"><table class=\"").raw(class).raw("\"><caption class=\"unseen\">").raw(caption);
    m.raw("</caption><thead><tr>");
    for column in columns {
        match column.strip_prefix('>') {
            Some(column) => m.raw("<th scope=\"col\" class=\"n\">").raw(column),
            None => m.raw("<th scope=\"col\">").raw(column),
        };
        m.raw("</th>");
    }
    m.raw("</tr></thead><tbody>\n");
}

fn end_table(m: &mut Markup) {
    m.raw("</tbody></table></div>\n");
}

/// A cell with a number, or with a dash where there is none.
fn number_cell(m: &mut Markup, text: Option<&str>) {
    match text {
        Some(text) => m.raw("<td class=\"n\">").text(text).raw("</td>"),
        None => m.raw("<td class=\"n none\">–</td>"),
    };
}

/// The heading cell of a row: a name.
fn name_cell(m: &mut Markup, name: &str) {
    m.raw("<th scope=\"row\">").code(&text::clip(name, text::NAME)).raw("</th>");
}

/// A cell with a verdict as mark and word.
fn verdict_cell(m: &mut Markup, verdict: Option<super::model::Verdict>) {
    use super::model::Verdict::{Fail, Pass, Skip, Warn};
    m.raw(match verdict {
        Some(Pass) => "<td class=\"pass\">✓ pass</td>",
        Some(Fail) => "<td class=\"fail\">✗ fail</td>",
        Some(Warn) => "<td class=\"warn\">! warn</td>",
        Some(Skip) => "<td class=\"skip\">– skip</td>",
        None => "<td class=\"none\">–</td>",
    });
}

/// Says how many rows a list left out.
fn left_out(m: &mut Markup, total: usize, shown: usize) {
    if total > shown {
        m.raw("<p class=\"more\">").text(&text::count((total - shown) as u64));
        m.raw(" more are in <code>report.json</code>.</p>\n");
    }
}
