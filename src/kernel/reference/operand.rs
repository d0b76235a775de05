//! Arguments of kernels as plain slices, and results as arrays: what every kernel of the catalogue checks.

use super::array::{Array, Call};
use crate::dtype::Dtype;
use crate::dtype::codec::{bf16_from_f32, decode_table, f16_from_f32, f32_from_bf16, f32_from_f16};
use crate::error::{Error, Result};
use serde_json::Value;
use std::fmt::Display;

/// Formats that scales come in.
pub(super) const SCALES: &[Dtype] = &[Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F8E8M0];
/// Formats of plain values.
pub(super) const FLOATS: &[Dtype] = &[Dtype::BF16, Dtype::F16, Dtype::F32];

/// An argument that does not fit.
pub(super) fn misfit(name: &str, expected: impl Display, found: impl Display) -> Error {
    Error::input("kernel-argument", "an argument of a kernel does not fit")
        .tensor(name)
        .expected(expected)
        .found(found)
}

/// A parameter that does not fit.
pub(super) fn bad_param(name: &str, expected: impl Display, found: impl Display) -> Error {
    Error::input("kernel-parameter", "a parameter of a kernel does not fit")
        .tensor(name)
        .expected(expected)
        .found(found)
}

/// The array, if its format is one of `dtypes` and its bytes are as many as its shape says.
pub(super) fn checked<'a>(name: &str, array: &'a Array, dtypes: &[Dtype]) -> Result<&'a Array> {
    if !dtypes.contains(&array.dtype) {
        let names: Vec<&str> = dtypes.iter().map(|d| d.golden_name()).collect();
        return Err(misfit(name, names.join(" or "), array.dtype.golden_name()));
    }
    let bytes = array.shape.iter().try_fold(array.item_size(), |n, d| n.checked_mul(*d));
    if bytes != Some(array.bytes.len()) {
        return Err(misfit(
            name,
            format!("as many bytes as {:?} elements of {} take", array.shape, array.dtype.golden_name()),
            array.bytes.len(),
        ));
    }
    Ok(array)
}

/// The required argument `name` in one of `dtypes`.
pub(super) fn required<'a>(call: &Call<'a>, name: &str, dtypes: &[Dtype]) -> Result<&'a Array> {
    checked(name, call.input(name)?, dtypes)
}

/// The optional argument `name` in one of `dtypes`.
pub(super) fn optional<'a>(call: &Call<'a>, name: &str, dtypes: &[Dtype]) -> Result<Option<&'a Array>> {
    call.optional(name).map(|array| checked(name, array, dtypes)).transpose()
}

/// Whether two elements share a byte.
pub(super) fn is_packed(dtype: Dtype) -> bool {
    dtype.bits() == 4
}

/// Rows and columns of a matrix, in elements.
pub(super) fn matrix(name: &str, array: &Array) -> Result<[usize; 2]> {
    let [rows, stored] = array.shape[..] else {
        return Err(misfit(name, "two axes", format!("{:?}", array.shape)));
    };
    let per_item = if is_packed(array.dtype) { 2 } else { 1 };
    let cols =
        stored.checked_mul(per_item).ok_or_else(|| misfit(name, "a matrix that fits memory", stored))?;
    Ok([rows, cols])
}

/// Fails unless the argument has the stored shape `[rows, cols]`, or `[rows]` for one column.
pub(super) fn expect_grid(name: &str, array: &Array, [rows, cols]: [usize; 2]) -> Result<()> {
    let fits = array.shape == [rows, cols] || (cols == 1 && array.shape == [rows]);
    if fits { Ok(()) } else { Err(misfit(name, format!("[{rows}, {cols}]"), format!("{:?}", array.shape))) }
}

/// Fails unless a slice has `expected` elements.
pub(super) fn expect_len(name: &str, len: usize, expected: usize) -> Result<()> {
    if len == expected { Ok(()) } else { Err(misfit(name, format!("{expected} elements"), len)) }
}

/// A product of sizes, or the error that no such array exists.
pub(super) fn area(name: &str, sizes: &[usize]) -> Result<usize> {
    sizes
        .iter()
        .try_fold(1usize, |n, d| n.checked_mul(*d))
        .filter(|n| isize::try_from(*n).is_ok())
        .ok_or_else(|| misfit(name, "sizes that fit memory", format!("{sizes:?}")))
}

