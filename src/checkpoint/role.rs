//! What a tensor is for.

use super::name::split;
use serde::{Deserialize, Serialize};

/// The place of a tensor in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Layer index, or the stage of a `mtp.{stage}.` block; `None` outside the layers.
    pub layer: Option<u32>,
    /// Routed expert index; `None` for experts that share one tensor.
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
    /// A routed expert, or all of them in one tensor.
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
    /// DeepSeek-V4 attention output projection of each group of heads (`wo_a`): block-diagonal, the weight stacks one
    /// matrix per group.
    OAProj,
    /// DeepSeek-V4 projection of the joined groups back to the hidden size (`wo_b`).
    OBProj,
    /// DeepSeek-V4 projection to the one head that is key and value (`wkv`). Engines fuse it with `wq_a`.
    KvProj,
    /// Gate of an attention: the forget, write and output gates of delta attention (`f_a`, `f_b`, `b`, `g` projections)
    /// and the output gate of gated latent attention.
    AttnGate,
    /// Anything of a compressor of key/value entries: projections, gate, norm and position table. Float in engines.
    Compressor,
    /// Attention sinks, one logit per head.
    Sink,
    /// Indexer query projection.
    IndexerWqB,
    /// Indexer key projection.
    IndexerWk,
    /// Indexer head weights.
    IndexerWeights,
    /// Indexer norm: of keys (DeepSeek: a LayerNorm with bias), in MiniMax-M3 of queries too.
    IndexerNorm,
    /// Input projection of linear attention, whole or in parts: `in_proj_qkvz`, `in_proj_ba`, `in_proj_qkv`,
    /// `in_proj_z`, `in_proj_b`, `in_proj_a`.
    LinearAttnIn,
    /// Output projection of linear attention.
    LinearAttnOut,
    /// Small state parameters of linear attention (`A_log`, `dt_bias`), F32 at run time.
    LinearAttnState,
    /// Short convolution of linear attention, `[channels, 1, width]`.
    Conv,
    /// Gate projection of an MLP.
    GateProj,
    /// Up projection of an MLP.
    UpProj,
    /// Down projection of an MLP.
    DownProj,
    /// Gate and up projections of all experts in one tensor, `[experts, 2 inter, hidden]` or its transpose
    /// `[experts, hidden, 2 inter]`, and their scales and biases. Gate rows come first, or alternate with up rows
    /// (gpt-oss).
    ExpertsGateUp,
    /// Down projections of all experts in one tensor, `[experts, hidden, inter]` or its transpose, with their scales and
    /// biases.
    ExpertsDown,
    /// Projection into the latent space in which routed experts work (Kimi-K3 `routed_expert_down_proj`).
    LatentDown,
    /// Projection out of the latent space of routed experts (Kimi-K3 `routed_expert_up_proj`).
    LatentUp,
    /// Expert router, its correction bias and gates of shared experts.
    Router,
    /// Table from token id to expert ids (`tid2eid`) that routes the first layers of DeepSeek-V4. Integers, whole on
    /// every rank.
    HashRoute,
    /// Parameters of hyper-connections (`hc_*`), F32.
    HyperConnection,
    /// Projection to one score per residual block (Kimi-K3 `*_res_proj`), `[1, hidden]`.
    ResidualScore,
    /// Table of n-gram embeddings (DeepSeek-V4.1 `engram.embed`): looked up, 98 GB each.
    EngramTable,
    /// Projection of n-gram embeddings to keys and values, and the weights of its query and key norms.
    EngramProj,
    /// Projection at the entry of multi-token prediction: of embedding and hidden state (`eh_proj`, `e_proj`, `h_proj`,
    /// `fc`), or of the hidden states of several layers (`main_proj`).
    EhProj,
    /// Low-rank head of DSpark that adds a bigram term to the logits.
    MarkovHead,
    /// Head of DSpark that says how sure a draft is.
    ConfidenceHead,
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
    /// Whether the module is a matrix multiplication whose weight an engine can hold quantized. Excludes routers,
    /// lookups, output heads (of drafts too), compressors, and scores of one row.
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
                | OAProj
                | OBProj
                | KvProj
                | AttnGate
                | IndexerWqB
                | IndexerWk
                | IndexerWeights
                | LinearAttnIn
                | LinearAttnOut
                | GateProj
                | UpProj
                | DownProj
                | ExpertsGateUp
                | ExpertsDown
                | LatentDown
                | LatentUp
                | EngramProj
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
            OAProj => "o_a_proj",
            OBProj => "o_b_proj",
            KvProj => "kv_proj",
            AttnGate => "attn_gate",
            Compressor => "compressor",
            Sink => "sinks",
            IndexerWqB => "indexer.wq_b",
            IndexerWk => "indexer.wk",
            IndexerWeights => "indexer.weights_proj",
            IndexerNorm => "indexer.k_norm",
            LinearAttnIn => "linear_attn.in_proj",
            LinearAttnOut => "linear_attn.out_proj",
            LinearAttnState => "linear_attn.state",
            Conv => "conv1d",
            GateProj => mlp("gate_proj", "shared.gate_proj", "experts.gate_proj"),
            UpProj => mlp("up_proj", "shared.up_proj", "experts.up_proj"),
            DownProj => mlp("down_proj", "shared.down_proj", "experts.down_proj"),
            ExpertsGateUp => "experts.gate_up_proj",
            ExpertsDown => "experts.down_proj",
            LatentDown => "experts.latent_down_proj",
            LatentUp => "experts.latent_up_proj",
            Router => "router",
            HashRoute => "tid2eid",
            HyperConnection => "hyper_connection",
            ResidualScore => "residual_score",
            EngramTable => "engram.embed",
            EngramProj => "engram.proj",
            EhProj => "eh_proj",
            MarkovHead => "markov_head",
            ConfidenceHead => "confidence_head",
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
    /// A scale of the weight: per block, or one for all of them.
    Scale,
    /// Zero points of the weight, packed or not.
    ZeroPoint,
    /// The group of every input channel (`g_idx` of GPTQ).
    GroupIndex,
    /// The shape of a packed weight.
    Shape,
    /// A static scale of activations or of the KV cache.
    ActivationScale,
    /// Anything else, parameters that are named without a module included (`A_log`, `hc_attn_scale`).
    Other,
}

