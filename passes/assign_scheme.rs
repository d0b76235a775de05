//! Decides the fate of every tensor.
//!
//! # What it does
//! A linear weight that the engine multiplies in the chip's quantized format is given the target's scheme; everything
//! else keeps its float form, with the reason: embeddings, norms and routers, what the engine wants in float, what the
//! recipe ignores. The parts of a fused module (q, k, v; gate, up; q_a, kv_a) share one fate.
//!
//! # Why a chip needs it
//! An engine builds each module either quantized or not. A weight on the wrong side of that line loads as garbage or not
//! at all, and a fused module with mixed parts is refused.
//!
//! # Exactness
//! Bitwise: it only decides. (Biases that an engine stores in F32 are widened, which is exact.)
//!
//! # Preconditions
//! Weights are decoded. Every pattern of the recipe matches something.

use super::{Context, Outcome, Pass, PassSpec};
use crate::checkpoint::{Kind, Part, Role, fused_group, looks_linear, module_of};
use crate::dtype::Dtype;
use crate::dtype::scheme::{Granularity, Scheme};
use crate::error::{Error, Result};
use crate::plan::recipe::Pattern;
use crate::plan::{Exactness, Expr, Fate, Output, Plan, Ty};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The pass.
pub struct AssignScheme;

static SPEC: PassSpec = PassSpec {
    id: "assign-scheme",
    summary: "recipe, target and family decide every tensor's fate",
    exactness: Exactness::Bitwise,
    after: &["decode-source", "drop"],
    source: include_str!("assign_scheme.rs"),
};

/// Why a tensor is not quantized; the texts are what people read in plan and manifest.
type Reason = std::borrow::Cow<'static, str>;

impl Pass for AssignScheme {
    fn spec(&self) -> &'static PassSpec {
        &SPEC
    }

    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let roles: Vec<Role> =
            plan.outputs.iter().map(|o| cx.checkpoint.family.role(&o.name, &o.ty.shape)).collect();
        let patterns = Patterns::compile(cx)?;
        patterns.check_all_match(plan)?;

        let native = plan.outputs.iter().any(|o| matches!(o.expr, Expr::Dequantize { .. }));
        let mut verdicts: Vec<std::result::Result<Scheme, Reason>> = Vec::with_capacity(plan.outputs.len());
        for (output, role) in plan.outputs.iter().zip(&roles) {
            verdicts.push(verdict(output, role, cx, &patterns, native));
        }
        unify_fused_groups(plan, &roles, &mut verdicts, cx, &mut outcome)?;

        let mut texts: BTreeMap<Reason, Arc<str>> = BTreeMap::new();
        let quantized: Arc<str> = format!("linear weight, {}", cx.preset.name).into();
        let mut inferred = 0u64;
        for ((output, role), verdict) in plan.outputs.iter_mut().zip(&roles).zip(verdicts) {
            match verdict {
                Ok(scheme) => {
                    output.scheme = Some(scheme);
                    output.reason = quantized.clone();
                    inferred += u64::from(role.kind == Kind::Other);
                    outcome.rewrites += 1;
                }
                Err(reason) => {
                    output.reason =
                        texts.entry(reason).or_insert_with_key(|text| Arc::from(text.as_ref())).clone();
                    widen_bias(output, role, cx);
                }
            }
        }
        if inferred > 0 {
            outcome.notes.push(format!(
                "{inferred} matrices of unknown role are taken for linear weights by name and shape; use --ignore for those that are not"
            ));
        }
        Ok(outcome)
    }
}

fn verdict(
    output: &Output,
    role: &Role,
    cx: &Context<'_>,
    patterns: &Patterns,
    native: bool,
) -> std::result::Result<Scheme, Reason> {
    let decoded = matches!(output.expr, Expr::Dequantize { .. });
    if !decoded && !output.ty.dtype.is_plain_float() {
        return Err(format!("{} data", output.ty.dtype).into());
    }
    if let Some(reason) = not_a_linear(output, role) {
        return Err(reason);
    }
    if patterns.ignored(&output.name) {
        return Err("left out by the recipe".into());
    }
    let Some(scheme) = cx.preset.encoding else {
        return Err(if decoded { "decoded to BF16".into() } else { "float already".into() });
    };
    if let Some(reason) = cx.engine.float_reason(cx.preset, role) {
        return Err(reason.into());
    }
    let native_target = cx.preset.format == "fp8";
    if native_target && native && !decoded {
        return Err("float in a source that is FP8 elsewhere".into());
    }
    Ok(scheme)
}

/// Why the tensor is no linear weight, by role, name and shape.
fn not_a_linear(output: &Output, role: &Role) -> Option<Reason> {
    let reason = match role.kind {
        Kind::Embed => "embedding",
        Kind::Norm | Kind::IndexerNorm => "norm",
        Kind::Router if role.part == Part::Weight => "router",
        Kind::Router => "router bias",
        _ if role.part == Part::Bias => "bias",
        _ if output.ty.shape.len() > 2 => "more than two dimensions",
        _ if output.ty.shape.len() < 2 => "vector",
        _ if role.part != Part::Weight => "no weight by its name",
        Kind::Other if !looks_linear(&output.name) => "unknown role",
        _ => return None,
    };
    Some(reason.into())
}

