//! A graph under construction: nodes in the order of their creation, names and shapes of their values.
//!
//! Everything is a function of the calls made, so the bytes of a graph are reproducible. Shapes are static and tracked
//! here; element types are the caller's business.

use crate::onnx_protobuf::attribute_proto::AttributeType;
use crate::onnx_protobuf::tensor_proto::DataType;
use crate::onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

/// The operator set of the graphs: what onnxruntime's CPU provider runs (BitCast came later, with 26).
pub(super) const OPSET: i64 = 23;
/// The version of the format that this operator set came with.
const IR_VERSION: i64 = 11;

/// A value of a graph: its name and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
}

impl Value {
    /// Length of axis `axis`.
    pub(super) fn dim(&self, axis: usize) -> usize {
        self.shape.get(axis).copied().unwrap_or(1)
    }
}

/// An attribute of a node.
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Text(&'static str),
    Graph(GraphProto),
}

/// A graph under construction.
#[derive(Default)]
pub(super) struct Builder {
    graph: GraphProto,
    /// Prefix of the names of values, so that those of a subgraph differ from those around it.
    prefix: &'static str,
}

impl Builder {
    /// The body of a loop.
    pub(super) fn subgraph() -> Self {
        Builder { prefix: "body_", ..Self::default() }
    }

    /// An input of the graph.
    pub(super) fn input(&mut self, name: &str, dtype: DataType, shape: &[usize]) -> Value {
        self.graph.input.push(value_info(name, dtype, shape));
        Value { name: name.to_owned(), shape: shape.to_vec() }
    }

    /// Makes `value`, which a node computes, the output `name`.
    pub(super) fn output(&mut self, value: &Value, name: &str, dtype: DataType) {
        self.graph.output.push(value_info(name, dtype, &value.shape));
        let names = self.graph.node.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
        names.filter(|n| **n == value.name).for_each(|n| name.clone_into(n));
    }

    /// An input of a loop body.
    pub(super) fn body_input(&mut self, name: &'static str, dtype: DataType, shape: &[usize]) -> Value {
        self.input(&format!("{}{name}", self.prefix), dtype, shape)
    }

    /// The finished body of a loop.
    pub(super) fn into_graph(mut self, name: &str) -> GraphProto {
        self.graph.name = name.to_owned();
        self.graph
    }

