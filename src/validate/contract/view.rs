//! What the rules look at: everything in a folder that can be read, faults notwithstanding.

use super::values::Scales;
use super::{Finding, Findings, rules};
use crate::checkpoint::config::MAX_CONFIG;
use crate::checkpoint::header::{self, Shapes};
use crate::checkpoint::{Checkpoint, Config, Family, Part, Role, TensorInfo, module_of, natural_cmp};
use crate::error::{Class, Error, Result};
use crate::io::source::{EntryKind, SourceDir};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Largest JSON file that is read, in bytes.
const MAX_JSON: u64 = 512 << 20;

/// The index that vLLM goes by.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// A folder, read leniently.
pub(super) struct View {
    /// The folder.
    pub(super) dir: SourceDir,
    /// Regular files, in byte order.
    pub(super) names: Vec<String>,
    /// `config.json`; empty where it cannot be read.
    pub(super) config: Config,
    /// The shards that could be read, by name.
    pub(super) shards: Vec<String>,
    /// Their tensors, in natural name order, each name once.
    pub(super) tensors: Vec<TensorInfo>,
    /// The role of each tensor.
    pub(super) roles: Vec<Role>,
    /// The model family.
    pub(super) family: Family,
    /// Reads values of scales.
    pub(super) scales: Scales,
}

/// A weight of at least two dimensions.
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    /// The tensor.
    pub(super) info: &'a TensorInfo,
    /// Its role.
    pub(super) role: &'a Role,
    /// Its module.
    pub(super) module: &'a str,
    /// Its parameter: `weight`, `weight_packed` or `qweight`.
    pub(super) param: &'a str,
}

#[derive(Deserialize)]
struct IndexFile {
    #[serde(default)]
    metadata: Option<Value>,
    weight_map: BTreeMap<String, String>,
}

impl View {
    /// Reads what can be read in `path`.
    ///
    /// # Errors
    /// Where there is no checkpoint at all, and for I/O errors.
    pub(super) fn open(path: &Path, findings: &mut Findings) -> Result<View> {
        let dir = SourceDir::open(path)?;
        let mut names = Vec::new();
        for name in dir.names()? {
            match dir.kind(&name) {
                Ok(EntryKind::File) => names.push(name),
                Ok(EntryKind::Folder) => {}
                Err(error) => refuse(findings, path, error)?,
            }
        }
        let config = read_config(&dir, &names, path, findings)?;
        let indexes = read_indexes(&dir, &names);
        let listed = choose_shards(&names, &indexes, findings);
        if listed.is_empty() {
            // No weights, pickles, another format: the strict reader says so best.
            match Checkpoint::open(path) {
                Err(error) if !findings.explain(path, &error) => refuse(findings, path, error)?,
                _ => {}
            }
        }
        let mut shapes = Shapes::default();
        let (mut shards, mut tensors): (Vec<String>, Vec<TensorInfo>) = Default::default();
        for name in listed {
            let parsed = dir.open_file(&name).and_then(|file| header::read(&file, &mut shapes));
            let (header, data_start, _) = match parsed {
                Ok(parsed) => parsed,
                Err(error) => {
                    refuse(findings, path, error)?;
                    continue;
                }
            };
            let number = shards.len() as u32;
            tensors.extend(header.entries.into_iter().map(|e| TensorInfo {
                name: e.name,
                dtype: e.dtype,
                shape: e.shape,
                file: number,
                offset: data_start + e.start,
                bytes: e.end - e.start,
            }));
            shards.push(name);
        }
        tensors.sort_by(|a, b| natural_cmp(&a.name, &b.name).then(a.file.cmp(&b.file)));
        for pair in tensors.windows(2).filter(|w| w[0].name == w[1].name) {
            let file = |t: &TensorInfo| shards[t.file as usize].clone();
            findings.add(
                Finding::new(&rules::DUPLICATE_TENSOR)
                    .file(file(&pair[1]))
                    .tensor(&*pair[0].name)
                    .expected("every tensor once")
                    .found(format!("also in {}", file(&pair[0])))
                    .fix("remove the stale shard"),
            );
        }
        tensors.dedup_by(|a, b| a.name == b.name);
        let family = Family::detect(&config);
        let roles = tensors.iter().map(|t| family.role(&t.name, &t.shape)).collect();
        let scales = Scales::new(&tensors);
        let view = View { dir, names, config, shards, tensors, roles, family, scales };
        for index in &indexes {
            view.hold_against(index, findings);
        }
        Ok(view)
    }

    /// The tensor called `name`.
    pub(super) fn find(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.tensors.binary_search_by(|t| natural_cmp(&t.name, name)).ok()?;
        self.tensors.get(at)
    }

    /// The tensor `module.param`.
    pub(super) fn param(&self, module: &str, param: &str) -> Option<&TensorInfo> {
        self.find(&format!("{module}.{param}"))
    }

