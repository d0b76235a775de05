//! From what was measured to rows and checks.

use super::super::checks::{List, failed, passed};
use super::super::metrics::{coordinate, ratio, sqnr_db};
use super::super::pairs::{Expect, Pair};
use super::super::reader::Store;
use super::super::rows::Rows;
use super::careful::{Codes, code_text};
use super::measure::{Measured, ScaleValues, Scales, WrongScale, target};
use crate::checkpoint::{Encoding, Stored};
use crate::dtype::Dtype;
use crate::dtype::scheme::{Granularity, Rule, Scheme};
use crate::kernel::reference;
use crate::report::model::{Check, Level, TensorRow, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Least SQNR in dB of a weight at 8 bits: half of what Gaussian weights reach, so that only broken tensors fail.
const LEAST_SQNR_DB: f64 = 15.0;
/// Least SQNR in dB of values that were rounded to BF16 or F16.
const LEAST_CAST_SQNR_DB: f64 = 30.0;

/// What to do about a tensor that is not what its source and scheme say.
const FIX: &str =
    "convert again, or fetch the artifact again; keep this folder if silicast made it, and report it";

struct Judge<'a> {
    artifact: &'a Store<'a>,
    source: &'a Store<'a>,
    sampled: bool,
    checks: List,
    /// Tensors that passed, by check and what was demanded.
    passes: BTreeMap<(&'static str, String), u64>,
    /// The least SQNR by role, with its tensor and limit.
    worst: BTreeMap<String, (f64, String, f64)>,
}

/// Completes the rows of all pairs and says what is wrong.
pub(super) fn judge(
    artifact: &Store<'_>,
    source: &Store<'_>,
    pairs: &[Pair],
    results: &[Option<Measured>],
    sample: f64,
    rows: &mut Rows,
) -> Vec<Check> {
    let mut judge = Judge {
        artifact,
        source,
        sampled: sample < 1.0,
        checks: List::default(),
        passes: BTreeMap::new(),
        worst: BTreeMap::new(),
    };
    let empty = Measured::default();
    for (pair, result) in pairs.iter().zip(results) {
        let name = artifact.checkpoint.tensor(pair.artifact).name.to_string();
        let measured = result.as_ref().unwrap_or(&empty);
        if let Expect::Nothing(why) = &pair.expect {
            judge.checks.add(failed(
                "not-comparable",
                Level::Tensor,
                Some(&name),
                format!("{} cannot be held against its source: {why}; fix: {FIX}", judge.file(pair)),
            ));
            continue;
        }
        if pair.expect == Expect::Zeros {
            judge.zeros(pair, &name, measured);
            continue;
        }
        let Some(row) = rows.of(pair.artifact) else { continue };
        judge.values(pair, row, measured);
        judge.verdicts(pair, &name, row, measured);
    }
    let Judge { mut checks, passes, worst, .. } = judge;
    for ((id, demand), count) in passes {
        checks.add(passed(id, Level::Tensor, format!("{count} tensors: {demand}")));
    }
    for (role, (value, tensor, limit)) in worst {
        let mut check = passed("sqnr", Level::Tensor, format!("least of {role}"));
        (check.tensor, check.metric) = (Some(tensor), Some("sqnr_db".to_owned()));
        (check.value, check.limit) = (Some(value), Some(limit));
        checks.add(check);
    }
    checks.finish()
}

impl Judge<'_> {
    fn file(&self, pair: &Pair) -> &str {
        self.artifact.file_of(pair.artifact)
    }

    fn shape(&self, pair: &Pair) -> &[u64] {
        &self.artifact.checkpoint.tensor(pair.artifact).shape
    }

    fn fail(&mut self, id: &str, name: &str, message: String) {
        self.checks.add(failed(id, Level::Tensor, Some(name), message));
    }

    fn zeros(&mut self, pair: &Pair, name: &str, measured: &Measured) {
        match measured.unequal {
            (0, _) => *self.passes.entry(("offsets", "zeros".to_owned())).or_default() += 1,
            (wrong, first) => {
                let at = coordinate(first.unwrap_or(0), self.shape(pair));
                let message = format!(
                    "expected zeros in {}, found {wrong} other values, the first at {at:?}; fix: a symmetric scheme \
                     has no offsets: convert again",
                    self.file(pair)
                );
                self.fail("offsets", name, message);
            }
        }
    }

    /// Fills in the metrics of a row.
    fn values(&self, pair: &Pair, row: &mut TensorRow, m: &Measured) {
        let percent =
            |part: u64| Some(if m.elements == 0 { 0.0 } else { part as f64 * 100.0 / m.elements as f64 });
        if row.fate == "unknown" {
            let fate = match pair.expect {
                Expect::Bytes | Expect::Same => "kept",
                Expect::Cast { .. } => "reencoded",
                _ => "quantized",
            };
            fate.clone_into(&mut row.fate);
        }
        let scales = &m.values;
        row.non_finite = Some(m.non_finite);
        row.scale_range = scales.range.map(|r| r.map(f64::from));
        row.scale_exponents.clone_from(&scales.exponents);
        let quantized = matches!(pair.expect, Expect::Rule(_) | Expect::Nearest);
        row.wrong_codes = Some(m.codes.wrong + m.unequal.0);
        row.wrong_scales = (scales.count > 0).then_some(m.scales.wrong);
        if quantized {
            let zero_whole = m.whole.is_some_and(|(amax, _)| amax == 0.0);
            row.zero_units = Some(m.zero_units + u64::from(zero_whole));
        }
        if !m.measured && m.differs {
            // Bytes that are no numbers differ: nothing can be measured.
            return;
        }
        let [signal, decoded, noise] = [0, 1, 2].map(|i| m.sums[i].to_f64());
        row.sqnr_db = sqnr_db(signal, noise);
        row.max_abs = Some(m.max_abs);
        row.max_rel = Some(m.max_rel);
        row.rel_frobenius = Some(ratio(noise, signal).sqrt());
        row.saturated_pct = percent(m.saturated);
        row.flushed_pct = percent(m.flushed);
        // Σxy from the three sums: nothing cancels, because Σ(x − y)² is the small one.
        let norms = signal.sqrt() * decoded.sqrt();
        row.cosine = if !m.measured {
            Some(1.0)
        } else {
            (norms > 0.0).then(|| ((signal + decoded - noise) / 2.0 / norms).clamp(-1.0, 1.0))
        };
    }

    fn verdicts(&mut self, pair: &Pair, name: &str, row: &mut TensorRow, m: &Measured) {
        let before = self.checks.failures();
        match &pair.expect {
            Expect::Bytes => self.kept(pair, name, m),
            Expect::Same => {
                self.kept(pair, name, m);
                self.scales(pair, name, "the source's", m);
            }
            Expect::Rule(rule) => {
                self.codes(pair, name, &format!("what {} makes of the source", rule.name()), m);
                if !(self.sampled && m.whole.is_some()) {
                    self.scales(pair, name, rule.name(), m);
                }
            }
            Expect::Nearest => {
                self.codes(pair, name, "a nearest code of the source", m);
                self.form(pair, name, row, &m.values);
            }
            Expect::Cast { exact } => {
                let demand =
                    if *exact { "the source, rounded once to nearest even" } else { "the source, rounded" };
                self.codes(pair, name, demand, m);
            }
            Expect::Zeros | Expect::Nothing(_) => {}
        }
        if let Some(broken) = m.broken {
            let at = coordinate(broken, self.shape(pair));
            let message = format!(
                "expected a number at {at:?} of {}, as in the source, found NaN or infinity; fix: {FIX}",
                self.file(pair)
            );
            self.fail("non-finite", name, message);
        } else if m.non_finite > 0 {
            let mut check = passed(
                "non-finite",
                Level::Tensor,
                format!("{} values are NaN or infinite in the source too", m.non_finite),
            );
            (check.tensor, check.verdict) = (Some(name.to_owned()), Verdict::Warn);
            self.checks.add(check);
        }
        self.sqnr(pair, name, row, self.checks.failures() > before);
        if self.checks.failures() > before
            && let Some(check) = self.checks.last_failure()
        {
            let what = format!("{}: {}", check.id, check.message);
            row.reason = Some(match &row.reason {
                Some(reason) => format!("{reason}; {what}"),
                None => what,
            });
        }
    }

    fn sqnr(&mut self, pair: &Pair, name: &str, row: &TensorRow, explained: bool) {
        let limit = match pair.expect {
            Expect::Rule(_) | Expect::Nearest => LEAST_SQNR_DB,
            Expect::Cast { .. } => LEAST_CAST_SQNR_DB,
            _ => return,
        };
        let Some(db) = row.sqnr_db else { return };
        if db < limit {
            let fix = match explained {
                true => FIX,
                false => "look at this tensor's outliers, or keep it in float with --ignore",
            };
            let message = format!("expected an SQNR of at least {limit} dB, found {db:.1} dB; fix: {fix}");
            let mut check = failed("sqnr", Level::Tensor, Some(name), message);
            (check.metric, check.value, check.limit) = (Some("sqnr_db".to_owned()), Some(db), Some(limit));
            self.checks.add(check);
            return;
        }
        let role = row.role.clone().unwrap_or_else(|| "other modules".to_owned());
        let entry = self.worst.entry(role).or_insert_with(|| (db, name.to_owned(), limit));
        if db < entry.0 {
            *entry = (db, name.to_owned(), limit);
        }
    }

    fn kept(&mut self, pair: &Pair, name: &str, m: &Measured) {
        let (wrong, first) = m.unequal;
        if wrong == 0 {
            *self.passes.entry(("kept", "equal to the source byte for byte".to_owned())).or_default() += 1;
            return;
        }
        let at = first.unwrap_or(0);
        let source = pair.source.unwrap_or(0);
        let [found, expected] = [(self.artifact, pair.artifact), (self.source, source)]
            .map(|(store, id)| element_text(store, id, at));
        let message = format!(
            "expected the bytes of {}, found {wrong} of {} elements changed, the first at {:?} of {}: {expected} became \
             {found}; fix: {FIX}",
            self.source.checkpoint.tensor(source).name,
            m.elements,
            coordinate(at, self.shape(pair)),
            self.file(pair)
        );
        self.fail("kept", name, message);
    }

    fn codes(&mut self, pair: &Pair, name: &str, demand: &str, m: &Measured) {
        let codes = &m.codes;
        let cast = matches!(pair.expect, Expect::Cast { .. });
        let id = if cast { "cast" } else { "codes" };
        let Some(first) = codes.first.as_ref() else {
            *self.passes.entry((id, format!("T1: every value is {demand}"))).or_default() += 1;
            return;
        };
        let dtype = self.artifact.checkpoint.tensor(pair.artifact).dtype;
        let (expected, _) = target(&pair.expect, dtype);
        let at = coordinate(first.index, self.shape(pair));
        let [should, is] = [first.expected, first.found].map(|bits| code_text(expected, bits));
        let mut message = format!("expected {should} at {at:?} of {}, found {is}", self.file(pair));
        if !cast {
            let t = f64::from(first.value) / f64::from(first.scale);
            let _ = write!(message, " ({:e} / {:e} = {t:.4})", first.value, first.scale);
        }
        let _ = write!(message, "; {} of {} values are not {demand}", codes.wrong, m.elements);
        if let Some(pattern) = pattern(codes) {
            let _ = write!(message, ": {pattern}");
        }
        let _ = write!(message, "; fix: {FIX}");
        self.fail(id, name, message);
    }

    fn scales(&mut self, pair: &Pair, name: &str, rule: &str, m: &Measured) {
        let mut scales = m.scales.clone();
        if let (Some((amax, found)), Expect::Rule(rule)) = (m.whole, &pair.expect)
            && let Encoding::Codes(Stored { scheme, .. }) =
                &self.artifact.checkpoint.encodings[pair.artifact as usize]
            && let Some(expected) =
                reference::scale_of_magnitude(&Scheme { rule: *rule, ..*scheme }, 1.0, amax)
        {
            let expected = expected.stored;
            if expected.to_bits() != found.to_bits() {
                scales = Scales {
                    wrong: 1,
                    first: Some(WrongScale { index: 0, expected, found, amax: Some(amax) }),
                    unsnapped: 0,
                };
            }
        }
        let Some(first) = &scales.first else {
            *self.passes.entry(("scales", format!("T1: every scale is {rule}"))).or_default() += 1;
            return;
        };
        let Some((id, grid)) = self.grid(pair) else { return };
        let at = coordinate(first.index, &grid);
        let scale_name = self.artifact.checkpoint.tensor(id).name.clone();
        let mut message = format!(
            "expected the scale {:e} at {at:?} of {scale_name} in {}, found {:e}",
            first.expected,
            self.artifact.file_of(id),
            first.found
        );
        if first.expected != 0.0 {
            let _ =
                write!(message, " ({:.4} times as much)", f64::from(first.found) / f64::from(first.expected));
        }
        if let Some(amax) = first.amax {
            let _ = write!(message, "; the largest value under it is {amax:e}");
        }
        let _ = write!(message, "; {} of {} scales are not {rule}", scales.wrong, m.values.count);
        let snaps = matches!(pair.expect, Expect::Rule(Rule::Amax127Bf16 | Rule::Ct127Bf16));
        if snaps && scales.unsnapped == scales.wrong {
            message.push_str(": they are not rounded to BF16");
        } else if scales.wrong > 4 && scales.wrong * 10 >= m.values.count * 9 {
            message.push_str(": they may be another tensor's, or made by another rule");
        }
        if m.codes.wrong == 0 {
            message.push_str("; the codes fit the expected scales");
        }
        let _ = write!(message, "; fix: {FIX}");
        self.fail("scales", name, message);
    }

    /// The scale tensor of a weight and the shape of its grid.
    fn grid(&self, pair: &Pair) -> Option<(u32, [u64; 2])> {
        let Encoding::Codes(Stored { scale, scheme, .. }) =
            &self.artifact.checkpoint.encodings[pair.artifact as usize]
        else {
            return None;
        };
        let shape = self.shape(pair);
        let grid = match shape {
            [n, k] => scheme.granularity.grid(*n, *k),
            _ => Granularity::Tensor.grid(1, 1),
        };
        Some((*scale, grid))
    }

    /// Scales whose rule is not known: positive and finite, and all of the form that most have.
    fn form(&mut self, pair: &Pair, name: &str, row: &mut TensorRow, values: &ScaleValues) {
        let Some((id, grid)) = self.grid(pair) else { return };
        let [unsnapped, no_power, unsound] = values.odd;
        let most = |count: u64| count * 2 > values.count;
        let fault = match (unsound, unsnapped, no_power) {
            (Some(odd), ..) => Some(("a positive finite scale", odd, 1)),
            (_, _, Some(odd)) if most(values.powers) => {
                Some(("a power of two, as the others are", odd, values.count - values.powers))
            }
            (_, Some(odd), _) if most(values.snapped) => {
                Some(("a scale rounded to BF16, as the others are", odd, values.count - values.snapped))
            }
            _ => None,
        };
        let Some((demand, (index, found), wrong)) = fault else {
            *self.passes.entry(("scale-form", "positive, finite, of one form".to_owned())).or_default() += 1;
            return;
        };
        row.wrong_scales = Some(wrong);
        let message = format!(
            "expected {demand} at {:?} of {} in {}, found {found:e}; {wrong} of {} scales differ in form; fix: {FIX}",
            coordinate(index, &grid),
            self.artifact.checkpoint.tensor(id).name,
            self.artifact.file_of(id),
            values.count
        );
        self.fail("scale-form", name, message);
    }
}

