//! What is refused, with which exit code, and what the message says.

use crate::support::binary::{command, convert_args, convert_with, finish, silicast};
use crate::support::{inputs, tree};
use serde_json::json;
use std::fs;
use std::path::Path;
use xtask::safetensors::Dtype;

/// Every error names what was expected and found and what to do, and fits a screen.
#[track_caller]
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let ran = silicast(args).expect(code).says(says).says(&["error: "]);
    assert!(ran.stderr.lines().count() <= 12 && ran.stderr.len() < 3000, "{}", ran.stderr);
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
}

#[test]
fn wrong_command_lines_are_exit_2() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let src = source.to_str().unwrap();
    let out = root.path().join("out");
    let out = out.to_str().unwrap();
    for args in [
        &[][..],
        &["frobnicate"],
        &["convert", src],
        &["convert", src, "-o", out],
        &["plan", src],
        &["plan", src, "--target", "vllm", "--frobnicate"],
        &["convert", src, "-o", out, "--target", "vllm", "--slice", "0/3"],
        &["convert", src, "-o", out, "--target", "vllm", "--slice", "4/3"],
        &["convert", src, "-o", out, "--target", "vllm", "--memory", "lots"],
        &["convert", src, "-o", out, "--target", "vllm", "--nan", "ignore"],
        &["convert", src, "-o", out, "--target", "vllm", "--digest", "md5"],
    ] {
        silicast(args).expect(2);
    }
    let plan = |more: &[&'static str], says: &[&str]| {
        let args: Vec<&str> = ["plan", src, "--target", "vllm"].iter().chain(more).copied().collect();
        refused(&args, 2, says);
    };
    plan(&["--memory", "1MiB"], &["64MiB", "--memory"]);
    plan(&["--jobs", "0"], &["--jobs"]);
    plan(&["--ignore", "model.layers.7.*"], &["model.layers.7.*", "matches no tensor"]);
    plan(&["--include", "re:nothing"], &["re:nothing"]);
    plan(&["--ignore", "re:("], &["re:("]);
    plan(
        &["--ignore", "model.layers.0.self_attn.q_proj"],
        &["model.layers.0.self_attn.q_proj.weight", "fused", "k_proj"],
    );
    plan(&["--include", "*.gate_proj"], &["gate_proj", "up_proj"]);
    let recipe = root.path().join("recipe.toml");
    for (text, says) in
        [("shceme = \"W8A8\"", "shceme"), ("scheme = ", "recipe.toml"), ("nan = \"maybe\"", "maybe")]
    {
        fs::write(&recipe, text).unwrap();
        refused(
            &["plan", src, "--target", "vllm", "--recipe", recipe.to_str().unwrap()],
            2,
            &[says, "expected:"],
        );
    }
    // An output inside the source would become part of it.
    refused(
        &["convert", src, "-o", source.join("out").to_str().unwrap(), "--target", "vllm"],
        2,
        &["inside the source"],
    );
    assert!(!source.join("out.partial").exists());
    refused(&["convert", src, "-o", "/", "--target", "vllm"], 2, &["no name"]);
    let ran = finish(command(["targets"]).env("SILICAST_ISA", "bogus")).expect(2);
    ran.says(&["SILICAST_ISA", "expected:", "baseline", "bogus"]);
}

#[test]
fn a_recipe_file_and_flags_add_up() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let src = source.to_str().unwrap();
    let recipe = root.path().join("recipe.toml");
    fs::write(&recipe, "scheme = \"FP8_DYNAMIC\"\nignore = [\"*.down_proj\"]\n").unwrap();
    let with = [
        "plan",
        src,
        "--target",
        "vllm",
        "--json",
        "--recipe",
        recipe.to_str().unwrap(),
        "--ignore",
        "re:.*o_proj",
    ];
    let plan = silicast(with).expect(0).json();
    assert_eq!(plan["scheme"], "FP8_DYNAMIC");
    let flags = [
        "plan",
        src,
        "--target",
        "vllm",
        "--json",
        "--scheme",
        "fp8-dynamic",
        "--ignore",
        "*.down_proj",
        "--ignore",
        "re:.*o_proj",
    ];
    assert_eq!(silicast(flags).expect(0).json()["digest"], plan["digest"]);
    for entry in plan["entries"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        if name.contains("down_proj") || name.contains("o_proj") {
            assert_eq!(
                (&entry["fate"], &entry["reason"]),
                (&"kept".into(), &"left out by the recipe".into()),
                "{name}"
            );
        } else if name.ends_with("_proj.weight") {
            assert_eq!(entry["fate"], "quantized", "{name}");
        }
    }
    // A flag replaces the file's scheme.
    let over = [&with[..], &["--scheme", "W8A8"]].concat();
    assert_eq!(silicast(over).expect(0).json()["scheme"], "W8A8");
}

