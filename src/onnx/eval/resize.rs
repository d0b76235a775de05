//! Resize and Upsample: interpolation axis by axis.

use super::call::{Call, Outcome, axes, one};
use super::cast::cast;
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, bad, count};
use crate::error::Result;
use crate::onnx::element::Element;

pub(super) const OPERATORS: &[Operator] =
    &[native("Resize", 10, resize), native("Upsample", 7, resize).until(9)];

/// How one axis is resized.
struct Axis<'a> {
    input: usize,
    output: usize,
    scale: f64,
    roi: (f64, f64),
    settings: &'a Settings,
}

struct Settings {
    mode: String,
    coordinate: String,
    nearest: String,
    cubic_a: f64,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f64,
}

/// What an output position is made of: weighted input positions, or the extrapolation value.
enum Source {
    Weighted(Vec<(usize, f64)>),
    Outside,
}

impl Axis<'_> {
    /// The input coordinate of an output position.
    fn coordinate(&self, y: f64) -> Result<f64> {
        let input = self.input as f64;
        let output = self.scale * input;
        Ok(match self.settings.coordinate.as_str() {
            "align_corners" if output == 1.0 => 0.0,
            "align_corners" => y * (input - 1.0) / (output - 1.0),
            "asymmetric" => y / self.scale,
            "tf_crop_and_resize" => {
                let (start, end) = self.roi;
                let along = if output == 1.0 {
                    (end - start) * (input - 1.0) / 2.0
                } else {
                    y * (end - start) * (input - 1.0) / (output - 1.0)
                };
                along + start * (input - 1.0)
            }
            "pytorch_half_pixel" if output == 1.0 => -0.5,
            "pytorch_half_pixel" | "half_pixel" => (y + 0.5) / self.scale - 0.5,
            "half_pixel_symmetric" => {
                let adjustment = self.output as f64 / output;
                input / 2.0 * (1.0 - adjustment) + (y + 0.5) / self.scale - 0.5
            }
            other => return Err(bad("coordinate_transformation_mode is wrong").found(other)),
        })
    }

    /// Weights of the neighbours, the first one's offset from ⌊x⌋ left to [`Axis::source`].
    fn weights(&self, ratio: f64) -> Result<Vec<f64>> {
        let s = self.settings;
        let (nearest, whole) = (s.nearest.as_str(), ratio == 1.0);
        let narrow = self.scale.min(1.0);
        Ok(match s.mode.as_str() {
            "nearest" if whole => vec![0.0, 1.0],
            "nearest" => {
                let right = match nearest {
                    "round_prefer_floor" => ratio > 0.5,
                    "round_prefer_ceil" => ratio >= 0.5,
                    "floor" => false,
                    "ceil" => true,
                    other => return Err(bad("nearest_mode is wrong").found(other)),
                };
                if right { vec![0.0, 1.0] } else { vec![1.0, 0.0] }
            }
            "linear" | "bilinear" if s.antialias => {
                let start = (-1.0 / narrow).floor() as i64 + 1;
                let footprint = 2 - 2 * start;
                let raw = (start..start + footprint)
                    .map(|i| (1.0 - ((i as f64 - ratio) * narrow).abs()).clamp(0.0, 1.0));
                unit(raw.collect())
            }
            "linear" | "bilinear" => vec![1.0 - ratio, ratio],
            "cubic" if s.antialias => {
                let start = (-2.0 / narrow).floor() as i64 + 1;
                unit((start..2 - start).map(|i| cubic(narrow * (i as f64 - ratio), s.cubic_a)).collect())
            }
            "cubic" => (-1..3).map(|i| cubic(f64::from(i) - ratio, s.cubic_a)).collect(),
            other => return Err(bad("mode is wrong").expected("nearest, linear or cubic").found(other)),
        })
    }

    fn source(&self, y: usize) -> Result<Source> {
        let x = self.coordinate(y as f64)?;
        let last = self.input as f64 - 1.0;
        if self.settings.coordinate == "tf_crop_and_resize" && !(0.0..=last).contains(&x) {
            return Ok(Source::Outside);
        }
        let floor = x.floor();
        let ratio = if x == floor { 1.0 } else { x - floor };
        let mut weights = self.weights(ratio)?;
        let n = weights.len() as i64;
        // An even number of neighbours; on a whole coordinate the left ones are nearer.
        let start = floor as i64 - n / 2 + i64::from(x != floor);
        let index = |i: usize| start + i as i64;
        if self.settings.exclude_outside {
            for (i, w) in weights.iter_mut().enumerate() {
                if index(i) < 0 || index(i) >= self.input as i64 {
                    *w = 0.0;
                }
            }
            weights = unit(weights);
        }
        let clamped = |i: usize| index(i).clamp(0, self.input as i64 - 1) as usize;
        let used = weights.iter().enumerate().filter(|(_, w)| **w != 0.0);
        Ok(Source::Weighted(used.map(|(i, w)| (clamped(i), *w)).collect()))
    }
}

fn unit(weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    if sum == 0.0 { weights } else { weights.into_iter().map(|w| w / sum).collect() }
}

