//! Throughput of the kernels, in GB/s of input, per instruction set; one thread. Run with `cargo bench --bench kernels`,
//! optionally followed by `-- FILTER` (part of a kernel's name).
#![expect(clippy::print_stdout, reason = "a benchmark reports on the terminal")]
#![expect(clippy::unwrap_used, reason = "its tiles are valid")]

use silicast::dtype::Dtype;
use silicast::dtype::packing::Packing;
use silicast::dtype::scheme::{Granularity, Rule, Scheme};
use silicast::kernel::{self, Isa, Policy, Sink, Values};
use std::hint::black_box;
use std::time::{Duration, Instant};

const ROWS: usize = 256;
const COLS: usize = 7168;
const BLOCK: usize = 128;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// About normal, with the standard deviation of a trained weight.
    fn weight(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        ((sum - 6.0) * 0.02) as f32
    }
}

/// Runs `f` for a while and returns the best seconds of a run.
fn time(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed() < Duration::from_millis(250) {
        let run = Instant::now();
        f();
        best = best.min(run.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    let isas = Isa::available();
    print!("{:<34}", "GB/s of input");
    isas.iter().for_each(|isa| print!("{:>10}", isa.name()));
    println!();

    let mut random = Random(1);
    let f32s: Vec<u8> = (0..ROWS * COLS).flat_map(|_| random.weight().to_le_bytes()).collect();
    let plain = Values::F32(&f32s);
    let (mut bf16, mut f16) = (vec![0; ROWS * COLS * 2], vec![0; ROWS * COLS * 2]);
    let (mut fp8, mut fp8_scales) =
        (vec![0; ROWS * COLS], vec![0.0; ROWS.div_ceil(BLOCK) * COLS.div_ceil(BLOCK)]);
    let mut int8 = vec![0; ROWS * COLS];
    let mut int8_scales = vec![0.0; ROWS];
    let blocks = Granularity::Block { rows: BLOCK as u32, cols: BLOCK as u32 };
    for sink in [
        Sink::Cast { to: Dtype::BF16, out: &mut bf16 },
        Sink::Cast { to: Dtype::F16, out: &mut f16 },
        Sink::Quantize {
            scheme: scheme(Rule::Amax448, blocks),
            global: 1.0,
            codes: &mut fp8,
            scales: &mut fp8_scales,
            zeros: &mut [],
        },
        Sink::Quantize {
            scheme: scheme(Rule::Amax127, Granularity::Channel),
            global: 1.0,
            codes: &mut int8,
            scales: &mut int8_scales,
            zeros: &mut [],
        },
    ] {
        kernel::convert(Isa::detect(), &plain, ROWS, COLS, sink, Policy::default()).unwrap();
    }
    let fp8 = Values::Scaled {
        element: Dtype::F8E4M3,
        codes: &fp8,
        scales: &fp8_scales,
        block_rows: BLOCK,
        block_cols: BLOCK,
    };
    let int8 = Values::Scaled {
        element: Dtype::I8,
        codes: &int8,
        scales: &int8_scales,
        block_rows: 1,
        block_cols: COLS,
    };
    let sources = [
        ("fp8", &fp8, 1),
        ("bf16", &Values::Bf16(&bf16), 2),
        ("f16", &Values::F16(&f16), 2),
        ("f32", &plain, 4),
        ("int8", &int8, 1),
    ];

    let mut out = vec![0; ROWS * COLS * 4];
    let mut scales = vec![0.0; ROWS.max(ROWS.div_ceil(BLOCK) * COLS.div_ceil(BLOCK))];
    for (name, values, size) in sources {
        let casts = [Dtype::BF16, Dtype::F16, Dtype::F32].map(|to| (to.to_string(), Err(to)));
        let quantizers = [
            (Rule::Amax127, Granularity::Channel),
            (Rule::Ct127Bf16, Granularity::Channel),
            (Rule::Amax448, Granularity::Channel),
            (Rule::Amax448, blocks),
            (Rule::DeepseekUe8m0, blocks),
        ]
        .map(|(rule, granularity)| (format!("{} {granularity}", rule.name()), Ok((rule, granularity))));
        for (sink_name, sink) in casts.into_iter().chain(quantizers) {
            let label = format!("{name} -> {sink_name}");
            if !label.contains(&filter) {
                continue;
            }
            print!("{label:<34}");
            for isa in &isas {
                let seconds = time(|| {
                    let sink = match sink {
                        Err(to) => {
                            let bytes = ROWS * COLS * if to == Dtype::F32 { 4 } else { 2 };
                            Sink::Cast { to, out: &mut out[..bytes] }
                        }
                        Ok((rule, granularity)) => {
                            let [grid_rows, grid_cols] = granularity.grid(ROWS as u64, COLS as u64);
                            let scales = &mut scales[..(grid_rows * grid_cols) as usize];
                            Sink::Quantize {
                                scheme: scheme(rule, granularity),
                                global: 1.0,
                                codes: &mut out[..ROWS * COLS],
                                scales,
                                zeros: &mut [],
                            }
                        }
                    };
                    black_box(kernel::convert(*isa, values, ROWS, COLS, sink, Policy::default())).unwrap();
                });
                print!("{:>10.2}", (ROWS * COLS * size) as f64 / seconds / 1e9);
            }
            println!();
        }
    }
    for (dtype, bytes) in [(Dtype::F8E4M3, &out[..]), (Dtype::BF16, &bf16[..]), (Dtype::F32, &f32s[..])] {
        let label = format!("count non-finite {dtype}");
        if label.contains(&filter) {
            print!("{label:<34}");
            for isa in &isas {
                let seconds = time(|| {
                    black_box(kernel::count_non_finite(*isa, dtype, black_box(bytes)));
                });
                print!("{:>10.2}", bytes.len() as f64 / seconds / 1e9);
            }
            println!();
        }
    }
}

/// A scheme of 8-bit codes; kernels look at rule and granularity alone.
fn scheme(rule: Rule, granularity: Granularity) -> Scheme {
    let integer = matches!(rule, Rule::Amax127 | Rule::Amax127Bf16 | Rule::Ct127Bf16);
    let element = if integer { Dtype::I8 } else { Dtype::F8E4M3 };
    Scheme { element, granularity, scale: Dtype::F32, rule, packing: Packing::Plain }
}
