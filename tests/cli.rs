//! The contract of the command line, held against the binary: documents, exit codes, messages, files.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]

#[path = "cli/artifact.rs"]
mod artifact;
#[path = "cli/documents.rs"]
mod documents;
#[path = "cli/giants.rs"]
mod giants;
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/refusals.rs"]
mod refusals;
mod support;
#[path = "cli/values.rs"]
mod values;
