//! vLLM, its plug-ins for MetaX, Hygon, Kunlunxin, Moore Threads and Enflame, and SGLang.
//!
//! They read the same Hugging Face folders; which quantization method a scheme stands for is the `format` of its preset,
//! and each method has a file of its own. The plug-ins differ in which methods and group sizes they take. Facts: vLLM
//! 0.33, SGLang 0.5.23, and the plug-ins' loaders as the tables of the targets cite them.

use super::compressed_tensors::{self, MIXED};
use super::config::{native, set_compute_dtype, set_expert_dtype, without_quantization};
use super::engine::{Companion, Dialect, Engine, Names, float_everywhere};
use super::{Preset, gptq_awq, native_fp8, sglang, slimquant};
use crate::checkpoint::{Kind, Role};
use crate::dtype::packing::Packing;
use crate::dtype::scheme::Scheme;
use serde_json::{Map, Value};

/// The dialect.
pub struct Vllm {
    /// Engine name.
    pub name: &'static str,
}

/// Methods that follow DeepSeek's own FP8 releases in what they quantize.
fn follows_deepseek(preset: &Preset) -> bool {
    [native_fp8::FORMAT, sglang::BLOCKWISE_INT8, sglang::W8A8_FP8].contains(&preset.format.as_str())
}

impl Engine for Vllm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn float_reason(&self, preset: &Preset, role: &Role, native: bool) -> Option<&'static str> {
        let blocks = follows_deepseek(preset);
        match role.kind {
            Kind::KvBProj if !blocks => Some("split for MLA absorption: a BF16 kv_b_proj loads everywhere"),
            Kind::IndexerWk if !blocks || native => {
                Some("indexer key projection, merged with a float module")
            }
            _ => float_everywhere(role),
        }
    }

    fn names(&self, preset: &Preset, scheme: Scheme, native: bool) -> Names {
        match preset.format.as_str() {
            native_fp8::FORMAT if native => Names { scales: "scale", ..Names::PLAIN },
            native_fp8::FORMAT | sglang::BLOCKWISE_INT8 | sglang::MXFP8 => {
                Names { scales: "weight_scale_inv", ..Names::PLAIN }
            }
            _ if scheme.packing == Packing::Pairs => Names::PACKED,
            _ => Names::of(scheme.packing),
        }
    }

    fn companions(
        &self,
        preset: &Preset,
        _role: &Role,
        scheme: Scheme,
        shape: [u64; 2],
        zeros: bool,
    ) -> Vec<Companion> {
        // MetaX registers no shape beside packed experts, and raises on a name that it does not know.
        if preset.format == MIXED && scheme.packing == Packing::Int32 {
            return Vec::new();
        }
        Companion::of(scheme, shape, zeros)
    }

    fn takes_group(&self, preset: &Preset, group: u32) -> bool {
        match (self.name, preset.format.as_str()) {
            ("vllm-gcu", gptq_awq::AWQ) => group == 64,
            ("vllm-gcu", gptq_awq::GPTQ) => group.is_multiple_of(64),
            // Any other group is decoded to float while loading.
            ("vllm-metax", gptq_awq::AWQ) => group.is_multiple_of(32),
            _ => true,
        }
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
            native_fp8::FORMAT => native_fp8::config(cx, scheme, self.name == "vllm-musa"),
            gptq_awq::GPTQ | gptq_awq::AWQ => gptq_awq::config(cx, scheme),
            slimquant::FORMAT => slimquant::config(cx),
            format if sglang::FORMATS.contains(&format) => sglang::config(cx),
            _ => compressed_tensors::config(cx, experts, rest),
        };
        config.insert("quantization_config".to_owned(), quantization);
        if cx.checkpoint.family.has_native_names() && cx.has_experts() {
            match cx.preset.format.as_str() {
                native_fp8::FORMAT => set_expert_dtype(cx, &mut config, "fp8"),
                slimquant::FORMAT if experts.is_some() => {
                    config.insert("expert_dtype".to_owned(), "int4".into());
                }
                _ => {}
            }
        }
        config
    }
}
