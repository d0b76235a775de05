//! Relative paths beneath one folder, opened without ever following a link.
//!
//! A path that a file names (a manifest, an index) is hostile. [`check_relative`] refuses everything but a few plain
//! components, and [`Confined`] walks them one by one from a folder descriptor with `O_NOFOLLOW`, so that neither a
//! link nor a folder swapped for one in the meantime leads outside.

use crate::error::{Error, Result, quote};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Longest path in components: an artifact nests no deeper than `silicast/kernels/golden/<file>`.
const MAX_COMPONENTS: usize = 4;

/// Longest component in bytes (`NAME_MAX`).
const MAX_COMPONENT_BYTES: usize = 255;

/// A folder, held open by descriptor.
#[derive(Debug)]
pub struct Confined {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device.
    Special,
}

impl Kind {
    /// The noun in messages.
    pub fn text(self) -> &'static str {
        match self {
            Kind::File => "a file",
            Kind::Folder => "a folder",
            Kind::Link => "a symbolic link",
            Kind::Special => "a special file",
        }
    }
}

/// The result of looking for a regular file.
#[derive(Debug)]
pub enum Lookup {
    /// A regular file, open for reading, and its length in bytes.
    File(File, u64),
    /// Nothing has that name.
    Missing,
    /// Something else has that name, or a part of the path is not a folder.
    Other(Kind),
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The name as bytes: not necessarily UTF-8.
    pub name: Vec<u8>,
    /// Whether it is a folder (a link to one is not).
    pub folder: bool,
}

/// Splits a relative path into at most four plain components.
///
/// # Errors
/// Class Input, code `hostile-path`: an absolute or empty path, `.`, `..`, an empty or overlong component, a control
/// character, too many components.
pub fn check_relative(path: &str) -> Result<Vec<&str>> {
    let parts: Vec<&str> = path.split('/').collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && *part != "."
            && *part != ".."
            && part.len() <= MAX_COMPONENT_BYTES
            && !part.chars().any(char::is_control)
    };
    if parts.len() > MAX_COMPONENTS || !parts.iter().all(plain) {
        return Err(Error::input("hostile-path", "a path that is not confined to its folder")
            .expected(format!("1 to {MAX_COMPONENTS} plain components"))
            .found(quote(path, 120)));
    }
    Ok(parts)
}

pub(super) fn open_folder(at: BorrowedFd<'_>, name: &Path, nofollow: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, nofollow);
    retry_on_intr(|| rustix::fs::openat(at, name, flags, Mode::empty()))
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Special,
    }
}

