//! Conversions with every instruction set, and oracles.

use half::bf16;
use silicast::dtype::Dtype;
use silicast::dtype::packing::Packing;
use silicast::dtype::scheme::{Granularity, Rule, Scheme};
use silicast::kernel::{self, Fault, Isa, Policy, Sink, Stats, Values, reference};

pub(crate) const KEEP: Policy = Policy { keep_non_finite: true };
pub(crate) const STRICT: Policy = Policy { keep_non_finite: false };

pub(crate) const RULES: [Rule; 5] =
    [Rule::Amax127, Rule::Amax127Bf16, Rule::Ct127Bf16, Rule::Amax448, Rule::DeepseekUe8m0];
pub(crate) const CODES: [Dtype; 5] =
    [Dtype::I8, Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F8E4M3Fnuz, Dtype::F8E5M2Fnuz];

/// A sink without its buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    Cast(Dtype),
    /// With the global.
    Quantize(Scheme, f32),
}

/// The sink of a rule that needs no more than itself.
pub(crate) fn quantize(rule: Rule, granularity: Granularity) -> To {
    To::Quantize(scheme(rule, granularity), 1.0)
}

/// Every rule with every element and format of scales that change what it computes.
pub(crate) fn schemes(granularity: Granularity) -> Vec<Scheme> {
    use Dtype::{BF16, F4E2M1, F8E4M3, F16, F32, I4, I8, U8};
    let mut found = Vec::new();
    for rule in Rule::all().filter(|rule| *rule != Rule::Given) {
        let formats = match rule {
            Rule::Amax7Half | Rule::MinMax15 => [BF16, F16, F32].map(|scale| (I4, scale)).to_vec(),
            Rule::Amax127Half => [BF16, F16, F32].map(|scale| (I8, scale)).to_vec(),
            Rule::Amax7 | Rule::Amax7Eps | Rule::Ssz7 | Rule::Ct7Bf16 => vec![(I4, F32)],
            Rule::Amax127 | Rule::Amax127Bf16 | Rule::Ct127Bf16 => vec![(I8, F32)],
            Rule::Nvfp4 => vec![(F4E2M1, F8E4M3)],
            Rule::Amax448 | Rule::DeepseekUe8m0 | Rule::BestUe8m0 | Rule::Fp4Blocks => vec![(F8E4M3, F32)],
            _ => vec![(F8E4M3, U8), (F4E2M1, U8)],
        };
        for (element, scale) in formats {
            found.push(Scheme { element, granularity, scale, rule, packing: Packing::Plain });
        }
    }
    found
}

/// Everything a conversion returns; scales as patterns, so that NaNs compare.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Converted {
    pub(crate) out: Vec<u8>,
    pub(crate) scales: Vec<u32>,
    pub(crate) zeros: Vec<i8>,
    pub(crate) stats: Stats,
}

impl Converted {
    pub(crate) fn scale(&self, i: usize) -> f32 {
        f32::from_bits(self.scales[i])
    }
}

/// Converts with `isa`, or with the reference for `None`.
pub(crate) fn convert(
    isa: Option<Isa>,
    values: &Values<'_>,
    [rows, cols]: [usize; 2],
    to: To,
    policy: Policy,
) -> Result<Converted, Fault> {
    // Poisoned, so that an element that is not written shows.
    let size = match to {
        To::Cast(Dtype::F32) => 4,
        To::Cast(_) => 2,
        To::Quantize(..) => 1,
    };
    let mut out = vec![0xAA; rows * cols * size];
    let (mut scales, mut zeros) = (Vec::new(), Vec::new());
    let sink = match to {
        To::Cast(to) => Sink::Cast { to, out: &mut out },
        To::Quantize(scheme, global) => {
            let [grid_rows, grid_cols] = scheme.granularity.grid(rows as u64, cols as u64);
            scales = vec![f32::NAN; (grid_rows * grid_cols) as usize];
            if scheme.rule.is_asymmetric() {
                zeros = vec![0x55; scales.len()];
            }
            Sink::Quantize { scheme, global, codes: &mut out, scales: &mut scales, zeros: &mut zeros }
        }
    };
    let stats = match isa {
        Some(isa) => kernel::convert(isa, values, rows, cols, sink, policy)?,
        None => reference::convert(values, rows, cols, sink, policy)?,
    };
    Ok(Converted { out, scales: scales.into_iter().map(f32::to_bits).collect(), zeros, stats })
}

