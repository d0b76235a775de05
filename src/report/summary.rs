//! What all renderings but `report.json` show: the report's rows, counted, grouped and ranked once.

use super::model::{Check, KernelRow, LayerRow, Level, Metrics, Report, TensorRow, Verdict};
use super::text;
use std::collections::BTreeMap;

/// Tensors that the list of the worst names.
const WORST: usize = 20;

/// A report, counted, grouped and ranked.
pub(super) struct Summary<'a> {
    pub(super) report: &'a Report,
    /// Tensors by role and scheme, in the order of a decoder block.
    pub(super) classes: Vec<Class<'a>>,
    /// Kernel rows by kernel and tier.
    pub(super) kernels: Vec<KernelSet<'a>>,
    /// Checks by level and rule, failed rules first.
    pub(super) rules: Vec<Rule<'a>>,
    /// Failed checks in the report's order, each with the class that it belongs to.
    pub(super) failed: Vec<&'a Check>,
    /// Tensors by fate and exactness.
    pub(super) fates: BTreeMap<(&'a str, &'a str), Amount>,
    /// Tensors with the most to say about them, worst first.
    pub(super) worst: Vec<Worst<'a>>,
    /// Checks of tensors by tensor.
    by_tensor: BTreeMap<&'a str, Vec<&'a Check>>,
}

/// Tensors of one role and scheme.
pub(super) struct Class<'a> {
    pub(super) label: String,
    pub(super) scheme: &'a str,
    pub(super) tensors: Vec<&'a TensorRow>,
    /// Measured signal-to-noise ratios in ascending order.
    pub(super) sqnr: Vec<f64>,
    pub(super) exponents: BTreeMap<i32, u64>,
    pub(super) failed: Vec<&'a Check>,
    pub(super) warned: Vec<&'a Check>,
    /// Checks of these tensors, whatever their verdict.
    pub(super) checks: u64,
}

/// Rows of one kernel and tier.
pub(super) struct KernelSet<'a> {
    pub(super) id: &'a str,
    pub(super) tier: &'a str,
    pub(super) rows: Vec<&'a KernelRow>,
    pub(super) checks: Vec<&'a Check>,
}

/// Checks of one level and rule.
pub(super) struct Rule<'a> {
    pub(super) level: Level,
    pub(super) id: &'a str,
    pub(super) passed: u64,
    pub(super) skipped: Vec<&'a Check>,
    pub(super) warned: Vec<&'a Check>,
    pub(super) failed: Vec<&'a Check>,
    /// Those of the above, and passed ones, that belong to no class of tensors and no kernel set.
    pub(super) apart: Vec<&'a Check>,
}

/// A number of tensors and their bytes.
#[derive(Clone, Copy, Default)]
pub(super) struct Amount {
    pub(super) tensors: u64,
    pub(super) bytes: u64,
    pub(super) source_bytes: u64,
}

/// A tensor that stands out.
pub(super) struct Worst<'a> {
    pub(super) tensor: &'a TensorRow,
    pub(super) failed: bool,
    pub(super) why: String,
}

/// Whether artifact and source are known to hold the same values.
pub(super) fn exact(row: &TensorRow) -> bool {
    row.sqnr_db.is_none() && (row.exactness.as_deref() == Some("bitwise") || row.max_abs == Some(0.0))
}

/// The role as a reader knows it: experts and shared experts apart from dense layers.
pub(super) fn label(row: &TensorRow) -> String {
    let role = row.role.as_deref().unwrap_or("other");
    let scope = match row.expert {
        Some(_) => "experts.",
        None if row.name.contains(".shared_expert") && role.ends_with("_proj") => "shared.",
        None => "",
    };
    if role.starts_with(scope) { role.to_owned() } else { format!("{scope}{role}") }
}

/// Roles in the order in which a decoder block computes; unknown ones follow.
fn rank(label: &str) -> usize {
    const ORDER: [&str; 25] = [
        "embed",
        "embed_tokens",
        "norm",
        "q_proj",
        "k_proj",
        "v_proj",
        "q_a_proj",
        "q_b_proj",
        "kv_a_proj",
        "kv_a_proj_with_mqa",
        "kv_b_proj",
        "o_proj",
        "indexer",
        "router",
        "gate",
        "gate_proj",
        "up_proj",
        "down_proj",
        "shared.gate_proj",
        "shared.up_proj",
        "shared.down_proj",
        "experts.gate_proj",
        "experts.up_proj",
        "experts.down_proj",
        "eh_proj",
    ];
    let known = ORDER.iter().position(|role| *role == label);
    known.or_else(|| label.starts_with("indexer").then_some(12)).unwrap_or(ORDER.len())
}

