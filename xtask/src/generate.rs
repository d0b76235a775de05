//! Documentation that is derived from the code: `docs/passes.md`, `docs/targets.md`, `docs/report.schema.json` and the
//! table in `README.md`.
//!
//! The schema comes from the types ([`crate::schema`]). All else comes from text: the order of `passes/mod.rs` and the module comments of the passes, the TOML files of the
//! targets in the order of `targets/mod.rs`. `cargo xtask gen` writes the files, `cargo xtask gen --check` and a test
//! fail when one is stale.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Around the table in `README.md`.
const MARKERS: [&str; 2] = ["<!-- targets: written by `cargo xtask gen` -->\n", "<!-- /targets -->\n"];

const NOTICE: &str = "<!-- Written by `cargo xtask gen`; do not edit. -->\n";

/// The root of the workspace that this crate was compiled in.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Writes every derived file under `root` that is stale; returns their paths, relative to `root`.
///
/// # Errors
/// Those of the file system, and `InvalidData` when the code is not written as this module expects.
pub fn write(root: &Path) -> io::Result<Vec<PathBuf>> {
    let stale = stale(root)?;
    for (path, text) in &stale {
        std::fs::write(root.join(path), text)?;
    }
    Ok(stale.into_iter().map(|(path, _)| path).collect())
}

/// Fails when a derived file under `root` is stale.
///
/// # Errors
/// As [`write()`]; `InvalidData` names the stale files.
pub fn check(root: &Path) -> io::Result<()> {
    let stale: Vec<String> = stale(root)?.iter().map(|(path, _)| path.display().to_string()).collect();
    match stale.is_empty() {
        true => Ok(()),
        false => Err(invalid(format!("{} is stale: run `cargo xtask gen`", stale.join(", ")))),
    }
}

/// Derived files whose content is not what it should be, with what it should be.
fn stale(root: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let targets = targets(root)?;
    let readme = read(root, "README.md")?;
    let wanted = [
        ("docs/passes.md", passes_page(root)?),
        ("docs/targets.md", targets_page(&targets)?),
        ("docs/report.schema.json", crate::schema::report()),
        ("README.md", between_markers(&readme, &format!("\n{}\n", scheme_table(&targets)?))?),
    ];
    let mut stale = Vec::new();
    for (path, text) in wanted {
        match read(root, path) {
            Ok(found) if found == text => {}
            Ok(_) => stale.push((path.into(), text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => stale.push((path.into(), text)),
            Err(e) => return Err(e),
        }
    }
    Ok(stale)
}

fn read(root: &Path, path: &str) -> io::Result<String> {
    std::fs::read_to_string(root.join(path)).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn between_markers(text: &str, content: &str) -> io::Result<String> {
    let missing = || invalid(format!("README.md: no lines {MARKERS:?}"));
    let (before, rest) = text.split_once(MARKERS[0]).ok_or_else(missing)?;
    let (_, after) = rest.split_once(MARKERS[1]).ok_or_else(missing)?;
    Ok([before, MARKERS[0], content, MARKERS[1], after].concat())
}

/// The part of `text` between `start` and the next `end`.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    Some(text.split_once(start)?.1.split_once(end)?.0)
}

fn passes_page(root: &Path) -> io::Result<String> {
    let list = read(root, "passes/mod.rs")?;
    let list = between(&list, "pub const ALL: &[&dyn Pass] = &[\n", "\n];")
        .ok_or_else(|| invalid("passes/mod.rs: no list ALL"))?;
    let mut page = format!(
        "{NOTICE}# Passes\n\nA pass rewrites the plan and never touches bytes. They run in this order; the verifier \
         runs after each of them.\n*Exactness* is the most that a pass does to values.\n\n\
         | pass | what it does | exactness | after |\n|---|---|---|---|\n"
    );
    let mut sections = String::new();
    let mut reason: Vec<&str> = Vec::new();
    for line in list.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("//") {
            reason.push(comment.trim());
            continue;
        }
        let module = between(line, "&", "::")
            .ok_or_else(|| invalid(format!("passes/mod.rs: a line of ALL is no pass: {line}")))?;
        pass(root, module, &std::mem::take(&mut reason).join(" "), &mut page, &mut sections)?;
    }
    Ok(page + &sections)
}

/// Adds one pass: its row to `table`, its section to `sections`.
fn pass(
    root: &Path,
    module: &str,
    reason: &str,
    table: &mut String,
    sections: &mut String,
) -> io::Result<()> {
    let path = format!("passes/{module}.rs");
    let source = read(root, &path)?;
    let field = |start: &str, end: &str| {
        between(&source, start, end).ok_or_else(|| invalid(format!("{path}: its PassSpec has no `{start}`")))
    };
    let (id, summary) = (field("    id: \"", "\",")?, field("    summary: \"", "\",")?);
    let exactness = field("    exactness: Exactness::", ",")?.to_lowercase();
    let after = field("    after: &[", "],")?.replace('"', "`");
    let after = if after.is_empty() { "–" } else { &after };
    let doc: Vec<&str> = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|l| l.strip_prefix(' ').unwrap_or(l))
        .collect();

    let _ = writeln!(table, "| [`{id}`](#{id}) | {summary} | {exactness} | {after} |");
    let _ = writeln!(sections, "\n## {id}\n");
    for line in doc {
        match line.strip_prefix("# ") {
            Some(heading) => {
                let _ = writeln!(sections, "### {heading}\n");
            }
            None => {
                let _ = writeln!(sections, "{line}");
            }
        }
    }
    if !reason.is_empty() {
        let _ = writeln!(sections, "\n### Why it stands here\n\n{reason}");
    }
    let _ = writeln!(sections, "\nSource: [`{path}`](../{path})");
    example(root, id, sections)
}

