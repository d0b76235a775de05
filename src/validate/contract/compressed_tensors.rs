//! compressed-tensors, as vLLM and the plug-ins of MetaX and Hygon load it.

use super::values::{ScaleRules, check_scale};
use super::view::{View, Weight};
use super::{Finding, Findings, common, rules};
use crate::checkpoint::{Kind, TensorInfo, fused_group, module_of};
use crate::dtype::Dtype;
use crate::error::Result;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Keys of a config group and of its arguments (compressed-tensors 0.20).
const GROUP_KEYS: &[&str] = &["targets", "weights", "input_activations", "output_activations", "format"];
const ARGS_KEYS: &[&str] = &[
    "num_bits",
    "type",
    "symmetric",
    "group_size",
    "strategy",
    "block_structure",
    "dynamic",
    "actorder",
    "scale_dtype",
    "zp_dtype",
    "observer",
    "observer_kwargs",
];

/// An entry of `targets` or `ignore`.
pub(super) enum Pattern {
    Exact(String),
    Regex(regex::Regex),
    /// `re:^(?!X).*`, which Rust's engine has no syntax for.
    Not(regex::Regex),
}

impl Pattern {
    /// `None` for syntax that cannot be read.
    pub(super) fn new(text: &str) -> Option<Pattern> {
        let Some(re) = text.strip_prefix("re:") else { return Some(Pattern::Exact(text.to_owned())) };
        // Python's re.match: anchored at the start only.
        let anchored = |re: &str| regex::Regex::new(&format!("^(?:{re})")).ok();
        if let Some(re) = anchored(re) {
            return Some(Pattern::Regex(re));
        }
        let inner = re.strip_prefix('^').unwrap_or(re).strip_prefix("(?!")?;
        let inner = inner.strip_suffix(").*").or_else(|| inner.strip_suffix(").*$"))?;
        anchored(inner).map(Pattern::Not)
    }

    pub(super) fn matches(&self, module: &str) -> bool {
        match self {
            Pattern::Exact(text) => text == module,
            Pattern::Regex(re) => re.is_match(module),
            Pattern::Not(re) => !re.is_match(module),
        }
    }
}

struct Group {
    name: String,
    targets: Vec<Pattern>,
    /// Whether the class `Linear` is a target.
    linear: bool,
    weights: Map<String, Value>,
    activations: bool,
    format: String,
}

impl Group {
    fn text(&self, key: &str) -> &str {
        self.weights.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn bits(&self) -> u64 {
        self.weights.get("num_bits").and_then(Value::as_u64).unwrap_or(8)
    }

    fn is_float(&self) -> bool {
        self.text("type") == "float"
    }

    fn count(&self, key: &str) -> Option<u64> {
        self.weights.get(key).and_then(Value::as_u64).filter(|n| *n > 0)
    }

    /// Parameter and element type that `format` registers, with the group's own type where the format leaves it open.
    fn stored(&self) -> Option<(&'static str, &'static [Dtype])> {
        const FP8: &[Dtype] = &[Dtype::F8E4M3];
        Some(match self.format.as_str() {
            "int-quantized" => ("weight", &[Dtype::I8]),
            "float-quantized" | "mxfp8-quantized" => ("weight", FP8),
            "naive-quantized" if self.is_float() => ("weight", FP8),
            "naive-quantized" => ("weight", &[Dtype::I8]),
            "pack-quantized" => ("weight_packed", &[Dtype::I32]),
            "nvfp4-pack-quantized" | "mxfp4-pack-quantized" | "mxfp6-pack-quantized" => {
                ("weight_packed", &[Dtype::U8])
            }
            "dense" => ("weight", &[Dtype::BF16, Dtype::F16, Dtype::F32]),
            _ => return None,
        })
    }

    /// Whether `num_bits` and `type` describe codes of this dtype.
    fn describes(&self, dtype: Dtype) -> bool {
        match (self.is_float(), self.bits()) {
            (false, 8) => matches!(dtype, Dtype::I8 | Dtype::I32),
            (false, _) => matches!(dtype, Dtype::I8 | Dtype::I32 | Dtype::U8),
            (true, 8) => common::is_fp8(dtype),
            (true, _) => matches!(dtype, Dtype::U8 | Dtype::F4E2M1 | Dtype::F6E2M3 | Dtype::F6E3M2),
        }
    }
}

struct Config {
    groups: Vec<Group>,
    ignore: Vec<(String, Pattern)>,
    /// Whether every pattern could be read.
    complete: bool,
}

impl Config {
    fn ignored(&self, module: &str) -> bool {
        self.ignore.iter().any(|(_, p)| p.matches(module))
    }

