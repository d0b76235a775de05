//! Development tasks of silicast, as a library so that integration tests can call them; `cargo xtask TASK` is the
//! command line.
//!
//! Nothing here uses silicast (`heavy-oracles` alone runs its binary, to judge what it writes): the inputs that its tests read come from an independent writer, an independent FP8
//! encoder and shape tables of their own. Everything written is a pure function of the fixture's name, on every
//! machine: no clock, no floating-point library function, no external random numbers.

#![allow(
    clippy::disallowed_methods,
    reason = "the rule that only src/io opens files is about the product; these tasks write test inputs"
)]
#![warn(missing_docs)]
// The configs of the fixtures are long literals.
#![recursion_limit = "512"]

pub mod bench;
pub mod encode;
pub mod families;
pub mod fixtures;
pub mod generate;
pub mod giants;
pub mod heavy;
pub mod onnx_protobuf;
pub mod real;
pub mod rng;
pub mod safetensors;
pub mod schema;
pub mod storage;
