//! The command line: one file per command.
//!
//! With `--json` a command puts one JSON document on stdout and nothing else. Warnings, progress and summaries go to
//! stderr.

mod check;
mod conclude;
mod convert;
mod diff;
mod finalize;
mod inspect;
mod kernels;
mod plan;
mod progress;
mod run;
mod shell;
mod targets;
mod ui;
mod validate;
mod verify;

use crate::error::{Error, Result};
use crate::plan::recipe::{NanPolicy, Recipe};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use ui::Ui;

/// Version of every JSON document that commands print.
pub const SCHEMA_VERSION: u32 = 1;

/// Recasts an LLM checkpoint for one AI accelerator and the serving engine that runs on it.
#[derive(Parser)]
#[command(
    name = "silicast",
    version,
    about,
    after_help = "Exit codes: 0 done, 1 a gate or check failed, 2 usage, 3 unsupported model, scheme or target, 4 input invalid or hostile,\n5 I/O (disk full included), 6 interrupted (the same command resumes), 70 internal error.\n\nEnvironment: SILICAST_ISA=baseline|avx2|avx512|neon forces one instruction set, for tests; bytes never depend on it."
)]
pub struct Cli {
    #[command(flatten)]
    ui: UiArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct UiArgs {
    /// One JSON document on stdout and nothing else there
    #[arg(long, global = true)]
    json: bool,
    /// Say more: passes with timings
    #[arg(short, long, global = true)]
    verbose: bool,
    /// How progress is shown
    #[arg(long, global = true, value_enum, default_value_t = ProgressMode::Auto, value_name = "MODE")]
    progress: ProgressMode,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProgressMode {
    /// A bar when stderr is a terminal
    Auto,
    /// One JSON event per line on stderr
    Json,
    /// Nothing
    None,
}

#[derive(Subcommand)]
enum Command {
    /// What a checkpoint is: family, schemes, sizes, oddities
    Inspect {
        /// Model folder
        src: PathBuf,
    },
    /// Chips, engines and schemes, with support tier and sources
    Targets {
        /// Show one target only
        id: Option<String>,
    },
    /// The plan: every tensor's fate, exact bytes, memory; reads headers only
    Plan {
        /// Model folder
        src: PathBuf,
        #[command(flatten)]
        options: ConvertArgs,
        /// Print one line that identifies inputs, recipe and version, for a CI cache
        #[arg(long)]
        cache_key: bool,
    },
    /// Plan, execute, finalize and check
    Convert {
        /// Model folder
        src: PathBuf,
        /// Artifact folder; it appears complete or not at all
        #[arg(short, long)]
        output: PathBuf,
        #[command(flatten)]
        options: ConvertArgs,
        /// Convert only slice M of N, from 1; `finalize` joins them
        #[arg(long, value_name = "M/N")]
        slice: Option<SliceArg>,
        /// Discard unfinished work of an earlier run
        #[arg(long)]
        restart: bool,
        /// Replace an existing artifact, by rename, when the new one is complete
        #[arg(long)]
        overwrite: bool,
        /// A second digest of every file in the manifest
        #[arg(long, value_enum)]
        digest: Option<DigestArg>,
        /// How the finished artifact is checked
        #[arg(long, value_enum, default_value_t = ValidateArg::Quick)]
        validate: ValidateArg,
    },
    /// After sliced runs: check every slice, write index, config and manifest
    Finalize {
        /// Artifact folder
        out: PathBuf,
        /// Replace an existing artifact
        #[arg(long)]
        overwrite: bool,
        /// A second digest of every file in the manifest
        #[arg(long, value_enum)]
        digest: Option<DigestArg>,
    },
    /// Re-read an artifact from disk and measure it against its source; exit 1 when a gate fails
    Validate {
        /// Artifact folder, ours or anybody's
        out: PathBuf,
        #[command(flatten)]
        options: ValidateArgs,
    },
    /// Hold any checkpoint against the loader of an engine: headers, JSON and scales; exit 1 when something is wrong
    Check {
        /// Model folder, ours or anybody's
        dir: PathBuf,
        /// Target id: its engine, and what its chip cannot do
        #[arg(long, value_name = "ID", conflicts_with = "engine")]
        target: Option<String>,
        /// Engine name; inferred from the folder by default
        #[arg(long, value_name = "NAME")]
        engine: Option<String>,
    },
    /// Compare two checkpoints, decoded, tensor by tensor; exit 1 when values differ
    Diff {
        /// The reference
        a: PathBuf,
        /// The other
        b: PathBuf,
        /// Threads
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Reference kernels in C, NumPy and ONNX with golden vectors, for whoever writes a chip's kernels
    Kernels {
        /// Folder of the pack; it appears complete or not at all
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Only the kernels of this target's schemes
        #[arg(long, value_name = "ID")]
        target: Option<String>,
        /// Only the kernels of this scheme
        #[arg(long, value_name = "NAME")]
        scheme: Option<String>,
        /// Add cases with this checkpoint's own quantized weights
        #[arg(long, value_name = "CHECKPOINT")]
        from: Option<PathBuf>,
    },
    /// Evaluate an ONNX model with the reference evaluator
    Run {
        /// Model file
        model: PathBuf,
        /// Arrays named like the model's inputs; may be left out when it needs none
        #[arg(long, value_name = "FILE.npz")]
        inputs: Option<PathBuf>,
        /// File for the outputs; an existing one is replaced
        #[arg(short, long, value_name = "FILE.npz")]
        output: PathBuf,
    },
    /// Re-hash an artifact against its manifest
    Verify {
        /// Artifact folder
        out: PathBuf,
        /// Threads
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Shell completions on stdout
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The manual page on stdout
    Man,
}

/// Options of `validate`.
#[derive(Args)]
struct ValidateArgs {
    /// The checkpoint that the artifact was made from
    #[arg(long, value_name = "SRC")]
    against: Option<PathBuf>,
    /// How deep to look; tensor with --against, else structure
    #[arg(long, value_enum, value_name = "LEVEL")]
    level: Option<LevelArg>,
    /// Share of each tensor's rows to read, such as 5% or 0.05
    #[arg(long, value_name = "SHARE", default_value = "100%")]
    sample: ShareArg,
    /// Folder for report.json, report.html, report.md and junit.xml; an existing report there is replaced
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Fail where a metric is beyond its limit (a least value for sqnr_db and cosine), such as sqnr_db=30,calc_diff=1e-3
    #[arg(long, value_name = "METRIC=LIMIT,…")]
    fail_on: Vec<String>,
    /// An earlier report.json that metrics must not fall behind
    #[arg(long, value_name = "FILE", requires = "max_regress")]
    baseline: Option<PathBuf>,
    /// How much worse than the baseline a metric may be, in percent
    #[arg(long, value_name = "PCT", requires = "baseline")]
    max_regress: Option<f64>,
    /// Report what fails and exit 0 all the same
    #[arg(long)]
    warn_only: bool,
    /// Memory budget; peak memory stays below it plus 128 MiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    memory: SizeArg,
    /// Threads; all cores by default
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LevelArg {
    /// Files, digests, names, types, shapes, configuration; every source tensor accounted for
    Structure,
    /// Every value decoded and held against its source
    Tensor,
    /// Every linear layer through the reference kernel of its scheme
    Kernel,
    /// Whole decoder blocks
    Layer,
    /// All blocks, embedding to logits
    Model,
}

/// A share in (0, 1], as a number or in percent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ShareArg(f64);

impl std::str::FromStr for ShareArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (digits, unit) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 100.0));
        match digits.trim().parse::<f64>() {
            Ok(value) if value > 0.0 && value <= unit => Ok(ShareArg(value / unit)),
            _ => Err(format!("{text} is no share, such as 5% or 0.05")),
        }
    }
}

/// Options that `plan` and `convert` share.
#[derive(Args)]
struct ConvertArgs {
    /// Target id, see `silicast targets`
    #[arg(long, required = true, value_name = "ID")]
    target: Vec<String>,
    /// Scheme of the target; its first one by default
    #[arg(long, value_name = "NAME")]
    scheme: Option<String>,
    /// Engine of the target; its first one by default
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Recipe file (TOML); flags add to it
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Quantize only what matches: exact name, glob, or re:REGEX
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Leave what matches in float: exact name, glob, or re:REGEX
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<String>,
    /// Memory budget; peak memory stays below it plus 128 MiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    memory: SizeArg,
    /// Threads; all cores by default
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// NaN, infinite values and invalid scales: stop, or keep and report
    #[arg(long, value_enum)]
    nan: Option<NanArg>,
    /// Copy the source's Python files, which an engine may execute
    #[arg(long)]
    allow_code_files: bool,
    /// Most tensor payload of a shard; 4 GiB by default
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<SizeArg>,

