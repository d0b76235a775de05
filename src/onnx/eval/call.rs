//! One node being evaluated: its inputs, its attributes, and the graph around it.

use super::graph::{Frame, Scope, Session};
use super::tensor::{Data, Tensor, Value, bad};
use crate::error::Result;
use crate::onnx_protobuf::{AttributeProto, GraphProto, NodeProto};

/// The outputs of a node, by position.
pub(super) type Outcome = Result<Vec<Value>>;

/// A node with its inputs.
pub(super) struct Call<'a> {
    pub(super) node: &'a NodeProto,
    /// Version of the operator set that the node's domain is imported with.
    pub(super) opset: i64,
    pub(super) inputs: Vec<Option<Value>>,
    pub(super) frame: &'a Frame<'a>,
    pub(super) scope: &'a Scope<'a>,
    pub(super) session: &'a Session<'a>,
}

/// A single tensor as outcome.
pub(super) fn one(tensor: Tensor) -> Outcome {
    Ok(vec![Value::Tensor(tensor)])
}

impl Call<'_> {
    /// Input `i`, which must be given.
    pub(super) fn value(&self, i: usize) -> Result<&Value> {
        self.inputs.get(i).and_then(Option::as_ref).ok_or_else(|| bad(format!("input {i} is missing")))
    }

    /// Input `i`, which must be a tensor.
    pub(super) fn tensor(&self, i: usize) -> Result<&Tensor> {
        match self.value(i)? {
            Value::Tensor(tensor) => Ok(tensor),
            Value::Sequence(_) => Err(bad(format!("input {i} is a sequence, not a tensor"))),
            Value::Nothing => Err(bad(format!("input {i} is an empty optional, not a tensor"))),
        }
    }

    /// Input `i`, which must be a sequence.
    pub(super) fn sequence(&self, i: usize) -> Result<&[Value]> {
        match self.value(i)? {
            Value::Sequence(items) => Ok(items),
            _ => Err(bad(format!("input {i} is no sequence"))),
        }
    }

    /// Input `i`, where it is given.
    ///
    /// # Errors
    /// It is given and no tensor.
    pub(super) fn optional(&self, i: usize) -> Result<Option<&Tensor>> {
        match self.inputs.get(i).and_then(Option::as_ref) {
            None | Some(Value::Nothing) => Ok(None),
            Some(_) => self.tensor(i).map(Some),
        }
    }

    /// All inputs, which must be tensors.
    pub(super) fn tensors(&self) -> Result<Vec<&Tensor>> {
        (0..self.inputs.len()).map(|i| self.tensor(i)).collect()
    }

    /// The attribute `name`; in a function's body it may refer to one of the function's own.
    pub(super) fn attribute(&self, name: &str) -> Option<&AttributeProto> {
        let own = self.node.attribute.iter().find(|a| a.name == name)?;
        if own.ref_attr_name.is_empty() {
            return Some(own);
        }
        self.frame.attributes.iter().find(|(n, _)| *n == own.ref_attr_name).map(|(_, a)| *a)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.i)
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name, default.into()) != 0
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |a| a.f)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    pub(super) fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attribute(name).map(|a| a.floats.as_slice())
    }

    pub(super) fn text(&self, name: &str, default: &str) -> Result<String> {
        match self.attribute(name) {
            None => Ok(default.to_owned()),
            Some(a) => {
                String::from_utf8(a.s.to_vec()).map_err(|_| bad(format!("attribute {name} is no UTF-8")))
            }
        }
    }

    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        let utf8 = |s: &bytes::Bytes| {
            String::from_utf8(s.to_vec()).map_err(|_| bad(format!("attribute {name} is no UTF-8")))
        };
        self.attribute(name).map(|a| a.strings.iter().map(utf8).collect()).transpose()
    }

    pub(super) fn graph(&self, name: &str) -> Result<&GraphProto> {
        self.attribute(name)
            .and_then(|a| a.g.as_ref())
            .ok_or_else(|| bad(format!("the graph attribute {name} is missing")))
    }

    /// The tensor attribute `name`.
    pub(super) fn tensor_attribute(&self, name: &str) -> Result<Option<Tensor>> {
        match self.attribute(name).and_then(|a| a.t.as_ref()) {
            Some(proto) => Tensor::from_payload(&self.session.model().payload(proto)?).map(Some),
            None => Ok(None),
        }
    }

    /// Runs a subgraph with these inputs; it sees the values around this node.
    pub(super) fn run(&self, graph: &GraphProto, inputs: Vec<Value>) -> Result<Vec<Value>> {
        self.session.run_subgraph(graph, inputs, self.scope, self.frame)
    }

    /// Integers that older versions have as an attribute and newer ones as input `i`.
    pub(super) fn ints_at(&self, name: &str, i: usize) -> Result<Option<Vec<i64>>> {
        if let Some(ints) = self.ints(name) {
            return Ok(Some(ints.to_vec()));
        }
        self.optional(i)?.map(Tensor::to_i64s).transpose()
    }

    /// The attribute `axis` within `0..=rank-1`.
    pub(super) fn axis(&self, default: i64, rank: usize) -> Result<usize> {
        axis(self.int("axis", default), rank)
    }
}

