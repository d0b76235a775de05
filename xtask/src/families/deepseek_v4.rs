//! DeepSeek V4 and V4.1, in the native names of their releases.

use super::{Kind, Spec, Specs};
use crate::storage::{Storage, V4_FP8, V41_FP8, V41_TABLE};

/// How a release of V4 predicts several tokens.
#[derive(Clone, Copy, Debug)]
pub enum Drafts {
    /// One block (April); some releases ship copies of embedding and head with it.
    #[expect(missing_docs, reason = "said above")]
    Classic { copies: bool },
    /// DSpark: `stages` blocks over the hidden states of `targets` layers, with a bigram head of rank `rank`.
    #[expect(missing_docs, reason = "said above")]
    Dspark { stages: u64, targets: u64, rank: u64 },
}

/// Dimensions of a V4 release.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct DeepseekV4 {
    pub hidden: u64,
    pub heads: u64,
    pub head_dim: u64,
    pub q_lora: u64,
    pub o_groups: u64,
    pub o_lora: u64,
    pub moe_inter: u64,
    pub experts: u64,
    pub topk: u64,
    pub hash_layers: u64,
    pub vocab: u64,
    /// Heads and head size of the indexer.
    pub indexer: (u64, u64),
    /// `compress_ratios` of the layers, without those of the drafts.
    pub ratios: Vec<u64>,
    pub drafts: Drafts,
    /// How routed experts are stored.
    pub expert: Storage,
}

/// Streams of a hyper-connection.
const HC: u64 = 4;

impl Specs {
    /// `hc_{part}_fn`, `_base` and `_scale` with `rows` mixing coefficients of which there are `scales` kinds.
    fn hyper_connection(&mut self, prefix: &str, hidden: u64, rows: u64, scales: u64) {
        self.add(Kind::MatrixF32, format!("{prefix}_fn"), &[rows, HC * hidden]);
        self.add(Kind::BiasF32, format!("{prefix}_base"), &[rows]);
        self.add(Kind::BiasF32, format!("{prefix}_scale"), &[scales]);
    }

    /// `w1`, `w3` and `w2` under `prefix`.
    fn native_mlp(&mut self, prefix: &str, hidden: u64, inter: u64, storage: Storage) {
        for (name, shape) in [("w1", [inter, hidden]), ("w2", [hidden, inter]), ("w3", [inter, hidden])] {
            self.add(Kind::Stored(storage), format!("{prefix}.{name}"), &shape);
        }
    }
}

/// What the blocks of V4 and V4.1 have in common.
struct Block {
    hidden: u64,
    heads: u64,
    head_dim: u64,
    q_lora: u64,
    o_groups: u64,
    o_lora: u64,
    moe_inter: u64,
    fp8: Storage,
    expert: Storage,
}

impl Block {
    /// Attention, norms, hyper-connections, router weight and experts of block `l`.
    fn write(&self, s: &mut Specs, l: &str, experts: u64) {
        let lin = Kind::Stored(self.fp8);
        let a = format!("{l}.attn");
        let (heads, dim) = (self.heads, self.head_dim);
        s.add(Kind::BiasF32, format!("{a}.attn_sink"), &[heads]);
        s.add(lin, format!("{a}.wq_a"), &[self.q_lora, self.hidden]);
        s.add(Kind::Norm, format!("{a}.q_norm.weight"), &[self.q_lora]);
        s.add(lin, format!("{a}.wq_b"), &[heads * dim, self.q_lora]);
        s.add(lin, format!("{a}.wkv"), &[dim, self.hidden]);
        s.add(Kind::Norm, format!("{a}.kv_norm.weight"), &[dim]);
        s.add(lin, format!("{a}.wo_a"), &[self.o_groups * self.o_lora, heads * dim / self.o_groups]);
        s.add(lin, format!("{a}.wo_b"), &[self.hidden, self.o_groups * self.o_lora]);
        s.add(Kind::Norm, format!("{l}.attn_norm.weight"), &[self.hidden]);
        s.add(Kind::Norm, format!("{l}.ffn_norm.weight"), &[self.hidden]);
        for part in ["attn", "ffn"] {
            s.hyper_connection(&format!("{l}.hc_{part}"), self.hidden, (2 + HC) * HC, 3);
        }
        s.add(Kind::Matrix, format!("{l}.ffn.gate.weight"), &[experts, self.hidden]);
        for e in 0..experts {
            s.native_mlp(&format!("{l}.ffn.experts.{e}"), self.hidden, self.moe_inter, self.expert);
        }
        s.native_mlp(&format!("{l}.ffn.shared_experts"), self.hidden, self.moe_inter, self.fp8);
    }
}

