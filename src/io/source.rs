//! A model folder, opened for reading.
//!
//! Names in a folder are hostile. Every file is opened relative to a descriptor of the folder, without following links
//! and without blocking, and only a regular file is ever read. The one link that is followed is the one that a hub
//! cache makes: `snapshots/<revision>/<file>` → `../../blobs/<hash>`, resolved from the folder's own descriptor.

use crate::error::{Error, Result, quote};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const OPEN_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// `NONBLOCK` because opening a FIFO for reading would wait for a writer.
const OPEN_FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A model folder.
#[derive(Debug)]
pub struct SourceDir {
    path: PathBuf,
    fd: OwnedFd,
}

/// What a name in a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file, or a hub cache's link to one.
    File,
    /// A folder.
    Folder,
}

/// Identity and state of a file, to notice a change between two looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last content change, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Time of the last inode change, nanoseconds since the epoch.
    pub ctime_ns: i128,
    /// Inode number.
    pub inode: u64,
}

/// A regular file, open for reading at any offset from any thread.
#[derive(Debug)]
pub struct ReadFile {
    file: File,
    name: String,
    path: PathBuf,
    stamp: Stamp,
}

/// Whether anything, even a dangling link, has the path.
pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// Whether `name` is one path component that is safe to open and to print: not empty, not `.` or `..`, and free of
/// separators and control characters.
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.chars().any(|c| c == '/' || c == '\\' || c.is_control())
}

impl SourceDir {
    /// Opens the folder at `path`, which may itself be a link to a folder.
    ///
    /// # Errors
    /// `not-a-folder` (exit 4) where `path` is something else; I/O errors (exit 5).
    pub fn open(path: &Path) -> Result<Self> {
        match rustix::fs::openat(CWD, path, OPEN_FOLDER, Mode::empty()) {
            Ok(fd) => Ok(Self { path: path.to_path_buf(), fd }),
            Err(Errno::NOTDIR) => Err(Error::input("not-a-folder", "the source is not a folder")
                .file(path.display())
                .expected("a folder with config.json and *.safetensors")
                .fix("give the folder that holds the model")),
            Err(e) => Err(Error::io("cannot open the source folder", path, e.into())),
        }
    }

    /// The folder's path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every name in the folder, folders included, in byte order.
    ///
    /// # Errors
    /// `file-name` (exit 4) for a name that is not UTF-8 or holds control characters; I/O errors (exit 5).
    pub fn names(&self) -> Result<Vec<String>> {
        let failed = |e: Errno| Error::io("cannot list the source folder", &self.path, e.into());
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let bytes = entry.file_name().to_bytes();
            if bytes == b"." || bytes == b".." {
                continue;
            }
            match std::str::from_utf8(bytes) {
                Ok(name) if is_file_name(name) => names.push(name.to_owned()),
                _ => {
                    return Err(Error::input(
                        "file-name",
                        "a file name in the source cannot be handled safely",
                    )
                    .file(self.path.display())
                    .expected("UTF-8 without control characters or backslashes")
                    .found(quote(&String::from_utf8_lossy(bytes), 100))
                    .fix("rename or remove the file"));
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// What `name` is, without opening it.
    ///
    /// # Errors
    /// As [`SourceDir::open_file`], folders excepted.
    pub fn kind(&self, name: &str) -> Result<EntryKind> {
        self.check_name(name)?;
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed(name, e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(EntryKind::File),
            FileType::Directory => Ok(EntryKind::Folder),
            FileType::Symlink => self.open_blob(name).map(|_| EntryKind::File),
            other => Err(self.special(name, other)),
        }
    }

    /// Opens the regular file `name`.
    ///
    /// # Errors
    /// Exit 4: `file-name` (more than one path component), `symlink` (any link but a hub cache's), `special-file`
    /// (FIFO, device, socket), `not-a-file` (a folder). Exit 5: `not-found` and other I/O errors. Never blocks.
    pub fn open_file(&self, name: &str) -> Result<ReadFile> {
        self.check_name(name)?;
        // Looked at before it is opened: opening a device can have effects.
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed(name, e))?;
        let fd = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => rustix::fs::openat(&self.fd, name, OPEN_FILE, Mode::empty())
                .map_err(|e| if e == Errno::LOOP { self.link(name) } else { self.failed(name, e) })?,
            FileType::Symlink => self.open_blob(name)?,
            other => return Err(self.special(name, other)),
        };
        // Looked at again: the name may have been replaced in between.
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.failed(name, e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(self.special(name, kind));
        }
        let path = self.path.join(name);
        Ok(ReadFile { file: File::from(fd), name: name.to_owned(), path, stamp: Stamp::of(&stat) })
    }

    /// Follows `name` if, and only if, it is a hub cache's link: the folder is a child of a `snapshots` folder and the
    /// link says `../../blobs/<one component>`.
    fn open_blob(&self, name: &str) -> Result<OwnedFd> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new()).map_err(|e| self.failed(name, e))?;
        let blob = target
            .to_str()
            .ok()
            .and_then(|t| t.strip_prefix("../../blobs/"))
            .filter(|blob| is_file_name(blob))
            .ok_or_else(|| self.link(name))?;
        // ".." of a descriptor is its real parent, whatever links the path went through.
        let open = |folder: &OwnedFd, child: &str, more: OFlags| {
            rustix::fs::openat(folder, child, OPEN_FOLDER | more, Mode::empty())
        };
        let resolve = || -> rustix::io::Result<Option<OwnedFd>> {
            let parent = open(&self.fd, "..", OFlags::empty())?;
            let cache = open(&parent, "..", OFlags::empty())?;
            let snapshots = open(&cache, "snapshots", OFlags::NOFOLLOW)?;
            let (a, b) = (rustix::fs::fstat(&parent)?, rustix::fs::fstat(&snapshots)?);
            if (a.st_dev, a.st_ino) != (b.st_dev, b.st_ino) {
                return Ok(None);
            }
            let blobs = open(&cache, "blobs", OFlags::NOFOLLOW)?;
            let stat = rustix::fs::statat(&blobs, blob, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Ok(None);
            }
            rustix::fs::openat(&blobs, blob, OPEN_FILE, Mode::empty()).map(Some)
        };
        match resolve() {
            Ok(Some(fd)) => Ok(fd),
            Ok(None) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Err(self.link(name)),
            Err(e) => Err(self.failed(name, e)),
        }
    }

    fn check_name(&self, name: &str) -> Result<()> {
        if is_file_name(name) {
            return Ok(());
        }
        Err(Error::input("file-name", "a file name must be one path component")
            .file(self.path.display())
            .expected("a name without separators, '..' or control characters")
            .found(quote(name, 100)))
    }

    fn failed(&self, name: &str, e: Errno) -> Error {
        Error::io("cannot open", &self.path.join(name), e.into())
    }

    fn link(&self, name: &str) -> Error {
        Error::input("symlink", "a symbolic link in the source is not followed")
            .file(self.path.join(name).display())
            .expected(
                "a regular file, or a hub cache's link from snapshots/<revision>/ to ../../blobs/<hash>",
            )
            .fix("replace the link with the file")
    }

    fn special(&self, name: &str, kind: FileType) -> Error {
        let (code, found) = match kind {
            FileType::Directory => ("not-a-file", "a folder"),
            FileType::Symlink => return self.link(name),
            FileType::Fifo => ("special-file", "a FIFO"),
            FileType::Socket => ("special-file", "a socket"),
            FileType::CharacterDevice | FileType::BlockDevice => ("special-file", "a device"),
            _ => ("special-file", "something else"),
        };
        Error::input(code, "a name in the source is not a regular file")
            .file(self.path.join(name).display())
            .expected("a regular file")
            .found(found)
            .fix("remove it from the source folder")
    }
}

