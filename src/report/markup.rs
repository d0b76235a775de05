//! HTML, SVG and XML text that cannot hold unescaped foreign text.
//!
//! Only literals of this program go in as they are; everything else is escaped for both content and quoted attributes.

use super::text::visible;
use std::fmt::Write as _;

/// A document under construction.
#[derive(Default)]
pub(super) struct Markup(String);

impl Markup {
    /// Markup that this program states.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Foreign or computed text: hidden characters become visible, markup characters become entities.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for c in visible(text).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                _ => self.0.push(c),
            }
        }
        self
    }

    /// A coordinate or length, two decimals at most.
    pub(super) fn num(&mut self, value: f64) -> &mut Self {
        let start = self.0.len();
        let _ = write!(self.0, "{value:.2}");
        while self.0.ends_with('0') {
            self.0.pop();
        }
        if self.0.ends_with('.') {
            self.0.pop();
        }
        if self.0.len() == start || self.0[start..] == *"-0" {
            self.0.truncate(start);
            self.0.push('0');
        }
        self
    }

    /// A whole number.
    pub(super) fn int(&mut self, value: usize) -> &mut Self {
        let _ = write!(self.0, "{value}");
        self
    }

    /// A name as code that a browser may break.
    pub(super) fn code(&mut self, name: &str) -> &mut Self {
        self.raw("<code>").breakable(name).raw("</code>")
    }

    /// Text with places where a browser may break it: after the separators of names and within long runs.
    pub(super) fn breakable(&mut self, text: &str) -> &mut Self {
        let mut start = 0;
        let mut run = 0;
        for (i, c) in text.char_indices() {
            run += 1;
            let end = i + c.len_utf8();
            if (matches!(c, '.' | '_' | '/') && run > 3 || run >= 24) && end < text.len() {
                self.text(&text[start..end]).raw("<wbr/>");
                (start, run) = (end, 0);
            }
            if c == ' ' {
                run = 0;
            }
        }
        self.text(&text[start..])
    }

    /// A message, at most `limit` characters of it, with its line breaks.
    pub(super) fn lines(&mut self, message: &str, limit: usize) -> &mut Self {
        let short: String = message.chars().take(limit).collect();
        for (i, line) in short.lines().enumerate() {
            if i > 0 {
                self.raw("<br/>");
            }
            self.breakable(line);
        }
        if short.len() < message.len() {
            self.raw("…");
        }
        self
    }

    /// A part that another [`Markup`] made.
    pub(super) fn part(&mut self, part: &str) -> &mut Self {
        self.0.push_str(part);
        self
    }

    /// The document so far.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_and_numbers_are_short() {
        let mut m = Markup::default();
        m.raw("<b>").text("<script>\"'&\0").raw("</b>");
        assert_eq!(m.finish(), "<b>&lt;script&gt;&quot;&#39;&amp;\\u{0}</b>");
        for (value, text) in [(0.0, "0"), (-0.001, "0"), (10.0, "10"), (100.5, "100.5"), (1.0 / 3.0, "0.33")]
        {
            let mut m = Markup::default();
            m.num(value);
            assert_eq!(m.finish(), text);
        }
    }
}
