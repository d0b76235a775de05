//! Kernels: the reference against independent formulas and crates, every fast kernel against the reference.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod pack;
mod properties;
mod support;

use half::{bf16, f16};
use silicast::dtype::Dtype;
use silicast::dtype::scheme::{Granularity, Rule};
use silicast::kernel::{self, Isa, Stats, Values};
use support::{
    CODES, KEEP, RULES, Random, STRICT, To, check_quantized, code_value, convert, convert_everywhere,
    f32_bytes, quantize,
};

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
            let to = quantize(rule, granularity);
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
        let to = quantize(rule, Granularity::Channel);
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
        let to = quantize(rule, Granularity::Channel);
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
    let to = quantize(Rule::Ct127Bf16, Granularity::Channel);
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
            let quantizers = RULES.map(|rule| quantize(rule, Granularity::Channel));
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
        (quantize(Rule::Amax448, Granularity::Channel), 31.3, 31.8),
        (quantize(Rule::DeepseekUe8m0, blocks), 31.3, 31.8),
        (quantize(Rule::Amax127, Granularity::Channel), 40.5, 43.5),
        (quantize(Rule::Ct127Bf16, Granularity::Channel), 39.5, 43.5),
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
        for to in [To::Cast(Dtype::BF16), quantize(Rule::Amax127, Granularity::Block { rows: 2, cols: 2 })] {
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
    assert!(out.is_empty());
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
