//! Element formats and their exact encodings.
//!
//! [`Dtype`] names an element format. [`codec`] converts codes to values and back, from the definition of the format
//! (spec: OCP OFP8 and MX v1.0, IEEE 754, arXiv 2409.16626 for HiF8). [`scheme`] says how a tensor of such elements is
//! scaled, [`packing`] how sub-byte codes lie in the dtypes that files have.

pub mod codec;
pub mod packing;
pub mod scheme;

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident $text:literal $safetensors:expr, $bits:literal;)*) => {
        /// An element format. The order is the order of the safetensors writer: a file holds its tensors by descending
        /// dtype, which is by descending alignment.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Dtype { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }

        impl Dtype {
            /// Every format, in order.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant),*];

            /// The name in plans and reports: lower case, unique.
            pub fn text(self) -> &'static str {
                match self { $(Dtype::$variant => $text),* }
            }

            /// The dtype string of a safetensors header; `None` for formats that files carry packed in another dtype.
            pub fn safetensors_name(self) -> Option<&'static str> {
                match self { $(Dtype::$variant => $safetensors),* }
            }

            /// Bits of one element.
            pub fn bits(self) -> u64 {
                match self { $(Dtype::$variant => $bits),* }
            }
        }
    };
}

dtypes! {
    /// Two's complement 2-bit integer, −2..=1.
    I2 "i2" None, 2;
    /// Two's complement 4-bit integer, −8..=7.
    I4 "i4" None, 4;
    /// Unsigned 4-bit integer.
    U4 "u4" None, 4;
    /// Huawei HiFloat8 (tapered precision).
    HiF8 "hif8" None, 8;
    /// One byte, 0 or 1.
    Bool "bool" Some("BOOL"), 8;
    /// FP4 E2M1.
    F4E2M1 "f4_e2m1" Some("F4"), 4;
    /// FP6 E2M3.
    F6E2M3 "f6_e2m3" Some("F6_E2M3"), 6;
    /// FP6 E3M2.
    F6E3M2 "f6_e3m2" Some("F6_E3M2"), 6;
    /// Unsigned byte; also the container of packed formats.
    U8 "u8" Some("U8"), 8;
    /// Two's complement byte.
    I8 "i8" Some("I8"), 8;
    /// FP8 E5M2 (infinities, NaNs).
    F8E5M2 "f8_e5m2" Some("F8_E5M2"), 8;
    /// FP8 E4M3FN (no infinities, NaN 0x7F and 0xFF).
    F8E4M3 "f8_e4m3" Some("F8_E4M3"), 8;
    /// E8M0 scale: 2^(code − 127), 0xFF is NaN.
    F8E8M0 "f8_e8m0" Some("F8_E8M0"), 8;
    /// FP8 E4M3FNUZ (NaN 0x80, no −0).
    F8E4M3Fnuz "f8_e4m3fnuz" Some("F8_E4M3FNUZ"), 8;
    /// FP8 E5M2FNUZ (NaN 0x80, no −0).
    F8E5M2Fnuz "f8_e5m2fnuz" Some("F8_E5M2FNUZ"), 8;
    /// 16-bit integer.
    I16 "i16" Some("I16"), 16;
    /// Unsigned 16-bit integer.
    U16 "u16" Some("U16"), 16;
    /// IEEE binary16.
    F16 "f16" Some("F16"), 16;
    /// bfloat16.
    BF16 "bf16" Some("BF16"), 16;
    /// 32-bit integer.
    I32 "i32" Some("I32"), 32;
    /// Unsigned 32-bit integer.
    U32 "u32" Some("U32"), 32;
    /// IEEE binary32.
    F32 "f32" Some("F32"), 32;
    /// Complex of two binary32.
    C64 "c64" Some("C64"), 64;
    /// IEEE binary64.
    F64 "f64" Some("F64"), 64;
    /// 64-bit integer.
    I64 "i64" Some("I64"), 64;
    /// Unsigned 64-bit integer.
    U64 "u64" Some("U64"), 64;
}

impl Dtype {
    /// The format of a safetensors dtype string.
    pub fn from_safetensors_name(name: &str) -> Option<Dtype> {
        Self::ALL.iter().copied().find(|d| d.safetensors_name() == Some(name))
    }

    /// The format of a plan's dtype text.
    pub fn from_text(text: &str) -> Option<Dtype> {
        Self::ALL.iter().copied().find(|d| d.text() == text)
    }

    /// The name in golden sets: the safetensors dtype string, `U4`, `I4`, `I2` or `HIF8` where that format has none.
    pub fn golden_name(self) -> &'static str {
        match self {
            Dtype::I2 => "I2",
            Dtype::I4 => "I4",
            Dtype::U4 => "U4",
            Dtype::HiF8 => "HIF8",
            _ => self.safetensors_name().unwrap_or_else(|| self.text()),
        }
    }

    /// Bytes of `elements` packed elements, `None` on overflow or when they do not fill whole bytes.
    pub fn byte_len(self, elements: u64) -> Option<u64> {
        let bits = elements.checked_mul(self.bits())?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Whether values of this format are floating-point weights that a scheme can quantize directly.
    pub fn is_plain_float(self) -> bool {
        matches!(self, Dtype::F16 | Dtype::BF16 | Dtype::F32)
    }

    /// Whether the elements are integers.
    pub fn is_integer(self) -> bool {
        use Dtype::{I2, I4, I8, I16, I32, I64, U4, U8, U16, U32, U64};
        matches!(self, I2 | I4 | I8 | I16 | I32 | I64 | U4 | U8 | U16 | U32 | U64)
    }

    /// The dtype as torch spells it in `config.json` (`torch_dtype`), for the formats a model can compute in.
    pub fn torch_name(self) -> Option<&'static str> {
        match self {
            Dtype::F16 => Some("float16"),
            Dtype::BF16 => Some("bfloat16"),
            Dtype::F32 => Some("float32"),
            _ => None,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
