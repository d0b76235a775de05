//! Manifests and arrays that are wrong, by accident or by intent.

use crate::build::{Ran, run_in, sanitized};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A .npy of version 1.0 with that header dictionary.
fn npy(dictionary: &str, data: &[u8]) -> Vec<u8> {
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend(u16::try_from(dictionary.len()).unwrap().to_le_bytes());
    file.extend(dictionary.as_bytes());
    file.extend(data);
    file
}

fn header(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
}

/// A case that is right: the nibbles of two bytes.
fn case() -> Value {
    json!({
        "kernel": "layout_nibble_swap", "case": "two", "params": {},
        "inputs": {"x": {"file": "x.npy", "dtype": "U8", "shape": [2]}},
        "outputs": {"y": {"file": "y.npy", "dtype": "U8", "shape": [2]}}
    })
}

fn prepare(dir: &Path, case: &Value) {
    fs::write(dir.join("x.npy"), npy(&header("|u1", "(2,)"), &[0x12, 0xAB])).unwrap();
    fs::write(dir.join("y.npy"), npy(&header("|u1", "(2,)"), &[0x21, 0xBA])).unwrap();
    fs::write(dir.join("manifest.json"), json!({"schema_version": 1, "cases": [case]}).to_string()).unwrap();
}

fn run(dir: &Path) -> Ran {
    run_in(dir, sanitized(), &[])
}

#[track_caller]
fn expect(ran: &Ran, code: i32, text: &str) {
    let all = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, code, "{all}");
    assert!(all.contains(text), "{text:?} is missing\n{all}");
    assert!(!all.contains("Sanitizer") && !all.contains("runtime error"), "{all}");
}

#[test]
fn a_case_passes_fails_or_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path(), &case());
    expect(&run(dir.path()), 0, "ok layout_nibble_swap/two\n");
    fs::write(dir.path().join("y.npy"), npy(&header("|u1", "(2,)"), &[0x21, 0xBB])).unwrap();
    expect(
        &run(dir.path()),
        1,
        "FAIL layout_nibble_swap/two y[1]: got 0xBA (186), want 0xBB (187); 1 of 2 elements differ",
    );

    let mut unknown = case();
    unknown["kernel"] = "layout_of_tomorrow".into();
    prepare(dir.path(), &unknown);
    expect(&run(dir.path()), 1, "FAIL layout_of_tomorrow/two this program does not know the kernel");

    let mut pack = case();
    pack["kernel"] = "layout_pack_i32".into();
    prepare(dir.path(), &pack);
    expect(&run(dir.path()), 1, "FAIL layout_pack_i32/two an argument has a format");
    for (kernel, text) in
        [("gemm_fp8_block", "an argument is missing"), ("moe_gate", "an argument is missing")]
    {
        pack["kernel"] = kernel.into();
        prepare(dir.path(), &pack);
        expect(&run(dir.path()), 1, text);
    }
}

#[test]
fn results_are_written_for_machines() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = case();
    bad["case"] = "<\"&".into();
    prepare(dir.path(), &bad);
    fs::write(dir.path().join("y.npy"), npy(&header("|u1", "(2,)"), &[0, 0])).unwrap();
    let ran = run_in(dir.path(), sanitized(), &["--junit", "j.xml", "--json", "r.json"]);
    assert_eq!(ran.code, 1);
    let results: Value = serde_json::from_slice(&fs::read(dir.path().join("r.json")).unwrap()).unwrap();
    assert_eq!(results["results"][0]["case"], "<\"&");
    assert_eq!(results["results"][0]["status"], "fail");
    assert_eq!((&results["ok"], &results["failed"]), (&json!(0), &json!(1)));
    let junit = fs::read_to_string(dir.path().join("j.xml")).unwrap();
    assert!(junit.contains("<testsuite name=\"kernels.c\" tests=\"1\" failures=\"1\">"), "{junit}");
    assert!(
        junit.contains(
            "classname=\"layout_nibble_swap\" name=\"&#60;&#34;&#38;\"><failure message=\"y[0]: got 0x21"
        ),
        "{junit}"
    );
    assert_eq!(run_in(dir.path(), sanitized(), &["--junit", "no/such/folder.xml"]).code, 2);
    assert_eq!(run_in(dir.path(), sanitized(), &["--case", "gemm_w8a8"]).code, 2);
}

