//! A checkpoint folder as a value, to damage it: raw headers and bytes, no code of silicast.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program under test.
pub const BIN: &str = env!("CARGO_BIN_EXE_silicast");

/// Rewrites a JSON file.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, format!("{value:#}\n")).unwrap();
}

#[derive(Clone)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data: Vec<u8>,
}

/// Every tensor of a folder, by shard.
pub struct Model {
    dir: PathBuf,
    shards: BTreeMap<PathBuf, BTreeMap<String, Tensor>>,
}

fn width(dtype: &str) -> usize {
    match dtype {
        "I64" => 8,
        "F32" | "I32" => 4,
        "BF16" | "F16" => 2,
        _ => 1,
    }
}

impl Model {
    /// Reads every shard in `dir`.
    pub fn load(dir: &Path) -> Model {
        let mut shards = BTreeMap::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|e| e != "safetensors") {
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
            let json: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
            let data = &bytes[8 + header..];
            let mut tensors = BTreeMap::new();
            for (name, entry) in json.into_iter().filter(|(name, _)| name != "__metadata__") {
                let at = |i: usize| usize::try_from(entry["data_offsets"][i].as_u64().unwrap()).unwrap();
                let shape = entry["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
                let dtype = entry["dtype"].as_str().unwrap().to_owned();
                tensors.insert(name, Tensor { dtype, shape, data: data[at(0)..at(1)].to_vec() });
            }
            shards.insert(path, tensors);
        }
        Model { dir: dir.to_owned(), shards }
    }

    /// Writes every shard, and the index where there is one.
    pub fn save(&self) {
        let (mut map, mut total) = (Map::new(), 0);
        for (path, tensors) in &self.shards {
            let (mut header, mut data) = (Map::new(), Vec::new());
            for (name, tensor) in tensors {
                let start = data.len();
                data.extend_from_slice(&tensor.data);
                header.insert(
                    name.clone(),
                    json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]}),
                );
                map.insert(name.clone(), json!(path.file_name().unwrap().to_str().unwrap()));
            }
            total += data.len();
            let header = Value::Object(header).to_string();
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&data);
            fs::write(path, bytes).unwrap();
        }
        for name in ["model.safetensors.index.json", "quant_model_weights.safetensors.index.json"] {
            let path = self.dir.join(name);
            if path.exists() {
                fs::write(path, json!({"metadata": {"total_size": total}, "weight_map": map}).to_string())
                    .unwrap();
            }
        }
    }

    /// Names of all tensors.
    pub fn names(&self) -> Vec<String> {
        self.shards.values().flat_map(|s| s.keys().cloned()).collect()
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<u64> {
        self.shards.values().find_map(|s| s.get(name)).unwrap().shape.clone()
    }

    fn get(&mut self, name: &str) -> &mut Tensor {
        self.shards.values_mut().find_map(|s| s.get_mut(name)).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// Removes a tensor.
    pub fn remove(&mut self, name: &str) {
        assert!(self.shards.values_mut().filter_map(|s| s.remove(name)).count() == 1, "no tensor {name}");
    }

    /// Keeps the tensors that `keep` wants.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.shards.values_mut().for_each(|s| s.retain(|name, _| keep(name)));
    }

    /// Adds a tensor whose bytes are all `byte` to the first shard.
    pub fn add(&mut self, name: &str, dtype: &str, shape: &[u64], byte: u8) {
        let elements = usize::try_from(shape.iter().product::<u64>()).unwrap();
        let tensor = Tensor {
            dtype: dtype.to_owned(),
            shape: shape.to_vec(),
            data: vec![byte; elements * width(dtype)],
        };
        self.shards.values_mut().next().unwrap().insert(name.to_owned(), tensor);
    }

    /// States another dtype; the bytes are cut, or repeated, to its width.
    pub fn retype(&mut self, name: &str, dtype: &str) {
        let tensor = self.get(name);
        let elements = usize::try_from(tensor.shape.iter().product::<u64>()).unwrap();
        tensor.data = tensor.data.iter().copied().cycle().take(elements * width(dtype)).collect();
        tensor.dtype = dtype.to_owned();
    }

    /// States another shape of as many elements.
    pub fn reshape(&mut self, name: &str, shape: &[u64]) {
        let tensor = self.get(name);
        assert_eq!(tensor.shape.iter().product::<u64>(), shape.iter().product::<u64>(), "{name}");
        tensor.shape = shape.to_vec();
    }

    /// States a shape of fewer elements and cuts the bytes.
    pub fn truncate(&mut self, name: &str, shape: &[u64]) {
        let tensor = self.get(name);
        let elements = usize::try_from(shape.iter().product::<u64>()).unwrap();
        tensor.data.truncate(elements * width(&tensor.dtype));
        tensor.shape = shape.to_vec();
    }

    /// Sets every element to the bytes `element`.
    pub fn fill(&mut self, name: &str, element: &[u8]) {
        let tensor = self.get(name);
        tensor.data.chunks_exact_mut(element.len()).for_each(|e| e.copy_from_slice(element));
    }

    /// Sets one element of an F32 tensor.
    pub fn set_f32(&mut self, name: &str, at: usize, value: f32) {
        let tensor = self.get(name);
        assert_eq!(tensor.dtype, "F32", "{name}");
        tensor.data[4 * at..4 * at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// The fixture converted for a target, or itself without one, in a folder that lives as long as the first value.
pub fn artifact(fixture: &str, target: Option<(&str, &str)>, more: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("src");
    xtask::fixtures::write(fixture, &src).unwrap();
    let Some((target, scheme)) = target else { return (dir, src) };
    let out = dir.path().join("out");
    let run = Command::new(BIN)
        .args(["convert", "--target", target, "--scheme", scheme, "--progress", "none", "--jobs", "1"])
        .args(more)
        .arg(&src)
        .arg("-o")
        .arg(&out)
        .output()
        .unwrap();
    assert!(run.status.success(), "{fixture} {target} {scheme}: {}", String::from_utf8_lossy(&run.stderr));
    (dir, out)
}
