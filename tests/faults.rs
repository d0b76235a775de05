//! What survives: kills, signals, full disks, sources that change. After each of them there is no `OUT`, and the same
//! command ends in the bytes of an uninterrupted run.
#![cfg(unix)]
#![expect(clippy::print_stderr, reason = "counts are worth a line of the test log")]
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests make and damage their own files")]

mod support;

use serde_json::Value;
use silicast::exec::journal::Entry;
use silicast::plan::{Plan, cost, parser};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::binary::{Ran, command, convert_args, convert_with, finish, silicast, start};
use support::inputs::{self, Llama};
use support::tree;
use xtask::rng::SplitMix64;

const MODEL: Llama = Llama { hidden: 2048, inter: 5632, layers: 1, vocab: 3000 };
/// Small tiles and shards, so that there are many moments to be killed at.
const SMALL: &[&str] = &["--memory", "64MiB", "--jobs", "8", "--shard-size", "16MB"];

fn partial(out: &Path) -> PathBuf {
    out.with_extension("partial")
}

/// The plan of a conversion with the options [`SMALL`].
fn plan(source: &Path, target: &str, scheme: &str) -> Plan {
    let args =
        ["plan", source.to_str().unwrap(), "--target", target, "--scheme", scheme, "--shard-size", "16MB"];
    parser::parse(&silicast(args).expect(0).stdout).unwrap()
}

/// Bytes of outputs that the complete lines of the journal vouch for.
fn journaled_bytes(plan: &Plan, out: &Path) -> u64 {
    let journal = fs::read(partial(out).join("journal.ndjson")).unwrap_or_default();
    let tasks = cost::tasks(plan).unwrap();
    let complete = journal.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let lines = journal[..complete].split(|b| *b == b'\n').skip(1).filter(|l| !l.is_empty());
    lines
        .map(|line| {
            let entry: Entry = serde_json::from_slice(line).unwrap();
            let task = &tasks[entry.task as usize];
            let (start, end) = entry.range;
            task.outputs.iter().map(|w| w.range(start, end).1).sum::<u64>()
        })
        .sum()
}

