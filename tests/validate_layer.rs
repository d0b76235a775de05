//! The kernel and layer levels: blocks against transformers, good artifacts, seeded defects.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests make and read their own files")]

mod support;

use safetensors::SafeTensors;
use silicast::checkpoint::Checkpoint;
use silicast::validate::layer;
use std::path::Path;
use support::inputs::fixture;

/// SplitMix64 as `fixtures/oracle/heavy/hf_layers.py` has it.
struct Stream(xtask::rng::SplitMix64);

impl Stream {
    fn new(name: &str) -> Self {
        let mut state = 0xcbf2_9ce4_8422_2325u64;
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self(xtask::rng::SplitMix64::new(state))
    }

    fn states(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.0.next_u64() >> 55) as f32 / 128.0 - 2.0).collect()
    }

    fn tokens(&mut self, count: usize, vocabulary: u64) -> Vec<u32> {
        (0..count).map(|_| ((self.0.next_u64() >> 32) % vocabulary) as u32).collect()
    }
}

/// Fixtures of `fixtures/oracle/golden/layers.safetensors`.
const ORACLES: [&str; 9] = [
    "deepseek-v3",
    "deepseek-v3.2",
    "kimi-k2",
    "glm4-moe-bf16",
    "llama-bf16",
    "mistral-bf16",
    "qwen2-bf16",
    "qwen3-fp8",
    "qwen3-moe-bf16",
];

/// Largest difference in proportion to the largest golden value.
fn distance(found: &[f32], golden: &[u8]) -> f64 {
    let golden: Vec<f32> =
        golden.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(found.len(), golden.len());
    let largest = golden.iter().fold(0f32, |m, v| m.max(v.abs()));
    let error = found.iter().zip(&golden).fold(0f64, |m, (a, b)| m.max((f64::from(*a) - f64::from(*b)).abs()));
    error / f64::from(largest)
}

#[test]
fn blocks_and_logits_are_those_of_transformers() {
    let golden = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle/golden/layers.safetensors"),
    )
    .unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let root = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for name in ORACLES {
        let source = Checkpoint::open(&fixture(root.path(), name)).unwrap();
        for index in 0..2 {
            let entry = format!("{name}/block.{index}");
            let view = golden.tensor(&entry).unwrap();
            let [tokens, hidden] = view.shape() else { panic!("{entry} is no matrix") };
            let states = Stream::new(&entry).states(tokens * hidden);
            let found = layer::reference_block(&source, index, &states, *tokens).unwrap();
            let error = distance(&found, view.data());
            println!("{entry}: {error:.1e}");
            assert!(error < 1e-6, "{entry}: {error}");
            seen += 1;
        }
        let entry = format!("{name}/logits");
        let view = golden.tensor(&entry).unwrap();
        let ids = Stream::new(&entry).tokens(view.shape()[0], view.shape()[1] as u64);
        let error = distance(&layer::reference_logits(&source, &ids).unwrap(), view.data());
        println!("{entry}: {error:.1e}");
        assert!(error < 1e-5, "{entry}: {error}");
        seen += 1;
    }
    assert_eq!(seen, golden.len(), "an entry without a test");
}
