//! How products are summed: exactly (R0), in sequence in `f32` (R1), or as a model of a matrix unit does (R2).

use super::array::Call;
use super::operand::{bad_param, choice, count, flag};
use crate::error::Result;

/// The mode of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// R0: the exact sum of a scale block, rounded once to `f32`.
    #[default]
    Exact,
    /// R1: products and sums in `f32`, K ascending from +0, no fused operations.
    Sequential,
    /// R2: a model of a matrix unit.
    Hardware(Hardware),
}

/// A matrix unit with a short accumulator.
///
/// A *run* of `promote_every` elements of K starts from an accumulator of +0 and goes through `mma_k` products at a time
/// (the last step takes what is left). In a step, the accumulator and the exact products are terms. With E the largest
/// `⌊log2 |t|⌋` of the terms that are not zero, every term is cut to a multiple of `2^(E − fraction_bits)`, the cut terms
/// are added exactly, and the sum is cut to `fraction_bits` bits below its own leading bit. At the end of a run the
/// accumulator is rounded to `f32` (to nearest even) and added in `f32` to the sum of the runs, which starts at +0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Products per step, 1..=65536.
    pub mma_k: usize,
    /// Bits kept below the largest exponent, 0..=32.
    pub fraction_bits: u32,
    /// How what lies below is cut.
    pub rounding: Rounding,
    /// Elements of K after which the accumulator is added to an `f32`; 0: at the end of a scale block only. A scale
    /// block ends a run in any case.
    pub promote_every: usize,
}

/// How a term is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Towards zero.
    Truncate,
    /// To nearest, ties to even.
    NearestEven,
}

impl Default for Hardware {
    /// A plausible model of Hopper's FP8 units.
    fn default() -> Self {
        Self { mma_k: 32, fraction_bits: 13, rounding: Rounding::Truncate, promote_every: 128 }
    }
}

/// How two scales meet the sum of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `d·(sa·sb)`: the product of the scales first.
    Joint,
    /// `(d·sa)·sb`: one scale after the other.
    Successive,
}

/// How the sum of a block enters the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// The order of the scales.
    pub order: Order,
    /// Whether the last multiplication and the addition are fused, with one rounding.
    pub fma: bool,
}

impl Scaling {
    /// The order of a kernel, unfused.
    pub const fn new(order: Order) -> Self {
        Self { order, fma: false }
    }

    /// `acc + d·sa·sb` with the roundings of `f32`.
    #[inline(always)]
    pub fn add(self, acc: f32, d: f32, sa: f32, sb: f32) -> f32 {
        let [left, right] = self.factors(d, sa, sb);
        if self.fma { left.mul_add(right, acc) } else { acc + left * right }
    }

    /// `d·sa·sb` with the roundings of `f32`.
    #[inline(always)]
    pub fn product(self, d: f32, sa: f32, sb: f32) -> f32 {
        let [left, right] = self.factors(d, sa, sb);
        left * right
    }

    #[inline(always)]
    fn factors(self, d: f32, sa: f32, sb: f32) -> [f32; 2] {
        match self.order {
            Order::Joint => [d, sa * sb],
            Order::Successive => [d * sa, sb],
        }
    }
}

/// The parameters `mode`, `mma_k`, `fraction_bits`, `rounding` and `promote_every` of a call.
///
/// # Errors
/// Class Input for values that they do not take.
pub fn mode(call: &Call<'_>) -> Result<Mode> {
    let default = Hardware::default();
    let hardware = Hardware {
        mma_k: count(call, "mma_k", default.mma_k)?,
        fraction_bits: u32::try_from(count(call, "fraction_bits", 13)?).unwrap_or(u32::MAX),
        rounding: choice(
            call,
            "rounding",
            &[("truncate", Rounding::Truncate), ("rne", Rounding::NearestEven)],
        )?,
        promote_every: count(call, "promote_every", default.promote_every)?,
    };
    hardware.check()?;
    choice(call, "mode", &[("R0", Mode::Exact), ("R1", Mode::Sequential), ("R2", Mode::Hardware(hardware))])
}

/// The parameters `order` and `fma` of a call whose kernel's order is `default`.
///
/// # Errors
/// Class Input for values that they do not take.
pub fn scaling(call: &Call<'_>, default: Order) -> Result<Scaling> {
    const JOINT: [(&str, Order); 2] = [("d*(sa*sb)", Order::Joint), ("acc*(sx*sw)", Order::Joint)];
    const SUCCESSIVE: [(&str, Order); 2] =
        [("(d*sa)*sb", Order::Successive), ("(acc*sx)*sw", Order::Successive)];
    let [first, last] = match default {
        Order::Joint => [JOINT, SUCCESSIVE],
        Order::Successive => [SUCCESSIVE, JOINT],
    };
    let order = choice(call, "order", &[first, last].concat())?;
    Ok(Scaling { order, fma: flag(call, "fma", false)? })
}

