//! What each tensor of an artifact is held against, and how strictly.

use super::reader::Matrix;
use super::record::Record;
use crate::checkpoint::{Checkpoint, Encoding, TensorId};
use crate::dtype::scheme::Rule;
use crate::plan::Expr;
use crate::plan::expr::Constant;
use std::sync::Arc;

/// What a tensor must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expect {
    /// The bytes of its source.
    Bytes,
    /// The codes of its source, under scales of the same values.
    Same,
    /// The codes and scales that the rule makes of its source.
    Rule(Rule),
    /// Nearest codes of its source under its own scales, whose rule is not known.
    Nearest,
    /// The values of its source, rounded to its float format.
    Cast {
        /// Whether the rounding is known to be to nearest even, once, from `f32`.
        exact: bool,
    },
    /// Zero bytes.
    Zeros,
    /// Nothing: why it cannot be compared.
    Nothing(String),
}

/// A tensor of the artifact and its source.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The tensor; its companions (scales, offsets) belong to it.
    pub(super) artifact: TensorId,
    /// Its source.
    pub(super) source: Option<TensorId>,
    /// What it must be.
    pub(super) expect: Expect,
}

/// Every tensor of the artifact that is no scale of another one, in natural name order.
pub(super) fn pairs(artifact: &Checkpoint, source: &Checkpoint, record: Option<&Record>) -> Vec<Pair> {
    let mut pairs = Vec::with_capacity(artifact.tensors.len());
    for (id, encoding) in (0..).zip(&artifact.encodings) {
        match encoding {
            Encoding::ScaleOf { .. } | Encoding::Redundant { .. } => {}
            Encoding::OffsetOf { .. } => {
                pairs.push(Pair { artifact: id, source: None, expect: Expect::Zeros });
            }
            Encoding::Unsupported { what } => {
                let expect = Expect::Nothing(what.to_string());
                pairs.push(Pair { artifact: id, source: source.find(&artifact.tensor(id).name), expect });
            }
            Encoding::Plain | Encoding::Codes(_) => pairs.push(pair(artifact, source, record, id)),
        }
    }
    pairs
}

fn pair(artifact: &Checkpoint, source: &Checkpoint, record: Option<&Record>, id: TensorId) -> Pair {
    let name = &artifact.tensor(id).name;
    let (origin, recorded) = match record.and_then(|r| recorded(r, name)) {
        Some((origin, expect)) => (origin, expect),
        None => (name.clone(), None),
    };
    let nothing = |why: String, source| Pair { artifact: id, source, expect: Expect::Nothing(why) };
    let Some(partner) = source.find(&origin) else {
        return match recorded {
            Some(Expect::Zeros) => Pair { artifact: id, source: None, expect: Expect::Zeros },
            _ => nothing(format!("the source has no tensor {origin}"), None),
        };
    };
    let (mine, theirs) = (artifact.tensor(id), source.tensor(partner));
    if mine.shape != theirs.shape {
        let why = format!("its shape is {:?}, that of its source {:?}", mine.shape, theirs.shape);
        return nothing(why, Some(partner));
    }
    let has_scale = matches!(artifact.encodings[id as usize], Encoding::Codes(_));
    let expect = match recorded.unwrap_or_else(|| inferred(artifact, id, source, partner)) {
        Expect::Bytes if has_scale => Expect::Same,
        expect => expect,
    };
    let decodable = |c: &Checkpoint, id| Matrix::of(c, id).is_some_and(|m| m.format.is_some());
    let bytes_only = expect == Expect::Bytes;
    if !bytes_only && !decodable(source, partner) {
        return nothing(format!("its source is {}, which is not decoded", theirs.dtype), Some(partner));
    }
    if !bytes_only && !decodable(artifact, id) {
        return nothing(format!("it is {}, which is not decoded", mine.dtype), Some(partner));
    }
    match expect {
        Expect::Bytes if mine.dtype != theirs.dtype => {
            nothing(format!("it is {}, its source {}", mine.dtype, theirs.dtype), Some(partner))
        }
        Expect::Rule(_) | Expect::Same | Expect::Nearest if !has_scale => {
            nothing("it has no scales".to_owned(), Some(partner))
        }
        expect => Pair { artifact: id, source: Some(partner), expect },
    }
}

/// The source's name for a tensor and what it must be, as the record has it.
fn recorded(record: &Record, name: &str) -> Option<(Arc<str>, Option<Expect>)> {
    if let (Some(plan), Some(output)) = (&record.plan, record.output(name)) {
        let mut origin = None;
        output.expr.for_each_load(&mut |id| {
            origin.get_or_insert_with(|| plan.inputs[id as usize].name.clone());
        });
        let expect = match &output.expr {
            Expr::Load(_) if output.scheme.is_none() => Expect::Bytes,
            Expr::Load(_) => Expect::Same,
            Expr::Quantize { scheme, .. } if scheme.rule != Rule::Given => Expect::Rule(scheme.rule),
            Expr::Cast { .. } => Expect::Cast { exact: true },
            Expr::Constant { constant: Constant::Zeros, .. } => Expect::Zeros,
            _ => return Some((origin.unwrap_or_else(|| name.into()), None)),
        };
        return Some((origin.unwrap_or_else(|| name.into()), Some(expect)));
    }
    let entry = record.entry(name)?;
    let origin: Arc<str> = entry.sources.first().map_or(name, String::as_str).into();
    Some((origin, (entry.fate == "kept" && entry.sources.len() == 1).then_some(Expect::Bytes)))
}

/// What a tensor must be when nothing is recorded.
fn inferred(artifact: &Checkpoint, id: TensorId, source: &Checkpoint, partner: TensorId) -> Expect {
    let same_dtype = artifact.tensor(id).dtype == source.tensor(partner).dtype;
    match (&artifact.encodings[id as usize], &source.encodings[partner as usize]) {
        (Encoding::Plain, Encoding::Plain) if same_dtype => Expect::Bytes,
        (Encoding::Codes(_), _) => Expect::Nearest,
        _ => Expect::Cast { exact: false },
    }
}
