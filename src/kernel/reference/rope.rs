//! Rotary position embedding, and the tables of cosines and sines that it takes: kernels 14.

use super::array::{Array, Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::exp::{exp_f64, ln_f64, sin_cos_f64};
use super::gemm_catalog::arg;
use super::operand::{area, choice, computed, expect_len, floats, misfit, required};
use super::shape::expect_shape;
use crate::dtype::Dtype;
use crate::error::Result;

/// Which elements are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Elements `2i` and `2i + 1`.
    Interleaved,
    /// Elements `i` and `i + R/2`.
    Half,
}

/// Rotates the pairs of `x`, `[tokens, heads, width]`: `(x0·c − x1·s, x1·c + x0·s)`, every product and sum rounded to
/// binary32. `cos` and `sin` are `[tokens, width/2]`. The caller rounds `y` to BF16.
///
/// # Errors
/// Class Input for an odd width and for lengths that do not fit.
pub fn rope(
    style: Style,
    [tokens, heads, width]: [usize; 3],
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    y: &mut [f32],
) -> Result<()> {
    if !width.is_multiple_of(2) {
        return Err(misfit("x", "an even number of elements to rotate", width));
    }
    let half = width / 2;
    expect_len("cos", cos.len(), area("cos", &[tokens, half])?)?;
    expect_len("sin", sin.len(), cos.len())?;
    expect_len("x", x.len(), area("x", &[tokens, heads, width])?)?;
    expect_len("y", y.len(), x.len())?;
    if x.is_empty() {
        return Ok(());
    }
    for (row, (x, y)) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).enumerate() {
        let first = row / heads * half;
        for (i, (c, s)) in cos[first..first + half].iter().zip(&sin[first..first + half]).enumerate() {
            let [even, odd] = match style {
                Style::Interleaved => [2 * i, 2 * i + 1],
                Style::Half => [i, i + half],
            };
            let (x0, x1) = (x[even], x[odd]);
            y[even] = x0 * c - x1 * s;
            y[odd] = x1 * c + x0 * s;
        }
    }
    Ok(())
}

/// YaRN's interpolation of rotary frequencies (arXiv 2309.00071), by the names of model configurations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// By how much the context grew.
    pub factor: f64,
    /// `original_max_position_embeddings`.
    pub original_context: f64,
    /// Frequencies with more rotations within the original context stay as they are.
    pub beta_fast: f64,
    /// Frequencies with fewer rotations are divided by `factor`.
    pub beta_slow: f64,
    /// Whether the ends of the ramp between are whole numbers, as everywhere but in models that say otherwise.
    pub truncate: bool,
}

/// Whose order of binary32 operations a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// DeepSeek's `precompute_freqs_cis`: `f/factor·(1 − smooth) + f·smooth` with `f = 1/base^(2i/R)`.
    DeepSeek,
    /// `_compute_yarn_parameters` of transformers: `1/(factor·p)·(1 − smooth) + 1/p·smooth` with `p = base^(2i/R)`.
    Transformers,
}

