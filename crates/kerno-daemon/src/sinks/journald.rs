//! The systemd journal, by its own protocol: fields that `journalctl` can select by.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use kerno_doctor::report::NoticeEvent;
use kerno_model::Severity;

use super::deliver::{Deliver, Failure, Receipt};
use super::outbox::Message;
use super::text::fitted_bytes;

/// Where the journal listens.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// The same for all messages of a kind, so that they can be selected: `journalctl MESSAGE_ID=...`.
const INCIDENT_ID: &str = "c3a1f0d24b7e4d6c9a55e1b2f8d07346";

/// The longest message, in bytes. Larger datagrams need a file in their place.
const MAX_MESSAGE: usize = 48 << 10;

#[derive(Debug)]
pub(super) struct Journald {
    pub(super) socket: PathBuf,
    pub(super) timeout: Duration,
}

impl Deliver for Journald {
    fn send(&mut self, messages: &[Message], _: u64) -> Result<Receipt, Failure> {
        for message in messages {
            let sent = UnixDatagram::unbound().and_then(|socket| {
                socket.set_write_timeout(Some(self.timeout))?;
                socket.connect(&self.socket)?;
                socket.send(&entry(message))
            });
            sent.map_err(|error| Failure::later(error.to_string()))?;
        }
        Ok(Receipt { answer: format!("{} took it; the journal answers nothing", self.socket.display()), handle: None })
    }
}

fn entry(message: &Message) -> Vec<u8> {
    let Message { event, notice, .. } = message;
    let priority = match (event, notice.severity) {
        (NoticeEvent::Resolved, _) => "5",
        (_, Severity::Critical) => "2",
        (_, Severity::Warning) => "4",
        _ => "6",
    };
    let mut text = vec![notice.headline(*event)];
    for part in notice.parts(*event) {
        let before = if part.commands { "  $ " } else { "  " };
        text.push(format!("{}:", part.heading));
        text.extend(part.lines.iter().map(|line| format!("{before}{line}")));
    }
    let unit = notice.unit.as_deref().unwrap_or_default();
    let mut out = Vec::new();
    for (name, value) in [
        ("MESSAGE", fitted_bytes(&text.join("\n"), MAX_MESSAGE).as_str()),
        ("MESSAGE_ID", INCIDENT_ID),
        ("PRIORITY", priority),
        ("SYSLOG_IDENTIFIER", "kerno"),
        ("KERNO_INCIDENT", &notice.id),
        ("KERNO_EVENT", event.name()),
        ("KERNO_RULE", &notice.rule),
        ("KERNO_SEVERITY", notice.severity.name()),
        ("KERNO_UNIT", unit),
        // With this, `journalctl -u UNIT` shows it.
        ("OBJECT_SYSTEMD_UNIT", unit),
        ("KERNO_TEST", if notice.test { "1" } else { "" }),
    ] {
        field(&mut out, name, value);
    }
    out
}

/// `NAME=value`, or, if it has more than one line, its length and the value.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    out.extend(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend((value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::testing::{long, message, resolved};
    use super::*;

    /// Reads an entry as the journal does.
    fn read(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::new();
        while !entry.is_empty() {
            let line = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let (name, value);
            if let Some(equals) = entry[..line].iter().position(|byte| *byte == b'=') {
                (name, value) = (&entry[..equals], &entry[equals + 1..line]);
                entry = &entry[line + 1..];
            } else {
                let length =
                    usize::try_from(u64::from_le_bytes(entry[line + 1..line + 9].try_into().unwrap())).unwrap();
                (name, value) = (&entry[..line], &entry[line + 9..line + 9 + length]);
                assert_eq!(entry[line + 9 + length], b'\n');
                entry = &entry[line + 10 + length..];
            }
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert!(fields.insert(text(name), text(value)).is_none());
        }
        fields
    }

    #[test]
    fn entries_have_fields_to_select_by() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut sink = Journald { socket: path.clone(), timeout: Duration::from_secs(2) };
        assert!(matches!(sink.send(&[resolved()], 1), Err(Failure::Later { .. })));
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut buffer = vec![0; 100_000];
        for (sent, priority) in [(message(NoticeEvent::Opened), "4"), (resolved(), "5"), (long(), "2")] {
            sink.send(std::slice::from_ref(&sent), 1).unwrap();
            let length = journal.recv(&mut buffer).unwrap();
            let fields = read(&buffer[..length]);
            assert_eq!(fields["PRIORITY"], priority);
            assert_eq!(fields["KERNO_INCIDENT"], sent.notice.id);
            assert_eq!(fields["OBJECT_SYSTEMD_UNIT"], sent.notice.unit.clone().unwrap());
            assert!(fields["MESSAGE"].starts_with(&sent.notice.headline(sent.event)));
            // Fields that begin with an underscore are the journal's own.
            assert!(
                fields
                    .keys()
                    .all(|name| name.bytes().all(|c| c.is_ascii_uppercase() || c == b'_') && !name.starts_with('_'))
            );
        }
    }
}
