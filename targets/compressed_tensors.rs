//! `quant_method: compressed-tensors`: integers and floats per channel, packed groups, MXFP8, MXFP4, NVFP4.
//!
//! Facts from compressed-tensors 0.20.0 (`quantization/quant_config.py`, `quant_scheme.py`), vLLM 0.33
//! (`layers/quantization/compressed_tensors`) and SGLang 0.5.23. The configuration is the union of the fields that the
//! plug-ins of MetaX, Hygon and Kunlunxin read. Ignore lists name every float linear in full, because SGLang raises on a
//! module that matches neither `targets` nor `ignore`, and both engines match full names first.

use super::Activations;
use super::engine::Dialect;
use crate::dtype::Dtype;
use crate::dtype::scheme::{Granularity, Scheme};
use serde_json::{Value, json};

/// A configuration whose groups have formats of their own.
pub const MIXED: &str = "mixed-precision";

/// Routed experts by their run-time names.
const EXPERTS: &str = "re:.*\\.experts\\..*";

/// The method's entry in `config.json`, for an artifact with these schemes.
pub fn config(cx: &Dialect<'_>, experts: Option<Scheme>, rest: Option<Scheme>) -> Value {
    let asymmetric = cx.preset.is_asymmetric();
    let inputs = cx.preset.activations.map_or(Value::Null, activations);
    let group = |scheme: Scheme, targets: &str, format: &str| {
        json!({
            "targets": [targets],
            "weights": weights(scheme, asymmetric),
            "input_activations": inputs,
            "output_activations": null,
            "format": format,
        })
    };
    let (format, groups) = match (cx.preset.format.as_str(), experts, rest) {
        // Packed INT4 experts beside INT8: without a format of its own the INT8 group would be taken for packed.
        (MIXED, Some(experts), None) => ("pack-quantized", vec![group(experts, EXPERTS, "pack-quantized")]),
        (MIXED, Some(experts), Some(rest)) => {
            (MIXED, vec![group(experts, EXPERTS, "pack-quantized"), group(rest, "Linear", "int-quantized")])
        }
        (MIXED, None, Some(rest)) => ("int-quantized", vec![group(rest, "Linear", "int-quantized")]),
        (format, _, rest) => (format, rest.into_iter().map(|rest| group(rest, "Linear", format)).collect()),
    };
    let groups: serde_json::Map<String, Value> =
        groups.into_iter().enumerate().map(|(i, group)| (format!("group_{i}"), group)).collect();
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": cx.float_linears(),
        "kv_cache_scheme": null
    })
}

/// What describes the codes of one kind of tensor.
struct Args {
    bits: u64,
    kind: &'static str,
    symmetric: bool,
    strategy: &'static str,
    dynamic: bool,
    group: Option<u32>,
    scale: Option<&'static str>,
}

impl Args {
    fn json(self) -> Value {
        let mut args = json!({
            "num_bits": self.bits,
            "type": self.kind,
            "symmetric": self.symmetric,
            "strategy": self.strategy,
            "dynamic": self.dynamic,
            "group_size": self.group,
            "observer": if self.dynamic { Value::Null } else { "minmax".into() },
            "observer_kwargs": {},
        });
        // Unknown and null keys are errors inside arguments: written only where the library writes it.
        if let (Some(scale), Some(map)) = (self.scale, args.as_object_mut()) {
            map.insert("scale_dtype".to_owned(), scale.into());
        }
        args
    }
}

fn weights(scheme: Scheme, asymmetric: bool) -> Value {
    let strategy = match scheme.granularity {
        Granularity::Tensor => "tensor",
        Granularity::Channel | Granularity::Row => "channel",
        // NVFP4: groups below one scale of the whole tensor.
        Granularity::Block { rows: 1, .. } if scheme.scale == Dtype::F8E4M3 => "tensor_group",
        Granularity::Block { rows: 1, .. } => "group",
        Granularity::Block { .. } => "block",
    };
    Args {
        bits: scheme.element.bits(),
        kind: if scheme.element.is_integer() { "int" } else { "float" },
        symmetric: !asymmetric,
        strategy,
        dynamic: false,
        group: scheme.granularity.group(),
        scale: match scheme.scale {
            Dtype::U8 => Some("torch.uint8"),
            Dtype::F8E4M3 => Some("torch.float8_e4m3fn"),
            _ => None,
        },
    }
    .json()
}

fn activations(activations: Activations) -> Value {
    let token = |kind| Args {
        bits: 8,
        kind,
        symmetric: true,
        strategy: "token",
        dynamic: true,
        group: None,
        scale: None,
    };
    match activations {
        Activations::Int8 => token("int"),
        Activations::Fp8 => token("float"),
        Activations::Mxfp8 => {
            Args { strategy: "group", group: Some(32), scale: Some("torch.uint8"), ..token("float") }
        }
    }
    .json()
}
