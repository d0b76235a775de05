//! vllm-ascend: the AscendV1 folder with its description.
//!
//! What each tag means for weights and parameters is the table in [`super::ascend_schemes`].

use super::ascend_schemes::{Chip, F32, For, PRIORITY, Pack, Parameter, SCHEMES, Shape, scheme};
use super::values::{ScaleRules, check_offset, check_scale};
use super::view::{INDEX, View, Weight};
use super::{Finding, Findings, Rule, common, rules};
use crate::checkpoint::{Kind, Part, TensorInfo, fused_group, module_of};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::targets::Target;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The name that the engine opens.
pub(super) const DESCRIPTION: &str = "quant_model_description.json";

/// Element for element what the description says, keyed by tensor.
struct Description {
    file: String,
    json: Map<String, Value>,
}

impl Description {
    /// The tag of the weight `name`; native INT4 names may drop `_packed`.
    fn tag(&self, name: &str) -> Option<&str> {
        let value = self.json.get(name).or_else(|| self.json.get(name.strip_suffix("_packed")?));
        value.and_then(Value::as_str)
    }

    /// Keys that name tensors.
    fn tensors(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.json
            .iter()
            .map(|(k, v)| (k.as_str(), v))
            .filter(|(k, _)| k.contains('.') && !k.ends_with(".quant_type"))
    }
}

pub(super) fn check(view: &View, target: Option<&Target>, findings: &mut Findings) -> Result<()> {
    stale_index(view, findings);
    leftover_config(view, findings);
    if common::promises_absent_mtp(view) {
        findings.add(common::mtp_finding(view, &rules::MTP_MISSING));
    }
    let Some(description) = read(view, findings)? else { return Ok(()) };
    let d = &description;
    globals(d, findings);
    keys(view, d, findings);
    let mut dynamic = false;
    for w in view.weights() {
        let Some(tag) = d.tag(&w.info.name) else { continue };
        dynamic |= tag != "FLOAT";
        weight(view, d, w, tag, target, findings)?;
    }
    groups(view, d, findings);
    collisions(view, d, findings);
    if dynamic && view.config.torch_dtype() == Some("float16") {
        findings.add(
            Finding::new(&rules::TORCH_DTYPE)
                .file("config.json")
                .expected("torch_dtype bfloat16")
                .found("float16")
                .fix("set torch_dtype to bfloat16; its scales are chosen for it"),
        );
    }
    Ok(())
}

/// vLLM goes by this very name, whatever lies beside it.
fn stale_index(view: &View, findings: &mut Findings) {
    let quantized =
        view.names.iter().any(|n| n.starts_with("quant_model_weight") && n.ends_with(".safetensors"));
    let there = view.names.iter().any(|n| n == INDEX);
    let known = findings.list.iter().any(|f| f.file.as_deref() == Some(INDEX));
    let listed = view.json(INDEX).ok().and_then(std::result::Result::ok).is_some_and(|v| {
        let map = v.get("weight_map").and_then(Value::as_object);
        map.is_some_and(|m| {
            m.values().any(|f| f.as_str().is_some_and(|f| f.starts_with("quant_model_weight")))
        })
    });
    if there && quantized && !known && !listed {
        findings.add(
            Finding::new(&rules::INDEX_STALE)
                .file(INDEX)
                .expected("no index of other files beside quant_model_weights")
                .found("one")
                .fix("remove it: it belongs to the source of the conversion"),
        );
    }
}

fn leftover_config(view: &View, findings: &mut Findings) {
    let root = &view.config.json;
    for (at, object) in [("", Some(root)), ("text_config.", view.config.text())] {
        for key in ["quantization_config", "compression_config"] {
            if object.and_then(|o| o.get(key)).is_some_and(|v| !v.is_null()) {
                findings.add(
                    Finding::new(&rules::QUANTIZATION_CONFIG_LEFT)
                        .file("config.json")
                        .expected(format!("no {at}{key}"))
                        .found(format!("{at}{key}"))
                        .fix("remove the key: the description says what is quantized"),
                );
            }
        }
    }
}

