//! The ONNX graphs of a pack in onnxruntime and onnx.reference, byte for byte against the golden outputs.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may open files and fail")]

mod support;

use silicast::kernel::emit;
use std::collections::BTreeMap;
use std::fs;
use support::oracle::run_script;

/// Every graph passes the checker and gives the golden bytes in onnxruntime, unoptimized and fully optimized, and in
/// onnx.reference.
#[test]
fn graphs_give_the_golden_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let pack = emit::pack(&|_| true, &[]).unwrap();
    let mut bytes = 0;
    let mut graphs: BTreeMap<&str, usize> = BTreeMap::new();
    for file in &pack {
        let path = folder.path().join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &file.bytes).unwrap();
        if let Some(name) = file.path.strip_prefix("onnx/") {
            bytes += file.bytes.len();
            *graphs.entry(name.split('.').next().unwrap()).or_default() += 1;
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
    if let Some(keep) = std::env::var_os("KEEP_PACK") {
        let _ = fs::remove_dir_all(&keep);
        fs::rename(folder.path(), keep).unwrap();
        return;
    }
    let printed = run_script("kernels_onnx.py", &[folder.path().as_os_str()]);
    println!("{bytes} bytes\n{printed}");
    let total: usize = graphs.values().sum();
    assert!(printed.contains(&format!("{total} graphs, 0 differences")), "{printed}");
}
