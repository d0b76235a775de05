//! From `OUT.partial` to `OUT`: sync, one rename, sync.

use super::confined::{Confined, check_relative, open_folder};
use super::out_file::{sync_error, unsupported};
use super::output::OutputDir;
use crate::error::{Error, Result};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::{Errno, retry_on_intr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

impl OutputDir {
    /// Makes the names in the folder and its sub-folders durable.
    ///
    /// # Errors
    /// Class Io; a failed sync is final.
    pub fn sync_dir(&self) -> Result<()> {
        sync_folders(self.confined(), None)
    }

    /// Gives the folder its final name, durably. Every file must have been synced before.
    ///
    /// # Errors
    /// Class Usage, code `output-exists`: something has that name. Class Io: a sync or the rename failed.
    pub fn rename_into_place(&self, to: &Path) -> Result<()> {
        self.sync_dir()?;
        match retry_on_intr(|| rustix::fs::renameat_with(CWD, self.path(), CWD, to, RenameFlags::NOREPLACE)) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(exists(to)),
            Err(e) if unsupported(e) => {
                // A plain rename would replace an empty folder.
                if rustix::fs::lstat(to).is_ok() {
                    return Err(exists(to));
                }
                self.rename(self.path(), to)?;
            }
            Err(e) => return Err(Error::io("cannot rename the finished output", to, e.into())),
        }
        self.sync_parents(to)
    }

    /// Gives the folder the final name of an existing folder, which is removed afterwards (`--overwrite`). Where the file
    /// system can exchange two names, there is no moment without an output.
    ///
    /// # Errors
    /// Class Usage, code `output-exists`: the final name is taken by something else than a folder, or by the remains of an
    /// earlier replacement. Class Io: a sync, a rename or the removal failed.
    pub fn replace_in_place(&self, to: &Path) -> Result<()> {
        match rustix::fs::lstat(to) {
            Err(Errno::NOENT) => return self.rename_into_place(to),
            Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {}
            Ok(_) => return Err(exists(to).expected("a folder").found("something else")),
            Err(e) => return Err(Error::io("cannot examine the output", to, e.into())),
        }
        self.sync_dir()?;
        match retry_on_intr(|| rustix::fs::renameat_with(CWD, self.path(), CWD, to, RenameFlags::EXCHANGE)) {
            Ok(()) => {
                self.sync_parents(to)?;
                remove_tree(self.path())
            }
            Err(e) if unsupported(e) => self.rename_aside(to),
            Err(e) => Err(Error::io("cannot exchange the output", to, e.into())),
        }
    }

    fn rename_aside(&self, to: &Path) -> Result<()> {
        let mut aside = to.as_os_str().to_owned();
        aside.push(".replaced");
        let aside = PathBuf::from(aside);
        if rustix::fs::lstat(&aside).is_ok() {
            return Err(exists(&aside));
        }
        self.rename(to, &aside)?;
        if let Err(error) = self.rename(self.path(), to) {
            // The old output must not vanish because the new one could not appear.
            return self.rename(&aside, to).and(Err(error));
        }
        self.sync_parents(to)?;
        remove_tree(&aside)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        retry_on_intr(|| rustix::fs::rename(from, to)).map_err(|e| Error::io("cannot rename", from, e.into()))
    }

    fn sync_parents(&self, to: &Path) -> Result<()> {
        let (here, there) = (parent(self.path()), parent(to));
        sync_folder_at(there)?;
        if here == there { Ok(()) } else { sync_folder_at(here) }
    }
}

fn exists(path: &Path) -> Error {
    Error::usage("output-exists", "the output exists already and is never written to")
        .file(path.display())
        .fix("choose another name, remove it, or pass --overwrite")
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn sync_folder_at(path: &Path) -> Result<()> {
    let fd =
        open_folder(CWD, path, false).map_err(|e| Error::io("cannot open the folder", path, e.into()))?;
    sync_folder(fd.as_fd(), path)
}

fn sync_folder(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    match retry_on_intr(|| rustix::fs::fsync(fd)) {
        // EINVAL: a file system that has nothing to sync for a folder.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(e) => Err(sync_error(path, e.into())),
    }
}

fn sync_folders(at: &Confined, sub: Option<&str>) -> Result<()> {
    for named in at.list(sub)? {
        if let (true, Ok(name)) = (named.folder, std::str::from_utf8(&named.name)) {
            let name = sub.map_or_else(|| name.to_owned(), |sub| format!("{sub}/{name}"));
            sync_folders(at, Some(&name))?;
        }
    }
    match sub {
        None => sync_folder(at.fd(), at.path()),
        Some(sub) => {
            let mut fd: Option<OwnedFd> = None;
            for part in check_relative(sub)? {
                let here = fd.as_ref().map_or(at.fd(), AsFd::as_fd);
                fd = Some(
                    open_folder(here, Path::new(part), true)
                        .map_err(|e| at.io_error("cannot open the folder", sub, e))?,
                );
            }
            fd.map_or(Ok(()), |fd| sync_folder(fd.as_fd(), &at.path().join(sub)))
        }
    }
}

/// Removes a folder with everything in it; links are removed, not followed.
#[expect(clippy::disallowed_methods, reason = "this is the one place that removes folders")]
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    std::fs::remove_dir_all(path).map_err(|e| Error::io("cannot remove the folder", path, e))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests set up and read folders directly")]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn setup() -> (tempfile::TempDir, PathBuf, OutputDir) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("o.partial");
        let dir = OutputDir::create_or_open(&path).unwrap().0;
        (root, path, dir)
    }

    #[test]
    fn the_final_name_appears_by_rename_and_is_never_overwritten() {
        let (root, path, dir) = setup();
        let out = root.path().join("o");
        dir.write_whole("silicast/a", b"new").unwrap();
        std::fs::create_dir(&out).unwrap();
        let error = dir.rename_into_place(&out).unwrap_err();
        assert_eq!((error.code(), error.class().exit_code()), ("output-exists", 2));
        std::fs::remove_dir(&out).unwrap();
        dir.rename_into_place(&out).unwrap();
        assert!(!path.exists());
        assert_eq!(std::fs::read(out.join("silicast/a")).unwrap(), b"new");
    }

    #[test]
    fn overwrite_swaps_and_removes_the_old_output() {
        for aside in [false, true] {
            let (root, path, dir) = setup();
            let out = root.path().join("o");
            std::fs::create_dir(&out).unwrap();
            std::fs::write(out.join("old"), b"old").unwrap();
            dir.write_whole("new", b"new").unwrap();
            if aside {
                dir.rename_aside(&out).unwrap();
            } else {
                dir.replace_in_place(&out).unwrap();
            }
            assert_eq!(std::fs::read(out.join("new")).unwrap(), b"new");
            assert!(!out.join("old").exists());
            let left: Vec<_> =
                std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["o"], "{}", path.display());
        }
        let (root, _, dir) = setup();
        symlink("elsewhere", root.path().join("o")).unwrap();
        assert_eq!(dir.replace_in_place(&root.path().join("o")).unwrap_err().code(), "output-exists");
    }
}
