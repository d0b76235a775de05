//! Rules of every engine: what a model needs to be whole, and what a chip cannot multiply.

use super::view::{View, Weight};
use super::{Finding, Findings, native_names, rules};
use crate::checkpoint::{Kind, Part, fused_group, module_of};
use crate::dtype::Dtype;
use crate::targets::Target;
use std::collections::{BTreeMap, BTreeSet};

/// Layers or experts that one finding or rule names at most.
const NAMED: usize = 20;

pub(super) fn check(view: &View, target: Option<&Target>, findings: &mut Findings) {
    if view.config.quantization_conflict {
        findings.add(
            Finding::new(&rules::CONFIG_CONFLICT)
                .file("config.json")
                .expected("one quantization_config, or two equal ones")
                .found("other values in text_config")
                .fix("remove the one that does not describe these files"),
        );
    }
    layers(view, findings);
    modules(view, findings);
    experts(view, findings);
    ends(view, findings);
    routers(view, findings);
    if let Some(target) = target {
        chip(view, target, findings);
    }
}

/// Whether `dtype` is FP8 or a narrower float.
pub(super) fn is_fp8(dtype: Dtype) -> bool {
    use Dtype::{F4E2M1, F6E2M3, F6E3M2, F8E4M3, F8E4M3Fnuz, F8E5M2, F8E5M2Fnuz};
    matches!(dtype, F4E2M1 | F6E2M3 | F6E3M2 | F8E4M3 | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz)
}

/// Whether a weight of this dtype holds codes.
pub(super) fn is_coded(dtype: Dtype) -> bool {
    is_fp8(dtype) || matches!(dtype, Dtype::I8 | Dtype::U8 | Dtype::I32)
}

/// Whether an engine keeps this weight in FP8 whatever the rest is: the tables of n-gram embeddings of DeepSeek-V4.1 are
/// looked up and never multiplied (their loaders have a rule of their own for them), and vllm-ascend leaves `wo_a` of DSpark
/// drafts as it ships.
pub(super) fn stays_fp8(view: &View, w: &Weight<'_>) -> bool {
    w.role.kind == Kind::EngramTable || (w.role.kind == Kind::OAProj && w.role.mtp && has_dspark(view))
}

/// Whether the drafts of the model are those of DSpark.
pub(super) fn has_dspark(view: &View) -> bool {
    let marks = |name: &str| name.contains(".main_proj.") || name.contains(".markov_head.");
    view.family.has_native_names() && view.tensors.iter().any(|t| marks(&t.name))
}

/// Whether the chip multiplies FP8: some scheme of its target does.
pub(super) fn has_fp8(target: &Target) -> bool {
    target.schemes.iter().any(|s| s.encoding.is_some_and(|e| is_fp8(e.element)))
}

fn chip(view: &View, target: &Target, findings: &mut Findings) {
    if has_fp8(target) {
        return;
    }
    for weight in view.weights().filter(|w| is_fp8(w.info.dtype) && !stays_fp8(view, w)) {
        let schemes: Vec<&str> = target.schemes.iter().map(|s| s.name.as_str()).collect();
        findings.add(
            view.at(&rules::CHIP_NO_FP8, weight.info)
                .expected(format!("one of {} on {}", schemes.join(", "), target.chip))
                .found(weight.info.dtype.to_string())
                .fix(format!("silicast convert … --target {}", target.id)),
        );
    }
}

