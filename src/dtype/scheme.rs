//! How a tensor is encoded: element format, granularity of the scales, scale format, scale rule and packing.
//!
//! A source's quantization and a target's are both a [`Scheme`], and a conversion is Scheme → Scheme. The scale rule and
//! its arithmetic are part of the scheme because they change bytes, and so is the packing, because three INT4 layouts of
//! the same codes are three different files.

use super::Dtype;
use super::packing::Packing;
use std::fmt;
use std::str::FromStr;

/// Which elements share one scale. Weights are `[N = out, K = in]`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Granularity {
    /// One scale for the tensor; scale shape `[1]` or `[]`.
    Tensor,
    /// One scale per row; scale shape `[N, 1]`.
    Channel,
    /// One scale per row; scale shape `[N]`.
    Row,
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
            Granularity::Channel | Granularity::Row => [n, 1],
            Granularity::Block { rows, cols } => [n.div_ceil(rows.into()), k.div_ceil(cols.into())],
        }
    }

    /// Columns of a group: blocks of one row, as the MX formats and the group-wise integers have them.
    pub fn group(self) -> Option<u32> {
        match self {
            Granularity::Block { rows: 1, cols } => Some(cols),
            _ => None,
        }
    }

    /// Rows and columns that share one scale in a matrix of `rows × cols` elements; at least one of each.
    pub fn unit(self, rows: usize, cols: usize) -> [usize; 2] {
        match self {
            Granularity::Tensor => [rows.max(1), cols.max(1)],
            Granularity::Channel | Granularity::Row => [1, cols.max(1)],
            // u32 fits usize on every supported platform.
            Granularity::Block { rows, cols } => [rows.max(1) as usize, cols.max(1) as usize],
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
/// fused multiply-add, unless a rule says otherwise. `store(s)` is `s` rounded to the format in which scales are stored
/// (to nearest even; F16 at least 2^-24), before codes are made. `E` is the biased exponent of a power-of-two scale
/// `2^(E − 127)`, clamped to 0..=254; `max` is the element's largest value, `emax` the exponent of it (8 for E4M3, 2 for
/// E2M1).
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
    /// Power-of-two block scales of the least error: of DeepSeek's exponent and the one below it, the one with the smaller
    /// sum of squared errors (summed in F64, in row-major order; the larger exponent on a tie). Codes as in
    /// [`Rule::DeepseekUe8m0`].
    BestUe8m0,
    /// `s = max(amax, 1e-12) / 7`, `q = clamp(RNE(x / s), −8, 7)`.
    Amax7,
    /// `s = max(amax / 7, 2^-23)`, `q = clamp(RNE(x / s), −8, 7)`: msmodelslim's `minmax` for INT4.
    Amax7Eps,
    /// msmodelslim's `ssz`: starts from [`Rule::Amax7Eps`]; up to 50 rounds of `s = f32(Σ x·q / max(Σ q·q, 1e-30))` over
    /// the row (sums in F64, in column order), new codes, and the error `Σ (x − q·s)²` (F64, products exact); keeps the
    /// scale of the least error, the first on a tie. A round that gives the same scale, or none that is positive and
    /// finite, ends it.
    Ssz7,
    /// `s = store(max(amax, 1e-12) / 7.5)`, `q = clamp(RNE(x / s), −8, 7)`.
    Amax7Half,
    /// compressed-tensors' own INT4 rule with BF16 arithmetic: `s = bf16(amax / 7.5)` (0 becomes 2^-7),
    /// `q = RNE(clamp(bf16(x / s), −8, 7))`.
    Ct7Bf16,
    /// `s = store(max(amax, 1e-12) / 127.5)`, `q = clamp(RNE(x / s), −128, 127)`.
    Amax127Half,
    /// Asymmetric INT4: with the range extended to hold 0, `s = store(max(max − min, 1e-12) / 15)`,
    /// `z = clamp(RNE(−8 − min / s), −8, 7)`, `q = clamp(RNE(x / s + z), −8, 7)`; the value is `(q − z)·s`. Packings that
    /// store unsigned codes add 8 to both.
    MinMax15,
    /// OCP MX v1.0: `E = exponent field of amax − emax`. Codes: `RNE(clamp(x / s, ±max))`.
    MxFloor,
    /// The least power of two under which nothing saturates: `d = amax / max`, `E = exponent field of d + (mantissa ≠ 0)`.
    /// Codes as in [`Rule::MxFloor`].
    MxRceil,
    /// compressed-tensors' `generate_mx_scales`: `E = exponent field of (bits(amax) + 2^21) − emax`, for E4M3 and E2M1
    /// alike. Codes as in [`Rule::MxFloor`].
    MxEven,
    /// msmodelslim's: [`Rule::MxFloor`]'s exponent for E4M3, `floor(log2(amax·8/7 + 9.6e-7)) − 2` (in F64) for E2M1, and
    /// codes rounded half away from zero.
    MxAscend,
    /// Of [`Rule::MxRceil`]'s exponent and the one below it, the one with the smaller sum of squared errors (summed in F64
    /// in column order; the larger exponent on a tie).
    MxBest,
    /// NVFP4 as compressed-tensors writes it: the tensor's `g = 2688 / amax` (1 where that is not finite), per group
    /// `s = e4m3(clamp(g · (amax / 6), 448))` (0 becomes 0.125), `code = e2m1(clamp(x / (s / g), ±6))`.
    Nvfp4,
    /// Power-of-two groups of E2M1 to E4M3 blocks, as DeepSeek's converter does it: `s = max(group scales) / 2^6`,
    /// `code = e4m3(clamp(x / s, ±448))`. Exact while the groups of a block span at most 2^14.
    Fp4Blocks,
}

impl Rule {
    const NAMES: [(Rule, &'static str); 21] = [
        (Rule::Given, "given"),
        (Rule::Amax127, "amax127"),
        (Rule::Amax127Bf16, "amax127-bf16"),
        (Rule::Ct127Bf16, "ct127.5-bf16"),
        (Rule::Amax448, "amax448"),
        (Rule::DeepseekUe8m0, "deepseek-ue8m0"),
        (Rule::BestUe8m0, "best-ue8m0"),
        (Rule::Amax7, "amax7"),
        (Rule::Amax7Eps, "amax7-eps"),
        (Rule::Ssz7, "ssz7"),
        (Rule::Amax7Half, "amax7.5"),
        (Rule::Ct7Bf16, "ct7.5-bf16"),
        (Rule::Amax127Half, "amax127.5"),
        (Rule::MinMax15, "minmax15"),
        (Rule::MxFloor, "mx-floor"),
        (Rule::MxRceil, "mx-rceil"),
        (Rule::MxEven, "mx-even"),
        (Rule::MxAscend, "mx-ascend"),
        (Rule::MxBest, "mx-best"),
        (Rule::Nvfp4, "nvfp4"),
        (Rule::Fp4Blocks, "fp4-blocks"),
    ];

    /// Every rule, in order.
    pub fn all() -> impl Iterator<Item = Rule> {
        Self::NAMES.iter().map(|(rule, _)| *rule)
    }

    /// The rule called `name`.
    pub fn from_name(name: &str) -> Option<Rule> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(rule, _)| *rule)
    }

    /// Whether a scheme with the rule `other` may have this one instead: same codes, other scales.
    pub fn replaces(self, other: Rule) -> bool {
        use Rule::*;
        const SETS: [&[Rule]; 3] = [
            &[Amax7, Amax7Eps, Ssz7, Amax7Half],
            &[MxFloor, MxRceil, MxEven, MxAscend, MxBest],
            &[DeepseekUe8m0, BestUe8m0],
        ];
        SETS.iter().any(|set| set.contains(&self) && set.contains(&other))
    }

    /// Whether codes have zero points.
    pub fn is_asymmetric(self) -> bool {
        self == Rule::MinMax15
    }

    /// Whether every scale is a power of two.
    pub fn is_pow2(self) -> bool {
        use Rule::*;
        matches!(self, DeepseekUe8m0 | BestUe8m0 | MxFloor | MxRceil | MxEven | MxAscend | MxBest | Fp4Blocks)
    }

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
    /// How codes lie in the stored tensor.
    pub packing: Packing,
}

