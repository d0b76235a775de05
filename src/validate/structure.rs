//! The structure level: files, names, types and configuration of an artifact, and where every source tensor went.

use super::checks::{List, failed, passed, skipped};
use super::contract::{self, Severity};
use super::record::Record;
use crate::artifact::manifest::FileEntry;
use crate::artifact::verify::verify_except;
use crate::checkpoint::{Checkpoint, Encoding, Kind, module_of};
use crate::error::{Error, Result};
use crate::plan::Fate;
use crate::report::model::{Check, Level, Verdict};
use crate::targets::Target;
use std::collections::BTreeSet;
use std::path::Path;

const LEVEL: Level = Level::Structure;

/// What is looked at.
pub(super) struct Subject<'a> {
    /// The artifact's folder.
    pub(super) dir: &'a Path,
    /// The artifact, or why it cannot be opened.
    pub(super) artifact: std::result::Result<&'a Checkpoint, &'a Error>,
    /// Its source.
    pub(super) source: Option<&'a Checkpoint>,
    /// Its record.
    pub(super) record: Option<&'a Record>,
    /// Whether the weight files are hashed while their tensors are read.
    pub(super) weights_hashed_later: bool,
    /// Threads.
    pub(super) jobs: usize,
}

/// Checks the structure.
///
/// # Errors
/// I/O errors; exit 4 where the folder is no checkpoint at all.
pub(super) fn run(subject: &Subject<'_>) -> Result<Vec<Check>> {
    let mut list = List::default();
    files(subject, &mut list)?;
    contract(subject, &mut list)?;
    if let Some(record) = subject.record {
        if let Some(fault) = &record.plan_fault {
            list.add(failed(
                "plan",
                LEVEL,
                Some("silicast/plan.txt"),
                format!(
                    "expected the plan with the digest {} that the manifest names, found {fault}; fix: get the artifact again",
                    record.manifest.head.plan_digest
                ),
            ));
        } else {
            list.add(passed("plan", LEVEL, "the plan is the one that the manifest names"));
        }
    }
    if let Ok(artifact) = subject.artifact {
        match subject.record {
            Some(record) => recorded(artifact, record, &mut list),
            None => list.add(skipped(
                "tensors",
                LEVEL,
                "there is no manifest to hold names, types and shapes against",
            )),
        }
        conservation(artifact, subject, &mut list);
    }
    if let (Some(source), Some(record)) = (subject.source, subject.record) {
        identity(source, record, &mut list);
    }
    Ok(list.finish())
}

/// Files against the manifest.
fn files(subject: &Subject<'_>, list: &mut List) -> Result<()> {
    if subject.record.is_none() {
        list.add(skipped(
            "files",
            LEVEL,
            "there is no silicast/manifest.json: digests of the files are not known",
        ));
        return Ok(());
    }
    let weights: BTreeSet<&str> = match subject.artifact {
        Ok(artifact) => artifact.files.iter().map(|f| f.name.as_str()).collect(),
        Err(_) => BTreeSet::new(),
    };
    let later = |file: &FileEntry| {
        subject.weights_hashed_later && file.digest.sha256.is_none() && weights.contains(file.path.as_str())
    };
    let report = verify_except(subject.dir, subject.jobs, &later)?;
    for fault in &report.failed {
        list.add(failed(
            "files",
            LEVEL,
            Some(&fault.path),
            format!("{}: {}; fix: get the artifact again", fault.path, fault.reason),
        ));
    }
    if report.failed.is_empty() {
        let what =
            if subject.weights_hashed_later { "present, of their length" } else { "equal to their digests" };
        list.add(passed("files", LEVEL, format!("{} files are {what}, and there is no other", report.files)));
    }
    Ok(())
}