fn read(view: &View, findings: &mut Findings) -> Result<Option<Description>> {
    let quantized = view.has_ascend_names() || view.weights().any(|w| common::is_coded(w.info.dtype));
    let Some(file) = view.descriptions().first().map(|n| (*n).to_owned()) else {
        if quantized {
            findings.add(
                Finding::new(&rules::DESCRIPTION_MISSING)
                    .file(DESCRIPTION)
                    .expected(DESCRIPTION)
                    .found("no such file")
                    .fix("convert again with --target ascend-910b"),
            );
        }
        return Ok(None);
    };
    if file != DESCRIPTION {
        findings.add(
            Finding::new(&rules::DESCRIPTION_NAME)
                .file(&file)
                .expected(DESCRIPTION)
                .found(&file)
                .fix(format!("rename it to {DESCRIPTION}")),
        );
    }
    match view.json(&file)? {
        Ok(Value::Object(json)) => Ok(Some(Description { file, json })),
        other => {
            let found = match other {
                Ok(_) => "another kind of JSON".to_owned(),
                Err(why) => why,
            };
            findings.add(
                Finding::new(&rules::DESCRIPTION_JSON)
                    .file(&file)
                    .expected("a JSON object of tensor names and tags")
                    .found(found)
                    .fix("write it again"),
            );
            Ok(None)
        }
    }
}

fn globals(d: &Description, findings: &mut Findings) {
    let tags: Vec<&str> = d.tensors().filter_map(|(_, v)| v.as_str()).collect();
    let highest = PRIORITY.iter().rev().find(|p| tags.contains(p)).copied().unwrap_or("FLOAT");
    let stated = d.json.get("model_quant_type").and_then(Value::as_str);
    // A mixed model may name either of its INT8 tags: MindIE wants the dynamic one.
    let fits = stated.is_some_and(|s| {
        s == highest
            || (highest == "W8A8" && s == "W8A8_DYNAMIC")
            || !PRIORITY.contains(&s) && tags.contains(&s)
    });
    if !fits {
        findings.add(
            Finding::new(&rules::MODEL_QUANT_TYPE)
                .file(&d.file)
                .expected(format!("model_quant_type {highest}"))
                .found(stated.unwrap_or("none"))
                .fix("state the highest-priority tag that occurs"),
        );
    }
    let group = d.json.get("group_size").and_then(Value::as_i64);
    let has = |wanted: &[&str]| tags.iter().any(|t| wanted.contains(t));
    let mx =
        SCHEMES.iter().filter(|s| s.parameters.first().is_some_and(|p| p.2 == Shape::Per32)).map(|s| s.tag);
    let mx: Vec<&str> = mx.collect();
    let fault = match group {
        Some(g) if g > 0 && has(&["W4A8_DYNAMIC"]) => Some(("group_size 0 with W4A8_DYNAMIC", g)),
        Some(g) if g >= 256 => Some(("group_size 0, 32, 64 or 128", g)),
        Some(g) if g != 32 && has(&mx) => Some(("group_size 32 with MX schemes", g)),
        _ => None,
    };
    if let Some((expected, found)) = fault {
        findings.add(
            Finding::new(&rules::GROUP_SIZE)
                .file(&d.file)
                .expected(expected)
                .found(format!("group_size {found}"))
                .fix("convert again with per-channel scales"),
        );
    }
}

