//! The JSON documents that other programs read.

use crate::support::binary::{Ran, convert_with, silicast};
use crate::support::inputs;
use serde_json::Value;
use std::path::Path;

/// Runs a command with `--json`: standard output is one document with `schema_version`, and nothing else.
fn document(args: &[&str], code: i32) -> Value {
    let ran = silicast(args.iter().chain(&["--json"])).expect(code);
    assert!(ran.stdout.ends_with("}\n"), "{}", ran.stdout);
    let document = ran.json();
    assert_eq!(document["schema_version"], 1);
    document
}

/// `value` has every one of the keys; `KEY:u` must be an unsigned integer, `:s` a string, `:a` an array, `:n` a number,
/// `:b` a boolean, `?` after the letter also allows null.
#[track_caller]
fn has(value: &Value, keys: &[&str]) {
    for key in keys {
        let (name, kind) = key.split_once(':').unwrap();
        let found = value.get(name).unwrap_or_else(|| panic!("no key {name} in {value:#}"));
        let fits = match &kind[..1] {
            "u" => found.is_u64(),
            "s" => found.is_string(),
            "a" => found.is_array(),
            "n" => found.is_number(),
            "o" => found.is_object(),
            _ => found.is_boolean(),
        };
        assert!(fits || (kind.ends_with('?') && found.is_null()), "{name} is {found}");
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("{key} is no list in {value:#}"))
}

#[test]
fn every_command_has_its_document() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "kimi-k2");
    let (src, out) = (source.to_str().unwrap(), root.path().join("out"));
    let out = out.to_str().unwrap();

    let inspect = document(&["inspect", src], 0);
    has(&inspect, &["family:s", "tensors:u", "bytes:u", "schemes:a", "notes:a"]);
    list(&inspect, "schemes").iter().for_each(|s| has(s, &["name:s", "tensors:u", "bytes:u"]));
    let sum = |key: &str| list(&inspect, "schemes").iter().map(|s| s[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(
        (sum("tensors"), sum("bytes")),
        (inspect["tensors"].as_u64().unwrap(), inspect["bytes"].as_u64().unwrap())
    );
    assert!(list(&inspect, "notes").iter().all(Value::is_string));

    let targets = document(&["targets"], 0);
    for target in list(&targets, "targets") {
        has(target, &["id:s", "vendor:s", "chip:s", "engines:a", "schemes:a", "sources:a"]);
        list(target, "schemes").iter().for_each(|s| has(s, &["name:s", "default:b", "tier:u"]));
        let defaults: Vec<bool> = list(target, "schemes").iter().map(|s| s["default"] == true).collect();
        assert!(defaults[0] && defaults[1..].iter().all(|d| !d), "the first scheme is the default");
        assert!(!list(target, "sources").is_empty());
    }
    let ids: Vec<&str> = list(&targets, "targets").iter().map(|t| t["id"].as_str().unwrap()).collect();
    for id in ["ascend-910b", "ascend-910c", "metax-c500", "hygon-bw1000", "hygon-k100ai", "vllm"] {
        assert!(ids.contains(&id), "{ids:?}");
        assert_eq!(list(&document(&["targets", id], 0), "targets").len(), 1);
    }

    let plan = document(&["plan", src, "--target", "ascend-910b"], 0);
    has(
        &plan,
        &[
            "target:s",
            "engine:s",
            "scheme:s",
            "digest:s",
            "source:o",
            "output:o",
            "read_bytes:u",
            "peak_memory_bytes:u",
            "fates:o",
            "entries:a",
        ],
    );
    has(&plan["source"], &["files:u", "tensors:u", "bytes:u"]);
    has(&plan["output"], &["files:a", "tensors:u", "bytes:u"]);
    list(&plan["output"], "files").iter().for_each(|f| has(f, &["path:s", "bytes:u"]));
    has(&plan["fates"], &["quantized:u", "reencoded:u", "kept:u", "dropped:u"]);
    for entry in list(&plan, "entries") {
        let drop = if entry["fate"] == "dropped" { "?" } else { "" };
        has(entry, &["name:s", "sources:a", "fate:s", "reason:s", "bytes:u"]);
        for key in ["dtype:s", "shape:a", "scheme:s", "exactness:s", "file:s", "offset:u"] {
            has(entry, &[&format!("{key}{drop}")]);
        }
        assert!(["quantized", "reencoded", "kept", "dropped"].contains(&entry["fate"].as_str().unwrap()));
        assert!(!entry["reason"].as_str().unwrap().is_empty());
    }
    assert_eq!(
        (&plan["target"], &plan["engine"], &plan["scheme"]),
        (&"ascend-910b".into(), &"vllm-ascend".into(), &"W8A8_DYNAMIC".into())
    );

    let convert = document(&["convert", src, "-o", out, "--target", "ascend-910b"], 0);
    has(
        &convert,
        &[
            "out:s",
            "read_bytes:u",
            "written_bytes:u",
            "seconds:n",
            "peak_rss_bytes:u?",
            "fates:o",
            "worst:a",
            "verdict:s",
        ],
    );
    list(&convert, "worst").iter().for_each(|w| has(w, &["name:s", "sqnr_db:n?"]));
    assert!(!list(&convert, "worst").is_empty());
    assert_eq!(convert["fates"], plan["fates"]);
    assert_eq!(convert["verdict"], "pass");
    assert_eq!(convert["written_bytes"], plan["output"]["bytes"]);
    assert_eq!(convert["read_bytes"], plan["read_bytes"]);

    let verify = document(&["verify", out], 0);
    has(&verify, &["files:u", "failed:a", "signature:s"]);
    assert_eq!((&verify["signature"], list(&verify, "failed").len()), (&"absent".into(), 0));

    let diff = document(&["diff", src, out], 1);
    has(&diff, &["equal:u", "differing:u", "unmatched:u", "tensors:a"]);
    assert!(
        list(&diff, "tensors").len() as u64
            >= diff["equal"].as_u64().unwrap() + diff["differing"].as_u64().unwrap()
    );
    let same = document(&["diff", src, src], 0);
    assert_eq!((same["differing"].as_u64(), same["unmatched"].as_u64()), (Some(0), Some(0)));

    let sliced = root.path().join("sliced");
    silicast(convert_with(&source, &sliced, "vllm", "W8A8", &["--slice", "1/1", "--json"])).expect(0);
    let finalize = document(&["finalize", sliced.to_str().unwrap()], 0);
    has(&finalize, &["out:s", "fates:o", "worst:a", "verdict:s"]);
    assert_eq!(finalize["verdict"], "pass");
}

/// A refusal is one document too, and it says what the text says.
#[test]
fn errors_are_documents() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let src = source.to_str().unwrap();
    for (args, code) in [
        (&["plan", src, "--target", "nothing"][..], 3),
        (&["plan", src, "--target", "vllm", "--ignore", "nothing"], 2),
        (&["inspect", root.path().to_str().unwrap()], 4),
        (&["verify", src], 4),
        (&["finalize", src], 2),
    ] {
        let ran = silicast(args.iter().chain(&["--json"])).expect(code);
        let error = &ran.json()["error"];
        has(error, &["code:s", "exit_code:u", "file:s?", "tensor:s?", "message:s"]);
        assert_eq!(error["exit_code"], code);
        assert!(ran.stderr.contains(error["message"].as_str().unwrap().lines().next().unwrap()));
    }
}

