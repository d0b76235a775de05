//! The plan: every output tensor, its dtype, shape, file and byte range, and the expression that produces it.
//!
//! A plan is built from headers and config alone ([`Plan::identity`]), rewritten by passes, checked by
//! [`verifier::verify`] after each of them, printed and parsed as text ([`printer`], [`parser`]) and identified by the
//! digest of that text. Nothing here reads tensor bytes.

pub mod cost;
pub mod expr;
pub mod layout;
pub mod parser;
pub mod printer;
pub mod recipe;
pub mod value;
pub mod verifier;

pub use expr::{Expr, Part, Stored, Ty};

use crate::checkpoint::{Checkpoint, TensorId, TensorInfo};
use crate::dtype::Dtype;
use crate::dtype::scheme::Scheme;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A shape, outermost dimension first.
pub type Shape = Arc<[u64]>;

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// Left out, for a stated reason.
    Dropped,
    /// Copied byte for byte.
    Kept,
    /// Another encoding of the same tensor, without the scheme's quantizer.
    Reencoded,
    /// Encoded by the scheme's quantizer.
    Quantized,
}

impl Fate {
    /// The name in plans and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Dropped => "dropped",
            Fate::Kept => "kept",
            Fate::Reencoded => "reencoded",
            Fate::Quantized => "quantized",
        }
    }
}

/// What a rewrite does to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exactness {
    /// Every value is preserved.
    Bitwise,
    /// Each value is rounded once to a wider or equal working format.
    Rounding,
    /// Values are quantized.
    Lossy,
}

impl Exactness {
    /// The name in plans and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Exactness::Bitwise => "bitwise",
            Exactness::Rounding => "rounding",
            Exactness::Lossy => "lossy",
        }
    }
}

/// Where an output tensor lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index in [`Plan::shards`].
    pub shard: u32,
    /// Absolute byte offset in the file.
    pub offset: u64,
}

/// One output tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Name in the artifact.
    pub name: Arc<str>,
    /// What is stored.
    pub ty: Ty,
    /// How it is computed from source tensors.
    pub expr: Expr,
    /// The scheme that `assign-scheme` chose for a weight; its companions (scales, offsets) carry it too.
    pub scheme: Option<Scheme>,
    /// What becomes of the tensor.
    pub fate: Fate,
    /// What happens to its values.
    pub exactness: Exactness,
    /// Why, in a few words for people.
    pub reason: Arc<str>,
    /// Where it lies, once `shard` has run.
    pub place: Option<Place>,
}

impl Output {
    /// Bytes stored.
    pub fn bytes(&self) -> u64 {
        self.ty.bytes()
    }

    /// Whether it belongs to the codes before it: scales, zero points and whatever else a loader registers beside them.
    pub fn is_companion(&self) -> bool {
        let param = self.name.rsplit_once('.').map_or("", |(_, param)| param);
        self.scheme.is_some() && !matches!(param, "weight" | "weight_packed" | "qweight")
    }
}

/// A source tensor that the artifact does without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The source tensor.
    pub source: TensorId,
    /// Why.
    pub reason: Arc<str>,
}

/// A source shard, as far as its header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// File name in the source folder.
    pub name: String,
    /// File size.
    pub bytes: u64,
    /// BLAKE3 of the header, lower-case hex: pins names, dtypes, shapes and offsets.
    pub header_blake3: String,
}

/// An output shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// File name in the artifact.
    pub name: String,
    /// Bytes of the length field and header together: the offset of the first tensor.
    pub header: u64,
    /// File size.
    pub bytes: u64,
}

/// A small file of the artifact: copied, patched or generated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// File name in the artifact.
    pub name: String,
    /// File size.
    pub bytes: u64,
    /// Where the content comes from.
    pub origin: Origin,
}

/// Where a side file's content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The source's file of the same name, byte for byte.
    Copied,
    /// Written by the engine dialect from config and plan.
    Generated,
}

impl Origin {
    /// The name in plans.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Copied => "copied",
            Origin::Generated => "generated",
        }
    }
}

/// What a plan is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Target id.
    pub target: String,
    /// Engine name.
    pub engine: String,
    /// Scheme name of the target.
    pub scheme: String,
    /// Model family id.
    pub family: String,
    /// The resolved recipe, as one line of JSON.
    pub recipe: String,
}

