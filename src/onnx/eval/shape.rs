//! Shapes and moves: Reshape, Transpose, Concat, Slice, Pad and the like; constants and ranges.

use super::call::{Call, Outcome, axes, axis, one, sizes};
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, Value, bad, count, strides};
use crate::error::Result;
use crate::onnx::element::Element;

pub(super) const OPERATORS: &[Operator] = &[
    native("Identity", 1, |c| Ok(vec![c.value(0)?.clone()])),
    native("Constant", 1, constant),
    native("ConstantOfShape", 9, constant_of_shape),
    native("Shape", 1, shape),
    native("Size", 1, |c| one(Tensor::scalar(Data::I64(vec![c.tensor(0)?.len() as i64]))?)),
    native("Reshape", 1, reshape),
    native("Flatten", 1, flatten),
    native("Squeeze", 1, squeeze),
    native("Unsqueeze", 1, unsqueeze),
    native("Transpose", 1, transpose),
    native("Expand", 8, expand),
    native("Tile", 6, tile),
    native("Concat", 1, |c| {
        let tensors = c.tensors()?;
        let rank = tensors.first().map_or(0, |t| t.rank());
        let default = if c.opset < 4 { 1 } else { 0 };
        one(concat(&tensors, c.axis(default, rank)?)?)
    }),
    native("Split", 1, split),
    native("Slice", 1, slice),
    native("Pad", 1, pad),
    native("Range", 11, range),
    native("EyeLike", 9, eye_like),
    native("Trilu", 14, trilu),
    native("DepthToSpace", 1, depth_to_space),
    native("SpaceToDepth", 1, space_to_depth),
    native("ReverseSequence", 10, reverse_sequence),
    native("CenterCropPad", 18, center_crop_pad),
];

fn constant(call: &Call<'_>) -> Outcome {
    if let Some(tensor) = call.tensor_attribute("value")? {
        return one(tensor);
    }
    if let Some(sparse) = call.attribute("sparse_value").and_then(|a| a.sparse_tensor.as_ref()) {
        return one(call.session.dense(sparse)?);
    }
    if call.has("value_float") {
        return one(Tensor::scalar(Data::F32(vec![call.float("value_float", 0.0)]))?);
    }
    if call.has("value_int") {
        return one(Tensor::scalar(Data::I64(vec![call.int("value_int", 0)]))?);
    }
    if call.has("value_string") {
        return one(Tensor::scalar(Data::Str(vec![call.text("value_string", "")?]))?);
    }
    if let Some(v) = call.floats("value_floats") {
        return one(Tensor::vector(Data::F32(v.to_vec())));
    }
    if let Some(v) = call.ints("value_ints") {
        return one(Tensor::i64s(v.to_vec()));
    }
    if let Some(v) = call.texts("value_strings")? {
        return one(Tensor::vector(Data::Str(v)));
    }
    Err(bad("a constant has no value"))
}

fn constant_of_shape(call: &Call<'_>) -> Outcome {
    let shape = sizes(&call.tensor(0)?.to_i64s()?)?;
    let value = match call.tensor_attribute("value")? {
        Some(value) => value,
        None => Tensor::vector(Data::F32(vec![0.0])),
    };
    if value.len() != 1 {
        return Err(bad("attribute value must hold one element").found(value.len()));
    }
    one(value.reshaped([])?.broadcast_to(&shape)?)
}

fn shape(call: &Call<'_>) -> Outcome {
    let dims: Vec<i64> = call.tensor(0)?.shape.iter().map(|d| *d as i64).collect();
    let rank = dims.len() as i64;
    let bound = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (bound(call.int("start", 0)), bound(call.int("end", rank)));
    one(Tensor::i64s(dims.get(start..end).unwrap_or(&[]).to_vec()))
}

fn reshape(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let wanted = call.ints_at("shape", 1)?.ok_or_else(|| bad("the shape is missing"))?;
    let keep_zero = !call.flag("allowzero", false);
    let mut shape = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, d) in wanted.iter().enumerate() {
        shape.push(match d {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if keep_zero => {
                *x.shape.get(i).ok_or_else(|| bad("a 0 in the shape has no dimension to copy"))?
            }
            d => usize::try_from(*d).map_err(|_| bad("the shape is wrong").found(format!("{wanted:?}")))?,
        });
    }
    if let Some(i) = open {
        let known = count(&shape)?;
        shape[i] = x.len().checked_div(known).unwrap_or(0);
    }
    one(x.reshaped(shape)?)
}

