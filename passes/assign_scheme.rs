//! Decides the fate of every tensor.
//!
//! # What it does
//! A linear weight that the engine multiplies in the chip's quantized format is given the target's scheme; everything
//! else keeps its float form, with the reason: embeddings, norms and routers, what the engine wants in float, what the
//! recipe ignores. Routed experts have a scheme of their own where the target says so. The parts of a fused module (q, k,
//! v; gate, up; q_a, kv_a; all experts of a layer) share one fate. Where the source holds integers that the scheme could
//! hold too, its codes and its group size are kept.
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
use crate::checkpoint::{Kind, Part, Role, Scope, fused_group, looks_linear, module_of};
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::error::{Error, Result};
use crate::plan::expr::{self, part_type};
use crate::plan::recipe::Pattern;
use crate::plan::{Exactness, Expr, Fate, Output, Plan, Stored, Ty};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The pass.
pub struct AssignScheme;

static SPEC: PassSpec = PassSpec {
    id: "assign-scheme",
    summary: "recipe, target and family decide every tensor's fate",
    exactness: Exactness::Bitwise,
    after: &["decode-source", "drop", "split-experts"],
    source: include_str!("assign_scheme.rs"),
};

/// Why a tensor is not quantized; the texts are what people read in plan and manifest.
type Reason = std::borrow::Cow<'static, str>;

/// What becomes of a tensor: its scheme, or why it stays float.
type Verdict = std::result::Result<Scheme, Float>;

/// Why a tensor stays float.
#[derive(Clone, Debug)]
struct Float {
    reason: Reason,
    /// Whether its shape is the cause: then the module that it is fused into stays float too.
    shape: bool,
}

impl<T: Into<Reason>> From<T> for Float {
    fn from(reason: T) -> Float {
        Float { reason: reason.into(), shape: false }
    }
}

impl Pass for AssignScheme {
    fn spec(&self) -> &'static PassSpec {
        &SPEC
    }

    fn run(&self, plan: &mut Plan, cx: &Context<'_>) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        if let Some(why) = cx.engine.refuses(cx.preset, cx.checkpoint.family.id) {
            return Err(Error::unsupported(
                "scheme-unsupported",
                format!("{} cannot run {} with this model", cx.engine.name(), cx.preset.name),
            )
            .expected("another scheme of the target")
            .found(format!("{}: {why}", cx.checkpoint.family.id))
            .fix(format!("choose a scheme from `silicast targets {}`", cx.target.id)));
        }
        let patterns = Patterns::compile(cx)?;
        patterns.check_all_match(plan)?;
        if cx.preset.native {
            let kept: Arc<str> = "kept as the source stores it".into();
            plan.outputs.iter_mut().for_each(|o| o.reason = kept.clone());
            return Ok(outcome);
        }
        let roles: Vec<Role> =
            plan.outputs.iter().map(|o| cx.checkpoint.family.role(&o.name, &o.ty.shape)).collect();
        let decider = Decider::new(plan, &roles, cx, &patterns);
        let mut verdicts: Vec<Verdict> =
            plan.outputs.iter().zip(&roles).map(|(output, role)| decider.verdict(output, role)).collect();
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
                Err(Float { reason, .. }) => {
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

/// What decides over one tensor after the other.
struct Decider<'a> {
    cx: &'a Context<'a>,
    patterns: &'a Patterns,
    /// Whether the source stores weights as FP8 blocks of the native method.
    native_fp8: bool,
    /// The group size of the source's integers that the artifact keeps.
    group: Option<u32>,
}

