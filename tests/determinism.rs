//! The bytes of an artifact depend on source, recipe and version alone: not on threads, memory, instruction set,
//! slicing, interruption, or how the source is cut into files.
#![expect(clippy::disallowed_methods, reason = "tests make and read their own files")]

mod support;

use silicast::io::lock::RunLock;
use silicast::io::output::OutputDir;
use silicast::kernel::Isa;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use support::binary::{Ran, command, convert_args, convert_with, finish, silicast, start};
use support::{inputs, tree};
use xtask::rng::SplitMix64;
use xtask::safetensors::{Order, Tensor, index_json, write_file};

/// Inputs with a target and scheme that need every kind of task: decoding blocks, requantizing, casting, copying,
/// converting scales.
const CASES: &[(&str, &str, &str)] = &[
    ("deepseek-v3", "ascend-910b", "W8A8_DYNAMIC"),
    ("ragged-192", "vllm", "FP8_BLOCK_UE8M0"),
    ("deepseek-v3-e8m0", "vllm", "BF16"),
    ("llama-f16", "metax-c500", "W8A8_CT"),
];

fn partial(out: &Path) -> PathBuf {
    out.with_extension("partial")
}

fn convert(isa: Isa, args: &[OsString]) -> Ran {
    finish(command(args).env("SILICAST_ISA", isa.name()))
}

fn finalize(out: &Path) -> Ran {
    silicast([OsStr::new("finalize"), out.as_os_str()])
}

#[test]
fn threads_memory_and_instruction_set_do_not_change_bytes() {
    let root = tempfile::tempdir().unwrap();
    for (fixture, target, scheme) in CASES {
        let source = inputs::fixture(root.path(), fixture);
        let mut digests = BTreeSet::new();
        // 512 threads share 64 MiB: tiles of 64 KiB.
        for (jobs, memory) in [("1", "64MiB"), ("2", "1GiB"), ("8", "64MiB"), ("8", "1GiB"), ("512", "64MiB")]
        {
            for isa in Isa::available() {
                let out = root.path().join("out");
                let args = convert_with(
                    &source,
                    &out,
                    target,
                    scheme,
                    &["--jobs", jobs, "--memory", memory, "--shard-size", "1MB"],
                );
                convert(isa, &args).expect(0);
                digests.insert(tree::digest(&out));
                fs::remove_dir_all(&out).unwrap();
            }
        }
        assert_eq!(digests.len(), 1, "{fixture} {target} {scheme}");
    }
}

/// Any prefix of the journal is a place to resume from, whatever the rest of the shard holds, and the second run may
/// cut tiles otherwise.
#[test]
fn a_run_resumed_anywhere_gives_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let mut rng = SplitMix64::new(11);
    for (fixture, target, scheme) in CASES {
        let source = inputs::fixture(root.path(), fixture);
        let (reference, out) = (root.path().join(format!("{fixture}-reference")), root.path().join("out"));
        silicast(convert_args(&source, &reference, target, scheme)).expect(0);
        for round in 0..6 {
            let run = |jobs: &str, isa: Isa| {
                convert(
                    isa,
                    &convert_with(
                        &source,
                        &out,
                        target,
                        scheme,
                        &["--slice", "1/1", "--memory", "64MiB", "--jobs", jobs, "--json"],
                    ),
                )
                .expect(0)
            };
            let isas = Isa::available();
            run(["512", "2"][round % 2], isas[round % isas.len()]);
            fs::remove_file(partial(&out).join("done.1-of-1.json")).unwrap();
            let path = partial(&out).join("journal.1-of-1.ndjson");
            let journal = fs::read(&path).unwrap();
            let ends: Vec<usize> = (1..=journal.len()).filter(|i| journal[i - 1] == b'\n').collect();
            let kept = rng.below(ends.len());
            // A torn line follows.
            let torn = rng.below(40).min(journal.len() - ends[kept]);
            fs::write(&path, &journal[..ends[kept] + torn]).unwrap();
            let report = run(["8", "512"][round % 2], isas[(round + 1) % isas.len()]).json();
            let (resumed, written) =
                (report["resumed_bytes"].as_u64().unwrap(), report["written_bytes"].as_u64().unwrap());
            assert_eq!(resumed > 0, kept > 0, "{fixture}: {kept} lines, {report}");
            assert_eq!(written > 0, kept + 1 < ends.len(), "{fixture}: {kept} lines, {report}");
            finalize(&out).expect(0);
            tree::assert_equal(&reference, &out);
            fs::remove_dir_all(&out).unwrap();
        }
    }
}