#[test]
fn what_this_version_cannot_do_is_exit_3() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let src = source.to_str().unwrap();
    refused(&["plan", src, "--target", "abacus-1"], 3, &["abacus-1", "ascend-910b", "fix:"]);
    refused(&["plan", src, "--target", "deepseek"], 3, &["deepseek", "yet"]);
    refused(
        &["plan", src, "--target", "ascend-910b", "--scheme", "FP8_BLOCK"],
        3,
        &["FP8_BLOCK", "W8A8_DYNAMIC"],
    );
    refused(&["plan", src, "--target", "vllm", "--tp", "2"], 3, &["--tp 2"]);
    refused(&["plan", src, "--target", "vllm", "--target", "ascend-910b"], 3, &["ascend-910b"]);
    refused(&["targets", "abacus-1"], 3, &["abacus-1"]);
    for (file, says) in [("pytorch_model.bin", "safetensors"), ("model.gguf", "GGUF")] {
        let dir = root.path().join(file);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(file), b"x").unwrap();
        refused(&["inspect", dir.to_str().unwrap()], 3, &[file, says, "fix:"]);
    }
    // Readable, but in an encoding that cannot be decoded yet: inspect describes it, plan refuses and names it.
    let dir = root.path().join("packed");
    let name = "model.layers.0.self_attn.o_proj.weight";
    let config = json!({ "architectures": ["LlamaForCausalLM"], "model_type": "llama" });
    inputs::write_model(
        &dir,
        &config,
        &[
            inputs::tensor(&format!("{name}_packed"), Dtype::I32, &[4, 4], vec![1; 64]),
            inputs::tensor(&format!("{name}_scale"), Dtype::F32, &[4, 1], vec![0; 16]),
        ],
    );
    let inspect = silicast(["inspect", dir.to_str().unwrap(), "--json"]).expect(0).json();
    assert!(inspect["schemes"].to_string().contains("not decodable"), "{inspect}");
    refused(&["plan", dir.to_str().unwrap(), "--target", "vllm"], 3, &[name, "model.safetensors"]);
}

#[test]
fn bad_inputs_are_exit_4_and_leave_nothing() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let check = |case: &str, damage: &dyn Fn(&Path), says: &[&str]| {
        let source = inputs::fixture(&root.path().join(case), "llama-bf16");
        damage(&source);
        for args in [
            vec!["inspect", source.to_str().unwrap()],
            vec!["plan", source.to_str().unwrap(), "--target", "vllm"],
            vec!["convert", source.to_str().unwrap(), "-o", out.to_str().unwrap(), "--target", "vllm"],
        ] {
            refused(&args, 4, says);
        }
        assert!(!out.exists() && !out.with_extension("partial").exists(), "{case}");
    };
    let first = "model-00001-of-00002.safetensors";
    let index = "model.safetensors.index.json";
    check(
        "truncated",
        &|dir| {
            let bytes = fs::read(dir.join(first)).unwrap();
            fs::write(dir.join(first), &bytes[..bytes.len() - 1]).unwrap();
        },
        &[first, "expected:", "found:"],
    );
    check("missing", &|dir| fs::remove_file(dir.join(first)).unwrap(), &[first]);
    check(
        "traversal",
        &|dir| {
            let text = fs::read_to_string(dir.join(index)).unwrap();
            fs::write(dir.join(index), text.replace(first, "../secret.safetensors")).unwrap();
        },
        &[index, "../secret.safetensors"],
    );
    check(
        "link",
        &|dir| {
            fs::rename(dir.join(first), root.path().join("elsewhere")).unwrap();
            std::os::unix::fs::symlink(root.path().join("elsewhere"), dir.join(first)).unwrap();
        },
        &[first],
    );
    check(
        "fifo",
        &|dir| {
            fs::remove_file(dir.join(first)).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(dir.join(first)).status().unwrap().success());
        },
        &[first],
    );
    check(
        "config",
        &|dir| fs::write(dir.join("config.json"), "{\"a\": 1, \"a\": 2}").unwrap(),
        &["config.json", "a"],
    );
    check(
        "scale-grid",
        &|dir| {
            let mut tensors = inputs::read_model(dir);
            let weight = "model.layers.0.self_attn.o_proj.weight";
            let shape = tensors[weight].info.shape.clone();
            let codes = vec![0x38; (shape[0] * shape[1]) as usize];
            tensors.insert(weight.into(), inputs::tensor(weight, Dtype::F8E4m3, &shape, codes));
            let scale = format!("{weight}_scale_inv");
            tensors.insert(scale.clone(), inputs::tensor(&scale, Dtype::F32, &[3, 3], vec![0; 36]));
            for name in tree::names(dir).iter().filter(|n| n.contains("safetensors")) {
                fs::remove_file(dir.join(name)).unwrap();
            }
            let mut config: serde_json::Value =
                serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
            config["quantization_config"] = json!({ "quant_method": "fp8", "weight_block_size": [128, 128] });
            inputs::write_model(dir, &config, &tensors.into_values().collect::<Vec<_>>());
        },
        &["o_proj.weight_scale_inv", "[2, 2]", "[3, 3]", "fix:"],
    );
    let empty = root.path().join("empty");
    fs::create_dir(&empty).unwrap();
    refused(&["inspect", empty.to_str().unwrap()], 4, &["no weights", "empty"]);
    refused(&["verify", empty.to_str().unwrap()], 4, &["empty"]);
    silicast(["inspect", root.path().join("absent").to_str().unwrap()]).expect(5).says(&["absent"]);
}

