//! Packs of reference kernels: what is in them, the NumPy script, and the command that writes them.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests make and read their own files, and print sizes"
)]

mod support;

use serde_json::Value;
use silicast::checkpoint::Checkpoint;
use silicast::dtype::scheme::Scheme;
use silicast::exec::weight_slices;
use silicast::kernel::emit::{self, EmittedFile, golden};
use silicast::kernel::reference::catalog;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use support::binary::silicast;
use support::{inputs, model, oracle};
use tempfile::TempDir;

/// The full pack, and a folder that holds it.
fn full() -> &'static (Vec<EmittedFile>, TempDir) {
    static FULL: OnceLock<(Vec<EmittedFile>, TempDir)> = OnceLock::new();
    FULL.get_or_init(|| {
        let files = emit::pack(&|_| true, &[]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        write(&files, dir.path());
        (files, dir)
    })
}

fn write(files: &[EmittedFile], dir: &Path) {
    for file in files {
        let path = dir.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &file.bytes).unwrap();
    }
}

fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap()
}

/// Runs the script of a pack.
fn script<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Output {
    Command::new(oracle::python())
        .args(["-B", "-s"])
        .arg(dir.join("kernels.py"))
        .args(args)
        .arg(dir)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The script finds every case of the pack equal.
fn every_case_is_equal(dir: &Path) {
    let ran = script::<&str>(dir, &[]);
    let stdout = text(&ran.stdout);
    let bad: Vec<&str> = stdout.lines().filter(|l| !l.starts_with("ok ")).take(20).collect();
    let cases = manifest(dir)["cases"].as_array().unwrap().len();
    assert_eq!(bad, [format!("ok: {cases} of {cases} cases equal, 0 differ")], "{}", text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(0));
    assert_eq!(stdout.lines().filter(|l| l.starts_with("ok ") && l.contains('/')).count(), cases);
}

#[test]
fn a_pack_is_the_same_every_time_and_small() {
    let (files, _) = full();
    assert!(emit::pack(&|_| true, &[]).unwrap() == *files, "two packs differ");
    assert!(files.is_sorted_by(|a, b| a.path < b.path), "paths are sorted and distinct");
    let bytes: usize = files.iter().map(|f| f.bytes.len()).sum();
    println!("{bytes} bytes in {} files", files.len());
    assert!(bytes <= 20_000_000, "{bytes} bytes");
    for path in ["README.md", "golden.safetensors", "kernels.c", "kernels.py", "manifest.json"] {
        assert!(files.iter().any(|f| f.path == path), "{path}");
    }
}

#[test]
fn every_kernel_has_cases_of_every_class_that_applies() {
    const ALL: [&str; 13] = [
        "gaussian",
        "small-int",
        "all-codes",
        "bf16-sweep",
        "exponent-sweep",
        "zero-block",
        "exact-amax",
        "fp4-midpoints",
        "signed-zero",
        "outlier",
        "ragged",
        "empty",
        "tails",
    ];
    assert!(catalog::kernels().count() >= 70);
    for kernel in catalog::kernels() {
        let drafts = golden::drafts(kernel.name);
        let names: BTreeSet<&str> = drafts.iter().map(|d| d.name.as_str()).collect();
        assert_eq!(names.len(), drafts.len(), "{}: names repeat", kernel.name);
        let classes: BTreeSet<&str> = drafts.iter().map(|d| d.class).collect();
        let required: &[&str] = match kernel.name {
            name if name.starts_with("gemm_") || name.starts_with("quant_") || name.contains("grouped") => {
                &ALL
            }
            "dequant_bf16" => &["bf16-sweep", "empty"],
            "requant_bf16_to_e4m3" => &["bf16-sweep", "all-codes", "exponent-sweep", "signed-zero", "empty"],
            name if name.starts_with("requant_e4m3f") => &["all-codes", "empty"],
            name if ["e4m3", "e5m2", "e4m3fnuz", "e2m1", "e8m0"]
                .iter()
                .any(|f| name == format!("dequant_{f}")) =>
            {
                &["all-codes", "empty"]
            }
            name if name.starts_with("dequant_")
                || name.starts_with("requant_")
                || name == "indexer_logits" =>
            {
                &ALL
            }
            name if name.starts_with("mla_") => &["gaussian", "small-int", "ragged", "empty"],
            name if name.starts_with("layout_") => &["gaussian", "ragged", "empty"],
            "sparse_attn_sink" => {
                &["gaussian", "small-int", "zero-block", "signed-zero", "outlier", "ragged", "empty"]
            }
            "moe_gate" => {
                &["gaussian", "small-int", "exponent-sweep", "signed-zero", "outlier", "ragged", "empty"]
            }
            "moe_combine" => &[
                "gaussian",
                "small-int",
                "exponent-sweep",
                "zero-block",
                "signed-zero",
                "outlier",
                "ragged",
                "empty",
            ],
            name if name.starts_with("kv_") => {
                &["gaussian", "bf16-sweep", "exponent-sweep", "exact-amax", "empty"]
            }
            _ => &[
                "gaussian",
                "small-int",
                "bf16-sweep",
                "exponent-sweep",
                "zero-block",
                "signed-zero",
                "outlier",
                "ragged",
                "empty",
            ],
        };
        for class in required {
            assert!(classes.contains(class), "{}: no {class}", kernel.name);
        }
        if kernel.name.starts_with("gemm_") {
            for dtype in ["f32", "bf16"] {
                assert!(drafts.iter().any(|d| d.wanted["C"].text() == dtype), "{}: no {dtype}", kernel.name);
            }
        }
    }
}

#[test]
fn numpy_computes_every_case_to_the_last_bit() {
    every_case_is_equal(full().1.path());
}

#[test]
fn numpy_and_safetensors_read_every_array_as_the_manifest_says() {
    let (files, dir) = full();
    let printed = oracle::run_script("kernels_pack.py", &[dir.path().as_os_str()]);
    let arrays = files.iter().filter(|f| f.path.starts_with("golden/")).count();
    assert!(printed.contains(&format!(" {arrays} arrays, ")), "{printed}");
    assert!(printed.contains("the generator is the one that README.md specifies"), "{printed}");
}

/// The manifest's entry of an output.
fn output<'a>(manifest: &'a Value, case: &str, output: &str) -> &'a Value {
    let cases = manifest["cases"].as_array().unwrap();
    let named =
        |c: &&Value| format!("{}/{}", c["kernel"].as_str().unwrap(), c["case"].as_str().unwrap()) == case;
    &cases.iter().find(named).unwrap()["outputs"][output]
}