    /// Another rule for scales, where the scheme has a choice, such as `best-ue8m0` for `deepseek-ue8m0`
    #[arg(long, value_name = "RULE")]
    scale_rule: Option<String>,
    /// Tensor-parallel ranks of the artifact
    #[arg(long, value_name = "N")]
    tp: Option<u32>,
    /// Expert-parallel ranks of the artifact
    #[arg(long, value_name = "N")]
    ep: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum NanArg {
    /// Stop with exit code 4
    Error,
    /// Keep and report
    Keep,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DigestArg {
    /// SHA-256
    Sha256,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ValidateArg {
    /// Do not check
    None,
    /// Headers, names, sizes and configuration of the finished files
    Quick,
    /// The same, and every weight decoded and compared with the source
    Full,
}

/// A byte count with an optional unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SizeArg(u64);

impl std::str::FromStr for SizeArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "MB" => 1000 * 1000,
            "GB" => 1000 * 1000 * 1000,
            "TB" => 1000 * 1000 * 1000 * 1000,
            "KiB" | "K" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            "TiB" | "T" => 1 << 40,
            other => return Err(format!("unknown unit {other}: use MiB, GiB, MB or GB")),
        };
        let value: f64 = digits.trim().parse().map_err(|_| format!("{text} is no size, such as 2GiB"))?;
        let bytes = value * unit as f64;
        if !(bytes >= 1.0 && bytes < 2f64.powi(60)) {
            return Err(format!("{text} is out of range"));
        }
        Ok(SizeArg(bytes as u64))
    }
}

/// `M/N`, 1 ≤ M ≤ N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SliceArg(crate::exec::Slice);

impl std::str::FromStr for SliceArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text} is no slice: expected M/N with 1 <= M <= N");
        let (m, n) = text.split_once('/').ok_or_else(wrong)?;
        let (m, n) = (m.parse().map_err(|_| wrong())?, n.parse().map_err(|_| wrong())?);
        crate::exec::Slice::new(m, n).map(SliceArg).ok_or_else(wrong)
    }
}

