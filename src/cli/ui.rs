//! What commands say, and where: results on stdout, everything for people on stderr.

use super::{ProgressMode, SCHEMA_VERSION};
use crate::error::{Class, Error, Result, quote};
pub(super) use crate::report::text::{count, size};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// The terminal, or what stands for it.
pub(super) struct Ui {
    json: bool,
    verbose: bool,
    progress: ProgressMode,
}

#[derive(Serialize)]
struct Document<'a, T: Serialize> {
    schema_version: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
struct Failure<'a> {
    error: FailureBody<'a>,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    code: &'a str,
    exit_code: u8,
    file: Option<&'a str>,
    tensor: Option<&'a str>,
    message: String,
}

impl Ui {
    pub(super) fn new(json: bool, verbose: bool, progress: ProgressMode) -> Self {
        Self { json, verbose, progress }
    }

    /// Whether results go out as JSON.
    pub(super) fn json(&self) -> bool {
        self.json
    }

    pub(super) fn progress(&self) -> ProgressMode {
        self.progress
    }

    /// Prints the one JSON document of the command.
    pub(super) fn document(&self, body: &impl Serialize) -> Result<()> {
        let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
        serde_json::to_writer_pretty(&mut out, &Document { schema_version: SCHEMA_VERSION, body })
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush())
            .map_err(closed)
    }

    /// Prints a report as the one JSON document of the command: it has its own `schema_version`.
    pub(super) fn report(&self, report: &crate::report::Report) -> Result<()> {
        let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
        crate::report::write_json(report, &mut out).and_then(|()| out.flush()).map_err(closed)
    }

    /// Prints result text on stdout.
    pub(super) fn text(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(closed)
    }

    /// Streams result text to stdout.
    pub(super) fn stream(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
        write(&mut out).and_then(|()| out.flush()).map_err(closed)
    }

    /// Lines for people. Paths and names in them come from outside, so that control characters are escaped.
    pub(super) fn say(&self, text: &str) {
        let lines: Vec<String> = text.split('\n').map(|line| quote(line, usize::MAX)).collect();
        let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
    }

    /// Lines for a program that reads standard error, as they are.
    pub(super) fn raw(&self, text: &str) {
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// A line for people who asked for more.
    pub(super) fn detail(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            self.say(&line());
        }
    }

    /// A warning; what it quotes is escaped.
    pub(super) fn warn(&self, text: &str) {
        self.say(&format!("warning: {}", quote(text, 600)));
    }

    /// Reports an error and returns its exit code.
    pub(super) fn error(&self, error: &Error) -> u8 {
        // A reader that closed the pipe wants no message about it.
        if error.code() != "stdout-closed" {
            let label = match error.class() {
                Class::Interrupted => "interrupted",
                _ => "error",
            };
            self.say(&format!("{label}: {error}"));
            if self.json {
                let body = FailureBody {
                    code: error.code(),
                    exit_code: error.class().exit_code(),
                    file: error.file_name(),
                    tensor: error.tensor_name(),
                    message: error.to_string(),
                };
                let _ = self.document(&Failure { error: body });
            }
        }
        error.class().exit_code()
    }

    /// Whether a bar may be drawn.
    pub(super) fn bars(&self) -> bool {
        self.progress == ProgressMode::Auto && io::stderr().is_terminal()
    }
}

fn closed(error: io::Error) -> Error {
    let code = if error.kind() == io::ErrorKind::BrokenPipe { "stdout-closed" } else { "stdout" };
    Error::new(Class::Io, code, "cannot write to standard output").found(&error)
}

/// A plain table without colour; numbers to the right.
pub(super) fn table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset("     ──            ").set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for i in right {
        if let Some(column) = table.column_mut(*i) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(688_574_839_360), "689 GB");
        assert_eq!(size(1_500_000), "1.50 MB");
        assert_eq!(count(91_991), "91,991");
        assert_eq!(count(7), "7");
    }
}
