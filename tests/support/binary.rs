//! Runs the `silicast` binary as a user does.

use serde_json::Value;
use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};

/// The binary under test.
pub const SILICAST: &str = env!("CARGO_BIN_EXE_silicast");

/// What a run left behind.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; `None` when a signal ended the process.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A command that runs the binary with `args`, in an environment without `SILICAST_*`.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(SILICAST);
    command.args(args).env_remove("SILICAST_ISA").stdin(Stdio::null());
    command
}

/// Runs the binary with `args` to its end.
pub fn silicast<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    finish(&mut command(args))
}

/// Runs `command` to its end.
pub fn finish(command: &mut Command) -> Ran {
    let output = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    Ran {
        command: format!("{command:?}"),
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("standard error is UTF-8"),
    }
}

/// Starts the binary with `args` and leaves it running; its output is discarded.
pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Child {
    command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
}

impl Ran {
    /// This run, which must have ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "{}\n{}{}", self.command, self.stdout, self.stderr);
        self
    }

    /// The one JSON document on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| {
            panic!("no JSON document ({e})\n{}\n{}{}", self.command, self.stdout, self.stderr)
        })
    }

    /// This run, whose standard error must hold every one of `texts`.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Ran {
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} is missing\n{}\n{}", self.command, self.stderr);
        }
        self
    }
}

/// Arguments of `convert SRC -o OUT --target ID --scheme NAME`, with more to come.
pub fn convert_args(
    src: &std::path::Path,
    out: &std::path::Path,
    target: &str,
    scheme: &str,
) -> Vec<std::ffi::OsString> {
    [
        "convert".as_ref(),
        src.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
        "--target".as_ref(),
        target.as_ref(),
    ]
    .into_iter()
    .chain(["--scheme".as_ref(), OsStr::new(scheme)])
    .map(OsStr::to_owned)
    .collect()
}

/// Arguments as [`convert_args`], with `more` after them.
pub fn convert_with(
    src: &std::path::Path,
    out: &std::path::Path,
    target: &str,
    scheme: &str,
    more: &[&str],
) -> Vec<std::ffi::OsString> {
    let mut args = convert_args(src, out, target, scheme);
    args.extend(more.iter().map(|m| m.into()));
    args
}
