//! Cases of matrix products.

use crate::data::{Class, Range, arrays, int32, int64, matrix, plain, scales};
use crate::support::cases::Cases;
use serde_json::{Value, json};
use silicast::dtype::Dtype;
use silicast::dtype::Dtype::{BF16, F4E2M1, F8E4M3, F8E5M2, F8E8M0, F16, F32, I4, I8, U4};
use silicast::kernel::reference::array::{Array, Arrays};
use xtask::rng::SplitMix64;

type Shape = [usize; 3];

/// Ragged in every direction, more rows than a panel, single rows, and nothing at all.
const SHAPES: [(&str, Shape); 6] = [
    ("ragged", [3, 131, 300]),
    ("rows", [19, 5, 96]),
    ("one", [1, 1, 128]),
    ("tail", [2, 6, 1026]),
    ("no-rows", [0, 4, 64]),
    ("no-depth", [2, 3, 0]),
];

/// Parameters of the modes other than R0.
fn modes() -> Vec<(String, Value)> {
    let mut list = vec![("r1".to_owned(), json!({"mode": "R1"}))];
    for (i, (mma_k, bits, rounding, promote, fma)) in [
        (32, 13, "truncate", 128, false),
        (32, 10, "truncate", 0, true),
        (16, 3, "rne", 32, false),
        (1, 23, "rne", 7, true),
        (64, 25, "rne", 100, false),
        (5, 0, "truncate", 128, false),
    ]
    .into_iter()
    .enumerate()
    {
        let params = json!({"mode": "R2", "mma_k": mma_k, "fraction_bits": bits, "rounding": rounding,
            "promote_every": promote, "fma": fma});
        list.push((format!("r2-{i}"), params));
    }
    list.push(("r2-default".to_owned(), json!({"mode": "R2"})));
    for order in ["d*(sa*sb)", "(d*sa)*sb"] {
        list.push((format!("r2 {order}"), json!({"mode": "R2", "fma": true, "order": order})));
        list.push((format!("r0 {order}"), json!({"mode": "R0", "order": order})));
    }
    list
}

/// A kernel with modes and the inputs that it takes.
struct Moded<'a> {
    kernel: &'a str,
    label: &'a str,
    inputs: &'a dyn Fn(&mut SplitMix64, Shape, Class, Range) -> Arrays,
}

impl Moded<'_> {
    fn add(&self, cases: &mut Cases) {
        let mut rng = SplitMix64::for_tensor("reference_gemm", &format!("{}{}", self.kernel, self.label));
        let mut add = |name: &str, params: Value, shape: Shape, class: Class, range: Range, to: Dtype| {
            let inputs = (self.inputs)(&mut rng, shape, class, range);
            cases.add(self.kernel, &format!("{}{name}", self.label), params, inputs, &[("C", to)]);
        };
        for (name, class) in Class::ALL {
            for to in [F32, BF16, F16] {
                add(&format!("{name}-{to}"), json!({}), [3, 9, 290], class, Range::Narrow, to);
            }
            add(&format!("{name}-wide"), json!({"mode": "R0"}), [3, 9, 290], class, Range::Wide, F32);
        }
        for (name, shape) in SHAPES {
            add(name, json!({}), shape, Class::Gaussian, Range::Narrow, F32);
        }
        for (name, params) in modes() {
            for class in [Class::Gaussian, Class::Extremes, Class::Special] {
                add(&format!("{class:?}-{name}"), params.clone(), [2, 5, 290], class, Range::Narrow, F32);
            }
        }
    }
}

