//! SGLang's own methods: `w8a8_int8`, `w8a8_fp8`, `blockwise_int8` and `mxfp8`.
//!
//! Facts from SGLang 0.5.23 (`layers/quantization/w8a8_int8.py`, `w8a8_fp8.py`, `blockwise_int8.py`, `fp8.py`).
//! `w8a8_fp8` has no list of exceptions: it quantizes every linear.

use super::engine::Dialect;
use serde_json::{Value, json};

/// INT8 per channel.
pub const W8A8_INT8: &str = "w8a8_int8";
/// FP8 per channel.
pub const W8A8_FP8: &str = "w8a8_fp8";
/// INT8 in 128x128 blocks.
pub const BLOCKWISE_INT8: &str = "blockwise_int8";
/// E4M3 in groups of 32.
pub const MXFP8: &str = "mxfp8";

/// `format` of the presets.
pub const FORMATS: &[&str] = &[W8A8_INT8, W8A8_FP8, BLOCKWISE_INT8, MXFP8];

/// The method's entry in `config.json`.
pub fn config(cx: &Dialect<'_>) -> Value {
    let floats = cx.float_linears();
    match cx.preset.format.as_str() {
        W8A8_INT8 => json!({"quant_method": W8A8_INT8, "is_dynamic": true, "ignore": floats}),
        W8A8_FP8 => json!({"quant_method": W8A8_FP8, "activation_scheme": "dynamic"}),
        BLOCKWISE_INT8 => json!({
            "quant_method": BLOCKWISE_INT8, "activation_scheme": "dynamic", "weight_block_size": [128, 128],
            "ignored_layers": floats,
        }),
        _ => json!({
            "quant_method": MXFP8, "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [1, 32],
            "ignored_layers": floats,
        }),
    }
}
