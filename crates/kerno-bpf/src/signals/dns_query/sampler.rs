use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::event::PORT;
use super::loader;
use super::name::DnsName;
use crate::engine::{Cumulative, Gaps, Pace, Question, Sampler, Tick};
use crate::event::Comm;
use crate::probe::{Host, KernelHash, LoadError, Object, Plan, SummaryPrograms};
use crate::waits::chain::Look;
use crate::waits::{dns, state};
use kerno_model::{Address, BUCKETS, DnsNameUse, DnsServer, DnsSummary, DnsWait, Histogram, StandingState, Window};

const OBJECT: Object =
    Object { name: "dns_query_summary", data: aya::include_bytes_aligned!("../../../objects/dns_query_summary.bpf.o") };

/// `DNS_SERVERS`, `DNS_NAMES` and `DNS_WAITS` in dns_query_summary.bpf.c.
const SERVERS: u32 = 128;
const NAMES: u32 = 2048;
const WAITS: u32 = 128;

/// What is told of at most in a window.
const MAX_SERVERS: usize = 64;
const MAX_NAMES: usize = 128;
const MAX_WAITS: usize = 64;
/// The most servers that are looked for on this machine.
const MAX_LOCAL: usize = 8;

/// A server whose answers take that long usually, or fail that often, may be told of.
const SUSPECT_NS: u64 = 50_000_000;
const SUSPECT_FAILURES: u64 = 10;

/// `DNS_LONG_NS` and `DNS_FORGOTTEN_NS` in dns_query_summary.bpf.c.
const LONG_NS: u64 = 2_000_000_000;
const FORGOTTEN_NS: u64 = 30_000_000_000;