fn flatten(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let rank = x.rank() as i64;
    let at = call.int("axis", 1);
    let at = if at < 0 { at.saturating_add(rank) } else { at };
    let at =
        usize::try_from(at).ok().filter(|a| *a <= x.rank()).ok_or_else(|| bad("axis is out of range"))?;
    one(x.reshaped([x.shape[..at].iter().product(), x.shape[at..].iter().product::<usize>()])?)
}

fn squeeze(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let which = match call.ints_at("axes", 1)? {
        Some(values) => axes(&values, x.rank())?,
        None => (0..x.rank()).filter(|d| x.shape[*d] == 1).collect(),
    };
    let shape: Vec<usize> = (0..x.rank()).filter(|d| !which.contains(d)).map(|d| x.shape[d]).collect();
    one(x.reshaped(shape)?)
}

fn unsqueeze(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let values = call.ints_at("axes", 1)?.ok_or_else(|| bad("the axes are missing"))?;
    let rank = x.rank() + values.len();
    let which = axes(&values, rank)?;
    let mut dims = x.shape.iter();
    let shape: Vec<usize> =
        (0..rank).map(|d| if which.contains(&d) { 1 } else { dims.next().copied().unwrap_or(1) }).collect();
    one(x.reshaped(shape)?)
}

fn transpose(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let order = match call.ints("perm") {
        Some(perm) => sizes(perm)?,
        None => (0..x.rank()).rev().collect(),
    };
    one(x.transposed(&order)?)
}

fn expand(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let wanted = sizes(&call.tensor(1)?.to_i64s()?)?;
    one(x.broadcast_to(&super::tensor::broadcast_shape(&x.shape, &wanted)?)?)
}

fn tile(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let repeats = sizes(&call.tensor(1)?.to_i64s()?)?;
    if repeats.len() != x.rank() {
        return Err(bad("repeats must have one entry per dimension").expected(x.rank()).found(repeats.len()));
    }
    // Every dimension becomes (repeat, size); the repeat has step 0.
    let steps = strides(&x.shape);
    let shape: Vec<usize> = repeats.iter().zip(&x.shape).flat_map(|(r, n)| [*r, *n]).collect();
    let steps: Vec<isize> = steps.iter().flat_map(|s| [0, *s as isize]).collect();
    let tiled: Option<Vec<usize>> = repeats.iter().zip(&x.shape).map(|(r, n)| r.checked_mul(*n)).collect();
    let tiled = tiled.ok_or_else(|| bad("a computed tensor is too big"))?;
    one(x.strided(&shape, &steps, 0)?.reshaped(tiled)?)
}

/// Tensors of one type joined along an axis.
pub(super) fn concat(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
    let first = *tensors.first().ok_or_else(|| bad("at least one input is needed"))?;
    let mut shape = first.shape.clone();
    shape[axis] = 0;
    for t in tensors {
        let same = t.rank() == first.rank()
            && t.element() == first.element()
            && (0..t.rank()).all(|d| d == axis || t.shape[d] == first.shape[d]);
        if !same {
            return Err(bad("inputs to be joined do not fit")
                .expected(format!("{} of shape {:?} but for axis {axis}", first.element(), first.shape))
                .found(format!("{} of shape {:?}", t.element(), t.shape)));
        }
        shape[axis] += t.shape[axis];
    }
    count(&shape)?;
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis + 1..].iter().product();
    macro_rules! arms {
        ($($variant:ident)*) => {
            match first.data() {
                $(Data::$variant(_) => {
                    let mut parts = Vec::with_capacity(tensors.len());
                    for t in tensors {
                        if let Data::$variant(v) = t.data() {
                            parts.push((t.shape[axis] * inner, v.as_slice()));
                        }
                    }
                    Data::$variant(join(&parts, outer))
                })*
                Data::Code(e, _) => {
                    let mut parts = Vec::with_capacity(tensors.len());
                    for t in tensors {
                        if let Data::Code(_, v) = t.data() {
                            parts.push((t.shape[axis] * inner, v.as_slice()));
                        }
                    }
                    Data::Code(*e, join(&parts, outer))
                }
            }
        };
    }
    let data = arms!(F32 F64 F16 BF16 I8 I16 I32 I64 U8 U16 U32 U64 Bool C64 C128 Str);
    Tensor::new(shape, data)
}

fn join<T: Clone>(parts: &[(usize, &[T])], outer: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(parts.iter().map(|(_, v)| v.len()).sum());
    for o in 0..outer {
        for (len, v) in parts {
            out.extend_from_slice(&v[o * len..(o + 1) * len]);
        }
    }
    out
}

