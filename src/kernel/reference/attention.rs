//! Sparse attention with a sink, and the lightning indexer: kernels 16.

use super::array::{Arrays, Call};
use super::catalog::{Kernel, Param};
use super::exp::exp_f32;
use super::gemm_catalog::arg;
use super::operand::{area, choice, computed, expect_len, floats, int32, misfit, required};
use super::shape::{axes, exact_dot, expect_shape, real, round_bf16};
use crate::dtype::Dtype;
use crate::error::Result;

/// Sizes of a sparse attention or of an indexer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionSize {
    /// Queries.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Elements of a query and of a key.
    pub width: usize,
    /// Keys.
    pub keys: usize,
}

/// Arguments of [`sparse_attn_sink`], row-major.
#[derive(Clone, Copy, Debug)]
pub struct SparseAttention<'a> {
    /// The sizes of the arguments.
    pub size: AttentionSize,
    /// BF16 values `[tokens, heads, width]`.
    pub q: &'a [f32],
    /// BF16 values `[keys, width]`, keys and values at once.
    pub kv: &'a [f32],
    /// Keys of a query, `[tokens, chosen]`; −1 is none.
    pub idx: &'a [i32],
    /// A further logit per head that has no value, `[heads]`.
    pub sink: &'a [f32],
    /// Multiplies the logits.
    pub scale: f32,
    /// Whether probabilities are rounded to BF16 before they multiply values.
    pub bf16_p: bool,
}

/// `l = f32(f32(q·k)·scale)`; `m` = the largest of the chosen keys; `p = expf(l − m)`; `den` = Σ p in binary32, in the order
/// of the indices, plus `expf(sink − m)`; `o` = Σ p·v; `y = o/den` in binary32, which the caller rounds to BF16. Both dot
/// products are exact and rounded once. A query without keys gives 0.
///
/// # Errors
/// Class Input for lengths that do not fit and indices without a key.
pub fn sparse_attn_sink(args: &SparseAttention<'_>, y: &mut [f32]) -> Result<()> {
    let AttentionSize { tokens, heads, width, keys } = args.size;
    expect_len("q", args.q.len(), area("q", &[tokens, heads, width])?)?;
    expect_len("kv", args.kv.len(), area("kv", &[keys, width])?)?;
    expect_len("sink", args.sink.len(), heads)?;
    expect_len("y", y.len(), args.q.len())?;
    let chosen = args.idx.len().checked_div(tokens).unwrap_or(0);
    expect_len("idx", args.idx.len(), tokens * chosen)?;
    y.fill(0.0);
    if width == 0 {
        return Ok(());
    }

    let rows = args.q.chunks_exact(width).zip(y.chunks_exact_mut(width));
    let mut selected: Vec<&[f32]> = Vec::with_capacity(chosen);
    for (row, (q, y)) in rows.enumerate() {
        let (token, head) = (row / heads, row % heads);
        if head == 0 {
            selected.clear();
            for index in &args.idx[token * chosen..][..chosen] {
                if *index == -1 {
                    continue;
                }
                let key = usize::try_from(*index).ok().filter(|key| *key < keys);
                let key = key.ok_or_else(|| misfit("idx", format!("−1 or a key below {keys}"), index))?;
                selected.push(&args.kv[key * width..][..width]);
            }
        }
        if selected.is_empty() {
            continue;
        }
        let pair = |a: &'_ [f32], b: &'_ [f32]| exact_dot(a.iter().copied().zip(b.iter().copied()));
        let mut p: Vec<f32> = selected.iter().map(|k| pair(q, k) * args.scale).collect();
        let max = p.iter().copied().fold(f32::NEG_INFINITY, |m, l| if l > m { l } else { m });
        p.iter_mut().for_each(|p| *p = exp_f32(*p - max));
        let den = p.iter().fold(0.0, |den, p| den + p) + exp_f32(args.sink[head] - max);
        if args.bf16_p {
            p.iter_mut().for_each(|p| *p = round_bf16(*p));
        }
        for (i, y) in y.iter_mut().enumerate() {
            *y = exact_dot(p.iter().copied().zip(selected.iter().map(|v| v[i]))) / den;
        }
    }
    Ok(())
}

