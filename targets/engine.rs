//! Engine dialects: how one serving engine wants names, files and configuration.

use super::Preset;
use super::compressed_tensors::CompressedTensors;
use super::vllm_ascend::VllmAscend;
use crate::checkpoint::{Checkpoint, Role};
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::Scheme;
use crate::error::{Error, Result};
use crate::plan::expr::{Constant, Part};
use crate::plan::{Plan, Ty};
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

/// What an engine calls the parts of a quantized weight, after the name of its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The codes.
    pub codes: &'static str,
    /// The scales.
    pub scales: &'static str,
    /// The zero points.
    pub zeros: &'static str,
}

impl Names {
    /// Codes under their module's own `weight`.
    pub const PLAIN: Names = Names { codes: "weight", scales: "weight_scale", zeros: "weight_zero_point" };

    /// compressed-tensors' packed weights.
    pub const PACKED: Names = Names { codes: "weight_packed", ..Names::PLAIN };

    /// The names that go with a packing everywhere.
    pub fn of(packing: Packing) -> Names {
        match packing {
            Packing::Gptq | Packing::GptqV2 | Packing::Awq => {
                Names { codes: "qweight", scales: "scales", zeros: "qzeros" }
            }
            Packing::Int32 => Names::PACKED,
            _ => Names::PLAIN,
        }
    }
}

/// A tensor that a loader registers beside codes and scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Companion {
    /// Its name after that of the module.
    pub suffix: &'static str,
    /// What it holds.
    pub content: Content,
}

/// What a companion holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A result of the quantizer.
    Part(Part),
    /// A constant.
    Constant(Ty, Constant),
}

impl Companion {
    /// A constant tensor.
    pub fn constant(suffix: &'static str, dtype: Dtype, shape: Vec<u64>, constant: Constant) -> Companion {
        Companion { suffix, content: Content::Constant(Ty { dtype, shape: shape.into() }, constant) }
    }

    /// What goes with a packing everywhere: the shape of packed integers, the group of each column, the zero points of
    /// symmetric codes where the layout has a place for them.
    pub fn of(scheme: Scheme, [n, k]: [u64; 2], zeros: bool) -> Vec<Companion> {
        let group = scheme.granularity.group().unwrap_or(u32::MAX);
        let middle = |word: u32| {
            let (dtype, shape) = scheme.stored_zeros(n, k);
            Companion::constant("qzeros", dtype, shape, Constant::Words(word))
        };
        match scheme.packing {
            Packing::Int32 => {
                vec![Companion::constant("weight_shape", Dtype::I64, vec![2], Constant::Shape([n, k]))]
            }
            Packing::Gptq | Packing::GptqV2 => {
                let order = Companion::constant("g_idx", Dtype::I32, vec![k], Constant::Groups(group));
                // v1 stores the zero point minus one.
                let word = if scheme.packing == Packing::Gptq { 0x7777_7777 } else { 0x8888_8888 };
                if zeros { vec![order] } else { vec![middle(word), order] }
            }
            Packing::Awq if !zeros => vec![middle(0x8888_8888)],
            _ => Vec::new(),
        }
    }
}

/// One serving engine.
pub trait Engine: Sync {
    /// Name on the command line.
    fn name(&self) -> &'static str;

    /// Why a linear weight of this role stays float under `preset`, or `None` where it is quantized.
    fn float_reason(&self, preset: &Preset, role: &Role) -> Option<&'static str>;

    /// What the engine calls codes, scales and zero points. `native` says that modules have DeepSeek's own names.
    fn names(&self, _preset: &Preset, scheme: Scheme, _native: bool) -> Names {
        Names::of(scheme.packing)
    }

    /// What the loader registers beside the codes and scales of a weight `[n, k]`, in order. `zeros` says that zero
    /// points are written.
    fn companions(&self, preset: &Preset, role: &Role, scheme: Scheme, shape: [u64; 2], zeros: bool) -> Vec<Companion> {
        let _ = (preset, role);
        Companion::of(scheme, shape, zeros)
    }

    /// Whether integer codes in groups of `group` can be kept, or the engine wants its own group.
    fn takes_group(&self, _preset: &Preset, _group: u32) -> bool {
        true
    }

    /// Why the engine cannot run `preset` with a model of this family, where it cannot.
    fn refuses(&self, _preset: &Preset, _family: &str) -> Option<&'static str> {
        None
    }

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
