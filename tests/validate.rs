//! `silicast validate`: no false alarm on good artifacts, every seeded defect found, gates, determinism, memory.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and read their own files")]

mod support;

#[path = "validate/defects.rs"]
mod defects;
#[path = "validate/golden.rs"]
mod golden;
#[path = "validate/good.rs"]
mod good;
#[path = "validate/metrics.rs"]
mod metrics;
#[path = "validate/options.rs"]
mod options;
#[path = "validate/seeds.rs"]
mod seeds;
