//! `silicast check` on seeded defects.
//!
//! Every case damages an artifact the way that tools and people do and asks for one finding, by id and tensor. The other
//! half of the proof is `check_matrix.rs`: known-good artifacts raise nothing.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests make their own files and panic to fail"
)]

mod support;

use serde_json::{Value, json};
use silicast::validate::contract::{self, rules};
use std::fs;
use std::path::Path;
use std::process::Command;
use support::model::{BIN, Model, artifact, edit_json};

/// Exit code and document of `check --json`.
fn check(dir: &Path, args: &[&str]) -> (i32, Value) {
    let run = Command::new(BIN).args(["check", "--json"]).args(args).arg(dir).output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let document = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&run.stderr)));
    (run.status.code().unwrap(), document)
}

/// A defect: what it does to a folder, and the finding that must appear.
struct Case {
    id: &'static str,
    tensor: Option<&'static str>,
    args: &'static [&'static str],
    damage: fn(&Path),
}

const fn case(id: &'static str, tensor: &'static str, damage: fn(&Path)) -> Case {
    Case { id, tensor: if tensor.is_empty() { None } else { Some(tensor) }, args: &[], damage }
}

/// Runs every case on its own copy of the artifact, which is fine before it is damaged.
fn run_cases(fixture: &str, target: Option<(&str, &str)>, cases: &[Case]) {
    let (_keep, good) = artifact(fixture, target, &[]);
    assert_eq!(check(&good, &[]).0, 0, "{fixture} before any damage");
    let mut failures = Vec::new();
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&good).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
        }
        (case.damage)(dir.path());
        let (code, document) = check(dir.path(), case.args);
        let rule = contract::RULES.iter().find(|r| r.id == case.id);
        let is_error = rule.is_none_or(|r| r.severity.name() == "error");
        let findings = document["findings"].as_array().unwrap();
        let hit =
            findings.iter().find(|f| f["id"] == case.id && case.tensor.is_none_or(|t| f["tensor"] == t));
        let list = || {
            findings.iter().map(|f| format!("{} {}", f["id"], f["tensor"])).collect::<Vec<_>>().join("\n    ")
        };
        match hit {
            None => failures.push(format!(
                "{} {:?} not found (exit {code}), but\n    {}",
                case.id,
                case.tensor,
                list()
            )),
            Some(f) => {
                let complete = ["severity", "expected", "found", "fix"]
                    .iter()
                    .all(|k| f[*k].as_str().is_some_and(|t| !t.is_empty()));
                let errors = findings.iter().filter(|f| f["severity"] == "error").count();
                assert!(complete, "{f}");
                assert_eq!(document["errors"], errors);
                assert_eq!(document["schema_version"], 1);
                assert_eq!(f["severity"], if is_error { "error" } else { "warning" });
                if code != i32::from(errors > 0) || (is_error && code != 1) {
                    failures.push(format!("{}: exit {code} with {errors} errors", case.id));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{fixture}:\n{}", failures.join("\n"));
}

const DESCRIPTION: &str = "quant_model_description.json";

fn describe(dir: &Path, edit: impl FnOnce(&mut Value)) {
    edit_json(&dir.join(DESCRIPTION), edit);
}

fn config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    edit_json(&dir.join("config.json"), edit);
}

fn model(dir: &Path, edit: impl FnOnce(&mut Model)) {
    let mut model = Model::load(dir);
    edit(&mut model);
    model.save();
}

fn remove(object: &mut Value, key: &str) {
    object.as_object_mut().unwrap().remove(key).unwrap();
}

const Q_A: &str = "model.layers.0.self_attn.q_a_proj.weight";
const O: &str = "model.layers.0.self_attn.o_proj.weight";
const O_SCALE: &str = "model.layers.0.self_attn.o_proj.weight_scale";
const O_OFFSET: &str = "model.layers.0.self_attn.o_proj.weight_offset";
const KV_B: &str = "model.layers.0.self_attn.kv_b_proj.weight";
const DOWN_3: &str = "model.layers.1.mlp.experts.3.down_proj.weight";

#[test]
fn ascend_files_and_description() {
    run_cases(
        "deepseek-v3",
        Some(("ascend-910b", "W8A8_DYNAMIC")),
        &[
            case("description-missing", "", |d| fs::remove_file(d.join(DESCRIPTION)).unwrap()),
            case("description-name", "", |d| {
                fs::rename(d.join(DESCRIPTION), d.join("quant_model_description_w8a8.json")).unwrap();
            }),
            case("description-json", "", |d| fs::write(d.join(DESCRIPTION), "{\"a\":").unwrap()),
            case("description-key-missing", O, |d| describe(d, |v| remove(v, O))),
            case("description-key-missing", "lm_head.weight", |d| {
                describe(d, |v| remove(v, "lm_head.weight"))
            }),
            case("description-key-missing", "model.embed_tokens.weight", |d| {
                describe(d, |v| remove(v, "model.embed_tokens.weight"))
            }),
            case("description-key-missing", "model.layers.2.eh_proj.weight", |d| {
                describe(d, |v| remove(v, "model.layers.2.eh_proj.weight"))
            }),
            case("description-key-missing", "model.layers.2.shared_head.head.weight", |d| {
                describe(d, |v| remove(v, "model.layers.2.shared_head.head.weight"));
                model(d, |m| m.remove("model.layers.2.shared_head.head.weight"));
            }),
            case("description-entry-missing", "model.norm.weight", |d| {
                describe(d, |v| remove(v, "model.norm.weight"))
            }),
            case("description-tensor-unknown", "model.layers.9.mlp.down_proj.weight", |d| {
                describe(d, |v| v["model.layers.9.mlp.down_proj.weight"] = json!("W8A8_DYNAMIC"));
            }),
            case("tag-unknown", O, |d| describe(d, |v| v[O] = json!("WFP8AFP8_DYNAMIC"))),
            case("tag-unknown", O, |d| describe(d, |v| v[O] = json!("W4A4_MXFP4_DUALSCALE"))),
            case("tag-unknown", O, |d| describe(d, |v| v[O] = json!("W4A4_MXFP4_SVD"))),
            case("tag-unknown", O, |d| describe(d, |v| v[O] = json!("W16A16S"))),
            case("tag-inconsistent", O_SCALE, |d| describe(d, |v| v[O_SCALE] = json!("FLOAT"))),
            case("fused-tags-mixed", Q_A, |d| describe(d, |v| v[Q_A] = json!("FLOAT"))),
            case("fused-tags-mixed", "model.layers.0.mlp.up_proj.weight", |d| {
                describe(d, |v| v["model.layers.0.mlp.up_proj.weight"] = json!("FLOAT"));
            }),
            case("expert-tags-mixed", DOWN_3, |d| describe(d, |v| v[DOWN_3] = json!("W8A16"))),
            case("scheme-not-moe", DOWN_3, |d| describe(d, |v| v[DOWN_3] = json!("W8A16"))),
            case("kv-b-quantized", KV_B, |d| describe(d, |v| v[KV_B] = json!("W8A8_DYNAMIC"))),
            case("w4a8-linear", O, |d| describe(d, |v| v[O] = json!("W4A8_DYNAMIC"))),
            case("tag-not-on-chip", O, |d| describe(d, |v| v[O] = json!("W8A8S")))
                .with(&["--target", "ascend-910b"]),
            case("group-size", "", |d| {
                describe(d, |v| {
                    v[DOWN_3] = json!("W4A8_DYNAMIC");
                    v["group_size"] = json!(128);
                });
            }),
            case("group-size", "", |d| describe(d, |v| v["group_size"] = json!(256))),
            case("model-quant-type", "", |d| describe(d, |v| remove(v, "model_quant_type"))),
            case("prefix-collision", O, |d| {
                describe(d, |v| v["model.layers.0.self_attn.o_proj_extra.weight"] = json!("FLOAT"));
            }),
            case("mtp-missing", "", |d| {
                model(d, |m| m.retain(|n| !n.starts_with("model.layers.2.")));
                describe(d, |v| v.as_object_mut().unwrap().retain(|k, _| !k.starts_with("model.layers.2.")));
            }),
            case("quantization-config-left", "", |d| {
                config(d, |v| v["quantization_config"] = json!({"quant_method": "fp8"}))
            }),
            case("quantization-config-left", "", |d| {
                config(d, |v| v["text_config"] = json!({"quantization_config": {"quant_method": "fp8"}}));
            }),
            case("torch-dtype-float16", "", |d| config(d, |v| v["torch_dtype"] = json!("float16"))),
            case("index-stale", "", |d| {
                let map = json!({Q_A: "model-00001-of-00002.safetensors"});
                let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
                fs::write(d.join("model.safetensors.index.json"), index.to_string()).unwrap();
            }),
            case("index-stale", "", |d| {
                // The source's only shard is left behind too, so that the index names a file that exists.
                fs::copy(
                    d.join("quant_model_weights-00001-of-00001.safetensors"),
                    d.join("model.safetensors"),
                )
                .unwrap();
                let index = json!({"weight_map": {Q_A: "model.safetensors"}});
                fs::write(d.join("model.safetensors.index.json"), index.to_string()).unwrap();
            }),
        ],
    );
}

#[test]
fn ascend_tensors() {
    run_cases(
        "deepseek-v3",
        Some(("ascend-910b", "W8A8_DYNAMIC")),
        &[
            case("weight-dtype", O, |d| model(d, |m| m.retype(O, "BF16"))),
            case("weight-dtype", O, |d| describe(d, |v| v[O] = json!("FLOAT"))),
            case("scale-rank", O_SCALE, |d| model(d, |m| m.reshape(O_SCALE, &[256]))),
            case("scale-grid", O_SCALE, |d| model(d, |m| m.truncate(O_SCALE, &[255, 1]))),
            case("scale-dtype", O_SCALE, |d| model(d, |m| m.retype(O_SCALE, "I32"))),
            case("scale-narrow", O_SCALE, |d| {
                model(d, |m| {
                    m.retype(O_SCALE, "BF16");
                    m.fill(O_SCALE, &[0x80, 0x3f]);
                });
            }),
            case("scale-missing", O_SCALE, |d| model(d, |m| m.remove(O_SCALE))),
            case("parameter-missing", O_OFFSET, |d| model(d, |m| m.remove(O_OFFSET))),
            case("offset-nonzero", O_OFFSET, |d| model(d, |m| m.set_f32(O_OFFSET, 7, 1.0))),
            case("scale-not-bf16", O_SCALE, |d| model(d, |m| m.set_f32(O_SCALE, 7, 0.1))),
            case("scale-zero", O_SCALE, |d| model(d, |m| m.set_f32(O_SCALE, 255, 0.0))),
            case("scale-negative", O_SCALE, |d| model(d, |m| m.set_f32(O_SCALE, 0, -0.5))),
            case("scale-not-finite", O_SCALE, |d| model(d, |m| m.set_f32(O_SCALE, 3, f32::NAN))),
            case("chip-no-fp8", O, |d| model(d, |m| m.retype(O, "F8_E4M3")))
                .with(&["--target", "ascend-910c"]),
            case("experts-stacked", O, |d| model(d, |m| m.reshape(O, &[2, 128, 256]))),
            case("expert-missing", DOWN_3, |d| model(d, |m| m.remove(DOWN_3))),
            case("router-quantized", "model.layers.1.mlp.gate.weight", |d| {
                model(d, |m| m.retype("model.layers.1.mlp.gate.weight", "I8"))
            }),
            case("router-bias-dtype", "model.layers.1.mlp.gate.e_score_correction_bias", |d| {
                model(d, |m| m.retype("model.layers.1.mlp.gate.e_score_correction_bias", "BF16"));
            }),
            case("parameter-missing", "model.layers.0.self_attn.o_proj.deq_scale", |d| {
                describe(d, |v| v[O] = json!("W8A8"))
            }),
            case("deq-scale-dtype", "model.layers.0.self_attn.o_proj.deq_scale", |d| {
                describe(d, |v| v[O] = json!("W8A8"));
                model(d, |m| m.add("model.layers.0.self_attn.o_proj.deq_scale", "I64", &[256], 1));
            }),
            case("parameter-shape", "model.layers.0.self_attn.o_proj.quant_bias", |d| {
                describe(d, |v| v[O] = json!("W8A8"));
                model(d, |m| m.add("model.layers.0.self_attn.o_proj.quant_bias", "I32", &[255], 0));
            }),
            case("parameter-dtype", "model.layers.0.self_attn.o_proj.quant_bias", |d| {
                describe(d, |v| v[O] = json!("W8A8"));
                model(d, |m| m.add("model.layers.0.self_attn.o_proj.quant_bias", "F32", &[256], 0));
            }),
        ],
    );
    run_cases(
        "qwen2-bf16",
        Some(("ascend-910b", "W8A8_DYNAMIC")),
        &[case("bias-dtype", "model.layers.0.self_attn.q_proj.bias", |d| {
            model(d, |m| m.retype("model.layers.0.self_attn.q_proj.bias", "BF16"));
        })],
    );
}

/// Turns the experts of layer 1 into W4A8_DYNAMIC, `columns` of scale_bias beside down projections.
fn w4a8(dir: &Path, columns: u64) {
    let is_expert = |n: &str| n.starts_with("model.layers.1.mlp.experts.") && n.ends_with(".weight");
    let mut model = Model::load(dir);
    let names: Vec<String> = model.names().into_iter().filter(|n| is_expert(n)).collect();
    let mut entries = Vec::new();
    for name in &names {
        let [n, k] = model.shape(name)[..] else { panic!("{name}") };
        model.truncate(name, &[n / 2, k]);
        let columns = if name.contains("down_proj") { columns } else { 1 };
        let bias = name.replace(".weight", ".scale_bias");
        model.add(&bias, "F32", &[n, columns], 0);
        for suffix in ["", "_scale", "_offset"] {
            entries.push(format!("{name}{suffix}"));
        }
        entries.push(bias);
    }
    model.save();
    describe(dir, |v| entries.iter().for_each(|e| v[e] = json!("W4A8_DYNAMIC")));
}

#[test]
fn ascend_w4a8_experts_want_sixteen_columns() {
    let (_keep, out) = artifact("deepseek-v3", Some(("ascend-910b", "W8A8_DYNAMIC")), &[]);
    w4a8(&out, 16);
    let (code, document) = check(&out, &[]);
    assert_eq!((code, &document["findings"]), (0, &json!([])));
    let (_keep, out) = artifact("deepseek-v3", Some(("ascend-910b", "W8A8_DYNAMIC")), &[]);
    w4a8(&out, 1);
    let (code, document) = check(&out, &[]);
    let findings = document["findings"].as_array().unwrap();
    assert!(
        code == 1 && findings.len() == 8 && findings.iter().all(|f| f["id"] == "scale-bias-shape"),
        "{document:#}"
    );
    assert_eq!(findings[0]["tensor"], "model.layers.1.mlp.experts.0.down_proj.scale_bias");
}

impl Case {
    const fn with(mut self, args: &'static [&'static str]) -> Case {
        self.args = args;
        self
    }
}

