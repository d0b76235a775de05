//! The life of an artifact: locked, written out of order, listed in its manifest, renamed, and verified.

#![expect(clippy::disallowed_methods, reason = "the tests damage and read files directly")]
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use silicast::artifact::digest::Digester;
use silicast::artifact::index::write_index;
use silicast::artifact::manifest::{
    FileEntry, Head, MANIFEST_PATH, SIGNATURE_PATH, TensorEntry, Tool, write_manifest,
};
use silicast::artifact::tree_digest::TreeDigest;
use silicast::artifact::verify::{Signature, VerifyReport, verify};
use silicast::dtype::Dtype;
use silicast::exec::journal::{self, Header, Journal, Opened, SCHEMA};
use silicast::io::lock::RunLock;
use silicast::io::output::OutputDir;
use silicast::plan::layout::{Entry, header_bytes, layout};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

fn payload(len: u64, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) >> 2) as u8 ^ seed).collect()
}

/// Writes an artifact as a conversion does; returns its path.
fn make(root: &Path, sha256: bool) -> PathBuf {
    let out = root.join("out");
    let dir = OutputDir::create_or_open(&root.join("out.partial")).unwrap().0;
    let lock = RunLock::exclusive(&dir).unwrap();
    let header =
        Header { schema: SCHEMA, tool: "1".into(), plan: "ab".repeat(32), slice: None, sources: vec![] };
    let Opened::Ready(journal, _) = Journal::open_or_create(&dir, &header).unwrap() else { panic!() };

    let entry = |name, dtype, shape: &'static [u64], bytes| Entry { name, dtype, shape, bytes };
    let mut entries = [
        entry("a.weight", Dtype::I8, &[300, 1000], 300_000),
        entry("a.weight_scale", Dtype::F32, &[300, 1], 1200),
        entry("norm.weight", Dtype::BF16, &[501], 1002),
    ];
    let plan = layout(&mut entries).unwrap();
    let shard = dir.create_file("model.safetensors").unwrap();
    shard.reserve(plan.file_bytes).unwrap();
    let digest = TreeDigest::new(plan.file_bytes);
    let write = |bytes: &[u8], offset| {
        shard.write_all_at(bytes, offset).unwrap();
        digest.add(offset, bytes).unwrap();
    };
    write(&header_bytes(&entries).unwrap(), 0);
    for (i, (entry, &offset)) in entries.iter().zip(&plan.offsets).enumerate().rev() {
        let bytes = payload(entry.bytes, i as u8);
        let mut pieces: Vec<_> = (offset..).step_by(70_001).zip(bytes.chunks(70_001)).collect();
        pieces.reverse();
        pieces.into_iter().for_each(|(start, piece)| write(piece, start));
    }
    shard.sync().unwrap();
    let blake3 = digest.finish(|offset, out| shard.read_exact_at(out, offset)).unwrap();
    let mut whole = vec![0; usize::try_from(plan.file_bytes).unwrap()];
    shard.read_exact_at(&mut whole, 0).unwrap();
    let digest_of = |bytes: &[u8]| {
        let mut digester = Digester::new(sha256);
        digester.update(bytes);
        digester.finish()
    };
    let shard_digest = digest_of(&whole);
    assert_eq!(shard_digest.blake3, blake3);

    let small = |name: &str, bytes: &[u8]| {
        dir.write_whole(name, bytes).unwrap();
        FileEntry { path: name.to_owned(), digest: digest_of(bytes) }
    };
    let mut index = Vec::new();
    let mut names = entries.each_ref().map(|e| e.name);
    names.sort_unstable();
    write_index(&mut index, 302_202, names.map(|name| (name, "model.safetensors"))).unwrap();
    let mut files = vec![
        small("config.json", b"{}\n"),
        small("silicast/plan.txt", b"plan\n"),
        small("empty.txt", b""),
        FileEntry { path: "model.safetensors".into(), digest: shard_digest },
        small("model.safetensors.index.json", &index),
    ];
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let head = Head {
        tool: Tool::this(),
        target: "vllm".into(),
        engine: "vllm".into(),
        scheme: "W8A8".into(),
        recipe: serde_json::Map::new(),
        plan_digest: "ab".repeat(32),
    };
    let tensor = TensorEntry {
        name: "a.weight".into(),
        fate: "quantized".into(),
        scheme: Some("W8A8".into()),
        exactness: Some("lossy".into()),
        sources: vec!["a.weight".into()],
        reason: None,
    };
    let mut writer = dir.writer(MANIFEST_PATH).unwrap();
    write_manifest(&mut writer, &head, [], files, [tensor], &[]).unwrap();
    writer.finish().unwrap();
    drop(journal);
    journal::remove_all(&dir).unwrap();
    lock.remove_files(&dir).unwrap();
    dir.rename_into_place(&out).unwrap();
    assert!(!root.join("out.partial").exists());
    out
}

fn failed(report: &VerifyReport) -> Vec<(&str, &str)> {
    report.failed.iter().map(|f| (f.path.as_str(), f.reason.as_str())).collect()
}

