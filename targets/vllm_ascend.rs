//! vllm-ascend: the AscendV1 folder that msmodelslim writes. MindIE: the same with the names of its older format.
//!
//! Facts from vllm-project/vllm-ascend 182b75ea (`vllm_ascend/quantization/modelslim_config.py`,
//! `quantization/utils.py`, `quantization/methods`) and Ascend/msmodelslim 3de0a3c4
//! (`core/quant_service/modelslim_v1/save/ascendv1.py`, `mindie_format_saver`): vllm-ascend opens exactly
//! `quant_model_description.json`, wants one entry per tensor, unfused names, no `quantization_config`, and no index of
//! the source. MindIE 2.1.RC1 and before opens `quant_model_description_<type>.json` and has the scheme in `config.json`.

use super::Preset;
use super::config::{native, set_compute_dtype, without_quantization};
use super::engine::{Companion, Content, Dialect, Engine, float_everywhere};
use crate::checkpoint::{Checkpoint, Kind, Role};
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::Scheme;
use crate::plan::Output;
use crate::plan::expr::{Constant, Part};
use crate::plan::printer::Quoted;
use serde_json::{Map, Value};
use std::io;

/// The dialect.
pub struct VllmAscend {
    /// Whether files have the names of MindIE's older format.
    pub legacy: bool,
}

/// Tags from low to high in msmodelslim's order; a description reports the highest one. W4A8_DYNAMIC is deliberately not
/// reported: a mixed model calls itself W8A8_DYNAMIC.
const TAGS: &[&str] =
    &[FLOAT, "W8A16", "W8A8_DYNAMIC", "W8A8FP8_DYNAMIC", "W8A8_MXFP8", "W4A8_MXFP", "W4A4_MXFP4"];

const FLOAT: &str = "FLOAT";
const W4A8: &str = "W4A8_DYNAMIC";

impl VllmAscend {
    /// The type in file names of MindIE's older format.
    fn suffix(preset: &Preset) -> String {
        preset.name.to_ascii_lowercase()
    }
}