fn group(dir: &Path, edit: impl FnOnce(&mut Value)) {
    config(dir, |v| edit(&mut v["quantization_config"]["config_groups"]["group_0"]));
}

fn ignore(dir: &Path, entry: &str) {
    config(dir, |v| v["quantization_config"]["ignore"].as_array_mut().unwrap().push(json!(entry)));
}

const K: &str = "model.layers.0.self_attn.k_proj.weight";
const K_SCALE: &str = "model.layers.0.self_attn.k_proj.weight_scale";

#[test]
fn compressed_tensors_config() {
    run_cases(
        "glm4-moe-bf16",
        Some(("metax-c500", "W8A8")),
        &[
            case("quantization-config-missing", "", |d| config(d, |v| remove(v, "quantization_config"))),
            case("quantization-config-missing", "", |d| config(d, |v| remove(v, "quantization_config")))
                .with(&["--engine", "vllm-hcu"]),
            case("compression-config", "", |d| {
                config(d, |v| {
                    let q = v["quantization_config"].take();
                    remove(v, "quantization_config");
                    v["compression_config"] = q;
                });
            }),
            case("config-groups", "", |d| {
                config(d, |v| v["quantization_config"]["config_groups"] = json!({}))
            }),
            case("config-key-unknown", "", |d| group(d, |g| g["weights"]["clip_ratio"] = json!(1))),
            case("config-key-unknown", "", |d| group(d, |g| g["comment"] = json!("x"))),
            case("sparsity-config", "", |d| {
                config(d, |v| v["quantization_config"]["sparsity_config"] = json!({"targets": ["Linear"]}))
            }),
            case("format-dtype", "", |d| group(d, |g| g["format"] = json!("float-quantized"))),
            case("format-dtype", "", |d| group(d, |g| g["format"] = json!("pack-quantized"))),
            case("format-dtype", "", |d| group(d, |g| g["format"] = json!("int-quantised"))),
            case("num-bits-dtype", "", |d| group(d, |g| g["weights"]["type"] = json!("float"))),
            case("activations-missing", "", |d| group(d, |g| g["input_activations"] = Value::Null)),
            case("ignore-half-fused", K, |d| ignore(d, "model.layers.0.self_attn.k_proj")),
            case("ignored-but-quantized", O, |d| ignore(d, "model.layers.0.self_attn.o_proj")),
            case("ignored-but-quantized", DOWN_3, |d| ignore(d, "re:.*experts\\.3\\..*")),
            case("ignored-but-quantized", O, |d| ignore(d, "re:^(?!.*\\.experts\\.).*")),
            case("ignore-unmatched", "", |d| ignore(d, "model.layers.0.self_attn.okproj")),
            case("pattern-unread", "", |d| ignore(d, "re:.*(?<!gate)_proj")),
            case("method-unchecked", "", |d| {
                config(d, |v| v["quantization_config"] = json!({"quant_method": "awq", "bits": 4}))
            }),
            case("weight-not-quantized", "model.layers.0.self_attn.q_proj.weight", |d| {
                let names = ["q", "k", "v"].map(|p| format!("model.layers.0.self_attn.{p}_proj.weight"));
                model(d, |m| names.iter().for_each(|n| m.retype(n, "BF16")));
            }),
        ],
    );
}

