use super::*;
use crate::{rank, report};
use kerno_model::{
    Address, BlockedTask, CgroupThrottle, DiskDevice, DiskOpStat, DiskSubmitter, DiskSummary, ErrnoCount, Fact,
    FdSummary, Filesystem, Limit, NamedProcess, OomSummary, Process, RequestKind, RuleId, SchedSummary, Scope,
    Severity, Span, SyscallOffender, SyscallSummary, WaitsFor,
};
use kerno_model::{errno, fill};

fn finding(id: &'static str, subject: Subject) -> Finding {
    Finding::new(RuleId::new(id), Severity::Warning).about(subject)
}

fn process(pid: u32) -> Subject {
    let id = ProcessId { pid, ..ProcessId::default() };
    fill!(Subject { process: Some(NamedProcess { id, comm: format!("p{pid}"), ..NamedProcess::default() }) })
}

fn device(name: &str) -> Subject {
    Subject::device(&machine(vec![]), name)
}

fn end(address: &str) -> Address {
    address
        .parse::<std::net::SocketAddr>()
        .map_or_else(|_| address.parse::<std::net::IpAddr>().unwrap().into(), Address::from)
}

fn local(address: &str) -> Subject {
    fill!(Subject { local: Some(end(address)) })
}

fn remote(address: &str) -> Subject {
    fill!(Subject { remote: Some(end(address)) })
}

fn fails(id: &'static str, pid: u32, call: &str, errno: i32) -> Finding {
    finding(id, process(pid)).fact(Fact::Call(call.to_owned())).fact(Fact::Errno(errno))
}

fn slow(pid: u32, call: &str) -> Finding {
    finding("syscall_latency_high", process(pid)).fact(Fact::Call(call.to_owned()))
}

fn from(mut finding: Finding, since: f64) -> Finding {
    finding.since = Some(Span::default().moment(since));
    finding
}

fn offender(pid: u32, name: &str) -> SyscallOffender {
    let name = name.to_owned();
    SyscallOffender { pid, name, slow: 10, slow_total_ns: 1_000_000_000, ..SyscallOffender::default() }
}

fn failing(pid: u32, name: &str, errno: i32) -> SyscallOffender {
    SyscallOffender {
        pid,
        name: name.to_owned(),
        errors: vec![ErrnoCount::new(errno, 9)],
        ..SyscallOffender::default()
    }
}

/// A machine with 8 GiB of which half is in use, two disks and a loop device on the first.
fn machine(offenders: Vec<SyscallOffender>) -> Window {
    let device = |dev: &str, name: &str, backing: &[&str]| DiskDevice {
        dev: dev.into(),
        name: name.into(),
        backing: backing.iter().map(|name| (*name).to_owned()).collect(),
        ..DiskDevice::default()
    };
    let devices = vec![device("8:0", "sda", &[]), device("8:16", "sdb", &[]), device("7:0", "loop0", &["/srv/image"])];
    let root = Filesystem { mount: "/".into(), dev: "8:1".into(), ..Filesystem::default() };
    let srv = Filesystem { mount: "/srv".into(), dev: "8:0".into(), ..Filesystem::default() };
    let processes = (100..110).map(|pid| (pid, Process { pid, ..Process::default() })).collect();
    fill!(Window {
        span: fill!(Span { seconds: 30.0 }),
        disk_io: Some(DiskSummary { devices, filesystems: vec![root, srv], ..DiskSummary::default() }),
        syscall_latency: Some(SyscallSummary { offenders, ..SyscallSummary::default() }),
        oom_track: Some(OomSummary {
            total_bytes: 8 << 30,
            available_bytes: [(0.0, f64::from(1 << 30) * 4.0)].into_iter().collect(),
            ..OomSummary::default()
        }),
        sched_delay: Some(SchedSummary::default()),
        fd_track: Some(FdSummary::default()),
        processes,
    })
}

