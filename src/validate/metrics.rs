//! The metrics by which the field accepts kernels and layers, over a stream of pairs.
//!
//! Definitions are those of docs/numerics.md: `calc_diff` as DeepGEMM has it, `rel_diff` as vLLM, MERE, MARE and RMSE as
//! Ascend's operator standard, `diff1` to `diff4` as Cambricon's MLU-OPS, the bias test as TileKernels.
//!
//! Every pair enters in `f64`, every sum is an [`ExactSum`]: the result depends neither on the order of the pairs nor on
//! how they are split among accumulators.
//!
//! NaN beside NaN, and infinities of one sign, count as a pair of zeros. Any other NaN or infinity makes every error the
//! largest `f64`, as Cambricon's evaluator does, so that no gate lets it pass.

use crate::dtype::Dtype;
use crate::kernel::ExactSum;
use crate::report::model::Metrics;

/// What an error becomes that no number expresses: Cambricon's `DBL_MAX`.
pub const UNBOUNDED: f64 = f64::MAX;

/// Added to a reference before it divides, in MERE and MARE.
const FLOOR: f64 = 1e-7;

/// The distance up to which an element counts as equal: `absolute + relative × |golden|`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// Part that does not depend on the golden value.
    pub absolute: f64,
    /// Part in proportion to the golden value's magnitude.
    pub relative: f64,
}

/// The magnitude of a golden value below which `diff3` takes the error as absolute: 1e-4 for results in F16 or BF16,
/// 1e-6 for wider ones.
pub fn diff3_threshold(dtype: Dtype) -> f64 {
    if matches!(dtype, Dtype::F16 | Dtype::BF16) { 1e-4 } else { 1e-6 }
}

/// The metrics of the pairs added so far.
#[derive(Clone, Debug)]
pub struct Accumulator {
    threshold: f64,
    tolerance: Tolerance,
    count: u64,
    above: u64,
    below: u64,
    special_mismatches: u64,
    /// Σ actual², Σ golden², Σ actual·golden, Σ |Δ|, Σ |golden|, Σ Δ², Σ |Δ| / (|golden| + 1e-7).
    actual_squares: ExactSum,
    golden_squares: ExactSum,
    products: ExactSum,
    errors: ExactSum,
    golden_magnitudes: ExactSum,
    error_squares: ExactSum,
    relative_errors: ExactSum,
    max_abs: f64,
    mare: f64,
    /// Largest relative error above the threshold, largest absolute error below it.
    diff3: [f64; 2],
    first_bad: Option<u64>,
}

impl Accumulator {
    /// Of nothing yet; `dtype` is the format of the results, which sets [`diff3_threshold`].
    pub fn new(dtype: Dtype) -> Self {
        Self::with_tolerance(dtype, Tolerance::default())
    }

    /// As [`Self::new`]; elements within `tolerance` are no candidates for the first bad one.
    pub fn with_tolerance(dtype: Dtype, tolerance: Tolerance) -> Self {
        Self {
            threshold: diff3_threshold(dtype),
            tolerance,
            count: 0,
            above: 0,
            below: 0,
            special_mismatches: 0,
            actual_squares: ExactSum::new(),
            golden_squares: ExactSum::new(),
            products: ExactSum::new(),
            errors: ExactSum::new(),
            golden_magnitudes: ExactSum::new(),
            error_squares: ExactSum::new(),
            relative_errors: ExactSum::new(),
            max_abs: 0.0,
            mare: 0.0,
            diff3: [0.0; 2],
            first_bad: None,
        }
    }

    /// Adds the pairs of two slices, of which the first is element `offset` of the array in row-major order. Pairs end
    /// with the shorter slice.
    pub fn add<A: Copy + Into<f64>, G: Copy + Into<f64>>(&mut self, offset: u64, actual: &[A], golden: &[G]) {
        debug_assert_eq!(actual.len(), golden.len(), "pairs");
        for (index, (a, g)) in (offset..).zip(actual.iter().zip(golden)) {
            self.add_pair(index, (*a).into(), (*g).into());
        }
    }

    /// Adds one pair, element `index` of the array in row-major order.
    pub fn add_pair(&mut self, index: u64, actual: f64, golden: f64) {
        self.count += 1;
        let (a, g) = match (actual.is_finite(), golden.is_finite()) {
            (true, true) => (actual, golden),
            _ if actual == golden || (actual.is_nan() && golden.is_nan()) => (0.0, 0.0),
            _ => {
                self.special_mismatches += 1;
                self.bad(index);
                return;
            }
        };
        let error = (a - g).abs();
        let relative = error / (g.abs() + FLOOR);
        self.above += u64::from(a > g);
        self.below += u64::from(a < g);
        self.actual_squares.add(a * a);
        self.golden_squares.add(g * g);
        self.products.add(a * g);
        self.golden_magnitudes.add(g.abs());
        if error > 0.0 {
            self.errors.add(error);
            self.error_squares.add(error * error);
            self.relative_errors.add(relative);
        }
        self.max_abs = self.max_abs.max(error);
        self.mare = self.mare.max(relative);
        let [large, small] = &mut self.diff3;
        if g.abs() > self.threshold {
            *large = large.max(error / g.abs());
        } else {
            *small = small.max(error);
        }
        if error > self.tolerance.absolute + self.tolerance.relative * g.abs() {
            self.bad(index);
        }
    }

