//! `silicast check` raises nothing on what silicast writes and on releases as they ship.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests make their own files and panic to fail"
)]

mod support;

use silicast::targets::Target;
use silicast::validate::contract;
use std::path::Path;
use support::model::artifact;

/// What a fixture is known to break, whatever is made of it. q_a_proj of ragged-192 has 192 rows, which vLLM refuses in
/// 128x128 blocks; that is what the fixture is for.
fn known(fixture: &str, scheme: &str) -> &'static [&'static str] {
    match (fixture, scheme) {
        ("ragged-192", "" | "FP8_BLOCK" | "FP8_BLOCK_UE8M0") => &["fused-unaligned"],
        ("deepseek-v3-e8m0" | "deepseek-v3-u8", "") => &["scale-storage"],
        _ => &[],
    }
}

const MATRIX: &[(&str, &str)] = &[
    ("ascend-910b", "W8A8_DYNAMIC"),
    ("ascend-910b", "FLOAT"),
    ("ascend-910c", "W8A8_DYNAMIC"),
    ("ascend-910c", "FLOAT"),
    ("metax-c500", "W8A8"),
    ("metax-c500", "W8A8_CT"),
    ("metax-c500", "BF16"),
    ("hygon-bw1000", "W8A8"),
    ("hygon-k100ai", "W8A8"),
    ("vllm", "W8A8"),
    ("vllm", "W8A8_CT"),
    ("vllm", "FP8_DYNAMIC"),
    ("vllm", "FP8_BLOCK"),
    ("vllm", "FP8_BLOCK_UE8M0"),
    ("vllm", "BF16"),
];

/// Findings of artifacts in `dir` for `target`, and as inferred, that are not `known`.
fn surprises(label: &str, dir: &Path, target: Option<&str>, known: &[&str]) -> Vec<String> {
    let target = target.map(|t| Target::find(t).unwrap());
    let asked = contract::check(dir, target, target.is_none().then_some("vllm")).unwrap();
    let inferred = contract::check(dir, None, None).unwrap();
    let ascend = target.is_some_and(|t| t.id.starts_with("ascend"));
    assert_eq!(inferred.engine, if ascend { "vllm-ascend" } else { "vllm" }, "{label}");
    let findings = asked.findings.iter().chain(&inferred.findings).filter(|f| !known.contains(&f.id));
    findings.map(|f| format!("{label}: {} {:?} {:?} {}", f.id, f.file, f.tensor, f.found)).collect()
}

fn matrix(fixtures: &[&str]) {
    let mut failures = Vec::new();
    for fixture in fixtures {
        let (_keep, src) = artifact(fixture, None, &[]);
        failures.extend(surprises(fixture, &src, None, known(fixture, "")));
        for (target, scheme) in MATRIX {
            let (_keep, out) = artifact(fixture, Some((target, scheme)), &[]);
            let label = format!("{fixture} {target} {scheme}");
            failures.extend(surprises(&label, &out, Some(target), known(fixture, scheme)));
        }
    }
    assert!(failures.is_empty(), "{}\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn known_good_artifacts_raise_nothing_first_half() {
    let names = xtask::fixtures::names();
    matrix(&names[..names.len() / 2]);
}

#[test]
fn known_good_artifacts_raise_nothing_second_half() {
    let names = xtask::fixtures::names();
    matrix(&names[names.len() / 2..]);
}

/// What shipped releases of the newest families become; schemes whose method `check` holds to rules.
const SHIPPED: &[(&str, &str)] = &[
    ("ascend-910b", "W8A8_DYNAMIC"),
    ("ascend-910b", "W4A8_DYNAMIC"),
    ("ascend-950", "W4A8_MXFP"),
    ("metax-c500", "W4A8"),
    ("mthreads-s5000", "FP8_BLOCK"),
    ("vllm", "W4A16"),
    ("vllm", "MXFP8"),
    ("vllm", "NVFP4A16"),
    ("vllm", "BF16"),
];

/// What a shipped fixture is known to raise. Biases of gpt-oss are BF16 where vllm-ascend stores F32: a fault of the
/// conversion, not of the rule. The released ignore list of Kimi-K3 is not known. MiniMax-M3 has indexers in some layers,
/// which its configuration does not list.
fn known_of_shipped(fixture: &str, cell: Option<(&str, &str)>) -> &'static [&'static str] {
    match (fixture, cell) {
        ("gpt-oss", Some((target, _))) if target.starts_with("ascend") => &["bias-dtype"],
        ("kimi-k3", None) => &["weight-not-quantized"],
        ("minimax-m3-mxfp8", None) => &["tensor-missing-maybe", "method-unchecked"],
        ("minimax-m3-mxfp8", _) => &["tensor-missing-maybe"],
        // Exponent bytes are what V4 ships and its engines read.
        (f, _) if f.starts_with("deepseek-v4") => &["scale-storage"],
        (_, None) => &["method-unchecked"],
        _ => &[],
    }
}

#[test]
fn shipped_families_raise_nothing() {
    let mut failures = Vec::new();
    for fixture in xtask::fixtures::shipped_names() {
        let (_keep, src) = artifact(fixture, None, &[]);
        let cells = std::iter::once(None).chain(SHIPPED.iter().copied().map(Some));
        for cell in cells {
            let (_keep, out) = match cell {
                None => (None, src.clone()),
                Some(cell) => {
                    let (keep, out) = artifact(fixture, Some(cell), &[]);
                    (Some(keep), out)
                }
            };
            let target = cell.map(|(t, _)| Target::find(t).unwrap());
            let report = contract::check(&out, target, cell.is_none().then_some("vllm")).unwrap();
            let known = known_of_shipped(fixture, cell);
            let findings = report.findings.iter().filter(|f| !known.contains(&f.id));
            failures
                .extend(findings.map(|f| format!("{fixture} {cell:?}: {} {:?} {}", f.id, f.tensor, f.found)));
        }
    }
    assert!(failures.is_empty(), "{}\n{}", failures.len(), failures.join("\n"));
}

fn left_in_float(fixtures: &[&str], schemes: &[(&str, &str)]) {
    let patterns: [&[&str]; 3] =
        [&["--ignore", "*.self_attn.*"], &["--ignore", "model.layers.1.mlp.*"], &["--include", "*.mlp.*"]];
    let mut failures = Vec::new();
    for fixture in fixtures {
        for (target, scheme) in schemes {
            for more in patterns {
                let (_keep, out) = artifact(fixture, Some((target, scheme)), more);
                let label = format!("{fixture} {target} {scheme} {}", more.join(" "));
                failures.extend(surprises(&label, &out, Some(target), &[]));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_a_recipe_leaves_in_float_is_no_finding() {
    left_in_float(
        &["deepseek-v3", "qwen3-fp8"],
        &[("ascend-910b", "W8A8_DYNAMIC"), ("vllm", "W8A8"), ("vllm", "FP8_DYNAMIC")],
    );
    left_in_float(
        &["llama-bf16"],
        &[("ascend-910b", "W8A8_DYNAMIC"), ("vllm", "W8A8"), ("vllm", "FP8_BLOCK")],
    );
}

#[test]
fn what_a_recipe_leaves_in_float_of_a_native_source_is_listed() {
    left_in_float(&["deepseek-v3", "qwen3-fp8"], &[("vllm", "FP8_BLOCK"), ("vllm", "FP8_BLOCK_UE8M0")]);
}