/// A conversion, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it is for.
    pub header: Header,
    /// Source shards.
    pub sources: Vec<Source>,
    /// Source tensors, in natural name order; a [`TensorId`] is an index here.
    pub inputs: Vec<TensorInfo>,
    /// Output tensors, in natural order of the weight they belong to.
    pub outputs: Vec<Output>,
    /// Source tensors left out.
    pub drops: Vec<Dropped>,
    /// Output shards, empty until `shard` has run.
    pub shards: Vec<Shard>,
    /// Small files, empty until the engine dialect has written them.
    pub side_files: Vec<SideFile>,
}

/// Source tensors by fate: every source tensor counts once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fates {
    /// Inputs of the scheme's quantizer.
    pub quantized: u64,
    /// Stored in another encoding.
    pub reencoded: u64,
    /// Copied byte for byte.
    pub kept: u64,
    /// Left out.
    pub dropped: u64,
}

impl Plan {
    /// The plan that copies `checkpoint` unchanged.
    pub fn identity(checkpoint: &Checkpoint, header: Header) -> Plan {
        let copied: Arc<str> = "copied".into();
        Plan {
            header,
            sources: checkpoint
                .files
                .iter()
                .map(|f| Source {
                    name: f.name.clone(),
                    bytes: f.bytes,
                    header_blake3: f.header_blake3.clone(),
                })
                .collect(),
            inputs: checkpoint.tensors.clone(),
            outputs: checkpoint
                .tensors
                .iter()
                .zip(0..)
                .map(|(t, id)| Output {
                    name: t.name.clone(),
                    ty: Ty { dtype: t.dtype, shape: t.shape.clone() },
                    expr: Expr::Load(id),
                    scheme: None,
                    fate: Fate::Kept,
                    exactness: Exactness::Bitwise,
                    reason: copied.clone(),
                    place: None,
                })
                .collect(),
            drops: Vec::new(),
            shards: Vec::new(),
            side_files: Vec::new(),
        }
    }

    /// The type of an input.
    pub fn input_ty(&self, id: TensorId) -> Ty {
        let t = &self.inputs[id as usize];
        Ty { dtype: t.dtype, shape: t.shape.clone() }
    }

    /// Bytes of tensor payload in the artifact.
    pub fn output_bytes(&self) -> u64 {
        self.outputs.iter().map(Output::bytes).sum()
    }

    /// Bytes of tensor payload that the executor reads: each input of each evaluation group once.
    pub fn read_bytes(&self) -> u64 {
        let mut seen = vec![false; self.inputs.len()];
        let mut total = 0;
        for output in &self.outputs {
            output.expr.for_each_load(&mut |id| {
                if !std::mem::replace(&mut seen[id as usize], true) {
                    total += self.inputs[id as usize].bytes;
                }
            });
        }
        total
    }

    /// The fate of every source tensor, indexed by [`TensorId`]: that of the outputs it feeds, the strongest first.
    pub fn source_fates(&self) -> Vec<Fate> {
        let mut fates = vec![Fate::Dropped; self.inputs.len()];
        for output in &self.outputs {
            output.expr.for_each_load(&mut |id| {
                let fate = &mut fates[id as usize];
                *fate = output.fate.max(*fate);
            });
        }
        fates
    }

    /// Source tensors counted by fate.
    pub fn fates(&self) -> Fates {
        let mut count = Fates::default();
        for fate in self.source_fates() {
            match fate {
                Fate::Quantized => count.quantized += 1,
                Fate::Reencoded => count.reencoded += 1,
                Fate::Kept => count.kept += 1,
                Fate::Dropped => count.dropped += 1,
            }
        }
        count
    }

    /// Outputs by shard, each in file order.
    pub fn shard_members(&self) -> Vec<Vec<u32>> {
        let mut members = vec![Vec::new(); self.shards.len()];
        for (output, i) in self.outputs.iter().zip(0u32..) {
            if let Some(place) = output.place {
                members[place.shard as usize].push(i);
            }
        }
        for list in &mut members {
            list.sort_by_key(|i| {
                let output = &self.outputs[*i as usize];
                (output.place.map(|p| p.offset), output.bytes())
            });
        }
        members
    }
}

/// Looks up a dtype for a plan; used by the printer, the parser and their errors alike.
pub(crate) fn type_text(dtype: Dtype, shape: &[u64]) -> String {
    let dims: Vec<String> = shape.iter().map(u64::to_string).collect();
    format!("{dtype}[{}]", dims.join(","))
}
