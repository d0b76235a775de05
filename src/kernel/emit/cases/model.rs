//! Norms, activations, rotary embeddings, attention, the head and the cache: kernels 12 to 16, 19 and 20.

use super::super::golden::Draft;
use super::super::input::{Operand, Values, plain, values};
use super::{gemm, kind, operand, rng};
use crate::dtype::Dtype;
use crate::kernel::reference::array::Array;

/// The classes of inputs that are plain floats.
const FLOATS: [&str; 9] = [
    "gaussian",
    "small-int",
    "bf16-sweep",
    "exponent-sweep",
    "zero-block",
    "signed-zero",
    "outlier",
    "ragged",
    "empty",
];

pub(super) fn drafts(kernel: &'static str) -> Vec<Draft> {
    match kernel {
        "swiglu" | "swiglu_quant" => swiglu(kernel),
        "mla_plain" | "mla_absorbed" => mla(kernel),
        "sparse_attn_sink" => sparse(kernel),
        "indexer_logits" => indexer(kernel),
        "lm_head" => lm_head(kernel),
        "kv_quant_v32" | "kv_quant_model1" | "kv_quant_int8" => kv(kernel),
        name if name.contains("rmsnorm") => norm(kernel),
        name if name.starts_with("rope") => rope(kernel),
        _ => Vec::new(),
    }
}

/// A BF16 input of a class.
fn bf16(kernel: &str, class: &str, arg: &str, shape: &[usize]) -> Array {
    let (cols, rows) = match shape {
        [rest @ .., last] => (*last, rest.iter().product()),
        [] => (1, 1),
    };
    let x = values(kind(class, Dtype::F8E4M3), &mut rng(kernel, class, arg), rows, cols);
    plain(Dtype::BF16, shape.to_vec(), &x)
}

/// A BF16 input beside the one that a class is about.
fn beside(kernel: &str, class: &str, arg: &str, shape: &[usize], scale: f32) -> Array {
    let n = shape.iter().product();
    let x = values(Values::Gaussian, &mut rng(kernel, class, arg), 1, n);
    let x: Vec<f32> = x.iter().map(|v| v * scale).collect();
    plain(Dtype::BF16, shape.to_vec(), &x)
}

fn norm(kernel: &'static str) -> Vec<Draft> {
    let fp8 = kernel.ends_with("fp8");
    let plain_norm = !fp8 && !kernel.ends_with("s8");
    let added = kernel.starts_with("add_");
    let mut out = Vec::new();
    let case = |class: &'static str, weight: Dtype, residual: bool| {
        let [m, h] = match class {
            "bf16-sweep" if kernel == "rmsnorm" => [510, 128],
            "bf16-sweep" => [51, 128],
            "exponent-sweep" => [30, 160],
            "ragged" => [1, 131],
            "empty" => [0, 160],
            _ => [4, 256],
        };
        let w = values(Values::Gaussian, &mut rng(kernel, class, "w"), 1, h);
        let w: Vec<f32> = w.iter().map(|v| 1.0 + v / 8.0).collect();
        let mut draft = Draft::new(kernel, class)
            .param("eps", 1e-6)
            .input("x", bf16(kernel, class, "x", &[m, h]))
            .input("w", plain(weight, [h], &w));
        if residual {
            draft = draft
                .input("residual", beside(kernel, class, "residual", &[m, h], 1.0))
                .want("residual_out", Dtype::BF16);
        }
        if plain_norm {
            draft.want("y", Dtype::BF16)
        } else {
            let (codes, recipe) = if fp8 { (Dtype::F8E4M3, "dg_fp8_f32") } else { (Dtype::I8, "int8_token") };
            draft.param("recipe", recipe).want("codes", codes).want("scale", Dtype::F32)
        }
    };
    for class in FLOATS {
        out.push(case(class, Dtype::BF16, added));
    }
    out.push(case("gaussian", Dtype::F32, added).suffix("f32-w"));
    out.push(case("gaussian", Dtype::BF16, added).suffix("bf16-x").param("bf16_x", true));
    if !added {
        out.push(case("gaussian", Dtype::BF16, true).suffix("residual"));
    }
    if fp8 {
        for recipe in ["ds_fp8_f32_mul", "vllm_fp8_token", "dg_fp8_ue8m0"] {
            let mut draft = case("gaussian", Dtype::BF16, added)
                .suffix(recipe.trim_start_matches("fp8"))
                .param("recipe", recipe);
            draft.name = draft.name.replace('_', "-");
            let scale = if recipe.ends_with("ue8m0") { Dtype::F8E8M0 } else { Dtype::F32 };
            out.push(draft.want("scale", scale));
        }
    }
    out
}

