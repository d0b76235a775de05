//! Elementwise operators of several tensors, with broadcasting.

use super::call::{Call, Outcome, one};
use super::table::{Operator, native, wide};
use super::tensor::{Data, Tensor, bad, broadcast_shape, broadcast_steps};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[
    wide("Add", 1, |c| arithmetic(c, Arithmetic::Add)),
    wide("Sub", 1, |c| arithmetic(c, Arithmetic::Sub)),
    wide("Mul", 1, |c| arithmetic(c, Arithmetic::Mul)),
    wide("Div", 1, |c| arithmetic(c, Arithmetic::Div)),
    wide("Pow", 1, pow),
    wide("Mod", 10, modulo),
    wide("Max", 1, |c| variadic(c, Arithmetic::Max)),
    wide("Min", 1, |c| variadic(c, Arithmetic::Min)),
    wide("Sum", 1, |c| variadic(c, Arithmetic::Add)),
    wide("Mean", 1, mean),
    wide("PRelu", 1, prelu),
    wide("Equal", 1, |c| compare(c, |o| o == Some(std::cmp::Ordering::Equal))),
    wide("Less", 1, |c| compare(c, |o| o == Some(std::cmp::Ordering::Less))),
    wide("Greater", 1, |c| compare(c, |o| o == Some(std::cmp::Ordering::Greater))),
    wide("LessOrEqual", 12, |c| compare(c, |o| o.is_some_and(|o| o.is_le()))),
    wide("GreaterOrEqual", 12, |c| compare(c, |o| o.is_some_and(|o| o.is_ge()))),
    native("And", 1, |c| logic(c, |a, b| a && b)),
    native("Or", 1, |c| logic(c, |a, b| a || b)),
    native("Xor", 1, |c| logic(c, |a, b| a != b)),
    native("BitwiseAnd", 18, |c| bits(c, Bits::And)),
    native("BitwiseOr", 18, |c| bits(c, Bits::Or)),
    native("BitwiseXor", 18, |c| bits(c, Bits::Xor)),
    native("BitShift", 11, shift),
    native("Where", 9, choose),
    wide("Clip", 1, clip),
];

/// Elements of two broadcast tensors combined.
pub(super) fn zip<A, B, R>(
    a: (&[usize], &[A]),
    b: (&[usize], &[B]),
    f: impl Fn(&A, &B) -> R,
) -> Result<(Vec<usize>, Vec<R>)> {
    if a.0 == b.0 {
        return Ok((a.0.to_vec(), a.1.iter().zip(b.1).map(|(x, y)| f(x, y)).collect()));
    }
    let shape = broadcast_shape(a.0, b.0)?;
    let total = super::tensor::count(&shape)?;
    let (sa, sb) = (broadcast_steps(a.0, &shape)?, broadcast_steps(b.0, &shape)?);
    let mut out = Vec::with_capacity(total);
    if total > 0 {
        let inner = shape.last().copied().unwrap_or(1);
        let (ia, ib) = (sa.last().copied().unwrap_or(0), sb.last().copied().unwrap_or(0));
        rows(&shape, &[&sa, &sb], |starts| {
            let (pa, pb) = (starts[0], starts[1]);
            match (ia, ib) {
                (1, 1) => {
                    out.extend(a.1[pa..pa + inner].iter().zip(&b.1[pb..pb + inner]).map(|(x, y)| f(x, y)))
                }
                (1, 0) => out.extend(a.1[pa..pa + inner].iter().map(|x| f(x, &b.1[pb]))),
                (0, 1) => out.extend(b.1[pb..pb + inner].iter().map(|y| f(&a.1[pa], y))),
                _ => out.extend((0..inner).map(|i| f(&a.1[pa + i * ia], &b.1[pb + i * ib]))),
            }
        });
    }
    Ok((shape, out))
}

/// Calls `f` with the first position of every row (the last dimension) for several sources of one shape.
pub(super) fn rows(shape: &[usize], steps: &[&[usize]], mut f: impl FnMut(&[usize])) {
    let outer = shape.len().saturating_sub(1);
    let mut index = vec![0usize; outer];
    let mut starts = vec![0usize; steps.len()];
    if shape.contains(&0) {
        return;
    }
    loop {
        f(&starts);
        let mut d = outer;
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            index[d] += 1;
            starts.iter_mut().zip(steps).for_each(|(start, step)| *start += step[d]);
            if index[d] < shape[d] {
                break;
            }
            starts.iter_mut().zip(steps).for_each(|(start, step)| *start -= step[d] * shape[d]);
            index[d] = 0;
        }
    }
}

