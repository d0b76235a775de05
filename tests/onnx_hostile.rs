//! Hostile models and external data: a typed error each, no panic, no file beside the model's folder.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may open files and fail")]
#![allow(clippy::print_stdout, reason = "how many inputs were tried is a result")]

mod onnx_support;
mod support;

use silicast::onnx::Model;
use silicast::onnx_protobuf::tensor_proto::DataLocation;
use silicast::onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, ValueInfoProto,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn external(entries: &[(&str, &str)], dims: &[i64]) -> TensorProto {
    TensorProto {
        name: "w".to_owned(),
        data_type: 1,
        dims: dims.to_vec(),
        data_location: DataLocation::EXTERNAL.into(),
        external_data: entries
            .iter()
            .map(|(key, value)| StringStringEntryProto {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
                ..StringStringEntryProto::default()
            })
            .collect(),
        ..TensorProto::default()
    }
}

fn model_of(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 10,
        graph: Some(graph).into(),
        opset_import: vec![OperatorSetIdProto { version: 21, ..OperatorSetIdProto::default() }],
        ..ModelProto::default()
    }
}

fn load(folder: &Path, tensor: TensorProto) -> silicast::error::Result<Vec<u8>> {
    let proto = model_of(GraphProto { initializer: vec![tensor], ..GraphProto::default() });
    let path = folder.join("m.onnx");
    fs::write(&path, proto.write_to_bytes().unwrap()).unwrap();
    let model = Model::open(&path)?;
    match model.payload(&model.graph().initializer[0])?.data {
        silicast::onnx::tensor::PayloadData::Bytes(bytes) => Ok(bytes.to_vec()),
        silicast::onnx::tensor::PayloadData::Strings(_) => unreachable!("a FLOAT tensor"),
    }
}

#[test]
fn external_data_stays_in_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::create_dir_all(folder.join("dir")).unwrap();
    fs::write(root.path().join("secret"), b"0123456789abcdef").unwrap();
    fs::write(folder.join("w.bin"), b"0123456789abcdef").unwrap();
    fs::write(folder.join("sub/w.bin"), b"0123456789abcdef").unwrap();
    symlink(root.path().join("secret"), folder.join("link")).unwrap();
    symlink(root.path(), folder.join("dirlink")).unwrap();
    fs::hard_link(root.path().join("secret"), folder.join("hard")).unwrap();

    for (entries, bytes) in [
        (vec![("location", "w.bin")], &b"0123456789abcdef"[..]),
        (vec![("location", "sub/w.bin"), ("offset", "0"), ("length", "16")], b"0123456789abcdef"),
        (vec![("location", "w.bin"), ("checksum", "x"), ("later", "y")], b"0123456789abcdef"),
    ] {
        assert_eq!(load(&folder, external(&entries, &[4])).unwrap(), bytes);
    }
    assert_eq!(
        load(&folder, external(&[("location", "w.bin"), ("offset", "8")], &[2])).unwrap(),
        b"89abcdef"
    );

    let absolute = root.path().join("secret").display().to_string();
    let cases: Vec<(Vec<(&str, &str)>, &str)> = vec![
        (vec![("location", "../secret")], "external-location"),
        (vec![("location", "sub/../../secret")], "external-location"),
        (vec![("location", &absolute)], "external-location"),
        (vec![("location", "..\\secret")], "external-location"),
        (vec![("location", "")], "external-location"),
        (vec![], "external-location"),
        (vec![("location", "w.bin\0x")], "external-location"),
        (vec![("location", "./w.bin")], "external-location"),
        (vec![("location", "missing")], "external-file"),
        (vec![("location", "dir")], "external-file"),
        (vec![("location", "link")], "external-file"),
        (vec![("location", "dirlink/secret")], "external-file"),
        (vec![("location", "hard")], "external-file"),
        (vec![("location", "w.bin"), ("length", "8")], "external-bounds"),
        (vec![("location", "w.bin"), ("length", "17")], "external-bounds"),
        (vec![("location", "w.bin"), ("offset", "1")], "external-bounds"),
        (vec![("location", "w.bin"), ("offset", "18446744073709551615")], "external-bounds"),
        (vec![("location", "w.bin"), ("offset", "18446744073709551616")], "external-offset"),
        (vec![("location", "w.bin"), ("offset", "-1")], "external-offset"),
        (vec![("location", "w.bin"), ("offset", "+1")], "external-offset"),
        (vec![("location", "w.bin"), ("offset", "x")], "external-offset"),
        (vec![("location", "w.bin"), ("offset", "")], "external-offset"),
        (vec![("location", "w.bin"), ("location", "hard")], "external-entry"),
    ];
    for (entries, code) in cases {
        let error = load(&folder, external(&entries, &[4])).unwrap_err();
        assert_eq!((error.code(), error.class().exit_code()), (code, 4), "{entries:?}");
        assert_eq!(error.tensor_name(), Some("w"), "{entries:?}");
    }
    for dims in [vec![-1], vec![1 << 40, 1 << 40], vec![i64::MAX], vec![1; 65], vec![1 << 40]] {
        let error = load(&folder, external(&[("location", "w.bin")], &dims)).unwrap_err();
        assert_eq!(error.class().exit_code(), 4, "{dims:?}");
    }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        input: inputs.iter().map(|s| (*s).to_owned()).collect(),
        output: outputs.iter().map(|s| (*s).to_owned()).collect(),
        ..NodeProto::default()
    }
}