fn swiglu(kernel: &'static str) -> Vec<Draft> {
    let mut out = Vec::new();
    let quantizes = kernel == "swiglu_quant";
    let case = |class: &'static str, limit: f64| {
        let [m, i] = match class {
            "bf16-sweep" => [255, 128],
            "exponent-sweep" => [30, 64],
            "ragged" => [1, 65],
            "empty" => [0, 64],
            _ => [4, 128],
        };
        let mut x = bf16(kernel, class, "x", &[m, 2 * i]);
        if matches!(class, "bf16-sweep" | "exponent-sweep") {
            // The ends of the range, of the gate: −∞ times a large number is no use of a test, so the other half is small.
            for (element, other) in beside(kernel, class, "up", &[m, 2 * i], 1.0).bytes.chunks(2).enumerate()
            {
                if element / i % 2 == 1 {
                    x.bytes[2 * element..][..2].copy_from_slice(other);
                }
            }
        }
        let draft = Draft::new(kernel, class).input("x", x);
        let draft = if limit > 0.0 { draft.param("limit", limit) } else { draft };
        if quantizes {
            draft.param("recipe", "int8_token").want("codes", Dtype::I8).want("scale", Dtype::F32)
        } else {
            draft.want("y", Dtype::BF16)
        }
    };
    for class in FLOATS {
        out.push(case(class, 0.0));
    }
    out.push(case("gaussian", 1.5).suffix("limit"));
    out.push(case("outlier", 7.0).suffix("limit"));
    let mut r = rng(kernel, "gaussian", "topk_weight");
    let weight: Vec<f32> = (0..4).map(|_| r.uniform()).collect();
    let weighted = case("gaussian", 0.0).suffix("weight").input("topk_weight", Array::from_f32([4], &weight));
    out.push(weighted);
    if quantizes {
        for class in ["gaussian", "outlier", "zero-block"] {
            let fp8 = case(class, 0.0).suffix("fp8").param("recipe", "dg_fp8_f32");
            out.push(fp8.want("codes", Dtype::F8E4M3));
        }
    }
    out
}

/// cos and sin tables of `t` positions from `first` for `r` rotary dimensions, from a Taylor series: data, not part of a
/// kernel. With `yarn`, frequencies are divided by 40 over a ramp and the tables multiplied by 0.1·ln 40 + 1.
fn tables(first: usize, t: usize, r: usize, yarn: bool) -> [Vec<f32>; 2] {
    // 10000^(-2/64) to the power of 64 / r.
    let base: f64 = 0.749_894_209_332_455_9;
    let ratio = (0..64 / r.max(1)).fold(1.0, |p, _| p * base);
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    for position in first..first + t {
        let mut frequency = 1.0f64;
        for i in 0..r / 2 {
            let ramp = ((i as f64 - 10.0) / 13.0).clamp(0.0, 1.0);
            let (angle, scale) = match yarn {
                true => (frequency * (1.0 - ramp) + frequency / 40.0 * ramp, 1.368_887_945_411_393_6),
                false => (frequency, 1.0),
            };
            let [c, s] = cos_sin(angle * position as f64);
            cos.push((c * scale) as f32);
            sin.push((s * scale) as f32);
            frequency *= ratio;
        }
    }
    [cos, sin]
}

/// cos and sin by Taylor series after reduction by multiples of π/2; the same bits on every machine.
fn cos_sin(x: f64) -> [f64; 2] {
    let quarter = std::f64::consts::FRAC_PI_2;
    let turns = (x / quarter).round();
    let y = x - turns * quarter;
    let (mut terms, mut sums) = ([1.0, y], [0.0, 0.0]);
    for step in 0..12 {
        let n = f64::from(2 * step);
        for i in 0..2 {
            sums[i] += terms[i];
            let k = n + i as f64;
            terms[i] *= -y * y / ((k + 1.0) * (k + 2.0));
        }
    }
    let [c, s] = sums;
    match turns as i64 & 3 {
        0 => [c, s],
        1 => [-s, c],
        2 => [-c, -s],
        _ => [s, -c],
    }
}

