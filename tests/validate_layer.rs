//! The kernel and layer levels: blocks against transformers, good artifacts, seeded defects.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests make and read their own files")]

mod support;

use safetensors::SafeTensors;
use silicast::checkpoint::Checkpoint;
use silicast::report::model::{Check, KernelRow, LayerRow, Verdict};
use silicast::validate::kernels::{self, Outcome, Request};
use silicast::validate::layer;
use std::path::{Path, PathBuf};
use support::binary::silicast;
use support::inputs::{fixture, locate, poke, read_model};
use support::model::edit_json;

/// SplitMix64 as `fixtures/oracle/heavy/hf_layers.py` has it.
struct Stream(xtask::rng::SplitMix64);

impl Stream {
    fn new(name: &str) -> Self {
        let mut state = 0xcbf2_9ce4_8422_2325u64;
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self(xtask::rng::SplitMix64::new(state))
    }

    fn states(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.0.next_u64() >> 55) as f32 / 128.0 - 2.0).collect()
    }

    fn tokens(&mut self, count: usize, vocabulary: u64) -> Vec<u32> {
        (0..count).map(|_| ((self.0.next_u64() >> 32) % vocabulary) as u32).collect()
    }
}

/// Fixtures of `fixtures/oracle/golden/layers.safetensors`.
const ORACLES: [&str; 10] = [
    "deepseek-v3",
    "deepseek-v3.2",
    "glm-moe-dsa",
    "kimi-k2",
    "glm4-moe-bf16",
    "llama-bf16",
    "mistral-bf16",
    "qwen2-bf16",
    "qwen3-fp8",
    "qwen3-moe-bf16",
];

/// Largest difference in proportion to the largest golden value.
fn distance(found: &[f32], golden: &[u8]) -> f64 {
    let golden: Vec<f32> =
        golden.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(found.len(), golden.len());
    let largest = golden.iter().fold(0f32, |m, v| m.max(v.abs()));
    let error =
        found.iter().zip(&golden).fold(0f64, |m, (a, b)| m.max((f64::from(*a) - f64::from(*b)).abs()));
    error / f64::from(largest)
}

#[test]
fn blocks_and_logits_are_those_of_transformers() {
    let golden = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle/golden/layers.safetensors"),
    )
    .unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let root = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for name in ORACLES {
        let source = if name == "glm-moe-dsa" {
            let dir = fixture(&root.path().join("glm"), "deepseek-v3.2");
            edit_json(&dir.join("config.json"), |c| c["model_type"] = "glm_moe_dsa".into());
            dir
        } else {
            fixture(root.path(), name)
        };
        let source = Checkpoint::open(&source).unwrap();
        for index in 0..2 {
            let entry = format!("{name}/block.{index}");
            let view = golden.tensor(&entry).unwrap();
            let [tokens, hidden] = view.shape() else { panic!("{entry} is no matrix") };
            let states = Stream::new(&entry).states(tokens * hidden);
            let found = layer::reference_block(&source, index, &states, *tokens).unwrap();
            let error = distance(&found, view.data());
            assert!(error < 1e-6, "{entry}: {error}");
            seen += 1;
        }
        let entry = format!("{name}/logits");
        let view = golden.tensor(&entry).unwrap();
        let ids = Stream::new(&entry).tokens(view.shape()[0], view.shape()[1] as u64);
        let error = distance(&layer::reference_logits(&source, &ids).unwrap(), view.data());
        assert!(error < 1e-5, "{entry}: {error}");
        seen += 1;
    }
    assert_eq!(seen, golden.len(), "an entry without a test");
}

/// Converts the fixture `name` below `root`; source and artifact.
fn converted(root: &Path, name: &str, target: &str, scheme: &str) -> (PathBuf, PathBuf) {
    let source = if root.join(name).exists() { root.join(name) } else { fixture(root, name) };
    let out = root.join(format!("{name}.{target}.{scheme}"));
    let (from, to) = (source.to_str().unwrap(), out.to_str().unwrap());
    let args = [
        "convert",
        from,
        "-o",
        to,
        "--target",
        target,
        "--scheme",
        scheme,
        "--validate",
        "none",
        "--progress",
        "none",
    ];
    silicast(args).expect(0);
    (source, out)
}

struct Levels {
    kernels: Outcome<KernelRow>,
    layers: Outcome<LayerRow>,
}

fn levels_with(source: &Path, artifact: &Path, jobs: usize, sample: f64) -> Levels {
    let (source, artifact) = (Checkpoint::open(source).unwrap(), Checkpoint::open(artifact).unwrap());
    let request = Request { artifact: &artifact, source: &source, jobs, memory: 256 << 20, sample, seed: 0 };
    Levels { kernels: kernels::run(&request).unwrap(), layers: layer::run(&request, true).unwrap() }
}