impl Stamp {
    #[allow(clippy::unnecessary_cast, reason = "the field types differ between platforms")]
    fn of(stat: &rustix::fs::Stat) -> Self {
        let ns = |seconds: i64, nanos: i128| i128::from(seconds) * 1_000_000_000 + nanos;
        Self {
            bytes: stat.st_size as u64,
            mtime_ns: ns(stat.st_mtime as i64, stat.st_mtime_nsec as i128),
            ctime_ns: ns(stat.st_ctime as i64, stat.st_ctime_nsec as i128),
            inode: stat.st_ino as u64,
        }
    }
}

impl ReadFile {
    /// Length in bytes when the file was opened.
    pub fn len(&self) -> u64 {
        self.stamp.bytes
    }

    /// Whether the file was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name in its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder's path as given, joined with the name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills `buffer` from byte `offset` on.
    ///
    /// # Errors
    /// `source-changed` (exit 4) when the file ends earlier; I/O errors (exit 5).
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::input("source-changed", "the file ends before the bytes that its header promises")
                    .file(self.path.display())
                    .expected(format!("{} bytes at {offset}", buffer.len()))
                    .fix("do not change the source while it is read; fetch the file again")
            }
            _ => Error::io("cannot read", &self.path, e),
        })
    }

    /// The whole file, if it has at most `cap` bytes.
    ///
    /// # Errors
    /// `file-too-big` (exit 4); as [`ReadFile::read_exact_at`].
    pub fn read_to_end(&self, cap: u64) -> Result<Vec<u8>> {
        let len = self.len();
        let len = usize::try_from(len).ok().filter(|_| len <= cap).ok_or_else(|| {
            Error::input("file-too-big", "the file is larger than anything of its kind")
                .file(self.path.display())
                .expected(format!("at most {cap} bytes"))
                .found(len)
        })?;
        let mut bytes = vec![0; len];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// State of the file when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// State of the open file now.
    ///
    /// # Errors
    /// I/O errors (exit 5).
    pub fn restat(&self) -> Result<Stamp> {
        let stat =
            rustix::fs::fstat(&self.file).map_err(|e| Error::io("cannot look at", &self.path, e.into()))?;
        Ok(Stamp::of(&stat))
    }
}