/// Mirror of `struct dns_server_key` in dns_query_summary.bpf.c, where the fields are explained; so are the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ServerKey {
    server: [u8; 16],
    netns: u32,
    family: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ServerUse {
    answers: u64,
    missing: u64,
    servfail: u64,
    refused: u64,
    other_errors: u64,
    unanswered: u64,
    abandoned: u64,
    failed: u64,
    pid: u32,
    pad: u32,
    comm: Comm,
    latency_ns: [u32; BUCKETS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NameKey {
    comm: Comm,
    hash: u64,
    netns: u32,
    pad: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NameUse {
    window_ns: u64,
    first_ns: u64,
    waited_ns: u64,
    queries: u64,
    found: u64,
    missing: u64,
    errors: u64,
    unanswered: u64,
    processes: u64,
    pid: u32,
    parent: u32,
    server: [u8; 16],
    family: u32,
    pad: u32,
    name: DnsName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WaitKey {
    sent_ns: u64,
    tid: u32,
    id: u16,
    pad: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Wait {
    waited_ns: u64,
    server: [u8; 16],
    netns: u32,
    family: u32,
    pid: u32,
    pad: u32,
    comm: Comm,
}

/// Mirror of `struct dns_key` in dns.h, and of the query that is kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AwaitedKey {
    sk: u64,
    server: u32,
    id: u16,
    pad: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Awaited {
    sent_ns: u64,
    first_ns: u64,
    cgroup_id: u64,
    server: [u8; 16],
    pid: u32,
    tid: u32,
    uid: u32,
    netns: u32,
    id: u16,
    qtype: u16,
    family: u8,
    protocol: u8,
    attempt: u8,
    name_len: u8,
    name_hash: u64,
    parent: u32,
    pad: u32,
    comm: Comm,
    name: DnsName,
}

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn summary_plan(_host: &Host) -> Result<(Object, Plan), LoadError> {
    let mut plan = Plan::default();
    loader::knobs(&mut plan);
    plan.map_entries.extend([("dns_servers", SERVERS), ("dns_names", NAMES), ("dns_waits", WAITS)]);
    loader::attach(&mut plan);
    Ok((OBJECT, plan))
}

/// Loads what sums up this signal; attaches nothing yet.
pub(crate) fn sampler(host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    let (object, plan) = summary_plan(host)?;
    sampler_of(SummaryPrograms::load(object, plan, host)?)
}

/// The same with programs that are loaded, its own or shared with other signals.
pub(crate) fn sampler_of(mut programs: SummaryPrograms) -> Result<Box<dyn Sampler>, LoadError> {
    Ok(Box::new(Sampled {
        servers: programs.hash("dns_servers")?,
        names: programs.hash("dns_names")?,
        waits: programs.hash("dns_waits")?,
        awaited: programs.hash("dns_awaited")?,
        programs,
        kept: Cumulative::new("answers of DNS servers"),
        begun: false,
        window_ns: 0,
        pace: Pace::default(),
    }))
}

#[derive(Debug)]
struct Sampled {
    programs: SummaryPrograms,
    servers: KernelHash<ServerKey, ServerUse>,
    names: KernelHash<NameKey, NameUse>,
    waits: KernelHash<WaitKey, Wait>,
    awaited: KernelHash<AwaitedKey, Awaited>,
    kept: Cumulative<HashMap<ServerKey, ServerUse>>,
    begun: bool,
    /// What the kernel side has been told as the window's begin.
    window_ns: u64,
    pace: Pace,
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        self.programs.attach()
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        // Later windows begin where the one before ended, so that no query falls between them.
        if !self.begun {
            self.begun = true;
            self.kept.begin(self.servers.read());
            let _ = self.waits.take(|_| true);
            self.begin_window(tick.now_ns);
        }
    }

    fn sample(&mut self, _tick: &Tick<'_>) {}

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        let mut gaps = Gaps::new("dns_query");
        let mut summary = DnsSummary::default();
        if let Some(delta) = gaps.delta(self.kept.advance(self.servers.read())) {
            let server = |(key, now): (&ServerKey, &ServerUse)| server(key, now, delta.before.get(key));
            summary.servers = delta.now.iter().map(server).collect();
            // What nobody asks any more makes room.
            let idle =
                |key: &ServerKey| delta.before.get(key).is_some_and(|before| total(before) == total(&delta.now[key]));
            let idle: Vec<_> = delta.now.keys().filter(|key| idle(key)).copied().collect();
            delta.now.retain(|key, _| !idle.contains(key));
            self.servers.remove(idle);
        }
        summary.servers.retain(|server| asked(server) > 0);
        summary.servers.sort_by_key(|server| (std::cmp::Reverse(asked(server)), server.server, server.net_namespace));
        summary.servers.truncate(MAX_SERVERS);
        if let Some(mut names) = gaps.note("names that were asked for", self.names.read()) {
            let old: Vec<_> =
                names.extract_if(|_, name| name.window_ns != self.window_ns).map(|(key, _)| key).collect();
            self.names.remove(old);
            summary.names = names.iter().map(|(key, name)| name_use(key, name)).collect();
            summary.names.sort_by(|a, b| (b.queries, &a.name, &a.comm).cmp(&(a.queries, &b.name, &b.comm)));
            summary.names.truncate(MAX_NAMES);
        }
        if let Some(waits) = gaps.note("queries that waited", self.waits.take(|_| true)) {
            summary.waits = waits.iter().map(|(key, wait)| ended_wait(key, wait)).collect();
        }
        if let Some(awaited) = gaps.note("queries that wait", self.awaited.read()) {
            let waited = |query: &Awaited| tick.now_ns.saturating_sub(query.sent_ns);
            let long = awaited.values().filter(|query| (LONG_NS..FORGOTTEN_NS).contains(&waited(query)));
            summary.waits.extend(long.map(|query| wait_at_end(query, waited(query))));
        }
        summary
            .waits
            .sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then((a.tid, a.since_ns).cmp(&(b.tid, b.since_ns))));
        summary.waits.truncate(MAX_WAITS);
        name_servers(tick, &mut summary);
        signals.dns_query = Some(summary);
        gaps.tell(signals);
        self.begin_window(tick.now_ns);
    }

    fn pulse(&mut self, now_ns: u64) -> Option<String> {
        let queries = self.servers.read().ok()?.values().map(total).fold(0, u64::wrapping_add);
        self.pace.per_second(queries, now_ns).map(|rate| format!("{rate:.0} DNS queries/s"))
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        Some(&self.programs)
    }
}

impl Sampled {
    fn begin_window(&mut self, now_ns: u64) {
        self.window_ns = now_ns;
        self.programs.begin_window(now_ns);
    }
}

/// All queries of a server that ended since the load.
fn total(server: &ServerUse) -> u64 {
    [server.answers, server.unanswered, server.abandoned, server.failed]
        .iter()
        .fold(0, |sum, count| sum.wrapping_add(*count))
}

const fn asked(server: &DnsServer) -> u64 {
    server.answers + server.unanswered + server.abandoned + server.failed
}

fn address(server: [u8; 16], family: u32) -> Address {
    #[allow(clippy::cast_sign_loss, reason = "a small number")]
    let ip = if family == libc::AF_INET6 as u32 {
        IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(server)))
    } else {
        IpAddr::V4(Ipv4Addr::new(server[0], server[1], server[2], server[3]))
    };
    SocketAddr::new(ip, PORT).into()
}

fn server(key: &ServerKey, now: &ServerUse, before: Option<&ServerUse>) -> DnsServer {
    let since = |pick: fn(&ServerUse) -> u64| pick(now).wrapping_sub(before.map_or(0, pick));
    let mut latency_ns = Histogram::new();
    latency_ns.add_kernel_delta(&now.latency_ns, before.map_or(&[], |before| &before.latency_ns));
    DnsServer {
        server: Some(address(key.server, key.family)),
        net_namespace: key.netns,
        answers: since(|server| server.answers),
        missing: since(|server| server.missing),
        servfail: since(|server| server.servfail),
        refused: since(|server| server.refused),
        other_errors: since(|server| server.other_errors),
        unanswered: since(|server| server.unanswered),
        abandoned: since(|server| server.abandoned),
        failed: since(|server| server.failed),
        latency_ns,
        pid: now.pid,
        comm: now.comm.to_str_lossy().into_owned(),
        ..DnsServer::default()
    }
}

fn name_use(key: &NameKey, now: &NameUse) -> DnsNameUse {
    DnsNameUse {
        name: now.name.to_lowercase(),
        comm: key.comm.to_str_lossy().into_owned(),
        pid: now.pid,
        parent_pid: now.parent,
        processes: now.processes,
        net_namespace: key.netns,
        server: Some(address(now.server, now.family)),
        queries: now.queries,
        found: now.found,
        missing: now.missing,
        errors: now.errors,
        unanswered: now.unanswered,
        waited_ns: now.waited_ns,
        first_ns: now.first_ns,
    }
}

#[allow(clippy::cast_precision_loss, reason = "some seconds")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn ended_wait(key: &WaitKey, wait: &Wait) -> DnsWait {
    DnsWait {
        pid: wait.pid,
        tid: key.tid,
        comm: wait.comm.to_str_lossy().into_owned(),
        server: Some(address(wait.server, wait.family)),
        net_namespace: wait.netns,
        seconds: seconds(wait.waited_ns),
        since_ns: key.sent_ns,
        ..DnsWait::default()
    }
}

