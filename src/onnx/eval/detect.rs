//! Detection and sampling: NonMaxSuppression, GridSample, AffineGrid.

use super::call::{Call, Outcome, one, sizes};
use super::cast::cast;
use super::matmul::matmul;
use super::table::{Operator, wide};
use super::tensor::{Data, Tensor, bad, count};

pub(super) const OPERATORS: &[Operator] = &[
    wide("NonMaxSuppression", 10, non_max_suppression),
    wide("GridSample", 16, grid_sample),
    wide("AffineGrid", 20, affine_grid),
];

/// Intersection over union of two boxes [y1, x1, y2, x2] or, centred, [x, y, w, h].
fn overlap(a: &[f64], b: &[f64], centre: bool) -> f64 {
    let corners = |r: &[f64]| {
        if centre {
            [r[0] - r[2] / 2.0, r[1] - r[3] / 2.0, r[0] + r[2] / 2.0, r[1] + r[3] / 2.0]
        } else {
            [r[0].min(r[2]), r[1].min(r[3]), r[0].max(r[2]), r[1].max(r[3])]
        }
    };
    let (a, b) = (corners(a), corners(b));
    let area = |r: &[f64; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let side = |d: usize| (a[d + 2].min(b[d + 2]) - a[d].max(b[d])).max(0.0);
    let shared = side(0) * side(1);
    let union = area(&a) + area(&b) - shared;
    if union <= 0.0 { 0.0 } else { shared / union }
}

fn non_max_suppression(call: &Call<'_>) -> Outcome {
    let (boxes, scores) = (call.tensor(0)?, call.tensor(1)?);
    let (&[batch, n, 4], &[batch2, classes, n2]) = (boxes.shape.as_slice(), scores.shape.as_slice()) else {
        return Err(bad("boxes must be [batch, n, 4] and scores [batch, classes, n]")
            .found(format!("{:?} and {:?}", boxes.shape, scores.shape)));
    };
    if (batch, n) != (batch2, n2) {
        return Err(
            bad("boxes and scores do not fit").found(format!("{:?} and {:?}", boxes.shape, scores.shape))
        );
    }
    let most = call.optional(2)?.map(Tensor::to_i64).transpose()?.unwrap_or(0).max(0) as usize;
    let limit = call.optional(3)?.map(Tensor::to_f64).transpose()?.unwrap_or(0.0);
    let least = call.optional(4)?.map(Tensor::to_f64).transpose()?;
    let centre = call.int("center_point_box", 0) == 1;
    let (boxes, scores) = (boxes.to_f64s()?, scores.to_f64s()?);
    let mut out = Vec::new();
    for b in 0..batch {
        for c in 0..classes {
            let score = |i: usize| scores[(b * classes + c) * n + i];
            let place = |i: usize| &boxes[(b * n + i) * 4..][..4];
            let mut order: Vec<usize> = (0..n).filter(|i| least.is_none_or(|l| score(*i) > l)).collect();
            order.sort_by(|x, y| score(*y).total_cmp(&score(*x)));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() >= most {
                    break;
                }
                if kept.iter().all(|k| overlap(place(*k), place(i), centre) <= limit) {
                    kept.push(i);
                }
            }
            out.extend(kept.into_iter().flat_map(|i| [b as i64, c as i64, i as i64]));
        }
    }
    one(Tensor::new([out.len() / 3, 3], Data::I64(out))?)
}

/// A reflected coordinate between `low` and `high`.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let away = (x - low).rem_euclid(2.0 * range);
    low + if away > range { 2.0 * range - away } else { away }
}

struct Sampler {
    mode: String,
    padding: String,
    align: bool,
}

impl Sampler {
    /// A grid coordinate in −1..=1 as a position in pixels.
    fn pixel(&self, x: f64, n: usize) -> f64 {
        let n = n as f64;
        if self.align { (x + 1.0) / 2.0 * (n - 1.0) } else { ((x + 1.0) * n - 1.0) / 2.0 }
    }

    fn pad(&self, x: f64, n: usize) -> f64 {
        let last = n as f64 - 1.0;
        match self.padding.as_str() {
            "border" => x.clamp(0.0, last),
            "reflection" if self.align => reflect(x, 0.0, last),
            "reflection" => reflect(x, -0.5, last + 0.5).clamp(0.0, last),
            _ => x,
        }
    }

    /// Weighted whole positions along one axis.
    fn taps(&self, x: f64) -> Vec<(f64, f64)> {
        match self.mode.as_str() {
            "nearest" => vec![(x.round_ties_even(), 1.0)],
            "cubic" | "bicubic" => {
                let floor = x.floor();
                let t = x - floor;
                let a = -0.75;
                let far = |d: f64| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
                let near = |d: f64| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
                vec![
                    (floor - 1.0, far(t + 1.0)),
                    (floor, near(t)),
                    (floor + 1.0, near(1.0 - t)),
                    (floor + 2.0, far(2.0 - t)),
                ]
            }
            _ => {
                let floor = x.floor();
                vec![(floor, 1.0 - (x - floor)), (floor + 1.0, x - floor)]
            }
        }
    }
}

