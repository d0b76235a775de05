//! Checkpoints that tests make, alter and read, through xtask's own writer.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xtask::rng::SplitMix64;
use xtask::safetensors::{Dtype, Info, Order, Tensor, head, index_json, pretty, read_head, write_file};

/// Writes the fixture `name` below `root` and returns its folder.
pub fn fixture(root: &Path, name: &str) -> PathBuf {
    let dir = root.join(name);
    xtask::fixtures::write(name, &dir).unwrap();
    dir
}

/// A tensor from its parts.
pub fn tensor(name: &str, dtype: Dtype, shape: &[u64], data: Vec<u8>) -> Tensor {
    Tensor { info: Info { name: name.to_owned(), dtype, shape: shape.to_vec() }, data }
}

/// Writes a model of one shard.
pub fn write_model(dir: &Path, config: &Value, tensors: &[Tensor]) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), pretty(config)).unwrap();
    write_file(&dir.join("model.safetensors"), &tensors.iter().collect::<Vec<_>>(), Order::Dtype).unwrap();
}

/// Every tensor of a model folder with its data, by name.
pub fn read_model(dir: &Path) -> BTreeMap<String, Tensor> {
    let mut tensors = BTreeMap::new();
    for name in super::tree::names(dir).iter().filter(|n| n.ends_with(".safetensors")) {
        let bytes = fs::read(dir.join(name)).unwrap();
        let (infos, data) = read_head(&dir.join(name)).unwrap();
        for (info, begin) in infos {
            let begin = (data + begin) as usize;
            let data = bytes[begin..begin + info.bytes() as usize].to_vec();
            tensors.insert(info.name.clone(), Tensor { info, data });
        }
    }
    tensors
}

/// Where the data of tensor `name` stand: the file and the absolute offset.
pub fn locate(dir: &Path, name: &str) -> (PathBuf, u64, Info) {
    for file in super::tree::names(dir).iter().filter(|n| n.ends_with(".safetensors")) {
        let (infos, data) = read_head(&dir.join(file)).unwrap();
        if let Some((info, begin)) = infos.into_iter().find(|(info, _)| info.name == name) {
            return (dir.join(file), data + begin, info);
        }
    }
    panic!("{} has no tensor {name}", dir.display());
}

/// Overwrites bytes of tensor `name`, `at` bytes from its start.
pub fn poke(dir: &Path, name: &str, at: u64, bytes: &[u8]) {
    let (file, offset, _) = locate(dir, name);
    fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, offset + at).unwrap();
}

/// Dimensions of a generated Llama-shaped BF16 model.
#[derive(Clone, Copy, Debug)]
pub struct Llama {
    pub hidden: u64,
    pub inter: u64,
    pub layers: u64,
    pub vocab: u64,
}

impl Llama {
    /// Names and shapes of the tensors.
    pub fn infos(self) -> Vec<Info> {
        let Llama { hidden, inter, layers, vocab } = self;
        let bf16 = |name: String, shape: &[u64]| Info { name, dtype: Dtype::Bf16, shape: shape.to_vec() };
        let mut infos = vec![
            bf16("model.embed_tokens.weight".into(), &[vocab, hidden]),
            bf16("model.norm.weight".into(), &[hidden]),
            bf16("lm_head.weight".into(), &[vocab, hidden]),
        ];
        for layer in 0..layers {
            for (name, shape) in [
                ("input_layernorm", &[hidden][..]),
                ("post_attention_layernorm", &[hidden]),
                ("self_attn.q_proj", &[hidden, hidden]),
                ("self_attn.k_proj", &[hidden / 4, hidden]),
                ("self_attn.v_proj", &[hidden / 4, hidden]),
                ("self_attn.o_proj", &[hidden, hidden]),
                ("mlp.gate_proj", &[inter, hidden]),
                ("mlp.up_proj", &[inter, hidden]),
                ("mlp.down_proj", &[hidden, inter]),
            ] {
                infos.push(bf16(format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        infos
    }

    /// Bytes of all tensors.
    pub fn bytes(self) -> u64 {
        self.infos().iter().map(Info::bytes).sum()
    }

    /// `config.json`.
    pub fn config(self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.hidden,
            "intermediate_size": self.inter,
            "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": false,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocab,
        })
    }

    /// Writes the model in `shards` files. Every 4 KiB of data are a random piece of a pool of random weights.
    pub fn write(self, dir: &Path, shards: u64) {
        let mut rng = SplitMix64::for_tensor("generated", "pool");
        let pool: Vec<u8> = (0..1 << 19)
            .flat_map(|_| (((0.02 * rng.gaussian()).to_bits() >> 16) as u16).to_le_bytes())
            .collect();
        self.write_data(dir, shards, |file, mut offset, bytes| {
            let mut left = bytes as usize;
            let mut data = Vec::with_capacity(4 << 20);
            while left > 0 {
                data.clear();
                while data.len() < 4 << 20 && data.len() < left {
                    let piece = 4096.min(left - data.len());
                    let begin = 2 * rng.below((pool.len() - piece) / 2);
                    data.extend_from_slice(&pool[begin..begin + piece]);
                }
                file.write_all_at(&data, offset).unwrap();
                offset += data.len() as u64;
                left -= data.len();
            }
        });
    }

    /// Writes the model in `shards` sparse files, whose data read as zeros.
    pub fn write_sparse(self, dir: &Path, shards: u64) {
        self.write_data(dir, shards, |_, _, _| {});
    }

    fn write_data(self, dir: &Path, shards: u64, mut fill: impl FnMut(&fs::File, u64, u64)) {
        fs::create_dir_all(dir).unwrap();
        let (total, mut before) = (self.bytes(), 0);
        let mut lists: BTreeMap<u64, Vec<Info>> = BTreeMap::new();
        for info in self.infos() {
            let shard = before * shards / total;
            before += info.bytes();
            lists.entry(shard).or_default().push(info);
        }
        let mut map = BTreeMap::new();
        for (shard, mut infos) in lists {
            let name = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
            let (head, payload) = head(&mut infos, Order::Dtype);
            let file = fs::File::create(dir.join(&name)).unwrap();
            file.write_all_at(&head, 0).unwrap();
            file.set_len(head.len() as u64 + payload).unwrap();
            fill(&file, head.len() as u64, payload);
            map.extend(infos.into_iter().map(|info| (info.name, name.clone())));
        }
        fs::write(dir.join("model.safetensors.index.json"), index_json(&map, total)).unwrap();
        fs::write(dir.join("config.json"), pretty(&self.config())).unwrap();
    }
}
