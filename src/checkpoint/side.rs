//! The files beside the weights: which are copied into an artifact.
//!
//! A fixed allow-list: nothing is executed, and a file that an engine would trip over (a stale index, another tool's
//! quantization description, pickled weights) does not travel.

/// A file or folder beside the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// Name in the source folder.
    pub name: String,
    /// Length in bytes; 0 for a folder.
    pub bytes: u64,
    /// What becomes of it.
    pub kind: SideKind,
}

/// What becomes of a side file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SideKind {
    /// Copied.
    Copy,
    /// Python code: copied with `--allow-code-files` only.
    Code,
    /// Describes the source's quantization: copied only where that is kept.
    Description,
    /// Not copied, for this reason.
    Skipped(&'static str),
}

/// Decides about the regular file `name`; weights that were read are not asked about.
pub(super) fn kind(name: &str) -> SideKind {
    let lower = name.to_ascii_lowercase();
    let ends = |suffixes: &[&str]| suffixes.iter().any(|s| lower.ends_with(s));
    if name.starts_with('.') {
        SideKind::Skipped("a hidden file")
    } else if lower == "config.json" {
        SideKind::Skipped("written anew, patched")
    } else if ends(&["index.json"]) {
        SideKind::Skipped("an index of the source's own shards")
    } else if is_description(&lower) {
        SideKind::Description
    } else if ends(&[".safetensors"]) {
        SideKind::Skipped("weights that the index does not list")
    } else if ends(PICKLES) {
        SideKind::Skipped("pickled weights are never read")
    } else if ends(&[".gguf", ".onnx", ".h5", ".msgpack", ".npz", ".npy"]) {
        SideKind::Skipped("weights in another format")
    } else if ends(&[".py"]) {
        SideKind::Code
    } else if ends(&[".json", ".txt", ".jinja", ".model", ".tiktoken"])
        || lower.starts_with("tokenizer")
        || lower.starts_with("license")
    {
        SideKind::Copy
    } else {
        SideKind::Skipped("not needed to load the model")
    }
}

/// Suffixes of files that can run code when they are loaded.
pub(super) const PICKLES: &[&str] = &[".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"];

/// Descriptions that other quantization tools leave beside the weights.
fn is_description(lower: &str) -> bool {
    lower.starts_with("quant_model_description")
        || matches!(
            lower,
            "hf_quant_config.json"
                | "quantize_config.json"
                | "quant_config.json"
                | "quantization_config.json"
                | "quant_strategy.json"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allow_list() {
        for name in [
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "merges.txt",
            "chat_template.jinja",
            "tokenizer.model",
            "qwen.tiktoken",
            "LICENSE",
            "LICENSE-MODEL",
            "generation_config.json",
        ] {
            assert_eq!(kind(name), SideKind::Copy, "{name}");
        }
        assert_eq!(kind("modeling_deepseek.py"), SideKind::Code);
        for name in ["quant_model_description.json", "hf_quant_config.json", "quantize_config.json"] {
            assert_eq!(kind(name), SideKind::Description, "{name}");
        }
        for name in [
            ".gitattributes",
            ".evil.json",
            "config.json",
            "model.safetensors.index.json",
            "pytorch_model.bin.index.json",
            "README.md",
            "model.bin",
            "x.PT",
            "old.safetensors",
            "run.sh",
        ] {
            assert!(matches!(kind(name), SideKind::Skipped(_)), "{name}");
        }
    }
}
