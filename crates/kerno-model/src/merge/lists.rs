//! Lists whose entries are about something: joined by what that is, kept in order, and bounded.

use std::cmp::{Ordering, Reverse};

use super::Joint;
use crate::Merged;

/// Which entries the list of one window has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Selected {
    /// All there are.
    All,
    /// Those that are worth telling of: nothing limits what the others had.
    Some,
    /// Once it has `full` entries, it may have been cut off. It then has at least the `top` ones by the field that is named, and
    /// [`weight`](Entry::weight) is that field, or more.
    Top { full: usize, top: usize, field: &'static str },
}

/// An entry of a list of a window.
pub(crate) trait Entry: Clone {
    /// The list's path in the window.
    const LIST: &'static str;

    /// The most entries of a merged list; what is more is left out and counted.
    const MAX: usize;

    /// Which entries the list of one window has.
    const SELECTED: Selected;

    /// They are about the same thing.
    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool;

    /// Adds what the later window says of it.
    fn join(&mut self, later: &Self, joint: &mut Joint<'_>);

    /// The order of the list.
    fn order(&self, other: &Self) -> Ordering;

    /// See [`Selected::Top`].
    fn weight(&self) -> u64 {
        0
    }

    /// The earlier window does not have it: moves its times, and adds what its absence says.
    fn new_later(&mut self, joint: &mut Joint<'_>) {
        let _ = joint;
    }

    /// The later window does not have it. False if it is to go.
    fn absent_later(&mut self, joint: &mut Joint<'_>) -> bool {
        let _ = joint;
        true
    }
}

/// Tells whether the lists of one kind in one window are the first of many.
pub(crate) fn cut_lists<'a, T: Entry + 'a>(notes: &mut Merged, lists: impl IntoIterator<Item = &'a Vec<T>>) {
    match T::SELECTED {
        Selected::All => {}
        Selected::Some => {
            if lists.into_iter().next().is_some() {
                notes.cut(T::LIST, None);
            }
        }
        Selected::Top { full, top, field } => {
            let bound = |list: &Vec<T>| {
                let mut weights: Vec<_> = list.iter().map(T::weight).collect();
                weights.sort_unstable_by_key(|weight| Reverse(*weight));
                weights.get(top.saturating_sub(1)).or(weights.last()).copied().unwrap_or(0)
            };
            if let Some(most) = lists.into_iter().filter(|list| list.len() >= full).map(bound).max() {
                notes.cut(T::LIST, Some((field, most)));
            }
        }
    }
}

/// Adds the entries of a later window's list.
pub(crate) fn join_list<T: Entry>(ours: &mut Vec<T>, later: &[T], joint: &mut Joint<'_>) {
    let known = ours.len();
    let mut met = vec![false; known];
    // Long lists are in one order in both windows: the next one is mostly the one after the last one.
    let mut next = 0;
    for entry in later {
        let place =
            (next..known).chain(0..next).find(|place| ours.get(*place).is_some_and(|known| known.is(entry, joint)));
        match place.and_then(|place| Some((place, ours.get_mut(place)?, met.get_mut(place)?))) {
            Some((place, known, met)) => {
                known.join(entry, joint);
                *met = true;
                next = place + 1;
            }
            None => {
                let mut entry = entry.clone();
                entry.new_later(joint);
                ours.push(entry);
            }
        }
    }
    let mut met = met.into_iter().chain(std::iter::repeat(true));
    ours.retain_mut(|entry| met.next() == Some(true) || entry.absent_later(joint));
    ours.sort_by(T::order);
    if ours.len() > T::MAX {
        let dropped = ours.split_off(T::MAX);
        let bound = match T::SELECTED {
            Selected::Top { field, .. } => dropped.iter().map(T::weight).max().map(|most| (field, most)),
            Selected::All | Selected::Some => None,
        };
        joint.notes.left_out(T::LIST, dropped.len(), bound);
    }
}
