use std::collections::HashMap;
use std::mem::offset_of;
use std::time::{Duration, Instant};

use super::counters::Counters;
use super::drops::Drops;
use super::gather::{Readings, gather};
use super::half_open;
use super::sockets::{Filling, Sockets};
use super::walk::{self, Namespace, Part, Walk};
use super::wire::{Block, Counts, FailureKey, FailureValue, LISTEN, PeerKey, PeerValue, Row, StuckKey, StuckValue};
use crate::engine::{Cumulative, FastMap, Gap, Gaps, Sampler, Tick, is_gone};
use crate::probe::{Hook, Host, KernelHash, LoadError, MappedBlocks, Object, Plan, SummaryPrograms, running_kernel};
use kerno_model::KernelVersion;
use kerno_model::{TcpSummary, Window};

/// Accept queues are looked at this often at most.
const QUEUE_INTERVAL_NS: u64 = 1_000_000_000;
/// And not at all between a window's ends where a look takes longer.
const QUEUE_PATIENCE: Duration = Duration::from_millis(5);

/// The walk over all sockets that ends a window begins with one of the samples before, and goes on with each. So many sockets are worth a
/// part of their own. With fewer than two such parts, they are all looked at when the window ends.
const PART_SOCKETS: usize = 4096;
/// The most parts. The interval between two looks at a socket is about as long as the window, but earlier by up to half of it.
const MAX_PARTS: usize = 12;

/// The first kernel on which a walk is done in parts. On 5.10 one of two trials missed segments (765 of 908 in all), for a reason that was not
/// found.
const PARTS_SINCE: KernelVersion = KernelVersion::new(6, 12);

/// Looking for owners means a walk over all descriptors. Where no socket is new it is left out, but for every so many windows: a process may
/// hand its sockets to another and live on.
const KEEP_OWNERS: u32 = 8;

/// Namespaces whose counters are remembered, so that one without processes for a while does not count from zero again.
const MAX_KNOWN: usize = 1024;

/// What may be missing.
const COUNTERS: &str = "counters of network namespaces";

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn summary_plan(host: &Host) -> Result<(Object, Plan), LoadError> {
    let object = Object {
        name: "tcp_monitor_summary",
        data: aya::include_bytes_aligned!("../../../objects/tcp_monitor_summary.bpf.o"),
    };
    let mut plan = Plan::default();
    if host.tracepoint_arity("tcp_retransmit_skb").is_some_and(|arguments| arguments > 2) {
        plan.set("cfg_retransmit_has_err", &1u8);
    }
    plan.size_per_cpu("blocks");
    plan.attach("on_inet_sock_set_state", Hook::Tracepoint("inet_sock_set_state"));
    plan.attach("on_tcp_retransmit_skb", Hook::Tracepoint("tcp_retransmit_skb"));
    plan.attach("on_tcp_retransmit_synack", Hook::Tracepoint("tcp_retransmit_synack"));
    plan.attach("on_tcp_receive_reset", Hook::Tracepoint("tcp_receive_reset"));
    plan.attach("on_tcp_send_reset", Hook::Tracepoint("tcp_send_reset"));
    plan.attach("on_tcp", Hook::Iterator("tcp"));
    plan.attach("on_tcp_listener", Hook::Iterator("tcp"));
    plan.attach("on_task_file", Hook::Iterator("task_file"));
    Ok((object, plan))
}

/// Loads what sums up this signal; attaches nothing yet.
pub(crate) fn sampler(host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    let (object, plan) = summary_plan(host)?;
    let mut programs = SummaryPrograms::load(object, plan, host)?;
    Ok(Box::new(Sampled {
        blocks: programs.mapped("blocks")?,
        peers: programs.hash("peers")?,
        failures: programs.hash("failures")?,
        stuck: programs.hash("stuck")?,
        programs,
        before: Reading::default(),
        walk: Walk::default(),
        found: Filling::default(),
        window: 1,
        counters: HashMap::new(),
        drops: Drops::default(),
        gaps: Gaps::new("tcp_monitor"),
        begun: false,
        queues: FastMap::default(),
        queued_ns: 0,
        queue_look: Duration::ZERO,
        kept_owners: 0,
        in_parts: running_kernel() >= PARTS_SINCE,
    }))
}

