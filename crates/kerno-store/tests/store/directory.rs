//! Directories that are not as they should be.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kerno_store::{Note, Reader, Settings, Store, StoreError, StoreErrorKind};

use crate::made::{Machine, all, files, folder, short};

fn text(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn refused(dir: &Path) -> String {
    text(&Store::open(dir, short()).map(|_| ()).unwrap_err())
}

#[test]
fn errors_name_the_path() {
    let dir = folder();
    let root = dir.path().display().to_string();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("file"), "x").unwrap();
    assert_eq!(
        refused(&path("a/b")),
        format!("cannot make the directory {root}/a/b: No such file or directory (os error 2)")
    );
    assert_eq!(refused(&path("file")), format!("cannot read the directory {root}/file: Not a directory (os error 20)"));
    assert_eq!(
        text(&Reader::open(&path("a")).unwrap_err()),
        format!("cannot read the directory {root}/a: No such file or directory (os error 2)")
    );
    assert_eq!(text(&Reader::open(dir.path()).unwrap_err()), format!("no kerno store in {root}"));
    assert_eq!(Reader::open(dir.path()).unwrap_err().kind(), StoreErrorKind::NoStore);
    // The last part of the path is made.
    Store::open(&path("new"), short()).unwrap();
    assert!(Reader::open(&path("new")).unwrap().status().unwrap().oldest.is_none());
}

#[test]
fn who_may_not_is_told() {
    let dir = folder();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = dir.path().join("store");
    drop(Store::open(&store, short()).unwrap());
    let (open, locked) = (store.clone(), dir.path().join("locked"));
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o700)).unwrap();
    let refusals = std::thread::spawn(move || {
        // Of this thread only; nobody stays who it is if it is nobody already.
        let nobody = rustix::process::Uid::from_raw(65534);
        let _ = rustix::thread::set_thread_res_uid(nobody, nobody, nobody);
        (refused(&open), refused(&locked), text(&Reader::open(&locked).unwrap_err()))
    });
    let (store_refused, locked_refused, not_read) = refusals.join().unwrap();
    let root = dir.path().display();
    if rustix::process::geteuid().is_root() {
        assert_eq!(store_refused, format!("cannot open {root}/store/lock: Permission denied (os error 13)"));
        assert_eq!(locked_refused, format!("cannot read the directory {root}/locked: Permission denied (os error 13)"));
        assert_eq!(not_read, locked_refused);
    }
}

#[test]
fn the_second_writer_is_told_of_the_first() {
    let dir = folder();
    let (store, _) = Store::open(dir.path(), short()).unwrap();
    let error = Store::open(dir.path(), short()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is in use by process {}", dir.path().display(), std::process::id()));
    assert_eq!(error.kind(), StoreErrorKind::InUse);
    drop(store);
    Store::open(dir.path(), short()).unwrap();
}

#[test]
fn impossible_settings_are_refused() {
    let refuse = |change: fn(&mut Settings)| {
        let mut settings = short();
        change(&mut settings);
        let dir = folder();
        let error = Store::open(dir.path(), settings).unwrap_err();
        assert!(files(dir.path()).is_empty());
        assert_eq!(error.kind(), StoreErrorKind::Usage);
        error.to_string()
    };
    assert_eq!(refuse(|settings| settings.cap_bytes = 7), "the cap is 7 bytes; at least 1048576 are needed");
    assert!(refuse(|settings| settings.max_share = 0.0).contains("share"));
    assert!(refuse(|settings| settings.max_share = f64::NAN).contains("share"));
    assert!(refuse(|settings| settings.tiers.clear()).contains("0 tiers"));
    assert!(refuse(|settings| settings.tiers.swap(0, 1)).contains("coarser"));
    assert!(refuse(|settings| settings.tiers[0].keep = std::time::Duration::from_secs(70)).contains("too short"));
}

#[test]
fn what_is_newer_is_left_alone() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    (0..9).for_each(|_| store.append(&machine.watch(10.0)).unwrap());
    drop(store);
    let first =
        files(dir.path()).into_iter().find(|(path, _)| path.extension().is_some_and(|end| end == "kst")).unwrap();
    // As the format says: the version is behind the first eight bytes, and the checksum is of it, the length, and the JSON.
    let mut bytes = first.1.clone();
    bytes[8] = 2;
    let json = 20 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[8..16]);
    crc.update(&bytes[20..json]);
    bytes[16..20].copy_from_slice(&crc.finalize().to_le_bytes());
    std::fs::write(&first.0, &bytes).unwrap();
    std::fs::remove_file(dir.path().join("lock")).unwrap();
    std::fs::write(dir.path().join("windows-10s-000000000099.kst.tmp"), "x").unwrap();
    let before = files(dir.path());
    for error in
        [Store::open(dir.path(), short()).map(|_| ()).unwrap_err(), Reader::open(dir.path()).map(|_| ()).unwrap_err()]
    {
        let expected = format!("{} was written by a newer kerno (format 2; up to 1 are read)", first.0.display());
        assert_eq!((error.to_string(), error.kind()), (expected, StoreErrorKind::Newer));
    }
    assert!(files(dir.path()) == before, "something was touched");
}

