//! A weight that is stored as codes: which tensors make it.

use super::{TensorId, TensorInfo};
use crate::dtype::Dtype;
use crate::dtype::scheme::Scheme;
use std::sync::Arc;

/// A tensor-wide factor of scales that are themselves stored in a small format (NVFP4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    /// Scales are multiplied by it (ModelOpt's `weight_scale_2`).
    Multiplier(TensorId),
    /// Scales are divided by it (compressed-tensors' `weight_global_scale`).
    Divisor(TensorId),
}

impl Global {
    /// The tensor that holds it.
    pub fn tensor(self) -> TensorId {
        match self {
            Global::Multiplier(id) | Global::Divisor(id) => id,
        }
    }
}

/// A weight stored as codes with scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The codes, packed as the scheme says.
    pub codes: TensorId,
    /// The scales, shaped as the scheme says.
    pub scale: TensorId,
    /// Zero points, in the packing of the codes, where the codes are asymmetric.
    pub zero: Option<TensorId>,
    /// A tensor-wide factor of the scales.
    pub global: Option<Global>,
    /// The group of each column, `[K]` I32, where it is not `k / group` (GPTQ with activation order).
    pub order: Option<TensorId>,
    /// How the source is encoded.
    pub scheme: Scheme,
}

impl Stored {
    /// Codes with scales and nothing else.
    pub fn new(codes: TensorId, scale: TensorId, scheme: Scheme) -> Stored {
        Stored { codes, scale, zero: None, global: None, order: None, scheme }
    }

    /// Every tensor that it reads, in order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorId> {
        let global = self.global.map(Global::tensor);
        [Some(self.codes), Some(self.scale), self.zero, global, self.order].into_iter().flatten()
    }

    /// Shape of the decoded weight, or why there is none.
    ///
    /// # Errors
    /// Which tensor does not fit which.
    pub fn shape(&self, inputs: &[TensorInfo]) -> Result<Arc<[u64]>, String> {
        let get =
            |id: TensorId| inputs.get(id as usize).ok_or_else(|| format!("no source tensor number {id}"));
        let scheme = &self.scheme;
        let [codes, scale] = [get(self.codes)?, get(self.scale)?];
        let elements = |t: &TensorInfo| t.shape.iter().product::<u64>();
        let text = |t: &TensorInfo| format!("{}{:?}", t.dtype, t.shape);
        let shape = scheme.packing.logical(scheme.element, &codes.shape);
        let shape = shape.filter(|s| s.len() >= 2).ok_or_else(|| format!("{} is no matrix", text(codes)))?;
        let stored = scheme.stored_codes(&shape)?.0;
        if codes.dtype != stored || scale.dtype != scheme.scale {
            return Err(format!("dequantize[{scheme}] of {} codes and {} scales", codes.dtype, scale.dtype));
        }
        let k = shape.last().copied().unwrap_or(1);
        let n = shape[..shape.len() - 1].iter().product();
        let grid = scheme.granularity.grid(n, k);
        if elements(scale) != grid[0] * grid[1] {
            return Err(format!(
                "dequantize[{scheme}] of {} needs a {grid:?} scale grid, not {}",
                text(codes),
                text(scale)
            ));
        }
        if let Some(zero) = self.zero {
            let zero = get(zero)?;
            let (dtype, zeros) = scheme.stored_zeros(n, k);
            if zero.dtype != dtype || elements(zero) != zeros.iter().product::<u64>() {
                return Err(format!(
                    "dequantize[{scheme}] of {} needs {dtype}{zeros:?} zero points, not {}",
                    text(codes),
                    text(zero)
                ));
            }
        }
        if let Some(order) = self.order {
            let order = get(order)?;
            if order.dtype != Dtype::I32 || elements(order) != k {
                return Err(format!("the groups of {k} columns cannot be {}", text(order)));
            }
        }
        if let Some(global) = self.global {
            let global = get(global.tensor())?;
            if global.dtype != Dtype::F32 || elements(global) != 1 {
                return Err(format!("{} is no global scale", text(global)));
            }
        }
        Ok(shape.into())
    }
}