/// Waits until the journal of `out` has `lines` lines.
fn wait_for_lines(out: &Path, lines: usize) {
    let journal = partial(out).join("journal.ndjson");
    let since = Instant::now();
    while fs::read(&journal).map_or(0, |j| j.iter().filter(|b| **b == b'\n').count()) < lines {
        assert!(since.elapsed() < Duration::from_secs(60), "no work after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a conversion, waits until some of its work is journaled, and kills it.
fn unfinished(args: &[OsString], out: &Path) {
    let mut child = start(args);
    wait_for_lines(out, 4);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.exists() && partial(out).exists(), "the input is too small for this test");
}

fn number(document: &Value, key: &str) -> u64 {
    document[key].as_u64().unwrap_or_else(|| panic!("{key} in {document}"))
}

/// Lets `child` run to a random instant of one of three kinds, whatever the speed of the machine: soon after its start;
/// somewhere in the work; near the end, where files are finished, listed and renamed.
fn run_to_some_instant(child: &mut Child, kind: u32, out: &Path, lines: usize, rng: &mut SplitMix64) {
    let journal = partial(out).join("journal.ndjson");
    let count = || fs::read(&journal).map_or(0, |j| j.iter().filter(|b| **b == b'\n').count());
    let present = count();
    let wanted = present + 1 + rng.below(lines.saturating_sub(present).max(1));
    let late = ["done.1-of-1.json", "silicast/manifest.json"][rng.below(2)];
    let reached = || match kind {
        0 => true,
        1 => count() >= wanted,
        _ => partial(out).join(late).exists(),
    };
    while !reached() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(Duration::from_micros(match kind {
        0 => rng.below(80_000),
        1 => rng.below(4_000),
        _ => rng.below(6_000),
    } as u64));
}

/// At least 60 kills at random instants, several in a row into the same output until it is complete: there never is an
/// incomplete `OUT`, no journaled work is done twice, and the bytes are those of an uninterrupted run.
#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    const KILLS: [u32; 3] = [20, 20, 20];
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source");
    MODEL.write(&source, 2);
    let reference = root.path().join("reference");
    let args = |out: &Path| convert_with(&source, out, "ascend-910b", "W8A8_DYNAMIC", SMALL);
    silicast(args(&reference)).expect(0);
    let expected = tree::digest(&reference);
    let plan = plan(&source, "ascend-910b", "W8A8_DYNAMIC");
    let total = plan.output_bytes();
    // Tiles of at most 4 MiB of input and output: a lower bound for the lines of a journal.
    let lines = (total >> 21) as usize;

    let mut rng = SplitMix64::new(0x51);
    let (mut kills, mut late, mut kept) = ([0; 3], 0, 0u64);
    for round in 0..200 {
        let out = root.path().join(format!("out{round}"));
        for _ in 0..6 {
            let kind =
                (0..3u32).find(|k| kills[*k as usize] < KILLS[*k as usize] && rng.below(2) == 0).unwrap_or(1);
            let mut child = start(args(&out));
            run_to_some_instant(&mut child, kind, &out, lines, &mut rng);
            child.kill().unwrap();
            if child.wait().unwrap().success() || out.exists() {
                late += 1;
                break;
            }
            kills[kind as usize] += 1;
        }
        if !out.exists() {
            let journaled = journaled_bytes(&plan, &out);
            kept += journaled;
            let ran =
                silicast(args(&out).iter().map(OsString::as_os_str).chain([OsStr::new("--json")])).expect(0);
            let report = ran.json();
            let (resumed, written, read) = (
                number(&report, "resumed_bytes"),
                number(&report, "written_bytes"),
                number(&report, "read_bytes"),
            );
            assert_eq!(resumed + written, total, "{report}");
            // Sealed already but for the rename: then everything counts, whatever is left of the journal.
            assert!(resumed == journaled || resumed == total, "{journaled} bytes were journaled: {report}");
            let rest = plan.read_bytes() as f64 * written as f64 / total as f64;
            assert!(read as f64 <= rest * 1.3 + 1e6, "{read} bytes read for {written} written");
        }
        assert!(!partial(&out).exists());
        assert_eq!(tree::digest(&out), expected, "round {round}");
        silicast([OsStr::new("verify"), out.as_os_str()]).expect(0);
        fs::remove_dir_all(&out).unwrap();
        if kills.iter().zip(KILLS).all(|(done, wanted)| *done >= wanted) {
            break;
        }
    }
    eprintln!("{kills:?} kills, {late} came too late; {kept} bytes of finished work were kept");
    assert!(kills.iter().sum::<u32>() >= 60 && kills[2] >= 10, "{kills:?} kills");
    assert!(kept > total / 4, "the kills came too early to test resumption");
}

#[test]
fn a_signal_ends_in_exit_6_and_the_run_resumes() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source");
    MODEL.write(&source, 2);
    let reference = root.path().join("reference");
    silicast(convert_with(&source, &reference, "vllm", "FP8_BLOCK", SMALL)).expect(0);
    let plan = plan(&source, "vllm", "FP8_BLOCK");
    for signal in ["INT", "TERM"] {
        let out = root.path().join(signal);
        let args = convert_with(&source, &out, "vllm", "FP8_BLOCK", SMALL);
        let mut command = command(&args);
        let child = command.arg("--json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_lines(&out, 3);
        assert!(
            Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success()
        );
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "SIG{signal}: {stderr}");
        assert!(stderr.contains("interrupted:") && stderr.contains("resume"), "{stderr}");
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["error"]["exit_code"], 6);
        assert!(!out.exists() && partial(&out).exists());
        let journaled = journaled_bytes(&plan, &out);
        let ran = silicast(args.iter().map(OsString::as_os_str).chain([OsStr::new("--json")])).expect(0);
        assert_eq!(number(&ran.json(), "resumed_bytes"), journaled);
        tree::assert_equal(&reference, &out);
    }
}

