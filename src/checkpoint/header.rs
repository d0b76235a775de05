//! The strict safetensors header parser.
//!
//! A file is a little-endian `u64` header length, a JSON header, and the tensor data without holes. Everything that the
//! official reader refuses is refused here; on top of that duplicate names (it keeps the last), hostile names, ranks
//! above 16 and other absurdities. Time and memory are linear in the header.

use super::json::{Skip, Text, TextSeed};
use super::name;
use crate::dtype::Dtype;
use crate::error::{Error, Result, quote};
use crate::io::source::ReadFile;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// Largest header, in bytes: the official reader's limit.
pub const MAX_HEADER: u64 = 100_000_000;
/// Most tensors in one file.
pub const MAX_TENSORS: usize = 2_000_000;
/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 16;
/// Most bytes of `__metadata__` keys and values.
pub const MAX_METADATA: usize = 1_000_000;

/// One header entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Tensor name.
    pub name: Arc<str>,
    /// Element format.
    pub dtype: Dtype,
    /// Shape, row-major; empty for a scalar.
    pub shape: Arc<[u64]>,
    /// First byte, counted from the start of the data.
    pub start: u64,
    /// End byte, counted from the start of the data.
    pub end: u64,
}

/// A parsed header.
#[derive(Debug, Default)]
pub struct Header {
    /// The entries, by offset; they cover the data exactly.
    pub entries: Vec<Entry>,
    /// Oddities that do no harm.
    pub warnings: Vec<String>,
}

/// Shapes shared between tensors: a checkpoint of 100,000 tensors has a few dozen.
#[derive(Debug, Default)]
pub struct Shapes(HashMap<Arc<[u64]>, ()>);

impl Shapes {
    /// The shared copy of `shape`.
    pub fn share(&mut self, shape: &[u64]) -> Arc<[u64]> {
        if let Some((shared, ())) = self.0.get_key_value(shape) {
            return shared.clone();
        }
        let shared: Arc<[u64]> = shape.into();
        self.0.insert(shared.clone(), ());
        shared
    }
}

/// Reads a file's header and nothing else. Returns it with the offset of the data and the BLAKE3 (hex) of everything
/// before the data.
///
/// # Errors
/// Exit 4 with a code that starts with `st-`, naming file and tensor; I/O errors (exit 5).
pub fn read(file: &ReadFile, shapes: &mut Shapes) -> Result<(Header, u64, String)> {
    let at_file = |e: Error| e.file_or(file.path().display());
    let mut length = [0; 8];
    if file.len() < 8 {
        let e = Error::input("st-too-short", "the file is too short for a safetensors header");
        return Err(at_file(e.expected("at least 8 bytes").found(file.len()).fix("fetch the file again")));
    }
    file.read_exact_at(&mut length, 0)?;
    let header = header_length(length, file.len()).map_err(at_file)?;
    let mut bytes = vec![0; header];
    file.read_exact_at(&mut bytes, 8)?;
    let data_start = 8 + header as u64;
    let parsed = parse(&bytes, file.len() - data_start, shapes).map_err(at_file)?;
    let digest = blake3::Hasher::new().update(&length).update(&bytes).finalize();
    Ok((parsed, data_start, digest.to_hex().to_string()))
}

/// The header length that the first 8 bytes state, checked against the file's length.
///
/// # Errors
/// `st-header-empty`, `st-header-too-big`, `st-header-past-end` (exit 4).
pub fn header_length(prefix: [u8; 8], file_bytes: u64) -> Result<usize> {
    let length = u64::from_le_bytes(prefix);
    if length == 0 {
        return Err(Error::input("st-header-empty", "the safetensors header is empty")
            .expected("JSON")
            .found(0));
    }
    if length > MAX_HEADER {
        let e =
            Error::input("st-header-too-big", "the safetensors header is too big, or this is another format");
        return Err(e.expected(format!("at most {MAX_HEADER} bytes")).found(length));
    }
    if length > file_bytes.saturating_sub(8) {
        let e = Error::input("st-header-past-end", "the safetensors header ends after the file");
        return Err(e
            .expected(format!("at most {} bytes", file_bytes.saturating_sub(8)))
            .found(length)
            .fix("fetch the file again: it is cut short"));
    }
    usize::try_from(length)
        .map_err(|_| Error::input("st-header-too-big", "the safetensors header is too big"))
}

