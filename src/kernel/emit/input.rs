//! Golden inputs: a random generator that any language can repeat, and the classes of values.
//!
//! The text of README.md in the pack specifies all of this for readers of the files.

use crate::dtype::Dtype;
use crate::dtype::codec::{bf16_from_f32, decode, encode_saturating, f16_from_f32};
use crate::kernel::reference::array::Array;

/// SplitMix64 (Steele, Lea and Flood 2014), as in the reference code of Vigna.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator seeded by the FNV-1a hash of `label`: `<kernel>/<class>/<argument>`.
    pub fn new(label: &str) -> Self {
        let hash = label
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
        Self(hash)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// An integer below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// A number in [0, 1), a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / 16_777_216.0
    }

    /// Standard normal to four moments, at most 6 in magnitude: the sum of twelve 16-bit fields of three draws, less its
    /// mean, over 2^16. Exact in `f32`, so no mathematics library has a say.
    pub fn gaussian(&mut self) -> f32 {
        let mut sum = -393_210i32;
        for _ in 0..3 {
            let bits = self.bits();
            for field in 0..4 {
                sum += ((bits >> (16 * field)) & 0xFFFF) as i32;
            }
        }
        sum as f32 / 65_536.0
    }
}

/// What the values of an input are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Standard normal.
    Gaussian,
    /// Integers from −8 to 8: every order of summation is exact.
    SmallInt,
    /// Every BF16 pattern that is finite, spread evenly over the elements in order of the patterns.
    Bf16Sweep,
    /// `±(1 + u)·2^e`, the exponent going from −110 to 126 over rows and blocks of 128 columns.
    ExponentSweep,
    /// Gaussian; blocks of 128 columns (the first of even rows, the last of odd ones) and the third row are zero.
    ZeroBlock,
    /// Every block has the largest magnitude 448·2^k exactly.
    ExactAmax448,
    /// Every block has the largest magnitude 6·2^k exactly.
    ExactAmax6,
    /// Values between two neighbours of FP4, each a tie, and the neighbours.
    Fp4Midpoints,
    /// +0 and −0 with a few ±1 among them.
    SignedZero,
    /// Gaussian with one element per matrix 10,000 times as large.
    Outlier,
}

/// Ties of FP4 and the values beside them.
const MIDPOINTS: [f32; 16] =
    [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5.0, -6.0];

/// Columns that blocks of the classes have.
const BLOCK: usize = 16;

/// A matrix of values, row-major.
pub fn values(kind: Values, rng: &mut SplitMix64, rows: usize, cols: usize) -> Vec<f32> {
    let n = rows * cols;
    let mut out: Vec<f32> = Vec::with_capacity(n);
    for i in 0..n {
        let (row, col) = (i / cols, i % cols);
        out.push(match kind {
            Values::Gaussian | Values::ZeroBlock | Values::Outlier => rng.gaussian(),
            Values::SmallInt => rng.below(17) as f32 - 8.0,
            Values::Bf16Sweep => finite_bf16((i as u64 * 65_280 / n as u64) as u32),
            Values::ExponentSweep => {
                let per_row = cols.div_ceil(128);
                let (at, last) = (row * per_row + col / 128, (rows * per_row - 1).max(1));
                let exponent = -110 + (at * 236 / last) as i32;
                let x = (1.0 + rng.uniform()) * power_of_two(exponent);
                if rng.below(2) == 0 { x } else { -x }
            }
            Values::ExactAmax448 | Values::ExactAmax6 => {
                let top = if kind == Values::ExactAmax448 { 448.0 } else { 6.0 };
                let exponent = (row * 5 + col / BLOCK * 3) as i32 % 25 - 12;
                let x = match col % BLOCK {
                    0 => top,
                    1 => -top,
                    _ => rng.gaussian().clamp(-4.0, 4.0) / 4.0 * top,
                };
                x * power_of_two(exponent)
            }
            Values::Fp4Midpoints => MIDPOINTS[(i + row * 5) % 16],
            Values::SignedZero => match rng.below(16) {
                0 => 1.0,
                1 => -1.0,
                k if k % 2 == 0 => 0.0,
                _ => -0.0,
            },
        });
    }
    match kind {
        Values::ZeroBlock => {
            for row in 0..rows {
                let first = if row % 2 == 0 { 0 } else { cols.saturating_sub(1) / 128 * 128 };
                let range = if row == 2 { 0..cols } else { first..(first + 128).min(cols) };
                out[row * cols..][..cols][range].fill(0.0);
            }
        }
        Values::Outlier if n > 0 => {
            let at = rng.below(u32::try_from(n).unwrap_or(u32::MAX)) as usize;
            out[at] = (out[at] + 0.5) * 1e4;
        }
        _ => {}
    }
    out
}

