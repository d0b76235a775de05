//! The kernel level: every linear of an artifact through the reference kernel of its scheme, on seeded activations,
//! against the exact product of the source's weights with the same activations.
//!
//! A row's metrics say what quantization of weight *and* activations costs, in the tier that fits:
//!
//! - `T5` for quantized weights: `calc_diff` ≤ 1e-3 (FP8 and INT8, DeepGEMM's budget against the unquantized product);
//! - `T4` for weights that were decoded or rounded to a float: `calc_diff` ≤ 2e-5 and `rel_diff` ≤ 5e-3;
//! - `T2` for float weights that were only copied: `calc_diff` ≤ 1e-8.
//!
//! Besides, every kernel's result is held to the exact product of what it multiplies (decoded codes, decoded activations)
//! with T2's 1e-8: that is the arithmetic of the kernel alone, whatever the weights are. The bias test (|P(x < ref) + ½
//! P(x = ref) − ½| < 10/√n) warns only: outputs of one token share the errors of its activations, so they are not the
//! independent draws that its limit assumes.
//!
//! The exact product is a sum of exact products in `f64`, K ascending, so no result depends on threads or bands.

mod diagnose;
mod path;
mod product;
mod seed;
mod weights;

pub(crate) use path::{Activations, Path, run_band};
pub(crate) use product::exact_band;
pub(crate) use seed::Stream;
pub(crate) use weights::{Matrix, Shards, size};

use crate::checkpoint::{Checkpoint, Kind, Part, natural_cmp};
use crate::dtype::Dtype;
use crate::error::{Class, Error, Result};
use crate::report::model::{Check, KernelRow, Level, Verdict};
use crate::validate::metrics::{Accumulator, Tolerance};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// Tokens that go through every linear.
pub const TOKENS: usize = 8;

/// Elements of a weight that one worker holds at a time, unless a row or a granule is longer.
const BAND: u64 = 1 << 18;
/// Bytes per element of a band: stored and decoded weights of one side, codes as numbers.
const BAND_BYTES: u64 = 16;
/// Bands that are worked on before results are counted up; their outputs are small.
const BATCH: usize = 256;
/// Rows of a sample's pieces.
const PIECE: u64 = 128;

/// Limits of `calc_diff` and `rel_diff`.
const T5: [f64; 2] = [1e-3, f64::INFINITY];
const T4: [f64; 2] = [2e-5, 5e-3];
const T2: [f64; 2] = [1e-8, f64::INFINITY];

/// What the kernel and layer levels look at.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The artifact.
    pub artifact: &'a Checkpoint,
    /// What it was made from.
    pub source: &'a Checkpoint,
    /// Worker threads, at least 1.
    pub jobs: usize,
    /// Bytes that buffers may take; fewer threads work where that is not enough for all.
    pub memory: u64,
    /// Share of the rows of each weight and of the layers, in (0, 1].
    pub sample: f64,
    /// Seed of activations, hidden states and token ids.
    pub seed: u64,
}

impl Request<'_> {
    /// Threads that may hold a band of `bytes` each.
    pub(crate) fn pool(&self, bytes: u64) -> Result<rayon::ThreadPool> {
        let threads = size(self.memory / bytes.max(1)).clamp(1, self.jobs.max(1));
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::new(Class::Io, "threads", "cannot start the worker threads").found(e))
    }
}

