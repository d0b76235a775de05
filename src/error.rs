//! One structured error for the whole crate.
//!
//! Every error says what went wrong, in which file and tensor, what was expected, what was found and what to do. Its
//! [`Class`] is the process exit code; its `code` is a stable identifier of the rule that was broken.

use std::fmt;
use std::path::Path;

/// Result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Who has to act on an error. The discriminant is the process exit code of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// A gate or check failed.
    Gate = 1,
    /// The command line or a recipe is wrong.
    Usage = 2,
    /// A model, scheme or target that this version does not support.
    Unsupported = 3,
    /// The input is invalid or hostile.
    Input = 4,
    /// Reading or writing failed, a full disk included.
    Io = 5,
    /// Interrupted by a signal; the same command resumes.
    Interrupted = 6,
    /// A broken invariant of silicast itself.
    Internal = 70,
}

impl Class {
    /// The process exit code.
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// An error with its place, the expectation that failed and the remedy.
#[derive(Debug)]
pub struct Error(Box<Fields>);

#[derive(Debug)]
struct Fields {
    class: Class,
    code: &'static str,
    what: String,
    file: Option<String>,
    tensor: Option<String>,
    expected: Option<String>,
    found: Option<String>,
    fix: Option<String>,
    source: Option<std::io::Error>,
}

impl Error {
    /// A new error of `class`, identified by the kebab-case `code`; `what` is one sentence.
    pub fn new(class: Class, code: &'static str, what: impl Into<String>) -> Self {
        Self(Box::new(Fields {
            class,
            code,
            what: what.into(),
            file: None,
            tensor: None,
            expected: None,
            found: None,
            fix: None,
            source: None,
        }))
    }

    /// The input is invalid or hostile (exit 4).
    pub fn input(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Class::Input, code, what)
    }

    /// The command line or recipe is wrong (exit 2).
    pub fn usage(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Class::Usage, code, what)
    }

    /// Something this version does not support (exit 3).
    pub fn unsupported(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Class::Unsupported, code, what)
    }

    /// A broken invariant of silicast itself (exit 70).
    pub fn internal(code: &'static str, what: impl Into<String>) -> Self {
        Self::new(Class::Internal, code, what)
            .fix("this is a bug in silicast: please report it with the command and the plan")
    }

    /// Reading or writing failed (exit 5): `what` says what was being done, e.g. "cannot read the header".
    pub fn io(what: impl Into<String>, path: &Path, source: std::io::Error) -> Self {
        let code = match source.raw_os_error() {
            Some(28 | 122) => "disk-full",
            _ => match source.kind() {
                std::io::ErrorKind::NotFound => "not-found",
                std::io::ErrorKind::PermissionDenied => "permission-denied",
                _ => "io",
            },
        };
        let mut error = Self::new(Class::Io, code, what).file(path.display()).found(&source);
        if code == "disk-full" {
            error = error.fix("free space (finished work is kept), then run the same command again");
        }
        error.0.source = Some(source);
        error
    }

    /// Names the file.
    pub fn file(mut self, file: impl fmt::Display) -> Self {
        self.0.file = Some(file.to_string());
        self
    }

    /// Names the file, unless one is named already.
    pub fn file_or(self, file: impl fmt::Display) -> Self {
        if self.0.file.is_some() { self } else { self.file(file) }
    }

    /// Names the tensor.
    pub fn tensor(mut self, tensor: impl fmt::Display) -> Self {
        self.0.tensor = Some(tensor.to_string());
        self
    }

    /// States what was expected.
    pub fn expected(mut self, expected: impl fmt::Display) -> Self {
        self.0.expected = Some(expected.to_string());
        self
    }

    /// States what was found.
    pub fn found(mut self, found: impl fmt::Display) -> Self {
        self.0.found = Some(found.to_string());
        self
    }

    /// Says what to do.
    pub fn fix(mut self, fix: impl fmt::Display) -> Self {
        self.0.fix = Some(fix.to_string());
        self
    }

    /// Who has to act.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The stable identifier of the broken rule.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// The tensor at fault, where one is named.
    pub fn tensor_name(&self) -> Option<&str> {
        self.0.tensor.as_deref()
    }

    /// The file at fault, where one is named.
    pub fn file_name(&self) -> Option<&str> {
        self.0.file.as_deref()
    }

    /// What went wrong, in one sentence.
    pub fn what_text(&self) -> &str {
        &self.0.what
    }

    /// What was expected, where that is stated.
    pub fn expected_text(&self) -> Option<&str> {
        self.0.expected.as_deref()
    }

    /// What was found, where that is stated.
    pub fn found_text(&self) -> Option<&str> {
        self.0.found.as_deref()
    }

    /// What to do, where that is stated.
    pub fn fix_text(&self) -> Option<&str> {
        self.0.fix.as_deref()
    }
}

/// Quotes hostile text for people: control characters escaped, cut to `max` characters.
pub fn quote(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == max {
            out.push('…');
            break;
        }
        // Bidirectional controls reorder what a terminal shows; U+2028/9 break lines.
        let unsafe_format = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || unsafe_format {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.0;
        write!(f, "{}", quote(&e.what, 400))?;
        for (label, value) in [
            ("file", &e.file),
            ("tensor", &e.tensor),
            ("expected", &e.expected),
            ("found", &e.found),
            ("fix", &e.fix),
        ] {
            if let Some(value) = value {
                write!(f, "\n  {:<10}{}", format!("{label}:"), quote(value, 400))?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_everything_and_escapes_control_characters() {
        let e =
            Error::input("st-name", "bad name").file("a.safetensors").tensor("x\n\x1b[31m").fix("rename it");
        assert_eq!(
            e.to_string(),
            "bad name\n  file:     a.safetensors\n  tensor:   x\\u{a}\\u{1b}[31m\n  fix:      rename it"
        );
        assert_eq!(e.class().exit_code(), 4);
    }

    #[test]
    fn a_full_disk_is_recognized() {
        let e = Error::io("cannot write", Path::new("o"), std::io::Error::from_raw_os_error(28));
        assert_eq!((e.code(), e.class().exit_code()), ("disk-full", 5));
    }
}
