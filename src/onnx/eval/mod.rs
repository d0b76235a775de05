//! The reference evaluator: a graph run node by node, one file per operator family.
//!
//! Results follow the operator specifications of ONNX (onnx 1.23, checked against its node cases). FLOAT operators compute
//! in FLOAT, with sums in a stated order; FLOAT16 and BFLOAT16 ones widen to FLOAT and round the result once, unless an
//! operator says otherwise. Every sum has one order whatever the number of threads.

mod attention;
mod binary;
mod call;
mod cast;
mod contrib;
mod control;
mod conv;
mod detect;
mod einsum;
mod graph;
mod index;
mod linear_attention;
mod loss;
mod matmul;
mod ml;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod scatter;
mod shape;
mod signal;
mod sort;
pub mod table;
pub mod tensor;
mod text;
mod train;
mod unary;
mod window;

pub use graph::Session;
pub use table::{Operator, operators};
pub use tensor::{Data, Tensor, Value};
