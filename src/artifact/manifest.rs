//! `silicast/manifest.json`: what an artifact is made of and made from.
//!
//! It lists every file of the artifact but itself and the signature, every source file, and the fate of every tensor.
//! It is written in one pass over sorted lists and read back strictly, because `verify` may meet a forged one.

use super::digest::{FileDigest, is_hex_256};
use crate::error::{Error, Result};
use crate::io::confined::check_relative;
use crate::plan::Fate;
use serde::de::{Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::fmt;
use std::io::{Read, Write};
use std::marker::PhantomData;

/// The version of the keys below; raised when one is renamed or removed.
pub const SCHEMA_VERSION: u32 = 1;

/// Where the manifest stands in an artifact.
pub const MANIFEST_PATH: &str = "silicast/manifest.json";

/// Where a signature stands in an artifact.
pub const SIGNATURE_PATH: &str = "silicast/signature.sigstore.json";

/// The program that made an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Tool {
    /// This program.
    pub fn this() -> Self {
        Self { name: env!("CARGO_PKG_NAME").to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// The part of a manifest before its lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// What made the artifact.
    pub tool: Tool,
    /// Target id.
    pub target: String,
    /// Engine name.
    pub engine: String,
    /// Scheme name.
    pub scheme: String,
    /// The resolved recipe, all defaults explicit.
    pub recipe: Map<String, Value>,
    /// BLAKE3 of the canonical plan text in hexadecimal.
    pub plan_digest: String,
}

/// A file of the source or of the artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path relative to the folder, with `/`.
    pub path: String,
    /// Length and digests.
    #[serde(flatten)]
    pub digest: FileDigest,
}

/// The fate of one tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Output name, or the source name of a dropped tensor.
    pub name: String,
    /// `quantized`, `reencoded`, `kept` or `dropped`.
    pub fate: String,
    /// Scheme of the output; null where there is none.
    pub scheme: Option<String>,
    /// `bitwise`, `rounding` or `lossy`; null for a dropped tensor.
    pub exactness: Option<String>,
    /// Names of the source tensors.
    pub sources: Vec<String>,
    /// Why, in words; null when there is nothing to say.
    pub reason: Option<String>,
}

/// A whole manifest, as read.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Everything before the lists.
    pub head: Head,
    /// Source files, sorted by path.
    pub sources: Vec<FileEntry>,
    /// Files of the artifact, sorted by path.
    pub outputs: Vec<FileEntry>,
    /// Tensors, sorted by name; empty when they were not asked for.
    pub tensors: Vec<TensorEntry>,
    /// Changes of `config.json` against the source.
    pub config_patch: Vec<Value>,
}

/// Writes a manifest (JSON, two-space indent, final newline) without holding its lists: each is consumed once, in ascending
/// order of path or name.
///
/// # Errors
/// Class Internal: a list out of order, or with an entry twice. Class Io: `out` fails; the caller names the file.
pub fn write_manifest(
    out: &mut impl Write,
    head: &Head,
    sources: impl IntoIterator<Item = FileEntry>,
    outputs: impl IntoIterator<Item = FileEntry>,
    tensors: impl IntoIterator<Item = TensorEntry>,
    config_patch: &[Value],
) -> Result<()> {
    #[derive(Serialize)]
    struct Files<T: Serialize> {
        files: T,
    }
    #[derive(Serialize)]
    struct Document<'a, S: Serialize, O: Serialize, T: Serialize> {
        schema_version: u32,
        tool: &'a Tool,
        target: &'a str,
        engine: &'a str,
        scheme: &'a str,
        recipe: &'a Map<String, Value>,
        plan_digest: String,
        source: Files<S>,
        output: Files<O>,
        tensors: T,
        config_patch: &'a [Value],
    }
    let document = Document {
        schema_version: SCHEMA_VERSION,
        tool: &head.tool,
        target: &head.target,
        engine: &head.engine,
        scheme: &head.scheme,
        recipe: &head.recipe,
        plan_digest: format!("blake3:{}", head.plan_digest),
        source: Files { files: Stream::new(sources) },
        output: Files { files: Stream::new(outputs) },
        tensors: Stream::new(tensors),
        config_patch,
    };
    let failed = |e: serde_json::Error| {
        if e.is_io() {
            Error::io("cannot write the manifest", std::path::Path::new(MANIFEST_PATH), e.into())
        } else {
            Error::internal("manifest-order", "a manifest cannot be written").found(e)
        }
    };
    serde_json::to_writer_pretty(&mut *out, &document).map_err(failed)?;
    out.write_all(b"\n")
        .map_err(|e| Error::io("cannot write the manifest", std::path::Path::new(MANIFEST_PATH), e))
}

