//! The evaluator's tensors: unpacked elements, shared payloads.

use crate::dtype::codec;
use crate::error::{Error, Result};
use crate::onnx::element::{Element, pack, unpack};
use crate::onnx::tensor::{Payload, PayloadData};
use std::sync::Arc;

/// Most elements of a tensor that a graph may make: shapes are computed from hostile data.
pub const MAX_ELEMENTS: usize = 1 << 30;

/// Elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// FLOAT.
    F32(Vec<f32>),
    /// DOUBLE.
    F64(Vec<f64>),
    /// FLOAT16 codes.
    F16(Vec<u16>),
    /// BFLOAT16 codes.
    BF16(Vec<u16>),
    /// INT8.
    I8(Vec<i8>),
    /// INT16.
    I16(Vec<i16>),
    /// INT32.
    I32(Vec<i32>),
    /// INT64.
    I64(Vec<i64>),
    /// UINT8.
    U8(Vec<u8>),
    /// UINT16.
    U16(Vec<u16>),
    /// UINT32.
    U32(Vec<u32>),
    /// UINT64.
    U64(Vec<u64>),
    /// BOOL.
    Bool(Vec<bool>),
    /// COMPLEX64: real and imaginary part.
    C64(Vec<[f32; 2]>),
    /// COMPLEX128: real and imaginary part.
    C128(Vec<[f64; 2]>),
    /// STRING.
    Str(Vec<String>),
    /// FP8, FP6, FP4, E8M0, and 2- and 4-bit integers: one code per byte, right-aligned.
    Code(Element, Vec<u8>),
}

/// A tensor; clones share the elements.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    data: Arc<Data>,
}

/// What flows along an edge of a graph.
#[derive(Clone, Debug)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A sequence.
    Sequence(Vec<Value>),
    /// An optional that holds nothing.
    Nothing,
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Value::Tensor(tensor)
    }
}

/// Evaluates an expression for the elements of any [`Data`].
macro_rules! any_data {
    ($data:expr, $v:ident => $e:expr) => {
        match $data {
            $crate::onnx::eval::tensor::Data::F32($v) => $e,
            $crate::onnx::eval::tensor::Data::F64($v) => $e,
            $crate::onnx::eval::tensor::Data::F16($v) => $e,
            $crate::onnx::eval::tensor::Data::BF16($v) => $e,
            $crate::onnx::eval::tensor::Data::I8($v) => $e,
            $crate::onnx::eval::tensor::Data::I16($v) => $e,
            $crate::onnx::eval::tensor::Data::I32($v) => $e,
            $crate::onnx::eval::tensor::Data::I64($v) => $e,
            $crate::onnx::eval::tensor::Data::U8($v) => $e,
            $crate::onnx::eval::tensor::Data::U16($v) => $e,
            $crate::onnx::eval::tensor::Data::U32($v) => $e,
            $crate::onnx::eval::tensor::Data::U64($v) => $e,
            $crate::onnx::eval::tensor::Data::Bool($v) => $e,
            $crate::onnx::eval::tensor::Data::C64($v) => $e,
            $crate::onnx::eval::tensor::Data::C128($v) => $e,
            $crate::onnx::eval::tensor::Data::Str($v) => $e,
            $crate::onnx::eval::tensor::Data::Code(_, $v) => $e,
        }
    };
}

