//! Permutations: kernels 21.

use super::super::golden::Draft;
use super::rng;
use crate::dtype::Dtype;
use crate::kernel::reference::array::Array;

/// Random bytes in a format.
fn random(kernel: &str, dtype: Dtype, shape: &[usize], below: u32) -> Array {
    let size = usize::try_from(dtype.bits() / 8).unwrap_or(1).max(1);
    let mut r = rng(kernel, "gaussian", "x");
    let n = shape.iter().product::<usize>() * size;
    Array::new(dtype, shape, (0..n).map(|_| r.below(below) as u8).collect())
}

pub(super) fn drafts(kernel: &'static str) -> Vec<Draft> {
    // The input's format, an upper bound of its bytes, and the output's format.
    let (dtype, below, out) = match kernel {
        "layout_ue8m0_pack" => (Dtype::F8E8M0, 256, Dtype::I32),
        "layout_ue8m0_unpack" => (Dtype::I32, 256, Dtype::F8E8M0),
        "layout_ue8m0_tma" => (Dtype::I32, 256, Dtype::I32),
        "layout_nz" | "layout_nz_inverse" => (Dtype::BF16, 256, Dtype::BF16),
        "layout_interleave" | "layout_deinterleave" => (Dtype::F8E4M3, 256, Dtype::F8E4M3),
        "layout_nibble_swap" => (Dtype::U8, 256, Dtype::U8),
        "layout_pack_i32" => (Dtype::U8, 16, Dtype::I32),
        "layout_pack_nibbles" => (Dtype::U8, 16, Dtype::U8),
        _ => return Vec::new(),
    };
    let case = |class, dtype, out, shape: &[usize]| {
        Draft::new(kernel, class).input("x", random(kernel, dtype, shape, below)).want("y", out)
    };
    let (usual, ragged, empty): (&[usize], &[usize], &[usize]) = match kernel {
        "layout_ue8m0_tma" => (&[130, 3], &[5, 1], &[0, 2]),
        "layout_ue8m0_unpack" => (&[6, 3], &[1, 1], &[0, 2]),
        "layout_nz_inverse" => (&[3, 2, 16, 16], &[1, 1, 16, 16], &[2, 0, 16, 16]),
        "layout_interleave" | "layout_deinterleave" => (&[12, 20], &[2, 3], &[0, 4]),
        "layout_nz" => (&[35, 50], &[1, 1], &[0, 20]),
        "layout_ue8m0_pack" => (&[6, 12], &[3, 7], &[0, 8]),
        "layout_pack_i32" => (&[4, 48], &[1, 8], &[0, 16]),
        "layout_pack_nibbles" => (&[4, 48], &[1, 2], &[0, 16]),
        _ => (&[16, 16], &[1, 3], &[0, 4]),
    };
    let mut drafts = vec![
        case("gaussian", dtype, out, usual),
        case("ragged", dtype, out, ragged),
        case("empty", dtype, out, empty),
    ];
    match kernel {
        "layout_nz" => drafts.push(case("gaussian", Dtype::I8, Dtype::I8, &[33, 70]).suffix("i8")),
        "layout_nz_inverse" => {
            drafts.push(case("gaussian", Dtype::I8, Dtype::I8, &[3, 3, 16, 32]).suffix("i8"));
            let cut = case("gaussian", dtype, out, usual).suffix("cut");
            drafts.push(cut.param("rows", 19).param("cols", 35));
        }
        "layout_ue8m0_unpack" => {
            drafts.push(case("gaussian", dtype, out, usual).suffix("cut").param("cols", 10));
        }
        "layout_interleave" | "layout_deinterleave" => {
            drafts.push(case("gaussian", Dtype::BF16, Dtype::BF16, &[6, 5]).suffix("bf16"));
        }
        "layout_nibble_swap" => {
            let codes = Array::new(Dtype::U8, [16, 16], (0..=255).collect());
            drafts.push(Draft::new(kernel, "all-codes").input("x", codes).want("y", Dtype::U8));
        }
        "layout_pack_i32" => {
            drafts.push(case("gaussian", dtype, out, usual).suffix("awq").param("order", "awq"))
        }
        _ => {}
    }
    drafts
}