/// Lists the literate tests of a pass, where there are any, and shows the first one that is not a refusal.
fn example(root: &Path, id: &str, sections: &mut String) -> io::Result<()> {
    let folder = format!("tests/plans/{id}");
    let mut files: Vec<String> = match std::fs::read_dir(root.join(&folder)) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    files.retain(|name| name.ends_with(".plan"));
    files.sort();
    let _ = writeln!(sections, "\n### Cases\n\nEach is a test: a source, then what the pass makes of it.\n");
    let mut shown = None;
    for file in files {
        let path = format!("{folder}/{file}");
        let text = read(root, &path)?;
        let title = text.lines().next().and_then(|line| line.strip_prefix("# "));
        let title = title.ok_or_else(|| invalid(format!("{path}: its first line is no `# TITLE`")))?;
        let _ = writeln!(sections, "- [{}](../{path}): {title}", file.trim_end_matches(".plan"));
        if shown.is_none() && !text.contains("\nreject ") {
            shown = Some(text.trim_end().to_owned());
        }
    }
    if let Some(text) = shown {
        let _ = writeln!(sections, "\n```text\n{text}\n```");
    }
    Ok(())
}

/// The targets, in the order of `targets/mod.rs`.
fn targets(root: &Path) -> io::Result<Vec<Table>> {
    let code = read(root, "targets/mod.rs")?;
    let list = between(&code, "const TARGETS: &[(&str, &str)] = &[\n", "\n];")
        .ok_or_else(|| invalid("targets/mod.rs: no list TARGETS"))?;
    list.lines()
        .map(|line| {
            let file = between(line, "include_str!(\"", "\")")
                .ok_or_else(|| invalid(format!("targets/mod.rs: a line of TARGETS is no target: {line}")))?;
            let path = format!("targets/{file}");
            read(root, &path)?.parse().map_err(|e| invalid(format!("{path}: {e}")))
        })
        .collect()
}

fn text<'a>(table: &'a Table, key: &str) -> io::Result<&'a str> {
    table.get(key).and_then(Value::as_str).ok_or_else(|| invalid(format!("a target without text `{key}`")))
}

fn texts<'a>(table: &'a Table, key: &str) -> Vec<&'a str> {
    let list = table.get(key).and_then(Value::as_array);
    list.map_or_else(Vec::new, |list| list.iter().filter_map(Value::as_str).collect())
}

fn schemes(target: &Table) -> io::Result<Vec<&Table>> {
    let list = target.get("scheme").and_then(Value::as_array);
    let list = list.ok_or_else(|| invalid("a target without schemes"))?;
    Ok(list.iter().filter_map(Value::as_table).collect())
}

fn tier(scheme: &Table) -> io::Result<i64> {
    scheme.get("tier").and_then(Value::as_integer).ok_or_else(|| invalid("a scheme without a tier"))
}

/// Targets with their schemes by support tier; the default one is bold.
fn scheme_table(targets: &[Table]) -> io::Result<String> {
    let mut table =
        String::from("| target | chip | engines | tier 1 | tier 2 | tier 3 |\n|---|---|---|---|---|---|\n");
    for target in targets {
        let engines: Vec<String> = texts(target, "engines").iter().map(|e| format!("`{e}`")).collect();
        let mut tiers: [Vec<String>; 3] = Default::default();
        for (i, scheme) in schemes(target)?.into_iter().enumerate() {
            let name = text(scheme, "name")?;
            let cell = if i == 0 { format!("**`{name}`**") } else { format!("`{name}`") };
            let at = usize::try_from(tier(scheme)? - 1).ok().and_then(|at| tiers.get_mut(at));
            at.ok_or_else(|| invalid(format!("{name}: a tier is 1, 2 or 3")))?.push(cell);
        }
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} |",
            text(target, "id")?,
            text(target, "chip")?,
            engines.join(", "),
            tiers.map(|names| names.join(" ")).join(" | ")
        );
    }
    Ok(table)
}

