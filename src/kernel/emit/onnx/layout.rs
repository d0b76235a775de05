//! Layouts: kernels 21, permutations and packings.

use super::Emitter;
use super::builder::{Attribute, Value};
use super::operand::Frame;
use crate::dtype::Dtype;
use crate::onnx_protobuf::tensor_proto::DataType;

/// The emitter of a kernel of this file.
pub(super) fn emitter(kernel: &str) -> Option<Emitter> {
    Some(match kernel {
        "layout_ue8m0_pack" => ue8m0_pack,
        "layout_ue8m0_unpack" => ue8m0_unpack,
        "layout_ue8m0_tma" => ue8m0_tma,
        "layout_nz" => nz,
        "layout_nz_inverse" => nz_inverse,
        "layout_interleave" => |f| interleave(f, true),
        "layout_deinterleave" => |f| interleave(f, false),
        "layout_nibble_swap" => nibble_swap,
        "layout_pack_i32" => pack_i32,
        "layout_pack_nibbles" => pack_nibbles,
        _ => return None,
    })
}

/// The argument as what can be padded, and the type that it leaves as. BF16 moves as FLOAT.
fn movable(f: &mut Frame<'_>) -> Option<(Value, DataType)> {
    let x = f.call.array("x")?;
    let raw = f.raw("x")?;
    Some(match x.dtype {
        Dtype::BF16 => (f.b.cast(&raw, DataType::FLOAT), DataType::FLOAT),
        Dtype::F8E4M3 => (raw, DataType::FLOAT8E4M3FN),
        Dtype::I8 => (raw, DataType::INT8),
        Dtype::U8 => (raw, DataType::UINT8),
        Dtype::I32 => (raw, DataType::INT32),
        Dtype::F32 => (raw, DataType::FLOAT),
        _ => return None,
    })
}

/// Signed words from bytes, INT64 `[.., 4]` or nibbles `[.., 8]`, first in the lowest bits: INT32 without that axis.
fn words(f: &mut Frame<'_>, parts: &Value, bits: u32) -> Value {
    let axis = parts.shape.len() - 1;
    let weights: Vec<i64> = (0..parts.dim(axis) as u32).map(|i| 1i64 << (bits * i)).collect();
    let weights = f.b.i64s(&weights);
    let placed = f.b.binary("Mul", parts, &weights);
    let sum = f.b.reduce("ReduceSum", &placed, &[axis]);
    let sum = f.b.reshape(&sum, &parts.shape[..axis]);
    let [half, whole] = [f.b.i64((1 << 31) - 1), f.b.i64(1 << 32)];
    let large = f.b.binary("Greater", &sum, &half);
    let wrapped = f.b.binary("Sub", &sum, &whole);
    let signed = f.b.select(&large, &wrapped, &sum);
    f.b.cast(&signed, DataType::INT32)
}

fn ue8m0_pack(f: &mut Frame<'_>) -> Option<()> {
    let x = f.raw("x")?;
    let [rows, cols] = [x.dim(0), x.dim(1)];
    let bytes = f.b.cast(&x, DataType::INT64);
    let bytes = f.b.pad(&bytes, 1, cols.div_ceil(4) * 4);
    let bytes = f.b.reshape(&bytes, &[rows, cols.div_ceil(4), 4]);
    let y = words(f, &bytes, 8);
    f.b.output(&y, "y", DataType::INT32);
    Some(())
}

fn ue8m0_unpack(f: &mut Frame<'_>) -> Option<()> {
    let x = f.raw("x")?;
    let cols = f.call.outputs.get("y")?.dim(1);
    let [rows, count] = [x.dim(0), x.dim(1)];
    let wide = f.b.cast(&x, DataType::INT64);
    let [zero, whole, base] = [0, 1 << 32, 256].map(|x| f.b.i64(x));
    let negative = f.b.binary("Less", &wide, &zero);
    let wrapped = f.b.binary("Add", &wide, &whole);
    let unsigned = f.b.select(&negative, &wrapped, &wide);
    let unsigned = f.b.reshape(&unsigned, &[rows, count, 1]);
    let places = f.b.i64s(&[1, 1 << 8, 1 << 16, 1 << 24]);
    let shifted = f.b.binary("Div", &unsigned, &places);
    let bytes = f.b.binary("Mod", &shifted, &base);
    let bytes = f.b.reshape(&bytes, &[rows, count * 4]);
    let bytes = f.b.slice(&bytes, 1, 0..cols);
    let y = f.b.cast(&bytes, DataType::UINT8);
    f.b.output(&y, "y", DataType::UINT8);
    Some(())
}

