//! The roles of the families whose names are not those of DeepSeek V3 or Llama, and what engines fuse of them.

use super::tests::{check, family, text};
use super::*;
use crate::checkpoint::role::{FusedPart, fused_group};
use serde_json::json;

const V4: &[(&str, &str)] = &[
    ("embed.weight", "Embed Dense Weight - -"),
    ("head.weight", "LmHead Dense Weight - -"),
    ("norm.weight", "Norm Dense Weight - -"),
    ("hc_head_fn", "HyperConnection Dense Other - -"),
    ("hc_head_base", "HyperConnection Dense Other - -"),
    ("hc_head_scale", "HyperConnection Dense Other - -"),
    ("layers.3.attn_norm.weight", "Norm Dense Weight 3 -"),
    ("layers.3.ffn_norm.weight", "Norm Dense Weight 3 -"),
    ("layers.3.hc_attn_fn", "HyperConnection Dense Other 3 -"),
    ("layers.3.hc_attn_base", "HyperConnection Dense Other 3 -"),
    ("layers.3.hc_attn_scale", "HyperConnection Dense Other 3 -"),
    ("layers.3.hc_ffn_fn", "HyperConnection Dense Other 3 -"),
    ("layers.3.hc_ffn_base", "HyperConnection Dense Other 3 -"),
    ("layers.3.hc_ffn_scale", "HyperConnection Dense Other 3 -"),
    ("layers.0.attn.wq_a.weight", "QAProj Dense Weight 0 -"),
    ("layers.0.attn.wq_a.scale", "QAProj Dense Scale 0 -"),
    ("layers.0.attn.wq_b.weight", "QBProj Dense Weight 0 -"),
    ("layers.0.attn.q_norm.weight", "Norm Dense Weight 0 -"),
    ("layers.0.attn.wkv.weight", "KvProj Dense Weight 0 -"),
    ("layers.0.attn.kv_norm.weight", "Norm Dense Weight 0 -"),
    ("layers.0.attn.wo_a.weight", "OAProj Dense Weight 0 -"),
    ("layers.0.attn.wo_b.scale", "OBProj Dense Scale 0 -"),
    ("layers.0.attn.attn_sink", "Sink Dense Other 0 -"),
    ("layers.2.attn.compressor.ape", "Compressor Dense Other 2 -"),
    ("layers.2.attn.compressor.norm.weight", "Compressor Dense Weight 2 -"),
    ("layers.2.attn.compressor.wkv.weight", "Compressor Dense Weight 2 -"),
    ("layers.2.attn.compressor.wgate.weight", "Compressor Dense Weight 2 -"),
    ("layers.2.attn.indexer.wq_b.weight", "IndexerWqB Dense Weight 2 -"),
    ("layers.2.attn.indexer.weights_proj.weight", "IndexerWeights Dense Weight 2 -"),
    ("layers.2.attn.indexer.compressor.ape", "Compressor Dense Other 2 -"),
    ("layers.2.attn.indexer.compressor.norm.weight", "Compressor Dense Weight 2 -"),
    ("layers.2.attn.indexer.compressor.wkv.weight", "Compressor Dense Weight 2 -"),
    ("layers.2.attn.indexer.compressor.wgate.weight", "Compressor Dense Weight 2 -"),
    ("layers.0.ffn.gate.weight", "Router Dense Weight 0 -"),
    ("layers.0.ffn.gate.tid2eid", "HashRoute Dense Other 0 -"),
    ("layers.3.ffn.gate.bias", "Router Dense Bias 3 -"),
    ("layers.3.ffn.experts.255.w1.weight", "GateProj Expert Weight 3 255"),
    ("layers.3.ffn.experts.255.w2.scale", "DownProj Expert Scale 3 255"),
    ("layers.3.ffn.experts.255.w3.weight", "UpProj Expert Weight 3 255"),
    ("layers.3.ffn.shared_experts.w1.weight", "GateProj Shared Weight 3 -"),
    ("layers.3.ffn.shared_experts.w2.weight", "DownProj Shared Weight 3 -"),
    ("layers.3.ffn.shared_experts.w3.scale", "UpProj Shared Scale 3 -"),
    ("mtp.0.e_proj.weight", "EhProj Dense Weight 0 - mtp"),
    ("mtp.0.h_proj.scale", "EhProj Dense Scale 0 - mtp"),
    ("mtp.0.enorm.weight", "Norm Dense Weight 0 - mtp"),
    ("mtp.0.hnorm.weight", "Norm Dense Weight 0 - mtp"),
    ("mtp.0.norm.weight", "Norm Dense Weight 0 - mtp"),
    ("mtp.0.hc_head_scale", "HyperConnection Dense Other 0 - mtp"),
    ("mtp.0.emb.tok_emb.weight", "Embed Dense Weight 0 - mtp"),
    ("mtp.0.head.weight", "SharedHead Dense Weight 0 - mtp"),
    ("mtp.0.main_proj.weight", "EhProj Dense Weight 0 - mtp"),
    ("mtp.0.main_norm.weight", "Norm Dense Weight 0 - mtp"),
    ("mtp.1.hc_attn_scale", "HyperConnection Dense Other 1 - mtp"),
    ("mtp.1.ffn.experts.7.w1.weight", "GateProj Expert Weight 1 7 mtp"),
    ("mtp.2.attn.wo_a.weight", "OAProj Dense Weight 2 - mtp"),
    ("mtp.2.markov_head.markov_w1.weight", "MarkovHead Dense Weight 2 - mtp"),
    ("mtp.2.markov_head.markov_w2.weight", "MarkovHead Dense Weight 2 - mtp"),
    ("mtp.2.confidence_head.proj.weight", "ConfidenceHead Dense Weight 2 - mtp"),
    // Names of others mean nothing here.
    ("layers.0.attn.wk.weight", "Other Dense Weight 0 -"),
    ("layers.0.hc_other_scale", "Other Dense Other 0 -"),
];

