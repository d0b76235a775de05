//! The golden sets in an artifact, run through the reference kernels again: tier T0 of the kernel level.
//!
//! The manifest's digests say that the files are those that were written; this says that they hold what the kernels of
//! this version compute, which a newer silicast and a set of somebody else's need.

use super::checks::{List, failed, passed, skipped};
use super::metrics::Accumulator;
use crate::dtype::{Dtype, codec};
use crate::error::{Error, Result};
use crate::io::confined::{Confined, Lookup};
use crate::kernel::emit::npy;
use crate::kernel::reference::array::{Array, Arrays, Call};
use crate::kernel::reference::catalog;
use crate::report::model::{Check, KernelRow, Level, Verdict};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Where golden sets stand in an artifact.
const FOLDER: &str = "silicast/kernels";

/// The largest file of a golden set that is read.
const MAX_BYTES: u64 = 64 << 20;

const ID: &str = "kernel-golden";

#[derive(Deserialize)]
struct Manifest {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kernel: String,
    case: String,
    #[serde(default)]
    params: Map<String, Value>,
    inputs: BTreeMap<String, Stored>,
    outputs: BTreeMap<String, Stored>,
}

#[derive(Deserialize)]
struct Stored {
    file: String,
    dtype: String,
    #[serde(default)]
    tolerance: f64,
}

/// Runs every golden case in the artifact at `dir`: a row per output, and the checks.
///
/// # Errors
/// Class Io where a file cannot be read. A broken set is a check that fails.
pub(super) fn run(dir: &Path) -> Result<(Vec<KernelRow>, Vec<Check>)> {
    let folder = Confined::open(dir)?;
    let mut list = List::default();
    let mut rows = Vec::new();
    let Some(bytes) = read(&folder, "manifest.json")? else {
        list.add(skipped(ID, Level::Kernel, "the artifact holds no golden sets"));
        return Ok((rows, list.finish()));
    };
    let manifest: Manifest = match serde_json::from_slice(&bytes) {
        Ok(manifest) => manifest,
        Err(e) => {
            let message =
                format!("expected a list of cases in {FOLDER}/manifest.json, found {e}; fix: {FIX}");
            list.add(failed(ID, Level::Kernel, None, message));
            return Ok((rows, list.finish()));
        }
    };
    for case in &manifest.cases {
        match outcome(&folder, case) {
            Ok(found) => {
                for row in &found {
                    if row.verdict == Some(Verdict::Fail) {
                        let at = row.metrics.first_bad.as_deref().unwrap_or_default();
                        let message = format!(
                            "expected the golden result, found another at {at:?} of {}; fix: {FIX}",
                            row.case
                        );
                        list.add(failed(ID, Level::Kernel, Some(&row.case), message));
                    }
                }
                rows.extend(found);
            }
            Err(error) if error.class() == crate::error::Class::Io => return Err(error),
            Err(error) => {
                let name = format!("{}/{}", case.kernel, case.case);
                let message = format!("the case cannot be run: {error}; fix: {FIX}");
                list.add(failed(ID, Level::Kernel, Some(&name), message));
            }
        }
    }
    if list.failures() == 0 {
        let message = format!("{} golden cases come out as they were written", manifest.cases.len());
        list.add(passed(ID, Level::Kernel, message));
    }
    Ok((rows, list.finish()))
}

const FIX: &str = "write the set again with silicast kernels, or convert again";

fn read(folder: &Confined, name: &str) -> Result<Option<Vec<u8>>> {
    let path = format!("{FOLDER}/{name}");
    match folder.open_regular(&path)? {
        Lookup::File(file, len) if len <= MAX_BYTES => {
            let mut bytes = Vec::new();
            file.take(len)
                .read_to_end(&mut bytes)
                .map_err(|e| Error::io("cannot read", &folder.path().join(&path), e))?;
            Ok(Some(bytes))
        }
        Lookup::Missing => Ok(None),
        Lookup::File(..) | Lookup::Other(_) => {
            Err(Error::input("golden-file", "a file of a golden set is no regular file of reasonable size")
                .file(folder.path().join(&path).display()))
        }
    }
}

