//! How a tensor is encoded: element format, granularity of the scales, scale format and scale rule.
//!
//! A source's quantization and a target's are both a [`Scheme`], and a conversion is Scheme → Scheme. The scale rule and
//! its arithmetic are part of the scheme because they change bytes.

use super::Dtype;
use std::fmt;
use std::str::FromStr;

/// Which elements share one scale. Weights are `[N = out, K = in]`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Granularity {
    /// One scale for the tensor; scale shape `[1]` or `[]`.
    Tensor,
    /// One scale per row; scale shape `[N, 1]`.
    Channel,
    /// One scale per `rows × cols` block, ragged at the ends; scale shape `[⌈N/rows⌉, ⌈K/cols⌉]`.
    Block {
        /// Rows of a block.
        rows: u32,
        /// Columns of a block.
        cols: u32,
    },
}

impl Granularity {
    /// The scale grid `[rows, cols]` of an `[n, k]` weight.
    pub fn grid(self, n: u64, k: u64) -> [u64; 2] {
        match self {
            Granularity::Tensor => [1, 1],
            Granularity::Channel => [n, 1],
            Granularity::Block { rows, cols } => [n.div_ceil(rows.into()), k.div_ceil(cols.into())],
        }
    }

    /// Rows that must be quantized together.
    pub fn rows(self) -> u64 {
        match self {
            Granularity::Block { rows, .. } => rows.into(),
            _ => 1,
        }
    }
}

/// The exact computation of scales and codes. All arithmetic is IEEE binary32 with one rounding per operation and no
/// fused multiply-add, unless a rule says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// The scales came with the source; how they were made is not known.
    Given,
    /// `s = max(amax, 1e-12) / 127`, `q = clamp(RNE(x / s), −127, 127)`.
    Amax127,
    /// `s = bf16(max(amax / 127, 2^-23))`, `q = clamp(RNE(x / s), −128, 127)`: the scale is snapped to BF16 before the
    /// codes are made, because vllm-ascend loads it into a parameter of the model's dtype.
    Amax127Bf16,
    /// compressed-tensors' own rule with BF16 arithmetic: `s = bf16(amax / 127.5)` (0 becomes 2^-7),
    /// `q = RNE(clamp(bf16(x / s), −128, 127))`.
    Ct127Bf16,
    /// `s = max(amax, 1e-12) / 448`, `code = e4m3(clamp(x / s, ±448))`.
    Amax448,
    /// DeepSeek's UE8M0: `d = max(amax, 1e-4) / 448`, `s = 2^ceil(log2 d)`, exponent clamped to 1..=254,
    /// `code = e4m3(clamp(x / s, ±448))`.
    DeepseekUe8m0,
}

impl Rule {
    const NAMES: [(Rule, &'static str); 6] = [
        (Rule::Given, "given"),
        (Rule::Amax127, "amax127"),
        (Rule::Amax127Bf16, "amax127-bf16"),
        (Rule::Ct127Bf16, "ct127.5-bf16"),
        (Rule::Amax448, "amax448"),
        (Rule::DeepseekUe8m0, "deepseek-ue8m0"),
    ];

    /// The rule's name in plans and manifests.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(r, _)| *r == self).map_or("given", |(_, n)| n)
    }
}

/// How a tensor is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scheme {
    /// Format of the codes.
    pub element: Dtype,
    /// Which elements share a scale.
    pub granularity: Granularity,
    /// Format in which the scales are stored.
    pub scale: Dtype,
    /// How scales and codes are computed.
    pub rule: Rule,
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("tensor"),
            Granularity::Channel => f.write_str("channel"),
            Granularity::Block { rows, cols } => write!(f, "{rows}x{cols}"),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.element, self.granularity, self.scale, self.rule.name())
    }
}

/// The text is no scheme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a scheme: expected element:granularity:scale:rule")]
pub struct ParseSchemeError;

impl FromStr for Scheme {
    type Err = ParseSchemeError;

    fn from_str(text: &str) -> Result<Self, ParseSchemeError> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(ParseSchemeError);
        let element = Dtype::from_text(next()?).ok_or(ParseSchemeError)?;
        let granularity = match next()? {
            "tensor" => Granularity::Tensor,
            "channel" => Granularity::Channel,
            block => {
                let (rows, cols) = block.split_once('x').ok_or(ParseSchemeError)?;
                let parse = |t: &str| t.parse().ok().filter(|v| *v > 0).ok_or(ParseSchemeError);
                Granularity::Block { rows: parse(rows)?, cols: parse(cols)? }
            }
        };
        let scale = Dtype::from_text(next()?).ok_or(ParseSchemeError)?;
        let rule = next()?;
        let (rule, _) = Rule::NAMES.iter().find(|(_, n)| *n == rule).ok_or(ParseSchemeError)?;
        if parts.next().is_some() {
            return Err(ParseSchemeError);
        }
        Ok(Scheme { element, granularity, scale, rule: *rule })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["f8_e4m3:128x128:f32:given", "i8:channel:f32:amax127-bf16", "f8_e4m3:tensor:bf16:given"]
        {
            assert_eq!(text.parse::<Scheme>().unwrap().to_string(), text);
        }
        for text in
            ["", "i8", "i8:channel:f32", "i8:0x1:f32:given", "i8:channel:f32:given:x", "q8:channel:f32:given"]
        {
            assert_eq!(text.parse::<Scheme>(), Err(ParseSchemeError));
        }
    }

    #[test]
    fn ragged_grids_round_up() {
        assert_eq!(Granularity::Block { rows: 128, cols: 128 }.grid(576, 7168), [5, 56]);
        assert_eq!(Granularity::Channel.grid(7, 9), [7, 1]);
    }
}
