//! Products: kernels 1 to 8.

use super::super::golden::Draft;
use super::super::input::{Operand, Values, plain, values};
use super::{kind, operand, random_scale, rng};
use crate::dtype::Dtype;
use crate::kernel::reference::array::Array;

/// The classes of products, each with the shape class.
pub(super) const CLASSES: [&str; 13] = [
    "gaussian",
    "small-int",
    "all-codes",
    "bf16-sweep",
    "exponent-sweep",
    "zero-block",
    "exact-amax",
    "fp4-midpoints",
    "signed-zero",
    "outlier",
    "ragged",
    "empty",
    "tails",
];

/// A product whose operands are codes under grids of scales.
struct Scaled {
    kernel: &'static str,
    a: Operand,
    b: Operand,
    /// Whether K must be a multiple of 32.
    whole_blocks: bool,
    /// The order of scales that is not the kernel's own.
    other_order: &'static str,
}

const fn op(element: Dtype, block: [usize; 2], scale: Dtype) -> Operand {
    Operand { element, block, scale }
}

const JOINT: &str = "d*(sa*sb)";
const SUCCESSIVE: &str = "(d*sa)*sb";

const SCALED: [Scaled; 6] = [
    Scaled {
        kernel: "gemm_fp8_block",
        a: op(Dtype::F8E4M3, [1, 128], Dtype::F32),
        b: op(Dtype::F8E4M3, [128, 128], Dtype::F32),
        whole_blocks: false,
        other_order: SUCCESSIVE,
    },
    Scaled {
        kernel: "gemm_fp8_token_channel",
        a: op(Dtype::F8E4M3, [1, 0], Dtype::F32),
        b: op(Dtype::F8E4M3, [1, 0], Dtype::F32),
        whole_blocks: false,
        other_order: JOINT,
    },
    Scaled {
        kernel: "gemm_mxfp8",
        a: op(Dtype::F8E4M3, [1, 32], Dtype::F8E8M0),
        b: op(Dtype::F8E4M3, [1, 32], Dtype::F8E8M0),
        whole_blocks: false,
        other_order: SUCCESSIVE,
    },
    Scaled {
        kernel: "gemm_mxfp4",
        a: op(Dtype::F4E2M1, [1, 32], Dtype::F8E8M0),
        b: op(Dtype::F4E2M1, [1, 32], Dtype::F8E8M0),
        whole_blocks: true,
        other_order: JOINT,
    },
    Scaled {
        kernel: "gemm_fp8_mxfp4",
        a: op(Dtype::F8E4M3, [1, 128], Dtype::F32),
        b: op(Dtype::F4E2M1, [1, 32], Dtype::F8E8M0),
        whole_blocks: true,
        other_order: JOINT,
    },
    Scaled {
        kernel: "gemm_nvfp4",
        a: op(Dtype::F4E2M1, [1, 16], Dtype::F8E4M3),
        b: op(Dtype::F4E2M1, [1, 16], Dtype::F8E4M3),
        whole_blocks: true,
        other_order: SUCCESSIVE,
    },
];

/// Rows of A, rows of B, columns.
pub(super) fn dims(class: &str, whole_blocks: bool) -> [usize; 3] {
    let k = |any: usize, whole: usize| if whole_blocks { whole } else { any };
    match class {
        "gaussian" => [5, 24, 288],
        "ragged" => [1, 33, k(131, 96)],
        "empty" => [0, 8, 288],
        "tails" => [2, 576, k(200, 160)],
        "small" => [2, 8, 288],
        _ => [3, 20, 288],
    }
}

