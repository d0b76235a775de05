//! Turns stored codes and scales into one decoded weight.
//!
//! # What it does
//! A weight that the source stores as codes with scales becomes one output, `dequantize(codes, scales)`, of type F32;
//! its scale tensor is no longer an output of its own. Block sizes come from the configuration, never from dividing
//! shapes, so ragged tails (576 rows with 5 scale rows) are right.
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
use crate::error::Result;
use crate::plan::{Exactness, Expr, Fate, Plan, Ty};
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
        let decoded: Arc<str> = "decoded".into();
        for output in &mut plan.outputs {
            let Expr::Load(id) = output.expr else { continue };
            match &cx.checkpoint.encodings[id as usize] {
                Encoding::Plain | Encoding::ScaleOf { .. } => {}
                Encoding::Codes(stored) => {
                    output.expr = Expr::Dequantize(*stored);
                    let shape = stored.shape(&plan.inputs).map_err(|why| {
                        Error::internal("decode-shape", "codes and scales do not fit").tensor(&output.name).found(why)
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
        }
        plan.outputs.retain(|o| {
            let Expr::Load(id) = o.expr else { return true };
            !matches!(cx.checkpoint.encodings[id as usize], Encoding::ScaleOf { .. })
        });
        Ok(outcome)
    }
}
