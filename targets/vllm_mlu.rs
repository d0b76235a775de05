//! vllm-mlu and xLLM on Cambricon: SmoothQuant, FP8 per channel, and the AWQ and GPTQ layouts.
//!
//! Facts from Cambricon/vllm-mlu 8fa99fd9 and b9925203 (`SmoothQuantConfig.from_config`, the override of `Fp8Config`, the
//! DeepSeek loaders) and jd-opensource/xllm 87e8d6ed (`hf_model_loader.cpp`). The configuration is the union of what the
//! two read: the group size of INT8 is left out, because 1 is "off" to one and "groups" to the other. Both build the
//! attention's down projections, kv_b and the indexer without quantization.

use super::config::{native, set_compute_dtype, without_quantization};
use super::engine::{Companion, Dialect, Engine, Names, float_everywhere};
use super::{Preset, gptq_awq};
use crate::checkpoint::{Kind, Role};
use crate::dtype::Dtype;
use crate::dtype::scheme::Scheme;
use crate::plan::expr::Constant;
use serde_json::{Map, Value, json};

/// The dialect; both engines load the same artifact.
pub struct VllmMlu {
    /// Engine name.
    pub name: &'static str,
}

const SMOOTHQUANT: &str = "smoothquant";
const FP8: &str = "mlu-fp8";

impl Engine for VllmMlu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn float_reason(&self, _preset: &Preset, role: &Role, _native: bool) -> Option<&'static str> {
        match role.kind {
            Kind::QAProj | Kind::KvAProj | Kind::KvProj => {
                Some("down projection of the attention, built without quantization")
            }
            Kind::KvBProj => Some("split for MLA absorption, built without quantization"),
            Kind::IndexerWqB | Kind::IndexerWk | Kind::IndexerWeights => {
                Some("indexer, built without quantization")
            }
            _ => float_everywhere(role),
        }
    }

    fn names(&self, preset: &Preset, scheme: Scheme, _native: bool) -> Names {
        match preset.format.as_str() {
            SMOOTHQUANT => Names { codes: "qweight", scales: "per_channel_scale", ..Names::PLAIN },
            _ => Names::of(scheme.packing),
        }
    }

    fn companions(
        &self,
        preset: &Preset,
        _role: &Role,
        scheme: Scheme,
        [n, k]: [u64; 2],
        zeros: bool,
    ) -> Vec<Companion> {
        match preset.format.as_str() {
            // Every quantized linear registers the factor; one is neutral whichever way the kernel applies it.
            SMOOTHQUANT => vec![Companion::constant("smooth", Dtype::F32, vec![k], Constant::Ones)],
            _ => Companion::of(scheme, [n, k], zeros),
        }
    }

    fn takes_group(&self, preset: &Preset, group: u32) -> bool {
        preset.format == SMOOTHQUANT || [64, 128, 256, 512].contains(&group)
    }

    fn refuses(&self, preset: &Preset, family: &str) -> Option<&'static str> {
        let fuses_by_name = [SMOOTHQUANT, gptq_awq::GPTQ, gptq_awq::AWQ].contains(&preset.format.as_str());
        (fuses_by_name && family.starts_with("deepseek_v4")).then_some(
            "its loader fuses experts called w1.weight and w3.weight only, and these are called qweight",
        )
    }

    fn config(&self, cx: &Dialect<'_>) -> Map<String, Value> {
        if cx.preset.native {
            return native(cx);
        }
        let mut config = without_quantization(&cx.checkpoint.config.json);
        if cx.checkpoint.family.has_native_names() {
            config.shift_remove("expert_dtype");
        }
        if cx.preset.encoding.is_none() {
            if cx.decodes() {
                set_compute_dtype(&mut config, "bfloat16");
            }
            return config;
        }
        let (experts, rest) = cx.schemes();
        let Some(scheme) = rest.or(experts) else { return config };
        let quantization = match cx.preset.format.as_str() {
            SMOOTHQUANT => smoothquant(experts),
            FP8 => json!({
                "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
                "activation_quant_method": "per_token", "weight_quant_method": "per_channel",
                "modules_to_not_convert": cx.float_linears(),
            }),
            _ => gptq_awq::config(cx, scheme),
        };
        config.insert("quantization_config".to_owned(), quantization);
        config
    }
}

fn smoothquant(experts: Option<Scheme>) -> Value {
    let mut config = json!({
        "quant_method": SMOOTHQUANT, "quant_mode": "SmoothQuant", "input_quant_method": "per_token", "bits": 8,
        "activation_scheme": "dynamic", "weight_precision": "int8", "activation_precision": "int8",
    });
    if let (Some(experts), Some(map)) = (experts, config.as_object_mut()) {
        map.insert("group_size".to_owned(), experts.granularity.group().into());
        map.insert("only_expert_per_group".to_owned(), true.into());
        map.insert("expert_weight_precision".to_owned(), "int4".into());
        map.insert("expert_activation_precision".to_owned(), "int8".into());
        map.insert("experts_weight_bits".to_owned(), 4.into());
    }
    config
}
