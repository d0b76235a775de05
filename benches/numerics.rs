//! How much each legal choice of a kernel moves its result: the table of the documentation. Run with
//! `cargo bench --bench numerics`; it takes no time measurements, and prints the same on every machine.
#![expect(clippy::print_stdout, reason = "it reports on the terminal")]
#![expect(clippy::unwrap_used, reason = "its slices are valid")]

use silicast::dtype::Dtype;
use silicast::dtype::codec::{bf16_from_f32, decode, f32_from_bf16, f32_from_e4m3};
use silicast::kernel::reference::gemm::{self, Size};
use silicast::kernel::reference::group_gemm::{self, Dequant, Int4};
use silicast::kernel::reference::hardware::{Hardware, Mode, Order, Rounding, Scaling};
use silicast::kernel::reference::quant::{Recipe, nvfp4, quantize};

const SIZE: Size = Size { m: 32, n: 256, k: 7168 };

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// BF16 values, about normal (the sum of twelve uniform ones), of standard deviation `sigma`.
    fn matrix(&mut self, n: usize, sigma: f64) -> Vec<f32> {
        let mut value = || {
            let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
            f32_from_bf16(bf16_from_f32(((sum - 6.0) * sigma) as f32))
        };
        (0..n).map(|_| value()).collect()
    }
}

/// Codes and scales of a matrix.
struct Quantized {
    codes: Vec<u8>,
    scales: Vec<f32>,
}

fn quantized(recipe: Recipe, x: &[f32], shape: [usize; 2], block: [usize; 2]) -> Quantized {
    let side = |i: usize| shape[i].div_ceil(if block[i] == 0 { shape[i] } else { block[i] });
    let mut q = Quantized { codes: vec![0; x.len()], scales: vec![0.0; side(0) * side(1)] };
    quantize(recipe, x, shape, block, &mut q.codes, &mut q.scales).unwrap();
    q
}

/// `A·Bᵀ` with one rounding of a sum in `f64`.
fn wide(a: &[f32], b: &[f32]) -> Vec<f32> {
    product(a, b, |a, b| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32)
}

/// `A·Bᵀ` in sequence in `f32`.
fn narrow(a: &[f32], b: &[f32]) -> Vec<f32> {
    product(a, b, |a, b| a.iter().zip(b).fold(0.0, |acc, (a, b)| acc + a * b))
}

fn product(a: &[f32], b: &[f32], dot: impl Fn(&[f32], &[f32]) -> f32) -> Vec<f32> {
    a.chunks(SIZE.k).flat_map(|a| b.chunks(SIZE.k).map(|b| dot(a, b)).collect::<Vec<_>>()).collect()
}

fn bf16(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| f32_from_bf16(bf16_from_f32(*x))).collect()
}

/// `1 − 2·Σxy / Σ(x² + y²)`.
fn calc_diff(x: &[f32], y: &[f32]) -> f64 {
    let pairs = || x.iter().zip(y).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    let both: f64 = pairs().map(|(x, y)| x * x + y * y).sum();
    // The difference of squares is exact where the quotient would cancel.
    pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f64>() / both
}

struct Table<'a> {
    reference: &'a [f32],
}