/// Asserts equality, naming the first difference rather than every byte.
pub(crate) fn assert_same(found: &Result<Converted, Fault>, expected: &Result<Converted, Fault>, what: &str) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            let differs = |a: &[u8], b: &[u8]| (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i));
            assert_eq!(differs(&found.out, &expected.out), None, "{what}: first byte that differs");
            let differs = (0..found.scales.len()).find(|i| found.scales[*i] != expected.scales[*i]);
            assert_eq!(differs, None, "{what}: first scale that differs");
            assert_eq!(found.zeros, expected.zeros, "{what}: zero points");
            assert_eq!(found.stats, expected.stats, "{what}");
        }
        (Err(found), Err(expected)) => assert_eq!(found, expected, "{what}"),
        _ => panic!("{what}: found {:?}, expected {:?}", found.as_ref().err(), expected.as_ref().err()),
    }
}

/// Converts with the reference and asserts that every instruction set returns the same.
pub(crate) fn convert_everywhere(
    values: &Values<'_>,
    shape: [usize; 2],
    to: To,
    policy: Policy,
) -> Result<Converted, Fault> {
    let expected = convert(None, values, shape, to, policy);
    for isa in Isa::available() {
        assert_same(
            &convert(Some(isa), values, shape, to, policy),
            &expected,
            &format!("{isa:?} {to:?} {shape:?}"),
        );
    }
    expected
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The value of a code by the microfloat crate.
pub(crate) fn code_value(element: Dtype, code: u8) -> f32 {
    match element {
        Dtype::I8 => f32::from(code as i8),
        Dtype::F8E4M3 => microfloat::f8e4m3fn::from_bits(code).to_f32(),
        Dtype::F8E5M2 => microfloat::f8e5m2::from_bits(code).to_f32(),
        Dtype::F8E4M3Fnuz => microfloat::f8e4m3fnuz::from_bits(code).to_f32(),
        Dtype::F8E5M2Fnuz => microfloat::f8e5m2fnuz::from_bits(code).to_f32(),
        other => panic!("{other}"),
    }
}

/// The scale of a rule, from its published text, in plain operations.
pub(crate) fn oracle_scale(rule: Rule, amax: f32) -> f32 {
    let to_bf16 = |x: f32| bf16::from_f32(x).to_f32();
    match rule {
        Rule::Amax127 => f32::max(amax, 1e-12) / 127.0,
        Rule::Amax127Bf16 => to_bf16(f32::max(amax / 127.0, 2f32.powi(-23))),
        Rule::Ct127Bf16 => {
            let s = to_bf16(to_bf16(amax) / 127.5);
            if s == 0.0 { 2f32.powi(-7) } else { s }
        }
        Rule::Amax448 => f32::max(amax, 1e-12) / 448.0,
        Rule::DeepseekUe8m0 => {
            // The smallest power of two that is not below the quotient.
            let d = f64::from(f32::max(amax, 1e-4) / 448.0);
            let mut s = 2f64.powi(-126);
            while s < d {
                s *= 2.0;
            }
            s as f32
        }
        other => panic!("{}", other.name()),
    }
}

/// The code of a finite value: the nearest candidate among all codes, ties to even, by exhaustive search in `f64`.
pub(crate) fn oracle_code(rule: Rule, x: f32, scale: f32) -> u8 {
    match rule {
        Rule::Amax127 | Rule::Amax127Bf16 | Rule::Ct127Bf16 => {
            let t = if rule == Rule::Ct127Bf16 {
                bf16::from_f32(bf16::from_f32(x).to_f32() / scale).to_f32()
            } else {
                x / scale
            };
            let low = if rule == Rule::Amax127 { -127 } else { -128 };
            let distance = |q: i32| (f64::from(q) - f64::from(t)).abs();
            let q = (low..=127)
                .min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then_with(|| (a & 1).cmp(&(b & 1))));
            q.unwrap() as i8 as u8
        }
        _ => {
            let t = (x / scale).clamp(-448.0, 448.0);
            let distance = |c: u8| (f64::from(code_value(Dtype::F8E4M3, c)) - f64::from(t.abs())).abs();
            let code = (0..0x7F)
                .min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then_with(|| (a & 1).cmp(&(b & 1))))
                .unwrap();
            code | if t.is_sign_negative() { 0x80 } else { 0 }
        }
    }
}

