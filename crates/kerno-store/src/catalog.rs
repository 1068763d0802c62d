//! The files of a directory and what is in them, for readers: without a lock, beside a writer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cover::{Cover, Piece};
use crate::file::names;
use crate::format::{Head, Kind, Opening};
use crate::scan::{Entry, Hole, Look, Tail, opening, scan};
use crate::window_files::ask_a_window;
use crate::{StoreError, Timestamp};

/// So many files of each resolution are held open while windows are read. One is removed in about an hour.
const HELD_OPEN: usize = 8;

/// A file of windows or incidents.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) path: PathBuf,
    pub(crate) head: Head,
    pub(crate) entries: Vec<Entry>,
    pub(crate) holes: Vec<Hole>,
    pub(crate) header_damaged: bool,
    /// Damage at the end, which may also be a record that is being written.
    pub(crate) tail: Option<Hole>,
    inode: u64,
    scanned: u64,
    pub(crate) len: u64,
}

/// A record of a listed file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number of the file.
    pub(crate) file: u64,
    pub(crate) entry: Entry,
}

impl Place {
    pub(crate) const fn overlaps(&self, from: Timestamp, to: Timestamp) -> bool {
        let head = &self.entry.head;
        head.started_unix_ns < to && head.ended_unix_ns() > from
    }

    pub(crate) const fn is_within(&self, from: Timestamp, to: Timestamp) -> bool {
        let head = &self.entry.head;
        head.started_unix_ns >= from && head.ended_unix_ns() <= to
    }
}

/// All files of a directory.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// By number, which no two files share.
    pub(crate) windows: BTreeMap<u64, Listed>,
    pub(crate) incidents: BTreeMap<u64, Listed>,
    /// Records that could not be read, by file and offset: coarser ones may have what they had.
    damaged: BTreeSet<(u64, u64)>,
    /// Files that cannot be read at all.
    pub(crate) unread: Vec<PathBuf>,
}

impl Catalog {
    /// Looks at what is new in the directory. Returns whether it has anything of a store.
    pub(crate) fn refresh(&mut self, dir: &Path) -> Result<bool, StoreError> {
        let mut is_store = false;
        self.unread.clear();
        let (mut windows, mut incidents) = (BTreeMap::new(), BTreeMap::new());
        for name in names(dir)? {
            is_store |= name == crate::lock::NAME;
            let Some(named) = Head::of_file_name(&name) else { continue };
            is_store = true;
            let (known, listed) = match named.kind {
                Kind::Windows => (&mut self.windows, &mut windows),
                Kind::Incidents => (&mut self.incidents, &mut incidents),
                Kind::State => continue,
            };
            let path = dir.join(&name);
            let number = named.number;
            let known = known.remove(&number).filter(|known| known.path == path);
            match look_at(&path, named, known) {
                Ok(found) => drop(listed.insert(number, found)),
                // Removed since the directory was read.
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                // The disk fails there, or it belongs to somebody else: the others can be read.
                Err(StoreError::Io { path, .. }) => self.unread.push(path),
                Err(error) => return Err(error),
            }
        }
        (self.windows, self.incidents) = (windows, incidents);
        let windows = &self.windows;
        self.damaged.retain(|(file, _)| windows.contains_key(file));
        Ok(is_store)
    }

    /// The records of each tier, the finest first.
    fn tiers(&self) -> BTreeMap<u64, Vec<Piece<Place>>> {
        let mut tiers: BTreeMap<u64, Vec<Piece<Place>>> = BTreeMap::new();
        for (number, file) in &self.windows {
            let whole = |entry: &&Entry| entry.head.count > 0 && !self.damaged.contains(&(*number, entry.offset));
            let pieces = file.entries.iter().filter(whole).map(|entry| Piece {
                first: entry.head.first,
                last: entry.head.last(),
                record: Place { file: *number, entry: *entry },
            });
            tiers.entry(file.head.resolution_seconds).or_default().extend(pieces);
        }
        tiers
    }