pub(super) fn drafts(kernel: &'static str) -> Vec<Draft> {
    match kernel {
        "gemm_w8a8" => return w8a8(),
        "gemm_w4a16_group" => return w4a16(),
        "gemm_w4a8_group" => return w4a8(),
        _ => {}
    }
    let Some(gemm) = SCALED.iter().find(|s| s.kernel == kernel) else { return Vec::new() };
    let mut out = Vec::new();
    let case = |class: &'static str, dims| gemm.draft(class, gemm.a, gemm.b, dims);
    for class in CLASSES {
        let mut dims = dims(class, gemm.whole_blocks);
        if (kernel, class) == ("gemm_fp8_block", "gaussian") {
            // Two rows of scale blocks.
            dims[1] = 136;
        }
        out.push(case(class, dims).want("C", Dtype::F32));
        out.push(case(class, dims).suffix("bf16").want("C", Dtype::BF16));
    }
    out.push(case("empty", [2, 3, 0]).suffix("k").want("C", Dtype::F32));
    let small = dims("small", gemm.whole_blocks);
    let order = case("gaussian", small).suffix("other-order").param("order", gemm.other_order);
    out.push(order.want("C", Dtype::F32));
    for class in ["gaussian", "exponent-sweep"] {
        let case = || case(class, small).want("C", Dtype::F32);
        out.push(case().suffix("r1").param("mode", "R1"));
        for (suffix, mma_k, bits, rounding, every, fma) in [
            ("r2-k32-f13", 32, 13, "truncate", 128, false),
            ("r2-k16-f10-rne", 16, 10, "rne", 0, false),
            ("r2-k64-f25-fma", 64, 25, "truncate", 64, true),
        ] {
            out.push(
                case()
                    .suffix(suffix)
                    .param("mode", "R2")
                    .param("mma_k", mma_k)
                    .param("fraction_bits", bits)
                    .param("rounding", rounding)
                    .param("promote_every", every)
                    .param("fma", fma),
            );
        }
    }
    out.extend(gemm.variants());
    out
}

impl Scaled {
    fn draft(&self, class: &'static str, a: Operand, b: Operand, [m, n, k]: [usize; 3]) -> Draft {
        let mut draft = Draft::new(self.kernel, class);
        for (name, scale, global, op, rows) in [("A", "sa", "ga", a, m), ("B", "sb", "gb", b, n)] {
            let mut rng = rng(self.kernel, class, name);
            let mut coded = operand(class, op, &mut rng, [rows, k], name == "B");
            if self.kernel == "gemm_nvfp4" {
                // The block scales above are relative to a global scale.
                let g = match class {
                    "small-int" | "signed-zero" | "fp4-midpoints" => 1.0,
                    "exponent-sweep" | "bf16-sweep" => {
                        let sweep = values(kind(class, op.element), &mut rng, rows, k);
                        let amax = sweep.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                        let g = if amax > 0.0 && name == "A" { amax / 2688.0 } else { 1.0 / 16_777_216.0 };
                        let over: Vec<f32> = sweep.iter().map(|v| v / g).collect();
                        if name == "A" {
                            coded = op.quantize(&over, rows, k);
                        }
                        g
                    }
                    _ => random_scale(&mut rng),
                };
                draft = draft.input(global, Array::from_f32([1], &[g]));
            }
            let mut scales = coded.scales;
            if self.kernel == "gemm_fp8_token_channel" {
                scales.shape = vec![rows];
                if k == 0 {
                    scales = Array::from_f32([rows], &vec![1.0; rows]);
                }
            }
            draft = draft.input(name, coded.codes).input(scale, scales);
        }
        draft
    }

