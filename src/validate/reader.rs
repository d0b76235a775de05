//! Reads finished checkpoints again, as a stranger does.
//!
//! Nothing here is shared with the code that wrote the artifact: tensors are found by the strict reader, read by
//! position and decoded through tables that come from the definition of each format.

use crate::artifact::tree_digest::TreeDigest;
use crate::checkpoint::{Checkpoint, Encoding, TensorId, TensorInfo};
use crate::dtype::Dtype;
use crate::dtype::codec;
use crate::dtype::scheme::{Granularity, Scheme};
use crate::error::{Error, Result};
use crate::io::source::ReadFile;
use crate::plan::cost::scale_rows;
use std::sync::OnceLock;

/// A checkpoint whose tensors are read, with a digest of every file that passes by.
pub(super) struct Store<'a> {
    /// The checkpoint.
    pub(super) checkpoint: &'a Checkpoint,
    slots: Vec<Slot>,
}

struct Slot {
    file: OnceLock<ReadFile>,
    digest: Option<TreeDigest>,
}

impl<'a> Store<'a> {
    /// Of `checkpoint`; with `hash`, what is read enters the digest of its file.
    pub(super) fn new(checkpoint: &'a Checkpoint, hash: bool) -> Self {
        let slots = checkpoint
            .files
            .iter()
            .map(|f| Slot { file: OnceLock::new(), digest: hash.then(|| TreeDigest::new(f.bytes)) })
            .collect();
        Self { checkpoint, slots }
    }

    fn open(&self, file: u32) -> Result<&ReadFile> {
        let slot = &self.slots[file as usize].file;
        if slot.get().is_none() {
            // Losing a race means one superfluous open.
            let _ = slot.set(self.checkpoint.open_data_file(file)?);
        }
        slot.get().ok_or_else(|| Error::internal("validate-open", "a shard is not open"))
    }

    /// Fills `data` from byte `offset` of a tensor on.
    ///
    /// # Errors
    /// Class Input where the file has changed or ends early, class Io.
    pub(super) fn read(&self, id: TensorId, offset: u64, data: &mut [u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let tensor = self.checkpoint.tensor(id);
        let at = tensor.offset + offset;
        self.open(tensor.file)?.read_exact_at(data, at)?;
        match &self.slots[tensor.file as usize].digest {
            Some(digest) => digest.add(at, data),
            None => Ok(()),
        }
    }

    /// BLAKE3 of a whole file: what was not read before is read now. `None` without hashing.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn digest(&self, file: u32) -> Result<Option<String>> {
        let Some(digest) = &self.slots[file as usize].digest else { return Ok(None) };
        let opened = self.open(file)?;
        digest.finish(|offset, data| opened.read_exact_at(data, offset)).map(Some)
    }

    /// Name of the file that holds a tensor.
    pub(super) fn file_of(&self, id: TensorId) -> &str {
        self.checkpoint.files.get(self.checkpoint.tensor(id).file as usize).map_or("", |f| f.name.as_str())
    }
}

/// How the elements of a tensor are turned into numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    /// bfloat16.
    Bf16,
    /// binary16.
    F16,
    /// binary32.
    F32,
    /// Two's complement bytes.
    I8,
    /// One byte, through a table.
    Table(&'static [f32; 256]),
}

static E4M3: [f32; 256] = codec::decode_table(Dtype::F8E4M3);
static E5M2: [f32; 256] = codec::decode_table(Dtype::F8E5M2);
static E4M3_FNUZ: [f32; 256] = codec::decode_table(Dtype::F8E4M3Fnuz);
static E5M2_FNUZ: [f32; 256] = codec::decode_table(Dtype::F8E5M2Fnuz);

impl Format {
    /// The format of a dtype whose elements are numbers of whole bytes.
    pub(super) fn of(dtype: Dtype) -> Option<Format> {
        Some(match dtype {
            Dtype::BF16 => Format::Bf16,
            Dtype::F16 => Format::F16,
            Dtype::F32 => Format::F32,
            Dtype::I8 => Format::I8,
            Dtype::F8E4M3 => Format::Table(&E4M3),
            Dtype::F8E5M2 => Format::Table(&E5M2),
            Dtype::F8E4M3Fnuz => Format::Table(&E4M3_FNUZ),
            Dtype::F8E5M2Fnuz => Format::Table(&E5M2_FNUZ),
            _ => return None,
        })
    }

    /// Bytes of an element.
    pub(super) fn width(self) -> usize {
        match self {
            Format::Bf16 | Format::F16 => 2,
            Format::F32 => 4,
            Format::I8 | Format::Table(_) => 1,
        }
    }

    /// The stored pattern of element `index`.
    pub(super) fn bits(self, bytes: &[u8], index: usize) -> u32 {
        let width = self.width();
        let mut pattern = [0; 4];
        if let Some(stored) = bytes.get(index * width..(index + 1) * width) {
            pattern[..width].copy_from_slice(stored);
        }
        u32::from_le_bytes(pattern)
    }

    /// The value of a stored pattern, without a scale.
    pub(super) fn value(self, bits: u32) -> f32 {
        match self {
            Format::Bf16 => codec::f32_from_bf16(bits as u16),
            Format::F16 => codec::f32_from_f16(bits as u16),
            Format::F32 => f32::from_bits(bits),
            Format::I8 => f32::from(bits as u8 as i8),
            Format::Table(table) => table[bits as usize & 0xFF],
        }
    }
}

