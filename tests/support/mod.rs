//! What several test crates share.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]

pub mod binary;
pub mod cases;
pub mod inputs;
pub mod model;
pub mod oracle;
pub mod tree;
