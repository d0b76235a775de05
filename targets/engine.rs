//! Engine dialects: how one serving engine wants names, files and configuration.

use super::vllm::Vllm;
use super::vllm_ascend::VllmAscend;
use super::vllm_mlu::VllmMlu;
use super::{Preset, Target};
use crate::checkpoint::{Checkpoint, Kind, Part as RolePart, Role, Scope, module_of, natural_cmp};
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::Scheme;
use crate::error::{Error, Result};
use crate::plan::expr::{Constant, Part};
use crate::plan::{Expr, Output, Plan, Ty};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
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

impl<'a> Dialect<'a> {
    /// The chip.
    pub fn target(&self) -> Option<&'static Target> {
        Target::find(&self.plan.header.target).ok()
    }

    /// What an output is for.
    pub fn role(&self, output: &Output) -> Role {
        self.checkpoint.family.role(&output.name, &output.ty.shape)
    }

    /// Whether an output is part of a routed expert.
    pub fn is_expert(&self, output: &Output) -> bool {
        let role = self.role(output);
        role.scope == Scope::Expert && role.expert.is_some()
    }

    /// Whether an output has the encoding that routed experts have apart from everything else.
    pub fn is_apart(&self, output: &Output) -> bool {
        match (self.preset.experts, output.scheme) {
            (Some(experts), Some(scheme)) => {
                scheme.element == experts.element
                    && scheme.packing == experts.packing
                    && self.is_expert(output)
            }
            _ => false,
        }
    }

    /// The schemes that the artifact uses: of routed experts where they have one apart, and of everything else. Groups
    /// are those of the artifact, which may have taken over the source's.
    pub fn schemes(&self) -> (Option<Scheme>, Option<Scheme>) {
        let encoded = || self.plan.outputs.iter().filter(|o| o.scheme.is_some());
        let first = |apart: bool| encoded().find(|o| self.is_apart(o) == apart).and_then(|o| o.scheme);
        let experts = if self.preset.experts.is_some() { first(true) } else { None };
        (experts, first(false))
    }

    /// Whether a weight that the source has quantized is float in the artifact.
    pub fn decodes(&self) -> bool {
        fn is_decoded(expr: &Expr) -> bool {
            match expr {
                Expr::Dequantize(_) => true,
                Expr::Cast { value, .. } | Expr::View { value, .. } | Expr::Slice { value, .. } => {
                    is_decoded(value)
                }
                _ => false,
            }
        }
        self.plan.outputs.iter().any(|o| is_decoded(&o.expr))
    }

    /// Whether the model routes tokens to experts.
    pub fn has_experts(&self) -> bool {
        self.plan.outputs.iter().any(|o| self.is_expert(o))
    }

    /// Modules of the linears that stay float, with their full names in natural order; `lm_head` always, because tied
    /// models build the head all the same.
    pub fn float_linears(&self) -> Vec<Value> {
        let mut modules: BTreeSet<&str> = BTreeSet::from(["lm_head"]);
        for output in &self.plan.outputs {
            let linear = output.scheme.is_none()
                && output.ty.shape.len() == 2
                && output.ty.dtype.is_plain_float()
                && is_linear_module(&self.role(output), module_of(&output.name));
            if linear {
                modules.insert(module_of(&output.name));
            }
        }
        let mut modules: Vec<&str> = modules.into_iter().collect();
        modules.sort_by(|a, b| natural_cmp(a, b));
        modules.into_iter().map(Value::from).collect()
    }
}

/// Whether an engine builds the module of a matrix as a linear, so that a list of exceptions must name it.
fn is_linear_module(role: &Role, module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or(module);
    let lookup = last.contains("embed") || matches!(last, "wte" | "wpe" | "tok_emb" | "markov_w1");
    let norm = last.contains("norm") || last.starts_with("ln_");
    role.part == RolePart::Weight
        && !matches!(role.kind, Kind::Embed | Kind::Norm | Kind::IndexerNorm | Kind::EngramTable)
        && !lookup
        && !norm
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

    /// Why a linear weight of this role stays float under `preset`, or `None` where it is quantized. `native` says that
    /// modules have DeepSeek-V4's own names.
    fn float_reason(&self, preset: &Preset, role: &Role, native: bool) -> Option<&'static str>;

    /// Why codes and scales stay as the source stores them although nothing else does, where they do.
    fn keeps_stored(&self, preset: &Preset, role: &Role, _checkpoint: &Checkpoint) -> Option<&'static str> {
        (role.kind == Kind::EngramTable && preset.encoding.is_some())
            .then_some("table of n-gram embeddings, looked up as it is stored")
    }

    /// Tensors that the loader wants twice: the name of the one there is, and the name of its copy.
    fn copies(&self, _checkpoint: &Checkpoint) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// What the engine calls codes, scales and zero points. `native` says that modules have DeepSeek's own names.
    fn names(&self, _preset: &Preset, scheme: Scheme, _native: bool) -> Names {
        Names::of(scheme.packing)
    }

    /// What the loader registers beside the codes and scales of a weight `[n, k]`, in order. `zeros` says that zero
    /// points are written.
    fn companions(
        &self,
        preset: &Preset,
        role: &Role,
        scheme: Scheme,
        shape: [u64; 2],
        zeros: bool,
    ) -> Vec<Companion> {
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
    fn shard_name(&self, _preset: &Preset, i: usize, n: usize) -> String {
        match n {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{i:05}-of-{n:05}.safetensors"),
        }
    }

    /// Name of the index of `n` shards, where one is written.
    fn index_name(&self, _preset: &Preset, n: usize) -> Option<String> {
        (n > 1).then(|| "model.safetensors.index.json".to_owned())
    }

    /// `config.json` of the artifact.
    fn config(&self, cx: &Dialect<'_>) -> Map<String, Value>;

    /// Name of the engine's own description file, where it has one.
    fn description_name(&self, _preset: &Preset) -> Option<String> {
        None
    }

    /// Writes the description file.
    fn write_description(&self, _cx: &Dialect<'_>, _out: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

/// Why a linear of this role is float in every engine.
pub fn float_everywhere(role: &Role) -> Option<&'static str> {
    Some(match role.kind {
        Kind::LmHead => "output head",
        Kind::SharedHead => "output head of the MTP layer",
        Kind::EhProj => "MTP projection, built without quantization",
        Kind::IndexerWeights => "indexer weights projection, built without quantization",
        Kind::OAProj => "block-diagonal output projection: its batched product takes BF16",
        Kind::EngramProj => "projection of n-gram embeddings, built without quantization",
        Kind::Multimodal => "vision or audio tower",
        _ => return None,
    })
}

/// Every engine dialect, in order.
pub static ALL: &[&dyn Engine] = &[
    &Vllm { name: "vllm" },
    &VllmAscend { legacy: false },
    &VllmAscend { legacy: true },
    &VllmMlu { name: "vllm-mlu" },
    &VllmMlu { name: "xllm" },
    &Vllm { name: "vllm-musa" },
    &Vllm { name: "sglang" },
    &Vllm { name: "vllm-hcu" },
    &Vllm { name: "vllm-metax" },
    &Vllm { name: "vllm-kunlun" },
    &Vllm { name: "vllm-gcu" },
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