/// The part `start..start + len` of an axis.
pub(super) fn part(x: &Tensor, axis: usize, start: usize, len: usize) -> Result<Tensor> {
    let mut shape = x.shape.clone();
    shape[axis] = len;
    let steps = strides(&x.shape);
    let signed: Vec<isize> = steps.iter().map(|s| *s as isize).collect();
    x.strided(&shape, &signed, start * steps[axis])
}

/// The lengths that Split and SplitToSequence cut an axis into.
fn split(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let at = call.axis(0, x.rank())?;
    let n = x.shape[at];
    let lens = match call.ints_at("split", 1)? {
        Some(lens) => sizes(&lens)?,
        None => {
            let parts = call.node.output.len();
            let parts = usize::try_from(call.int("num_outputs", parts as i64)).unwrap_or(0);
            if parts == 0 || parts > n.max(1) + 64 {
                return Err(bad("the number of parts is wrong").found(parts));
            }
            let each = n.div_ceil(parts);
            (0..parts).map(|i| each.min(n.saturating_sub(i * each))).collect()
        }
    };
    if lens.iter().try_fold(0usize, |s, l| s.checked_add(*l)) != Some(n) {
        return Err(bad("the parts do not fill the axis").expected(n).found(format!("{lens:?}")));
    }
    let mut start = 0;
    lens.iter()
        .map(|len| {
            let piece = part(x, at, start, *len)?;
            start += len;
            Ok(Value::Tensor(piece))
        })
        .collect()
}

fn slice(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let get = |name: &str, i: usize| call.ints_at(name, i);
    let starts = get("starts", 1)?.ok_or_else(|| bad("the starts are missing"))?;
    let ends = get("ends", 2)?.ok_or_else(|| bad("the ends are missing"))?;
    let which = match get("axes", 3)? {
        Some(values) => axes(&values, x.rank())?,
        None => (0..starts.len()).collect(),
    };
    let by = call.optional(4)?.map(Tensor::to_i64s).transpose()?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || which.len() != starts.len() || by.len() != starts.len() {
        return Err(bad("starts, ends, axes and steps must have one length"));
    }
    let mut shape = x.shape.clone();
    let mut steps: Vec<isize> = strides(&x.shape).iter().map(|s| *s as isize).collect();
    let mut offset = 0usize;
    for (i, at) in which.iter().enumerate() {
        let n = *x.shape.get(*at).ok_or_else(|| bad("an axis is out of range"))? as i64;
        let step = by[i];
        if step == 0 {
            return Err(bad("a step is 0"));
        }
        let wrap = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
        let (start, end) = if step > 0 {
            (wrap(starts[i]).clamp(0, n), wrap(ends[i]).clamp(0, n))
        } else {
            (wrap(starts[i]).clamp(0, (n - 1).max(0)), wrap(ends[i]).clamp(-1, n - 1))
        };
        let len = if step > 0 { (end - start).max(0) as u64 } else { (start - end).max(0) as u64 };
        let len = if n == 0 { 0 } else { len.div_ceil(step.unsigned_abs()) as usize };
        shape[*at] = len;
        if len > 0 {
            offset += start as usize * steps[*at] as usize;
        }
        // A single element needs no step, which may be as large as it likes.
        steps[*at] = if len > 1 { steps[*at] * step as isize } else { 0 };
    }
    one(x.strided(&shape, &steps, if shape.contains(&0) { 0 } else { offset })?)
}

/// For every position of a padded axis the source position, or `usize::MAX` for the constant.
fn padded_axis(n: usize, before: i64, after: i64, mode: &str) -> Result<Vec<usize>> {
    let n = n as i64;
    let total = n.saturating_add(before).saturating_add(after);
    let total = usize::try_from(total).map_err(|_| bad("pads remove more than there is"))?;
    count(&[total])?;
    let source = |i: i64| -> Option<usize> {
        let p = i - before;
        if (0..n).contains(&p) {
            return Some(p as usize);
        }
        let at = match mode {
            "constant" => return Some(usize::MAX),
            "edge" => p.clamp(0, n - 1),
            "wrap" => p.rem_euclid(n.max(1)),
            // Mirrored without repeating the border.
            _ => {
                let period = (2 * (n - 1)).max(1);
                let q = p.rem_euclid(period);
                if q < n { q } else { period - q }
            }
        };
        usize::try_from(at).ok().filter(|a| (*a as i64) < n)
    };
    (0..total as i64)
        .map(|i| source(i).ok_or_else(|| bad("an empty axis cannot be padded in this mode")))
        .collect()
}

