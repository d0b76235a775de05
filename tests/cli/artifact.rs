//! The artifact is what the plan says, to the byte, and holds nothing of the machine that made it.

use crate::support::binary::{SILICAST, convert_args, convert_with, silicast};
use crate::support::{inputs, tree};
use serde_json::Value;
use silicast::plan::{parser, printer};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use xtask::safetensors::read_head;

const CELLS: &[(&str, &str, &str)] = &[
    ("deepseek-v3.2", "ascend-910b", "W8A8_DYNAMIC"),
    ("kimi-k2", "vllm", "FP8_BLOCK_UE8M0"),
    ("qwen2-bf16", "metax-c500", "W8A8"),
    ("glm4-moe-bf16", "hygon-k100ai", "BF16"),
    ("unknown-bf16", "vllm", "FP8_DYNAMIC"),
];

fn plan_args<'a>(source: &'a Path, target: &'a str, scheme: &'a str) -> Vec<&'a str> {
    vec!["plan", source.to_str().unwrap(), "--target", target, "--scheme", scheme]
}

#[test]
fn a_plan_states_exactly_what_is_written() {
    let root = tempfile::tempdir().unwrap();
    for (fixture, target, scheme) in CELLS {
        let source = inputs::fixture(root.path(), fixture);
        let out = root.path().join(format!("{fixture}-out"));
        let args = plan_args(&source, target, scheme);
        let plan = silicast(args.iter().chain(&["--json"])).expect(0).json();
        silicast(convert_args(&source, &out, target, scheme)).expect(0);

        // Every file of the engine, with its size, and no other.
        let planned: BTreeMap<String, u64> = plan["output"]["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| (f["path"].as_str().unwrap().to_owned(), f["bytes"].as_u64().unwrap()))
            .collect();
        let mut found: BTreeMap<String, u64> =
            tree::files(&out).into_iter().map(|(name, bytes)| (name, bytes.len() as u64)).collect();
        let ours = ["manifest.json", "plan.txt", "report.html", "report.json", "report.md", "junit.xml"];
        for name in
            ours.into_iter().chain(["kernels/kernels.c", "kernels/kernels.py", "kernels/manifest.json"])
        {
            assert!(found.contains_key(&format!("silicast/{name}")), "{fixture}: no {name}");
        }
        found.retain(|name, _| !name.starts_with("silicast/"));
        assert_eq!(found, planned, "{fixture}");

        // Every tensor at its offset.
        let mut headers = BTreeMap::new();
        for name in planned.keys().filter(|n| n.ends_with(".safetensors")) {
            let (infos, data) = read_head(&out.join(name)).unwrap();
            for (info, begin) in infos {
                let bytes = info.bytes();
                headers.insert(info.name, (name.clone(), data + begin, bytes, info.dtype.name(), info.shape));
            }
        }
        let entries = plan["entries"].as_array().unwrap();
        let (mut total, mut used, mut dropped) = (0, BTreeSet::new(), BTreeSet::new());
        let mut fates: BTreeMap<&str, &str> = BTreeMap::new();
        for entry in entries {
            let fate = entry["fate"].as_str().unwrap();
            for source in entry["sources"].as_array().unwrap() {
                let source = source.as_str().unwrap();
                let known = fates.insert(source, fate);
                assert!(known.is_none_or(|f| f == fate || fate != "dropped"), "{source}");
            }
            let list = if fate == "dropped" { &mut dropped } else { &mut used };
            list.extend(entry["sources"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()));
            if fate == "dropped" {
                continue;
            }
            let (file, offset, bytes, dtype, shape) = &headers[entry["name"].as_str().unwrap()];
            assert_eq!(
                (&entry["file"], &entry["dtype"]),
                (&file.as_str().into(), &(*dtype).into()),
                "{entry}"
            );
            assert_eq!(
                (entry["offset"].as_u64(), entry["bytes"].as_u64()),
                (Some(*offset), Some(*bytes)),
                "{entry}"
            );
            assert_eq!(entry["shape"], serde_json::json!(shape));
            total += bytes;
        }
        assert_eq!(headers.len() as u64, plan["output"]["tensors"].as_u64().unwrap());
        assert_eq!(headers.len(), entries.len() - dropped.len());
        assert_eq!(total, plan["output"]["bytes"].as_u64().unwrap());

        // Every source tensor has one fate: it feeds outputs or it is dropped.
        let tensors = inputs::read_model(&source);
        let names: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
        assert!(used.is_disjoint(&dropped));
        assert_eq!(used.union(&dropped).copied().collect::<BTreeSet<_>>(), names, "{fixture}");
        let counted: u64 = plan["fates"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(counted, names.len() as u64);
        assert_eq!(plan["fates"]["dropped"], dropped.len());
        assert_eq!(plan["source"]["tensors"], names.len());
        assert_eq!(plan["source"]["bytes"], tensors.values().map(|t| t.info.bytes()).sum::<u64>());

        // The text is the plan: it parses, prints the same, and its digest is the one in plan and manifest.
        let text = silicast(&args).expect(0).stdout;
        let parsed = parser::parse(&text).unwrap();
        assert_eq!(printer::to_text(&parsed), text);
        assert_eq!(plan["digest"], printer::digest(&parsed));
        assert_eq!(plan["digest"], blake3::hash(text.as_bytes()).to_hex().to_string());
        assert_eq!(fs::read_to_string(out.join("silicast/plan.txt")).unwrap(), text);
        let manifest: Value =
            serde_json::from_slice(&fs::read(out.join("silicast/manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["plan_digest"], format!("blake3:{}", printer::digest(&parsed)));
        let listed: BTreeSet<&str> = manifest["output"]["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["path"].as_str().unwrap())
            .collect();
        let files = tree::files(&out);
        assert_eq!(
            listed,
            files.keys().map(String::as_str).filter(|n| *n != "silicast/manifest.json").collect()
        );
        let manifest_sources = manifest["source"]["files"].as_array().unwrap();
        for file in manifest_sources.iter().chain(manifest["output"]["files"].as_array().unwrap()) {
            let dir = if manifest_sources.contains(file) { &source } else { &out };
            let bytes = fs::read(dir.join(file["path"].as_str().unwrap())).unwrap();
            assert_eq!(file["blake3"], blake3::hash(&bytes).to_hex().to_string(), "{file}");
            assert_eq!(file["bytes"], bytes.len());
        }
    }
}

/// What the plan calls kept is equal, what it calls quantized is close; `diff` and the full validation say so.
#[test]
fn quantized_values_stay_close_and_kept_ones_equal() {
    let root = tempfile::tempdir().unwrap();
    for (fixture, target, scheme) in CELLS {
        let source = inputs::fixture(root.path(), fixture);
        let out = root.path().join(format!("{fixture}-out"));
        silicast(convert_with(&source, &out, target, scheme, &["--validate", "full", "--digest", "sha256"]))
            .expect(0);
        let plan = silicast(plan_args(&source, target, scheme).iter().chain(&["--json"])).expect(0).json();
        let fates: BTreeMap<&str, &Value> = plan["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| (e["name"].as_str().unwrap(), &e["fate"]))
            .collect();
        let diff = silicast(["diff".as_ref(), source.as_os_str(), out.as_os_str(), "--json".as_ref()]).json();
        for row in diff["tensors"].as_array().unwrap() {
            let fate = fates[row["name"].as_str().unwrap()];
            match row["verdict"].as_str().unwrap() {
                "differs" => {
                    assert!(fate == "quantized" || fate == "reencoded", "{row}");
                    assert!(row["sqnr_db"].as_f64().unwrap() > 25.0, "{row}");
                }
                "only-in-a" => assert_eq!(*fate, "dropped", "{row}"),
                verdict => assert_eq!(verdict, "equal", "{row}"),
            }
        }
        let manifest: Value =
            serde_json::from_slice(&fs::read(out.join("silicast/manifest.json")).unwrap()).unwrap();
        for file in manifest["output"]["files"].as_array().unwrap() {
            assert_eq!(file["sha256"].as_str().unwrap().len(), 64, "{file}");
        }
    }
}

#[test]
fn nothing_of_the_machine_is_in_an_artifact() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3.1");
    let out = root.path().join("out-of-the-ordinary");
    silicast(convert_with(
        &source,
        &out,
        "ascend-910b",
        "W8A8_DYNAMIC",
        &["--jobs", "7", "--memory", "777MiB"],
    ))
    .expect(0);
    let text = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let mut forbidden = vec![
        root.path().to_str().unwrap().to_owned(),
        root.path().file_name().unwrap().to_str().unwrap().to_owned(),
        "out-of-the-ordinary".to_owned(),
        "/home/".to_owned(),
        "777".to_owned() + "MiB",
        (777u64 << 20).to_string(),
        text("date", &["+%Y-%m-%d"]),
    ];
    let host = text("uname", &["-n"]);
    // A short name could stand anywhere by chance.
    if host.len() > 3 {
        forbidden.push(host);
    }
    for (name, bytes) in tree::files(&out).into_iter().filter(|(name, _)| !name.ends_with(".safetensors")) {
        let content = String::from_utf8_lossy(&bytes);
        for word in &forbidden {
            assert!(!content.contains(word.as_str()) && !name.contains(word.as_str()), "{name} holds {word}");
        }
        assert!(
            !name.contains("tmp")
                && !name.contains("partial")
                && !name.rsplit('/').next().is_some_and(|last| last.starts_with("lock"))
                && !name.contains("journal")
        );
    }
}

#[test]
fn files_are_0644_whatever_the_umask() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "qwen3-fp8");
    for umask in ["077", "000", "027"] {
        let out = root.path().join(umask);
        let done = Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\""), SILICAST])
            .args(convert_args(&source, &out, "ascend-910b", "W8A8_DYNAMIC"))
            .output()
            .unwrap();
        assert!(done.status.success());
        for name in tree::files(&out).keys() {
            let mode = fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o644, "{name} under umask {umask}");
        }
        for folder in [&out, &out.join("silicast")] {
            assert_eq!(
                fs::metadata(folder).unwrap().permissions().mode() & 0o7777,
                0o755,
                "{}",
                folder.display()
            );
        }
    }
    tree::assert_equal(&root.path().join("077"), &root.path().join("000"));
}