/// Every case of the products.
pub(crate) fn all(cases: &mut Cases) {
    for to in [F32, F8E8M0] {
        let inputs = |rng: &mut SplitMix64, [m, n, k]: Shape, class, range| {
            let blocks = k.div_ceil(128);
            arrays([
                ("A", matrix(rng, class, F8E4M3, [m, k])),
                ("sa", scales(rng, range, to, &[m, blocks])),
                ("B", matrix(rng, class, F8E4M3, [n, k])),
                ("sb", scales(rng, range, to, &[n.div_ceil(128), blocks])),
            ])
        };
        Moded { kernel: "gemm_fp8_block", label: to.text(), inputs: &inputs }.add(cases);
    }
    token_channel(cases);
    w8a8(cases);
    w4a16(cases);
    w4a8(cases);
    for (a, b) in [(F8E4M3, F8E4M3), (F8E4M3, F8E5M2), (F8E5M2, F8E4M3), (F8E5M2, F8E5M2)] {
        let inputs = |rng: &mut SplitMix64, [m, n, k]: Shape, class, range| {
            let blocks = k.div_ceil(32);
            arrays([
                ("A", matrix(rng, class, a, [m, k])),
                ("sa", scales(rng, range, F8E8M0, &[m, blocks])),
                ("B", matrix(rng, class, b, [n, k])),
                ("sb", scales(rng, range, F8E8M0, &[n, blocks])),
            ])
        };
        Moded { kernel: "gemm_mxfp8", label: &format!("{a}-{b}-"), inputs: &inputs }.add(cases);
    }
    for (kernel, a, sa, block) in [
        ("gemm_mxfp4", F4E2M1, F8E8M0, 32),
        ("gemm_mxfp4", F4E2M1, F8E8M0, 128),
        ("gemm_mxfp4", F8E4M3, F8E8M0, 32),
        ("gemm_fp8_mxfp4", F8E4M3, F32, 128),
        ("gemm_fp8_mxfp4", F8E4M3, F8E8M0, 32),
    ] {
        let inputs = |rng: &mut SplitMix64, [m, n, k]: Shape, class, range| {
            arrays([
                ("A", matrix(rng, class, a, [m, k])),
                ("sa", scales(rng, range, sa, &[m, k.div_ceil(block)])),
                ("B", matrix(rng, class, F4E2M1, [n, k])),
                ("sb", scales(rng, range, F8E8M0, &[n, k.div_ceil(32)])),
            ])
        };
        Moded { kernel, label: &format!("{a}-{block}-"), inputs: &inputs }.add(cases);
    }
    let inputs = |rng: &mut SplitMix64, [m, n, k]: Shape, class, range| {
        arrays([
            ("A", matrix(rng, class, F4E2M1, [m, k])),
            ("sa", scales(rng, range, F8E4M3, &[m, k.div_ceil(16)])),
            ("ga", scales(rng, range, F32, &[1])),
            ("B", matrix(rng, class, F4E2M1, [n, k])),
            ("sb", scales(rng, range, F8E4M3, &[n, k.div_ceil(16)])),
            ("gb", scales(rng, range, F32, &[1])),
        ])
    };
    Moded { kernel: "gemm_nvfp4", label: "", inputs: &inputs }.add(cases);
    grouped(cases);
}

fn token_channel(cases: &mut Cases) {
    for bias in [None, Some(F32), Some(BF16)] {
        let inputs = |rng: &mut SplitMix64, [m, n, k]: Shape, class, range| {
            let mut inputs = arrays([
                ("A", matrix(rng, class, F8E4M3, [m, k])),
                ("sa", scales(rng, range, F32, &[m])),
                ("B", matrix(rng, class, F8E4M3, [n, k])),
                ("sb", scales(rng, range, F32, &[n, 1])),
            ]);
            if let Some(bias) = bias {
                inputs.insert("bias".to_owned(), plain(rng, bias, &[n], 0.1));
            }
            inputs
        };
        let label = format!("{bias:?}-");
        Moded { kernel: "gemm_fp8_token_channel", label: &label, inputs: &inputs }.add(cases);
        if bias.is_none() {
            // Sums that f64 alone cannot hold, the longest of them at every place of a tile.
            let mut rng = SplitMix64::new(7);
            for (name, shape) in [("long", [2, 5, 300_001]), ("long-one", [1, 1, 131_073])] {
                for class in [Class::Extremes, Class::Special] {
                    let case = format!("{name}-{class:?}");
                    let inputs = inputs(&mut rng, shape, class, Range::Narrow);
                    cases.add("gemm_fp8_token_channel", &case, json!({}), inputs, &[("C", F32)]);
                }
            }
            let long = |code: u8| Array::new(F8E4M3, [1, 262_144], vec![code; 262_144]);
            let one = |x: f32| Array::from_f32([1], &[x]);
            let inputs = arrays([("A", long(0x7E)), ("sa", one(1.0)), ("B", long(0x7D)), ("sb", one(1.0))]);
            cases.add("gemm_fp8_token_channel", "largest", json!({}), inputs, &[("C", F32)]);
        }
    }
}

fn w8a8(cases: &mut Cases) {
    let mut rng = SplitMix64::for_tensor("reference_gemm", "w8a8");
    let shapes = SHAPES.into_iter().chain([("long", [3, 2, 150_000])]);
    for (name, [m, n, k]) in shapes {
        for (class_name, class) in Class::ALL {
            for order in [None, Some("(acc*sx)*sw"), Some("acc*(sx*sw)")] {
                let mut inputs = arrays([
                    ("A", matrix(&mut rng, class, I8, [m, k])),
                    ("sx", scales(&mut rng, Range::Narrow, F32, &[m, 1])),
                    ("B", matrix(&mut rng, class, I8, [n, k])),
                    ("sw", scales(&mut rng, Range::Narrow, F32, &[n])),
                ]);
                if order.is_some() {
                    let bias: Vec<i32> = (0..n).map(|_| rng.next_u64() as i32 >> rng.below(20)).collect();
                    inputs.insert("bias".to_owned(), int32(&bias));
                }
                let params = order.map_or(json!({}), |order| json!({"order": order}));
                let to = [F32, BF16, F16][rng.below(3)];
                cases.add("gemm_w8a8", &format!("{name}-{class_name}"), params, inputs, &[("C", to)]);
            }
        }
    }
    // The extremes of int8 and a sum beyond 32 bits.
    let most = |rows: usize| Array::new(I8, [rows, 140_000], vec![0x80; rows * 140_000]);
    let ones = |n: usize| Array::from_f32([n], &vec![1.0; n]);
    let inputs = arrays([("A", most(3)), ("sx", ones(3)), ("B", most(2)), ("sw", ones(2))]);
    cases.add("gemm_w8a8", "largest", json!({}), inputs, &[("C", F32)]);
}

