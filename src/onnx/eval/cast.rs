//! Cast, CastLike, BitCast: every pair of element types.

use super::call::{Call, Outcome, one};
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, bad};
use crate::dtype::{Dtype, codec};
use crate::error::{Error, Result};
use crate::onnx::element::Element;

pub(super) const OPERATORS: &[Operator] = &[
    native("Cast", 1, |c| {
        let to = match (c.text("to", "")?, c.int("to", 0)) {
            // Before version 6 the type is a name.
            (name, 0) => Element::ALL.iter().copied().find(|e| e.name() == name),
            (_, code) => i32::try_from(code).ok().and_then(Element::from_code),
        };
        convert(c, to.ok_or_else(|| bad("attribute to names no element type").found(c.int("to", 0)))?)
    }),
    native("CastLike", 15, |c| convert(c, c.tensor(1)?.element())),
    native("BitCast", 26, bit_cast),
];

/// How floating-point values that do not fit are written, and how E8M0 rounds.
#[derive(Clone, Copy)]
pub(super) struct Rounding {
    pub(super) saturate: bool,
    pub(super) e8m0: E8m0,
}

#[derive(Clone, Copy)]
pub(super) enum E8m0 {
    Nearest,
    Up,
    Down,
}

impl Default for Rounding {
    fn default() -> Self {
        Self { saturate: true, e8m0: E8m0::Up }
    }
}

fn convert(call: &Call<'_>, to: Element) -> Outcome {
    let e8m0 = match call.text("round_mode", "up")?.as_str() {
        "up" => E8m0::Up,
        "down" => E8m0::Down,
        "nearest" => E8m0::Nearest,
        other => return Err(bad("round_mode is wrong").expected("up, down or nearest").found(other)),
    };
    one(cast_with(call.tensor(0)?, to, Rounding { saturate: call.flag("saturate", true), e8m0 })?)
}

/// The tensor in another element type, saturating where FP8 overflows.
pub(super) fn cast(x: &Tensor, to: Element) -> Result<Tensor> {
    cast_with(x, to, Rounding::default())
}

pub(super) fn cast_with(x: &Tensor, to: Element, rounding: Rounding) -> Result<Tensor> {
    if x.element() == to {
        return Ok(x.clone());
    }
    let data = match (x.data(), to) {
        (Data::Str(texts), _) => from_texts(texts, to, rounding)?,
        (_, Element::String) => Data::Str(to_texts(x)?),
        (Data::C64(v), Element::C128) => Data::C128(v.iter().map(|c| c.map(f64::from)).collect()),
        (Data::C128(v), Element::C64) => Data::C64(v.iter().map(|c| c.map(|p| p as f32)).collect()),
        (Data::C64(_) | Data::C128(_), _) | (_, Element::C64 | Element::C128) => {
            return Err(Error::unsupported("onnx-cast", "complex numbers are not cast to or from real ones")
                .found(format!("{} to {to}", x.element())));
        }
        // FLOAT holds every value of the narrow float types.
        (Data::F32(v), _) => from_floats(v, to, rounding),
        _ if x.element() == Element::F64 => from_doubles(&x.to_f64s()?, to, rounding),
        _ if x.element().is_float() => from_floats(&x.to_f32s()?, to, rounding),
        (Data::U64(v), Element::F32) => Data::F32(v.iter().map(|x| *x as f32).collect()),
        (Data::U64(v), Element::F64) => Data::F64(v.iter().map(|x| *x as f64).collect()),
        _ => from_integers(&x.to_i64s()?, to, rounding),
    };
    Tensor::new(x.shape.clone(), data)
}

fn from_floats(v: &[f32], to: Element, rounding: Rounding) -> Data {
    match to {
        Element::F32 => Data::F32(v.to_vec()),
        Element::F64 => Data::F64(v.iter().map(|x| f64::from(*x)).collect()),
        Element::F16 => Data::F16(v.iter().map(|x| codec::f16_from_f32(*x)).collect()),
        Element::BF16 => Data::BF16(v.iter().map(|x| codec::bf16_from_f32(*x)).collect()),
        Element::Bool => Data::Bool(v.iter().map(|x| *x != 0.0).collect()),
        to if to.is_code() => Data::Code(to, v.iter().map(|x| float_code(*x, to, rounding)).collect()),
        _ => integers(v.iter().map(|x| f64::from(*x)), to),
    }
}

