//! The list of reference kernels, by the names of golden sets.

use super::array::{Arrays, Call};
use crate::error::Result;

/// An argument or a result.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// Name in golden sets.
    pub name: &'static str,
    /// Whether a call may leave it out.
    pub optional: bool,
    /// Formats and shape, as in `e4m3[M,K]`.
    pub form: &'static str,
}

/// A parameter with its default.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Name in golden sets.
    pub name: &'static str,
    /// Values that it takes.
    pub values: &'static str,
    /// The default, as JSON text.
    pub default: &'static str,
}

/// A reference kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Name in golden sets.
    pub name: &'static str,
    /// What it computes and in which order it rounds; the text of the documentation.
    pub semantics: &'static str,
    /// Arguments.
    pub inputs: &'static [Arg],
    /// Results.
    pub outputs: &'static [Arg],
    /// Parameters.
    pub params: &'static [Param],
    /// Computes the results.
    ///
    /// # Errors
    /// Class Input for arguments whose formats or shapes do not fit.
    pub run: fn(&Call<'_>) -> Result<Arrays>,
}

/// Every kernel, family by family in the order of their numbers.
pub fn kernels() -> impl Iterator<Item = &'static Kernel> {
    const FAMILIES: &[&[Kernel]] = &[
        super::gemm_catalog::KERNELS,
        super::group_gemm_catalog::KERNELS,
        super::gemm_catalog::MICROSCALED,
        super::dequant::KERNELS,
        super::quant::KERNELS,
        super::requant::KERNELS,
        super::norm::KERNELS,
        super::swiglu::KERNELS,
        super::rope::KERNELS,
        super::mla::KERNELS,
        super::attention::KERNELS,
        super::gate::KERNELS,
        super::group_gemm_catalog::GROUPED,
        super::combine::KERNELS,
        super::lm_head::KERNELS,
        super::kv::KERNELS,
        super::layout::KERNELS,
    ];
    FAMILIES.iter().copied().flatten()
}

/// The kernel called `name`.
pub fn find(name: &str) -> Option<&'static Kernel> {
    kernels().find(|k| k.name == name)
}
