//! Engine dialects: how one serving engine wants names, files and configuration.

use super::Preset;
use super::compressed_tensors::CompressedTensors;
use super::vllm_ascend::VllmAscend;
use crate::checkpoint::{Checkpoint, Role};
use crate::error::{Error, Result};
use crate::plan::Plan;
use serde_json::{Map, Value};
use std::io;

/// What the generators of side files may look at.
#[derive(Clone, Copy)]
pub struct Dialect<'a> {
    /// The source.
    pub checkpoint: &'a Checkpoint,
    /// The scheme.
    pub preset: &'a Preset,
    /// The finished plan.
    pub plan: &'a Plan,
}

/// One serving engine.
pub trait Engine: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;

    /// Why a linear weight of this role stays float under `preset`, or `None` where it is quantized.
    fn float_reason(&self, preset: &Preset, role: &Role) -> Option<&'static str>;

    /// Suffix of a scale beside its module's name.
    fn scale_suffix(&self, preset: &Preset) -> &'static str;

    /// Whether biases of linears are stored in F32.
    fn bias_in_f32(&self) -> bool {
        false
    }

    /// Name of shard `i` (from 1) of `n`.
    fn shard_name(&self, i: usize, n: usize) -> String;

    /// Name of the index of `n` shards, where one is written.
    fn index_name(&self, n: usize) -> Option<&'static str>;

    /// `config.json` of the artifact.
    fn config(&self, cx: &Dialect<'_>) -> Map<String, Value>;

    /// Name of the engine's own description file, where it has one.
    fn description_name(&self) -> Option<&'static str> {
        None
    }

    /// Writes the description file.
    fn write_description(&self, _cx: &Dialect<'_>, _out: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

/// Every engine dialect, in order.
pub static ALL: &[&dyn Engine] = &[
    &VllmAscend,
    &CompressedTensors { name: "vllm" },
    &CompressedTensors { name: "vllm-metax" },
    &CompressedTensors { name: "vllm-hcu" },
];

/// The dialect called `name`.
pub fn find(name: &str) -> Result<&'static dyn Engine> {
    ALL.iter().copied().find(|e| e.name() == name).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|e| e.name()).collect();
        Error::unsupported("engine-unknown", format!("this version does not know the engine {name}"))
            .expected(known.join(", "))
            .found(name)
            .fix("choose one of the engines listed by `silicast targets`")
    })
}

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
