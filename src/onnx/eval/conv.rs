//! Convolutions: Conv, ConvTranspose, integer and quantized ones.
//!
//! Nothing is unfolded: for every output channel the rows of the input are added, weighted, to the rows of the output,
//! input channels and kernel positions in rising order. 1×1 kernels are one product of matrices.

use super::binary::{Arithmetic, combine};
use super::call::{Call, Float, FloatsOf, Outcome, for_float, one, sizes};
use super::cast::cast;
use super::matmul::{along, centred, product, requantize, wrapped_i32};
use super::table::{Operator, wide};
use super::tensor::{Data, Tensor, bad, count, strides};
use super::window::{Window, each_index};
use crate::error::Result;
use crate::onnx::element::Element;
use rayon::prelude::*;

pub(super) const OPERATORS: &[Operator] = &[
    wide("Conv", 1, |c| {
        let bias = c.optional(2)?;
        one(conv(c, c.tensor(0)?, c.tensor(1)?, bias)?)
    }),
    wide("ConvTranspose", 1, |c| {
        let x = c.tensor(0)?;
        for_float!(x, transpose(c, x))
    }),
    wide("ConvInteger", 10, integer),
    wide("QLinearConv", 10, qlinear),
];

/// A convolution with the attributes of a node.
pub(super) fn conv(call: &Call<'_>, x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    for_float!(x, forward(call, x, w, bias))
}

struct Geometry {
    window: Window,
    group: usize,
    /// Spatial sizes of input and output.
    input: Vec<usize>,
    output: Vec<usize>,
}

fn geometry(call: &Call<'_>, x: &Tensor, w: &Tensor) -> Result<Geometry> {
    let refuse = || {
        bad("the weights do not fit the input")
            .expected(format!("[M, C/group, kernel..] for an input of {:?}", x.shape))
            .found(format!("{:?}", w.shape))
    };
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(refuse());
    }
    let group = usize::try_from(call.int("group", 1)).ok().filter(|g| *g > 0).ok_or_else(refuse)?;
    if w.shape[1].checked_mul(group) != Some(x.shape[1]) || !w.shape[0].is_multiple_of(group) {
        return Err(refuse());
    }
    let mut window = Window::of(call, Some(&w.shape[2..]), x.rank() - 2)?;
    if window.kernel != w.shape[2..] {
        return Err(refuse());
    }
    let input = x.shape[2..].to_vec();
    let output = window.outputs(&input, false)?;
    // Every kernel position keeps the rows that it reaches.
    count(&[&window.kernel[..], &output[..output.len() - 1]].concat())?;
    Ok(Geometry { window, group, input, output })
}

/// A kernel position applied to rows: where it reads and which outputs it reaches.
struct Tap {
    /// Index into the kernel.
    weight: usize,
    /// Offset of the first input row from the input's start, and of the output row.
    rows: Vec<(usize, usize)>,
    /// First output column, number of columns, first input column.
    columns: (usize, usize, usize),
}

/// The range of outputs `o` with `0 ≤ o·stride + offset < n`.
fn reach(stride: usize, offset: isize, n: usize, outputs: usize) -> (usize, usize) {
    let stride = stride as isize;
    let low = if offset < 0 { (-offset).div_ceil_to(stride) } else { 0 };
    let high = n as isize - offset;
    let high = if high <= 0 { 0 } else { ((high - 1) / stride + 1).min(outputs as isize) };
    (low as usize, (high - low).max(0) as usize)
}

trait DivCeil {
    fn div_ceil_to(self, by: isize) -> isize;
}

impl DivCeil for isize {
    fn div_ceil_to(self, by: isize) -> isize {
        (self + by - 1) / by
    }
}

fn taps(g: &Geometry) -> Vec<Tap> {
    let last = g.input.len() - 1;
    let (in_steps, out_steps) = (strides(&g.input), strides(&g.output));
    let offset = |d: usize, k: usize| (k * g.window.dilations[d]) as isize - g.window.before[d] as isize;
    let mut taps = Vec::new();
    let mut weight = 0;
    each_index(&g.window.kernel, |k| {
        let (first, len) =
            reach(g.window.strides[last], offset(last, k[last]), g.input[last], g.output[last]);
        let column = (first * g.window.strides[last]) as isize + offset(last, k[last]);
        let ranges: Vec<(usize, usize)> =
            (0..last).map(|d| reach(g.window.strides[d], offset(d, k[d]), g.input[d], g.output[d])).collect();
        let mut rows = Vec::new();
        if len > 0 {
            let spans: Vec<usize> = ranges.iter().map(|r| r.1).collect();
            each_index(&spans, |at| {
                let mut places = (0, 0);
                for d in 0..last {
                    let o = ranges[d].0 + at[d];
                    let i = (o * g.window.strides[d]) as isize + offset(d, k[d]);
                    places.0 += i as usize * in_steps[d];
                    places.1 += o * out_steps[d];
                }
                rows.push(places);
            });
        }
        taps.push(Tap { weight, rows, columns: (first, len, column.max(0) as usize) });
        weight += 1;
    });
    taps
}

