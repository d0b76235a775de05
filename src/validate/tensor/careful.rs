//! The careful pass: rows that look wrong, element by element, to say what exactly is wrong where.
//!
//! Expected codes come from the normative encoder in [`kernel::reference`](crate::kernel::reference), values from the
//! definitions of the formats.

use super::tile::{Expected, Tile};
use crate::dtype::Dtype;
use crate::dtype::codec::{bf16_from_f32, e4m3_from_f32_clamped, f16_from_f32, f32_from_bf16, f32_from_f16};
use crate::dtype::packing::Packing;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::kernel::reference::{self, UnitScale};

/// The first wrong code of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WrongCode {
    /// Position in the tensor, row-major.
    pub(super) index: u64,
    /// The code that should be there.
    pub(super) expected: u32,
    /// The code that is there.
    pub(super) found: u32,
    /// The source's value.
    pub(super) value: f32,
    /// The scale that the codes are judged under.
    pub(super) scale: f32,
}

/// Wrong codes, and what they have in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Codes {
    /// How many.
    pub(super) wrong: u64,
    /// The first one.
    pub(super) first: Option<WrongCode>,
    /// Those that are `x / s` rounded towards zero.
    pub(super) truncated: u64,
    /// Those that are a tie rounded away from zero.
    pub(super) away: u64,
    /// Those that are what the element's neighbour should be.
    pub(super) neighbour: u64,
    /// Those with their four-bit halves exchanged.
    pub(super) nibbles: u64,
    /// Those one step from the expected code.
    pub(super) adjacent: u64,
}

impl Codes {
    pub(super) fn merge(&mut self, other: Codes) {
        self.wrong += other.wrong;
        self.truncated += other.truncated;
        self.away += other.away;
        self.neighbour += other.neighbour;
        self.nibbles += other.nibbles;
        self.adjacent += other.adjacent;
        if let Some(first) = other.first
            && self.first.as_ref().is_none_or(|f| first.index < f.index)
        {
            self.first = Some(first);
        }
    }
}

/// How strictly codes are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strictness {
    /// The code that the rule makes, to the bit.
    Exact,
    /// A nearest code, ties free, up to the rounding of `x / s`.
    Nearest {
        /// Whether the division may have been done in BF16.
        narrow: bool,
    },
}

/// The value of a source element, as quantizers take it; a NaN that a product makes is the quiet one with the code's
/// sign.
pub(super) fn source_value(tile: &Tile<'_>, row: usize, col: usize) -> f32 {
    let side = &tile.source;
    let bits = side.format.bits(side.bytes, row * tile.cols + col);
    let unscaled = side.format.value(bits);
    let value = unscaled * side.scale(row, col);
    let plain = side.format.width() > 1;
    if value.is_nan() && !plain {
        let sign = (bits >> 7 & 1) << 31;
        return f32::from_bits(0x7FC0_0000 | sign);
    }
    value
}

/// The normative rule whose codes are expected, for codes that rules make.
fn rule(expected: Expected) -> Option<Rule> {
    match expected {
        Expected::Int8 { low: -127 } => Some(Rule::Amax127),
        Expected::Int8 { .. } => Some(Rule::Amax127Bf16),
        Expected::Int8Bf16 => Some(Rule::Ct127Bf16),
        Expected::E4m3 => Some(Rule::Amax448),
        Expected::Bf16 | Expected::F16 | Expected::F32 | Expected::Unknown => None,
    }
}

/// The pattern that the value `x` under `scale` should have.
fn expected_code(expected: Expected, x: f32, scale: f32) -> u32 {
    match (rule(expected), expected) {
        (Some(rule), _) => {
            let element = if expected == Expected::E4m3 { Dtype::F8E4M3 } else { Dtype::I8 };
            let granularity = Granularity::Channel;
            let scheme = Scheme { element, granularity, scale: Dtype::F32, rule, packing: Packing::Plain };
            reference::encode(&scheme, x, &UnitScale::of(scale)).0.into()
        }
        (None, Expected::Bf16) => bf16_from_f32(x).into(),
        (None, Expected::F16) => f16_from_f32(x).into(),
        (None, _) => x.to_bits(),
    }
}

