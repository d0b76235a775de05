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
use crate::kernel::reference::catalog;

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
    let mut files = files(&cases)?;
    files.push(EmittedFile { path: "golden.safetensors".to_owned(), bytes: safetensors::write(&cases)? });
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
    let mut files = files(&cases)?;
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

/// Everything but the safetensors file.
fn files(cases: &[Case]) -> Result<Vec<EmittedFile>> {
    let file = |path: &str, bytes: Vec<u8>| EmittedFile { path: path.to_owned(), bytes };
    let mut files = Vec::new();
    let mut entries = Vec::with_capacity(cases.len());
    for case in cases {
        let graph = onnx::graph(case.kernel, &case.params, &case.inputs, &case.outputs)?;
        let entry = manifest::entry(case, graph.is_some())
            .map_err(|e| Error::internal("golden-manifest", "a golden case has no JSON form").found(e))?;
        entries.push(entry);
        files.extend(graph.map(|bytes| EmittedFile { path: case.onnx_file(), bytes }));
        for (name, array) in case.inputs.iter().chain(&case.outputs) {
            files.push(EmittedFile { path: case.file(name), bytes: npy::write(array) });
        }
    }
    files.push(file("manifest.json", manifest::document(&entries)));
    files.push(file("kernels.c", c::source().into_bytes()));
    files.push(file("kernels.py", SCRIPT.as_bytes().to_vec()));
    files.push(file("README.md", format!("{GUIDE}\n## ONNX\n\n{}", onnx::README).into_bytes()));
    Ok(files)
}
