//! `quant_method: slimquant_w4a8`: Hygon's INT4 experts beside INT8 linears.
//!
//! Facts from HYGON-AI/sglang-das 9ca1b25f, HYGON-AI/vllm-plugin-das 0faa3af3 (`slimquant_w4a8.py`) and
//! HYGON-AI/one-click-quant 75acb544. Loaders read the method's name only and quantize every linear; the list of modules
//! documents what the engine builds without quantization.

use super::engine::Dialect;
use serde_json::{Value, json};

/// `format` of the presets.
pub const FORMAT: &str = "slimquant";

/// The method's entry in `config.json`.
pub fn config(cx: &Dialect<'_>) -> Value {
    json!({
        "activation_scheme": "dynamic",
        "quant_method": "slimquant_w4a8",
        "modules_to_not_convert": cx.float_linears(),
    })
}
