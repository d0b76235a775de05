//! Writing a model: deterministic bytes, big tensors beside it.
//!
//! The message is written in field order with its unknown fields by number. Initializers of at least
//! [`Options::external_threshold`] bytes go to one data file, in the order of the graphs, at aligned offsets; everything
//! else is written inline, also what the source kept outside.

use super::element::Element;
use super::external::is_external;
use super::model::{MAX_MESSAGE_BYTES, Model};
use super::tensor::{Payload, PayloadData};
use crate::error::{Error, Result};
use crate::io::output::OutputDir;
use crate::onnx_protobuf::tensor_proto::DataLocation;
use crate::onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, SparseTensorProto, SpecialFields,
    StringStringEntryProto, TensorProto,
};

/// How a model is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Initializers of at least this many bytes go to the data file; `None` keeps everything inline.
    pub external_threshold: Option<u64>,
    /// What offsets in the data file are a multiple of.
    pub alignment: u64,
}

impl Default for Options {
    /// The threshold of the onnx package (1 KiB), and 4 KiB, the page that runtimes map.
    fn default() -> Self {
        Self { external_threshold: Some(1024), alignment: 4096 }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the model file.
    pub model_bytes: u64,
    /// Bytes of the data file; 0 where there is none.
    pub data_bytes: u64,
    /// Tensors in the data file.
    pub external_tensors: usize,
}

/// Writes `name` and, where a tensor goes outside, `name.data` into `dir`, durably.
///
/// # Errors
/// Class Input: a tensor's payload cannot be read. Class Unsupported, code `onnx-size`: over 2 GiB without external data.
/// Class Io.
pub fn write(model: &Model, dir: &OutputDir, name: &str, options: Options) -> Result<Written> {
    let data_name = format!("{name}.data");
    let mut sink =
        Sink { model, options, data_name: &data_name, end: 0, external: 0, file: None, dir: Some(dir) };
    let proto = sink.rewritten()?;
    let bytes = to_bytes(&proto).map_err(|e| e.file_or(&model.name))?;
    let (data_bytes, external_tensors) = (sink.end, sink.external);
    if let Some(file) = sink.file {
        file.sync()?;
    }
    dir.write_whole(name, &bytes)?;
    Ok(Written { model_bytes: bytes.len() as u64, data_bytes, external_tensors })
}

/// The bytes of the model with every tensor inline.
///
/// # Errors
/// As [`write`].
pub fn to_inline_bytes(model: &Model) -> Result<Vec<u8>> {
    let options = Options { external_threshold: None, ..Options::default() };
    let mut sink = Sink { model, options, data_name: "", end: 0, external: 0, file: None, dir: None };
    to_bytes(&sink.rewritten()?).map_err(|e| e.file_or(&model.name))
}

/// The deterministic bytes of a message.
///
/// # Errors
/// Class Unsupported, code `onnx-size`: over 2 GiB.
pub fn to_bytes(proto: &ModelProto) -> Result<Vec<u8>> {
    let size = proto.compute_size();
    if size > MAX_MESSAGE_BYTES {
        return Err(Error::unsupported("onnx-size", "the model is too big for one file")
            .expected(format!("at most {MAX_MESSAGE_BYTES} bytes"))
            .found(format!("{size} bytes"))
            .fix("write it with external data"));
    }
    proto
        .write_to_bytes()
        .map_err(|e| Error::internal("onnx-encode", format!("cannot encode the model: {e}")))
}

struct Sink<'a> {
    model: &'a Model,
    options: Options,
    data_name: &'a str,
    end: u64,
    external: usize,
    file: Option<crate::io::out_file::OutFile>,
    dir: Option<&'a OutputDir>,
}