/// What changed between a kill and the next run is never mixed: content, length, time stamps, a shard's name.
#[test]
fn a_source_that_changed_since_is_refused_and_restart_takes_it() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("source");
    MODEL.write(&source, 2);
    let first = source.join("model-00001-of-00002.safetensors");
    let last = source.join("model-00002-of-00002.safetensors");
    let out = root.path().join("out");
    let args = convert_with(&source, &out, "vllm", "W8A8", SMALL);

    unfinished(&args, &out);
    let before = fs::metadata(&last).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&last).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, before.len() - 1).unwrap();
    file.write_all_at(&[byte[0] ^ 1], before.len() - 1).unwrap();
    // A restored time stamp does not hide the change.
    file.set_modified(before.modified().unwrap()).unwrap();
    let refused = |name: &str| {
        silicast(&args).expect(4).says(&["error:", name, "--restart"]);
        assert!(!out.exists());
    };
    refused("model-00002-of-00002.safetensors");
    let mut restart = args.clone();
    restart.push("--restart".into());
    let report =
        silicast(restart.iter().map(OsString::as_os_str).chain([OsStr::new("--json")])).expect(0).json();
    assert_eq!(number(&report, "resumed_bytes"), 0);
    let fresh = root.path().join("fresh");
    silicast(convert_with(&source, &fresh, "vllm", "W8A8", SMALL)).expect(0);
    tree::assert_equal(&fresh, &out);
    fs::remove_dir_all(&out).unwrap();

    // The same bytes at another inode: a download that was repeated.
    unfinished(&args, &out);
    fs::copy(&first, source.join("copy")).unwrap();
    fs::rename(source.join("copy"), &first).unwrap();
    refused("model-00001-of-00002.safetensors");
    fs::remove_dir_all(partial(&out)).unwrap();

    unfinished(&args, &out);
    File::options().write(true).open(&last).unwrap().set_len(before.len() - 1).unwrap();
    silicast(&args).expect(4).says(&["model-00002-of-00002.safetensors"]);
    assert!(!out.exists());
}

#[test]
fn a_source_truncated_or_rewritten_during_the_run_leaves_no_output() {
    let root = tempfile::tempdir().unwrap();
    for case in ["truncated", "rewritten"] {
        let source = root.path().join(case);
        MODEL.write(&source, 2);
        let last = source.join("model-00002-of-00002.safetensors");
        let out = root.path().join(format!("{case}-out"));
        let mut command =
            command(convert_with(&source, &out, "vllm", "W8A8", &["--jobs", "1", "--memory", "64MiB"]));
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_lines(&out, 2);
        let file = File::options().write(true).open(&last).unwrap();
        match case {
            "truncated" => file.set_len(4 << 20).unwrap(),
            _ => file.write_all_at(&[7; 64], file.metadata().unwrap().len() - 64).unwrap(),
        }
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        assert!(code == Some(4) || code == Some(5), "{case}: exit {code:?}\n{stderr}");
        assert!(stderr.contains("model-00002-of-00002.safetensors"), "{stderr}");
        assert!(!out.exists());
    }
}

/// Runs the test `name` of this binary again in a mount namespace of its own, where it may mount file systems that
/// vanish with it. `true` in the inner process.
fn in_mount_namespace(name: &str) -> bool {
    const INNER: &str = "SILICAST_TEST_MOUNTS";
    if std::env::var_os(INNER).is_some() {
        return true;
    }
    let exe = std::env::current_exe().unwrap();
    let flags = ["-m", "-rm"].into_iter().find(|flags| {
        let probe = Command::new("unshare")
            .args([flags, "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"])
            .output();
        probe.is_ok_and(|o| o.status.success())
    });
    let flags = flags.expect("mounting a tmpfs is needed: run as root, or where `unshare -rm` works");
    let output = Command::new("unshare")
        .arg(flags)
        .arg(exe)
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INNER, "1")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

fn mount(options: &str, at: &Path) {
    let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A disk of every size from nothing to just too little: exit 5, no output; with more room the same command ends well.
#[test]
fn a_full_disk_is_exit_5_and_the_run_resumes_once_there_is_room() {
    if !in_mount_namespace("a_full_disk_is_exit_5_and_the_run_resumes_once_there_is_room") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3");
    let reference = root.path().join("reference");
    silicast(convert_args(&source, &reference, "vllm", "FP8_BLOCK")).expect(0);
    let needed: u64 = tree::files(&reference).values().map(|b| b.len() as u64).sum();
    let disk = root.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mut failures = 0;
    for size in (1..=24).map(|i| needed * i / 24) {
        mount(&format!("size={}", size.next_multiple_of(4096)), &disk);
        let out = disk.join("out");
        let args = convert_with(&source, &out, "vllm", "FP8_BLOCK", &["--memory", "64MiB"]);
        let ran = silicast(&args);
        if ran.code != Some(0) {
            failures += 1;
            let ran = ran.expect(5).says(&["error:", "file:", "found:", "fix:"]);
            assert!(
                ran.stderr.contains("No space left") || ran.stderr.contains("does not fit"),
                "{}",
                ran.stderr
            );
            assert!(!out.exists(), "{size} bytes");
            let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk).status().unwrap();
            assert!(grown.success());
            silicast(&args).expect(0);
        }
        tree::assert_equal(&reference, &out);
        assert_eq!(tree::names(&disk), ["out"]);
        assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    }
    assert!(failures >= 20, "{failures} failures");
}

