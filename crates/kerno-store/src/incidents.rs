//! Incidents: each time one changes, it is appended; from time to time the file is written again with the latest of each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kerno_model::{IncidentId, IncidentRecord, SCHEMA_VERSION};

use crate::file::{Appended, replace, room};
use crate::format::{Content, Head, Kind, MAX_PAYLOAD_BYTES, RecordHead};
use crate::mend::Sound;
use crate::scan::{Entry, payload};
use crate::{StoreError, Timestamp, codec};

/// So much that is out of date is no reason to write everything again, in bytes.
const SMALL_BYTES: u64 = 256 << 10;

/// The latest record of an incident.
#[derive(Clone, Copy, Debug)]
struct Live {
    file: usize,
    entry: Entry,
}

/// The incidents of a store.
#[derive(Debug, Default)]
pub(crate) struct IncidentLog {
    /// Its files and their sizes; the last one is written. Mostly there is one.
    files: Vec<(PathBuf, u64)>,
    writing: Option<Appended>,
    live: BTreeMap<u64, Live>,
}

/// An incident that is ready to be written.
#[derive(Debug)]
pub(crate) struct ReadyIncident {
    head: RecordHead,
    record: Vec<u8>,
}

impl ReadyIncident {
    pub(crate) fn new(record: &IncidentRecord) -> Result<Self, StoreError> {
        let incident = &record.incident;
        let what = || format!("the incident {}", incident.id);
        let json = serde_json::to_vec(record).map_err(|source| StoreError::Value { what: what(), source })?;
        let payload = codec::compress(&json, &[]);
        let raw_bytes = u32::try_from(json.len()).ok().filter(|bytes| *bytes <= MAX_PAYLOAD_BYTES);
        let raw_bytes = raw_bytes.ok_or_else(|| StoreError::TooLarge { what: what(), bytes: json.len() as u64 })?;
        // 0 as end is: it is not over, and is never too old.
        let covered_ns =
            incident.closed.map_or(0, |closed| closed.unix_ns.saturating_sub(incident.opened.unix_ns).max(1));
        let head = RecordHead {
            content: Content::Incident,
            payload_bytes: 0,
            payload_crc: 0,
            raw_bytes,
            first: hash(&incident.id),
            count: 0,
            key_back: 0,
            started_unix_ns: incident.opened.unix_ns,
            started_monotonic_ns: incident.opened.monotonic_ns,
            covered_ns,
        };
        let head = head.of_payload(&payload);
        Ok(Self { head, record: head.with_payload(&payload) })
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.record.len() as u64
    }
}

