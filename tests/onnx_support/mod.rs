//! The test cases of the onnx package, exported once to a folder under the target folder.
#![allow(dead_code, reason = "every test uses a part")]

use super::support::oracle::run_script;
use silicast::onnx::eval::{Tensor, Value};
use silicast::onnx_protobuf::{Message, TensorProto};
use std::fs;
use std::path::{Path, PathBuf};

/// One case.
pub(crate) struct Case {
    pub suite: String,
    pub name: String,
    pub rtol: f64,
    pub atol: f64,
    pub sets: usize,
    pub folder: PathBuf,
}

/// Every case, exported on the first call of any process.
pub(crate) fn cases() -> (PathBuf, Vec<Case>) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle");
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fs::read(oracle.join("onnx_cases.py")).unwrap());
    hasher.update(&fs::read(oracle.join("requirements.txt")).unwrap());
    let root = target.join(format!("onnx-cases-{}", &hasher.finalize().to_hex()[..16]));
    let lock = fs::File::create(root.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !root.exists() {
        run_script("onnx_cases.py", &[root.as_os_str()]);
    }
    let list = fs::read_to_string(root.join("cases.txt")).unwrap();
    let cases = list.lines().map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        Case {
            suite: fields[0].to_owned(),
            name: fields[1].to_owned(),
            rtol: fields[2].parse().unwrap(),
            atol: fields[3].parse().unwrap(),
            sets: fields[4].parse().unwrap(),
            folder: root.join(fields[0]).join(fields[1]),
        }
    });
    (root.clone(), cases.collect())
}

/// The value at `path`, which is without its suffix; `None` where there is none.
pub(crate) fn value(path: &Path) -> Option<Value> {
    let with = |suffix: &str| path.with_file_name(format!("{}{suffix}", path.file_name().unwrap().display()));
    if with(".none").exists() {
        return Some(Value::Nothing);
    }
    let items = with(".seq");
    if items.exists() {
        return Some(Value::Sequence((0..).map_while(|i| value(&items.join(i.to_string()))).collect()));
    }
    let bytes = fs::read(with(".pb")).ok()?;
    let proto = TensorProto::parse_from_bytes(&bytes).unwrap();
    let payload = silicast::onnx::tensor::payload(&proto, None).unwrap();
    Some(Value::Tensor(Tensor::from_payload(&payload).unwrap()))
}