/// The entry of the first and the exit of the last stage of DSpark.
fn dspark(
    s: &mut Specs,
    fp8: Storage,
    hidden: u64,
    vocab: u64,
    [stages, targets, rank]: [u64; 3],
    bigram: [&str; 2],
) {
    s.add(Kind::Stored(fp8), "mtp.0.main_proj", &[hidden, targets * hidden]);
    s.add(Kind::Norm, "mtp.0.main_norm.weight", &[hidden]);
    let last = format!("mtp.{}", stages - 1);
    s.add(Kind::Norm, format!("{last}.norm.weight"), &[hidden]);
    for name in bigram {
        s.add(Kind::Matrix, format!("{last}.markov_head.{name}.weight"), &[vocab, rank]);
    }
    s.add(Kind::Matrix, format!("{last}.confidence_head.proj.weight"), &[1, hidden + rank]);
}

/// The tensors of a V4 release.
pub fn deepseek_v4(d: &DeepseekV4) -> Vec<Spec> {
    let block = Block {
        hidden: d.hidden,
        heads: d.heads,
        head_dim: d.head_dim,
        q_lora: d.q_lora,
        o_groups: d.o_groups,
        o_lora: d.o_lora,
        moe_inter: d.moe_inter,
        fp8: V4_FP8,
        expert: d.expert,
    };
    let mut s = Specs::default();
    s.add(Kind::Matrix, "embed.weight", &[d.vocab, d.hidden]);
    for (layer, ratio) in (0..).zip(&d.ratios) {
        let l = format!("layers.{layer}");
        block.write(&mut s, &l, d.experts);
        if layer < d.hash_layers {
            s.add(Kind::Routes(d.experts), format!("{l}.ffn.gate.tid2eid"), &[d.vocab, d.topk]);
        } else {
            s.add(Kind::BiasF32, format!("{l}.ffn.gate.bias"), &[d.experts]);
        }
        let compressor = |s: &mut Specs, at: String, dim: u64| {
            // Overlapping windows carry two sets of entries.
            let rows = if *ratio == 4 { 2 * dim } else { dim };
            s.add(Kind::MatrixF32, format!("{at}.ape"), &[*ratio, rows]);
            s.add(Kind::Norm, format!("{at}.norm.weight"), &[dim]);
            s.add(Kind::Matrix, format!("{at}.wkv.weight"), &[rows, d.hidden]);
            s.add(Kind::Matrix, format!("{at}.wgate.weight"), &[rows, d.hidden]);
        };
        if *ratio > 0 {
            compressor(&mut s, format!("{l}.attn.compressor"), d.head_dim);
        }
        if *ratio == 4 {
            let (heads, dim) = d.indexer;
            s.add(Kind::Stored(V4_FP8), format!("{l}.attn.indexer.wq_b"), &[heads * dim, d.q_lora]);
            s.add(Kind::Matrix, format!("{l}.attn.indexer.weights_proj.weight"), &[heads, d.hidden]);
            compressor(&mut s, format!("{l}.attn.indexer.compressor"), dim);
        }
    }
    s.add(Kind::Norm, "norm.weight", &[d.hidden]);
    s.add(Kind::Matrix, "head.weight", &[d.vocab, d.hidden]);
    s.hyper_connection("hc_head", d.hidden, HC, 1);
    let stages = match d.drafts {
        Drafts::Classic { .. } => 1,
        Drafts::Dspark { stages, .. } => stages,
    };
    for stage in 0..stages {
        let l = format!("mtp.{stage}");
        block.write(&mut s, &l, d.experts);
        s.add(Kind::BiasF32, format!("{l}.ffn.gate.bias"), &[d.experts]);
    }
    s.hyper_connection(&format!("mtp.{}.hc_head", stages - 1), d.hidden, HC, 1);
    match d.drafts {
        Drafts::Classic { copies } => {
            s.add(Kind::Stored(V4_FP8), "mtp.0.e_proj", &[d.hidden, d.hidden]);
            s.add(Kind::Stored(V4_FP8), "mtp.0.h_proj", &[d.hidden, d.hidden]);
            for norm in ["enorm", "hnorm", "norm"] {
                s.add(Kind::Norm, format!("mtp.0.{norm}.weight"), &[d.hidden]);
            }
            if copies {
                s.add(Kind::Matrix, "mtp.0.emb.tok_emb.weight", &[d.vocab, d.hidden]);
                s.add(Kind::Matrix, "mtp.0.head.weight", &[d.vocab, d.hidden]);
            }
        }
        Drafts::Dspark { stages, targets, rank } => {
            let numbers = [stages, targets, rank];
            dspark(&mut s, V4_FP8, d.hidden, d.vocab, numbers, ["markov_w1", "markov_w2"]);
        }
    }
    s.0
}

