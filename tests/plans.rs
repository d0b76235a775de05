//! Literate cases of every pass, `tests/plans/PASS/CASE.plan`, and every invariant of the verifier.
//!
//! A case is a header (`pass: ID`, `target: ID`, and optionally `scheme:`, `include:`, `ignore:`, `shard-bytes:`,
//! `config:` with one line of JSON, `#` for a comment), lines `in NAME dtype[shape]`, a line `---`, and the plan after
//! that pass as the printer writes it: `out`, `drop`, `shard`, then the pass's `note` lines; or `reject CODE` and the
//! message. `UPDATE_EXPECT=1` rewrites what follows `---`.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests read their own cases")]

use silicast::checkpoint::Checkpoint;
use silicast::dtype::Dtype;
use silicast::dtype::scheme::Scheme;
use silicast::passes::{self, Context};
use silicast::plan::recipe::{NanPolicy, ResolvedRecipe};
use silicast::plan::verifier::{Violation, verify};
use silicast::plan::{Dropped, Exactness, Expr, Fate, Header, Output, Part, Plan, Stored, Ty, printer};
use silicast::targets::Target;
use std::fs;
use std::path::Path;

/// A parsed case.
struct Case {
    pass: String,
    target: &'static Target,
    shard_bytes: Option<u64>,
    scheme: Option<String>,
    include: Vec<String>,
    ignore: Vec<String>,
    config: serde_json::Value,
    tensors: Vec<(String, Dtype, Vec<u64>)>,
}

/// `dtype[shape]`.
fn parse_type(text: &str) -> (Dtype, Vec<u64>) {
    let (dtype, shape) = text.strip_suffix(']').unwrap().split_once('[').unwrap();
    let shape = shape.split(',').filter(|d| !d.is_empty()).map(|d| d.parse().unwrap()).collect();
    (Dtype::from_text(dtype).unwrap_or_else(|| panic!("dtype {dtype}")), shape)
}

impl Case {
    fn parse(text: &str) -> Case {
        let mut case = Case {
            pass: String::new(),
            target: Target::find("vllm").unwrap(),
            shard_bytes: None,
            scheme: None,
            include: Vec::new(),
            ignore: Vec::new(),
            config: serde_json::json!({}),
            tensors: Vec::new(),
        };
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            if let Some(tensor) = line.strip_prefix("in ") {
                let (name, ty) = tensor.rsplit_once(' ').unwrap();
                let (dtype, shape) = parse_type(ty);
                case.tensors.push((name.to_owned(), dtype, shape));
                continue;
            }
            let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("header line {line:?}"));
            match key {
                "pass" => case.pass = value.to_owned(),
                "target" => case.target = Target::find(value).unwrap(),
                "shard-bytes" => case.shard_bytes = Some(value.parse().unwrap()),
                "scheme" => case.scheme = Some(value.to_owned()),
                "include" => case.include.push(value.to_owned()),
                "ignore" => case.ignore.push(value.to_owned()),
                "config" => case.config = serde_json::from_str(value).unwrap(),
                _ => panic!("header key {key}"),
            }
        }
        case
    }

    /// The plan after the passes up to the case's own, and that pass's notes; or the refusal.
    fn run(&self, last: Option<&str>) -> silicast::error::Result<(Plan, Vec<String>)> {
        let checkpoint = Checkpoint::from_parts(self.config.clone(), self.tensors.clone())?;
        let preset = self.target.preset(self.scheme.as_deref())?;
        let engine = self.target.engine()?;
        let recipe = ResolvedRecipe {
            target: self.target.id.clone(),
            engine: engine.name().to_owned(),
            scheme: preset.name.clone(),
            include: self.include.clone(),
            ignore: self.ignore.clone(),
            nan: NanPolicy::Error,
            allow_code_files: false,
            shard_bytes: self.shard_bytes.unwrap_or(self.target.shard_bytes),
            scale_rule: None,
        };
        let header = Header {
            target: recipe.target.clone(),
            engine: recipe.engine.clone(),
            scheme: recipe.scheme.clone(),
            family: checkpoint.family.id.to_owned(),
            recipe: recipe.to_json(),
        };
        let mut plan = Plan::identity(&checkpoint, header);
        let cx = Context { checkpoint: &checkpoint, target: self.target, preset, engine, recipe: &recipe };
        let ran = passes::run(&mut plan, &cx, last)?;
        let notes = ran.last().map(|r| r.outcome.notes.clone()).unwrap_or_default();
        Ok((plan, notes))
    }

    fn outcome(&self) -> String {
        match self.run(Some(&self.pass)) {
            Ok((plan, notes)) => {
                let mut text: String = printer::to_text(&plan)
                    .lines()
                    .filter(|l| ["out ", "drop ", "shard "].iter().any(|k| l.starts_with(k)))
                    .map(|l| format!("{l}\n"))
                    .collect();
                notes.iter().for_each(|note| text += &format!("note {note}\n"));
                text
            }
            Err(error) => {
                let message = error.to_string();
                assert!(!message.contains("this is a bug"), "{message}");
                format!("reject {} {}\n{message}\n", error.class().exit_code(), error.code())
            }
        }
    }
}

