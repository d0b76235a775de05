//! Values that no weight should have: refused by default, converted in a stated way when asked.

use crate::support::binary::{convert_with, silicast};
use crate::support::inputs::{self, read_model};
use std::fs;
use std::path::Path;

const WEIGHT: &str = "model.layers.0.mlp.down_proj.weight";
const SCALE: &str = "model.layers.0.mlp.down_proj.weight_scale_inv";

/// A value planted `at` bytes into a tensor, and what the refusal says.
struct Case {
    fixture: &'static str,
    tensor: &'static str,
    at: u64,
    bytes: &'static [u8],
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        fixture: "deepseek-v3",
        tensor: WEIGHT,
        at: 1000,
        bytes: &[0x7f],
        says: &["NaN codes", "0x7f", "[1, 488]"],
    },
    Case {
        fixture: "deepseek-v3",
        tensor: WEIGHT,
        at: 0,
        bytes: &[0xff],
        says: &["NaN codes", "0xff", "[0, 0]"],
    },
    Case {
        fixture: "deepseek-v3",
        tensor: SCALE,
        at: 4,
        bytes: &[0, 0, 0x80, 0x7f],
        says: &["scale", "inf"],
    },
    Case {
        fixture: "deepseek-v3",
        tensor: SCALE,
        at: 0,
        bytes: &[0, 0, 0xc0, 0x7f],
        says: &["scale", "NaN"],
    },
    Case {
        fixture: "deepseek-v3",
        tensor: SCALE,
        at: 8,
        bytes: &[0, 0, 0, 0xbf],
        says: &["negative", "-5e-1"],
    },
    Case { fixture: "deepseek-v3-e8m0", tensor: SCALE, at: 1, bytes: &[0xff], says: &["scale", "NaN"] },
    Case { fixture: "deepseek-v3-u8", tensor: SCALE, at: 1, bytes: &[0xff], says: &["scale", "NaN"] },
    Case {
        fixture: "llama-bf16",
        tensor: WEIGHT,
        at: 2,
        bytes: &[0xc0, 0x7f],
        says: &["NaN or infinite", "[0, 1]"],
    },
    Case {
        fixture: "llama-bf16",
        tensor: WEIGHT,
        at: 2,
        bytes: &[0x80, 0xff],
        says: &["NaN or infinite", "0xff80"],
    },
    Case {
        fixture: "llama-f16",
        tensor: WEIGHT,
        at: 2,
        bytes: &[0x00, 0x7c],
        says: &["NaN or infinite", "0x7c00"],
    },
];

fn planted(root: &Path, case: &Case) -> std::path::PathBuf {
    let source = inputs::fixture(&root.join("planted"), case.fixture);
    inputs::poke(&source, case.tensor, case.at, case.bytes);
    source
}

#[test]
fn each_is_refused_with_its_place() {
    let root = tempfile::tempdir().unwrap();
    for case in CASES {
        let source = planted(root.path(), case);
        let (file, ..) = inputs::locate(&source, case.tensor);
        for (target, scheme) in
            [("ascend-910b", "W8A8_DYNAMIC"), ("vllm", "W8A8_CT"), ("vllm", "FP8_DYNAMIC"), ("vllm", "BF16")]
        {
            if scheme == "BF16" && !case.fixture.starts_with("deepseek") {
                continue;
            }
            let out = root.path().join("out");
            let ran = silicast(convert_with(&source, &out, target, scheme, &[])).expect(4);
            let ran = ran.says(case.says).says(&[file.file_name().unwrap().to_str().unwrap(), case.tensor]);
            ran.says(&["file:", "tensor:", "expected:", "found:", "fix:", "--nan keep"]);
            assert!(!out.exists());
            fs::remove_dir_all(out.with_extension("partial")).unwrap();
        }
        fs::remove_dir_all(source).unwrap();
    }
}

/// INT4 in bytes has room for numbers that are no INT4: no policy makes them codes.
#[test]
fn bytes_that_are_no_codes_are_exit_4() {
    let root = tempfile::tempdir().unwrap();
    for (at, byte, says) in [(0, 100u8, "100 at [0, 0]"), (300, 0xF7, "-9 at [")] {
        let source = inputs::fixture(&root.path().join("planted"), "llama-ct-w4a8");
        inputs::poke(&source, WEIGHT, at, &[byte]);
        for scheme in ["W4A8", "W4A16", "W8A8", "BF16"] {
            for policy in ["error", "keep"] {
                let out = root.path().join("out");
                let ran = silicast(convert_with(&source, &out, "vllm", scheme, &["--nan", policy])).expect(4);
                ran.says(&["tensor:", WEIGHT, "-8 to 7", says, "fix:"]);
                assert!(!out.exists());
                fs::remove_dir_all(out.with_extension("partial")).unwrap();
            }
        }
        fs::remove_dir_all(source).unwrap();
    }
}

