//! The heavy oracles: real engines and libraries load what silicast writes.
//!
//! `fixtures/oracle/heavy` holds the scripts. They need about 12 GB of Python packages and an hour of two cores, so
//! nothing runs them but this task.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixtures;

/// Schemes of the `vllm` target. BF16 comes last: it is the reference of the others.
const SCHEMES: [&str; 6] = ["W8A8", "W8A8_CT", "FP8_DYNAMIC", "FP8_BLOCK", "FP8_BLOCK_UE8M0", "BF16"];
/// Schemes of the Ascend targets.
const ASCEND: [&str; 2] = ["W8A8_DYNAMIC", "FLOAT"];
/// No library knows this architecture.
const UNKNOWN: &str = "unknown-bf16";

/// Fixtures whose decoder blocks have golden outputs in `fixtures/oracle/golden/layers.safetensors`.
const LAYERS: [&str; 9] = [
    "deepseek-v3",
    "deepseek-v3.2",
    "kimi-k2",
    "glm4-moe-bf16",
    "llama-bf16",
    "mistral-bf16",
    "qwen2-bf16",
    "qwen3-fp8",
    "qwen3-moe-bf16",
];

/// Whose artifact is damaged to see that the checks can fail: it has experts.
const DAMAGED: &str = "qwen3-moe-bf16";

/// Where things are.
struct Bench {
    root: PathBuf,
    dir: PathBuf,
}

/// Folders with wheels of which only some classes are used.
struct Plugins {
    ascend: PathBuf,
    sglang: PathBuf,
}

/// One run of a script: its environment, script and arguments.
struct Check {
    name: String,
    python: PathBuf,
    script: &'static str,
    arguments: Vec<PathBuf>,
}

/// Runs every script on the artifacts of `names` (of every fixture when empty), and prints a table.
///
/// Environments, sources, artifacts and the scripts' full output stay in `dir`; environments are made again when their
/// list of pinned packages changes, artifacts every time. `PYTHON` names a Python 3.11.
///
/// # Errors
/// When something cannot be installed or written, and when a check failed.
pub fn run(dir: &Path, names: &[&str]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let bench = Bench { root, dir: dir.canonicalize()? };
    let names = if names.is_empty() { fixtures::names() } else { names };
    let libraries = bench.environment("libraries", "requirements.txt", &[])?;
    let vllm = bench.environment("vllm", "requirements-vllm.txt", &["--no-deps"])?;
    let plugins = Plugins {
        ascend: bench.unpacked(&vllm, "vllm-ascend", "requirements-ascend.txt")?,
        sglang: bench.unpacked(&vllm, "sglang", "requirements-sglang.txt")?,
    };
    bench.convert(names)?;

    let mut checks = vec![Check {
        name: "ct_int8".to_owned(),
        python: libraries.clone(),
        script: "ct_int8.py",
        arguments: Vec::new(),
    }];
    for name in names {
        checks.extend(bench.checks(name, &libraries, &vllm, &plugins));
    }
    let failed = checks.iter().map(|check| bench.run(check)).collect::<io::Result<Vec<bool>>>()?;
    let failed = failed.iter().filter(|ok| !**ok).count();
    println!("{} passed, {failed} failed", checks.len() - failed);
    if failed > 0 {
        return Err(io::Error::other(format!("{failed} of {} heavy oracles failed", checks.len())));
    }
    Ok(())
}

impl Bench {
    fn scripts(&self) -> PathBuf {
        self.root.join("fixtures/oracle/heavy")
    }

    fn artifact(&self, fixture: &str, target: &str, scheme: &str) -> PathBuf {
        self.dir.join("artifacts").join(format!("{fixture}.{target}.{scheme}"))
    }

    /// The Python of a virtual environment that holds exactly a list of packages.
    fn environment(&self, name: &str, list: &str, options: &[&str]) -> io::Result<PathBuf> {
        let venv = self.dir.join(name);
        let python = venv.join("bin/python");
        let list = self.scripts().join(list);
        let stamp = venv.join("installed.txt");
        let wanted = fs::read(&list)?;
        if fs::read(&stamp).is_ok_and(|have| have == wanted) {
            return Ok(python);
        }
        eprintln!("installing {} into {}", list.display(), venv.display());
        let base = std::env::var_os("PYTHON").unwrap_or_else(|| "python3.11".into());
        succeed(Command::new(base).args(["-m", "venv", "--clear"]).arg(&venv))?;
        succeed(pip(&python).args(options).arg("-r").arg(&list))?;
        fs::write(stamp, wanted)?;
        Ok(python)
    }

