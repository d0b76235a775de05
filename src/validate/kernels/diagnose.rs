//! What a weight that is not its source's might be instead: another row of it, its transpose, another tensor.

use super::weights::{Matrix, size};
use crate::error::Result;

/// Rows of the artifact that are looked for.
const PROBES: u64 = 4;
/// Tensors of the source that are looked at.
const CANDIDATES: usize = 2048;
/// A row is found where the cosine exceeds this; quantization to 8 bits leaves 0.999.
const FOUND: f64 = 0.95;

/// A sentence on what the artifact's weight holds, where it is something that the source has elsewhere.
pub(super) fn cause(artifact: &Matrix<'_>, source: &Matrix<'_>) -> Result<Option<String>> {
    let (rows, granule) = (artifact.rows, artifact.granule());
    if rows == 0 || artifact.cols == 0 {
        return Ok(None);
    }
    let mut moved = Vec::new();
    for probe in 0..PROBES.min(rows) {
        // Odd multiples, so that a permutation of halves, pairs or heads moves at least one of them.
        let at = (probe * (rows / PROBES.min(rows)) + probe) % rows;
        let row = read_row(artifact, at, granule)?;
        if cosine(&row, &read_row(source, at, source.granule())?) > FOUND {
            continue;
        }
        if artifact.rows == artifact.cols && cosine(&row, &column(source, at)?) > FOUND {
            return Ok(Some("it holds the transpose of its source".into()));
        }
        match find(&row, source)? {
            Some(other) => moved.push(format!("row {at} holds the source's row {other}")),
            None => {
                if let Some(name) = elsewhere(&row, at, source)? {
                    return Ok(Some(format!("it holds the source's {name}")));
                }
            }
        }
    }
    Ok((!moved.is_empty()).then(|| format!("rows are permuted: {}", moved.join(", "))))
}

fn read_row(matrix: &Matrix<'_>, at: u64, granule: u64) -> Result<Vec<f32>> {
    let start = at / granule * granule;
    let band = matrix.decoded(&(start..(start + granule).min(matrix.rows)))?;
    let (from, cols) = (size(at - start) * size(matrix.cols), size(matrix.cols));
    Ok(band[from..from + cols].to_vec())
}

fn column(matrix: &Matrix<'_>, at: u64) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(size(matrix.rows));
    scan(matrix, |_, row| {
        out.push(row[size(at)]);
        false
    })?;
    Ok(out)
}

/// The row of `matrix` that points where `wanted` does.
fn find(wanted: &[f32], matrix: &Matrix<'_>) -> Result<Option<u64>> {
    let mut found = None;
    scan(matrix, |at, row| {
        if cosine(wanted, row) > FOUND {
            found = Some(at);
        }
        found.is_some()
    })?;
    Ok(found)
}

/// The tensor of the source of the same shape whose row `at` points where `wanted` does; the same layer first.
fn elsewhere(wanted: &[f32], at: u64, source: &Matrix<'_>) -> Result<Option<String>> {
    let checkpoint = source.checkpoint();
    let role = checkpoint.role(source.id);
    let same = |layer: bool| {
        let all = (0..).zip(&checkpoint.tensors).filter(move |(id, t)| {
            *id != source.id
                && t.shape[..] == [source.rows, source.cols]
                && (checkpoint.role(*id).layer == role.layer) == layer
        });
        all.map(|(id, _)| id).take(CANDIDATES)
    };
    for id in same(true).chain(same(false)) {
        if let Some(other) = source.sibling(id)
            && cosine(wanted, &read_row(&other, at, other.granule())?) > FOUND
        {
            return Ok(Some(other.name().to_owned()));
        }
    }
    Ok(None)
}

/// Calls `visit` with every row until it says that it has seen enough.
fn scan(matrix: &Matrix<'_>, mut visit: impl FnMut(u64, &[f32]) -> bool) -> Result<()> {
    let granule = matrix.granule();
    let step = ((1 << 18) / matrix.cols.max(1) / granule).max(1) * granule;
    let mut start = 0;
    while start < matrix.rows {
        let end = (start + step).min(matrix.rows);
        let band = matrix.decoded(&(start..end))?;
        for (at, row) in (start..end).zip(band.chunks_exact(size(matrix.cols))) {
            if visit(at, row) {
                return Ok(());
            }
        }
        start = end;
    }
    Ok(())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut aa, mut bb, mut ab) = (0.0f64, 0.0f64, 0.0f64);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x), f64::from(*y));
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa.sqrt() * bb.sqrt()) } else { 0.0 }
}
