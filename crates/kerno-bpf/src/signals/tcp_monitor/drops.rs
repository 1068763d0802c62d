//! What the network drops before a program reads it: at sockets of UDP, interfaces, and the backlogs of CPUs. The kernel counts all of it by
//! itself, so it is read at a window's ends, and what it costs does not depend on the traffic.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use procfs::FromRead as _;
use procfs::net::{DeviceStatus, InterfaceDeviceStatus};

use super::walk::Namespace;
use crate::engine::{Gap, Gaps, Question, Tick, is_gone};
use crate::probe::faults::read_text;
use crate::waits::chain::Look;
use crate::waits::ends::Ends;
use crate::waits::namespaces::{self, Kind};
use crate::waits::net::{InetSocket, udp_sockets};
use kerno_model::{CpuBacklog, DatagramSocket, NetworkInterface, StandingState, TcpSummary};

/// The most of a kind that a window tells of.
const MAX_LISTED: usize = 32;
/// The most interfaces and sockets that are remembered, of all namespaces.
const MAX_INTERFACES: usize = 4096;
const MAX_SOCKETS: usize = 16_384;

/// What is read of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    received: u64,
    received_dropped: u64,
    received_errors: u64,
    /// Of these, or of what was dropped: for which it had no room.
    received_missed: u64,
    sent: u64,
    sent_dropped: u64,
    sent_errors: u64,
    carrier_changes: u64,
}

impl Counts {
    fn of(status: &DeviceStatus) -> Self {
        Self {
            received: status.recv_packets,
            // With `rx_missed_errors`, which only sysfs tells apart.
            received_dropped: status.recv_drop,
            received_errors: status.recv_errs,
            received_missed: status.recv_fifo,
            sent: status.sent_packets,
            sent_dropped: status.sent_drop,
            sent_errors: status.sent_errs,
            carrier_changes: 0,
        }
    }

    /// With what only sysfs tells; `None` if the interface is gone.
    fn with_sysfs(mut self, name: &str) -> io::Result<Option<Self>> {
        let number = |file: &str| -> io::Result<Option<u64>> {
            match read_text(&Path::new("/sys/class/net").join(name).join(file)) {
                Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
                Err(error) if is_gone(&error) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let (Some(changes), Some(missed)) = (number("carrier_changes")?, number("statistics/rx_missed_errors")?) else {
            return Ok(None);
        };
        self.carrier_changes = changes;
        self.received_dropped = self.received_dropped.saturating_sub(missed);
        self.received_missed += missed;
        Ok(Some(self))
    }

    /// What came since; `None` if it counts anew: another interface has its name, or its driver began again.
    fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            received: self.received.checked_sub(earlier.received)?,
            received_dropped: self.received_dropped.checked_sub(earlier.received_dropped)?,
            received_errors: self.received_errors.checked_sub(earlier.received_errors)?,
            received_missed: self.received_missed.checked_sub(earlier.received_missed)?,
            sent: self.sent.checked_sub(earlier.sent)?,
            sent_dropped: self.sent_dropped.checked_sub(earlier.sent_dropped)?,
            sent_errors: self.sent_errors.checked_sub(earlier.sent_errors)?,
            carrier_changes: self.carrier_changes.checked_sub(earlier.carrier_changes)?,
        })
    }
}

/// Readings that the next window begins with.
#[derive(Debug, Default)]
pub(super) struct Drops {
    /// By namespace and name.
    interfaces: HashMap<(u32, String), Counts>,
    /// Datagrams that a socket has dropped, by namespace and inode; only of those that have dropped any.
    sockets: HashMap<(u32, u64), u64>,
    /// By CPU: packets processed and dropped.
    backlogs: HashMap<u32, (u64, u64)>,
}

impl Drops {
    /// Takes what was dropped until now as zero.
    pub(super) fn begin(&mut self, namespaces: &[Namespace], initial: u32) {
        for namespace in namespaces {
            for (name, counts) in interfaces(*namespace, initial).unwrap_or_default() {
                self.interfaces.insert((namespace.inode, name), counts);
            }
            for socket in sockets(*namespace).unwrap_or_default() {
                self.sockets.insert((namespace.inode, socket.inode), socket.drops);
            }
        }
        self.backlogs = backlogs().unwrap_or_default();
    }

