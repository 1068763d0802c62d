//! The parts of a window that are about CPUs, memory, descriptors and TCP.

use std::collections::BTreeMap;

use kerno_model::*;

use super::{Event, LONG_WAIT_NS, PIDS, World, address, first, more, name, ns};

impl World {
    pub(super) fn cpus(&self, events: &[&(u64, Event)], from: u64, to: u64) -> SchedSummary {
        let cpu = |cpu| CpuStat {
            cpu,
            busy: self.share(from, to, 0.5),
            nice: self.share(from, to, 0.1),
            interrupts: self.share(from, to, 0.05),
            io_wait: self.share(from, to, 0.2),
            steal: self.share(from, to, 0.01),
            ..CpuStat::default()
        };
        let mut part = SchedSummary {
            cpus: (0..2).map(cpu).collect(),
            runnable: self.gauge(from, to, |level| level / 10.0),
            some_stalled: Some(self.share(from, to, 1.0)),
            uninterruptible: self.gauge(from, to, |level| level / 50.0),
            ..SchedSummary::default()
        };
        for (at, event) in events {
            match event {
                Event::Wait { pid, cpu, ns: waited, woken, holder } => {
                    part.cpus[*cpu as usize].delay_ns.record(*waited);
                    part.cpus[*cpu as usize].switches += 1;
                    if *woken { &mut part.wakeup_ns } else { &mut part.preempted_ns }.record(*waited);
                    if !woken || *waited < LONG_WAIT_NS {
                        continue;
                    }
                    let place = part.waiters.iter().position(|waiter| waiter.pid == *pid).unwrap_or_else(|| {
                        part.waiters.push(SchedWaiter {
                            pid: *pid,
                            comm: name(*pid),
                            slow_ns: LONG_WAIT_NS,
                            ..SchedWaiter::default()
                        });
                        part.waiters.len() - 1
                    });
                    let waiter = &mut part.waiters[place];
                    waiter.slow += 1;
                    waiter.slow_total_ns += waited;
                    waiter.max_ns = waiter.max_ns.max(*waited);
                    first(&mut waiter.first_ns, ns(*at));
                    match waiter.held_by.iter_mut().find(|held| held.pid == *holder) {
                        Some(held) => held.waits += 1,
                        None => waiter.held_by.push(CpuHolder { pid: *holder, comm: name(*holder), waits: 1 }),
                    }
                    waiter.held_by.sort_by_key(|held| (std::cmp::Reverse(held.waits), held.pid));
                }
                Event::Run { pid, ns } => {
                    // Odd and even ones are two programs.
                    let comm = if pid % 2 == 0 { "even" } else { "odd" };
                    let place = part.groups.iter().position(|group| group.comm == comm).unwrap_or_else(|| {
                        part.groups.push(CpuGroup { comm: comm.into(), cgroup_id: 7, ..CpuGroup::default() });
                        part.groups.len() - 1
                    });
                    let group = &mut part.groups[place];
                    group.run_ns += ns;
                    if !group.pids.contains(pid) {
                        group.pids.push(*pid);
                        group.processes += 1;
                    }
                }
                Event::Throttle { cgroup, ns } => {
                    let path = format!("/cgroup{cgroup}");
                    let place = part.throttled.iter().position(|found| found.path == path).unwrap_or_else(|| {
                        let found =
                            CgroupThrottle { path, quota_us: 20_000, period_us: 100_000, ..CgroupThrottle::default() };
                        part.throttled.push(found);
                        part.throttled.len() - 1
                    });
                    let found = &mut part.throttled[place];
                    found.periods += 2;
                    found.throttled_periods += 1;
                    found.throttled_ns += ns;
                    found.used_ns += ns / 3;
                }
                _ => {}
            }
        }
        for group in &mut part.groups {
            let run = |pid: &u32| -> u64 {
                let of = |(_, event): &&&(u64, Event)| matches!(event, Event::Run { pid: who, .. } if who == pid);
                events.iter().filter(of).map(|(_, event)| if let Event::Run { ns, .. } = event { *ns } else { 0 }).sum()
            };
            group.pids.sort_by_key(|pid| (std::cmp::Reverse(run(pid)), *pid));
        }
        for sleep in &self.sleeps {
            let asleep = |second: &u64| sleep.from_ms + 1000 <= second * 1000 && second * 1000 < sleep.to_ms;
            if let Some(last) = (from..=to).rfind(asleep) {
                part.blocked.push(BlockedTask {
                    pid: sleep.pid,
                    tid: sleep.tid,
                    comm: name(sleep.pid),
                    seconds: (last * 1000 - sleep.from_ms) as f64 / 1000.0,
                    since_ns: ns(sleep.from_ms),
                    at_end: last == to,
                    ..BlockedTask::default()
                });
                part.stalls.push(Stall {
                    pid: sleep.pid,
                    tid: sleep.pid,
                    comm: name(sleep.pid),
                    seconds: (last * 1000 - sleep.from_ms) as f64 / 1000.0,
                    since_ns: ns(sleep.from_ms),
                    at_end: last == to,
                    chain: vec![StallStep { pid: sleep.pid + 1, comm: name(sleep.pid + 1), ..StallStep::default() }],
                    ..Stall::default()
                });
            }
        }
        part
    }

