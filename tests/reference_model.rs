//! Reference kernels 12 to 21 (norms, activations, attention, router, caches, layouts) against other computations.
//!
//! `fixtures/oracle/kernels_model.py` computes every case again, from the specification, with NumPy and Python integers,
//! and compares bits (`mla_*`: within 1e-12 of the largest magnitude). `golden/rope_gate.json` holds what transformers
//! computed.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]

mod support;

use serde_json::{Map, Value, json};
use silicast::dtype::Dtype;
use silicast::dtype::codec::{bf16_from_f32, f32_from_bf16};
use silicast::error::Class;
use silicast::kernel::reference::array::{Array, Arrays, Call};
use silicast::kernel::reference::gate::{Gate, Scoring, moe_gate};
use silicast::kernel::reference::rope::{Form, Style, Yarn, frequencies, mscale, rope, tables};
use silicast::kernel::reference::{catalog, exp, layout};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use support::oracle;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.word() % n
    }

    fn uniform(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 24) as f32
    }

    /// About normal: a sum of twelve uniform numbers.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }

    fn bf16(&mut self, shape: &[usize], mut value: impl FnMut(&mut Self) -> f32) -> Array {
        let n: usize = shape.iter().product();
        let bytes = (0..n).flat_map(|_| bf16_from_f32(value(self)).to_le_bytes()).collect();
        Array::new(Dtype::BF16, shape, bytes)
    }

    fn gaussian(&mut self, shape: &[usize]) -> Array {
        self.bf16(shape, Self::normal)
    }

    fn f32(&mut self, shape: &[usize], mut value: impl FnMut(&mut Self) -> f32) -> Array {
        let n: usize = shape.iter().product();
        Array::from_f32(shape, &(0..n).map(|_| value(self)).collect::<Vec<_>>())
    }

    fn bytes(&mut self, dtype: Dtype, shape: &[usize], mut value: impl FnMut(&mut Self) -> u8) -> Array {
        let items: usize = shape.iter().product::<usize>() * Array::new(dtype, [], vec![]).item_size();
        Array::new(dtype, shape, (0..items).map(|_| value(self)).collect())
    }
}