    /// A folder with the files of one wheel, without what it depends on.
    fn unpacked(&self, python: &Path, name: &str, list: &str) -> io::Result<PathBuf> {
        let list = self.scripts().join(list);
        let folder = self.dir.join(name);
        let stamp = folder.join("installed.txt");
        let wanted = fs::read(&list)?;
        if !fs::read(&stamp).is_ok_and(|have| have == wanted) {
            succeed(
                pip(python).args(["--no-deps", "--upgrade", "--target"]).arg(&folder).arg("-r").arg(&list),
            )?;
            fs::write(stamp, wanted)?;
        }
        Ok(folder)
    }

    /// Writes the sources and converts them with the release binary.
    fn convert(&self, names: &[&str]) -> io::Result<()> {
        fs::create_dir_all(self.dir.join("artifacts"))?;
        for name in names {
            let source = self.source(name);
            if source.exists() {
                fs::remove_dir_all(&source)?;
            }
            fixtures::write(name, &source)?;
            let vllm = SCHEMES.iter().map(|scheme| ("vllm", scheme));
            for (target, scheme) in vllm.chain(ASCEND.iter().map(|scheme| ("ascend-910b", scheme))) {
                let out = self.artifact(name, target, scheme);
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                let mut command = Command::new(cargo);
                command.current_dir(&self.root).args([
                    "run",
                    "--release",
                    "--quiet",
                    "--bin",
                    "silicast",
                    "--",
                ]);
                command.arg("convert").arg(&source).arg("-o").arg(out);
                command.args(["--target", target, "--scheme", scheme, "--progress", "none", "--overwrite"]);
                succeed(&mut command)?;
            }
        }
        Ok(())
    }

    fn source(&self, name: &str) -> PathBuf {
        self.dir.join("sources").join(name)
    }

    /// What is run on the artifacts of one fixture.
    fn checks(&self, name: &str, libraries: &Path, vllm: &Path, plugins: &Plugins) -> Vec<Check> {
        let reference = self.artifact(name, "vllm", "BF16");
        let mut checks = Vec::new();
        let mut add = |script: &'static str, suffix: &str, python: &Path, arguments: Vec<PathBuf>| {
            let name = format!("{} {name}{suffix}", script.trim_end_matches(".py"));
            checks.push(Check { name, python: python.to_owned(), script, arguments });
        };
        add("hf_logits.py", "", libraries, vec![reference.clone(), self.source(name)]);
        if LAYERS.contains(&name) {
            let golden = self.root.join("fixtures/oracle/golden/layers.safetensors");
            add("hf_layers.py", "", libraries, vec!["--check".into(), golden, self.source(name)]);
        }
        for scheme in &SCHEMES[..3] {
            add("ct_load.py", &format!(" {scheme}"), libraries, vec![self.artifact(name, "vllm", scheme)]);
        }
        if name != UNKNOWN {
            let with_reference = |first: Vec<PathBuf>, artifacts: Vec<PathBuf>| {
                [first, artifacts, vec!["--reference".into(), reference.clone()]].concat()
            };
            let artifacts = SCHEMES[..5].iter().map(|scheme| self.artifact(name, "vllm", scheme)).collect();
            add("vllm_load.py", "", vllm, with_reference(Vec::new(), artifacts));
            if name == DAMAGED {
                let arguments = vec!["--seed-defects".into(), self.artifact(name, "vllm", "W8A8")];
                add("vllm_load.py", " with defects", vllm, arguments);
            }
            let artifacts = ASCEND.iter().map(|scheme| self.artifact(name, "ascend-910b", scheme)).collect();
            add("ascend_load.py", "", vllm, with_reference(vec![plugins.ascend.clone()], artifacts));
            let artifacts = SCHEMES[..5].iter().map(|scheme| self.artifact(name, "vllm", scheme));
            add(
                "sglang_config.py",
                "",
                vllm,
                std::iter::once(plugins.sglang.clone()).chain(artifacts).collect(),
            );
        }
        checks
    }

    /// Runs one check, prints its line and what it found wrong; whether it passed.
    fn run(&self, check: &Check) -> io::Result<bool> {
        let mut command = Command::new(&check.python);
        command.arg(self.scripts().join(check.script)).args(&check.arguments).env("OMP_NUM_THREADS", "1");
        let output = command.stdin(Stdio::null()).output()?;
        let logs = self.dir.join("logs");
        fs::create_dir_all(&logs)?;
        fs::write(
            logs.join(format!("{}.txt", check.name.replace(' ', "."))),
            [&*output.stdout, &*output.stderr].concat(),
        )?;
        let passed = output.status.success();
        println!("{} {}", if passed { "ok  " } else { "FAIL" }, check.name);
        if !passed {
            for line in
                String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.starts_with("ok "))
            {
                println!("       {line}");
            }
            println!("       full output: {}", logs.display());
        }
        io::stdout().flush()?;
        Ok(passed)
    }
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
    ]);
    command
}

/// Runs a command, showing what it said only when it failed.
fn succeed(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    io::stderr().write_all(&output.stderr)?;
    Err(io::Error::other(format!("{command:?}: {}", output.status)))
}