fn rope(kernel: &'static str) -> Vec<Draft> {
    let case = |class: &'static str, shape: &[usize], first: usize, yarn: bool| {
        let (t, r) = (shape[0], shape[shape.len() - 1]);
        let [cos, sin] = tables(first, t, r, yarn);
        Draft::new(kernel, class)
            .input("x", bf16(kernel, class, "x", shape))
            .input("cos", Array::from_f32([t, r / 2], &cos))
            .input("sin", Array::from_f32([t, r / 2], &sin))
            .want("y", Dtype::BF16)
    };
    let mut out = Vec::new();
    for class in FLOATS {
        let shape: &[usize] = match class {
            "bf16-sweep" => &[16, 4, 64],
            "exponent-sweep" => &[20, 2, 64],
            "ragged" => &[1, 1, 16],
            "empty" => &[0, 2, 64],
            _ => &[5, 3, 64],
        };
        let draft = case(class, shape, 0, false);
        out.push(if kernel == "rope" { draft.param("style", "half") } else { draft });
    }
    out.push(case("gaussian", &[7, 2, 64], 4090, true).suffix("yarn"));
    out.push(case("gaussian", &[6, 32], 100, false).suffix("no-heads"));
    if kernel == "rope" {
        out.push(case("gaussian", &[5, 3, 64], 9, true).suffix("interleaved").param("style", "interleaved"));
    }
    out
}

fn mla(kernel: &'static str) -> Vec<Draft> {
    let case = |class: &'static str, [t, s, heads, nope, v]: [usize; 5]| {
        // Both forms get the same inputs.
        let arg = |name: &str, shape: &[usize], scale: f32| match class {
            "small-int" => bf16("mla", class, name, shape),
            _ => beside("mla", class, name, shape, scale),
        };
        Draft::new(kernel, class)
            .param("scale", 0.0625)
            .input("q_nope", arg("q_nope", &[t, heads, nope], 1.0))
            .input("q_pe", arg("q_pe", &[t, heads, 64], 1.0))
            .input("kv_c", arg("kv_c", &[s, 512], 1.0))
            .input("k_pe", arg("k_pe", &[s, 64], 1.0))
            .input("W_UK", arg("W_UK", &[heads, nope, 512], 0.05))
            .input("W_UV", arg("W_UV", &[heads, v, 512], 0.05))
            .want("y", Dtype::F64)
    };
    let mut out = vec![
        case("gaussian", [5, 5, 2, 12, 8]),
        case("gaussian", [3, 7, 2, 12, 8]).suffix("prefix"),
        case("gaussian", [5, 5, 2, 12, 8]).suffix("full").param("causal", false),
        case("gaussian", [5, 5, 2, 12, 8]).suffix("cast-p").param("cast_p", true),
        case("gaussian", [5, 5, 2, 12, 8]).suffix("f32").want("y", Dtype::F32),
        case("ragged", [1, 1, 1, 7, 3]),
        case("empty", [0, 4, 1, 8, 4]),
    ];
    let mut small = case("small-int", [4, 4, 1, 8, 4]);
    small.params.insert("scale".to_owned(), 0.000_976_562_5.into());
    out.push(small);
    out
}

