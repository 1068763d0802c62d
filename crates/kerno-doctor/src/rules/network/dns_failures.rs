//! DNS servers that answer with errors, or where nobody listens.

use kerno_model::amount::number;
use kerno_model::{DnsServer, DnsSummary, Finding, Severity, Unit, Window};

use super::dns_server::{FEW, about, askers, culprit, culprits, who_asks};
use super::worst;
use crate::title::title;
use crate::{Words, rule};

rule! {
    /// DNS servers that answer with errors.
    DnsFailures = "dns_failures", "dns_query", "a DNS server answers with errors",
        "Counts the answers that say that the server could not find out (SERVFAIL) or does not want to (REFUSED), and queries to an address \
        where nobody listens. That there is no such name (NXDOMAIN) is a good answer and does not count. Half of all queries must \
        fail: some domains are always broken. If nearly all are about one name, that is told. Where a server of this machine \
        passes on the errors of another one, it is that one.",
        judge, words;
    causes: [];
    suffers: [];
    thresholds: {
        failures: 20.0 Count, 1.0 ..= 1e6, "number of queries that fail";
        share: 0.5 Ratio, 0.01 ..= 1.0, "share of the queries that fail";
    }
    evidence: {
        failures: "queries that failed";
        share: "share of all queries to this server";
    }
}

/// Where so many of the failures that are known by name are about one name, it is about that one.
const ONE_NAME: f64 = 0.8;

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn judge(window: &Window, rule: &DnsFailures) -> Vec<Finding> {
    let Some(dns) = &window.dns_query else { return Vec::new() };
    let failures =
        |server: &DnsServer| (server.failures() - harmless(dns, server)).saturating_add(server.failed) as f64;
    let share = |server: &DnsServer| failures(server) / (server.answers.saturating_add(server.failed).max(1)) as f64;
    let fails = |server: &&DnsServer| failures(server) >= FEW as f64 && share(server) >= rule.share;
    let also: Vec<&DnsServer> = dns.servers.iter().filter(fails).collect();
    let failing: Vec<&DnsServer> = also.iter().filter(|server| failures(server) >= rule.failures).copied().collect();
    let findings = culprits(&failing, &also).into_iter().map(|server| {
        let kinds = [
            (server.servfail, "SERVFAIL"),
            (server.refused, "REFUSED"),
            (server.failed, NOBODY),
            (server.other_errors, "other errors"),
        ];
        let kind = kinds.iter().max_by_key(|(count, _)| *count).map_or("errors", |(_, kind)| kind);
        let mut finding = about(window, DnsFailures::finding(Severity::Warning), server)
            .detail("kind", kind)
            .measured("failures", failures(server), Unit::Count, Some(rule.failures))
            .measured("share", share(server), Unit::Ratio, Some(rule.share));
        if let Some(name) = one_name(dns, server) {
            finding = finding.detail("name", name);
        }
        finding.victims = askers(window, dns, server, |name| name.errors.saturating_add(name.unanswered));
        finding.excess = failures(server) / rule.failures;
        finding
    });
    worst(findings.collect())
}

/// Errors about names that were found all the same: of a dnsmasq that knows an address of one kind, the other kind is refused.
fn harmless(dns: &DnsSummary, server: &DnsServer) -> u64 {
    let asked =
        dns.names.iter().filter(|name| name.server == server.server && name.net_namespace == server.net_namespace);
    asked.filter(|name| name.found > 0).map(|name| name.errors).sum::<u64>().min(server.failures())
}

const NOBODY: &str = "nobody listens there";

/// The one name that the failures are about.
#[allow(clippy::cast_precision_loss, reason = "counts")]
fn one_name<'a>(dns: &'a DnsSummary, server: &DnsServer) -> Option<&'a str> {
    let asked =
        dns.names.iter().filter(|name| name.server == server.server && name.net_namespace == server.net_namespace);
    let mut by_name = std::collections::BTreeMap::<&str, u64>::new();
    asked.for_each(|name| *by_name.entry(&name.name).or_default() += name.errors);
    let all: u64 = by_name.values().sum();
    let (name, most) = by_name.into_iter().max_by_key(|(_, errors)| *errors)?;
    (all > 0 && most as f64 >= ONE_NAME * all as f64).then_some(name)
}

