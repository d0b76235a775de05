//! Inputs of the benchmarks: real shapes at a size that fits in memory, written in seconds.
//!
//! `llama` is 2.01 GB of BF16 (Llama-3-8B shapes, 4 layers, an eighth of the vocabulary); `dsv3` is 0.94 GB of FP8 with
//! F32 block scales (DeepSeek-V3 attention and 17 experts). The values come from a pool of random rows and blocks that
//! are reused at random, so amax, rounding and saturation behave as on trained weights while the generator keeps up
//! with memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::encode::{bf16, e4m3};
use crate::families::{Deepseek, Kind, Llama, Spec, deepseek, llama};
use crate::fixtures::config;
use crate::fixtures::side_files;
use crate::fixtures::values::{self, ScaleFormat, Storage};
use crate::rng::SplitMix64;
use crate::safetensors::{Dtype, Info, Order, head, index_json};

/// Rows and columns of an FP8 block.
const BLOCK: usize = 128;
/// BF16 elements per strength in the pool.
const POOL: usize = 1 << 20;
/// FP8 blocks in the pool.
const BLOCKS: usize = 64;
/// Shards of each input.
const SHARDS: u64 = 2;

/// Writes `llama` and `dsv3` below `dir`.
///
/// # Errors
/// Those of the file system.
pub fn write_all(dir: &Path) -> io::Result<()> {
    write_llama(&dir.join("llama"))?;
    write_dsv3(&dir.join("dsv3"))
}

/// Writes the BF16 input into `dir`: 2.01 GB.
///
/// # Errors
/// Those of the file system.
pub fn write_llama(dir: &Path) -> io::Result<()> {
    let dims = llama_dims();
    let extra = serde_json::json!({ "attention_bias": false, "head_dim": 128, "mlp_bias": false });
    let config = config::llama(&dims, "LlamaForCausalLM", "llama", "bfloat16", extra);
    write("llama", &llama(&dims), Storage::Float, Order::Dtype, dir)?;
    side_files::write(dir, &config, false)
}

/// Writes the FP8 input into `dir`: 0.94 GB.
///
/// # Errors
/// Those of the file system.
pub fn write_dsv3(dir: &Path) -> io::Result<()> {
    let dims = dsv3_dims();
    let config = config::deepseek(&dims, "deepseek_v3", None);
    write("dsv3", &deepseek(&dims), Storage::Fp8(ScaleFormat::F32), Order::Name, dir)?;
    side_files::write(dir, &config, true)
}

fn llama_dims() -> Llama {
    Llama {
        hidden: 4096,
        inter: 14336,
        layers: 4,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256 / 8,
        qkv_bias: false,
        qk_norm: false,
        tied: false,
        moe: None,
        mtp: false,
    }
}

fn dsv3_dims() -> Deepseek {
    Deepseek {
        hidden: 7168,
        inter: 18432,
        moe_inter: 2048,
        layers: 1,
        first_dense: 0,
        experts: 16,
        heads: 128,
        nope: 128,
        rope: 64,
        v: 128,
        q_lora: 1536,
        kv_lora: 512,
        vocab: 128,
        mtp: false,
        indexer: None,
        f32_norms: false,
        inv_freq: None,
    }
}

/// Random material that the tensors are cut from.
struct Pool {
    /// BF16 values in four strengths, little-endian.
    rows: Vec<Vec<u8>>,
    /// Codes of whole blocks whose largest magnitude is 448, row-major.
    blocks: Vec<Vec<u8>>,
}

impl Pool {
    fn new(input: &str) -> Pool {
        let rows = [0.01f32, 0.015, 0.02, 0.03].map(|sigma| {
            let mut rng = SplitMix64::for_tensor(input, &format!("pool of sigma {sigma}"));
            (0..POOL).flat_map(|_| bf16(sigma * outlier(&mut rng)).to_le_bytes()).collect()
        });
        let mut rng = SplitMix64::for_tensor(input, "pool of blocks");
        let blocks = (0..BLOCKS).map(|_| {
            let values: Vec<f32> = (0..BLOCK * BLOCK).map(|_| outlier(&mut rng)).collect();
            let scale = values.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 448.0;
            values.iter().map(|v| e4m3(v / scale)).collect()
        });
        Pool { rows: rows.into(), blocks: blocks.collect() }
    }

    /// A BF16 matrix: every row is a run of one strength from a random place.
    fn bf16(&self, rng: &mut SplitMix64, shape: &[u64]) -> Vec<u8> {
        let (rows, columns) = (shape[0] as usize, shape[1] as usize);
        let mut data = Vec::with_capacity(rows * columns * 2);
        for _ in 0..rows {
            let row = &self.rows[rng.below(self.rows.len())];
            let begin = 2 * rng.below(POOL - columns + 1);
            data.extend_from_slice(&row[begin..begin + 2 * columns]);
        }
        data
    }

