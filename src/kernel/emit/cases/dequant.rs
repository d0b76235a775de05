//! Values of codes: kernels 9.

use super::super::golden::Draft;
use super::super::input::{Operand, pack};
use super::{gemm, operand, random_scale, rng};
use crate::dtype::Dtype;
use crate::kernel::reference::array::Array;

pub(super) fn drafts(kernel: &'static str) -> Vec<Draft> {
    let table = |dtype| tables(kernel, dtype);
    let scaled = |element, block, scales: &[Dtype]| scaled(kernel, element, block, scales);
    use Dtype::{BF16, F8E4M3, F8E4M3Fnuz, F8E5M2, F8E8M0, F16, F32};
    match kernel {
        "dequant_e4m3" => table(F8E4M3),
        "dequant_e5m2" => table(F8E5M2),
        "dequant_e4m3fnuz" => table(F8E4M3Fnuz),
        "dequant_e2m1" => table(Dtype::F4E2M1),
        "dequant_e8m0" => table(F8E8M0),
        "dequant_bf16" => bf16(kernel),
        "dequant_fp8_block" => scaled(&[F8E4M3, F8E5M2, F8E4M3Fnuz], [128, 128], &[F32, BF16, F16, F8E8M0]),
        "dequant_fp8_channel" => scaled(&[F8E4M3], [1, 0], &[F32, BF16]),
        "dequant_int8_channel" => scaled(&[Dtype::I8], [1, 0], &[F32, BF16]),
        "dequant_int8_block" => scaled(&[Dtype::I8], [128, 128], &[F32]),
        "dequant_int4_group" => int4(kernel),
        "dequant_mxfp8" => scaled(&[F8E4M3, F8E5M2], [1, 32], &[F8E8M0]),
        "dequant_mxfp4" => scaled(&[Dtype::F4E2M1], [1, 32], &[F8E8M0]),
        "dequant_nvfp4" => scaled(&[Dtype::F4E2M1], [1, 16], &[F8E4M3]),
        _ => Vec::new(),
    }
}

/// Every code of a format, the NaNs and infinities included: nothing here is computed.
fn tables(kernel: &'static str, dtype: Dtype) -> Vec<Draft> {
    let count: usize = if dtype.bits() == 4 { 16 } else { 256 };
    let codes: Vec<u8> = (0..count).map(|c| c as u8).collect();
    // E8M0 has no zero and BF16 its range, so that both formats hold every value but their NaNs.
    let case = |class, shape: [usize; 2], codes: &[u8]| {
        Draft::new(kernel, class).input("codes", pack(dtype, shape, codes))
    };
    vec![
        case("all-codes", [count / 16, 16], &codes).want("y", Dtype::F32),
        case("all-codes", [count / 16, 16], &codes).suffix("bf16").want("y", Dtype::BF16),
        case("empty", [0, 16], &[]).want("y", Dtype::F32),
    ]
}

fn bf16(kernel: &'static str) -> Vec<Draft> {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let sweep = || {
        Draft::new(kernel, "bf16-sweep").input("codes", Array::new(Dtype::BF16, [256, 256], bytes.clone()))
    };
    let empty = Draft::new(kernel, "empty").input("codes", Array::new(Dtype::BF16, [0, 4], Vec::new()));
    vec![sweep().want("y", Dtype::F32), empty.want("y", Dtype::F32)]
}

