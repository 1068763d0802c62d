//! Slack: an incoming webhook, or `chat.postMessage` with a token. With a token, what follows on an incident is an answer in its thread.

use std::time::Duration;

use kerno_doctor::report::NoticePart;
use serde_json::{Value, json};

use super::chat;
use super::deliver::{Deliver, Failure, Receipt};
use super::http::Http;
use super::outbox::Message;
use super::text::{fitted, lines};

/// The longest header and section that Slack takes, in characters.
const MAX_HEADER: usize = 150;
const MAX_SECTION: usize = 3000;
const MAX_TEXT: usize = 4000;

#[derive(Debug)]
pub(super) struct Slack {
    pub(super) http: Http,
    /// Of the API; a webhook has one of its own.
    pub(super) channel: Option<String>,
}

impl Deliver for Slack {
    fn send(&mut self, messages: &[Message], _: u64) -> Result<Receipt, Failure> {
        let mut body = body(messages);
        let Some(channel) = &self.channel else { return self.http.post("", &body, &[]) };
        body["channel"] = channel.as_str().into();
        if let Some(thread) = messages.first().and_then(|message| message.handle.as_ref()) {
            body["thread_ts"] = thread.as_str().into();
        }
        let bytes = serde_json::to_vec(&body).map_err(|error| Failure::never(error.to_string()))?;
        let answer = self.http.ask("", &bytes, &[])?;
        // Its API says with 200 that it did not work.
        let told: Value = serde_json::from_str(&answer.body)
            .map_err(|_| Failure::later(format!("the answer cannot be read: {}", answer.shown())))?;
        if told["ok"] == true {
            return Ok(Receipt { handle: told["ts"].as_str().map(str::to_owned), ..answer.receipt() });
        }
        let why = format!("Slack says: {}", told["error"].as_str().unwrap_or("no reason"));
        match told["error"].as_str() {
            Some(
                "ratelimited"
                | "rate_limited"
                | "internal_error"
                | "fatal_error"
                | "service_unavailable"
                | "request_timeout",
            ) => Err(Failure::Later { why, after: answer.retry_after.or(Some(Duration::from_secs(30))) }),
            _ => Err(Failure::never(why)),
        }
    }
}

fn body(messages: &[Message]) -> Value {
    let headline = chat::headline(messages);
    let mut blocks = vec![json!({
        "type": "header",
        "text": {"type": "plain_text", "text": fitted(&headline, MAX_HEADER, escaped), "emoji": false},
    })];
    let mut section = |text: String| {
        blocks.push(json!({"type": "section", "text": {"type": "mrkdwn", "text": text}}));
    };
    for NoticePart { heading, lines: all, commands, .. } in chat::parts(messages) {
        let room = MAX_SECTION - heading.len() - 16;
        let text = if commands {
            format!("*{heading}*\n```{}```", lines(&all, "", room, in_code))
        } else {
            let before = if all.len() > 1 { "• " } else { "" };
            format!("*{heading}*\n{}", lines(&all, before, room, escaped))
        };
        section(text);
    }
    let footer = fitted(&chat::footer(messages), MAX_SECTION, escaped);
    blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": footer}]}));
    // What notifications show.
    json!({"text": fitted(&headline, MAX_TEXT, escaped), "blocks": blocks, "unfurl_links": false, "unfurl_media": false})
}

/// These three begin links and mentions. What marks bold or code is left: nobody can do harm with it.
fn escaped(c: char, out: &mut String) {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        c => out.push(c),
    }
}

fn in_code(c: char, out: &mut String) {
    // It would end the block.
    if c == '`' { out.push('\u{2cb}') } else { escaped(c, out) }
}

#[cfg(test)]
mod tests {
    use kerno_doctor::report::NoticeEvent;

    use super::super::testing::{long, message, resolved, several};
    use super::*;

    /// The limits of Block Kit.
    fn is_valid(body: &Value) {
        let blocks = body["blocks"].as_array().unwrap();
        assert!((1..=50).contains(&blocks.len()));
        assert!(!body["text"].as_str().unwrap().is_empty());
        let length = |text: &Value| text.as_str().unwrap().chars().count();
        for block in blocks {
            match block["type"].as_str().unwrap() {
                "header" => {
                    assert_eq!(block["text"]["type"], "plain_text");
                    assert!((1..=150).contains(&length(&block["text"]["text"])));
                }
                "section" => {
                    assert_eq!(block["text"]["type"], "mrkdwn");
                    assert!((1..=3000).contains(&length(&block["text"]["text"])));
                }
                "context" => assert!((1..=10).contains(&block["elements"].as_array().unwrap().len())),
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn messages_are_within_the_limits() {
        for messages in [vec![message(NoticeEvent::Opened)], vec![resolved()], vec![long()], several(30)] {
            is_valid(&body(&messages));
        }
        let shown = body(&[message(NoticeEvent::Opened)]).to_string();
        for part in ["WARNING on web-1", "Evidence", "Look next", "kerno incidents show"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let long = body(&[long()]).to_string();
        assert!(long.contains("(cut)") && !long.contains("<!channel>"));
    }
}
