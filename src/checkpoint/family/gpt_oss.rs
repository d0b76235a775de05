//! gpt-oss: biases everywhere, attention sinks, all experts of a layer in one tensor.
//!
//! Names: transformers `modeling_gpt_oss.py` and `integrations/mxfp4.py`.

use super::{COMMON, EXPERTS, FUSED_EXPERTS, Module, QKV, Table};
use crate::checkpoint::role::{Kind, Scope};

/// Sinks, router and the parameters of MXFP4 experts.
const GPT_OSS_MODULES: &[Module] = &[
    ("self_attn.sinks", Kind::Sink, Scope::Dense),
    ("mlp.router", Kind::Router, Scope::Dense),
    ("mlp.experts.gate_up_proj_blocks", Kind::ExpertsGateUp, Scope::Expert),
    ("mlp.experts.gate_up_proj_scales", Kind::ExpertsGateUp, Scope::Expert),
    ("mlp.experts.gate_up_proj_bias", Kind::ExpertsGateUp, Scope::Expert),
    ("mlp.experts.down_proj_blocks", Kind::ExpertsDown, Scope::Expert),
    ("mlp.experts.down_proj_scales", Kind::ExpertsDown, Scope::Expert),
    ("mlp.experts.down_proj_bias", Kind::ExpertsDown, Scope::Expert),
];

pub(super) static GPT_OSS: Table = Table {
    id: "gpt_oss",
    model_types: &["gpt_oss"],
    architectures: &["GptOssForCausalLM"],
    mtp_layers: false,
    // Experts of their own are what a conversion makes of them.
    modules: &[COMMON, QKV, EXPERTS, FUSED_EXPERTS, GPT_OSS_MODULES],
};
