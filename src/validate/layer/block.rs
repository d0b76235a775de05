//! A whole decoder block.

use super::attention::attention;
use super::mlp::{Choice, mlp};
use super::side::{Grid, Side};
use crate::error::Result;

/// Outputs of modules, in the order in which they are computed.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    pub(super) entries: Vec<(String, Grid)>,
}

impl Trace {
    /// Notes a module's output and passes it on.
    pub(super) fn keep(&mut self, module: &str, grid: Grid) -> Grid {
        self.entries.push((module.to_owned(), grid.clone()));
        grid
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
    pub(super) trace: Trace,
}

/// Runs layer `index`. With `forced`, experts and keys are those of another run; its own choices are returned all the
/// same.
pub(super) fn block(side: &Side<'_>, index: usize, x: &Grid, forced: Option<&Choices>) -> Result<Out> {
    let layer = side.arch.layer(index);
    let (hidden, eps) = (side.arch.hidden, side.arch.eps);
    let mut trace = Trace::default();
    let normed = side.rms_norm(&format!("{layer}.input_layernorm.weight"), x, hidden, eps)?;
    let normed = trace.keep("input_layernorm", normed);
    let keys = forced.and_then(|f| f.keys.as_deref());
    let (attended, keys) = attention(side, &layer, &normed, keys, &mut trace)?;
    let middle = x.plus(&attended, side.rounding);
    let name = format!("{layer}.post_attention_layernorm.weight");
    let normed = trace.keep("post_attention_layernorm", side.rms_norm(&name, &middle, hidden, eps)?);
    let experts = forced.and_then(|f| f.experts.as_ref());
    let (fed, experts) = mlp(side, &layer, &normed, experts, &mut trace)?;
    let update = attended.plus(&fed, super::side::Rounding::Single);
    let states = middle.plus(&fed, side.rounding);
    Ok(Out { states, update, choices: Choices { experts, keys }, trace })
}