fn ints(values: impl IntoIterator<Item = i32>, shape: impl Into<Vec<usize>>) -> Array {
    Array::new(Dtype::I32, shape, values.into_iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn sparse(kernel: &'static str) -> Vec<Draft> {
    let case = |class: &'static str, [t, s, heads, dim, n]: [usize; 5]| {
        let mut r = rng(kernel, class, "idx");
        // A sixth of the entries is masked, and the whole second row.
        let idx = (0..t * n).map(|i| match r.below(6) {
            0 => -1,
            _ if n > 0 && i / n == 1 => -1,
            _ => r.below(s as u32) as i32,
        });
        let idx = ints(idx.collect::<Vec<_>>(), [t, n]);
        let sink = values(Values::Gaussian, &mut rng(kernel, class, "sink"), 1, heads);
        Draft::new(kernel, class)
            .param("scale", 0.125)
            .input("q", bf16(kernel, class, "q", &[t, heads, dim]))
            .input(
                "kv",
                if class == "exponent-sweep" || class == "outlier" {
                    beside(kernel, class, "kv", &[s, dim], 1.0)
                } else {
                    bf16(kernel, class, "kv", &[s, dim])
                },
            )
            .input("idx", idx)
            .input("sink", Array::from_f32([heads], &sink))
            .want("y", Dtype::BF16)
    };
    let usual = [4, 20, 3, 64, 12];
    let mut out = Vec::new();
    for class in ["gaussian", "small-int", "zero-block", "signed-zero", "outlier"] {
        out.push(case(class, usual));
    }
    out.push(case("gaussian", usual).suffix("f32-p").param("cast_p", "f32"));
    out.push(case("ragged", [1, 3, 1, 20, 5]));
    out.push(case("empty", [0, 3, 2, 16, 4]));
    out.push(case("empty", [2, 3, 2, 16, 0]).suffix("n"));
    out
}

fn indexer(kernel: &'static str) -> Vec<Draft> {
    let mut out = Vec::new();
    for class in gemm::CLASSES {
        let [t, s, heads, dim] = match class {
            "ragged" => [1, 7, 3, 33],
            "empty" => [0, 5, 2, 64],
            "tails" => [2, 70, 5, 96],
            _ => [3, 10, 4, 128],
        };
        let op = Operand { element: Dtype::F8E4M3, block: [1, 0], scale: Dtype::F32 };
        let mut q = operand(class, op, &mut rng(kernel, class, "q"), [t * heads, dim], false);
        let mut k = operand(class, op, &mut rng(kernel, class, "k"), [s, dim], true);
        // The scale of q goes into the weights, whose signs are mixed.
        let sign = values(Values::Gaussian, &mut rng(kernel, class, "weights"), t, heads);
        let folded: Vec<u8> = (q.scales.bytes.chunks_exact(4).zip(&sign))
            .flat_map(|(scale, sign)| {
                let scale = f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]);
                (scale * sign).to_le_bytes()
            })
            .collect();
        q.codes.shape = vec![t, heads, dim];
        k.scales.shape = vec![s];
        let draft = Draft::new(kernel, class)
            .input("q", q.codes)
            .input("k", k.codes)
            .input("weights", Array::new(Dtype::F32, [t, heads], folded))
            .input("ks", k.scales);
        out.push(draft.want("y", Dtype::F32));
    }
    out
}

fn lm_head(kernel: &'static str) -> Vec<Draft> {
    let mut out = Vec::new();
    for class in FLOATS {
        let [m, v, h] = match class {
            "bf16-sweep" => [8, 5, 510],
            "exponent-sweep" => [10, 5, 256],
            "ragged" => [1, 33, 131],
            "empty" => [0, 9, 64],
            _ => [3, 40, 256],
        };
        let b = match class {
            "bf16-sweep" | "exponent-sweep" => beside(kernel, class, "B", &[v, h], 1.0 / 1_048_576.0),
            _ => bf16(kernel, class, "B", &[v, h]),
        };
        let draft = Draft::new(kernel, class).input("H", bf16(kernel, class, "H", &[m, h]));
        out.push(draft.input("B", b).want("C", Dtype::F32));
    }
    out
}

fn kv(kernel: &'static str) -> Vec<Draft> {
    let mut out = Vec::new();
    for class in gemm::CLASSES {
        if matches!(class, "all-codes" | "tails") {
            continue;
        }
        let shape: &[usize] = match (kernel, class) {
            ("kv_quant_v32", "empty") => &[0, 576],
            ("kv_quant_v32", "ragged") => &[1, 576],
            ("kv_quant_v32", "bf16-sweep" | "exponent-sweep") => &[40, 576],
            ("kv_quant_v32", _) => &[4, 576],
            ("kv_quant_model1", "empty") => &[0, 4, 512],
            ("kv_quant_model1", "ragged") => &[1, 1, 512],
            ("kv_quant_model1", "bf16-sweep" | "exponent-sweep") => &[3, 16, 512],
            ("kv_quant_model1", _) => &[2, 5, 512],
            (_, "empty") => &[0, 3, 32],
            (_, "ragged") => &[1, 1, 7],
            (_, "bf16-sweep" | "exponent-sweep") => &[16, 8, 32],
            _ => &[6, 3, 32],
        };
        let draft = Draft::new(kernel, class).input("x", bf16(kernel, class, "x", shape));
        if kernel != "kv_quant_int8" {
            out.push(draft.want("y", Dtype::U8));
            continue;
        }
        for axis in ["head", "channel"] {
            let draft = draft.clone().suffix(axis).param("axis", axis).want("codes", Dtype::I8);
            out.push(draft.want("scale_out", Dtype::F32));
        }
        if class == "gaussian" {
            let scale = Array::from_f32([3], &[0.01, 0.02, 0.5]);
            let given = draft.clone().suffix("head-given").param("axis", "head").input("scale", scale);
            out.push(given.want("codes", Dtype::I8));
        }
    }
    out
}
