//! What opening a directory finds, and how it is put right before anything is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kerno_model::SCHEMA_VERSION;

use crate::file::{DAMAGED, UNFINISHED, names, replace, sync_parent};
use crate::format::{Content, EXTENSION, Head, Kind, Opening};
use crate::scan::{Entry, Hole, Look, Scan, Tail, opening, payload, scan};
use crate::status::Aside;
use crate::window_files::ask_a_window;
use crate::{Note, StoreError, lock};

/// A file that is in order.
#[derive(Debug)]
pub(crate) struct Sound {
    pub(crate) path: PathBuf,
    pub(crate) head: Head,
    /// Where its records begin.
    pub(crate) begin: u64,
    pub(crate) scan: Scan,
    pub(crate) len: u64,
}

/// What a directory has.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// By kind, then by number.
    pub(crate) files: Vec<Sound>,
    pub(crate) aside: Vec<Aside>,
    pub(crate) notes: Vec<Note>,
    /// The highest number of a file, whether it can be read or not.
    pub(crate) last_number: u64,
    /// A file cannot be read at all, so that its windows are not known.
    pub(crate) unread: bool,
}

/// Refuses a directory that a newer kerno wrote. Touches nothing.
pub(crate) fn refuse_newer(dir: &Path) -> Result<(), StoreError> {
    for name in names(dir)?.into_iter().filter(|name| Head::of_file_name(name).is_some()) {
        let path = dir.join(name);
        // What cannot be opened is dealt with later.
        let found = File::open(&path).and_then(|file| opening(&file));
        if let Ok(Opening::Newer(what)) = found {
            return Err(StoreError::Newer { path, what });
        }
    }
    Ok(())
}

/// Looks at every byte of every file, and puts right what is not as it should be.
pub(crate) fn contents(dir: &Path) -> Result<Contents, StoreError> {
    let mut contents = Contents::default();
    for name in names(dir)? {
        let path = dir.join(&name);
        if name == lock::NAME {
            continue;
        }
        if name.ends_with(UNFINISHED) && name.contains(EXTENSION) {
            // It was to replace another file, which is still there.
            let _ = std::fs::remove_file(&path);
        } else if let Some(named) = Head::of_file_name(&name) {
            contents.last_number = contents.last_number.max(named.number);
            match examine(path.clone(), named, &mut contents) {
                // The disk fails there, or the file belongs to somebody else: the others can be read.
                Err(error @ StoreError::Io { .. }) => {
                    let lost_bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
                    contents.notes.push(Note::Damaged { path, aside: None, lost_bytes, why: Some(error.in_full()) });
                    contents.unread = true;
                }
                result => result?,
            }
        } else if name.contains(&format!("{EXTENSION}{DAMAGED}")) {
            let bytes = std::fs::metadata(&path).map_or(0, |meta| meta.len());
            contents.aside.push(Aside { path, bytes });
        } else {
            contents.notes.push(Note::Ignored { path });
        }
    }
    contents.files.sort_by_key(|file| (file.head.kind, file.head.number));
    // One that was just set aside may have been listed, too.
    contents.aside.sort_by(|a, b| a.path.cmp(&b.path));
    contents.aside.dedup_by(|a, b| a.path == b.path);
    Ok(contents)
}

fn examine(path: PathBuf, named: Head, contents: &mut Contents) -> Result<(), StoreError> {
    let file = File::open(&path).map_err(StoreError::io("open", &path))?;
    let len = file.metadata().map_err(StoreError::io("read", &path))?.len();
    let (head, begin) = match opening(&file) {
        Ok(Opening::Ours(head, begin)) => (Some(head), begin),
        Ok(Opening::Newer(what)) => return Err(StoreError::Newer { path, what }),
        Ok(Opening::Damaged) | Err(_) => (None, 0),
    };
    let mut found = scan(&file, begin, len, Look::Everything).map_err(StoreError::io("read", &path))?;
    without_keys(&mut found);
    let expects = if named.kind == Kind::State { usize::from(len > begin) } else { 0 };
    // A renamed file would be in the wrong place.
    let head = head.filter(|head| head.file_name() == named.file_name());
    let is_sound = found.holes.is_empty() && found.tail != Tail::Damaged && found.entries.len() >= expects;
    if let (Some(head), true) = (&head, is_sound) {
        if found.tail == Tail::Short && named.kind != Kind::State {
            let cut = File::options().write(true).open(&path).and_then(|file| {
                file.set_len(found.end)?;
                file.sync_data()
            });
            // The next one who appends tries again.
            let bytes = if cut.is_ok() { found.end } else { len };
            contents.notes.push(Note::CutOff { path: path.clone(), bytes: len - found.end });
            contents.files.push(Sound { path, head: head.clone(), begin, scan: found, len: bytes });
            return Ok(());
        }
        if found.tail == Tail::Whole {
            contents.files.push(Sound { path, head: head.clone(), begin, scan: found, len });
            return Ok(());
        }
    }
    set_aside(path, &file, head.unwrap_or(named), found, len, contents);
    Ok(())
}

