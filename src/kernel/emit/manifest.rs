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
    /// Path of an argument's file in the pack.
    pub fn file(&self, arg: &str) -> String {
        format!("golden/{}.{}.{arg}.npy", self.kernel, self.name)
    }

    /// Path of the case's ONNX graph in the pack.
    pub fn onnx_file(&self) -> String {
        format!("onnx/{}.{}.onnx", self.kernel, self.name)
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
    inputs: BTreeMap<&'a str, ArrayEntry<'a>>,
    outputs: BTreeMap<&'a str, ArrayEntry<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    onnx: Option<String>,
}

#[derive(Serialize)]
struct ArrayEntry<'a> {
    file: String,
    dtype: &'static str,
    shape: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    tolerance: Option<f64>,
}

/// The entry of one case, as one line of JSON. `onnx` says whether the case has a graph.
pub(super) fn entry(case: &Case, onnx: bool) -> serde_json::Result<String> {
    fn describe<'a>(
        case: &Case,
        arrays: &'a Arrays,
        tolerance: Option<f64>,
    ) -> BTreeMap<&'a str, ArrayEntry<'a>> {
        let one = |(name, array): (&'a String, &'a Array)| {
            let file = case.file(name);
            let entry = ArrayEntry { file, dtype: array.dtype.golden_name(), shape: &array.shape, tolerance };
            (name.as_str(), entry)
        };
        arrays.iter().map(one).collect()
    }
    serde_json::to_string(&CaseEntry {
        kernel: case.kernel,
        case: &case.name,
        class: case.class,
        params: &case.params,
        tensor: case.tensor.as_deref(),
        inputs: describe(case, &case.inputs, None),
        outputs: describe(case, &case.outputs, case.tolerance()),
        onnx: onnx.then(|| case.onnx_file()),
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
