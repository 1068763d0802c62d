//! The files of a store: a header that says what the file is, then records, each with checksums of its own.
//!
//! | bytes | header |
//! |---|---|
//! | 8 | `kernost\n` |
//! | 4 | the format, [`FORMAT`] |
//! | 4 | the length of the JSON |
//! | 4 | CRC-32 of the JSON, preceded by the two numbers |
//! | n | JSON: [`Head`] |
//!
//! A record is a [`RecordHead`] of 64 bytes and a payload. All numbers are little-endian. Later formats keep the first 20 bytes of the header
//! and the end of file names, so that earlier versions of kerno know that they cannot read them.

use serde::{Deserialize, Serialize};

/// The version of the format.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"kernost\n";

/// The part of the header before the JSON.
pub(crate) const PREFIX_BYTES: usize = 20;

/// The longest header.
const MAX_HEAD_BYTES: u32 = 1 << 16;

/// What each file name ends with.
pub(crate) const EXTENSION: &str = ".kst";

/// The size of [`RecordHead`] in a file.
pub(crate) const RECORD_HEAD_BYTES: usize = 64;

/// What each record begins with, to find the next one behind damage.
pub(crate) const MARKER: [u8; 4] = [0xf5, b'K', b'r', 0x9c];

/// The largest payload.
pub(crate) const MAX_PAYLOAD_BYTES: u32 = 16 << 20;

/// What a file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    #[default]
    Windows,
    Incidents,
    State,
}

/// What the header of a file says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// Of windows: the resolution of the tier.
    pub(crate) resolution_seconds: u64,
    /// Grows from file to file.
    pub(crate) number: u64,
    /// All windows of a file are of one boot of one machine.
    pub(crate) boot_id: String,
    pub(crate) hostname: String,
    /// Of a state: its name.
    pub(crate) name: String,
    /// [`kerno_model::SCHEMA_VERSION`] when it was written.
    pub(crate) schema_version: u32,
    pub(crate) kerno_version: String,
    /// Of incidents: the file has all there are, and replaces those before it.
    pub(crate) complete: bool,
}

/// What the beginning of a file tells.
#[derive(Debug, PartialEq)]
pub(crate) enum Opening {
    /// It is one of ours, and its records begin there.
    Ours(Head, u64),
    /// A later format.
    Newer(String),
    /// It has been damaged, or is no file of a store.
    Damaged,
}

impl Head {
    /// The header as it is written.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut numbers = [0; 8];
        numbers[..4].copy_from_slice(&FORMAT.to_le_bytes());
        numbers[4..].copy_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
        let mut bytes = MAGIC.to_vec();
        bytes.extend(numbers);
        bytes.extend(crc(&[&numbers, &json]).to_le_bytes());
        bytes.extend(json);
        bytes
    }

    /// Reads the header of a file of which these are the first bytes, at least [`Head::most_bytes`] if it is so long.
    pub(crate) fn read(bytes: &[u8]) -> Opening {
        let Some((prefix, rest)) = bytes.split_at_checked(PREFIX_BYTES) else { return Opening::Damaged };
        let len = u32_at(prefix, 12) as usize;
        let Some(json) = rest.get(..len) else { return Opening::Damaged };
        if &prefix[..8] != MAGIC || crc(&[&prefix[8..16], json]) != u32_at(prefix, 16) {
            return Opening::Damaged;
        }
        let format = u32_at(prefix, 8);
        if format > FORMAT {
            return Opening::Newer(format!("format {format}; up to {FORMAT} are read"));
        }
        match serde_json::from_slice::<Self>(json) {
            Ok(head) if head.schema_version > kerno_model::SCHEMA_VERSION => Opening::Newer(format!(
                "windows of schema version {}, saved by kerno {}; up to {} are read",
                head.schema_version,
                head.kerno_version,
                kerno_model::SCHEMA_VERSION
            )),
            Ok(head) => Opening::Ours(head, (PREFIX_BYTES + len) as u64),
            Err(_) => Opening::Damaged,
        }
    }

    /// The most bytes that [`Head::read`] needs.
    pub(crate) const fn most_bytes() -> usize {
        PREFIX_BYTES + MAX_HEAD_BYTES as usize
    }

    /// The name of the file.
    pub(crate) fn file_name(&self) -> String {
        match self.kind {
            Kind::Windows => format!("windows-{}s-{:012}{EXTENSION}", self.resolution_seconds, self.number),
            Kind::Incidents => format!("incidents-{:012}{EXTENSION}", self.number),
            Kind::State => format!("state-{}{EXTENSION}", self.name),
        }
    }

    /// What the name of a file tells; `None` if it is not named as one of ours.
    pub(crate) fn of_file_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(EXTENSION)?.splitn(2, '-');
        let (kind, rest) = (parts.next()?, parts.next()?);
        let head = match kind {
            "windows" => {
                let (seconds, number) = rest.split_once('-')?;
                Self {
                    kind: Kind::Windows,
                    resolution_seconds: seconds.strip_suffix('s')?.parse().ok()?,
                    number: number.parse().ok()?,
                    ..Self::default()
                }
            }
            "incidents" => Self { kind: Kind::Incidents, number: rest.parse().ok()?, ..Self::default() },
            "state" => Self { kind: Kind::State, name: rest.to_owned(), ..Self::default() },
            _ => return None,
        };
        (head.file_name() == name).then_some(head)
    }
}

