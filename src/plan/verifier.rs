//! The invariants of a plan, checked after every pass.
//!
//! 1. Every output's expression has a type, and it is the declared one.
//! 2. Output names are unique.
//! 3. Every source tensor feeds an output or is dropped with a reason, never both and never neither.
//! 4. A stated fate and exactness agree with the expression.
//! 5. The parts of one quantization follow one another, codes first, scales among them, and lie in one shard.
//! 6. Once placed: every output has a place, places do not overlap, leave no hole, start after the header and end at
//!    the end of the file.

use super::cost::same_quantization;
use super::expr::Part;
use super::{Dropped, Exactness, Expr, Fate, Output, Plan, type_text};
use crate::dtype::scheme::Rule;
use std::collections::BTreeMap;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} (tensor {tensor:?})")]
pub struct Violation {
    /// The tensor at fault.
    pub tensor: String,
    /// Which invariant is broken, and how.
    pub what: String,
}

fn violation(tensor: &str, what: impl Into<String>) -> Violation {
    Violation { tensor: tensor.to_owned(), what: what.into() }
}

/// Checks `plan` against every invariant of the module.
pub fn verify(plan: &Plan) -> Result<(), Violation> {
    let mut names = BTreeMap::new();
    for (output, i) in plan.outputs.iter().zip(0usize..) {
        verify_output(plan, output)?;
        if names.insert(output.name.as_ref(), i).is_some() {
            return Err(violation(&output.name, "two outputs have the same name"));
        }
    }
    verify_conservation(plan)?;
    verify_pairs(plan)?;
    if plan.shards.is_empty() { Ok(()) } else { verify_places(plan) }
}

fn verify_output(plan: &Plan, output: &Output) -> Result<(), Violation> {
    let mut bad_input = None;
    output.expr.for_each_load(&mut |id| {
        if id as usize >= plan.inputs.len() {
            bad_input = Some(id);
        }
    });
    if let Some(id) = bad_input {
        return Err(violation(
            &output.name,
            format!("the expression reads source tensor number {id} of {}", plan.inputs.len()),
        ));
    }
    let ty = output.expr.ty(&plan.inputs).map_err(|what| violation(&output.name, what))?;
    if ty != output.ty {
        return Err(violation(&output.name, format!("declared as {} but computed as {ty}", output.ty)));
    }
    let expr = match &output.expr {
        // A rank's part is what the whole is.
        Expr::Slice { value, .. } => value,
        expr => expr,
    };
    let lawful = match (expr, output.fate, output.exactness) {
        // A slice of a copy is no longer the tensor, but every byte of it is.
        (Expr::Load(_), Fate::Kept, Exactness::Bitwise) => true,
        (Expr::Quantize { scheme, .. }, Fate::Reencoded, exactness) => {
            scheme.rule == Rule::Given && exactness != Exactness::Lossy
                || scheme.rule == Rule::Fp4Blocks && exactness == Exactness::Rounding
        }
        (Expr::Quantize { scheme, .. }, Fate::Quantized, Exactness::Lossy) => scheme.rule != Rule::Given,
        (Expr::Constant { .. }, Fate::Quantized | Fate::Reencoded | Fate::Kept, _) => true,
        (Expr::ScaleF32 { .. } | Expr::ScaleBytes { .. }, Fate::Reencoded, Exactness::Bitwise) => true,
        (Expr::Reciprocal(_), Fate::Reencoded, Exactness::Rounding) => true,
        // A verified copy is still a copy.
        (Expr::ScaleF32 { pow2: true, .. }, Fate::Kept, Exactness::Bitwise) => true,
        (Expr::Cast { .. } | Expr::Dequantize { .. }, Fate::Reencoded, exactness) => {
            exactness != Exactness::Lossy
        }
        // Values between passes.
        (Expr::View { .. }, Fate::Kept | Fate::Reencoded, exactness) => exactness != Exactness::Lossy,
        _ => false,
    };
    if !lawful {
        return Err(violation(
            &output.name,
            format!("{} and {} do not describe the expression", output.fate.name(), output.exactness.name()),
        ));
    }
    Ok(())
}

fn verify_conservation(plan: &Plan) -> Result<(), Violation> {
    let mut used = vec![false; plan.inputs.len()];
    for output in &plan.outputs {
        output.expr.for_each_load(&mut |id| used[id as usize] = true);
    }
    for Dropped { source, reason } in &plan.drops {
        let input = &plan.inputs[*source as usize];
        if reason.is_empty() {
            return Err(violation(&input.name, "dropped without a reason"));
        }
        if std::mem::replace(&mut used[*source as usize], true) {
            return Err(violation(&input.name, "dropped, and also used or dropped again"));
        }
    }
    match used.iter().position(|used| !used) {
        Some(id) => Err(violation(&plan.inputs[id].name, "a source tensor is neither used nor dropped")),
        None => Ok(()),
    }
}

/// Parts of one quantization are neighbours, codes first, and lie in one shard.
fn verify_pairs(plan: &Plan) -> Result<(), Violation> {
    let part = |output: &Output| match &output.expr {
        Expr::Quantize { part, .. } => Some(*part),
        Expr::Slice { value, .. } => match &**value {
            Expr::Quantize { part, .. } => Some(*part),
            _ => None,
        },
        _ => None,
    };
    let mut rest = &plan.outputs[..];
    while let Some((first, after)) = rest.split_first() {
        let Some(kind) = part(first) else {
            rest = after;
            continue;
        };
        if kind != Part::Codes {
            return Err(violation(&first.name, "scales without codes before them"));
        }
        let count = after.iter().take_while(|o| same_quantization(&first.expr, &o.expr)).count();
        let (parts, others) = after.split_at(count);
        let mut seen = vec![Part::Codes];
        for output in parts {
            if output.place.map(|p| p.shard) != first.place.map(|p| p.shard) {
                return Err(violation(&first.name, "codes and scales lie in different shards"));
            }
            let Some(kind) = part(output) else { continue };
            if seen.contains(&kind) {
                return Err(violation(&output.name, "the same part of a quantization twice"));
            }
            seen.push(kind);
        }
        if !seen.contains(&Part::Scales) {
            return Err(violation(&first.name, "codes without scales"));
        }
        rest = others;
    }
    Ok(())
}

fn verify_places(plan: &Plan) -> Result<(), Violation> {
    if let Some(output) =
        plan.outputs.iter().find(|o| o.place.is_none_or(|p| p.shard as usize >= plan.shards.len()))
    {
        return Err(violation(&output.name, "has no place in any shard"));
    }
    for (members, shard) in plan.shard_members().iter().zip(&plan.shards) {
        let mut end = shard.header;
        for i in members {
            let output = &plan.outputs[*i as usize];
            let offset = output.place.map_or(0, |p| p.offset);
            if offset != end {
                return Err(violation(
                    &output.name,
                    format!(
                        "{} starts at byte {offset} of {}, but the tensor before it ends at {end}",
                        type_text(output.ty.dtype, &output.ty.shape),
                        shard.name
                    ),
                ));
            }
            end += output.bytes();
        }
        if end != shard.bytes {
            return Err(violation(&shard.name, format!("the tensors end at byte {end} of {}", shard.bytes)));
        }
    }
    Ok(())
}
