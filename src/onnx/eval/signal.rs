//! Signals: DFT, STFT, windows, MelWeightMatrix.

use super::call::{Call, Outcome, axis, one};
use super::cast::cast;
use super::table::{Operator, wide};
use super::tensor::{Data, Tensor, bad, count};
use crate::error::Result;
use crate::onnx::element::Element;
use std::f64::consts::PI;

pub(super) const OPERATORS: &[Operator] = &[
    wide("DFT", 17, dft),
    wide("STFT", 17, stft),
    wide("HannWindow", 17, |c| window(c, |x| x.sin().powi(2))),
    wide("HammingWindow", 17, |c| window(c, |x| 25.0 / 46.0 - 21.0 / 46.0 * (2.0 * x).cos())),
    wide("BlackmanWindow", 17, |c| window(c, |x| 0.42 - 0.5 * (2.0 * x).cos() + 0.08 * (4.0 * x).cos())),
    wide("MelWeightMatrix", 17, mel),
];

/// The element type of an output that an attribute names.
fn output_type(call: &Call<'_>) -> Result<Element> {
    let code = call.int("output_datatype", 1);
    i32::try_from(code)
        .ok()
        .and_then(Element::from_code)
        .ok_or_else(|| bad("output_datatype names no element type").found(code))
}

fn window(call: &Call<'_>, f: impl Fn(f64) -> f64) -> Outcome {
    let n = usize::try_from(call.tensor(0)?.to_i64()?).map_err(|_| bad("the size is negative"))?;
    let n = count(&[n])?;
    let over = if call.flag("periodic", true) { n as f64 } else { n as f64 - 1.0 };
    let values = (0..n).map(|i| f(i as f64 * PI / over)).collect();
    one(cast(&Tensor::vector(Data::F64(values)), output_type(call)?)?)
}

/// The discrete Fourier transform of complex values, by the definition; powers of two by halving.
fn transform(x: &[[f64; 2]], inverse: bool) -> Vec<[f64; 2]> {
    let n = x.len();
    let sign = if inverse { 1.0 } else { -1.0 };
    let root = |k: usize| {
        let angle = sign * 2.0 * PI * k as f64 / n as f64;
        [angle.cos(), angle.sin()]
    };
    let times = |a: [f64; 2], b: [f64; 2]| [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]];
    if n.is_power_of_two() && n > 1 {
        let pick = |odd: usize| x.iter().skip(odd).step_by(2).copied().collect::<Vec<_>>();
        let (even, odd) = (transform(&pick(0), inverse), transform(&pick(1), inverse));
        let mut out = vec![[0.0; 2]; n];
        for k in 0..n / 2 {
            let t = times(root(k), odd[k]);
            out[k] = [even[k][0] + t[0], even[k][1] + t[1]];
            out[k + n / 2] = [even[k][0] - t[0], even[k][1] - t[1]];
        }
        return out;
    }
    let roots: Vec<[f64; 2]> = (0..n).map(root).collect();
    (0..n)
        .map(|k| {
            x.iter().enumerate().fold([0.0; 2], |sum, (i, v)| {
                let t = times(roots[(i as u128 * k as u128 % n.max(1) as u128) as usize], *v);
                [sum[0] + t[0], sum[1] + t[1]]
            })
        })
        .collect()
}

fn dft(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let parts = match x.shape.last() {
        Some(parts @ (1 | 2)) if x.rank() >= 2 => *parts,
        _ => {
            return Err(
                bad("the last dimension must be 1 (real) or 2 (complex)").found(format!("{:?}", x.shape))
            );
        }
    };
    let at = match call.optional(2)? {
        Some(a) if call.opset >= 20 => a.to_i64()?,
        _ => call.int("axis", if call.opset >= 20 { -2 } else { 1 }),
    };
    let at = axis(at, x.rank() - 1).or_else(|_| axis(at, x.rank()))?;
    if at + 1 == x.rank() {
        return Err(bad("the transform cannot run over the last dimension"));
    }
    let (inverse, onesided) = (call.flag("inverse", false), call.flag("onesided", false));
    let given = x.shape[at];
    let n = match call.optional(1)? {
        Some(n) => usize::try_from(n.to_i64()?).map_err(|_| bad("dft_length is negative"))?,
        None if inverse && onesided => 2 * given.saturating_sub(1),
        None => given,
    };
    count(&[n, n.min(1 << 15)])?;
    let (out_len, out_parts) = match (inverse, onesided) {
        (true, true) => (n, 1),
        (false, true) => (n / 2 + 1, 2),
        _ => (n, 2),
    };
    let values = x.to_f64s()?;
    let inner: usize = x.shape[at + 1..x.rank() - 1].iter().product();
    let outer: usize = x.shape[..at].iter().product();
    let mut shape = x.shape.clone();
    shape[at] = out_len;
    if let Some(last) = shape.last_mut() {
        *last = out_parts;
    }
    let mut out = vec![0.0; count(&shape)?];
    for o in 0..outer {
        for i in 0..inner {
            let read = |k: usize| {
                let p = ((o * given + k) * inner + i) * parts;
                [values[p], if parts == 2 { values[p + 1] } else { 0.0 }]
            };
            let mut row: Vec<[f64; 2]> = (0..n).map(|k| if k < given { read(k) } else { [0.0; 2] }).collect();
            if inverse && onesided {
                // The other half mirrors the given one.
                for k in n / 2 + 1..n {
                    let [re, im] = row[n - k];
                    row[k] = [re, -im];
                }
            }
            let scale = if inverse { 1.0 / n as f64 } else { 1.0 };
            for (k, v) in transform(&row, inverse).into_iter().take(out_len).enumerate() {
                let p = ((o * out_len + k) * inner + i) * out_parts;
                out[p] = v[0] * scale;
                if out_parts == 2 {
                    out[p + 1] = v[1] * scale;
                }
            }
        }
    }
    one(cast(&Tensor::new(shape, Data::F64(out))?, x.element())?)
}

