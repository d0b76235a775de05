//! Emission: the reference kernels as C, NumPy and ONNX, with golden sets that hold every implementation to the same
//! bits.

mod cases;
pub mod golden;
pub mod input;
pub mod manifest;
pub mod npy;
pub mod onnx;

pub use manifest::Case;

use crate::error::{Error, Result};

/// A file of a kernel pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmittedFile {
    /// Path relative to the pack, with `/`.
    pub path: String,
    /// Content.
    pub bytes: Vec<u8>,
}

/// The golden files and graphs of `cases` and the manifest, which comes first.
fn golden_files(cases: &[Case]) -> Result<Vec<EmittedFile>> {
    let mut entries = Vec::with_capacity(cases.len());
    let mut files = vec![EmittedFile { path: "manifest.json".to_owned(), bytes: Vec::new() }];
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
    files[0].bytes = manifest::document(&entries);
    Ok(files)
}

/// The full pack of the kernels that `selection` accepts, files in order of their paths.
///
/// # Errors
/// Class Internal where a reference kernel refuses its own golden inputs.
pub fn pack(selection: &dyn Fn(&str) -> bool) -> Result<Vec<EmittedFile>> {
    let mut files = golden_files(&golden::cases(selection)?)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}
