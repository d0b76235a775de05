//! The validation report: one model, several renderings.

pub mod model;

pub use model::Report;

/// All files of a report: name and content.
pub fn render(report: &Report) -> Vec<(&'static str, Vec<u8>)> {
    vec![("report.json", serde_json::to_vec(report).unwrap_or_default())]
}
