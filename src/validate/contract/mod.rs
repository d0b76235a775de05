//! The loader contract: a linter for checkpoints, ours or anybody's.
//!
//! [`check`] reads headers, JSON and the values of scales and offsets, never weights, and holds them against the rules of
//! one serving engine. Loaders are careless: a missing scale or a BF16 tensor where INT8 is expected loads without a word.
//! Each rule in [`rules::RULES`] exists because some loader behaves like that, and says where it is written.
//!
//! Unlike [`Checkpoint::open`], which stops at the first fault, the view behind the rules takes what it can read, so that
//! one run reports everything. The strict reader runs last and adds what the rules have not explained.

mod ascend;
mod ascend_schemes;
mod common;
mod compressed_tensors;
mod native_fp8;
mod native_names;
pub mod rules;
mod values;
mod view;

pub use rules::{RULES, Rule, Severity};

use crate::checkpoint::Checkpoint;
use crate::error::{Class, Error, Result};
use crate::targets::Target;
use crate::targets::engine;
use rules::READER;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use view::View;

/// Findings of one rule that are listed one by one.
const LISTED: usize = 200;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's id, or the code of the strict reader.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The file at fault, relative to the folder.
    pub file: Option<String>,
    /// The tensor at fault.
    pub tensor: Option<String>,
    /// What the loader expects.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    fn new(rule: &'static Rule) -> Self {
        Self {
            id: rule.id,
            severity: rule.severity,
            file: None,
            tensor: None,
            expected: String::new(),
            found: String::new(),
            fix: String::new(),
        }
    }

    fn file(mut self, file: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self
    }

    fn tensor(mut self, tensor: impl Into<String>) -> Self {
        self.tensor = Some(tensor.into());
        self
    }

    fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = text.into();
        self
    }

    fn found(mut self, text: impl Into<String>) -> Self {
        self.found = text.into();
        self
    }

    fn fix(mut self, text: impl Into<String>) -> Self {
        self.fix = text.into();
        self
    }
}

/// What [`check`] found.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The engine whose rules were applied.
    pub engine: &'static str,
    /// Why that engine.
    pub engine_reason: String,
    /// The target, where one was asked for.
    pub target: Option<String>,
    /// Findings that are errors.
    pub errors: usize,
    /// Findings that are warnings.
    pub warnings: usize,
    /// The findings, errors first, then in the order of the rules.
    pub findings: Vec<Finding>,
    /// Whether there are too many scales and offsets to look at each value: both ends of every tensor were.
    pub scales_sampled: bool,
    /// Bytes of scales and offsets whose values were looked at.
    pub scale_bytes_read: u64,
    /// Bytes of scales and offsets in all.
    pub scale_bytes: u64,
}

/// Findings while rules run.
#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
    counts: BTreeMap<&'static str, usize>,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        let count = self.counts.entry(finding.id).or_default();
        *count += 1;
        if *count <= LISTED {
            self.list.push(finding);
        }
    }

    /// Takes an error of the strict reader in `dir`; `false` where it is none of the input's fault.
    fn reader(&mut self, dir: &Path, error: &Error) -> bool {
        let known = RULES.iter().map(|r| r.id).chain(READER.iter().map(|r| r.0));
        let Some(id) =
            known.into_iter().find(|id| *id == error.code()).filter(|_| error.class() == Class::Input)
        else {
            return false;
        };
        let file = error
            .file_name()
            .map(|f| Path::new(f).strip_prefix(dir).map_or(f.to_owned(), |p| p.display().to_string()));
        self.add(Finding {
            id,
            severity: Severity::Error,
            file: file.filter(|f| !f.is_empty()),
            tensor: error.tensor_name().map(str::to_owned),
            expected: error.expected_text().unwrap_or_default().to_owned(),
            found: match error.found_text() {
                Some(found) => format!("{} ({found})", error.what_text()),
                None => error.what_text().to_owned(),
            },
            fix: error.fix_text().unwrap_or("fetch or write the file again").to_owned(),
        });
        true
    }

    /// Whether an error is known already that may be the cause of `error`.
    fn explain(&self, dir: &Path, error: &Error) -> bool {
        let file = error
            .file_name()
            .map(|f| Path::new(f).strip_prefix(dir).map_or(f.to_owned(), |p| p.display().to_string()));
        self.list.iter().filter(|f| f.severity == Severity::Error).any(|f| {
            f.id == error.code()
                || (error.tensor_name().is_some() && f.tensor.as_deref() == error.tensor_name())
                || (error.tensor_name().is_none() && file.is_some() && f.file == file)
        })
    }

    fn finish(mut self) -> Vec<Finding> {
        let mut rest = Vec::new();
        for (id, count) in &self.counts {
            if let Some(last) = self.list.iter().rfind(|f| f.id == *id).filter(|_| *count > LISTED) {
                rest.push(Finding {
                    file: None,
                    tensor: None,
                    found: format!("{} more findings of this rule", count - LISTED),
                    ..last.clone()
                });
            }
        }
        self.list.extend(rest);
        let rank = |id: &str| RULES.iter().position(|r| r.id == id).unwrap_or(0);
        self.list.sort_by_key(|f| (f.severity == Severity::Warning, rank(f.id)));
        self.list
    }
}

