//! `quant_method: fp8`, DeepSeek's own format.

use super::compressed_tensors::is_quantizable;
use super::values::{ScaleRules, check_scale};
use super::view::{View, Weight};
use super::{Finding, Findings, common, rules};
use crate::checkpoint::{Kind, Quantization, Scope, fused_group};
use crate::dtype::Dtype;
use crate::error::Result;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What the method's config says.
struct Config<'a> {
    block: Option<[u64; 2]>,
    ue8m0: bool,
    fixed_inputs: bool,
    /// Modules that stay float.
    listed: BTreeSet<&'a str>,
}

impl<'a> Config<'a> {
    fn new(q: &'a Quantization) -> Self {
        let list =
            ["ignored_layers", "modules_to_not_convert"].into_iter().find_map(|k| q.json.get(k)?.as_array());
        Self {
            block: q.block.map(|[rows, cols]| [rows.into(), cols.into()]),
            ue8m0: q.scale_fmt.as_deref() == Some("ue8m0"),
            fixed_inputs: q.json.get("activation_scheme").and_then(Value::as_str) == Some("static"),
            listed: list.into_iter().flatten().filter_map(Value::as_str).collect(),
        }
    }

    /// Exact module names; for experts, every name that is a part of theirs (vLLM `is_layer_skipped`).
    fn lists(&self, module: &str) -> bool {
        let plain = module.strip_prefix("model.").unwrap_or(module);
        self.listed.contains(module)
            || self.listed.contains(plain)
            || (common::expert_path(module).is_some() || module.contains(".experts."))
                && self.listed.iter().any(|l| module.contains(l))
    }
}

pub(super) fn check(view: &View, findings: &mut Findings) -> Result<()> {
    let Some(quantization) = &view.config.quantization else { return Ok(()) };
    let config = Config::new(quantization);
    common::mixed_dtypes(view, findings);
    let fp8 = |w: &Weight<'_>| w.info.dtype == Dtype::F8E4M3;
    // Engines build every linear of the model as FP8 unless it is listed. Where the family is not known, only kinds of
    // which some are FP8 are held to that. (Kind has no order, its name has.)
    let known = view.family.id != "unknown";
    let kind = |w: &Weight<'_>| format!("{:?} {:?}", w.role.kind, w.role.scope);
    let kinds: BTreeSet<String> = view.weights().filter(fp8).map(|w| kind(&w)).collect();
    let mut blockless = 0usize;
    for w in view.weights().filter(|w| w.info.shape.len() == 2) {
        let found = format!("{}{:?}", w.info.dtype, w.info.shape);
        if fp8(&w) {
            if config.lists(w.module) {
                findings.add(
                    view.at(&rules::LISTED_FP8, w.info)
                        .expected("a float weight: modules_to_not_convert names it")
                        .found(found)
                        .fix("remove the entry, or convert the weight to BF16"),
                );
            }
            let blocks =
                view.param(w.module, "weight_scale_inv").is_some_and(|s| s.shape.iter().any(|d| *d > 1));
            blockless += usize::from(config.block.is_none() && blocks);
            weight(view, &config, w, findings)?;
        } else if w.info.dtype.is_plain_float()
            && is_quantizable(w.role.kind)
            && !config.lists(w.module)
            && !kinds.is_empty()
            && (known || kinds.contains(&kind(&w)))
        {
            findings.add(
                view.at(&rules::FLOAT_UNLISTED, w.info)
                    .expected("F8_E4M3, or an entry in modules_to_not_convert")
                    .found(found)
                    .fix("add the module to modules_to_not_convert"),
            );
        } else if matches!(w.info.dtype, Dtype::I8) && !is_fp4_expert(view, &w) {
            findings.add(
                view.at(&rules::WEIGHT_DTYPE, w.info)
                    .expected("f8_e4m3")
                    .found(found)
                    .fix("convert again from the source"),
            );
        }
    }
    if blockless > 0 {
        findings.add(
            Finding::new(&rules::BLOCK_SIZE_MISSING)
                .file("config.json")
                .expected("weight_block_size, such as [128, 128]")
                .found(format!("none, and {blockless} weights with weight_scale_inv"))
                .fix("add weight_block_size to quantization_config"),
        );
    }
    fused(view, &config, findings);
    Ok(())
}

/// Whether a weight holds FP4 pairs of a routed expert, as DeepSeek-V4 ships them: engines take experts for FP4 unless
/// `expert_dtype` says otherwise.
fn is_fp4_expert(view: &View, w: &Weight<'_>) -> bool {
    let says = view
        .config
        .get("expert_dtype")
        .or_else(|| view.config.quantization.as_ref().and_then(|q| q.json.get("expert_dtype")));
    let fp4 = says.is_none_or(|v| v.as_str() == Some("fp4"));
    let ([n, bytes], Some(scale)) = (&w.info.shape[..], view.param(w.module, "scale")) else { return false };
    view.family.has_native_names()
        && w.role.scope == Scope::Expert
        && fp4
        && matches!(scale.dtype, Dtype::U8 | Dtype::F8E8M0)
        && bytes.is_multiple_of(16)
        && scale.shape[..] == [*n, bytes / 16]
}

