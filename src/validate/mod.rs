//! Looks at finished artifacts: opens them again with the strict reader and compares.
//!
//! [`run`] is `silicast validate`: structure, then every tensor against its source, then kernels and layers, then the
//! gates. What it finds is a [`Report`]; only what keeps it from looking is an error.

mod checks;
pub mod contract;
pub mod conversion;
pub mod diff;
pub mod gate;
mod golden;
pub mod kernels;
pub mod layer;
pub mod metrics;
mod pairs;
mod quick;
mod reader;
mod record;
mod rows;
mod structure;
mod tensor;

pub use gate::{Gates, Limit};
pub use quick::quick;

use crate::artifact::manifest::Tool as Made;
use crate::checkpoint::{Checkpoint, summary};
use crate::error::{Class, Error, Result};
use crate::kernel::Isa;
use crate::report::Report;
use crate::report::model::{Check, Level, SCHEMA_VERSION, Subject, Tool, Verdict};
use checks::{List, failed, passed, skipped};
use reader::Store;
use record::Record;
use rows::Rows;
use std::path::Path;

/// Seed of activations and hidden states: fixed, so that reports of one artifact agree.
const SEED: u64 = 1;

/// A validation as asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The artifact's folder, ours or anybody's.
    pub artifact: &'a Path,
    /// The checkpoint that it was made from.
    pub against: Option<&'a Path>,
    /// How deep to look; by default at the tensors where the source is there, else at the structure.
    pub level: Option<Level>,
    /// Share of each tensor's rows that is read, in (0, 1].
    pub sample: f64,
    /// Bytes that buffers may take.
    pub memory: u64,
    /// Threads, at least 1.
    pub jobs: usize,
    /// What is demanded beyond the tiers.
    pub gates: Gates,
}

/// Validates an artifact.
///
/// # Errors
/// Class Usage: a level that needs the source without one, or a memory budget that holds no band of some tensor. Exit 3
/// to 5 where source or artifact cannot be read at all. An artifact that is wrong is a report that fails.
pub fn run(request: &Request<'_>) -> Result<Report> {
    let default = if request.against.is_some() { Level::Tensor } else { Level::Structure };
    let level = request.level.unwrap_or(default);
    if level > Level::Structure && request.against.is_none() {
        return Err(Error::usage(
            "against-missing",
            "this level compares with the source, which is not named",
        )
        .expected("--against SRC")
        .found(format!("--level {}", gate::level_name(level)))
        .fix("name the checkpoint that the artifact was made from, or ask for --level structure"));
    }
    let source = request.against.map(Checkpoint::open).transpose()?;
    let record = Record::open(request.artifact)?;
    let opened = match Checkpoint::open(request.artifact) {
        Err(error) if error.class() != Class::Input => return Err(error),
        opened => opened,
    };
    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        verdict: Verdict::Pass,
        level,
        tool: this(),
        artifact: subject(opened.as_ref().ok(), record.as_ref()),
        source: source.as_ref().map(|s| subject(Some(s), None)),
        sampled: request.sample,
        engine_path: None,
        checks: Vec::new(),
        tensors: Vec::new(),
        kernels: Vec::new(),
        layers: Vec::new(),
        notes: Vec::new(),
        reproduce: reproduce(record.as_ref(), level, request),
    };
    let reads_all = level >= Level::Tensor && request.sample >= 1.0;
    report.checks = structure::run(&structure::Subject {
        dir: request.artifact,
        artifact: opened.as_ref(),
        source: source.as_ref(),
        record: record.as_ref(),
        weights_hashed_later: level >= Level::Tensor && opened.is_ok(),
        jobs: request.jobs,
    })?;
    if let Ok(artifact) = &opened {
        report.notes.extend(artifact.warnings.iter().map(|w| format!("artifact: {w}")));
        let mut rows = Rows::new(artifact, source.as_ref(), record.as_ref());
        if let Some(source) = source.as_ref().filter(|_| level >= Level::Tensor) {
            report.notes.extend(source.warnings.iter().map(|w| format!("source: {w}")));
            report.checks.extend(tensors(request, artifact, source, record.as_ref(), reads_all, &mut rows)?);
            deeper(request, level, artifact, source, &mut report)?;
        }
        report.tensors = rows.list;
    } else if level > Level::Structure {
        let why = "the artifact cannot be opened, so its values were not looked at";
        report.checks.push(skipped("tensors-unread", Level::Tensor, why));
    }
    let gates = gate::apply(&report, &request.gates);
    report.checks.extend(gates);
    report.verdict = report.verdict_of_parts();
    Ok(report)
}

