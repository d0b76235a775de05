//! The element formats against other implementations: `ml_dtypes`, `en_dtypes` and numpy live, and `microfloat`.
//!
//! Rounding is a step function, so all its steps settle it: every midpoint between neighbouring values and the `f32` on
//! either side of it are among the inputs, for every format. Results are compared as bytes.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests make their own files and panic to fail"
)]

mod support;

use microfloat::{f4e2m1fn, f6e2m3fn, f6e3m2fn, f8e4m3fn, f8e4m3fnuz, f8e5m2, f8e5m2fnuz, f8e8m0fnu};
use silicast::dtype::Dtype;
use silicast::dtype::codec::{
    bf16_from_f32, decode, e4m3_from_f32_clamped, e8m0_nearest, e8m0_up, encode_ieee, encode_saturating,
    f16_from_f32, f32_from_bf16, f32_from_e4m3, f32_from_e8m0, f32_from_f16,
};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use support::oracle;

const FLOATS: [Dtype; 10] = [
    Dtype::F4E2M1,
    Dtype::F6E2M3,
    Dtype::F6E3M2,
    Dtype::F8E4M3,
    Dtype::F8E4M3Fnuz,
    Dtype::F8E5M2,
    Dtype::F8E5M2Fnuz,
    Dtype::F8E8M0,
    Dtype::BF16,
    Dtype::F16,
];
const INTEGERS: [Dtype; 4] = [Dtype::I2, Dtype::I4, Dtype::U4, Dtype::I8];

static INPUTS: LazyLock<Vec<f32>> = LazyLock::new(inputs);

