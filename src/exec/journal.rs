//! The journal of a conversion: which parts of the output are complete.
//!
//! Newline-delimited JSON, only ever appended to. The first line says what is being made from what; each later line says
//! that one range of one task is written, with the XXH3 of its bytes, so that a resumed run can check what the disk
//! really kept. One line is one `write`: a kill leaves at most one torn line at the end, which counts as absent.

use crate::error::{Class, Error, Result};
use crate::io::output::{OutFile, OutputDir, parse_slice};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The version of the journal's format.
pub const SCHEMA: u32 = 2;

/// Code of the error after a failed line: the failure itself, which says why, was returned to whoever wrote that line.
pub const STOPPED: &str = "journal-stopped";

/// A source file as it was when the work began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceStamp {
    /// Name in the source folder.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last change of content, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of content or attributes, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Inode number, where it is stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
}

/// The first line: what is being made from what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of silicast: another one may compute other bytes.
    pub tool: String,
    /// Digest of the plan.
    pub plan: String,
    /// Slice (M, N) with M from 1, or none.
    pub slice: Option<(u32, u32)>,
    /// Every source file, in the order of the checkpoint.
    pub sources: Vec<SourceStamp>,
}

/// A later line: a completed range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Index of the task in the plan.
    pub task: u32,
    /// The completed part of the task, start inclusive, end exclusive, in the task's own unit.
    pub range: (u64, u64),
    /// XXH3-64 of the bytes written.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub xxh3: u64,
    /// Statistics of the range, opaque here.
    pub stats: String,
}

fn to_hex<S: Serializer>(value: &u64, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{value:016x}"))
}

fn from_hex<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<u64, D::Error> {
    let text = String::deserialize(d)?;
    let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let value = plain.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
    value.ok_or_else(|| serde::de::Error::custom("expected 16 hexadecimal digits"))
}

/// The XXH3-64 of one range that consists of several pieces, in order.
#[derive(Clone, Default)]
pub struct RangeHash(xxhash_rust::xxh3::Xxh3);

impl fmt::Debug for RangeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RangeHash({:016x})", self.0.digest())
    }
}

impl RangeHash {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of everything appended.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }
}

/// Why a journal belongs to another run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Another version of silicast, or of the journal's format, wrote it.
    Tool {
        /// The version in the journal.
        found: String,
    },
    /// The plan is another one: recipe, target or checkpoint differ.
    Plan,
    /// Another slice, or sliced against unsliced.
    Slice,
    /// This source file changed, appeared or vanished.
    Source(String),
}

impl Mismatch {
    /// The refusal: a changed source is invalid input (exit 4), anything else a wrong command (exit 2).
    pub fn into_error(self, dir: &OutputDir) -> Error {
        let fix = "run with --restart to discard the unfinished output, or repeat the command that began it";
        let usage = |what: &str| Error::usage("resume-mismatch", what);
        match self {
            Mismatch::Source(name) => {
                Error::input("source-changed", "a source file changed since this output was begun")
                    .file(name)
                    .found(format!("unfinished work in {}", dir.path().display()))
                    .fix("run with --restart to convert the source as it is now")
            }
            Mismatch::Tool { found } => {
                usage("the unfinished output was begun by another version of silicast")
                    .file(dir.path().display())
                    .expected(env!("CARGO_PKG_VERSION"))
                    .found(found)
                    .fix(fix)
            }
            Mismatch::Plan => usage("the unfinished output was begun with other options")
                .file(dir.path().display())
                .fix(fix),
            Mismatch::Slice => usage("the unfinished output was begun with another slicing")
                .file(dir.path().display())
                .fix(fix),
        }
    }
}

/// What [`Journal::open_or_create`] found.
#[derive(Debug)]
pub enum Opened {
    /// A journal to append to, and what it already holds (nothing when it is new).
    Ready(Journal, Vec<Mark>),
    /// The journal of another run; it is unchanged.
    Mismatch(Mismatch),
}

/// The open journal of this run; lines may come from many threads.
#[derive(Debug)]
pub struct Journal {
    // The flag: a line failed half-written, so nothing may follow it.
    file: Mutex<(OutFile, bool)>,
}

/// The journal's file name for a slice (M, N) or an unsliced run.
pub fn file_name(slice: Option<(u32, u32)>) -> String {
    match slice {
        Some((index, count)) => format!("journal.{index}-of-{count}.ndjson"),
        None => "journal.ndjson".to_owned(),
    }
}