impl Scheme {
    /// Dtype and shape of the stored codes of a weight of shape `[…, N, K]`, or why they cannot be stored.
    ///
    /// # Errors
    /// A text that names the dimension at fault.
    pub fn stored_codes(&self, shape: &[u64]) -> Result<(Dtype, Vec<u64>), String> {
        self.packing.stored(self.element, shape)
    }

    /// Shape of the stored scales of a weight `[N, K]`: the grid, or its transpose where the packing wants that.
    pub fn stored_scales(&self, n: u64, k: u64) -> Vec<u64> {
        let [rows, cols] = self.granularity.grid(n, k);
        match self.granularity {
            Granularity::Tensor => vec![1],
            Granularity::Row => vec![rows],
            _ if self.packing.is_transposed() => vec![cols, rows],
            _ => vec![rows, cols],
        }
    }

    /// Dtype and shape of the stored zero points of a weight `[N, K]`.
    pub fn stored_zeros(&self, n: u64, k: u64) -> (Dtype, Vec<u64>) {
        let [rows, cols] = self.granularity.grid(n, k);
        let bits = self.element.bits();
        match self.packing {
            Packing::Gptq | Packing::GptqV2 | Packing::Awq => {
                (Dtype::I32, vec![cols, (rows * bits).div_ceil(32)])
            }
            Packing::Int32 => (Dtype::I32, vec![(rows * bits).div_ceil(32), cols]),
            _ => (Dtype::I8, vec![rows, cols]),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::Tensor => f.write_str("tensor"),
            Granularity::Channel => f.write_str("channel"),
            Granularity::Row => f.write_str("row"),
            Granularity::Block { rows, cols } => write!(f, "{rows}x{cols}"),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.element, self.granularity, self.scale, self.rule.name())?;
        match self.packing {
            Packing::Plain => Ok(()),
            packing => write!(f, ":{}", packing.name()),
        }
    }
}

