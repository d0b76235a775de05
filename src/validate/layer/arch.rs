//! What a decoder block computes: dimensions and rules from `config.json`.

use super::math;
use crate::checkpoint::{Checkpoint, Config, Kind, Part};
use serde_json::Value;

/// A decoder-only model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arch {
    /// Family id.
    pub(super) family: &'static str,
    /// Prefix of tensor names, as in `model.`.
    pub(super) prefix: String,
    pub(super) hidden: usize,
    /// Main layers, and those of multi-token prediction after them.
    pub(super) layers: usize,
    pub(super) mtp_layers: usize,
    pub(super) vocab: usize,
    pub(super) eps: f64,
    pub(super) attention: Attention,
    pub(super) rope: Rope,
    pub(super) router: Option<Router>,
    pub(super) tied: bool,
}

/// The attention of every block.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Attention {
    /// Separate query, key and value heads.
    Grouped { heads: usize, kv_heads: usize, dim: usize },
    /// Multi-head latent attention.
    Latent {
        heads: usize,
        /// Rank of the compressed query; without it, `q_proj` makes the query.
        q_lora: bool,
        kv_lora: usize,
        nope: usize,
        rope: usize,
        v: usize,
        /// Whether rope pairs are neighbours, as DeepSeek has them, and not halves.
        interleaved: bool,
        indexer: Option<Indexer>,
    },
}

/// The lightning indexer of sparse attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Indexer {
    pub(super) heads: usize,
    pub(super) dim: usize,
    pub(super) topk: usize,
    pub(super) interleaved: bool,
}

/// Rotary embedding: inverse frequencies (f32, as the libraries hold them) and factors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rope {
    /// One for each pair.
    pub(super) inv_freq: Vec<f32>,
    /// Multiplies cosine and sine.
    pub(super) amplitude: f64,
    /// Multiplies the scale of the logits.
    pub(super) logit_factor: f64,
}

/// The choice of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Router {
    pub(super) topk: usize,
    pub(super) groups: usize,
    pub(super) topk_group: usize,
    pub(super) normalize: bool,
    pub(super) scale: f64,
    /// Sigmoid of DeepSeek and GLM, else softmax of Qwen.
    pub(super) sigmoid: bool,
}

