//! Cases of dequantizers, quantizers and requantizers.

use crate::data::{Class, Range, arrays, code_array, codes, floats, matrix, plain, scales};
use crate::support::cases::Cases;
use serde_json::{Value, json};
use silicast::dtype::Dtype;
use silicast::dtype::Dtype::{BF16, F4E2M1, F8E4M3, F8E4M3Fnuz, F8E5M2, F8E8M0, F16, F32, I4, I8, U4, U8};
use silicast::kernel::reference::array::Array;
use xtask::rng::SplitMix64;

/// Every case of the conversions.
pub(crate) fn all(cases: &mut Cases) {
    tables(cases);
    scaled(cases);
    int4(cases);
    quantizers(cases);
    nvfp4(cases);
    requantizers(cases);
}

/// Every code of a format, NaNs and infinities included.
fn every_code(dtype: Dtype) -> Array {
    match dtype {
        F4E2M1 => Array::new(dtype, [16, 16], (0..=255).collect::<Vec<u8>>()),
        BF16 => Array::new(dtype, [256, 256], (0..=u16::MAX).flat_map(u16::to_le_bytes).collect()),
        _ => Array::new(dtype, [256], (0..=255).collect::<Vec<u8>>()),
    }
}

fn tables(cases: &mut Cases) {
    for (kernel, dtype) in [
        ("dequant_e4m3", F8E4M3),
        ("dequant_e5m2", F8E5M2),
        ("dequant_e4m3fnuz", F8E4M3Fnuz),
        ("dequant_e2m1", F4E2M1),
        ("dequant_e8m0", F8E8M0),
        ("dequant_bf16", BF16),
    ] {
        for to in [F32, BF16, F16] {
            cases.add(kernel, to.text(), json!({}), arrays([("codes", every_code(dtype))]), &[("y", to)]);
        }
    }
}

fn scaled(cases: &mut Cases) {
    let mut rng = SplitMix64::for_tensor("reference_gemm", "dequant");
    let shapes: [(&str, [usize; 2]); 4] =
        [("ragged", [131, 258]), ("row", [1, 64]), ("empty", [0, 32]), ("narrow", [5, 2])];
    for (kernel, dtypes, scale_dtypes, default) in [
        ("dequant_fp8_block", &[F8E4M3, F8E5M2, F8E4M3Fnuz][..], &[F32, BF16, F16, F8E8M0][..], [128, 128]),
        ("dequant_fp8_channel", &[F8E4M3, F8E5M2], &[F32, BF16, F16], [1, 0]),
        ("dequant_int8_channel", &[I8], &[F32, BF16, F16], [1, 0]),
        ("dequant_int8_block", &[I8], &[F32, BF16], [128, 128]),
        ("dequant_mxfp8", &[F8E4M3, F8E5M2], &[F8E8M0], [1, 32]),
        ("dequant_mxfp4", &[F4E2M1], &[F8E8M0], [1, 32]),
        ("dequant_nvfp4", &[F4E2M1], &[F8E4M3], [1, 16]),
    ] {
        for (dtype, scale) in dtypes.iter().flat_map(|d| scale_dtypes.iter().map(move |s| (*d, *s))) {
            for (name, shape) in shapes {
                for (class_name, class) in Class::ALL {
                    let range = if class == Class::AllCodes { Range::Wide } else { Range::Narrow };
                    let other = [32, 64];
                    let (params, block) = match class {
                        Class::SmallInt => (json!({"block": other}), other),
                        _ => (json!({}), default),
                    };
                    let side =
                        |i: usize| shape[i].div_ceil(if block[i] == 0 { shape[i].max(1) } else { block[i] });
                    let grid = [side(0), side(1)];
                    let mut inputs = arrays([
                        ("codes", matrix(&mut rng, class, dtype, shape)),
                        ("scale", scales(&mut rng, range, scale, &grid)),
                    ]);
                    if kernel == "dequant_nvfp4" || class == Class::Gaussian {
                        inputs.insert("g".to_owned(), scales(&mut rng, range, F32, &[1]));
                    }
                    if dtype == I8 && class == Class::Extremes {
                        let z = (0..grid[0] * grid[1]).map(|_| rng.next_u64() as u8).collect();
                        inputs.insert("z".to_owned(), Array::new([I8, U8][rng.below(2)], grid, z));
                    }
                    let to = [F32, BF16, F16][rng.below(3)];
                    let case = format!("{dtype}-{scale}-{name}-{class_name}");
                    cases.add(kernel, &case, params, inputs, &[("y", to)]);
                }
            }
        }
    }
}

