//! `.npz` files: zip archives of `.npy` arrays, as `numpy.savez` writes them.
//!
//! NumPy has no BF16, FP8, FP6, FP4, E8M0 or narrow integers: BF16 is stored as its codes (`u2`), the others as one byte per
//! element (`i1` for the signed integers, with their value; else `u1` with the code). Texts are fixed-width UTF-32 (`U`).
//! Files are read whole and bounded by their size; written ones are stored uncompressed, without times, so that equal
//! arrays give equal bytes.

use super::element::Element;
use super::eval::tensor::{Data, Tensor, code_integer};
use crate::error::{Error, Result, quote};
use std::collections::BTreeMap;

fn refuse(what: &str) -> Error {
    Error::input("npz", what.to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

/// One member of an archive, from the central directory.
struct Member<'a> {
    name: String,
    method: usize,
    data: &'a [u8],
    crc: u32,
}

/// The members of a zip archive; `None` where the structure is broken.
fn members(file: &[u8]) -> Option<Vec<Member<'_>>> {
    const END: &[u8] = b"PK\x05\x06";
    let from = file.len().saturating_sub(22 + 0xffff);
    let end = from + file.get(from..)?.windows(4).rposition(|w| w == END)?;
    // The record ends with its comment, and the file with the record.
    if end.checked_add(22)?.checked_add(u16_at(file, end + 20)?)? != file.len() {
        return None;
    }
    let mut entries = u16_at(file, end + 10)?;
    let mut at = u32_at(file, end + 16)?;
    if (at == 0xffff_ffff || entries == 0xffff) && end >= 20 && file.get(end - 20..end - 16)? == b"PK\x06\x07"
    {
        let wide = u64_at(file, end - 12)?;
        (entries, at) = (u64_at(file, wide + 32)?, u64_at(file, wide.checked_add(48)?)?);
    }
    let mut out = Vec::new();
    for _ in 0..entries {
        if file.get(at..at.checked_add(4)?)? != b"PK\x01\x02" {
            return None;
        }
        let method = u16_at(file, at + 10)?;
        let crc = u32_at(file, at + 16)? as u32;
        let mut packed = u32_at(file, at + 20)?;
        let mut whole = u32_at(file, at + 24)?;
        let (name_len, extra_len, comment) =
            (u16_at(file, at + 28)?, u16_at(file, at + 30)?, u16_at(file, at + 32)?);
        let mut header = u32_at(file, at + 42)?;
        let name = String::from_utf8(file.get(at + 46..at + 46 + name_len)?.to_vec()).ok()?;
        let mut extra = file.get(at + 46 + name_len..at + 46 + name_len + extra_len)?;
        // ZIP64: the fields that do not fit, in order.
        while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
            let mut body = extra.get(4..4 + len)?;
            if id == 1 {
                for field in [&mut whole, &mut packed, &mut header] {
                    if *field == 0xffff_ffff {
                        *field = u64_at(body, 0)?;
                        body = &body[8..];
                    }
                }
            }
            extra = extra.get(4 + len..)?;
        }
        if file.get(header..header.checked_add(4)?)? != b"PK\x03\x04" {
            return None;
        }
        let start = header + 30 + u16_at(file, header + 26)? + u16_at(file, header + 28)?;
        let data = file.get(start..start.checked_add(packed)?)?;
        out.push(Member { name, method, data, crc });
        at += 46 + name_len + extra_len + comment;
    }
    Some(out)
}

/// Reads every array of an archive.
///
/// # Errors
/// Class Input, code `npz`: no zip archive, a broken, compressed or repeated member, an element type that ONNX lacks.
pub fn read(file: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    let members = members(file).ok_or_else(|| {
        refuse("the file is no .npz archive, or it is cut off")
            .expected("a zip archive of .npy files, as numpy.savez writes")
    })?;
    let mut out = BTreeMap::new();
    for member in members {
        let named = |e: Error| e.tensor(quote(&member.name, 100));
        if member.method != 0 {
            return Err(named(
                refuse("the array is compressed")
                    .expected("stored members")
                    .fix("save it with numpy.savez, not savez_compressed"),
            ));
        }
        if crc32(member.data) != member.crc {
            return Err(named(
                refuse("the array's checksum is wrong").fix("write the file again: it is damaged"),
            ));
        }
        let name = member.name.strip_suffix(".npy").unwrap_or(&member.name).to_owned();
        let tensor = array(member.data).map_err(named)?;
        if out.insert(name, tensor).is_some() {
            return Err(named(refuse("the archive has an array twice")));
        }
    }
    Ok(out)
}