/// The levels that run kernels and blocks.
fn deeper(
    request: &Request<'_>,
    level: Level,
    artifact: &Checkpoint,
    source: &Checkpoint,
    report: &mut Report,
) -> Result<()> {
    if level < Level::Kernel {
        return Ok(());
    }
    let inner = kernels::Request {
        artifact,
        source,
        jobs: request.jobs.max(1),
        memory: request.memory,
        sample: request.sample,
        seed: SEED,
    };
    report.engine_path = kernels::engine_path(artifact);
    let (golden, checks) = golden::run(request.artifact)?;
    report.checks.extend(checks);
    let found = kernels::run(&inner)?;
    report.kernels = golden;
    report.kernels.extend(found.rows);
    report.checks.extend(found.checks);
    report.notes.extend(found.notes);
    if level >= Level::Layer {
        let found = layer::run(&inner, level >= Level::Model)?;
        report.layers = found.rows;
        report.checks.extend(found.checks);
        report.notes.extend(found.notes);
    }
    Ok(())
}

/// Decodes every tensor of the artifact in `dir`, whose manifest is written, and holds it against the source. `memory` are
/// bytes for buffers.
///
/// # Errors
/// Class Gate naming the first tensor that is not what its source and scheme say; reading errors.
pub fn full(dir: &Path, source: &Checkpoint, memory: u64, jobs: usize) -> Result<()> {
    let artifact = Checkpoint::open(dir)?;
    let record = Record::open(dir)?;
    let mut rows = Rows::new(&artifact, Some(source), record.as_ref());
    let (mine, theirs) = (Store::new(&artifact, false), Store::new(source, false));
    let pairs = pairs::pairs(&artifact, source, record.as_ref());
    let options = tensor::Options { memory, jobs: jobs.max(1), sample: 1.0, isa: Isa::chosen() };
    let checks = tensor::run(&mine, &theirs, &pairs, options, &mut rows)?;
    match checks.into_iter().find(|c| c.verdict == Verdict::Fail) {
        None => Ok(()),
        Some(check) => Err(Error::new(
            Class::Gate,
            "tensor-differs",
            "a tensor of the artifact is not what its source says",
        )
        .file(dir.display())
        .tensor(check.tensor.unwrap_or_default())
        .found(check.message)
        .fix("keep the folder and report this with the plan")),
    }
}

/// The tensor level, and the digests of the files that it read.
fn tensors(
    request: &Request<'_>,
    artifact: &Checkpoint,
    source: &Checkpoint,
    record: Option<&Record>,
    reads_all: bool,
    rows: &mut Rows,
) -> Result<Vec<Check>> {
    let hash = reads_all && record.is_some();
    let (mine, theirs) = (Store::new(artifact, hash), Store::new(source, hash));
    let pairs = pairs::pairs(artifact, source, record);
    let options = tensor::Options {
        memory: request.memory,
        jobs: request.jobs.max(1),
        sample: request.sample,
        isa: Isa::chosen(),
    };
    let mut checks = tensor::run(&mine, &theirs, &pairs, options, rows)?;
    let Some(record) = record else { return Ok(checks) };
    let mut list = List::default();
    if hash {
        digests("digests", &mine, &record.manifest.outputs, "get the artifact again", &mut list)?;
        let fix = "name the very checkpoint that the artifact was made from with --against";
        digests("source-digests", &theirs, &record.manifest.sources, fix, &mut list)?;
    } else {
        let why = "not every byte was read, so the digests of weight files were not checked";
        list.add(skipped("digests", Level::Tensor, why));
    }
    checks.extend(list.finish());
    Ok(checks)
}

