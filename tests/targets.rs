//! Every target and scheme against tables that were written by hand from the loaders' parameter declarations: which
//! tensors stand for a weight, with dtype and shape, and which modules stay float.

use silicast::checkpoint::Checkpoint;
use silicast::compile::compile;
use silicast::dtype::Dtype;
use silicast::error::Result;
use silicast::plan::Plan;
use silicast::plan::recipe::Recipe;
use silicast::targets;
use std::collections::{BTreeMap, BTreeSet};

/// A plan for header-only tensors of one dtype.
fn plan(
    model: &str,
    tensors: &[(&str, Dtype, &[u64])],
    target: &str,
    scheme: &str,
    engine: Option<&str>,
) -> Result<Plan> {
    let tensors = tensors.iter().map(|(n, d, s)| ((*n).to_owned(), *d, s.to_vec())).collect();
    let config = serde_json::json!({"model_type": model, "num_hidden_layers": 1});
    let checkpoint = Checkpoint::from_parts(config, tensors)?;
    let recipe =
        Recipe { scheme: Some(scheme.to_owned()), engine: engine.map(str::to_owned), ..Recipe::default() };
    Ok(compile(&checkpoint, target, recipe)?.plan)
}

/// `suffix dtype[shape]` of everything that stands for a module.
fn parts(plan: &Plan, module: &str) -> BTreeSet<String> {
    plan.outputs
        .iter()
        .filter_map(|o| {
            let suffix = o.name.strip_prefix(module)?.strip_prefix('.')?;
            let shape: Vec<String> = o.ty.shape.iter().map(u64::to_string).collect();
            Some(format!("{suffix} {}[{}]", o.ty.dtype, shape.join(",")))
        })
        .collect()
}

const LINEAR: &str = "model.layers.0.self_attn.o_proj";
const GATE: &str = "model.layers.0.mlp.experts.0.gate_proj";
const UP: &str = "model.layers.0.mlp.experts.0.up_proj";
const DOWN: &str = "model.layers.0.mlp.experts.0.down_proj";

