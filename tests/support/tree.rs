//! Folders as values: every file with its bytes, and one digest of all of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every regular file below `dir` by its path relative to `dir`.
///
/// # Panics
///
/// When something there is neither a folder nor a regular file.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    walk(dir, "", &mut |name, path| {
        found.insert(name, fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    });
    found
}

/// BLAKE3 over the paths and bytes of every file below `dir`; files are streamed.
pub fn digest(dir: &Path) -> String {
    let mut hash = blake3::Hasher::new();
    let mut names = Vec::new();
    walk(dir, "", &mut |name, path| names.push((name, path.to_owned())));
    names.sort();
    for (name, path) in names {
        let mut one = blake3::Hasher::new();
        let file = fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        one.update_reader(file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        hash.update(name.as_bytes()).update(b"\0").update(one.finalize().as_bytes());
    }
    hash.finalize().to_hex().to_string()
}

/// The names in `dir`, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn walk(dir: &Path, prefix: &str, visit: &mut impl FnMut(String, &Path)) {
    for name in names(dir) {
        let path = dir.join(&name);
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        let relative = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => walk(&path, &relative, visit),
            (_, true) => visit(relative, &path),
            _ => panic!("{} is neither a folder nor a regular file", path.display()),
        }
    }
}

/// Panics and names the first file that differs between two folders.
#[track_caller]
pub fn assert_equal(a: &Path, b: &Path) {
    let (left, right) = (files(a), files(b));
    let keys = |map: &BTreeMap<String, Vec<u8>>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&left), keys(&right));
    for (name, bytes) in &left {
        assert!(*bytes == right[name], "{name} differs between {} and {}", a.display(), b.display());
    }
}