const V41: &[(&str, &str)] = &[
    ("layers.2.attn.indexer.wk.weight", "IndexerWk Dense Weight 2 -"),
    ("layers.2.attn.indexer.k_norm.weight", "IndexerNorm Dense Weight 2 -"),
    ("layers.2.ffn.gate.bias_vl", "Router Dense Bias 2 -"),
    ("layers.1.engram.embed.weight", "EngramTable Dense Weight 1 -"),
    ("layers.1.engram.embed.scale", "EngramTable Dense Scale 1 -"),
    ("layers.1.engram.wkv.weight", "EngramProj Dense Weight 1 -"),
    ("layers.1.engram.q_weight", "EngramProj Dense Other 1 -"),
    ("layers.1.engram.k_weight", "EngramProj Dense Other 1 -"),
    ("mtp.2.markov_head.embed.weight", "MarkovHead Dense Weight 2 - mtp"),
    ("mtp.2.markov_head.head.weight", "MarkovHead Dense Weight 2 - mtp"),
    ("vision.blocks.0.attn.wqkv.weight", "Multimodal Dense Weight - -"),
    ("aligner.w1.weight", "Multimodal Dense Weight - -"),
    ("image_start", "Multimodal Dense Other - -"),
    ("image_newline", "Multimodal Dense Other - -"),
];