/// What orders the entries of a list.
trait Keyed {
    fn key(&self) -> &str;

    /// Whether an entry may stand beside another one of the same key: a source tensor that is left out and an output
    /// that has its name.
    fn may_repeat(&self) -> bool {
        false
    }

    /// Whether `next` may follow.
    fn precedes(&self, next: &Self) -> bool {
        self.key() < next.key() || self.key() == next.key() && (self.may_repeat() != next.may_repeat())
    }
}

impl Keyed for FileEntry {
    fn key(&self) -> &str {
        &self.path
    }
}

impl Keyed for TensorEntry {
    fn key(&self) -> &str {
        &self.name
    }

    fn may_repeat(&self) -> bool {
        self.fate == Fate::Dropped.name()
    }
}

/// A list that is consumed while it is written.
struct Stream<I>(RefCell<Option<I>>);

impl<I> Stream<I> {
    fn new(list: impl IntoIterator<IntoIter = I>) -> Self {
        Self(RefCell::new(Some(list.into_iter())))
    }
}

impl<T: Serialize + Keyed, I: Iterator<Item = T>> Serialize for Stream<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Some(list) = self.0.borrow_mut().take() else {
            return Err(S::Error::custom("a list is used twice"));
        };
        let mut seq = serializer.serialize_seq(None)?;
        let mut last: Option<T> = None;
        for entry in list {
            if last.as_ref().is_some_and(|last| !last.precedes(&entry)) {
                return Err(S::Error::custom(format_args!("out of order at {:?}", entry.key())));
            }
            seq.serialize_element(&entry)?;
            last = Some(entry);
        }
        seq.end()
    }
}

/// Reads a manifest, with its tensors if `tensors`. Unknown keys are skipped (a later version may add some); everything
/// known must be there, once, well-formed, in order, and paths must stay inside the folder.
///
/// # Errors
/// Class Input, code `manifest`: anything else.
pub fn read_manifest(input: impl Read, tensors: bool) -> Result<Manifest> {
    #[derive(Deserialize)]
    struct Files {
        #[serde(deserialize_with = "sorted")]
        files: Vec<FileEntry>,
    }
    #[derive(Deserialize)]
    struct Document<T> {
        schema_version: u32,
        tool: Tool,
        target: String,
        engine: String,
        scheme: String,
        recipe: Map<String, Value>,
        plan_digest: String,
        source: Files,
        output: Files,
        tensors: T,
        config_patch: Vec<Value>,
    }
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Tensors(#[serde(deserialize_with = "sorted")] Vec<TensorEntry>);

    struct Nothing;
    impl<'de> Deserialize<'de> for Nothing {
        fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
            IgnoredAny::deserialize(d).map(|_| Nothing)
        }
    }
    impl From<Nothing> for Vec<TensorEntry> {
        fn from(_: Nothing) -> Self {
            Vec::new()
        }
    }
    impl From<Tensors> for Vec<TensorEntry> {
        fn from(tensors: Tensors) -> Self {
            tensors.0
        }
    }
    fn parse<T: for<'de> Deserialize<'de> + Into<Vec<TensorEntry>>>(input: impl Read) -> Result<Manifest> {
        let d: Document<T> = serde_json::from_reader(std::io::BufReader::with_capacity(256 << 10, input))
            .map_err(|e| broken("JSON with the keys of schema_version 1", &e))?;
        if d.schema_version != SCHEMA_VERSION {
            return Err(broken(&format!("schema_version {SCHEMA_VERSION}"), &d.schema_version)
                .fix("use the version of silicast that made this artifact, or a newer one"));
        }
        let Some(plan_digest) = d.plan_digest.strip_prefix("blake3:").filter(|hex| is_hex_256(hex)) else {
            return Err(broken("plan_digest: blake3: and 64 hexadecimal digits", &d.plan_digest));
        };
        let plan_digest = plan_digest.to_owned();
        let head = Head {
            tool: d.tool,
            target: d.target,
            engine: d.engine,
            scheme: d.scheme,
            recipe: d.recipe,
            plan_digest,
        };
        let manifest = Manifest {
            head,
            sources: d.source.files,
            outputs: d.output.files,
            tensors: d.tensors.into(),
            config_patch: d.config_patch,
        };
        check_files(&manifest)?;
        Ok(manifest)
    }
    if tensors { parse::<Tensors>(input) } else { parse::<Nothing>(input) }
}