fn metrics(text: &str) -> BTreeMap<String, Vec<f64>> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(' ')?;
            Some((name.to_owned(), rest.split(' ').map(|v| v.parse().ok()).collect::<Option<Vec<f64>>>()?))
        })
        .collect()
}

#[test]
fn compare_measures_what_the_definitions_say() {
    let dir = full().1.path();
    let manifest = manifest(dir);
    let scratch = tempfile::tempdir().unwrap();
    for (case, name, item) in [
        ("gemm_fp8_block/gaussian", "C", 4),
        ("gemm_w8a8/outlier-bf16", "C", 2),
        ("quant_dg_fp8_f32/gaussian", "codes", 1),
    ] {
        let entry = output(&manifest, case, name);
        let golden = dir.join(entry["file"].as_str().unwrap());
        let mut bytes = fs::read(&golden).unwrap();
        for at in (128 + 3 * item..bytes.len()).step_by(7 * item) {
            // The neighbour of 448 in E4M3 is a NaN.
            if item > 1 || bytes[at] & 0x7E != 0x7E {
                bytes[at] ^= 1;
            }
        }
        let dump = scratch.path().join("dump.npy");
        fs::write(&dump, bytes).unwrap();
        let which = format!("{case}:{name}");
        let ran = script(dir, &["--compare", dump.to_str().unwrap(), "--case", &which]);
        assert_eq!(ran.status.code(), Some(1), "{}", text(&ran.stderr));
        assert!(text(&ran.stdout).contains("first_mismatch [0,3] got 0x"), "{}", text(&ran.stdout));
        let got = metrics(&text(&ran.stdout));
        let dtype = entry["dtype"].as_str().unwrap();
        let args = [dump.as_os_str(), golden.as_os_str(), dtype.as_ref()];
        let want = metrics(&oracle::run_script("compare_metrics.py", &args));
        assert!(want.len() >= 15);
        for (metric, want) in want {
            assert_eq!(got[&metric].len(), want.len(), "{metric}");
            for (got, want) in got[&metric].iter().zip(&want) {
                let near = (got - want).abs() <= 1e-11 * want.abs() + 1e-17;
                assert!(near, "{case}: {metric} is {got:e}, by its definition {want:e}");
            }
        }
        let same = script(dir, &["--compare", golden.to_str().unwrap(), "--case", &which]);
        assert_eq!(same.status.code(), Some(0), "{}", text(&same.stderr));
        assert!(
            text(&same.stdout).contains("mismatches 0\n") && text(&same.stdout).contains("sqnr_db inf\n")
        );
    }
}

