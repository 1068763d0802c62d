use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use kerno_bpf::PathKind;

use super::{assert_all_resolved, audit, c, fd, folder, open, openat, openat2};

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[test]
fn relative_paths_and_links_become_the_file_they_lead_to() {
    let (_guard, dir) = folder();
    std::fs::create_dir_all(dir.join("a/b")).unwrap();
    std::fs::write(dir.join("a/b/file"), "").unwrap();
    std::fs::hard_link(dir.join("a/b/file"), dir.join("second name")).unwrap();
    symlink("a/b", dir.join("link to folder")).unwrap();
    symlink("link to folder/file", dir.join("link to link")).unwrap();
    let (events, seen) = audit(|log, _| {
        std::env::set_current_dir(&dir).unwrap();
        log.note(open("a/b/file", 0));
        log.note(open("./a/../a//b/./file", 0));
        log.note(open("link to link", 0));
        log.note(open(dir.join("link to folder/../b/file"), 0));
        log.note(open("second name", 0));
        log.note(open("link to link", libc::O_PATH | libc::O_NOFOLLOW));
        let a = fd(log.note(openat(libc::AT_FDCWD, "a", libc::O_PATH)));
        log.note(openat(a, "b/file", 0));
        log.note(openat(a, "..", libc::O_DIRECTORY));
        log.note(openat(a, dir.join("second name"), 0));
        log.note(openat2(a, "/b/file", 0, 0, libc::RESOLVE_IN_ROOT));
        std::env::set_current_dir("a/b").unwrap();
        log.note(openat(libc::AT_FDCWD, "../../second name", 0));
        log.note(open("/dev/null", libc::O_RDWR));
        log.note(open("/sys/kernel/notes", 0));
        log.note(open(".", libc::O_DIRECTORY));
        std::fs::rename(dir.join("a/b/file"), dir.join("a/renamed")).unwrap();
        log.note(open("../renamed", 0));
    });
    assert_all_resolved(&events, &seen);
    assert_eq!(events.len(), 16);
    assert_eq!(events[2].path(), dir.join("a/b/file"));
    assert_eq!(events[5].path(), dir.join("link to link"));
    assert_eq!(events[10].path(), dir.join("a/b/file"));
}

#[test]
fn names_of_any_bytes_arrive_untouched() {
    let (_guard, dir) = folder();
    let names: [&[u8]; 7] =
        [b"line\nbreak", b"\x1b[31mred", b"\xff\xfe\x80", b"back\\slash", "漢字 ü".as_bytes(), b" ", &[b'x'; 255]];
    let dir = dir.join(OsStr::from_bytes(b"\x01folder\xf0"));
    std::fs::create_dir(&dir).unwrap();
    let (events, seen) = audit(|log, _| {
        std::env::set_current_dir(&dir).unwrap();
        for name in names {
            log.note(open(OsStr::from_bytes(name), libc::O_CREAT | libc::O_RDWR));
        }
    });
    assert_eq!(events.len(), names.len());
    assert_all_resolved(&events[..6], &seen[..6]);
    for (event, name) in events.iter().zip(&names[..6]) {
        assert_eq!(event.path(), dir.join(OsStr::from_bytes(name)));
    }
    assert!(events[6].truncated);
    let line = events[1].to_string();
    assert!(line.ends_with(r"\x01folder\xf0/\x1b[31mred"), "{line}");
}

/// A path of exactly this many bytes below the folder, its folders made.
fn path_of_length(dir: &Path, length: usize) -> PathBuf {
    let mut path = dir.to_owned();
    while length - bytes(&path).len() > 102 {
        path.push("d".repeat(100));
        if !path.is_dir() {
            std::fs::create_dir(&path).unwrap();
        }
    }
    let left = length - bytes(&path).len() - 1;
    path.push("f".repeat(left));
    assert_eq!(bytes(&path).len(), length);
    path
}

#[test]
fn the_first_255_bytes_of_long_paths_are_kept() {
    let (_guard, dir) = folder();
    let lengths = [254, 255, 256, 257, 511, 512, 1000, 4000, 4095];
    let paths: Vec<_> = lengths.iter().map(|length| path_of_length(&dir, *length)).collect();
    let (events, seen) = audit(|log, _| {
        for path in &paths {
            // Longer than a call may take: the file is opened from within its folder.
            std::env::set_current_dir(path.parent().unwrap()).unwrap();
            log.note(open(path.file_name().unwrap(), libc::O_CREAT | libc::O_WRONLY));
            log.note(open(path.with_extension("missing").file_name().unwrap(), 0));
        }
    });
    assert_eq!(events.len(), 2 * lengths.len());
    for (i, path) in paths.iter().enumerate() {
        let (opened, missing) = (&events[2 * i], &events[2 * i + 1]);
        assert_eq!(opened.ret, seen[2 * i].ret);
        assert!(opened.ret >= 0);
        // /proc gives up one byte before the limit that opens have.
        if lengths[i] < 4095 {
            assert_eq!(&seen[2 * i].link, path);
        }
        assert_eq!(opened.path_kind, PathKind::Resolved, "{}", lengths[i]);
        assert_eq!(bytes(opened.path()), &bytes(path)[..lengths[i].min(255)]);
        assert_eq!(opened.truncated, lengths[i] > 255, "{}", lengths[i]);
        let path = path.with_extension("missing");
        assert_eq!((missing.errno(), missing.path_kind), (Some(libc::ENOENT), PathKind::Requested));
        assert_eq!(bytes(missing.path()), &bytes(&path)[..bytes(&path).len().min(255)]);
        assert!(missing.truncated == (bytes(&path).len() > 255));
    }
}

