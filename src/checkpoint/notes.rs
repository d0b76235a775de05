//! Oddities worth telling: what is missing, doubled or unusual.

use super::encoding::Encoding;
use super::role::Kind;
use super::{Checkpoint, SideKind};
use crate::error::quote;
use std::collections::BTreeSet;

/// Adds notes and warnings to a checkpoint.
pub(super) fn add(checkpoint: &mut Checkpoint) {
    let (mut notes, mut warnings) = (Vec::new(), Vec::new());
    let config = &checkpoint.config;
    if !config.present {
        notes.push("no config.json: the family is unknown and sizes are taken from the tensors".to_owned());
    } else if checkpoint.family.id == "unknown" {
        let found = config.model_type().unwrap_or("none");
        notes.push(format!("model_type {} is not a known family", quote(found, 60)));
    }
    if config.quantization_conflict {
        warnings.push(
            "quantization_config differs between the root and text_config; the root's is used".to_owned(),
        );
    }
    if config.get("auto_map").is_some() {
        notes.push("config.json names custom code (auto_map); silicast never runs it".to_owned());
    }
    let code = checkpoint.side_files.iter().filter(|f| f.kind == SideKind::Code);
    let code: Vec<&str> = code.map(|f| f.name.as_str()).collect();
    if !code.is_empty() {
        let names = code.join(", ");
        notes.push(format!("code that an engine may execute, copied with --allow-code-files only: {names}"));
    }

    let (mut layers, mut mtp, mut lm_head, mut rotary) = (BTreeSet::new(), 0usize, false, 0usize);
    for tensor in &checkpoint.tensors {
        let role = checkpoint.family.role(&tensor.name, &tensor.shape);
        if role.kind != Kind::Multimodal && !role.mtp {
            layers.extend(role.layer);
        }
        mtp += usize::from(role.mtp);
        lm_head |= role.kind == Kind::LmHead;
        rotary += usize::from(role.kind == Kind::RotaryBuffer);
    }
    let promised = config.num_mtp_layers();
    if promised > 0 && mtp == 0 {
        notes.push(format!(
            "num_nextn_predict_layers is {promised}, but there are no tensors of multi-token prediction"
        ));
    } else if mtp > 0 && promised == 0 {
        notes.push(format!("{mtp} tensors of multi-token prediction, which config.json does not mention"));
    }
    if rotary > 0 {
        notes.push(format!("{rotary} stray rotary buffers (inv_freq)"));
    }
    if let Some(main) = config.num_hidden_layers().filter(|_| !layers.is_empty()) {
        // Counted, not listed: num_hidden_layers is as hostile as any other number.
        let seen = layers.iter().filter(|l| u64::from(**l) < main).count() as u64;
        if seen < main {
            let first = (0u32..).find(|l| !layers.contains(l)).unwrap_or(0);
            warnings.push(format!(
                "{} of {main} layers have no tensors, the first is layer {first}",
                main - seen
            ));
        }
        let beyond = layers.len() as u64 - seen;
        if beyond > 0 {
            warnings.push(format!("{beyond} layers beyond num_hidden_layers {main}"));
        }
    }
    if config.present && !lm_head && !config.tie_word_embeddings() {
        notes.push("no lm_head, and tie_word_embeddings is not set".to_owned());
    }

    let mut unsupported: BTreeSet<&str> = BTreeSet::new();
    let mut codes = 0usize;
    for encoding in &checkpoint.encodings {
        match encoding {
            Encoding::Unsupported { what } => {
                unsupported.insert(what);
            }
            Encoding::Codes(_) => codes += 1,
            _ => {}
        }
    }
    for what in &unsupported {
        notes.push(format!("not decodable in this version: {what}"));
    }
    if let Some(q) = &config.quantization
        && codes == 0
        && unsupported.is_empty()
    {
        warnings.push(format!(
            "config.json says quant_method \"{}\", but no tensor is quantized",
            quote(&q.method, 40)
        ));
    }
    if config.quantization.is_none() && codes > 0 {
        notes.push(format!("{codes} quantized weights, but config.json has no quantization_config"));
    }
    checkpoint.notes.extend(notes);
    checkpoint.warnings.extend(warnings);
}