    fn bad(&mut self, index: u64) {
        self.first_bad = Some(self.first_bad.map_or(index, |first| first.min(index)));
    }

    /// Adds what another accumulator of the same array holds.
    pub fn merge(&mut self, other: &Accumulator) {
        self.count += other.count;
        self.above += other.above;
        self.below += other.below;
        self.special_mismatches += other.special_mismatches;
        self.actual_squares.merge(&other.actual_squares);
        self.golden_squares.merge(&other.golden_squares);
        self.products.merge(&other.products);
        self.errors.merge(&other.errors);
        self.golden_magnitudes.merge(&other.golden_magnitudes);
        self.error_squares.merge(&other.error_squares);
        self.relative_errors.merge(&other.relative_errors);
        self.max_abs = self.max_abs.max(other.max_abs);
        self.mare = self.mare.max(other.mare);
        for (a, b) in self.diff3.iter_mut().zip(other.diff3) {
            *a = a.max(b);
        }
        if let Some(index) = other.first_bad {
            self.bad(index);
        }
    }

    /// Pairs added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The metrics; `shape` is that of the array, which the coordinate of the first bad element refers to.
    ///
    /// Without pairs every metric is null. A mismatch of NaN or infinities makes every error [`UNBOUNDED`], the SQNR
    /// `-UNBOUNDED` and the cosine −1.
    pub fn finish(&self, shape: &[u64]) -> Metrics {
        if self.count == 0 {
            return Metrics::default();
        }
        let n = self.count as f64;
        let unequal = self.above + self.below;
        let share = |part: u64| if unequal == 0 { 0.0 } else { part as f64 / unequal as f64 };
        let equal = self.count - unequal - self.special_mismatches;
        let mut metrics = Metrics {
            diff4: Some([share(self.above), share(self.below), unequal as f64]),
            bias: Some(((self.below as f64 + 0.5 * equal as f64) / n - 0.5).abs()),
            same_specials: Some(self.special_mismatches == 0),
            first_bad: self.first_bad.map(|index| coordinate(index, shape)),
            ..Metrics::default()
        };
        if self.special_mismatches > 0 {
            let unbounded = Some(UNBOUNDED);
            return Metrics {
                calc_diff: unbounded,
                rel_diff: unbounded,
                mere: unbounded,
                mare: unbounded,
                rmse: unbounded,
                diff1: unbounded,
                diff2: unbounded,
                diff3: unbounded,
                max_abs: unbounded,
                cosine: Some(-1.0),
                sqnr_db: Some(-UNBOUNDED),
                ..metrics
            };
        }
        let (aa, gg, ag) =
            (self.actual_squares.to_f64(), self.golden_squares.to_f64(), self.products.to_f64());
        let (errors, magnitudes) = (self.errors.to_f64(), self.golden_magnitudes.to_f64());
        let squares = self.error_squares.to_f64();
        // 1 − 2Σxy / Σ(x² + y²) is the sum of squared errors over that denominator, without the cancellation.
        let energy = aa + gg;
        metrics.calc_diff = Some(if energy == 0.0 { 0.0 } else { squares / energy });
        metrics.rel_diff = Some(ratio(errors, magnitudes));
        metrics.diff1 = metrics.rel_diff;
        metrics.diff2 = Some(ratio(squares, gg).sqrt());
        metrics.mere = Some(self.relative_errors.to_f64() / n);
        metrics.mare = Some(self.mare);
        metrics.rmse = Some((squares / n).sqrt());
        metrics.diff3 = Some(self.diff3[0].max(self.diff3[1]));
        metrics.max_abs = Some(self.max_abs);
        let norms = aa.sqrt() * gg.sqrt();
        metrics.cosine = (norms > 0.0).then(|| (ag / norms).clamp(-1.0, 1.0));
        metrics.sqnr_db = sqnr_db(gg, squares);
        metrics
    }
}

/// 10 log₁₀(signal / noise); `None` without noise, where it is infinite, `-UNBOUNDED` for noise alone.
pub fn sqnr_db(signal: f64, noise: f64) -> Option<f64> {
    match (signal > 0.0, noise > 0.0) {
        (_, false) => None,
        (true, true) => Some(10.0 * (signal / noise).log10()),
        (false, true) => Some(-UNBOUNDED),
    }
}

/// A quotient of errors and magnitudes: 0 over 0 is no error, an error over 0 is [`UNBOUNDED`].
pub fn ratio(error: f64, magnitude: f64) -> f64 {
    if error == 0.0 {
        0.0
    } else if magnitude == 0.0 {
        UNBOUNDED
    } else {
        (error / magnitude).min(UNBOUNDED)
    }
}

