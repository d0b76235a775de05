//! The table of operators: which versions of which domain the evaluator runs.

use super::call::{Call, Outcome};
use crate::onnx::model::MAX_OPSET;

/// The domain of onnxruntime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// The domain of classical machine learning.
pub(super) const ML: &str = "ai.onnx.ml";

/// What happens to FLOAT16 and BFLOAT16 inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// The operator takes them as they are.
    Native,
    /// They are widened to FLOAT, and FLOAT results are rounded to their type.
    Widen,
}

/// An operator that the evaluator runs.
#[derive(Clone, Copy)]
pub struct Operator {
    /// Domain; empty for the default one.
    pub domain: &'static str,
    /// Name.
    pub name: &'static str,
    /// First version of the operator set in which the evaluator runs it.
    pub since: i64,
    /// Last such version.
    pub until: i64,
    pub(super) halves: Halves,
    pub(super) kernel: fn(&Call<'_>) -> Outcome,
}

/// An operator of the default domain that widens halves.
pub(super) const fn wide(name: &'static str, since: i64, kernel: fn(&Call<'_>) -> Outcome) -> Operator {
    Operator { domain: "", name, since, until: MAX_OPSET, halves: Halves::Widen, kernel }
}

/// An operator of the default domain that takes every type as it is.
pub(super) const fn native(name: &'static str, since: i64, kernel: fn(&Call<'_>) -> Outcome) -> Operator {
    Operator { domain: "", name, since, until: MAX_OPSET, halves: Halves::Native, kernel }
}

impl Operator {
    /// The last version of a removed operator.
    pub(super) const fn until(mut self, version: i64) -> Self {
        self.until = version;
        self
    }

    /// An operator of another domain.
    pub(super) const fn of(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }
}

const FAMILIES: &[&[Operator]] = &[
    super::unary::OPERATORS,
    super::binary::OPERATORS,
    super::cast::OPERATORS,
    super::quantize::OPERATORS,
    super::shape::OPERATORS,
    super::index::OPERATORS,
    super::scatter::OPERATORS,
    super::sort::OPERATORS,
    super::reduce::OPERATORS,
    super::matmul::OPERATORS,
    super::einsum::OPERATORS,
    super::conv::OPERATORS,
    super::pool::OPERATORS,
    super::norm::OPERATORS,
    super::resize::OPERATORS,
    super::recurrent::OPERATORS,
    super::attention::OPERATORS,
    super::linear_attention::OPERATORS,
    super::control::OPERATORS,
    super::text::OPERATORS,
    super::signal::OPERATORS,
    super::detect::OPERATORS,
    super::loss::OPERATORS,
    super::train::OPERATORS,
    super::ml::OPERATORS,
    super::contrib::OPERATORS,
];

/// Every operator, family by family.
pub fn operators() -> impl Iterator<Item = &'static Operator> {
    FAMILIES.iter().copied().flatten()
}

/// The operator `name` of `domain` as version `opset` of the set defines it.
pub fn find(domain: &str, name: &str, opset: i64) -> Option<&'static Operator> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    operators().find(|o| o.name == name && o.domain == domain && (o.since..=o.until).contains(&opset))
}

/// Whether any version of the operator is known.
pub fn is_claimed(domain: &str, name: &str) -> bool {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    operators().any(|o| o.name == name && o.domain == domain)
}
