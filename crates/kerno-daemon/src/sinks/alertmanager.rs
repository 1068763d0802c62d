//! Prometheus Alertmanager, API v2: an alert an incident, sent again while it goes on. If kerno ends, Alertmanager resolves it by itself.

use std::time::Duration;

use kerno_doctor::report::{Notice, NoticeEvent, rfc3339};
use kerno_model::Severity;
use serde_json::{Map, Value, json};

use super::deliver::{Deliver, Failure, Receipt};
use super::http::Http;
use super::outbox::Message;
use super::text::{fitted, plain};

/// An alert that is not sent again is over after so many times the interval between sends, as with Prometheus.
const PATIENCE: u32 = 4;

/// The longest annotation, in characters.
const MAX_TEXT: usize = 4000;

#[derive(Debug)]
pub(super) struct Alertmanager {
    pub(super) http: Http,
    pub(super) resend: Duration,
}

impl Deliver for Alertmanager {
    fn send(&mut self, messages: &[Message], now_unix_ns: u64) -> Result<Receipt, Failure> {
        self.http.post("/api/v2/alerts", &alerts(messages, self.resend, now_unix_ns), &[])
    }
}

fn alerts(messages: &[Message], resend: Duration, now_unix_ns: u64) -> Value {
    let until = now_unix_ns.saturating_add(u64::try_from((resend * PATIENCE).as_nanos()).unwrap_or(u64::MAX));
    let mut alerts = Vec::new();
    for message in messages {
        let notice = &message.notice;
        // Its severity is a label, so another severity is another alert.
        if let Some(told) = message.told.filter(|told| *told != notice.severity) {
            alerts.push(alert(notice, told, now_unix_ns));
        }
        let over = notice.closed_unix_ns.filter(|_| message.event == NoticeEvent::Resolved);
        alerts.push(alert(notice, notice.severity, over.unwrap_or(until)));
    }
    Value::Array(alerts)
}

fn alert(notice: &Notice, severity: Severity, ends_unix_ns: u64) -> Value {
    let mut labels = Map::new();
    let name = if notice.test { "KernoTest" } else { "KernoIncident" };
    for (label, value) in [
        ("alertname", name),
        ("severity", severity.name()),
        ("rule", &notice.rule),
        ("instance", &notice.host),
        ("incident", &notice.id),
        ("unit", notice.unit.as_deref().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            labels.insert(label.to_owned(), value.into());
        }
    }
    let mut annotations = Map::new();
    annotations.insert("summary".to_owned(), fitted(&notice.title, MAX_TEXT, plain).into());
    let mut description = Vec::new();
    for part in notice.parts(NoticeEvent::Opened) {
        let key = match part.heading {
            "Look next (changes nothing)" => "commands".to_owned(),
            heading => heading.to_lowercase().replace(' ', "_"),
        };
        let text = part.lines.join("\n");
        if matches!(part.heading, "Why" | "Impact" | "Time left") {
            description.push(text.clone());
        }
        annotations.insert(key, fitted(&text, MAX_TEXT, plain).into());
    }
    annotations.insert("description".to_owned(), fitted(&description.join(" "), MAX_TEXT, plain).into());
    json!({
        "labels": labels,
        "annotations": annotations,
        "startsAt": rfc3339(notice.opened_unix_ns),
        "endsAt": rfc3339(ends_unix_ns),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{message, resolved};
    use super::*;

    const RESEND: Duration = Duration::from_secs(60);

    #[test]
    fn an_alert_has_its_identity_in_its_labels_and_ends_if_it_is_not_sent_again() {
        let now = 1_780_000_100_000_000_000;
        let sent = alerts(&[message(NoticeEvent::Opened)], RESEND, now);
        let alert = &sent[0];
        // The schema of the API: both maps have text only, and times are RFC 3339.
        for map in ["labels", "annotations"] {
            assert!(
                alert[map].as_object().unwrap().values().all(|value| value.as_str().is_some_and(|v| !v.is_empty()))
            );
        }
        for label in alert["labels"].as_object().unwrap().keys().chain(alert["annotations"].as_object().unwrap().keys())
        {
            assert!(label.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "{label}");
        }
        assert_eq!(alert["labels"]["alertname"], "KernoIncident");
        assert_eq!(alert["labels"]["severity"], "warning");
        assert!(alert["annotations"]["commands"].as_str().unwrap().contains("kerno incidents show"));
        let ends: jiff::Timestamp = alert["endsAt"].as_str().unwrap().parse().unwrap();
        assert_eq!(ends.as_second() - 1_780_000_100, 240);
        let over = alerts(&[resolved()], RESEND, now);
        assert_eq!((&over[0]["labels"], over[0]["endsAt"].as_str()), (&alert["labels"], Some("2026-05-28T20:27:40Z")));
    }

    #[test]
    fn another_severity_ends_the_alert_that_was_there() {
        let mut worse = message(NoticeEvent::Worse);
        (worse.told, worse.notice.severity) = (Some(Severity::Warning), Severity::Critical);
        let sent = alerts(&[worse], RESEND, 1_780_000_100_000_000_000);
        let severities: Vec<_> = sent.as_array().unwrap().iter().map(|alert| &alert["labels"]["severity"]).collect();
        assert_eq!(severities, ["warning", "critical"]);
        assert_eq!(sent[0]["endsAt"], "2026-05-28T20:28:20Z");
    }
}