/// The frequencies of `width/2` pairs, radians per token, in binary32.
///
/// Powers are correctly rounded but for rare cases of ½ ulp and a little more, where a library's may be 1 ulp off; all
/// other steps are those of the library.
pub fn frequencies(form: Form, width: usize, base: f64, yarn: Option<&Yarn>) -> Vec<f32> {
    let half = width / 2;
    let log_base = ln_f64(base);
    let powers = (0..half).map(|i| {
        let exponent = (2 * i) as f32 / width as f32;
        exp_f64(f64::from(exponent) * log_base) as f32
    });
    let Some(yarn) = yarn else { return powers.map(|p| 1.0 / p).collect() };

    let turns_at = |turns: f64| {
        width as f64 * ln_f64(yarn.original_context / (turns * 2.0 * std::f64::consts::PI)) / (2.0 * log_base)
    };
    let (mut low, mut high) = (turns_at(yarn.beta_fast), turns_at(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(width as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let factor = yarn.factor as f32;
    powers
        .enumerate()
        .map(|(i, p)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let smooth = 1.0 - ramp;
            let (slow, fast) = match form {
                Form::DeepSeek => (1.0 / p / factor, 1.0 / p),
                Form::Transformers => (1.0 / (factor * p), 1.0 / p),
            };
            slow * (1.0 - smooth) + fast * smooth
        })
        .collect()
}

/// Cosines and sines `[positions, frequencies]` of `f32(position)·frequency`, rounded to binary32, times `amplitude`, which
/// is 1 for DeepSeek (its softmax scale has the square of [`mscale`]) and transformers' attention factor there.
///
/// Angles below 2^20 are good to half an ulp and a little; all code that makes tables with this function makes the same.
pub fn tables(positions: &[u32], frequencies: &[f32], amplitude: f32) -> [Vec<f32>; 2] {
    let mut cos = Vec::with_capacity(positions.len() * frequencies.len());
    let mut sin = Vec::with_capacity(positions.len() * frequencies.len());
    for position in positions {
        for frequency in frequencies {
            let angle = *position as f32 * frequency;
            let (s, c) = sin_cos_f64(angle.into());
            cos.push(c as f32 * amplitude);
            sin.push(s as f32 * amplitude);
        }
    }
    [cos, sin]
}

/// YaRN's `0.1·mscale·ln factor + 1`, 1 for factors up to 1. DeepSeek multiplies its softmax scale by the square of it,
/// with `mscale_all_dim`; transformers' attention factor is that of `mscale` (1 by default) over that of `mscale_all_dim`
/// where there is one.
pub fn mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * ln_f64(factor) + 1.0 }
}

const INPUTS: &[Arg] =
    &[arg("x", "bf16[T,Hn,R] or [T,R]"), arg("cos", "f32[T,R/2]"), arg("sin", "f32[T,R/2]")];
const OUTPUTS: &[Arg] = &[arg("y", "bf16[T,Hn,R] or [T,R]")];

/// The kernels of this file, in order.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "rope",
        semantics: "(x0·c − x1·s, x1·c + x0·s), every product and sum rounded to f32; RNE to BF16. Pairs: (2i, 2i+1) for \
                    style interleaved, (i, i+R/2) for half. Row t of the tables belongs to row t of x.",
        inputs: INPUTS,
        outputs: OUTPUTS,
        params: &[Param { name: "style", values: "half | interleaved", default: "\"half\"" }],
        run: |call| {
            run(call, choice(call, "style", &[("half", Style::Half), ("interleaved", Style::Interleaved)])?)
        },
    },
    Kernel {
        name: "rope_interleaved",
        semantics: "rope with style interleaved: pairs (2i, 2i+1).",
        inputs: INPUTS,
        outputs: OUTPUTS,
        params: &[],
        run: |call| run(call, Style::Interleaved),
    },
    Kernel {
        name: "rope_half",
        semantics: "rope with style half: pairs (i, i+R/2).",
        inputs: INPUTS,
        outputs: OUTPUTS,
        params: &[],
        run: |call| run(call, Style::Half),
    },
    Kernel {
        name: "rope_half_split",
        semantics: "rope with style half: pairs (i, i+R/2).",
        inputs: INPUTS,
        outputs: OUTPUTS,
        params: &[],
        run: |call| run(call, Style::Half),
    },
];

fn run(call: &Call<'_>, style: Style) -> Result<Arrays> {
    let x = required(call, "x", &[Dtype::BF16])?;
    let shape = match x.shape[..] {
        [tokens, width] => [tokens, 1, width],
        [tokens, heads, width] => [tokens, heads, width],
        _ => return Err(misfit("x", "[T,Hn,R] or [T,R]", format!("{:?}", x.shape))),
    };
    let table = |name: &str| -> Result<&Array> {
        let table = required(call, name, &[Dtype::F32])?;
        expect_shape(name, table, &[shape[0], shape[2] / 2])?;
        Ok(table)
    };
    let (cos, sin) = (floats(table("cos")?), floats(table("sin")?));
    let mut y = vec![0.0; x.elements()];
    rope(style, shape, &floats(x), &cos, &sin, &mut y)?;
    let y = computed("y", call.wanted("y", Dtype::BF16), x.shape.clone(), &y)?;
    Ok([("y".to_owned(), y)].into())
}
