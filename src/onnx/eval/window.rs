//! Sliding windows over spatial dimensions: what convolutions and pools share.

use super::call::{Call, sizes};
use super::tensor::bad;
use crate::error::Result;

/// Kernel, strides, dilations and pads of a window, one entry per spatial dimension.
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) before: Vec<usize>,
    pub(super) after: Vec<usize>,
    auto: String,
}

/// Largest pad, stride and dilation: bigger ones would only overflow.
const MAX: usize = 1 << 24;

impl Window {
    /// The attributes of a node whose kernel has the given sizes unless it states them.
    pub(super) fn of(call: &Call<'_>, kernel: Option<&[usize]>, spatial: usize) -> Result<Self> {
        let list = |name: &str, len: usize, default: usize| -> Result<Vec<usize>> {
            let values = match call.ints(name) {
                Some(values) if !values.is_empty() => sizes(values)?,
                _ => vec![default; len],
            };
            if values.len() != len || values.iter().any(|v| *v > MAX) {
                return Err(bad(format!("attribute {name} is wrong"))
                    .expected(format!("{len} numbers up to {MAX}"))
                    .found(format!("{values:?}")));
            }
            Ok(values)
        };
        let kernel = match (call.ints("kernel_shape"), kernel) {
            (Some(_), _) => list("kernel_shape", spatial, 1)?,
            (None, Some(kernel)) => kernel.to_vec(),
            (None, None) => return Err(bad("attribute kernel_shape is missing")),
        };
        let strides = list("strides", spatial, 1)?;
        let dilations = list("dilations", spatial, 1)?;
        let pads = list("pads", 2 * spatial, 0)?;
        if kernel.iter().chain(&strides).chain(&dilations).any(|v| *v == 0) {
            return Err(bad("kernel, strides and dilations must be positive"));
        }
        let auto = call.text("auto_pad", "NOTSET")?;
        let (before, after) = pads.split_at(spatial);
        Ok(Self { kernel, strides, dilations, before: before.to_vec(), after: after.to_vec(), auto })
    }

    /// The extent of the dilated kernel.
    pub(super) fn extent(&self, d: usize) -> usize {
        (self.kernel[d] - 1).saturating_mul(self.dilations[d]).saturating_add(1)
    }

    /// Output sizes for input sizes; `auto_pad` settles the pads.
    pub(super) fn outputs(&mut self, input: &[usize], ceil: bool) -> Result<Vec<usize>> {
        let mut out = Vec::with_capacity(input.len());
        for (d, n) in input.iter().enumerate() {
            let (extent, stride) = (self.extent(d), self.strides[d]);
            match self.auto.as_str() {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let steps = n.div_ceil(stride);
                    let reach = steps.saturating_sub(1).saturating_mul(stride).saturating_add(extent);
                    let pad = reach.saturating_sub(*n);
                    let small = pad / 2;
                    (self.before[d], self.after[d]) =
                        if self.auto == "SAME_UPPER" { (small, pad - small) } else { (pad - small, small) };
                    out.push(steps);
                    continue;
                }
                "VALID" => (self.before[d], self.after[d]) = (0, 0),
                "NOTSET" | "" => {}
                other => return Err(bad("auto_pad is wrong").found(other)),
            }
            let padded = n.saturating_add(self.before[d]).saturating_add(self.after[d]);
            let Some(room) = padded.checked_sub(extent) else {
                return Err(bad("the window is larger than the padded input")
                    .expected(format!("at most {padded}"))
                    .found(extent));
            };
            let mut steps = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
            // A window must not start in the padding behind.
            if ceil && (steps - 1) * stride >= n + self.before[d] {
                steps -= 1;
            }
            out.push(steps);
        }
        Ok(out)
    }
}

/// Every index of a shape, in row-major order.
pub(super) fn each_index(shape: &[usize], mut f: impl FnMut(&[usize])) {
    let total: usize = shape.iter().product();
    let mut index = vec![0usize; shape.len()];
    for _ in 0..total {
        f(&index);
        for d in (0..shape.len()).rev() {
            index[d] += 1;
            if index[d] < shape[d] {
                break;
            }
            index[d] = 0;
        }
    }
}
