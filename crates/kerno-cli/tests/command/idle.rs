use std::fs::read_to_string;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{alone, kerno, signal, wait};

/// Pages of its own. Those of the file that it was started from are the machine's to drop, and a debug build has many.
const MAX_OWN_KIB: u64 = 6_000;

#[test]
fn watching_everything_while_nothing_matches_holds_little_memory() {
    let _alone = alone();
    let mut child = kerno(&["trace", "all", "--comm", "no such task"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let proc = |file: &str| read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
    // Nanoseconds on a CPU (Documentation/scheduler/sched-stats.rst).
    let on_cpu = || proc("schedstat").split(' ').next().unwrap().parse::<u64>().unwrap();
    // The loading costs more; its thread sleeps when it is done.
    let (mut last, deadline) = (on_cpu(), Instant::now() + Duration::from_secs(30));
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = on_cpu();
        if now - last < 20_000_000 && now > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "it does not come to rest");
        last = now;
    }
    let status = proc("status");
    let kib = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        value.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let own = kib("RssAnon:") + kib("RssShmem:");
    signal(&child, libc::SIGTERM);
    assert!(wait(&mut child).success());
    assert!(own < MAX_OWN_KIB, "{own} KiB");
}