fn stft(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let (batch, len, parts) = match x.shape[..] {
        [b, n] => (b, n, 1),
        [b, n, p @ (1 | 2)] => (b, n, p),
        _ => return Err(bad("the signal must be [batch, length] or [batch, length, 1 or 2]")),
    };
    let positive = |v: i64, what: &str| {
        usize::try_from(v).ok().filter(|v| *v > 0).ok_or_else(|| bad(format!("{what} must be positive")))
    };
    let step = positive(call.tensor(1)?.to_i64()?, "frame_step")?;
    let window = call.optional(2)?.map(Tensor::to_f64s).transpose()?;
    let frame = match call.optional(3)? {
        Some(n) => positive(n.to_i64()?, "frame_length")?,
        None => window.as_ref().map_or(len, Vec::len),
    };
    let window = window.unwrap_or_else(|| vec![1.0; frame.min(len)]);
    if window.len() != frame || frame > len || frame == 0 {
        return Err(bad("window and frame do not fit the signal")
            .found(format!("{} and {frame} in {len}", window.len())));
    }
    let frames = 1 + (len - frame) / step;
    let bins = if call.flag("onesided", true) { frame / 2 + 1 } else { frame };
    let values = x.to_f64s()?;
    let mut out = Vec::with_capacity(count(&[batch, frames, bins, 2])?);
    for b in 0..batch {
        for f in 0..frames {
            let row: Vec<[f64; 2]> = (0..frame)
                .map(|i| {
                    let p = (b * len + f * step + i) * parts;
                    [values[p] * window[i], if parts == 2 { values[p + 1] * window[i] } else { 0.0 }]
                })
                .collect();
            out.extend(transform(&row, false).into_iter().take(bins).flatten());
        }
    }
    one(cast(&Tensor::new([batch, frames, bins, 2], Data::F64(out))?, x.element())?)
}

fn mel(call: &Call<'_>) -> Outcome {
    let whole = |i: usize| -> Result<usize> {
        usize::try_from(call.tensor(i)?.to_i64()?).map_err(|_| bad("a size is negative"))
    };
    let (bins, dft, rate) = (whole(0)?, whole(1)?, whole(2)?);
    let (low, high) = (call.tensor(3)?.to_f64()?, call.tensor(4)?.to_f64()?);
    let rows = dft / 2 + 1;
    let mut out = vec![0.0; count(&[rows, bins])?];
    let scale = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / 10f64.ln();
    let step = (scale(high) - scale(low)) / (bins + 2) as f64;
    let edge = |i: usize| {
        let hertz = 700.0 * ((i as f64 * step + scale(low)) / 2595.0 * 10f64.ln()).exp_m1();
        ((dft + 1) as f64 * hertz / rate as f64).floor() as i64
    };
    let mut set = |row: i64, bin: usize, v: f64| {
        if let Some(row) = usize::try_from(row).ok().filter(|r| *r < rows) {
            out[row * bins + bin] = v;
        }
    };
    for bin in 0..bins {
        let (left, centre, right) = (edge(bin), edge(bin + 1), edge(bin + 2));
        if [left, centre, right].iter().any(|e| *e < 0 || *e > rows as i64) {
            return Err(bad("the edges are beyond the spectrum"));
        }
        if centre == left {
            set(centre, bin, 1.0);
        } else {
            (left..=centre).for_each(|j| set(j, bin, (j - left) as f64 / (centre - left) as f64));
        }
        (centre..right).for_each(|j| set(j, bin, (right - j) as f64 / (right - centre) as f64));
    }
    one(cast(&Tensor::new([rows, bins], Data::F64(out))?, output_type(call)?)?)
}