#[test]
fn every_case_gives_its_plan() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let list = |dir: &Path| {
        let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        paths
    };
    let mut wrong = Vec::new();
    for pass in passes::ALL.iter().map(|p| p.spec().id) {
        let cases = list(&root.join(pass));
        assert!(cases.len() >= 3, "{pass} has {} cases", cases.len());
        for path in cases {
            let text = fs::read_to_string(&path).unwrap();
            let (before, expected) = text.split_once("---\n").unwrap_or((&text, ""));
            let case = Case::parse(before);
            assert_eq!(case.pass, pass, "{}", path.display());
            let found = case.outcome();
            if found != expected && update {
                fs::write(&path, format!("{before}---\n{found}")).unwrap();
            } else if found != expected {
                wrong.push(format!("{}\n--- expected\n{expected}--- found\n{found}", path.display()));
            }
        }
    }
    let folders = list(&root).len();
    assert_eq!(folders, passes::ALL.len(), "a folder of cases for each pass");
    assert!(wrong.is_empty(), "{}\nUPDATE_EXPECT=1 rewrites the expectations", wrong.join("\n"));
}

/// A small placed plan with every kind of expression: quantized, with offset, decoded, widened, kept, dropped.
fn valid() -> Plan {
    let case = Case::parse(
        r#"target: ascend-910b
config: {"model_type": "deepseek_v3", "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
in model.layers.0.self_attn.kv_b_proj.weight f8_e4m3[256,128]
in model.layers.0.self_attn.kv_b_proj.weight_scale_inv f32[2,1]
in model.layers.0.self_attn.o_proj.weight f8_e4m3[200,128]
in model.layers.0.self_attn.o_proj.weight_scale_inv f32[2,1]
in model.layers.0.self_attn.rotary_emb.inv_freq bf16[32]
in model.norm.weight bf16[128]
"#,
    );
    let plan = case.run(None).unwrap().0;
    verify(&plan).unwrap();
    plan
}

fn at(plan: &Plan, name: &str) -> usize {
    plan.outputs.iter().position(|o| o.name.as_ref() == name).unwrap_or_else(|| panic!("no output {name}"))
}

const CODES: &str = "model.layers.0.self_attn.o_proj.weight";
const SCALES: &str = "model.layers.0.self_attn.o_proj.weight_scale";
const OFFSETS: &str = "model.layers.0.self_attn.o_proj.weight_offset";
const DECODED: &str = "model.layers.0.self_attn.kv_b_proj.weight";
const NORM: &str = "model.norm.weight";
const DROPPED: &str = "model.layers.0.self_attn.rotary_emb.inv_freq";

/// A way to break a plan, and what the verifier must say about which tensor.
type Break = (&'static str, &'static str, fn(&mut Plan));

fn output<'a>(plan: &'a mut Plan, name: &str) -> &'a mut Output {
    let i = at(plan, name);
    &mut plan.outputs[i]
}

