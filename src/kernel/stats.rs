//! Error statistics of a conversion, independent of instruction set and tiling.

use super::ExactSum;

/// What a conversion did to the values of a tile or tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Σ x² over finite values.
    pub signal: ExactSum,
    /// Σ (x − decoded)² over finite values.
    pub noise: ExactSum,
    /// Elements converted.
    pub elements: u64,
    /// The largest |x − decoded| over finite values.
    pub max_abs_error: f32,
    /// Scale units (rows or blocks) of a quantized tile without a non-zero finite value.
    pub zero_rows: u64,
    /// Finite values whose nearest code or float lies beyond the range of the target, and were clamped (codes) or became
    /// infinite (casts).
    pub saturated: u64,
    /// NaN and infinite values.
    pub non_finite: u64,
    /// Non-zero codes of the source under a scale of zero.
    pub zero_scale_codes: u64,
    /// Units in which some finite value has an error.
    pub inexact_units: u64,
}

impl Stats {
    /// Adds the statistics of another tile. Order and grouping do not matter.
    pub fn merge(&mut self, other: &Stats) {
        self.signal.merge(&other.signal);
        self.noise.merge(&other.noise);
        self.elements += other.elements;
        self.max_abs_error = self.max_abs_error.max(other.max_abs_error);
        self.zero_rows += other.zero_rows;
        self.saturated += other.saturated;
        self.non_finite += other.non_finite;
        self.zero_scale_codes += other.zero_scale_codes;
        self.inexact_units += other.inexact_units;
    }

    /// Signal-to-quantization-noise ratio in dB; `None` without signal or without noise (a lossless conversion).
    pub fn sqnr_db(&self) -> Option<f64> {
        let (signal, noise) = (self.signal.to_f64(), self.noise.to_f64());
        (signal > 0.0 && noise > 0.0).then(|| 10.0 * (signal / noise).log10())
    }

    /// Adds the sums of a unit whose values were divided by `n`.
    #[inline(always)]
    pub(crate) fn add_unit(&mut self, lanes: &mut Lanes, n: f32) {
        lanes.fold();
        self.add_sums(lanes.signal_sum, lanes.noise_sum, lanes.largest(), n);
    }

    /// Adds a unit's sums and its largest error, all of values that were divided by `n`.
    #[inline(always)]
    pub(crate) fn add_sums(&mut self, signal: f64, noise: f64, largest: f32, n: f32) {
        let n2 = f64::from(n) * f64::from(n);
        self.signal.add(signal * n2);
        self.noise.add(noise * n2);
        // Not the noise: squares of tiny errors vanish.
        self.inexact_units += u64::from(largest > 0.0);
        let error = largest * n;
        self.max_abs_error = if error > self.max_abs_error { error } else { self.max_abs_error };
    }
}

/// Lanes of the `f32` sums: element `c` of a unit's row goes to lane `c % 16`.
pub const LANES: usize = 16;

/// Columns of a piece: a unit's rows are summed piece by piece.
pub const PIECE: usize = 2048;

/// Steps of 16 elements after which the lanes are folded, checked at the end of each piece.
const STEPS: usize = 128;

/// The sums of one unit, in an order of additions that vectors follow.
///
/// A unit is taken row by row, a row in pieces of [`PIECE`] columns, a piece in steps of [`LANES`] elements (the last
/// padded with zeros). Each lane adds its squares in `f32`. After a piece, once 128 steps have been added, and at
/// the end of the unit, the lanes are folded: halves are added in `f32` (16 to 8 to 4 to 2 to 1) and the result is added
/// to an `f64`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lanes {
    pub(crate) signal: [f32; LANES],
    pub(crate) noise: [f32; LANES],
    /// Largest |t − q| per lane.
    pub(crate) error: [f32; LANES],
    steps: usize,
    signal_sum: f64,
    noise_sum: f64,
}

impl Lanes {
    /// Adds consecutive normalized values and their errors, whole steps from lane 0.
    #[inline(always)]
    pub(crate) fn add<const N: usize>(&mut self, t: &[f32; N], e: &[f32; N]) {
        // Locals, because the optimizer keeps them in registers.
        let Lanes { mut signal, mut noise, mut error, .. } = *self;
        for (t, e) in t.as_chunks::<LANES>().0.iter().zip(e.as_chunks::<LANES>().0) {
            for i in 0..LANES {
                signal[i] += t[i] * t[i];
                noise[i] += e[i] * e[i];
                let a = e[i].abs();
                error[i] = if a > error[i] { a } else { error[i] };
            }
        }
        (self.signal, self.noise, self.error) = (signal, noise, error);
    }

    /// Ends a piece of `columns` columns.
    #[inline(always)]
    pub(crate) fn end_piece(&mut self, columns: usize) {
        self.steps += columns.div_ceil(LANES);
        if self.steps >= STEPS {
            self.fold();
        }
    }

    #[inline(always)]
    fn fold(&mut self) {
        self.signal_sum += f64::from(fold(self.signal));
        self.noise_sum += f64::from(fold(self.noise));
        self.signal = [0.0; LANES];
        self.noise = [0.0; LANES];
        self.steps = 0;
    }

    fn largest(&self) -> f32 {
        self.error.iter().fold(0.0, |a, b| if *b > a { *b } else { a })
    }
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