fn submits(mut window: Window, pid: u32, dev: &str) -> Window {
    let submitter = DiskSubmitter { pid, dev: dev.into(), requests: 1, ..DiskSubmitter::default() };
    window.disk_io.as_mut().unwrap().submitters.push(submitter);
    window
}

/// That the second follows from the first, whichever was found first.
#[track_caller]
fn explains(window: &Window, cause: &Finding, consequence: &Finding) {
    for order in [[cause, consequence], [consequence, cause]] {
        let joined = join(order.into_iter().cloned().collect(), window);
        let ids = |findings: &[Finding]| findings.iter().map(|finding| finding.rule.to_string()).collect::<Vec<_>>();
        assert_eq!(joined.len(), 1, "{:?}", ids(&joined));
        assert_eq!((&joined[0].rule, &joined[0].subject), (&cause.rule, &cause.subject));
        assert_eq!(ids(&joined[0].consequences), [consequence.rule.as_str()]);
        assert!(joined[0].through.is_none() && joined[0].consequences[0].through.is_some());
    }
}

/// That the two stay two root causes.
#[track_caller]
fn independent(window: &Window, a: &Finding, b: &Finding) {
    let joined = join(vec![a.clone(), b.clone()], window);
    assert_eq!(joined.len(), 2, "{} took {}", joined[0].rule, joined[0].consequences[0].rule);
}

#[test]
fn every_effect_that_is_suffered_from_is_caused_and_none_is_listed_twice() {
    for rule in crate::rules() {
        let suffered: Vec<_> = rule.suffers.iter().map(|line| line.from).collect();
        let distinct: HashSet<_> = suffered.iter().collect();
        assert_eq!(suffered.len(), distinct.len(), "{}", rule.id);
        for effect in suffered {
            assert!(
                crate::rules().any(|cause| cause.causes.contains(&effect)),
                "{}: nothing causes {effect:?}",
                rule.id
            );
        }
        for effect in rule.causes {
            let felt = crate::rules().any(|other| other.suffers.iter().any(|line| line.from == *effect));
            assert!(felt, "{}: nothing suffers from {effect:?}", rule.id);
        }
    }
}

#[test]
fn a_slow_device_explains_the_storage_calls_of_those_who_use_it() {
    let disk = finding("disk_io_bottleneck", process(100).on_device(&machine(vec![]), "sda"));
    let slow_sync = slow(101, "fsync");
    let base = || machine(vec![offender(101, "fsync")]);
    explains(&base(), &disk, &slow_sync);
    explains(&submits(base(), 101, "8:0"), &disk, &slow_sync);
    explains(&submits(base(), 101, "7:0"), &disk, &slow_sync);
    independent(&submits(base(), 101, "8:16"), &disk, &slow_sync);
    let network = slow(101, "recvmsg");
    independent(&machine(vec![offender(101, "recvmsg")]), &disk, &network);
}

#[test]
fn a_cgroups_own_limit_explains_only_those_in_it() {
    let mut window = machine(vec![offender(101, "pwrite64"), offender(102, "pwrite64")]);
    window.disk_io.as_mut().unwrap().throttled.push(kerno_model::CgroupIo {
        path: "/batch".into(),
        limit_used: 1.0,
        pids: vec![101],
        ..kerno_model::CgroupIo::default()
    });
    let subject = Subject::cgroup("/batch").on_device(&window, "sda");
    let limit = finding("disk_io_bottleneck", subject).fact(Fact::AtLimit(Limit::CgroupIo));
    let slow = |pid| slow(pid, "pwrite64");
    explains(&window, &limit, &slow(101));
    independent(&window, &limit, &slow(102));
}

