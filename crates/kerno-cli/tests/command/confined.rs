//! What `kerno start` has given up when it watches, as the kernel tells it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use crate::daemon::{Daemon, until};

/// `CAP_DAC_READ_SEARCH`, `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN`, `CAP_SYSLOG`, `CAP_PERFMON`, `CAP_BPF` (linux/capability.h), and `CAP_SYS_RESOURCE`, which old kernels need.
const WATCHING: u64 = 1 << 2 | 1 << 19 | 1 << 21 | 1 << 34 | 1 << 38 | 1 << 39;
const RESOURCE: u64 = 1 << 24;

/// A number of a thread's status; those of capabilities are hexadecimal.
fn number(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    u64::from_str_radix(line.trim(), if name.starts_with("Cap") { 16 } else { 10 }).unwrap()
}

#[test]
fn only_threads_that_watch_keep_privileges() {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let daemon = Daemon::start(&directory, &[]);
    until("a window", || (daemon.get("/readyz", "").0 == 200).then_some(()));
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap().flatten() {
        let read = |name: &str| fs::read_to_string(thread.path().join(name));
        // Some live for one question.
        let (Ok(name), Ok(status)) = (read("comm"), read("status")) else { continue };
        threads.entry(name.trim().to_owned()).or_insert(status);
    }
    let watches = ["kerno engine", "kerno resolver", "kerno sockets", "kerno namespace", "kerno changes"];
    for (name, status) in &threads {
        let get = |field: &str| number(status, field);
        assert_eq!(get("NoNewPrivs"), 1, "{name}");
        assert_eq!((get("CapInh"), get("CapAmb")), (0, 0), "{name}");
        // 2: a filter of system calls.
        assert_eq!(get("Seccomp"), 2, "{name}");
        let allowed = if watches.contains(&name.as_str()) { WATCHING | RESOURCE } else { 0 };
        assert_eq!((get("CapPrm") | get("CapEff")) & !allowed, 0, "{name}: {status}");
    }
    for name in ["kerno", "kerno engine", "kerno http", "kerno store", "kerno-signals", "kerno-reload"] {
        assert!(threads.contains_key(name), "no thread {name}: {:?}", threads.keys());
    }
    // It still sees processes of others, reads its settings again, and cleans up.
    let report = daemon.json("/api/v1/report");
    assert!(!report.to_string().contains("CAP_"), "something is not seen: {}", report["missing"]);
    daemon.hang_up();
    until("it reads its settings again", || daemon.log().contains("settings read again").then_some(()));
    let log = daemon.stop();
    assert!(!log.contains("not confined"), "{log}");
}
