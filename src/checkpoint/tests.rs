//! Checkpoints of real models, from their name tables; the totals are those of the published files.

use super::*;
use crate::dtype::Dtype::{self, BF16, F8E4M3, F32, U8};
use crate::dtype::scheme::Granularity;
use serde_json::{Value, json};

type Parts = Vec<(String, Dtype, Vec<u64>)>;

fn block(rows: u32, cols: u32) -> Granularity {
    Granularity::Block { rows, cols }
}

/// A DeepSeek model by the tables of its headers.
struct DeepSeek {
    parts: Parts,
    norm: Dtype,
}

impl DeepSeek {
    fn push(&mut self, name: String, dtype: Dtype, shape: &[u64]) {
        self.parts.push((name, dtype, shape.to_vec()));
    }

    fn linear(&mut self, module: &str, n: u64, k: u64) {
        self.push(format!("{module}.weight"), F8E4M3, &[n, k]);
        self.push(format!("{module}.weight_scale_inv"), F32, &[n.div_ceil(128), k.div_ceil(128)]);
    }

    fn norm(&mut self, module: &str, n: u64) {
        self.push(format!("{module}.weight"), self.norm, &[n]);
    }

    fn mlp(&mut self, module: &str, n: u64) {
        self.linear(&format!("{module}.gate_proj"), n, 7168);
        self.linear(&format!("{module}.up_proj"), n, 7168);
        self.linear(&format!("{module}.down_proj"), 7168, n);
    }
}

fn deepseek(
    layers: u64,
    dense: u64,
    experts: u64,
    heads: u64,
    vocab: u64,
    mtp: bool,
    indexer: bool,
) -> Parts {
    let mut m = DeepSeek { parts: Vec::new(), norm: if indexer { F32 } else { BF16 } };
    for l in 0..layers + u64::from(mtp) {
        let at = format!("model.layers.{l}");
        let attn = format!("{at}.self_attn");
        m.linear(&format!("{attn}.q_a_proj"), 1536, 7168);
        m.norm(&format!("{attn}.q_a_layernorm"), 1536);
        m.linear(&format!("{attn}.q_b_proj"), heads * 192, 1536);
        m.linear(&format!("{attn}.kv_a_proj_with_mqa"), 576, 7168);
        m.norm(&format!("{attn}.kv_a_layernorm"), 512);
        m.linear(&format!("{attn}.kv_b_proj"), heads * 256, 512);
        m.linear(&format!("{attn}.o_proj"), 7168, heads * 128);
        m.norm(&format!("{at}.input_layernorm"), 7168);
        m.norm(&format!("{at}.post_attention_layernorm"), 7168);
        if indexer {
            m.linear(&format!("{attn}.indexer.wq_b"), 8192, 1536);
            m.linear(&format!("{attn}.indexer.wk"), 128, 7168);
            m.push(format!("{attn}.indexer.k_norm.weight"), F32, &[128]);
            m.push(format!("{attn}.indexer.k_norm.bias"), F32, &[128]);
            m.push(format!("{attn}.indexer.weights_proj.weight"), BF16, &[64, 7168]);
        }
        if l < dense {
            m.mlp(&format!("{at}.mlp"), 18432);
        } else {
            m.push(format!("{at}.mlp.gate.weight"), BF16, &[experts, 7168]);
            m.push(format!("{at}.mlp.gate.e_score_correction_bias"), F32, &[experts]);
            for e in 0..experts {
                m.mlp(&format!("{at}.mlp.experts.{e}"), 2048);
            }
            m.mlp(&format!("{at}.mlp.shared_experts"), 2048);
        }
        if l == layers {
            m.push(format!("{at}.embed_tokens.weight"), BF16, &[vocab, 7168]);
            m.push(format!("{at}.shared_head.head.weight"), BF16, &[vocab, 7168]);
            m.push(format!("{at}.eh_proj.weight"), BF16, &[7168, 14336]);
            for norm in ["enorm", "hnorm", "shared_head.norm"] {
                m.norm(&format!("{at}.{norm}"), 7168);
            }
        }
    }
    m.push("model.embed_tokens.weight".into(), BF16, &[vocab, 7168]);
    m.push("lm_head.weight".into(), BF16, &[vocab, 7168]);
    m.norm("model.norm", 7168);
    m.parts
}

