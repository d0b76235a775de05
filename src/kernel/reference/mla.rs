//! Multi-head latent attention in binary64, plain and with the projections absorbed: kernels 15.
//!
//! Both forms are exempt from equality of bits (their exponentials are not bit-defined): results agree within 1e-12 of the
//! largest magnitude.

use super::array::{Array, Arrays, Call};
use super::catalog::{Arg, Kernel, Param};
use super::exp::exp_f64;
use super::gemm_catalog::arg;
use super::operand::{area, computed, expect_len, flag, floats, misfit, required};
use super::shape::{axes, expect_shape, real, round_bf16};
use crate::dtype::Dtype;
use crate::error::Result;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlaSize {
    /// Queries.
    pub tokens: usize,
    /// Keys.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a query without position, per head.
    pub nope: usize,
    /// Elements of a query with position, per head.
    pub rope: usize,
    /// Elements of a latent.
    pub latent: usize,
    /// Elements of a value, per head.
    pub value: usize,
}

/// The arguments of an attention, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Mla<'a> {
    /// The sizes of all arguments.
    pub size: MlaSize,
    /// `[tokens, heads, nope]`.
    pub q_nope: &'a [f32],
    /// `[tokens, heads, rope]`.
    pub q_pe: &'a [f32],
    /// Latents, `[keys, latent]`.
    pub kv_c: &'a [f32],
    /// `[keys, rope]`.
    pub k_pe: &'a [f32],
    /// `[heads, nope, latent]`.
    pub w_uk: &'a [f32],
    /// `[heads, value, latent]`.
    pub w_uv: &'a [f32],
    /// Multiplies the logits.
    pub scale: f64,
    /// Whether a query sees no later keys. The last query stands at the last key; a query without any key gives 0.
    pub causal: bool,
    /// Whether probabilities are rounded to binary32 and BF16 before they multiply values (not in the denominator).
    pub cast_p: bool,
}

impl Mla<'_> {
    /// Fails unless every slice has the length of its sizes, and `y` that of `[tokens, heads, value]`.
    fn check(&self, y: &[f64]) -> Result<()> {
        let MlaSize { tokens, keys, heads, nope, rope, latent, value } = self.size;
        for (name, len, sizes) in [
            ("q_nope", self.q_nope.len(), [tokens, heads, nope]),
            ("q_pe", self.q_pe.len(), [tokens, heads, rope]),
            ("kv_c", self.kv_c.len(), [keys, latent, 1]),
            ("k_pe", self.k_pe.len(), [keys, rope, 1]),
            ("W_UK", self.w_uk.len(), [heads, nope, latent]),
            ("W_UV", self.w_uv.len(), [heads, value, latent]),
            ("y", y.len(), [tokens, heads, value]),
        ] {
            expect_len(name, len, area(name, &sizes)?)?;
        }
        Ok(())
    }

    /// Keys that query `token` sees: the first ones.
    fn visible(&self, token: usize) -> usize {
        let MlaSize { tokens, keys, .. } = self.size;
        if self.causal { (keys + token + 1).saturating_sub(tokens) } else { keys }
    }

    /// Logits of one query and head as exponentials over their maximum, in `p`, and their sum; then what multiplies values.
    fn softmax(&self, p: &mut [f64]) -> f64 {
        let max = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        p.iter_mut().for_each(|p| *p = exp_f64(*p - max));
        let sum = p.iter().sum();
        if self.cast_p {
            p.iter_mut().for_each(|p| *p = round_bf16(*p as f32).into());
        }
        sum
    }
}

/// The dot product in binary64.
fn dot(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum()
}

/// The dot product in binary64, of exact products.
fn dot_f32(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// A part of a row-major array: item `index` of `len` elements.
fn item<T>(array: &[T], index: usize, len: usize) -> &[T] {
    &array[index * len..][..len]
}

/// Attention with keys and values made from the latents: `k = W_UK·c`, `v = W_UV·c`, `softmax((q_nope·k + q_pe·k_pe)·scale)·v`.
/// `y` is `[tokens, heads, value]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn mla_plain(mla: &Mla<'_>, y: &mut [f64]) -> Result<()> {
    mla.check(y)?;
    let MlaSize { tokens, keys, heads, nope, rope, latent, value } = mla.size;
    let mut k = vec![0.0; keys * nope];
    let mut v = vec![0.0; keys * value];
    for head in 0..heads {
        let w_uk = item(mla.w_uk, head, nope * latent);
        let w_uv = item(mla.w_uv, head, value * latent);
        for key in 0..keys {
            let c = item(mla.kv_c, key, latent);
            for i in 0..nope {
                k[key * nope + i] = dot_f32(item(w_uk, i, latent), c);
            }
            for i in 0..value {
                v[key * value + i] = dot_f32(item(w_uv, i, latent), c);
            }
        }
        for token in 0..tokens {
            let at = token * heads + head;
            let (q_nope, q_pe) = (item(mla.q_nope, at, nope), item(mla.q_pe, at, rope));
            let mut p: Vec<f64> = (0..mla.visible(token))
                .map(|s| {
                    (dot(q_nope, item(&k, s, nope)) + dot_f32(q_pe, item(mla.k_pe, s, rope))) * mla.scale
                })
                .collect();
            let sum = mla.softmax(&mut p);
            for (i, y) in y[at * value..][..value].iter_mut().enumerate() {
                let weighted: f64 = p.iter().enumerate().map(|(s, p)| p * v[s * value + i]).sum();
                *y = if p.is_empty() { 0.0 } else { weighted / sum };
            }
        }
    }
    Ok(())
}

