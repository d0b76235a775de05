//! Bad indexes and incomplete sets of shards.

use super::{Case, bytes_file, code, folder_of};
use silicast::checkpoint::Checkpoint;

const INDEX: &str = "model.safetensors.index.json";

/// Two shards (`a`, `b` and `c`) beside an index text.
fn with_index(index: &str) -> String {
    let (one, two) = (bytes_file(&["a", "b"]), bytes_file(&["c"]));
    let dir = folder_of(&[
        ("m-00001-of-00002.safetensors", &one),
        ("m-00002-of-00002.safetensors", &two),
        (INDEX, index.as_bytes()),
    ]);
    code(dir.path())
}

/// `weight_map` entries of the three tensors, with `1` and `2` for the shards.
fn map(entries: &[(&str, &str)]) -> String {
    let list: Vec<String> = entries
        .iter()
        .map(|(tensor, file)| {
            let file = match *file {
                "1" => "m-00001-of-00002.safetensors",
                "2" => "m-00002-of-00002.safetensors",
                other => other,
            };
            format!(r#""{tensor}":"{file}""#)
        })
        .collect();
    format!(r#"{{"weight_map":{{{}}}}}"#, list.join(","))
}

#[test]
fn good_indexes() {
    assert_eq!(with_index(&map(&[("a", "1"), ("b", "1"), ("c", "2")])), "ok");
    assert_eq!(with_index(&map(&[("c", "2"), ("b", "1"), ("a", "1")])), "ok");
    let good = map(&[("a", "1"), ("b", "1"), ("c", "2")]);
    for metadata in ["{}", "null", r#"{"total_size":3}"#, r#"{"total_size":3.0,"total_parameters":3}"#] {
        assert_eq!(
            with_index(&good.replacen('{', &format!(r#"{{"metadata":{metadata},"#), 1)),
            "ok",
            "{metadata}"
        );
    }
}

#[test]
fn bad_indexes() {
    let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    let many_keys: String = (0..100).map(|i| format!("\"k{i}\":1,")).collect();
    let good = map(&[("a", "1"), ("b", "1"), ("c", "2")]);
    let cases: Vec<(&str, String, &str)> = vec![
        ("empty", String::new(), "index-json"),
        ("not JSON", "hello".into(), "index-json"),
        ("array", "[]".into(), "index-json"),
        ("null", "null".into(), "index-json"),
        ("cut", good[..good.len() - 3].into(), "index-json"),
        ("trailing garbage", format!("{good}x"), "index-json"),
        ("NaN", r#"{"metadata":{"total_size":NaN},"weight_map":{}}"#.into(), "index-json"),
        ("huge number", r#"{"metadata":{"total_size":1e999},"weight_map":{}}"#.into(), "index-json"),
        ("deep nesting", deep, "index-json"),
        ("many root keys", format!("{{{many_keys}\"weight_map\":{{}}}}"), "index-json"),
        ("metadata is a list", r#"{"metadata":[],"weight_map":{}}"#.into(), "index-json"),
        (
            "total_size twice",
            r#"{"metadata":{"total_size":3,"total_size":3},"weight_map":{}}"#.into(),
            "index-json",
        ),
        ("no weight_map", "{}".into(), "index-weight-map"),
        ("weight_map is a list", r#"{"weight_map":[]}"#.into(), "index-json"),
        ("weight_map is null", r#"{"weight_map":null}"#.into(), "index-json"),
        (
            "weight_map twice",
            format!(r#"{},"weight_map":{{}}}}"#, &good[..good.len() - 1]),
            "index-duplicate",
        ),
        ("metadata twice", format!(r#"{{"metadata":{{}},"metadata":{{}},{}"#, &good[1..]), "index-duplicate"),
        ("unknown key twice", format!(r#"{{"x":1,"x":1,{}"#, &good[1..]), "index-duplicate"),
        ("value is a number", r#"{"weight_map":{"a":1}}"#.into(), "index-json"),
        ("value is null", r#"{"weight_map":{"a":null}}"#.into(), "index-json"),
        ("value is a list", r#"{"weight_map":{"a":["x"]}}"#.into(), "index-json"),
        (
            "tensor twice, one shard",
            map(&[("a", "1"), ("a", "1"), ("b", "1"), ("c", "2")]),
            "index-duplicate",
        ),
        (
            "tensor twice, two shards",
            map(&[("a", "1"), ("a", "2"), ("b", "1"), ("c", "2")]),
            "index-duplicate",
        ),
        ("parent path", map(&[("a", "../m-00001-of-00002.safetensors")]), "index-shard-name"),
        ("deep parent path", map(&[("a", "../../../etc/passwd.safetensors")]), "index-shard-name"),
        ("absolute path", map(&[("a", "/etc/x.safetensors")]), "index-shard-name"),
        ("sub-folder", map(&[("a", "sub/m.safetensors")]), "index-shard-name"),
        ("dot path", map(&[("a", "./m-00001-of-00002.safetensors")]), "index-shard-name"),
        ("backslashes", map(&[("a", r"..\\m.safetensors")]), "index-shard-name"),
        ("drive", map(&[("a", r"C:\\m.safetensors")]), "index-shard-name"),
        ("NUL", map(&[("a", r"m\u0000.safetensors")]), "index-shard-name"),
        ("newline", map(&[("a", r"m\n.safetensors")]), "index-shard-name"),
        ("empty", map(&[("a", "")]), "index-shard-name"),
        ("dots", map(&[("a", "..")]), "index-shard-name"),
        ("device", map(&[("a", "/dev/zero")]), "index-shard-name"),
        ("pickle", map(&[("a", "pytorch_model.bin")]), "index-shard-name"),
        ("upper-case suffix", map(&[("a", "m.SAFETENSORS")]), "index-shard-name"),
        ("too long", map(&[("a", &format!("{}.safetensors", "x".repeat(300)))]), "index-shard-name"),
        ("url", map(&[("a", "https://example.com/m.safetensors")]), "index-shard-name"),
        (
            "missing shard",
            map(&[("a", "1"), ("b", "1"), ("c", "m-00003-of-00002.safetensors")]),
            "shard-missing",
        ),
        ("tensor name with ..", map(&[("../a", "1")]), "index-tensor-name"),
        ("empty tensor name", map(&[("", "1")]), "index-tensor-name"),
        ("control character in a tensor name", map(&[(r"a\u0007", "1")]), "index-tensor-name"),
        (
            "tensor not in any shard",
            map(&[("a", "1"), ("b", "1"), ("c", "2"), ("d", "2")]),
            "index-tensor-missing",
        ),
        (
            "first tensor not in any shard",
            map(&[("A", "1"), ("a", "1"), ("b", "1"), ("c", "2")]),
            "index-tensor-missing",
        ),
        ("tensor not listed", map(&[("a", "1"), ("c", "2")]), "index-tensor-unlisted"),
        ("wrong shard", map(&[("a", "2"), ("b", "1"), ("c", "2")]), "index-wrong-shard"),
        ("stale shard of the series", map(&[("a", "1"), ("b", "1")]), "shard-unlisted"),
        ("empty weight_map", r#"{"weight_map":{}}"#.into(), "index-weight-map"),
    ];
    for (what, index, expected) in &cases {
        assert_eq!(&with_index(index), expected, "{what}");
    }
}

#[test]
fn a_wrong_total_size_is_a_warning() {
    let dir = folder_of(&[
        ("model.safetensors", &bytes_file(&["a"])),
        (INDEX, br#"{"metadata":{"total_size":2},"weight_map":{"a":"model.safetensors"}}"#),
    ]);
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.warnings.len(), 1, "{:?}", c.warnings);
    assert!(c.warnings[0].contains("total_size"));
}

#[test]
fn files_beside_the_index() {
    let map = br#"{"weight_map":{"a":"x-1-of-1.safetensors"}}"#;
    let a = bytes_file(&["a"]);
    // Another series is left out with a warning; the name of a shard follows no rule.
    let dir = folder_of(&[("x-1-of-1.safetensors", &a), ("consolidated.safetensors", &a), (INDEX, map)]);
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!((c.tensors.len(), c.warnings.len()), (1, 1), "{:?}", c.warnings);
    // Any single index counts, two are ambiguous.
    let dir = folder_of(&[("x-1-of-1.safetensors", &a), ("quant_model_weights.safetensors.index.json", map)]);
    assert_eq!(code(dir.path()), "ok");
    // A tensor after the last one that is listed.
    let ab = bytes_file(&["a", "b"]);
    let dir = folder_of(&[("x-1-of-1.safetensors", &ab), (INDEX, map)]);
    assert_eq!(code(dir.path()), "index-tensor-unlisted");
    let other = ("b.safetensors.index.json", map.as_slice());
    let dir = folder_of(&[("x-1-of-1.safetensors", &a), ("a.safetensors.index.json", map), other]);
    assert_eq!(code(dir.path()), "index-ambiguous");
    let dir = folder_of(&[("x-1-of-1.safetensors", &a), (INDEX, map), other]);
    assert_eq!(code(dir.path()), "ok");
}

#[test]
fn without_an_index() {
    let (a, b) = (bytes_file(&["a"]), bytes_file(&["b"]));
    let cases: Vec<Case<'_>> = vec![
        ("one file", vec![("model.safetensors", &a)], "ok"),
        ("two files", vec![("x.safetensors", &a), ("y.safetensors", &b)], "ok"),
        ("a tensor twice", vec![("x.safetensors", &a), ("y.safetensors", &a)], "duplicate-tensor"),
        ("a full series", vec![("m-1-of-2.safetensors", &a), ("m-2-of-2.safetensors", &b)], "ok"),
        (
            "a series from zero",
            vec![("m-00000-of-00002.safetensors", &a), ("m-00001-of-00002.safetensors", &b)],
            "ok",
        ),
        ("a cut series", vec![("m-00002-of-00002.safetensors", &a)], "shard-missing"),
        ("an absurd series", vec![("m-1-of-1000000.safetensors", &a)], "shard-missing"),
        ("only another format", vec![("consolidated.safetensors", &a)], "ok"),
        ("empty folder", vec![], "no-weights"),
        ("config only", vec![("config.json", b"{}")], "no-weights"),
        ("hidden file only", vec![(".model.safetensors", &a)], "no-weights"),
        ("pickles", vec![("pytorch_model.bin", b"x")], "pickle"),
        ("pickles .pth", vec![("consolidated.00.pth", b"x"), ("config.json", b"{}")], "pickle"),
        ("pickles .pt", vec![("model.pt", b"x")], "pickle"),
        ("gguf", vec![("model-q4.gguf", b"GGUF")], "gguf"),
    ];
    for (what, files, expected) in &cases {
        assert_eq!(&code(folder_of(files).path()), expected, "{what}");
    }
    let dir = folder_of(&[("m-00002-of-00003.safetensors", &a)]);
    let e = Checkpoint::open(dir.path()).unwrap_err();
    assert!(e.file_name().unwrap().ends_with("m-00001-of-00003.safetensors"), "{e}");
}

#[test]
fn a_million_entries_are_read_in_linear_time() {
    let mut text = String::from(r#"{"weight_map":{"#);
    for i in 0..1_000_000 {
        text += &format!("\"t.{i}\":\"m.safetensors\",");
    }
    text += r#""z":"m.safetensors"}}"#;
    let dir = folder_of(&[("m.safetensors", &bytes_file(&["z"])), (INDEX, text.as_bytes())]);
    let started = std::time::Instant::now();
    assert_eq!(code(dir.path()), "index-tensor-missing");
    assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
}
