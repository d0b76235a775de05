//! The roles of every tensor name of every family.

use super::*;
use crate::checkpoint::role::{FusedPart, fused_group};
use serde_json::json;

pub(super) fn family(model_type: &str, layers: u64) -> Family {
    let config = json!({"model_type": model_type, "num_hidden_layers": layers});
    Family::detect(&Config::from_value(config).unwrap())
}

/// `kind scope part layer expert mtp`, short.
pub(super) fn text(family: &Family, name: &str) -> String {
    let r = family.role(name, &[2, 2]);
    let number = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
    let mtp = if r.mtp { " mtp" } else { "" };
    format!("{:?} {:?} {:?} {} {}{mtp}", r.kind, r.scope, r.part, number(r.layer), number(r.expert))
}

pub(super) fn check(family: &Family, table: &[(&str, &str)]) {
    for (name, expected) in table {
        assert_eq!(text(family, name), *expected, "{} {name}", family.id);
    }
}

const TOP: &[(&str, &str)] = &[
    ("model.embed_tokens.weight", "Embed Dense Weight - -"),
    ("lm_head.weight", "LmHead Dense Weight - -"),
    ("model.norm.weight", "Norm Dense Weight - -"),
    ("model.layers.1.input_layernorm.weight", "Norm Dense Weight 1 -"),
    ("model.layers.1.post_attention_layernorm.weight", "Norm Dense Weight 1 -"),
    ("model.layers.1.mlp.gate_proj.weight", "GateProj Dense Weight 1 -"),
    ("model.layers.1.mlp.up_proj.weight_scale_inv", "UpProj Dense Scale 1 -"),
    ("model.layers.1.mlp.down_proj.weight_scale", "DownProj Dense Scale 1 -"),
    ("model.layers.1.self_attn.o_proj.weight", "OProj Dense Weight 1 -"),
    ("model.layers.1.self_attn.o_proj.input_scale", "OProj Dense ActivationScale 1 -"),
    ("model.layers.1.self_attn.rotary_emb.inv_freq", "RotaryBuffer Dense Other 1 -"),
    ("model.rotary_emb.inv_freq", "RotaryBuffer Dense Other - -"),
    ("model.layers.1.no.such.thing", "Other Dense Other 1 -"),
];

const QKV_NAMES: &[(&str, &str)] = &[
    ("model.layers.0.self_attn.q_proj.weight", "QProj Dense Weight 0 -"),
    ("model.layers.0.self_attn.k_proj.bias", "KProj Dense Bias 0 -"),
    ("model.layers.0.self_attn.v_proj.weight", "VProj Dense Weight 0 -"),
];

const QK_NORMS: &[(&str, &str)] = &[
    ("model.layers.0.self_attn.q_norm.weight", "Norm Dense Weight 0 -"),
    ("model.layers.0.self_attn.k_norm.weight", "Norm Dense Weight 0 -"),
];

const EXPERT_NAMES: &[(&str, &str)] = &[
    ("model.layers.3.mlp.gate.weight", "Router Dense Weight 3 -"),
    ("model.layers.3.mlp.experts.0.gate_proj.weight", "GateProj Expert Weight 3 0"),
    ("model.layers.3.mlp.experts.255.up_proj.weight", "UpProj Expert Weight 3 255"),
    ("model.layers.3.mlp.experts.17.down_proj.weight_scale_inv", "DownProj Expert Scale 3 17"),
];

const SHARED_NAMES: &[(&str, &str)] = &[
    ("model.layers.3.mlp.gate.e_score_correction_bias", "Router Dense Bias 3 -"),
    ("model.layers.3.mlp.shared_experts.gate_proj.weight", "GateProj Shared Weight 3 -"),
    ("model.layers.3.mlp.shared_experts.up_proj.weight", "UpProj Shared Weight 3 -"),
    ("model.layers.3.mlp.shared_experts.down_proj.weight", "DownProj Shared Weight 3 -"),
];

const MLA_NAMES: &[(&str, &str)] = &[
    ("model.layers.0.self_attn.q_proj.weight", "QProj Dense Weight 0 -"),
    ("model.layers.0.self_attn.q_a_proj.weight", "QAProj Dense Weight 0 -"),
    ("model.layers.0.self_attn.q_a_layernorm.weight", "Norm Dense Weight 0 -"),
    ("model.layers.0.self_attn.q_b_proj.weight", "QBProj Dense Weight 0 -"),
    ("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", "KvAProj Dense Weight 0 -"),
    ("model.layers.0.self_attn.kv_a_layernorm.weight", "Norm Dense Weight 0 -"),
    ("model.layers.0.self_attn.kv_b_proj.weight", "KvBProj Dense Weight 0 -"),
];

