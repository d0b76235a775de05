//! Speed of the reference products on one thread, in multiplications and additions per second. Run with
//! `cargo bench --bench gemm`.
#![expect(clippy::print_stdout, reason = "a benchmark reports on the terminal")]
#![expect(clippy::unwrap_used, reason = "its slices are valid")]

use silicast::dtype::Dtype;
use silicast::kernel::reference::gemm::{self, Size};
use silicast::kernel::reference::group_gemm::{self, Dequant, Int4};
use silicast::kernel::reference::hardware::{Hardware, Mode, Order, Scaling};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Seconds that this thread has computed, where the system tells, so that other work on the machine does not count.
fn computed() -> Option<f64> {
    #[expect(clippy::disallowed_methods, reason = "a counter of the kernel, not a file")]
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? * 1e-9)
}

/// Runs `f` for a while and returns the seconds of a run.
fn time(mut f: impl FnMut()) -> f64 {
    let (start, before) = (Instant::now(), computed());
    let mut runs = 0;
    while runs == 0 || start.elapsed() < Duration::from_millis(500) {
        f();
        runs += 1;
    }
    let seconds = match (before, computed()) {
        (Some(before), Some(after)) => after - before,
        _ => start.elapsed().as_secs_f64(),
    };
    seconds / f64::from(runs)
}

fn main() {
    for m in [1, 8, 32] {
        report(Size { m, n: 256, k: 7168 });
    }
}

fn report(size: Size) {
    let Size { m, n, k } = size;
    println!("m = {m}, n = {n}, k = {k}");
    let codes =
        |n: usize| -> Vec<u8> { (0..n).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 9) as u8 & 0xF7).collect() };
    let (a, b) = (codes(m * k), codes(n * k));
    let ones = vec![1.0f32; n.max(m) * k.div_ceil(16)];
    let ints = |bytes: &[u8]| -> Vec<i8> { bytes.iter().map(|b| b.cast_signed()).collect() };
    let (ia, ib) = (ints(&a), ints(&b));
    let values = vec![1.5f32; m * k];
    let mut out = vec![0.0f32; m * n];
    let work = m as f64 * n as f64 * k as f64;
    let mut line = |name: &str, run: &mut dyn FnMut(&mut [f32])| {
        let seconds = time(|| run(black_box(&mut out)));
        println!("  {name:<28} {:8.3} GMAC/s", work / seconds / 1e9);
    };

    let joint = Scaling::new(Order::Joint);
    let successive = Scaling::new(Order::Successive);
    let scale = |rows: usize, block: usize| &ones[..rows * k.div_ceil(block)];
    for (name, mode) in [
        ("fp8_block R0", Mode::Exact),
        ("fp8_block R1", Mode::Sequential),
        ("fp8_block R2", Mode::Hardware(Hardware::default())),
    ] {
        line(name, &mut |out| {
            gemm::fp8_block(&mode, joint, size, &a, scale(m, 128), &b, scale(n / 128, 128), out).unwrap();
        });
    }
    line("fp8_token_channel R0", &mut |out| {
        let (sa, sb) = (&ones[..m], &ones[..n]);
        gemm::fp8_token_channel(&Mode::Exact, successive, size, &a, sa, &b, sb, None, out).unwrap();
    });
    line("w8a8", &mut |out| {
        gemm::w8a8(Order::Successive, size, &ia, &ones[..m], &ib, &ones[..n], None, out).unwrap();
    });
    for (name, dtype) in [("mxfp8 E4M3 R0", Dtype::F8E4M3), ("mxfp8 E5M2 R0", Dtype::F8E5M2)] {
        line(name, &mut |out| {
            let (sa, sb) = (scale(m, 32), scale(n, 32));
            gemm::mxfp8(&Mode::Exact, joint, size, [dtype, dtype], &a, sa, &b, sb, out).unwrap();
        });
    }
    line("fp8_mxfp4 R0", &mut |out| {
        let (sa, sb, half) = (scale(m, 128), scale(n, 32), &b[..n * k / 2]);
        gemm::mxfp4(&Mode::Exact, successive, size, Dtype::F8E4M3, 128, &a, sa, half, sb, out).unwrap();
    });
    line("nvfp4 R0", &mut |out| {
        let (sa, sb) = (scale(m, 16), scale(n, 16));
        let (a, b) = (&a[..m * k / 2], &b[..n * k / 2]);
        gemm::nvfp4(&Mode::Exact, joint, size, a, sa, 1.0, b, sb, 1.0, out).unwrap();
    });
    let groups = k / 128;
    let weights =
        Int4 { codes: &b[..n * k / 2], signed: true, scales: &ones[..n * groups], zeros: None, groups };
    line("w4a16_group", &mut |out| {
        group_gemm::w4a16_group(Dequant::Bf16, size, &values, &weights, out).unwrap();
    });
    line("w4a8_group", &mut |out| {
        group_gemm::w4a8_group(size, &ia, &ones[..m], &weights, None, None, out).unwrap();
    });
}
