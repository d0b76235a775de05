//! Turns stored codes and scales into one decoded weight.
//!
//! # What it does
//! A weight that the source stores as codes with scales becomes one output, `dequantize(codes, scales)`, of type F32;
//! its scales, zero points and global scale are no longer outputs of their own. FP8 blocks of any size, UE8M0 in F32, U8
//! or F8_E8M0, INT4 and INT8 in every packing, FP4 in pairs or blocks, NVFP4, GPTQ and AWQ are all the same afterwards.
//! Block sizes come from the configuration, never from dividing shapes, so ragged tails (576 rows with 5 scale rows) are
//! right. What merely repeats the header (shapes of packed weights, neutral factors) is dropped with its reason.
//! Nothing is decoded for a scheme that keeps the source as it is.
//!
//! # Why a chip needs it
//! Every later decision is about values. FP8 that a chip cannot multiply, UE8M0 scales that its engine cannot read and
//! INT8 that it can are all the same to the passes that follow.
//!
//! # Exactness
//! Rounding: a decoded value is `f32(code) * f32(scale)`, rounded once to F32. With power-of-two scales it is exact.
//! Nothing goes through BF16.
//!
//! # Preconditions
//! The reader knows the encoding; one that it does not know is refused here, with its name.

use super::{Context, Outcome, Pass, PassSpec};
use crate::checkpoint::Encoding;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::plan::{Dropped, Exactness, Expr, Fate, Plan, Ty};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The pass.
pub struct DecodeSource;

static SPEC: PassSpec = PassSpec {
    id: "decode-source",
    summary: "stored codes and scales become one decoded weight",
    exactness: Exactness::Rounding,
    after: &[],
    source: include_str!("decode_source.rs"),
};

impl Pass for DecodeSource {
    fn spec(&self) -> &'static PassSpec {
        &SPEC
    }

    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        if cx.preset.native {
            return Ok(outcome);
        }
        let decoded: Arc<str> = "decoded".into();
        let mut reasons: BTreeMap<&str, Arc<str>> = BTreeMap::new();
        let mut kept = Vec::with_capacity(plan.outputs.len());
        for mut output in std::mem::take(&mut plan.outputs) {
            let Expr::Load(id) = output.expr else {
                kept.push(output);
                continue;
            };
            match &cx.checkpoint.encodings[id as usize] {
                Encoding::Plain => {}
                Encoding::ScaleOf { .. } => continue,
                Encoding::Redundant { what, .. } => {
                    let reason = reasons.entry(what).or_insert_with(|| Arc::from(*what)).clone();
                    plan.drops.push(Dropped { source: id, reason });
                    continue;
                }
                Encoding::Codes(stored) => {
                    output.expr = Expr::Dequantize(*stored);
                    let shape = stored.shape(&plan.inputs).map_err(|why| {
                        Error::internal("decode-shape", "codes and scales do not fit each other")
                            .tensor(&output.name)
                            .found(why)
                    })?;
                    output.ty = Ty { dtype: Dtype::F32, shape };
                    output.name = value_name(&output.name);
                    output.fate = Fate::Reencoded;
                    output.exactness = Exactness::Rounding;
                    output.reason = decoded.clone();
                    outcome.rewrites += 1;
                }
                Encoding::OffsetOf { .. } | Encoding::Unsupported { .. } => {
                    cx.checkpoint.require_decodable(id)?
                }
            }
            kept.push(output);
        }
        plan.outputs = kept;
        Ok(outcome)
    }
}

/// The name of a weight whose codes are called `name`: `X.weight_packed` and `X.qweight` hold `X.weight`, and
/// `gate_up_proj_blocks` holds `gate_up_proj`.
fn value_name(name: &Arc<str>) -> Arc<str> {
    for packed in [".weight_packed", ".qweight"] {
        if let Some(module) = name.strip_suffix(packed) {
            return format!("{module}.weight").into();
        }
    }
    name.strip_suffix("_blocks").map_or_else(|| name.clone(), Arc::from)
}
