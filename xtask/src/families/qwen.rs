//! Qwen3-Next and Qwen3.5 (linear attention in most layers), Qwen3-VL-MoE, and Qwen's vision tower.

use super::{Kind, Spec, Specs};

/// How routed experts are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experts {
    /// `experts.{e}.{gate,up,down}_proj`.
    Apart,
    /// `experts.gate_up_proj` `[E, 2I, H]` and `experts.down_proj` `[E, H, I]`.
    Fused,
    /// `experts.gate_up_proj` `[E, H, 2I]` and `experts.down_proj` `[E, I, H]`.
    Transposed,
}

/// Dimensions of a Qwen model with routed experts in every layer.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct QwenHybrid {
    pub hidden: u64,
    pub moe_inter: u64,
    pub shared_inter: Option<u64>,
    pub layers: u64,
    /// Every so many layers have full attention, all of them for 1.
    pub full_every: u64,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    /// Key heads, value heads and head size of linear attention.
    pub linear: [u64; 3],
    /// Whether the input projections of linear attention are joined (Qwen3-Next) or apart (Qwen3.5).
    pub joined: bool,
    /// Whether the query projection holds an output gate.
    pub gated: bool,
    pub experts: u64,
    pub layout: Experts,
    pub vocab: u64,
    pub mtp: bool,
    /// What stands before `layers.`.
    pub prefix: &'static str,
}

/// The tensors of such a model, vision apart.
pub fn qwen_hybrid(d: &QwenHybrid) -> Vec<Spec> {
    let mut s = Specs::default();
    let p = d.prefix;
    s.add(Kind::Matrix, format!("{p}.embed_tokens.weight"), &[d.vocab, d.hidden]);
    for layer in 0..d.layers {
        let l = format!("{p}.layers.{layer}");
        if (layer + 1) % d.full_every == 0 {
            d.attention(&mut s, &l);
        } else {
            d.linear_attention(&mut s, &format!("{l}.linear_attn"));
        }
        d.moe(&mut s, &l, d.layout);
    }
    s.add(Kind::Norm, format!("{p}.norm.weight"), &[d.hidden]);
    s.add(Kind::Matrix, "lm_head.weight", &[d.vocab, d.hidden]);
    if d.mtp {
        s.add(Kind::Matrix, "mtp.fc.weight", &[d.hidden, 2 * d.hidden]);
        for norm in ["norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"] {
            s.add(Kind::Norm, format!("mtp.{norm}.weight"), &[d.hidden]);
        }
        d.attention(&mut s, "mtp.layers.0");
        // Apart even where the layers have them fused.
        d.moe(&mut s, "mtp.layers.0", Experts::Apart);
    }
    s.0
}

impl QwenHybrid {
    fn attention(&self, s: &mut Specs, l: &str) {
        let a = format!("{l}.self_attn");
        let queries = self.heads * self.head_dim;
        let doubled = if self.gated { 2 * queries } else { queries };
        s.add(Kind::Linear, format!("{a}.q_proj"), &[doubled, self.hidden]);
        s.add(Kind::Linear, format!("{a}.k_proj"), &[self.kv_heads * self.head_dim, self.hidden]);
        s.add(Kind::Linear, format!("{a}.v_proj"), &[self.kv_heads * self.head_dim, self.hidden]);
        s.add(Kind::Linear, format!("{a}.o_proj"), &[self.hidden, queries]);
        s.add(Kind::Norm, format!("{a}.q_norm.weight"), &[self.head_dim]);
        s.add(Kind::Norm, format!("{a}.k_norm.weight"), &[self.head_dim]);
    }

    fn linear_attention(&self, s: &mut Specs, a: &str) {
        let [key_heads, value_heads, dim] = self.linear;
        let (keys, values) = (key_heads * dim, value_heads * dim);
        if self.joined {
            s.add(Kind::Linear, format!("{a}.in_proj_qkvz"), &[2 * keys + 2 * values, self.hidden]);
            s.add(Kind::Linear, format!("{a}.in_proj_ba"), &[2 * value_heads, self.hidden]);
        } else {
            s.add(Kind::Linear, format!("{a}.in_proj_qkv"), &[2 * keys + values, self.hidden]);
            s.add(Kind::Linear, format!("{a}.in_proj_z"), &[values, self.hidden]);
            s.add(Kind::Linear, format!("{a}.in_proj_b"), &[value_heads, self.hidden]);
            s.add(Kind::Linear, format!("{a}.in_proj_a"), &[value_heads, self.hidden]);
        }
        s.add(Kind::Matrix, format!("{a}.conv1d.weight"), &[2 * keys + values, 1, 4]);
        // Qwen3.5 keeps the decay and the norm in F32, but not the bias of the step.
        let (bias, norm) =
            if self.joined { (Kind::Bias, Kind::Norm) } else { (Kind::BiasF32, Kind::NormF32) };
        s.add(bias, format!("{a}.A_log"), &[value_heads]);
        s.add(Kind::Bias, format!("{a}.dt_bias"), &[value_heads]);
        s.add(norm, format!("{a}.norm.weight"), &[dim]);
        s.add(Kind::Linear, format!("{a}.out_proj"), &[self.hidden, values]);
    }

