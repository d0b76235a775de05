//! The tensor level: every tensor of an artifact, decoded and held against its source.
//!
//! Bands of rows are taken by worker threads under the memory budget; what they find merges to the same result in any
//! order. Files pass by whole, so their digests come for nothing.

mod careful;
mod judge;
mod measure;
mod tile;

use super::pairs::{Expect, Pair};
use super::reader::{Matrix, Store, bands};
use super::rows::Rows;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::io::buffer_pool::{ABORTED, BufferPool};
use crate::kernel::Isa;
use crate::report::model::Check;
use measure::{Bench, Measured, Task, band_bytes};
use std::sync::{Mutex, PoisonError};

/// Largest band in bytes: beyond, nothing is gained.
const BAND: u64 = 2 << 20;

/// How the tensor level works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Bytes that buffers may take.
    pub(super) memory: u64,
    /// Threads, at least 1.
    pub(super) jobs: usize,
    /// Share of each tensor's rows.
    pub(super) sample: f64,
    /// The instruction set.
    pub(super) isa: Isa,
}

/// Compares every pair, completes the rows of the tensors and says what is wrong.
///
/// # Errors
/// Reading errors; class Usage where a band does not fit the memory budget.
pub(super) fn run(
    artifact: &Store<'_>,
    source: &Store<'_>,
    pairs: &[Pair],
    options: Options,
    rows: &mut Rows,
) -> Result<Vec<Check>> {
    let tasks: Vec<Option<Task<'_>>> =
        pairs.iter().map(|pair| task(artifact.checkpoint, source.checkpoint, pair)).collect();
    let buffers = BufferPool::new(usize::try_from(options.memory).unwrap_or(usize::MAX));
    let bench = Bench { artifact, source, buffers: &buffers, isa: options.isa };
    let mut results = pass(&bench, &tasks, options, |_| true, false)?;
    // What should have been equal and is not is measured in a second pass: the sums of all its bands are needed.
    let again: Vec<bool> =
        results.iter().map(|m| m.as_ref().is_some_and(|m| m.differs && !m.measured)).collect();
    if again.contains(&true) {
        let measured = pass(&bench, &tasks, options, |i| again[i], true)?;
        for (result, measured) in results.iter_mut().zip(measured) {
            if measured.is_some() {
                *result = measured;
            }
        }
    }
    Ok(judge::judge(artifact, source, pairs, &results, options.sample, rows))
}

fn task<'a>(artifact: &Checkpoint, source: &Checkpoint, pair: &'a Pair) -> Option<Task<'a>> {
    if matches!(pair.expect, Expect::Nothing(_)) {
        return None;
    }
    let mine = Matrix::of(artifact, pair.artifact)?;
    let theirs = match pair.source {
        Some(id) => Some(Matrix::of(source, id)?),
        None => None,
    };
    Some(Task { pair, artifact: mine, source: theirs })
}

/// A run of rows of a task.
struct Piece {
    task: usize,
    start: u64,
    end: u64,
}

/// Hands out pieces in the order of the tasks.
struct Queue<'a> {
    tasks: &'a [Option<Task<'a>>],
    names: Vec<String>,
    options: Options,
    cursor: Mutex<Cursor>,
}

/// The task at hand, its bands, the band at hand and its next row; the task after it.
#[derive(Default)]
struct Cursor {
    task: usize,
    bands: Vec<(u64, u64)>,
    band: usize,
    row: u64,
    next: usize,
}

impl Queue<'_> {
    fn next(&self, wanted: &(impl Fn(usize) -> bool + Sync)) -> Option<Piece> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = (self.options.memory / (2 * self.options.jobs as u64)).clamp(1 << 16, BAND);
        loop {
            while let (Some((first, end)), Some(Some(task))) =
                (cursor.bands.get(cursor.band).copied(), self.tasks.get(cursor.task))
            {
                let start = first.max(cursor.row);
                if start >= end {
                    cursor.band += 1;
                    continue;
                }
                let granule = granule(task);
                let granules = (limit / band_bytes(task, granule).max(1)).max(1);
                let stop = start.saturating_add(granules.saturating_mul(granule)).min(end);
                cursor.row = stop;
                return Some(Piece { task: cursor.task, start, end: stop });
            }
            let index = cursor.next;
            let bands = match self.tasks.get(index)? {
                Some(task) if wanted(index) => {
                    bands(task.artifact.rows, granule(task), self.options.sample, &self.names[index])
                }
                _ => Vec::new(),
            };
            *cursor = Cursor { task: index, bands, band: 0, row: 0, next: index + 1 };
        }
    }
}

/// Rows that must stay together.
fn granule(task: &Task<'_>) -> u64 {
    let (a, b) = (task.artifact.granule(), task.source.map_or(1, |m| m.granule()));
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}

fn pass<'a>(
    bench: &Bench<'_>,
    tasks: &'a [Option<Task<'a>>],
    options: Options,
    wanted: impl Fn(usize) -> bool + Sync,
    measure: bool,
) -> Result<Vec<Option<Measured>>> {
    let name = |task: &Option<Task<'_>>| match task {
        Some(task) if options.sample < 1.0 => {
            bench.artifact.checkpoint.tensor(task.artifact.id).name.to_string()
        }
        _ => String::new(),
    };
    let names = tasks.iter().map(name).collect();
    let queue = Queue { tasks, names, options, cursor: Mutex::default() };
    let results: Vec<Mutex<Option<Box<Measured>>>> = tasks.iter().map(|_| Mutex::new(None)).collect();
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        while let Some(piece) = queue.next(&wanted) {
            let Some(Some(task)) = tasks.get(piece.task) else { continue };
            match bench.look(task, piece.start, piece.end, measure) {
                Ok(found) => {
                    let mut slot = results[piece.task].lock().unwrap_or_else(PoisonError::into_inner);
                    match &mut *slot {
                        Some(all) => all.merge(found),
                        None => *slot = Some(Box::new(found)),
                    }
                }
                Err(error) => {
                    bench.buffers.abort();
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    // What was aborted follows from another error.
                    if failure.as_ref().is_none_or(|f| f.code() == ABORTED) {
                        *failure = Some(error);
                    }
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.jobs {
            scope.spawn(work);
        }
        work();
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Ok(results
        .into_iter()
        .map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner).map(|m| *m))
        .collect())
}
