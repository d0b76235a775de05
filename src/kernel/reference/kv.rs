//! Quantizers of key-value caches: kernels 20.

use super::array::{Array, Arrays, Call};
use super::catalog::{Kernel, Param};
use super::gemm_catalog::{arg, maybe};
use super::operand::{area, choice, computed, count, expect_len, floats, matrix, misfit, optional, required};
use super::shape::axes;
use crate::dtype::Dtype;
use crate::dtype::codec::{e4m3_from_f32_clamped, f32_from_bf16};
use crate::error::Result;

/// BF16 elements of a V3.2 token: 512 that are quantized, 64 with position.
pub const V32_WIDTH: usize = 576;
/// Bytes of a V3.2 token: codes, four binary32 scales, 64 BF16 elements.
pub const V32_BYTES: usize = 512 + 4 * 4 + 64 * 2;
/// BF16 elements of a MODEL1 token: 448 that are quantized, 64 with position.
pub const MODEL1_WIDTH: usize = 512;
/// Codes of a MODEL1 token.
const MODEL1_CODES: usize = 448;
/// Bytes of a MODEL1 token before the scales.
const MODEL1_DATA: usize = MODEL1_CODES + 64 * 2;
/// Bytes of a MODEL1 token's scales: seven, and a zero.
const MODEL1_SCALES: usize = 8;

/// Bytes of a MODEL1 block of `tokens`: a multiple of 576.
pub fn model1_block_bytes(tokens: usize) -> usize {
    tokens.saturating_mul(MODEL1_DATA + MODEL1_SCALES).div_ceil(MODEL1_DATA).saturating_mul(MODEL1_DATA)
}

fn bf16_values(bytes: &[u8]) -> impl Iterator<Item = f32> + Clone {
    bytes.chunks_exact(2).map(|b| f32_from_bf16(u16::from_le_bytes([b[0], b[1]])))
}

/// Encodes a tile of BF16 values and returns the exponent code of its scale, `2^⌈log2(max(amax/448, 1e-4))⌉`.
fn encode_tile(bytes: &[u8], codes: &mut [u8]) -> u8 {
    let amax = bf16_values(bytes).fold(0.0, |a, x| f32::max(a, x.abs()));
    let bits = (amax / 448.0).max(1e-4).to_bits();
    // Positive: the quotient is at least 1e-4. Only an infinite maximum has no power of two above it.
    let exponent = ((bits >> 23) + u32::from(bits & 0x7F_FFFF != 0)).min(254);
    let scale = f32::from_bits(exponent << 23);
    for (code, x) in codes.iter_mut().zip(bf16_values(bytes)) {
        *code = e4m3_from_f32_clamped(x / scale);
    }
    exponent as u8
}

/// FlashMLA's V3.2 cache: 512 E4M3 codes, four binary32 scales (little-endian, one per 128), the last 64 elements as they
/// are. `x` holds tokens of [`V32_WIDTH`] BF16 elements as bytes, `y` of [`V32_BYTES`].
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn kv_quant_v32(x: &[u8], y: &mut [u8]) -> Result<()> {
    let tokens = x.len() / (2 * V32_WIDTH);
    expect_len("x", x.len(), tokens * 2 * V32_WIDTH)?;
    expect_len("y", y.len(), tokens * V32_BYTES)?;
    for (x, y) in x.chunks_exact(2 * V32_WIDTH).zip(y.chunks_exact_mut(V32_BYTES)) {
        let (latent, position) = x.split_at(2 * 512);
        let (codes, rest) = y.split_at_mut(512);
        let (scales, tail) = rest.split_at_mut(16);
        let tiles = latent.chunks_exact(2 * 128).zip(codes.chunks_exact_mut(128));
        for ((x, codes), scale) in tiles.zip(scales.chunks_exact_mut(4)) {
            let exponent = encode_tile(x, codes);
            scale.copy_from_slice(&(u32::from(exponent) << 23).to_le_bytes());
        }
        tail.copy_from_slice(position);
    }
    Ok(())
}

