//! vLLM and its plug-ins: compressed-tensors, and the native `fp8` method.
//!
//! Facts from compressed-tensors 0.20.0 (`quantization/quant_config.py`, `quant_scheme.py`), vLLM 0.33
//! (`layers/quantization/compressed_tensors`, `fp8.py`) and SGLang 0.5.23. The configuration is the union of the fields
//! that the plug-ins of MetaX, Hygon and Kunlunxin read. Ignore lists name every float linear in full, because SGLang
//! raises on a module that matches neither `targets` nor `ignore`, and both engines match full names first.

use super::Preset;
use super::engine::{Dialect, Engine, Names, set_compute_dtype, without_quantization};
use crate::checkpoint::{Kind, Part, Role, looks_like_lookup, module_of};
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::plan::{Expr, Fate, Output};
use serde_json::{Map, Value, json};

/// The dialect; the plug-ins differ in name only.
pub struct CompressedTensors {
    /// Engine name.
    pub name: &'static str,
}

const NATIVE: &str = "fp8";

impl Engine for CompressedTensors {
    fn name(&self) -> &'static str {
        self.name
    }

    fn float_reason(&self, preset: &Preset, role: &Role) -> Option<&'static str> {
        match role.kind {
            Kind::LmHead => Some("output head"),
            Kind::SharedHead => Some("output head of the MTP layer"),
            Kind::EhProj => Some("MTP projection, built without quantization"),
            Kind::IndexerWeights => Some("indexer weights projection, built without quantization"),
            Kind::Multimodal => Some("vision or audio tower"),
            // DeepSeek's own FP8 releases quantize these two, and the engines read them so.
            Kind::KvBProj if preset.format != NATIVE => {
                Some("split for MLA absorption: a BF16 kv_b_proj loads everywhere")
            }
            Kind::IndexerWk if preset.format != NATIVE => {
                Some("indexer key projection, merged with a float module")
            }
            _ => None,
        }
    }

    fn names(&self, preset: &Preset, scheme: Scheme, native: bool) -> Names {
        match (preset.format.as_str(), native) {
            (NATIVE, true) => Names { scales: "scale", ..Names::PLAIN },
            (NATIVE, false) => Names { scales: "weight_scale_inv", ..Names::PLAIN },
            _ if scheme.packing == Packing::Pairs => Names::PACKED,
            _ => Names::of(scheme.packing),
        }
    }

    fn shard_name(&self, i: usize, n: usize) -> String {
        match n {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{i:05}-of-{n:05}.safetensors"),
        }
    }

    fn index_name(&self, n: usize) -> Option<&'static str> {
        (n > 1).then_some("model.safetensors.index.json")
    }

    fn config(&self, cx: &Dialect<'_>) -> Map<String, Value> {
        let source = &cx.checkpoint.config.json;
        let mut config = without_quantization(source);
        let Some(scheme) = cx.preset.encoding else {
            if cx.plan.outputs.iter().any(|o| o.fate == Fate::Reencoded) {
                set_compute_dtype(&mut config, "bfloat16");
            }
            return config;
        };
        if !cx.plan.outputs.iter().any(|o| o.scheme.is_some()) {
            return config;
        }
        let quantization = match cx.preset.format.as_str() {
            NATIVE => native_config(cx, scheme),
            format => compressed_config(cx, scheme, format),
        };
        config.insert("quantization_config".to_owned(), quantization);
        config
    }
}

/// Modules of the float linears, in plan order, which is natural name order.
fn float_linears(cx: &Dialect<'_>) -> Vec<Value> {
    let mut modules: Vec<Value> = Vec::new();
    let mut has_head = false;
    for output in &cx.plan.outputs {
        let role = cx.checkpoint.family.role(&output.name, &output.ty.shape);
        let linear = role.part == Part::Weight
            && output.ty.shape.len() == 2
            && output.ty.dtype.is_plain_float()
            && output.scheme.is_none()
            && !matches!(role.kind, Kind::Embed | Kind::Norm | Kind::IndexerNorm)
            && !(role.kind == Kind::Other && looks_like_lookup(module_of(&output.name)));
        if linear {
            has_head |= role.kind == Kind::LmHead;
            modules.push(module_of(&output.name).into());
        }
    }
    // Tied models build the head all the same.
    if !has_head {
        modules.insert(0, "lm_head".into());
    }
    modules
}

fn compressed_config(cx: &Dialect<'_>, scheme: Scheme, format: &str) -> Value {
    let kind = if scheme.element.is_integer() { "int" } else { "float" };
    let strategy = match scheme.granularity {
        Granularity::Tensor => "tensor",
        Granularity::Channel | Granularity::Row => "channel",
        Granularity::Block { .. } => "block",
    };
    let args = |strategy: &str, dynamic: bool, observer: Value| {
        json!({
            "num_bits": 8, "type": kind, "symmetric": true, "strategy": strategy, "dynamic": dynamic,
            "group_size": null, "observer": observer, "observer_kwargs": {}
        })
    };
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": args(strategy, false, "minmax".into()),
            "input_activations": args("token", true, Value::Null),
            "output_activations": null,
            "format": format
        }},
        "ignore": float_linears(cx),
        "kv_cache_scheme": null
    })
}

/// `quant_method: fp8`. A source that is native FP8 keeps its own entry, so that what it says about modules stays.
fn native_config(cx: &Dialect<'_>, scheme: Scheme) -> Value {
    let source = cx.checkpoint.config.quantization.as_ref().filter(|q| q.method == NATIVE).map(|q| &q.json);
    let mut config = source.cloned().unwrap_or_default();
    let passes_through = cx.plan.outputs.iter().all(|o| o.fate != Fate::Quantized);
    let Granularity::Block { rows, cols } = scheme.granularity else { return Value::Object(config) };
    if source.is_none() {
        config.insert("quant_method".to_owned(), NATIVE.into());
        config.insert("activation_scheme".to_owned(), "dynamic".into());
        config.insert("fmt".to_owned(), "e4m3".into());
        config.insert("weight_block_size".to_owned(), json!([rows, cols]));
        config.insert("modules_to_not_convert".to_owned(), float_linears(cx).into());
    } else {
        config.insert("weight_block_size".to_owned(), json!([rows, cols]));
    }
    // What was FP8 in the source and is float now must be said, or the engine builds it as FP8 and casts.
    let decoded = |o: &&Output| matches!(&o.expr, Expr::Cast { value, .. } if matches!(**value, Expr::Dequantize { .. }));
    let mut added: Vec<Value> =
        cx.plan.outputs.iter().filter(decoded).map(|o| module_of(&o.name).into()).collect();
    if source.is_some() && !added.is_empty() {
        let key =
            if config.contains_key("ignored_layers") { "ignored_layers" } else { "modules_to_not_convert" };
        if let Some(Value::Array(listed)) = config.get(key) {
            added.splice(0..0, listed.iter().cloned());
        }
        config.insert(key.to_owned(), added.into());
    }
    match scheme.rule {
        Rule::DeepseekUe8m0 => {
            config.insert("scale_fmt".to_owned(), "ue8m0".into());
        }
        // Fresh F32 scales are arbitrary; scales that pass through keep what the source says of them.
        _ if !passes_through => {
            config.shift_remove("scale_fmt");
        }
        _ => {}
    }
    Value::Object(config)
}