/// Makes [`Data`] of the same element type from an expression over the elements.
macro_rules! same_data {
    ($data:expr, $v:ident => $e:expr) => {
        match $data {
            $crate::onnx::eval::tensor::Data::F32($v) => $crate::onnx::eval::tensor::Data::F32($e),
            $crate::onnx::eval::tensor::Data::F64($v) => $crate::onnx::eval::tensor::Data::F64($e),
            $crate::onnx::eval::tensor::Data::F16($v) => $crate::onnx::eval::tensor::Data::F16($e),
            $crate::onnx::eval::tensor::Data::BF16($v) => $crate::onnx::eval::tensor::Data::BF16($e),
            $crate::onnx::eval::tensor::Data::I8($v) => $crate::onnx::eval::tensor::Data::I8($e),
            $crate::onnx::eval::tensor::Data::I16($v) => $crate::onnx::eval::tensor::Data::I16($e),
            $crate::onnx::eval::tensor::Data::I32($v) => $crate::onnx::eval::tensor::Data::I32($e),
            $crate::onnx::eval::tensor::Data::I64($v) => $crate::onnx::eval::tensor::Data::I64($e),
            $crate::onnx::eval::tensor::Data::U8($v) => $crate::onnx::eval::tensor::Data::U8($e),
            $crate::onnx::eval::tensor::Data::U16($v) => $crate::onnx::eval::tensor::Data::U16($e),
            $crate::onnx::eval::tensor::Data::U32($v) => $crate::onnx::eval::tensor::Data::U32($e),
            $crate::onnx::eval::tensor::Data::U64($v) => $crate::onnx::eval::tensor::Data::U64($e),
            $crate::onnx::eval::tensor::Data::Bool($v) => $crate::onnx::eval::tensor::Data::Bool($e),
            $crate::onnx::eval::tensor::Data::C64($v) => $crate::onnx::eval::tensor::Data::C64($e),
            $crate::onnx::eval::tensor::Data::C128($v) => $crate::onnx::eval::tensor::Data::C128($e),
            $crate::onnx::eval::tensor::Data::Str($v) => $crate::onnx::eval::tensor::Data::Str($e),
            $crate::onnx::eval::tensor::Data::Code(t, $v) => $crate::onnx::eval::tensor::Data::Code(*t, $e),
        }
    };
}

/// The same for the ten plain number types; `None` for the others. The expression may be a generic call.
macro_rules! numbers {
    ($data:expr, $v:ident => $e:expr) => {
        match $data {
            $crate::onnx::eval::tensor::Data::F32($v) => Some($crate::onnx::eval::tensor::Data::F32($e)),
            $crate::onnx::eval::tensor::Data::F64($v) => Some($crate::onnx::eval::tensor::Data::F64($e)),
            $crate::onnx::eval::tensor::Data::I8($v) => Some($crate::onnx::eval::tensor::Data::I8($e)),
            $crate::onnx::eval::tensor::Data::I16($v) => Some($crate::onnx::eval::tensor::Data::I16($e)),
            $crate::onnx::eval::tensor::Data::I32($v) => Some($crate::onnx::eval::tensor::Data::I32($e)),
            $crate::onnx::eval::tensor::Data::I64($v) => Some($crate::onnx::eval::tensor::Data::I64($e)),
            $crate::onnx::eval::tensor::Data::U8($v) => Some($crate::onnx::eval::tensor::Data::U8($e)),
            $crate::onnx::eval::tensor::Data::U16($v) => Some($crate::onnx::eval::tensor::Data::U16($e)),
            $crate::onnx::eval::tensor::Data::U32($v) => Some($crate::onnx::eval::tensor::Data::U32($e)),
            $crate::onnx::eval::tensor::Data::U64($v) => Some($crate::onnx::eval::tensor::Data::U64($e)),
            _ => None,
        }
    };
}
pub(super) use numbers;

/// An error of a node: what its inputs or attributes have wrong. The caller names the node.
pub fn bad(what: impl Into<String>) -> Error {
    Error::input("onnx-node", what)
}

/// The number of elements of a computed shape, which a graph may make.
///
/// # Errors
/// Class Input, code `onnx-node`: more than [`MAX_ELEMENTS`].
pub fn count(shape: &[usize]) -> Result<usize> {
    crate::onnx::tensor::element_count(shape).filter(|n| *n <= MAX_ELEMENTS).ok_or_else(|| {
        bad("a computed tensor is too big")
            .expected(format!("at most {MAX_ELEMENTS} elements"))
            .found(format!("{shape:?}"))
    })
}

/// Row-major strides, in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1];
    }
    strides
}

/// The FLOAT of a binary16 or bfloat16 code.
pub fn half_to_f32(element: Element, codes: &[u16]) -> Vec<f32> {
    if element == Element::F16 {
        codes.iter().map(|c| codec::f32_from_f16(*c)).collect()
    } else {
        codes.iter().map(|c| codec::f32_from_bf16(*c)).collect()
    }
}

