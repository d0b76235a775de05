//! The largest magnitude of a tile.

use super::{Grid, NotFinite, has_bad_scale, with_source};
use crate::dtype::Dtype;
use crate::kernel::decode::{self, Decode, largest};
use crate::kernel::isa::{Body, Isa, dispatch};
use crate::kernel::{Fault, Policy, Values, reference};

/// The largest finite magnitude of a tile, as [`largest_magnitude`](crate::kernel::largest_magnitude) says.
pub(in crate::kernel) fn largest_magnitude(
    isa: Isa,
    values: &Values<'_>,
    rows: usize,
    cols: usize,
    policy: Policy,
) -> Result<f32, Fault> {
    let careful = || {
        let elements = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        let finite = elements.map(|(row, col)| reference::element(values, row, col, cols).value);
        finite.filter(|x| x.is_finite()).fold(0.0, |amax: f32, x| amax.max(x.abs()))
    };
    let found = match has_bad_scale(values, policy) {
        true => Err(NotFinite),
        false => with_source!(values, return Ok(careful()), run::<D>(isa, values, rows, cols)),
    };
    match (found, policy.keep_non_finite) {
        (Ok(amax), _) => Ok(amax),
        (Err(NotFinite), true) => Ok(careful()),
        // Bad scales may have no element under them.
        (Err(NotFinite), false) => {
            reference::first_fault(values, rows, cols).map_or_else(|| Ok(careful()), Err)
        }
    }
}

fn run<D: Decode<N>, const N: usize>(
    isa: Isa,
    values: &Values<'_>,
    rows: usize,
    cols: usize,
) -> Result<f32, NotFinite> {
    let grid = Grid::new(values, cols);
    dispatch(isa, Largest::<D, N> { grid, rows, cols, source: std::marker::PhantomData })
}

struct Largest<'a, D, const N: usize> {
    grid: Grid<'a>,
    rows: usize,
    cols: usize,
    source: std::marker::PhantomData<D>,
}

impl<D: Decode<N>, const N: usize> Body for Largest<'_, D, N> {
    type Out = Result<f32, NotFinite>;

    #[inline(always)]
    fn run(self) -> Self::Out {
        let (elements, _) = self.grid.bytes.as_chunks::<N>();
        let mut amax = 0.0;
        let mut not_finite = false;
        for row in 0..self.rows {
            let line = &elements[row * self.cols..][..self.cols];
            for (block, scale) in line.chunks(self.grid.block_cols).zip(self.grid.row(row)) {
                let magnitude = D::absolute(largest::<D, N>(block)) * scale.abs();
                not_finite |= !magnitude.is_finite();
                amax = if magnitude > amax { magnitude } else { amax };
            }
        }
        if not_finite { Err(NotFinite) } else { Ok(amax) }
    }
}
