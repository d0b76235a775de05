//! Seeded defects: each must be found, by the right rule, with a message that names the tensor and the place.

use crate::seeds::{
    Lab, assert_found, assert_only, edit, edit_f32, exchange, floats, manifest, put, put_manifest, tensor,
};
use crate::support::inputs;
use crate::support::model::{Model, edit_json};
use silicast::dtype::codec::{bf16_from_f32, f32_from_bf16};
use std::fs;

const UP: &str = "model.layers.1.mlp.experts.0.up_proj";
const UP_1: &str = "model.layers.1.mlp.experts.1.up_proj";
const NORM: &str = "model.layers.1.input_layernorm.weight";
const ROUTER: &str = "model.layers.1.mlp.gate.weight";
const KV_B: &str = "model.layers.1.self_attn.kv_b_proj.weight";

fn weight(module: &str) -> String {
    format!("{module}.weight")
}

fn scale(module: &str) -> String {
    format!("{module}.weight_scale")
}

/// Columns of `up_proj` in the small DeepSeek model.
const COLS: usize = 256;

#[test]
fn wrong_scales_of_int8_rows() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "W8A8", |_| {});
    let name = weight(UP);

    // 1. One scale 2 % too large.
    let report = lab.try_defect(|dir| edit_f32(dir, &scale(UP), |s| s[3] *= 1.02));
    assert_found(
        &report,
        "scales",
        &name,
        &["at [3, 0]", &scale(UP), "1.02", "1 of 128 scales", "codes fit"],
    );
    assert_only(&report, &[&name]);
    let row = report.tensors.iter().find(|t| t.name == name).unwrap();
    assert_eq!((row.wrong_scales, row.wrong_codes), (Some(1), Some(0)));

    // 2. The scales of the neighbouring expert.
    let report = lab.try_defect(|dir| put(dir, &scale(UP), &tensor(dir, &scale(UP_1))));
    assert_found(&report, "scales", &name, &["of 128 scales", "another tensor's", "codes fit"]);
    assert_only(&report, &[&name]);

    // 3. A scale one step of F32 away.
    let report = lab.try_defect(|dir| {
        edit_f32(dir, &scale(UP), |s| s[127] = f32::from_bits(s[127].to_bits() + 1));
    });
    assert_found(&report, "scales", &name, &["at [127, 0]"]);

    // 4. A scale of zero, which also hides the row.
    let report = lab.try_defect(|dir| edit_f32(dir, &scale(UP), |s| s[5] = 0.0));
    assert_found(&report, "scales", &name, &["at [5, 0]", "found 0e0"]);

    // 5. A scale that is NaN.
    let report = lab.try_defect(|dir| edit_f32(dir, &scale(UP), |s| s[6] = f32::NAN));
    assert_found(&report, "scales", &name, &["at [6, 0]", "found NaN"]);

    // 6. Two scales exchanged.
    let report = lab.try_defect(|dir| edit_f32(dir, &scale(UP), |s| s.swap(8, 9)));
    assert_found(&report, "scales", &name, &["at [8, 0]", "2 of 128"]);

    // 7. Another rule altogether: scales from 127.5, with the codes that belong to them.
    let values = floats(&lab.bytes(&scale(UP)));
    let report = lab.try_defect(|dir| {
        edit_f32(dir, &scale(UP), |s| s.iter_mut().for_each(|s| *s *= 127.0 / 127.5));
        edit(dir, &name, |codes| {
            for (code, row) in codes.iter_mut().zip((0..).map(|i| i / COLS)) {
                let x = f32::from(*code as i8) * values[row];
                *code =
                    (x / (values[row] * 127.0 / 127.5)).round_ties_even().clamp(-128.0, 127.0) as i8 as u8;
            }
        });
    });
    assert_found(&report, "scales", &name, &["128 of 128 scales"]);
}

