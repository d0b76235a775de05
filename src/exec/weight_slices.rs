//! Corners of a checkpoint's quantized weights, for golden cases about this very model.

use crate::checkpoint::{Checkpoint, Encoding, Stored, TensorInfo};
use crate::dtype::Dtype;
use crate::dtype::scheme::{Granularity, Scheme};
use crate::error::Result;
use crate::io::source::ReadFile;
use crate::kernel::emit::Slice;
use crate::kernel::emit::slices::{COLS, ROWS};
use crate::kernel::reference::array::Array;
use std::collections::BTreeMap;

/// One slice of at most 128 × 256 per class of quantized tensors: the first tensor, in natural name order, of those whose
/// names differ in numbers only. Weights that have no golden kernels are left out. Reads the slices' bytes only.
///
/// # Errors
/// As [`Checkpoint::open_data_file`], and class Io.
pub fn read(checkpoint: &Checkpoint) -> Result<Vec<Slice>> {
    let mut chosen: BTreeMap<String, usize> = BTreeMap::new();
    let mut order = Vec::new();
    for (id, encoding) in checkpoint.encodings.iter().enumerate() {
        let (Encoding::Codes(Stored { scale, scheme, .. }), tensor) = (encoding, &checkpoint.tensors[id])
        else {
            continue;
        };
        let fits = matches!(tensor.dtype, Dtype::F8E4M3 | Dtype::I8)
            && matches!(tensor.shape[..], [rows, cols] if rows > 0 && cols > 0)
            && matches!(scheme.scale, Dtype::F32 | Dtype::BF16 | Dtype::F16 | Dtype::F8E8M0);
        let class = class(&tensor.name);
        if fits && !chosen.contains_key(&class) {
            chosen.insert(class.clone(), id);
            order.push((class, tensor, checkpoint.tensor(*scale), *scheme));
        }
    }
    let mut files = Files { checkpoint, open: BTreeMap::new() };
    order.into_iter().map(|(class, codes, scale, scheme)| files.slice(class, codes, scale, scheme)).collect()
}

/// The name without its numbers and its last part, in kebab case: `mlp-experts-down-proj` for
/// `model.layers.3.mlp.experts.7.down_proj.weight`.
fn class(name: &str) -> String {
    let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
    let parts: Vec<String> = module
        .split('.')
        .filter(|part| !part.is_empty() && !part.bytes().all(|b| b.is_ascii_digit()))
        .filter(|part| !matches!(*part, "model" | "layers"))
        .map(|part| {
            part.chars()
                .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
                .collect()
        })
        .collect();
    // Names of files have limits.
    parts.join("-").chars().take(80).collect()
}

struct Files<'a> {
    checkpoint: &'a Checkpoint,
    open: BTreeMap<u32, ReadFile>,
}

impl Files<'_> {
    fn read(&mut self, tensor: &TensorInfo, offset: usize, out: &mut [u8]) -> Result<()> {
        if !self.open.contains_key(&tensor.file) {
            self.open.insert(tensor.file, self.checkpoint.open_data_file(tensor.file)?);
        }
        match self.open.get(&tensor.file) {
            Some(file) => file.read_exact_at(out, tensor.offset + offset as u64),
            None => Ok(()),
        }
    }

    /// The first `rows` × `cols` elements of a matrix with `stride` columns.
    fn corner(&mut self, tensor: &TensorInfo, [rows, cols]: [usize; 2], stride: usize) -> Result<Array> {
        let mut array = Array::new(tensor.dtype, [rows, cols], Vec::new());
        let size = array.item_size();
        array.bytes = vec![0; rows * cols * size];
        if cols == stride {
            self.read(tensor, 0, &mut array.bytes)?;
            return Ok(array);
        }
        for (row, bytes) in array.bytes.chunks_exact_mut((cols * size).max(1)).enumerate() {
            self.read(tensor, row * stride * size, bytes)?;
        }
        Ok(array)
    }

    fn slice(
        &mut self,
        class: String,
        codes: &TensorInfo,
        scale: &TensorInfo,
        scheme: Scheme,
    ) -> Result<Slice> {
        let length = |axis: usize, most: usize| {
            codes.shape.get(axis).map_or(0, |d| usize::try_from(*d).unwrap_or(usize::MAX).min(most))
        };
        let shape = [length(0, ROWS), length(1, COLS)];
        let block = match scheme.granularity {
            Granularity::Tensor => [0, 0],
            Granularity::Channel | Granularity::Row => [1, 0],
            // u32 fits usize on every supported platform.
            Granularity::Block { rows, cols } => [rows as usize, cols as usize],
        };
        let count = |axis: usize| if block[axis] == 0 { 1 } else { shape[axis].div_ceil(block[axis]) };
        let grid = [count(0), count(1)];
        // Columns of the whole grid.
        let stride = match scheme.granularity {
            Granularity::Block { cols, .. } => {
                let cols = codes.shape.get(1).map_or(0, |k| k.div_ceil(cols.into()));
                usize::try_from(cols).unwrap_or(usize::MAX)
            }
            _ => 1,
        };
        let stride_of_codes = length(1, usize::MAX);
        Ok(Slice {
            class,
            tensor: codes.name.to_string(),
            codes: self.corner(codes, shape, stride_of_codes)?,
            scale: self.corner(scale, grid, stride)?,
            block,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_no_numbers() {
        assert_eq!(class("model.layers.3.mlp.experts.7.down_proj.weight"), "mlp-experts-down-proj");
        assert_eq!(class("lm_head.weight"), "lm-head");
        assert_eq!(
            class("model.layers.61.self_attn.kv_a_proj_with_mqa.weight"),
            "self-attn-kv-a-proj-with-mqa"
        );
    }
}
