//! Tensor names and shapes of the model families, as formulae over their dimensions.

mod deepseek_v4;
mod gpt_oss;
mod kimi;
mod minimax;
mod qwen;

pub use deepseek_v4::{DeepseekV4, DeepseekV41, Drafts, deepseek_v4, deepseek_v41};
pub use gpt_oss::{GptOss, gpt_oss};
pub use kimi::{KimiK3, KimiVision, kimi_k3, kimi_vision};
pub use minimax::{MiniMax, MiniMaxVision, minimax, minimax_vision};
pub use qwen::{Experts, QwenHybrid, QwenVision, qwen_hybrid, qwen_vision};

use crate::safetensors::{Dtype, Info};
use crate::storage::Storage;

/// What a tensor is; decides its dtype and its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `X` stands for `X.weight` and, in a quantized checkpoint, for its scale too.
    Linear,
    /// A linear that the checkpoint stores in its own way.
    Stored(Storage),
    /// A matrix (or higher) that no checkpoint quantizes.
    Matrix,
    /// The same in F32.
    MatrixF32,
    /// Around 1, in the compute dtype.
    Norm,
    /// Around 1, in F32.
    NormF32,
    /// Around 0, in the compute dtype.
    Bias,
    /// Around 0, in F32.
    BiasF32,
    /// Rotary frequencies, in the compute dtype.
    InvFreq,
    /// Integers.
    Index,
    /// Rows of different experts, of so many.
    Routes(u64),
}

/// One tensor, or one linear of up to two tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Full tensor name; the module name for [`Kind::Linear`].
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Shape (of the weight), `[out, in]` for a matrix.
    pub shape: Vec<u64>,
}

impl Spec {
    /// The tensors of the spec, where linears are stored as `storage`.
    pub fn infos(&self, storage: Storage, compute: Dtype) -> Vec<Info> {
        let dtype = match self.kind {
            Kind::Linear => return storage.infos(&self.name, &self.shape, compute),
            Kind::Stored(own) => return own.infos(&self.name, &self.shape, compute),
            Kind::Matrix | Kind::Norm | Kind::Bias | Kind::InvFreq => compute,
            Kind::MatrixF32 | Kind::NormF32 | Kind::BiasF32 => Dtype::F32,
            Kind::Index | Kind::Routes(_) => Dtype::I64,
        };
        vec![Info { name: self.name.clone(), dtype, shape: self.shape.clone() }]
    }
}

/// The same specs with the linears that `choose` picks stored as it says.
pub fn stored(specs: Vec<Spec>, choose: impl Fn(&str) -> Option<Storage>) -> Vec<Spec> {
    let store = |mut spec: Spec| {
        if spec.kind == Kind::Linear
            && let Some(storage) = choose(&spec.name)
        {
            spec.kind = Kind::Stored(storage);
        }
        spec
    };
    specs.into_iter().map(store).collect()
}

/// The same specs below `prefix`.
pub fn below(prefix: &str, specs: Vec<Spec>) -> Vec<Spec> {
    specs.into_iter().map(|spec| Spec { name: format!("{prefix}{}", spec.name), ..spec }).collect()
}

/// Collects specs under a prefix.
#[derive(Default)]
struct Specs(Vec<Spec>);

impl Specs {
    fn add(&mut self, kind: Kind, name: impl Into<String>, shape: &[u64]) {
        self.0.push(Spec { name: name.into(), kind, shape: shape.to_vec() });
    }

    /// `gate_proj`, `up_proj` and `down_proj` under `prefix`.
    fn mlp(&mut self, prefix: &str, hidden: u64, inter: u64) {
        self.add(Kind::Linear, format!("{prefix}.gate_proj"), &[inter, hidden]);
        self.add(Kind::Linear, format!("{prefix}.up_proj"), &[inter, hidden]);
        self.add(Kind::Linear, format!("{prefix}.down_proj"), &[hidden, inter]);
    }
}

/// Dimensions of a DeepSeek V3 descendant (V3, V3.1, V3.2, Kimi-K2).
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct Deepseek {
    pub hidden: u64,
    pub inter: u64,
    pub moe_inter: u64,
    pub layers: u64,
    pub first_dense: u64,
    pub experts: u64,
    pub heads: u64,
    pub nope: u64,
    pub rope: u64,
    pub v: u64,
    pub q_lora: u64,
    pub kv_lora: u64,
    pub vocab: u64,
    /// Whether layer `layers` is a multi-token-prediction layer.
    pub mtp: bool,
    /// Heads and head size of the V3.2 indexer.
    pub indexer: Option<(u64, u64)>,
    /// Whether the norms are in F32 (V3.2).
    pub f32_norms: bool,
    /// Length of the stray `rotary_emb.inv_freq` of Kimi-K2.
    pub inv_freq: Option<u64>,
}

