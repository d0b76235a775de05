//! How each tensor of a source is stored: plain, codes with a scale tensor, or in a way that this version cannot decode.
//!
//! Names and dtypes decide what a tensor is, the configuration says how big a block is. A block size is never derived
//! by dividing shapes: 576 rows with 5 scale rows are blocks of 128 with a ragged tail, not blocks of 115.

use super::config::{Quantization, WeightGroup};
use super::name::split;
use super::{TensorId, TensorInfo, find};
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::error::{Error, Result};
use std::borrow::Cow;

/// How a tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Its elements are its values.
    Plain,
    /// Codes; the value is the code times its scale.
    Codes {
        /// The tensor that holds the scales.
        scale: TensorId,
        /// Format of codes and scales.
        scheme: Scheme,
    },
    /// The scales of another tensor.
    ScaleOf {
        /// The tensor that holds the codes.
        codes: TensorId,
    },
    /// The offsets of another tensor's codes. All zero in a symmetric scheme, which only their bytes tell: a reader that
    /// decodes the codes without them must check.
    OffsetOf {
        /// The tensor that holds the codes.
        codes: TensorId,
    },
    /// Not decodable in this version, or not decodable at all.
    Unsupported {
        /// What it is, for people.
        what: Cow<'static, str>,
    },
}

/// [`Encoding::Unsupported`] text of codes whose scale tensor does not exist.
pub const MISSING_SCALE: &str = "quantized weight without a scale";
/// [`Encoding::Unsupported`] text of a scale whose weight is not quantized or does not exist.
pub const ORPHAN_SCALE: &str = "scale without a quantized weight";

const FP4_I8: &str = "FP4 packed in I8 (DeepSeek-V4)";
const PACKED_INT: &str = "integers packed in I32 (pack-quantized)";
const PACKED_FP4: &str = "FP4 packed in U8 (weight_packed)";
const GPTQ: &str = "GPTQ or AWQ (qweight)";
const MXFP4_BLOCKS: &str = "MXFP4 blocks (gpt-oss)";
const NVFP4: &str = "FP4 packed in U8 (NVFP4 or MXFP4)";
const BNB: &str = "bitsandbytes";
/// What conversion says of codes with offsets.
pub(super) const INT8_OFFSET: &str = "INT8 with offsets";
const INT4_IN_I8: &str = "INT4 in INT8 containers";
const INT8_ASYMMETRIC: &str = "asymmetric INT8";
const RANK: &str = "quantized tensor that is no matrix";
const SUB_BYTE: &str = "sub-byte floats";
const F8_OTHER: &str = "FP8 other than E4M3FN";

/// Classifies every tensor. `tensors` is in natural order.
///
/// # Errors
/// `scale-grid`, `scale-dtype` (exit 4): a scale tensor whose shape or dtype cannot belong to its weight.
pub(super) fn classify(
    tensors: &[TensorInfo],
    quantization: Option<&Quantization>,
    notes: &mut Vec<String>,
) -> Result<Vec<Encoding>> {
    let mut c = Classifier { tensors, quantization, out: vec![Encoding::Plain; tensors.len()], inferred: 0 };
    for (id, tensor) in (0..).zip(tensors) {
        c.tensor(id, tensor)?;
    }
    for (id, tensor) in (0..).zip(tensors) {
        c.leftover(id, tensor);
    }
    if c.inferred > 0 {
        notes.push(format!(
            "config.json states no block size: 128x128 inferred for {} weights whose scale grids fit it",
            c.inferred
        ));
    }
    Ok(c.out)
}

struct Classifier<'a> {
    tensors: &'a [TensorInfo],
    quantization: Option<&'a Quantization>,
    out: Vec<Encoding>,
    inferred: usize,
}

