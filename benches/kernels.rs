//! Throughput of the kernels, in GB/s of input, per instruction set; one thread. Run with `cargo bench --bench kernels`,
//! optionally followed by `-- FILTER` (part of a kernel's name).
#![expect(clippy::print_stdout, reason = "a benchmark reports on the terminal")]
#![expect(clippy::unwrap_used, reason = "its tiles are valid")]

use silicast::dtype::Dtype;
use silicast::dtype::packing::Packing;
use silicast::dtype::scheme::{Rule, Scheme};
use silicast::kernel::{self, Isa, Policy, Sink, Values, pack};
use std::hint::black_box;
use std::time::{Duration, Instant};

const ROWS: usize = 256;
const COLS: usize = 7168;

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
    print!("{:<40}", "GB/s of input");
    isas.iter().for_each(|isa| print!("{:>10}", isa.name()));
    println!();

    let mut random = Random(1);
    let f32s: Vec<u8> = (0..ROWS * COLS).flat_map(|_| random.weight().to_le_bytes()).collect();
    let plain = Values::F32(&f32s);
    let (mut bf16, mut f16) = (vec![0; ROWS * COLS * 2], vec![0; ROWS * COLS * 2]);
    for (to, out) in [(Dtype::BF16, &mut bf16), (Dtype::F16, &mut f16)] {
        kernel::convert(Isa::detect(), &plain, ROWS, COLS, Sink::Cast { to, out }, Policy::default())
            .unwrap();
    }
    let [fp8, groups, int8] = [
        ("f8_e4m3:128x128:f32:amax448", 128, 128),
        ("f8_e4m3:1x32:u8:mx-rceil", 1, 32),
        ("i8:channel:f32:amax127", 1, COLS),
    ]
    .map(|(scheme, block_rows, block_cols)| {
        let scheme: Scheme = scheme.parse().unwrap();
        let mut codes = vec![0; ROWS * COLS];
        let mut scales = vec![0.0; ROWS.div_ceil(block_rows) * COLS.div_ceil(block_cols)];
        let sink =
            Sink::Quantize { scheme, global: 1.0, codes: &mut codes, scales: &mut scales, zeros: &mut [] };
        kernel::convert(Isa::detect(), &plain, ROWS, COLS, sink, Policy::default()).unwrap();
        (scheme.element, codes, scales, block_rows, block_cols)
    });
    let sources = [
        ("fp8", scaled(&fp8), 1),
        ("fp8 1x32", scaled(&groups), 1),
        ("bf16", Values::Bf16(&bf16), 2),
        ("f16", Values::F16(&f16), 2),
        ("f32", plain, 4),
        ("int8", scaled(&int8), 1),
    ];

    let mut out = vec![0; ROWS * COLS * 4];
    let mut scales = vec![0.0; ROWS * COLS.div_ceil(16)];
    let mut zeros = vec![0; scales.len()];
    for (name, values, size) in &sources {
        for to in [Dtype::BF16, Dtype::F16, Dtype::F32] {
            report(&format!("{name} -> {to}"), &filter, &isas, ROWS * COLS * size, |isa| {
                let bytes = ROWS * COLS * if to == Dtype::F32 { 4 } else { 2 };
                let sink = Sink::Cast { to, out: &mut out[..bytes] };
                black_box(kernel::convert(isa, values, ROWS, COLS, sink, Policy::default())).unwrap();
            });
        }
        for text in SCHEMES {
            let scheme: Scheme = text.parse().unwrap();
            if scheme.rule == Rule::Fp4Blocks && *name != "fp8 1x32" {
                continue;
            }
            report(&format!("{name} -> {text}"), &filter, &isas, ROWS * COLS * size, |isa| {
                let [grid_rows, grid_cols] = scheme.granularity.grid(ROWS as u64, COLS as u64);
                let units = (grid_rows * grid_cols) as usize;
                let sink = Sink::Quantize {
                    scheme,
                    global: if scheme.rule == Rule::Nvfp4 { 2688.0 / 0.12 } else { 1.0 },
                    codes: &mut out[..ROWS * COLS],
                    scales: &mut scales[..units],
                    zeros: &mut zeros[..if scheme.rule.is_asymmetric() { units } else { 0 }],
                };
                black_box(kernel::convert(isa, values, ROWS, COLS, sink, Policy::default())).unwrap();
            });
        }
        report(&format!("{name} largest magnitude"), &filter, &isas, ROWS * COLS * size, |isa| {
            black_box(kernel::largest_magnitude(isa, values, ROWS, COLS, Policy::default())).unwrap();
        });
    }
    for (dtype, bytes) in [(Dtype::F8E4M3, &out[..]), (Dtype::BF16, &bf16[..]), (Dtype::F32, &f32s[..])] {
        report(&format!("count non-finite {dtype}"), &filter, &isas, bytes.len(), |isa| {
            black_box(kernel::count_non_finite(isa, dtype, black_box(bytes)));
        });
    }

    // These move bytes by the same instructions everywhere; GB/s of stored bytes.
    let codes: Vec<u8> = (0..ROWS * COLS).map(|_| ((random.next() >> 60) as u8).wrapping_sub(8)).collect();
    let mut back = vec![0; ROWS * COLS];
    for packing in Packing::all() {
        let len = pack::stored_len(packing, Dtype::I4, ROWS, COLS);
        let mut stored = vec![0; len];
        report(&format!("pack {}", packing.name()), &filter, &isas[..1], len, |_| {
            pack::pack(packing, Dtype::I4, black_box(&codes), ROWS, COLS, &mut stored);
        });
        report(&format!("unpack {}", packing.name()), &filter, &isas[..1], len, |_| {
            pack::unpack(packing, Dtype::I4, black_box(&stored), ROWS, COLS, &mut back);
        });
    }
    report("transpose f16", &filter, &isas[..1], bf16.len(), |_| {
        pack::transpose::<2>(black_box(&bf16), ROWS, COLS, &mut out[..ROWS * COLS * 2]);
    });
    report("fp4 to e4m3", &filter, &isas[..1], codes.len(), |_| {
        pack::fp4_to_e4m3(black_box(&codes), &mut back);
    });
    report("subtract zero points", &filter, &isas[..1], back.len(), |_| {
        pack::subtract_zeros(black_box(&mut back), ROWS, COLS, &zeros[..ROWS * COLS.div_ceil(128)], 128);
    });
    report("scale bias", &filter, &isas[..1], codes.len(), |_| {
        let mut bias = [0.0; ROWS];
        pack::scale_bias(black_box(&codes), &scales[..ROWS], ROWS, COLS, 1, black_box(&mut bias));
    });
}

