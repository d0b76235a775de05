//! What a validation found. Every rendering shows this and nothing else.
//!
//! It holds no time, host, path, job count or memory size, so that equal inputs give equal bytes. Lists are in a fixed
//! order: tensors and layers in natural name order, checks in the order of the levels.
//!
//! This file is compiled a second time by `xtask`, with its feature `schema`, to derive `docs/report.schema.json`. It
//! names nothing else of this crate.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the keys; raised when one is renamed or removed.
pub const SCHEMA_VERSION: u32 = 1;

/// How a check or the whole validation ended.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within its limit.
    Pass,
    /// Not done, with a reason.
    Skip,
    /// Odd, but nothing that a gate stops.
    Warn,
    /// Beyond its limit.
    Fail,
}

/// How deep a validation looks. Each level includes those before it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Files, names, shapes, configuration.
    Structure,
    /// Every value against its source.
    Tensor,
    /// Every linear layer through its reference kernel.
    Kernel,
    /// Whole decoder blocks.
    Layer,
    /// All blocks, embedding to logits.
    Model,
}

/// A validation of one artifact.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// `pass` or `fail`.
    pub verdict: Verdict,
    /// The deepest level that ran.
    pub level: Level,
    /// What measured: program and version.
    pub tool: Tool,
    /// What was validated.
    pub artifact: Subject,
    /// What it was compared with.
    pub source: Option<Subject>,
    /// Share of each tensor that was read, 1 for all.
    pub sampled: f64,
    /// The activation path that kernels and layers assume, in words ("per-token INT8 activations, INT32 accumulation").
    pub engine_path: Option<String>,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// Every weight and other tensor of the artifact, and dropped source tensors.
    pub tensors: Vec<TensorRow>,
    /// Every linear layer that ran through its kernel, and golden sets.
    pub kernels: Vec<KernelRow>,
    /// Every decoder block that ran.
    pub layers: Vec<LayerRow>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// Commands that make this artifact and this report again, without paths of this machine.
    pub reproduce: Vec<String>,
}

impl Report {
    /// The verdict that the parts give: `fail` where a check, a kernel or a layer failed, `pass` otherwise.
    pub fn verdict_of_parts(&self) -> Verdict {
        let rows =
            self.kernels.iter().map(|row| row.verdict).chain(self.layers.iter().map(|row| row.verdict));
        let parts = self.checks.iter().map(|check| Some(check.verdict)).chain(rows);
        match parts.flatten().any(|verdict| verdict == Verdict::Fail) {
            true => Verdict::Fail,
            false => Verdict::Pass,
        }
    }
}

/// The program that measured.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A checkpoint.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Family of the model, where known.
    pub family: Option<String>,
    /// Target id, of an artifact with a manifest.
    pub target: Option<String>,
    /// Engine.
    pub engine: Option<String>,
    /// Scheme.
    pub scheme: Option<String>,
    /// BLAKE3 of the plan's text.
    pub plan_digest: Option<String>,
    /// Weight files.
    pub files: u64,
    /// Tensors.
    pub tensors: u64,
    /// Bytes of tensors.
    pub bytes: u64,
    /// Bytes by stored dtype or scheme name.
    pub bytes_by_scheme: BTreeMap<String, u64>,
}

/// One look at one thing.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Stable identifier of the rule, kebab-case.
    pub id: String,
    /// Level that it belongs to.
    pub level: Level,
    /// The tensor or file looked at; null for the whole artifact.
    pub tensor: Option<String>,
    /// The metric, as in `sqnr_db`; null where something is right or wrong.
    pub metric: Option<String>,
    /// The metric's value; null where infinite or none.
    pub value: Option<f64>,
    /// Its limit.
    pub limit: Option<f64>,
    /// How it ended.
    pub verdict: Verdict,
    /// What was expected and found, where, and what to do; empty where it passed and there is nothing to say.
    pub message: String,
}