#[test]
fn compressed_tensors_tensors() {
    let int8 = [
        case("scale-missing", K_SCALE, |d| model(d, |m| m.remove(K_SCALE))),
        case("scale-rank", K_SCALE, |d| model(d, |m| m.reshape(K_SCALE, &[128]))),
        case("scale-grid", K_SCALE, |d| model(d, |m| m.truncate(K_SCALE, &[1, 1]))),
        case("scale-dtype", K_SCALE, |d| model(d, |m| m.retype(K_SCALE, "I32"))),
        case("scale-zero", K_SCALE, |d| model(d, |m| m.set_f32(K_SCALE, 1, 0.0))),
        case("scale-negative", K_SCALE, |d| model(d, |m| m.set_f32(K_SCALE, 1, -1.0))),
        case("scale-not-finite", K_SCALE, |d| model(d, |m| m.set_f32(K_SCALE, 1, f32::INFINITY))),
        case("weight-dtype", K, |d| model(d, |m| m.retype(K, "F8_E4M3"))),
        case("fused-dtypes-mixed", K, |d| model(d, |m| m.retype(K, "BF16"))),
        case("experts-dtypes-mixed", DOWN_3, |d| model(d, |m| m.retype(DOWN_3, "F8_E4M3"))),
        case("experts-stacked", "model.layers.1.mlp.experts.down_proj.weight", |d| {
            model(d, |m| m.add("model.layers.1.mlp.experts.down_proj.weight", "I8", &[8, 256, 128], 1));
        }),
        case("expert-missing", DOWN_3, |d| model(d, |m| m.remove(DOWN_3))),
        case("expert-missing", "model.layers.1.mlp.experts.7.up_proj.weight", |d| {
            model(d, |m| m.retain(|n| !n.starts_with("model.layers.1.mlp.experts.7.")));
        }),
        case("expert-missing", "model.layers.1.mlp.experts.0.gate_proj.weight", |d| {
            model(d, |m| m.retain(|n| !n.starts_with("model.layers.1.mlp.experts.")));
        }),
        case("lm-head-quantized", "lm_head.weight", |d| {
            model(d, |m| {
                m.retype("lm_head.weight", "I8");
                m.add("lm_head.weight_scale", "F32", &[320, 1], 1);
            });
        }),
        case("router-quantized", "model.layers.1.mlp.gate.weight", |d| {
            model(d, |m| m.retype("model.layers.1.mlp.gate.weight", "I8"))
        }),
        case("router-bias-dtype", "model.layers.1.mlp.gate.e_score_correction_bias", |d| {
            model(d, |m| m.retype("model.layers.1.mlp.gate.e_score_correction_bias", "BF16"));
        }),
    ];
    run_cases("glm4-moe-bf16", Some(("metax-c500", "W8A8")), &int8);
    for target in [&["--target", "metax-c500"], &["--target", "hygon-k100ai"], &["--target", "hygon-bw1000"]]
    {
        let case = Case { id: "chip-no-fp8", tensor: Some(K), args: target, damage: |_| {} };
        run_cases("glm4-moe-bf16", Some(("vllm", "FP8_DYNAMIC")), &[case]);
    }
}

