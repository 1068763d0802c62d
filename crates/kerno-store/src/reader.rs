//! Reading a store, also one that is being written, or was copied from another machine.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kerno_model::{IncidentRecord, Window};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::catalog::{Catalog, Place};
use crate::codec;
use crate::cover::Piece;
use crate::found::{Finder, Found};
use crate::scan::payload;
use crate::window_files::{Files, is_gone};
use crate::{StoreError, Timestamp, state};

/// How often a record is read again that may be being written.
const TRIES: u32 = 5;

/// Reads a store. Needs no lock and no writer, and never writes. It sees what is appended while it exists.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    catalog: Mutex<Catalog>,
}

/// What a store has, as a reader sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Coverage {
    /// The windows that it has, of every resolution.
    pub windows: u64,
    /// The incidents that it has; of one that was written several times, the latest.
    pub incidents: u64,
    /// When the first window began, by the wall clock.
    pub oldest: Option<Timestamp>,
    /// When the latest window ended, by the wall clock.
    pub newest: Option<Timestamp>,
    /// The size of its files, in bytes.
    pub bytes: u64,
    /// How often the machine was started in that time, plus 1.
    pub boots: u32,
    /// What is damaged. A record that is being written at this moment may look so.
    pub damaged: Vec<Damage>,
}

/// A damaged part of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where, in bytes.
    pub offset: u64,
    /// How much, in bytes.
    pub bytes: u64,
}

impl Reader {
    /// Opens the store in a directory.
    ///
    /// # Errors
    /// If there is none, it cannot be read, or a newer kerno wrote it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let reader = Self::of(dir);
        if reader.catalog().refresh(dir)? { Ok(reader) } else { Err(StoreError::NoStore { dir: dir.to_owned() }) }
    }

    pub(crate) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), catalog: Mutex::default() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refreshed(&self) -> Result<MutexGuard<'_, Catalog>, StoreError> {
        let mut catalog = self.catalog();
        catalog.refresh(&self.dir)?;
        Ok(catalog)
    }

    /// The windows that overlap a time by the wall clock, in the finest resolution that there is, in the order in which they were observed.
    /// No moment is in two of them, except where the wall clock was set back.
    ///
    /// What cannot be read is an item, too; those after it follow. If the directory cannot be read, that is the only item.
    pub fn windows(&self, from: Timestamp, to: Timestamp) -> Windows<'_> {
        let (places, files, failed) = match self.refreshed() {
            Ok(catalog) => {
                let places = catalog.finest(from, to);
                let files = Files::with(catalog.removed_next(places.iter().map(|piece| piece.record)));
                (places, files, None)
            }
            Err(error) => (Vec::new(), Files::default(), Some(error)),
        };
        Windows { reader: self, range: (from, to), places: places.into(), failed, files, tries: 0 }
    }

    /// One window of all that overlap a time by the wall clock, merged. Of long times, coarse windows are read. `None` if nothing was watched
    /// then.
    ///
    /// Windows of different boots cannot be merged: of several boots, it is the last one ([`Found::others`] tells of the others).
    ///
    /// # Errors
    /// If the store cannot be read. Single windows that cannot be are only counted.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> Result<Option<Found>, StoreError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (places, boots, next) = {
                let catalog = self.refreshed()?;
                let places = catalog.coarsest(from, to);
                let boots: Vec<_> = places.iter().map(|piece| owned(catalog.boot(&piece.record))).collect();
                let next = catalog.removed_next(places.iter().map(|piece| piece.record));
                (places, boots, next)
            };
            let mut files = Files::with(next);
            let mut finder = Finder::new(from, to, places.into_iter().zip(boots));
            let mut again = false;
            while let Some(place) = finder.next() {
                match self.read(&place, &mut files) {
                    Ok(window) => finder.add(&place, &window),
                    // The writer has removed the file: a coarser one has what it had.
                    Err(error) if is_gone(&error) => again = true,
                    Err(_) => again |= self.catalog().is_damaged(&place),
                }
                if again && tries < TRIES {
                    break;
                }
            }
            if !again || tries >= TRIES {
                let damaged = self.catalog().damaged_in(from, to);
                return Ok(finder.found(damaged));
            }
        }
    }

    /// What was watched around a moment: from half of `length` before it to half of it after it. See [`between`](Self::between).
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn at(&self, when: Timestamp, length: Duration) -> Result<Option<Found>, StoreError> {
        let half = u64::try_from(length.as_nanos() / 2).unwrap_or(u64::MAX).max(1);
        self.between(when.saturating_sub(half), when.saturating_add(half))
    }

    /// When the last window before a moment ended, and when the first one after it began, by the wall clock.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn nearest(&self, when: Timestamp) -> Result<(Option<Timestamp>, Option<Timestamp>), StoreError> {
        let catalog = self.refreshed()?;
        let heads = || catalog.windows.values().flat_map(|file| &file.entries).map(|entry| entry.head);
        let before = heads().map(|head| head.ended_unix_ns()).filter(|ended| *ended <= when).max();
        let after = heads().map(|head| head.started_unix_ns).filter(|started| *started > when).min();
        Ok((before, after))
    }

    /// The incidents, by when they opened, the oldest first.
    ///
    /// # Errors
    /// If the store cannot be read. Single incidents that are damaged are in [`status`](Self::status).
    pub fn incidents(&self) -> Result<Vec<IncidentRecord>, StoreError> {
        let mut last = None;
        for _ in 0..TRIES {
            match self.try_incidents() {
                Err(error) if is_gone(&error) => last = Some(error),
                result => return result,
            }
        }
        last.map_or_else(|| Ok(Vec::new()), Err)
    }

    fn try_incidents(&self) -> Result<Vec<IncidentRecord>, StoreError> {
        let catalog = self.refreshed()?;
        let newest = catalog.incidents.iter().rev().find(|(_, file)| file.head.complete);
        let from = newest.map_or(0, |(number, _)| *number);
        let mut found = BTreeMap::new();
        for (_, listed) in catalog.incidents.range(from..) {
            let file = File::open(&listed.path).map_err(StoreError::io("open", &listed.path))?;
            for entry in &listed.entries {
                let payload = payload(&file, entry).map_err(StoreError::io("read", &listed.path))?;
                let json = payload.and_then(|bytes| codec::decompress(&bytes, &[], entry.head.raw_bytes as usize));
                // A field that a newer kerno needs is no reason to hide the other incidents.
                let record = json.and_then(|json| serde_json::from_slice::<IncidentRecord>(&json).ok());
                found.extend(record.map(|record| (record.incident.id.clone(), record)));
            }
        }
        let mut records: Vec<_> = found.into_values().collect();
        records.sort_by(|a, b| {
            let key = |record: &IncidentRecord| record.incident.opened.unix_ns;
            key(a).cmp(&key(b)).then_with(|| a.incident.id.cmp(&b.incident.id))
        });
        Ok(records)
    }

    /// A named value; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or is of another type.
    pub fn state<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        state::read(&self.dir, name)
    }

    /// What the store has.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn status(&self) -> Result<Coverage, StoreError> {
        let catalog = self.refreshed()?;
        let mut coverage = Coverage::default();
        let unread = catalog.unread.iter().map(|path| Damage {
            path: path.clone(),
            offset: 0,
            bytes: std::fs::metadata(path).map_or(0, |meta| meta.len()),
        });
        coverage.damaged.extend(unread);
        let mut boots: Vec<_> = Vec::new();
        for (file, incidents) in catalog
            .windows
            .values()
            .map(|file| (file, false))
            .chain(catalog.incidents.values().map(|file| (file, true)))
        {
            coverage.bytes += file.len;
            if !incidents {
                boots.push((&file.head.hostname, &file.head.boot_id));
            }
            let damage = file.holes.iter().chain(&file.tail);
            coverage.damaged.extend(damage.map(|hole| Damage {
                path: file.path.clone(),
                offset: hole.offset,
                bytes: hole.bytes,
            }));
            if file.header_damaged && file.entries.is_empty() && file.tail.is_none() {
                coverage.damaged.push(Damage { path: file.path.clone(), offset: 0, bytes: file.len });
            }
            if incidents {
                continue;
            }
            coverage.windows += file.entries.len() as u64;
            for entry in &file.entries {
                let (start, end) = (entry.head.started_unix_ns, entry.head.ended_unix_ns());
                coverage.oldest = Some(coverage.oldest.map_or(start, |oldest| oldest.min(start)));
                coverage.newest = Some(coverage.newest.map_or(end, |newest| newest.max(end)));
            }
        }
        boots.sort_unstable();
        boots.dedup();
        coverage.boots = u32::try_from(boots.len()).unwrap_or(u32::MAX);
        drop(catalog);
        coverage.incidents = self.incidents()?.len() as u64;
        Ok(coverage)
    }

    /// Reads a window.
    fn read(&self, place: &Place, files: &mut Files) -> Result<Window, StoreError> {
        let (path, is_last) = {
            let catalog = self.catalog();
            let listed = catalog.windows.get(&place.file);
            let is_last = listed.is_some_and(|listed| listed.entries.last() == Some(&place.entry));
            (listed.map(|listed| listed.path.clone()), is_last)
        };
        files.open(place.file, path.as_deref())?;
        let mut tries = if is_last { TRIES } else { 1 };
        loop {
            tries -= 1;
            match files.window(&place.entry) {
                // The head of a record can be seen before the rest of it.
                Err(StoreError::Damaged { .. }) if tries > 0 => std::thread::sleep(Duration::from_millis(2)),
                result => return result,
            }
        }
    }
}