    /// FP8 codes: every block is a random one of the pool, cut at the edges.
    fn fp8(&self, rng: &mut SplitMix64, shape: &[u64]) -> Vec<u8> {
        let (rows, columns) = (shape[0] as usize, shape[1] as usize);
        let mut data = Vec::with_capacity(rows * columns);
        for top in (0..rows).step_by(BLOCK) {
            let chosen: Vec<&Vec<u8>> =
                (0..columns.div_ceil(BLOCK)).map(|_| &self.blocks[rng.below(BLOCKS)]).collect();
            for row in 0..BLOCK.min(rows - top) {
                for (j, block) in chosen.iter().enumerate() {
                    let width = BLOCK.min(columns - j * BLOCK);
                    data.extend_from_slice(&block[row * BLOCK..row * BLOCK + width]);
                }
            }
        }
        data
    }
}

/// A bell-shaped value; one in about 4096 is an outlier of up to five sigma.
fn outlier(rng: &mut SplitMix64) -> f32 {
    let x = rng.gaussian();
    if rng.below(4096) == 0 { 1.5 * x } else { x }
}

/// Scales as a matrix of sigma 0.01 to 0.03 has them.
fn scales(rng: &mut SplitMix64, shape: &[u64]) -> Vec<u8> {
    let count = shape.iter().product::<u64>();
    (0..count).flat_map(|_| (1.7e-4f32 * (0.5 + rng.unit())).to_le_bytes()).collect()
}

/// The tensors of an input, each with the spec that it comes from.
fn tensors(specs: &[Spec], storage: Storage) -> Vec<(Info, &Spec)> {
    specs
        .iter()
        .flat_map(|spec| spec.infos(storage, Dtype::Bf16).into_iter().map(move |info| (info, spec)))
        .collect()
}

/// Writes shards and index of `input` into `dir`, one tensor in memory at a time.
fn write(input: &str, specs: &[Spec], storage: Storage, order: Order, dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let pool = Pool::new(input);
    let tensors = tensors(specs, storage);
    let by_name: BTreeMap<String, &Spec> =
        tensors.iter().map(|(info, spec)| (info.name.clone(), *spec)).collect();
    let total: u64 = tensors.iter().map(|(info, _)| info.bytes()).sum();
    let mut shards: BTreeMap<u64, Vec<Info>> = BTreeMap::new();
    let mut before = 0;
    for (info, _) in tensors {
        let shard = before * SHARDS / total;
        before += info.bytes();
        shards.entry(shard).or_default().push(info);
    }
    let mut weight_map = BTreeMap::new();
    for (shard, mut infos) in shards {
        let file_name = format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1);
        let (head, _) = head(&mut infos, order);
        let mut out = BufWriter::with_capacity(1 << 20, File::create(dir.join(&file_name))?);
        out.write_all(&head)?;
        for info in infos {
            out.write_all(&data(input, &pool, &info, by_name[&info.name], storage))?;
            weight_map.insert(info.name, file_name.clone());
        }
        out.flush()?;
    }
    std::fs::write(dir.join("model.safetensors.index.json"), index_json(&weight_map, total))
}

/// The bytes of one tensor.
fn data(input: &str, pool: &Pool, info: &Info, spec: &Spec, storage: Storage) -> Vec<u8> {
    let mut rng = SplitMix64::for_tensor(input, &info.name);
    match (spec.kind, info.dtype) {
        (Kind::Linear, Dtype::F8E4m3) => pool.fp8(&mut rng, &info.shape),
        (Kind::Linear, Dtype::F32) => scales(&mut rng, &info.shape),
        (Kind::Linear | Kind::Matrix, _) => pool.bf16(&mut rng, &info.shape),
        _ => values::tensors(input, spec, storage, Dtype::Bf16).remove(0).data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(specs: &[Spec], storage: Storage) -> u64 {
        tensors(specs, storage).iter().map(|(info, _)| info.bytes()).sum()
    }

    #[test]
    fn inputs_have_the_documented_sizes() {
        let gb = |bytes: u64| format!("{:.2}", bytes as f64 / 1e9);
        assert_eq!(gb(bytes(&llama(&llama_dims()), Storage::Float)), "2.01");
        assert_eq!(gb(bytes(&deepseek(&dsv3_dims()), Storage::Fp8(ScaleFormat::F32))), "0.94");
    }

    #[test]
    fn material_is_cut_to_shape_and_reaches_the_largest_code() {
        let pool = Pool::new("test");
        let mut rng = SplitMix64::new(1);
        let codes = pool.fp8(&mut rng, &[192, 320]);
        assert_eq!(codes.len(), 192 * 320);
        assert!(codes.iter().any(|c| c & 0x7f == 0x7e) && codes.iter().all(|c| c & 0x7f != 0x7f));
        assert_ne!(codes[..128], codes[128..256], "neighbouring blocks differ");
        assert_eq!(pool.bf16(&mut rng, &[3, 14336]).len(), 3 * 14336 * 2);
    }
}
