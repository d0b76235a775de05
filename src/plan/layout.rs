//! The layout of one safetensors file, from names, dtypes and shapes alone.
//!
//! Order, padding and cap are those of the official writer (safetensors 0.8.0, `serialize` in `tensor.rs`): tensors by
//! descending dtype, then by name; a header of at most 100,000,000 bytes padded with spaces to a multiple of 8. Dtypes
//! descend by alignment, so every tensor starts aligned to its element. `__metadata__` comes first and is fixed.

use super::Plan;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::io::Write;

/// Cap of the JSON header that readers accept, in bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

const METADATA: &[u8] = br#"{"__metadata__":{"format":"pt"}"#;

/// One tensor of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Name in the file, unique.
    pub name: &'a str,
    /// Element format; it must have a safetensors name.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: &'a [u64],
    /// Payload length in bytes; it must be what dtype and shape say.
    pub bytes: u64,
}

/// Where everything stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Length of the length field and the padded header: where the first tensor starts, in bytes.
    pub header_bytes: u64,
    /// Absolute offset of each tensor, in the order of the sorted entries, in bytes.
    pub offsets: Vec<u64>,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}

/// Sorts `entries` into file order and says where they stand.
///
/// # Errors
/// Class Unsupported: a dtype that safetensors cannot name, or a header above the cap. Class Internal: two equal names, a
/// length that contradicts dtype and shape, or an overflow.
pub fn layout(entries: &mut [Entry<'_>]) -> Result<Layout> {
    entries.sort_by(file_order);
    let mut names: Vec<&str> = entries.iter().map(|e| e.name).collect();
    names.sort_unstable();
    if let Some([twice, _]) = names.array_windows().find(|[a, b]| a == b) {
        return Err(
            Error::internal("shard-duplicate", "two tensors of a shard have the same name").tensor(twice)
        );
    }
    let mut counter = Counter(0);
    write_header(entries, &mut counter)?;
    let json_bytes = counter.0.next_multiple_of(8);
    if json_bytes > MAX_HEADER_BYTES {
        return Err(Error::unsupported(
            "header-too-large",
            "a shard has too many tensors for one safetensors header",
        )
        .expected(format!("at most {MAX_HEADER_BYTES} bytes"))
        .found(format!("{json_bytes} bytes")));
    }
    let header_bytes = 8 + json_bytes;
    let mut offsets = Vec::with_capacity(entries.len());
    let mut end = header_bytes;
    for entry in entries.iter() {
        offsets.push(end);
        end = end.checked_add(entry.bytes).ok_or_else(|| overflow(entry))?;
    }
    Ok(Layout { header_bytes, offsets, file_bytes: end })
}

/// The start of the file, from entries in file order: the 8-byte little-endian length and the padded JSON header.
///
/// # Errors
/// As [`layout`].
pub fn header_bytes(entries: &[Entry<'_>]) -> Result<Vec<u8>> {
    let mut out = vec![0; 8];
    write_header(entries, &mut out)?;
    out.resize(out.len().next_multiple_of(8), b' ');
    let json_bytes = (out.len() - 8) as u64;
    out[..8].copy_from_slice(&json_bytes.to_le_bytes());
    Ok(out)
}

/// The entries of `outputs`, in their order.
pub fn entries<'a>(plan: &'a Plan, outputs: impl IntoIterator<Item = usize>) -> Vec<Entry<'a>> {
    outputs
        .into_iter()
        .map(|i| {
            let output = &plan.outputs[i];
            Entry {
                name: &output.name,
                dtype: output.ty.dtype,
                shape: &output.ty.shape,
                bytes: output.bytes(),
            }
        })
        .collect()
}

/// The start of shard `shard` of a placed plan.
///
/// # Errors
/// As [`layout`].
pub fn shard_header(plan: &Plan, shard: u32) -> Result<Vec<u8>> {
    let members = plan.outputs.iter().enumerate();
    let members = members.filter(|(_, o)| o.place.is_some_and(|p| p.shard == shard)).map(|(i, _)| i);
    let mut entries = entries(plan, members);
    entries.sort_by(file_order);
    header_bytes(&entries)
}

fn file_order(a: &Entry<'_>, b: &Entry<'_>) -> std::cmp::Ordering {
    (Reverse(a.dtype), a.name).cmp(&(Reverse(b.dtype), b.name))
}

struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write_header(entries: &[Entry<'_>], out: &mut impl Write) -> Result<()> {
    let mut write = |bytes: &[u8]| {
        // Memory and counters do not fail; an error here is ours.
        out.write_all(bytes).map_err(|e| Error::internal("shard-header", "cannot build a header").found(e))
    };
    write(METADATA)?;
    let mut begin = 0u64;
    for entry in entries {
        check(entry)?;
        let Some(dtype) = entry.dtype.safetensors_name() else {
            return Err(Error::unsupported(
                "dtype-not-storable",
                "safetensors has no name for this element format",
            )
            .tensor(entry.name)
            .found(entry.dtype));
        };
        let end = begin.checked_add(entry.bytes).ok_or_else(|| overflow(entry))?;
        let name = serde_json::to_string(entry.name)
            .map_err(|e| Error::internal("shard-header", "cannot build a header").found(e))?;
        write(format!(",{name}:{{\"dtype\":\"{dtype}\",\"shape\":[").as_bytes())?;
        for (i, dim) in entry.shape.iter().enumerate() {
            write(format!("{}{dim}", if i == 0 { "" } else { "," }).as_bytes())?;
        }
        write(format!("],\"data_offsets\":[{begin},{end}]}}").as_bytes())?;
        begin = end;
    }
    write(b"}")
}

fn check(entry: &Entry<'_>) -> Result<()> {
    let elements = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let expected = elements.and_then(|n| entry.dtype.byte_len(n));
    if expected == Some(entry.bytes) {
        return Ok(());
    }
    Err(Error::internal("shard-length", "the length of a tensor contradicts its dtype and shape")
        .tensor(entry.name)
        .expected(expected.map_or_else(|| "whole bytes below 2^64".to_owned(), |n| format!("{n} bytes")))
        .found(format!("{} bytes", entry.bytes)))
}

fn overflow(entry: &Entry<'_>) -> Error {
    Error::internal("shard-overflow", "a shard is longer than a file can be").tensor(entry.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use safetensors::tensor::TensorView;

    fn entry<'a>(name: &'a str, dtype: Dtype, shape: &'a [u64]) -> Entry<'a> {
        let bytes = dtype.byte_len(shape.iter().product()).unwrap();
        Entry { name, dtype, shape, bytes }
    }

    fn file(entries: &mut [Entry<'_>]) -> (Layout, Vec<u8>) {
        let layout = layout(entries).unwrap();
        let mut file = header_bytes(entries).unwrap();
        assert_eq!(file.len() as u64, layout.header_bytes);
        for (i, (entry, &offset)) in entries.iter().zip(&layout.offsets).enumerate() {
            assert_eq!(file.len() as u64, offset);
            file.extend(std::iter::repeat_n(i as u8 + 1, usize::try_from(entry.bytes).unwrap()));
        }
        assert_eq!(file.len() as u64, layout.file_bytes);
        (layout, file)
    }

    #[test]
    fn the_official_reader_accepts_every_dtype_and_finds_the_bytes() {
        let storable: Vec<_> =
            Dtype::ALL.iter().copied().filter(|d| d.safetensors_name().is_some()).collect();
        let names: Vec<_> = storable.iter().map(|d| format!("x.{d}")).collect();
        let mut entries: Vec<_> =
            storable.iter().zip(&names).map(|(&dtype, name)| entry(name, dtype, &[3, 8])).collect();
        entries.push(entry("scalar", Dtype::F32, &[]));
        entries.push(entry("empty", Dtype::BF16, &[0, 7]));
        entries.push(entry("quote\"\\ \u{1f600}\n", Dtype::I8, &[2]));
        let (layout, file) = file(&mut entries);
        let read = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(read.len(), entries.len());
        for (i, (entry, &offset)) in entries.iter().zip(&layout.offsets).enumerate() {
            let view = read.tensor(entry.name).unwrap();
            assert!(view.data().iter().all(|&b| b == i as u8 + 1));
            assert_eq!(view.data().len() as u64, entry.bytes);
            assert_eq!(view.shape().iter().map(|&d| d as u64).collect::<Vec<_>>(), entry.shape);
            assert_eq!(view.dtype().to_string(), entry.dtype.safetensors_name().unwrap());
            assert_eq!(offset % (entry.dtype.bits() / 8).max(1), 0, "{}", entry.name);
        }
    }

    #[test]
    fn the_file_is_the_official_writers_file() {
        let mut entries = [
            entry("b", Dtype::F32, &[2, 1]),
            entry("a", Dtype::F32, &[2]),
            entry("w", Dtype::I8, &[2, 5]),
            entry("n", Dtype::BF16, &[4]),
            entry("s", Dtype::F8E8M0, &[3]),
            entry("f", Dtype::F8E4M3, &[8]),
            entry("Z", Dtype::F8E4M3, &[1]),
        ];
        let (_, ours) = file(&mut entries);
        let mut payloads = Vec::new();
        for (i, e) in entries.iter().enumerate() {
            payloads.push((e, vec![i as u8 + 1; usize::try_from(e.bytes).unwrap()]));
        }
        let dtype = |d: Dtype| serde_json::from_value(d.safetensors_name().unwrap().into()).unwrap();
        let views: Vec<_> = payloads
            .iter()
            .rev()
            .map(|(e, data)| {
                let shape = e.shape.iter().map(|&d| usize::try_from(d).unwrap()).collect();
                (e.name.to_owned(), TensorView::new(dtype(e.dtype), shape, data).unwrap())
            })
            .collect();
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let official = safetensors::serialize(views, Some(metadata)).unwrap();
        assert_eq!(ours, official);
    }

    #[test]
    fn an_empty_shard_is_a_file() {
        let (layout, file) = file(&mut []);
        assert_eq!(file, b"\x20\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"}}");
        assert_eq!((layout.header_bytes, layout.file_bytes), (40, 40));
    }

    #[test]
    fn contradictions_are_refused() {
        let good = entry("a", Dtype::F32, &[2]);
        let code = |mut entries: Vec<Entry<'_>>| layout(&mut entries).unwrap_err().code();
        assert_eq!(code(vec![good.clone(), entry("a", Dtype::I8, &[1])]), "shard-duplicate");
        assert_eq!(code(vec![Entry { bytes: 7, ..good.clone() }]), "shard-length");
        assert_eq!(
            code(vec![Entry { dtype: Dtype::F4E2M1, shape: &[3], bytes: 2, ..good.clone() }]),
            "shard-length"
        );
        assert_eq!(code(vec![Entry { shape: &[u64::MAX, 2], ..good.clone() }]), "shard-length");
        assert_eq!(code(vec![entry("h", Dtype::HiF8, &[2])]), "dtype-not-storable");
        let names: Vec<_> = (0..9).map(|i| i.to_string()).collect();
        let huge = |name| Entry { name, dtype: Dtype::I8, shape: &[u64::MAX / 8], bytes: u64::MAX / 8 };
        assert_eq!(code(names.iter().map(|name| huge(name)).collect()), "shard-overflow");
    }
}
