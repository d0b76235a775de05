//! Kernels: the reference against independent formulas and crates, every fast kernel against the reference.

use half::{bf16, f16};
use proptest::prelude::*;
use silicast::dtype::Dtype;
use silicast::dtype::scheme::{Granularity, Rule};
use silicast::kernel::{self, Fault, FaultKind, Isa, Policy, Sink, Stats, Values, reference};

const KEEP: Policy = Policy { keep_non_finite: true };
const STRICT: Policy = Policy { keep_non_finite: false };

const RULES: [Rule; 5] =
    [Rule::Amax127, Rule::Amax127Bf16, Rule::Ct127Bf16, Rule::Amax448, Rule::DeepseekUe8m0];
const CODES: [Dtype; 5] = [Dtype::I8, Dtype::F8E4M3, Dtype::F8E5M2, Dtype::F8E4M3Fnuz, Dtype::F8E5M2Fnuz];

/// A sink without its buffers.
#[derive(Clone, Copy, Debug)]
enum To {
    Cast(Dtype),
    Quantize(Rule, Granularity),
}

/// Everything a conversion returns; scales as patterns, so that NaNs compare.
#[derive(Clone, Debug, PartialEq)]
struct Converted {
    out: Vec<u8>,
    scales: Vec<u32>,
    stats: Stats,
}

impl Converted {
    fn scale(&self, i: usize) -> f32 {
        f32::from_bits(self.scales[i])
    }
}

/// Converts with `isa`, or with the reference for `None`.
fn convert(
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
    let mut scales = Vec::new();
    let sink = match to {
        To::Cast(to) => Sink::Cast { to, out: &mut out },
        To::Quantize(rule, granularity) => {
            let [grid_rows, grid_cols] = granularity.grid(rows as u64, cols as u64);
            scales = vec![f32::NAN; (grid_rows * grid_cols) as usize];
            Sink::Quantize { rule, granularity, codes: &mut out, scales: &mut scales }
        }
    };
    let stats = match isa {
        Some(isa) => kernel::convert(isa, values, rows, cols, sink, policy)?,
        None => reference::convert(values, rows, cols, sink, policy)?,
    };
    Ok(Converted { out, scales: scales.into_iter().map(f32::to_bits).collect(), stats })
}

/// Asserts equality, naming the first difference rather than every byte.
fn assert_same(found: &Result<Converted, Fault>, expected: &Result<Converted, Fault>, what: &str) {
    match (found, expected) {
        (Ok(found), Ok(expected)) => {
            let differs = |a: &[u8], b: &[u8]| (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i));
            assert_eq!(differs(&found.out, &expected.out), None, "{what}: first byte that differs");
            assert!(found.scales == expected.scales, "{what}: scales");
            assert_eq!(found.stats, expected.stats, "{what}");
        }
        (Err(found), Err(expected)) => assert_eq!(found, expected, "{what}"),
        _ => panic!("{what}: found {:?}, expected {:?}", found.as_ref().err(), expected.as_ref().err()),
    }
}