    /// The finest records that overlap a time, in the order in which they were appended.
    pub(crate) fn finest(&self, from: Timestamp, to: Timestamp) -> Vec<Piece<Place>> {
        let cover = Cover::finest(self.tiers().into_values());
        cover.pieces().filter(|piece| piece.record.overlaps(from, to)).copied().collect()
    }

    /// The fewest records that have all windows that overlap a time, and as few others as possible.
    pub(crate) fn coarsest(&self, from: Timestamp, to: Timestamp) -> Vec<Piece<Place>> {
        let tiers = self.tiers();
        let cover = Cover::finest(tiers.values().cloned());
        cover.coarsest(
            tiers.into_values(),
            |place| place.overlaps(from, to) && place.is_within(from, to),
            |place| place.overlaps(from, to),
        )
    }

    /// Remembers that a record cannot be read. Returns whether that is news.
    pub(crate) fn is_damaged(&mut self, place: &Place) -> bool {
        // The last one may be being written.
        let is_last = self.windows.get(&place.file).is_none_or(|file| file.entries.last() == Some(&place.entry));
        !is_last && self.damaged.insert((place.file, place.entry.offset))
    }

    /// How many records of a time are known to be damaged.
    pub(crate) fn damaged_in(&self, from: Timestamp, to: Timestamp) -> usize {
        let is_damaged = |file: u64, entry: &Entry| self.damaged.contains(&(file, entry.offset));
        let places = self.windows.iter().flat_map(|(file, listed)| {
            listed
                .entries
                .iter()
                .filter(|entry| is_damaged(*file, entry))
                .map(|entry| Place { file: *file, entry: *entry })
        });
        places.filter(|place| place.overlaps(from, to)).count()
    }

    /// Some files of each resolution of which records are to be read: those that are removed next.
    pub(crate) fn removed_next(&self, places: impl Iterator<Item = Place>) -> Vec<(u64, PathBuf)> {
        let mut of_each: BTreeMap<u64, BTreeMap<u64, PathBuf>> = BTreeMap::new();
        for place in places {
            let Some(file) = self.windows.get(&place.file) else { continue };
            let files = of_each.entry(file.head.resolution_seconds).or_default();
            if files.len() < HELD_OPEN || files.contains_key(&place.file) {
                files.entry(place.file).or_insert_with(|| file.path.clone());
            }
        }
        of_each.into_values().flatten().collect()
    }

    /// The boot of the machine that a file is of.
    pub(crate) fn boot(&self, place: &Place) -> (&str, &str) {
        self.windows.get(&place.file).map_or(("", ""), |file| (&file.head.hostname, &file.head.boot_id))
    }
}

fn look_at(path: &Path, named: Head, known: Option<Listed>) -> Result<Listed, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let meta = file.metadata().map_err(StoreError::io("read", path))?;
    let (inode, len) = (meta.ino(), meta.len());
    let mut listed = match known {
        Some(known) if known.inode == inode && known.len <= len => {
            if known.len == len && known.tail.is_none() {
                return Ok(known);
            }
            known
        }
        _ => {
            let (head, begin, header_damaged) = match opening(&file).map_err(StoreError::io("read", path))? {
                Opening::Ours(head, begin) => (head, begin, false),
                Opening::Newer(what) => return Err(StoreError::Newer { path: path.to_owned(), what }),
                Opening::Damaged => (named, 0, true),
            };
            Listed {
                path: path.to_owned(),
                head,
                entries: Vec::new(),
                holes: Vec::new(),
                header_damaged,
                tail: None,
                inode,
                scanned: begin,
                len,
            }
        }
    };
    let mut found = scan(&file, listed.scanned, len, Look::Heads).map_err(StoreError::io("read", path))?;
    if listed.header_damaged && listed.entries.is_empty() && listed.head.kind == Kind::Windows {
        ask_a_window(path, &found, &mut listed.head);
    }
    listed.entries.append(&mut found.entries);
    listed.holes.append(&mut found.holes);
    listed.tail = (found.tail == Tail::Damaged).then_some(Hole { offset: found.end, bytes: len - found.end });
    (listed.scanned, listed.len) = (found.end, len);
    Ok(listed)
}
