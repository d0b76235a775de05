//! Every model of the onnx package read and written: equal in the onnx package's eyes, stable on the second write.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may open files and fail")]
#![allow(clippy::print_stdout, reason = "how many models came through is a result")]

mod onnx_support;
mod support;

use silicast::io::output::OutputDir;
use silicast::onnx::Model;
use silicast::onnx::write::{Options, to_inline_bytes, write};
use std::fs;
use support::oracle::run_script;

#[test]
fn models_survive_a_round_trip() {
    let (root, cases) = onnx_support::cases();
    assert_eq!(cases.len(), 2033);
    let out = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut tensors = 0;
    for case in &cases {
        let folder = out.path().join(&case.suite).join(&case.name);
        fs::create_dir_all(&folder).unwrap();
        let model = Model::open(&case.folder.join("model.onnx")).unwrap();
        let (dir, _) = OutputDir::create_or_open(&folder).unwrap();

        let first = to_inline_bytes(&model).unwrap();
        fs::write(folder.join("inline.onnx"), &first).unwrap();
        let again = Model::open(&folder.join("inline.onnx")).unwrap();
        assert_eq!(to_inline_bytes(&again).unwrap(), first, "{}", case.name);

        let options = Options { external_threshold: Some(64), ..Options::default() };
        let written = write(&model, &dir, "external.onnx", options).unwrap();
        tensors += written.external_tensors;
        let bytes = |name: &str| fs::read(folder.join(name)).unwrap_or_default();
        let (model_bytes, data) = (bytes("external.onnx"), bytes("external.onnx.data"));
        assert_eq!((model_bytes.len() as u64, data.len() as u64), (written.model_bytes, written.data_bytes));
        // Read with its data outside and written the same way: the same bytes.
        let outside = Model::open(&folder.join("external.onnx")).unwrap();
        let second = folder.join("second");
        let (dir, _) = OutputDir::create_or_open(&second).unwrap();
        write(&outside, &dir, "external.onnx", options).unwrap();
        assert!(fs::read(second.join("external.onnx")).unwrap() == model_bytes, "{}", case.name);
        assert!(fs::read(second.join("external.onnx.data")).unwrap_or_default() == data, "{}", case.name);
    }
    let printed = run_script("onnx_roundtrip.py", &[root.as_os_str(), out.path().as_os_str()]);
    println!("{tensors} external tensors\n{printed}");
    assert!(printed.contains("2033 of 2033 equal"), "{printed}");
    assert!(tensors > 150, "only {tensors} tensors went outside");
}

/// Unknown fields of any number come out in one order, whatever order they came in.
#[test]
fn unknown_fields_are_written_in_order() {
    let known = [0x08, 11, 0x3a, 2, 0x12, 0];
    let field = |n: u32| -> Vec<u8> {
        let tag = n << 3;
        vec![tag as u8 & 0x7f | 0x80, (tag >> 7) as u8, n as u8 & 0x7f]
    };
    let file = |numbers: &mut dyn Iterator<Item = u32>| {
        let mut bytes = known.to_vec();
        numbers.for_each(|n| bytes.extend(field(n)));
        Model::parse(bytes.into(), "m".to_owned(), None).unwrap()
    };
    let up = to_inline_bytes(&file(&mut (100..160))).unwrap();
    let down = to_inline_bytes(&file(&mut (100..160).rev())).unwrap();
    assert_eq!(up, down);
    assert!(up.len() > 60 * 3);
    let again = Model::parse(up.clone().into(), "m".to_owned(), None).unwrap();
    assert_eq!(to_inline_bytes(&again).unwrap(), up);
}
