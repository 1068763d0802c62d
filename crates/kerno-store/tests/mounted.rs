//! The store on file systems that are full or read-only. Needs root: each test mounts them for itself alone.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test: it fails by panicking"
)]

use std::path::{Path, PathBuf};

use kerno_model::{SCHEMA_VERSION, Window};
use kerno_store::{Reader, Settings, Store, StoreErrorKind};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs with a small file system that only this thread sees; it is gone afterwards.
fn on_a_small_disk(bytes: u64, test: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let run = || {
            // SAFETY: only what this thread sees of mounts changes, and no descriptors.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("root is needed");
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
            mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), size.as_c_str()).unwrap();
            test(dir.path());
        };
        scope.spawn(run).join().unwrap();
    });
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.max_share = 1.0;
    settings
}

fn window(number: u64, text: usize) -> Window {
    let mut window = Window::default();
    window.schema_version = SCHEMA_VERSION;
    // It takes its room, whatever the compression.
    let mut state = number + 1;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    window.kerno_version = (0..text / 8).map(|_| format!("{:08x}", random() as u32)).collect();
    window.span.started_unix = 1_784_563_200.0 + number as f64 * 10.0;
    window.span.started_ns = (1000 + number * 10) * 1_000_000_000;
    window.span.seconds = 10.0;
    window
}

fn read(dir: &Path) -> Vec<Window> {
    Reader::open(dir).unwrap().windows(0, u64::MAX).filter_map(Result::ok).collect()
}

#[test]
fn a_full_disk_stops_writing_and_nothing_else() {
    on_a_small_disk(2 << 20, |disk| {
        let dir = disk.join("store");
        let (mut store, _) = Store::open(&dir, settings()).unwrap();
        let filler = disk.join("filler");
        let mut appended = Vec::new();
        let mut number = 0;
        for round in 0..8 {
            for _ in 0..5 {
                appended.push(window(number, 3000));
                store.append(appended.last().unwrap()).unwrap();
                number += 1;
            }
            assert_eq!(store.status().failing, None);
            // Full, but for a part of what the next window takes: the beginning of it can be written.
            let _ = std::fs::write(&filler, vec![7; 4 << 20]);
            let free = std::fs::OpenOptions::new().write(true).open(&filler).unwrap();
            free.set_len(free.metadata().unwrap().len() - 4096 * (round % 3)).unwrap();
            let mut failed = 0;
            while failed < 4 {
                let next = window(number, 20_000);
                number += 1;
                match store.append(&next) {
                    Ok(()) => appended.push(next),
                    Err(error) => {
                        assert_eq!(error.kind(), StoreErrorKind::NoSpace, "{error}");
                        failed += 1;
                        let failing = store.status().failing.unwrap();
                        assert_eq!(failing.attempts, failed);
                        assert!(failing.why.ends_with("No space left on device (os error 28)"), "{}", failing.why);
                        assert!(store.put_state("state", &vec![7; 9000]).is_err());
                        let failing = store.status().failing.unwrap();
                        failed = failing.attempts;
                    }
                }
                // What is there is whole.
                let kept = read(&dir);
                assert!(
                    kept.iter().map(|window| window.span.seconds).sum::<f64>() > appended.len() as f64 * 10.0 - 1.0
                );
                assert_eq!(store.reader().status().unwrap().damaged, []);
            }
            assert!(store.status().not_written >= 2 * (round + 1));
            std::fs::remove_file(&filler).unwrap();
        }
        appended.push(window(number, 3000));
        store.append(appended.last().unwrap()).unwrap();
        assert_eq!(store.status().failing, None);
        assert_eq!(read(&dir), appended);
        // And all of it is on the disk as it should be.
        drop(store);
        let (store, notes) = Store::open(&dir, settings()).unwrap();
        assert!(notes.is_empty(), "{notes:?}");
        assert_eq!(read(&dir), appended);
        drop(store);
    });
}

#[test]
fn a_full_disk_can_be_opened() {
    on_a_small_disk(1 << 20, |disk| {
        let dir = disk.join("store");
        let (mut store, _) = Store::open(&dir, settings()).unwrap();
        (0..5).for_each(|number| store.append(&window(number, 100)).unwrap());
        drop(store);
        let path = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        let path: PathBuf = path.into_iter().find(|path| path.to_str().unwrap().contains("windows")).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let _ = std::fs::write(disk.join("filler"), vec![7; 2 << 20]);
        // The damaged file cannot be copied: it stays where it is, and what can be is read.
        let (mut store, notes) = Store::open(&dir, settings()).unwrap();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].to_string().contains("it could not be set aside"), "{}", notes[0]);
        let watched = || read(&dir).iter().map(|window| window.span.seconds).sum::<f64>();
        assert_eq!(watched(), 40.0);
        assert_eq!(store.append(&window(9, 9000)).unwrap_err().kind(), StoreErrorKind::NoSpace);
        std::fs::remove_file(disk.join("filler")).unwrap();
        store.append(&window(10, 9000)).unwrap();
        assert_eq!(watched(), 50.0);
    });
}

#[test]
fn no_more_than_its_share_is_taken() {
    on_a_small_disk(8 << 20, |disk| {
        let dir = disk.join("store");
        let mut settings = settings();
        settings.max_share = 0.2;
        let (mut store, _) = Store::open(&dir, settings).unwrap();
        let limit = (8 << 20) / 5;
        for number in 0..300 {
            store.append(&window(number, 20_000)).unwrap();
            let stat = rustix::fs::statvfs(disk).unwrap();
            let used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
            assert!(used <= limit, "{used} after {number}");
        }
        assert_eq!(store.status().limit_bytes, limit);
        assert!(read(&dir).len() > 20);
    });
}

#[test]
fn a_read_only_file_system_is_read() {
    on_a_small_disk(1 << 20, |disk| {
        let dir = disk.join("store");
        let (mut store, _) = Store::open(&dir, settings()).unwrap();
        let appended: Vec<_> = (0..5).map(|number| window(number, 100)).collect();
        appended.iter().for_each(|window| store.append(window).unwrap());
        drop(store);
        mount_remount(disk, MountFlags::RDONLY, "").unwrap();
        assert_eq!(read(&dir), appended);
        let error = Store::open(&dir, settings()).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open {}/lock", dir.display()));
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "Read-only file system (os error 30)");
    });
}
