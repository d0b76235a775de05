//! Correctly rounded `expf` and `log1pf`, and `exp`, `ln`, `sin` and `cos` in binary64, without a mathematics library.
//!
//! Emitted C and NumPy must agree with these functions bit for bit, so everything is binary64 `+ − × ÷` in the order
//! written here (no FMA), integer operations on bit patterns, and one final conversion to binary32. An expression of
//! several operations is evaluated as parenthesized, or from left to right.
//!
//! Both functions end in a pair `hi + lo` (`hi` is the nearest binary64 to the sum) that is within about 2^-58 of the true
//! value, relatively. [`round_odd`] folds `lo` into the last bit of `hi`, so that the conversion to binary32 rounds the
//! pair, not `hi`, to nearest, subnormal results included. What is left is the table maker's dilemma: that no argument's
//! true value is closer to a midpoint of two binary32 numbers than the error. It was settled by checking all 2^32
//! arguments of both functions against an 80-bit library, and against a 113-bit library wherever the former's result was
//! within 2^-60 of a midpoint: 0 differences. The tests repeat the hardest arguments and a dense sample.
//!
//! # `exp_f32(x)`
//!
//! 1. NaN gives 0x7FC00000. `x` > 0x1.62e42ep+6 gives +∞, `x` < −0x1.9fe368p+6 gives +0. Else `d` = f64(`x`).
//! 2. `t` = `d` × 0x1.71547652b82fep+5 + 0x1.8p+52 (two operations); `k` = low 32 bits of `t` as a signed integer;
//!    `kd` = `t` − 0x1.8p+52.
//! 3. `r` = (`d` − `kd` × 0x1.62e42fefa4p-6) − `kd` × (−0x1.8432a1b0e2634p-48).
//! 4. `q` = 1/2 + `r` × (1/6 + `r` × (1/24 + `r` × (1/120 + `r` × (1/720 + `r` × 1/5040)))); `p` = `r` + (`r` × `r`) × `q`.
//! 5. `j` = `k` mod 32 (non-negative), `[th, tl]` = `EXP2_32[j]`, 2^(j/32) in two parts; `y` = `tl` + `th` × `p`.
//! 6. `hi` = `th` + `y`; `lo` = `y` − (`hi` − `th`); `h` = `round_odd(hi, lo)`.
//! 7. Add (`k` − `j`) / 32 to the exponent field of `h` (`bits(h) + ((k − j) / 32) × 2^52`) and convert to binary32.
//!
//! # `log1p_f32(x)`
//!
//! 1. NaN and `x` < −1 give 0x7FC00000, −1 gives −∞, +∞ and ±0 give themselves. Else `d` = f64(`x`).
//! 2. If −2^-6 < `d` < 2^-6: `q` = −1/2 + `d` × (1/3 + `d` × (−1/4 + … + `d` × (1/9 + `d` × −1/10)));
//!    `y` = (`d` × `d`) × `q`; `hi` = `d` + `y`; `lo` = `y` − (`hi` − `d`). Go to 6.
//! 3. `u` = 1 + `d`; `c` = 1 − (`u` − `d`) if `d` ≥ 1, else 0 (below 2^53 the sum is exact); `e` = exponent of `u`,
//!    `m` = its significand in [1, 2); `j` = the top 6 bits of the fraction; `b` = 1 + (2`j` + 1) / 128.
//! 4. `z` = (`m` − `b`) / `b`; `q` = −1/2 + `z` × (1/3 + … + `z` × (1/7 + `z` × −1/8)); `p` = `z` + (`z` × `z`) × `q`.
//! 5. `[bh, bl]` = `LOG_C[j]`, ln `b` in two parts; `s` = f64(`e`) × 0x1.62e42fefa38p-1 + `bh` (exact);
//!    `y` = ((f64(`e`) × 0x1.ef35793c7673p-45 + `bl`) + `c` / `u`) + `p`;
//!    `hi` = `s` + `y`; `v` = `hi` − `s`; `lo` = (`s` − (`hi` − `v`)) + (`y` − `v`).
//! 6. `round_odd(hi, lo)`, converted to binary32.
//!
//! # `round_odd(hi, lo)`
//!
//! If `lo` ≠ 0 and the last bit of `hi` is 0: add 1 to the bit pattern of `hi` if `lo` and `hi` have the same sign, else
//! subtract 1.