/// What all or most wrong codes have in common.
fn pattern(codes: &Codes) -> Option<&'static str> {
    let most = |count: u64| count * 10 >= codes.wrong * 9;
    if most(codes.nibbles) {
        Some("their four-bit halves are exchanged")
    } else if most(codes.away) {
        Some("ties are rounded away from zero, not to even")
    } else if most(codes.truncated) {
        Some("they are truncated, not rounded")
    } else if most(codes.neighbour) {
        Some("they are the codes of their neighbours")
    } else if most(codes.adjacent) {
        Some("they are one step off")
    } else {
        None
    }
}

/// A stored element in words; a question mark where it cannot be read again.
fn element_text(store: &Store<'_>, id: u32, index: u64) -> String {
    let dtype = store.checkpoint.tensor(id).dtype;
    let width = (dtype.bits() / 8).max(1);
    let mut bytes = vec![0; usize::try_from(width).unwrap_or(1)];
    if store.read(id, index * width, &mut bytes).is_err() {
        return "?".to_owned();
    }
    let pattern: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
    match super::super::reader::Format::of(dtype) {
        Some(format) if dtype != Dtype::I8 => {
            format!("{:e} (0x{pattern})", format.value(format.bits(&bytes, 0)))
        }
        _ => format!("0x{pattern}"),
    }
}