/// Converts with the reference and asserts that every instruction set returns the same.
fn convert_everywhere(
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

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The value of a code by the microfloat crate.
fn code_value(element: Dtype, code: u8) -> f32 {
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
fn oracle_scale(rule: Rule, amax: f32) -> f32 {
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
        Rule::Given => unreachable!(),
    }
}

/// The code of a finite value: the nearest candidate among all codes, ties to even, by exhaustive search in `f64`.
fn oracle_code(rule: Rule, x: f32, scale: f32) -> u8 {
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
fn check_quantized(
    x: &[f32],
    [rows, cols]: [usize; 2],
    rule: Rule,
    granularity: Granularity,
    found: &Converted,
) {
    let (block_rows, block_cols) = match granularity {
        Granularity::Tensor => (rows, cols),
        Granularity::Channel => (1, cols),
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
    // Errors of single operations on t (up to 448) enter the noise absolutely.
    let floor = signal * 1e-13;
    close("signal", found.stats.signal.to_f64(), signal, f64::MIN_POSITIVE);
    close("noise", found.stats.noise.to_f64(), noise, floor);
    let top = f64::from(amax.iter().fold(0.0f32, |a, b| a.max(*b)));
    close("largest error", found.stats.max_abs_error.into(), largest, top * 1e-6);
    assert_eq!(found.stats.elements, x.len() as u64);
    assert_eq!(found.stats.zero_rows, amax.iter().filter(|a| **a == 0.0).count() as u64);
    assert_eq!((found.stats.non_finite, found.stats.zero_scale_codes), (0, 0));
}

/// Values that break kernels: ties, powers of two, subnormals, zeros of both signs, exact maxima.
fn hard_value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => (-1000i32..1000).prop_map(|i| i as f32 / 256.0),
        2 => any::<f32>().prop_map(|x| if x.is_finite() { x.clamp(-1e4, 1e4) } else { 0.5 }),
        2 => (-30i32..30, any::<bool>()).prop_map(|(e, n)| 2f32.powi(e) * if n { -1.0 } else { 1.0 }),
        1 => (-20i32..10).prop_map(|e| 448.0 * 2f32.powi(e)),
        1 => (0u32..0x0080_0000, any::<bool>()).prop_map(|(m, n)| f32::from_bits(m | u32::from(n) << 31)),
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => Just(1e-12),
    ]
}

fn granularity() -> impl Strategy<Value = Granularity> {
    prop_oneof![
        Just(Granularity::Channel),
        Just(Granularity::Tensor),
        prop::sample::select(vec![(1, 16), (2, 32), (3, 128), (128, 128), (4, 7), (1, 129)])
            .prop_map(|(rows, cols)| Granularity::Block { rows, cols }),
    ]
}

fn sink() -> impl Strategy<Value = To> {
    prop_oneof![
        prop::sample::select(vec![Dtype::BF16, Dtype::F16, Dtype::F32]).prop_map(To::Cast),
        (prop::sample::select(RULES.to_vec()), granularity()).prop_map(|(r, g)| To::Quantize(r, g)),
    ]
}

/// Rows and columns: tails around the steps of 16, 128 and 2048.
fn shape() -> impl Strategy<Value = [usize; 2]> {
    (
        1usize..9,
        prop_oneof![1usize..40, 100usize..300, prop::sample::select(vec![128, 2047, 2048, 2049, 4111])],
    )
        .prop_map(|(r, c)| [r, c])
}

/// Deterministic filler.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// The owner of random values of any format.
#[derive(Debug)]
struct Source {
    dtype: Dtype,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    block: [usize; 2],
}

impl Source {
    /// Random patterns: `wild` ones hold NaNs, infinities, zero, negative and non-finite scales.
    fn random(dtype: Dtype, [rows, cols]: [usize; 2], block: [usize; 2], wild: bool, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut bytes = Vec::new();
        for _ in 0..rows * cols {
            let r = random.next();
            let small = (r >> 8) as i16 as f32 * 2f32.powi(-20);
            let any = wild && r.is_multiple_of(7);
            match dtype {
                Dtype::BF16 if any => bytes.extend(((r >> 40) as u16).to_le_bytes()),
                Dtype::BF16 => bytes.extend(bf16::from_f32(small).to_le_bytes()),
                Dtype::F16 if any => bytes.extend(((r >> 40) as u16).to_le_bytes()),
                Dtype::F16 => bytes.extend(f16::from_f32(small).to_le_bytes()),
                Dtype::F32 if any => bytes.extend(((r >> 32) as u32).to_le_bytes()),
                Dtype::F32 => bytes.extend(small.to_le_bytes()),
                _ => {
                    let code = (r >> 40) as u8;
                    let finite = code_value(dtype, code).is_finite();
                    bytes.push(if finite || any { code } else { 0 });
                }
            }
        }
        let grid = rows.div_ceil(block[0]) * cols.div_ceil(block[1]);
        let scales = (0..grid)
            .map(|_| {
                let r = random.next();
                match r % 23 {
                    0 => 0.0,
                    1 => -0.0,
                    2 if wild => f32::from_bits((r >> 32) as u32),
                    3 => 2f32.powi((r >> 32) as i32 % 40),
                    _ => (r >> 40) as f32 * 2f32.powi(-36),
                }
            })
            .collect();
        Self { dtype, bytes, scales, block }
    }

    fn values(&self) -> Values<'_> {
        match self.dtype {
            Dtype::BF16 => Values::Bf16(&self.bytes),
            Dtype::F16 => Values::F16(&self.bytes),
            Dtype::F32 => Values::F32(&self.bytes),
            element => Values::Scaled {
                element,
                codes: &self.bytes,
                scales: &self.scales,
                block_rows: self.block[0],
                block_cols: self.block[1],
            },
        }
    }

    /// The rows `from..to` as a tile of their own.
    fn rows(&self, from: usize, to: usize, cols: usize) -> Source {
        let size = (self.dtype.bits() / 8) as usize;
        let (grid_cols, [block_rows, _]) = (cols.div_ceil(self.block[1]), self.block);
        Source {
            dtype: self.dtype,
            bytes: self.bytes[from * cols * size..to * cols * size].to_vec(),
            scales: self.scales[from / block_rows * grid_cols..to.div_ceil(block_rows) * grid_cols].to_vec(),
            block: self.block,
        }
    }
}