#[test]
fn hostile_arrays_are_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    let good = npy(&header("|u1", "(2,)"), &[0x12, 0xAB]);
    let mut files: Vec<Vec<u8>> = (0..good.len()).step_by(3).map(|n| good[..n].to_vec()).collect();
    files.push([&good[..], &[0]].concat());
    for (at, byte) in [(0, 0), (6, 9), (8, 0xFF), (9, 0xFF)] {
        let mut file = good.clone();
        file[at] = byte;
        files.push(file);
    }
    for (descr, shape) in [
        ("<u4", "(2,)"),
        ("|O", "(2,)"),
        ("|u1", "(3,)"),
        ("|u1", "(-2,)"),
        ("|u1", "(2,,)"),
        ("|u1", "2"),
        ("|u1", "(18446744073709551617,)"),
        ("|u1", "(4611686018427387904, 4)"),
        ("|u1", "(65536, 65536, 65536, 65536)"),
        ("|u1", "(0, 99999999999999999999)"),
        ("|u1", "(1, 1, 1, 1, 1, 1, 1, 1, 1, 2)"),
        ("|u1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "(2,)"),
    ] {
        files.push(npy(&header(descr, shape), &[0x12, 0xAB]));
    }
    for dictionary in [
        "",
        "{",
        "{}",
        "{'descr': '|u1'",
        "{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '|u1', 'fortran_order': True, 'shape': (2,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2,)} x",
    ] {
        files.push(npy(dictionary, &[0x12, 0xAB]));
    }
    for file in &files {
        prepare(dir.path(), &case());
        fs::write(dir.path().join("x.npy"), file).unwrap();
        expect(&run(dir.path()), 2, "FAIL layout_nibble_swap/two x: it");
    }
    // As a dump, too.
    prepare(dir.path(), &case());
    for file in &files {
        fs::write(dir.path().join("dump.npy"), file).unwrap();
        let ran =
            run_in(dir.path(), sanitized(), &["--compare", "dump.npy", "--case", "layout_nibble_swap/two"]);
        expect(&ran, 2, "dump.npy: it");
    }
    fs::write(dir.path().join("dump.npy"), &good).unwrap();
    expect(
        &run_in(dir.path(), sanitized(), &["--compare", "dump.npy", "--case", "layout_nibble_swap/two"]),
        1,
        "first_mismatch [0]",
    );
}

#[test]
fn hostile_manifests_are_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path(), &case());
    let good = fs::read(dir.path().join("manifest.json")).unwrap();
    let mut texts: Vec<Vec<u8>> = (0..good.len()).step_by(3).map(|n| good[..n].to_vec()).collect();
    for text in [
        "[]",
        "{\"cases\": {}}",
        "{\"cases\": []}",
        "{\"cases\": [1]}",
        "{\"cases\": [], \"cases\": []}",
        "{\"cases\": [],}",
        "{\"cases\": []} x",
        "{\"cases\": [\"\\ud800\"]}",
        "{\"cases\": [\"\\u12\"]}",
        "{\"cases\": [\"\\q\"]}",
        "{\"cases\": [\"a\nb\"]}",
        "{\"cases\": [\"\\u0000\"]}",
        "{\"cases\": [01]}",
        "{\"cases\": [1.]}",
        "{\"cases\": [1e]}",
        "{\"cases\": [-]}",
        "{\"cases\": [nul]}",
        "{\"cases\": [NaN]}",
    ] {
        texts.push(text.as_bytes().to_vec());
    }
    texts.push([vec![b'['; 1_000_000], vec![b']'; 1_000_000]].concat());
    texts.push(b"{\"a\":".repeat(100_000));
    // Names are compared with each other.
    let members: Vec<String> = (0..200_000).map(|i| format!("\"{i}\":0")).collect();
    texts.push(format!("{{{}}}", members.join(",")).into_bytes());
    texts.push(format!("{{\"cases\": [{}]}}", "1".repeat(1000)).into_bytes());
    for text in &texts {
        fs::write(dir.path().join("manifest.json"), text).unwrap();
        let ran = run(dir.path());
        assert_eq!(
            ran.code,
            2,
            "{}\n{}{}",
            String::from_utf8_lossy(&text[..text.len().min(80)]),
            ran.stdout,
            ran.stderr
        );
        expect(&ran, 2, "");
    }
    fs::remove_file(dir.path().join("manifest.json")).unwrap();
    expect(&run(dir.path()), 2, "it cannot be read");
}

#[test]
fn cases_that_lie_are_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    for (pointer, value) in [
        ("/inputs/x/file", json!("../x.npy")),
        ("/inputs/x/file", json!("a/../x.npy")),
        ("/inputs/x/file", json!("/etc/passwd")),
        ("/inputs/x/file", json!("")),
        ("/inputs/x/file", json!("no.npy")),
        ("/inputs/x/file", json!(1)),
        ("/inputs/x/file", json!("a".repeat(5000))),
        ("/inputs/x/dtype", json!("F32")),
        ("/inputs/x/dtype", json!("F9")),
        ("/inputs/x/dtype", json!(null)),
        ("/inputs/x/shape", json!([3])),
        ("/inputs/x/shape", json!([2, 1])),
        ("/inputs/x/shape", json!([])),
        ("/inputs/x/shape", json!([2.0])),
        ("/inputs/x/shape", json!([-2])),
        ("/inputs/x/shape", json!([1e300])),
        ("/inputs/x/shape", json!("2")),
        ("/outputs/y/shape", json!([4])),
        ("/outputs", json!({})),
        ("/outputs", json!([])),
        ("/inputs", json!(null)),
    ] {
        let mut lie = case();
        *lie.pointer_mut(pointer).unwrap() = value;
        prepare(dir.path(), &lie);
        expect(&run(dir.path()), 2, "FAIL layout_nibble_swap/two ");
    }
    let mut many = case();
    for i in 0..40 {
        many["inputs"][format!("x{i}")] = many["inputs"]["x"].clone();
    }
    prepare(dir.path(), &many);
    expect(&run(dir.path()), 2, "too many arguments");
}