/// The text is no scheme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a scheme: expected element:granularity:scale:rule[:packing]")]
pub struct ParseSchemeError;

impl FromStr for Granularity {
    type Err = ParseSchemeError;

    fn from_str(text: &str) -> Result<Self, ParseSchemeError> {
        Ok(match text {
            "tensor" => Granularity::Tensor,
            "channel" => Granularity::Channel,
            "row" => Granularity::Row,
            block => {
                let (rows, cols) = block.split_once('x').ok_or(ParseSchemeError)?;
                let parse = |t: &str| t.parse().ok().filter(|v| *v > 0).ok_or(ParseSchemeError);
                Granularity::Block { rows: parse(rows)?, cols: parse(cols)? }
            }
        })
    }
}

impl FromStr for Scheme {
    type Err = ParseSchemeError;

    fn from_str(text: &str) -> Result<Self, ParseSchemeError> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(ParseSchemeError);
        let element = Dtype::from_text(next()?).ok_or(ParseSchemeError)?;
        let granularity = next()?.parse()?;
        let scale = Dtype::from_text(next()?).ok_or(ParseSchemeError)?;
        let rule = Rule::from_name(next()?).ok_or(ParseSchemeError)?;
        let packing = match parts.next() {
            None => Packing::Plain,
            Some(name) => Packing::from_name(name).ok_or(ParseSchemeError)?,
        };
        if parts.next().is_some() {
            return Err(ParseSchemeError);
        }
        Ok(Scheme { element, granularity, scale, rule, packing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in [
            "f8_e4m3:128x128:f32:given",
            "i8:channel:f32:amax127-bf16",
            "f8_e4m3:tensor:bf16:given",
            "i4:1x128:bf16:amax7.5:int32",
            "f4_e2m1:1x32:f8_e8m0:given:pairs-i8",
            "i8:row:f32:amax127",
        ] {
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
