//! Strings: StringConcat, StringSplit, StringNormalizer, RegexFullMatch.

use super::binary::zip;
use super::call::{Call, Outcome, one};
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, Value, bad, count};

pub(super) const OPERATORS: &[Operator] = &[
    native("StringConcat", 20, |c| {
        let (a, b) = (c.tensor(0)?, c.tensor(1)?);
        let (shape, texts) = zip((&a.shape, a.texts()?), (&b.shape, b.texts()?), |x, y| format!("{x}{y}"))?;
        one(Tensor::new(shape, Data::Str(texts))?)
    }),
    native("StringSplit", 20, split),
    native("StringNormalizer", 10, normalize),
    native("RegexFullMatch", 20, |c| {
        let x = c.tensor(0)?;
        // The syntax is that of RE2, which the crate shares; its automata need linear time.
        let pattern = format!("\\A(?:{})\\z", c.text("pattern", "")?);
        let regex = regex::RegexBuilder::new(&pattern).size_limit(1 << 22).build();
        let regex =
            regex.map_err(|_| bad("the pattern is wrong").found(crate::error::quote(&pattern, 100)))?;
        let flags = x.texts()?.iter().map(|t| regex.is_match(t)).collect();
        one(Tensor::new(x.shape.clone(), Data::Bool(flags))?)
    }),
];

fn split(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let delimiter = call.text("delimiter", "")?;
    let most = call.attribute("maxsplit").map(|a| a.i).and_then(|m| usize::try_from(m).ok());
    let parts: Vec<Vec<String>> = x.texts()?.iter().map(|t| pieces(t, &delimiter, most)).collect();
    let width = parts.iter().map(Vec::len).max().unwrap_or(0);
    let mut shape = x.shape.clone();
    shape.push(width);
    let mut out = Vec::with_capacity(count(&shape)?);
    let counts = parts.iter().map(|p| p.len() as i64).collect();
    for part in parts {
        let missing = width - part.len();
        out.extend(part);
        out.extend(std::iter::repeat_n(String::new(), missing));
    }
    Ok(vec![
        Value::Tensor(Tensor::new(shape, Data::Str(out))?),
        Value::Tensor(Tensor::new(x.shape.clone(), Data::I64(counts))?),
    ])
}

/// The pieces of a text; without a delimiter runs of white space separate, and none is at the ends.
fn pieces(text: &str, delimiter: &str, most: Option<usize>) -> Vec<String> {
    let most = most.map_or(usize::MAX, |m| m.saturating_add(1));
    if !delimiter.is_empty() {
        return text.splitn(most, delimiter).map(str::to_owned).collect();
    }
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if out.len() + 1 == most {
            out.push(rest.to_owned());
            break;
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        out.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    out
}

fn normalize(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let action = call.text("case_change_action", "NONE")?;
    let case = |t: &str| match action.as_str() {
        "LOWER" => t.to_lowercase(),
        "UPPER" => t.to_uppercase(),
        _ => t.to_owned(),
    };
    let sensitive = call.flag("is_case_sensitive", false);
    let stops = call.texts("stopwords")?.unwrap_or_default();
    let stopped = |t: &str| {
        if sensitive { stops.iter().any(|s| s == t) } else { stops.iter().any(|s| case(s) == case(t)) }
    };
    let kept: Vec<String> = x.texts()?.iter().filter(|t| !stopped(t)).map(|t| case(t)).collect();
    let kept = if kept.is_empty() { vec![String::new()] } else { kept };
    let shape = match x.shape[..] {
        [_] => vec![kept.len()],
        [1, _] => vec![1, kept.len()],
        _ => return Err(bad("the input must be [n] or [1, n]").found(format!("{:?}", x.shape))),
    };
    one(Tensor::new(shape, Data::Str(kept))?)
}
