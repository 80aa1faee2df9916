//! Rules that choose how a block is compressed, and what each costs over many blocks.

use super::tree::Tree;
use super::units::{Coding, Cost, Unit};

/// Below this many repeats in a thousand the match sample says that there is nothing to find.
pub(super) const REPEATS_MIN: u32 = 10;

/// A rule. Codings are named by their place in [`super::units::codings`].
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// The same for every block.
    Always(usize),
    /// Plain if the entropy probe stops it.
    Entropy(usize),
    /// The same, and plain too where the match sample finds nothing.
    EntropyAndMatches(usize),
    /// Plain if the type of the file says that it is compressed; otherwise the entropy probe.
    TypeAndEntropy(usize),
    /// The entropy probe; and where the first codec gains nothing, the second.
    EntropyThenNext(usize, usize),
    /// The second codec where the first one, which was tried long before, has gained.
    WhereOtherGained(usize, usize),
    /// A decision tree over all probes.
    Learnt(Tree),
    /// Knows what each block costs under each codec, and asks no probe: no rule over probes does better.
    Perfect {
        /// What a byte is worth.
        seconds_per_byte: f64,
    },
}

impl Rule {
    pub(super) fn name(&self, codings: &[Coding]) -> String {
        let of = |place: &usize| codings[*place].name();
        match self {
            Rule::Always(coding) => format!("always {}", of(coding)),
            Rule::Entropy(coding) => format!("entropy, {}", of(coding)),
            Rule::EntropyAndMatches(coding) => format!("entropy and matches, {}", of(coding)),
            Rule::TypeAndEntropy(coding) => format!("type and entropy, {}", of(coding)),
            Rule::EntropyThenNext(first, next) => format!("entropy, {}, else {}", of(first), of(next)),
            Rule::WhereOtherGained(first, then) => format!("where {} gained, {}", of(first), of(then)),
            Rule::Learnt(tree) => format!("tree of {} leaves", tree.leaves()),
            Rule::Perfect { .. } => "perfect knowledge".to_owned(),
        }
    }

    /// What one block leaves, and takes from the first probe to the last codec.
    fn cost(&self, unit: &Unit) -> Cost {
        let plain = |seconds| Cost { bytes: unit.plain_bytes, seconds };
        let coded = |coding: usize, seconds: f64| {
            let Cost { bytes, seconds: of_codec } = unit.codings[coding];
            Cost { bytes, seconds: seconds + of_codec }
        };
        let (probe, repeats) = (unit.probe_seconds, unit.repeats_seconds);
        match self {
            Rule::Always(coding) => coded(*coding, 0.0),
            Rule::Entropy(_) | Rule::EntropyThenNext(..) if unit.is_stopped => plain(probe),
            Rule::Entropy(coding) => coded(*coding, probe),
            Rule::EntropyThenNext(first, next) => {
                let tried = coded(*first, probe);
                if tried.bytes < unit.plain_bytes { tried } else { coded(*next, tried.seconds) }
            }
            Rule::WhereOtherGained(first, _) if unit.codings[*first].bytes == unit.plain_bytes => plain(0.0),
            Rule::WhereOtherGained(_, then) => coded(*then, 0.0),
            Rule::EntropyAndMatches(_) if unit.is_stopped => plain(probe),
            Rule::EntropyAndMatches(_) if unit.repeats < REPEATS_MIN => plain(probe + repeats),
            Rule::EntropyAndMatches(coding) => coded(*coding, probe + repeats),
            Rule::TypeAndEntropy(_) if unit.file_type.is_compressed() => plain(0.0),
            Rule::TypeAndEntropy(_) if unit.is_stopped => plain(probe),
            Rule::TypeAndEntropy(coding) => coded(*coding, probe),
            Rule::Learnt(tree) => coded(tree.choose(unit), probe + if tree.asks_matches() { repeats } else { 0.0 }),
            Rule::Perfect { seconds_per_byte } => {
                let weight = |cost: &Cost| cost.bytes * seconds_per_byte + cost.seconds;
                let best = unit.codings.iter().min_by(|one, other| weight(one).total_cmp(&weight(other)));
                *best.expect("invariant: there are codecs")
            }
        }
    }

    /// What all blocks leave, and take with everything around the codec: cut and named, or read and sketched; sealed.
    pub(super) fn total(&self, units: &[Unit], seal_seconds_per_byte: f64) -> Total {
        let mut total = Total::default();
        for unit in units {
            let Cost { bytes, seconds } = self.cost(unit);
            total.bytes += bytes;
            total.codec_seconds += seconds;
            total.seconds += seconds + unit.path_seconds + bytes * seal_seconds_per_byte;
        }
        total
    }
}

/// What a rule comes to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Total {
    pub(super) bytes: f64,
    /// Probes and codecs.
    pub(super) codec_seconds: f64,
    /// The whole path of the block.
    pub(super) seconds: f64,
}

impl Total {
    /// What is to be made small.
    pub(super) fn product(&self) -> f64 {
        self.bytes * self.seconds
    }
}

/// Of the rules that `make` makes, with what a byte is worth beside a second in parts of what both are in `reference`,
/// the one with the least product that leaves no more than `reference`, as nearly as may be told from a sample.
pub(super) fn best(units: &[Unit], reference: Total, seal_seconds_per_byte: f64, make: impl Fn(f64) -> Rule) -> Rule {
    let tried = WORTHS.map(|worth| {
        let rule = make(worth * reference.seconds / reference.bytes);
        (rule.total(units, seal_seconds_per_byte), rule)
    });
    let fits = |total: &Total| total.bytes <= reference.bytes * SLACK;
    let rank = |total: &Total| if fits(total) { (0, total.product()) } else { (1, total.bytes) };
    let best = tried.into_iter().min_by(|(one, _), (other, _)| {
        let (one, other) = (rank(one), rank(other));
        one.0.cmp(&other.0).then(one.1.total_cmp(&other.1))
    });
    best.expect("invariant: there are worths").1
}

/// How much a byte may be worth; 1 where bytes × CPU is least, if bytes were free to grow.
const WORTHS: [f64; 12] = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 50.0];
/// Bytes that a rule may leave, the reference being 1.
const SLACK: f64 = 1.005;
