//! Values of elements, and the elements that no weight should have.

use crate::dtype::Dtype;
use crate::dtype::codec::{f32_from_bf16, f32_from_e4m3, f32_from_f16};
use crate::kernel::{Fault, FaultKind, Values};

/// One element of a tile.
#[derive(Clone, Copy, Debug)]
pub struct Element {
    /// Its value.
    pub value: f32,
    /// Its stored pattern: the code, or the bits of a plain float.
    pub bits: u32,
    /// Its scale, for scaled elements.
    pub scale: Option<f32>,
    /// Whether its code is neither zero nor negative zero.
    pub code_is_not_zero: bool,
}

/// The element at `row`, `col` of a tile with `cols` columns.
pub fn element(values: &Values<'_>, row: usize, col: usize, cols: usize) -> Element {
    let index = row * cols + col;
    let half = |bytes: &[u8]| u16::from_le_bytes([bytes[index * 2], bytes[index * 2 + 1]]);
    let plain = |value, bits| Element { value, bits, scale: None, code_is_not_zero: value != 0.0 };
    match *values {
        Values::Bf16(bytes) => plain(f32_from_bf16(half(bytes)), half(bytes).into()),
        Values::F16(bytes) => plain(f32_from_f16(half(bytes)), half(bytes).into()),
        Values::F32(bytes) => {
            let at = index * 4;
            let bits = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            plain(f32::from_bits(bits), bits)
        }
        Values::Scaled { element, codes, scales, block_rows, block_cols } => {
            let code = codes[index];
            let scale = scales[row / block_rows * cols.div_ceil(block_cols) + col / block_cols];
            let unscaled = code_value(element, code);
            let product = unscaled * scale;
            // Processors differ in the sign of a NaN that they make.
            let nan = f32::from_bits(0x7FC0_0000 | u32::from(code >> 7) << 31);
            Element {
                value: if product.is_nan() { nan } else { product },
                bits: code.into(),
                scale: Some(scale),
                code_is_not_zero: unscaled != 0.0,
            }
        }
    }
}

/// The value of an 8-bit code, exact.
fn code_value(element: Dtype, code: u8) -> f32 {
    match element {
        Dtype::I8 => f32::from(code as i8),
        Dtype::F8E4M3 => f32_from_e4m3(code),
        // E5M2 is the upper half of a binary16.
        Dtype::F8E5M2 => f32_from_f16(u16::from(code) << 8),
        Dtype::F8E4M3Fnuz => fnuz(code, 3, 8),
        Dtype::F8E5M2Fnuz => fnuz(code, 2, 16),
        other => panic!("{other} codes are not scaled values"),
    }
}

/// The value of a FNUZ code: no infinities, no negative zero, whose code is the only NaN.
fn fnuz(code: u8, mantissa_bits: u32, bias: i32) -> f32 {
    if code == 0x80 {
        return f32::NAN;
    }
    let exponent = i32::from(code & 0x7F) >> mantissa_bits;
    let mantissa = i32::from(code) & ((1 << mantissa_bits) - 1);
    let implied = if exponent == 0 { 0 } else { 1 << mantissa_bits };
    let magnitude = (implied + mantissa) as f32 * 2f32.powi(exponent.max(1) - bias - mantissa_bits as i32);
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The first fault of a tile, in row-major order.
pub fn first_fault(values: &Values<'_>, rows: usize, cols: usize) -> Option<Fault> {
    (0..rows).find_map(|row| {
        (0..cols).find_map(|col| {
            let e = element(values, row, col, cols);
            let fault = |kind, bits| Some(Fault { kind, row, col, bits });
            match e.scale {
                Some(scale) if !scale.is_finite() => fault(FaultKind::NonFiniteScale, scale.to_bits()),
                Some(scale) if scale < 0.0 => fault(FaultKind::NegativeScale, scale.to_bits()),
                Some(_) if e.value.is_nan() => fault(FaultKind::NanCode, e.bits),
                Some(_) if e.value.is_infinite() => fault(FaultKind::NonFinite, e.value.to_bits()),
                None if !e.value.is_finite() => fault(FaultKind::NonFinite, e.bits),
                _ => None,
            }
        })
    })
}
