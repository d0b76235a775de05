//! The folder that a conversion writes, `OUT.partial`, and its one rename to `OUT`.
//!
//! Nothing stands under the final name before it is complete and durable: files are written and synced here, then the
//! folders are synced, the folder is renamed, and the parent is synced. All files are 0644 and all folders 0755 whatever
//! the umask. No link is followed inside the folder.

use super::confined::{Confined, Kind, Lookup, check_relative, open_folder};
use crate::error::{Error, Result};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);

/// The folder in work.
#[derive(Debug)]
pub struct OutputDir {
    at: Confined,
}

/// Parses the `M-of-N` of a lock's or journal's file name; M counts from 1.
pub fn parse_slice(text: &str) -> Option<(u32, u32)> {
    let (index, count) = text.split_once("-of-")?;
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_digit()) && !t.starts_with('0');
    if !plain(index) || !plain(count) {
        return None;
    }
    let (index, count) = (index.parse().ok()?, count.parse().ok()?);
    (index <= count).then_some((index, count))
}

impl OutputDir {
    /// Opens the folder `path`, creating it (0755) when there is none; the parent must exist. The flag says whether it
    /// was created.
    ///
    /// # Errors
    /// Class Io: it can neither be created nor opened, or it is a link or no folder.
    pub fn create_or_open(path: &Path) -> Result<(Self, bool)> {
        let created = match retry_on_intr(|| rustix::fs::mkdir(path, FOLDER_MODE)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(Error::io("cannot create the output folder", path, e.into())),
        };
        let dir = Self::open(path)?;
        if created {
            dir.chmod(dir.fd(), FOLDER_MODE, "")?;
        }
        Ok((dir, created))
    }

    /// Opens an existing folder.
    ///
    /// # Errors
    /// Class Io: it does not exist, is a link, or is no folder.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = open_folder(CWD, path, true)
            .map_err(|e| Error::io("cannot open the output folder", path, e.into()))?;
        Ok(Self { at: Confined::from_fd(fd, path.to_owned()) })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// The same folder for reading.
    pub fn confined(&self) -> &Confined {
        &self.at
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.at.fd()
    }

    fn chmod(&self, fd: BorrowedFd<'_>, mode: Mode, name: &str) -> Result<()> {
        // The mode given at creation is cut by the umask.
        retry_on_intr(|| rustix::fs::fchmod(fd, mode))
            .map_err(|e| self.at.io_error("cannot set the mode", name, e))
    }