fn ue8m0_tma(f: &mut Frame<'_>) -> Option<()> {
    let x = f.raw("x")?;
    let rows = x.dim(0);
    let turned = f.b.transpose(&x, &[1, 0]);
    let y = f.b.pad(&turned, 1, rows.div_ceil(4) * 4);
    f.b.output(&y, "y", DataType::INT32);
    Some(())
}

fn nz(f: &mut Frame<'_>) -> Option<()> {
    let n0 = 32 / f.call.array("x")?.item_size();
    let (x, dtype) = movable(f)?;
    if dtype == DataType::FLOAT8E4M3FN {
        return None;
    }
    let [row_tiles, col_tiles] = [x.dim(0).div_ceil(16), x.dim(1).div_ceil(n0)];
    let padded = f.b.pad(&x, 0, row_tiles * 16);
    let padded = f.b.pad(&padded, 1, col_tiles * n0);
    let tiles = f.b.reshape(&padded, &[row_tiles, 16, col_tiles, n0]);
    let y = f.b.transpose(&tiles, &[2, 0, 1, 3]);
    f.b.output(&y, "y", dtype);
    Some(())
}

fn nz_inverse(f: &mut Frame<'_>) -> Option<()> {
    let (x, dtype) = movable(f)?;
    let y = f.call.outputs.get("y")?;
    let rows = f.b.transpose(&x, &[1, 2, 0, 3]);
    let whole = f.b.reshape(&rows, &[x.dim(1) * 16, x.dim(0) * x.dim(3)]);
    let cut = f.b.slice(&whole, 0, 0..y.dim(0));
    let cut = f.b.slice(&cut, 1, 0..y.dim(1));
    f.b.output(&cut, "y", dtype);
    Some(())
}

fn interleave(f: &mut Frame<'_>, forward: bool) -> Option<()> {
    let (x, dtype) = movable(f)?;
    let [rows, cols] = [x.dim(0), x.dim(1)];
    let halves = if forward { [2, rows / 2, cols] } else { [rows / 2, 2, cols] };
    let cut = f.b.reshape(&x, &halves);
    let turned = f.b.transpose(&cut, &[1, 0, 2]);
    let y = f.b.reshape(&turned, &[rows, cols]);
    f.b.output(&y, "y", dtype);
    Some(())
}

fn nibble_swap(f: &mut Frame<'_>) -> Option<()> {
    let (x, dtype) = movable(f)?;
    if dtype != DataType::UINT8 {
        return None;
    }
    let four = f.b.constant(DataType::UINT8, &[], vec![4]);
    let [low, high] = ["RIGHT", "LEFT"].map(|direction| {
        let attribute = vec![("direction", Attribute::Text(direction))];
        f.b.node("BitShift", &[&x, &four], attribute, x.shape.clone())
    });
    let y = f.b.binary("BitwiseOr", &low, &high);
    f.b.output(&y, "y", DataType::UINT8);
    Some(())
}

fn pack_i32(f: &mut Frame<'_>) -> Option<()> {
    let x = f.raw("x")?;
    let [rows, cols] = [x.dim(0), x.dim(1)];
    let codes = f.b.cast(&x, DataType::INT64);
    let mut codes = f.b.reshape(&codes, &[rows, cols / 8, 8]);
    if f.call.text("order", "ct") == "awq" {
        let order = f.b.i64s(&[0, 2, 4, 6, 1, 3, 5, 7]);
        codes = f.b.gather(&codes, &order, 2);
    }
    let y = words(f, &codes, 4);
    f.b.output(&y, "y", DataType::INT32);
    Some(())
}

fn pack_nibbles(f: &mut Frame<'_>) -> Option<()> {
    let x = f.raw("x")?;
    let codes = f.b.cast(&x, DataType::INT32);
    // Two's complement of a negative code.
    let mask = f.b.i32(15);
    let codes = f.b.binary("BitwiseAnd", &codes, &mask);
    let y = f.pairs(&codes);
    f.b.output(&y, "y", DataType::UINT8);
    Some(())
}