/// Checks a quantized tile of finite values against the oracles, statistics included.
pub(crate) fn check_quantized(
    x: &[f32],
    [rows, cols]: [usize; 2],
    rule: Rule,
    granularity: Granularity,
    found: &Converted,
) {
    let (block_rows, block_cols) = match granularity {
        Granularity::Tensor => (rows, cols),
        Granularity::Channel | Granularity::Row => (1, cols),
        Granularity::Block { rows, cols } => (rows as usize, cols as usize),
    };
    let grid_cols = cols.div_ceil(block_cols);
    let unit = |r: usize, c: usize| r / block_rows * grid_cols + c / block_cols;
    let mut amax = vec![0.0f32; found.scales.len()];
    for (i, x) in x.iter().enumerate() {
        let a = &mut amax[unit(i / cols, i % cols)];
        *a = a.max(x.abs());
    }
    let element = if matches!(rule, Rule::Amax448 | Rule::DeepseekUe8m0) { Dtype::F8E4M3 } else { Dtype::I8 };
    let (mut signal, mut noise, mut largest) = (0.0f64, 0.0f64, 0.0f64);
    for (i, x) in x.iter().enumerate() {
        let u = unit(i / cols, i % cols);
        let scale = oracle_scale(rule, amax[u]);
        assert_eq!(found.scale(u).to_bits(), scale.to_bits(), "{rule:?} amax {:e}", amax[u]);
        let code = oracle_code(rule, *x, scale);
        assert_eq!(found.out[i], code, "{rule:?} {x:e} / {scale:e}");
        let error = f64::from(*x) - f64::from(code_value(element, code)) * f64::from(scale);
        signal += f64::from(*x).powi(2);
        noise += error * error;
        largest = largest.max(error.abs());
    }
    let close = |name: &str, found: f64, expected: f64, slack: f64| {
        assert!(
            (found - expected).abs() <= expected * 1e-4 + slack,
            "{rule:?} {name}: {found:e} {expected:e}"
        );
    };
    // Squares below the range of f32 relative to the scale's vanish: values far below the floor of a scale.
    let scale = (0..found.scales.len()).map(|u| f64::from(found.scale(u))).fold(0.0, f64::max);
    let vanished = scale * scale * 1e-37 * x.len() as f64;
    close("signal", found.stats.signal.to_f64(), signal, vanished);
    // t is rounded by up to 2^-24 of itself, which moves an error e of few elements by 2·e·t·2^-24; Cauchy-Schwarz sums it.
    let rounding = 2.0 * (signal * noise).sqrt() * 1e-7 + signal * 1e-13;
    close("noise", found.stats.noise.to_f64(), noise, rounding + vanished);
    let top = f64::from(amax.iter().fold(0.0f32, |a, b| a.max(*b)));
    close("largest error", found.stats.max_abs_error.into(), largest, top * 1e-6);
    assert_eq!(found.stats.elements, x.len() as u64);
    assert_eq!(found.stats.zero_rows, amax.iter().filter(|a| **a == 0.0).count() as u64);
    assert_eq!((found.stats.non_finite, found.stats.zero_scale_codes), (0, 0));
}

/// Deterministic filler.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// A scheme of 8-bit codes; kernels look at rule and granularity alone.
pub(crate) fn scheme(rule: Rule, granularity: Granularity) -> Scheme {
    let integer = matches!(rule, Rule::Amax127 | Rule::Amax127Bf16 | Rule::Ct127Bf16);
    let element = if integer { Dtype::I8 } else { Dtype::F8E4M3 };
    Scheme { element, granularity, scale: Dtype::F32, rule, packing: Packing::Plain }
}