    /// What was dropped in the window. `datagrams` has how many each namespace counted by itself.
    pub(super) fn finish(
        &mut self,
        (namespaces, initial): (&[Namespace], u32),
        datagrams: &HashMap<u32, u64>,
        tick: &Tick<'_>,
        gaps: &mut Gaps,
        summary: &mut TcpSummary,
    ) {
        self.read_interfaces(namespaces, initial, gaps, summary);
        self.read_backlogs(gaps, summary);
        let mut sockets = self.read_sockets(namespaces, datagrams, gaps);
        if sockets.is_empty() && !summary.interfaces.iter().any(may_have_reader) {
            return;
        }
        let look = tick.resolver.ask(Question::Ends, || {
            let look = Look::now();
            look.ends();
            Arc::new(look)
        });
        match look {
            Ok(look) => name_owners(look.ends(), tick, &mut sockets, &mut summary.interfaces),
            Err(late) => gaps.add(Gap { what: "who reads what was dropped".to_owned(), reason: late.to_string() }),
        }
        summary.datagram_sockets = sockets.into_iter().map(|(_, socket)| socket).collect();
    }

    fn read_interfaces(&mut self, namespaces: &[Namespace], initial: u32, gaps: &mut Gaps, summary: &mut TcpSummary) {
        let mut now = HashMap::new();
        let (mut found, mut beyond) = (Vec::new(), 0_usize);
        for namespace in namespaces {
            let read = match interfaces(*namespace, initial) {
                Err(error) if is_gone(&error) => continue,
                read => gaps.note("network interfaces", read),
            };
            let Some(read) = read else {
                // As they were, so that nothing is told twice.
                now.extend(self.interfaces.extract_if(|(inode, _), _| *inode == namespace.inode));
                continue;
            };
            for (name, counts) in read {
                if now.len() >= MAX_INTERFACES {
                    beyond += 1;
                    continue;
                }
                let key = (namespace.inode, name);
                // One that has come in this window has no begin: much of what a new one drops belongs to its being set up.
                let delta = self.interfaces.get(&key).and_then(|earlier| counts.since(*earlier));
                if let Some(delta) = delta {
                    let interface = told(&key.1, *namespace, initial, delta);
                    if interface.faults() > 0 {
                        found.push(interface);
                    }
                }
                now.insert(key, counts);
            }
        }
        if beyond > 0 {
            let reason = format!("{beyond} are beyond the {MAX_INTERFACES} that are looked at");
            gaps.add(Gap { what: "some network interfaces".to_owned(), reason });
        }
        found.sort_by(|a, b| (Reverse(a.faults()), &a.name).cmp(&(Reverse(b.faults()), &b.name)));
        found.truncate(MAX_LISTED);
        self.interfaces = now;
        summary.interfaces = found;
    }

    /// With their inodes. The lists of sockets are read only where the namespace's own counter has grown: whatever a socket drops is counted there as well.
    fn read_sockets(
        &mut self,
        namespaces: &[Namespace],
        datagrams: &HashMap<u32, u64>,
        gaps: &mut Gaps,
    ) -> Vec<(u64, DatagramSocket)> {
        let mut found = Vec::new();
        for namespace in namespaces {
            let counted = datagrams.get(&namespace.inode).copied().unwrap_or(0);
            if counted == 0 {
                continue;
            }
            let read = match sockets(*namespace) {
                Err(error) if is_gone(&error) => continue,
                read => gaps.note("sockets of UDP", read),
            };
            for socket in read.unwrap_or_default() {
                let key = (namespace.inode, socket.inode);
                if self.sockets.len() >= MAX_SOCKETS && !self.sockets.contains_key(&key) {
                    // Those of sockets that have gone make room.
                    self.sockets.clear();
                }
                let earlier = self.sockets.insert(key, socket.drops).unwrap_or(0);
                // A socket's own count has damaged and filtered datagrams, too.
                let drops = socket.drops.saturating_sub(earlier).min(counted);
                if drops > 0 {
                    let told = DatagramSocket {
                        local: socket.local.ip(),
                        port: socket.local.port(),
                        net_namespace: namespace.inode,
                        drops,
                        queued_bytes: socket.received,
                        ..DatagramSocket::default()
                    };
                    found.push((socket.inode, told));
                }
            }
        }
        found.sort_by_key(|(_, socket)| (Reverse(socket.drops), socket.port));
        found.truncate(MAX_LISTED);
        found
    }

