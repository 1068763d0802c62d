use std::ops::ControlFlow;

use kerno::probe::clock::monotonic_ns;
use kerno::{EventType, Events, RawEvent};

/// From the time an event carries to its record being readable, generously.
const COMMIT_NS: u64 = 1_000_000;

/// Held back at most; beyond, order is given up rather than memory.
const MAX_HELD_BYTES: usize = 8 << 20;

/// Puts the events of several rings, which are read one after another, in the order of their times.
///
/// A ring that was read early may by now hold an event older than one read from a later ring. So what is younger than the start of the
/// reading waits for the next one, as does what is younger than the last event of a ring that was not read to its end.
#[derive(Debug, Default)]
pub(super) struct Merge {
    held: Records,
    /// Takes over what is held back from one pass to the next.
    spare: Records,
    /// When this pass began.
    begun_ns: u64,
    /// Of this pass, by the event type's number: how many, and the time of the last.
    rings: [(usize, u64); EventType::NUMBERS],
}

/// Copies of records, with an index to sort.
#[derive(Debug, Default)]
struct Records {
    words: Vec<u64>,
    index: Vec<Entry>,
}

/// Ordered by time, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    timestamp_ns: u64,
    /// First of its words.
    start: usize,
    bytes: usize,
    event_type: EventType,
}

impl Records {
    fn push(&mut self, timestamp_ns: u64, raw: RawEvent<'_>) {
        let start = self.words.len();
        self.words.extend(raw.data.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        }));
        self.index.push(Entry { timestamp_ns, start, bytes: raw.data.len(), event_type: raw.event_type });
    }

    fn get(&self, entry: &Entry) -> RawEvent<'_> {
        let words = &self.words[entry.start..];
        RawEvent { event_type: entry.event_type, data: &bytes_of(words)[..entry.bytes] }
    }

    fn clear(&mut self) {
        self.words.clear();
        self.index.clear();
    }
}

fn bytes_of(words: &[u64]) -> &[u8] {
    zerocopy::IntoBytes::as_bytes(words)
}

impl Merge {
    /// Starts a pass over the rings.
    pub(super) fn begin(&mut self) {
        self.begun_ns = monotonic_ns();
        self.rings = Default::default();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.index.is_empty()
    }

    pub(super) fn push(&mut self, raw: RawEvent<'_>) {
        // What cannot be decoded goes first, to be counted.
        let timestamp_ns = raw.decode().map_or(0, |event| event.timestamp_ns());
        let ring = &mut self.rings[usize::from(u8::from(raw.event_type))];
        *ring = (ring.0 + 1, timestamp_ns);
        self.held.push(timestamp_ns, raw);
    }

    /// Hands on, in order, what nothing older can follow; everything unless there may be `more`. Ends when `f` breaks.
    pub(super) fn take(&mut self, more: bool, mut f: impl FnMut(RawEvent<'_>) -> ControlFlow<()>) {
        let until = if more { self.due() } else { u64::MAX };
        self.held.index.sort_unstable();
        let due = self.held.index.partition_point(|entry| entry.timestamp_ns <= until);
        for entry in &self.held.index[..due] {
            if f(self.held.get(entry)).is_break() {
                return;
            }
        }
        for entry in &self.held.index[due..] {
            self.spare.push(entry.timestamp_ns, self.held.get(entry));
        }
        self.held.clear();
        std::mem::swap(&mut self.held, &mut self.spare);
    }

    fn due(&self) -> u64 {
        if self.held.words.len() * 8 > MAX_HELD_BYTES {
            return u64::MAX;
        }
        let unfinished = self.rings.iter().filter(|(count, _)| *count >= Events::TURN).map(|(_, last)| *last);
        unfinished.fold(self.begun_ns.saturating_sub(COMMIT_NS), u64::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(merge: &mut Merge, timestamp_ns: u64) {
        let mut words = [0u64; 8];
        words[0] = timestamp_ns;
        merge.push(RawEvent { event_type: EventType::SyscallLatency, data: bytes_of(&words) });
    }

    fn take(merge: &mut Merge, more: bool) -> Vec<u64> {
        let mut times = Vec::new();
        merge.take(more, |raw| {
            times.push(raw.decode().unwrap().timestamp_ns());
            ControlFlow::Continue(())
        });
        times
    }

    #[test]
    fn what_is_younger_than_the_pass_waits_for_the_next() {
        let mut merge = Merge { begun_ns: COMMIT_NS + 50, ..Merge::default() };
        for time in [70, 10, 60, 50, 30] {
            push(&mut merge, time);
        }
        assert_eq!(take(&mut merge, true), [10, 30, 50]);
        push(&mut merge, 65);
        assert!(take(&mut merge, true).is_empty());
        assert!(!merge.is_empty());
        assert_eq!(take(&mut merge, false), [60, 65, 70]);
        assert!(merge.is_empty());
    }

    #[test]
    fn a_ring_that_was_cut_short_holds_the_others_back() {
        let mut merge = Merge { begun_ns: u64::MAX, ..Merge::default() };
        for time in 0..Events::TURN as u64 {
            push(&mut merge, time);
        }
        let last = Events::TURN as u64 - 1;
        let other = Merge { rings: merge.rings, ..Merge::default() };
        merge.rings = Default::default();
        push(&mut merge, last + 100);
        merge.rings = other.rings;
        assert_eq!(take(&mut merge, true).last(), Some(&last));
        assert_eq!(take(&mut merge, false), [last + 100]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut merge = Merge::default();
        for time in 1..=MAX_HELD_BYTES as u64 / 64 {
            push(&mut merge, time);
        }
        assert!(take(&mut merge, true).is_empty());
        push(&mut merge, 1);
        assert_eq!(take(&mut merge, true).len(), MAX_HELD_BYTES / 64 + 1);
    }

    #[test]
    fn enough_is_enough() {
        let mut merge = Merge::default();
        (0..5).for_each(|time| push(&mut merge, time));
        let mut seen = 0;
        merge.take(false, |_| {
            seen += 1;
            if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(seen, 2);
    }
}
