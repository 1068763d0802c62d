//! A made-up machine: what happens on it, and what a window over any stretch of it says. Windows are made from what happened alone,
//! never from other windows.

mod parts;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use kerno_model::fill;
use kerno_model::*;
use proptest::prelude::*;

/// How long it is looked at, in seconds. A sample is taken at each of them.
pub const SECONDS: u64 = 24;
/// When that began, by the kernel's clock.
pub const BEGIN_NS: u64 = 5_000_000_000_000;
const BEGIN_UNIX: f64 = 1_700_000_000.0;

const SLOW_NS: u64 = 1_000_000;
const LONG_WAIT_NS: u64 = 5_000_000;
const PIDS: u32 = 5;

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub enum Event {
    Call { pid: u32, nr: u32, ns: u64, errno: i32 },
    Open { pid: u32, path: u8, errno: i32 },
    Request { pid: u32, dev: u32, write: bool, bytes: u64, queue_ns: u64, device_ns: u64, errno: i32 },
    Wait { pid: u32, cpu: u32, ns: u64, woken: bool, holder: u32 },
    Run { pid: u32, ns: u64 },
    Kill { pid: u32, cgroup: bool },
    Throttle { cgroup: u8, ns: u64 },
    Drop { port: u16, queued: u32 },
    Grow { pid: u32, bytes: u64 },
}

/// A connection: from when to when (exclusive), and the segments sent on it: when, how many, and how many of them again.
#[derive(Clone, Debug)]
pub struct Connection {
    pid: u32,
    remote: u8,
    from_ms: u64,
    to_ms: u64,
    sends: Vec<(u64, u64, u64)>,
}

/// An attempt to connect: the SYN is sent again after a second. It ends with an error, or with 0.
#[derive(Clone, Debug)]
pub struct Attempt {
    pid: u32,
    remote: u8,
    from_ms: u64,
    to_ms: u64,
    errno: i32,
}

/// A thread asleep uninterruptibly.
#[derive(Clone, Debug)]
pub struct Sleep {
    pid: u32,
    tid: u32,
    from_ms: u64,
    to_ms: u64,
}

/// Everything that happens.
#[derive(Clone, Debug)]
pub struct World {
    pub events: Vec<(u64, Event)>,
    pub connections: Vec<Connection>,
    pub attempts: Vec<Attempt>,
    pub sleeps: Vec<Sleep>,
    /// Per second: a number that all gauges and shares are made of.
    pub levels: Vec<u32>,
}

const END_MS: u64 = SECONDS * 1000;

fn event() -> impl Strategy<Value = Event> {
    let pid = || 1..=PIDS;
    let errno = || prop_oneof![4 => Just(0), 1 => Just(errno::ENOENT), 1 => Just(errno::EIO)];
    prop_oneof![
        (pid(), 0..4u32, 1..10_000_000u64, errno()).prop_map(|(pid, nr, ns, errno)| Event::Call { pid, nr, ns, errno }),
        (pid(), 0..3u8, errno()).prop_map(|(pid, path, errno)| Event::Open { pid, path, errno }),
        (pid(), 0..2u32, any::<bool>(), 1..1_000_000u64, 1..50_000_000u64, 1..50_000_000u64, errno()).prop_map(
            |(pid, dev, write, bytes, queue_ns, device_ns, errno)| Event::Request {
                pid,
                dev,
                write,
                bytes,
                queue_ns,
                device_ns,
                errno
            }
        ),
        (pid(), 0..2u32, 1..40_000_000u64, any::<bool>(), 0..=PIDS)
            .prop_map(|(pid, cpu, ns, woken, holder)| Event::Wait { pid, cpu, ns, woken, holder }),
        (pid(), 1..900_000_000u64).prop_map(|(pid, ns)| Event::Run { pid, ns }),
        (pid(), any::<bool>()).prop_map(|(pid, cgroup)| Event::Kill { pid, cgroup }),
        (0..2u8, 1..90_000_000u64).prop_map(|(cgroup, ns)| Event::Throttle { cgroup, ns }),
        (80..82u16, 0..5u32).prop_map(|(port, queued)| Event::Drop { port, queued }),
        (pid(), 0..1_000_000u64).prop_map(|(pid, bytes)| Event::Grow { pid, bytes }),
    ]
}

fn stretch() -> impl Strategy<Value = (u64, u64)> {
    (0..END_MS, 1..END_MS).prop_map(|(from, length)| (from, from + length))
}

