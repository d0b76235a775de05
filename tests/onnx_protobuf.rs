//! The ONNX binding: it is what the generator makes of the vendored schema, it copies no payload, it loses nothing.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use bytes::Bytes;
use silicast::onnx_protobuf::tensor_proto::DataType;
use silicast::onnx_protobuf::{GraphProto, Message, ModelProto, TensorProto};
use std::path::Path;

#[test]
fn the_binding_is_current() {
    xtask::onnx_protobuf::check(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
}

/// A field of wire type 2 in the order of its bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let tag =
        if number < 16 { vec![number << 3 | 2] } else { vec![(number & 15) << 3 | 2 | 0x80, number >> 4] };
    [&tag[..], &[content.len() as u8], content].concat()
}

/// A newer model's fields, at the top and inside a tensor, come out byte for byte, in place after the known ones.
#[test]
fn unknown_fields_survive() {
    let tensor = [field(8, b"w"), field(120, b"from a later release")].concat();
    let graph = [field(2, b"g"), field(5, &tensor)].concat();
    let model = [vec![0x08, 11], field(7, &graph), field(100, b"\x00\xffunknown")].concat();
    let parsed = ModelProto::parse_from_bytes(&model).unwrap();
    assert_eq!(parsed.graph.initializer[0].name, "w");
    assert_eq!(parsed.write_to_bytes().unwrap(), model);
}

/// A tensor's payload points into the buffer that was parsed.
#[test]
fn payloads_are_not_copied() {
    let tensor = TensorProto { raw_data: vec![7u8; 4096].into(), ..TensorProto::default() };
    let model = ModelProto {
        graph: Some(GraphProto { initializer: vec![tensor], ..GraphProto::default() }).into(),
        ..ModelProto::default()
    };
    let buffer = Bytes::from(model.write_to_bytes().unwrap());
    let parsed = ModelProto::parse_from_tokio_bytes(&buffer).unwrap();
    let payload = &parsed.graph.initializer[0].raw_data;
    assert_eq!(payload.len(), 4096);
    assert!(buffer.as_ptr_range().contains(&payload.as_ptr()));
}

/// The schema knows the formats of IR 11 to 14, which the crate named onnx-protobuf lacks.
#[test]
fn late_formats_are_known() {
    for (format, number) in [
        (DataType::FLOAT4E2M1, 23),
        (DataType::FLOAT8E8M0, 24),
        (DataType::INT2, 26),
        (DataType::FLOAT6E2M3, 27),
        (DataType::FLOAT6E3M2, 28),
    ] {
        assert_eq!(format as i32, number);
    }
}

/// Nesting without end is an error, not a stack overflow (RUSTSEC-2024-0437).
#[test]
fn endless_nesting_is_refused() {
    // Field 100 starts a group (wire type 3) again and again.
    let bytes = [0xa3, 0x06].repeat(100_000);
    assert!(ModelProto::parse_from_bytes(&bytes).is_err());
}