fn pad(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let mode = call.text("mode", "constant")?;
    if !["constant", "edge", "reflect", "wrap"].contains(&mode.as_str()) {
        return Err(bad("mode is wrong").expected("constant, edge, reflect or wrap").found(mode));
    }
    let name = if call.has("paddings") { "paddings" } else { "pads" };
    let pads = call.ints_at(name, 1)?.ok_or_else(|| bad("the pads are missing"))?;
    let which = match call.optional(3)? {
        Some(values) => axes(&values.to_i64s()?, x.rank())?,
        None => (0..x.rank()).collect(),
    };
    if pads.len() != 2 * which.len() {
        return Err(bad("two pads per axis are needed").expected(2 * which.len()).found(pads.len()));
    }
    let value = match call.optional(2)? {
        Some(value) if value.len() == 1 => value.reshaped([])?,
        Some(value) if value.is_empty() => Tensor::zeros(x.element(), &[])?,
        Some(_) => return Err(bad("the pad value must be one element")),
        None => super::cast::cast(&Tensor::scalar(Data::F32(vec![call.float("value", 0.0)]))?, x.element())
            .or_else(|_| Tensor::zeros(x.element(), &[]))?,
    };
    let mut maps: Vec<Vec<usize>> = x.shape.iter().map(|n| (0..*n).collect()).collect();
    for (i, at) in which.iter().enumerate() {
        maps[*at] = padded_axis(x.shape[*at], pads[i], pads[which.len() + i], &mode)?;
    }
    one(gathered(x, &maps, &value)?)
}

/// A tensor picked by one list of positions per axis; `usize::MAX` gives `value`.
pub(super) fn gathered(x: &Tensor, maps: &[Vec<usize>], value: &Tensor) -> Result<Tensor> {
    let shape: Vec<usize> = maps.iter().map(Vec::len).collect();
    let total = count(&shape)?;
    let steps = strides(&x.shape);
    let mut positions = vec![0usize; 1];
    positions.reserve(total);
    for (map, step) in maps.iter().zip(&steps) {
        positions = positions
            .iter()
            .flat_map(|p| {
                map.iter().map(
                    move |m| if *p == usize::MAX || *m == usize::MAX { usize::MAX } else { p + m * step },
                )
            })
            .collect();
    }
    // The value is one element behind the last.
    let flat = x.reshaped([x.len()])?;
    let with_value = concat(&[&flat, &value.reshaped([1])?], 0)?;
    let behind = x.len();
    positions.iter_mut().filter(|p| **p == usize::MAX).for_each(|p| *p = behind);
    Tensor::new(shape, with_value.data().take(&positions))
}

fn range(call: &Call<'_>) -> Outcome {
    let (start, limit, delta) = (call.tensor(0)?, call.tensor(1)?, call.tensor(2)?);
    let element = start.element();
    if element.integer_range().is_some() {
        let (start, limit, delta) = (start.to_i64()?, limit.to_i64()?, delta.to_i64()?);
        if delta == 0 {
            return Err(bad("delta is 0"));
        }
        let span = i128::from(limit) - i128::from(start);
        let step = i128::from(delta);
        let n = if span.signum() == step.signum() { (span.abs() + step.abs() - 1) / step.abs() } else { 0 };
        let n = count(&[usize::try_from(n).unwrap_or(usize::MAX)])?;
        let values = (0..n as i64).map(|i| start.wrapping_add(i.wrapping_mul(delta))).collect();
        return one(super::cast::cast(&Tensor::i64s(values), element)?);
    }
    let (start, limit, delta) = (start.to_f64()?, limit.to_f64()?, delta.to_f64()?);
    let n = ((limit - start) / delta).ceil();
    if n.is_nan() || delta == 0.0 {
        return Err(bad("the range has no length"));
    }
    let n = count(&[n.max(0.0) as usize])?;
    let values = (0..n).map(|i| start + i as f64 * delta).collect();
    one(super::cast::cast(&Tensor::vector(Data::F64(values)), element)?)
}

fn eye_like(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let [rows, columns] = x.shape[..] else {
        return Err(bad("the input must have two dimensions"));
    };
    let element = match call.int("dtype", 0) {
        0 => x.element(),
        code => i32::try_from(code)
            .ok()
            .and_then(Element::from_code)
            .ok_or_else(|| bad("attribute dtype names no element type"))?,
    };
    let k = call.int("k", 0);
    let one_at = |i: usize, j: usize| i64::from((i as i64).checked_add(k) == Some(j as i64));
    let values = (0..rows).flat_map(|i| (0..columns).map(move |j| one_at(i, j))).collect();
    one(super::cast::cast(&Tensor::new([rows, columns], Data::I64(values))?, element)?)
}

