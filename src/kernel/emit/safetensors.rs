//! All arrays of a pack in one safetensors file with their native formats, for users of torch.

use super::manifest::Case;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernel::reference::array::Array;
use serde_json::{Map, Value, json};

/// The file with the tensors `<kernel>.<case>.<argument>`. FP4 counts elements in its shape, as the format has it; 4-bit
/// integers, which it lacks, stay packed bytes.
///
/// # Errors
/// Class Internal if the header cannot be written.
pub(super) fn write(cases: &[Case]) -> Result<Vec<u8>> {
    let mut tensors: Vec<(Dtype, String, &Array)> = Vec::new();
    for case in cases {
        for (arg, array) in case.inputs.iter().chain(&case.outputs) {
            let dtype = array.dtype.safetensors_name().map_or(Dtype::U8, |_| array.dtype);
            tensors.push((dtype, format!("{}.{}.{arg}", case.kernel, case.name), array));
        }
    }
    // Wide formats first: every tensor is aligned to its elements.
    tensors.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for (dtype, name, array) in &tensors {
        let mut shape = array.shape.clone();
        if let (Dtype::F4E2M1, Some(last)) = (dtype, shape.last_mut()) {
            *last *= 2;
        }
        let start = end;
        end += array.bytes.len();
        let entry = json!({
            "dtype": dtype.safetensors_name(),
            "shape": shape,
            "data_offsets": [start, end],
        });
        header.insert(name.clone(), entry);
    }
    let mut text = serde_json::to_vec(&Value::Object(header))
        .map_err(|e| Error::internal("golden-safetensors", "a header has no JSON form").found(e))?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = Vec::with_capacity(8 + text.len() + end);
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(&text);
    for (_, _, array) in &tensors {
        out.extend_from_slice(&array.bytes);
    }
    Ok(out)
}
