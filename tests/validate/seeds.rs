//! Puts defects into artifacts: bytes of tensors are changed, and the digests of the manifest made to fit, so that only a
//! look at the values can tell.

use crate::support::binary::{convert_args, silicast};
use crate::support::{inputs, tree};
use serde_json::Value;
use silicast::report::model::{Check, Level, Report, Verdict};
use silicast::validate::{Gates, Request, run};
use std::fs;
use std::path::{Path, PathBuf};

/// A validation by two threads, of everything, without further gates.
pub(crate) fn request<'a>(artifact: &'a Path, against: Option<&'a Path>) -> Request<'a> {
    Request {
        artifact,
        against,
        level: None,
        sample: 1.0,
        memory: 64 << 20,
        jobs: 2,
        gates: Gates::default(),
    }
}

/// A check as one line.
pub(crate) fn summary(check: &Check) -> String {
    format!("{:?} {} {}: {}", check.verdict, check.id, check.tensor.as_deref().unwrap_or("-"), check.message)
}

/// An artifact and its source.
pub(crate) struct Lab {
    _root: tempfile::TempDir,
    pub(crate) source: PathBuf,
    pub(crate) artifact: PathBuf,
}

impl Lab {
    /// The fixture converted; `prepare` may change the source before.
    pub(crate) fn new(fixture: &str, target: &str, scheme: &str, prepare: impl FnOnce(&Path)) -> Lab {
        let root = tempfile::tempdir().unwrap();
        let source = inputs::fixture(root.path(), fixture);
        prepare(&source);
        let artifact = root.path().join("artifact");
        silicast(convert_args(&source, &artifact, target, scheme)).expect(0);
        Lab { _root: root, source, artifact }
    }

    /// Damages a copy of the artifact, lets the manifest agree, and validates.
    pub(crate) fn try_defect(&self, damage: impl FnOnce(&Path)) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        copy_folder(&self.artifact, &copy);
        damage(&copy);
        reseal(&copy);
        run(&request(&copy, Some(&self.source))).unwrap()
    }

    /// As [`Lab::try_defect`], of an artifact without manifest.
    pub(crate) fn try_foreign(&self, damage: impl FnOnce(&Path)) -> Report {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        copy_folder(&self.artifact, &copy);
        fs::remove_dir_all(copy.join("silicast")).unwrap();
        damage(&copy);
        run(&request(&copy, Some(&self.source))).unwrap()
    }

    /// The bytes of a tensor of the artifact.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        tensor(&self.artifact, name)
    }
}

/// The report must fail with a check `id` for `tensor` whose message holds every one of `texts`.
#[track_caller]
pub(crate) fn assert_found(report: &Report, id: &str, tensor: &str, texts: &[&str]) {
    let failed: Vec<&Check> = report.checks.iter().filter(|c| c.verdict == Verdict::Fail).collect();
    let all = || failed.iter().map(|c| summary(c)).collect::<Vec<_>>().join("\n");
    assert_eq!(report.verdict, Verdict::Fail, "nothing failed");
    let fits = |c: &&&Check| {
        c.id == id && c.tensor.as_deref() == Some(tensor) && texts.iter().all(|t| c.message.contains(t))
    };
    assert!(failed.iter().any(|c| fits(&c)), "no {id} of {tensor} with {texts:?} in\n{}", all());
}

/// Every failure must name one of `tensors`: nothing else is blamed.
#[track_caller]
pub(crate) fn assert_only(report: &Report, tensors: &[&str]) {
    for check in report.checks.iter().filter(|c| c.verdict == Verdict::Fail && c.level == Level::Tensor) {
        let name = check.tensor.as_deref().unwrap_or("-");
        assert!(tensors.contains(&name), "{}", summary(check));
    }
}

/// The bytes of a tensor of a folder.
pub(crate) fn tensor(dir: &Path, name: &str) -> Vec<u8> {
    let (file, offset, info) = inputs::locate(dir, name);
    let bytes = fs::read(file).unwrap();
    bytes[offset as usize..(offset + info.bytes()) as usize].to_vec()
}

/// Replaces all bytes of a tensor.
pub(crate) fn put(dir: &Path, name: &str, bytes: &[u8]) {
    let (.., info) = inputs::locate(dir, name);
    assert_eq!(info.bytes(), bytes.len() as u64, "{name}");
    inputs::poke(dir, name, 0, bytes);
}

/// Changes the bytes of a tensor.
pub(crate) fn edit(dir: &Path, name: &str, change: impl FnOnce(&mut [u8])) {
    let mut bytes = tensor(dir, name);
    let before = bytes.clone();
    change(&mut bytes);
    assert_ne!(bytes, before, "the defect changes nothing in {name}");
    put(dir, name, &bytes);
}

/// F32 values.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Changes the values of an F32 tensor.
pub(crate) fn edit_f32(dir: &Path, name: &str, change: impl FnOnce(&mut [f32])) {
    edit(dir, name, |bytes| {
        let mut values = floats(bytes);
        change(&mut values);
        let new: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.copy_from_slice(&new);
    });
}

/// Exchanges the bytes of two tensors.
pub(crate) fn exchange(dir: &Path, a: &str, b: &str) {
    let (x, y) = (tensor(dir, a), tensor(dir, b));
    assert_ne!(x, y);
    put(dir, a, &y);
    put(dir, b, &x);
}

/// Copies every file.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    for (name, bytes) in tree::files(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// The manifest of a folder.
pub(crate) fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("silicast/manifest.json")).unwrap()).unwrap()
}

/// Replaces the manifest of a folder.
pub(crate) fn put_manifest(dir: &Path, manifest: &Value) {
    fs::write(dir.join("silicast/manifest.json"), format!("{manifest:#}\n")).unwrap();
}

/// Lets the manifest state lengths and digests of the files as they are, where they are still there.
pub(crate) fn reseal(dir: &Path) {
    if !dir.join("silicast/manifest.json").exists() {
        return;
    }
    let mut manifest = manifest(dir);
    for file in manifest["output"]["files"].as_array_mut().unwrap() {
        let path = dir.join(file["path"].as_str().unwrap());
        if let Ok(bytes) = fs::read(path) {
            file["bytes"] = bytes.len().into();
            file["blake3"] = blake3::hash(&bytes).to_hex().to_string().into();
        }
    }
    put_manifest(dir, &manifest);
}
