//! The metrics against an independent NumPy program.

use crate::support::oracle;
use serde_json::{Value, json};
use silicast::dtype::Dtype;
use silicast::validate::metrics::Accumulator;
use std::fs;
use xtask::rng::SplitMix64;

fn text(x: &f64) -> Value {
    match x {
        x if x.is_nan() => json!("nan"),
        x if x.is_infinite() => json!(if *x > 0.0 { "inf" } else { "-inf" }),
        x => json!(x),
    }
}

fn cases() -> Vec<(Dtype, Vec<f64>, Vec<f64>)> {
    let mut rng = SplitMix64::for_tensor("metrics", "cases");
    let mut gaussian =
        |n: usize, scale: f64| -> Vec<f64> { (0..n).map(|_| f64::from(rng.gaussian()) * scale).collect() };
    let mut cases = Vec::new();
    for (dtype, n, scale, noise) in [
        (Dtype::F32, 1, 1.0, 0.1),
        (Dtype::F32, 500, 1.0, 1e-3),
        (Dtype::BF16, 500, 1e-4, 1e-6),
        (Dtype::F16, 300, 1e-6, 1e-6),
        (Dtype::F32, 257, 1e20, 1e17),
    ] {
        let golden = gaussian(n, scale);
        let errors = gaussian(n, noise);
        let actual = golden.iter().zip(errors).map(|(g, e)| g + e).collect();
        cases.push((dtype, actual, golden));
    }
    let golden = gaussian(64, 1.0);
    cases.push((Dtype::F32, golden.clone(), golden.clone()));
    cases.push((Dtype::F32, golden.iter().map(|x| x * 1.02).collect(), golden.clone()));
    cases.push((Dtype::F32, vec![0.0; 8], vec![0.0; 8]));
    cases.push((Dtype::F32, vec![1e-9; 8], vec![0.0; 8]));
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    cases.push((Dtype::F32, vec![nan, inf, -inf, 2.0, 3.0], vec![nan, inf, -inf, 2.0, 2.5]));
    cases.push((Dtype::F32, vec![1.0, nan, 2.0], vec![1.0, 1.0, 2.0]));
    cases.push((Dtype::F32, vec![1.0, inf, 2.0], vec![1.0, -inf, 2.5]));
    cases
}

#[test]
fn every_metric_is_what_numpy_computes() {
    let cases = cases();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cases");
    let lines: String = cases
        .iter()
        .map(|(dtype, actual, golden)| {
            let list = |xs: &[f64]| xs.iter().map(text).collect::<Vec<_>>();
            format!("{}\n", json!({"dtype": dtype.text(), "actual": list(actual), "golden": list(golden)}))
        })
        .collect();
    fs::write(&file, lines).unwrap();
    let printed = oracle::run_script("metrics.py", &[file.as_os_str()]);
    let expected: Vec<Value> = printed.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(expected.len(), cases.len());
    for ((dtype, actual, golden), expected) in cases.iter().zip(&expected) {
        let mut all = Accumulator::new(*dtype);
        let middle = actual.len() / 3;
        let mut tail = Accumulator::new(*dtype);
        tail.add(middle as u64, &actual[middle..], &golden[middle..]);
        all.add(0, &actual[..middle], &golden[..middle]);
        all.merge(&tail);
        let found = serde_json::to_value(all.finish(&[actual.len() as u64])).unwrap();
        let names = expected.as_object().unwrap();
        assert_eq!(names.len(), found.as_object().unwrap().len());
        for (name, expected) in names {
            let found = &found[name];
            match (expected.as_f64(), found.as_f64()) {
                // 1 − 2Σxy / Σ(x² + y²) cancels in the definition's own arithmetic.
                (Some(e), Some(f)) => {
                    let slack = if name == "calc_diff" { 1e-15 } else { 0.0 };
                    assert!(
                        (e - f).abs() <= 1e-12 * e.abs() + slack,
                        "{name}: {f} instead of {e}\n{actual:?}"
                    );
                }
                _ if name == "diff4" => {
                    let list = |v: &Value| -> Vec<f64> {
                        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
                    };
                    assert_eq!(list(found), list(expected));
                }
                _ => assert_eq!(found, expected, "{name}"),
            }
        }
    }
}
