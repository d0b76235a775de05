//! Attention: grouped heads, and latent attention with its indexer. Positions count from 0, the mask is causal. Sliding
//! windows are longer than the few tokens that run here.

use super::arch::{Attention, Indexer, Rope};
use super::block::Trace;
use super::math;
use super::side::{Grid, Rounding, Side};
use crate::error::Result;

/// Epsilon of the norms of latents, which is no parameter of the model in transformers.
const LATENT_EPS: f64 = 1e-6;

/// The attention's output before the residual, and the keys that the indexer chose for each token.
pub(super) fn attention(
    side: &Side<'_>,
    layer: &str,
    x: &Grid,
    forced: Option<&[Vec<usize>]>,
    trace: &mut Trace<'_>,
) -> Result<(Grid, Option<Vec<Vec<usize>>>)> {
    let at = format!("{layer}.self_attn");
    match side.arch.attention.clone() {
        Attention::Grouped { heads, kv_heads, dim } => {
            let mut q = trace.keep("self_attn.q_proj", side.linear(&format!("{at}.q_proj"), x, heads * dim)?);
            let mut k =
                trace.keep("self_attn.k_proj", side.linear(&format!("{at}.k_proj"), x, kv_heads * dim)?);
            let v = trace.keep("self_attn.v_proj", side.linear(&format!("{at}.v_proj"), x, kv_heads * dim)?);
            for (name, grid) in [("q_norm", &mut q), ("k_norm", &mut k)] {
                let weight = format!("{at}.{name}.weight");
                if side.has(&weight) {
                    let normed = side.rms_norm(&weight, grid, dim, side.arch.eps)?;
                    *grid = trace.keep(&format!("self_attn.{name}"), normed);
                }
            }
            let rope = &side.arch.rope;
            rotate(&mut q, dim, 0, false, rope, side.rounding);
            rotate(&mut k, dim, 0, false, rope, side.rounding);
            let keys: Vec<Grid> = (0..kv_heads).map(|h| k.columns(h * dim, (h + 1) * dim)).collect();
            let values: Vec<Grid> = (0..kv_heads).map(|h| v.columns(h * dim, (h + 1) * dim)).collect();
            let scale = rope.logit_factor / (dim as f64).sqrt();
            let mut out = Grid::new(x.rows, heads * dim, vec![0.0; x.rows * heads * dim]);
            for h in 0..heads {
                let shared = h / (heads / kv_heads);
                let query = q.columns(h * dim, (h + 1) * dim);
                let o = attend(&query, &keys[shared], &values[shared], scale, None, side.rounding);
                put(&mut out, h * dim, &o);
            }
            let out = trace.keep("self_attn.heads", out);
            let out =
                trace.keep("self_attn.o_proj", side.linear(&format!("{at}.o_proj"), &out, side.arch.hidden)?);
            Ok((out, None))
        }
        Attention::Latent { heads, q_lora, kv_lora, nope, rope, v, interleaved, indexer } => {
            let width = nope + rope;
            let (query, latent) = if q_lora {
                let module = format!("{at}.q_a_proj");
                let rank = side.rows(&module)?;
                let down = trace.keep("self_attn.q_a_proj", side.linear(&module, x, rank)?);
                let normed = side.rms_norm(&format!("{at}.q_a_layernorm.weight"), &down, rank, LATENT_EPS)?;
                let normed = trace.keep("self_attn.q_a_layernorm", normed);
                let up = side.linear(&format!("{at}.q_b_proj"), &normed, heads * width)?;
                (trace.keep("self_attn.q_b_proj", up), normed)
            } else {
                let q = side.linear(&format!("{at}.q_proj"), x, heads * width)?;
                (trace.keep("self_attn.q_proj", q), x.clone())
            };
            let mut q = query;
            rotate(&mut q, width, nope, interleaved, &side.arch.rope, side.rounding);
            let kv = side.linear(&format!("{at}.kv_a_proj_with_mqa"), x, kv_lora + rope)?;
            let kv = trace.keep("self_attn.kv_a_proj_with_mqa", kv);
            let compressed = kv.columns(0, kv_lora);
            let name = format!("{at}.kv_a_layernorm.weight");
            let compressed = side.rms_norm(&name, &compressed, kv_lora, LATENT_EPS)?;
            let compressed = trace.keep("self_attn.kv_a_layernorm", compressed);
            let mut k_rope = kv.columns(kv_lora, kv_lora + rope);
            rotate(&mut k_rope, rope, 0, interleaved, &side.arch.rope, side.rounding);
            let expanded = side.linear(&format!("{at}.kv_b_proj"), &compressed, heads * (nope + v))?;
            let expanded = trace.keep("self_attn.kv_b_proj", expanded);

            let mut own = None;
            // GLM has layers that share the keys of another: without an indexer, every key is seen, which is the same as
            // long as there are fewer than an indexer keeps.
            if let Some(indexer) = indexer
                && side.has(&format!("{at}.indexer.wq_b.weight"))
            {
                let scores = index_scores(side, &format!("{at}.indexer"), x, &latent, indexer, rope, trace)?;
                own = Some(choose(&scores, indexer.topk));
            }
            let keep = forced.or(own.as_deref());
            let scale = side.arch.rope.logit_factor / (width as f64).sqrt();
            let mut out = Grid::new(x.rows, heads * v, vec![0.0; x.rows * heads * v]);
            for h in 0..heads {
                let from = h * (nope + v);
                let mut keys = Vec::with_capacity(x.rows * width);
                for token in 0..x.rows {
                    keys.extend_from_slice(&expanded.row(token)[from..from + nope]);
                    keys.extend_from_slice(k_rope.row(token));
                }
                let keys = Grid::new(x.rows, width, keys);
                let values = expanded.columns(from + nope, from + nope + v);
                let query = q.columns(h * width, (h + 1) * width);
                put(&mut out, h * v, &attend(&query, &keys, &values, scale, keep, side.rounding));
            }
            let out = trace.keep("self_attn.heads", out);
            let out =
                trace.keep("self_attn.o_proj", side.linear(&format!("{at}.o_proj"), &out, side.arch.hidden)?);
            Ok((out, own))
        }
    }
}

