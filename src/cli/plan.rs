//! `plan`: a conversion as text or JSON, priced; no tensor byte is read.

use super::ConvertArgs;
use super::ui::{Ui, count, size, table};
use crate::checkpoint::Checkpoint;
use crate::compile::{Compiled, compile};
use crate::error::Result;
use crate::exec::finalize::{scheme_name, source_names};
use crate::plan::{Fate, Fates, Plan, cost, printer};
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Memory beside tile buffers that the contract allows.
pub(super) const OVERHEAD: u64 = 128 << 20;

#[derive(Serialize)]
struct Document<'a> {
    target: &'a str,
    engine: &'a str,
    scheme: &'a str,
    family: &'a str,
    digest: &'a str,
    source: SourceSize,
    output: OutputSize<'a>,
    read_bytes: u64,
    peak_memory_bytes: u64,
    fates: Fates,
    notes: &'a [String],
    entries: Entries<'a>,
}

#[derive(Serialize)]
struct SourceSize {
    files: usize,
    tensors: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct OutputSize<'a> {
    files: Vec<FileSize<'a>>,
    tensors: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct FileSize<'a> {
    path: &'a str,
    bytes: u64,
}

/// Serialized one by one: a list of 200,000 entries would not be small.
struct Entries<'a>(&'a Plan);

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    sources: Vec<Arc<str>>,
    dtype: Option<&'a str>,
    shape: Option<&'a [u64]>,
    fate: Fate,
    scheme: Option<String>,
    encoding: Option<String>,
    exactness: Option<crate::plan::Exactness>,
    reason: &'a str,
    file: Option<&'a str>,
    offset: Option<u64>,
    bytes: u64,
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        let plan = self.0;
        let mut seq = s.serialize_seq(Some(plan.outputs.len() + plan.drops.len()))?;
        for output in &plan.outputs {
            seq.serialize_element(&Entry {
                name: &output.name,
                sources: source_names(plan, &output.expr),
                dtype: Some(output.ty.dtype.safetensors_name().unwrap_or_else(|| output.ty.dtype.text())),
                shape: Some(&output.ty.shape),
                fate: output.fate,
                scheme: Some(scheme_name(plan, output)),
                encoding: output.scheme.map(|s| s.to_string()),
                exactness: Some(output.exactness),
                reason: &output.reason,
                file: output.place.map(|p| plan.shards[p.shard as usize].name.as_str()),
                offset: output.place.map(|p| p.offset),
                bytes: output.bytes(),
            })?;
        }
        for drop in &plan.drops {
            let input = &plan.inputs[drop.source as usize];
            seq.serialize_element(&Entry {
                name: &input.name,
                sources: vec![input.name.clone()],
                dtype: None,
                shape: None,
                fate: Fate::Dropped,
                scheme: None,
                encoding: None,
                exactness: None,
                reason: &drop.reason,
                file: None,
                offset: None,
                bytes: 0,
            })?;
        }
        seq.end()
    }
}

pub(super) fn run(src: &Path, options: &ConvertArgs, cache_key: bool, ui: &Ui) -> Result<u8> {
    let target = options.target()?;
    let (memory, jobs) = (options.memory()?, options.jobs()?);
    let checkpoint = Checkpoint::open(src)?;
    let compiled = compile(&checkpoint, target, options.recipe()?)?;
    let plan = &compiled.plan;
    let digest = printer::digest(plan);
    if cache_key {
        ui.text(&format!("{}\n", cache_key_of(&digest)))?;
        return Ok(0);
    }
    say_notes(&checkpoint, &compiled, ui);
    let tasks = cost::tasks(plan)?;
    let tiles = cost::tile_budget(plan, memory)?;
    let peak = cost::peak_tile_memory(plan, &tasks, tiles, jobs as u64)? + (memory - tiles) + OVERHEAD;
    if ui.json() {
        ui.document(&Document {
            target: &plan.header.target,
            engine: &plan.header.engine,
            scheme: &plan.header.scheme,
            family: &plan.header.family,
            digest: &digest,
            source: SourceSize {
                files: plan.sources.len(),
                tensors: plan.inputs.len(),
                bytes: checkpoint.payload_bytes(),
            },
            output: OutputSize {
                files: output_files(plan),
                tensors: plan.outputs.len(),
                bytes: plan.output_bytes(),
            },
            read_bytes: plan.read_bytes(),
            peak_memory_bytes: peak,
            fates: plan.fates(),
            notes: &compiled.notes,
            entries: Entries(plan),
        })?;
        return Ok(0);
    }
    ui.stream(|out| {
        let mut sink = Sink(out, Ok(()));
        let printed = printer::print(plan, &mut sink);
        sink.1?;
        printed.map_err(io::Error::other)
    })?;
    ui.say(&summary(plan, checkpoint.payload_bytes(), peak));
    ui.say(&format!("plan digest blake3:{digest}"));
    Ok(0)
}