/// Parses a header whose file has `data_bytes` after it.
///
/// # Errors
/// Exit 4 with a code that starts with `st-`, naming the tensor.
pub fn parse(header: &[u8], data_bytes: u64, shapes: &mut Shapes) -> Result<Header> {
    let text = std::str::from_utf8(header).map_err(|e| {
        Error::input("st-utf8", "the safetensors header is not UTF-8")
            .found(format!("byte {}", e.valid_up_to()))
    })?;
    let mut ctx = Context { shapes, out: Header::default(), at: None, field: "", fault: None, odd: None };
    let mut de = serde_json::Deserializer::from_str(text);
    let result = HeaderSeed(&mut ctx).deserialize(&mut de).and_then(|()| {
        ctx.at = None;
        de.end()
    });
    if let Err(e) = result {
        return Err(ctx.explain(&e));
    }
    let mut out = ctx.out;
    if let Some((tensor, field, count)) = ctx.odd {
        out.warnings.push(format!(
            "unknown header fields ({count}), the first is \"{}\" of tensor {}",
            quote(&field, 60),
            quote(&tensor, 120)
        ));
    }
    no_duplicates(&out.entries)?;
    out.entries.sort_by(|a, b| (a.start, a.end).cmp(&(b.start, b.end)).then_with(|| a.name.cmp(&b.name)));
    check_coverage(&out.entries, data_bytes)?;
    Ok(out)
}

fn no_duplicates(entries: &[Entry]) -> Result<()> {
    let mut names: Vec<&str> = entries.iter().map(|e| &*e.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        None => Ok(()),
        Some(w) => Err(Error::input("st-duplicate-name", "two header entries have one name")
            .tensor(w[0])
            .expected("every tensor once")
            .fix("readers disagree on which entry counts: write the file again")),
    }
}

/// The data must be covered by the tensors, each byte once.
fn check_coverage(entries: &[Entry], data_bytes: u64) -> Result<()> {
    let mut end = 0;
    for e in entries {
        if e.start != end {
            let (code, what) = if e.start > end {
                ("st-hole", "bytes before the tensor belong to no tensor")
            } else {
                ("st-overlap", "two tensors share bytes")
            };
            return Err(Error::input(code, what)
                .tensor(&e.name)
                .expected(format!("start {end}"))
                .found(e.start));
        }
        end = e.end;
    }
    if end > data_bytes {
        let e = Error::input("st-truncated", "the file is shorter than its header says");
        let last = entries.iter().find(|e| e.end > data_bytes).map_or("", |e| &e.name);
        return Err(e
            .tensor(last)
            .expected(format!("{end} bytes of data"))
            .found(data_bytes)
            .fix("fetch the file again: it is cut short"));
    }
    if end < data_bytes {
        let e = Error::input("st-trailing-bytes", "bytes after the last tensor belong to no tensor");
        return Err(e.expected(format!("{end} bytes of data")).found(data_bytes));
    }
    Ok(())
}

/// Where the parser is, what it has found, and the typed error behind a serde error.
struct Context<'s> {
    shapes: &'s mut Shapes,
    out: Header,
    at: Option<String>,
    field: &'static str,
    fault: Option<Error>,
    odd: Option<(String, String, usize)>,
}

