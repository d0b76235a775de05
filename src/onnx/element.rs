//! Element types of ONNX tensors and how their bytes are packed.
//!
//! Numbers are those of `TensorProto.DataType` (onnx.proto3, release 1.23.2). Types narrower than a byte are packed over
//! the whole tensor, first element in the low bits: 4-bit two per byte, 2-bit four per byte, 6-bit as one LSB-first bit
//! stream; the last byte is padded with zeros.

use crate::dtype::Dtype;
use std::fmt;

macro_rules! elements {
    ($($(#[$doc:meta])* $variant:ident $code:literal $name:literal $bits:literal $dtype:expr;)*) => {
        /// The element type of a tensor.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Element { $($(#[$doc])* $variant,)* }

        impl Element {
            /// Every type, by its number.
            pub const ALL: &'static [Element] = &[$(Element::$variant),*];

            /// The number in `TensorProto.data_type`.
            pub fn code(self) -> i32 {
                match self { $(Element::$variant => $code),* }
            }

            /// The name in `TensorProto.DataType`.
            pub fn name(self) -> &'static str {
                match self { $(Element::$variant => $name),* }
            }

            /// Bits of one element; 0 for strings, which have no fixed size.
            pub fn bits(self) -> u64 {
                match self { $(Element::$variant => $bits),* }
            }

            /// The format of the crate's codecs, where it has one.
            pub fn dtype(self) -> Option<Dtype> {
                match self { $(Element::$variant => $dtype),* }
            }
        }
    };
}

elements! {
    /// IEEE binary32.
    F32 1 "FLOAT" 32 Some(Dtype::F32);
    /// Unsigned byte.
    U8 2 "UINT8" 8 Some(Dtype::U8);
    /// Two's complement byte.
    I8 3 "INT8" 8 Some(Dtype::I8);
    /// Unsigned 16-bit integer.
    U16 4 "UINT16" 16 Some(Dtype::U16);
    /// 16-bit integer.
    I16 5 "INT16" 16 Some(Dtype::I16);
    /// 32-bit integer.
    I32 6 "INT32" 32 Some(Dtype::I32);
    /// 64-bit integer.
    I64 7 "INT64" 64 Some(Dtype::I64);
    /// UTF-8 text.
    String 8 "STRING" 0 None;
    /// One byte, 0 or 1.
    Bool 9 "BOOL" 8 Some(Dtype::Bool);
    /// IEEE binary16.
    F16 10 "FLOAT16" 16 Some(Dtype::F16);
    /// IEEE binary64.
    F64 11 "DOUBLE" 64 Some(Dtype::F64);
    /// Unsigned 32-bit integer.
    U32 12 "UINT32" 32 Some(Dtype::U32);
    /// Unsigned 64-bit integer.
    U64 13 "UINT64" 64 Some(Dtype::U64);
    /// Complex of two binary32.
    C64 14 "COMPLEX64" 64 Some(Dtype::C64);
    /// Complex of two binary64.
    C128 15 "COMPLEX128" 128 None;
    /// bfloat16.
    BF16 16 "BFLOAT16" 16 Some(Dtype::BF16);
    /// FP8 E4M3FN.
    F8E4M3 17 "FLOAT8E4M3FN" 8 Some(Dtype::F8E4M3);
    /// FP8 E4M3FNUZ.
    F8E4M3Fnuz 18 "FLOAT8E4M3FNUZ" 8 Some(Dtype::F8E4M3Fnuz);
    /// FP8 E5M2.
    F8E5M2 19 "FLOAT8E5M2" 8 Some(Dtype::F8E5M2);
    /// FP8 E5M2FNUZ.
    F8E5M2Fnuz 20 "FLOAT8E5M2FNUZ" 8 Some(Dtype::F8E5M2Fnuz);
    /// Unsigned 4-bit integer.
    U4 21 "UINT4" 4 Some(Dtype::U4);
    /// Two's complement 4-bit integer.
    I4 22 "INT4" 4 Some(Dtype::I4);
    /// FP4 E2M1.
    F4E2M1 23 "FLOAT4E2M1" 4 Some(Dtype::F4E2M1);
    /// E8M0 scale.
    F8E8M0 24 "FLOAT8E8M0" 8 Some(Dtype::F8E8M0);
    /// Unsigned 2-bit integer.
    U2 25 "UINT2" 2 None;
    /// Two's complement 2-bit integer.
    I2 26 "INT2" 2 Some(Dtype::I2);
    /// FP6 E2M3.
    F6E2M3 27 "FLOAT6E2M3" 6 Some(Dtype::F6E2M3);
    /// FP6 E3M2.
    F6E3M2 28 "FLOAT6E3M2" 6 Some(Dtype::F6E3M2);
}

impl Element {
    /// The type of a number in `TensorProto.data_type`; `None` for 0 (undefined) and for later additions.
    pub fn from_code(code: i32) -> Option<Element> {
        Self::ALL.iter().copied().find(|e| e.code() == code)
    }

    /// Bytes of `count` packed elements, `None` on overflow and for strings.
    pub fn packed_len(self, count: usize) -> Option<usize> {
        let bits = u128::from(self.bits()) * count as u128;
        if self == Element::String { None } else { usize::try_from(bits.div_ceil(8)).ok() }
    }

    /// Whether elements are codes of at most 8 bits that only a codec can read: FP8, FP6, FP4, E8M0 and the 2- and 4-bit
    /// integers. The evaluator keeps them as one byte per element.
    pub fn is_code(self) -> bool {
        self.code() >= Element::F8E4M3.code()
    }

    /// Floating point of any width, E8M0 included.
    pub fn is_float(self) -> bool {
        use Element::{
            BF16, F4E2M1, F6E2M3, F6E3M2, F8E4M3, F8E4M3Fnuz, F8E5M2, F8E5M2Fnuz, F8E8M0, F16, F32, F64,
        };
        matches!(
            self,
            F32 | F64
                | F16
                | BF16
                | F8E4M3
                | F8E4M3Fnuz
                | F8E5M2
                | F8E5M2Fnuz
                | F8E8M0
                | F4E2M1
                | F6E2M3
                | F6E3M2
        )
    }

    /// The least and largest value of an integer type.
    pub fn integer_range(self) -> Option<(i128, i128)> {
        use Element::{I2, I4, I8, I16, I32, I64, U2, U4, U8, U16, U32, U64};
        match self {
            I2 | I4 | I8 | I16 | I32 | I64 => {
                Some((-(1i128 << (self.bits() - 1)), (1i128 << (self.bits() - 1)) - 1))
            }
            U2 | U4 | U8 | U16 | U32 | U64 => Some((0, (1i128 << self.bits()) - 1)),
            _ => None,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Unpacks `count` codes of `bits` (2, 4, 6 or 8) bits, one byte each, right-aligned. Missing bytes read as 0.
pub fn unpack(bytes: &[u8], bits: u64, count: usize) -> Vec<u8> {
    let at = |i: usize| u16::from(bytes.get(i).copied().unwrap_or(0));
    let mask = ((1u16 << bits) - 1) as u8;
    let bits = bits as usize;
    (0..count)
        .map(|i| {
            let bit = i * bits;
            let word = at(bit / 8) | at(bit / 8 + 1) << 8;
            (word >> (bit % 8)) as u8 & mask
        })
        .collect()
}

/// Packs codes of `bits` (2, 4, 6 or 8) bits, given as one byte each.
pub fn pack(codes: &[u8], bits: u64) -> Vec<u8> {
    if bits == 8 {
        return codes.to_vec();
    }
    let width = bits as usize;
    let mask = (1u16 << bits) - 1;
    let mut out = vec![0u8; (codes.len() * width).div_ceil(8)];
    for (i, code) in codes.iter().enumerate() {
        let bit = i * width;
        let word = (u16::from(*code) & mask) << (bit % 8);
        for (byte, part) in out.iter_mut().skip(bit / 8).zip(word.to_le_bytes()) {
            *byte |= part;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_codes_come_back() {
        for bits in [2u64, 4, 6, 8] {
            for count in [0usize, 1, 2, 3, 4, 5, 7, 64] {
                let codes: Vec<u8> =
                    (0..count).map(|i| ((i * 37 + 11) as u64 & ((1 << bits) - 1)) as u8).collect();
                let packed = pack(&codes, bits);
                assert_eq!(packed.len(), (count * bits as usize).div_ceil(8));
                assert_eq!(unpack(&packed, bits, count), codes);
            }
        }
        // The layouts that onnx.proto3 draws.
        assert_eq!(pack(&[1, 2, 3], 4), [0x21, 0x03]);
        assert_eq!(pack(&[0, 1, 2, 3, 1], 2), [0b11_10_01_00, 0b01]);
        assert_eq!(pack(&[1, 2, 3, 4], 6), [0x81, 0x30, 0x10]);
    }

    #[test]
    fn numbers_are_dense_and_the_schemas() {
        for (i, element) in Element::ALL.iter().enumerate() {
            assert_eq!(element.code(), i as i32 + 1);
            assert_eq!(Element::from_code(element.code()), Some(*element));
            assert_eq!(
                <crate::onnx_protobuf::tensor_proto::DataType as protobuf::Enum>::VALUES[i + 1..][..1]
                    .iter()
                    .map(|d| format!("{d:?}"))
                    .collect::<String>(),
                element.name()
            );
        }
    }
}