#[test]
fn keep_converts_all_others_as_before_and_warns() {
    let root = tempfile::tempdir().unwrap();
    for case in CASES {
        let clean = inputs::fixture(&root.path().join("clean"), case.fixture);
        let source = planted(root.path(), case);
        for (target, scheme) in [("vllm", "W8A8"), ("vllm", "FP8_DYNAMIC")] {
            let [out, reference] = ["out", "reference"].map(|name| root.path().join(name));
            let ran = silicast(convert_with(&source, &out, target, scheme, &["--nan", "keep"])).expect(0);
            let warned = ran.stderr.lines().any(|l| l.starts_with("warning:") && l.contains(WEIGHT));
            assert!(
                warned || case.says[0] == "negative",
                "{} {:?}: {}",
                case.fixture,
                case.bytes,
                ran.stderr
            );
            silicast(convert_with(&clean, &reference, target, scheme, &[])).expect(0);
            let (found, expected) = (read_model(&out), read_model(&reference));
            for (name, tensor) in &found {
                let planted_here = name.strip_suffix("_scale").unwrap_or(name) == WEIGHT;
                assert!(planted_here || tensor.data == expected[name].data, "{name}");
            }
            let (codes, info) = (&found[WEIGHT].data, &found[WEIGHT].info);
            if case.tensor == WEIGHT {
                // One value of one row: every other row is what it was.
                let width = if case.fixture.starts_with("llama") { 2 } else { 1 };
                let (element, cols) = ((case.at / width) as usize, info.shape[1] as usize);
                let row = element / cols;
                for (i, (a, b)) in codes.chunks(cols).zip(expected[WEIGHT].data.chunks(cols)).enumerate() {
                    assert!(i == row || a == b, "row {i}");
                }
                let code = codes[element];
                let nan = case.bytes != [0x80, 0xff] && case.bytes != [0x00, 0x7c];
                let negative = case.bytes == [0x80, 0xff];
                match (scheme, nan) {
                    ("W8A8", true) => assert_eq!(code, 0),
                    ("W8A8", false) => assert_eq!(code as i8, if negative { -127 } else { 127 }),
                    (_, true) => assert_eq!(code & 0x7f, 0x7f),
                    (_, false) => assert_eq!(code, if negative { 0xfe } else { 0x7e }),
                }
            }
            // No scale of the artifact is NaN, infinite or zero, whatever came in.
            for scale in found[&format!("{WEIGHT}_scale")].data.chunks(4) {
                let scale = f32::from_le_bytes(scale.try_into().unwrap());
                assert!(scale.is_finite() && scale > 0.0, "{} {:?}: {scale}", case.fixture, case.bytes);
            }
            fs::remove_dir_all(out).unwrap();
            fs::remove_dir_all(reference).unwrap();
        }
        fs::remove_dir_all(source).unwrap();
        fs::remove_dir_all(clean).unwrap();
    }
}

#[test]
fn oddities_in_tensors_that_are_copied_are_warned_about_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-bf16");
    let norm = "model.layers.1.input_layernorm.weight";
    inputs::poke(&source, norm, 6, &[0xc0, 0x7f, 0x80, 0x7f]);
    let out = root.path().join("out");
    let ran = silicast(convert_with(&source, &out, "vllm", "W8A8", &[])).expect(0);
    ran.says(&[&format!("warning: {norm}: 2 NaN or infinite values")]);
    assert!(read_model(&out)[norm].data == read_model(&source)[norm].data);
}

#[test]
fn a_zero_scale_over_codes_is_warned_about() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3");
    inputs::poke(&source, SCALE, 0, &[0; 4]);
    let out = root.path().join("out");
    let ran = silicast(convert_with(&source, &out, "ascend-910b", "W8A8_DYNAMIC", &[])).expect(0);
    ran.says(&["warning:", WEIGHT, "scale of zero"]);
    // The zero block really is zero in the artifact.
    let codes = &read_model(&out)[WEIGHT];
    let cols = codes.info.shape[1] as usize;
    assert!(codes.data.chunks(cols).take(128).all(|row| row[..128].iter().all(|c| *c == 0)));
}

#[test]
fn zero_rows_and_blocks_are_normal_and_have_the_floor_scale() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-bf16");
    let cols = inputs::locate(&source, WEIGHT).2.shape[1] as usize;
    inputs::poke(&source, WEIGHT, 0, &vec![0; cols * 2 * 128]);
    for (target, scheme, scale, floor) in [
        ("vllm", "W8A8", "weight_scale", (1e-12f32 / 127.0).to_le_bytes().to_vec()),
        ("vllm", "FP8_DYNAMIC", "weight_scale", (1e-12f32 / 448.0).to_le_bytes().to_vec()),
        ("vllm", "FP8_BLOCK", "weight_scale_inv", (1e-12f32 / 448.0).to_le_bytes().to_vec()),
        ("vllm", "W8A8_CT", "weight_scale", vec![0x00, 0x3c]),
        ("ascend-910b", "W8A8_DYNAMIC", "weight_scale", (2f32.powi(-23)).to_le_bytes().to_vec()),
    ] {
        let out = root.path().join("out");
        let ran = silicast(convert_with(&source, &out, target, scheme, &[])).expect(0);
        assert!(!ran.stderr.contains("warning:"), "{}", ran.stderr);
        let tensors = read_model(&out);
        let name = format!("{}.{scale}", WEIGHT.strip_suffix(".weight").unwrap());
        assert_eq!(tensors[&name].data[..floor.len()], floor, "{scheme}");
        assert!(tensors[WEIGHT].data[..cols * 128].iter().all(|c| *c == 0), "{scheme}");
        fs::remove_dir_all(out).unwrap();
    }
}

/// A configuration that promises powers of two is believed and checked, scale by scale.
#[test]
fn a_broken_promise_of_power_of_two_scales_is_exit_4() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3.1");
    inputs::poke(&source, SCALE, 0, &0.3f32.to_le_bytes());
    let out = root.path().join("out");
    for more in [&[][..], &["--nan", "keep"]] {
        let ran = silicast(convert_with(&source, &out, "vllm", "FP8_BLOCK_UE8M0", more)).expect(4);
        ran.says(&[SCALE, "power of two", "3e-1", "ue8m0", "file:", "fix:"]);
        assert!(!out.exists());
        fs::remove_dir_all(out.with_extension("partial")).unwrap();
    }
    silicast(convert_with(&source, &out, "vllm", "W8A8", &[])).expect(0);
}