/// The rules of the engine's loader, as `check` has them.
fn contract(subject: &Subject<'_>, list: &mut List) -> Result<()> {
    let target = subject.record.and_then(|r| Target::find(&r.manifest.head.target).ok());
    let engine = subject.record.map(|r| r.manifest.head.engine.as_str());
    let outcome = contract::check(subject.dir, target, engine)?;
    for finding in &outcome.findings {
        let place = match (&finding.file, &finding.tensor) {
            (Some(file), _) => format!(" in {file}"),
            _ => String::new(),
        };
        let message =
            format!("expected {}{place}, found {}; fix: {}", finding.expected, finding.found, finding.fix);
        let tensor = finding.tensor.as_deref().or(finding.file.as_deref());
        let mut check = failed(finding.id, LEVEL, tensor, message);
        if finding.severity == Severity::Warning {
            check.verdict = Verdict::Warn;
        }
        list.add(check);
    }
    if outcome.findings.is_empty() {
        list.add(passed("contract", LEVEL, format!("{} loads it by its rules", outcome.engine)));
    }
    if let Err(error) = subject.artifact
        && outcome.errors == 0
    {
        let expected = error.expected_text().unwrap_or("a checkpoint that a strict reader accepts");
        let message = format!(
            "expected {expected}, found {}{}; fix: {}",
            error.what_text(),
            error.found_text().map_or(String::new(), |f| format!(" ({f})")),
            error.fix_text().unwrap_or("get the artifact again")
        );
        list.add(failed(error.code(), LEVEL, error.tensor_name().or(error.file_name()), message));
    }
    Ok(())
}

/// Names, types and shapes against plan and manifest.
fn recorded(artifact: &Checkpoint, record: &Record, list: &mut List) {
    let before = list.failures();
    let missing = |name: &str, list: &mut List| {
        let message = "expected the tensor that the manifest lists, found none in any file; fix: get the artifact again";
        list.add(failed("tensor-missing", LEVEL, Some(name), message));
    };
    for entry in &record.manifest.tensors {
        let dropped = entry.fate == Fate::Dropped.name();
        match artifact.find(&entry.name) {
            Some(_) if dropped && record.output(&entry.name).is_none() => {
                let message = "expected no such tensor, because the manifest says it was dropped, found one";
                list.add(failed("tensor-dropped", LEVEL, Some(&entry.name), message));
            }
            None if !dropped => missing(&entry.name, list),
            _ => {}
        }
        if dropped && entry.reason.as_ref().is_none_or(String::is_empty) {
            list.add(failed(
                "drop-reason",
                LEVEL,
                Some(&entry.name),
                "expected a reason for dropping it, found none in the manifest",
            ));
        }
    }
    for tensor in &artifact.tensors {
        if record.entry(&tensor.name).is_none() {
            let message = format!(
                "expected only tensors that the manifest lists, found {} {:?} in {}; fix: get the artifact again",
                tensor.dtype,
                tensor.shape,
                artifact.files.get(tensor.file as usize).map_or("", |f| &f.name)
            );
            list.add(failed("tensor-foreign", LEVEL, Some(&tensor.name), message));
        }
    }
    for output in record.plan.iter().flat_map(|p| &p.outputs) {
        match artifact.find(&output.name).map(|id| artifact.tensor(id)) {
            None if record.entry(&output.name).is_none() => missing(&output.name, list),
            Some(found) if found.dtype != output.ty.dtype || found.shape != output.ty.shape => {
                let message = format!(
                    "expected {}, as the plan says, found {} {:?}; fix: get the artifact again",
                    output.ty, found.dtype, found.shape
                );
                list.add(failed("tensor-type", LEVEL, Some(&output.name), message));
            }
            _ => {}
        }
    }
    if list.failures() == before {
        let message =
            format!("{} tensors have the names, types and shapes of the record", artifact.tensors.len());
        list.add(passed("tensors", LEVEL, message));
    }
}

/// Every source tensor went somewhere.
fn conservation(artifact: &Checkpoint, subject: &Subject<'_>, list: &mut List) {
    let before = list.failures();
    let (count, dropped) = match (subject.record, subject.source) {
        (Some(record), source) => {
            let entries = &record.manifest.tensors;
            let accounted: BTreeSet<&str> =
                entries.iter().flat_map(|e| &e.sources).map(String::as_str).collect();
            let dropped = entries.iter().filter(|e| e.fate == Fate::Dropped.name()).count() as u64;
            let inputs = match (source, &record.plan) {
                (Some(source), _) => &source.tensors,
                (None, Some(plan)) => &plan.inputs,
                (None, None) => {
                    let why = "neither the source nor the plan is there to say what had to be kept";
                    list.add(skipped("conservation", LEVEL, why));
                    return;
                }
            };
            for tensor in inputs.iter().filter(|t| !accounted.contains(t.name.as_ref())) {
                lost(&tensor.name, "the manifest's entries", list);
            }
            (inputs.len(), dropped)
        }
        (None, Some(source)) => (source.tensors.len(), by_name(artifact, source, list)),
        (None, None) => {
            list.add(skipped("conservation", LEVEL, "the source is not known; name it with --against"));
            return;
        }
    };
    if list.failures() == before {
        let message = format!("{count} source tensors are accounted for, {dropped} of them dropped");
        list.add(passed("conservation", LEVEL, message));
    }
}