/// Every main layer has tensors.
fn layers(view: &View, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (_, role) in view.each().filter(|(_, r)| r.kind != Kind::Multimodal && !r.mtp) {
        seen.extend(role.layer);
    }
    let Some(last) = seen.last() else { return };
    let main = view.config.num_hidden_layers().unwrap_or(u64::from(*last) + 1);
    // num_hidden_layers is as hostile as any other number: counted, and only a few are looked for.
    let present = seen.iter().filter(|l| u64::from(**l) < main).count() as u64;
    if present >= main {
        return;
    }
    let missing: Vec<String> = (0u32..)
        .filter(|l| !seen.contains(l))
        .take(NAMED.min((main - present) as usize))
        .map(|l| l.to_string())
        .collect();
    findings.add(
        Finding::new(&rules::LAYER_MISSING)
            .expected(format!("tensors of {main} layers"))
            .found(format!("no tensors of {} layers: {}", main - present, missing.join(", ")))
            .fix("fetch the missing shards, or correct num_hidden_layers"),
    );
}

/// Kinds of an attention's linears.
fn is_attention(kind: Kind) -> bool {
    use Kind::{KProj, KvAProj, KvBProj, OProj, QAProj, QBProj, QProj, VProj};
    matches!(kind, QProj | KProj | VProj | OProj | QAProj | QBProj | KvAProj | KvBProj)
}

/// One layer without its routed experts.
#[derive(Default)]
struct Layer<'a> {
    prefix: &'a str,
    mtp: bool,
    attention: Vec<Kind>,
    /// Names below the layer of weights and biases, by group: `self_attn`, `mlp`, the rest.
    groups: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

/// `("model.layers.3", "mlp.gate.weight")` of `model.layers.3.mlp.gate.weight`.
fn below_layer(name: &str) -> Option<(&str, &str)> {
    let at = if name.starts_with("layers.") { 0 } else { name.find(".layers.")? + 1 };
    let number = at + "layers.".len();
    let end = number + name[number..].find('.')?;
    Some((&name[..end], &name[end + 1..]))
}

/// What takes turns in the layers of a model: attention of two kinds, a dense MLP and experts.
const PARTS: [&[&str]; 2] = [&["self_attn", "linear_attn"], &["mlp", "block_sparse_moe"]];

/// Every layer has the modules that layers of its make have.
fn modules(view: &View, findings: &mut Findings) {
    if view.family.has_native_names() {
        report_absent(native_names::missing(view), findings);
        return;
    }
    let known = view.family.id != "unknown";
    let mut layers: BTreeMap<(bool, u32), Layer<'_>> = BTreeMap::new();
    for (tensor, role) in view.each() {
        let (Some(number), Some((prefix, path))) = (role.layer, below_layer(&tensor.name)) else { continue };
        if role.kind == Kind::Multimodal
            || role.expert.is_some()
            || !matches!(role.part, Part::Weight | Part::Bias)
        {
            continue;
        }
        let layer = layers.entry((role.mtp, number)).or_default();
        (layer.prefix, layer.mtp) = (prefix, role.mtp);
        if role.part == Part::Weight && is_attention(role.kind) {
            layer.attention.push(role.kind);
        }
        let first = path.split('.').next().filter(|first| PARTS.iter().flat_map(|p| *p).any(|p| p == first));
        let group = first.unwrap_or_default();
        // Packed or not, a weight is a weight.
        let path = path.strip_suffix("_packed").unwrap_or(path);
        layer.groups.entry(group).or_default().insert(path);
    }
    let mut missing: BTreeSet<String> = BTreeSet::new();
    for layer in layers.values().filter(|_| known) {
        for path in required(view, layer) {
            missing.insert(format!("{}.{path}", layer.prefix));
        }
    }
    for names in PARTS {
        let one = |layer: &Layer<'_>| names.iter().any(|n| layer.groups.contains_key(n));
        let Some(peer) = layers.values().find(|l| !l.mtp && one(l)) else { continue };
        let path = names.iter().find_map(|n| peer.groups.get(n)?.first()).copied().unwrap_or_default();
        for layer in layers.values().filter(|l| known && !l.mtp && !one(l)) {
            missing.insert(format!("{}.{path}", layer.prefix));
        }
    }
    let absent = absent_among_peers(&layers);
    for (layer, path, have) in &absent {
        let name = format!("{}.{path}", layer.prefix);
        let role = view.family.role(&name, &[1, 1]);
        let sure = known
            && !matches!(
                role.kind,
                Kind::Other | Kind::IndexerWqB | Kind::IndexerWk | Kind::IndexerWeights | Kind::IndexerNorm
            );
        let rule = if sure { &rules::TENSOR_MISSING } else { &rules::TENSOR_MISSING_MAYBE };
        if !missing.contains(&name) {
            findings.add(
                Finding::new(rule)
                    .tensor(name)
                    .expected(format!("the tensor, which {have} other layers have"))
                    .found("no such tensor")
                    .fix("fetch the missing shard, or convert again from a complete source"),
            );
        }
    }
    report_absent(missing, findings);
}

