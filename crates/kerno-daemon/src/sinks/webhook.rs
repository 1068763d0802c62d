//! Anything that takes JSON: a documented form, with a signature.

use hmac::{Hmac, KeyInit as _, Mac as _};
use kerno_doctor::report::Notices;
use sha2::{Digest as _, Sha256};

use super::deliver::{Deliver, Failure, Receipt};
use super::http::Http;
use super::outbox::Message;
use crate::explain::explain;
use crate::outbound::Secret;

#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) http: Http,
    pub(super) sink: String,
    pub(super) secret: Option<Secret>,
}

impl Deliver for Webhook {
    fn send(&mut self, messages: &[Message], now_unix_ns: u64) -> Result<Receipt, Failure> {
        let events = messages.iter().map(|message| (message.event, message.notice.clone())).collect();
        let notices = Notices::new(&self.sink, now_unix_ns, events);
        let body = serde_json::to_vec(&notices).map_err(|error| Failure::never(error.to_string()))?;
        let timestamp = (now_unix_ns / 1_000_000_000).to_string();
        let mut headers = vec![("Kerno-Delivery", delivery(messages)), ("Kerno-Timestamp", timestamp.clone())];
        if let Some(secret) = &self.secret {
            let key = secret.read().map_err(|error| Failure::later(explain(&error)))?;
            headers.push(("Kerno-Signature", signature(key.as_bytes(), &timestamp, &body)?));
        }
        Ok(self.http.ask("", &body, &headers)?.receipt())
    }
}

/// The same for each attempt to deliver the same, so that a receiver can tell what it has already.
fn delivery(messages: &[Message]) -> String {
    let mut hash = Sha256::new();
    for Message { event, notice, .. } in messages {
        let what = (&notice.id, event.name(), notice.severity.name(), notice.reopened);
        hash.update(format!("{what:?}\n"));
    }
    hex(&hash.finalize()[..16])
}

/// `v1=` and HMAC-SHA256 over `TIMESTAMP.BODY`, in hexadecimal digits.
pub(super) fn signature(key: &[u8], timestamp: &str, body: &[u8]) -> Result<String, Failure> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|error| Failure::never(error.to_string()))?;
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    Ok(format!("v1={}", hex(&mac.finalize().into_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use kerno_doctor::report::NoticeEvent;

    use super::super::testing::message;
    use super::*;

    #[test]
    fn the_signature_is_what_others_compute() {
        // printf '1780000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let signature = signature(b"secret", "1780000000", b"{\"a\":1}").unwrap();
        assert_eq!(signature, "v1=beb6c645b997ab516be5a8e5e2215a3394f24755b01119bf1d4cb6f7d7cf71da");
    }

    #[test]
    fn a_second_attempt_has_the_same_id_and_another_event_another() {
        let (mut later, opened) = (message(NoticeEvent::Opened), message(NoticeEvent::Opened));
        later.notice.lasted = "1 h".into();
        assert_eq!(delivery(&[later]), delivery(std::slice::from_ref(&opened)));
        assert_ne!(delivery(&[opened]), delivery(&[message(NoticeEvent::Worse)]));
    }
}
