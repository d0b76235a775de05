//! `report.json`: all of the report, with one line per check, tensor, kernel and layer so that `grep` and `diff` work.

use super::model::Report;
use serde::Serialize;
use std::io::{self, Write};

/// Writes the report as JSON, row by row: never more than one row is held as text.
///
/// NaN and infinities become `null`. The keys are those of [`Report`], in its order.
///
/// # Errors
/// Those of `out`.
pub fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    // Without `..`, so that a new field cannot be forgotten.
    let Report {
        schema_version,
        verdict,
        level,
        tool,
        artifact,
        source,
        sampled,
        engine_path,
        checks,
        tensors,
        kernels,
        layers,
        notes,
        reproduce,
    } = report;
    out.write_all(b"{")?;
    value(out, "\n", "schema_version", schema_version)?;
    value(out, ",\n", "verdict", verdict)?;
    value(out, ",\n", "level", level)?;
    value(out, ",\n", "tool", tool)?;
    value(out, ",\n", "artifact", artifact)?;
    value(out, ",\n", "source", source)?;
    value(out, ",\n", "sampled", sampled)?;
    value(out, ",\n", "engine_path", engine_path)?;
    rows(out, "checks", checks)?;
    rows(out, "tensors", tensors)?;
    rows(out, "kernels", kernels)?;
    rows(out, "layers", layers)?;
    rows(out, "notes", notes)?;
    rows(out, "reproduce", reproduce)?;
    out.write_all(b"\n}\n")
}

fn value<T: Serialize>(out: &mut dyn Write, before: &str, key: &str, value: &T) -> io::Result<()> {
    write!(out, "{before}  \"{key}\": ")?;
    Ok(serde_json::to_writer(&mut *out, value)?)
}

fn rows<T: Serialize>(out: &mut dyn Write, key: &str, rows: &[T]) -> io::Result<()> {
    write!(out, ",\n  \"{key}\": [")?;
    for (i, row) in rows.iter().enumerate() {
        out.write_all(if i == 0 { b"\n    " } else { b",\n    " })?;
        serde_json::to_writer(&mut *out, row)?;
    }
    out.write_all(if rows.is_empty() { b"]" } else { b"\n  ]" })
}
