//! The windows of one resolution: files, of which the last one is written.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use kerno_model::{SCHEMA_VERSION, Window};

use crate::file::{Appended, room};
use crate::format::{Content, Head, Kind, MAX_PAYLOAD_BYTES, RecordHead};
use crate::scan::{Entry, Look, Scan, opening, scan};
use crate::settings::Tier;
use crate::status::TierStatus;
use crate::window_files::Files;
use crate::{StoreError, codec};

/// After so many windows, one is compressed on its own again. If it is damaged, so many cannot be read.
const WINDOWS_PER_KEY: u32 = 60;

/// Into so many files the time is divided that windows are kept: what is removed is whole files.
const FILES_PER_TIER: u64 = 24;

/// The times of windows, as they are stored.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times of a window, accurate to some hundred nanoseconds; negative ones become 0"
)]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// A window and its place among all that were ever appended.
#[derive(Clone, Debug)]
pub(crate) struct Numbered {
    pub(crate) window: Window,
    /// The number of the first appended window that is in it.
    pub(crate) first: u64,
    /// How many appended windows are in it.
    pub(crate) count: u32,
}

impl Numbered {
    pub(crate) const fn last(&self) -> u64 {
        self.first + self.count as u64 - 1
    }
}

/// A file of windows.
#[derive(Clone, Debug)]
pub(crate) struct WindowFile {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    pub(crate) windows: u64,
    /// The numbers of its first and last appended window.
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) covered_ns: u64,
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
    machine: Machine,
    /// Nothing is appended to it.
    sealed: bool,
}

/// A boot of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Machine {
    hostname: String,
    boot_id: String,
}

impl WindowFile {
    pub(crate) fn new(path: PathBuf, head: &Head, len: u64, begin: u64, found: &Scan) -> Self {
        let machine = Machine { hostname: head.hostname.clone(), boot_id: head.boot_id.clone() };
        let mut file = Self::empty(path, machine, len);
        // What lies behind the last record could not be cut off, or set aside.
        file.sealed = len != begin.max(found.end) || !found.holes.is_empty();
        found.entries.iter().for_each(|entry| file.count(&entry.head));
        file
    }

    const fn empty(path: PathBuf, machine: Machine, len: u64) -> Self {
        Self {
            path,
            len,
            windows: 0,
            first: u64::MAX,
            last: 0,
            covered_ns: 0,
            oldest: u64::MAX,
            newest: 0,
            machine,
            sealed: false,
        }
    }

    fn count(&mut self, head: &RecordHead) {
        self.windows += 1;
        self.first = self.first.min(head.first);
        self.last = self.last.max(head.last());
        self.covered_ns = self.covered_ns.saturating_add(head.covered_ns);
        self.oldest = self.oldest.min(head.started_unix_ns);
        self.newest = self.newest.max(head.ended_unix_ns());
    }
}

/// The file that is written.
#[derive(Debug)]
struct Writing {
    file: Appended,
    key: Option<Key>,
}

/// The window that others are compressed with.
#[derive(Debug)]
struct Key {
    offset: u64,
    raw: Vec<u8>,
    payload_bytes: usize,
    used: u32,
}

/// A record that is ready to be written.
#[derive(Debug)]
pub(crate) struct Ready {
    head: RecordHead,
    record: Vec<u8>,
    /// Of a key: what it is.
    raw: Option<Vec<u8>>,
    payload_bytes: usize,
    /// It goes to a new file, which begins so.
    new_file: Option<(Head, Vec<u8>)>,
    /// How much more room the store takes then.
    pub(crate) growth: u64,
}

/// Windows that are being merged to one of this tier.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) merged: Numbered,
    slot: u64,
    /// Nothing more belongs to it.
    pub(crate) complete: bool,
}

/// The windows of one resolution.
#[derive(Debug)]
pub(crate) struct TierLog {
    pub(crate) tier: Tier,
    pub(crate) files: VecDeque<WindowFile>,
    writing: Option<Writing>,
    pub(crate) pending: Option<Pending>,
    /// The number of the first appended window that has not been merged into this tier.
    pub(crate) next: u64,
    /// The file that windows are read from, to be merged into the next tier.
    source: Option<(PathBuf, Files, Vec<Entry>)>,
}

impl TierLog {
    pub(crate) fn new(tier: Tier, files: VecDeque<WindowFile>) -> Self {
        let next = files.iter().map(|file| file.last).max().unwrap_or(0) + 1;
        Self { tier, files, writing: None, pending: None, next, source: None }
    }

    pub(crate) fn last(&self) -> u64 {
        self.files.iter().map(|file| file.last).max().unwrap_or(0)
    }