#[test]
fn deeper_and_longer_than_can_be_followed_is_said_to_be_a_part() {
    let (_guard, dir) = folder();
    let name = "n".repeat(250);
    let (events, seen) = audit(|log, _| {
        // 150 folders deep, with short names.
        std::env::set_current_dir(&dir).unwrap();
        for i in 0..150 {
            std::fs::create_dir(format!("{i}")).unwrap();
            std::env::set_current_dir(format!("{i}")).unwrap();
        }
        log.note(open("file", libc::O_CREAT | libc::O_WRONLY));
        log.note(open("missing", 0));
        // As deep, but its last 96 names fit.
        std::env::set_current_dir(&dir).unwrap();
        for _ in 0..120 {
            std::fs::create_dir("d").unwrap();
            std::env::set_current_dir("d").unwrap();
        }
        log.note(open("file", libc::O_CREAT | libc::O_WRONLY));
        log.note(open("missing", 0));
        // Longer than any path can be: 20 folders with long names.
        std::env::set_current_dir(&dir).unwrap();
        for _ in 0..20 {
            std::fs::create_dir(&name).unwrap();
            std::env::set_current_dir(&name).unwrap();
        }
        log.note(open("file", libc::O_CREAT | libc::O_WRONLY));
    });
    assert_eq!(events.len(), 5);
    assert!(events.iter().zip(&seen).all(|(event, seen)| event.ret == seen.ret));
    assert!(events.iter().all(|event| event.path_kind == PathKind::Relative && event.truncated));
    // The part that is told is right, and starts at a name.
    let link = seen[0].link.to_str().unwrap();
    let part = events[0].path().to_str().unwrap();
    let at = link.find(part).unwrap();
    assert_eq!(link.as_bytes()[at - 1], b'/');
    assert!(!part.starts_with('/') && part.len() == 255 && link.len() > 255);
    assert_eq!(events[2].filename(), format!("{}file", "d/".repeat(95)));
    assert_eq!(events[3].filename(), format!("{}missing", "d/".repeat(96)));
    assert_eq!(&bytes(events[4].path())[..250], name.as_bytes());
}

#[test]
fn what_is_deleted_or_has_no_place_is_named_as_proc_names_it() {
    let (_guard, dir) = folder();
    let (events, seen) = audit(|log, _| {
        let again = |fd: i64, flags: i32| log.note(open(format!("/proc/self/fd/{fd}"), flags));
        let file = log.note(open(dir.join("goes away"), libc::O_CREAT | libc::O_RDWR));
        std::fs::remove_file(dir.join("goes away")).unwrap();
        again(file, libc::O_RDONLY);
        log.note(open(&dir, libc::O_TMPFILE | libc::O_RDWR));
        // SAFETY: plain calls with a C string; pipe has room for two descriptors.
        let (memfd, pipe) = unsafe {
            let mut pipe = [0; 2];
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            (libc::memfd_create(c("secret").as_ptr(), 0), pipe[0])
        };
        again(i64::from(memfd), libc::O_RDWR);
        again(i64::from(pipe), libc::O_RDONLY);
        log.note(open("/proc/self/ns/mnt", libc::O_RDONLY));
        // A folder that is gone has no file, but a name in the request.
        std::fs::create_dir(dir.join("gone")).unwrap();
        std::env::set_current_dir(dir.join("gone")).unwrap();
        std::fs::remove_dir(dir.join("gone")).unwrap();
        log.note(open("x", libc::O_CREAT | libc::O_RDWR));
    });
    assert_eq!(events.len(), 7);
    assert_all_resolved(&events[..4], &seen[..4]);
    assert_eq!(bytes(events[1].path()), [bytes(&dir), b"/goes away (deleted)"].concat());
    assert_eq!(events[2].open_flags().to_string(), "O_RDWR|O_TMPFILE");
    assert_eq!(events[2].mode, 0o640);
    assert_eq!(events[3].path(), Path::new("/memfd:secret (deleted)"));
    // These have a made-up name that is not told; what was asked for says as much.
    assert!(seen[4].link.to_str().unwrap().starts_with("pipe:["));
    assert!(events[4].path().to_str().unwrap().starts_with("/proc/self/fd/"));
    assert_eq!(events[5].path(), Path::new("/proc/self/ns/mnt"));
    assert!(events[4..6].iter().all(|event| event.path_kind == PathKind::Requested && event.ret >= 0));
    assert_eq!((events[6].errno(), events[6].path()), (Some(libc::ENOENT), &*dir.join("gone/x")));
}

beside_all! {
    deeper_and_longer_than_can_be_followed_is_said_to_be_a_part
}
