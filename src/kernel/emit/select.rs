//! Which kernels a scheme needs.

use crate::dtype::Dtype;
use crate::dtype::scheme::{Granularity, Rule, Scheme};

/// Kernels that every model runs, whatever its weights are.
const COMMON: &[&str] = &[
    "dequant_bf16",
    "rmsnorm",
    "add_rmsnorm",
    "swiglu",
    "rope",
    "rope_interleaved",
    "rope_half",
    "rope_half_split",
    "mla_plain",
    "mla_absorbed",
    "sparse_attn_sink",
    "moe_gate",
    "moe_combine",
    "lm_head",
];

/// The kernels of a scheme: those of its linear layers, and those around them.
struct Set {
    linear: &'static [&'static str],
    around: &'static [&'static str],
}

const INT8: Set = Set {
    linear: &["gemm_w8a8", "dequant_int8_channel", "quant_int8_token"],
    around: &[
        "dequant_int8_block",
        "requant_e4m3_to_s8",
        "rmsnorm_quant_s8",
        "add_rmsnorm_quant_s8",
        "swiglu_quant",
        "moe_grouped_gemm",
        "kv_quant_int8",
        "layout_nz",
        "layout_nz_inverse",
    ],
};

const FP8_AROUND: &[&str] = &[
    "dequant_e4m3",
    "dequant_e4m3fnuz",
    "quant_tk_fp8_f32",
    "quant_vllm_fp8_group",
    "quant_ds_fp8_f32_mul",
    "requant_bf16_to_e4m3",
    "requant_e4m3fn_to_e4m3fnuz",
    "requant_e4m3fnuz_to_e4m3fn",
    "rmsnorm_quant_fp8",
    "add_rmsnorm_quant_fp8",
    "swiglu_quant",
    "moe_grouped_gemm",
    "indexer_logits",
    "kv_quant_v32",
    "kv_quant_model1",
];

const FP8_CHANNEL: Set = Set {
    linear: &["gemm_fp8_token_channel", "dequant_fp8_channel", "quant_vllm_fp8_token"],
    around: FP8_AROUND,
};

const FP8_BLOCK: Set =
    Set { linear: &["gemm_fp8_block", "dequant_fp8_block", "quant_dg_fp8_f32"], around: FP8_AROUND };

const FP8_BLOCK_UE8M0: Set = Set {
    linear: &["gemm_fp8_block", "dequant_fp8_block", "quant_ds_fp8_ue8m0"],
    around: &[
        "quant_dg_fp8_ue8m0",
        "requant_e4m3_f32_to_ue8m0",
        "dequant_e8m0",
        "layout_ue8m0_pack",
        "layout_ue8m0_unpack",
        "layout_ue8m0_tma",
        "dequant_e4m3",
        "rmsnorm_quant_fp8",
        "add_rmsnorm_quant_fp8",
        "swiglu_quant",
        "moe_grouped_gemm",
        "indexer_logits",
        "kv_quant_v32",
        "kv_quant_model1",
    ],
};

const MXFP8: Set = Set {
    linear: &["gemm_mxfp8", "dequant_mxfp8", "quant_ds_fp8_ue8m0"],
    around: &["quant_dg_fp8_ue8m0", "dequant_e8m0", "dequant_e4m3", "dequant_e5m2"],
};

const MXFP4: Set = Set {
    linear: &["gemm_mxfp4", "gemm_fp8_mxfp4", "dequant_mxfp4", "quant_mx_fp4_ds"],
    around: &["quant_mx_fp4_dg", "dequant_e2m1", "dequant_e8m0", "moe_grouped_gemm", "layout_nibble_swap"],
};

const NVFP4: Set = Set {
    linear: &["gemm_nvfp4", "dequant_nvfp4", "quant_nvfp4"],
    around: &["dequant_e2m1", "dequant_e4m3", "layout_nibble_swap"],
};

const INT4: Set = Set {
    linear: &["gemm_w4a16_group", "gemm_w4a8_group", "dequant_int4_group"],
    around: &[
        "layout_pack_i32",
        "layout_pack_nibbles",
        "layout_nibble_swap",
        "layout_interleave",
        "layout_deinterleave",
    ],
};

/// Weights decoded to BF16: what decodes them.
const FLOAT: Set =
    Set { linear: &["dequant_fp8_block", "lm_head"], around: &["dequant_int8_channel", "dequant_e4m3"] };

fn set(scheme: Option<&Scheme>) -> &'static Set {
    let Some(scheme) = scheme else { return &FLOAT };
    match (scheme.element, scheme.scale, scheme.granularity) {
        (Dtype::I8, ..) => &INT8,
        (Dtype::I4 | Dtype::U4, ..) => &INT4,
        (Dtype::F4E2M1, Dtype::F8E8M0, _) => &MXFP4,
        (Dtype::F4E2M1, ..) => &NVFP4,
        (_, Dtype::F8E8M0, Granularity::Block { rows: 1, .. }) => &MXFP8,
        (_, Dtype::F8E8M0, Granularity::Block { .. }) => &FP8_BLOCK_UE8M0,
        (_, _, Granularity::Block { .. }) if scheme.rule == Rule::DeepseekUe8m0 => &FP8_BLOCK_UE8M0,
        (_, _, Granularity::Block { .. }) => &FP8_BLOCK,
        _ => &FP8_CHANNEL,
    }
}

/// Whether a model with weights in `schemes` (`None`: plain floats) runs `kernel`.
pub fn runs(schemes: &[Option<Scheme>], kernel: &str) -> bool {
    COMMON.contains(&kernel)
        || schemes.iter().any(|s| {
            let set = set(s.as_ref());
            set.linear.contains(&kernel) || set.around.contains(&kernel)
        })
}

/// Whether the linear layers of a model with weights in `schemes` run `kernel`.
pub fn multiplies(schemes: &[Option<Scheme>], kernel: &str) -> bool {
    schemes.iter().any(|s| set(s.as_ref()).linear.contains(&kernel))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::reference::catalog;

    #[test]
    fn every_kernel_that_is_named_exists() {
        let sets = [&INT8, &FP8_CHANNEL, &FP8_BLOCK, &FP8_BLOCK_UE8M0, &MXFP8, &MXFP4, &NVFP4, &INT4, &FLOAT];
        for name in sets.iter().flat_map(|s| s.linear.iter().chain(s.around)).chain(COMMON) {
            assert!(catalog::find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn schemes_find_their_products() {
        for (text, gemm) in [
            ("i8:channel:f32:amax127", "gemm_w8a8"),
            ("f8_e4m3:channel:f32:amax448", "gemm_fp8_token_channel"),
            ("f8_e4m3:128x128:f32:amax448", "gemm_fp8_block"),
            ("f8_e4m3:128x128:f32:deepseek-ue8m0", "gemm_fp8_block"),
        ] {
            let scheme = Some(text.parse().unwrap());
            let found: Vec<_> = catalog::kernels()
                .filter(|k| k.name.starts_with("gemm") && multiplies(&[scheme], k.name))
                .map(|k| k.name)
                .collect();
            assert_eq!(found, [gemm], "{text}");
        }
        assert!(!runs(&[None], "gemm_w8a8") && runs(&[None], "rmsnorm"));
    }
}