#[test]
fn native_fp8() {
    const SCALE: &str = "model.layers.0.self_attn.o_proj.weight_scale_inv";
    fn quantization(d: &Path, key: &str, value: Value) {
        config(d, |v| v["quantization_config"][key] = value);
    }
    run_cases(
        "deepseek-v3",
        None,
        &[
            case("scale-missing", SCALE, |d| model(d, |m| m.remove(SCALE))),
            case("scale-grid", SCALE, |d| model(d, |m| m.truncate(SCALE, &[1, 2]))),
            case("scale-grid", SCALE, |d| quantization(d, "weight_block_size", json!([64, 64]))),
            case("scale-rank", SCALE, |d| model(d, |m| m.reshape(SCALE, &[4]))),
            case("scale-dtype", SCALE, |d| model(d, |m| m.retype(SCALE, "I32"))),
            case("block-size-missing", "", |d| {
                config(d, |v| remove(&mut v["quantization_config"], "weight_block_size"))
            }),
            case("scale-not-power-of-two", SCALE, |d| quantization(d, "scale_fmt", json!("ue8m0"))),
            case("scale-inv-zero", SCALE, |d| model(d, |m| m.set_f32(SCALE, 1, 0.0))),
            case("scale-negative", SCALE, |d| model(d, |m| m.set_f32(SCALE, 1, -1.0))),
            case("scale-not-finite", SCALE, |d| model(d, |m| m.set_f32(SCALE, 1, f32::NAN))),
            case("fused-unaligned", Q_A, |d| model(d, |m| m.truncate(Q_A, &[120, 256]))),
            case("modules-half-fused", Q_A, |d| {
                quantization(d, "modules_to_not_convert", json!(["model.layers.0.self_attn.q_a_proj"]))
            }),
            case("listed-but-fp8", O, |d| {
                quantization(d, "modules_to_not_convert", json!(["model.layers.0.self_attn.o_proj"]))
            }),
            case("float-unlisted", O, |d| {
                model(d, |m| {
                    m.retype(O, "BF16");
                    m.remove(SCALE);
                });
            }),
            case("input-scale-missing", "model.layers.0.self_attn.o_proj.input_scale", |d| {
                quantization(d, "activation_scheme", json!("static"))
            }),
            case("scale-storage", SCALE, |d| {
                model(d, |m| {
                    m.retype(SCALE, "F8_E8M0");
                    m.fill(SCALE, &[120]);
                });
            }),
            case("experts-dtypes-mixed", DOWN_3, |d| model(d, |m| m.retype(DOWN_3, "BF16"))),
            case("weight-dtype", O, |d| model(d, |m| m.retype(O, "I8"))),
        ],
    );
}