fn source_dtype() -> impl Strategy<Value = Dtype> {
    let plain = [Dtype::BF16, Dtype::F16, Dtype::F32];
    prop::sample::select(plain.into_iter().chain(CODES).collect::<Vec<_>>())
}

fn source_block() -> impl Strategy<Value = [usize; 2]> {
    prop::sample::select(vec![
        [1, 1 << 40],
        [usize::MAX, usize::MAX],
        [128, 128],
        [2, 64],
        [1, 48],
        [4, 2064],
        [3, 9],
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn quantized_values_follow_the_rules(
        x in prop::collection::vec(hard_value(), 1..300),
        cols in 1usize..300,
        rule in prop::sample::select(RULES.to_vec()),
        granularity in granularity(),
        power in -20i32..20,
    ) {
        let cols = cols.min(x.len());
        let rows = x.len() / cols;
        let x: Vec<f32> = x[..rows * cols].iter().map(|x| x * 2f32.powi(power)).collect();
        let bytes = f32_bytes(&x);
        let to = To::Quantize(rule, granularity);
        let found = convert_everywhere(&Values::F32(&bytes), [rows, cols], to, STRICT).unwrap();
        check_quantized(&x, [rows, cols], rule, granularity, &found);
    }

    #[test]
    fn every_instruction_set_equals_the_reference(
        dtype in source_dtype(),
        shape in shape(),
        block in source_block(),
        to in sink(),
        wild in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let source = Source::random(dtype, shape, block, wild, seed);
        let kept = convert_everywhere(&source.values(), shape, to, KEEP);
        prop_assert!(kept.is_ok());
        let strict = convert_everywhere(&source.values(), shape, to, STRICT);
        if let Ok(strict) = strict {
            assert_same(&Ok(strict), &kept, "policy");
        } else {
            prop_assert!(wild || dtype != Dtype::F32);
        }
    }

    #[test]
    fn tiles_add_up(
        dtype in source_dtype(),
        cols in 1usize..400,
        block in prop::sample::select(vec![[1, 1 << 40], [4, 128], [2, 9]]),
        to in prop_oneof![
            Just(To::Cast(Dtype::BF16)),
            Just(To::Quantize(Rule::Amax127, Granularity::Channel)),
            Just(To::Quantize(Rule::Ct127Bf16, Granularity::Channel)),
            Just(To::Quantize(Rule::DeepseekUe8m0, Granularity::Block { rows: 4, cols: 128 })),
            Just(To::Quantize(Rule::Amax448, Granularity::Block { rows: 2, cols: 32 })),
        ],
        cuts in prop::collection::vec(0usize..6, 0..4),
        seed in any::<u64>(),
    ) {
        const ROWS: usize = 23;
        let source = Source::random(dtype, [ROWS, cols], block, true, seed);
        let isa = Isa::detect();
        let whole = convert(Some(isa), &source.values(), [ROWS, cols], to, KEEP).unwrap();
        let mut bounds: Vec<usize> = cuts.iter().map(|c| c * 4).chain([0, ROWS]).collect();
        bounds.sort_unstable();
        let mut joined = Converted { out: vec![], scales: vec![], stats: Stats::default() };
        for pair in bounds.windows(2) {
            let tile = source.rows(pair[0], pair[1], cols);
            let part = convert(Some(isa), &tile.values(), [pair[1] - pair[0], cols], to, KEEP).unwrap();
            joined.out.extend(part.out);
            joined.scales.extend(part.scales);
            joined.stats.merge(&part.stats);
        }
        assert_same(&Ok(joined), &Ok(whole), "tiles");
    }

    #[test]
    fn the_first_fault_is_reported(
        dtype in source_dtype(),
        shape in shape(),
        to in sink(),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..4),
    ) {
        let [rows, cols] = shape;
        let mut source = Source::random(dtype, shape, [2, 64], false, 7);
        source.scales.fill(0.5);
        let mut expected = None;
        for (place, negative) in &places {
            let at = place.index(rows * cols);
            let bits: u32 = match dtype {
                Dtype::BF16 => 0x7F80,
                Dtype::F16 => 0x7C01,
                Dtype::F32 => 0x7F80_0001,
                Dtype::F8E4M3 => 0x7F,
                Dtype::F8E5M2 => 0x7E,
                Dtype::I8 => 3,
                _ => 0x80,
            };
            let size = (dtype.bits() / 8) as usize;
            source.bytes[at * size..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
            if dtype == Dtype::I8 {
                // No code is a NaN: break the scale of the element's block instead.
                let (row, col) = (at / cols / 2 * 2, at % cols / 64 * 64);
                let scale = if *negative { -1.0 } else { f32::NAN };
                source.scales[row / 2 * cols.div_ceil(64) + col / 64] = scale;
                expected = None;
                continue;
            }
            let kind = if size == 1 { FaultKind::NanCode } else { FaultKind::NonFinite };
            let fault = Fault { kind, row: at / cols, col: at % cols, bits };
            let sooner = expected.is_none_or(|e: Fault| (fault.row, fault.col) < (e.row, e.col));
            expected = if sooner { Some(fault) } else { expected };
        }
        let found = convert_everywhere(&source.values(), shape, to, STRICT).unwrap_err();
        match expected {
            Some(expected) => prop_assert_eq!(found, expected),
            None => {
                let block = source.scales[found.row / 2 * cols.div_ceil(64) + found.col / 64];
                prop_assert_eq!(found.bits, block.to_bits());
                let kind = if block.is_nan() { FaultKind::NonFiniteScale } else { FaultKind::NegativeScale };
                prop_assert_eq!(found.kind, kind);
                prop_assert_eq!((found.row % 2, found.col % 64), (0, 0));
            }
        }
    }
}

#[test]
fn every_bf16_value_is_cast_exactly() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    // Rows of one exponent and sign, so that ordinary rows take the fast path.
    let shape = [512, 128];
    for (to, expected) in [
        (Dtype::F32, (0..=u16::MAX).flat_map(|b| (u32::from(b) << 16).to_le_bytes()).collect::<Vec<_>>()),
        (
            Dtype::F16,
            (0..=u16::MAX).flat_map(|b| f16::from_f32(bf16::from_bits(b).to_f32()).to_le_bytes()).collect(),
        ),
        (
            Dtype::BF16,
            (0..=u16::MAX)
                .flat_map(|b| (b | if bf16::from_bits(b).is_nan() { 0x40 } else { 0 }).to_le_bytes())
                .collect(),
        ),
    ] {
        let found = convert_everywhere(&Values::Bf16(&bytes), shape, To::Cast(to), KEEP).unwrap();
        assert_eq!(found.out, expected, "{to}");
        assert_eq!(found.stats.non_finite, 256);
        let overflows = |b: u16| {
            let x = bf16::from_bits(b).to_f32();
            x.is_finite() && f16::from_f32(x).is_infinite()
        };
        let saturated =
            if to == Dtype::F16 { (0..=u16::MAX).filter(|b| overflows(*b)).count() as u64 } else { 0 };
        assert_eq!(found.stats.saturated, saturated, "{to}");
        assert_eq!(found.stats.noise.to_f64() > 0.0, to == Dtype::F16);
    }
}

#[test]
fn every_bf16_value_is_quantized_by_the_rules() {
    // By exponent, so that every value is a large part of its row's maximum.
    let x: Vec<u16> = (0..=u16::MAX).filter(|b| bf16::from_bits(*b).is_finite()).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|b| b.to_le_bytes()).collect();
    let values: Vec<f32> = x.iter().map(|b| bf16::from_bits(*b).to_f32()).collect();
    let shape = [510, 128];
    for rule in RULES {
        for granularity in [Granularity::Channel, Granularity::Block { rows: 128, cols: 128 }] {
            let to = To::Quantize(rule, granularity);
            let found = convert_everywhere(&Values::Bf16(&bytes), shape, to, STRICT).unwrap();
            // Squares of the largest BF16 values are representable in the oracle's f64; tiny ones need no care either.
            check_quantized(&values, shape, rule, granularity, &found);
        }
    }
}

