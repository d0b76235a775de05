//! What a quantizer made, as it is stored.

use crate::dtype::Dtype;
use crate::dtype::codec;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Scheme};
use crate::error::{Error, Result};
use crate::kernel::pack;
use crate::plan::cost::Written;
use crate::plan::expr::{Constant, Part};

/// Copies the bytes that an output takes of each stored row.
pub(super) fn take_columns(rows: &[u8], written: &Written, out: &mut [u8]) {
    let (start, len) = (written.cut.0 as usize, written.cut.1 as usize);
    let row = (written.row_bytes as usize).max(1);
    for (out, row) in out.chunks_exact_mut(len.max(1)).zip(rows.chunks_exact(row)) {
        out.copy_from_slice(&row[start..start + len]);
    }
}

/// Fills `out` with bytes `at..` of a constant tensor.
pub(super) fn fill(constant: Constant, at: u64, dtype: Dtype, out: &mut [u8]) {
    let width = (dtype.bits() / 8).max(1);
    let element = |index: u64| -> [u8; 8] {
        match constant {
            Constant::Zeros => [0; 8],
            Constant::Ones => match dtype {
                Dtype::BF16 => pad(&codec::bf16_from_f32(1.0).to_le_bytes()),
                Dtype::F16 => pad(&codec::f16_from_f32(1.0).to_le_bytes()),
                Dtype::F32 => pad(&1f32.to_le_bytes()),
                _ => pad(&1u64.to_le_bytes()),
            },
            Constant::Words(word) => pad(&word.to_le_bytes()),
            Constant::Shape(shape) => shape.get(index as usize).copied().unwrap_or(0).to_le_bytes(),
            Constant::Groups(group) => (index / u64::from(group.max(1))).to_le_bytes(),
        }
    };
    if constant == Constant::Zeros {
        out.fill(0);
        return;
    }
    // Tiles begin on whole elements: their granule is a cache line.
    for (i, out) in (at / width..).zip(out.chunks_mut(width as usize)) {
        out.copy_from_slice(&element(i)[..out.len()]);
    }
}

fn pad(bytes: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

/// Scales, zero points and the global that belong to the codes `[rows, cols]` of a tile.
pub(super) struct Made {
    scheme: Scheme,
    shape: [usize; 2],
    grid: [usize; 2],
    global: f32,
    /// The scales, `grid`.
    pub(super) scales: Vec<f32>,
    /// The zero points, `grid`, where the rule has them.
    pub(super) zeros: Vec<i8>,
}

impl Made {
    /// Room for what the scheme makes of a tile of `shape` with scales `grid`.
    pub(super) fn new(scheme: Scheme, shape: [usize; 2], grid: [usize; 2], global: f32) -> Made {
        let count = grid[0] * grid[1];
        let zeros = if scheme.rule.is_asymmetric() { vec![0; count] } else { Vec::new() };
        Made { scheme, shape, grid, global, scales: vec![0.0; count], zeros }
    }

    /// A companion of `codes` as it is stored.
    pub(super) fn part(&self, part: Part, codes: &[u8]) -> Result<Vec<u8>> {
        let Made { scheme, shape: [rows, cols], grid: [grid_rows, grid_cols], .. } = *self;
        match part {
            Part::Codes => Err(Error::internal("tile-part", "codes are no companion")),
            Part::Scales => self.stored_scales(),
            Part::Global => Ok(self.global.to_le_bytes().to_vec()),
            Part::Zeros => {
                if self.zeros.len() != grid_rows * grid_cols {
                    return Err(Error::internal("tile-zeros", "a tile has no zero points"));
                }
                let (dtype, shape) = scheme.stored_zeros(rows as u64, cols as u64);
                let bytes = shape.iter().product::<u64>() * dtype.bits() / 8;
                let mut out = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
                pack::pack_zeros(scheme.packing, scheme.element, &self.zeros, grid_rows, grid_cols, &mut out);
                Ok(out)
            }
            Part::Bias(pieces) => {
                let pieces = pieces as usize;
                let mut out = vec![0f32; rows * pieces];
                pack::scale_bias(codes, &self.scales, rows, cols, pieces, &mut out);
                Ok(bytemuck::cast_slice(&out).to_vec())
            }
        }
    }

    fn stored_scales(&self) -> Result<Vec<u8>> {
        let Made { scheme, grid: [grid_rows, grid_cols], .. } = *self;
        let mut out: Vec<u8> = Vec::with_capacity(self.scales.len() * 4);
        for scale in &self.scales {
            match scheme.scale {
                // SlimQuant's kernels keep a code in the upper half of a byte, 16 times its value.
                Dtype::F32 if scheme.packing == Packing::SlimQuant => {
                    out.extend((scale / 16.0).to_le_bytes());
                }
                Dtype::F32 => out.extend(scale.to_le_bytes()),
                Dtype::BF16 => out.extend(codec::bf16_from_f32(*scale).to_le_bytes()),
                Dtype::F16 => out.extend(codec::f16_from_f32(*scale).to_le_bytes()),
                // Powers of two; 2^-127 is the subnormal with exponent field 0.
                Dtype::U8 | Dtype::F8E8M0 => out.push((scale.to_bits() >> 23) as u8),
                Dtype::F8E4M3 => out.push(codec::e4m3_from_f32_clamped(*scale)),
                other => {
                    return Err(Error::internal("scale-format", format!("no kernel stores {other} scales")));
                }
            }
        }
        let transposed = scheme.packing.is_transposed()
            && !matches!(scheme.granularity, Granularity::Tensor | Granularity::Row);
        if !transposed {
            return Ok(out);
        }
        let mut turned = vec![0; out.len()];
        match scheme.scale.bits() {
            8 => pack::transpose::<1>(&out, grid_rows, grid_cols, &mut turned),
            16 => pack::transpose::<2>(&out, grid_rows, grid_cols, &mut turned),
            _ => pack::transpose::<4>(&out, grid_rows, grid_cols, &mut turned),
        }
        Ok(turned)
    }
}
