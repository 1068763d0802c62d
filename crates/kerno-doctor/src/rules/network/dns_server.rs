//! What findings about DNS servers say alike.

use std::net::SocketAddr;

use kerno_model::{DnsNameUse, DnsServer, DnsSummary, Finding, Subject, Window, fill};

use super::{MAX_FINDINGS, Namespace, process};
use kerno_model::amount::number;

/// A finding about a server: its process, if that is on this machine, and how to look at it.
pub(super) fn about(window: &Window, finding: Finding, server: &DnsServer) -> Finding {
    let own = process(window, server.server_pid, &server.server_comm);
    let finding = finding.about(fill!(Subject { remote: server.server, ..own }));
    let Some(address) = server.server.and_then(|address| Some(SocketAddr::new(address.ip, address.port?))) else {
        return finding;
    };
    // Who asked may have ended.
    let within = if server.server_pid == 0 { server.pid } else { server.server_pid };
    Namespace::of(window, within)
        .look(
            finding,
            [
                (format!("dig +tries=1 +time=2 @{} . NS", address.ip()), "whether the server answers, and how fast"),
                ("ss -ulnp 'sport = :53'".to_owned(), "which process serves DNS here"),
            ],
        )
        .look(format!("cat /proc/{}/root/etc/resolv.conf", server.pid), "which servers are asked")
        .look(format!("kerno trace dns --pid {}", server.pid), "shows each query and what came of it")
}

/// The servers that are behind it: where one of these is a process of this machine that asks servers to which the same happens, those. It asks
/// them less often than it is asked, since it asks for several at once, or remembers.
pub(super) fn culprits<'a>(affected: &[&'a DnsServer], also: &[&'a DnsServer]) -> Vec<&'a DnsServer> {
    let mut culprits: Vec<&DnsServer> = Vec::new();
    for server in affected {
        let asks = |other: &&&DnsServer| {
            server.server_pid != 0
                && other.pid == server.server_pid
                && other.server != server.server
                && other.server_pid != other.pid
        };
        let beyond: Vec<&DnsServer> = also.iter().filter(asks).copied().collect();
        let behind = if beyond.is_empty() { vec![*server] } else { beyond };
        let new: Vec<&DnsServer> =
            behind.into_iter().filter(|one| !culprits.iter().any(|known| std::ptr::eq(*known, *one))).collect();
        culprits.extend(new);
    }
    culprits
}

/// So few answers tell how a server is that another one asks.
pub(super) const FEW: u64 = 3;

/// The processes that asked it, by what weighs most.
pub(super) fn askers(
    window: &Window,
    dns: &DnsSummary,
    server: &DnsServer,
    weight: fn(&DnsNameUse) -> u64,
) -> Vec<Subject> {
    let asks = |name: &&DnsNameUse| name.server == server.server && name.net_namespace == server.net_namespace;
    let mut names: Vec<&DnsNameUse> = dns.names.iter().filter(asks).filter(|name| weight(name) > 0).collect();
    names.sort_by_key(|name| (std::cmp::Reverse(weight(name)), name.pid));
    let mut pids: Vec<(u32, &str)> = Vec::new();
    for name in names {
        // Of a program that is started again and again, the latest.
        if pids.len() < MAX_FINDINGS && !pids.iter().any(|(pid, comm)| *pid == name.pid || *comm == name.comm) {
            pids.push((name.pid, &name.comm));
        }
    }
    if pids.is_empty() {
        pids.push((server.pid, &server.comm));
    }
    pids.into_iter().map(|(pid, comm)| process(window, pid, comm)).collect()
}

/// Whether it is a program that is started again and again.
pub(super) const fn starts_anew(name: &DnsNameUse) -> bool {
    name.processes > 4 && name.parent_pid > 1
}

/// The program that asked; who starts it, if it is started again and again.
pub(super) fn asker(window: &Window, name: &DnsNameUse) -> Subject {
    match window.process(name.parent_pid) {
        Some(parent) if starts_anew(name) => process(window, name.parent_pid, &parent.comm),
        _ => process(window, name.pid, &name.comm),
    }
}

/// "dnsmasq (77), the DNS server 127.0.0.1:53," or "the DNS server 10.0.0.2:53".
pub(super) fn culprit(finding: &Finding) -> String {
    let server = finding.subject.remote.map_or_else(|| "a DNS server".to_owned(), |remote| remote.to_string());
    match &finding.subject.process {
        Some(process) => format!("{process}, the DNS server {server},"),
        None => format!("the DNS server {server}"),
    }
}

/// "curl (12) and 2 more".
#[allow(clippy::cast_precision_loss, reason = "a handful")]
pub(super) fn who_asks(finding: &Finding) -> String {
    let first = finding.victims.first().and_then(|victim| victim.process.as_ref());
    let first = first.map_or_else(|| "a program".to_owned(), ToString::to_string);
    match finding.victims.len() {
        0 | 1 => first,
        more => format!("{first} and {} more", number((more - 1) as f64)),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::{Rule, Thresholds, rules};
    use kerno_model::Span;

    pub(crate) fn server(address: &str) -> DnsServer {
        let address = SocketAddr::new(address.parse().unwrap(), 53);
        DnsServer {
            server: Some(address.into()),
            net_namespace: 1,
            pid: 12,
            comm: "curl".into(),
            ..DnsServer::default()
        }
    }

    pub(crate) fn name(name: &str, comm: &str, pid: u32) -> DnsNameUse {
        let server = server("10.0.0.2").server;
        DnsNameUse {
            name: name.into(),
            comm: comm.into(),
            pid,
            parent_pid: 1,
            processes: 1,
            net_namespace: 1,
            server,
            ..DnsNameUse::default()
        }
    }

    /// What a rule finds in a window of ten seconds.
    pub(crate) fn judged(rule: &Rule, servers: Vec<DnsServer>, names: Vec<DnsNameUse>) -> Vec<Finding> {
        let part = DnsSummary { servers, names, ..DnsSummary::default() };
        let window = fill!(Window { dns_query: Some(part), span: fill!(Span { seconds: 10.0 }) });
        let findings = (rule.judge)(&window, &Thresholds::default());
        findings.iter().for_each(rules::testing::words_hold);
        findings
    }
}