    pub(super) fn memory(&self, events: &[&(u64, Event)], from: u64, to: u64) -> OomSummary {
        let cgroup = |number: u32| CgroupMemory {
            path: format!("/cgroup{number}"),
            used_bytes: self.gauge(from, to, |level| level * 1e6 + f64::from(number)),
            limit_bytes: 100_000_000,
            some_stalled: Some(self.share(from, to, 0.3)),
            largest: vec![MemoryHolder { pid: number + 1, comm: name(number + 1), bytes: to }],
            ..CgroupMemory::default()
        };
        let process = |pid: u32| ProcessMemory {
            pid,
            comm: name(pid),
            anon_bytes: self.gauge(from, to, |level| level * f64::from(pid)),
            alive: true,
            ..ProcessMemory::default()
        };
        let mut part = OomSummary {
            total_bytes: 1 << 30,
            available_bytes: self.gauge(from, to, |level| level * 1e7),
            swap_total_bytes: 1 << 20,
            swap_free_bytes: self.gauge(from, to, |level| level * 1e3),
            some_stalled: Some(self.share(from, to, 0.2)),
            all_stalled: Some(self.share(from, to, 0.1)),
            cgroups: (0..2).map(cgroup).collect(),
            processes: (1..=PIDS).map(process).collect(),
            ..OomSummary::default()
        };
        for (at, event) in events {
            let Event::Kill { pid, cgroup } = event else { continue };
            part.kills_total += 1;
            part.direct_reclaims += 3;
            part.direct_scanned_pages += 64;
            part.major_faults += 2;
            part.refaulted_pages += 5;
            part.swapped_out_pages += 7;
            part.cgroups[usize::from(*cgroup)].oom_kills += 1;
            part.cgroups[usize::from(*cgroup)].limit_hits += 2;
            if part.kills.len() < 64 {
                let scope = if *cgroup { KillScope::Cgroup } else { KillScope::Global };
                part.kills.push(OomKill {
                    timestamp_ns: ns(*at),
                    pid: *pid,
                    comm: name(*pid),
                    scope,
                    ..OomKill::default()
                });
            }
        }
        part
    }

    pub(super) fn descriptors(&self, from: u64, to: u64) -> FdSummary {
        let process = |pid: u32| FdProcess {
            pid,
            comm: name(pid),
            open: self.gauge(from, to, |level| level + f64::from(pid)),
            soft_limit: 1024,
            hard_limit: 4096,
            kinds: Vec::new(),
        };
        FdSummary {
            processes: (1..=PIDS).map(process).collect(),
            open: self.gauge(from, to, |level| level * 10.0),
            files: self.gauge(from, to, |level| level * 9.0),
            files_max: 100_000,
        }
    }