fn scaled(kernel: &'static str, elements: &[Dtype], block: [usize; 2], scales: &[Dtype]) -> Vec<Draft> {
    let mut out = Vec::new();
    for (e, element) in elements.iter().enumerate() {
        for (s, scale) in scales.iter().enumerate() {
            for class in gemm::CLASSES {
                let main = e == 0 && s == 0;
                if !main && !matches!(class, "gaussian" | "all-codes" | "tails") {
                    continue;
                }
                let shape = match class {
                    "gaussian" => [9, 288],
                    "ragged" => [1, 96],
                    "empty" => [0, 96],
                    "tails" if block[0] > 1 => [144, 200],
                    "tails" => [5, 160],
                    _ => [4, 160],
                };
                let op = Operand { element: *element, block, scale: *scale };
                let coded = operand(class, op, &mut rng(kernel, class, "codes"), shape, *scale == Dtype::F16);
                let mut grid = coded.scales;
                if block == [1, 0] {
                    grid.shape.truncate(1);
                }
                let mut draft = Draft::new(kernel, class).input("codes", coded.codes).input("scale", grid);
                if e > 0 {
                    draft = draft.suffix(element.text().trim_start_matches("f8_"));
                }
                if s > 0 {
                    draft = draft.suffix(match scale {
                        Dtype::F8E8M0 => "ue8m0",
                        other => other.text(),
                    });
                }
                if main {
                    out.push(draft.clone().suffix("bf16").want("y", Dtype::BF16));
                }
                if kernel == "dequant_nvfp4" && matches!(class, "gaussian" | "all-codes") {
                    let g = random_scale(&mut rng(kernel, class, "g"));
                    let with_g = draft.clone().suffix("g").input("g", Array::from_f32([1], &[g]));
                    out.push(with_g.want("y", Dtype::F32));
                }
                out.push(draft.want("y", Dtype::F32));
            }
        }
    }
    if kernel == "dequant_fp8_block" {
        let op = Operand { element: Dtype::F8E4M3, block: [32, 64], scale: Dtype::F32 };
        let coded = operand("gaussian", op, &mut rng(kernel, "gaussian", "codes"), [70, 100], false);
        let draft = Draft::new(kernel, "gaussian").suffix("32x64").param("block", vec![32, 64]);
        out.push(draft.input("codes", coded.codes).input("scale", coded.scales).want("y", Dtype::F32));
    }
    if kernel == "dequant_int8_channel" {
        let op = Operand { element: Dtype::I8, block: [1, 0], scale: Dtype::F32 };
        let mut r = rng(kernel, "all-codes", "codes");
        let coded = operand("all-codes", op, &mut r, [4, 256], false);
        let z = Array::new(Dtype::I8, [4], vec![0, 0x80, 0x7F, 0xFD]);
        let draft = Draft::new(kernel, "all-codes").suffix("z").input("codes", coded.codes).input("z", z);
        let mut grid = coded.scales;
        grid.shape.truncate(1);
        out.push(draft.input("scale", grid).want("y", Dtype::F32));
    }
    out
}

fn int4(kernel: &'static str) -> Vec<Draft> {
    let mut out = Vec::new();
    for (suffix, element, scale, group, zeros) in [
        ("", Dtype::I4, Dtype::F32, 32, false),
        ("bf16-scale", Dtype::I4, Dtype::BF16, 64, false),
        ("u4", Dtype::U4, Dtype::F16, 32, false),
        ("u4-z", Dtype::U4, Dtype::F32, 32, true),
    ] {
        for class in gemm::CLASSES {
            if !suffix.is_empty() && !matches!(class, "gaussian" | "all-codes" | "empty") {
                continue;
            }
            let [rows, k] = match class {
                "ragged" => [1, 64],
                "empty" => [0, 64],
                "tails" => [7, 192],
                _ => [4, 192],
            };
            let op = Operand { element, block: [1, group], scale };
            let mut r = rng(kernel, class, "codes");
            let coded = if element == Dtype::U4 {
                let codes: Vec<u8> = (0..rows * k).map(|_| r.below(16) as u8).collect();
                op.with_codes(&codes, rows, k, |_| random_scale(&mut r))
            } else {
                operand(class, op, &mut r, [rows, k], false)
            };
            let mut draft =
                Draft::new(kernel, class).input("codes", coded.codes).input("scale", coded.scales);
            if zeros {
                let z: Vec<u8> = (0..rows * (k / group)).map(|_| r.below(16) as u8).collect();
                draft = draft.input("z", Array::new(Dtype::U8, [rows, k / group], z));
            }
            if !suffix.is_empty() {
                draft = draft.suffix(suffix);
            }
            if suffix.is_empty() {
                out.push(draft.clone().suffix("bf16").want("y", Dtype::BF16));
            }
            out.push(draft.want("y", Dtype::F32));
        }
    }
    out
}
