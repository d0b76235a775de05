//! `cargo xtask TASK`: see [`xtask`].

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK
  fixtures NAME|all DIR   write a tiny checkpoint into DIR (each into DIR/NAME for all)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["fixtures", "all", dir] => xtask::fixtures::names()
            .iter()
            .try_for_each(|name| xtask::fixtures::write(name, &Path::new(dir).join(name))),
        ["fixtures", name, dir] => xtask::fixtures::write(name, Path::new(dir)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
