//! Properties over random shapes, layouts and values.

use crate::support::{
    CODES, Converted, KEEP, RULES, Random, STRICT, To, assert_same, check_quantized, code_value, convert,
    convert_everywhere, f32_bytes, quantize, schemes,
};
use half::{bf16, f16};
use proptest::prelude::*;
use silicast::dtype::Dtype;
use silicast::dtype::scheme::{Granularity, Rule, Scheme};
use silicast::kernel::{Fault, FaultKind, Isa, Stats, Values};

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
        prop::sample::select(vec![
            (1, 16),
            (1, 32),
            (1, 48),
            (1, 64),
            (1, 128),
            (2, 48),
            (3, 128),
            (128, 128),
            (4, 7),
            (1, 129)
        ])
        .prop_map(|(rows, cols)| Granularity::Block { rows, cols }),
    ]
}

fn sink() -> impl Strategy<Value = To> {
    prop_oneof![
        prop::sample::select(vec![Dtype::BF16, Dtype::F16, Dtype::F32]).prop_map(To::Cast),
        (any::<prop::sample::Index>(), granularity(), -20i32..20).prop_map(|(which, granularity, power)| {
            let scheme = *which.get(&schemes(granularity));
            To::Quantize(scheme, if scheme.rule == Rule::Nvfp4 { 1.3 * 2f32.powi(power) } else { 1.0 })
        }),
    ]
}

/// Whether a source of this format has what the sink's rule is made from.
fn has_scales_for(to: To, dtype: Dtype) -> bool {
    !matches!(to, To::Quantize(Scheme { rule: Rule::Fp4Blocks, .. }, _)) || CODES.contains(&dtype)
}

/// Rows and columns: tails around the steps of 16, 128 and 2048.
fn shape() -> impl Strategy<Value = [usize; 2]> {
    (
        1usize..9,
        prop_oneof![1usize..40, 100usize..300, prop::sample::select(vec![128, 2047, 2048, 2049, 4111])],
    )
        .prop_map(|(r, c)| [r, c])
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
        [1, 32],
        [1, 16],
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
        let to = quantize(rule, granularity);
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
        prop_assume!(has_scales_for(to, dtype));
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
            Just(quantize(Rule::Amax127, Granularity::Channel)),
            Just(quantize(Rule::Ct127Bf16, Granularity::Channel)),
            Just(quantize(Rule::DeepseekUe8m0, Granularity::Block { rows: 4, cols: 128 })),
            Just(quantize(Rule::Amax448, Granularity::Block { rows: 2, cols: 32 })),
            any::<prop::sample::Index>().prop_map(|which| {
                let mut group = schemes(Granularity::Block { rows: 1, cols: 32 });
                group.retain(|scheme| scheme.rule != Rule::Fp4Blocks);
                To::Quantize(*which.get(&group), 1.0)
            }),
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
        let mut joined = Converted { out: vec![], scales: vec![], zeros: vec![], stats: Stats::default() };
        for pair in bounds.windows(2) {
            let tile = source.rows(pair[0], pair[1], cols);
            let part = convert(Some(isa), &tile.values(), [pair[1] - pair[0], cols], to, KEEP).unwrap();
            joined.out.extend(part.out);
            joined.scales.extend(part.scales);
            joined.zeros.extend(part.zeros);
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
        prop_assume!(has_scales_for(to, dtype));
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