/// The tensors of a DeepSeek V3 descendant.
pub fn deepseek(d: &Deepseek) -> Vec<Spec> {
    let (norm, bias) = if d.f32_norms { (Kind::NormF32, Kind::BiasF32) } else { (Kind::Norm, Kind::Bias) };
    let mut s = Specs::default();
    s.add(Kind::Matrix, "model.embed_tokens.weight", &[d.vocab, d.hidden]);
    for layer in 0..d.layers + u64::from(d.mtp) {
        let l = format!("model.layers.{layer}");
        let a = format!("{l}.self_attn");
        s.add(Kind::Linear, format!("{a}.q_a_proj"), &[d.q_lora, d.hidden]);
        s.add(norm, format!("{a}.q_a_layernorm.weight"), &[d.q_lora]);
        s.add(Kind::Linear, format!("{a}.q_b_proj"), &[d.heads * (d.nope + d.rope), d.q_lora]);
        s.add(Kind::Linear, format!("{a}.kv_a_proj_with_mqa"), &[d.kv_lora + d.rope, d.hidden]);
        s.add(norm, format!("{a}.kv_a_layernorm.weight"), &[d.kv_lora]);
        s.add(Kind::Linear, format!("{a}.kv_b_proj"), &[d.heads * (d.nope + d.v), d.kv_lora]);
        s.add(Kind::Linear, format!("{a}.o_proj"), &[d.hidden, d.heads * d.v]);
        if let Some((heads, dim)) = d.indexer {
            s.add(Kind::Linear, format!("{a}.indexer.wq_b"), &[heads * dim, d.q_lora]);
            s.add(Kind::Linear, format!("{a}.indexer.wk"), &[dim, d.hidden]);
            s.add(norm, format!("{a}.indexer.k_norm.weight"), &[dim]);
            s.add(bias, format!("{a}.indexer.k_norm.bias"), &[dim]);
            s.add(Kind::Matrix, format!("{a}.indexer.weights_proj.weight"), &[heads, d.hidden]);
        }
        if let Some(length) = d.inv_freq {
            s.add(Kind::InvFreq, format!("{a}.rotary_emb.inv_freq"), &[length]);
        }
        s.add(norm, format!("{l}.input_layernorm.weight"), &[d.hidden]);
        s.add(norm, format!("{l}.post_attention_layernorm.weight"), &[d.hidden]);
        if layer < d.first_dense {
            s.mlp(&format!("{l}.mlp"), d.hidden, d.inter);
        } else {
            s.add(Kind::Matrix, format!("{l}.mlp.gate.weight"), &[d.experts, d.hidden]);
            s.add(Kind::BiasF32, format!("{l}.mlp.gate.e_score_correction_bias"), &[d.experts]);
            for expert in 0..d.experts {
                s.mlp(&format!("{l}.mlp.experts.{expert}"), d.hidden, d.moe_inter);
            }
            s.mlp(&format!("{l}.mlp.shared_experts"), d.hidden, d.moe_inter);
        }
        if layer == d.layers {
            mtp_extras(&mut s, &l, norm, d.vocab, d.hidden);
        }
    }
    s.add(norm, "model.norm.weight", &[d.hidden]);
    s.add(Kind::Matrix, "lm_head.weight", &[d.vocab, d.hidden]);
    s.0
}

/// What a multi-token-prediction layer `l` has beside its block.
fn mtp_extras(s: &mut Specs, l: &str, norm: Kind, vocab: u64, hidden: u64) {
    s.add(Kind::Matrix, format!("{l}.embed_tokens.weight"), &[vocab, hidden]);
    s.add(Kind::Matrix, format!("{l}.shared_head.head.weight"), &[vocab, hidden]);
    s.add(norm, format!("{l}.enorm.weight"), &[hidden]);
    s.add(norm, format!("{l}.hnorm.weight"), &[hidden]);
    s.add(norm, format!("{l}.shared_head.norm.weight"), &[hidden]);
    s.add(Kind::Matrix, format!("{l}.eh_proj.weight"), &[hidden, 2 * hidden]);
}

/// Routed experts of a Llama-shaped model.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct Moe {
    pub first_dense: u64,
    pub experts: u64,
    pub inter: u64,
    /// GLM: a shared expert and `e_score_correction_bias`.
    pub shared: bool,
}

/// Dimensions of a Llama-shaped model (Llama, Mistral, Qwen2, Qwen3, Qwen3-MoE, GLM-4.5).
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct Llama {
    pub hidden: u64,
    pub inter: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub vocab: u64,
    pub qkv_bias: bool,
    pub qk_norm: bool,
    pub tied: bool,
    pub moe: Option<Moe>,
    pub mtp: bool,
}

