//! The only place that opens, lists, renames or removes files.

pub mod source;