fn fp8_config(model_type: &str, layers: u64, mtp: u64) -> Value {
    json!({
        "model_type": model_type, "num_hidden_layers": layers, "num_nextn_predict_layers": mtp,
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
    })
}

fn schemes(c: &Checkpoint) -> Vec<(String, usize, u64)> {
    summary(c).schemes.into_iter().map(|s| (s.name, s.tensors, s.bytes)).collect()
}

#[test]
fn deepseek_v3_has_the_published_totals() {
    let started = std::time::Instant::now();
    let c = Checkpoint::from_parts(
        fp8_config("deepseek_v3", 61, 1),
        deepseek(61, 3, 256, 128, 129280, true, false),
    )
    .unwrap();
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    assert_eq!((c.tensors.len(), c.payload_bytes()), (91_991, 688_574_839_360));
    // 45,808 weights with their scales; F32 beyond the scales: 59 correction biases.
    let fp8 = 680_571_043_840 + 166_222_400 - 59 * 256 * 4;
    assert_eq!(
        schemes(&c),
        [
            ("F8_E4M3 128x128 scale F32".into(), 2 * 45_808, fp8),
            ("BF16".into(), 316, 7_837_573_120),
            ("F32".into(), 59, 59 * 256 * 4),
        ]
    );
    assert_eq!((c.family.id, &c.notes[..], &c.warnings[..]), ("deepseek_v3", &[][..], &[][..]));
    let mtp: u64 =
        (0..c.tensors.len() as u32).filter(|id| c.role(*id).mtp).map(|id| c.tensor(id).bytes).sum();
    assert_eq!(mtp, 15_424_227_552);
    let id = c.find("model.layers.60.self_attn.kv_a_proj_with_mqa.weight").unwrap();
    let Encoding::Codes(Stored { scale, scheme, .. }) = &c.encodings[id as usize] else { panic!() };
    assert_eq!((&*c.tensor(*scale).shape, scheme.granularity), (&[5, 56][..], block(128, 128)));
    assert_eq!(c.encodings[*scale as usize], Encoding::ScaleOf { codes: id });
}

#[test]
fn deepseek_v32_and_kimi_k2_have_the_published_counts() {
    let v32 = Checkpoint::from_parts(
        fp8_config("deepseek_v32", 61, 1),
        deepseek(61, 3, 256, 128, 129280, true, true),
    )
    .unwrap();
    assert_eq!((v32.tensors.len(), v32.payload_bytes()), (92_425, 689_471_107_200));
    let count = |d: Dtype| v32.tensors.iter().filter(|t| t.dtype == d).count();
    assert_eq!((count(F8E4M3), count(F32), count(BF16)), (45_932, 46_367, 126));
    let k2 =
        Checkpoint::from_parts(fp8_config("kimi_k2", 61, 0), deepseek(61, 1, 384, 64, 163840, false, false))
            .unwrap();
    // The 61 stray rotary buffers are not in the table above.
    assert_eq!(k2.tensors.len() + 61, 139_644);
    for c in [&v32, &k2] {
        assert!(c.warnings.is_empty() && c.notes.is_empty(), "{:?} {:?}", c.notes, c.warnings);
        for id in 0..c.tensors.len() as u32 {
            assert_ne!(c.role(id).kind, Kind::Other, "{}", c.tensor(id).name);
            c.require_decodable(id).unwrap();
        }
    }
}

#[test]
fn tensors_are_in_natural_order_and_found() {
    let names =
        ["model.layers.10.a", "model.layers.2.a", "model.layers.2.b", "lm_head.weight", "model.norm.weight"];
    let parts = names.iter().map(|n| ((*n).to_owned(), BF16, vec![2, 3])).collect();
    let c = Checkpoint::from_parts(json!({}), parts).unwrap();
    let sorted: Vec<&str> = c.tensors.iter().map(|t| &*t.name).collect();
    assert_eq!(
        sorted,
        ["lm_head.weight", "model.layers.2.a", "model.layers.2.b", "model.layers.10.a", "model.norm.weight"]
    );
    assert_eq!(c.tensor(c.find("model.layers.10.a").unwrap()).offset, 0);
    assert_eq!(c.tensor(c.find("model.norm.weight").unwrap()).offset, 48);
    assert_eq!(c.find("model.layers.02.a"), None);
    assert_eq!(c.payload_bytes(), 60);
}