fn connection() -> impl Strategy<Value = Connection> {
    let sends = prop::collection::vec((0..END_MS, 0..20u64, 0..3u64), 0..6);
    (1..=PIDS, 0..3u8, stretch(), sends).prop_map(|(pid, remote, (from_ms, to_ms), sends)| {
        let sends = sends.into_iter().filter(|(at, ..)| (from_ms..to_ms).contains(at)).collect();
        Connection { pid, remote, from_ms, to_ms, sends }
    })
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let errno = prop_oneof![Just(0), Just(errno::ECONNREFUSED), Just(errno::ETIMEDOUT)];
    (1..=PIDS, 0..2u8, stretch(), errno).prop_map(|(pid, remote, (from_ms, to_ms), errno)| Attempt {
        pid,
        remote,
        from_ms,
        to_ms,
        errno,
    })
}

fn sleep(tid: u32) -> impl Strategy<Value = Sleep> {
    (1..=PIDS, stretch()).prop_map(move |(pid, (from_ms, to_ms))| Sleep { pid, tid, from_ms, to_ms })
}

pub fn world() -> impl Strategy<Value = World> {
    let events = prop::collection::vec((0..END_MS, event()), 0..120);
    let sleeps = (0..4u32).map(|tid| sleep(100 + tid)).collect::<Vec<_>>();
    (
        events,
        prop::collection::vec(connection(), 0..8),
        prop::collection::vec(attempt(), 0..6),
        sleeps,
        prop::collection::vec(0..100u32, SECONDS as usize + 1),
    )
        .prop_map(|(mut events, connections, attempts, sleeps, levels)| {
            events.sort_by_key(|(at, _)| *at);
            World { events, connections, attempts, sleeps, levels }
        })
}

fn ns(ms: u64) -> u64 {
    BEGIN_NS + ms * 1_000_000
}

