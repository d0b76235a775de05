//! A checkpoint: headers, config and names, no tensor bytes.
//!
//! [`Checkpoint::open`] reads only headers and JSON, in memory proportional to them, and accepts nothing that two readers
//! could understand differently. What it accepts is complete: every tensor that the index lists exists, every tensor
//! that exists is listed, every scale fits its weight.

pub mod config;
pub mod encoding;
pub mod family;
pub mod header;
mod index;
mod json;
mod name;
mod notes;
mod open;
pub mod role;
pub mod side;
pub mod stored;
pub mod summary;

pub use config::{Config, Quantization, WeightGroup};
pub use encoding::Encoding;
pub use family::Family;
pub use name::{looks_like_lookup, looks_linear, module_of, natural_cmp};
pub use role::{FusedPart, Kind, Part, Role, Scope, fused_group};
pub use side::{SideFile, SideKind};
pub use stored::{Global, Stored};
pub use summary::{SchemeSummary, Summary, summary};

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::io::source::{ReadFile, SourceDir, Stamp};
use std::path::Path;
use std::sync::Arc;

/// Position of a tensor in [`Checkpoint::tensors`].
pub type TensorId = u32;

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Name in the source folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Offset of the tensor data.
    pub data_start: u64,
    /// BLAKE3 (hex) of everything before the data: length field and header.
    pub header_blake3: String,
    /// State of the file when its header was read; `None` without a folder.
    pub stamp: Option<Stamp>,
}

/// A tensor as the headers describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name.
    pub name: Arc<str>,
    /// Element format.
    pub dtype: Dtype,
    /// Shape, row-major; empty for a scalar.
    pub shape: Arc<[u64]>,
    /// Position of its shard in [`Checkpoint::files`].
    pub file: u32,
    /// First byte, counted from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A model: what its headers and its config say.
#[derive(Debug)]
pub struct Checkpoint {
    /// The folder; `None` for [`Checkpoint::from_parts`].
    pub dir: Option<Arc<SourceDir>>,
    /// The shards, by name.
    pub files: Vec<SourceFile>,
    /// The tensors, in natural name order.
    pub tensors: Vec<TensorInfo>,
    /// `config.json`.
    pub config: Config,
    /// Everything else in the folder, by name.
    pub side_files: Vec<SideFile>,
    /// Oddities, for people.
    pub notes: Vec<String>,
    /// Oddities that may do harm.
    pub warnings: Vec<String>,
    /// The model family.
    pub family: Family,
    /// How each tensor is stored, by [`TensorId`].
    pub encodings: Vec<Encoding>,
}

impl Checkpoint {
    /// Opens the model in `path`.
    ///
    /// # Errors
    /// Exit 3 for weights in a format that is not read; exit 4 for anything invalid or hostile; exit 5 for I/O errors.
    pub fn open(path: &Path) -> Result<Self> {
        open::open(path)
    }

    /// A checkpoint of headers alone: `tensors` (name, dtype, shape) in one virtual file, in the given order. For plans
    /// of models that are not here.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_parts(config: serde_json::Value, tensors: Vec<(String, Dtype, Vec<u64>)>) -> Result<Self> {
        open::from_parts(config, tensors)
    }

    /// The tensor called `name`.
    pub fn find(&self, name: &str) -> Option<TensorId> {
        find(&self.tensors, name)
    }

    /// The tensor at `id`, which must come from this checkpoint.
    pub fn tensor(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id as usize]
    }

    /// The role of the tensor at `id`.
    pub fn role(&self, id: TensorId) -> Role {
        let tensor = self.tensor(id);
        self.family.role(&tensor.name, &tensor.shape)
    }

    /// Bytes of all tensors.
    pub fn payload_bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, t| sum.saturating_add(t.bytes))
    }

    /// Opens a shard for reading tensor data.
    ///
    /// # Errors
    /// `source-changed` (exit 4) when it is not the file whose header was read; as [`SourceDir::open_file`].
    pub fn open_data_file(&self, file: u32) -> Result<ReadFile> {
        let expected = &self.files[file as usize];
        let dir = self.dir.as_ref().ok_or_else(|| {
            Error::internal("no-data", "a checkpoint of headers alone has no data").file(&expected.name)
        })?;
        let data = dir.open_file(&expected.name)?;
        match expected.stamp {
            Some(stamp) if stamp != data.stamp() => {
                Err(Error::input("source-changed", "a shard has changed since its header was read")
                    .file(data.path().display())
                    .expected(format!("{} bytes, modified at {} ns", stamp.bytes, stamp.mtime_ns))
                    .found(format!("{} bytes, modified at {} ns", data.len(), data.stamp().mtime_ns))
                    .fix("run again; do not change the source while it is read"))
            }
            _ => Ok(data),
        }
    }

    /// Whether the tensor at `id` can be decoded.
    ///
    /// # Errors
    /// `scale-missing`, `scale-orphan` (exit 4), `encoding-unsupported` (exit 3).
    pub fn require_decodable(&self, id: TensorId) -> Result<()> {
        let what = match &self.encodings[id as usize] {
            Encoding::Unsupported { what } => what.as_ref(),
            Encoding::OffsetOf { .. } => encoding::INT8_OFFSET,
            _ => return Ok(()),
        };
        let tensor = self.tensor(id);
        let file = self.files.get(tensor.file as usize).map_or("", |f| &f.name);
        let error = match what {
            encoding::MISSING_SCALE => {
                Error::input("scale-missing", "a quantized weight has no scale tensor")
                    .expected(format!("{}.weight_scale_inv or .weight_scale", module_of(&tensor.name)))
                    .fix("fetch the checkpoint again: a shard or the tensor is missing")
            }
            encoding::ORPHAN_SCALE => Error::input("scale-orphan", "a scale tensor has no quantized weight")
                .expected(format!("{}.weight as FP8 or INT8", module_of(&tensor.name)))
                .fix("remove the stale scales from the checkpoint"),
            what => Error::unsupported("encoding-unsupported", "this version cannot decode the tensor")
                .found(what)
                .fix("start from the BF16 or FP8 release of the model"),
        };
        let error = error.tensor(&tensor.name);
        Err(match &self.dir {
            Some(dir) => error.file(dir.path().join(file).display()),
            None => error.file(file),
        })
    }
}

/// Binary search in natural order.
fn find(tensors: &[TensorInfo], name: &str) -> Option<TensorId> {
    let at = tensors.binary_search_by(|t| natural_cmp(&t.name, name)).ok()?;
    TensorId::try_from(at).ok()
}

#[cfg(test)]
mod tests;