impl Data {
    /// Element type.
    pub fn element(&self) -> Element {
        match self {
            Data::F32(_) => Element::F32,
            Data::F64(_) => Element::F64,
            Data::F16(_) => Element::F16,
            Data::BF16(_) => Element::BF16,
            Data::I8(_) => Element::I8,
            Data::I16(_) => Element::I16,
            Data::I32(_) => Element::I32,
            Data::I64(_) => Element::I64,
            Data::U8(_) => Element::U8,
            Data::U16(_) => Element::U16,
            Data::U32(_) => Element::U32,
            Data::U64(_) => Element::U64,
            Data::Bool(_) => Element::Bool,
            Data::C64(_) => Element::C64,
            Data::C128(_) => Element::C128,
            Data::Str(_) => Element::String,
            Data::Code(e, _) => *e,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        any_data!(self, v => v.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `count` elements of value zero, false or "".
    pub fn zeros(element: Element, count: usize) -> Data {
        match element {
            Element::F32 => Data::F32(vec![0.0; count]),
            Element::F64 => Data::F64(vec![0.0; count]),
            Element::F16 => Data::F16(vec![0; count]),
            Element::BF16 => Data::BF16(vec![0; count]),
            Element::I8 => Data::I8(vec![0; count]),
            Element::I16 => Data::I16(vec![0; count]),
            Element::I32 => Data::I32(vec![0; count]),
            Element::I64 => Data::I64(vec![0; count]),
            Element::U8 => Data::U8(vec![0; count]),
            Element::U16 => Data::U16(vec![0; count]),
            Element::U32 => Data::U32(vec![0; count]),
            Element::U64 => Data::U64(vec![0; count]),
            Element::Bool => Data::Bool(vec![false; count]),
            Element::C64 => Data::C64(vec![[0.0; 2]; count]),
            Element::C128 => Data::C128(vec![[0.0; 2]; count]),
            Element::String => Data::Str(vec![String::new(); count]),
            code => Data::Code(code, vec![0; count]),
        }
    }

    /// Elements at `indices`; zero where an index is beyond the end.
    pub fn take(&self, indices: &[usize]) -> Data {
        same_data!(self, v => indices.iter().map(|i| v.get(*i).cloned().unwrap_or_default()).collect())
    }

    /// Elements from packed little-endian bytes; missing bytes read as nothing.
    pub fn from_packed(element: Element, bytes: &[u8], count: usize) -> Data {
        macro_rules! read {
            ($variant:ident, $t:ty, $n:literal) => {
                Data::$variant(bytes.as_chunks::<$n>().0.iter().map(|b| <$t>::from_le_bytes(*b)).collect())
            };
        }
        let f32_at = |b: &[u8; 4]| f32::from_le_bytes(*b);
        let f64_at = |b: &[u8; 8]| f64::from_le_bytes(*b);
        match element {
            Element::F32 => read!(F32, f32, 4),
            Element::F64 => read!(F64, f64, 8),
            Element::F16 => read!(F16, u16, 2),
            Element::BF16 => read!(BF16, u16, 2),
            Element::I8 => Data::I8(bytes.iter().map(|b| *b as i8).collect()),
            Element::I16 => read!(I16, i16, 2),
            Element::I32 => read!(I32, i32, 4),
            Element::I64 => read!(I64, i64, 8),
            Element::U8 => Data::U8(bytes.to_vec()),
            Element::U16 => read!(U16, u16, 2),
            Element::U32 => read!(U32, u32, 4),
            Element::U64 => read!(U64, u64, 8),
            Element::Bool => Data::Bool(bytes.iter().map(|b| *b != 0).collect()),
            Element::C64 => {
                let parts = bytes.as_chunks::<4>().0.as_chunks::<2>().0;
                Data::C64(parts.iter().map(|[re, im]| [f32_at(re), f32_at(im)]).collect())
            }
            Element::C128 => {
                let parts = bytes.as_chunks::<8>().0.as_chunks::<2>().0;
                Data::C128(parts.iter().map(|[re, im]| [f64_at(re), f64_at(im)]).collect())
            }
            Element::String => Data::Str(Vec::new()),
            code => Data::Code(code, unpack(bytes, code.bits(), count)),
        }
    }

    /// Packed little-endian bytes; nothing for strings.
    pub fn to_packed(&self) -> Vec<u8> {
        macro_rules! write {
            ($v:expr) => {
                $v.iter().flat_map(|x| x.to_le_bytes()).collect()
            };
        }
        match self {
            Data::F32(v) => write!(v),
            Data::F64(v) => write!(v),
            Data::F16(v) | Data::BF16(v) | Data::U16(v) => write!(v),
            Data::I8(v) => v.iter().map(|x| *x as u8).collect(),
            Data::I16(v) => write!(v),
            Data::I32(v) => write!(v),
            Data::I64(v) => write!(v),
            Data::U8(v) => v.clone(),
            Data::U32(v) => write!(v),
            Data::U64(v) => write!(v),
            Data::Bool(v) => v.iter().map(|x| u8::from(*x)).collect(),
            Data::C64(v) => v.iter().flatten().flat_map(|x| x.to_le_bytes()).collect(),
            Data::C128(v) => v.iter().flatten().flat_map(|x| x.to_le_bytes()).collect(),
            Data::Str(_) => Vec::new(),
            Data::Code(e, v) => pack(v, e.bits()),
        }
    }
}

impl Tensor {
    /// A tensor whose elements fill its shape.
    ///
    /// # Errors
    /// Class Internal: they do not.
    pub fn new(shape: impl Into<Vec<usize>>, data: Data) -> Result<Self> {
        let shape = shape.into();
        if crate::onnx::tensor::element_count(&shape) != Some(data.len()) {
            return Err(Error::internal("onnx-elements", "the elements do not fill the shape")
                .expected(format!("{shape:?}"))
                .found(data.len()));
        }
        Ok(Self { shape, data: Arc::new(data) })
    }

    /// A vector.
    pub fn vector(data: Data) -> Self {
        Self { shape: vec![data.len()], data: Arc::new(data) }
    }

    /// A vector of INT64.
    pub fn i64s(values: Vec<i64>) -> Self {
        Self::vector(Data::I64(values))
    }

    /// A scalar; `data` must hold one element.
    ///
    /// # Errors
    /// Class Internal: it does not.
    pub fn scalar(data: Data) -> Result<Self> {
        Self::new([], data)
    }

    /// Zeros.
    ///
    /// # Errors
    /// Class Input: too many.
    pub fn zeros(element: Element, shape: &[usize]) -> Result<Self> {
        Self::new(shape, Data::zeros(element, count(shape)?))
    }

    /// The elements of a payload.
    ///
    /// # Errors
    /// Class Input: text that is not UTF-8, or too many elements.
    pub fn from_payload(payload: &Payload) -> Result<Self> {
        let total = count(&payload.shape)?;
        let data = match &payload.data {
            PayloadData::Bytes(bytes) => Data::from_packed(payload.element, bytes, total),
            PayloadData::Strings(texts) => Data::Str(
                texts
                    .iter()
                    .map(|t| String::from_utf8(t.to_vec()).map_err(|_| bad("a string is no UTF-8")))
                    .collect::<Result<_>>()?,
            ),
        };
        Self::new(payload.shape.clone(), data)
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements, copied only where others share them.
    pub fn into_data(self) -> Data {
        Arc::try_unwrap(self.data).unwrap_or_else(|shared| (*shared).clone())
    }

    /// Element type.
    pub fn element(&self) -> Element {
        self.data.element()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// Class Input: the shape has another number of elements.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let shape = shape.into();
        if crate::onnx::tensor::element_count(&shape) != Some(self.len()) {
            return Err(bad("a tensor cannot take the shape")
                .expected(format!("{} elements, as in {:?}", self.len(), self.shape))
                .found(format!("{shape:?}")));
        }
        Ok(Self { shape, data: Arc::clone(&self.data) })
    }

    /// Elements `offset + Σ index·stride` in a new shape; every such position must exist.
    ///
    /// # Errors
    /// Class Internal: a position does not exist.
    pub fn strided(&self, shape: &[usize], steps: &[isize], offset: usize) -> Result<Self> {
        let total = count(shape)?;
        let (mut low, mut high) = (offset as isize, offset as isize);
        if total > 0 {
            for (n, step) in shape.iter().zip(steps) {
                let reach = (*n as isize - 1) * step;
                low += reach.min(0);
                high += reach.max(0);
            }
            if low < 0 || high as usize >= self.len() {
                return Err(Error::internal("onnx-stride", "a view reaches beyond its tensor"));
            }
        }
        let data = same_data!(&*self.data, v => strided_copy(v, shape, steps, offset, total));
        Self::new(shape, data)
    }

    /// Elements in another order of dimensions.
    ///
    /// # Errors
    /// Class Input: `order` is no permutation.
    pub fn transposed(&self, order: &[usize]) -> Result<Self> {
        let mut sorted = order.to_vec();
        sorted.sort_unstable();
        if sorted.iter().copied().ne(0..self.rank()) {
            return Err(bad("the order of dimensions is no permutation")
                .expected(format!("0 to {}, each once", self.rank().saturating_sub(1)))
                .found(format!("{order:?}")));
        }
        let steps = strides(&self.shape);
        let shape: Vec<usize> = order.iter().map(|d| self.shape[*d]).collect();
        let steps: Vec<isize> = order.iter().map(|d| steps[*d] as isize).collect();
        self.strided(&shape, &steps, 0)
    }

    /// The tensor repeated to a shape that it can be broadcast to.
    ///
    /// # Errors
    /// Class Input: it cannot.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        if self.shape == shape {
            return Ok(self.clone());
        }
        let steps = broadcast_steps(&self.shape, shape)?;
        let steps: Vec<isize> = steps.iter().map(|s| *s as isize).collect();
        self.strided(shape, &steps, 0)
    }

    /// The FLOAT elements.
    ///
    /// # Errors
    /// Class Input: another type.
    pub fn f32s(&self) -> Result<&[f32]> {
        match &*self.data {
            Data::F32(v) => Ok(v),
            _ => Err(self.wrong_type("FLOAT")),
        }
    }

    /// The BOOL elements.
    ///
    /// # Errors
    /// Class Input: another type.
    pub fn bools(&self) -> Result<&[bool]> {
        match &*self.data {
            Data::Bool(v) => Ok(v),
            _ => Err(self.wrong_type("BOOL")),
        }
    }

    /// The STRING elements.
    ///
    /// # Errors
    /// Class Input: another type.
    pub fn texts(&self) -> Result<&[String]> {
        match &*self.data {
            Data::Str(v) => Ok(v),
            _ => Err(self.wrong_type("STRING")),
        }
    }

    /// An error about the element type.
    pub fn wrong_type(&self, expected: &str) -> Error {
        bad("an input has the wrong element type").expected(expected).found(self.element())
    }

    /// Elements of any integer type, or BOOL, as INT64 (UINT64 wraps).
    ///
    /// # Errors
    /// Class Input: another type.
    pub fn to_i64s(&self) -> Result<Vec<i64>> {
        Ok(match &*self.data {
            Data::I64(v) => v.clone(),
            Data::I32(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Data::I16(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Data::I8(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Data::U64(v) => v.iter().map(|x| *x as i64).collect(),
            Data::U32(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Data::U16(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Data::U8(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Data::Bool(v) => v.iter().map(|x| i64::from(*x)).collect(),
            Data::Code(e, v) if e.integer_range().is_some() => {
                v.iter().map(|c| code_integer(*e, *c)).collect()
            }
            _ => return Err(self.wrong_type("an integer type")),
        })
    }

    /// Elements of any number type or BOOL as DOUBLE.
    ///
    /// # Errors
    /// Class Input: another type.
    pub fn to_f64s(&self) -> Result<Vec<f64>> {
        Ok(match &*self.data {
            Data::F64(v) => v.clone(),
            Data::U64(v) => v.iter().map(|x| *x as f64).collect(),
            Data::I64(v) => v.iter().map(|x| *x as f64).collect(),
            Data::I32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::U32(v) => v.iter().map(|x| f64::from(*x)).collect(),
            _ => self.to_f32s()?.into_iter().map(f64::from).collect(),
        })
    }

    /// Elements of any number type or BOOL as FLOAT.
    ///
    /// # Errors
    /// Class Input: another type.
    pub fn to_f32s(&self) -> Result<Vec<f32>> {
        Ok(match &*self.data {
            Data::F32(v) => v.clone(),
            Data::F64(v) => v.iter().map(|x| *x as f32).collect(),
            Data::F16(v) | Data::BF16(v) => half_to_f32(self.element(), v),
            Data::U64(v) => v.iter().map(|x| *x as f32).collect(),
            Data::Code(e, v) if e.integer_range().is_none() => {
                let table = e.dtype().map_or([0.0; 256], codec::decode_table);
                v.iter().map(|c| table[usize::from(*c)]).collect()
            }
            _ => self.to_i64s()?.into_iter().map(|x| x as f32).collect(),
        })
    }

    /// The only element, as INT64.
    ///
    /// # Errors
    /// Class Input: not one integer.
    pub fn to_i64(&self) -> Result<i64> {
        match self.to_i64s()?.as_slice() {
            [one] => Ok(*one),
            more => Err(bad("an input must be one number").found(format!("{} numbers", more.len()))),
        }
    }

    /// The only element, as DOUBLE.
    ///
    /// # Errors
    /// Class Input: not one number.
    pub fn to_f64(&self) -> Result<f64> {
        match self.to_f64s()?.as_slice() {
            [one] => Ok(*one),
            more => Err(bad("an input must be one number").found(format!("{} numbers", more.len()))),
        }
    }
}

/// The value of the code of a 2- or 4-bit integer.
pub fn code_integer(element: Element, code: u8) -> i64 {
    let bits = element.bits() as u32;
    match element.integer_range() {
        Some((low, _)) if low < 0 => i64::from((code << (8 - bits)) as i8 >> (8 - bits)),
        _ => i64::from(code),
    }
}

/// Steps of a source of shape `from` under the indices of shape `to`: 0 along repeated dimensions.
///
/// # Errors
/// Class Input: `from` cannot be broadcast to `to`.
pub fn broadcast_steps(from: &[usize], to: &[usize]) -> Result<Vec<usize>> {
    let refuse = || bad("shapes cannot be broadcast").expected(format!("{to:?}")).found(format!("{from:?}"));
    let missing = to.len().checked_sub(from.len()).ok_or_else(refuse)?;
    let mut steps = vec![0; to.len()];
    for (i, step) in strides(from).into_iter().enumerate() {
        match (from[i], to[missing + i]) {
            (a, b) if a == b => steps[missing + i] = step,
            (1, _) => {}
            _ => return Err(refuse()),
        }
    }
    Ok(steps)
}

/// The common shape of two shapes.
///
/// # Errors
/// Class Input: there is none, or it is too big.
pub fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    let shape: Vec<usize> = (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, x) | (x, 1) => Ok(x),
            _ => Err(bad("shapes cannot be broadcast").expected(format!("{a:?}")).found(format!("{b:?}"))),
        })
        .collect::<Result<_>>()?;
    count(&shape)?;
    Ok(shape)
}

fn strided_copy<T: Clone>(v: &[T], shape: &[usize], steps: &[isize], offset: usize, total: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(total);
    if total == 0 {
        return out;
    }
    let (inner, step) = match (shape.last(), steps.last()) {
        (Some(n), Some(s)) => (*n, *s),
        _ => (1, 0),
    };
    let outer = shape.len().saturating_sub(1);
    let mut index = vec![0usize; outer];
    let mut start = offset as isize;
    loop {
        let base = start as usize;
        match step {
            1 => out.extend_from_slice(&v[base..base + inner]),
            0 => out.extend(std::iter::repeat_n(&v[base], inner).cloned()),
            _ => out.extend((0..inner).map(|i| v[(start + i as isize * step) as usize].clone())),
        }
        // The next row, like an odometer.
        let mut d = outer;
        loop {
            if d == 0 {
                return out;
            }
            d -= 1;
            index[d] += 1;
            start += steps[d];
            if index[d] < shape[d] {
                break;
            }
            start -= steps[d] * shape[d] as isize;
            index[d] = 0;
        }
    }
}
