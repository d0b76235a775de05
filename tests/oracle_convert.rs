//! Every fixture for every target and scheme, compared byte for byte with an independent computation.
//!
//! `fixtures/oracle/convert.py` is written from the specification with NumPy alone: names, shards, headers, index,
//! configuration and every tensor byte are what it computes.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]

mod support;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use support::binary::{convert_args, convert_with, silicast};
use support::{inputs, oracle, tree};

/// Targets with the schemes that are converted. Targets of one engine share code; each has at least its default here.
const CELLS: &[(&str, &[&str])] = &[
    ("ascend-910b", &["W8A8_DYNAMIC", "FLOAT"]),
    ("ascend-910c", &["W8A8_DYNAMIC"]),
    ("metax-c500", &["W8A8", "W8A8_CT", "BF16"]),
    ("hygon-bw1000", &["W8A8"]),
    ("hygon-k100ai", &["W8A8"]),
    ("vllm", &["W8A8", "W8A8_CT", "FP8_DYNAMIC", "FP8_BLOCK", "FP8_BLOCK_UE8M0", "BF16"]),
];

/// Folder name of an artifact in shards of at most [`SHARD_BYTES`].
const SHARDED: &str = "sharded";
const SHARD_BYTES: u64 = 250_000;

/// Runs the oracle over `jobs` (source, artifact, target, scheme) and returns what it printed.
fn compare(list: &Path, jobs: &[(PathBuf, PathBuf, &str, &str)]) -> Result<String, String> {
    let lines: String = jobs
        .iter()
        .map(|(source, artifact, target, scheme)| {
            let limit = if artifact.ends_with(SHARDED) { SHARD_BYTES } else { 4 << 30 };
            let job = json!({
                "source": source, "artifact": artifact, "target": target, "scheme": scheme, "shard_limit": limit,
            });
            format!("{job}\n")
        })
        .collect();
    fs::write(list, lines).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle/convert.py");
    let output = Command::new(oracle::python())
        .args(["-B".as_ref(), "-s".as_ref(), script.as_os_str(), "--batch".as_ref(), list.as_os_str()])
        .env_remove("PYTHONPATH")
        // The workers are the parallelism.
        .env("OPENBLAS_NUM_THREADS", "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(printed),
        false => Err(printed + &String::from_utf8_lossy(&output.stderr)),
    }
}

/// Opens every shard with the `safetensors` crate and holds it against plan and index.
fn open_officially(out: &Path, plan: &Value) {
    let mut found: BTreeMap<String, (String, String, Vec<u64>)> = BTreeMap::new();
    for name in tree::names(out).into_iter().filter(|n| n.ends_with(".safetensors")) {
        let bytes = fs::read(out.join(&name)).unwrap();
        let file =
            SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}/{name}: {e}", out.display()));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        for (tensor, view) in file.tensors() {
            let shape = view.shape().iter().map(|d| *d as u64).collect();
            found.insert(tensor, (name.clone(), view.dtype().to_string(), shape));
        }
    }
    let entries = plan["entries"].as_array().unwrap().iter().filter(|e| e["fate"] != "dropped");
    let expected: BTreeMap<String, (String, String, Vec<u64>)> = entries
        .map(|e| {
            let shape = e["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            let text = |key: &str| e[key].as_str().unwrap().to_owned();
            (text("name"), (text("file"), text("dtype"), shape))
        })
        .collect();
    assert_eq!(found, expected, "{}", out.display());
    for index in tree::names(out).iter().filter(|n| n.ends_with(".safetensors.index.json")) {
        let index: Value = serde_json::from_slice(&fs::read(out.join(index)).unwrap()).unwrap();
        let map = index["weight_map"].as_object().unwrap();
        assert_eq!(map.len(), found.len());
        assert!(map.iter().all(|(name, file)| found[name].0 == *file));
    }
}