#[test]
fn a_slow_device_explains_tasks_asleep_in_storage_code() {
    let disk = finding("disk_io_bottleneck", device("sda"));
    let blocked = finding("blocked_tasks", process(101));
    let asleep_in = |place: &str| {
        let mut window = machine(vec![]);
        let stack = vec![place.to_owned()];
        window.sched_delay.as_mut().unwrap().blocked = vec![BlockedTask { pid: 101, stack, ..BlockedTask::default() }];
        window
    };
    explains(&asleep_in("io_schedule"), &disk, &blocked);
    independent(&asleep_in("rtnl_lock"), &disk, &blocked);
    independent(&asleep_in("fuse_wait_on_folio_writeback"), &disk, &blocked);
    let says = |what| blocked.clone().fact(Fact::WaitsFor(what));
    explains(&asleep_in("rwsem_down_write_slowpath"), &disk, &says(WaitsFor::Storage));
    independent(&asleep_in("folio_wait_bit"), &disk, &says(WaitsFor::Fuse));
    explains(&asleep_in("folio_wait_bit"), &disk, &says(WaitsFor::Unknown));
    explains(&asleep_in("folio_wait_bit"), &disk, &says(WaitsFor::PageLock));
    explains(&asleep_in("ext4_file_write_iter"), &disk, &says(WaitsFor::Lock));
    independent(&asleep_in("rtnl_lock"), &disk, &says(WaitsFor::Lock));
}

#[test]
fn a_stacked_device_waits_for_the_one_below() {
    for id in ["disk_io_bottleneck", "disk_errors"] {
        let below = finding(id, device("sda"));
        explains(&machine(vec![]), &below, &finding(id, device("loop0")));
        independent(&machine(vec![]), &below, &finding(id, device("sdb")));
    }
}

#[test]
fn memory_stalls_come_from_the_disk_only_with_memory_to_spare() {
    let disk = finding("disk_io_bottleneck", device("sda"));
    let pressure = finding("memory_pressure", Subject::default());
    explains(&machine(vec![]), &disk, &pressure);
    let mut thrashing = machine(vec![]);
    let memory = thrashing.oom_track.as_mut().unwrap();
    memory.available_bytes = [(0.0, 1e8)].into_iter().collect();
    memory.refaulted_pages = 100_000;
    explains(&thrashing, &pressure, &disk);
    for cause in ["oom_imminent", "oom_kill"] {
        explains(&thrashing, &finding(cause, Subject::default()), &disk);
    }
    memory_is_not_to_blame_for_ordinary_reads(&disk, &pressure);
}

fn memory_is_not_to_blame_for_ordinary_reads(disk: &Finding, pressure: &Finding) {
    let mut busy = machine(vec![]);
    busy.oom_track.as_mut().unwrap().available_bytes = [(0.0, 1e8)].into_iter().collect();
    busy.oom_track.as_mut().unwrap().refaulted_pages = 10_000;
    let reads = DiskOpStat { op: RequestKind::Read, bytes: 10 << 30, ..DiskOpStat::default() };
    busy.disk_io.as_mut().unwrap().devices[0].ops.push(reads);
    independent(&busy, pressure, disk);
}

#[test]
fn failing_storage_explains_errors_and_slowness() {
    let errors = finding("disk_errors", device("sda"));
    let rate = |errno| fails("syscall_error_rate", 101, "read", errno);
    explains(&machine(vec![]), &errors, &rate(errno::EIO));
    independent(&machine(vec![]), &errors, &rate(errno::EACCES));
    // It may leave the error to the evidence that the call left.
    let unnamed = finding("syscall_error_rate", process(101));
    explains(&machine(vec![failing(101, "read", errno::EIO)]), &errors, &unnamed);
    independent(&machine(vec![failing(102, "read", errno::EIO)]), &errors, &unnamed);
    explains(&submits(machine(vec![]), 101, "8:16"), &errors, &rate(errno::EIO));
    explains(&machine(vec![]), &errors, &finding("disk_io_bottleneck", device("8:0")));
    independent(&machine(vec![]), &errors, &finding("disk_io_bottleneck", device("sdb")));
    explains(&machine(vec![]), &errors, &fails("file_open_storm", 101, "openat", errno::EROFS));
    explains(&machine(vec![offender(101, "read")]), &errors, &finding("syscall_latency_high", process(101)));
    let asleep = finding("blocked_tasks", process(101)).fact(Fact::WaitsFor(WaitsFor::Storage));
    explains(&machine(vec![]), &errors, &asleep);
}

