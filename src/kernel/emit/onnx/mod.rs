//! The reference kernels as ONNX graphs, one per golden case, for its shapes and parameters.
//!
//! A graph gives the bits of [`kernel::reference`](crate::kernel::reference) in onnxruntime's CPU provider at every
//! optimization level and in `onnx.reference`. It contains standard operators only (opset 23, IR 11), sums nothing in an
//! order that a runtime may choose unless the sum is exact, and has static shapes.
//!
//! # What enters and leaves
//! Every argument is a graph input of its name and every result an output of its name, with the shape of the `.npy`.
//! FP8 and BF16 arguments have their ONNX types: that is what a chip's compiler has to see, and what C and C++ feed
//! directly; from Python an `OrtValue` carries the bytes ([`README`] has the lines). 4-bit codes and E8M0 are UINT8, packed
//! as in the `.npy`, because onnxruntime's CPU provider has no kernels for those types. A result in BF16 leaves as FLOAT
//! that holds values of BF16: onnxruntime's Python cannot read a BFLOAT16 result.
//!
//! # What has no graph
//! [`graph`] gives `None` for
//! - the hardware model (`mode` = R2), whose cut accumulators need shifts of 64-bit integers per product;
//! - sums in order over more than 2,048 elements (R1 over a long block, `gemm_w4a16_group`, `lm_head`, norms): a Scan with as
//!   many steps;
//! - `sparse_attn_sink`: exact sums of products of BF16, which span more bits than DOUBLE has;
//! - `mla_*`: compared within a tolerance, so no graph could be held to their bits;
//! - `kv_quant_v32`, `kv_quant_model1`: the bytes of BF16 and FLOAT values, for which BitCast (opset 26) is needed;
//! - `requant_e4m3fn_to_e4m3fnuz`: its codes are of a type that onnxruntime's Python cannot read;
//! - NVFP4 of an empty tensor without a global scale, caches and routers without tokens, rows without elements in norms and INT8:
//!   the largest or the mean of nothing differs between runtimes.

mod builder;
mod dequant;
mod gemm;
mod layout;
mod model;
mod operand;
mod quant;

use crate::error::{Error, Result};
use crate::kernel::reference::array::Arrays;
use operand::{Call, Frame};
use serde_json::{Map, Value};

/// How to run the graphs of a pack, for its README: Markdown.
pub const README: &str = "\
`onnx/<kernel>.<case>.onnx` computes the case in standard operators (opset 23, IR 11); the key `onnx` of a case in
`manifest.json` names it. Every argument is a graph input of its name and every result a graph output of its name, with
the shape of the `.npy`. 4-bit codes and E8M0 are UINT8 as in the `.npy`. FP8 and BF16 inputs have their ONNX types, which
NumPy lacks; an OrtValue carries their bytes. A BF16 result leaves as FLOAT with the values of BF16, an FP8 result as the
bytes of the `.npy` (onnxruntime 1.32 hands it to NumPy; older releases need an output bound to an OrtValue).

A case has no graph where standard operators cannot give its bits: the hardware model (`mode` R2), sums in order over more
than 2,048 elements, `sparse_attn_sink` (exact sums of BF16 products), `mla_*` (compared within a tolerance), the byte
formats of `kv_quant_v32` and `kv_quant_model1`, `requant_e4m3fn_to_e4m3fnuz`, and maxima of nothing.

```python
import json, sys, numpy as np, onnxruntime as ort
ONNX = {'F8_E4M3': 17, 'F8_E4M3FNUZ': 18, 'F8_E5M2': 19, 'F8_E5M2FNUZ': 20, 'BF16': 16}
for case in json.load(open('manifest.json'))['cases']:
    if 'onnx' not in case:
        continue
    session = ort.InferenceSession(case['onnx'], providers=['CPUExecutionProvider'])
    feed = {}
    for name, entry in case['inputs'].items():
        array = np.load(entry['file'])
        native = ONNX.get(entry['dtype'])
        make = ort.OrtValue.ortvalue_from_numpy_with_onnx_type if native else ort.OrtValue.ortvalue_from_numpy
        feed[name] = make(array, native) if native else make(array)
    for output, found in zip(session.get_outputs(), session.run(None, feed)):
        entry = case['outputs'][output.name]
        golden = np.load(entry['file'])
        if entry['dtype'] == 'BF16':
            golden = (golden.astype('<u4') << 16).view('<f4')
        if found.tobytes() != golden.tobytes():
            sys.exit(f\"{case['kernel']}/{case['case']}: {output.name} differs\")
```
";

/// What a reader of a graph has to know about its inputs and outputs.
const DOC: &str = "4-bit codes and E8M0 enter as UINT8 as in the .npy; BF16 results leave as FLOAT. Sums are exact, or in \
                   the order of the nodes. README.md says how to run it.";

/// The graph of a kernel for the formats, shapes and parameters of a golden case, as serialized `ModelProto`; `None` where
/// the kernel, or this case of it, cannot be expressed exactly (see the module's documentation).
///
/// `inputs` and `outputs` are the case's. Their contents do not enter the graph, which computes other inputs of the same
/// shapes as well; it has constants of its own only. The same call gives the same bytes.
///
/// # Errors
/// Class Internal if the graph cannot be serialized.
pub fn graph(
    kernel: &str,
    params: &Map<String, Value>,
    inputs: &Arrays,
    outputs: &Arrays,
) -> Result<Option<Vec<u8>>> {
    let Some(emit) = emitter(kernel) else { return Ok(None) };
    let call = Call { kernel, params, inputs, outputs };
    let Some(mut frame) = Frame::new(&call) else { return Ok(None) };
    if emit(&mut frame).is_none() {
        return Ok(None);
    }
    let doc = format!("{kernel}, a reference kernel. {DOC}");
    let bytes = frame.finish(&doc);
    bytes
        .map(Some)
        .ok_or_else(|| Error::internal("onnx-graph", "a graph cannot be serialized").tensor(kernel))
}

/// Adds a kernel's nodes and outputs to a graph that has its inputs; `None` where that is not possible.
type Emitter = fn(&mut Frame<'_>) -> Option<()>;

fn emitter(kernel: &str) -> Option<Emitter> {
    Some(match kernel {
        "gemm_fp8_block" | "gemm_mxfp8" | "gemm_mxfp4" | "gemm_fp8_mxfp4" => gemm::blocks,
        "gemm_fp8_token_channel" => gemm::token_channel,
        "gemm_w8a8" => gemm::w8a8,
        "gemm_w4a16_group" => gemm::w4a16,
        "gemm_w4a8_group" => gemm::w4a8,
        "gemm_nvfp4" => gemm::nvfp4,
        "moe_grouped_gemm" => gemm::grouped,
        "lm_head" => gemm::lm_head,
        "dequant_e4m3" | "dequant_e5m2" | "dequant_e4m3fnuz" | "dequant_e2m1" | "dequant_e8m0"
        | "dequant_bf16" => dequant::table,
        "dequant_int4_group" => dequant::int4_group,
        "requant_e4m3_f32_to_ue8m0" => dequant::to_ue8m0,
        "requant_e4m3_to_s8" => dequant::to_s8,
        "requant_bf16_to_e4m3" => dequant::to_e4m3,
        "requant_e4m3fnuz_to_e4m3fn" => dequant::from_fnuz,
        "quant_nvfp4" => quant::nvfp4,
        _ if kernel.starts_with("dequant_") => dequant::scaled,
        _ if kernel.starts_with("quant_") => quant::by_recipe,
        _ => return model::emitter(kernel).or_else(|| layout::emitter(kernel)),
    })
}