/// A tensor of the artifact, or a source tensor that was dropped.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorRow {
    /// Name in the artifact (in the source for a dropped one).
    pub name: String,
    /// Role of the module, as in `q_proj`; null where unknown.
    pub role: Option<String>,
    /// Layer index; null outside the layers.
    pub layer: Option<u32>,
    /// Routed expert index.
    pub expert: Option<u32>,
    /// `quantized`, `reencoded`, `kept`, `dropped`; `unknown` without a manifest or source.
    pub fate: String,
    /// Name of the scheme, or of the stored dtype.
    pub scheme: Option<String>,
    /// `bitwise`, `rounding`, `lossy`; null where unknown.
    pub exactness: Option<String>,
    /// Elements.
    pub elements: u64,
    /// Bytes in the artifact, scales included.
    pub bytes: u64,
    /// Bytes in the source, scales included.
    pub source_bytes: u64,
    /// Signal-to-noise ratio in dB, source as signal; null where nothing differs or nothing was measured.
    pub sqnr_db: Option<f64>,
    /// Largest absolute difference.
    pub max_abs: Option<f64>,
    /// Largest relative difference over non-zero source values.
    pub max_rel: Option<f64>,
    /// Cosine of source and artifact.
    pub cosine: Option<f64>,
    /// ‖artifact − source‖ / ‖source‖.
    pub rel_frobenius: Option<f64>,
    /// Elements beyond the top of the format, in percent.
    pub saturated_pct: Option<f64>,
    /// Non-zero elements that became zero, in percent.
    pub flushed_pct: Option<f64>,
    /// Scale units (rows or blocks) that are all zero.
    pub zero_units: Option<u64>,
    /// NaN and infinite values.
    pub non_finite: Option<u64>,
    /// Codes that are no nearest code of their source value.
    pub wrong_codes: Option<u64>,
    /// Scales that are not what the recorded rule gives.
    pub wrong_scales: Option<u64>,
    /// Smallest and largest scale.
    pub scale_range: Option<[f64; 2]>,
    /// Scales by ⌊log2⌋.
    pub scale_exponents: BTreeMap<i32, u64>,
    /// Why it became what it is, and what is wrong with it.
    pub reason: Option<String>,
}

/// A linear layer through its reference kernel, or a golden set.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelRow {
    /// Kernel name.
    pub id: String,
    /// Tensor or golden case.
    pub case: String,
    /// `T0` … `T5`.
    pub tier: String,
    /// Metrics of the specification, artifact against source.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// How it ended.
    pub verdict: Option<Verdict>,
}

/// The metrics of a pair of arrays; names and definitions as in docs/numerics.md. Null where infinite or undefined.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// 1 − 2Σxy / Σ(x² + y²).
    pub calc_diff: Option<f64>,
    /// mean|Δ| / mean|ref|.
    pub rel_diff: Option<f64>,
    /// mean of |Δ| / (|ref| + 1e-7).
    pub mere: Option<f64>,
    /// max of |Δ| / (|ref| + 1e-7).
    pub mare: Option<f64>,
    /// √mean Δ².
    pub rmse: Option<f64>,
    /// Σ|Δ| / Σ|ref|.
    pub diff1: Option<f64>,
    /// √(ΣΔ² / Σref²).
    pub diff2: Option<f64>,
    /// max(max relative above the threshold, max absolute below it).
    pub diff3: Option<f64>,
    /// Share above, share below, unequal values.
    pub diff4: Option<[f64; 3]>,
    /// Largest absolute difference.
    pub max_abs: Option<f64>,
    /// Cosine.
    pub cosine: Option<f64>,
    /// Signal-to-noise ratio in dB; null where infinite.
    pub sqnr_db: Option<f64>,
    /// |P(x < ref) + ½ P(x = ref) − ½|.
    pub bias: Option<f64>,
    /// Whether NaN and infinities stand in the same places.
    pub same_specials: Option<bool>,
    /// Coordinate of the first element beyond the gate's tolerance, or of the first mismatch.
    pub first_bad: Option<Vec<u64>>,
}

/// A decoder block, source against artifact.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerRow {
    /// Module name, as in `model.layers.3`; `model` for embedding to logits.
    pub name: String,
    /// Layer index; null for the whole model.
    pub layer: Option<u32>,
    /// Structure, as in `deepseek-v3 moe`.
    pub kind: String,
    /// Metrics of the block's output.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// Share of (token, expert) choices on which source and artifact agree; null without experts.
    pub routing_agreement: Option<f64>,
    /// How it ended.
    pub verdict: Option<Verdict>,
    /// What to know about the measurement.
    pub note: Option<String>,
}
