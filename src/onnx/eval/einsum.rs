//! Einsum: diagonals, then one product of matrices per operand, then a transposition.

use super::call::{Call, Outcome, one};
use super::matmul::matmul;
use super::reduce::{Kind, reduced};
use super::table::{Operator, wide};
use super::tensor::{Tensor, bad, strides};
use crate::error::Result;

pub(super) const OPERATORS: &[Operator] = &[wide("Einsum", 12, einsum)];

/// A tensor whose dimensions have labels. Letters are their code points; dimensions of an ellipsis count from
/// [`ELLIPSIS`] on, the last one first, so that operands of different rank align at the end.
struct Labelled {
    tensor: Tensor,
    labels: Vec<u32>,
}

const ELLIPSIS: u32 = 1 << 24;

fn labels(term: &str, rank: Option<usize>) -> Result<Vec<u32>> {
    let wrong = || bad("the equation is wrong").found(term);
    let (head, tail) = match term.split_once("...") {
        Some((head, tail)) => (head, Some(tail)),
        None => (term, None),
    };
    let letters = |t: &str| -> Result<Vec<u32>> {
        t.chars().map(|c| if c.is_ascii_alphabetic() { Ok(u32::from(c)) } else { Err(wrong()) }).collect()
    };
    let mut out = letters(head)?;
    if let Some(tail) = tail {
        let tail = letters(tail)?;
        let rank = rank.unwrap_or(out.len() + tail.len());
        let dots = rank.checked_sub(out.len() + tail.len()).ok_or_else(wrong)?;
        out.extend((0..dots as u32).rev().map(|d| ELLIPSIS + d));
        out.extend(tail);
    }
    match rank {
        Some(rank) if rank != out.len() => Err(wrong()),
        _ => Ok(out),
    }
}

/// Repeated labels of one operand are its diagonal.
fn diagonal(x: Labelled) -> Result<Labelled> {
    let steps = strides(&x.tensor.shape);
    let mut labels: Vec<u32> = Vec::new();
    let mut shape: Vec<usize> = Vec::new();
    let mut sums: Vec<isize> = Vec::new();
    for (d, label) in x.labels.iter().enumerate() {
        match labels.iter().position(|l| l == label) {
            Some(at) if shape[at] == x.tensor.shape[d] => sums[at] += steps[d] as isize,
            Some(_) => return Err(bad("a repeated label has two sizes")),
            None => {
                labels.push(*label);
                shape.push(x.tensor.shape[d]);
                sums.push(steps[d] as isize);
            }
        }
    }
    Ok(Labelled { tensor: x.tensor.strided(&shape, &sums, 0)?, labels })
}

/// Sums away the labels that nobody else needs.
fn only(x: Labelled, needed: &dyn Fn(u32) -> bool) -> Result<Labelled> {
    let drop: Vec<usize> = (0..x.labels.len()).filter(|d| !needed(x.labels[*d])).collect();
    if drop.is_empty() {
        return Ok(x);
    }
    let labels = x.labels.iter().copied().filter(|l| needed(*l)).collect();
    Ok(Labelled { tensor: reduced(&x.tensor, Kind::Sum, Some(&drop), false)?, labels })
}

