//! Exclusion of two runs on one output.
//!
//! The lock is `flock` on the file `lock` in `OUT.partial`: the kernel drops it with the process, so that a killed run
//! never leaves an output locked. The folder itself is locked too where the file system allows it. That covers the
//! moment at the end when the lock file is already removed and the folder not yet renamed.
//!
//! | run | `lock` | `lock.M-of-N` |
//! |---|---|---|
//! | unsliced, finalize | exclusive | |
//! | slice M of N | shared | exclusive |

use super::output::OutputDir;
use crate::error::{Class, Error, Result};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const LOCK_FILE: &str = "lock";

/// The right to work on an output; dropped with the value.
#[derive(Debug)]
pub struct RunLock {
    // Dropping a descriptor releases its lock.
    _held: Vec<OwnedFd>,
}

/// Whether `name` is a lock file of this module.
pub fn is_lock_file(name: &str) -> bool {
    name == LOCK_FILE
        || name.strip_prefix("lock.").is_some_and(|rest| super::output::parse_slice(rest).is_some())
}

impl RunLock {
    /// Excludes every other run, sliced ones too. Never waits.
    ///
    /// # Errors
    /// Class Io, code `locked`: another run works on this output.
    pub fn exclusive(dir: &OutputDir) -> Result<Self> {
        Self::acquire(dir, FlockOperation::NonBlockingLockExclusive, None)
    }

    /// Excludes unsliced runs, finalize, and another run of this slice (`index` counts from 1). Never waits.
    ///
    /// # Errors
    /// Class Io, code `locked`: another run works on this output or slice.
    pub fn slice(dir: &OutputDir, index: u32, count: u32) -> Result<Self> {
        let name = format!("{LOCK_FILE}.{index}-of-{count}");
        Self::acquire(dir, FlockOperation::NonBlockingLockShared, Some(&name))
    }

    fn acquire(dir: &OutputDir, operation: FlockOperation, slice_file: Option<&str>) -> Result<Self> {
        let mut held = Vec::new();
        let folder = super::confined::open_folder(dir.fd(), Path::new("."), true)
            .map_err(|e| Error::io("cannot open the folder", dir.path(), e.into()))?;
        // Best effort: network file systems lock files only.
        match rustix::fs::flock(&folder, operation) {
            Err(Errno::WOULDBLOCK) => return Err(locked(dir, None)),
            Ok(()) => held.push(folder),
            Err(_) => {}
        }
        held.push(lock_file(dir, LOCK_FILE, operation)?);
        if let Some(name) = slice_file {
            held.push(lock_file(dir, name, FlockOperation::NonBlockingLockExclusive)?);
        }
        // Between opening and locking, another run may have finished: the folder is then the finished artifact under its
        // final name, or the lock file is gone.
        let here = rustix::fs::stat(dir.path()).ok();
        if !here.is_some_and(|s| rustix::fs::fstat(dir.fd()).is_ok_and(|d| same(&s, &d))) {
            return Err(locked(dir, None));
        }
        Ok(Self { _held: held })
    }

    /// Removes the lock files, just before the folder gets its final name. The locks stay held until `self` is dropped.
    ///
    /// # Errors
    /// Class Io: a file cannot be removed.
    pub fn remove_files(&self, dir: &OutputDir) -> Result<()> {
        for name in dir.names()? {
            if is_lock_file(&name) {
                dir.remove(&name)?;
            }
        }
        Ok(())
    }
}

fn same(a: &Stat, b: &Stat) -> bool {
    a.st_dev == b.st_dev && a.st_ino == b.st_ino
}

fn lock_file(dir: &OutputDir, name: &str, operation: FlockOperation) -> Result<OwnedFd> {
    let path = dir.path().join(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mode = Mode::from_raw_mode(0o644);
    let fd = retry_on_intr(|| rustix::fs::openat(dir.fd(), name, flags, mode))
        .map_err(|e| Error::io("cannot open the lock file", &path, e.into()))?;
    match retry_on_intr(|| rustix::fs::flock(fd.as_fd(), operation)) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(locked(dir, (name != LOCK_FILE).then_some(name))),
        Err(e) => return Err(Error::io("cannot lock the output", &path, e.into())),
    }
    let named = rustix::fs::statat(dir.fd(), name, AtFlags::SYMLINK_NOFOLLOW).ok();
    if !named.is_some_and(|n| rustix::fs::fstat(&fd).is_ok_and(|f| same(&n, &f))) {
        return Err(locked(dir, None));
    }
    Ok(fd)
}

fn locked(dir: &OutputDir, slice_file: Option<&str>) -> Error {
    let what = match slice_file {
        Some(_) => "another run is already working on this slice of the output",
        None => "another run is already working on this output",
    };
    let error = Error::new(Class::Io, "locked", what)
        .file(dir.path().display())
        .fix("wait for that run to end or stop it, then run the same command again");
    match slice_file.and_then(|n| n.strip_prefix("lock.")) {
        Some(slice) => error.found(format!("slice {slice} in work")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<RunLock>) -> &'static str {
        match result {
            Ok(_) => "ok",
            Err(e) => {
                assert_eq!(e.class(), Class::Io);
                assert!(e.to_string().contains("o.partial"), "{e}");
                e.code()
            }
        }
    }

    #[test]
    fn runs_exclude_each_other_and_slices_do_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("o.partial");
        let dir = OutputDir::create_or_open(&path).unwrap().0;
        let again = OutputDir::create_or_open(&path).unwrap().0;
        let whole = RunLock::exclusive(&dir).unwrap();
        assert_eq!(code(RunLock::exclusive(&again)), "locked");
        assert_eq!(code(RunLock::slice(&again, 1, 2)), "locked");
        drop(whole);
        let one = RunLock::slice(&dir, 1, 2).unwrap();
        let two = RunLock::slice(&again, 2, 2).unwrap();
        assert_eq!(code(RunLock::slice(&again, 1, 2)), "locked");
        assert_eq!(code(RunLock::exclusive(&again)), "locked");
        drop(one);
        assert_eq!(code(RunLock::exclusive(&again)), "locked");
        assert_eq!(code(RunLock::slice(&again, 1, 2)), "ok");
        drop(two);
        assert_eq!(code(RunLock::exclusive(&again)), "ok");
    }

    #[test]
    fn the_lock_holds_after_its_files_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("o.partial");
        let dir = OutputDir::create_or_open(&path).unwrap().0;
        drop(RunLock::slice(&dir, 1, 2).unwrap());
        let whole = RunLock::exclusive(&dir).unwrap();
        assert_eq!(dir.names().unwrap(), ["lock", "lock.1-of-2"]);
        whole.remove_files(&dir).unwrap();
        assert!(dir.names().unwrap().is_empty());
        let again = OutputDir::create_or_open(&path).unwrap().0;
        assert_eq!(code(RunLock::exclusive(&again)), "locked");
    }

    #[test]
    fn a_folder_that_was_renamed_meanwhile_is_not_locked() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("o.partial");
        let first = OutputDir::create_or_open(&path).unwrap().0;
        let late = OutputDir::create_or_open(&path).unwrap().0;
        first.rename_into_place(&root.path().join("o")).unwrap();
        assert_eq!(code(RunLock::exclusive(&late)), "locked");
    }

    #[test]
    fn a_link_is_no_lock_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("o.partial");
        let dir = OutputDir::create_or_open(&path).unwrap().0;
        std::os::unix::fs::symlink(root.path().join("elsewhere"), path.join("lock")).unwrap();
        assert!(RunLock::exclusive(&dir).is_err());
        assert!(!root.path().join("elsewhere").exists());
    }
}