impl Arch {
    /// The structure of `checkpoint`, or why its blocks cannot be computed.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Arch, String> {
        let config = &checkpoint.config;
        let family = checkpoint.family.id;
        let count = |key: &str| -> Result<usize, String> {
            let value = config.count(key).and_then(|v| usize::try_from(v).ok()).filter(|v| *v > 0);
            value.ok_or_else(|| format!("config.json has no usable {key}"))
        };
        let or = |key: &str, default: usize| count(key).unwrap_or(default);
        if let Some(act) = config.string("hidden_act")
            && act != "silu"
        {
            return Err(format!("the activation function {act} is not known to this version"));
        }
        let heads = count("num_attention_heads")?;
        let hidden = count("hidden_size")?;
        let latent = matches!(family, "deepseek_v3" | "deepseek_v32" | "kimi_k2" | "glm_moe_dsa");
        if !latent && !matches!(family, "llama" | "mistral" | "qwen2" | "qwen3" | "qwen3_moe" | "glm4_moe") {
            return Err(format!("blocks of the family {family} are not known to this version"));
        }
        let attention = if latent {
            let indexer =
                matches!(family, "deepseek_v32" | "glm_moe_dsa").then(|| -> Result<Indexer, String> {
                    Ok(Indexer {
                        heads: count("index_n_heads")?,
                        dim: count("index_head_dim")?,
                        topk: count("index_topk")?,
                        // DeepSeek turns halves here, though neighbours elsewhere; GLM turns neighbours everywhere.
                        interleaved: family == "glm_moe_dsa",
                    })
                });
            Attention::Latent {
                heads,
                q_lora: config.count("q_lora_rank").is_some(),
                kv_lora: count("kv_lora_rank")?,
                nope: count("qk_nope_head_dim")?,
                rope: count("qk_rope_head_dim")?,
                v: count("v_head_dim")?,
                interleaved: config.flag("rope_interleave").unwrap_or(true),
                indexer: indexer.transpose()?,
            }
        } else {
            let kv_heads = or("num_key_value_heads", heads);
            if heads % kv_heads != 0 {
                return Err(format!("{heads} query heads do not share {kv_heads} key heads evenly"));
            }
            Attention::Grouped { heads, kv_heads, dim: or("head_dim", hidden / heads) }
        };
        let rope_dim = match &attention {
            Attention::Latent { rope, .. } => *rope,
            Attention::Grouped { dim, .. } => {
                let partial = rope_value(config, "partial_rotary_factor").unwrap_or(1.0);
                (*dim as f64 * partial) as usize
            }
        };
        if rope_dim % 2 != 0 {
            return Err(format!("{rope_dim} rotary dimensions are no pairs"));
        }
        let experts = config.get("n_routed_experts").or_else(|| config.get("num_experts"));
        let router = experts.and_then(Value::as_u64).filter(|n| *n > 0).map(|_| -> Result<Router, String> {
            let sigmoid = family != "qwen3_moe";
            if sigmoid && config.string("scoring_func").is_some_and(|s| s != "sigmoid") {
                return Err("the router's scoring function is not known to this version".into());
            }
            Ok(Router {
                topk: count("num_experts_per_tok")?,
                groups: if sigmoid { or("n_group", 1) } else { 1 },
                topk_group: if sigmoid { or("topk_group", 1) } else { 1 },
                normalize: config.flag("norm_topk_prob").unwrap_or(sigmoid),
                scale: if sigmoid {
                    config.get("routed_scaling_factor").and_then(Value::as_f64).unwrap_or(1.0)
                } else {
                    1.0
                },
                sigmoid,
            })
        });
        let embed = (0..).zip(&checkpoint.tensors).find(|(id, _)| {
            let role = checkpoint.role(*id);
            role.kind == Kind::Embed && role.layer.is_none() && role.part == Part::Weight
        });
        let Some((_, embed)) = embed else { return Err("there is no embedding".into()) };
        let prefix = embed.name.strip_suffix("embed_tokens.weight").unwrap_or("model.").to_owned();
        Ok(Arch {
            family,
            prefix,
            hidden,
            layers: count("num_hidden_layers")?,
            mtp_layers: if checkpoint.family.has_mtp_layers() {
                or("num_nextn_predict_layers", 0)
            } else {
                0
            },
            vocab: count("vocab_size")?,
            eps: config.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            attention,
            rope: rope(config, rope_dim)?,
            router: router.transpose()?,
            tied: config.tie_word_embeddings(),
        })
    }

    /// What differs from `other`, in words; how many rows the vocabulary has does not change a block.
    pub(super) fn differences(&self, other: &Arch) -> Vec<String> {
        let mut out = Vec::new();
        let mut add = |what: &str, equal: bool, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
            if !equal {
                out.push(format!("{what} ({a:?} became {b:?})"));
            }
        };
        add("model_type", self.family == other.family, &self.family, &other.family);
        add("names", self.prefix == other.prefix, &self.prefix, &other.prefix);
        add("hidden_size", self.hidden == other.hidden, &self.hidden, &other.hidden);
        add("num_hidden_layers", self.layers == other.layers, &self.layers, &other.layers);
        add("rms_norm_eps", self.eps == other.eps, &self.eps, &other.eps);
        add("attention", self.attention == other.attention, &self.attention, &other.attention);
        let (a, b) = (&self.rope, &other.rope);
        let first = |r: &Rope| r.inv_freq.get(1).copied();
        add("rope frequencies", a.inv_freq == b.inv_freq, &first(a), &first(b));
        add("rope amplitude", a.amplitude == b.amplitude, &a.amplitude, &b.amplitude);
        add("attention scale", a.logit_factor == b.logit_factor, &a.logit_factor, &b.logit_factor);
        add("router", self.router == other.router, &self.router, &other.router);
        out
    }

    /// Names below layer `index`.
    pub(super) fn layer(&self, index: usize) -> String {
        format!("{}layers.{index}", self.prefix)
    }
}

/// A rope parameter from `rope_parameters`, `rope_scaling` or the root.
fn rope_value(config: &Config, key: &str) -> Option<f64> {
    let nested = |map: &str| config.get(map)?.get(key)?.as_f64();
    nested("rope_parameters")
        .or_else(|| nested("rope_scaling"))
        .or_else(|| config.get(key).and_then(Value::as_f64))
}