/// What a level found.
#[derive(Clone, Debug)]
pub struct Outcome<R> {
    /// A row per linear, or per block.
    pub rows: Vec<R>,
    /// One check for each row that failed, and one for each rule that nothing broke.
    pub checks: Vec<Check>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// The activation paths that the artifact's linears take, in words, most frequent first; `None` without linears.
pub fn engine_path(artifact: &Checkpoint) -> Option<String> {
    let shards = Shards::new(artifact);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for matrix in linears(&shards) {
        *counts.entry(path_of(&matrix, artifact).words()).or_default() += 1;
    }
    let mut words: Vec<(String, u64)> = counts.into_iter().collect();
    words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if words.is_empty() {
        return None;
    }
    Some(words.into_iter().map(|(w, n)| format!("{w} ({n} linears)")).collect::<Vec<_>>().join("; "))
}

/// The path of one weight of `checkpoint`.
pub(crate) fn path_of(matrix: &Matrix<'_>, checkpoint: &Checkpoint) -> Path {
    let format = checkpoint.config.quantization.as_ref().and_then(|q| q.scale_fmt.as_deref());
    Path::of(matrix, format == Some("ue8m0"))
}

/// The weights of matrix multiplications, in natural name order.
fn linears<'a>(shards: &'a Shards<'a>) -> Vec<Matrix<'a>> {
    let checkpoint = shards.checkpoint;
    let mut found: Vec<Matrix<'a>> = (0..)
        .zip(&checkpoint.tensors)
        .filter_map(|(id, _)| {
            let role = checkpoint.role(id);
            let known =
                role.kind.is_linear() || matches!(role.kind, Kind::LmHead | Kind::Router | Kind::SharedHead);
            let matrix = Matrix::open(shards, id)?;
            (role.part == Part::Weight && (known || matrix.scaled.is_some())).then_some(matrix)
        })
        .collect();
    found.sort_by(|a, b| natural_cmp(a.name(), b.name()));
    found
}

/// A linear under test.
struct Case<'a> {
    artifact: Matrix<'a>,
    source: Matrix<'a>,
    x: Activations,
    tier: (&'static str, [f64; 2]),
    bands: Vec<Range<u64>>,
}

/// What came of one band of a case.
struct Piece {
    /// Position of the case in its batch.
    index: usize,
    rows: Range<u64>,
    /// `[TOKENS][rows]`.
    golden: Vec<f64>,
    band: path::Band,
}

/// Runs every linear.
///
/// # Errors
/// Reading errors.
pub fn run(request: &Request<'_>) -> Result<Outcome<KernelRow>> {
    let (artifact, source) = (Shards::new(request.artifact), Shards::new(request.source));
    let all = linears(&artifact);
    let mut outcome = Outcome { rows: Vec::new(), checks: Vec::new(), notes: Vec::new() };
    let mut pairs = Vec::with_capacity(all.len());
    let mut largest = 0;
    for matrix in all {
        match pair(&source, &matrix) {
            Ok(partner) => {
                let granule = matrix.granule().max(partner.granule());
                largest = largest.max((granule * matrix.cols).max(BAND));
                pairs.push((matrix, partner));
            }
            Err(why) => outcome.checks.push(failed("kernel-pair", matrix.name(), None, why)),
        }
    }
    let pool = request.pool(largest * BAND_BYTES)?;
    let (mut worst, mut biased) = (Worst::default(), 0u64);
    let mut pairs = pairs.into_iter().peekable();
    while pairs.peek().is_some() {
        let mut cases = Vec::new();
        let mut tasks: Vec<(usize, Range<u64>)> = Vec::new();
        while tasks.len() < BATCH
            && let Some((matrix, partner)) = pairs.next()
        {
            let case = prepare(request, matrix, partner)?;
            tasks.extend(case.bands.iter().map(|rows| (cases.len(), rows.clone())));
            cases.push(case);
        }
        let done: Vec<Piece> = pool.install(|| {
            tasks
                .into_par_iter()
                .map(|(index, rows)| {
                    let case = &cases[index];
                    let golden = exact_band(&case.x.exact, &case.source.decoded(&rows)?);
                    let band = run_band(&case.artifact, &rows, &case.x, true)?;
                    Ok(Piece { index, rows, golden, band })
                })
                .collect::<Result<_>>()
        })?;
        let mut pieces: Vec<Vec<Piece>> = cases.iter().map(|_| Vec::new()).collect();
        for piece in done {
            pieces[piece.index].push(piece);
        }
        let judged: Vec<Judged> = pool
            .install(|| cases.par_iter().zip(&pieces).map(|(case, pieces)| judge(case, pieces)).collect());
        for (case, judged) in cases.iter().zip(judged) {
            worst.add(&judged, case.artifact.name());
            biased += u64::from(judged.biased);
            if judged.row.verdict == Some(Verdict::Fail) {
                let message = judged.message(case)?;
                let id = format!("kernel-{}", judged.row.tier.to_ascii_lowercase());
                let mut check = failed(&id, case.artifact.name(), judged.row.metrics.calc_diff, message);
                check.metric = Some("calc_diff".into());
                check.limit = Some(case.tier.1[0]);
                outcome.checks.push(check);
            }
            if judged.arithmetic > T2[0] {
                let message = format!(
                    "the reference kernel's result differs from the exact product of the artifact's decoded weights: \
                     calc_diff {:.2e}, at most {:.0e} expected",
                    judged.arithmetic, T2[0]
                );
                let mut check =
                    failed("kernel-arithmetic", case.artifact.name(), Some(judged.arithmetic), message);
                check.limit = Some(T2[0]);
                outcome.checks.push(check);
            }
            outcome.rows.push(judged.row);
        }
    }
    worst.summarize(&mut outcome.checks);
    if biased > 0 {
        outcome.notes.push(format!(
            "{biased} of {} linears are beyond the bias test's 10/sqrt(n); outputs of a token share its activations' \
             errors, so this is no failure by itself",
            outcome.rows.len()
        ));
    }
    Ok(outcome)
}

/// The weight of the source that an artifact's weight must agree with, or why there is none.
fn pair<'a>(source: &'a Shards<'a>, matrix: &Matrix<'_>) -> std::result::Result<Matrix<'a>, String> {
    let Some(id) = source.checkpoint.find(matrix.name()) else {
        return Err("the source has no weight of this name".into());
    };
    let Some(partner) = Matrix::open(source, id) else {
        return Err("the source's weight is no matrix that can be decoded".into());
    };
    if (partner.rows, partner.cols) != (matrix.rows, matrix.cols) {
        return Err(format!(
            "the source's weight is {}x{}, the artifact's {}x{}",
            partner.rows, partner.cols, matrix.rows, matrix.cols
        ));
    }
    Ok(partner)
}