/// Judges the codes of one row. `under` are the scales to judge by, those of the artifact or those that its rule gives;
/// `first_index` is the position of the row's first element in the tensor.
pub(super) fn codes_of_row(
    tile: &Tile<'_>,
    row: usize,
    under: &[f32],
    strictness: Strictness,
    first_index: u64,
) -> Codes {
    let mut codes = Codes::default();
    if tile.expected == Expected::Unknown {
        return codes;
    }
    let side = &tile.artifact;
    let scale_of = |col: usize| under.get(side.unit(row, col)).copied().unwrap_or(1.0);
    let expected_at = |col: usize| expected_code(tile.expected, source_value(tile, row, col), scale_of(col));
    for col in 0..tile.cols {
        let found = side.format.bits(side.bytes, row * tile.cols + col);
        let (value, scale) = (source_value(tile, row, col), scale_of(col));
        let expected = expected_code(tile.expected, value, scale);
        let fine = match strictness {
            Strictness::Exact => found == expected,
            Strictness::Nearest { narrow } => {
                found == expected || is_nearest(tile, value, scale, [expected, found], narrow)
            }
        };
        if fine {
            continue;
        }
        codes.wrong += 1;
        if codes.first.is_none() {
            let index = first_index + col as u64;
            codes.first = Some(WrongCode { index, expected, found, value, scale });
        }
        let neighbour = col ^ 1;
        codes.neighbour += u64::from(neighbour < tile.cols && expected_at(neighbour) == found);
        let byte = side.format.width() == 1;
        codes.nibbles += u64::from(byte && found == u32::from((expected as u8).rotate_left(4)));
        let [low, high] = [expected.min(found), expected.max(found)];
        codes.adjacent += u64::from(high - low == 1 || byte && high - low == 0xFF);
        if let Some([truncated, away]) = other_roundings(tile.expected, value, scale) {
            codes.truncated += u64::from(found == truncated);
            codes.away += u64::from(found == away && away != expected);
        }
    }
    codes
}

/// Codes of `x / s` rounded towards zero, and to nearest with ties away from zero.
fn other_roundings(expected: Expected, x: f32, scale: f32) -> Option<[u32; 2]> {
    let t = x / scale;
    match expected {
        Expected::Int8 { .. } | Expected::Int8Bf16 => {
            let t = if expected == Expected::Int8Bf16 { f32_from_bf16(bf16_from_f32(t)) } else { t };
            let code = |t: f32| u32::from(t.clamp(-128.0, 127.0) as i8 as u8);
            Some([code(t.trunc()), code(t.round())])
        }
        Expected::E4m3 => {
            let t = t.clamp(-448.0, 448.0);
            let nearest = e4m3_from_f32_clamped(t);
            let value = |code: u8| crate::dtype::codec::f32_from_e4m3(code).abs();
            let below = if value(nearest) > t.abs() { nearest.wrapping_sub(1) } else { nearest };
            let above = below.wrapping_add(1);
            let tie = value(above) - t.abs() == t.abs() - value(below) && value(above) > t.abs();
            Some([below.into(), if tie { above.into() } else { nearest.into() }])
        }
        Expected::Bf16 | Expected::F16 | Expected::F32 | Expected::Unknown => None,
    }
}

