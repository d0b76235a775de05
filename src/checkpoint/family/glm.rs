//! GLM-4.5 to 4.7 (`glm4_moe`) and GLM-5 (`glm_moe_dsa`, V3.2's names).
//!
//! Names: transformers `modeling_glm4_moe.py` and `modeling_glm_moe_dsa.py`. Multi-token prediction is the layer after
//! the last one.

use super::deepseek::{INDEXER, MLA};
use super::{COMMON, EXPERTS, MTP, QK_NORM, QKV, SHARED_EXPERTS, Table};

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
