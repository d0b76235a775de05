//! What a checkpoint is, for `inspect`.

use super::Checkpoint;
use super::encoding::Encoding;
use crate::dtype::Dtype;
use crate::dtype::scheme::Scheme;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Family id.
    pub family: String,
    /// Shards.
    pub files: usize,
    /// Tensors, scales included.
    pub tensors: usize,
    /// Bytes of tensor data.
    pub bytes: u64,
    /// How the tensors are stored, most bytes first.
    pub schemes: Vec<SchemeSummary>,
    /// Oddities.
    pub notes: Vec<String>,
    /// Oddities that may do harm.
    pub warnings: Vec<String>,
}

/// Tensors stored in one way; a weight and its scales are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemeSummary {
    /// For example `F8_E4M3 128x128 scale F32`, or `BF16`.
    pub name: String,
    /// Tensors, scales included.
    pub tensors: usize,
    /// Bytes of tensor data, scales included.
    pub bytes: u64,
}

/// Summarizes a checkpoint.
pub fn summary(checkpoint: &Checkpoint) -> Summary {
    let mut schemes: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for (tensor, encoding) in checkpoint.tensors.iter().zip(&checkpoint.encodings) {
        let of_codes = match encoding {
            Encoding::ScaleOf { codes } | Encoding::Redundant { codes, .. } => {
                &checkpoint.encodings[*codes as usize]
            }
            other => other,
        };
        let name = match of_codes {
            Encoding::Codes(stored) => scheme_name(&stored.scheme),
            Encoding::Unsupported { what } => format!("{what} (not decodable)"),
            _ => dtype_name(tensor.dtype).to_owned(),
        };
        let entry = schemes.entry(name).or_default();
        entry.0 += 1;
        entry.1 = entry.1.saturating_add(tensor.bytes);
    }
    let mut schemes: Vec<_> =
        schemes.into_iter().map(|(name, (tensors, bytes))| SchemeSummary { name, tensors, bytes }).collect();
    schemes.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Summary {
        family: checkpoint.family.id.to_owned(),
        files: checkpoint.files.len(),
        tensors: checkpoint.tensors.len(),
        bytes: checkpoint.payload_bytes(),
        schemes,
        notes: checkpoint.notes.clone(),
        warnings: checkpoint.warnings.clone(),
    }
}

/// A source scheme by the names that files use: `F8_E4M3 128x128 scale F32`.
pub fn scheme_name(scheme: &Scheme) -> String {
    format!("{} {} scale {}", dtype_name(scheme.element), scheme.granularity, dtype_name(scheme.scale))
}

fn dtype_name(dtype: Dtype) -> &'static str {
    dtype.safetensors_name().unwrap_or(dtype.text())
}
