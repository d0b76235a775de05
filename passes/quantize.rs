//! Carries out what was decided: quantizers, lossless re-encodes, float forms.
//!
//! # What it does
//! A weight with a scheme becomes codes, scales and whatever else the loader registers beside them. Where no quantizer is
//! needed none runs: a source that is stored in that very encoding passes through byte for byte, scales in another format
//! are converted exactly; FP8 with power-of-two block scales becomes MXFP8 by repeating exponent bytes; MXFP4 and grouped
//! integers are laid out anew, codes untouched. A decoded weight without a scheme is rounded once to the float format of
//! the chip.
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
use crate::checkpoint::{fused_group, module_of};
use crate::dtype::Dtype;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::error::{Error, Result};
use crate::plan::expr::{Constant, Global, Part, part_type};
use crate::plan::{Exactness, Expr, Fate, Output, Plan, Stored, Ty};
use crate::targets::engine::{Companion, Content};
use std::collections::BTreeMap;
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
        if cx.preset.native {
            return Ok(outcome);
        }
        let outputs = std::mem::take(&mut plan.outputs);
        let fused = fused_values(&outputs, cx);
        plan.outputs.reserve(outputs.len() * 2);
        for output in outputs {
            let Some(scheme) = output.scheme else {
                match as_stored(&output, plan, cx) {
                    Some(kept) => plan.outputs.extend(kept),
                    None => plan.outputs.push(to_float(output, cx, &mut outcome)),
                }
                continue;
            };
            outcome.rewrites += 1;
            let name = output.name.clone();
            let weight = Weight { output, scheme, cx };
            match weight.push(plan, &fused) {
                Ok(()) => {}
                Err(why) => {
                    return Err(Error::internal("quantize-shape", "the scheme does not fit the weight")
                        .tensor(&name)
                        .found(why));
                }
            }
        }
        Ok(outcome)
    }
}

/// The values of each fused module whose scheme has a tensor-wide global, by the key of the module.
fn fused_values(outputs: &[Output], cx: &Context<'_>) -> BTreeMap<String, Vec<Expr>> {
    let mut fused: BTreeMap<String, Vec<Expr>> = BTreeMap::new();
    for output in outputs.iter().filter(|o| o.scheme.is_some_and(|s| s.rule == Rule::Nvfp4)) {
        if let Some(key) = fused_key(output, cx) {
            fused.entry(key).or_default().push(output.expr.clone());
        }
    }
    fused
}

fn fused_key(output: &Output, cx: &Context<'_>) -> Option<String> {
    fused_group(&cx.checkpoint.family.role(&output.name, &output.ty.shape), &output.name).map(|g| g.key)
}

/// The source's own tensors of a weight that the engine reads as it is stored, whatever becomes of the others.
fn as_stored(output: &Output, plan: &Plan, cx: &Context<'_>) -> Option<Vec<Output>> {
    let Expr::Dequantize(stored) = &output.expr else { return None };
    let role = cx.checkpoint.family.role(&output.name, &output.ty.shape);
    let reason: Arc<str> = cx.engine.keeps_stored(cx.preset, &role, cx.checkpoint)?.into();
    let kept = stored.tensors().map(|id| Output {
        name: plan.inputs[id as usize].name.clone(),
        ty: plan.input_ty(id),
        expr: Expr::Load(id),
        fate: Fate::Kept,
        exactness: Exactness::Bitwise,
        reason: reason.clone(),
        ..output.clone()
    });
    Some(kept.collect())
}

/// A decoded weight that stays float is stored in the float format of the chip; so is every BF16 tensor of a chip that
/// has none.
fn to_float(mut output: Output, cx: &Context<'_>, outcome: &mut Outcome) -> Output {
    let float = cx.target.float;
    let plain = output.ty.dtype;
    let to = match &output.expr {
        Expr::Dequantize(_) => float,
        Expr::View { value, .. } if matches!(**value, Expr::Dequantize(_)) => float,
        Expr::View { .. } if plain == Dtype::BF16 => float,
        Expr::View { .. } => plain,
        Expr::Load(_) if plain == Dtype::BF16 && float != Dtype::BF16 => float,
        _ => return output,
    };
    // Another layout of the same floats changes none of them.
    output.exactness = if to == plain { Exactness::Bitwise } else { Exactness::Rounding };
    output.fate = Fate::Reencoded;
    output.expr = Expr::Cast { value: Box::new(output.expr), to };
    output.ty = Ty { dtype: to, shape: output.ty.shape };
    outcome.rewrites += 1;
    output
}

/// A weight on its way into its scheme.
struct Weight<'a> {
    output: Output,
    scheme: Scheme,
    cx: &'a Context<'a>,
}

/// What one part becomes.
struct Made {
    expr: Expr,
    fate: Fate,
    exactness: Exactness,
    reason: Arc<str>,
}

