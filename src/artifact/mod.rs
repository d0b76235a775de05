//! The finished folder: shard files, index, manifest, and the check of a folder against its manifest.
//!
//! Everything here is a function of the plan and the bytes. Nothing holds a time, a host name, a path of the machine or
//! a job count, so that the same inputs give the same bytes anywhere.

pub mod digest;
pub mod index;
pub mod manifest;
pub mod side;
pub mod tree_digest;
pub mod verify;