/// What the payload of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A window, compressed on its own.
    Key,
    /// A window, compressed with the last key before it as dictionary.
    Delta,
    /// An incident.
    Incident,
    /// A state.
    State,
}

impl Content {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Key => 1,
            Self::Delta => 2,
            Self::Incident => 3,
            Self::State => 4,
        }
    }

    const fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Key),
            2 => Some(Self::Delta),
            3 => Some(Self::Incident),
            4 => Some(Self::State),
            _ => None,
        }
    }
}

/// What stands before each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) content: Content,
    pub(crate) payload_bytes: u32,
    pub(crate) payload_crc: u32,
    /// Before compression.
    pub(crate) raw_bytes: u32,
    /// Of windows: the number of the first appended window that is in it; they are counted from 1 over the life of the store. Of incidents:
    /// a hash of the id.
    pub(crate) first: u64,
    /// Of windows: how many appended windows are in it.
    pub(crate) count: u32,
    /// Of a delta: from the beginning of the key to the beginning of this record.
    pub(crate) key_back: u32,
    /// By the wall clock, since 1970.
    pub(crate) started_unix_ns: u64,
    pub(crate) started_monotonic_ns: u64,
    /// From start to end.
    pub(crate) covered_ns: u64,
}

impl RecordHead {
    /// The number of the last appended window that is in it.
    pub(crate) const fn last(&self) -> u64 {
        self.first.saturating_add(self.count as u64).saturating_sub(1)
    }

    pub(crate) const fn ended_unix_ns(&self) -> u64 {
        self.started_unix_ns.saturating_add(self.covered_ns)
    }

    /// Head and payload.
    pub(crate) const fn bytes(&self) -> u64 {
        RECORD_HEAD_BYTES as u64 + self.payload_bytes as u64
    }

    /// Fills in what the payload determines.
    pub(crate) fn of_payload(self, payload: &[u8]) -> Self {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        Self { payload_bytes, payload_crc: crc(&[payload]), ..self }
    }

