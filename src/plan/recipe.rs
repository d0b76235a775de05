//! What the user asked for, and the same with every default made explicit.
//!
//! A [`Recipe`] is a TOML file or the flags of the command line; a [`ResolvedRecipe`] is embedded in plan and manifest.

use crate::dtype::scheme::Rule;
use crate::error::{Error, Result};
use globset::{GlobBuilder, GlobMatcher};
use regex::Regex;
use serde::{Deserialize, Serialize};

/// What to do with NaN and infinite values and with scales that are no positive finite number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NanPolicy {
    /// Stop: such a value in a tensor that is decoded is an input error.
    #[default]
    Error,
    /// Go on and report: NaN becomes code 0 (INT8) or the NaN code (FP8), infinities the largest code.
    Keep,
}

/// A recipe as written: absent keys take the target's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// Scheme name of the target.
    pub scheme: Option<String>,
    /// Engine name, one of the target's.
    pub engine: Option<String>,
    /// Quantize only modules or tensors that match.
    #[serde(default)]
    pub include: Vec<String>,
    /// Leave modules or tensors that match in their float form.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// What to do with non-finite values.
    pub nan: Option<NanPolicy>,
    /// Copy the source's Python files.
    pub allow_code_files: Option<bool>,
    /// Most tensor payload of a shard, in bytes.
    pub shard_bytes: Option<u64>,
    /// Another rule for scales, where the scheme has a choice.
    pub scale_rule: Option<String>,
}

impl Recipe {
    /// Parses a recipe file; `file` is for the error.
    pub fn parse(text: &str, file: &str) -> Result<Recipe> {
        toml::from_str(text).map_err(|e: toml::de::Error| {
            Error::usage("recipe-invalid", "the recipe is not valid")
                .file(file)
                .expected("TOML with the keys scheme, engine, include, ignore, nan, allow-code-files, shard-bytes, scale-rule")
                .found(e.message())
                .fix("correct the key or value named above")
        })
    }

    /// This recipe with `over`'s settings on top: single values replace, patterns add up.
    pub fn overlaid(mut self, over: Recipe) -> Recipe {
        self.scheme = over.scheme.or(self.scheme);
        self.engine = over.engine.or(self.engine);
        self.include.extend(over.include);
        self.ignore.extend(over.ignore);
        self.nan = over.nan.or(self.nan);
        self.allow_code_files = over.allow_code_files.or(self.allow_code_files);
        self.shard_bytes = over.shard_bytes.or(self.shard_bytes);
        self.scale_rule = over.scale_rule.or(self.scale_rule);
        self
    }
}

/// A recipe with every default made explicit; embedded in the artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedRecipe {
    /// Target id.
    pub target: String,
    /// Engine name.
    pub engine: String,
    /// Canonical scheme name.
    pub scheme: String,
    /// Only these are quantized, when any are given.
    pub include: Vec<String>,
    /// These are not quantized.
    pub ignore: Vec<String>,
    /// What to do with non-finite values.
    pub nan: NanPolicy,
    /// Whether Python files are copied.
    pub allow_code_files: bool,
    /// Most tensor payload of a shard, in bytes; a single larger tensor has a shard of its own.
    pub shard_bytes: u64,
    /// Another rule for scales than the scheme's own.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "rule_name")]
    pub scale_rule: Option<Rule>,
}

/// Rules by their names.
mod rule_name {
    use super::Rule;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(rule: &Option<Rule>, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(rule.map_or("", Rule::name))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Rule>, D::Error> {
        let name = String::deserialize(d)?;
        Rule::from_name(&name).map(Some).ok_or_else(|| serde::de::Error::custom(format!("no rule {name}")))
    }
}

impl ResolvedRecipe {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A pattern over module and tensor names: an exact name, a glob, or `re:` and a regular expression matched at the
/// start, as compressed-tensors does.
#[derive(Debug)]
pub struct Pattern {
    text: String,
    matcher: Matcher,
}

#[derive(Debug)]
enum Matcher {
    Exact,
    Glob(GlobMatcher),
    Regex(Regex),
}

impl Pattern {
    /// Compiles a pattern.
    pub fn new(text: &str) -> Result<Pattern> {
        let invalid = |why: String| {
            Error::usage("pattern-invalid", "the pattern is not valid")
                .expected("an exact name, a glob, or re:REGEX")
                .found(format!("{text}: {why}"))
                .fix("quote the pattern in the shell and check its syntax")
        };
        let matcher = match text.strip_prefix("re:") {
            Some(regex) => {
                Matcher::Regex(Regex::new(&format!("^(?:{regex})")).map_err(|e| invalid(e.to_string()))?)
            }
            None if text.contains(['*', '?', '[', '{']) => Matcher::Glob(
                GlobBuilder::new(text).build().map_err(|e| invalid(e.kind().to_string()))?.compile_matcher(),
            ),
            None => Matcher::Exact,
        };
        Ok(Pattern { text: text.to_owned(), matcher })
    }

    /// The pattern as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches the tensor or the module it belongs to.
    pub fn matches(&self, tensor: &str, module: &str) -> bool {
        let one = |name: &str| match &self.matcher {
            Matcher::Exact => self.text == name,
            Matcher::Glob(glob) => glob.is_match(name),
            Matcher::Regex(regex) => regex.is_match(name),
        };
        one(tensor) || one(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_globs_and_regexes() {
        let tensor = "model.layers.3.mlp.down_proj.weight";
        let module = "model.layers.3.mlp.down_proj";
        for text in
            [module, tensor, "model.layers.*.mlp.*", "re:model\\.layers\\.[0-9]+\\.mlp", "*.down_proj"]
        {
            assert!(Pattern::new(text).unwrap().matches(tensor, module), "{text}");
        }
        for text in ["down_proj", "re:mlp", "model.layers.3", "*.up_proj"] {
            assert!(!Pattern::new(text).unwrap().matches(tensor, module), "{text}");
        }
        assert_eq!(Pattern::new("re:(").unwrap_err().class().exit_code(), 2);
        assert_eq!(Pattern::new("a[").unwrap_err().class().exit_code(), 2);
    }

    #[test]
    fn recipes_refuse_unknown_keys_and_overlay() {
        assert_eq!(Recipe::parse("shceme = \"x\"", "r.toml").unwrap_err().class().exit_code(), 2);
        let file = Recipe::parse("scheme = \"W8A8\"\nignore = [\"a\"]\nnan = \"keep\"", "r.toml").unwrap();
        let flags = Recipe { scheme: Some("BF16".into()), ignore: vec!["b".into()], ..Recipe::default() };
        let both = file.overlaid(flags);
        assert_eq!(both.scheme.as_deref(), Some("BF16"));
        assert_eq!(both.ignore, ["a", "b"]);
        assert_eq!(both.nan, Some(NanPolicy::Keep));
    }
}