const INDEXER_NAMES: &[(&str, &str)] = &[
    ("model.layers.0.self_attn.indexer.wq_b.weight", "IndexerWqB Dense Weight 0 -"),
    ("model.layers.0.self_attn.indexer.wk.weight", "IndexerWk Dense Weight 0 -"),
    ("model.layers.0.self_attn.indexer.weights_proj.weight", "IndexerWeights Dense Weight 0 -"),
    ("model.layers.0.self_attn.indexer.k_norm.weight", "IndexerNorm Dense Weight 0 -"),
    ("model.layers.0.self_attn.indexer.k_norm.bias", "IndexerNorm Dense Bias 0 -"),
];

/// Multi-token prediction at layer 61 of 61.
const MTP_NAMES: &[(&str, &str)] = &[
    ("model.layers.61.embed_tokens.weight", "Embed Dense Weight 61 - mtp"),
    ("model.layers.61.enorm.weight", "Norm Dense Weight 61 - mtp"),
    ("model.layers.61.hnorm.weight", "Norm Dense Weight 61 - mtp"),
    ("model.layers.61.eh_proj.weight", "EhProj Dense Weight 61 - mtp"),
    ("model.layers.61.shared_head.norm.weight", "Norm Dense Weight 61 - mtp"),
    ("model.layers.61.shared_head.head.weight", "SharedHead Dense Weight 61 - mtp"),
    ("model.layers.61.mlp.experts.3.up_proj.weight", "UpProj Expert Weight 61 3 mtp"),
    ("model.layers.60.mlp.experts.3.up_proj.weight", "UpProj Expert Weight 60 3"),
];

#[test]
fn every_family() {
    type Names = &'static [(&'static str, &'static str)];
    let families: &[(&str, &str, &[Names])] = &[
        ("deepseek_v3", "DeepseekV3ForCausalLM", &[MLA_NAMES, EXPERT_NAMES, SHARED_NAMES, MTP_NAMES]),
        (
            "deepseek_v32",
            "DeepseekV32ForCausalLM",
            &[MLA_NAMES, INDEXER_NAMES, EXPERT_NAMES, SHARED_NAMES, MTP_NAMES],
        ),
        ("kimi_k2", "KimiK2ForCausalLM", &[MLA_NAMES, EXPERT_NAMES, SHARED_NAMES]),
        ("glm4_moe", "Glm4MoeForCausalLM", &[QKV_NAMES, QK_NORMS, EXPERT_NAMES, SHARED_NAMES, MTP_NAMES]),
        (
            "glm_moe_dsa",
            "GlmMoeDsaForCausalLM",
            &[MLA_NAMES, INDEXER_NAMES, EXPERT_NAMES, SHARED_NAMES, MTP_NAMES],
        ),
        ("llama", "LlamaForCausalLM", &[QKV_NAMES]),
        ("mistral", "MistralForCausalLM", &[QKV_NAMES]),
        ("qwen2", "Qwen2ForCausalLM", &[QKV_NAMES]),
        ("qwen3", "Qwen3ForCausalLM", &[QKV_NAMES, QK_NORMS]),
        ("qwen3_moe", "Qwen3MoeForCausalLM", &[QKV_NAMES, QK_NORMS, EXPERT_NAMES]),
    ];
    for table in TABLES {
        let here = families.iter().any(|(id, ..)| *id == table.id);
        let there = super::shipped_tests::FAMILIES.iter().any(|(id, _)| *id == table.id);
        assert!(here || there, "{} has no test", table.id);
    }
    for (id, architecture, tables) in families {
        let found = family(id, 61);
        assert_eq!(found.id, *id);
        check(&found, TOP);
        tables.iter().for_each(|t| check(&found, t));
        let config = json!({"architectures": [architecture], "num_hidden_layers": 61});
        assert_eq!(Family::detect(&Config::from_value(config).unwrap()).id, *id);
        let config = json!({"model_type": "some_wrapper", "text_config": {"model_type": id}});
        assert_eq!(Family::detect(&Config::from_value(config).unwrap()).id, *id);
    }
}

#[test]
fn names_of_another_family_have_no_role() {
    let llama = family("llama", 61);
    assert_eq!(text(&llama, "model.layers.0.self_attn.kv_b_proj.weight"), "Other Dense Weight 0 -");
    assert_eq!(text(&llama, "model.layers.61.mlp.up_proj.weight"), "UpProj Dense Weight 61 -");
    let v3 = family("deepseek_v3", 61);
    assert_eq!(text(&v3, "model.layers.0.self_attn.indexer.wk.weight"), "Other Dense Weight 0 -");
}

