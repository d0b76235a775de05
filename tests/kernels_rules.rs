//! Every scale rule against a transcription of its published text in NumPy: `fixtures/oracle/kernels_rules.py` makes scales,
//! zero points, codes and counts again from the values and compares bits.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests make their own files and panic to fail"
)]

mod support;

use serde_json::{Value, json};
use silicast::dtype::Dtype;
use silicast::dtype::codec::{bf16_from_f32, f16_from_f32, f32_from_bf16, f32_from_f16};
use silicast::dtype::packing::Packing;
use silicast::dtype::scheme::{Granularity, Rule, Scheme};
use silicast::kernel::{self, Isa, Policy, Sink, Values, pack, reference};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use support::oracle;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn gauss(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

const KINDS: u64 = 18;

/// A row of values that some rule finds hard.
fn row(kind: u64, cols: usize, random: &mut Random) -> Vec<f32> {
    let power = 2f64.powi(random.below(40) as i32 - 20);
    let mut x: Vec<f32> = (0..cols)
        .map(|_| {
            let g = random.gauss();
            let x = match kind {
                // Weights.
                0 | 1 => g * 0.02,
                // Halves and quarters of steps: ties of integers, of E2M1 and of E4M3.
                2 => (random.below(61) as f64 - 30.0) / 4.0 * power,
                3 => (random.below(511) as f64 - 255.0) / 2.0 * power,
                4 => (random.below(225) as f64 - 112.0) / 16.0 * power,
                // Zeros of both signs.
                5 => 0.0 * g.signum(),
                // Subnormals, tiny and huge values.
                6 => f64::from(f32::from_bits(random.below(1 << 23) as u32)) * g.signum(),
                7 => g * 1e-30,
                8 => g * 1e-41,
                9 => g * 4e37,
                // A wide range, so that most of it rounds to zero.
                10 => g * 2f64.powi(-(random.below(50) as i32)),
                // One sign only.
                11 => g.abs() * power,
                12 => -g.abs() * power - power,
                // Mostly zeros, with negative values that become zero.
                13 => [0.0, -0.0, -1e-9, 1.0][random.below(4) as usize],
                // The floors of the rules.
                14 => g * 1e-12,
                15 => g * 3e-5,
                // Any pattern.
                16 => f64::from(f32::from_bits(random.next() as u32)),
                _ => g * power,
            };
            if x.is_finite() { x as f32 } else { 1.0 }
        })
        .collect();
    // Largest magnitudes on the edges of rules: mantissas of 1.5, 1.75, the largest codes, ties of 127.5 and 7.5, and
    // their neighbours.
    if kind >= 17 || kind == 1 {
        for group in x.chunks_mut(16) {
            let edges = [1.0, 1.5, 1.75, 1.9375, 6.0, 7.0, 7.5, 127.0, 127.5, 448.0, 480.0, 31.0 / 16.0];
            let edge = edges[random.below(12) as usize] * 2f64.powi(random.below(16) as i32 - 8);
            let neighbour = f32::from_bits((edge as f32).to_bits() + 1 - random.below(3) as u32);
            let at = random.below(group.len() as u64) as usize;
            group[at] = if random.below(2) == 0 { neighbour } else { -neighbour };
        }
    }
    x
}

/// Values in a format that checkpoints have, and as `f32`.
struct Source {
    name: &'static str,
    dtype: Dtype,
    bytes: Vec<u8>,
    scales: Vec<f32>,
    block: [usize; 2],
    values: Vec<f32>,
}

impl Source {
    fn values(&self) -> Values<'_> {
        match self.dtype {
            Dtype::F32 => Values::F32(&self.bytes),
            Dtype::BF16 => Values::Bf16(&self.bytes),
            Dtype::F16 => Values::F16(&self.bytes),
            element => Values::Scaled {
                element,
                codes: &self.bytes,
                scales: &self.scales,
                block_rows: self.block[0],
                block_cols: self.block[1],
            },
        }
    }
}

fn plain(name: &'static str, dtype: Dtype, x: &[f32]) -> Source {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for x in x {
        match dtype {
            Dtype::BF16 => {
                let bits = bf16_from_f32(x.clamp(-3.3e38, 3.3e38));
                bytes.extend(bits.to_le_bytes());
                values.push(f32_from_bf16(bits));
            }
            Dtype::F16 => {
                let bits = f16_from_f32(x.clamp(-65504.0, 65504.0));
                bytes.extend(bits.to_le_bytes());
                values.push(f32_from_f16(bits));
            }
            _ => {
                bytes.extend(x.to_le_bytes());
                values.push(*x);
            }
        }
    }
    Source { name, dtype, bytes, scales: vec![], block: [1, 1], values }
}