fn words(finding: &Finding) -> Words {
    let kind = finding.text("kind").unwrap_or("errors");
    let failures = finding.number("failures").map(|failures| format!("{} queries", number(failures)));
    let about = finding.text("name").map(|name| format!(" about {name}")).unwrap_or_default();
    let cause = match kind {
        NOBODY => {
            "No process takes queries at that address: the server is not running, or /etc/resolv.conf names another machine."
        }
        "REFUSED" => "The server does not answer queries of this machine, or none about these names.",
        _ if !about.is_empty() => {
            "The server cannot find out: the servers of that domain are broken, or their signatures are."
        }
        _ => {
            "The server cannot find out: the servers that it asks itself do not answer or are broken, or it does not trust their signatures."
        }
    };
    let what = if kind == NOBODY { "is asked in vain by" } else { "answers with errors to" };
    Words {
        title: title(
            &format!("{} {what} {}{about}", culprit(finding), who_asks(finding)),
            [failures, Some(kind.to_owned())],
        ),
        cause: cause.to_owned(),
        impact: "Programs cannot find the address of who they want to connect to, and usually ask again.".to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns_server::testing::{judged, name, server};
    use super::super::testing::title_of;
    use super::*;
    use kerno_model::DnsNameUse;

    #[test]
    fn a_server_that_fails_half_of_the_queries_is_told() {
        let failing = |servfail: u64, answers: u64| DnsServer { servfail, answers, ..server("10.0.0.2") };
        let names = |count: u64| {
            (0..count).map(|i| DnsNameUse { queries: 5, errors: 5, ..name(&format!("a{i}.test"), "curl", 12) })
        };
        let findings = judged(&DnsFailures::RULE, vec![failing(20, 40)], names(4).collect());
        let title = "the DNS server 10.0.0.2:53 answers with errors to curl (12): 20 queries, SERVFAIL";
        assert_eq!(findings.iter().map(title_of).collect::<Vec<_>>(), [title]);
        assert!(judged(&DnsFailures::RULE, vec![failing(19, 19)], vec![]).is_empty(), "few");
        assert!(judged(&DnsFailures::RULE, vec![failing(20, 41)], vec![]).is_empty(), "a broken domain");
        let one = judged(&DnsFailures::RULE, vec![failing(20, 40)], names(1).collect());
        assert!(title_of(&one[0]).contains("to curl (12) about a0.test:"), "{}", title_of(&one[0]));
    }

    #[test]
    fn names_that_do_not_exist_are_no_failures() {
        assert!(
            judged(&DnsFailures::RULE, vec![DnsServer { missing: 900, answers: 900, ..server("10.0.0.2") }], vec![])
                .is_empty()
        );
    }

    #[test]
    fn errors_about_names_that_are_found_are_no_failures() {
        let server = DnsServer { refused: 100, answers: 200, ..server("10.0.0.2") };
        let found = DnsNameUse { queries: 200, found: 100, errors: 100, ..name("db.test", "curl", 12) };
        assert!(judged(&DnsFailures::RULE, vec![server], vec![found]).is_empty());
    }

    #[test]
    fn an_address_where_nobody_listens_is_told() {
        let findings = judged(&DnsFailures::RULE, vec![DnsServer { failed: 30, ..server("10.0.0.2") }], vec![]);
        let title = "the DNS server 10.0.0.2:53 is asked in vain by curl (12): 30 queries, nobody listens there";
        assert_eq!(title_of(&findings[0]), title);
    }

    #[test]
    fn who_passes_errors_on_is_not_the_culprit() {
        let local = DnsServer {
            servfail: 50,
            answers: 50,
            server_pid: 77,
            server_comm: "dnsmasq".into(),
            ..server("127.0.0.1")
        };
        let beyond = DnsServer { servfail: 50, answers: 50, pid: 77, comm: "dnsmasq".into(), ..server("10.0.0.2") };
        let findings = judged(&DnsFailures::RULE, vec![local, beyond], vec![]);
        assert_eq!(findings.len(), 1);
        assert!(title_of(&findings[0]).starts_with("the DNS server 10.0.0.2:53 answers with errors to dnsmasq (77)"));
    }
}
