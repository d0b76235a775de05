//! Model families: tensor name → role, as tables.
//!
//! A table lists module paths below `model.layers.{L}.` (or below `model.`) with what they do; `*` stands for an expert
//! index. A parameter that differs from its module, or has none, is listed by its own path: `self_attn.sinks`,
//! `hc_attn_scale`. Sources: the modeling files of transformers 5.23 and header dumps of the released checkpoints.

mod deepseek;
mod deepseek_v4;
mod glm;
mod gpt_oss;
mod kimi;
mod llama;
mod mixtral;
mod qwen;

use super::config::Config;
use super::name::split;
use super::role::{Kind, Part, Role, Scope};

/// Path of a module or parameter below the layer (or below the model's root) and what it is.
pub(super) type Module = (&'static str, Kind, Scope);

/// One family as data.
#[derive(Debug)]
pub(super) struct Table {
    /// The family's id.
    pub(super) id: &'static str,
    /// `model_type` values of `config.json`.
    pub(super) model_types: &'static [&'static str],
    /// `architectures` values, for configs without `model_type`.
    pub(super) architectures: &'static [&'static str],
    /// Whether layers from `num_hidden_layers` on are multi-token-prediction layers.
    pub(super) mtp_layers: bool,
    /// The modules, in groups that families share.
    pub(super) modules: &'static [&'static [Module]],
}

/// Modules that every family has.
const COMMON: &[Module] = &[
    ("embed_tokens", Kind::Embed, Scope::Dense),
    ("lm_head", Kind::LmHead, Scope::Dense),
    ("norm", Kind::Norm, Scope::Dense),
    ("input_layernorm", Kind::Norm, Scope::Dense),
    ("post_attention_layernorm", Kind::Norm, Scope::Dense),
    ("self_attn.o_proj", Kind::OProj, Scope::Dense),
    ("self_attn.rotary_emb", Kind::RotaryBuffer, Scope::Dense),
    ("rotary_emb", Kind::RotaryBuffer, Scope::Dense),
    ("mlp.gate_proj", Kind::GateProj, Scope::Dense),
    ("mlp.up_proj", Kind::UpProj, Scope::Dense),
    ("mlp.down_proj", Kind::DownProj, Scope::Dense),
];

/// Attention with separate query, key and value.
const QKV: &[Module] = &[
    ("self_attn.q_proj", Kind::QProj, Scope::Dense),
    ("self_attn.k_proj", Kind::KProj, Scope::Dense),
    ("self_attn.v_proj", Kind::VProj, Scope::Dense),
];

/// Norms of query and key.
const QK_NORM: &[Module] =
    &[("self_attn.q_norm", Kind::Norm, Scope::Dense), ("self_attn.k_norm", Kind::Norm, Scope::Dense)];

/// Routed experts with `mlp.experts.{e}.`.
const EXPERTS: &[Module] = &[
    ("mlp.gate", Kind::Router, Scope::Dense),
    ("mlp.experts.*.gate_proj", Kind::GateProj, Scope::Expert),
    ("mlp.experts.*.up_proj", Kind::UpProj, Scope::Expert),
    ("mlp.experts.*.down_proj", Kind::DownProj, Scope::Expert),
];

/// All routed experts in one tensor.
const FUSED_EXPERTS: &[Module] = &[
    ("mlp.experts.gate_up_proj", Kind::ExpertsGateUp, Scope::Expert),
    ("mlp.experts.down_proj", Kind::ExpertsDown, Scope::Expert),
];

/// Linear attention of Qwen: Qwen3-Next joins the input projections, Qwen3.5 has them apart.
const LINEAR_ATTENTION: &[Module] = &[
    ("linear_attn.in_proj_qkvz", Kind::LinearAttnIn, Scope::Dense),
    ("linear_attn.in_proj_ba", Kind::LinearAttnIn, Scope::Dense),
    ("linear_attn.in_proj_qkv", Kind::LinearAttnIn, Scope::Dense),
    ("linear_attn.in_proj_z", Kind::LinearAttnIn, Scope::Dense),
    ("linear_attn.in_proj_b", Kind::LinearAttnIn, Scope::Dense),
    ("linear_attn.in_proj_a", Kind::LinearAttnIn, Scope::Dense),
    ("linear_attn.conv1d", Kind::Conv, Scope::Dense),
    ("linear_attn.A_log", Kind::LinearAttnState, Scope::Dense),
    ("linear_attn.dt_bias", Kind::LinearAttnState, Scope::Dense),
    ("linear_attn.norm", Kind::Norm, Scope::Dense),
    ("linear_attn.out_proj", Kind::LinearAttnOut, Scope::Dense),
];

