//! `quant_method: fp8`: DeepSeek's FP8 blocks, as vLLM, SGLang and the plug-in of Moore Threads read them.
//!
//! Facts from vLLM 0.33 (`layers/quantization/fp8.py`), SGLang 0.5.23 and MooreThreads/vllm-musa 814b0379.

use super::engine::Dialect;
use crate::checkpoint::module_of;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::plan::{Expr, Output};
use serde_json::{Value, json};

/// `format` of the presets.
pub const FORMAT: &str = "fp8";

/// The method's entry in `config.json`. A source that is native FP8 keeps its own, so that what it says about modules
/// stays; `plain_scales` says that the engine takes F32 scales for arbitrary ones whatever they are.
pub fn config(cx: &Dialect<'_>, scheme: Scheme, plain_scales: bool) -> Value {
    let source = cx.checkpoint.config.quantization.as_ref().filter(|q| q.method == FORMAT);
    let mut config = source.map(|q| q.json.clone()).unwrap_or_default();
    let Granularity::Block { rows, cols } = scheme.granularity else { return Value::Object(config) };
    match source {
        None => {
            config.insert("quant_method".to_owned(), FORMAT.into());
            config.insert("activation_scheme".to_owned(), "dynamic".into());
            config.insert("fmt".to_owned(), "e4m3".into());
        }
        // Blocks that pass through keep what the source says of their scales; fresh ones have arbitrary scales.
        Some(q) if q.block != Some([rows, cols]) || plain_scales => {
            config.shift_remove("scale_fmt");
        }
        Some(_) => {}
    }
    config.insert("weight_block_size".to_owned(), json!([rows, cols]));
    if source.is_none() {
        config.insert("modules_to_not_convert".to_owned(), cx.float_linears().into());
    } else {
        add_decoded(cx, &mut config);
    }
    // What experts are re-encoded from FP4 with is a power of two as well.
    if cx.preset.encoding.is_some_and(|s| s.rule == Rule::DeepseekUe8m0) {
        config.insert("scale_fmt".to_owned(), "ue8m0".into());
    }
    Value::Object(config)
}

/// What was FP8 in the source and is float now must be said, or the engine builds it as FP8 and casts.
fn add_decoded(cx: &Dialect<'_>, config: &mut serde_json::Map<String, Value>) {
    let decoded =
        |o: &&Output| matches!(&o.expr, Expr::Cast { value, .. } if matches!(**value, Expr::Dequantize(_)));
    let mut added: Vec<Value> =
        cx.plan.outputs.iter().filter(decoded).map(|o| module_of(&o.name).into()).collect();
    if added.is_empty() {
        return;
    }
    let key = if config.contains_key("ignored_layers") { "ignored_layers" } else { "modules_to_not_convert" };
    if let Some(Value::Array(listed)) = config.get(key) {
        added.splice(0..0, listed.iter().cloned());
    }
    config.insert(key.to_owned(), added.into());
}
