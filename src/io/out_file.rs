//! One file of the output: written in any order, or as a stream, and made durable.

use crate::error::{Error, Result};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A file in work. Disjoint ranges may be written from any thread in any order.
#[derive(Debug)]
pub struct OutFile {
    file: File,
    path: PathBuf,
    failed: AtomicBool,
}

impl OutFile {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { file, path, failed: AtomicBool::new(false) }
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length now, in bytes.
    ///
    /// # Errors
    /// Class Io.
    pub fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|e| Error::io("cannot examine", &self.path, e))?.len())
    }

    /// Whether the file holds nothing.
    ///
    /// # Errors
    /// Class Io.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Gives the file exactly `len` bytes, with the disk space behind them where the file system can promise it, so that
    /// a full disk shows before the work and not after it. Bytes that are there stay.
    ///
    /// # Errors
    /// Class Io, code `disk-full` when there is no room.
    pub fn reserve(&self, len: u64) -> Result<()> {
        if len > 0 {
            match retry_on_intr(|| rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len)) {
                Ok(()) => {}
                Err(e) if unsupported(e) => {}
                Err(e) => {
                    return Err(Error::io("cannot reserve space for the output", &self.path, e.into()));
                }
            }
        }
        if self.len()? != len {
            self.set_len(len)?;
        }
        Ok(())
    }

    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// Class Io.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|e| Error::io("cannot set the length", &self.path, e))
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Class Io, code `disk-full` when there is no room.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        // The standard library's loop retries EINTR and continues after a short write.
        self.file.write_all_at(bytes, offset).map_err(|e| Error::io("cannot write the output", &self.path, e))
    }

    /// Appends all of `bytes` to a file opened by [`super::output::OutputDir::open_append`], by one `write` unless that is cut short.
    ///
    /// # Errors
    /// Class Io, code `disk-full` when there is no room.
    pub fn append(&self, bytes: &[u8]) -> Result<()> {
        (&self.file).write_all(bytes).map_err(|e| Error::io("cannot write the output", &self.path, e))
    }

    /// Reads exactly `out.len()` bytes at `offset` back.
    ///
    /// # Errors
    /// Class Io; a file that ends too early is an error.
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(out, offset)
            .map_err(|e| Error::io("cannot read the output back", &self.path, e))
    }

    /// Makes the content durable. A failure is final: every later call fails too, because the kernel would report success.
    ///
    /// # Errors
    /// Class Io.
    pub fn sync(&self) -> Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(sync_error(&self.path, std::io::Error::other("an earlier sync of this file failed")));
        }
        self.file.sync_all().map_err(|e| {
            self.failed.store(true, Ordering::Release);
            sync_error(&self.path, e)
        })
    }
}

/// A buffered writer of one file. Without [`Self::finish`] the file is neither complete nor durable.
#[derive(Debug)]
pub struct StreamWriter {
    inner: BufWriter<File>,
    path: PathBuf,
    failed: bool,
}

impl StreamWriter {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { inner: BufWriter::with_capacity(256 << 10, file), path, failed: false }
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is buffered and makes the file durable.
    ///
    /// # Errors
    /// Class Io.
    pub fn finish(self) -> Result<()> {
        let Self { inner, path, failed } = self;
        if failed {
            let earlier = std::io::Error::other("an earlier write failed");
            return Err(Error::io("cannot write the output", &path, earlier));
        }
        let file =
            inner.into_inner().map_err(|e| Error::io("cannot write the output", &path, e.into_error()))?;
        file.sync_all().map_err(|e| sync_error(&path, e))
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.inner.write(bytes).inspect_err(|e| self.failed |= !is_interrupted(e))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush().inspect_err(|e| self.failed |= !is_interrupted(e))
    }
}

fn is_interrupted(e: &std::io::Error) -> bool {
    e.kind() == std::io::ErrorKind::Interrupted
}

/// Whether an error says that the file system cannot do this at all.
pub(super) fn unsupported(e: Errno) -> bool {
    matches!(e, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

pub(super) fn sync_error(path: &Path, error: std::io::Error) -> Error {
    // The kernel reports a lost write once and then forgets it: a second, successful sync proves nothing.
    Error::io("cannot make the output durable; what was written may be lost", path, error)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests set up and read files directly")]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_full_disk_is_exit_5_and_names_the_file() {
        let file = OutFile {
            file: std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap(),
            path: PathBuf::from("shard.safetensors"),
            failed: AtomicBool::new(false),
        };
        let error = file.write_all_at(b"x", 0).unwrap_err();
        assert_eq!((error.code(), error.class().exit_code()), ("disk-full", 5));
        assert_eq!(error.file_name(), Some("shard.safetensors"));
    }

    #[test]
    fn a_writer_that_failed_once_never_finishes() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let inner = BufWriter::with_capacity(8, full);
        let mut writer = StreamWriter { inner, path: PathBuf::from("index.json"), failed: false };
        assert!(writer.write_all(b"longer than the buffer").is_err());
        assert_eq!(writer.finish().unwrap_err().file_name(), Some("index.json"));
    }

    #[test]
    fn a_failed_sync_stays_failed() {
        // Reading and writing a pipe works; syncing it is EINVAL.
        let (reader, _writer) = std::io::pipe().unwrap();
        let file = OutFile {
            file: File::from(OwnedFd::from(reader)),
            path: PathBuf::from("p"),
            failed: AtomicBool::new(false),
        };
        assert!(file.sync().is_err());
        assert!(file.sync().unwrap_err().to_string().contains("earlier sync"));
    }
}
