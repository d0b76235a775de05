//! The source shards, read by position and hashed as they are read.

use crate::artifact::digest::{self, FileDigest};
use crate::artifact::tree_digest::TreeDigest;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::io::source::ReadFile;
use std::sync::OnceLock;

/// Every source shard, opened when first read.
pub(super) struct Sources<'a> {
    checkpoint: &'a Checkpoint,
    files: Vec<Slot>,
}

struct Slot {
    file: OnceLock<ReadFile>,
    digest: TreeDigest,
}

impl<'a> Sources<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint) -> Self {
        let files = checkpoint
            .files
            .iter()
            .map(|f| Slot { file: OnceLock::new(), digest: TreeDigest::new(f.bytes) })
            .collect();
        Self { checkpoint, files }
    }

    /// Name of a shard, for messages.
    pub(super) fn path(&self, file: u32) -> String {
        let name = &self.checkpoint.files[file as usize].name;
        match &self.checkpoint.dir {
            Some(dir) => dir.path().join(name).display().to_string(),
            None => name.clone(),
        }
    }

    fn open(&self, file: u32) -> Result<&ReadFile> {
        let slot = &self.files[file as usize].file;
        if slot.get().is_none() {
            // Losing a race means one superfluous open.
            let _ = slot.set(self.checkpoint.open_data_file(file)?);
        }
        slot.get().ok_or_else(|| Error::internal("source-open", "a source shard is not open"))
    }

    /// Reads `data.len()` bytes at `offset` and adds them to the shard's digest.
    pub(super) fn read(&self, file: u32, offset: u64, data: &mut [u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.open(file)?.read_exact_at(data, offset)?;
        self.files[file as usize].digest.add(offset, data)
    }

    /// BLAKE3 of a whole shard: what no tile has read is read now. Refuses a shard that has changed since its header
    /// was read.
    pub(super) fn finish(&self, file: u32, sha256: bool) -> Result<FileDigest> {
        let opened = self.open(file)?;
        let blake3 =
            self.files[file as usize].digest.finish(|offset, data| opened.read_exact_at(data, offset))?;
        let bytes = self.checkpoint.files[file as usize].bytes;
        let sha256 = match sha256 {
            true => Some(digest::sha256_of(bytes, |offset, data| opened.read_exact_at(data, offset))?),
            false => None,
        };
        self.check_unchanged(file)?;
        Ok(FileDigest { bytes, blake3, sha256 })
    }

    /// Refuses a shard that has changed since its header was read.
    pub(super) fn check_unchanged(&self, file: u32) -> Result<()> {
        let opened = self.open(file)?;
        let now = opened.restat()?;
        match self.checkpoint.files[file as usize].stamp {
            Some(before) if before != now => {
                Err(Error::input("source-changed", "a source shard changed during the conversion")
                    .file(self.path(file))
                    .expected(format!("{} bytes, modified at {} ns", before.bytes, before.mtime_ns))
                    .found(format!("{} bytes, modified at {} ns", now.bytes, now.mtime_ns))
                    .fix("leave the source alone while it is read, then run again with --restart"))
            }
            _ => Ok(()),
        }
    }
}
