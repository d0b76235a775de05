//! Generated malformed files: mutations of valid ones. None may panic, and none may be accepted that the official
//! reader refuses.

use super::{code, folder_of};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use silicast::checkpoint::header::{self, Header, Shapes};
use silicast::error::Result;
use std::time::{Duration, Instant};

fn ours(file: &[u8]) -> Result<Header> {
    let Some((prefix, rest)) = file.split_first_chunk::<8>() else {
        return Err(silicast::error::Error::input("st-too-short", "short"));
    };
    let length = header::header_length(*prefix, file.len() as u64)?;
    let (header, data) = rest.split_at(length);
    header::parse(header, data.len() as u64, &mut Shapes::default())
}

/// Never more lenient than the official reader, and the same content where both accept. Returns whether we accept.
fn compare(file: &[u8]) -> bool {
    let started = Instant::now();
    let result = ours(file);
    assert!(started.elapsed() < Duration::from_secs(1), "slow: {} bytes", file.len());
    let Ok(header) = result else { return false };
    let official = SafeTensors::deserialize(file);
    let official = match official {
        Ok(official) => official,
        Err(e) => {
            panic!("accepted what the official reader refuses ({e}): {}", String::from_utf8_lossy(file))
        }
    };
    assert_eq!(header.entries.len(), official.len());
    for entry in &header.entries {
        let view = official.tensor(&entry.name).unwrap();
        assert_eq!(view.data().len() as u64, entry.end - entry.start);
        assert!(view.shape().iter().map(|d| *d as u64).eq(entry.shape.iter().copied()));
        assert_eq!(Some(view.dtype().to_string().as_str()), entry.dtype.safetensors_name());
    }
    true
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A valid file from the official writer, with names, dtypes and shapes of real models.
fn valid(seed: u64) -> Vec<u8> {
    use safetensors::Dtype::*;
    let mut random = Random(seed);
    let kinds = [(F8_E4M3, 1), (F32, 4), (BF16, 2), (I8, 1), (F8_E8M0, 1), (U8, 1), (I64, 8), (BOOL, 1)];
    let mut tensors = Vec::new();
    for i in 0..8 {
        let (dtype, size) = kinds[(random.next() % 8) as usize];
        let shape = vec![(random.next() % 4) as usize, (random.next() % 5) as usize];
        let data = vec![random.next() as u8 & 1; shape.iter().product::<usize>() * size];
        let name = ["weight", "weight_scale_inv", "bias"][(random.next() % 3) as usize];
        tensors.push((format!("model.layers.{i}.mlp.down_proj.{name}"), dtype, shape, data));
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

#[test]
fn no_mutation_panics_or_is_accepted_too_easily() {
    let (mut tried, mut accepted) = (0u32, 0u32);
    let mut check = |file: &[u8]| {
        tried += 1;
        accepted += u32::from(compare(file));
    };
    for seed in 0..3 {
        let file = valid(seed);
        assert!(compare(&file), "the unmutated file is valid");
        let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        for end in 0..file.len() {
            check(&file[..end]);
        }
        let mut random = Random(seed ^ 0xabcd);
        for at in 0..8 + length {
            let mutated = |value: u8| {
                let mut file = file.clone();
                file[at] = value;
                file
            };
            check(&mutated(file[at] ^ (1 << (random.next() % 8))));
            check(&mutated(0));
            check(&mutated(b' '));
            check(&mutated(random.next() as u8));
            check(&mutated(b"0123456789-.eE,:[]{}\"\\"[(random.next() % 22) as usize]));
            let mut removed = file.clone();
            removed.remove(at);
            check(&removed);
            // The same with a length field that fits again: the damage reaches the JSON parser.
            if at >= 8 {
                removed[..8].copy_from_slice(&(length as u64 - 1).to_le_bytes());
                check(&removed);
                let mut doubled = file.clone();
                doubled.insert(at, file[at]);
                doubled[..8].copy_from_slice(&(length as u64 + 1).to_le_bytes());
                check(&doubled);
            }
        }
    }
    assert!(tried >= 10_000, "{tried}");
    // Some mutations are harmless (a letter of a name); if none were, the test would compare nothing.
    assert!(accepted > 500 && accepted < tried / 2, "{accepted} of {tried}");
}

#[test]
fn every_truncation_of_a_file_on_disk_is_refused() {
    let file = valid(7);
    for end in 0..file.len() {
        let dir = folder_of(&[("model.safetensors", &file[..end])]);
        assert!(code(dir.path()).starts_with("st-"), "{end}");
    }
}

#[test]
fn mutated_json_beside_the_weights_does_not_panic() {
    let weights = valid(3);
    let config = br#"{"model_type":"deepseek_v3","num_hidden_layers":8,"tie_word_embeddings":false,"quantization_config":{"quant_method":"fp8","weight_block_size":[128,128],"config_groups":{"g":{"weights":{"num_bits":8,"type":"int","strategy":"group","group_size":32}}}}}"#;
    let names: Vec<String> = SafeTensors::deserialize(&weights)
        .unwrap()
        .names()
        .iter()
        .map(|n| format!("\"{n}\":\"m.safetensors\""))
        .collect();
    let index = format!("{{\"metadata\":{{\"total_size\":1}},\"weight_map\":{{{}}}}}", names.join(","));
    let mut random = Random(11);
    let mut mutate = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        for _ in 0..=random.next() % 2 {
            let at = (random.next() % bytes.len() as u64) as usize;
            match random.next() % 4 {
                0 => bytes[at] ^= 1 << (random.next() % 8),
                1 => bytes[at] = b"0123456789-.eE,:[]{}\"\\"[(random.next() % 22) as usize],
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    };
    let dir = folder_of(&[("m.safetensors", &weights)]);
    let (mut refused, mut tried) = (0, 0);
    for _ in 0..1500 {
        std::fs::write(dir.path().join("config.json"), mutate(config)).unwrap();
        std::fs::write(dir.path().join("model.safetensors.index.json"), mutate(index.as_bytes())).unwrap();
        refused += u32::from(code(dir.path()) != "ok");
        tried += 1;
    }
    assert!(refused > tried / 2, "{refused} of {tried}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        compare(&bytes);
        let mut framed = (bytes.len() as u64).to_le_bytes().to_vec();
        framed.extend(&bytes);
        compare(&framed);
    }

    #[test]
    fn header_like_text_is_never_accepted_too_easily(
        pieces in proptest::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"a\":", "\"b\":", "\"dtype\":\"U8\"", "\"dtype\":\"F4\"",
                "\"shape\":[1]", "\"shape\":[]", "\"shape\":[0]", "\"shape\":[2]", "\"data_offsets\":[0,1]", "\"data_offsets\":[0,0]",
                "\"data_offsets\":[1,2]", "\"__metadata__\":{}", "\"__metadata__\":{\"k\":\"v\"}", "null", "1", " ",
                "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}",
                "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}",
            ]),
            0..12,
        ),
        wrap in any::<bool>(),
        data in 0usize..3,
    ) {
        let text = if wrap { format!("{{{}}}", pieces.join(",")) } else { pieces.concat() };
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text.as_bytes());
        file.extend(vec![0; data]);
        compare(&file);
    }
}

