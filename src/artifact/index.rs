//! The index of a sharded checkpoint: which file holds which tensor.

use crate::error::{Error, Result};
use std::io::Write;

/// Writes the index JSON (two-space indent, final newline): `metadata.total_size` = `total_size` bytes of tensor payload,
/// and `weight_map` from the pairs (tensor, file), which must come in ascending order of tensor names.
///
/// # Errors
/// Class Internal: names out of order or twice. Class Io: `out` fails; the caller names the file.
pub fn write_index<'a>(
    out: &mut impl Write,
    total_size: u64,
    weight_map: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<()> {
    let mut last: Option<&str> = None;
    write(
        out,
        &format!("{{\n  \"metadata\": {{\n    \"total_size\": {total_size}\n  }},\n  \"weight_map\": {{"),
    )?;
    for (tensor, file) in weight_map {
        if last.is_some_and(|last| last >= tensor) {
            return Err(
                Error::internal("index-order", "an index would list tensors out of order").tensor(tensor)
            );
        }
        let comma = if last.is_some() { "," } else { "" };
        write(out, &format!("{comma}\n    {}: {}", quoted(tensor)?, quoted(file)?))?;
        last = Some(tensor);
    }
    write(out, if last.is_some() { "\n  }\n}\n" } else { "}\n}\n" })
}

fn quoted(text: &str) -> Result<String> {
    serde_json::to_string(text).map_err(|e| Error::internal("index-json", "cannot write JSON").found(e))
}

fn write(out: &mut impl Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes())
        .map_err(|e| Error::io("cannot write the index", std::path::Path::new("index.json"), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_serde_json_prints() {
        for pairs in [vec![], vec![("a", "1.safetensors")], vec![("A\"\n", "x"), ("a.10", "y"), ("a.2", "x")]]
        {
            let mut out = Vec::new();
            write_index(&mut out, 12, pairs.iter().copied()).unwrap();
            let map: serde_json::Map<_, _> = pairs.iter().map(|&(t, f)| (t.to_owned(), f.into())).collect();
            let value = serde_json::json!({"metadata": {"total_size": 12}, "weight_map": map});
            let expected = serde_json::to_string_pretty(&value).unwrap() + "\n";
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn disorder_is_refused() {
        for pairs in [[("b", "x"), ("a", "x")], [("a", "x"), ("a", "y")]] {
            assert_eq!(write_index(&mut Vec::new(), 0, pairs).unwrap_err().code(), "index-order");
        }
    }
}
