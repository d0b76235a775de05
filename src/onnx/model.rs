//! An ONNX model: its messages, and the folder that its external data lie in.

use super::element::Element;
use super::scan;
use super::tensor::{self, Payload};
use crate::error::{Error, Result, quote};
use crate::io::confined::Confined;
use crate::io::source::SourceDir;
use crate::onnx_protobuf::{
    FunctionProto, GraphProto, Message, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use bytes::Bytes;
use std::collections::HashSet;
use std::path::Path;

/// The newest IR version that is read (onnx 1.23).
pub const MAX_IR_VERSION: i64 = 14;

/// The newest version of the default operator set that is read (onnx 1.23).
pub const MAX_OPSET: i64 = 28;

/// The largest message of protobuf: 2 GiB − 1. Bigger models keep tensors in external data.
pub const MAX_MESSAGE_BYTES: u64 = 0x7fff_ffff;

/// Deepest nesting of subgraphs.
const MAX_SUBGRAPH_DEPTH: usize = 24;

/// A model in memory. Tensors with `raw_data` point into the file's bytes; external ones stay on disk.
#[derive(Debug)]
pub struct Model {
    /// The messages, unknown fields included.
    pub proto: ModelProto,
    /// The folder of the file, for external data.
    pub folder: Option<Confined>,
    /// The file's path as given, for messages.
    pub name: String,
}

impl Model {
    /// Reads the file at `path`, but no external data.
    ///
    /// # Errors
    /// Class Input: a link or special file, no ONNX model, a broken or hostile one. Class Unsupported: `onnx-ir`,
    /// `onnx-opset`. Class Io.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
            Error::usage("onnx-path", "the model's path has no file name")
                .file(path.display())
                .expected("a path to a .onnx file")
        })?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = SourceDir::open(parent)?.open_file(name)?;
        let bytes = file.read_to_end(MAX_MESSAGE_BYTES).map_err(|e| match e.code() {
            "file-too-big" => {
                e.fix("models over 2 GiB keep their tensors in external data: export it that way")
            }
            _ => e,
        })?;
        let shown = path.display().to_string();
        let folder = Confined::open(parent)?;
        Self::parse(bytes.into(), shown.clone(), Some(folder)).map_err(|e| e.file_or(shown))
    }

    /// Parses the bytes of a model; `name` is for messages.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn parse(bytes: Bytes, name: String, folder: Option<Confined>) -> Result<Self> {
        scan::check(&bytes)?;
        let proto = ModelProto::parse_from_tokio_bytes(&bytes).map_err(|e| {
            Error::input("onnx-wire", "the file is no ONNX model, or it is cut off")
                .expected("a ModelProto in the protobuf wire format")
                .found(quote(&e.to_string(), 120))
        })?;
        check(&proto)?;
        Ok(Self { proto, folder, name })
    }

    /// The main graph.
    pub fn graph(&self) -> &GraphProto {
        // `check` has seen to it that there is one.
        self.proto.graph.get_or_default()
    }

    /// The version of the operator set of `domain` (`""` or `ai.onnx` is the default one) that the model imports.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        opset_version(&self.proto.opset_import, domain)
    }

    /// The elements of one of the model's tensors.
    ///
    /// # Errors
    /// As [`tensor::payload`].
    pub fn payload(&self, tensor: &TensorProto) -> Result<Payload> {
        tensor::payload(tensor, self.folder.as_ref()).map_err(|e| e.file_or(&self.name))
    }

    /// Visits every graph: the main one, those of attributes, of functions' nodes and of training, outer ones first.
    pub fn for_each_graph<'a>(&'a self, visit: &mut dyn FnMut(&'a GraphProto)) {
        for graph in self.proto.graph.iter() {
            graphs(graph, visit);
        }
        for function in &self.proto.functions {
            node_graphs(&function.node, visit);
        }
        for training in &self.proto.training_info {
            for graph in training.initialization.iter().chain(training.algorithm.iter()) {
                graphs(graph, visit);
            }
        }
    }

    /// Visits every dense tensor: initializers, attributes, and the parts of sparse ones.
    pub fn for_each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'a TensorProto)) {
        let mut of_nodes = |nodes: &'a [NodeProto]| {
            for attribute in nodes.iter().flat_map(|n| &n.attribute) {
                attribute.t.iter().chain(&attribute.tensors).for_each(&mut *visit);
                let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
                sparse.flat_map(parts).for_each(&mut *visit);
            }
        };
        for function in &self.proto.functions {
            of_nodes(&function.node);
        }
        self.for_each_graph(&mut |graph| of_nodes(&graph.node));
        self.for_each_graph(&mut |graph| {
            graph.initializer.iter().for_each(&mut *visit);
            graph.sparse_initializer.iter().flat_map(parts).for_each(&mut *visit);
        });
    }
}

/// The version of `domain` in a list of imports; the default operator set has two names.
pub fn opset_version(imports: &[crate::onnx_protobuf::OperatorSetIdProto], domain: &str) -> Option<i64> {
    let plain = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_owned() };
    imports.iter().find(|i| plain(&i.domain) == plain(domain)).map(|i| i.version)
}

fn parts(sparse: &SparseTensorProto) -> impl Iterator<Item = &TensorProto> {
    sparse.values.iter().chain(sparse.indices.iter())
}

fn graphs<'a>(graph: &'a GraphProto, visit: &mut dyn FnMut(&'a GraphProto)) {
    visit(graph);
    node_graphs(&graph.node, visit);
}

