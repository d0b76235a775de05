//! `silicast run` against onnxruntime and onnx.reference, and what it says to wrong inputs.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may open files and fail")]
#![allow(clippy::print_stdout, reason = "the largest errors are a result")]

mod support;

use silicast::onnx::eval::{Data, Tensor};
use silicast::onnx::npz;
use silicast::onnx_protobuf::{
    GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto, type_proto,
};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use support::oracle::run_script;

const BINARY: &str = env!("CARGO_BIN_EXE_silicast");

/// Models of the kinds that people run give what two other programs give.
#[test]
fn models_agree_with_onnxruntime_and_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let printed = run_script("onnx_run.py", &[OsStr::new(BINARY), folder.path().as_os_str()]);
    println!("{printed}");
    assert!(printed.contains("21 of 21 models agree"), "{printed}");
}

fn value(name: &str, element: i32, dims: &[i64]) -> ValueInfoProto {
    use silicast::onnx_protobuf::tensor_shape_proto::{Dimension, dimension::Value};
    let dim = |n: &i64| Dimension { value: Some(Value::DimValue(*n)), ..Dimension::default() };
    let shape = silicast::onnx_protobuf::TensorShapeProto {
        dim: dims.iter().map(dim).collect(),
        ..silicast::onnx_protobuf::TensorShapeProto::default()
    };
    let tensor =
        type_proto::Tensor { elem_type: element, shape: Some(shape).into(), ..type_proto::Tensor::default() };
    let type_ = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), type_: Some(type_).into(), ..ValueInfoProto::default() }
}

/// y = x + x for x of type `element` and shape [2, 3].
fn write_model(folder: &Path, op: &str, element: i32) {
    let node = NodeProto {
        op_type: op.to_owned(),
        input: vec!["x".to_owned(), "x".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![node],
        input: vec![value("x", element, &[2, 3])],
        output: vec![value("y", element, &[2, 3])],
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: 10,
        opset_import: vec![OperatorSetIdProto { version: 21, ..OperatorSetIdProto::default() }],
        graph: Some(graph).into(),
        ..ModelProto::default()
    };
    fs::write(folder.join("m.onnx"), model.write_to_bytes().unwrap()).unwrap();
}

fn run(folder: &Path, arrays: &[(&str, Tensor)]) -> Output {
    let bytes = npz::write(arrays.iter().map(|(name, tensor)| (*name, tensor))).unwrap();
    fs::write(folder.join("in.npz"), bytes).unwrap();
    let args = ["run", "m.onnx", "--inputs", "in.npz", "-o", "out.npz", "--json"];
    Command::new(BINARY).args(args).current_dir(folder).output().unwrap()
}

fn floats(shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    Tensor::new(shape, Data::F32((0..n).map(|i: usize| i as f32).collect())).unwrap()
}

#[test]
fn the_summary_names_what_went_in_and_out() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), "Add", 1);
    let done = run(folder.path(), &[("x", floats(&[2, 3]))]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let document: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(document["schema_version"], 1);
    assert_eq!(document["nodes"], 1);
    assert_eq!(document["outputs"][0], serde_json::json!({"name": "y", "dtype": "FLOAT", "shape": [2, 3]}));
    let first = fs::read(folder.path().join("out.npz")).unwrap();
    let y = npz::read(&first).unwrap().remove("y").unwrap();
    assert_eq!(y.data(), &Data::F32(vec![0.0, 2.0, 4.0, 6.0, 8.0, 10.0]));
    // The same run again gives the same bytes.
    run(folder.path(), &[("x", floats(&[2, 3]))]);
    assert_eq!(fs::read(folder.path().join("out.npz")).unwrap(), first);
}

#[test]
fn wrong_inputs_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), "Add", 1);
    let doubles = Tensor::new([2, 3], Data::F64(vec![0.0; 6])).unwrap();
    let cases = [
        (vec![], "run-input-missing", "x"),
        (vec![("x", floats(&[2, 3])), ("z", floats(&[1]))], "run-input-extra", "z"),
        (vec![("x", floats(&[3, 2]))], "run-input-shape", "x"),
        (vec![("x", doubles)], "run-input-type", "x"),
    ];
    for (arrays, code, tensor) in cases {
        let done = run(folder.path(), &arrays);
        assert_eq!(done.status.code(), Some(4), "{code}");
        let document: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(document["error"]["code"], code);
        assert_eq!(document["error"]["tensor"], tensor);
        assert_eq!(document["error"]["file"], "in.npz");
    }
    // Codes of a narrow type must be codes of it.
    write_model(folder.path(), "Identity", 21);
    let codes = |top: u8| Tensor::new([2, 3], Data::U8(vec![0, 1, 2, 3, 4, top])).unwrap();
    assert_eq!(run(folder.path(), &[("x", codes(16))]).status.code(), Some(4));
}

#[test]
fn exit_codes_tell_whose_fault_it_is() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), "NoSuchOperator", 1);
    assert_eq!(run(folder.path(), &[("x", floats(&[2, 3]))]).status.code(), Some(3));
    fs::write(folder.path().join("m.onnx"), b"no model").unwrap();
    assert_eq!(run(folder.path(), &[("x", floats(&[2, 3]))]).status.code(), Some(4));
    fs::remove_file(folder.path().join("m.onnx")).unwrap();
    assert_eq!(run(folder.path(), &[("x", floats(&[2, 3]))]).status.code(), Some(5));
}
