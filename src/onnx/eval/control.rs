//! Control flow, sequences and optionals.

use super::call::{Call, Outcome, axis, one};
use super::shape::{concat, part};
use super::table::{Operator, native};
use super::tensor::{Data, Tensor, Value, bad};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[
    native("If", 1, branch),
    native("Loop", 1, iterate),
    native("Scan", 8, scan),
    native("SequenceConstruct", 11, |c| {
        Ok(vec![Value::Sequence(c.inputs.iter().flatten().cloned().collect())])
    }),
    native("SequenceEmpty", 11, |_| Ok(vec![Value::Sequence(Vec::new())])),
    native("SequenceAt", 11, |c| {
        let items = c.sequence(0)?;
        let at = axis(c.tensor(1)?.to_i64()?, items.len())?;
        Ok(vec![items[at].clone()])
    }),
    native("SequenceLength", 11, |c| one(Tensor::scalar(Data::I64(vec![c.sequence(0)?.len() as i64]))?)),
    native("SequenceErase", 11, |c| {
        let mut items = c.sequence(0)?.to_vec();
        let at = match c.optional(1)? {
            Some(at) => at.to_i64()?,
            None => -1,
        };
        items.remove(axis(at, items.len())?);
        Ok(vec![Value::Sequence(items)])
    }),
    native("SequenceInsert", 11, |c| {
        let mut items = c.sequence(0)?.to_vec();
        let at = match c.optional(2)? {
            // One more place than items: behind the last.
            Some(at) => {
                let at = at.to_i64()?;
                let at = if at < 0 { at.saturating_add(items.len() as i64) } else { at };
                axis(at, items.len() + 1)?
            }
            None => items.len(),
        };
        items.insert(at, c.value(1)?.clone());
        Ok(vec![Value::Sequence(items)])
    }),
    native("SequenceMap", 17, sequence_map),
    native("ConcatFromSequence", 11, concat_sequence),
    native("SplitToSequence", 11, split_sequence),
    native("Optional", 15, |c| Ok(vec![c.inputs.first().cloned().flatten().unwrap_or(Value::Nothing)])),
    native("OptionalHasElement", 15, |c| {
        let has = !matches!(c.inputs.first().and_then(Option::as_ref), None | Some(Value::Nothing));
        one(Tensor::scalar(Data::Bool(vec![has]))?)
    }),
    native("OptionalGetElement", 15, |c| match c.value(0)? {
        Value::Nothing => Err(bad("the optional holds nothing")),
        value => Ok(vec![value.clone()]),
    }),
];

fn truth(value: &Value) -> Result<bool> {
    match value {
        Value::Tensor(t) if t.len() == 1 => Ok(t.to_i64s()?.first().is_some_and(|v| *v != 0)),
        _ => Err(bad("a condition must be one BOOL")),
    }
}

fn branch(call: &Call<'_>) -> Outcome {
    let name = if truth(call.value(0)?)? { "then_branch" } else { "else_branch" };
    call.run(call.graph(name)?, Vec::new())
}

fn iterate(call: &Call<'_>) -> Outcome {
    let body = call.graph("body")?;
    let most = call.optional(0)?.map(Tensor::to_i64).transpose()?;
    let mut go = match call.inputs.get(1) {
        Some(Some(value)) if !matches!(value, Value::Nothing) => truth(value)?,
        _ => true,
    };
    let mut state: Vec<Value> =
        call.inputs.iter().skip(2).map(|v| v.clone().unwrap_or(Value::Nothing)).collect();
    let carried = state.len();
    let scans = body.output.len().checked_sub(1 + carried).ok_or_else(|| {
        bad("the loop's body has too few outputs").expected(1 + carried).found(body.output.len())
    })?;
    let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); scans];
    let mut i = 0i64;
    while go && most.is_none_or(|most| i < most) {
        let mut inputs = vec![
            Value::Tensor(Tensor::scalar(Data::I64(vec![i]))?),
            Value::Tensor(Tensor::scalar(Data::Bool(vec![go]))?),
        ];
        inputs.append(&mut state);
        let mut outputs = call.run(body, inputs)?.into_iter();
        go = truth(&outputs.next().unwrap_or(Value::Nothing))?;
        state = outputs.by_ref().take(carried).collect();
        for (list, value) in collected.iter_mut().zip(outputs) {
            match value {
                Value::Tensor(t) => list.push(t),
                _ => return Err(bad("a scan output must be a tensor")),
            }
        }
        i = i.saturating_add(1);
    }
    for (list, info) in collected.iter().zip(body.output.iter().skip(1 + carried)) {
        state.push(Value::Tensor(match list.is_empty() {
            false => stack(list, 0, false)?,
            // No iteration: an empty tensor of the declared type and shape.
            true => {
                let (element, dims) = crate::onnx::model::declared(info).unwrap_or((None, None));
                let element = element.unwrap_or(crate::onnx::element::Element::F32);
                let rest = dims.unwrap_or_default().into_iter().map(|d| d.unwrap_or(0).max(0) as usize);
                Tensor::zeros(element, &std::iter::once(0).chain(rest).collect::<Vec<_>>())?
            }
        }));
    }
    Ok(state)
}

