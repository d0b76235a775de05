//! GLM-4.5 to 4.7 (`glm4_moe`), GLM-5 (`glm_moe_dsa`, V3.2's names) and GLM-5-Next (`glm5_next`: delta attention and
//! hyper-connections beside them).
//!
//! Names: transformers `modeling_glm4_moe.py`, `modeling_glm_moe_dsa.py`, and the renames of `conversion_mapping.py` for
//! `glm5_next`. Multi-token prediction is the layer after
//! the last one.

use super::deepseek::{DELTA_ATTENTION, INDEXER, MLA};
use super::{COMMON, EXPERTS, MTP, Module, QK_NORM, QKV, SHARED_EXPERTS, Table};
use crate::checkpoint::role::{Kind, Scope};

/// Hyper-connections, and the pooling of the indexer's keys.
const NEXT: &[Module] = &[
    ("hc_attn_fn", Kind::HyperConnection, Scope::Dense),
    ("hc_attn_base", Kind::HyperConnection, Scope::Dense),
    ("hc_attn_scale", Kind::HyperConnection, Scope::Dense),
    ("hc_ffn_fn", Kind::HyperConnection, Scope::Dense),
    ("hc_ffn_base", Kind::HyperConnection, Scope::Dense),
    ("hc_ffn_scale", Kind::HyperConnection, Scope::Dense),
    ("self_attn.indexer.index_kpool_compress_ape", Kind::Compressor, Scope::Dense),
    ("self_attn.indexer.index_kpool_compress_gate", Kind::Compressor, Scope::Dense),
];

pub(super) static GLM4_MOE: Table = Table {
    id: "glm4_moe",
    model_types: &["glm4_moe"],
    architectures: &["Glm4MoeForCausalLM"],
    mtp_layers: true,
    modules: &[COMMON, EXPERTS, QKV, QK_NORM, SHARED_EXPERTS, MTP],
};

pub(super) static GLM_MOE_DSA: Table = Table {
    id: "glm_moe_dsa",
    model_types: &["glm_moe_dsa"],
    architectures: &["GlmMoeDsaForCausalLM"],
    mtp_layers: true,
    modules: &[COMMON, EXPERTS, MLA, INDEXER, SHARED_EXPERTS, MTP],
};

pub(super) static GLM5_NEXT: Table = Table {
    id: "glm5_next",
    model_types: &["glm5_next", "glm5_next_text"],
    architectures: &["Glm5NextForConditionalGeneration"],
    mtp_layers: true,
    modules: &[COMMON, EXPERTS, QKV, MLA, INDEXER, DELTA_ATTENTION, SHARED_EXPERTS, MTP, NEXT],
};