impl ConvertArgs {
    fn recipe(&self) -> Result<Recipe> {
        let file = match &self.recipe {
            Some(path) => {
                let text = crate::io::read_text(path, 1 << 20)?;
                Recipe::parse(&text, &path.display().to_string())?
            }
            None => Recipe::default(),
        };
        Ok(file.overlaid(Recipe {
            scheme: self.scheme.clone(),
            engine: self.engine.clone(),
            include: self.include.clone(),
            ignore: self.ignore.clone(),
            nan: self.nan.map(|n| match n {
                NanArg::Error => NanPolicy::Error,
                NanArg::Keep => NanPolicy::Keep,
            }),
            allow_code_files: self.allow_code_files.then_some(true),
            shard_bytes: self.shard_size.map(|s| s.0),
            scale_rule: self.scale_rule.clone(),
        }))
    }

    fn target(&self) -> Result<&str> {
        if self.tp.unwrap_or(1) != 1 || self.ep.unwrap_or(1) != 1 {
            return Err(Error::unsupported(
                "partition-unsupported",
                "this version writes whole tensors only",
            )
            .expected("--tp 1 and --ep 1")
            .found(format!("--tp {} --ep {}", self.tp.unwrap_or(1), self.ep.unwrap_or(1)))
            .fix("leave them out: the engines of these targets split tensors while loading"));
        }
        match self.target.as_slice() {
            [one] => Ok(one),
            many => {
                Err(Error::unsupported("several-targets", "this version converts for one target per run")
                    .expected("one --target")
                    .found(many.join(", "))
                    .fix("run once per target"))
            }
        }
    }

    fn memory(&self) -> Result<u64> {
        memory(self.memory)
    }

    fn jobs(&self) -> Result<usize> {
        jobs(self.jobs)
    }
}