/// The coordinate of element `index` of a row-major array.
pub fn coordinate(index: u64, shape: &[u64]) -> Vec<u64> {
    let mut rest = index;
    let mut out: Vec<u64> = shape
        .iter()
        .rev()
        .map(|dim| {
            let dim = (*dim).max(1);
            let at = rest % dim;
            rest /= dim;
            at
        })
        .collect();
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(actual: &[f64], golden: &[f64]) -> Metrics {
        let mut all = Accumulator::new(Dtype::F32);
        all.add(0, actual, golden);
        all.finish(&[actual.len() as u64])
    }

    #[test]
    fn a_uniform_factor_has_its_closed_form() {
        let golden: Vec<f64> = (1..200).map(|i| f64::from(i) / 7.0).collect();
        let actual: Vec<f64> = golden.iter().map(|x| x * 1.02).collect();
        let m = of(&actual, &golden);
        let c = 1.02f64;
        assert!((m.calc_diff.unwrap() - (1.0 - 2.0 * c / (1.0 + c * c))).abs() < 1e-12);
        assert!((m.rel_diff.unwrap() - 0.02).abs() < 1e-12);
        assert!((m.cosine.unwrap() - 1.0).abs() < 1e-12);
        assert!((m.sqnr_db.unwrap() - 20.0 * 50f64.log10()).abs() < 1e-9);
        assert_eq!(m.diff4, Some([1.0, 0.0, 199.0]));
        assert_eq!(m.bias, Some(0.5));
        assert_eq!(m.first_bad, Some(vec![0]));
    }

    #[test]
    fn order_and_grouping_do_not_matter() {
        let golden: Vec<f64> =
            (0..999).map(|i| (f64::from(i) * 1.37).sin() * 10f64.powi(i % 40 - 20)).collect();
        let actual: Vec<f64> =
            golden.iter().enumerate().map(|(i, x)| x * (1.0 + 1e-3 * (i % 7) as f64)).collect();
        let whole = of(&actual, &golden);
        let mut merged = Accumulator::new(Dtype::F32);
        for start in (0..999).step_by(100).rev() {
            let end = (start + 100).min(999);
            let mut part = Accumulator::new(Dtype::F32);
            for i in (start..end).rev() {
                part.add_pair(i as u64, actual[i], golden[i]);
            }
            merged.merge(&part);
        }
        assert_eq!(merged.finish(&[999]), whole);
        assert_eq!(merged.count(), 999);
    }

    #[test]
    fn specials_in_the_same_places_are_zeros_and_others_are_unbounded() {
        let inf = f64::INFINITY;
        let m = of(&[f64::NAN, inf, -inf, 3.0], &[f64::NAN, inf, -inf, 2.0]);
        assert_eq!((m.same_specials, m.max_abs, m.rmse), (Some(true), Some(1.0), Some(0.5)));
        for (a, g) in [(f64::NAN, 1.0), (1.0, f64::NAN), (inf, -inf), (inf, f64::MAX), (f64::NAN, inf)] {
            let m = of(&[1.0, a], &[1.0, g]);
            assert_eq!(m.same_specials, Some(false));
            assert_eq!(m.first_bad, Some(vec![1]));
            for error in
                [m.calc_diff, m.rel_diff, m.mere, m.mare, m.rmse, m.diff1, m.diff2, m.diff3, m.max_abs]
            {
                assert_eq!(error, Some(UNBOUNDED));
            }
            assert_eq!((m.cosine, m.sqnr_db), (Some(-1.0), Some(-UNBOUNDED)));
        }
    }

    #[test]
    fn empty_equal_and_zero_references() {
        assert_eq!(of(&[], &[]), Metrics::default());
        let m = of(&[1.0, -0.0], &[1.0, 0.0]);
        assert_eq!((m.calc_diff, m.sqnr_db, m.first_bad), (Some(0.0), None, None));
        assert_eq!(m.bias, Some(0.0));
        let m = of(&[0.0, 1e-9], &[0.0, 0.0]);
        assert_eq!((m.calc_diff, m.rel_diff, m.cosine), (Some(1.0), Some(UNBOUNDED), None));
        assert_eq!((m.sqnr_db, m.diff3), (Some(-UNBOUNDED), Some(1e-9)));
    }

    #[test]
    fn tolerance_and_shape_place_the_first_bad_element() {
        let mut m = Accumulator::with_tolerance(Dtype::BF16, Tolerance { absolute: 0.0, relative: 0.1 });
        let golden = [1f32, 1.0, 1.0, 1.0, 1.0, 1.0];
        m.add(0, &[1f32, 1.05, 1.0, 1.0, 1.2, 1.3], &golden);
        assert_eq!(m.finish(&[2, 3]).first_bad, Some(vec![1, 1]));
        assert_eq!(coordinate(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!(diff3_threshold(Dtype::F16), 1e-4);
        assert_eq!(diff3_threshold(Dtype::F32), 1e-6);
    }
}
