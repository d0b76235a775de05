//! One checkpoint's modules: linears, norms and what they are rounded to.

use super::arch::Arch;
use super::math;
use crate::dtype::codec::{bf16_from_f32, f32_from_bf16};
use crate::error::{Error, Result};
use crate::validate::kernels::{Activations, Matrix, Path, Shards, exact_band, path_of, run_band, size};
use rayon::prelude::*;

/// Elements of a weight that one worker holds at a time, unless a granule is longer.
pub(super) const BAND: u64 = 1 << 18;

/// What module outputs are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// f32.
    Single,
    /// BF16, as models are served.
    Bf16,
}

impl Rounding {
    pub(super) fn round(self, x: f64) -> f32 {
        let x = x as f32;
        match self {
            Rounding::Single => x,
            Rounding::Bf16 => f32_from_bf16(bf16_from_f32(x)),
        }
    }
}

/// Values `[rows, cols]`, row-major; a row is a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Grid {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) data: Vec<f32>,
}

impl Grid {
    pub(super) fn new(rows: usize, cols: usize, data: Vec<f32>) -> Self {
        Self { rows, cols, data }
    }

    pub(super) fn row(&self, at: usize) -> &[f32] {
        &self.data[at * self.cols..(at + 1) * self.cols]
    }

    /// Columns `[from, to)`.
    pub(super) fn columns(&self, from: usize, to: usize) -> Grid {
        let data = (0..self.rows).flat_map(|r| self.row(r)[from..to].iter().copied()).collect();
        Grid::new(self.rows, to - from, data)
    }

    pub(super) fn chosen(&self, rows: &[usize]) -> Grid {
        let data = rows.iter().flat_map(|r| self.row(*r).iter().copied()).collect();
        Grid::new(rows.len(), self.cols, data)
    }

    pub(super) fn plus(&self, other: &Grid, rounding: Rounding) -> Grid {
        let sums =
            self.data.iter().zip(&other.data).map(|(a, b)| rounding.round(f64::from(*a) + f64::from(*b)));
        Grid::new(self.rows, self.cols, sums.collect())
    }
}

/// A checkpoint's blocks: the source, exact but for the rounding of module outputs, or the artifact as an engine runs it.
pub(super) struct Side<'a> {
    pub(super) shards: &'a Shards<'a>,
    pub(super) arch: Arch,
    pub(super) rounding: Rounding,
    /// Whether activations are quantized as the weight's scheme says.
    pub(super) engine: bool,
    pub(super) pool: &'a rayon::ThreadPool,
}

