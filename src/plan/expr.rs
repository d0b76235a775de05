//! Expressions over source tensors.
//!
//! An expression is a small tree. The parts of one quantization (codes, scales, zero points, …) share value and scheme
//! and are computed by one evaluation; the executor finds them by comparing the trees of neighbours.

use super::{Shape, type_text};
pub use crate::checkpoint::{Global, Stored};
use crate::checkpoint::{TensorId, TensorInfo};
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
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

/// A rectangle of a matrix, and which way round: rows `row + i·step` for `i < rows`, columns `col..col + cols`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// First row.
    pub row: u64,
    /// Rows from one to the next.
    pub step: u64,
    /// Rows.
    pub rows: u64,
    /// First column.
    pub col: u64,
    /// Columns.
    pub cols: u64,
    /// Whether rows and columns are exchanged: the result is `[cols, rows]`.
    pub transpose: bool,
    /// Whether the value is taken for one column of all its elements; the result is a vector.
    pub column: bool,
}

impl View {
    /// Rows `row..row + rows` of a matrix with `cols` columns.
    pub fn of_rows(row: u64, rows: u64, cols: u64) -> View {
        View { row, step: 1, rows, col: 0, cols, transpose: false, column: false }
    }

    /// Elements `row + i·step` of a value taken for one column.
    pub fn of_elements(row: u64, step: u64, rows: u64) -> View {
        View { row, step, rows, col: 0, cols: 1, transpose: false, column: true }
    }
}

/// A dimension of a weight `[N, K]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// N, the output features.
    Rows,
    /// K, the input features.
    Cols,
}

/// A part of an output `[N, K]`, along one dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The dimension.
    pub axis: Axis,
    /// The first row or column.
    pub start: u64,
    /// How many.
    pub len: u64,
}

/// What a quantizer makes of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The codes, packed.
    Codes,
    /// The scales.
    Scales,
    /// The zero points, in the packing of the codes.
    Zeros,
    /// `8 · Σ q · s` over each of so many equal pieces of K, F32 `[N, pieces]` (vllm-ascend's `scale_bias`).
    Bias(u32),
    /// The tensor's global of NVFP4, F32 `[1]`.
    Global,
}

/// Contents that need no source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constant {
    /// Zero bytes: the offset of a symmetric scheme.
    Zeros,
    /// Ones: a neutral smoothing factor.
    Ones,
    /// One 32-bit word over and over: packed zero points of a symmetric scheme.
    Words(u32),
    /// The shape `[N, K]` of a packed weight.
    Shape([u64; 2]),
    /// `k / group` for every column.
    Groups(u32),
}

/// How an output is computed.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A source tensor as stored.
    Load(TensorId),
    /// Decoded values of a scaled weight, F32: `f32(code) * f32(scale)`, one rounding.
    Dequantize(Stored),
    /// A rectangle of a value that is taken for a matrix: its last dimension against all others.
    View {
        /// A load or a dequantization.
        value: Box<Expr>,
        /// Which part.
        view: View,
    },
    /// The value rounded to a float format, to nearest even.
    Cast {
        /// The value.
        value: Box<Expr>,
        /// The format.
        to: Dtype,
    },
    /// What the scheme's quantizer makes of the value; under [`Rule::Given`] the codes of the source, laid out anew.
    Quantize {
        /// Which result.
        part: Part,
        /// The value, `[N, K]`.
        value: Box<Expr>,
        /// The other values of the module that the engine fuses: they share the tensor-wide global.
        peers: Vec<Expr>,
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
    /// One over the single number of a scale tensor, F32 `[1]`: a multiplier as a divisor.
    Reciprocal(TensorId),
    /// Power-of-two scales as exponent bytes, repeated for every row and every `group` columns of `[n, k]` that they
    /// cover. Execution stops on the first that is no power of two.
    ScaleBytes {
        /// The scale tensor.
        scale: TensorId,
        /// What its scales cover.
        granularity: Granularity,
        /// Shape of the weight.
        shape: [u64; 2],
        /// Columns that share a byte.
        group: u32,
        /// U8 or F8_E8M0.
        to: Dtype,
    },
    /// Contents that need no source.
    Constant {
        /// Type of the output.
        ty: Ty,
        /// What it holds.
        constant: Constant,
    },
    /// A rank's part of what another expression makes.
    Slice {
        /// The whole.
        value: Box<Expr>,
        /// Which part of it.
        cut: Cut,
    },
}

fn load(id: TensorId, inputs: &[TensorInfo]) -> Result<Ty, String> {
    let t = inputs.get(id as usize).ok_or_else(|| format!("no source tensor number {id}"))?;
    Ok(Ty { dtype: t.dtype, shape: t.shape.clone() })
}

impl Expr {
    /// Zero bytes of a type: a companion that a loader registers, such as the offset of a symmetric scheme.
    pub fn zeros(ty: Ty) -> Expr {
        Expr::Constant { ty, constant: Constant::Zeros }
    }

