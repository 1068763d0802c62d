//! Lists whose entries are about something: joined by what that is, kept in order, and bounded.

use std::cmp::Ordering;

use super::{Inexact, Joint};

/// An entry of a list of a window.
pub(crate) trait Entry: Clone {
    /// The list's path in the window.
    const LIST: &'static str;

    /// The most entries of a merged list; what is more is left out and counted.
    const MAX: usize;

    /// From so many entries on, a list of one window may have been cut off; 1 where it has a selection by its nature.
    const FULL: usize = usize::MAX;

    /// They are about the same thing.
    fn is(&self, later: &Self, joint: &Joint<'_>) -> bool;

    /// Adds what the later window says of it.
    fn join(&mut self, later: &Self, joint: &mut Joint<'_>);

    /// The order of the list.
    fn order(&self, other: &Self) -> Ordering;

    /// The earlier window does not have it: moves its times, and adds what its absence says.
    fn new_later(&mut self, joint: &Joint<'_>) {
        let _ = joint;
    }

    /// The later window does not have it. False when it is to go.
    fn absent_later(&mut self, joint: &Joint<'_>, complete: bool) -> bool {
        let _ = (joint, complete);
        true
    }
}

/// Adds the entries of a later window's list.
pub(crate) fn join_list<T: Entry>(ours: &mut Vec<T>, later: &[T], joint: &mut Joint<'_>) {
    let cut = |single: bool, list: &[T]| single && list.len() >= T::FULL;
    if cut(joint.single.0, ours) || cut(joint.single.1, later) {
        joint.inexact(T::LIST, Inexact::Selection);
    }
    let complete = !joint.notes.inexact.contains_key(T::LIST);
    let known = ours.len();
    let mut met = vec![false; known];
    for entry in later {
        // Of several the latest: an id that was used again.
        let place = ours.iter().take(known).rposition(|known| known.is(entry, joint));
        match place.and_then(|place| Some((ours.get_mut(place)?, met.get_mut(place)?))) {
            Some((known, met)) => {
                known.join(entry, joint);
                *met = true;
            }
            None => {
                let mut entry = entry.clone();
                entry.new_later(joint);
                ours.push(entry);
            }
        }
    }
    let mut met = met.into_iter().chain(std::iter::repeat(true));
    ours.retain_mut(|entry| met.next() == Some(true) || entry.absent_later(joint, complete));
    ours.sort_by(T::order);
    if ours.len() > T::MAX {
        *joint.notes.left_out.entry(T::LIST.to_owned()).or_default() += (ours.len() - T::MAX) as u64;
        ours.truncate(T::MAX);
    }
}
