//! Files that are neither source nor output: recipes, and what the system says of this process.

use crate::error::{Error, Result};
use std::io::{Read, Write};
use std::path::Path;

/// Reads a small text file of at most `limit` bytes.
#[expect(clippy::disallowed_methods, reason = "this module opens files for the others")]
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let file = std::fs::File::open(path).map_err(|e| Error::io("cannot open the file", path, e))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io("cannot read the file", path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::usage("file-too-large", "the file is too large")
            .file(path.display())
            .expected(format!("at most {limit} bytes"))
            .fix("is this the right file?"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Error::usage("file-not-utf8", "the file is no text").file(path.display()).expected("UTF-8")
    })
}

/// Adds text to the end of a file, which a CI system names for it.
///
/// # Errors
/// Class Io.
#[expect(clippy::disallowed_methods, reason = "this module opens files for the others")]
pub fn append_text(path: &Path, text: &str) -> Result<()> {
    let failed = |e| Error::io("cannot add to the file", path, e);
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// Peak resident memory of this process in bytes, where the system tells it.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = read_text(Path::new("/proc/self/status"), 1 << 16).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn peak_memory_is_plausible() {
        let peak = super::peak_rss_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&peak));
    }
}
