//! Edits of `config.json` that dialects share.

use super::engine::Dialect;
use crate::checkpoint::{Encoding, Scope};
use crate::dtype::Dtype;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Removes what announces the source's quantization: at the root and in `text_config`.
pub fn without_quantization(config: &Map<String, Value>) -> Map<String, Value> {
    let mut config = config.clone();
    for key in ["quantization_config", "compression_config"] {
        config.shift_remove(key);
        for nested in ["text_config", "llm_config"] {
            if let Some(Value::Object(inner)) = config.get_mut(nested) {
                inner.shift_remove(key);
            }
        }
    }
    config
}

/// States the compute dtype: `torch_dtype`, and `dtype` where a newer release has it, nested configurations included.
pub fn set_compute_dtype(config: &mut Map<String, Value>, dtype: &str) {
    for nested in ["text_config", "llm_config"] {
        if let Some(Value::Object(inner)) = config.get_mut(nested) {
            for key in ["torch_dtype", "dtype"] {
                if inner.contains_key(key) {
                    inner.insert(key.to_owned(), Value::from(dtype));
                }
            }
        }
    }
    if config.contains_key("dtype") {
        config.insert("dtype".to_owned(), Value::from(dtype));
    }
    config.insert("torch_dtype".to_owned(), Value::from(dtype));
}

/// `config.json` under a scheme that keeps every tensor: the source's own, and in DeepSeek-V4 what its experts are,
/// because engines take FP4 for granted.
pub fn native(cx: &Dialect<'_>) -> Map<String, Value> {
    let mut config = cx.checkpoint.config.json.clone();
    if !cx.checkpoint.family.has_native_names() {
        return config;
    }
    let mut elements = BTreeSet::new();
    for (tensor, encoding) in cx.checkpoint.tensors.iter().zip(&cx.checkpoint.encodings) {
        let role = cx.checkpoint.family.role(&tensor.name, &tensor.shape);
        match encoding {
            Encoding::Codes(stored) if role.scope == Scope::Expert => {
                elements.insert(Some(stored.scheme.element))
            }
            Encoding::Plain if role.scope == Scope::Expert => elements.insert(None),
            _ => continue,
        };
    }
    let says = match elements.into_iter().collect::<Vec<_>>()[..] {
        [Some(Dtype::F4E2M1)] => "fp4",
        [Some(Dtype::F8E4M3)] => "fp8",
        _ => return config,
    };
    set_expert_dtype(cx, &mut config, says);
    config
}

/// States the format of DeepSeek-V4's experts where its engine looks: V4 at the root, V4.1 in `quantization_config`.
pub fn set_expert_dtype(cx: &Dialect<'_>, config: &mut Map<String, Value>, says: &str) {
    let place = match cx.checkpoint.family.id {
        "deepseek_v4" => Some(config),
        _ => config.get_mut("quantization_config").and_then(Value::as_object_mut),
    };
    if let Some(place) = place {
        place.insert("expert_dtype".to_owned(), says.into());
    }
}