/// Every tensor has its key, every key its tensor.
fn keys(view: &View, d: &Description, findings: &mut Findings) {
    let key_missing = |name: &str, file: Option<&str>, findings: &mut Findings| {
        let mut finding = Finding::new(&rules::DESCRIPTION_KEY_MISSING)
            .tensor(name)
            .expected(format!("the key {name} in {}", d.file))
            .found("no such key")
            .fix("add it with the tag of the module, FLOAT where it is not quantized");
        finding.file = file.map(str::to_owned);
        findings.add(finding);
    };
    let mut mtp: BTreeMap<u32, &str> = BTreeMap::new();
    for (tensor, role) in view.each() {
        if role.kind == Kind::EhProj {
            mtp.insert(role.layer.unwrap_or_default(), module_of(module_of(&tensor.name)));
        }
        let demanded = role.part == Part::Weight && tensor.shape.len() >= 2;
        match d.tag(&tensor.name) {
            Some(_) => {}
            None if demanded => key_missing(&tensor.name, Some(&d.file), findings),
            None => findings.add(
                Finding::new(&rules::DESCRIPTION_ENTRY_MISSING)
                    .file(&d.file)
                    .tensor(&*tensor.name)
                    .expected("one entry per tensor")
                    .found("none")
                    .fix("add it with the tag of its weight, FLOAT where there is none"),
            ),
        }
    }
    for prefix in mtp.values() {
        // DeepSeek-V4 names its draft head otherwise; the drafts of DSpark and of Qwen have none of their own.
        let native = view.family.has_native_names();
        if common::has_dspark(view) || !(native || view.family.has_mtp_layers()) {
            continue;
        }
        let head = format!("{prefix}.{}head.weight", if native { "" } else { "shared_head." });
        if view.find(&head).is_none() && d.tag(&head).is_none() {
            key_missing(&head, None, findings);
        }
    }
    for (name, value) in d.tensors() {
        let shared = ["lm_head.weight", "shared_head.head.weight", "embed_tokens.weight"];
        let optional = shared.iter().any(|s| name.ends_with(s));
        if view.find(name).is_none() && view.find(&format!("{name}_packed")).is_none() && !optional {
            findings.add(
                Finding::new(&rules::DESCRIPTION_TENSOR_UNKNOWN)
                    .file(&d.file)
                    .tensor(name)
                    .expected("a tensor of this name")
                    .found("no such tensor")
                    .fix("remove the key, or fetch the shard that holds the tensor"),
            );
        }
        let chooses = name.ends_with(".weight") || name.ends_with(".weight_packed");
        let tag = value.as_str();
        if chooses && tag.and_then(scheme).is_none() {
            let fix = match tag {
                Some("WFP8AFP8_DYNAMIC") => {
                    "write W8A8FP8_DYNAMIC, the engine's spelling, and serve on 950".to_owned()
                }
                _ => "convert again with a scheme of this engine".to_owned(),
            };
            findings.add(
                Finding::new(&rules::TAG_UNKNOWN)
                    .file(&d.file)
                    .tensor(name)
                    .expected(SCHEMES.iter().map(|s| s.tag).collect::<Vec<_>>().join(", "))
                    .found(tag.map_or_else(|| value.to_string(), str::to_owned))
                    .fix(fix),
            );
        }
    }
}

/// A weight and its parameters against the scheme that its tag names.
fn weight(
    view: &View,
    d: &Description,
    w: Weight<'_>,
    tag: &str,
    target: Option<&Target>,
    findings: &mut Findings,
) -> Result<()> {
    let Some(scheme) = scheme(tag) else { return Ok(()) };
    let is_expert = w.role.expert.is_some() || common::expert_path(&w.info.name).is_some();
    let about = |rule: &'static Rule| {
        view.at(rule, w.info).found(format!("{tag}, {}{:?}", w.info.dtype, w.info.shape))
    };
    if w.role.kind == Kind::KvBProj && tag != "FLOAT" {
        findings.add(
            about(&rules::KV_B_QUANTIZED).expected("FLOAT").fix("convert again: silicast leaves it in BF16"),
        );
    }
    match scheme.kinds {
        For::Experts if !is_expert && tag == "W4A8_DYNAMIC" => {
            findings.add(
                about(&rules::W4A8_LINEAR)
                    .expected("W8A8_DYNAMIC or FLOAT on a linear")
                    .fix("quantize it as W8A8_DYNAMIC"),
            );
        }
        For::Linear if is_expert => {
            findings.add(
                about(&rules::SCHEME_NOT_MOE)
                    .expected("W8A8_DYNAMIC or W4A8_DYNAMIC on experts")
                    .fix("quantize the experts as W8A8_DYNAMIC"),
            );
        }
        _ => {}
    }
    if target.is_some_and(|t| t.id.starts_with("ascend-910")) && scheme.chip != Chip::Any {
        findings.add(
            about(&rules::TAG_NOT_ON_CHIP)
                .expected("an INT8 or INT4 scheme on 910B and 910C")
                .fix("convert again with --target"),
        );
    }
    let fp8_float = tag == "FLOAT" && common::stays_fp8(view, &w);
    if !scheme.weight.contains(&w.info.dtype) && !fp8_float {
        let expected: Vec<&str> = scheme.weight.iter().map(|t| t.text()).collect();
        findings.add(
            about(&rules::WEIGHT_DTYPE)
                .expected(format!("{} for {tag}", expected.join(" or ")))
                .fix("correct the tag in the description, or convert again"),
        );
        return Ok(());
    }
    if w.info.shape.len() > 2 && tag != "FLOAT" {
        findings.add(
            about(&rules::EXPERTS_STACKED)
                .expected("one [N, K] tensor per expert and projection")
                .fix("split the stacked experts"),
        );
        return Ok(());
    }
    let [rows, cols] = w.info.shape[..] else { return Ok(()) };
    let (n, k) = match scheme.pack {
        Pack::HalfRows => (rows.saturating_mul(2), cols),
        Pack::HalfColumns => (rows, cols.saturating_mul(2)),
        Pack::Words => (rows, cols.saturating_mul(8)),
        Pack::Whole | Pack::Free => (rows, cols),
    };
    for (param, dtypes, shape) in scheme.parameters {
        match view.param(w.module, param) {
            Some(tensor) => parameter(view, d, w, tag, tensor, (param, dtypes, *shape), [n, k], findings)?,
            None => {
                let rule =
                    if *param == "weight_scale" { &rules::SCALE_MISSING } else { &rules::PARAMETER_MISSING };
                findings.add(
                    Finding::new(rule)
                        .file(view.file(w.info))
                        .tensor(format!("{}.{param}", w.module))
                        .expected(format!("{param} beside the {tag} weight"))
                        .found("no such tensor")
                        .fix("convert again from the source"),
                );
            }
        }
    }
    bias(view, w, findings);
    Ok(())
}

