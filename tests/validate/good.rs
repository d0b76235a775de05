//! Good artifacts: every fixture in every scheme, without a single finding.

use crate::seeds::{request, summary};
use crate::support::binary::{convert_args, convert_with, silicast};
use crate::support::inputs;
use silicast::report::model::{Report, Verdict};
use silicast::validate;
use std::path::Path;
use std::sync::Mutex;

/// Schemes of every engine dialect.
const CELLS: &[(&str, &str)] = &[
    ("ascend-910b", "W8A8_DYNAMIC"),
    ("ascend-910b", "FLOAT"),
    ("metax-c500", "W8A8"),
    ("vllm", "W8A8_CT"),
    ("vllm", "FP8_DYNAMIC"),
    ("vllm", "FP8_BLOCK"),
    ("vllm", "FP8_BLOCK_UE8M0"),
    ("vllm", "BF16"),
];

/// What is wrong with the report of a good artifact.
fn complaints(report: &Report) -> Vec<String> {
    let mut found: Vec<String> = report
        .checks
        .iter()
        .filter(|c| matches!(c.verdict, Verdict::Fail | Verdict::Warn))
        .map(summary)
        .collect();
    for row in &report.tensors {
        let sound = row.fate == "dropped"
            || row.max_abs.is_some() && row.wrong_codes == Some(0) && row.wrong_scales.unwrap_or(0) == 0;
        if !sound {
            found.push(format!("{}: {row:?}", row.name));
        }
        let exact = row.exactness.as_deref() == Some("bitwise");
        if exact && (row.sqnr_db.is_some() || row.max_abs != Some(0.0)) {
            found.push(format!("{} is bitwise and has losses", row.name));
        }
    }
    if report.verdict != Verdict::Pass || report.tensors.is_empty() {
        found.push("no passing report".to_owned());
    }
    found
}

fn check_fixture(root: &Path, fixture: &str) -> Vec<String> {
    let source = inputs::fixture(root, fixture);
    let mut found = Vec::new();
    for (target, scheme) in CELLS {
        let out = root.join(format!("{fixture}-{scheme}"));
        silicast(convert_args(&source, &out, target, scheme)).expect(0);
        let report = validate::run(&request(&out, Some(&source))).unwrap();
        found.extend(complaints(&report).into_iter().map(|c| format!("{fixture} {target} {scheme}: {c}")));
        // The same folder as somebody else's: no manifest, no plan.
        std::fs::remove_dir_all(out.join("silicast")).unwrap();
        let report = validate::run(&request(&out, Some(&source))).unwrap();
        let strangers = report.checks.iter().filter(|c| c.verdict == Verdict::Fail).map(summary);
        found.extend(strangers.map(|c| format!("{fixture} {target} {scheme} without manifest: {c}")));
        std::fs::remove_dir_all(&out).unwrap();
    }
    found
}

#[test]
fn good_artifacts_of_every_fixture_and_scheme_have_no_findings() {
    let root = tempfile::tempdir().unwrap();
    let queue = Mutex::new(xtask::fixtures::names().iter());
    let findings = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(8) {
            scope.spawn(|| {
                loop {
                    let Some(fixture) = queue.lock().unwrap().next() else { break };
                    let found = check_fixture(root.path(), fixture);
                    findings.lock().unwrap().extend(found);
                }
            });
        }
    });
    let findings = findings.into_inner().unwrap();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Values that no weight should have, kept on request: warned about where they stand, and no failure.
#[test]
fn kept_non_finite_values_are_warnings() {
    const UP: &str = "model.layers.1.mlp.experts.0.up_proj.weight";
    const NORM: &str = "model.layers.1.input_layernorm.weight";
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3.1");
    inputs::poke(&source, UP, 300, &[0x7F, 0xFF]);
    inputs::poke(&source, NORM, 4, &[0x80, 0x7F]);
    for scheme in ["W8A8", "W8A8_CT", "FP8_DYNAMIC", "FP8_BLOCK", "BF16"] {
        let out = root.path().join(scheme);
        let more = ["--nan", "keep", "--validate", "full"];
        silicast(convert_with(&source, &out, "vllm", scheme, &more)).expect(0);
        let report = validate::run(&request(&out, Some(&source))).unwrap();
        assert_eq!(report.verdict, Verdict::Pass, "{scheme}");
        let warned: Vec<&str> = report
            .checks
            .iter()
            .filter(|c| c.verdict == Verdict::Warn)
            .filter_map(|c| c.tensor.as_deref())
            .collect();
        assert_eq!(warned, [NORM, UP], "{scheme}");
        let row = report.tensors.iter().find(|t| t.name == UP).unwrap();
        assert_eq!((row.non_finite, row.wrong_codes), (Some(2), Some(0)), "{scheme}");
    }
}
