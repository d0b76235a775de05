//! The passes, in the one order in which they run.
//!
//! A pass rewrites a plan and never touches bytes. Each has a file whose doc comment is its page in the docs, states
//! its exactness and which passes it follows; the verifier runs after each of them.

pub mod assign_scheme;
pub mod decode_source;
pub mod drop;
pub mod quantize;
pub mod rename;
pub mod shard;
pub mod split_experts;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::plan::recipe::ResolvedRecipe;
use crate::plan::{Exactness, Plan, verifier};
use crate::targets::engine::Engine;
use crate::targets::{Preset, Target};
use std::time::{Duration, Instant};

/// What a pass is.
#[derive(Debug)]
pub struct PassSpec {
    /// Kebab-case id.
    pub id: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// The most that it does to values.
    pub exactness: Exactness,
    /// Passes that must have run before.
    pub after: &'static [&'static str],
    /// The source text, whose module comment is the pass's page in the docs.
    pub source: &'static str,
}

/// What a pass did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Outputs rewritten, dropped or placed.
    pub rewrites: u64,
    /// What a person should know: inferences, fallbacks.
    pub notes: Vec<String>,
}

/// What a pass may look at.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The source.
    pub checkpoint: &'a Checkpoint,
    /// The chip.
    pub target: &'a Target,
    /// The scheme of the target.
    pub preset: &'a Preset,
    /// The engine dialect.
    pub engine: &'a dyn Engine,
    /// What the user asked for.
    pub recipe: &'a ResolvedRecipe,
}

/// A rewrite of the plan.
pub trait Pass: Sync {
    /// What it is.
    fn spec(&self) -> &'static PassSpec;
    /// Rewrites the plan.
    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome>;
}

/// Every pass, in order.
pub const ALL: &[&dyn Pass] = &[
    // Values first: everything after it sees decoded weights, whatever the source's encoding.
    &decode_source::DecodeSource,
    // Before fates are decided, so that nothing decides over a stray buffer.
    &drop::Drop,
    // Every engine reads experts one by one.
    &split_experts::SplitExperts,
    &assign_scheme::AssignScheme,
    &quantize::Quantize,
    // Names last but one: passes above use one vocabulary.
    &rename::Rename,
    // Addresses depend on every name, dtype and shape.
    &shard::Shard,
];

/// A pass that ran.
#[derive(Debug)]
pub struct Ran {
    /// The pass.
    pub spec: &'static PassSpec,
    /// What it did.
    pub outcome: Outcome,
    /// How long it and the verifier took.
    pub time: Duration,
}

/// Runs the passes up to and including `last` (all of them when `None`), verifying after each.
pub fn run(plan: &mut Plan, cx: &Context<'_>, last: Option<&str>) -> Result<Vec<Ran>> {
    let mut ran = Vec::new();
    for pass in ALL {
        let spec = pass.spec();
        let start = Instant::now();
        let outcome = pass.run(plan, cx)?;
        verifier::verify(plan).map_err(|v| {
            Error::internal("plan-invalid", format!("the plan is invalid after pass {}: {}", spec.id, v.what))
                .tensor(&v.tensor)
        })?;
        ran.push(Ran { spec, outcome, time: start.elapsed() });
        if last == Some(spec.id) {
            break;
        }
    }
    Ok(ran)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_satisfies_every_after() {
        let mut seen = Vec::new();
        for pass in ALL {
            let spec = pass.spec();
            for before in spec.after {
                assert!(seen.contains(before), "{} must follow {before}", spec.id);
            }
            assert!(!seen.contains(&spec.id), "{} twice", spec.id);
            for heading in ["# What it does", "# Why a chip needs it", "# Exactness", "# Preconditions"] {
                assert!(spec.source.contains(&format!("//! {heading}")), "{}: no heading {heading}", spec.id);
            }
            seen.push(spec.id);
        }
    }
}