    /// Names and expressions first, then the class.
    fn group(&self, module: &str) -> Option<&Group> {
        let named = self.groups.iter().find(|g| g.targets.iter().any(|p| p.matches(module)));
        named.or_else(|| self.groups.iter().find(|g| g.linear))
    }

    /// Whether a group names the module itself.
    fn names(&self, module: &str) -> bool {
        self.groups.iter().any(|g| g.targets.iter().any(|p| p.matches(module)))
    }
}

/// No quantization_config at all: then no weight may hold codes.
pub(super) fn unconfigured(view: &View, findings: &mut Findings) {
    let coded =
        |w: &Weight<'_>| matches!(w.info.dtype, Dtype::I8 | Dtype::F8E4M3) || w.param == "weight_packed";
    let mut weights = view.weights().filter(coded);
    if let Some(first) = weights.next() {
        findings.add(
            Finding::new(&rules::QUANTIZATION_CONFIG_MISSING)
                .file("config.json")
                .tensor(&*first.info.name)
                .expected("a quantization_config")
                .found(format!("none, and {} quantized weights", 1 + weights.count()))
                .fix("convert again, or restore the quantization_config that was written with these files"),
        );
    }
}

pub(super) fn check(view: &View, findings: &mut Findings) -> Result<()> {
    let Some(quantization) = &view.config.quantization else { return Ok(()) };
    if view.config.get("quantization_config").is_none() {
        findings.add(
            Finding::new(&rules::COMPRESSION_CONFIG)
                .file("config.json")
                .expected("quantization_config")
                .found("compression_config")
                .fix("rename the key to quantization_config"),
        );
    }
    let config = parse(&quantization.json, findings);
    stacked(view, &config, findings);
    formats(view, &config, findings);
    common::mixed_dtypes(view, findings);
    for w in view.weights().filter(|w| w.info.shape.len() == 2 && !common::stays_fp8(view, w)) {
        placement(view, &config, w, findings);
        if let Some(group) = config.group(w.module).filter(|_| common::is_coded(w.info.dtype)) {
            scales(view, group, w, findings)?;
        }
    }
    if config.complete {
        ignores(view, &config, findings);
    }
    Ok(())
}

fn parse(json: &Map<String, Value>, findings: &mut Findings) -> Config {
    let about = |rule, expected: &str, found: String, fix: &str| {
        Finding::new(rule).file("config.json").expected(expected).found(found).fix(fix)
    };
    let mut complete = true;
    let mut pattern = |text: &str, findings: &mut Findings| {
        let pattern = Pattern::new(text);
        if pattern.is_none() {
            complete = false;
            findings.add(about(
                &rules::PATTERN_UNREAD,
                "an expression without look-around",
                text.to_owned(),
                "name the modules in full",
            ));
        }
        pattern
    };
    let top = json.get("format").and_then(Value::as_str).unwrap_or_default();
    let mut groups = Vec::new();
    let listed = json.get("config_groups").and_then(Value::as_object);
    for (name, group) in listed.into_iter().flatten() {
        let (Some(group), Some(weights)) =
            (group.as_object(), group.get("weights").and_then(Value::as_object))
        else {
            // Groups of activations or of attention alone have no weights.
            continue;
        };
        unknown_keys(name, group, GROUP_KEYS, findings);
        for key in ["weights", "input_activations", "output_activations"] {
            if let Some(args) = group.get(key).and_then(Value::as_object) {
                unknown_keys(&format!("{name}.{key}"), args, ARGS_KEYS, findings);
            }
        }
        let texts: Vec<&str> = group
            .get("targets")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let format = group.get("format").and_then(Value::as_str).unwrap_or(top);
        groups.push(Group {
            name: name.clone(),
            linear: texts
                .iter()
                .any(|t| matches!(*t, "Linear" | "LinearBase" | "RoutedExperts" | "FusedMoE")),
            targets: texts.iter().filter_map(|t| pattern(t, findings)).collect(),
            weights: weights.clone(),
            activations: group.get("input_activations").is_some_and(|v| !v.is_null()),
            format: format.to_owned(),
        });
    }
    if groups.is_empty() {
        findings.add(about(
            &rules::CONFIG_GROUPS,
            "config_groups with weights",
            "none".to_owned(),
            "restore the quantization_config that was written with these files",
        ));
    }
    let sparse = json.get("sparsity_config").and_then(|s| s.get("targets")).and_then(Value::as_array);
    if sparse.is_some_and(|t| !t.is_empty()) {
        findings.add(about(
            &rules::SPARSITY_CONFIG,
            "no sparsity_config.targets",
            "targets".to_owned(),
            "remove the sparsity_config",
        ));
    }
    let entries =
        json.get("ignore").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let ignore = entries.filter_map(|t| Some((t.to_owned(), pattern(t, findings)?))).collect();
    Config { groups, ignore, complete }
}

fn unknown_keys(at: &str, object: &Map<String, Value>, known: &[&str], findings: &mut Findings) {
    for key in object.keys().filter(|k| !known.contains(&k.as_str())) {
        findings.add(
            Finding::new(&rules::CONFIG_KEY_UNKNOWN)
                .file("config.json")
                .expected(known.join(", "))
                .found(format!("{key} in {at}"))
                .fix("remove the key"),
        );
    }
}

fn stacked(view: &View, config: &Config, findings: &mut Findings) {
    for tensor in view.tensors.iter().filter(|t| t.shape.len() == 3 && t.name.contains(".experts.")) {
        if !config.ignored(module_of(&tensor.name))
            && (common::is_coded(tensor.dtype) || tensor.dtype.is_plain_float())
        {
            findings.add(
                view.at(&rules::EXPERTS_STACKED, tensor)
                    .expected("one [N, K] tensor per expert and projection")
                    .found(format!("{}{:?}", tensor.dtype, tensor.shape))
                    .fix("split the stacked experts"),
            );
        }
    }
}

/// Whether `format`, `num_bits` and `type` describe what is stored: of all weights of a group, or of each.
fn formats(view: &View, config: &Config, findings: &mut Findings) {
    for (number, group) in config.groups.iter().enumerate() {
        let stored = group.stored();
        let members: Vec<Weight<'_>> = view
            .weights()
            .filter(|w| !common::stays_fp8(view, w))
            .filter(|w| {
                w.info.shape.len() == 2 && common::is_coded(w.info.dtype) && !config.ignored(w.module)
            })
            .filter(|w| config.group(w.module).is_some_and(|g| std::ptr::eq(g, &config.groups[number])))
            .collect();
        let fits = |w: &Weight<'_>| {
            stored.is_some_and(|(param, dtypes)| w.param == param && dtypes.contains(&w.info.dtype))
        };
        let first = members.first().map(|w| &*w.info.name);
        let mut about = |rule, expected: String, found: String| {
            let mut finding = Finding::new(rule)
                .file("config.json")
                .expected(expected)
                .found(found)
                .fix("correct the config group");
            finding.tensor = first.map(str::to_owned);
            findings.add(finding);
        };
        let found =
            members.first().map_or("no weights".to_owned(), |w| format!("{} {}", w.param, w.info.dtype));
        if stored.is_none() || (!members.is_empty() && !members.iter().any(fits)) {
            about(
                &rules::FORMAT_DTYPE,
                format!("a format of {} that fits {found}", group.name),
                format!("format {:?}", group.format),
            );
            continue;
        }
        if !members.is_empty() && !members.iter().any(|w| group.describes(w.info.dtype)) {
            let args =
                format!("num_bits {} and type {:?} in {}", group.bits(), group.text("type"), group.name);
            about(&rules::NUM_BITS_DTYPE, format!("num_bits and type that fit {found}"), args);
        }
        if group.format == "int-quantized" && !group.activations && !group.is_float() {
            about(&rules::ACTIVATIONS, format!("input_activations in {}", group.name), "none".to_owned());
        }
        for w in members.iter().filter(|w| !fits(w)) {
            let expected = stored.map_or(String::new(), |(param, dtypes)| {
                format!("{param} {}", dtypes.iter().map(|t| t.text()).collect::<Vec<_>>().join(" or "))
            });
            findings.add(
                view.at(&rules::WEIGHT_DTYPE, w.info)
                    .expected(format!("{expected} for {}", group.format))
                    .found(format!("{} {}", w.param, w.info.dtype))
                    .fix("convert again from the source"),
            );
        }
    }
}

