//! Scale rules: scales from what is known of a unit's values, codes from values.

use super::search::search;
use crate::dtype::Dtype;
use crate::dtype::codec::{
    bf16_from_f32, decode, e4m3_from_f32_clamped, encode_saturating, f16_from_f32, f32_from_bf16,
    f32_from_e4m3, f32_from_e8m0, f32_from_f16,
};
use crate::dtype::scheme::{Rule, Scheme};

/// Rows of casts whose largest magnitude is in this range (or zero) have their squares summed as they are.
pub const NORMALIZER_RANGE: [f32; 2] = [f32::from_bits((127 - 40) << 23), f32::from_bits((127 + 51) << 23)];

/// The largest E4M3FN value.
const E4M3_MAX: f32 = 448.0;

/// The largest E2M1 value.
const E2M1_MAX: f32 = 6.0;

/// What scale rules need to know of the finite values of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extent {
    /// The largest magnitude.
    pub amax: f32,
    /// The smallest value, at most +0.
    pub min: f32,
    /// The largest value, at least +0.
    pub max: f32,
    /// The largest finite scale of the unit's elements in the source, at least +0; 0 for plain floats.
    pub source_scale: f32,
}

impl Extent {
    /// Of these values, of which non-finite ones do not count, without a source scale.
    pub fn of(values: &[f32]) -> Self {
        let mut extent = Self::default();
        values.iter().for_each(|x| extent.add(*x));
        extent
    }

    /// Takes in a value.
    pub fn add(&mut self, x: f32) {
        if x.is_finite() {
            self.amax = self.amax.max(x.abs());
            // Comparisons keep the +0 where a value is −0.
            self.min = if x < self.min { x } else { self.min };
            self.max = if x > self.max { x } else { self.max };
        }
    }
}

/// The scale of a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitScale {
    /// What is stored, exact in the format of the scheme's scales where the rule rounds to it.
    pub stored: f32,
    /// What values are divided by: `stored`, for [`Rule::Nvfp4`] over the global.
    pub divisor: f32,
    /// The zero point; 0 for symmetric rules.
    pub zero: i8,
}

impl UnitScale {
    /// A scale without a global and a zero point.
    pub fn of(scale: f32) -> Self {
        Self { stored: scale, divisor: scale, zero: 0 }
    }
}

/// The scale of a unit by a rule that needs no more than the unit's [`Extent`]: positive, finite, and as [`Rule`] says.
/// `global` is that of [`Rule::Nvfp4`], positive and finite. `None` for [`Rule::Given`] and for rules that try several
/// scales, which [`unit_scale`] makes.
///
/// Where a scale's format ends, [`Rule`]'s `store` gives its largest finite value. [`Rule::Fp4Blocks`] gives at least
/// 2^-127, so that there is an exponent byte for it.
///
/// # Panics
///
/// If an MX rule meets an element other than E4M3 and E2M1.
pub fn scale(scheme: &Scheme, global: f32, extent: &Extent) -> Option<UnitScale> {
    let amax = extent.amax;
    Some(UnitScale::of(match scheme.rule {
        Rule::Given | Rule::BestUe8m0 | Rule::MxBest | Rule::Ssz7 => return None,
        Rule::Amax127 => amax.max(1e-12) / 127.0,
        Rule::Amax127Bf16 => to_bf16((amax / 127.0).max(f32::EPSILON)),
        Rule::Ct127Bf16 => by_bf16(amax, 127.5),
        Rule::Amax448 => amax.max(1e-12) / E4M3_MAX,
        Rule::DeepseekUe8m0 => power_of_two(deepseek_exponent(amax)),
        Rule::Amax7 => amax.max(1e-12) / 7.0,
        Rule::Amax7Eps => amax7_eps(amax),
        Rule::Amax7Half => store(scheme.scale, amax.max(1e-12) / 7.5),
        Rule::Ct7Bf16 => by_bf16(amax, 7.5),
        Rule::Amax127Half => store(scheme.scale, amax.max(1e-12) / 127.5),
        Rule::MinMax15 => {
            let s = store(scheme.scale, (extent.max - extent.min).max(1e-12) / 15.0);
            let zero = (-8.0 - extent.min / s).round_ties_even().clamp(-8.0, 7.0) as i8;
            return Some(UnitScale { zero, ..UnitScale::of(s) });
        }
        Rule::MxFloor => power_of_two(exponent_field(amax) - emax(scheme.element)),
        Rule::MxRceil => power_of_two(rceil_exponent(scheme.element, amax)),
        Rule::MxEven => {
            let rounded = f32::from_bits(amax.to_bits() + (1 << 21));
            power_of_two(exponent_field(rounded) - emax(scheme.element))
        }
        Rule::MxAscend if scheme.element == Dtype::F4E2M1 => {
            let d = f64::from(amax) * 8.0 / 7.0 + 9.6e-7;
            // The floor of the logarithm is the exponent; d is a normal number.
            power_of_two((d.to_bits() >> 52) as i32 - 1023 - 2 + 127)
        }
        Rule::MxAscend => power_of_two(exponent_field(amax) - emax(scheme.element)),
        Rule::Nvfp4 => {
            let s = f32_from_e4m3(e4m3_from_f32_clamped((global * (amax / E2M1_MAX)).min(E4M3_MAX)));
            let stored = if s == 0.0 { 0.125 } else { s };
            return Some(UnitScale { divisor: stored / global, ..UnitScale::of(stored) });
        }
        Rule::Fp4Blocks => (extent.source_scale / 64.0).max(power_of_two(0)),
    }))
}

