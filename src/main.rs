//! The `silicast` binary.
fn main() {}
