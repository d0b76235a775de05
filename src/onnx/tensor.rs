//! The payload of a `TensorProto` as packed little-endian bytes, wherever the file keeps it.

use super::element::{Element, pack};
use super::external;
use crate::error::{Error, Result};
use crate::io::confined::Confined;
use crate::onnx_protobuf::TensorProto;
use bytes::Bytes;

/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 64;

/// A tensor's elements, as the file has them.
#[derive(Clone, Debug)]
pub struct Payload {
    /// Element type.
    pub element: Element,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: PayloadData,
}

/// Elements as bytes or as texts.
#[derive(Clone, Debug)]
pub enum PayloadData {
    /// Packed little-endian bytes; they point into the model where it has them as `raw_data`.
    Bytes(Bytes),
    /// Texts, hostile: not necessarily UTF-8.
    Strings(Vec<Bytes>),
}

/// Checks dimensions and multiplies them.
///
/// # Errors
/// Class Input, code `tensor-shape`: negative, too many, or a product beyond the address space.
pub fn shape(dims: &[i64], name: &str) -> Result<(Vec<usize>, usize)> {
    let refuse = || {
        Error::input("tensor-shape", "a tensor has an impossible shape")
            .tensor(name)
            .expected(format!("at most {MAX_RANK} dimensions, none negative, whose product fits 48 bits"))
            .found(format!("{:?}", &dims[..dims.len().min(MAX_RANK)]))
    };
    if dims.len() > MAX_RANK {
        return Err(refuse());
    }
    let shape: Vec<usize> =
        dims.iter().map(|d| usize::try_from(*d).map_err(|_| refuse())).collect::<Result<_>>()?;
    let count = element_count(&shape).ok_or_else(refuse)?;
    Ok((shape, count))
}

/// The number of elements of a shape; `None` where it has more than 48 bits, zero dimensions left aside.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    let whole = shape.iter().filter(|d| **d != 0).try_fold(1usize, |n, d| n.checked_mul(*d));
    let whole = whole.filter(|n| *n < 1 << 48)?;
    Some(if shape.contains(&0) { 0 } else { whole })
}

/// The elements of `tensor`.
///
/// # Errors
/// Class Unsupported, code `element-type`: a type that this version does not know. Class Input: `tensor-shape`,
/// `tensor-bytes` (the payload does not fill the shape, or there are two), and those of [`external::read`].
pub fn payload(tensor: &TensorProto, folder: Option<&Confined>) -> Result<Payload> {
    let element = Element::from_code(tensor.data_type).ok_or_else(|| {
        Error::unsupported("element-type", "a tensor has an element type that this version does not know")
            .tensor(&tensor.name)
            .expected("TensorProto.DataType 1 to 28")
            .found(tensor.data_type)
    })?;
    let (shape, count) = shape(&tensor.dims, &tensor.name)?;
    if tensor.segment.is_some() {
        return Err(Error::unsupported(
            "tensor-segment",
            "a tensor is stored in segments, which no tool writes",
        )
        .tensor(&tensor.name)
        .expected("a whole tensor")
        .found("a segment"));
    }
    let too_big =
        || Error::input("tensor-shape", "a tensor has an impossible shape").tensor(&tensor.name).found(count);
    let expected =
        if element == Element::String { 0 } else { element.packed_len(count).ok_or_else(too_big)? };
    let refuse = |found: String| {
        Error::input("tensor-bytes", "the payload of a tensor does not fill its shape")
            .tensor(&tensor.name)
            .expected(format!("{count} elements of {element}"))
            .found(found)
    };
    if external::is_external(tensor) {
        if element == Element::String {
            return Err(refuse("strings in external data".to_owned()));
        }
        let folder = folder.ok_or_else(|| {
            Error::input("external-file", "a model without a folder cannot have external data")
                .tensor(&tensor.name)
        })?;
        let bytes = external::read(folder, tensor, expected)?;
        return Ok(Payload { element, shape, data: PayloadData::Bytes(bytes) });
    }
    let typed = [
        tensor.float_data.len(),
        tensor.int32_data.len(),
        tensor.string_data.len(),
        tensor.int64_data.len(),
        tensor.double_data.len(),
        tensor.uint64_data.len(),
    ];
    let used = typed.iter().filter(|n| **n > 0).count() + usize::from(!tensor.raw_data.is_empty());
    if used > 1 {
        return Err(refuse("elements in several fields".to_owned()));
    }
    if element == Element::String {
        if tensor.string_data.len() != count {
            return Err(refuse(format!("{} strings", tensor.string_data.len())));
        }
        return Ok(Payload { element, shape, data: PayloadData::Strings(tensor.string_data.clone()) });
    }
    let bytes = if typed.iter().all(|n| *n == 0) {
        tensor.raw_data.clone()
    } else {
        typed_bytes(tensor, element, count).map_err(refuse)?
    };
    if bytes.len() != expected {
        return Err(refuse(format!("{} bytes", bytes.len())));
    }
    Ok(Payload { element, shape, data: PayloadData::Bytes(bytes) })
}

/// Packed bytes from the typed fields; the error says what was found.
fn typed_bytes(tensor: &TensorProto, element: Element, count: usize) -> std::result::Result<Bytes, String> {
    use Element::{C64, C128, F32, F64, I64, U32, U64};
    fn join<T: Copy, const N: usize>(
        field: &str,
        values: &[T],
        expected: usize,
        bytes: impl Fn(T) -> [u8; N],
    ) -> std::result::Result<Bytes, String> {
        if values.len() != expected {
            return Err(format!("{} entries in {field}, not {expected}", values.len()));
        }
        Ok(values.iter().flat_map(|v| bytes(*v)).collect::<Vec<u8>>().into())
    }
    let doubled = count.saturating_mul(2);
    match element {
        F32 => join("float_data", &tensor.float_data, count, f32::to_le_bytes),
        C64 => join("float_data", &tensor.float_data, doubled, f32::to_le_bytes),
        F64 => join("double_data", &tensor.double_data, count, f64::to_le_bytes),
        C128 => join("double_data", &tensor.double_data, doubled, f64::to_le_bytes),
        I64 => join("int64_data", &tensor.int64_data, count, i64::to_le_bytes),
        U64 => join("uint64_data", &tensor.uint64_data, count, u64::to_le_bytes),
        U32 => join("uint64_data", &tensor.uint64_data, count, |v| (v as u32).to_le_bytes()),
        _ => {
            let values = &tensor.int32_data;
            match element.bits() {
                32 => join("int32_data", values, count, i32::to_le_bytes),
                16 => join("int32_data", values, count, |v| (v as u16).to_le_bytes()),
                8 => join("int32_data", values, count, |v| [v as u8]),
                // Two 4-bit or four 2-bit elements per entry: the entry is the packed byte.
                2 | 4 => {
                    let per = 8 / element.bits() as usize;
                    let mut bytes = join("int32_data", values, count.div_ceil(per), |v| [v as u8])?.to_vec();
                    // What pads the last byte is not part of the tensor.
                    if let (Some(last), rest @ 1..) = (bytes.last_mut(), count % per) {
                        *last &= ((1u16 << (rest as u64 * element.bits())) - 1) as u8;
                    }
                    Ok(bytes.into())
                }
                // onnx.proto3 gives 6-bit types one element per entry.
                _ => {
                    let codes = join("int32_data", values, count, |v| [v as u8])?;
                    Ok(pack(&codes, element.bits()).into())
                }
            }
        }
    }
}