    fn moe(&self, s: &mut Specs, l: &str, layout: Experts) {
        s.add(Kind::Norm, format!("{l}.input_layernorm.weight"), &[self.hidden]);
        s.add(Kind::Norm, format!("{l}.post_attention_layernorm.weight"), &[self.hidden]);
        let m = format!("{l}.mlp");
        s.add(Kind::Matrix, format!("{m}.gate.weight"), &[self.experts, self.hidden]);
        let (e, h, i) = (self.experts, self.hidden, self.moe_inter);
        let fused = |s: &mut Specs, gate_up: [u64; 3], down: [u64; 3]| {
            s.add(Kind::Matrix, format!("{m}.experts.gate_up_proj"), &gate_up);
            s.add(Kind::Matrix, format!("{m}.experts.down_proj"), &down);
        };
        match layout {
            Experts::Apart => (0..e).for_each(|e| s.mlp(&format!("{m}.experts.{e}"), h, i)),
            Experts::Fused => fused(s, [e, 2 * i, h], [e, h, i]),
            Experts::Transposed => fused(s, [e, h, 2 * i], [e, i, h]),
        }
        if let Some(inter) = self.shared_inter {
            s.mlp(&format!("{m}.shared_expert"), h, inter);
            s.add(Kind::Matrix, format!("{m}.shared_expert_gate.weight"), &[1, h]);
        }
    }
}

/// Dimensions of Qwen's vision tower.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct QwenVision {
    pub blocks: u64,
    pub hidden: u64,
    pub inter: u64,
    pub patch: u64,
    pub positions: u64,
    pub text: u64,
    /// Mergers of inner layers (Qwen3-VL).
    pub deepstack: u64,
}

/// The tensors of Qwen's vision tower, whose mergers join 2x2 patches.
pub fn qwen_vision(d: &QwenVision) -> Vec<Spec> {
    let mut s = Specs::default();
    let v = "model.visual";
    let mut put = |kind, name: String, shape: &[u64]| {
        s.add(kind, format!("{name}.weight"), shape);
        s.add(Kind::Bias, format!("{name}.bias"), &shape[..1]);
    };
    put(Kind::Matrix, format!("{v}.patch_embed.proj"), &[d.hidden, 3, 2, d.patch, d.patch]);
    for b in 0..d.blocks {
        let b = format!("{v}.blocks.{b}");
        put(Kind::Norm, format!("{b}.norm1"), &[d.hidden]);
        put(Kind::Norm, format!("{b}.norm2"), &[d.hidden]);
        put(Kind::Matrix, format!("{b}.attn.qkv"), &[3 * d.hidden, d.hidden]);
        put(Kind::Matrix, format!("{b}.attn.proj"), &[d.hidden, d.hidden]);
        put(Kind::Matrix, format!("{b}.mlp.linear_fc1"), &[d.inter, d.hidden]);
        put(Kind::Matrix, format!("{b}.mlp.linear_fc2"), &[d.hidden, d.inter]);
    }
    let mut merger = |at: String, norm: u64| {
        put(Kind::Norm, format!("{at}.norm"), &[norm]);
        put(Kind::Matrix, format!("{at}.linear_fc1"), &[4 * d.hidden, 4 * d.hidden]);
        put(Kind::Matrix, format!("{at}.linear_fc2"), &[d.text, 4 * d.hidden]);
    };
    merger(format!("{v}.merger"), d.hidden);
    (0..d.deepstack).for_each(|i| merger(format!("{v}.deepstack_merger_list.{i}"), 4 * d.hidden));
    s.add(Kind::Matrix, format!("{v}.pos_embed.weight"), &[d.positions, d.hidden]);
    s.0
}