    /// A rectangle of a value; of a view, the rectangle of what it shows.
    ///
    /// # Errors
    /// Where the rectangle does not lie within the value.
    pub fn view(self, view: View, inputs: &[TensorInfo]) -> Result<Expr, String> {
        let ty = self.ty(inputs)?;
        let [rows, cols] = if view.column { [ty.elements(), 1] } else { ty.matrix() };
        let last = view.rows.saturating_sub(1).saturating_mul(view.step).saturating_add(view.row);
        if view.rows == 0 || view.cols == 0 || view.step == 0 || last >= rows || view.col + view.cols > cols {
            return Err(format!(
                "a view of rows to {last} and columns to {} in [{rows}, {cols}]",
                view.col + view.cols
            ));
        }
        let (false, Expr::View { value, view: outer }) = (view.column, &self) else {
            return Ok(Expr::View { value: Box::new(self), view });
        };
        let composed = match outer.transpose {
            false => View {
                row: outer.row + view.row * outer.step,
                step: outer.step * view.step,
                rows: view.rows,
                col: outer.col + view.col,
                cols: view.cols,
                transpose: view.transpose,
                column: outer.column,
            },
            true if view.step == 1 => View {
                row: outer.row + view.col * outer.step,
                step: outer.step,
                rows: view.cols,
                col: outer.col + view.row,
                cols: view.rows,
                transpose: !view.transpose,
                column: outer.column,
            },
            true => return Err("every second column of a matrix is no rectangle".to_owned()),
        };
        Ok(Expr::View { value: value.clone(), view: composed })
    }

    /// Calls `f` for every source tensor read, in order.
    pub fn for_each_load(&self, f: &mut impl FnMut(TensorId)) {
        match self {
            Expr::Load(id) => f(*id),
            Expr::Dequantize(stored) => stored.tensors().for_each(f),
            Expr::Cast { value, .. } | Expr::View { value, .. } | Expr::Slice { value, .. } => {
                value.for_each_load(f);
            }
            // What a peer reads belongs to the peer's own output: it only lends its largest magnitude.
            Expr::Quantize { value, .. } => value.for_each_load(f),
            Expr::ScaleF32 { scale, .. } | Expr::ScaleBytes { scale, .. } | Expr::Reciprocal(scale) => {
                f(*scale)
            }
            Expr::Constant { .. } => {}
        }
    }

    /// The type of the result, or why the expression has none.
    pub fn ty(&self, inputs: &[TensorInfo]) -> Result<Ty, String> {
        match self {
            Expr::Load(id) => load(*id, inputs),
            Expr::Dequantize(stored) => Ok(Ty { dtype: Dtype::F32, shape: stored.shape(inputs)? }),
            Expr::View { value, view } => {
                let value = value.ty(inputs)?;
                if !value.dtype.is_plain_float() {
                    return Err(format!("a view of {} values", value.dtype));
                }
                let shape: Shape = match (view.column, view.transpose) {
                    (true, _) => [view.rows].into(),
                    (false, true) => [view.cols, view.rows].into(),
                    (false, false) => [view.rows, view.cols].into(),
                };
                Ok(Ty { dtype: value.dtype, shape })
            }
            Expr::Cast { value, to } => {
                let value = value.ty(inputs)?;
                if !to.is_plain_float() || !value.dtype.is_plain_float() {
                    return Err(format!("cast of {} to {to}", value.dtype));
                }
                Ok(Ty { dtype: *to, shape: value.shape })
            }
            Expr::Quantize { part, value, peers, scheme } => {
                let value = value.ty(inputs)?;
                let [n, k] = quantizable(&value)?;
                for peer in peers {
                    quantizable(&peer.ty(inputs)?)?;
                }
                part_type(*part, *scheme, n, k)
            }
            Expr::ScaleF32 { scale, .. } => {
                let scale = load(*scale, inputs)?;
                match scale.dtype {
                    Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F8E8M0 | Dtype::U8 => {
                        Ok(Ty { dtype: Dtype::F32, shape: scale.shape })
                    }
                    other => Err(format!("a {other} tensor is no scale")),
                }
            }
            Expr::Reciprocal(id) => match load(*id, inputs)? {
                scale if scale.dtype == Dtype::F32 && scale.elements() == 1 => {
                    Ok(Ty { dtype: Dtype::F32, shape: [1].into() })
                }
                other => Err(format!("{other} is no single scale")),
            },
            Expr::ScaleBytes { scale, granularity, shape: [n, k], group, to } => {
                let scale = load(*scale, inputs)?;
                let grid = granularity.grid(*n, *k);
                if scale.elements() != grid[0] * grid[1] {
                    return Err(format!("{scale} is no {grid:?} scale grid"));
                }
                if !matches!(to, Dtype::U8 | Dtype::F8E8M0) || *group == 0 {
                    return Err(format!("exponent bytes in {to}"));
                }
                Ok(Ty { dtype: *to, shape: [*n, k.div_ceil((*group).into())].into() })
            }
            Expr::Constant { ty, .. } => Ok(ty.clone()),
            Expr::Slice { value, cut } => slice_type(value, *cut, inputs),
        }
    }
}