/// The slice of a journal's file name; the outer `None` when it is no journal.
pub fn slice_of(name: &str) -> Option<Option<(u32, u32)>> {
    let middle = name.strip_prefix("journal.")?;
    if middle == "ndjson" {
        return Some(None);
    }
    parse_slice(middle.strip_suffix(".ndjson")?).map(Some)
}

/// The names of all journals in `dir`, sorted.
///
/// # Errors
/// Class Io.
pub fn list(dir: &OutputDir) -> Result<Vec<String>> {
    Ok(dir.names()?.into_iter().filter(|name| slice_of(name).is_some()).collect())
}

/// Removes all journals: the output is complete.
///
/// # Errors
/// Class Io.
pub fn remove_all(dir: &OutputDir) -> Result<()> {
    list(dir)?.iter().try_for_each(|name| dir.remove(name))
}

/// What a resumed run needs of an [`Entry`]: small, because a journal of a 1 TB model has half a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// As [`Entry::task`].
    pub task: u32,
    /// As [`Entry::range`].
    pub range: (u64, u64),
    /// As [`Entry::xxh3`].
    pub xxh3: u64,
}

impl From<&Entry> for Mark {
    fn from(entry: &Entry) -> Self {
        Self { task: entry.task, range: entry.range, xxh3: entry.xxh3 }
    }
}

/// A complete line of a journal: its text without the newline, its number from 1 and its offset.
struct Line<'a> {
    text: &'a [u8],
    number: u64,
    offset: u64,
}

