//! Microsoft Teams: a workflow that starts with a webhook and posts an adaptive card.

use kerno_doctor::report::NoticeEvent;
use kerno_model::Severity;
use serde_json::{Value, json};

use super::chat;
use super::deliver::{Deliver, Failure, Receipt};
use super::http::Http;
use super::outbox::Message;
use super::text::{fitted, lines, plain};

/// Teams takes 28 KB. So long may a part be, in characters, of which one can be three bytes and more in JSON.
const MAX_PART: usize = 800;
const MAX_TITLE: usize = 300;
/// The longest message, in bytes.
const MAX_BYTES: usize = 27_000;

#[derive(Debug)]
pub(super) struct Teams {
    pub(super) http: Http,
}

impl Deliver for Teams {
    fn send(&mut self, messages: &[Message], _: u64) -> Result<Receipt, Failure> {
        self.http.post("", &body(messages), &[])
    }
}

fn body(messages: &[Message]) -> Value {
    let title = fitted(&chat::headline(messages), MAX_TITLE, plain);
    let mut elements = vec![text(&title, json!({"weight": "Bolder", "size": "Medium", "color": colour(messages)}))];
    for part in chat::parts(messages) {
        let before = if part.lines.len() > 1 && !part.commands { "- " } else { "" };
        let all = lines(&part.lines, before, MAX_PART, plain);
        let style = if part.commands { json!({"fontType": "Monospace"}) } else { json!({}) };
        let added = [text(part.heading, json!({"weight": "Bolder"})), text(&all, style)];
        elements.extend(added);
        if card(&elements).to_string().len() > MAX_BYTES {
            elements.truncate(elements.len() - 2);
            elements.push(text(super::text::CUT, json!({"isSubtle": true})));
            break;
        }
    }
    let footer = fitted(&chat::footer(messages), MAX_TITLE, plain);
    elements.push(text(&footer, json!({"isSubtle": true, "size": "Small"})));
    card(&elements)
}

/// Text that is no Markdown: names of programs are nobody's formatting.
fn text(text: &str, style: Value) -> Value {
    let mut run = style;
    run["type"] = "TextRun".into();
    run["text"] = text.into();
    json!({"type": "RichTextBlock", "inlines": [run]})
}

fn card(elements: &[Value]) -> Value {
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "msteams": {"width": "Full"},
                "body": elements,
            },
        }],
    })
}

fn colour(messages: &[Message]) -> &'static str {
    let open = messages.iter().filter(|message| message.event != NoticeEvent::Resolved);
    match open.map(|message| message.notice.severity).max() {
        None => "Good",
        Some(Severity::Critical) => "Attention",
        Some(Severity::Warning) => "Warning",
        Some(_) => "Default",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{long, message, resolved, several};
    use super::*;

    /// What the schema of adaptive cards 1.4 says of the parts that are used.
    fn is_valid(body: &Value) {
        assert!(body.to_string().len() <= 28 << 10, "{}", body.to_string().len());
        assert_eq!(body["type"], "message");
        let attachment = &body["attachments"][0];
        assert_eq!(attachment["contentType"], "application/vnd.microsoft.card.adaptive");
        assert_eq!(
            (&attachment["content"]["type"], &attachment["content"]["version"]),
            (&"AdaptiveCard".into(), &"1.4".into())
        );
        for element in attachment["content"]["body"].as_array().unwrap() {
            assert_eq!(element["type"], "RichTextBlock");
            for run in element["inlines"].as_array().unwrap() {
                assert_eq!(run["type"], "TextRun");
                assert!(!run["text"].as_str().unwrap().is_empty());
                for (key, value) in run.as_object().unwrap() {
                    let allowed: &[&str] = match key.as_str() {
                        "type" | "text" => continue,
                        "weight" => &["Lighter", "Default", "Bolder"],
                        "size" => &["Default", "Small", "Medium", "Large", "ExtraLarge"],
                        "color" => &["Default", "Dark", "Light", "Accent", "Good", "Warning", "Attention"],
                        "fontType" => &["Default", "Monospace"],
                        "isSubtle" => {
                            assert!(value.is_boolean());
                            continue;
                        }
                        other => panic!("{other}"),
                    };
                    assert!(allowed.contains(&value.as_str().unwrap()), "{key}: {value}");
                }
            }
        }
    }

    #[test]
    fn messages_are_within_the_limits() {
        for messages in [vec![message(NoticeEvent::Opened)], vec![resolved()], vec![long()], several(30)] {
            is_valid(&body(&messages));
        }
        let shown = body(&[message(NoticeEvent::Opened)]).to_string();
        assert!(shown.contains("WARNING on web-1") && shown.contains("Monospace"), "{shown}");
    }
}
