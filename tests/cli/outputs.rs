//! Outputs that exist already, finished or not.

use crate::support::binary::{convert_args, convert_with, silicast};
use crate::support::{inputs, tree};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn inodes(dir: &Path) -> Vec<(String, u64, i64, i64)> {
    tree::files(dir)
        .into_keys()
        .map(|name| {
            let meta = fs::metadata(dir.join(&name)).unwrap();
            (name, meta.ino(), meta.ctime(), meta.ctime_nsec())
        })
        .collect()
}

#[test]
fn the_same_conversion_again_is_done_already() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-bf16");
    let out = root.path().join("out");
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(0);
    let before = inodes(&out);
    let again = convert_with(&source, &out, "vllm", "int8", &["--jobs", "1", "--json"]);
    let ran = silicast(&again).expect(0).says(&["already", "nothing to do"]);
    assert_eq!((ran.json()["written_bytes"].as_u64(), &ran.json()["verdict"]), (Some(0), &"pass".into()));
    assert_eq!(inodes(&out), before);
    assert_eq!(tree::names(root.path()), ["llama-bf16", "out"]);
}

#[test]
fn another_conversion_is_refused_and_overwrite_swaps() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-bf16");
    let out = root.path().join("out");
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(0);
    let before = inodes(&out);
    let refused = |args: &[std::ffi::OsString], says: &str| {
        silicast(args).expect(2).says(&["exists already", says, "--overwrite"]);
        assert_eq!(inodes(&out), before);
        assert_eq!(tree::names(root.path()), ["llama-bf16", "out"]);
    };
    refused(&convert_args(&source, &out, "vllm", "FP8_DYNAMIC"), "another plan");
    refused(&convert_with(&source, &out, "vllm", "W8A8", &["--ignore", "*.down_proj"]), "another plan");
    // The headers are the same, one weight is not.
    let weight = "model.layers.1.mlp.up_proj.weight";
    inputs::poke(&source, weight, 500, &[1]);
    refused(&convert_args(&source, &out, "vllm", "W8A8"), "another source");

    let fresh = root.path().join("fresh");
    silicast(convert_args(&source, &fresh, "vllm", "W8A8")).expect(0);
    silicast(convert_with(&source, &out, "vllm", "W8A8", &["--overwrite"])).expect(0);
    tree::assert_equal(&out, &fresh);
    assert_eq!(tree::names(root.path()), ["fresh", "llama-bf16", "out"]);
    // A conversion that fails leaves the old artifact.
    inputs::poke(&source, weight, 500, &[0xc0, 0x7f]);
    silicast(convert_with(&source, &out, "vllm", "W8A8", &["--overwrite"])).expect(4);
    tree::assert_equal(&out, &fresh);
}

#[test]
fn what_is_no_artifact_is_never_touched() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let out = root.path().join("out");
    fs::write(&out, "precious").unwrap();
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(2).says(&["exists already"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "precious");
    fs::remove_file(&out).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("thesis.tex"), "precious").unwrap();
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(2).says(&["exists already"]);
    assert_eq!(tree::names(&out), ["thesis.tex"]);
    fs::remove_dir_all(&out).unwrap();
    std::os::unix::fs::symlink("/nowhere", &out).unwrap();
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(2).says(&["exists already"]);
    assert_eq!(tree::names(root.path()), ["llama-single", "out"]);
}

#[test]
fn an_unfinished_output_of_other_options_is_refused_and_restart_discards_it() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-bf16");
    let (out, partial) = (root.path().join("out"), root.path().join("out.partial"));
    // A value that stops the conversion half-way, mended afterwards, leaves an unfinished output.
    let weight = "model.layers.1.mlp.up_proj.weight";
    let (file, at, _) = inputs::locate(&source, weight);
    let original = fs::read(&file).unwrap()[at as usize..at as usize + 2].to_vec();
    inputs::poke(&source, weight, 0, &[0xc0, 0x7f]);
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(4);
    assert!(partial.exists() && !out.exists());
    let before = tree::files(&partial);
    silicast(convert_args(&source, &out, "vllm", "FP8_DYNAMIC")).expect(2).says(&[
        "other options",
        "out.partial",
        "--restart",
    ]);
    silicast(convert_with(&source, &out, "vllm", "W8A8", &["--nan", "keep"]))
        .expect(2)
        .says(&["other options"]);
    assert_eq!(tree::files(&partial), before);
    inputs::poke(&source, weight, 0, &original);
    // The mended source is another source.
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(4).says(&["changed", "--restart"]);
    silicast(convert_with(&source, &out, "vllm", "FP8_DYNAMIC", &["--restart"])).expect(0);
    let fresh = root.path().join("fresh");
    silicast(convert_args(&source, &fresh, "vllm", "FP8_DYNAMIC")).expect(0);
    tree::assert_equal(&fresh, &out);
    assert!(!partial.exists());
    // Restarting one slice would discard the others'.
    silicast(convert_with(&source, &root.path().join("s"), "vllm", "W8A8", &["--slice", "1/2", "--restart"]))
        .expect(2);
}