fn array(folder: &Confined, stored: &Stored) -> Result<Array> {
    let dtype = Dtype::ALL.iter().copied().find(|d| d.golden_name() == stored.dtype).ok_or_else(|| {
        Error::input("golden-dtype", "a golden array has an unknown format").found(&stored.dtype)
    })?;
    let bytes = read(folder, &stored.file)?
        .ok_or_else(|| Error::input("golden-missing", "a golden array is missing").file(&stored.file))?;
    npy::read(&bytes, dtype).map_err(|e| e.file_or(&stored.file))
}

/// A row for every output of one case.
fn outcome(folder: &Confined, case: &Case) -> Result<Vec<KernelRow>> {
    let kernel = catalog::find(&case.kernel).ok_or_else(|| {
        Error::input("golden-kernel", "this version has no such reference kernel").found(&case.kernel)
    })?;
    let load = |stored: &BTreeMap<String, Stored>| -> Result<Arrays> {
        stored.iter().map(|(name, s)| Ok((name.clone(), array(folder, s)?))).collect()
    };
    let (inputs, golden) = (load(&case.inputs)?, load(&case.outputs)?);
    let wanted = golden.iter().map(|(name, array)| (name.clone(), array.dtype)).collect();
    let computed = (kernel.run)(&Call { inputs: &inputs, params: &case.params, wanted: &wanted })?;
    let rows = golden.iter().map(|(name, golden)| {
        let tolerance = case.outputs.get(name).map_or(0.0, |s| s.tolerance);
        let (mut row, close) = match computed.get(name) {
            Some(found) if found.shape == golden.shape && found.dtype == golden.dtype => {
                compare(found, golden, tolerance)
            }
            _ => (KernelRow::default(), false),
        };
        row.id = case.kernel.clone();
        row.case = format!("{}/{}:{name}", case.kernel, case.case);
        row.tier = "T0".to_owned();
        row.verdict = Some(if close { Verdict::Pass } else { Verdict::Fail });
        row
    });
    Ok(rows.collect())
}

/// The metrics of two arrays of one form, and whether they are equal: in every bit, or within `tolerance` of the largest
/// golden magnitude where one is given.
fn compare(found: &Array, golden: &Array, tolerance: f64) -> (KernelRow, bool) {
    let (a, g) = (values(found), values(golden));
    let shape: Vec<u64> = match golden.dtype.bits() {
        4 => vec![g.len() as u64],
        _ => golden.shape.iter().map(|d| *d as u64).collect(),
    };
    let mut sums = Accumulator::new(golden.dtype);
    sums.add(0, &a, &g);
    let largest = g.iter().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
    let within = || a.iter().zip(&g).all(|(a, g)| a == g || (a - g).abs() <= tolerance * largest);
    let close = found.bytes == golden.bytes || (tolerance > 0.0 && within());
    (KernelRow { metrics: sums.finish(&shape), ..KernelRow::default() }, close)
}

/// The elements of an array; 4-bit ones unpacked, even index from the low nibble.
fn values(array: &Array) -> Vec<f64> {
    let dtype = array.dtype;
    let of = |code: u32| f64::from(codec::decode(dtype, code));
    match dtype.bits() {
        4 => array.bytes.iter().flat_map(|b| [of(u32::from(b & 15)), of(u32::from(b >> 4))]).collect(),
        16 => array.bytes.as_chunks::<2>().0.iter().map(|b| of(u16::from_le_bytes(*b).into())).collect(),
        32 => array.bytes.as_chunks::<4>().0.iter().map(|b| of(u32::from_le_bytes(*b))).collect(),
        64 => {
            let words = array.bytes.as_chunks::<8>().0;
            match dtype {
                Dtype::F64 => words.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                _ => words.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
            }
        }
        _ => array.bytes.iter().map(|b| of(u32::from(*b))).collect(),
    }
}
