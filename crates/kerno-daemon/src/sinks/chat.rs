//! What chats have in common: one incident with all that is known, or a list of many.

use kerno_doctor::report::{Notice, NoticeEvent, NoticePart};

use super::outbox::Message;

/// Incidents that a list names.
const MAX_LISTED: usize = 15;

/// Of so few, more than the name is told.
const FEW: usize = 4;

/// The first line.
pub(super) fn headline(messages: &[Message]) -> String {
    match messages {
        [] => String::new(),
        [one] => one.notice.headline(one.event),
        several => {
            let open = several.iter().filter(|message| message.event != NoticeEvent::Resolved).count();
            let hosts = several.first().map_or("", |message| message.notice.host.as_str());
            let worst =
                several.iter().max_by_key(|message| (message.event != NoticeEvent::Resolved, message.notice.severity));
            let worst = worst.map(|message| message.notice.headline(message.event)).unwrap_or_default();
            match several.len() - open {
                0 => format!("{open} incidents on {hosts}; {worst}"),
                over if open == 0 => format!("RESOLVED: {over} incidents on {hosts}"),
                over => format!("{open} incidents, {over} resolved on {hosts}; {worst}"),
            }
        }
    }
}

/// What follows it.
pub(super) fn parts(messages: &[Message]) -> Vec<NoticePart> {
    match messages {
        [] => Vec::new(),
        // Nobody heard of it before, so everything is news.
        [Message { event: NoticeEvent::Resolved, told: None, notice, .. }] => {
            let mut parts = notice.parts(NoticeEvent::Resolved);
            parts.extend(notice.parts(NoticeEvent::Opened));
            parts
        }
        [one] => one.notice.parts(one.event),
        several => {
            let mut sorted: Vec<_> = several.iter().collect();
            sorted.sort_by_key(|message| {
                (message.event == NoticeEvent::Resolved, std::cmp::Reverse(message.notice.severity))
            });
            let few = several.len() <= FEW;
            let mut lines: Vec<_> = sorted.iter().take(MAX_LISTED).map(|message| listed(message, few)).collect();
            if let Some(more) = several.len().checked_sub(MAX_LISTED).filter(|more| *more > 0) {
                lines.push(format!("and {more} more"));
            }
            let list = vec![NoticePart::new("Incidents", lines, false)];
            let open = sorted.iter().filter(|message| message.event != NoticeEvent::Resolved);
            let first = open.filter_map(|message| message.notice.commands.first().filter(|_| few));
            let more = ["kerno incidents --open".to_owned(), "kerno incidents show ID".to_owned()];
            let look = first.map(|one| one.command.clone()).chain(more).collect();
            list.into_iter().chain([NoticePart::new("Look next (changes nothing)", look, true)]).collect()
        }
    }
}

/// One of several.
fn listed(message: &Message, in_full: bool) -> String {
    let Message { event, notice, .. } = message;
    let mut line = format!("{} ({})", notice.headline(*event), notice.id);
    if in_full && *event != NoticeEvent::Resolved {
        let left = notice.outlook.as_ref().map(|outlook| format!("{} in {}.", outlook.what, outlook.time_left));
        for text in [left.as_deref().unwrap_or_default(), &notice.cause, &notice.impact] {
            if !text.is_empty() {
                line += &format!("\n   {text}");
            }
        }
    }
    line
}

/// The last line.
pub(super) fn footer(messages: &[Message]) -> String {
    match messages {
        [one] => {
            let Notice { rule, id, .. } = &one.notice;
            format!("{}; {rule}, {id}", one.notice.place())
        }
        several => several.first().map(|message| message.notice.host.clone()).unwrap_or_default(),
    }
}
