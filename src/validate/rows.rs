//! The report's row of every tensor, as far as names and headers tell.

use super::record::Record;
use crate::checkpoint::{Checkpoint, Encoding, Stored, TensorId, natural_cmp};
use crate::plan::Fate;
use crate::report::model::TensorRow;
use std::collections::BTreeMap;

/// Rows of the report in natural order, and which tensor has which.
pub(super) struct Rows {
    /// The rows.
    pub(super) list: Vec<TensorRow>,
    /// Position of the row of each tensor of the artifact; that of the weight for its scales and offsets.
    of: Vec<u32>,
}

impl Rows {
    /// The row that a tensor of the artifact belongs to.
    pub(super) fn of(&mut self, id: TensorId) -> Option<&mut TensorRow> {
        let row = *self.of.get(id as usize)?;
        self.list.get_mut(row as usize)
    }

    /// The rows of the artifact's tensors and of the source tensors that it does without.
    pub(super) fn new(artifact: &Checkpoint, source: Option<&Checkpoint>, record: Option<&Record>) -> Rows {
        let sizes = SourceSizes::new(source, record);
        let mut list: Vec<(TensorRow, Option<TensorId>)> = Vec::with_capacity(artifact.tensors.len());
        let mut companions: Vec<(TensorId, TensorId)> = Vec::new();
        for (id, tensor) in (0..).zip(&artifact.tensors) {
            if let Encoding::ScaleOf { codes } | Encoding::OffsetOf { codes } =
                &artifact.encodings[id as usize]
            {
                companions.push((id, *codes));
                continue;
            }
            let mut row = named(artifact, &tensor.name, &tensor.shape);
            row.elements = tensor.shape.iter().product();
            row.bytes = tensor.bytes;
            row.scheme = Some(match &artifact.encodings[id as usize] {
                Encoding::Codes(Stored { scheme, .. }) => {
                    format!("{} {} {}", upper(scheme.element), scheme.granularity, upper(scheme.scale))
                }
                _ => upper(tensor.dtype),
            });
            row.fate = "unknown".to_owned();
            match record.and_then(|r| r.entry(&tensor.name)) {
                Some(entry) => {
                    row.fate.clone_from(&entry.fate);
                    row.scheme = entry.scheme.clone().or(row.scheme);
                    row.exactness.clone_from(&entry.exactness);
                    row.reason.clone_from(&entry.reason);
                    row.source_bytes = entry.sources.iter().map(|s| sizes.of(s)).sum();
                }
                None => row.source_bytes = sizes.with_companions(&tensor.name),
            }
            list.push((row, Some(id)));
        }
        for entry in record.map_or(&[][..], |r| &r.manifest.tensors) {
            if entry.fate == Fate::Dropped.name() {
                let mut row = named(artifact, &entry.name, &[]);
                row.fate.clone_from(&entry.fate);
                row.reason.clone_from(&entry.reason);
                row.source_bytes = sizes.of(&entry.name);
                list.push((row, None));
            }
        }
        list.sort_by(|a, b| natural_cmp(&a.0.name, &b.0.name));
        let mut of = vec![u32::MAX; artifact.tensors.len()];
        for (position, (_, id)) in (0u32..).zip(&list) {
            if let Some(id) = id {
                of[*id as usize] = position;
            }
        }
        for (id, codes) in companions {
            of[id as usize] = of[codes as usize];
            if let Some((row, _)) = list.get_mut(of[id as usize] as usize) {
                row.bytes += artifact.tensor(id).bytes;
            }
        }
        Rows { list: list.into_iter().map(|(row, _)| row).collect(), of }
    }
}

fn upper(dtype: crate::dtype::Dtype) -> String {
    dtype.safetensors_name().unwrap_or_else(|| dtype.text()).to_owned()
}

fn named(artifact: &Checkpoint, name: &str, shape: &[u64]) -> TensorRow {
    let role = artifact.family.role(name, shape);
    TensorRow {
        name: name.to_owned(),
        role: role.label().map(str::to_owned),
        layer: role.layer,
        expert: role.expert,
        ..TensorRow::default()
    }
}

/// Bytes of source tensors by name: from the source, or from the plan's inputs.
struct SourceSizes<'a> {
    source: Option<&'a Checkpoint>,
    inputs: BTreeMap<&'a str, u64>,
}

impl<'a> SourceSizes<'a> {
    fn new(source: Option<&'a Checkpoint>, record: Option<&'a Record>) -> Self {
        let plan = record.and_then(|r| r.plan.as_ref()).filter(|_| source.is_none());
        let inputs = plan.iter().flat_map(|p| &p.inputs).map(|t| (t.name.as_ref(), t.bytes)).collect();
        Self { source, inputs }
    }

    fn of(&self, name: &str) -> u64 {
        match self.source {
            Some(source) => source.find(name).map_or(0, |id| source.tensor(id).bytes),
            None => self.inputs.get(name).copied().unwrap_or(0),
        }
    }

    /// Bytes of a tensor of the source and of the scales that belong to it.
    fn with_companions(&self, name: &str) -> u64 {
        let scale = self.source.and_then(|source| {
            let id = source.find(name)?;
            match &source.encodings[id as usize] {
                Encoding::Codes(Stored { scale, .. }) => Some(source.tensor(*scale).bytes),
                _ => None,
            }
        });
        self.of(name) + scale.unwrap_or(0)
    }
}
