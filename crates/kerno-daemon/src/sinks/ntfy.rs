//! ntfy: ntfy.sh or another server.

use kerno_doctor::report::NoticeEvent;
use kerno_model::Severity;
use serde_json::{Value, json};

use super::chat;
use super::deliver::{Deliver, Failure, Receipt};
use super::http::Http;
use super::outbox::Message;
use super::text::fitted_bytes;

/// What ntfy takes without making a file of it, in bytes.
const MAX_MESSAGE: usize = 4000;
const MAX_TITLE: usize = 250;

#[derive(Debug)]
pub(super) struct Ntfy {
    pub(super) http: Http,
    pub(super) topic: String,
}

impl Deliver for Ntfy {
    fn send(&mut self, messages: &[Message], _: u64) -> Result<Receipt, Failure> {
        self.http.post("", &body(messages, &self.topic), &[])
    }
}

fn body(messages: &[Message], topic: &str) -> Value {
    let mut text = Vec::new();
    for part in chat::parts(messages) {
        let before = if part.commands { "$ " } else { "" };
        let lines: Vec<_> = part.lines.iter().map(|line| format!("{before}{line}")).collect();
        text.push(format!("{}: {}", part.heading, lines.join("\n")));
    }
    text.push(chat::footer(messages));
    let open = messages.iter().filter(|message| message.event != NoticeEvent::Resolved);
    let (priority, tag) = match open.map(|message| message.notice.severity).max() {
        None => (2, "white_check_mark"),
        Some(Severity::Critical) => (5, "rotating_light"),
        Some(Severity::Warning) => (4, "warning"),
        Some(_) => (3, "information_source"),
    };
    json!({
        "topic": topic,
        "title": fitted_bytes(&chat::headline(messages), MAX_TITLE),
        "message": fitted_bytes(&text.join("\n"), MAX_MESSAGE),
        "priority": priority,
        "tags": [tag, "kerno"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{long, message, resolved, several};
    use super::*;

    #[test]
    fn messages_are_within_the_limits() {
        for messages in [vec![message(NoticeEvent::Opened)], vec![resolved()], vec![long()], several(30)] {
            let body = body(&messages, "kerno");
            assert_eq!(body["topic"], "kerno");
            assert!((1..=4096).contains(&body["message"].as_str().unwrap().len()));
            assert!((1..=250).contains(&body["title"].as_str().unwrap().len()));
            assert!((1..=5).contains(&body["priority"].as_u64().unwrap()));
            assert!(body["tags"].as_array().unwrap().iter().all(Value::is_string));
        }
        assert_eq!(body(&[resolved()], "kerno")["priority"], 2);
    }
}