impl Confined {
    /// Opens the folder `path`; a link in `path` itself is the caller's and is followed.
    ///
    /// # Errors
    /// Class Io: it cannot be opened or is no folder.
    pub fn open(path: &Path) -> Result<Self> {
        let fd =
            open_folder(CWD, path, false).map_err(|e| Error::io("cannot open the folder", path, e.into()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(super) fn from_fd(fd: OwnedFd, path: PathBuf) -> Self {
        Self { fd, path }
    }

    /// The path it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// An error about `name` in this folder.
    pub(super) fn io_error(&self, what: &str, name: &str, error: Errno) -> Error {
        Error::io(what, &self.path.join(name), error.into())
    }

    /// What `name` (a single component or a checked path) is, without following a link; `None` when there is nothing.
    ///
    /// # Errors
    /// Class Input for a hostile path, class Io when it cannot be examined.
    pub fn kind_of(&self, name: &str) -> Result<Option<Kind>> {
        let parts = check_relative(name)?;
        let Some((last, folders)) = parts.split_last() else {
            return Ok(None);
        };
        match self.descend(folders)? {
            Ok(fd) => self.stat(fd.as_ref().map_or(self.fd(), AsFd::as_fd), last, name),
            Err(None) => Ok(None),
            Err(Some(other)) => Ok(Some(other)),
        }
    }

    fn stat(&self, at: BorrowedFd<'_>, last: &str, name: &str) -> Result<Option<Kind>> {
        match retry_on_intr(|| rustix::fs::statat(at, last, AtFlags::SYMLINK_NOFOLLOW)) {
            Ok(stat) => Ok(Some(kind(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(self.io_error("cannot examine the file", name, e)),
        }
    }

    /// Opens the folders of a path one by one. `Ok(None)` is this folder itself; `Err(None)` a missing one,
    /// `Err(Some(kind))` a name that is no folder.
    fn descend(&self, folders: &[&str]) -> Result<std::result::Result<Option<OwnedFd>, Option<Kind>>> {
        let mut current: Option<OwnedFd> = None;
        for folder in folders {
            let at = current.as_ref().map_or(self.fd(), AsFd::as_fd);
            match open_folder(at, Path::new(folder), true) {
                Ok(fd) => current = Some(fd),
                Err(Errno::NOENT) => return Ok(Err(None)),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let found = self.stat(at, folder, folder)?;
                    return Ok(Err(found));
                }
                Err(e) => return Err(self.io_error("cannot open the folder", folder, e)),
            }
        }
        Ok(Ok(current))
    }

    /// Opens the regular file at the relative path `name` for reading, following no link anywhere in it.
    ///
    /// # Errors
    /// Class Input for a hostile path, class Io when it exists and cannot be opened.
    pub fn open_regular(&self, name: &str) -> Result<Lookup> {
        let parts = check_relative(name)?;
        let Some((last, folders)) = parts.split_last() else {
            return Ok(Lookup::Missing);
        };
        let folder = match self.descend(folders)? {
            Ok(fd) => fd,
            Err(None) => return Ok(Lookup::Missing),
            Err(Some(other)) => return Ok(Lookup::Other(other)),
        };
        let at = folder.as_ref().map_or(self.fd(), AsFd::as_fd);
        // Examined before it is opened: opening a device can have effects. Examined again by descriptor after.
        match self.stat(at, last, name)? {
            Some(Kind::File) => {}
            Some(other) => return Ok(Lookup::Other(other)),
            None => return Ok(Lookup::Missing),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match retry_on_intr(|| rustix::fs::openat(at, *last, flags, Mode::empty())) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Lookup::Missing),
            Err(Errno::LOOP) => return Ok(Lookup::Other(Kind::Link)),
            Err(e) => return Err(self.io_error("cannot open the file", name, e)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.io_error("cannot examine the file", name, e))?;
        match kind(&stat) {
            Kind::File => Ok(Lookup::File(File::from(fd), u64::try_from(stat.st_size).unwrap_or(0))),
            other => Ok(Lookup::Other(other)),
        }
    }

    /// The names in this folder, or in its sub-folder at the relative path `sub`, sorted by bytes.
    ///
    /// # Errors
    /// Class Input for a hostile path, class Io when the folder cannot be listed.
    pub fn list(&self, sub: Option<&str>) -> Result<Vec<Named>> {
        let shown = sub.unwrap_or("");
        let fail = |e: Errno| self.io_error("cannot list the folder", shown, e);
        let folder = match sub {
            None => None,
            Some(sub) => match self.descend(&check_relative(sub)?)? {
                Ok(fd) => fd,
                Err(_) => return Err(fail(Errno::NOTDIR)),
            },
        };
        let at = folder.as_ref().map_or(self.fd(), AsFd::as_fd);
        let mut names = Vec::new();
        for entry in Dir::read_from(at).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let folder = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems leave the type out of the listing.
                FileType::Unknown => {
                    let stat =
                        rustix::fs::statat(at, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
                    kind(&stat) == Kind::Folder
                }
                _ => false,
            };
            names.push(Named { name: name.to_vec(), folder });
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests set up folders directly")]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn hostile_paths_are_refused() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            ".",
            "a/b/c/d/e",
            "a\0b",
            "a\nb",
            &"x".repeat(256),
        ] {
            let error = check_relative(bad).unwrap_err();
            assert_eq!((error.code(), error.class().exit_code()), ("hostile-path", 4), "{bad:?}");
        }
        assert_eq!(check_relative("silicast/kernels/golden/a.npy").unwrap().len(), 4);
        assert_eq!(check_relative("..a").unwrap(), ["..a"]);
    }

    #[test]
    fn links_and_special_files_are_seen_and_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("real"), b"12345").unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        std::fs::write(at("sub/inner"), b"1").unwrap();
        symlink("real", at("link")).unwrap();
        symlink("sub", at("dirlink")).unwrap();
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let confined = Confined::open(dir.path()).unwrap();
        assert!(matches!(confined.open_regular("real").unwrap(), Lookup::File(_, 5)));
        assert!(matches!(confined.open_regular("sub/inner").unwrap(), Lookup::File(_, 1)));
        assert!(matches!(confined.open_regular("link").unwrap(), Lookup::Other(Kind::Link)));
        assert!(matches!(confined.open_regular("dirlink/inner").unwrap(), Lookup::Other(Kind::Link)));
        assert!(matches!(confined.open_regular("real/inner").unwrap(), Lookup::Other(Kind::File)));
        assert!(matches!(confined.open_regular("fifo").unwrap(), Lookup::Other(Kind::Special)));
        assert!(matches!(confined.open_regular("sub").unwrap(), Lookup::Other(Kind::Folder)));
        assert!(matches!(confined.open_regular("none").unwrap(), Lookup::Missing));
        assert!(matches!(confined.open_regular("none/x").unwrap(), Lookup::Missing));
        assert_eq!(confined.kind_of("link").unwrap(), Some(Kind::Link));
        let names: Vec<_> = confined
            .list(None)
            .unwrap()
            .into_iter()
            .map(|n| (String::from_utf8(n.name).unwrap(), n.folder))
            .collect();
        let expected = [("dirlink", false), ("fifo", false), ("link", false), ("real", false), ("sub", true)];
        assert_eq!(names, expected.map(|(n, f)| (n.to_owned(), f)));
    }
}
