//! Makes the checks of a report.

use crate::report::model::{Check, Level, Verdict};
use std::collections::BTreeMap;

/// Failures and warnings of one rule that are listed one by one.
const LISTED: u64 = 500;

/// A failed check.
pub(super) fn failed(id: &str, level: Level, tensor: Option<&str>, message: impl Into<String>) -> Check {
    Check {
        id: id.to_owned(),
        level,
        tensor: tensor.map(str::to_owned),
        metric: None,
        value: None,
        limit: None,
        verdict: Verdict::Fail,
        message: message.into(),
    }
}

/// A check that passed, for the whole artifact.
pub(super) fn passed(id: &str, level: Level, message: impl Into<String>) -> Check {
    Check { verdict: Verdict::Pass, ..failed(id, level, None, message) }
}

/// A check that was not done, and why.
pub(super) fn skipped(id: &str, level: Level, message: impl Into<String>) -> Check {
    Check { verdict: Verdict::Skip, ..failed(id, level, None, message) }
}

/// Checks in the order in which they come, with a bound on how many of one rule are listed.
#[derive(Default)]
pub(super) struct List {
    checks: Vec<Check>,
    counts: BTreeMap<(String, Verdict), (u64, Level)>,
    last_failure: Option<usize>,
    failures: u64,
}

impl List {
    /// Adds a check.
    pub(super) fn add(&mut self, check: Check) {
        let failure = check.verdict == Verdict::Fail;
        self.failures += u64::from(failure);
        if check.verdict == Verdict::Pass {
            self.checks.push(check);
            return;
        }
        let (count, _) = self.counts.entry((check.id.clone(), check.verdict)).or_insert((0, check.level));
        *count += 1;
        if *count <= LISTED {
            if failure {
                self.last_failure = Some(self.checks.len());
            }
            self.checks.push(check);
        }
    }

    /// Checks that failed, those that are not listed included.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// The last failure that was listed.
    pub(super) fn last_failure(&self) -> Option<&Check> {
        self.checks.get(self.last_failure?)
    }

    /// The checks, with a line for those of a rule that are not listed.
    pub(super) fn finish(mut self) -> Vec<Check> {
        for ((id, verdict), (count, level)) in self.counts {
            if count > LISTED {
                let message = format!("{} more of this rule are not listed", count - LISTED);
                self.checks.push(Check { verdict, ..failed(&id, level, None, message) });
            }
        }
        self.checks
    }
}
