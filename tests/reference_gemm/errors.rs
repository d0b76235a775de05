//! What does not fit is refused with an error of class Input, and nothing panics.

use crate::data::{Class, Range, arrays, int64, matrix, plain, scales};
use serde_json::{Map, Value, json};
use silicast::dtype::Dtype;
use silicast::error::Class as ErrorClass;
use silicast::kernel::reference::array::{Array, Arrays, Call};
use silicast::kernel::reference::catalog;
use silicast::kernel::reference::gemm::{self, Size};
use silicast::kernel::reference::hardware::{Hardware, Mode, Order, Scaling};
use std::collections::BTreeMap;
use xtask::rng::SplitMix64;

fn refuses(kernel: &str, params: &Value, inputs: &Arrays, wanted: &[(&str, Dtype)], names: &str) {
    let params: Map<String, Value> = params.as_object().cloned().unwrap_or_default();
    let wanted: BTreeMap<String, Dtype> = wanted.iter().map(|(n, d)| ((*n).to_owned(), *d)).collect();
    let call = Call { inputs, params: &params, wanted: &wanted };
    let error = (catalog::find(kernel).unwrap().run)(&call).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Input, "{error}");
    assert!(error.to_string().contains(names), "{kernel}: {error}\nnames no {names}");
}

fn fp8_block() -> Arrays {
    let mut rng = SplitMix64::new(1);
    arrays([
        ("A", matrix(&mut rng, Class::Gaussian, Dtype::F8E4M3, [3, 200])),
        ("sa", scales(&mut rng, Range::Narrow, Dtype::F32, &[3, 2])),
        ("B", matrix(&mut rng, Class::Gaussian, Dtype::F8E4M3, [4, 200])),
        ("sb", scales(&mut rng, Range::Narrow, Dtype::F32, &[1, 2])),
    ])
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let good = fp8_block();
    let with = |name: &str, change: &dyn Fn(&mut Array)| {
        let mut inputs = good.clone();
        change(inputs.get_mut(name).unwrap());
        inputs
    };
    let none = json!({});
    for name in ["A", "sa", "B", "sb"] {
        let mut inputs = good.clone();
        inputs.remove(name);
        refuses("gemm_fp8_block", &none, &inputs, &[], name);
        for change in [
            &(|a: &mut Array| a.shape.push(2)) as &dyn Fn(&mut Array),
            &|a| a.shape.clear(),
            &|a| a.shape = vec![usize::MAX, usize::MAX],
            &|a| a.shape = vec![usize::MAX, 0],
            &|a| a.shape[1] += 1,
            &|a| a.shape[0] += 1,
            &|a| {
                a.bytes.pop();
            },
            &|a| a.dtype = Dtype::I64,
            &|a| a.dtype = Dtype::F8E5M2,
            &|a| {
                a.shape = vec![0, 7];
                a.bytes.clear();
            },
        ] {
            refuses("gemm_fp8_block", &none, &with(name, change), &[], "");
        }
    }
    for (params, name) in [
        (json!({"mode": "R3"}), "R0 | R1 | R2"),
        (json!({"mode": 1}), "mode"),
        (json!({"order": "sa*sb*d"}), "order"),
        (json!({"mode": "R2", "mma_k": 0}), "mma_k"),
        (json!({"mode": "R2", "fraction_bits": 33}), "fraction_bits"),
        (json!({"mode": "R2", "fraction_bits": 1e30}), "fraction_bits"),
        (json!({"mode": "R2", "promote_every": -1}), "promote_every"),
        (json!({"mode": "R2", "rounding": "up"}), "rounding"),
        (json!({"mode": "R2", "fma": "yes"}), "fma"),
    ] {
        refuses("gemm_fp8_block", &params, &good, &[], name);
    }
    refuses("gemm_fp8_block", &none, &good, &[("C", Dtype::I8)], "C");
}