const BREAKS: &[Break] = &[
    // 1. Types.
    ("reads source tensor number 99 of 6", NORM, |p| output(p, NORM).expr = Expr::Load(99)),
    ("declared as f32[128] but computed as bf16[128]", NORM, |p| output(p, NORM).ty.dtype = Dtype::F32),
    ("declared as bf16[64] but computed as bf16[128]", NORM, |p| output(p, NORM).ty.shape = [64].into()),
    ("declared as i8[128,200] but computed as i8[200,128]", CODES, |p| {
        output(p, CODES).ty.shape = [128, 200].into()
    }),
    ("needs a [4, 2] scale grid", DECODED, |p| {
        let Expr::Cast { value, .. } = &mut output(p, DECODED).expr else { panic!() };
        let Expr::Dequantize(Stored { scheme, .. }) = &mut **value else { panic!() };
        *scheme = "f8_e4m3:64x64:f32:given".parse().unwrap();
    }),
    ("of f8_e4m3 codes and f32 scales", DECODED, |p| {
        let Expr::Cast { value, .. } = &mut output(p, DECODED).expr else { panic!() };
        let Expr::Dequantize(Stored { scheme, .. }) = &mut **value else { panic!() };
        *scheme = "f8_e4m3:128x128:bf16:given".parse().unwrap();
    }),
    ("cast of f8_e4m3 to bf16", DECODED, |p| {
        output(p, DECODED).expr = Expr::Cast { value: Box::new(Expr::Load(0)), to: Dtype::BF16 };
    }),
    ("a f8_e4m3 tensor is no scale", NORM, |p| {
        output(p, NORM).expr = Expr::ScaleF32 { scale: 0, pow2: false }
    }),
    ("is no matrix", CODES, |p| {
        let scheme: Scheme = "i8:channel:f32:amax127".parse().unwrap();
        let value = Box::new(Expr::Load(5));
        output(p, CODES).expr = Expr::Quantize { part: Part::Codes, value, peers: Vec::new(), scheme };
    }),
    // 2. Names.
    ("two outputs have the same name", CODES, |p| {
        let twin = output(p, CODES).clone();
        let scales = output(p, SCALES).clone();
        p.outputs.extend([twin, scales]);
    }),
    // 3. Conservation.
    ("a source tensor is neither used nor dropped", DROPPED, |p| p.drops.clear()),
    ("a source tensor is neither used nor dropped", NORM, |p| {
        let i = at(p, NORM);
        p.outputs.remove(i);
    }),
    ("dropped, and also used or dropped again", NORM, |p| {
        p.drops.push(Dropped { source: 5, reason: "why".into() })
    }),
    ("dropped, and also used or dropped again", DROPPED, |p| {
        let again = p.drops[0].clone();
        p.drops.push(again);
    }),
    ("dropped without a reason", DROPPED, |p| p.drops[0].reason = "".into()),
    // 4. Fates.
    ("quantized and bitwise do not describe", NORM, |p| output(p, NORM).fate = Fate::Quantized),
    ("dropped and bitwise do not describe", NORM, |p| output(p, NORM).fate = Fate::Dropped),
    ("kept and rounding do not describe", NORM, |p| output(p, NORM).exactness = Exactness::Rounding),
    ("kept and lossy do not describe", CODES, |p| output(p, CODES).fate = Fate::Kept),
    ("quantized and bitwise do not describe", CODES, |p| output(p, CODES).exactness = Exactness::Bitwise),
    ("reencoded and lossy do not describe", DECODED, |p| output(p, DECODED).exactness = Exactness::Lossy),
    ("kept and rounding do not describe", DECODED, |p| output(p, DECODED).fate = Fate::Kept),
    // 5. Pairs.
    ("codes without scales", CODES, |p| {
        let i = at(p, SCALES);
        p.outputs.remove(i);
    }),
    ("scales without codes", SCALES, |p| {
        let i = at(p, CODES);
        p.outputs.remove(i);
    }),
    ("codes without scales", CODES, |p| {
        let Expr::Quantize { scheme, .. } = &mut output(p, SCALES).expr else { panic!() };
        *scheme = "i8:channel:f32:amax127".parse().unwrap();
    }),
    ("codes and scales lie in different shards", CODES, |p| {
        let second = p.shards[0].clone();
        p.shards.push(second);
        output(p, SCALES).place.as_mut().unwrap().shard = 1;
    }),
    // 6. Places.
    ("has no place in any shard", OFFSETS, |p| output(p, OFFSETS).place = None),
    ("has no place in any shard", NORM, |p| output(p, NORM).place.as_mut().unwrap().shard = 7),
    ("but the tensor before it ends at", CODES, |p| output(p, CODES).place.as_mut().unwrap().offset += 1),
    ("but the tensor before it ends at", OFFSETS, |p| p.shards[0].header += 8),
    ("the tensors end at byte", "quant_model_weights-00001-of-00001.safetensors", |p| p.shards[0].bytes += 1),
    ("the tensors end at byte", "quant_model_weights-00001-of-00001.safetensors", |p| p.shards[0].bytes -= 1),
];

#[test]
fn the_verifier_refuses_every_broken_invariant() {
    for (i, (says, tensor, damage)) in BREAKS.iter().enumerate() {
        let mut plan = valid();
        damage(&mut plan);
        let Err(Violation { tensor: found, what }) = verify(&plan) else {
            panic!("break {i} ({says}) is accepted")
        };
        assert!(
            what.contains(says) && found == *tensor,
            "break {i}: expected {says:?} of {tensor}, found {what:?} of {found}"
        );
    }
}

/// Whichever tensor is put on whichever other, the overlap or the hole it leaves is found.
#[test]
fn overlapping_places_are_refused() {
    let plan = valid();
    for i in 0..plan.outputs.len() {
        for j in (0..plan.outputs.len()).filter(|j| *j != i) {
            let mut broken = plan.clone();
            broken.outputs[i].place = plan.outputs[j].place;
            assert!(verify(&broken).is_err(), "{} lies on {}", plan.outputs[i].name, plan.outputs[j].name);
        }
    }
    // A type cannot lie about its size either.
    let mut broken = plan;
    let i = at(&broken, OFFSETS);
    let ty = Ty { dtype: Dtype::F32, shape: [400, 1].into() };
    (broken.outputs[i].ty, broken.outputs[i].expr) = (ty.clone(), Expr::zeros(ty));
    assert!(verify(&broken).unwrap_err().what.contains("ends at"));
}
