//! What a layer of DeepSeek-V4 and V4.1 needs to be whole.
//!
//! Layers differ by configuration, so that no layer says what another must have: `compress_ratios`, the lists of source
//! layers and `num_hash_layers` decide. Names and shapes: spec of the released headers (V4-Pro, V4-Flash, V4.1-Flash).

use super::view::View;
use crate::checkpoint::Kind;
use serde_json::Value;
use std::collections::BTreeSet;

/// What every block has, those of drafts too.
const BLOCK: &[&str] = &[
    "attn.wq_a.weight",
    "attn.q_norm.weight",
    "attn.wq_b.weight",
    "attn.wkv.weight",
    "attn.kv_norm.weight",
    "attn.wo_a.weight",
    "attn.wo_b.weight",
    "attn.attn_sink",
    "attn_norm.weight",
    "ffn_norm.weight",
    "ffn.gate.weight",
    "ffn.shared_experts.w1.weight",
    "ffn.shared_experts.w2.weight",
    "ffn.shared_experts.w3.weight",
    "hc_attn_fn",
    "hc_attn_base",
    "hc_attn_scale",
    "hc_ffn_fn",
    "hc_ffn_base",
    "hc_ffn_scale",
];

/// A compressor without its gate.
const COMPRESSOR: &[&str] = &["attn.compressor.norm.weight", "attn.compressor.wkv.weight"];

/// The indexer of V4, with a compressor of its own.
const INDEXER: &[&str] = &[
    "attn.indexer.wq_b.weight",
    "attn.indexer.weights_proj.weight",
    "attn.indexer.compressor.norm.weight",
    "attn.indexer.compressor.wkv.weight",
    "attn.indexer.compressor.wgate.weight",
];

/// N-gram embeddings of V4.1.
const ENGRAM: &[&str] = &["engram.embed.weight", "engram.wkv.weight", "engram.q_weight", "engram.k_weight"];

/// Names that blocks of the view lack.
pub(super) fn missing(view: &View) -> BTreeSet<String> {
    let mut blocks: BTreeSet<(bool, u32)> = BTreeSet::new();
    for (_, role) in view.each().filter(|(_, r)| r.kind != Kind::Multimodal) {
        blocks.extend(role.layer.map(|layer| (role.mtp, layer)));
    }
    let mut missing = BTreeSet::new();
    for (mtp, layer) in blocks {
        let prefix = if mtp { format!("mtp.{layer}") } else { format!("layers.{layer}") };
        let mut need = BLOCK.to_vec();
        if !mtp {
            need.extend(by_configuration(view, layer));
        }
        missing.extend(need.into_iter().map(|path| format!("{prefix}.{path}")).filter(|n| !has(view, n)));
    }
    missing
}

/// Whether a tensor is there, packed or not.
fn has(view: &View, name: &str) -> bool {
    let packed =
        |param: &str| name.strip_suffix(".weight").is_some_and(|module| view.param(module, param).is_some());
    view.find(name).is_some() || packed("weight_packed") || packed("qweight")
}

/// What the configuration gives a main layer beside [`BLOCK`].
fn by_configuration(view: &View, layer: u32) -> Vec<&'static str> {
    let numbers = |key: &str| view.config.get(key).and_then(Value::as_array);
    let at = |key: &str| numbers(key).and_then(|list| list.get(layer as usize)).and_then(Value::as_u64);
    let listed = |key: &str| {
        numbers(key).is_some_and(|list| list.iter().any(|v| v.as_u64() == Some(u64::from(layer))))
    };
    let ratio = at("compress_ratios").unwrap_or(0);
    let mut need = Vec::new();
    if view.family.id == "deepseek_v41" {
        if listed("kv_source_layer_ids") {
            need.extend(COMPRESSOR);
            need.extend(["attn.indexer.k_norm.weight", "attn.indexer.wk.weight"]);
            if ratio > 1 {
                need.push("attn.compressor.wgate.weight");
            }
        }
        if listed("index_source_layer_ids") {
            need.extend(["attn.indexer.wq_b.weight", "attn.indexer.weights_proj.weight"]);
        }
        if listed("engram_layer_ids") {
            need.extend(ENGRAM);
        }
        need.extend(["ffn.gate.bias", "ffn.gate.bias_vl"]);
        return need;
    }
    if ratio > 0 {
        need.extend(COMPRESSOR);
        need.extend(["attn.compressor.wgate.weight", "attn.compressor.ape"]);
    }
    if ratio == 4 {
        need.extend(INDEXER);
        need.push("attn.indexer.compressor.ape");
    }
    // The first layers look their experts up.
    let hash = view.config.count("num_hash_layers").unwrap_or(0);
    need.push(if u64::from(layer) < hash { "ffn.gate.tid2eid" } else { "ffn.gate.bias" });
    need
}
