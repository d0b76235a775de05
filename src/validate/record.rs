//! What an artifact says of itself: its manifest, and the plan that made it.

use crate::artifact::manifest::{self, MANIFEST_PATH, Manifest, TensorEntry};
use crate::artifact::side::PLAN_PATH;
use crate::error::{Error, Result};
use crate::io::confined::{Confined, Lookup};
use crate::plan::{Plan, parser};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// The longest manifest or plan that is read, in bytes.
const MAX_BYTES: u64 = 4 << 30;

/// The record of an artifact.
pub(super) struct Record {
    /// `silicast/manifest.json`.
    pub(super) manifest: Manifest,
    /// `silicast/plan.txt`, where it is there, whole and the manifest's.
    pub(super) plan: Option<Plan>,
    /// Why there is no plan.
    pub(super) plan_fault: Option<String>,
    /// Outputs of the plan by name.
    outputs: BTreeMap<std::sync::Arc<str>, u32>,
}

impl Record {
    /// The record in `dir`; `None` where there is no manifest.
    ///
    /// # Errors
    /// Class Input where the manifest is broken, class Io.
    pub(super) fn open(dir: &Path) -> Result<Option<Record>> {
        let folder = Confined::open(dir)?;
        let manifest = match folder.open_regular(MANIFEST_PATH)? {
            Lookup::File(file, len) if len <= MAX_BYTES => {
                let read = manifest::read_manifest(file.take(len), true);
                read.map_err(|e| e.file(dir.join(MANIFEST_PATH).display()))?
            }
            Lookup::Missing => return Ok(None),
            Lookup::File(..) | Lookup::Other(_) => {
                return Err(Error::input("manifest", "the manifest of the artifact is broken")
                    .file(dir.join(MANIFEST_PATH).display())
                    .expected("a regular file of reasonable size")
                    .fix("get or make the artifact again"));
            }
        };
        let (plan, plan_fault) = match read_plan(&folder, &manifest.head.plan_digest)? {
            Ok(plan) => (Some(plan), None),
            Err(fault) => (None, Some(fault)),
        };
        let outputs = plan
            .iter()
            .flat_map(|p| (0u32..).zip(&p.outputs))
            .map(|(i, output)| (output.name.clone(), i))
            .collect();
        Ok(Some(Record { manifest, plan, plan_fault, outputs }))
    }

    /// The manifest's entry of a tensor of the artifact.
    pub(super) fn entry(&self, name: &str) -> Option<&TensorEntry> {
        let list = &self.manifest.tensors;
        let at = list.binary_search_by(|e| e.name.as_str().cmp(name)).ok()?;
        list.get(at)
    }

    /// The plan's output of that name.
    pub(super) fn output(&self, name: &str) -> Option<&crate::plan::Output> {
        let plan = self.plan.as_ref()?;
        plan.outputs.get(*self.outputs.get(name)? as usize)
    }
}

fn read_plan(folder: &Confined, digest: &str) -> Result<std::result::Result<Plan, String>> {
    let mut bytes = Vec::new();
    match folder.open_regular(PLAN_PATH)? {
        Lookup::File(file, len) if len <= MAX_BYTES => {
            let path = folder.path().join(PLAN_PATH);
            file.take(len).read_to_end(&mut bytes).map_err(|e| Error::io("cannot read", &path, e))?;
        }
        Lookup::Missing => return Ok(Err("nothing".to_owned())),
        Lookup::File(..) | Lookup::Other(_) => return Ok(Err("something that is no plan".to_owned())),
    }
    let found = blake3::hash(&bytes).to_hex().to_string();
    if found != digest {
        return Ok(Err(format!("a plan with the digest {found}")));
    }
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(Err("bytes that are no text".to_owned())) };
    Ok(parser::parse(text).map_err(|e| e.to_string()))
}
