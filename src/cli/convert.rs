//! `convert`: plan, execute, finalize, check.

use super::conclude::conclude;
use super::plan::{OVERHEAD, say_notes, summary};
use super::progress::Meter;
use super::ui::{Ui, size, table};
use super::{ConvertArgs, ValidateArg};
use crate::artifact::side;
use crate::checkpoint::Checkpoint;
use crate::compile::{Compiled, compile};
use crate::error::{Class, Error, Result};
use crate::exec::finalize::{self, Finished, Loss};
use crate::exec::{self, Executed, Job, Slice};
use crate::io::host::peak_rss_bytes;
use crate::io::lock::RunLock;
use crate::io::output::OutputDir;
use crate::io::source::exists;
use crate::kernel::Policy;
use crate::plan::recipe::NanPolicy;
use crate::plan::{Fates, Plan, cost, printer};
use crate::validate::{self, conversion};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// How many of the worst tensors are shown.
const WORST: usize = 10;

/// A `convert` as asked for.
pub(super) struct Request<'a> {
    pub(super) src: &'a Path,
    pub(super) output: &'a Path,
    pub(super) options: &'a ConvertArgs,
    pub(super) slice: Option<Slice>,
    pub(super) restart: bool,
    pub(super) overwrite: bool,
    pub(super) sha256: bool,
    pub(super) validate: ValidateArg,
}

#[derive(Serialize)]
struct Document<'a> {
    out: String,
    read_bytes: u64,
    written_bytes: u64,
    resumed_bytes: u64,
    seconds: f64,
    peak_rss_bytes: Option<u64>,
    fates: Fates,
    worst: &'a [Worst],
    verdict: &'a str,
}

/// A tensor and what quantization cost it; `null` where nothing was lost.
#[derive(Serialize)]
pub(super) struct Worst {
    name: Arc<str>,
    sqnr_db: Option<f64>,
}

pub(super) fn run(request: &Request<'_>, ui: &Ui) -> Result<u8> {
    let start = Instant::now();
    let interrupt = listen_for_signals()?;
    let options = request.options;
    let (memory, jobs) = (options.memory()?, options.jobs()?);
    let target = options.target()?;
    let checkpoint = Checkpoint::open(request.src)?;
    let compiled = compile(&checkpoint, target, options.recipe()?)?;
    let digest = printer::digest(&compiled.plan);
    let plan = &compiled.plan;
    let (tiles, peak) = check_memory(plan, memory, jobs)?;
    say_notes(&checkpoint, &compiled, ui);

    let partial = finalize::partial_path(request.output)?;
    if exists(request.output) && !request.overwrite {
        return already_there(request, &checkpoint, &compiled, &digest, jobs, start, ui);
    }
    refuse_output_inside_source(request)?;
    let (dir, _) = OutputDir::create_or_open(&partial)?;
    let lock = match request.slice {
        Some(slice) => RunLock::slice(&dir, slice.index(), slice.count())?,
        None => RunLock::exclusive(&dir)?,
    };
    if request.restart {
        if request.slice.is_some() {
            return Err(Error::usage(
                "restart-slice",
                "--restart would discard the work of the other slices",
            )
            .file(partial.display())
            .fix("remove the folder by hand when no slice is running, or restart without --slice"));
        }
        dir.clear()?;
    }
    let executed = if request.slice.is_none() && finalize::is_sealed(&dir, &digest, jobs)? {
        // Killed between manifest and rename: the bytes are all there and verified.
        finalize::seal(&dir, &lock, request.output, request.overwrite)?;
        Executed { resumed: plan.output_bytes(), ..Executed::default() }
    } else {
        let executed = execute(request, &checkpoint, &compiled, &digest, &dir, tiles, jobs, &interrupt, ui)?;
        if let Some(slice) = request.slice {
            ui.say(&format!(
                "slice {}/{} is complete; when all are: silicast finalize {}",
                slice.index(),
                slice.count(),
                request.output.display()
            ));
            return report(request, plan, &BTreeMap::new(), executed, start, "pass", ui);
        }
        let finished = finalize::collect(&dir, plan, &digest)?;
        let losses = finalize::losses(&dir, plan)?;
        finish(&dir, &lock, &finished, &losses, request, &checkpoint, ui)?;
        warn_about(plan, &losses, ui);
        if !ui.json() {
            ui.say(&summary(plan, checkpoint.payload_bytes(), peak));
        }
        return report(request, plan, &losses, executed, start, "pass", ui);
    };
    report(request, plan, &BTreeMap::new(), executed, start, "pass", ui)
}

