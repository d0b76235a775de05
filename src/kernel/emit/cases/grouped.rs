//! Products per expert: kernel 18.

use super::super::golden::Draft;
use super::super::input::Operand;
use super::{gemm, operand, rng};
use crate::dtype::Dtype;
use crate::kernel::reference::array::Array;

const KERNEL: &str = "moe_grouped_gemm";

/// Rows of each expert; the buffer has two rows more, which stay zero.
const ROWS: [usize; 4] = [2, 0, 1, 4];
const SPARE: usize = 2;

pub(super) fn drafts(kernel: &'static str) -> Vec<Draft> {
    if kernel != KERNEL {
        return Vec::new();
    }
    let e8 = |element, block| Operand { element, block, scale: Dtype::F8E8M0 };
    let f32s = |element, block| Operand { element, block, scale: Dtype::F32 };
    let bases = [
        ("fp8-block", "fp8_block", f32s(Dtype::F8E4M3, [1, 128]), f32s(Dtype::F8E4M3, [128, 128])),
        ("w8a8", "w8a8", f32s(Dtype::I8, [1, 0]), f32s(Dtype::I8, [1, 0])),
        ("fp8-mxfp4", "fp8_mxfp4", f32s(Dtype::F8E4M3, [1, 128]), e8(Dtype::F4E2M1, [1, 32])),
    ];
    let mut out = Vec::new();
    for (suffix, base, a, b) in bases {
        for class in gemm::CLASSES {
            let [n, k] = match class {
                "tails" => [144, 160],
                "ragged" => [9, 96],
                _ => [12, 288],
            };
            let rows = if class == "empty" { [0; 4] } else { ROWS };
            let draft = || case(class, base, [a, b], &rows, [n, k]).suffix(suffix);
            out.push(draft().want("C", Dtype::F32));
            out.push(draft().suffix("bf16").want("C", Dtype::BF16));
        }
    }
    out
}

fn case(class: &'static str, base: &str, [a, b]: [Operand; 2], rows: &[usize], [n, k]: [usize; 2]) -> Draft {
    let buffer = rows.iter().sum::<usize>() + SPARE;
    let x = operand(class, a, &mut rng(KERNEL, class, "A"), [buffer, k], false);
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    let (mut code_shape, mut scale_shape) = (Vec::new(), Vec::new());
    let mut r = rng(KERNEL, class, "B");
    for _ in rows {
        let expert = operand(class, b, &mut r, [n, k], true);
        codes.extend_from_slice(&expert.codes.bytes);
        scales.extend_from_slice(&expert.scales.bytes);
        code_shape = [vec![rows.len()], expert.codes.shape].concat();
        scale_shape = [vec![rows.len()], expert.scales.shape].concat();
    }
    let mut offsets = vec![0i64];
    let mut end = 0;
    for n in rows {
        end += *n as i64;
        offsets.push(end);
    }
    let bytes = offsets.iter().flat_map(|o| o.to_le_bytes()).collect();
    Draft::new(KERNEL, class)
        .param("base", base)
        .input("A", x.codes)
        .input("sa", x.scales)
        .input("B", Array::new(b.element, code_shape, codes))
        .input("sb", Array::new(b.scale, scale_shape, scales))
        .input("offsets", Array::new(Dtype::I64, [offsets.len()], bytes))
}