    /// Compresses a window and decides where it goes.
    pub(crate) fn prepare(
        &mut self,
        dir: &Path,
        new: &Numbered,
        number: u64,
        file_bytes: u64,
    ) -> Result<Ready, StoreError> {
        let window = &new.window;
        let what = || "a window".to_owned();
        let raw = codec::pack(window).map_err(|source| StoreError::Value { what: what(), source })?;
        let raw_bytes = u32::try_from(raw.len()).ok().filter(|bytes| (*bytes as usize) < codec::MAX_RAW_BYTES);
        let raw_bytes = raw_bytes.ok_or_else(|| StoreError::TooLarge { what: what(), bytes: raw.len() as u64 })?;
        let machine = Machine { hostname: window.host.hostname.clone(), boot_id: window.host.boot_id.clone() };
        let goes_on = self.go_on(&machine, file_bytes);
        let key = self.writing.as_ref().filter(|_| goes_on).and_then(|writing| writing.key.as_ref());
        let delta = key.filter(|key| key.used < WINDOWS_PER_KEY).map(|key| (key, codec::compress(&raw, &key.raw)));
        // One that has become too unlike is no help.
        let delta = delta.filter(|(key, payload)| payload.len() * 5 < key.payload_bytes * 4);
        let end = self.writing.as_ref().filter(|_| goes_on).map_or(0, |writing| writing.file.end);
        let distance = |key: &Key| u32::try_from(end - key.offset).unwrap_or(u32::MAX);
        let (content, key_back, payload) = match delta {
            Some((key, payload)) => (Content::Delta, distance(key), payload),
            None => (Content::Key, 0, codec::compress(&raw, &[])),
        };
        if payload.len() > MAX_PAYLOAD_BYTES as usize {
            return Err(StoreError::TooLarge { what: what(), bytes: payload.len() as u64 });
        }
        let head = RecordHead {
            content,
            payload_bytes: 0,
            payload_crc: 0,
            raw_bytes,
            first: new.first,
            count: new.count,
            key_back,
            started_unix_ns: nanoseconds(window.span.started_unix),
            started_monotonic_ns: window.span.started_ns,
            covered_ns: nanoseconds(window.span.covered_seconds()),
        };
        let record = head.with_payload(&payload);
        let new_file = (!goes_on).then(|| {
            let head = Head {
                kind: Kind::Windows,
                resolution_seconds: self.tier.seconds(),
                number,
                boot_id: machine.boot_id,
                hostname: machine.hostname,
                schema_version: SCHEMA_VERSION,
                kerno_version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Head::default()
            };
            let mut bytes = head.to_bytes();
            bytes.extend(&record);
            (head, bytes)
        });
        let growth = match &new_file {
            Some((head, bytes)) if dir.join(head.file_name()).exists() => {
                // Somebody put a file there.
                let path = dir.join(head.file_name());
                let _ = bytes;
                return Err(StoreError::io("create", &path)(std::io::ErrorKind::AlreadyExists.into()));
            }
            Some((_, bytes)) => room(bytes.len() as u64),
            None => room(end + record.len() as u64) - room(end),
        };
        let payload_bytes = payload.len();
        let raw = (content == Content::Key).then_some(raw);
        Ok(Ready { head, record, raw, payload_bytes, new_file, growth })
    }

    /// Writes what was prepared, and waits until it is on the disk.
    pub(crate) fn write(&mut self, dir: &Path, ready: Ready) -> Result<(), StoreError> {
        let offset = if let Some((head, bytes)) = ready.new_file {
            let path = dir.join(head.file_name());
            let begin = (bytes.len() - ready.record.len()) as u64;
            let file = Appended::create(path.clone(), &bytes)?;
            let machine = Machine { hostname: head.hostname, boot_id: head.boot_id };
            self.files.push_back(WindowFile::empty(path, machine, file.end));
            self.writing = Some(Writing { file, key: None });
            begin
        } else {
            let Some(writing) = &mut self.writing else { return Ok(()) };
            let offset = writing.file.end;
            writing.file.append(&ready.record)?;
            offset
        };
        if let (Some(file), Some(writing)) = (self.files.back_mut(), &mut self.writing) {
            file.len = writing.file.end;
            file.count(&ready.head);
            match ready.raw {
                Some(raw) => writing.key = Some(Key { offset, raw, payload_bytes: ready.payload_bytes, used: 0 }),
                None => writing.key.iter_mut().for_each(|key| key.used += 1),
            }
        }
        Ok(())
    }

    /// Whether the last file takes one more window of this boot; opens it if it does.
    fn go_on(&mut self, machine: &Machine, file_bytes: u64) -> bool {
        let period = u64::try_from(self.tier.keep.as_nanos()).unwrap_or(u64::MAX) / FILES_PER_TIER;
        let Some(last) = self.files.back() else { return false };
        if last.sealed || last.machine != *machine || last.covered_ns >= period || last.len >= file_bytes {
            return false;
        }
        if self.writing.as_ref().is_none_or(|writing| writing.file.path != last.path) {
            // After a start. The first window is a key, so that the last one need not be read.
            let file = Appended::open(last.path.clone(), last.len).ok();
            self.writing = file.map(|file| Writing { file, key: None });
        }
        let sound = self.writing.as_ref().is_some_and(|writing| writing.file.is_sound());
        if !sound {
            self.writing = None;
        }
        sound
    }