#[test]
fn other_files_are_left_alone() {
    let dir = folder();
    let note = dir.path().join("NOTES");
    std::fs::write(&note, "mine").unwrap();
    let (mut store, notes) = Store::open(dir.path(), short()).unwrap();
    assert_eq!(notes, [Note::Ignored { path: note.clone() }]);
    store.append(&Machine::default().watch(10.0)).unwrap();
    assert_eq!(std::fs::read(&note).unwrap(), b"mine");
}

#[test]
fn files_that_disappear_are_no_end() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    (0..20).for_each(|_| store.append(&machine.watch(10.0)).unwrap());
    files(dir.path())
        .iter()
        .filter(|(path, _)| !path.ends_with("lock"))
        .for_each(|(path, _)| std::fs::remove_file(path).unwrap());
    let after: Vec<_> = (0..70).map(|_| machine.watch(10.0)).collect();
    after.iter().for_each(|window| store.append(window).unwrap());
    let kept = all(&store.reader());
    assert!(kept.ends_with(&after[10..]), "{}", kept.len());
}

#[test]
fn impossible_windows_are_refused() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    for (started, seconds) in [(-1.0, 10.0), (f64::NAN, 10.0), (1.0, -3.0), (1.0, f64::INFINITY), (1e300, 1.0)] {
        let mut window = Machine::default().watch(10.0);
        (window.span.started_unix, window.span.seconds) = (started, seconds);
        assert_eq!(store.append(&window).unwrap_err().kind(), StoreErrorKind::Usage);
    }
    assert_eq!(store.status().failing, None);
}

#[test]
fn a_file_that_cannot_be_read_is_told_of() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    let mut machine = Machine::default();
    let windows: Vec<_> = (0..20).map(|_| machine.watch(10.0)).collect();
    windows.iter().for_each(|window| store.append(window).unwrap());
    drop(store);
    // A directory in its place: it opens, and reading it fails, as it does where a disk is broken.
    let newest = files(dir.path()).into_iter().map(|(path, _)| path);
    let newest = newest.filter(|path| path.to_str().unwrap().contains("windows-10s")).max().unwrap();
    std::fs::remove_file(&newest).unwrap();
    std::fs::create_dir(&newest).unwrap();
    let reader = Reader::open(dir.path()).unwrap();
    assert!(all(&reader).len() > 10);
    assert_eq!(reader.status().unwrap().damaged[0].path, newest);
    let (mut store, notes) = Store::open(dir.path(), short()).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].to_string().contains("Is a directory"), "{}", notes[0]);
    let next = machine.watch(10.0);
    store.append(&next).unwrap();
    drop(store);
    std::fs::remove_dir(&newest).unwrap();
    let (store, _) = Store::open(dir.path(), short()).unwrap();
    let kept = all(&store.reader());
    assert!(kept.len() > 10 && kept.last() == Some(&next), "{}", kept.len());
}

#[test]
fn relative_paths_work() {
    let dir = folder();
    let relative = dir.path().strip_prefix("/").unwrap();
    let up: std::path::PathBuf = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect();
    let path = up.join(relative).join("store");
    Store::open(&path, short()).unwrap();
    Reader::open(&path).unwrap();
}

#[test]
fn values_are_listed_and_forgotten() {
    let dir = folder();
    let (mut store, _) = Store::open(dir.path(), short()).unwrap();
    for name in ["outbox-a", "outbox-b", "incidents"] {
        store.put_state(name, &name).unwrap();
    }
    let used = store.status().bytes;
    assert_eq!(store.states(), ["incidents", "outbox-a", "outbox-b"]);
    store.forget_state("outbox-a").unwrap();
    store.forget_state("outbox-a").unwrap();
    store.forget_state("never").unwrap();
    assert!(store.status().bytes < used);
    assert_eq!(store.state::<String>("outbox-a").unwrap(), None);
    drop(store);
    let (store, notes) = Store::open(dir.path(), short()).unwrap();
    assert_eq!((store.states().len(), notes.len()), (2, 0));
    assert_eq!(store.state::<String>("outbox-b").unwrap().as_deref(), Some("outbox-b"));
}
