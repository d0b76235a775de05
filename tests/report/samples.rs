//! Reports as validations would make them: a small good one, one that failed, one of a model with 92,000 tensors, and
//! one whose every text is hostile. Values come from a fixed generator.

use silicast::report::model::*;
use std::collections::BTreeMap;
use xtask::rng::SplitMix64;

/// A normal deviate, near enough: the sum of twelve uniform ones.
fn normal(rng: &mut SplitMix64) -> f64 {
    (0..12).map(|_| rng.next_u64() as f64 / 2f64.powi(64)).sum::<f64>() - 6.0
}

fn report(artifact: Subject, source: Option<Subject>) -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        verdict: Verdict::Pass,
        level: Level::Tensor,
        tool: Tool { name: "silicast".into(), version: "0.1.0".into() },
        artifact,
        source,
        sampled: 1.0,
        engine_path: None,
        checks: vec![],
        tensors: vec![],
        kernels: vec![],
        layers: vec![],
        notes: vec![],
        reproduce: vec![],
    }
}

/// A check without a metric.
pub fn check(id: &str, level: Level, tensor: Option<&str>, verdict: Verdict, message: &str) -> Check {
    Check {
        id: id.into(),
        level,
        tensor: tensor.map(Into::into),
        metric: None,
        value: None,
        limit: None,
        verdict,
        message: message.into(),
    }
}

fn gate(metric: &str, tensor: &str, value: f64, limit: f64, verdict: Verdict) -> Check {
    Check {
        metric: Some(metric.into()),
        value: Some(value),
        limit: Some(limit),
        ..check(&metric.replace('_', "-"), Level::Tensor, Some(tensor), verdict, "")
    }
}

fn quantized(
    name: String,
    place: [Option<u32>; 2],
    role: &str,
    scheme: &str,
    db: f64,
    rng: &mut SplitMix64,
) -> TensorRow {
    let elements = 1u64 << 22;
    let rel = 10f64.powf(-db / 20.0);
    let centre = -9 - (rng.below(3) as i32);
    let scale_exponents: BTreeMap<i32, u64> =
        (-3..=3).map(|d: i32| (centre + d, (900 >> (2 * d.unsigned_abs())) + rng.below(3) as u64)).collect();
    TensorRow {
        name,
        role: Some(role.into()),
        layer: place[0],
        expert: place[1],
        fate: "quantized".into(),
        scheme: Some(scheme.into()),
        exactness: Some("lossy".into()),
        elements,
        bytes: elements + 8192,
        source_bytes: 2 * elements,
        sqnr_db: Some(db),
        max_abs: Some(rel * 0.31),
        max_rel: Some(1.0),
        cosine: Some(1.0 - rel * rel / 2.0),
        rel_frobenius: Some(rel),
        saturated_pct: Some(0.0),
        flushed_pct: Some(0.4 + rng.below(100) as f64 / 300.0),
        zero_units: Some(0),
        non_finite: Some(0),
        wrong_codes: Some(0),
        wrong_scales: Some(0),
        scale_range: Some([2f64.powi(centre - 3), 2f64.powi(centre + 3)]),
        scale_exponents,
        reason: None,
    }
}

fn kept(name: String, layer: Option<u32>, role: &str, reason: &str) -> TensorRow {
    TensorRow {
        name,
        role: Some(role.into()),
        layer,
        fate: "kept".into(),
        scheme: Some("BF16".into()),
        exactness: Some("bitwise".into()),
        elements: 4096,
        bytes: 8192,
        source_bytes: 8192,
        max_abs: Some(0.0),
        max_rel: Some(0.0),
        cosine: Some(1.0),
        rel_frobenius: Some(0.0),
        reason: Some(reason.into()),
        ..TensorRow::default()
    }
}

fn metrics(calc_diff: f64, rng: &mut SplitMix64) -> Metrics {
    let calc_diff = calc_diff * (1.0 + 0.1 * normal(rng)).abs();
    let rel = (2.0 * calc_diff).sqrt();
    Metrics {
        calc_diff: Some(calc_diff),
        rel_diff: Some(rel * 0.98),
        mere: Some(rel * 5.1),
        mare: Some(rel * 4210.0),
        rmse: Some(rel * 1.9),
        diff1: Some(rel * 0.98),
        diff2: Some(rel),
        diff3: Some(rel * 35.0),
        diff4: Some([0.4993, 0.5004, 4093.0]),
        max_abs: Some(rel * 9.0),
        cosine: Some(1.0 - calc_diff),
        sqnr_db: Some(-20.0 * rel.log10()),
        bias: Some(0.0011),
        same_specials: Some(true),
        first_bad: None,
    }
}