/// Kinds that engines build with the model's quantization.
pub(super) fn is_quantizable(kind: Kind) -> bool {
    kind.is_linear() && !matches!(kind, Kind::IndexerWeights | Kind::IndexerWk | Kind::EhProj)
}

/// Whether the weight is on the side of the line that the config puts it.
fn placement(view: &View, config: &Config, w: Weight<'_>, findings: &mut Findings) {
    let ignored = config.ignored(w.module);
    let coded = common::is_coded(w.info.dtype);
    let found = format!("{}{:?}", w.info.dtype, w.info.shape);
    let again = "convert again, or correct the ignore list";
    if coded && w.role.kind == Kind::LmHead && !config.names(w.module) {
        findings.add(
            view.at(&rules::LM_HEAD_QUANTIZED, w.info)
                .expected("a float output head")
                .found(found)
                .fix(again),
        );
    } else if coded && (ignored || config.group(w.module).is_none()) {
        let side = if ignored { "ignore names it" } else { "no group targets it" };
        findings.add(
            view.at(&rules::IGNORED_QUANTIZED, w.info)
                .expected(format!("a float weight: {side}"))
                .found(found)
                .fix(again),
        );
    } else if w.info.dtype.is_plain_float()
        && !ignored
        && config.complete
        && is_quantizable(w.role.kind)
        && let Some(group) = config.group(w.module).filter(|g| g.format != "dense")
    {
        findings.add(
            view.at(&rules::WEIGHT_NOT_QUANTIZED, w.info)
                .expected(format!("codes of {}", group.format))
                .found(found)
                .fix(again),
        );
    }
}

