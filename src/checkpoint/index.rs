//! `model.safetensors.index.json`: which shard holds which tensor.
//!
//! Shard names are hostile and irregular: a value is one path component, and nothing but the index says which files
//! belong to the model.

use super::json::{Skip, Text, TextSeed};
use super::name;
use crate::error::{Error, Result, quote};
use crate::io::source::is_file_name;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Largest index, in bytes. The largest known model has 500,000 tensors and 60 MB of index.
pub(super) const MAX_INDEX: u64 = 512 << 20;

/// A parsed index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Shard names, in byte order.
    pub(super) files: Vec<String>,
    /// Tensor name and position of its shard in `files`, in natural order.
    pub(super) entries: Vec<(Box<str>, u32)>,
    /// `metadata.total_size`, where it is a whole number.
    pub(super) total_size: Option<u64>,
    /// Oddities that do no harm.
    pub(super) warnings: Vec<String>,
}

/// Parses an index.
///
/// # Errors
/// Exit 4: `index-json`, `index-duplicate`, `index-shard-name`, `index-tensor-name`, `index-weight-map`.
pub(super) fn parse(bytes: &[u8]) -> Result<Index> {
    let json = |e: &dyn fmt::Display| {
        Error::input("index-json", "the index cannot be read")
            .expected("{\"metadata\": {…}, \"weight_map\": {tensor: file}}")
            .found(e)
    };
    let text = std::str::from_utf8(bytes).map_err(|e| json(&e))?;
    let mut root = Root { index: Index::default(), files: BTreeMap::new(), fault: None, seen: Vec::new() };
    let mut de = serde_json::Deserializer::from_str(text);
    if let Err(e) = RootSeed(&mut root).deserialize(&mut de).and_then(|()| de.end()) {
        return Err(root.fault.unwrap_or_else(|| json(&e)));
    }
    if !root.seen.iter().any(|k| k == "weight_map") {
        return Err(Error::input("index-weight-map", "the index has no weight_map"));
    }
    if root.index.entries.is_empty() {
        return Err(Error::input("index-weight-map", "the weight_map of the index is empty"));
    }
    let mut index = root.index;
    // Shards were numbered as they came; number them in byte order.
    let mut rank = vec![0; root.files.len()];
    for (position, (file, seen_as)) in (0u32..).zip(root.files) {
        rank[seen_as as usize] = position;
        index.files.push(file);
    }
    for (_, file) in &mut index.entries {
        *file = rank[*file as usize];
    }
    index.entries.sort_unstable_by(|a, b| name::natural_cmp(&a.0, &b.0));
    if let Some(w) = index.entries.windows(2).find(|w| w[0].0 == w[1].0) {
        return Err(Error::input("index-duplicate", "the index lists a tensor twice").tensor(&w[0].0));
    }
    Ok(index)
}

struct Root {
    index: Index,
    files: BTreeMap<String, u32>,
    fault: Option<Error>,
    seen: Vec<String>,
}

impl Root {
    fn fail<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.fault = Some(error);
        E::custom("")
    }
}

struct RootSeed<'a>(&'a mut Root);

impl<'de> DeserializeSeed<'de> for RootSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RootSeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let root = self.0;
        while let Some(Text(key)) = map.next_key_seed(TextSeed)? {
            if root.seen.iter().any(|k| *k == key) {
                let e = Error::input("index-duplicate", "a key of the index appears twice");
                return Err(root.fail(e.found(quote(&key, 80))));
            }
            // Linear in the number of root keys, so that number is bounded.
            if root.seen.len() == 64 {
                let e = Error::input("index-json", "the index has too many keys");
                return Err(root.fail(e.expected("metadata and weight_map")));
            }
            root.seen.push(key.clone().into_owned());
            match &*key {
                "weight_map" => map.next_value_seed(WeightMapSeed(root))?,
                "metadata" => root.index.total_size = map.next_value_seed(MetadataSeed)?,
                other => {
                    map.next_value_seed(Skip)?;
                    root.index
                        .warnings
                        .push(format!("the index has an unknown key \"{}\"", quote(other, 60)));
                }
            }
        }
        Ok(())
    }
}

struct MetadataSeed;

impl<'de> DeserializeSeed<'de> for MetadataSeed {
    type Value = Option<u64>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Option<u64>, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed {
    type Value = Option<u64>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata as an object")
    }
    fn visit_unit<E>(self) -> std::result::Result<Option<u64>, E> {
        Ok(None)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Option<u64>, A::Error> {
        let mut total = None;
        while let Some(Text(key)) = map.next_key_seed(TextSeed)? {
            if key == "total_size" {
                if total.is_some() {
                    return Err(serde::de::Error::custom("total_size appears twice"));
                }
                total = Some(map.next_value::<serde_json::Value>()?);
            } else {
                map.next_value_seed(Skip)?;
            }
        }
        // Some writers store a float.
        Ok(total.and_then(|v| {
            v.as_u64().or_else(|| v.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0).map(|f| f as u64))
        }))
    }
}

struct WeightMapSeed<'a>(&'a mut Root);

impl<'de> DeserializeSeed<'de> for WeightMapSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMapSeed<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("weight_map as an object of file names")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let root = self.0;
        while let Some(Text(key)) = map.next_key_seed(TextSeed)? {
            if let Some(found) = name::fault(&key) {
                let e = Error::input("index-tensor-name", "a tensor name in the index is not acceptable");
                return Err(root.fail(e.tensor(quote(&key, 80)).found(found)));
            }
            let Text(file) = map.next_value_seed(TextSeed)?;
            let position = match root.files.get(file.as_ref()) {
                Some(position) => *position,
                None => {
                    if !is_file_name(&file) || !file.ends_with(".safetensors") {
                        let e = Error::input("index-shard-name", "the index names a file that is no shard");
                        return Err(root.fail(
                            e.tensor(quote(&key, 120))
                                .expected("one path component that ends in .safetensors")
                                .found(quote(&file, 80)),
                        ));
                    }
                    let position = root.files.len() as u32;
                    root.files.insert(file.into_owned(), position);
                    position
                }
            };
            root.index.entries.push((key.into(), position));
        }
        Ok(())
    }
}