/// FNV-1a: the same for every version of kerno.
fn hash(id: &IncidentId) -> u64 {
    id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl IncidentLog {
    /// Takes the files that were found, by number.
    pub(crate) fn new(found: Vec<Sound>) -> Self {
        let mut log = Self::default();
        for sound in found {
            if sound.head.complete {
                // It replaces those before it, which a crash may have left there.
                log.live.clear();
                log.files.retain(|(old, _)| std::fs::remove_file(old).is_err());
            }
            let file = log.files.len();
            for entry in &sound.scan.entries {
                log.live.insert(entry.head.first, Live { file, entry: *entry });
            }
            log.files.push((sound.path, sound.len));
        }
        log
    }

    pub(crate) fn count(&self) -> u64 {
        self.live.len() as u64
    }

    pub(crate) fn room(&self) -> u64 {
        self.files.iter().map(|(_, len)| room(*len)).sum()
    }

    /// What the latest record of each takes.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live.values().map(|live| live.entry.head.bytes()).sum()
    }

    /// How much more room the store takes with this one, at most.
    pub(crate) fn growth(&self, ready: &ReadyIncident) -> u64 {
        room(ready.bytes()) + 4096
    }

    /// Appends, and waits until it is on the disk.
    pub(crate) fn put(&mut self, dir: &Path, ready: ReadyIncident, number: u64) -> Result<(), StoreError> {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_sound()) {
            self.writing = None;
        }
        if self.writing.is_none() {
            self.writing = Some(self.begin(dir, number)?);
        }
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let offset = writing.end;
        writing.append(&ready.record)?;
        let file = self.files.len() - 1;
        self.files[file].1 = writing.end;
        self.live.insert(ready.head.first, Live { file, entry: Entry { offset, head: ready.head } });
        Ok(())
    }

    /// Goes on with the last file after a start, or makes a new one.
    fn begin(&mut self, dir: &Path, number: u64) -> Result<Appended, StoreError> {
        if let Some((path, len)) = self.files.last()
            && let Ok(file) = Appended::open(path.clone(), *len)
            && file.is_sound()
        {
            return Ok(file);
        }
        let head = head(number, false);
        let file = Appended::create(dir.join(head.file_name()), &head.to_bytes())?;
        self.files.push((file.path.clone(), file.end));
        Ok(file)
    }

    /// Whether so much is out of date that the file should be written again.
    pub(crate) fn is_wasteful(&self) -> bool {
        let total: u64 = self.files.iter().map(|(_, len)| len).sum();
        let live = self.live_bytes();
        total > live + live.max(SMALL_BYTES)
    }

    /// Forgets those that were over before this moment. They are in the file until it is written again.
    pub(crate) fn forget_before(&mut self, moment: Timestamp) {
        self.live.retain(|_, live| live.entry.head.covered_ns == 0 || live.entry.head.ended_unix_ns() >= moment);
    }

    /// Forgets those that have been over for longest, until the rest takes no more than this. Open ones go last.
    pub(crate) fn forget_down_to(&mut self, bytes: u64) {
        let mut total = self.live_bytes();
        if total <= bytes {
            return;
        }
        let mut order: Vec<_> = self
            .live
            .iter()
            .map(|(id, live)| (live.entry.head.covered_ns == 0, live.entry.head.ended_unix_ns(), *id))
            .collect();
        order.sort_unstable();
        for (_, _, id) in order {
            if total <= bytes {
                break;
            }
            total -= self.live.remove(&id).map_or(0, |live| live.entry.head.bytes());
        }
    }

    /// How much room it takes to write all again.
    pub(crate) fn rewrite_growth(&self) -> u64 {
        room(self.live_bytes() + 4096)
    }

    /// Writes the latest record of each to a new file, which replaces the others.
    pub(crate) fn rewrite(&mut self, dir: &Path, number: u64) -> Result<(), StoreError> {
        let head = head(number, true);
        let path = dir.join(head.file_name());
        let header = head.to_bytes();
        let mut order: Vec<_> = self.live.iter().map(|(id, live)| (live.file, live.entry.offset, *id)).collect();
        order.sort_unstable();
        let mut live = BTreeMap::new();
        let mut end = header.len() as u64;
        let files = &self.files;
        replace(&path, |new| {
            new.write_all_at(&header, 0)?;
            let mut open: Option<(usize, File)> = None;
            for (file, _, id) in order {
                let Some(old) = self.live.get(&id) else { continue };
                if open.as_ref().is_none_or(|(known, _)| *known != file) {
                    open = Some((file, File::open(&files[file].0)?));
                }
                let Some((_, from)) = &open else { continue };
                // Damaged meanwhile: the others are not to suffer from it.
                let Some(bytes) = payload(from, &old.entry)? else { continue };
                let record = old.entry.head.with_payload(&bytes);
                new.write_all_at(&record, end)?;
                let head = old.entry.head;
                live.insert(id, Live { file: 0, entry: Entry { offset: end, head } });
                end += record.len() as u64;
            }
            Ok(())
        })?;
        // What cannot be removed counts on, and is removed at the next start: the new file says that it replaces it.
        self.files
            .retain(|(old, _)| std::fs::remove_file(old).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
        let file = self.files.len();
        live.values_mut().for_each(|live: &mut Live| live.file = file);
        self.files.push((path, end));
        (self.live, self.writing) = (live, None);
        Ok(())
    }
}

fn head(number: u64, complete: bool) -> Head {
    Head {
        kind: Kind::Incidents,
        number,
        schema_version: SCHEMA_VERSION,
        kerno_version: env!("CARGO_PKG_VERSION").to_owned(),
        complete,
        ..Head::default()
    }
}
