//! Every kill happens in a small cgroup of the test's own: the machine itself never runs out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::time::Duration;

use aya::maps::RingBuf;
use aya::programs::BtfTracePoint;
use kerno_bpf::OomScope;
use kerno_bpf::{EventType, Filter, Host, OomEvent, OomTrackLoader, Options, RawEvent};

use crate::cgroups::{Cgroup, id_of, v2_mount};
use crate::support::{Child, Link, Run, compare, monotonic_ns, observe, options, pid, set_comm, without};

const MIB: usize = 1 << 20;
const LIMIT: u64 = 24 << 20;

/// The kernel's log from now on.
struct Log(File);

/// The kernel's line about a killed process.
#[derive(Debug, PartialEq, Eq)]
struct Killed {
    comm: String,
    total_kib: u64,
    anon_kib: u64,
    file_kib: u64,
    shmem_kib: u64,
    uid: u32,
    pgtables_kib: u64,
    adj: i16,
}

impl Log {
    fn from_now() -> Self {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .expect("needs the kernel's log");
        file.seek(SeekFrom::End(0)).unwrap();
        Self(file)
    }

    /// The processes killed since, by process id.
    fn killed(&mut self) -> HashMap<u32, Killed> {
        let mut found = HashMap::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    if let Some((_, line)) = text.split_once("Killed process ") {
                        let (pid, killed) = parse(line.lines().next().unwrap());
                        assert_eq!(found.insert(pid, killed), None, "the log tells of {pid} once");
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return found,
                // EPIPE: records were overwritten before they could be read.
                Err(error) => assert_eq!(error.kind(), ErrorKind::BrokenPipe),
            }
        }
    }
}

/// `123 (name) total-vm:4kB, anon-rss:4kB, file-rss:4kB, shmem-rss:0kB, UID:0 pgtables:4kB oom_score_adj:0`
fn parse(line: &str) -> (u32, Killed) {
    let (pid, rest) = line.split_once(" (").unwrap();
    let (comm, rest) = rest.rsplit_once(") ").unwrap();
    let fields: HashMap<_, _> = rest.split([' ', ',']).filter_map(|field| field.split_once(':')).collect();
    let kib = |name| fields[name].strip_suffix("kB").unwrap().parse().unwrap();
    let killed = Killed {
        comm: comm.to_owned(),
        total_kib: kib("total-vm"),
        anon_kib: kib("anon-rss"),
        file_kib: kib("file-rss"),
        shmem_kib: kib("shmem-rss"),
        uid: fields["UID"].parse().unwrap(),
        pgtables_kib: kib("pgtables"),
        adj: fields["oom_score_adj"].parse().unwrap(),
    };
    (pid.parse().unwrap(), killed)
}

fn kib(pages: u64) -> u64 {
    pages * rustix::param::page_size() as u64 / 1024
}

/// The event in the words of the log.
fn as_logged(event: &OomEvent) -> Killed {
    Killed {
        comm: event.comm().into_owned(),
        total_kib: kib(event.total_pages),
        anon_kib: kib(event.anon_pages),
        file_kib: kib(event.file_pages),
        shmem_kib: kib(event.shmem_pages),
        uid: event.uid,
        pgtables_kib: event.pgtables_bytes / 1024,
        adj: event.oom_score_adj,
    }
}

/// Maps so much memory and writes to each page of it; it stays mapped.
pub fn use_memory(bytes: usize, sharing: i32) {
    // SAFETY: a new mapping of its own, written to within its size.
    unsafe {
        let memory = libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            sharing | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(memory, libc::MAP_FAILED);
        for offset in (0..bytes).step_by(4096) {
            memory.cast::<u8>().add(offset).write_volatile(1);
        }
    }
}

pub fn run_out() {
    loop {
        use_memory(MIB, libc::MAP_PRIVATE);
    }
}

fn set_adj(adj: i16) {
    std::fs::write("/proc/self/oom_score_adj", adj.to_string()).unwrap();
}

fn set_uid(uid: u32) {
    // SAFETY: the plain system call; the child has one thread.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setuid, uid) }, 0);
}

/// A child in a cgroup with little memory.
struct Doomed {
    child: Child,
    group: Cgroup,
}

