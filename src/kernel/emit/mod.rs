//! Emission: the reference kernels as C, NumPy and ONNX, with golden sets that hold every implementation to the same
//! bits.
//!
//! [`pack`] makes the folder of `silicast kernels`, [`artifact_pack`] the small one inside an artifact. Both are functions of
//! their arguments: the same bytes on every machine. README.md in the folder describes it to its readers.

pub mod c;
mod cases;
pub mod golden;
pub mod input;
pub mod manifest;
pub mod npy;
pub mod onnx;
mod safetensors;
pub mod select;
pub mod slices;

pub use manifest::Case;
pub use slices::Slice;

use crate::dtype::scheme::Scheme;
use crate::error::{Error, Result};
use crate::kernel::reference::array::Array;
use crate::kernel::reference::catalog;
use std::collections::BTreeMap;

/// A file of a kernel pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmittedFile {
    /// Path relative to the pack, with `/`.
    pub path: String,
    /// Content.
    pub bytes: Vec<u8>,
}

/// The NumPy script.
const SCRIPT: &str = include_str!("kernels.py");
/// What a chip engineer reads first; the guide to the ONNX graphs follows its end.
const GUIDE: &str = include_str!("README.md");

/// Slices whose cases go into an artifact's pack.
const ARTIFACT_SLICES: usize = 12;

/// The full pack of the kernels that `selection` accepts by name, with the cases of `slices`; files in order of their
/// paths. About 20 MB at most.
///
/// # Errors
/// Class Internal where a reference kernel refuses its own golden inputs.
pub fn pack(selection: &dyn Fn(&str) -> bool, slices: &[Slice]) -> Result<Vec<EmittedFile>> {
    let mut cases = golden::cases(selection)?;
    add_slices(&mut cases, slices, true, selection)?;
    let names = distinct(&cases);
    let mut files = files(&cases, &names)?;
    let named = names.iter().map(|(array, name)| (name.as_str(), *array));
    files.push(EmittedFile { path: "golden.safetensors".to_owned(), bytes: safetensors::write(named)? });
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The pack of an artifact whose weights have `schemes` (none: plain floats): the kernels of its linear layers with a few
/// cases each and the products of its own weights; below 200 files and 4 MB. Files in order of their paths.
///
/// # Errors
/// As [`pack`].
pub fn artifact_pack(schemes: &[Scheme], slices: &[Slice]) -> Result<Vec<EmittedFile>> {
    let mut schemes: Vec<Option<Scheme>> = schemes.iter().copied().map(Some).collect();
    if schemes.is_empty() {
        schemes.push(None);
    }
    let selection = |kernel: &str| select::multiplies(&schemes, kernel);
    let mut cases = golden::cases_where(&selection, &|draft| {
        matches!(draft.name.as_str(), "gaussian" | "gaussian-bf16" | "all-codes" | "zero-block" | "ragged")
    })?;
    add_slices(&mut cases, &slices[..slices.len().min(ARTIFACT_SLICES)], false, &selection)?;
    let mut files = files(&cases, &distinct(&cases))?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn add_slices(
    cases: &mut Vec<Case>,
    slices: &[Slice],
    whole: bool,
    selection: &dyn Fn(&str) -> bool,
) -> Result<()> {
    for draft in slices.iter().flat_map(|s| slices::drafts(s, whole)) {
        if let Some(kernel) = catalog::find(draft.kernel).filter(|k| selection(k.name)) {
            cases.push(draft.compute(kernel)?);
        }
    }
    Ok(())
}

/// The distinct arrays of `cases` with the names that their first users give them. Variants of a case share most of their
/// inputs, and recipes all of them.
fn distinct(cases: &[Case]) -> Names<'_> {
    let mut names = Names::new();
    for case in cases {
        for (arg, array) in case.inputs.iter().chain(&case.outputs) {
            names.entry(array).or_insert_with(|| case.array_name(arg));
        }
    }
    names
}

type Names<'a> = BTreeMap<&'a Array, String>;

/// Everything but the safetensors file.
fn files(cases: &[Case], names: &Names<'_>) -> Result<Vec<EmittedFile>> {
    let file = |path: &str, bytes: Vec<u8>| EmittedFile { path: path.to_owned(), bytes };
    let path = |name: &str| format!("golden/{name}.npy");
    let mut files = Vec::new();
    let mut entries = Vec::with_capacity(cases.len());
    let mut graphs: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for case in cases {
        // Cases of the same shapes and parameters have the same graph.
        let graph = onnx::graph(case.kernel, &case.params, &case.inputs, &case.outputs)?;
        let graph = graph.map(|bytes| {
            graphs.entry(bytes).or_insert_with(|| format!("onnx/{}.{}.onnx", case.kernel, case.name)).clone()
        });
        let named = |array: &Array| path(names.get(array).map_or("", String::as_str));
        let entry = manifest::entry(case, &named, graph)
            .map_err(|e| Error::internal("golden-manifest", "a golden case has no JSON form").found(e))?;
        entries.push(entry);
    }
    files
        .extend(names.iter().map(|(array, name)| EmittedFile { path: path(name), bytes: npy::write(array) }));
    files.extend(graphs.into_iter().map(|(bytes, path)| EmittedFile { path, bytes }));
    files.push(file("manifest.json", manifest::document(&entries)));
    files.push(file("kernels.c", c::source().into_bytes()));
    files.push(file("kernels.py", SCRIPT.as_bytes().to_vec()));
    files.push(file("README.md", format!("{GUIDE}\n## ONNX\n\n{}", onnx::README).into_bytes()));
    Ok(files)
}
