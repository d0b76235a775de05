//! Kimi-K3, and the vision towers of K2.5 and K3.

use super::{Kind, Spec, Specs, below};
use crate::storage::Storage;

/// Dimensions of a Kimi vision tower with its projector.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct KimiVision {
    pub blocks: u64,
    pub hidden: u64,
    /// Width of each of query, key and value.
    pub qkv: u64,
    pub inter: u64,
    pub patch: u64,
    /// Height and width of the table of positions.
    pub grid: u64,
    pub text: u64,
    /// LayerNorm and biases (K2.5) or neither (K3).
    pub bias: bool,
}

/// The tensors of a Kimi vision tower and its projector, which joins 2x2 patches.
pub fn kimi_vision(d: &KimiVision) -> Vec<Spec> {
    let mut s = Specs::default();
    let mut put = |kind, name: String, shape: &[u64]| {
        s.add(kind, format!("{name}.weight"), shape);
        if d.bias {
            s.add(Kind::Bias, format!("{name}.bias"), &shape[..1]);
        }
    };
    let v = "vision_tower";
    put(Kind::Matrix, format!("{v}.patch_embed.proj"), &[d.hidden, 3, d.patch, d.patch]);
    for b in 0..d.blocks {
        let b = format!("{v}.encoder.blocks.{b}");
        put(Kind::Norm, format!("{b}.norm0"), &[d.hidden]);
        put(Kind::Norm, format!("{b}.norm1"), &[d.hidden]);
        put(Kind::Matrix, format!("{b}.wqkv"), &[3 * d.qkv, d.hidden]);
        put(Kind::Matrix, format!("{b}.wo"), &[d.hidden, d.qkv]);
        put(Kind::Matrix, format!("{b}.mlp.fc0"), &[d.inter, d.hidden]);
        put(Kind::Matrix, format!("{b}.mlp.fc1"), &[d.hidden, d.inter]);
    }
    put(Kind::Norm, format!("{v}.encoder.final_layernorm"), &[d.hidden]);
    put(Kind::Matrix, "mm_projector.proj.0".into(), &[4 * d.hidden, 4 * d.hidden]);
    put(Kind::Matrix, "mm_projector.proj.2".into(), &[d.text, 4 * d.hidden]);
    if d.bias {
        put(Kind::Norm, "mm_projector.pre_norm".into(), &[d.hidden]);
    } else {
        put(Kind::Norm, "mm_projector.post_norm".into(), &[d.text]);
    }
    s.add(Kind::Matrix, format!("{v}.patch_embed.pos_emb.weight"), &[d.grid, d.grid, d.hidden]);
    s.0
}

/// Dimensions of a Kimi-K3 release.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct KimiK3 {
    pub hidden: u64,
    pub inter: u64,
    pub moe_inter: u64,
    pub latent: u64,
    pub experts: u64,
    pub shared: u64,
    pub layers: u64,
    /// Layers with gated latent attention; the others have delta attention.
    pub full: Vec<u64>,
    pub heads: u64,
    /// Size of a head: keys and values of delta attention, values and unrotated keys of latent attention.
    pub head_dim: u64,
    pub rope: u64,
    pub q_lora: u64,
    pub kv_lora: u64,
    pub vocab: u64,
    pub vision: KimiVision,
}

