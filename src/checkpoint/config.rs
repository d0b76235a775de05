//! `config.json`: the model's own description, read strictly and kept as it is.

use super::json;
use crate::error::{Error, Result, quote};
use serde_json::{Map, Value};

/// Largest `config.json`, in bytes. Real ones have a few KiB; long `ignore` lists reach a few hundred.
pub const MAX_CONFIG: u64 = 16 << 20;

/// Keys that must be counts where they are present: a wrong type here would otherwise show up much later.
const COUNTS: &[&str] = &[
    "num_hidden_layers",
    "num_nextn_predict_layers",
    "first_k_dense_replace",
    "n_routed_experts",
    "num_experts",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
];

/// A model's configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The document, keys in file order; empty when the file is missing.
    pub json: Map<String, Value>,
    /// Whether there is a file.
    pub present: bool,
    /// The source's quantization, from the root or from `text_config`.
    pub quantization: Option<Quantization>,
    /// Whether root and `text_config` both have a quantization and they differ (the root's is used).
    pub quantization_conflict: bool,
}

/// What `quantization_config` says about the weights.
#[derive(Clone, Debug, Default)]
pub struct Quantization {
    /// `quant_method`, lower case; empty when missing.
    pub method: String,
    /// `format` of compressed-tensors.
    pub format: Option<String>,
    /// `weight_block_size` `[rows, cols]`.
    pub block: Option<[u32; 2]>,
    /// `scale_fmt`, for example `ue8m0`.
    pub scale_fmt: Option<String>,
    /// The weight schemes of compressed-tensors `config_groups`, in file order.
    pub groups: Vec<WeightGroup>,
    /// The object as it stands in the file.
    pub json: Map<String, Value>,
}

/// `weights` of one compressed-tensors config group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightGroup {
    /// `num_bits`.
    pub bits: Option<u64>,
    /// `type`: `int` or `float`.
    pub kind: String,
    /// `strategy`: `tensor`, `channel`, `group`, `block`, …
    pub strategy: String,
    /// `group_size`, where positive.
    pub group_size: Option<u32>,
    /// `block_structure` `[rows, cols]`.
    pub block: Option<[u32; 2]>,
    /// `symmetric`; true when missing.
    pub symmetric: bool,
}

