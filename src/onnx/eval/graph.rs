//! Running a graph: values by name, node by node, subgraphs and functions inside.

use super::call::Call;
use super::table::{self, Halves};
use super::tensor::{Data, Tensor, Value, bad, half_to_f32};
use crate::dtype::codec;
use crate::error::{Error, Result};
use crate::onnx::element::Element;
use crate::onnx::model::{Model, opset_version};
use crate::onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
};
use std::collections::{BTreeMap, HashMap};

/// Deepest nesting of function calls and subgraphs: a function may call itself.
const MAX_DEPTH: usize = 64;

/// A model made ready to run.
pub struct Session<'m> {
    model: &'m Model,
    constants: HashMap<&'m str, Value>,
}

/// Values by name, inner ones first.
pub(super) struct Scope<'a> {
    values: HashMap<&'a str, Value>,
    parent: Option<&'a Scope<'a>>,
}

/// What nodes of one body share.
pub(super) struct Frame<'a> {
    imports: &'a [OperatorSetIdProto],
    /// Attributes of the function call, which nodes of the body may refer to.
    pub(super) attributes: Vec<(&'a str, &'a AttributeProto)>,
    depth: usize,
}

impl Scope<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name).or_else(|| self.parent?.get(name))
    }
}

impl<'m> Session<'m> {
    /// Unpacks the main graph's initializers.
    ///
    /// # Errors
    /// Those of [`Model::payload`].
    pub fn new(model: &'m Model) -> Result<Self> {
        let mut session = Self { model, constants: HashMap::new() };
        session.constants = session.initializers(model.graph())?;
        Ok(session)
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Whether the graph input `name` has a default value.
    pub fn has_default(&self, name: &str) -> bool {
        self.constants.contains_key(name)
    }

    /// Evaluates the main graph. Inputs that have no default value must be given.
    ///
    /// # Errors
    /// Class Unsupported: `onnx-operator` (an operator or version that the evaluator does not run). Class Input: `onnx-input`
    /// (a missing input), `onnx-value` (a name that nothing defines before it is used), `onnx-node`.
    pub fn run(&self, inputs: BTreeMap<String, Value>) -> Result<Vec<(String, Value)>> {
        let graph = self.model.graph();
        let mut values = self.constants.clone();
        for input in &graph.input {
            match inputs.get(&input.name) {
                Some(value) => {
                    values.insert(&input.name, value.clone());
                }
                None if values.contains_key(input.name.as_str()) => {}
                None => {
                    return Err(Error::input("onnx-input", "an input of the model is missing")
                        .file(&self.model.name)
                        .tensor(&input.name));
                }
            }
        }
        drop(inputs);
        let frame = Frame { imports: &self.model.proto.opset_import, attributes: Vec::new(), depth: 0 };
        let mut scope = Scope { values, parent: None };
        self.nodes(&graph.node, &mut scope, &frame, Some(graph)).map_err(|e| e.file_or(&self.model.name))?;
        graph
            .output
            .iter()
            .map(|o| {
                Ok((o.name.clone(), scope.get(&o.name).cloned().ok_or_else(|| self.undefined(&o.name))?))
            })
            .collect()
    }

    fn undefined(&self, name: &str) -> Error {
        Error::input("onnx-value", "a value is used before anything defines it")
            .file(&self.model.name)
            .tensor(name)
            .expected("nodes in an order in which every input is defined before its use")
    }

    fn initializers<'g>(&self, graph: &'g GraphProto) -> Result<HashMap<&'g str, Value>> {
        let mut values = HashMap::new();
        for tensor in &graph.initializer {
            let read =
                || Tensor::from_payload(&self.model.payload(tensor)?).map_err(|e| e.tensor(&tensor.name));
            values.insert(tensor.name.as_str(), Value::Tensor(read()?));
        }
        for sparse in &graph.sparse_initializer {
            let dense = self.dense(sparse).map_err(|e| e.tensor(&sparse.values.name))?;
            values.insert(sparse.values.name.as_str(), Value::Tensor(dense));
        }
        Ok(values)
    }

    /// A sparse tensor with its zeros.
    pub(super) fn dense(&self, sparse: &SparseTensorProto) -> Result<Tensor> {
        let (shape, _) = crate::onnx::tensor::shape(&sparse.dims, &sparse.values.name)?;
        let values = Tensor::from_payload(&self.model.payload(sparse.values.get_or_default())?)?;
        let indices = Tensor::from_payload(&self.model.payload(sparse.indices.get_or_default())?)?;
        let total = super::tensor::count(&shape)?;
        let entries = values.len();
        let positions: Vec<i64> = match indices.shape.as_slice() {
            [n] if *n == entries => indices.to_i64s()?,
            [n, rank] if *n == entries && *rank == shape.len() => {
                let steps = super::tensor::strides(&shape);
                let flat = |row: &[i64]| -> i64 {
                    let inside = row.iter().zip(&shape).all(|(i, n)| (0..*n as i64).contains(i));
                    if inside { row.iter().zip(&steps).map(|(i, s)| i * *s as i64).sum() } else { -1 }
                };
                if *rank == 0 {
                    vec![0; entries]
                } else {
                    indices.to_i64s()?.chunks(*rank).map(flat).collect()
                }
            }
            _ => return Err(bad("a sparse tensor's indices do not fit its values")),
        };
        let mut source = vec![usize::MAX; total];
        for (entry, position) in positions.iter().enumerate() {
            let slot = usize::try_from(*position).ok().and_then(|p| source.get_mut(p));
            *slot.ok_or_else(|| bad("a sparse tensor's index is out of range").found(position))? = entry;
        }
        Tensor::new(shape, values.data().take(&source))
    }

    fn nodes<'g>(
        &self,
        nodes: &'g [NodeProto],
        scope: &mut Scope<'g>,
        frame: &Frame<'_>,
        graph: Option<&'g GraphProto>,
    ) -> Result<()> {
        let last = graph.map(last_uses);
        for (i, node) in nodes.iter().enumerate() {
            let outputs = self.node(node, scope, frame).map_err(|e| {
                let place = node.output.iter().find(|o| !o.is_empty()).unwrap_or(&node.name);
                if e.tensor_name().is_some() { e } else { e.tensor(format!("{place} ({})", node.op_type)) }
            })?;
            let produced = outputs.len();
            for (name, value) in node.output.iter().zip(outputs) {
                if !name.is_empty() {
                    scope.values.insert(name, value);
                }
            }
            if node.output.iter().skip(produced).any(|name| !name.is_empty()) {
                return Err(unsupported(node, 0, "an output that it does not compute")
                    .found(format!("{} outputs, of which {produced} are computed", node.output.len())));
            }
            if let Some(last) = &last {
                for name in last.get(i).into_iter().flatten() {
                    scope.values.remove(name);
                }
            }
        }
        Ok(())
    }

    fn node(&self, node: &NodeProto, scope: &Scope<'_>, frame: &Frame<'_>) -> Result<Vec<Value>> {
        let inputs = node
            .input
            .iter()
            .map(|name| match name.as_str() {
                "" => Ok(None),
                name => scope.get(name).cloned().map(Some).ok_or_else(|| self.undefined(name)),
            })
            .collect::<Result<Vec<_>>>()?;
        let import = opset_version(frame.imports, &node.domain);
        // A model's own function comes before an operator of the same name.
        let function = self
            .model
            .proto
            .functions
            .iter()
            .find(|f| f.name == node.op_type && f.domain == node.domain && f.overload == node.overload);
        let call = Call { node, opset: import.unwrap_or(1), inputs, frame, scope, session: self };
        if let Some(function) = function {
            return self.function(function, &call);
        }
        let Some(operator) = table::find(&node.domain, &node.op_type, call.opset) else {
            return Err(unsupported(node, call.opset, "an operator that the evaluator does not run"));
        };
        if operator.halves == Halves::Native {
            return (operator.kernel)(&call);
        }
        widened(call, operator.kernel)
    }

    fn function(&self, function: &FunctionProto, call: &Call<'_>) -> Result<Vec<Value>> {
        let depth = deeper(call.frame)?;
        let names = function.attribute.iter().map(String::as_str);
        let mut attributes: Vec<(&str, &AttributeProto)> =
            names.filter_map(|name| Some((name, call.attribute(name)?))).collect();
        for default in &function.attribute_proto {
            attributes.push((&default.name, call.attribute(&default.name).unwrap_or(default)));
        }
        let frame = Frame { imports: &function.opset_import, attributes, depth };
        let mut values = HashMap::new();
        for (name, value) in function.input.iter().zip(&call.inputs) {
            if let Some(value) = value {
                values.insert(name.as_str(), value.clone());
            }
        }
        // Inputs that the caller leaves out read as an empty optional.
        for name in &function.input {
            values.entry(name).or_insert(Value::Nothing);
        }
        let mut scope = Scope { values, parent: None };
        self.nodes(&function.node, &mut scope, &frame, None)?;
        function.output.iter().map(|o| scope.get(o).cloned().ok_or_else(|| self.undefined(o))).collect()
    }

    pub(super) fn run_subgraph(
        &self,
        graph: &GraphProto,
        inputs: Vec<Value>,
        around: &Scope<'_>,
        frame: &Frame<'_>,
    ) -> Result<Vec<Value>> {
        let depth = deeper(frame)?;
        let frame = Frame { imports: frame.imports, attributes: frame.attributes.clone(), depth };
        let mut values = self.initializers(graph)?;
        if inputs.len() != graph.input.len() {
            return Err(bad("a subgraph takes another number of inputs")
                .expected(graph.input.len())
                .found(inputs.len()));
        }
        for (info, value) in graph.input.iter().zip(inputs) {
            values.insert(&info.name, value);
        }
        let mut scope = Scope { values, parent: Some(around) };
        self.nodes(&graph.node, &mut scope, &frame, None)?;
        graph
            .output
            .iter()
            .map(|o| scope.get(&o.name).cloned().ok_or_else(|| self.undefined(&o.name)))
            .collect()
    }
}

