//! Arguments and results of reference kernels.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A dense row-major tensor as golden sets store it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Array {
    /// Logical format of the elements. 4-bit formats are packed two to a byte along the last axis, even index low,
    /// unless a kernel's argument says one code per byte (then the dtype is `U8` or `I8`).
    pub dtype: Dtype,
    /// Shape of the stored array: for packed formats its last axis counts bytes.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

/// Arrays by argument name.
pub type Arrays = BTreeMap<String, Array>;

/// One call of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Inputs by the names of the kernel's arguments.
    pub inputs: &'a Arrays,
    /// Parameters; absent ones take the kernel's default.
    pub params: &'a Map<String, Value>,
    /// Formats of the outputs wanted, by name, where a kernel offers several. An optional output that is not listed is not
    /// computed.
    pub wanted: &'a BTreeMap<String, Dtype>,
}

impl Array {
    /// An array of `shape` whose bytes are `bytes`.
    pub fn new(dtype: Dtype, shape: impl Into<Vec<usize>>, bytes: Vec<u8>) -> Self {
        Self { dtype, shape: shape.into(), bytes }
    }

    /// Binary32 values.
    pub fn from_f32(shape: impl Into<Vec<usize>>, values: &[f32]) -> Self {
        Self::new(Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The elements of the stored shape.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of axis `axis`, 0 where there is no such axis.
    pub fn dim(&self, axis: usize) -> usize {
        self.shape.get(axis).copied().unwrap_or(0)
    }

    /// Bytes of one stored element: 1 for packed formats.
    pub fn item_size(&self) -> usize {
        match self.dtype.bits() {
            ..=8 => 1,
            bits => usize::try_from(bits / 8).unwrap_or(1),
        }
    }
}

impl<'a> Call<'a> {
    /// The required input `name`.
    ///
    /// # Errors
    /// Class Input where it is missing.
    pub fn input(&self, name: &str) -> Result<&'a Array> {
        self.inputs.get(name).ok_or_else(|| {
            Error::input("kernel-argument", "a kernel lacks an argument").expected(name).found("nothing")
        })
    }

    /// The optional input `name`.
    pub fn optional(&self, name: &str) -> Option<&'a Array> {
        self.inputs.get(name)
    }

    /// The format wanted for output `name`, or `default`.
    pub fn wanted(&self, name: &str, default: Dtype) -> Dtype {
        self.wanted.get(name).copied().unwrap_or(default)
    }

    /// A text parameter, or `default`.
    pub fn text(&self, name: &str, default: &'a str) -> &'a str {
        self.params.get(name).and_then(Value::as_str).unwrap_or(default)
    }

    /// An unsigned parameter, or `default`.
    pub fn unsigned(&self, name: &str, default: usize) -> usize {
        self.params.get(name).and_then(Value::as_u64).and_then(|v| usize::try_from(v).ok()).unwrap_or(default)
    }

    /// A real parameter, or `default`.
    pub fn real(&self, name: &str, default: f64) -> f64 {
        self.params.get(name).and_then(Value::as_f64).unwrap_or(default)
    }

    /// A flag, or `default`.
    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.params.get(name).and_then(Value::as_bool).unwrap_or(default)
    }
}
