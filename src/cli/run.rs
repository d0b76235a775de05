//! `run`: an ONNX model through the reference evaluator, arrays in and out as `.npz`.

use super::ui::{Ui, count};
use crate::error::{Error, Result};
use crate::io::output::OutputDir;
use crate::io::source::SourceDir;
use crate::onnx::eval::{Data, Session, Tensor, Value};
use crate::onnx::model::declared;
use crate::onnx::{Element, Model, npz};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The largest archive of inputs.
const MAX_INPUT_BYTES: u64 = 16 << 30;

#[derive(Serialize)]
struct Document {
    model: String,
    out: String,
    nodes: usize,
    inputs: Vec<Row>,
    outputs: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    dtype: String,
    shape: Vec<usize>,
}

fn row(name: &str, tensor: &Tensor) -> Row {
    Row { name: name.to_owned(), dtype: tensor.element().name().to_owned(), shape: tensor.shape.clone() }
}

pub(super) fn run(path: &Path, inputs: Option<&Path>, out: &Path, ui: &Ui) -> Result<u8> {
    let model = Model::open(path)?;
    let session = Session::new(&model)?;
    let given = match inputs {
        Some(file) => read(file)?,
        None => BTreeMap::new(),
    };
    let shown = inputs.unwrap_or(path).display().to_string();
    let given = checked(&model, &session, given).map_err(|e| e.file_or(shown))?;
    let input_rows = given.iter().map(|(name, tensor)| row(name, tensor)).collect();
    let values = given.into_iter().map(|(name, tensor)| (name, Value::Tensor(tensor))).collect();
    let mut arrays = Vec::new();
    for (name, value) in session.run(values)? {
        flatten(name, value, &mut arrays);
    }
    let bytes = npz::write(arrays.iter().map(|(name, tensor)| (name.as_str(), tensor)))
        .map_err(|e| e.file(out.display()))?;
    write(out, &bytes)?;
    let nodes = model.graph().node.len();
    if ui.json() {
        ui.document(&Document {
            model: path.display().to_string(),
            out: out.display().to_string(),
            nodes,
            inputs: input_rows,
            outputs: arrays.iter().map(|(name, tensor)| row(name, tensor)).collect(),
        })?;
    } else {
        ui.say(&format!(
            "{}: {} nodes evaluated, {} outputs in {}",
            path.display(),
            count(nodes as u64),
            count(arrays.len() as u64),
            out.display()
        ));
    }
    Ok(0)
}

/// Items of a sequence get the sequence's name and their number; an empty optional has no array.
fn flatten(name: String, value: Value, arrays: &mut Vec<(String, Tensor)>) {
    match value {
        Value::Tensor(tensor) => arrays.push((name, tensor)),
        Value::Sequence(items) => {
            for (i, item) in items.into_iter().enumerate() {
                flatten(format!("{name}.{i}"), item, arrays);
            }
        }
        Value::Nothing => {}
    }
}

/// The folder and the name of a file.
fn split(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
        Error::usage("npz-path", "the path has no file name")
            .file(path.display())
            .expected("a path to a .npz file")
    })?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Ok((parent, name)),
        _ => Ok((Path::new("."), name)),
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let (folder, name) = split(path)?;
    let bytes = SourceDir::open(folder)?.open_file(name)?.read_to_end(MAX_INPUT_BYTES)?;
    npz::read(&bytes).map_err(|e| e.file_or(path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let (folder, name) = split(path)?;
    OutputDir::open(folder)?.write_whole(name, bytes)
}

/// Arrays as the model's inputs, in its types.
fn checked(
    model: &Model,
    session: &Session<'_>,
    mut given: BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>> {
    let mut out = BTreeMap::new();
    let graph = model.graph();
    let names = || graph.input.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
    for info in &graph.input {
        let Some(tensor) = given.remove(&info.name) else {
            if session.has_default(&info.name) {
                continue;
            }
            return Err(Error::input("run-input-missing", "an input of the model is missing")
                .tensor(&info.name)
                .expected(format!("arrays named {}", names()))
                .fix("add it to the file of --inputs"));
        };
        let Some((element, dims)) = declared(info) else {
            return Err(Error::unsupported(
                "run-input-kind",
                "an input is no tensor, which a .npz file cannot hold",
            )
            .tensor(&info.name)
            .fix("evaluate a model whose inputs are tensors"));
        };
        let tensor = match element {
            Some(element) => typed(tensor, element).map_err(|e| e.tensor(&info.name))?,
            None => tensor,
        };
        if let Some(dims) = dims {
            let fits = dims.len() == tensor.rank()
                && dims.iter().zip(&tensor.shape).all(|(d, n)| d.is_none_or(|d| d == *n as i64));
            if !fits {
                let text: Vec<String> =
                    dims.iter().map(|d| d.map_or("?".to_owned(), |d| d.to_string())).collect();
                return Err(Error::input("run-input-shape", "an input has the wrong shape")
                    .tensor(&info.name)
                    .expected(format!("[{}]", text.join(", ")))
                    .found(format!("{:?}", tensor.shape)));
            }
        }
        out.insert(info.name.clone(), tensor);
    }
    match given.keys().next() {
        None => Ok(out),
        Some(extra) => Err(Error::input("run-input-extra", "the model has no input of that name")
            .tensor(extra)
            .expected(names())
            .fix("remove the array or rename it")),
    }
}

/// An array in the model's type: codes where NumPy has no such type, else exactly that type.
fn typed(tensor: Tensor, element: Element) -> Result<Tensor> {
    if tensor.element() == element {
        return Ok(tensor);
    }
    let wrong = |stored: &str| {
        Error::input("run-input-type", "an input has the wrong element type")
            .expected(format!("{element}{stored}"))
            .found(tensor.element())
    };
    let shape = tensor.shape.clone();
    match (element, tensor.data()) {
        (Element::BF16, Data::U16(codes)) => Tensor::new(shape, Data::BF16(codes.clone())),
        (Element::BF16, _) => Err(wrong(" codes as u2")),
        (e, Data::U8(codes)) if e.is_code() => {
            let limit = 1u16 << e.bits();
            match codes.iter().find(|c| u16::from(**c) >= limit) {
                Some(code) => Err(wrong(&format!(" codes below {limit}")).found(code)),
                None => Tensor::new(shape, Data::Code(e, codes.clone())),
            }
        }
        (e, Data::I8(values)) if e.integer_range().is_some_and(|(low, _)| low < 0) && e.is_code() => {
            let (low, high) = e.integer_range().unwrap_or((0, 0));
            match values.iter().find(|v| !(low..=high).contains(&i128::from(**v))) {
                Some(value) => Err(wrong(&format!(" values of {low} to {high}")).found(value)),
                None => {
                    let mask = ((1u16 << e.bits()) - 1) as u8;
                    Tensor::new(shape, Data::Code(e, values.iter().map(|v| *v as u8 & mask).collect()))
                }
            }
        }
        (e, _) if e.is_code() => Err(wrong(" codes as u1")),
        _ => Err(wrong("")),
    }
}