#[test]
fn a_full_file_system_explains_enospc() {
    let full = finding("disk_full", Subject::mount("/var"));
    let write = |id, errno| fails(id, 101, "write", errno);
    explains(&machine(vec![]), &full, &write("syscall_error_rate", errno::ENOSPC));
    explains(&machine(vec![]), &full, &write("file_open_storm", errno::ENOSPC));
    independent(&machine(vec![]), &full, &fails("syscall_error_rate", 101, "inotify_add_watch", errno::ENOSPC));
    independent(&machine(vec![]), &full, &write("syscall_error_rate", errno::EIO));
}

#[test]
fn a_kill_explains_what_led_to_it() {
    let window = machine(vec![]);
    let in_cgroup = |pid, path: &str| fill!(Subject { cgroup: Some(path.into()), ..process(pid) });
    let of_cgroup = |id, path: &str| finding(id, Subject::cgroup(path)).fact(Fact::Scope(Scope::Cgroup(path.into())));
    let of_machine = |id| finding(id, Subject::default()).fact(Fact::Scope(Scope::Machine));
    // A process is in some cgroup anyway.
    let machine_short = finding("oom_imminent", in_cgroup(103, "/web")).fact(Fact::Scope(Scope::Machine));
    let killed = finding("oom_kill", in_cgroup(101, "/web")).fact(Fact::Scope(Scope::Cgroup("/web".into())));
    explains(&window, &killed, &of_cgroup("oom_imminent", "/web"));
    independent(&window, &killed, &of_cgroup("oom_imminent", "/batch"));
    independent(&window, &killed, &of_machine("oom_imminent"));
    independent(&window, &killed, &machine_short);
    explains(&window, &killed, &of_cgroup("memory_pressure", "/web"));
    explains(&window, &killed, &of_cgroup("memory_pressure", "/web/worker"));
    explains(&window, &killed, &of_machine("memory_pressure"));
    let global = finding("oom_kill", in_cgroup(102, "/web")).fact(Fact::Scope(Scope::Machine));
    explains(&window, &global, &of_machine("oom_imminent"));
    explains(&window, &global, &of_machine("memory_pressure"));
    independent(&window, &global, &of_cgroup("oom_imminent", "/batch"));
    let soon = of_cgroup("oom_imminent", "/web");
    explains(&window, &soon, &of_cgroup("memory_pressure", "/web"));
    independent(&window, &soon, &of_cgroup("memory_pressure", "/batch"));
}

#[test]
fn want_of_memory_explains_the_slow_calls_of_those_who_waited_for_it() {
    let mut window = machine(vec![]);
    window.processes.get_mut(&101).unwrap().used.reclaim_delay_ns = 5_000_000_000;
    for cause in ["oom_kill", "oom_imminent", "memory_pressure"] {
        let cause = finding(cause, Subject::default());
        explains(&window, &cause, &finding("syscall_latency_high", process(101)));
        independent(&window, &cause, &finding("syscall_latency_high", process(102)));
        explains(&window, &cause, &finding("blocked_tasks", process(101)));
    }
}

