//! The reference kernels 1 to 11 and the grouped product of 18 against numpy, `ml_dtypes` and Python's integers:
//! `fixtures/oracle/kernels_gemm.py` computes every output again and compares bits.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests make their own files and panic to fail"
)]

#[path = "reference_gemm/cast_cases.rs"]
mod cast_cases;
#[path = "reference_gemm/data.rs"]
mod data;
#[path = "reference_gemm/errors.rs"]
mod errors;
#[path = "reference_gemm/gemm_cases.rs"]
mod gemm_cases;
mod support;

use silicast::kernel::reference::catalog;
use support::cases::Cases;
use support::oracle;

/// Kernels of other files.
const OTHERS: [&str; 12] = [
    "rmsnorm",
    "add_",
    "swiglu",
    "rope",
    "mla_",
    "sparse_",
    "indexer_",
    "moe_gate",
    "moe_combine",
    "lm_head",
    "kv_",
    "layout_",
];

fn check(fill: impl Fn(&mut Cases), belongs: impl Fn(&str) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Cases::new(dir.path());
    fill(&mut cases);
    let mut names = cases.finish();
    names.sort();
    names.dedup();
    let printed = oracle::run_script("kernels_gemm.py", &[dir.path().as_os_str()]);
    let mut checked: Vec<String> = printed
        .lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, cases, elements] = words[..] else { panic!("{line}") };
            assert!(cases.parse::<usize>().unwrap() >= 3, "{line}: too few cases");
            assert!(elements.parse::<usize>().unwrap() > 200, "{line}: too few elements");
            name.to_owned()
        })
        .collect();
    checked.sort();
    assert_eq!(checked, names);
    let mut listed: Vec<&str> = catalog::kernels().map(|k| k.name).collect();
    listed.retain(|name| !OTHERS.iter().any(|other| name.starts_with(other)) && belongs(name));
    listed.sort_unstable();
    assert_eq!(names, listed, "every kernel of the catalogue is tested");
}

fn is_product(name: &str) -> bool {
    name.contains("gemm")
}

#[test]
fn products_agree_with_the_oracle() {
    check(gemm_cases::all, is_product);
}

#[test]
fn conversions_agree_with_the_oracle() {
    check(cast_cases::all, |name| !is_product(name));
}