#[test]
fn every_code_decodes_by_one_rounded_product() {
    for element in CODES {
        let codes: Vec<u8> = (0..=255).cycle().take(256 * 9).collect();
        let scales = [1.0, 0.1, 3.0e-5, 1.0e-38, 1.0e-42, 700.0, 1.0e30, 2.0f32.powi(-127), 0.007_812_5];
        let values =
            Values::Scaled { element, codes: &codes, scales: &scales, block_rows: 1, block_cols: 256 };
        let found = convert_everywhere(&values, [9, 256], To::Cast(Dtype::F32), KEEP).unwrap();
        for (i, bytes) in found.out.as_chunks::<4>().0.iter().enumerate() {
            let (code, scale) = (code_value(element, codes[i]), scales[i / 256]);
            let found = f32::from_le_bytes(*bytes);
            // A product of an f32 and at most 8 bits is exact in f64.
            let expected = (f64::from(code) * f64::from(scale)) as f32;
            if code.is_nan() {
                assert_eq!(found.to_bits(), 0x7FC0_0000 | u32::from(codes[i] & 0x80) << 24, "{element} {i}");
            } else {
                assert_eq!(found.to_bits(), expected.to_bits(), "{element} {:#x} × {scale:e}", codes[i]);
            }
        }
    }
}