#[test]
fn a_leak_explains_what_it_runs_into() {
    let leak = finding("fd_leak", process(101)).fact(Fact::AtLimit(Limit::Descriptors));
    let window = machine(vec![]);
    let machine_full = finding("fd_exhaustion", Subject::default()).fact(Fact::Scope(Scope::Machine));
    explains(&window, &leak, &finding("fd_exhaustion", process(101)));
    independent(&window, &leak, &finding("fd_exhaustion", process(102)));
    explains(&window, &leak, &machine_full);
    let open = |id, pid, errno| fails(id, pid, "openat", errno);
    let exhausted = finding("fd_exhaustion", process(101)).fact(Fact::AtLimit(Limit::Descriptors));
    let overflow = |pid| {
        finding("tcp_accept_queue_overflow", fill!(Subject { process: process(pid).process, ..local("0.0.0.0:80") }))
    };
    for cause in [leak, exhausted] {
        explains(&window, &cause, &open("syscall_error_rate", 101, errno::EMFILE));
        explains(&window, &cause, &open("file_open_storm", 101, errno::EMFILE));
        independent(&window, &cause, &open("syscall_error_rate", 102, errno::EMFILE));
        independent(&window, &cause, &open("syscall_error_rate", 101, errno::EACCES));
        explains(&window, &cause, &overflow(101));
        independent(&window, &cause, &overflow(102));
    }
    // One that has many left can accept.
    independent(&window, &finding("fd_leak", process(101)), &overflow(101));
    explains(&window, &machine_full, &open("syscall_error_rate", 102, errno::ENFILE));
}

#[test]
fn a_quota_explains_the_waits_of_its_cgroup() {
    let mut window = machine(vec![offender(101, "sendto"), offender(102, "sendto")]);
    let throttle = CgroupThrottle { path: "/web".into(), pids: vec![101], ..CgroupThrottle::default() };
    window.sched_delay.as_mut().unwrap().throttled.push(throttle);
    window.processes.get_mut(&103).unwrap().cgroup = Some("/web/worker".into());
    let quota = finding("cpu_throttling", Subject::cgroup("/web"));
    let contention = |victim| {
        let mut contention = finding("scheduler_contention", process(105));
        contention.victims = vec![process(victim)];
        contention
    };
    for pid in [101, 103] {
        explains(&window, &quota, &contention(pid));
        explains(&window, &quota, &finding("syscall_latency_high", process(pid)));
        explains(&window, &quota, &finding("tcp_accept_queue_overflow", process(pid)));
    }
    independent(&window, &quota, &contention(102));
    independent(&window, &quota, &finding("syscall_latency_high", process(102)));
    independent(&window, &quota, &finding("tcp_accept_queue_overflow", process(102)));
}

#[test]
fn waiting_for_cpus_explains_slow_calls_but_not_those_that_wait_for_storage() {
    let mut window = machine(vec![offender(101, "sendto"), offender(102, "fsync"), offender(103, "sendto")]);
    for pid in [101, 102] {
        window.processes.get_mut(&pid).unwrap().used.wait_ns = 20_000_000_000;
    }
    for cause in ["scheduler_contention", "cpu_steal"] {
        let cause = finding(cause, Subject::default());
        explains(&window, &cause, &finding("syscall_latency_high", process(101)));
        independent(&window, &cause, &finding("syscall_latency_high", process(102)));
        independent(&window, &cause, &finding("syscall_latency_high", process(103)));
        explains(&window, &cause, &finding("tcp_rtt_inflation", remote("127.0.0.1:80")));
        independent(&window, &cause, &finding("tcp_rtt_inflation", remote("192.0.2.1:80")));
    }
    let contention = finding("scheduler_contention", process(104));
    explains(&window, &contention, &finding("tcp_accept_queue_overflow", process(101)));
    explains(&window, &finding("cpu_steal", Subject::default()), &contention);
}

