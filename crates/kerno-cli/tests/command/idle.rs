use std::fs::read_to_string;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{alone, kerno, signal, wait};

const MAX_RESIDENT_KIB: u64 = 30_000;
const MAX_CPU: f64 = 0.005;

#[test]
fn watching_everything_while_nothing_matches_costs_next_to_nothing() {
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
    let (before, start) = (on_cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let share = Duration::from_nanos(on_cpu() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    let status = proc("status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    signal(&child, libc::SIGTERM);
    assert!(wait(&mut child).success());
    println!("{:.3} % of a CPU, {resident} KiB resident", share * 100.0);
    assert!(share < MAX_CPU, "{share}");
    assert!(resident < MAX_RESIDENT_KIB, "{resident} KiB");
}
