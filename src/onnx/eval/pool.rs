//! Pools: MaxPool, AveragePool, LpPool, the global ones, MaxUnpool.

use super::call::{Call, Outcome, axes, one, sizes};
use super::cast::cast;
use super::reduce::{Kind, reduced};
use super::table::{Operator, wide};
use super::tensor::{Data, Tensor, Value, bad, count, strides};
use super::window::{Window, each_index};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[
    wide("MaxPool", 1, max_pool),
    wide("AveragePool", 1, average_pool),
    wide("LpPool", 1, lp_pool),
    wide("GlobalAveragePool", 1, |c| global(c, Kind::Mean)),
    wide("GlobalMaxPool", 1, |c| global(c, Kind::Max)),
    wide("GlobalLpPool", 2, global_lp),
    wide("MaxUnpool", 9, max_unpool),
];

fn spatial_axes(x: &Tensor) -> Result<Vec<usize>> {
    if x.rank() < 2 {
        return Err(
            bad("the input must have a batch and a channel dimension").found(format!("{:?}", x.shape))
        );
    }
    axes(&(2..x.rank() as i64).collect::<Vec<_>>(), x.rank())
}

fn global(call: &Call<'_>, kind: Kind) -> Outcome {
    let x = call.tensor(0)?;
    one(reduced(x, kind, Some(&spatial_axes(x)?), true)?)
}

fn global_lp(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let p = call.int("p", 2) as f64;
    let powers = super::unary::mapped(x, &|v| v.abs().powf(p))?;
    let sum = reduced(&powers, Kind::Sum, Some(&spatial_axes(x)?), true)?;
    one(super::unary::mapped(&sum, &|v| v.powf(1.0 / p))?)
}

/// Walks every window: `f` gets the plane, the flat output position, the positions read within the plane, and how many
/// positions of the window lie within the padded input.
fn pool(
    x: &Tensor,
    window: &Window,
    output: &[usize],
    mut f: impl FnMut(usize, usize, &[usize], usize),
) -> Result<Vec<usize>> {
    let spatial = &x.shape[2..];
    let mut shape = x.shape[..2].to_vec();
    shape.extend_from_slice(output);
    count(&shape)?;
    // Every window keeps the positions that it reads.
    let reads: Vec<usize> = window.kernel.iter().zip(spatial).map(|(k, n)| *k.min(n)).collect();
    count(&[output, &reads].concat())?;
    let steps = strides(spatial);
    let planes = x.shape[0] * x.shape[1];
    let mut windows: Vec<(Vec<usize>, usize)> = Vec::new();
    each_index(output, |o| {
        // Per dimension the positions inside, and how many are inside the padded input.
        let mut positions = vec![0usize];
        let mut padded = 1;
        for d in 0..spatial.len() {
            let start = (o[d] * window.strides[d]) as isize - window.before[d] as isize;
            let end = (spatial[d] + window.after[d]) as isize;
            let reads = (0..window.kernel[d]).map(|k| start + (k * window.dilations[d]) as isize);
            padded *= reads.clone().filter(|p| *p < end).count();
            let inside: Vec<usize> = reads
                .filter(|p| (0..spatial[d] as isize).contains(p))
                .map(|p| p as usize * steps[d])
                .collect();
            positions = positions.iter().flat_map(|p| inside.iter().map(move |i| p + i)).collect();
        }
        windows.push((positions, padded));
    });
    for plane in 0..planes {
        for (o, (positions, padded)) in windows.iter().enumerate() {
            f(plane, plane * windows.len() + o, positions, *padded);
        }
    }
    Ok(shape)
}

fn prepared(call: &Call<'_>, x: &Tensor) -> Result<(Window, Vec<usize>)> {
    spatial_axes(x)?;
    let mut window = Window::of(call, None, x.rank() - 2)?;
    let output = window.outputs(&x.shape[2..], call.flag("ceil_mode", false))?;
    if window.kernel.iter().try_fold(1usize, |n, k| n.checked_mul(*k)).is_none_or(|n| n > 1 << 24) {
        return Err(bad("the window is too large").found(format!("{:?}", window.kernel)));
    }
    Ok((window, output))
}