impl Table<'_> {
    fn head(title: &str) {
        println!("\n{title}\n");
        println!(
            "| choice | FP32 bits equal | BF16 bits equal | calc_diff (FP32) | calc_diff (BF16) | rel_diff | max rel |"
        );
        println!("|---|---|---|---|---|---|---|");
    }

    fn row(&self, name: &str, result: &[f32]) {
        let share = |x: &[f32], y: &[f32]| {
            let equal = x.iter().zip(y).filter(|(x, y)| x.to_bits() == y.to_bits()).count();
            format!("{:.2} %", 100.0 * equal as f64 / x.len() as f64)
        };
        let (rounded, golden) = (bf16(result), bf16(self.reference));
        let pairs = || result.iter().zip(self.reference).map(|(x, y)| (f64::from(*x), f64::from(*y)));
        let error: f64 = pairs().map(|(x, y)| (x - y).abs()).sum();
        let size: f64 = pairs().map(|(_, y)| y.abs()).sum();
        let floor = (pairs().map(|(_, y)| y * y).sum::<f64>() / result.len() as f64).sqrt() / 256.0;
        let max =
            pairs().filter(|(_, y)| y.abs() > floor).map(|(x, y)| ((x - y) / y).abs()).fold(0.0, f64::max);
        println!(
            "| {name} | {} | {} | {:.1e} | {:.1e} | {:.1e} | {max:.1e} |",
            share(result, self.reference),
            share(&rounded, &golden),
            calc_diff(result, self.reference),
            calc_diff(&rounded, &golden),
            error / size,
        );
    }
}

fn main() {
    let Size { m, n, k } = SIZE;
    let mut random = Random(1);
    let x = random.matrix(m * k, 1.0);
    let w = random.matrix(n * k, 0.02);
    println!("M = {m}, N = {n}, K = {k}; BF16 Gaussian values, sigma 1 and 0.02.");
    println!("max rel is over results above 2^-8 of the root mean square.");
    blocks(&x, &w);
    no_promotion(&x, &w);
    integers(&x, &w);
    four_bits(&x, &w);
    quantizers(&x);
}

fn hardware(mma_k: usize, fraction_bits: u32, rounding: Rounding, promote_every: usize) -> Mode {
    Mode::Hardware(Hardware { mma_k, fraction_bits, rounding, promote_every })
}

