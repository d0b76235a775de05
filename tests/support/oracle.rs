//! Runs the Python oracles of `fixtures/oracle/` in a virtual environment of pinned, hash-checked packages.
//!
//! The environment is made once under the target folder and kept. A machine that cannot make it fails the test and says
//! what is missing: an oracle test that skips proves nothing.
#![allow(clippy::disallowed_methods, reason = "tests make their own files")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Interpreters to try, in order; the packages have wheels for these versions.
const INTERPRETERS: [&str; 5] = ["python3", "python3.12", "python3.11", "python3.10", "python3.13"];

/// Prints what the environment depends on and succeeds on a usable interpreter only.
const PROBE: &str = "import sys, platform\n\
    print(platform.python_implementation(), sys.version, platform.machine(), sys.base_prefix)\n\
    sys.exit(platform.python_implementation() != 'CPython' or not (3, 10) <= sys.version_info[:2] <= (3, 13))";

/// The interpreter of the oracles' environment, which is created on the first call of any process.
///
/// # Panics
///
/// When there is no usable `python3` or the packages cannot be installed.
pub fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| environment().unwrap_or_else(|why| panic!("no Python oracle: {why}"))).clone()
}

/// Runs `fixtures/oracle/<script>` with `args` and returns what it printed.
///
/// # Panics
///
/// When [`python`] does, and when the script fails: with its standard error.
pub fn run_script(script: &str, args: &[&OsStr]) -> String {
    let path = folder().join(script);
    let output = Command::new(python())
        // No bytecode in the source tree, no user packages.
        .args(["-B", "-s"])
        .arg(&path)
        .args(args)
        .env_remove("PYTHONPATH")
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", path.display()));
    assert!(
        output.status.success(),
        "{} failed ({})\n{}",
        path.display(),
        output.status,
        text(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap_or_else(|e| panic!("{} printed no UTF-8: {e}", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle")
}

fn environment() -> Result<PathBuf, String> {
    let requirements = folder().join("requirements.txt");
    let pins = fs::read(&requirements).map_err(|e| format!("cannot read {}: {e}", requirements.display()))?;
    let (interpreter, identity) = interpreter()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pins).update(identity.as_bytes());
    let name = format!("oracle-venv-{}", &hasher.finalize().to_hex()[..16]);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let venv = target.join(&name);
    let python = venv.join("bin/python");
    if python.exists() {
        return Ok(python);
    }

    // Test processes run side by side: one installs, the others wait. The system drops the lock of a dead process.
    let lock_path = target.join(format!("{name}.lock"));
    let io = |e: std::io::Error| format!("cannot prepare {}: {e}", venv.display());
    fs::create_dir_all(target).map_err(io)?;
    let lock = File::create(&lock_path).map_err(io)?;
    lock.lock().map_err(io)?;
    if python.exists() {
        return Ok(python);
    }
    let partial = target.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(io)?;
    }
    run("making a virtual environment", Command::new(interpreter).args(["-m", "venv"]).arg(&partial))
        .map_err(|e| {
            format!("{e}\nThe module venv with pip is needed (Debian: apt install python3-venv).")
        })?;
    run(
        "installing the packages",
        Command::new(partial.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
            .args(["--require-hashes", "--only-binary", ":all:", "-r"])
            .arg(&requirements),
    )
    .map_err(|e| {
        format!(
            "{e}\nThe packages of {} must be installable with pip: check network access.",
            requirements.display()
        )
    })?;
    // The interpreter finds its packages relative to itself, so the finished environment can move into place.
    fs::rename(&partial, &venv).map_err(io)?;
    Ok(python)
}

/// The first usable interpreter and what identifies it.
fn interpreter() -> Result<(&'static str, String), String> {
    let mut tried = String::new();
    for name in INTERPRETERS {
        match Command::new(name).args(["-c", PROBE]).output() {
            Ok(output) if output.status.success() => return Ok((name, text(&output.stdout))),
            Ok(output) => tried += &format!("\n  {name}: {}", text(&output.stdout).trim()),
            Err(e) => tried += &format!("\n  {name}: {e}"),
        }
    }
    Err(format!("CPython 3.10 to 3.13 is needed on PATH; tried{tried}"))
}

fn run(what: &str, command: &mut Command) -> Result<(), String> {
    let Output { status, stdout, stderr } =
        command.output().map_err(|e| format!("{what}: {command:?}: {e}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{what}: {command:?} failed ({status})\n{}{}", text(&stdout), text(&stderr)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