/// Element, codes, scales, rows and columns of a block.
type Quantized = (Dtype, Vec<u8>, Vec<f32>, usize, usize);

fn scaled((element, codes, scales, block_rows, block_cols): &Quantized) -> Values<'_> {
    Values::Scaled { element: *element, codes, scales, block_rows: *block_rows, block_cols: *block_cols }
}

/// The conversions to time.
const SCHEMES: [&str; 19] = [
    "i8:channel:f32:amax127",
    "i8:channel:bf16:ct127.5-bf16",
    "f8_e4m3:channel:f32:amax448",
    "f8_e4m3:128x128:f32:amax448",
    "f8_e4m3:128x128:f32:deepseek-ue8m0",
    "f8_e4m3:128x128:f32:fp4-blocks",
    "i4:channel:f32:amax7",
    "i4:channel:f32:ssz7",
    "i8:1x128:bf16:amax127.5",
    "i4:1x128:bf16:amax7.5",
    "i4:1x128:bf16:ct7.5-bf16",
    "i4:1x128:bf16:minmax15",
    "i4:1x32:bf16:amax7.5",
    "f8_e4m3:1x32:u8:mx-rceil",
    "f8_e4m3:1x32:u8:mx-even",
    "f4_e2m1:1x32:u8:mx-even",
    "f4_e2m1:1x32:u8:mx-best",
    "f4_e2m1:1x32:u8:mx-ascend",
    "f4_e2m1:1x16:f8_e4m3:nvfp4",
];

/// Times `f` for each instruction set and prints a line.
fn report(label: &str, filter: &str, isas: &[Isa], bytes: usize, mut f: impl FnMut(Isa)) {
    if !label.contains(filter) {
        return;
    }
    print!("{label:<40}");
    for isa in isas {
        let seconds = time(|| f(*isa));
        print!("{:>10.2}", bytes as f64 / seconds / 1e9);
    }
    println!();
}