/// Random codes under random scales; powers of two for MXFP4.
fn scaled(name: &'static str, [rows, cols]: [usize; 2], block: [usize; 2], random: &mut Random) -> Source {
    let dtype = if name == "int8" { Dtype::I8 } else { Dtype::F8E4M3 };
    let grid = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
    let scales: Vec<f32> = (0..grid[0] * grid[1])
        .map(|_| {
            let power = 2f32.powi(random.below(if name == "mxfp4" { 20 } else { 9 }) as i32 - 9);
            if name == "mxfp4" { power } else { power * (1.0 + random.unit() as f32) }
        })
        .collect();
    let mut bytes: Vec<u8> = (0..rows * cols).map(|_| (random.next() >> 40) as u8).collect();
    if name == "mxfp4" {
        let codes: Vec<u8> = bytes.iter().map(|b| b & 15).collect();
        pack::fp4_to_e4m3(&codes, &mut bytes);
    }
    let values = bytes
        .iter_mut()
        .enumerate()
        .map(|(i, code)| {
            if dtype == Dtype::F8E4M3 && *code & 0x7F == 0x7F {
                *code = 0x80;
            }
            let scale = scales[i / cols / block[0] * grid[1] + i % cols / block[1]];
            let value = match dtype {
                Dtype::I8 => f32::from(*code as i8),
                _ => silicast::dtype::codec::f32_from_e4m3(*code),
            };
            value * scale
        })
        .collect();
    Source { name, dtype, bytes, scales, block, values }
}

fn sources([rows, cols]: [usize; 2], seed: u64) -> Vec<Source> {
    let mut random = Random(seed);
    let x: Vec<f32> = (0..rows as u64).flat_map(|r| row(r % KINDS, cols, &mut random)).collect();
    vec![
        plain("f32", Dtype::F32, &x),
        plain("bf16", Dtype::BF16, &x),
        plain("f16", Dtype::F16, &x),
        scaled("fp8", [rows, cols], [16, 32], &mut random),
        scaled("mxfp4", [rows, cols], [1, 32], &mut random),
        scaled("int8", [rows, cols], [1, 128], &mut random),
    ]
}

/// Every rule with the formats and blocks that it is used with, and others.
fn schemes() -> Vec<Scheme> {
    use Dtype::{BF16, F4E2M1, F8E4M3, F16, F32, I4, I8, U8};
    let group = |cols| Granularity::Block { rows: 1, cols };
    let block = Granularity::Block { rows: 4, cols: 64 };
    let mut found = Vec::new();
    for rule in Rule::all().filter(|rule| *rule != Rule::Given) {
        let formats = match rule {
            Rule::Amax7Half | Rule::MinMax15 => [BF16, F16, F32].map(|scale| (I4, scale)).to_vec(),
            Rule::Amax127Half => [BF16, F16, F32].map(|scale| (I8, scale)).to_vec(),
            Rule::Amax7 | Rule::Amax7Eps | Rule::Ssz7 => vec![(I4, F32)],
            Rule::Ct7Bf16 => vec![(I4, BF16)],
            Rule::Amax127 | Rule::Amax127Bf16 => vec![(I8, F32)],
            Rule::Ct127Bf16 => vec![(I8, BF16)],
            Rule::Nvfp4 => vec![(F4E2M1, F8E4M3)],
            Rule::Amax448 | Rule::DeepseekUe8m0 | Rule::BestUe8m0 | Rule::Fp4Blocks => vec![(F8E4M3, F32)],
            _ => vec![(F8E4M3, U8), (F4E2M1, U8)],
        };
        let granularities = match rule {
            Rule::Nvfp4 => vec![group(16), group(48)],
            Rule::Fp4Blocks => vec![Granularity::Block { rows: 128, cols: 128 }, block],
            _ if rule.is_pow2() => vec![group(32), block],
            _ => vec![group(128), Granularity::Channel, block],
        };
        for (element, scale) in formats {
            for granularity in &granularities {
                let granularity = *granularity;
                found.push(Scheme { element, granularity, scale, rule, packing: Packing::Plain });
            }
        }
    }
    found
}

/// Files of cases in a folder.
struct Cases {
    dir: PathBuf,
    list: Vec<Value>,
}