/// The middle of ascending `values`; the lower of two.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    values.get(values.len().saturating_sub(1) / 2).copied()
}

impl<'a> Summary<'a> {
    pub(super) fn of(report: &'a Report) -> Self {
        let mut classes = classes(report);
        let mut kernels = kernel_sets(report);
        let class_of: BTreeMap<&str, usize> = (classes.iter().enumerate())
            .flat_map(|(i, class)| class.tensors.iter().map(move |row| (row.name.as_str(), i)))
            .collect();
        let set_of: BTreeMap<&str, usize> = (kernels.iter().enumerate())
            .flat_map(|(i, set)| set.rows.iter().map(move |row| (row.case.as_str(), i)))
            .collect();

        let mut rules: BTreeMap<(Level, &str), Rule<'_>> = BTreeMap::new();
        let mut by_tensor: BTreeMap<&str, Vec<&Check>> = BTreeMap::new();
        for check in &report.checks {
            let subject = check.tensor.as_deref().unwrap_or_default();
            let rule = rules.entry((check.level, &check.id)).or_insert_with(|| Rule::new(check));
            match check.verdict {
                Verdict::Pass => rule.passed += 1,
                Verdict::Skip => rule.skipped.push(check),
                Verdict::Warn => rule.warned.push(check),
                Verdict::Fail => rule.failed.push(check),
            }
            if check.verdict != Verdict::Pass && !subject.is_empty() {
                by_tensor.entry(subject).or_default().push(check);
            }
            match (check.level, class_of.get(subject), set_of.get(subject)) {
                (Level::Kernel, _, Some(&i)) => kernels[i].checks.push(check),
                (Level::Structure | Level::Tensor, Some(&i), _) => classes[i].add(check),
                _ => rule.apart.push(check),
            }
        }
        let mut rules: Vec<Rule<'_>> = rules.into_values().collect();
        rules.sort_by_key(|rule| rule.failed.is_empty());

        let mut fates: BTreeMap<(&str, &str), Amount> = BTreeMap::new();
        for row in &report.tensors {
            let key = (row.fate.as_str(), row.exactness.as_deref().unwrap_or_default());
            fates.entry(key).or_default().add(row);
        }
        let failed = report.checks.iter().filter(|check| check.verdict == Verdict::Fail).collect();
        let mut summary =
            Self { report, classes, kernels, rules, failed, fates, worst: Vec::new(), by_tensor };
        summary.worst = summary.rank_worst();
        summary
    }

    /// Whether nothing failed.
    pub(super) fn passed(&self) -> bool {
        self.report.verdict != Verdict::Fail
    }

    /// Whether a check on `tensor` failed.
    pub(super) fn tensor_failed(&self, tensor: &str) -> bool {
        self.by_tensor.get(tensor).is_some_and(|checks| checks.iter().any(|c| c.verdict == Verdict::Fail))
    }

    /// Checks with that verdict.
    pub(super) fn checks(&self, verdict: Verdict) -> u64 {
        self.report.checks.iter().filter(|check| check.verdict == verdict).count() as u64
    }

