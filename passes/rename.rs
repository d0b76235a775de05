//! Gives tensors the names that the engine registers.
//!
//! # What it does
//! The passes before it call codes `weight`, scales `weight_scale` and zero points `weight_zero_point`; engines that want
//! `weight_scale_inv`, `weight_packed`, `qweight` or `scales` get that. A tensor that a loader wants under a second name too
//! (embedding and head of a draft model) is written twice.
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
use crate::dtype::scheme::Scheme;
use crate::error::Result;
use crate::plan::{Exactness, Output, Plan};
use crate::targets::engine::Names;
use std::sync::Arc;

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
        let mut last: Option<(Scheme, Names)> = None;
        for output in plan.outputs.iter_mut() {
            let Some(scheme) = output.scheme else { continue };
            let names = match last {
                Some((s, names)) if s == scheme => names,
                _ => {
                    let names = cx.engine.names(cx.preset, scheme, cx.checkpoint.family.has_native_names());
                    last = Some((scheme, names));
                    names
                }
            };
            let Some((module, param)) = output.name.rsplit_once('.') else { continue };
            let wanted = match param {
                "weight" => names.codes,
                "weight_scale" => names.scales,
                "weight_zero_point" => names.zeros,
                _ => continue,
            };
            if wanted != param {
                output.name = format!("{module}.{wanted}").into();
                outcome.rewrites += 1;
            }
        }
        let present = |plan: &Plan, name: &str| plan.outputs.iter().position(|o| o.name.as_ref() == name);
        let copies = if cx.preset.native { &[] } else { cx.engine.copies(cx.checkpoint) };
        for (origin, name) in copies {
            if let (Some(at), None) = (present(plan, origin), present(plan, name)) {
                let copy = Output { name: Arc::from(*name), ..plan.outputs[at].clone() };
                plan.outputs.push(copy);
                outcome.rewrites += 1;
            }
        }
        Ok(outcome)
    }
}