/// Shared experts with `mlp.shared_experts.`.
const SHARED_EXPERTS: &[Module] = &[
    ("mlp.shared_experts.gate_proj", Kind::GateProj, Scope::Shared),
    ("mlp.shared_experts.up_proj", Kind::UpProj, Scope::Shared),
    ("mlp.shared_experts.down_proj", Kind::DownProj, Scope::Shared),
];

/// The extra modules of a multi-token-prediction layer.
const MTP: &[Module] = &[
    ("enorm", Kind::Norm, Scope::Dense),
    ("hnorm", Kind::Norm, Scope::Dense),
    ("eh_proj", Kind::EhProj, Scope::Dense),
    ("shared_head.norm", Kind::Norm, Scope::Dense),
    ("shared_head.head", Kind::SharedHead, Scope::Dense),
];

const TABLES: &[&Table] = &[
    &deepseek::V3,
    &deepseek::V32,
    &deepseek_v4::V4,
    &deepseek_v4::V41,
    &kimi::KIMI_K2,
    &kimi::KIMI_K3,
    &glm::GLM4_MOE,
    &glm::GLM_MOE_DSA,
    &glm::GLM5_NEXT,
    &gpt_oss::GPT_OSS,
    &llama::LLAMA,
    &llama::MISTRAL,
    &mixtral::MIXTRAL,
    &mixtral::MINIMAX_M2,
    &mixtral::MINIMAX_M3,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &qwen::QWEN3_VL_MOE,
    &qwen::QWEN3_NEXT,
    &qwen::QWEN3_5,
    &qwen::QWEN3_5_MOE,
];

/// For models that no table claims: every module name that means the same wherever it occurs.
static UNKNOWN: Table = Table {
    id: "unknown",
    model_types: &[],
    architectures: &[],
    mtp_layers: false,
    modules: &[
        COMMON,
        QKV,
        QK_NORM,
        EXPERTS,
        SHARED_EXPERTS,
        MTP,
        deepseek::MLA,
        deepseek::INDEXER,
        qwen::SHARED_EXPERT,
        mixtral::SPARSE_MOE,
        FUSED_EXPERTS,
        LINEAR_ATTENTION,
    ],
};

/// First components of vision and audio parts, and the parameters that mark an image among the tokens.
const MULTIMODAL: &[&str] = &[
    "visual",
    "vision",
    "vision_tower",
    "vision_model",
    "audio_tower",
    "mm_projector",
    "multi_modal_projector",
    "patch_merge_mlp",
    "aligner",
    "image_start",
    "image_end",
    "image_newline",
];

/// A model family.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its id: `deepseek_v3`, `deepseek_v32`, `deepseek_v4`, `deepseek_v41`, `kimi_k2`, `kimi_k3`, `glm4_moe`,
    /// `glm_moe_dsa`, `glm5_next`, `gpt_oss`, `llama`, `mistral`, `mixtral`, `minimax_m2`, `minimax_m3_vl`, `qwen2`,
    /// `qwen3`, `qwen3_moe`, `qwen3_vl_moe`, `qwen3_next`, `qwen3_5`, `qwen3_5_moe` or `unknown`.
    pub id: &'static str,
    /// Layers before the multi-token-prediction layers, where the config says.
    pub layers: Option<u64>,
    table: &'static Table,
}

impl Family {
    /// The family that `config.json` names: by `model_type` of the root, then of `text_config`, then, where there is no
    /// `model_type`, by `architectures`.
    pub fn detect(config: &Config) -> Family {
        let types = [config.model_type(), config.text_model_type()];
        let by_type = types.iter().flatten().find_map(|t| TABLES.iter().find(|f| f.model_types.contains(t)));
        let by_architecture = || {
            if types[0].is_some() {
                return None;
            }
            config.architectures().iter().find_map(|a| TABLES.iter().find(|f| f.architectures.contains(a)))
        };
        let table = by_type.or_else(by_architecture).copied().unwrap_or(&UNKNOWN);
        Family { id: table.id, layers: config.num_hidden_layers(), table }
    }

