//! Gives every output its file and byte range.
//!
//! # What it does
//! Tensors are dealt to shards in natural name order, up to the target's limit of payload; a weight and its companions
//! stay together. In a shard they lie in the order of the safetensors writer: dtype descending, then name.
//!
//! # Why a chip needs it
//! Addresses that are known before the first weight is read are what lets tiles be written in any order, by any number
//! of threads or machines, and resumed.
//!
//! # Exactness
//! Bitwise: addresses only.
//!
//! # Preconditions
//! Names, dtypes and shapes are final.

use super::{Context, Outcome, Pass, PassSpec};
use crate::checkpoint::natural_cmp;
use crate::error::Result;
use crate::plan::{Exactness, Output, Place, Plan, Shard as PlanShard, layout};
use std::collections::BTreeMap;

/// The pass.
pub struct Shard;

static SPEC: PassSpec = PassSpec {
    id: "shard",
    summary: "every output gets its file and byte range",
    exactness: Exactness::Bitwise,
    after: &["rename"],
    source: include_str!("shard.rs"),
};

impl Pass for Shard {
    fn spec(&self) -> &'static PassSpec {
        &SPEC
    }

    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome> {
        let members = distribute(&plan.outputs, cx.recipe.shard_bytes);
        for (shard, list) in (0u32..).zip(&members) {
            let mut entries = layout::entries(plan, list.iter().copied());
            let placed = layout::layout(&mut entries)?;
            let by_name: BTreeMap<&str, u64> =
                entries.iter().map(|e| e.name).zip(placed.offsets.iter().copied()).collect();
            let offsets: Vec<Option<u64>> =
                list.iter().map(|i| by_name.get(plan.outputs[*i].name.as_ref()).copied()).collect();
            for (i, offset) in list.iter().zip(offsets) {
                plan.outputs[*i].place = offset.map(|offset| Place { shard, offset });
            }
            let name = cx.engine.shard_name(cx.preset, shard as usize + 1, members.len());
            plan.shards.push(PlanShard { name, header: placed.header_bytes, bytes: placed.file_bytes });
        }
        Ok(Outcome { rewrites: plan.outputs.len() as u64, notes: Vec::new() })
    }
}

/// Indices of outputs by shard: groups in natural order of their first names, a new shard where the next group would
/// exceed `limit`.
fn distribute(outputs: &[Output], limit: u64) -> Vec<Vec<usize>> {
    let mut groups: Vec<(&str, std::ops::Range<usize>)> = Vec::new();
    let mut i = 0;
    while i < outputs.len() {
        let end = i + group_len(&outputs[i..]);
        let names = outputs[i..end].iter().map(|o| o.name.as_ref());
        groups.extend(names.min_by(|a, b| natural_cmp(a, b)).map(|first| (first, i..end)));
        i = end;
    }
    groups.sort_by(|(a, _), (b, _)| natural_cmp(a, b));
    let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0u64;
    for (_, group) in groups {
        let bytes: u64 = outputs[group.clone()].iter().map(Output::bytes).sum();
        if filled > 0 && filled + bytes > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        if let Some(last) = shards.last_mut() {
            last.extend(group);
        }
        filled += bytes;
    }
    shards
}

/// Length of the leading group: a weight and the companions that follow it.
fn group_len(outputs: &[Output]) -> usize {
    match outputs.first() {
        Some(first) if first.scheme.is_some() && !first.is_companion() => {
            1 + outputs[1..].iter().take_while(|o| o.is_companion()).count()
        }
        _ => 1,
    }
}