    /// The record as it is written.
    pub(crate) fn with_payload(self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_HEAD_BYTES + payload.len());
        bytes.extend(self.of_payload(payload).to_bytes());
        bytes.extend(payload);
        bytes
    }

    fn to_bytes(self) -> [u8; RECORD_HEAD_BYTES] {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        let mut put = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
        put(0, &MARKER);
        put(4, &self.payload_bytes.to_le_bytes());
        put(8, &[self.content.to_byte()]);
        put(12, &self.payload_crc.to_le_bytes());
        put(16, &self.first.to_le_bytes());
        put(24, &self.count.to_le_bytes());
        put(28, &self.key_back.to_le_bytes());
        put(32, &self.started_unix_ns.to_le_bytes());
        put(40, &self.covered_ns.to_le_bytes());
        put(48, &self.started_monotonic_ns.to_le_bytes());
        put(56, &self.raw_bytes.to_le_bytes());
        let crc = crc(&[&bytes[..60]]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the head of a record: `None` if it is not intact.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEAD_BYTES)?;
        if bytes[..4] != MARKER || crc(&[&bytes[..60]]) != u32_at(bytes, 60) {
            return None;
        }
        let head = Self {
            content: Content::of_byte(bytes[8])?,
            payload_bytes: u32_at(bytes, 4),
            payload_crc: u32_at(bytes, 12),
            raw_bytes: u32_at(bytes, 56),
            first: u64_at(bytes, 16),
            count: u32_at(bytes, 24),
            key_back: u32_at(bytes, 28),
            started_unix_ns: u64_at(bytes, 32),
            started_monotonic_ns: u64_at(bytes, 48),
            covered_ns: u64_at(bytes, 40),
        };
        (head.payload_bytes <= MAX_PAYLOAD_BYTES).then_some(head)
    }

    pub(crate) fn is_intact(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes as usize && crc(&[payload]) == self.payload_crc
    }
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head { resolution_seconds: 60, number: 7, boot_id: "b".into(), schema_version: 2, ..Head::default() }
    }

    #[test]
    fn headers_are_read_again() {
        let bytes = head().to_bytes();
        assert_eq!(Head::read(&bytes), Opening::Ours(head(), bytes.len() as u64));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(Head::read(&damaged), Opening::Damaged, "byte {at}");
            assert_eq!(Head::read(&bytes[..at]), Opening::Damaged, "cut at {at}");
        }
    }

    #[test]
    fn what_is_newer_is_known() {
        let newer = Head { schema_version: 3, kerno_version: "0.9.0".into(), ..head() }.to_bytes();
        let Opening::Newer(what) = Head::read(&newer) else { panic!() };
        assert_eq!(what, "windows of schema version 3, saved by kerno 0.9.0; up to 2 are read");
        // A later format, in which the JSON may be anything.
        let mut numbers = [0; 8];
        numbers[0] = 2;
        numbers[4] = 3;
        let mut bytes = MAGIC.to_vec();
        bytes.extend(numbers);
        bytes.extend(crc(&[&numbers, b"abc"]).to_le_bytes());
        bytes.extend(b"abc and more");
        let Opening::Newer(what) = Head::read(&bytes) else { panic!() };
        assert_eq!(what, "format 2; up to 1 are read");
    }

    #[test]
    fn file_names_are_read_again() {
        for head in [
            Head { resolution_seconds: 600, number: 12, ..Head::default() },
            Head { kind: Kind::Incidents, number: 3, ..Head::default() },
            Head { kind: Kind::State, name: "outbox".into(), ..Head::default() },
        ] {
            assert_eq!(Head::of_file_name(&head.file_name()), Some(head));
        }
        for other in ["windows-10s-1.kst", "windows-10-000000000001.kst", "incidents.kst", "x", ".kst", "lock"] {
            assert_eq!(Head::of_file_name(other), None, "{other}");
        }
    }

    #[test]
    fn records_are_read_again_or_known_to_be_damaged() {
        let head = RecordHead {
            content: Content::Delta,
            payload_bytes: 0,
            payload_crc: 0,
            raw_bytes: 9,
            first: 1 << 40,
            count: 6,
            key_back: 77,
            started_unix_ns: 1,
            started_monotonic_ns: 2,
            covered_ns: 3,
        };
        let bytes = head.with_payload(b"payload");
        let read = RecordHead::read(&bytes).unwrap();
        assert_eq!(RecordHead { payload_bytes: 0, payload_crc: 0, ..read }, head);
        assert_eq!((read.bytes(), read.last()), (bytes.len() as u64, (1 << 40) + 5));
        assert!(read.is_intact(&bytes[RECORD_HEAD_BYTES..]) && !read.is_intact(b"PAYLOAD"));
        for at in 0..RECORD_HEAD_BYTES {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(RecordHead::read(&damaged), None, "byte {at}");
        }
    }
}
