//! Chips and engines.
//!
//! A [`Target`] is a TOML table of facts with their sources, one file per chip; no logic. An [`engine::Engine`] is the
//! small Rust half: how one serving engine wants names, files and config. Adding a chip of a known engine is adding a
//! file and a row in `TARGETS`.

pub mod compressed_tensors;
pub mod config;
pub mod engine;
pub mod gptq_awq;
pub mod native_fp8;
pub mod sglang;
pub mod slimquant;
pub mod vllm;
pub mod vllm_ascend;
pub mod vllm_mlu;

use crate::checkpoint::{Checkpoint, Encoding};
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::Scheme;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::sync::OnceLock;

/// The ordered list of targets: id and facts.
const TARGETS: &[(&str, &str)] = &[
    ("ascend-910b", include_str!("ascend-910b.toml")),
    ("ascend-910c", include_str!("ascend-910c.toml")),
    ("ascend-310p", include_str!("ascend-310p.toml")),
    ("ascend-950", include_str!("ascend-950.toml")),
    ("cambricon-mlu370", include_str!("cambricon-mlu370.toml")),
    ("cambricon-mlu590", include_str!("cambricon-mlu590.toml")),
    ("mthreads-s4000", include_str!("mthreads-s4000.toml")),
    ("mthreads-s5000", include_str!("mthreads-s5000.toml")),
    ("hygon-k100ai", include_str!("hygon-k100ai.toml")),
    ("hygon-bw1000", include_str!("hygon-bw1000.toml")),
    ("hygon-bw1100", include_str!("hygon-bw1100.toml")),
    ("metax-c500", include_str!("metax-c500.toml")),
    ("metax-c550", include_str!("metax-c550.toml")),
    ("metax-c588", include_str!("metax-c588.toml")),
    ("metax-c600", include_str!("metax-c600.toml")),
    ("kunlunxin-p800", include_str!("kunlunxin-p800.toml")),
    ("enflame-s60", include_str!("enflame-s60.toml")),
    ("vllm", include_str!("vllm.toml")),
    ("sglang", include_str!("sglang.toml")),
];

/// Ids of the contract that this version knows of and cannot convert for yet.
const KNOWN_ONLY: &[&str] = &["deepseek"];

/// A chip with the engines and schemes that run on it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Id on the command line.
    pub id: String,
    /// Vendor.
    pub vendor: String,
    /// Chip, for people.
    pub chip: String,
    /// Engine names, the default first.
    pub engines: Vec<String>,
    /// A new shard starts where the tensor payload would exceed this.
    pub shard_bytes: u64,
    /// The dtype of tensors that are not quantized: `bf16`, or `f16` for chips that compute in nothing wider.
    #[serde(default = "bf16")]
    pub float: Dtype,
    /// What a user should know.
    pub note: String,
    /// Where the facts come from.
    pub sources: Vec<String>,
    /// Schemes, the default first.
    #[serde(rename = "scheme")]
    pub schemes: Vec<Preset>,
}

/// A scheme as a target offers it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// Name on the command line and in reports.
    pub name: String,
    /// Other names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// How weights are encoded; absent where they are decoded to BF16.
    #[serde(default, deserialize_with = "scheme")]
    pub encoding: Option<Scheme>,
    /// How routed experts are encoded, where that differs from the rest.
    #[serde(default, deserialize_with = "scheme")]
    pub experts: Option<Scheme>,
    /// Whether the experts of multi-token prediction are encoded like the rest.
    #[serde(default)]
    pub plain_mtp_experts: bool,
    /// Whether every tensor is kept as the source stores it.
    #[serde(default)]
    pub native: bool,
    /// The quantization method of the engine, or the `format` of its compressed-tensors config, where it has one.
    #[serde(default)]
    pub format: String,
    /// What the engine makes of activations while serving, where the configuration says so.
    #[serde(default)]
    pub activations: Option<Activations>,
    /// Whether the loader registers a zero `weight_offset` beside each scale.
    #[serde(default)]
    pub offset: bool,
    /// The engine's name for how weights are stored, where that is not the name of the scheme.
    #[serde(default)]
    pub tag: String,
    /// The same for routed experts, where they have another.
    #[serde(default)]
    pub experts_tag: String,
    /// Support tier: 1 loader contract read and artifacts compared with an independent computation, 2 loader contract
    /// read, 3 inferred.
    pub tier: u8,
    /// One sentence for people.
    pub about: String,
}

/// How an engine quantizes activations while serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// INT8 per token.
    Int8,
    /// FP8 per token.
    Fp8,
    /// E4M3 in groups of 32 with power-of-two scales.
    Mxfp8,
}

impl Preset {
    /// Whether weights have zero points.
    pub fn is_asymmetric(&self) -> bool {
        self.encoding.is_some_and(|s| s.rule.is_asymmetric())
    }
}