/// Whether the found one of two codes is nearest to some `t` that a division of `value` by `scale` may have given.
fn is_nearest(tile: &Tile<'_>, value: f32, scale: f32, [expected, found]: [u32; 2], narrow: bool) -> bool {
    let decode = |bits: u32| f64::from(tile.artifact.format.value(bits));
    if rule(tile.expected).is_none() {
        // A float: the neighbour is allowed, because the product may have been rounded before.
        let step = match tile.expected {
            Expected::Bf16 => 2f64.powi(-7),
            Expected::F16 => 2f64.powi(-10),
            _ => 2f64.powi(-22),
        };
        let x = f64::from(value);
        return (decode(found) - x).abs() <= step * x.abs();
    }
    let limit = if matches!(tile.expected, Expected::E4m3) { 448.0 } else { 128.0 };
    let t = (f64::from(value) / f64::from(scale)).clamp(-limit, limit);
    let [best, distance] = [expected, found].map(|bits| (decode(bits) - t).abs());
    // A quotient that is off by e moves both distances by up to e: half a last place of F32 (with a margin) or of BF16,
    // whose arithmetic rounds the value as well.
    let binade = |x: f64| f64::from_bits(x.abs().to_bits() & 0x7FF0_0000_0000_0000);
    let mut slack = binade(t) * 2f64.powi(-21);
    if narrow {
        slack = binade(t) * 2f64.powi(-7);
        if f32_from_bf16(bf16_from_f32(value)) != value {
            slack += binade(value.into()) / f64::from(scale).abs() * 2f64.powi(-7);
        }
    }
    distance.is_finite() && distance - best <= slack
}

/// Sums over the finite pairs of a row that has others too.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OddRow {
    /// Σ source², Σ artifact², Σ difference².
    pub(super) sums: [f64; 3],
    /// Largest absolute difference.
    pub(super) max_abs: f64,
    /// Largest relative difference.
    pub(super) max_rel: f64,
    /// Elements beyond the top of the format.
    pub(super) saturated: u64,
    /// Elements that are zero in the artifact only.
    pub(super) flushed: u64,
    /// Pairs in which a side is NaN or infinite.
    pub(super) non_finite: u64,
    /// Column of the first element that is finite in the source and not in the artifact.
    pub(super) broken: Option<usize>,
}

/// Measures such a row.
pub(super) fn odd_row(tile: &Tile<'_>, row: usize) -> OddRow {
    let mut out = OddRow::default();
    for col in 0..tile.cols {
        let side = |side: &super::tile::Side<'_>| {
            let bits = side.format.bits(side.bytes, row * tile.cols + col);
            f64::from(side.format.value(bits)) * f64::from(side.scale(row, col))
        };
        let (a, b) = (side(&tile.source), side(&tile.artifact));
        if !(a.is_finite() && b.is_finite()) {
            out.non_finite += 1;
            if a.is_finite() && out.broken.is_none() {
                out.broken = Some(col);
            }
            continue;
        }
        let e = (a - b).abs();
        out.sums[0] += a * a;
        out.sums[1] += b * b;
        out.sums[2] += e * e;
        out.max_abs = out.max_abs.max(e);
        if a != 0.0 {
            out.max_rel = out.max_rel.max(e / a.abs());
        }
        out.saturated += u64::from(a.abs() > tile.top * f64::from(tile.artifact.scale(row, col)));
        out.flushed += u64::from(a != 0.0 && b == 0.0);
    }
    out
}

/// The value of a code in words: the integer, or the number with its pattern.
pub(super) fn code_text(expected: Expected, bits: u32) -> String {
    match expected {
        Expected::Int8 { .. } | Expected::Int8Bf16 => (bits as u8 as i8).to_string(),
        Expected::E4m3 => format!("{} (0x{bits:02x})", crate::dtype::codec::f32_from_e4m3(bits as u8)),
        Expected::Bf16 => format!("{:e} (0x{bits:04x})", f32_from_bf16(bits as u16)),
        Expected::F16 => format!("{:e} (0x{bits:04x})", f32_from_f16(bits as u16)),
        Expected::F32 => format!("{:e}", f32::from_bits(bits)),
        Expected::Unknown => format!("0x{bits:x}"),
    }
}