#[derive(Debug)]
struct Sampled {
    blocks: MappedBlocks<Block>,
    peers: KernelHash<PeerKey, PeerValue>,
    failures: KernelHash<FailureKey, FailureValue>,
    stuck: KernelHash<StuckKey, StuckValue>,
    programs: SummaryPrograms,
    /// As it was when the window began.
    before: Reading,
    /// What was looked at for the end of this window.
    walk: Walk,
    found: Filling,
    /// The number of this window (met.h).
    window: u32,
    /// Of each network namespace, by its inode number.
    counters: HashMap<u32, Cumulative<Counters>>,
    /// What is counted elsewhere than in TCP.
    drops: Drops,
    /// What could not be looked at in this window.
    gaps: Gaps,
    begun: bool,
    /// Each listening socket at the latest sample, with its longest accept queue in the window.
    queues: FastMap<u64, Row>,
    queued_ns: u64,
    queue_look: Duration,
    /// In so many windows since owners were looked for.
    kept_owners: u32,
    /// Whether the walk over very many sockets may be done in parts.
    in_parts: bool,
}

/// What the kernel side has added up since it was loaded.
#[derive(Debug, Default)]
struct Totals {
    counts: Counts,
    /// Of all CPUs, modulo 2^32.
    rtt_us: Vec<u32>,
}

/// What the machine's connections were at a moment.
#[derive(Debug, Default)]
struct Reading {
    totals: Totals,
    sockets: Sockets,
    /// Namespaces whose sockets could not be looked at: these are as they were before.
    unread: Vec<u32>,
    namespaces: Vec<Namespace>,
    /// There were more namespaces.
    cut: bool,
}