fn node_graphs<'a>(nodes: &'a [NodeProto], visit: &mut dyn FnMut(&'a GraphProto)) {
    for attribute in nodes.iter().flat_map(|n| &n.attribute) {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            graphs(graph, visit);
        }
    }
}

/// What every model must satisfy, whatever is done with it.
fn check(model: &ModelProto) -> Result<()> {
    if model.ir_version < 1 {
        return Err(Error::input("onnx-ir", "the file is no ONNX model: it states no IR version")
            .expected(format!("ir_version of 1 to {MAX_IR_VERSION}"))
            .found(model.ir_version));
    }
    if model.ir_version > MAX_IR_VERSION {
        return Err(Error::unsupported("onnx-ir", "the model is of a newer IR version")
            .expected(format!("ir_version of 1 to {MAX_IR_VERSION}"))
            .found(model.ir_version)
            .fix("export it with an older IR version"));
    }
    let graph = model.graph.as_ref().ok_or_else(|| {
        Error::input("onnx-graph", "the model has no graph").expected("a graph").found("none")
    })?;
    let functions = model.functions.iter().map(|f| f.opset_import.as_slice());
    for imports in functions.chain([model.opset_import.as_slice()]) {
        match opset_version(imports, "") {
            Some(version) if version > MAX_OPSET => {
                return Err(Error::unsupported("onnx-opset", "the model uses a newer operator set")
                    .expected(format!("version 1 to {MAX_OPSET} of ai.onnx"))
                    .found(version)
                    .fix("export it for an older operator set"));
            }
            Some(version) if version < 1 => {
                return Err(Error::input("onnx-opset", "an operator set has no version")
                    .expected(format!("version 1 to {MAX_OPSET} of ai.onnx"))
                    .found(version));
            }
            _ => {}
        }
    }
    check_graph(graph, 0)?;
    for training in &model.training_info {
        for graph in training.initialization.iter().chain(training.algorithm.iter()) {
            check_graph(graph, 0)?;
        }
    }
    model.functions.iter().try_for_each(check_function)
}

fn check_function(function: &FunctionProto) -> Result<()> {
    let mut names: HashSet<&str> = HashSet::new();
    for input in &function.input {
        define(&mut names, input, "function input")?;
    }
    check_nodes(&function.node, &mut names, 0)
}

fn check_graph(graph: &GraphProto, depth: usize) -> Result<()> {
    if depth > MAX_SUBGRAPH_DEPTH {
        return Err(Error::input("onnx-depth", "subgraphs nest too deeply")
            .expected(format!("at most {MAX_SUBGRAPH_DEPTH} levels"))
            .fix("flatten the subgraphs"));
    }
    let mut names: HashSet<&str> = HashSet::new();
    for input in &graph.input {
        define(&mut names, &input.name, "graph input")?;
    }
    // An initializer may give a graph input its default value.
    let inputs = names.clone();
    let sparse = graph.sparse_initializer.iter().map(|s| s.values.name.as_str());
    for name in graph.initializer.iter().map(|t| t.name.as_str()).chain(sparse) {
        if name.is_empty() {
            return Err(Error::input("onnx-name", "an initializer has no name"));
        }
        if !inputs.contains(name) {
            define(&mut names, name, "initializer")?;
        }
    }
    for tensor in &graph.initializer {
        tensor::shape(&tensor.dims, &tensor.name)?;
    }
    check_nodes(&graph.node, &mut names, depth)
}

fn check_nodes<'a>(nodes: &'a [NodeProto], names: &mut HashSet<&'a str>, depth: usize) -> Result<()> {
    for node in nodes {
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            define(names, output, "node output")?;
        }
        let mut attributes: HashSet<&str> = HashSet::new();
        for attribute in &node.attribute {
            if !attributes.insert(&attribute.name) {
                return Err(Error::input(
                    "onnx-attribute",
                    format!("a node has an attribute twice ({})", node.op_type),
                )
                .tensor(node.output.first().map_or("", String::as_str))
                .found(&attribute.name));
            }
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                check_graph(graph, depth + 1)?;
            }
            for tensor in attribute.t.iter().chain(&attribute.tensors) {
                tensor::shape(&tensor.dims, &tensor.name)?;
            }
        }
    }
    Ok(())
}

fn define<'a>(names: &mut HashSet<&'a str>, name: &'a str, what: &str) -> Result<()> {
    if names.insert(name) {
        return Ok(());
    }
    Err(Error::input("onnx-name", format!("two values of a graph have one name ({what})"))
        .tensor(name)
        .expected("every name defined once")
        .fix("rename one of them"))
}

/// Dimensions of a declared tensor; an open one is `None`.
pub type Dimensions = Vec<Option<i64>>;

/// The element type and the dimensions of a tensor value, where its declaration states them.
pub fn declared(
    info: &crate::onnx_protobuf::ValueInfoProto,
) -> Option<(Option<Element>, Option<Dimensions>)> {
    use crate::onnx_protobuf::tensor_shape_proto::dimension::Value;
    let type_ = info.type_.as_ref()?;
    if !type_.has_tensor_type() {
        return None;
    }
    let tensor = type_.tensor_type();
    let dims = tensor.shape.as_ref().map(|shape| {
        let size = |value: &Option<Value>| match value {
            Some(Value::DimValue(n)) if *n >= 0 => Some(*n),
            _ => None,
        };
        shape.dim.iter().map(|d| size(&d.value)).collect()
    });
    Some((Element::from_code(tensor.elem_type), dims))
}