fn int4(cases: &mut Cases) {
    let mut rng = SplitMix64::for_tensor("reference_gemm", "int4");
    for dtype in [U4, I4] {
        for scale in [F32, BF16, F16, F8E8M0] {
            for ([rows, k], groups) in [([17, 256], 2), ([3, 96], 3), ([2, 0], 0)] {
                for optional in 0..4 {
                    let range = if optional == 3 { Range::Wide } else { Range::Narrow };
                    let mut inputs = arrays([
                        ("codes", matrix(&mut rng, Class::AllCodes, dtype, [rows, k])),
                        ("scale", scales(&mut rng, range, scale, &[rows, groups])),
                    ]);
                    if optional & 1 != 0 {
                        let z = (0..rows * groups).map(|_| rng.below(16) as u8).collect();
                        inputs.insert("z".to_owned(), Array::new(U8, [rows, groups], z));
                    }
                    if optional & 2 != 0 {
                        inputs.insert("g".to_owned(), scales(&mut rng, range, F32, &[1]));
                    }
                    let to = [F32, BF16, F16][rng.below(3)];
                    let case = format!("{dtype}-{scale}-{k}-{optional}");
                    cases.add("dequant_int4_group", &case, json!({}), inputs, &[("y", to)]);
                }
            }
        }
    }
}

/// Inputs of quantizers: every finite BF16 value among them, every FP4 and E4M3 midpoint, and maxima that scale exactly.
fn quantizer_inputs(rng: &mut SplitMix64) -> Vec<(&'static str, Array)> {
    let finite: Vec<f32> =
        (0..=u16::MAX).map(|bits| f32::from_bits(u32::from(bits) << 16)).filter(|x| x.is_finite()).collect();
    let mut shuffled = finite.clone();
    for i in (1..shuffled.len()).rev() {
        shuffled.swap(i, rng.below(i + 1));
    }
    let patterns: Vec<f32> = std::iter::repeat_with(|| f32::from_bits(rng.next_u64() as u32))
        .filter(|x| x.is_finite())
        .take(64 * 256)
        .collect();
    // One exponent per row of 256, from 2^-110 to 2^126.
    let sweep: Vec<f32> = (0..237 * 256)
        .map(|i| rng.gaussian().clamp(-1.9, 1.9) * f32::from_bits((17 + (i / 256) as u32) << 23))
        .collect();
    // Midpoints between neighbouring codes and the values beside them, under an exact maximum per 32 and per 128.
    let exact = |top: f32, values: &[f32]| -> Vec<f32> {
        let beside = |x: f32| [x, f32::from_bits(x.to_bits() + 1), f32::from_bits(x.to_bits() - 1), -x];
        let all: Vec<f32> = values.iter().flat_map(|x| beside(*x)).collect();
        let mut out = Vec::new();
        for row in 0..16i32 {
            let unit = 2f32.powi(row * 7 - 60);
            for i in 0..256 {
                out.push(if i % 32 == 0 {
                    top * unit
                } else {
                    all[(i + row as usize * 97) % all.len()] * unit
                });
            }
        }
        out
    };
    let fp4 = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let e4m3: Vec<f32> = (0..0x7Eu8)
        .map(|c| {
            let value = |c: u8| silicast::dtype::codec::decode(F8E4M3, c.into());
            (value(c) + value(c + 1)) / 2.0
        })
        .collect();
    let int8: Vec<f32> = (0..127).map(|q| q as f32 + 0.5).collect();
    let mut zeros = vec![0.0f32; 4 * 256];
    for (i, x) in zeros.iter_mut().enumerate() {
        *x = match i {
            i if i < 512 && i % 2 == 1 => -0.0,
            700 => 1.0,
            701 => -1e-30,
            i if i > 768 => -0.0,
            _ => 0.0,
        };
    }
    let mut outlier: Vec<f32> = (0..7 * 258).map(|_| rng.gaussian()).collect();
    outlier[300] = 1e4;
    let ragged: Vec<f32> = (0..131 * 258).map(|_| rng.gaussian() * 0.02).collect();
    let f32s = |shape: [usize; 2], values: &[f32]| floats(F32, &shape, values);
    vec![
        ("bf16-sweep", floats(BF16, &[510, 128], &finite)),
        ("bf16-shuffled", floats(BF16, &[255, 256], &shuffled)),
        ("patterns", f32s([64, 256], &patterns)),
        ("exponent-sweep", floats(BF16, &[237, 256], &sweep)),
        ("exponent-sweep-f32", f32s([237, 256], &sweep)),
        ("fp4-midpoints", f32s([16, 256], &exact(6.0, &fp4))),
        ("exact-amax", f32s([16, 256], &exact(448.0, &e4m3))),
        ("int8-midpoints", f32s([16, 256], &exact(127.0, &int8))),
        ("zeros", f32s([4, 256], &zeros)),
        ("outlier", f32s([7, 258], &outlier)),
        ("ragged", floats(BF16, &[131, 258], &ragged)),
        ("f16", plain(rng, F16, &[3, 64], 2.0)),
        ("empty", floats(BF16, &[0, 128], &[])),
    ]
}

