//! `kernels`: the reference kernels with golden sets, as a folder.

use super::ui::{Ui, count, size};
use crate::checkpoint::Checkpoint;
use crate::dtype::scheme::Scheme;
use crate::error::{Error, Result};
use crate::exec::weight_slices;
use crate::io::lock::RunLock;
use crate::io::output::OutputDir;
use crate::io::source::{SourceDir, exists};
use crate::kernel::emit::{self, EmittedFile, Slice, select};
use crate::targets::{self, Preset, Target};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What the command was asked for.
pub(super) struct Request<'a> {
    pub(super) out: &'a Path,
    pub(super) target: Option<&'a str>,
    pub(super) scheme: Option<&'a str>,
    pub(super) from: Option<&'a Path>,
}

#[derive(Serialize)]
struct Document {
    out: String,
    files: usize,
    bytes: u64,
    kernels: Vec<String>,
    cases: usize,
    slices: Vec<SliceRow>,
}

#[derive(Serialize)]
struct SliceRow {
    class: String,
    tensor: String,
}

pub(super) fn run(request: &Request<'_>, ui: &Ui) -> Result<u8> {
    let schemes = schemes(request.target, request.scheme)?;
    let empty = is_empty_folder(request.out)?;
    let slices = match request.from {
        Some(path) => slices(path, ui)?,
        None => Vec::new(),
    };
    let selection = |kernel: &str| schemes.as_ref().is_none_or(|s| select::runs(s, kernel));
    let files = emit::pack(&selection, &slices)?;
    write(request.out, empty, &files)?;
    report(request.out, &files, slices, ui)
}

/// The schemes whose kernels are wanted; `None` for all kernels.
fn schemes(target: Option<&str>, scheme: Option<&str>) -> Result<Option<Vec<Option<Scheme>>>> {
    let encodings = |presets: &[Preset]| presets.iter().map(|p| p.encoding).collect::<Vec<_>>();
    Ok(match (target, scheme) {
        (None, None) => None,
        (Some(id), None) => Some(encodings(&Target::find(id)?.schemes)),
        (Some(id), Some(name)) => Some(vec![Target::find(id)?.preset(Some(name))?.encoding]),
        (None, Some(name)) => {
            let found: Vec<_> =
                targets::all().iter().filter_map(|t| Some(t.preset(Some(name)).ok()?.encoding)).collect();
            if found.is_empty() {
                let mut known: Vec<&str> =
                    targets::all().iter().flat_map(|t| &t.schemes).map(|s| s.name.as_str()).collect();
                known.sort_unstable();
                known.dedup();
                return Err(Error::unsupported(
                    "scheme-unsupported",
                    format!("no target has a scheme {name}"),
                )
                .expected(known.join(", "))
                .found(name)
                .fix("choose a scheme from `silicast targets`"));
            }
            Some(found)
        }
    })
}

fn slices(path: &Path, ui: &Ui) -> Result<Vec<Slice>> {
    let checkpoint = Checkpoint::open(path)?;
    for warning in &checkpoint.warnings {
        ui.warn(warning);
    }
    let slices = weight_slices::read(&checkpoint)?;
    if slices.is_empty() {
        return Err(Error::unsupported(
            "no-quantized-weights",
            "the checkpoint has no weights that golden kernels take",
        )
        .file(path.display())
        .expected("FP8 E4M3 or INT8 weights with scales")
        .found(format!("{} tensors, none of them such a weight", checkpoint.tensors.len()))
        .fix("give a quantized checkpoint, such as an artifact of `silicast convert`"));
    }
    Ok(slices)
}

/// Whether an empty folder has the name; an error where anything else has it.
fn is_empty_folder(out: &Path) -> Result<bool> {
    if !exists(out) {
        return Ok(false);
    }
    let found = match SourceDir::open(out).map(|dir| dir.names()) {
        Ok(Ok(names)) if names.is_empty() => return Ok(true),
        Ok(Ok(names)) => format!("a folder with {} entries", names.len()),
        _ => "something that is no readable folder".to_owned(),
    };
    Err(Error::usage("output-exists", "the output exists already and is never written to")
        .file(out.display())
        .expected("a new or empty folder")
        .found(found)
        .fix("choose another --output or remove it"))
}

/// Where the pack is made before it gets its name. Not the folder of an unfinished conversion.
fn partial_path(out: &Path) -> Result<PathBuf> {
    let name = out.file_name().ok_or_else(|| {
        Error::usage("output-name", "the output has no name")
            .file(out.display())
            .expected("a path that ends in the name of a new folder")
            .fix("give a folder name with --output")
    })?;
    let mut name = name.to_owned();
    name.push(".kernels.partial");
    Ok(out.with_file_name(name))
}

fn write(out: &Path, empty: bool, files: &[EmittedFile]) -> Result<()> {
    let (dir, _) = OutputDir::create_or_open(&partial_path(out)?)?;
    let lock = RunLock::exclusive(&dir)?;
    // What a killed run left.
    dir.clear()?;
    let written = files
        .iter()
        .map(|file| {
            let open = dir.create_file(&file.path)?;
            open.write_all_at(&file.bytes, 0)?;
            Ok(open)
        })
        .collect::<Result<Vec<_>>>()?;
    for file in written {
        file.sync()?;
    }
    lock.remove_files(&dir)?;
    if empty { dir.replace_in_place(out) } else { dir.rename_into_place(out) }
}

fn report(out: &Path, files: &[EmittedFile], slices: Vec<Slice>, ui: &Ui) -> Result<u8> {
    let bytes = files.iter().map(|f| f.bytes.len() as u64).sum();
    let (mut kernels, mut cases) = (Vec::new(), std::collections::BTreeSet::new());
    for file in files {
        // golden/KERNEL.CASE.ARG.npy
        let mut parts = file.path.strip_prefix("golden/").unwrap_or_default().split('.');
        if let (Some(kernel), Some(case)) = (parts.next(), parts.next()) {
            cases.insert((kernel, case));
            if kernels.last().is_none_or(|k| k != kernel) {
                kernels.push(kernel.to_owned());
            }
        }
    }
    if ui.json() {
        ui.document(&Document {
            out: out.display().to_string(),
            files: files.len(),
            bytes,
            kernels,
            cases: cases.len(),
            slices: slices.into_iter().map(|s| SliceRow { class: s.class, tensor: s.tensor }).collect(),
        })?;
        return Ok(0);
    }
    let from = match slices.len() {
        0 => String::new(),
        n => format!(", {n} weights of the checkpoint"),
    };
    ui.say(&format!(
        "{}: {} kernels, {} cases{from}, {} in {} files; README.md says how to build and compare",
        out.display(),
        kernels.len(),
        count(cases.len() as u64),
        size(bytes),
        count(files.len() as u64),
    ));
    Ok(0)
}
