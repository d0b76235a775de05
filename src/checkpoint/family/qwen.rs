//! Qwen2 (biases on q, k, v), Qwen3 (query and key norms), Qwen3-MoE and Qwen3-VL-MoE, and the hybrids with linear
//! attention: Qwen3-Next and Qwen3.5.
//!
//! Names: transformers `modeling_qwen2.py`, `modeling_qwen3.py`, `modeling_qwen3_moe.py`, `modeling_qwen3_vl_moe.py`;
//! header dumps of Qwen3-Next and Qwen3.5. Their multi-token prediction is `mtp.layers.{i}.` with `mtp.fc` before it.

use super::{COMMON, EXPERTS, FUSED_EXPERTS, LINEAR_ATTENTION, Module, QK_NORM, QKV, Table};
use crate::checkpoint::role::{Kind, Scope};

/// The single shared expert of Qwen2-MoE and Qwen3-Next, with its gate.
pub(super) const SHARED_EXPERT: &[Module] = &[
    ("mlp.shared_expert.gate_proj", Kind::GateProj, Scope::Shared),
    ("mlp.shared_expert.up_proj", Kind::UpProj, Scope::Shared),
    ("mlp.shared_expert.down_proj", Kind::DownProj, Scope::Shared),
    ("mlp.shared_expert_gate", Kind::Router, Scope::Shared),
];

/// The entry of multi-token prediction.
const MTP_ENTRY: &[Module] = &[
    ("fc", Kind::EhProj, Scope::Dense),
    ("pre_fc_norm_embedding", Kind::Norm, Scope::Dense),
    ("pre_fc_norm_hidden", Kind::Norm, Scope::Dense),
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

pub(super) static QWEN3_VL_MOE: Table = Table {
    id: "qwen3_vl_moe",
    model_types: &["qwen3_vl_moe", "qwen3_vl_moe_text"],
    architectures: &["Qwen3VLMoeForConditionalGeneration"],
    mtp_layers: false,
    modules: &[COMMON, EXPERTS, FUSED_EXPERTS, QKV, QK_NORM],
};

pub(super) static QWEN3_NEXT: Table = Table {
    id: "qwen3_next",
    model_types: &["qwen3_next"],
    architectures: &["Qwen3NextForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, EXPERTS, QKV, QK_NORM, LINEAR_ATTENTION, SHARED_EXPERT, MTP_ENTRY],
};

pub(super) static QWEN3_5: Table = Table {
    id: "qwen3_5",
    model_types: &["qwen3_5", "qwen3_5_text"],
    architectures: &["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, QKV, QK_NORM, LINEAR_ATTENTION, MTP_ENTRY],
};

pub(super) static QWEN3_5_MOE: Table = Table {
    id: "qwen3_5_moe",
    model_types: &["qwen3_5_moe", "qwen3_5_moe_text"],
    architectures: &["Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, EXPERTS, FUSED_EXPERTS, QKV, QK_NORM, LINEAR_ATTENTION, SHARED_EXPERT, MTP_ENTRY],
};
