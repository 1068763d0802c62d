//! What is still to be told, and what was told. Pure: the sender gives it the time.
//!
//! It has at most one entry for each incident: its latest state, and what the receiver knows of it. So an incident that changes often while
//! the receiver cannot be reached does not fill the outbox, and what is told in the end is true.

use std::collections::BTreeMap;

use kerno_doctor::report::{Notice, NoticeEvent, rfc3339};
use kerno_model::{IncidentState, Severity};
use serde::{Deserialize, Serialize};

/// Incidents of a sink that are remembered.
const MAX_THREADS: usize = 500;

/// What they may take, in bytes of JSON.
const MAX_BYTES: usize = 2 << 20;

/// One that is over and was told is remembered for so long, in nanoseconds: if it comes back, it is the same.
const MEMORY_NS: u64 = 3600 * 1_000_000_000;

/// How a kind of sink wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// Incidents in a message.
    pub(super) batch: usize,
    /// Whether it is told that an incident opened, even if it is over by then. Chats get one message instead.
    pub(super) both: bool,
    /// What goes on is told again after so long, in nanoseconds.
    pub(super) resend_ns: Option<u64>,
    /// How long a message waits for others, in nanoseconds.
    pub(super) group_wait_ns: u64,
}

/// What a receiver is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    pub(super) event: NoticeEvent,
    pub(super) notice: Notice,
    /// The severity that the receiver knows; `None` if it was told nothing yet.
    pub(super) told: Option<Severity>,
    /// What the receiver calls the message that it got first.
    pub(super) handle: Option<String>,
    /// Whether it only says that it goes on.
    pub(super) again: bool,
}

/// What the receiver knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Told {
    open: bool,
    severity: Severity,
    at_unix_ns: u64,
    handle: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Thread {
    /// As it is now.
    notice: Notice,
    told: Option<Told>,
    /// When it changed.
    changed_unix_ns: u64,
    bytes: usize,
}

/// The outbox of a sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Outbox {
    threads: BTreeMap<String, Thread>,
}

impl Thread {
    /// What is to be told now; the second says that it only goes on.
    fn due(&self, manner: &Manner, now_unix_ns: u64) -> Option<(NoticeEvent, bool)> {
        let open = self.notice.state == IncidentState::Open;
        let Some(told) = &self.told else {
            return Some((if open || manner.both { NoticeEvent::Opened } else { NoticeEvent::Resolved }, false));
        };
        match (told.open, open) {
            (true, false) => Some((NoticeEvent::Resolved, false)),
            (false, true) => Some((NoticeEvent::Reopened, false)),
            (true, true) if self.notice.severity > told.severity => Some((NoticeEvent::Worse, false)),
            (true, true) => {
                let every = manner.resend_ns?;
                // What resends tells what goes on as it is.
                let other = self.notice.severity != told.severity;
                let due = told.at_unix_ns.saturating_add(every) <= now_unix_ns || told.at_unix_ns > now_unix_ns;
                (due || other).then_some((NoticeEvent::Opened, true))
            }
            (false, false) => None,
        }
    }

    /// When that is, if it is not due now.
    fn due_at(&self, manner: &Manner) -> Option<u64> {
        let told = self.told.as_ref().filter(|told| told.open && self.notice.state == IncidentState::Open)?;
        Some(told.at_unix_ns.saturating_add(manner.resend_ns?))
    }

    fn is_done(&self) -> bool {
        self.notice.state == IncidentState::Closed && self.told.as_ref().is_some_and(|told| !told.open)
    }
}

impl Outbox {
    /// Takes the state of an incident. One that is not `wanted` is only told of further if the receiver knows it. How many others were dropped
    /// to make room.
    pub(super) fn offer(&mut self, notice: Notice, wanted: bool, now_unix_ns: u64) -> u64 {
        let bytes = serde_json::to_vec(&notice).map_or(0, |json| json.len());
        match self.threads.get_mut(&notice.id) {
            Some(thread) => {
                if thread.notice.state != notice.state || thread.notice.severity != notice.severity {
                    thread.changed_unix_ns = now_unix_ns;
                }
                (thread.notice, thread.bytes) = (notice, bytes);
            }
            None if wanted && notice.state == IncidentState::Open => {
                let id = notice.id.clone();
                self.threads.insert(id, Thread { notice, told: None, changed_unix_ns: now_unix_ns, bytes });
            }
            None => return 0,
        }
        self.threads.retain(|_, thread| {
            let told_at = thread.told.as_ref().map_or(now_unix_ns, |told| told.at_unix_ns);
            !thread.is_done() || told_at.saturating_add(MEMORY_NS) > now_unix_ns
        });
        self.make_room()
    }

