//! `validate`: an artifact re-read from disk and measured against its source.

use super::ui::{Ui, count, size, table};
use super::{LevelArg, ValidateArgs, jobs, memory};
use crate::error::{Class, Error, Result, quote};
use crate::io::output::OutputDir;
use crate::io::{append_text, read_text};
use crate::report::model::{Check, Level, TensorRow, Verdict};
use crate::report::{self, Report};
use crate::validate::{self, Gates, Limit, Request, gate};
use std::path::Path;

/// The largest report that is read as a baseline, in bytes.
const MAX_REPORT: u64 = 1 << 30;
/// Failures shown to people; JSON has all of them.
const SHOWN: usize = 20;
/// Tensors shown as the worst.
const WORST: usize = 5;

pub(super) fn run(out: &Path, options: &ValidateArgs, ui: &Ui) -> Result<u8> {
    let request = Request {
        artifact: out,
        against: options.against.as_deref(),
        level: options.level.map(level),
        sample: options.sample.0,
        memory: memory(options.memory)?,
        jobs: jobs(options.jobs)?,
        gates: gates(options)?,
    };
    let report = validate::run(&request)?;
    if let Some(dir) = &options.report {
        let (dir, _) = OutputDir::create_or_open(dir)?;
        let files = report::render(&report);
        dir.write_many(files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.as_slice())))?;
    }
    if std::env::var_os("GITHUB_ACTIONS").is_some_and(|v| v == "true") {
        on_github(&report, ui)?;
    }
    if ui.json() {
        // The report has its own schema_version, so it goes out as it is.
        ui.report(&report)?;
    } else {
        ui.text(&text(&report))?;
    }
    match report.verdict {
        Verdict::Fail if !options.warn_only => Ok(Class::Gate.exit_code()),
        _ => Ok(0),
    }
}

/// Annotations for the runner, and the report for the page of the run.
fn on_github(report: &Report, ui: &Ui) -> Result<()> {
    ui.raw(&report::annotations(report));
    match std::env::var_os("GITHUB_STEP_SUMMARY") {
        Some(path) => append_text(Path::new(&path), &report::markdown(report)),
        None => Ok(()),
    }
}

fn level(level: LevelArg) -> Level {
    match level {
        LevelArg::Structure => Level::Structure,
        LevelArg::Tensor => Level::Tensor,
        LevelArg::Kernel => Level::Kernel,
        LevelArg::Layer => Level::Layer,
        LevelArg::Model => Level::Model,
    }
}

fn gates(options: &ValidateArgs) -> Result<Gates> {
    let mut gates = Gates::default();
    for list in &options.fail_on {
        gates.limits.extend(Limit::parse_list(list)?);
    }
    if let (Some(path), Some(percent)) = (&options.baseline, options.max_regress) {
        if !(percent >= 0.0 && percent.is_finite()) {
            return Err(Error::usage("max-regress", "the regression limit is no percentage")
                .expected("--max-regress of 0 or more")
                .found(percent));
        }
        let report: Report = serde_json::from_str(&read_text(path, MAX_REPORT)?).map_err(|e| {
            Error::usage("baseline", "the baseline is no report of silicast")
                .file(path.display())
                .expected("a report.json")
                .found(e)
                .fix("make one with silicast validate --report DIR")
        })?;
        gates.baseline = Some((Box::new(report), percent));
    }
    Ok(gates)
}

/// The summary for people: verdict, what was looked at, what failed.
fn text(report: &Report) -> String {
    let of = |verdict: Verdict| report.checks.iter().filter(move |c| c.verdict == verdict);
    let failures = of(Verdict::Fail).count();
    let mut text = format!(
        "{}: {} at level {}; {} checks failed, {} warnings\n",
        if report.verdict == Verdict::Fail { "fail" } else { "pass" },
        subject(report),
        gate::level_name(report.level),
        count(failures as u64),
        count(of(Verdict::Warn).count() as u64),
    );
    let rows: Vec<Vec<String>> = fates(report);
    if !rows.is_empty() {
        text.push('\n');
        text += &table(
            &["fate", "tensors", "size", "least SQNR dB", "wrong codes", "wrong scales"],
            &rows,
            &[1, 2, 3, 4, 5],
        );
    }
    let worst = worst(&report.tensors);
    if !worst.is_empty() && failures == 0 {
        text.push('\n');
        text += &table(&["least SQNR", "dB", "max abs"], &worst, &[1, 2]);
    }
    for (verdict, label) in [(Verdict::Fail, "fail"), (Verdict::Warn, "warn"), (Verdict::Skip, "skip")] {
        let mut checks = of(verdict);
        for check in checks.by_ref().take(SHOWN) {
            text += &line(label, check);
        }
        let hidden = checks.count();
        if hidden > 0 {
            text += &format!("\n… and {hidden} more: --json and --report have all\n");
        }
    }
    for note in report.notes.iter().take(SHOWN) {
        text += &format!("note: {}\n", quote(note, 300));
    }
    text
}

fn line(label: &str, check: &Check) -> String {
    let at = check.tensor.as_ref().map_or(String::new(), |t| format!(" {}", quote(t, 200)));
    let message = quote(&check.message, 1200);
    let mut text = format!("\n{label} {}{at}\n", quote(&check.id, 60));
    for part in message.split("; ") {
        text += &format!("  {part}\n");
    }
    text
}

fn subject(report: &Report) -> String {
    let artifact = &report.artifact;
    let parts = [&artifact.family, &artifact.target, &artifact.scheme];
    let mut words: Vec<String> = parts.into_iter().flatten().map(|t| quote(t, 60)).collect();
    words.push(format!("{} tensors", count(artifact.tensors)));
    words.push(size(artifact.bytes));
    words.join(", ")
}

/// A row per fate.
fn fates(report: &Report) -> Vec<Vec<String>> {
    let mut names: Vec<&str> = report.tensors.iter().map(|t| t.fate.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let row = |fate: &&str| {
        let of = || report.tensors.iter().filter(|t| t.fate == **fate);
        let sum = |get: fn(&TensorRow) -> Option<u64>| {
            of().any(|t| get(t).is_some()).then(|| of().filter_map(get).sum::<u64>())
        };
        let least = of().filter_map(|t| t.sqnr_db).min_by(f64::total_cmp);
        let bytes = if **fate == *"dropped" {
            of().map(|t| t.source_bytes).sum()
        } else {
            of().map(|t| t.bytes).sum()
        };
        vec![
            quote(fate, 20),
            count(of().count() as u64),
            size(bytes),
            least.map_or_else(String::new, |db| format!("{db:.2}")),
            sum(|t| t.wrong_codes).map_or_else(String::new, count),
            sum(|t| t.wrong_scales).map_or_else(String::new, count),
        ]
    };
    names.iter().map(row).collect()
}

fn worst(tensors: &[TensorRow]) -> Vec<Vec<String>> {
    let mut rows: Vec<(&TensorRow, f64)> = tensors.iter().filter_map(|t| Some((t, t.sqnr_db?))).collect();
    rows.sort_by(|a, b| a.1.total_cmp(&b.1));
    let cells = |(t, db): &(&TensorRow, f64)| {
        let max = t.max_abs.map_or_else(String::new, |m| format!("{m:.3e}"));
        vec![quote(&t.name, 120), format!("{db:.2}"), max]
    };
    rows.iter().take(WORST).map(cells).collect()
}