impl Mode {
    /// Fails for a model whose sums would not be exact.
    ///
    /// # Errors
    /// Class Input, naming the parameter.
    pub fn check(&self) -> Result<()> {
        if let Mode::Hardware(hardware) = self { hardware.check() } else { Ok(()) }
    }
}

impl Hardware {
    fn check(&self) -> Result<()> {
        // The cut terms are integers below 2^(fraction_bits + 1), so that their sum in f64 is exact.
        if !(1..=1 << 16).contains(&self.mma_k) {
            return Err(bad_param("mma_k", "1 to 65536", self.mma_k));
        }
        if self.fraction_bits > 32 {
            return Err(bad_param("fraction_bits", "0 to 32", self.fraction_bits));
        }
        Ok(())
    }

    /// The sum of products over one scale block. The products are exact in `f64`.
    #[inline(always)]
    pub(super) fn dot(&self, a: &[f64], b: &[f64]) -> f32 {
        let plain: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
        if !plain.is_finite() {
            return plain as f32;
        }
        let run = if self.promote_every == 0 { a.len().max(1) } else { self.promote_every };
        let mut sum = 0.0f32;
        for (a, b) in a.chunks(run).zip(b.chunks(run)) {
            let mut acc = 0.0f64;
            for (a, b) in a.chunks(self.mma_k).zip(b.chunks(self.mma_k)) {
                acc = self.step(acc, a, b);
            }
            sum += acc as f32;
        }
        sum
    }

    /// The accumulator after one step.
    #[inline(always)]
    fn step(&self, acc: f64, a: &[f64], b: &[f64]) -> f64 {
        // Magnitudes order as their bits, and zero has the smallest exponent field.
        let largest =
            a.iter().zip(b).map(|(a, b)| (a * b).abs().to_bits()).fold(acc.abs().to_bits(), u64::max) >> 52;
        if largest == 0 {
            return 0.0;
        }
        // Every term is a multiple of 2^-32, the smallest product of E5M2, and below 2^50: both powers are normal.
        let unit = power(i64::from(self.fraction_bits) + 1023 - largest.cast_signed());
        let mut sum = self.cut(acc * unit);
        for (a, b) in a.iter().zip(b) {
            sum += self.cut(a * b * unit);
        }
        if sum == 0.0 {
            return 0.0;
        }
        let exponent = (sum.abs().to_bits() >> 52).cast_signed() - 1023;
        let excess = (exponent - i64::from(self.fraction_bits)).max(0);
        self.cut(sum * power(-excess)) * power(excess) / unit
    }

    #[inline(always)]
    fn cut(&self, x: f64) -> f64 {
        match self.rounding {
            Rounding::Truncate => x.trunc(),
            Rounding::NearestEven => x.round_ties_even(),
        }
    }
}

/// `2^exponent` for exponents of normal numbers.
#[inline(always)]
fn power(exponent: i64) -> f64 {
    f64::from_bits((exponent + 1023).cast_unsigned() << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(fraction_bits: u32, rounding: Rounding) -> Hardware {
        Hardware { mma_k: 4, fraction_bits, rounding, promote_every: 0 }
    }

    #[test]
    fn a_small_product_is_cut_below_the_largest_one() {
        let ones = [1.0; 3];
        let terms = [16.0, 1.5, -1.75];
        // Two bits below 2^4 is a unit of 4; the small products vanish or round.
        assert_eq!(unit(2, Rounding::Truncate).dot(&terms, &ones), 16.0);
        assert_eq!(unit(4, Rounding::Truncate).dot(&terms, &ones), 16.0);
        assert_eq!(unit(4, Rounding::NearestEven).dot(&terms, &ones), 16.0);
        assert_eq!(unit(5, Rounding::NearestEven).dot(&terms, &ones), 16.0 + 1.5 - 2.0);
        assert_eq!(unit(6, Rounding::Truncate).dot(&terms, &ones), 15.75);
    }

    #[test]
    fn the_sum_is_cut_again() {
        let ones = [1.0; 4];
        // 15 + 15 + 1 = 31 needs five bits; three below the leading one leave 30, or 32 to nearest.
        assert_eq!(unit(3, Rounding::Truncate).dot(&[15.0, 15.0, 1.0, 0.0], &ones), 30.0);
        assert_eq!(unit(3, Rounding::NearestEven).dot(&[15.0, 15.0, 1.0, 0.0], &ones), 32.0);
    }

    #[test]
    fn promotion_starts_a_new_accumulator() {
        let ones = [1.0; 8];
        let terms = [1024.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        let promoted = Hardware { promote_every: 4, ..unit(3, Rounding::Truncate) };
        assert_eq!(promoted.dot(&terms, &ones), 1025.0);
        assert_eq!(unit(3, Rounding::Truncate).dot(&terms, &ones), 1024.0);
    }
}