fn memory(asked: SizeArg) -> Result<u64> {
    const LEAST: u64 = 64 << 20;
    match asked.0 {
        bytes if bytes >= LEAST => Ok(bytes),
        bytes => Err(Error::usage("memory-too-small", "the memory budget is too small")
            .expected("--memory of at least 64MiB")
            .found(format!("{bytes} bytes"))
            .fix("raise --memory")),
    }
}

fn jobs(asked: Option<usize>) -> Result<usize> {
    match asked {
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Some(n) if (1..=1024).contains(&n) => Ok(n),
        Some(n) => Err(Error::usage("jobs", "the number of threads is out of range")
            .expected("--jobs of 1 to 1024")
            .found(n)
            .fix("leave --jobs out to use every core")),
    }
}

/// Runs the command line `args` (the program's name first) and returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with code 0, usage errors to stderr with code 2.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            let _ = error.print();
            return code;
        }
    };
    let ui = Ui::new(cli.ui.json, cli.ui.verbose, cli.ui.progress);
    let outcome = crate::kernel::isa::Isa::check_environment().and_then(|()| dispatch(cli.command, &ui));
    match outcome {
        Ok(code) => code,
        Err(error) => ui.error(&error),
    }
}

fn dispatch(command: Command, ui: &Ui) -> Result<u8> {
    match command {
        Command::Inspect { src } => inspect::run(&src, ui),
        Command::Targets { id } => targets::run(id.as_deref(), ui),
        Command::Plan { src, options, cache_key } => plan::run(&src, &options, cache_key, ui),
        Command::Convert { src, output, options, slice, restart, overwrite, digest, validate } => {
            let request = convert::Request {
                src: &src,
                output: &output,
                options: &options,
                slice: slice.map(|s| s.0),
                restart,
                overwrite,
                sha256: digest == Some(DigestArg::Sha256),
                validate,
            };
            convert::run(&request, ui)
        }
        Command::Finalize { out, overwrite, digest } => {
            finalize::run(&out, overwrite, digest == Some(DigestArg::Sha256), jobs(None)?, ui)
        }
        Command::Validate { out, options } => validate::run(&out, &options, ui),
        Command::Check { dir, target, engine } => check::run(&dir, target.as_deref(), engine.as_deref(), ui),
        Command::Diff { a, b, jobs: asked } => diff::run(&a, &b, jobs(asked)?, ui),
        Command::Kernels { output, target, scheme, from } => {
            let request = kernels::Request {
                out: &output,
                target: target.as_deref(),
                scheme: scheme.as_deref(),
                from: from.as_deref(),
            };
            kernels::run(&request, ui)
        }
        Command::Run { model, inputs, output } => run::run(&model, inputs.as_deref(), &output, ui),
        Command::Verify { out, jobs: asked } => verify::run(&out, jobs(asked)?, ui),
        Command::Completions { shell } => shell::completions(shell, ui),
        Command::Man => shell::man(ui),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_accept_both_vocabularies() {
        for (text, bytes) in [
            ("2GiB", 2 << 30),
            ("2G", 2 << 30),
            ("64MiB", 64 << 20),
            ("1GB", 1_000_000_000),
            ("1.5GiB", 3 << 29),
            ("7", 7),
        ] {
            assert_eq!(text.parse::<SizeArg>().unwrap().0, bytes);
        }
        for text in ["", "GiB", "-1GiB", "2XB", "nan", "1e30GiB"] {
            assert!(text.parse::<SizeArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_are_numbers_or_percents() {
        for (text, share) in [("5%", 0.05), ("0.05", 0.05), ("100%", 1.0), ("1", 1.0), ("12.5 %", 0.125)] {
            assert_eq!(text.parse::<ShareArg>().unwrap(), ShareArg(share));
        }
        for text in ["", "0", "0%", "101%", "1.5", "-5%", "nan", "x%"] {
            assert!(text.parse::<ShareArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn slices_are_m_of_n() {
        assert!("1/3".parse::<SliceArg>().is_ok());
        for text in ["0/3", "4/3", "1", "1/0", "a/b"] {
            assert!(text.parse::<SliceArg>().is_err(), "{text}");
        }
    }
}
