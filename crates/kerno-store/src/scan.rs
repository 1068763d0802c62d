//! Finding the records of a file, past what is damaged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::format::{Head, MARKER, Opening, RECORD_HEAD_BYTES, RecordHead};

/// How much is read at once to find the next record behind damage.
const CHUNK: usize = 1 << 16;

/// A record, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) head: RecordHead,
}

/// A part of a file that is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// With a record.
    Whole,
    /// With the beginning of a record, or with zeros: it was being written.
    Short,
    /// With something else.
    Damaged,
}

/// The records of a file.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub(crate) entries: Vec<Entry>,
    /// Damaged parts that have a record behind them.
    pub(crate) holes: Vec<Hole>,
    /// Where the last record ends.
    pub(crate) end: u64,
    pub(crate) tail: Tail,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// At the heads of records.
    Heads,
    /// At everything: a damaged payload is a hole.
    Everything,
}

/// Reads the header of a file.
pub(crate) fn opening(file: &File) -> io::Result<Opening> {
    let mut bytes = vec![0; 4096];
    let read = read_at_most(file, &mut bytes, 0)?;
    bytes.truncate(read);
    let opening = Head::read(&bytes);
    if opening != Opening::Damaged || read < 4096 {
        return Ok(opening);
    }
    let mut bytes = vec![0; Head::most_bytes()];
    let read = read_at_most(file, &mut bytes, 0)?;
    Ok(Head::read(&bytes[..read]))
}

/// Finds the records from `from`, where one should begin, to `len`.
pub(crate) fn scan(file: &File, from: u64, len: u64, look: Look) -> io::Result<Scan> {
    let mut scan = Scan { entries: Vec::new(), holes: Vec::new(), end: from, tail: Tail::Whole };
    let mut at = from;
    let mut payload = Vec::new();
    while at < len {
        if let Some(head) = record_at(file, at, len, look, &mut payload)? {
            if at > scan.end {
                scan.holes.push(Hole { offset: scan.end, bytes: at - scan.end });
            }
            scan.entries.push(Entry { offset: at, head });
            at += head.bytes();
            scan.end = at;
        } else {
            match next_marker(file, at + 1, len)? {
                Some(next) => at = next,
                None => break,
            }
        }
    }
    if scan.end < len {
        scan.tail = tail(file, scan.end, len)?;
    }
    Ok(scan)
}

/// Reads the payload of a record; `None` if it is damaged.
pub(crate) fn payload(file: &File, entry: &Entry) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; entry.head.payload_bytes as usize];
    let read = read_at_most(file, &mut bytes, entry.offset + RECORD_HEAD_BYTES as u64)?;
    bytes.truncate(read);
    Ok(Some(bytes).filter(|bytes| entry.head.is_intact(bytes)))
}

/// Reads the head of the record that begins there; `None` if none does.
pub(crate) fn head_at(file: &File, at: u64) -> io::Result<Option<RecordHead>> {
    let mut bytes = [0; RECORD_HEAD_BYTES];
    let read = read_at_most(file, &mut bytes, at)?;
    Ok(RecordHead::read(&bytes[..read]))
}

fn record_at(file: &File, at: u64, len: u64, look: Look, buffer: &mut Vec<u8>) -> io::Result<Option<RecordHead>> {
    let Some(head) = head_at(file, at)? else { return Ok(None) };
    if at + head.bytes() > len {
        return Ok(None);
    }
    if look == Look::Everything {
        buffer.resize(head.payload_bytes as usize, 0);
        let read = read_at_most(file, buffer, at + RECORD_HEAD_BYTES as u64)?;
        if !head.is_intact(&buffer[..read]) {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

fn next_marker(file: &File, from: u64, len: u64) -> io::Result<Option<u64>> {
    let mut chunk = vec![0; CHUNK];
    let mut at = from;
    while at < len {
        let read = read_at_most(file, &mut chunk, at)?;
        if read < MARKER.len() {
            break;
        }
        if let Some(place) = chunk[..read].windows(MARKER.len()).position(|bytes| bytes == MARKER) {
            return Ok(Some(at + place as u64));
        }
        at += (read - (MARKER.len() - 1)) as u64;
    }
    Ok(None)
}

/// What is behind the last record.
fn tail(file: &File, from: u64, len: u64) -> io::Result<Tail> {
    if len - from < RECORD_HEAD_BYTES as u64 {
        return Ok(Tail::Short);
    }
    if let Some(head) = head_at(file, from)? {
        return Ok(if from + head.bytes() > len { Tail::Short } else { Tail::Damaged });
    }
    // After a power failure, a file may be as long as it was to be, and empty.
    let mut chunk = vec![0; CHUNK];
    let mut at = from;
    while at < len {
        let read = read_at_most(file, &mut chunk, at)?;
        if read == 0 {
            break;
        }
        if chunk[..read].iter().any(|byte| *byte != 0) {
            return Ok(Tail::Damaged);
        }
        at += read as u64;
    }
    Ok(Tail::Short)
}

/// Fills the buffer as far as the file goes.
fn read_at_most(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
