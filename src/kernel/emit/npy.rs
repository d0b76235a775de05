//! The `.npy` format, version 1.0, C order, little-endian: what golden sets are stored in.
//!
//! NumPy knows no FP8, FP4, E8M0, 4-bit integer or BF16: the first four are stored as bytes (`|u1`), BF16 as its 16-bit
//! codes (`<u2`). The manifest beside the files has the logical format.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::reference::array::Array;

const MAGIC: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// NumPy's type string for the stored elements of `dtype`.
pub fn descr(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::I8 => "|i1",
        Dtype::Bool => "|b1",
        Dtype::I16 => "<i2",
        Dtype::U16 | Dtype::BF16 => "<u2",
        Dtype::F16 => "<f2",
        Dtype::I32 => "<i4",
        Dtype::U32 => "<u4",
        Dtype::F32 => "<f4",
        Dtype::I64 => "<i8",
        Dtype::U64 => "<u8",
        Dtype::F64 => "<f8",
        Dtype::C64 => "<c8",
        // Packed and 8-bit formats: one byte.
        _ => "|u1",
    }
}

/// The file of `array`, whose bytes must fill its shape.
pub fn write(array: &Array) -> Vec<u8> {
    let mut shape: String = array.shape.iter().map(|d| format!("{d}, ")).collect();
    // A tuple of one ends in a comma, longer ones do not.
    let end = if array.shape.len() == 1 { 1 } else { 2 };
    shape.truncate(shape.len().saturating_sub(end));
    let dict = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({shape}), }}", descr(array.dtype));
    // The data start on a multiple of 64.
    let total = (MAGIC.len() + 2 + dict.len() + 1).next_multiple_of(64);
    let header = total - MAGIC.len() - 2;
    let mut out = Vec::with_capacity(total + array.bytes.len());
    out.extend_from_slice(MAGIC);
    // Shapes of a few dimensions keep the header far below 64 KiB.
    out.extend_from_slice(&(header as u16).to_le_bytes());
    out.extend_from_slice(dict.as_bytes());
    out.resize(total - 1, b' ');
    out.push(b'\n');
    out.extend_from_slice(&array.bytes);
    out
}

/// Reads a file whose elements have the logical format `dtype`.
///
/// # Errors
/// Class Input, code `npy`: not version 1.0, Fortran order, another element type than [`descr`], or a length that does
/// not fit the shape.
pub fn read(file: &[u8], dtype: Dtype) -> Result<Array> {
    let refuse = |found: String| {
        Error::input("npy", "not the .npy file that was expected")
            .expected(format!("version 1.0, C order, {}", descr(dtype)))
            .found(found)
    };
    let rest = file.strip_prefix(MAGIC).ok_or_else(|| refuse("another magic or version".to_owned()))?;
    let cut = || refuse("a header that is cut off".to_owned());
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (header, data) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or_else(cut)?;
    let header = std::str::from_utf8(header).map_err(|e| refuse(e.to_string()))?;
    let after = |key: &str| {
        let quoted = format!("'{key}':");
        header.split_once(quoted.as_str()).map(|(_, value)| value.trim_start())
    };
    if !after("descr").is_some_and(|v| v.starts_with(&format!("'{}'", descr(dtype))))
        || !after("fortran_order").is_some_and(|v| v.starts_with("False"))
    {
        return Err(refuse(header.trim_end().to_owned()));
    }
    let shape = after("shape")
        .and_then(|v| v.strip_prefix('(')?.split_once(')'))
        .map(|(dims, _)| dims.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::parse).collect())
        .and_then(|dims: std::result::Result<Vec<usize>, _>| dims.ok())
        .ok_or_else(|| refuse(header.trim_end().to_owned()))?;
    let array = Array::new(dtype, shape, data.to_vec());
    let expected = array.shape.iter().try_fold(array.item_size(), |n, d| n.checked_mul(*d));
    if expected != Some(data.len()) {
        return Err(refuse(format!("{} bytes for shape {:?}", data.len(), array.shape)));
    }
    Ok(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_numpys_own_form_and_come_back() {
        let array = Array::from_f32([2, 3], &[0.0, 1.0, -2.0, 3.5, f32::MAX, f32::MIN_POSITIVE]);
        let file = write(&array);
        // What numpy.lib.format.write_array makes of the same array.
        let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
        assert_eq!(&file[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(&file[10..128], header.as_bytes());
        assert_eq!(read(&file, Dtype::F32).unwrap(), array);
        for shape in [vec![], vec![4], vec![0, 3], vec![1, 2, 2]] {
            let n = shape.iter().product();
            let array = Array::new(Dtype::F8E4M3, shape, vec![7; n]);
            let file = write(&array);
            assert_eq!(file.len() % 64, n % 64);
            assert_eq!(read(&file, Dtype::F8E4M3).unwrap(), array);
        }
    }

    #[test]
    fn other_files_are_refused() {
        let file = write(&Array::new(Dtype::BF16, [3], vec![0; 6]));
        assert!(read(&file, Dtype::F16).is_err());
        assert!(read(&file[..file.len() - 1], Dtype::BF16).is_err());
        assert!(read(&file[..40], Dtype::BF16).is_err());
        assert!(read(b"", Dtype::BF16).is_err());
        let fortran = String::from_utf8_lossy(&file[10..128]).replace("False", "True ");
        let mut other = file.clone();
        other[10..128].copy_from_slice(fortran.as_bytes());
        assert!(read(&other, Dtype::BF16).is_err());
    }
}