/// Windows of a store, read as they are asked for. See [`Reader::windows`].
#[derive(Debug)]
pub struct Windows<'a> {
    reader: &'a Reader,
    range: (Timestamp, Timestamp),
    places: VecDeque<Piece<Place>>,
    failed: Option<StoreError>,
    files: Files,
    tries: u32,
}

impl Iterator for Windows<'_> {
    type Item = Result<Window, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        while let Some(piece) = self.places.pop_front() {
            match self.reader.read(&piece.record, &mut self.files) {
                // The writer has removed the file. What it had is in a coarser one.
                Err(error) if is_gone(&error) && self.tries < TRIES => {
                    self.tries += 1;
                    let (from, to) = self.range;
                    match self.reader.refreshed() {
                        Ok(catalog) => {
                            let places = catalog.finest(from, to);
                            // One that began before this would repeat what was given already.
                            let is_torn =
                                places.iter().any(|other| other.first < piece.first && other.last >= piece.first);
                            let rest = places.into_iter().filter(|other| other.first >= piece.first);
                            self.places = rest.collect();
                            if is_torn {
                                return Some(Err(error));
                            }
                        }
                        Err(error) => return Some(Err(error)),
                    }
                }
                result => {
                    self.tries = 0;
                    return Some(result);
                }
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.places.len() + usize::from(self.failed.is_some())))
    }
}

fn owned((host, boot): (&str, &str)) -> (String, String) {
    (host.to_owned(), boot.to_owned())
}
