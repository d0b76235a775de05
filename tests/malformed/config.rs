//! Bad `config.json` files.

use super::{bytes_file, code, folder_of};
use silicast::checkpoint::Config;

fn with_config(config: &str) -> String {
    code(folder_of(&[("model.safetensors", &bytes_file(&["a"])), ("config.json", config.as_bytes())]).path())
}

#[test]
fn bad_configs() {
    let deep = format!("{{\"a\":{}", "{\"a\":".repeat(200_000));
    let cases: Vec<(&str, String, &str)> = vec![
        ("empty", String::new(), "config-json"),
        ("not JSON", "model_type = llama".into(), "config-json"),
        ("cut", r#"{"model_type":"#.into(), "config-json"),
        ("trailing garbage", "{} {}".into(), "config-json"),
        ("NaN", r#"{"x":NaN}"#.into(), "config-json"),
        ("Infinity", r#"{"x":-Infinity}"#.into(), "config-json"),
        ("huge number", r#"{"x":1e400}"#.into(), "config-json"),
        ("duplicate key", r#"{"model_type":"llama","model_type":"qwen3"}"#.into(), "config-json"),
        (
            "duplicate key, escaped",
            r#"{"model_type":"llama","model\u005ftype":"qwen3"}"#.into(),
            "config-json",
        ),
        ("duplicate key, nested", r#"{"text_config":{"a":1,"a":1}}"#.into(), "config-json"),
        ("duplicate key in a list", r#"{"x":[{"a":1,"a":1}]}"#.into(), "config-json"),
        ("deep nesting", deep, "config-json"),
        ("lone surrogate", r#"{"x":"\ud800"}"#.into(), "config-json"),
        ("comment", "{} // x".into(), "config-json"),
        ("byte order mark", "\u{feff}{}".into(), "config-json"),
        ("array", "[]".into(), "config-not-object"),
        ("null", "null".into(), "config-not-object"),
        ("string", "\"x\"".into(), "config-not-object"),
        ("too big", format!("{{\"x\":\"{}\"}}", "x".repeat(17 << 20)), "file-too-big"),
        ("layers: negative", r#"{"num_hidden_layers":-1}"#.into(), "config-value"),
        ("layers: float", r#"{"num_hidden_layers":1.5}"#.into(), "config-value"),
        ("layers: huge", r#"{"num_hidden_layers":4294967296}"#.into(), "config-value"),
        ("layers: beyond 64 bits", r#"{"num_hidden_layers":1e30}"#.into(), "config-value"),
        ("layers: text", r#"{"num_hidden_layers":"61"}"#.into(), "config-value"),
        ("layers: text, nested", r#"{"text_config":{"num_hidden_layers":"61"}}"#.into(), "config-value"),
        ("layers: bool", r#"{"num_hidden_layers":true}"#.into(), "config-value"),
        ("experts: object", r#"{"n_routed_experts":{}}"#.into(), "config-value"),
        ("quantization: text", r#"{"quantization_config":"fp8"}"#.into(), "config-value"),
        ("quantization: list", r#"{"quantization_config":[]}"#.into(), "config-value"),
        (
            "quantization: nested text",
            r#"{"text_config":{"quantization_config":"fp8"}}"#.into(),
            "config-value",
        ),
        ("block: zero", r#"{"quantization_config":{"weight_block_size":[0,128]}}"#.into(), "config-value"),
        (
            "block: negative",
            r#"{"quantization_config":{"weight_block_size":[-128,128]}}"#.into(),
            "config-value",
        ),
        (
            "block: float",
            r#"{"quantization_config":{"weight_block_size":[128.5,128]}}"#.into(),
            "config-value",
        ),
        ("block: one side", r#"{"quantization_config":{"weight_block_size":[128]}}"#.into(), "config-value"),
        (
            "block: three sides",
            r#"{"quantization_config":{"weight_block_size":[1,2,3]}}"#.into(),
            "config-value",
        ),
        ("block: number", r#"{"quantization_config":{"weight_block_size":128}}"#.into(), "config-value"),
        (
            "block: huge",
            r#"{"quantization_config":{"weight_block_size":[4294967296,1]}}"#.into(),
            "config-value",
        ),
        ("block: text", r#"{"quantization_config":{"weight_block_size":"axb"}}"#.into(), "config-value"),
        (
            "group size: huge",
            r#"{"quantization_config":{"config_groups":{"g":{"weights":{"group_size":99999999}}}}}"#.into(),
            "config-value",
        ),
        (
            "block structure: zero",
            r#"{"quantization_config":{"config_groups":{"g":{"weights":{"block_structure":[0,0]}}}}}"#.into(),
            "config-value",
        ),
    ];
    for (what, config, expected) in &cases {
        assert_eq!(&with_config(config), expected, "{what}");
    }
}

#[test]
fn odd_configs_are_read() {
    for config in [
        "{}",
        r#"{"model_type":"no_such_model"}"#,
        r#"{"model_type":7}"#,
        r#"{"num_hidden_layers":null,"quantization_config":null,"text_config":null}"#,
        r#"{"intermediate_size":[1,2,3]}"#,
        r#"{"num_hidden_layers":4294967295}"#,
        r#"{"quantization_config":{"weight_block_size":null,"quant_method":"fp8"}}"#,
        r#"{"quantization_config":{"config_groups":{"g":{"weights":{"group_size":-1}}}}}"#,
        r#"{"quantization_config":{"config_groups":[]}}"#,
    ] {
        assert_eq!(with_config(config), "ok", "{config}");
    }
}

#[test]
fn quantization_is_found_at_the_root_or_in_text_config() {
    let q = |text: &str| Config::parse(text.as_bytes()).unwrap();
    let fp8 = r#"{"quant_method":"FP8","weight_block_size":[128,64],"scale_fmt":"ue8m0"}"#;
    let root = q(&format!(r#"{{"quantization_config":{fp8}}}"#));
    let found = root.quantization.unwrap();
    assert_eq!(
        (found.method.as_str(), found.block, found.scale_fmt.as_deref()),
        ("fp8", Some([128, 64]), Some("ue8m0"))
    );
    let nested = q(&format!(r#"{{"text_config":{{"quantization_config":{fp8},"num_hidden_layers":5}}}}"#));
    assert_eq!(nested.quantization.as_ref().unwrap().block, Some([128, 64]));
    assert_eq!(nested.num_hidden_layers(), Some(5));
    let both = q(&format!(r#"{{"quantization_config":{fp8},"text_config":{{"quantization_config":{{}}}}}}"#));
    assert!(both.quantization_conflict && both.quantization.unwrap().method == "fp8");
    let same =
        q(&format!(r#"{{"quantization_config":{fp8},"text_config":{{"quantization_config":{fp8}}}}}"#));
    assert!(!same.quantization_conflict);
}