fn w4a16(cases: &mut Cases) {
    let mut rng = SplitMix64::for_tensor("reference_gemm", "w4a16");
    for (dtype, with_zeros) in [(U4, true), (U4, false), (I4, false), (I4, true)] {
        for scale in [F32, BF16, F16] {
            for (name, [m, n, k], groups) in [
                ("groups", [3, 17, 256], 2),
                ("whole", [1, 5, 96], 1),
                ("small", [9, 4, 128], 4),
                ("none", [2, 2, 0], 0),
            ] {
                for (class_name, class) in Class::ALL {
                    let range = if class == Class::Outlier { Range::Wide } else { Range::Narrow };
                    let mut inputs = arrays([
                        ("A", plain(&mut rng, BF16, &[m, k], 1.0)),
                        ("B", matrix(&mut rng, class, dtype, [n, k])),
                        ("s", scales(&mut rng, range, scale, &[n, groups])),
                    ]);
                    if with_zeros {
                        let z = (0..n * groups).map(|_| rng.below(16) as u8).collect();
                        inputs.insert("z".to_owned(), Array::new(Dtype::U8, [n, groups], z));
                    }
                    let dequant = ["bf16", "f32"][rng.below(2)];
                    let to = [F32, BF16, F16][rng.below(3)];
                    let case = format!("{dtype}-{scale}-{name}-{class_name}");
                    cases.add("gemm_w4a16_group", &case, json!({"dequant": dequant}), inputs, &[("C", to)]);
                }
            }
        }
    }
}

fn w4a8(cases: &mut Cases) {
    let mut rng = SplitMix64::for_tensor("reference_gemm", "w4a8");
    for (name, [m, n, k], groups) in [
        ("groups", [3, 17, 256], 2),
        ("whole", [1, 5, 96], 1),
        ("small", [18, 4, 128], 4),
        ("none", [2, 2, 0], 0),
    ] {
        for (class_name, class) in Class::ALL {
            for optional in 0..4 {
                let range = if class == Class::Outlier { Range::Wide } else { Range::Narrow };
                let mut inputs = arrays([
                    ("A", matrix(&mut rng, class, I8, [m, k])),
                    ("sx", scales(&mut rng, range, F32, &[m])),
                    ("B", matrix(&mut rng, class, I4, [n, k])),
                    ("sg", scales(&mut rng, range, F32, &[n, groups])),
                ]);
                if optional & 1 != 0 {
                    inputs.insert("sc".to_owned(), scales(&mut rng, range, F32, &[n, 1]));
                }
                if optional & 2 != 0 {
                    inputs.insert("bias".to_owned(), plain(&mut rng, F32, &[n], 3.0));
                }
                let to = [F32, BF16, F16][rng.below(3)];
                let case = format!("{name}-{class_name}-{optional}");
                cases.add("gemm_w4a8_group", &case, json!({}), inputs, &[("C", to)]);
            }
        }
    }
}

fn grouped(cases: &mut Cases) {
    let mut rng = SplitMix64::for_tensor("reference_gemm", "grouped");
    let (rows, experts, n, k) = (23, 4, 130, 288);
    let splits: [(&str, &[i64]); 4] = [
        ("all", &[0, 5, 5, 22, 23]),
        ("padding", &[0, 1, 9, 10, 17]),
        ("late", &[3, 4, 8, 20, 20]),
        ("none", &[0, 0, 0, 0, 0]),
    ];
    for (name, offsets) in splits {
        for base in ["fp8_block", "w8a8", "fp8_mxfp4"] {
            let (a, b) = match base {
                "w8a8" => (I8, I8),
                "fp8_block" => (F8E4M3, F8E4M3),
                _ => (F8E4M3, F4E2M1),
            };
            let (sa, sb) = match base {
                "w8a8" => (vec![rows], vec![experts, n]),
                "fp8_block" => (vec![rows, 3], vec![experts, 2, 3]),
                _ => (vec![rows, 3], vec![experts, n, 9]),
            };
            let flat = matrix(&mut rng, Class::Gaussian, b, [experts * n, k]);
            let stored = flat.dim(1);
            let sb_dtype = if base == "fp8_mxfp4" { F8E8M0 } else { F32 };
            let inputs = arrays([
                ("A", matrix(&mut rng, Class::Gaussian, a, [rows, k])),
                ("sa", scales(&mut rng, Range::Narrow, F32, &sa)),
                ("B", Array::new(b, [experts, n, stored], flat.bytes)),
                ("sb", scales(&mut rng, Range::Narrow, sb_dtype, &sb)),
                ("offsets", int64(offsets)),
            ]);
            let to = if name == "padding" { BF16 } else { F32 };
            cases.add(
                "moe_grouped_gemm",
                &format!("{name}-{base}"),
                json!({"base": base}),
                inputs,
                &[("C", to)],
            );
        }
    }
}
