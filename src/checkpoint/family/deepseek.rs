//! DeepSeek V3, R1, V3.1 (`deepseek_v3`) and V3.2 (`deepseek_v32`).
//!
//! Names: header dumps of V3.2, transformers `modeling_deepseek_v3.py` and `modeling_deepseek_v32.py`. Multi-token prediction is the layer after the last one.

use super::{COMMON, EXPERTS, MTP, Module, SHARED_EXPERTS, Table};
use crate::checkpoint::role::{Kind, Scope};

/// Multi-head latent attention. `q_proj` replaces `q_a`/`q_b` where `q_lora_rank` is null.
pub(super) const MLA: &[Module] = &[
    ("self_attn.q_proj", Kind::QProj, Scope::Dense),
    ("self_attn.q_a_proj", Kind::QAProj, Scope::Dense),
    ("self_attn.q_a_layernorm", Kind::Norm, Scope::Dense),
    ("self_attn.q_b_proj", Kind::QBProj, Scope::Dense),
    ("self_attn.kv_a_proj_with_mqa", Kind::KvAProj, Scope::Dense),
    ("self_attn.kv_a_layernorm", Kind::Norm, Scope::Dense),
    ("self_attn.kv_b_proj", Kind::KvBProj, Scope::Dense),
];

/// The indexer of sparse attention.
pub(super) const INDEXER: &[Module] = &[
    ("self_attn.indexer.wq_b", Kind::IndexerWqB, Scope::Dense),
    ("self_attn.indexer.wk", Kind::IndexerWk, Scope::Dense),
    ("self_attn.indexer.weights_proj", Kind::IndexerWeights, Scope::Dense),
    ("self_attn.indexer.k_norm", Kind::IndexerNorm, Scope::Dense),
];

/// Delta attention of Kimi-K3 and GLM-5-Next: convolutions and gates beside `q_proj`, `k_proj`, `v_proj` and `o_proj`.
/// `g_proj` gates the latent attention of Kimi-K3 too.
pub(super) const DELTA_ATTENTION: &[Module] = &[
    ("self_attn.q_conv1d", Kind::Conv, Scope::Dense),
    ("self_attn.k_conv1d", Kind::Conv, Scope::Dense),
    ("self_attn.v_conv1d", Kind::Conv, Scope::Dense),
    ("self_attn.A_log", Kind::LinearAttnState, Scope::Dense),
    ("self_attn.dt_bias", Kind::LinearAttnState, Scope::Dense),
    ("self_attn.f_a_proj", Kind::AttnGate, Scope::Dense),
    ("self_attn.f_b_proj", Kind::AttnGate, Scope::Dense),
    ("self_attn.b_proj", Kind::AttnGate, Scope::Dense),
    ("self_attn.g_proj", Kind::AttnGate, Scope::Dense),
    ("self_attn.g_a_proj", Kind::AttnGate, Scope::Dense),
    ("self_attn.g_b_proj", Kind::AttnGate, Scope::Dense),
    ("self_attn.o_norm", Kind::Norm, Scope::Dense),
];

pub(super) static V3: Table = Table {
    id: "deepseek_v3",
    model_types: &["deepseek_v3"],
    architectures: &["DeepseekV3ForCausalLM"],
    mtp_layers: true,
    modules: &[COMMON, EXPERTS, MLA, SHARED_EXPERTS, MTP],
};

pub(super) static V32: Table = Table {
    id: "deepseek_v32",
    model_types: &["deepseek_v32"],
    architectures: &["DeepseekV32ForCausalLM"],
    mtp_layers: true,
    modules: &[COMMON, EXPERTS, MLA, INDEXER, SHARED_EXPERTS, MTP],
};
