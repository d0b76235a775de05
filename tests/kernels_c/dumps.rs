//! `--compare`: metrics of a dump, in every format that a dump may have.

use crate::build::{Ran, fast, pack, run_in, sanitized};
use crate::support::oracle::run_script;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// A product with BF16 results.
const CASE: &str = "gemm_fp8_block/gaussian-bf16";

/// Splits a .npy of version 1.0 into header and data.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]])))
}

/// The golden file of an argument of a case; equal arrays share one.
fn golden(case: &str, arg: &str) -> PathBuf {
    let manifest: Value = serde_json::from_slice(&fs::read(pack().join("manifest.json")).unwrap()).unwrap();
    let (kernel, name) = case.split_once('/').unwrap();
    let mut cases = manifest["cases"].as_array().unwrap().iter();
    let entry = cases.find(|c| c["kernel"] == kernel && c["case"] == name).unwrap();
    let of = |kind: &str| entry[kind][arg]["file"].as_str();
    pack().join(of("inputs").or_else(|| of("outputs")).unwrap())
}

fn compare(file: &Path, case: &str) -> Ran {
    run_in(pack(), sanitized(), &["--compare", file.to_str().unwrap(), "--case", case])
}

fn lines(text: &str) -> BTreeMap<String, Vec<f64>> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(' ')?;
            let values: Option<Vec<f64>> = rest.split(' ').map(|v| v.parse().ok()).collect();
            Some((name.to_owned(), values?))
        })
        .collect()
}

/// Changes every seventh element of a golden file by one unit in its last place and checks the metrics against NumPy.
fn perturbed(case: &str, output: &str, item: usize, dtype: &str) {
    let golden = golden(case, output);
    let case = format!("{case}:{output}");
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(&golden).unwrap();
    let (header, data) = split(&bytes);
    let mut data = data.to_vec();
    for at in (3..data.len() / item).step_by(7) {
        // The neighbour of ±448 is a NaN.
        if item != 1 || data[at] & 0x7F != 0x7E {
            data[at * item] ^= 1;
        }
    }
    let dump = dir.path().join("dump.npy");
    fs::write(&dump, [header, &data].concat()).unwrap();

    let ran = compare(&dump, &case);
    assert_eq!(ran.code, 1, "{case}\n{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("first_mismatch [0,3] got 0x"), "{}", ran.stdout);
    let got = lines(&ran.stdout);
    let args: [&OsStr; 3] = [dump.as_ref(), golden.as_ref(), dtype.as_ref()];
    let want = lines(&run_script("compare_metrics.py", &args));
    assert!(want.len() >= 15);
    for (name, want) in want {
        let got = &got[&name];
        assert_eq!(got.len(), want.len(), "{name}");
        for (got, want) in got.iter().zip(&want) {
            // NumPy's difference of two numbers near 1 has an error of a few 1e-19 by itself.
            let near = (got - want).abs() <= 1e-11 * want.abs() + 1e-17;
            assert!(near, "{case}: {name} is {got:e}, by its definition {want:e}");
        }
    }
}

#[test]
fn metrics_are_those_of_their_definitions() {
    perturbed("gemm_fp8_block/gaussian", "C", 4, "F32");
    perturbed(CASE, "C", 2, "BF16");
    perturbed("quant_dg_fp8_f32/gaussian", "codes", 1, "F8_E4M3");
}

#[test]
fn an_equal_dump_is_equal_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = golden(CASE, "C");
    assert_eq!(compare(&path, CASE).code, 0);
    let bytes = fs::read(&path).unwrap();
    let (header, data) = split(&bytes);
    let header = String::from_utf8_lossy(&header[10..]).into_owned();
    // BF16 as raw bytes, and as values in float32 and float64.
    let f32s: Vec<f32> =
        data.chunks(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect();
    let wide: Vec<u8> = f32s.iter().flat_map(|v| v.to_le_bytes()).collect();
    let wider: Vec<u8> = f32s.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect();
    for (descr, data) in [("<V2", data), ("<f4", &wide), ("<f8", &wider)] {
        for version in [1u8, 2] {
            let text = header.replace("<u2", descr);
            let mut file = b"\x93NUMPY".to_vec();
            file.extend([version, 0]);
            match version {
                1 => file.extend(u16::try_from(text.len()).unwrap().to_le_bytes()),
                _ => file.extend(u32::try_from(text.len()).unwrap().to_le_bytes()),
            }
            file.extend(text.as_bytes());
            file.extend(data);
            let dump = dir.path().join("dump.npy");
            fs::write(&dump, file).unwrap();
            let ran = compare(&dump, CASE);
            assert_eq!(ran.code, 0, "{descr}\n{}{}", ran.stdout, ran.stderr);
            let metrics = lines(&ran.stdout);
            assert_eq!(
                (metrics["calc_diff"][0], metrics["mismatches"][0], metrics["cosine"][0]),
                (0.0, 0.0, 1.0)
            );
            assert_eq!(metrics["sqnr_db"][0], f64::INFINITY);
        }
    }
}

#[test]
fn the_matrix_unit_behind_a_dump_is_found() {
    let case = "gemm_fp8_block/gaussian-r2-k16-f10-rne";
    let golden = golden(case, "C");
    let fit =
        |file: &Path, case: &str| run_in(pack(), fast(), &["--fit", file.to_str().unwrap(), "--case", case]);
    let found = fit(&golden, case);
    assert_eq!(found.code, 0, "{}{}", found.stdout, found.stderr);
    let unit =
        "mode=R2 order=d*(sa*sb) fma=false mma_k=16 fraction_bits=10 rounding=rne promote_every=128: 0 of";
    assert!(found.stdout.contains(unit), "{}", found.stdout);
    assert!(!found.stdout.contains("mode=R0") && !found.stdout.contains("truncate"), "{}", found.stdout);

    // A result of no unit: one bit is wrong.
    let mut bytes = fs::read(&golden).unwrap();
    *bytes.last_mut().unwrap() ^= 0x40;
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump.npy");
    fs::write(&dump, bytes).unwrap();
    let closest = fit(&dump, case);
    assert_eq!(closest.code, 1);
    assert!(closest.stdout.starts_with("closest: mode=R2"), "{}", closest.stdout);
    assert!(
        closest.stdout.contains("rounding=rne") && closest.stdout.contains(": 1 of "),
        "{}",
        closest.stdout
    );
    assert_eq!(fit(&dump, "gemm_w8a8/gaussian").code, 2);
}

#[test]
fn what_cannot_be_compared_is_unreadable() {
    let dump = golden(CASE, "C");
    for (file, case) in [
        (golden(CASE, "A"), CASE),
        (dump.clone(), "gemm_fp8_block/no-such-case"),
        (dump.clone(), "gemm_fp8_block"),
        (dump.clone(), "gemm_fp8_block/gaussian:D"),
        (dump, "quant_dg_fp8_f32/gaussian"),
        (PathBuf::from("no-such-file.npy"), CASE),
    ] {
        let ran = compare(&file, case);
        assert_eq!(ran.code, 2, "{case}\n{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.starts_with("kernels: "), "{}", ran.stderr);
    }
}