impl Side<'_> {
    /// Whether there is a tensor of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.shards.checkpoint.find(name).is_some()
    }

    /// A vector of `len` values.
    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let found = self.shards.vector(name)?.ok_or_else(|| absent(name))?;
        if found.len() != len {
            return Err(misfit(name, &format!("{len} values"), &found.len().to_string()));
        }
        Ok(found)
    }

    /// `x · weightᵀ + bias` of a module that makes `rows` outputs, rounded.
    pub(super) fn linear(&self, module: &str, x: &Grid, rows: usize) -> Result<Grid> {
        let out = self.product(&format!("{module}.weight"), x, rows)?;
        let bias = format!("{module}.bias");
        let bias = if self.has(&bias) { Some(self.vector(&bias, rows)?) } else { None };
        let data = out.iter().enumerate().map(|(i, v)| {
            let bias = bias.as_ref().map_or(0.0, |b| f64::from(b[i % rows]));
            self.rounding.round(v + bias)
        });
        Ok(Grid::new(x.rows, rows, data.collect()))
    }

    /// `x · weightᵀ` before any rounding of its result (an engine's kernel gives f32).
    pub(super) fn product(&self, name: &str, x: &Grid, rows: usize) -> Result<Vec<f64>> {
        let id = self.shards.checkpoint.find(name).ok_or_else(|| absent(name))?;
        let matrix = Matrix::open(self.shards, id).ok_or_else(|| {
            Error::unsupported("layer-weight", "a weight of a layer is no matrix that can be decoded")
                .tensor(name)
        })?;
        if (size(matrix.rows), size(matrix.cols)) != (rows, x.cols) {
            return Err(misfit(
                name,
                &format!("{rows}x{}", x.cols),
                &format!("{}x{}", matrix.rows, matrix.cols),
            ));
        }
        let path = if self.engine { path_of(&matrix, self.shards.checkpoint) } else { Path::Float };
        let activations = Activations::new(&x.data, x.rows, x.cols, path)?;
        let granule = matrix.granule();
        let step = (BAND / matrix.cols.max(1) / granule).max(1) * granule;
        let starts: Vec<u64> = (0..matrix.rows).step_by(size(step)).collect();
        let bands: Vec<Vec<f64>> = self.pool.install(|| {
            starts
                .par_iter()
                .map(|start| {
                    let band = *start..(start + step).min(matrix.rows);
                    if self.engine {
                        let out = run_band(&matrix, &band, &activations, false)?;
                        Ok(out.kernel.into_iter().map(f64::from).collect())
                    } else {
                        Ok(exact_band(&activations.exact, &matrix.decoded(&band)?))
                    }
                })
                .collect::<Result<_>>()
        })?;
        let mut out = vec![0.0; x.rows * rows];
        for (start, band) in starts.iter().zip(&bands) {
            let (from, width) = (size(*start), band.len() / x.rows.max(1));
            for (token, values) in band.chunks_exact(width.max(1)).enumerate() {
                out[token * rows + from..][..width].copy_from_slice(values);
            }
        }
        Ok(out)
    }

    /// RMSNorm of groups of `weight.len()` columns.
    pub(super) fn rms_norm(&self, name: &str, x: &Grid, width: usize, eps: f64) -> Result<Grid> {
        let weight = self.vector(name, width)?;
        let mut data = Vec::with_capacity(x.data.len());
        for group in x.data.chunks_exact(width.max(1)) {
            let squares: f64 = group.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            let r = f64::from((1.0 / (squares / width as f64 + eps).sqrt()) as f32);
            for (v, w) in group.iter().zip(&weight) {
                let normed = self.rounding.round(f64::from(*v) * r);
                data.push(self.rounding.round(f64::from(normed) * f64::from(*w)));
            }
        }
        Ok(Grid::new(x.rows, x.cols, data))
    }

    /// LayerNorm over all columns, with bias.
    pub(super) fn layer_norm(&self, module: &str, x: &Grid, eps: f64) -> Result<Grid> {
        let weight = self.vector(&format!("{module}.weight"), x.cols)?;
        let bias = self.vector(&format!("{module}.bias"), x.cols)?;
        let n = x.cols as f64;
        let mut data = Vec::with_capacity(x.data.len());
        for row in x.data.chunks_exact(x.cols.max(1)) {
            let mean = row.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let variance =
                row.iter().map(|v| (f64::from(*v) - mean) * (f64::from(*v) - mean)).sum::<f64>() / n;
            let r = 1.0 / (variance + eps).sqrt();
            for ((v, w), b) in row.iter().zip(&weight).zip(&bias) {
                data.push(self.rounding.round((f64::from(*v) - mean) * r * f64::from(*w) + f64::from(*b)));
            }
        }
        Ok(Grid::new(x.rows, x.cols, data))
    }

    /// silu(gate) · up, rounded once.
    pub(super) fn swiglu(&self, gate: &Grid, up: &Grid) -> Grid {
        let values = gate.data.iter().zip(&up.data).map(|(g, u)| {
            let g = f64::from(*g);
            self.rounding.round(g * math::sigmoid(g) * f64::from(*u))
        });
        Grid::new(gate.rows, gate.cols, values.collect())
    }
}

fn absent(name: &str) -> Error {
    Error::input("layer-absent", "a layer needs a tensor that does not exist")
        .tensor(name)
        .expected("a tensor of this name, as config.json implies")
        .found("none")
        .fix("validate at the structure level")
}

fn misfit(name: &str, expected: &str, found: &str) -> Error {
    Error::input("layer-shape", "a tensor has another shape than config.json implies")
        .tensor(name)
        .expected(expected)
        .found(found)
        .fix("validate at the structure level")
}