fn scales(view: &View, group: &Group, w: Weight<'_>, findings: &mut Findings) -> Result<()> {
    let Some(scale) = view.param(w.module, "weight_scale") else {
        findings.add(
            Finding::new(&rules::SCALE_MISSING)
                .file(view.file(w.info))
                .tensor(format!("{}.weight_scale", w.module))
                .expected("a scale beside the quantized weight")
                .found("no such tensor")
                .fix("convert again from the source"),
        );
        return Ok(());
    };
    let found = format!("{}{:?}", scale.dtype, scale.shape);
    if !matches!(scale.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
        // FP4 and MX formats store their block scales as codes.
        if !(group.bits() < 8 || group.format.starts_with("mx")) {
            findings.add(
                view.at(&rules::SCALE_DTYPE, scale)
                    .expected("f32, bf16 or f16")
                    .found(found)
                    .fix("convert again from the source"),
            );
        }
        return Ok(());
    }
    if let Some(expected) = grid(group, w).filter(|e| !fits(e, scale)) {
        let rule = if scale.shape.len() == expected.len() { &rules::SCALE_GRID } else { &rules::SCALE_RANK };
        let strategy = group.text("strategy");
        findings.add(
            view.at(rule, scale)
                .expected(format!("{expected:?} for strategy {strategy}"))
                .found(found)
                .fix("convert again from the source"),
        );
    }
    check_scale(view, scale, ScaleRules { zero: &rules::SCALE_ZERO, bf16: None, power: None }, findings)
}

