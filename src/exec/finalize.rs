//! From finished slices to an artifact: every slice checked, manifest written, one rename.

use super::done::{self, Record};
use super::schedule::Done;
use super::{Slice, journal, stats};
use crate::artifact::digest::{self, FileDigest};
use crate::artifact::manifest::{self, FileEntry, Head, TensorEntry, Tool};
use crate::artifact::side::{self, PATCH_PATH, PLAN_PATH};
use crate::artifact::verify;
use crate::error::{Class, Error, Result};
use crate::io::lock::{RunLock, is_lock_file};
use crate::io::output::OutputDir;
use crate::kernel::Stats;
use crate::plan::cost::{self, Work};
use crate::plan::recipe::ResolvedRecipe;
use crate::plan::{Expr, Fate, Output, Plan, parser};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The largest plan text that is read back.
const MAX_PLAN: u64 = 4 << 30;

/// An unfinished output whose slices are all there.
pub struct Finished<'a> {
    /// The plan that made it.
    pub plan: &'a Plan,
    /// Its digest.
    pub digest: &'a str,
    /// Output shards by name.
    shards: BTreeMap<String, FileDigest>,
    /// Source shards by name.
    sources: BTreeMap<String, FileDigest>,
}

/// Reads the plan of an unfinished output.
pub fn read_plan(dir: &OutputDir) -> Result<(Plan, String)> {
    let path = dir.path().join(PLAN_PATH);
    let missing = || {
        Error::input("unfinished-no-plan", "the unfinished output has no plan")
            .file(path.display())
            .fix("run the conversion of every slice first")
    };
    let bytes = dir.read_whole(PLAN_PATH, MAX_PLAN)?.ok_or_else(missing)?;
    let damaged = |found: String| {
        Error::input("unfinished-damaged", "the plan of the unfinished output is damaged")
            .file(path.display())
            .found(found)
            .fix("run the conversion again with --restart")
    };
    let text = std::str::from_utf8(&bytes).map_err(|e| damaged(e.to_string()))?;
    let plan = parser::parse(text).map_err(|e| damaged(e.to_string()))?;
    Ok((plan, blake3::hash(&bytes).to_hex().to_string()))
}

/// Checks that every slice is complete and belongs to `plan`, whose digest is `digest`.
///
/// # Errors
/// Exit 4 naming the slice that is missing, stale or foreign.
pub fn collect<'a>(dir: &OutputDir, plan: &'a Plan, digest: &'a str) -> Result<Finished<'a>> {
    let slices = done::list(dir)?;
    let count = slices.iter().map(|s| s.count()).max().unwrap_or(0);
    let refuse = |code: &'static str, what: String| {
        Error::input(code, what)
            .file(dir.path().display())
            .fix("run the slices named above, with the options of the others, then finalize again")
    };
    for name in journal::list(dir)? {
        let Some(header) = journal::read_header(dir, &name)? else { continue };
        if header.plan != digest {
            return Err(refuse("slice-foreign", format!("{name} belongs to another plan than the output")));
        }
        if let Some((index, of)) = header.slice
            && (of != count || !slices.iter().any(|s| s.index() == index))
        {
            return Err(refuse("slice-unfinished", format!("slice {index}/{of} is not finished")));
        }
    }
    if count == 0 {
        return Err(refuse("slice-missing", "no slice is finished".to_owned()));
    }
    let mut finished = Finished { plan, digest, shards: BTreeMap::new(), sources: BTreeMap::new() };
    for index in 1..=count {
        let slice = Slice::new(index, count).filter(|s| slices.contains(s));
        let record = match slice {
            Some(slice) => done::read(dir, slice)?,
            None => None,
        };
        let Some(record) = record else {
            return Err(refuse("slice-missing", format!("slice {index}/{count} is missing")));
        };
        if record.plan != finished.digest {
            return Err(refuse("slice-foreign", format!("slice {index}/{count} was made from another plan")));
        }
        add(&mut finished, record);
    }
    if slices.iter().any(|s| s.count() != count) {
        return Err(refuse("slice-foreign", "records of different slicings lie in one output".to_owned()));
    }
    check_complete(dir, &finished)?;
    Ok(finished)
}