fn targets_page(targets: &[Table]) -> io::Result<String> {
    let mut page = format!(
        "{NOTICE}# Targets\n\nA target is a chip with the engine that serves models on it, and the schemes that both \
         support, by support tier. Bold marks the default scheme; the first engine is the default, another one is chosen with \
         `--engine`.\n\n{}\n\
         - Tier 1: the engine's loader was read, and artifacts are compared byte for byte with an independent \
         computation.\n\
         - Tier 2: the engine's loader was read.\n\
         - Tier 3: inferred from documents.\n\n\
         No tier says that an artifact ran on the chip. An encoding reads element : granularity : scale format : rule; \
         the rules are in [numerics](numerics.md#rules).\n",
        scheme_table(targets)?
    );
    for target in targets {
        let id = text(target, "id")?;
        let engines: Vec<String> = texts(target, "engines").iter().map(|e| format!("`{e}`")).collect();
        let shard = target.get("shard_bytes").and_then(Value::as_integer).unwrap_or(0);
        let _ = write!(
            page,
            "\n## {id}\n\n{}; engine {}. {} Shards hold at most {} GiB of tensors.\n\n\
             | scheme | also called | encoding | tier | what it is |\n|---|---|---|:-:|---|\n",
            text(target, "chip")?,
            engines.join(", "),
            text(target, "note")?,
            shard >> 30
        );
        for (i, scheme) in schemes(target)?.into_iter().enumerate() {
            let aliases: Vec<String> = texts(scheme, "aliases").iter().map(|a| format!("`{a}`")).collect();
            let mut encoding = text(scheme, "encoding").map_or_else(|_| "–".to_owned(), |e| format!("`{e}`"));
            if let Ok(experts) = text(scheme, "experts") {
                let _ = write!(encoding, ", routed experts `{experts}`");
            }
            let _ = writeln!(
                page,
                "| `{}`{} | {} | {encoding} | {} | {} |",
                text(scheme, "name")?,
                if i == 0 { " (default)" } else { "" },
                aliases.join(", "),
                tier(scheme)?,
                text(scheme, "about")?
            );
        }
        let _ = writeln!(page, "\nSources:\n");
        for source in texts(target, "sources") {
            let _ = writeln!(page, "- {source}");
        }
        let _ = writeln!(page, "\nFacts: [`targets/{id}.toml`](../targets/{id}.toml)");
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_in_the_code_makes_the_pages_stale_until_they_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |path: &str, text: &str| {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), text).unwrap();
        };
        put("README.md", &["a\n", MARKERS[0], "old\n", MARKERS[1], "b\n"].concat());
        put("docs/keep", "");
        put(
            "passes/mod.rs",
            "pub const ALL: &[&dyn Pass] = &[\n    // First,\n    // always.\n    &cut::Cut,\n];\n",
        );
        put(
            "passes/cut.rs",
            "//! Cuts.\n//!\n//! # What it does\n//! It cuts.\n\nstatic SPEC: PassSpec = PassSpec {\n    \
             id: \"cut\",\n    summary: \"cuts\",\n    exactness: Exactness::Bitwise,\n    after: &[],\n};\n",
        );
        put(
            "targets/mod.rs",
            "const TARGETS: &[(&str, &str)] = &[\n    (\"x\", include_str!(\"x.toml\")),\n];\n",
        );
        let toml = "id = \"x\"\nchip = \"X\"\nengines = [\"e\"]\nshard_bytes = 4294967296\nnote = \"N.\"\n\
                    sources = [\"s\"]\n[[scheme]]\nname = \"S\"\ntier = 2\nabout = \"about\"\n";
        put("targets/x.toml", toml);

        assert_eq!(write(root).unwrap().len(), 4);
        check(root).unwrap();
        let page = read(root, "docs/passes.md").unwrap();
        assert!(page.contains("| [`cut`](#cut) | cuts | bitwise | – |"), "{page}");
        assert!(page.contains("### What it does\n\nIt cuts.\n"), "{page}");
        assert!(page.contains("First, always."), "{page}");
        let readme = read(root, "README.md").unwrap();
        assert!(readme.contains("| `x` | X | `e` |  | **`S`** |  |\n"), "{readme}");
        assert!(readme.starts_with("a\n") && readme.ends_with("b\n") && !readme.contains("old"), "{readme}");

        put("targets/x.toml", &toml.replace("tier = 2", "tier = 1"));
        let error = check(root).unwrap_err().to_string();
        assert!(error.contains("docs/targets.md, README.md is stale"), "{error}");
        put("tests/plans/cut/a.plan", "# No.\npass: cut\n---\nreject 3 x\n");
        put("tests/plans/cut/b.plan", "# Yes.\npass: cut\n---\nout\n");
        assert_eq!(write(root).unwrap().len(), 3);
        let page = read(root, "docs/passes.md").unwrap();
        assert!(page.contains("- [a](../tests/plans/cut/a.plan): No.\n- [b]"), "{page}");
        assert!(page.contains("```text\n# Yes.\npass: cut\n---\nout\n```"), "{page}");
    }
}
