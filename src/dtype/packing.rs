//! How codes lie in a stored tensor.
//!
//! A safetensors file has no four-bit integers, and every engine fits them into wider elements in its own way. A weight
//! is `[…, N = out, K = in]`, its codes are one logical element each; a [`Packing`] says which stored dtype and shape
//! hold them. The kernels move the bytes.

use super::Dtype;

/// The layout of stored codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Packing {
    /// As safetensors stores the element: one element per code, FP4 two to a byte, low nibble first.
    #[default]
    Plain,
    /// U8 `[N, K/2]`: byte `j` of a row is `code[2j] | code[2j + 1] << 4` (compressed-tensors FP4, MX on Ascend, ModelOpt).
    Pairs,
    /// I8 `[N, K/2]`, bytes as [`Packing::Pairs`] (DeepSeek-V4 FP4, Cambricon INT4).
    PairsI8,
    /// U8 `[N, K/32, 16]`, bytes as [`Packing::Pairs`] (gpt-oss).
    Blocks,
    /// I8 `[N, K/2]`: byte `j` is `code[2j] << 4 | code[2j + 1]`, and the stored scale is the scale divided by 16
    /// (Hygon's SlimQuant).
    SlimQuant,
    /// I8 `[N/2, K]`: byte `[n, k]` is `code[2n, k] | code[2n + 1, k] << 4` (vllm-ascend W4A8_DYNAMIC).
    RowPairs,
    /// I8 `[N, K]`: one INT4 per byte, sign-extended (compressed-tensors `int-quantized`, Ascend W4A4).
    Bytes,
    /// I32 `[N, ⌈K·b/32⌉]`: `code + 2^(b − 1)` as a little-endian stream of `b`-bit fields along K
    /// (compressed-tensors `pack-quantized`). Zero points are packed in the same way along N.
    Int32,
    /// I32 `[K·b/32, N]`: fields of unsigned codes along K, `code + 2^(b − 1)`; scales and zero points have groups first;
    /// the stored zero point is the zero point minus one (GPTQ, `checkpoint_format: gptq`).
    Gptq,
    /// As [`Packing::Gptq`] with the zero point itself (`gptq_v2`).
    GptqV2,
    /// I32 `[K, N/8]`: unsigned 4-bit codes along N in the order 0, 2, 4, 6, 1, 3, 5, 7; scales and zero points have
    /// groups first (AutoAWQ `gemm`).
    Awq,
}

impl Packing {
    const NAMES: [(Packing, &'static str); 11] = [
        (Packing::Plain, "plain"),
        (Packing::Pairs, "pairs"),
        (Packing::PairsI8, "pairs-i8"),
        (Packing::Blocks, "blocks"),
        (Packing::SlimQuant, "slimquant"),
        (Packing::RowPairs, "row-pairs"),
        (Packing::Bytes, "bytes"),
        (Packing::Int32, "int32"),
        (Packing::Gptq, "gptq"),
        (Packing::GptqV2, "gptq-v2"),
        (Packing::Awq, "awq"),
    ];

    /// Every packing, in order.
    pub fn all() -> impl Iterator<Item = Packing> {
        Self::NAMES.iter().map(|(packing, _)| *packing)
    }

    /// The name in schemes.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(p, _)| *p == self).map_or("plain", |(_, n)| n)
    }

