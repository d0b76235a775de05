//! Plans of real releases of 640 GiB and more, from their headers alone: sparse files, no data.

use crate::support::binary::silicast;
use serde_json::Value;
use std::path::Path;

fn json(args: &[&str]) -> Value {
    silicast(args.iter().chain(&["--json"])).expect(0).json()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Tensors and bytes that `plan` and `inspect` find, and the plan.
fn check(dir: &Path, name: &str, target: &str, scheme: &str, files: u64) -> (u64, u64, Value) {
    let source = dir.join(name);
    if !source.exists() {
        xtask::fixtures::write_giant(name, &source).unwrap();
    }
    let source = source.to_str().unwrap();
    let inspect = json(&["inspect", source]);
    let mut plan = json(&["plan", source, "--target", target, "--scheme", scheme]);
    assert_eq!(
        (&inspect["tensors"], &inspect["bytes"]),
        (&plan["source"]["tensors"], &plan["source"]["bytes"])
    );
    assert_eq!(plan["source"]["files"], files);
    let fates: u64 = plan["fates"].as_object().unwrap().values().map(number).sum();
    assert_eq!(fates, number(&inspect["tensors"]));
    let Value::Array(entries) = plan["entries"].take() else { panic!() };
    assert_eq!(entries.iter().map(|e| number(&e["bytes"])).sum::<u64>(), number(&plan["output"]["bytes"]));
    let shards = plan["output"]["files"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["path"].as_str().unwrap().ends_with(".safetensors"));
    let (mut count, mut largest) = (0, 0);
    for shard in shards {
        count += 1;
        largest = largest.max(number(&shard["bytes"]));
    }
    assert!(
        count as u64 > number(&plan["output"]["bytes"]) >> 33 && largest < (4 << 30) + (16 << 20),
        "{count} shards up to {largest}"
    );
    assert!(number(&plan["peak_memory_bytes"]) <= (1 << 30) + (128 << 20));
    (number(&inspect["tensors"]), number(&inspect["bytes"]), plan)
}

#[test]
fn deepseek_v3_has_the_published_counts_and_bytes() {
    let root = tempfile::tempdir().unwrap();
    let published = (91_991, 688_574_839_360);
    // Native blocks pass through: every tensor is kept, every byte read and written once.
    let (tensors, bytes, plan) = check(root.path(), "deepseek-v3", "vllm", "FP8_BLOCK", 163);
    assert_eq!((tensors, bytes), published);
    assert_eq!(number(&plan["fates"]["kept"]), 91_991);
    assert_eq!((number(&plan["output"]["bytes"]), number(&plan["read_bytes"])), (bytes, bytes));
    // In BF16: 680,571,043,840 codes of two bytes, the BF16 tensors, and 59 score corrections of 256 F32.
    let (.., plan) = check(root.path(), "deepseek-v3", "ascend-910b", "FLOAT", 163);
    assert_eq!(number(&plan["output"]["bytes"]), 2 * 680_571_043_840 + 7_837_573_120 + 59 * 1024);
    assert_eq!((number(&plan["fates"]["reencoded"]), number(&plan["fates"]["kept"])), (2 * 45_808, 316 + 59));
    // In INT8 all but the 62 kv_b projections are quantized.
    let (.., plan) = check(root.path(), "deepseek-v3", "ascend-910b", "W8A8_DYNAMIC", 163);
    assert_eq!(number(&plan["fates"]["quantized"]), 2 * (45_808 - 62));
    assert_eq!(number(&plan["fates"]["reencoded"]), 2 * 62);
}

#[test]
fn deepseek_v3_2_and_kimi_k2_have_the_published_counts_and_bytes() {
    let root = tempfile::tempdir().unwrap();
    let (tensors, bytes, _) = check(root.path(), "deepseek-v3.2", "metax-c500", "W8A8", 163);
    assert_eq!((tensors, bytes), (92_425, 689_471_107_200));
    let (tensors, bytes, plan) = check(root.path(), "kimi-k2", "vllm", "FP8_BLOCK_UE8M0", 61);
    assert_eq!(
        (tensors, format!("{:.2}", bytes as f64 / f64::from(1 << 30))),
        (139_644, "958.49".to_owned())
    );
    // The rotary table of every layer is dropped.
    assert_eq!(number(&plan["fates"]["dropped"]), 61);
}