/// The tensors of a Kimi-K3 release.
pub fn kimi_k3(d: &KimiK3) -> Vec<Spec> {
    let mut s = Specs::default();
    let float = Kind::Stored(Storage::Float);
    s.add(Kind::Matrix, "model.embed_tokens.weight", &[d.vocab, d.hidden]);
    let width = d.heads * d.head_dim;
    for layer in 0..d.layers {
        let l = format!("model.layers.{layer}");
        let a = format!("{l}.self_attn");
        if d.full.contains(&layer) {
            s.add(float, format!("{a}.q_a_proj"), &[d.q_lora, d.hidden]);
            s.add(Kind::Norm, format!("{a}.q_a_layernorm.weight"), &[d.q_lora]);
            s.add(float, format!("{a}.q_b_proj"), &[d.heads * (d.head_dim + d.rope), d.q_lora]);
            s.add(float, format!("{a}.kv_a_proj_with_mqa"), &[d.kv_lora + d.rope, d.hidden]);
            s.add(Kind::Norm, format!("{a}.kv_a_layernorm.weight"), &[d.kv_lora]);
            s.add(float, format!("{a}.kv_b_proj"), &[2 * width, d.kv_lora]);
        } else {
            for x in ["q", "k", "v"] {
                s.add(float, format!("{a}.{x}_proj"), &[width, d.hidden]);
                s.add(Kind::MatrixF32, format!("{a}.{x}_conv1d.weight"), &[width, 1, 4]);
            }
            s.add(Kind::BiasF32, format!("{a}.A_log"), &[d.head_dim]);
            s.add(Kind::BiasF32, format!("{a}.dt_bias"), &[width]);
            s.add(float, format!("{a}.f_a_proj"), &[d.head_dim, d.hidden]);
            s.add(float, format!("{a}.f_b_proj"), &[width, d.head_dim]);
            s.add(float, format!("{a}.b_proj"), &[d.heads, d.hidden]);
            s.add(Kind::NormF32, format!("{a}.o_norm.weight"), &[d.head_dim]);
        }
        s.add(float, format!("{a}.g_proj"), &[width, d.hidden]);
        s.add(float, format!("{a}.o_proj"), &[d.hidden, width]);
        for norm in ["input_layernorm", "post_attention_layernorm", "self_attention_res_norm", "mlp_res_norm"]
        {
            s.add(Kind::Norm, format!("{l}.{norm}.weight"), &[d.hidden]);
        }
        s.add(Kind::Matrix, format!("{l}.self_attention_res_proj.weight"), &[1, d.hidden]);
        s.add(Kind::Matrix, format!("{l}.mlp_res_proj.weight"), &[1, d.hidden]);
        let mlp = |s: &mut Specs, at: String, inter: u64| {
            s.add(float, format!("{at}.gate_proj"), &[inter, d.hidden]);
            s.add(float, format!("{at}.up_proj"), &[inter, d.hidden]);
            s.add(float, format!("{at}.down_proj"), &[d.hidden, inter]);
        };
        if layer == 0 {
            mlp(&mut s, format!("{l}.mlp"), d.inter);
            continue;
        }
        let m = format!("{l}.block_sparse_moe");
        s.add(Kind::Matrix, format!("{m}.gate.weight"), &[d.experts, d.hidden]);
        s.add(Kind::BiasF32, format!("{m}.gate.e_score_correction_bias"), &[d.experts]);
        s.add(float, format!("{m}.routed_expert_down_proj"), &[d.latent, d.hidden]);
        s.add(Kind::Norm, format!("{m}.routed_expert_norm.weight"), &[d.latent]);
        s.add(float, format!("{m}.routed_expert_up_proj"), &[d.hidden, d.latent]);
        for e in 0..d.experts {
            let e = format!("{m}.experts.{e}");
            s.add(Kind::Stored(Storage::Mxfp4Packed), format!("{e}.w1"), &[d.moe_inter, d.latent]);
            s.add(Kind::Stored(Storage::Mxfp4Packed), format!("{e}.w2"), &[d.latent, d.moe_inter]);
            s.add(Kind::Stored(Storage::Mxfp4Packed), format!("{e}.w3"), &[d.moe_inter, d.latent]);
        }
        mlp(&mut s, format!("{m}.shared_experts"), d.shared * d.moe_inter);
    }
    s.add(Kind::Norm, "model.norm.weight", &[d.hidden]);
    s.add(Kind::Norm, "model.output_attn_res_norm.weight", &[d.hidden]);
    s.add(Kind::Matrix, "model.output_attn_res_proj.weight", &[1, d.hidden]);
    s.add(Kind::Matrix, "lm_head.weight", &[d.vocab, d.hidden]);
    let mut specs = below("language_model.", s.0);
    specs.extend(kimi_vision(&d.vision));
    specs
}