#[test]
fn the_script_finds_wrong_bits_and_refuses_what_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let files = emit::pack(&|k| k == "dequant_mxfp4", &[]).unwrap();
    write(&files, dir.path());
    every_case_is_equal(dir.path());
    let manifest = manifest(dir.path());
    let entry = output(&manifest, "dequant_mxfp4/gaussian", "y");
    let path = dir.path().join(entry["file"].as_str().unwrap());
    let mut bytes = fs::read(&path).unwrap();
    bytes[128] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let ran = script::<&str>(dir.path(), &[]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(
        text(&ran.stdout).contains("FAIL dequant_mxfp4/gaussian y: 1 of 2592 differ, first at [0,0]: 0x")
    );
    bytes.truncate(200);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(script::<&str>(dir.path(), &[]).status.code(), Some(2));
    for args in [
        &["--case", "nothing"][..],
        &["--compare", "none.npy", "--case", "dequant_mxfp4/gaussian"],
        &["--compare", "none.npy"],
        &["--compare", "none.npy", "--case", "dequant_mxfp4/none"],
        &["--fast"],
    ] {
        let ran = script(dir.path(), args);
        assert_eq!(ran.status.code(), Some(2), "{args:?} {}", text(&ran.stdout));
        assert!(text(&ran.stderr).starts_with("kernels.py: "), "{args:?}: {}", text(&ran.stderr));
    }
}

/// The checkpoint of a fixture and the folder that keeps it.
fn checkpoint(fixture: &str, target: Option<(&str, &str)>) -> (TempDir, PathBuf) {
    model::artifact(fixture, target, &[])
}

#[test]
fn the_pack_of_an_artifact_has_its_schemes_and_weights_and_is_small() {
    for (fixture, target, scheme, gemm) in [
        ("deepseek-v3", None, "f8_e4m3:128x128:f32:given", "gemm_fp8_block"),
        ("deepseek-v3", Some(("ascend-910b", "W8A8_DYNAMIC")), "i8:channel:f32:amax127-bf16", "gemm_w8a8"),
        (
            "llama-bf16",
            Some(("vllm", "FP8_DYNAMIC")),
            "f8_e4m3:channel:f32:amax448",
            "gemm_fp8_token_channel",
        ),
        ("deepseek-v3", Some(("vllm", "W8A8_CT")), "i8:channel:bf16:ct127.5-bf16", "gemm_w8a8"),
        (
            "llama-bf16",
            Some(("vllm", "FP8_BLOCK_UE8M0")),
            "f8_e4m3:128x128:f32:deepseek-ue8m0",
            "gemm_fp8_block",
        ),
    ] {
        let (_keep, path) = checkpoint(fixture, target);
        let slices = weight_slices::read(&Checkpoint::open(&path).unwrap()).unwrap();
        assert!(slices.len() >= 3, "{fixture} {scheme}: {} slices", slices.len());
        let scheme: Scheme = scheme.parse().unwrap();
        let files = emit::artifact_pack(&[scheme], &slices).unwrap();
        let start = std::time::Instant::now();
        assert!(files == emit::artifact_pack(&[scheme], &slices).unwrap());
        println!("{} ms", start.elapsed().as_millis());
        let bytes: usize = files.iter().map(|f| f.bytes.len()).sum();
        println!("{fixture} {scheme}: {bytes} bytes in {} files, {} slices", files.len(), slices.len());
        assert!(bytes <= 4_000_000 && files.len() <= 200, "{bytes} bytes in {} files", files.len());
        let dir = tempfile::tempdir().unwrap();
        write(&files, dir.path());
        every_case_is_equal(dir.path());
        let manifest = manifest(dir.path());
        let real: Vec<&Value> = manifest["cases"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["kernel"] == gemm && c["class"] == "slice")
            .collect();
        assert_eq!(real.len(), slices.len().min(12));
        assert!(real.iter().all(|c| c["tensor"].as_str().unwrap().contains(".weight[0:")));
        // The weights are those of the checkpoint.
        let weights = inputs::read_model(&path);
        for slice in &slices {
            let whole = &weights[&slice.tensor];
            let stride = whole.info.shape[1] as usize;
            let [rows, cols] = slice.codes.shape[..] else { panic!("no matrix") };
            for row in [0, rows - 1] {
                assert_eq!(slice.codes.bytes[row * cols..][..cols], whole.data[row * stride..][..cols]);
            }
        }
    }
    let float = emit::artifact_pack(&[], &[]).unwrap();
    assert!(float.len() < 100 && float.iter().any(|f| f.path.contains("lm_head")));
}