/// Tensors that a layer of the family cannot do without.
fn report_absent(names: BTreeSet<String>, findings: &mut Findings) {
    for name in names {
        findings.add(
            Finding::new(&rules::TENSOR_MISSING)
                .tensor(name)
                .expected("every linear and norm of a layer of this family")
                .found("no such tensor")
                .fix("fetch the missing shard, or convert again from a complete source"),
        );
    }
}

/// Names below `layer` that its family requires and that are not there.
fn required(view: &View, layer: &Layer<'_>) -> Vec<&'static str> {
    use Kind::{KProj, KvAProj, KvBProj, OProj, QAProj, QBProj, QProj, VProj};
    let has = |kind: Kind| layer.attention.contains(&kind);
    let mut out = Vec::new();
    let mut need = |kind: Kind, path| {
        if !has(kind) {
            out.push(path);
        }
    };
    if [QAProj, QBProj, KvAProj, KvBProj].into_iter().any(has) {
        if !has(QProj) {
            need(QAProj, "self_attn.q_a_proj.weight");
            need(QBProj, "self_attn.q_b_proj.weight");
        }
        need(KvAProj, "self_attn.kv_a_proj_with_mqa.weight");
        need(KvBProj, "self_attn.kv_b_proj.weight");
        need(OProj, "self_attn.o_proj.weight");
    } else if !layer.attention.is_empty() {
        need(QProj, "self_attn.q_proj.weight");
        need(KProj, "self_attn.k_proj.weight");
        need(VProj, "self_attn.v_proj.weight");
        need(OProj, "self_attn.o_proj.weight");
    }
    let mlp = layer.groups.get("mlp");
    let dense = ["mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"];
    if mlp.is_some_and(|paths| dense.iter().any(|p| paths.contains(p))) {
        out.extend(dense.iter().filter(|p| mlp.is_some_and(|paths| !paths.contains(**p))));
    }
    if layer.mtp && view.family.has_mtp_layers() {
        let rest = layer.groups.get("");
        let mtp = ["eh_proj.weight", "enorm.weight", "hnorm.weight", "shared_head.norm.weight"];
        out.extend(mtp.iter().filter(|p| rest.is_none_or(|paths| !paths.contains(**p))));
    }
    out
}

/// What a main layer lacks that a layer of the same make has: its names are a part of the other's, and no more layers
/// look like it than like the other.
fn absent_among_peers<'a>(
    layers: &'a BTreeMap<(bool, u32), Layer<'a>>,
) -> Vec<(&'a Layer<'a>, &'a str, usize)> {
    let mut out = Vec::new();
    for group in PARTS.iter().flat_map(|p| *p).copied().chain([""]) {
        let mut makes: BTreeMap<&BTreeSet<&str>, Vec<&Layer<'_>>> = BTreeMap::new();
        for layer in layers.values().filter(|l| !l.mtp) {
            if let Some(paths) = layer.groups.get(group) {
                makes.entry(paths).or_default().push(layer);
            }
        }
        for (paths, members) in &makes {
            let fuller = makes
                .iter()
                .filter(|(other, peers)| {
                    peers.len() >= members.len() && other.len() > paths.len() && other.is_superset(paths)
                })
                .max_by_key(|(_, peers)| peers.len());
            if let Some((other, peers)) = fuller {
                for layer in members {
                    out.extend(other.difference(paths).map(|path| (*layer, *path, peers.len())));
                }
            }
        }
    }
    out
}