    /// Incidents that nobody follows any longer are over.
    pub(super) fn close_others(&mut self, followed: &dyn Fn(&str) -> bool, now_unix_ns: u64) {
        for (_, thread) in self.threads.iter_mut().filter(|(id, _)| !followed(id)) {
            if thread.notice.state == IncidentState::Open {
                thread.notice.state = IncidentState::Closed;
                thread.notice.closed = Some(rfc3339(now_unix_ns));
                thread.notice.closed_unix_ns = Some(now_unix_ns);
                thread.changed_unix_ns = now_unix_ns;
            }
        }
    }

    fn make_room(&mut self) -> u64 {
        let mut dropped = 0;
        let mut bytes: usize = self.threads.values().map(|thread| thread.bytes).sum();
        while self.threads.len() > MAX_THREADS || bytes > MAX_BYTES {
            // What is done goes first, then the least severe, then the oldest.
            let least = |thread: &Thread| (!thread.is_done(), thread.notice.severity, thread.changed_unix_ns);
            let goes = self.threads.iter().min_by_key(|(_, thread)| least(thread)).map(|(id, _)| id.clone());
            let Some(gone) = goes.and_then(|id| self.threads.remove(&id)) else { break };
            bytes = bytes.saturating_sub(gone.bytes);
            dropped += u64::from(!gone.is_done());
        }
        dropped
    }

    /// Incidents of which something is to be told.
    pub(super) fn waiting(&self, manner: &Manner, now_unix_ns: u64) -> usize {
        let waits = |thread: &&Thread| thread.due(manner, now_unix_ns).is_some_and(|(_, again)| !again);
        self.threads.values().filter(waits).count()
    }

    /// What to send now, or when to ask again; both are `None` if there is nothing.
    pub(super) fn next(&self, manner: &Manner, now_unix_ns: u64) -> (Vec<Message>, Option<u64>) {
        let mut due: Vec<_> = self
            .threads
            .values()
            .filter_map(|thread| thread.due(manner, now_unix_ns).map(|(event, again)| (thread, event, again)))
            .collect();
        if due.is_empty() {
            return (Vec::new(), self.threads.values().filter_map(|thread| thread.due_at(manner)).min());
        }
        due.sort_by_key(|(thread, ..)| thread.changed_unix_ns);
        let first = due.iter().filter(|(.., again)| !again).map(|(thread, ..)| thread.changed_unix_ns).min();
        if let Some(first) = first
            && manner.batch > 1
        {
            let ready = first.saturating_add(manner.group_wait_ns);
            // A clock that was set back delays nothing.
            if ready > now_unix_ns && first <= now_unix_ns {
                return (Vec::new(), Some(ready));
            }
        }
        // A message goes to one thread of the receiver.
        let handle = |thread: &Thread| thread.told.as_ref().and_then(|told| told.handle.clone());
        let of_first = due.first().and_then(|(thread, ..)| handle(thread));
        let messages = due
            .into_iter()
            .filter(|(thread, ..)| handle(thread) == of_first)
            .take(manner.batch)
            .map(|(thread, event, again)| Message {
                event,
                notice: thread.notice.clone().as_of(now_unix_ns),
                told: thread.told.as_ref().map(|told| told.severity),
                handle: of_first.clone(),
                again,
            })
            .collect();
        (messages, None)
    }