fn wait_at_end(query: &Awaited, waited_ns: u64) -> DnsWait {
    DnsWait {
        pid: query.pid,
        tid: query.tid,
        comm: query.comm.to_str_lossy().into_owned(),
        server: Some(address(query.server, query.family.into())),
        net_namespace: query.netns,
        seconds: seconds(waited_ns),
        since_ns: query.sent_ns,
        at_end: true,
        ..DnsWait::default()
    }
}

/// Whether it matters whose a server is. To find out takes a look at all descriptors.
fn is_suspect(server: &DnsServer) -> bool {
    let slow = server.latency_ns.quantile(0.5).is_some_and(|median| median >= SUSPECT_NS);
    slow || server.unanswered > 0 || server.failed > 0 || server.failures() >= SUSPECT_FAILURES
}

/// Says which of the servers are processes of this machine, and what these do.
fn name_servers(tick: &Tick<'_>, summary: &mut DnsSummary) {
    // Those that programs wait for come first.
    let waits = summary.waits.iter().map(|wait| (wait.server, wait.net_namespace, wait.pid));
    let servers = summary
        .servers
        .iter()
        .filter(|server| is_suspect(server))
        .map(|server| (server.server, server.net_namespace, server.pid));
    let mut wanted: Vec<(SocketAddr, u32, u32)> = Vec::new();
    for (server, namespace, pid) in waits.chain(servers) {
        let Some(server) = server.and_then(|server| Some(SocketAddr::new(server.ip, server.port?))) else { continue };
        if wanted.len() < MAX_LOCAL && !wanted.iter().any(|known| (known.0, known.1) == (server, namespace)) {
            wanted.push((server, namespace, pid));
        }
    }
    if wanted.is_empty() {
        return;
    }
    // Whoever asked may have ended. The oldest process of the namespace will be there for some more time.
    for (_, namespace, pid) in &mut wanted {
        let leaders = tick.tasks.rows().iter().filter(|row| row.net_namespace == *namespace && row.is_leader());
        *pid = leaders.map(|row| row.pid).min().unwrap_or(*pid);
    }
    let look = Arc::new(Look::now());
    let questions = wanted.iter().map(|(server, _, pid)| {
        let (look, server, pid) = (Arc::clone(&look), *server, *pid);
        (Question::DnsServer(server), move || {
            let inode = dns::local_server(pid, server)?;
            let holder = look.ends().of_socket(inode).iter().min_by_key(|holder| holder.pid)?.pid;
            let (stat, condition) = state::condition(holder, holder).ok()?;
            Some((holder, stat.comm, crate::signals::sched_delay::standing_state(&condition)))
        })
    });
    let mut told: Vec<(Address, u32, u32, String, StandingState)> = Vec::new();
    for ((server, namespace, _), answer) in wanted.iter().zip(tick.resolver.ask_all(questions)) {
        if let Ok(Some((pid, comm, state))) = answer {
            told.push(((*server).into(), *namespace, pid, comm, state));
        }
    }
    for (address, namespace, pid, comm, state) in told {
        let is = |server: Option<Address>, of: u32| server == Some(address) && of == namespace;
        for wait in summary.waits.iter_mut().filter(|wait| is(wait.server, wait.net_namespace)) {
            (wait.server_pid, wait.server_comm, wait.server_state) = (pid, comm.clone(), state);
        }
        for server in summary.servers.iter_mut().filter(|server| is(server.server, server.net_namespace)) {
            (server.server_pid, server.server_comm) = (pid, comm.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn layouts_are_the_kernel_sides() {
        let check = |name: &str, size: usize, fields: crate::event::layout::Fields| {
            assert_matches(OBJECT.data, name, size, fields)
        };
        check("dns_server_key", size_of::<ServerKey>(), fields!(ServerKey: server netns family));
        let server = fields!(ServerUse: answers missing servfail refused other_errors unanswered abandoned failed pid pad comm latency_ns);
        check("dns_server_use", size_of::<ServerUse>(), server);
        check("dns_name_key", size_of::<NameKey>(), fields!(NameKey: comm hash netns pad));
        let name = fields!(NameUse: window_ns first_ns waited_ns queries found missing errors unanswered processes pid parent server family
            pad name);
        check("dns_name_use", size_of::<NameUse>(), name);
        check("dns_wait_key", size_of::<WaitKey>(), fields!(WaitKey: sent_ns tid id pad));
        check("dns_wait", size_of::<Wait>(), fields!(Wait: waited_ns server netns family pid pad comm));
        check("dns_key", size_of::<AwaitedKey>(), fields!(AwaitedKey: sk server id pad));
        let query = fields!(Awaited: sent_ns first_ns cgroup_id server pid tid uid netns id qtype family protocol attempt name_len name_hash
            parent pad comm name);
        check("dns_query", size_of::<Awaited>(), query);
    }
}