fn from_doubles(v: &[f64], to: Element, rounding: Rounding) -> Data {
    match to {
        Element::F32 => Data::F32(v.iter().map(|x| *x as f32).collect()),
        Element::Bool => Data::Bool(v.iter().map(|x| *x != 0.0).collect()),
        to if to.is_float() || to.is_code() => {
            from_floats(&v.iter().map(|x| odd_f32(*x)).collect::<Vec<_>>(), to, rounding)
        }
        _ => integers(v.iter().copied(), to),
    }
}

/// A double as a FLOAT rounded to odd, so that a second rounding to fewer bits is as if it were the only one.
fn odd_f32(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest) == x || !nearest.is_finite() {
        return nearest;
    }
    if nearest.to_bits() & 1 == 1 {
        return nearest;
    }
    // Even and inexact: the neighbour on the other side of x is odd.
    let away = (f64::from(nearest).abs() < x.abs()) == (nearest != 0.0) || nearest == 0.0;
    let bits = nearest.to_bits();
    f32::from_bits(if away { bits + 1 } else { bits - 1 }).copysign(x as f32)
}

fn integers(v: impl Iterator<Item = f64>, to: Element) -> Data {
    // What does not fit is undefined in ONNX; as on x86-64, narrow types take the low bits of a 32-bit conversion.
    match to {
        Element::I8 => Data::I8(v.map(|x| x as i32 as i8).collect()),
        Element::I16 => Data::I16(v.map(|x| x as i32 as i16).collect()),
        Element::I32 => Data::I32(v.map(|x| x as i32).collect()),
        Element::U8 => Data::U8(v.map(|x| x as i32 as u8).collect()),
        Element::U16 => Data::U16(v.map(|x| x as i32 as u16).collect()),
        Element::U32 => Data::U32(v.map(|x| x as i64 as u32).collect()),
        Element::U64 => Data::U64(v.map(|x| if x < 0.0 { x as i64 as u64 } else { x as u64 }).collect()),
        _ => Data::I64(v.map(|x| x as i64).collect()),
    }
}

fn from_integers(v: &[i64], to: Element, rounding: Rounding) -> Data {
    match to {
        Element::F32 => Data::F32(v.iter().map(|x| *x as f32).collect()),
        Element::F64 => Data::F64(v.iter().map(|x| *x as f64).collect()),
        Element::Bool => Data::Bool(v.iter().map(|x| *x != 0).collect()),
        Element::I8 => Data::I8(v.iter().map(|x| *x as i8).collect()),
        Element::I16 => Data::I16(v.iter().map(|x| *x as i16).collect()),
        Element::I32 => Data::I32(v.iter().map(|x| *x as i32).collect()),
        Element::I64 => Data::I64(v.to_vec()),
        Element::U8 => Data::U8(v.iter().map(|x| *x as u8).collect()),
        Element::U16 => Data::U16(v.iter().map(|x| *x as u16).collect()),
        Element::U32 => Data::U32(v.iter().map(|x| *x as u32).collect()),
        Element::U64 => Data::U64(v.iter().map(|x| *x as u64).collect()),
        to if to.integer_range().is_some() => Data::Code(to, v.iter().map(|x| *x as u8 & mask(to)).collect()),
        to => from_floats(&v.iter().map(|x| *x as f32).collect::<Vec<_>>(), to, rounding),
    }
}

fn mask(element: Element) -> u8 {
    ((1u16 << element.bits()) - 1) as u8
}

/// The code of a value in a type of at most 8 bits.
pub(super) fn float_code(x: f32, to: Element, rounding: Rounding) -> u8 {
    match to.dtype() {
        _ if to.integer_range().is_some() => x as i32 as u8 & mask(to),
        Some(Dtype::F8E8M0) => e8m0(x, rounding),
        Some(dtype) if rounding.saturate => codec::encode_saturating(dtype, x) as u8,
        Some(dtype) => codec::encode_ieee(dtype, x) as u8,
        None => 0,
    }
}