fn deeper(frame: &Frame<'_>) -> Result<usize> {
    if frame.depth >= MAX_DEPTH {
        return Err(Error::input("onnx-recursion", "functions or subgraphs nest too deeply")
            .expected(format!("at most {MAX_DEPTH} levels"))
            .fix("a function must not call itself"));
    }
    Ok(frame.depth + 1)
}

fn unsupported(node: &NodeProto, opset: i64, what: &str) -> Error {
    let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
    Error::unsupported("onnx-operator", format!("{domain}.{} asks for {what}", node.op_type))
        .found(format!("version {opset} of {domain}"))
        .fix("docs/onnx.md lists the operators and their versions")
}

/// Per node, the names that no later node and no output needs.
fn last_uses(graph: &GraphProto) -> Vec<Vec<&str>> {
    fn uses<'g>(node: &'g NodeProto, see: &mut dyn FnMut(&'g str)) {
        node.input.iter().for_each(|n| see(n));
        for graph in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            graph.node.iter().for_each(|n| uses(n, see));
            graph.output.iter().for_each(|o| see(&o.name));
        }
    }
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, node) in graph.node.iter().enumerate() {
        node.output.iter().for_each(|name| {
            last.insert(name, i);
        });
        uses(node, &mut |name| {
            last.insert(name, i);
        });
    }
    for output in &graph.output {
        last.remove(output.name.as_str());
    }
    let mut per_node = vec![Vec::new(); graph.node.len()];
    for (name, i) in last {
        per_node[i].push(name);
    }
    per_node
}

