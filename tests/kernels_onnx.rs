//! The ONNX graphs of a pack in onnxruntime and onnx.reference, byte for byte against the golden outputs.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may open files and fail")]
#![allow(clippy::print_stdout, reason = "how many graphs ran, and where, is a result")]

mod support;

use serde_json::{Map, json};
use silicast::dtype::Dtype;
use silicast::kernel::emit;
use silicast::kernel::reference::array::{Array, Arrays};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use support::oracle::run_script;

/// Every graph passes the checker and gives the golden bytes in onnxruntime, unoptimized and fully optimized, and in
/// onnx.reference.
#[test]
fn graphs_give_the_golden_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let pack = emit::pack(&|_| true, &[]).unwrap();
    let mut bytes = 0;
    for file in &pack {
        let path = folder.path().join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &file.bytes).unwrap();
        if file.path.starts_with("onnx/") {
            bytes += file.bytes.len();
        }
    }
    // Cases of the same shapes and parameters share a file.
    let mut graphs: BTreeMap<String, usize> = BTreeMap::new();
    for case in manifest(folder.path())["cases"].as_array().unwrap() {
        if case.get("onnx").is_some() {
            *graphs.entry(case["kernel"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(bytes < 4 << 20, "{bytes} bytes of graphs");
    for kernel in [
        "gemm_fp8_block",
        "gemm_fp8_token_channel",
        "gemm_w8a8",
        "gemm_mxfp8",
        "gemm_mxfp4",
        "gemm_fp8_mxfp4",
        "gemm_nvfp4",
        "dequant_fp8_block",
        "quant_ds_fp8_ue8m0",
        "quant_nvfp4",
    ] {
        assert!(graphs.get(kernel).is_some_and(|n| *n >= 3), "{kernel} has too few graphs: {graphs:?}");
    }
    let midpoints = add_midpoints(folder.path());
    let printed = run_script("kernels_onnx.py", &[folder.path().as_os_str()]);
    println!("{bytes} bytes\n{printed}");
    let total = graphs.values().sum::<usize>() + midpoints;
    assert!(printed.contains(&format!("{total} cases in ")), "{total} cases: {printed}");
    assert!(printed.contains(" graphs, 0 differences"), "{printed}");
}

fn manifest(folder: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap()
}

/// Adds cases to the pack whose exact sums are a little above and below a midpoint of two FLOAT values, by less than DOUBLE
/// holds: a graph that rounds its sums to DOUBLE first gets them wrong. Their number.
fn add_midpoints(folder: &Path) -> usize {
    use Dtype::{F8E4M3, F8E5M2};
    // Largest codes, a code, a tiny one of either sign, zeros up to 32.
    let row =
        |largest: &[u8], then: u8, tiny: u8| [largest, &[then, tiny], &vec![0; 30 - largest.len()]].concat();
    // E5M2: 2^12·2^12 + 1·1 ± 2^-16·2^-16 is midway between 2^24 and 2^24 + 2, and 2^-32 off.
    let both = |tiny| row(&[0x6c], 0x3c, tiny);
    // 29·448·57344 + 1·32 ± 2^-9·2^-16 is midway between two multiples of 64, and 2^-25 off.
    let e4m3 = |tiny| row(&[0x7e; 29], 0x38, tiny);
    let e5m2 = |tiny| row(&[0x7b; 29], 0x50, tiny);
    let large = 29.0 * 448.0 * 57344.0;
    let cases = [
        ("both", F8E5M2, both(1), F8E5M2, [both(1), both(0x81)], [16_777_218.0f32, 16_777_216.0]),
        ("left", F8E5M2, e5m2(1), F8E4M3, [e4m3(1), e4m3(0x81)], [large + 64.0, large]),
        ("right", F8E4M3, e4m3(1), F8E5M2, [e5m2(1), e5m2(0x81)], [large + 64.0, large]),
    ];
    let mut manifest = manifest(folder);
    let count = cases.len();
    for (name, a_dtype, a, b_dtype, b, expected) in cases {
        let scales = |rows: usize| Array::new(Dtype::F8E8M0, [rows, 1], vec![127; rows]);
        let inputs = Arrays::from([
            ("A".to_owned(), Array::new(a_dtype, [1, 32], a)),
            ("sa".to_owned(), scales(1)),
            ("B".to_owned(), Array::new(b_dtype, [2, 32], b.concat())),
            ("sb".to_owned(), scales(2)),
        ]);
        let outputs = Arrays::from([("C".to_owned(), Array::from_f32([1, 2], &expected))]);
        let graph = emit::onnx::graph("gemm_mxfp8", &Map::new(), &inputs, &outputs).unwrap().unwrap();
        fs::write(folder.join(format!("onnx/midpoint-{name}.onnx")), graph).unwrap();
        let entries = |arrays: &Arrays| -> Map<String, serde_json::Value> {
            let entry = |(arg, array): (&String, &Array)| {
                let file = format!("golden/midpoint-{name}.{arg}.npy");
                fs::write(folder.join(&file), emit::npy::write(array)).unwrap();
                (arg.clone(), json!({"file": file, "dtype": array.dtype.golden_name(), "shape": array.shape}))
            };
            arrays.iter().map(entry).collect()
        };
        manifest["cases"].as_array_mut().unwrap().push(json!({
            "kernel": "gemm_mxfp8", "case": format!("midpoint-{name}"), "class": "midpoint", "params": {},
            "inputs": entries(&inputs), "outputs": entries(&outputs), "onnx": format!("onnx/midpoint-{name}.onnx"),
        }));
    }
    fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    count
}