/// Something else fills the disk after the shards have their room: journal, side files, records and manifest fail.
#[test]
fn a_disk_that_fills_up_during_the_work_is_exit_5_too() {
    if !in_mount_namespace("a_disk_that_fills_up_during_the_work_is_exit_5_too") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3");
    let reference = root.path().join("reference");
    silicast(convert_args(&source, &reference, "ascend-910b", "W8A8_DYNAMIC")).expect(0);
    let disk = root.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let (mut converting, mut finalizing) = (0, 0);
    for spare_pages in (0..12).chain((1..10).map(|i| 12 + 6 * i)) {
        mount("size=16m", &disk);
        let out = disk.join("out");
        let sliced = convert_with(&source, &out, "ascend-910b", "W8A8_DYNAMIC", &["--slice", "1/1"]);
        silicast(&sliced).expect(0);
        fs::remove_file(partial(&out).join("done.1-of-1.json")).unwrap();
        let journal = partial(&out).join("journal.1-of-1.ndjson");
        let half = fs::metadata(&journal).unwrap().len() / 2;
        File::options().write(true).open(&journal).unwrap().set_len(half).unwrap();
        let filler = File::create(disk.join("filler")).unwrap();
        let free = |path: &Path| {
            let stat = rustix::fs::statvfs(path).unwrap();
            stat.f_bavail * stat.f_bsize
        };
        filler.write_all_at(&vec![1; (free(&disk) - spare_pages * 4096) as usize], 0).unwrap();
        for finalize in [false, true] {
            let ran = match finalize {
                false => silicast(&sliced),
                true => silicast([OsStr::new("finalize"), out.as_os_str()]),
            };
            if ran.code != Some(0) {
                let ran = ran.expect(5).says(&["error:", "file:"]);
                assert!(
                    ran.stderr.contains("No space left") && ran.stderr.contains("free space"),
                    "{}",
                    ran.stderr
                );
                assert!(!out.exists());
                *if finalize { &mut finalizing } else { &mut converting } += 1;
                break;
            }
        }
        drop(filler);
        fs::remove_file(disk.join("filler")).unwrap();
        if !out.exists() {
            silicast(&sliced).expect(0);
            silicast([OsStr::new("finalize"), out.as_os_str()]).expect(0);
        }
        tree::assert_equal(&reference, &out);
        assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    }
    eprintln!("{converting} failures while converting, {finalizing} while finalizing");
    assert!(
        converting >= 3 && finalizing >= 3,
        "{converting} failures while converting, {finalizing} while finalizing"
    );
}

/// A write that fails for a reason of its own: the limit on the size of a file.
#[test]
fn a_file_size_limit_is_exit_5_and_the_run_resumes_without_it() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "qwen3-fp8");
    let reference = root.path().join("reference");
    silicast(convert_args(&source, &reference, "vllm", "BF16")).expect(0);
    let shard = fs::metadata(reference.join("model.safetensors")).unwrap().len();
    for blocks in [1, 2, 8, 64, shard / 512 - 1] {
        let out = root.path().join(format!("out{blocks}"));
        let args = convert_args(&source, &out, "vllm", "BF16");
        let mut limited = Command::new("sh");
        limited
            .args([
                "-c",
                &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""),
                support::binary::SILICAST,
            ])
            .args(&args);
        finish(&mut limited).expect(5).says(&["error:", "file:"]);
        assert!(!out.exists());
        silicast(&args).expect(0);
        tree::assert_equal(&reference, &out);
    }
}