/// Dimensions of a V4.1 release.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of config.json, shortened")]
pub struct DeepseekV41 {
    pub hidden: u64,
    pub heads: u64,
    pub head_dim: u64,
    pub q_lora: u64,
    pub o_groups: u64,
    pub o_lora: u64,
    pub moe_inter: u64,
    pub experts: u64,
    pub vocab: u64,
    pub indexer: (u64, u64),
    /// `compress_ratios` of the layers.
    pub ratios: Vec<u64>,
    pub kv_sources: Vec<u64>,
    pub index_sources: Vec<u64>,
    /// Layers with n-gram embeddings and the rows of their tables.
    pub engrams: Vec<(u64, u64)>,
    /// Width of a row, and rows that one token looks up.
    pub engram_row: (u64, u64),
    pub stages: u64,
    pub draft_experts: u64,
    pub targets: u64,
    pub rank: u64,
    /// Blocks, hidden size, inner size, patch size and downsampling of the vision tower.
    pub vision: [u64; 5],
}

/// The tensors of a V4.1 release.
pub fn deepseek_v41(d: &DeepseekV41) -> Vec<Spec> {
    let block = Block {
        hidden: d.hidden,
        heads: d.heads,
        head_dim: d.head_dim,
        q_lora: d.q_lora,
        o_groups: d.o_groups,
        o_lora: d.o_lora,
        moe_inter: d.moe_inter,
        fp8: V41_FP8,
        expert: Storage::Fp4Bytes,
    };
    let biases = |s: &mut Specs, l: &str, experts: u64| {
        s.add(Kind::BiasF32, format!("{l}.ffn.gate.bias"), &[experts]);
        s.add(Kind::BiasF32, format!("{l}.ffn.gate.bias_vl"), &[experts]);
    };
    let mut s = Specs::default();
    s.add(Kind::Matrix, "embed.weight", &[d.vocab, d.hidden]);
    for (layer, ratio) in (0..).zip(&d.ratios) {
        let l = format!("layers.{layer}");
        block.write(&mut s, &l, d.experts);
        biases(&mut s, &l, d.experts);
        let (heads, dim) = d.indexer;
        if d.kv_sources.contains(&layer) {
            let at = format!("{l}.attn.compressor");
            s.add(Kind::Norm, format!("{at}.norm.weight"), &[d.head_dim]);
            s.add(Kind::Matrix, format!("{at}.wkv.weight"), &[d.head_dim, d.hidden]);
            if *ratio > 1 {
                s.add(Kind::Matrix, format!("{at}.wgate.weight"), &[d.head_dim, d.hidden]);
            }
            s.add(Kind::Norm, format!("{l}.attn.indexer.k_norm.weight"), &[dim]);
            s.add(Kind::Matrix, format!("{l}.attn.indexer.wk.weight"), &[dim, d.head_dim]);
        }
        if d.index_sources.contains(&layer) {
            s.add(Kind::Matrix, format!("{l}.attn.indexer.weights_proj.weight"), &[heads, d.hidden]);
            s.add(Kind::Stored(V41_FP8), format!("{l}.attn.indexer.wq_b"), &[heads * dim, d.q_lora]);
        }
        if let Some((_, rows)) = d.engrams.iter().find(|(at, _)| *at == layer) {
            let (width, lookups) = d.engram_row;
            let e = format!("{l}.engram");
            s.add(Kind::Stored(V41_TABLE), format!("{e}.embed"), &[*rows, width]);
            s.add(Kind::Matrix, format!("{e}.q_weight"), &[HC, d.hidden]);
            s.add(Kind::Matrix, format!("{e}.k_weight"), &[HC, d.hidden]);
            s.add(Kind::Stored(V41_FP8), format!("{e}.wkv"), &[(HC + 1) * d.hidden, lookups * width]);
        }
    }
    s.add(Kind::Norm, "norm.weight", &[d.hidden]);
    s.add(Kind::Matrix, "head.weight", &[d.vocab, d.hidden]);
    for stage in 0..d.stages {
        let l = format!("mtp.{stage}");
        block.write(&mut s, &l, d.draft_experts);
        biases(&mut s, &l, d.draft_experts);
    }
    dspark(&mut s, V41_FP8, d.hidden, d.vocab, [d.stages, d.targets, d.rank], ["embed", "head"]);
    for name in ["image_start", "image_end", "image_newline"] {
        s.add(Kind::Bias, name, &[d.hidden]);
    }
    let [blocks, width, inner, patch, down] = d.vision;
    s.add(Kind::Matrix, "vision.patch_embed.proj.weight", &[width, 3 * patch * patch]);
    s.add(Kind::Bias, "vision.patch_embed.proj.bias", &[width]);
    for b in 0..blocks {
        let b = format!("vision.blocks.{b}");
        s.add(Kind::Matrix, format!("{b}.attn.wqkv.weight"), &[3 * width, width]);
        s.add(Kind::Bias, format!("{b}.attn.wqkv.bias"), &[3 * width]);
        s.add(Kind::Matrix, format!("{b}.attn.wo.weight"), &[width, width]);
        s.add(Kind::Bias, format!("{b}.attn.wo.bias"), &[width]);
        s.add(Kind::Matrix, format!("{b}.mlp.w1.weight"), &[2 * inner, width]);
        s.add(Kind::Matrix, format!("{b}.mlp.w2.weight"), &[width, inner]);
        s.add(Kind::Norm, format!("{b}.norm1.weight"), &[width]);
        s.add(Kind::Norm, format!("{b}.norm2.weight"), &[width]);
    }
    s.add(Kind::Norm, "vision.norm.weight", &[width]);
    s.add(Kind::Matrix, "aligner.w1.weight", &[d.hidden, width * down * down]);
    s.add(Kind::Bias, "aligner.w1.bias", &[d.hidden]);
    s.add(Kind::Matrix, "aligner.w2.weight", &[d.hidden, d.hidden]);
    s.add(Kind::Bias, "aligner.w2.bias", &[d.hidden]);
    s.0
}
