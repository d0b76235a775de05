//! From a folder to a [`Checkpoint`].

use super::config::{Config, MAX_CONFIG};
use super::header::{self, Entry, Shapes};
use super::index::{self, Index};
use super::side::{PICKLES, SideFile, SideKind};
use super::{Checkpoint, Family, SourceFile, TensorInfo, encoding, name, natural_cmp, notes, side};
use crate::dtype::Dtype;
use crate::error::{Error, Result, quote};
use crate::io::source::{EntryKind, SourceDir};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Most tensors in a checkpoint.
const MAX_TENSORS: usize = 8_000_000;

pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let dir = SourceDir::open(path)?;
    let mut folder = Folder { files: Vec::new(), folders: Vec::new() };
    for name in dir.names()? {
        match dir.kind(&name)? {
            EntryKind::File => folder.files.push(name),
            EntryKind::Folder => folder.folders.push(name),
        }
    }
    let config = match folder.has("config.json") {
        true => {
            let file = dir.open_file("config.json")?;
            Config::parse(&file.read_to_end(MAX_CONFIG)?).map_err(|e| e.file_or(file.path().display()))?
        }
        false => Config::default(),
    };
    let mut warnings = Vec::new();
    let index = read_index(&dir, &folder)?;
    let shards = match &index {
        Some((index, at)) => {
            warnings.extend(index.warnings.iter().cloned());
            listed_shards(&dir, &folder, index, at, &mut warnings)?
        }
        None => unlisted_shards(&dir, &folder, &mut warnings)?,
    };
    let mut shapes = Shapes::default();
    let (mut files, mut tensors) = (Vec::new(), Vec::new());
    for (number, shard) in (0u32..).zip(&shards) {
        let file = dir.open_file(shard)?;
        let (parsed, data_start, header_blake3) = header::read(&file, &mut shapes)?;
        warnings.extend(parsed.warnings.iter().map(|w| format!("{shard}: {w}")));
        let (bytes, stamp) = (file.len(), Some(file.stamp()));
        files.push(SourceFile { name: shard.clone(), bytes, data_start, header_blake3, stamp });
        tensors.extend(parsed.entries.into_iter().map(|e| tensor(e, number, data_start)));
        if tensors.len() > MAX_TENSORS {
            let e = Error::input("too-many-tensors", "the checkpoint has too many tensors");
            return Err(e.file(path.display()).expected(format!("at most {MAX_TENSORS}")));
        }
    }
    let tensors = sorted(tensors, &files).map_err(|e| located(&dir, e))?;
    if let Some((index, at)) = &index {
        check_index(index, at, &tensors, &files).map_err(|e| located(&dir, e))?;
        let total = tensors.iter().fold(0u64, |sum, t| sum.saturating_add(t.bytes));
        if let Some(stated) = index.total_size.filter(|s| *s != total) {
            warnings.push(format!("{at}: total_size says {stated} bytes, the tensors have {total}"));
        }
    }
    let side_files = side_files(&dir, &folder, &shards)?;
    finish(Some(Arc::new(dir)), files, tensors, config, side_files, warnings)
}

pub(super) fn from_parts(
    config: serde_json::Value,
    tensors: Vec<(String, Dtype, Vec<u64>)>,
) -> Result<Checkpoint> {
    let mut shapes = Shapes::default();
    let mut digest = blake3::Hasher::new();
    let (mut end, mut entries) = (0u64, Vec::with_capacity(tensors.len()));
    for (name, dtype, shape) in tensors {
        let fail = |code, what| Error::input(code, what).tensor(&name).found(format!("{dtype} {shape:?}"));
        if let Some(found) = name::fault(&name) {
            return Err(fail("st-name", "a tensor name is not acceptable").found(found));
        }
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let bytes = elements.and_then(|n| dtype.byte_len(n));
        let Some(next) = bytes.and_then(|b| end.checked_add(b)) else {
            return Err(fail("st-overflow", "the shape's byte count is no 64-bit number of whole bytes"));
        };
        digest.update(format!("{name}\0{dtype}\0{shape:?}\n").as_bytes());
        entries.push(TensorInfo {
            name: name.into(),
            dtype,
            shape: shapes.share(&shape),
            file: 0,
            offset: end,
            bytes: next - end,
        });
        end = next;
    }
    let file = SourceFile {
        name: "model.safetensors".into(),
        bytes: end,
        data_start: 0,
        header_blake3: digest.finalize().to_hex().to_string(),
        stamp: None,
    };
    let files = vec![file];
    let tensors = sorted(entries, &files)?;
    finish(None, files, tensors, Config::from_value(config)?, Vec::new(), Vec::new())
}