    /// Opens the folder that holds `name`, creating what is missing, and splits off the last component.
    fn parent_of<'n>(&self, name: &'n str) -> Result<(Option<OwnedFd>, &'n str)> {
        let parts = check_relative(name)?;
        let mut current: Option<OwnedFd> = None;
        let last = parts.last().copied().unwrap_or(name);
        for folder in parts.iter().take(parts.len().saturating_sub(1)) {
            let at = current.as_ref().map_or(self.fd(), AsFd::as_fd);
            let created = match retry_on_intr(|| rustix::fs::mkdirat(at, *folder, FOLDER_MODE)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(e) => return Err(self.at.io_error("cannot create the folder", name, e)),
            };
            let fd = open_folder(at, Path::new(folder), true)
                .map_err(|e| self.at.io_error("cannot open the folder", name, e))?;
            if created {
                self.chmod(fd.as_fd(), FOLDER_MODE, name)?;
            }
            current = Some(fd);
        }
        Ok((current, last))
    }

    fn open_for_writing(&self, name: &str, extra: OFlags, what: &str) -> Result<File> {
        let (folder, last) = self.parent_of(name)?;
        let at = folder.as_ref().map_or(self.fd(), AsFd::as_fd);
        // NONBLOCK: a FIFO that somebody put there must not hang the open.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | extra;
        let fd = retry_on_intr(|| rustix::fs::openat(at, last, flags, FILE_MODE))
            .map_err(|e| self.at.io_error(what, name, e))?;
        let file = File::from(fd);
        let metadata = file.metadata().map_err(|e| Error::io("cannot examine", &self.path().join(name), e))?;
        if !metadata.is_file() {
            return Err(Error::new(crate::error::Class::Io, "not-regular", "an output file is not a regular file")
                .file(self.path().join(name).display())
                .fix("remove it, then run the same command again"));
        }
        self.chmod(file.as_fd(), FILE_MODE, name)?;
        Ok(file)
    }

    fn out_file(&self, name: &str, file: File) -> OutFile {
        OutFile { file, path: self.path().join(name), failed: AtomicBool::new(false) }
    }

    /// Creates the file `name` (0644); sub-folders appear as needed.
    ///
    /// # Errors
    /// Class Io: it exists already or cannot be created; class Input for a hostile name.
    pub fn create_file(&self, name: &str) -> Result<OutFile> {
        let file = self.open_for_writing(name, OFlags::CREATE | OFlags::EXCL, "cannot create the file")?;
        Ok(self.out_file(name, file))
    }

    /// Opens the file `name` of an interrupted run for writing; its content stays.
    ///
    /// # Errors
    /// Class Io: it is missing, a link, or not a regular file.
    pub fn open_existing(&self, name: &str) -> Result<OutFile> {
        Ok(self.out_file(name, self.open_for_writing(name, OFlags::empty(), "cannot open the file")?))
    }

    /// Opens `name` for appending (every write goes to the end), creating it when missing; the content stays.
    ///
    /// # Errors
    /// As [`Self::create_file`].
    pub fn open_append(&self, name: &str) -> Result<OutFile> {
        let file = self.open_for_writing(name, OFlags::CREATE | OFlags::APPEND, "cannot open the file")?;
        Ok(self.out_file(name, file))
    }

    /// A buffered writer of a new `name`; a file of that name is replaced. [`StreamWriter::finish`] makes it durable.
    ///
    /// # Errors
    /// As [`Self::create_file`].
    pub fn writer(&self, name: &str) -> Result<StreamWriter> {
        let file = self.open_for_writing(name, OFlags::CREATE | OFlags::TRUNC, "cannot create the file")?;
        let path = self.path().join(name);
        Ok(StreamWriter { inner: BufWriter::with_capacity(256 << 10, file), path })
    }

    /// Writes the whole file `name`, replacing one of that name, and syncs it.
    ///
    /// # Errors
    /// As [`Self::create_file`], and class Io for a failed write or sync.
    pub fn write_whole(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.open_for_writing(name, OFlags::CREATE | OFlags::TRUNC, "cannot create the file")?;
        let file = self.out_file(name, file);
        file.write_all_at(bytes, 0)?;
        file.sync()
    }

    /// The whole content of a regular file of at most `limit` bytes; `None` when there is none.
    ///
    /// # Errors
    /// Class Io: it cannot be read, is longer than `limit`, or is not a regular file.
    pub fn read_whole(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path().join(name);
        let refuse = |found: String| {
            Error::new(crate::error::Class::Io, "not-readable", "an output file cannot be read back")
                .file(path.display())
                .expected(format!("a regular file of at most {limit} bytes"))
                .found(found)
        };
        match self.at.open_regular(name)? {
            Lookup::Missing => Ok(None),
            Lookup::Other(kind) => Err(refuse(kind.text().to_owned())),
            Lookup::File(_, len) if len > limit => Err(refuse(format!("{len} bytes"))),
            Lookup::File(file, len) => {
                let mut bytes = vec![0; usize::try_from(len).map_err(|_| refuse(format!("{len} bytes")))?];
                file.read_exact_at(&mut bytes, 0).map_err(|e| Error::io("cannot read", &path, e))?;
                Ok(Some(bytes))
            }
        }
    }

    /// Removes the file `name`; a missing one is fine. A link is removed, not followed.
    ///
    /// # Errors
    /// Class Io: it is a folder or cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let (folder, last) = self.parent_of(name)?;
        let at = folder.as_ref().map_or(self.fd(), AsFd::as_fd);
        match retry_on_intr(|| rustix::fs::unlinkat(at, last, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.at.io_error("cannot remove the file", name, e)),
        }
    }

    /// The names directly in the folder that are UTF-8, sorted.
    ///
    /// # Errors
    /// Class Io: the folder cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        Ok(self.at.list(None)?.into_iter().filter_map(|n| String::from_utf8(n.name).ok()).collect())
    }

    /// Removes everything in the folder but the lock files: what `--restart` discards. Links are removed, not followed.
    ///
    /// # Errors
    /// Class Io: something cannot be removed.
    pub fn clear(&self) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        for named in self.at.list(None)? {
            if std::str::from_utf8(&named.name).is_ok_and(super::lock::is_lock_file) {
                continue;
            }
            let path = self.path().join(std::ffi::OsStr::from_bytes(&named.name));
            if named.folder {
                remove_tree(&path)?;
            } else {
                match retry_on_intr(|| rustix::fs::unlinkat(self.fd(), named.name.as_slice(), AtFlags::empty())) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(e) => return Err(Error::io("cannot remove the file", &path, e.into())),
                }
            }
        }
        Ok(())
    }

    /// Whether something (a file, folder or link) has the relative path `name`, and what.
    ///
    /// # Errors
    /// Class Input for a hostile name, class Io when it cannot be examined.
    pub fn kind_of(&self, name: &str) -> Result<Option<Kind>> {
        self.at.kind_of(name)
    }

    /// Bytes that an unprivileged writer can still put on the file system.
    ///
    /// # Errors
    /// Class Io: the file system cannot be asked.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = retry_on_intr(|| rustix::fs::fstatvfs(self.fd()))
            .map_err(|e| self.at.io_error("cannot ask for free space", "", e))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Makes the names in the folder and its sub-folders durable.
    ///
    /// # Errors
    /// Class Io; a failed sync is final.
    pub fn sync_dir(&self) -> Result<()> {
        sync_folders(&self.at, None)
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

fn unsupported(e: Errno) -> bool {
    matches!(e, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
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
    let fd = open_folder(CWD, path, false).map_err(|e| Error::io("cannot open the folder", path, e.into()))?;
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

fn sync_error(path: &Path, error: std::io::Error) -> Error {
    // The kernel reports a lost write once and then forgets it: a second, successful sync proves nothing.
    Error::io("cannot make the output durable; what was written may be lost", path, error)
}

/// Removes a folder with everything in it; links are removed, not followed.
#[expect(clippy::disallowed_methods, reason = "this is the one place that removes folders")]
fn remove_tree(path: &Path) -> Result<()> {
    std::fs::remove_dir_all(path).map_err(|e| Error::io("cannot remove the folder", path, e))
}

/// A file in work. Disjoint ranges may be written from any thread in any order.
#[derive(Debug)]
pub struct OutFile {
    file: File,
    path: PathBuf,
    failed: AtomicBool,
}

impl OutFile {
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
                Err(e) => return Err(Error::io("cannot reserve space for the output", &self.path, e.into())),
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

    /// Appends all of `bytes` to a file opened by [`OutputDir::open_append`], by one `write` unless that is cut short.
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
        self.file.read_exact_at(out, offset).map_err(|e| Error::io("cannot read the output back", &self.path, e))
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
}

impl StreamWriter {
    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is buffered and makes the file durable.
    ///
    /// # Errors
    /// Class Io.
    pub fn finish(self) -> Result<()> {
        let Self { inner, path } = self;
        let file = inner
            .into_inner()
            .map_err(|e| Error::io("cannot write the output", &path, e.into_error()))?;
        file.sync_all().map_err(|e| sync_error(&path, e))
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests set up and read folders directly")]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn setup() -> (tempfile::TempDir, PathBuf, OutputDir) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("o.partial");
        let (dir, created) = OutputDir::create_or_open(&path).unwrap();
        assert!(created);
        (root, path, dir)
    }

    #[test]
    fn slice_names_are_parsed_strictly() {
        assert_eq!(parse_slice("1-of-4"), Some((1, 4)));
        for bad in ["0-of-4", "5-of-4", "01-of-4", "1-of-", "+1-of-4", "1-of-4x", "1-of-99999999999", "-of-", ""] {
            assert_eq!(parse_slice(bad), None, "{bad}");
        }
    }

    #[test]
    fn files_are_created_once_written_out_of_order_and_read_back() {
        let (_root, path, dir) = setup();
        let file = dir.create_file("a.bin").unwrap();
        file.reserve(10).unwrap();
        assert_eq!(file.len().unwrap(), 10);
        file.write_all_at(b"world", 5).unwrap();
        file.write_all_at(b"hello", 0).unwrap();
        file.sync().unwrap();
        let mut back = [0; 5];
        file.read_exact_at(&mut back, 5).unwrap();
        assert_eq!(&back, b"world");
        let error = file.read_exact_at(&mut back, 6).unwrap_err();
        assert_eq!(error.class().exit_code(), 5);
        assert!(error.file_name().unwrap().ends_with("a.bin"));
        assert!(dir.create_file("a.bin").is_err());
        assert_eq!(std::fs::read(path.join("a.bin")).unwrap(), b"helloworld");
        let again = dir.open_existing("a.bin").unwrap();
        again.reserve(7).unwrap();
        assert_eq!(std::fs::read(path.join("a.bin")).unwrap(), b"hellowo");
        assert_eq!(mode(&path.join("a.bin")), 0o644);
    }

    #[test]
    fn links_and_folders_are_refused_as_output_files() {
        let (root, path, dir) = setup();
        std::fs::write(root.path().join("victim"), b"v").unwrap();
        symlink(root.path().join("victim"), path.join("l")).unwrap();
        symlink(root.path(), path.join("d")).unwrap();
        std::fs::create_dir(path.join("folder")).unwrap();
        assert!(dir.create_file("l").is_err());
        assert!(dir.open_existing("l").is_err());
        assert!(dir.write_whole("l", b"x").is_err());
        assert!(dir.write_whole("d/victim", b"x").is_err());
        assert!(dir.open_existing("folder").is_err());
        assert!(dir.write_whole("../victim", b"x").is_err());
        assert_eq!(std::fs::read(root.path().join("victim")).unwrap(), b"v");
        rustix::fs::mknodat(CWD, path.join("fifo"), rustix::fs::FileType::Fifo, FILE_MODE, 0).unwrap();
        assert_eq!(dir.open_existing("fifo").unwrap_err().code(), "not-regular");
    }

    #[test]
    fn whole_files_replace_and_sub_folders_appear() {
        let (_root, path, dir) = setup();
        dir.write_whole("silicast/plan.txt", b"longer text").unwrap();
        dir.write_whole("silicast/plan.txt", b"short").unwrap();
        assert_eq!(std::fs::read(path.join("silicast/plan.txt")).unwrap(), b"short");
        assert_eq!(mode(&path.join("silicast")), 0o755);
        assert_eq!(dir.read_whole("silicast/plan.txt", 5).unwrap().unwrap(), b"short");
        assert!(dir.read_whole("silicast/plan.txt", 4).is_err());
        assert_eq!(dir.read_whole("none", 4).unwrap(), None);
        let mut writer = dir.writer("big.json").unwrap();
        for _ in 0..100_000 {
            writer.write_all(b"0123456789").unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(std::fs::metadata(path.join("big.json")).unwrap().len(), 1_000_000);
        dir.remove("big.json").unwrap();
        dir.remove("big.json").unwrap();
        assert!(dir.free_bytes().unwrap() > 0);
    }

    #[test]
    fn clear_keeps_locks_and_what_links_point_to() {
        let (root, path, dir) = setup();
        std::fs::create_dir(root.path().join("outside")).unwrap();
        std::fs::write(root.path().join("outside/x"), b"x").unwrap();
        symlink(root.path().join("outside"), path.join("link")).unwrap();
        dir.write_whole("silicast/a", b"1").unwrap();
        symlink(root.path().join("outside"), path.join("silicast/link")).unwrap();
        dir.write_whole("b", b"1").unwrap();
        dir.write_whole("lock", b"").unwrap();
        dir.write_whole("lock.2-of-3", b"").unwrap();
        dir.clear().unwrap();
        assert_eq!(dir.names().unwrap(), ["lock", "lock.2-of-3"]);
        assert!(root.path().join("outside/x").exists());
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
            let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["o"], "{}", path.display());
        }
        let (root, _, dir) = setup();
        symlink("elsewhere", root.path().join("o")).unwrap();
        assert_eq!(dir.replace_in_place(&root.path().join("o")).unwrap_err().code(), "output-exists");
    }

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