/// Tensors of one shape joined along a new axis.
fn stack(list: &[Tensor], at: usize, reverse: bool) -> Result<Tensor> {
    let wider = |t: &Tensor| {
        let mut shape = t.shape.clone();
        if at > shape.len() {
            return Err(bad("an axis is out of range"));
        }
        shape.insert(at, 1);
        t.reshaped(shape)
    };
    let mut wide: Vec<Tensor> = list.iter().map(wider).collect::<Result<_>>()?;
    if reverse {
        wide.reverse();
    }
    concat(&wide.iter().collect::<Vec<_>>(), at)
}

fn slice_at(x: &Tensor, at: usize, i: usize) -> Result<Tensor> {
    let mut shape = x.shape.clone();
    shape.remove(at);
    part(x, at, i, 1)?.reshaped(shape)
}

fn scan(call: &Call<'_>) -> Outcome {
    let body = call.graph("body")?;
    let inputs = usize::try_from(call.int("num_scan_inputs", 0)).unwrap_or(0);
    let mut tensors: Vec<Tensor> = (usize::from(call.opset < 9)..call.inputs.len())
        .map(|i| call.tensor(i).cloned())
        .collect::<Result<_>>()?;
    if call.opset < 9 {
        return scan_batches(call, inputs, &tensors);
    }
    let states = tensors.len().checked_sub(inputs).ok_or_else(|| bad("num_scan_inputs is too large"))?;
    let scanned = tensors.split_off(states);
    let list = |name: &str| call.ints(name).map(<[i64]>::to_vec).unwrap_or_default();
    let (axes_in, axes_out) = (list("scan_input_axes"), list("scan_output_axes"));
    let (turn_in, turn_out) = (list("scan_input_directions"), list("scan_output_directions"));
    let at: Vec<usize> = scanned
        .iter()
        .enumerate()
        .map(|(i, t)| axis(axes_in.get(i).copied().unwrap_or(0), t.rank()))
        .collect::<Result<_>>()?;
    let steps = scanned.first().map_or(0, |t| t.shape[at[0]]);
    if scanned.iter().zip(&at).any(|(t, a)| t.shape[*a] != steps) {
        return Err(bad("scan inputs have different lengths"));
    }
    let (state, collected) = scan_steps(call, body, tensors, &scanned, &at, &turn_in, steps)?;
    let mut outputs: Vec<Value> = state.into_iter().map(Value::Tensor).collect();
    for (i, list) in collected.iter().enumerate() {
        let rank = list.first().map_or(0, Tensor::rank) + 1;
        let at = axis(axes_out.get(i).copied().unwrap_or(0), rank)?;
        outputs.push(Value::Tensor(stack(list, at, turn_out.get(i) == Some(&1))?));
    }
    Ok(outputs)
}

fn scan_steps(
    call: &Call<'_>,
    body: &crate::onnx_protobuf::GraphProto,
    mut state: Vec<Tensor>,
    scanned: &[Tensor],
    at: &[usize],
    turn: &[i64],
    steps: usize,
) -> Result<(Vec<Tensor>, Vec<Vec<Tensor>>)> {
    let states = state.len();
    let mut collected: Vec<Vec<Tensor>> = vec![Vec::new(); body.output.len().saturating_sub(states)];
    for s in 0..steps {
        let mut inputs: Vec<Value> = state.drain(..).map(Value::Tensor).collect();
        for (i, t) in scanned.iter().enumerate() {
            let s = if turn.get(i) == Some(&1) { steps - 1 - s } else { s };
            inputs.push(Value::Tensor(slice_at(t, at[i], s)?));
        }
        for (i, value) in call.run(body, inputs)?.into_iter().enumerate() {
            let Value::Tensor(t) = value else { return Err(bad("a scan takes and gives tensors")) };
            if i < states { state.push(t) } else { collected[i - states].push(t) }
        }
    }
    Ok((state, collected))
}

