//! A small decision tree over the probes: what a trained model could add to a fixed rule.
//!
//! A byte is worth so and so many seconds: each leaf takes the codec with the least sum of both, and each split is the one
//! that saves most. Of the trees for several worths, the best that leaves no more bytes than the fixed rule is taken: bytes
//! × CPU alone would be won by whoever compresses less.

use super::rules::{Rule, best};
use super::units::{Cost, Unit};

/// Questions between the root and a leaf.
const DEPTH_MAX: u32 = 4;
/// Blocks of a leaf: less is chance.
const LEAF_UNITS_MIN: usize = 40;
/// Bounds that are tried per probe.
const BOUNDS: usize = 32;

/// What is known of a block, in one row.
const PROBES: usize = 7;
const REPEATS: usize = 1;

fn probes(unit: &Unit) -> [f64; PROBES] {
    [
        f64::from(unit.collisions),
        f64::from(unit.repeats),
        f64::from(unit.trial),
        unit.plain_bytes,
        f64::from(u8::from(unit.is_stopped)),
        f64::from(u8::from(unit.file_type.is_compressed())),
        f64::from(unit.file_type as u8),
    ]
}

/// A decision tree; see the module.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Leaf(usize),
    Split { probe: usize, bound: f64, below: Box<Tree>, from: Box<Tree> },
}

impl Tree {
    /// Grows a tree on `units`, between the first `codings` codecs, that leaves no more than `reference` does. Looking at
    /// the probes is free to it, but for the entropy probe and the match sample.
    pub(super) fn train(units: &[Unit], reference: &Rule, codings: usize, seal_seconds_per_byte: f64) -> Rule {
        let rows: Vec<[f64; PROBES]> = units.iter().map(probes).collect();
        let members: Vec<usize> = (0..units.len()).collect();
        best(units, reference.total(units, seal_seconds_per_byte), seal_seconds_per_byte, |seconds_per_byte| {
            let worth = seconds_per_byte + seal_seconds_per_byte;
            let cost = |cost: &Cost| cost.bytes * worth + cost.seconds;
            let costs: Vec<Vec<f64>> =
                units.iter().map(|unit| unit.codings[..codings].iter().map(cost).collect()).collect();
            Rule::Learnt(grow(&rows, &costs, &members, DEPTH_MAX))
        })
    }

    /// The codec for a block.
    pub(super) fn choose(&self, unit: &Unit) -> usize {
        let probes = probes(unit);
        let mut at = self;
        loop {
            match at {
                Tree::Leaf(coding) => return *coding,
                Tree::Split { probe, bound, below, from } => at = if probes[*probe] < *bound { below } else { from },
            }
        }
    }

    pub(super) fn leaves(&self) -> usize {
        match self {
            Tree::Leaf(_) => 1,
            Tree::Split { below, from, .. } => below.leaves() + from.leaves(),
        }
    }

    /// Whether the match sample has to be taken.
    pub(super) fn asks_matches(&self) -> bool {
        match self {
            Tree::Leaf(_) => false,
            Tree::Split { probe, below, from, .. } => *probe == REPEATS || below.asks_matches() || from.asks_matches(),
        }
    }
}

/// The codec that costs these blocks least, and how much.
fn leaf(costs: &[Vec<f64>], members: &[usize]) -> (f64, usize) {
    let mut sums = vec![0.0; costs[0].len()];
    for member in members {
        sums.iter_mut().zip(&costs[*member]).for_each(|(sum, cost)| *sum += cost);
    }
    least(&sums)
}

fn least(sums: &[f64]) -> (f64, usize) {
    let (place, sum) =
        sums.iter().enumerate().min_by(|one, other| one.1.total_cmp(other.1)).expect("invariant: codecs");
    (*sum, place)
}

fn grow(rows: &[[f64; PROBES]], costs: &[Vec<f64>], members: &[usize], depth: u32) -> Tree {
    let (unsplit, coding) = leaf(costs, members);
    let mut best: Option<(f64, usize, f64)> = None;
    if depth > 0 && members.len() >= 2 * LEAF_UNITS_MIN {
        let questions =
            (0..PROBES).flat_map(|probe| bounds(rows, members, probe).into_iter().map(move |at| (probe, at)));
        for (probe, bound) in questions {
            let (below, from) = split(rows, members, probe, bound);
            let cost = leaf(costs, &below).0 + leaf(costs, &from).0;
            let is_large = below.len().min(from.len()) >= LEAF_UNITS_MIN;
            if is_large && cost < best.map_or(unsplit - f64::EPSILON, |best| best.0) {
                best = Some((cost, probe, bound));
            }
        }
    }
    let Some((_, probe, bound)) = best else { return Tree::Leaf(coding) };
    let (below, from) = split(rows, members, probe, bound);
    Tree::Split {
        probe,
        bound,
        below: Box::new(grow(rows, costs, &below, depth - 1)),
        from: Box::new(grow(rows, costs, &from, depth - 1)),
    }
}

/// Values of a probe between which the blocks are about equally many.
fn bounds(rows: &[[f64; PROBES]], members: &[usize], probe: usize) -> Vec<f64> {
    let mut sorted: Vec<f64> = members.iter().map(|member| rows[*member][probe]).collect();
    sorted.sort_by(f64::total_cmp);
    let mut bounds: Vec<f64> = (1..BOUNDS).map(|part| sorted[sorted.len() * part / BOUNDS]).collect();
    bounds.dedup();
    bounds
}

/// The blocks below a bound, and those from it.
fn split(rows: &[[f64; PROBES]], members: &[usize], probe: usize, bound: f64) -> (Vec<usize>, Vec<usize>) {
    members.iter().partition(|member| rows[**member][probe] < bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_learns_what_one_probe_tells() {
        let rows: Vec<[f64; PROBES]> =
            (0..1000).map(|at| [0.0, f64::from(at % 100), 0.0, 1.0, 0.0, 0.0, 0.0]).collect();
        // The second codec is the better one for those with many repeats.
        let costs: Vec<Vec<f64>> = rows.iter().map(|row| vec![1.0, if row[1] < 50.0 { 2.0 } else { 0.5 }]).collect();
        let members: Vec<usize> = (0..rows.len()).collect();
        let Tree::Split { probe, bound, below, from } = grow(&rows, &costs, &members, DEPTH_MAX) else { panic!() };
        assert_eq!((probe, bound), (REPEATS, 50.0));
        assert!(matches!((*below, *from), (Tree::Leaf(0), Tree::Leaf(1))));
    }
}