impl Doomed {
    fn new(work: impl FnOnce(&mut Link)) -> Self {
        let group = Cgroup::with_memory(LIMIT, "oom");
        let child = Child::new(work);
        group.add(child.pid);
        Self { child, group }
    }

    fn die(&mut self) {
        self.child.go();
        let status = self.child.wait();
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL, "status {status:#x}");
    }
}

/// How the kills of these processes are observed while the work goes on.
type Observe = fn(&[u32], &mut dyn FnMut()) -> Vec<OomEvent>;

fn with_the_loader(pids: &[u32], work: &mut dyn FnMut()) -> Vec<OomEvent> {
    let filter = Filter { pids: pids.to_vec(), ..Filter::default() };
    observe(OomTrackLoader::new(options(filter)), work)
}

/// With the programs of kernels whose `mark_victim` tells a pid only (before 6.9 and its backports), driven by the pid.
fn by_pid(pids: &[u32], work: &mut dyn FnMut()) -> Vec<OomEvent> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib = |name| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    };
    let pages = (kib("MemTotal:") + kib("SwapTotal:")) * 1024 / rustix::param::page_size() as u64;
    let object = aya::include_bytes_aligned!("../../objects/mark_victim_pid_test.bpf.o");
    let mut loader = aya::EbpfLoader::new();
    loader.override_global("cfg_total_pages", &pages, true);
    let cpus = u32::try_from(aya::util::nr_cpus().unwrap()).unwrap();
    if Host::detect().version.major >= 7 {
        loader.override_global("cfg_exact_cpus", &cpus, true);
    }
    let mut ebpf = loader.load(object).unwrap();
    let btf = aya::Btf::from_sys_fs().unwrap();
    for (program, tracepoint) in [
        ("on_memcg_reclaim", "mm_vmscan_memcg_reclaim_begin"),
        ("on_direct_reclaim", "mm_vmscan_direct_reclaim_begin"),
        ("on_signal_generate", "signal_generate"),
        ("on_mark_victim_as_pid", "mark_victim"),
    ] {
        let program: &mut BtfTracePoint = ebpf.program_mut(program).unwrap().try_into().unwrap();
        program.load(tracepoint, &btf).unwrap();
        program.attach().unwrap();
    }
    let mut ring = RingBuf::try_from(ebpf.take_map("events").unwrap()).unwrap();
    work();
    let mut events = Vec::new();
    while let Some(record) = ring.next() {
        let raw = RawEvent { event_type: EventType::OomKill, data: &record };
        events.push(*raw.decode_as::<OomEvent>().unwrap());
    }
    events.retain(|event| pids.contains(&event.pid));
    events
}

#[test]
fn kills_are_told_as_the_kernel_log_tells_them() {
    kills_are_told_as_in_the_log(with_the_loader);
}

#[test]
fn kills_told_by_pid_are_as_the_kernel_log_tells_them() {
    kills_are_told_as_in_the_log(by_pid);
}

fn kills_are_told_as_in_the_log(observe: Observe) {
    const KILLS: usize = 11;
    let mut log = Log::from_now();
    let mut doomed: Vec<_> = (0..KILLS)
        .map(|number| {
            Doomed::new(move |_| {
                set_comm(&format!("kerno-oom {number})"));
                set_adj(i16::try_from(number).unwrap() * 50);
                set_uid(61_700 + u32::try_from(number).unwrap());
                use_memory((number + 1) * MIB, libc::MAP_SHARED);
                run_out();
            })
        })
        .collect();
    let pids: Vec<_> = doomed.iter().map(|doomed| doomed.child.pid).collect();
    // At the root of v2 in spite of a limit of their own: that is in a v1 hierarchy, and v2 tells nothing.
    let root = std::fs::metadata(v2_mount()).unwrap().ino();
    let cgroups: Vec<_> = pids.iter().map(|pid| Some(id_of(*pid)).filter(|id| *id != root).unwrap_or(0)).collect();
    let before = monotonic_ns();
    let events = observe(&pids, &mut || doomed.iter_mut().for_each(Doomed::die));
    let after = monotonic_ns();
    let mut killed = log.killed();
    // Other tests have their own victims meanwhile.
    killed.retain(|pid, _| pids.contains(pid));
    assert_eq!(events.iter().map(|event| event.pid).collect::<Vec<_>>(), pids);
    compare("oom_track", "kills, events", events.len(), killed.len(), "the kernel's log");
    let told: u64 = events.iter().map(|event| as_logged(event).anon_kib).sum();
    let logged = pids.iter().map(|pid| killed[pid].anon_kib).sum();
    compare("oom_track", "KiB of anonymous memory of the victims", told, logged, "the kernel's log");
    let mut last = before;
    for ((number, event), cgroup) in events.iter().enumerate().zip(cgroups) {
        assert_eq!(as_logged(event), killed[&event.pid]);
        assert!(event.known);
        assert_eq!(event.scope, OomScope::Cgroup);
        assert_eq!(event.cgroup_id, cgroup);
        assert_eq!((event.triggered_pid, event.triggered_comm), (event.pid, event.comm));
        assert_eq!(event.rss_pages, event.anon_pages + event.file_pages + event.shmem_pages);
        assert_eq!(event.swap_pages, 0);
        // What the test itself knows; the kernel's counters may be behind by what each CPU holds back.
        let slack = 128 * std::thread::available_parallelism().unwrap().get() as u64;
        assert!(kib(event.shmem_pages).abs_diff(((number + 1) * MIB / 1024) as u64) <= 4 * slack, "{event}");
        assert!(event.rss_bytes() > LIMIT * 3 / 4 && event.anon_pages > 0 && event.file_pages > 0, "{event}");
        assert!(event.timestamp_ns >= last && event.timestamp_ns <= after);
        last = event.timestamp_ns;
    }
}