impl<'a> Decider<'a> {
    fn new(plan: &Plan, roles: &[Role], cx: &'a Context<'a>, patterns: &'a Patterns) -> Decider<'a> {
        let mut decider = Decider { cx, patterns, native_fp8: false, group: None };
        let method = cx.checkpoint.config.quantization.as_ref().map_or("", |q| q.method.as_str());
        let fp8_method = matches!(method, "fp8" | "deepseek_v4_fp8" | "");
        for (output, role) in plan.outputs.iter().zip(roles) {
            let Some(stored) = stored(&output.expr) else { continue };
            decider.native_fp8 |= fp8_method && stored.scheme.element == Dtype::F8E4M3;
            // Every linear of an artifact has one group size.
            if decider.group.is_none()
                && let Some(scheme) = decider.scheme_for(role)
                && let Some(group) = kept_group(stored, scheme)
                && cx.engine.takes_group(cx.preset, group)
            {
                decider.group = Some(group);
            }
        }
        decider
    }

    /// The scheme that the preset has for a role.
    fn scheme_for(&self, role: &Role) -> Option<Scheme> {
        let preset = self.cx.preset;
        let expert = role.scope == Scope::Expert && !(role.mtp && preset.plain_mtp_experts);
        let scheme = if expert { preset.experts.or(preset.encoding) } else { preset.encoding }?;
        Some(match self.cx.recipe.scale_rule {
            Some(rule) if rule.replaces(scheme.rule) => Scheme { rule, ..scheme },
            _ => scheme,
        })
    }

    fn verdict(&self, output: &Output, role: &Role) -> Verdict {
        let cx = self.cx;
        let stored = stored(&output.expr);
        if stored.is_none() && !output.ty.dtype.is_plain_float() {
            return Err(format!("{} data", output.ty.dtype).into());
        }
        let native_target = cx.preset.format == "fp8";
        let keeps_fp8 = native_target
            && self.native_fp8
            && stored.is_some_and(|s| s.scheme.element == Dtype::F8E4M3)
            && role.kind != Kind::EngramTable;
        if !keeps_fp8 && let Some(reason) = not_a_linear(output, role) {
            return Err(reason.into());
        }
        if self.patterns.ignored(&output.name) {
            return Err("left out by the recipe".into());
        }
        let Some(scheme) = self.scheme_for(role) else {
            let text = if stored.is_some() { "decoded to BF16" } else { "float already" };
            return Err(text.into());
        };
        let float = cx
            .engine
            .float_reason(cx.preset, role, cx.checkpoint.family.has_native_names())
            .filter(|_| !keeps_fp8);
        if let Some(reason) = float {
            return Err(reason.into());
        }
        if native_target && self.native_fp8 && stored.is_none() {
            return Err("float in a source that is FP8 elsewhere".into());
        }
        let scheme = self.adapted(scheme, stored);
        match misfit(scheme, role, output) {
            Some(reason) => Err(Float { reason: reason.into(), shape: true }),
            None => Ok(scheme),
        }
    }

    /// The scheme with what the source decides: a group size that is kept, codes that need no quantizer.
    fn adapted(&self, mut scheme: Scheme, stored: Option<&Stored>) -> Scheme {
        let integer = matches!(scheme.element, Dtype::I4 | Dtype::I8);
        if let (true, Some(cols), Some(_)) = (integer, self.group, scheme.granularity.group()) {
            scheme.granularity = Granularity::Block { rows: 1, cols };
        }
        let Some(stored) = stored else { return scheme };
        if kept_group(stored, scheme).is_some_and(|group| scheme.granularity.group() == Some(group)) {
            scheme.rule = Rule::Given;
        }
        let source = stored.scheme;
        let exponents = matches!(source.scale, Dtype::F8E8M0 | Dtype::U8);
        let mxfp4 = source.element == Dtype::F4E2M1 && exponents && stored.global.is_none();
        match (scheme.element, scheme.granularity) {
            // The same codes and exponents, laid out as the target wants.
            (Dtype::F4E2M1, granularity) if mxfp4 && granularity == source.granularity => {
                scheme.rule = Rule::Given;
            }
            (Dtype::F4E2M1, granularity)
                if stored.global.is_some()
                    && granularity == source.granularity
                    && scheme.rule == Rule::Nvfp4 =>
            {
                scheme.rule = Rule::Given;
            }
            (Dtype::F8E4M3, Granularity::Block { rows: 2.., .. }) if mxfp4 => scheme.rule = Rule::Fp4Blocks,
            _ => {}
        }
        scheme
    }
}

/// The codes that an expression decodes.
fn stored(expr: &Expr) -> Option<&Stored> {
    match expr {
        Expr::Dequantize(stored) => Some(stored),
        Expr::View { value, .. } => stored(value),
        _ => None,
    }
}

/// The group size of integers that `scheme` could hold as they are.
fn kept_group(source: &Stored, scheme: Scheme) -> Option<u32> {
    let group = source.scheme.granularity.group()?;
    let integer = matches!(scheme.element, Dtype::I4 | Dtype::I8) && scheme.element == source.scheme.element;
    // Zero points need a scheme that has them.
    let zeros = source.zero.is_none() || scheme.rule.is_asymmetric();
    (integer && zeros && scheme.granularity.group().is_some() && source.order.is_none()).then_some(group)
}

/// Why the scheme cannot hold a weight of this shape.
fn misfit(scheme: Scheme, role: &Role, output: &Output) -> Option<String> {
    let [n, k] = output.ty.matrix();
    let packed = scheme.packing != Packing::Plain;
    if let Some(group) = scheme.granularity.group()
        && (packed || scheme.element.bits() < 8)
        && !k.is_multiple_of(group.into())
    {
        return Some(format!("K = {k} is no multiple of the group of {group}"));
    }
    if packed && !k.is_multiple_of(scheme.packing.cols(scheme.element.bits())) {
        return Some(format!("K = {k} does not fill packed codes"));
    }
    if scheme.packing.is_transposed() && !n.is_multiple_of(8) {
        return Some(format!("N = {n} is no multiple of 8"));
    }
    if scheme.packing == Packing::RowPairs && role.kind == Kind::DownProj && !k.is_multiple_of(16) {
        return Some(format!("K = {k} cannot be cut into 16 pieces"));
    }
    part_type(expr::Part::Codes, scheme, n, k).err()
}

/// Why the tensor is no linear weight, by role, name and shape.
fn not_a_linear(output: &Output, role: &Role) -> Option<Reason> {
    let reason = match role.kind {
        Kind::Embed => "embedding",
        Kind::Norm | Kind::IndexerNorm => "norm",
        Kind::Router if role.part == Part::Weight => "router",
        Kind::Router => "router bias",
        Kind::HashRoute => "routing table",
        Kind::HyperConnection => "hyper-connection parameter",
        Kind::Sink => "attention sink",
        Kind::Conv => "convolution",
        Kind::LinearAttnState => "state of linear attention",
        Kind::ResidualScore => "residual score",
        Kind::Compressor => "compressor, float in every engine",
        Kind::EngramTable => "table of n-gram embeddings",
        Kind::MarkovHead | Kind::ConfidenceHead => "head of the draft model",
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

/// Gives the parts of each fused module, and all experts of a layer, one fate, or says why that cannot be.
fn unify_fused_groups(
    plan: &Plan,
    roles: &[Role],
    verdicts: &mut [Verdict],
    cx: &Context<'_>,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut groups: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    let mut layers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, (output, role)) in plan.outputs.iter().zip(roles).enumerate() {
        if role.part != Part::Weight || output.ty.shape.len() != 2 {
            continue;
        }
        if let Some(group) = fused_group(role, &output.name) {
            groups.entry(group.key).or_default().push((group.part, i));
        }
        if role.scope == Scope::Expert
            && role.expert.is_some()
            && let Some((prefix, _)) = output.name.split_once(".experts.")
        {
            layers.entry(prefix).or_default().push(i);
        }
    }
    for mut members in groups.into_values() {
        members.sort_unstable();
        let members: Vec<usize> = members.into_iter().map(|(_, i)| i).collect();
        unify(plan, &members, verdicts)?;
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
                verdicts[i] = Err(Float {
                    reason: "a part of its fused module is not aligned to the scale blocks".into(),
                    shape: true,
                });
            }
        }
    }
    for members in layers.into_values() {
        unify(plan, &members, verdicts)?;
    }
    for verdict in verdicts.iter() {
        if let Err(Float { reason, shape: true }) = verdict
            && !outcome.notes.iter().any(|n| n.contains(reason.as_ref()))
            && reason.contains('=')
        {
            outcome.notes.push(format!("some weights keep their float form: {reason}"));
        }
    }
    // A recipe that leaves nothing to quantize is a mistake, unless the target wants floats.
    let all_float = verdicts.iter().all(std::result::Result::is_err);
    if all_float && cx.preset.encoding.is_some() {
        outcome.notes.push("no tensor is quantized: every weight keeps its float form".to_owned());
    }
    Ok(())
}

