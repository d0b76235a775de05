//! Calls of reference kernels written as `.npy` files, for oracles that compute them again.

use serde_json::{Map, Value, json};
use silicast::dtype::Dtype;
use silicast::kernel::reference::array::{Array, Arrays, Call};
use silicast::kernel::reference::catalog;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Cases in a folder: `cases.json` and the arrays that it names.
#[derive(Debug)]
pub struct Cases {
    dir: PathBuf,
    list: Vec<Value>,
}

impl Cases {
    /// No cases yet, below `dir`, which exists.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), list: Vec::new() }
    }

    /// Runs a kernel and keeps what went in and came out. `outputs` names the formats wanted. The first case of a kernel is
    /// kept a second time, with a byte changed, for the oracle to find.
    pub fn add(
        &mut self,
        kernel: &str,
        case: &str,
        params: Value,
        inputs: Arrays,
        outputs: &[(&str, Dtype)],
    ) {
        let params = match params {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let wanted: BTreeMap<String, Dtype> = outputs.iter().map(|(n, d)| ((*n).to_owned(), *d)).collect();
        let entry = catalog::find(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        let call = Call { inputs: &inputs, params: &params, wanted: &wanted };
        let mut results = (entry.run)(&call).unwrap_or_else(|e| panic!("{kernel}/{case}: {e}"));
        for (name, dtype) in &wanted {
            assert_eq!(results.get(name).map(|a| a.dtype), Some(*dtype), "{kernel}/{case}: {name}");
        }
        for name in inputs.keys() {
            assert!(entry.inputs.iter().any(|a| a.name == name), "{kernel} has no argument {name}");
        }
        for name in results.keys() {
            assert!(entry.outputs.iter().any(|a| a.name == name), "{kernel} has no result {name}");
        }
        let is_first = !self.list.iter().any(|c| c["kernel"] == kernel);
        self.keep(kernel, case, &params, &inputs, &results, false);
        if is_first {
            let changed = results.values_mut().next().unwrap();
            let middle = changed.bytes.len() / 2;
            changed.bytes[middle] ^= 1;
            self.keep(kernel, case, &params, &inputs, &results, true);
        }
    }

    fn keep(
        &mut self,
        kernel: &str,
        case: &str,
        params: &Map<String, Value>,
        inputs: &Arrays,
        outputs: &Arrays,
        tampered: bool,
    ) {
        let id = self.list.len();
        let write = |arrays: &Arrays, side: &str| -> Value {
            let entry = |(name, array): (&String, &Array)| {
                let file = format!("{id}.{side}.{name}.npy");
                fs::write(self.dir.join(&file), npy(array)).unwrap();
                let entry = json!({"file": file, "dtype": array.dtype.golden_name(), "shape": array.shape});
                (name.clone(), entry)
            };
            Value::Object(arrays.iter().map(entry).collect())
        };
        let (inputs, outputs) = (write(inputs, "in"), write(outputs, "out"));
        self.list.push(json!({
            "kernel": kernel, "case": case, "params": params, "inputs": inputs, "outputs": outputs, "tampered": tampered,
        }));
    }

    /// Writes `cases.json` and returns the names of the kernels, in order.
    pub fn finish(self) -> Vec<String> {
        fs::write(self.dir.join("cases.json"), serde_json::to_vec(&self.list).unwrap()).unwrap();
        let mut names: Vec<String> =
            self.list.iter().map(|c| c["kernel"].as_str().unwrap().to_owned()).collect();
        names.dedup();
        names
    }
}

/// An array as a `.npy` file of version 1.0: FP8, FP4, E8M0 and 4-bit integers as bytes, BF16 as 16-bit integers.
pub fn npy(array: &Array) -> Vec<u8> {
    let descr = match array.dtype {
        Dtype::F32 => "<f4",
        Dtype::F64 => "<f8",
        Dtype::F16 => "<f2",
        Dtype::BF16 => "<u2",
        Dtype::I8 => "|i1",
        Dtype::I32 => "<i4",
        Dtype::I64 => "<i8",
        _ => "|u1",
    };
    let dims: String = array.shape.iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    // Magic, version and length take 10 bytes, the newline one.
    header += &" ".repeat((64 - (10 + header.len() + 1) % 64) % 64);
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend(u16::try_from(header.len()).unwrap().to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(&array.bytes);
    out
}