fn contract(a: Labelled, b: Labelled, later: &dyn Fn(u32) -> bool) -> Result<Labelled> {
    let a = only(a, &|l| later(l) || b.labels.contains(&l))?;
    let b = only(b, &|l| later(l) || a.labels.contains(&l))?;
    // A dimension of size 1 against a bigger one is broadcast: it moves to the bigger side alone.
    let size = |x: &Labelled, l: u32| x.labels.iter().position(|m| *m == l).map(|d| x.tensor.shape[d]);
    let both: Vec<u32> = a.labels.iter().copied().filter(|l| b.labels.contains(l)).collect();
    let squeeze = |x: Labelled, other: &dyn Fn(u32) -> Option<usize>| -> Result<Labelled> {
        let gone: Vec<usize> = (0..x.labels.len())
            .filter(|d| x.tensor.shape[*d] == 1 && other(x.labels[*d]).is_some_and(|n| n != 1))
            .collect();
        let stay = (0..x.labels.len()).filter(|d| !gone.contains(d));
        let shape: Vec<usize> = stay.clone().map(|d| x.tensor.shape[d]).collect();
        let labels = stay.map(|d| x.labels[d]).collect();
        Ok(Labelled { tensor: x.tensor.reshaped(shape)?, labels })
    };
    let sizes_b: Vec<(u32, Option<usize>)> = both.iter().map(|l| (*l, size(&b, *l))).collect();
    let sizes_a: Vec<(u32, Option<usize>)> = both.iter().map(|l| (*l, size(&a, *l))).collect();
    let find =
        |list: &[(u32, Option<usize>)], l: u32| list.iter().find(|(m, _)| *m == l).and_then(|(_, n)| *n);
    let a = only(squeeze(a, &|l| find(&sizes_b, l))?, &|l| later(l) || b.labels.contains(&l))?;
    let b = only(squeeze(b, &|l| find(&sizes_a, l))?, &|l| later(l) || a.labels.contains(&l))?;
    let shared: Vec<u32> = a.labels.iter().copied().filter(|l| b.labels.contains(l)).collect();
    for l in &shared {
        if size(&a, *l) != size(&b, *l) {
            return Err(bad("a label has two sizes")
                .expected(size(&a, *l).unwrap_or(0))
                .found(size(&b, *l).unwrap_or(0)));
        }
    }
    let batch: Vec<u32> = shared.iter().copied().filter(|l| later(*l)).collect();
    let summed: Vec<u32> = shared.iter().copied().filter(|l| !later(*l)).collect();
    let left: Vec<u32> = a.labels.iter().copied().filter(|l| !shared.contains(l)).collect();
    let right: Vec<u32> = b.labels.iter().copied().filter(|l| !shared.contains(l)).collect();
    let extent = |x: &Labelled, ls: &[u32]| ls.iter().filter_map(|l| size(x, *l)).product::<usize>();
    let [nb, nl, ns, nr] = [extent(&a, &batch), extent(&a, &left), extent(&a, &summed), extent(&b, &right)];
    let matrix = |x: &Labelled, order: [&[u32]; 3], shape: [usize; 3]| -> Result<Tensor> {
        let order: Vec<usize> =
            order.concat().iter().filter_map(|l| x.labels.iter().position(|m| m == l)).collect();
        x.tensor.transposed(&order)?.reshaped(shape)
    };
    let x = matrix(&a, [&batch, &left, &summed], [nb, nl, ns])?;
    let y = matrix(&b, [&batch, &summed, &right], [nb, ns, nr])?;
    let mut shape: Vec<usize> = Vec::new();
    shape.extend(batch.iter().chain(&left).filter_map(|l| size(&a, *l)));
    shape.extend(right.iter().filter_map(|l| size(&b, *l)));
    let labels = batch.iter().chain(&left).chain(&right).copied().collect();
    Ok(Labelled { tensor: matmul(&x, &y)?.reshaped(shape)?, labels })
}

fn einsum(call: &Call<'_>) -> Outcome {
    let equation: String = call.text("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (terms, output) = match equation.split_once("->") {
        Some((terms, output)) => (terms.to_owned(), Some(output.to_owned())),
        None => (equation.clone(), None),
    };
    let terms: Vec<&str> = terms.split(',').collect();
    let tensors = call.tensors()?;
    if terms.len() != tensors.len() {
        return Err(bad("the equation has another number of operands")
            .expected(tensors.len())
            .found(equation));
    }
    let mut operands = Vec::with_capacity(terms.len());
    for (term, tensor) in terms.iter().zip(&tensors) {
        let labels = labels(term, Some(tensor.rank()))?;
        operands.push(diagonal(Labelled { tensor: (*tensor).clone(), labels })?);
    }
    let mut all: Vec<u32> = operands.iter().flat_map(|o| o.labels.iter().copied()).collect();
    let mut dots: Vec<u32> = all.iter().copied().filter(|l| *l >= ELLIPSIS).collect();
    dots.sort_unstable_by(|a, b| b.cmp(a));
    dots.dedup();
    let wanted: Vec<u32> = match output {
        Some(output) => match output.split_once("...") {
            Some((head, tail)) => [labels(head, None)?, dots.clone(), labels(tail, None)?].concat(),
            None => labels(&output, None)?,
        },
        // Letters that appear once, in alphabetical order, behind the ellipsis.
        None => {
            all.sort_unstable();
            let once = all.iter().copied().filter(|l| {
                *l < ELLIPSIS
                    && terms.iter().flat_map(|t| t.chars()).filter(|c| u32::from(*c) == *l).count() == 1
            });
            dots.iter().copied().chain(once).collect()
        }
    };
    let mut rest = operands.into_iter();
    let mut acc = rest.next().ok_or_else(|| bad("at least one operand is needed"))?;
    let mut rest: Vec<Labelled> = rest.collect();
    while !rest.is_empty() {
        let next = rest.remove(0);
        let later = |l: u32| wanted.contains(&l) || rest.iter().any(|o| o.labels.contains(&l));
        acc = contract(acc, next, &later)?;
    }
    let acc = only(acc, &|l| wanted.contains(&l))?;
    let order: Option<Vec<usize>> = wanted.iter().map(|l| acc.labels.iter().position(|m| m == l)).collect();
    let order = order.ok_or_else(|| bad("the output has a label that no operand has"))?;
    one(acc.tensor.transposed(&order)?)
}