#[test]
fn wrong_codes_of_int8_rows() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "W8A8", |_| {});
    let name = weight(UP);
    let codes = lab.bytes(&name);
    let at = codes.iter().position(|c| (2..100).contains(&(*c as i8))).unwrap();
    let place = format!("[{}, {}]", at / COLS, at % COLS);

    // 8. One code one step too high.
    let report = lab.try_defect(|dir| edit(dir, &name, |c| c[at] += 1));
    let (found, expected) = (format!("found {}", codes[at] + 1), format!("expected {}", codes[at]));
    assert_found(&report, "codes", &name, &[&place, &found, &expected, "1 of 32768", "one step off"]);
    assert_only(&report, &[&name]);
    assert_eq!(report.tensors.iter().find(|t| t.name == name).unwrap().wrong_codes, Some(1));

    // 9. One sign lost.
    let report = lab.try_defect(|dir| edit(dir, &name, |c| c[at] = c[at].wrapping_neg()));
    assert_found(&report, "codes", &name, &[&place]);

    // 10. The four-bit halves of a run of codes exchanged.
    let report = lab.try_defect(|dir| {
        edit(dir, &name, |c| c[1024..1280].iter_mut().for_each(|c| *c = c.rotate_left(4)));
    });
    assert_found(&report, "codes", &name, &["[4, ", "halves are exchanged"]);

    // 11. Neighbouring codes exchanged.
    let report = lab.try_defect(|dir| {
        edit(dir, &name, |c| c[512..768].chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1)));
    });
    assert_found(&report, "codes", &name, &["[2, ", "codes of their neighbours"]);

    // 12. Truncated instead of rounded.
    let source = decoded_source(&lab, UP);
    let scales = floats(&lab.bytes(&scale(UP)));
    let report = lab.try_defect(|dir| {
        edit(dir, &name, |codes| {
            for (i, code) in codes.iter_mut().enumerate() {
                *code = (source[i] / scales[i / COLS]).trunc() as i8 as u8;
            }
        });
    });
    assert_found(&report, "codes", &name, &["truncated, not rounded"]);

    // 13. A row that was left out.
    let report = lab.try_defect(|dir| edit(dir, &name, |c| c[COLS * 7..COLS * 8].fill(0)));
    assert_found(&report, "codes", &name, &["[7, "]);

    // 14. Two rows exchanged, their scales as well.
    let report = lab.try_defect(|dir| {
        edit(dir, &name, |c| {
            let (a, b) = c.split_at_mut(COLS);
            a.swap_with_slice(&mut b[..COLS]);
        });
        edit_f32(dir, &scale(UP), |s| s.swap(0, 1));
    });
    assert_found(&report, "codes", &name, &["[0, "]);
    assert_found(&report, "scales", &name, &["2 of 128"]);

    // 15. Two experts exchanged, weights and scales.
    let report = lab.try_defect(|dir| {
        exchange(dir, &name, &weight(UP_1));
        exchange(dir, &scale(UP), &scale(UP_1));
    });
    for tensor in [&name, &weight(UP_1)] {
        assert_found(&report, "codes", tensor, &["[0, "]);
        assert_found(&report, "sqnr", tensor, &["dB"]);
    }

    // 16. Gate and up projection exchanged.
    let gate = "model.layers.1.mlp.experts.0.gate_proj";
    let report = lab.try_defect(|dir| exchange(dir, &name, &weight(gate)));
    assert_found(&report, "codes", &weight(gate), &[]);
    assert_found(&report, "codes", &name, &[]);
}

/// The values of a 128×128-block FP8 weight of the source, whose first and second column blocks have one scale each.
fn decoded_source(lab: &Lab, module: &str) -> Vec<f32> {
    let codes = tensor(&lab.source, &weight(module));
    let scales = floats(&tensor(&lab.source, &format!("{module}.weight_scale_inv")));
    let value =
        |(i, code): (usize, &u8)| silicast::dtype::codec::f32_from_e4m3(*code) * scales[i % COLS / 128];
    codes.iter().enumerate().map(value).collect()
}

