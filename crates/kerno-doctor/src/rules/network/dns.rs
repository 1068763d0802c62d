//! DNS servers that do not answer, or answer late.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use kerno_model::amount::{number, span};
use kerno_model::fill;
use kerno_model::{DnsWait, Effect, Finding, Severity, StandingState, Subject, Unit, Window};

use super::{Namespace, process, worst};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// DNS servers that do not answer.
    DnsNoAnswer = "dns_no_answer", "sched_delay", "programs wait long for an answer of a DNS server",
        "Looks at queries that waited two seconds or longer. A resolver waits 5 seconds unless /etc/resolv.conf says otherwise (timeout), \
        then it asks again or another server, and the program that wanted to know an address waits all that time. A single wait that \
        ended before the usual timeout is told for information only: the server may itself wait for another one, whose domain is \
        broken; so are few among a hundred times as many answers. Where a server of this machine waits for another server, it is \
        that one. Without dns_query, only threads are seen that sleep until a UDP socket is ready that is connected to port 53, as in \
        the C library.",
        judge, words;
    causes: [];
    suffers: [
        suffers(Effect::HoldsUp, |ties, a, b| ties.same_process(a, b), "does not answer while it stands still"),
        suffers(Effect::StandsStill, |ties, a, b| ties.same_process(a, b), "is stuck in the kernel itself"),
        suffers(Effect::PathBroken, |ties, a, b| ties.same_remote(a, b), "does not answer anything"),
    ];
    thresholds: {
        timeout_seconds: 4.5 Seconds, 2.0 ..= 3600.0, "length of a single wait that counts";
        min_waits: 2.0 Count, 1.0 ..= 1e6, "number of waits of two seconds and longer that counts";
        critical_waiting: 8.0 Count, 1.0 ..= 1e6, "number of processes that wait for it to be critical";
    }
    evidence: {
        longest: "longest wait for an answer";
        waits: "waits of two seconds and longer";
        processes: "processes that waited";
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn judge(window: &Window, rule: &DnsNoAnswer) -> Vec<Finding> {
    let by_server = upstream(by_server(window));
    let findings = by_server.iter().map(|((namespace, server), waits)| {
        let longest = waits.iter().map(|wait| wait.seconds).fold(0.0, f64::max);
        let pids: BTreeSet<u32> = waits.iter().map(|wait| wait.pid).collect();
        let count = waits.len() as f64;
        let severity = match () {
            () if count < rule.min_waits && longest < rule.timeout_seconds => Severity::Info,
            () if count * 100.0 < answers(window, *server, *namespace) as f64 => Severity::Info,
            () if pids.len() as f64 >= rule.critical_waiting => Severity::Critical,
            () => Severity::Warning,
        };
        found(window, *server, waits, severity)
            .measured("longest", longest, Unit::Seconds, Some(rule.timeout_seconds))
            .measured("waits", count, Unit::Count, Some(rule.min_waits))
            .measured("processes", pids.len() as f64, Unit::Count, None)
    });
    let findings = findings.map(|mut finding| {
        let past = |name: &str, limit: f64| finding.number(name).unwrap_or(0.0) / limit;
        finding.excess = past("longest", rule.timeout_seconds).max(past("waits", rule.min_waits));
        finding
    });
    worst(findings.collect())
}

type ByServer<'a> = BTreeMap<(u32, SocketAddr), Vec<&'a DnsWait>>;

/// The waits of look-ups: the queries for two kinds of records that a thread sends at once are one.
fn by_server(window: &Window) -> ByServer<'_> {
    let queries = window.dns_query.iter().flat_map(|dns| &dns.waits);
    // A thread may have asked before queries were followed.
    let seen: BTreeSet<u32> = queries.clone().map(|wait| wait.tid).collect();
    let asleep = window.sched_delay.iter().flat_map(|sched| &sched.dns_waits);
    let mut by_server = ByServer::new();
    for wait in queries.chain(asleep.filter(|wait| !seen.contains(&wait.tid))) {
        let Some(server) = wait.server.and_then(|server| Some(SocketAddr::new(server.ip, server.port?))) else {
            continue;
        };
        let known = by_server.entry((wait.net_namespace, server)).or_default();
        let at_once = |other: &&DnsWait| other.tid == wait.tid && other.since_ns.abs_diff(wait.since_ns) < AT_ONCE_NS;
        match known.iter_mut().find(|other| at_once(other)) {
            Some(other) if other.seconds < wait.seconds => *other = wait,
            Some(_) => {}
            None => known.push(wait),
        }
    }
    by_server
}

/// Queries of one look-up are sent that close together.
const AT_ONCE_NS: u64 = 100_000_000;

