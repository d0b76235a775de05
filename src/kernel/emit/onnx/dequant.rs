//! Values of codes and codes of other codes: kernels 9 and 11.

use super::builder::Value;
use super::gemm::int4;
use super::operand::Frame;
use super::quant::{Recipe, integers, quantize};
use crate::dtype::Dtype;
use crate::onnx_protobuf::tensor_proto::DataType;

/// A table of values by code.
pub(super) fn table(f: &mut Frame<'_>) -> Option<()> {
    let codes = f.call.array("codes")?;
    // The sign of a NaN is kept, and Cast makes no promise about it for BF16.
    let is_nan = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]) & 0x7FFF > 0x7F80;
    if codes.dtype == Dtype::BF16 && codes.bytes.chunks_exact(2).any(is_nan) {
        return None;
    }
    let values = f.floats("codes")?;
    f.rounded("y", &values)
}

/// The scale of every element, from a grid of blocks.
fn per_element(f: &mut Frame<'_>, name: &str, block: [usize; 2], shape: [usize; 2]) -> Option<Value> {
    let grid = f.floats(name)?;
    let grid = f.b.reshape(&grid, &[shape[0].div_ceil(block[0]), shape[1].div_ceil(block[1])]);
    let rows = f.spread(&grid, 0, block[0], shape[0]);
    Some(if block[1] >= shape[1] { rows } else { f.spread(&rows, 1, block[1], shape[1]) })
}

/// `values` times the optional global multiplier, as the output.
fn finish(f: &mut Frame<'_>, mut values: Value) -> Option<()> {
    if let Some(g) = f.raw("g") {
        let g = f.b.reshape(&g, &[1]);
        values = f.b.binary("Mul", &values, &g);
    }
    f.computed("y", &values)
}

/// Codes under a grid of scales.
pub(super) fn scaled(f: &mut Frame<'_>) -> Option<()> {
    let default = match f.call.kernel {
        "dequant_fp8_channel" | "dequant_int8_channel" => [1, 0],
        "dequant_mxfp8" | "dequant_mxfp4" => [1, 32],
        "dequant_nvfp4" => [1, 16],
        _ => [128, 128],
    };
    let mut values = f.floats("codes")?;
    let shape = [values.dim(0), values.dim(1)];
    let block = f.call.block(default, shape);
    if f.call.array("z").is_some() {
        let z = per_element(f, "z", block, shape)?;
        values = f.b.binary("Sub", &values, &z);
    }
    let scale = per_element(f, "scale", block, shape)?;
    let values = f.b.binary("Mul", &values, &scale);
    finish(f, values)
}

/// `dequant_int4_group`.
pub(super) fn int4_group(f: &mut Frame<'_>) -> Option<()> {
    let groups = f.call.array("scale")?.dim(1);
    let values = int4(f, "codes", groups)?;
    let k = values.dim(1);
    let scale = f.floats("scale")?;
    let scale = f.spread(&scale, 1, k / groups.max(1), k);
    let values = f.b.binary("Mul", &values, &scale);
    finish(f, values)
}

/// The values that a requantizer starts from, their shape and block.
fn requantized(f: &mut Frame<'_>) -> Option<(Value, [usize; 2])> {
    let values = f.floats("codes")?;
    let shape = [values.dim(0), values.dim(1)];
    let block = f.call.block([128, 128], shape);
    let scale = per_element(f, "scale", block, shape)?;
    Some((f.b.binary("Mul", &values, &scale), block))
}

/// `requant_e4m3_f32_to_ue8m0`.
pub(super) fn to_ue8m0(f: &mut Frame<'_>) -> Option<()> {
    let (values, block) = requantized(f)?;
    quantize(f, Recipe::named("dg_fp8_ue8m0")?, &values, block, ["codes_out", "scale_out"])
}

/// `requant_e4m3_to_s8`.
pub(super) fn to_s8(f: &mut Frame<'_>) -> Option<()> {
    let (values, _) = requantized(f)?;
    if values.shape.contains(&0) {
        return None;
    }
    let magnitude = f.b.unary("Abs", &values);
    let amax = f.b.reduce("ReduceMax", &magnitude, &[1]);
    let [top, floor] = [127.0, f32::EPSILON].map(|x| f.b.f32(x));
    let scale = f.b.binary("Div", &amax, &top);
    let scale = f.b.binary("Max", &scale, &floor);
    let scaled = f.b.binary("Div", &values, &scale);
    let codes = integers(f, &scaled);
    f.b.output(&codes, "codes_out", DataType::INT8);
    f.b.output(&scale, "scale_out", DataType::FLOAT);
    Some(())
}

/// `requant_bf16_to_e4m3`.
pub(super) fn to_e4m3(f: &mut Frame<'_>) -> Option<()> {
    let x = f.call.array("x")?;
    // The code of a NaN has its sign, which Cast does not keep.
    let nan = match x.dtype {
        Dtype::BF16 => x.bytes.chunks_exact(2).any(|b| u16::from_le_bytes([b[0], b[1]]) & 0x7FFF > 0x7F80),
        _ => x.bytes.chunks_exact(4).any(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_nan()),
    };
    if nan {
        return None;
    }
    let values = f.floats("x")?;
    let [low, high] = [-448.0, 448.0].map(|x| f.b.f32(x));
    let shape = values.shape.clone();
    let clipped = f.b.node("Clip", &[&values, &low, &high], vec![], shape);
    let codes = f.b.cast(&clipped, DataType::FLOAT8E4M3FN);
    f.b.output(&codes, "codes", DataType::FLOAT8E4M3FN);
    Some(())
}
