//! Looks at finished artifacts: opens them again with the strict reader and compares.

pub mod contract;
pub mod diff;
pub mod kernels;
pub mod layer;
pub mod metrics;
mod quick;

pub use quick::{full, quick};
