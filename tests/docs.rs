//! The documentation against the program: derived pages are fresh, links lead somewhere, commands work, the transcript
//! in the README is what the program prints, and the examples of plan and manifest are accepted.
//!
//! `UPDATE_EXPECT=1` rewrites the transcript.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may open files and fail")]

use clap::Parser;
use silicast::artifact::manifest::read_manifest;
use silicast::cli::Cli;
use silicast::error::Class;
use silicast::plan::{parser, printer, verifier};
use silicast::targets;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every Markdown file of the repository, relative to its root.
fn pages() -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let skipped = name.starts_with('.') || name == "target" || name.ends_with(".partial");
            if path.is_dir() && !skipped {
                walk(&path, found);
            } else if name.ends_with(".md") {
                found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), &mut found);
    found.sort();
    assert!(found.len() > 10, "{found:?}");
    found
}

/// The fenced blocks of a page: language and content.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.trim().to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block is not closed");
    blocks
}

/// The only block of a page in that language that contains `part`.
fn block(page: &str, language: &str, part: &str) -> String {
    let mut found: Vec<String> = blocks(&read(page))
        .into_iter()
        .filter(|(l, text)| l == language && text.contains(part))
        .map(|(_, text)| text)
        .collect();
    assert_eq!(found.len(), 1, "{page}: blocks in {language} with {part:?}");
    found.remove(0)
}

/// Commands of the `sh` blocks of a page, each as its words.
fn commands(page: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for (_, text) in blocks(&read(page)).into_iter().filter(|(language, _)| language == "sh") {
        for line in text.replace("\\\n", " ").lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'))
        {
            commands.push(words(line));
        }
    }
    commands
}

/// Splits a command line at spaces outside single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut quoted = false;
    let mut fresh = true;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => fresh = true,
            c => {
                if std::mem::take(&mut fresh) {
                    words.push(String::new());
                }
                words.last_mut().unwrap().push(c);
            }
        }
    }
    assert!(!quoted, "{line}");
    words
}

fn silicast(arguments: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_silicast")).args(arguments).current_dir(root()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn derived_pages_are_fresh() {
    xtask::generate::check(root()).unwrap();
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut links = 0;
    for page in pages() {
        let text = read(&page);
        let mut fenced = false;
        for line in text.lines() {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for link in line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link)
            {
                if link.starts_with("https://") || link.starts_with("mailto:") {
                    continue;
                }
                links += 1;
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target: PathBuf = match file {
                    "" => root().join(&page),
                    file => root().join(&page).parent().unwrap().join(file),
                };
                assert!(target.exists(), "{page}: {link} does not exist");
                if !anchor.is_empty() {
                    let headings = headings(&fs::read_to_string(&target).unwrap());
                    assert!(
                        headings.iter().any(|h| h == anchor),
                        "{page}: {link}: headings are {headings:?}"
                    );
                }
            }
        }
    }
    assert!(links > 40, "{links} links: is the pattern right?");
}

