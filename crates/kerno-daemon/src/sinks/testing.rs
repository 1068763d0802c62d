//! Messages for tests.

use kerno_doctor::report::{Notice, NoticeEvent};
use kerno_model::{IncidentState, Severity};
use serde_json::json;

use super::outbox::Message;

const OPENED: u64 = 1_780_000_000_000_000_000;

fn notice() -> Notice {
    serde_json::from_value(json!({
        "id": "0123456789abcdef-1780000000",
        "rule": "fd_leak",
        "state": "open",
        "severity": "warning",
        "title": "leaky (4711) leaks file descriptors: 40 per second",
        "cause": "It opens <files> & `never` closes them.",
        "impact": "At its limit, it can open no file and accept no connection.",
        "host": "web-1",
        "unit": "leaky.service",
        "culprit": {"pid": 4711, "process": "leaky"},
        "who": "leaky (4711), user app",
        "victims": ["nginx (80)"],
        "evidence": [{"what": "file descriptors per second", "measured": "40", "threshold": "1", "value": 40.0, "unit": "count"}],
        "since": "20:26:00 UTC",
        "opened": "2026-05-28T20:26:40Z",
        "closed": null,
        "opened_unix_ns": OPENED,
        "closed_unix_ns": null,
        "lasted": "1 min",
        "reopened": 0,
        "outlook": {"what": "its limit is reached", "seconds": 60.0, "time_left": "1 min", "at_unix_ns": OPENED + 60_000_000_000},
        "changes": [{"at": "2026-05-28T20:20:00Z", "what": "leaky.service was restarted"}],
        "commands": [{"command": "lsof -p 4711", "why": "lists its files"}],
        "symptom": false,
        "test": false
    }))
    .unwrap()
}

pub(super) fn message(event: NoticeEvent) -> Message {
    Message { event, notice: notice(), told: None, handle: None, again: false }
}

/// One that was told, and is over.
pub(super) fn resolved() -> Message {
    let mut message = message(NoticeEvent::Resolved);
    message.notice.state = IncidentState::Closed;
    message.notice.closed = Some("2026-05-28T20:27:40Z".into());
    message.notice.closed_unix_ns = Some(OPENED + 60_000_000_000);
    message.told = Some(Severity::Warning);
    message
}

/// One with more text than any service takes, of characters that services treat differently.
pub(super) fn long() -> Message {
    let mut message = message(NoticeEvent::Opened);
    let notice = &mut message.notice;
    notice.severity = Severity::Critical;
    let text = "<!channel> `é漢🦀\"*_~| @everyone ".repeat(400);
    (notice.title, notice.cause, notice.impact, notice.who) = (text.clone(), text.clone(), text.clone(), text.clone());
    notice.victims = vec![text.clone(); 5];
    let (evidence, change, command) =
        (notice.evidence[0].clone(), notice.changes[0].clone(), notice.commands[0].clone());
    (notice.evidence, notice.changes, notice.commands) = (vec![evidence; 8], vec![change; 6], vec![command; 5]);
    notice.evidence.iter_mut().for_each(|one| one.what = text.clone());
    notice.changes.iter_mut().for_each(|one| one.what = text.clone());
    notice.commands.iter_mut().for_each(|one| one.command = text.clone());
    message
}

pub(super) fn several(count: usize) -> Vec<Message> {
    let one = |number: usize| {
        let mut message = if number.is_multiple_of(3) { resolved() } else { message(NoticeEvent::Opened) };
        message.notice.id = format!("{number:016x}-1780000000");
        message
    };
    (0..count).map(one).collect()
}
