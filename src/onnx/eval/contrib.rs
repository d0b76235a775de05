//! Operators of onnxruntime (domain com.microsoft) that exported and quantized models use.

use super::binary::{Arithmetic, combine};
use super::call::{Call, Outcome, one};
use super::cast::cast;
use super::matmul::{along, centred, matmul};
use super::quantize::dynamic_u8;
use super::table::{MICROSOFT, Operator, wide};
use super::tensor::{Data, Tensor, bad, count};
use super::unary::{gelu_erf, gelu_tanh, mapped};
use crate::error::{Error, Result};
use crate::onnx::element::{Element, unpack};

pub(super) const OPERATORS: &[Operator] = &[
    wide("MatMulNBits", 1, matmul_nbits).of(MICROSOFT),
    wide("FusedMatMul", 1, fused_matmul).of(MICROSOFT),
    wide("DynamicQuantizeMatMul", 1, dynamic_matmul).of(MICROSOFT),
    wide("MatMulIntegerToFloat", 1, integer_to_float).of(MICROSOFT),
    wide("BiasGelu", 1, |c| one(mapped(&combine(c.tensor(0)?, c.tensor(1)?, Arithmetic::Add)?, &gelu_erf)?))
        .of(MICROSOFT),
    wide("FastGelu", 1, |c| {
        let x = match c.optional(1)? {
            Some(bias) => combine(c.tensor(0)?, bias, Arithmetic::Add)?,
            None => c.tensor(0)?.clone(),
        };
        one(mapped(&x, &gelu_tanh)?)
    })
    .of(MICROSOFT),
];

fn size(call: &Call<'_>, name: &str) -> Result<usize> {
    usize::try_from(call.int(name, 0))
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| bad(format!("attribute {name} must be positive")).found(call.int(name, 0)))
}

/// Rows of codes of the attribute's width, each row packed into whole bytes.
fn rows(t: &Tensor, row_bytes: usize, row_codes: usize, bits: u64) -> Result<Vec<u8>> {
    let Data::U8(bytes) = t.data() else { return Err(t.wrong_type("UINT8")) };
    Ok(bytes.chunks(row_bytes.max(1)).flat_map(|row| unpack(row, bits, row_codes)).collect())
}

/// A · ((codes − zero) · scale)ᵀ + bias, weights of 2, 4 or 8 bits in blocks along K.
fn matmul_nbits(call: &Call<'_>) -> Outcome {
    let (a, b, scales) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let (k, n, block) = (size(call, "K")?, size(call, "N")?, size(call, "block_size")?);
    let bits = call.int("bits", 4) as u64;
    if ![2, 4, 8].contains(&bits) || !block.is_power_of_two() || !(16..=1 << 20).contains(&block) {
        return Err(bad("bits or block_size is wrong")
            .expected("2, 4 or 8 bits in blocks of a power of two of at least 16")
            .found(format!("{bits} bits in blocks of {block}")));
    }
    if call.optional(4)?.is_some_and(|g| !g.is_empty()) {
        return Err(Error::unsupported(
            "onnx-g-idx",
            "MatMulNBits with g_idx is deprecated, and is not evaluated",
        ));
    }
    let blocks = k.div_ceil(block);
    let blob = block * bits as usize / 8;
    count(&[n, blocks, block])?;
    if b.len() != n * blocks * blob || scales.len() != n * blocks {
        return Err(bad("weights or scales do not fit")
            .expected(format!("{} bytes and {} scales", n * blocks * blob, n * blocks))
            .found(format!("{:?} and {:?}", b.shape, scales.shape)));
    }
    let codes = rows(b, blob, block, bits)?;
    let scale = scales.to_f32s()?;
    let zeros: Vec<f32> = match call.optional(3)? {
        None => vec![(1u32 << (bits - 1)) as f32; n * blocks],
        Some(zero) if zero.element() == Element::U8 => {
            let row = (blocks * bits as usize).div_ceil(8);
            if zero.len() != n * row {
                return Err(bad("zero points do not fit").expected(n * row).found(zero.len()));
            }
            rows(zero, row, blocks, bits)?.into_iter().map(f32::from).collect()
        }
        Some(zero) if zero.len() == n * blocks => zero.to_f32s()?,
        Some(zero) => return Err(bad("zero points do not fit").expected(n * blocks).found(zero.len())),
    };
    // Weights as [K, N], so that the product reads rows.
    let mut w = vec![0.0f32; k * n];
    for column in 0..n {
        for row in 0..k {
            let group = column * blocks + row / block;
            let code = codes[group * block + row % block];
            w[row * n + column] = (f32::from(code) - zeros[group]) * scale[group];
        }
    }
    let w = cast(&Tensor::new([k, n], Data::F32(w))?, a.element())?;
    let y = matmul(a, &w)?;
    one(match call.optional(5)? {
        Some(bias) => combine(&y, bias, Arithmetic::Add)?,
        None => y,
    })
}

fn fused_matmul(call: &Call<'_>) -> Outcome {
    if call.flag("transBatchA", false) || call.flag("transBatchB", false) {
        return Err(Error::unsupported(
            "onnx-operator",
            "FusedMatMul with transposed batches is not evaluated",
        ));
    }
    let turned = |i: usize, name: &str| -> Result<Tensor> {
        let t = call.tensor(i)?;
        let mut order: Vec<usize> = (0..t.rank()).collect();
        if call.flag(name, false) && t.rank() >= 2 {
            order.swap(t.rank() - 2, t.rank() - 1);
        }
        t.transposed(&order)
    };
    let y = matmul(&turned(0, "transA")?, &turned(1, "transB")?)?;
    let alpha = f64::from(call.float("alpha", 1.0));
    one(mapped(&y, &|v| v * alpha)?)
}

/// (a − za)·(b − zb) · scale + bias, exact until the scale.
fn scaled(a: &Tensor, b: &Tensor, scale: &Tensor, bias: Option<&Tensor>) -> Outcome {
    let sum = matmul(a, b)?;
    let y = cast(&combine(&sum, &cast(scale, Element::F64)?, Arithmetic::Mul)?, Element::F32)?;
    one(match bias {
        Some(bias) => combine(&y, bias, Arithmetic::Add)?,
        None => y,
    })
}

fn dynamic_matmul(call: &Call<'_>) -> Outcome {
    let (codes, scale, zero) = dynamic_u8(call.tensor(0)?)?;
    let b = call.tensor(1)?;
    let a = centred(&codes, Some(&Tensor::vector(Data::U8(vec![zero]))), 0)?;
    let last = b.rank().saturating_sub(1);
    let b_scale = along(call.tensor(2)?, last, b.rank())?;
    let both = mapped(&cast(&b_scale, Element::F64)?, &|s| s * f64::from(scale))?;
    scaled(&a, &centred(b, call.optional(3)?, last)?, &both, call.optional(4)?)
}

fn integer_to_float(call: &Call<'_>) -> Outcome {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    let (row, last) = (a.rank().saturating_sub(2), b.rank().saturating_sub(1));
    let wide = |i: usize, at: usize, rank: usize| cast(&along(call.tensor(i)?, at, rank)?, Element::F64);
    let both = combine(&wide(2, row, a.rank())?, &wide(3, last, b.rank())?, Arithmetic::Mul)?;
    let a = centred(a, call.optional(4)?, row)?;
    scaled(&a, &centred(b, call.optional(5)?, last)?, &both, call.optional(6)?)
}
