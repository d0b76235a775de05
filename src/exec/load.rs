//! Reads a rectangle of a value and makes it fit for kernels: packed codes one to a byte, scales as F32.

use super::evaluate::{Evaluator, too_small};
use crate::checkpoint::TensorInfo;
use crate::dtype::Dtype;
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Scheme};
use crate::error::{Error, Result};
use crate::kernel::{self, Sink, Values, pack};
use crate::plan::expr::{Global, Stored};
use crate::plan::value::{Source, Value};

/// A rectangle of a value.
pub(super) struct Loaded<'b> {
    /// Rows and columns.
    pub(super) shape: [usize; 2],
    /// Bytes read.
    pub(super) read: u64,
    kind: Kind<'b>,
}

enum Kind<'b> {
    /// Plain floats as stored.
    Plain { dtype: Dtype, bytes: &'b [u8] },
    /// Codes, one to a byte.
    Scaled { element: Dtype, codes: &'b [u8], scales: Vec<f32>, zeros: Vec<i8>, block: [usize; 2] },
}

impl Loaded<'_> {
    /// As kernels take it.
    pub(super) fn values(&self) -> Values<'_> {
        match &self.kind {
            Kind::Plain { dtype: Dtype::BF16, bytes } => Values::Bf16(bytes),
            Kind::Plain { dtype: Dtype::F16, bytes } => Values::F16(bytes),
            Kind::Plain { bytes, .. } => Values::F32(bytes),
            Kind::Scaled { element, codes, scales, block, .. } => Values::Scaled {
                element: *element,
                codes,
                scales,
                block_rows: block[0],
                block_cols: block[1],
            },
        }
    }

    /// The codes, one to a byte.
    pub(super) fn codes(&self) -> &[u8] {
        match &self.kind {
            Kind::Plain { .. } => &[],
            Kind::Scaled { codes, .. } => codes,
        }
    }

    /// The scales.
    pub(super) fn scales(&self) -> &[f32] {
        match &self.kind {
            Kind::Plain { .. } => &[],
            Kind::Scaled { scales, .. } => scales,
        }
    }

    /// The zero points, where there are any.
    pub(super) fn zeros(&self) -> &[i8] {
        match &self.kind {
            Kind::Plain { .. } => &[],
            Kind::Scaled { zeros, .. } => zeros,
        }
    }
}

/// A rectangle of a stored matrix: rows `row + i·step` for `i < rows`, columns `col..col + cols`.
#[derive(Clone, Copy)]
struct Rectangle {
    row: u64,
    step: u64,
    rows: u64,
    col: u64,
    cols: u64,
}

impl Rectangle {
    fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols].map(|n| usize::try_from(n).unwrap_or(usize::MAX))
    }
}

/// Raw bytes, scales and zero points, unpacked codes, values: the buffers of a tile.
pub(super) type Room<'b> = [&'b mut [u8]; 4];

