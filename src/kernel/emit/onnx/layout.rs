//! Layouts: kernels 21, permutations and packings.

use super::Emitter;

/// The emitter of a kernel of this file.
pub(super) fn emitter(kernel: &str) -> Option<Emitter> {
    let _ = kernel;
    None
}