/// A flag that the first SIGINT or SIGTERM sets; a second one ends the process at once.
fn listen_for_signals() -> Result<Arc<AtomicBool>> {
    let interrupt = Arc::new(AtomicBool::new(false));
    let code = i32::from(Class::Interrupted.exit_code());
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&interrupt))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupt)))
            .map_err(|e| Error::new(Class::Io, "signals", "cannot listen for signals").found(e))?;
    }
    Ok(interrupt)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one conversion, each of its own type")]
fn execute(
    request: &Request<'_>,
    checkpoint: &Checkpoint,
    compiled: &Compiled,
    digest: &str,
    dir: &OutputDir,
    memory: u64,
    jobs: usize,
    interrupt: &AtomicBool,
    ui: &Ui,
) -> Result<Executed> {
    let plan = &compiled.plan;
    let (journal, marks) = exec::begin(dir, checkpoint, digest, request.slice)?;
    side::write_side_files(dir, plan, checkpoint, compiled.preset, compiled.engine)?;
    side::write_config_patch(dir, &side::config_patch(plan, checkpoint, compiled.preset, compiled.engine))?;
    let meter = Meter::new(ui);
    let job = Job {
        checkpoint,
        plan,
        digest,
        dir,
        journal: &journal,
        marks: &marks,
        slice: request.slice,
        budget: memory,
        jobs,
        policy: Policy { keep_non_finite: compiled.recipe.nan == NanPolicy::Keep },
        sha256: request.sha256,
        interrupt,
        progress: &meter,
    };
    let executed = exec::run(&job);
    meter.finish();
    executed
}

/// Check, report, manifest, final name.
fn finish(
    dir: &OutputDir,
    lock: &RunLock,
    finished: &Finished<'_>,
    losses: &BTreeMap<u32, Loss>,
    request: &Request<'_>,
    checkpoint: &Checkpoint,
    ui: &Ui,
) -> Result<()> {
    conclude(dir, finished, losses, request.sha256, request.validate != ValidateArg::None)?;
    if request.validate == ValidateArg::Full {
        let options = request.options;
        validate::full(dir.path(), checkpoint, options.memory()?, options.jobs()?)?;
    }
    finalize::seal(dir, lock, request.output, request.overwrite)?;
    ui.detail(|| format!("finished {}", request.output.display()));
    Ok(())
}

/// Says that the artifact exists, or refuses, when something is at the output already.
fn already_there(
    request: &Request<'_>,
    checkpoint: &Checkpoint,
    compiled: &Compiled,
    digest: &str,
    jobs: usize,
    start: Instant,
    ui: &Ui,
) -> Result<u8> {
    let manifest = finalize::read_manifest(request.output)
        .map_err(|_| finalize::output_exists(request.output, "something else"))?;
    if manifest.head.plan_digest != digest {
        return Err(finalize::output_exists(
            request.output,
            "an artifact of another plan, source or version",
        ));
    }
    // The plan pins headers only: the same headers can stand over other weights.
    for (file, (name, blake3)) in exec::hash_sources(checkpoint, jobs)?.into_iter().enumerate() {
        let recorded = manifest.sources.iter().find(|s| s.path == name).map(|s| s.digest.blake3.as_str());
        if recorded != Some(blake3.as_str()) {
            let name = &checkpoint.files[file].name;
            return Err(finalize::output_exists(
                request.output,
                &format!("an artifact of another source: {name} differs"),
            ));
        }
    }
    ui.say(&format!("{} is this conversion already: nothing to do", request.output.display()));
    let executed = Executed { resumed: compiled.plan.output_bytes(), ..Executed::default() };
    report(request, &compiled.plan, &BTreeMap::new(), executed, start, "pass", ui)
}