fn weight(view: &View, config: &Config<'_>, w: Weight<'_>, findings: &mut Findings) -> Result<()> {
    let names: &[&str] = if config.block.is_some() {
        &["weight_scale_inv", "scale"]
    } else {
        &["weight_scale", "weight_scale_inv", "scale"]
    };
    let Some(scale) = names.iter().find_map(|n| view.param(w.module, n)) else {
        findings.add(
            Finding::new(&rules::SCALE_MISSING)
                .file(view.file(w.info))
                .tensor(format!("{}.{}", w.module, names[0]))
                .expected("a scale beside the FP8 weight")
                .found("no such tensor")
                .fix("fetch the shard again, or convert again from the source"),
        );
        return Ok(());
    };
    if config.fixed_inputs
        && !["input_scale", "activation_scale"].iter().any(|p| view.param(w.module, p).is_some())
    {
        findings.add(
            Finding::new(&rules::INPUT_SCALE)
                .file(view.file(w.info))
                .tensor(format!("{}.input_scale", w.module))
                .expected("input_scale with activation_scheme static")
                .found("no such tensor")
                .fix("set activation_scheme to dynamic"),
        );
    }
    let found = format!("{}{:?}", scale.dtype, scale.shape);
    if let ([n, k], Some([rows, cols])) = (&w.info.shape[..], config.block) {
        // Rows of the n-gram tables never share a scale, whatever the block of the other weights.
        let [rows, cols] = if w.role.kind == Kind::EngramTable { [1, 32] } else { [rows, cols] };
        let expected = [n.div_ceil(rows), k.div_ceil(cols)];
        if scale.shape[..] != expected {
            let rule = if scale.shape.len() == 2 { &rules::SCALE_GRID } else { &rules::SCALE_RANK };
            findings.add(
                view.at(rule, scale)
                    .expected(format!("{expected:?} for {rows}x{cols} blocks of {:?}", w.info.shape))
                    .found(&found)
                    .fix("correct weight_block_size, or fetch the checkpoint again"),
            );
        }
    }
    match scale.dtype {
        Dtype::F32 | Dtype::BF16 | Dtype::F16 => {}
        Dtype::U8 | Dtype::F8E8M0 => {
            findings.add(view.at(&rules::SCALE_STORAGE, scale).expected("f32").found(&found).fix(
                "silicast convert … --target vllm --scheme FP8_BLOCK_UE8M0 expands the exponents exactly",
            ))
        }
        _ => findings.add(
            view.at(&rules::SCALE_DTYPE, scale)
                .expected("f32")
                .found(&found)
                .fix("fetch the checkpoint again"),
        ),
    }
    let power = config.ue8m0.then_some(&rules::SCALE_POWER);
    check_scale(view, scale, ScaleRules { zero: &rules::SCALE_INV_ZERO, bf16: None, power }, findings)
}

/// Parts of fused modules: whole blocks, and one side of the line.
fn fused(view: &View, config: &Config<'_>, findings: &mut Findings) {
    let mut groups: BTreeMap<String, Vec<(usize, Weight<'_>)>> = BTreeMap::new();
    for w in view.weights().filter(|w| w.info.shape.len() == 2) {
        if let Some(group) = fused_group(w.role, &w.info.name) {
            groups.entry(group.key).or_default().push((group.part, w));
        }
    }
    for (key, mut members) in groups {
        members.sort_by_key(|(part, _)| *part);
        let listed: Vec<&str> =
            members.iter().filter(|(_, w)| config.lists(w.module)).map(|(_, w)| w.module).collect();
        if let Some((_, odd)) =
            members.iter().find(|(_, w)| config.lists(w.module)).filter(|_| listed.len() < members.len())
        {
            findings.add(
                view.at(&rules::MODULES_HALF, odd.info)
                    .expected(format!("all parts of {key} in modules_to_not_convert, or none"))
                    .found(listed.join(", "))
                    .fix("name all parts, or none"),
            );
        }
        let (Some([rows, _]), Some((_, parts))) = (config.block, members.split_last()) else { continue };
        // Experts are stacked, not fused into one scale grid of ragged parts, but each half must fill blocks all the same.
        for (_, w) in parts.iter().filter(|(_, w)| w.info.dtype == Dtype::F8E4M3) {
            let n = w.info.shape[0];
            if n % rows != 0 {
                findings.add(
                    view.at(&rules::FUSED_UNALIGNED, w.info)
                        .expected(format!("a multiple of {rows} rows in {key}"))
                        .found(format!("{n} rows"))
                        .fix("convert to BF16, INT8 or FP8 per channel, which have no blocks"),
                );
            }
        }
    }
}
