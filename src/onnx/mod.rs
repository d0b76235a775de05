//! ONNX models: read, written, evaluated.
//!
//! [`Model`] is the parsed file; [`tensor::payload`] gives a tensor's bytes wherever they lie, [`external`] guards the
//! files beside a model, [`write()`] writes one, [`eval`] runs it. `docs/onnx.md` has the rules.

pub mod element;
pub mod eval;
pub mod external;
pub mod model;
pub mod npz;
mod scan;
pub mod tensor;
pub mod write;

pub use element::Element;
pub use model::Model;
pub use write::write;
