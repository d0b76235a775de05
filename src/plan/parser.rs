//! Reads the text form of a plan back: `parse(to_text(plan)) == plan`.

use super::expr::{Axis, Constant, Cut, Global, Part, Stored, View};
use super::printer::MAGIC;
use super::{
    Dropped, Exactness, Expr, Fate, Header, Origin, Output, Place, Plan, Shape, Shard, SideFile, Source, Ty,
};
use crate::checkpoint::{TensorId, TensorInfo};
use crate::dtype::Dtype;
use crate::dtype::scheme::Scheme;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The text is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plan text, line {line}: {what}")]
pub struct ParseError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Parses the text of a plan.
pub fn parse(text: &str) -> Result<Plan, ParseError> {
    let mut plan = Plan {
        header: Header::default(),
        sources: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        drops: Vec::new(),
        shards: Vec::new(),
        side_files: Vec::new(),
    };
    let mut names = BTreeMap::new();
    let mut shared = Shared::default();
    for (number, line) in text.lines().enumerate() {
        let at = |what: String| ParseError { line: number + 1, what };
        if number == 0 {
            if line != MAGIC {
                return Err(at(format!("expected `{MAGIC}`")));
            }
            continue;
        }
        let mut cursor = Cursor { rest: line, names: &names, shared: &mut shared };
        let fresh = parse_line(&mut cursor, &mut plan).map_err(at)?;
        if let Some((name, id)) = fresh
            && names.insert(name, id).is_some()
        {
            return Err(at("a second source tensor of the same name".to_owned()));
        }
    }
    Ok(plan)
}

type Parsed<T> = Result<T, String>;

/// Strings and shapes that many lines repeat are stored once.
#[derive(Default)]
struct Shared {
    texts: BTreeMap<String, Arc<str>>,
    shapes: BTreeMap<Vec<u64>, Shape>,
}

struct Cursor<'a> {
    rest: &'a str,
    names: &'a BTreeMap<Arc<str>, TensorId>,
    shared: &'a mut Shared,
}

fn parse_line(c: &mut Cursor<'_>, plan: &mut Plan) -> Parsed<Option<(Arc<str>, TensorId)>> {
    let keyword = c.word()?;
    let mut fresh = None;
    match keyword {
        "target" => plan.header.target = c.string()?,
        "engine" => plan.header.engine = c.string()?,
        "scheme" => plan.header.scheme = c.string()?,
        "family" => plan.header.family = c.string()?,
        "recipe" => plan.header.recipe = c.string()?,
        "source" => {
            let name = c.string()?;
            let bytes = c.field("bytes=")?;
            c.expect("header=")?;
            plan.sources.push(Source { name, bytes, header_blake3: c.string()? });
        }
        "in" => {
            let name: Arc<str> = c.string()?.into();
            let ty = c.ty()?;
            let (file, offset) = c.address()?;
            let id = TensorId::try_from(plan.inputs.len()).map_err(|_| "too many tensors".to_owned())?;
            let bytes = ty.bytes();
            plan.inputs.push(TensorInfo {
                name: name.clone(),
                dtype: ty.dtype,
                shape: ty.shape,
                file,
                offset,
                bytes,
            });
            fresh = Some((name, id));
        }
        "out" => {
            let name = c.string()?.into();
            let ty = c.ty()?;
            c.expect("=")?;
            let expr = c.expr(&ty)?;
            let scheme = match c.eat("to[") {
                true => Some(c.scheme_until(']')?),
                false => None,
            };
            let fate = match c.word()? {
                "kept" => Fate::Kept,
                "reencoded" => Fate::Reencoded,
                "quantized" => Fate::Quantized,
                other => return Err(format!("unknown fate `{other}`")),
            };
            let exactness = match c.word()? {
                "bitwise" => Exactness::Bitwise,
                "rounding" => Exactness::Rounding,
                "lossy" => Exactness::Lossy,
                other => return Err(format!("unknown exactness `{other}`")),
            };
            let place = match c.rest.starts_with('"') {
                true => None,
                false => {
                    let (shard, offset) = c.address()?;
                    Some(Place { shard, offset })
                }
            };
            let reason = c.shared_string()?;
            plan.outputs.push(Output { name, ty, expr, scheme, fate, exactness, reason, place });
        }
        "drop" => {
            let source = c.tensor()?;
            plan.drops.push(Dropped { source, reason: c.shared_string()? });
        }
        "shard" => {
            let name = c.string()?;
            let header = c.field("header=")?;
            plan.shards.push(Shard { name, header, bytes: c.field("bytes=")? });
        }
        "side" => {
            let name = c.string()?;
            let bytes = c.field("bytes=")?;
            let origin = match c.word()? {
                "copied" => Origin::Copied,
                "generated" => Origin::Generated,
                other => return Err(format!("unknown origin `{other}`")),
            };
            plan.side_files.push(SideFile { name, bytes, origin });
        }
        other => return Err(format!("unknown keyword `{other}`")),
    }
    match c.rest {
        "" => Ok(fresh),
        rest => Err(format!("trailing text `{}`", rest.chars().take(40).collect::<String>())),
    }
}