impl Weight<'_> {
    /// Adds codes, scales and companions to the plan.
    fn push(self, plan: &mut Plan, fused: &BTreeMap<String, Vec<Expr>>) -> std::result::Result<(), String> {
        let [n, k] = self.output.ty.matrix();
        let scheme = self.scheme;
        let stored = match &self.output.expr {
            Expr::Dequantize(stored) => Some(*stored),
            _ => None,
        };
        let passed = stored.and_then(|stored| self.pass_through(&stored, plan));
        let (codes, scales, zeros, global) = match passed {
            Some(parts) => parts,
            None => self.computed(fused),
        };
        let has_zeros = zeros.is_some();
        let module = module_of(&self.output.name).to_owned();
        let mut add = |suffix: &str, made: Made| -> std::result::Result<(), String> {
            let ty = made.expr.ty(&plan.inputs)?;
            plan.outputs.push(Output {
                name: format!("{module}.{suffix}").into(),
                ty,
                expr: made.expr,
                scheme: Some(scheme),
                fate: made.fate,
                exactness: made.exactness,
                reason: made.reason,
                place: None,
            });
            Ok(())
        };
        let beside: Arc<str> = self.output.reason.clone();
        let fate = if codes.fate == Fate::Kept { Fate::Reencoded } else { codes.fate };
        let exactness = if codes.fate == Fate::Kept { Exactness::Bitwise } else { codes.exactness };
        let is_computed = matches!(codes.expr, Expr::Quantize { .. });
        let value = self.output.expr.clone();
        add("weight", codes)?;
        add("weight_scale", scales)?;
        if let Some(zeros) = zeros {
            add("weight_zero_point", zeros)?;
        }
        if let Some(global) = global {
            add("weight_global_scale", global)?;
        }
        let role = self.cx.checkpoint.family.role(&self.output.name, &self.output.ty.shape);
        let mut companions = self.cx.engine.companions(self.cx.preset, &role, scheme, [n, k], has_zeros);
        // What the quantizer makes stands together.
        companions.sort_by_key(|c| matches!(c.content, Content::Constant(..)));
        for Companion { suffix, content } in companions {
            let expr = match content {
                Content::Constant(ty, constant) => Expr::Constant { ty, constant },
                Content::Part(_) if !is_computed => continue,
                Content::Part(part) => {
                    Expr::Quantize { part, value: Box::new(value.clone()), peers: Vec::new(), scheme }
                }
            };
            add(suffix, Made { expr, fate, exactness, reason: beside.clone() })?;
        }
        Ok(())
    }

    /// What a quantizer, or a new layout of the source's codes, makes.
    fn computed(&self, fused: &BTreeMap<String, Vec<Expr>>) -> (Made, Made, Option<Made>, Option<Made>) {
        let scheme = self.scheme;
        let value = &self.output.expr;
        let mut peers = Vec::new();
        if scheme.rule == Rule::Nvfp4
            && let Some(all) = fused_key(&self.output, self.cx).and_then(|key| fused.get(&key))
        {
            peers.extend(all.iter().filter(|peer| *peer != value).cloned());
        }
        let source = match value {
            Expr::Dequantize(stored) => Some(stored),
            Expr::View { value, .. } => match &**value {
                Expr::Dequantize(stored) => Some(stored),
                _ => None,
            },
            _ => None,
        };
        let (fate, exactness) = match (scheme.rule, source) {
            (Rule::Given, Some(source)) => {
                let wider = source.scheme.scale == scheme.scale
                    || scheme.scale == Dtype::F32
                    || scheme.scale.bits() == 8 && source.scheme.scale.bits() == 8;
                (Fate::Reencoded, if wider { Exactness::Bitwise } else { Exactness::Rounding })
            }
            (Rule::Fp4Blocks, _) => (Fate::Reencoded, Exactness::Rounding),
            _ => (Fate::Quantized, Exactness::Lossy),
        };
        let reason: Arc<str> = match scheme.rule {
            Rule::Given => "codes kept, laid out anew".into(),
            Rule::Fp4Blocks => {
                "FP4 groups as FP8 blocks: exact where the exponents of a block span at most 14".into()
            }
            _ => self.output.reason.clone(),
        };
        let made = |part: Part| Made {
            expr: Expr::Quantize { part, value: Box::new(value.clone()), peers: peers.clone(), scheme },
            fate,
            exactness,
            reason: reason.clone(),
        };
        let [n, k] = self.output.ty.matrix();
        let asymmetric = match (scheme.rule, source) {
            (Rule::Given, Some(source)) => source.zero.is_some(),
            (rule, _) => rule.is_asymmetric(),
        };
        // Symmetric codes in an asymmetric format have the zero point in the middle.
        let middle = || {
            let (dtype, shape) = scheme.stored_zeros(n, k);
            let expr = Expr::Constant {
                ty: Ty { dtype, shape: shape.into() },
                constant: Constant::Words(0x8888_8888),
            };
            Made { expr, fate, exactness, reason: reason.clone() }
        };
        let wants_zeros = self.cx.preset.is_asymmetric() && !scheme.packing.is_transposed();
        let zeros = match (asymmetric, wants_zeros) {
            (true, _) => Some(made(Part::Zeros)),
            (false, true) => Some(middle()),
            (false, false) => None,
        };
        let global = (scheme.rule == Rule::Nvfp4).then(|| made(Part::Global));
        (made(Part::Codes), made(Part::Scales), zeros, global)
    }

    /// The parts of a weight whose codes are stored as the target wants them.
    fn pass_through(&self, stored: &Stored, plan: &Plan) -> Option<(Made, Made, Option<Made>, Option<Made>)> {
        let (source, target) = (stored.scheme, self.scheme);
        if source.element != target.element || source.packing != target.packing || stored.order.is_some() {
            return None;
        }
        let config = &self.cx.checkpoint.config;
        let promised = config.quantization.as_ref().is_some_and(|q| q.scale_fmt.as_deref() == Some("ue8m0"));
        let exponents = matches!(source.scale, Dtype::F8E8M0 | Dtype::U8);
        let native: Arc<str> = "already in this encoding".into();
        let kept = |expr: Expr| Made {
            expr,
            fate: Fate::Kept,
            exactness: Exactness::Bitwise,
            reason: native.clone(),
        };
        let exact = |expr: Expr, reason: &str| Made {
            expr,
            fate: Fate::Reencoded,
            exactness: Exactness::Bitwise,
            reason: reason.into(),
        };
        let codes = kept(Expr::Load(stored.codes));
        let [n, k] = self.output.ty.matrix();
        if source.granularity != target.granularity {
            // Power-of-two blocks become groups of 32 by repeating the exponent byte.
            let group = target.granularity.group()?;
            let whole = match source.granularity {
                Granularity::Block { cols, .. } => cols.is_multiple_of(group),
                _ => true,
            };
            let pow2 = exponents || promised && source.scale == Dtype::F32;
            let mx = target.element == Dtype::F8E4M3 && target.rule.is_pow2() && target.scale.bits() == 8;
            if !(whole && pow2 && mx) {
                return None;
            }
            let expr = Expr::ScaleBytes {
                scale: stored.scale,
                granularity: source.granularity,
                shape: [n, k],
                group,
                to: target.scale,
            };
            return Some((codes, exact(expr, "exponent bytes repeated for every group"), None, None));
        }
        if stored.zero.is_some() != self.cx.preset.is_asymmetric() {
            return None;
        }
        let zeros = stored.zero.map(|id| kept(Expr::Load(id)));
        let same_shape =
            |id: u32, part: Part| part_type(part, target, n, k).is_ok_and(|ty| ty == plan.input_ty(id));
        let to_f32 = |pow2: bool| {
            // An F32 scale that is only verified is still copied.
            let expr = Expr::ScaleF32 { scale: stored.scale, pow2 };
            match source.scale {
                Dtype::F32 => Made { fate: Fate::Kept, ..exact(expr, "already in this encoding") },
                _ => exact(expr, "scale converted to F32 exactly"),
            }
        };
        if let Some(global) = stored.global {
            let global = match global {
                Global::Divisor(id) if same_shape(id, Part::Global) => kept(Expr::Load(id)),
                Global::Divisor(_) => return None,
                Global::Multiplier(id) => Made {
                    exactness: Exactness::Rounding,
                    ..exact(Expr::Reciprocal(id), "a multiplier as a divisor")
                },
            };
            return (target.rule == Rule::Given)
                .then(|| (codes, kept(Expr::Load(stored.scale)), None, Some(global)));
        }
        let scales = match target.rule {
            // An engine that wants a particular scale rule gets its codes made anew.
            Rule::Amax127Bf16 | Rule::Ct127Bf16 | Rule::MinMax15 => return None,
            Rule::Given if source.scale == target.scale => kept(Expr::Load(stored.scale)),
            Rule::Given => return None,
            _ if target.scale.bits() == 8 && exponents => match source.scale == target.scale {
                true => kept(Expr::Load(stored.scale)),
                false => {
                    let group = target.granularity.group()?;
                    let expr = Expr::ScaleBytes {
                        scale: stored.scale,
                        granularity: source.granularity,
                        shape: [n, k],
                        group,
                        to: target.scale,
                    };
                    exact(expr, "exponent bytes in another dtype")
                }
            },
            _ if target.scale.bits() == 8 => return None,
            Rule::DeepseekUe8m0 | Rule::BestUe8m0 if exponents => to_f32(false),
            Rule::DeepseekUe8m0 | Rule::BestUe8m0 if promised => to_f32(true),
            Rule::DeepseekUe8m0 | Rule::BestUe8m0 => return None,
            _ if exponents => to_f32(false),
            _ if target.packing == Default::default() && target.element.bits() == 8 => {
                kept(Expr::Load(stored.scale))
            }
            _ => return None,
        };
        Some((codes, scales, zeros, None))
    }
}