#[test]
fn arrays_of_every_format_and_odd_shapes_never_panic() {
    let mut rng = SplitMix64::new(3);
    let shapes: [&[usize]; 9] = [&[], &[0], &[1], &[3], &[0, 3], &[3, 0], &[2, 3], &[1, 1], &[2, 2, 2]];
    let mut refused = 0;
    let mut accepted = 0;
    let words = [
        ("e4m3", Dtype::F8E4M3),
        ("e5m2", Dtype::F8E5M2),
        ("fnuz", Dtype::F8E4M3Fnuz),
        ("e2m1", Dtype::F4E2M1),
        ("e8", Dtype::F8E8M0),
        ("s8", Dtype::I8),
        ("u8", Dtype::U8),
        ("s4", Dtype::I4),
        ("u4", Dtype::U4),
        ("bf16", Dtype::BF16),
        ("f32", Dtype::F32),
        ("i64", Dtype::I64),
    ];
    for kernel in catalog::kernels().filter(|k| !crate::OTHERS.iter().any(|o| k.name.starts_with(o))) {
        for round in 0..400 {
            let mut inputs = Arrays::new();
            for argument in kernel.inputs {
                if argument.optional && rng.below(2) == 0 {
                    continue;
                }
                let named: Vec<Dtype> =
                    words.iter().filter(|(word, _)| argument.form.contains(word)).map(|(_, d)| *d).collect();
                let dtype = match named[..] {
                    [] => Dtype::ALL[rng.below(Dtype::ALL.len())],
                    _ if rng.below(8) == 0 => Dtype::ALL[rng.below(Dtype::ALL.len())],
                    _ => named[rng.below(named.len())],
                };
                let shape = shapes[rng.below(shapes.len())];
                let mut array = Array::new(dtype, shape, Vec::new());
                let len = array.elements() * array.item_size();
                array.bytes = (0..len).map(|_| rng.next_u64() as u8).collect();
                inputs.insert(argument.name.to_owned(), array);
            }
            let mut params = Map::new();
            if round % 2 == 1 {
                params.insert("block".to_owned(), json!([rng.below(3), rng.below(3)]));
            }
            let call = Call { inputs: &inputs, params: &params, wanted: &BTreeMap::new() };
            match (kernel.run)(&call) {
                Ok(_) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000 && accepted > 100, "{refused} refused, {accepted} accepted");
}

#[test]
fn particular_misfits() {
    let mut rng = SplitMix64::new(2);
    let mut codes = |dtype, shape| matrix(&mut rng, Class::Gaussian, dtype, shape);
    let a = codes(Dtype::I8, [2, 6]);
    let b = codes(Dtype::I4, [3, 6]);
    let x = plain(&mut SplitMix64::new(1), Dtype::F32, &[2, 3], 1.0);
    let ones = |shape: &[usize]| Array::from_f32(shape, &vec![1.0; shape.iter().product()]);
    let none = json!({});
    // Groups that do not divide K.
    let inputs = arrays([("A", a), ("sx", ones(&[2])), ("B", b.clone()), ("sg", ones(&[3, 4]))]);
    refuses("gemm_w4a8_group", &none, &inputs, &[], "divide 6");
    // A zero point of more than 4 bits.
    let z = Array::new(Dtype::U8, [3, 1], vec![3, 16, 2]);
    let inputs = arrays([("codes", b), ("scale", ones(&[3, 1])), ("z", z)]);
    refuses("dequant_int4_group", &none, &inputs, &[], "4 bits");
    // Two codes to a byte of an odd row.
    refuses("quant_mx_fp4_ds", &none, &arrays([("x", x.clone())]), &[], "even K");
    refuses("quant_nvfp4", &none, &arrays([("x", x.clone())]), &[], "even K");
    refuses(
        "quant_nvfp4",
        &none,
        &arrays([("x", x.clone()), ("g", Array::from_f32([1], &[0.0]))]),
        &[],
        "positive",
    );
    // E8M0 cannot hold scales that are no powers of two.
    refuses("quant_dg_fp8_f32", &none, &arrays([("x", x.clone())]), &[("scale", Dtype::F8E8M0)], "F32");
    refuses("quant_dg_fp8_f32", &json!({"block": [1]}), &arrays([("x", x)]), &[], "block");
    // Offsets that go back, lead nowhere or count other experts.
    let mut rng = SplitMix64::new(2);
    for (offsets, name) in [
        (&[0, 2, 1][..], "1 after 2"),
        (&[0, 1, 5], "5"),
        (&[-1, 1, 2], "-1"),
        (&[0, 2], "[3]"),
        (&[], "none"),
        (&[i64::MIN, i64::MAX, 0], "-9223372036854775808"),
    ] {
        let inputs = arrays([
            ("A", matrix(&mut rng, Class::Gaussian, Dtype::I8, [4, 8])),
            ("sa", ones(&[4])),
            ("B", Array::new(Dtype::I8, [2, 3, 8], vec![1; 48])),
            ("sb", ones(&[2, 3])),
            ("offsets", int64(offsets)),
        ]);
        refuses("moe_grouped_gemm", &json!({"base": "w8a8"}), &inputs, &[], name);
    }
}

#[test]
fn typed_functions_check_their_slices() {
    let size = Size { m: 2, n: 3, k: 130 };
    let (a, b) = (vec![0u8; 260], vec![0u8; 390]);
    let scaling = Scaling::new(Order::Joint);
    let mut out = vec![0f32; 6];
    let run = |mode: Mode, size: Size, a: &[u8], sa: usize, out: &mut [f32]| {
        gemm::fp8_block(&mode, scaling, size, a, &vec![1.0; sa], &b, &[1.0, 1.0], out)
    };
    assert!(run(Mode::Exact, size, &a, 4, &mut out).is_ok());
    assert!(run(Mode::Exact, size, &a[1..], 4, &mut out).is_err());
    assert!(run(Mode::Exact, size, &a, 5, &mut out).is_err());
    assert!(run(Mode::Exact, size, &a, 4, &mut out[1..]).is_err());
    assert!(run(Mode::Exact, Size { m: usize::MAX, ..size }, &a, 4, &mut out).is_err());
    let wrong = Mode::Hardware(Hardware { mma_k: 0, ..Hardware::default() });
    assert!(run(wrong, size, &a, 4, &mut out).is_err());
}
