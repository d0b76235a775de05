//! The values of scales and offsets, within a budget.

use super::view::View;
use super::{Findings, Rule, rules};
use crate::checkpoint::TensorInfo;
use crate::dtype::Dtype;
use crate::dtype::codec::{f32_from_bf16, f32_from_e8m0, f32_from_f16};
use crate::error::Result;
use crate::io::source::ReadFile;
use std::cell::{Cell, RefCell};

/// Bytes of scales and offsets that are read at most.
pub(super) const BUDGET: u64 = 64 << 20;
/// Least bytes of one tensor that are read.
const LEAST: u64 = 1 << 10;

/// Reads values of scales. Beyond the budget every tensor is sampled at both ends.
pub(super) struct Scales {
    total: u64,
    read: Cell<u64>,
    /// The file that was read last: names in natural order stay in one file for long.
    open: RefCell<Option<(u32, ReadFile)>>,
}

/// Whether a tensor's values are looked at.
fn is_scale(tensor: &TensorInfo) -> bool {
    let param = tensor.name.rsplit('.').next().unwrap_or_default();
    matches!(param, "weight_scale" | "weight_scale_inv" | "weight_offset" | "scale")
}

impl Scales {
    pub(super) fn new(tensors: &[TensorInfo]) -> Self {
        let total = tensors.iter().filter(|t| is_scale(t)).fold(0u64, |sum, t| sum.saturating_add(t.bytes));
        Self { total, read: Cell::new(0), open: RefCell::new(None) }
    }

    /// Bytes read.
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    /// Bytes of all scales and offsets.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of `tensor` to read, half from either end when they are not all.
    fn quota(&self, tensor: &TensorInfo) -> u64 {
        if self.total <= BUDGET {
            return tensor.bytes;
        }
        let share = u128::from(tensor.bytes) * u128::from(BUDGET) / u128::from(self.total.max(1));
        let left = BUDGET.saturating_sub(self.read.get());
        (share as u64).max(LEAST).min(left).min(tensor.bytes) / 16 * 16
    }

    /// Values of `tensor` with their positions.
    fn values(&self, view: &View, tensor: &TensorInfo) -> Result<Vec<(u64, f32)>> {
        let width = match tensor.dtype {
            Dtype::F32 => 4,
            Dtype::BF16 | Dtype::F16 => 2,
            Dtype::F8E8M0 | Dtype::U8 => 1,
            _ => return Ok(Vec::new()),
        };
        let quota = self.quota(tensor);
        self.read.set(self.read.get() + quota);
        let mut open = self.open.borrow_mut();
        let file = match open.take() {
            Some((at, file)) if at == tensor.file => file,
            _ => view.dir.open_file(view.file(tensor))?,
        };
        let (_, file) = open.insert((tensor.file, file));
        let parts = match quota == tensor.bytes {
            true => [(0, quota), (0, 0)],
            false => [(0, quota / 2), (tensor.bytes - quota / 2, quota / 2)],
        };
        let mut out = Vec::with_capacity((quota / width) as usize);
        for (start, bytes) in parts {
            let mut buffer = vec![0; bytes as usize];
            file.read_exact_at(&mut buffer, tensor.offset + start)?;
            for (i, b) in (0u64..).zip(buffer.chunks_exact(width as usize)) {
                let value = match (tensor.dtype, b) {
                    (Dtype::F32, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
                    (Dtype::BF16, [a, b]) => f32_from_bf16(u16::from_le_bytes([*a, *b])),
                    (Dtype::F16, [a, b]) => f32_from_f16(u16::from_le_bytes([*a, *b])),
                    (_, [a]) => f32_from_e8m0(*a),
                    _ => continue,
                };
                out.push((start / width + i, value));
            }
        }
        Ok(out)
    }
}

/// What the values of a scale must be.
#[derive(Clone, Copy)]
pub(super) struct ScaleRules {
    /// The rule that a zero breaks.
    pub(super) zero: &'static Rule,
    /// The rule that a value breaks which BF16 cannot hold.
    pub(super) bf16: Option<&'static Rule>,
    /// The rule that a value breaks which is no power of two.
    pub(super) power: Option<&'static Rule>,
}

/// First offender of a rule and how many there are.
#[derive(Default)]
struct Offence {
    first: Option<(u64, f32)>,
    count: u64,
}

impl Offence {
    fn note(&mut self, broken: bool, at: u64, value: f32) {
        if broken {
            self.first.get_or_insert((at, value));
            self.count += 1;
        }
    }

    fn report(
        &self,
        view: &View,
        tensor: &TensorInfo,
        rule: &'static Rule,
        expected: &str,
        findings: &mut Findings,
    ) {
        if let Some((at, value)) = self.first {
            findings.add(
                view.at(rule, tensor)
                    .expected(expected)
                    .found(format!("{value:e} at element {at}; {} such values", self.count))
                    .fix("convert again from the source: this scale was damaged or written by another rule"),
            );
        }
    }
}

/// Holds the values of the scale `tensor` against `rule`.
pub(super) fn check_scale(
    view: &View,
    tensor: &TensorInfo,
    rule: ScaleRules,
    findings: &mut Findings,
) -> Result<()> {
    let [mut bad, mut negative, mut zero, mut wide, mut uneven]: [Offence; 5] = Default::default();
    for (at, v) in view.scales.values(view, tensor)? {
        bad.note(!v.is_finite(), at, v);
        negative.note(v < 0.0, at, v);
        zero.note(v == 0.0, at, v);
        if v.is_finite() {
            wide.note(v.to_bits() & 0xffff != 0, at, v);
            uneven.note(v > 0.0 && !(v.to_bits() & 0x007f_ffff == 0 && v.is_normal()), at, v);
        }
    }
    bad.report(view, tensor, &rules::SCALE_NOT_FINITE, "finite scales", findings);
    negative.report(view, tensor, &rules::SCALE_NEGATIVE, "positive scales", findings);
    zero.report(view, tensor, rule.zero, "scales above zero", findings);
    if let Some(rule) = rule.bf16 {
        wide.report(view, tensor, rule, "scales that BF16 can hold", findings);
    }
    // Exponent bytes are powers of two by construction.
    let exponents = matches!(tensor.dtype, Dtype::F8E8M0 | Dtype::U8);
    if let Some(rule) = rule.power.filter(|_| !exponents) {
        uneven.report(view, tensor, rule, "powers of two", findings);
    }
    Ok(())
}

/// Every value of the offset `tensor` must be zero.
pub(super) fn check_offset(view: &View, tensor: &TensorInfo, findings: &mut Findings) -> Result<()> {
    let mut offence = Offence::default();
    for (at, v) in view.scales.values(view, tensor)? {
        offence.note(v != 0.0, at, v);
    }
    offence.report(view, tensor, &rules::OFFSET_NONZERO, "zeros", findings);
    Ok(())
}
