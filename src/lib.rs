//! silicast recasts an LLM checkpoint for one AI accelerator and the serving engine that runs on it.
//!
//! **The plan fixes the address of every output byte before the first weight is read.** A conversion is compiled, not
//! scripted: from headers and config alone a [`plan::Plan`] is built, passes rewrite it, a verifier checks it after
//! each pass, and one executor evaluates it tile by tile into fixed places.
//!
//! ```text
//!           headers, config                 no bytes read                      tiles              re-read
//!  source ───────────────► Checkpoint ──► Plan ──► passes ──► Plan' ──► executor ──► Artifact ──► check, verify, diff
//!            checkpoint/               plan/      passes/    targets/     exec/      artifact/
//! ```
//!
//! Modules below are listed in data-flow order. Arrows point one way: `tests/layering.rs` holds them.

pub mod error;

pub mod dtype;

pub mod io;

pub mod checkpoint;

pub mod exec;

pub mod artifact;
