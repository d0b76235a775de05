//! Scans of tensors that are copied, and of scales.

use super::isa::{Body, Isa, dispatch};
use crate::dtype::Dtype;
use crate::dtype::codec::{e8m0_from_pow2, f32_from_bf16, f32_from_e4m3, f32_from_e8m0, f32_from_f16};

/// Replaces `out` by the scales in `bytes`, exactly. `F32`, `BF16`, `F16`, `F8E8M0`, `U8` (an E8M0 byte) and `F8E4M3` (NVFP4) hold
/// scales;
/// for any other dtype `out` ends up empty. Trailing bytes that do not fill an element are ignored.
pub fn decode_scales(dtype: Dtype, bytes: &[u8], out: &mut Vec<f32>) {
    out.clear();
    let (pairs, _) = bytes.as_chunks::<2>();
    match dtype {
        Dtype::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))),
        Dtype::BF16 => out.extend(pairs.iter().map(|b| f32_from_bf16(u16::from_le_bytes(*b)))),
        Dtype::F16 => out.extend(pairs.iter().map(|b| f32_from_f16(u16::from_le_bytes(*b)))),
        Dtype::F8E8M0 | Dtype::U8 => out.extend(bytes.iter().map(|b| f32_from_e8m0(*b))),
        Dtype::F8E4M3 => out.extend(bytes.iter().map(|b| f32_from_e4m3(*b))),
        _ => {}
    }
}

/// The index of the first scale that is not a power of two in the range of E8M0 (2^-127..=2^127).
pub fn first_not_power_of_two(scales: &[f32]) -> Option<usize> {
    scales.iter().position(|s| e8m0_from_pow2(*s).is_none())
}

/// How many elements of a tensor are NaN or infinite; 0 for dtypes that have neither. A partial element at the end is
/// ignored.
pub fn count_non_finite(isa: Isa, dtype: Dtype, bytes: &[u8]) -> u64 {
    match dtype {
        Dtype::F64 => dispatch(
            isa,
            Count::<8, _>(bytes, |b: [u8; 8]| u64::from_le_bytes(b) & (0x7FF << 52) == 0x7FF << 52),
        ),
        Dtype::F32 => dispatch(
            isa,
            Count::<4, _>(bytes, |b: [u8; 4]| u32::from_le_bytes(b) & 0x7F80_0000 == 0x7F80_0000),
        ),
        Dtype::BF16 => {
            dispatch(isa, Count::<2, _>(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7F80 == 0x7F80))
        }
        Dtype::F16 => {
            dispatch(isa, Count::<2, _>(bytes, |b: [u8; 2]| u16::from_le_bytes(b) & 0x7C00 == 0x7C00))
        }
        Dtype::F8E4M3 => dispatch(isa, Count::<1, _>(bytes, |[b]: [u8; 1]| b & 0x7F == 0x7F)),
        Dtype::F8E5M2 => dispatch(isa, Count::<1, _>(bytes, |[b]: [u8; 1]| b & 0x7C == 0x7C)),
        Dtype::F8E4M3Fnuz | Dtype::F8E5M2Fnuz => {
            dispatch(isa, Count::<1, _>(bytes, |[b]: [u8; 1]| b == 0x80))
        }
        Dtype::F8E8M0 => dispatch(isa, Count::<1, _>(bytes, |[b]: [u8; 1]| b == 0xFF)),
        _ => 0,
    }
}

/// Counts the elements of `N` bytes for which a predicate holds.
struct Count<'a, const N: usize, P>(&'a [u8], P);

impl<const N: usize, P: Fn([u8; N]) -> bool> Body for Count<'_, N, P> {
    type Out = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let Self(bytes, holds) = self;
        let (elements, _) = bytes.as_chunks::<N>();
        let mut total = 0;
        // Byte counters keep the loop in vectors; 255 rounds cannot overflow them.
        for group in elements.chunks(255 * 64) {
            let mut counts = [0u8; 64];
            let (rounds, rest) = group.as_chunks::<64>();
            for round in rounds {
                for (count, element) in counts.iter_mut().zip(round) {
                    *count += u8::from(holds(*element));
                }
            }
            total += counts.iter().map(|c| u64::from(*c)).sum::<u64>();
            total += rest.iter().filter(|e| holds(**e)).count() as u64;
        }
        total
    }
}