    /// Kernel rows that failed.
    pub(super) fn failed_kernels(&self) -> Vec<&'a KernelRow> {
        self.report.kernels.iter().filter(|row| row.verdict == Some(Verdict::Fail)).collect()
    }

    /// Layers that failed.
    pub(super) fn failed_layers(&self) -> Vec<&'a LayerRow> {
        self.report.layers.iter().filter(|row| row.verdict == Some(Verdict::Fail)).collect()
    }

    /// The tensor with the lowest signal-to-noise ratio.
    pub(super) fn lowest(&self) -> Option<(&'a TensorRow, f64)> {
        let measured = self.report.tensors.iter().filter_map(|row| Some((row, row.sqnr_db?)));
        measured.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// All measured signal-to-noise ratios in ascending order.
    pub(super) fn sqnr(&self) -> Vec<f64> {
        let mut all: Vec<f64> = self.report.tensors.iter().filter_map(|row| row.sqnr_db).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// What the artifact is, in one line: `deepseek-v3, W8A8_DYNAMIC for ascend-910b (vllm-ascend)`.
    pub(super) fn subject(&self) -> String {
        let artifact = &self.report.artifact;
        let shown = |text: &Option<String>| text.as_deref().map(|t| text::clip(t, text::NAME).into_owned());
        let family = shown(&artifact.family).unwrap_or_else(|| "checkpoint of an unknown family".to_owned());
        let mut line = family;
        if let Some(scheme) = shown(&artifact.scheme) {
            line = format!("{line}, {scheme}");
        }
        if let Some(target) = shown(&artifact.target) {
            line = format!("{line} for {target}");
        }
        match shown(&artifact.engine) {
            Some(engine) if artifact.target.is_some() => format!("{line} ({engine})"),
            Some(engine) => format!("{line} for {engine}"),
            None => line,
        }
    }

    /// Failing tensors first, then those with the lowest ratio; exact ones never.
    fn rank_worst(&self) -> Vec<Worst<'a>> {
        let mut medians = BTreeMap::new();
        for class in &self.classes {
            for row in &class.tensors {
                medians.insert(row.name.as_str(), median(&class.sqnr));
            }
        }
        let mut rows: Vec<(bool, f64, &TensorRow)> = (self.report.tensors.iter())
            .map(|row| (self.tensor_failed(&row.name), row))
            .filter(|(failed, row)| *failed || row.sqnr_db.is_some())
            .map(|(failed, row)| (failed, row.sqnr_db.unwrap_or(f64::NEG_INFINITY), row))
            .collect();
        // Stable, so that equals stay in the report's order.
        rows.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)));
        rows.truncate(WORST);
        (rows.into_iter())
            .map(|(failed, _, tensor)| {
                let median = medians.get(tensor.name.as_str()).copied().flatten();
                Worst { tensor, failed, why: self.why(tensor, median) }
            })
            .collect()
    }

    /// What a reader should know about a tensor: its checks, then what its metrics show.
    fn why(&self, row: &TensorRow, median: Option<f64>) -> String {
        let mut why: Vec<String> = Vec::new();
        for check in self.by_tensor.get(row.name.as_str()).into_iter().flatten() {
            why.push(explain(check));
        }
        // What a check has said is not said again.
        let checked = |metric: &str| {
            let mut checks = self.by_tensor.get(row.name.as_str()).into_iter().flatten();
            checks.any(|check| check.metric.as_deref() == Some(metric))
        };
        for (metric, n, what) in [
            ("non_finite", row.non_finite, "NaN or infinite values"),
            ("wrong_codes", row.wrong_codes, "codes that are not the nearest"),
            ("wrong_scales", row.wrong_scales, "scales off the recorded rule"),
            ("zero_units", row.zero_units, "all-zero rows or blocks"),
        ] {
            if let Some(n) = n.filter(|n| *n > 0 && !checked(metric)) {
                why.push(format!("{what}: {}", text::count(n)));
            }
        }
        // The largest element of every other row lies beyond the top under a rule that rounds its scales: no news.
        if let Some(share) = row.saturated_pct.filter(|s| *s >= 0.5 && !checked("saturated_pct")) {
            why.push(format!("{} saturated", text::share(share)));
        }
        if let Some(share) = row.flushed_pct.filter(|s| *s >= 1.0 && !checked("flushed_pct")) {
            why.push(format!("{} flushed to zero", text::share(share)));
        }
        if let (Some(value), Some(median)) = (row.sqnr_db, median)
            && median - value >= 0.5
        {
            why.push(format!("{} below the median of its class", text::db(median - value)));
        }
        why.extend(row.reason.as_deref().map(|reason| text::line(reason, text::MESSAGE)));
        if why.is_empty() {
            why.push("ordinary for its class".to_owned());
        }
        // A tensor may have failed in hundreds of blocks; a list of them explains no more than the first few.
        let dropped = why.len().saturating_sub(4);
        why.truncate(4);
        if dropped > 0 {
            why.push(format!("{dropped} more"));
        }
        let parts: Vec<&str> = why.iter().map(|part| part.trim_end_matches('.')).collect();
        parts.join("; ")
    }
}

/// A check in words: its measure against its limit, then its message.
pub(super) fn explain(check: &Check) -> String {
    let mut line = text::clip(&check.id, text::NAME).into_owned();
    if let Some(measured) = measured(check) {
        line = format!("{line}: {measured}");
    }
    match check.message.is_empty() {
        true => line,
        false => format!("{line}: {}", text::line(&check.message, text::MESSAGE)),
    }
}

/// `sqnr_db 12.1 dB, limit 30.0 dB`; `None` for a check without a metric.
pub(super) fn measured(check: &Check) -> Option<String> {
    let name = check.metric.as_deref()?;
    let shown = |value: f64| text::metric(name, value);
    let name = text::clip(name, text::NAME);
    match (check.value, check.limit) {
        (Some(value), Some(limit)) => Some(format!("{name} {}, limit {}", shown(value), shown(limit))),
        (Some(value), None) => Some(format!("{name} {}", shown(value))),
        (None, Some(limit)) => Some(format!("{name} without a finite value, limit {}", shown(limit))),
        (None, None) => Some(name.into_owned()),
    }
}