fn max_pool(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let (window, output) = prepared(call, x)?;
    let values = x.to_f64s()?;
    let area: usize = x.shape[2..].iter().product();
    let (mut best, mut at) = (Vec::new(), Vec::new());
    // Column-major indices swap the roles of the last two spatial dimensions.
    let column_major = call.flag("storage_order", false);
    let index = |plane: usize, p: usize| {
        let p = match x.shape[2..] {
            [.., h, w] if column_major => {
                let (rest, row, column) = (p / (h * w), p / w % h, p % w);
                rest * h * w + column * h + row
            }
            _ => p,
        };
        (plane * area + p) as i64
    };
    let shape = pool(x, &window, &output, |plane, _, positions, _| {
        let mut found: Option<usize> = None;
        for p in positions {
            if found.is_none_or(|f| values[plane * area + p] > values[plane * area + f]) {
                found = Some(*p);
            }
        }
        best.push(found.map_or(f64::NEG_INFINITY, |f| values[plane * area + f]));
        at.push(found.map_or(-1, |f| index(plane, f)));
    })?;
    let y = cast(&Tensor::new(shape.clone(), Data::F64(best))?, x.element())?;
    Ok(vec![Value::Tensor(y), Value::Tensor(Tensor::new(shape, Data::I64(at))?)])
}

fn average_pool(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let (window, output) = prepared(call, x)?;
    let values = x.to_f64s()?;
    let area: usize = x.shape[2..].iter().product();
    let include = call.flag("count_include_pad", false);
    let mut means = Vec::new();
    let shape = pool(x, &window, &output, |plane, _, positions, padded| {
        let sum: f64 = positions.iter().map(|p| values[plane * area + p]).sum();
        means.push(sum / if include { padded } else { positions.len() } as f64);
    })?;
    one(cast(&Tensor::new(shape, Data::F64(means))?, x.element())?)
}

fn lp_pool(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let (window, output) = prepared(call, x)?;
    let values = x.to_f64s()?;
    let area: usize = x.shape[2..].iter().product();
    let p = call.int("p", 2) as f64;
    let mut norms = Vec::new();
    let shape = pool(x, &window, &output, |plane, _, positions, _| {
        let sum: f64 = positions.iter().map(|i| values[plane * area + i].abs().powf(p)).sum();
        norms.push(sum.powf(1.0 / p));
    })?;
    one(cast(&Tensor::new(shape, Data::F64(norms))?, x.element())?)
}

fn max_unpool(call: &Call<'_>) -> Outcome {
    let (x, indices) = (call.tensor(0)?, call.tensor(1)?);
    spatial_axes(x)?;
    let window = Window::of(call, None, x.rank() - 2)?;
    let natural: Option<Vec<usize>> = (0..x.rank() - 2)
        .map(|d| {
            let full = x.shape[d + 2].saturating_sub(1).checked_mul(window.strides[d])?;
            full.checked_add(window.kernel[d])?.checked_sub(window.before[d] + window.after[d])
        })
        .collect();
    let mut inner = x.shape[..2].to_vec();
    inner.extend(natural.ok_or_else(|| bad("pads remove the whole output"))?);
    let shape = match call.optional(2)? {
        Some(shape) => sizes(&shape.to_i64s()?)?,
        None => inner.clone(),
    };
    if shape.len() != x.rank() || shape.iter().zip(&inner).any(|(a, b)| a < b) {
        return Err(bad("output_shape is too small")
            .expected(format!("{inner:?}"))
            .found(format!("{shape:?}")));
    }
    // Indices address the tensor without the padding that output_shape adds.
    let steps = strides(&shape);
    let own = strides(&inner);
    let mut source = vec![usize::MAX; count(&shape)?];
    for (i, index) in indices.to_i64s()?.iter().enumerate() {
        let at = usize::try_from(*index)
            .ok()
            .filter(|_| i < x.len())
            .ok_or_else(|| bad("an index is out of range").found(index))?;
        let place: usize = (0..inner.len()).map(|d| at / own[d].max(1) % inner[d].max(1) * steps[d]).sum();
        *source.get_mut(place).ok_or_else(|| bad("an index is out of range").found(index))? = i;
    }
    one(Tensor::new(shape, x.data().take(&source))?)
}