impl Config {
    /// Parses the bytes of `config.json`.
    ///
    /// # Errors
    /// `config-json` (not JSON, duplicate keys, too deep), `config-not-object`, `config-value` (exit 4).
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let value = json::parse(bytes).map_err(|e| {
            Error::input("config-json", "config.json cannot be read")
                .expected("JSON without duplicate keys")
                .found(e)
        })?;
        Self::from_value(value)
    }

    /// Takes a parsed document.
    ///
    /// # Errors
    /// `config-not-object`, `config-value` (exit 4).
    pub fn from_value(value: Value) -> Result<Self> {
        let Value::Object(json) = value else {
            return Err(Error::input("config-not-object", "config.json is not a JSON object"));
        };
        let mut config = Self { json, present: true, quantization: None, quantization_conflict: false };
        for key in COUNTS {
            for value in
                [config.json.get(*key), config.text().and_then(|t| t.get(*key))].into_iter().flatten()
            {
                // Lists occur too (one count per layer); they are not read as counts.
                let bad = value.is_number() && value.as_u64().is_none_or(|v| v > u64::from(u32::MAX))
                    || matches!(value, Value::String(_) | Value::Bool(_) | Value::Object(_));
                if bad {
                    return Err(bad_value(key, "a non-negative 32-bit integer", value));
                }
            }
        }
        let at = |map: &Map<String, Value>| -> Result<Option<Quantization>> {
            match map.get("quantization_config").or_else(|| map.get("compression_config")) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::Object(q)) => Quantization::parse(q).map(Some),
                Some(other) => Err(bad_value("quantization_config", "an object", other)),
            }
        };
        let root = at(&config.json)?;
        let text = config.text().map(at).transpose()?.flatten();
        config.quantization_conflict = matches!((&root, &text), (Some(a), Some(b)) if a.json != b.json);
        config.quantization = root.or(text);
        Ok(config)
    }

    /// `text_config`, where a multimodal model nests its language model.
    pub fn text(&self) -> Option<&Map<String, Value>> {
        self.json.get("text_config").and_then(Value::as_object)
    }

    /// A value at the root or, failing that, in `text_config`; null counts as missing.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let present = |v: &&Value| !v.is_null();
        self.json.get(key).filter(present).or_else(|| self.text().and_then(|t| t.get(key)).filter(present))
    }

    /// A count, see [`Config::get`].
    pub fn count(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A truth value, see [`Config::get`].
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// A text, see [`Config::get`].
    pub fn string(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// `model_type` of the root.
    pub fn model_type(&self) -> Option<&str> {
        self.json.get("model_type")?.as_str()
    }

    /// `model_type` of `text_config`.
    pub fn text_model_type(&self) -> Option<&str> {
        self.text()?.get("model_type")?.as_str()
    }

    /// `architectures`.
    pub fn architectures(&self) -> Vec<&str> {
        let list = self.get("architectures").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Main layers, without multi-token-prediction layers.
    pub fn num_hidden_layers(&self) -> Option<u64> {
        self.count("num_hidden_layers")
    }

    /// Multi-token-prediction layers that the config promises.
    pub fn num_mtp_layers(&self) -> u64 {
        self.count("num_nextn_predict_layers").unwrap_or(0)
    }

    /// Whether `lm_head` shares the embedding.
    pub fn tie_word_embeddings(&self) -> bool {
        self.flag("tie_word_embeddings").unwrap_or(false)
    }

    /// `torch_dtype`, or `dtype` as newer writers call it.
    pub fn torch_dtype(&self) -> Option<&str> {
        self.string("torch_dtype").or_else(|| self.string("dtype"))
    }
}

impl Quantization {
    fn parse(json: &Map<String, Value>) -> Result<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut groups = Vec::new();
        if let Some(map) = json.get("config_groups").and_then(Value::as_object) {
            for group in map.values() {
                if let Some(weights) = group.get("weights").and_then(Value::as_object) {
                    groups.push(WeightGroup::parse(weights)?);
                }
            }
        }
        Ok(Self {
            method: text("quant_method").unwrap_or_default().to_ascii_lowercase(),
            format: text("format"),
            block: block(json, "weight_block_size")?,
            scale_fmt: text("scale_fmt"),
            groups,
            json: json.clone(),
        })
    }
}

impl WeightGroup {
    fn parse(json: &Map<String, Value>) -> Result<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let group_size = match json.get("group_size") {
            None | Some(Value::Null) => None,
            Some(v) => match v.as_i64() {
                Some(n) if n < 1 => None,
                Some(n) if n <= MAX_BLOCK => u32::try_from(n).ok(),
                _ => return Err(bad_value("group_size", "a count", v)),
            },
        };
        Ok(Self {
            bits: json.get("num_bits").and_then(Value::as_u64),
            kind: text("type"),
            strategy: text("strategy"),
            group_size,
            block: block(json, "block_structure")?,
            symmetric: json.get("symmetric").and_then(Value::as_bool).unwrap_or(true),
        })
    }
}

/// Longest side of a block that is believed.
const MAX_BLOCK: i64 = 1 << 20;

/// `[rows, cols]` under `key`; older writers say `"128x128"`.
fn block(json: &Map<String, Value>, key: &str) -> Result<Option<[u32; 2]>> {
    let Some(value) = json.get(key).filter(|v| !v.is_null()) else {
        return Ok(None);
    };
    let sides: Vec<Option<i64>> = match value {
        Value::Array(list) => list.iter().map(Value::as_i64).collect(),
        Value::String(text) => text.split('x').map(|t| t.parse().ok()).collect(),
        _ => Vec::new(),
    };
    let side = |v: Option<i64>| v.filter(|v| (1..=MAX_BLOCK).contains(v)).and_then(|v| u32::try_from(v).ok());
    match sides[..] {
        [rows, cols] => match (side(rows), side(cols)) {
            (Some(rows), Some(cols)) => Ok(Some([rows, cols])),
            _ => Err(bad_value(key, "two positive integers", value)),
        },
        _ => Err(bad_value(key, "two positive integers", value)),
    }
}

fn bad_value(key: &str, expected: &str, found: &Value) -> Error {
    Error::input("config-value", format!("config.json: {key} makes no sense"))
        .expected(expected)
        .found(quote(&found.to_string(), 80))
}
