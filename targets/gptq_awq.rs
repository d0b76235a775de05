//! `quant_method: gptq` and `awq`: packed INT4 in groups, in the layouts of GPTQModel and AutoAWQ.
//!
//! Facts from GPTQModel 7.7.0, AutoAWQ 0.2.9 and vLLM 0.33, which takes symmetric GPTQ without activation order only and
//! reads `modules_to_not_convert` of both.

use super::engine::Dialect;
use crate::dtype::scheme::Scheme;
use serde_json::{Value, json};

/// `format` of GPTQ presets.
pub const GPTQ: &str = "gptq";
/// `format` of AWQ presets.
pub const AWQ: &str = "awq";

/// The method's entry in `config.json`.
pub fn config(cx: &Dialect<'_>, scheme: Scheme) -> Value {
    let (bits, group) = (scheme.element.bits(), scheme.granularity.group());
    let floats = cx.float_linears();
    if cx.preset.format == GPTQ {
        return json!({
            "quant_method": GPTQ, "bits": bits, "group_size": group, "desc_act": false, "sym": true, "lm_head": false,
            "checkpoint_format": "gptq", "pack_dtype": "int32", "modules_to_not_convert": floats,
        });
    }
    json!({
        "quant_method": AWQ, "bits": bits, "group_size": group, "zero_point": cx.preset.is_asymmetric(),
        "version": "gemm", "modules_to_not_convert": floats,
    })
}
