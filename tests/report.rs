//! The renderings of a report: what programs read is valid, what people read is whole, safe and bounded.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may open files and fail")]

#[path = "report/samples.rs"]
#[allow(unreachable_pub, reason = "a module of this test")]
mod samples;
mod support;

use proptest::prelude::*;
use roxmltree::{Document, ParsingOptions};
use silicast::report::model::*;
use silicast::report::{self, FILES};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The rendering called `name`.
fn rendered(report: &Report, name: &str) -> String {
    let file = report::render(report).into_iter().find(|(file, _)| *file == name).unwrap().1;
    String::from_utf8(file).unwrap()
}

/// Parses a page or JUnit file as XML: a browser forgives what this does not.
fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, nodes_limit: u32::MAX, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap_or_else(|e| {
        let line = text.lines().nth(e.pos().row as usize - 1).unwrap_or_default();
        panic!("{e}: {}", line.chars().take(400).collect::<String>())
    })
}

fn samples() -> [(&'static str, Report); 4] {
    [
        ("good", samples::good()),
        ("failing", samples::failing()),
        ("v3", samples::v3()),
        ("hostile", samples::hostile()),
    ]
}

/// Writes the samples where a person can look at them, and returns their `report.json` files.
fn written() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    (samples().into_iter())
        .map(|(name, report)| {
            let dir = root.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            for (file, bytes) in report::render(&report) {
                std::fs::write(dir.join(file), bytes).unwrap();
            }
            dir.join("report.json")
        })
        .collect()
}

#[test]
fn reports_validate_against_the_committed_schema() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/report.schema.json");
    assert!(std::fs::read_to_string(&schema).unwrap() == xtask::schema::report(), "run `cargo xtask gen`");
    let reports = written();
    let mut args = vec![schema.as_os_str()];
    // The large one would take a Python validator minutes, and has no other shapes.
    args.extend(
        reports.iter().filter(|path| !path.to_str().unwrap().contains("/v3/")).map(|p| p.as_os_str()),
    );
    assert_eq!(support::oracle::run_script("check_report.py", &args).trim(), "3 reports, 0 violations");
}