/// Holds the digests of files that were read against those of the manifest.
fn digests(
    id: &str,
    store: &Store<'_>,
    entries: &[crate::artifact::manifest::FileEntry],
    fix: &str,
    list: &mut List,
) -> Result<()> {
    let mut equal = 0;
    for (index, file) in (0u32..).zip(&store.checkpoint.files) {
        // A file that no entry names has been reported by the structure level.
        let Some(entry) = entries.iter().find(|e| e.path == file.name) else { continue };
        let found = store.digest(index)?.unwrap_or_default();
        if found == entry.digest.blake3 {
            equal += 1;
            continue;
        }
        let message =
            format!("expected BLAKE3 {} of {}, found {found}; fix: {fix}", entry.digest.blake3, file.name);
        list.add(failed(id, Level::Tensor, Some(&file.name), message));
    }
    if list.failures() == 0 || equal > 0 {
        list.add(passed(id, Level::Tensor, format!("{equal} weight files have their recorded digests")));
    }
    Ok(())
}

fn this() -> Tool {
    let Made { name, version } = Made::this();
    Tool { name, version }
}

/// A checkpoint in the report.
fn subject(checkpoint: Option<&Checkpoint>, record: Option<&Record>) -> Subject {
    let mut out = Subject::default();
    if let Some(checkpoint) = checkpoint {
        out.family = Some(checkpoint.family.id.to_owned());
        out.files = checkpoint.files.len() as u64;
        out.tensors = checkpoint.tensors.len() as u64;
        out.bytes = checkpoint.payload_bytes();
        for scheme in summary(checkpoint).schemes {
            *out.bytes_by_scheme.entry(scheme.name).or_default() += scheme.bytes;
        }
    }
    if let Some(record) = record {
        let head = &record.manifest.head;
        out.target = Some(head.target.clone());
        out.engine = Some(head.engine.clone());
        out.scheme = Some(head.scheme.clone());
        out.plan_digest = Some(head.plan_digest.clone());
    }
    out
}

/// Commands that make artifact and report again.
fn reproduce(record: Option<&Record>, level: Level, request: &Request<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(record) = record {
        let head = &record.manifest.head;
        let mut line =
            format!("silicast convert SRC -o OUT --target {} --scheme {}", head.target, head.scheme);
        for (key, flag) in [("include", "--include"), ("ignore", "--ignore")] {
            let patterns = head.recipe.get(key).and_then(|v| v.as_array());
            for pattern in patterns.into_iter().flatten().filter_map(|p| p.as_str()) {
                line += &format!(" {flag} '{}'", pattern.replace('\'', r"'\''"));
            }
        }
        if head.recipe.get("nan").and_then(|v| v.as_str()) == Some("keep") {
            line += " --nan keep";
        }
        if head.recipe.get("allow_code_files").and_then(|v| v.as_bool()) == Some(true) {
            line += " --allow-code-files";
        }
        if let Some(bytes) = head.recipe.get("shard_bytes").and_then(|v| v.as_u64()) {
            line += &format!(" --shard-size {bytes}");
        }
        lines.push(line);
    }
    let mut line = "silicast validate OUT".to_owned();
    if request.against.is_some() {
        line += " --against SRC";
    }
    line += &format!(" --level {}", gate::level_name(level));
    if request.sample < 1.0 {
        line += &format!(" --sample {}", request.sample);
    }
    lines.push(line);
    lines
}
