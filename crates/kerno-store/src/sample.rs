//! A store of each format, written when that was the latest, which every later version must read.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::format::{Content, Head, Kind, RecordHead};
use crate::{Reader, Settings, Store, codec, file, pack};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/1")
}

/// Windows as kerno 0.1.0 saved them, in version 1 of their form.
fn old_window(number: u64) -> serde_json::Value {
    json!({
        "schema_version": 1,
        "window": {"started_unix": 1_784_563_200.0 + number as f64 * 10.0, "started_ns": (1000 + number * 10) * 1_000_000_000, "seconds": 10.0},
        "host": {"hostname": "made-up", "boot_id": "boot-1"},
        "fd_track": {"processes": [{"pid": 7, "comm": "leaker", "open": [[0.0, 100.0 + number as f64], [10.0, 110.0 + number as f64]]}]},
        "processes": {"7": {"pid": 7, "comm": "leaker", "alive": true}},
    })
}

/// Writes the sample, without the code that writes stores now.
fn write(folder: &Path) {
    let record = |content, raw: &[u8], dictionary: &[u8], first: u64, key_back: u32| {
        let head = RecordHead {
            content,
            payload_bytes: 0,
            payload_crc: 0,
            raw_bytes: u32::try_from(raw.len()).unwrap(),
            first,
            count: 1,
            key_back,
            started_unix_ns: (1_784_563_200 + (first - 1) * 10) * 1_000_000_000,
            started_monotonic_ns: (1000 + (first - 1) * 10) * 1_000_000_000,
            covered_ns: 10_000_000_000,
        };
        head.with_payload(&codec::compress(raw, dictionary))
    };
    let head = Head {
        kind: Kind::Windows,
        resolution_seconds: 10,
        number: 1,
        boot_id: "boot-1".into(),
        hostname: "made-up".into(),
        schema_version: 1,
        kerno_version: "0.1.0".into(),
        ..Head::default()
    };
    let mut bytes = head.to_bytes();
    let key = (bytes.len(), pack::pack(&old_window(0)));
    bytes.extend(record(Content::Key, &key.1, &[], 1, 0));
    for number in 1..8 {
        let back = u32::try_from(bytes.len() - key.0).unwrap();
        bytes.extend(record(Content::Delta, &pack::pack(&old_window(number)), &key.1, number + 1, back));
    }
    std::fs::create_dir_all(folder).unwrap();
    file::replace(&folder.join(head.file_name()), |file| file.write_all_at(&bytes, 0)).unwrap();
    let (head, bytes) = crate::state::to_bytes("outbox", &["kept"]).unwrap();
    crate::state::write(folder, &head, &bytes).unwrap();
}

#[test]
fn stores_of_earlier_formats_are_read_and_continued() {
    if std::env::var_os("KERNO_WRITE_SAMPLE").is_some() {
        write(&folder());
    }
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let read = |dir: &Path| -> Vec<_> {
        let reader = Reader::open(dir).unwrap();
        let windows: Vec<_> = reader.windows(0, u64::MAX).map(Result::unwrap).collect();
        windows
    };
    for dir in [folder(), dir.path().to_owned()] {
        let windows = read(&dir);
        assert_eq!(windows.len(), 8);
        for (number, window) in windows.iter().enumerate() {
            assert_eq!(window.schema_version, kerno_model::SCHEMA_VERSION);
            let open = &window.fd_track.as_ref().unwrap().processes[0].open;
            assert_eq!(open.last(), Some(110.0 + number as f64));
            assert_eq!(window.process(7).unwrap().comm, "leaker");
        }
        assert_eq!(Reader::open(&dir).unwrap().state::<Vec<String>>("outbox").unwrap().unwrap(), ["kept"]);
    }
    // It goes on: new windows are of the latest form, and old ones are merged with them.
    let (mut store, notes) = Store::open(dir.path(), Settings::default()).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    let mut next = read(dir.path()).pop().unwrap();
    for _ in 0..20 {
        next.span.started_unix += 10.0;
        next.span.started_ns += 10_000_000_000;
        store.append(&next).unwrap();
    }
    let found = store.reader().between(0, u64::MAX).unwrap().unwrap();
    assert_eq!(found.window.merged.unwrap().windows, 28);
    let minutes = store.status().tiers[1].windows;
    assert_eq!(minutes, 4);
}