// The loops of kernels call these millions of times, and the order of operations is the definition.
#![allow(clippy::suboptimal_flops, reason = "a fused operation would round differently")]

/// 32 / ln 2, 0x1.71547652b82fep+5.
const INV_LN2_32: f64 = f64::from_bits(0x4047_1547_652B_82FE);
/// ln 2 / 32 on a grid of 2^-44, so that its product with any `k` is exact: 0x1.62e42fefa4p-6.
const LN2_32_HI: f64 = f64::from_bits(0x3F96_2E42_FEFA_4000);
/// ln 2 / 32 − [`LN2_32_HI`], −0x1.8432a1b0e2634p-48.
const LN2_32_LO: f64 = f64::from_bits(0xBCF8_432A_1B0E_2634);
/// ln 2 on a grid of 2^-42, 0x1.62e42fefa38p-1.
const LN2_HI: f64 = f64::from_bits(0x3FE6_2E42_FEFA_3800);
/// ln 2 − [`LN2_HI`], 0x1.ef35793c7673p-45.
const LN2_LO: f64 = f64::from_bits(0x3D2E_F357_93C7_6730);
/// 1.5 × 2^52: adding it rounds to an integer, which then stands in the low bits.
const TO_INTEGER: f64 = f64::from_bits(0x4338_0000_0000_0000);
/// π/2 in three parts: the first two on grids of 2^-32 and 2^-65, 33 bits each.
const HALF_PI: [f64; 3] = [
    f64::from_bits(0x3FF9_21FB_5440_0000),
    f64::from_bits(0x3DD0_B461_1A60_0000),
    f64::from_bits(0x3BA3_198A_2E03_7073),
];
/// The NaN that arithmetic makes in every kernel.
const NAN: f32 = f32::from_bits(0x7FC0_0000);

/// 2^(j/32): the nearest binary64, and the nearest binary64 to the rest.
const EXP2_32: [[u64; 2]; 32] = [
    [0x3FF0_0000_0000_0000, 0x0000_0000_0000_0000],
    [0x3FF0_59B0_D315_8574, 0x3C8D_73E2_A475_B465],
    [0x3FF0_B558_6CF9_890F, 0x3C98_A62E_4ADC_610B],
    [0x3FF1_1301_D012_5B51, 0xBC96_C510_3944_9B3A],
    [0x3FF1_72B8_3C7D_517B, 0xBC81_9041_B9D7_8A76],
    [0x3FF1_D487_3168_B9AA, 0x3C9E_016E_00A2_643C],
    [0x3FF2_387A_6E75_6238, 0x3C99_B07E_B6C7_0573],
    [0x3FF2_9E9D_F51F_DEE1, 0x3C86_12E8_AFAD_1255],
    [0x3FF3_06FE_0A31_B715, 0x3C86_F46A_D231_82E4],
    [0x3FF3_71A7_373A_A9CB, 0xBC96_3AEA_BF42_EAE2],
    [0x3FF3_DEA6_4C12_3422, 0x3C8A_DA09_11F0_9EBC],
    [0x3FF4_4E08_6061_892D, 0x3C48_9B7A_04EF_80D0],
    [0x3FF4_BFDA_D536_2A27, 0x3C7D_4397_AFEC_42E2],
    [0x3FF5_342B_569D_4F82, 0xBC80_7ABE_1DB1_3CAD],
    [0x3FF5_AB07_DD48_5429, 0x3C96_324C_0546_47AD],
    [0x3FF6_247E_B03A_5585, 0xBC93_83C1_7E40_B497],
    [0x3FF6_A09E_667F_3BCD, 0xBC9B_DD34_13B2_6456],
    [0x3FF7_1F75_E8EC_5F74, 0xBC81_6E47_8688_7A99],
    [0x3FF7_A114_73EB_0187, 0xBC84_1577_EE04_992F],
    [0x3FF8_2589_994C_CE13, 0xBC9D_4C1D_D415_32D8],
    [0x3FF8_ACE5_422A_A0DB, 0x3C96_E9F1_5686_4B27],
    [0x3FF9_3737_B0CD_C5E5, 0xBC67_5FC7_81B5_7EBC],
    [0x3FF9_C491_82A3_F090, 0x3C7C_7C46_B071_F2BE],
    [0x3FFA_5503_B23E_255D, 0xBC9D_2F6E_DB8D_41E1],
    [0x3FFA_E89F_995A_D3AD, 0x3C97_A1CD_345D_CC81],
    [0x3FFB_7F76_F2FB_5E47, 0xBC75_584F_7E54_AC3B],
    [0x3FFC_199B_DD85_529C, 0x3C81_1065_8950_48DD],
    [0x3FFC_B720_DCEF_9069, 0x3C75_03CB_D1E9_49DB],
    [0x3FFD_5818_DCFB_A487, 0x3C82_ED02_D75B_3707],
    [0x3FFD_FC97_337B_9B5F, 0xBC91_A5CD_4F18_4B5C],
    [0x3FFE_A4AF_A2A4_90DA, 0xBC9E_9C23_179C_2893],
    [0x3FFF_5076_5B6E_4540, 0x3C99_D3E1_2DD8_A18B],
];

