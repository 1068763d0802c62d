//! Limits of the network namespace of a process, and of sockets of the machine.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use kerno_model::{LimitScope, LimitUse, Resource};

use crate::waits::ends::Ends;
use crate::waits::namespaces::{self, Kind};
use crate::waits::net::{InetSocket, UnixSockets, tcp_sockets, udp_sockets};

use super::{View, number};

/// The most destinations and listeners that are told of.
const MAX_TOLD: usize = 3;

pub(super) fn read(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    use Resource as R;
    let inside = wants(&[R::EphemeralPorts, R::UdpPorts, R::TimeWait, R::TrackedConnections]);
    let settings = if inside { namespaces::within(view.pid, Kind::Net, || Ok(Settings::read())).ok() } else { None };
    let namespace = namespaces::inode(view.pid, Kind::Net);
    let initial = namespace == namespaces::initial(Kind::Net);
    let place = if initial { String::new() } else { namespace.map(|inode| inode.to_string()).unwrap_or_default() };
    let sockets = if wants(&[R::EphemeralPorts]) { tcp_sockets(view.pid).unwrap_or_default() } else { Vec::new() };
    if let Some(settings) = &settings {
        if wants(&[R::EphemeralPorts]) {
            ports(view, settings, &sockets, found);
        }
        if wants(&[R::UdpPorts]) {
            found.extend(ports_of_udp(view, settings).map(|entry| entry.at(place.clone())));
        }
        if wants(&[R::TimeWait])
            && let Some(limit) = settings.time_wait_max
        {
            let used = socket_count(view, "TCP:", "tw").unwrap_or(0);
            found.push(LimitUse::new(R::TimeWait, LimitScope::NetNamespace, used, limit).at(place.clone()));
        }
        if wants(&[R::TrackedConnections]) {
            found.extend(tracked(view, settings).map(|entry| entry.at(place)));
        }
    }
    let mut of_machine = |resource, used: Option<u64>, limit: Option<u64>, bytes: bool| {
        if wants(&[resource])
            && let (Some(used), Some(limit)) = (used, limit)
        {
            let entry = LimitUse::new(resource, LimitScope::Machine, used, limit);
            found.push(if bytes { entry.bytes() } else { entry });
        }
    };
    let page = rustix::param::page_size() as u64;
    let third = |file: &str| std::fs::read_to_string(file).ok()?.split_whitespace().nth(2)?.parse::<u64>().ok();
    let pages = |count: Option<u64>| count.and_then(|count| count.checked_mul(page));
    of_machine(R::Neighbours, entries(view, "arp_cache"), number("/proc/sys/net/ipv4/neigh/default/gc_thresh3"), false);
    of_machine(
        R::Neighbours6,
        entries(view, "ndisc_cache"),
        number("/proc/sys/net/ipv6/neigh/default/gc_thresh3"),
        false,
    );
    of_machine(R::Orphans, socket_count(view, "TCP:", "orphan"), number("/proc/sys/net/ipv4/tcp_max_orphans"), false);
    of_machine(
        R::TcpMemory,
        pages(socket_count(view, "TCP:", "mem")),
        pages(third("/proc/sys/net/ipv4/tcp_mem")),
        true,
    );
    of_machine(
        R::UdpMemory,
        pages(socket_count(view, "UDP:", "mem")),
        pages(third("/proc/sys/net/ipv4/udp_mem")),
        true,
    );
    if wants(&[R::UnixBacklog]) {
        backlogs(view, found);
    }
}

/// What is set in the network namespace of the calling thread.
#[derive(Debug)]
struct Settings {
    ports: (u16, u16),
    reserved: BTreeSet<u16>,
    time_wait_max: Option<u64>,
    tracked: Option<u64>,
    tracked_max: Option<u64>,
}

impl Settings {
    fn read() -> Self {
        let text = |file: &str| std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap_or_default();
        let range = text("ipv4/ip_local_port_range");
        let mut ends = range.split_whitespace().filter_map(|word| word.parse().ok());
        Self {
            ports: (ends.next().unwrap_or(32768), ends.next().unwrap_or(60999)),
            reserved: ranges(&text("ipv4/ip_local_reserved_ports")),
            time_wait_max: text("ipv4/tcp_max_tw_buckets").trim().parse().ok(),
            tracked: text("netfilter/nf_conntrack_count").trim().parse().ok(),
            tracked_max: text("netfilter/nf_conntrack_max").trim().parse().ok(),
        }
    }