fn add(finished: &mut Finished<'_>, record: Record) {
    finished.shards.extend(record.shards.into_iter().map(|f| (f.name, f.digest)));
    finished.sources.extend(record.sources.into_iter().map(|f| (f.name, f.digest)));
}

fn check_complete(dir: &OutputDir, finished: &Finished<'_>) -> Result<()> {
    let refuse = |file: &str, expected: String, found: String| {
        Error::input("unfinished-incomplete", "a file of the unfinished output is not what the plan says")
            .file(dir.path().join(file).display())
            .expected(expected)
            .found(found)
            .fix("run the conversion again; --restart discards what is there")
    };
    for shard in &finished.plan.shards {
        let recorded = finished.shards.get(&shard.name);
        let found = match dir.kind_of(&shard.name)? {
            Some(_) => dir.open_existing(&shard.name)?.len()?,
            None => 0,
        };
        if recorded.map(|d| d.bytes) != Some(shard.bytes) || found != shard.bytes {
            return Err(refuse(
                &shard.name,
                format!("{} bytes, recorded by a slice", shard.bytes),
                format!("{found} bytes"),
            ));
        }
    }
    for source in &finished.plan.sources {
        if finished.sources.get(&source.name).map(|d| d.bytes) != Some(source.bytes) {
            return Err(refuse(
                &source.name,
                "a digest of this source file from one slice".to_owned(),
                "none".to_owned(),
            ));
        }
    }
    for name in dir.names()? {
        let ours = is_working_file(&name)
            || name == "silicast"
            || finished.plan.shards.iter().any(|s| s.name == name)
            || finished.plan.side_files.iter().any(|s| s.name == name);
        if !ours {
            return Err(refuse(&name, "only files of the plan".to_owned(), "a foreign file".to_owned())
                .fix("move the file elsewhere, then run the same command again"));
        }
    }
    Ok(())
}

/// Files that exist only while an output is unfinished.
fn is_working_file(name: &str) -> bool {
    is_lock_file(name)
        || journal::slice_of(name).is_some()
        || done::slice_of(name).is_some()
        || name == PATCH_PATH
}

/// What the conversion did to one output.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Signal-to-quantization-noise ratio; `None` where nothing was lost.
    pub sqnr_db: Option<f64>,
    /// The largest |x − decoded| over finite values.
    pub max_abs: f64,
    /// Elements looked at.
    pub elements: u64,
    /// Whether values were computed, not only copied.
    pub computed: bool,
    /// As [`Stats::zero_rows`].
    pub zero_rows: u64,
    /// As [`Stats::saturated`].
    pub saturated: u64,
    /// As [`Stats::non_finite`].
    pub non_finite: u64,
    /// As [`Stats::zero_scale_codes`]; for scales that are copied, those that are zero or negative.
    pub zero_scale_codes: u64,
}

/// What became of every output that was computed or that holds odd values, by output index, from the journals.
pub fn losses(dir: &OutputDir, plan: &Plan) -> Result<BTreeMap<u32, Loss>> {
    let tasks = cost::tasks(plan)?;
    let mut losses: BTreeMap<u32, Loss> = BTreeMap::new();
    for name in journal::list(dir)? {
        journal::for_each_task(dir, &name, |task, entries| {
            let Some(task) = tasks.get(task as usize) else { return };
            // The latest line of a range counts: an earlier one stands for bytes that failed verification and were
            // computed again, perhaps in other cuts.
            let (mut counted, mut total) = (Done::default(), Stats::default());
            for entry in entries {
                if let Some(tile) = stats::from_text(&entry.stats)
                    && counted.insert(entry.range.0, entry.range.1)
                {
                    total.merge(&tile);
                }
            }
            let computed = matches!(task.work, Work::Quantize { .. } | Work::Cast { .. });
            if computed || total.non_finite > 0 || total.zero_scale_codes > 0 {
                let loss = Loss {
                    sqnr_db: total.sqnr_db(),
                    max_abs: f64::from(total.max_abs_error),
                    elements: total.elements,
                    computed,
                    zero_rows: total.zero_rows,
                    saturated: total.saturated,
                    non_finite: total.non_finite,
                    zero_scale_codes: total.zero_scale_codes,
                };
                losses.insert(task.output(), loss);
            }
        })?;
    }
    Ok(losses)
}

