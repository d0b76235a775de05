//! Header-only images of releases too large to ship: `fixtures/manifests/NAME.json` says which tensors a release has,
//! [`write_giant`] expands it into a folder of sparse files that an ordinary reader opens.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use crate::fixtures::side_files;
use crate::safetensors::{Dtype, Info, Order, head, index_json};

/// Name and text of every manifest.
const MANIFESTS: [(&str, &str); 3] = [
    ("deepseek-v3", include_str!("../../fixtures/manifests/deepseek-v3.json")),
    ("deepseek-v3.2", include_str!("../../fixtures/manifests/deepseek-v3.2.json")),
    ("kimi-k2", include_str!("../../fixtures/manifests/kimi-k2.json")),
];

/// The names that [`write_giant`] knows.
pub fn giant_names() -> &'static [&'static str] {
    const NAMES: [&str; 3] = [MANIFESTS[0].0, MANIFESTS[1].0, MANIFESTS[2].0];
    &NAMES
}

/// The parsed manifest of a giant.
///
/// # Errors
/// An unknown name (`InvalidInput`); a manifest that is not JSON.
pub fn manifest(name: &str) -> io::Result<Value> {
    let (_, text) = MANIFESTS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let known = giant_names().join(", ");
        io::Error::new(io::ErrorKind::InvalidInput, format!("no giant is called {name:?}; there are {known}"))
    })?;
    serde_json::from_str(text).map_err(|e| invalid(&format!("{name}.json: {e}")))
}

/// The tensors of a giant: embedding, layers in order, then the rest.
///
/// # Errors
/// An unknown name; a manifest that does not follow its schema.
pub fn giant_tensors(name: &str) -> io::Result<Vec<Info>> {
    expand(&manifest(name)?)
}

/// Expands the templates of a manifest. `{L}` runs over `layers` `[begin, end)`, `{E}` over `experts`; the kind
/// `fp8_block` stands for `X.weight` F8_E4M3 and `X.weight_scale_inv` F32 with one scale per 128x128 block, any other
/// kind is the dtype of the tensor.
fn expand(manifest: &Value) -> io::Result<Vec<Info>> {
    let templates = manifest["tensors"].as_array().ok_or_else(|| invalid("tensors"))?;
    let mut placed: Vec<(u64, Info)> = Vec::new();
    let mut after_layers = false;
    for template in templates {
        let pattern = template["name"].as_str().ok_or_else(|| invalid("name"))?;
        let kind = template["kind"].as_str().ok_or_else(|| invalid("kind"))?;
        let shape = template["shape"].as_array().ok_or_else(|| invalid("shape"))?;
        let shape: Vec<u64> =
            shape.iter().map(|d| d.as_u64().ok_or_else(|| invalid("shape"))).collect::<io::Result<_>>()?;
        let layers = match template["layers"].as_array() {
            Some(range) => match (range[0].as_u64(), range[1].as_u64()) {
                (Some(begin), Some(end)) => begin..end,
                _ => return Err(invalid("layers")),
            },
            None => 0..1,
        };
        let layered = template["layers"].is_array();
        after_layers |= layered;
        for layer in layers {
            let place = match (layered, after_layers) {
                (true, _) => layer + 1,
                (false, true) => u64::MAX,
                (false, false) => 0,
            };
            for expert in 0..template["experts"].as_u64().unwrap_or(1) {
                let name = pattern.replace("{L}", &layer.to_string()).replace("{E}", &expert.to_string());
                let mut push = |name, dtype, shape| placed.push((place, Info { name, dtype, shape }));
                if kind == "fp8_block" {
                    let grid = shape.iter().map(|d| d.div_ceil(128)).collect();
                    push(format!("{name}.weight"), Dtype::F8E4m3, shape.clone());
                    push(format!("{name}.weight_scale_inv"), Dtype::F32, grid);
                } else {
                    push(name, Dtype::parse(kind).ok_or_else(|| invalid(kind))?, shape.clone());
                }
            }
        }
    }
    placed.sort_by_key(|(place, _)| *place);
    Ok(placed.into_iter().map(|(_, info)| info).collect())
}