/// Targets, schemes, and the tensors of a linear `[384, 512]`, of an expert's gate projection `[128, 256]` and of its
/// down projection `[256, 128]`.
type Cells = (&'static [&'static str], &'static [&'static str], [&'static str; 3]);

const INT8: [&str; 3] = [
    "weight i8[384,512], weight_scale f32[384,1]",
    "weight i8[128,256], weight_scale f32[128,1]",
    "weight i8[256,128], weight_scale f32[256,1]",
];
const INT8_OFFSET: [&str; 3] = [
    "weight i8[384,512], weight_scale f32[384,1], weight_offset f32[384,1]",
    "weight i8[128,256], weight_scale f32[128,1], weight_offset f32[128,1]",
    "weight i8[256,128], weight_scale f32[256,1], weight_offset f32[256,1]",
];
const FP8: [&str; 3] = [
    "weight f8_e4m3[384,512], weight_scale f32[384,1]",
    "weight f8_e4m3[128,256], weight_scale f32[128,1]",
    "weight f8_e4m3[256,128], weight_scale f32[256,1]",
];
const MXFP8: [&str; 3] = [
    "weight f8_e4m3[384,512], weight_scale u8[384,16]",
    "weight f8_e4m3[128,256], weight_scale u8[128,8]",
    "weight f8_e4m3[256,128], weight_scale u8[256,4]",
];
const MXFP4_EXPERTS: [&str; 3] =
    [MXFP8[0], "weight u8[128,128], weight_scale u8[128,8]", "weight u8[256,64], weight_scale u8[256,4]"];
const FLOAT: [&str; 3] = ["weight bf16[384,512]", "weight bf16[128,256]", "weight bf16[256,128]"];

const CELLS: &[Cells] = &[
    (&["ascend-910b", "ascend-910c"], &["W8A8_DYNAMIC", "W8A16"], INT8_OFFSET),
    (
        &["ascend-910b", "ascend-910c"],
        &["W4A8_DYNAMIC"],
        [
            INT8_OFFSET[0],
            "weight i8[64,256], weight_scale f32[128,1], weight_offset f32[128,1], scale_bias f32[128,1]",
            "weight i8[128,128], weight_scale f32[256,1], weight_offset f32[256,1], scale_bias f32[256,16]",
        ],
    ),
    (&["ascend-910b", "ascend-910c", "ascend-950"], &["FLOAT"], FLOAT),
    (&["ascend-310p", "ascend-950"], &["W8A8_DYNAMIC"], INT8_OFFSET),
    (&["ascend-310p"], &["FLOAT"], ["weight f16[384,512]", "weight f16[128,256]", "weight f16[256,128]"]),
    (&["ascend-950"], &["W8A8_MXFP8"], MXFP8),
    (&["ascend-950"], &["W4A8_MXFP", "W4A4_MXFP4"], MXFP4_EXPERTS),
    (
        &["ascend-950"],
        &["W8A8FP8_DYNAMIC"],
        [
            "weight f8_e4m3[384,512], weight_scale f32[384,1], weight_offset f32[384,1]",
            "weight f8_e4m3[128,256], weight_scale f32[128,1], weight_offset f32[128,1]",
            "weight f8_e4m3[256,128], weight_scale f32[256,1], weight_offset f32[256,1]",
        ],
    ),
    (
        &[
            "vllm",
            "sglang",
            "metax-c500",
            "metax-c550",
            "metax-c588",
            "metax-c600",
            "hygon-k100ai",
            "hygon-bw1000",
            "hygon-bw1100",
            "mthreads-s4000",
            "kunlunxin-p800",
        ],
        &["W8A8"],
        INT8,
    ),
    (
        &[
            "vllm",
            "sglang",
            "metax-c500",
            "metax-c550",
            "metax-c588",
            "metax-c600",
            "hygon-k100ai",
            "hygon-bw1000",
            "hygon-bw1100",
            "kunlunxin-p800",
        ],
        &["W8A8_CT"],
        [
            "weight i8[384,512], weight_scale bf16[384,1]",
            "weight i8[128,256], weight_scale bf16[128,1]",
            "weight i8[256,128], weight_scale bf16[256,1]",
        ],
    ),
    (&["sglang"], &["W8A8_INT8"], INT8),
    (&["vllm", "sglang", "metax-c600", "hygon-bw1100"], &["FP8_DYNAMIC"], FP8),
    (&["sglang"], &["W8A8_FP8"], FP8),
    (
        &["cambricon-mlu590"],
        &["FP8_DYNAMIC"],
        [
            "weight f8_e4m3[384,512], weight_scale f32[384]",
            "weight f8_e4m3[128,256], weight_scale f32[128]",
            "weight f8_e4m3[256,128], weight_scale f32[256]",
        ],
    ),
    (
        &["vllm", "sglang", "metax-c600", "mthreads-s5000"],
        &["FP8_BLOCK"],
        [
            "weight f8_e4m3[384,512], weight_scale_inv f32[3,4]",
            "weight f8_e4m3[128,256], weight_scale_inv f32[1,2]",
            "weight f8_e4m3[256,128], weight_scale_inv f32[2,1]",
        ],
    ),
    (
        &["vllm", "sglang"],
        &["FP8_BLOCK_UE8M0"],
        [
            "weight f8_e4m3[384,512], weight_scale_inv f32[3,4]",
            "weight f8_e4m3[128,256], weight_scale_inv f32[1,2]",
            "weight f8_e4m3[256,128], weight_scale_inv f32[2,1]",
        ],
    ),
    (
        &["sglang"],
        &["BLOCKWISE_INT8"],
        [
            "weight i8[384,512], weight_scale_inv f32[3,4]",
            "weight i8[128,256], weight_scale_inv f32[1,2]",
            "weight i8[256,128], weight_scale_inv f32[2,1]",
        ],
    ),
    (
        &["sglang"],
        &["MXFP8"],
        [
            "weight f8_e4m3[384,512], weight_scale_inv u8[384,16]",
            "weight f8_e4m3[128,256], weight_scale_inv u8[128,8]",
            "weight f8_e4m3[256,128], weight_scale_inv u8[256,4]",
        ],
    ),
    (&["vllm"], &["MXFP8"], MXFP8),
    (
        &["vllm"],
        &["MXFP4"],
        [
            "weight_packed u8[384,256], weight_scale u8[384,16]",
            "weight_packed u8[128,128], weight_scale u8[128,8]",
            "weight_packed u8[256,64], weight_scale u8[256,4]",
        ],
    ),
    (
        &["vllm"],
        &["NVFP4A16"],
        [
            "weight_packed u8[384,256], weight_scale f8_e4m3[384,32], weight_global_scale f32[1]",
            "weight_packed u8[128,128], weight_scale f8_e4m3[128,16], weight_global_scale f32[1]",
            "weight_packed u8[256,64], weight_scale f8_e4m3[256,8], weight_global_scale f32[1]",
        ],
    ),
    (
        &["vllm", "sglang", "metax-c500", "metax-c550", "metax-c588", "metax-c600", "kunlunxin-p800"],
        &["W4A16"],
        INT4_PACKED,
    ),
    (&["vllm"], &["W4A16_CT", "W4AFP8"], INT4_PACKED),
    (
        &["vllm", "sglang"],
        &["W4A16_ASYM"],
        [
            "weight_packed i32[384,64], weight_scale bf16[384,4], weight_shape i64[2], weight_zero_point i32[48,4]",
            "weight_packed i32[128,32], weight_scale bf16[128,2], weight_shape i64[2], weight_zero_point i32[16,2]",
            "weight_packed i32[256,16], weight_scale bf16[256,1], weight_shape i64[2], weight_zero_point i32[32,1]",
        ],
    ),
    (
        &["vllm"],
        &["W8A16"],
        [
            "weight_packed i32[384,128], weight_scale bf16[384,4], weight_shape i64[2]",
            "weight_packed i32[128,64], weight_scale bf16[128,2], weight_shape i64[2]",
            "weight_packed i32[256,32], weight_scale bf16[256,1], weight_shape i64[2]",
        ],
    ),
    (
        &["vllm"],
        &["W4A8"],
        [
            "weight i8[384,512], weight_scale bf16[384,4]",
            "weight i8[128,256], weight_scale bf16[128,2]",
            "weight i8[256,128], weight_scale bf16[256,1]",
        ],
    ),
    (
        &[
            "vllm",
            "sglang",
            "metax-c500",
            "metax-c550",
            "metax-c588",
            "metax-c600",
            "kunlunxin-p800",
            "cambricon-mlu370",
            "cambricon-mlu590",
        ],
        &["GPTQ"],
        [
            "qweight i32[64,384], qzeros i32[4,48], scales f16[4,384], g_idx i32[512]",
            "qweight i32[32,128], qzeros i32[2,16], scales f16[2,128], g_idx i32[256]",
            "qweight i32[16,256], qzeros i32[1,32], scales f16[1,256], g_idx i32[128]",
        ],
    ),
    (
        &[
            "vllm",
            "sglang",
            "metax-c500",
            "metax-c550",
            "metax-c588",
            "metax-c600",
            "hygon-k100ai",
            "mthreads-s4000",
            "kunlunxin-p800",
            "cambricon-mlu370",
            "cambricon-mlu590",
        ],
        &["AWQ"],
        [
            "qweight i32[512,48], qzeros i32[4,48], scales f16[4,384]",
            "qweight i32[256,16], qzeros i32[2,16], scales f16[2,128]",
            "qweight i32[128,32], qzeros i32[1,32], scales f16[1,256]",
        ],
    ),
    (
        &["enflame-s60"],
        &["GPTQ"],
        [
            "qweight i32[64,384], qzeros i32[8,48], scales f16[8,384], g_idx i32[512]",
            "qweight i32[32,128], qzeros i32[4,16], scales f16[4,128], g_idx i32[256]",
            "qweight i32[16,256], qzeros i32[2,32], scales f16[2,256], g_idx i32[128]",
        ],
    ),
    (
        &["enflame-s60"],
        &["AWQ"],
        [
            "qweight i32[512,48], qzeros i32[8,48], scales f16[8,384]",
            "qweight i32[256,16], qzeros i32[4,16], scales f16[4,128]",
            "qweight i32[128,32], qzeros i32[2,32], scales f16[2,256]",
        ],
    ),
    (
        &["metax-c500", "metax-c550", "metax-c588", "metax-c600"],
        &["W4A8"],
        [
            INT8[0],
            "weight_packed i32[128,32], weight_scale f32[128,1]",
            "weight_packed i32[256,16], weight_scale f32[256,1]",
        ],
    ),
    (
        &["hygon-k100ai", "hygon-bw1000", "hygon-bw1100"],
        &["W4A8"],
        [
            INT8[0],
            "weight i8[128,128], weight_scale f32[128,1]",
            "weight i8[256,64], weight_scale f32[256,1]",
        ],
    ),
    (
        &["cambricon-mlu370", "cambricon-mlu590"],
        &["W8A8"],
        [
            "qweight i8[384,512], per_channel_scale f32[384], smooth f32[512]",
            "qweight i8[128,256], per_channel_scale f32[128], smooth f32[256]",
            "qweight i8[256,128], per_channel_scale f32[256], smooth f32[128]",
        ],
    ),
    (
        &["cambricon-mlu370", "cambricon-mlu590"],
        &["W4A8"],
        [
            "qweight i8[384,512], per_channel_scale f32[384], smooth f32[512]",
            "qweight i8[128,128], per_channel_scale f32[128,2], smooth f32[256]",
            "qweight i8[256,64], per_channel_scale f32[256,1], smooth f32[128]",
        ],
    ),
    (
        &[
            "vllm",
            "sglang",
            "metax-c500",
            "metax-c550",
            "metax-c588",
            "metax-c600",
            "hygon-k100ai",
            "hygon-bw1000",
            "hygon-bw1100",
            "mthreads-s4000",
            "mthreads-s5000",
            "kunlunxin-p800",
            "enflame-s60",
            "cambricon-mlu370",
            "cambricon-mlu590",
        ],
        &["BF16"],
        FLOAT,
    ),
    (&["vllm", "sglang"], &["NATIVE"], FLOAT),
];

const INT4_PACKED: [&str; 3] = [
    "weight_packed i32[384,64], weight_scale bf16[384,4], weight_shape i64[2]",
    "weight_packed i32[128,32], weight_scale bf16[128,2], weight_shape i64[2]",
    "weight_packed i32[256,16], weight_scale bf16[256,1], weight_shape i64[2]",
];

#[test]
fn every_cell_has_the_tensors_that_its_loader_declares() {
    let mut expected: BTreeMap<(&str, &str), [&str; 3]> = BTreeMap::new();
    for (targets, schemes, parts) in CELLS {
        for target in *targets {
            for scheme in *schemes {
                assert!(expected.insert((*target, *scheme), *parts).is_none(), "{target} {scheme} twice");
            }
        }
    }
    let tensors: &[(&str, Dtype, &[u64])] = &[
        (&format!("{DOWN}.weight"), Dtype::BF16, &[256, 128]),
        (&format!("{GATE}.weight"), Dtype::BF16, &[128, 256]),
        (&format!("{UP}.weight"), Dtype::BF16, &[128, 256]),
        (&format!("{LINEAR}.weight"), Dtype::BF16, &[384, 512]),
    ];
    for target in targets::all() {
        for scheme in &target.schemes {
            let cell = (target.id.as_str(), scheme.name.as_str());
            // Its own test: a single family.
            if cell == ("ascend-950", "NATIVE") {
                continue;
            }
            let wanted = expected.remove(&cell).unwrap_or_else(|| panic!("{cell:?} is not in the table"));
            let plan = plan("qwen3_moe", tensors, cell.0, cell.1, None).unwrap();
            for (module, wanted) in [LINEAR, GATE, DOWN].into_iter().zip(wanted) {
                let wanted: BTreeSet<String> = wanted.split(", ").map(str::to_owned).collect();
                assert_eq!(parts(&plan, module), wanted, "{cell:?} {module}");
            }
        }
    }
    assert!(expected.is_empty(), "cells that no target has: {:?}", expected.keys());
}

/// What every engine but vllm-ascend and vllm-mlu quantizes of DeepSeek-V3.2 under INT8, and what the others leave float.
#[test]
fn engines_differ_in_what_stays_float() {
    let names = [
        "model.layers.0.self_attn.indexer.weights_proj",
        "model.layers.0.self_attn.indexer.wk",
        "model.layers.0.self_attn.indexer.wq_b",
        "model.layers.0.self_attn.kv_a_proj_with_mqa",
        "model.layers.0.self_attn.kv_b_proj",
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.self_attn.q_a_proj",
        "model.layers.0.self_attn.q_b_proj",
    ];
    let owned: Vec<String> = names.iter().map(|n| format!("{n}.weight")).collect();
    let tensors: Vec<(&str, Dtype, &[u64])> =
        owned.iter().map(|n| (n.as_str(), Dtype::BF16, [128u64, 128].as_slice())).collect();
    let quantized = |target: &str, scheme: &str| -> Vec<String> {
        let plan = plan("deepseek_v32", &tensors, target, scheme, None).unwrap();
        let short = |n: &str| n.trim_start_matches("model.layers.0.self_attn.").to_owned();
        names.iter().filter(|n| parts(&plan, n).len() > 1).map(|n| short(n)).collect()
    };
    for (target, scheme, wanted) in [
        ("vllm", "W8A8", "indexer.wq_b kv_a_proj_with_mqa o_proj q_a_proj q_b_proj"),
        ("vllm", "GPTQ", "indexer.wq_b kv_a_proj_with_mqa o_proj q_a_proj q_b_proj"),
        ("sglang", "MXFP8", "indexer.wq_b kv_a_proj_with_mqa o_proj q_a_proj q_b_proj"),
        (
            "vllm",
            "FP8_BLOCK",
            "indexer.wk indexer.wq_b kv_a_proj_with_mqa kv_b_proj o_proj q_a_proj q_b_proj",
        ),
        (
            "sglang",
            "BLOCKWISE_INT8",
            "indexer.wk indexer.wq_b kv_a_proj_with_mqa kv_b_proj o_proj q_a_proj q_b_proj",
        ),
        (
            "sglang",
            "W8A8_FP8",
            "indexer.wk indexer.wq_b kv_a_proj_with_mqa kv_b_proj o_proj q_a_proj q_b_proj",
        ),
        ("ascend-910b", "W8A8_DYNAMIC", "kv_a_proj_with_mqa o_proj q_a_proj q_b_proj"),
        ("cambricon-mlu590", "W8A8", "o_proj q_b_proj"),
        ("cambricon-mlu590", "FP8_DYNAMIC", "o_proj q_b_proj"),
    ] {
        assert_eq!(quantized(target, scheme).join(" "), wanted, "{target} {scheme}");
    }
}

#[test]
fn what_an_engine_cannot_load_is_refused() {
    let v4: &[(&str, Dtype, &[u64])] = &[("layers.0.attn.wq_b.weight", Dtype::BF16, &[128, 128])];
    let dense: &[(&str, Dtype, &[u64])] = &[("model.layers.0.mlp.up_proj.weight", Dtype::BF16, &[128, 128])];
    for (model, tensors, target, scheme, engine) in [
        ("deepseek_v4", v4, "cambricon-mlu590", "W8A8", None),
        ("deepseek_v4", v4, "cambricon-mlu370", "W4A8", None),
        ("deepseek_v41", v4, "cambricon-mlu590", "GPTQ", None),
        ("deepseek_v4", v4, "ascend-910b", "W8A8_DYNAMIC", Some("mindie")),
        ("llama", dense, "ascend-950", "NATIVE", None),
        ("llama", dense, "metax-c500", "W8A8", Some("sglang")),
    ] {
        let error = plan(model, tensors, target, scheme, engine).unwrap_err();
        assert_eq!(error.class().exit_code(), 3, "{model} {target} {scheme}: {error}");
    }
    for (model, tensors, target, scheme, engine) in [
        ("deepseek_v4", v4, "cambricon-mlu590", "FP8_DYNAMIC", None),
        ("deepseek_v4", v4, "ascend-950", "NATIVE", None),
        ("llama", dense, "cambricon-mlu590", "W8A8", Some("xllm")),
    ] {
        plan(model, tensors, target, scheme, engine).unwrap();
    }
}

/// Files of one artifact by engine: vllm-ascend opens one fixed description, MindIE's older format has the scheme in names.
#[test]
fn file_names_are_those_of_the_engine() {
    let dense: &[(&str, Dtype, &[u64])] = &[("model.layers.0.mlp.up_proj.weight", Dtype::BF16, &[128, 128])];
    let files = |target: &str, scheme: &str, engine: Option<&str>| -> Vec<String> {
        let plan = plan("llama", dense, target, scheme, engine).unwrap();
        let side = plan.side_files.iter().map(|f| f.name.clone());
        plan.shards.iter().map(|s| s.name.clone()).chain(side).collect()
    };
    assert_eq!(
        files("ascend-910b", "W8A8_DYNAMIC", None),
        [
            "quant_model_weights-00001-of-00001.safetensors",
            "config.json",
            "quant_model_description.json",
            "quant_model_weights.safetensors.index.json"
        ]
    );
    assert_eq!(
        files("ascend-910b", "W8A8", Some("mindie")),
        [
            "quant_model_weight_w8a8_dynamic.safetensors",
            "config.json",
            "quant_model_description_w8a8_dynamic.json",
            "quant_model_weight_w8a8_dynamic.safetensors.index.json"
        ]
    );
    assert_eq!(files("vllm", "AWQ", None), ["model.safetensors", "config.json"]);
}

/// The draft of DeepSeek-V4 has an embedding and a head of its own in vllm-ascend, unless it is DSpark.
#[test]
fn drafts_of_v4_have_copies_of_embedding_and_head_on_ascend() {
    let base: [(&str, Dtype, &[u64]); 3] = [
        ("embed.weight", Dtype::BF16, &[256, 128]),
        ("head.weight", Dtype::BF16, &[256, 128]),
        ("mtp.0.enorm.weight", Dtype::BF16, &[128]),
    ];
    let copies = |more: &[(&'static str, Dtype, &'static [u64])], target: &str, scheme: &str| {
        let tensors: Vec<_> = base.iter().copied().chain(more.iter().copied()).collect();
        let plan = plan("deepseek_v4", &tensors, target, scheme, None).unwrap();
        ["mtp.0.emb.tok_emb", "mtp.0.head"].map(|module| parts(&plan, module).len())
    };
    assert_eq!(copies(&[], "ascend-910b", "W8A8_DYNAMIC"), [1, 1]);
    assert_eq!(copies(&[], "ascend-910b", "FLOAT"), [1, 1]);
    assert_eq!(copies(&[], "ascend-950", "NATIVE"), [0, 0]);
    assert_eq!(copies(&[], "vllm", "W8A8"), [0, 0]);
    let dspark: &[(&str, Dtype, &[u64])] = &[("mtp.0.main_proj.weight", Dtype::BF16, &[128, 384])];
    assert_eq!(copies(dspark, "ascend-910b", "W8A8_DYNAMIC"), [0, 0]);
    // What the source has already is not written again.
    let shipped: &[(&str, Dtype, &[u64])] = &[("mtp.0.head.weight", Dtype::BF16, &[256, 128])];
    assert_eq!(copies(shipped, "ascend-910b", "W8A8_DYNAMIC"), [1, 1]);
}
