//! Every way of storing a weight that is met in the wild, and the ones that must be refused.

use super::Encoding;
use crate::checkpoint::tests::parts;
use crate::checkpoint::{Checkpoint, Stored, summary};
use crate::dtype::Dtype::{self, BF16, F8E4M3, F8E8M0, F16, F32, I8, I32, U8};
use serde_json::{Value, json};

/// The encodings of `a.weight` as scheme text (or the reason), and the error code where opening fails.
fn encoding_of(quantization: Value, list: &[(&str, Dtype, &[u64])]) -> String {
    let config = json!({"quantization_config": quantization});
    match Checkpoint::from_parts(config, parts(list)) {
        Err(e) => e.code().to_owned(),
        Ok(c) => {
            let id = c.find(list[0].0).unwrap();
            match &c.encodings[id as usize] {
                Encoding::Codes(Stored { scale, scheme, .. }) => {
                    assert_eq!(c.encodings[*scale as usize], Encoding::ScaleOf { codes: id });
                    scheme.to_string()
                }
                Encoding::Plain => "plain".into(),
                Encoding::ScaleOf { .. } => "scale".into(),
                Encoding::Redundant { .. } => "redundant".into(),
                Encoding::OffsetOf { .. } => "offset".into(),
                Encoding::Unsupported { what } => {
                    let code = c.require_decodable(id).unwrap_err().code();
                    format!("{code}: {what}")
                }
            }
        }
    }
}

#[test]
fn ragged_grids_come_from_the_configured_block() {
    let fp8 = |block: Value| json!({"quant_method": "fp8", "weight_block_size": block});
    let of = |q: Value, shape: &[u64], grid: &[u64]| {
        encoding_of(q, &[("a.weight", F8E4M3, shape), ("a.weight_scale_inv", F32, grid)])
    };
    let ok = "f8_e4m3:128x128:f32:given";
    // 576 rows: blocks of 128 with a tail of 64, not 5 blocks of 115.2 rows.
    assert_eq!(of(fp8(json!([128, 128])), &[576, 7168], &[5, 56]), ok);
    // 192 rows: 2 blocks, not 2 x 96.
    assert_eq!(of(fp8(json!([128, 128])), &[192, 256], &[2, 2]), ok);
    assert_eq!(of(fp8(json!([128, 128])), &[1, 1], &[1, 1]), ok);
    assert_eq!(of(fp8(json!([128, 128])), &[129, 127], &[2, 1]), ok);
    assert_eq!(of(fp8(json!([32, 32])), &[33, 65], &[2, 3]), "f8_e4m3:32x32:f32:given");
    assert_eq!(of(fp8(json!([1, 32])), &[3, 64], &[3, 2]), "f8_e4m3:1x32:f32:given");
    for wrong in [&[4, 56][..], &[6, 56], &[5, 55], &[56, 5], &[280], &[5, 56, 1], &[1], &[]] {
        assert_eq!(of(fp8(json!([128, 128])), &[576, 7168], wrong), "scale-grid", "{wrong:?}");
    }
    assert_eq!(of(fp8(json!([64, 128])), &[576, 7168], &[5, 56]), "scale-grid");
    // No configured block: 128x128 where it fits, or one scale.
    assert_eq!(of(json!({"quant_method": "fp8"}), &[576, 7168], &[5, 56]), ok);
    assert_eq!(of(json!({"quant_method": "fp8"}), &[576, 7168], &[]), "f8_e4m3:tensor:f32:given");
    assert_eq!(of(json!({"quant_method": "fp8"}), &[576, 7168], &[9, 112]), "scale-grid");
    let c = Checkpoint::from_parts(
        json!({}),
        parts(&[("a.weight", F8E4M3, &[576, 7168]), ("a.weight_scale_inv", BF16, &[5, 56])]),
    );
    assert!(c.unwrap().notes.iter().any(|n| n.contains("128x128 inferred for 1 weights")));
}

#[test]
fn a_grid_error_names_everything() {
    let c = Checkpoint::from_parts(
        json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}),
        parts(&[("a.weight", F8E4M3, &[576, 7168]), ("a.weight_scale_inv", F32, &[4, 56])]),
    );
    let e = c.unwrap_err();
    let text = e.to_string();
    assert_eq!((e.class().exit_code(), e.tensor_name()), (4, Some("a.weight_scale_inv")));
    assert_eq!(e.file_name(), Some("model.safetensors"));
    assert!(text.contains("[5, 56]") && text.contains("[4, 56]") && text.contains("576x7168"), "{text}");
}

