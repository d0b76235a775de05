//! Golden sets in artifacts: tier T0.

use crate::seeds::{Lab, assert_found, copy_folder, request, reseal};
use silicast::report::Report;
use silicast::report::model::{KernelRow, Level, Verdict};
use silicast::validate::{Request, run};
use std::fs;
use std::path::Path;

#[test]
fn golden_sets_that_the_kernels_do_not_give() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "FP8_BLOCK", |_| {});
    let at_kernels = |dir: &Path| {
        let request = Request { level: Some(Level::Kernel), ..request(dir, Some(&lab.source)) };
        run(&request).unwrap()
    };
    let good = at_kernels(&lab.artifact);
    let golden = |report: &Report| -> Vec<KernelRow> {
        report.kernels.iter().filter(|r| r.tier == "T0").cloned().collect()
    };
    assert_eq!(good.verdict, Verdict::Pass);
    assert!(golden(&good).len() > 5, "{:?}", golden(&good));
    assert!(
        golden(&good).iter().all(|r| r.verdict == Some(Verdict::Pass) && r.metrics.calc_diff == Some(0.0))
    );

    let damaged = |damage: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        copy_folder(&lab.artifact, &copy);
        damage(&copy.join("silicast/kernels"));
        reseal(&copy);
        at_kernels(&copy)
    };
    // One bit of one result, one bit of one scale, a file that is cut off, no list of cases.
    let result = "golden/gemm_fp8_block.gaussian.C.npy";
    let report = damaged(&|kernels| flip(&kernels.join(result)));
    assert_found(&report, "kernel-golden", "gemm_fp8_block/gaussian:C", &["another at"]);
    let failed: Vec<_> = golden(&report).into_iter().filter(|r| r.verdict == Some(Verdict::Fail)).collect();
    assert!(failed.iter().all(|r| r.id == "gemm_fp8_block" && r.metrics.first_bad.is_some()), "{failed:?}");
    let report = damaged(&|kernels| flip(&kernels.join("golden/gemm_fp8_block.gaussian.sb.npy")));
    assert_found(&report, "kernel-golden", "gemm_fp8_block/gaussian:C", &["another at"]);
    let report = damaged(&|kernels| fs::write(kernels.join(result), b"\x93NUMPY").unwrap());
    assert_found(&report, "kernel-golden", "gemm_fp8_block/gaussian", &["cannot be run"]);
    let report = damaged(&|kernels| fs::write(kernels.join("manifest.json"), b"{}").unwrap());
    assert_eq!(report.verdict, Verdict::Fail);
}

/// Changes the lowest bit of the last byte but two: the mantissa of a binary32.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - 3;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}