/// Output channels that share a read of the input.
const CHANNELS: usize = 4;

fn forward<T: Float + FloatsOf>(
    call: &Call<'_>,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let g = geometry(call, x, w)?;
    let (xs, ws) = (T::slice(x)?, T::slice(w)?);
    let (batch, channels) = (x.shape[0], w.shape[0]);
    let bias = match bias {
        Some(b) if b.len() == channels => Some(T::slice(b)?),
        Some(b) => return Err(bad("the bias does not fit").expected(channels).found(b.len())),
        None => None,
    };
    let mut shape = vec![batch, channels];
    shape.extend_from_slice(&g.output);
    let total = count(&shape)?;
    let plane: usize = g.output.iter().product();
    let source: usize = g.input.iter().product();
    let per_group = channels / g.group;
    let deep = w.shape[1];
    let kernel: usize = g.window.kernel.iter().product();
    let mut out = vec![T::default(); total];
    if total == 0 {
        return Tensor::new(shape, T::data(out));
    }
    if let Some(bias) = bias {
        for (i, plane) in out.chunks_mut(plane).enumerate() {
            plane.fill(bias[i % channels]);
        }
    }
    let pointwise = kernel == 1
        && g.input == g.output
        && g.window.strides.iter().all(|s| *s == 1)
        && g.window.before.iter().all(|p| *p == 0);
    if pointwise {
        for (i, y) in out.chunks_mut(per_group * plane).enumerate() {
            let (n, group) = (i / g.group, i % g.group);
            let x = &xs[(n * g.group + group) * deep * source..][..deep * source];
            product(&ws[group * per_group * deep..][..per_group * deep], x, y, deep, plane);
        }
        return Tensor::new(shape, T::data(out));
    }
    let taps = taps(&g);
    let last = g.input.len() - 1;
    let stride = g.window.strides[last];
    // Blocks of output channels of one group.
    let mut blocks: Vec<(usize, usize, &mut [T])> = Vec::new();
    let mut rest = out.as_mut_slice();
    for n in 0..batch {
        for group in 0..g.group {
            let mut c = 0;
            while c < per_group {
                let len = CHANNELS.min(per_group - c);
                let (head, tail) = rest.split_at_mut(len * plane);
                blocks.push((n, group * per_group + c, head));
                rest = tail;
                c += len;
            }
        }
    }
    blocks.into_par_iter().for_each(|(n, first, out)| {
        let group = first / per_group;
        for i in 0..deep {
            let x = &xs[(n * g.group * deep + group * deep + i) * source..][..source];
            for tap in &taps {
                let (column, len, from) = tap.columns;
                for (c, out) in out.chunks_mut(plane).enumerate() {
                    let weight = ws[((first + c) * deep + i) * kernel + tap.weight];
                    for (row_in, row_out) in &tap.rows {
                        let y = &mut out[row_out + column..][..len];
                        let x = &x[row_in + from..];
                        if stride == 1 {
                            y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * *x);
                        } else {
                            y.iter_mut().zip(x.iter().step_by(stride)).for_each(|(y, x)| *y += weight * *x);
                        }
                    }
                }
            }
        }
    });
    Tensor::new(shape, T::data(out))
}

