//! A folder against its manifest: every listed file is hashed again, and nothing else may stand there.

use super::digest::digest_of;
use super::manifest::{FileEntry, MANIFEST_PATH, SIGNATURE_PATH, read_manifest};
use crate::error::{Class, Error, Result};
use crate::io::confined::{Confined, Kind, Lookup};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes read at a time, per job.
const READ: usize = 4 << 20;

/// The longest manifest that is read, in bytes: two million tensors take less.
const MAX_MANIFEST_BYTES: u64 = 2 << 30;

/// The state of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Signature {
    /// There is none.
    Absent,
    /// It fits the artifact.
    Valid,
    /// It does not fit, or could not be checked.
    Invalid,
}

/// A file that is not as the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Failed {
    /// Its path in the folder.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Files that the manifest lists.
    pub files: u64,
    /// Everything wrong, sorted by path; empty when the artifact is whole.
    pub failed: Vec<Failed>,
    /// The signature: [`Signature::Absent`] without one, [`Signature::Invalid`] until the caller has checked one.
    pub signature: Signature,
}

/// Checks the folder `dir` with `jobs` threads (at least one), each reading one file after the other.
///
/// # Errors
/// Class Input: the manifest is missing or broken. Class Io: the folder or a file cannot be read.
pub fn verify(dir: &Path, jobs: usize) -> Result<VerifyReport> {
    verify_except(dir, jobs, &|_| false)
}

/// As [`verify`], but of the files for which `hashed_elsewhere` holds only presence and length are checked.
///
/// # Errors
/// As [`verify`].
pub fn verify_except(
    dir: &Path,
    jobs: usize,
    hashed_elsewhere: &(dyn Fn(&FileEntry) -> bool + Sync),
) -> Result<VerifyReport> {
    let folder = Confined::open(dir)?;
    let manifest = match folder.open_regular(MANIFEST_PATH)? {
        Lookup::File(file, len) if len <= MAX_MANIFEST_BYTES => {
            read_manifest(file.take(len), false).map_err(|e| e.file(dir.join(MANIFEST_PATH).display()))?
        }
        Lookup::File(_, len) => return Err(no_manifest(dir, &format!("{len} bytes"))),
        Lookup::Missing => return Err(no_manifest(dir, "nothing")),
        Lookup::Other(kind) => return Err(no_manifest(dir, kind.text())),
    };
    let files = &manifest.outputs;
    let next = AtomicUsize::new(0);
    let outcome: Mutex<(Vec<Failed>, Option<Error>)> = Mutex::default();
    let work = || {
        let mut buffer = vec![0; READ];
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = check_file(&folder, file, hashed_elsewhere(file), &mut buffer);
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(None) => {}
                Ok(Some(reason)) => outcome.0.push(Failed { path: file.path.clone(), reason }),
                Err(error) => {
                    outcome.1.get_or_insert(error);
                    next.store(files.len(), Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.min(files.len()) {
            scope.spawn(work);
        }
        work();
    });
    let (mut failed, error) = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    let signed = folder.kind_of(SIGNATURE_PATH)? == Some(Kind::File);
    find_foreign(&folder, None, files, &mut failed)?;
    failed.sort();
    let signature = if signed { Signature::Invalid } else { Signature::Absent };
    Ok(VerifyReport { files: files.len() as u64, failed, signature })
}

fn no_manifest(dir: &Path, found: &str) -> Error {
    Error::new(
        Class::Input,
        "manifest-missing",
        "the folder has no manifest, so there is nothing to verify it against",
    )
    .file(dir.join(MANIFEST_PATH).display())
    .expected("a regular file")
    .found(found)
    .fix("name a folder that silicast made")
}

/// What is wrong with one listed file, if anything.
fn check_file(
    folder: &Confined,
    entry: &FileEntry,
    length_only: bool,
    buffer: &mut [u8],
) -> Result<Option<String>> {
    let expected = &entry.digest;
    let (file, len) = match folder.open_regular(&entry.path)? {
        Lookup::File(file, len) => (file, len),
        Lookup::Missing => return Ok(Some("missing".to_owned())),
        Lookup::Other(kind) => return Ok(Some(format!("not a regular file: {}", kind.text()))),
    };
    if len != expected.bytes {
        return Ok(Some(format!("changed: {len} bytes instead of {}", expected.bytes)));
    }
    if length_only {
        return Ok(None);
    }
    let path = folder.path().join(&entry.path);
    advise_sequential(&file);
    let found = digest_of(len, expected.sha256.is_some(), buffer, |offset, out| {
        file.read_exact_at(out, offset).map_err(|e| Error::io("cannot read", &path, e))
    })?;
    if found.blake3 != expected.blake3 {
        return Ok(Some(format!("changed: blake3 {} instead of {}", found.blake3, expected.blake3)));
    }
    match (&found.sha256, &expected.sha256) {
        (Some(found), Some(expected)) if found != expected => {
            Ok(Some(format!("changed: sha256 {found} instead of {expected}")))
        }
        _ => Ok(None),
    }
}

#[cfg(target_os = "linux")]
fn advise_sequential(file: &File) {
    // Only a hint: a file system may refuse it.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
}

#[cfg(not(target_os = "linux"))]
fn advise_sequential(_: &File) {}

/// Reports every name that the manifest does not account for. A foreign folder is named, not entered.
fn find_foreign(
    folder: &Confined,
    sub: Option<&str>,
    files: &[FileEntry],
    failed: &mut Vec<Failed>,
) -> Result<()> {
    let mut folders: BTreeSet<&str> = BTreeSet::from(["silicast"]);
    for file in files {
        folders.extend(file.path.match_indices('/').filter_map(|(at, _)| file.path.get(..at)));
    }
    foreign_in(folder, sub, files, &folders, failed)
}

fn foreign_in(
    folder: &Confined,
    sub: Option<&str>,
    files: &[FileEntry],
    folders: &BTreeSet<&str>,
    failed: &mut Vec<Failed>,
) -> Result<()> {
    for named in folder.list(sub)? {
        let name = String::from_utf8_lossy(&named.name);
        let path = sub.map_or_else(|| name.to_string(), |sub| format!("{sub}/{name}"));
        let utf8 = std::str::from_utf8(&named.name).is_ok();
        if utf8 && named.folder && folders.contains(path.as_str()) {
            foreign_in(folder, Some(&path), files, folders, failed)?;
            continue;
        }
        let listed = files.binary_search_by(|f| f.path.as_str().cmp(&path)).is_ok();
        // Whatever stands at a listed path has been judged already.
        if utf8 && (listed || ((path == MANIFEST_PATH || path == SIGNATURE_PATH) && !named.folder)) {
            continue;
        }
        let reason =
            if named.folder { "foreign folder: not in the manifest" } else { "foreign: not in the manifest" };
        failed.push(Failed { path, reason: reason.to_owned() });
    }
    Ok(())
}
