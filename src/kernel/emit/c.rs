//! The reference kernels as one C file that needs nothing but a C99 compiler.

/// The parts of the file in order: each uses only what stands before it.
const PARTS: &[&str] = &[
    include_str!("c/guide.c"),
    include_str!("c/types.c"),
    include_str!("c/numbers.c"),
    include_str!("c/formats.c"),
    include_str!("c/exp.c"),
    include_str!("c/gemm.c"),
    include_str!("c/quant.c"),
    include_str!("c/model.c"),
    include_str!("c/caches.c"),
    include_str!("c/selftest.c"),
    include_str!("c/json.c"),
    include_str!("c/npy.c"),
    include_str!("c/cases.c"),
    include_str!("c/compare.c"),
    include_str!("c/main.c"),
];

/// The text of `kernels.c`: the kernels, the self-test of the build, and the program that runs golden sets and compares
/// dumps of a chip with them.
pub fn source() -> String {
    PARTS.concat()
}