fn name(pid: u32) -> String {
    format!("process-{pid}")
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn count(errors: &mut Vec<ErrnoCount>, errno: i32) {
    if errno == 0 {
        return;
    }
    match errors.iter_mut().find(|known| known.errno == errno) {
        Some(known) => known.count += 1,
        None => errors.push(ErrnoCount::new(errno, 1)),
    }
    errors.sort_by_key(|error| (std::cmp::Reverse(error.count), error.errno));
}

fn first(known: &mut u64, now: u64) {
    if *known == 0 {
        *known = now;
    }
}

fn more(open: &mut Option<u64>, more: u64) {
    *open = Some(open.unwrap_or(0) + more);
}

impl World {
    /// What a window from one second to another says.
    pub fn window(&self, from: u64, to: u64) -> Window {
        let (from_ms, to_ms) = (from * 1000, to * 1000);
        let events: Vec<_> = self.events.iter().filter(|(at, _)| (from_ms..to_ms).contains(at)).collect();
        let mut window = fill!(Window {
            schema_version: SCHEMA_VERSION,
            kerno_version: "test".into(),
            host: fill!(HostFacts { hostname: "host".into(), boot_id: "boot".into(), cpus: 2 }),
            span: fill!(Span {
                started_unix: BEGIN_UNIX + from as f64,
                started_ns: ns(from_ms),
                seconds: (to - from) as f64,
                samples: u32::try_from(to - from + 1).unwrap(),
            }),
        });
        window.cost.cpu_seconds = (to - from) as f64 * 0.25;
        window.cost.resident_bytes = to;
        window.cost.loss.insert("disk_io".into(), SummaryLoss { overflow: to - from, untracked: 1, missed_runs: 0 });
        window.cost.loss.get_mut("disk_io").unwrap().untracked = to - from;
        window.processes = self.processes(&events, to);
        window.syscall_latency = Some(self.syscalls(&events));
        window.file_audit = Some(self.files(&events));
        window.disk_io = Some(self.disks(&events, from, to));
        window.sched_delay = Some(self.cpus(&events, from, to));
        window.oom_track = Some(self.memory(&events, from, to));
        window.fd_track = Some(self.descriptors(from, to));
        window.tcp_monitor = Some(self.tcp(&events, from, to));
        window
    }

    fn level(&self, second: u64) -> f64 {
        f64::from(self.levels[second as usize])
    }

    /// A gauge at each sample.
    fn gauge(&self, from: u64, to: u64, of: impl Fn(f64) -> f64) -> Series {
        (from..=to).map(|second| ((second - from) as f64, of(self.level(second)))).collect()
    }

    /// A share of the time: so much of each second.
    fn share(&self, from: u64, to: u64, part: f64) -> f64 {
        (from..to).map(|second| self.level(second) / 100.0 * part).sum::<f64>() / (to - from) as f64
    }

    fn processes(&self, events: &[&(u64, Event)], to: u64) -> BTreeMap<u32, Process> {
        let mut processes = BTreeMap::new();
        for pid in 1..=PIDS {
            let mut used = TaskUse::default();
            for (_, event) in events {
                match event {
                    Event::Run { pid: who, ns } if *who == pid => used.run_ns += ns,
                    Event::Request { pid: who, bytes, write: false, .. } if *who == pid => used.read_bytes += bytes,
                    Event::Request { pid: who, bytes, .. } if *who == pid => used.write_bytes += bytes,
                    Event::Wait { pid: who, ns, .. } if *who == pid => {
                        used.wait_ns += ns;
                        used.waits += 1;
                    }
                    _ => {}
                }
            }
            let process = Process {
                pid,
                comm: name(pid),
                started_ns: u64::from(pid),
                alive: true,
                threads: u32::try_from(to).unwrap(),
                anon_bytes: to,
                used,
                ..Process::default()
            };
            processes.insert(pid, process);
        }
        processes
    }

    fn syscalls(&self, events: &[&(u64, Event)]) -> SyscallSummary {
        let mut part = SyscallSummary::default();
        for (at, event) in events {
            let Event::Call { pid, nr, ns: took, errno } = event else { continue };
            part.calls += 1;
            let place = part.syscalls.iter().position(|stat| stat.nr == *nr).unwrap_or_else(|| {
                part.syscalls.push(SyscallStat { name: format!("call{nr}"), nr: *nr, ..SyscallStat::default() });
                part.syscalls.len() - 1
            });
            let stat = &mut part.syscalls[place];
            stat.calls += 1;
            count(&mut stat.errors, *errno);
            stat.latency.record(*took);
            if *nr == 3 {
                let place = part.syncs.iter().position(|sync| sync.pid == *pid).unwrap_or_else(|| {
                    part.syncs.push(SyncStat { pid: *pid, comm: name(*pid), ..SyncStat::default() });
                    part.syncs.len() - 1
                });
                let sync = &mut part.syncs[place];
                sync.calls += 1;
                sync.total_ns += took;
                sync.max_ns = sync.max_ns.max(*took);
                first(&mut sync.first_ns, ns(*at));
            }
            let (slow, abnormal) = (*took > SLOW_NS, *errno == errno::EIO);
            if !slow && !abnormal {
                continue;
            }
            let place = part.offenders.iter().position(|o| (o.pid, o.nr) == (*pid, *nr)).unwrap_or_else(|| {
                let offender = SyscallOffender {
                    pid: *pid,
                    comm: name(*pid),
                    name: format!("call{nr}"),
                    nr: *nr,
                    ..SyscallOffender::default()
                };
                part.offenders.push(SyscallOffender { slow_ns: SLOW_NS, ..offender });
                part.offenders.len() - 1
            });
            let offender = &mut part.offenders[place];
            first(&mut offender.first_ns, ns(*at));
            if slow {
                offender.slow += 1;
                offender.slow_total_ns += took;
                offender.max_ns = offender.max_ns.max(*took);
                // The time tells calls of one length apart.
                offender.exemplars.push(SyscallExemplar {
                    timestamp_ns: ns(*at),
                    tid: *pid,
                    latency_ns: *took,
                    ret: -i64::from(*errno),
                });
                offender.exemplars.sort_by_key(|call| (std::cmp::Reverse(call.latency_ns), call.timestamp_ns));
                offender.exemplars.truncate(4);
                offender.exemplars.sort_by_key(|call| call.timestamp_ns);
            }
            if abnormal {
                count(&mut offender.errors, *errno);
            }
        }
        part
    }

    fn files(&self, events: &[&(u64, Event)]) -> FileSummary {
        let mut part = FileSummary::default();
        for (at, event) in events {
            let Event::Open { pid, path, errno } = event else { continue };
            part.opens += 1;
            count(&mut part.errors, *errno);
            let place = part.processes.iter().position(|process| process.pid == *pid).unwrap_or_else(|| {
                part.processes.push(FileProcess { pid: *pid, comm: name(*pid), ..FileProcess::default() });
                part.processes.len() - 1
            });
            let process = &mut part.processes[place];
            process.opens += 1;
            count(&mut process.errors, *errno);
            if *errno == 0 {
                continue;
            }
            process.failed += 1;
            process.repeated += u64::from(*path == 1);
            let path = format!("/no/{path}");
            process.same_path = if process.last_failed_path == path { process.same_path + 1 } else { 1 };
            process.last_failed_path = path;
            process.last_errno = *errno;
            process.last_error = errno::name(*errno).unwrap().to_owned();
            first(&mut process.first_failed_ns, ns(*at));
        }
        part
    }

    /// Requests that ended in the second before.
    fn in_flight(&self, dev: u32, second: u64) -> f64 {
        let of_second = |at: u64| second > 0 && at / 1000 == second - 1;
        let of = |(at, event): &&(u64, Event)| {
            matches!(event, Event::Request { dev: on, .. } if *on == dev) && of_second(*at)
        };
        self.events.iter().filter(of).count() as f64
    }

    fn disks(&self, events: &[&(u64, Event)], from: u64, to: u64) -> DiskSummary {
        let mut part = DiskSummary {
            some_stalled: Some(self.share(from, to, 0.5)),
            all_stalled: Some(self.share(from, to, 0.25)),
            dirty_bytes: self.gauge(from, to, |level| level * 4096.0),
            writeback_bytes: self.gauge(from, to, |level| level * 100.0),
            ..DiskSummary::default()
        };
        for number in 0..2u32 {
            let mut device =
                DiskDevice { dev: format!("8:{number}"), name: format!("sd{number}"), ..DiskDevice::default() };
            device.mounts = vec![format!("/mnt{number}")];
            let mut busy = std::collections::BTreeSet::new();
            for (at, event) in events {
                let Event::Request { pid, dev, write, bytes, queue_ns, device_ns, errno } = event else { continue };
                if *dev != number {
                    continue;
                }
                busy.insert(at / 1000);
                let op = if *write { RequestKind::Write } else { RequestKind::Read };
                let place = device.ops.iter().position(|stat| stat.op == op).unwrap_or_else(|| {
                    device.ops.push(DiskOpStat { op, ..DiskOpStat::default() });
                    device.ops.len() - 1
                });
                let stat = &mut device.ops[place];
                stat.count += 1;
                stat.bytes += bytes;
                count(&mut stat.errors, *errno);
                stat.queue_ns.record(*queue_ns);
                stat.device_ns.record(*device_ns);
                let place =
                    part.submitters.iter().position(|s| (s.pid, &s.dev) == (*pid, &device.dev)).unwrap_or_else(|| {
                        part.submitters.push(DiskSubmitter {
                            pid: *pid,
                            comm: name(*pid),
                            dev: device.dev.clone(),
                            ..DiskSubmitter::default()
                        });
                        part.submitters.len() - 1
                    });
                let submitter = &mut part.submitters[place];
                submitter.requests += 1;
                submitter.total_ns += queue_ns + device_ns;
                *(if *write { &mut submitter.write_bytes } else { &mut submitter.read_bytes }) += bytes;
                if *errno == 0 {
                    continue;
                }
                let known = part
                    .failures
                    .iter_mut()
                    .find(|f| (f.pid, &f.dev, f.op, f.errno) == (*pid, &device.dev, op, *errno));
                match known {
                    Some(failure) => failure.count += 1,
                    None => part.failures.push(DiskFailure {
                        timestamp_ns: ns(*at),
                        dev: device.dev.clone(),
                        op,
                        sector: *queue_ns,
                        bytes: *bytes,
                        errno: *errno,
                        pid: *pid,
                        comm: name(*pid),
                        count: 1,
                        ..DiskFailure::default()
                    }),
                }
            }
            device.ops.sort_by_key(|stat| stat.op);
            device.utilisation =
                busy.iter().map(|second| self.level(*second) / 100.0).sum::<f64>() / (to - from) as f64;
            device.in_flight =
                (from..=to).map(|second| ((second - from) as f64, self.in_flight(number, second))).collect();
            // None is taken where nothing ended.
            let ended = (from + 1..=to).filter(|second| self.in_flight(number, *second) > 0.0);
            device.await_ms = ended.map(|second| ((second - from) as f64, self.level(second))).collect();
            if !device.ops.is_empty() || device.in_flight.max() > Some(0.0) {
                part.devices.push(device);
            }
        }
        let grown = |pid: u32| -> u64 {
            let of = |(_, event): &&&(u64, Event)| matches!(event, Event::Grow { pid: who, .. } if *who == pid);
            events
                .iter()
                .filter(of)
                .map(|(_, event)| if let Event::Grow { bytes, .. } = event { *bytes } else { 0 })
                .sum()
        };
        let writer = |pid| FilesystemWriter {
            pid,
            comm: name(pid),
            files: 1,
            grown_bytes: grown(pid),
            path: "/mnt0/log".into(),
        };
        part.filesystems.push(Filesystem {
            mount: "/mnt0".into(),
            source: "/dev/sd0".into(),
            kind: "ext4".into(),
            dev: "8:0".into(),
            read_only: self.level(to) > 50.0,
            total_bytes: 1 << 30,
            available_bytes: self.gauge(from, to, |level| level * 1e6),
            total_inodes: 100,
            free_inodes: self.gauge(from, to, |level| level),
            writers: (1..=PIDS).map(writer).collect(),
            ..Filesystem::default()
        });
        part
    }
}
