//! PagerDuty, Events API v2: an alert an incident, by its id.

use kerno_doctor::report::NoticeEvent;
use kerno_model::Severity;
use serde_json::{Map, Value, json};

use super::deliver::{Deliver, Failure, Receipt};
use super::http::Http;
use super::outbox::Message;
use super::text::{fitted, plain};
use crate::explain::explain;
use crate::outbound::Secret;

/// What PagerDuty takes, in characters.
const MAX_SUMMARY: usize = 1024;
const MAX_DETAIL: usize = 4000;

#[derive(Debug)]
pub(super) struct PagerDuty {
    pub(super) http: Http,
    pub(super) key: Secret,
}

impl Deliver for PagerDuty {
    fn send(&mut self, messages: &[Message], _: u64) -> Result<Receipt, Failure> {
        let key = self.key.read().map_err(|error| Failure::later(explain(&error)))?;
        let mut receipt = Receipt::default();
        for message in messages {
            receipt = self.http.post("", &event(message, &key), &[])?;
        }
        Ok(receipt)
    }
}

fn event(message: &Message, key: &str) -> Value {
    let Message { event, notice, .. } = message;
    if *event == NoticeEvent::Resolved {
        return json!({"routing_key": key, "event_action": "resolve", "dedup_key": notice.id});
    }
    let mut details = Map::new();
    for part in notice.parts(*event) {
        details.insert(part.heading.to_owned(), fitted(&part.lines.join("\n"), MAX_DETAIL, plain).into());
    }
    let severity = match notice.severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        _ => "info",
    };
    json!({
        "routing_key": key,
        "event_action": "trigger",
        "dedup_key": notice.id,
        "client": "kerno",
        "payload": {
            "summary": fitted(&notice.headline(*event), MAX_SUMMARY, plain),
            "source": notice.host,
            "severity": severity,
            "timestamp": notice.opened,
            "component": notice.unit,
            "group": notice.host,
            "class": notice.rule,
            "custom_details": details,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{long, message, resolved};
    use super::*;

    #[test]
    fn events_are_as_the_api_wants_them() {
        for message in [message(NoticeEvent::Opened), message(NoticeEvent::Worse), long()] {
            let event = event(&message, "key");
            assert_eq!((&event["routing_key"], &event["event_action"]), (&"key".into(), &"trigger".into()));
            assert!((1..=255).contains(&event["dedup_key"].as_str().unwrap().len()));
            let payload = &event["payload"];
            assert!((1..=1024).contains(&payload["summary"].as_str().unwrap().chars().count()));
            assert!(["critical", "error", "warning", "info"].contains(&payload["severity"].as_str().unwrap()));
            assert!(!payload["source"].as_str().unwrap().is_empty());
            assert!(payload["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
            assert!(event.to_string().len() < 512 << 10);
        }
        let over = event(&resolved(), "key");
        let opened = event(&message(NoticeEvent::Opened), "key");
        assert_eq!((&over["event_action"], &over["dedup_key"]), (&"resolve".into(), &opened["dedup_key"]));
    }
}
