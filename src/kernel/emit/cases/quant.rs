//! Quantizers and re-encodings: kernels 10 and 11.

use super::super::golden::Draft;
use super::super::input::{Operand, Values, pack, plain, values};
use super::{gemm, kind, operand, rng};
use crate::dtype::Dtype;
use crate::kernel::reference::array::Array;

pub(super) fn drafts(kernel: &'static str) -> Vec<Draft> {
    match kernel {
        "quant_nvfp4" => nvfp4(kernel),
        "requant_e4m3_f32_to_ue8m0" | "requant_e4m3_to_s8" => from_e4m3(kernel),
        "requant_bf16_to_e4m3" => bf16_to_e4m3(kernel),
        "requant_e4m3fn_to_e4m3fnuz" => bitwise(kernel, Dtype::F8E4M3),
        "requant_e4m3fnuz_to_e4m3fn" => bitwise(kernel, Dtype::F8E4M3Fnuz),
        name if name.starts_with("quant_") => recipe(kernel),
        _ => Vec::new(),
    }
}

/// The values of a quantizer's input.
fn input(kernel: &str, class: &str, element: Dtype, [rows, cols]: [usize; 2]) -> Vec<f32> {
    let mut r = rng(kernel, class, "x");
    if class == "all-codes" {
        // Every code times a power of two, each row another: they come back as they were.
        let op = Operand { element, block: [1, 1], scale: Dtype::F32 };
        let codes = super::cycle_codes(op.element, rows, cols);
        let value = |i: usize| crate::dtype::codec::decode(element, codes[i].into());
        return (0..rows * cols)
            .map(|i| value(i) * super::super::input::power_of_two((i / cols) as i32 % 9 - 4))
            .collect();
    }
    values(kind(class, element), &mut r, rows, cols)
}

/// Rows and columns.
fn dims(class: &str, block: usize, even: bool) -> [usize; 2] {
    match class {
        "gaussian" => [9, 256],
        "bf16-sweep" => [510, 128],
        "exponent-sweep" => [60, 256],
        "all-codes" => [9, 256],
        "ragged" => [1, block + if even { 6 } else { 5 }],
        "empty" => [0, 256],
        "tails" => [3, 576],
        _ => [6, 256],
    }
}

fn recipe(kernel: &'static str) -> Vec<Draft> {
    let (element, scale, token) = match kernel {
        "quant_int8_token" => (Dtype::I8, Dtype::F32, true),
        "quant_vllm_fp8_token" => (Dtype::F8E4M3, Dtype::F32, true),
        name if name.contains("mx_fp4") => (Dtype::F4E2M1, Dtype::F8E8M0, false),
        name if name.ends_with("ue8m0") => (Dtype::F8E4M3, Dtype::F8E8M0, false),
        _ => (Dtype::F8E4M3, Dtype::F32, false),
    };
    let packed = element == Dtype::F4E2M1;
    let group = if packed { 32 } else { 128 };
    let case = |class: &'static str, dtype: Dtype| {
        let shape = dims(class, group, packed);
        let x = plain(dtype, shape, &input(kernel, class, element, shape));
        Draft::new(kernel, class).input("x", x).want("codes", element)
    };
    let mut out = Vec::new();
    for class in gemm::CLASSES {
        out.push(case(class, Dtype::BF16).want("scale", scale));
        if matches!(class, "gaussian" | "exponent-sweep" | "outlier" | "empty") {
            out.push(case(class, Dtype::F32).suffix("f32").want("scale", scale));
        }
    }
    if scale == Dtype::F8E8M0 {
        for class in ["gaussian", "exponent-sweep", "zero-block"] {
            out.push(case(class, Dtype::BF16).suffix("f32-scale").want("scale", Dtype::F32));
        }
    }
    let blocks: &[(&str, [usize; 2])] = if token {
        &[("1x64", [1, 64])]
    } else if packed {
        &[("1x128", [1, 128])]
    } else {
        &[("128x128", [128, 128]), ("128x1", [128, 1]), ("row", [1, 0])]
    };
    for (suffix, block) in blocks {
        for class in ["gaussian", "zero-block"] {
            let shape = if block[0] > 1 { [140, 136] } else { [9, 200] };
            let x = plain(Dtype::BF16, shape, &input(kernel, class, element, shape));
            let draft = Draft::new(kernel, class).suffix(suffix).param("block", block.to_vec());
            out.push(draft.input("x", x).want("codes", element).want("scale", scale));
        }
    }
    out
}