fn bf16() -> Dtype {
    Dtype::BF16
}

fn scheme<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Option<Scheme>, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Every target, in order.
pub fn all() -> &'static [Target] {
    static ALL: OnceLock<Vec<Target>> = OnceLock::new();
    // The files are compiled in, and a test parses each of them.
    ALL.get_or_init(|| TARGETS.iter().filter_map(|(_, text)| toml::from_str(text).ok()).collect())
}

impl Target {
    /// The target called `id`.
    pub fn find(id: &str) -> Result<&'static Target> {
        if let Some(target) = all().iter().find(|t| t.id == id) {
            return Ok(target);
        }
        let known: Vec<&str> = all().iter().map(|t| t.id.as_str()).collect();
        let error = match KNOWN_ONLY.contains(&id) {
            true => {
                Error::unsupported("target-unsupported", format!("this version cannot convert for {id} yet"))
            }
            false => Error::unsupported("target-unknown", format!("there is no target {id}")),
        };
        Err(error.expected(known.join(", ")).found(id).fix("choose a target from `silicast targets`"))
    }

    /// The scheme called `name`, or the default one. Names are compared without case, `-` as `_`.
    pub fn preset(&self, name: Option<&str>) -> Result<&Preset> {
        let Some(name) = name else {
            return self
                .schemes
                .first()
                .ok_or_else(|| Error::internal("target-no-scheme", "a target without schemes"));
        };
        let plain = |text: &str| text.replace('-', "_").to_ascii_uppercase();
        let wanted = plain(name);
        self.schemes
            .iter()
            .find(|s| plain(&s.name) == wanted)
            .or_else(|| self.schemes.iter().find(|s| s.aliases.iter().any(|a| plain(a) == wanted)))
            .ok_or_else(|| {
                let known: Vec<&str> = self.schemes.iter().map(|s| s.name.as_str()).collect();
                Error::unsupported("scheme-unsupported", format!("{} has no scheme {name}", self.id))
                    .expected(known.join(", "))
                    .found(name)
                    .fix(format!(
                        "choose a scheme from `silicast targets {}`; each row says what it is",
                        self.id
                    ))
            })
    }

    /// The scheme called `name` as it applies to a source: one whose experts are packed FP4 of gpt-oss already is what
    /// MXFP4 asks for, and its loader reads those very tensors.
    pub fn preset_for(&self, name: Option<&str>, checkpoint: &Checkpoint) -> Result<&Preset> {
        let preset = self.preset(name)?;
        let blocks = |e: &Encoding| matches!(e, Encoding::Codes(s) if s.scheme.packing == Packing::Blocks);
        let same = preset.format == "mxfp4-pack-quantized" && checkpoint.encodings.iter().any(blocks);
        Ok(self.schemes.iter().find(|s| same && s.native).unwrap_or(preset))
    }

    /// The default engine.
    pub fn engine(&self) -> Result<&'static dyn engine::Engine> {
        self.engine_for(None)
    }

    /// The engine called `name`, one of the target's, or its default.
    pub fn engine_for(&self, name: Option<&str>) -> Result<&'static dyn engine::Engine> {
        let Some(name) = name else {
            return engine::find(self.engines.first().map_or("", String::as_str));
        };
        match self.engines.iter().find(|e| e.eq_ignore_ascii_case(name)) {
            Some(engine) => engine::find(engine),
            None => {
                Err(Error::unsupported("engine-unsupported", format!("{} is not served by {name}", self.id))
                    .expected(self.engines.join(", "))
                    .found(name)
                    .fix(format!("choose an engine from `silicast targets {}`", self.id)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_states_its_sources() {
        for (id, text) in TARGETS {
            let target: Target = toml::from_str(text).unwrap_or_else(|e| panic!("{id}: {e}"));
            assert_eq!(target.id, *id);
            assert!(!target.sources.is_empty() && target.sources.iter().all(|s| s.len() > 20), "{id}");
            assert!(!target.schemes.is_empty(), "{id}");
            for engine in &target.engines {
                engine::find(engine).unwrap();
            }
            for scheme in &target.schemes {
                assert!((1..=3).contains(&scheme.tier) && !scheme.about.is_empty(), "{id} {}", scheme.name);
            }
        }
        assert_eq!(all().len(), TARGETS.len());
    }

    #[test]
    fn scheme_names_ignore_case_and_know_their_aliases() {
        let target = Target::find("ascend-910b").unwrap();
        for name in ["w8a8", "W8A8-dynamic", "int8"] {
            assert_eq!(target.preset(Some(name)).unwrap().name, "W8A8_DYNAMIC");
        }
        let error = target.preset(Some("FP8_BLOCK")).unwrap_err();
        assert_eq!(error.class().exit_code(), 3);
        assert_eq!(Target::find("deepseek").unwrap_err().class().exit_code(), 3);
    }
}
