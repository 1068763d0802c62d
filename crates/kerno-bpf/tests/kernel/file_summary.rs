//! The summary of opens against counts of a workload's own.

use kerno_model::FileProcess;
use kerno_model::{ErrnoCount, Window};

use crate::support::{self, Child, Link, compare, set_comm};

/// What one window sees of a child's work. The child lives until the window has ended.
fn observe(work: impl FnOnce(&mut Link)) -> (u32, Window) {
    let mut child = Child::new(|link| {
        work(link);
        link.tell(0);
        link.wait();
    });
    let mut observer = support::observer(&["file_audit"]);
    child.go();
    child.heard();
    let signals = observer.finish().unwrap();
    child.go();
    assert_eq!(child.wait(), 0, "the child's work failed");
    (child.pid, signals)
}

fn process(signals: &Window, pid: u32) -> &FileProcess {
    signals.file_audit.as_ref().unwrap().processes.iter().find(|process| process.pid == pid).unwrap()
}

/// Opens and closes; whether it could.
fn open(path: &std::ffi::CStr, flags: i32) -> bool {
    // SAFETY: a path that lives; the descriptor is ours.
    unsafe {
        let fd = libc::open(path.as_ptr(), flags);
        fd >= 0 && libc::close(fd) == 0
    }
}

#[test]
fn opens_and_failures_of_a_process_are_exact() {
    let (pid, signals) = observe(|_| {
        set_comm("kerno-opens");
        (0..301).for_each(|_| assert!(open(c"/proc/self/stat", libc::O_RDONLY)));
        (0..200).for_each(|_| assert!(!open(c"/no/such/file", libc::O_RDONLY)));
        (0..50).for_each(|_| assert!(!open(c"/etc", libc::O_WRONLY)));
        // SAFETY: a bad pointer, and a call that opens in another way.
        unsafe {
            libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, c"/no".as_ptr(), 0, 0);
            libc::creat(c"/no/such/folder".as_ptr(), 0);
        }
    });
    let process = process(&signals, pid);
    compare("file_audit", "opens, summary", process.opens, 553, "the caller");
    compare("file_audit", "failed opens, summary", process.failed, 252, "the caller");
    assert_eq!(process.comm, "kerno-opens");
    let expected = [(libc::ENOENT, 201), (libc::EISDIR, 50), (libc::EINVAL, 1)]
        .map(|(errno, count)| ErrnoCount::new(errno, count));
    assert_eq!(process.errors, expected);
    assert_eq!((process.last_failed_path.as_str(), process.last_error.as_str()), ("/no/such/folder", "ENOENT"));
    assert_eq!(process.same_path, 1);
    assert_eq!(process.repeated, 199 + 49);
    assert!(process.first_failed_ns >= signals.span.started_ns);
    let summary = signals.file_audit.as_ref().unwrap();
    assert!(summary.opens >= 553);
    let failed = |errno: i32| summary.errors.iter().find(|error| error.errno == errno).map_or(0, |error| error.count);
    assert!(failed(libc::ENOENT) >= 201 && failed(libc::EISDIR) >= 50);
}

#[test]
fn a_storm_on_few_paths_is_found_and_a_search_is_not() {
    let storm = |paths: usize| {
        move |_: &mut Link| {
            let start = std::time::Instant::now();
            let names: Vec<_> =
                (0..paths).map(|i| std::ffi::CString::new(format!("/no/such/folder/{i}")).unwrap()).collect();
            let mut tried = 0;
            while start.elapsed().as_millis() < 300 || tried < 20_000 {
                assert!(!open(&names[tried % paths], libc::O_RDONLY));
                tried += 1;
            }
        }
    };
    let found = |signals: &Window, pid: u32| {
        let findings = crate::support::diagnose(signals);
        findings.into_iter().find(|finding| finding.id == "file_open_storm" && finding.culprit.pid == Some(pid))
    };
    let (pid, signals) = observe(storm(3));
    let finding = found(&signals, pid).expect("a storm");
    assert!(finding.title.contains("/no/such/folder/") && finding.title.contains("ENOENT"), "{}", finding.title);
    let (pid, signals) = observe(storm(500));
    assert_eq!(process(&signals, pid).repeated, 0);
    let told = found(&signals, pid).filter(|finding| finding.severity > kerno_model::Severity::Info);
    assert!(told.is_none(), "{told:?}");
}

#[test]
fn relative_names_in_different_folders_are_different_paths() {
    let (pid, signals) = observe(|_| {
        // SAFETY: folders of every machine, and a name that none has.
        unsafe {
            let folders = [c"/", c"/etc", c"/usr", c"/proc"].map(|path| libc::open(path.as_ptr(), libc::O_DIRECTORY));
            for fd in folders {
                assert_eq!(libc::openat(fd, c"no-such-name".as_ptr(), libc::O_RDONLY), -1);
            }
        }
    });
    let process = process(&signals, pid);
    assert_eq!((process.opens, process.failed, process.repeated), (8, 4, 0));
    assert_eq!(process.last_failed_path, "no-such-name");
}

beside_all! {
    opens_and_failures_of_a_process_are_exact
    a_storm_on_few_paths_is_found_and_a_search_is_not
}