fn broken(expected: &str, found: &dyn fmt::Display) -> Error {
    Error::input("manifest", "the manifest of the artifact is broken")
        .file(MANIFEST_PATH)
        .expected(expected)
        .found(found)
        .fix("get or make the artifact again")
}

fn check_files(manifest: &Manifest) -> Result<()> {
    for file in manifest.sources.iter().chain(&manifest.outputs) {
        check_relative(&file.path).map_err(|_| {
            broken("relative paths of a few plain components", &format_args!("{:?}", file.path))
        })?;
        let digests_fit =
            is_hex_256(&file.digest.blake3) && file.digest.sha256.as_deref().is_none_or(is_hex_256);
        if !digests_fit {
            return Err(broken("digests of 64 hexadecimal digits", &format_args!("{:?}", file.path)));
        }
    }
    match manifest.outputs.iter().find(|f| f.path == MANIFEST_PATH || f.path == SIGNATURE_PATH) {
        Some(file) => Err(broken("every file but the manifest and the signature", &file.path)),
        None => Ok(()),
    }
}

/// Deserializes a list in strictly ascending order: nothing is listed twice.
fn sorted<'de, D: Deserializer<'de>, T: Deserialize<'de> + Keyed>(
    d: D,
) -> std::result::Result<Vec<T>, D::Error> {
    struct Sorted<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de> + Keyed> Visitor<'de> for Sorted<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sorted list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<T>, A::Error> {
            let mut list: Vec<T> = Vec::new();
            while let Some(entry) = seq.next_element::<T>()? {
                if list.last().is_some_and(|last| !last.precedes(&entry)) {
                    return Err(A::Error::custom(format_args!(
                        "a list is out of order at {:?}",
                        entry.key()
                    )));
                }
                list.push(entry);
            }
            Ok(list)
        }
    }
    d.deserialize_seq(Sorted(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, sha256: bool) -> FileEntry {
        let digest =
            FileDigest { bytes: 5, blake3: "ab".repeat(32), sha256: sha256.then(|| "01".repeat(32)) };
        FileEntry { path: path.to_owned(), digest }
    }

    fn sample() -> Manifest {
        let tensor = |name: &str, reason: Option<&str>| TensorEntry {
            name: name.to_owned(),
            fate: "quantized".to_owned(),
            scheme: Some("W8A8".to_owned()),
            exactness: None,
            sources: vec!["s".to_owned(), "t".to_owned()],
            reason: reason.map(str::to_owned),
        };
        let Value::Object(recipe) = serde_json::json!({"scheme": "W8A8", "ignore": []}) else { panic!() };
        Manifest {
            head: Head {
                tool: Tool::this(),
                target: "ascend-910b".to_owned(),
                engine: "vllm-ascend".to_owned(),
                scheme: "W8A8_DYNAMIC".to_owned(),
                recipe,
                plan_digest: "0f".repeat(32),
            },
            sources: vec![file("config.json", false), file("m.safetensors", true)],
            outputs: vec![file("config.json", false), file("silicast/plan.txt", false)],
            tensors: vec![tensor("a.weight", None), tensor("b.weight", Some("because"))],
            config_patch: vec![serde_json::json!({"op": "remove", "path": "/x"})],
        }
    }

    fn text(m: &Manifest) -> Result<String> {
        let mut out = Vec::new();
        let (sources, outputs, tensors) = (m.sources.clone(), m.outputs.clone(), m.tensors.clone());
        write_manifest(&mut out, &m.head, sources, outputs, tensors, &m.config_patch)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn round_trip_and_fixed_key_order() {
        let manifest = sample();
        let text = text(&manifest).unwrap();
        assert_eq!(read_manifest(text.as_bytes(), true).unwrap(), manifest);
        let without = read_manifest(text.as_bytes(), false).unwrap();
        assert_eq!(without, Manifest { tensors: vec![], ..manifest });
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string_pretty(&value).unwrap() + "\n", text);
        let keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            "schema_version tool target engine scheme recipe plan_digest source output tensors config_patch";
        assert_eq!(keys.join(" "), expected);
        assert_eq!(value["source"]["files"][1]["sha256"], "01".repeat(32));
        assert!(value["source"]["files"][0].get("sha256").is_none());
        assert_eq!(value["tensors"][0]["exactness"], Value::Null);
    }

    #[test]
    fn disorder_is_refused_when_writing() {
        let mut unsorted = sample();
        unsorted.outputs.reverse();
        assert_eq!(text(&unsorted).unwrap_err().code(), "manifest-order");
        let mut twice = sample();
        twice.tensors[1].name = twice.tensors[0].name.clone();
        assert_eq!(text(&twice).unwrap_err().code(), "manifest-order");
    }

    #[test]
    fn broken_manifests_are_refused_when_reading() {
        let good = text(&sample()).unwrap();
        let cases = [
            (r#""schema_version": 1"#, r#""schema_version": 2"#),
            (r#""schema_version": 1"#, r#""schema_version": 1, "schema_version": 1"#),
            (r#""schema_version": 1,"#, ""),
            (r#""target""#, r#""targe""#),
            ("blake3:0f", "blake3:0F"),
            ("blake3:0f", "sha256:0f"),
            (r#""silicast/plan.txt""#, r#""../plan.txt""#),
            (r#""silicast/plan.txt""#, r#""silicast/../../plan.txt""#),
            (r#""silicast/plan.txt""#, r#""z\u0000""#),
            (r#""config.json""#, r#""/etc/passwd""#),
            (r#""silicast/plan.txt""#, r#""silicast/manifest.json""#),
            (r#""silicast/plan.txt""#, r#""config.json""#),
            (r#""bytes": 5"#, r#""bytes": -5"#),
            (r#""bytes": 5"#, r#""bytes": 5.5"#),
            (r#""bytes": 5"#, r#""bytes": 5, "bytes": 6"#),
            ("abab", "abaG"),
            ("abab", "ab"),
            (r#""config_patch": ["#, r#""config_patch": [[[["#),
        ];
        for (from, to) in cases {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            let error = read_manifest(bad.as_bytes(), false).unwrap_err();
            assert_eq!((error.code(), error.class().exit_code()), ("manifest", 4), "{from} -> {to}");
        }
        for bad in [good.clone() + "x", String::new(), "[]".to_owned(), "[".repeat(100_000)] {
            assert_eq!(read_manifest(bad.as_bytes(), true).unwrap_err().code(), "manifest");
        }
        for end in 0..good.len() - 2 {
            assert!(read_manifest(&good.as_bytes()[..end], true).is_err(), "{end}");
        }
        let disordered = good.replacen(r#""a.weight""#, r#""c.weight""#, 1);
        assert!(read_manifest(disordered.as_bytes(), true).is_err());
        let extra = good.replacen(r#""target""#, r#""later": {"x": [1]}, "target""#, 1);
        assert!(read_manifest(extra.as_bytes(), true).is_ok());
    }
}
