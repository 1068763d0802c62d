//! DNS servers that answer slowly.

use kerno_model::amount::{number, span};
use kerno_model::{DnsServer, Finding, Severity, Unit, Window};

use super::dns_server::{FEW, about, askers, culprit, culprits, who_asks};
use super::worst;
use crate::title::title;
use crate::{Words, rule};

rule! {
    /// DNS servers that answer slowly.
    DnsSlow = "dns_slow", "dns_query", "a DNS server answers slowly",
        "Looks at the time from each query to its answer, by server. Half of all answers must be late: single names take long because the \
        servers of their domain do, which says nothing of this one. Where a server of this machine asks another one that is slow, it is \
        that one.",
        judge, words;
    causes: [];
    suffers: [];
    thresholds: {
        median_seconds: 0.25 Seconds, 0.001 ..= 60.0, "time that half of all answers take at least";
        min_answers: 10.0 Count, 1.0 ..= 1e6, "number of answers";
    }
    evidence: {
        median: "half of the answers take longer";
        answers: "answers";
        slowest: "the slowest answer";
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts and times")]
fn judge(window: &Window, rule: &DnsSlow) -> Vec<Finding> {
    let Some(dns) = &window.dns_query else { return Vec::new() };
    let median = |server: &DnsServer| server.latency_ns.quantile(0.5).map_or(0.0, |ns| ns as f64 / 1e9);
    let is_slow = |server: &&DnsServer| server.answers >= FEW && median(server) >= rule.median_seconds;
    let also: Vec<&DnsServer> = dns.servers.iter().filter(is_slow).collect();
    let slow: Vec<&DnsServer> =
        also.iter().filter(|server| server.answers as f64 >= rule.min_answers).copied().collect();
    let findings = culprits(&slow, &also).into_iter().map(|server| {
        let mut finding = about(window, DnsSlow::finding(Severity::Warning), server)
            .measured("median", median(server), Unit::Seconds, Some(rule.median_seconds))
            .measured("answers", server.answers as f64, Unit::Count, Some(rule.min_answers))
            .measured("slowest", server.latency_ns.max().unwrap_or(0) as f64 / 1e9, Unit::Seconds, None);
        finding.victims = askers(window, dns, server, |name| name.waited_ns);
        finding.excess = median(server) / rule.median_seconds;
        finding
    });
    worst(findings.collect())
}

fn words(finding: &Finding) -> Words {
    let answers = finding.number("answers").map(|answers| format!("{} answers", number(answers)));
    Words {
        title: title(
            &format!("{} answers {} slowly", culprit(finding), who_asks(finding)),
            [finding.number("median").map(span), answers],
        ),
        cause: match finding.subject.process {
            Some(_) => "It is overloaded, or waits for servers of its own.",
            None => "The server is overloaded or far away, or it waits for other servers.",
        }
        .to_owned(),
        impact: "Whoever needs the address of a name waits that long before it even connects.".to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns_server::testing::{judged, server};
    use super::super::testing::title_of;
    use super::*;

    fn slow(address: &str, ms: u64, answers: u64) -> DnsServer {
        let mut server = DnsServer { answers, ..server(address) };
        (0..answers).for_each(|_| server.latency_ns.record(ms * 1_000_000));
        server
    }

    #[test]
    fn a_server_that_is_slow_for_half_of_the_answers_is_told() {
        let findings = judged(&DnsSlow::RULE, vec![slow("10.0.0.2", 400, 10)], vec![]);
        let [finding] = &findings[..] else { panic!("{findings:#?}") };
        assert!(
            title_of(finding).starts_with("the DNS server 10.0.0.2:53 answers curl (12) slowly: 4"),
            "{}",
            title_of(finding)
        );
        assert!(judged(&DnsSlow::RULE, vec![slow("10.0.0.2", 400, 9)], vec![]).is_empty(), "few answers");
        assert!(judged(&DnsSlow::RULE, vec![slow("10.0.0.2", 200, 100)], vec![]).is_empty(), "fast");
        let mut mostly_fast = slow("10.0.0.2", 5, 100);
        (0..40).for_each(|_| mostly_fast.latency_ns.record(3_000_000_000));
        assert!(judged(&DnsSlow::RULE, vec![mostly_fast], vec![]).is_empty(), "some names");
    }

    #[test]
    fn the_server_that_a_local_one_waits_for_is_the_culprit() {
        let local = DnsServer { server_pid: 77, server_comm: "dnsmasq".into(), ..slow("127.0.0.1", 500, 50) };
        let beyond = DnsServer { pid: 77, comm: "dnsmasq".into(), ..slow("10.0.0.2", 490, 50) };
        let findings = judged(&DnsSlow::RULE, vec![local.clone(), DnsServer { answers: 3, ..beyond }], vec![]);
        let titles: Vec<_> = findings.iter().map(title_of).collect();
        assert!(
            titles.len() == 1 && titles[0].starts_with("the DNS server 10.0.0.2:53 answers dnsmasq (77) slowly"),
            "{titles:?}"
        );
        let alone = judged(&DnsSlow::RULE, vec![local], vec![]);
        assert_eq!(alone[0].subject.pid(), Some(77));
        assert!(title_of(&alone[0]).starts_with("dnsmasq (77), the DNS server 127.0.0.1:53, answers curl (12) slowly"));
    }
}