#[test]
fn the_victim_and_who_needed_the_memory_are_told_apart() {
    the_victim_is_told_with(OomScope::Cgroup, with_the_loader);
}

#[test]
fn a_victim_told_by_pid_is_told_from_who_needed_the_memory() {
    the_victim_is_told_with(OomScope::Cgroup, by_pid);
}

#[test]
fn without_the_hooks_of_reclaim_only_the_scope_is_unknown() {
    without(&["mm_vmscan_memcg_reclaim_begin", "mm_vmscan_direct_reclaim_begin"], || {
        the_victim_is_told_with(OomScope::Unknown, with_the_loader);
    });
}

/// One process uses most of a cgroup's memory, another asks for what is more than the rest.
fn the_victim_is_told_with(scope: OomScope, observe: Observe) {
    const ADJ: i16 = 500;
    let group = Cgroup::with_memory(32 << 20, "oom");
    let mut large = Child::new(|link| {
        set_comm("kerno-large");
        set_adj(ADJ);
        use_memory(20 * MIB, libc::MAP_PRIVATE);
        link.tell(0);
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    let mut small = Child::new(|_| {
        set_comm("kerno-small");
        // Together too much, alone not.
        use_memory(20 * MIB, libc::MAP_PRIVATE);
    });
    group.add(large.pid);
    group.add(small.pid);
    large.go();
    assert_eq!(large.heard(), 0);
    let score = || std::fs::read_to_string(format!("/proc/{}/oom_score", large.pid)).unwrap().trim().parse().unwrap();
    let scores: [i32; 2] = [score(), score()];
    let mut log = Log::from_now();
    let events = observe(&[large.pid], &mut || {
        small.go();
        let status = small.wait();
        // The victim's memory may come free too late for the one who asks, who is next then.
        assert!(status == 0 || libc::WIFSIGNALED(status), "status {status:#x}");
        assert!(libc::WIFSIGNALED(large.wait()));
    });
    let [event] = events[..] else { panic!("{} events", events.len()) };
    assert_eq!((event.pid, &*event.comm()), (large.pid, "kerno-large"));
    assert_eq!((event.triggered_pid, &*event.triggered_comm()), (small.pid, "kerno-small"));
    assert_eq!(event.scope, scope);
    // Both are rounded, of memory in use that changes by some pages from one look to the next.
    let near = scores.map(|score| score - 1..=score + 1);
    let score = event.oom_score;
    assert!(near.iter().any(|near| near.contains(&score)), "score {score}, /proc/PID/oom_score {scores:?}");
    assert_eq!(as_logged(&event), log.killed()[&large.pid]);
    // Asleep, it had what it asked for.
    assert!(kib(event.anon_pages) >= (20 * MIB / 1024) as u64 - 1024);
}

#[test]
fn scores_equal_procfs_for_every_adjustment() {
    // Only CAP_SYS_RESOURCE may go below the adjustment it started with.
    let capabilities = rustix::thread::capabilities(None).unwrap().effective;
    let lowest = if capabilities.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) { -1000 } else { 0 };
    for adj in [-1000, -999, -500, -7, 0, 3, 250, 999, 1000i16].into_iter().filter(|adj| *adj >= lowest) {
        let group = Cgroup::with_memory(LIMIT, "oom");
        let mut child = Child::new(|link| {
            set_adj(adj);
            link.tell(0);
            link.wait();
            run_out();
        });
        group.add(child.pid);
        child.go();
        assert_eq!(child.heard(), 0);
        let path = format!("/proc/{}/oom_score", child.pid);
        let score = || std::fs::read_to_string(&path).unwrap().trim().parse::<i32>().unwrap();
        if adj == -1000 {
            // Never chosen.
            assert_eq!(score(), 0);
            continue;
        }
        let before = score();
        let events: Vec<OomEvent> = observe(OomTrackLoader::new(options(pid(child.pid))), || {
            child.go();
            assert!(libc::WIFSIGNALED(child.wait()));
        });
        let [event] = events[..] else { panic!("{} events", events.len()) };
        // It grew by at most the limit since.
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total_kib: u64 = meminfo.split_whitespace().nth(1).unwrap().parse().unwrap();
        let growth = i32::try_from(LIMIT / 1024 * 1000 / total_kib).unwrap() + 1;
        assert!((before..=before + growth).contains(&event.oom_score), "adj {adj}: {before}, {}", event.oom_score);
        assert_eq!(event.oom_score_adj, adj);
    }
}

#[test]
fn a_process_of_several_threads_is_told_of_once() {
    threads_are_told_of_once(with_the_loader);
}

#[test]
fn a_process_of_several_threads_told_by_pid_is_told_of_once() {
    threads_are_told_of_once(by_pid);
}

fn threads_are_told_of_once(observe: Observe) {
    let mut doomed = Doomed::new(|_| {
        let threads = [(); 5].map(|()| std::thread::spawn(run_out));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    let events = observe(&[doomed.child.pid], &mut || doomed.die());
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].pid, events[0].triggered_pid), (doomed.child.pid, doomed.child.pid));
}