/// What an error quotes cannot drive a terminal: control and bidirectional characters are escaped.
#[test]
fn messages_escape_what_they_quote() {
    let root = tempfile::tempdir().unwrap();
    let evil = "x\u{1b}]0;owned\u{7}\u{202e}\n\r";
    let clean = |text: &str| {
        text.chars().all(|c| c == '\n' || !(c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)))
    };
    let config = json!({ "architectures": ["LlamaForCausalLM"], "model_type": evil });
    let dir = root.path().join("tensor");
    inputs::write_model(
        &dir,
        &config,
        &[inputs::tensor(&format!("{evil}.weight"), Dtype::Bf16, &[2], vec![0; 4])],
    );
    let ran = silicast(["inspect", dir.to_str().unwrap()]).expect(4);
    assert!(ran.stderr.contains("\\u{1b}") && clean(&ran.stderr), "{:?}", ran.stderr);
    // The name of the folder, of a shard, of a side file, a pattern and a target come from outside as well.
    let odd = root.path().join("a\u{1b}[31mb");
    let source = inputs::fixture(&odd, "llama-single");
    let quoted = |args: &[&str], code: i32| {
        let ran = silicast(args).expect(code);
        assert!(clean(&ran.stderr) && clean(&ran.stdout), "{args:?}: {:?}{:?}", ran.stderr, ran.stdout);
    };
    let src = source.to_str().unwrap();
    quoted(&["inspect", odd.to_str().unwrap()], 4);
    quoted(&["inspect", src], 0);
    quoted(&["plan", src, "--target", "vllm"], 0);
    quoted(&["plan", src, "--target", evil], 3);
    quoted(&["plan", src, "--target", "vllm", "--scheme", evil], 3);
    quoted(&["plan", src, "--target", "vllm", "--ignore", evil], 2);
    quoted(&["verify", src], 4);
    let out = odd.join("out\u{7}");
    quoted(&["convert", src, "-o", out.to_str().unwrap(), "--target", "vllm"], 0);
    quoted(&["convert", src, "-o", out.to_str().unwrap(), "--target", "vllm"], 0);
    quoted(&["convert", src, "-o", out.to_str().unwrap(), "--target", "ascend-910b"], 2);
    fs::write(out.join("ev\u{1b}il"), "x").unwrap();
    quoted(&["verify", out.to_str().unwrap()], 1);
    for name in ["no\u{1b}te.json", "stale\u{202e}.safetensors"] {
        fs::write(source.join(name), "{}").unwrap();
        let code = silicast(["inspect", src]).code.unwrap();
        assert!(code == 0 || code == 4);
        quoted(&["inspect", src], code);
        fs::remove_file(source.join(name)).unwrap();
    }
}

#[test]
fn gates_that_fail_are_exit_1() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let out = root.path().join("out");
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(0);
    let failed = |path: &str| {
        let ran = silicast(["verify".as_ref(), out.as_os_str(), "--json".as_ref()]).expect(1);
        let report = ran.json();
        let list = report["failed"].as_array().unwrap();
        assert!(
            list.iter().any(|f| f["path"] == path && !f["reason"].as_str().unwrap().is_empty()),
            "{path}: {report}"
        );
        let text = silicast(["verify".as_ref(), out.as_os_str()]).expect(1).stdout;
        assert!(text.contains(path) && text.contains("fail"), "{text}");
    };
    let originals = tree::files(&out);
    for (path, bytes) in &originals {
        if path == "silicast/manifest.json" {
            continue;
        }
        let mut flipped = bytes.clone();
        let at = flipped.len() / 2;
        flipped[at] ^= 1;
        fs::write(out.join(path), flipped).unwrap();
        failed(path);
        fs::remove_file(out.join(path)).unwrap();
        failed(path);
        fs::write(out.join(path), bytes).unwrap();
    }
    for foreign in ["extra.json", "model-00002-of-00002.safetensors", "silicast/extra"] {
        fs::write(out.join(foreign), "x").unwrap();
        failed(foreign);
        fs::remove_file(out.join(foreign)).unwrap();
    }
    silicast(["verify".as_ref(), out.as_os_str()]).expect(0);

    let other = root.path().join("other");
    silicast(convert_with(&source, &other, "vllm", "W8A8", &["--ignore", "*.down_proj"])).expect(0);
    let ran = silicast(["diff".as_ref(), out.as_os_str(), other.as_os_str()]).expect(1);
    assert!(
        ran.stdout.contains("model.layers.0.mlp.down_proj.weight") && ran.stdout.contains("2 differ"),
        "{}",
        ran.stdout
    );
    silicast(["diff".as_ref(), out.as_os_str(), out.as_os_str()]).expect(0);
}
