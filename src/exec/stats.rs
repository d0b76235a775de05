//! Statistics of tiles as journal text, and of tensors.

use crate::kernel::{ExactSum, Stats};

/// The text of a tile's statistics; exact, so that a resumed run reports what an uninterrupted one does.
pub fn to_text(stats: &Stats) -> String {
    if stats.elements == 0 && stats.non_finite == 0 && stats.zero_scale_codes == 0 {
        return String::new();
    }
    format!(
        "{} {} {} {:08x} {} {} {} {} {}",
        stats.signal.to_hex(),
        stats.noise.to_hex(),
        stats.elements,
        stats.max_abs_error.to_bits(),
        stats.zero_rows,
        stats.saturated,
        stats.non_finite,
        stats.zero_scale_codes,
        stats.inexact_units
    )
}

/// Reads [`to_text`] back.
pub fn from_text(text: &str) -> Option<Stats> {
    if text.is_empty() {
        return Some(Stats::default());
    }
    let mut words = text.split(' ');
    let stats = Stats {
        signal: ExactSum::from_hex(words.next()?)?,
        noise: ExactSum::from_hex(words.next()?)?,
        elements: words.next()?.parse().ok()?,
        max_abs_error: f32::from_bits(u32::from_str_radix(words.next()?, 16).ok()?),
        zero_rows: words.next()?.parse().ok()?,
        saturated: words.next()?.parse().ok()?,
        non_finite: words.next()?.parse().ok()?,
        zero_scale_codes: words.next()?.parse().ok()?,
        inexact_units: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(stats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_exact() {
        let mut stats =
            Stats { elements: 3, max_abs_error: 0.1, zero_rows: 1, inexact_units: 4, ..Stats::default() };
        for x in [1e-300, 0.1, 3e200] {
            stats.signal.add(x);
            stats.noise.add(x / 7.0);
        }
        assert_eq!(from_text(&to_text(&stats)), Some(stats));
        assert_eq!(from_text(&to_text(&Stats::default())), Some(Stats::default()));
        for text in ["1", "zz 0 1 0 0 0 0 0 0", "0 0 1 00000000 0 0 0 0", "0 0 1 00000000 0 0 0 0 1 9"] {
            assert_eq!(from_text(text), None);
        }
    }
}
