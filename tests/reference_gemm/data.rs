//! Input classes.

use silicast::dtype::Dtype;
use silicast::dtype::codec::{bf16_from_f32, decode, encode_saturating};
use silicast::kernel::reference::array::{Array, Arrays};
use xtask::rng::SplitMix64;

/// How codes are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Gaussian,
    SmallInt,
    AllCodes,
    /// The largest and the smallest magnitudes, both signs.
    Extremes,
    ZeroBlock,
    SignedZero,
    Outlier,
    /// One code in a few hundred is a NaN or an infinity, where the format has them.
    Special,
}

impl Class {
    pub(crate) const ALL: [(&'static str, Class); 8] = [
        ("gaussian", Class::Gaussian),
        ("small-int", Class::SmallInt),
        ("all-codes", Class::AllCodes),
        ("extremes", Class::Extremes),
        ("zero-block", Class::ZeroBlock),
        ("signed-zero", Class::SignedZero),
        ("outlier", Class::Outlier),
        ("special", Class::Special),
    ];
}

/// Codes of a matrix, one per byte.
pub(crate) fn codes(rng: &mut SplitMix64, class: Class, dtype: Dtype, [rows, cols]: [usize; 2]) -> Vec<u8> {
    let width = 1usize << dtype.bits();
    let finite: Vec<u8> =
        (0..width).filter(|c| decode(dtype, *c as u32).is_finite()).map(|c| c as u8).collect();
    let magnitude = |c: u8| decode(dtype, c.into()).abs();
    let largest = finite.iter().copied().max_by(|a, b| magnitude(*a).total_cmp(&magnitude(*b))).unwrap();
    let typical = match dtype {
        Dtype::F4E2M1 | Dtype::I4 | Dtype::U4 => 2.0,
        Dtype::I8 => 40.0,
        _ => 3.0,
    };
    let mut random = |spread: f32| encode_saturating(dtype, rng.gaussian() * spread) as u8;
    let mut out: Vec<u8> = (0..rows * cols).map(|_| random(typical)).collect();
    for (index, code) in out.iter_mut().enumerate() {
        match class {
            Class::Gaussian => {}
            Class::SmallInt => *code = encode_saturating(dtype, rng.below(17) as f32 - 8.0) as u8,
            Class::AllCodes => *code = finite[(index * 5 + index / cols) % finite.len()],
            Class::Extremes => {
                let magnitudes = [largest, largest, 1, 0];
                let sign = (rng.below(2) * width / 2) as u8;
                *code = magnitudes[rng.below(4)] ^ sign;
                if !decode(dtype, (*code).into()).is_finite() {
                    *code = largest;
                }
            }
            Class::ZeroBlock if index % cols < 128 => *code = 0,
            Class::ZeroBlock => {}
            Class::SignedZero => {
                let sign = encode_saturating(dtype, -0.0) as u8;
                *code = [0, sign, *code][rng.below(20).saturating_sub(17)];
                if rng.below(2) == 0 && *code == 0 {
                    *code = sign;
                }
            }
            Class::Outlier if index == cols / 2 => *code = largest,
            Class::Outlier => *code = encode_saturating(dtype, rng.gaussian() * typical / 64.0) as u8,
            Class::Special if rng.below(300) == 0 => *code = (width - 1 - rng.below(4)) as u8,
            Class::Special => {}
        }
    }
    out
}

/// Codes as an array; pairs in a byte for 4-bit formats.
pub(crate) fn code_array(dtype: Dtype, [rows, cols]: [usize; 2], codes: Vec<u8>) -> Array {
    if dtype.bits() == 4 {
        assert_eq!(cols % 2, 0);
        let bytes = codes.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4).collect();
        Array::new(dtype, [rows, cols / 2], bytes)
    } else {
        Array::new(dtype, [rows, cols], codes)
    }
}

/// A matrix of codes.
pub(crate) fn matrix(rng: &mut SplitMix64, class: Class, dtype: Dtype, shape: [usize; 2]) -> Array {
    let codes = codes(rng, class, dtype, shape);
    code_array(dtype, shape, codes)
}

/// How scales are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// Around 2^-7.
    Narrow,
    /// Over all exponents.
    Wide,
}

/// A grid of positive scales.
pub(crate) fn scales(rng: &mut SplitMix64, range: Range, dtype: Dtype, shape: &[usize]) -> Array {
    let n = shape.iter().product();
    let mut bytes = Vec::new();
    for _ in 0..n {
        let exponent = match range {
            Range::Narrow => 116 + rng.below(9) as u32,
            Range::Wide => 1 + rng.below(254) as u32,
        };
        let x = f32::from_bits(exponent << 23 | (rng.next_u64() as u32 & 0x7F_FFFF));
        match dtype {
            Dtype::F32 => bytes.extend(x.to_le_bytes()),
            Dtype::BF16 => bytes.extend((bf16_from_f32(x).min(0x7F7F)).to_le_bytes()),
            Dtype::F16 => bytes.extend((encode_saturating(dtype, x) as u16).to_le_bytes()),
            Dtype::F8E8M0 => {
                bytes.push(if range == Range::Wide { rng.below(255) as u8 } else { exponent as u8 })
            }
            Dtype::F8E4M3 => bytes.push(1 + rng.below(126) as u8),
            other => panic!("{other} scales"),
        }
    }
    Array::new(dtype, shape, bytes)
}

/// Gaussian values in a plain float format.
pub(crate) fn plain(rng: &mut SplitMix64, dtype: Dtype, shape: &[usize], spread: f32) -> Array {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| rng.gaussian() * spread).collect();
    floats(dtype, shape, &values)
}

/// Values in a plain float format.
pub(crate) fn floats(dtype: Dtype, shape: &[usize], values: &[f32]) -> Array {
    let bytes = match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| (encode_saturating(dtype, *x) as u16).to_le_bytes()).collect(),
    };
    Array::new(dtype, shape, bytes)
}

/// 32-bit integers.
pub(crate) fn int32(values: &[i32]) -> Array {
    Array::new(Dtype::I32, [values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// 64-bit integers.
pub(crate) fn int64(values: &[i64]) -> Array {
    Array::new(Dtype::I64, [values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Arrays by name.
pub(crate) fn arrays<const N: usize>(list: [(&str, Array); N]) -> Arrays {
    list.into_iter().map(|(name, array)| (name.to_owned(), array)).collect()
}