/// Every BF16 and binary16 value, every rounding step of every format, and random bit patterns.
fn inputs() -> Vec<f32> {
    let mut out: Vec<f32> = (0..=u16::MAX).flat_map(|b| [f32_from_bf16(b), f32_from_f16(b)]).collect();
    for dtype in FLOATS.into_iter().chain(INTEGERS).chain([Dtype::HiF8]) {
        let mut values: Vec<f64> = (0..1u32 << dtype.bits())
            .map(|code| decode(dtype, code).into())
            .filter(|x: &f64| x.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        // One more step at either end, where overflow begins.
        let n = values.len();
        let (below, above) = (2.0 * values[0] - values[1], 2.0 * values[n - 1] - values[n - 2]);
        values.insert(0, below);
        values.push(above);
        for pair in values.windows(2) {
            steps(((pair[0] + pair[1]) / 2.0) as f32, &mut out);
            steps(pair[1] as f32, &mut out);
        }
    }
    // HiF8's first missing value is not one regular step away; E8M0's and HiF8's first steps are relative to nothing.
    for x in
        [40960.0, 2f32.powi(-23), 2f32.powi(-127), 1.5 * 2f32.powi(-127), 1.5 * 2f32.powi(127), f32::MAX, 0.0]
    {
        steps(x, &mut out);
    }
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    for _ in 0..1 << 20 {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.push(f32::from_bits((state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32));
    }
    out
}

/// `x` and its neighbours, both signs.
fn steps(x: f32, out: &mut Vec<f32>) {
    for y in [x.next_down(), x, x.next_up()] {
        out.extend([y, -y]);
    }
}

/// Asserts `got(i) == want[i]` for all of `of`, showing the first few differences.
fn assert_same<T: PartialEq + std::fmt::LowerHex>(
    what: &str,
    of: &[f32],
    want: &[T],
    got: impl Fn(f32) -> T,
) {
    assert_eq!(of.len(), want.len(), "{what}: the oracle gave another number of results");
    let wrong: Vec<String> = of
        .iter()
        .zip(want)
        .filter_map(|(x, want)| {
            let got = got(*x);
            (got != *want).then(|| format!("{x:e} ({:#010x}): {got:#x}, oracle {want:#x}", x.to_bits()))
        })
        .collect();
    assert!(wrong.is_empty(), "{what}: {} differ\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

fn le<const N: usize>(path: &Path) -> Vec<[u8; N]> {
    let bytes = fs::read(path).unwrap();
    let (chunks, rest) = bytes.as_chunks();
    assert!(rest.is_empty());
    chunks.to_vec()
}

/// Codes as `u32`, whatever their width in the file.
fn codes(path: &Path, dtype: Dtype) -> Vec<u32> {
    if dtype.bits() == 16 {
        le(path).into_iter().map(|b| u16::from_le_bytes(b).into()).collect()
    } else {
        le(path).into_iter().map(|[b]| b.into()).collect()
    }
}

/// NaN payloads of the 16-bit formats are no part of any cast's contract: `ml_dtypes` drops them, numpy keeps them
/// signalling where the processor does. Sign and being NaN must agree.
fn canonical(dtype: Dtype, code: u32) -> u32 {
    match dtype {
        Dtype::BF16 if code & 0x7FFF > 0x7F80 => code & 0x8000 | 0x7FC0,
        Dtype::F16 if code & 0x7FFF > 0x7C00 => code & 0x8000 | 0x7E00,
        _ => code,
    }
}

fn canonical_f32(x: f32) -> u32 {
    if x.is_nan() { x.to_bits() & 0x8000_0000 | 0x7FC0_0000 } else { x.to_bits() }
}

/// Compares every conversion of `dtypes` with the Python libraries.
fn check_live(dtypes: &[Dtype]) {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("inputs.f32");
    let bytes: Vec<u8> = INPUTS.iter().flat_map(|x| x.to_le_bytes()).collect();
    fs::write(&input, bytes).unwrap();
    let names: Vec<OsString> = dtypes.iter().map(|d| d.text().into()).collect();
    let mut args: Vec<&OsStr> = vec![input.as_os_str(), dir.path().as_os_str()];
    args.extend(names.iter().map(OsString::as_os_str));
    oracle::run_script("dtypes.py", &args);

    for &dtype in dtypes {
        let file = |what: &str| dir.path().join(format!("{dtype}.{what}"));
        let decoded: Vec<u32> = le(&file("decode")).into_iter().map(u32::from_le_bytes).collect();
        assert_eq!(decoded.len(), 1 << dtype.bits());
        for (code, want) in decoded.into_iter().enumerate() {
            let got = decode(dtype, code as u32);
            if dtype.bits() == 16 {
                assert_eq!(
                    canonical_f32(got),
                    canonical_f32(f32::from_bits(want)),
                    "{dtype} decodes {code:#x}"
                );
            } else {
                assert_eq!(got.to_bits(), want, "{dtype} decodes {code:#x}");
            }
        }
        for (what, encode) in [("ieee", encode_ieee as fn(Dtype, f32) -> u32), ("sat", encode_saturating)] {
            let want: Vec<u32> = codes(&file(what), dtype).into_iter().map(|c| canonical(dtype, c)).collect();
            assert_same(&format!("{dtype} {what}"), &INPUTS, &want, |x| canonical(dtype, encode(dtype, x)));
        }
        if dtype == Dtype::F8E8M0 {
            assert_same("e8m0 up", &INPUTS, &codes(&file("up"), dtype), |x| e8m0_up(x).into());
        }
    }
}

#[test]
fn floats_equal_ml_dtypes_and_numpy() {
    check_live(&FLOATS);
}

#[test]
fn integers_equal_numpy() {
    check_live(&INTEGERS);
}

#[test]
fn hifloat8_equals_en_dtypes() {
    check_live(&[Dtype::HiF8]);
}

#[test]
fn inner_loop_conversions_equal_the_general_ones() {
    let general = |dtype| INPUTS.iter().map(|x| encode_ieee(dtype, *x)).collect::<Vec<u32>>();
    assert_same("e4m3", &INPUTS, &general(Dtype::F8E4M3), |x| e4m3_from_f32_clamped(x).into());
    assert_same("bf16", &INPUTS, &general(Dtype::BF16), |x| bf16_from_f32(x).into());
    assert_same("f16", &INPUTS, &general(Dtype::F16), |x| f16_from_f32(x).into());
    assert_same("e8m0", &INPUTS, &general(Dtype::F8E8M0), |x| e8m0_nearest(x).into());
    for code in 0..=255u8 {
        assert_eq!(f32_from_e4m3(code).to_bits(), decode(Dtype::F8E4M3, code.into()).to_bits());
        assert_eq!(f32_from_e8m0(code).to_bits(), decode(Dtype::F8E8M0, code.into()).to_bits());
    }
}

/// Every code and every input against one type of `microfloat`, but for inputs where that crate departs from
/// `ml_dtypes`: `except`.
macro_rules! check_microfloat {
    ($dtype:expr, $type:ty, $except:expr) => {
        for code in 0..1u32 << $dtype.bits() {
            let want = <$type>::from_bits(code as u8).to_f32();
            assert_eq!(decode($dtype, code).to_bits(), want.to_bits(), "{} decodes {code:#x}", $dtype);
        }
        let except: fn(f32) -> bool = $except;
        let inputs: Vec<f32> = INPUTS.iter().copied().filter(|x| !except(*x)).collect();
        let want: Vec<u32> = inputs.iter().map(|x| <$type>::from_f32(*x).to_bits().into()).collect();
        assert_same(stringify!($type), &inputs, &want, |x| encode_ieee($dtype, x));
    };
}

#[test]
fn small_floats_equal_microfloat() {
    // It gives NaNs of both signs one code.
    let negative_nan = |x: f32| x.is_nan() && x.is_sign_negative();
    check_microfloat!(Dtype::F4E2M1, f4e2m1fn, negative_nan);
    check_microfloat!(Dtype::F6E2M3, f6e2m3fn, negative_nan);
    check_microfloat!(Dtype::F6E3M2, f6e3m2fn, negative_nan);
    // It overflows at the tie between 448 and the NaN code, where even is 448.
    check_microfloat!(Dtype::F8E4M3, f8e4m3fn, |x| x.abs() == 464.0);
    check_microfloat!(Dtype::F8E4M3Fnuz, f8e4m3fnuz, |_| false);
    check_microfloat!(Dtype::F8E5M2, f8e5m2, |_| false);
    check_microfloat!(Dtype::F8E5M2Fnuz, f8e5m2fnuz, |_| false);
    // It rounds subnormals down to 2^-127, and saturates where ml_dtypes carries into the NaN code.
    let ends = |x: f32| matches!(x.to_bits(), 0x40_0001..0x80_0000 | 0x7F40_0000..0x7F80_0000);
    check_microfloat!(Dtype::F8E8M0, f8e8m0fnu, ends);
}