fn grid_sample(call: &Call<'_>) -> Outcome {
    let (x, grid) = (call.tensor(0)?, call.tensor(1)?);
    let spatial = x.rank().checked_sub(2).filter(|s| *s > 0);
    let spatial = spatial.ok_or_else(|| bad("the input must have spatial dimensions"))?;
    if grid.rank() != x.rank() || grid.shape[0] != x.shape[0] || grid.shape[spatial + 1] != spatial {
        return Err(bad("the grid does not fit").found(format!("{:?} for {:?}", grid.shape, x.shape)));
    }
    let sampler = Sampler {
        mode: call.text("mode", "linear")?,
        padding: call.text("padding_mode", "zeros")?,
        align: call.flag("align_corners", false),
    };
    if !["linear", "bilinear", "nearest", "cubic", "bicubic"].contains(&sampler.mode.as_str()) {
        return Err(bad("mode is wrong").expected("linear, nearest or cubic").found(sampler.mode));
    }
    let (values, points) = (x.to_f64s()?, grid.to_f64s()?);
    let channels = x.shape[1];
    let sizes = &x.shape[2..];
    let area: usize = sizes.iter().product();
    let outputs: usize = grid.shape[1..=spatial].iter().product();
    let mut shape = x.shape[..2].to_vec();
    shape.extend_from_slice(&grid.shape[1..=spatial]);
    let mut out = vec![0.0; count(&shape)?];
    if area == 0 {
        return Err(bad("an empty image cannot be sampled"));
    }
    for b in 0..x.shape[0] {
        for o in 0..outputs {
            let point = &points[(b * outputs + o) * spatial..][..spatial];
            // The grid's last coordinate belongs to the first spatial dimension.
            let mut taps: Vec<(Option<usize>, f64)> = vec![(Some(0), 1.0)];
            for (d, n) in sizes.iter().enumerate() {
                let mut p = sampler.pixel(point[spatial - 1 - d], *n);
                if sampler.mode != "cubic" && sampler.mode != "bicubic" {
                    p = sampler.pad(p, *n);
                }
                let along = sampler.taps(p);
                taps = taps
                    .iter()
                    .flat_map(|(at, w)| {
                        let (at, w, sampler) = (*at, *w, &sampler);
                        along.iter().map(move |(q, v)| {
                            let q = sampler.pad(*q, *n);
                            let inside = q >= 0.0 && q <= *n as f64 - 1.0;
                            (at.filter(|_| inside).map(|at| at * n + q as usize), w * v)
                        })
                    })
                    .collect();
            }
            for c in 0..channels {
                let plane = &values[(b * channels + c) * area..][..area];
                out[(b * channels + c) * outputs + o] =
                    taps.iter().filter_map(|(at, w)| at.map(|at| plane[at] * w)).sum();
            }
        }
    }
    one(cast(&Tensor::new(shape, Data::F64(out))?, x.element())?)
}

fn affine_grid(call: &Call<'_>) -> Outcome {
    let (theta, size) = (call.tensor(0)?, sizes(&call.tensor(1)?.to_i64s()?)?);
    let spatial = size.len().checked_sub(2).filter(|s| (2..=3).contains(s));
    let spatial = spatial.ok_or_else(|| bad("size must have 4 or 5 entries").found(size.len()))?;
    if theta.shape != [size[0], spatial, spatial + 1] {
        return Err(bad("theta does not fit").found(format!("{:?}", theta.shape)));
    }
    let align = call.flag("align_corners", false);
    let inner = &size[2..];
    let points = count(inner)?;
    count(&[points, spatial + 1])?;
    let steps = super::tensor::strides(inner);
    let at = |i: usize, n: usize| {
        let (i, n) = (i as f64, n as f64);
        match align {
            true if n > 1.0 => -1.0 + 2.0 * i / (n - 1.0),
            true => -1.0,
            false => -1.0 + (2.0 * i + 1.0) / n,
        }
    };
    // Homogeneous points, last dimension first: [x, y, (z,) 1] as columns.
    let mut base = Vec::with_capacity(points * (spatial + 1));
    for row in 0..=spatial {
        base.extend((0..points).map(|p| match spatial.checked_sub(row + 1) {
            Some(d) => at(p / steps[d] % inner[d], inner[d]),
            None => 1.0,
        }));
    }
    let base = Tensor::new([spatial + 1, points], Data::F64(base))?;
    let grid = matmul(&cast(theta, crate::onnx::element::Element::F64)?, &base)?.transposed(&[0, 2, 1])?;
    let mut shape = vec![size[0]];
    shape.extend_from_slice(inner);
    shape.push(spatial);
    one(cast(&grid.reshaped(shape)?, theta.element())?)
}