/// FlashMLA's MODEL1 cache: per block, its tokens as 448 E4M3 codes and the last 64 elements as they are, then per token
/// seven E8M0 scales (one per 64) and a zero, then zeros up to [`model1_block_bytes`]. `x` holds blocks of `tokens` times
/// [`MODEL1_WIDTH`] BF16 elements as bytes.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn kv_quant_model1(tokens: usize, x: &[u8], y: &mut [u8]) -> Result<()> {
    let block = area("x", &[tokens, 2 * MODEL1_WIDTH])?;
    let blocks = x.len().checked_div(block).unwrap_or(0);
    expect_len("x", x.len(), blocks * block)?;
    let bytes = model1_block_bytes(tokens);
    if block == 0 {
        return expect_len("y", y.len(), 0);
    }
    expect_len("y", y.len(), area("y", &[blocks, bytes])?)?;
    y.fill(0);
    for (x, y) in x.chunks_exact(block).zip(y.chunks_exact_mut(bytes)) {
        let (data, scales) = y.split_at_mut(tokens * MODEL1_DATA);
        let rows = data.chunks_exact_mut(MODEL1_DATA).zip(scales.chunks_exact_mut(MODEL1_SCALES));
        for (x, (data, scales)) in x.chunks_exact(2 * MODEL1_WIDTH).zip(rows) {
            let (latent, position) = x.split_at(2 * MODEL1_CODES);
            let (codes, tail) = data.split_at_mut(MODEL1_CODES);
            let tiles = latent.chunks_exact(2 * 64).zip(codes.chunks_exact_mut(64));
            for ((x, codes), scale) in tiles.zip(scales) {
                *scale = encode_tile(x, codes);
            }
            tail.copy_from_slice(position);
        }
    }
    Ok(())
}

/// What shares a scale of an int8 cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// A head.
    Head,
    /// An element of a head.
    Channel,
}

impl Axis {
    /// Scales of `heads` heads of `width` elements.
    fn scales(self, heads: usize, width: usize) -> usize {
        match self {
            Axis::Head => heads,
            Axis::Channel => heads * width,
        }
    }

    /// The scale of element `at` of a token.
    fn scale(self, at: usize, width: usize) -> usize {
        match self {
            Axis::Head => at / width,
            Axis::Channel => at,
        }
    }
}

/// Elements of a token, if `x` holds whole ones.
fn whole_tokens(heads: usize, width: usize, x: &[f32]) -> Result<usize> {
    let token = area("x", &[heads, width])?;
    let rest = x.len().checked_rem(token).unwrap_or(x.len());
    if rest == 0 { Ok(token) } else { Err(misfit("x", format!("tokens of {token} elements"), x.len())) }
}

/// Scales `max(amax, 1e-4)/127` over all tokens, for `x` `[tokens, heads, width]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn kv_int8_scales(axis: Axis, [heads, width]: [usize; 2], x: &[f32], scales: &mut [f32]) -> Result<()> {
    let token = whole_tokens(heads, width, x)?;
    expect_len("scale_out", scales.len(), axis.scales(heads, width))?;
    scales.fill(0.0);
    for (at, x) in x.iter().enumerate() {
        let scale = &mut scales[axis.scale(at % token, width)];
        *scale = scale.max(x.abs());
    }
    scales.iter_mut().for_each(|s| *s = s.max(1e-4) / 127.0);
    Ok(())
}

/// Codes `clamp(RNE(x/s), ±127)` for `x` `[tokens, heads, width]`.
///
/// # Errors
/// Class Input for lengths that do not fit.
pub fn kv_int8_codes(
    axis: Axis,
    [heads, width]: [usize; 2],
    x: &[f32],
    scales: &[f32],
    codes: &mut [i8],
) -> Result<()> {
    let token = whole_tokens(heads, width, x)?;
    expect_len("scale", scales.len(), axis.scales(heads, width))?;
    expect_len("codes", codes.len(), x.len())?;
    for (at, (x, code)) in x.iter().zip(codes).enumerate() {
        let scale = scales[axis.scale(at % token, width)];
        // The cast saturates, and a NaN gives 0.
        *code = (x / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    Ok(())
}

/// The kernels of this file, in order.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "kv_quant_v32",
        semantics: "Per token 512 e4m3 | 4 f32 little-endian scales (one per 128) | 64 bf16 copied. s = 2^⌈log2(max(amax/448, \
                    1e-4))⌉, the quotient in f32; code = e4m3(x/s), RNE.",
        inputs: &[arg("x", "bf16[T,576]")],
        outputs: &[arg("y", "u8[T,656]")],
        params: &[],
        run: run_v32,
    },
    Kernel {
        name: "kv_quant_model1",
        semantics: "Per block P tokens × (448 e4m3 | 64 bf16 copied), then P × (7 e8 scales, one per 64 | one 0), then zeros up \
                    to a multiple of 576 bytes. Scales and codes as in kv_quant_v32. block_size, where given, is P.",
        inputs: &[arg("x", "bf16[Nb,P,512]")],
        outputs: &[arg("y", "u8[Nb,⌈P·584/576⌉·576]")],
        params: &[Param { name: "block_size", values: "P", default: "null" }],
        run: run_model1,
    },
    Kernel {
        name: "kv_quant_int8",
        semantics: "s = the argument, or max(amax, 1e-4)/127 in f32, over T and Dh (axis head) or over T (axis channel); \
                    code = clamp(RNE(x/s), ±127).",
        inputs: &[arg("x", "bf16[T,Hn,Dh]"), maybe("scale", "f32[Hn] or [Hn,Dh]")],
        outputs: &[arg("codes", "s8[T,Hn,Dh]"), maybe("scale_out", "f32[Hn] or [Hn,Dh]")],
        params: &[Param { name: "axis", values: "head | channel", default: "\"head\"" }],
        run: run_int8,
    },
];

