//! Golden cases of a checkpoint's own weights.

use super::golden::Draft;
use super::input::{Operand, SplitMix64, Values, values};
use crate::dtype::Dtype;
use crate::dtype::codec::decode;
use crate::kernel::reference::array::Array;

/// Most rows of a slice.
pub const ROWS: usize = 128;
/// Most columns of a slice.
pub const COLS: usize = 256;
/// Rows of activations.
const M: usize = 4;

/// The top left corner of a quantized weight.
#[derive(Clone, Debug)]
pub struct Slice {
    /// What kind of tensor it is, in kebab case, as in `mlp-experts-down-proj`: part of the case's name.
    pub class: String,
    /// The tensor's name.
    pub tensor: String,
    /// Codes `[rows, cols]`: `F8E4M3` or `I8`.
    pub codes: Array,
    /// Scales of the blocks, `[⌈rows / block[0]⌉, ⌈cols / block[1]⌉]`: `F32`, `BF16`, `F16` or `F8E8M0`.
    pub scale: Array,
    /// Rows and columns that share a scale; 0 is the whole axis.
    pub block: [usize; 2],
}

/// The cases of a slice: the product of its linear layer with seeded activations and, if `whole`, the dequantizer. None for
/// formats without kernels.
pub(super) fn drafts(slice: &Slice, whole: bool) -> Vec<Draft> {
    let [rows, cols] = match slice.codes.shape[..] {
        [rows, cols] if rows > 0 && cols > 0 => [rows, cols],
        _ => return Vec::new(),
    };
    let (gemm, dequant) = match (slice.codes.dtype, slice.block) {
        (Dtype::F8E4M3, [128, 128]) => (Some("gemm_fp8_block"), "dequant_fp8_block"),
        (Dtype::F8E4M3, [1 | 0, 0]) => (Some("gemm_fp8_token_channel"), "dequant_fp8_channel"),
        (Dtype::F8E4M3, _) => (None, "dequant_fp8_block"),
        (Dtype::I8, [1 | 0, 0]) => (Some("gemm_w8a8"), "dequant_int8_channel"),
        (Dtype::I8, _) => (None, "dequant_int8_block"),
        _ => return Vec::new(),
    };
    let mut out = Vec::new();
    let named = |kernel| {
        let mut draft = Draft::new(kernel, "slice").suffix(&slice.class);
        draft.tensor = Some(format!("{}[0:{rows}, 0:{cols}]", slice.tensor));
        draft
    };
    // A scale per tensor is the scale of every row.
    let per_row = slice.block[1] == 0;
    let scale = |floats: bool| {
        let mut scale = if floats { as_f32(&slice.scale) } else { slice.scale.clone() };
        if per_row {
            if slice.block[0] == 0 {
                scale.bytes = scale.bytes.repeat(rows);
            }
            scale.shape = vec![rows];
        }
        scale
    };
    if let Some(kernel) = gemm {
        let x = values(Values::Gaussian, &mut SplitMix64::new(&format!("{kernel}/slice/A")), M, cols);
        let (scales, b, weight_scale) = match kernel {
            "gemm_w8a8" => ("sx", "sw", scale(true)),
            _ => ("sa", "sb", scale(slice.scale.dtype != Dtype::F8E8M0 || per_row)),
        };
        let block = if per_row { [1, 0] } else { [1, 128] };
        let a = Operand { element: slice.codes.dtype, block, scale: Dtype::F32 }.quantize(&x, M, cols);
        let mut a_scale = a.scales;
        if per_row {
            a_scale.shape = vec![M];
        }
        out.push(
            named(kernel)
                .input("A", a.codes)
                .input(scales, a_scale)
                .input("B", slice.codes.clone())
                .input(b, weight_scale)
                .want("C", Dtype::F32),
        );
    }
    if whole || gemm.is_none() {
        let mut draft = named(dequant);
        if !per_row && slice.block != [128, 128] {
            draft = draft.param("block", slice.block.to_vec());
        }
        out.push(
            draft.input("codes", slice.codes.clone()).input("scale", scale(false)).want("y", Dtype::BF16),
        );
    }
    out
}

/// Scales as `f32`, exactly.
fn as_f32(scale: &Array) -> Array {
    let size = scale.item_size();
    let value = |bytes: &[u8]| {
        let mut code = [0; 4];
        code[..size].copy_from_slice(bytes);
        decode(scale.dtype, u32::from_le_bytes(code))
    };
    let values: Vec<f32> = scale.bytes.chunks_exact(size).map(value).collect();
    Array::from_f32(scale.shape.clone(), &values)
}
