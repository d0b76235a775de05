//! Malformed and hostile sources: each gets its own error code, none panics or hangs, and nothing is accepted that the
//! official safetensors reader refuses.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "the tests make the files that silicast must refuse"
)]

#[path = "malformed/config.rs"]
mod config;
#[path = "malformed/folder.rs"]
mod folder;
#[path = "malformed/generated.rs"]
mod generated;
#[path = "malformed/index.rs"]
mod index;
#[path = "malformed/safetensors.rs"]
mod safetensors_files;

use silicast::checkpoint::Checkpoint;
use silicast::error::Result;
use std::path::Path;
use tempfile::TempDir;

/// A safetensors file of a header text and data.
fn st(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

/// A valid file of `U8` tensors with one byte each.
fn bytes_file(names: &[&str]) -> Vec<u8> {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, n)| format!(r#""{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1))
        .collect();
    st(&format!("{{{}}}", entries.join(",")), &vec![0; names.len()])
}

/// A folder with these files.
fn folder_of(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

/// What a case is, the files of its folder, and the expected code.
type Case<'a> = (&'a str, Vec<(&'a str, &'a [u8])>, &'a str);

/// The error code of opening `path`, or "ok".
fn code(path: &Path) -> String {
    describe(&Checkpoint::open(path))
}

fn describe(result: &Result<Checkpoint>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(e) => {
            // Every message fits a screen and shows no raw control characters.
            let text = e.to_string();
            assert!(text.len() < 4000 && !text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
            assert!(e.file_name().is_some(), "no file named: {text}");
            e.code().into()
        }
    }
}