fn bias(view: &View, w: Weight<'_>, findings: &mut Findings) {
    if let Some(bias) = view.param(w.module, "bias").filter(|b| b.dtype != Dtype::F32) {
        findings.add(
            view.at(&rules::BIAS_DTYPE, bias)
                .expected("f32")
                .found(bias.dtype.to_string())
                .fix("widen it, which is exact"),
        );
    }
}

#[expect(clippy::too_many_arguments, reason = "one call, and a struct of them would be read once")]
fn parameter(
    view: &View,
    d: &Description,
    w: Weight<'_>,
    tag: &str,
    tensor: &TensorInfo,
    (param, dtypes, shape): Parameter,
    [n, k]: [u64; 2],
    findings: &mut Findings,
) -> Result<()> {
    let found = format!("{}{:?}", tensor.dtype, tensor.shape);
    let again = "convert again from the source";
    if let Some(other) = d.tag(&tensor.name).filter(|other| *other != tag) {
        findings.add(
            view.at(&rules::TAG_INCONSISTENT, tensor)
                .expected(tag)
                .found(other)
                .fix("give it the tag of its weight"),
        );
    }
    let expected: Option<Vec<u64>> = match shape {
        Shape::Column => Some(vec![n, 1]),
        Shape::Rows => Some(vec![n]),
        Shape::One => Some(vec![1]),
        Shape::Per32 => Some(vec![n, k.div_ceil(32)]),
        Shape::ScaleBias if w.role.kind == Kind::DownProj || w.module.ends_with(".w2") => Some(vec![n, 16]),
        Shape::ScaleBias => Some(vec![n, 1]),
        Shape::Free => None,
    };
    if let Some(expected) = expected.filter(|e| tensor.shape[..] != e[..]) {
        let scale = param == "weight_scale" || param == "weight_offset";
        let rule = match shape {
            Shape::ScaleBias => &rules::SCALE_BIAS_SHAPE,
            _ if scale && tensor.shape.len() != expected.len() => &rules::SCALE_RANK,
            _ if param == "weight_scale" => &rules::SCALE_GRID,
            _ => &rules::PARAMETER_SHAPE,
        };
        findings
            .add(view.at(rule, tensor).expected(format!("{expected:?} for {tag}")).found(&found).fix(again));
    }
    let narrow = dtypes == F32 && matches!(tensor.dtype, Dtype::BF16 | Dtype::F16);
    if param == "deq_scale" {
        let wanted = if view.config.torch_dtype() == Some("float16") { Dtype::I64 } else { Dtype::F32 };
        if tensor.dtype != wanted {
            findings.add(
                view.at(&rules::DEQ_SCALE_DTYPE, tensor)
                    .expected(wanted.to_string())
                    .found(&found)
                    .fix(again),
            );
        }
    } else if narrow {
        findings.add(
            view.at(&rules::SCALE_NARROW, tensor)
                .expected("f32")
                .found(&found)
                .fix("widen it, which is exact"),
        );
    } else if !dtypes.contains(&tensor.dtype) {
        let rule = if param == "weight_scale" { &rules::SCALE_DTYPE } else { &rules::PARAMETER_DTYPE };
        let names: Vec<&str> = dtypes.iter().map(|t| t.text()).collect();
        findings.add(view.at(rule, tensor).expected(names.join(" or ")).found(&found).fix(again));
        return Ok(());
    }
    match param {
        // The MoE scheme of W4A8 keeps F32 parameters; the others are rounded to the model's dtype.
        "weight_scale" => {
            let bf16 =
                (matches!(shape, Shape::Column) && tag != "W4A8_DYNAMIC").then_some(&rules::SCALE_NOT_BF16);
            check_scale(view, tensor, ScaleRules { zero: &rules::SCALE_ZERO, bf16, power: None }, findings)
        }
        "weight_offset" => check_offset(view, tensor, findings),
        _ => Ok(()),
    }
}

