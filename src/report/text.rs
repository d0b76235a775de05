//! Numbers and foreign text as people read them.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Most characters of a name that a page shows.
pub(super) const NAME: usize = 160;

/// Most characters of a message that a page shows.
pub(super) const MESSAGE: usize = 600;

/// Whether a character could change how its surroundings are read or shown: controls, line and paragraph separators,
/// direction overrides, invisible characters, and what XML 1.0 cannot hold.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}'
            | '\u{e0000}'..='\u{e007f}')
}

/// `text` with characters that hide, reorder or break lines written as `\n` or `\u{202e}`.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hidden(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// At most `limit` characters of `text`, the middle left out, made [`visible`].
pub(super) fn clip(text: &str, limit: usize) -> Cow<'_, str> {
    // A byte count settles nearly all texts.
    if text.len() <= limit || text.chars().count() <= limit {
        return visible(text);
    }
    let kept = limit.saturating_sub(1);
    let head: String = text.chars().take(kept.div_ceil(2)).collect();
    let tail: Vec<char> = text.chars().rev().take(kept / 2).collect();
    let tail: String = tail.into_iter().rev().collect();
    Cow::Owned(visible(&format!("{head}…{tail}")).into_owned())
}

/// A message on one line, at most `limit` characters of it.
pub(super) fn line(message: &str, limit: usize) -> String {
    let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    clip(&lines.join(" "), limit).into_owned()
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.char_indices() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 tensor`, `1,234 tensors`.
pub(super) fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// `12.3 GB`, decimal units.
pub fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.995 => format!("{value:.2} {}", units[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", units[unit]),
        _ => format!("{value:.0} {}", units[unit]),
    }
}

/// A measured value: four significant digits, scientific where that is shorter to read.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e5).contains(&magnitude) {
        let text = format!("{value:.2e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trimmed(mantissa));
    }
    // The exponent after rounding; a logarithm of the system's library could differ between machines.
    let exponent =
        format!("{value:.3e}").split_once('e').and_then(|(_, e)| e.parse::<i32>().ok()).unwrap_or(0);
    let decimals = (3 - exponent).clamp(0, 6) as usize;
    trimmed(&format!("{value:.decimals$}")).to_owned()
}

/// `text` without the zeros that end its decimals.
fn trimmed(text: &str) -> &str {
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text,
    }
}

/// Decibels with one decimal.
pub(super) fn db(value: f64) -> String {
    format!("{value:.1} dB")
}

/// The value of a metric by the metric's name.
pub(super) fn metric(name: &str, value: f64) -> String {
    match name {
        _ if name.ends_with("_db") => db(value),
        _ if name.ends_with("_pct") => share(value),
        "cosine" => format!("{value:.6}"),
        _ => number(value),
    }
}

/// A share that is given in percent.
pub(super) fn share(percent: f64) -> String {
    match percent {
        p if p == 0.0 || !(0.01..1e5).contains(&p.abs()) => format!("{} %", number(p)),
        p => format!("{} %", trimmed(&format!("{p:.2}"))),
    }
}

/// `part` of `whole` in percent; never 100 % or 0 % when it is not.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if part == whole || whole == 0 {
        return if whole == 0 { "–".to_owned() } else { "100 %".to_owned() };
    }
    let share = 100.0 * part as f64 / whole as f64;
    match share {
        _ if part == 0 => "0 %".to_owned(),
        s if s < 0.1 => "< 0.1 %".to_owned(),
        s if s > 99.9 => "> 99.9 %".to_owned(),
        s => format!("{s:.1} %"),
    }
}

/// `items` joined by `, `, the rest counted where there are more than `limit`.
pub(super) fn list<T: AsRef<str>>(items: &[T], limit: usize) -> String {
    let mut text = String::new();
    for (i, item) in items.iter().take(limit).enumerate() {
        let _ = write!(text, "{}{}", if i > 0 { ", " } else { "" }, item.as_ref());
    }
    if items.len() > limit {
        let _ = write!(text, " and {} more", count((items.len() - limit) as u64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_round_to_a_false_extreme() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (6.81e-4, "6.81e-4"),
            (1e-8, "1e-8"),
            (0.25, "0.25"),
            (41.237, "41.24"),
            (1234.5, "1234"),
            (99_999.0, "99999"),
            (123_456.0, "1.23e5"),
            (-0.0625, "-0.0625"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(percent(92_159, 92_160), "> 99.9 %");
        assert_eq!(percent(1, 92_160), "< 0.1 %");
        assert_eq!(percent(3, 3), "100 %");
        assert_eq!(size(688_574_839_360), "689 GB");
        assert_eq!(share(0.556_66), "0.56 %");
        assert_eq!(share(0.000_012), "1.2e-5 %");
        assert_eq!(line("off by 2 %.\n  Convert again.\n", 100), "off by 2 %. Convert again.");
        assert_eq!(list(&["a", "b", "c"], 2), "a, b and 1 more");
    }

    #[test]
    fn hidden_characters_are_shown_and_long_names_keep_both_ends() {
        assert_eq!(visible("a\u{202e}b\n\0"), "a\\u{202e}b\\n\\u{0}");
        assert_eq!(visible("模型.weight"), "模型.weight");
        let long = format!("model.{}.weight", "x".repeat(5000));
        let short = clip(&long, NAME);
        assert_eq!(short.chars().count(), NAME);
        assert!(short.starts_with("model.x") && short.ends_with("x.weight"), "{short}");
        assert_eq!(clip("short", 5), "short");
    }
}