/// Text for people: results on standard output, everything about the run on standard error.
#[test]
fn streams_are_kept_apart() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let (src, out) = (source.to_str().unwrap(), root.path().join("out"));
    let out = out.to_str().unwrap();
    let convert = silicast(["convert", src, "-o", out, "--target", "vllm"]).expect(0);
    assert_eq!(convert.stdout, "");
    assert!(
        convert.stderr.contains("pass") && !convert.stderr.contains('\x1b') && !convert.stderr.contains('\r')
    );
    for args in [&["inspect", src][..], &["targets"], &["verify", out], &["man"], &["completions", "zsh"]] {
        let ran = silicast(args).expect(0);
        assert!(!ran.stdout.is_empty() && ran.stderr.is_empty(), "{ran:?}");
    }
    let events = |ran: &Ran| ran.stderr.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).count();
    let second = root.path().join("second");
    let ran = silicast([
        "convert",
        src,
        "-o",
        second.to_str().unwrap(),
        "--target",
        "vllm",
        "--progress",
        "json",
        "--json",
    ])
    .expect(0);
    assert!(events(&ran) >= 1, "{}", ran.stderr);
    ran.json();
    assert_eq!(
        events(
            &silicast([
                "convert",
                src,
                "-o",
                second.to_str().unwrap(),
                "--target",
                "vllm",
                "--progress",
                "none"
            ])
            .expect(0)
        ),
        0
    );
}

#[test]
fn help_version_completions_and_manual() {
    let help = silicast(["--help"]).expect(0);
    for text in [
        "SILICAST_ISA",
        "baseline",
        "Exit codes",
        "inspect",
        "targets",
        "plan",
        "convert",
        "finalize",
        "diff",
        "verify",
    ] {
        assert!(help.stdout.contains(text), "{text}");
    }
    assert!(silicast(["--version"]).expect(0).stdout.contains(env!("CARGO_PKG_VERSION")));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = silicast(["completions", shell]).expect(0).stdout;
        assert!(script.contains("silicast") && script.contains("allow-code-files"), "{shell}");
    }
    silicast(["completions", "tcsh"]).expect(2);
    let man = silicast(["man"]).expect(0).stdout;
    assert!(
        man.starts_with(".ie") && man.contains(".TH silicast") && man.contains("SILICAST_ISA"),
        "{}",
        &man[..200]
    );
    assert!(man.contains("allow\\-code\\-files"));
}

/// The key of a CI cache changes with source, target, scheme and recipe, and with nothing else.
#[test]
fn the_cache_key_is_one_line_that_pins_the_inputs() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let key = |src: &Path, more: &[&str]| {
        let ran = silicast(["plan", src.to_str().unwrap(), "--cache-key"].iter().chain(more)).expect(0);
        assert_eq!(ran.stdout.lines().count(), 1);
        assert!(ran.stdout.starts_with("silicast-") && ran.stderr.is_empty());
        ran.stdout
    };
    let first = key(&source, &["--target", "vllm"]);
    assert_eq!(
        first,
        key(&source, &["--target", "vllm", "--jobs", "1", "--memory", "2GiB", "--scheme", "w8a8"])
    );
    let copy = inputs::fixture(&root.path().join("elsewhere"), "llama-single");
    assert_eq!(first, key(&copy, &["--target", "vllm"]));
    let other = inputs::fixture(root.path(), "llama-bf16");
    let mut keys = vec![
        first,
        key(&other, &["--target", "vllm"]),
        key(&source, &["--target", "ascend-910b"]),
        key(&source, &["--target", "vllm", "--scheme", "FP8"]),
        key(&source, &["--target", "vllm", "--ignore", "*.down_proj"]),
        key(&source, &["--target", "vllm", "--nan", "keep"]),
    ];
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 6);
}
