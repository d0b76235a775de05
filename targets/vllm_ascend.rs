//! vllm-ascend: the AscendV1 folder that msmodelslim writes.
//!
//! Facts from vllm-project/vllm-ascend 182b75ea (`vllm_ascend/quantization/modelslim_config.py`,
//! `quantization/utils.py`, `quantization/methods`) and Ascend/msmodelslim 3de0a3c4
//! (`core/quant_service/modelslim_v1/save/ascendv1.py`): the engine opens exactly `quant_model_description.json`, wants
//! one entry per tensor, unfused names, no `quantization_config`, and no index of the source.

use super::Preset;
use super::engine::{Companion, Content, Dialect, Engine, set_compute_dtype, without_quantization};
use crate::checkpoint::{Kind, Role};
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::Scheme;
use crate::plan::expr::{Constant, Part};
use crate::plan::printer::Quoted;
use serde_json::{Map, Value};
use std::io;

/// The dialect.
pub struct VllmAscend;

impl Engine for VllmAscend {
    fn name(&self) -> &'static str {
        "vllm-ascend"
    }

    fn float_reason(&self, _preset: &Preset, role: &Role) -> Option<&'static str> {
        match role.kind {
            Kind::LmHead => Some("output head, float in this engine"),
            Kind::SharedHead => Some("output head of the MTP layer, float in this engine"),
            Kind::EhProj => Some("MTP projection, float in this engine"),
            Kind::KvBProj => {
                Some("the engine asserts that kv_b_proj is float and splits it into W_UK and W_UV")
            }
            Kind::IndexerWqB | Kind::IndexerWk | Kind::IndexerWeights => {
                Some("indexer, float in this engine")
            }
            Kind::Multimodal => Some("vision or audio tower"),
            _ => None,
        }
    }

    fn companions(&self, preset: &Preset, role: &Role, scheme: Scheme, [n, k]: [u64; 2], zeros: bool) -> Vec<Companion> {
        let mut companions = Companion::of(scheme, [n, k], zeros);
        if preset.offset {
            let shape = scheme.stored_scales(n, k);
            companions.push(Companion::constant("weight_offset", Dtype::F32, shape, Constant::Zeros));
        }
        if scheme.packing == Packing::RowPairs {
            // The loader adds up the pieces of its rank, so that any tensor parallelism up to 16 finds its own.
            let pieces = if role.kind == Kind::DownProj { 16 } else { 1 };
            companions.push(Companion { suffix: "scale_bias", content: Content::Part(Part::Bias(pieces)) });
        }
        companions
    }

    fn bias_in_f32(&self) -> bool {
        true
    }

    fn shard_name(&self, i: usize, n: usize) -> String {
        format!("quant_model_weights-{i:05}-of-{n:05}.safetensors")
    }

    fn index_name(&self, _n: usize) -> Option<&'static str> {
        Some("quant_model_weights.safetensors.index.json")
    }

    fn config(&self, cx: &Dialect<'_>) -> Map<String, Value> {
        let mut config = without_quantization(&cx.checkpoint.config.json);
        // CANN has no fp16 scale for the dynamic INT8 linear (vllm-ascend issue 7443).
        set_compute_dtype(&mut config, "bfloat16");
        config
    }

    fn description_name(&self) -> Option<&'static str> {
        Some("quant_model_description.json")
    }

    fn write_description(&self, cx: &Dialect<'_>, out: &mut dyn io::Write) -> io::Result<()> {
        writeln!(out, "{{")?;
        writeln!(out, "  \"version\": \"1.0.0\",")?;
        writeln!(out, "  \"model_quant_type\": {},", Quoted(&cx.preset.name))?;
        writeln!(out, "  \"group_size\": 0,")?;
        writeln!(out, "  \"metadata\": {{}},")?;
        write!(out, "  \"optional\": {{}}")?;
        for output in &cx.plan.outputs {
            let tag = if output.scheme.is_some() { cx.preset.name.as_str() } else { "FLOAT" };
            write!(out, ",\n  {}: {}", Quoted(&output.name), Quoted(tag))?;
        }
        // A tied model builds its head all the same, and looks it up (vllm-ascend issue 8367).
        const HEAD: &str = "lm_head.weight";
        if cx.checkpoint.config.tie_word_embeddings()
            && !cx.plan.outputs.iter().any(|o| o.name.as_ref() == HEAD)
        {
            write!(out, ",\n  {}: \"FLOAT\"", Quoted(HEAD))?;
        }
        writeln!(out, "\n}}")
    }
}