/// Writes the giant `name` into `dir`: every shard has its real header and its real length, but no data: the files
/// are sparse and read as zeros. Index, config and side files stand beside them.
///
/// # Errors
/// An unknown name; those of the file system (which must support sparse files of 20 GB).
pub fn write_giant(name: &str, dir: &Path) -> io::Result<()> {
    let manifest = manifest(name)?;
    let tensors = expand(&manifest)?;
    let count = manifest["shards"]["count"].as_u64().ok_or_else(|| invalid("shards.count"))?;
    let pattern = manifest["shards"]["name"].as_str().ok_or_else(|| invalid("shards.name"))?;
    let total: u64 = tensors.iter().map(Info::bytes).sum();
    std::fs::create_dir_all(dir)?;

    let mut shards: BTreeMap<u64, Vec<Info>> = BTreeMap::new();
    let mut before = 0u64;
    for info in tensors {
        // u128: the product exceeds 2^64 from 113 PB on only, but the cast costs nothing.
        let shard = (u128::from(before) * u128::from(count) / u128::from(total)) as u64;
        before += info.bytes();
        shards.entry(shard).or_default().push(info);
    }
    let mut weight_map = BTreeMap::new();
    for (shard, mut infos) in shards {
        let file_name = shard_name(pattern, shard + 1, count);
        let (head, payload) = head(&mut infos, Order::Name);
        let mut file = File::create(dir.join(&file_name))?;
        file.write_all(&head)?;
        file.set_len(head.len() as u64 + payload)?;
        for info in infos {
            weight_map.insert(info.name, file_name.clone());
        }
    }
    std::fs::write(dir.join("model.safetensors.index.json"), index_json(&weight_map, total))?;
    let config = &manifest["config"];
    side_files::write(dir, config, config.get("auto_map").is_some())
}

