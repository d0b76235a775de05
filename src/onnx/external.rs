//! External data: tensor bytes in a file beside the model.
//!
//! The location comes from the model and is hostile. Four layers guard it, because string checks alone were bypassed three
//! times (CVE-2022-25882, CVE-2024-27318, CVE-2026-34446): plain relative components only (no `..`, no absolute path, no
//! backslash, no NUL); a walk from a descriptor of the model's folder that follows no link; a regular file with exactly one
//! name, since a hard link may be anybody's secret; and bounds in 128 bits, the length exactly that of the tensor.

use crate::error::{Error, Result, quote};
use crate::io::confined::{Confined, Lookup, check_relative};
use crate::onnx_protobuf::TensorProto;
use crate::onnx_protobuf::tensor_proto::DataLocation;
use bytes::Bytes;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Where a tensor's bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The file, relative to the model's folder; checked.
    pub location: String,
    /// First byte.
    pub offset: u64,
    /// Length in bytes, where the model states it.
    pub length: Option<u64>,
}

/// Whether the tensor's bytes are in another file.
pub fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location.enum_value() == Ok(DataLocation::EXTERNAL)
}

/// Parses the entries of a tensor's `external_data`. Keys that say nothing about the place (`checksum`, later additions)
/// are left alone.
///
/// # Errors
/// Class Input: `external-location`, `external-offset` or `external-entry` (a key given twice).
pub fn reference(tensor: &TensorProto) -> Result<Reference> {
    let mut location = None;
    let mut offset = None;
    let mut length = None;
    for entry in &tensor.external_data {
        let twice = match entry.key.as_str() {
            "location" => location.replace(entry.value.as_str()).is_some(),
            "offset" => offset.replace(number(tensor, entry.key.as_str(), &entry.value)?).is_some(),
            "length" => length.replace(number(tensor, entry.key.as_str(), &entry.value)?).is_some(),
            _ => false,
        };
        if twice {
            return Err(Error::input("external-entry", "an external data entry is given twice")
                .tensor(&tensor.name)
                .expected("one value per key")
                .found(&entry.key));
        }
    }
    let location = location.unwrap_or("");
    if location.contains('\\') || check_relative(location).is_err() {
        return Err(Error::input(
            "external-location",
            "an external data location is not confined to the model's folder",
        )
        .tensor(&tensor.name)
        .expected("a relative path of 1 to 4 plain components, '/' between them")
        .found(quote(location, 120))
        .fix("put the file into the model's folder and name it there"));
    }
    Ok(Reference { location: location.to_owned(), offset: offset.unwrap_or(0), length })
}

fn number(tensor: &TensorProto, key: &str, text: &str) -> Result<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        Error::input("external-offset", format!("the external data {key} is no number"))
            .tensor(&tensor.name)
            .expected("a decimal number of at most 64 bits")
            .found(quote(text, 60))
    })
}

/// Reads exactly `expected` bytes of an external tensor.
///
/// # Errors
/// Class Input: [`reference`]'s; `external-file` (missing, a link, no regular file, several hard links);
/// `external-bounds` (stated length is not the tensor's, or the range is not in the file). Class Io.
pub fn read(folder: &Confined, tensor: &TensorProto, expected: usize) -> Result<Bytes> {
    let place = reference(tensor)?;
    let path = folder.path().join(&place.location);
    let refuse = |code: &'static str, what: &str| {
        Error::input(code, what.to_owned()).file(path.display()).tensor(&tensor.name)
    };
    let (file, len) = match folder.open_regular(&place.location).map_err(|e| e.tensor(&tensor.name))? {
        Lookup::File(file, len) => (file, len),
        Lookup::Missing => {
            return Err(refuse("external-file", "the external data file is missing")
                .fix("fetch the whole model: the .onnx file and its data files"));
        }
        Lookup::Other(kind) => {
            return Err(refuse(
                "external-file",
                "external data is never read through a link or a special file",
            )
            .expected("a regular file in the model's folder")
            .found(kind.text())
            .fix("replace it with the file itself"));
        }
    };
    let names = file.metadata().map_err(|e| Error::io("cannot examine", &path, e))?.nlink();
    if names != 1 {
        return Err(refuse(
            "external-file",
            "the external data file has several hard links, so that it may be anybody's",
        )
        .expected("1 name")
        .found(format!("{names} names"))
        .fix("copy the file, so that it has one name only"));
    }
    let stated = place.length.unwrap_or(expected as u64);
    if stated != expected as u64 {
        return Err(refuse("external-bounds", "the stated length is not the tensor's")
            .expected(format!("{expected} bytes"))
            .found(format!("{stated} bytes")));
    }
    if u128::from(place.offset) + expected as u128 > u128::from(len) {
        return Err(refuse("external-bounds", "the tensor ends beyond its file")
            .expected(format!("{expected} bytes at {}", place.offset))
            .found(format!("a file of {len} bytes"))
            .fix("fetch the file again: it may be cut off"));
    }
    let mut bytes = vec![0; expected];
    file.read_exact_at(&mut bytes, place.offset).map_err(|e| Error::io("cannot read", &path, e))?;
    Ok(bytes.into())
}