#[test]
fn wrong_rounding_of_ties() {
    const Q: &str = "model.layers.0.self_attn.q_proj";
    // A row with the scale 1, whose other values are ties.
    let tie = |i: usize| i as f32 % 100.0 - 50.5;
    let lab = Lab::new("llama-single", "vllm", "W8A8", |source| {
        let row: Vec<u8> =
            (0..256).flat_map(|i| bf16_from_f32(if i == 0 { 127.0 } else { tie(i) }).to_le_bytes()).collect();
        inputs::poke(source, &weight(Q), 0, &row);
    });
    assert_eq!(floats(&lab.bytes(&scale(Q)))[0], 1.0);
    // 17. Half away from zero instead of half to even.
    let report = lab.try_defect(|dir| {
        edit(dir, &weight(Q), |codes| {
            for (i, code) in codes[..256].iter_mut().enumerate().skip(1) {
                *code = tie(i).round() as i8 as u8;
            }
        });
    });
    assert_found(&report, "codes", &weight(Q), &["[0, ", "away from zero, not to even"]);
    assert_only(&report, &[&weight(Q)]);
}

#[test]
fn tensors_that_should_be_copies() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "W8A8", |_| {});
    // 18. One bit of a norm.
    let report = lab.try_defect(|dir| edit(dir, NORM, |b| b[20] ^= 1));
    assert_found(&report, "kept", NORM, &["1 of 256 elements", "[10]", "became"]);
    assert_only(&report, &[NORM]);
    let row = report.tensors.iter().find(|t| t.name == NORM).unwrap();
    assert!(row.sqnr_db.is_some_and(|db| db > 40.0) && row.max_abs.is_some_and(|m| m > 0.0));

    // 19. A router row moved to another expert.
    let report = lab.try_defect(|dir| {
        edit(dir, ROUTER, |b| {
            let (x, y) = b.split_at_mut(512);
            x.swap_with_slice(&mut y[..512]);
        });
    });
    assert_found(&report, "kept", ROUTER, &["[0, 0]"]);

    // 20. A weight that was decoded to BF16, one step off.
    let report = lab.try_defect(|dir| edit(dir, KV_B, |b| b[2 * (512 + 5)] ^= 1));
    assert_found(&report, "cast", KV_B, &["[1, 5]", "1 of 131072"]);

    // 21. NaN where the source has a number.
    let report = lab.try_defect(|dir| edit(dir, KV_B, |b| b[..2].copy_from_slice(&[0xC0, 0x7F])));
    assert_found(&report, "non-finite", KV_B, &["[0, 0]"]);
}

#[test]
fn scales_that_are_not_snapped_to_bf16() {
    let lab = Lab::new("deepseek-v3.1", "ascend-910b", "W8A8_DYNAMIC", |_| {});
    let name = weight(UP);
    let source = decoded_source(&lab, UP);
    let exact =
        |row: usize| source[row * COLS..(row + 1) * COLS].iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
    let row = (0..128).find(|r| f32_from_bf16(bf16_from_f32(exact(*r))) != exact(*r)).unwrap();
    // 22. One scale left as amax / 127.
    let report = lab.try_defect(|dir| edit_f32(dir, &scale(UP), |s| s[row] = exact(row)));
    assert_found(&report, "scales", &name, &[&format!("[{row}, 0]"), "not rounded to BF16"]);
    // 23. An offset in a symmetric scheme.
    let offset = format!("{UP}.weight_offset");
    let report = lab.try_defect(|dir| edit_f32(dir, &offset, |o| o[9] = 1.0));
    assert_found(&report, "offsets", &offset, &["[9, 0]"]);
}

#[test]
fn biases_that_engines_want_in_f32() {
    let lab = Lab::new("qwen2-bf16", "ascend-910b", "W8A8_DYNAMIC", |_| {});
    let bias = "model.layers.0.self_attn.q_proj.bias";
    // 24. A bias that changed while it was widened.
    let report = lab.try_defect(|dir| edit_f32(dir, bias, |b| b[17] += 1e-3));
    assert_found(&report, "cast", bias, &["[17]"]);
}