    /// A node with one result of `shape`.
    pub(super) fn node(
        &mut self,
        op: &'static str,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute<'_>)>,
        shape: Vec<usize>,
    ) -> Value {
        self.nodes(op, inputs, attributes, vec![shape]).remove(0)
    }

    /// A node with a result of each of `shapes`.
    pub(super) fn nodes(
        &mut self,
        op: &'static str,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute<'_>)>,
        shapes: Vec<Vec<usize>>,
    ) -> Vec<Value> {
        let name = format!("{}{}_{}", self.prefix, op.to_lowercase(), self.graph.node.len());
        let single = shapes.len() == 1;
        let results: Vec<Value> = shapes
            .into_iter()
            .enumerate()
            .map(|(i, shape)| Value {
                name: if single { name.clone() } else { format!("{name}_{i}") },
                shape,
            })
            .collect();
        self.graph.node.push(NodeProto {
            name,
            op_type: op.to_owned(),
            input: inputs.iter().map(|v| v.name.clone()).collect(),
            output: results.iter().map(|v| v.name.clone()).collect(),
            attribute: attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
            ..NodeProto::default()
        });
        results
    }

    /// A constant; equal ones are shared.
    pub(super) fn constant(&mut self, dtype: DataType, shape: &[usize], bytes: Vec<u8>) -> Value {
        let dims: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        let same =
            |t: &&TensorProto| t.data_type == dtype as i32 && t.dims == dims && t.raw_data[..] == bytes[..];
        let name = match self.graph.initializer.iter().find(same) {
            Some(tensor) => tensor.name.clone(),
            None => {
                let name = format!("{}constant_{}", self.prefix, self.graph.initializer.len());
                self.graph.initializer.push(TensorProto {
                    name: name.clone(),
                    data_type: dtype as i32,
                    dims,
                    raw_data: bytes.into(),
                    ..TensorProto::default()
                });
                name
            }
        };
        Value { name, shape: shape.to_vec() }
    }

    /// A scalar FLOAT.
    pub(super) fn f32(&mut self, x: f32) -> Value {
        self.constant(DataType::FLOAT, &[], x.to_le_bytes().to_vec())
    }

    /// A scalar DOUBLE.
    pub(super) fn f64(&mut self, x: f64) -> Value {
        self.constant(DataType::DOUBLE, &[], x.to_le_bytes().to_vec())
    }

    /// FLOAT values.
    pub(super) fn f32s(&mut self, values: &[f32]) -> Value {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(DataType::FLOAT, &[values.len()], bytes)
    }

    /// INT64 values.
    pub(super) fn i64s(&mut self, values: &[i64]) -> Value {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(DataType::INT64, &[values.len()], bytes)
    }

    /// A scalar INT64.
    pub(super) fn i64(&mut self, x: i64) -> Value {
        self.constant(DataType::INT64, &[], x.to_le_bytes().to_vec())
    }

    /// A scalar INT32.
    pub(super) fn i32(&mut self, x: i32) -> Value {
        self.constant(DataType::INT32, &[], x.to_le_bytes().to_vec())
    }

    /// `value` in another type.
    pub(super) fn cast(&mut self, value: &Value, to: DataType) -> Value {
        let shape = value.shape.clone();
        self.node("Cast", &[value], vec![("to", Attribute::Int(to as i64))], shape)
    }

    /// An operator of one value, element by element.
    pub(super) fn unary(&mut self, op: &'static str, value: &Value) -> Value {
        self.node(op, &[value], vec![], value.shape.clone())
    }

    /// An operator of two values, which broadcast.
    pub(super) fn binary(&mut self, op: &'static str, a: &Value, b: &Value) -> Value {
        let shape = broadcast(&a.shape, &b.shape);
        self.node(op, &[a, b], vec![], shape)
    }

    /// `yes` where `condition` holds, else `no`.
    pub(super) fn select(&mut self, condition: &Value, yes: &Value, no: &Value) -> Value {
        let shape = broadcast(&broadcast(&condition.shape, &yes.shape), &no.shape);
        self.node("Where", &[condition, yes, no], vec![], shape)
    }

    /// The same elements in another shape.
    pub(super) fn reshape(&mut self, value: &Value, shape: &[usize]) -> Value {
        if value.shape == shape {
            return value.clone();
        }
        let sizes = self.i64s(&shape.iter().map(|d| *d as i64).collect::<Vec<_>>());
        self.node("Reshape", &[value, &sizes], vec![("allowzero", Attribute::Int(1))], shape.to_vec())
    }

    /// Axis `i` of the result is axis `order[i]`.
    pub(super) fn transpose(&mut self, value: &Value, order: &[usize]) -> Value {
        let shape = order.iter().map(|axis| value.dim(*axis)).collect();
        let order: Vec<i64> = order.iter().map(|axis| *axis as i64).collect();
        self.node("Transpose", &[value], vec![("perm", Attribute::Ints(&order))], shape)
    }

    /// Zeros after the end of `axis` until it has `len` elements.
    pub(super) fn pad(&mut self, value: &Value, axis: usize, len: usize) -> Value {
        if value.dim(axis) == len {
            return value.clone();
        }
        let rank = value.shape.len();
        let mut pads = vec![0i64; rank * 2];
        pads[rank + axis] = (len - value.dim(axis)) as i64;
        let pads = self.i64s(&pads);
        let mut shape = value.shape.clone();
        shape[axis] = len;
        self.node("Pad", &[value, &pads], vec![], shape)
    }

    /// Elements `range` of `axis`.
    pub(super) fn slice(&mut self, value: &Value, axis: usize, range: std::ops::Range<usize>) -> Value {
        if range == (0..value.dim(axis)) {
            return value.clone();
        }
        let mut shape = value.shape.clone();
        shape[axis] = range.len();
        let [start, end, axis] = [range.start, range.end, axis].map(|x| self.i64s(&[x as i64]));
        self.node("Slice", &[value, &start, &end, &axis], vec![], shape)
    }

    /// Values joined along `axis`.
    pub(super) fn concat(&mut self, values: &[&Value], axis: usize) -> Value {
        let mut shape = values.first().map(|v| v.shape.clone()).unwrap_or_default();
        if let Some(len) = shape.get_mut(axis) {
            *len = values.iter().map(|v| v.dim(axis)).sum();
        }
        self.node("Concat", values, vec![("axis", Attribute::Int(axis as i64))], shape)
    }

    /// Elements `indices` of `axis`.
    pub(super) fn gather(&mut self, value: &Value, indices: &Value, axis: usize) -> Value {
        let shape = [&value.shape[..axis], &indices.shape[..], &value.shape[axis + 1..]].concat();
        self.node("Gather", &[value, indices], vec![("axis", Attribute::Int(axis as i64))], shape)
    }

    /// `value` cut into single elements of its first axis, which the results lack.
    pub(super) fn unstack(&mut self, value: &Value) -> Vec<Value> {
        let (count, rest) = (value.dim(0), value.shape[1..].to_vec());
        if count <= 1 {
            return (0..count).map(|_| self.reshape(value, &rest)).collect();
        }
        let sizes = self.i64s(&vec![1; count]);
        let one = [&[1], &rest[..]].concat();
        let parts =
            self.nodes("Split", &[value, &sizes], vec![("axis", Attribute::Int(0))], vec![one; count]);
        parts.iter().map(|part| self.reshape(part, &rest)).collect()
    }

    /// Reduces `axes`, which stay with length 1.
    pub(super) fn reduce(&mut self, op: &'static str, value: &Value, axes: &[usize]) -> Value {
        let mut shape = value.shape.clone();
        axes.iter().for_each(|axis| shape[*axis] = 1);
        let axes = self.i64s(&axes.iter().map(|axis| *axis as i64).collect::<Vec<_>>());
        self.node(op, &[value, &axes], vec![("keepdims", Attribute::Int(1))], shape)
    }

    /// Runs `body` over the first axis of `scanned`; the result is the state after the last step.
    pub(super) fn scan(&mut self, state: &Value, scanned: &[&Value], body: GraphProto) -> Value {
        let inputs = [&[state], scanned].concat();
        let attributes =
            vec![("body", Attribute::Graph(body)), ("num_scan_inputs", Attribute::Int(scanned.len() as i64))];
        self.node("Scan", &inputs, attributes, state.shape.clone())
    }

    /// The serialized model; `None` if a message cannot be written.
    pub(super) fn finish(self, name: &str, doc: &str) -> Option<Vec<u8>> {
        let mut graph = self.into_graph(name);
        doc.clone_into(&mut graph.doc_string);
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            opset_import: vec![OperatorSetIdProto { version: OPSET, ..OperatorSetIdProto::default() }],
            graph: Some(graph).into(),
            ..ModelProto::default()
        }
        .write_to_bytes()
        .ok()
    }
}

