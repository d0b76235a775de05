//! The emitted C file: every compiler, language and optimization level reproduces the golden sets bit for bit; builds
//! that change arithmetic are refused; dumps are measured as their definitions say; hostile files are errors.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]

#[path = "kernels_c/build.rs"]
mod build;
#[path = "kernels_c/dumps.rs"]
mod dumps;
#[path = "kernels_c/hostile.rs"]
mod hostile;
mod support;

use build::{WARNINGS, compile, compilers, fast, kernels_c, pack, run_in, sanitized, source};
use silicast::kernel::emit::golden;
use silicast::kernel::reference::catalog;
use std::path::Path;

/// Cases of the pack.
fn cases() -> usize {
    catalog::kernels().map(|kernel| golden::drafts(kernel.name).len()).sum()
}

/// Fails unless `program` finds every golden case equal.
#[track_caller]
fn expect_equal(what: &str, program: &Path) {
    let ran = run_in(pack(), program, &[]);
    let bad: Vec<&str> = ran.stdout.lines().filter(|line| !line.starts_with("ok ")).take(20).collect();
    assert!(ran.code == 0, "{what}: exit status {}\n{}\n{}", ran.code, bad.join("\n"), ran.stderr);
    let good = ran.stdout.lines().filter(|line| line.starts_with("ok ") && line.contains('/')).count();
    assert_eq!(good, cases(), "{what}: cases");
    assert!(ran.stdout.ends_with(&format!("ok: {good} of {good} cases equal, 0 differ\n")), "{what}");
}

fn every_build_of(compiler: &str) {
    for (language, flags) in [
        ("c99", ["-std=c99", "-x", "c"]),
        ("c11", ["-std=c11", "-x", "c"]),
        ("c++", ["-std=c++11", "-x", "c++"]),
    ] {
        for level in [&["-O0"][..], &["-O3", "-march=native"]] {
            let name = format!("{compiler}-{language}{}", level[0]);
            let flags = [&flags[..], level, &WARNINGS].concat();
            expect_equal(&format!("{compiler} {flags:?}"), &compile(&name, compiler, &flags, kernels_c()));
        }
    }
}

#[test]
fn gcc_reproduces_every_case() {
    assert!(compilers().contains(&"gcc"));
    every_build_of("gcc");
}

#[test]
fn clang_reproduces_every_case() {
    if compilers().contains(&"clang") {
        every_build_of("clang");
    }
}

#[test]
fn sanitizers_find_nothing() {
    expect_equal("gcc sanitizers", sanitized());
    if compilers().contains(&"clang") {
        let flags = ["-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        expect_equal("clang sanitizers", &compile("clang-sanitized", "clang", &flags, kernels_c()));
    }
}

#[test]
fn every_kernel_is_known_and_listed() {
    let listed = run_in(pack(), fast(), &["--list"]);
    assert_eq!(listed.code, 0);
    let listed: Vec<&str> = listed.stdout.lines().collect();
    for kernel in catalog::kernels() {
        assert!(listed.contains(&kernel.name), "{} is missing in C", kernel.name);
    }
    let help = run_in(pack(), fast(), &["--help"]);
    assert!(help.code == 0 && help.stdout.contains("--compare FILE --case KERNEL/CASE[:OUTPUT]"));
    assert_eq!(run_in(pack(), fast(), &["--fast"]).code, 2);
}

/// What a build with `flags` must do.
fn refuses(compiler: &str, flags: &[&str]) -> bool {
    let name = format!("{compiler}{}", flags.concat());
    let program = compile(&name, compiler, flags, kernels_c());
    let ran = run_in(pack(), &program, &[]);
    if ran.code == 3 {
        assert!(ran.stdout.starts_with("refused: "), "{flags:?}: {}", ran.stdout);
        return true;
    }
    expect_equal(&format!("{compiler} {flags:?}"), &program);
    false
}

#[test]
fn builds_that_change_arithmetic_are_refused() {
    for compiler in compilers() {
        for flags in [&["-O2", "-ffast-math"][..], &["-Ofast"], &["-O2", "-ffinite-math-only"]] {
            assert!(refuses(compiler, flags), "{compiler} {flags:?} runs");
        }
        // Refused, or the rounding points hold.
        refuses(compiler, &["-O3", "-ffp-contract=fast", "-march=native"]);
        refuses(compiler, &["-O2", "-funsafe-math-optimizations"]);
    }
    if cfg!(target_arch = "x86_64") {
        assert!(refuses("gcc", &["-O2", "-mfpmath=387"]), "x87 runs");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_processor_that_flushes_subnormals_or_rounds_otherwise_is_refused() {
    // Bits of MXCSR: flush to zero, denormals are zero, round down, round up, round towards zero.
    for (name, bits, says) in [
        ("ftz", "0x8000", "flushed"),
        ("daz", "0x0040", "subnormal"),
        ("down", "0x2000", "rounding mode"),
        ("up", "0x4000", "rounding mode"),
        ("zero", "0x6000", "rounding mode"),
    ] {
        let main = format!(
            "#include <xmmintrin.h>\nint main(int argc, char **argv) {{ _mm_setcsr(_mm_getcsr() | {bits}); return sc_main(argc, argv); }}\n"
        );
        let file = source(&format!("{name}.c"), |text| format!("#define SILICAST_NO_MAIN\n{text}{main}"));
        let ran = run_in(pack(), &compile(name, "gcc", &["-O2"], &file), &["--list"]);
        assert!(ran.code == 3 && ran.stdout.starts_with("refused: "), "{name}: {}", ran.stdout);
        assert!(ran.stdout.contains(says), "{name}: {}", ran.stdout);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_self_test_sees_contraction_without_the_rounding_points() {
    // Without the volatile temporaries the compiler fuses, which must not go unnoticed.
    let file = source("fused.c", |text| {
        text.replace("volatile float r", "float r").replace("volatile double r", "double r")
    });
    let program = compile("fused", "gcc", &["-O2", "-mfma", "-ffp-contract=fast"], &file);
    if std::arch::is_x86_feature_detected!("fma") {
        let ran = run_in(pack(), &program, &["--list"]);
        assert!(ran.code == 3 && ran.stdout.contains("fused"), "{}", ran.stdout);
    }
}