/// As [`scale`], for rules that ask for the largest magnitude only: `None` for [`Rule::MinMax15`] and [`Rule::Fp4Blocks`]
/// too.
///
/// # Panics
///
/// As [`scale`].
pub fn scale_of_magnitude(scheme: &Scheme, global: f32, amax: f32) -> Option<UnitScale> {
    match scheme.rule {
        Rule::MinMax15 | Rule::Fp4Blocks => None,
        _ => scale(scheme, global, &Extent { amax, ..Extent::default() }),
    }
}

/// The scale of a unit of these values, row-major, by any rule but [`Rule::Given`]; non-finite values do not count.
/// `global` as for [`scale`], `source_scale` as in [`Extent`].
///
/// # Panics
///
/// If the rule is [`Rule::Given`], or as [`scale`].
pub fn unit_scale(scheme: &Scheme, global: f32, values: &[f32], source_scale: f32) -> UnitScale {
    let extent = Extent { source_scale, ..Extent::of(values) };
    scale(scheme, global, &extent).unwrap_or_else(|| search(scheme, &extent, values))
}

/// The global of [`Rule::Nvfp4`] for a tensor, or tensors that share it, of largest magnitude `amax`: `448 · 6 / amax`, 1
/// where that is not finite.
pub fn nvfp4_global(amax: f32) -> f32 {
    let g = 2688.0 / amax;
    if g.is_finite() { g } else { 1.0 }
}

/// The code of `x` under a unit's scale, the value of the code over the scale's divisor (less the zero point), and whether
/// the code's range clamped it. A NaN becomes the code of 0, or a NaN of its sign where the element has one.
///
/// # Panics
///
/// If the rule is [`Rule::Given`], or as [`scale`].
pub fn encode(scheme: &Scheme, x: f32, unit: &UnitScale) -> (u8, f32, bool) {
    let s = unit.divisor;
    match scheme.rule {
        Rule::Amax127
        | Rule::Amax127Bf16
        | Rule::Amax127Half
        | Rule::Amax7
        | Rule::Amax7Eps
        | Rule::Ssz7
        | Rule::Amax7Half => encode_int((x / s).round_ties_even(), code_bounds(scheme.rule)),
        // Clamping before or after rounding is the same: the bounds are integers.
        Rule::Ct127Bf16 | Rule::Ct7Bf16 => {
            encode_int(to_bf16(to_bf16(x) / s).round_ties_even(), code_bounds(scheme.rule))
        }
        Rule::MinMax15 => {
            let zero = f32::from(unit.zero);
            let rounded = (x / s + zero).round_ties_even();
            let rounded = if rounded.is_nan() { zero } else { rounded };
            let (code, q, saturated) = encode_int(rounded, code_bounds(scheme.rule));
            (code, q - zero, saturated)
        }
        Rule::Amax448 | Rule::DeepseekUe8m0 | Rule::BestUe8m0 | Rule::Fp4Blocks => encode_e4m3(x, s, false),
        Rule::MxFloor | Rule::MxRceil | Rule::MxEven | Rule::MxBest => encode_mx(scheme.element, x, s, false),
        Rule::MxAscend => encode_mx(scheme.element, x, s, true),
        Rule::Nvfp4 => encode_e2m1(x, s, false),
        Rule::Given => panic!("no codes by {}", scheme.rule.name()),
    }
}

/// The smallest and the largest code of a rule of integers; those of INT8 for other rules.
pub(in crate::kernel) fn code_bounds(rule: Rule) -> [f32; 2] {
    match rule {
        Rule::Amax127 => [-127.0, 127.0],
        Rule::Amax7 | Rule::Amax7Eps | Rule::Ssz7 | Rule::Amax7Half | Rule::Ct7Bf16 | Rule::MinMax15 => {
            [-8.0, 7.0]
        }
        _ => [-128.0, 127.0],
    }
}