fn subject(scheme: Option<&str>, bytes: u64, tensors: u64, by: &[(&str, u64)]) -> Subject {
    Subject {
        family: Some("llama".into()),
        target: scheme.map(|_| "ascend-910b".into()),
        engine: scheme.map(|_| "vllm-ascend".into()),
        scheme: scheme.map(Into::into),
        plan_digest: scheme
            .map(|_| "6f1c3a5e0b7d49288c4e1f6a2b90d7735e81c4fa09b36d2257ae4c1d88f0935b".into()),
        files: 1,
        tensors,
        bytes,
        bytes_by_scheme: by.iter().map(|(name, n)| ((*name).into(), *n)).collect(),
    }
}

const LINEARS: [(&str, &str); 7] = [
    ("self_attn", "q_proj"),
    ("self_attn", "k_proj"),
    ("self_attn", "v_proj"),
    ("self_attn", "o_proj"),
    ("mlp", "gate_proj"),
    ("mlp", "up_proj"),
    ("mlp", "down_proj"),
];

/// Two layers of a Llama, INT8, nothing wrong.
pub fn good() -> Report {
    let mut rng = SplitMix64::new(3);
    let artifact =
        subject(Some("W8A8_DYNAMIC"), 61_200_000, 37, &[("W8A8_DYNAMIC", 58_900_000), ("BF16", 2_300_000)]);
    let source = subject(None, 119_800_000, 23, &[("BF16", 119_800_000)]);
    let mut report = report(artifact, Some(source));
    report.level = Level::Layer;
    report.engine_path = Some("per-token INT8 activations, INT32 accumulation, FP32 scales".into());
    report.tensors.push(kept("lm_head.weight".into(), None, "lm_head", "output head stays float"));
    report.tensors.push(kept(
        "model.embed_tokens.weight".into(),
        None,
        "embed_tokens",
        "embedding stays float",
    ));
    for layer in 0..2 {
        report.tensors.push(kept(
            format!("model.layers.{layer}.input_layernorm.weight"),
            Some(layer),
            "norm",
            "norm",
        ));
        for (i, (module, role)) in LINEARS.iter().enumerate() {
            let name = format!("model.layers.{layer}.{module}.{role}.weight");
            let db = 39.5 + 0.6 * i as f64 + 0.5 * normal(&mut rng);
            report.tensors.push(quantized(
                name.clone(),
                [Some(layer), None],
                role,
                "W8A8_DYNAMIC",
                db,
                &mut rng,
            ));
            report.checks.push(gate("sqnr_db", &name, db, 30.0, Verdict::Pass));
            let metrics = metrics(8.1e-5, &mut rng);
            report.kernels.push(KernelRow {
                id: "int8_gemm_per_token_per_channel".into(),
                case: name,
                tier: "T5".into(),
                metrics,
                verdict: Some(Verdict::Pass),
            });
        }
        report.layers.push(LayerRow {
            name: format!("model.layers.{layer}"),
            layer: Some(layer),
            kind: "llama".into(),
            metrics: metrics(2.0e-4, &mut rng),
            routing_agreement: None,
            verdict: Some(Verdict::Pass),
            note: None,
        });
    }
    report.tensors.push(kept("model.norm.weight".into(), None, "norm", "norm"));
    for id in
        ["file-hashes", "index-matches-files", "config-matches-tensors", "fused-groups-agree", "conservation"]
    {
        report.checks.push(check(id, Level::Structure, None, Verdict::Pass, ""));
    }
    report.notes.push("The source has no calibration data; activations are seeded and normal.".into());
    report.reproduce = vec![
        "silicast convert SRC -o OUT --target ascend-910b --scheme W8A8_DYNAMIC".into(),
        "silicast validate OUT --against SRC --level layer".into(),
    ];
    report
}

/// The same with a wrong block, a NaN, a dropped tensor, and a kernel and a layer beyond their limits.
pub fn failing() -> Report {
    let mut report = good();
    let bad = "model.layers.1.mlp.up_proj.weight".to_owned();
    for row in report.tensors.iter_mut().filter(|row| row.name == bad) {
        row.sqnr_db = Some(17.3);
        row.wrong_scales = Some(1);
        row.saturated_pct = Some(0.8);
    }
    report.checks.retain(|check| check.tensor.as_deref() != Some(&bad));
    report.checks.insert(0, gate("sqnr_db", &bad, 17.3, 30.0, Verdict::Fail));
    report.checks.insert(
        1,
        Check {
            metric: Some("wrong_scales".into()),
            value: Some(1.0),
            limit: Some(0.0),
            ..check(
                "scale-follows-rule",
                Level::Tensor,
                Some(&bad),
                Verdict::Fail,
                "scale of row 17: expected 0.0014114 (amax/127), found 0.0014396: 2 % off.\nConvert this tensor again.",
            )
        },
    );
    report.checks.push(check(
        "conservation",
        Level::Structure,
        Some("model.layers.0.self_attn.q_norm.weight"),
        Verdict::Fail,
        "a tensor of the source is neither in the artifact nor dropped by its plan; convert again",
    ));
    report.checks.push(check(
        "zero-scale",
        Level::Tensor,
        Some("model.layers.0.self_attn.k_proj.weight"),
        Verdict::Warn,
        "3 rows have a zero scale over non-zero codes",
    ));
    report.checks.push(check("logits", Level::Model, None, Verdict::Skip, "level layer was asked for"));
    for row in report.kernels.iter_mut().filter(|row| row.case == bad) {
        row.metrics.calc_diff = Some(9.2e-3);
        row.metrics.first_bad = Some(vec![0, 17]);
        row.verdict = Some(Verdict::Fail);
    }
    report.layers[1].metrics.calc_diff = Some(1.1e-2);
    report.layers[1].metrics.sqnr_db = Some(16.6);
    report.layers[1].verdict = Some(Verdict::Fail);
    report.verdict = report.verdict_of_parts();
    report
}