#[test]
fn a_listener_that_does_not_accept_explains_what_goes_to_it() {
    let mut window = machine(vec![offender(101, "connect"), offender(102, "connect")]);
    let failure = |pid, port| kerno_model::TcpFailure {
        reason: kerno_model::TcpFailureReason::TimedOut,
        error: ErrnoCount::new(errno::ETIMEDOUT, 1),
        remote: [127, 0, 0, 1].into(),
        port,
        pid,
        comm: String::new(),
        net_namespace: 0,
        count: 1,
        waiting: 0,
        first_ns: 0,
    };
    let failures = vec![failure(101, 80), failure(102, 81)];
    window.tcp_monitor = Some(kerno_model::TcpSummary { failures, ..Default::default() });
    let listener =
        finding("tcp_accept_queue_overflow", fill!(Subject { process: process(100).process, ..local("0.0.0.0:80") }));
    for id in ["tcp_connect_failures", "tcp_retransmit_storm", "tcp_rtt_inflation"] {
        explains(&window, &listener, &finding(id, remote("127.0.0.1:80")));
        explains(&window, &listener, &finding(id, remote("[::ffff:10.0.0.1]:80")));
        independent(&window, &listener, &finding(id, remote("127.0.0.1:81")));
    }
    let bound = finding("tcp_accept_queue_overflow", local("10.0.0.1:80"));
    independent(&window, &bound, &finding("tcp_connect_failures", remote("10.0.0.2:80")));
    explains(&window, &listener, &finding("syscall_latency_high", process(101)));
    independent(&window, &listener, &finding("syscall_latency_high", process(102)));
}

#[test]
fn loss_on_a_path_explains_what_else_is_wrong_on_it() {
    let window = machine(vec![offender(101, "connect")]);
    let loss = finding("tcp_retransmit_storm", remote("192.0.2.1"));
    explains(&window, &loss, &finding("tcp_rtt_inflation", remote("192.0.2.1:443")));
    independent(&window, &loss, &finding("tcp_rtt_inflation", remote("192.0.2.2:443")));
    let mut many = finding("tcp_retransmit_storm", Subject::default());
    many.victims = vec![remote("192.0.2.7"), remote("192.0.2.8:443")];
    explains(&window, &many, &finding("tcp_rtt_inflation", remote("192.0.2.8")));
    let failed = |errno| finding("tcp_connect_failures", remote("192.0.2.1:443")).fact(Fact::Errno(errno));
    explains(&window, &loss, &failed(errno::ETIMEDOUT));
    independent(&window, &loss, &failed(errno::ECONNREFUSED));
    let subject = fill!(Subject { process: process(101).process, ..remote("192.0.2.1:1") });
    let refused = finding("tcp_connect_failures", subject).fact(Fact::Errno(errno::ECONNREFUSED));
    explains(&window, &refused, &fails("syscall_error_rate", 101, "connect", errno::ECONNREFUSED));
    independent(&window, &refused, &fails("syscall_error_rate", 101, "open", errno::EACCES));
    explains(&window, &refused, &finding("syscall_latency_high", process(101)));
}

#[test]
fn what_is_seen_twice_is_one() {
    let storm = finding("file_open_storm", process(101));
    let errors = |call| fails("syscall_error_rate", 101, call, errno::EACCES);
    explains(&machine(vec![]), &storm, &errors("openat"));
    independent(&machine(vec![]), &storm, &errors("ioctl"));
    explains(&machine(vec![]), &finding("blocked_tasks", process(101)), &finding("syscall_latency_high", process(101)));
}

#[test]
fn two_faults_stay_two_root_causes_each_with_its_own() {
    let window =
        submits(submits(machine(vec![offender(101, "fsync"), offender(102, "fsync")]), 101, "8:0"), 102, "8:16");
    let findings = vec![
        finding("syscall_latency_high", process(102)),
        finding("disk_io_bottleneck", device("sda")),
        finding("syscall_latency_high", process(101)),
        finding("disk_io_bottleneck", device("sdb")),
        finding("fd_leak", process(103)),
    ];
    let joined = join(findings, &window);
    assert_eq!(joined.len(), 3);
    let under = |device: &str| {
        let root = joined.iter().find(|finding| finding.subject.device_name() == Some(device)).unwrap();
        root.consequences.iter().map(|finding| finding.pid()).collect::<Vec<_>>()
    };
    assert_eq!((under("sda"), under("sdb")), (vec![Some(101)], vec![Some(102)]));
}