struct Sink<'a>(&'a mut dyn io::Write, io::Result<()>);

impl std::fmt::Write for Sink<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write_all(text.as_bytes()).map_err(|e| {
            self.1 = Err(e);
            std::fmt::Error
        })
    }
}

/// One line that changes with inputs, recipe, target or version. The plan's digest pins headers and sizes.
fn cache_key_of(digest: &str) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(env!("CARGO_PKG_VERSION").as_bytes()).update(b"\n").update(digest.as_bytes());
    format!("silicast-{}", hash.finalize().to_hex())
}

fn output_files(plan: &Plan) -> Vec<FileSize<'_>> {
    let shards = plan.shards.iter().map(|s| FileSize { path: &s.name, bytes: s.bytes });
    let side = plan.side_files.iter().map(|s| FileSize { path: &s.name, bytes: s.bytes });
    shards.chain(side).collect()
}

/// Says what passes and reader want people to know.
pub(super) fn say_notes(checkpoint: &Checkpoint, compiled: &Compiled, ui: &Ui) {
    for warning in &checkpoint.warnings {
        ui.warn(warning);
    }
    for note in checkpoint.notes.iter().chain(&compiled.notes) {
        ui.say(&format!("note: {}", crate::error::quote(note, 600)));
    }
    for ran in &compiled.ran {
        ui.detail(|| {
            format!(
                "pass {:<14} {:>9} rewrites  {:>7.1} ms",
                ran.spec.id,
                count(ran.outcome.rewrites),
                ran.time.as_secs_f64() * 1e3
            )
        });
    }
}

/// A short table: tensors by fate, bytes in and out.
pub(super) fn summary(plan: &Plan, source_bytes: u64, peak: u64) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let fates = plan.source_fates();
    for fate in [Fate::Quantized, Fate::Reencoded, Fate::Kept, Fate::Dropped] {
        let (mut tensors, mut bytes_in) = (0u64, 0u64);
        for (input, _) in plan.inputs.iter().zip(&fates).filter(|(_, f)| **f == fate) {
            tensors += 1;
            bytes_in += input.bytes;
        }
        let out = plan.outputs.iter().filter(|o| o.fate == fate);
        let (outputs, bytes_out) = out.fold((0u64, 0u64), |(n, b), o| (n + 1, b + o.bytes()));
        if tensors + outputs > 0 {
            rows.push(vec![
                fate.name().to_owned(),
                count(tensors),
                size(bytes_in),
                count(outputs),
                size(bytes_out),
            ]);
        }
    }
    let total = |f: &dyn Fn(&Plan) -> u64| f(plan);
    rows.push(vec![
        "total".to_owned(),
        count(plan.inputs.len() as u64),
        size(source_bytes),
        count(plan.outputs.len() as u64),
        size(total(&Plan::output_bytes)),
    ]);
    let mut text =
        table(&["fate", "tensors in", "bytes in", "tensors out", "bytes out"], &rows, &[1, 2, 3, 4]);
    text += &format!(
        "{} → {} for {} ({}); {} shard{}; peak memory at most {}",
        plan.header.family,
        plan.header.scheme,
        plan.header.target,
        plan.header.engine,
        count(plan.shards.len() as u64),
        if plan.shards.len() == 1 { "" } else { "s" },
        size(peak)
    );
    text
}