/// Weights of routed experts: (prefix, expert, path below the expert).
pub(super) fn expert_path(name: &str) -> Option<(&str, u32, &str)> {
    let at = name.find(".experts.")? + ".experts.".len();
    let (number, path) = name[at..].split_once('.')?;
    Some((&name[..at - 1], number.parse().ok()?, path))
}

/// Every layer of experts has all of them, each whole.
fn experts(view: &View, findings: &mut Findings) {
    let mut sets: BTreeMap<&str, BTreeMap<u32, BTreeSet<&str>>> = BTreeMap::new();
    for w in view.weights() {
        if let Some((prefix, expert, path)) = expert_path(&w.info.name) {
            sets.entry(prefix).or_default().entry(expert).or_default().insert(path);
        }
    }
    let config = &view.config;
    // The drafts of DSpark have fewer experts than the model.
    let count_of = |prefix: &str| {
        let draft = prefix.starts_with("mtp.").then(|| config.count("dspark_n_routed_experts")).flatten();
        let keys = ["n_routed_experts", "num_experts", "num_local_experts"];
        draft.or_else(|| keys.into_iter().find_map(|k| config.count(k)))
    };
    let miss = |prefix: &str, expert: u64, path: &str, findings: &mut Findings| {
        let count = count_of(prefix);
        findings.add(
            Finding::new(&rules::EXPERT_MISSING)
                .tensor(format!("{prefix}.{expert}.{path}"))
                .expected(
                    count.map_or("every expert whole".to_owned(), |n| format!("{n} experts, each whole")),
                )
                .found("no such tensor")
                .fix("fetch the missing shard, or convert again from a complete source"),
        );
    };
    for (prefix, experts) in &sets {
        let union: BTreeSet<&str> = experts.values().flatten().copied().collect();
        let last = experts.last_key_value().map_or(0, |(e, _)| *e);
        let wanted = count_of(prefix).unwrap_or(u64::from(last) + 1);
        let mut named = 0;
        for expert in 0..wanted {
            let have = u32::try_from(expert).ok().and_then(|e| experts.get(&e));
            for path in union.iter().filter(|p| have.is_none_or(|h| !h.contains(**p))) {
                miss(prefix, expert, path, findings);
                named += 1;
            }
            if named > 3 * NAMED {
                break;
            }
        }
    }
    if sets.is_empty() {
        return;
    }
    // A router without experts, where other routers have some.
    for w in view.weights().filter(|w| w.role.kind == Kind::Router && w.module.ends_with(".gate")) {
        let prefix = format!("{}.experts", module_of(w.module));
        let stacked = view.tensors.iter().any(|t| t.name.starts_with(&prefix));
        if !stacked {
            miss(&prefix, 0, "gate_proj.weight", findings);
        }
    }
}

/// Embedding, output head, multi-token prediction.
fn ends(view: &View, findings: &mut Findings) {
    let has = |kind: Kind| view.each().any(|(_, r)| r.kind == kind && r.part == Part::Weight && !r.mtp);
    // Encoders, classifiers and drafts do without one or both.
    let names = view.config.architectures();
    let generates =
        names.iter().all(|a| a.ends_with("ForCausalLM") || a.ends_with("ForConditionalGeneration"));
    let known = view.family.id != "unknown" && generates;
    if known && !has(Kind::Embed) {
        findings.add(
            Finding::new(&rules::EMBED_MISSING)
                .tensor("model.embed_tokens.weight")
                .expected("a token embedding")
                .found("no such tensor")
                .fix("fetch the missing shard"),
        );
    }
    let untied =
        known || generates && view.config.flag("tie_word_embeddings") == Some(false) && has(Kind::Embed);
    if untied && !view.config.tie_word_embeddings() && !has(Kind::LmHead) {
        findings.add(
            Finding::new(&rules::LM_HEAD_MISSING)
                .tensor("lm_head.weight")
                .expected("lm_head.weight, or tie_word_embeddings true")
                .found("neither")
                .fix("fetch the missing shard, or correct tie_word_embeddings"),
        );
    }
    if promises_absent_mtp(view) && !view.has_ascend_names() && view.descriptions().is_empty() {
        findings.add(mtp_finding(view, &rules::MTP_ABSENT));
    }
}