/// The `i`-th finite BF16 value by pattern, 0..65280.
fn finite_bf16(i: u32) -> f32 {
    let pattern = if i < 0x7F80 { i } else { i - 0x7F80 + 0x8000 };
    f32::from_bits(pattern << 16)
}

/// 2^e of a normal number.
pub fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127).clamp(1, 254) as u32) << 23)
}

/// Values in a plain format: F32, BF16 or F16, rounded to nearest even.
pub fn plain(dtype: Dtype, shape: impl Into<Vec<usize>>, values: &[f32]) -> Array {
    let bytes = match dtype {
        Dtype::BF16 => values.iter().flat_map(|v| bf16_from_f32(*v).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|v| f16_from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    Array::new(dtype, shape, bytes)
}

/// Codes, one per element, packed two to a byte for 4-bit formats (the last axis of `shape` counts elements).
pub fn pack(dtype: Dtype, shape: impl Into<Vec<usize>>, codes: &[u8]) -> Array {
    let mut shape: Vec<usize> = shape.into();
    if dtype.bits() != 4 {
        return Array::new(dtype, shape, codes.to_vec());
    }
    if let Some(last) = shape.last_mut() {
        *last /= 2;
    }
    let bytes = codes.chunks_exact(2).map(|pair| (pair[0] & 15) | (pair[1] << 4)).collect();
    Array::new(dtype, shape, bytes)
}

/// Codes that hold values under a grid of scales.
#[derive(Clone, Debug)]
pub struct Coded {
    /// The codes, packed where the format is.
    pub codes: Array,
    /// The scales, `[⌈rows / block rows⌉, ⌈cols / block cols⌉]`.
    pub scales: Array,
}

/// How values become codes and scales for an operand. Nothing here is a recipe that anybody uses: it only makes operands.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Format of the codes.
    pub element: Dtype,
    /// Rows and columns of a block; 0 is the whole axis.
    pub block: [usize; 2],
    /// Format of the scales: F32, BF16, F16, F8E8M0 or F8E4M3.
    pub scale: Dtype,
}

impl Operand {
    /// The sides of a block in a matrix.
    pub fn sides(&self, rows: usize, cols: usize) -> [usize; 2] {
        let side = |side: usize, axis: usize| if side == 0 { axis.max(1) } else { side };
        [side(self.block[0], rows), side(self.block[1], cols)]
    }

    /// Quantizes: per block, scale = largest magnitude / top of the format (E8M0: the next power of two; a zero block: 1),
    /// rounded to the scale's format; code = nearest of value / scale, saturating.
    pub fn quantize(&self, values: &[f32], rows: usize, cols: usize) -> Coded {
        let top = match self.element {
            Dtype::F8E4M3 => 448.0,
            Dtype::F8E5M2 => 57_344.0,
            Dtype::F8E4M3Fnuz => 240.0,
            Dtype::F4E2M1 => 6.0,
            Dtype::I8 => 127.0,
            _ => 7.0,
        };
        let [block_rows, block_cols] = self.sides(rows, cols);
        let grid = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
        let mut codes = vec![0u8; rows * cols];
        let mut scales = Vec::with_capacity(grid[0] * grid[1]);
        for first_row in (0..rows).step_by(block_rows) {
            for first_col in (0..cols).step_by(block_cols) {
                let elements = (first_row..(first_row + block_rows).min(rows)).flat_map(|row| {
                    (first_col..(first_col + block_cols).min(cols)).map(move |col| row * cols + col)
                });
                let amax = elements.clone().fold(0.0f32, |m, i| m.max(values[i].abs()));
                let (bits, scale) = self.encode_scale(amax / top);
                for i in elements {
                    codes[i] = self.code(values[i] / scale);
                }
                scales.push(bits);
            }
        }
        Coded { codes: pack(self.element, [rows, cols], &codes), scales: self.scale_array(grid, &scales) }
    }

    /// Codes of values as they are, all scales 1.
    pub fn unit(&self, values: &[f32], rows: usize, cols: usize) -> Coded {
        let codes: Vec<u8> = values.iter().map(|v| self.code(*v)).collect();
        self.with_codes(&codes, rows, cols, |_| 1.0)
    }

    /// Given codes, and scales by their number.
    pub fn with_codes(
        &self,
        codes: &[u8],
        rows: usize,
        cols: usize,
        scale: impl FnMut(usize) -> f32,
    ) -> Coded {
        let [block_rows, block_cols] = self.sides(rows, cols);
        let grid = [rows.div_ceil(block_rows), cols.div_ceil(block_cols)];
        let scales: Vec<u32> = (0..grid[0] * grid[1]).map(scale).map(|s| self.encode_scale(s).0).collect();
        Coded { codes: pack(self.element, [rows, cols], codes), scales: self.scale_array(grid, &scales) }
    }

    fn code(&self, x: f32) -> u8 {
        // A NaN never gets here: values are finite and scales positive.
        encode_saturating(self.element, x) as u8
    }

    /// The code of a scale, and its value.
    fn encode_scale(&self, scale: f32) -> (u32, f32) {
        let scale = if scale == 0.0 { 1.0 } else { scale };
        let bits = match self.scale {
            Dtype::F8E8M0 => u32::from(crate::dtype::codec::e8m0_up(scale)),
            // The scale of a block that rounds to zero would make its codes infinite.
            Dtype::F8E4M3 => encode_saturating(Dtype::F8E4M3, scale).max(1),
            Dtype::F16 => encode_saturating(Dtype::F16, scale).max(1),
            dtype => encode_saturating(dtype, scale).max(1),
        };
        (bits, decode(self.scale, bits))
    }

    fn scale_array(&self, grid: [usize; 2], bits: &[u32]) -> Array {
        let size = usize::try_from(self.scale.bits() / 8).unwrap_or(1);
        let bytes = bits.iter().flat_map(|b| b.to_le_bytes()[..size].to_vec()).collect();
        Array::new(self.scale, grid, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // From the reference implementation with seed 1234567.
        let mut rng = SplitMix64(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423u64];
        assert_eq!([rng.bits(), rng.bits(), rng.bits()], expected);
        // FNV-1a 64 of "a", from its authors' test vectors.
        assert_eq!(SplitMix64::new("a").0, 0xAF63_DC4C_8601_EC8C);
    }

    #[test]
    fn the_gaussian_has_its_moments() {
        let mut rng = SplitMix64::new("moments");
        let x: Vec<f64> = (0..200_000).map(|_| f64::from(rng.gaussian())).collect();
        let moment = |p: i32| x.iter().map(|v| v.powi(p)).sum::<f64>() / x.len() as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02 && moment(3).abs() < 0.03);
        // Twelve uniforms have an excess kurtosis of −0.1.
        assert!((moment(4) - 2.9).abs() < 0.08, "{}", moment(4));
    }

    #[test]
    fn classes_are_what_they_say() {
        let mut rng = SplitMix64::new("classes");
        let sweep = values(Values::Bf16Sweep, &mut rng, 510, 128);
        let mut patterns: Vec<u32> = sweep.iter().map(|v| v.to_bits() >> 16).collect();
        patterns.dedup();
        assert_eq!(patterns.len(), 65_280);
        assert!(sweep.iter().all(|v| v.is_finite()));
        let exponents = values(Values::ExponentSweep, &mut rng, 8, 288);
        let magnitudes = exponents.iter().map(|v| v.abs());
        assert!(magnitudes.clone().fold(f32::MAX, f32::min) < power_of_two(-109));
        let largest = magnitudes.fold(0.0, f32::max);
        assert!(largest >= power_of_two(126) && largest.is_finite());
        let zeros = values(Values::ZeroBlock, &mut rng, 3, 288);
        assert!(zeros[..128].iter().chain(&zeros[2 * 288..]).all(|v| *v == 0.0) && zeros[128] != 0.0);
        let amax = values(Values::ExactAmax448, &mut rng, 4, 64);
        for block in amax.chunks(16) {
            let top = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert_eq!((top / 448.0).to_bits() & 0x7F_FFFF, 0, "{top} is 448·2^k");
        }
    }

    #[test]
    fn operands_hold_their_values() {
        let mut rng = SplitMix64::new("operands");
        let x = values(Values::Gaussian, &mut rng, 3, 40);
        let operand = Operand { element: Dtype::F8E4M3, block: [1, 32], scale: Dtype::F8E8M0 };
        let coded = operand.quantize(&x, 3, 40);
        assert_eq!(
            (coded.codes.shape.as_slice(), coded.scales.shape.as_slice()),
            (&[3, 40][..], &[3, 2][..])
        );
        for (i, v) in x.iter().enumerate() {
            let scale = decode(Dtype::F8E8M0, coded.scales.bytes[i / 40 * 2 + i % 40 / 32].into());
            let back = decode(Dtype::F8E4M3, coded.codes.bytes[i].into()) * scale;
            assert!((back - v).abs() <= v.abs() / 16.0 + scale / 512.0, "{v} became {back}");
        }
        let packed = Operand { element: Dtype::F4E2M1, block: [1, 16], scale: Dtype::F32 };
        let unit = packed.unit(&[0.5, -6.0, 1.5, 0.0], 1, 4);
        assert_eq!((unit.codes.bytes, unit.codes.shape), (vec![0xF1, 0x03], vec![1, 2]));
    }
}