/// A possibly negative dimension as an index below `rank`.
pub(super) fn axis(value: i64, rank: usize) -> Result<usize> {
    let signed = if value < 0 { value.saturating_add(rank as i64) } else { value };
    usize::try_from(signed).ok().filter(|a| *a < rank).ok_or_else(|| {
        bad("an axis is out of range").expected(format!("-{rank} to {}", rank as i64 - 1)).found(value)
    })
}

/// Possibly negative dimensions, each once.
pub(super) fn axes(values: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut out = Vec::with_capacity(values.len());
    for value in values {
        let a = axis(*value, rank)?;
        if out.contains(&a) {
            return Err(bad("an axis is given twice").found(format!("{values:?}")));
        }
        out.push(a);
    }
    Ok(out)
}

/// Numbers that must not be negative.
pub(super) fn sizes(values: &[i64]) -> Result<Vec<usize>> {
    values
        .iter()
        .map(|v| usize::try_from(*v).map_err(|_| bad("a size is negative").found(format!("{values:?}"))))
        .collect()
}

/// Floating-point elements of the two widths that operators compute in.
pub(super) trait Float:
    Copy
    + PartialOrd
    + Default
    + Send
    + Sync
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + 'static
{
    fn of(x: f64) -> Self;
    fn f64(self) -> f64;
    fn data(v: Vec<Self>) -> Data;
}

macro_rules! float {
    ($t:ty, $variant:ident) => {
        impl Float for $t {
            fn of(x: f64) -> Self {
                x as $t
            }
            fn f64(self) -> f64 {
                self.into()
            }
            fn data(v: Vec<Self>) -> Data {
                Data::$variant(v)
            }
        }
    };
}
float!(f32, F32);
float!(f64, F64);

/// Elements of a FLOAT or DOUBLE tensor, borrowed.
pub(super) trait FloatsOf: Float {
    fn slice(tensor: &Tensor) -> Result<&[Self]>;
}

impl FloatsOf for f32 {
    fn slice(tensor: &Tensor) -> Result<&[Self]> {
        tensor.f32s()
    }
}

impl FloatsOf for f64 {
    fn slice(tensor: &Tensor) -> Result<&[Self]> {
        match tensor.data() {
            Data::F64(v) => Ok(v),
            _ => Err(tensor.wrong_type("DOUBLE")),
        }
    }
}

/// Calls a generic function for the float type of a tensor (halves have been widened before).
macro_rules! for_float {
    ($tensor:expr, $f:ident ( $($arg:expr),* $(,)? )) => {
        match $tensor.data() {
            $crate::onnx::eval::tensor::Data::F64(_) => $f::<f64>($($arg),*),
            $crate::onnx::eval::tensor::Data::F32(_) => $f::<f32>($($arg),*),
            _ => Err($tensor.wrong_type("a floating-point type")),
        }
    };
}
pub(super) use for_float;
