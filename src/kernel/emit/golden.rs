//! The list of golden cases: inputs by class, results by the reference kernels.

use super::manifest::Case;
use crate::dtype::Dtype;
use crate::error::{Class, Error, Result};
use crate::kernel::reference::array::{Array, Arrays, Call};
use crate::kernel::reference::catalog::{self, Kernel};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A golden case before its results are computed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Name of the case.
    pub name: String,
    /// Input class.
    pub class: &'static str,
    /// Parameters.
    pub params: Map<String, Value>,
    /// The part of a checkpoint that the inputs are from, for cases of real weights.
    pub tensor: Option<String>,
    /// Inputs by argument name.
    pub inputs: Arrays,
    /// Formats of the outputs; an optional output that is not listed is not computed.
    pub wanted: BTreeMap<String, Dtype>,
}

impl Draft {
    /// A case of `class`, named after it.
    pub fn new(kernel: &'static str, class: &'static str) -> Self {
        Self {
            kernel,
            name: class.to_owned(),
            class,
            params: Map::new(),
            tensor: None,
            inputs: Arrays::new(),
            wanted: BTreeMap::new(),
        }
    }

    /// Adds `-suffix` to the name.
    pub fn suffix(mut self, suffix: &str) -> Self {
        self.name += "-";
        self.name += suffix;
        self
    }

    /// Adds an input.
    pub fn input(mut self, name: &str, array: Array) -> Self {
        self.inputs.insert(name.to_owned(), array);
        self
    }

    /// Adds a parameter.
    pub fn param(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.params.insert(name.to_owned(), value.into());
        self
    }

    /// Asks for an output in a format.
    pub fn want(mut self, name: &str, dtype: Dtype) -> Self {
        self.wanted.insert(name.to_owned(), dtype);
        self
    }

    /// Computes the results by `kernel`, which must be the draft's.
    ///
    /// # Errors
    /// Class Internal where the kernel refuses the inputs.
    pub fn compute(self, kernel: &Kernel) -> Result<Case> {
        let call = Call { inputs: &self.inputs, params: &self.params, wanted: &self.wanted };
        let outputs = (kernel.run)(&call).map_err(|e| {
            let what = format!("{}/{}: {}", self.kernel, self.name, e.what_text());
            Error::new(Class::Internal, "golden-case", what)
                .expected(e.expected_text().unwrap_or("a result"))
                .found(e.found_text().unwrap_or("an error"))
        })?;
        let Draft { name, class, params, tensor, inputs, .. } = self;
        Ok(Case { kernel: kernel.name, name, class, params, tensor, inputs, outputs })
    }
}

/// Every case of the kernels that `selection` accepts, in the order of the catalog.
///
/// # Errors
/// As [`Draft::compute`].
pub fn cases(selection: &dyn Fn(&str) -> bool) -> Result<Vec<Case>> {
    cases_where(selection, &|_| true)
}

/// The cases that `wanted` accepts of the kernels that `selection` accepts, in the order of the catalog.
///
/// # Errors
/// As [`Draft::compute`].
pub fn cases_where(selection: &dyn Fn(&str) -> bool, wanted: &dyn Fn(&Draft) -> bool) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for kernel in catalog::kernels().filter(|k| selection(k.name)) {
        for draft in drafts(kernel.name).into_iter().filter(|d| wanted(d)) {
            cases.push(draft.compute(kernel)?);
        }
    }
    Ok(cases)
}

/// The drafts of `kernel`.
pub fn drafts(kernel: &'static str) -> Vec<Draft> {
    super::cases::drafts(kernel)
}
