//! One window of many.

use std::collections::VecDeque;

use kerno_model::Window;
use serde::Serialize;

use crate::Timestamp;
use crate::catalog::Place;
use crate::cover::Piece;

/// Between windows that follow each other, nothing is missing: clocks are read one after the other, and corrected all the time.
const ADJOINING_NS: u64 = 1_000_000_000;

/// If the wall clock goes back, and so much was watched or passed in between, the same time by the wall clock came twice.
const AGAIN_NS: u64 = 60_000_000_000;

/// What was watched in a time.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Found {
    /// All that was watched, in one window.
    pub window: Window,
    /// How many stored windows it was merged of.
    pub windows: usize,
    /// When nothing was watched, or nothing of it can be read; the earliest first. Of the time that was asked for.
    pub gaps: Vec<Interval>,
    /// What is also of this time and could not be merged, the earliest first: other boots, and what was watched before the wall clock was
    /// set back by so much that it showed this time twice.
    pub others: Vec<Stretch>,
    /// How many stored windows of this time are damaged. Coarser ones may have what they had.
    pub damaged: usize,
    /// How many windows could not be merged, because they overlap others.
    pub left_out: usize,
}

/// A time by the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Interval {
    /// Its start.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
}

/// Windows of one boot that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stretch {
    /// The boot.
    pub boot_id: String,
    /// When it began, by the wall clock.
    pub from: Timestamp,
    /// When it ended, by the wall clock.
    pub to: Timestamp,
}

/// Merges windows as they are read.
#[derive(Debug)]
pub(crate) struct Finder {
    from: Timestamp,
    to: Timestamp,
    places: VecDeque<Place>,
    others: Vec<Stretch>,
    window: Option<Window>,
    windows: usize,
    left_out: usize,
    watched: Vec<Interval>,
}

impl Finder {
    /// Takes the places of a time, with the machine and boot of each.
    pub(crate) fn new(
        from: Timestamp,
        to: Timestamp,
        places: impl Iterator<Item = (Piece<Place>, (String, String))>,
    ) -> Self {
        let mut stretches: Vec<((String, String), VecDeque<Place>)> = Vec::new();
        for (piece, boot) in places {
            let place = piece.record;
            match stretches.last_mut() {
                Some((known, run)) if *known == boot && !run.back().is_some_and(|last| comes_again(last, &place)) => {
                    run.push_back(place);
                }
                _ => stretches.push((boot, [place].into())),
            }
        }
        let places = stretches.pop().map(|(_, places)| places).unwrap_or_default();
        let others = stretches.into_iter().map(|((_, boot_id), run)| Stretch {
            boot_id,
            from: run.iter().map(|place| place.entry.head.started_unix_ns).min().unwrap_or_default(),
            to: run.iter().map(|place| place.entry.head.ended_unix_ns()).max().unwrap_or_default(),
        });
        let others = others.collect();
        Self { from, to, places, others, window: None, windows: 0, left_out: 0, watched: Vec::new() }
    }

    /// The next place to read.
    pub(crate) fn next(&mut self) -> Option<Place> {
        self.places.pop_front()
    }

    pub(crate) fn add(&mut self, place: &Place, window: &Window) {
        match &mut self.window {
            None => self.window = Some(window.clone()),
            Some(merged) => {
                if merged.merge(window).is_err() {
                    self.left_out += 1;
                    return;
                }
            }
        }
        self.windows += 1;
        let head = &place.entry.head;
        self.watched.push(Interval { from: head.started_unix_ns, to: head.ended_unix_ns() });
    }

    pub(crate) fn found(mut self, damaged: usize) -> Option<Found> {
        let window = self.window?;
        self.watched.sort_unstable_by_key(|watched| watched.from);
        let mut gaps = Vec::new();
        let mut until = self.from;
        for watched in self.watched.iter().chain([&Interval { from: self.to, to: self.to }]) {
            if watched.from > until.saturating_add(ADJOINING_NS) {
                gaps.push(Interval { from: until, to: watched.from });
            }
            until = until.max(watched.to);
        }
        Some(Found { window, windows: self.windows, gaps, others: self.others, damaged, left_out: self.left_out })
    }
}

/// Whether the wall clock was set back between two windows, so that they are of the same time only by that clock.
const fn comes_again(last: &Place, next: &Place) -> bool {
    let (last, next) = (&last.entry.head, &next.entry.head);
    let ended = last.started_monotonic_ns.saturating_add(last.covered_ns);
    next.started_unix_ns.saturating_add(ADJOINING_NS) < last.ended_unix_ns()
        && next.started_monotonic_ns.saturating_sub(ended) > AGAIN_NS
}
