//! Reading windows from files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use kerno_model::Window;

use crate::format::{Content, Head, RECORD_HEAD_BYTES};
use crate::scan::{Entry, Scan, head_at, payload};
use crate::{StoreError, codec};

/// The file that is being read, and its latest key.
#[derive(Debug, Default)]
pub(crate) struct Files {
    open: Option<(u64, PathBuf, File)>,
    key: Option<(u64, Vec<u8>)>,
    /// Opened before they are removed.
    kept: BTreeMap<u64, (PathBuf, File)>,
}

impl Files {
    /// Opens some files now, so that they can be read when they have been removed.
    pub(crate) fn with(files: Vec<(u64, PathBuf)>) -> Self {
        let open = |(number, path): (u64, PathBuf)| File::open(&path).ok().map(|file| (number, (path, file)));
        Self { kept: files.into_iter().filter_map(open).collect(), ..Self::default() }
    }

    /// Goes to a file.
    pub(crate) fn open(&mut self, number: u64, path: Option<&Path>) -> Result<(), StoreError> {
        if self.open.as_ref().is_some_and(|(known, ..)| *known == number) {
            return Ok(());
        }
        let (path, file) = match (self.kept.remove(&number), path) {
            (Some(kept), _) => kept,
            (None, Some(path)) => (path.to_owned(), File::open(path).map_err(StoreError::io("open", path))?),
            (None, None) => return Err(gone(Path::new(""))),
        };
        (self.open, self.key) = (Some((number, path, file)), None);
        Ok(())
    }

    /// Reads a window of the open file.
    pub(crate) fn window(&mut self, entry: &Entry) -> Result<Window, StoreError> {
        let Some((_, path, file)) = &self.open else { return Err(gone(Path::new(""))) };
        let damaged =
            |entry: &Entry| StoreError::Damaged { path: path.clone(), offset: entry.offset, bytes: entry.head.bytes() };
        let raw = match entry.head.content {
            Content::Key => raw(path, file, entry, &[])?,
            Content::Delta => {
                let offset = entry.offset.saturating_sub(entry.head.key_back.into());
                if self.key.as_ref().is_none_or(|(known, _)| *known != offset) {
                    let head = head_at(file, offset).map_err(StoreError::io("read", path))?;
                    let key = head.filter(|head| head.content == Content::Key).map(|head| Entry { offset, head });
                    self.key = Some((offset, raw(path, file, &key.ok_or_else(|| damaged(entry))?, &[])?));
                }
                let dictionary = self.key.as_ref().map_or(&[][..], |(_, key)| key);
                raw(path, file, entry, dictionary)?
            }
            Content::Incident | Content::State => return Err(damaged(entry)),
        };
        let window = codec::unpack(&raw);
        let window =
            window.map_err(|source| StoreError::Window { path: path.clone(), offset: entry.offset, source })?;
        if entry.head.content == Content::Key {
            self.key = Some((entry.offset, raw));
        }
        Ok(window)
    }
}

/// What the payload of a record was before compression.
fn raw(path: &Path, file: &File, entry: &Entry, dictionary: &[u8]) -> Result<Vec<u8>, StoreError> {
    let payload = payload(file, entry).map_err(StoreError::io("read", path))?;
    let raw = payload.and_then(|payload| codec::decompress(&payload, dictionary, entry.head.raw_bytes as usize));
    raw.ok_or_else(|| StoreError::Damaged {
        path: path.to_owned(),
        offset: entry.offset + RECORD_HEAD_BYTES as u64,
        bytes: entry.head.payload_bytes.into(),
    })
}

/// Whether the file is not there any more.
pub(crate) fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn gone(path: &Path) -> StoreError {
    StoreError::Io { doing: "open", path: path.to_owned(), source: io::ErrorKind::NotFound.into() }
}

/// Learns from a window what the header of its file would say.
pub(crate) fn ask_a_window(path: &Path, found: &Scan, head: &mut Head) {
    let mut files = Files::default();
    if files.open(0, Some(path)).is_err() {
        return;
    }
    if let Some(window) = found.entries.iter().find_map(|entry| files.window(entry).ok()) {
        head.boot_id = window.host.boot_id;
        head.hostname = window.host.hostname;
        head.kerno_version = window.kerno_version;
    }
}