fn prepare<'a>(request: &Request<'a>, artifact: Matrix<'a>, source: Matrix<'a>) -> Result<Case<'a>> {
    let path = path_of(&artifact, request.artifact);
    let cols = size(artifact.cols);
    let x = Stream::new(request.seed, artifact.name()).activations(TOKENS * cols);
    let tier = match (path, artifact.scaled.is_some()) {
        (Path::Float, false) if source.scaled.is_none() && source.dtype() == artifact.dtype() => ("T2", T2),
        (Path::Float, false) => ("T4", T4),
        _ => ("T5", T5),
    };
    let bands = bands(request, &artifact, &source);
    Ok(Case { x: Activations::new(&x, TOKENS, cols, path)?, artifact, source, tier, bands })
}

/// The bands to read: all rows, or evenly spread pieces of a sample from a place that the seed and the name choose.
fn bands(request: &Request<'_>, artifact: &Matrix<'_>, source: &Matrix<'_>) -> Vec<Range<u64>> {
    let (rows, granule) = (artifact.rows, lcm(artifact.granule(), source.granule()));
    let step = (BAND / artifact.cols.max(1) / granule).max(1) * granule;
    if request.sample >= 1.0 {
        return (0..rows).step_by(size(step)).map(|start| start..(start + step).min(rows)).collect();
    }
    let piece = PIECE.div_ceil(granule).max(1) * granule;
    let pieces = rows.div_ceil(piece);
    let wanted = ((pieces as f64 * request.sample).ceil() as u64).clamp(1, pieces.max(1));
    let first = Stream::new(request.seed, artifact.name()).next_u64() % pieces.max(1);
    let mut chosen: Vec<u64> =
        (0..wanted.min(pieces)).map(|i| (first + i * pieces / wanted) % pieces).collect();
    chosen.sort_unstable();
    chosen.dedup();
    let split = |at: u64| {
        let (start, end) = (at * piece, ((at + 1) * piece).min(rows));
        (start..end).step_by(size(step)).map(move |s| s..(s + step).min(end))
    };
    chosen.into_iter().flat_map(split).collect()
}

fn lcm(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a.max(1), b.max(1));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a.max(1) / x).saturating_mul(b.max(1))
}

struct Judged {
    row: KernelRow,
    /// `calc_diff` of the kernel against the exact product of what it multiplies.
    arithmetic: f64,
    biased: bool,
}

