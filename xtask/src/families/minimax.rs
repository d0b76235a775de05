//! MiniMax-M2 and M3, whose routed experts are `block_sparse_moe.experts.{e}.{w1,w2,w3}`.

use super::{Kind, Spec, Specs, below};

/// Dimensions of a MiniMax release.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct MiniMax {
    pub hidden: u64,
    pub moe_inter: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub experts: u64,
    pub vocab: u64,
    /// M3: vision, shared experts, an indexer (heads, head size), and leading dense layers of so many and this width.
    pub m3: Option<(u64, u64, u64, u64)>,
}

/// The tensors of a MiniMax language model; M3's is below `language_model.`.
pub fn minimax(d: &MiniMax) -> Vec<Spec> {
    let mut s = Specs::default();
    s.add(Kind::Matrix, "model.embed_tokens.weight", &[d.vocab, d.hidden]);
    let (queries, keys) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
    for layer in 0..d.layers {
        let l = format!("model.layers.{layer}");
        let a = format!("{l}.self_attn");
        s.add(Kind::Linear, format!("{a}.q_proj"), &[queries, d.hidden]);
        s.add(Kind::Linear, format!("{a}.k_proj"), &[keys, d.hidden]);
        s.add(Kind::Linear, format!("{a}.v_proj"), &[keys, d.hidden]);
        s.add(Kind::Linear, format!("{a}.o_proj"), &[d.hidden, queries]);
        // M2 has one norm over all heads, M3 one for each head.
        let norms = if d.m3.is_some() { [d.head_dim; 2] } else { [queries, keys] };
        s.add(Kind::Norm, format!("{a}.q_norm.weight"), &norms[..1]);
        s.add(Kind::Norm, format!("{a}.k_norm.weight"), &norms[1..]);
        s.add(Kind::Norm, format!("{l}.input_layernorm.weight"), &[d.hidden]);
        s.add(Kind::Norm, format!("{l}.post_attention_layernorm.weight"), &[d.hidden]);
        if let Some((index_heads, index_dim, dense, dense_inter)) = d.m3 {
            if layer < dense {
                s.mlp(&format!("{l}.mlp"), d.hidden, dense_inter);
                continue;
            }
            s.add(Kind::Linear, format!("{a}.index_q_proj"), &[index_heads * index_dim, d.hidden]);
            s.add(Kind::Linear, format!("{a}.index_k_proj"), &[index_dim, d.hidden]);
            s.add(Kind::Norm, format!("{a}.index_q_norm.weight"), &[index_dim]);
            s.add(Kind::Norm, format!("{a}.index_k_norm.weight"), &[index_dim]);
            s.mlp(&format!("{l}.block_sparse_moe.shared_experts"), d.hidden, d.moe_inter);
        }
        let m = format!("{l}.block_sparse_moe");
        s.add(Kind::MatrixF32, format!("{m}.gate.weight"), &[d.experts, d.hidden]);
        s.add(Kind::BiasF32, format!("{m}.e_score_correction_bias"), &[d.experts]);
        for e in 0..d.experts {
            let e = format!("{m}.experts.{e}");
            s.add(Kind::Linear, format!("{e}.w1"), &[d.moe_inter, d.hidden]);
            s.add(Kind::Linear, format!("{e}.w2"), &[d.hidden, d.moe_inter]);
            s.add(Kind::Linear, format!("{e}.w3"), &[d.moe_inter, d.hidden]);
        }
    }
    s.add(Kind::Norm, "model.norm.weight", &[d.hidden]);
    s.add(Kind::Matrix, "lm_head.weight", &[d.vocab, d.hidden]);
    match d.m3 {
        Some(_) => below("language_model.", s.0),
        None => s.0,
    }
}

/// Dimensions of MiniMax-M3's vision tower: layers, hidden and inner size, patch size, and the text's hidden size.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "said above")]
pub struct MiniMaxVision {
    pub layers: u64,
    pub hidden: u64,
    pub inter: u64,
    pub patch: u64,
    pub text: u64,
}

/// The tensors of MiniMax-M3's vision tower with its projector and the merger of 2x2 patches.
pub fn minimax_vision(d: &MiniMaxVision) -> Vec<Spec> {
    let mut s = Specs::default();
    let v = "vision_tower.vision_model";
    s.add(
        Kind::MatrixF32,
        format!("{v}.embeddings.patch_embedding.weight"),
        &[d.hidden, 3, 2, d.patch, d.patch],
    );
    let mut put = |kind, name: String, shape: &[u64]| {
        s.add(kind, format!("{name}.weight"), shape);
        s.add(Kind::Bias, format!("{name}.bias"), &shape[..1]);
    };
    put(Kind::Norm, format!("{v}.pre_layrnorm"), &[d.hidden]);
    for layer in 0..d.layers {
        let l = format!("{v}.encoder.layers.{layer}");
        put(Kind::Norm, format!("{l}.layer_norm1"), &[d.hidden]);
        put(Kind::Norm, format!("{l}.layer_norm2"), &[d.hidden]);
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            put(Kind::Matrix, format!("{l}.self_attn.{name}"), &[d.hidden, d.hidden]);
        }
        put(Kind::Matrix, format!("{l}.mlp.fc1"), &[d.inter, d.hidden]);
        put(Kind::Matrix, format!("{l}.mlp.fc2"), &[d.hidden, d.inter]);
    }
    put(Kind::Matrix, "multi_modal_projector.linear_1".into(), &[d.text, d.hidden]);
    put(Kind::Matrix, "multi_modal_projector.linear_2".into(), &[d.text, d.text]);
    put(Kind::Matrix, "patch_merge_mlp.linear_1".into(), &[d.text, 4 * d.text]);
    put(Kind::Matrix, "patch_merge_mlp.linear_2".into(), &[d.text, d.text]);
    s.0
}