/// The shape that two shapes broadcast to.
fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let side = |shape: &[usize], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(axis) => shape[axis],
        None => 1,
    };
    (0..rank).map(|axis| if side(a, axis) == 1 { side(b, axis) } else { side(a, axis) }).collect()
}

fn value_info(name: &str, dtype: DataType, shape: &[usize]) -> ValueInfoProto {
    let dims = shape.iter().map(|d| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(*d as i64)),
        ..tensor_shape_proto::Dimension::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: dtype as i32,
        shape: Some(TensorShapeProto { dim: dims.collect(), ..TensorShapeProto::default() }).into(),
        ..type_proto::Tensor::default()
    };
    let value = Some(type_proto::Value::TensorType(tensor));
    ValueInfoProto {
        name: name.to_owned(),
        type_: Some(TypeProto { value, ..TypeProto::default() }).into(),
        ..ValueInfoProto::default()
    }
}

fn attribute(name: &str, value: Attribute<'_>) -> AttributeProto {
    let mut attribute = AttributeProto { name: name.to_owned(), ..AttributeProto::default() };
    let kind = match value {
        Attribute::Int(i) => {
            attribute.i = i;
            AttributeType::INT
        }
        Attribute::Ints(ints) => {
            attribute.ints = ints.to_vec();
            AttributeType::INTS
        }
        Attribute::Text(text) => {
            attribute.s = text.as_bytes().to_vec().into();
            AttributeType::STRING
        }
        Attribute::Graph(graph) => {
            attribute.g = Some(graph).into();
            AttributeType::GRAPH
        }
    };
    attribute.type_ = kind.into();
    attribute
}
