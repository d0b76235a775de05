//! Values as kernels see them: where they are stored, and which part of it.

use super::expr::{Stored, View, lcm};
use super::{Expr, Plan};
use crate::checkpoint::TensorId;
use crate::dtype::Dtype;
use crate::dtype::scheme::Granularity;

/// Where values come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// Plain floats.
    Plain(TensorId),
    /// Codes with scales.
    Scaled(Stored),
}

/// A matrix of values `[rows, cols]` that kernels decode piece by piece.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// Where they are stored.
    pub source: Source,
    /// The matrix `[rows, cols]` that is stored.
    pub stored: [u64; 2],
    /// The part of it that the value is.
    pub view: View,
}

impl Value {
    /// The value of an expression, or why kernels cannot decode it.
    ///
    /// # Errors
    /// What the expression has that they do not know.
    pub fn of(expr: &Expr, plan: &Plan) -> Result<Value, String> {
        let (inner, view) = match expr {
            Expr::View { value, view } => (&**value, Some(*view)),
            other => (other, None),
        };
        let source = match inner {
            Expr::Load(id) => Source::Plain(*id),
            Expr::Dequantize(stored) => Source::Scaled(*stored),
            _ => return Err("the expression is no value".to_owned()),
        };
        let ty = inner.ty(&plan.inputs)?;
        // A vector is a column: its elements are rows of their own.
        let column = view.map_or(ty.shape.len() < 2, |v| v.column);
        let stored = if column { [ty.elements(), 1] } else { ty.matrix() };
        let whole = View { column, ..View::of_rows(0, stored[0], stored[1]) };
        let value = Value { source, stored, view: view.unwrap_or(whole) };
        let [rows, cols] = value.blocks();
        let View { row, step, col, .. } = value.view;
        if !row.is_multiple_of(rows) || (step > 1 && rows > 1) || !col.is_multiple_of(cols) {
            return Err(format!("a view that begins at [{row}, {col}] cuts through {rows}x{cols} blocks"));
        }
        Ok(value)
    }

    /// Rows and columns of the value.
    pub fn shape(&self) -> [u64; 2] {
        match self.view.transpose {
            true => [self.view.cols, self.view.rows],
            false => [self.view.rows, self.view.cols],
        }
    }

    /// Rows and columns of the stored matrix that cannot be parted: scale blocks and packed elements.
    pub fn blocks(&self) -> [u64; 2] {
        let Source::Scaled(Stored { scheme, .. }) = &self.source else { return [1, 1] };
        let (rows, cols) = match scheme.granularity {
            Granularity::Block { rows, cols } => (rows.into(), cols.into()),
            _ => (1, 1),
        };
        // Zero points packed along N bring eight rows together.
        let packed = match self.source {
            Source::Scaled(Stored { zero: Some(_), .. }) if !scheme.packing.is_transposed() => 8,
            Source::Scaled(_) if scheme.packing.is_transposed() => 8,
            _ => 1,
        };
        [lcm(lcm(rows, scheme.packing.rows()), packed), lcm(cols, scheme.packing.cols(scheme.element.bits()))]
    }

    /// Rows and columns of the value that cannot be parted.
    pub fn granules(&self) -> [u64; 2] {
        let [rows, cols] = self.blocks();
        if self.view.transpose { [cols, rows] } else { [rows, cols] }
    }

    /// Dtype of one element as it is read: the plain float, or the code.
    pub fn element(&self, plan: &Plan) -> Dtype {
        match &self.source {
            Source::Plain(id) => plan.inputs[*id as usize].dtype,
            Source::Scaled(stored) => stored.scheme.element,
        }
    }

    /// Whether the codes are unpacked into bytes before they are decoded.
    pub fn is_packed(&self) -> bool {
        match &self.source {
            Source::Plain(_) => false,
            Source::Scaled(Stored { zero, order, scheme, .. }) => {
                let alone = zero.is_some() || order.is_some();
                alone || scheme.element.bits() < 8 || scheme.packing != Default::default()
            }
        }
    }

    /// Whether the values are computed one by one into F32 before they are converted: transposed views, groups in another
    /// order, zero points that do not fit a byte with their codes.
    pub fn is_materialized(&self) -> bool {
        let odd = match &self.source {
            Source::Plain(_) => false,
            Source::Scaled(s) => s.order.is_some() || (s.zero.is_some() && s.scheme.element.bits() > 4),
        };
        self.view.transpose || odd
    }
}