/// ln(1 + (2j + 1) / 128): on a grid of 2^-42, so that sums with multiples of [`LN2_HI`] are exact, and the nearest
/// binary64 to the rest.
const LOG_C: [[u64; 2]; 64] = [
    [0x3F7F_E02A_6B10_0000, 0x3D19_E23F_0DDA_40E4],
    [0x3F97_B91B_07D6_0000, 0xBD33_B955_B602_ACE4],
    [0x3FA3_9E87_B9FE_8000, 0x3D3E_AFD4_80AD_9015],
    [0x3FAB_42DD_7119_8000, 0xBD1C_827A_E5D6_704C],
    [0x3FB1_6536_EEA3_8000, 0xBD14_7C5E_768F_A309],
    [0x3FB5_1B07_3F06_0000, 0x3D38_3F69_278E_686A],
    [0x3FB8_C345_D631_8000, 0x3D3B_20F5_ACB4_2A66],
    [0x3FBC_5E54_8F5B_C000, 0x3D1D_0C57_585F_BE06],
    [0x3FBF_EC91_31DC_0000, 0xBD35_4555_D1AE_6607],
    [0x3FC1_B72A_D52F_6000, 0x3D2E_80A4_1811_A396],
    [0x3FC3_71FC_201E_8000, 0x3D3E_E877_9B2D_8ABC],
    [0x3FC5_26E5_E3A1_C000, 0xBD37_90BA_37FC_5238],
    [0x3FC6_D60F_E719_E000, 0xBD3B_C6E5_5713_4767],
    [0x3FC8_7FA0_6520_C000, 0x3D32_2120_4012_02FC],
    [0x3FCA_23BC_1FE2_C000, 0xBD35_39CD_91DC_9F0B],
    [0x3FCB_C286_742D_8000, 0x3D39_AC53_F39D_121C],
    [0x3FCD_5C21_6B4F_C000, 0xBD21_BA91_BBCA_681B],
    [0x3FCE_F0AD_CBDC_6000, 0xBD2B_26B7_9C86_AF24],
    [0x3FD0_4025_94B4_D000, 0x3CF0_36B8_9EF4_2D7F],
    [0x3FD1_058B_F9AE_5000, 0xBD34_AB9D_817D_52CD],
    [0x3FD1_C898_C169_A000, 0xBD38_1410_E5C6_2AFF],
    [0x3FD2_895A_13DE_8000, 0x3D3A_8D7A_D24C_13F0],
    [0x3FD3_47DD_9A98_8000, 0xBD25_594D_D4C5_8092],
    [0x3FD4_0430_8686_A000, 0x3D3F_8EF4_3049_F7D3],
    [0x3FD4_BE5F_9577_8000, 0xBD3D_7C92_CD9A_D824],
    [0x3FD5_7677_1745_6000, 0xBD36_4EAD_9524_D7CA],
    [0x3FD6_2C82_F2B9_C000, 0x3D3E_54BD_BD7C_8A98],
    [0x3FD6_E08E_AA2B_A000, 0x3D1E_38C1_3931_8D71],
    [0x3FD7_92A5_5FDD_4000, 0x3D3E_89F0_5769_1FEA],
    [0x3FD8_42D1_DA1E_9000, 0xBD33_A2DB_13AE_687C],
    [0x3FD8_F11E_8736_6000, 0x3D26_3BF0_BB4E_AB4C],
    [0x3FD9_9D95_8117_E000, 0x3D01_5975_25DD_88F0],
    [0x3FDA_4840_90E5_C000, 0xBD33_D750_0D65_23C5],
    [0x3FDA_F129_3247_8000, 0xBD3E_53BB_31EE_D7A9],
    [0x3FDB_9858_9693_1000, 0x3D0F_6B31_F629_F11E],
    [0x3FDC_3DD7_A7CD_B000, 0xBD25_9462_61F5_A42B],
    [0x3FDC_E1AF_0B85_F000, 0x3D2F_5BDB_E95E_5568],
    [0x3FDD_83E7_258A_3000, 0xBD08_35F5_D48B_A26D],
    [0x3FDE_2488_1A7C_7000, 0xBD2E_CF1A_1385_D356],
    [0x3FDE_C399_D246_9000, 0xBD29_FF45_188D_6065],
    [0x3FDF_6123_FA70_3000, 0xBD3D_4E7A_EA4F_0D25],
    [0x3FDF_FD2E_0857_F000, 0x3D32_6156_5F40_D932],
    [0x3FE0_4BDF_9DA9_2800, 0xBD22_D9A0_33EF_F74E],
    [0x3FE0_986F_4F57_3800, 0xBD36_FA37_012B_5806],
    [0x3FE0_E449_85D1_D000, 0xBD3B_A048_A8D1_0B4B],
    [0x3FE1_2F71_9593_F000, 0xBD00_EB3F_B739_8E0C],
    [0x3FE1_79EA_BBD8_9800, 0x3D2A_0BFC_60E6_FA08],
    [0x3FE1_C3B8_1F71_4000, 0xBD3E_DA1B_5838_9902],
    [0x3FE2_0CDC_D192_A800, 0x3D3B_6C9A_81E8_7BAE],
    [0x3FE2_555B_CE98_F800, 0xBCFA_61FD_E292_977E],
    [0x3FE2_9D37_FEC2_B000, 0x3D11_590B_9AD9_74BA],
    [0x3FE2_E474_36E4_0000, 0x3D33_4202_A10C_3491],
    [0x3FE3_2B13_3912_2000, 0xBD34_766F_D54A_4C27],
    [0x3FE3_7117_B547_4800, 0xBD02_8E88_BF6D_EEC9],
    [0x3FE3_B684_4A00_0000, 0xBD3E_EA83_8909_F3D3],
    [0x3FE3_FB5B_84D1_7000, 0xBD17_B496_2C55_F46B],
    [0x3FE4_3F9F_E2F9_D000, 0xBD29_8858_D846_49F1],
    [0x3FE4_8353_D1EA_8800, 0x3D1B_EE7A_BD17_6604],
    [0x3FE4_C679_AFCC_F000, 0xBD2C_64E9_7132_2CE8],
    [0x3FE5_0913_CC01_6800, 0x3D0A_D2F2_CE96_C2D6],
    [0x3FE5_4B24_6799_9800, 0xBD3B_42B7_55EB_A5E1],
    [0x3FE5_8CAD_B5CD_7800, 0x3D28_9309_2F25_D931],
    [0x3FE5_CDB1_DC6C_1800, 0xBD13_6E61_2387_451F],
    [0x3FE6_0E32_F447_8800, 0x3D1B_194F_912B_416A],
];