fn judge(case: &Case<'_>, pieces: &[Piece]) -> Judged {
    // The root mean square of the golden values, for the tolerance of single elements.
    let (mut squares, mut count) = (0.0f64, 0u64);
    for Piece { golden, .. } in pieces {
        squares += golden.iter().filter(|v| v.is_finite()).map(|v| v * v).sum::<f64>();
        count += golden.len() as u64;
    }
    let rms = (squares / (count.max(1) as f64)).sqrt();
    // A row at its limit has errors of √(2 × calc_diff) of the rms; five of those hardly ever happen in a good one.
    let [calc_limit, rel_limit] = case.tier.1;
    let tolerance = Tolerance { absolute: 5.0 * (2.0 * calc_limit).sqrt() * rms, relative: 0.0 };
    let mut metrics = Accumulator::with_tolerance(Dtype::F32, tolerance);
    let mut arithmetic = Accumulator::new(Dtype::F32);
    let n = case.artifact.rows;
    for Piece { rows, golden, band, .. } in pieces {
        let coordinates = (0..TOKENS as u64).flat_map(|t| (rows.start..rows.end).map(move |row| t * n + row));
        for (((index, g), k), p) in coordinates.zip(golden).zip(&band.kernel).zip(&band.product) {
            metrics.add_pair(index, f64::from(*k), *g);
            arithmetic.add_pair(index, f64::from(*k), *p);
        }
    }
    let metrics = metrics.finish(&[TOKENS as u64, n]);
    let arithmetic = arithmetic.finish(&[TOKENS as u64, n]).calc_diff.unwrap_or(0.0);
    let within = |value: Option<f64>, limit: f64| value.is_none_or(|v| v <= limit);
    let good = within(metrics.calc_diff, calc_limit) && within(metrics.rel_diff, rel_limit);
    let biased = metrics.bias.is_some_and(|b| b >= 10.0 / (count.max(1) as f64).sqrt());
    let row = KernelRow {
        id: case.x.path.kernel().into(),
        case: case.artifact.name().into(),
        tier: case.tier.0.into(),
        metrics,
        verdict: Some(if good { Verdict::Pass } else { Verdict::Fail }),
    };
    Judged { row, arithmetic, biased }
}

impl Judged {
    fn message(&self, case: &Case<'_>) -> Result<String> {
        let m = &self.row.metrics;
        let value = |v: Option<f64>| v.map_or("undefined".into(), |v| format!("{v:.2e}"));
        let at =
            m.first_bad.as_ref().map_or(String::new(), |c| format!(", first bad output {c:?} (token, row)"));
        let mut text = format!(
            "{} against the source's exact product: calc_diff {} (at most {:.0e}), rel_diff {}{at}",
            self.row.id,
            value(m.calc_diff),
            case.tier.1[0],
            value(m.rel_diff)
        );
        if let Some(cause) = diagnose::cause(&case.artifact, &case.source)? {
            text.push_str("; ");
            text.push_str(&cause);
        }
        Ok(text)
    }
}

/// The worst passing row of each tier.
#[derive(Default)]
struct Worst {
    tiers: BTreeMap<String, (u64, u64, f64, String, f64)>,
    arithmetic: (u64, f64, String),
}

impl Worst {
    fn add(&mut self, judged: &Judged, name: &str) {
        let limit = match judged.row.tier.as_str() {
            "T2" => T2[0],
            "T4" => T4[0],
            _ => T5[0],
        };
        let entry = self.tiers.entry(judged.row.tier.clone()).or_insert((0, 0, -1.0, String::new(), limit));
        entry.0 += 1;
        entry.1 += u64::from(judged.row.verdict == Some(Verdict::Fail));
        let value = judged.row.metrics.calc_diff.unwrap_or(0.0);
        if value > entry.2 {
            (entry.2, entry.3) = (value, name.to_owned());
        }
        self.arithmetic.0 += 1;
        if judged.arithmetic > self.arithmetic.1 {
            (self.arithmetic.1, self.arithmetic.2) = (judged.arithmetic, name.to_owned());
        }
    }

    fn summarize(self, checks: &mut Vec<Check>) {
        let pass = |id: String, value: f64, limit: f64, message: String| Check {
            id,
            level: Level::Kernel,
            tensor: None,
            metric: Some("calc_diff".into()),
            value: Some(value),
            limit: Some(limit),
            verdict: Verdict::Pass,
            message,
        };
        for (tier, (rows, fails, value, name, limit)) in self.tiers {
            if fails == 0 {
                let id = format!("kernel-{}", tier.to_ascii_lowercase());
                checks.push(pass(
                    id,
                    value.max(0.0),
                    limit,
                    format!("{rows} linears; the largest is {name}"),
                ));
            }
        }
        let (rows, value, _) = self.arithmetic;
        if rows > 0 && value <= T2[0] {
            let message = format!("{rows} linears: kernels against exact products of what they multiply");
            checks.push(pass("kernel-arithmetic".into(), value, T2[0], message));
        }
    }
}

fn failed(id: &str, tensor: &str, value: Option<f64>, message: String) -> Check {
    Check {
        id: id.into(),
        level: Level::Kernel,
        tensor: Some(tensor.into()),
        metric: None,
        value,
        limit: None,
        verdict: Verdict::Fail,
        message,
    }
}
