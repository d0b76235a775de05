//! The only place that opens, lists, renames or removes files.

pub mod buffer_pool;
pub mod confined;
pub mod host;
pub mod lock;
pub mod out_file;
pub mod output;
mod publish;
pub mod source;

pub use host::{append_text, read_text};
