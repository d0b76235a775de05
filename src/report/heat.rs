//! Signal-to-noise ratio by layer and role, as a grid of coloured cells.

use super::model::TensorRow;
use super::summary::{Summary, exact, median};
use super::text;
use std::collections::{BTreeMap, BTreeSet};

/// Viridis without its darkest tenth, which a dark page would swallow: perceptually uniform, and its order is the same
/// to every kind of colour vision.
const VIRIDIS: [&str; 11] = [
    "#472d7b", "#414487", "#38598c", "#2f6c8e", "#287d8e", "#21918c", "#22a884", "#44bf70", "#7ad151",
    "#bddf26", "#fde725",
];

/// Layers and roles that a map shows. No model comes near; a forged one may.
const MOST_LAYERS: usize = 160;
const MOST_ROLES: usize = 40;

/// Classes of decibels, each with a colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    /// Lower edge of the second class; the first takes all below.
    low: f64,
    step: f64,
    classes: usize,
}

impl Scale {
    /// Classes for ascending `values` with round edges, set by their bulk so that one outlier does not flatten the
    /// rest.
    pub(super) fn of(values: &[f64]) -> Self {
        let at = |share: f64| values.get(((values.len().max(1) - 1) as f64 * share) as usize).copied();
        let (low, high) = (at(0.01).unwrap_or(0.0), at(0.99).unwrap_or(0.0));
        for step in [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0] {
            let (first, last) = ((low / step).ceil(), (high / step).floor());
            if last - first <= (VIRIDIS.len() - 2) as f64 {
                // At least five classes, so that a spread of half a decibel does not look like a cliff.
                let classes = (last - first + 2.0).max(5.0);
                let first = last + 2.0 - classes;
                return Self { low: first * step, step, classes: classes as usize };
            }
        }
        Self { low: 0.0, step: 100.0, classes: 5 }
    }

    /// Number of classes.
    pub(super) fn classes(&self) -> usize {
        self.classes
    }

    /// The class of a value, 0 for the lowest.
    pub(super) fn class(&self, db: f64) -> usize {
        (((db - self.low) / self.step).floor() + 1.0).clamp(0.0, (self.classes - 1) as f64) as usize
    }

    /// The edge below class `class + 1`.
    pub(super) fn edge(&self, class: usize) -> f64 {
        self.low + self.step * class as f64
    }

    /// The colour of a class.
    pub(super) fn colour(&self, class: usize) -> &'static str {
        VIRIDIS[class * (VIRIDIS.len() - 1) / (self.classes - 1)]
    }

    /// Whether text on a class has to be dark.
    pub(super) fn light(&self, class: usize) -> bool {
        class * (VIRIDIS.len() - 1) / (self.classes - 1) >= 6
    }
}

/// One role in one layer.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    /// No such tensor, or not measured.
    None,
    /// Nothing differs.
    Exact,
    /// Decibels.
    Measured {
        db: f64,
        failed: bool,
        /// Tensors that the cell stands for.
        of: usize,
    },
}

/// A role of the map; experts have two, their minimum and their median.
pub(super) struct Row {
    pub(super) label: String,
    pub(super) statistic: &'static str,
    /// A cell per layer.
    pub(super) cells: Vec<Cell>,
}

/// The map.
pub(super) struct HeatMap {
    pub(super) layers: Vec<u32>,
    pub(super) rows: Vec<Row>,
    /// Layers or roles that were left out.
    pub(super) left_out: bool,
    pub(super) scale: Scale,
}

/// The map of a report; `None` where no tensor of a layer has a ratio.
pub(super) fn of(summary: &Summary<'_>, scale: Scale) -> Option<HeatMap> {
    let mut roles: Vec<(&str, BTreeMap<u32, Vec<&TensorRow>>)> = Vec::new();
    for class in &summary.classes {
        for row in &class.tensors {
            let Some(layer) = row.layer.filter(|_| row.sqnr_db.is_some() || exact(row)) else { continue };
            let at = roles.iter().position(|(label, _)| *label == class.label).unwrap_or(roles.len());
            if at == roles.len() {
                roles.push((&class.label, BTreeMap::new()));
            }
            roles[at].1.entry(layer).or_default().push(row);
        }
    }
    // A role that is exact everywhere, as norms are, says nothing here.
    roles.retain(|(_, layers)| layers.values().flatten().any(|row| row.sqnr_db.is_some()));
    let layers: BTreeSet<u32> = roles.iter().flat_map(|(_, layers)| layers.keys().copied()).collect();
    if layers.is_empty() {
        return None;
    }
    let left_out = layers.len() > MOST_LAYERS || roles.len() > MOST_ROLES;
    let layers: Vec<u32> = layers.into_iter().take(MOST_LAYERS).collect();
    roles.truncate(MOST_ROLES);

    let mut rows = Vec::new();
    for (label, by_layer) in &roles {
        let experts = by_layer.values().flatten().any(|row| row.expert.is_some());
        let statistics: &[&'static str] = if experts { &["min", "median"] } else { &[""] };
        let label = text::clip(label, 24).into_owned();
        for statistic in statistics {
            let cells = layers.iter().map(|layer| cell(summary, by_layer.get(layer), *statistic == "median"));
            rows.push(Row { label: label.clone(), statistic, cells: cells.collect() });
        }
    }
    Some(HeatMap { layers, rows, left_out, scale })
}

fn cell(summary: &Summary<'_>, tensors: Option<&Vec<&TensorRow>>, of_median: bool) -> Cell {
    let Some(tensors) = tensors else { return Cell::None };
    let mut values: Vec<f64> = tensors.iter().filter_map(|row| row.sqnr_db).collect();
    values.sort_by(f64::total_cmp);
    let middle = median(&values).filter(|_| of_median);
    match middle.or(values.first().copied()) {
        Some(db) => Cell::Measured {
            db,
            failed: !of_median && tensors.iter().any(|row| summary.tensor_failed(&row.name)),
            of: values.len(),
        },
        None => Cell::Exact,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_edges_and_outliers_fall_into_the_first_class() {
        let mut values: Vec<f64> = (0..1000).map(|i| 36.2 + 0.01 * f64::from(i)).collect();
        values.insert(0, -3.0);
        let scale = Scale::of(&values);
        assert_eq!((scale.low, scale.step, scale.classes), (37.0, 1.0, 11));
        assert_eq!(scale.class(-3.0), 0);
        assert_eq!(scale.class(36.99), 0);
        assert_eq!(scale.class(37.0), 1);
        assert_eq!(scale.class(200.0), 10);
        assert_eq!(scale.colour(0), VIRIDIS[0]);
        assert_eq!(scale.colour(10), VIRIDIS[10]);
        assert_eq!(scale.edge(0), 37.0);
    }

    #[test]
    fn narrow_and_empty_data_have_a_scale() {
        for values in [vec![], vec![41.3], vec![41.3, 41.4], vec![-1e9, 1e9], vec![0.0, 1e300]] {
            let scale = Scale::of(&values);
            assert!((5..=VIRIDIS.len()).contains(&scale.classes()), "{scale:?}");
            for value in values {
                assert!(scale.class(value) < scale.classes());
            }
        }
    }
}