/// Of two victims only the one that the filter is for is told of.
fn assert_filters(filter: Filter, prepare: impl Fn() + Copy, place: impl FnOnce(&Doomed)) {
    let mut inside = Doomed::new(move |_| {
        prepare();
        run_out();
    });
    let mut outside = Doomed::new(|_| run_out());
    place(&inside);
    let events: Vec<OomEvent> = observe(OomTrackLoader::new(options(filter)), || {
        inside.die();
        outside.die();
    });
    assert_eq!(events.iter().map(|event| event.pid).collect::<Vec<_>>(), [inside.child.pid]);
}

#[test]
fn filters_by_name_and_by_user() {
    let filter = Filter { comms: vec!["kerno-oom-in".into()], ..Filter::default() };
    assert_filters(filter, || set_comm("kerno-oom-in"), |_| {});
    let filter = Filter { uids: vec![61_801], ..Filter::default() };
    assert_filters(filter, || set_uid(61_801), |_| {});
}

#[test]
fn filters_by_cgroup_with_those_made_later_below_it() {
    let outer = Cgroup::new(&v2_mount(), "oom-outer");
    let filter = Filter { cgroups: vec![outer.path.clone()], ..Filter::default() };
    // Where v2 has the memory controller, a process has one cgroup only: then the limit moves along.
    let mut inner = None;
    assert_filters(
        filter,
        || {},
        |doomed| {
            let group = if doomed.group.path.starts_with(v2_mount()) {
                Cgroup::with_memory_in(&outer.path, LIMIT, "inner")
            } else {
                Cgroup::new(&outer.path, "inner")
            };
            group.add(doomed.child.pid);
            inner = Some(group);
        },
    );
}

#[test]
fn an_unfiltered_run_tells_of_it_too() {
    let mut doomed = Doomed::new(|_| run_out());
    let run = Run::start(OomTrackLoader::new(Options::default()));
    doomed.die();
    let events = run.finish();
    let typed = events.iter().map(|raw| raw.as_raw().decode_as::<OomEvent>().unwrap());
    assert_eq!(typed.filter(|event| event.pid == doomed.child.pid).count(), 1);
}
