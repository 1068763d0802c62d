use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use kerno_bpf::PathKind;

use super::{audit, close, fd, folder, open, openat, openat2, raw};

/// What a failed call must be reported as: errno, kind of path, path.
type Expected = (i32, PathKind, std::path::PathBuf);

#[test]
fn failures_tell_what_was_asked_for_and_why_not() {
    let (_guard, dir) = folder();
    std::fs::write(dir.join("file"), "").unwrap();
    std::fs::create_dir(dir.join("sub")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    let requested = |errno, path: &str| -> Expected { (errno, PathKind::Requested, dir.join(path)) };
    // Joined by hand: Path::join would start again at an absolute path.
    let in_root = std::path::PathBuf::from(format!("{}/sub/no/such", dir.display()));
    let expected: Vec<Expected> = vec![
        requested(libc::ENOENT, "no/such"),
        requested(libc::ENOENT, "no such"),
        requested(libc::ENOENT, "sub/../no such"),
        requested(libc::ENOENT, "dangling"),
        requested(libc::ENOTDIR, "file/below"),
        requested(libc::EEXIST, "file"),
        requested(libc::ELOOP, "loop"),
        requested(libc::ELOOP, "dangling"),
        requested(libc::EISDIR, "sub"),
        requested(libc::ENOTDIR, "file"),
        requested(libc::ENOENT, "sub/no such"),
        requested(libc::EXDEV, "sub/../file"),
        (libc::ENOENT, PathKind::Requested, in_root),
        requested(libc::EINVAL, "file"),
        (libc::EBADF, PathKind::Relative, "some/name".into()),
        (libc::ENOTDIR, PathKind::Requested, dir.join("file/name")),
        (libc::ENOENT, PathKind::Relative, "".into()),
        (libc::EFAULT, PathKind::Unknown, "".into()),
        (libc::EFAULT, PathKind::Unknown, "".into()),
    ];
    let (events, seen) = audit(|log, _| {
        std::env::set_current_dir(&dir).unwrap();
        log.note(open(dir.join("no/such"), 0));
        log.note(open("no such", 0));
        log.note(open("sub/../no such", 0));
        log.note(open("dangling", 0));
        log.note(open("file/below", 0));
        log.note(open("file", libc::O_CREAT | libc::O_EXCL));
        log.note(open("loop", 0));
        log.note(open("dangling", libc::O_NOFOLLOW));
        log.note(open("sub", libc::O_WRONLY));
        log.note(open("file", libc::O_DIRECTORY));
        let sub = fd(open("sub", libc::O_PATH));
        log.note(openat(sub, "no such", 0));
        log.note(openat2(sub, "../file", 0, 0, libc::RESOLVE_BENEATH));
        log.note(openat2(sub, "/no/such", 0, 0, libc::RESOLVE_IN_ROOT));
        log.note(openat2(libc::AT_FDCWD, "file", 0, 0o777, 0));
        log.note(openat(999, "some/name", 0));
        let file = fd(open("file", 0));
        log.note(openat(file, "name", 0));
        log.note(open("", 0));
        // SAFETY: the kernel refuses addresses that are not mapped, and those of its own half.
        unsafe {
            log.note(raw(libc::syscall(libc::SYS_open, 8, 0)));
            log.note(raw(libc::syscall(libc::SYS_open, 0xffff_8880_0000_0000u64, 0)));
        }
    });
    // The two folders opened on the way are not among the failures.
    let failures: Vec<_> = events.iter().filter(|event| event.ret < 0).collect();
    assert_eq!(events.len(), failures.len() + 2);
    assert_eq!(failures.len(), seen.len());
    let said: Vec<Expected> =
        failures.iter().map(|event| (event.errno().unwrap(), event.path_kind, event.path().to_owned())).collect();
    assert_eq!(said, expected);
    assert!(failures.iter().zip(&seen).all(|(event, seen)| event.ret == seen.ret));
    assert!(failures.iter().all(|event| !event.truncated));
}

#[test]
fn another_user_is_told_by_its_id_and_refused_by_name() {
    const NOBODY: u32 = 65534;
    let (_guard, dir) = folder();
    std::fs::write(dir.join("secret"), "").unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let (events, seen) = audit(|log, _| {
        // SAFETY: changes this process only.
        unsafe { assert_eq!((libc::setgid(NOBODY), libc::setuid(NOBODY)), (0, 0)) };
        log.note(open(dir.join("secret"), 0));
        log.note(open("/etc/shadow", libc::O_RDWR));
        close(log.note(open("/etc/passwd", 0)));
    });
    assert_eq!(events.len(), 3);
    for (event, path) in events.iter().zip([dir.join("secret"), "/etc/shadow".into(), "/etc/passwd".into()]) {
        assert_eq!((event.uid, event.path()), (NOBODY, &*path));
    }
    assert_eq!(
        [events[0].errno(), events[1].errno(), events[2].errno()],
        [Some(libc::EACCES), Some(libc::EACCES), None]
    );
    assert!(events.iter().zip(&seen).all(|(event, seen)| event.ret == seen.ret));
}

#[test]
fn long_requests_are_cut_after_255_bytes() {
    let lengths = [255, 256, 300, 4095, 4096, 5000];
    let long: Vec<String> =
        lengths.iter().map(|length| format!("/{}", "x/".repeat(*length))[..*length].to_owned()).collect();
    let (events, _) = audit(|log, _| {
        for path in &long {
            log.note(open(path, 0));
        }
    });
    assert_eq!(events.len(), lengths.len());
    for (event, path) in events.iter().zip(&long) {
        assert_eq!(event.path_kind, PathKind::Requested);
        assert_eq!(event.path(), Path::new(&path[..255]));
        assert_eq!(event.truncated, path.len() > 255);
        let errno = if path.len() < 4096 { libc::ENOENT } else { libc::ENAMETOOLONG };
        assert_eq!(event.errno(), Some(errno));
    }
}

#[test]
fn an_open_that_seccomp_refuses_is_a_failure_like_another() {
    let (events, seen) = audit(|log, _| {
        let statement =
            |code: u32, k: u32, jf: u8| libc::sock_filter { code: u16::try_from(code).unwrap(), jt: 0, jf, k };
        let open_nr = u32::try_from(libc::SYS_open).unwrap();
        let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
        // struct seccomp_data starts with the number of the call.
        let mut program = [
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, open_nr, 1),
            statement(libc::BPF_RET | libc::BPF_K, refusal, 0),
            statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
        ];
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        // SAFETY: filter points to the four statements; affects this process only.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        log.note(open("/etc/passwd", 0));
        close(log.note(openat(libc::AT_FDCWD, "/etc/passwd", 0)));
    });
    assert_eq!(events.len(), 2);
    assert_eq!((seen[0].ret, events[0].errno()), (-libc::EPERM, Some(libc::EPERM)));
    assert!(events.iter().all(|event| event.path() == Path::new("/etc/passwd")));
    assert_eq!(events[1].ret, seen[1].ret);
}

#[test]
fn an_interrupted_open_has_the_kernels_own_error() {
    extern "C" fn nothing(_: libc::c_int) {}
    let (_guard, dir) = folder();
    let fifo = dir.join("fifo");
    let (events, seen) = audit(|log, _| {
        let name = super::c(&fifo);
        // SAFETY: a C string; a handler that does nothing; a timer for this process.
        unsafe {
            assert_eq!(libc::mkfifo(name.as_ptr(), 0o600), 0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
            let timer = libc::itimerval {
                it_interval: libc::timeval { tv_sec: 0, tv_usec: 50_000 },
                it_value: libc::timeval { tv_sec: 0, tv_usec: 50_000 },
            };
            assert_eq!(libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()), 0);
        }
        log.note(open(&fifo, libc::O_RDONLY));
    });
    assert_eq!((events.len(), seen[0].ret), (1, -libc::EINTR));
    let event = &events[0];
    assert_eq!((event.ret, event.interrupted(), event.errno(), event.path()), (-512, true, None, &*fifo));
    assert!(event.to_string().contains("interrupted"), "{event}");
}

beside_all! {
    failures_tell_what_was_asked_for_and_why_not
}
