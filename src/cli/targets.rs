//! `targets`: chips, engines and schemes.

use super::ui::{Ui, table};
use crate::error::Result;
use crate::targets::{self, Target};
use serde::Serialize;

#[derive(Serialize)]
struct Document<'a> {
    targets: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    vendor: &'a str,
    chip: &'a str,
    engines: &'a [String],
    schemes: Vec<SchemeRow<'a>>,
    note: &'a str,
    sources: &'a [String],
}

#[derive(Serialize)]
struct SchemeRow<'a> {
    name: &'a str,
    aliases: &'a [String],
    default: bool,
    tier: u8,
    encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    experts: Option<String>,
    about: &'a str,
}

pub(super) fn run(id: Option<&str>, ui: &Ui) -> Result<u8> {
    let chosen: Vec<&Target> = match id {
        Some(id) => vec![Target::find(id)?],
        None => targets::all().iter().collect(),
    };
    if ui.json() {
        ui.document(&Document { targets: chosen.iter().map(|t| row(t)).collect() })?;
        return Ok(0);
    }
    let mut rows = Vec::new();
    for target in &chosen {
        for (i, scheme) in target.schemes.iter().enumerate() {
            let first = |text: &str| if i == 0 { text.to_owned() } else { String::new() };
            let default = if i == 0 { " (default)" } else { "" };
            rows.push(vec![
                first(&target.id),
                first(&target.chip),
                first(&target.engines.join(", ")),
                format!("{}{default}", scheme.name),
                scheme.tier.to_string(),
                scheme.about.clone(),
            ]);
        }
    }
    let mut text = table(&["target", "chip", "engine", "scheme", "tier", "what it is"], &rows, &[]);
    if let (Some(_), [target]) = (id, chosen.as_slice()) {
        text += &format!("\n{}\n\nsources:\n", target.note);
        for source in &target.sources {
            text += &format!("  {source}\n");
        }
    }
    ui.text(&text)?;
    Ok(0)
}

fn row(target: &Target) -> Row<'_> {
    Row {
        id: &target.id,
        vendor: &target.vendor,
        chip: &target.chip,
        engines: &target.engines,
        schemes: target
            .schemes
            .iter()
            .enumerate()
            .map(|(i, s)| SchemeRow {
                name: &s.name,
                aliases: &s.aliases,
                default: i == 0,
                tier: s.tier,
                encoding: s.encoding.map(|e| e.to_string()),
                experts: s.experts.map(|e| e.to_string()),
                about: &s.about,
            })
            .collect(),
        note: &target.note,
        sources: &target.sources,
    }
}