/// `e^x`, correctly rounded to nearest, ties to even; a NaN gives 0x7FC00000.
pub fn exp_f32(x: f32) -> f32 {
    if x.is_nan() {
        return NAN;
    }
    // The last arguments whose results round to a finite and to a non-zero number.
    if x > f32::from_bits(0x42B1_7217) {
        return f32::INFINITY;
    }
    if x < f32::from_bits(0xC2CF_F1B4) {
        return 0.0;
    }
    let (hi, lo, exponent) = exp_parts(f64::from(x));
    scale(round_odd(hi, lo), exponent) as f32
}

/// `e^x` within 1 ulp of binary64; results below 2^-1021 are +0, a NaN gives a NaN.
///
/// It takes the steps of [`exp_f32`] up to `hi`, in the range of binary64.
pub fn exp_f64(x: f64) -> f64 {
    if x.is_nan() {
        return f64::NAN;
    }
    if x > 709.75 {
        return f64::INFINITY;
    }
    if x < -707.0 {
        return 0.0;
    }
    let (hi, _, exponent) = exp_parts(x);
    scale(hi, exponent)
}

/// Steps 2 to 6 of `exp_f32`: `hi`, `lo` and the power of two that multiplies them.
fn exp_parts(d: f64) -> (f64, f64, i32) {
    let t = d * INV_LN2_32 + TO_INTEGER;
    let k = t.to_bits() as u32 as i32;
    let kd = t - TO_INTEGER;
    let r = (d - kd * LN2_32_HI) - kd * LN2_32_LO;
    let q = 1.0 / 720.0 + r * (1.0 / 5040.0);
    let q = 0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * q)));
    let p = r + (r * r) * q;
    let j = k & 31;
    // 0..32 by the mask.
    let [th, tl] = EXP2_32[j as usize].map(f64::from_bits);
    let y = tl + th * p;
    let hi = th + y;
    let lo = y - (hi - th);
    (hi, lo, (k - j) / 32)
}