/// One side of a comparison: a tensor with its scales, as a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    /// The tensor.
    pub(super) id: TensorId,
    /// How its elements are decoded; `None` where only bytes can be compared.
    pub(super) format: Option<Format>,
    /// Its scales.
    pub(super) scale: Option<(TensorId, Scheme)>,
    /// Rows.
    pub(super) rows: u64,
    /// Columns.
    pub(super) cols: u64,
    /// Bytes of a row.
    pub(super) row_bytes: u64,
}

/// Columns of the matrix that a long vector is taken for.
const FOLD: u64 = 1024;

impl Matrix {
    /// The tensor `id` as it stands, or `None` where it is codes that this version cannot decode.
    pub(super) fn of(checkpoint: &Checkpoint, id: TensorId) -> Option<Matrix> {
        let tensor = checkpoint.tensor(id);
        let (rows, cols) = fold(tensor);
        let scale = match &checkpoint.encodings[id as usize] {
            Encoding::Codes(s) => Some((s.scale, s.scheme)),
            Encoding::Unsupported { .. } => return None,
            _ => None,
        };
        Some(Matrix {
            id,
            format: Format::of(tensor.dtype),
            scale,
            rows,
            cols,
            row_bytes: tensor.bytes.checked_div(rows).unwrap_or(0),
        })
    }

    /// Rows that share scales: a band of rows begins and ends on a multiple of it, or at the end.
    pub(super) fn granule(&self) -> u64 {
        self.scale.map_or(1, |(_, scheme)| scheme.granularity.rows()).max(1)
    }

    /// The shape of a scale block `[rows, cols]` within a band of `rows` rows.
    pub(super) fn block(&self, rows: usize, cols: usize) -> [usize; 2] {
        self.scale.map_or(Granularity::Tensor, |(_, scheme)| scheme.granularity).unit(rows, cols)
    }

    /// Where the scales of rows `start..end` stand in their tensor: offset and length in bytes, and the columns of the
    /// scale grid.
    pub(super) fn scale_range(&self, checkpoint: &Checkpoint, start: u64, end: u64) -> (u64, u64, u64) {
        let Some((id, scheme)) = self.scale else { return (0, 0, 1) };
        let width = checkpoint.tensor(id).dtype.bits() / 8;
        let [rows, cols] = scheme.granularity.grid(self.rows, self.cols);
        let (first, last) = scale_rows(scheme.granularity, start, end, rows);
        (first * cols * width, (last - first) * cols * width, cols)
    }
}

/// A tensor as rows and columns, which depend on its shape alone.
fn fold(tensor: &TensorInfo) -> (u64, u64) {
    match tensor.shape.as_ref() {
        [] => (1, 1),
        [n] if *n > FOLD && n.is_multiple_of(FOLD) => (n / FOLD, FOLD),
        [n] => (1, *n),
        [outer @ .., last] => (outer.iter().product(), *last),
    }
}

/// The bands of rows that a share of `rows` stands for: whole multiples of `granule`, spread evenly with an offset that
/// the tensor's name sets. All rows for a share of 1.
pub(super) fn bands(rows: u64, granule: u64, share: f64, name: &str) -> Vec<(u64, u64)> {
    /// Least rows of a band: reading less costs as much.
    const LEAST: u64 = 16;
    if rows == 0 {
        return Vec::new();
    }
    if share >= 1.0 {
        return vec![(0, rows)];
    }
    let piece = granule * LEAST.div_ceil(granule);
    let pieces = rows.div_ceil(piece);
    let wanted = ((pieces as f64 * share).ceil() as u64).clamp(1, pieces);
    let hash = blake3::hash(name.as_bytes());
    let offset = u64::from(u32::from_le_bytes([
        hash.as_bytes()[0],
        hash.as_bytes()[1],
        hash.as_bytes()[2],
        hash.as_bytes()[3],
    ]));
    (0..wanted)
        .map(|i| {
            // The i-th of `wanted` equal parts of the rows, and a place in it.
            let start = ((u128::from(i) << 32) + u128::from(offset)) * u128::from(pieces)
                / (u128::from(wanted) << 32);
            let start = (start as u64).min(pieces - 1) * piece;
            (start, (start + piece).min(rows))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_follow_the_definition() {
        let e4m3 = Format::of(Dtype::F8E4M3).unwrap();
        assert_eq!(e4m3.value(0x7E), 448.0);
        assert!(e4m3.value(0xFF).is_nan());
        assert_eq!(Format::I8.value(0x80), -128.0);
        assert_eq!(Format::Bf16.value(Format::Bf16.bits(&[0, 0, 0x80, 0x3F], 1)), 1.0);
        assert!(Format::of(Dtype::I32).is_none());
    }

    #[test]
    fn bands_are_disjoint_whole_granules_and_fixed() {
        for (rows, granule, share) in
            [(7168, 128, 0.05), (7168, 1, 0.05), (576, 128, 0.3), (5, 1, 0.5), (100, 1, 1.0)]
        {
            let bands = bands(rows, granule, share, "a.weight");
            assert_eq!(bands, super::bands(rows, granule, share, "a.weight"));
            let mut end = 0;
            for (start, stop) in &bands {
                assert!(*start >= end && stop > start && *stop <= rows, "{bands:?}");
                assert!(start.is_multiple_of(granule) && (stop.is_multiple_of(granule) || *stop == rows));
                end = *stop;
            }
            let read: u64 = bands.iter().map(|(s, e)| e - s).sum();
            assert!(read as f64 >= share * rows as f64 - granule.max(16) as f64 && read <= rows);
        }
        assert_ne!(bands(1 << 20, 1, 0.01, "a"), bands(1 << 20, 1, 0.01, "b"));
        assert!(bands(0, 1, 0.5, "a").is_empty());
    }
}