/// Operations on two numbers of one type.
#[derive(Clone, Copy)]
pub(super) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
    /// Remainder with the sign of the divisor.
    FloorMod,
    /// Remainder with the sign of the dividend.
    CMod,
}

trait Number: Copy {
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    fn div(self, b: Self) -> Self;
    fn larger(self, b: Self) -> Self;
    fn smaller(self, b: Self) -> Self;
    fn floor_mod(self, b: Self) -> Self;
    fn c_mod(self, b: Self) -> Self;
}

macro_rules! integer {
    ($($t:ty, $floor:expr);*) => {$(
        impl Number for $t {
            fn add(self, b: Self) -> Self { self.wrapping_add(b) }
            fn sub(self, b: Self) -> Self { self.wrapping_sub(b) }
            fn mul(self, b: Self) -> Self { self.wrapping_mul(b) }
            // Division by zero is undefined in ONNX; NumPy gives 0.
            fn div(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_div(b) } }
            fn larger(self, b: Self) -> Self { self.max(b) }
            fn smaller(self, b: Self) -> Self { self.min(b) }
            fn floor_mod(self, b: Self) -> Self {
                let floor: fn($t, $t) -> $t = $floor;
                if b == 0 { 0 } else { floor(self, b) }
            }
            fn c_mod(self, b: Self) -> Self { if b == 0 { 0 } else { self.wrapping_rem(b) } }
        }
    )*};
}
macro_rules! floor_signed {
    () => {
        |a, b| {
            let r = a.wrapping_rem(b);
            if r != 0 && (r < 0) != (b < 0) { r.wrapping_add(b) } else { r }
        }
    };
}
integer!(
    i8, floor_signed!(); i16, floor_signed!(); i32, floor_signed!(); i64, floor_signed!();
    u8, |a, b| a % b; u16, |a, b| a % b; u32, |a, b| a % b; u64, |a, b| a % b
);

macro_rules! real {
    ($($t:ty),*) => {$(
        impl Number for $t {
            fn add(self, b: Self) -> Self { self + b }
            fn sub(self, b: Self) -> Self { self - b }
            fn mul(self, b: Self) -> Self { self * b }
            fn div(self, b: Self) -> Self { self / b }
            fn larger(self, b: Self) -> Self { if self.is_nan() || self > b { self } else { b } }
            fn smaller(self, b: Self) -> Self { if self.is_nan() || self < b { self } else { b } }
            fn floor_mod(self, b: Self) -> Self {
                let r = self % b;
                if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
            }
            fn c_mod(self, b: Self) -> Self { self % b }
        }
    )*};
}
real!(f32, f64);

fn zipped<T: Number>(
    a: (&[usize], &[T]),
    b: (&[usize], &[T]),
    op: Arithmetic,
) -> Result<(Vec<usize>, Vec<T>)> {
    match op {
        Arithmetic::Add => zip(a, b, |x, y| x.add(*y)),
        Arithmetic::Sub => zip(a, b, |x, y| x.sub(*y)),
        Arithmetic::Mul => zip(a, b, |x, y| x.mul(*y)),
        Arithmetic::Div => zip(a, b, |x, y| x.div(*y)),
        Arithmetic::Max => zip(a, b, |x, y| x.larger(*y)),
        Arithmetic::Min => zip(a, b, |x, y| x.smaller(*y)),
        Arithmetic::FloorMod => zip(a, b, |x, y| x.floor_mod(*y)),
        Arithmetic::CMod => zip(a, b, |x, y| x.c_mod(*y)),
    }
}

/// Two tensors of one number type combined element by element.
pub(super) fn combine(a: &Tensor, b: &Tensor, op: Arithmetic) -> Result<Tensor> {
    macro_rules! arms {
        ($($variant:ident)*) => {
            match (a.data(), b.data()) {
                $((Data::$variant(x), Data::$variant(y)) => {
                    let (shape, v) = zipped((&a.shape, x), (&b.shape, y), op)?;
                    Tensor::new(shape, Data::$variant(v))
                })*
                _ => Err(types(a, b)),
            }
        };
    }
    arms!(F32 F64 I8 I16 I32 I64 U8 U16 U32 U64)
}

fn types(a: &Tensor, b: &Tensor) -> crate::error::Error {
    bad("the inputs must have one number type").expected(a.element()).found(b.element())
}

