//! Golden packs and builds of the emitted C file.

use silicast::kernel::emit;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A folder that lives as long as the process.
fn scratch() -> &'static Path {
    static SCRATCH: OnceLock<TempDir> = OnceLock::new();
    SCRATCH.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// The folder with the full golden pack.
pub(crate) fn pack() -> &'static Path {
    static PACK: OnceLock<PathBuf> = OnceLock::new();
    PACK.get_or_init(|| {
        let dir = scratch().join("pack");
        for file in emit::pack(&|_| true, &[]).unwrap() {
            let path = dir.join(&file.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file.bytes).unwrap();
        }
        dir
    })
}

/// The emitted text, changed by `edit`, in a file called `name`.
pub(crate) fn source(name: &str, edit: impl FnOnce(String) -> String) -> PathBuf {
    let path = scratch().join(name);
    fs::write(&path, edit(emit::c::source())).unwrap();
    path
}

/// The emitted file.
pub(crate) fn kernels_c() -> &'static Path {
    static SOURCE: OnceLock<PathBuf> = OnceLock::new();
    SOURCE.get_or_init(|| source("kernels.c", |text| text))
}

/// The compilers on this machine; gcc must be one of them.
pub(crate) fn compilers() -> Vec<&'static str> {
    let found = |cc: &&str| {
        let probe = Command::new(cc).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        probe.is_ok_and(|status| status.success())
    };
    let compilers: Vec<&str> = ["gcc", "clang"].into_iter().filter(found).collect();
    assert!(
        compilers.contains(&"gcc"),
        "gcc is needed to prove the emitted C (Debian: apt install gcc g++ clang)"
    );
    compilers
}

/// Compiles `source` and returns the program.
pub(crate) fn compile(name: &str, compiler: &str, flags: &[&str], source: &Path) -> PathBuf {
    let program = scratch().join(name);
    let mut command = Command::new(compiler);
    command.args(flags).arg("-o").arg(&program).arg(source);
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// What a program printed, and its exit status.
pub(crate) struct Ran {
    /// Exit status; −1 where a signal ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Runs `program` with `args` in `dir`.
pub(crate) fn run_in(dir: &Path, program: &Path, args: &[&str]) -> Ran {
    let Output { status, stdout, stderr } =
        Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Warnings are errors in every build.
pub(crate) const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Werror", "-pedantic"];

/// A build with the sanitizers, which end the program at the first finding.
pub(crate) fn sanitized() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let flags = ["-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        compile("sanitized", "gcc", &flags, kernels_c())
    })
}

/// A build for what takes long.
pub(crate) fn fast() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("fast", "gcc", &["-std=c99", "-O2"], kernels_c()))
}