/// Holds the checkpoint in `dir` against the rules of `target`'s engine, or of the engine called `engine`, or of the one
/// that the folder is made for.
///
/// # Errors
/// Exit 3 for an unknown engine; exit 4 when `dir` is no checkpoint at all; exit 5 for I/O errors. Everything that is
/// wrong with a checkpoint is a finding.
pub fn check(dir: &Path, target: Option<&Target>, engine: Option<&str>) -> Result<Outcome> {
    let mut findings = Findings::default();
    let view = View::open(dir, &mut findings)?;
    let (engine, engine_reason) = match (target, engine) {
        (Some(target), _) => (target.engine()?.name(), format!("the engine of target {}", target.id)),
        (None, Some(name)) => (engine::find(name)?.name(), "asked for".to_owned()),
        (None, None) => infer(&view),
    };
    common::check(&view, target, &mut findings);
    let method = view.method();
    let described = engine == "vllm-ascend"
        && !(view.descriptions().is_empty() && method.is_some() && !view.has_ascend_names());
    if described {
        ascend::check(&view, target, &mut findings)?;
    } else {
        match method.as_deref() {
            Some("compressed-tensors") => compressed_tensors::check(&view, &mut findings)?,
            Some("fp8") => native_fp8::check(&view, &mut findings)?,
            Some(other) => findings.add(
                Finding::new(&rules::METHOD_UNCHECKED)
                    .file("config.json")
                    .expected("compressed-tensors or fp8")
                    .found(format!("quant_method {other}"))
                    .fix("check this checkpoint with the engine itself"),
            ),
            None => compressed_tensors::unconfigured(&view, &mut findings),
        }
    }
    match Checkpoint::open(dir) {
        Err(error) if findings.explain(dir, &error) || error.class() == Class::Unsupported => {}
        // The rules know more formats than the decoder does, packed ones whose scales do not fit the bytes' shape.
        Err(error) if matches!(error.code(), "scale-grid" | "scale-dtype") => {}
        Err(error) => {
            if !findings.reader(dir, &error) {
                return Err(error);
            }
        }
        Ok(_) => {}
    }
    let findings = findings.finish();
    let count = |s: Severity| findings.iter().filter(|f| f.severity == s).count();
    Ok(Outcome {
        engine,
        engine_reason,
        target: target.map(|t| t.id.clone()),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        findings,
        scales_sampled: view.scales.total() > values::BUDGET,
        scale_bytes_read: view.scales.read(),
        scale_bytes: view.scales.total(),
    })
}

/// The engine that a folder is made for.
fn infer(view: &View) -> (&'static str, String) {
    if let Some(name) = view.descriptions().first() {
        return ("vllm-ascend", format!("{name} is there"));
    }
    match view.method() {
        Some(method) => ("vllm", format!("config.json says quant_method {method}")),
        None if view.has_ascend_names() => ("vllm-ascend", "the weight files have its names".to_owned()),
        None => ("vllm", "nothing names another engine".to_owned()),
    }
}