/// The two inputs. Before version 7 broadcasting was asked for, and aligned the second one at an axis.
fn pair<'a>(call: &'a Call<'_>) -> Result<(&'a Tensor, Tensor)> {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    if call.opset >= 7 || !call.flag("broadcast", false) || !call.has("axis") {
        return Ok((a, b.clone()));
    }
    let at = call.axis(0, a.rank())?;
    let mut shape = b.shape.clone();
    let behind =
        (a.rank() - at).checked_sub(b.rank()).ok_or_else(|| bad("axis leaves no room for input 1"))?;
    shape.extend(std::iter::repeat_n(1, behind));
    Ok((a, b.reshaped(shape)?))
}

fn arithmetic(call: &Call<'_>, op: Arithmetic) -> Outcome {
    let (a, b) = pair(call)?;
    one(combine(a, &b, op)?)
}

fn modulo(call: &Call<'_>) -> Outcome {
    let op = if call.flag("fmod", false) { Arithmetic::CMod } else { Arithmetic::FloorMod };
    arithmetic(call, op)
}

fn variadic(call: &Call<'_>, op: Arithmetic) -> Outcome {
    let tensors = call.tensors()?;
    let (first, rest) = tensors.split_first().ok_or_else(|| bad("at least one input is needed"))?;
    one(rest.iter().try_fold((*first).clone(), |sum, t| combine(&sum, t, op))?)
}

fn mean(call: &Call<'_>) -> Outcome {
    let sum = variadic(call, Arithmetic::Add)?;
    match sum.as_slice() {
        [super::tensor::Value::Tensor(sum)] => {
            let n = call.inputs.len() as f64;
            one(super::unary::mapped(sum, &|x| x / n)?)
        }
        _ => Ok(sum),
    }
}

fn pow(call: &Call<'_>) -> Outcome {
    let (a, b) = pair(call)?;
    let integer = |t: &Tensor| t.element().integer_range().is_some();
    if integer(a) && integer(&b) {
        let (x, y) = (a.to_i64s()?, b.to_i64s()?);
        let (shape, v) = zip((&a.shape, &x), (&b.shape, &y), |x, y| integer_power(*x, *y))?;
        return one(super::cast::cast(&Tensor::new(shape, Data::I64(v))?, a.element())?);
    }
    let (x, y) = (a.to_f64s()?, b.to_f64s()?);
    let (shape, v) = zip((&a.shape, &x), (&b.shape, &y), |x, y| x.powf(*y))?;
    one(super::cast::cast(&Tensor::new(shape, Data::F64(v))?, a.element())?)
}

fn integer_power(base: i64, exponent: i64) -> i64 {
    match u32::try_from(exponent) {
        Ok(exponent) => base.wrapping_pow(exponent),
        Err(_) if base == 1 => 1,
        Err(_) if base == -1 => {
            if exponent % 2 == 0 {
                1
            } else {
                -1
            }
        }
        Err(_) => 0,
    }
}

fn prelu(call: &Call<'_>) -> Outcome {
    let (x, slope) = (call.tensor(0)?, call.tensor(1)?);
    // Before version 7 a slope per channel is given without the dimensions behind.
    let slope = if call.opset < 7 && slope.rank() == 1 && slope.len() > 1 {
        let mut shape = vec![slope.len()];
        shape.extend(std::iter::repeat_n(1, x.rank().saturating_sub(2)));
        slope.reshaped(shape)?
    } else {
        slope.clone()
    };
    let scaled = combine(x, &slope.broadcast_to(&x.shape)?, Arithmetic::Mul)?;
    let negative: Vec<bool> = x.to_f64s()?.iter().map(|v| *v < 0.0).collect();
    one(select(&Tensor::new(x.shape.clone(), Data::Bool(negative))?, &scaled, x)?)
}

fn compare(call: &Call<'_>, keep: fn(Option<std::cmp::Ordering>) -> bool) -> Outcome {
    let (a, b) = pair(call)?;
    macro_rules! arms {
        ($($variant:ident)*) => {
            match (a.data(), b.data()) {
                $((Data::$variant(x), Data::$variant(y)) => {
                    zip((&a.shape, x), (&b.shape, y), |x, y| keep(x.partial_cmp(y)))?
                })*
                _ => return Err(types(a, &b)),
            }
        };
    }
    let (shape, flags) = arms!(F32 F64 I8 I16 I32 I64 U8 U16 U32 U64 Bool Str);
    one(Tensor::new(shape, Data::Bool(flags))?)
}

