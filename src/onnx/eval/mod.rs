//! The reference evaluator: a graph run node by node, one file per operator family.
//!
//! Results follow the operator specifications of ONNX (onnx 1.23, checked against its node cases). FLOAT operators compute
//! in FLOAT, with sums in a stated order; FLOAT16 and BFLOAT16 ones widen to FLOAT and round the result once, unless an
//! operator says otherwise. Every sum has one order whatever the number of threads.

mod binary;
mod call;
mod cast;
mod conv;
mod einsum;
mod graph;
mod index;
mod matmul;
mod pool;
mod quantize;
mod reduce;
mod scatter;
mod shape;
mod sort;
pub mod table;
pub mod tensor;
mod unary;
mod window;

pub use graph::Session;
pub use table::{Operator, operators};
pub use tensor::{Data, Tensor, Value};
