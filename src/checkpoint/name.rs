//! Tensor names: natural order, modules and the names that are accepted.

use std::cmp::Ordering;

/// Longest tensor name accepted, in bytes.
pub(super) const MAX_NAME: usize = 512;

/// Natural order: digit runs compare as numbers, everything else by bytes, and names that are equal so (`a.01`, `a.1`)
/// by bytes. A total order.
pub fn natural_cmp(a: &str, b: &str) -> Ordering {
    let (x, y) = (a.as_bytes(), b.as_bytes());
    let Some(mut i) = x.iter().zip(y).position(|(p, q)| p != q) else {
        return x.len().cmp(&y.len());
    };
    // A number that began in the common part is compared whole.
    while i > 0 && x[i - 1].is_ascii_digit() {
        i -= 1;
    }
    let (mut p, mut q) = (&x[i..], &y[i..]);
    loop {
        let order = match (p.first(), q.first()) {
            (None, None) => return x.cmp(y),
            (None, _) => Ordering::Less,
            (_, None) => Ordering::Greater,
            (Some(c), Some(d)) if c.is_ascii_digit() && d.is_ascii_digit() => {
                let (m, n) = (take_number(&mut p), take_number(&mut q));
                m.len().cmp(&n.len()).then_with(|| m.cmp(n))
            }
            (Some(c), Some(d)) => {
                (p, q) = (&p[1..], &q[1..]);
                c.cmp(d)
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Takes a digit run off `text` and returns it without leading zeros.
fn take_number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    &run[run.iter().position(|c| *c != b'0').unwrap_or(run.len())..]
}

/// The module that owns a tensor: `model.layers.0.mlp.gate` of `model.layers.0.mlp.gate.weight`. A name without a dot
/// is its own module.
pub fn module_of(name: &str) -> &str {
    split(name).0
}

/// Whether a module's name says that it looks tokens or positions up, in a family that is not known.
pub fn looks_like_lookup(module: &str) -> bool {
    let module = module.to_ascii_lowercase();
    let last = module.rsplit('.').next().unwrap_or_default();
    ["embed", "position", "pos_emb"].iter().any(|hint| module.contains(hint)) || matches!(last, "wte" | "wpe")
}

/// Whether a weight of a family that is not known may be a linear: its name hints at nothing else (a lookup, a norm, a
/// router, an output head).
pub fn looks_linear(name: &str) -> bool {
    let module = module_of(name);
    let lower = module.to_ascii_lowercase();
    let last = lower.rsplit('.').next().unwrap_or_default();
    let elsewhere = ["norm", "router", "conv", "lm_head", "shared_head", "classifier"];
    let head = matches!(last, "gate" | "head" | "ln_f") || lower == "output";
    name.ends_with(".weight")
        && !head
        && !looks_like_lookup(module)
        && !elsewhere.iter().any(|hint| lower.contains(hint))
}

/// A name as module and parameter: `("a.b", "weight")` of `a.b.weight`, `("a", "")` of `a`.
pub(super) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

/// Why a tensor name is not accepted, if it is not.
pub(super) fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("an empty name")
    } else if name.len() > MAX_NAME {
        Some("a name of more than 512 bytes")
    } else if name.chars().any(char::is_control) {
        Some("a control character in the name")
    } else if name.split(['/', '\\']).any(|c| c == "..") {
        Some("a '..' component in the name")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digit_runs_compare_as_numbers() {
        let sorted = [
            "a",
            "a.1",
            "a.01.x",
            "a.1.x",
            "a.2.weight",
            "a.2.weight_scale_inv",
            "a.10",
            "a.x",
            "a1",
            "a9b",
            "a10b",
            "a18446744073709551616",
            "b",
        ];
        for (i, x) in sorted.iter().enumerate() {
            for (j, y) in sorted.iter().enumerate() {
                assert_eq!(natural_cmp(x, y), i.cmp(&j), "{x} {y}");
            }
        }
    }

    /// The definition, without the skipping of the common prefix.
    fn tokens(s: &str) -> Vec<(u8, u128)> {
        let mut out = Vec::new();
        let mut bytes = s.bytes().peekable();
        while let Some(c) = bytes.next() {
            if c.is_ascii_digit() {
                let mut n = u128::from(c - b'0');
                while let Some(d) = bytes.next_if(u8::is_ascii_digit) {
                    n = n * 10 + u128::from(d - b'0');
                }
                out.push((b'0', n));
            } else {
                out.push((c, 0));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn equals_the_definition(a in "[a0-2./:]{0,9}", b in "[a0-2./:]{0,9}") {
            prop_assert_eq!(natural_cmp(&a, &b), tokens(&a).cmp(&tokens(&b)).then_with(|| a.cmp(&b)));
        }
    }

    #[test]
    fn modules() {
        assert_eq!(module_of("model.layers.0.mlp.gate.weight"), "model.layers.0.mlp.gate");
        assert_eq!(module_of("sinks"), "sinks");
        assert_eq!(split("a.b.weight_scale"), ("a.b", "weight_scale"));
    }
}
