//! Elementwise operators of one tensor: arithmetic, trigonometry, activations.

use super::call::{Call, Float, FloatsOf, Outcome, for_float, one};
use super::table::{MICROSOFT, Operator, native, wide};
use super::tensor::{Data, Tensor, bad, numbers};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[
    wide("Abs", 1, abs),
    wide("Neg", 1, neg),
    wide("Sign", 9, sign),
    wide("Floor", 1, |c| map(c, f64::floor)),
    wide("Ceil", 1, |c| map(c, f64::ceil)),
    wide("Round", 11, |c| map(c, f64::round_ties_even)),
    wide("Sqrt", 1, |c| map(c, f64::sqrt)),
    wide("Exp", 1, |c| map(c, f64::exp)),
    wide("Log", 1, |c| map(c, f64::ln)),
    wide("Sin", 7, |c| map(c, f64::sin)),
    wide("Cos", 7, |c| map(c, f64::cos)),
    wide("Tan", 7, |c| map(c, f64::tan)),
    wide("Asin", 7, |c| map(c, f64::asin)),
    wide("Acos", 7, |c| map(c, f64::acos)),
    wide("Atan", 7, |c| map(c, f64::atan)),
    wide("Sinh", 9, |c| map(c, f64::sinh)),
    wide("Cosh", 9, |c| map(c, f64::cosh)),
    wide("Tanh", 1, |c| map(c, f64::tanh)),
    wide("Asinh", 9, |c| map(c, f64::asinh)),
    wide("Acosh", 9, |c| map(c, f64::acosh)),
    wide("Atanh", 9, |c| map(c, f64::atanh)),
    wide("Erf", 9, |c| map(c, erf)),
    wide("Reciprocal", 1, |c| map(c, |x| 1.0 / x)),
    wide("Relu", 1, relu),
    wide("Sigmoid", 1, |c| map(c, sigmoid)),
    wide("Softplus", 1, |c| map(c, softplus)),
    wide("Softsign", 1, |c| map(c, |x| x / (1.0 + x.abs()))),
    wide("HardSwish", 14, |c| map(c, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0))),
    wide("Mish", 18, |c| map(c, |x| x * softplus(x).tanh())),
    wide("LeakyRelu", 1, |c| with(c, [("alpha", 0.01)], |x, [a]| if x < 0.0 { a * x } else { x })),
    wide("ThresholdedRelu", 1, |c| with(c, [("alpha", 1.0)], |x, [a]| if x > a { x } else { 0.0 })),
    wide("Elu", 1, |c| with(c, [("alpha", 1.0)], |x, [a]| if x < 0.0 { a * x.exp_m1() } else { x })),
    wide("Celu", 12, |c| with(c, [("alpha", 1.0)], |x, [a]| x.max(0.0) + (a * (x / a).exp_m1()).min(0.0))),
    wide("Selu", 1, |c| {
        with(c, [("alpha", 1.673_263_2), ("gamma", 1.050_701)], |x, [a, g]| {
            if x > 0.0 { g * x } else { g * (a * x.exp() - a) }
        })
    }),
    wide("HardSigmoid", 1, |c| {
        with(c, [("alpha", 0.2), ("beta", 0.5)], |x, [a, b]| (a * x + b).clamp(0.0, 1.0))
    }),
    wide("Shrink", 9, shrink),
    wide("Swish", 24, |c| with(c, [("alpha", 1.0)], |x, [a]| x * sigmoid(a * x))),
    wide("Gelu", 20, gelu),
    wide("Gelu", 1, gelu).of(MICROSOFT),
    wide("QuickGelu", 1, |c| with(c, [("alpha", 1.702)], |x, [a]| x * sigmoid(a * x))).of(MICROSOFT),
    wide("IsNaN", 9, |c| test(c, |x, _| x.is_nan())),
    wide("IsInf", 10, |c| {
        test(c, |x, c| {
            x.is_infinite()
                && if x > 0.0 { c.flag("detect_positive", true) } else { c.flag("detect_negative", true) }
        })
    }),
    native("Not", 1, not),
    native("BitwiseNot", 18, bitwise_not),
];

