use std::path::{Path, PathBuf};

use kerno_bpf::{FileAuditLoader, FileEvent, Filter, LoadError, Loader, Options};

use super::{audit_with, close, folder, open};
use crate::cgroups::{Cgroup, v2_mount};
use crate::support::{Child, observe, options, set_comm};

fn paths(events: &[FileEvent]) -> Vec<&Path> {
    events.iter().map(FileEvent::path).collect()
}

#[test]
fn a_prefix_is_compared_byte_by_byte_with_the_whole_path() {
    let (_guard, dir) = folder();
    let names = ["file", "file2", "fil", "other", "eight888"];
    for name in names {
        std::fs::write(dir.join(name), "").unwrap();
    }
    let found = |prefix: PathBuf| {
        let filter = Filter { path_prefix: Some(prefix), ..Filter::default() };
        let (events, _) = audit_with(filter, |_, _| {
            std::env::set_current_dir(&dir).unwrap();
            for name in names {
                close(open(name, 0));
            }
            assert!(open("file/no", 0) < 0);
            assert!(open("missing", 0) < 0);
            assert!(open("", 0) < 0);
        });
        events
            .iter()
            .map(|event| event.path().strip_prefix(&dir).unwrap().to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(found(dir.join("file")), ["file", "file2", "file/no"]);
    assert_eq!(found(dir.join("file2")), ["file2"]);
    assert_eq!(found(dir.join("file2x")), [""; 0]);
    assert_eq!(found(dir.join("eight888")), ["eight888"]);
    assert_eq!(found(dir.join("eight")), ["eight888"]);
    assert_eq!(found(dir.join("m")), ["missing"]);
    assert_eq!(found(dir.clone()).len(), 7);
    assert_eq!(found("/".into()).len(), 7);
    assert_eq!(found("/no/such".into()).len(), 0);
    // Every byte of a word is compared.
    let whole = dir.join("eight888").to_str().unwrap().to_owned();
    for end in whole.len() - 7..=whole.len() {
        let mut wrong = whole[..end].to_owned().into_bytes();
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(found(String::from_utf8(wrong).unwrap().into()).len(), 0, "{end} bytes, the last one wrong");
    }
}

#[test]
fn a_prefix_may_be_as_long_as_what_is_kept_of_a_path() {
    let (_guard, dir) = folder();
    let sub = dir.join("d".repeat(150));
    std::fs::create_dir(&sub).unwrap();
    let full = sub.join("f".repeat(255 - sub.to_str().unwrap().len() - 1));
    let longer = PathBuf::from(format!("{}x", full.display()));
    assert_eq!(full.to_str().unwrap().len(), 255);
    let filter = Filter { path_prefix: Some(full.clone()), ..Filter::default() };
    let (events, _) = audit_with(filter, |_, _| {
        close(open(&full, libc::O_CREAT));
        close(open(&longer, libc::O_CREAT));
        close(open(sub.join("other"), libc::O_CREAT));
    });
    assert_eq!(paths(&events), [&*full, &*full]);
    assert_eq!((events[0].truncated, events[1].truncated), (false, true));
    let options = options(Filter { path_prefix: Some(longer), ..Filter::default() });
    let refused = FileAuditLoader::new(options).load().unwrap_err();
    assert!(matches!(refused, LoadError::Filter(_)), "{refused}");
}

#[test]
fn a_prefix_sees_through_links_and_is_not_fooled_by_names() {
    let (_guard, dir) = folder();
    std::fs::create_dir(dir.join("guarded")).unwrap();
    std::fs::write(dir.join("guarded/file"), "").unwrap();
    std::fs::write(dir.join("free"), "").unwrap();
    std::os::unix::fs::symlink(dir.join("guarded/file"), dir.join("innocent")).unwrap();
    let filter = Filter { path_prefix: Some(dir.join("guarded/")), ..Filter::default() };
    let (events, _) = audit_with(filter, |_, _| {
        close(open(dir.join("innocent"), 0));
        close(open(dir.join("guarded/../free"), 0));
        close(open(dir.join("guarded"), libc::O_DIRECTORY));
    });
    assert_eq!(paths(&events), [dir.join("guarded/file")]);
}

#[test]
fn errors_only_leaves_the_failures() {
    let filter = Filter { errors_only: true, ..Filter::default() };
    let (events, _) = audit_with(filter, |_, _| {
        for _ in 0..101 {
            close(open("/etc/passwd", 0));
            assert!(open("/no/such", 0) < 0);
        }
    });
    assert_eq!(events.len(), 101);
    assert!(events.iter().all(|event| event.errno() == Some(libc::ENOENT) && event.path() == Path::new("/no/such")));
}

/// Two children open the same file, one changed in some way before; the filter must find just that one.
fn only_the_first(filter: Filter, change: impl Fn()) {
    let (_guard, dir) = folder();
    let file = dir.join("file");
    std::fs::write(&file, "").unwrap();
    // All else on the machine is kept out by the path.
    let filter = Filter { path_prefix: Some(file.clone()), ..filter };
    let mut first = Child::new(|_| {
        change();
        (0..101).for_each(|_| close(open(&file, libc::O_PATH)));
    });
    let mut second = Child::new(|_| (0..101).for_each(|_| close(open(&file, libc::O_PATH))));
    let events: Vec<FileEvent> = observe(FileAuditLoader::new(options(filter)), || {
        first.run();
        second.run();
    });
    assert_eq!(events.len(), 101);
    assert!(events.iter().all(|event| event.pid == first.pid));
}

#[test]
fn names_and_users_are_told_apart() {
    let comms = Filter { comms: vec!["nobody-else".into(), "audit-comm".into()], ..Filter::default() };
    only_the_first(comms, || set_comm("audit-comm"));
    // A user id that nobody has; the effective one stays, so that the file can still be reached.
    let uids = Filter { uids: vec![3_999_999_979], ..Filter::default() };
    only_the_first(uids, || {
        // SAFETY: changes this process only.
        unsafe { assert_eq!(libc::setresuid(3_999_999_979, u32::MAX, u32::MAX), 0) };
    });
}

#[test]
fn a_cgroup_counts_with_those_made_below_it_later() {
    let (_guard, dir) = folder();
    let file = dir.join("file");
    std::fs::write(&file, "").unwrap();
    let outer = Cgroup::new(&v2_mount(), "file-audit");
    let mut inner = None;
    let work = || Child::new(|_| (0..53).for_each(|_| close(open(&file, 0))));
    let (mut outside, mut above, mut below) = (work(), work(), work());
    let filter = Filter { cgroups: vec![outer.path.clone()], path_prefix: Some(file.clone()), ..Filter::default() };
    let events: Vec<FileEvent> = observe(FileAuditLoader::new(options(filter)), || {
        outside.run();
        outer.add(above.pid);
        above.run();
        inner.insert(Cgroup::new(&outer.path, "inner")).add(below.pid);
        below.run();
    });
    let inner_id = inner.unwrap().id();
    assert_eq!(events.len(), 106);
    assert!(events[..53].iter().all(|event| (event.pid, event.cgroup_id) == (above.pid, outer.id())));
    assert!(events[53..].iter().all(|event| (event.pid, event.cgroup_id) == (below.pid, inner_id)));
}

#[test]
fn our_own_opens_are_left_out_unless_asked_for() {
    let (_guard, dir) = folder();
    let file = dir.join("file");
    std::fs::write(&file, "").unwrap();
    let found = |exclude_self| {
        let filter = Filter { path_prefix: Some(file.clone()), ..Filter::default() };
        let options = Options { exclude_self, ..options(filter) };
        let events: Vec<FileEvent> =
            observe(FileAuditLoader::new(options), || drop(std::fs::File::open(&file).unwrap()));
        events.len()
    };
    assert_eq!((found(true), found(false)), (0, 1));
}

beside_all! {
    a_prefix_is_compared_byte_by_byte_with_the_whole_path
    errors_only_leaves_the_failures
    names_and_users_are_told_apart
}