/// `x × 2^exponent` for a result that is normal.
fn scale(x: f64, exponent: i32) -> f64 {
    f64::from_bits(x.to_bits().wrapping_add((i64::from(exponent) << 52) as u64))
}

/// `ln(1 + x)`, correctly rounded to nearest, ties to even; NaNs and numbers below −1 give 0x7FC00000.
pub fn log1p_f32(x: f32) -> f32 {
    if x.is_nan() || x < -1.0 {
        return NAN;
    }
    if x == -1.0 {
        return f32::NEG_INFINITY;
    }
    if x == 0.0 || x == f32::INFINITY {
        return x;
    }
    let d = f64::from(x);
    if d > -0.015_625 && d < 0.015_625 {
        let q = d * (-1.0 / 8.0 + d * (1.0 / 9.0 + d * (-1.0 / 10.0)));
        let q = d * (-1.0 / 4.0 + d * (1.0 / 5.0 + d * (-1.0 / 6.0 + d * (1.0 / 7.0 + q))));
        let y = (d * d) * (-0.5 + d * (1.0 / 3.0 + q));
        let hi = d + y;
        return round_odd(hi, y - (hi - d)) as f32;
    }
    let u = 1.0 + d;
    let c = if d >= 1.0 { 1.0 - (u - d) } else { 0.0 };
    let (hi, lo) = log_parts(u, c);
    round_odd(hi, lo) as f32
}

/// `ln x` within `2^-52·|ln x| + 2^-58` for a normal positive `x`; subnormal numbers and zero give −∞, negative ones a NaN.
///
/// It takes the steps of [`log1p_f32`] with `u` = `x` and `c` = 0.
pub fn ln_f64(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x < f64::MIN_POSITIVE {
        return f64::NEG_INFINITY;
    }
    if x == f64::INFINITY {
        return x;
    }
    log_parts(x, 0.0).0
}