/// Windows whose key is damaged cannot be read either.
fn without_keys(found: &mut Scan) {
    let keys: Vec<u64> =
        found.entries.iter().filter(|entry| entry.head.content == Content::Key).map(|entry| entry.offset).collect();
    let (kept, lost): (Vec<_>, Vec<_>) = found.entries.drain(..).partition(|entry| {
        let key = entry.offset.saturating_sub(entry.head.key_back.into());
        entry.head.content != Content::Delta || keys.binary_search(&key).is_ok()
    });
    found.entries = kept;
    found.holes.extend(lost.iter().map(|entry| Hole { offset: entry.offset, bytes: entry.head.bytes() }));
}

/// Renames a damaged file, and puts what can be read of it in its place.
fn set_aside(path: PathBuf, file: &File, mut head: Head, found: Scan, len: u64, contents: &mut Contents) {
    let lost_tail = if found.tail == Tail::Whole { 0 } else { len - found.end };
    let lost_bytes = found.holes.iter().map(|hole| hole.bytes).sum::<u64>() + lost_tail;
    if head.boot_id.is_empty() && head.kind == Kind::Windows {
        ask_a_window(&path, &found, &mut head);
    }
    head.schema_version = SCHEMA_VERSION;
    let result = put_in_place(&path, file, &head, &found);
    let (aside, why) = match result {
        Ok(aside) => {
            contents.aside.push(Aside { path: aside.clone(), bytes: len });
            (Some(aside), None)
        }
        Err(error) => (None, Some(error.in_full())),
    };
    let is_aside = aside.is_some();
    contents.notes.push(Note::Damaged { path: path.clone(), aside, lost_bytes, why });
    if !is_aside {
        // It is read as it is, and nothing is appended to it.
        contents.files.push(Sound { path, head, begin: 0, scan: found, len });
        return;
    }
    // As it is now.
    let again = File::open(&path).and_then(|file| {
        let len = file.metadata()?.len();
        let Opening::Ours(head, begin) = opening(&file)? else { return Err(io::ErrorKind::InvalidData.into()) };
        Ok((scan(&file, begin, len, Look::Heads)?, head, begin, len))
    });
    if let Ok((scan, head, begin, len)) = again {
        contents.files.push(Sound { path, head, begin, scan, len });
    }
}

/// Gives the damaged file a second name, and then its first name to a copy of what can be read. So one of the two is always there.
fn put_in_place(path: &Path, file: &File, head: &Head, found: &Scan) -> Result<PathBuf, StoreError> {
    let aside = free_name(path);
    let name_again = || StoreError::io("set aside", path);
    let linked = std::fs::hard_link(path, &aside).is_ok();
    if !linked {
        // File systems without hard links: for a moment, there is only the second name.
        std::fs::rename(path, &aside).map_err(name_again())?;
    }
    let copied = if found.entries.is_empty() {
        if linked { std::fs::remove_file(path).map_err(name_again()) } else { Ok(()) }
    } else {
        replace(path, |copy| copy_records(file, copy, head, &found.entries)).map(drop)
    };
    if let Err(error) = copied {
        let _ = if linked { std::fs::remove_file(&aside) } else { std::fs::rename(&aside, path) };
        return Err(error);
    }
    sync_parent(path)?;
    Ok(aside)
}

fn copy_records(from: &File, to: &File, head: &Head, entries: &[Entry]) -> io::Result<()> {
    let header = head.to_bytes();
    to.write_all_at(&header, 0)?;
    let mut end = header.len() as u64;
    // Where the latest key was, and where it is.
    let mut key = (0, 0);
    for entry in entries {
        let payload = payload(from, entry)?.ok_or(io::ErrorKind::InvalidData)?;
        let mut head = entry.head;
        match head.content {
            Content::Key => key = (entry.offset, end),
            Content::Delta if entry.offset.saturating_sub(head.key_back.into()) == key.0 => {
                head.key_back = u32::try_from(end - key.1).unwrap_or(u32::MAX);
            }
            _ => {}
        }
        let record = head.with_payload(&payload);
        to.write_all_at(&record, end)?;
        end += record.len() as u64;
    }
    Ok(())
}

fn free_name(path: &Path) -> PathBuf {
    let named = |count: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(DAMAGED);
        if count > 1 {
            name.push(format!("-{count}"));
        }
        PathBuf::from(name)
    };
    (1..1000).map(named).find(|name| !name.exists()).unwrap_or_else(|| named(1000))
}
