//! gpt-oss: biases everywhere, sinks, all experts of a layer in one tensor.

use super::{Kind, Spec, Specs};
use crate::storage::Storage;

/// Dimensions of a gpt-oss release.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct GptOss {
    pub hidden: u64,
    pub inter: u64,
    pub layers: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub experts: u64,
    pub vocab: u64,
}

/// The tensors of a gpt-oss release.
pub fn gpt_oss(d: &GptOss) -> Vec<Spec> {
    let mut s = Specs::default();
    s.add(Kind::Matrix, "model.embed_tokens.weight", &[d.vocab, d.hidden]);
    for layer in 0..d.layers {
        let l = format!("model.layers.{layer}");
        let a = format!("{l}.self_attn");
        let (queries, keys) = (d.heads * d.head_dim, d.kv_heads * d.head_dim);
        for (name, rows, columns) in [
            ("q_proj", queries, d.hidden),
            ("k_proj", keys, d.hidden),
            ("v_proj", keys, d.hidden),
            ("o_proj", d.hidden, queries),
        ] {
            s.add(Kind::Stored(Storage::Float), format!("{a}.{name}"), &[rows, columns]);
            s.add(Kind::Bias, format!("{a}.{name}.bias"), &[rows]);
        }
        s.add(Kind::Bias, format!("{a}.sinks"), &[d.heads]);
        s.add(Kind::Norm, format!("{l}.input_layernorm.weight"), &[d.hidden]);
        s.add(Kind::Norm, format!("{l}.post_attention_layernorm.weight"), &[d.hidden]);
        s.add(Kind::Matrix, format!("{l}.mlp.router.weight"), &[d.experts, d.hidden]);
        s.add(Kind::Bias, format!("{l}.mlp.router.bias"), &[d.experts]);
        let m = format!("{l}.mlp.experts");
        let mxfp4 = Kind::Stored(Storage::Mxfp4Blocks);
        s.add(mxfp4, format!("{m}.gate_up_proj"), &[d.experts, 2 * d.inter, d.hidden]);
        s.add(Kind::Bias, format!("{m}.gate_up_proj_bias"), &[d.experts, 2 * d.inter]);
        s.add(mxfp4, format!("{m}.down_proj"), &[d.experts, d.hidden, d.inter]);
        s.add(Kind::Bias, format!("{m}.down_proj_bias"), &[d.experts, d.hidden]);
    }
    s.add(Kind::Norm, "model.norm.weight", &[d.hidden]);
    s.add(Kind::Matrix, "lm_head.weight", &[d.vocab, d.hidden]);
    s.0
}