/// Places that cannot be written to: the error names them, and nothing is left behind.
#[test]
fn unwritable_outputs_are_exit_5() {
    if !in_mount_namespace("unwritable_outputs_are_exit_5") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let sealed = root.path().join("sealed");
    fs::create_dir(&sealed).unwrap();
    mount("ro,size=1m", &sealed);
    fs::write(root.path().join("file"), b"x").unwrap();
    for out in [
        sealed.join("out"),
        root.path().join("file/out"),
        root.path().join("missing/folder/out"),
        PathBuf::from("/proc/silicast/out"),
    ] {
        let ran = silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(5);
        let ran = ran.says(&["error:", "out.partial", "found:"]);
        assert!(ran.stderr.lines().count() < 12, "{}", ran.stderr);
        assert!(!out.exists());
    }
    assert_eq!(tree::names(root.path()), ["file", "llama-single", "sealed"]);
    // A link in the place of the work folder is not followed.
    symlink(root.path(), root.path().join("linked.partial")).unwrap();
    let ran = silicast(convert_args(&source, &root.path().join("linked"), "vllm", "W8A8"));
    assert!(ran.code == Some(5) || ran.code == Some(2), "{ran:?}");
    assert_eq!(tree::names(root.path()), ["file", "linked.partial", "llama-single", "sealed"]);
}

/// Results that cannot be printed are errors; a reader that went away is none worth a word.
#[test]
fn a_full_or_closed_standard_output_is_exit_5() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "llama-single");
    let out = root.path().join("out");
    silicast(convert_args(&source, &out, "vllm", "W8A8")).expect(0);
    let (source, out) = (source.to_str().unwrap(), out.to_str().unwrap());
    let full = |args: &[&str]| -> Ran {
        let mut command = command(args);
        let output = command.stdout(File::options().write(true).open("/dev/full").unwrap()).output().unwrap();
        Ran {
            command: format!("{command:?}"),
            code: output.status.code(),
            stdout: String::new(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    };
    for args in [
        &["inspect", source][..],
        &["inspect", source, "--json"],
        &["targets", "--json"],
        &["targets"],
        &["plan", source, "--target", "vllm"],
        &["plan", source, "--target", "vllm", "--json"],
        &["plan", source, "--target", "vllm", "--cache-key"],
        &["verify", out],
        &["verify", out, "--json"],
        &["diff", source, out, "--json"],
        &["completions", "bash"],
        &["man"],
    ] {
        full(args).expect(5).says(&["error: cannot write to standard output"]);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command(args).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{args:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("error"), "{args:?}");
    }
    // The artifact is complete all the same.
    let second = root.path().join("second");
    full(&["convert", source, "-o", second.to_str().unwrap(), "--target", "vllm", "--json"]).expect(5);
    tree::assert_equal(Path::new(out), &second);
}

/// Bytes that rot in an unfinished output are found by their hash and made again.
#[test]
fn damaged_unfinished_work_is_done_again() {
    let root = tempfile::tempdir().unwrap();
    let source = inputs::fixture(root.path(), "deepseek-v3.2");
    let reference = root.path().join("reference");
    silicast(convert_args(&source, &reference, "hygon-bw1000", "W8A8")).expect(0);
    let out = root.path().join("out");
    let sliced = convert_with(&source, &out, "hygon-bw1000", "W8A8", &["--slice", "1/1"]);
    silicast(&sliced).expect(0);
    fs::remove_file(partial(&out).join("done.1-of-1.json")).unwrap();
    let shard = partial(&out).join("model.safetensors");
    let whole = fs::read(&shard).unwrap();
    let mut rng = SplitMix64::new(7);
    for round in 0..6 {
        let mut bytes = whole.clone();
        match round {
            // A shard that is gone, one that is cut short, and bits that flipped.
            0 => fs::remove_file(&shard).unwrap(),
            1 => fs::write(&shard, &whole[..whole.len() / 2]).unwrap(),
            _ => {
                for _ in 0..3 {
                    let at = rng.below(bytes.len());
                    bytes[at] ^= 1 << rng.below(8);
                }
                fs::write(&shard, bytes).unwrap();
            }
        }
        let report =
            silicast(sliced.iter().map(OsString::as_os_str).chain([OsStr::new("--json")])).expect(0).json();
        assert!(number(&report, "resumed_bytes") + number(&report, "written_bytes") > 0);
        assert!(fs::read(&shard).unwrap() == whole, "round {round}");
        fs::remove_file(partial(&out).join("done.1-of-1.json")).unwrap();
    }
    silicast(&sliced).expect(0);
    silicast([OsStr::new("finalize"), out.as_os_str()]).expect(0);
    tree::assert_equal(&reference, &out);
}