fn trilu(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let k = call.optional(1)?.map(Tensor::to_i64).transpose()?.unwrap_or(0);
    let upper = call.flag("upper", true);
    let [.., rows, columns] = x.shape[..] else {
        return Err(bad("the input must have two dimensions at least"));
    };
    let keep = |i: usize| {
        let (row, column) = ((i / columns % rows) as i64, (i % columns) as i64);
        if upper { column >= row.saturating_add(k) } else { column <= row.saturating_add(k) }
    };
    let positions: Vec<usize> = (0..x.len()).map(|i| if keep(i) { i } else { usize::MAX }).collect();
    one(Tensor::new(x.shape.clone(), x.data().take(&positions))?)
}

fn block(call: &Call<'_>, x: &Tensor) -> Result<([usize; 4], usize)> {
    let [n, c, h, w] = x.shape[..] else {
        return Err(bad("the input must have four dimensions").found(format!("{:?}", x.shape)));
    };
    let size = usize::try_from(call.int("blocksize", 0)).ok().filter(|b| (1..1 << 16).contains(b));
    Ok(([n, c, h, w], size.ok_or_else(|| bad("blocksize must be positive"))?))
}

fn depth_to_space(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let ([n, c, h, w], b) = block(call, x)?;
    if c % (b * b) != 0 {
        return Err(bad("channels do not fill the blocks").found(c));
    }
    let c = c / (b * b);
    let y = if call.text("mode", "DCR")? == "CRD" {
        x.reshaped([n, c, b, b, h, w])?.transposed(&[0, 1, 4, 2, 5, 3])?
    } else {
        x.reshaped([n, b, b, c, h, w])?.transposed(&[0, 3, 4, 1, 5, 2])?
    };
    one(y.reshaped([n, c, h * b, w * b])?)
}

fn space_to_depth(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let ([n, c, h, w], b) = block(call, x)?;
    if h % b != 0 || w % b != 0 {
        return Err(bad("the image does not fill the blocks").found(format!("{:?}", x.shape)));
    }
    let split = x.reshaped([n, c, h / b, b, w / b, b])?;
    let y = if call.text("mode", "DCR")? == "CRD" {
        split.transposed(&[0, 1, 3, 5, 2, 4])?
    } else {
        split.transposed(&[0, 3, 5, 1, 2, 4])?
    };
    one(y.reshaped([n, c * b * b, h / b, w / b])?)
}

fn reverse_sequence(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let lens = call.tensor(1)?.to_i64s()?;
    let time = axis(call.int("time_axis", 0), x.rank())?;
    let batch = axis(call.int("batch_axis", 1), x.rank())?;
    if lens.len() != x.shape[batch] || lens.iter().any(|l| *l < 0 || *l > x.shape[time] as i64) {
        return Err(bad("sequence lengths do not fit the batch").found(format!("{lens:?}")));
    }
    let steps = strides(&x.shape);
    let source = |i: usize| {
        let (t, b) = (i / steps[time] % x.shape[time], i / steps[batch] % x.shape[batch]);
        let len = lens[b] as usize;
        if t < len { i - t * steps[time] + (len - 1 - t) * steps[time] } else { i }
    };
    let positions: Vec<usize> = (0..x.len()).map(source).collect();
    one(Tensor::new(x.shape.clone(), x.data().take(&positions))?)
}

fn center_crop_pad(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let wanted = sizes(&call.tensor(1)?.to_i64s()?)?;
    let which = match call.ints("axes") {
        Some(values) => axes(values, x.rank())?,
        None => (0..x.rank()).collect(),
    };
    if wanted.len() != which.len() {
        return Err(bad("one size per axis is needed").expected(which.len()).found(wanted.len()));
    }
    let mut maps: Vec<Vec<usize>> = x.shape.iter().map(|n| (0..*n).collect()).collect();
    for (at, size) in which.iter().zip(wanted) {
        count(&[size])?;
        let n = x.shape[*at];
        maps[*at] = if size <= n {
            let start = (n - size) / 2;
            (start..start + size).collect()
        } else {
            let before = (size - n) / 2;
            (0..size).map(|i| i.checked_sub(before).filter(|p| *p < n).unwrap_or(usize::MAX)).collect()
        };
    }
    one(gathered(x, &maps, &Tensor::zeros(x.element(), &[])?)?)
}