fn transpose<T: Float + FloatsOf>(call: &Call<'_>, x: &Tensor) -> Outcome {
    let w = call.tensor(1)?;
    let refuse = || {
        bad("the weights do not fit the input")
            .expected(format!("[C, M/group, kernel..] for an input of {:?}", x.shape))
            .found(format!("{:?}", w.shape))
    };
    let group = usize::try_from(call.int("group", 1)).ok().filter(|g| *g > 0).ok_or_else(refuse)?;
    if x.rank() < 3 || w.rank() != x.rank() || w.shape[0] != x.shape[1] || !x.shape[1].is_multiple_of(group) {
        return Err(refuse());
    }
    let spatial = x.rank() - 2;
    let mut window = Window::of(call, Some(&w.shape[2..]), spatial)?;
    let extra = call.ints("output_padding").map(sizes).transpose()?.unwrap_or_else(|| vec![0; spatial]);
    let wanted = call.ints("output_shape").map(sizes).transpose()?;
    if window.kernel != w.shape[2..] || extra.len() != spatial {
        return Err(refuse());
    }
    let auto = call.text("auto_pad", "NOTSET")?;
    let input = &x.shape[2..];
    let mut output = Vec::with_capacity(spatial);
    for d in 0..spatial {
        let full = input[d]
            .saturating_sub(1)
            .saturating_mul(window.strides[d])
            .saturating_add(window.extent(d))
            .saturating_add(extra[d]);
        let target = match &wanted {
            Some(wanted) => Some(
                *wanted
                    .get(wanted.len().wrapping_sub(spatial) + d)
                    .ok_or_else(|| bad("output_shape is too short"))?,
            ),
            None if auto.starts_with("SAME") => Some(input[d].saturating_mul(window.strides[d])),
            None => None,
        };
        if let Some(target) = target {
            let pad = full.saturating_sub(target);
            let small = pad / 2;
            // SAME_UPPER puts the odd pad at the end.
            (window.before[d], window.after[d]) =
                if auto == "SAME_UPPER" { (small, pad - small) } else { (pad - small, small) };
            output.push(target);
        } else {
            let pads = window.before[d] + window.after[d];
            output.push(full.checked_sub(pads).ok_or_else(|| bad("pads remove the whole output"))?);
        }
    }
    count(&[&window.kernel[..], &input[..spatial - 1]].concat())?;
    let per_group = w.shape[1];
    let channels = per_group.checked_mul(group).ok_or_else(refuse)?;
    let mut shape = vec![x.shape[0], channels];
    shape.extend_from_slice(&output);
    let total = count(&shape)?;
    let plane: usize = output.iter().product();
    let source: usize = input.iter().product();
    let kernel: usize = window.kernel.iter().product();
    let deep = x.shape[1] / group;
    let (xs, ws) = (T::slice(x)?, T::slice(w)?);
    let mut out = vec![T::default(); total];
    if total == 0 {
        return one(Tensor::new(shape, T::data(out))?);
    }
    if let Some(b) = call.optional(2)? {
        let b = T::slice(b)?;
        if b.len() != channels {
            return Err(bad("the bias does not fit").expected(channels).found(b.len()));
        }
        for (i, plane) in out.chunks_mut(plane).enumerate() {
            plane.fill(b[i % channels]);
        }
    }
    // The transposed convolution is a convolution read backwards: the same taps with input and output exchanged.
    let g = Geometry { window, group, input: output, output: input.to_vec() };
    let taps = taps(&g);
    let stride = g.window.strides[spatial - 1];
    out.par_chunks_mut(plane).enumerate().for_each(|(i, out)| {
        let (n, channel) = (i / channels, i % channels);
        let (group, within) = (channel / per_group, channel % per_group);
        for c in 0..deep {
            let c = group * deep + c;
            let x = &xs[(n * g.group * deep + c) * source..][..source];
            for tap in &taps {
                let weight = ws[(c * per_group + within) * kernel + tap.weight];
                let (column, len, from) = tap.columns;
                for (row_out, row_in) in &tap.rows {
                    let x = &x[row_in + column..][..len];
                    out[row_out + from..]
                        .iter_mut()
                        .step_by(stride)
                        .zip(x)
                        .for_each(|(y, x)| *y += weight * *x);
                }
            }
        }
    });
    one(Tensor::new(shape, T::data(out))?)
}

fn integer(call: &Call<'_>) -> Outcome {
    let x = centred(call.tensor(0)?, call.optional(2)?, 1)?;
    let w = centred(call.tensor(1)?, call.optional(3)?, 0)?;
    one(wrapped_i32(&conv(call, &x, &w, None)?)?)
}

fn qlinear(call: &Call<'_>) -> Outcome {
    let x = centred(call.tensor(0)?, Some(call.tensor(2)?), 1)?;
    let w = centred(call.tensor(3)?, Some(call.tensor(5)?), 0)?;
    let bias = call.optional(8)?.map(|b| cast(b, Element::F64)).transpose()?;
    let sum = conv(call, &x, &w, bias.as_ref())?;
    let scale = |i: usize| cast(&along(call.tensor(i)?, 1, sum.rank())?, Element::F64);
    let by = combine(&combine(&scale(1)?, &scale(4)?, Arithmetic::Mul)?, &scale(6)?, Arithmetic::Div)?;
    let zero = match call.optional(7)? {
        Some(zero) => along(zero, 1, sum.rank())?,
        None => Tensor::vector(Data::U8(vec![0])),
    };
    one(requantize(&sum, &by, &zero)?)
}