/// The same attention in the space of latents: `q_nope·W_UK` meets the latents, and `W_UV` multiplies their weighted sum.
/// `y` is `[tokens, heads, value]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn mla_absorbed(mla: &Mla<'_>, y: &mut [f64]) -> Result<()> {
    mla.check(y)?;
    let MlaSize { tokens, heads, nope, rope, latent, value, .. } = mla.size;
    let mut q = vec![0.0; latent];
    let mut o = vec![0.0; latent];
    for token in 0..tokens {
        for head in 0..heads {
            let at = token * heads + head;
            let w_uk = item(mla.w_uk, head, nope * latent);
            let w_uv = item(mla.w_uv, head, value * latent);
            q.fill(0.0);
            for (i, x) in item(mla.q_nope, at, nope).iter().enumerate() {
                for (q, w) in q.iter_mut().zip(item(w_uk, i, latent)) {
                    *q += f64::from(*x) * f64::from(*w);
                }
            }
            let q_pe = item(mla.q_pe, at, rope);
            let mut p: Vec<f64> = (0..mla.visible(token))
                .map(|s| {
                    (dot(item(mla.kv_c, s, latent), &q) + dot_f32(q_pe, item(mla.k_pe, s, rope))) * mla.scale
                })
                .collect();
            let sum = mla.softmax(&mut p);
            o.fill(0.0);
            for (s, p) in p.iter().enumerate() {
                for (o, c) in o.iter_mut().zip(item(mla.kv_c, s, latent)) {
                    *o += p * f64::from(*c);
                }
            }
            for (i, y) in y[at * value..][..value].iter_mut().enumerate() {
                *y = if p.is_empty() { 0.0 } else { dot(item(w_uv, i, latent), &o) / sum };
            }
        }
    }
    Ok(())
}

const INPUTS: &[Arg] = &[
    arg("q_nope", "bf16[T,Hn,Dn]"),
    arg("q_pe", "bf16[T,Hn,R]"),
    arg("kv_c", "bf16[S,L]"),
    arg("k_pe", "bf16[S,R]"),
    arg("W_UK", "bf16[Hn,Dn,L]"),
    arg("W_UV", "bf16[Hn,Dv,L]"),
];
const OUTPUTS: &[Arg] = &[arg("y", "f64|f32[T,Hn,Dv]")];
const PARAMS: &[Param] = &[
    Param { name: "scale", values: "a number", default: "1.0" },
    Param { name: "causal", values: "true | false", default: "true" },
    Param { name: "cast_p", values: "true | false", default: "false" },
];

/// The kernels of this file, in order.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "mla_plain",
        semantics: "All in f64, compared within 1e-12·max|y|: k = W_UK·kv_c, v = W_UV·kv_c; l = (q_nope·k + q_pe·k_pe)·scale; \
                    p = exp(l − max l); y = Σ p·v / Σ p. Causal: query t sees keys 0..=S−T+t. cast_p: p rounded to f32 and \
                    BF16 where it multiplies v, not in the denominator.",
        inputs: INPUTS,
        outputs: OUTPUTS,
        params: PARAMS,
        run: |call| run(call, mla_plain),
    },
    Kernel {
        name: "mla_absorbed",
        semantics: "As mla_plain, in the space of latents: l = ((q_nope·W_UK)·kv_c + q_pe·k_pe)·scale; y = W_UV·(Σ p·kv_c) / Σ p.",
        inputs: INPUTS,
        outputs: OUTPUTS,
        params: PARAMS,
        run: |call| run(call, mla_absorbed),
    },
];

fn run(call: &Call<'_>, kernel: fn(&Mla<'_>, &mut [f64]) -> Result<()>) -> Result<Arrays> {
    let bf16 = |name: &str| required(call, name, &[Dtype::BF16]);
    let (q_nope, q_pe) = (bf16("q_nope")?, bf16("q_pe")?);
    let (kv_c, k_pe) = (bf16("kv_c")?, bf16("k_pe")?);
    let (w_uk, w_uv) = (bf16("W_UK")?, bf16("W_UV")?);
    let [tokens, heads, nope] = axes("q_nope", q_nope)?;
    let [keys, latent] = axes("kv_c", kv_c)?;
    let [_, value, _] = axes("W_UV", w_uv)?;
    let [_, rope] = axes("k_pe", k_pe)?;
    expect_shape("q_pe", q_pe, &[tokens, heads, rope])?;
    expect_shape("k_pe", k_pe, &[keys, rope])?;
    expect_shape("W_UK", w_uk, &[heads, nope, latent])?;
    expect_shape("W_UV", w_uv, &[heads, value, latent])?;

    let shape = vec![tokens, heads, value];
    let mut y = vec![0.0; area("y", &shape)?];
    let mla = Mla {
        size: MlaSize { tokens, keys, heads, nope, rope, latent, value },
        q_nope: &floats(q_nope),
        q_pe: &floats(q_pe),
        kv_c: &floats(kv_c),
        k_pe: &floats(k_pe),
        w_uk: &floats(w_uk),
        w_uv: &floats(w_uv),
        scale: real(call, "scale", 1.0)?,
        causal: flag(call, "causal", true)?,
        cast_p: flag(call, "cast_p", false)?,
    };
    kernel(&mla, &mut y)?;
    let y = match call.wanted("y", Dtype::F64) {
        Dtype::F64 => Array::new(Dtype::F64, shape, y.iter().flat_map(|y| y.to_le_bytes()).collect()),
        Dtype::F32 => computed("y", Dtype::F32, shape, &y.iter().map(|y| *y as f32).collect::<Vec<_>>())?,
        other => return Err(misfit("y", "F64 or F32 as the output's format", other.golden_name())),
    };
    Ok([("y".to_owned(), y)].into())
}