#[test]
fn a_finished_artifact_verifies_loads_and_is_world_readable() {
    let root = tempfile::tempdir().unwrap();
    let out = make(root.path(), true);
    for jobs in [0, 1, 3, 100] {
        let report = verify(&out, jobs).unwrap();
        assert_eq!(report, VerifyReport { files: 5, failed: vec![], signature: Signature::Absent });
    }
    let json = serde_json::to_string(&verify(&out, 1).unwrap()).unwrap();
    assert_eq!(json, r#"{"files":5,"failed":[],"signature":"absent"}"#);
    let file = std::fs::read(out.join("model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(read.tensor("a.weight").unwrap().data(), payload(300_000, 2));
    assert_eq!(read.tensor("a.weight_scale").unwrap().data(), payload(1200, 0));
    let mut names: Vec<_> =
        std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected =
        ["config.json", "empty.txt", "model.safetensors", "model.safetensors.index.json", "silicast"];
    assert_eq!(names, expected);
    for name in ["config.json", "model.safetensors", MANIFEST_PATH] {
        assert_eq!(std::fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o7777, 0o644);
    }
    assert_eq!(std::fs::metadata(out.join("silicast")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn two_makings_give_equal_bytes() {
    let roots = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = roots.each_ref().map(|root| make(root.path(), false));
    for name in ["model.safetensors", "model.safetensors.index.json", MANIFEST_PATH] {
        assert_eq!(std::fs::read(a.join(name)).unwrap(), std::fs::read(b.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn every_kind_of_damage_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let out = make(root.path(), false);
    let shard = out.join("model.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    for at in [0, 8, 100_000, bytes.len() - 1] {
        bytes[at] ^= 0x10;
        std::fs::write(&shard, &bytes).unwrap();
        let report = verify(&out, 2).unwrap();
        assert_eq!(failed(&report).len(), 1, "{at}");
        assert!(failed(&report)[0].1.starts_with("changed: blake3 "), "{at}");
        bytes[at] ^= 0x10;
    }
    std::fs::write(&shard, &bytes[1..]).unwrap();
    std::fs::remove_file(out.join("config.json")).unwrap();
    std::fs::remove_file(out.join("empty.txt")).unwrap();
    std::fs::write(root.path().join("elsewhere"), b"").unwrap();
    symlink(root.path().join("elsewhere"), out.join("empty.txt")).unwrap();
    std::fs::write(out.join("silicast/extra"), b"").unwrap();
    std::fs::create_dir_all(out.join("foreign/deep")).unwrap();
    symlink("/", out.join("link")).unwrap();
    std::fs::write(out.join("lock"), b"").unwrap();
    let report = verify(&out, 2).unwrap();
    assert_eq!(report.files, 5);
    let shorter = format!("changed: {} bytes instead of {}", bytes.len() - 1, bytes.len());
    let expected = [
        ("config.json", "missing"),
        ("empty.txt", "not a regular file: a symbolic link"),
        ("foreign", "foreign folder: not in the manifest"),
        ("link", "foreign: not in the manifest"),
        ("lock", "foreign: not in the manifest"),
        ("model.safetensors", &shorter),
        ("silicast/extra", "foreign: not in the manifest"),
    ];
    assert_eq!(failed(&report), expected);
}

#[test]
fn a_wrong_sha256_is_reported() {
    let root = tempfile::tempdir().unwrap();
    let out = make(root.path(), true);
    let path = out.join(MANIFEST_PATH);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut digester = Digester::new(true);
    digester.update(b"plan\n");
    let sha256 = digester.finish().sha256.unwrap();
    std::fs::write(&path, text.replace(&sha256, &"0".repeat(64))).unwrap();
    let report = verify(&out, 1).unwrap();
    assert_eq!(failed(&report)[0].0, "silicast/plan.txt");
    assert!(failed(&report)[0].1.starts_with("changed: sha256 "));
}

#[test]
fn a_folder_without_a_usable_manifest_is_invalid_input() {
    let root = tempfile::tempdir().unwrap();
    let code = |dir: &Path| {
        let error = verify(dir, 1).unwrap_err();
        (error.code(), error.class().exit_code())
    };
    assert_eq!(code(root.path()), ("manifest-missing", 4));
    assert_eq!(code(&root.path().join("none")), ("not-found", 5));
    std::fs::create_dir(root.path().join("silicast")).unwrap();
    let path = root.path().join(MANIFEST_PATH);
    symlink("/dev/zero", &path).unwrap();
    assert_eq!(code(root.path()), ("manifest-missing", 4));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"{").unwrap();
    assert_eq!(code(root.path()), ("manifest", 4));
}

#[test]
fn a_signature_is_not_foreign_and_not_silently_absent() {
    let root = tempfile::tempdir().unwrap();
    let out = make(root.path(), false);
    std::fs::write(out.join(SIGNATURE_PATH), b"{}").unwrap();
    let report = verify(&out, 1).unwrap();
    assert_eq!((report.failed.len(), report.signature), (0, Signature::Invalid));
}
