//! The arrows between modules point one way: each names only what lies below it.
#![expect(clippy::disallowed_methods, reason = "the test reads the source tree")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every module with the modules that it may name, besides itself and `error`.
const ARROWS: &[(&str, &[&str])] = &[
    ("src/error", &[]),
    ("src/dtype", &[]),
    ("src/onnx_protobuf", &[]),
    ("src/kernel", &["onnx_protobuf", "dtype"]),
    ("src/io", &[]),
    ("src/onnx", &["onnx_protobuf", "io", "dtype"]),
    ("src/checkpoint", &["dtype", "io"]),
    ("src/plan", &["checkpoint", "dtype"]),
    ("targets", &["plan", "checkpoint", "dtype"]),
    ("passes", &["targets", "plan", "checkpoint", "dtype"]),
    ("src/artifact", &["targets", "plan", "checkpoint", "io", "dtype"]),
    ("src/compile", &["artifact", "passes", "targets", "plan", "checkpoint", "dtype"]),
    ("src/exec", &["artifact", "plan", "checkpoint", "io", "kernel", "dtype"]),
    ("src/report", &[]),
    (
        "src/validate",
        &["report", "exec", "artifact", "targets", "plan", "checkpoint", "io", "kernel", "dtype"],
    ),
    (
        "src/cli",
        &[
            "validate",
            "report",
            "exec",
            "compile",
            "artifact",
            "passes",
            "targets",
            "plan",
            "checkpoint",
            "onnx",
            "io",
            "kernel",
            "dtype",
        ],
    ),
];

/// Single items that may be named against the table, with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    // A plan prices buffers as the pool will cut them; a pure function of a size.
    ("src/plan", "crate::io::buffer_pool::class_size"),
];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().map(Result::unwrap) {
        match entry.path() {
            folder if folder.is_dir() => sources(&folder, found),
            file if file.extension().is_some_and(|e| e == "rs") => found.push(file),
            _ => {}
        }
    }
}

/// Modules that `text` names as `crate::MODULE`, comments and test modules included.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn modules_name_only_what_lies_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for (module, below) in ARROWS {
        let own = module.trim_start_matches("src/");
        let mut files = Vec::new();
        sources(&root.join(module), &mut files);
        files.extend(Some(root.join(format!("{module}.rs"))).filter(|f| f.exists()));
        assert!(!files.is_empty(), "{module} has no files");
        for file in files {
            let mut text = fs::read_to_string(&file).unwrap();
            for (_, item) in EXCEPTIONS.iter().filter(|(of, _)| of == module) {
                text = text.replace(item, "");
            }
            assert!(
                !text.contains("use crate::{"),
                "{}: one `use` per module, so that this test sees it",
                file.display()
            );
            for name in named(&text) {
                seen += 1;
                let lawful = name == own || name == "error" || below.contains(&name);
                assert!(lawful, "{}: {own} must not name {name}", file.display());
            }
        }
    }
    assert!(seen > 150, "only {seen} paths: the test does not see the sources");
}

#[test]
fn every_module_has_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let modules = text.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in modules {
        let listed = ARROWS.iter().any(|(path, _)| path.trim_start_matches("src/") == module);
        assert!(listed, "{module} is not in the table of this test");
    }
}