#[test]
fn scales_of_every_dtype_and_name() {
    let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    for (dtype, text) in [(F32, "f32"), (BF16, "bf16"), (F16, "f16"), (F8E8M0, "f8_e8m0"), (U8, "u8")] {
        for name in ["a.weight_scale_inv", "a.scale", "a.weight_scale"] {
            let found =
                encoding_of(fp8.clone(), &[("a.weight", F8E4M3, &[256, 128]), (name, dtype, &[2, 1])]);
            assert_eq!(found, format!("f8_e4m3:128x128:{text}:given"), "{name}");
        }
    }
    for dtype in [I32, I8, F8E4M3] {
        let list: &[(&str, Dtype, &[u64])] =
            &[("a.weight", F8E4M3, &[256, 128]), ("a.weight_scale_inv", dtype, &[2, 1])];
        assert_eq!(encoding_of(fp8.clone(), list), "scale-dtype");
    }
    // `.scale` of a plain weight, and hyper-connection scales, are parameters.
    for (weight, scale) in [("a.weight", "a.scale"), ("hc_attn_fn", "hc_attn_scale")] {
        let c =
            Checkpoint::from_parts(json!({}), parts(&[(weight, BF16, &[4, 4]), (scale, F32, &[3])])).unwrap();
        assert_eq!(c.encodings, [Encoding::Plain, Encoding::Plain]);
    }
}

fn ct(kind: &str, strategy: &str, more: &str) -> Value {
    let mut weights = json!({"num_bits": 8, "type": kind, "strategy": strategy, "symmetric": true});
    let extra: Value = serde_json::from_str(more).unwrap();
    weights.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}})
}