impl Evaluator<'_> {
    /// Rows `rows[0]..rows[1]` and columns `cols[0]..cols[1]` of a value.
    pub(super) fn load<'b>(
        &self,
        value: &Value,
        rows: [u64; 2],
        cols: [u64; 2],
        room: Room<'b>,
    ) -> Result<Loaded<'b>> {
        let rectangle = rectangle(value, rows, cols);
        let [raw, side, unpacked, materialized] = room;
        let mut loaded = match &value.source {
            Source::Plain(id) => {
                let input = &self.plan.inputs[*id as usize];
                let bytes = self.read_plain(input, value.stored[1], rectangle, raw)?;
                let read = bytes.len() as u64;
                let kind = Kind::Plain { dtype: input.dtype, bytes };
                Loaded { shape: rectangle.shape(), read, kind }
            }
            Source::Scaled(stored) => {
                if value.is_materialized() && !value.view.transpose {
                    return self.decode_one_by_one(
                        value,
                        stored,
                        rectangle,
                        [raw, side, unpacked, materialized],
                    );
                }
                let mut loaded = self.stored(value, stored, rectangle, raw, side, unpacked, true)?;
                if let Kind::Scaled { element, .. } = &mut loaded.kind
                    && *element == Dtype::I4
                {
                    // Sign-extended codes are bytes.
                    *element = Dtype::I8;
                }
                loaded
            }
        };
        if !value.view.transpose {
            return Ok(loaded);
        }
        // Decoded as it is stored, then turned.
        let [r, c] = loaded.shape;
        let (straight, turned) = materialized.split_at_mut_checked(r * c * 4).ok_or_else(too_small)?;
        let turned = turned.get_mut(..r * c * 4).ok_or_else(too_small)?;
        let sink = Sink::Cast { to: Dtype::F32, out: &mut *straight };
        let corner = [rows[0], cols[0]];
        kernel::convert(self.isa, &loaded.values(), r, c, sink, self.policy)
            .map_err(|fault| self.value_fault(value, corner, &fault))?;
        pack::transpose::<4>(straight, r, c, turned);
        loaded = Loaded {
            shape: [c, r],
            read: loaded.read,
            kind: Kind::Plain { dtype: Dtype::F32, bytes: turned },
        };
        Ok(loaded)
    }

    /// The codes of a value as they are, with scales and zero points: what is laid out anew without being decoded.
    pub(super) fn load_codes<'b>(
        &self,
        value: &Value,
        rows: [u64; 2],
        cols: [u64; 2],
        [raw, side, unpacked, _]: Room<'b>,
    ) -> Result<Loaded<'b>> {
        let Source::Scaled(stored) = &value.source else {
            return Err(Error::internal("repack-plain", "plain floats have no codes"));
        };
        self.stored(value, stored, rectangle(value, rows, cols), raw, side, unpacked, false)
    }

    /// The largest finite magnitude of a value, read in bands.
    pub(super) fn largest(&self, value: &Value) -> Result<f32> {
        const BAND: u64 = 64 << 10;
        let [rows, cols] = value.shape();
        let granule = value.granules()[0];
        let step = (BAND / cols.max(1) / granule).max(1) * granule;
        let mut amax = 0f32;
        let mut start = 0;
        let size = usize::try_from(step * cols * 8).unwrap_or(usize::MAX);
        let mut room = [0, 1, 2, 3].map(|_| vec![0u8; size]);
        let mut out = vec![0u8; usize::try_from(step * cols * 4).unwrap_or(usize::MAX)];
        while start < rows {
            let end = (start + step).min(rows);
            let [raw, side, unpacked, values] = &mut room;
            let loaded = self.load(value, [start, end], [0, cols], [raw, side, unpacked, values])?;
            let [r, c] = loaded.shape;
            let out = &mut out[..r * c * 4];
            let sink = Sink::Cast { to: Dtype::F32, out };
            let policy = kernel::Policy { keep_non_finite: true };
            // What is wrong with a value is said where the value is converted.
            if kernel::convert(self.isa, &loaded.values(), r, c, sink, policy).is_ok() {
                for bytes in out.as_chunks::<4>().0 {
                    let x = f32::from_le_bytes(*bytes).abs();
                    amax = if x.is_finite() && x > amax { x } else { amax };
                }
            }
            start = end;
        }
        Ok(amax)
    }

    fn read_plain<'b>(
        &self,
        input: &TensorInfo,
        stored_cols: u64,
        rectangle: Rectangle,
        raw: &'b mut [u8],
    ) -> Result<&'b [u8]> {
        let width = input.dtype.bits() / 8;
        if !input.dtype.is_plain_float() {
            return Err(Error::internal("value-format", format!("no kernel reads {} values", input.dtype))
                .tensor(&input.name));
        }
        let lines = Lines {
            row: rectangle.row,
            step: rectangle.step,
            rows: rectangle.rows,
            stride: stored_cols * width,
            skip: rectangle.col * width,
            len: rectangle.cols * width,
        };
        let bytes = self.read_lines(input, lines, raw)?;
        Ok(bytes)
    }

    /// Codes of a rectangle, one to a byte, with what decodes them. With `decode`, FP4 codes become the E4M3 codes of
    /// the same values, and zero points are taken off.
    #[expect(clippy::too_many_arguments, reason = "the buffers are borrowed one by one")]
    fn stored<'b>(
        &self,
        value: &Value,
        stored: &Stored,
        rectangle: Rectangle,
        raw: &'b mut [u8],
        side: &mut [u8],
        unpacked: &'b mut [u8],
        decode: bool,
    ) -> Result<Loaded<'b>> {
        let scheme = stored.scheme;
        let shape @ [r, c] = rectangle.shape();
        let input = &self.plan.inputs[stored.codes as usize];
        let lines = code_lines(scheme, value.stored, rectangle)?;
        let raw = self.read_lines(input, lines, raw)?;
        let mut read = raw.len() as u64;
        let (scales, block, bytes) = self.scales(value, stored, rectangle, side)?;
        read += bytes;
        let (mut zeros, bytes) = self.zeros(value, stored, rectangle, side)?;
        read += bytes;
        if scheme.packing == Packing::Plain && scheme.element.bits() == 8 {
            let kind = Kind::Scaled { element: scheme.element, codes: raw, scales, zeros, block };
            return Ok(Loaded { shape, read, kind });
        }
        let unpacked = unpacked.get_mut(..r * c).ok_or_else(too_small)?;
        pack::unpack(scheme.packing, scheme.element, raw, r, c, unpacked);
        let mut element = scheme.element;
        if decode && element == Dtype::F4E2M1 {
            let codes = unpacked.to_vec();
            pack::fp4_to_e4m3(&codes, unpacked);
            element = Dtype::F8E4M3;
        }
        if decode && !zeros.is_empty() {
            pack::subtract_zeros(unpacked, r, c, &zeros, block[1]);
            zeros.clear();
        }
        Ok(Loaded { shape, read, kind: Kind::Scaled { element, codes: unpacked, scales, zeros, block } })
    }

    /// The scales of a rectangle as F32, the shape of their blocks, and the bytes read.
    fn scales(
        &self,
        value: &Value,
        stored: &Stored,
        rectangle: Rectangle,
        side: &mut [u8],
    ) -> Result<(Vec<f32>, [usize; 2], u64)> {
        let scheme = stored.scheme;
        let input = &self.plan.inputs[stored.scale as usize];
        let shape @ [r, _] = rectangle.shape();
        let mut block = scheme.granularity.unit(shape[0], shape[1]);
        let grid = scheme.granularity.grid(value.stored[0], value.stored[1]);
        let area = grid_area(scheme.granularity, value.stored, rectangle, grid);
        let raw = self.read_grid(input, scheme, grid, area, side)?;
        // The scale of a tensor is read by every tile; it is counted once.
        let repeated = scheme.granularity == Granularity::Tensor && rectangle.row > 0;
        let read = if repeated { 0 } else { raw.len() as u64 };
        let mut scales = Vec::new();
        kernel::decode_scales(input.dtype, &raw, &mut scales);
        if scheme.packing == Packing::SlimQuant {
            scales.iter_mut().for_each(|s| *s *= 16.0);
        }
        match stored.global {
            None => {}
            Some(global) => {
                let factor = self.scalar(global)?;
                for scale in &mut scales {
                    *scale = match global {
                        Global::Multiplier(_) => *scale * factor,
                        Global::Divisor(_) => *scale / factor,
                    };
                }
            }
        }
        // A rectangle that begins inside a block of rows has a scale row of its own for each of its rows.
        if let Granularity::Block { rows, .. } = scheme.granularity
            && !rectangle.row.is_multiple_of(rows.into())
        {
            let cols = area.cols as usize;
            let first = rectangle.row / u64::from(rows);
            scales = (0..r as u64)
                .flat_map(|i| {
                    let at = ((rectangle.row + i) / u64::from(rows) - first) as usize * cols;
                    scales[at..at + cols].to_vec()
                })
                .collect();
            block[0] = 1;
        }
        Ok((scales, block, read))
    }

    /// The zero points of a rectangle, and the bytes read.
    fn zeros(
        &self,
        value: &Value,
        stored: &Stored,
        rectangle: Rectangle,
        side: &mut [u8],
    ) -> Result<(Vec<i8>, u64)> {
        let Some(zero) = stored.zero else { return Ok((Vec::new(), 0)) };
        let scheme = stored.scheme;
        let input = &self.plan.inputs[zero as usize];
        let grid = scheme.granularity.grid(value.stored[0], value.stored[1]);
        let area = grid_area(scheme.granularity, value.stored, rectangle, grid);
        let fields = 32 / scheme.element.bits();
        let lines = match scheme.packing {
            // Words hold zero points of rows that follow one another.
            Packing::Gptq | Packing::GptqV2 | Packing::Awq => Lines {
                row: area.col,
                step: 1,
                rows: area.cols,
                stride: grid[0].div_ceil(fields) * 4,
                skip: area.row / fields * 4,
                len: area.rows.div_ceil(fields) * 4,
            },
            Packing::Int32 => Lines {
                row: area.row / fields,
                step: 1,
                rows: area.rows.div_ceil(fields),
                stride: grid[1] * 4,
                skip: area.col * 4,
                len: area.cols * 4,
            },
            _ => Lines {
                row: area.row,
                step: area.step,
                rows: area.rows,
                stride: grid[1],
                skip: area.col,
                len: area.cols,
            },
        };
        let raw = self.read_lines(input, lines, side)?;
        let [rows, groups] = area.shape();
        let mut zeros = vec![0i8; rows * groups];
        pack::unpack_zeros(scheme.packing, scheme.element, raw, rows, groups, &mut zeros);
        Ok((zeros, raw.len() as u64))
    }

    /// A part of a scale grid, row by row of the grid, whichever way it is stored.
    fn read_grid(
        &self,
        input: &TensorInfo,
        scheme: Scheme,
        grid: [u64; 2],
        area: Rectangle,
        side: &mut [u8],
    ) -> Result<Vec<u8>> {
        let width = input.dtype.bits() / 8;
        let turned = scheme.packing.is_transposed()
            && !matches!(scheme.granularity, Granularity::Tensor | Granularity::Row);
        let lines = match turned {
            false => Lines {
                row: area.row,
                step: area.step,
                rows: area.rows,
                stride: grid[1] * width,
                skip: area.col * width,
                len: area.cols * width,
            },
            true => Lines {
                row: area.col,
                step: 1,
                rows: area.cols,
                stride: grid[0] * width,
                skip: area.row * width,
                len: area.rows * width,
            },
        };
        let raw = self.read_lines(input, lines, side)?;
        if !turned {
            return Ok(raw.to_vec());
        }
        let [rows, cols] = area.shape();
        let mut out = vec![0; raw.len()];
        match width {
            1 => pack::transpose::<1>(raw, cols, rows, &mut out),
            2 => pack::transpose::<2>(raw, cols, rows, &mut out),
            _ => pack::transpose::<4>(raw, cols, rows, &mut out),
        }
        Ok(out)
    }

    fn scalar(&self, global: Global) -> Result<f32> {
        let input = &self.plan.inputs[global.tensor() as usize];
        let mut bytes = [0; 4];
        self.sources.read(input.file, input.offset, &mut bytes)?;
        let value = f32::from_le_bytes(bytes);
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
        Err(self
            .fault(
                global.tensor(),
                "scale-invalid",
                "the global scale of a tensor is not what a scale can be",
            )
            .expected("a finite, positive number")
            .found(value)
            .fix("check the download against its published digests"))
    }

    /// Values whose codes and zero points do not fit kernels: `f32(q − z) · s` one by one, groups in the order that the
    /// checkpoint gives.
    fn decode_one_by_one<'b>(
        &self,
        value: &Value,
        stored: &Stored,
        rectangle: Rectangle,
        [raw, side, unpacked, materialized]: Room<'b>,
    ) -> Result<Loaded<'b>> {
        let [r, c] = rectangle.shape();
        // With groups in another order, the scales of every group are needed.
        let wide = match stored.order {
            Some(_) => Rectangle { col: 0, cols: value.stored[1], ..rectangle },
            None => rectangle,
        };
        let (scales, block, bytes) = self.scales(value, stored, wide, side)?;
        let (zeros, more) = self.zeros(value, stored, wide, side)?;
        let plain = Stored { zero: None, order: None, ..*stored };
        let lines = code_lines(stored.scheme, value.stored, rectangle)?;
        let input = &self.plan.inputs[stored.codes as usize];
        let raw = self.read_lines(input, lines, raw)?;
        let unpacked = unpacked.get_mut(..r * c).ok_or_else(too_small)?;
        pack::unpack(plain.scheme.packing, plain.scheme.element, raw, r, c, unpacked);
        let mut read = raw.len() as u64 + bytes + more;
        let order = match stored.order {
            None => None,
            Some(id) => {
                let input = &self.plan.inputs[id as usize];
                let mut bytes = vec![0; usize::try_from(input.bytes).unwrap_or(usize::MAX)];
                self.sources.read(input.file, input.offset, &mut bytes)?;
                read += input.bytes;
                let groups = stored.scheme.granularity.grid(1, value.stored[1])[1];
                let order: Vec<i32> =
                    bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
                if let Some(at) = order.iter().position(|g| !(0..groups as i64).contains(&i64::from(*g))) {
                    return Err(self
                        .fault(id, "group-index", "a column belongs to a group that does not exist")
                        .expected(format!("0 to {}", groups.saturating_sub(1)))
                        .found(format!("{} for column {at}", order[at]))
                        .fix("check the download against its published digests"));
                }
                Some(order)
            }
        };
        let grid_cols = scales.len() / r.div_ceil(block[0]).max(1);
        let out = materialized.get_mut(..r * c * 4).ok_or_else(too_small)?;
        for (row, (codes, out)) in
            unpacked.chunks_exact(c.max(1)).zip(out.chunks_exact_mut((c * 4).max(1))).enumerate()
        {
            let grid = row / block[0] * grid_cols;
            for (col, (code, out)) in codes.iter().zip(out.as_chunks_mut::<4>().0).enumerate() {
                let group = match &order {
                    Some(order) => order[rectangle.col as usize + col] as usize,
                    None => col / block[1],
                };
                let zero = zeros.get(grid + group).copied().unwrap_or(0);
                let q = i32::from(*code as i8) - i32::from(zero);
                *out = (q as f32 * scales[grid + group]).to_le_bytes();
            }
        }
        Ok(Loaded { shape: [r, c], read, kind: Kind::Plain { dtype: Dtype::F32, bytes: out } })
    }

    /// Reads lines of a tensor, one after the other.
    fn read_lines<'b>(&self, input: &TensorInfo, lines: Lines, out: &'b mut [u8]) -> Result<&'b mut [u8]> {
        let total = usize::try_from(lines.rows * lines.len).unwrap_or(usize::MAX);
        let out = out.get_mut(..total).ok_or_else(too_small)?;
        if lines.step == 1 && lines.len == lines.stride {
            self.sources.read(input.file, input.offset + lines.row * lines.stride + lines.skip, out)?;
            return Ok(out);
        }
        for (i, line) in (0..lines.rows).zip(out.chunks_exact_mut((lines.len as usize).max(1))) {
            let at = (lines.row + i * lines.step) * lines.stride + lines.skip;
            self.sources.read(input.file, input.offset + at, line)?;
        }
        Ok(out)
    }
}