    /// Whether layers from `num_hidden_layers` on hold multi-token prediction.
    pub fn has_mtp_layers(&self) -> bool {
        self.table.mtp_layers
    }

    /// Whether tensors carry DeepSeek's own names (`attn.wq_a`, `.scale`), as V4 releases do.
    pub fn has_native_names(&self) -> bool {
        self.id.starts_with("deepseek_v4")
    }

    /// What the tensor `name` is for. `shape` tells a norm (rank 1) from a linear where an unknown family's name does
    /// not.
    pub fn role(&self, name: &str, shape: &[u64]) -> Role {
        let mut role = Role {
            layer: None,
            expert: None,
            mtp: false,
            scope: Scope::Dense,
            kind: Kind::Other,
            part: Part::Other,
        };
        let (module, param) = split(name);
        role.part = Part::of(param);
        let parts: Vec<&str> = module.split('.').collect();
        role.mtp = parts.contains(&"mtp");
        if parts.iter().take(2).any(|p| MULTIMODAL.contains(p)) {
            role.kind = Kind::Multimodal;
            return role;
        }
        let index =
            |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let mut start = parts.len().min(parts.iter().take_while(|p| is_prefix(p)).count());
        if let Some(at) = parts.iter().position(|p| *p == "layers")
            && let Some(layer) = parts.get(at + 1).and_then(|t| index(t))
        {
            role.layer = Some(layer);
            start = at + 2;
            let main = self.layers.unwrap_or(u64::MAX);
            role.mtp |= self.table.mtp_layers && u64::from(layer) >= main;
        } else if start > 0
            && parts[start - 1] == "mtp"
            && let Some(stage) = parts.get(start).and_then(|t| index(t))
        {
            role.layer = Some(stage);
            start += 1;
        }
        let mut path = String::with_capacity(module.len());
        for (i, part) in parts.iter().enumerate().skip(start) {
            if i > start {
                path.push('.');
            }
            if i > start
                && parts[i - 1] == "experts"
                && let Some(expert) = index(part)
            {
                role.expert = Some(expert);
                path.push('*');
            } else {
                path.push_str(part);
            }
        }
        if let Some((_, kind, scope)) =
            self.table.parameter(&path, param).or_else(|| self.table.module(&path))
        {
            role.kind = *kind;
            role.scope = *scope;
        } else {
            role.kind = guess(&path, param, shape);
        }
        if param == "inv_freq" {
            role.kind = Kind::RotaryBuffer;
        } else if role.mtp && role.kind == Kind::LmHead {
            role.kind = Kind::SharedHead;
        }
        role
    }
}

impl Table {
    /// The entry of a module.
    fn module(&self, path: &str) -> Option<&Module> {
        self.modules.iter().copied().flatten().find(|(m, ..)| *m == path)
    }

    /// The entry of a parameter that is listed by its own path.
    fn parameter(&self, path: &str, param: &str) -> Option<&Module> {
        let is = |m: &str| match m.strip_suffix(param).and_then(|rest| rest.strip_suffix('.')) {
            Some(rest) => rest == path,
            None => path.is_empty() && m == param,
        };
        self.modules.iter().copied().flatten().find(|(m, ..)| is(m))
    }
}

fn is_prefix(part: &str) -> bool {
    matches!(part, "model" | "language_model" | "transformer" | "mtp")
}

/// The kind of a module that is in no table, from the last word of its name.
fn guess(path: &str, param: &str, shape: &[u64]) -> Kind {
    let last = path.rsplit('.').next().unwrap_or(path);
    if param == "weight" && last.ends_with("norm") && shape.len() <= 1 {
        Kind::Norm
    } else if matches!(last, "router" | "shared_expert_gate") || last == "gate" && !path.contains("attn") {
        Kind::Router
    } else if last.contains("embed_tokens") || last.ends_with("embeddings") || matches!(last, "wte" | "embed")
    {
        Kind::Embed
    } else if matches!(last, "lm_head" | "output_head") {
        Kind::LmHead
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod shipped_tests;
#[cfg(test)]
mod tests;