    /// Name of the shard that holds `tensor`.
    pub(super) fn file(&self, tensor: &TensorInfo) -> &str {
        self.shards.get(tensor.file as usize).map_or("", String::as_str)
    }

    /// Tensors with their roles.
    pub(super) fn each(&self) -> impl Iterator<Item = (&TensorInfo, &Role)> {
        self.tensors.iter().zip(&self.roles)
    }

    /// Weights of at least two dimensions.
    pub(super) fn weights(&self) -> impl Iterator<Item = Weight<'_>> {
        self.each().filter(|(t, r)| r.part == Part::Weight && t.shape.len() >= 2).map(|(info, role)| {
            let module = module_of(&info.name);
            let param = info.name.get(module.len() + 1..).unwrap_or_default();
            Weight { info, role, module, param }
        })
    }

    /// A finding about `tensor`.
    pub(super) fn at(&self, rule: &'static super::Rule, tensor: &TensorInfo) -> Finding {
        Finding::new(rule).file(self.file(tensor)).tensor(&*tensor.name)
    }

    /// Files that are called like a description, the right name first.
    pub(super) fn descriptions(&self) -> Vec<&str> {
        let mut found: Vec<&str> = self
            .names
            .iter()
            .map(String::as_str)
            .filter(|n| n.starts_with("quant_model_description") && n.ends_with(".json"))
            .collect();
        found.sort_by_key(|n| *n != super::ascend::DESCRIPTION);
        found
    }

    /// Whether weight files have the names that msmodelslim gives them.
    pub(super) fn has_ascend_names(&self) -> bool {
        self.shards.iter().any(|n| n.starts_with("quant_model_weight"))
    }

    /// `quant_method`, where config.json has a quantization.
    pub(super) fn method(&self) -> Option<String> {
        let q = self.config.quantization.as_ref()?;
        Some(match q.method.as_str() {
            // llm-compressor's old files have no method, and neither have Hygon's.
            "" if q.json.contains_key("config_groups") => "compressed-tensors".to_owned(),
            method => method.to_owned(),
        })
    }

    /// A JSON file of the folder.
    ///
    /// # Errors
    /// A text for people where it is no JSON; I/O errors.
    pub(super) fn json(&self, name: &str) -> Result<std::result::Result<Value, String>> {
        let bytes = self.dir.open_file(name)?.read_to_end(MAX_JSON)?;
        Ok(serde_json::from_slice(&bytes).map_err(|e| e.to_string()))
    }

    /// An index must list what the shards hold.
    fn hold_against(&self, index: &Index, findings: &mut Findings) {
        if index.role != IndexRole::Chosen {
            return;
        }
        let readable: BTreeSet<&str> = self.shards.iter().map(String::as_str).collect();
        for (tensor, file) in &index.map {
            let found = self.find(tensor).map(|t| self.file(t));
            match found {
                Some(at) if at == file => {}
                _ if !readable.contains(file.as_str()) => {}
                Some(at) => findings.add(
                    Finding::new(&rules::INDEX_WRONG_SHARD)
                        .file(at)
                        .tensor(tensor)
                        .expected(format!("in {file}, as {} says", index.name))
                        .found(format!("in {at}"))
                        .fix("write the index again from the files"),
                ),
                None => findings.add(
                    Finding::new(&rules::INDEX_TENSOR_MISSING)
                        .file(file)
                        .tensor(tensor)
                        .expected(format!("the tensor, as {} says", index.name))
                        .found("no such tensor")
                        .fix("fetch the shard again, or write the index again from the files"),
                ),
            }
        }
        for tensor in self.tensors.iter().filter(|t| !index.map.contains_key(&*t.name)) {
            findings.add(
                self.at(&rules::INDEX_TENSOR_UNLISTED, tensor)
                    .expected(format!("an entry in {}", index.name))
                    .found("none")
                    .fix("write the index again from the files"),
            );
        }
        let bytes = self.tensors.iter().fold(0u64, |sum, t| sum.saturating_add(t.bytes));
        if let Some(stated) = index.total.filter(|t| *t != bytes) {
            findings.add(
                Finding::new(&rules::INDEX_TOTAL_SIZE)
                    .file(&index.name)
                    .expected(format!("total_size {bytes}"))
                    .found(format!("{stated}"))
                    .fix("write the index again from the files"),
            );
        }
    }
}

/// Turns the reader's refusal into a finding.
fn refuse(findings: &mut Findings, dir: &Path, error: Error) -> Result<()> {
    match error.class() == Class::Input && findings.reader(dir, &error) {
        true => Ok(()),
        false => Err(error),
    }
}