impl<'a> Cursor<'a> {
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start_matches(' ');
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { Err(format!("expected `{token}`")) }
    }

    /// Up to the next space.
    fn word(&mut self) -> Parsed<&'a str> {
        let (word, rest) = self.rest.split_once(' ').unwrap_or((self.rest, ""));
        if word.is_empty() {
            return Err("the line ends too early".to_owned());
        }
        self.rest = rest;
        Ok(word)
    }

    fn until(&mut self, end: char) -> Parsed<&'a str> {
        let (text, rest) = self.rest.split_once(end).ok_or_else(|| format!("expected `{end}`"))?;
        self.rest = rest.trim_start_matches(' ');
        Ok(text)
    }

    fn string(&mut self) -> Parsed<String> {
        let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let text = match stream.next() {
            Some(Ok(text)) => text,
            _ => return Err("expected a quoted string".to_owned()),
        };
        self.rest = self.rest[stream.byte_offset()..].trim_start_matches(' ');
        Ok(text)
    }

    fn shared_string(&mut self) -> Parsed<Arc<str>> {
        let text = self.string()?;
        Ok(self.shared.texts.entry(text.clone()).or_insert_with(|| text.into()).clone())
    }

    fn number<T: std::str::FromStr>(text: &str) -> Parsed<T> {
        text.parse().map_err(|_| format!("`{text}` is no number"))
    }

    fn field(&mut self, key: &str) -> Parsed<u64> {
        self.expect(key)?;
        Self::number(self.word()?)
    }

    fn address(&mut self) -> Parsed<(u32, u64)> {
        let word = self.word()?;
        let (file, offset) = word.split_once('@').ok_or("expected FILE@OFFSET")?;
        Ok((Self::number(file)?, Self::number(offset)?))
    }

    fn ty(&mut self) -> Parsed<Ty> {
        let dtype = self.until('[')?;
        let dtype = Dtype::from_text(dtype).ok_or_else(|| format!("unknown dtype `{dtype}`"))?;
        let dims = self.until(']')?;
        let shape: Vec<u64> = match dims {
            "" => Vec::new(),
            dims => dims.split(',').map(Self::number).collect::<Parsed<_>>()?,
        };
        let elements = shape.iter().try_fold(1u64, |a, d| a.checked_mul(*d)).ok_or("the shape overflows")?;
        dtype.byte_len(elements).ok_or("the shape overflows")?;
        let shape = self.shared.shapes.entry(shape.clone()).or_insert_with(|| shape.into()).clone();
        Ok(Ty { dtype, shape })
    }

    fn tensor(&mut self) -> Parsed<TensorId> {
        let name = self.string()?;
        self.names.get(name.as_str()).copied().ok_or_else(|| format!("no source tensor {name:?}"))
    }

    fn scheme_until(&mut self, end: char) -> Parsed<Scheme> {
        let text = self.until(end)?;
        text.parse().map_err(|e| format!("`{text}`: {e}"))
    }

    fn expr(&mut self, ty: &Ty) -> Parsed<Expr> {
        if self.rest.starts_with('"') {
            return Ok(Expr::Load(self.tensor()?));
        }
        for (text, constant) in [("zeros()", Constant::Zeros), ("ones()", Constant::Ones)] {
            if self.eat(text) {
                return Ok(Expr::Constant { ty: ty.clone(), constant });
            }
        }
        for (head, pow2) in [("scale_f32(", false), ("scale_f32_pow2(", true)] {
            if self.eat(head) {
                let scale = self.tensor()?;
                self.expect(")")?;
                return Ok(Expr::ScaleF32 { scale, pow2 });
            }
        }
        if self.eat("reciprocal(") {
            let scale = self.tensor()?;
            self.expect(")")?;
            return Ok(Expr::Reciprocal(scale));
        }
        let head = self.until('[')?;
        let argument = self.until(']')?;
        let scheme = || argument.parse::<Scheme>().map_err(|e| format!("`{argument}`: {e}"));
        self.expect("(")?;
        let expr = match head {
            "dequantize" => self.dequantize(scheme()?)?,
            "view" | "view_t" | "view_column" => {
                let [row, step, rows, col, cols] = numbers(argument)?;
                let (transpose, column) = (head == "view_t", head == "view_column");
                let view = View { row, step, rows, col, cols, transpose, column };
                Expr::View { value: Box::new(self.expr(ty)?), view }
            }
            "cast" => {
                let to = Dtype::from_text(argument).ok_or_else(|| format!("unknown dtype `{argument}`"))?;
                Expr::Cast { value: Box::new(self.expr(ty)?), to }
            }
            "words" => {
                let [word] = numbers(argument)?;
                let word = u32::try_from(word).map_err(|_| format!("no word: `{argument}`"))?;
                Expr::Constant { ty: ty.clone(), constant: Constant::Words(word) }
            }
            "shape" => Expr::Constant { ty: ty.clone(), constant: Constant::Shape(numbers(argument)?) },
            "groups" => {
                let [group] = numbers(argument)?;
                let group = u32::try_from(group).map_err(|_| format!("no group: `{argument}`"))?;
                Expr::Constant { ty: ty.clone(), constant: Constant::Groups(group) }
            }
            "scale_bytes" => self.scale_bytes(argument)?,
            "slice_rows" | "slice_cols" => {
                let [start, len] = numbers(argument)?;
                let axis = if head == "slice_rows" { Axis::Rows } else { Axis::Cols };
                Expr::Slice { value: Box::new(self.expr(ty)?), cut: Cut { axis, start, len } }
            }
            other => {
                let part = part(other).ok_or_else(|| format!("unknown operation `{other}`"))?;
                let value = Box::new(self.expr(ty)?);
                let mut peers = Vec::new();
                while self.eat(";") {
                    peers.push(self.expr(ty)?);
                }
                Expr::Quantize { part, value, peers, scheme: scheme()? }
            }
        };
        self.expect(")")?;
        Ok(expr)
    }

    fn dequantize(&mut self, scheme: Scheme) -> Parsed<Expr> {
        let codes = self.tensor()?;
        self.expect(",")?;
        let scale = self.tensor()?;
        let mut stored = Stored { codes, scale, zero: None, global: None, order: None, scheme };
        while self.eat(",") {
            let key = self.until('=')?;
            let id = self.tensor()?;
            match key {
                "zero" => stored.zero = Some(id),
                "multiplier" => stored.global = Some(Global::Multiplier(id)),
                "divisor" => stored.global = Some(Global::Divisor(id)),
                "order" => stored.order = Some(id),
                other => return Err(format!("unknown argument `{other}`")),
            }
        }
        Ok(Expr::Dequantize(stored))
    }

    fn scale_bytes(&mut self, argument: &str) -> Parsed<Expr> {
        let wrong = || format!("expected granularity,n,k,group,dtype, not `{argument}`");
        let parts: Vec<&str> = argument.split(',').collect();
        let [granularity, n, k, group, to] = parts[..] else { return Err(wrong()) };
        Ok(Expr::ScaleBytes {
            granularity: granularity.parse().map_err(|_| wrong())?,
            shape: [n.parse().map_err(|_| wrong())?, k.parse().map_err(|_| wrong())?],
            group: group.parse().map_err(|_| wrong())?,
            to: Dtype::from_text(to).ok_or_else(wrong)?,
            scale: self.tensor()?,
        })
    }
}

/// The part that an operation's name stands for.
fn part(name: &str) -> Option<Part> {
    Some(match name {
        "codes" => Part::Codes,
        "scales" => Part::Scales,
        "zero_points" => Part::Zeros,
        "global_scale" => Part::Global,
        other => Part::Bias(other.strip_prefix("scale_bias_")?.parse().ok().filter(|n| *n > 0)?),
    })
}

/// So many numbers, between commas, plus signs or asterisks.
fn numbers<const N: usize>(text: &str) -> Parsed<[u64; N]> {
    let parsed: Result<Vec<u64>, _> = text.split([',', '+', '*']).map(str::parse).collect();
    parsed
        .ok()
        .and_then(|list| list.try_into().ok())
        .ok_or_else(|| format!("expected {N} numbers, not `{text}`"))
}
