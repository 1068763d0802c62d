//! Small named values.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kerno_model::SCHEMA_VERSION;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::format::{Content, Head, Kind, MAX_PAYLOAD_BYTES, Opening, RecordHead};
use crate::scan::{Look, opening, payload, scan};
use crate::{StoreError, file};

/// The longest name.
const MAX_NAME_BYTES: usize = 64;

fn head(name: &str) -> Result<Head, StoreError> {
    let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(is_name) {
        return Err(StoreError::StateName { name: name.to_owned() });
    }
    Ok(Head {
        kind: Kind::State,
        name: name.to_owned(),
        schema_version: SCHEMA_VERSION,
        kerno_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Head::default()
    })
}

/// A value as a file.
pub(crate) fn to_bytes(name: &str, value: &impl Serialize) -> Result<(Head, Vec<u8>), StoreError> {
    let head = head(name)?;
    let what = || format!("the state {name:?}");
    let json = serde_json::to_vec(value).map_err(|source| StoreError::Value { what: what(), source })?;
    let raw_bytes = u32::try_from(json.len()).ok().filter(|bytes| *bytes <= MAX_PAYLOAD_BYTES);
    let Some(raw_bytes) = raw_bytes else {
        return Err(StoreError::TooLarge { what: what(), bytes: json.len() as u64 });
    };
    let record = RecordHead {
        content: Content::State,
        payload_bytes: 0,
        payload_crc: 0,
        raw_bytes,
        first: 0,
        count: 0,
        key_back: 0,
        started_unix_ns: 0,
        started_monotonic_ns: 0,
        covered_ns: 0,
    };
    let mut bytes = head.to_bytes();
    bytes.extend(record.with_payload(&json));
    Ok((head, bytes))
}

/// Puts a value in the place of the one before.
pub(crate) fn write(dir: &Path, head: &Head, bytes: &[u8]) -> Result<(), StoreError> {
    file::replace(&dir.join(head.file_name()), |file| file.write_all_at(bytes, 0)).map(drop)
}

/// Reads a value.
pub(crate) fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Option<T>, StoreError> {
    let path = dir.join(head(name)?.file_name());
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", &path)(error)),
    };
    let read = || StoreError::io("read", &path);
    let len = file.metadata().map_err(read())?.len();
    let damaged = || StoreError::Damaged { path: path.clone(), offset: 0, bytes: len };
    let begin = match opening(&file).map_err(read())? {
        Opening::Ours(_, begin) => begin,
        Opening::Newer(what) => return Err(StoreError::Newer { path: path.clone(), what }),
        Opening::Damaged => return Err(damaged()),
    };
    let found = scan(&file, begin, len, Look::Heads).map_err(read())?;
    let entry = found.entries.first().filter(|entry| entry.head.content == Content::State);
    let json = payload(&file, entry.ok_or_else(damaged)?).map_err(read())?.ok_or_else(damaged)?;
    let value = serde_json::from_slice(&json);
    value.map(Some).map_err(|source| StoreError::Value { what: format!("the state {name:?}"), source })
}
