//! What several test crates share.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part")]

pub mod binary;
pub mod inputs;
pub mod model;
pub mod oracle;
pub mod tree;