/// Converts `fixture` for every cell; the differences.
fn check_fixture(root: &Path, fixture: &str) -> Vec<String> {
    let source = inputs::fixture(root, fixture);
    let mut jobs = Vec::new();
    for (target, schemes) in CELLS {
        for scheme in *schemes {
            let out = root.join(format!("{fixture}-{target}-{scheme}"));
            let plan = silicast([
                "plan".as_ref(),
                source.as_os_str(),
                "--json".as_ref(),
                "--target".as_ref(),
                target.as_ref(),
                "--scheme".as_ref(),
                OsStr::new(scheme),
            ]);
            let ran = silicast(convert_args(&source, &out, target, scheme));
            if ran.code != Some(0) || plan.code != Some(0) {
                return vec![format!("{fixture} {target} {scheme}: exit {:?}\n{}", ran.code, ran.stderr)];
            }
            open_officially(&out, &plan.json());
            jobs.push((source.clone(), out, *target, *scheme));
        }
    }
    for (target, scheme) in [("ascend-910b", "W8A8_DYNAMIC"), ("vllm", "FP8_BLOCK")] {
        let out = root.join(format!("{fixture}-{target}")).join(SHARDED);
        fs::create_dir(out.parent().unwrap()).unwrap();
        silicast(convert_with(&source, &out, target, scheme, &["--shard-size", &SHARD_BYTES.to_string()]))
            .expect(0);
        let shards = tree::names(&out).iter().filter(|n| n.ends_with(".safetensors")).count();
        assert!(shards > 3, "{fixture} has {shards} shards");
        jobs.push((source.clone(), out, target, scheme));
    }
    let compared = compare(&root.join(format!("{fixture}.jobs")), &jobs);
    for (_, out, ..) in &jobs {
        fs::remove_dir_all(out).unwrap();
    }
    match compared {
        Ok(printed) => {
            let equal = printed.lines().filter(|l| l.starts_with("ok ")).count();
            assert_eq!(equal, jobs.len(), "{printed}");
            Vec::new()
        }
        Err(printed) => vec![printed],
    }
}

#[test]
fn every_fixture_target_and_scheme_equals_the_oracle() {
    oracle::python();
    let root = tempfile::tempdir().unwrap();
    let queue = Mutex::new(xtask::fixtures::names().iter());
    let differences = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some(fixture) = queue.lock().unwrap().next() else { break };
                    let found = check_fixture(root.path(), fixture);
                    differences.lock().unwrap().extend(found);
                }
            });
        }
    });
    let differences = differences.into_inner().unwrap();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The comparison can fail: one changed bit of a code, a scale and the configuration is each found.
#[test]
fn the_oracle_finds_single_changed_bits() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-bf16");
    let out = root.path().join("out");
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(0);
    let job = [(source, out.clone(), "vllm", "W8A8")];
    let list = root.path().join("jobs");
    compare(&list, &job).unwrap();
    let shard = out.join("model.safetensors");
    let (_, codes, _) = inputs::locate(&out, "model.layers.1.mlp.down_proj.weight");
    let (_, scales, _) = inputs::locate(&out, "model.layers.1.mlp.down_proj.weight_scale");
    let whole = fs::read(&shard).unwrap();
    for (at, names) in
        [(codes as usize + 1000, "down_proj.weight "), (scales as usize + 8, "down_proj.weight_scale ")]
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&shard, bytes).unwrap();
        let printed = compare(&list, &job).unwrap_err();
        assert!(printed.contains(names) && printed.contains("1 of "), "byte {at}: {printed}");
    }
    fs::write(&shard, whole).unwrap();
    let config = fs::read_to_string(out.join("config.json")).unwrap();
    fs::write(out.join("config.json"), config.replace("int-quantized", "pack-quantized")).unwrap();
    assert!(compare(&list, &job).unwrap_err().contains("config.json"));
}

/// The rule W8A8_CT of the independent program, against vectors that compressed-tensors itself made.
#[test]
fn the_compressed_tensors_rule_is_the_librarys() {
    let said = oracle::run_script("check_golden.py", &[]);
    assert!(said.contains("ok"), "{said}");
}