#[test]
fn non_finite_values_are_kept_on_request() {
    let x = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0, -0.5, -0.0, 0.0];
    let bytes = f32_bytes(&x);
    let codes = |rule| {
        let to = To::Quantize(rule, Granularity::Channel);
        convert_everywhere(&Values::F32(&bytes), [1, 8], to, KEEP).unwrap()
    };
    let int8 = codes(Rule::Amax127);
    assert_eq!(int8.out, [0, 0, 127, -127i8 as u8, 127, -64i8 as u8, 0, 0]);
    assert_eq!(int8.scale(0), 1.0 / 127.0);
    assert_eq!((int8.stats.non_finite, int8.stats.saturated, int8.stats.elements), (4, 0, 8));
    assert_eq!(codes(Rule::Amax127Bf16).out[3], -128i8 as u8);
    assert_eq!(codes(Rule::Amax448).out, [0x7F, 0xFF, 0x7E, 0xFE, 0x7E, 0xF6, 0x80, 0x00]);
    assert!(int8.stats.sqnr_db().unwrap() > 40.0);
}

#[test]
fn zero_units_and_hidden_codes_are_counted() {
    let bytes = f32_bytes(&[0.0, -0.0, 0.0, 1.0]);
    for (rule, code, scale) in [
        (Rule::Amax127, [0, 0], 1e-12 / 127.0),
        (Rule::Amax127Bf16, [0, 0], 2f32.powi(-23)),
        (Rule::Ct127Bf16, [0, 0], 0.007_812_5),
        (Rule::Amax448, [0, 0x80], 1e-12 / 448.0),
        (Rule::DeepseekUe8m0, [0, 0x80], 2f32.powi(-22)),
    ] {
        let to = To::Quantize(rule, Granularity::Channel);
        let found = convert_everywhere(&Values::F32(&bytes), [2, 2], to, STRICT).unwrap();
        assert_eq!(
            (&found.out[..2], found.scale(0), found.stats.zero_rows),
            (&code[..], scale, 1),
            "{rule:?}"
        );
    }
    let codes = [0x00, 0x80, 0x01, 0xFE];
    let values = Values::Scaled {
        element: Dtype::F8E4M3,
        codes: &codes,
        scales: &[0.0, 1.0],
        block_rows: 1,
        block_cols: 3,
    };
    let found = convert_everywhere(&values, [1, 4], To::Cast(Dtype::BF16), STRICT).unwrap();
    assert_eq!(found.stats.zero_scale_codes, 1);
    assert_eq!(found.stats.sqnr_db(), None);
}