#[test]
fn fp8_blocks_with_power_of_two_scales() {
    let lab = Lab::new("qwen3-bf16", "vllm", "FP8_BLOCK_UE8M0", |_| {});
    let module = "model.layers.1.mlp.down_proj";
    let name = weight(module);
    let inverse = format!("{module}.weight_scale_inv");
    // 25. A scale that is no power of two.
    let report = lab.try_defect(|dir| edit_f32(dir, &inverse, |s| s[1] *= 1.5));
    assert_found(&report, "scales", &name, &["at [0, 1]", "1.5"]);
    // 26. A scale twice as large.
    let report = lab.try_defect(|dir| edit_f32(dir, &inverse, |s| s[2] *= 2.0));
    assert_found(&report, "scales", &name, &["at [0, 2]", "2.0000 times", "codes fit"]);
    // 27. A NaN code.
    let report = lab.try_defect(|dir| edit(dir, &name, |c| c[700] = 0x7F));
    assert_found(&report, "non-finite", &name, &["[1, 188]"]);
    // 28. The sign of a code.
    let at = lab.bytes(&name).iter().position(|c| *c & 0x7F > 8).unwrap();
    let report = lab.try_defect(|dir| edit(dir, &name, |c| c[at] ^= 0x80));
    assert_found(&report, "codes", &name, &[&format!("[{}, {}]", at / 512, at % 512)]);
    // 29. Truncated towards zero: the neighbour below, wherever the value was rounded up.
    let source = tensor(&lab.source, &name);
    let scales = floats(&lab.bytes(&inverse));
    let report = lab.try_defect(|dir| {
        edit(dir, &name, |codes| {
            for (i, code) in codes.iter_mut().enumerate() {
                let x = f32_from_bf16(u16::from_le_bytes([source[2 * i], source[2 * i + 1]]));
                let s = scales[i / 512 / 128 * 4 + i % 512 / 128];
                let value = silicast::dtype::codec::f32_from_e4m3(*code);
                if value.abs() > (x / s).abs() {
                    *code -= 1;
                }
            }
        });
    });
    assert_found(&report, "codes", &name, &["truncated, not rounded"]);
}

#[test]
fn fp8_blocks_that_pass_through() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "FP8_BLOCK", |_| {});
    let name = weight(UP);
    // 30. A code that changed on the way.
    let report = lab.try_defect(|dir| edit(dir, &name, |c| c[300] ^= 1));
    assert_found(&report, "kept", &name, &["[1, 44]", "1 of 32768"]);
    // 31. A scale that changed on the way.
    let inverse = format!("{UP}.weight_scale_inv");
    let report = lab.try_defect(|dir| edit_f32(dir, &inverse, |s| s[1] *= 1.02));
    assert_found(&report, "scales", &name, &["at [0, 1]", "1.02"]);
}

#[test]
fn bf16_arithmetic_of_compressed_tensors() {
    let lab = Lab::new("llama-bf16", "vllm", "W8A8_CT", |_| {});
    let module = "model.layers.1.mlp.down_proj";
    // 32. Codes from F32 arithmetic, where the scheme has BF16's.
    let source = tensor(&lab.source, &weight(module));
    let scales: Vec<f32> = lab
        .bytes(&scale(module))
        .chunks_exact(2)
        .map(|b| f32_from_bf16(u16::from_le_bytes([b[0], b[1]])))
        .collect();
    let report = lab.try_defect(|dir| {
        edit(dir, &weight(module), |codes| {
            for (i, code) in codes.iter_mut().enumerate() {
                let x = f32_from_bf16(u16::from_le_bytes([source[2 * i], source[2 * i + 1]]));
                *code = (x / scales[i / 512]).round_ties_even().clamp(-128.0, 127.0) as i8 as u8;
            }
        });
    });
    assert_found(&report, "codes", &weight(module), &["one step off"]);
    // 33. A BF16 scale one step away.
    let report = lab.try_defect(|dir| edit(dir, &scale(module), |b| b[8] ^= 1));
    assert_found(&report, "scales", &weight(module), &["at [4, 0]"]);
}