/// Version 8: everything has a batch dimension in front, and sequences one behind it.
fn scan_batches(call: &Call<'_>, inputs: usize, tensors: &[Tensor]) -> Outcome {
    let body = call.graph("body")?;
    let states = tensors.len().checked_sub(inputs).ok_or_else(|| bad("num_scan_inputs is too large"))?;
    let turn = call.ints("directions").map(<[i64]>::to_vec).unwrap_or_default();
    if tensors.iter().any(|t| t.rank() == 0) || tensors[states..].iter().any(|t| t.rank() < 2) {
        return Err(bad("an input has no batch or sequence dimension"));
    }
    let batch = tensors.first().map_or(0, |t| t.shape[0]);
    if tensors.iter().any(|t| t.shape[0] != batch) {
        return Err(bad("inputs have different batch sizes"));
    }
    let mut columns: Vec<Vec<Tensor>> = vec![Vec::new(); body.output.len()];
    for b in 0..batch {
        let rows: Vec<Tensor> = tensors.iter().map(|t| slice_at(t, 0, b)).collect::<Result<_>>()?;
        let (state, scanned) = rows.split_at(states);
        let steps = scanned.first().map_or(0, |t| t.shape[0]);
        if scanned.iter().any(|t| t.shape[0] != steps) {
            return Err(bad("scan inputs have different lengths"));
        }
        let (state, collected) =
            scan_steps(call, body, state.to_vec(), scanned, &vec![0; inputs], &turn, steps)?;
        let lists = collected.iter().map(|list| stack(list, 0, false)).collect::<Result<Vec<_>>>()?;
        columns.iter_mut().zip(state.into_iter().chain(lists)).for_each(|(column, t)| column.push(t));
    }
    columns.iter().map(|list| stack(list, 0, false).map(Value::Tensor)).collect()
}

fn sequence_map(call: &Call<'_>) -> Outcome {
    let body = call.graph("body")?;
    let first = call.sequence(0)?;
    let mut out: Vec<Vec<Value>> = vec![Vec::new(); body.output.len()];
    for i in 0..first.len() {
        let mut inputs = Vec::with_capacity(call.inputs.len());
        for k in 0..call.inputs.len() {
            inputs.push(match call.value(k)? {
                Value::Sequence(items) => {
                    items.get(i).cloned().ok_or_else(|| bad("sequences have different lengths"))?
                }
                other => other.clone(),
            });
        }
        for (list, value) in out.iter_mut().zip(call.run(body, inputs)?) {
            list.push(value);
        }
    }
    Ok(out.into_iter().map(Value::Sequence).collect())
}

fn items(call: &Call<'_>) -> Result<Vec<Tensor>> {
    call.sequence(0)?
        .iter()
        .map(|v| match v {
            Value::Tensor(t) => Ok(t.clone()),
            _ => Err(bad("the sequence must hold tensors")),
        })
        .collect()
}

fn concat_sequence(call: &Call<'_>) -> Outcome {
    let list = items(call)?;
    let rank = list.first().map_or(0, Tensor::rank);
    if call.flag("new_axis", false) {
        return one(stack(&list, call.axis(0, rank + 1)?, false)?);
    }
    one(concat(&list.iter().collect::<Vec<_>>(), call.axis(0, rank)?)?)
}

fn split_sequence(call: &Call<'_>) -> Outcome {
    let x = call.tensor(0)?;
    let at = call.axis(0, x.rank())?;
    let n = x.shape[at];
    let (lens, single) = match call.optional(1)? {
        None => (vec![1; n], true),
        Some(split) if split.rank() == 0 => {
            let each = usize::try_from(split.to_i64()?).ok().filter(|e| *e > 0);
            let each = each.ok_or_else(|| bad("the length of a part must be positive"))?;
            ((0..n).step_by(each).map(|s| each.min(n - s)).collect(), false)
        }
        Some(split) => (super::call::sizes(&split.to_i64s()?)?, false),
    };
    if lens.iter().try_fold(0usize, |s, l| s.checked_add(*l)) != Some(n) {
        return Err(bad("the parts do not fill the axis").expected(n).found(format!("{lens:?}")));
    }
    let drop = single && !call.flag("keepdims", true);
    let mut start = 0;
    let mut list = Vec::with_capacity(lens.len());
    for len in lens {
        list.push(Value::Tensor(if drop { slice_at(x, at, start)? } else { part(x, at, start, len)? }));
        start += len;
    }
    Ok(vec![Value::Sequence(list)])
}
