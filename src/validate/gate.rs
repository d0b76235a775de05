//! Gates that a caller asks for: limits of metrics, and what a metric may lose against an earlier report.

use super::checks::{List, failed, passed, skipped};
use crate::error::{Error, Result};
use crate::report::Report;
use crate::report::model::{Check, KernelRow, LayerRow, Level, Metrics, TensorRow};
use crate::report::text::number;
use std::collections::BTreeMap;

/// Every metric that can be limited, with the name that it has in reports.
pub const METRICS: &[&str] = &[
    "sqnr_db",
    "cosine",
    "max_abs",
    "max_rel",
    "rel_frobenius",
    "saturated_pct",
    "flushed_pct",
    "zero_units",
    "non_finite",
    "wrong_codes",
    "wrong_scales",
    "calc_diff",
    "rel_diff",
    "mere",
    "mare",
    "rmse",
    "diff1",
    "diff2",
    "diff3",
    "bias",
    "routing_agreement",
];

/// Other names for metrics.
const ALIASES: &[(&str, &str)] = &[("cos", "cosine"), ("nan", "non_finite"), ("sqnr", "sqnr_db")];

/// Whether a metric is better the higher it is.
fn is_lower_bound(metric: &str) -> bool {
    matches!(metric, "sqnr_db" | "cosine" | "routing_agreement")
}

/// A bound on a metric: lower for `sqnr_db`, `cosine` and `routing_agreement`, upper otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    metric: &'static str,
    limit: f64,
}

impl Limit {
    /// Parses `METRIC=LIMIT`, several of them with commas between.
    ///
    /// # Errors
    /// Class Usage, `fail-on`: an unknown metric or a limit that is no finite number.
    pub fn parse_list(text: &str) -> Result<Vec<Limit>> {
        text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(Self::parse).collect()
    }

    fn parse(text: &str) -> Result<Limit> {
        let refuse = |expected: String| {
            Error::usage("fail-on", "a limit cannot be understood")
                .expected(expected)
                .found(text)
                .fix("write --fail-on METRIC=LIMIT, as in sqnr_db=30,calc_diff=1e-3")
        };
        let (name, limit) = text.split_once('=').ok_or_else(|| refuse("METRIC=LIMIT".to_owned()))?;
        let plain = name.trim().replace('-', "_");
        let plain = ALIASES.iter().find(|(alias, _)| *alias == plain).map_or(plain.as_str(), |(_, m)| *m);
        let metric = METRICS
            .iter()
            .find(|m| **m == plain)
            .ok_or_else(|| refuse(format!("one of {}", METRICS.join(", "))))?;
        let limit: f64 = limit
            .trim()
            .parse()
            .ok()
            .filter(|l: &f64| l.is_finite())
            .ok_or_else(|| refuse("a finite number".to_owned()))?;
        Ok(Limit { metric, limit })
    }
}

/// What a caller demands beyond the tiers.
#[derive(Clone, Debug, Default)]
pub struct Gates {
    /// Limits of single metrics.
    pub limits: Vec<Limit>,
    /// An earlier report, and how much worse a metric may be, in percent.
    pub baseline: Option<(Box<Report>, f64)>,
}

/// A measured thing: its name and level, and its metrics. A metric that is present and null is perfect or undefined.
struct Item<'a> {
    name: &'a str,
    level: Level,
    metrics: Vec<(&'static str, Option<f64>)>,
}

fn tensor(row: &TensorRow) -> Item<'_> {
    let count = |n: Option<u64>| n.map(|n| n as f64);
    let measured = row.max_abs.is_some();
    let mut metrics = vec![
        ("max_abs", row.max_abs),
        ("max_rel", row.max_rel),
        ("rel_frobenius", row.rel_frobenius),
        ("saturated_pct", row.saturated_pct),
        ("flushed_pct", row.flushed_pct),
        ("zero_units", count(row.zero_units)),
        ("non_finite", count(row.non_finite)),
        ("wrong_codes", count(row.wrong_codes)),
        ("wrong_scales", count(row.wrong_scales)),
    ];
    metrics.retain(|(_, value)| value.is_some());
    if measured {
        metrics.push(("sqnr_db", row.sqnr_db));
        metrics.push(("cosine", row.cosine));
    }
    Item { name: &row.name, level: Level::Tensor, metrics }
}