/// The block-scaled FP8 product.
fn blocks(x: &[f32], w: &[f32]) {
    let Size { m, n, k } = SIZE;
    let a = quantized(Recipe::VllmFp8Group, x, [m, k], [1, 128]);
    let b = quantized(Recipe::VllmFp8Group, w, [n, k], [128, 128]);
    let joint = Scaling::new(Order::Joint);
    let run = |mode: Mode, scaling: Scaling| {
        let mut out = vec![0.0; m * n];
        gemm::fp8_block(&mode, scaling, SIZE, &a.codes, &a.scales, &b.codes, &b.scales, &mut out).unwrap();
        out
    };
    let reference = run(Mode::Exact, joint);
    let table = Table { reference: &reference };
    Table::head("gemm_fp8_block, FP32 scales 1×128 and 128×128, against R0");
    table.row("FMA for scale-and-add", &run(Mode::Exact, Scaling { fma: true, ..joint }));
    table.row("(d·sa)·sb instead of d·(sa·sb)", &run(Mode::Exact, Scaling::new(Order::Successive)));
    table.row("f32 in sequence inside the block (R1)", &run(Mode::Sequential, joint));
    let scale = |q: &Quantized, row: usize, col: usize, rows: usize| {
        q.scales[row / rows * k.div_ceil(128) + col / 128]
    };
    let values = |q: &Quantized, rows: usize| -> Vec<f32> {
        let value = |(i, c): (usize, &u8)| f32_from_e4m3(*c) * scale(q, i / k, i % k, rows);
        q.codes.iter().enumerate().map(value).collect()
    };
    let precise: Vec<f32> = (0..m * n)
        .map(|i| {
            let (row, col) = (i / n, i % n);
            let term = |at: usize| {
                let codes = f64::from(f32_from_e4m3(a.codes[row * k + at]))
                    * f64::from(f32_from_e4m3(b.codes[col * k + at]));
                codes * (f64::from(scale(&a, row, at, 1)) * f64::from(scale(&b, col, at, 128)))
            };
            (0..k).map(term).sum::<f64>() as f32
        })
        .collect();
    table.row("the sum in f64, one rounding", &precise);
    let (va, vb) = (values(&a, 1), values(&b, 128));
    table.row("both dequantized to f32, f32 in sequence", &narrow(&va, &vb));
    for (name, mode) in [
        ("R2: 32 wide, 13 bits, truncated, promoted every 128", hardware(32, 13, Rounding::Truncate, 128)),
        ("R2: the same, to nearest even", hardware(32, 13, Rounding::NearestEven, 128)),
        ("R2: 16 wide, 13 bits, truncated, promoted every 128", hardware(16, 13, Rounding::Truncate, 128)),
        ("R2: 32 wide, 13 bits, truncated, promoted every 64", hardware(32, 13, Rounding::Truncate, 64)),
        ("R2: 32 wide, 10 bits, truncated, promoted every 128", hardware(32, 10, Rounding::Truncate, 128)),
        ("R2: 32 wide, 23 bits, truncated, promoted every 128", hardware(32, 23, Rounding::Truncate, 128)),
    ] {
        table.row(name, &run(mode, joint));
    }
    table.row("both dequantized to BF16, f64 sum", &wide(&bf16(&va), &bf16(&vb)));
    table.row("BF16 activations × weight dequantized to BF16", &wide(x, &bf16(&vb)));
    let mut wrong = b.scales.clone();
    wrong.iter_mut().for_each(|s| *s *= 1.02);
    let mut out = vec![0.0; m * n];
    gemm::fp8_block(&Mode::Exact, joint, SIZE, &a.codes, &a.scales, &b.codes, &wrong, &mut out).unwrap();
    table.row("wrong on purpose: scales 2 % too large", &out);

    let unquantized = wide(x, w);
    let table = Table { reference: &unquantized };
    Table::head("against the product of the unquantized BF16 matrices");
    table.row("FP8, FP32 scales 1×128 and 128×128", &reference);
    let a = quantized(Recipe::DgFp8Ue8m0, x, [m, k], [1, 128]);
    let b = quantized(Recipe::DgFp8Ue8m0, w, [n, k], [128, 128]);
    let mut out = vec![0.0; m * n];
    gemm::fp8_block(&Mode::Exact, joint, SIZE, &a.codes, &a.scales, &b.codes, &b.scales, &mut out).unwrap();
    table.row("FP8, UE8M0 scales 1×128 and 128×128", &out);
    let successive = run_power_of_two(&a, &b);
    let equal = out.iter().zip(&successive).all(|(x, y)| x.to_bits() == y.to_bits());
    println!("\nWith UE8M0 scales the orders of the scales agree in every bit: {equal}.");
}

fn run_power_of_two(a: &Quantized, b: &Quantized) -> Vec<f32> {
    let mut out = vec![0.0; SIZE.m * SIZE.n];
    let order = Scaling { order: Order::Successive, fma: true };
    gemm::fp8_block(&Mode::Exact, order, SIZE, &a.codes, &a.scales, &b.codes, &b.scales, &mut out).unwrap();
    out
}

/// One accumulator over all of K.
fn no_promotion(x: &[f32], w: &[f32]) {
    let Size { m, n, k } = SIZE;
    let a = quantized(Recipe::VllmFp8Token, x, [m, k], [1, 0]);
    let b = quantized(Recipe::VllmFp8Token, w, [n, k], [1, 0]);
    let run = |mode: Mode, order: Order| {
        let mut out = vec![0.0; m * n];
        let scaling = Scaling::new(order);
        gemm::fp8_token_channel(
            &mode, scaling, SIZE, &a.codes, &a.scales, &b.codes, &b.scales, None, &mut out,
        )
        .unwrap();
        out
    };
    let reference = run(Mode::Exact, Order::Successive);
    let table = Table { reference: &reference };
    Table::head("gemm_fp8_token_channel, against R0");
    table.row("d·(sa·sb) instead of (d·sa)·sb", &run(Mode::Exact, Order::Joint));
    table.row("f32 in sequence (R1)", &run(Mode::Sequential, Order::Successive));
    for (name, bits, promote) in [
        ("R2: 32 wide, 13 bits, truncated, promoted every 128", 13, 128),
        ("R2: 32 wide, 13 bits, truncated, never promoted", 13, 0),
        ("R2: 32 wide, 10 bits, truncated, never promoted", 10, 0),
        ("R2: 32 wide, 23 bits, truncated, never promoted", 23, 0),
    ] {
        table.row(name, &run(hardware(32, bits, Rounding::Truncate, promote), Order::Successive));
    }
}

