//! Llama and Mistral: dense models without query and key norms.
//!
//! Names: transformers `modeling_llama.py` and `modeling_mistral.py`.

use super::{COMMON, QKV, Table};

pub(super) static LLAMA: Table = Table {
    id: "llama",
    model_types: &["llama"],
    architectures: &["LlamaForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, QKV],
};

pub(super) static MISTRAL: Table = Table {
    id: "mistral",
    model_types: &["mistral"],
    architectures: &["MistralForCausalLM"],
    mtp_layers: false,
    modules: &[COMMON, QKV],
};