const KIMI_K25: &[(&str, &str)] = &[
    ("language_model.lm_head.weight", "LmHead Dense Weight - -"),
    ("language_model.model.embed_tokens.weight", "Embed Dense Weight - -"),
    ("language_model.model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "KvAProj Dense Weight 0 -"),
    ("language_model.model.layers.1.mlp.experts.383.up_proj.weight_packed", "UpProj Expert Weight 1 383"),
    ("language_model.model.layers.1.mlp.experts.383.up_proj.weight_scale", "UpProj Expert Scale 1 383"),
    ("language_model.model.layers.1.mlp.experts.383.up_proj.weight_shape", "UpProj Expert Shape 1 383"),
    ("vision_tower.encoder.blocks.0.wqkv.bias", "Multimodal Dense Bias - -"),
    ("mm_projector.proj.0.weight", "Multimodal Dense Weight - -"),
];

const KIMI_K3: &[(&str, &str)] = &[
    ("language_model.model.output_attn_res_proj.weight", "ResidualScore Dense Weight - -"),
    ("language_model.model.output_attn_res_norm.weight", "Norm Dense Weight - -"),
    ("language_model.model.layers.1.self_attention_res_proj.weight", "ResidualScore Dense Weight 1 -"),
    ("language_model.model.layers.1.mlp_res_norm.weight", "Norm Dense Weight 1 -"),
    ("language_model.model.layers.1.self_attn.q_proj.weight", "QProj Dense Weight 1 -"),
    ("language_model.model.layers.1.self_attn.q_conv1d.weight", "Conv Dense Weight 1 -"),
    ("language_model.model.layers.1.self_attn.A_log", "LinearAttnState Dense Other 1 -"),
    ("language_model.model.layers.1.self_attn.dt_bias", "LinearAttnState Dense Other 1 -"),
    ("language_model.model.layers.1.self_attn.f_a_proj.weight", "AttnGate Dense Weight 1 -"),
    ("language_model.model.layers.1.self_attn.f_b_proj.weight", "AttnGate Dense Weight 1 -"),
    ("language_model.model.layers.1.self_attn.b_proj.weight", "AttnGate Dense Weight 1 -"),
    ("language_model.model.layers.1.self_attn.g_proj.weight", "AttnGate Dense Weight 1 -"),
    ("language_model.model.layers.1.self_attn.o_norm.weight", "Norm Dense Weight 1 -"),
    ("language_model.model.layers.3.self_attn.kv_b_proj.weight", "KvBProj Dense Weight 3 -"),
    ("language_model.model.layers.1.block_sparse_moe.gate.weight", "Router Dense Weight 1 -"),
    ("language_model.model.layers.1.block_sparse_moe.gate.e_score_correction_bias", "Router Dense Bias 1 -"),
    (
        "language_model.model.layers.1.block_sparse_moe.experts.895.w1.weight_packed",
        "GateProj Expert Weight 1 895",
    ),
    (
        "language_model.model.layers.1.block_sparse_moe.experts.895.w2.weight_scale",
        "DownProj Expert Scale 1 895",
    ),
    (
        "language_model.model.layers.1.block_sparse_moe.routed_expert_down_proj.weight",
        "LatentDown Dense Weight 1 -",
    ),
    (
        "language_model.model.layers.1.block_sparse_moe.routed_expert_up_proj.weight",
        "LatentUp Dense Weight 1 -",
    ),
    ("language_model.model.layers.1.block_sparse_moe.routed_expert_norm.weight", "Norm Dense Weight 1 -"),
    (
        "language_model.model.layers.1.block_sparse_moe.shared_experts.gate_proj.weight",
        "GateProj Shared Weight 1 -",
    ),
];

const GLM5_NEXT: &[(&str, &str)] = &[
    ("model.language_model.layers.3.hc_attn_scale", "HyperConnection Dense Other 3 -"),
    ("model.language_model.layers.3.hc_ffn_fn", "HyperConnection Dense Other 3 -"),
    ("model.language_model.layers.3.self_attn.k_conv1d.weight", "Conv Dense Weight 3 -"),
    ("model.language_model.layers.3.self_attn.f_a_proj.weight", "AttnGate Dense Weight 3 -"),
    ("model.language_model.layers.3.self_attn.g_b_proj.weight", "AttnGate Dense Weight 3 -"),
    ("model.language_model.layers.4.self_attn.q_a_proj.weight", "QAProj Dense Weight 4 -"),
    ("model.language_model.layers.4.self_attn.indexer.wk.weight", "IndexerWk Dense Weight 4 -"),
    (
        "model.language_model.layers.4.self_attn.indexer.index_kpool_compress_gate",
        "Compressor Dense Other 4 -",
    ),
    (
        "model.language_model.layers.4.self_attn.indexer.index_kpool_compress_ape",
        "Compressor Dense Other 4 -",
    ),
    ("model.language_model.layers.61.eh_proj.weight", "EhProj Dense Weight 61 - mtp"),
    ("model.visual.blocks.0.attn.qkv.weight", "Multimodal Dense Weight - -"),
];

const MINIMAX_M2: &[(&str, &str)] = &[
    ("model.layers.0.self_attn.q_norm.weight", "Norm Dense Weight 0 -"),
    ("model.layers.0.block_sparse_moe.gate.weight", "Router Dense Weight 0 -"),
    ("model.layers.0.block_sparse_moe.e_score_correction_bias", "Router Dense Bias 0 -"),
    ("model.layers.0.block_sparse_moe.experts.9.w1.weight", "GateProj Expert Weight 0 9"),
    ("model.layers.0.block_sparse_moe.experts.9.w2.weight_scale_inv", "DownProj Expert Scale 0 9"),
    ("model.layers.0.block_sparse_moe.experts.9.w3.weight", "UpProj Expert Weight 0 9"),
];

const MINIMAX_M3: &[(&str, &str)] = &[
    (
        "language_model.model.layers.3.block_sparse_moe.shared_experts.up_proj.weight",
        "UpProj Shared Weight 3 -",
    ),
    (
        "language_model.model.layers.3.block_sparse_moe.experts.9.w3.weight_scale_inv",
        "UpProj Expert Scale 3 9",
    ),
    ("language_model.model.layers.3.self_attn.index_q_proj.weight", "IndexerWqB Dense Weight 3 -"),
    ("language_model.model.layers.3.self_attn.index_k_proj.weight", "IndexerWk Dense Weight 3 -"),
    ("language_model.model.layers.3.self_attn.index_q_norm.weight", "IndexerNorm Dense Weight 3 -"),
    ("language_model.model.layers.3.self_attn.index_k_norm.weight", "IndexerNorm Dense Weight 3 -"),
    ("patch_merge_mlp.linear_1.weight", "Multimodal Dense Weight - -"),
    ("multi_modal_projector.linear_1.bias", "Multimodal Dense Bias - -"),
    ("vision_tower.vision_model.pre_layrnorm.weight", "Multimodal Dense Weight - -"),
];

const GPT_OSS: &[(&str, &str)] = &[
    ("model.layers.0.self_attn.sinks", "Sink Dense Other 0 -"),
    ("model.layers.0.self_attn.o_proj.bias", "OProj Dense Bias 0 -"),
    ("model.layers.0.mlp.router.weight", "Router Dense Weight 0 -"),
    ("model.layers.0.mlp.router.bias", "Router Dense Bias 0 -"),
    ("model.layers.0.mlp.experts.gate_up_proj", "ExpertsGateUp Expert Weight 0 -"),
    ("model.layers.0.mlp.experts.gate_up_proj_blocks", "ExpertsGateUp Expert Weight 0 -"),
    ("model.layers.0.mlp.experts.gate_up_proj_scales", "ExpertsGateUp Expert Scale 0 -"),
    ("model.layers.0.mlp.experts.gate_up_proj_bias", "ExpertsGateUp Expert Bias 0 -"),
    ("model.layers.0.mlp.experts.down_proj_blocks", "ExpertsDown Expert Weight 0 -"),
    ("model.layers.0.mlp.experts.down_proj_scales", "ExpertsDown Expert Scale 0 -"),
    ("model.layers.0.mlp.experts.down_proj_bias", "ExpertsDown Expert Bias 0 -"),
];

const FUSED: &[(&str, &str)] = &[
    ("model.language_model.layers.0.mlp.experts.gate_up_proj", "ExpertsGateUp Expert Weight 0 -"),
    ("model.language_model.layers.0.mlp.experts.down_proj", "ExpertsDown Expert Weight 0 -"),
    ("model.language_model.layers.0.mlp.experts.5.down_proj.weight", "DownProj Expert Weight 0 5"),
    ("model.visual.deepstack_merger_list.0.norm.weight", "Multimodal Dense Weight - -"),
];

const HYBRID: &[(&str, &str)] = &[
    ("model.layers.0.linear_attn.conv1d.weight", "Conv Dense Weight 0 -"),
    ("model.layers.0.linear_attn.A_log", "LinearAttnState Dense Other 0 -"),
    ("model.layers.0.linear_attn.dt_bias", "LinearAttnState Dense Other 0 -"),
    ("model.layers.0.linear_attn.norm.weight", "Norm Dense Weight 0 -"),
    ("model.layers.0.linear_attn.out_proj.weight", "LinearAttnOut Dense Weight 0 -"),
    ("model.layers.0.linear_attn.in_proj_qkvz.weight", "LinearAttnIn Dense Weight 0 -"),
    ("model.layers.0.linear_attn.in_proj_ba.weight", "LinearAttnIn Dense Weight 0 -"),
    ("model.language_model.layers.0.linear_attn.in_proj_qkv.weight", "LinearAttnIn Dense Weight 0 -"),
    ("model.language_model.layers.0.linear_attn.in_proj_z.weight", "LinearAttnIn Dense Weight 0 -"),
    ("model.language_model.layers.0.linear_attn.in_proj_a.weight", "LinearAttnIn Dense Weight 0 -"),
    ("model.language_model.layers.0.linear_attn.in_proj_b.weight", "LinearAttnIn Dense Weight 0 -"),
    ("mtp.fc.weight", "EhProj Dense Weight - - mtp"),
    ("mtp.pre_fc_norm_embedding.weight", "Norm Dense Weight - - mtp"),
    ("mtp.pre_fc_norm_hidden.weight", "Norm Dense Weight - - mtp"),
    ("mtp.norm.weight", "Norm Dense Weight - - mtp"),
    ("mtp.layers.0.self_attn.q_proj.weight", "QProj Dense Weight 0 - mtp"),
];

const SHARED_EXPERT: &[(&str, &str)] = &[
    ("model.layers.0.mlp.shared_expert.down_proj.weight", "DownProj Shared Weight 0 -"),
    ("model.layers.0.mlp.shared_expert_gate.weight", "Router Shared Weight 0 -"),
];

/// A family, and names with what they are, in groups.
type Named = (&'static str, &'static [&'static [(&'static str, &'static str)]]);

pub(super) const FAMILIES: &[Named] = &[
    ("deepseek_v4", &[V4]),
    ("deepseek_v41", &[V4, V41]),
    ("kimi_k2", &[KIMI_K25]),
    ("kimi_k3", &[KIMI_K3]),
    ("glm5_next", &[GLM5_NEXT]),
    ("gpt_oss", &[GPT_OSS]),
    ("mixtral", &[&[("model.layers.0.block_sparse_moe.experts.7.w2.weight", "DownProj Expert Weight 0 7")]]),
    ("minimax_m2", &[MINIMAX_M2]),
    ("minimax_m3_vl", &[MINIMAX_M2, MINIMAX_M3]),
    ("qwen3_vl_moe", &[FUSED]),
    ("qwen3_next", &[HYBRID, SHARED_EXPERT]),
    ("qwen3_5", &[HYBRID]),
    ("qwen3_5_moe", &[HYBRID, SHARED_EXPERT, FUSED]),
];

#[test]
fn every_name_of_the_shipped_families() {
    for (id, tables) in FAMILIES {
        let found = family(id, 61);
        assert_eq!(found.id, *id);
        tables.iter().for_each(|table| check(&found, table));
    }
}

/// What a name says by itself, by the last of its numbers behind `layers`, `mtp` and `experts`.
fn spelled(name: &str) -> (Option<u32>, Option<u32>, bool, bool) {
    let parts: Vec<&str> = name.split('.').collect();
    let number =
        |of: &str| parts.windows(2).rev().find(|w| w[0] == of).and_then(|w| w[1].parse::<u32>().ok());
    (
        number("layers").or_else(|| number("mtp")),
        number("experts"),
        parts[0] == "mtp",
        name.contains("shared_expert"),
    )
}

/// No tensor of a fixture is of an unknown kind, and each is where its name says.
fn check_model(model: &str, config: serde_json::Value, names: impl Iterator<Item = (String, Vec<u64>)>) {
    let family = Family::detect(&Config::from_value(config).unwrap());
    assert_ne!(family.id, "unknown", "{model}");
    for (name, shape) in names {
        let role = family.role(&name, &shape);
        assert_ne!(role.kind, Kind::Other, "{model} {name}");
        assert!(role.label().is_some(), "{model} {name}");
        if role.kind == Kind::Multimodal {
            continue;
        }
        let (layer, expert, mtp, shared) = spelled(&name);
        assert_eq!((role.layer, role.expert), (layer, expert), "{model} {name}");
        let beyond = layer.is_some_and(|l| family.layers.is_some_and(|main| u64::from(l) >= main));
        assert_eq!(role.mtp, mtp || family.has_mtp_layers() && beyond, "{model} {name}");
        let fused = matches!(role.kind, Kind::ExpertsGateUp | Kind::ExpertsDown);
        let scope = match (expert.is_some() || fused, shared) {
            (true, _) => Scope::Expert,
            (_, true) => Scope::Shared,
            _ => Scope::Dense,
        };
        assert_eq!(role.scope, scope, "{model} {name}");
        // A parameter that decides nothing by its name is one of the few that have none of a module.
        let own =
            ["ape", "A_log", "dt_bias", "attn_sink", "sinks", "tid2eid", "q_weight", "k_weight", "inv_freq"];
        let last = name.rsplit('.').next().unwrap_or_default();
        let known = own.contains(&last) || last.starts_with("hc_");
        assert_eq!(role.part == Part::Other, known, "{model} {name}: {:?}", role.part);
    }
}

#[test]
fn every_tensor_of_every_fixture_has_a_role() {
    // An invented architecture, whose names are to be unknown.
    for model in xtask::fixtures::all_names().filter(|name| *name != "unknown-bf16") {
        let (config, infos) = xtask::fixtures::describe(model).unwrap();
        check_model(model, config, infos.into_iter().map(|info| (info.name, info.shape)));
    }
}

#[test]
fn every_tensor_of_every_giant_has_a_role() {
    for model in xtask::fixtures::giant_names() {
        let config = xtask::giants::manifest(model).unwrap()["config"].clone();
        let infos = xtask::giants::giant_tensors(model).unwrap();
        check_model(model, config, infos.into_iter().map(|info| (info.name, info.shape)));
    }
}

#[test]
fn wrappers_of_a_language_model() {
    let detect = |config| Family::detect(&Config::from_value(config).unwrap()).id;
    assert_eq!(
        detect(json!({"model_type": "kimi_k25", "text_config": {"model_type": "deepseek_v3"}})),
        "kimi_k2"
    );
    assert_eq!(
        detect(json!({"model_type": "kimi_k3", "text_config": {"model_type": "kimi_linear"}})),
        "kimi_k3"
    );
    let v41 = json!({"model_type": "deepseek_v41", "text_config": {"model_type": "deepseek_v41_text", "num_hidden_layers": 40}});
    assert_eq!(Family::detect(&Config::from_value(v41.clone()).unwrap()).layers, Some(40));
    assert_eq!(detect(v41), "deepseek_v41");
    assert_eq!(detect(json!({"architectures": ["DeepseekV41ForCausalLM"]})), "deepseek_v41");
}

#[test]
fn parameters_of_packed_weights() {
    let llama = family("llama", 2);
    for (param, part) in [
        ("qweight", "Weight"),
        ("qzeros", "ZeroPoint"),
        ("scales", "Scale"),
        ("g_idx", "GroupIndex"),
        ("weight_packed", "Weight"),
        ("weight_shape", "Shape"),
        ("weight_zero_point", "ZeroPoint"),
        ("weight_offset", "ZeroPoint"),
        ("weight_scale", "Scale"),
        ("weight_scale_2", "Scale"),
        ("weight_global_scale", "Scale"),
        ("input_global_scale", "ActivationScale"),
        ("input_scale", "ActivationScale"),
    ] {
        let name = format!("model.layers.1.self_attn.q_proj.{param}");
        assert_eq!(text(&llama, &name), format!("QProj Dense {part} 1 -"));
    }
}

#[test]
fn what_engines_fuse() {
    let group = |family: &Family, name: &str| fused_group(&family.role(name, &[2, 2]), name);
    let part = |key: &str, part, parts| Some(FusedPart { key: key.into(), part, parts });
    let v4 = family("deepseek_v4", 43);
    for (name, key, at) in [
        ("layers.1.attn.wq_a.weight", "layers.1.attn.fused_wqa_wkv", 0),
        ("layers.1.attn.wkv.scale", "layers.1.attn.fused_wqa_wkv", 1),
        ("mtp.0.attn.wkv.weight", "mtp.0.attn.fused_wqa_wkv", 1),
        ("layers.2.attn.compressor.wkv.weight", "layers.2.attn.compressor.fused_wkv_wgate", 0),
        (
            "layers.2.attn.indexer.compressor.wgate.weight",
            "layers.2.attn.indexer.compressor.fused_wkv_wgate",
            1,
        ),
        ("layers.2.ffn.experts.7.w1.weight", "layers.2.ffn.experts.7.gate_up_proj", 0),
        ("layers.2.ffn.shared_experts.w3.weight", "layers.2.ffn.shared_experts.gate_up_proj", 1),
    ] {
        assert_eq!(group(&v4, name), part(key, at, 2), "{name}");
    }
    for alone in ["attn.wq_b", "attn.wo_a", "attn.compressor.norm", "ffn.experts.7.w2", "ffn.gate"] {
        assert_eq!(group(&v4, &format!("layers.2.{alone}.weight")), None, "{alone}");
    }
    let qwen = family("qwen3_5_moe", 2);
    let at = "model.language_model.layers.0.linear_attn";
    for (last, key, index) in
        [("qkv", "in_proj_qkvz", 0), ("z", "in_proj_qkvz", 1), ("b", "in_proj_ba", 0), ("a", "in_proj_ba", 1)]
    {
        let name = format!("{at}.in_proj_{last}.weight");
        assert_eq!(group(&qwen, &name), part(&format!("{at}.{key}"), index, 2), "{name}");
    }
    assert_eq!(group(&qwen, "model.language_model.layers.0.mlp.experts.gate_up_proj"), None);
    let next = family("qwen3_next", 2);
    assert_eq!(group(&next, "model.layers.0.linear_attn.in_proj_qkvz.weight"), None);
}
