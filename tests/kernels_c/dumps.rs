//! `--compare`: metrics of a dump, in every format that a dump may have.

use crate::build::{Ran, pack, run_in, sanitized};
use crate::oracle::run_script;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Splits a .npy of version 1.0 into header and data.
fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]])))
}

/// A golden file.
fn golden(name: &str) -> PathBuf {
    pack().join("golden").join(format!("{name}.npy"))
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
fn perturbed(case: &str, file: &str, item: usize, dtype: &str) {
    let dir = tempfile::tempdir().unwrap();
    let bytes = fs::read(golden(file)).unwrap();
    let (header, data) = split(&bytes);
    let mut data = data.to_vec();
    for at in (3..data.len() / item).step_by(7) {
        data[at * item] ^= 1;
    }
    let dump = dir.path().join("dump.npy");
    fs::write(&dump, [header, &data].concat()).unwrap();

    let ran = compare(&dump, case);
    assert_eq!(ran.code, 1, "{case}\n{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("first_mismatch [0,3] got 0x"), "{}", ran.stdout);
    let got = lines(&ran.stdout);
    let args: [&OsStr; 3] = [dump.as_ref(), golden(file).as_os_str().to_owned().leak(), dtype.as_ref()];
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
    perturbed("gemm_fp8_block/gaussian-f32", "gemm_fp8_block.gaussian-f32.C", 4, "F32");
    perturbed("gemm_fp8_block/gaussian", "gemm_fp8_block.gaussian.C", 2, "BF16");
    perturbed("quant_dg_fp8_f32/gaussian:codes", "quant_dg_fp8_f32.gaussian.codes", 1, "F8_E4M3");
}

#[test]
fn an_equal_dump_is_equal_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let case = "gemm_fp8_block/gaussian";
    let path = golden("gemm_fp8_block.gaussian.C");
    assert_eq!(compare(&path, case).code, 0);
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
            let ran = compare(&dump, case);
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
fn what_cannot_be_compared_is_unreadable() {
    let dump = golden("gemm_fp8_block.gaussian.C");
    for (file, case) in [
        (golden("gemm_fp8_block.gaussian.A"), "gemm_fp8_block/gaussian"),
        (dump.clone(), "gemm_fp8_block/no-such-case"),
        (dump.clone(), "gemm_fp8_block"),
        (dump.clone(), "gemm_fp8_block/gaussian:D"),
        (dump, "quant_dg_fp8_f32/gaussian"),
        (PathBuf::from("no-such-file.npy"), "gemm_fp8_block/gaussian"),
    ] {
        let ran = compare(&file, case);
        assert_eq!(ran.code, 2, "{case}\n{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.starts_with("kernels: "), "{}", ran.stderr);
    }
}
