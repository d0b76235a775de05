//! What a slice has finished: the digests of its output shards and of its share of the source.
//!
//! Written after the shards are synced, so that its presence means that they are complete on disk.

use super::Slice;
use crate::artifact::digest::FileDigest;
use crate::error::{Error, Result};
use crate::io::output::{OutputDir, parse_slice};
use serde::{Deserialize, Serialize};

/// A file with its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name in its folder.
    pub name: String,
    /// Length and digests.
    pub digest: FileDigest,
}

/// The record of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Digest of the plan.
    pub plan: String,
    /// Output shards of the slice.
    pub shards: Vec<File>,
    /// Source shards that the slice was to hash.
    pub sources: Vec<File>,
}

const MAX_BYTES: u64 = 64 << 20;

/// File name of a slice's record.
pub fn file_name(slice: Slice) -> String {
    format!("done.{}-of-{}.json", slice.index(), slice.count())
}

/// The slice of a record's file name.
pub fn slice_of(name: &str) -> Option<Slice> {
    let (index, count) = parse_slice(name.strip_prefix("done.")?.strip_suffix(".json")?)?;
    Slice::new(index, count)
}

/// Writes the record of `slice`.
pub fn write(dir: &OutputDir, slice: Slice, record: &Record) -> Result<()> {
    let bytes = serde_json::to_vec(record)
        .map_err(|e| Error::internal("done-json", "cannot write the record of a slice").found(e))?;
    dir.write_whole(&file_name(slice), &bytes)
}

/// Reads the record of `slice`; `None` when there is none, or a torn one.
pub fn read(dir: &OutputDir, slice: Slice) -> Result<Option<Record>> {
    let bytes = dir.read_whole(&file_name(slice), MAX_BYTES)?;
    Ok(bytes.and_then(|b| serde_json::from_slice(&b).ok()))
}

/// Slices with a record in `dir`, in order.
pub fn list(dir: &OutputDir) -> Result<Vec<Slice>> {
    let mut slices: Vec<Slice> = dir.names()?.iter().filter_map(|name| slice_of(name)).collect();
    slices.sort_by_key(|s| (s.count(), s.index()));
    Ok(slices)
}