/// Whether config.json promises multi-token prediction that no tensor belongs to.
pub(super) fn promises_absent_mtp(view: &View) -> bool {
    view.config.num_mtp_layers() > 0 && !view.roles.iter().any(|r| r.mtp)
}

/// The finding that goes with [`promises_absent_mtp`].
pub(super) fn mtp_finding(view: &View, rule: &'static super::Rule) -> Finding {
    Finding::new(rule)
        .file("config.json")
        .expected(format!("tensors of {} layers of multi-token prediction", view.config.num_mtp_layers()))
        .found("none")
        .fix("convert again from a source that has them, or set num_nextn_predict_layers to 0")
}

fn routers(view: &View, findings: &mut Findings) {
    for (tensor, role) in view.each() {
        let bias = tensor.name.ends_with("e_score_correction_bias");
        let weight = role.kind == Kind::Router && role.part == Part::Weight;
        if (bias || weight) && !tensor.dtype.is_plain_float() {
            findings.add(
                view.at(&rules::ROUTER_QUANTIZED, tensor)
                    .expected("a float tensor")
                    .found(tensor.dtype.to_string())
                    .fix("convert again from the source and leave the router float"),
            );
        } else if bias && tensor.dtype != Dtype::F32 {
            findings.add(
                view.at(&rules::ROUTER_BIAS_DTYPE, tensor)
                    .expected("f32")
                    .found(tensor.dtype.to_string())
                    .fix("convert again from the source, which has F32"),
            );
        }
    }
}

/// Fused modules and layers of experts whose weights differ in dtype.
pub(super) fn mixed_dtypes(view: &View, findings: &mut Findings) {
    let mut fused: BTreeMap<String, Vec<Weight<'_>>> = BTreeMap::new();
    let mut first: BTreeMap<(&str, &str), Weight<'_>> = BTreeMap::new();
    for w in view.weights() {
        if let Some(group) = fused_group(w.role, &w.info.name) {
            fused.entry(group.key).or_default().push(w);
        }
        if let Some((prefix, _, path)) = expert_path(&w.info.name) {
            // Natural order: the first that comes is expert 0.
            let zero = first.entry((prefix, path)).or_insert(w);
            if zero.info.dtype != w.info.dtype {
                findings.add(
                    view.at(&rules::EXPERTS_MIXED, w.info)
                        .expected(format!("{}, as {}", zero.info.dtype, zero.info.name))
                        .found(w.info.dtype.to_string())
                        .fix("convert again with one scheme for all experts of a layer"),
                );
            }
        }
    }
    for (key, members) in fused {
        let dtypes: BTreeSet<Dtype> = members.iter().map(|w| w.info.dtype).collect();
        if dtypes.len() < 2 {
            continue;
        }
        let odd = members.iter().find(|w| w.info.dtype.is_plain_float()).or(members.last());
        if let Some(odd) = odd {
            let all: Vec<String> =
                members.iter().map(|w| format!("{} {}", w.info.name, w.info.dtype)).collect();
            findings.add(
                view.at(&rules::FUSED_MIXED, odd.info)
                    .expected(format!("one dtype in {key}"))
                    .found(all.join(", "))
                    .fix("convert again with one scheme for all parts of the fused module"),
            );
        }
    }
}
