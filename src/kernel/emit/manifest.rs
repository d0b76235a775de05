//! Golden cases and the manifest that lists them.

use crate::kernel::reference::array::{Array, Arrays};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Version of `manifest.json`.
pub const SCHEMA_VERSION: u32 = 1;

/// A call of a kernel with its results.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The kernel's name in the catalog.
    pub kernel: &'static str,
    /// Name of the case, unique within its kernel: the class with a suffix for variants.
    pub name: String,
    /// Input class.
    pub class: &'static str,
    /// Parameters that differ from the defaults or that a reader should see.
    pub params: Map<String, Value>,
    /// The part of a checkpoint that the inputs are from, for cases of real weights.
    pub tensor: Option<String>,
    /// Inputs by argument name.
    pub inputs: Arrays,
    /// Results by argument name, in the formats wanted.
    pub outputs: Arrays,
}

impl Case {
    /// Name of an argument's array: its file in the pack is `golden/<name>.npy`, unless an earlier case has the same array.
    pub fn array_name(&self, arg: &str) -> String {
        format!("{}.{}.{arg}", self.kernel, self.name)
    }

    /// How far an output may be from the golden one, as a share of the largest magnitude; `None` for bit equality.
    pub fn tolerance(&self) -> Option<f64> {
        // Their f64 exponentials are not defined to the last bit.
        self.kernel.starts_with("mla_").then_some(1e-12)
    }
}

#[derive(Serialize)]
struct CaseEntry<'a> {
    kernel: &'a str,
    case: &'a str,
    class: &'a str,
    params: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<&'a str>,
    inputs: BTreeMap<String, ArrayEntry>,
    outputs: BTreeMap<String, ArrayEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    onnx: Option<String>,
}

#[derive(Serialize)]
struct ArrayEntry {
    file: String,
    dtype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tolerance: Option<f64>,
}

/// The entry of one case, as one line of JSON. `file` names the file of an array; `onnx` that of the graph.
pub(super) fn entry(
    case: &Case,
    file: &dyn Fn(&Array) -> String,
    onnx: Option<String>,
) -> serde_json::Result<String> {
    let describe = |arrays, tolerance| {
        let one = |(name, array): (&String, &Array)| {
            let entry = ArrayEntry {
                file: file(array),
                dtype: array.dtype.golden_name(),
                shape: array.shape.clone(),
                tolerance,
            };
            (name.clone(), entry)
        };
        Arrays::iter(arrays).map(one).collect()
    };
    serde_json::to_string(&CaseEntry {
        kernel: case.kernel,
        case: &case.name,
        class: case.class,
        params: &case.params,
        tensor: case.tensor.as_deref(),
        inputs: describe(&case.inputs, None),
        outputs: describe(&case.outputs, case.tolerance()),
        onnx,
    })
}

/// `manifest.json` from the entries of the cases: one case per line.
pub(super) fn document(entries: &[String]) -> Vec<u8> {
    let tool = concat!("silicast ", env!("CARGO_PKG_VERSION"));
    let mut out = format!(
        "{{\"schema_version\": {SCHEMA_VERSION}, \"tool\": \"{tool}\", \"generator\": \"splitmix64\", \"cases\": ["
    );
    for (i, entry) in entries.iter().enumerate() {
        out += if i == 0 { "\n" } else { ",\n" };
        out += entry;
    }
    out += "\n]}\n";
    out.into_bytes()
}
