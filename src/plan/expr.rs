//! Expressions over source tensors.
//!
//! An expression is a small tree. Two outputs whose `codes` and `scales` share value and scheme are computed by one
//! evaluation; the executor finds them by comparing the trees.

use super::{Shape, type_text};
use crate::checkpoint::{TensorId, TensorInfo};
use crate::dtype::Dtype;
use crate::dtype::scheme::{Granularity, Scheme};
use std::fmt;

/// Dtype and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ty {
    /// Element format.
    pub dtype: Dtype,
    /// Shape, outermost first.
    pub shape: Shape,
}

impl Ty {
    /// Elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes; shapes in a plan come from checked headers, so the product does not overflow.
    pub fn bytes(&self) -> u64 {
        self.dtype.byte_len(self.elements()).unwrap_or(0)
    }

    /// `[rows, cols]` of a matrix: the last dimension against all others.
    pub fn matrix(&self) -> [u64; 2] {
        let cols = self.shape.last().copied().unwrap_or(1);
        let rows = self.shape[..self.shape.len().saturating_sub(1)].iter().product();
        [rows, cols]
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_text(self.dtype, &self.shape))
    }
}

/// How an output is computed.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A source tensor as stored.
    Load(TensorId),
    /// Decoded values of a scaled weight, F32: `f32(code) * f32(scale)`, one rounding. `scheme` is the source's.
    Dequantize {
        /// The codes, `[N, K]`.
        codes: TensorId,
        /// The scales, shaped as the scheme's granularity says.
        scale: TensorId,
        /// How the source is encoded.
        scheme: Scheme,
    },
    /// The value rounded to a float format, to nearest even.
    Cast {
        /// The value.
        value: Box<Expr>,
        /// The format.
        to: Dtype,
    },
    /// The codes that the scheme's quantizer makes of the value.
    Codes {
        /// The value, `[N, K]`.
        value: Box<Expr>,
        /// The scheme.
        scheme: Scheme,
    },
    /// The scales that the scheme's quantizer makes of the value.
    Scales {
        /// The value, `[N, K]`.
        value: Box<Expr>,
        /// The scheme.
        scheme: Scheme,
    },
    /// A stored scale tensor as F32, exactly; U8 and F8_E8M0 are exponent bytes. With `pow2`, every scale must be a
    /// power of two: execution stops on the first that is not.
    ScaleF32 {
        /// The scale tensor.
        scale: TensorId,
        /// Whether powers of two are demanded.
        pow2: bool,
    },
    /// Zero bytes of the output's own type: a companion that a loader registers, such as the offset of a symmetric scheme.
    Zeros(Ty),
}

impl Expr {
    /// Calls `f` for every source tensor read, in order.
    pub fn for_each_load(&self, f: &mut impl FnMut(TensorId)) {
        match self {
            Expr::Load(id) => f(*id),
            Expr::Dequantize { codes, scale, .. } => {
                f(*codes);
                f(*scale);
            }
            Expr::Cast { value, .. } | Expr::Codes { value, .. } | Expr::Scales { value, .. } => {
                value.for_each_load(f);
            }
            Expr::ScaleF32 { scale, .. } => f(*scale),
            Expr::Zeros(_) => {}
        }
    }

    /// The type of the result, or why the expression has none.
    pub fn ty(&self, inputs: &[TensorInfo]) -> Result<Ty, String> {
        let load = |id: TensorId| -> Result<Ty, String> {
            let t = inputs.get(id as usize).ok_or_else(|| format!("no source tensor number {id}"))?;
            Ok(Ty { dtype: t.dtype, shape: t.shape.clone() })
        };
        match self {
            Expr::Load(id) => load(*id),
            Expr::Dequantize { codes, scale, scheme } => {
                let codes = load(*codes)?;
                let scale = load(*scale)?;
                if codes.dtype != scheme.element || scale.dtype != scheme.scale {
                    return Err(format!(
                        "dequantize[{scheme}] of {} codes and {} scales",
                        codes.dtype, scale.dtype
                    ));
                }
                let [n, k] = matrix_of(&codes)?;
                let grid = scheme.granularity.grid(n, k);
                if scale.elements() != grid[0] * grid[1] {
                    return Err(format!(
                        "dequantize[{scheme}] of {codes} needs a {grid:?} scale grid, not {scale}"
                    ));
                }
                Ok(Ty { dtype: Dtype::F32, shape: codes.shape })
            }
            Expr::Cast { value, to } => {
                let value = value.ty(inputs)?;
                if !to.is_plain_float() || !value.dtype.is_plain_float() {
                    return Err(format!("cast of {} to {to}", value.dtype));
                }
                Ok(Ty { dtype: *to, shape: value.shape })
            }
            Expr::Codes { value, scheme } => {
                let value = value.ty(inputs)?;
                quantizable(&value)?;
                Ok(Ty { dtype: scheme.element, shape: value.shape })
            }
            Expr::Scales { value, scheme } => {
                let value = value.ty(inputs)?;
                let [n, k] = quantizable(&value)?;
                let grid = scheme.granularity.grid(n, k);
                let shape: Shape = match scheme.granularity {
                    Granularity::Tensor => [1].into(),
                    _ => grid.into(),
                };
                Ok(Ty { dtype: scheme.scale, shape })
            }
            Expr::ScaleF32 { scale, .. } => {
                let scale = load(*scale)?;
                match scale.dtype {
                    Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F8E8M0 | Dtype::U8 => {
                        Ok(Ty { dtype: Dtype::F32, shape: scale.shape })
                    }
                    other => Err(format!("a {other} tensor is no scale")),
                }
            }
            Expr::Zeros(ty) => Ok(ty.clone()),
        }
    }
}

fn matrix_of(ty: &Ty) -> Result<[u64; 2], String> {
    match ty.shape.len() {
        2 => Ok(ty.matrix()),
        _ => Err(format!("{ty} is no matrix")),
    }
}

fn quantizable(ty: &Ty) -> Result<[u64; 2], String> {
    if !ty.dtype.is_plain_float() {
        return Err(format!("{} values cannot be quantized", ty.dtype));
    }
    matrix_of(ty)
}