fn common(m: &Metrics) -> Vec<(&'static str, Option<f64>)> {
    if m.calc_diff.is_none() {
        return Vec::new();
    }
    vec![
        ("sqnr_db", m.sqnr_db),
        ("cosine", m.cosine),
        ("max_abs", m.max_abs),
        ("calc_diff", m.calc_diff),
        ("rel_diff", m.rel_diff),
        ("mere", m.mere),
        ("mare", m.mare),
        ("rmse", m.rmse),
        ("diff1", m.diff1),
        ("diff2", m.diff2),
        ("diff3", m.diff3),
        ("bias", m.bias),
    ]
}

fn kernel(row: &KernelRow) -> Item<'_> {
    Item { name: &row.case, level: Level::Kernel, metrics: common(&row.metrics) }
}

fn layer(row: &LayerRow) -> Item<'_> {
    let mut metrics = common(&row.metrics);
    metrics.extend(row.routing_agreement.map(|a| ("routing_agreement", Some(a))));
    Item { name: &row.name, level: Level::Layer, metrics }
}

fn items(report: &Report) -> impl Iterator<Item = Item<'_>> {
    let tensors = report.tensors.iter().map(tensor);
    tensors.chain(report.kernels.iter().map(kernel)).chain(report.layers.iter().map(layer))
}

/// Applies the gates; the checks that they make.
pub fn apply(report: &Report, gates: &Gates) -> Vec<Check> {
    let mut list = List::default();
    for limit in &gates.limits {
        apply_limit(report, limit, &mut list);
    }
    if let Some((baseline, percent)) = &gates.baseline {
        apply_baseline(report, baseline, *percent, &mut list);
    }
    list.finish()
}

fn apply_limit(report: &Report, limit: &Limit, list: &mut List) {
    let Limit { metric, limit: bound } = *limit;
    let lower = is_lower_bound(metric);
    let id = format!("limit-{}", metric.replace('_', "-"));
    let mut worst: Option<(f64, String, Level)> = None;
    let (mut seen, mut failures) = (0u64, 0u64);
    for item in items(report) {
        let Some((_, value)) = item.metrics.iter().find(|(m, _)| *m == metric) else { continue };
        seen += 1;
        let Some(value) = *value else { continue };
        let beyond = if lower { value < bound } else { value > bound };
        if beyond {
            failures += 1;
            let side = if lower { "least" } else { "most" };
            let message = format!(
                "expected {metric} of at {side} {bound}, found {}; fix: see what the limit is for",
                number(value)
            );
            let mut check = failed(&id, item.level, Some(item.name), message);
            (check.metric, check.value, check.limit) = (Some(metric.to_owned()), Some(value), Some(bound));
            list.add(check);
        }
        let worse = |w: f64| if lower { value < w } else { value > w };
        if worst.as_ref().is_none_or(|(w, ..)| worse(*w)) {
            worst = Some((value, item.name.to_owned(), item.level));
        }
    }
    if seen == 0 {
        let message =
            format!("nothing at level {} has {metric}; ask for a deeper --level", level_name(report.level));
        let mut check = skipped(&id, report.level, message);
        (check.metric, check.limit) = (Some(metric.to_owned()), Some(bound));
        list.add(check);
    } else if failures == 0 {
        let level = worst.as_ref().map_or(report.level, |(.., level)| *level);
        let mut check = passed(&id, level, format!("{seen} values are within the limit"));
        (check.metric, check.limit) = (Some(metric.to_owned()), Some(bound));
        if let Some((value, name, _)) = worst {
            (check.value, check.tensor) = (Some(value), Some(name));
        }
        list.add(check);
    }
}

/// Metrics that are compared with a baseline. The bias test is a matter of chance, so it is not.
fn is_compared(metric: &str) -> bool {
    metric != "bias"
}

