//! Links, special files and folders where files are expected.

use super::{bytes_file, code, folder_of};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use silicast::checkpoint::{Checkpoint, SideKind};
use silicast::io::source::SourceDir;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The code, from a thread that must answer: a hang is a failure, not a stuck test run.
fn code_soon(path: &Path) -> String {
    let (send, receive) = std::sync::mpsc::channel();
    let path: PathBuf = path.into();
    std::thread::spawn(move || send.send(code(&path)));
    receive.recv_timeout(Duration::from_secs(20)).expect("opening the folder hangs or panics")
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn special_files_are_refused_and_never_block() {
    let good = bytes_file(&["a"]);
    for name in
        ["model.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json", "stray"]
    {
        let files: Vec<(&str, &[u8])> =
            if name == "model.safetensors" { vec![] } else { vec![("model.safetensors", &good)] };
        let dir = folder_of(&files);
        fifo(&dir.path().join(name));
        assert_eq!(code_soon(dir.path()), "special-file", "FIFO {name}");

        let dir = folder_of(&files);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join(name)).unwrap();
        assert_eq!(code_soon(dir.path()), "special-file", "socket {name}");
    }
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        let dir = folder_of(&[("other.safetensors", &good)]);
        std::fs::create_dir(dir.path().join(name)).unwrap();
        assert_eq!(code(dir.path()), "not-a-file", "folder {name}");
    }
    let dir = folder_of(&[("model.safetensors.index.json", br#"{"weight_map":{"a":"x.safetensors"}}"#)]);
    std::fs::create_dir(dir.path().join("x.safetensors")).unwrap();
    assert_eq!(code(dir.path()), "not-a-file");
    // A folder of another name is listed, not entered.
    let dir = folder_of(&[("model.safetensors", &good)]);
    std::fs::create_dir(dir.path().join("original")).unwrap();
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.side_files.len(), 1);
    assert_eq!(c.side_files[0].kind, SideKind::Skipped("a folder"));
}

#[test]
fn a_fifo_that_replaces_a_shard_does_not_block() {
    let dir = folder_of(&[("model.safetensors", &bytes_file(&["a"]))]);
    let source = SourceDir::open(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    fifo(&dir.path().join("model.safetensors"));
    assert_eq!(source.open_file("model.safetensors").unwrap_err().code(), "special-file");
}

#[test]
fn links_are_refused() {
    let outside = folder_of(&[("secret.json", b"{}"), ("model.safetensors", &bytes_file(&["a"]))]);
    let target = |name: &str| outside.path().join(name);
    let cases = [
        ("config.json", target("secret.json")),
        ("tokenizer.json", target("secret.json")),
        ("x.safetensors", target("model.safetensors")),
        ("README.md", "/etc/hostname".into()),
        ("dangling.json", "nowhere".into()),
        ("inside.json", "model.safetensors".into()),
        ("loop.json", "loop.json".into()),
        ("blob.json", "../../blobs/abc".into()),
        ("sub", outside.path().to_path_buf()),
        ("zero.safetensors", "/dev/zero".into()),
    ];
    for (name, to) in cases {
        let dir = folder_of(&[("model.safetensors", &bytes_file(&["a"]))]);
        symlink(&to, dir.path().join(name)).unwrap();
        assert_eq!(code_soon(dir.path()), "symlink", "{name} -> {}", to.display());
    }
    // The model's own shard as a link.
    let dir = folder_of(&[]);
    symlink(target("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    assert_eq!(code(dir.path()), "symlink");
}

/// `models--x/{blobs,snapshots/rev}` with one shard.
fn hub_cache() -> (TempDir, PathBuf) {
    let root = TempDir::new().unwrap();
    let model = root.path().join("models--x");
    let snapshot = model.join("snapshots/rev");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir(model.join("blobs")).unwrap();
    std::fs::write(model.join("blobs/abc"), bytes_file(&["a"])).unwrap();
    std::fs::write(model.join("blobs/def"), "{}").unwrap();
    symlink("../../blobs/abc", snapshot.join("model.safetensors")).unwrap();
    symlink("../../blobs/def", snapshot.join("config.json")).unwrap();
    (root, snapshot)
}

#[test]
fn a_hub_cache_is_read() {
    let (root, snapshot) = hub_cache();
    assert_eq!(code(&snapshot), "ok");
    // SRC itself may be a link, or a relative path with dots.
    let link = root.path().join("link");
    symlink(&snapshot, &link).unwrap();
    let c = Checkpoint::open(&link).unwrap();
    assert_eq!(c.tensors.len(), 1);
    assert_eq!(c.open_data_file(0).unwrap().len(), bytes_file(&["a"]).len() as u64);
    assert_eq!(code(&snapshot.join("../../snapshots/rev")), "ok");
}

#[test]
fn a_hub_cache_is_no_way_out() {
    let break_with = |breaking: &dyn Fn(&Path, &Path)| {
        let (root, snapshot) = hub_cache();
        breaking(&root.path().join("models--x"), &snapshot);
        code_soon(&snapshot)
    };
    let relink = |snapshot: &Path, to: &str| {
        std::fs::remove_file(snapshot.join("config.json")).unwrap();
        symlink(to, snapshot.join("config.json")).unwrap();
    };
    // The target must be spelled exactly so.
    for to in [
        "../../blobs/../blobs/def",
        "../../../models--x/blobs/def",
        "../../blobs/",
        "../../blobs/..",
        "../../blobs",
        "../../blobs//def",
        "../blobs/def",
        "../../other/def",
        "../../blobs/sub/def",
        "../../blobs/missing",
    ] {
        assert_eq!(break_with(&|_, s| relink(s, to)), "symlink", "{to}");
    }
    let absolute = break_with(&|m, s| relink(s, m.join("blobs/def").to_str().unwrap()));
    assert_eq!(absolute, "symlink");
    // The blob must be a regular file.
    let blob_is = |make: &dyn Fn(&Path)| {
        break_with(&|m, _| {
            std::fs::remove_file(m.join("blobs/def")).unwrap();
            make(&m.join("blobs/def"));
        })
    };
    assert_eq!(blob_is(&|p| symlink("/etc/hostname", p).unwrap()), "symlink");
    assert_eq!(blob_is(&fifo), "symlink");
    assert_eq!(blob_is(&|p| std::fs::create_dir(p).unwrap()), "symlink");
    // `blobs` and `snapshots` must be real folders of this model.
    let moved = break_with(&|m, _| {
        std::fs::rename(m.join("blobs"), m.join("elsewhere")).unwrap();
        symlink("elsewhere", m.join("blobs")).unwrap();
    });
    assert_eq!(moved, "symlink");
    let (root, snapshot) = hub_cache();
    let model = root.path().join("models--x");
    std::fs::rename(model.join("snapshots"), model.join("copies")).unwrap();
    assert_eq!(code(&model.join("copies/rev")), "symlink");
    drop(snapshot);
}

#[test]
fn names_are_one_component() {
    let dir = folder_of(&[("a.json", b"{}")]);
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let source = SourceDir::open(dir.path()).unwrap();
    for name in
        ["", ".", "..", "../x", "/etc/hostname", "./a.json", "sub/x", "a.json/", "a\0b", "a\\b", "a\nb"]
    {
        assert_eq!(source.open_file(name).unwrap_err().code(), "file-name", "{name:?}");
    }
    assert_eq!(source.open_file("sub").unwrap_err().code(), "not-a-file");
    assert_eq!(source.open_file("b.json").unwrap_err().code(), "not-found");
    assert_eq!(source.names().unwrap(), ["a.json", "sub"]);
    assert_eq!(source.open_file("a.json").unwrap().read_to_end(1).unwrap_err().code(), "file-too-big");
    assert_eq!(source.open_file("a.json").unwrap().read_to_end(2).unwrap(), b"{}");
}

#[test]
fn hostile_file_names_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    for name in [&b"bad\nname"[..], b"bad\xffname", b"\x1b[31m.json", b"a\\b.json"] {
        let dir = folder_of(&[("model.safetensors", &bytes_file(&["a"]))]);
        std::fs::write(dir.path().join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
        assert_eq!(code(dir.path()), "file-name", "{name:?}");
    }
}

#[test]
fn the_source_must_be_a_folder() {
    let dir = folder_of(&[("model.safetensors", &bytes_file(&["a"]))]);
    assert_eq!(code(&dir.path().join("model.safetensors")), "not-a-folder");
    assert_eq!(code(&dir.path().join("missing")), "not-found");
    let pipe = dir.path().join("pipe");
    fifo(&pipe);
    assert_eq!(code_soon(&pipe), "not-a-folder");
}

#[test]
fn a_stamp_notices_change() {
    let dir = folder_of(&[("a.json", b"{}")]);
    let source = SourceDir::open(dir.path()).unwrap();
    let file = source.open_file("a.json").unwrap();
    assert_eq!(file.restat().unwrap(), file.stamp());
    let text = serde_json::to_string(&file.stamp()).unwrap();
    assert_eq!(serde_json::from_str::<silicast::io::source::Stamp>(&text).unwrap(), file.stamp());
    std::fs::write(dir.path().join("a.json"), "{ }").unwrap();
    assert_ne!(file.restat().unwrap(), file.stamp());
}