fn refuse_output_inside_source(request: &Request<'_>) -> Result<()> {
    let parent = request.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let same = match (parent.canonicalize(), request.src.canonicalize()) {
        (Ok(parent), Ok(source)) => parent.starts_with(&source),
        _ => false,
    };
    match same {
        true => Err(Error::usage("output-in-source", "the output would lie inside the source folder")
            .file(request.output.display())
            .expected("a path outside the source")
            .fix("choose another --output")),
        false => Ok(()),
    }
}

/// Values that a person should look at.
fn warn_about(plan: &Plan, losses: &BTreeMap<u32, Loss>, ui: &Ui) {
    for check in conversion::remarks(plan, losses) {
        ui.warn(&format!("{}: {}", check.tensor.unwrap_or_default(), check.message));
    }
    let zero_units: u64 = losses.values().map(|s| s.zero_rows).sum();
    if zero_units > 0 {
        ui.say(&format!("note: {zero_units} rows or blocks are all zero; their scale is the scheme's floor"));
    }
}

/// The tensors that lost most, the worst first.
pub(super) fn worst(plan: &Plan, losses: &BTreeMap<u32, Loss>) -> Vec<Worst> {
    let mut list: Vec<(f64, u32)> = losses.iter().filter_map(|(i, l)| Some((l.sqnr_db?, *i))).collect();
    list.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    list.truncate(WORST);
    list.into_iter()
        .map(|(sqnr, i)| Worst { name: plan.outputs[i as usize].name.clone(), sqnr_db: Some(sqnr) })
        .collect()
}

fn report(
    request: &Request<'_>,
    plan: &Plan,
    losses: &BTreeMap<u32, Loss>,
    executed: Executed,
    start: Instant,
    verdict: &str,
    ui: &Ui,
) -> Result<u8> {
    let seconds = start.elapsed().as_secs_f64();
    let worst = worst(plan, losses);
    if ui.json() {
        ui.document(&Document {
            out: request.output.display().to_string(),
            read_bytes: executed.read,
            written_bytes: executed.written,
            resumed_bytes: executed.resumed,
            seconds,
            peak_rss_bytes: peak_rss_bytes(),
            fates: plan.fates(),
            worst: &worst,
            verdict,
        })?;
        return Ok(0);
    }
    let rate = (executed.read + executed.written) as f64 / seconds.max(1e-9) / 1e9;
    let resumed = match executed.resumed {
        0 => String::new(),
        bytes => format!(", {} kept from before", size(bytes)),
    };
    ui.say(&format!(
        "{} read, {} written{resumed} in {seconds:.1} s ({rate:.2} GB/s); peak memory {}",
        size(executed.read),
        size(executed.written),
        peak_rss_bytes().map_or_else(|| "unknown".to_owned(), size)
    ));
    if !worst.is_empty() {
        let rows: Vec<Vec<String>> = worst
            .iter()
            .map(|w| {
                vec![
                    w.name.to_string(),
                    w.sqnr_db.map_or_else(|| "exact".to_owned(), |db| format!("{db:.2}")),
                ]
            })
            .collect();
        ui.say(&table(&["worst tensors", "SQNR dB"], &rows, &[1]));
    }
    if request.slice.is_none() {
        let page = request.output.join("silicast/report.html");
        let more = if exists(&page) { format!("; report: {}", page.display()) } else { String::new() };
        ui.say(&format!("{}: {verdict}{more}", request.output.display()));
    }
    Ok(0)
}

/// What the budget leaves for tiles, and the most memory that the conversion takes; checked before anything is created.
fn check_memory(plan: &Plan, memory: u64, jobs: usize) -> Result<(u64, u64)> {
    let tiles = cost::tile_budget(plan, memory)?;
    let in_flight = cost::peak_tile_memory(plan, &cost::tasks(plan)?, tiles, jobs as u64)?;
    Ok((tiles, in_flight + (memory - tiles) + OVERHEAD))
}