fn apply_baseline(report: &Report, baseline: &Report, percent: f64, list: &mut List) {
    let key = |item: &Item<'_>| (item.level, item.name.to_owned());
    let now: BTreeMap<_, _> = items(report).map(|item| (key(&item), item.metrics)).collect();
    let (mut compared, mut failures) = (0u64, 0u64);
    for before in items(baseline) {
        if before.level > report.level {
            continue;
        }
        let Some(metrics) = now.get(&key(&before)) else {
            failures += 1;
            let message = "the baseline has measurements of it, this report has none; fix: name the baseline of this model";
            list.add(failed("regression", before.level, Some(before.name), message));
            continue;
        };
        for (metric, old) in before.metrics.iter().filter(|(m, _)| is_compared(m)) {
            let Some((_, new)) = metrics.iter().find(|(m, _)| m == metric) else { continue };
            compared += 1;
            let loss = loss(metric, *old, *new);
            if loss > percent {
                failures += 1;
                let text = |v: &Option<f64>| v.map_or_else(|| "no loss".to_owned(), number);
                let message = format!(
                    "expected {metric} at most {percent} % worse than {}, found {}",
                    text(old),
                    text(new)
                );
                let mut check = failed("regression", before.level, Some(before.name), message);
                (check.metric, check.value, check.limit) = (Some((*metric).to_owned()), *new, *old);
                list.add(check);
            }
        }
    }
    if failures == 0 {
        let message = format!("{compared} metrics are at most {percent} % worse than in the baseline");
        list.add(passed("regression", report.level, message));
    }
}

/// How much worse `new` is than `old`, in percent of `old`; 0 where it is better. Null is the best value of `sqnr_db` and
/// undefined for others.
fn loss(metric: &str, old: Option<f64>, new: Option<f64>) -> f64 {
    let (old, new) = match (old, new) {
        (_, None) => return 0.0,
        (None, Some(_)) if metric == "sqnr_db" => return f64::INFINITY,
        (None, Some(_)) => return 0.0,
        (Some(old), Some(new)) => (old, new),
    };
    let worse = if is_lower_bound(metric) { old - new } else { new - old };
    if worse <= 0.0 {
        0.0
    } else if old == 0.0 {
        f64::INFINITY
    } else {
        worse / old.abs() * 100.0
    }
}

/// The name of a level on the command line.
pub fn level_name(level: Level) -> &'static str {
    match level {
        Level::Structure => "structure",
        Level::Tensor => "tensor",
        Level::Kernel => "kernel",
        Level::Layer => "layer",
        Level::Model => "model",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_parsed_and_unknown_metrics_refused() {
        let limits = Limit::parse_list("sqnr_db=30, cos=0.999,calc-diff=1e-3").unwrap();
        let names: Vec<_> = limits.iter().map(|l| (l.metric, l.limit)).collect();
        assert_eq!(names, [("sqnr_db", 30.0), ("cosine", 0.999), ("calc_diff", 1e-3)]);
        for text in ["sqnr", "quality=3", "sqnr_db=", "sqnr_db=nan", "sqnr_db=x"] {
            let error = Limit::parse_list(text).unwrap_err();
            assert_eq!(error.class().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn losses_have_a_direction() {
        assert_eq!(loss("sqnr_db", Some(40.0), Some(36.0)), 10.0);
        assert_eq!(loss("sqnr_db", Some(40.0), Some(44.0)), 0.0);
        assert_eq!(loss("sqnr_db", None, Some(100.0)), f64::INFINITY);
        assert_eq!(loss("sqnr_db", Some(40.0), None), 0.0);
        assert!((loss("max_abs", Some(0.1), Some(0.11)) - 10.0).abs() < 1e-9);
        assert_eq!(loss("wrong_codes", Some(0.0), Some(1.0)), f64::INFINITY);
        assert_eq!(loss("cosine", Some(1.0), Some(0.5)), 50.0);
        assert!(METRICS.iter().all(|m| is_compared(m) || *m == "bias"));
    }
}
