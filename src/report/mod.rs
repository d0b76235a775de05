//! The validation report: one model, several renderings.

pub mod model;

pub use model::Report;