fn encode_mx(element: Dtype, x: f32, s: f32, away: bool) -> (u8, f32, bool) {
    match element {
        Dtype::F8E4M3 => encode_e4m3(x, s, away),
        Dtype::F4E2M1 => encode_e2m1(x, s, away),
        other => panic!("no MX codes of {other}"),
    }
}

/// An integer as a code; a NaN gives 0.
fn encode_int(rounded: f32, [low, high]: [f32; 2]) -> (u8, f32, bool) {
    let q = if rounded.is_nan() { 0.0 } else { rounded.clamp(low, high) };
    // `q` may be −0, whose code is 0.
    (q as i8 as u8, q, q != rounded)
}

fn encode_e4m3(x: f32, s: f32, away: bool) -> (u8, f32, bool) {
    if x.is_nan() {
        return (0x7F | (x.to_bits() >> 24) as u8 & 0x80, x, false);
    }
    let t = x / s;
    let clamped = t.clamp(-E4M3_MAX, E4M3_MAX);
    let code = e4m3_from_f32_clamped(if away { ties_away(clamped, 3, -6) } else { clamped });
    // 464 is halfway to the next value, which would be 480, and rounds to 448 as the even one.
    let saturated = if away { t.abs() >= 464.0 } else { t.abs() > 464.0 };
    (code, f32_from_e4m3(code), saturated)
}

fn encode_e2m1(x: f32, s: f32, away: bool) -> (u8, f32, bool) {
    if x.is_nan() {
        return (0, 0.0, false);
    }
    let t = x / s;
    let clamped = t.abs().min(E2M1_MAX);
    let magnitude = encode_saturating(Dtype::F4E2M1, if away { ties_away(clamped, 1, 0) } else { clamped });
    // A zero has no sign, a negative value that becomes zero has.
    let code = magnitude | if x < 0.0 { 8 } else { 0 };
    // 7 is halfway to the next value, which would be 8 and is even.
    (code as u8, decode(Dtype::F4E2M1, code), t.abs() >= 7.0)
}

/// `t` rounded to a float of that many mantissa bits and least exponent, to nearest, ties away from zero.
fn ties_away(t: f32, mantissa: i32, least: i32) -> f32 {
    let exponent = (exponent_field(t.abs()) - 127).max(least);
    let step = f32::from_bits(((127 + exponent - mantissa) as u32) << 23);
    // Exact: the step is a power of two.
    (t / step).round() * step
}

/// `scale` in the format in which scales are stored; other formats than BF16 and F16 take it as it is.
fn store(dtype: Dtype, scale: f32) -> f32 {
    match dtype {
        Dtype::BF16 => to_bf16(scale.min(f32::MAX)),
        // 65504 is the largest finite value, 2^-24 the smallest.
        Dtype::F16 => f32_from_f16(f16_from_f32(scale.min(65504.0))).max(1.0 / 16_777_216.0),
        _ => scale.min(f32::MAX),
    }
}

/// compressed-tensors in BF16: 0 becomes the format's epsilon.
fn by_bf16(amax: f32, divisor: f32) -> f32 {
    match to_bf16(to_bf16(amax) / divisor) {
        0.0 => 0.007_812_5,
        s => s,
    }
}

/// Where [`Rule::Ssz7`] begins.
pub(in crate::kernel) fn amax7_eps(amax: f32) -> f32 {
    (amax / 7.0).max(f32::EPSILON)
}

pub(super) fn deepseek_exponent(amax: f32) -> i32 {
    exponent_up(amax.max(1e-4) / E4M3_MAX).clamp(1, 254)
}

pub(super) fn rceil_exponent(element: Dtype, amax: f32) -> i32 {
    exponent_up(amax / if emax(element) == 8 { E4M3_MAX } else { E2M1_MAX })
}

/// `2^(exponent − 127)`, the exponent clamped to 0..=254.
pub(super) fn power_of_two(exponent: i32) -> f32 {
    f32_from_e8m0(exponent.clamp(0, 254) as u8)
}

/// The exponent field, plus one if there is a mantissa.
fn exponent_up(d: f32) -> i32 {
    exponent_field(d) + i32::from(d.to_bits() & 0x7F_FFFF != 0)
}

fn exponent_field(x: f32) -> i32 {
    (x.to_bits() >> 23 & 0xFF) as i32
}

/// The exponent of the element's largest value.
fn emax(element: Dtype) -> i32 {
    match element {
        Dtype::F8E4M3 => 8,
        Dtype::F4E2M1 => 2,
        other => panic!("no MX scales for {other}"),
    }
}

/// `x` rounded to BF16. A finite value beyond the format becomes the largest finite value of its sign, not an infinity.
fn to_bf16(x: f32) -> f32 {
    const MAX: f32 = f32::from_bits(0x7F7F_0000);
    let rounded = f32_from_bf16(bf16_from_f32(x));
    if x.is_finite() { rounded.clamp(-MAX, MAX) } else { rounded }
}
