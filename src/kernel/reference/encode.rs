//! Scale rules: scales from largest magnitudes, codes from values.

use crate::dtype::codec::{bf16_from_f32, e4m3_from_f32_clamped, f32_from_bf16, f32_from_e4m3};
use crate::dtype::scheme::Rule;

/// Rows of casts whose largest magnitude is in this range (or zero) have their squares summed as they are.
pub const NORMALIZER_RANGE: [f32; 2] = [f32::from_bits((127 - 40) << 23), f32::from_bits((127 + 51) << 23)];

/// The largest E4M3FN value.
const E4M3_MAX: f32 = 448.0;

/// The scale of a unit whose largest finite magnitude is `amax`; positive and finite.
///
/// # Panics
///
/// If the rule is [`Rule::Given`].
pub fn scale(rule: Rule, amax: f32) -> f32 {
    match rule {
        Rule::Amax127 => amax.max(1e-12) / 127.0,
        Rule::Amax127Bf16 => to_bf16((amax / 127.0).max(f32::EPSILON)),
        Rule::Ct127Bf16 => match to_bf16(to_bf16(amax) / 127.5) {
            0.0 => 0.007_812_5,
            s => s,
        },
        Rule::Amax448 => amax.max(1e-12) / E4M3_MAX,
        Rule::DeepseekUe8m0 => {
            let bits = (amax.max(1e-4) / E4M3_MAX).to_bits();
            let exponent = (bits >> 23) + u32::from(bits & 0x7F_FFFF != 0);
            f32::from_bits(exponent.clamp(1, 254) << 23)
        }
        other => panic!("no scale by {}", other.name()),
    }
}

/// The code of `x` under `scale`, the value of the code without its scale, and whether the code's range clamped it.
///
/// # Panics
///
/// If the rule is [`Rule::Given`].
pub fn encode(rule: Rule, x: f32, scale: f32) -> (u8, f32, bool) {
    match rule {
        Rule::Amax127 => encode_int8((x / scale).round_ties_even(), -127.0),
        Rule::Amax127Bf16 => encode_int8((x / scale).round_ties_even(), -128.0),
        // Clamping before or after rounding is the same: the bounds are integers.
        Rule::Ct127Bf16 => encode_int8(to_bf16(to_bf16(x) / scale).round_ties_even(), -128.0),
        Rule::Amax448 | Rule::DeepseekUe8m0 => {
            if x.is_nan() {
                return (0x7F | (x.to_bits() >> 24) as u8 & 0x80, x, false);
            }
            let t = x / scale;
            let code = e4m3_from_f32_clamped(t.clamp(-E4M3_MAX, E4M3_MAX));
            // 464 is halfway to the next value, which would be 480, and rounds to 448.
            (code, f32_from_e4m3(code), t.abs() > 464.0)
        }
        other => panic!("no codes by {}", other.name()),
    }
}

/// An integer as an int8 code of at least `low`; a NaN gives 0.
fn encode_int8(rounded: f32, low: f32) -> (u8, f32, bool) {
    let q = if rounded.is_nan() { 0.0 } else { rounded.clamp(low, 127.0) };
    // `q` may be −0, whose code is 0.
    (q as i8 as u8, q, q != rounded)
}

/// `x` rounded to BF16. A finite value beyond the format becomes the largest finite value of its sign, not an infinity.
fn to_bf16(x: f32) -> f32 {
    const MAX: f32 = f32::from_bits(0x7F7F_0000);
    let rounded = f32_from_bf16(bf16_from_f32(x));
    if x.is_finite() { rounded.clamp(-MAX, MAX) } else { rounded }
}
