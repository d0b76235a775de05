//! Leaves out stray buffers, each with its reason.
//!
//! # What it does
//! Rotary tables (`rotary_emb.inv_freq`) that some releases ship, although every engine computes them, leave the plan; so
//! do static scales of activations and of the KV cache (`input_scale`, `k_scale`), which belong to the source's own
//! quantization.
//!
//! # Why a chip needs it
//! Loaders that check names stop at a tensor they do not register.
//!
//! # Exactness
//! Bitwise: no tensor that stays is changed.
//!
//! # Preconditions
//! The tensor's role says that it is such a buffer; nothing is dropped by guess.

use super::{Context, Outcome, Pass, PassSpec};
use crate::checkpoint::{Kind, Part};
use crate::error::Result;
use crate::plan::{Dropped, Exactness, Expr, Plan};
use std::sync::Arc;

/// The pass.
pub struct Drop;

static SPEC: PassSpec = PassSpec {
    id: "drop",
    summary: "stray buffers leave the plan, each with its reason",
    exactness: Exactness::Bitwise,
    after: &["decode-source"],
    source: include_str!("drop.rs"),
};

impl Pass for Drop {
    fn spec(&self) -> &'static PassSpec {
        &SPEC
    }

    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome> {
        let rotary: Arc<str> = "rotary table: every engine computes it from the configuration".into();
        let activation: Arc<str> =
            "static scale of activations or of the KV cache: belongs to the quantization of the source"
                .into();
        let mut drops = Vec::new();
        plan.outputs.retain(|output| {
            let Expr::Load(source) = output.expr else { return true };
            let role = cx.checkpoint.family.role(&output.name, &output.ty.shape);
            let static_scale = role.part == Part::ActivationScale || output.name.ends_with(".output_scale");
            let reason = match role.kind {
                Kind::RotaryBuffer => &rotary,
                _ if static_scale && !cx.preset.native => &activation,
                _ => return true,
            };
            drops.push(Dropped { source, reason: reason.clone() });
            false
        });
        let rewrites = drops.len() as u64;
        plan.drops.extend(drops);
        Ok(Outcome { rewrites, notes: Vec::new() })
    }
}
