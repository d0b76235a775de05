//! The text form of a plan, and its digest.
//!
//! One line per thing, in this order: header lines, `source`, `in`, `out`, `drop`, `shard`, `side`. Names are JSON
//! strings. [`super::parser`] reads it back; the digest of a plan is the BLAKE3 of this text.

use super::expr::{Axis, Constant, Cut, Global, Part, Stored, View};
use super::{Expr, Output, Plan, type_text};
use crate::checkpoint::TensorInfo;
use std::fmt::{self, Display, Write};

/// First line of every plan.
pub const MAGIC: &str = "silicast-plan 1";

/// Writes the text of `plan` to `out`.
pub fn print(plan: &Plan, out: &mut impl Write) -> fmt::Result {
    let h = &plan.header;
    writeln!(out, "{MAGIC}")?;
    writeln!(out, "target {}", Quoted(&h.target))?;
    writeln!(out, "engine {}", Quoted(&h.engine))?;
    writeln!(out, "scheme {}", Quoted(&h.scheme))?;
    writeln!(out, "family {}", Quoted(&h.family))?;
    writeln!(out, "recipe {}", Quoted(&h.recipe))?;
    for s in &plan.sources {
        writeln!(out, "source {} bytes={} header={}", Quoted(&s.name), s.bytes, Quoted(&s.header_blake3))?;
    }
    for t in &plan.inputs {
        writeln!(out, "in {} {} {}@{}", Quoted(&t.name), type_text(t.dtype, &t.shape), t.file, t.offset)?;
    }
    for output in &plan.outputs {
        print_output(output, &plan.inputs, out)?;
    }
    for d in &plan.drops {
        writeln!(out, "drop {} {}", Quoted(&plan.inputs[d.source as usize].name), Quoted(&d.reason))?;
    }
    for s in &plan.shards {
        writeln!(out, "shard {} header={} bytes={}", Quoted(&s.name), s.header, s.bytes)?;
    }
    for s in &plan.side_files {
        writeln!(out, "side {} bytes={} {}", Quoted(&s.name), s.bytes, s.origin.name())?;
    }
    Ok(())
}

/// Writes one `out` line.
pub fn print_output(output: &Output, inputs: &[TensorInfo], out: &mut impl Write) -> fmt::Result {
    write!(out, "out {} {} = ", Quoted(&output.name), output.ty)?;
    print_expr(&output.expr, inputs, out)?;
    if let Some(scheme) = output.scheme {
        write!(out, " to[{scheme}]")?;
    }
    write!(out, " {} {}", output.fate.name(), output.exactness.name())?;
    if let Some(place) = output.place {
        write!(out, " {}@{}", place.shard, place.offset)?;
    }
    writeln!(out, " {}", Quoted(&output.reason))
}

fn print_expr(expr: &Expr, inputs: &[TensorInfo], out: &mut impl Write) -> fmt::Result {
    let name = |id: &u32| Quoted(&inputs[*id as usize].name);
    match expr {
        Expr::Load(id) => write!(out, "{}", name(id)),
        Expr::Dequantize(stored) => {
            let Stored { codes, scale, zero, global, order, scheme } = stored;
            write!(out, "dequantize[{scheme}]({}, {}", name(codes), name(scale))?;
            if let Some(zero) = zero {
                write!(out, ", zero={}", name(zero))?;
            }
            match global {
                Some(Global::Multiplier(id)) => write!(out, ", multiplier={}", name(id))?,
                Some(Global::Divisor(id)) => write!(out, ", divisor={}", name(id))?,
                None => {}
            }
            if let Some(order) = order {
                write!(out, ", order={}", name(order))?;
            }
            out.write_char(')')
        }
        Expr::View { value, view } => {
            let View { row, step, rows, col, cols, transpose, column } = view;
            let kind = match (column, transpose) {
                (true, _) => "_column",
                (false, true) => "_t",
                (false, false) => "",
            };
            write!(out, "view{kind}[{row}+{step}*{rows},{col}+{cols}](")?;
            print_expr(value, inputs, out)?;
            out.write_char(')')
        }
        Expr::Cast { value, to } => {
            write!(out, "cast[{to}](")?;
            print_expr(value, inputs, out)?;
            out.write_char(')')
        }
        Expr::Quantize { part, value, peers, scheme } => {
            match part {
                Part::Codes => write!(out, "codes[{scheme}](")?,
                Part::Scales => write!(out, "scales[{scheme}](")?,
                Part::Zeros => write!(out, "zero_points[{scheme}](")?,
                Part::Bias(pieces) => write!(out, "scale_bias_{pieces}[{scheme}](")?,
                Part::Global => write!(out, "global_scale[{scheme}](")?,
            }
            print_expr(value, inputs, out)?;
            for peer in peers {
                out.write_str("; ")?;
                print_expr(peer, inputs, out)?;
            }
            out.write_char(')')
        }
        Expr::ScaleF32 { scale, pow2: false } => write!(out, "scale_f32({})", name(scale)),
        Expr::ScaleF32 { scale, pow2: true } => write!(out, "scale_f32_pow2({})", name(scale)),
        Expr::Reciprocal(id) => write!(out, "reciprocal({})", name(id)),
        Expr::ScaleBytes { scale, granularity, shape: [n, k], group, to } => {
            write!(out, "scale_bytes[{granularity},{n},{k},{group},{to}]({})", name(scale))
        }
        Expr::Constant { constant, .. } => match constant {
            Constant::Zeros => out.write_str("zeros()"),
            Constant::Ones => out.write_str("ones()"),
            Constant::Words(word) => write!(out, "words[{word}]()"),
            Constant::Shape([n, k]) => write!(out, "shape[{n},{k}]()"),
            Constant::Groups(group) => write!(out, "groups[{group}]()"),
        },
        Expr::Slice { value, cut: Cut { axis, start, len } } => {
            let axis = if *axis == Axis::Rows { "rows" } else { "cols" };
            write!(out, "slice_{axis}[{start}+{len}](")?;
            print_expr(value, inputs, out)?;
            out.write_char(')')
        }
    }
}

/// BLAKE3 of the plan's text, lower-case hex.
pub fn digest(plan: &Plan) -> String {
    struct Hash(blake3::Hasher, Vec<u8>);
    impl Write for Hash {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.1.extend_from_slice(text.as_bytes());
            if self.1.len() >= 1 << 16 {
                self.0.update(&self.1);
                self.1.clear();
            }
            Ok(())
        }
    }
    let mut hash = Hash(blake3::Hasher::new(), Vec::with_capacity(1 << 17));
    // Writing into a hasher cannot fail.
    let _ = print(plan, &mut hash);
    hash.0.update(&hash.1);
    hash.0.finalize().to_hex().to_string()
}

/// The text of a plan, whole; for people and tests. Large plans are better streamed by [`print()`].
pub fn to_text(plan: &Plan) -> String {
    let mut text = String::new();
    let _ = print(plan, &mut text);
    text
}

/// A JSON string, control characters escaped: one line, unambiguous.
pub struct Quoted<'a>(pub &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        let mut rest = self.0;
        while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c.is_control()) {
            f.write_str(&rest[..at])?;
            let mut chars = rest[at..].chars();
            match chars.next() {
                Some(c @ ('"' | '\\')) => write!(f, "\\{c}")?,
                Some(c) => write!(f, "\\u{:04x}", c as u32)?,
                None => {}
            }
            rest = chars.as_str();
        }
        f.write_str(rest)?;
        f.write_char('"')
    }
}