/// E8M0 by the table of the Cast operator: the power of two at or near |x|.
fn e8m0(x: f32, rounding: Rounding) -> u8 {
    let (nan, largest) = (0xFF, 0xFE);
    let x = x.abs();
    if x.is_nan() {
        return nan;
    }
    if x.is_infinite() {
        return if rounding.saturate { largest } else { nan };
    }
    let bits = x.to_bits();
    let (exponent, mantissa) = (bits >> 23, bits & 0x7F_FFFF);
    // 2^-127, the code 0, is the subnormal half of the least normal number.
    let (low, above) = match exponent {
        0 => (0, mantissa.saturating_sub(0x40_0000) << 1),
        _ => (exponent, mantissa),
    };
    if x == 0.0 {
        return if rounding.saturate || !matches!(rounding.e8m0, E8m0::Nearest) { 0 } else { nan };
    }
    let up = match rounding.e8m0 {
        E8m0::Up => above > 0,
        E8m0::Down => false,
        // A tie lies between 2^e and 2^(e+1), whose codes differ in the last bit: it goes up.
        E8m0::Nearest => above >= 0x40_0000,
    };
    match low + u32::from(up) {
        code if code <= u32::from(largest) => code as u8,
        _ if rounding.saturate => largest,
        _ => nan,
    }
}

fn from_texts(texts: &[String], to: Element, rounding: Rounding) -> Result<Data> {
    if to.integer_range().is_some() && !to.is_code() {
        let whole: Option<Vec<i64>> = texts.iter().map(|t| t.trim().parse().ok()).collect();
        if let Some(whole) = whole {
            return Ok(from_integers(&whole, to, rounding));
        }
    }
    let parsed: Vec<f64> = texts
        .iter()
        .map(|t| t.trim().parse().map_err(|_| bad("a string is no number").found(t)))
        .collect::<Result<_>>()?;
    Ok(from_doubles(&parsed, to, rounding)).map(|data| match to {
        Element::F64 => Data::F64(parsed),
        _ => data,
    })
}

fn to_texts(x: &Tensor) -> Result<Vec<String>> {
    Ok(match x.data() {
        Data::F64(v) => v.iter().map(|x| number_text(*x, &format!("{x:e}"))).collect(),
        Data::Bool(v) => v.iter().map(|x| if *x { "True" } else { "False" }.to_owned()).collect(),
        Data::U64(v) => v.iter().map(u64::to_string).collect(),
        _ if x.element().is_float() => {
            x.to_f32s()?.iter().map(|x| number_text(f64::from(*x), &format!("{x:e}"))).collect()
        }
        _ => x.to_i64s()?.iter().map(i64::to_string).collect(),
    })
}

/// The shortest decimal that reads back, in NumPy's notation; `scientific` is Rust's.
fn number_text(x: f64, scientific: &str) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |d| ("-", d));
    let plain: String = digits.chars().filter(|c| *c != '.').collect();
    let point = exponent + 1;
    if point <= 0 {
        return format!("{sign}0.{}{plain}", "0".repeat(point.unsigned_abs() as usize));
    }
    let point = point as usize;
    let whole: String = plain.chars().chain(std::iter::repeat('0')).take(point).collect();
    let rest = plain.get(point..).filter(|r| !r.is_empty()).unwrap_or("0");
    format!("{sign}{whole}.{rest}")
}

fn bit_cast(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let to = i32::try_from(call.int("to", 0)).ok().and_then(Element::from_code);
    let to = to.filter(|to| to.bits() == x.element().bits() && to.bits() > 0).ok_or_else(|| {
        bad("attribute to must be a type of the same width").expected(x.element()).found(call.int("to", 0))
    })?;
    let data = Data::from_packed(to, &x.data().to_packed(), x.len());
    one(Tensor::new(x.shape.clone(), data)?)
}