    fn holds(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port) && !self.reserved.contains(&port)
    }

    fn count(&self) -> u64 {
        let all = u64::from(self.ports.1).saturating_sub(u64::from(self.ports.0)) + 1;
        let reserved = self.reserved.range(self.ports.0..=self.ports.1.max(self.ports.0)).count() as u64;
        all.saturating_sub(reserved)
    }
}

/// `8080,9148-9150`
fn ranges(text: &str) -> BTreeSet<u16> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.trim().parse::<u16>().ok()?..=to.trim().parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// A connection needs a local port that no other one between the same two addresses has, and that nobody is bound to.
fn ports(view: &View, settings: &Settings, sockets: &[InetSocket], found: &mut Vec<LimitUse>) {
    let bound: HashSet<u16> = sockets
        .iter()
        .filter(|socket| socket.listens && settings.holds(socket.local.port()))
        .map(|socket| socket.local.port())
        .collect();
    let mut towards: BTreeMap<(IpAddr, SocketAddr), Vec<&InetSocket>> = BTreeMap::new();
    for socket in sockets.iter().filter(|socket| !socket.listens && settings.holds(socket.local.port())) {
        towards.entry((socket.local.ip(), socket.remote)).or_default().push(socket);
    }
    let mut towards: Vec<_> = towards.into_iter().collect();
    towards.sort_by_key(|(_, sockets)| std::cmp::Reverse(sockets.len()));
    towards.truncate(MAX_TOLD);
    let ends = towards.iter().any(|(_, sockets)| sockets.iter().any(|socket| socket.inode != 0)).then(Ends::scan);
    for ((_, remote), sockets) in towards {
        let mut taken = bound.clone();
        taken.extend(sockets.iter().map(|socket| socket.local.port()));
        let used = taken.len() as u64;
        let mut entry = LimitUse::new(Resource::EphemeralPorts, LimitScope::Destination, used, settings.count())
            .at(remote.to_string());
        entry.idle = sockets.iter().filter(|socket| socket.time_wait).count() as u64;
        let mut open: BTreeMap<u32, u64> = BTreeMap::new();
        for socket in sockets.iter().filter(|socket| socket.inode != 0) {
            if let Some(holder) = ends.iter().flat_map(|ends| ends.of_socket(socket.inode)).next() {
                *open.entry(holder.pid).or_default() += 1;
            }
        }
        entry.holders = view.processes().holders(&open.into_iter().collect::<Vec<_>>(), used);
        found.push(entry);
    }
}

fn ports_of_udp(view: &View, settings: &Settings) -> Option<LimitUse> {
    let taken: BTreeSet<u16> = udp_sockets(view.pid)
        .ok()?
        .iter()
        .map(|socket| socket.local.port())
        .filter(|port| settings.holds(*port))
        .collect();
    Some(LimitUse::new(Resource::UdpPorts, LimitScope::NetNamespace, taken.len() as u64, settings.count()))
}

/// The table is each namespace's own, the limit is the machine's.
fn tracked(view: &View, settings: &Settings) -> Option<LimitUse> {
    let limit = settings.tracked_max.or_else(tracked_max).filter(|max| *max > 0)?;
    let text = view.text("net/stat/nf_conntrack").unwrap_or_default();
    let found = tracked_of(&text, limit);
    // Without that file, the number alone.
    found.or_else(|| {
        Some(LimitUse::new(Resource::TrackedConnections, LimitScope::NetNamespace, settings.tracked?, limit))
    })
}

/// The most connections that any network namespace may track; `None` without connection tracking.
pub(crate) fn tracked_max() -> Option<u64> {
    number("/proc/sys/net/netfilter/nf_conntrack_max").filter(|max| *max > 0)
}

/// How many connections the network namespace of a process tracks, which never hangs: no lock of the process is taken.
pub(crate) fn tracked_by(pid: u32, limit: u64) -> Option<LimitUse> {
    tracked_of(&std::fs::read_to_string(format!("/proc/{pid}/net/stat/nf_conntrack")).ok()?, limit)
}