/// Inverse frequencies as transformers computes them, float32 steps included (`modeling_rope_utils.py`).
fn rope(config: &Config, dim: usize) -> Result<Rope, String> {
    let theta = rope_value(config, "rope_theta").unwrap_or(10_000.0);
    if theta <= 1.0 {
        return Err(format!("a rope_theta of {theta}"));
    }
    let powers: Vec<f32> =
        (0..dim / 2).map(|i| math::pow(theta, f64::from((2 * i) as f32 / dim as f32)) as f32).collect();
    let plain: Vec<f32> = powers.iter().map(|p| 1.0 / p).collect();
    let text = |map: &str, key: &str| config.get(map).and_then(|m| m.get(key)?.as_str().map(str::to_owned));
    let kind = ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|map| text(map, "rope_type").or_else(|| text(map, "type")))
        .unwrap_or_else(|| "default".into());
    let need = |key: &str| rope_value(config, key).ok_or_else(|| format!("rope_scaling has no {key}"));
    let mut rope = Rope { inv_freq: plain, amplitude: 1.0, logit_factor: 1.0 };
    match kind.as_str() {
        // Positions here are far below the length from which `dynamic` changes anything.
        "default" | "dynamic" => {}
        "linear" => {
            let factor = need("factor")? as f32;
            rope.inv_freq.iter_mut().for_each(|f| *f /= factor);
        }
        "llama3" => {
            let (factor, low, high) = (need("factor")?, need("low_freq_factor")?, need("high_freq_factor")?);
            let length = need("original_max_position_embeddings")?;
            for f in &mut rope.inv_freq {
                let wavelength = 2.0 * std::f64::consts::PI / f64::from(*f);
                if wavelength > length / low {
                    *f = (f64::from(*f) / factor) as f32;
                } else if wavelength >= length / high {
                    let smooth = (length / wavelength - low) / (high - low);
                    *f = ((1.0 - smooth) * f64::from(*f) / factor + smooth * f64::from(*f)) as f32;
                }
            }
        }
        "yarn" => yarn(config, theta, &powers, need("factor")?, &mut rope)?,
        other => return Err(format!("the rope type {other} is not known to this version")),
    }
    Ok(rope)
}

fn yarn(config: &Config, theta: f64, powers: &[f32], factor: f64, rope: &mut Rope) -> Result<(), String> {
    let value = |key: &str| rope_value(config, key);
    let length = value("original_max_position_embeddings")
        .or_else(|| value("max_position_embeddings"))
        .ok_or("rope_scaling has no original_max_position_embeddings")?;
    let dim = 2 * powers.len();
    let mscale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * math::ln(factor) + 1.0 };
    let (m, all) = (value("mscale").unwrap_or(0.0), value("mscale_all_dim").unwrap_or(0.0));
    rope.amplitude = value("attention_factor")
        .unwrap_or_else(|| if m != 0.0 && all != 0.0 { mscale(m) / mscale(all) } else { mscale(1.0) });
    if all != 0.0 {
        rope.logit_factor = mscale(all) * mscale(all);
    }
    let correction = |rotations: f64| {
        dim as f64 * math::ln(length / (rotations * 2.0 * std::f64::consts::PI)) / (2.0 * math::ln(theta))
    };
    let fast = value("beta_fast").filter(|b| *b != 0.0).unwrap_or(32.0);
    let slow = value("beta_slow").filter(|b| *b != 0.0).unwrap_or(1.0);
    let (mut low, mut high) = (correction(fast), correction(slow));
    let truncate = ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|map| config.get(map)?.get("truncate")?.as_bool())
        .unwrap_or(true);
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    for (i, (f, power)) in rope.inv_freq.iter_mut().zip(powers).enumerate() {
        let ramp = (((i as f64 - low) / (high - low)).clamp(0.0, 1.0)) as f32;
        let extrapolation = 1.0 - ramp;
        let interpolated = 1.0 / (factor as f32 * power);
        *f = interpolated * (1.0 - extrapolation) + (1.0 / power) * extrapolation;
    }
    Ok(())
}
