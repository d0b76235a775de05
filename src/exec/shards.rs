//! The output shards: opened and reserved when first written, hashed as they are written, synced when complete.

use crate::artifact::digest::{self, FileDigest};
use crate::artifact::tree_digest::TreeDigest;
use crate::error::{Error, Result};
use crate::io::output::{OutFile, OutputDir};
use crate::plan::{Plan, layout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Every output shard of the plan.
pub(super) struct Shards<'a> {
    dir: &'a OutputDir,
    plan: &'a Plan,
    slots: Vec<Slot>,
}

struct Slot {
    file: OnceLock<OutFile>,
    opening: Mutex<()>,
    digest: TreeDigest,
    missing: AtomicU64,
}

impl<'a> Shards<'a> {
    pub(super) fn new(dir: &'a OutputDir, plan: &'a Plan) -> Self {
        let slots = plan
            .shards
            .iter()
            .map(|s| Slot {
                file: OnceLock::new(),
                opening: Mutex::new(()),
                digest: TreeDigest::new(s.bytes),
                missing: AtomicU64::new(s.bytes - s.header),
            })
            .collect();
        Self { dir, plan, slots }
    }

    /// The open file of a shard. The first caller creates or reopens it, reserves its length and writes its header.
    fn open(&self, shard: u32) -> Result<&OutFile> {
        let slot = &self.slots[shard as usize];
        if let Some(file) = slot.file.get() {
            return Ok(file);
        }
        let _guard = slot.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.file.get().is_none() {
            let meta = &self.plan.shards[shard as usize];
            let file = match self.dir.kind_of(&meta.name)? {
                Some(_) => self.dir.open_existing(&meta.name)?,
                None => self.dir.create_file(&meta.name)?,
            };
            // Reserving first makes a full disk show up before any work is lost to it.
            file.reserve(meta.bytes)?;
            file.set_len(meta.bytes)?;
            let header = layout::shard_header(self.plan, shard)?;
            file.write_all_at(&header, 0)?;
            slot.digest.add(0, &header)?;
            let _ = slot.file.set(file);
        }
        slot.file.get().ok_or_else(|| Error::internal("shard-open", "an output shard is not open"))
    }

    fn place(&self, output: u32) -> Result<(u32, u64)> {
        let out = &self.plan.outputs[output as usize];
        let place = out
            .place
            .ok_or_else(|| Error::internal("shard-place", "an output has no place").tensor(&out.name))?;
        Ok((place.shard, place.offset))
    }

    /// Writes bytes at `offset` of an output.
    pub(super) fn write(&self, output: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        let (shard, start) = self.place(output)?;
        self.open(shard)?.write_all_at(bytes, start + offset)?;
        self.slots[shard as usize].digest.add(start + offset, bytes)
    }

    /// Reads bytes of an output that an earlier run wrote, and adds them to the shard's digest. `false` when the shard
    /// is not there or too short.
    pub(super) fn reread(&self, output: u32, offset: u64, bytes: &mut [u8]) -> Result<bool> {
        let (shard, start) = self.place(output)?;
        let meta = &self.plan.shards[shard as usize];
        if self.slots[shard as usize].file.get().is_none() && self.dir.kind_of(&meta.name)?.is_none() {
            return Ok(false);
        }
        self.open(shard)?.read_exact_at(bytes, start + offset)?;
        Ok(true)
    }

    /// Adds verified bytes of an earlier run to the shard's digest.
    pub(super) fn adopt(&self, output: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        let (shard, start) = self.place(output)?;
        self.slots[shard as usize].digest.add(start + offset, bytes)
    }

    /// Counts `bytes` of a shard as finished; `true` for the call that completes it.
    pub(super) fn complete(&self, shard: u32, bytes: u64) -> bool {
        bytes > 0 && self.slots[shard as usize].missing.fetch_sub(bytes, Ordering::AcqRel) == bytes
    }

    /// Syncs a complete shard and returns its digests.
    pub(super) fn finish(&self, shard: u32, sha256: bool) -> Result<FileDigest> {
        let file = self.open(shard)?;
        file.sync()?;
        let blake3 =
            self.slots[shard as usize].digest.finish(|offset, data| file.read_exact_at(data, offset))?;
        let bytes = self.plan.shards[shard as usize].bytes;
        let sha256 = match sha256 {
            true => Some(digest::sha256_of(bytes, |offset, data| file.read_exact_at(data, offset))?),
            false => None,
        };
        Ok(FileDigest { bytes, blake3, sha256 })
    }
}