fn tracked_of(text: &str, limit: u64) -> Option<LimitUse> {
    let rows = table(text);
    let used = rows.first()?.get("entries").copied()?;
    let mut entry = LimitUse::new(Resource::TrackedConnections, LimitScope::NetNamespace, used, limit);
    // What was dropped, and what had to go to make room.
    let of = |name: &str| rows.iter().filter_map(|row| row.get(name)).sum::<u64>();
    entry.refused = of("drop") + of("early_drop");
    Some(entry)
}

/// A file of `/proc/net/stat`: names, then a line of hexadecimal numbers for each CPU.
fn table(text: &str) -> Vec<BTreeMap<&str, u64>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
    let row = |line: &'_ str| -> BTreeMap<&str, u64> {
        let values = line.split_whitespace().filter_map(|word| u64::from_str_radix(word, 16).ok()).collect::<Vec<_>>();
        names.iter().copied().zip(values).collect()
    };
    lines.map(row).collect()
}

/// How many entries a table of neighbours has, of all namespaces.
fn entries(view: &View, file: &str) -> Option<u64> {
    let text = view.text(&format!("net/stat/{file}"))?;
    table(&text).first()?.get("entries").copied()
}

/// A number of `/proc/net/sockstat`.
fn socket_count(view: &View, line: &str, name: &str) -> Option<u64> {
    let text = view.text("net/sockstat")?;
    let mut words = text.lines().find_map(|known| known.strip_prefix(line))?.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

fn backlogs(view: &View, found: &mut Vec<LimitUse>) {
    let Ok(sockets) = UnixSockets::of(view.pid, true) else { return };
    let mut busy: Vec<_> = sockets.all.iter().filter(|socket| socket.received > 0).collect();
    busy.sort_by_key(|socket| std::cmp::Reverse(socket.received));
    for socket in busy.into_iter().take(MAX_TOLD) {
        // The kernel lets one more in than the backlog says.
        let limit = u64::from(socket.sent) + 1;
        let entry = LimitUse::new(Resource::UnixBacklog, LimitScope::Listener, u64::from(socket.received), limit);
        found.push(entry.at(socket.name.clone().unwrap_or_else(|| socket.inode.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_kept_for_others_do_not_count() {
        assert_eq!(ranges("8080,9148-9150\n").into_iter().collect::<Vec<_>>(), [8080, 9148, 9149, 9150]);
        assert!(ranges("\n").is_empty() && ranges("a-b,70000").is_empty());
        let settings = Settings {
            ports: (40000, 40060),
            reserved: ranges("40010-40019,50000"),
            time_wait_max: None,
            tracked: None,
            tracked_max: None,
        };
        assert_eq!(settings.count(), 51);
        assert!(settings.holds(40000) && settings.holds(40060) && !settings.holds(40015) && !settings.holds(40061));
    }

    #[test]
    fn tables_of_the_kernel_are_read_by_name() {
        let rows = table("entries  drop early_drop\n0000001a 00000002 00000001\n0000001a 00000003 00000000\n");
        assert_eq!((rows.len(), rows[0]["entries"], rows[1]["drop"]), (2, 26, 3));
        assert!(table("").is_empty());
    }

    #[test]
    fn connections_take_ports_towards_their_other_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let remote = listener.local_addr().unwrap();
        let open: Vec<_> = (0..9).map(|_| std::net::TcpStream::connect(remote).unwrap()).collect();
        let mut found = Vec::new();
        let own = std::process::id();
        let view = View::new(own, false, true);
        let settings = Settings::read();
        let sockets: Vec<_> =
            tcp_sockets(own).unwrap().into_iter().filter(|socket| socket.listens || socket.remote == remote).collect();
        ports(&view, &settings, &sockets, &mut found);
        let entry = found.iter().find(|entry| entry.place == remote.to_string()).unwrap();
        assert!(entry.used >= 9 && entry.limit > 100 && entry.idle == 0, "{entry:?}");
        assert!(entry.holders.iter().any(|holder| holder.pid == own && holder.amount >= 9), "{entry:?}");
        drop(open);
    }
}