#[test]
fn tensors_and_files_that_are_not_there() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "W8A8", |_| {});
    let remove = |dir: &std::path::Path, name: &str| {
        let mut model = Model::load(dir);
        model.remove(name);
        model.save();
    };
    // 34. A tensor left out.
    let report = lab.try_defect(|dir| remove(dir, NORM));
    assert_found(&report, "tensor-missing", NORM, &[]);

    // 35. The same, with manifest and plan made to agree.
    let report = lab.try_defect(|dir| {
        remove(dir, NORM);
        let mut manifest = manifest(dir);
        manifest["tensors"].as_array_mut().unwrap().retain(|t| t["name"] != NORM);
        manifest["output"]["files"].as_array_mut().unwrap().retain(|f| f["path"] != "silicast/plan.txt");
        put_manifest(dir, &manifest);
        fs::remove_file(dir.join("silicast/plan.txt")).unwrap();
    });
    assert_found(&report, "conservation", NORM, &["nowhere"]);

    // 36. A scale left out.
    let report = lab.try_defect(|dir| remove(dir, &scale(UP)));
    assert_found(&report, "tensor-missing", &scale(UP), &[]);
    assert_found(&report, "not-comparable", &weight(UP), &["without a scale"]);

    // 37. A tensor too many.
    let report = lab.try_defect(|dir| {
        let mut model = Model::load(dir);
        model.add("model.layers.9.extra.weight", "BF16", &[4, 4], 0);
        model.save();
    });
    assert_found(&report, "tensor-foreign", "model.layers.9.extra.weight", &["[4, 4]"]);

    // 38. Scales of another format.
    let report = lab.try_defect(|dir| {
        let mut model = Model::load(dir);
        model.retype(&scale(UP), "BF16");
        model.save();
    });
    assert_found(&report, "tensor-type", &scale(UP), &["f32[128,1]", "bf16"]);

    // 39. A weight of another shape.
    let report = lab.try_defect(|dir| {
        let mut model = Model::load(dir);
        model.reshape(ROUTER, &[256, 4]);
        model.save();
    });
    assert_found(&report, "tensor-type", ROUTER, &["[256, 4]"]);
    assert_found(&report, "not-comparable", ROUTER, &["shape"]);

    // 40. A changed plan.
    let report = lab.try_defect(|dir| {
        let plan = fs::read_to_string(dir.join("silicast/plan.txt")).unwrap();
        fs::write(dir.join("silicast/plan.txt"), plan.replace("vllm", "vllm2")).unwrap();
    });
    assert_found(&report, "plan", "silicast/plan.txt", &["digest"]);

    // 41. A file that nobody knows, and one that is gone.
    let report = lab.try_defect(|dir| {
        fs::write(dir.join("weights.bin"), b"x").unwrap();
        fs::remove_file(dir.join("generation_config.json")).unwrap();
    });
    assert_found(&report, "files", "weights.bin", &["foreign"]);
    assert_found(&report, "files", "generation_config.json", &["missing"]);

    // 42. A shard cut short.
    let report = lab.try_defect(|dir| {
        let shard = dir.join("model.safetensors");
        let bytes = fs::read(&shard).unwrap();
        fs::write(&shard, &bytes[..bytes.len() - 100]).unwrap();
    });
    assert!(report.checks.iter().any(|c| c.verdict == silicast::report::model::Verdict::Fail));

    // 43. A configuration that says nothing of the quantization.
    let report = lab.try_defect(|dir| {
        edit_json(&dir.join("config.json"), |c| {
            c.as_object_mut().unwrap().remove("quantization_config");
        });
    });
    assert!(report.checks.iter().any(|c| c.id == "quantization-config-missing"));
    assert_eq!(report.verdict, silicast::report::model::Verdict::Fail);
}

