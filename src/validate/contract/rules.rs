//! The rules, as one ordered table.

use serde::Serialize;

/// How bad breaking a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The engine refuses the checkpoint, or loads it wrongly without a word.
    Error,
    /// Something is lost or unusual; the checkpoint may still serve.
    Warning,
}

impl Severity {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        }
    }
}

/// A rule of some engine's loader.
#[derive(Debug)]
pub struct Rule {
    /// Stable identifier, kebab-case.
    pub id: &'static str,
    /// How bad breaking it is.
    pub severity: Severity,
    /// Where it applies: `any`, `vllm-ascend`, `compressed-tensors` or `fp8`.
    pub scope: &'static str,
    /// Why it exists, in one sentence.
    pub why: &'static str,
    /// Where the fact comes from.
    pub source: &'static str,
}

macro_rules! rules {
    ($($name:ident $severity:ident $scope:literal $id:literal $why:literal $source:literal;)*) => {
        $(#[doc = $why] pub(super) static $name: Rule =
            Rule { id: $id, severity: Severity::$severity, scope: $scope, why: $why, source: $source };)*

        /// Every rule, in order.
        pub static RULES: &[&Rule] = &[$(&$name),*];
    };
}

rules! {
    CONFIG_MISSING Error "any" "config-missing"
        "Every engine builds the model from config.json."
        "vLLM transformers_utils/config.py";
    SHARD_MISSING Error "any" "shard-missing"
        "An index that names an absent file fails the load, or leaves parameters uninitialised in a quantized model."
        "vLLM model_loader/weight_utils.py";
    INDEX_STALE Error "any" "index-stale"
        "vLLM drops every weight file that model.safetensors.index.json does not name, so an index of other files leaves no weights."
        "vLLM filter_duplicate_safetensors_files; vllm-ascend examples/quantization/deepseek_v4/quantize.py";
    SHARD_UNLISTED Error "any" "shard-unlisted"
        "A shard of the same series that the index does not name is never read."
        "vLLM filter_duplicate_safetensors_files";
    FILE_FOREIGN Warning "any" "file-foreign"
        "A safetensors file outside the index is ignored by some engines and read by others."
        "vLLM filter_duplicate_safetensors_files; SGLang weight_utils.py";
    INDEX_TENSOR_MISSING Error "any" "index-tensor-missing"
        "The index lists a tensor that its shard does not hold: shard or index is stale."
        "Hugging Face index format, transformers modeling_utils.py";
    INDEX_TENSOR_UNLISTED Error "any" "index-tensor-unlisted"
        "A tensor that the index does not list is missing for every reader that goes by the index."
        "Hugging Face index format, transformers modeling_utils.py";
    INDEX_WRONG_SHARD Error "any" "index-wrong-shard"
        "The index sends readers to the wrong shard."
        "Hugging Face index format, transformers modeling_utils.py";
    INDEX_TOTAL_SIZE Warning "any" "index-total-size"
        "total_size differs from the bytes of the tensors, so the index was not made for these files."
        "Hugging Face index format";
    DUPLICATE_TENSOR Error "any" "duplicate-tensor"
        "A tensor in two shards is loaded twice, and which one wins depends on the order of the files."
        "vLLM safetensors_weights_iterator";
    CONFIG_CONFLICT Warning "any" "quantization-config-conflict"
        "config.json and its text_config state different quantizations, and engines differ in which one they read."
        "vLLM ModelConfig._parse_quant_hf_config";
    LAYER_MISSING Error "any" "layer-missing"
        "A layer without tensors keeps uninitialised parameters in a quantized model."
        "vLLM 0.32 driven with seeded defects: completeness is checked for unquantized models only";
    TENSOR_MISSING Error "any" "tensor-missing"
        "A module without its weight keeps uninitialised memory in a quantized model, without a word."
        "vLLM 0.32 and vllm-ascend 0.23 driven with seeded defects";
    TENSOR_MISSING_MAYBE Warning "any" "tensor-missing-maybe"
        "Most other layers have this tensor; the family is not known well enough to say that it must exist."
        "vLLM 0.32 and vllm-ascend 0.23 driven with seeded defects";
    EXPERT_MISSING Error "any" "expert-missing"
        "A missing expert weight loads without a word and answers with uninitialised memory."
        "vLLM 0.32 and vllm-ascend 0.23 driven with seeded defects";
    EMBED_MISSING Error "any" "embed-missing"
        "The model has no token embedding."
        "vLLM model classes";
    LM_HEAD_MISSING Error "any" "lm-head-missing"
        "There is no output head although config.json does not tie it to the embedding."
        "vLLM model classes, tie_word_embeddings";
    MTP_ABSENT Warning "any" "mtp-absent"
        "config.json promises multi-token prediction that the weights do not have, so speculative decoding cannot load."
        "vLLM models/deepseek_mtp.py";
    ROUTER_QUANTIZED Error "any" "router-quantized"
        "Engines build the expert router without quantization."
        "vLLM models/deepseek_v2.py; HYGON-AI/one-click-quant";
    ROUTER_BIAS_DTYPE Warning "any" "router-bias-dtype"
        "e_score_correction_bias decides between experts by tiny differences, and every release keeps it in F32."
        "DeepSeek-V3 README_WEIGHTS.md and headers; vLLM models/deepseek_v2.py";
    CHIP_NO_FP8 Error "any" "chip-no-fp8"
        "The chip has no FP8 matrix units, and its engine refuses or emulates FP8 weights."
        "targets/*.toml; vllm-ascend issue 3534; CANN aclnnQuantMatmulV5; inference on K100_AI and C500";
    SCALE_MISSING Error "any" "scale-missing"
        "A quantized weight without its scale loads without a word and multiplies by uninitialised memory."
        "vLLM 0.32 and vllm-ascend 0.23 driven with seeded defects";
    SCALE_RANK Error "any" "scale-rank"
        "Scale parameters are two-dimensional and the loader asserts equal shapes: [N] is not [N, 1]."
        "vLLM model_executor/parameter.py";
    SCALE_GRID Error "any" "scale-grid"
        "The scale's shape must follow from the weight's shape and the configured granularity."
        "vLLM fp8.py and compressed_tensors schemes; vllm-ascend quantization/methods";
    SCALE_DTYPE Error "any" "scale-dtype"
        "The loader copies the scale by value, so a tensor of another kind becomes numbers without meaning."
        "vLLM model_executor/parameter.py; vllm-ascend quantization/methods";
    SCALE_NOT_FINITE Error "any" "scale-not-finite"
        "A NaN or infinite scale makes every output of its row or block NaN."
        "IEEE 754; OCP MX 1.0 for E8M0 0xFF";
    SCALE_NEGATIVE Error "any" "scale-negative"
        "No quantizer writes a negative scale; kernels that take its logarithm or maximum break."
        "compressed-tensors, msmodelslim and DeepGEMM scale rules";
    SCALE_ZERO Error "any" "scale-zero"
        "A zero scale erases its row: every tool floors the scale of an all-zero row above zero."
        "msmodelslim int_quantization.py; compressed-tensors helpers.py";
    WEIGHT_DTYPE Error "any" "weight-dtype"
        "The loader casts on copy without a word: a BF16 tensor where INT8 is expected becomes integers."
        "vLLM 0.32 driven with seeded defects";
    FUSED_MIXED Error "any" "fused-dtypes-mixed"
        "Engines fuse these modules into one matrix multiplication, whose parts share one format."
        "vLLM packed_modules_mapping, fused_qkv_a_proj";
    EXPERTS_MIXED Error "any" "experts-dtypes-mixed"
        "All experts of a layer live in one tensor of the engine and share one format."
        "vLLM fused_moe/layer.py";
    EXPERTS_STACKED Error "any" "experts-stacked"
        "The loader of a quantized model wants one 2-D tensor per expert and projection; stacked 3-D experts raise."
        "vLLM 0.32 driven with seeded defects";

    DESCRIPTION_MISSING Error "vllm-ascend" "description-missing"
        "Without quant_model_description.json the engine does not know that the weights are quantized."
        "vllm-ascend quantization/utils.py";
    DESCRIPTION_NAME Error "vllm-ascend" "description-name"
        "The engine opens exactly quant_model_description.json; names with a scheme are MindIE's."
        "vllm-ascend MODELSLIM_CONFIG_FILENAME; issue 2296";
    DESCRIPTION_JSON Error "vllm-ascend" "description-json"
        "The description is one flat JSON object."
        "vllm-ascend quantization/modelslim_config.py";
    DESCRIPTION_KEY_MISSING Error "vllm-ascend" "description-key-missing"
        "The engine looks up <prefix>.weight of every linear, embedding and head and dies with a KeyError."
        "vllm-ascend get_linear_quant_type; issues 876, 3534, 4835, 5794, 8367";
    DESCRIPTION_ENTRY_MISSING Warning "vllm-ascend" "description-entry-missing"
        "The format has one entry per tensor; other consumers than the loader count on it."
        "msmodelslim save/ascendv1.py";
    DESCRIPTION_TENSOR_UNKNOWN Error "vllm-ascend" "description-tensor-unknown"
        "The description promises a tensor that no file holds, so its parameter stays uninitialised."
        "msmodelslim save/ascendv1.py; vllm-ascend 0.23 driven with seeded defects";
    TAG_UNKNOWN Error "vllm-ascend" "tag-unknown"
        "The engine registers no scheme of this name; msmodelslim writes some that it cannot load."
        "vllm-ascend quantization/methods register_scheme";
    TAG_INCONSISTENT Warning "vllm-ascend" "tag-inconsistent"
        "The scale or offset of a weight carries another tag than the weight."
        "msmodelslim save/ascendv1.py";
    FUSED_TAGS_MIXED Error "vllm-ascend" "fused-tags-mixed"
        "A fused module is looked up through its parts, and the engine raises unless all carry one tag."
        "vllm-ascend get_linear_quant_type";
    EXPERT_TAGS_MIXED Error "vllm-ascend" "expert-tags-mixed"
        "The engine reads the tag of expert 0 only and treats every expert of the layer like it."
        "vllm-ascend modelslim_config.py packed experts mapping";
    KV_B_QUANTIZED Error "vllm-ascend" "kv-b-quantized"
        "The engine asserts that kv_b_proj is float and splits it into W_UK and W_UV."
        "vllm-ascend attention/mla_v1.py";
    MTP_MISSING Error "vllm-ascend" "mtp-missing"
        "config.json promises multi-token prediction, the engine builds it and finds neither tensors nor keys."
        "vllm-ascend issues 4093, 5794";
    QUANTIZATION_CONFIG_LEFT Error "vllm-ascend" "quantization-config-left"
        "A quantization_config in config.json competes with the description for the quantization method."
        "vllm-ascend quantization/utils.py; msmodelslim save/ascendv1.py removes both";
    PARAMETER_MISSING Error "vllm-ascend" "parameter-missing"
        "The scheme registers this parameter, and without its tensor it stays uninitialised or raises."
        "vllm-ascend quantization/methods; issue 986";
    PARAMETER_SHAPE Error "vllm-ascend" "parameter-shape"
        "The scheme registers this parameter with another shape."
        "vllm-ascend quantization/methods";
    PARAMETER_DTYPE Error "vllm-ascend" "parameter-dtype"
        "The scheme stores this parameter in another element type."
        "msmodelslim save/ascendv1.py; vllm-ascend quantization/methods";
    SCALE_NARROW Warning "vllm-ascend" "scale-narrow"
        "msmodelslim stores scales and offsets in F32; a narrower one loads, and other consumers may not expect it."
        "msmodelslim save/ascendv1.py";
    OFFSET_NONZERO Error "vllm-ascend" "offset-nonzero"
        "The INT8 kernels of the dynamic schemes are symmetric, and an offset other than zero is not applied."
        "vllm-ascend methods/w8a8_dynamic.py; msmodelslim int_quantization.py";
    SCALE_NOT_BF16 Warning "vllm-ascend" "scale-not-bf16"
        "The engine loads the scale into a parameter of the model's dtype, so an F32 scale is rounded after its codes were made."
        "vllm-ascend methods/w8a8_dynamic.py; measured with the loader";
    TORCH_DTYPE Error "vllm-ascend" "torch-dtype-float16"
        "CANN has no float16 scale for the dynamic INT8 linear."
        "vllm-ascend issue 7443";
    DEQ_SCALE_DTYPE Error "vllm-ascend" "deq-scale-dtype"
        "deq_scale is F32 for a bfloat16 model and I64 for a float16 model."
        "msmodelslim save/ascendv1.py; vllm-ascend methods/w8a8_static.py";
    GROUP_SIZE Error "vllm-ascend" "group-size"
        "Group 256 fails in the NZ layout, per-group W4A8_DYNAMIC is rejected, and MX formats have groups of 32."
        "vllm-ascend issues 5603, 8770, 10834; quantization/methods";
    W4A8_LINEAR Error "vllm-ascend" "w4a8-linear"
        "W4A8_DYNAMIC exists for routed experts only."
        "vllm-ascend main of 2026-08: no linear scheme of this name";
    SCHEME_NOT_MOE Error "vllm-ascend" "scheme-not-moe"
        "The scheme exists for linears only, experts cannot carry its tag."
        "vllm-ascend quantization/methods register_scheme";
    SCALE_BIAS_SHAPE Error "vllm-ascend" "scale-bias-shape"
        "scale_bias of a down projection has 16 columns; [N, 1] fills one of them and leaves 15 uninitialised."
        "msmodelslim save/utils/pack.py; vllm-ascend methods/w4a8.py";
    TAG_NOT_ON_CHIP Error "vllm-ascend" "tag-not-on-chip"
        "The scheme needs another Ascend generation than the target."
        "vllm-ascend device/hardware.py, quantization/methods";
    PREFIX_COLLISION Warning "vllm-ascend" "prefix-collision"
        "The engine calls a layer float when any FLOAT key starts with its name, and another module's does."
        "vllm-ascend is_layer_skipped_ascend";
    MODEL_QUANT_TYPE Warning "vllm-ascend" "model-quant-type"
        "model_quant_type names the highest-priority tag; MindIE and the 310P loader read it."
        "msmodelslim save/ascendv1.py; vllm-ascend _310p/sharded_state_loader_310p.py";
    BIAS_DTYPE Warning "vllm-ascend" "bias-dtype"
        "Biases of linears are stored in F32."
        "msmodelslim save/ascendv1.py";

    QUANTIZATION_CONFIG_MISSING Error "compressed-tensors" "quantization-config-missing"
        "Without quantization_config the engine builds a float model and casts the codes."
        "vLLM ModelConfig; vLLM-Kunlun tutorial of DeepSeek-V3.2 W8A8";
    COMPRESSION_CONFIG Warning "compressed-tensors" "compression-config"
        "compression_config is the old name of quantization_config, and not every engine reads it."
        "xLLM hf_model_loader.cpp; sglang-das model_config.py";
    METHOD_UNCHECKED Warning "any" "method-unchecked"
        "This version has no rules for the quantization method, so only the common ones were applied."
        "silicast";
    CONFIG_GROUPS Error "compressed-tensors" "config-groups"
        "Without config_groups and weights in each, no module has a scheme."
        "compressed-tensors quantization/quant_config.py";
    CONFIG_KEY_UNKNOWN Error "compressed-tensors" "config-key-unknown"
        "An unknown key inside a group or its arguments is a validation error."
        "compressed-tensors 0.20 QuantizationArgs and QuantizationScheme (extra = forbid)";
    SPARSITY_CONFIG Error "compressed-tensors" "sparsity-config"
        "vLLM raises for a sparsity_config that names targets."
        "vLLM compressed_tensors.py";
    FORMAT_DTYPE Error "compressed-tensors" "format-dtype"
        "format decides which parameter and element type the engine registers."
        "vLLM compressed_tensors.py scheme selection";
    NUM_BITS_DTYPE Error "compressed-tensors" "num-bits-dtype"
        "num_bits and type must describe the stored codes."
        "compressed-tensors quant_args.py; vLLM compressed_tensors.py";
    ACTIVATIONS Error "compressed-tensors" "activations-missing"
        "int-quantized weights are served with dynamic INT8 activations per token only; without them no scheme matches."
        "vLLM compressed_tensors.py scheme selection";
    WEIGHT_NOT_QUANTIZED Error "compressed-tensors" "weight-not-quantized"
        "The config targets this module and the weight is float: the engine casts it to codes without a word."
        "vLLM 0.32 driven with seeded defects; one-click-quant V4.1 comments";
    IGNORED_QUANTIZED Error "compressed-tensors" "ignored-but-quantized"
        "The config leaves this module float and the file holds codes: they are loaded as values."
        "vLLM compressed_tensors.py get_quant_method";
    IGNORE_HALF Error "compressed-tensors" "ignore-half-fused"
        "An ignore list must cover all parts of a fused module or none."
        "vLLM compressed_tensors/utils.py should_ignore_layer";
    IGNORE_UNMATCHED Warning "compressed-tensors" "ignore-unmatched"
        "The entry matches no module: a misspelt name, or a name of another revision."
        "vLLM compressed_tensors/utils.py";
    PATTERN_UNREAD Warning "compressed-tensors" "pattern-unread"
        "The regular expression uses Python-only syntax, so rules that depend on it were left out."
        "silicast";
    LM_HEAD_QUANTIZED Error "compressed-tensors" "lm-head-quantized"
        "The output head is no Linear: unless a target names it, the engine loads it as float."
        "vLLM compressed_tensors.py get_quant_method";

    BLOCK_SIZE_MISSING Error "fp8" "block-size-missing"
        "Block scales without weight_block_size: the engine registers one scale per tensor."
        "vLLM quantization/fp8.py";
    SCALE_POWER Error "fp8" "scale-not-power-of-two"
        "scale_fmt ue8m0 promises powers of two, and engines keep only the exponent bits."
        "DeepSeek-V3.1 config; DeepGEMM layout.hpp; vllm-ascend methods/fp8.py";
    FUSED_UNALIGNED Error "fp8" "fused-unaligned"
        "Every part of a fused module but the last must fill whole scale blocks."
        "vLLM fp8_utils.py validate_fp8_block_shape; run with a q_a_proj of 192 rows";
    MODULES_HALF Error "fp8" "modules-half-fused"
        "modules_to_not_convert must name all parts of a fused module or none."
        "vLLM quant_utils.py is_layer_skipped";
    LISTED_FP8 Error "fp8" "listed-but-fp8"
        "The module is listed as not converted and holds FP8 codes: they are loaded as values."
        "vLLM quantization/fp8.py get_quant_method";
    FLOAT_UNLISTED Warning "fp8" "float-unlisted"
        "The engine builds every linear that is not listed as FP8: it casts this float weight and has no scale."
        "vLLM quantization/fp8.py get_quant_method";
    SCALE_INV_ZERO Warning "fp8" "scale-inv-zero"
        "A zero block scale erases its block unless all its codes are zero."
        "DeepSeek-V3 inference/kernel.py";
    SCALE_STORAGE Warning "fp8" "scale-storage"
        "weight_scale_inv is F32 in this method; exponent bytes are converted by value in some engines, which destroys them."
        "vLLM quantization/fp8.py; vLLM-metax comments on e8m0 copies";
    INPUT_SCALE Error "fp8" "input-scale-missing"
        "A static activation_scheme needs an input_scale per module."
        "vLLM quantization/fp8.py";
}