#[test]
fn python_files_travel_only_when_allowed() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3");
    for stray in ["evil.sh", "weights.bin", "quantize_config.json", ".hidden.json", "README.md"] {
        fs::write(source.join(stray), "{}").unwrap();
    }
    let code = ["configuration_deepseek.py", "modeling_deepseek.py"];
    let out = root.path().join("out");
    let ran = silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(0);
    ran.says(&["configuration_deepseek.py", "modeling_deepseek.py", "--allow-code-files"]);
    let names = tree::names(&out);
    let expected = [
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "silicast",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    let allowed = root.path().join("allowed");
    silicast(convert_with(&source, &allowed, "vllm", "W8A8", &["--allow-code-files"])).expect(0);
    for name in code {
        assert_eq!(fs::read(allowed.join(name)).unwrap(), fs::read(source.join(name)).unwrap());
    }
    assert_eq!(tree::names(&allowed).len(), expected.len() + 2);
    silicast(["verify".as_ref(), allowed.as_os_str()]).expect(0);
}

/// A snapshot in a hub cache is a folder of links to blobs: the artifact is that of the plain folder.
#[test]
fn a_hub_cache_snapshot_gives_the_same_artifact() {
    let root = tempfile::tempdir().unwrap();
    let plain = inputs::fixture(root.path(), "qwen3-moe-bf16");
    let snapshot = xtask::fixtures::write_hub_cache("qwen3-moe-bf16", &root.path().join("hub")).unwrap();
    let [a, b] = ["a", "b"].map(|name| root.path().join(name));
    silicast(convert_args(&plain, &a, "vllm", "FP8_BLOCK")).expect(0);
    silicast(convert_args(&snapshot, &b, "vllm", "FP8_BLOCK")).expect(0);
    tree::assert_equal(&a, &b);
    // A link to anywhere else is not followed.
    fs::write(root.path().join("secret"), "{}").unwrap();
    std::os::unix::fs::symlink(root.path().join("secret"), snapshot.join("vocab.json")).unwrap();
    let c = root.path().join("c");
    silicast(convert_args(&snapshot, &c, "vllm", "FP8_BLOCK")).expect(4).says(&["vocab.json"]);
    assert!(!c.exists());
}

/// An artifact of ours is a source too: decoding what was just encoded is the identity on codes.
#[test]
fn artifacts_can_be_converted_again() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "ragged-192");
    let [first, second] = ["first", "second"].map(|name| root.path().join(name));
    silicast(convert_args(&source, &first, "vllm", "FP8_BLOCK_UE8M0")).expect(0);
    silicast(convert_args(&first, &second, "vllm", "FP8_BLOCK_UE8M0")).expect(0);
    assert_eq!(
        fs::read(first.join("model.safetensors")).unwrap(),
        fs::read(second.join("model.safetensors")).unwrap()
    );
    assert_eq!(fs::read(first.join("config.json")).unwrap(), fs::read(second.join("config.json")).unwrap());
}