#[test]
fn any_engine() {
    const SHARD_1: &str = "model-00001-of-00002.safetensors";
    fn index(d: &Path, edit: impl FnOnce(&mut Value)) {
        edit_json(&d.join("model.safetensors.index.json"), edit);
    }
    run_cases(
        "llama-bf16",
        None,
        &[
            case("config-missing", "", |d| fs::remove_file(d.join("config.json")).unwrap()),
            case("config-json", "", |d| fs::write(d.join("config.json"), "{").unwrap()),
            case("config-value", "", |d| config(d, |v| v["num_hidden_layers"] = json!("two"))),
            case("index-total-size", "", |d| index(d, |v| v["metadata"]["total_size"] = json!(7))),
            case("index-tensor-missing", "model.layers.0.extra.weight", |d| {
                index(d, |v| v["weight_map"]["model.layers.0.extra.weight"] = json!(SHARD_1))
            }),
            case("index-tensor-unlisted", K, |d| index(d, |v| remove(&mut v["weight_map"], K))),
            case("index-wrong-shard", K, |d| {
                index(d, |v| {
                    let other = if v["weight_map"][K] == SHARD_1 {
                        "model-00002-of-00002.safetensors"
                    } else {
                        SHARD_1
                    };
                    v["weight_map"][K] = json!(other);
                });
            }),
            case("index-json", "", |d| fs::write(d.join("model.safetensors.index.json"), "{").unwrap()),
            case("shard-missing", "", |d| fs::remove_file(d.join(SHARD_1)).unwrap()),
            case("shard-missing", "", |d| {
                for shard in [SHARD_1, "model-00002-of-00002.safetensors"] {
                    fs::remove_file(d.join(shard)).unwrap();
                }
            }),
            case("shard-unlisted", "", |d| {
                fs::copy(d.join(SHARD_1), d.join("model-00003-of-00002.safetensors")).unwrap();
            }),
            case("file-foreign", "", |d| {
                fs::copy(d.join(SHARD_1), d.join("old.safetensors")).unwrap();
            }),
            case("duplicate-tensor", K, |d| {
                fs::remove_file(d.join("model.safetensors.index.json")).unwrap();
                for shard in ["a.safetensors", "b.safetensors"] {
                    let holds =
                        if has(&d.join(SHARD_1), K) { SHARD_1 } else { "model-00002-of-00002.safetensors" };
                    fs::copy(d.join(holds), d.join(shard)).unwrap();
                }
            }),
            case("index-stale", "", |d| {
                index(d, |v| {
                    v["weight_map"]
                        .as_object_mut()
                        .unwrap()
                        .values_mut()
                        .for_each(|f| *f = json!("model.safetensors"))
                });
            }),
            case("st-truncated", "", |d| {
                let bytes = fs::read(d.join(SHARD_1)).unwrap();
                fs::write(d.join(SHARD_1), &bytes[..bytes.len() - 8]).unwrap();
            }),
            case("layer-missing", "", |d| model(d, |m| m.retain(|n| !n.starts_with("model.layers.1.")))),
            case("layer-missing", "", |d| config(d, |v| v["num_hidden_layers"] = json!(4_000_000_000u32))),
            case("tensor-missing", "model.layers.1.self_attn.q_proj.weight", |d| {
                model(d, |m| m.remove("model.layers.1.self_attn.q_proj.weight"))
            }),
            case("tensor-missing", "model.layers.1.mlp.up_proj.weight", |d| {
                model(d, |m| m.remove("model.layers.1.mlp.up_proj.weight"))
            }),
            case("tensor-missing", "model.layers.0.input_layernorm.weight", |d| {
                model(d, |m| m.remove("model.layers.0.input_layernorm.weight"))
            }),
            case("lm-head-missing", "lm_head.weight", |d| model(d, |m| m.remove("lm_head.weight"))),
            case("embed-missing", "model.embed_tokens.weight", |d| {
                model(d, |m| m.remove("model.embed_tokens.weight"))
            }),
            case("quantization-config-conflict", "", |d| {
                config(d, |v| {
                    v["quantization_config"] = json!({"quant_method": "fp8", "activation_scheme": "dynamic"});
                    v["text_config"] = json!({"quantization_config": {"quant_method": "awq"}});
                });
            }),
            case("mtp-absent", "", |d| config(d, |v| v["num_nextn_predict_layers"] = json!(1))),
            case("tensor-missing-maybe", "model.layers.0.self_attn.sinks.weight", |d| {
                model(d, |m| m.add("model.layers.1.self_attn.sinks.weight", "BF16", &[4], 0))
            }),
        ],
    );
}