    fn read_backlogs(&mut self, gaps: &mut Gaps, summary: &mut TcpSummary) {
        let Some(now) = gaps.note("backlogs of CPUs", backlogs()) else { return };
        let limit = read_text(Path::new("/proc/sys/net/core/netdev_max_backlog")).ok();
        let limit = limit.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        for (cpu, (packets, dropped)) in &now {
            let Some((before, dropped_before)) = self.backlogs.get(cpu) else { continue };
            // They are counted in 32 bits.
            let since = |now: u64, before: u64| u64::from(now as u32).wrapping_sub(u64::from(before as u32)) as u32;
            let dropped = since(*dropped, *dropped_before);
            if dropped > 0 {
                let (packets, dropped) = (u64::from(since(*packets, *before)), u64::from(dropped));
                summary.backlogs.push(CpuBacklog { cpu: *cpu, packets, dropped, limit });
            }
        }
        summary.backlogs.sort_by_key(|backlog| backlog.cpu);
        self.backlogs = now;
    }
}

/// The driver of tun and tap devices.
const TUN: &str = "tun";
const BRIDGE: &str = "bridge";

/// The interfaces of a namespace. sysfs shows those of the namespace that it was mounted in.
fn interfaces(namespace: Namespace, initial: u32) -> io::Result<Vec<(String, Counts)>> {
    let text = namespace.read("dev")?;
    let status = InterfaceDeviceStatus::from_read(text.as_bytes()).map_err(io::Error::other)?;
    let has_sysfs = namespace.pid == 0 && namespace.inode == initial;
    let counts = |(name, status): (String, DeviceStatus)| {
        let counts = Counts::of(&status);
        let counts = if has_sysfs { counts.with_sysfs(&name) } else { Ok(Some(counts)) };
        counts.map(|counts| Some((name, counts?))).transpose()
    };
    status.0.into_iter().filter_map(counts).collect()
}