/// The integer product.
fn integers(x: &[f32], w: &[f32]) {
    let Size { m, n, k } = SIZE;
    let a = quantized(Recipe::Int8Token, x, [m, k], [1, 0]);
    let b = quantized(Recipe::Int8Token, w, [n, k], [1, 0]);
    let signed = |q: &Quantized| -> Vec<i8> { q.codes.iter().map(|c| c.cast_signed()).collect() };
    let run = |order: Order| {
        let mut out = vec![0.0; m * n];
        gemm::w8a8(order, SIZE, &signed(&a), &a.scales, &signed(&b), &b.scales, None, &mut out).unwrap();
        out
    };
    let reference = run(Order::Successive);
    Table::head("gemm_w8a8, per token and per channel");
    Table { reference: &reference }.row("acc·(sx·sw) instead of (acc·sx)·sw", &run(Order::Joint));
    Table { reference: &wide(x, w) }.row("INT8 against the unquantized product", &reference);
}

/// Products with 4-bit weights.
fn four_bits(x: &[f32], w: &[f32]) {
    let Size { m, n, k } = SIZE;
    let pack = |codes: &[u8]| -> Vec<u8> { codes.chunks(2).map(|c| c[0] & 15 | c[1] << 4).collect() };
    let groups = k / 128;
    let scales: Vec<f32> =
        w.chunks(128).map(|w| w.iter().fold(0.0f32, |amax, x| amax.max(x.abs())) / 7.0).collect();
    let codes: Vec<u8> = w
        .iter()
        .enumerate()
        .map(|(i, x)| (x / scales[i / 128]).round_ties_even().clamp(-8.0, 7.0) as i8 as u8)
        .collect();
    let codes = pack(&codes);
    let weights = Int4 { codes: &codes, signed: true, scales: &scales, zeros: None, groups };
    let run = |dequant: Dequant| {
        let mut out = vec![0.0; m * n];
        group_gemm::w4a16_group(dequant, SIZE, x, &weights, &mut out).unwrap();
        out
    };
    let reference = run(Dequant::Bf16);
    let unquantized = wide(x, w);
    Table::head("gemm_w4a16_group, groups of 128, FP32 scales");
    let table = Table { reference: &reference };
    table.row("weights kept in f32 (dequant=f32)", &run(Dequant::F32));
    let values: Vec<f32> = (0..n * k)
        .map(|i| {
            let code = codes[i / 2] >> (i % 2 * 4) & 15;
            decode(Dtype::I4, code.into()) * scales[i / 128]
        })
        .collect();
    table.row("the sum in f64, one rounding", &wide(x, &bf16(&values)));
    Table { reference: &unquantized }.row("INT4 against the unquantized product", &reference);

    let a = quantized(Recipe::DsFp8F32Mul, x, [m, k], [1, 128]);
    let b = quantized(Recipe::MxFp4Ds, w, [n, k], [1, 32]);
    let bytes = pack(&b.codes);
    let run = |mode: Mode, order: Order| {
        let mut out = vec![0.0; m * n];
        let scaling = Scaling::new(order);
        gemm::mxfp4(
            &mode,
            scaling,
            SIZE,
            Dtype::F8E4M3,
            128,
            &a.codes,
            &a.scales,
            &bytes,
            &b.scales,
            &mut out,
        )
        .unwrap();
        out
    };
    let reference = run(Mode::Exact, Order::Successive);
    Table::head("gemm_fp8_mxfp4, FP32 activation scales");
    let table = Table { reference: &reference };
    table.row("d·(sa·sb) instead of (d·sa)·sb", &run(Mode::Exact, Order::Joint));
    table.row(
        "R2: 32 wide, 13 bits, truncated",
        &run(hardware(32, 13, Rounding::Truncate, 128), Order::Successive),
    );
    Table { reference: &unquantized }.row("FP8×MXFP4 against the unquantized product", &reference);

    let nv = |x: &[f32], rows: usize| {
        let (mut codes, mut scales) = (vec![0; x.len()], vec![0; x.len() / 16]);
        let g = nvfp4(x, [rows, k], None, &mut codes, &mut scales).unwrap();
        let scales: Vec<f32> = scales.iter().map(|s| f32_from_e4m3(*s)).collect();
        (pack(&codes), scales, g)
    };
    let ((a, sa, ga), (b, sb, gb)) = (nv(x, m), nv(w, n));
    let run = |ga: f32, gb: f32| {
        let mut out = vec![0.0; m * n];
        let scaling = Scaling::new(Order::Joint);
        gemm::nvfp4(&Mode::Exact, scaling, SIZE, &a, &sa, ga, &b, &sb, gb, &mut out).unwrap();
        out
    };
    let reference = run(ga, gb);
    Table::head("gemm_nvfp4");
    let successive: Vec<f32> = run(ga, 1.0).iter().map(|acc| acc * gb).collect();
    Table { reference: &reference }.row("(acc·ga)·gb instead of acc·(ga·gb)", &successive);
    Table { reference: &unquantized }.row("NVFP4 against the unquantized product", &reference);
}

