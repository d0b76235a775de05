//! The ONNX binding: `src/onnx_protobuf/generated.rs` from the vendored `onnx.proto3`.
//!
//! Parser and generator are Rust (`.pure()`), so that nobody needs `protoc`. The file is committed: building silicast runs
//! no generator. `cargo xtask onnx-protobuf` writes it, `--check` and a test fail when it is stale.

use std::io;
use std::path::Path;

const SOURCE: &str = "src/onnx_protobuf/onnx.proto3";
const GENERATED: &str = "src/onnx_protobuf/generated.rs";

/// Writes the binding under `root`.
///
/// # Errors
/// Those of the file system and of the generator.
pub fn write(root: &Path) -> io::Result<()> {
    std::fs::write(root.join(GENERATED), generate(root)?)
}

/// Fails when the binding under `root` is not what the generator makes of the vendored file.
///
/// # Errors
/// As [`write()`]; `InvalidData` when the file is stale.
pub fn check(root: &Path) -> io::Result<()> {
    if std::fs::read_to_string(root.join(GENERATED))? == generate(root)? {
        return Ok(());
    }
    let why = format!("{GENERATED} is stale: run `cargo xtask onnx-protobuf`");
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

fn generate(root: &Path) -> io::Result<String> {
    let folder = tempfile::tempdir()?;
    let source = root.join(SOURCE);
    protobuf_codegen::Codegen::new()
        .pure()
        .include(source.parent().unwrap_or(root))
        .input(&source)
        .out_dir(folder.path())
        // Payloads of tensors point into the buffer that was parsed. No mod.rs: the binding has its own.
        .customize(protobuf_codegen::Customize::default().tokio_bytes(true).gen_mod_rs(false))
        .run()
        .map_err(|e| io::Error::other(format!("{SOURCE}: {e:#}")))?;
    std::fs::read_to_string(folder.path().join("onnx_proto3.rs"))
}
