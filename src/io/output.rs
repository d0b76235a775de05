//! The folder that a conversion writes, `OUT.partial`, and its one rename to `OUT`.
//!
//! Nothing stands under the final name before it is complete and durable: files are written and synced here, then the
//! folders are synced, the folder is renamed, and the parent is synced. All files are 0644 and all folders 0755 whatever
//! the umask. No link is followed inside the folder.

pub use super::out_file::{OutFile, StreamWriter};

use super::confined::{Confined, Kind, Lookup, check_relative, open_folder};
use crate::error::{Error, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

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
        let metadata =
            file.metadata().map_err(|e| Error::io("cannot examine", &self.path().join(name), e))?;
        if !metadata.is_file() {
            return Err(Error::new(
                crate::error::Class::Io,
                "not-regular",
                "an output file is not a regular file",
            )
            .file(self.path().join(name).display())
            .fix("remove it, then run the same command again"));
        }
        self.chmod(file.as_fd(), FILE_MODE, name)?;
        Ok(file)
    }

    fn out_file(&self, name: &str, file: File) -> OutFile {
        OutFile::new(file, self.path().join(name))
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
        Ok(StreamWriter::new(file, path))
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

    /// Writes many small files, as [`Self::write_whole`] does each. They are synced side by side, because a file system
    /// commits waiting syncs together.
    ///
    /// # Errors
    /// As [`Self::write_whole`].
    pub fn write_many<'a>(&self, files: impl IntoIterator<Item = (String, &'a [u8])>) -> Result<()> {
        const AT_ONCE: usize = 16;
        let mut written = Vec::new();
        for (name, bytes) in files {
            let flags = OFlags::CREATE | OFlags::TRUNC;
            let file = self.out_file(&name, self.open_for_writing(&name, flags, "cannot create the file")?);
            file.write_all_at(bytes, 0)?;
            written.push(file);
        }
        let share = written.len().div_ceil(AT_ONCE).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = written
                .chunks(share)
                .map(|files| scope.spawn(move || files.iter().try_for_each(OutFile::sync)))
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(Error::internal("sync-thread", "a thread died")))
            })
        })
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
        if self.kind_of(name)?.is_none() {
            return Ok(());
        }
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
                super::publish::remove_tree(&path)?;
            } else {
                match retry_on_intr(|| {
                    rustix::fs::unlinkat(self.fd(), named.name.as_slice(), AtFlags::empty())
                }) {
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
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests set up and read folders directly")]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

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
        for bad in
            ["0-of-4", "5-of-4", "01-of-4", "1-of-", "+1-of-4", "1-of-4x", "1-of-99999999999", "-of-", ""]
        {
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
        let small: Vec<Vec<u8>> = (0..40u8).map(|i| vec![i; usize::from(i)]).collect();
        let named = (0..40).map(|i| format!("silicast/many/{i}.bin")).zip(small.iter().map(Vec::as_slice));
        dir.write_many(named).unwrap();
        assert_eq!(std::fs::read(path.join("silicast/many/39.bin")).unwrap(), [39; 39]);
        assert_eq!(mode(&path.join("silicast/many/0.bin")), 0o644);
        dir.remove("big.json").unwrap();
        dir.remove("big.json").unwrap();
        dir.remove("none/big.json").unwrap();
        assert!(!path.join("none").exists());
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
}