/// Reads one `.npy` file, versions 1 to 3.
fn array(file: &[u8]) -> Result<Tensor> {
    let cut = || refuse("an array's header is broken");
    let rest = file.strip_prefix(b"\x93NUMPY").ok_or_else(cut)?;
    let (len, start) = match rest.first() {
        Some(1) => (u16_at(rest, 2).ok_or_else(cut)?, 4),
        Some(2 | 3) => (u32_at(rest, 2).ok_or_else(cut)?, 6),
        _ => return Err(cut()),
    };
    let header = rest.get(start..).and_then(|r| r.get(..len)).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| cut())?;
    let data = &rest[start + len..];
    let after = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, v)| v.trim_start());
    let descr = after("descr")
        .and_then(|v| v.strip_prefix('\'')?.split_once('\''))
        .map(|(d, _)| d)
        .ok_or_else(cut)?;
    let fortran = after("fortran_order").ok_or_else(cut)?.starts_with("True");
    let dims =
        after("shape").and_then(|v| v.strip_prefix('(')?.split_once(')')).map(|(d, _)| d).ok_or_else(cut)?;
    let shape: Vec<usize> = dims
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .map(|d| d.trim_end_matches('L').parse().map_err(|_| cut()))
        .collect::<Result<_>>()?;
    let count = super::tensor::element_count(&shape).ok_or_else(cut)?;
    // Fortran order is C order of the reversed shape, transposed.
    let stored: Vec<usize> = if fortran { shape.iter().rev().copied().collect() } else { shape.clone() };
    let tensor = Tensor::new(stored, elements(descr, data, count)?)?;
    if fortran {
        return tensor.transposed(&(0..shape.len()).rev().collect::<Vec<_>>());
    }
    Ok(tensor)
}

fn elements(descr: &str, data: &[u8], count: usize) -> Result<Data> {
    let wrong = || {
        refuse("an array has an element type that ONNX lacks")
            .expected("b1, i1 to i8, u1 to u8, f2 to f8, c8, c16 or U")
            .found(quote(descr, 40))
    };
    let (order, kind) = descr.split_at_checked(1).ok_or_else(wrong)?;
    let big = match order {
        "<" | "|" | "=" => false,
        ">" => true,
        _ => return Err(wrong()),
    };
    let (element, width) = match kind {
        "b1" => (Element::Bool, 1),
        "i1" => (Element::I8, 1),
        "u1" => (Element::U8, 1),
        "i2" => (Element::I16, 2),
        "u2" => (Element::U16, 2),
        "f2" => (Element::F16, 2),
        "i4" => (Element::I32, 4),
        "u4" => (Element::U32, 4),
        "f4" => (Element::F32, 4),
        "i8" => (Element::I64, 8),
        "u8" => (Element::U64, 8),
        "f8" => (Element::F64, 8),
        "c8" => (Element::C64, 4),
        "c16" => (Element::C128, 8),
        text if text.starts_with('U') => (
            Element::String,
            text[1..].parse::<usize>().ok().and_then(|n| n.checked_mul(4)).ok_or_else(wrong)?,
        ),
        _ => return Err(wrong()),
    };
    let parts = if matches!(element, Element::C64 | Element::C128) { 2 } else { 1 };
    if count.checked_mul(width * parts) != Some(data.len()) {
        return Err(refuse("an array's bytes do not fill its shape")
            .expected(format!("{count} elements of {descr}"))
            .found(format!("{} bytes", data.len())));
    }
    if element == Element::String {
        return texts(data, width, count, big).map(Data::Str);
    }
    if !big || width == 1 {
        return Ok(Data::from_packed(element, data, count));
    }
    let swapped: Vec<u8> = data.chunks(width).flat_map(|c| c.iter().rev().copied()).collect();
    Ok(Data::from_packed(element, &swapped, count))
}

fn texts(data: &[u8], width: usize, count: usize, big: bool) -> Result<Vec<String>> {
    if width == 0 {
        return Ok(vec![String::new(); count]);
    }
    let text = |cell: &[u8]| -> Option<String> {
        let points = cell
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| if big { u32::from_be_bytes(*b) } else { u32::from_le_bytes(*b) });
        let text: Option<String> = points.map(char::from_u32).collect();
        text.map(|t| t.trim_end_matches('\0').to_owned())
    };
    data.chunks(width).map(|c| text(c).ok_or_else(|| refuse("a text is no UTF-32"))).collect()
}