impl Context<'_> {
    /// Keeps `error` and returns a placeholder for serde.
    fn fail<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.fault = Some(error);
        E::custom("")
    }

    fn explain(self, e: &serde_json::Error) -> Error {
        let named = |error: Error| match &self.at {
            Some(tensor) => error.tensor(tensor),
            None => error,
        };
        if let Some(fault) = self.fault {
            return named(fault);
        }
        if e.classify() != serde_json::error::Category::Data {
            return named(Error::input("st-json", "the safetensors header is not valid JSON").found(e));
        }
        let (code, expected) = match (self.at.is_some(), self.field) {
            (false, _) => ("st-not-object", "a JSON object of tensors"),
            (true, "__metadata__") => ("st-metadata", "__metadata__ as an object of strings"),
            (true, "dtype") => ("st-dtype", "dtype as a string"),
            (true, "shape") => ("st-shape", "shape as a list of non-negative integers"),
            (true, "data_offsets") => ("st-offsets", "data_offsets as two non-negative integers"),
            (true, _) => ("st-entry", "an object with dtype, shape and data_offsets"),
        };
        named(Error::input(code, "a header entry is malformed").expected(expected).found(e))
    }

    fn push(&mut self, tensor: &str, fields: Fields) -> std::result::Result<(), Error> {
        let missing = |field: &str| {
            Error::input("st-field-missing", "a header entry is incomplete")
                .expected(format!("the field {field}"))
        };
        let dtype = fields.dtype.ok_or_else(|| missing("dtype"))?;
        let shape = fields.shape.ok_or_else(|| missing("shape"))?;
        let [start, end] = fields.offsets.ok_or_else(|| missing("data_offsets"))?;
        if end < start {
            let e = Error::input("st-offset-order", "a tensor ends before it starts");
            return Err(e.expected(format!("an end of at least {start}")).found(end));
        }
        // Zero dimensions count as one here, so that no product of a few dimensions can overflow later.
        let overflow = || {
            Error::input("st-overflow", "the shape's element count overflows 64 bits")
                .found(format!("{dtype} {shape:?}"))
        };
        let bound =
            shape.iter().try_fold(dtype.bits(), |n, d| n.checked_mul((*d).max(1))).ok_or_else(overflow)?;
        let bits = if shape.contains(&0) { 0 } else { bound };
        if bits % 8 != 0 {
            return Err(Error::input("st-partial-byte", "the tensor's elements do not fill whole bytes")
                .found(format!("{dtype} {shape:?}")));
        }
        if bits / 8 != end - start {
            return Err(Error::input("st-size", "the tensor's byte range does not fit its shape")
                .expected(format!("{} bytes for {dtype} {shape:?}", bits / 8))
                .found(end - start));
        }
        if self.out.entries.len() == MAX_TENSORS {
            return Err(Error::input("st-too-many-tensors", "too many tensors in one file")
                .expected(format!("at most {MAX_TENSORS}")));
        }
        let shape = self.shapes.share(&shape);
        self.out.entries.push(Entry { name: tensor.into(), dtype, shape, start, end });
        Ok(())
    }
}

#[derive(Default)]
struct Fields {
    dtype: Option<Dtype>,
    shape: Option<Vec<u64>>,
    offsets: Option<[u64; 2]>,
}

struct HeaderSeed<'a, 's>(&'a mut Context<'s>);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let ctx = self.0;
        let mut metadata = false;
        while let Some(Text(key)) = map.next_key_seed(TextSeed)? {
            ctx.field = "";
            if key == "__metadata__" {
                ctx.at = Some(key.into_owned());
                ctx.field = "__metadata__";
                if metadata {
                    let e = Error::input("st-duplicate-key", "__metadata__ appears twice");
                    return Err(ctx.fail(e));
                }
                metadata = true;
                map.next_value_seed(MetadataSeed(ctx))?;
            } else {
                // Cut for the error only: a hostile name can be as long as the header.
                ctx.at = Some(key.chars().take(name::MAX_NAME).collect());
                if let Some(found) = name::fault(&key) {
                    let e = Error::input("st-name", "a tensor name is not acceptable");
                    return Err(ctx
                        .fail(e.expected("1 to 512 bytes without control characters or '..'").found(found)));
                }
                let fields = map.next_value_seed(EntrySeed(ctx))?;
                if let Err(e) = ctx.push(&key, fields) {
                    return Err(ctx.fail(e));
                }
            }
            ctx.at = None;
        }
        Ok(())
    }
}

