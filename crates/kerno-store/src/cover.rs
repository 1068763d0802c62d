//! Which records say all there is about a time, each window once.
//!
//! Appended windows are numbered, and a merged window knows which numbers it has. So it does not matter what the clocks said.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What a record covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece<T> {
    /// The number of its first window.
    pub(crate) first: u64,
    /// The number of its last window.
    pub(crate) last: u64,
    /// The record.
    pub(crate) record: T,
}

impl<T> Piece<T> {
    const fn windows(&self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    const fn is_in(&self, other: &Self) -> bool {
        self.first >= other.first && self.last <= other.last
    }
}

/// Records of which none has a window that another has, by number.
#[derive(Debug)]
pub(crate) struct Cover<T> {
    pieces: BTreeMap<u64, Piece<T>>,
}

impl<T: Copy> Cover<T> {
    const fn new() -> Self {
        Self { pieces: BTreeMap::new() }
    }

    /// The finest records that together have every window that any record has. Of tiers, the finest first.
    pub(crate) fn finest(tiers: impl IntoIterator<Item = Vec<Piece<T>>>) -> Self {
        let mut cover = Self::new();
        for piece in tiers.into_iter().flatten() {
            let inside: Vec<_> = cover.overlapping(&piece).copied().collect();
            // Settings were changed: the two do not nest.
            if inside.iter().any(|inside| !inside.is_in(&piece)) {
                continue;
            }
            if inside.iter().map(Piece::windows).sum::<u64>() < piece.windows() {
                for finer in &inside {
                    cover.pieces.remove(&finer.first);
                }
                cover.insert(piece);
            }
        }
        cover
    }

    /// Those of the cover that are `wanted`, with as many of them as possible replaced by one coarser record that is wholly `inside`.
    pub(crate) fn coarsest(
        &self,
        tiers: impl DoubleEndedIterator<Item = Vec<Piece<T>>>,
        inside: impl Fn(&T) -> bool,
        wanted: impl Fn(&T) -> bool,
    ) -> Vec<Piece<T>> {
        let mut chosen = Self::new();
        for piece in tiers.rev().flatten().filter(|piece| inside(&piece.record)) {
            let replaces = self.overlapping(&piece).all(|finer| finer.is_in(&piece));
            if replaces && chosen.overlapping(&piece).next().is_none() {
                chosen.insert(piece);
            }
        }
        for piece in self.pieces.values().filter(|piece| wanted(&piece.record)) {
            if chosen.overlapping(piece).next().is_none() {
                chosen.insert(*piece);
            }
        }
        chosen.pieces.into_values().collect()
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece<T>> {
        self.pieces.values()
    }

    fn insert(&mut self, piece: Piece<T>) {
        if let Entry::Vacant(place) = self.pieces.entry(piece.first) {
            place.insert(piece);
        }
    }

    fn overlapping(&self, piece: &Piece<T>) -> impl Iterator<Item = &Piece<T>> {
        let (first, last) = (piece.first, piece.last.max(piece.first));
        let before = self.pieces.range(..first).next_back().filter(|(_, before)| before.last >= first);
        before.into_iter().chain(self.pieces.range(first..=last)).map(|(_, piece)| piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(name: char, pieces: &[(u64, u64)]) -> Vec<Piece<char>> {
        pieces.iter().map(|(first, last)| Piece { first: *first, last: *last, record: name }).collect()
    }

    fn shown<'a>(pieces: impl Iterator<Item = &'a Piece<char>>) -> String {
        let shown: Vec<_> = pieces.map(|piece| format!("{}{}-{}", piece.record, piece.first, piece.last)).collect();
        shown.join(" ")
    }

    #[test]
    fn the_finest_that_is_complete_is_taken() {
        let fine = tier('a', &[(5, 5), (6, 6), (7, 7), (9, 9), (10, 10)]);
        let middle = tier('b', &[(1, 2), (3, 4), (5, 6), (7, 8)]);
        let coarse = tier('c', &[(1, 4), (5, 8)]);
        let cover = Cover::finest([fine.clone(), middle.clone(), coarse.clone()]);
        // 8 is lost in the finest tier.
        assert_eq!(shown(cover.pieces()), "b1-2 b3-4 a5-5 a6-6 b7-8 a9-9 a10-10");
        let cover = Cover::finest([tier('a', &[(1, 1), (2, 2)]), tier('b', &[(2, 4)]), vec![]]);
        assert_eq!(shown(cover.pieces()), "a1-1 b2-4");
    }

    #[test]
    fn what_does_not_nest_never_counts_twice() {
        let cover = Cover::finest([tier('a', &[(1, 3), (4, 6)]), tier('b', &[(2, 5), (7, 9)])]);
        assert_eq!(shown(cover.pieces()), "a1-3 a4-6 b7-9");
    }

    #[test]
    fn long_times_take_the_coarsest_inside() {
        let fine = tier('a', &[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7)]);
        let middle = tier('b', &[(1, 2), (3, 4), (5, 6)]);
        let coarse = tier('c', &[(1, 4)]);
        let tiers = [fine, middle, coarse];
        let cover = Cover::finest(tiers.clone());
        let within = |from: u64, to: u64| {
            let inside =
                tiers.clone().map(|tier| tier.into_iter().filter(|p| p.first >= from && p.last <= to).collect());
            let wanted: Vec<_> = cover.pieces().filter(|p| p.last >= from && p.first <= to).map(|p| p.first).collect();
            // The test's records do not say which they are.
            let all = cover.coarsest(inside.into_iter(), |_| true, |_| true);
            shown(all.iter().filter(|p| p.record != 'a' || wanted.contains(&p.first)))
        };
        assert_eq!(within(1, 7), "c1-4 b5-6 a7-7");
        assert_eq!(within(2, 6), "a2-2 b3-4 b5-6");
        assert_eq!(within(2, 3), "a2-2 a3-3");
    }
}