/// One fate for parts that an engine holds in one module.
fn unify(plan: &Plan, members: &[usize], verdicts: &mut [Verdict]) -> Result<()> {
    let quantized = members.iter().filter(|i| verdicts[**i].is_ok()).count();
    if quantized == 0 || quantized == members.len() {
        return Ok(());
    }
    let misfit = members.iter().find_map(|i| verdicts[*i].as_ref().err().filter(|f| f.shape).cloned());
    if let Some(misfit) = misfit {
        for i in members {
            if verdicts[*i].is_ok() {
                verdicts[*i] = Err(misfit.clone());
            }
        }
        return Ok(());
    }
    let [first, rest] = [members[0], members[members.len() - 1]];
    let float = members.iter().copied().find(|i| verdicts[*i].is_err()).unwrap_or(first);
    let other = members.iter().copied().find(|i| verdicts[*i].is_ok()).unwrap_or(rest);
    Err(Error::usage("fused-group-split", "the parts of a fused module must share one scheme")
        .tensor(&plan.outputs[float].name)
        .expected(format!("the same fate as {}, which the engine fuses with it", plan.outputs[other].name))
        .found("one part quantized, another left in float")
        .fix("let --ignore and --include name all parts of the fused module or none"))
}

/// The first part of a fused module, the last one excepted, whose rows do not fill whole scale blocks.
fn unaligned_part(plan: &Plan, members: &[usize], verdicts: &[Verdict]) -> Option<(usize, u64, u32)> {
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
    match (stored(&output.expr), scheme) {
        (Some(source), Some(target)) => {
            source.scheme.granularity == target.granularity && source.scheme.element == target.element
        }
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
