//! Which tile comes next.
//!
//! Tiles are cut from tasks on demand, in the order of their places, around what an earlier run has finished. The cut
//! depends on the memory budget; the bytes do not depend on the cut.

use crate::plan::Plan;
use crate::plan::cost::{Task, tile_limit};
use std::sync::Mutex;

/// A piece of a task: units `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Index of the task.
    pub task: u32,
    /// First unit.
    pub start: u64,
    /// One past the last unit.
    pub end: u64,
}

/// Finished units of a task: disjoint ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done(Vec<(u64, u64)>);

impl Done {
    /// Adds a finished range; `false` when it overlaps one that is finished already.
    pub fn insert(&mut self, start: u64, end: u64) -> bool {
        let at = self.0.partition_point(|(s, _)| *s < start);
        let before = at.checked_sub(1).is_none_or(|i| self.0[i].1 <= start);
        let after = self.0.get(at).is_none_or(|(s, _)| end <= *s);
        if before && after && start < end {
            self.0.insert(at, (start, end));
            return true;
        }
        false
    }

    /// The finished ranges.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// The first unfinished range at or after `from`, within `0..units`.
    fn gap(&self, from: u64, units: u64) -> Option<(u64, u64)> {
        let mut start = from;
        for (s, e) in &self.0 {
            if *s > start {
                return Some((start, *s));
            }
            start = start.max(*e);
        }
        (start < units).then_some((start, units))
    }
}

/// Hands out tiles to workers.
pub struct Schedule<'a> {
    plan: &'a Plan,
    tasks: &'a [Task],
    order: Vec<u32>,
    done: &'a [Done],
    limit: u64,
    cursor: Mutex<(usize, u64)>,
}

impl<'a> Schedule<'a> {
    /// Tiles of the tasks for which `wanted` holds, within `budget` bytes for `jobs` workers.
    pub fn new(
        plan: &'a Plan,
        tasks: &'a [Task],
        done: &'a [Done],
        budget: u64,
        jobs: u64,
        wanted: impl Fn(&Task) -> bool,
    ) -> Self {
        let order = (0u32..).zip(tasks).filter(|(_, t)| wanted(t)).map(|(i, _)| i).collect();
        Self { plan, tasks, order, done, limit: tile_limit(budget, jobs), cursor: Mutex::new((0, 0)) }
    }

    /// The next tile.
    pub fn next(&self) -> Option<Tile> {
        let mut cursor = self.cursor.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loop {
            let index = *self.order.get(cursor.0)?;
            let task = &self.tasks[index as usize];
            match self.done[index as usize].gap(cursor.1, task.units) {
                Some((start, gap_end)) => {
                    // Counted from the start of the task, so that tiles stay on granules after a gap.
                    let size = task.tile_units(self.plan, self.limit);
                    let end = ((start / size + 1) * size).min(gap_end);
                    cursor.1 = end;
                    return Some(Tile { task: index, start, end });
                }
                None => *cursor = (cursor.0 + 1, 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_not_done() {
        let mut done = Done::default();
        assert!(done.insert(10, 20));
        assert!(done.insert(0, 5));
        assert!(!done.insert(4, 6) && !done.insert(19, 21) && !done.insert(7, 7));
        assert_eq!(done.gap(0, 30), Some((5, 10)));
        assert_eq!(done.gap(10, 30), Some((20, 30)));
        assert_eq!(done.gap(20, 20), None);
        assert_eq!(done.ranges(), [(0, 5), (10, 20)]);
    }
}
