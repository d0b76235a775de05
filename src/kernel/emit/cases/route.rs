//! Routing: kernel 17 and the combination of 18.

use super::super::golden::Draft;
use super::super::input::{Values, plain, power_of_two, values};
use super::{kind, rng};
use crate::dtype::Dtype;
use crate::kernel::reference::array::Array;

pub(super) fn drafts(kernel: &'static str) -> Vec<Draft> {
    match kernel {
        "moe_gate" => gate(kernel),
        "moe_combine" => combine(kernel),
        _ => Vec::new(),
    }
}

fn gate(kernel: &'static str) -> Vec<Draft> {
    let mut out = Vec::new();
    for scoring in ["sigmoid", "sqrtsoftplus", "softmax"] {
        for class in ["gaussian", "small-int", "exponent-sweep", "signed-zero", "outlier", "ragged", "empty"]
        {
            let [t, e] = match class {
                "ragged" => [1, 24],
                "empty" => [0, 32],
                "exponent-sweep" => [20, 32],
                _ => [8, 64],
            };
            let mut logits = values(kind(class, Dtype::F32), &mut rng(kernel, class, "logits"), t, e);
            if class == "gaussian" {
                logits.iter_mut().for_each(|l| *l *= 4.0);
            }
            let bias = values(Values::Gaussian, &mut rng(kernel, class, "bias"), 1, e);
            let bias: Vec<f32> = bias.iter().map(|b| b * power_of_two(-4)).collect();
            let base = Draft::new(kernel, class)
                .suffix(scoring)
                .param("scoring", scoring)
                .param("topk", 6)
                .param("scale", 2.5)
                .input("logits", Array::from_f32([t, e], &logits))
                .want("idx", Dtype::I32)
                .want("weights", Dtype::F32);
            let biased = base.clone().input("bias", Array::from_f32([e], &bias));
            out.push(biased.clone().suffix("groups").param("groups", 8).param("topk_group", 4));
            // Without a bias, equal logits tie.
            out.push(base.clone());
            if class == "gaussian" {
                out.push(biased.clone().suffix("bias"));
                out.push(biased.suffix("raw").param("renormalize", false));
            }
        }
    }
    out
}

fn combine(kernel: &'static str) -> Vec<Draft> {
    let mut out = Vec::new();
    for class in
        ["gaussian", "small-int", "exponent-sweep", "zero-block", "signed-zero", "outlier", "ragged", "empty"]
    {
        let [r, t, topk, h] = match class {
            "ragged" => [3, 1, 2, 33],
            "empty" => [4, 0, 2, 32],
            _ => [20, 6, 4, 96],
        };
        let x = values(kind(class, Dtype::BF16), &mut rng(kernel, class, "x"), r, h);
        let mut random = rng(kernel, class, "row");
        let rows = (0..t * topk).flat_map(|_| i64::from(random.below(r as u32)).to_le_bytes()).collect();
        let weights: Vec<f32> = (0..t * topk).map(|_| random.uniform() * 2.0).collect();
        let draft = Draft::new(kernel, class)
            .input("x", plain(Dtype::BF16, [r, h], &x))
            .input("row", Array::new(Dtype::I64, [t, topk], rows))
            .input("weights", Array::from_f32([t, topk], &weights));
        out.push(draft.want("y", Dtype::BF16));
    }
    out
}