#[test]
fn the_schema_refuses_what_is_no_report() {
    let dir = tempfile::tempdir().unwrap();
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/report.schema.json");
    let good: serde_json::Value = serde_json::from_str(&rendered(&samples::good(), "report.json")).unwrap();
    type Breaks = dyn Fn(&mut serde_json::Value);
    let broken: [(&str, &Breaks); 4] = [
        ("a verdict that does not exist", &|r| r["verdict"] = "maybe".into()),
        ("a tensor without a key", &|r| drop(r["tensors"][0].as_object_mut().unwrap().remove("sqnr_db"))),
        ("text for a number", &|r| r["kernels"][0]["calc_diff"] = "0".into()),
        ("an exponent that is no number", &|r| r["tensors"][3]["scale_exponents"]["x"] = 1.into()),
    ];
    for (what, breaks) in broken {
        let mut report = good.clone();
        breaks(&mut report);
        let path = dir.path().join("report.json");
        std::fs::write(&path, report.to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/oracle/check_report.py");
        let status = std::process::Command::new(support::oracle::python())
            .args([script.as_os_str(), schema.as_os_str(), path.as_os_str()])
            .output()
            .unwrap()
            .status;
        assert_eq!(status.code(), Some(1), "{what}");
    }
}

#[test]
fn json_holds_everything_on_one_line_per_row() {
    for (name, report) in samples() {
        let json = rendered(&report, "report.json");
        if name != "hostile" {
            // Without NaN and infinities, which JSON has none of, it reads back as the same report.
            assert!(serde_json::from_str::<Report>(&json).unwrap() == report, "{name}");
        }
        let rows = report.checks.len() + report.tensors.len() + report.kernels.len() + report.layers.len();
        assert!(json.lines().count() >= rows, "{name}");
        assert!(json.ends_with("\n}\n"), "{name}");
    }
}

#[test]
fn equal_reports_give_equal_bytes_in_the_documented_files() {
    for (name, report) in samples() {
        let files = report::render(&report);
        assert_eq!(files.iter().map(|(file, _)| *file).collect::<Vec<_>>(), FILES);
        assert!(files == report::render(&report.clone()), "{name}");
        assert!(report::markdown(&report).as_bytes() == files[1].1, "{name}");
    }
}

/// Cases, failed and skipped cases of a JUnit document, after comparing them with its own counts.
fn junit_counts(xml: &str) -> [usize; 3] {
    let document = parse(xml);
    let count = |node: roxmltree::Node<'_, '_>| {
        let cases: Vec<_> = node.descendants().filter(|n| n.has_tag_name("testcase")).collect();
        let with = |tag| cases.iter().filter(|c| c.children().any(|n| n.has_tag_name(tag))).count();
        [cases.len(), with("failure"), with("skipped")]
    };
    for suite in
        document.descendants().filter(|n| n.has_tag_name("testsuite") || n.has_tag_name("testsuites"))
    {
        let stated: [usize; 3] =
            ["tests", "failures", "skipped"].map(|key| suite.attribute(key).unwrap().parse().unwrap());
        assert_eq!(count(suite), stated, "{:?}", suite.attribute("name"));
    }
    let mut names: Vec<_> = (document.descendants())
        .filter(|n| n.has_tag_name("testcase"))
        .map(|n| (n.attribute("classname").unwrap(), n.attribute("name").unwrap()))
        .collect();
    names.sort_unstable();
    let total = names.len();
    names.dedup();
    assert_eq!(names.len(), total, "two cases have one name");
    count(document.root())
}

#[test]
fn junit_has_a_case_per_class_kernel_layer_and_rule() {
    // 5 rules, 7 linears + lm_head + embed_tokens + norm, 1 kernel, 2 layers.
    assert_eq!(junit_counts(&rendered(&samples::good(), "junit.xml")), [18, 0, 0]);
    // One class, one rule, the kernel and a layer fail; the rule "logits" is skipped.
    let xml = rendered(&samples::failing(), "junit.xml");
    assert_eq!(junit_counts(&xml), [19, 4, 1]);
    let document = parse(&xml);
    let failure = |name: &str| {
        let case = document.descendants().find(|n| n.attribute("name") == Some(name)).unwrap();
        case.children().find(|n| n.has_tag_name("failure")).unwrap().text().unwrap().to_owned()
    };
    let class = failure("up_proj × W8A8_DYNAMIC");
    for part in [
        "model.layers.1.mlp.up_proj.weight",
        "sqnr_db 17.3 dB, limit 30.0 dB",
        "wrong_scales 1, limit 0",
        "row 17",
    ] {
        assert!(class.contains(part), "{class}");
    }
    let kernel = failure("int8_gemm_per_token_per_channel T5");
    for part in ["model.layers.1.mlp.up_proj.weight", "calc_diff 0.0092", "[0, 17]"] {
        assert!(kernel.contains(part), "{kernel}");
    }
}

#[test]
fn pages_are_well_formed_without_scripts_and_without_anything_from_outside() {
    for (name, report) in samples() {
        let html = rendered(&report, "report.html");
        let document = parse(&html);
        let mut ids = BTreeMap::new();
        for node in document.descendants().filter(|n| n.is_element()) {
            let tag = node.tag_name().name();
            assert!(
                !matches!(tag, "script" | "link" | "img" | "iframe" | "object" | "embed" | "base" | "form"),
                "{name}: <{tag}>"
            );
            for attribute in node.attributes() {
                let (key, value) = (attribute.name(), attribute.value());
                assert!(!key.starts_with("on") && key != "src" && key != "style", "{name}: <{tag} {key}>");
                if key == "href" {
                    assert!(value.starts_with('#'), "{name}: {value}");
                }
                if key == "fill" {
                    assert!(value == "url(#exact)" || value.starts_with('#'), "{name}: {value}");
                }
                if key == "id" {
                    assert!(ids.insert(value.to_owned(), tag).is_none(), "{name}: {value} twice");
                }
            }
        }
        for node in document.descendants().filter(|n| n.is_element()) {
            let links = node.attribute("href").into_iter().map(|href| &href[1..]);
            let labels = node.attribute("aria-labelledby").into_iter().flat_map(str::split_whitespace);
            for id in links.chain(labels) {
                assert!(ids.contains_key(id), "{name}: nothing is called {id}");
            }
        }
        let style = document.descendants().find(|n| n.has_tag_name("style")).unwrap().text().unwrap();
        assert!(!style.contains("url(") && !style.contains("@import"), "{name}");
        assert!(style.contains("prefers-color-scheme: dark") && style.contains("@media print"), "{name}");
        for table in document.descendants().filter(|n| n.has_tag_name("table")) {
            let count = |tag| table.descendants().filter(|n| n.has_tag_name(tag)).count();
            assert!(count("caption") == 1 && count("th") > 0, "{name}");
            let columns = table.descendants().filter(|n| n.attribute("scope") == Some("col")).count();
            for row in table.descendants().filter(|n| n.has_tag_name("tr")) {
                assert_eq!(row.children().filter(|n| n.is_element()).count(), columns, "{name}");
            }
        }
        assert_eq!(document.descendants().filter(|n| n.has_tag_name("h1")).count(), 1, "{name}");
    }
}

#[test]
fn hostile_text_is_shown_and_stays_text() {
    let report = samples::hostile();
    for file in ["report.html", "junit.xml", "report.md"] {
        let text = rendered(&report, file);
        for c in ['\u{1b}', '\0', '\u{202e}', '\u{2028}', '\u{ffff}', '\r'] {
            assert!(!text.contains(c), "{file}: {c:?}");
        }
        assert!(text.contains("\\u{202e}") && text.contains("模型"), "{file}");
        assert!(text.len() < 600_000, "{file} has {} bytes", text.len());
    }
    for file in ["report.html", "junit.xml"] {
        let text = rendered(&report, file);
        assert!(!text.contains("<script") && !text.contains("<img"), "{file}");
        let shown: String = parse(&text).descendants().filter_map(|n| n.text()).collect();
        assert!(shown.contains("alert('x')") || text.contains("alert(&#39;x&#39;)"), "{file}");
    }
    // In Markdown markup stands in code spans or is escaped: what remains of a line has none.
    let md = rendered(&report, "report.md");
    for line in md.lines().filter(|line| !line.starts_with("    ") && !line.contains("details")) {
        let outside = without_code(line);
        assert!(!outside.contains('<') && !outside.replace("\\[", "").contains('['), "{outside}");
    }
}

/// `line` without its code spans, as CommonMark finds them.
fn without_code(line: &str) -> String {
    let mut outside = String::new();
    let mut rest = line;
    while let Some(start) = rest.find('`') {
        if rest[..start].ends_with('\\') {
            outside += &rest[..=start];
            rest = &rest[start + 1..];
            continue;
        }
        outside += &rest[..start];
        let fence = rest[start..].chars().take_while(|c| *c == '`').count();
        let body = &rest[start + fence..];
        let mut end = None;
        let mut at = 0;
        while let Some(next) = body[at..].find('`') {
            let run = body[at + next..].chars().take_while(|c| *c == '`').count();
            if run == fence {
                end = Some(at + next);
                break;
            }
            at += next + run;
        }
        match end {
            Some(end) => rest = &body[end + fence..],
            None => panic!("an open code span: {rest}"),
        }
    }
    outside + rest
}

#[test]
fn annotations_name_failures_and_cannot_be_injected() {
    assert_eq!(report::annotations(&samples::good()), "");
    let text = report::annotations(&samples::failing());
    assert!(
        text.starts_with("::error title=silicast%3A sqnr-db::model.layers.1.mlp.up_proj.weight: sqnr-db: "),
        "{text}"
    );
    assert_eq!(text.matches("::error ").count(), 5, "{text}");
    assert_eq!(text.matches("::warning ").count(), 1, "{text}");
    let text = report::annotations(&samples::hostile());
    for line in text.lines() {
        assert!(
            line.starts_with("::error title=silicast") || line.starts_with("::warning title=silicast"),
            "{line}"
        );
    }
    let mut many = samples::good();
    for n in 0..25 {
        many.checks.push(samples::check("x", Level::Tensor, Some(&n.to_string()), Verdict::Fail, ""));
    }
    let text = report::annotations(&many);
    assert_eq!(text.lines().count(), 10);
    assert!(text.ends_with("::16 more, see report.html\n"), "{text}");
}

#[test]
fn pages_stay_small_however_many_tensors_there_are() {
    let report = samples::v3();
    assert!(report.tensors.len() > 80_000, "{}", report.tensors.len());
    for (file, bytes) in report::render(&report) {
        let limit = if file == "report.json" { usize::MAX } else { 2_000_000 };
        assert!(bytes.len() < limit, "{file} has {} bytes", bytes.len());
    }
    // And however many of them failed.
    let mut report = report;
    for check in &mut report.checks {
        check.verdict = Verdict::Fail;
        check.message = "m".repeat(5000);
    }
    for row in &mut report.kernels {
        row.verdict = Some(Verdict::Fail);
    }
    report.verdict = report.verdict_of_parts();
    for (file, bytes) in report::render(&report).into_iter().filter(|(file, _)| *file != "report.json") {
        assert!(bytes.len() < 2_000_000, "{file} has {} bytes", bytes.len());
    }
}

#[test]
fn pages_say_the_verdict_first_and_explain_the_worst() {
    let html = rendered(&samples::failing(), "report.html");
    let document = parse(&html);
    let text =
        |node: roxmltree::Node<'_, '_>| node.descendants().filter_map(|n| n.text()).collect::<String>();
    let heading = text(document.descendants().find(|n| n.has_tag_name("h1")).unwrap());
    assert!(heading.starts_with("✗ Fail"), "{heading}");
    let section = |id: &str| text(document.descendants().find(|n| n.attribute("id") == Some(id)).unwrap());
    assert!(section("failed").contains("expected 0.0014114 (amax/127), found 0.0014396"));
    let worst = section("worst");
    assert!(worst.contains("sqnr_db 17.3 dB, limit 30.0 dB") && worst.contains("0.8 % saturated"), "{worst}");
    for id in [
        "artifact",
        "map",
        "distributions",
        "exponents",
        "kernels",
        "layers",
        "lossless",
        "sizes",
        "checks",
        "reproduce",
    ] {
        assert!(!section(id).is_empty());
    }
    let md = rendered(&samples::failing(), "report.md");
    assert!(md.starts_with("# Validation: fail\n"), "{md}");
    assert!(rendered(&samples::good(), "report.md").starts_with("# Validation: pass\n"));
}

#[test]
fn an_empty_report_renders() {
    let mut report = samples::good();
    report.source = None;
    report.artifact = Subject::default();
    report.checks.clear();
    report.tensors.clear();
    report.kernels.clear();
    report.layers.clear();
    report.notes.clear();
    report.reproduce.clear();
    parse(&rendered(&report, "report.html"));
    assert_eq!(junit_counts(&rendered(&report, "junit.xml")), [0, 0, 0]);
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![8 => Just(Verdict::Pass), 1 => Just(Verdict::Skip), 1 => Just(Verdict::Warn), 1 => Just(Verdict::Fail)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The verdict is `fail` exactly where something failed, and every rendering agrees.
    #[test]
    fn the_verdict_is_fail_exactly_where_something_failed(
        checks in proptest::collection::vec((any_verdict(), 0..5usize, 0..4usize, ".{0,24}"), 0..12),
        kernels in proptest::collection::vec(any_verdict(), 0..3),
        layers in proptest::collection::vec(any_verdict(), 0..3),
    ) {
        let mut report = samples::good();
        let levels = [Level::Structure, Level::Tensor, Level::Kernel, Level::Layer, Level::Model];
        let weight = report.kernels[0].case.clone();
        report.kernels.truncate(kernels.len());
        report.layers.truncate(layers.len());
        report.checks.clear();
        for (verdict, level, tensor, message) in &checks {
            let tensor = [None, Some(weight.as_str()), Some("not.there"), Some("<&>\"'")][*tensor];
            report.checks.push(samples::check("rule", levels[*level], tensor, *verdict, message));
        }
        for (row, verdict) in report.kernels.iter_mut().zip(&kernels) {
            row.verdict = Some(*verdict);
        }
        for (row, verdict) in report.layers.iter_mut().zip(&layers) {
            row.verdict = Some(*verdict);
        }
        report.verdict = report.verdict_of_parts();
        let any = checks.iter().map(|c| c.0).chain(kernels).chain(layers).any(|v| v == Verdict::Fail);
        prop_assert_eq!(report.verdict, if any { Verdict::Fail } else { Verdict::Pass });
        let [_, failures, _] = junit_counts(&rendered(&report, "junit.xml"));
        prop_assert_eq!(failures > 0, any);
        let html = rendered(&report, "report.html");
        parse(&html);
        prop_assert_eq!(html.contains("✗ Fail"), any);
        prop_assert_eq!(html.contains("id=\"failed\""), any);
        prop_assert_eq!(report::markdown(&report).starts_with("# Validation: fail"), any);
        prop_assert_eq!(report::annotations(&report).contains("::error "), any);
    }
}
