//! What a tensor is for.

use super::name::split;
use serde::{Deserialize, Serialize};

/// The place of a tensor in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Layer index; `None` outside the layers.
    pub layer: Option<u32>,
    /// Routed expert index.
    pub expert: Option<u32>,
    /// Whether the tensor belongs to multi-token prediction.
    pub mtp: bool,
    /// Which MLP the tensor belongs to; `Dense` for everything that is no MLP of experts.
    pub scope: Scope,
    /// What the module does.
    pub kind: Kind,
    /// Which parameter of the module it is.
    pub part: Part,
}

/// Which MLP a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The only MLP of its layer, or no MLP.
    Dense,
    /// The shared experts.
    Shared,
    /// A routed expert.
    Expert,
}

/// What a module does. Linear shapes are `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Token embedding.
    Embed,
    /// Output projection to the vocabulary.
    LmHead,
    /// A norm, query and key norms included.
    Norm,
    /// Query projection.
    QProj,
    /// Key projection.
    KProj,
    /// Value projection.
    VProj,
    /// Attention output projection.
    OProj,
    /// MLA query down projection.
    QAProj,
    /// MLA query up projection.
    QBProj,
    /// MLA key/value down projection with the rope part.
    KvAProj,
    /// MLA key/value up projection.
    KvBProj,
    /// Indexer query projection.
    IndexerWqB,
    /// Indexer key projection.
    IndexerWk,
    /// Indexer head weights.
    IndexerWeights,
    /// Indexer key norm (a LayerNorm with bias).
    IndexerNorm,
    /// Gate projection of an MLP.
    GateProj,
    /// Up projection of an MLP.
    UpProj,
    /// Down projection of an MLP.
    DownProj,
    /// Expert router, its correction bias and gates of shared experts.
    Router,
    /// Projection of embedding and hidden state at the entry of multi-token prediction.
    EhProj,
    /// Output projection of multi-token prediction.
    SharedHead,
    /// A stray rotary buffer (`inv_freq`).
    RotaryBuffer,
    /// Part of a vision or audio tower or its projector.
    Multimodal,
    /// Not known to this version.
    Other,
}

impl Kind {
    /// Whether the module is a matrix multiplication whose weight an engine can hold quantized. Excludes the router,
    /// embedding and output head.
    pub fn is_linear(self) -> bool {
        use Kind::*;
        matches!(
            self,
            QProj
                | KProj
                | VProj
                | OProj
                | QAProj
                | QBProj
                | KvAProj
                | KvBProj
                | IndexerWqB
                | IndexerWk
                | IndexerWeights
                | GateProj
                | UpProj
                | DownProj
                | EhProj
        )
    }
}

impl Role {
    /// The column of a report that the tensor belongs to, as in `q_proj` or `experts.down_proj`; `None` for modules that
    /// this version does not know.
    pub fn label(&self) -> Option<&'static str> {
        use Kind::*;
        let mlp = |dense, shared, expert| match self.scope {
            Scope::Dense => dense,
            Scope::Shared => shared,
            Scope::Expert => expert,
        };
        Some(match self.kind {
            Embed => "embed_tokens",
            LmHead => "lm_head",
            Norm => "norm",
            QProj => "q_proj",
            KProj => "k_proj",
            VProj => "v_proj",
            OProj => "o_proj",
            QAProj => "q_a_proj",
            QBProj => "q_b_proj",
            KvAProj => "kv_a_proj",
            KvBProj => "kv_b_proj",
            IndexerWqB => "indexer.wq_b",
            IndexerWk => "indexer.wk",
            IndexerWeights => "indexer.weights_proj",
            IndexerNorm => "indexer.k_norm",
            GateProj => mlp("gate_proj", "shared_experts.gate_proj", "experts.gate_proj"),
            UpProj => mlp("up_proj", "shared_experts.up_proj", "experts.up_proj"),
            DownProj => mlp("down_proj", "shared_experts.down_proj", "experts.down_proj"),
            Router => "router",
            EhProj => "eh_proj",
            SharedHead => "shared_head",
            RotaryBuffer => "rotary_emb",
            Multimodal => "multimodal",
            Other => return None,
        })
    }
}

/// Which parameter of its module a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// `weight`, packed or not.
    Weight,
    /// `bias`, `e_score_correction_bias` included.
    Bias,
    /// A scale of the weight.
    Scale,
    /// A static scale of activations or of the KV cache.
    ActivationScale,
    /// Anything else.
    Other,
}

impl Part {
    /// The part that a parameter name (`weight_scale_inv`) stands for.
    pub fn of(param: &str) -> Part {
        match param {
            "weight" | "weight_packed" | "qweight" => Part::Weight,
            "bias" | "e_score_correction_bias" => Part::Bias,
            "weight_scale_inv" | "weight_scale" | "scale" | "scales" | "weight_scale_2" => Part::Scale,
            "input_scale" | "k_scale" | "v_scale" | "kv_scale" | "q_scale" => Part::ActivationScale,
            _ => Part::Other,
        }
    }
}

/// Membership in a group of linears that engines fuse into one: they must share a scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FusedPart {
    /// Name of the fused module, for example `model.layers.0.self_attn.qkv_proj`.
    pub key: String,
    /// Position of this part along the output dimension.
    pub part: usize,
    /// Parts of a full group; some models have fewer.
    pub parts: usize,
}

/// The fused group of the linear that owns tensor `name`, if engines fuse it: q,k,v · gate,up (per layer, and per
/// expert) · q_a,kv_a (vLLM's `packed_modules_mapping` and `fused_qkv_a_proj`).
pub fn fused_group(role: &Role, name: &str) -> Option<FusedPart> {
    let (group, part, parts) = match role.kind {
        Kind::QProj => ("qkv_proj", 0, 3),
        Kind::KProj => ("qkv_proj", 1, 3),
        Kind::VProj => ("qkv_proj", 2, 3),
        Kind::GateProj => ("gate_up_proj", 0, 2),
        Kind::UpProj => ("gate_up_proj", 1, 2),
        Kind::QAProj => ("fused_qkv_a_proj", 0, 2),
        Kind::KvAProj => ("fused_qkv_a_proj", 1, 2),
        _ => return None,
    };
    let parent = split(split(name).0).0;
    Some(FusedPart { key: format!("{parent}.{group}"), part, parts })
}