/// The cubic convolution kernel with parameter `a` (Keys 1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// Scales and output sizes per dimension.
fn extents(call: &Call<'_>, x: &Tensor, which: &[usize]) -> Result<Vec<(f64, usize)>> {
    let mut out: Vec<(f64, usize)> = x.shape.iter().map(|n| (1.0, *n)).collect();
    let given = |i: usize| Ok::<_, crate::error::Error>(call.optional(i)?.filter(|t| !t.is_empty()));
    let (scales, sizes) = match call.opset {
        ..=8 => (call.floats("scales").map(<[f32]>::to_vec), None),
        9 | 10 => (given(1)?.map(Tensor::to_f32s).transpose()?, None),
        _ => (given(2)?.map(Tensor::to_f32s).transpose()?, given(3)?.map(Tensor::to_i64s).transpose()?),
    };
    let wrong = || bad("one scale or size per axis is needed").expected(which.len());
    match (scales, sizes) {
        (Some(scales), _) => {
            if scales.len() != which.len() || scales.iter().any(|s| !(*s > 0.0 && s.is_finite())) {
                return Err(wrong().found(format!("{scales:?}")));
            }
            for (d, s) in which.iter().zip(scales) {
                let s = f64::from(s);
                out[*d] = (s, (x.shape[*d] as f64 * s) as usize);
            }
        }
        (None, Some(sizes)) => {
            if sizes.len() != which.len()
                || sizes.iter().any(|s| *s < 0)
                || which.iter().any(|d| x.shape[*d] == 0)
            {
                return Err(wrong().found(format!("{sizes:?}")));
            }
            let ratios: Vec<f64> =
                which.iter().zip(&sizes).map(|(d, s)| *s as f64 / x.shape[*d] as f64).collect();
            let common = match call.text("keep_aspect_ratio_policy", "stretch")?.as_str() {
                "not_larger" => Some(ratios.iter().copied().fold(f64::INFINITY, f64::min)),
                "not_smaller" => Some(ratios.iter().copied().fold(0.0, f64::max)),
                _ => None,
            };
            for ((d, size), ratio) in which.iter().zip(sizes).zip(ratios) {
                out[*d] = match common {
                    Some(scale) => (scale, (scale * x.shape[*d] as f64 + 0.5) as usize),
                    None => (ratio, size as usize),
                };
            }
        }
        (None, None) => return Err(bad("scales or sizes are needed")),
    }
    Ok(out)
}

fn resize(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let which = match call.ints("axes") {
        Some(values) => axes(values, x.rank())?,
        None => (0..x.rank()).collect(),
    };
    let old = call.opset < 11;
    let settings = Settings {
        mode: call.text("mode", "nearest")?,
        coordinate: if old {
            "asymmetric".into()
        } else {
            call.text("coordinate_transformation_mode", "half_pixel")?
        },
        nearest: if old { "floor".into() } else { call.text("nearest_mode", "round_prefer_floor")? },
        cubic_a: f64::from(call.float("cubic_coeff_a", -0.75)),
        antialias: call.flag("antialias", false),
        exclude_outside: call.flag("exclude_outside", false),
        extrapolation: f64::from(call.float("extrapolation_value", 0.0)),
    };
    let extents = extents(call, x, &which)?;
    let crop = settings.coordinate == "tf_crop_and_resize";
    let roi = match call.optional(1)? {
        Some(roi) if crop => roi.to_f64s()?,
        _ => Vec::new(),
    };
    if crop && roi.len() != 2 * which.len() {
        return Err(bad("roi must have a start and an end per axis")
            .expected(2 * which.len())
            .found(roi.len()));
    }
    count(&extents.iter().map(|e| e.1).collect::<Vec<_>>())?;
    let mut shape = x.shape.clone();
    let mut values = x.to_f64s()?;
    for (d, (scale, output)) in extents.into_iter().enumerate() {
        let within = which.iter().position(|w| *w == d);
        let roi = within.filter(|_| crop).map_or((0.0, 1.0), |i| (roi[i], roi[which.len() + i]));
        if scale == 1.0 && output == shape[d] && !(crop && roi != (0.0, 1.0)) {
            continue;
        }
        if shape[d] == 0 {
            return Err(bad("an empty axis cannot be resized"));
        }
        let axis = Axis { input: shape[d], output, scale, roi, settings: &settings };
        let sources: Vec<Source> = (0..output).map(|y| axis.source(y)).collect::<Result<_>>()?;
        let inner: usize = shape[d + 1..].iter().product();
        let outer: usize = shape[..d].iter().product();
        let mut next = Vec::with_capacity(outer * output * inner);
        for o in 0..outer {
            for source in &sources {
                match source {
                    Source::Outside => next.extend(std::iter::repeat_n(settings.extrapolation, inner)),
                    Source::Weighted(taps) => next.extend((0..inner).map(|i| {
                        taps.iter().map(|(k, w)| values[(o * shape[d] + k) * inner + i] * w).sum::<f64>()
                    })),
                }
            }
        }
        values = next;
        shape[d] = output;
    }
    let y = Tensor::new(shape, Data::F64(values))?;
    let narrow = x.element().integer_range().filter(|_| x.element() != Element::I64);
    let y = match narrow {
        // Cubic weights overshoot.
        Some((low, high)) => super::unary::mapped(&y, &|v| v.clamp(low as f64, high as f64))?,
        None => y,
    };
    one(cast(&y, x.element())?)
}
