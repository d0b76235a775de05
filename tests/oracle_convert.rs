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
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use support::binary::{convert_args, convert_with, silicast};
use support::{inputs, oracle, tree};

/// What every fixture becomes: each engine once, and each way of storing a weight.
const CELLS: &[(&str, &[&str])] = &[
    ("ascend-910b", &["W4A8_DYNAMIC"]),
    ("ascend-950", &["W4A8_MXFP"]),
    ("metax-c500", &["W4A8"]),
    ("hygon-bw1000", &["W4A8"]),
    ("cambricon-mlu590", &["W4A8", "FP8_DYNAMIC"]),
    ("mthreads-s5000", &["FP8_BLOCK"]),
    ("enflame-s60", &["GPTQ"]),
    ("sglang", &["W8A8_FP8"]),
    ("vllm", &["W8A8_CT", "W4A16", "AWQ", "MXFP8", "NVFP4A16", "FP8_BLOCK_UE8M0", "BF16", "NATIVE"]),
];

/// What these fixtures become as well; with [`CELLS`] it is every target and scheme, but for targets that share a table
/// with another one.
const WIDE: &[&str] = &["llama-bf16", "deepseek-v3.2", "deepseek-v4", "qwen3-moe-ct-w4a16"];
const WIDE_CELLS: &[(&str, &[&str])] = &[
    ("ascend-910b", &["W8A8_DYNAMIC", "W8A16", "FLOAT"]),
    ("ascend-310p", &["W8A8_DYNAMIC", "FLOAT"]),
    ("ascend-950", &["W8A8_MXFP8", "W4A4_MXFP4", "W8A8FP8_DYNAMIC", "W8A8_DYNAMIC", "NATIVE", "FLOAT"]),
    ("metax-c500", &["W8A8", "W8A8_CT", "W4A16", "GPTQ", "AWQ", "BF16"]),
    ("metax-c600", &["FP8_BLOCK", "FP8_DYNAMIC"]),
    ("hygon-k100ai", &["W8A8", "AWQ"]),
    ("hygon-bw1000", &["W8A8", "W8A8_CT", "BF16"]),
    ("hygon-bw1100", &["FP8_DYNAMIC", "W4A8"]),
    ("cambricon-mlu590", &["W8A8", "GPTQ", "AWQ", "BF16"]),
    ("mthreads-s5000", &["BF16"]),
    ("mthreads-s4000", &["W8A8", "AWQ", "BF16"]),
    ("kunlunxin-p800", &["W8A8", "W4A16", "GPTQ", "AWQ"]),
    ("enflame-s60", &["AWQ", "BF16"]),
    ("sglang", &["W8A8", "W8A8_INT8", "BLOCKWISE_INT8", "MXFP8", "FP8_BLOCK", "W4A16_ASYM", "NATIVE"]),
    ("vllm", &["W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "W4A16_CT", "W4A16_ASYM", "W8A16", "W4A8", "W4AFP8"]),
    ("vllm", &["MXFP4", "GPTQ"]),
    ("ascend-910c", &["W8A8_DYNAMIC"]),
    ("metax-c550", &["W8A8"]),
    ("metax-c588", &["W8A8"]),
    ("cambricon-mlu370", &["W8A8"]),
];

/// What single fixtures become as well: (fixture, target, scheme).
const EXTRA_CELLS: &[(&str, &str, &str)] = &[
    ("deepseek-v3", "ascend-910b", "W8A8_DYNAMIC"),
    ("deepseek-v3.1", "vllm", "FP8_BLOCK"),
    ("deepseek-v3-e8m0", "vllm", "FP8_BLOCK"),
    ("deepseek-v3-u8", "vllm", "FP8_BLOCK"),
    ("qwen3-fp8", "vllm", "FP8_BLOCK"),
    ("qwen3-fp8-f16scale", "vllm", "FP8_BLOCK"),
    ("qwen2-bf16", "ascend-910b", "FLOAT"),
    ("deepseek-v4-dspark", "ascend-910b", "FLOAT"),
    ("deepseek-v4-dspark", "ascend-950", "NATIVE"),
    ("deepseek-v4-fp8", "ascend-950", "NATIVE"),
    ("gpt-oss", "vllm", "MXFP4"),
    ("gpt-oss", "vllm", "FP8_BLOCK"),
    ("kimi-k2-thinking", "vllm", "GPTQ"),
    ("kimi-k2-thinking", "vllm", "W4A16_ASYM"),
    ("kimi-k3", "vllm", "MXFP4"),
    ("minimax-m3-mxfp8", "sglang", "MXFP8"),
    ("llama-gptq", "vllm", "GPTQ"),
    ("llama-gptq", "cambricon-mlu590", "AWQ"),
    ("llama-gptq-actorder", "vllm", "GPTQ"),
    ("llama-awq", "vllm", "W4A16_ASYM"),
    ("llama-awq", "cambricon-mlu590", "AWQ"),
    ("llama-ct-w4a16-asym", "vllm", "W4A16_ASYM"),
    ("llama-ct-w4a8", "vllm", "W4A8"),
    ("llama-ct-w8a16", "vllm", "W8A16"),
    ("llama-ct-mxfp4", "vllm", "MXFP4"),
    ("llama-ct-mxfp4", "vllm", "FP8_BLOCK"),
];

/// Scale rules that a user may choose: (fixture, target, scheme, rule).
const RULED: &[(&str, &str, &str, &str)] = &[
    ("qwen3-moe-bf16", "ascend-910b", "W4A8_DYNAMIC", "amax7-eps"),
    ("qwen3-moe-bf16", "ascend-950", "W4A8_MXFP", "mx-ascend"),
    ("qwen3-moe-bf16", "ascend-950", "W4A8_MXFP", "mx-best"),
    ("llama-bf16", "vllm", "FP8_BLOCK_UE8M0", "best-ue8m0"),
    ("llama-bf16", "vllm", "MXFP8", "mx-floor"),
    ("llama-bf16", "vllm", "MXFP4", "mx-rceil"),
    ("llama-bf16", "sglang", "MXFP8", "mx-best"),
];

/// The cells of a fixture.
fn cells(fixture: &str) -> Vec<(&'static str, &'static str)> {
    let wide = if WIDE.contains(&fixture) { WIDE_CELLS } else { &[] };
    let tables = CELLS.iter().chain(wide).flat_map(|(target, schemes)| schemes.iter().map(|s| (*target, *s)));
    let extra = EXTRA_CELLS
        .iter()
        .filter(|(name, ..)| *name == fixture)
        .map(|(_, target, scheme)| (*target, *scheme));
    tables.chain(extra).collect()
}

/// Largest shard of the artifacts in several shards.
const SHARD_BYTES: u64 = 250_000;

/// Runs the oracle over `jobs`, one JSON object each, and returns what it printed.
fn compare(list: &Path, jobs: &[Value]) -> Result<String, String> {
    let lines: String = jobs.iter().map(|job| format!("{job}\n")).collect();
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
    let mut outs = Vec::new();
    for (target, scheme) in cells(fixture) {
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
        let mut job = json!({ "source": source, "target": target, "scheme": scheme });
        match (ran.code, plan.code) {
            (Some(0), Some(0)) => {
                open_officially(&out, &plan.json());
                job["artifact"] = json!(out);
                outs.push(out);
            }
            // The oracle must refuse it too. A plan sees no values.
            (Some(3), Some(3)) => job["refused"] = json!(3),
            (Some(4), Some(0)) => job["refused"] = json!(4),
            _ => return vec![format!("{fixture} {target} {scheme}: exit {:?}\n{}", ran.code, ran.stderr)],
        }
        jobs.push(job);
    }
    for (target, scheme) in [("ascend-910b", "W8A8_DYNAMIC"), ("vllm", "FP8_BLOCK")] {
        let out = root.join(format!("{fixture}-{target}-sharded"));
        silicast(convert_with(&source, &out, target, scheme, &["--shard-size", &SHARD_BYTES.to_string()]))
            .expect(0);
        let shards = tree::names(&out).iter().filter(|n| n.ends_with(".safetensors")).count();
        assert!(shards > 3, "{fixture} has {shards} shards");
        jobs.push(json!({
            "source": source, "artifact": out, "target": target, "scheme": scheme, "shard_limit": SHARD_BYTES,
        }));
        outs.push(out);
    }
    for (_, target, scheme, rule) in RULED.iter().filter(|(name, ..)| *name == fixture) {
        let out = root.join(format!("{fixture}-{target}-{scheme}-{rule}"));
        silicast(convert_with(&source, &out, target, scheme, &["--scale-rule", rule])).expect(0);
        jobs.push(json!({
            "source": source, "artifact": out, "target": target, "scheme": scheme, "scale_rule": rule,
        }));
        outs.push(out);
    }
    let compared = compare(&root.join(format!("{fixture}.jobs")), &jobs);
    for out in &outs {
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
    let known: Vec<&str> =
        xtask::fixtures::names().iter().chain(xtask::fixtures::shipped_names()).copied().collect();
    let extra = EXTRA_CELLS.iter().map(|(name, ..)| name).chain(RULED.iter().map(|(name, ..)| name));
    for name in WIDE.iter().chain(extra) {
        assert!(known.contains(name), "no fixture is called {name}");
    }
    // The others hold scales at the ends of E8M0, whose products do not fit every target: they are compared by hand.
    let names: Vec<&str> = xtask::fixtures::names().to_vec();
    let root = tempfile::tempdir().unwrap();
    let queue = Mutex::new(names.iter());
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
    let job = [json!({ "source": source, "artifact": out, "target": "vllm", "scheme": "W8A8" })];
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
