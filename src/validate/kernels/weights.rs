//! Weights of a checkpoint, read in bands of rows.

use crate::checkpoint::{Checkpoint, Encoding, TensorId};
use crate::dtype::Dtype;
use crate::dtype::codec::decode;
use crate::dtype::scheme::Scheme;
use crate::error::{Error, Result};
use crate::kernel::{self, Isa, Policy, Sink, Values};
use crate::plan::cost::scale_rows;
use crate::validate::reader::Store;
use std::ops::Range;

/// A checkpoint whose weights are read.
pub(crate) struct Shards<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    store: Store<'a>,
}

impl<'a> Shards<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, store: Store::new(checkpoint, false) }
    }

    /// `len` bytes of a tensor from `offset` on.
    pub(crate) fn read(&self, id: TensorId, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; size(len)];
        self.store.read(id, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// All values of a plain float tensor, for norms, biases and the like; `None` where there is no such tensor.
    pub(crate) fn vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(id) = self.checkpoint.find(name) else { return Ok(None) };
        let tensor = self.checkpoint.tensor(id);
        if !tensor.dtype.is_plain_float() || self.checkpoint.encodings[id as usize] != Encoding::Plain {
            return Err(Error::unsupported("layer-vector", "a parameter of a layer is no plain float")
                .tensor(name)
                .found(tensor.dtype)
                .fix("validate at the tensor level"));
        }
        let bytes = self.read(id, 0, tensor.bytes)?;
        Ok(Some(plain(tensor.dtype, &bytes)))
    }
}

fn plain(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        other => {
            let codes = bytes.as_chunks::<2>().0.iter();
            codes.map(|b| decode(other, u16::from_le_bytes(*b).into())).collect()
        }
    }
}

/// A `usize` of a size that was checked against a file; saturates where memory is smaller than the file.
pub(crate) fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A weight `[rows, cols]`.
#[derive(Clone)]
pub(crate) struct Matrix<'a> {
    shards: &'a Shards<'a>,
    pub(crate) id: TensorId,
    pub(crate) rows: u64,
    pub(crate) cols: u64,
    /// The scale tensor and format of codes; `None` for a plain float.
    pub(crate) scaled: Option<(TensorId, Scheme)>,
}

impl<'a> Matrix<'a> {
    /// The weight at `id`, or `None` where it is no matrix that can be decoded.
    pub(crate) fn open(shards: &'a Shards<'a>, id: TensorId) -> Option<Self> {
        let tensor = shards.checkpoint.tensor(id);
        let [rows, cols] = tensor.shape[..] else { return None };
        let scaled = match &shards.checkpoint.encodings[id as usize] {
            Encoding::Plain if tensor.dtype.is_plain_float() => None,
            Encoding::Codes(s) => Some((s.scale, s.scheme)),
            _ => return None,
        };
        Some(Self { shards, id, rows, cols, scaled })
    }

    /// The checkpoint that holds it.
    pub(crate) fn checkpoint(&self) -> &'a Checkpoint {
        self.shards.checkpoint
    }

    /// Another weight of the same checkpoint.
    pub(crate) fn sibling(&self, id: TensorId) -> Option<Self> {
        Self::open(self.shards, id)
    }

    pub(crate) fn name(&self) -> &'a str {
        &self.shards.checkpoint.tensor(self.id).name
    }

    /// Where the values stand: their dtype.
    pub(crate) fn dtype(&self) -> Dtype {
        self.shards.checkpoint.tensor(self.id).dtype
    }

    /// Rows that a band starts and ends on, so that it holds whole rows of scales.
    pub(crate) fn granule(&self) -> u64 {
        self.scaled.map_or(1, |(_, scheme)| scheme.granularity.rows())
    }

    /// Rows `[rows.start, rows.end)`, which start on a [`Self::granule`]: codes or values as stored.
    pub(crate) fn stored(&self, rows: &Range<u64>) -> Result<Vec<u8>> {
        let width = self.cols * (self.dtype().bits() / 8);
        self.shards.read(self.id, rows.start * width, (rows.end - rows.start) * width)
    }

    /// The scales of those rows, a grid in row-major order; empty for a plain float.
    pub(crate) fn scales(&self, rows: &Range<u64>) -> Result<Vec<f32>> {
        let mut scales = Vec::new();
        if let Some((id, scheme)) = self.scaled {
            let dtype = self.shards.checkpoint.tensor(id).dtype;
            let [grid_rows, grid_cols] = scheme.granularity.grid(self.rows, self.cols);
            let (first, last) = scale_rows(scheme.granularity, rows.start, rows.end, grid_rows);
            let width = grid_cols * (dtype.bits() / 8);
            let raw = self.shards.read(id, first * width, (last - first) * width)?;
            kernel::decode_scales(dtype, &raw, &mut scales);
        }
        Ok(scales)
    }

    /// The exact values of a band from what [`Self::stored`] and [`Self::scales`] gave.
    pub(crate) fn values(&self, rows: &Range<u64>, stored: &[u8], scales: &[f32]) -> Result<Vec<f32>> {
        let (count, cols) = (size(rows.end - rows.start), size(self.cols));
        let values = match self.scaled {
            None => match self.dtype() {
                Dtype::BF16 => Values::Bf16(stored),
                Dtype::F16 => Values::F16(stored),
                _ => Values::F32(stored),
            },
            Some((_, scheme)) => {
                let [block_rows, block_cols] = scheme.granularity.unit(count, cols);
                Values::Scaled { element: scheme.element, codes: stored, scales, block_rows, block_cols }
            }
        };
        let mut out = vec![0f32; count * cols];
        // A NaN is a value like any other here: the metrics see it.
        let policy = Policy { keep_non_finite: true };
        let sink = Sink::Cast { to: Dtype::F32, out: bytemuck::cast_slice_mut(&mut out) };
        kernel::convert(Isa::chosen(), &values, count, cols, sink, policy).map_err(|fault| {
            Error::internal("band-decode", format!("a weight cannot be decoded: {fault:?}"))
                .tensor(self.name())
        })?;
        for x in &mut out {
            *x = f32::from_bits(u32::from_le(x.to_bits()));
        }
        Ok(out)
    }

    /// Reads and decodes a band.
    pub(crate) fn decoded(&self, rows: &Range<u64>) -> Result<Vec<f32>> {
        self.values(rows, &self.stored(rows)?, &self.scales(rows)?)
    }
}