pub(super) fn parts(list: &[(&str, Dtype, &[u64])]) -> Parts {
    list.iter().map(|(n, d, s)| ((*n).to_owned(), *d, s.to_vec())).collect()
}

#[test]
fn notes_tell_what_is_missing() {
    let linear = |l: u64| (format!("model.layers.{l}.mlp.up_proj.weight"), BF16, vec![2, 2]);
    let head = || ("lm_head.weight".to_owned(), BF16, vec![2, 2]);
    let open = |config: Value, parts: Parts| Checkpoint::from_parts(config, parts).unwrap();
    let all = |c: &Checkpoint| format!("{:?} {:?}", c.notes, c.warnings);

    let c = open(
        json!({"model_type": "glm4_moe", "num_hidden_layers": 2, "num_nextn_predict_layers": 1}),
        vec![linear(0), linear(1), head()],
    );
    assert!(all(&c).contains("no tensors of multi-token prediction"), "{}", all(&c));
    assert_eq!((c.notes.len(), c.warnings.len()), (1, 0));
    let c = open(json!({"model_type": "llama", "num_hidden_layers": 4}), vec![linear(0), linear(2), head()]);
    assert!(all(&c).contains("2 of 4 layers have no tensors, the first is layer 1"), "{}", all(&c));
    let c =
        open(json!({"model_type": "llama", "num_hidden_layers": 4_294_967_295u64}), vec![linear(0), head()]);
    assert!(all(&c).contains("4294967294 of 4294967295 layers"), "{}", all(&c));
    let c = open(json!({"model_type": "llama", "num_hidden_layers": 1}), vec![linear(0), linear(1), head()]);
    assert!(all(&c).contains("1 layers beyond"), "{}", all(&c));
    let c = open(json!({"model_type": "llama"}), vec![linear(0)]);
    assert!(all(&c).contains("no lm_head"), "{}", all(&c));
    let c = open(json!({"model_type": "llama", "tie_word_embeddings": true}), vec![linear(0)]);
    assert_eq!(all(&c), "[] []");
    let c = open(json!({"model_type": "x\u{1b}[31m", "auto_map": {}}), vec![linear(0), head()]);
    assert!(all(&c).contains("not a known family") && all(&c).contains("auto_map"), "{}", all(&c));
    let c = open(
        json!({"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}),
        vec![linear(0), head()],
    );
    assert!(all(&c).contains("no tensor is quantized"), "{}", all(&c));
    let c = open(
        json!({"model_type": "kimi_k2", "num_hidden_layers": 1}),
        vec![linear(0), head(), ("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), BF16, vec![56])],
    );
    assert!(all(&c).contains("1 stray rotary buffers"), "{}", all(&c));
}

#[test]
fn from_parts_is_as_strict_about_names_and_sizes() {
    let code =
        |list: &[(&str, Dtype, &[u64])]| Checkpoint::from_parts(json!({}), parts(list)).unwrap_err().code();
    assert_eq!(code(&[("a", BF16, &[1]), ("a", BF16, &[1])]), "duplicate-tensor");
    assert_eq!(code(&[("", BF16, &[1])]), "st-name");
    assert_eq!(code(&[("a", BF16, &[u64::MAX, 2])]), "st-overflow");
    assert_eq!(code(&[("a", Dtype::F4E2M1, &[3])]), "st-overflow");
    assert_eq!(code(&[("a", U8, &[u64::MAX]), ("b", U8, &[2])]), "st-overflow");
    assert_eq!(Checkpoint::from_parts(json!([]), Vec::new()).unwrap_err().code(), "config-not-object");
    assert_eq!(
        Checkpoint::from_parts(json!({}), Vec::new()).unwrap().open_data_file(0).unwrap_err().code(),
        "no-data"
    );
}