/// A scale of the whole tensor may be a scalar.
fn fits(expected: &[u64], scale: &TensorInfo) -> bool {
    scale.shape[..] == *expected || (expected == [1] && scale.shape.is_empty())
}

/// The scale's shape that the group's strategy asks for.
fn grid(group: &Group, w: Weight<'_>) -> Option<Vec<u64>> {
    let [n, cols] = w.info.shape[..] else { return None };
    let bits = group.bits();
    let k = match (w.param, w.info.dtype) {
        ("weight_packed", Dtype::I32) if bits > 0 && 32 % bits == 0 => cols.saturating_mul(32 / bits),
        ("weight_packed", _) => return None,
        _ => cols,
    };
    let strategy = match group.text("strategy") {
        "" if group.count("group_size").is_some() => "group",
        "" if group.weights.get("group_size").and_then(Value::as_i64) == Some(-1) => "channel",
        "" => "tensor",
        other => other,
    };
    match strategy {
        "tensor" => Some(vec![1]),
        "channel" => Some(vec![n, 1]),
        "group" => Some(vec![n, k.div_ceil(group.count("group_size")?)]),
        "block" => {
            let sides: Vec<u64> = group
                .weights
                .get("block_structure")?
                .as_array()?
                .iter()
                .filter_map(Value::as_u64)
                .filter(|s| *s > 0)
                .collect();
            let [rows, cols] = sides[..] else { return None };
            Some(vec![n.div_ceil(rows), k.div_ceil(cols)])
        }
        _ => None,
    }
}

/// Entries of `ignore` that name half of a fused module, or nothing.
fn ignores(view: &View, config: &Config, findings: &mut Findings) {
    let mut fused: BTreeMap<String, Vec<Weight<'_>>> = BTreeMap::new();
    let mut modules: BTreeSet<&str> = BTreeSet::new();
    for w in view.weights() {
        modules.insert(w.module);
        if let Some(group) = fused_group(w.role, &w.info.name) {
            fused.entry(group.key).or_default().push(w);
        }
    }
    for (key, members) in &fused {
        let out: Vec<&str> = members.iter().filter(|w| config.ignored(w.module)).map(|w| w.module).collect();
        if let Some(odd) =
            members.iter().find(|w| config.ignored(w.module)).filter(|_| out.len() < members.len())
        {
            findings.add(
                view.at(&rules::IGNORE_HALF, odd.info)
                    .expected(format!("all parts of {key} in ignore, or none"))
                    .found(out.join(", "))
                    .fix("name all parts, or none"),
            );
        }
    }
    // Engines also match the names of fused modules and of the modules around them.
    let mut names: BTreeSet<&str> = fused.keys().map(String::as_str).collect();
    for module in modules {
        let mut at = module;
        while names.insert(at) && at.contains('.') {
            at = module_of(at);
        }
    }
    for (text, pattern) in config.ignore.iter().filter(|(t, _)| !t.ends_with("lm_head")) {
        if !names.iter().any(|name| pattern.matches(name)) {
            findings.add(
                Finding::new(&rules::IGNORE_UNMATCHED)
                    .file("config.json")
                    .expected("a module of this checkpoint")
                    .found(text)
                    .fix("correct the name, or remove the entry"),
            );
        }
    }
}
