//! The command: documents, exit codes, gates, sampling, determinism, memory.

use crate::seeds::{Lab, edit_f32, request};
use crate::support::binary::{Ran, command, convert_args, finish, silicast};
use crate::support::inputs::Llama;
use serde_json::Value;
use silicast::report::model::Level;
use silicast::validate::run;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

const UP: &str = "model.layers.1.mlp.experts.0.up_proj";

fn args<'a>(artifact: &'a Path, source: Option<&'a Path>, more: &'a [&'a str]) -> Vec<&'a OsStr> {
    let mut args: Vec<&OsStr> = vec!["validate".as_ref(), artifact.as_os_str()];
    if let Some(source) = source {
        args.extend([OsStr::new("--against"), source.as_os_str()]);
    }
    args.extend(more.iter().map(OsStr::new));
    args
}

fn validate(lab: &Lab, more: &[&str]) -> Ran {
    silicast(args(&lab.artifact, Some(&lab.source), more))
}

fn ids(report: &Value, verdict: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|c| c["verdict"] == verdict);
    checks.map(|c| c["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_command_line_and_its_documents() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "W8A8", |_| {});
    let said = validate(&lab, &[]).expect(0).stdout;
    assert!(said.starts_with("pass: deepseek_v3, vllm, W8A8,"), "{said}");
    let report = validate(&lab, &["--json"]).expect(0).json();
    assert_eq!(report["schema_version"], 1);
    assert_eq!((&report["verdict"], &report["level"]), (&"pass".into(), &"tensor".into()));
    let row =
        report["tensors"].as_array().unwrap().iter().find(|t| t["name"] == format!("{UP}.weight")).unwrap();
    let db = row["sqnr_db"].as_f64().unwrap();
    assert!((35.0..50.0).contains(&db), "{row}");
    assert!(
        row["scale_exponents"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>() == 128
    );

    // Without a source: the structure alone; a deeper level is refused.
    let alone = silicast(args(&lab.artifact, None, &["--json"])).expect(0).json();
    assert_eq!(alone["level"], "structure");
    silicast(args(&lab.artifact, None, &["--level", "tensor"])).expect(2).says(&["--against"]);
    silicast(args(&lab.artifact, Some(&lab.source), &["--fail-on", "beauty=1"])).expect(2).says(&["sqnr_db"]);
    silicast(args(&lab.artifact, Some(&lab.source), &["--sample", "0"])).expect(2);
    silicast(args(&lab.artifact, Some(&lab.source), &["--max-regress", "1"])).expect(2);
    silicast(args(&lab.artifact.join("nowhere"), None, &[])).expect(5);
    silicast(args(&lab.artifact, Some(&lab.artifact.join("silicast")), &[])).expect(4);

    // Gates.
    validate(&lab, &["--fail-on", "sqnr_db=20,cosine=0.99,max_rel=2"]).expect(0);
    let strict =
        validate(&lab, &["--json", "--fail-on", "sqnr_db=60", "--fail-on", "wrong_codes=0"]).expect(1).json();
    assert!(ids(&strict, "fail").iter().all(|id| id == "limit-sqnr-db"), "{:?}", ids(&strict, "fail"));
    assert!(ids(&strict, "pass").contains(&"limit-wrong-codes".to_owned()));
    validate(&lab, &["--fail-on", "sqnr_db=60", "--warn-only"]).expect(0);
    let kernel = validate(&lab, &["--json", "--fail-on", "calc_diff=1e-9"]).expect(0).json();
    assert_eq!(ids(&kernel, "skip"), ["limit-calc-diff"]);

    // A baseline.
    let dir = tempfile::tempdir().unwrap();
    let reports = dir.path().join("reports");
    let said = validate(&lab, &["--report", reports.to_str().unwrap()]).expect(0);
    assert!(said.stderr.is_empty(), "{}", said.stderr);
    for name in ["report.json", "report.html", "report.md", "junit.xml"] {
        assert!(fs::metadata(reports.join(name)).unwrap().len() > 100, "{name}");
    }
    let baseline = reports.join("report.json");
    let against = |more: &[&str]| {
        let mut list = vec!["--json", "--baseline", baseline.to_str().unwrap(), "--max-regress", "0"];
        list.extend(more);
        validate(&lab, &list)
    };
    against(&[]).expect(0);
    let mut before: Value = serde_json::from_slice(&fs::read(&baseline).unwrap()).unwrap();
    let row =
        before["tensors"].as_array_mut().unwrap().iter_mut().find(|t| t["name"] == format!("{UP}.weight"));
    row.unwrap()["sqnr_db"] = Value::from(db + 1.0);
    fs::write(&baseline, before.to_string()).unwrap();
    let worse = against(&[]).expect(1).json();
    assert_eq!(ids(&worse, "fail"), ["regression"]);

    // A runner of GitHub Actions.
    let summary = dir.path().join("summary.md");
    let mut run = command(args(&lab.artifact, Some(&lab.source), &["--fail-on", "sqnr_db=60"]));
    run.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", &summary);
    assert!(finish(&mut run).expect(1).stderr.contains("::error"));
    assert!(fs::metadata(summary).unwrap().len() > 100);
}

#[test]
fn failures_are_explained_to_people() {
    let lab = Lab::new("deepseek-v3.1", "vllm", "W8A8", |_| {});
    edit_f32(&lab.artifact, &format!("{UP}.weight_scale"), |s| s[3] *= 1.02);
    let said = validate(&lab, &[]).expect(1).stdout;
    assert!(said.starts_with("fail: "), "{said}");
    for text in [
        "fail digests model.safetensors",
        &format!("fail scales {UP}.weight"),
        "[3, 0]",
        "1.0200 times",
        "fix: ",
    ] {
        assert!(said.contains(text), "{text}\n{said}");
    }
}

#[test]
fn reports_do_not_depend_on_threads_memory_or_instruction_set() {
    let lab = Lab::new("ragged-192", "vllm", "FP8_DYNAMIC", |_| {});
    let json = |more: &[&str], isa: Option<&str>| {
        let mut list = vec!["--json", "--level", "kernel"];
        list.extend(more);
        let mut run = command(args(&lab.artifact, Some(&lab.source), &list));
        if let Some(isa) = isa {
            run.env("SILICAST_ISA", isa);
        }
        finish(&mut run).expect(0).stdout
    };
    let expected = json(&["--jobs", "1"], None);
    assert_eq!(json(&["--jobs", "7", "--memory", "64MiB"], None), expected);
    for isa in silicast::kernel::Isa::available() {
        assert_eq!(json(&["--jobs", "2"], Some(isa.name())), expected, "{}", isa.name());
    }
}

#[test]
fn samples_are_fixed_and_smaller() {
    let lab = Lab::new("qwen3-fp8", "metax-c500", "W8A8", |_| {});
    let mut sampled = request(&lab.artifact, Some(&lab.source));
    sampled.sample = 0.3;
    let report = run(&sampled).unwrap();
    assert_eq!(report.sampled, 0.3);
    assert!(report.checks.iter().any(|c| c.id == "digests" && c.message.contains("not every byte")));
    assert_eq!(report.verdict, silicast::report::model::Verdict::Pass);
    assert_eq!(run(&sampled).unwrap(), report);
    sampled.level = Some(Level::Structure);
    assert_eq!(run(&sampled).unwrap().level, Level::Structure);
}

/// Peak memory stays below the budget plus 128 MiB for a model of more than ten times the budget.
#[test]
#[cfg(target_os = "linux")]
fn memory_is_bounded() {
    let root = tempfile::tempdir().unwrap();
    let (source, out) = (root.path().join("source"), root.path().join("out"));
    Llama { hidden: 2048, inter: 5632, layers: 6, vocab: 16_000 }.write_sparse(&source, 3);
    silicast(convert_args(&source, &out, "metax-c500", "W8A8")).expect(0);
    // The peak as the kernel counts it, looked at until the program ends.
    let wrapper = r#""$0" validate "$1" --against "$2" --memory 64MiB --jobs 4 --json > "$3" &
        pid=$!; peak=0
        while kill -0 $pid 2>/dev/null; do
            now=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' /proc/$pid/status 2>/dev/null)
            [ "${now:-0}" -gt $peak ] && peak=$now
            sleep 0.02
        done
        wait $pid; code=$?; echo $peak; exit $code"#;
    let report = root.path().join("report.json");
    let output = std::process::Command::new("bash")
        .args(["-c", wrapper, crate::support::binary::SILICAST])
        .args([&out, &source, &report])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let peak: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    let limit = (64 + 128) << 10;
    assert!(peak > 1 << 10 && peak <= limit, "{peak} KiB of {limit}");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["verdict"], "pass");
}