fn read_config(dir: &SourceDir, names: &[String], path: &Path, findings: &mut Findings) -> Result<Config> {
    if names.binary_search_by(|n| n.as_str().cmp("config.json")).is_err() {
        findings.add(
            Finding::new(&rules::CONFIG_MISSING)
                .file("config.json")
                .expected("config.json")
                .found("no such file")
                .fix("copy it from the model's release"),
        );
        return Ok(Config::default());
    }
    let file = dir.open_file("config.json")?;
    let parsed = file.read_to_end(MAX_CONFIG).and_then(|bytes| Config::parse(&bytes));
    match parsed.map_err(|e| e.file_or(file.path().display())) {
        Ok(config) => Ok(config),
        Err(error) => refuse(findings, path, error).map(|()| Config::default()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IndexRole {
    Chosen,
    Other,
}

struct Index {
    name: String,
    map: BTreeMap<String, String>,
    total: Option<u64>,
    role: IndexRole,
}

/// The indexes that can be read; the strict reader reports the others.
fn read_indexes(dir: &SourceDir, names: &[String]) -> Vec<Index> {
    let has = |file: &str| names.binary_search_by(|n| n.as_str().cmp(file)).is_ok();
    let candidates = names.iter().filter(|n| n.ends_with(".safetensors.index.json") && !n.starts_with(['.']));
    let mut out: Vec<Index> = candidates
        .filter(|n| !n.starts_with("consolidated"))
        .filter_map(|name| {
            let bytes = dir.open_file(name).ok()?.read_to_end(MAX_JSON).ok()?;
            let parsed: IndexFile = serde_json::from_slice(&bytes).ok()?;
            let total = parsed.metadata.as_ref().and_then(|m| m.get("total_size"));
            let total =
                total.and_then(|v| v.as_u64().or_else(|| v.as_f64().filter(|f| *f >= 0.0).map(|f| f as u64)));
            Some(Index { name: name.clone(), map: parsed.weight_map, total, role: IndexRole::Other })
        })
        .collect();
    // The one that knows most of the files that are there; of equals, vLLM's.
    let known = |i: &Index| i.map.values().collect::<BTreeSet<_>>().into_iter().filter(|f| has(f)).count();
    let best =
        out.iter().enumerate().max_by_key(|(_, i)| (known(i), i.name == INDEX)).map(|(at, i)| (at, known(i)));
    if let Some((at, _)) = best.filter(|(_, count)| *count > 0) {
        out[at].role = IndexRole::Chosen;
    }
    out
}

/// The shards that an engine reads, and findings about the others.
fn choose_shards(names: &[String], indexes: &[Index], findings: &mut Findings) -> Vec<String> {
    let mut shards: Vec<String> =
        names.iter().filter(|n| n.ends_with(".safetensors") && !n.starts_with('.')).cloned().collect();
    if shards.iter().any(|s| !s.starts_with("consolidated")) {
        shards.retain(|s| !s.starts_with("consolidated"));
    }
    for index in indexes {
        let listed: BTreeSet<&String> = index.map.values().collect();
        let here = listed.iter().filter(|f| shards.contains(f)).count();
        let drops: Vec<&String> = shards.iter().filter(|s| !listed.contains(s)).collect();
        // vLLM filters by this name whatever else lies beside it.
        let filters = index.name == INDEX && index.role != IndexRole::Chosen;
        if here == 0 && !shards.is_empty() && !listed.is_empty() || filters && !drops.is_empty() {
            let first = listed.iter().next().map_or("", |f| f.as_str());
            findings.add(
                Finding::new(&rules::INDEX_STALE)
                    .file(&index.name)
                    .expected("an index of the weight files that are here, or none")
                    .found(format!("an index of {} other files, such as {first}", listed.len() - here))
                    .fix("remove it: it belongs to the source of the conversion"),
            );
            continue;
        }
        for missing in listed.iter().filter(|f| !names.contains(f)) {
            findings.add(
                Finding::new(&rules::SHARD_MISSING)
                    .file(*missing)
                    .expected(format!("every file that {} names", index.name))
                    .found("no such file")
                    .fix("finish the download"),
            );
        }
        if index.role != IndexRole::Chosen {
            continue;
        }
        for extra in drops {
            let same = |f: &&&String| series(f).is_some() && series(f) == series(extra);
            let (rule, fix) = match listed.iter().find(same) {
                Some(_) => (
                    &rules::SHARD_UNLISTED,
                    "write the index again from the files, or remove the stale shard",
                ),
                None => (
                    &rules::FILE_FOREIGN,
                    "move the file out of the folder, or list its tensors in the index",
                ),
            };
            findings.add(
                Finding::new(rule)
                    .file(extra)
                    .expected(format!("named by {}", index.name))
                    .found("not in it")
                    .fix(fix),
            );
        }
    }
    if let Some(chosen) = indexes.iter().find(|i| i.role == IndexRole::Chosen) {
        let listed: BTreeSet<&String> = chosen.map.values().collect();
        shards.retain(|s| listed.contains(s));
    }
    shards
}

/// `("model", "00163")` of `model-00001-of-00163.safetensors`.
fn series(file: &str) -> Option<(&str, &str)> {
    let (rest, of) = file.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    Some((rest.rsplit_once('-')?.0, of))
}
