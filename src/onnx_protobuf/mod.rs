//! The ONNX messages: `ModelProto`, `GraphProto`, `NodeProto`, `TensorProto` and the rest of `onnx.proto3`, release 1.23.2.
//!
//! `generated.rs` is written by `cargo xtask onnx-protobuf` and never edited. Type and field names are those of the
//! schema. Parsed from [`bytes::Bytes`] by [`Message::parse_from_tokio_bytes`], a tensor's `raw_data` points into the
//! input; fields that this release does not know are kept and written again. Enums are open
//! ([`EnumOrUnknown`]), and `TensorProto.data_type` is the plain number. `docs/decisions/0007-onnx-protobuf.md`
//! says why this is not a crate of that name.

#[allow(
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    rustdoc::all,
    unreachable_pub,
    reason = "written by the generator; the file allows what it can for itself"
)]
mod generated;

pub use generated::*;
pub use protobuf::{EnumOrUnknown, Message, MessageField, SpecialFields};