fn int32(shape: &[usize], values: &[i32]) -> Array {
    Array::new(Dtype::I32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn int64(shape: &[usize], values: &[i64]) -> Array {
    Array::new(Dtype::I64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Cases on disk for the oracle.
struct Cases<'a> {
    folder: &'a Path,
    list: Vec<Value>,
}

impl Cases<'_> {
    fn add(&mut self, kernel: &str, inputs: &[(&str, &Array)], params: Value, wanted: &[(&str, Dtype)]) {
        let outputs = run(kernel, inputs, params.clone(), wanted).unwrap();
        let number = self.list.len();
        let save = |name: &str, array: &Array| -> Value {
            let file = format!("{number}.{name}.npy");
            fs::write(self.folder.join(&file), npy(array)).unwrap();
            json!({"file": file, "dtype": array.dtype.golden_name()})
        };
        let inputs: Map<_, _> = inputs.iter().map(|(n, a)| ((*n).to_owned(), save(n, a))).collect();
        let outputs: Map<_, _> =
            outputs.iter().map(|(n, a)| (n.clone(), save(&format!("out.{n}"), a))).collect();
        self.list.push(json!({"kernel": kernel, "params": params, "inputs": inputs, "outputs": outputs}));
    }
}

fn run(
    kernel: &str,
    inputs: &[(&str, &Array)],
    params: Value,
    wanted: &[(&str, Dtype)],
) -> silicast::error::Result<Arrays> {
    let kernel = catalog::find(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
    for (name, _) in inputs {
        assert!(kernel.inputs.iter().any(|a| a.name == *name), "{}: argument {name}", kernel.name);
    }
    for name in params.as_object().unwrap().keys() {
        assert!(kernel.params.iter().any(|p| p.name == name), "{}: parameter {name}", kernel.name);
    }
    let inputs: Arrays = inputs.iter().map(|(n, a)| ((*n).to_owned(), (*a).clone())).collect();
    let wanted: BTreeMap<_, _> = wanted.iter().map(|(n, d)| ((*n).to_owned(), *d)).collect();
    let outputs =
        (kernel.run)(&Call { inputs: &inputs, params: params.as_object().unwrap(), wanted: &wanted })?;
    for name in outputs.keys() {
        assert!(kernel.outputs.iter().any(|a| a.name == name), "{}: result {name}", kernel.name);
    }
    Ok(outputs)
}

fn npy(array: &Array) -> Vec<u8> {
    let kind = match array.dtype {
        Dtype::F64 => "<f8",
        Dtype::F32 => "<f4",
        Dtype::BF16 => "<u2",
        Dtype::I64 => "<i8",
        Dtype::I32 => "<i4",
        Dtype::I8 => "|i1",
        _ => "|u1",
    };
    let shape: String = array.shape.iter().map(|n| format!("{n},")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(&array.bytes);
    out
}

fn compare(folder: &Path, cases: &Cases<'_>, least: usize) {
    fs::write(folder.join("cases.json"), serde_json::to_vec(&cases.list).unwrap()).unwrap();
    let printed = oracle::run_script("kernels_model.py", &[folder.as_os_str()]);
    assert!(cases.list.len() >= least);
    assert_eq!(printed.trim(), format!("{} cases equal", cases.list.len()));
}

/// Arguments whose results are closest to a midpoint of two binary32 numbers: found by checking all 2^32.
const HARD_EXP: &[u32] = &[0x4001_B249, 0x4031_5B33, 0xBAE0_E25C, 0xBBF0_EDF1, 0xC169_12CD];
const HARD_LOG1P: &[u32] = &[
    0x3540_0003,
    0x3710_001B,
    0x3770_004B,
    0x3EFD_81AD,
    0x4107_8FEB,
    0x5518_5F82,
    0x65D8_90D3,
    0x66A8_C860,
    0x6F31_A8EC,
    0xB53F_FFFD,
    0xB70F_FFE5,
    0xB76F_FFB5,
    0xBB0E_C8C4,
];

#[test]
fn exponentials_and_logarithms_are_correctly_rounded() {
    let folder = tempfile::tempdir().unwrap();
    // An odd step visits every exponent and reaches both ends.
    let mut patterns: Vec<u32> = (0..=u32::MAX).step_by(150_001).collect();
    // Where results are neither 1, 0, x nor infinite: about 2^-26 to 2^7.
    for sign in [0, 1 << 31] {
        patterns.extend((0x3280_0000..0x42D0_0000).step_by(40_009).map(|p| p | sign));
    }
    patterns.extend([HARD_EXP, HARD_LOG1P].concat());
    let results =
        |f: fn(f32) -> f32| -> Vec<f32> { patterns.iter().map(|p| f(f32::from_bits(*p))).collect() };
    let n = patterns.len();
    let x: Vec<f32> = patterns.iter().map(|p| f32::from_bits(*p)).collect();
    for (name, values) in [("x", x), ("exp", results(exp::exp_f32)), ("log1p", results(exp::log1p_f32))] {
        fs::write(folder.path().join(format!("{name}.npy")), npy(&Array::from_f32([n], &values))).unwrap();
    }
    let printed = oracle::run_script("kernels_model.py", &["--exp".as_ref(), folder.path().as_os_str()]);
    assert_eq!(printed.trim(), format!("{n} arguments correctly rounded"));
}

#[test]
fn binary64_functions_are_within_an_ulp() {
    let mut random = Random(3);
    let close = |a: f64, b: f64, slack: f64| (a - b).abs() <= b.abs() * f64::EPSILON + slack;
    for _ in 0..20_000 {
        let x = f64::from(random.normal()) * 100.0;
        assert!(close(exp::exp_f64(x), x.exp(), 0.0), "exp {x}");
        let positive = x.abs() + 1e-9;
        assert!(close(exp::ln_f64(positive), positive.ln(), 2f64.powi(-57)), "ln {positive}");
        let angle = x * f64::from(random.uniform()) * 1e3;
        let (sin, cos) = exp::sin_cos_f64(angle);
        assert!(
            close(sin, angle.sin(), 2f64.powi(-53)) && close(cos, angle.cos(), 2f64.powi(-53)),
            "{angle}"
        );
    }
}

#[test]
fn norms_and_activations_equal_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Cases { folder: folder.path(), list: Vec::new() };
    let mut r = Random(1);
    let bf16_y = [("y", Dtype::BF16)];

    let exponents = |r: &mut Random| r.normal() * 2f32.powi(r.below(60) as i32 - 40);
    let mut outlier = r.gaussian(&[3, 200]);
    outlier.bytes[100..102].copy_from_slice(&bf16_from_f32(2e4).to_le_bytes());
    let rows = [
        r.gaussian(&[5, 130]),
        r.gaussian(&[1, 1]),
        r.bf16(&[4, 128], exponents),
        r.bf16(&[2, 128], |_| 0.0),
        r.bf16(&[2, 64], |r| if r.below(2) == 0 { 0.0 } else { -0.0 }),
        outlier,
        r.gaussian(&[0, 128]),
        r.gaussian(&[2, 576]),
    ];
    for x in &rows {
        let w = r.gaussian(&[x.shape[1]]);
        let w_f32 = r.f32(&[x.shape[1]], Random::normal);
        let residual = r.gaussian(&x.shape);
        for (w, params) in
            [(&w, json!({"eps": 1e-6})), (&w, json!({"eps": 1e-5, "bf16_x": true})), (&w_f32, json!({}))]
        {
            cases.add("rmsnorm", &[("x", x), ("w", w)], params.clone(), &bf16_y);
            let both = [("x", x), ("w", w), ("residual", &residual)];
            let wanted = [("y", Dtype::F32), ("residual_out", Dtype::BF16)];
            cases.add("add_rmsnorm", &both, params.clone(), &wanted);
            cases.add("rmsnorm", &both, params, &wanted);
        }
        let both = [("x", x), ("w", &w), ("residual", &residual)];
        for recipe in ["dg_fp8_f32", "ds_fp8_ue8m0", "vllm_fp8_token"] {
            let params = json!({"recipe": recipe});
            cases.add("rmsnorm_quant_fp8", &both[..2], params.clone(), &[]);
            cases.add("add_rmsnorm_quant_fp8", &both, params, &[("residual_out", Dtype::BF16)]);
        }
        cases.add("rmsnorm_quant_fp8", &both[..2], json!({}), &[("scale", Dtype::F32)]);
        cases.add("rmsnorm_quant_s8", &both[..2], json!({"eps": 1e-5}), &[]);
        cases.add("add_rmsnorm_quant_s8", &both, json!({}), &[("residual_out", Dtype::BF16)]);
    }

    let activations = [
        r.gaussian(&[5, 2 * 130]),
        r.bf16(&[3, 2 * 256], |r| r.normal() * 8.0),
        r.bf16(&[3, 2 * 128], exponents),
        r.bf16(&[2, 2 * 64], |r| if r.below(2) == 0 { 0.0 } else { -0.0 }),
        r.bf16(&[1, 2 * 100], |r| (r.uniform() - 0.5) * 250.0),
        r.gaussian(&[0, 64]),
    ];
    for x in &activations {
        let weight = r.f32(&[x.shape[0]], Random::uniform);
        for limit in [json!({}), json!({"limit": 7.0}), json!({"limit": 0.1})] {
            cases.add("swiglu", &[("x", x)], limit.clone(), &bf16_y);
            let weighted = [("x", x), ("topk_weight", &weight)];
            cases.add("swiglu", &weighted, limit.clone(), &[("y", Dtype::F32)]);
            cases.add("swiglu_quant", &weighted, limit.clone(), &[]);
            cases.add("swiglu_quant", &[("x", x)], limit, &[("codes", Dtype::F8E4M3)]);
        }
        let params = json!({"recipe": "ds_fp8_ue8m0", "block": [1, 64]});
        cases.add("swiglu_quant", &[("x", x)], params, &[]);
    }
    compare(folder.path(), &cases, 150);
}

#[test]
fn attention_and_router_equal_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Cases { folder: folder.path(), list: Vec::new() };
    let mut r = Random(2);
    let bf16_y = [("y", Dtype::BF16)];

    for shape in [&[5, 3, 64][..], &[4, 6], &[0, 2, 8], &[2, 1, 2]] {
        let x = r.gaussian(shape);
        let half = shape[shape.len() - 1] / 2;
        let cos = r.f32(&[shape[0], half], |r| r.uniform() * 2.0 - 1.0);
        let sin = r.f32(&[shape[0], half], |r| r.uniform() * 2.0 - 1.0);
        let inputs = [("x", &x), ("cos", &cos), ("sin", &sin)];
        for kernel in ["rope_interleaved", "rope_half", "rope_half_split", "rope"] {
            cases.add(kernel, &inputs, json!({}), &bf16_y);
        }
        cases.add("rope", &inputs, json!({"style": "interleaved"}), &[("y", Dtype::F32)]);
    }

    for (tokens, keys, params) in [
        (4, 4, json!({"scale": 0.07})),
        (3, 9, json!({"scale": 0.1})),
        (5, 3, json!({"scale": 0.1})),
        (2, 7, json!({"scale": 0.2, "causal": false, "cast_p": true})),
        (2, 7, json!({"scale": 0.05, "cast_p": true})),
    ] {
        let (heads, nope, rope, latent, value) = (3, 16, 8, 64, 12);
        let arrays = [
            ("q_nope", r.gaussian(&[tokens, heads, nope])),
            ("q_pe", r.gaussian(&[tokens, heads, rope])),
            ("kv_c", r.gaussian(&[keys, latent])),
            ("k_pe", r.gaussian(&[keys, rope])),
            ("W_UK", r.gaussian(&[heads, nope, latent])),
            ("W_UV", r.gaussian(&[heads, value, latent])),
        ];
        let inputs: Vec<_> = arrays.iter().map(|(n, a)| (*n, a)).collect();
        for kernel in ["mla_plain", "mla_absorbed"] {
            cases.add(kernel, &inputs, params.clone(), &[("y", Dtype::F64)]);
        }
        // Both forms against each other.
        let values = |kernel: &str| -> Vec<f64> {
            let y = run(kernel, &inputs, params.clone(), &[]).unwrap().remove("y").unwrap();
            y.bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let (plain, absorbed) = (values("mla_plain"), values("mla_absorbed"));
        let largest = plain.iter().fold(0.0, |m: f64, y| m.max(y.abs()));
        assert!(largest > 0.1);
        assert!(plain.iter().zip(&absorbed).all(|(a, b)| (a - b).abs() <= 1e-12 * largest));
    }

    for (width, spread) in [(64, 1.0f32), (17, 30.0)] {
        let (tokens, heads, keys, chosen) = (6, 2, 20, 9);
        let q = r.gaussian(&[tokens, heads, width]);
        let kv = r.bf16(&[keys, width], |r| r.normal() * spread * 2f32.powi(r.below(20) as i32 - 15));
        let mut idx: Vec<i32> = (0..tokens * chosen).map(|_| r.below(keys as u64 + 5) as i32 - 5).collect();
        idx.iter_mut().for_each(|i| *i = (*i).max(-1));
        idx[2 * chosen..3 * chosen].fill(-1);
        let idx = int32(&[tokens, chosen], &idx);
        let sink = r.f32(&[heads], Random::normal);
        let inputs = [("q", &q), ("kv", &kv), ("idx", &idx), ("sink", &sink)];
        for params in
            [json!({"scale": 0.125}), json!({"scale": 0.3, "cast_p": "f32"}), json!({"cast_p": "bf16"})]
        {
            cases.add("sparse_attn_sink", &inputs, params.clone(), &bf16_y);
            cases.add("sparse_attn_sink", &inputs, params, &[("y", Dtype::F32)]);
        }
    }

    for shape in [[3, 4, 128, 10], [1, 64, 32, 5], [2, 1, 7, 0]] {
        let [tokens, heads, width, keys] = shape;
        let number = |r: &mut Random| r.below(255).saturating_sub(u64::from(r.below(2) == 0)) as u8;
        let finite = |r: &mut Random| match number(r) {
            0x7F => 0x7E,
            code => code,
        };
        let q = r.bytes(Dtype::F8E4M3, &[tokens, heads, width], finite);
        let k = r.bytes(Dtype::F8E4M3, &[keys, width], finite);
        let weights = r.f32(&[tokens, heads], Random::normal);
        let ks = r.f32(&[keys], Random::uniform);
        let inputs = [("q", &q), ("k", &k), ("weights", &weights), ("ks", &ks)];
        cases.add("indexer_logits", &inputs, json!({}), &[]);
    }

    for scoring in ["sigmoid", "sqrtsoftplus", "softmax"] {
        for (experts, groups, topk_group, topk) in
            [(16, 4, 2, 4), (32, 8, 4, 8), (12, 1, 1, 6), (8, 8, 3, 2), (8, 2, 1, 6), (10, 2, 2, 10)]
        {
            for (coarse, renormalize) in [(false, true), (true, true), (true, false)] {
                let spread = if scoring == "sqrtsoftplus" { 12.0 } else { 2.0 };
                let mut value = |r: &mut Random| {
                    let x = r.normal() * spread;
                    // Coarse logits tie.
                    if coarse { x.round_ties_even() } else { x }
                };
                let logits = r.f32(&[7, experts], &mut value);
                let bias = r.f32(&[experts], |r| (r.normal() * 2.0).round_ties_even() / 4.0);
                let params = json!({"groups": groups, "topk_group": topk_group, "topk": topk, "scoring": scoring,
                    "scale": 2.5, "renormalize": renormalize});
                cases.add("moe_gate", &[("logits", &logits)], params.clone(), &[]);
                cases.add("moe_gate", &[("logits", &logits), ("bias", &bias)], params, &[]);
            }
        }
    }
    compare(folder.path(), &cases, 130);
}

#[test]
fn heads_caches_and_layouts_equal_numpy() {
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Cases { folder: folder.path(), list: Vec::new() };
    let mut r = Random(4);

    for (rows, width, tokens, topk) in [(9, 33, 5, 4), (4, 8, 1, 1), (3, 5, 0, 2), (2, 7, 3, 0)] {
        let x = r.gaussian(&[rows, width]);
        let chosen: Vec<i64> = (0..tokens * topk).map(|_| r.below(rows as u64) as i64).collect();
        let row = int64(&[tokens, topk], &chosen);
        let weights = r.f32(&[tokens, topk], Random::normal);
        let inputs = [("x", &x), ("row", &row), ("weights", &weights)];
        cases.add("moe_combine", &inputs, json!({}), &[]);
        cases.add("moe_combine", &inputs, json!({}), &[("y", Dtype::F32)]);
    }

    let wide = |r: &mut Random| r.normal() * 2f32.powi(r.below(80) as i32 - 40);
    for (rows, vocabulary, width) in [(3, 21, 130), (1, 8, 1000), (2, 5, 0), (0, 4, 8)] {
        let h = r.bf16(&[rows, width], wide);
        let b = r.bf16(&[vocabulary, width], wide);
        cases.add("lm_head", &[("H", &h), ("B", &b)], json!({}), &[]);
    }

    // A large pair cancels and takes the terms before its second half along: which ones depends on the order.
    let mut h = r.gaussian(&[2, 66]);
    for (at, value) in [(0, 2f32.powi(60)), (20, -(2f32.powi(60)))] {
        h.bytes[2 * at..2 * at + 2].copy_from_slice(&bf16_from_f32(value).to_le_bytes());
    }
    let b = r.bf16(&[9, 66], |_| 1.0);
    cases.add("lm_head", &[("H", &h), ("B", &b)], json!({}), &[]);

    // Quotients close to ties, where x·(1/s) gives other codes.
    let x = r.gaussian(&[1, 4, 100]);
    let ties: Vec<f32> = x
        .bytes
        .chunks_exact(2)
        .map(|b| f32_from_bf16(u16::from_le_bytes([b[0], b[1]])).abs() / (r.below(126) as f32 + 0.5))
        .collect();
    let scale = Array::from_f32([4, 100], &ties);
    cases.add("kv_quant_int8", &[("x", &x), ("scale", &scale)], json!({}), &[]);

    let powers = |r: &mut Random| 448.0 * 2f32.powi(r.below(30) as i32 - 20);
    let values: [fn(&mut Random) -> f32; 4] =
        [Random::normal, |_| 0.0, powers, |r| r.normal() * 2f32.powi(r.below(60) as i32 - 30)];
    for value in values {
        let x = r.bf16(&[3, 576], value);
        cases.add("kv_quant_v32", &[("x", &x)], json!({}), &[]);
        let x = r.bf16(&[2, 5, 512], value);
        cases.add("kv_quant_model1", &[("x", &x)], json!({"block_size": 5}), &[]);
        let x = r.bf16(&[1, 64, 512], value);
        cases.add("kv_quant_model1", &[("x", &x)], json!({}), &[]);
        let x = r.bf16(&[6, 3, 20], value);
        for axis in ["head", "channel"] {
            cases.add("kv_quant_int8", &[("x", &x)], json!({"axis": axis}), &[("scale_out", Dtype::F32)]);
        }
        for shape in [&[3][..], &[3, 20]] {
            let scale = r.f32(shape, |r| r.uniform() * 0.05 + 0.001);
            cases.add("kv_quant_int8", &[("x", &x), ("scale", &scale)], json!({}), &[]);
        }
    }

    let any = |r: &mut Random| r.word() as u8;
    for (rows, cols) in [(1, 1), (5, 7), (16, 32), (33, 70), (0, 4), (8, 56)] {
        let x = r.bytes(Dtype::F8E8M0, &[rows, cols], any);
        cases.add("layout_ue8m0_pack", &[("x", &x)], json!({}), &[]);
        let words = r.bytes(Dtype::I32, &[rows, cols], any);
        cases.add("layout_ue8m0_tma", &[("x", &words)], json!({}), &[]);
        cases.add("layout_ue8m0_unpack", &[("x", &words)], json!({"cols": 4 * cols - cols.min(3)}), &[]);
        for dtype in [Dtype::BF16, Dtype::I8, Dtype::F8E4M3, Dtype::F32] {
            let x = r.bytes(dtype, &[rows, cols], any);
            cases.add("layout_nz", &[("x", &x)], json!({}), &[]);
            let tiled = run("layout_nz", &[("x", &x)], json!({}), &[]).unwrap().remove("y").unwrap();
            let shape = json!({"rows": rows, "cols": cols});
            cases.add("layout_nz_inverse", &[("x", &tiled)], shape.clone(), &[]);
            assert_eq!(run("layout_nz_inverse", &[("x", &tiled)], shape, &[]).unwrap()["y"], x);
            let x = r.bytes(dtype, &[2 * rows, cols], any);
            cases.add("layout_interleave", &[("x", &x)], json!({}), &[]);
            cases.add("layout_deinterleave", &[("x", &x)], json!({}), &[]);
        }
        let codes = r.bytes(Dtype::U8, &[rows, 8 * cols], |r| any(r) & 15);
        for order in ["ct", "awq"] {
            cases.add("layout_pack_i32", &[("x", &codes)], json!({"order": order}), &[]);
        }
        cases.add("layout_pack_nibbles", &[("x", &codes)], json!({}), &[]);
        let bytes = r.bytes(Dtype::U8, &[rows, cols], any);
        cases.add("layout_nibble_swap", &[("x", &bytes)], json!({}), &[]);
    }
    compare(folder.path(), &cases, 120);
}

#[test]
fn every_layout_has_an_inverse() {
    let mut r = Random(5);
    let mut bytes = |n: usize| -> Vec<u8> { (0..n).map(|_| r.word() as u8).collect() };
    for rows in [0, 1, 3, 16, 17, 40] {
        for cols in [1, 4, 7, 31, 32, 65] {
            let shape = [rows, cols];
            let x = bytes(rows * cols);
            let packed = layout::ue8m0_pack(shape, &x).unwrap();
            assert_eq!(layout::ue8m0_unpack([rows, cols.div_ceil(4)], cols, &packed).unwrap(), x);
            let words = bytes(4 * rows * cols);
            let moved = layout::ue8m0_tma(shape, &words).unwrap();
            assert_eq!(layout::ue8m0_tma_inverse(shape, &moved).unwrap(), words);
            for size in [1, 2, 4] {
                let x = bytes(rows * cols * size);
                let tiled = layout::nz(size, shape, &x).unwrap();
                assert_eq!(layout::nz_inverse(size, shape, &tiled).unwrap(), x);
            }
            let x = bytes(2 * rows * cols);
            assert_eq!(layout::deinterleave(cols, &layout::interleave(cols, &x).unwrap()).unwrap(), x);
            assert_eq!(layout::interleave(cols, &layout::deinterleave(cols, &x).unwrap()).unwrap(), x);
            assert_eq!(layout::nibble_swap(&layout::nibble_swap(&x)), x);
            let codes: Vec<u8> = bytes(8 * rows * cols).iter().map(|b| b & 15).collect();
            for order in [layout::WordOrder::Ct, layout::WordOrder::Awq] {
                let packed = layout::pack_i32(order, &codes).unwrap();
                assert_eq!(layout::unpack_i32(order, &packed).unwrap(), codes);
            }
            assert_eq!(layout::unpack_nibbles(&layout::pack_nibbles(&codes).unwrap()), codes);
        }
    }
}

/// `golden/rope_gate.json`.
fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle/golden/rope_gate.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|v| f32::from_bits(v.as_u64().unwrap() as u32)).collect()
}

fn number(values: &Value, name: &str) -> usize {
    values[name].as_u64().unwrap() as usize
}

#[test]
fn rotary_embeddings_equal_those_of_transformers() {
    for case in golden()["rope"].as_array().unwrap() {
        let width = number(case, "width");
        let positions: Vec<u32> =
            case["positions"].as_array().unwrap().iter().map(|p| p.as_u64().unwrap() as u32).collect();
        let real = |name: &str, default: f64| case["yarn"][name].as_f64().unwrap_or(default);
        let yarn = Yarn {
            factor: real("factor", 1.0),
            original_context: real("original_max_position_embeddings", 0.0),
            beta_fast: real("beta_fast", 32.0),
            beta_slow: real("beta_slow", 1.0),
            truncate: true,
        };

        let base = real("rope_theta", 0.0);
        for (form, name) in [(Form::Transformers, "frequencies"), (Form::DeepSeek, "deepseek_frequencies")] {
            // The library's power is up to an ulp off, and the sum of two parts can double that.
            let ours = frequencies(form, width, base, Some(&yarn));
            let theirs = floats(&case[name]);
            assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(&theirs) {
                assert!(a.to_bits().abs_diff(b.to_bits()) <= 2, "{name}: {a} {b}");
            }
            let equal = ours.iter().zip(&theirs).filter(|(a, b)| a == b).count();
            assert!(2 * equal > ours.len(), "{name}: only {equal} of {} equal", ours.len());
        }
        let (scale, all) = (real("mscale", 1.0), case["yarn"]["mscale_all_dim"].as_f64());
        let amplitude = mscale(yarn.factor, scale) / all.map_or(1.0, |all| mscale(yarn.factor, all));
        assert!((amplitude - case["amplitude"].as_f64().unwrap()).abs() < 1e-15);

        // From the same frequencies, tables differ by the library's functions only: an ulp, doubled by the amplitude.
        let [cos, sin] = tables(&positions, &floats(&case["frequencies"]), amplitude as f32);
        let (their_cos, their_sin) = (floats(&case["cos"]), floats(&case["sin"]));
        assert_eq!(cos.len(), their_cos.len());
        for (a, b) in cos.iter().chain(&sin).zip(their_cos.iter().chain(&their_sin)) {
            assert!((a - b).abs() <= 2f32.powi(-22) * b.abs() + 2f32.powi(-30), "{a} {b}");
        }

        // From the same tables, rotations are equal.
        let style = if case["style"] == "half" { Style::Half } else { Style::Interleaved };
        let x = floats(&case["x"]);
        let mut y = vec![0.0; x.len()];
        let shape = [positions.len(), number(case, "heads"), width];
        rope(style, shape, &x, &their_cos, &their_sin, &mut y).unwrap();
        let theirs = floats(&case["y"]);
        assert_eq!(
            y.iter().map(|y| y.to_bits()).collect::<Vec<_>>(),
            theirs.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
        );
    }
}

#[test]
fn router_agrees_with_transformers() {
    let case = &golden()["gate"];
    let gate = Gate {
        groups: number(case, "groups"),
        topk_group: number(case, "topk_group"),
        topk: number(case, "topk"),
        scale: case["scale"].as_f64().unwrap() as f32,
        scoring: Scoring::Sigmoid,
        renormalize: true,
    };
    let theirs = floats(&case["weights"]);
    let (mut idx, mut weights) = (vec![0; theirs.len()], vec![0.0; theirs.len()]);
    let bias = floats(&case["bias"]);
    moe_gate(gate, number(case, "experts"), &floats(&case["logits"]), Some(&bias), &mut idx, &mut weights)
        .unwrap();
    let chosen: Vec<i32> =
        case["idx"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap() as i32).collect();
    assert_eq!(idx, chosen);
    for (a, b) in weights.iter().zip(&theirs) {
        assert!((a - b).abs() <= 4.0 * f32::EPSILON * b, "{a} {b}");
    }
}

#[test]
fn arguments_that_do_not_fit_are_input_errors() {
    let mut r = Random(6);
    let bf16 = |shape: &[usize]| Array::new(Dtype::BF16, shape, vec![0; 2 * shape.iter().product::<usize>()]);
    let f32s = |shape: &[usize]| Array::new(Dtype::F32, shape, vec![0; 4 * shape.iter().product::<usize>()]);
    let e4m3 = |shape: &[usize]| Array::new(Dtype::F8E4M3, shape, vec![0; shape.iter().product::<usize>()]);
    let fails = |kernel: &str, inputs: &[(&str, &Array)], params: Value| {
        let error = run(kernel, inputs, params, &[]).unwrap_err();
        assert_eq!(error.class(), Class::Input, "{kernel}: {error}");
        assert!(error.code().starts_with("kernel-"), "{kernel}: {error}");
    };
    let x = bf16(&[2, 8]);
    let cut = Array::new(Dtype::BF16, [2, 8], vec![0; 31]);
    fails("rmsnorm", &[("x", &x)], json!({}));
    fails("rmsnorm", &[("x", &cut), ("w", &bf16(&[8]))], json!({}));
    fails("rmsnorm", &[("x", &x), ("w", &bf16(&[7]))], json!({}));
    fails("rmsnorm", &[("x", &f32s(&[2, 8])), ("w", &bf16(&[8]))], json!({}));
    fails("rmsnorm", &[("x", &x), ("w", &bf16(&[8]))], json!({"eps": "small"}));
    fails("add_rmsnorm", &[("x", &x), ("w", &bf16(&[8]))], json!({}));
    fails("add_rmsnorm", &[("x", &x), ("w", &bf16(&[8])), ("residual", &bf16(&[8, 2]))], json!({}));
    fails("rmsnorm_quant_fp8", &[("x", &x), ("w", &bf16(&[8]))], json!({"recipe": "int8_token"}));
    fails("rmsnorm_quant_s8", &[("x", &x), ("w", &bf16(&[8]))], json!({"recipe": "dg_fp8_f32"}));
    fails("swiglu", &[("x", &bf16(&[2, 7]))], json!({}));
    fails("swiglu", &[("x", &x)], json!({"limit": -1}));
    fails("swiglu", &[("x", &x), ("topk_weight", &f32s(&[3]))], json!({}));
    fails("swiglu_quant", &[("x", &x)], json!({"recipe": "none"}));
    let tables = [("cos", &f32s(&[2, 4])), ("sin", &f32s(&[2, 4]))];
    fails("rope", &[("x", &x), tables[0], ("sin", &f32s(&[2, 3]))], json!({}));
    fails("rope", &[("x", &x), tables[0], tables[1]], json!({"style": "both"}));
    fails("rope_half", &[("x", &bf16(&[2, 7])), ("cos", &f32s(&[2, 3])), ("sin", &f32s(&[2, 3]))], json!({}));
    fails("rope_half", &[("x", &bf16(&[8])), tables[0], tables[1]], json!({}));
    let mla = [
        ("q_nope", bf16(&[2, 3, 4])),
        ("q_pe", bf16(&[2, 3, 2])),
        ("kv_c", bf16(&[5, 6])),
        ("k_pe", bf16(&[5, 2])),
        ("W_UK", bf16(&[3, 4, 6])),
        ("W_UV", bf16(&[3, 7, 6])),
    ];
    for (i, (_, array)) in mla.iter().enumerate() {
        let mut longer = array.clone();
        longer.shape[0] += 1;
        longer.bytes = vec![0; 2 * longer.elements()];
        let inputs: Vec<_> =
            mla.iter().enumerate().map(|(j, (n, a))| (*n, if i == j { &longer } else { a })).collect();
        fails("mla_plain", &inputs, json!({}));
        fails("mla_absorbed", &inputs, json!({}));
    }
    let (q, kv, sink) = (bf16(&[2, 3, 4]), bf16(&[5, 4]), f32s(&[3]));
    for idx in [int32(&[2, 1], &[0, 5]), int32(&[2, 1], &[-2, 0]), int32(&[1, 1], &[0])] {
        fails("sparse_attn_sink", &[("q", &q), ("kv", &kv), ("idx", &idx), ("sink", &sink)], json!({}));
    }
    let (q, weights, ks) = (e4m3(&[2, 3, 4]), f32s(&[2, 3]), f32s(&[5]));
    let k = e4m3(&[5, 3]);
    fails("indexer_logits", &[("q", &q), ("k", &k), ("weights", &weights), ("ks", &ks)], json!({}));
    let logits = f32s(&[2, 8]);
    for params in [
        json!({"groups": 3, "topk": 2}),
        json!({"groups": 0, "topk": 2}),
        json!({"groups": 2, "topk_group": 3, "topk": 2}),
        json!({"groups": 2, "topk_group": 0, "topk": 2}),
        json!({"topk": 9}),
        json!({"topk": 2, "scoring": "relu"}),
    ] {
        fails("moe_gate", &[("logits", &logits)], params);
    }
    fails("moe_gate", &[("logits", &logits), ("bias", &f32s(&[7]))], json!({}));
    for row in [-1, 2] {
        let row = int64(&[1, 1], &[row]);
        fails("moe_combine", &[("x", &x), ("row", &row), ("weights", &f32s(&[1, 1]))], json!({}));
    }
    fails("lm_head", &[("H", &x), ("B", &bf16(&[3, 9]))], json!({}));
    fails("kv_quant_v32", &[("x", &x)], json!({}));
    fails("kv_quant_model1", &[("x", &bf16(&[1, 2, 512]))], json!({"block_size": 3}));
    fails("kv_quant_int8", &[("x", &bf16(&[1, 2, 4])), ("scale", &f32s(&[3]))], json!({}));
    fails("kv_quant_int8", &[("x", &bf16(&[1, 2, 4]))], json!({"axis": "token"}));
    let words = int32(&[2, 1], &[0, 0]);
    fails("layout_ue8m0_unpack", &[("x", &words)], json!({"cols": 5}));
    fails("layout_ue8m0_tma", &[("x", &x)], json!({}));
    fails("layout_nz", &[("x", &bf16(&[2]))], json!({}));
    fails("layout_nz_inverse", &[("x", &bf16(&[1, 1, 16, 16]))], json!({"rows": 17, "cols": 3}));
    fails("layout_nz_inverse", &[("x", &bf16(&[1, 1, 16, 8]))], json!({}));
    fails("layout_interleave", &[("x", &bf16(&[3, 4]))], json!({}));
    let codes = r.bytes(Dtype::U8, &[1, 12], |_| 3);
    fails("layout_pack_i32", &[("x", &codes)], json!({}));
    fails("layout_pack_nibbles", &[("x", &Array::new(Dtype::U8, [1, 2], vec![1, 16]))], json!({}));
    fails("layout_pack_nibbles", &[("x", &Array::new(Dtype::U8, [1, 3], vec![1; 3]))], json!({}));
    // Shapes whose product overflows are refused by their bytes.
    let vast = Array::new(Dtype::U8, [usize::MAX, 2], vec![]);
    fails("layout_nibble_swap", &[("x", &vast)], json!({}));
}
