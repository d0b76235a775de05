//! Chips and engines.
//!
//! A [`Target`] is a TOML table of facts with their sources, one file per chip; no logic. An [`engine::Engine`] is the
//! small Rust half: how one serving engine wants names, files and config. Adding a chip of a known engine is adding a
//! file and a row in `TARGETS`.

pub mod compressed_tensors;
pub mod engine;
pub mod vllm_ascend;

use crate::dtype::Dtype;
use crate::dtype::scheme::Scheme;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::sync::OnceLock;

/// The ordered list of targets: id and facts.
const TARGETS: &[(&str, &str)] = &[
    ("ascend-910b", include_str!("ascend-910b.toml")),
    ("ascend-910c", include_str!("ascend-910c.toml")),
    ("hygon-k100ai", include_str!("hygon-k100ai.toml")),
    ("hygon-bw1000", include_str!("hygon-bw1000.toml")),
    ("metax-c500", include_str!("metax-c500.toml")),
    ("vllm", include_str!("vllm.toml")),
];

/// Ids of the contract that this version knows of and cannot convert for yet.
const KNOWN_ONLY: &[&str] = &[
    "ascend-310p",
    "ascend-950",
    "cambricon-mlu370",
    "cambricon-mlu590",
    "mthreads-s4000",
    "mthreads-s5000",
    "hygon-bw1100",
    "metax-c550",
    "metax-c588",
    "metax-c600",
    "kunlunxin-p800",
    "enflame-s60",
    "sglang",
    "deepseek",
];

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
    /// The `format` of the engine's quantization config, where it has one.
    #[serde(default)]
    pub format: String,
    /// Whether the loader registers a zero `weight_offset` beside each scale.
    #[serde(default)]
    pub offset: bool,
    /// Support tier: 1 loader contract read and artifacts compared with an independent computation, 2 loader contract
    /// read, 3 inferred.
    pub tier: u8,
    /// One sentence for people.
    pub about: String,
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

    /// The default engine.
    pub fn engine(&self) -> Result<&'static dyn engine::Engine> {
        engine::find(self.engines.first().map_or("", String::as_str))
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
        assert_eq!(Target::find("mthreads-s5000").unwrap_err().class().exit_code(), 3);
    }
}
