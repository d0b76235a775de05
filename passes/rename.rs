//! Gives tensors the names that the engine registers.
//!
//! # What it does
//! The passes before it call a scale `weight_scale`; engines that want `weight_scale_inv` get that.
//!
//! # Why a chip needs it
//! vLLM and vllm-ascend skip a scale whose name they do not know and leave the parameter uninitialised, without a word.
//!
//! # Exactness
//! Bitwise: names only.
//!
//! # Preconditions
//! Companions exist, under the names that `quantize` gives.

use super::{Context, Outcome, Pass, PassSpec};
use crate::error::Result;
use crate::plan::{Exactness, Plan};

/// The pass.
pub struct Rename;

static SPEC: PassSpec = PassSpec {
    id: "rename",
    summary: "tensors get the names that the engine registers",
    exactness: Exactness::Bitwise,
    after: &["quantize"],
    source: include_str!("rename.rs"),
};

impl Pass for Rename {
    fn spec(&self) -> &'static PassSpec {
        &SPEC
    }

    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let suffix = cx.engine.scale_suffix(cx.preset);
        if suffix == "weight_scale" {
            return Ok(outcome);
        }
        for output in plan.outputs.iter_mut().filter(|o| o.scheme.is_some()) {
            if let Some(module) = output.name.strip_suffix(".weight_scale") {
                output.name = format!("{module}.{suffix}").into();
                outcome.rewrites += 1;
            }
        }
        Ok(outcome)
    }
}