/// Leaves out servers of this machine that wait for another one themselves: who waits for them waits for that one.
fn upstream(mut by_server: ByServer<'_>) -> ByServer<'_> {
    let waits_for = |by_server: &ByServer<'_>, pid: u32| {
        let waits = |waits: &[&DnsWait]| waits.iter().any(|wait| wait.pid == pid && wait.server_pid != pid);
        (pid != 0).then(|| by_server.iter().find(|(_, of)| waits(of)).map(|(key, _)| *key)).flatten()
    };
    let forwards: Vec<_> = by_server
        .iter()
        .filter(|(_, waits)| waits.iter().all(|wait| !wait.server_state.is_held()))
        .filter_map(|(key, waits)| {
            Some((*key, waits_for(&by_server, waits.iter().map(|wait| wait.server_pid).max()?)?))
        })
        .filter(|(key, upstream)| key != upstream)
        .collect();
    for (key, upstream) in forwards {
        if let (true, Some(waits)) = (by_server.contains_key(&upstream), by_server.remove(&key)) {
            by_server.entry(upstream).or_default().extend(waits);
        }
    }
    by_server
}

/// How often a server has answered meanwhile.
fn answers(window: &Window, server: SocketAddr, namespace: u32) -> u64 {
    let servers = window.dns_query.iter().flat_map(|dns| &dns.servers);
    let is = |known: &&kerno_model::DnsServer| known.server == Some(server.into()) && known.net_namespace == namespace;
    servers.filter(is).map(|known| known.answers).sum()
}

fn found(window: &Window, server: SocketAddr, waits: &[&DnsWait], severity: Severity) -> Finding {
    let first = waits.iter().min_by_key(|wait| wait.since_ns);
    let theirs = |wait: &&&DnsWait| wait.server == Some(server.into());
    let local = waits.iter().filter(theirs).find(|wait| wait.server_pid != 0);
    let own = local.map_or_else(Subject::default, |wait| process(window, wait.server_pid, &wait.server_comm));
    let mut finding = DnsNoAnswer::finding(severity).about(fill!(Subject { remote: Some(server.into()), ..own }));
    if let Some(local) = local {
        finding = finding.detail("state", local.server_state.name());
    }
    let mut told = BTreeSet::new();
    for wait in waits {
        if told.len() < super::MAX_FINDINGS && told.insert(wait.pid) {
            finding.victims.push(process(window, wait.pid, &wait.comm));
        }
    }
    finding.since = first.and_then(|wait| super::since(window, wait.since_ns));
    finding.confidence = if waits.len() > 1 { 0.9 } else { 0.7 };
    let of_it = || waits.iter().filter(theirs);
    let Some(wait) = of_it().find(|wait| wait.at_end).or(of_it().next()) else { return finding };
    // It may be in a network of its own, and have its own resolv.conf.
    let within = Namespace::of(window, wait.pid);
    let finding = within.look(
        finding,
        [
            (format!("dig +tries=1 +time=2 @{} . NS", server.ip()), "whether the server answers at all, and how fast"),
            (format!("tcpdump -ni any -c 20 port 53 and host {}", server.ip()), "whether answers come back"),
            ("ss -ulnp 'sport = :53'".to_owned(), "which process serves DNS here"),
            ("nft list ruleset".to_owned(), "firewall rules here that drop queries or answers"),
        ],
    );
    finding
        .look(format!("cat /proc/{}/root/etc/resolv.conf", wait.pid), "which servers are asked, and for how long")
        .look(
            "conntrack -S | grep -v 'insert_failed=0'",
            "queries lost where two are sent at once (a race of connection tracking)",
        )
}

/// "getent (12) and 2 more".
fn who_waits(finding: &Finding) -> String {
    let first = finding.victims.first().and_then(|victim| victim.process.as_ref());
    let first = first.map_or_else(|| "a program".to_owned(), ToString::to_string);
    match finding.number("processes") {
        Some(processes) if processes > 1.0 => format!("{first} and {} more", number(processes - 1.0)),
        _ => first,
    }
}

