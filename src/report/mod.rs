//! The validation report: one model, several renderings.
//!
//! Every rendering is a pure function of [`Report`]: equal reports give equal bytes, and nothing but the report is in
//! them. The caller writes the files and decides where they go.
//!
//! | file | for | holds |
//! |---|---|---|
//! | `report.json` | programs | everything; `docs/report.schema.json` describes it |
//! | `report.html` | people | one page without scripts or outside resources; bounded in size |
//! | `report.md` | reviews, step summaries | the verdict and what led to it; bounded in size |
//! | `junit.xml` | CI | a case per class of tensors, kernel set, layer and other check |
//!
//! Names and messages come from checkpoints that may be hostile. `text` makes them visible, `markup` escapes them
//! by construction, `markdown` and `github` escape them for their own syntax.

mod github;
mod heat;
mod html;
mod json;
mod junit;
mod markdown;
mod markup;
pub mod model;
mod summary;
mod svg;
pub mod text;

pub use github::annotations;
pub use json::write as write_json;
pub use markdown::render as markdown;
pub use model::Report;

use std::io;

/// Names of the files of a report, in the order of [`render`].
pub const FILES: [&str; 4] = ["report.json", "report.md", "junit.xml", "report.html"];

/// All files of a report: name and content. Equal reports give equal bytes.
pub fn render(report: &Report) -> Vec<(&'static str, Vec<u8>)> {
    let summary = summary::Summary::of(report);
    let [json, md, xml, html] = FILES;
    let mut bytes = Vec::new();
    // A vector takes all that is written to it.
    let _: io::Result<()> = json::write(report, &mut bytes);
    vec![
        (json, bytes),
        (md, markdown::of(&summary).into_bytes()),
        (xml, junit::of(&summary).into_bytes()),
        (html, html::of(&summary).into_bytes()),
    ]
}