    /// The packing called `name`.
    pub fn from_name(name: &str) -> Option<Packing> {
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(packing, _)| *packing)
    }

    /// Whether K is the first dimension of what is stored, of codes as of scales and zero points.
    pub fn is_transposed(self) -> bool {
        matches!(self, Packing::Gptq | Packing::GptqV2 | Packing::Awq)
    }

    /// Rows of the weight that share stored elements.
    pub fn rows(self) -> u64 {
        match self {
            Packing::RowPairs => 2,
            Packing::Awq => 8,
            _ => 1,
        }
    }

    /// Columns of the weight that share stored elements, for codes of `bits` bits.
    pub fn cols(self, bits: u64) -> u64 {
        match self {
            Packing::Plain | Packing::Bytes | Packing::RowPairs | Packing::Awq => 1,
            Packing::Pairs | Packing::PairsI8 | Packing::SlimQuant => 2,
            Packing::Blocks => 32,
            // The least number of fields that fill whole words: 8 of 4 bits, 32 of 3 bits.
            Packing::Int32 | Packing::Gptq | Packing::GptqV2 => 32 >> bits.trailing_zeros().min(5),
        }
    }

    /// Dtype and shape that store codes of format `element` of a weight `[…, N, K]`.
    ///
    /// # Errors
    /// Why the shape cannot be packed so.
    pub fn stored(self, element: Dtype, shape: &[u64]) -> Result<(Dtype, Vec<u64>), String> {
        if self == Packing::Plain {
            return Ok((element, shape.to_vec()));
        }
        let [outer @ .., n, k] = shape else {
            return Err(format!("a tensor of {} dimensions has no packed codes", shape.len()));
        };
        let bits = element.bits();
        let whole = |what: &str, size: u64, part: u64| match size.is_multiple_of(part.max(1)) {
            true => Ok(size / part.max(1)),
            false => Err(format!("{what} = {size} is no multiple of {part}")),
        };
        let (dtype, last) = match self {
            Packing::Plain | Packing::Bytes => (Dtype::I8, vec![*n, *k]),
            Packing::Pairs => (Dtype::U8, vec![*n, whole("K", *k, 2)?]),
            Packing::PairsI8 | Packing::SlimQuant => (Dtype::I8, vec![*n, whole("K", *k, 2)?]),
            Packing::Blocks => (Dtype::U8, vec![*n, whole("K", *k, 32)?, 16]),
            Packing::RowPairs => (Dtype::I8, vec![whole("N", *n, 2)?, *k]),
            Packing::Int32 => (Dtype::I32, vec![*n, (k * bits).div_ceil(32)]),
            Packing::Gptq | Packing::GptqV2 => {
                whole("N", *n, 32 / bits.max(1))?;
                (Dtype::I32, vec![whole("K", k * bits, 32)?, *n])
            }
            Packing::Awq => (Dtype::I32, vec![*k, whole("N", *n, 8)?]),
        };
        Ok((dtype, outer.iter().copied().chain(last).collect()))
    }

    /// The shape `[…, N, K]` of a weight of `element` codes that is stored as a tensor of shape `stored`; `None` where no
    /// weight is. A bit stream whose last word is not full is taken for a full one.
    pub fn logical(self, element: Dtype, stored: &[u64]) -> Option<Vec<u64>> {
        let bits = element.bits();
        let mut shape = stored.to_vec();
        let scaled = |size: u64, by: u64| size.checked_mul(by);
        match self {
            Packing::Plain | Packing::Bytes => {}
            Packing::Pairs | Packing::PairsI8 | Packing::SlimQuant => {
                let k = shape.last_mut()?;
                *k = scaled(*k, 2)?;
            }
            Packing::Blocks => {
                if shape.pop()? != 16 {
                    return None;
                }
                let k = shape.last_mut()?;
                *k = scaled(*k, 32)?;
            }
            Packing::RowPairs => {
                let at = shape.len().checked_sub(2)?;
                shape[at] = scaled(shape[at], 2)?;
            }
            Packing::Int32 => {
                let k = shape.last_mut()?;
                *k = scaled(*k, 32)? / bits.max(1);
            }
            Packing::Gptq | Packing::GptqV2 | Packing::Awq => {
                let at = shape.len().checked_sub(2)?;
                let (first, last) = (shape[at], shape[at + 1]);
                let k = if self == Packing::Awq { first } else { scaled(first, 32)? / bits.max(1) };
                let n = if self == Packing::Awq { scaled(last, 8)? } else { last };
                (shape[at], shape[at + 1]) = (n, k);
            }
        }
        Some(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_go_there_and_back() {
        for packing in Packing::all() {
            assert_eq!(Packing::from_name(packing.name()), Some(packing));
            for element in [Dtype::I4, Dtype::I8, Dtype::F4E2M1] {
                let shape = [3, 64, 128];
                let (_, stored) = packing.stored(element, &shape).unwrap();
                if packing != Packing::Awq || element.bits() == 4 {
                    assert_eq!(packing.logical(element, &stored).unwrap(), shape, "{}", packing.name());
                }
            }
        }
    }

    #[test]
    fn published_shapes() {
        let shape = |packing: Packing, element, n, k| packing.stored(element, &[n, k]).unwrap();
        // Kimi-K2-Thinking, DeepSeek-V4, vllm-ascend, GPTQ, AWQ.
        assert_eq!(shape(Packing::Int32, Dtype::I4, 2048, 7168), (Dtype::I32, vec![2048, 896]));
        assert_eq!(shape(Packing::PairsI8, Dtype::F4E2M1, 2048, 4096), (Dtype::I8, vec![2048, 2048]));
        assert_eq!(shape(Packing::RowPairs, Dtype::I4, 2048, 7168), (Dtype::I8, vec![1024, 7168]));
        assert_eq!(shape(Packing::Gptq, Dtype::I4, 512, 1024), (Dtype::I32, vec![128, 512]));
        assert_eq!(shape(Packing::Awq, Dtype::I4, 512, 1024), (Dtype::I32, vec![1024, 64]));
        // Fields of 3 bits cross words.
        assert_eq!(Packing::Int32.cols(3), 32);
        assert_eq!(Packing::Int32.cols(4), 8);
        assert!(Packing::RowPairs.stored(Dtype::I4, &[3, 8]).unwrap_err().contains("N = 3"));
    }
}