#[test]
fn an_unknown_family_knows_what_every_name_means_everywhere() {
    let unknown = family("no_such_model", 61);
    assert_eq!(unknown.id, "unknown");
    for table in [TOP, QKV_NAMES, QK_NORMS, EXPERT_NAMES, SHARED_NAMES, MLA_NAMES, INDEXER_NAMES] {
        check(&unknown, table);
    }
    check(
        &unknown,
        &[
            ("language_model.model.layers.4.self_attn.q_proj.weight", "QProj Dense Weight 4 -"),
            ("model.language_model.layers.4.mlp.up_proj.weight", "UpProj Dense Weight 4 -"),
            ("language_model.lm_head.weight", "LmHead Dense Weight - -"),
            ("model.visual.blocks.0.attn.qkv.weight", "Multimodal Dense Weight - -"),
            ("vision_tower.encoder.layers.0.self_attn.q_proj.weight", "Multimodal Dense Weight - -"),
            ("mtp.layers.0.self_attn.q_proj.weight", "QProj Dense Weight 0 - mtp"),
            ("mtp.norm.weight", "Norm Dense Weight - - mtp"),
            ("model.layers.0.mlp.shared_expert.up_proj.weight", "UpProj Shared Weight 0 -"),
            ("model.layers.0.mlp.shared_expert_gate.weight", "Router Shared Weight 0 -"),
            ("model.layers.0.mlp.router.weight", "Router Dense Weight 0 -"),
            ("model.layers.0.block_sparse_moe.gate.weight", "Router Dense Weight 0 -"),
            ("model.layers.0.linear_attn.in_proj_qkvz.weight", "LinearAttnIn Dense Weight 0 -"),
            ("model.layers.99999999999.mlp.up_proj.weight", "Other Dense Weight - -"),
            ("", "Other Dense Other - -"),
            (".", "Other Dense Other - -"),
            ("layers", "Other Dense Other - -"),
            ("model.layers", "Other Dense Other - -"),
            ("experts.1.x", "Other Dense Other - 1"),
        ],
    );
    assert_eq!(unknown.role("model.layers.0.pre_norm.weight", &[8]).kind, Kind::Norm);
    assert_eq!(unknown.role("model.layers.0.pre_norm.weight", &[8, 8]).kind, Kind::Other);
}

#[test]
fn fused_groups() {
    let v3 = family("deepseek_v3", 61);
    let group = |name: &str| fused_group(&v3.role(name, &[2, 2]), name);
    let part = |key: &str, part, parts| Some(FusedPart { key: key.into(), part, parts });
    let at = "model.layers.3.mlp";
    assert_eq!(group(&format!("{at}.gate_proj.weight")), part(&format!("{at}.gate_up_proj"), 0, 2));
    assert_eq!(group(&format!("{at}.up_proj.weight_scale_inv")), part(&format!("{at}.gate_up_proj"), 1, 2));
    let expert = format!("{at}.experts.7");
    assert_eq!(group(&format!("{expert}.up_proj.weight")), part(&format!("{expert}.gate_up_proj"), 1, 2));
    let shared = format!("{at}.shared_experts");
    assert_eq!(group(&format!("{shared}.gate_proj.weight")), part(&format!("{shared}.gate_up_proj"), 0, 2));
    let attn = "model.layers.3.self_attn";
    assert_eq!(group(&format!("{attn}.q_a_proj.weight")), part(&format!("{attn}.fused_qkv_a_proj"), 0, 2));
    assert_eq!(
        group(&format!("{attn}.kv_a_proj_with_mqa.weight")),
        part(&format!("{attn}.fused_qkv_a_proj"), 1, 2)
    );
    for alone in ["q_b_proj", "kv_b_proj", "o_proj", "q_a_layernorm"] {
        assert_eq!(group(&format!("{attn}.{alone}.weight")), None, "{alone}");
    }
    assert_eq!(group(&format!("{at}.down_proj.weight")), None);
    assert_eq!(group(&format!("{at}.gate.weight")), None);
    let llama = family("llama", 2);
    for (i, p) in ["q", "k", "v"].iter().enumerate() {
        let name = format!("model.layers.0.self_attn.{p}_proj.weight");
        let found = fused_group(&llama.role(&name, &[2, 2]), &name);
        assert_eq!(found, part("model.layers.0.self_attn.qkv_proj", i, 3));
    }
}