#[test]
fn compressed_tensors() {
    let of = |q: &Value, dtype: Dtype, scale: Dtype, grid: &[u64]| {
        encoding_of(q.clone(), &[("a.weight", dtype, &[256, 384]), ("a.weight_scale", scale, grid)])
    };
    let channel = ct("float", "channel", "{}");
    assert_eq!(of(&channel, F8E4M3, F32, &[256, 1]), "f8_e4m3:channel:f32:given");
    assert_eq!(of(&channel, F8E4M3, BF16, &[256]), "f8_e4m3:channel:bf16:given");
    assert_eq!(of(&channel, F8E4M3, F32, &[1]), "scale-grid");
    assert_eq!(of(&channel, F8E4M3, F32, &[1, 384]), "scale-grid");
    let tensor = ct("float", "tensor", "{}");
    assert_eq!(of(&tensor, F8E4M3, F32, &[1]), "f8_e4m3:tensor:f32:given");
    assert_eq!(of(&tensor, F8E4M3, F32, &[]), "f8_e4m3:tensor:f32:given");
    assert_eq!(of(&tensor, F8E4M3, F32, &[256, 1]), "scale-grid");
    let blocks = ct("float", "block", r#"{"block_structure": [128, 128]}"#);
    assert_eq!(of(&blocks, F8E4M3, BF16, &[2, 3]), "f8_e4m3:128x128:bf16:given");
    assert_eq!(of(&blocks, F8E4M3, BF16, &[3, 2]), "scale-grid");
    let group = ct("float", "group", r#"{"group_size": 32}"#);
    assert_eq!(of(&group, F8E4M3, U8, &[256, 12]), "f8_e4m3:1x32:u8:given");
    let int = ct("int", "channel", "{}");
    assert_eq!(of(&int, I8, F32, &[256, 1]), "i8:channel:f32:given");
    assert_eq!(of(&int, I8, BF16, &[256, 1]), "i8:channel:bf16:given");
    assert_eq!(of(&int, I8, F32, &[255, 1]), "scale-grid");
    assert_eq!(of(&ct("int", "tensor", "{}"), I8, F32, &[1]), "i8:tensor:f32:given");
    assert!(of(&ct("int", "channel", r#"{"symmetric": false}"#), I8, F32, &[256, 1]).contains("asymmetric"));
    // Without any config, the shape tells.
    let none = json!({});
    assert_eq!(of(&none, F8E4M3, F32, &[256, 1]), "f8_e4m3:channel:f32:given");
    assert_eq!(of(&none, I8, F32, &[]), "i8:tensor:f32:given");
    assert_eq!(of(&none, F8E4M3, F32, &[2, 3]), "scale-grid");
}

#[test]
fn what_cannot_be_decoded_says_so() {
    let q = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let check = |list: &[(&str, Dtype, &[u64])], expected: &str| {
        let found = encoding_of(q.clone(), list);
        assert!(found.starts_with(expected), "{found} for {list:?}");
        // `inspect` describes it, every companion counts as part of it.
        let c = Checkpoint::from_parts(json!({"quantization_config": q}), parts(list)).unwrap();
        let s = summary(&c);
        assert_eq!(s.schemes.len(), 1, "{:?}", s.schemes);
        assert!(s.schemes[0].name.ends_with("(not decodable)"), "{:?}", s.schemes);
        assert_eq!(s.schemes[0].tensors, list.len());
    };
    check(&[("a.weight", F8E4M3, &[256, 128])], "scale-missing");
    check(&[("a.weight", I8, &[256, 128])], "scale-missing");
    check(&[("a.table", F8E4M3, &[256])], "scale-missing");
    check(&[("a.weight_scale_inv", F32, &[2, 1])], "scale-orphan");
    check(&[("a.weight_scale", F32, &[2, 1])], "scale-orphan");
    let no = "encoding-unsupported: ";
    check(&[("a.weight", F8E4M3, &[2, 4, 4]), ("a.weight_scale_inv", F32, &[2, 1, 1])], no);
    check(&[("a.weight", I8, &[4, 4]), ("a.weight_offset", F32, &[4, 1])], "scale-missing");
    // Packed, but nothing says of how many bits or in which groups.
    check(
        &[
            ("a.weight_packed", I32, &[4, 4]),
            ("a.weight_scale", BF16, &[4, 1]),
            ("a.weight_shape", I32, &[2]),
        ],
        no,
    );
    check(&[("a.weight_packed", U8, &[4, 16]), ("a.weight_scale", U8, &[4, 2])], no);
    check(
        &[("a.weight", U8, &[4, 16]), ("a.weight_scale", F8E4M3, &[4, 3]), ("a.weight_scale_2", F32, &[])],
        no,
    );
    check(
        &[
            ("a.qweight", I32, &[4, 4]),
            ("a.qzeros", I32, &[1, 1]),
            ("a.scales", F16, &[2, 4]),
            ("a.g_idx", I32, &[4]),
        ],
        no,
    );
    check(&[("e.gate_up_proj_blocks", U8, &[1, 2, 3, 16]), ("e.gate_up_proj_scales", U8, &[1, 2, 2])], no);
    check(
        &[("a.weight", U8, &[16, 1]), ("a.weight.absmax", F32, &[4]), ("a.weight.quant_map", F32, &[16])],
        no,
    );
    check(&[("a.weight", Dtype::F4E2M1, &[4, 4])], no);
    check(&[("a.weight", Dtype::F8E5M2, &[4, 4])], no);
}

/// Every packing, with everything that belongs to it.
#[test]
fn packed_weights() {
    use Dtype::{F4E2M1, I64};
    type List<'a> = &'a [(&'a str, Dtype, &'a [u64])];
    let ints = |bits: u64, group: i64, symmetric: bool| {
        json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"targets": ["Linear"], "weights":
            {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group, "symmetric": symmetric}}}})
    };
    let gptq = |more: Value| {
        let mut q =
            json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": true, "desc_act": false});
        q.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        q
    };
    let none = json!({});
    let gptq_list: List = &[
        ("a.qweight", I32, &[8, 16]),
        ("a.g_idx", I32, &[64]),
        ("a.qzeros", I32, &[2, 2]),
        ("a.scales", F16, &[2, 16]),
    ];
    let packed: List = &[
        ("a.weight_packed", I32, &[16, 8]),
        ("a.weight_scale", BF16, &[16, 2]),
        ("a.weight_shape", I64, &[2]),
    ];
    let cases: &[(Value, List, &str)] = &[
        (
            none.clone(),
            &[("a.weight", I8, &[256, 64]), ("a.scale", F8E8M0, &[256, 4])],
            "f4_e2m1:1x32:f8_e8m0:given:pairs-i8",
        ),
        (
            none.clone(),
            &[("a.weight", U8, &[256, 64]), ("a.weight_scale", U8, &[256, 4])],
            "f4_e2m1:1x32:u8:given:pairs",
        ),
        (
            none.clone(),
            &[("a.weight_packed", U8, &[256, 64]), ("a.weight_scale", U8, &[256, 4])],
            "f4_e2m1:1x32:u8:given:pairs",
        ),
        (
            none.clone(),
            &[("a.weight", F4E2M1, &[256, 128]), ("a.scale", F8E8M0, &[256, 4])],
            "f4_e2m1:1x32:f8_e8m0:given",
        ),
        (
            none.clone(),
            &[("e.up_blocks", U8, &[2, 6, 3, 16]), ("e.up_scales", U8, &[2, 6, 3])],
            "f4_e2m1:1x32:u8:given:blocks",
        ),
        (
            none.clone(),
            &[("a.weight", F8E4M3, &[4, 64]), ("a.scale", F8E8M0, &[4, 2])],
            "f8_e4m3:1x32:f8_e8m0:given",
        ),
        (
            none.clone(),
            &[
                ("a.weight", U8, &[4, 16]),
                ("a.weight_scale", F8E4M3, &[4, 2]),
                ("a.weight_scale_2", F32, &[]),
            ],
            "f4_e2m1:1x16:f8_e4m3:given:pairs",
        ),
        (ints(4, 32, true), packed, "i4:1x32:bf16:given:int32"),
        (ints(8, 16, true), packed, "i8:1x16:bf16:given:int32"),
        (
            ints(4, 32, false),
            &[packed[0], packed[1], packed[2], ("a.weight_zero_point", I32, &[2, 2])],
            "i4:1x32:bf16:given:int32",
        ),
        (
            ints(4, 32, true),
            &[("a.weight", I8, &[4, 64]), ("a.weight_scale", BF16, &[4, 2])],
            "i4:1x32:bf16:given:bytes",
        ),
        (gptq(json!({})), gptq_list, "i4:1x32:f16:given:gptq"),
        (gptq(json!({"checkpoint_format": "gptq_v2", "sym": false})), gptq_list, "i4:1x32:f16:given:gptq-v2"),
        (gptq(json!({"desc_act": true})), gptq_list, "i4:1x32:f16:given:gptq"),
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 32}),
            &[("a.qweight", I32, &[64, 2]), ("a.qzeros", I32, &[2, 2]), ("a.scales", F16, &[2, 16])],
            "i4:1x32:f16:given:awq",
        ),
        (
            none.clone(),
            &[("a.qweight", I8, &[4, 8]), ("a.per_channel_scale", F32, &[4]), ("a.smooth", F32, &[8])],
            "i8:row:f32:given",
        ),
        (
            none.clone(),
            &[("a.qweight", I8, &[4, 64]), ("a.per_channel_scale", F32, &[4, 1]), ("a.smooth", F32, &[128])],
            "i4:1x128:f32:given:pairs-i8",
        ),
        (
            none,
            &[
                ("a.weight", I8, &[2, 8]),
                ("a.weight_scale", F32, &[4, 1]),
                ("a.weight_offset", F32, &[4, 1]),
                ("a.scale_bias", F32, &[4, 1]),
            ],
            "i4:channel:f32:given:row-pairs",
        ),
        (
            json!({"quant_method": "slimquant_w4a8"}),
            &[("m.experts.0.a.weight", I8, &[4, 8]), ("m.experts.0.a.weight_scale", F32, &[4, 1])],
            "i4:channel:f32:given:slimquant",
        ),
    ];
    for (q, list, expected) in cases {
        assert_eq!(encoding_of(q.clone(), list), *expected, "{list:?}");
        let c = Checkpoint::from_parts(json!({"quantization_config": q}), parts(list)).unwrap();
        // Every companion belongs to the codes.
        let id = c.find(list[0].0).unwrap();
        for (other, encoding) in (0..).zip(&c.encodings) {
            let belongs = match encoding {
                Encoding::ScaleOf { codes } | Encoding::Redundant { codes, .. } => *codes == id,
                _ => other == id,
            };
            assert!(belongs, "{list:?}: {encoding:?}");
        }
        assert_eq!(summary(&c).schemes.len(), 1, "{list:?}");
    }
    // Zero points that are promised and missing, and the order of activation-ordered groups.
    assert!(encoding_of(ints(4, 32, false), packed).starts_with("encoding-unsupported"));
    let reordered = Checkpoint::from_parts(
        json!({"quantization_config": gptq(json!({"desc_act": true}))}),
        parts(gptq_list),
    )
    .unwrap();
    let id = reordered.find("a.qweight").unwrap();
    assert!(
        matches!(&reordered.encodings[id as usize], Encoding::Codes(s) if s.order.is_some() && s.zero.is_none())
    );
}

#[test]
fn offsets_beside_scales_are_decodable_but_not_convertible() {
    let list: &[(&str, Dtype, &[u64])] =
        &[("a.weight", I8, &[4, 4]), ("a.weight_scale", F32, &[4, 1]), ("a.weight_offset", F32, &[4, 1])];
    let c = Checkpoint::from_parts(json!({}), parts(list)).unwrap();
    let id = c.find("a.weight").unwrap();
    assert!(
        matches!(&c.encodings[id as usize], Encoding::Codes(Stored { scheme, .. }) if scheme.to_string() == "i8:channel:f32:given")
    );
    let offset = c.find("a.weight_offset").unwrap();
    assert_eq!(c.encodings[offset as usize], Encoding::OffsetOf { codes: id });
    assert_eq!(c.require_decodable(offset).unwrap_err().code(), "encoding-unsupported");
}