/// The tensors of a Llama-shaped model.
pub fn llama(d: &Llama) -> Vec<Spec> {
    let mut s = Specs::default();
    s.add(Kind::Matrix, "model.embed_tokens.weight", &[d.vocab, d.hidden]);
    for layer in 0..d.layers + u64::from(d.mtp) {
        let l = format!("model.layers.{layer}");
        for (name, rows) in [("q_proj", d.heads), ("k_proj", d.kv_heads), ("v_proj", d.kv_heads)] {
            s.add(Kind::Linear, format!("{l}.self_attn.{name}"), &[rows * d.head_dim, d.hidden]);
            if d.qkv_bias {
                s.add(Kind::Bias, format!("{l}.self_attn.{name}.bias"), &[rows * d.head_dim]);
            }
        }
        s.add(Kind::Linear, format!("{l}.self_attn.o_proj"), &[d.hidden, d.heads * d.head_dim]);
        if d.qk_norm {
            s.add(Kind::Norm, format!("{l}.self_attn.q_norm.weight"), &[d.head_dim]);
            s.add(Kind::Norm, format!("{l}.self_attn.k_norm.weight"), &[d.head_dim]);
        }
        s.add(Kind::Norm, format!("{l}.input_layernorm.weight"), &[d.hidden]);
        s.add(Kind::Norm, format!("{l}.post_attention_layernorm.weight"), &[d.hidden]);
        match d.moe {
            Some(moe) if layer >= moe.first_dense => {
                s.add(Kind::Matrix, format!("{l}.mlp.gate.weight"), &[moe.experts, d.hidden]);
                if moe.shared {
                    s.add(Kind::BiasF32, format!("{l}.mlp.gate.e_score_correction_bias"), &[moe.experts]);
                    s.mlp(&format!("{l}.mlp.shared_experts"), d.hidden, moe.inter);
                }
                for expert in 0..moe.experts {
                    s.mlp(&format!("{l}.mlp.experts.{expert}"), d.hidden, moe.inter);
                }
            }
            _ => s.mlp(&format!("{l}.mlp"), d.hidden, d.inter),
        }
        if layer == d.layers {
            mtp_extras(&mut s, &l, Kind::Norm, d.vocab, d.hidden);
        }
    }
    s.add(Kind::Norm, "model.norm.weight", &[d.hidden]);
    if !d.tied {
        s.add(Kind::Matrix, "lm_head.weight", &[d.vocab, d.hidden]);
    }
    s.0
}

/// The static scales of an FP8 KV cache, as ModelOpt names them.
pub fn kv_scales(layers: u64) -> Vec<Spec> {
    let mut s = Specs::default();
    for layer in 0..layers {
        for x in ["k", "v"] {
            s.add(Kind::NormF32, format!("model.layers.{layer}.self_attn.{x}_proj.{x}_scale"), &[]);
        }
    }
    s.0
}

/// The tensors of an architecture that nobody has heard of: separate and fused matrices, a convolution, a per-head
/// parameter and an integer table.
pub fn unknown() -> Vec<Spec> {
    let mut s = Specs::default();
    s.add(Kind::Matrix, "nova.token_embedding.weight", &[320, 256]);
    s.add(Kind::Index, "nova.token_class", &[320, 2]);
    for layer in 0..2 {
        let l = format!("nova.blocks.{layer}");
        s.add(Kind::Norm, format!("{l}.pre_norm.weight"), &[256]);
        s.add(Kind::Linear, format!("{l}.mixer.in_proj"), &[640, 256]);
        s.add(Kind::Matrix, format!("{l}.mixer.conv1d.weight"), &[256, 1, 4]);
        s.add(Kind::Bias, format!("{l}.mixer.conv1d.bias"), &[256]);
        s.add(Kind::BiasF32, format!("{l}.mixer.A_log"), &[8]);
        s.add(Kind::Linear, format!("{l}.mixer.out_proj"), &[256, 320]);
        s.add(Kind::Bias, format!("{l}.mixer.out_proj.bias"), &[256]);
        s.add(Kind::Matrix, format!("{l}.bank.router.weight"), &[4, 256]);
        s.add(Kind::Matrix, format!("{l}.bank.experts_in"), &[4, 256, 256]);
        s.add(Kind::Matrix, format!("{l}.bank.experts_out"), &[4, 256, 128]);
    }
    s.add(Kind::Norm, "nova.final_norm.weight", &[256]);
    s.add(Kind::Matrix, "output.weight", &[320, 256]);
    s.0
}
