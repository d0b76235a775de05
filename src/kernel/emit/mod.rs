//! Emission: the reference kernels as C, NumPy and ONNX, with golden sets that hold every implementation to the same
//! bits.

pub mod onnx;

/// A file of a kernel pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmittedFile {
    /// Path relative to the pack, with `/`.
    pub path: String,
    /// Content.
    pub bytes: Vec<u8>,
}