    pub(super) fn tcp(&self, events: &[&(u64, Event)], from: u64, to: u64) -> TcpSummary {
        let (from_ms, to_ms) = (from * 1000, to * 1000);
        let mut part = TcpSummary::default();
        let mut peers: BTreeMap<u8, TcpPeer> = BTreeMap::new();
        let mut processes: BTreeMap<u32, TcpProcess> = BTreeMap::new();
        let mut namespace = TcpNamespace { inode: 9, pid: 1, initial: true, ..TcpNamespace::default() };
        for connection in &self.connections {
            part.opened += u64::from((from_ms..to_ms).contains(&connection.from_ms));
            part.closed += u64::from((from_ms..to_ms).contains(&connection.to_ms));
            // Seen: it was there at some moment of the window.
            if connection.from_ms >= to_ms || connection.to_ms < from_ms {
                continue;
            }
            let is_open = u64::from(connection.to_ms >= to_ms);
            let pid = connection.pid;
            let new = || TcpPeer {
                remote: address(connection.remote),
                port: 443,
                outgoing: true,
                net_namespace: 9,
                ..TcpPeer::default()
            };
            let peer = peers.entry(connection.remote).or_insert_with(new);
            let process =
                processes.entry(pid).or_insert_with(|| TcpProcess { pid, comm: name(pid), ..TcpProcess::default() });
            let place = peer.owners.iter().position(|owner| owner.pid == pid).unwrap_or_else(|| {
                peer.owners.push(ConnectionOwner { pid, ..ConnectionOwner::default() });
                peer.owners.len() - 1
            });
            peer.owners[place].connections += 1;
            more(&mut peer.owners[place].open, is_open);
            peer.connections += 1;
            more(&mut peer.open, is_open);
            process.connections += 1;
            more(&mut process.open, is_open);
            for (at, sent, again) in connection.sends.iter().filter(|(at, ..)| (from_ms..to_ms).contains(at)) {
                peer.sent_segments += sent + again;
                peer.retransmitted_segments += again;
                process.sent_segments += sent + again;
                process.retransmitted_segments += again;
                namespace.sent_segments += sent + again;
                namespace.retransmitted_segments += again;
                if *again > 0 {
                    let first = &mut peer.first_retransmit_ns;
                    *first = if *first == 0 { ns(*at) } else { (*first).min(ns(*at)) };
                }
                let lowest = u32::try_from(*sent).unwrap() + 100;
                peer.min_rtt_us = Some(peer.min_rtt_us.map_or(lowest, |known| known.min(lowest)));
                part.rtt_us.record(*sent);
            }
        }
        for peer in peers.values_mut() {
            peer.owners.sort_by_key(|owner| (std::cmp::Reverse(owner.connections), owner.pid));
            peer.srtt_us = Some(u32::try_from(to).unwrap());
        }
        part.peers = peers.into_values().collect();
        part.processes = processes.into_values().collect();
        for attempt in &self.attempts {
            let failed = attempt.errno != 0 && (from_ms..to_ms).contains(&attempt.to_ms);
            let waits = attempt.from_ms + 1000 <= to_ms && attempt.to_ms >= to_ms;
            if !failed && !waits {
                continue;
            }
            let (errno, at) = if failed { (attempt.errno, attempt.to_ms) } else { (errno::ETIMEDOUT, attempt.from_ms) };
            let key = |f: &TcpFailure| (f.error.errno, f.remote, f.pid);
            let wanted = (errno, address(attempt.remote), attempt.pid);
            let place = part.failures.iter().position(|f| key(f) == wanted).unwrap_or_else(|| {
                part.failures.push(TcpFailure {
                    reason: if errno == errno::ECONNREFUSED {
                        TcpFailureReason::Refused
                    } else {
                        TcpFailureReason::TimedOut
                    },
                    error: ErrnoCount::new(errno, 0),
                    remote: wanted.1,
                    port: 443,
                    pid: attempt.pid,
                    comm: name(attempt.pid),
                    net_namespace: 9,
                    first_ns: u64::MAX,
                    ..TcpFailure::default()
                });
                part.failures.len() - 1
            });
            let failure = &mut part.failures[place];
            failure.count += 1;
            failure.error.count += 1;
            failure.waiting += u64::from(waits);
            failure.first_ns = failure.first_ns.min(ns(at));
        }
        for (_, event) in events {
            let Event::Drop { port, queued } = event else { continue };
            namespace.listen_drops += 1;
            let place = part.listeners.iter().position(|listener| listener.port == *port).unwrap_or_else(|| {
                let listener =
                    TcpListener { local: address(1), port: *port, net_namespace: 9, pid: 1, ..TcpListener::default() };
                part.listeners.push(TcpListener { comm: name(1), backlog: 128, ..listener });
                part.listeners.len() - 1
            });
            part.listeners[place].drops += 1;
            part.listeners[place].queued = part.listeners[place].queued.max(*queued);
        }
        part.namespaces.push(namespace);
        part
    }
}