fn levels(source: &Path, artifact: &Path) -> Levels {
    levels_with(source, artifact, 2, 1.0)
}

impl Levels {
    fn checks(&self) -> impl Iterator<Item = &Check> {
        self.kernels.checks.iter().chain(&self.layers.checks)
    }

    fn failures(&self) -> Vec<String> {
        let failed = self.checks().filter(|c| !matches!(c.verdict, Verdict::Pass | Verdict::Skip));
        failed.map(|c| format!("{} {:?} {}", c.id, c.tensor, c.message)).collect()
    }

    /// The failing check `id` of `tensor`, whose message must contain `texts`.
    #[track_caller]
    fn says(&self, id: &str, tensor: Option<&str>, texts: &[&str]) {
        let found =
            self.checks().find(|c| c.id == id && c.tensor.as_deref() == tensor && c.verdict != Verdict::Pass);
        let Some(check) = found else { panic!("no {id} of {tensor:?} in {:#?}", self.failures()) };
        for text in texts {
            assert!(check.message.contains(text), "{text:?} is not in {:?}", check.message);
        }
    }
}

/// Every fixture that the layer level knows, in the schemes of both engines.
#[test]
fn good_artifacts_pass_every_level() {
    let root = tempfile::tempdir().unwrap();
    let cases = [
        ("deepseek-v3", &["W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "FP8_BLOCK_UE8M0", "BF16"][..]),
        ("deepseek-v3.2", &["W8A8", "FP8_BLOCK_UE8M0"]),
        ("kimi-k2", &["W8A8"]),
        ("glm4-moe-bf16", &["W8A8", "FP8_BLOCK"]),
        ("llama-bf16", &["W8A8", "W8A8_CT", "FP8_DYNAMIC", "FP8_BLOCK", "BF16"]),
        ("mistral-bf16", &["W8A8"]),
        ("qwen2-bf16", &["W8A8"]),
        ("qwen3-fp8", &["W8A8", "FP8_BLOCK"]),
        ("qwen3-moe-bf16", &["W8A8", "FP8_DYNAMIC"]),
    ];
    let mut wrong = Vec::new();
    for (name, schemes) in cases {
        for scheme in schemes {
            let (source, out) = converted(root.path(), name, "vllm", scheme);
            let found = levels(&source, &out);
            // A few times what these fixtures measure: far inside the gates.
            let limit = if *scheme == "BF16" {
                1e-4
            } else if scheme.starts_with("W8A8") {
                1e-3
            } else {
                6e-3
            };
            for row in &found.layers.rows {
                let value = row.metrics.calc_diff.unwrap();
                if value > limit {
                    wrong.push(format!("{name} {scheme}: {} {value:.1e}", row.name));
                }
            }
            wrong.extend(found.failures().into_iter().map(|f| format!("{name} {scheme}: {f}")));
            let layers = 3 - usize::from(!name.starts_with("deepseek") && !name.starts_with("glm"));
            assert_eq!(found.layers.rows.len(), layers + 1, "{name}");
            assert!(found.kernels.rows.iter().all(|r| r.metrics.same_specials == Some(true)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn results_do_not_depend_on_threads_and_a_sample_holds_every_kind() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = converted(root.path(), "deepseek-v3", "ascend-910b", "W8A8_DYNAMIC");
    let (one, three) = (levels_with(&source, &out, 1, 1.0), levels_with(&source, &out, 3, 1.0));
    assert_eq!(one.kernels.rows, three.kernels.rows);
    assert_eq!(one.layers.rows, three.layers.rows);
    assert!(one.failures().is_empty(), "{:#?}", one.failures());
    let sampled = levels_with(&source, &out, 2, 0.05);
    assert_eq!(sampled.kernels.rows.len(), one.kernels.rows.len());
    let kinds: Vec<&str> = sampled.layers.rows.iter().map(|r| r.kind.as_str()).collect();
    assert!(kinds.contains(&"deepseek-v3 dense") && kinds.contains(&"deepseek-v3 moe"), "{kinds:?}");
    assert!(sampled.failures().is_empty(), "{:#?}", sampled.failures());
}

/// Exchanges the bytes of two tensors of one artifact.
fn swap(dir: &Path, a: &str, b: &str) {
    let model = read_model(dir);
    poke(dir, a, 0, &model[b].data);
    poke(dir, b, 0, &model[a].data);
}

#[test]
fn an_exchanged_expert_is_named() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = converted(root.path(), "qwen3-moe-bf16", "vllm", "W8A8");
    let (a, b) = ("model.layers.1.mlp.experts.2.up_proj", "model.layers.1.mlp.experts.5.up_proj");
    for part in ["weight", "weight_scale"] {
        swap(&out, &format!("{a}.{part}"), &format!("{b}.{part}"));
    }
    let found = levels(&source, &out);
    let held = format!("it holds the source's {b}.weight");
    found.says("kernel-t5", Some(&format!("{a}.weight")), &[&held, "first bad output [0, "]);
    for module in [a, b] {
        found.says("layer-module", Some(module), &["on the source's inputs"]);
    }
    assert_eq!(found.kernels.rows.iter().filter(|r| r.verdict == Some(Verdict::Fail)).count(), 2);
}

#[test]
fn a_transposed_square_weight_and_permuted_rows_are_named() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = converted(root.path(), "llama-bf16", "vllm", "BF16");
    let name = "model.layers.0.self_attn.q_proj.weight";
    let (_, _, info) = locate(&out, name);
    let [rows, cols] = [info.shape[0] as usize, info.shape[1] as usize];
    assert_eq!(rows, cols);
    let data = read_model(&out)[name].data.clone();
    let element = |r: usize, c: usize| &data[(r * cols + c) * 2..][..2];
    let transposed: Vec<u8> =
        (0..rows).flat_map(|r| (0..cols).flat_map(move |c| element(c, r))).copied().collect();
    poke(&out, name, 0, &transposed);
    // Rope halves as neighbours, as other checkpoints of the family store them.
    let other = "model.layers.1.self_attn.q_proj.weight";
    let data = read_model(&out)[other].data.clone();
    let row = |r: usize| &data[r * cols * 2..][..cols * 2];
    let permuted: Vec<u8> =
        (0..rows).flat_map(|r| row(r / 64 * 64 + (r % 64) / 2 + (r % 2) * 32)).copied().collect();
    poke(&out, other, 0, &permuted);
    let found = levels(&source, &out);
    found.says("kernel-t2", Some(name), &["it holds the transpose of its source"]);
    found.says("kernel-t2", Some(other), &["rows are permuted: row 65 holds the source's row 96"]);
    for layer in ["model.layers.0", "model.layers.1"] {
        found.says("layer-output", Some(layer), &["self_attn.q_proj"]);
    }
    found.says("model-logits", None, &["KL divergence"]);
}

/// Nothing but a block sees parameters that belong to no matrix multiplication.
#[test]
fn norms_configuration_and_routing_are_seen_in_blocks() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = converted(root.path(), "qwen3-fp8", "vllm", "W8A8");
    swap(&out, "model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight");
    let found = levels(&source, &out);
    assert!(found.kernels.rows.iter().all(|r| r.verdict == Some(Verdict::Pass)));
    for norm in ["q_norm", "k_norm"] {
        found.says("layer-module", Some(&format!("model.layers.0.self_attn.{norm}")), &["at most 1e-5"]);
    }
    assert_eq!(found.failures().len(), 2, "{:#?}", found.failures());
    assert_eq!(found.layers.rows[1].verdict, Some(Verdict::Pass));

    let (source, out) = converted(root.path(), "llama-bf16", "vllm", "W8A8");
    edit_json(&out.join("config.json"), |c| c["rope_theta"] = 10_000.0.into());
    let found = levels(&source, &out);
    found.says("layer-config", None, &["rope frequencies"]);
    found.says("layer-module", Some("model.layers.0.self_attn.heads"), &["calc_diff"]);

    let (source, out) = converted(root.path(), "deepseek-v3", "vllm", "W8A8");
    let bias = "model.layers.1.mlp.gate.e_score_correction_bias";
    let values: Vec<u8> = (0..8).flat_map(|e| (if e < 2 { 5f32 } else { 0.0 }).to_le_bytes()).collect();
    poke(&out, bias, 0, &values);
    let found = levels(&source, &out);
    found.says("layer-module", Some(bias), &["on the source's inputs"]);
    found.says("layer-routing", Some("model.layers.1"), &["of the same experts"]);
    let agreement = found.layers.rows[1].routing_agreement.unwrap();
    assert!(agreement < 0.5, "{agreement}");
}

#[test]
fn an_artifact_that_lacks_a_tensor_and_an_unknown_family_end_in_checks() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = converted(root.path(), "llama-bf16", "vllm", "W8A8");
    edit_json(&out.join("config.json"), |c| c["num_attention_heads"] = 8.into());
    let found = levels(&source, &out);
    found.says(
        "layer-output",
        Some("model.layers.0.self_attn.q_proj.weight"),
        &["expected 512x256", "found 256x256"],
    );
    let (source, out) = converted(root.path(), "unknown-bf16", "vllm", "W8A8");
    let found = levels(&source, &out);
    assert!(found.layers.rows.is_empty());
    assert_eq!(found.layers.checks[0].verdict, Verdict::Skip);
    assert!(found.kernels.rows.len() > 3 && found.failures().is_empty(), "{:#?}", found.failures());
}