/// Writes the manifest. Everything that it lists is synced; `extra` are files of the artifact that the plan does not
/// know: report and reference kernels.
pub fn write_manifest(
    dir: &OutputDir,
    finished: &Finished<'_>,
    extra: &[String],
    sha256: bool,
) -> Result<()> {
    let plan = finished.plan;
    let recipe: ResolvedRecipe = serde_json::from_str(&plan.header.recipe).map_err(|e| {
        Error::input("unfinished-damaged", "the recipe in the plan is damaged").file(PLAN_PATH).found(e)
    })?;
    let recipe = match serde_json::to_value(&recipe) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let head = Head {
        tool: Tool::this(),
        target: plan.header.target.clone(),
        engine: plan.header.engine.clone(),
        scheme: plan.header.scheme.clone(),
        recipe,
        plan_digest: finished.digest.to_owned(),
    };
    let entry =
        |(path, digest): (&String, &FileDigest)| FileEntry { path: path.clone(), digest: digest.clone() };
    let sources: Vec<FileEntry> = finished.sources.iter().map(entry).collect();
    let mut outputs = finished.shards.clone();
    let extra = extra.iter().map(String::as_str);
    for name in plan.side_files.iter().map(|s| s.name.as_str()).chain([PLAN_PATH]).chain(extra) {
        outputs.insert(name.to_owned(), digest_file(dir, name, sha256)?);
    }
    if sha256 {
        for (name, digest) in &mut outputs {
            if digest.sha256.is_none() {
                *digest = digest_file(dir, name, true)?;
            }
        }
    }
    for side in &plan.side_files {
        let found = outputs.get(&side.name).map_or(0, |d| d.bytes);
        if found != side.bytes {
            return Err(Error::input("unfinished-incomplete", "a side file is not what the plan says")
                .file(dir.path().join(&side.name).display())
                .expected(format!("{} bytes", side.bytes))
                .found(format!("{found} bytes"))
                .fix("run the conversion again; --restart discards what is there"));
        }
    }
    let patch = side::read_config_patch(dir)?;
    let mut writer = dir.writer(manifest::MANIFEST_PATH)?;
    manifest::write_manifest(
        &mut writer,
        &head,
        sources,
        outputs.iter().map(entry),
        tensor_entries(plan),
        &patch,
    )?;
    writer.finish()
}

fn digest_file(dir: &OutputDir, name: &str, sha256: bool) -> Result<FileDigest> {
    let file = dir.open_existing(name)?;
    let len = file.len()?;
    let mut buffer = vec![0u8; 1 << 20];
    digest::digest_of(len, sha256, &mut buffer, |offset, out| file.read_exact_at(out, offset))
}

/// Entries of all outputs and drops, by name.
fn tensor_entries(plan: &Plan) -> impl Iterator<Item = TensorEntry> + '_ {
    enum Item {
        Out(u32),
        Drop(u32),
    }
    let mut order: Vec<(&str, Item)> = (0u32..)
        .zip(&plan.outputs)
        .map(|(i, o)| (o.name.as_ref(), Item::Out(i)))
        .chain(
            (0u32..)
                .zip(&plan.drops)
                .map(|(i, d)| (plan.inputs[d.source as usize].name.as_ref(), Item::Drop(i))),
        )
        .collect();
    order.sort_by(|a, b| a.0.cmp(b.0));
    order.into_iter().map(move |(name, item)| match item {
        Item::Out(i) => {
            let output = &plan.outputs[i as usize];
            TensorEntry {
                name: name.to_owned(),
                fate: output.fate.name().to_owned(),
                scheme: Some(scheme_name(plan, output)),
                exactness: Some(output.exactness.name().to_owned()),
                sources: source_names(plan, &output.expr).iter().map(ToString::to_string).collect(),
                reason: Some(output.reason.to_string()),
            }
        }
        Item::Drop(i) => TensorEntry {
            name: name.to_owned(),
            fate: Fate::Dropped.name().to_owned(),
            scheme: None,
            exactness: None,
            sources: vec![name.to_owned()],
            reason: Some(plan.drops[i as usize].reason.to_string()),
        },
    })
}

