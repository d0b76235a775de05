//! Rules that try several scales and keep the one of the least error.

use super::encode::{Extent, UnitScale, amax7_eps, deepseek_exponent, encode, power_of_two, rceil_exponent};
use crate::dtype::scheme::{Rule, Scheme};

/// Rounds of [`Rule::Ssz7`], at most.
pub const SSZ_ROUNDS: usize = 50;

/// The scale of a unit by a rule for which [`scale`](super::scale) has none. `values` are the unit's, row-major, `extent`
/// theirs; non-finite ones do not count.
///
/// # Panics
///
/// If the rule is none of [`Rule::BestUe8m0`], [`Rule::MxBest`] and [`Rule::Ssz7`], or as [`scale`](super::scale).
pub fn search(scheme: &Scheme, extent: &Extent, values: &[f32]) -> UnitScale {
    match scheme.rule {
        Rule::BestUe8m0 => best_power(scheme, deepseek_exponent(extent.amax), values),
        Rule::MxBest => best_power(scheme, rceil_exponent(scheme.element, extent.amax), values),
        Rule::Ssz7 => UnitScale::of(ssz(extent.amax, values)),
        other => panic!("no scale by {}", other.name()),
    }
}

/// The better one of two exponents, the larger one on a tie.
fn best_power(scheme: &Scheme, exponent: i32, values: &[f32]) -> UnitScale {
    let [larger, smaller] = [exponent, exponent - 1].map(|e| UnitScale::of(power_of_two(e)));
    let error = |unit: &UnitScale| {
        values.iter().filter(|x| x.is_finite()).fold(0.0, |sum, x| {
            let (_, q, _) = encode(scheme, *x, unit);
            let e = f64::from(*x) - f64::from(q) * f64::from(unit.divisor);
            sum + e * e
        })
    };
    if error(&smaller) < error(&larger) { smaller } else { larger }
}

/// Sums of a round: Σ x·q, Σ q·q, Σ (x − q·s)², in the order of the values.
struct Round {
    xq: f64,
    qq: f64,
    error: f64,
}

fn ssz_round(values: &[f32], scale: f32) -> Round {
    let mut sums = Round { xq: 0.0, qq: 0.0, error: 0.0 };
    for x in values.iter().filter(|x| x.is_finite()) {
        let q = f64::from((x / scale).round_ties_even().clamp(-8.0, 7.0));
        let x = f64::from(*x);
        let e = x - q * f64::from(scale);
        sums.xq += x * q;
        sums.qq += q * q;
        sums.error += e * e;
    }
    sums
}

fn ssz(amax: f32, values: &[f32]) -> f32 {
    let mut scale = amax7_eps(amax);
    let mut sums = ssz_round(values, scale);
    let (mut best, mut least) = (scale, sums.error);
    for _ in 0..SSZ_ROUNDS {
        let next = ssz_next(sums.xq, sums.qq);
        // Not positive also where it is a NaN.
        if next == scale || !(next > 0.0 && next.is_finite()) {
            break;
        }
        scale = next;
        sums = ssz_round(values, scale);
        if sums.error < least {
            (best, least) = (scale, sums.error);
        }
    }
    best
}

/// The scale of the least squares, given the codes.
pub(in crate::kernel) fn ssz_next(xq: f64, qq: f64) -> f32 {
    (xq / qq.max(1e-30)) as f32
}
