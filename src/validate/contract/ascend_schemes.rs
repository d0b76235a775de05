//! The schemes that vllm-ascend registers, and the tensors that msmodelslim writes for them.
//!
//! VA `quantization/methods/*.py` (`register_scheme`) at 182b75ea; MS `save/ascendv1.py` at 3de0a3c4.

use crate::dtype::Dtype;

/// Which modules a scheme exists for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Both,
    Linear,
    Experts,
}

/// Which Ascend generation a scheme needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Chip {
    Any,
    A5,
    P310,
}

/// How a weight `[n, k]` lies on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pack {
    Whole,
    HalfRows,
    HalfColumns,
    Words,
    Free,
}

/// Shape of a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `[n, 1]`.
    Column,
    /// `[n]`.
    Rows,
    /// `[1]`.
    One,
    /// `[n, ceil(k / 32)]`.
    Per32,
    /// `[n, 1]`, `[n, 16]` for down projections.
    ScaleBias,
    /// Anything.
    Free,
}

/// Name, element types and shape of a parameter.
pub(super) type Parameter = (&'static str, &'static [Dtype], Shape);

/// A scheme that the engine registers.
pub(super) struct Scheme {
    /// The tag in a description.
    pub(super) tag: &'static str,
    /// Modules that it exists for.
    pub(super) kinds: For,
    /// Generation that it needs.
    pub(super) chip: Chip,
    /// Element types of the weight.
    pub(super) weight: &'static [Dtype],
    /// How the weight lies.
    pub(super) pack: Pack,
    /// What lies beside it.
    pub(super) parameters: &'static [Parameter],
}

/// The element type of most parameters.
pub(super) const F32: &[Dtype] = &[Dtype::F32];
const U8: &[Dtype] = &[Dtype::U8];
const I8: &[Dtype] = &[Dtype::I8];
const F8: &[Dtype] = &[Dtype::F8E4M3];
const SYMMETRIC: &[Parameter] =
    &[("weight_scale", F32, Shape::Column), ("weight_offset", F32, Shape::Column)];
const STATIC: &[Parameter] = &[
    ("quant_bias", &[Dtype::I32], Shape::Rows),
    ("input_scale", F32, Shape::One),
    ("input_offset", F32, Shape::One),
    ("deq_scale", &[Dtype::F32, Dtype::I64], Shape::Rows),
];
const MIX: &[Parameter] = &[STATIC[0], STATIC[1], STATIC[2], STATIC[3], SYMMETRIC[0], SYMMETRIC[1]];
const MX: &[Parameter] = &[("weight_scale", U8, Shape::Per32)];
const FLAT: Parameter = ("left_trans", &[Dtype::F32, Dtype::BF16, Dtype::F16], Shape::Free);

macro_rules! schemes {
    ($($tag:literal $kinds:ident $chip:ident $weight:expr, $pack:ident $parameters:expr;)*) => {
        &[$(Scheme { tag: $tag, kinds: For::$kinds, chip: Chip::$chip, weight: $weight, pack: Pack::$pack, parameters: $parameters }),*]
    };
}

/// What the engine registers. `FLOAT` first.
pub(super) const SCHEMES: &[Scheme] = schemes! {
    "FLOAT" Both Any &[Dtype::BF16, Dtype::F16, Dtype::F32], Free &[];
    "W8A8_DYNAMIC" Both Any I8, Whole SYMMETRIC;
    "W8A8" Linear Any I8, Whole STATIC;
    "W8A8_MIX" Linear Any I8, Whole MIX;
    "W8A16" Linear Any I8, Whole SYMMETRIC;
    "W4A8_DYNAMIC" Experts Any I8, HalfRows &[SYMMETRIC[0], SYMMETRIC[1], ("scale_bias", F32, Shape::ScaleBias)];
    "W4A16" Experts Any &[Dtype::I32], Words &[("weight_scale", &[Dtype::BF16, Dtype::F16, Dtype::F32], Shape::Free)];
    "W4A4_DYNAMIC" Linear Any I8, Whole SYMMETRIC;
    "W4A4_FLATQUANT_DYNAMIC" Linear Any I8, Whole &[SYMMETRIC[0], SYMMETRIC[1], FLAT];
    "W8A8FP8_DYNAMIC" Both A5 F8, Whole &[SYMMETRIC[0]];
    "W8A8_MXFP8" Both A5 F8, Whole MX;
    "W4A8_MXFP" Both A5 U8, HalfColumns MX;
    "W4A4_MXFP4" Both A5 U8, HalfColumns MX;
    "W4A16_MXFP4" Experts A5 U8, HalfColumns MX;
    "W4A4_MXFP4_FLATQUANT" Linear A5 U8, HalfColumns &[MX[0], FLAT];
    "W8A8S" Linear P310 I8, Free &[];
    "W8A8SC" Linear P310 I8, Free &[];
};

/// Tags by priority, low to high: `model_quant_type` is the highest one present. W4A8_DYNAMIC is never reported.
pub(super) const PRIORITY: &[&str] = &[
    "FLOAT",
    "W16A16S",
    "W8A16",
    "W8A8_DYNAMIC",
    "W8A8_MIX",
    "W8A8",
    "WFP8AFP8_DYNAMIC",
    "W8A8_MXFP8",
    "W4A8_MXFP",
    "W4A4_DYNAMIC",
    "W4A4_MXFP4",
    "W4A4_MXFP4_DUALSCALE",
    "W4A4_MXFP4_SVD",
];

/// The scheme called `tag`.
pub(super) fn scheme(tag: &str) -> Option<&'static Scheme> {
    SCHEMES.iter().find(|s| s.tag == tag)
}