struct MetadataSeed<'a, 's>(&'a mut Context<'s>);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let ctx = self.0;
        let (mut bytes, mut keys) = (0, BTreeSet::new());
        while let Some(Text(key)) = map.next_key_seed(TextSeed)? {
            let Text(value) = map.next_value_seed(TextSeed)?;
            bytes += key.len() + value.len();
            if bytes > MAX_METADATA {
                let e = Error::input("st-metadata-too-big", "__metadata__ is too big");
                return Err(ctx.fail(e.expected(format!("at most {MAX_METADATA} bytes"))));
            }
            if let Some(key) = keys.replace(key) {
                let e = Error::input("st-duplicate-key", "a key of __metadata__ appears twice");
                return Err(ctx.fail(e.found(quote(&key, 80))));
            }
        }
        Ok(())
    }
}

struct EntrySeed<'a, 's>(&'a mut Context<'s>);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_, '_> {
    type Value = Fields;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Fields, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_, '_> {
    type Value = Fields;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Fields, A::Error> {
        let ctx = self.0;
        let mut fields = Fields::default();
        let mut unknown = BTreeSet::new();
        while let Some(Text(key)) = map.next_key_seed(TextSeed)? {
            let twice = match &*key {
                "dtype" => fields.dtype.is_some(),
                "shape" => fields.shape.is_some(),
                "data_offsets" => fields.offsets.is_some(),
                other => unknown.contains(other),
            };
            if twice {
                let e = Error::input("st-duplicate-key", "a field of a header entry appears twice");
                return Err(ctx.fail(e.found(quote(&key, 80))));
            }
            match &*key {
                "dtype" => {
                    ctx.field = "dtype";
                    let Text(text) = map.next_value_seed(TextSeed)?;
                    let Some(dtype) = Dtype::from_safetensors_name(&text) else {
                        let e = Error::input("st-dtype-unknown", "the tensor's dtype is not known");
                        return Err(
                            ctx.fail(e.expected("a safetensors dtype such as BF16").found(quote(&text, 40)))
                        );
                    };
                    fields.dtype = Some(dtype);
                }
                "shape" => {
                    ctx.field = "shape";
                    let shape = map.next_value_seed(NumbersSeed { max: MAX_RANK })?;
                    if shape.len() > MAX_RANK {
                        let e = Error::input("st-rank", "the tensor has too many dimensions");
                        return Err(ctx.fail(e.expected(format!("at most {MAX_RANK}"))));
                    }
                    fields.shape = Some(shape);
                }
                "data_offsets" => {
                    ctx.field = "data_offsets";
                    let offsets = map.next_value_seed(NumbersSeed { max: 2 })?;
                    fields.offsets =
                        Some(offsets.try_into().map_err(|_| A::Error::custom("not two integers"))?);
                }
                _ => {
                    ctx.field = "";
                    map.next_value_seed(Skip)?;
                    match &mut ctx.odd {
                        Some((_, _, count)) => *count += 1,
                        None => {
                            let at = ctx.at.clone().unwrap_or_default();
                            ctx.odd = Some((at, key.clone().into_owned(), 1));
                        }
                    }
                    unknown.insert(key);
                }
            }
            ctx.field = "";
        }
        Ok(fields)
    }
}

/// A list of non-negative integers. One more than `max` is kept and the rest dropped, so that the caller sees that
/// there were too many.
struct NumbersSeed {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for NumbersSeed {
    type Value = Vec<u64>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vec<u64>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for NumbersSeed {
    type Value = Vec<u64>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of non-negative integers")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<u64>, A::Error> {
        let mut out = Vec::new();
        while let Some(n) = seq.next_element::<u64>()? {
            if out.len() <= self.max {
                out.push(n);
            }
        }
        Ok(out)
    }
}