    /// What only one kernel has.
    fn variants(&self) -> Vec<Draft> {
        let mut out = Vec::new();
        let mut add = |class, a, b, suffix: &str| {
            let draft = self.draft(class, a, b, dims(class, self.whole_blocks));
            out.push(draft.suffix(suffix).want("C", Dtype::F32));
        };
        match self.kernel {
            "gemm_fp8_block" => {
                let [a, b] = [self.a, self.b].map(|o| op(o.element, o.block, Dtype::F8E8M0));
                for class in CLASSES {
                    add(class, a, b, "ue8m0");
                }
                out.push(
                    self.draft("tails", self.a, self.b, [1, 2112, 136]).suffix("2112").want("C", Dtype::F32),
                );
            }
            "gemm_fp8_token_channel" => {
                let [m, n, k] = dims("ragged", false);
                let mut rng = rng(self.kernel, "ragged", "bias");
                let bias = values(Values::Gaussian, &mut rng, 1, n);
                for (suffix, dtype) in [("bias", Dtype::F32), ("bias-bf16", Dtype::BF16)] {
                    let draft = self.draft("ragged", self.a, self.b, [m, n, k]).suffix(suffix);
                    out.push(draft.input("bias", plain(dtype, [n], &bias)).want("C", Dtype::F32));
                }
            }
            "gemm_mxfp8" => {
                let e5m2 = op(Dtype::F8E5M2, [1, 32], Dtype::F8E8M0);
                for class in ["gaussian", "all-codes", "exponent-sweep", "ragged"] {
                    add(class, self.a, e5m2, "e4m3-e5m2");
                    add(class, e5m2, self.b, "e5m2-e4m3");
                    add(class, e5m2, e5m2, "e5m2-e5m2");
                }
            }
            "gemm_mxfp4" => {
                for (block, suffix) in [(32, "e4m3"), (128, "e4m3-128")] {
                    for class in ["gaussian", "all-codes", "tails"] {
                        add(class, op(Dtype::F8E4M3, [1, block], Dtype::F8E8M0), self.b, suffix);
                    }
                }
            }
            "gemm_fp8_mxfp4" => {
                for (block, scale, suffix) in [
                    (128, Dtype::F8E8M0, "ue8m0"),
                    (32, Dtype::F8E8M0, "ue8m0-32"),
                    (32, Dtype::F32, "f32-32"),
                ] {
                    for class in ["gaussian", "exponent-sweep", "tails"] {
                        add(class, op(Dtype::F8E4M3, [1, block], scale), self.b, suffix);
                    }
                }
            }
            _ => {}
        }
        out
    }
}

fn flat(mut array: Array) -> Array {
    array.shape = vec![array.elements()];
    array
}

fn w8a8() -> Vec<Draft> {
    let kernel = "gemm_w8a8";
    let op = op(Dtype::I8, [1, 0], Dtype::F32);
    let case = |class: &'static str, [m, n, k]: [usize; 3]| {
        let mut draft = Draft::new(kernel, class);
        for (name, scale, rows) in [("A", "sx", m), ("B", "sw", n)] {
            let coded = operand(class, op, &mut rng(kernel, class, name), [rows, k], name == "B");
            let scales = if k == 0 { Array::from_f32([rows], &vec![1.0; rows]) } else { flat(coded.scales) };
            draft = draft.input(name, coded.codes).input(scale, scales);
        }
        draft
    };
    let mut out = Vec::new();
    for class in CLASSES {
        for (suffix, dtype) in [("", Dtype::F32), ("bf16", Dtype::BF16)] {
            let draft = case(class, dims(class, false)).want("C", dtype);
            out.push(if suffix.is_empty() { draft } else { draft.suffix(suffix) });
        }
    }
    let small = dims("small", false);
    out.push(case("empty", [2, 3, 0]).suffix("k").want("C", Dtype::F32));
    out.push(case("gaussian", small).suffix("f16").want("C", Dtype::F16));
    out.push(
        case("gaussian", small).suffix("other-order").param("order", "acc*(sx*sw)").want("C", Dtype::F32),
    );
    out.push(case("tails", [1, 2112, 136]).suffix("2112").want("C", Dtype::F32));
    // Sums beyond 2^24, which f32 rounds, and a bias to the ends of 32 bits.
    let k = 1100;
    let bytes = |rows: usize, code: i8| Array::new(Dtype::I8, [rows, k], vec![code as u8; rows * k]);
    let bias: Vec<u8> = [i32::MAX, i32::MIN, 0, 12_345, -1].iter().flat_map(|b| b.to_le_bytes()).collect();
    let extreme = Draft::new(kernel, "exact-amax").suffix("bias");
    out.push(
        extreme
            .input("A", bytes(2, -128))
            .input("sx", Array::from_f32([2], &[0.013, 1.0]))
            .input("B", bytes(5, 127))
            .input("sw", Array::from_f32([5], &[0.7, 1.0, 0.003, 1.0, 5.0]))
            .input("bias", Array::new(Dtype::I32, [5], bias))
            .want("C", Dtype::F32),
    );
    out
}