fn told(name: &str, namespace: Namespace, initial: u32, delta: Counts) -> NetworkInterface {
    let has_sysfs = namespace.pid == 0 && namespace.inode == initial;
    let path = Path::new("/sys/class/net").join(name);
    let driver = || {
        if path.join("tun_flags").exists() {
            return Some(TUN.to_owned());
        }
        if path.join("bridge").exists() {
            return Some(BRIDGE.to_owned());
        }
        let link = std::fs::read_link(path.join("device/driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    };
    let carrier = || match read_text(&path.join("carrier")).ok()?.trim() {
        "0" => Some(false),
        "1" => Some(true),
        // It is not up.
        _ => None,
    };
    NetworkInterface {
        name: name.to_owned(),
        net_namespace: namespace.inode,
        driver: has_sysfs.then(driver).flatten().unwrap_or_default(),
        received_packets: delta.received,
        received_missed: delta.received_missed,
        received_dropped: delta.received_dropped,
        // What it had no room for is among the errors, too, with some drivers.
        received_errors: delta.received_errors.saturating_sub(delta.received_missed),
        sent_packets: delta.sent,
        sent_dropped: delta.sent_dropped,
        sent_errors: delta.sent_errors,
        carrier_changes: delta.carrier_changes,
        carrier: has_sysfs.then(carrier).flatten(),
        ..NetworkInterface::default()
    }
}

fn sockets(namespace: Namespace) -> io::Result<Vec<InetSocket>> {
    let pid = if namespace.pid == 0 { std::process::id() } else { namespace.pid };
    Ok(udp_sockets(pid)?.into_iter().filter(|socket| socket.drops > 0).collect())
}

/// Packets processed and dropped, by CPU.
fn backlogs() -> io::Result<HashMap<u32, (u64, u64)>> {
    Ok(parse_backlogs(&read_text(Path::new("/proc/net/softnet_stat"))?))
}

/// A line of hexadecimal numbers for each CPU that is online. The thirteenth is its number, since Linux 5.10.
fn parse_backlogs(text: &str) -> HashMap<u32, (u64, u64)> {
    let line = |(at, line): (usize, &str)| {
        let numbers: Vec<u64> = line.split_whitespace().map_while(|word| u64::from_str_radix(word, 16).ok()).collect();
        let cpu = numbers.get(12).copied().unwrap_or(at as u64);
        Some((u32::try_from(cpu).ok()?, (*numbers.first()?, *numbers.get(1)?)))
    };
    text.lines().enumerate().filter_map(line).collect()
}

fn name_of(tick: &Tick<'_>, pid: u32) -> String {
    let process = tick.tasks.process(pid);
    process.map(|process| process.row.comm.to_str_lossy().into_owned()).unwrap_or_default()
}

fn name_owners(
    ends: &Ends,
    tick: &Tick<'_>,
    sockets: &mut [(u64, DatagramSocket)],
    interfaces: &mut [NetworkInterface],
) {
    for (inode, socket) in sockets {
        let mut pids: Vec<u32> = ends.of_socket(*inode).iter().map(|holder| holder.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        socket.pid = pids.first().copied().unwrap_or(0);
        socket.comm = name_of(tick, socket.pid);
        socket.holders = u32::try_from(pids.len()).unwrap_or(u32::MAX);
        let held = tick.tasks.process(socket.pid).is_some_and(|process| process.row.is_held());
        socket.state = if held { StandingState::Stopped } else { StandingState::default() };
    }
    for interface in interfaces.iter_mut().filter(|interface| may_have_reader(interface)) {
        // There may be others of that name in other namespaces.
        let is_here = |pid: u32| namespaces::inode(pid, Kind::Net) == Some(u64::from(interface.net_namespace));
        let reader = ends.of_tun(&interface.name).iter().map(|holder| holder.pid).find(|pid| is_here(*pid));
        if let Some(pid) = reader {
            (interface.reader_pid, interface.reader_comm) = (pid, name_of(tick, pid));
            TUN.clone_into(&mut interface.driver);
        }
    }
}

/// Whether somebody may have to take what is sent to it.
fn may_have_reader(interface: &NetworkInterface) -> bool {
    interface.sent_dropped > 0 && (interface.driver == TUN || interface.driver.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backlogs_are_read_by_cpu() {
        let old = "00000010 00000002 00000000\n00000020 00000000 00000000\n";
        assert_eq!(parse_backlogs(old), HashMap::from([(0, (16, 2)), (1, (32, 0))]));
        let new = "0000000a 00000003 0 0 0 0 0 0 0 0 0 00000000 00000005 00000000 00000000\n";
        assert_eq!(parse_backlogs(new), HashMap::from([(5, (10, 3))]));
        assert!(parse_backlogs("").is_empty() && parse_backlogs("x\n").is_empty());
    }

    #[test]
    fn an_interface_that_counts_anew_is_not_told_of() {
        let earlier = Counts { received: 10, sent_dropped: 5, ..Counts::default() };
        let now = Counts { received: 12, sent_dropped: 9, ..Counts::default() };
        assert_eq!(now.since(earlier), Some(Counts { received: 2, sent_dropped: 4, ..Counts::default() }));
        assert_eq!(earlier.since(now), None);
    }

    #[test]
    fn what_this_machine_counts_can_be_read() {
        let own = Namespace { inode: 1, pid: 0 };
        let here = interfaces(own, 0).unwrap();
        assert!(here.iter().any(|(name, _)| name == "lo"), "{here:?}");
        assert!(!backlogs().unwrap().is_empty());
        assert!(sockets(own).is_ok());
    }
}