fn finish(
    dir: Option<Arc<SourceDir>>,
    files: Vec<SourceFile>,
    tensors: Vec<TensorInfo>,
    config: Config,
    side_files: Vec<SideFile>,
    warnings: Vec<String>,
) -> Result<Checkpoint> {
    let family = Family::detect(&config);
    let mut notes = Vec::new();
    let encodings = encoding::classify(&tensors, config.quantization.as_ref(), &mut notes).map_err(|e| {
        let id = e.tensor_name().and_then(|t| super::find(&tensors, t));
        let Some(file) = id.and_then(|id| files.get(tensors[id as usize].file as usize)) else {
            return e;
        };
        let e = e.file(&file.name);
        match &dir {
            Some(dir) => located(dir, e),
            None => e,
        }
    })?;
    let mut checkpoint =
        Checkpoint { dir, files, tensors, config, side_files, notes, warnings, family, encodings };
    notes::add(&mut checkpoint);
    Ok(checkpoint)
}

struct Folder {
    files: Vec<String>,
    folders: Vec<String>,
}

impl Folder {
    fn has(&self, name: &str) -> bool {
        self.files.binary_search_by(|f| f.as_str().cmp(name)).is_ok()
    }

    fn ending<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = &'a String> {
        self.files.iter().filter(move |f| f.ends_with(suffix) && !f.starts_with('.'))
    }
}

fn tensor(e: Entry, file: u32, data_start: u64) -> TensorInfo {
    TensorInfo {
        name: e.name,
        dtype: e.dtype,
        shape: e.shape,
        file,
        offset: data_start + e.start,
        bytes: e.end - e.start,
    }
}

/// Names the file with its folder.
fn located(dir: &SourceDir, e: Error) -> Error {
    match e.file_name().map(|name| dir.path().join(name)) {
        Some(path) => e.file(path.display()),
        None => e,
    }
}

/// Natural order; a name in two shards is an error.
fn sorted(mut tensors: Vec<TensorInfo>, files: &[SourceFile]) -> Result<Vec<TensorInfo>> {
    tensors.sort_unstable_by(|a, b| natural_cmp(&a.name, &b.name).then_with(|| a.file.cmp(&b.file)));
    match tensors.windows(2).find(|w| w[0].name == w[1].name) {
        None => Ok(tensors),
        Some(w) => {
            let file = |t: &TensorInfo| files.get(t.file as usize).map_or("", |f| f.name.as_str()).to_owned();
            Err(Error::input("duplicate-tensor", "a tensor is in two places")
                .file(file(&w[1]))
                .tensor(&w[0].name)
                .expected("every tensor once")
                .found(format!("also in {}", file(&w[0])))
                .fix("remove the stale shard"))
        }
    }
}

const INDEX: &str = "model.safetensors.index.json";

/// The index: the standard one, or the only one of another name.
fn read_index(dir: &SourceDir, folder: &Folder) -> Result<Option<(Index, String)>> {
    if folder.folders.iter().any(|f| f.ends_with(".safetensors.index.json")) {
        return Err(
            Error::input("not-a-file", "a folder has the name of an index").file(dir.path().display())
        );
    }
    let mut found: Vec<&String> = folder.ending(".safetensors.index.json").collect();
    // Mistral ships its own format beside the Hugging Face one.
    if found.len() > 1 {
        found.retain(|f| !f.starts_with("consolidated"));
    }
    let name = match found[..] {
        [] => return Ok(None),
        [name] => name.as_str(),
        _ if folder.has(INDEX) => INDEX,
        _ => {
            return Err(Error::input("index-ambiguous", "the folder has several indexes")
                .file(dir.path().display())
                .expected(format!("one, or one called {INDEX}"))
                .found(found.iter().map(|f| f.as_str()).collect::<Vec<_>>().join(", ")));
        }
    };
    let file = dir.open_file(name)?;
    let index =
        index::parse(&file.read_to_end(index::MAX_INDEX)?).map_err(|e| e.file_or(file.path().display()))?;
    Ok(Some((index, name.to_owned())))
}

/// The shards of an index, which must exist; other shards of the same series are stale.
fn listed_shards(
    dir: &SourceDir,
    folder: &Folder,
    index: &Index,
    at: &str,
    warnings: &mut Vec<String>,
) -> Result<Vec<String>> {
    if let Some(missing) = index.files.iter().find(|f| !folder.has(f)) {
        let missing_at = dir.path().join(missing);
        if folder.folders.contains(missing) {
            return Err(
                Error::input("not-a-file", "a folder has the name of a shard").file(missing_at.display())
            );
        }
        return Err(Error::input("shard-missing", "the index lists a shard that is not there")
            .file(missing_at.display())
            .expected(format!("every file that {at} names"))
            .fix("finish the download"));
    }
    let listed = |f: &String| index.files.binary_search(f).is_ok();
    for extra in folder.ending(".safetensors").filter(|f| !listed(f)) {
        let series = |f: &str| series(f).map(|(prefix, ..)| prefix.to_owned());
        if series(extra).is_some() && index.files.iter().any(|f| series(f) == series(extra)) {
            return Err(Error::input("shard-unlisted", "a shard is not in the index")
                .file(dir.path().join(extra).display())
                .expected(format!("only the shards that {at} lists"))
                .fix("remove the stale shard, or fetch the index again"));
        }
        warnings.push(format!("{} is not in the index and was left out", quote(extra, 80)));
    }
    Ok(index.files.clone())
}

