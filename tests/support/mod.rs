//! What several test crates share.
#![allow(dead_code, unreachable_pub, reason = "each test crate uses a part")]

pub mod model;
pub mod oracle;