/// A shard's file name: `{I}` and `{N}` are its number and the count, `{I:05}` and `{N:06}` padded with zeros.
fn shard_name(pattern: &str, number: u64, count: u64) -> String {
    pattern
        .replace("{I:05}", &format!("{number:05}"))
        .replace("{N:06}", &format!("{count:06}"))
        .replace("{I}", &number.to_string())
        .replace("{N}", &count.to_string())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("manifest: {what}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::families::{Deepseek, Kind, deepseek};
    use crate::safetensors::read_head;

    /// Tensors and bytes per dtype.
    fn totals(tensors: &[Info]) -> BTreeMap<&'static str, (u64, u64)> {
        let mut totals = BTreeMap::new();
        for info in tensors {
            let entry = totals.entry(info.dtype.name()).or_insert((0, 0));
            entry.0 += 1;
            entry.1 += info.bytes();
        }
        totals
    }

    #[test]
    fn counts_and_bytes_are_the_published_ones() {
        let v3 = giant_tensors("deepseek-v3").unwrap();
        let expected = [
            ("F8_E4M3", (45_808, 680_571_043_840)),
            ("F32", (45_867, 166_222_400)),
            ("BF16", (316, 7_837_573_120)),
        ];
        assert_eq!(totals(&v3), expected.into());
        assert_eq!((v3.len(), v3.iter().map(Info::bytes).sum::<u64>()), (91_991, 688_574_839_360));

        let v32 = giant_tensors("deepseek-v3.2").unwrap();
        let counts: Vec<(&str, u64)> = totals(&v32).iter().map(|(dtype, (n, _))| (*dtype, *n)).collect();
        assert_eq!(counts, [("BF16", 126), ("F32", 46_367), ("F8_E4M3", 45_932)]);
        assert_eq!((v32.len(), v32.iter().map(Info::bytes).sum::<u64>()), (92_425, 689_471_107_200));

        let k2 = giant_tensors("kimi-k2").unwrap();
        let gib = k2.iter().map(Info::bytes).sum::<u64>() as f64 / f64::from(1 << 30);
        assert_eq!((k2.len(), format!("{gib:.2}")), (139_644, "958.49".to_owned()));
    }

    #[test]
    fn manifests_state_what_they_expand_to() {
        for name in giant_names() {
            let manifest = manifest(name).unwrap();
            let tensors = giant_tensors(name).unwrap();
            let bytes: u64 = tensors.iter().map(Info::bytes).sum();
            let published = &manifest["published"];
            assert_eq!(manifest["name"], *name);
            assert_eq!(published["tensors"], tensors.len());
            assert!(published["payload_bytes"].as_u64().is_none_or(|b| b == bytes), "{name}");
            let gib = format!("{:.2}", bytes as f64 / f64::from(1 << 30));
            assert!(published["gib"].as_str().is_none_or(|g| g == gib), "{name}: {gib}");
            for (dtype, (count, bytes)) in totals(&tensors) {
                let stated = &published["dtypes"][dtype];
                assert!(stated["tensors"].as_u64().is_none_or(|n| n == count), "{name} {dtype}");
                assert!(stated["bytes"].as_u64().is_none_or(|b| b == bytes), "{name} {dtype}");
            }
            let names: BTreeSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
            assert_eq!(names.len(), tensors.len(), "{name}: a name occurs twice");
        }
    }

    /// The templates and the formulae of the tiny fixtures describe the same models.
    #[test]
    fn manifests_agree_with_the_family_formulae() {
        let v3 = Deepseek {
            hidden: 7168,
            inter: 18432,
            moe_inter: 2048,
            layers: 61,
            first_dense: 3,
            experts: 256,
            heads: 128,
            nope: 128,
            rope: 64,
            v: 128,
            q_lora: 1536,
            kv_lora: 512,
            vocab: 129_280,
            mtp: true,
            indexer: None,
            f32_norms: false,
            inv_freq: None,
        };
        let k2 = Deepseek {
            first_dense: 1,
            experts: 384,
            heads: 64,
            vocab: 163_840,
            mtp: false,
            inv_freq: Some(56),
            ..v3
        };
        let v32 = Deepseek { indexer: Some((64, 128)), f32_norms: true, ..v3 };
        for (name, dims) in [("deepseek-v3", v3), ("deepseek-v3.2", v32), ("kimi-k2", k2)] {
            let mut formula: BTreeMap<String, (Dtype, Vec<u64>)> = BTreeMap::new();
            for spec in deepseek(&dims) {
                match spec.kind {
                    Kind::Linear => {
                        let grid = spec.shape.iter().map(|d| d.div_ceil(128)).collect();
                        formula.insert(format!("{}.weight", spec.name), (Dtype::F8E4m3, spec.shape));
                        formula.insert(format!("{}.weight_scale_inv", spec.name), (Dtype::F32, grid));
                    }
                    Kind::NormF32 | Kind::BiasF32 => {
                        drop(formula.insert(spec.name, (Dtype::F32, spec.shape)))
                    }
                    _ => drop(formula.insert(spec.name, (Dtype::Bf16, spec.shape))),
                }
            }
            let templates: BTreeMap<String, (Dtype, Vec<u64>)> =
                giant_tensors(name).unwrap().into_iter().map(|t| (t.name, (t.dtype, t.shape))).collect();
            assert!(templates == formula, "{name}");
        }
    }

    #[test]
    fn a_giant_is_a_folder_of_sparse_files_with_real_headers() {
        let dir = tempfile::tempdir().unwrap();
        write_giant("deepseek-v3", dir.path()).unwrap();
        let index = std::fs::read(dir.path().join("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], 688_574_839_360u64);
        let map = index["weight_map"].as_object().unwrap();
        let files: BTreeSet<&str> = map.values().map(|f| f.as_str().unwrap()).collect();
        assert_eq!((map.len(), files.len()), (91_991, 163));
        assert!(files.contains("model-00001-of-000163.safetensors"));
        let (mut seen, mut headers) = (0, 0);
        for file in files {
            let path = dir.path().join(file);
            let (tensors, data) = read_head(&path).unwrap();
            let payload: u64 = tensors.iter().map(|(info, _)| info.bytes()).sum();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), data + payload);
            assert!(tensors.iter().all(|(info, _)| map[&info.name] == file));
            seen += tensors.len();
            headers += data;
        }
        assert_eq!(seen, 91_991);
        // The published files have 11,888,393 bytes of headers; where the shards are cut decides a few digits.
        assert!(headers.abs_diff(11_888_393) < 3_000, "{headers}");
    }
}