impl Sink<'_> {
    fn rewritten(&mut self) -> Result<ModelProto> {
        let mut proto = self.model.proto.clone();
        sort_unknown(&mut proto.special_fields);
        if let Some(graph) = proto.graph.as_mut() {
            self.graph(graph)?;
        }
        for function in &mut proto.functions {
            sort_unknown(&mut function.special_fields);
            function.attribute_proto.iter_mut().try_for_each(|a| self.attribute(a))?;
            self.nodes(&mut function.node)?;
        }
        for training in &mut proto.training_info {
            for graph in training.initialization.as_mut().into_iter().chain(training.algorithm.as_mut()) {
                self.graph(graph)?;
            }
        }
        Ok(proto)
    }

    fn graph(&mut self, graph: &mut GraphProto) -> Result<()> {
        sort_unknown(&mut graph.special_fields);
        graph.initializer.iter_mut().try_for_each(|t| self.tensor(t, true))?;
        graph.sparse_initializer.iter_mut().try_for_each(|s| self.sparse(s))?;
        self.nodes(&mut graph.node)
    }

    fn nodes(&mut self, nodes: &mut [NodeProto]) -> Result<()> {
        for node in nodes {
            sort_unknown(&mut node.special_fields);
            node.attribute.iter_mut().try_for_each(|a| self.attribute(a))?;
        }
        Ok(())
    }

    fn attribute(&mut self, attribute: &mut AttributeProto) -> Result<()> {
        sort_unknown(&mut attribute.special_fields);
        let tensors = attribute.t.as_mut().into_iter().chain(&mut attribute.tensors);
        tensors.into_iter().try_for_each(|t| self.tensor(t, false))?;
        let sparse = attribute.sparse_tensor.as_mut().into_iter().chain(&mut attribute.sparse_tensors);
        sparse.into_iter().try_for_each(|s| self.sparse(s))?;
        attribute.g.as_mut().into_iter().chain(&mut attribute.graphs).try_for_each(|g| self.graph(g))
    }

    fn sparse(&mut self, sparse: &mut SparseTensorProto) -> Result<()> {
        sort_unknown(&mut sparse.special_fields);
        let parts = sparse.values.as_mut().into_iter().chain(sparse.indices.as_mut());
        parts.into_iter().try_for_each(|t| self.tensor(t, false))
    }

    /// `may_leave`: runtimes look for external data in initializers only.
    fn tensor(&mut self, tensor: &mut TensorProto, may_leave: bool) -> Result<()> {
        sort_unknown(&mut tensor.special_fields);
        let outside = is_external(tensor);
        let leaves = match self.options.external_threshold {
            Some(threshold) if may_leave => {
                let count = super::tensor::shape(&tensor.dims, &tensor.name)?.1;
                let bytes = Element::from_code(tensor.data_type).and_then(|e| e.packed_len(count));
                bytes.is_some_and(|bytes| bytes > 0 && bytes as u64 >= threshold)
            }
            _ => false,
        };
        if !outside && !leaves {
            return Ok(());
        }
        let Payload { data: PayloadData::Bytes(bytes), .. } = self.model.payload(tensor)? else {
            return Ok(());
        };
        tensor.float_data.clear();
        tensor.int32_data.clear();
        tensor.int64_data.clear();
        tensor.double_data.clear();
        tensor.uint64_data.clear();
        tensor.external_data.clear();
        if !leaves {
            tensor.data_location = DataLocation::DEFAULT.into();
            tensor.raw_data = bytes;
            return Ok(());
        }
        let Some(dir) = self.dir else {
            return Err(Error::internal("onnx-sink", "external data without a folder"));
        };
        let offset = self.end.next_multiple_of(self.options.alignment.max(1));
        if self.file.is_none() {
            self.file = Some(dir.create_file(self.data_name)?);
        }
        if let Some(file) = &self.file {
            file.write_all_at(&bytes, offset)?;
        }
        self.end = offset + bytes.len() as u64;
        self.external += 1;
        tensor.raw_data = bytes::Bytes::new();
        tensor.data_location = DataLocation::EXTERNAL.into();
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: key.to_owned(),
            value,
            ..StringStringEntryProto::default()
        };
        tensor.external_data = vec![
            entry("location", self.data_name.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", bytes.len().to_string()),
        ];
        Ok(())
    }
}

/// Unknown fields are kept in a hash map, whose order depends on the order of insertion: inserted by number, equal sets
/// are written equally.
fn sort_unknown(fields: &mut SpecialFields) {
    use protobuf::UnknownValue;
    use protobuf::UnknownValueRef::{Fixed32, Fixed64, LengthDelimited, Varint};
    let unknown = fields.mut_unknown_fields();
    let mut all: Vec<(u32, UnknownValue)> = unknown
        .iter()
        .map(|(number, value)| {
            let owned = match value {
                Fixed32(v) => UnknownValue::Fixed32(v),
                Fixed64(v) => UnknownValue::Fixed64(v),
                Varint(v) => UnknownValue::Varint(v),
                LengthDelimited(v) => UnknownValue::LengthDelimited(v.to_vec()),
            };
            (number, owned)
        })
        .collect();
    if all.len() < 2 {
        return;
    }
    // Stable: values of one number keep their order.
    all.sort_by_key(|(number, _)| *number);
    unknown.clear();
    let mut sorted = protobuf::UnknownFields::new();
    for (number, value) in all {
        sorted.add_value(number, value);
    }
    *unknown = sorted;
}