/// How the source is cut into shards shows in manifest and plan only.
#[test]
fn shards_of_the_source_do_not_change_the_engine_files() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3.1");
    let tensors = inputs::read_model(&source);
    let mut rng = SplitMix64::new(3);
    let mut artifacts = Vec::new();
    for shards in [1usize, 3, 7] {
        let copy = root.path().join(format!("source{shards}"));
        fs::create_dir(&copy).unwrap();
        for (name, bytes) in tree::files(&source) {
            if !name.contains("safetensors") {
                fs::write(copy.join(name), bytes).unwrap();
            }
        }
        let mut lists: BTreeMap<usize, Vec<&Tensor>> = BTreeMap::new();
        for tensor in tensors.values() {
            lists.entry(rng.below(shards)).or_default().push(tensor);
        }
        let mut map = BTreeMap::new();
        for (i, list) in &lists {
            let name = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
            write_file(&copy.join(&name), list, Order::Name).unwrap();
            map.extend(list.iter().map(|t| (t.info.name.clone(), name.clone())));
        }
        let total = tensors.values().map(|t| t.info.bytes()).sum();
        fs::write(copy.join("model.safetensors.index.json"), index_json(&map, total)).unwrap();
        let out = root.path().join(format!("out{shards}"));
        silicast(convert_args(&copy, &out, "ascend-910b", "W8A8_DYNAMIC")).expect(0);
        let mut files = tree::files(&out);
        files.retain(|name, _| !name.starts_with("silicast/"));
        artifacts.push(files);
    }
    assert!(artifacts.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Slices through the command line, in every order, with other threads and instruction sets each, two of them at a time.
#[test]
fn slices_in_any_order_give_the_bytes_of_one_run() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3");
    let reference = root.path().join("reference");
    silicast(convert_with(&source, &reference, "vllm", "FP8_BLOCK", &["--shard-size", "1MB"])).expect(0);
    let isas = Isa::available();
    for (round, order) in [[1, 2, 3], [3, 1, 2], [2, 3, 1], [3, 2, 1]].into_iter().enumerate() {
        let out = root.path().join(format!("out{round}"));
        let args = |i: usize| {
            let slice = format!("{i}/3");
            let jobs = ["1", "8", "2"][i - 1];
            convert_with(
                &source,
                &out,
                "vllm",
                "FP8_BLOCK",
                &["--shard-size", "1MB", "--slice", &slice, "--jobs", jobs],
            )
        };
        convert(isas[round % isas.len()], &args(order[0])).expect(0);
        finalize(&out).expect(4).says(&[&format!("slice {}/3", order[1].min(order[2])), "fix:"]);
        assert!(!out.exists());
        let mut together = start(args(order[1]));
        convert(isas[(round + 1) % isas.len()], &args(order[2])).expect(0);
        assert!(together.wait().unwrap().success());
        assert!(!out.exists());
        finalize(&out).expect(0);
        tree::assert_equal(&reference, &out);
        assert!(!partial(&out).exists());
    }
}

