//! The network.

pub(super) mod connects;
pub(super) mod loss;
pub(super) mod queue;

use std::net::IpAddr;

use crate::{Culprit, Finding};
use kerno_model::TcpSummary;
use kerno_model::Window;

/// At most so many findings of a rule.
const MAX_FINDINGS: usize = 8;

/// The command, to be run in that network namespace.
fn within(tcp: &TcpSummary, net_namespace: u32, command: &str) -> String {
    match tcp.namespaces.iter().find(|namespace| namespace.inode == net_namespace) {
        Some(namespace) if !namespace.initial && namespace.pid != 0 => {
            format!("nsenter -t {} -n {command}", namespace.pid)
        }
        _ => command.to_owned(),
    }
}

/// An address as filters of ss(8) take it: without brackets the end of an IPv6 address would be a port.
fn ss_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("'[{address}]'"),
    }
}

/// "postgres (4711)", or "a process" when it is not known.
fn who(window: &Window, pid: u32) -> String {
    match window.process(pid) {
        _ if pid == 0 => "a process".to_owned(),
        Some(process) => format!("{} ({pid})", process.comm),
        None => format!("process {pid}"),
    }
}

/// The process, if it is known, and the other end.
fn culprit(window: &Window, pid: u32, remote: String) -> Culprit {
    let process = if pid == 0 { Culprit::default() } else { Culprit::process(window, pid, "") };
    Culprit { remote: Some(remote), ..process }
}

/// When it began, if that was well within the window: seconds since the window began.
#[allow(clippy::cast_precision_loss, reason = "a time")]
fn since(window: &Window, at_ns: u64) -> Option<f64> {
    let seconds = at_ns.checked_sub(window.span.started_ns)? as f64 / 1e9;
    (seconds > 0.5 && seconds <= window.seconds()).then_some(seconds)
}

/// The worst, by how far past the threshold they are.
fn worst(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| b.excess.total_cmp(&a.excess).then_with(|| a.title.cmp(&b.title)));
    findings.truncate(MAX_FINDINGS);
    findings
}

#[cfg(test)]
mod testing {
    use super::*;
    use crate::Thresholds;
    use kerno_model::{Process, Span};
    use kerno_model::{TcpNamespace, TcpPeer};

    pub(super) fn observed(edit: impl FnOnce(&mut TcpSummary)) -> Window {
        let mut tcp = TcpSummary {
            namespaces: vec![
                TcpNamespace { inode: 1, pid: 1, initial: true, ..TcpNamespace::default() },
                TcpNamespace { inode: 2, pid: 222, ..TcpNamespace::default() },
            ],
            ..TcpSummary::default()
        };
        edit(&mut tcp);
        let mut window = Window {
            span: Span { started_ns: 1_000_000_000, seconds: 10.0, ..Span::default() },
            tcp_monitor: Some(tcp),
            ..Window::default()
        };
        for (pid, comm) in [(4711, "postgres"), (815, "client")] {
            let process = Process { pid, comm: comm.into(), ..Process::default() };
            window.processes.insert(pid, process);
        }
        window
    }

    pub(super) fn judge(rule: &crate::Rule, edit: impl FnOnce(&mut TcpSummary)) -> Vec<Finding> {
        (rule.judge)(&observed(edit), &Thresholds::default())
    }

    pub(super) fn peer(remote: &str, sent: u64, again: u64) -> TcpPeer {
        TcpPeer {
            remote: remote.parse().unwrap(),
            port: 5432,
            outgoing: true,
            net_namespace: 1,
            connections: 3,
            sent_segments: sent,
            retransmitted_segments: again,
            syn_retransmits: 0,
            spurious_retransmits: 0,
            srtt_us: Some(400),
            min_rtt_us: Some(300),
            owners: vec![kerno_model::ConnectionOwner { pid: 815, connections: 3 }],
            first_retransmit_ns: if again > 0 { 3_000_000_000 } else { 0 },
        }
    }
}