#[test]
fn saturation_is_counted_where_codes_are_clamped() {
    // 127.5 is 255/2: the scale is exactly 2^-1, and +63.75 would be code 128 (a tie to even).
    let bytes = f32_bytes(&[63.75, -63.75, 63.0, 0.0]);
    let to = To::Quantize(Rule::Ct127Bf16, Granularity::Channel);
    let found = convert_everywhere(&Values::F32(&bytes), [1, 4], to, STRICT).unwrap();
    assert_eq!(found.out, [127, -128i8 as u8, 126, 0]);
    assert_eq!(found.stats.saturated, 1);
}

#[test]
fn limits_between_fast_and_careful_paths_do_not_show() {
    let limits =
        [65504.0, 65520.0, 65536.0, 2f32.powi(-40), 2f32.powi(51), 2f32.powi(127), 3.389_531_4e38, f32::MAX];
    for limit in limits {
        for bits in [limit.to_bits() - 1, limit.to_bits(), limit.to_bits() + 1, limit.to_bits() + 0x7FFF] {
            let amax = f32::from_bits(bits.min(f32::MAX.to_bits()));
            let x = [amax, -amax, amax / 2.0, amax / 300.0, -0.0, amax / 1e9];
            let bytes = f32_bytes(&x);
            let quantizers = RULES.map(|rule| To::Quantize(rule, Granularity::Channel));
            for to in [Dtype::BF16, Dtype::F16, Dtype::F32].map(To::Cast).into_iter().chain(quantizers) {
                let found = convert_everywhere(&Values::F32(&bytes), [1, 6], to, STRICT).unwrap();
                if let To::Cast(Dtype::F16) = to {
                    let expected: Vec<u8> = x.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
                    assert_eq!(found.out, expected);
                    let overflows = x.iter().filter(|x| f16::from_f32(**x).is_infinite()).count() as u64;
                    assert_eq!(found.stats.saturated, overflows);
                }
            }
        }
    }
}

#[test]
fn extreme_rows_keep_their_statistics() {
    for power in [-140, -100, -60, 60, 100, 126] {
        let x: Vec<f32> = (1..200).map(|i| i as f32 * 2f32.powi(power - 7)).collect();
        let bytes = f32_bytes(&x);
        let found =
            convert_everywhere(&Values::F32(&bytes), [1, x.len()], To::Cast(Dtype::BF16), STRICT).unwrap();
        let signal: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        let error = |x: &f32| f64::from(*x) - f64::from(bf16::from_f32(*x).to_f32());
        let noise: f64 = x.iter().map(|x| error(x).powi(2)).sum();
        let relative = |a: f64, b: f64| if a == b { 0.0 } else { (a / b - 1.0).abs() };
        assert!(relative(found.stats.signal.to_f64(), signal) < 1e-5, "{power}");
        assert!(relative(found.stats.noise.to_f64(), noise) < 1e-5, "{power}");
    }
}

#[test]
fn gaussian_noise_has_the_published_ratios() {
    let mut random = Random(3);
    let mut uniform = || (random.next() >> 11) as f64 / (1u64 << 53) as f64;
    let x: Vec<f32> =
        (0..256 * 4096).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) as f32).collect();
    let bytes = f32_bytes(&x);
    let sqnr = |to| {
        convert(Some(Isa::detect()), &Values::F32(&bytes), [256, 4096], to, STRICT).unwrap().stats.sqnr_db()
    };
    let blocks = Granularity::Block { rows: 128, cols: 128 };
    // E4M3 31.5 dB, BF16 55.6 dB, binary16 73.7 dB; int8 41.2 dB, a little more with the sum's shorter tails.
    for (to, low, high) in [
        (To::Quantize(Rule::Amax448, Granularity::Channel), 31.3, 31.8),
        (To::Quantize(Rule::DeepseekUe8m0, blocks), 31.3, 31.8),
        (To::Quantize(Rule::Amax127, Granularity::Channel), 40.5, 43.5),
        (To::Quantize(Rule::Ct127Bf16, Granularity::Channel), 39.5, 43.5),
        (To::Cast(Dtype::BF16), 55.2, 56.0),
        (To::Cast(Dtype::F16), 73.3, 74.1),
    ] {
        let db = sqnr(to).unwrap();
        assert!((low..high).contains(&db), "{to:?}: {db}");
    }
}