fn run_v32(call: &Call<'_>) -> Result<Arrays> {
    let x = required(call, "x", &[Dtype::BF16])?;
    let [tokens, width] = matrix("x", x)?;
    if width != V32_WIDTH {
        return Err(misfit("x", format!("[T, {V32_WIDTH}]"), format!("{:?}", x.shape)));
    }
    let shape = vec![tokens, V32_BYTES];
    let mut y = vec![0; area("y", &shape)?];
    kv_quant_v32(&x.bytes, &mut y)?;
    Ok([("y".to_owned(), Array::new(Dtype::U8, shape, y))].into())
}

fn run_model1(call: &Call<'_>) -> Result<Arrays> {
    let x = required(call, "x", &[Dtype::BF16])?;
    let [blocks, tokens, width] = axes("x", x)?;
    let given = match call.params.get("block_size") {
        None | Some(serde_json::Value::Null) => tokens,
        Some(_) => count(call, "block_size", tokens)?,
    };
    if width != MODEL1_WIDTH || given != tokens {
        return Err(misfit("x", format!("[Nb, {given}, {MODEL1_WIDTH}]"), format!("{:?}", x.shape)));
    }
    let shape = vec![blocks, model1_block_bytes(tokens)];
    let mut y = vec![0; area("y", &shape)?];
    kv_quant_model1(tokens, &x.bytes, &mut y)?;
    Ok([("y".to_owned(), Array::new(Dtype::U8, shape, y))].into())
}

fn run_int8(call: &Call<'_>) -> Result<Arrays> {
    let x = required(call, "x", &[Dtype::BF16])?;
    let [_, heads, width] = axes("x", x)?;
    let given = optional(call, "scale", &[Dtype::F32])?;
    let axis = match given.map(|g| g.shape.as_slice()) {
        None => choice(call, "axis", &[("head", Axis::Head), ("channel", Axis::Channel)])?,
        // A given scale says itself what it is for.
        Some([h]) if *h == heads => Axis::Head,
        Some([h, w]) if [*h, *w] == [heads, width] => Axis::Channel,
        Some(other) => {
            return Err(misfit("scale", format!("[{heads}] or [{heads}, {width}]"), format!("{other:?}")));
        }
    };
    let shape = match axis {
        Axis::Head => vec![heads],
        Axis::Channel => vec![heads, width],
    };
    let values = floats(x);
    let mut scales = given.map_or_else(Vec::new, floats);
    if given.is_none() {
        scales = vec![0.0; area("scale_out", &shape)?];
        kv_int8_scales(axis, [heads, width], &values, &mut scales)?;
    }
    let mut codes = vec![0i8; values.len()];
    kv_int8_codes(axis, [heads, width], &values, &scales, &mut codes)?;
    let codes = codes.iter().map(|c| c.to_le_bytes()[0]).collect();
    let mut outputs: Arrays = [("codes".to_owned(), Array::new(Dtype::I8, x.shape.clone(), codes))].into();
    if call.wanted.contains_key("scale_out") {
        outputs.insert("scale_out".to_owned(), computed("scale_out", Dtype::F32, shape, &scales)?);
    }
    Ok(outputs)
}