/// DeepSeek-V3's shape: 61 layers with MLA, 58 of them with 256 experts, and multi-token prediction.
pub fn v3() -> Report {
    let mut rng = SplitMix64::new(671);
    let artifact = Subject {
        family: Some("deepseek-v3".into()),
        target: Some("metax-c500".into()),
        engine: Some("vllm-metax".into()),
        files: 163,
        ..subject(
            Some("W8A8"),
            691_000_000_000,
            91_991,
            &[("W8A8", 669_000_000_000), ("BF16", 21_900_000_000), ("F32", 61_000_000)],
        )
    };
    let source = Subject {
        family: Some("deepseek-v3".into()),
        files: 163,
        ..subject(
            None,
            688_600_000_000,
            91_991,
            &[("FP8_BLOCK", 676_000_000_000), ("BF16", 12_500_000_000), ("F32", 1_500_000)],
        )
    };
    let mut report = report(artifact, Some(source));
    report.level = Level::Kernel;
    report.sampled = 0.05;
    report.engine_path = Some("per-token INT8 activations, INT32 accumulation, BF16 output".into());
    for (name, role) in [("lm_head.weight", "lm_head"), ("model.embed_tokens.weight", "embed_tokens")] {
        report.tensors.push(kept(name.into(), None, role, "stays float"));
    }
    let mut add =
        |report: &mut Report, layer: u32, expert: Option<u32>, module: String, role: &str, base: f64| {
            let name = format!("model.layers.{layer}.{module}.{role}.weight");
            // Early layers and the last ones have heavier tails.
            let edge = 2.6 * (-f64::from(layer.min(61 - layer)) / 3.0).exp();
            let db = base - edge + 0.35 * normal(&mut rng) - 1.8 * f64::from(rng.below(60) == 0);
            let row = quantized(name.clone(), [Some(layer), expert], role, "W8A8", db, &mut rng);
            report.checks.push(gate("sqnr_db", &name, db, 25.0, Verdict::Pass));
            if expert.is_none_or(|e| e < 8) {
                report.kernels.push(KernelRow {
                    id: if expert.is_some() { "int8_group_gemm" } else { "int8_gemm_per_token_per_channel" }
                        .into(),
                    case: name,
                    tier: "T5".into(),
                    metrics: metrics(1.2e-4 * 10f64.powf((38.0 - db) / 10.0), &mut rng),
                    verdict: Some(Verdict::Pass),
                });
            }
            report.tensors.push(row);
        };
    for layer in 0..62u32 {
        for (role, base) in
            [("q_a_proj", 36.4), ("q_b_proj", 38.2), ("kv_a_proj_with_mqa", 35.1), ("o_proj", 37.5)]
        {
            add(&mut report, layer, None, "self_attn".into(), role, base);
        }
        let mut kv_b = kept(
            format!("model.layers.{layer}.self_attn.kv_b_proj.weight"),
            Some(layer),
            "kv_b_proj",
            "absorbed by the engine",
        );
        (kv_b.fate, kv_b.exactness, kv_b.sqnr_db) = ("reencoded".into(), Some("rounding".into()), Some(54.9));
        report.tensors.push(kv_b);
        report.tensors.push(kept(
            format!("model.layers.{layer}.input_layernorm.weight"),
            Some(layer),
            "norm",
            "norm",
        ));
        let mlp = [("gate_proj", 38.6), ("up_proj", 39.1), ("down_proj", 36.0)];
        if layer < 3 {
            for (role, base) in mlp {
                add(&mut report, layer, None, "mlp".into(), role, base);
            }
            continue;
        }
        report.tensors.push(kept(
            format!("model.layers.{layer}.mlp.gate.weight"),
            Some(layer),
            "router",
            "router stays float",
        ));
        for expert in 0..256 {
            for (role, base) in mlp {
                add(&mut report, layer, Some(expert), format!("mlp.experts.{expert}"), role, base - 0.3);
            }
        }
        for (role, base) in mlp {
            add(&mut report, layer, None, "mlp.shared_experts".into(), role, base - 0.8);
        }
    }
    for n in 0..40_000 {
        // Scales of the source that became part of their weights.
        report.tensors.push(TensorRow {
            name: format!("model.scales.{n}.weight_scale_inv"),
            fate: "dropped".into(),
            source_bytes: 3584,
            reason: Some("decoded with its weight".into()),
            ..TensorRow::default()
        });
    }
    for layer in [0u32, 3, 30, 60] {
        report.layers.push(LayerRow {
            name: format!("model.layers.{layer}"),
            layer: Some(layer),
            kind: if layer < 3 { "deepseek-v3 dense" } else { "deepseek-v3 moe" }.into(),
            metrics: metrics(3.0e-4, &mut rng),
            routing_agreement: (layer >= 3).then_some(0.9921),
            verdict: Some(Verdict::Pass),
            note: (layer >= 3).then(|| "compared on tokens that agree on all experts".into()),
        });
    }
    for id in
        ["file-hashes", "index-matches-files", "config-matches-tensors", "fused-groups-agree", "conservation"]
    {
        report.checks.push(check(id, Level::Structure, None, Verdict::Pass, ""));
    }
    report.reproduce = vec![
        "silicast convert SRC -o OUT --target metax-c500 --scheme W8A8 --memory 8GiB".into(),
        "silicast validate OUT --against SRC --level kernel --sample 5%".into(),
    ];
    report
}

