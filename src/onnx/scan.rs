//! A look over the wire format before anything is allocated.
//!
//! Two bytes on the wire can ask for a message of half a kilobyte in memory, so that a small file could ask for any amount
//! of it. The scan walks the messages of the schema, bounds their nesting, and adds up what parsing would allocate.

use crate::error::{Error, Result};

/// Deepest nesting of messages; the parser behind has a limit of its own near it.
const MAX_DEPTH: u32 = 96;

/// Memory for messages that any file may ask for, and per byte of the file beyond that.
const FREE_BYTES: u64 = 256 << 20;
const PER_BYTE: u64 = 24;

/// Messages of the schema, as far as they nest or repeat. The number is roughly the size in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Info,
    Type,
    /// A tensor type or sparse tensor type.
    TensorType,
    /// A sequence, optional or map type.
    Wrapper,
    Shape,
    Function,
    Training,
    Annotation,
    Device,
    NodeDevice,
    Sharding,
    Sharded,
    /// Holds scalars only.
    Flat,
    /// A string or bytes.
    Text,
    /// Packed scalars: up to eight bytes in memory for one in the file.
    Packed,
}

impl Kind {
    fn memory(self) -> u64 {
        match self {
            Kind::Model | Kind::Graph | Kind::Function => 512,
            Kind::Attribute => 720,
            Kind::Node | Kind::Tensor => 448,
            Kind::Text => 32,
            Kind::Packed => 0,
            _ => 192,
        }
    }

    /// What field `number` of this message holds; `None` for scalars and unknown fields.
    fn field(self, number: u64) -> Option<Kind> {
        use Kind::{
            Annotation, Attribute, Device, Flat, Function, Graph, Info, Model, Node, NodeDevice, Packed,
            Shape, Sharded, Sharding, Sparse, Tensor, TensorType, Text, Training, Type, Wrapper,
        };
        Some(match (self, number) {
            (Model, 7) | (Training, 1 | 2) | (Attribute, 6 | 11) => Graph,
            (Model, 8 | 14) | (Training, 3 | 4) | (Graph, 16) | (Function, 9 | 14) => Flat,
            (Node, 9) | (Tensor, 13 | 16) | (Info, 4) | (Annotation, 2) | (Shape, 1) => Flat,
            (Sharding, 3) | (Sharded, 2) => Flat,
            (Model, 20) => Training,
            (Model, 25) => Function,
            (Model, 26) => Device,
            (Graph, 1) | (Function, 7) => Node,
            (Graph, 5) | (Attribute, 5 | 10) | (Sparse, 1 | 2) => Tensor,
            (Graph, 15) | (Attribute, 22 | 23) => Sparse,
            (Graph, 11..=13) | (Function, 12) => Info,
            (Graph, 14) => Annotation,
            (Node, 1 | 2) | (Function, 4..=6) | (Attribute, 9) | (Tensor, 6) | (Device, 3) => Text,
            (Node, 5) | (Function, 11) => Attribute,
            (Node, 10) => NodeDevice,
            (NodeDevice, 2) => Sharding,
            (Sharding, 4) => Sharded,
            (Attribute, 14 | 15) | (Info, 2) | (Wrapper, 1 | 2) => Type,
            (Type, 1 | 8) => TensorType,
            (Type, 4 | 5 | 9) => Wrapper,
            (TensorType, 2) => Shape,
            (Attribute, 7 | 8) | (Tensor, 1 | 4 | 5 | 7 | 10 | 11) | (Sparse, 3) | (Sharding, 2) => Packed,
            _ => return None,
        })
    }
}

struct Scan {
    memory: u64,
    limit: u64,
}

/// Checks that `bytes` is a well-formed `ModelProto` of bounded depth and memory.
///
/// # Errors
/// Class Input: `onnx-wire` (no protobuf, or cut off), `onnx-depth`, `onnx-memory`.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let limit = FREE_BYTES.saturating_add(PER_BYTE.saturating_mul(bytes.len() as u64));
    Scan { memory: 0, limit }.message(bytes, Kind::Model, 0)
}

fn cut() -> Error {
    Error::input("onnx-wire", "the file is no ONNX model, or it is cut off")
        .expected("a ModelProto in the protobuf wire format")
        .fix("fetch the file again; text formats are not read")
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or_else(cut)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift).unwrap_or(0);
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(cut())
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Result<&'a [u8]> {
    let (head, rest) =
        usize::try_from(len).ok().and_then(|len| bytes.split_at_checked(len)).ok_or_else(cut)?;
    *bytes = rest;
    Ok(head)
}

impl Scan {
    fn message(&mut self, mut bytes: &[u8], kind: Kind, depth: u32) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::input("onnx-depth", "messages nest too deeply")
                .expected(format!("at most {MAX_DEPTH} levels"))
                .fix("flatten the subgraphs"));
        }
        self.add(kind.memory())?;
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            match tag & 7 {
                0 => {
                    varint(&mut bytes)?;
                    // Repeated scalars may come one by one.
                    self.add(8)?;
                }
                1 => {
                    take(&mut bytes, 8)?;
                    self.add(8)?;
                }
                5 => {
                    take(&mut bytes, 4)?;
                    self.add(4)?;
                }
                2 => {
                    let len = varint(&mut bytes)?;
                    let content = take(&mut bytes, len)?;
                    match kind.field(tag >> 3) {
                        Some(Kind::Text) => self.add(Kind::Text.memory())?,
                        Some(Kind::Packed) => self.add(len.saturating_mul(8))?,
                        Some(child) => self.message(content, child, depth + 1)?,
                        None => self.add(len.saturating_add(32))?,
                    }
                }
                // Groups are not part of proto3: the parser behind keeps or refuses them.
                _ => return Err(cut().found(format!("wire type {}", tag & 7))),
            }
        }
        Ok(())
    }

    fn add(&mut self, bytes: u64) -> Result<()> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.limit {
            return Err(Error::input("onnx-memory", "the file asks for far more memory than it has bytes")
                .expected(format!("at most {} bytes", self.limit))
                .fix("the file was made to exhaust memory: do not use it"));
        }
        Ok(())
    }
}