impl Cases {
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let name = format!("{}.{name}", self.list.len());
        fs::write(self.dir.join(&name), bytes).unwrap();
        name
    }

    fn add(&mut self, scheme: Scheme, source: &Source, [rows, cols]: [usize; 2]) {
        let values = source.values();
        let policy = Policy::default();
        let amax = kernel::largest_magnitude(Isa::detect(), &values, rows, cols, policy).unwrap();
        // Tensors that are fused share the global of the largest one.
        let is_shared = rows == KINDS as usize;
        let global = match scheme.rule {
            Rule::Nvfp4 if is_shared => reference::nvfp4_global(amax * 2.3),
            Rule::Nvfp4 => reference::nvfp4_global(amax),
            _ => 1.0,
        };
        let [grid_rows, grid_cols] = scheme.granularity.grid(rows as u64, cols as u64);
        let units = usize::try_from(grid_rows * grid_cols).unwrap();
        let mut codes = vec![0xAA; rows * cols];
        let mut scales = vec![f32::NAN; units];
        let mut zeros = vec![0x55; if scheme.rule.is_asymmetric() { units } else { 0 }];
        let sink =
            Sink::Quantize { scheme, global, codes: &mut codes, scales: &mut scales, zeros: &mut zeros };
        let stats = kernel::convert(Isa::detect(), &values, rows, cols, sink, policy).unwrap();
        let is_first = !self.list.iter().any(|case| case["rule"] == scheme.rule.name());
        for tampered in [false, true].into_iter().take(if is_first { 2 } else { 1 }) {
            if tampered {
                codes[rows * cols / 2] ^= 1;
            }
            let f32s = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
            let mut case = json!({
                "name": format!("{scheme} of {} [{rows}, {cols}]", source.name),
                "tampered": tampered,
                "rule": scheme.rule.name(),
                "element": scheme.element.text(),
                "scale": scheme.scale.text(),
                "shape": [rows, cols],
                "block": scheme.granularity.unit(rows, cols),
                "global": global.to_bits(),
                "own_global": !is_shared,
                "values": self.file("values", &f32s(&source.values)),
                "codes": self.file("codes", &codes),
                "scales": self.file("scales", &f32s(&scales)),
                "saturated": stats.saturated,
                "inexact_units": stats.inexact_units,
                "zero_rows": stats.zero_rows,
            });
            if !zeros.is_empty() {
                let bytes: Vec<u8> = zeros.iter().map(|z| *z as u8).collect();
                case["zeros"] = self.file("zeros", &bytes).into();
            }
            if scheme.rule == Rule::Fp4Blocks {
                case["source_scales"] = self.file("source", &f32s(&source.scales)).into();
                case["source_block"] = source.block.to_vec().into();
            }
            self.list.push(case);
        }
    }

    fn finish(&self, dir: &Path) {
        fs::write(dir.join("cases.json"), serde_json::to_vec(&self.list).unwrap()).unwrap();
    }
}

#[test]
fn every_rule_agrees_with_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = Cases { dir: dir.path().to_owned(), list: Vec::new() };
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    // Two rows of every kind; groups that end a row early, and one row more than fits blocks.
    for (shape, seed) in [([2 * KINDS as usize + 1, 256], 1), ([KINDS as usize, 300], 2)] {
        for source in sources(shape, seed) {
            for scheme in schemes() {
                let fp4 = source.name == "mxfp4";
                // Blocks from FP4 are made of FP4; other rules see it once.
                if (scheme.rule == Rule::Fp4Blocks && !fp4) || (fp4 && seed == 2 && !scheme.rule.is_pow2()) {
                    continue;
                }
                *expected.entry(scheme.rule.name()).or_default() += 1;
                cases.add(scheme, &source, shape);
            }
        }
    }
    cases.finish(dir.path());
    let printed = oracle::run_script("kernels_rules.py", &[dir.path().as_os_str()]);
    let mut checked: BTreeMap<&str, usize> = BTreeMap::new();
    for line in printed.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [rule, cases, units] = words[..] else { panic!("{line}") };
        assert!(units.parse::<usize>().unwrap() >= 10, "{line}: too few units");
        checked.insert(rule, cases.parse().unwrap());
    }
    assert_eq!(checked, expected, "every case of every rule is checked");
    let rules: Vec<&str> = Rule::all().filter(|r| *r != Rule::Given).map(Rule::name).collect();
    assert!(rules.iter().all(|rule| checked.contains_key(rule)) && checked.len() == rules.len());
}