#[test]
fn a_consequence_does_not_begin_before_its_cause() {
    let window = machine(vec![offender(101, "fsync")]);
    let disk = from(finding("disk_io_bottleneck", device("sda")), 20.0);
    let slow = finding("syscall_latency_high", process(101));
    let submitter = submits(window.clone(), 101, "8:0");
    explains(&submitter, &disk, &from(slow.clone(), 12.0));
    independent(&submitter, &disk, &from(slow.clone(), 5.0));
    independent(&window, &disk, &from(slow.clone(), 5.0));
    explains(&window, &disk, &from(slow.clone(), 18.0));
    explains(&window, &disk, &slow);
}

#[test]
fn the_story_is_told_in_order_and_the_root_is_as_severe_as_its_worst_consequence() {
    let window = machine(vec![offender(101, "fsync"), offender(102, "fsync")]);
    let mut flusher = from(finding("disk_io_bottleneck", process(100).on_device(&window, "sda")), 4.0);
    flusher.excess = 9.0;
    let mut worst = from(finding("syscall_latency_high", process(101)), 9.0);
    worst.severity = Severity::Critical;
    let earlier = from(finding("syscall_latency_high", process(102)), 3.5);
    let errors = from(finding("disk_errors", device("sda")), 3.0);
    let mut joined = join(vec![worst.clone(), earlier.clone(), flusher.clone()], &window);
    rank(&mut joined);
    let [root] = &joined[..] else { panic!("{joined:?}") };
    assert_eq!((root.severity, root.worst(), root.pid()), (Severity::Warning, Severity::Critical, Some(100)));
    assert_eq!(root.consequences.iter().map(|f| f.pid()).collect::<Vec<_>>(), [Some(101), Some(102)]);
    let told = report::Diagnosis::of(root, &window);
    let chain: Vec<_> = told.chain.iter().map(|step| (step.seconds, step.what.as_str())).collect();
    let waits = "its file and sync calls wait for the device";
    let expected =
        [(4.0, told.title.clone()), (3.5, format!("p102 (102): {waits}")), (9.0, format!("p101 (101): {waits}"))];
    assert!(chain.iter().zip(&expected).all(|(got, wanted)| got.0 == wanted.0 && got.1 == wanted.1), "{chain:?}");
    assert_eq!((chain.len(), told.severity), (3, Severity::Critical));
    assert_eq!(root.victims.iter().map(Subject::pid).collect::<Vec<_>>(), [Some(101), Some(102)]);

    // Over two steps: the errors explain the slow device, which explains the slow calls.
    let joined = join(vec![worst, flusher, errors], &window);
    assert_eq!(joined.len(), 1);
    assert_eq!((joined[0].rule.as_str(), joined[0].worst()), ("disk_errors", Severity::Critical));
    assert_eq!(report::Diagnosis::of(&joined[0], &window).chain.len(), 3);
}

#[test]
fn what_would_explain_each_other_makes_no_circle() {
    let (a, b) = (finding("disk_io_bottleneck", device("loop0")), finding("disk_io_bottleneck", device("sda")));
    let mut window = machine(vec![offender(101, "fsync")]);
    // Two devices that are said to be made of each other.
    let devices = &mut window.disk_io.as_mut().unwrap().devices;
    devices[0].backing = vec!["loop0".into()];
    devices[2].backing = vec!["sda".into()];
    let joined = join(vec![a, b, finding("syscall_latency_high", process(101))], &window);
    fn count(findings: &[Finding]) -> usize {
        findings.iter().map(|finding| 1 + count(&finding.consequences)).sum()
    }
    assert_eq!((joined.len(), count(&joined)), (1, 3), "none is lost: {joined:?}");
}