fn has(shard: &Path, tensor: &str) -> bool {
    xtask::safetensors::read_head(shard).unwrap().0.iter().any(|(info, _)| info.name == tensor)
}

#[test]
fn what_is_no_checkpoint_is_an_error_and_not_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let code = |path: &Path| Command::new(BIN).arg("check").arg(path).output().unwrap().status.code();
    assert_eq!(code(dir.path()), Some(4));
    assert_eq!(code(&dir.path().join("config.json")), Some(4));
    assert_eq!(code(&dir.path().join("absent")), Some(5));
    let both = Command::new(BIN)
        .args(["check", "--target", "vllm", "--engine", "vllm"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(both.status.code(), Some(2));
    let unknown = Command::new(BIN).args(["check", "--engine", "nope"]).arg(dir.path()).output().unwrap();
    assert_eq!(unknown.status.code(), Some(4), "nothing to check comes first");
}

#[test]
fn findings_of_one_rule_are_counted_beyond_two_hundred() {
    let (_keep, out) = artifact("deepseek-v3", Some(("ascend-910b", "W8A8_DYNAMIC")), &[]);
    model(&out, |m| {
        for e in 0..230 {
            m.add(&format!("model.layers.1.mlp.extra.{e}.weight"), "BF16", &[2, 2], 0);
        }
    });
    let (code, document) = check(&out, &[]);
    let findings = document["findings"].as_array().unwrap();
    assert_eq!((code, findings.len()), (1, 201));
    assert!(
        findings.iter().any(|f| f["found"] == "30 more findings of this rule" && f["tensor"].is_null()),
        "{document:#}"
    );
}

#[test]
fn people_see_a_table_and_a_verdict() {
    let (_keep, out) = artifact("llama-bf16", Some(("ascend-910b", "W8A8_DYNAMIC")), &[]);
    let text = |out: &Path| {
        String::from_utf8(Command::new(BIN).arg("check").arg(out).output().unwrap().stdout).unwrap()
    };
    assert_eq!(
        text(&out),
        "pass: vllm-ascend (quant_model_description.json is there), 0 errors, 0 warnings\n"
    );
    describe(&out, |v| remove(v, "lm_head.weight"));
    let found = text(&out);
    assert!(found.contains("description-key-missing") && found.contains("lm_head.weight"), "{found}");
    assert!(
        found.ends_with("fail: vllm-ascend (quant_model_description.json is there), 1 errors, 0 warnings\n"),
        "{found}"
    );
}

#[test]
fn the_page_is_the_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/check.md");
    let expected = rules::markdown();
    if std::env::var_os("SILICAST_UPDATE_DOCS").is_some() {
        fs::create_dir_all(page.parent().unwrap()).unwrap();
        fs::write(&page, &expected).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&page).unwrap_or_default(),
        expected,
        "SILICAST_UPDATE_DOCS=1 cargo test --test check"
    );
}

