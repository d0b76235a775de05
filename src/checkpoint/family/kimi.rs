//! Kimi-K2 with its vision descendants (`kimi_k2`, `kimi_k25`) and Kimi-K3 (`kimi_k3`, its language model
//! `kimi_linear`).
//!
//! Names: header dumps of Kimi-K2-Instruct, K2.5 and K3. K2 has V3's names and code, K2.5 and K3 behind
//! `language_model.`. K3 alternates delta attention and gated latent attention, mixes the residual stream by learned
//! scores, and runs its routed experts in a latent space.

use super::deepseek::{DELTA_ATTENTION, MLA};
use super::mixtral::SPARSE_MOE;
use super::{COMMON, EXPERTS, MTP, Module, QKV, SHARED_EXPERTS, Table};
use crate::checkpoint::role::{Kind, Scope};

/// What K3 has beside V3's attention and Mixtral's experts.
const K3: &[Module] = &[
    ("block_sparse_moe.shared_experts.gate_proj", Kind::GateProj, Scope::Shared),
    ("block_sparse_moe.shared_experts.up_proj", Kind::UpProj, Scope::Shared),
    ("block_sparse_moe.shared_experts.down_proj", Kind::DownProj, Scope::Shared),
    ("block_sparse_moe.routed_expert_down_proj", Kind::LatentDown, Scope::Dense),
    ("block_sparse_moe.routed_expert_norm", Kind::Norm, Scope::Dense),
    ("block_sparse_moe.routed_expert_up_proj", Kind::LatentUp, Scope::Dense),
    ("self_attention_res_norm", Kind::Norm, Scope::Dense),
    ("self_attention_res_proj", Kind::ResidualScore, Scope::Dense),
    ("mlp_res_norm", Kind::Norm, Scope::Dense),
    ("mlp_res_proj", Kind::ResidualScore, Scope::Dense),
    ("output_attn_res_norm", Kind::Norm, Scope::Dense),
    ("output_attn_res_proj", Kind::ResidualScore, Scope::Dense),
];

pub(super) static KIMI_K2: Table = Table {
    id: "kimi_k2",
    model_types: &["kimi_k2", "kimi_k25"],
    architectures: &["KimiK2ForCausalLM", "KimiK25ForConditionalGeneration"],
    mtp_layers: true,
    modules: &[COMMON, EXPERTS, MLA, SHARED_EXPERTS, MTP],
};

pub(super) static KIMI_K3: Table = Table {
    id: "kimi_k3",
    model_types: &["kimi_k3", "kimi_linear"],
    architectures: &["KimiK3ForConditionalGeneration", "KimiLinearForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, QKV, MLA, DELTA_ATTENTION, SPARSE_MOE, K3],
};