/// The type of a part of a quantized `[n, k]` weight.
pub fn part_type(part: Part, scheme: Scheme, n: u64, k: u64) -> Result<Ty, String> {
    let ty = |dtype, shape: Vec<u64>| Ok(Ty { dtype, shape: shape.into() });
    match part {
        Part::Codes => {
            let (dtype, shape) = scheme.stored_codes(&[n, k])?;
            ty(dtype, shape)
        }
        Part::Scales => ty(scheme.scale, scheme.stored_scales(n, k)),
        Part::Zeros => {
            let (dtype, shape) = scheme.stored_zeros(n, k);
            ty(dtype, shape)
        }
        Part::Bias(pieces) => match k.is_multiple_of(pieces.max(1).into()) {
            true => ty(Dtype::F32, vec![n, pieces.into()]),
            false => Err(format!("K = {k} cannot be cut into {pieces} pieces")),
        },
        Part::Global => ty(Dtype::F32, vec![1]),
    }
}

/// The type of a rank's part: that of the part of the weight, where its bounds lie between scale blocks.
fn slice_type(value: &Expr, cut: Cut, inputs: &[TensorInfo]) -> Result<Ty, String> {
    let bounded = |size: u64| match cut.start + cut.len <= size && cut.len > 0 {
        true => Ok(()),
        false => Err(format!("a slice {}..{} of {size}", cut.start, cut.start + cut.len)),
    };
    let Expr::Quantize { part, value, scheme, .. } = value else {
        let whole = value.ty(inputs)?;
        let axis = match (cut.axis, whole.shape.len()) {
            (Axis::Rows, 1..) => 0,
            (Axis::Cols, 2..) => whole.shape.len() - 1,
            _ => return Err(format!("{whole} has no such dimension")),
        };
        bounded(whole.shape[axis])?;
        let mut shape = whole.shape.to_vec();
        shape[axis] = cut.len;
        return Ok(Ty { dtype: whole.dtype, shape: shape.into() });
    };
    let [n, k] = value.ty(inputs)?.matrix();
    let bits = scheme.element.bits();
    let (rows, cols) = match scheme.granularity {
        Granularity::Block { rows, cols } => (u64::from(rows), u64::from(cols)),
        _ => (1, 1),
    };
    let (size, step) = match cut.axis {
        Axis::Rows => (n, lcm(rows, scheme.packing.rows())),
        Axis::Cols => (k, lcm(cols, scheme.packing.cols(bits))),
    };
    bounded(size)?;
    if !cut.start.is_multiple_of(step) || !(cut.len.is_multiple_of(step) || cut.start + cut.len == size) {
        return Err(format!("a slice {}..{} is not aligned to {step}", cut.start, cut.start + cut.len));
    }
    let ([rows, cols], part) = match (cut.axis, part) {
        (Axis::Rows, _) => ([cut.len, k], *part),
        // Pieces of K go to the ranks that hold them.
        (Axis::Cols, Part::Bias(pieces)) => {
            let pieces = u64::from(*pieces) * cut.len;
            if !pieces.is_multiple_of(k) && pieces > k {
                return Err(format!("{} columns of {k} hold no whole pieces", cut.len));
            }
            ([n, cut.len], Part::Bias(u32::try_from((pieces / k).max(1)).unwrap_or(1)))
        }
        (Axis::Cols, _) => ([n, cut.len], *part),
    };
    part_type(part, *scheme, rows, cols)
}

/// Least common multiple; of positive numbers.
pub(crate) fn lcm(a: u64, b: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let (a, b) = (a.max(1), b.max(1));
    a / gcd(a, b) * b
}

fn quantizable(ty: &Ty) -> Result<[u64; 2], String> {
    if !ty.dtype.is_plain_float() {
        return Err(format!("{} values cannot be quantized", ty.dtype));
    }
    match ty.shape.len() {
        2 => Ok(ty.matrix()),
        _ => Err(format!("{ty} is no matrix")),
    }
}

/// Whether the codes of `source` can be laid out anew as codes of `target`: same element, same groups, zero points in
/// both or in neither.
pub fn can_repack(source: &Stored, target: Scheme) -> bool {
    let transposed = target.packing.is_transposed();
    source.order.is_none()
        && source.global.is_none()
        && source.scheme.element == target.element
        && source.scheme.granularity == target.granularity
        && (!transposed || target.granularity.group().is_some())
        && target.packing != Packing::SlimQuant
        && target.rule == Rule::Given
}