fn quantizers(cases: &mut Cases) {
    let mut rng = SplitMix64::for_tensor("reference_gemm", "quant");
    let inputs = quantizer_inputs(&mut rng);
    for (kernel, codes, scales) in [
        ("quant_ds_fp8_f32_mul", F8E4M3, &[F32][..]),
        ("quant_ds_fp8_ue8m0", F8E4M3, &[F8E8M0, F32]),
        ("quant_dg_fp8_f32", F8E4M3, &[F32]),
        ("quant_dg_fp8_ue8m0", F8E4M3, &[F8E8M0, F32]),
        ("quant_tk_fp8_f32", F8E4M3, &[F32]),
        ("quant_vllm_fp8_group", F8E4M3, &[F32]),
        ("quant_vllm_fp8_token", F8E4M3, &[F32]),
        ("quant_mx_fp4_ds", F4E2M1, &[F8E8M0, F32]),
        ("quant_mx_fp4_dg", F4E2M1, &[F8E8M0, F32]),
        ("quant_int8_token", I8, &[F32]),
    ] {
        for (name, x) in &inputs {
            let blocks: &[Value] = match *name {
                "ragged" => &[
                    json!({}),
                    json!({"block": [128, 128]}),
                    json!({"block": [128, 1]}),
                    json!({"block": [0, 0]}),
                ],
                _ => &[json!({})],
            };
            for params in blocks {
                for scale in scales {
                    let case = format!("{name}-{scale}");
                    let outputs = [("codes", codes), ("scale", *scale)];
                    cases.add(kernel, &case, params.clone(), arrays([("x", x.clone())]), &outputs);
                }
            }
        }
    }
}

fn nvfp4(cases: &mut Cases) {
    let mut rng = SplitMix64::for_tensor("reference_gemm", "nvfp4");
    let zeros = floats(F32, &[4, 32], &[0.0; 128]);
    let negative_zeros = floats(F32, &[4, 32], &[-0.0; 128]);
    let extra = [("all-zero", zeros), ("all-negative-zero", negative_zeros)];
    for (name, x) in quantizer_inputs(&mut rng).into_iter().chain(extra) {
        let outputs = [("codes", F4E2M1), ("scale", F8E4M3), ("g", F32)];
        cases.add("quant_nvfp4", name, json!({}), arrays([("x", x.clone())]), &outputs);
        for g in [1.0, 0.001, 3.7e20] {
            let inputs = arrays([("x", x.clone()), ("g", floats(F32, &[1], &[g]))]);
            cases.add("quant_nvfp4", &format!("{name}-{g:e}"), json!({}), inputs, &outputs[..2]);
        }
    }
}

fn requantizers(cases: &mut Cases) {
    cases.add(
        "requant_bf16_to_e4m3",
        "bf16-sweep",
        json!({}),
        arrays([("x", every_code(BF16))]),
        &[("codes", F8E4M3)],
    );
    let mut rng = SplitMix64::for_tensor("reference_gemm", "requant");
    for (name, x) in quantizer_inputs(&mut rng) {
        cases.add("requant_bf16_to_e4m3", name, json!({}), arrays([("x", x)]), &[("codes", F8E4M3)]);
    }

    let shapes: [(&str, [usize; 2]); 3] = [("ragged", [131, 258]), ("row", [1, 64]), ("block", [128, 128])];
    for (name, [rows, cols]) in shapes {
        for (class_name, class) in Class::ALL {
            if class == Class::Special {
                continue;
            }
            let range = if class == Class::Outlier { Range::Wide } else { Range::Narrow };
            let mut block = [128, 128];
            let mut params = json!({});
            if class == Class::SmallInt {
                block = [64, 32];
                params = json!({"block": block});
            }
            let grid = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
            let mut scale = scales(&mut rng, range, F32, &grid);
            if range == Range::Wide {
                // Values stay finite: 448·2^118.
                for s in scale.bytes.chunks_exact_mut(4) {
                    s[3] = s[3].min(0x7A);
                }
            }
            let inputs = arrays([("codes", matrix(&mut rng, class, F8E4M3, [rows, cols])), ("scale", scale)]);
            let case = format!("{name}-{class_name}");
            for to in [F8E8M0, F32] {
                let outputs = [("codes_out", F8E4M3), ("scale_out", to)];
                cases.add("requant_e4m3_f32_to_ue8m0", &case, params.clone(), inputs.clone(), &outputs);
            }
            let outputs = [("codes_out", I8), ("scale_out", F32)];
            cases.add("requant_e4m3_to_s8", &case, params, inputs, &outputs);
        }
    }

    for (kernel, from, to) in [
        ("requant_e4m3fn_to_e4m3fnuz", F8E4M3, F8E4M3Fnuz),
        ("requant_e4m3fnuz_to_e4m3fn", F8E4M3Fnuz, F8E4M3),
    ] {
        let only_codes = [("codes_out", to)];
        cases.add(kernel, "every-code", json!({}), arrays([("codes", every_code(from))]), &only_codes);
        for (name, shape) in [("block", [130, 40]), ("row", [1, 8])] {
            let codes = codes(&mut rng, Class::AllCodes, from, shape);
            let inputs = arrays([
                ("codes", code_array(from, shape, codes)),
                ("scale", scales(&mut rng, Range::Wide, F32, &[shape[0], 1])),
            ]);
            let outputs = [("codes_out", to), ("scale_out", F32)];
            cases.add(kernel, name, json!({}), inputs.clone(), &outputs);
            cases.add(kernel, &format!("{name}-codes"), json!({}), inputs, &only_codes);
        }
    }
}
