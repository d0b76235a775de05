//! DeepSeek V4 (`deepseek_v4`) and V4.1 (`deepseek_v41`).
//!
//! Names are DeepSeek's own, without `model.`: the inference code of V4, header dumps of V4-Pro and V4-Flash and of
//! V4.1-Flash. Multi-token prediction is `mtp.{stage}.`; the number of stages is that of the tensors (DSpark has three),
//! whatever `num_nextn_predict_layers` says.

use super::{Module, Table};
use crate::checkpoint::role::{Kind, Scope};

/// Embedding, head, norms and hyper-connections.
const FRAME: &[Module] = &[
    ("embed", Kind::Embed, Scope::Dense),
    ("head", Kind::LmHead, Scope::Dense),
    ("norm", Kind::Norm, Scope::Dense),
    ("attn_norm", Kind::Norm, Scope::Dense),
    ("ffn_norm", Kind::Norm, Scope::Dense),
    ("hc_attn_fn", Kind::HyperConnection, Scope::Dense),
    ("hc_attn_base", Kind::HyperConnection, Scope::Dense),
    ("hc_attn_scale", Kind::HyperConnection, Scope::Dense),
    ("hc_ffn_fn", Kind::HyperConnection, Scope::Dense),
    ("hc_ffn_base", Kind::HyperConnection, Scope::Dense),
    ("hc_ffn_scale", Kind::HyperConnection, Scope::Dense),
    ("hc_head_fn", Kind::HyperConnection, Scope::Dense),
    ("hc_head_base", Kind::HyperConnection, Scope::Dense),
    ("hc_head_scale", Kind::HyperConnection, Scope::Dense),
];

/// Attention with one compressed key/value head, its compressor and its indexer (which has a compressor of its own).
const ATTENTION: &[Module] = &[
    ("attn.wq_a", Kind::QAProj, Scope::Dense),
    ("attn.q_norm", Kind::Norm, Scope::Dense),
    ("attn.wq_b", Kind::QBProj, Scope::Dense),
    ("attn.wkv", Kind::KvProj, Scope::Dense),
    ("attn.kv_norm", Kind::Norm, Scope::Dense),
    ("attn.wo_a", Kind::OAProj, Scope::Dense),
    ("attn.wo_b", Kind::OBProj, Scope::Dense),
    ("attn.attn_sink", Kind::Sink, Scope::Dense),
    ("attn.compressor.ape", Kind::Compressor, Scope::Dense),
    ("attn.compressor.norm", Kind::Compressor, Scope::Dense),
    ("attn.compressor.wkv", Kind::Compressor, Scope::Dense),
    ("attn.compressor.wgate", Kind::Compressor, Scope::Dense),
    ("attn.indexer.wq_b", Kind::IndexerWqB, Scope::Dense),
    ("attn.indexer.weights_proj", Kind::IndexerWeights, Scope::Dense),
    ("attn.indexer.compressor.ape", Kind::Compressor, Scope::Dense),
    ("attn.indexer.compressor.norm", Kind::Compressor, Scope::Dense),
    ("attn.indexer.compressor.wkv", Kind::Compressor, Scope::Dense),
    ("attn.indexer.compressor.wgate", Kind::Compressor, Scope::Dense),
];

/// Router and experts: `w1` is the gate, `w3` the up and `w2` the down projection.
const FFN: &[Module] = &[
    ("ffn.gate", Kind::Router, Scope::Dense),
    ("ffn.gate.tid2eid", Kind::HashRoute, Scope::Dense),
    ("ffn.experts.*.w1", Kind::GateProj, Scope::Expert),
    ("ffn.experts.*.w2", Kind::DownProj, Scope::Expert),
    ("ffn.experts.*.w3", Kind::UpProj, Scope::Expert),
    ("ffn.shared_experts.w1", Kind::GateProj, Scope::Shared),
    ("ffn.shared_experts.w2", Kind::DownProj, Scope::Shared),
    ("ffn.shared_experts.w3", Kind::UpProj, Scope::Shared),
];

/// What a stage of multi-token prediction has beside its block: classic, with the copies that some releases ship, and
/// DSpark (V4.1 names its bigram matrices `embed` and `head`).
const STAGE: &[Module] = &[
    ("enorm", Kind::Norm, Scope::Dense),
    ("hnorm", Kind::Norm, Scope::Dense),
    ("e_proj", Kind::EhProj, Scope::Dense),
    ("h_proj", Kind::EhProj, Scope::Dense),
    ("emb.tok_emb", Kind::Embed, Scope::Dense),
    ("main_norm", Kind::Norm, Scope::Dense),
    ("main_proj", Kind::EhProj, Scope::Dense),
    ("markov_head.markov_w1", Kind::MarkovHead, Scope::Dense),
    ("markov_head.markov_w2", Kind::MarkovHead, Scope::Dense),
    ("markov_head.embed", Kind::MarkovHead, Scope::Dense),
    ("markov_head.head", Kind::MarkovHead, Scope::Dense),
    ("confidence_head.proj", Kind::ConfidenceHead, Scope::Dense),
];

/// V4.1: keys of the indexer from the compressed entries, n-gram embeddings.
const V41_EXTRAS: &[Module] = &[
    ("attn.indexer.wk", Kind::IndexerWk, Scope::Dense),
    ("attn.indexer.k_norm", Kind::IndexerNorm, Scope::Dense),
    ("engram.embed", Kind::EngramTable, Scope::Dense),
    ("engram.wkv", Kind::EngramProj, Scope::Dense),
    ("engram.q_weight", Kind::EngramProj, Scope::Dense),
    ("engram.k_weight", Kind::EngramProj, Scope::Dense),
];

pub(super) static V4: Table = Table {
    id: "deepseek_v4",
    model_types: &["deepseek_v4"],
    architectures: &["DeepseekV4ForCausalLM"],
    mtp_layers: false,
    modules: &[FRAME, ATTENTION, FFN, STAGE],
};

pub(super) static V41: Table = Table {
    id: "deepseek_v41",
    model_types: &["deepseek_v41", "deepseek_v41_text"],
    architectures: &["DeepseekV41ForCausalLM"],
    mtp_layers: false,
    modules: &[FRAME, ATTENTION, FFN, STAGE, V41_EXTRAS],
};
