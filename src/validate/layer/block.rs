//! A whole decoder block.

use super::attention::attention;
use super::mlp::{Choice, mlp};
use super::side::{Grid, Side};
use crate::error::Result;

/// Outputs of modules, in the order in which they are computed.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace<'t> {
    pub(super) entries: Vec<(String, Grid)>,
    /// A run whose outputs replace this one's once they are noted, so that every module sees the inputs of that run
    /// and its error is its own.
    teacher: Option<&'t [(String, Grid)]>,
}

impl<'t> Trace<'t> {
    /// Follows the run that left `teacher`.
    pub(super) fn taught(teacher: &'t Trace<'_>) -> Self {
        Self { entries: Vec::new(), teacher: Some(&teacher.entries) }
    }

    /// Notes a module's output and passes it on, or the teacher's.
    pub(super) fn keep(&mut self, module: &str, grid: Grid) -> Grid {
        let taught = self
            .teacher
            .and_then(|t| t.get(self.entries.len()))
            .filter(|(name, t)| name == module && (t.rows, t.cols) == (grid.rows, grid.cols));
        let next = taught.map_or_else(|| grid.clone(), |(_, t)| t.clone());
        self.entries.push((module.to_owned(), grid));
        next
    }
}

/// What a block chose.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    /// Experts of each token.
    pub(super) experts: Option<Choice>,
    /// Keys of each token, of the indexer.
    pub(super) keys: Option<Vec<Vec<usize>>>,
}

/// What a block made.
pub(super) struct Out {
    /// The hidden states after the block.
    pub(super) states: Grid,
    /// What the block adds to the residual stream: attention plus MLP.
    pub(super) update: Grid,
    pub(super) choices: Choices,
}

/// Runs layer `index`. With `forced`, experts and keys are those of another run; its own choices are returned all the
/// same.
pub(super) fn block(
    side: &Side<'_>,
    index: usize,
    x: &Grid,
    forced: Option<&Choices>,
    trace: &mut Trace<'_>,
) -> Result<Out> {
    let layer = side.arch.layer(index);
    let (hidden, eps) = (side.arch.hidden, side.arch.eps);
    let normed = side.rms_norm(&format!("{layer}.input_layernorm.weight"), x, hidden, eps)?;
    let normed = trace.keep("input_layernorm", normed);
    let keys = forced.and_then(|f| f.keys.as_deref());
    let (attended, keys) = attention(side, &layer, &normed, keys, trace)?;
    let middle = x.plus(&attended, side.rounding);
    let name = format!("{layer}.post_attention_layernorm.weight");
    let normed = trace.keep("post_attention_layernorm", side.rms_norm(&name, &middle, hidden, eps)?);
    let experts = forced.and_then(|f| f.experts.as_ref());
    let (fed, experts) = mlp(side, &layer, &normed, experts, trace)?;
    let update = attended.plus(&fed, super::side::Rounding::Single);
    let states = middle.plus(&fed, side.rounding);
    Ok(Out { states, update, choices: Choices { experts, keys } })
}