/// Calls `f` with every complete line, until it says `false`. Returns the length of the complete lines that were seen: what
/// follows the last newline is a torn line, even if it happens to parse.
fn scan(file: &OutFile, mut f: impl FnMut(&Line<'_>) -> Result<bool>) -> Result<u64> {
    const CHUNK: u64 = 1 << 20;
    let len = file.len()?;
    let (mut pending, mut chunk) = (Vec::new(), Vec::new());
    let (mut at, mut offset, mut number) = (0, 0, 1);
    while at < len {
        chunk.resize(usize::try_from(CHUNK.min(len - at)).unwrap_or(0), 0);
        file.read_exact_at(&mut chunk, at)?;
        at += chunk.len() as u64;
        for piece in chunk.split_inclusive(|&b| b == b'\n') {
            pending.extend_from_slice(piece);
            if let Some((b'\n', text)) = pending.split_last() {
                if !f(&Line { text, number, offset })? {
                    return Ok(offset + pending.len() as u64);
                }
                offset += pending.len() as u64;
                number += 1;
                pending.clear();
            }
        }
    }
    Ok(offset)
}

fn parse_entry(text: &[u8], number: u64) -> Result<Entry> {
    let entry: Entry = serde_json::from_slice(text).map_err(|e| malformed(number, &e))?;
    match entry.range.0 <= entry.range.1 {
        true => Ok(entry),
        false => Err(malformed(number, &"a range that ends before it starts")),
    }
}

/// Reads the first line of the journal `name`; `None` when there is none, or only a torn one.
///
/// # Errors
/// Class Io, or class Input, code `journal`: the line is malformed.
pub fn read_header(dir: &OutputDir, name: &str) -> Result<Option<Header>> {
    if dir.kind_of(name)?.is_none() {
        return Ok(None);
    }
    let file = dir.open_existing(name)?;
    let mut header = None;
    scan(&file, |line| {
        header = Some(serde_json::from_slice(line.text).map_err(|e| malformed(1, &e))?);
        Ok(false)
    })
    .map_err(|e| e.file_or(file.path().display()))?;
    Ok(header)
}

/// Calls `f` with the entries of each task of the journal `name`, the latest first, holding those of one task at a time.
/// Tasks come in ascending order.
///
/// # Errors
/// Class Io, or class Input, code `journal`: a complete line is malformed.
pub fn for_each_task(dir: &OutputDir, name: &str, mut f: impl FnMut(u32, Vec<Entry>)) -> Result<()> {
    if dir.kind_of(name)?.is_none() {
        return Ok(());
    }
    let file = dir.open_existing(name)?;
    let located = |e: Error| e.file_or(file.path().display());
    let mut order: Vec<(u32, u32, u64)> = Vec::new();
    scan(&file, |line| {
        if line.number > 1 {
            let length = u32::try_from(line.text.len()).unwrap_or(u32::MAX);
            order.push((parse_entry(line.text, line.number)?.task, length, line.offset));
        }
        Ok(true)
    })
    .map_err(located)?;
    order.sort_unstable_by_key(|(task, _, offset)| (*task, std::cmp::Reverse(*offset)));
    for group in order.chunk_by(|a, b| a.0 == b.0) {
        let parse = |(_, length, offset): &(u32, u32, u64)| {
            let mut text = vec![0; *length as usize];
            file.read_exact_at(&mut text, *offset)?;
            parse_entry(&text, 0)
        };
        f(group[0].0, group.iter().map(parse).collect::<Result<_>>().map_err(located)?);
    }
    Ok(())
}

fn malformed(line: u64, found: &dyn fmt::Display) -> Error {
    Error::input("journal", "the journal of the unfinished output is damaged")
        .expected("one JSON object per line")
        .found(format!("line {line}: {found}"))
        .fix("run with --restart to discard the unfinished output")
}

fn compare(found: &Header, wanted: &Header) -> Option<Mismatch> {
    if found.schema != wanted.schema || found.tool != wanted.tool {
        return Some(Mismatch::Tool { found: found.tool.clone() });
    }
    if found.slice != wanted.slice {
        return Some(Mismatch::Slice);
    }
    // The source before the plan: a changed source changes the plan too, and the cause is what helps.
    let changed = found.sources.iter().zip(&wanted.sources).find(|(a, b)| a != b).map(|(_, b)| b);
    let rest = found.sources.get(wanted.sources.len()..).unwrap_or_default();
    let more = wanted.sources.get(found.sources.len()..).unwrap_or_default();
    if let Some(source) = changed.or_else(|| rest.first()).or_else(|| more.first()) {
        return Some(Mismatch::Source(source.name.clone()));
    }
    (found.plan != wanted.plan).then_some(Mismatch::Plan)
}

impl Journal {
    /// Opens the journal of the run that `header` describes, or begins it. A torn last line is cut off.
    ///
    /// # Errors
    /// Class Io, or class Input, code `journal`: a complete line is malformed.
    pub fn open_or_create(dir: &OutputDir, header: &Header) -> Result<Opened> {
        let name = file_name(header.slice);
        let file = dir.open_append(&name)?;
        let (mut found, mut marks): (Option<Header>, Vec<Mark>) = (None, Vec::new());
        let complete = scan(&file, |line| {
            match line.number {
                1 => found = Some(serde_json::from_slice(line.text).map_err(|e| malformed(1, &e))?),
                number => marks.push(Mark::from(&parse_entry(line.text, number)?)),
            }
            // The journal of another run is not read further.
            Ok(found.as_ref().is_none_or(|found| compare(found, header).is_none()))
        })
        .map_err(|e| e.file_or(file.path().display()))?;
        if let Some(mismatch) = found.as_ref().and_then(|found| compare(found, header)) {
            return Ok(Opened::Mismatch(mismatch));
        }
        if file.len()? != complete {
            file.set_len(complete)?;
        }
        let journal = Journal { file: Mutex::new((file, false)) };
        if found.is_none() {
            journal.append_line(header)?;
            journal.sync()?;
            dir.sync_dir()?;
        }
        Ok(Opened::Ready(journal, marks))
    }

    /// Appends one line. The bytes it vouches for must have been written before.
    ///
    /// # Errors
    /// Class Io; after one failure every later call fails, because a line after a torn one would be lost with it.
    pub fn append(&self, entry: &Entry) -> Result<()> {
        self.append_line(entry)
    }

    fn append_line(&self, line: &impl Serialize) -> Result<()> {
        let mut bytes = serde_json::to_vec(line)
            .map_err(|e| Error::internal("journal-json", "cannot write a journal line").found(e))?;
        bytes.push(b'\n');
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, torn) = &mut *guard;
        if *torn {
            return Err(Error::new(
                Class::Io,
                STOPPED,
                "an earlier line of the journal could not be written",
            )
            .file(file.path().display()));
        }
        file.append(&bytes).inspect_err(|_| *torn = true)
    }

    /// Makes every appended line durable.
    ///
    /// # Errors
    /// Class Io; final.
    pub fn sync(&self) -> Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).0.sync()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests damage files directly")]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn header() -> Header {
        let stamp = |name: &str| SourceStamp {
            name: name.to_owned(),
            bytes: 7,
            mtime_ns: 1_700_000_000_123_456_789,
            ctime_ns: 2,
            inode: None,
        };
        Header {
            schema: SCHEMA,
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            plan: "ab".repeat(32),
            slice: None,
            sources: vec![stamp("a.safetensors"), stamp("b\n.safetensors")],
        }
    }

    fn entry(task: u32) -> Entry {
        Entry {
            task,
            range: (0, u64::from(task) * 10),
            xxh3: u64::from(task) << 60 | 0xf,
            stats: "n\n\"1".to_owned(),
        }
    }

    fn setup() -> (tempfile::TempDir, OutputDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = OutputDir::create_or_open(&root.path().join("o.partial")).unwrap().0;
        let path = dir.path().join("journal.ndjson");
        (root, dir, path)
    }

    fn ready(dir: &OutputDir, header: &Header) -> (Journal, Vec<Mark>) {
        match Journal::open_or_create(dir, header).unwrap() {
            Opened::Ready(journal, entries) => (journal, entries),
            Opened::Mismatch(m) => panic!("{m:?}"),
        }
    }

    #[test]
    fn lines_come_back_in_order() {
        let (_root, dir, path) = setup();
        let (journal, entries) = ready(&dir, &header());
        assert!(entries.is_empty());
        let all: Vec<_> = (0..5).map(entry).collect();
        for entry in &all[..3] {
            journal.append(entry).unwrap();
        }
        journal.sync().unwrap();
        drop(journal);
        let (journal, entries) = ready(&dir, &header());
        assert_eq!(entries, all[..3].iter().map(Mark::from).collect::<Vec<_>>());
        all[3..].iter().for_each(|e| journal.append(e).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 6);
        let line = r#"{"task":2,"range":[0,20],"xxh3":"200000000000000f","stats":"n\n\"1"}"#;
        assert_eq!(text.lines().nth(3).unwrap(), line);
        assert_eq!(read_header(&dir, "journal.ndjson").unwrap(), Some(header()));
        // A second line of a task comes before the first one.
        let again = Entry { xxh3: 1, ..entry(2) };
        journal.append(&again).unwrap();
        let mut seen = Vec::new();
        for_each_task(&dir, "journal.ndjson", |task, entries| seen.push((task, entries))).unwrap();
        let mut expected: Vec<_> = (0..5).map(|i| (i, vec![entry(i)])).collect();
        expected[2].1.insert(0, again);
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_torn_line_of_any_length_is_cut_off_and_work_goes_on() {
        let (_root, dir, path) = setup();
        let (journal, _) = ready(&dir, &header());
        (0..3).for_each(|i| journal.append(&entry(i)).unwrap());
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let ends: Vec<_> =
            whole.iter().enumerate().filter(|&(_, &b)| b == b'\n').map(|(i, _)| i + 1).collect();
        for len in 0..=whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let (journal, entries) = ready(&dir, &header());
            // The header is one complete line, the rest entries.
            let expected = ends.iter().filter(|&&end| end <= len).count().saturating_sub(1);
            let marks: Vec<_> = (0..3).take(expected).map(|i| Mark::from(&entry(i))).collect();
            assert_eq!(entries, marks, "{len}");
            journal.append(&entry(9)).unwrap();
            drop(journal);
            let (_, entries) = ready(&dir, &header());
            assert_eq!(entries.len(), expected + 1, "{len}");
            assert_eq!(entries[expected], Mark::from(&entry(9)));
        }
        // Power loss can leave zeros where the last line was to be.
        std::fs::write(&path, [&whole[..], &[0; 4096]].concat()).unwrap();
        assert_eq!(ready(&dir, &header()).1.len(), 3);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn any_other_damage_is_an_error_that_names_the_line_and_the_way_out() {
        let (_root, dir, path) = setup();
        drop(ready(&dir, &header()));
        let head = std::fs::read_to_string(&path).unwrap();
        let good = r#"{"task":2,"range":[0,20],"xxh3":"200000000000000f","stats":""}"#;
        for bad in [
            "",
            "x",
            "{}",
            "[]",
            &good[..20],
            &good.replace("f\"", "g\""),
            &good.replace("000f", "00f"),
            &good.replace("[0,20]", "[21,20]"),
            &good.replace("[0,20]", "[0]"),
            &good.replace("2,", "-2,"),
            &good.replace("2,", "4294967296,"),
            &good.replace("stats", "stat"),
            &good.replacen('{', "{\"x\":1,", 1),
            &format!("{good}{good}"),
            &good.replacen('{', "{\"task\":1,", 1),
        ] {
            std::fs::write(&path, format!("{head}{good}\n{bad}\n{good}\n")).unwrap();
            let error = Journal::open_or_create(&dir, &header()).unwrap_err();
            assert_eq!((error.code(), error.class().exit_code()), ("journal", 4), "{bad}");
            let text = error.to_string();
            assert!(
                text.contains("--restart") && text.contains("line 3:") && text.contains("ndjson"),
                "{text}"
            );
        }
        std::fs::write(&path, format!("{good}\n{good}\n")).unwrap();
        assert_eq!(Journal::open_or_create(&dir, &header()).unwrap_err().code(), "journal");
    }

    #[test]
    fn another_runs_journal_is_named_and_left_alone() {
        let (_root, dir, path) = setup();
        let (journal, _) = ready(&dir, &header());
        journal.append(&entry(1)).unwrap();
        drop(journal);
        let before = std::fs::read(&path).unwrap();
        let change = |f: &dyn Fn(&mut Header)| {
            let mut header = header();
            f(&mut header);
            match Journal::open_or_create(&dir, &header).unwrap() {
                Opened::Mismatch(m) => m,
                Opened::Ready(..) => panic!("accepted"),
            }
        };
        let here = env!("CARGO_PKG_VERSION").to_owned();
        assert_eq!(change(&|h| h.tool = "9".into()), Mismatch::Tool { found: here.clone() });
        assert_eq!(change(&|h| h.schema = 9), Mismatch::Tool { found: here });
        assert_eq!(change(&|h| h.plan = "cd".repeat(32)), Mismatch::Plan);
        let b = Mismatch::Source("b\n.safetensors".into());
        assert_eq!(change(&|h| h.sources[1].mtime_ns += 1), b);
        assert_eq!(change(&|h| h.sources[1].ctime_ns += 1), b);
        assert_eq!(change(&|h| h.sources[1].bytes += 1), b);
        assert_eq!(change(&|h| h.sources[1].inode = Some(1)), b);
        assert_eq!(change(&|h| drop(h.sources.pop())), b);
        assert_eq!(change(&|h| (h.sources[1].bytes, h.plan) = (8, String::new())), b);
        assert_eq!(
            change(&|h| h.sources.push(h.sources[0].clone())),
            Mismatch::Source("a.safetensors".into())
        );
        assert_eq!(std::fs::read(&path).unwrap(), before);
        // A slice has a journal of its own; a copied one is noticed.
        std::fs::copy(&path, path.with_file_name("journal.1-of-2.ndjson")).unwrap();
        assert_eq!(change(&|h| h.slice = Some((1, 2))), Mismatch::Slice);
        let codes = [b, Mismatch::Plan, Mismatch::Slice].map(|m| {
            let error = m.into_error(&dir);
            assert!(error.to_string().contains("--restart"));
            (error.class().exit_code(), error.code())
        });
        assert_eq!(codes, [(4, "source-changed"), (2, "resume-mismatch"), (2, "resume-mismatch")]);
    }

    #[test]
    fn slices_have_journals_of_their_own() {
        let (_root, dir, _) = setup();
        for slice in [None, Some((1, 10)), Some((10, 10))] {
            let name = file_name(slice);
            assert_eq!(slice_of(&name), Some(slice));
            drop(ready(&dir, &Header { slice, ..header() }));
        }
        dir.write_whole("journal.x.ndjson", b"").unwrap();
        assert_eq!(slice_of("journal.11-of-10.ndjson"), None);
        let names = ["journal.1-of-10.ndjson", "journal.10-of-10.ndjson", "journal.ndjson"];
        assert_eq!(list(&dir).unwrap(), names);
        remove_all(&dir).unwrap();
        assert_eq!(dir.names().unwrap(), ["journal.x.ndjson"]);
        assert_eq!(read_header(&dir, "journal.ndjson").unwrap(), None);
    }

    #[test]
    fn threads_never_tear_each_others_lines() {
        let (_root, dir, _) = setup();
        let (journal, _) = ready(&dir, &header());
        std::thread::scope(|scope| {
            for t in 0..4 {
                let journal = &journal;
                scope.spawn(move || (0..200).for_each(|i| journal.append(&entry(t * 1000 + i)).unwrap()));
            }
        });
        let mut tasks: Vec<_> = ready(&dir, &header()).1.iter().map(|e| e.task).collect();
        tasks.sort_unstable();
        assert_eq!(tasks, (0..4).flat_map(|t| (0..200).map(move |i| t * 1000 + i)).collect::<Vec<_>>());
    }

    #[test]
    fn range_hashes_do_not_depend_on_pieces() {
        let data: Vec<u8> = (0..10_000u32).map(|i| (i >> 3) as u8).collect();
        let mut hash = RangeHash::new();
        data.chunks(333).for_each(|piece| hash.update(piece));
        assert_eq!(hash.finish(), xxhash_rust::xxh3::xxh3_64(&data));
        // The published value of the empty input (xxHash test vectors).
        assert_eq!(RangeHash::new().finish(), 0x2d06_8005_38d3_94c2);
    }
}