#[test]
fn foreign_slices_and_unsliced_runs_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-bf16");
    let out = root.path().join("out");
    let slice = |slice: &str, scheme: &str| convert_with(&source, &out, "vllm", scheme, &["--slice", slice]);
    silicast(slice("1/2", "W8A8")).expect(0);
    let before = tree::files(&partial(&out));
    silicast(slice("2/2", "FP8_DYNAMIC")).expect(2).says(&["other options", "out.partial"]);
    silicast(slice("2/3", "W8A8")).expect(2).says(&["another slicing"]);
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(2).says(&["another slicing"]);
    let kept = tree::files(&partial(&out));
    let work = |files: &BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
        files
            .iter()
            .filter(|(name, _)| !name.starts_with("lock"))
            .map(|(n, b)| (n.clone(), b.clone()))
            .collect()
    };
    assert_eq!(work(&before), work(&kept));
    assert!(!out.exists());
    silicast(slice("2/2", "W8A8")).expect(0);
    // A foreign file in the unfinished output is not published.
    fs::write(partial(&out).join("stray.bin"), b"x").unwrap();
    finalize(&out).expect(4).says(&["stray.bin"]);
    fs::remove_file(partial(&out).join("stray.bin")).unwrap();
    finalize(&out).expect(0);
    finalize(&out).expect(2);
    finalize(&root.path().join("nothing")).expect(5);
}

/// The second run on an output in work ends at once and names the output; the first is not disturbed.
#[test]
fn a_second_run_on_an_output_in_work_is_refused_at_once() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-bf16");
    let out = root.path().join("out");
    let (dir, _) = OutputDir::create_or_open(&partial(&out)).unwrap();
    let held = RunLock::exclusive(&dir).unwrap();
    for args in [
        convert_args(&source, &out, "vllm", "W8A8"),
        convert_with(&source, &out, "vllm", "W8A8", &["--restart"]),
        convert_with(&source, &out, "vllm", "W8A8", &["--slice", "1/2"]),
        vec!["finalize".into(), out.clone().into()],
    ] {
        silicast(args).expect(5).says(&["another run is already working", "out.partial", "fix:"]);
    }
    drop(held);
    let sliced = RunLock::slice(&dir, 1, 2).unwrap();
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(5);
    silicast(convert_with(&source, &out, "vllm", "W8A8", &["--slice", "1/2"])).expect(5).says(&["1-of-2"]);
    silicast(convert_with(&source, &out, "vllm", "W8A8", &["--slice", "2/2"])).expect(0);
    drop(sliced);
    silicast(convert_with(&source, &out, "vllm", "W8A8", &["--slice", "1/2"])).expect(0);
    finalize(&out).expect(0);
}

/// Many output shards, dealt to processes that run at the same time.
#[test]
fn slices_of_many_shards_run_side_by_side() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3.2");
    let args = |out: &Path, more: &[&str]| {
        let mut args = convert_with(&source, out, "ascend-910b", "W8A8_DYNAMIC", &["--shard-size", "300kB"]);
        args.extend(more.iter().map(OsString::from));
        args
    };
    let whole = root.path().join("whole");
    silicast(args(&whole, &[])).expect(0);
    let shards = tree::names(&whole).iter().filter(|n| n.ends_with(".safetensors")).count();
    assert!(shards > 8, "{shards} shards");
    for count in [2usize, 3, 5] {
        let out = root.path().join(format!("out{count}"));
        let written: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (1..=count)
                .map(|index| {
                    let args = args(
                        &out,
                        &["--json", "--slice", &format!("{index}/{count}"), "--jobs", &index.to_string()],
                    );
                    scope.spawn(move || silicast(args).expect(0).json()["written_bytes"].as_u64().unwrap())
                })
                .collect();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        assert!(written.iter().all(|bytes| *bytes > 0), "every slice has work: {written:?}");
        finalize(&out).expect(0);
        silicast([OsStr::new("verify"), out.as_os_str()]).expect(0);
        tree::assert_equal(&whole, &out);
    }
    // The tensors are those of the artifact with one shard.
    let single = root.path().join("single");
    silicast(convert_args(&source, &single, "ascend-910b", "W8A8_DYNAMIC")).expect(0);
    let data = |dir: &Path| -> BTreeMap<String, Vec<u8>> {
        inputs::read_model(dir).into_iter().map(|(name, t)| (name, t.data)).collect()
    };
    assert!(data(&whole) == data(&single));
}