impl Engine for VllmAscend {
    fn name(&self) -> &'static str {
        if self.legacy { "mindie" } else { "vllm-ascend" }
    }

    fn float_reason(&self, _preset: &Preset, role: &Role, _native: bool) -> Option<&'static str> {
        match role.kind {
            Kind::KvBProj => {
                Some("the engine asserts that kv_b_proj is float and splits it into W_UK and W_UV")
            }
            Kind::IndexerWqB | Kind::IndexerWk | Kind::IndexerWeights => {
                Some("indexer, float in this engine")
            }
            _ => float_everywhere(role),
        }
    }

    fn keeps_stored(&self, preset: &Preset, role: &Role, checkpoint: &Checkpoint) -> Option<&'static str> {
        match role.kind {
            Kind::EngramTable if preset.encoding.is_some() => {
                Some("table of n-gram embeddings, looked up as it is stored")
            }
            Kind::OAProj if role.mtp && is_dspark(checkpoint) => {
                Some("the engine's DSpark draft reads this projection in FP8")
            }
            _ => None,
        }
    }

    fn copies(&self, checkpoint: &Checkpoint) -> &'static [(&'static str, &'static str)] {
        let draft = checkpoint.tensors.iter().any(|t| t.name.starts_with("mtp.0."));
        match checkpoint.family.has_native_names() && draft && !is_dspark(checkpoint) {
            true => &[("embed.weight", "mtp.0.emb.tok_emb.weight"), ("head.weight", "mtp.0.head.weight")],
            false => &[],
        }
    }

    fn companions(
        &self,
        preset: &Preset,
        role: &Role,
        scheme: Scheme,
        [n, k]: [u64; 2],
        zeros: bool,
    ) -> Vec<Companion> {
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

    fn refuses(&self, preset: &Preset, family: &str) -> Option<&'static str> {
        if preset.native && family != "deepseek_v4" {
            return Some("the engine reads native FP8 of DeepSeek-V4 only");
        }
        (self.legacy && family.starts_with("deepseek_v4"))
            .then_some("the older format is of a time before DeepSeek-V4, and its names are not known there")
    }

    fn bias_in_f32(&self) -> bool {
        true
    }

    fn shard_name(&self, preset: &Preset, i: usize, n: usize) -> String {
        match (preset.native, self.legacy) {
            (true, _) if n == 1 => "model.safetensors".to_owned(),
            (true, _) => format!("model-{i:05}-of-{n:05}.safetensors"),
            (_, false) => format!("quant_model_weights-{i:05}-of-{n:05}.safetensors"),
            (_, true) if n == 1 => format!("quant_model_weight_{}.safetensors", Self::suffix(preset)),
            (_, true) => {
                format!("quant_model_weight_{}-{i:05}-of-{n:05}.safetensors", Self::suffix(preset))
            }
        }
    }

    fn index_name(&self, preset: &Preset, n: usize) -> Option<String> {
        match (preset.native, self.legacy) {
            (true, _) => (n > 1).then(|| "model.safetensors.index.json".to_owned()),
            (_, false) => Some("quant_model_weights.safetensors.index.json".to_owned()),
            (_, true) => Some(format!("quant_model_weight_{}.safetensors.index.json", Self::suffix(preset))),
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
        // CANN has no fp16 scale for the dynamic INT8 linear (vllm-ascend issue 7443); the 310P has nothing wider.
        let half = cx.target().is_some_and(|t| t.float == Dtype::F16);
        set_compute_dtype(&mut config, if half { "float16" } else { "bfloat16" });
        let mixed = cx.plan.outputs.iter().any(|o| tag(cx, o) == W4A8);
        if mixed || self.legacy && cx.preset.encoding.is_some() {
            announce(cx, &mut config, mixed, self.legacy);
        }
        config
    }

    fn description_name(&self, preset: &Preset) -> Option<String> {
        match (preset.native, self.legacy) {
            (true, _) => None,
            (_, false) => Some("quant_model_description.json".to_owned()),
            (_, true) => Some(format!("quant_model_description_{}.json", Self::suffix(preset))),
        }
    }

    fn write_description(&self, cx: &Dialect<'_>, out: &mut dyn io::Write) -> io::Result<()> {
        let mut tags: Vec<(&str, &str)> =
            cx.plan.outputs.iter().map(|o| (o.name.as_ref(), tag(cx, o))).collect();
        let reported = |tag: &str| TAGS.iter().position(|t| *t == tag || tag == W4A8 && *t == "W8A8_DYNAMIC");
        let highest = tags.iter().filter_map(|(_, tag)| reported(tag)).max().unwrap_or(0);
        let groups = tags.iter().any(|(_, tag)| tag.contains("_MXFP"));
        // A tied model builds its head all the same, and looks it up (vllm-ascend issue 8367).
        const HEAD: &str = "lm_head.weight";
        if cx.checkpoint.config.tie_word_embeddings() && !tags.iter().any(|(name, _)| *name == HEAD) {
            tags.push((HEAD, FLOAT));
        }
        tags.sort_unstable();
        writeln!(out, "{{")?;
        writeln!(out, "  \"version\": \"1.0.0\",")?;
        writeln!(out, "  \"model_quant_type\": {},", Quoted(TAGS.get(highest).copied().unwrap_or(FLOAT)))?;
        writeln!(out, "  \"group_size\": {},", if groups { 32 } else { 0 })?;
        writeln!(out, "  \"metadata\": {{}},")?;
        write!(out, "  \"optional\": {{}}")?;
        for (name, tag) in tags {
            write!(out, ",\n  {}: {}", Quoted(name), Quoted(tag))?;
        }
        writeln!(out, "\n}}")
    }
}

/// The engine's name for how a tensor is stored; companions have that of their weight.
fn tag<'a>(cx: &Dialect<'a>, output: &Output) -> &'a str {
    let preset = cx.preset;
    if output.scheme.is_none() {
        return FLOAT;
    }
    let of_experts = !preset.experts_tag.is_empty()
        && match preset.experts {
            Some(_) => cx.is_apart(output),
            None => cx.is_expert(output),
        };
    match (of_experts, preset.tag.is_empty()) {
        (true, _) => &preset.experts_tag,
        (false, true) => &preset.name,
        (false, false) => &preset.tag,
    }
}

/// Keys of MindIE; to vllm-ascend they are harmless.
fn announce(cx: &Dialect<'_>, config: &mut Map<String, Value>, mixed: bool, legacy: bool) {
    const INT8: &str = "w8a8_dynamic";
    let rest = if mixed { INT8.to_owned() } else { VllmAscend::suffix(cx.preset) };
    let experts = if mixed { "w4a8_dynamic".to_owned() } else { rest.clone() };
    if legacy && ["deepseek_v3", "deepseek_v32"].contains(&cx.checkpoint.family.id) {
        config.insert("model_type".to_owned(), "deepseekv2".into());
    }
    let keys =
        [("mtp_quantize", &rest), ("quantize", &rest), ("moe_quantize", &experts), ("mla_quantize", &rest)];
    let routed = cx.has_experts();
    for (key, value) in keys.into_iter().filter(|(key, _)| routed || *key == "quantize") {
        config.insert(key.to_owned(), value.as_str().into());
    }
}

/// Whether the draft model is DSpark, which has an embedding and heads of its own.
fn is_dspark(checkpoint: &Checkpoint) -> bool {
    checkpoint.tensors.iter().any(|t| t.name.contains(".main_proj.") || t.name.contains(".markov_head."))
}