/// Codes of the strict reader that become findings (severity error) when the reader refuses what the rules above do not
/// already explain.
pub const READER: &[(&str, &str)] = &[
    ("config-json", "config.json is not JSON, or a key appears twice."),
    ("config-not-object", "config.json is not an object."),
    ("config-value", "A value of config.json makes no sense."),
    ("file-name", "A file name cannot be handled safely."),
    ("file-too-big", "A JSON file is larger than anything of its kind."),
    ("index-ambiguous", "The folder has several indexes, none of the standard name."),
    ("index-duplicate", "The index lists a tensor twice."),
    ("index-json", "The index is not JSON."),
    ("index-shard-name", "The index names something that is no shard of this folder."),
    ("index-tensor-name", "A tensor name in the index is not acceptable."),
    ("index-weight-map", "The index has no weight_map."),
    ("not-a-file", "A folder has the name of a shard or index."),
    ("source-changed", "A file changed while it was read."),
    ("special-file", "A name in the folder is a FIFO, a device or a socket."),
    ("st-dtype", "A header entry's dtype is no string."),
    ("st-dtype-unknown", "A header entry has an unknown dtype."),
    ("st-duplicate-key", "A key of a header entry appears twice."),
    ("st-duplicate-name", "Two header entries have one name."),
    ("st-entry", "A header entry is no object."),
    ("st-field-missing", "A header entry is incomplete."),
    ("st-header-empty", "A safetensors header is empty."),
    ("st-header-past-end", "A safetensors header ends after its file: the file is cut short."),
    ("st-header-too-big", "A safetensors header is too big."),
    ("st-hole", "Bytes of a file belong to no tensor."),
    ("st-json", "A safetensors header is not JSON."),
    ("st-metadata", "__metadata__ is no object of strings."),
    ("st-metadata-too-big", "__metadata__ is too big."),
    ("st-name", "A tensor name is not acceptable."),
    ("st-not-object", "A safetensors header is no object."),
    ("st-offset-order", "A tensor ends before it starts."),
    ("st-offsets", "data_offsets are not two non-negative integers."),
    ("st-overflow", "A shape's byte count overflows."),
    ("st-overlap", "Two tensors share bytes."),
    ("st-partial-byte", "A tensor's elements do not fill whole bytes."),
    ("st-rank", "A tensor has too many dimensions."),
    ("st-shape", "A shape is no list of non-negative integers."),
    ("st-size", "A tensor's byte range does not fit its shape."),
    ("st-too-many-tensors", "A file has too many tensors."),
    ("st-too-short", "A file is too short for a safetensors header."),
    ("st-trailing-bytes", "Bytes after the last tensor belong to no tensor."),
    ("st-truncated", "A file is shorter than its header says."),
    ("st-utf8", "A safetensors header is not UTF-8."),
    ("symlink", "A file is a link other than a hub cache's."),
    ("too-many-tensors", "The checkpoint has too many tensors."),
];

