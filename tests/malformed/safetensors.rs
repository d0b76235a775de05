//! Hand-made safetensors files, each with the code that it must be refused with.

use super::{code, folder_of, st};
use safetensors::SafeTensors;
use silicast::checkpoint::Checkpoint;

/// An entry `"name":{…}` of an `F32` tensor.
fn f32_entry(name: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn one(shape: &str, start: u64, end: u64, data: usize) -> Vec<u8> {
    st(&format!("{{{}}}", f32_entry("a", shape, start, end)), &vec![0; data])
}

fn two(a: (u64, u64), b: (u64, u64), data: usize) -> Vec<u8> {
    let shape = |r: (u64, u64)| format!("[{}]", r.1.saturating_sub(r.0) / 4);
    let entries = [f32_entry("a", &shape(a), a.0, a.1), f32_entry("b", &shape(b), b.0, b.1)];
    st(&format!("{{{}}}", entries.join(",")), &vec![0; data])
}

fn dtype(name: &str, shape: &str, bytes: u64) -> Vec<u8> {
    let header = format!(r#"{{"a":{{"dtype":{name},"shape":{shape},"data_offsets":[0,{bytes}]}}}}"#);
    st(&header, &vec![0; bytes as usize])
}

fn meta(metadata: &str) -> Vec<u8> {
    st(&format!(r#"{{"__metadata__":{metadata}}}"#), &[])
}

fn entry(value: &str) -> Vec<u8> {
    st(&format!(r#"{{"a":{value}}}"#), &[0; 4])
}

fn raw(length: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = length.to_le_bytes().to_vec();
    out.extend_from_slice(rest);
    out
}

fn named(name: &str) -> Vec<u8> {
    st(&format!("{{{}}}", f32_entry(name, "[1]", 0, 4)), &[0; 4])
}

/// File, expected code, and whether the official reader refuses it too.
fn cases() -> Vec<(&'static str, Vec<u8>, &'static str, bool)> {
    let long = "n".repeat(513);
    let deep = "[".repeat(100_000);
    let rank17 = format!("[{}]", vec!["1"; 17].join(","));
    let big_meta = format!(r#"{{"k":"{}"}}"#, "x".repeat(1_000_001));
    let hole_before_end =
        st(&format!("{{{},{}}}", f32_entry("b", "[1]", 8, 12), f32_entry("a", "[1]", 0, 4)), &[0; 12]);
    vec![
        // The frame.
        ("empty file", vec![], "st-too-short", true),
        ("one byte", vec![1], "st-too-short", true),
        ("seven bytes", vec![0; 7], "st-too-short", true),
        ("header length zero", raw(0, b"{}"), "st-header-empty", true),
        ("header length zero, nothing else", raw(0, b""), "st-header-empty", true),
        ("header length u64::MAX", raw(u64::MAX, b"{}"), "st-header-too-big", true),
        ("header length over the limit", raw(100_000_001, b"{}"), "st-header-too-big", true),
        ("header length 2^63", raw(1 << 63, b"{}"), "st-header-too-big", true),
        ("header past the end", raw(3, b"{}"), "st-header-past-end", true),
        ("header at the limit, past the end", raw(100_000_000, b"{}"), "st-header-past-end", true),
        ("header not UTF-8", raw(4, b"{\xff}\x80"), "st-utf8", true),
        ("UTF-8 cut in a sequence", raw(3, b"{\xc3\xa9"), "st-json", true),
        ("zip magic", b"PK\x03\x04\x14\0\0\0{}".to_vec(), "st-header-too-big", true),
        ("gguf magic", b"GGUF\x03\0\0\0{}      ".to_vec(), "st-header-too-big", true),
        // JSON.
        ("not JSON", st("hello", &[]), "st-json", true),
        ("array", st("[]", &[]), "st-not-object", true),
        ("string", st("\"a\"", &[]), "st-not-object", true),
        ("number", st("12", &[]), "st-not-object", true),
        ("null", st("null", &[]), "st-not-object", true),
        ("only spaces", st("    ", &[]), "st-json", true),
        ("open object", st("{", &[]), "st-json", true),
        ("trailing comma", st(r#"{"__metadata__":{},}"#, &[]), "st-json", true),
        ("trailing garbage", st("{}x", &[]), "st-json", true),
        ("two objects", st("{}{}", &[]), "st-json", true),
        ("NUL padding", st("{}\0\0", &[]), "st-json", true),
        ("byte order mark", st("\u{feff}{}", &[]), "st-json", true),
        ("single quotes", st("{'a':1}", &[]), "st-json", true),
        ("comment", st("{/* */}", &[]), "st-json", true),
        ("json attack: nesting", st(&deep, &[]), "st-not-object", true),
        ("nesting in a field", entry(&format!(r#"{{"x":{deep}"#)), "st-json", true),
        ("raw control character", st("{\"a\n\":1}", &[]), "st-json", true),
        ("lone surrogate in a name", named(r"\ud800"), "st-json", true),
        // Entries.
        ("entry is a number", entry("1"), "st-entry", true),
        ("entry is null", entry("null"), "st-entry", true),
        ("entry is a list", entry(r#"["F32",[1],[0,4]]"#), "st-entry", false),
        ("no dtype", entry(r#"{"shape":[1],"data_offsets":[0,4]}"#), "st-field-missing", true),
        ("no shape", entry(r#"{"dtype":"F32","data_offsets":[0,4]}"#), "st-field-missing", true),
        ("no offsets", entry(r#"{"dtype":"F32","shape":[1]}"#), "st-field-missing", true),
        ("empty entry", entry("{}"), "st-field-missing", true),
        (
            "field twice",
            entry(r#"{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}"#),
            "st-duplicate-key",
            true,
        ),
        (
            "unknown field twice",
            entry(r#"{"x":1,"x":1,"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#),
            "st-duplicate-key",
            false,
        ),
        (
            "lone surrogate in an unknown field",
            entry(r#"{"x":"\udc00","dtype":"F32","shape":[1],"data_offsets":[0,4]}"#),
            "st-json",
            true,
        ),
        // Dtypes.
        ("unknown dtype", dtype(r#""F4_E2M1""#, "[2]", 1), "st-dtype-unknown", true),
        ("lower-case dtype", dtype(r#""f32""#, "[1]", 4), "st-dtype-unknown", true),
        ("empty dtype", dtype(r#""""#, "[1]", 4), "st-dtype-unknown", true),
        ("I4 is no safetensors dtype", dtype(r#""I4""#, "[2]", 1), "st-dtype-unknown", true),
        ("dtype is a number", dtype("3", "[1]", 4), "st-dtype", true),
        ("dtype is null", dtype("null", "[1]", 4), "st-dtype", true),
        // Shapes.
        ("shape is a number", one("1", 0, 4, 4), "st-shape", true),
        ("shape is null", one("null", 0, 4, 4), "st-shape", true),
        ("negative dimension", one("[-1]", 0, 4, 4), "st-shape", true),
        ("float dimension", one("[1.0]", 0, 4, 4), "st-shape", true),
        ("exponent dimension", one("[1e0]", 0, 4, 4), "st-shape", true),
        ("text dimension", one(r#"["1"]"#, 0, 4, 4), "st-shape", true),
        ("dimension over 64 bits", one("[18446744073709551616]", 0, 4, 4), "st-shape", true),
        ("rank 17", one(&rank17, 0, 4, 4), "st-rank", false),
        ("element count overflows", one("[4294967296,4294967296]", 0, 0, 0), "st-overflow", true),
        ("bit count overflows", one("[4611686018427387904]", 0, 0, 0), "st-overflow", true),
        ("overflow hidden by a zero", one("[18446744073709551615,0]", 0, 0, 0), "st-overflow", false),
        ("odd FP4 count", dtype(r#""F4""#, "[3]", 2), "st-partial-byte", true),
        ("FP6 count no multiple of 4", dtype(r#""F6_E2M3""#, "[3]", 3), "st-partial-byte", true),
        ("FP6 E3M2 count no multiple of 4", dtype(r#""F6_E3M2""#, "[2,1]", 2), "st-partial-byte", true),
        // Offsets.
        (
            "offsets: one number",
            entry(r#"{"dtype":"F32","shape":[1],"data_offsets":[0]}"#),
            "st-offsets",
            true,
        ),
        (
            "offsets: three numbers",
            entry(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}"#),
            "st-offsets",
            true,
        ),
        ("offsets: text", entry(r#"{"dtype":"F32","shape":[1],"data_offsets":"0,4"}"#), "st-offsets", true),
        (
            "offsets: negative",
            entry(r#"{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}"#),
            "st-offsets",
            true,
        ),
        (
            "offsets: float",
            entry(r#"{"dtype":"F32","shape":[1],"data_offsets":[0.0,4.0]}"#),
            "st-offsets",
            true,
        ),
        ("end before start", one("[1]", 4, 0, 4), "st-offset-order", true),
        ("range too short", one("[2]", 0, 4, 4), "st-size", true),
        ("range too long", one("[1]", 0, 8, 8), "st-size", true),
        ("FP8 with FP32's bytes", dtype(r#""F8_E4M3""#, "[1]", 4), "st-size", true),
        ("FP4 shape counted as bytes", dtype(r#""F4""#, "[4]", 4), "st-size", true),
        ("first offset not zero", one("[1]", 4, 8, 8), "st-hole", true),
        ("hole", two((0, 4), (8, 12), 12), "st-hole", true),
        ("hole, entries unsorted", hole_before_end, "st-hole", true),
        ("overlap", two((0, 8), (4, 12), 12), "st-overlap", true),
        ("aliases", two((0, 4), (0, 4), 4), "st-overlap", true),
        ("truncated data", one("[2]", 0, 8, 7), "st-truncated", true),
        ("no data", one("[2]", 0, 8, 0), "st-truncated", true),
        ("offsets near u64::MAX", one("[1]", u64::MAX - 4, u64::MAX, 4), "st-hole", true),
        ("trailing bytes", one("[1]", 0, 4, 5), "st-trailing-bytes", true),
        ("data without tensors", st("{}", &[0]), "st-trailing-bytes", true),
        // Names: the official reader accepts all of them.
        (
            "duplicate name",
            st(&format!("{{{},{}}}", f32_entry("a", "[1]", 0, 4), f32_entry("a", "[1]", 4, 8)), &[0; 8]),
            "st-duplicate-name",
            true,
        ),
        (
            "duplicate name, identical",
            st(&format!("{{{0},{0}}}", f32_entry("a", "[1]", 0, 4)), &[0; 4]),
            "st-duplicate-name",
            false,
        ),
        (
            "duplicate name, escaped",
            st(
                &format!("{{{},{}}}", f32_entry("a", "[1]", 0, 4), f32_entry(r"\u0061", "[1]", 0, 4)),
                &[0; 4],
            ),
            "st-duplicate-name",
            false,
        ),
        (
            "duplicate empty tensors",
            st(&format!("{{{0},{0}}}", f32_entry("a", "[0]", 0, 0)), &[]),
            "st-duplicate-name",
            false,
        ),
        ("empty name", named(""), "st-name", false),
        ("parent path", named("../../etc/passwd"), "st-name", false),
        ("parent path, backslashes", named(r"a\\..\\b"), "st-name", false),
        ("NUL in a name", named(r"a\u0000b"), "st-name", false),
        ("newline in a name", named(r"a\nb"), "st-name", false),
        ("escape in a name", named(r"\u001b[31m"), "st-name", false),
        ("C1 control in a name", named(r"\u009b"), "st-name", false),
        ("name of 513 bytes", named(&long), "st-name", false),
        // Metadata.
        ("metadata is a list", meta("[]"), "st-metadata", true),
        ("metadata is text", meta(r#""pt""#), "st-metadata", true),
        ("metadata is null", meta("null"), "st-metadata", false),
        ("metadata value is a number", meta(r#"{"a":1}"#), "st-metadata", true),
        ("metadata value is null", meta(r#"{"a":null}"#), "st-metadata", true),
        ("metadata value is an object", meta(r#"{"a":{}}"#), "st-metadata", true),
        ("metadata key twice", meta(r#"{"a":"1","a":"2"}"#), "st-duplicate-key", false),
        ("metadata twice", st(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), "st-duplicate-key", true),
        ("metadata too big", meta(&big_meta), "st-metadata-too-big", false),
    ]
}

#[test]
fn every_malformed_file_has_its_own_code() {
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    for (what, bytes, expected, official_refuses) in &cases {
        let dir = folder_of(&[("model.safetensors", bytes)]);
        assert_eq!(&code(dir.path()), expected, "{what}");
        // The second column is a claim about another reader: check it.
        assert_eq!(SafeTensors::deserialize(bytes).is_err(), *official_refuses, "official reader: {what}");
    }
}

#[test]
fn errors_name_the_tensor_and_the_file() {
    for (what, bytes, expected, _) in cases() {
        let names_tensor = [
            "st-entry",
            "st-field-missing",
            "st-dtype-unknown",
            "st-dtype",
            "st-shape",
            "st-rank",
            "st-overflow",
            "st-partial-byte",
            "st-offsets",
            "st-offset-order",
            "st-size",
            "st-hole",
            "st-overlap",
            "st-truncated",
            "st-duplicate-name",
        ];
        if names_tensor.contains(&expected) {
            let dir = folder_of(&[("model.safetensors", &bytes)]);
            let e = Checkpoint::open(dir.path()).unwrap_err();
            assert!(matches!(e.tensor_name(), Some("a" | "b")), "{what}: {e}");
            assert!(e.file_name().is_some_and(|f| f.ends_with("model.safetensors")), "{what}: {e}");
            assert_eq!(e.class().exit_code(), 4, "{what}");
        }
    }
}

#[test]
fn unusual_files_are_read() {
    let ok: Vec<(&str, Vec<u8>, usize)> = vec![
        ("no tensors", st("{}", &[]), 0),
        ("padded with spaces", st("{}      ", &[]), 0),
        ("leading space", st("  {}", &[]), 0),
        ("metadata only", meta(r#"{"format":"pt"}"#), 0),
        ("scalar", one("[]", 0, 4, 4), 1),
        ("zero-size", one("[0,7]", 0, 0, 0), 1),
        ("zero-size between others", two((0, 0), (0, 4), 4), 2),
        ("data not aligned", st(&format!("{{{}}} ", f32_entry("a", "[1]", 0, 4)), &[0; 4]), 1),
        ("unsorted", two((4, 8), (0, 4), 8), 2),
        ("FP4, logical shape", dtype(r#""F4""#, "[2,2]", 2), 1),
        ("FP6", dtype(r#""F6_E3M2""#, "[4]", 3), 1),
        ("FNUZ", dtype(r#""F8_E4M3FNUZ""#, "[4]", 4), 1),
        ("E8M0", dtype(r#""F8_E8M0""#, "[4]", 4), 1),
        ("rank 16", one(&format!("[{}]", vec!["1"; 16].join(",")), 0, 4, 4), 1),
        ("512-byte name", named(&"n".repeat(512)), 1),
        ("non-ASCII name", named("é.重み"), 1),
    ];
    for (what, bytes, tensors) in &ok {
        SafeTensors::deserialize(bytes).unwrap_or_else(|e| panic!("official reader: {what}: {e}"));
        let dir = folder_of(&[("model.safetensors", bytes)]);
        let c = Checkpoint::open(dir.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(c.tensors.len(), *tensors, "{what}");
        assert!(c.warnings.is_empty(), "{what}: {:?}", c.warnings);
    }
}

#[test]
fn unknown_fields_are_a_warning() {
    let dir = folder_of(&[(
        "model.safetensors",
        &entry(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4],"stride":[1],"n":{"m":[1.5,true,null]}}"#),
    )]);
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.warnings.len(), 1, "{:?}", c.warnings);
    assert!(
        c.warnings[0].contains("2 header entries") || c.warnings[0].contains("stride"),
        "{:?}",
        c.warnings
    );
}

#[test]
fn offsets_are_absolute_and_bytes_are_read() {
    let header = format!("{{{},{}}}", f32_entry("b", "[1]", 0, 4), f32_entry("a.10", "[2]", 4, 12));
    let data: Vec<u8> = (0..12).collect();
    let dir = folder_of(&[("model.safetensors", &st(&header, &data))]);
    let c = Checkpoint::open(dir.path()).unwrap();
    let t = c.tensor(c.find("a.10").unwrap());
    let mut read = vec![0; t.bytes as usize];
    let file = c.open_data_file(t.file).unwrap();
    file.read_exact_at(&mut read, t.offset).unwrap();
    assert_eq!(read, data[4..]);
    assert_eq!(c.files[0].data_start, 8 + header.len() as u64);
    let prefix = &st(&header, &[]);
    assert_eq!(c.files[0].header_blake3, blake3::hash(prefix).to_hex().to_string());
    // A shard that changes after its header was read is not read.
    std::fs::write(dir.path().join("model.safetensors"), st(&header, &[0; 12])).unwrap();
    assert_eq!(c.open_data_file(0).unwrap_err().code(), "source-changed");
    assert_eq!(file.read_exact_at(&mut [0; 64], 100).unwrap_err().code(), "source-changed");
}
