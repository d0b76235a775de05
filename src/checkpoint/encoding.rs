//! How each tensor of a source is stored: plain, codes with a scale tensor, or in a way that this version cannot decode.
//!
//! Names and dtypes decide what a tensor is, the configuration says how big a block is. A block size is never derived
//! by dividing shapes: 576 rows with 5 scale rows are blocks of 128 with a ragged tail, not blocks of 115.

use super::config::{Quantization, WeightGroup};
use super::name::split;
use super::stored::{Global, Stored};
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
    Codes(Stored),
    /// Scales, zero points, a global scale or the order of the groups of another tensor.
    ScaleOf {
        /// The tensor that holds the codes.
        codes: TensorId,
    },
    /// Belongs to another tensor's codes and says nothing that headers and configuration do not: shapes, neutral
    /// smoothing factors, zero points of a symmetric scheme, sums that engines precompute.
    Redundant {
        /// The tensor that holds the codes.
        codes: TensorId,
        /// What it is, for people.
        what: &'static str,
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

const PACKED_INT: &str = "packed integers whose scales fit no group of the configuration";
const PACKED_FP4: &str = "packed FP4 whose scales fit neither MXFP4 nor NVFP4";
const GPTQ: &str = "GPTQ or AWQ in a layout that is not 4 or 8 bits";
const BNB: &str = "bitsandbytes";
const NO_ZEROS: &str = "asymmetric integers without zero points";
const RANK: &str = "quantized tensor that is no matrix";
const SUB_BYTE: &str = "sub-byte floats without scales";
const F8_OTHER: &str = "FP8 other than E4M3FN";
pub(super) const INT8_OFFSET: &str = "INT8 with offsets";
const SHAPE: &str = "the shape of a packed weight, which the header tells";
const NEUTRAL: &str = "a smoothing factor of ones";
const SUMS: &str = "sums that one engine precomputes";
const OFFSETS: &str = "offsets of a symmetric scheme";

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
            ("weight" | "weight_packed", Dtype::U8 | Dtype::F4E2M1) => {
                self.fp4(id, module);
                Ok(())
            }
            ("weight_packed", Dtype::I32) => {
                self.packed_integers(id, module);
                Ok(())
            }
            ("qweight", Dtype::I32) => {
                self.gptq_or_awq(id, module);
                Ok(())
            }
            ("qweight", Dtype::I8) => {
                self.smoothquant(id, module);
                Ok(())
            }
            (_, Dtype::U8) if param.ends_with("_blocks") => {
                let scales = format!("{}_scales", param.trim_end_matches("_blocks"));
                self.grouped(id, module, &scales, Packing::Blocks, &[Dtype::U8], PACKED_FP4);
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
            (
                "weight_scale_inv"
                | "weight_scale"
                | "weight_scale_2"
                | "weight_zero_point"
                | "weight_global_scale",
                _,
            ) => ORPHAN_SCALE,
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

    /// Marks `companion` of `module`, where it exists, as something that the codes `id` can do without.
    fn claim(&mut self, id: TensorId, module: &str, companion: &str, what: &'static str) {
        if let Some(found) = self.companion(module, companion) {
            self.out[found as usize] = Encoding::Redundant { codes: id, what };
        }
    }

    /// Marks `id` as codes with scales, and whatever belongs to them.
    fn mark(&mut self, stored: Stored) {
        for part in stored.tensors() {
            self.out[part as usize] = Encoding::ScaleOf { codes: stored.codes };
        }
        self.out[stored.codes as usize] = Encoding::Codes(stored);
    }

    /// `[N, K]` of the weight whose codes are packed in tensor `id`.
    fn logical(&self, id: TensorId, packing: Packing, element: Dtype) -> Option<[u64; 2]> {
        let shape = packing.logical(element, &self.tensors[id as usize].shape)?;
        let (k, outer) = shape.split_last()?;
        let n = outer.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
        (!outer.is_empty()).then_some([n, *k])
    }

    /// FP4 codes in groups of 32 with exponent bytes in the tensor `param`, packed as said.
    fn grouped(
        &mut self,
        id: TensorId,
        module: &str,
        param: &str,
        packing: Packing,
        scales: &[Dtype],
        otherwise: &'static str,
    ) -> bool {
        let group = Granularity::Block { rows: 1, cols: 32 };
        let shape = self.logical(id, packing, Dtype::F4E2M1);
        if let (Some([n, k]), Some(scale)) = (shape, self.companion(module, param)) {
            let grid = &self.tensors[scale as usize];
            let count = grid.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
            let wanted = group.grid(n, k);
            if scales.contains(&grid.dtype)
                && k.is_multiple_of(32)
                && count == wanted[0].checked_mul(wanted[1])
                && grid.shape.last() == Some(&wanted[1])
            {
                let scheme = given(Dtype::F4E2M1, group, grid.dtype, packing);
                self.mark(Stored::new(id, scale, scheme));
                self.claim(id, module, "weight_shape", SHAPE);
                return true;
            }
        }
        if !otherwise.is_empty() {
            self.refuse(id, module, otherwise, &[param]);
        }
        false
    }

    /// MXFP4 or NVFP4 in pairs, or as safetensors' own F4.
    fn fp4(&mut self, id: TensorId, module: &str) {
        let tensor = &self.tensors[id as usize];
        let packing = if tensor.dtype == Dtype::F4E2M1 { Packing::Plain } else { Packing::Pairs };
        let scales = ["weight_scale", "scale", "weight_scale_inv"];
        let Some(param) = scales.iter().find(|p| self.companion(module, p).is_some()) else { return };
        let global = [("weight_global_scale", true), ("weight_scale_2", false)]
            .into_iter()
            .find_map(|(name, divides)| Some((self.companion(module, name)?, divides)));
        let Some((global, divides)) = global else {
            self.grouped(id, module, param, packing, &[Dtype::U8, Dtype::F8E8M0], PACKED_FP4);
            return;
        };
        let group = Granularity::Block { rows: 1, cols: 16 };
        let (shape, scale) = (self.logical(id, packing, Dtype::F4E2M1), self.companion(module, param));
        let fits = |[n, k]: [u64; 2], grid: &TensorInfo| {
            k.is_multiple_of(16) && grid.dtype == Dtype::F8E4M3 && grid.shape[..] == group.grid(n, k)
        };
        match (shape, scale) {
            (Some(shape), Some(scale)) if fits(shape, &self.tensors[scale as usize]) => {
                let scheme = given(Dtype::F4E2M1, group, Dtype::F8E4M3, packing);
                let factor = if divides { Global::Divisor(global) } else { Global::Multiplier(global) };
                self.mark(Stored { global: Some(factor), ..Stored::new(id, scale, scheme) });
                self.claim(id, module, "weight_shape", SHAPE);
            }
            _ => self.refuse(id, module, PACKED_FP4, &[param, "weight_global_scale", "weight_scale_2"]),
        }
    }

    /// Integers of a few bits in I32, as compressed-tensors packs them.
    fn packed_integers(&mut self, id: TensorId, module: &str) {
        const PARTS: [&str; 4] = ["weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"];
        let scale = self.companion(module, "weight_scale");
        let groups = self.quantization.map_or(&[][..], |q| &q.groups);
        let candidates = groups.iter().filter(|g| g.kind == "int").filter_map(|g| {
            let element = integer(g.bits?)?;
            let granularity = match (g.strategy.as_str(), g.group_size) {
                ("group", Some(cols)) => Granularity::Block { rows: 1, cols },
                ("channel", _) => Granularity::Channel,
                ("", Some(cols)) => Granularity::Block { rows: 1, cols },
                _ => return None,
            };
            Some((element, granularity))
        });
        let found = candidates.into_iter().find_map(|(element, granularity)| {
            let [n, k] = self.logical(id, Packing::Int32, element)?;
            let grid = &self.tensors[scale? as usize];
            let float = grid.dtype.is_plain_float();
            let whole = granularity.group().is_none_or(|g| k.is_multiple_of(g.into()));
            (float && whole && scale_fits(granularity, n, k, &grid.shape))
                .then_some((given(element, granularity, grid.dtype, Packing::Int32), [n, k]))
        });
        let (Some((scheme, [n, k])), Some(scale)) = (found, scale) else {
            self.refuse(id, module, PACKED_INT, &PARTS);
            return;
        };
        let zero = self.companion(module, "weight_zero_point");
        if zero.is_none() && groups.iter().any(|g| g.kind == "int" && !g.symmetric) {
            self.refuse(id, module, NO_ZEROS, &PARTS);
            return;
        }
        if let Some(zero) = zero {
            let (dtype, shape) = scheme.stored_zeros(n, k);
            let tensor = &self.tensors[zero as usize];
            if tensor.dtype != dtype || tensor.shape[..] != shape[..] {
                self.refuse(id, module, PACKED_INT, &PARTS);
                return;
            }
        }
        let order = self.companion(module, "weight_g_idx");
        self.mark(Stored { zero, order, ..Stored::new(id, scale, scheme) });
        self.claim(id, module, "weight_shape", SHAPE);
    }

    /// GPTQ, or AWQ's `gemm`, as the configuration says.
    fn gptq_or_awq(&mut self, id: TensorId, module: &str) {
        const PARTS: [&str; 3] = ["qzeros", "scales", "g_idx"];
        let json = self.quantization.map(|q| &q.json);
        let number =
            |keys: &[&str]| keys.iter().find_map(|k| json?.get(*k)).and_then(serde_json::Value::as_i64);
        let method = self.quantization.map_or("", |q| q.method.as_str());
        let text = |key: &str| json.and_then(|j| j.get(key)).and_then(serde_json::Value::as_str);
        let awq = method.contains("awq");
        let v2 = [text("checkpoint_format"), text("format")].contains(&Some("gptq_v2"));
        let packing = match (awq, v2) {
            (true, _) => Packing::Awq,
            (false, true) => Packing::GptqV2,
            (false, false) => Packing::Gptq,
        };
        let bits = number(&["bits", "w_bit"]).unwrap_or(4);
        let element =
            u64::try_from(bits).ok().and_then(integer).filter(|e| e.bits() == 4 || !awq && e.bits() == 8);
        let scale = self.companion(module, "scales");
        let shape = element.and_then(|e| self.logical(id, packing, e));
        let (Some(element), Some([n, k]), Some(scale)) = (element, shape, scale) else {
            self.refuse(id, module, GPTQ, &PARTS);
            return;
        };
        let grid = &self.tensors[scale as usize];
        let groups = grid.shape.first().copied().unwrap_or(0);
        let size = match number(&["group_size", "q_group_size"]) {
            Some(size) if size > 0 => u64::try_from(size).unwrap_or(k),
            _ => k,
        };
        let granularity = Granularity::Block { rows: 1, cols: u32::try_from(size).unwrap_or(u32::MAX) };
        let fits =
            grid.shape[..] == [groups, n] && groups == k.div_ceil(size.max(1)) && grid.dtype.is_plain_float();
        let scheme = given(element, granularity, grid.dtype, packing);
        let zero = self.companion(module, "qzeros");
        let zeros_fit = zero.is_none_or(|zero| {
            let (dtype, shape) = scheme.stored_zeros(n, k);
            let tensor = &self.tensors[zero as usize];
            tensor.dtype == dtype && tensor.shape[..] == shape[..]
        });
        if !fits || !zeros_fit {
            self.refuse(id, module, GPTQ, &PARTS);
            return;
        }
        // With activation order a column's group is stored; without it the index says what everybody knows.
        let reordered =
            json.and_then(|j| j.get("desc_act")).and_then(serde_json::Value::as_bool).unwrap_or(false);
        let symmetric = json.and_then(|j| j.get("sym")).and_then(serde_json::Value::as_bool).unwrap_or(false);
        self.claim(id, module, "g_idx", "groups in their natural order");
        self.claim(id, module, "qzeros", "zero points of a symmetric scheme");
        let order = self.companion(module, "g_idx").filter(|_| reordered);
        let zero = zero.filter(|_| awq || !symmetric);
        self.mark(Stored { zero, order, ..Stored::new(id, scale, scheme) });
    }

    /// Cambricon's SmoothQuant: INT8 with a scale per row, or INT4 pairs in groups.
    fn smoothquant(&mut self, id: TensorId, module: &str) {
        let tensor = &self.tensors[id as usize];
        let scale = self.companion(module, "per_channel_scale");
        let found = scale.and_then(|scale| {
            let grid = &self.tensors[scale as usize];
            let [n, stored] = tensor.shape[..] else { return None };
            if grid.shape[..] == [n] {
                return Some(given(Dtype::I8, Granularity::Row, grid.dtype, Packing::Plain));
            }
            let [rows, groups] = grid.shape[..] else { return None };
            let k = stored.checked_mul(2)?;
            let cols = u32::try_from(k.checked_div(groups)?).ok().filter(|g| *g > 0)?;
            let whole = rows == n && u64::from(cols) * groups == k && grid.dtype == Dtype::F32;
            let granularity = Granularity::Block { rows: 1, cols };
            whole.then(|| given(Dtype::I4, granularity, grid.dtype, Packing::PairsI8))
        });
        match (found, scale) {
            (Some(scheme), Some(scale)) => {
                self.mark(Stored::new(id, scale, scheme));
                self.claim(id, module, "smooth", NEUTRAL);
            }
            _ => self.refuse(id, module, MISSING_SCALE, &["per_channel_scale", "smooth"]),
        }
    }

    fn int8(&mut self, id: TensorId, module: &str) -> Result<()> {
        const PARTS: [&str; 5] =
            ["weight_scale", "weight_offset", "weight_zero_point", "scale", "scale_bias"];
        let exponents = [Dtype::F8E8M0, Dtype::U8];
        if self.grouped(id, module, "scale", Packing::PairsI8, &exponents, "") {
            return Ok(());
        }
        let scale = ["weight_scale", "scale"].into_iter().find_map(|p| Some((p, self.companion(module, p)?)));
        let shape = self.tensors[id as usize].shape.clone();
        let Some((param, scale)) = scale else {
            if self.companion(module, "weight_scale_inv").is_some() {
                return self.scaled(id, module, &["weight_scale_inv"]);
            }
            if shape.len() == 2 {
                self.refuse(id, module, MISSING_SCALE, &PARTS);
            }
            return Ok(());
        };
        let grid = &self.tensors[scale as usize];
        let rows = shape.first().copied().unwrap_or(0);
        if self.companion(module, "weight_offset").is_some() {
            // AscendV1 stores offsets beside every scale, zero where the scheme is symmetric. Packed INT4 has two rows
            // of the weight in each stored one.
            if grid.shape.first() == Some(&rows.saturating_mul(2))
                && shape.len() == 2
                && grid.shape.len() == 2
            {
                let scheme = given(Dtype::I4, Granularity::Channel, grid.dtype, Packing::RowPairs);
                if grid.shape[1] != 1 || !grid.dtype.is_plain_float() {
                    self.refuse(id, module, INT8_OFFSET, &PARTS);
                    return Ok(());
                }
                self.mark(Stored::new(id, scale, scheme));
                self.claim(id, module, "weight_offset", OFFSETS);
                self.claim(id, module, "scale_bias", SUMS);
                return Ok(());
            }
            if grid.shape.first() != Some(&rows) {
                self.refuse(id, module, INT8_OFFSET, &PARTS);
                return Ok(());
            }
            if let Some(offset) = self.companion(module, "weight_offset") {
                self.out[offset as usize] = Encoding::OffsetOf { codes: id };
            }
            return self.scaled(id, module, &["weight_scale"]);
        }
        let expert = module.contains(".experts.");
        if self.quantization.is_some_and(|q| q.method.starts_with("slimquant")) && expert && shape.len() == 2
        {
            if grid.shape[..] != [rows, 1] || grid.dtype != Dtype::F32 {
                self.refuse(id, module, INT8_OFFSET, &PARTS);
                return Ok(());
            }
            let scheme = given(Dtype::I4, Granularity::Channel, Dtype::F32, Packing::SlimQuant);
            self.mark(Stored::new(id, scale, scheme));
            return Ok(());
        }
        if self.narrower_than_8_bits() {
            return self.int4_in_bytes(id, module, scale);
        }
        if self.companion(module, "weight_zero_point").is_none()
            && self.groups(Dtype::I8).any(|g| !g.symmetric)
        {
            self.refuse(id, module, NO_ZEROS, &PARTS);
            return Ok(());
        }
        self.scaled(id, module, &[param])?;
        if let Some(zero) = self.companion(module, "weight_zero_point")
            && let Encoding::Codes(stored) = &mut self.out[id as usize]
        {
            let (dtype, shape) = match shape[..] {
                [n, k] => stored.scheme.stored_zeros(n, k),
                _ => (Dtype::I8, Vec::new()),
            };
            let tensor = &self.tensors[zero as usize];
            if tensor.dtype == dtype && tensor.shape.iter().product::<u64>() == shape.iter().product::<u64>()
            {
                stored.zero = Some(zero);
                self.out[zero as usize] = Encoding::ScaleOf { codes: id };
            } else {
                self.refuse(id, module, "asymmetric INT8 whose zero points have another shape", &PARTS);
            }
        }
        Ok(())
    }

    /// INT4 codes, one to a byte, in groups.
    fn int4_in_bytes(&mut self, id: TensorId, module: &str, scale: TensorId) -> Result<()> {
        let (shape, grid) = (&self.tensors[id as usize].shape, &self.tensors[scale as usize]);
        let groups = self.quantization.map_or(&[][..], |q| &q.groups);
        let found = match shape[..] {
            [n, k] => {
                groups.iter().filter(|g| g.kind == "int" && g.bits == Some(4) && g.symmetric).find_map(|g| {
                    let granularity = match g.group_size {
                        Some(cols) => Granularity::Block { rows: 1, cols },
                        None => Granularity::Channel,
                    };
                    scale_fits(granularity, n, k, &grid.shape).then_some(granularity)
                })
            }
            _ => None,
        };
        match found {
            Some(granularity) if grid.dtype.is_plain_float() => {
                let scheme = given(Dtype::I4, granularity, grid.dtype, Packing::Bytes);
                self.mark(Stored::new(id, scale, scheme));
                self.claim(id, module, "weight_shape", SHAPE);
            }
            _ => self.refuse(id, module, PACKED_INT, &["weight_scale", "weight_zero_point"]),
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
        let exponents = matches!(grid.dtype, Dtype::F8E8M0 | Dtype::U8);
        let granularity = if let Some(g) = configured.iter().copied().find(fits) {
            g
        } else if let Some(g) = guesses.iter().copied().find(fits).filter(|_| configured.is_empty()) {
            if matches!(g, Granularity::Block { .. }) {
                self.inferred += 1;
            }
            g
        } else if exponents && fits(&MX) {
            // MXFP8, and DeepSeek-V4.1's Engram tables beside 32x32 blocks.
            MX
        } else {
            let options = if configured.is_empty() { guesses } else { configured };
            let expected: Vec<String> = options.iter().map(|g| format!("{:?} ({g})", g.grid(n, k))).collect();
            return Err(Error::input("scale-grid", "the shape of a scale tensor does not fit its weight")
                .tensor(&grid.name)
                .expected(format!("{} for {n}x{k}", expected.join(" or ")))
                .found(format!("{:?}", grid.shape))
                .fix("check weight_block_size in config.json; fetch the checkpoint again if it is right"));
        };
        let scheme = given(weight.dtype, granularity, grid.dtype, Packing::Plain);
        self.mark(Stored::new(id, scale, scheme));
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
            return (configured, vec![Granularity::Tensor, block([128, 128]), block([32, 32])]);
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

/// Groups of the MX formats.
const MX: Granularity = Granularity::Block { rows: 1, cols: 32 };

/// A scheme whose scales came with the checkpoint.
fn given(element: Dtype, granularity: Granularity, scale: Dtype, packing: Packing) -> Scheme {
    Scheme { element, granularity, scale, rule: Rule::Given, packing }
}

/// The format of integers of so many bits.
fn integer(bits: u64) -> Option<Dtype> {
    match bits {
        4 => Some(Dtype::I4),
        8 => Some(Dtype::I8),
        _ => None,
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