/// Orders of operations in quantizers.
fn quantizers(x: &[f32]) {
    let shape = [SIZE.m, SIZE.k];
    println!("\nquantizers on the activations\n");
    println!(
        "| recipe | other | scales that differ | values that differ | blocks with a value that differs |"
    );
    println!("|---|---|---|---|---|");
    for (one, other, block) in [
        (Recipe::DsFp8F32Mul, Recipe::VllmFp8Group, [1, 128]),
        (Recipe::VllmFp8Group, Recipe::DgFp8F32, [1, 128]),
        (Recipe::VllmFp8Group, Recipe::TkFp8F32, [1, 128]),
        (Recipe::VllmFp8TokenDiv, Recipe::VllmFp8Token, [1, 0]),
        (Recipe::DsFp8Ue8m0, Recipe::DgFp8Ue8m0, [1, 128]),
        (Recipe::MxFp4Ds, Recipe::MxFp4Dg, [1, 32]),
    ] {
        let (a, b) = (quantized(one, x, shape, block), quantized(other, x, shape, block));
        let percent = |n: usize, of: usize| 100.0 * n as f64 / of as f64;
        let scales = a.scales.iter().zip(&b.scales).filter(|(a, b)| a != b).count();
        // A zero with a sign is no other value.
        let values =
            |q: &Quantized| q.codes.iter().map(|c| decode(one.codes(), (*c).into())).collect::<Vec<_>>();
        let (va, vb) = (values(&a), values(&b));
        let codes = va.iter().zip(&vb).filter(|(a, b)| a != b).count();
        let width = if block[1] == 0 { SIZE.k } else { block[1] };
        let blocks = va.chunks(width).zip(vb.chunks(width)).filter(|(a, b)| a != b).count();
        let name =
            |r: Recipe| Recipe::ALL.iter().find(|(_, recipe)| *recipe == r).map_or("", |(name, _)| name);
        println!(
            "| `{}` | `{}` | {:.1} % | {:.3} % | {:.1} % |",
            name(one),
            name(other),
            percent(scales, a.scales.len()),
            percent(codes, a.codes.len()),
            percent(blocks, a.codes.len() / width),
        );
    }
}