/// One tag in every fused module and in all experts of a layer.
fn groups(view: &View, d: &Description, findings: &mut Findings) {
    let mut fused: BTreeMap<String, Vec<(&TensorInfo, &str)>> = BTreeMap::new();
    let mut zero: BTreeMap<&str, (&TensorInfo, &str)> = BTreeMap::new();
    for w in view.weights() {
        let Some(tag) = d.tag(&w.info.name) else { continue };
        if let Some((prefix, ..)) = common::expert_path(&w.info.name) {
            // Natural order: the first that comes is expert 0.
            let (first, expected) = *zero.entry(prefix).or_insert((w.info, tag));
            if expected != tag {
                findings.add(
                    view.at(&rules::EXPERT_TAGS_MIXED, w.info)
                        .expected(format!("{expected}, as {}", first.name))
                        .found(tag)
                        .fix("convert again with one scheme for all experts of a layer"),
                );
            }
        } else if let Some(group) = fused_group(w.role, &w.info.name) {
            fused.entry(group.key).or_default().push((w.info, tag));
        }
    }
    for (key, members) in fused {
        if members.iter().any(|(_, tag)| *tag != members[0].1) {
            let odd = members.iter().find(|(_, tag)| *tag == "FLOAT").or(members.last());
            let all: Vec<String> = members.iter().map(|(t, tag)| format!("{} {tag}", t.name)).collect();
            if let Some((odd, _)) = odd {
                findings.add(
                    view.at(&rules::FUSED_TAGS_MIXED, odd)
                        .expected(format!("one tag in {key}"))
                        .found(all.join(", "))
                        .fix("convert again with one scheme for all parts of the fused module"),
                );
            }
        }
    }
}

/// A quantized, unfused module whose name begins another, float one's.
fn collisions(view: &View, d: &Description, findings: &mut Findings) {
    let sorted: BTreeMap<&str, &str> = d.tensors().filter_map(|(k, v)| Some((k, v.as_str()?))).collect();
    for w in view.weights() {
        let quantized = d.tag(&w.info.name).is_some_and(|t| t != "FLOAT");
        if !quantized || w.role.expert.is_some() || fused_group(w.role, &w.info.name).is_some() {
            continue;
        }
        let other = sorted
            .range(w.module..)
            .take_while(|(k, _)| k.starts_with(w.module))
            .find(|(k, tag)| **tag == "FLOAT" && k.ends_with(".weight") && **k != &*w.info.name);
        if let Some((key, _)) = other {
            findings.add(
                view.at(&rules::PREFIX_COLLISION, w.info)
                    .expected(format!("no FLOAT key that starts with {}", w.module))
                    .found(*key)
                    .fix("leave this module float too, or quantize the other"),
            );
        }
    }
}
