//! Mixtral and the families whose experts have its names: MiniMax-M2 (`minimax_m2`) and MiniMax-M3 (`minimax_m3_vl`).
//!
//! Names: transformers `modeling_mixtral.py`; header dumps of MiniMax-M2.7 and MiniMax-M3-MXFP8. Experts stand in
//! `block_sparse_moe.experts.{e}.`: `w1` is the gate, `w3` the up and `w2` the down projection. MiniMax keeps the
//! correction bias on the block, not on the gate.

use super::{COMMON, Module, QK_NORM, QKV, Table};
use crate::checkpoint::role::{Kind, Scope};

/// Router and routed experts below `block_sparse_moe.`.
pub(super) const SPARSE_MOE: &[Module] = &[
    ("block_sparse_moe.gate", Kind::Router, Scope::Dense),
    ("block_sparse_moe.e_score_correction_bias", Kind::Router, Scope::Dense),
    ("block_sparse_moe.experts.*.w1", Kind::GateProj, Scope::Expert),
    ("block_sparse_moe.experts.*.w2", Kind::DownProj, Scope::Expert),
    ("block_sparse_moe.experts.*.w3", Kind::UpProj, Scope::Expert),
];

/// MiniMax-M3: shared experts and the indexer of sparse attention.
const M3: &[Module] = &[
    ("block_sparse_moe.shared_experts.gate_proj", Kind::GateProj, Scope::Shared),
    ("block_sparse_moe.shared_experts.up_proj", Kind::UpProj, Scope::Shared),
    ("block_sparse_moe.shared_experts.down_proj", Kind::DownProj, Scope::Shared),
    ("self_attn.index_q_proj", Kind::IndexerWqB, Scope::Dense),
    ("self_attn.index_k_proj", Kind::IndexerWk, Scope::Dense),
    ("self_attn.index_q_norm", Kind::IndexerNorm, Scope::Dense),
    ("self_attn.index_k_norm", Kind::IndexerNorm, Scope::Dense),
];

pub(super) static MIXTRAL: Table = Table {
    id: "mixtral",
    model_types: &["mixtral"],
    architectures: &["MixtralForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, QKV, SPARSE_MOE],
};

pub(super) static MINIMAX_M2: Table = Table {
    id: "minimax_m2",
    model_types: &["minimax_m2"],
    architectures: &["MiniMaxM2ForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, QKV, QK_NORM, SPARSE_MOE],
};

pub(super) static MINIMAX_M3: Table = Table {
    id: "minimax_m3_vl",
    model_types: &["minimax_m3_vl"],
    architectures: &["MiniMaxM3VLForConditionalGeneration", "MiniMaxM3SparseForConditionalGeneration"],
    mtp_layers: false,
    modules: &[COMMON, QKV, QK_NORM, SPARSE_MOE, M3],
};