#[test]
fn empty_tiles_are_nothing() {
    for shape in [[0, 5], [5, 0], [0, 0]] {
        for to in
            [To::Cast(Dtype::BF16), To::Quantize(Rule::Amax127, Granularity::Block { rows: 2, cols: 2 })]
        {
            let found = convert_everywhere(&Values::Bf16(&[]), shape, to, STRICT).unwrap();
            assert_eq!(found.stats, Stats::default(), "{to:?}");
        }
    }
}

#[test]
fn scales_decode_exactly() {
    let mut out = vec![1.0];
    let bf16s: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    kernel::decode_scales(Dtype::BF16, &bf16s, &mut out);
    assert!((0..=u16::MAX).zip(&out).all(|(b, x)| x.to_bits() == u32::from(b) << 16) && out.len() == 65536);
    kernel::decode_scales(Dtype::F16, &bf16s, &mut out);
    let same = |b: u16, x: f32| f16::from_bits(b).is_nan() && x.is_nan() || f16::from_bits(b).to_f32() == x;
    assert!((0..=u16::MAX).zip(&out).all(|(b, x)| same(b, *x)) && out.len() == 65536);
    for dtype in [Dtype::F8E8M0, Dtype::U8] {
        kernel::decode_scales(dtype, &[0, 127, 254, 255], &mut out);
        assert_eq!(&out[..3], [2f32.powi(-127), 1.0, 2f32.powi(127)]);
        assert!(out[3].is_nan() && out.len() == 4);
    }
    kernel::decode_scales(Dtype::F32, &f32_bytes(&[0.1, -0.0]), &mut out);
    assert_eq!(out, [0.1, -0.0]);
    kernel::decode_scales(Dtype::I32, &[0; 8], &mut out);
    assert_eq!(out, []);
}

#[test]
fn powers_of_two_are_recognized() {
    assert_eq!(kernel::first_not_power_of_two(&[1.0, 2f32.powi(-127), 2f32.powi(127), 0.5]), None);
    for x in [0.0, -1.0, 3.0, 1.0 + f32::EPSILON, f32::NAN, f32::INFINITY, f32::from_bits(1)] {
        assert_eq!(kernel::first_not_power_of_two(&[1.0, x, 3.0]), Some(1), "{x:e}");
    }
}

#[test]
fn non_finite_elements_are_counted_in_copied_tensors() {
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let words: Vec<u8> = (0..=u16::MAX).flat_map(|b| [0, 0, b as u8, (b >> 8) as u8]).collect();
    // More than one group of byte counters, all of them hits.
    let nans = vec![0xFF; 100_000];
    for isa in Isa::available() {
        let count = |dtype, bytes: &[u8]| kernel::count_non_finite(isa, dtype, bytes);
        assert_eq!(count(Dtype::BF16, &halves), 256);
        assert_eq!(count(Dtype::F16, &halves), 2048);
        assert_eq!(count(Dtype::F32, &words), 256);
        assert_eq!(count(Dtype::F64, &f64::NAN.to_le_bytes()), 1);
        let codes: Vec<u8> = (0..=255).collect();
        for (dtype, expected) in [
            (Dtype::F8E4M3, 2),
            (Dtype::F8E5M2, 8),
            (Dtype::F8E4M3Fnuz, 1),
            (Dtype::F8E5M2Fnuz, 1),
            (Dtype::F8E8M0, 1),
            (Dtype::I8, 0),
        ] {
            assert_eq!(count(dtype, &codes), expected, "{dtype}");
        }
        assert_eq!(count(Dtype::F8E4M3, &nans), 100_000);
        assert_eq!(count(Dtype::F32, &nans), 25_000);
    }
}
