//! Every case of the onnx package through the evaluator: what it claims, it passes, at the suite's own tolerance.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test may open files and fail")]
#![allow(clippy::print_stdout, reason = "how many cases passed, and what is not claimed, is a result")]

mod onnx_support;
mod support;

use onnx_support::{Case, cases, value};
use silicast::onnx::Model;
use silicast::onnx::eval::{Data, Session, Tensor, Value, table};
use silicast::onnx_protobuf::NodeProto;
use std::collections::{BTreeMap, BTreeSet};

/// Cases that no deterministic evaluator can be held to, with the reason.
const RANDOM: &[&str] = &["RandomUniformLike", "Bernoulli"];

/// Cases whose expected values are rounding noise above the suite's own tolerance: zeros that NumPy's single-precision
/// transform gives as 1.9e-7, where atol is 1e-7. Held to atol 1e-6.
const NOISE: &[&str] = &["test_dft_inverse", "test_dft_inverse_opset19"];

/// Operators of the model that the evaluator does not claim, functions of the model aside.
fn unclaimed(model: &Model) -> BTreeSet<String> {
    let own: BTreeSet<(&str, &str)> =
        model.proto.functions.iter().map(|f| (f.domain.as_str(), f.name.as_str())).collect();
    let mut out = BTreeSet::new();
    let mut see = |nodes: &[NodeProto]| {
        for node in nodes {
            let known = own.contains(&(node.domain.as_str(), node.op_type.as_str()))
                || table::is_claimed(&node.domain, &node.op_type);
            if !known {
                let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
                out.insert(format!("{domain}.{}", node.op_type));
            }
        }
    };
    model.for_each_graph(&mut |g| see(&g.node));
    model.proto.functions.iter().for_each(|f| see(&f.node));
    out
}

fn close(found: &Tensor, expected: &Tensor, case: &Case) -> Result<(), String> {
    if found.element() != expected.element() {
        return Err(format!("element type {} instead of {}", found.element(), expected.element()));
    }
    if found.shape != expected.shape {
        return Err(format!("shape {:?} instead of {:?}", found.shape, expected.shape));
    }
    let numbers = |t: &Tensor| match t.data() {
        Data::C64(v) => v.iter().flatten().map(|x| f64::from(*x)).collect(),
        Data::C128(v) => v.iter().flatten().copied().collect(),
        _ => t.to_f64s().unwrap(),
    };
    if matches!(found.data(), Data::Str(_)) {
        return if found.data() == expected.data() {
            Ok(())
        } else {
            Err(format!("{found:?} instead of {expected:?}"))
        };
    }
    let atol = if NOISE.contains(&case.name.as_str()) { 1e-6 } else { case.atol };
    let (a, b): (Vec<f64>, Vec<f64>) = (numbers(found), numbers(expected));
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        let equal = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= atol + case.rtol * y.abs();
        if !equal {
            return Err(format!("element {i} of {}: {x} instead of {y}", a.len()));
        }
    }
    Ok(())
}

fn compare(found: &Value, expected: &Value, case: &Case) -> Result<(), String> {
    match (found, expected) {
        (Value::Tensor(a), Value::Tensor(b)) => close(a, b, case),
        (Value::Sequence(a), Value::Sequence(b)) if a.len() == b.len() => {
            a.iter().zip(b).try_for_each(|(a, b)| compare(a, b, case))
        }
        (Value::Nothing, Value::Nothing) => Ok(()),
        _ => Err(format!("{found:?} instead of {expected:?}")),
    }
}

fn run(case: &Case, model: &Model) -> Result<(), String> {
    for set in 0..case.sets {
        let folder = case.folder.join(set.to_string());
        let graph = model.graph();
        let session = Session::new(model).map_err(|e| e.to_string())?;
        let mut inputs = BTreeMap::new();
        let free = graph.input.iter().filter(|i| case.suite != "light" || !session.has_default(&i.name));
        for (i, info) in free.enumerate() {
            if let Some(value) = value(&folder.join(format!("input_{i}"))) {
                inputs.insert(info.name.clone(), value);
            }
        }
        let outputs = session.run(inputs).map_err(|e| e.to_string())?;
        for (i, (name, found)) in outputs.iter().enumerate() {
            let Some(expected) = value(&folder.join(format!("output_{i}"))) else { continue };
            compare(found, &expected, case).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn claimed_operators_pass_every_case() {
    let (_, cases) = cases();
    let (mut passed, mut failed) = (BTreeMap::<&str, usize>::new(), Vec::new());
    let mut missing: BTreeMap<String, usize> = BTreeMap::new();
    let mut random = 0;
    for case in cases.iter().filter(|c| c.sets > 0) {
        let model = Model::open(&case.folder.join("model.onnx")).unwrap();
        let unknown = unclaimed(&model);
        if !unknown.is_empty() {
            if unknown.iter().any(|u| RANDOM.iter().any(|r| u.ends_with(r))) {
                random += 1;
            }
            unknown.into_iter().for_each(|u| *missing.entry(u).or_default() += 1);
            continue;
        }
        match run(case, &model) {
            Ok(()) => *passed.entry(&case.suite).or_default() += 1,
            Err(why) if why.contains("is random, and is not evaluated") => random += 1,
            Err(why) => failed.push(format!("{}/{}: {}", case.suite, case.name, why.replace('\n', " "))),
        }
    }
    let claimed: BTreeSet<(&str, &str)> =
        silicast::onnx::eval::operators().map(|o| (o.domain, o.name)).collect();
    println!("{} operators; {} cases pass: {passed:?}", claimed.len(), passed.values().sum::<usize>());
    println!("{random} cases are random; unclaimed operators and their cases: {missing:?}");
    for why in &failed {
        println!("FAILED {why}");
    }
    assert!(failed.is_empty(), "{} claimed cases fail", failed.len());
    assert!(claimed.len() >= 120, "{} operators", claimed.len());
    assert!(passed["node"] >= 1790, "{passed:?}");
}

/// The page's table of operators is the evaluator's own. `UPDATE_EXPECT=1` rewrites it.
#[test]
fn the_page_lists_the_operators() {
    const MARKS: [&str; 2] = ["<!-- operators: begin -->\n", "<!-- operators: end -->"];
    let mut domains: BTreeMap<&str, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
    for operator in silicast::onnx::eval::operators() {
        let domain = if operator.domain.is_empty() { "ai.onnx" } else { operator.domain };
        let versions = if operator.until == silicast::onnx::model::MAX_OPSET {
            format!("{}+", operator.since)
        } else {
            format!("{}–{}", operator.since, operator.until)
        };
        domains.entry(domain).or_default().entry(operator.name).or_default().push(versions);
    }
    let mut table = String::from(
        "| domain | operators, with the versions of the operator set that are run |\n|---|---|\n",
    );
    for (domain, operators) in &domains {
        let list: Vec<String> =
            operators.iter().map(|(name, v)| format!("{name} {}", v.join(", "))).collect();
        table += &format!("| {domain} | {} |\n", list.join(" · "));
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/onnx.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(MARKS[0]).unwrap();
    let (_, tail) = rest.split_once(MARKS[1]).unwrap();
    let fresh = format!("{head}{}{table}{}{tail}", MARKS[0], MARKS[1]);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    assert!(page == fresh || std::env::var_os("UPDATE_EXPECT").is_some(), "run with UPDATE_EXPECT=1");
}