/// The values of an array of floats or codes of at most 8 bits, exact; packed ones low nibble first.
pub(super) fn floats(array: &Array) -> Vec<f32> {
    let words = || array.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match array.dtype {
        Dtype::F32 => {
            array.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        Dtype::BF16 => words().map(f32_from_bf16).collect(),
        Dtype::F16 => words().map(f32_from_f16).collect(),
        dtype => {
            let table = decode_table(dtype);
            if is_packed(dtype) {
                unpack(&array.bytes).iter().map(|c| table[usize::from(*c)]).collect()
            } else {
                array.bytes.iter().map(|c| table[usize::from(*c)]).collect()
            }
        }
    }
}

/// The elements of an `I32` array.
pub(super) fn int32(array: &Array) -> Vec<i32> {
    array.bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The elements of an `I64` array.
pub(super) fn int64(array: &Array) -> Vec<i64> {
    array
        .bytes
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
        .collect()
}

/// The elements of an `I8` array.
pub(super) fn int8(bytes: &[u8]) -> &[i8] {
    bytemuck::cast_slice(bytes)
}

/// Codes of 4 bits, one per byte, from pairs with the even element in the low nibble.
pub(super) fn unpack(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|b| [b & 15, b >> 4]).collect()
}

/// Pairs of 4-bit codes, the even element in the low nibble, from one code per byte. A last code alone gets a zero.
pub(super) fn pack(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| (pair[0] & 15) | pair.get(1).map_or(0, |high| high << 4)).collect()
}

/// An output of computed values in BF16, F16 or F32: rounded to nearest even, every NaN the positive quiet one.
pub(super) fn computed(name: &str, dtype: Dtype, shape: Vec<usize>, values: &[f32]) -> Result<Array> {
    store(name, dtype, shape, values, |x| if x.is_nan() { f32::from_bits(0x7FC0_0000) } else { x })
}

/// An output of decoded values: as [`computed`], but a NaN keeps its sign.
pub(super) fn decoded(name: &str, dtype: Dtype, shape: Vec<usize>, values: &[f32]) -> Result<Array> {
    let quiet = |x: f32| if x.is_nan() { f32::from_bits(0x7FC0_0000 | x.to_bits() & 1 << 31) } else { x };
    store(name, dtype, shape, values, quiet)
}

fn store(
    name: &str,
    dtype: Dtype,
    shape: Vec<usize>,
    values: &[f32],
    canonical: impl Fn(f32) -> f32,
) -> Result<Array> {
    let values = values.iter().map(|x| canonical(*x));
    let bytes = match dtype {
        Dtype::F32 => values.flat_map(|x| x.to_bits().to_le_bytes()).collect(),
        Dtype::BF16 => values.flat_map(|x| bf16_from_f32(x).to_le_bytes()).collect(),
        Dtype::F16 => values.flat_map(|x| f16_from_f32(x).to_le_bytes()).collect(),
        other => {
            return Err(misfit(name, "BF16, F16 or F32 as the output's format", other.golden_name()));
        }
    };
    Ok(Array::new(dtype, shape, bytes))
}

/// The text parameter `name` as one of `choices`, or the first of them. Spaces do not count.
pub(super) fn choice<T: Copy>(call: &Call<'_>, name: &str, choices: &[(&str, T)]) -> Result<T> {
    let names = || choices.iter().map(|(text, _)| *text).collect::<Vec<_>>().join(" | ");
    let found = match call.params.get(name) {
        None => choices.first().map(|(_, value)| *value),
        Some(value) => {
            let text = value.as_str().unwrap_or_default().replace(' ', "");
            choices.iter().find(|(choice, _)| *choice == text).map(|(_, value)| *value)
        }
    };
    found.ok_or_else(|| {
        bad_param(name, names(), call.params.get(name).map(Value::to_string).unwrap_or_default())
    })
}

/// The unsigned parameter `name`, or `default`.
pub(super) fn count(call: &Call<'_>, name: &str, default: usize) -> Result<usize> {
    match call.params.get(name) {
        None => Ok(default),
        Some(value) => value
            .as_u64()
            .and_then(|v| usize::try_from(v).ok())
            .ok_or_else(|| bad_param(name, "an unsigned integer", value)),
    }
}

/// The flag `name`, or `default`.
pub(super) fn flag(call: &Call<'_>, name: &str, default: bool) -> Result<bool> {
    match call.params.get(name) {
        None => Ok(default),
        Some(value) => value.as_bool().ok_or_else(|| bad_param(name, "true or false", value)),
    }
}

/// The parameter `block` = `[rows, cols]`, or `default`.
pub(super) fn block(call: &Call<'_>, default: [usize; 2]) -> Result<[usize; 2]> {
    let Some(value) = call.params.get("block") else { return Ok(default) };
    let sides = value.as_array().map(|sides| {
        sides.iter().map(|s| s.as_u64().and_then(|s| usize::try_from(s).ok())).collect::<Vec<_>>()
    });
    match sides.as_deref() {
        Some([Some(rows), Some(cols)]) => Ok([*rows, *cols]),
        _ => Err(bad_param("block", "[rows, cols]", value)),
    }
}

/// A block with its zeros replaced by the whole axis; at least one element.
pub(super) fn whole_axes([block_rows, block_cols]: [usize; 2], [rows, cols]: [usize; 2]) -> [usize; 2] {
    let side = |side: usize, axis: usize| if side == 0 { axis.max(1) } else { side };
    [side(block_rows, rows), side(block_cols, cols)]
}
