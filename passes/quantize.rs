//! Carries out what was decided: quantizers, lossless re-encodes, float forms.
//!
//! # What it does
//! A weight with a scheme becomes codes and scales (and a zero offset where the loader registers one). A source that is
//! stored in that very encoding passes through byte for byte, scales in another format are converted exactly. A decoded
//! weight without a scheme is rounded once to BF16.
//!
//! # Why a chip needs it
//! This is the conversion: codes in the format that the chip multiplies, scales where its engine looks for them.
//!
//! # Exactness
//! Lossy where the quantizer runs; bitwise where codes pass through; rounding where a decoded weight becomes BF16.
//!
//! # Preconditions
//! `assign-scheme` has decided. Power-of-two scales that are merely promised by the configuration are verified one by
//! one during execution.

use super::{Context, Outcome, Pass, PassSpec};
use crate::checkpoint::module_of;
use crate::dtype::Dtype;
use crate::dtype::scheme::{Rule, Scheme};
use crate::error::Result;
use crate::plan::{Exactness, Expr, Fate, Output, Plan, Shape, Ty};
use std::sync::Arc;

/// The pass.
pub struct Quantize;

static SPEC: PassSpec = PassSpec {
    id: "quantize",
    summary: "weights become codes and scales, or pass through where they already are",
    exactness: Exactness::Lossy,
    after: &["assign-scheme"],
    source: include_str!("quantize.rs"),
};

impl Pass for Quantize {
    fn spec(&self) -> &'static PassSpec {
        &SPEC
    }

    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let promised_pow2 = cx
            .checkpoint
            .config
            .quantization
            .as_ref()
            .is_some_and(|q| q.scale_fmt.as_deref() == Some("ue8m0"));
        let outputs = std::mem::take(&mut plan.outputs);
        plan.outputs.reserve(outputs.len() * 2);
        for output in outputs {
            let Some(scheme) = output.scheme else {
                plan.outputs.push(to_float(output, &mut outcome));
                continue;
            };
            outcome.rewrites += 1;
            match pass_through(&output, scheme, promised_pow2) {
                Some(how) => push_pass_through(plan, output, scheme, how),
                None => push_quantized(plan, output, scheme, cx.preset.offset),
            }
        }
        Ok(outcome)
    }
}

/// A decoded weight that stays float is stored in BF16.
fn to_float(mut output: Output, outcome: &mut Outcome) -> Output {
    if matches!(output.expr, Expr::Dequantize { .. }) {
        output.expr = Expr::Cast { value: Box::new(output.expr), to: Dtype::BF16 };
        output.ty = Ty { dtype: Dtype::BF16, shape: output.ty.shape };
        outcome.rewrites += 1;
    }
    output
}

/// How stored scales reach the artifact when the codes pass through.
enum ScaleForm {
    Copy,
    ToF32 { pow2: bool },
}

/// Whether the source's codes are codes of `target` already, and what its scales need.
fn pass_through(output: &Output, target: Scheme, promised_pow2: bool) -> Option<ScaleForm> {
    let Expr::Dequantize { scheme: source, .. } = &output.expr else { return None };
    if source.element != target.element || source.granularity != target.granularity {
        return None;
    }
    let exponent_bytes = matches!(source.scale, Dtype::F8E8M0 | Dtype::U8);
    match target.rule {
        // An engine that wants a particular scale rule gets its codes made anew.
        Rule::Amax127Bf16 | Rule::Ct127Bf16 => None,
        Rule::DeepseekUe8m0 if exponent_bytes => Some(ScaleForm::ToF32 { pow2: false }),
        Rule::DeepseekUe8m0 if promised_pow2 => Some(ScaleForm::ToF32 { pow2: true }),
        Rule::DeepseekUe8m0 => None,
        _ if exponent_bytes => Some(ScaleForm::ToF32 { pow2: false }),
        _ => Some(ScaleForm::Copy),
    }
}

fn companion(weight: &Output, suffix: &str) -> Arc<str> {
    format!("{}.{suffix}", module_of(&weight.name)).into()
}

fn push_pass_through(plan: &mut Plan, weight: Output, scheme: Scheme, how: ScaleForm) {
    let Expr::Dequantize { codes, scale, .. } = weight.expr else { return };
    let native: Arc<str> = "already in this encoding".into();
    let name = companion(&weight, "weight_scale");
    let shape: Shape = plan.inputs[scale as usize].shape.clone();
    let stored = plan.inputs[scale as usize].dtype;
    plan.outputs.push(Output {
        ty: Ty { dtype: scheme.element, shape: weight.ty.shape },
        expr: Expr::Load(codes),
        fate: Fate::Kept,
        exactness: Exactness::Bitwise,
        reason: native.clone(),
        ..weight
    });
    let (dtype, expr, fate) = match how {
        ScaleForm::Copy => (stored, Expr::Load(scale), Fate::Kept),
        // An F32 scale that is only verified is still copied.
        ScaleForm::ToF32 { pow2 } if stored == Dtype::F32 => {
            (stored, Expr::ScaleF32 { scale, pow2 }, Fate::Kept)
        }
        ScaleForm::ToF32 { pow2 } => (Dtype::F32, Expr::ScaleF32 { scale, pow2 }, Fate::Reencoded),
    };
    plan.outputs.push(Output {
        name,
        ty: Ty { dtype, shape },
        expr,
        scheme: Some(scheme),
        fate,
        exactness: Exactness::Bitwise,
        reason: if fate == Fate::Kept { native } else { "scale converted to F32 exactly".into() },
        place: None,
    });
}

fn push_quantized(plan: &mut Plan, weight: Output, scheme: Scheme, offset: bool) {
    let value = Box::new(weight.expr);
    let lossy = |name: Arc<str>, ty: Ty, expr: Expr| Output {
        name,
        ty,
        expr,
        scheme: Some(scheme),
        fate: Fate::Quantized,
        exactness: Exactness::Lossy,
        reason: weight.reason.clone(),
        place: None,
    };
    let [n, k] = weight.ty.matrix();
    let grid: Shape = scheme.granularity.grid(n, k).into();
    let module = module_of(&weight.name);
    let name = |suffix: &str| -> Arc<str> { format!("{module}.{suffix}").into() };
    let codes = Ty { dtype: scheme.element, shape: weight.ty.shape.clone() };
    let scales = Ty { dtype: scheme.scale, shape: grid.clone() };
    let outputs = [
        Some(lossy(weight.name.clone(), codes, Expr::Codes { value: value.clone(), scheme })),
        Some(lossy(name("weight_scale"), scales, Expr::Scales { value, scheme })),
        offset.then(|| {
            let zeros = Ty { dtype: Dtype::F32, shape: grid };
            lossy(name("weight_offset"), zeros.clone(), Expr::Zeros(zeros))
        }),
    ];
    plan.outputs.extend(outputs.into_iter().flatten());
}