/// `docs/check.md`: the tables above for people.
pub fn markdown() -> String {
    let mut out = String::from(
        "# `silicast check`: the rules\n\n\
         `silicast check DIR [--target ID | --engine NAME]` holds a checkpoint folder, ours or anybody's, against what the loader of\n\
         a serving engine really does. It reads headers, JSON and the values of scales and offsets (at most 64 MiB of them, sampled\n\
         from both ends of every tensor beyond that), never weights. Exit code 0: no errors; 1: errors; 4: the folder is no checkpoint.\n\n\
         Without `--target` and `--engine` the engine is inferred: `quant_model_description*.json` means `vllm-ascend`, everything\n\
         else `vllm`. `--target` adds what the chip cannot do. At most 200 findings are listed per rule; one more finding says how\n\
         many there are beyond.\n\n\
         This page is generated from the table in `src/validate/contract/rules.rs`\n\
         (`SILICAST_UPDATE_DOCS=1 cargo test --test check`).\n",
    );
    for (scope, title) in [
        ("any", "Every engine"),
        ("vllm-ascend", "vllm-ascend (AscendV1 folders)"),
        ("compressed-tensors", "compressed-tensors (vllm, vllm-metax, vllm-hcu)"),
        ("fp8", "Native FP8 (`quant_method: fp8`)"),
    ] {
        out += &format!("\n## {title}\n\n| id | severity | why | source |\n|---|---|---|---|\n");
        for rule in RULES.iter().filter(|r| r.scope == scope) {
            out +=
                &format!("| `{}` | {} | {} | {} |\n", rule.id, rule.severity.name(), rule.why, rule.source);
        }
    }
    out += "\n## Codes of the strict reader\n\nWhat no reader should accept, found before any engine's rules; severity error.\n\n| id | what |\n|---|---|\n";
    for (id, what) in READER {
        out += &format!("| `{id}` | {what} |\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_kebab_case_and_every_rule_has_a_reason_and_a_source() {
        let mut seen = BTreeSet::new();
        for id in RULES.iter().map(|r| r.id).chain(READER.iter().map(|r| r.0)) {
            assert!(seen.insert(id), "{id} twice");
            assert!(id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'), "{id}");
        }
        for rule in RULES {
            assert!(
                rule.why.ends_with('.') && !rule.source.is_empty() && !rule.why.contains('|'),
                "{}",
                rule.id
            );
        }
    }
}