/// Lines of a stored tensor: `len` bytes from byte `skip` of rows `row + i·step`, each of `stride` bytes.
#[derive(Clone, Copy)]
struct Lines {
    row: u64,
    step: u64,
    rows: u64,
    stride: u64,
    skip: u64,
    len: u64,
}

/// The stored rectangle that shows rows and columns of a value.
fn rectangle(value: &Value, rows: [u64; 2], cols: [u64; 2]) -> Rectangle {
    let v = value.view;
    let ([r0, r1], [c0, c1]) = if v.transpose { (cols, rows) } else { (rows, cols) };
    Rectangle { row: v.row + r0 * v.step, step: v.step, rows: r1 - r0, col: v.col + c0, cols: c1 - c0 }
}

/// Where the codes of a rectangle stand.
fn code_lines(scheme: Scheme, [rows, cols]: [u64; 2], rectangle: Rectangle) -> Result<Lines> {
    let bits = scheme.element.bits();
    let packing = scheme.packing;
    let (r, c) = (packing.rows(), packing.cols(bits));
    let aligned = rectangle.col.is_multiple_of(c)
        && (rectangle.cols.is_multiple_of(c) || rectangle.col + rectangle.cols == cols)
        && (r == 1 || rectangle.step == 1 && rectangle.row.is_multiple_of(r));
    if !aligned {
        return Err(Error::internal("tile-packed", "a tile cuts through packed codes"));
    }
    let bytes = |n: u64| (n * bits).div_ceil(8);
    let words = |n: u64| (n * bits).div_ceil(32) * 4;
    let Rectangle { row, step, rows: count, col, cols: wide } = rectangle;
    Ok(match packing {
        Packing::Plain | Packing::Pairs | Packing::PairsI8 | Packing::SlimQuant | Packing::Blocks => {
            Lines { row, step, rows: count, stride: bytes(cols), skip: bytes(col), len: bytes(wide) }
        }
        Packing::Bytes => Lines { row, step, rows: count, stride: cols, skip: col, len: wide },
        Packing::RowPairs => {
            Lines { row: row / 2, step, rows: count.div_ceil(2), stride: cols, skip: col, len: wide }
        }
        Packing::Int32 => {
            Lines { row, step, rows: count, stride: words(cols), skip: words(col), len: words(wide) }
        }
        Packing::Gptq | Packing::GptqV2 => Lines {
            row: words(col) / 4,
            step: 1,
            rows: words(wide) / 4,
            stride: rows * 4,
            skip: row * 4,
            len: count * 4,
        },
        Packing::Awq => Lines {
            row: col,
            step: 1,
            rows: wide,
            stride: rows / 8 * 4,
            skip: row / 8 * 4,
            len: count.div_ceil(8) * 4,
        },
    })
}

/// The part of a scale grid that covers a rectangle.
fn grid_area(
    granularity: Granularity,
    [_, cols]: [u64; 2],
    rectangle: Rectangle,
    grid: [u64; 2],
) -> Rectangle {
    let Rectangle { row, step, rows, col, cols: wide } = rectangle;
    match granularity {
        Granularity::Tensor => Rectangle { row: 0, step: 1, rows: 1, col: 0, cols: 1 },
        Granularity::Channel | Granularity::Row => Rectangle { row, step, rows, col: 0, cols: 1 },
        Granularity::Block { rows: 1, cols: block } => {
            let block = u64::from(block);
            let last = (col + wide).min(cols).div_ceil(block);
            Rectangle { row, step, rows, col: col / block, cols: last - col / block }
        }
        Granularity::Block { rows: block_rows, cols: block } => {
            let (block_rows, block) = (u64::from(block_rows), u64::from(block));
            let (first, last) = (row / block_rows, (row + rows).div_ceil(block_rows).min(grid[0]));
            let end = (col + wide).min(cols).div_ceil(block);
            Rectangle { row: first, step: 1, rows: last - first, col: col / block, cols: end - col / block }
        }
    }
}