/// Names of the source tensors that an expression reads, in order.
pub fn source_names(plan: &Plan, expr: &Expr) -> Vec<Arc<str>> {
    let mut names = Vec::new();
    expr.for_each_load(&mut |id| names.push(plan.inputs[id as usize].name.clone()));
    names
}

/// The scheme of an output in reports: the target's name for it, or the dtype of a tensor that stays float.
pub fn scheme_name(plan: &Plan, output: &Output) -> String {
    match output.scheme {
        Some(_) => plan.header.scheme.clone(),
        None => output.ty.dtype.safetensors_name().unwrap_or_else(|| output.ty.dtype.text()).to_owned(),
    }
}

/// Whether the folder in work is an artifact that only lacks its name: its manifest is written, made from the plan
/// `digest`, and every file matches.
pub fn is_sealed(dir: &OutputDir, digest: &str, jobs: usize) -> Result<bool> {
    if dir.kind_of(manifest::MANIFEST_PATH)?.is_none() {
        return Ok(false);
    }
    let Ok(manifest) = read_manifest(dir.path()) else { return Ok(false) };
    if manifest.head.plan_digest != digest {
        return Ok(false);
    }
    let Ok(report) = verify::verify(dir.path(), jobs) else { return Ok(false) };
    Ok(report.failed.iter().all(|f| is_working_file(&f.path)))
}

/// Reads the manifest of an artifact, without its tensors.
pub fn read_manifest(dir: &Path) -> Result<manifest::Manifest> {
    let folder = OutputDir::open(dir)?;
    let path = dir.join(manifest::MANIFEST_PATH);
    let bytes = folder.read_whole(manifest::MANIFEST_PATH, MAX_PLAN)?.ok_or_else(|| {
        Error::input("manifest", "the folder is no artifact of silicast")
            .file(path.display())
            .expected("a manifest")
    })?;
    manifest::read_manifest(bytes.as_slice(), false).map_err(|e| e.file_or(path.display()))
}

/// Removes what only unfinished outputs have, and gives the folder its final name.
pub fn seal(dir: &OutputDir, lock: &RunLock, to: &Path, overwrite: bool) -> Result<()> {
    // Journals go last but the locks: while one is there, a killed run resumes from it.
    dir.remove(PATCH_PATH)?;
    for slice in done::list(dir)? {
        dir.remove(&done::file_name(slice))?;
    }
    journal::remove_all(dir)?;
    lock.remove_files(dir)?;
    match overwrite {
        true => dir.replace_in_place(to),
        false => dir.rename_into_place(to),
    }
}

/// The folder in which an output is made: `OUT.partial` beside `OUT`.
pub fn partial_path(out: &Path) -> Result<std::path::PathBuf> {
    let name = out.file_name().ok_or_else(|| {
        Error::usage("output-name", "the output has no name")
            .file(out.display())
            .expected("a path that ends in the name of a new folder")
            .fix("give a folder name with --output")
    })?;
    let mut name = name.to_owned();
    name.push(".partial");
    Ok(out.with_file_name(name))
}

/// An error for an output that exists and was made from something else.
pub fn output_exists(out: &Path, found: &str) -> Error {
    Error::new(Class::Usage, "output-exists", "the output exists already and is never written to")
        .file(out.display())
        .expected("a new folder, or the artifact of this very plan and source")
        .found(found)
        .fix("choose another --output, or replace it with --overwrite")
}