fn widen_bias(output: &mut Output, role: &Role, cx: &Context<'_>) {
    let no_linear = matches!(role.kind, Kind::Norm | Kind::IndexerNorm | Kind::Router);
    if !cx.engine.bias_in_f32() || role.part != Part::Bias || no_linear || output.ty.shape.len() != 1 {
        return;
    }
    // A convolution has a bias too; a linear's weight is a matrix.
    let weight = cx.checkpoint.find(&format!("{}.weight", module_of(&output.name)));
    let of_matrix = weight.is_some_and(|id| cx.checkpoint.tensor(id).shape.len() == 2);
    if of_matrix && matches!(output.ty.dtype, Dtype::BF16 | Dtype::F16) {
        output.expr = Expr::Cast { value: Box::new(output.expr.clone()), to: Dtype::F32 };
        output.ty = Ty { dtype: Dtype::F32, shape: output.ty.shape.clone() };
        output.fate = Fate::Reencoded;
        output.exactness = Exactness::Bitwise;
        output.reason = "bias, stored in F32 for this engine".into();
    }
}

/// Gives the parts of each fused module one fate, or says why that cannot be.
fn unify_fused_groups(
    plan: &Plan,
    roles: &[Role],
    verdicts: &mut [std::result::Result<Scheme, Reason>],
    cx: &Context<'_>,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut groups: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    for (i, (output, role)) in plan.outputs.iter().zip(roles).enumerate() {
        if role.part == Part::Weight
            && output.ty.shape.len() == 2
            && let Some(group) = fused_group(role, &output.name)
        {
            groups.entry(group.key).or_default().push((group.part, i));
        }
    }
    for mut members in groups.into_values() {
        members.sort_unstable();
        let members: Vec<usize> = members.into_iter().map(|(_, i)| i).collect();
        let quantized = members.iter().filter(|i| verdicts[**i].is_ok()).count();
        if quantized == 0 {
            continue;
        }
        if quantized < members.len() {
            let [first, rest] = [members[0], members[members.len() - 1]];
            let float = members.iter().copied().find(|i| verdicts[*i].is_err()).unwrap_or(first);
            let other = members.iter().copied().find(|i| verdicts[*i].is_ok()).unwrap_or(rest);
            return Err(Error::usage(
                "fused-group-split",
                "the parts of a fused module must share one scheme",
            )
            .tensor(&plan.outputs[float].name)
            .expected(format!(
                "the same fate as {}, which the engine fuses with it",
                plan.outputs[other].name
            ))
            .found("one part quantized, another left in float")
            .fix("let --ignore and --include name all parts of the fused module or none"));
        }
        if let Some((i, rows, block)) = unaligned_part(plan, &members, verdicts) {
            if is_native_block(&plan.outputs[i], verdicts[i].as_ref().ok()) {
                outcome.notes.push(format!(
                    "{} passes through with {rows} rows inside a fused module, no multiple of {block}: vLLM refuses such parts; --ignore its module to decode it",
                    module_of(&plan.outputs[i].name)
                ));
                continue;
            }
            outcome.notes.push(format!(
                "{} keeps its float form: {rows} rows are no multiple of the {block}-row blocks inside a fused module",
                module_of(&plan.outputs[i].name)
            ));
            for i in members {
                verdicts[i] = Err("a part of its fused module is not aligned to the scale blocks".into());
            }
        }
    }
    // A recipe that leaves nothing to quantize is a mistake, unless the target wants floats.
    let all_float = verdicts.iter().all(std::result::Result::is_err);
    if all_float && cx.preset.encoding.is_some() {
        outcome.notes.push("no tensor is quantized: every weight keeps its float form".to_owned());
    }
    Ok(())
}

/// The first part of a fused module, the last one excepted, whose rows do not fill whole scale blocks.
fn unaligned_part(
    plan: &Plan,
    members: &[usize],
    verdicts: &[std::result::Result<Scheme, Reason>],
) -> Option<(usize, u64, u32)> {
    let (_, parts) = members.split_last()?;
    parts.iter().find_map(|i| match verdicts[*i].as_ref().ok()?.granularity {
        Granularity::Block { rows, .. } => {
            let n = plan.outputs[*i].ty.matrix()[0];
            (!n.is_multiple_of(u64::from(rows))).then_some((*i, n, rows))
        }
        _ => None,
    })
}

/// Whether the source already stores these very blocks: then the engine loads them as it always did.
fn is_native_block(output: &Output, scheme: Option<&Scheme>) -> bool {
    match (&output.expr, scheme) {
        (Expr::Dequantize { scheme: source, .. }, Some(target)) => source.granularity == target.granularity,
        _ => false,
    }
}

struct Patterns {
    include: Vec<Pattern>,
    ignore: Vec<Pattern>,
}

impl Patterns {
    fn compile(cx: &Context<'_>) -> Result<Patterns> {
        let compile = |list: &[String]| list.iter().map(|p| Pattern::new(p)).collect::<Result<Vec<_>>>();
        Ok(Patterns { include: compile(&cx.recipe.include)?, ignore: compile(&cx.recipe.ignore)? })
    }

    fn ignored(&self, name: &str) -> bool {
        let module = module_of(name);
        self.ignore.iter().any(|p| p.matches(name, module))
            || (!self.include.is_empty() && !self.include.iter().any(|p| p.matches(name, module)))
    }

    fn check_all_match(&self, plan: &Plan) -> Result<()> {
        for pattern in self.include.iter().chain(&self.ignore) {
            if !plan.outputs.iter().any(|o| pattern.matches(&o.name, module_of(&o.name))) {
                return Err(Error::usage(
                    "pattern-matches-nothing",
                    "a pattern matches no tensor and no module",
                )
                .expected("an exact name, a glob, or re:REGEX that matches at the start of a name")
                .found(pattern.text())
                .fix("list the names with `silicast plan`, then correct the pattern"));
            }
        }
        Ok(())
    }
}