fn nested_ifs(depth: usize) -> GraphProto {
    let inner = if depth == 0 { GraphProto::default() } else { nested_ifs(depth - 1) };
    let attribute =
        AttributeProto { name: "then_branch".to_owned(), g: Some(inner).into(), ..AttributeProto::default() };
    let mut outer = node("If", &["c"], &[]);
    outer.attribute.push(attribute);
    GraphProto { node: vec![outer], ..GraphProto::default() }
}

#[test]
fn broken_models_are_refused() {
    let parse = |bytes: Vec<u8>| Model::parse(bytes.into(), "m.onnx".to_owned(), None);
    let of = |graph: GraphProto| parse(model_of(graph).write_to_bytes().unwrap());
    let twice = GraphProto {
        node: vec![node("Relu", &["x"], &["y"]), node("Relu", &["x"], &["y"])],
        ..GraphProto::default()
    };
    // A message whose length says 2 GiB.
    let long = vec![0x3a, 0xff, 0xff, 0xff, 0xff, 0x07, 0x0a];
    // Two bytes per node, half a kilobyte in memory.
    let mut bomb = vec![0x08, 11, 0x3a];
    let nodes = [0x0a, 0x00].repeat(2 << 20);
    let mut n = nodes.len();
    while n >= 0x80 {
        bomb.push(n as u8 & 0x7f | 0x80);
        n >>= 7;
    }
    bomb.push(n as u8);
    bomb.extend(nodes);
    for (result, code, exit) in [
        (parse(Vec::new()), "onnx-ir", 4),
        (parse(b"not a model".to_vec()), "onnx-wire", 4),
        (parse(long), "onnx-wire", 4),
        (parse(bomb), "onnx-memory", 4),
        (parse(vec![0x08, 99, 0x3a, 0]), "onnx-ir", 3),
        (parse(vec![0x08, 11]), "onnx-graph", 4),
        (of(twice), "onnx-name", 4),
        (of(nested_ifs(25)), "onnx-depth", 4),
        (of(nested_ifs(30)), "onnx-depth", 4),
    ] {
        let error = result.unwrap_err();
        assert_eq!((error.code(), error.class().exit_code()), (code, exit), "{error}");
    }
    assert!(of(nested_ifs(20)).is_ok());
    let newer = ModelProto {
        opset_import: vec![OperatorSetIdProto { version: 29, ..OperatorSetIdProto::default() }],
        ..model_of(GraphProto::default())
    };
    assert_eq!(parse(newer.write_to_bytes().unwrap()).unwrap_err().code(), "onnx-opset");
}

#[test]
fn hostile_graphs_end_in_errors() {
    let run = |graph: GraphProto| {
        let model =
            Model::parse(model_of(graph).write_to_bytes().unwrap().into(), "m".to_owned(), None).unwrap();
        silicast::onnx::eval::Session::new(&model)?.run(BTreeMap::new()).map(|_| ())
    };
    let ints = |name: &str, values: &[i64]| TensorProto {
        name: name.to_owned(),
        data_type: 7,
        dims: vec![values.len() as i64],
        int64_data: values.to_vec(),
        ..TensorProto::default()
    };
    let output = |name: &str| ValueInfoProto { name: name.to_owned(), ..ValueInfoProto::default() };
    // A value that is used before it is made, and a cycle.
    let cycle = GraphProto {
        node: vec![node("Relu", &["b"], &["a"]), node("Relu", &["a"], &["b"])],
        output: vec![output("b")],
        ..GraphProto::default()
    };
    assert_eq!(run(cycle).unwrap_err().code(), "onnx-value");
    // Shapes from data: a terabyte of zeros, an overflowing one, a negative one.
    for shape in [vec![1 << 40], vec![i64::MAX, i64::MAX], vec![-5], vec![1 << 20, 1 << 20]] {
        let graph = GraphProto {
            initializer: vec![ints("s", &shape)],
            node: vec![node("ConstantOfShape", &["s"], &["y"])],
            output: vec![output("y")],
            ..GraphProto::default()
        };
        let error = run(graph).unwrap_err();
        assert_eq!((error.code(), error.class().exit_code()), ("onnx-node", 4), "{shape:?}");
    }
    let unknown = GraphProto { node: vec![node("NoSuchOperator", &[], &["y"])], ..GraphProto::default() };
    assert_eq!(run(unknown).unwrap_err().class().exit_code(), 3);
}

/// Single bytes of real models changed, and models cut off: an error or another model, never a panic.
#[test]
fn mutated_models_do_not_panic() {
    let (_, cases) = onnx_support::cases();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut tried, mut refused) = (0, 0);
    for case in cases.iter().step_by(11) {
        let source = fs::read(case.folder.join("model.onnx")).unwrap();
        if source.len() > 64 << 10 {
            continue;
        }
        for _ in 0..30 {
            let mut bytes = source.clone();
            match next() % 3 {
                0 => bytes.truncate(next() as usize % source.len()),
                _ => {
                    for _ in 0..1 + next() % 3 {
                        let at = next() as usize % bytes.len();
                        bytes[at] = next() as u8;
                    }
                }
            }
            tried += 1;
            match Model::parse(bytes.into(), "m".to_owned(), None) {
                Err(_) => refused += 1,
                Ok(model) => model.for_each_tensor(&mut |t| drop(model.payload(t))),
            }
        }
    }
    println!("{tried} mutated models, {refused} refused");
    assert!(tried >= 5000 && refused > 100 && refused < tried, "{tried} {refused}");
}
