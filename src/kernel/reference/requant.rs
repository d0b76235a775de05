//! Codes of one format from those of another: kernels 11, the conversions of the pipeline itself.

use super::array::{Array, Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::dequant::scale_blocks;
use super::gemm_catalog::{arg, maybe};
use super::operand::{FLOATS, block, expect_grid, expect_len, floats, matrix, required, whole_axes};
use super::quant::{Recipe, outputs};
use crate::dtype::Dtype;
use crate::dtype::codec::{e4m3_from_f32_clamped, f32_from_e4m3};
use crate::error::Result;

/// `requant_e4m3_to_s8`: int8 codes and a scale per row from values `[rows, cols]`: `s = max(amax/127, 2^-23)`,
/// `q = RNE(w/s)`.
///
/// # Errors
/// Class Input for slices of another length.
pub fn to_s8(w: &[f32], [rows, cols]: [usize; 2], codes: &mut [u8], scales: &mut [f32]) -> Result<()> {
    expect_len("codes", w.len(), super::operand::area("codes", &[rows, cols])?)?;
    expect_len("codes_out", codes.len(), w.len())?;
    expect_len("scale_out", scales.len(), rows)?;
    for (row, scale) in scales.iter_mut().enumerate() {
        let w = &w[row * cols..][..cols];
        let amax = w.iter().fold(0.0f32, |amax, w| amax.max(w.abs()));
        // 2^-23.
        *scale = (amax / 127.0).max(f32::EPSILON);
        for (code, w) in codes[row * cols..][..cols].iter_mut().zip(w) {
            // The magnitude never exceeds 127; the cast sends a NaN to 0.
            *code = (w / *scale).round_ties_even() as i8 as u8;
        }
    }
    Ok(())
}

/// `requant_bf16_to_e4m3`: the nearest E4M3 code, clamped to ±448; a NaN keeps its sign.
pub fn e4m3(x: f32) -> u8 {
    e4m3_from_f32_clamped(x.clamp(-448.0, 448.0))
}

/// `requant_e4m3fn_to_e4m3fnuz`: the code of half the value.
pub fn fnuz(code: u8) -> u8 {
    match code {
        0x80 => 0x00,
        0x7F | 0xFF => 0x80,
        code => code,
    }
}

/// `requant_e4m3fnuz_to_e4m3fn`: the code of twice the value; ±240, which would be ±480, gives ±448.
pub fn fn_from_fnuz(code: u8) -> u8 {
    match code {
        0x80 => 0x7F,
        0x7F | 0xFF => code - 1,
        code => code,
    }
}

const fn block_param() -> Param {
    Param {
        name: "block",
        values: "[rows, cols] that share a scale, 0 = the whole axis",
        default: "[128,128]",
    }
}

const CODES: Arg = arg("codes", "e4m3[N,K]");

/// The kernels of this file, in order.
pub(super) const KERNELS: &[Kernel] = &[
    Kernel {
        name: "requant_e4m3_f32_to_ue8m0",
        semantics: "w = f32(code)·scale in f32, then quant_dg_fp8_ue8m0 per block.",
        inputs: &[CODES, arg("scale", "f32[⌈N/128⌉,⌈K/128⌉]")],
        outputs: &[arg("codes_out", "e4m3[N,K]"), arg("scale_out", "e8|f32[⌈N/128⌉,⌈K/128⌉]")],
        params: &[block_param()],
        run: ue8m0,
    },
    Kernel {
        name: "requant_e4m3_to_s8",
        semantics: "w = f32(code)·scale in f32; per row s = max(amax/127, 2^-23); q = RNE(w/s).",
        inputs: &[CODES, arg("scale", "f32 grid")],
        outputs: &[arg("codes_out", "s8[N,K]"), arg("scale_out", "f32[N,1]")],
        params: &[block_param()],
        run: s8,
    },
    Kernel {
        name: "requant_bf16_to_e4m3",
        semantics: "code = e4m3(clamp(x, ±448)), RNE; a NaN becomes 0x7F with its sign.",
        inputs: &[arg("x", "bf16|f32[…]")],
        outputs: &[arg("codes", "e4m3[…]")],
        params: &[],
        run: from_bf16,
    },
    Kernel {
        name: "requant_e4m3fn_to_e4m3fnuz",
        semantics: "The same bits, but 0x80 becomes 0x00 and the NaNs 0x7F and 0xFF become 0x80; scale_out = 2·scale.",
        inputs: &[arg("codes", "e4m3[…]"), maybe("scale", "f32[…]")],
        outputs: &[arg("codes_out", "e4m3fnuz[…]"), maybe("scale_out", "f32[…]")],
        params: &[],
        run: |call| bitwise(call, [Dtype::F8E4M3, Dtype::F8E4M3Fnuz], fnuz, 2.0),
    },
    Kernel {
        name: "requant_e4m3fnuz_to_e4m3fn",
        semantics: "The same bits, but 0x80 (NaN) becomes 0x7F, and 0x7F and 0xFF (±240) become 0x7E and 0xFE; scale_out = \
                    scale/2.",
        inputs: &[arg("codes", "e4m3fnuz[…]"), maybe("scale", "f32[…]")],
        outputs: &[arg("codes_out", "e4m3[…]"), maybe("scale_out", "f32[…]")],
        params: &[],
        run: |call| bitwise(call, [Dtype::F8E4M3Fnuz, Dtype::F8E4M3], fn_from_fnuz, 0.5),
    },
];

/// The values of E4M3 codes under a grid of scales, their shape and their block.
fn values(call: &Call<'_>) -> Result<(Vec<f32>, [usize; 2], [usize; 2])> {
    let codes = required(call, "codes", &[Dtype::F8E4M3])?;
    let shape = matrix("codes", codes)?;
    let block = block(call, [128, 128])?;
    let [block_rows, block_cols] = whole_axes(block, shape);
    let scale = required(call, "scale", &[Dtype::F32])?;
    expect_grid("scale", scale, [shape[0].div_ceil(block_rows), shape[1].div_ceil(block_cols)])?;
    let mut values: Vec<f32> = codes.bytes.iter().map(|code| f32_from_e4m3(*code)).collect();
    scale_blocks(&mut values, shape, block, &floats(scale))?;
    Ok((values, shape, block))
}

fn ue8m0(call: &Call<'_>) -> Result<Arrays> {
    let (values, shape, block) = values(call)?;
    outputs(call, Recipe::DgFp8Ue8m0, &values, shape, block, ["codes_out", "scale_out"])
}

fn s8(call: &Call<'_>) -> Result<Arrays> {
    let (values, shape, _) = values(call)?;
    let mut codes = vec![0; values.len()];
    let mut scales = vec![0.0; shape[0]];
    to_s8(&values, shape, &mut codes, &mut scales)?;
    Ok([
        ("codes_out".to_owned(), Array::new(Dtype::I8, shape, codes)),
        ("scale_out".to_owned(), Array::from_f32([shape[0], 1], &scales)),
    ]
    .into())
}

fn from_bf16(call: &Call<'_>) -> Result<Arrays> {
    let x = required(call, "x", FLOATS)?;
    let codes = floats(x).iter().map(|x| e4m3(*x)).collect();
    Ok([("codes".to_owned(), Array::new(Dtype::F8E4M3, x.shape.clone(), codes))].into())
}

fn bitwise(call: &Call<'_>, [from, to]: [Dtype; 2], map: fn(u8) -> u8, factor: f32) -> Result<Arrays> {
    let codes = required(call, "codes", &[from])?;
    let bytes = codes.bytes.iter().map(|code| map(*code)).collect();
    let mut arrays: Arrays = [("codes_out".to_owned(), Array::new(to, codes.shape.clone(), bytes))].into();
    if call.wanted.contains_key("scale_out") {
        let scale = required(call, "scale", &[Dtype::F32])?;
        let scales: Vec<f32> = floats(scale).iter().map(|s| s * factor).collect();
        arrays.insert("scale_out".to_owned(), Array::from_f32(scale.shape.clone(), &scales));
    }
    Ok(arrays)
}