fn classes(report: &Report) -> Vec<Class<'_>> {
    let mut groups: BTreeMap<(usize, String, &str), Class<'_>> = BTreeMap::new();
    for row in report.tensors.iter().filter(|row| row.fate != "dropped") {
        let label = label(row);
        let scheme = row.scheme.as_deref().unwrap_or("unknown");
        let key = (rank(&label), label, scheme);
        let label = key.1.clone();
        groups.entry(key).or_insert_with(|| Class::new(label, scheme)).take(row);
    }
    let mut classes: Vec<Class<'_>> = groups.into_values().collect();
    for class in &mut classes {
        class.sqnr.sort_by(f64::total_cmp);
    }
    classes
}

fn kernel_sets(report: &Report) -> Vec<KernelSet<'_>> {
    let mut groups: BTreeMap<(&str, &str), KernelSet<'_>> = BTreeMap::new();
    for row in &report.kernels {
        let set = groups.entry((&row.tier, &row.id)).or_insert_with(|| KernelSet {
            id: &row.id,
            tier: &row.tier,
            rows: Vec::new(),
            checks: Vec::new(),
        });
        set.rows.push(row);
    }
    groups.into_values().collect()
}

impl<'a> Class<'a> {
    fn new(label: String, scheme: &'a str) -> Self {
        Self {
            label,
            scheme,
            tensors: Vec::new(),
            sqnr: Vec::new(),
            exponents: BTreeMap::new(),
            failed: Vec::new(),
            warned: Vec::new(),
            checks: 0,
        }
    }

    fn take(&mut self, row: &'a TensorRow) {
        self.tensors.push(row);
        self.sqnr.extend(row.sqnr_db.filter(|value| value.is_finite()));
        for (exponent, n) in &row.scale_exponents {
            *self.exponents.entry(*exponent).or_default() += n;
        }
    }

    fn add(&mut self, check: &'a Check) {
        self.checks += 1;
        match check.verdict {
            Verdict::Fail => self.failed.push(check),
            Verdict::Warn => self.warned.push(check),
            Verdict::Pass | Verdict::Skip => {}
        }
    }
}

impl KernelSet<'_> {
    pub(super) fn failed(&self) -> usize {
        self.rows.iter().filter(|row| row.verdict == Some(Verdict::Fail)).count()
    }

    /// The worst of each metric over the set; the coordinate is that of the first row that has one.
    pub(super) fn worst(&self) -> Metrics {
        let mut worst = Metrics { same_specials: Some(true), ..Metrics::default() };
        for row in &self.rows {
            let m = &row.metrics;
            let pairs = [
                (&mut worst.calc_diff, m.calc_diff),
                (&mut worst.rel_diff, m.rel_diff),
                (&mut worst.mere, m.mere),
                (&mut worst.mare, m.mare),
                (&mut worst.rmse, m.rmse),
                (&mut worst.diff1, m.diff1),
                (&mut worst.diff2, m.diff2),
                (&mut worst.diff3, m.diff3),
                (&mut worst.max_abs, m.max_abs),
                (&mut worst.bias, m.bias),
            ];
            for (kept, value) in pairs {
                *kept = [*kept, value].into_iter().flatten().max_by(f64::total_cmp);
            }
            for (kept, value) in [(&mut worst.cosine, m.cosine), (&mut worst.sqnr_db, m.sqnr_db)] {
                *kept = [*kept, value].into_iter().flatten().min_by(f64::total_cmp);
            }
            worst.diff4 = match (worst.diff4, m.diff4) {
                (Some(a), Some(b)) => Some([a[0].max(b[0]), a[1].max(b[1]), a[2].max(b[2])]),
                (a, b) => a.or(b),
            };
            worst.same_specials = match (worst.same_specials, m.same_specials) {
                (Some(a), Some(b)) => Some(a && b),
                (a, _) => a,
            };
            worst.first_bad = worst.first_bad.or_else(|| m.first_bad.clone());
        }
        worst
    }
}

impl<'a> Rule<'a> {
    fn new(check: &'a Check) -> Self {
        Self {
            level: check.level,
            id: &check.id,
            passed: 0,
            skipped: Vec::new(),
            warned: Vec::new(),
            failed: Vec::new(),
            apart: Vec::new(),
        }
    }

    /// All checks of the rule.
    pub(super) fn total(&self) -> u64 {
        self.passed + (self.skipped.len() + self.warned.len() + self.failed.len()) as u64
    }
}

impl Amount {
    pub(super) fn add(&mut self, row: &TensorRow) {
        self.tensors += 1;
        self.bytes += row.bytes;
        self.source_bytes += row.source_bytes;
    }
}

/// The name of a level.
pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Structure => "structure",
        Level::Tensor => "tensor",
        Level::Kernel => "kernel",
        Level::Layer => "layer",
        Level::Model => "model",
    }
}

/// The name of a verdict.
pub(super) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Skip => "skip",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    }
}
