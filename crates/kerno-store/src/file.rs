//! Writing files so that they are whole, or not there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// What the name of a file ends with until it is complete.
pub(crate) const UNFINISHED: &str = ".tmp";

/// What the name of a damaged file ends with.
pub(crate) const DAMAGED: &str = ".damaged";

/// File systems give room in blocks of mostly this size.
const BLOCK_BYTES: u64 = 4096;

/// The room that a file of this length takes.
pub(crate) const fn room(len: u64) -> u64 {
    len.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// A file that is written at its end, record by record.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) path: PathBuf,
    file: File,
    /// Where the next record begins.
    pub(crate) end: u64,
    /// A write to disk failed, and what the kernel still knows of it is uncertain: nothing more is written here.
    uncertain: bool,
}

impl Appended {
    /// Makes a file with this beginning. It has its name when all of it is there, and nothing is left of it if that fails.
    pub(crate) fn create(path: PathBuf, beginning: &[u8]) -> Result<Self, StoreError> {
        let file = replace(&path, |file| file.write_all_at(beginning, 0))?;
        Ok(Self { path, file, end: beginning.len() as u64, uncertain: false })
    }

    /// Goes on with a file whose last record ends at `end`.
    pub(crate) fn open(path: PathBuf, end: u64) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(StoreError::io("open", &path))?;
        Ok(Self { path, file, end, uncertain: false })
    }

    /// Whether the file is still what was written to it last.
    pub(crate) fn is_sound(&self) -> bool {
        let meta = self.file.metadata();
        !self.uncertain && meta.is_ok_and(|meta| meta.nlink() > 0 && meta.len() >= self.end)
    }

    /// Appends, and waits until it is on the disk. If that fails, nothing of it stays.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let meta = self.file.metadata().map_err(StoreError::io("write", &self.path))?;
        if meta.len() > self.end {
            // What an earlier attempt could not cut off.
            self.file.set_len(self.end).map_err(StoreError::io("cut off the end of", &self.path))?;
        }
        let written = self.file.write_all_at(bytes, self.end);
        let written = written.and_then(|()| {
            let synced = self.file.sync_data();
            // The kernel may have dropped what it could not write, and say nothing the next time.
            self.uncertain |= synced.is_err();
            synced
        });
        if let Err(error) = written {
            let _ = self.file.set_len(self.end);
            return Err(StoreError::io("write", &self.path)(error));
        }
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// Puts a file in the place of another, or where none is: after a crash, it is the one or the other, and whole.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> Result<File, StoreError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(true).mode(0o640);
    let file = options.open(&unfinished).map_err(StoreError::io("create", &unfinished))?;
    let result = write(&file)
        .and_then(|()| file.sync_data())
        .map_err(StoreError::io("write", &unfinished))
        .and_then(|()| std::fs::rename(&unfinished, path).map_err(StoreError::io("replace", path)));
    if result.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    result?;
    sync_parent(path)?;
    Ok(file)
}

/// Makes the name of a new or renamed file last.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("write the directory", dir))
}

/// The names in a directory.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = std::fs::read_dir(dir).map_err(StoreError::io("read the directory", dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(StoreError::io("read the directory", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}