/// Scores of keys: `acc = +0`; per head, ascending: `acc = acc + max(d, 0)·weight`, `d` being the exact dot product rounded
/// to binary32 (a NaN stays one); `y = acc·ks`. `q` `[tokens, heads, width]` and `k` `[keys, width]` are E4M3 values, `weights`
/// `[tokens, heads]`, `ks` `[keys]`, `y` `[tokens, keys]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn indexer_logits(
    size: AttentionSize,
    q: &[f32],
    k: &[f32],
    weights: &[f32],
    ks: &[f32],
    y: &mut [f32],
) -> Result<()> {
    /// Products of E4M3 whose sum is exact in binary64: 448² · 2^18 · 2^17 < 2^53.
    const EXACT: usize = 1 << 17;
    let AttentionSize { tokens, heads, width, keys } = size;
    expect_len("q", q.len(), area("q", &[tokens, heads, width])?)?;
    expect_len("k", k.len(), area("k", &[keys, width])?)?;
    expect_len("weights", weights.len(), area("weights", &[tokens, heads])?)?;
    expect_len("ks", ks.len(), keys)?;
    expect_len("y", y.len(), area("y", &[tokens, keys])?)?;
    for (at, y) in y.iter_mut().enumerate() {
        let (token, key) = (at / keys, at % keys);
        let k = &k[key * width..][..width];
        let mut acc = 0.0;
        for head in 0..heads {
            let row = token * heads + head;
            let pairs = q[row * width..][..width].iter().zip(k);
            let d = if width <= EXACT {
                pairs.fold(0.0, |d, (q, k)| d + f64::from(*q) * f64::from(*k)) as f32
            } else {
                exact_dot(pairs.map(|(q, k)| (*q, *k)))
            };
            acc += (if d <= 0.0 { 0.0 } else { d }) * weights[row];
        }
        *y = acc * ks[key];
    }
    Ok(())
}

/// The kernels of this file, in order.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "sparse_attn_sink",
        semantics: "l = f32(f32(q·k)·scale), the dot exact and rounded once; m = max l over unmasked indices; p = expf(l − m), \
                    0 where idx is −1; den = Σ p in f32, in the order of idx, then + expf(sink − m); o = f32(Σ bf16(p)·v), \
                    exact and rounded once (cast_p f32: p as it is); y = bf16(o/den). A row without any index gives 0.",
        inputs: &[
            arg("q", "bf16[T,Hn,Dk]"),
            arg("kv", "bf16[S,Dk]"),
            arg("idx", "i32[T,N]"),
            arg("sink", "f32[Hn]"),
        ],
        outputs: &[arg("y", "bf16[T,Hn,Dk]")],
        params: &[
            Param { name: "scale", values: "a number, rounded to f32", default: "1.0" },
            Param { name: "cast_p", values: "bf16 | f32", default: "\"bf16\"" },
        ],
        run: run_sparse,
    },
    Kernel {
        name: "indexer_logits",
        semantics: "acc = +0; per head, ascending: acc = acc + max(d, 0)·w in f32, d the exact dot product of q and k rounded \
                    once to f32; y = acc·ks.",
        inputs: &[
            arg("q", "e4m3[T,Hn,D]"),
            arg("k", "e4m3[S,D]"),
            arg("weights", "f32[T,Hn]"),
            arg("ks", "f32[S]"),
        ],
        outputs: &[arg("y", "f32[T,S]")],
        params: &[],
        run: run_indexer,
    },
];

fn run_sparse(call: &Call<'_>) -> Result<Arrays> {
    let q = required(call, "q", &[Dtype::BF16])?;
    let kv = required(call, "kv", &[Dtype::BF16])?;
    let idx = required(call, "idx", &[Dtype::I32])?;
    let sink = required(call, "sink", &[Dtype::F32])?;
    let [tokens, heads, width] = axes("q", q)?;
    let [keys, _] = axes("kv", kv)?;
    let [_, chosen] = axes("idx", idx)?;
    expect_shape("kv", kv, &[keys, width])?;
    expect_shape("idx", idx, &[tokens, chosen])?;
    expect_shape("sink", sink, &[heads])?;
    let mut y = vec![0.0; q.elements()];
    let args = SparseAttention {
        size: AttentionSize { tokens, heads, width, keys },
        q: &floats(q),
        kv: &floats(kv),
        idx: &int32(idx),
        sink: &floats(sink),
        scale: real(call, "scale", 1.0)? as f32,
        bf16_p: choice(call, "cast_p", &[("bf16", true), ("f32", false)])?,
    };
    sparse_attn_sink(&args, &mut y)?;
    let y = computed("y", call.wanted("y", Dtype::BF16), q.shape.clone(), &y)?;
    Ok([("y".to_owned(), y)].into())
}

fn run_indexer(call: &Call<'_>) -> Result<Arrays> {
    let q = required(call, "q", &[Dtype::F8E4M3])?;
    let k = required(call, "k", &[Dtype::F8E4M3])?;
    let weights = required(call, "weights", &[Dtype::F32])?;
    let ks = required(call, "ks", &[Dtype::F32])?;
    let [tokens, heads, width] = axes("q", q)?;
    let [keys, _] = axes("k", k)?;
    expect_shape("k", k, &[keys, width])?;
    expect_shape("weights", weights, &[tokens, heads])?;
    expect_shape("ks", ks, &[keys])?;
    let size = AttentionSize { tokens, heads, width, keys };
    let mut y = vec![0.0; area("y", &[tokens, keys])?];
    indexer_logits(size, &floats(q), &floats(k), &floats(weights), &floats(ks), &mut y)?;
    let y = computed("y", call.wanted("y", Dtype::F32), vec![tokens, keys], &y)?;
    Ok([("y".to_owned(), y)].into())
}