fn lost(name: &str, place: &str, list: &mut List) {
    let message = format!(
        "expected the source tensor to be kept, quantized or dropped for a reason, found it nowhere in {place}; fix: \
         convert again from the whole source"
    );
    list.add(failed("conservation", LEVEL, Some(name), message));
}

/// Conservation without a manifest; the tensors that need not be there.
fn by_name(artifact: &Checkpoint, source: &Checkpoint, list: &mut List) -> u64 {
    let mut dropped = 0;
    let has_weight = |c: &Checkpoint, name: &str| c.find(&format!("{}.weight", module_of(name))).is_some();
    let tied = artifact.config.tie_word_embeddings();
    for (id, tensor) in (0u32..).zip(&source.tensors) {
        let companion = match &source.encodings[id as usize] {
            Encoding::ScaleOf { codes } | Encoding::OffsetOf { codes } => {
                artifact.find(&source.tensor(*codes).name).is_some()
            }
            _ => false,
        };
        let kind = source.role(id).kind;
        let needless = kind == Kind::RotaryBuffer || kind == Kind::LmHead && tied;
        if artifact.find(&tensor.name).is_some() || companion {
            continue;
        }
        if needless {
            dropped += 1;
        } else {
            lost(&tensor.name, "the artifact, by name", list);
        }
    }
    for (id, tensor) in (0u32..).zip(&artifact.tensors) {
        let companion = matches!(
            artifact.encodings[id as usize],
            Encoding::ScaleOf { .. } | Encoding::OffsetOf { .. } | Encoding::Unsupported { .. }
        );
        if source.find(&tensor.name).is_none() && !companion && !has_weight(source, &tensor.name) {
            let mut check = failed(
                "tensor-foreign",
                LEVEL,
                Some(&tensor.name),
                "expected only tensors of the source and their scales, found another",
            );
            check.verdict = Verdict::Warn;
            list.add(check);
        }
    }
    dropped
}

/// The source's files against what the manifest and the plan say of them: names, lengths and headers.
fn identity(source: &Checkpoint, record: &Record, list: &mut List) {
    let before = list.failures();
    let fix = "name the very checkpoint that the artifact was made from with --against";
    let mut differ = |file: &str, expected: String, found: String| {
        let message = format!("expected {expected} of the source, found {found}; fix: {fix}");
        list.add(failed("source-identity", LEVEL, Some(file), message));
    };
    for entry in &record.manifest.sources {
        match source.files.iter().find(|f| f.name == entry.path) {
            None => differ(&entry.path, format!("the file {}", entry.path), "none of that name".to_owned()),
            Some(file) if file.bytes != entry.digest.bytes => {
                differ(&entry.path, format!("{} bytes", entry.digest.bytes), format!("{} bytes", file.bytes));
            }
            Some(file) => {
                let planned = record.plan.iter().flat_map(|p| &p.sources).find(|s| s.name == entry.path);
                if let Some(planned) = planned.filter(|s| s.header_blake3 != file.header_blake3) {
                    let [a, b] = [&planned.header_blake3, &file.header_blake3];
                    differ(&entry.path, format!("a header with BLAKE3 {a}"), format!("BLAKE3 {b}"));
                }
            }
        }
    }
    for file in &source.files {
        if record.manifest.sources.iter().all(|s| s.path != file.name) {
            differ(&file.name, "only the files of the manifest".to_owned(), file.name.clone());
        }
    }
    if list.failures() == before {
        let message =
            format!("{} source files have the recorded names, lengths and headers", source.files.len());
        list.add(passed("source-identity", LEVEL, message));
    }
}