impl Part {
    /// The part that a parameter name (`weight_scale_inv`) stands for. `scale` is one only behind a module:
    /// `hc_attn_scale` is the name of a parameter of its own.
    pub fn of(param: &str) -> Part {
        match param {
            "weight" | "weight_packed" | "qweight" => Part::Weight,
            // All experts in one parameter of the module `experts`.
            "gate_up_proj" | "down_proj" | "gate_up_proj_blocks" | "down_proj_blocks" => Part::Weight,
            "bias" | "e_score_correction_bias" | "bias_vl" | "gate_up_proj_bias" | "down_proj_bias" => {
                Part::Bias
            }
            "weight_scale_inv" | "weight_scale" | "scale" | "scales" => Part::Scale,
            "weight_scale_2" | "weight_global_scale" | "qscale_weight" => Part::Scale,
            "gate_up_proj_scales" | "down_proj_scales" => Part::Scale,
            "gate_up_proj_scale_inv" | "down_proj_scale_inv" => Part::Scale,
            "weight_zero_point" | "weight_offset" | "qzeros" => Part::ZeroPoint,
            "g_idx" | "weight_g_idx" => Part::GroupIndex,
            "weight_shape" => Part::Shape,
            "input_scale" | "input_global_scale" | "qscale_act" => Part::ActivationScale,
            "k_scale" | "v_scale" | "kv_scale" | "q_scale" => Part::ActivationScale,
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

/// The fused group of the linear that owns tensor `name`, if engines fuse it: q,k,v · gate,up (`w1`,`w3`; per layer, and
/// per expert) · q_a,kv_a · V4's wq_a,wkv and its compressors' wkv,wgate · in_proj_qkv,z and in_proj_b,a of linear
/// attention (vLLM's `packed_modules_mapping`, `fused_qkv_a_proj` and V4 and Qwen3.5 loaders).
pub fn fused_group(role: &Role, name: &str) -> Option<FusedPart> {
    let (parent, last) = split(split(name).0);
    let (group, part, parts) = match (role.kind, last) {
        (Kind::QProj, _) => ("qkv_proj", 0, 3),
        (Kind::KProj, _) => ("qkv_proj", 1, 3),
        (Kind::VProj, _) => ("qkv_proj", 2, 3),
        (Kind::GateProj, _) => ("gate_up_proj", 0, 2),
        (Kind::UpProj, _) => ("gate_up_proj", 1, 2),
        (Kind::QAProj, "wq_a") => ("fused_wqa_wkv", 0, 2),
        (Kind::KvProj, _) => ("fused_wqa_wkv", 1, 2),
        (Kind::QAProj, _) => ("fused_qkv_a_proj", 0, 2),
        (Kind::KvAProj, _) => ("fused_qkv_a_proj", 1, 2),
        (Kind::Compressor, "wkv") => ("fused_wkv_wgate", 0, 2),
        (Kind::Compressor, "wgate") => ("fused_wkv_wgate", 1, 2),
        (Kind::LinearAttnIn, "in_proj_qkv") => ("in_proj_qkvz", 0, 2),
        (Kind::LinearAttnIn, "in_proj_z") => ("in_proj_qkvz", 1, 2),
        (Kind::LinearAttnIn, "in_proj_b") => ("in_proj_ba", 0, 2),
        (Kind::LinearAttnIn, "in_proj_a") => ("in_proj_ba", 1, 2),
        _ => return None,
    };
    Some(FusedPart { key: format!("{parent}.{group}"), part, parts })
}