impl Classifier<'_> {
    fn tensor(&mut self, id: TensorId, tensor: &TensorInfo) -> Result<()> {
        let (module, param) = split(&tensor.name);
        match (param, tensor.dtype) {
            ("weight", Dtype::F8E4M3) => {
                self.scaled(id, module, &["weight_scale_inv", "scale", "weight_scale"])
            }
            ("weight", Dtype::I8) => self.int8(id, module),
            ("weight", Dtype::U8) if self.companion(module, "weight.absmax").is_some() => {
                self.refuse(id, module, BNB, &["weight.absmax", "weight.quant_map", "weight.nested_absmax"]);
                Ok(())
            }
            ("weight", Dtype::U8) => {
                let scales = ["weight_scale", "weight_scale_2", "input_scale", "weight_scale_inv", "scale"];
                if scales.iter().any(|s| self.companion(module, s).is_some()) {
                    self.refuse(id, module, NVFP4, &scales);
                }
                Ok(())
            }
            ("weight_packed", dtype) => {
                let what = if dtype == Dtype::U8 { PACKED_FP4 } else { PACKED_INT };
                let parts = [
                    "weight_scale",
                    "weight_shape",
                    "weight_zero_point",
                    "weight_g_idx",
                    "weight_global_scale",
                    "input_global_scale",
                ];
                self.refuse(id, module, what, &parts);
                Ok(())
            }
            ("qweight", _) => {
                self.refuse(id, module, GPTQ, &["qzeros", "scales", "g_idx"]);
                Ok(())
            }
            (_, Dtype::U8) if param.ends_with("_blocks") => {
                let scales = format!("{}_scales", param.trim_end_matches("_blocks"));
                self.refuse(id, module, MXFP4_BLOCKS, &[&scales]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What is left once every weight has claimed its companions.
    fn leftover(&mut self, id: TensorId, tensor: &TensorInfo) {
        if self.out[id as usize] != Encoding::Plain {
            return;
        }
        let what = match (split(&tensor.name).1, tensor.dtype) {
            ("weight_scale_inv" | "weight_scale" | "weight_scale_2" | "weight_zero_point", _) => ORPHAN_SCALE,
            (_, Dtype::F8E4M3) => MISSING_SCALE,
            (_, Dtype::F8E5M2 | Dtype::F8E4M3Fnuz | Dtype::F8E5M2Fnuz) => F8_OTHER,
            (_, Dtype::F4E2M1 | Dtype::F6E2M3 | Dtype::F6E3M2) => SUB_BYTE,
            _ => return,
        };
        self.out[id as usize] = unsupported(what);
    }

    fn companion(&self, module: &str, param: &str) -> Option<TensorId> {
        find(self.tensors, &format!("{module}.{param}"))
    }

    /// Marks `id` and its companions as not decodable.
    fn refuse(&mut self, id: TensorId, module: &str, what: &'static str, companions: &[&str]) {
        self.out[id as usize] = unsupported(what);
        for param in companions {
            if let Some(companion) = self.companion(module, param) {
                self.out[companion as usize] = unsupported(what);
            }
        }
    }

    fn int8(&mut self, id: TensorId, module: &str) -> Result<()> {
        let companions = ["weight_scale", "weight_offset", "weight_zero_point", "scale"];
        if self.companion(module, "scale").is_some() {
            self.refuse(id, module, FP4_I8, &companions);
        } else if let Some(offset) = self.companion(module, "weight_offset") {
            // AscendV1 stores offsets beside every scale, zero where the scheme is symmetric.
            let rows = self.tensors[id as usize].shape.first().copied().unwrap_or(0);
            match self.companion(module, "weight_scale") {
                // Packed INT4 has two rows of the weight in each stored one.
                Some(scale) if self.tensors[scale as usize].shape.first() != Some(&rows) => {
                    self.refuse(id, module, INT8_OFFSET, &companions);
                }
                Some(_) => {
                    self.out[offset as usize] = Encoding::OffsetOf { codes: id };
                    return self.scaled(id, module, &["weight_scale"]);
                }
                None => self.refuse(id, module, MISSING_SCALE, &companions),
            }
        } else if self.companion(module, "weight_zero_point").is_some()
            || self.groups(Dtype::I8).any(|g| !g.symmetric)
        {
            self.refuse(id, module, INT8_ASYMMETRIC, &companions);
        } else if self.narrower_than_8_bits() {
            self.refuse(id, module, INT4_IN_I8, &companions);
        } else if self.companion(module, "weight_scale").is_some() {
            return self.scaled(id, module, &["weight_scale"]);
        } else if self.tensors[id as usize].shape.len() == 2 {
            self.refuse(id, module, MISSING_SCALE, &[]);
        }
        Ok(())
    }

    /// Pairs codes with the first of `params` that exists.
    fn scaled(&mut self, id: TensorId, module: &str, params: &[&'static str]) -> Result<()> {
        let found = params.iter().find_map(|p| Some((*p, self.companion(module, p)?)));
        let Some((param, scale)) = found else {
            self.refuse(id, module, MISSING_SCALE, &[]);
            return Ok(());
        };
        let (weight, grid) = (&self.tensors[id as usize], &self.tensors[scale as usize]);
        let [n, k] = weight.shape[..] else {
            self.refuse(id, module, RANK, &[param]);
            return Ok(());
        };
        if !matches!(grid.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F8E8M0 | Dtype::U8) {
            return Err(Error::input("scale-dtype", "a scale tensor has a dtype that no scale has")
                .tensor(&grid.name)
                .expected("F32, BF16, F16, F8_E8M0 or U8")
                .found(grid.dtype));
        }
        let (configured, guesses) = self.granularities(weight.dtype, param);
        let fits = |g: &Granularity| scale_fits(*g, n, k, &grid.shape);
        let granularity = if let Some(g) = configured.iter().copied().find(fits) {
            g
        } else if let Some(g) = guesses.iter().copied().find(fits).filter(|_| configured.is_empty()) {
            if matches!(g, Granularity::Block { .. }) {
                self.inferred += 1;
            }
            g
        } else if param == "scale" && scale_fits(Granularity::Block { rows: 1, cols: 32 }, n, k, &grid.shape)
        {
            // DeepSeek-V4.1's Engram tables beside 32x32 blocks.
            self.refuse(id, module, "FP8 with 1x32 scales beside another block size", &[param]);
            return Ok(());
        } else {
            let options = if configured.is_empty() { guesses } else { configured };
            let expected: Vec<String> = options.iter().map(|g| format!("{:?} ({g})", g.grid(n, k))).collect();
            return Err(Error::input("scale-grid", "the shape of a scale tensor does not fit its weight")
                .tensor(&grid.name)
                .expected(format!("{} for {n}x{k}", expected.join(" or ")))
                .found(format!("{:?}", grid.shape))
                .fix("check weight_block_size in config.json; fetch the checkpoint again if it is right"));
        };
        let scheme = Scheme { element: weight.dtype, granularity, scale: grid.dtype, rule: Rule::Given, packing: Packing::Plain };
        self.out[id as usize] = Encoding::Codes { scale, scheme };
        self.out[scale as usize] = Encoding::ScaleOf { codes: id };
        Ok(())
    }

    /// Whether the config announces integers of fewer bits: they lie in INT8 containers with group scales.
    fn narrower_than_8_bits(&self) -> bool {
        let groups = self.quantization.map_or(&[][..], |q| &q.groups);
        let mut integers = groups.iter().filter(|g| g.kind == "int").peekable();
        integers.peek().is_some() && integers.all(|g| g.bits.is_some_and(|bits| bits < 8))
    }

    /// Config groups whose weights have 8-bit codes of `element`'s kind.
    fn groups(&self, element: Dtype) -> impl Iterator<Item = &WeightGroup> {
        let kind = if element == Dtype::I8 { "int" } else { "float" };
        let groups = self.quantization.map_or(&[][..], |q| &q.groups);
        groups.iter().filter(move |g| g.kind == kind && g.bits == Some(8))
    }

    /// What the config says about granularity, and what is tried when it says nothing.
    fn granularities(&self, element: Dtype, param: &str) -> (Vec<Granularity>, Vec<Granularity>) {
        let block = |[rows, cols]: [u32; 2]| Granularity::Block { rows, cols };
        let mut configured: Vec<Granularity> =
            self.quantization.and_then(|q| q.block).map(block).into_iter().collect();
        if param != "weight_scale" {
            return (configured, vec![Granularity::Tensor, block([128, 128])]);
        }
        for group in self.groups(element) {
            configured.extend(match group.strategy.as_str() {
                "tensor" => Some(Granularity::Tensor),
                "channel" => Some(Granularity::Channel),
                "block" => group.block.map(block),
                "group" => group.group_size.map(|cols| block([1, cols])),
                _ => None,
            });
        }
        (configured, vec![Granularity::Tensor, Granularity::Channel])
    }
}

fn unsupported(what: &'static str) -> Encoding {
    Encoding::Unsupported { what: Cow::Borrowed(what) }
}

/// Whether `shape` is the scale grid of an `[n, k]` weight.
fn scale_fits(granularity: Granularity, n: u64, k: u64, shape: &[u64]) -> bool {
    match granularity {
        Granularity::Tensor => matches!(shape, [] | [1]),
        Granularity::Channel | Granularity::Row => shape == [n, 1] || shape == [n],
        Granularity::Block { .. } => shape == granularity.grid(n, k),
    }
}

#[cfg(test)]
#[path = "encoding_tests.rs"]
mod tests;