/// Time and memory are linear in the header: 200,000 tensors (the official reader's bad case) in seconds even in a
/// debug build.
#[test]
fn many_tensors_are_read_in_linear_time() {
    let time = |count: usize| {
        let mut header = String::from("{");
        for i in 0..count {
            let comma = if i == 0 { "" } else { "," };
            header += &format!(
                "{comma}\"model.layers.{}.mlp.experts.{}.down_proj.weight\":{{\"dtype\":\"F32\",\"shape\":[0,{}],\"data_offsets\":[0,0]}}",
                i / 256,
                i % 256,
                i % 7
            );
        }
        header.push('}');
        let started = Instant::now();
        let parsed = header::parse(header.as_bytes(), 0, &mut Shapes::default()).unwrap();
        assert_eq!(parsed.entries.len(), count);
        started.elapsed()
    };
    // A quadratic parser takes minutes here.
    let large = time(200_000);
    assert!(large < Duration::from_secs(5), "{large:?}");
}

#[test]
fn json_bombs_are_refused_quickly() {
    let started = Instant::now();
    for text in [
        format!("{{\"a\":{}", "{\"a\":".repeat(1_000_000)),
        format!("{{\"a\":{{\"x\":{}", "[".repeat(5_000_000)),
        format!("{{\"a\":{{\"shape\":[{}0]}}}}", "1,".repeat(5_000_000)),
        format!("{{\"{}\":1}}", "n".repeat(10_000_000)),
        format!("{{\"a\":{{\"dtype\":\"{}\"}}}}", "F".repeat(10_000_000)),
        format!("{{\"__metadata__\":{{{}\"z\":\"\"}}}}", "\"k\":\"v\",".repeat(1_000_000)),
    ] {
        let e = header::parse(text.as_bytes(), 0, &mut Shapes::default()).unwrap_err();
        assert!(e.to_string().len() < 3000, "{}", e.code());
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