    /// The receiver knows this now.
    pub(super) fn told(&mut self, messages: &[Message], handle: Option<&String>, now_unix_ns: u64) {
        for message in messages {
            let Some(thread) = self.threads.get_mut(&message.notice.id) else { continue };
            thread.told = Some(Told {
                open: message.event != NoticeEvent::Resolved,
                severity: message.notice.severity,
                at_unix_ns: now_unix_ns,
                handle: message.handle.clone().or_else(|| handle.cloned()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const CHAT: Manner = Manner { batch: 20, both: false, resend_ns: None, group_wait_ns: 5 * S };
    const PAGER: Manner = Manner { batch: 1, both: true, resend_ns: None, group_wait_ns: 5 * S };
    const MANAGER: Manner = Manner { batch: 64, both: false, resend_ns: Some(60 * S), group_wait_ns: S };

    fn notice(id: &str, severity: Severity) -> Notice {
        let mut notice = Notice::test("host", 1);
        (notice.id, notice.severity) = (id.to_owned(), severity);
        notice
    }

    fn closed(id: &str) -> Notice {
        let mut notice = notice(id, Severity::Warning);
        (notice.state, notice.closed_unix_ns) = (IncidentState::Closed, Some(9));
        notice
    }

    /// Sends what is due; what was told.
    fn send(outbox: &mut Outbox, manner: &Manner, now: u64) -> Vec<(String, NoticeEvent)> {
        let (messages, _) = outbox.next(manner, now);
        outbox.told(&messages, None, now);
        messages.into_iter().map(|message| (message.notice.id, message.event)).collect()
    }

    fn one(id: &str, event: NoticeEvent) -> Vec<(String, NoticeEvent)> {
        vec![(id.to_owned(), event)]
    }

    #[test]
    fn the_life_of_an_incident_is_told_once() {
        let mut outbox = Outbox::default();
        outbox.offer(notice("a", Severity::Warning), true, 10 * S);
        assert_eq!(outbox.next(&CHAT, 11 * S), (vec![], Some(15 * S)), "others may come");
        assert_eq!(send(&mut outbox, &CHAT, 15 * S), one("a", NoticeEvent::Opened));
        assert!(send(&mut outbox, &CHAT, 99 * S).is_empty());
        outbox.offer(notice("a", Severity::Warning), true, 100 * S);
        assert!(send(&mut outbox, &CHAT, 110 * S).is_empty(), "nothing new");
        outbox.offer(notice("a", Severity::Critical), true, 200 * S);
        assert_eq!(send(&mut outbox, &CHAT, 210 * S), one("a", NoticeEvent::Worse));
        outbox.offer(notice("a", Severity::Warning), false, 220 * S);
        assert!(send(&mut outbox, &CHAT, 230 * S).is_empty(), "better is no news");
        outbox.offer(closed("a"), false, 300 * S);
        assert_eq!(send(&mut outbox, &CHAT, 310 * S), one("a", NoticeEvent::Resolved));
        assert!(send(&mut outbox, &CHAT, 999 * S).is_empty());
        outbox.offer(notice("a", Severity::Warning), true, 1000 * S);
        assert_eq!(send(&mut outbox, &CHAT, 1010 * S), one("a", NoticeEvent::Reopened));
        outbox.offer(closed("a"), true, 1100 * S);
        assert_eq!(send(&mut outbox, &CHAT, 1110 * S), one("a", NoticeEvent::Resolved));
        outbox.offer(notice("b", Severity::Info), true, 9000 * S);
        assert_eq!(outbox.threads.len(), 1, "what is over for long is forgotten");
    }

    #[test]
    fn what_nobody_heard_of_is_told_in_the_end() {
        for (manner, events) in [
            (CHAT, &[NoticeEvent::Resolved][..]),
            (PAGER, &[NoticeEvent::Opened, NoticeEvent::Resolved]),
            (MANAGER, &[NoticeEvent::Resolved]),
        ] {
            let mut outbox = Outbox::default();
            outbox.offer(notice("a", Severity::Warning), true, S);
            outbox.offer(notice("a", Severity::Critical), true, 2 * S);
            outbox.offer(closed("a"), true, 3 * S);
            assert_eq!(outbox.waiting(&manner, 100 * S), 1);
            for event in events {
                assert_eq!(send(&mut outbox, &manner, 100 * S), one("a", *event));
            }
            assert!(send(&mut outbox, &manner, 200 * S).is_empty());
            assert_eq!(outbox.waiting(&manner, 200 * S), 0);
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_told() {
        let mut outbox = Outbox::default();
        outbox.offer(notice("a", Severity::Warning), false, S);
        outbox.offer(closed("b"), true, S);
        assert!(outbox.threads.is_empty());
        outbox.offer(notice("a", Severity::Critical), true, 2 * S);
        assert_eq!(send(&mut outbox, &CHAT, 90 * S), one("a", NoticeEvent::Opened), "it is by now");
    }

    #[test]
    fn those_that_come_together_are_one_message_where_the_kind_allows() {
        let mut outbox = Outbox::default();
        for number in 0..30 {
            outbox.offer(notice(&format!("{number:02}"), Severity::Warning), true, (10 + number / 10) * S);
        }
        assert_eq!(outbox.next(&CHAT, 12 * S).1, Some(15 * S));
        assert_eq!(outbox.next(&CHAT, 15 * S).0.len(), 20);
        assert_eq!(outbox.next(&PAGER, 12 * S).0.len(), 1);
        let (messages, _) = outbox.next(&CHAT, 15 * S);
        outbox.told(&messages, Some(&"thread".to_owned()), 15 * S);
        outbox.offer(closed("00"), true, 16 * S);
        outbox.offer(closed("01"), true, 16 * S);
        let first = outbox.next(&CHAT, 60 * S).0;
        assert_eq!((first.len(), &first[0].handle), (10, &None), "those that are new are no answers to a thread");
        outbox.told(&first, None, 60 * S);
        let second = outbox.next(&CHAT, 70 * S).0;
        assert!(second.len() == 2 && second.iter().all(|one| one.handle.as_deref() == Some("thread")));
    }

    #[test]
    fn what_goes_on_is_told_again_where_the_kind_wants_it() {
        let mut outbox = Outbox::default();
        outbox.offer(notice("a", Severity::Warning), true, 10 * S);
        assert_eq!(send(&mut outbox, &MANAGER, 12 * S), one("a", NoticeEvent::Opened));
        assert_eq!(outbox.next(&MANAGER, 20 * S), (vec![], Some(72 * S)));
        let (again, _) = outbox.next(&MANAGER, 72 * S);
        assert!(again.len() == 1 && again[0].again);
        assert_eq!(outbox.waiting(&MANAGER, 72 * S), 0, "that is no news");
        outbox.told(&again, None, 72 * S);
        outbox.offer(notice("a", Severity::Info), true, 80 * S);
        let (other, _) = outbox.next(&MANAGER, 80 * S);
        assert!(other.len() == 1 && other[0].told == Some(Severity::Warning), "its labels changed");
    }

    #[test]
    fn it_is_bounded_and_counts_what_it_drops() {
        let mut outbox = Outbox::default();
        let mut dropped = 0;
        for number in 0..700u64 {
            let severity = if number < 10 { Severity::Critical } else { Severity::Warning };
            dropped += outbox.offer(notice(&format!("{number:04}"), severity), true, number * S);
        }
        assert_eq!((outbox.threads.len(), dropped), (MAX_THREADS, 200));
        assert!(outbox.threads.contains_key("0000") && !outbox.threads.contains_key("0010"), "the worst stay");
        let mut outbox = Outbox::default();
        let mut dropped = 0;
        for number in 0..40u64 {
            let mut large = notice(&format!("{number:04}"), Severity::Warning);
            large.cause = "x".repeat(100_000);
            dropped += outbox.offer(large, true, number * S);
        }
        assert!(dropped > 15 && serde_json::to_vec(&outbox).unwrap().len() < MAX_BYTES + 100_000, "{dropped}");
    }

    #[test]
    fn what_is_followed_no_longer_is_over() {
        let mut outbox = Outbox::default();
        for id in ["a", "b"] {
            outbox.offer(notice(id, Severity::Warning), true, S);
        }
        while !send(&mut outbox, &CHAT, 60 * S).is_empty() {}
        let json = serde_json::to_vec(&outbox).unwrap();
        let mut outbox: Outbox = serde_json::from_slice(&json).unwrap();
        outbox.close_others(&|id| id == "a", 70 * S);
        assert_eq!(send(&mut outbox, &CHAT, 90 * S), one("b", NoticeEvent::Resolved));
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing() {
        let mut outbox = Outbox::default();
        outbox.offer(notice("a", Severity::Warning), true, 1000 * S);
        assert_eq!(send(&mut outbox, &MANAGER, 10 * S), one("a", NoticeEvent::Opened));
        outbox.told(&outbox.next(&MANAGER, 2000 * S).0, None, 2000 * S);
        assert!(outbox.next(&MANAGER, 20 * S).0.len() == 1);
    }
}