/// Rotates `rope` columns of every group of `width`, from column `skip` of the group on.
fn rotate(x: &mut Grid, width: usize, skip: usize, interleaved: bool, rope: &Rope, rounding: Rounding) {
    let pairs = rope.inv_freq.len();
    let cols = x.cols;
    for token in 0..x.rows {
        let table: Vec<(f64, f64)> = rope
            .inv_freq
            .iter()
            .map(|f| {
                let (s, c) = math::sin_cos(f64::from(token as f32 * f));
                (f64::from((s * rope.amplitude) as f32), f64::from((c * rope.amplitude) as f32))
            })
            .collect();
        let row = &mut x.data[token * cols..(token + 1) * cols];
        for group in row.chunks_exact_mut(width) {
            for (i, (s, c)) in table.iter().enumerate() {
                let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + pairs) };
                let (a, b) = (skip + a, skip + b);
                let (x0, x1) = (f64::from(group[a]), f64::from(group[b]));
                group[a] = rounding.round(x0 * c - x1 * s);
                group[b] = rounding.round(x1 * c + x0 * s);
            }
        }
    }
}

/// Causal softmax attention of one head. `keep` lists the keys that each token may see.
fn attend(q: &Grid, k: &Grid, v: &Grid, scale: f64, keep: Option<&[Vec<usize>]>, rounding: Rounding) -> Grid {
    let mut out = Vec::with_capacity(q.rows * v.cols);
    for token in 0..q.rows {
        let seen: Vec<usize> =
            (0..=token).filter(|s| keep.is_none_or(|k| k[token].binary_search(s).is_ok())).collect();
        let logits: Vec<f64> = seen.iter().map(|s| dot(q.row(token), k.row(*s)) * scale).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|l| math::exp(l - top)).collect();
        let sum: f64 = weights.iter().sum();
        let p: Vec<f64> = weights.iter().map(|w| f64::from(rounding.round(w / sum))).collect();
        for col in 0..v.cols {
            let o: f64 = seen.iter().zip(&p).map(|(s, p)| p * f64::from(v.row(*s)[col])).sum();
            out.push(rounding.round(o));
        }
    }
    Grid::new(q.rows, v.cols, out)
}

/// Scores of the lightning indexer, `[tokens, tokens]`, causal entries only (the rest are −∞).
fn index_scores(
    side: &Side<'_>,
    at: &str,
    x: &Grid,
    latent: &Grid,
    indexer: Indexer,
    rope: usize,
    trace: &mut Trace<'_>,
) -> Result<Grid> {
    let Indexer { heads, dim, interleaved, .. } = indexer;
    debug_assert!(rope <= dim, "the rotary part is the head of an index key");
    let q = side.linear(&format!("{at}.wq_b"), latent, heads * dim)?;
    let mut q = trace.keep("self_attn.indexer.wq_b", q);
    rotate(&mut q, dim, 0, interleaved, &side.arch.rope, side.rounding);
    let k = trace.keep("self_attn.indexer.wk", side.linear(&format!("{at}.wk"), x, dim)?);
    let mut k = trace.keep("self_attn.indexer.k_norm", side.layer_norm(&format!("{at}.k_norm"), &k, 1e-6)?);
    rotate(&mut k, dim, 0, interleaved, &side.arch.rope, side.rounding);
    let weights = side.product(&format!("{at}.weights_proj.weight"), x, heads)?;
    let (weight_scale, scale) = (1.0 / (heads as f64).sqrt(), 1.0 / (dim as f64).sqrt());
    let mut scores = vec![f32::NEG_INFINITY; x.rows * x.rows];
    for token in 0..x.rows {
        for s in 0..=token {
            let mut sum = 0.0;
            for h in 0..heads {
                let d = dot(&q.row(token)[h * dim..(h + 1) * dim], k.row(s)) * scale;
                sum += d.max(0.0) * weights[token * heads + h] * weight_scale;
            }
            scores[token * x.rows + s] = sum as f32;
        }
    }
    Ok(trace.keep("self_attn.indexer", Grid::new(x.rows, x.rows, scores)))
}

/// The `topk` best visible keys of each token, ascending; ties go to the earlier key.
fn choose(scores: &Grid, topk: usize) -> Vec<Vec<usize>> {
    (0..scores.rows)
        .map(|token| {
            let row = scores.row(token);
            let mut order: Vec<usize> = (0..=token).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
            order.truncate(topk);
            order.sort_unstable();
            order
        })
        .collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

fn put(out: &mut Grid, from: usize, part: &Grid) {
    for token in 0..part.rows {
        let at = token * out.cols + from;
        out.data[at..at + part.cols].copy_from_slice(part.row(token));
    }
}