fn w4a16() -> Vec<Draft> {
    let kernel = "gemm_w4a16_group";
    let case = |class: &'static str, element: Dtype, group: usize, scale: Dtype, zeros: bool| {
        let [m, n, k] = match class {
            "ragged" => [1, 33, 96],
            "tails" => [2, 576, 128],
            class => dims(class, true),
        };
        // A group of the whole row where it is longer.
        let group = if k % group == 0 { group } else { 32 };
        let mut r = rng(kernel, class, "A");
        let x = match class {
            "all-codes" => values(Values::Gaussian, &mut r, m, k),
            _ => values(kind(class, Dtype::BF16), &mut r, m, k),
        };
        let op = op(element, [1, group], scale);
        let mut r = rng(kernel, class, "B");
        let coded = match (class, element) {
            (_, Dtype::U4) => {
                let codes: Vec<u8> = (0..n * k).map(|_| r.below(16) as u8).collect();
                op.with_codes(&codes, n, k, |_| random_scale(&mut r))
            }
            // The range of the weight times the sweep's would leave that of f32.
            ("bf16-sweep" | "exponent-sweep" | "outlier", _) if scale == Dtype::F16 => {
                op.quantize(&values(Values::Gaussian, &mut r, n, k), n, k)
            }
            _ => operand(class, op, &mut r, [n, k], true),
        };
        let mut draft = Draft::new(kernel, class)
            .input("A", plain(Dtype::BF16, [m, k], &x))
            .input("B", coded.codes)
            .input("s", coded.scales);
        if zeros {
            let codes: Vec<u8> = (0..n * (k / group)).map(|_| r.below(16) as u8).collect();
            draft = draft.input("z", Array::new(Dtype::U8, [n, k / group], codes));
        }
        draft
    };
    let mut out = Vec::new();
    for class in CLASSES {
        out.push(case(class, Dtype::I4, 32, Dtype::BF16, false).want("C", Dtype::F32));
        out.push(case(class, Dtype::I4, 32, Dtype::BF16, false).suffix("bf16").want("C", Dtype::BF16));
    }
    let f32_case = |draft: Draft, suffix: &str| draft.suffix(suffix).want("C", Dtype::F32);
    for class in ["gaussian", "small-int", "tails"] {
        out.push(f32_case(case(class, Dtype::U4, 32, Dtype::F16, true), "u4-z"));
        out.push(f32_case(case(class, Dtype::U4, 32, Dtype::F32, false), "u4"));
        let kept = case(class, Dtype::I4, 32, Dtype::F32, false).param("dequant", "f32");
        out.push(f32_case(kept, "f32-dequant"));
    }
    out.push(f32_case(case("tails", Dtype::I4, 64, Dtype::F16, false), "g64"));
    out.push(f32_case(case("tails", Dtype::I4, 128, Dtype::BF16, false), "g128"));
    out
}

fn w4a8() -> Vec<Draft> {
    let kernel = "gemm_w4a8_group";
    let case = |class: &'static str, group: usize, optional: bool| {
        let [m, n, k] = match class {
            "ragged" => [1, 33, 96],
            "tails" => [2, 576, 128],
            class => dims(class, true),
        };
        let a =
            operand(class, op(Dtype::I8, [1, 0], Dtype::F32), &mut rng(kernel, class, "A"), [m, k], false);
        let weights = op(Dtype::I4, [1, group], Dtype::F32);
        let b = operand(class, weights, &mut rng(kernel, class, "B"), [n, k], true);
        let mut draft = Draft::new(kernel, class)
            .input("A", a.codes)
            .input("sx", flat(a.scales))
            .input("B", b.codes)
            .input("sg", b.scales);
        if optional {
            let mut r = rng(kernel, class, "sc");
            let sc: Vec<f32> = (0..n).map(|_| random_scale(&mut r)).collect();
            let bias = values(Values::Gaussian, &mut r, 1, n);
            draft = draft.input("sc", Array::from_f32([n], &sc)).input("bias", Array::from_f32([n], &bias));
        }
        draft
    };
    let mut out = Vec::new();
    for class in CLASSES {
        out.push(case(class, 32, false).want("C", Dtype::F32));
        out.push(case(class, 32, false).suffix("bf16").want("C", Dtype::BF16));
    }
    for class in ["gaussian", "exponent-sweep", "tails"] {
        out.push(case(class, 32, true).suffix("sc-bias").want("C", Dtype::F32));
    }
    out.push(case("tails", 64, true).suffix("g64").want("C", Dtype::F32));
    out
}