/// Runs a kernel on FLOAT copies of FLOAT16 or BFLOAT16 inputs and rounds FLOAT results to the type of the first.
fn widened(mut call: Call<'_>, kernel: fn(&Call<'_>) -> super::call::Outcome) -> super::call::Outcome {
    let mut half = None;
    for input in call.inputs.iter_mut().flatten() {
        let Value::Tensor(tensor) = input else { continue };
        let (Data::F16(codes) | Data::BF16(codes)) = tensor.data() else { continue };
        half = half.or(Some(tensor.element()));
        *tensor = Tensor::new(tensor.shape.clone(), Data::F32(half_to_f32(tensor.element(), codes)))?;
    }
    let outputs = kernel(&call)?;
    let Some(half) = half else { return Ok(outputs) };
    outputs
        .into_iter()
        .map(|value| match value {
            Value::Tensor(tensor) if tensor.element() == Element::F32 => {
                narrow(&tensor, half).map(Value::Tensor)
            }
            other => Ok(other),
        })
        .collect()
}

/// A FLOAT tensor rounded to FLOAT16 or BFLOAT16.
pub(super) fn narrow(tensor: &Tensor, half: Element) -> Result<Tensor> {
    let values = tensor.f32s()?;
    let data = if half == Element::F16 {
        Data::F16(values.iter().map(|x| codec::f16_from_f32(*x)).collect())
    } else {
        Data::BF16(values.iter().map(|x| codec::bf16_from_f32(*x)).collect())
    };
    Tensor::new(tensor.shape.clone(), data)
}