fn nvfp4(kernel: &'static str) -> Vec<Draft> {
    let element = Dtype::F4E2M1;
    let case = |class: &'static str, dtype: Dtype| {
        let mut shape = dims(class, 16, true);
        if class == "ragged" {
            shape = [1, 48];
        }
        let x = plain(dtype, shape, &input(kernel, class, element, shape));
        Draft::new(kernel, class).input("x", x).want("codes", element).want("scale", Dtype::F8E4M3)
    };
    let mut out = Vec::new();
    for class in gemm::CLASSES {
        out.push(case(class, Dtype::BF16).want("g", Dtype::F32));
        if matches!(class, "gaussian" | "exponent-sweep" | "outlier") {
            out.push(case(class, Dtype::F32).suffix("f32").want("g", Dtype::F32));
        }
        if matches!(class, "gaussian" | "signed-zero" | "exact-amax" | "small-int") {
            out.push(case(class, Dtype::BF16).suffix("g").input("g", Array::from_f32([1], &[0.002_5])));
        }
    }
    let zero = plain(Dtype::BF16, [2, 32], &[0.0; 64]);
    let zero = Draft::new(kernel, "zero-block").suffix("all").input("x", zero).want("codes", element);
    out.push(zero.want("scale", Dtype::F8E4M3).want("g", Dtype::F32));
    out
}

fn from_e4m3(kernel: &'static str) -> Vec<Draft> {
    let case = |class: &'static str, block: [usize; 2], shape: [usize; 2]| {
        let op = Operand { element: Dtype::F8E4M3, block, scale: Dtype::F32 };
        let coded = operand(class, op, &mut rng(kernel, class, "codes"), shape, false);
        let draft = Draft::new(kernel, class).input("codes", coded.codes).input("scale", coded.scales);
        match kernel {
            "requant_e4m3_to_s8" => draft.want("codes_out", Dtype::I8).want("scale_out", Dtype::F32),
            _ => draft.want("codes_out", Dtype::F8E4M3).want("scale_out", Dtype::F8E8M0),
        }
    };
    let mut out = Vec::new();
    for class in gemm::CLASSES {
        let shape = match class {
            "gaussian" => [140, 200],
            "ragged" => [1, 131],
            "empty" => [0, 256],
            "tails" => [20, 576],
            _ => [6, 288],
        };
        out.push(case(class, [128, 128], shape));
        if class == "gaussian" {
            let other = case(class, [32, 64], [70, 100]);
            out.push(other.suffix("32x64").param("block", vec![32, 64]));
        }
        if kernel == "requant_e4m3_f32_to_ue8m0" && matches!(class, "gaussian" | "exponent-sweep") {
            out.push(case(class, [128, 128], shape).suffix("f32-scale").want("scale_out", Dtype::F32));
        }
    }
    out
}

fn bf16_to_e4m3(kernel: &'static str) -> Vec<Draft> {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let sweep = Draft::new(kernel, "bf16-sweep").input("x", Array::new(Dtype::BF16, [256, 256], all));
    let mut out = vec![sweep.want("codes", Dtype::F8E4M3)];
    for class in ["gaussian", "exponent-sweep", "signed-zero", "outlier", "ragged", "empty"] {
        let shape = dims(class, 128, false);
        let x = plain(Dtype::F32, shape, &input(kernel, class, Dtype::F8E4M3, shape));
        out.push(Draft::new(kernel, class).suffix("f32").input("x", x).want("codes", Dtype::F8E4M3));
    }
    // Every tie of E4M3, and its neighbours in f32.
    let mut ties = Vec::new();
    for code in 0..0x7Eu32 {
        let decode = |c| crate::dtype::codec::decode(Dtype::F8E4M3, c);
        let tie = (decode(code) + decode(code + 1)) / 2.0;
        for bits in [tie.to_bits() - 1, tie.to_bits(), tie.to_bits() + 1] {
            ties.extend([f32::from_bits(bits), -f32::from_bits(bits)]);
        }
    }
    let x = plain(Dtype::F32, [126, 6], &ties);
    out.push(Draft::new(kernel, "all-codes").suffix("ties").input("x", x).want("codes", Dtype::F8E4M3));
    out
}

fn bitwise(kernel: &'static str, from: Dtype) -> Vec<Draft> {
    let to = if from == Dtype::F8E4M3 { Dtype::F8E4M3Fnuz } else { Dtype::F8E4M3 };
    let codes: Vec<u8> = (0..=255).collect();
    let scale = values(Values::ExponentSweep, &mut rng(kernel, "all-codes", "scale"), 1, 256);
    let scale: Vec<f32> = scale.iter().map(|s| s.abs() / 4.0).collect();
    let case = |class, shape: [usize; 2], codes: &[u8]| {
        Draft::new(kernel, class).input("codes", pack(from, shape, codes)).want("codes_out", to)
    };
    vec![
        case("all-codes", [16, 16], &codes),
        case("all-codes", [16, 16], &codes)
            .suffix("scale")
            .input("scale", Array::from_f32([256], &scale))
            .want("scale_out", Dtype::F32),
        case("empty", [0, 16], &[]),
    ]
}