impl Sampled {
    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.blocks.iter().for_each(|block| counts += block.project::<Counts>(offset_of!(Block, counts)).read());
        counts
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals { counts: self.counts(), rtt_us: Vec::new() };
        let mut cpu = Vec::new();
        for block in self.blocks.iter() {
            block.project::<[u32; kerno_model::BUCKETS]>(offset_of!(Block, rtt_us)).copy_to(&mut cpu);
            totals.rtt_us.resize(cpu.len(), 0);
            for (sum, count) in totals.rtt_us.iter_mut().zip(&cpu) {
                *sum = sum.wrapping_add(*count);
            }
        }
        totals
    }

    /// Tells the kernel side the number of the window, and whether its walk is under way.
    fn tell_window(&mut self, walks: bool) {
        let told = self.programs.tell("walk", self.window << 1 | u32::from(walks));
        self.gaps.note("which connections ended before they were looked at", told);
    }

    /// Looks at a part of the sockets where there are many, in the last samples of a window.
    fn look_at_some(&mut self, tick: &Tick<'_>) {
        let Some(left) = tick.left.filter(|left| *left > 0 && self.in_parts) else { return };
        let known = self.before.sockets.len();
        if left >= (known / PART_SOCKETS).min(MAX_PARTS) {
            return;
        }
        // The window's end is a part, too.
        let rows = known.saturating_sub(self.walk.count) / (left + 1);
        self.walk_on(tick, Part::Rows(u32::try_from(rows).unwrap_or(u32::MAX)));
    }

    /// Returns the namespaces there are, whether there are more, and how many sockets.
    fn walk_on(&mut self, tick: &Tick<'_>, part: Part) -> (Vec<Namespace>, usize) {
        let (namespaces, beyond) = walk::namespaces(tick.tasks);
        self.tell_window(true);
        self.walk.go_on(&mut self.programs, &namespaces, part);
        self.found.add(std::mem::take(&mut self.walk.rows), &self.before.sockets);
        (namespaces, beyond)
    }

    /// Looks at what was not looked at yet, and ends the window for the kernel side.
    fn read(&mut self, tick: &Tick<'_>) -> Reading {
        let totals = self.totals();
        let (namespaces, beyond) = self.walk_on(tick, Part::Rest);
        let Walk { beyond: sockets_beyond, unread, why, .. } = std::mem::take(&mut self.walk);
        let mut found = std::mem::take(&mut self.found);
        self.window += 1;
        self.tell_window(false);
        let mut missing = |what: String, reason: String| self.gaps.add(Gap { what, reason });
        if beyond > 0 {
            missing(format!("{beyond} network namespaces"), "there are too many to look into each".to_owned());
        }
        if !unread.is_empty() {
            let many = if unread.len() == 1 { "" } else { "s" };
            let what = format!("the sockets of {} network namespace{many}", unread.len());
            missing(what, why.unwrap_or_default());
        }
        if sockets_beyond > 0 {
            missing(format!("{} sockets", sockets_beyond), "there are too many to look at each".to_owned());
        }
        // As they were: what they have sent until then is not to be taken for new when they can be looked at again.
        let of_unread = self.before.sockets.rows().filter(|row| unread.contains(&row.netns));
        found.add(of_unread.copied().collect(), &self.before.sockets);
        let is_there = |pid| tick.tasks.process(pid).is_some_and(|process| process.alive);
        self.kept_owners = (self.kept_owners + 1) % KEEP_OWNERS;
        let sockets = if self.kept_owners > 0 && found.still_owned(is_there) {
            found.with_known_owners()
        } else {
            self.kept_owners = 0;
            let owners = walk::owners(&mut self.programs);
            let owners = self.gaps.note("owners of connections", owners).unwrap_or_default();
            found.with_owners(|row| owners.get(&row.sock).map_or(0, |owner| owner.pid))
        };
        Reading { totals, sockets, unread, namespaces, cut: beyond > 0 }
    }

    fn look_at_queues(&mut self, tick: &Tick<'_>) {
        if tick.now_ns < self.queued_ns + QUEUE_INTERVAL_NS || self.queue_look > QUEUE_PATIENCE {
            return;
        }
        let listening: std::collections::HashSet<u32> =
            self.before.sockets.rows().filter(|row| row.state == LISTEN).map(|row| row.netns).collect();
        let mut namespaces = self.before.namespaces.clone();
        namespaces.retain(|namespace| listening.contains(&namespace.inode));
        let begun = Instant::now();
        for row in walk::listening(&mut self.programs, &namespaces) {
            let longest = self.queues.get(&row.sock).map_or(0, |earlier| earlier.queued);
            self.queues.insert(row.sock, Row { queued: row.queued.max(longest), ..row });
        }
        self.queue_look = begun.elapsed();
        self.queued_ns = tick.now_ns;
    }

    /// Takes away what the kernel side took note of until the latest walk: nobody adds to that any more.
    fn take_peers(&mut self) -> HashMap<PeerKey, PeerValue> {
        let now = self.window;
        let taken = self.gaps.note("who retransmitted", self.peers.take(|key| key.window < now)).unwrap_or_default();
        let mut peers: HashMap<PeerKey, PeerValue> = HashMap::with_capacity(taken.len());
        for (key, value) in taken {
            *peers.entry(PeerKey { window: 0, ..key }).or_default() += value;
        }
        peers
    }

    fn take_failures(&mut self) -> HashMap<FailureKey, FailureValue> {
        let now = self.window;
        let taken = self.failures.take(|key| key.window < now);
        let taken = self.gaps.note("who failed to connect", taken).unwrap_or_default();
        let mut failures: HashMap<FailureKey, FailureValue> = HashMap::with_capacity(taken.len());
        for (key, value) in taken {
            *failures.entry(FailureKey { window: 0, ..key }).or_default() += value;
        }
        failures
    }

    /// By the address of the socket.
    fn take_stuck(&mut self) -> HashMap<u64, StuckValue> {
        let now = self.window;
        let taken = self.stuck.take(|key| key.window < now);
        let taken = self.gaps.note("connections on which nothing moves", taken).unwrap_or_default();
        taken.into_iter().map(|(key, value)| (key.sock, value)).collect()
    }

    fn connections(&self) -> u64 {
        let before = self.before.sockets.rows().filter(|row| row.is_connection()).count() as u64;
        let Counts { opened, accepted, closed, .. } = self.counts().since(self.before.totals.counts);
        (before + opened + accepted).saturating_sub(closed)
    }
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        self.programs.attach()
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        // The end of a window is the begin of the next.
        if !std::mem::replace(&mut self.begun, true) {
            self.before = self.read(tick);
            // Of connections that ended before they were looked at.
            drop((self.take_peers(), self.take_failures(), self.take_stuck()));
            for namespace in &self.before.namespaces {
                let counters = self.counters.entry(namespace.inode).or_insert(Cumulative::new(COUNTERS));
                counters.begin(Counters::read(*namespace));
            }
            self.drops.begin(&self.before.namespaces, walk::initial_inode(tick.tasks));
        }
        self.queues.clear();
        self.queued_ns = tick.now_ns;
        self.queue_look = Duration::ZERO;
    }

    fn sample(&mut self, tick: &Tick<'_>) {
        self.look_at_queues(tick);
        self.look_at_some(tick);
    }

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        let mut summary = TcpSummary::default();
        let now = self.read(tick);
        let (mut peers, failures, stuck) = (self.take_peers(), self.take_failures(), self.take_stuck());
        // What ended there had sent some of that before the window, which cannot be told now.
        peers.retain(|key, _| !now.unread.contains(&key.netns));
        let Counts { opened, accepted, closed, reset } = now.totals.counts.since(self.before.totals.counts);
        (summary.opened, summary.accepted, summary.closed, summary.reset) = (opened, accepted, closed, reset);
        summary.rtt_us.add_kernel_delta(&now.totals.rtt_us, &self.before.totals.rtt_us);
        let readings =
            Readings { before: &self.before.sockets, now: &now.sockets, peers, failures, stuck, queues: &self.queues };
        let name = |pid| {
            let process = tick.tasks.process(pid);
            process.map(|process| process.row.comm.to_str_lossy().into_owned()).unwrap_or_default()
        };
        gather(readings, name, &mut summary);
        let initial = walk::initial_inode(tick.tasks);
        let mut datagrams = HashMap::new();
        for namespace in &now.namespaces {
            let counters = match Counters::read(*namespace) {
                // The process by which it was looked into has ended.
                Err(error) if is_gone(&error) => continue,
                counters => counters,
            };
            // One that has come in this window counts from zero; unless there were more, of which it may be one.
            let first = if self.before.cut {
                Cumulative::new(COUNTERS)
            } else {
                Cumulative::since_zero(COUNTERS, Counters::default())
            };
            let delta = self.counters.entry(namespace.inode).or_insert(first).advance(counters);
            if let Some(delta) = self.gaps.delta(delta) {
                datagrams.insert(namespace.inode, delta.now.datagram_drops.saturating_sub(delta.before.datagram_drops));
                summary.namespaces.push(delta.now.since(delta.before, *namespace, initial));
            }
        }
        if self.counters.len() > MAX_KNOWN {
            self.counters.retain(|inode, _| now.namespaces.iter().any(|namespace| namespace.inode == *inode));
        }
        half_open::look(&now.namespaces, &now.sockets, name, &mut summary);
        self.drops.finish((&now.namespaces, initial), &datagrams, tick, &mut self.gaps, &mut summary);
        self.gaps.tell(signals);
        self.before = now;
        signals.tcp_monitor = Some(summary);
    }

    #[allow(clippy::cast_precision_loss, reason = "a share")]
    fn pulse(&mut self, _now_ns: u64) -> Option<String> {
        let connections = self.connections();
        let own = self.before.namespaces.first().and_then(|own| {
            let earlier = self.counters.get(&own.inode)?.latest()?;
            Some(Counters::read(*own).ok()?.since(*earlier, *own, 0))
        });
        Some(match own {
            Some(own) if own.sent_segments > 0 && own.retransmitted_segments > 0 => {
                let share = 100.0 * own.retransmitted_segments as f64 / own.sent_segments as f64;
                format!("{connections} conns, {share:.1} % retransmitted")
            }
            _ => format!("{connections} conns"),
        })
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        Some(&self.programs)
    }
}
