//! The `silicast` binary: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(silicast::cli::run(std::env::args_os()))
}