/// Markup, commands, controls, direction overrides and length wherever a checkpoint can put text.
pub const HOSTILE: [&str; 6] = [
    "<script>alert('x')</script>",
    "\"><img src=x onerror=alert(1)>",
    "a\u{1b}[31m\u{0}\u{202e}gpj.exe\u{2028}\u{ffff}",
    "| pipe ` tick `` ticks | [link](javascript:alert(1)) ![i](http://e.example/x.png) **b** <!-- ",
    "]]> &amp; &#0; &lt; {{ 7 }} {% raw %}\r\n::error::injected\n::warning file=a,line=1::b%0A",
    "模型.層.重み",
];

/// A failed report in which every text is hostile, and some are very long.
pub fn hostile() -> Report {
    let mut report = failing();
    let mut n = 0;
    let mut text = |old: &str| {
        n += 1;
        let long = if n % 11 == 0 { "x".repeat(100_000) } else { String::new() };
        format!("{old}{}{long}", HOSTILE[n % HOSTILE.len()])
    };
    for subject in [Some(&mut report.artifact), report.source.as_mut()].into_iter().flatten() {
        for field in [
            &mut subject.family,
            &mut subject.target,
            &mut subject.engine,
            &mut subject.scheme,
            &mut subject.plan_digest,
        ] {
            *field = Some(text(""));
        }
        subject.bytes_by_scheme = subject.bytes_by_scheme.iter().map(|(k, v)| (text(k), *v)).collect();
    }
    report.engine_path = Some(text(""));
    for check in &mut report.checks {
        check.id = text(&check.id);
        check.tensor = check.tensor.as_deref().map(&mut text);
        check.metric = check.metric.as_deref().map(&mut text);
        check.message = text(&check.message);
    }
    for row in &mut report.tensors {
        row.name = text(&row.name);
        row.role = row.role.as_deref().map(&mut text);
        row.scheme = row.scheme.as_deref().map(&mut text);
        row.reason = Some(text(""));
        row.layer = row.layer.map(|layer| if layer == 1 { u32::MAX } else { layer });
        row.scale_exponents.extend([(i32::MIN, u64::MAX), (i32::MAX, u64::MAX)]);
        (row.max_abs, row.max_rel, row.cosine) = (Some(f64::NAN), Some(f64::INFINITY), Some(-1e300));
    }
    report.tensors[0].fate = text("");
    report.tensors[1].exactness = Some(text(""));
    report.tensors[2].sqnr_db = Some(f64::NEG_INFINITY);
    report.tensors[3].sqnr_db = Some(f64::NAN);
    report.tensors[4].sqnr_db = Some(1e300);
    for row in &mut report.kernels {
        row.id = text(&row.id);
        row.case = text(&row.case);
        row.tier = text(&row.tier);
        row.metrics.first_bad = Some(vec![u64::MAX; 64]);
        row.metrics.diff4 = Some([f64::NAN, f64::INFINITY, -1.0]);
    }
    for row in &mut report.layers {
        row.name = text(&row.name);
        row.kind = text(&row.kind);
        row.note = Some(text(""));
    }
    report.notes = (0..6).map(|_| text("")).collect();
    report.reproduce = (0..6).map(|_| text("")).collect();
    report
}