#[test]
fn changed_bytes_and_another_source() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "W8A8", |_| {});
    // 44. A bit that only the digest of the manifest knows of: padding of the header.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    fs::create_dir_all(copy.join("silicast")).unwrap();
    for (name, bytes) in crate::support::tree::files(&lab.artifact) {
        fs::create_dir_all(copy.join(&name).parent().unwrap()).unwrap();
        fs::write(copy.join(name), bytes).unwrap();
    }
    edit(&copy, &weight(UP), |c| c[0] ^= 1);
    let report = silicast::validate::run(&crate::seeds::request(&copy, Some(&lab.source))).unwrap();
    assert_found(&report, "digests", "model.safetensors", &["BLAKE3"]);
    assert_found(&report, "codes", &weight(UP), &["[0, 0]"]);
    let report = silicast::validate::run(&crate::seeds::request(&copy, None)).unwrap();
    assert_found(&report, "files", "model.safetensors", &["blake3"]);

    // 45. Another checkpoint with the same headers.
    edit(&lab.source, NORM, |b| b[0] ^= 1);
    let report = silicast::validate::run(&crate::seeds::request(&lab.artifact, Some(&lab.source))).unwrap();
    assert_found(&report, "kept", NORM, &["[0]"]);
    assert!(report.checks.iter().any(|c| c.id == "source-digests"
        && c.verdict == silicast::report::model::Verdict::Fail
        && c.message.contains("--against")));
}

/// Artifacts of other tools have no manifest: codes must be nearest codes, scales of one form, tensors all there.
#[test]
fn defects_of_somebody_elses_artifact() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "W8A8", |_| {});
    let name = weight(UP);
    // 46. to 49.
    let report = lab.try_foreign(|dir| edit_f32(dir, &scale(UP), |s| s[3] *= 1.02));
    assert_found(&report, "codes", &name, &["[3, "]);
    let report = lab.try_foreign(|dir| put(dir, &scale(UP), &tensor(dir, &scale(UP_1))));
    assert_found(&report, "codes", &name, &["[0, "]);
    let report = lab.try_foreign(|dir| edit_f32(dir, &scale(UP), |s| s[3] = -s[3]));
    assert_found(&report, "scale-form", &name, &["positive finite", "[3, 0]"]);
    let report = lab.try_foreign(|dir| {
        let mut model = Model::load(dir);
        model.remove(NORM);
        model.save();
    });
    assert_found(&report, "conservation", NORM, &["nowhere"]);

    // 50. An unsnapped scale among snapped ones.
    let lab = Lab::new("deepseek-v3.1", "ascend-910b", "W8A8_DYNAMIC", |_| {});
    let report =
        lab.try_foreign(|dir| edit_f32(dir, &scale(UP), |s| s[3] = f32::from_bits(s[3].to_bits() + 1)));
    assert_found(&report, "scale-form", &name, &["rounded to BF16", "[3, 0]"]);

    // 51. Truncated codes under BF16 scales, where one step would be allowed at a tie only.
    let lab = Lab::new("llama-bf16", "vllm", "W8A8_CT", |_| {});
    let name = "model.layers.1.mlp.down_proj.weight";
    let source = tensor(&lab.source, name);
    let scales = lab.bytes("model.layers.1.mlp.down_proj.weight_scale");
    let report = lab.try_foreign(|dir| {
        edit(dir, name, |codes| {
            for (i, code) in codes.iter_mut().enumerate() {
                let at = |b: &[u8], i: usize| f32_from_bf16(u16::from_le_bytes([b[2 * i], b[2 * i + 1]]));
                *code = (at(&source, i) / at(&scales, i / 512)).clamp(-128.0, 127.0) as i8 as u8;
            }
        });
    });
    assert_found(&report, "codes", name, &["truncated, not rounded"]);
}