/// Every code that the strict reader gives to bad input has its row, so that no refusal escapes being a finding.
#[test]
fn the_strict_readers_codes_are_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for file in ["config.rs", "header.rs", "index.rs", "open.rs", "encoding.rs"] {
        text += &fs::read_to_string(root.join("src/checkpoint").join(file)).unwrap();
    }
    text += &fs::read_to_string(root.join("src/io/source.rs")).unwrap();
    let code = regex::Regex::new(r#"(?:Error::input|fail)\(\s*"([a-z0-9-]+)"|"(st-[a-z0-9-]+)""#).unwrap();
    let rules = contract::RULES.iter().map(|r| r.id);
    let listed: Vec<&str> = rules.chain(rules::READER.iter().map(|r| r.0)).collect();
    // These say that there is nothing to check.
    let elsewhere = ["no-weights", "not-a-folder"];
    let mut seen = 0;
    for found in code.captures_iter(&text) {
        let id = found.get(1).or(found.get(2)).unwrap().as_str();
        assert!(listed.contains(&id) || elsewhere.contains(&id), "{id}");
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
}

/// A rule that no defect reaches is worth nothing.
#[test]
fn every_rule_has_a_seeded_defect() {
    let cases = include_str!("check.rs");
    for rule in contract::RULES {
        assert!(cases.contains(&format!("\"{}\"", rule.id)), "{}", rule.id);
    }
}