fn logic(call: &Call<'_>, f: fn(bool, bool) -> bool) -> Outcome {
    let (a, b) = pair(call)?;
    let (shape, flags) = zip((&a.shape, a.bools()?), (&b.shape, b.bools()?), |x, y| f(*x, *y))?;
    one(Tensor::new(shape, Data::Bool(flags))?)
}

#[derive(Clone, Copy)]
enum Bits {
    And,
    Or,
    Xor,
}

fn bits(call: &Call<'_>, op: Bits) -> Outcome {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    macro_rules! arms {
        ($($variant:ident)*) => {
            match (a.data(), b.data()) {
                $((Data::$variant(x), Data::$variant(y)) => {
                    let (shape, v) = zip((&a.shape, x), (&b.shape, y), |x, y| match op {
                        Bits::And => x & y,
                        Bits::Or => x | y,
                        Bits::Xor => x ^ y,
                    })?;
                    one(Tensor::new(shape, Data::$variant(v))?)
                })*
                _ => Err(types(a, b)),
            }
        };
    }
    arms!(I8 I16 I32 I64 U8 U16 U32 U64)
}

fn shift(call: &Call<'_>) -> Outcome {
    let (a, b) = (call.tensor(0)?, call.tensor(1)?);
    let left = match call.text("direction", "")?.as_str() {
        "LEFT" => true,
        "RIGHT" => false,
        other => return Err(bad("direction is wrong").expected("LEFT or RIGHT").found(other)),
    };
    macro_rules! arms {
        ($($variant:ident)*) => {
            match (a.data(), b.data()) {
                $((Data::$variant(x), Data::$variant(y)) => {
                    let (shape, v) = zip((&a.shape, x), (&b.shape, y), |x, y| {
                        let by = u32::try_from(*y).unwrap_or(u32::MAX);
                        // Bits shifted in from the left are the sign's, also beyond the width.
                        #[allow(unused_comparisons, reason = "half of the types have no sign")]
                        let fill = if *x < 0 { !0 } else { 0 };
                        if left { x.checked_shl(by).unwrap_or(0) } else { x.checked_shr(by).unwrap_or(fill) }
                    })?;
                    one(Tensor::new(shape, Data::$variant(v))?)
                })*
                _ => Err(types(a, b)),
            }
        };
    }
    arms!(I8 I16 I32 I64 U8 U16 U32 U64)
}

/// Elements of `a` where the flag is set, else of `b`, broadcast.
pub(super) fn select(flags: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.element() != b.element() {
        return Err(types(a, b));
    }
    let shape = broadcast_shape(&broadcast_shape(&flags.shape, &a.shape)?, &b.shape)?;
    let (flags, a, b) = (flags.broadcast_to(&shape)?, a.broadcast_to(&shape)?, b.broadcast_to(&shape)?);
    let flags = flags.bools()?;
    macro_rules! arms {
        ($($variant:ident)*) => {
            match (a.data(), b.data()) {
                $((Data::$variant(x), Data::$variant(y)) => {
                    let chosen = flags.iter().zip(x.iter().zip(y));
                    Data::$variant(chosen.map(|(c, (x, y))| if *c { x } else { y }).cloned().collect())
                })*
                (Data::Code(e, x), Data::Code(_, y)) => {
                    let chosen = flags.iter().zip(x.iter().zip(y));
                    Data::Code(*e, chosen.map(|(c, (x, y))| if *c { *x } else { *y }).collect())
                }
                _ => return Err(types(&a, &b)),
            }
        };
    }
    let data = arms!(F32 F64 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64 Bool C64 C128 Str);
    Tensor::new(shape, data)
}

fn choose(call: &Call<'_>) -> Outcome {
    one(select(call.tensor(0)?, call.tensor(1)?, call.tensor(2)?)?)
}

fn clip(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let limit = |i: usize, name: &str| -> Result<Option<Tensor>> {
        if call.opset >= 11 {
            return Ok(call.optional(i)?.cloned());
        }
        match call.attribute(name) {
            Some(a) => {
                let value = Tensor::scalar(Data::F32(vec![a.f]))?;
                super::cast::cast(&value, x.element()).map(Some)
            }
            None => Ok(None),
        }
    };
    let mut y = x.clone();
    if let Some(low) = limit(1, "min")? {
        y = combine(&y, &low, Arithmetic::Max)?;
    }
    if let Some(high) = limit(2, "max")? {
        y = combine(&y, &high, Arithmetic::Min)?;
    }
    one(y.reshaped(x.shape.clone())?)
}
