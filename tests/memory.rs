//! `--memory` is a contract: peak memory stays below the budget plus 128 MiB, whatever the size of model and tensors.
#![expect(clippy::print_stderr, reason = "peaks are worth a line of the test log")]
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and remove their own files")]

mod support;

use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::binary::{convert_with, silicast};
use support::inputs::Llama;
use xtask::safetensors::{Dtype, Info, Order, head, pretty};

const BUDGET: u64 = 64 << 20;
const OVERHEAD: u64 = 128 << 20;

/// Converts under the budget; checks what the run reports against the contract and against what `plan` promised.
fn check(source: &Path, out: &Path, target: &str, scheme: &str, jobs: &str) {
    let run = |verb: &str, more: &[&str]| {
        let mut args = convert_with(source, out, target, scheme, more);
        if verb == "plan" {
            args.drain(2..4);
        }
        args[0] = verb.into();
        args.extend(["--memory", "64MiB", "--json"].map(OsString::from));
        silicast(&args).expect(0).json()
    };
    let plan = run("plan", &[]);
    let promised = plan["peak_memory_bytes"].as_u64().unwrap();
    assert!(promised <= BUDGET + OVERHEAD, "{promised}");
    assert!(
        plan["source"]["bytes"].as_u64().unwrap() >= 10 * BUDGET,
        "the input is too small to show anything"
    );
    let report = run("convert", &["--jobs", jobs]);
    let peak = report["peak_rss_bytes"].as_u64().unwrap();
    eprintln!(
        "{target} {scheme} --jobs {jobs}: peak {} MiB of {} MiB",
        peak >> 20,
        (BUDGET + OVERHEAD) >> 20
    );
    assert!(peak > 1 << 20 && peak <= BUDGET + OVERHEAD, "{peak} bytes with {jobs} threads");
    let inspect = silicast([OsStr::new("inspect"), source.as_os_str(), OsStr::new("--json")]).expect(0);
    assert!(inspect.json()["bytes"].as_u64().unwrap() >= 10 * BUDGET);
    fs::remove_dir_all(out).unwrap();
}

#[test]
fn a_model_of_ten_times_the_budget() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source");
    Llama { hidden: 2048, inter: 5632, layers: 6, vocab: 16_000 }.write_sparse(&source, 3);
    check(&source, &root.path().join("out"), "metax-c500", "W8A8", "2");
}

/// One FP8 weight of eleven times the budget, decoded and requantized; its scales alone have 2,800 rows.
#[test]
fn a_single_tensor_of_eleven_times_the_budget() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source");
    fs::create_dir(&source).unwrap();
    let (rows, cols) = (360_448, 2048);
    let name = "model.layers.0.mlp.down_proj";
    let mut infos = [
        Info { name: format!("{name}.weight"), dtype: Dtype::F8E4m3, shape: vec![rows, cols] },
        Info {
            name: format!("{name}.weight_scale_inv"),
            dtype: Dtype::F32,
            shape: vec![rows / 128, cols / 128],
        },
    ];
    let (head, payload) = head(&mut infos, Order::Dtype);
    let file = fs::File::create(source.join("model.safetensors")).unwrap();
    file.write_all_at(&head, 0).unwrap();
    file.set_len(head.len() as u64 + payload).unwrap();
    let scales: Vec<u8> = (0..infos[0].bytes() / 4).flat_map(|_| 0.01f32.to_le_bytes()).collect();
    file.write_all_at(&scales, head.len() as u64).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128],
        },
    });
    fs::write(source.join("config.json"), pretty(&config)).unwrap();
    check(&source, &root.path().join("out"), "ascend-910b", "W8A8_DYNAMIC", "32");
}
