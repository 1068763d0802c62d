//! Discord: a webhook, with an embed a message.

use kerno_doctor::report::NoticeEvent;
use serde_json::{Value, json};

use super::chat;
use super::deliver::{Deliver, Failure, Receipt};
use super::http::Http;
use super::outbox::Message;
use super::text::{fitted, lines, plain};

/// What Discord takes, in characters.
const MAX_TITLE: usize = 256;
const MAX_DESCRIPTION: usize = 2000;
const MAX_VALUE: usize = 1024;
const MAX_FIELDS: usize = 25;
const MAX_FOOTER: usize = 400;
const MAX_EMBED: usize = 6000;

#[derive(Debug)]
pub(super) struct Discord {
    pub(super) http: Http,
}

impl Deliver for Discord {
    fn send(&mut self, messages: &[Message], _: u64) -> Result<Receipt, Failure> {
        self.http.post("", &body(messages), &[])
    }
}

fn body(messages: &[Message]) -> Value {
    let title = fitted(&chat::headline(messages), MAX_TITLE, plain);
    let footer = fitted(&chat::footer(messages), MAX_FOOTER, plain);
    let length = |text: &str| text.chars().count();
    let mut room = MAX_EMBED - length(&title) - length(&footer);
    let (mut description, mut fields) = (String::new(), Vec::new());
    for part in chat::parts(messages) {
        let value = |room: usize| {
            if part.commands {
                format!("```sh\n{}\n```", lines(&part.lines, "", room - 11, in_code))
            } else {
                lines(&part.lines, if part.lines.len() > 1 { "- " } else { "" }, room, escaped)
            }
        };
        // A list of many incidents is longer than a field may be.
        if messages.len() > 1 && description.is_empty() {
            description = value(MAX_DESCRIPTION);
            room -= length(&description);
            continue;
        }
        let needed = length(part.heading) + 32;
        if fields.len() == MAX_FIELDS || room < needed {
            break;
        }
        let value = value(MAX_VALUE.min(room - length(part.heading)));
        room -= length(part.heading) + length(&value);
        fields.push(json!({"name": part.heading, "value": value, "inline": false}));
    }
    let mut embed = json!({"title": title, "color": colour(messages), "fields": fields, "footer": {"text": footer}});
    if !description.is_empty() {
        embed["description"] = description.into();
    }
    if let Some(first) = messages.first() {
        embed["timestamp"] = first.notice.opened.as_str().into();
    }
    // Nobody is called by a name that a program gave itself.
    json!({"username": "kerno", "embeds": [embed], "allowed_mentions": {"parse": []}})
}

fn colour(messages: &[Message]) -> u32 {
    use kerno_model::Severity;
    let open = messages.iter().filter(|message| message.event != NoticeEvent::Resolved);
    match open.map(|message| message.notice.severity).max() {
        None => 0x002e_a043,
        Some(Severity::Critical) => 0x00d1_242f,
        Some(Severity::Warning) => 0x00d2_9922,
        Some(_) => 0x0057_606a,
    }
}

fn escaped(c: char, out: &mut String) {
    if matches!(c, '\\' | '*' | '_' | '~' | '|' | '`' | '>' | '#' | '[' | ']' | '(' | ')' | '<' | '@') {
        out.push('\\');
    }
    out.push(c);
}

fn in_code(c: char, out: &mut String) {
    // It would end the block.
    out.push(if c == '`' { '\u{2cb}' } else { c });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{long, message, resolved, several};
    use super::*;

    fn is_valid(body: &Value) {
        let embeds = body["embeds"].as_array().unwrap();
        assert!((1..=10).contains(&embeds.len()));
        let length = |text: &Value| text.as_str().unwrap_or_default().chars().count();
        for embed in embeds {
            assert!((1..=256).contains(&length(&embed["title"])) && length(&embed["description"]) <= 4096);
            let fields = embed["fields"].as_array().unwrap();
            assert!(fields.len() <= 25);
            let mut whole = length(&embed["title"]) + length(&embed["description"]) + length(&embed["footer"]["text"]);
            for field in fields {
                assert!((1..=256).contains(&length(&field["name"])) && (1..=1024).contains(&length(&field["value"])));
                whole += length(&field["name"]) + length(&field["value"]);
            }
            assert!(whole <= 6000, "{whole}");
            assert!(embed["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        }
        assert_eq!(body["allowed_mentions"]["parse"], json!([]));
    }

    #[test]
    fn messages_are_within_the_limits() {
        for messages in [vec![message(NoticeEvent::Opened)], vec![resolved()], vec![long()], several(30)] {
            is_valid(&body(&messages));
        }
        assert_eq!(body(&[resolved()])["embeds"][0]["color"], 0x002e_a043);
        let shown = body(&[message(NoticeEvent::Opened)]).to_string();
        assert!(shown.contains("WARNING on web-1") && shown.contains("```sh\\n"), "{shown}");
    }
}