/// The `.npy` file of a tensor.
fn npy(tensor: &Tensor) -> Vec<u8> {
    let (descr, data): (String, Vec<u8>) = match tensor.data() {
        Data::Code(e, v) if e.integer_range().is_some_and(|(low, _)| low < 0) => {
            ("|i1".into(), v.iter().map(|c| code_integer(*e, *c) as u8).collect())
        }
        Data::Code(_, v) => ("|u1".into(), v.clone()),
        Data::Str(v) => {
            let width = v.iter().map(|t| t.chars().count()).max().unwrap_or(0).max(1);
            let mut data = Vec::with_capacity(v.len() * width * 4);
            for text in v {
                let end = data.len() + width * 4;
                data.extend(text.chars().flat_map(|c| u32::from(c).to_le_bytes()));
                data.resize(end, 0);
            }
            (format!("<U{width}"), data)
        }
        plain => {
            let descr = match plain.element() {
                Element::Bool => "|b1",
                Element::I8 => "|i1",
                Element::U8 => "|u1",
                Element::I16 => "<i2",
                Element::F16 => "<f2",
                Element::I32 => "<i4",
                Element::U32 => "<u4",
                Element::F32 => "<f4",
                Element::I64 => "<i8",
                Element::U64 => "<u8",
                Element::F64 => "<f8",
                Element::C64 => "<c8",
                Element::C128 => "<c16",
                // UINT16, and BFLOAT16 codes.
                _ => "<u2",
            };
            (descr.into(), plain.to_packed())
        }
    };
    let mut shape: String = tensor.shape.iter().map(|d| format!("{d}, ")).collect();
    let end = if tensor.shape.len() == 1 { 1 } else { 2 };
    shape.truncate(shape.len().saturating_sub(end));
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    // At most 64 dimensions of 20 digits: far below the 64 KiB of version 1.
    let total = (10 + header.len() + 1).next_multiple_of(64);
    let mut out = Vec::with_capacity(total + data.len());
    out.extend_from_slice(b"\x93NUMPY\x01\x00");
    out.extend_from_slice(&((total - 10) as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.resize(total - 1, b' ');
    out.push(b'\n');
    out.extend_from_slice(&data);
    out
}

/// The bytes of an archive of `arrays`, in their order.
///
/// # Errors
/// Class Unsupported, code `npz-size`: over 4 GiB. Class Usage: a name longer than 64 KiB.
pub fn write<'a>(arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut directory = Vec::new();
    let mut entries = 0u16;
    let too_big = || {
        Error::unsupported("npz-size", "the outputs are too big for one archive")
            .expected("at most 65,535 arrays and 4 GiB")
    };
    for (name, tensor) in arrays {
        let data = npy(tensor);
        let name = format!("{name}.npy");
        let offset = u32::try_from(out.len()).map_err(|_| too_big())?;
        let len = u32::try_from(data.len()).map_err(|_| too_big())?;
        let name_len = u16::try_from(name.len()).map_err(|_| too_big().found("a name over 64 KiB"))?;
        // Version 2.0, UTF-8 names, stored, 1980-01-01 (the format has no "no time").
        let mut common = Vec::new();
        for field in [20u16, 0x0800, 0, 0, 0x21] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        for field in [crc32(&data), len, len] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        common.extend_from_slice(&name_len.to_le_bytes());
        common.extend_from_slice(&[0, 0]);
        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&common);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&data);
        directory.extend_from_slice(b"PK\x01\x02\x14\x00");
        directory.extend_from_slice(&common);
        // No comment, disk 0, no attributes.
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        entries = entries.checked_add(1).ok_or_else(too_big)?;
    }
    let start = u32::try_from(out.len()).map_err(|_| too_big())?;
    let size = u32::try_from(directory.len()).map_err(|_| too_big())?;
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&entries.to_le_bytes());
    out.extend_from_slice(&entries.to_le_bytes());
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    Ok(out)
}

/// CRC-32 of zip (polynomial 0xEDB88320, reflected).
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0u32; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut k = 0;
            while k < 8 {
                c = if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
                k += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |c, b| TABLE[usize::from(c as u8 ^ b)] ^ (c >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_zips() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn archives_come_back_and_damage_is_seen() {
        let a = Tensor::new([2, 2], Data::F32(vec![1.0, -2.5, f32::MAX, 0.0])).unwrap();
        let t = Tensor::new([3], Data::Str(vec!["é".into(), String::new(), "long text".into()])).unwrap();
        let file = write([("a", &a), ("t/x", &t)]).unwrap();
        let back = read(&file).unwrap();
        assert_eq!(back.keys().collect::<Vec<_>>(), ["a", "t/x"]);
        assert_eq!((&back["a"].shape, back["a"].data()), (&a.shape, a.data()));
        assert_eq!(back["t/x"].data(), t.data());
        assert_eq!(file, write([("a", &a), ("t/x", &t)]).unwrap());
        for cut in 0..file.len() {
            assert!(read(&file[..cut]).is_err(), "{cut}");
        }
        let mut flipped = file.clone();
        flipped[150] ^= 1;
        assert_eq!(read(&flipped).unwrap_err().code(), "npz");
    }
}