/// Without an index: every `*.safetensors`, by name.
fn unlisted_shards(dir: &SourceDir, folder: &Folder, warnings: &mut Vec<String>) -> Result<Vec<String>> {
    if let Some(odd) = folder.folders.iter().find(|f| f.ends_with(".safetensors")) {
        return Err(Error::input("not-a-file", "a folder has the name of a shard")
            .file(dir.path().join(odd).display())
            .fix("remove it from the source folder"));
    }
    let mut shards: Vec<String> = folder.ending(".safetensors").cloned().collect();
    if shards.iter().any(|f| !f.starts_with("consolidated")) {
        shards.retain(|f| {
            let keep = !f.starts_with("consolidated");
            if !keep {
                warnings.push(format!(
                    "{} holds the same weights in another format and was left out",
                    quote(f, 80)
                ));
            }
            keep
        });
    }
    if shards.is_empty() {
        return Err(no_weights(dir, folder));
    }
    // A numbered series must be complete; numbers start at 0 or 1.
    let mut by_series: BTreeMap<(&str, u64), Vec<u64>> = BTreeMap::new();
    for (prefix, number, of) in shards.iter().filter_map(|f| series(f)) {
        by_series.entry((prefix, of)).or_default().push(number);
    }
    for ((prefix, of), numbers) in by_series {
        if (numbers.len() as u64) < of {
            let missing = (1..=of).find(|n| !numbers.contains(n)).unwrap_or(of);
            return Err(Error::input("shard-missing", "a shard is not there, and neither is the index")
                .file(dir.path().join(format!("{prefix}-{missing:05}-of-{of:05}.safetensors")).display())
                .expected(format!("{of} shards"))
                .found(numbers.len())
                .fix("finish the download"));
        }
    }
    Ok(shards)
}

/// `("model", 1, 163)` of `model-00001-of-00163.safetensors`.
fn series(file: &str) -> Option<(&str, u64, u64)> {
    let (rest, of) = file.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    // More shards than could ever be listed make no series.
    Some((prefix, number.parse().ok()?, of.parse().ok().filter(|of| *of <= 1_000_000)?))
}

fn no_weights(dir: &SourceDir, folder: &Folder) -> Error {
    let has = |suffixes: &[&str]| folder.files.iter().find(|f| suffixes.iter().any(|s| f.ends_with(s)));
    if let Some(file) = has(PICKLES) {
        Error::unsupported("pickle", "the weights are pickled, and loading them could run code")
            .file(dir.path().join(file).display())
            .expected("*.safetensors")
            .fix("get the safetensors release, or convert in a sandbox with the safetensors library")
    } else if let Some(file) = has(&[".gguf"]) {
        Error::unsupported("gguf", "GGUF is not read")
            .file(dir.path().join(file).display())
            .expected("*.safetensors")
            .fix("start from the original release of the model")
    } else {
        Error::input("no-weights", "the folder has no weights")
            .file(dir.path().display())
            .expected("*.safetensors")
            .fix("give the folder that holds the model")
    }
}

/// Index and headers must list the same tensors in the same shards. Both are in natural order.
fn check_index(index: &Index, at: &str, tensors: &[TensorInfo], files: &[SourceFile]) -> Result<()> {
    let (mut listed, mut found) = (index.entries.iter().peekable(), tensors.iter().peekable());
    loop {
        let order = match (listed.peek(), found.peek()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((name, _)), Some(t)) => natural_cmp(name, &t.name),
        };
        let file = |file: u32| files.get(file as usize).map_or("", |f| f.name.as_str()).to_owned();
        match (order, listed.peek(), found.peek()) {
            (Ordering::Less, Some((name, shard)), _) => {
                return Err(Error::input(
                    "index-tensor-missing",
                    "a tensor that the index lists is in no shard",
                )
                .file(file(*shard))
                .tensor(name)
                .expected(format!("the tensor, as {at} says"))
                .fix("the shard is stale or from another revision: fetch it again"));
            }
            (Ordering::Greater, _, Some(t)) => {
                return Err(Error::input(
                    "index-tensor-unlisted",
                    "a shard holds a tensor that the index does not list",
                )
                .file(file(t.file))
                .tensor(&t.name)
                .expected(format!("every tensor in {at}"))
                .fix("the shard or the index is stale: fetch both again"));
            }
            (_, Some((name, shard)), Some(t)) if *shard != t.file => {
                return Err(Error::input(
                    "index-wrong-shard",
                    "a tensor is not in the shard that the index says",
                )
                .file(file(t.file))
                .tensor(name)
                .expected(file(*shard))
                .found(file(t.file))
                .fix("the shard or the index is stale: fetch both again"));
            }
            _ => {
                listed.next();
                found.next();
            }
        }
    }
}

fn side_files(dir: &SourceDir, folder: &Folder, shards: &[String]) -> Result<Vec<SideFile>> {
    let mut out = Vec::new();
    for name in folder.files.iter().filter(|f| !shards.contains(f)) {
        let bytes = dir.open_file(name)?.len();
        out.push(SideFile { name: name.clone(), bytes, kind: side::kind(name) });
    }
    for name in &folder.folders {
        out.push(SideFile { name: name.clone(), bytes: 0, kind: SideKind::Skipped("a folder") });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}