/// 1 / (1 + e^−x), without overflow.
pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// ln(1 + e^x), without overflow.
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// GELU by the error function.
pub(super) fn gelu_erf(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// GELU by the hyperbolic tangent.
pub(super) fn gelu_tanh(x: f64) -> f64 {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    0.5 * x * (1.0 + (root * (x + 0.044_715 * x * x * x)).tanh())
}

/// The error function: its Maclaurin series near 0, the continued fraction of erfc beyond (Abramowitz and Stegun 7.1.5 and
/// 7.1.14). The error is a few units in the last place of a double.
pub(super) fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let z = x.abs();
    let value = if z < 2.5 {
        let mut term = z;
        let mut sum = z;
        let mut n = 0.0;
        while term.abs() > 1e-18 * sum.abs() && n < 100.0 {
            n += 1.0;
            term *= -z * z / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else if z < 6.0 {
        let mut fraction = 0.0;
        for k in (1..=60).rev() {
            fraction = f64::from(k) / 2.0 / (z + fraction);
        }
        1.0 - (-z * z).exp() / (z + fraction) * (std::f64::consts::FRAC_2_SQRT_PI / 2.0)
    } else {
        1.0
    };
    if x < 0.0 { -value } else { value }
}

fn apply<T: Float + FloatsOf>(x: &Tensor, f: &dyn Fn(f64) -> f64) -> Result<Tensor> {
    // The double result rounded once is the correctly rounded FLOAT but for rare double roundings.
    Tensor::new(x.shape.clone(), T::data(T::slice(x)?.iter().map(|v| T::of(f(v.f64()))).collect()))
}

/// A tensor with `f` applied to every element.
pub(super) fn mapped(x: &Tensor, f: &dyn Fn(f64) -> f64) -> Result<Tensor> {
    for_float!(x, apply(x, f))
}

fn map(call: &Call<'_>, f: impl Fn(f64) -> f64) -> Outcome {
    let x = call.tensor(0)?;
    one(mapped(x, &f)?)
}

fn with<const N: usize>(
    call: &Call<'_>,
    attributes: [(&str, f32); N],
    f: impl Fn(f64, [f64; N]) -> f64,
) -> Outcome {
    let parameters = attributes.map(|(name, default)| f64::from(call.float(name, default)));
    map(call, |x| f(x, parameters))
}

fn shrink(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let (bias, lambda) = (f64::from(call.float("bias", 0.0)), f64::from(call.float("lambd", 0.5)));
    let f = |v: f64| {
        if v < -lambda {
            v + bias
        } else if v > lambda {
            v - bias
        } else {
            0.0
        }
    };
    if x.element().is_float() {
        return one(mapped(x, &f)?);
    }
    let values = x.to_f64s()?.into_iter().map(f).collect();
    one(super::cast::cast(&Tensor::new(x.shape.clone(), Data::F64(values))?, x.element())?)
}

fn gelu(call: &Call<'_>) -> Outcome {
    if call.text("approximate", "none")? == "tanh" { map(call, gelu_tanh) } else { map(call, gelu_erf) }
}

/// Number types with the operations of this file.
trait Signed: Copy {
    fn magnitude(self) -> Self;
    fn negated(self) -> Self;
    fn signum(self) -> Self;
    fn rectified(self) -> Self;
}

macro_rules! signed {
    ($($t:ty),*) => {$(
        impl Signed for $t {
            fn magnitude(self) -> Self { self.wrapping_abs() }
            fn negated(self) -> Self { self.wrapping_neg() }
            fn signum(self) -> Self { <$t>::signum(self) }
            fn rectified(self) -> Self { self.max(0) }
        }
    )*};
}
signed!(i8, i16, i32, i64);

macro_rules! unsigned {
    ($($t:ty),*) => {$(
        impl Signed for $t {
            fn magnitude(self) -> Self { self }
            fn negated(self) -> Self { self.wrapping_neg() }
            fn signum(self) -> Self { self.min(1) }
            fn rectified(self) -> Self { self }
        }
    )*};
}
unsigned!(u8, u16, u32, u64);

macro_rules! real {
    ($($t:ty),*) => {$(
        impl Signed for $t {
            fn magnitude(self) -> Self { self.abs() }
            fn negated(self) -> Self { -self }
            fn signum(self) -> Self { if self > 0.0 { 1.0 } else if self < 0.0 { -1.0 } else { self } }
            fn rectified(self) -> Self { if self < 0.0 { 0.0 } else { self } }
        }
    )*};
}
real!(f32, f64);

macro_rules! signed_operator {
    ($name:ident, $f:ident) => {
        fn $name(call: &Call<'_>) -> Outcome {
            fn each<T: Signed>(v: &[T]) -> Vec<T> {
                v.iter().map(|x| x.$f()).collect()
            }
            let x = call.tensor(0)?;
            let data = numbers!(x.data(), v => each(v)).ok_or_else(|| x.wrong_type("a number type"))?;
            one(Tensor::new(x.shape.clone(), data)?)
        }
    };
}
signed_operator!(abs, magnitude);
signed_operator!(neg, negated);
signed_operator!(sign, signum);
signed_operator!(relu, rectified);

fn test(call: &Call<'_>, f: impl Fn(f64, &Call<'_>) -> bool) -> Outcome {
    let x = call.tensor(0)?;
    let codes_have_nan = x.element().is_float();
    if !codes_have_nan {
        return Err(bad("an input has the wrong element type").found(x.element()));
    }
    let flags = x.to_f64s()?.into_iter().map(|v| f(v, call)).collect();
    one(Tensor::new(x.shape.clone(), Data::Bool(flags))?)
}

fn not(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    one(Tensor::new(x.shape.clone(), Data::Bool(x.bools()?.iter().map(|v| !v).collect()))?)
}

fn bitwise_not(call: &Call<'_>) -> Outcome {
    macro_rules! invert {
        ($($variant:ident)*) => {
            match call.tensor(0)?.data() {
                $(Data::$variant(v) => Data::$variant(v.iter().map(|x| !x).collect()),)*
                _ => return Err(call.tensor(0)?.wrong_type("an integer type")),
            }
        };
    }
    let data = invert!(I8 I16 I32 I64 U8 U16 U32 U64);
    one(Tensor::new(call.tensor(0)?.shape.clone(), data)?)
}