/// Anchors of a page's headings, as GitHub forms them.
fn headings(page: &str) -> Vec<String> {
    page.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn command_lines_are_accepted() {
    let tasks = read("xtask/src/main.rs");
    let mut seen = 0;
    // The README of a pack speaks of the pack's own folder; the tests of packs run its commands.
    for page in pages().into_iter().filter(|page| page != "src/kernel/emit/README.md") {
        for command in commands(&page) {
            seen += 1;
            let shown = format!("{page}: {}", command.join(" "));
            let words: Vec<&str> = command
                .iter()
                .map(String::as_str)
                .skip_while(|w| w.contains('=') && !w.contains(' '))
                .collect();
            let parse = |arguments: &[&str]| {
                let all = ["silicast"].iter().chain(arguments);
                if let Err(error) = Cli::try_parse_from(all) {
                    panic!("{shown}: {error}");
                }
            };
            match words[..] {
                ["silicast", ref arguments @ ..] => parse(arguments),
                ["cargo", "run", "--release", "--", ref arguments @ ..] => parse(arguments),
                ["cargo", "xtask", task, ..] => assert!(tasks.contains(&format!("[\"{task}\"")), "{shown}"),
                ["cargo", "test", "--test", name] => {
                    assert!(root().join(format!("tests/{name}.rs")).exists(), "{shown}");
                }
                ["cargo", "build" | "test" | "install" | "fmt" | "clippy" | "deny" | "bench" | "doc", ..] => {
                }
                ["python", script, ..] => assert!(root().join(script).exists(), "{shown}"),
                _ => panic!("{shown}: an unknown program or task"),
            }
        }
    }
    assert!(seen > 12, "{seen} commands: is the pattern right?");
}

#[test]
fn the_commands_of_the_readme_work_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut ran = 0;
    for command in commands("README.md").iter().filter(|c| c[0] == "silicast") {
        let prefix = format!("{}/", dir.path().display());
        let arguments: Vec<String> = command[1..]
            .iter()
            .map(|word| {
                word.strip_prefix("target/").map_or_else(|| word.clone(), |rest| prefix.clone() + rest)
            })
            .collect();
        let output = silicast(&arguments);
        // Quantization changes values, which `diff` reports with its exit code.
        let expected = if arguments[0] == "diff" { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{}\n{}", command.join(" "), stderr(&output));
        ran += 1;
    }
    assert!(ran >= 8, "{ran} commands");
}

#[test]
fn the_transcript_of_the_readme_is_what_convert_prints() {
    let block = block("README.md", "console", "$ silicast convert ");
    let (command, shown) = block.split_once('\n').unwrap();
    let words = words(command.strip_prefix("$ ").unwrap());
    let run_line = format!("cargo run --release -- {}", words[1..].join(" "));
    assert!(
        read("README.md").contains(&format!("```sh\n{run_line}\n```")),
        "not the first command: {command}"
    );

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo").to_string_lossy().into_owned();
    let arguments: Vec<String> =
        words[1..].iter().map(|w| if w == "target/demo" { out.clone() } else { w.clone() }).collect();
    let output = silicast(&arguments);
    assert!(output.status.success() && output.stdout.is_empty(), "{}", stderr(&output));
    let printed = stderr(&output).replace(&out, "target/demo");

    // Time and peak memory are the machine's; the bytes before them are not.
    // The bound on memory counts the tiles of all cores.
    let fixed = |line: &str| {
        let ends = [" written in ", "; peak memory at most "];
        let found = ends.iter().find_map(|end| line.split_once(end));
        found.map_or(line, |(fixed, _)| fixed).trim_end().to_owned()
    };
    let expected: Vec<String> = shown.lines().map(fixed).collect();
    let found: Vec<String> = printed.lines().map(fixed).collect();
    if expected != found && std::env::var_os("UPDATE_EXPECT").is_some() {
        let mut text = format!("{command}\n");
        for line in printed.lines() {
            let known = shown.lines().find(|old| old.contains(" written in ") && fixed(old) == fixed(line));
            text += known.unwrap_or(line).trim_end();
            text.push('\n');
        }
        let readme = read("README.md").replace(&block, &text);
        fs::write(root().join("README.md"), readme).unwrap();
        return;
    }
    assert_eq!(expected.join("\n"), found.join("\n"), "UPDATE_EXPECT=1 rewrites the transcript");
}

#[test]
fn the_example_plan_parses_verifies_and_prints_itself() {
    let text = block("docs/plan-language.md", "plan", "silicast-plan");
    let plan = parser::parse(&text).unwrap();
    verifier::verify(&plan).unwrap();
    assert_eq!(printer::to_text(&plan), text);
    assert_eq!([plan.inputs.len(), plan.outputs.len(), plan.drops.len(), plan.shards.len()], [4, 4, 1, 1]);

    // The manifest of the other page is of this plan.
    let manifest = block("docs/artifact.md", "json", "schema_version");
    let manifest = read_manifest(manifest.as_bytes(), true).unwrap();
    assert_eq!(manifest.head.plan_digest, printer::digest(&plan));
    assert_eq!(manifest.tensors.len(), plan.outputs.len() + plan.drops.len());
}

#[test]
fn every_rule_of_a_target_and_every_exit_code_is_described() {
    let numerics = read("docs/numerics.md");
    for preset in targets::all().iter().flat_map(|t| &t.schemes) {
        if let Some(scheme) = preset.encoding {
            let row = format!("\n| `{}` |", scheme.rule.name());
            assert!(numerics.contains(&row), "docs/numerics.md: no row {row}");
        }
    }
    let classes = [
        Class::Gate,
        Class::Usage,
        Class::Unsupported,
        Class::Input,
        Class::Io,
        Class::Interrupted,
        Class::Internal,
    ];
    for page in ["README.md", "docs/artifact.md"] {
        for code in classes.map(Class::exit_code).iter().chain(&[0]) {
            assert!(read(page).contains(&format!("\n| {code} | ")), "{page}: no exit code {code}");
        }
    }
}

#[test]
fn ci_ends_with_the_test_command_of_the_readme() {
    let script = read(".ci/run");
    let last = script.lines().rfind(|line| !line.is_empty()).unwrap();
    assert_eq!(last, "cargo test --workspace");
    assert!(read("README.md").contains(&format!("```sh\n{last}\n```")));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(root().join(".ci/run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, ".ci/run is not executable");
    }
}

/// `docs/kernels.md`, from the catalog.
fn kernels_page() -> String {
    use silicast::kernel::reference::catalog::{Arg, kernels};
    use std::fmt::Write as _;
    let mut page = String::from(
        "<!-- Written by `UPDATE_EXPECT=1 cargo test --test docs`; do not edit. -->\n# Reference kernels\n\n\
         What `src/kernel/reference/` computes, `silicast kernels` emits as C, NumPy and ONNX, and golden sets hold every \
         implementation to. [Numerics](numerics.md) says\nwhy, and what other choices cost. Matrices are row-major, \
         weights are `[N = out, K = in]`; a name that ends in ? is optional; `e8` is E8M0.\n",
    );
    let list = |args: &[Arg]| -> String {
        let one = |a: &Arg| format!("`{}{}` {}", a.name, if a.optional { "?" } else { "" }, a.form);
        args.iter().map(one).collect::<Vec<_>>().join(" · ")
    };
    for kernel in kernels() {
        let _ = write!(
            page,
            "\n## {}\n\n{}\n\n- inputs: {}\n- outputs: {}\n",
            kernel.name,
            kernel.semantics,
            list(kernel.inputs),
            list(kernel.outputs)
        );
        if !kernel.params.is_empty() {
            page.push_str("\n| parameter | values | default |\n|---|---|---|\n");
            for param in kernel.params {
                let values = param.values.replace('|', "\\|");
                let _ = writeln!(page, "| `{}` | {values} | `{}` |", param.name, param.default);
            }
        }
    }
    page
}

#[test]
fn the_page_of_kernels_is_what_the_catalog_says() {
    let expected = kernels_page();
    let path = root().join("docs/kernels.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    assert!(read("docs/kernels.md") == expected, "docs/kernels.md is stale: UPDATE_EXPECT=1 rewrites it");
}