#[test]
fn the_command_writes_a_pack_once() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("pack");
    fs::create_dir(&out).unwrap();
    // A run that was killed left its folder behind.
    fs::create_dir_all(root.path().join("pack.kernels.partial/golden")).unwrap();
    fs::write(root.path().join("pack.kernels.partial/golden/old.npy"), "x").unwrap();
    let (_keep, source) = checkpoint("deepseek-v3", None);
    let args = |more: &[&str]| {
        let mut args = vec!["kernels".to_owned(), "-o".to_owned(), out.display().to_string()];
        args.extend(more.iter().map(|a| (*a).to_owned()));
        args
    };
    let from = source.display().to_string();
    let document = silicast(args(&["--target", "vllm", "--scheme", "fp8-block", "--from", &from, "--json"]))
        .expect(0)
        .json();
    let kernels: Vec<&str> =
        document["kernels"].as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
    assert!(
        kernels.contains(&"gemm_fp8_block")
            && kernels.contains(&"rmsnorm")
            && !kernels.contains(&"gemm_w8a8")
    );
    let manifest = manifest(&out);
    assert_eq!(document["cases"].as_u64().unwrap() as usize, manifest["cases"].as_array().unwrap().len());
    assert!(document["slices"].as_array().unwrap().len() >= 5, "{document}");
    let files = support::tree::files(&out);
    assert_eq!(document["files"].as_u64().unwrap() as usize, files.len());
    assert!(!files.keys().any(|f| f.contains("old.npy") || f.starts_with("lock")));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    let printed = oracle::run_script("kernels_pack.py", &[out.as_os_str()]);
    assert!(printed.contains("cases"), "{printed}");
    let before = support::tree::digest(&out);
    silicast(args(&[])).expect(2).says(&["output", "exists", "pack"]);
    assert_eq!(support::tree::digest(&out), before);
}

#[test]
fn mistakes_are_named() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("pack").display().to_string();
    let llama = inputs::fixture(root.path(), "llama-bf16").display().to_string();
    let run = |more: &[&str]| silicast([&["kernels", "-o", &out], more].concat());
    run(&["--target", "tpu"]).expect(3).says(&["tpu", "ascend-910b"]);
    run(&["--target", "ascend-910b", "--scheme", "FP8_BLOCK"]).expect(3).says(&["FP8_BLOCK", "W8A8_DYNAMIC"]);
    run(&["--scheme", "W3A3"]).expect(3).says(&["W3A3", "FP8_BLOCK"]);
    run(&["--from", "/nowhere"]).expect(5).says(&["/nowhere"]);
    run(&["--from", &llama]).expect(3).says(&["quantized", "llama-bf16"]);
    silicast(["kernels"]).expect(2);
    silicast(["kernels", "-o", "/nowhere/pack"]).expect(5).says(&["/nowhere/pack"]);
    silicast(["kernels", "-o", "/"]).expect(2);
    assert!(!Path::new(&out).exists());
}
