//! Qwen2 (biases on q, k, v), Qwen3 (query and key norms) and Qwen3-MoE.
//!
//! Names: transformers `modeling_qwen2.py`, `modeling_qwen3.py`, `modeling_qwen3_moe.py`.

use super::{COMMON, EXPERTS, Module, QK_NORM, QKV, Table};
use crate::checkpoint::role::{Kind, Scope};

/// The single shared expert of Qwen2-MoE and Qwen3-Next, with its gate.
pub(super) const SHARED_EXPERT: &[Module] = &[
    ("mlp.shared_expert.gate_proj", Kind::GateProj, Scope::Shared),
    ("mlp.shared_expert.up_proj", Kind::UpProj, Scope::Shared),
    ("mlp.shared_expert.down_proj", Kind::DownProj, Scope::Shared),
    ("mlp.shared_expert_gate", Kind::Router, Scope::Shared),
];

pub(super) static QWEN2: Table = Table {
    id: "qwen2",
    model_types: &["qwen2"],
    architectures: &["Qwen2ForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, QKV],
};

pub(super) static QWEN3: Table = Table {
    id: "qwen3",
    model_types: &["qwen3"],
    architectures: &["Qwen3ForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, QKV, QK_NORM],
};

pub(super) static QWEN3_MOE: Table = Table {
    id: "qwen3_moe",
    model_types: &["qwen3_moe"],
    architectures: &["Qwen3MoeForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, EXPERTS, QKV, QK_NORM],
};