fn words(finding: &Finding) -> Words {
    let server = finding.subject.remote.map_or_else(|| "a DNS server".to_owned(), |remote| remote.to_string());
    let named = finding.subject.process.as_ref();
    let culprit = named
        .map_or_else(|| format!("the DNS server {server}"), |process| format!("{process}, the DNS server {server},"));
    let waits = finding.number("waits").filter(|waits| *waits > 1.0).map(|waits| format!("{} waits", number(waits)));
    let state = finding.text("state").map(StandingState::from_name).filter(|state| state.is_held());
    let cause = match (state, named) {
        (Some(state), _) => format!("Its process is {}.", state.name()),
        (None, Some(_)) => "It is asked and does not answer in time: it waits for a server of its own, is overloaded, or its answers are \
                            dropped on the way back."
            .to_owned(),
        (None, None) => "Queries or answers are lost on the way, the server is gone or overloaded, or it waits for another one.".to_owned(),
    };
    Words {
        title: title(
            &format!("{culprit} does not answer {}", who_waits(finding)),
            [finding.number("longest").map(span), waits],
        ),
        cause,
        impact: "Whoever needs the address of a name waits, usually 5 s a try, before it even connects.".to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::title_of;
    use super::*;
    use crate::{Thresholds, rules};
    use kerno_model::{Address, DnsServer, DnsSummary, SchedSummary};

    fn wait(pid: u32, seconds: f64) -> DnsWait {
        let server: SocketAddr = "127.0.0.1:53".parse().unwrap();
        DnsWait {
            pid,
            tid: pid,
            comm: "getent".into(),
            server: Some(Address::from(server)),
            net_namespace: 1,
            seconds,
            since_ns: 2_000_000_000,
            at_end: true,
            ..DnsWait::default()
        }
    }

    fn found(dns_waits: Vec<DnsWait>) -> Vec<Finding> {
        let window = fill!(Window { sched_delay: Some(SchedSummary { dns_waits, ..SchedSummary::default() }) });
        let findings = (DnsNoAnswer::RULE.judge)(&window, &Thresholds::default());
        findings.iter().for_each(rules::testing::words_hold);
        findings
    }

    #[test]
    fn a_server_that_does_not_answer_is_told_once_with_those_who_wait() {
        let again = DnsWait { since_ns: 8_000_000_000, ..wait(12, 2.0) };
        let findings = found(vec![wait(12, 5.0), wait(13, 3.0), again]);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert_eq!(
            title_of(finding),
            "the DNS server 127.0.0.1:53 does not answer getent (12) and 1 more: 5 s, 3 waits"
        );
        assert_eq!((finding.severity, finding.victims.len()), (Severity::Warning, 2));
        assert_eq!(found((0..9).map(|pid| wait(100 + pid, 3.0)).collect())[0].severity, Severity::Critical);
    }

    #[test]
    fn what_a_server_of_this_machine_waits_for_is_the_culprit() {
        let local = |pid: u32, tid_since: u64| DnsWait {
            server_pid: 77,
            server_comm: "dnsmasq".into(),
            server_state: StandingState::Sleeps,
            since_ns: tid_since,
            ..wait(pid, 5.0)
        };
        let beyond = DnsWait {
            server: Some(Address::from("10.0.0.2:53".parse::<SocketAddr>().unwrap())),
            comm: "dnsmasq".into(),
            ..wait(77, 4.9)
        };
        let waits = vec![local(12, 2_000_000_000), local(12, 2_000_000_500), beyond];
        let window = fill!(Window { dns_query: Some(DnsSummary { waits, ..DnsSummary::default() }) });
        let findings = (DnsNoAnswer::RULE.judge)(&window, &Thresholds::default());
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        let title = title_of(finding);
        assert!(
            title.starts_with("the DNS server 10.0.0.2:53 does not answer dnsmasq (77) and 1 more: 5 s, 2 waits"),
            "{title}"
        );
        assert_eq!(finding.subject.pid(), None);
    }

    #[test]
    fn few_waits_among_many_answers_are_for_information() {
        let asked = |answers: u64| {
            let server = DnsServer { server: wait(1, 0.0).server, net_namespace: 1, answers, ..DnsServer::default() };
            let part = DnsSummary {
                waits: vec![wait(12, 5.0), wait(13, 5.0)],
                servers: vec![server],
                ..DnsSummary::default()
            };
            (DnsNoAnswer::RULE.judge)(&fill!(Window { dns_query: Some(part) }), &Thresholds::default())[0].severity
        };
        assert_eq!((asked(199), asked(201)), (Severity::Warning, Severity::Info));
    }

    #[test]
    fn one_slow_answer_is_for_information() {
        assert_eq!(found(vec![wait(12, 2.5)])[0].severity, Severity::Info);
        assert_eq!(found(vec![wait(12, 4.8)])[0].severity, Severity::Warning, "the usual timeout");
    }

    #[test]
    fn a_server_of_this_machine_is_the_culprit() {
        let stopped = DnsWait {
            server_pid: 77,
            server_comm: "dnsmasq".into(),
            server_state: StandingState::Stopped,
            ..wait(12, 5.0)
        };
        let findings = found(vec![stopped]);
        assert_eq!(findings[0].subject.pid(), Some(77));
        let told = crate::words(&findings[0]);
        assert_eq!(told.title, "dnsmasq (77), the DNS server 127.0.0.1:53, does not answer getent (12): 5 s");
        assert_eq!(told.cause, "Its process is stopped.");
    }
}