    /// Takes in a window of the next finer tier. Returns it again if what is pending has to be written first.
    pub(crate) fn take(&mut self, new: Numbered) -> Option<Numbered> {
        let resolution = self.tier.seconds();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds since 1970")]
        let slot = |seconds: f64| (seconds + 0.5) as u64 / resolution;
        let begins = slot(new.window.span.started_unix);
        let ends = slot(new.window.span.started_unix + new.window.span.covered_seconds());
        let last = new.last();
        match &mut self.pending {
            None => self.pending = Some(Pending { merged: new, slot: begins, complete: false }),
            Some(pending) => {
                if pending.slot != begins || pending.merged.window.merge(&new.window).is_err() {
                    pending.complete = true;
                    return Some(new);
                }
                pending.merged.count = pending.merged.count.saturating_add(new.count);
            }
        }
        if let Some(pending) = &mut self.pending {
            // Numbers without a window, because it could not be read, belong to it all the same.
            let count = last + 1 - pending.merged.first;
            pending.merged.count = u32::try_from(count).unwrap_or(u32::MAX);
            pending.complete = ends > pending.slot;
        }
        self.next = last + 1;
        None
    }

    /// Reads the first window that has this number or a later one. What cannot be read is skipped.
    pub(crate) fn read_from(&mut self, number: u64) -> Option<Numbered> {
        let mut number = number;
        loop {
            let file = self.files.iter().find(|file| file.last >= number && file.windows > 0)?;
            if self.source.as_ref().is_none_or(|(path, _, entries)| {
                *path != file.path || entries.last().is_none_or(|entry| entry.head.last() < number)
            }) {
                self.source = source(file);
            }
            let last = file.last;
            let Some((_, files, entries)) = &mut self.source else {
                number = last + 1;
                continue;
            };
            let Some(entry) = entries.iter().find(|entry| entry.head.last() >= number) else {
                number = last + 1;
                continue;
            };
            let head = entry.head;
            match files.window(entry) {
                Ok(window) => return Some(Numbered { window, first: head.first, count: head.count }),
                Err(_) => number = head.last() + 1,
            }
        }
    }

    /// How far the oldest file is past its time, as a share of it. `None` if it is the only one, since that is written.
    pub(crate) fn overdue(&self) -> Option<f64> {
        if self.files.len() < 2 {
            return None;
        }
        let later: f64 = self.files.iter().skip(1).map(|file| seconds(file.covered_ns)).sum();
        Some(later / self.tier.keep.as_secs_f64().max(1.0))
    }

    /// The same of a tier that nothing is added to, if so many seconds have been watched since its last window.
    pub(crate) fn overdue_after(&self, watched: f64) -> f64 {
        let later: f64 = self.files.iter().skip(1).map(|file| seconds(file.covered_ns)).sum();
        (later + watched) / self.tier.keep.as_secs_f64().max(1.0)
    }

    /// For how many seconds was watched after the window with this number.
    pub(crate) fn covered_after(&self, number: u64) -> f64 {
        self.files.iter().filter(|file| file.first > number).map(|file| seconds(file.covered_ns)).sum()
    }

    /// Removes the oldest file.
    pub(crate) fn remove_oldest(&mut self) -> Result<(), StoreError> {
        let Some(oldest) = self.files.front() else { return Ok(()) };
        match std::fs::remove_file(&oldest.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &oldest.path)(error));
            }
            _ => {}
        }
        if self.source.as_ref().is_some_and(|(path, ..)| *path == oldest.path) {
            self.source = None;
        }
        self.files.pop_front();
        Ok(())
    }

    /// Whether all windows of the oldest file are in the tier whose next window is this one.
    pub(crate) fn is_oldest_merged(&self, next: u64) -> bool {
        self.files.front().is_none_or(|file| file.last < next)
    }

    pub(crate) fn room(&self) -> u64 {
        self.files.iter().map(|file| room(file.len)).sum()
    }

    pub(crate) fn status(&self) -> TierStatus {
        let some = || self.files.iter().filter(|file| file.windows > 0);
        TierStatus {
            resolution: self.tier.resolution,
            keep: self.tier.keep,
            windows: some().map(|file| file.windows).sum(),
            bytes: self.room(),
            files: self.files.len() as u64,
            oldest: some().map(|file| file.oldest).min(),
            newest: some().map(|file| file.newest).max(),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "to compare times")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn source(file: &WindowFile) -> Option<(PathBuf, Files, Vec<Entry>)> {
    let mut files = Files::default();
    files.open(0, Some(&file.path)).ok()?;
    let opened = std::fs::File::open(&file.path).ok()?;
    let begin = match opening(&opened).ok()? {
        crate::format::Opening::Ours(_, begin) => begin,
        _ => 0,
    };
    let found = scan(&opened, begin, file.len, Look::Heads).ok()?;
    Some((file.path.clone(), files, found.entries))
}