/// Steps 3 to 5 of `log1p_f32`: `hi` and `lo`.
fn log_parts(u: f64, c: f64) -> (f64, f64) {
    let bits = u.to_bits();
    let e = f64::from((bits >> 52) as i32 - 1023);
    let m = f64::from_bits(bits & 0x000F_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000);
    let j = bits >> 46 & 63;
    let b = 1.0 + (2 * j + 1) as f64 / 128.0;
    let z = (m - b) / b;
    let q = z * (1.0 / 5.0 + z * (-1.0 / 6.0 + z * (1.0 / 7.0 + z * (-1.0 / 8.0))));
    let q = -0.5 + z * (1.0 / 3.0 + z * (-1.0 / 4.0 + q));
    let p = z + (z * z) * q;
    let [bh, bl] = LOG_C[j as usize].map(f64::from_bits);
    let s = e * LN2_HI + bh;
    let y = ((e * LN2_LO + bl) + c / u) + p;
    let hi = s + y;
    let v = hi - s;
    let lo = (s - (hi - v)) + (y - v);
    (hi, lo)
}

/// Sine and cosine of an angle below 2^20, within 2^-52 of the true values; both NaN for other angles.
///
/// The angle is reduced by multiples of π/2 in three parts (the products with the first two are exact) and Taylor's series
/// are evaluated, in binary64 `+ − ×` only, so that tables are the same on every platform.
pub fn sin_cos_f64(angle: f64) -> (f64, f64) {
    if angle.abs() < 1_048_576.0 {
        let t = angle * std::f64::consts::FRAC_2_PI + TO_INTEGER;
        let n = t - TO_INTEGER;
        let r = ((angle - n * HALF_PI[0]) - n * HALF_PI[1]) - n * HALF_PI[2];
        let q = r * r;
        let (mut sin, mut cos) = (1.0, 1.0);
        for k in (1..=9).rev() {
            let k = f64::from(k);
            sin = 1.0 - q / (2.0 * k * (2.0 * k + 1.0)) * sin;
            cos = 1.0 - q / (2.0 * k * (2.0 * k - 1.0)) * cos;
        }
        sin *= r;
        match t.to_bits() & 3 {
            0 => (sin, cos),
            1 => (cos, -sin),
            2 => (-sin, -cos),
            _ => (-cos, sin),
        }
    } else {
        (f64::NAN, f64::NAN)
    }
}

/// `hi` with the direction of `lo` folded into its last bit, so that a further rounding to fewer bits rounds the sum.
pub(super) fn round_odd(hi: f64, lo: f64) -> f64 {
    let bits = hi.to_bits();
    if lo == 0.0 || bits & 1 == 1 {
        return hi;
    }
    f64::from_bits(if (lo > 0.0) == (hi > 0.0) { bits + 1 } else { bits - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_arguments() {
        let inf = f32::INFINITY;
        for (x, exp, log1p) in [
            (0.0, 1.0, 0.0),
            (-0.0, 1.0, -0.0),
            (inf, inf, inf),
            (-inf, 0.0, NAN),
            (f32::NAN, NAN, NAN),
            (-f32::NAN, NAN, NAN),
            (-1.0, 0.367_879_45, -inf),
            (1.0, std::f32::consts::E, std::f32::consts::LN_2),
            (f32::from_bits(1), 1.0, f32::from_bits(1)),
            (f32::MAX, inf, 88.722_84),
        ] {
            assert_eq!(exp_f32(x).to_bits(), exp.to_bits(), "exp {x}");
            assert_eq!(log1p_f32(x).to_bits(), log1p.to_bits(), "log1p {x}");
        }
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!(exp_f32(f32::from_bits(0x42B1_7217)).to_bits(), 0x7F7F_FF84);
        assert_eq!(exp_f32(f32::from_bits(0x42B1_7218)), f32::INFINITY);
        assert_eq!(exp_f32(f32::from_bits(0xC2CF_F1B4)).to_bits(), 1);
        assert_eq!(exp_f32(f32::from_bits(0xC2CF_F1B5)), 0.0);
    }
}
