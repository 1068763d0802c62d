//! The network.

pub(super) mod connects;
pub(super) mod datagrams;
pub(super) mod dns;
pub(super) mod dns_failures;
pub(super) mod dns_missing_name;
pub(super) mod dns_search_list;
mod dns_server;
pub(super) mod dns_slow;
pub(super) mod half_open;
pub(super) mod interfaces;
pub(super) mod loss;
pub(super) mod queue;
pub(super) mod round_trips;
pub(super) mod stuck;

use std::net::IpAddr;

use kerno_model::{Entity, Finding, Moment, Safety, Subject, TcpPeer, TcpSummary, Window};

/// At most so many findings of a rule.
const MAX_FINDINGS: usize = 8;

/// Where commands have to be run to see a network namespace.
struct Namespace {
    /// What to put before them.
    prefix: String,
    /// What they need: the process through which the namespace is entered, or nothing.
    target: Entity,
}

impl Namespace {
    fn new(window: &Window, tcp: &TcpSummary, inode: u32) -> Self {
        match tcp.namespaces.iter().find(|namespace| namespace.inode == inode) {
            Some(namespace) if !namespace.initial && namespace.pid != 0 => Self::of(window, namespace.pid),
            _ => Self { prefix: String::new(), target: Entity::Machine },
        }
    }

    /// That of a process.
    fn of(window: &Window, pid: u32) -> Self {
        Self { prefix: format!("nsenter -t {pid} -n "), target: Entity::Process(window.process_id(pid)) }
    }

    /// Adds commands that only look.
    fn look(&self, finding: Finding, commands: impl IntoIterator<Item = (String, &'static str)>) -> Finding {
        let add = |finding: Finding, (command, why): (String, &'static str)| {
            finding.fix(self.target.clone(), Safety::ReadOnly, format!("{}{command}", self.prefix), why)
        };
        commands.into_iter().fold(finding, add)
    }

    /// Adds a command that changes something.
    fn change(&self, finding: Finding, command: &str, why: String) -> Finding {
        finding.fix(self.target.clone(), Safety::Changing, format!("{}{command}", self.prefix), why)
    }
}

/// An address as filters of ss(8) take it: without brackets the end of an IPv6 address would be a port.
fn ss_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("'[{address}]'"),
    }
}

/// The process; nothing when it is not known.
fn process(window: &Window, pid: u32, comm: &str) -> Subject {
    if pid == 0 { Subject::default() } else { Subject::process(window, pid, window.name_of(pid, comm)) }
}

/// "postgres (4711)", or "a process" when it is not known.
fn who(finding: &Finding) -> String {
    finding.subject.process.as_ref().map_or_else(|| "a process".to_owned(), ToString::to_string)
}

/// When it began, if that was well within the window.
#[allow(clippy::cast_precision_loss, reason = "a time")]
fn since(window: &Window, at_ns: u64) -> Option<Moment> {
    let seconds = at_ns.checked_sub(window.span.started_ns)? as f64 / 1e9;
    (seconds > 0.5 && seconds <= window.covered_seconds()).then(|| window.moment_ns(at_ns))
}

/// The worst, by how far past the threshold they are.
fn worst(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| b.excess.total_cmp(&a.excess).then_with(|| a.fingerprint().cmp(&b.fingerprint())));
    findings.truncate(MAX_FINDINGS);
    findings
}

/// A client from the Internet: its own network is out of our hands.
fn is_client_from_afar(peer: &TcpPeer) -> bool {
    !peer.outgoing && is_public(peer.remote)
}

/// An address of the Internet at large.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let shared = matches!(v4.octets(), [100, 64..=127, ..]);
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared)
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_unspecified())
        }
    }
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::Thresholds;
    use kerno_model::fill;
    use kerno_model::{Process, Span, TcpNamespace};

    pub(super) fn observed(edit: impl FnOnce(&mut TcpSummary)) -> Window {
        let mut tcp = TcpSummary {
            namespaces: vec![
                TcpNamespace { inode: 1, pid: 1, initial: true, ..TcpNamespace::default() },
                TcpNamespace { inode: 2, pid: 222, ..TcpNamespace::default() },
            ],
            ..TcpSummary::default()
        };
        edit(&mut tcp);
        let mut window =
            fill!(Window { span: fill!(Span { started_ns: 1_000_000_000, seconds: 10.0 }), tcp_monitor: Some(tcp) });
        for (pid, comm) in [(4711, "postgres"), (815, "client")] {
            let process = Process { pid, comm: comm.into(), ..Process::default() };
            window.processes.insert(pid, process);
        }
        window
    }

    pub(super) fn judge(rule: &crate::Rule, edit: impl FnOnce(&mut TcpSummary)) -> Vec<Finding> {
        let findings = (rule.judge)(&observed(edit), &Thresholds::default());
        findings.iter().for_each(crate::rules::testing::words_hold);
        findings
    }

    /// Seconds from the window's begin to that of the finding.
    pub(super) fn began(finding: &Finding) -> Option<f64> {
        finding.since.map(|since| observed(|_| ()).span.seconds_at(since))
    }

    pub(super) fn title_of(finding: &Finding) -> String {
        crate::words(finding).title
    }

    pub(super) fn peer(remote: &str, sent: u64, again: u64) -> TcpPeer {
        TcpPeer {
            remote: remote.parse().unwrap(),
            port: 5432,
            outgoing: true,
            net_namespace: 1,
            connections: 3,
            open: Some(3),
            sent_segments: sent,
            retransmitted_segments: again,
            syn_retransmits: 0,
            spurious_retransmits: 0,
            srtt_us: Some(400),
            min_rtt_us: Some(300),
            owners: vec![kerno_model::ConnectionOwner { pid: 815, connections: 3, open: Some(3) }],
            first_retransmit_ns: if again > 0 { 3_000_000_000 } else { 0 },
        }
    }
}
