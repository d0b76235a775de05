//! silicast recasts an LLM checkpoint for one AI accelerator and the serving engine that runs on it.
//!
//! **The plan fixes the address of every output byte before the first weight is read.** A conversion is compiled, not
//! scripted: from headers and config alone a [`plan::Plan`] is built, passes rewrite it, a verifier checks it after
//! each pass, and one executor evaluates it tile by tile into fixed places.
//!
//! ```text
//!           headers, config                 no bytes read                      tiles              re-read
//!  source ───────────────► Checkpoint ──► Plan ──► passes ──► Plan' ──► executor ──► Artifact ──► validate ──► Report
//!            checkpoint/               plan/      passes/    targets/     exec/      artifact/    validate/    report/
//! ```
//!
//! Modules below are listed in data-flow order. Arrows point one way: `tests/layering.rs` holds them.
//!
//! ```
//! use silicast::dtype::{Dtype, codec};
//! // 448 is the largest finite E4M3 value; both conversions round to nearest even, they differ beyond the range.
//! assert_eq!(codec::encode_saturating(Dtype::F8E4M3, 1e9), 0x7e);
//! assert_eq!(codec::encode_ieee(Dtype::F8E4M3, 1e9), 0x7f);
//! ```

pub mod error;

pub mod dtype;

pub mod onnx_protobuf;

pub mod kernel;

pub mod io;

pub mod onnx;

pub mod checkpoint;

pub mod plan;

#[path = "../passes/mod.rs"]
pub mod passes;

#[path = "../targets/mod.rs"]
pub mod targets;

pub mod compile;

pub mod exec;

pub mod artifact;

pub mod report;

pub mod validate;

pub mod cli;
