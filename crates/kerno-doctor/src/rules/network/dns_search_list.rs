//! Names that are first asked for with each suffix of a search list.

use std::collections::BTreeMap;

use kerno_model::amount::number;
use kerno_model::{DnsNameUse, DnsSummary, Finding, Severity, Unit, Window};

use super::dns_server::{asker, starts_anew};
use super::{Namespace, since, who, worst};
use crate::title::title;
use crate::{Words, rule};

rule! {
    /// Names that are asked for with each suffix of a search list.
    DnsSearchList = "dns_search_list", "dns_query", "a program asks for names that do not exist because of a search list",
        "Looks for names that exist, and that the same program also asked for with something behind them, which does not exist. So a \
        resolver does that has a search list and ndots in /etc/resolv.conf: a name with fewer dots is asked for with each suffix first, and \
        each time for two kinds of addresses. Usual in Kubernetes, where ndots is 5. Each look-up waits for all of these answers.",
        judge, words;
    causes: [];
    suffers: [];
    thresholds: {
        per_second: 5.0 PerSecond, 0.1 ..= 1e6, "queries for names with a suffix that do not exist, per second";
        per_query: 1.5 Ratio, 0.5 ..= 100.0, "such queries for each query for the name that exists";
        warning_per_second: 50.0 PerSecond, 0.1 ..= 1e6, "such queries per second for more than information";
    }
    evidence: {
        per_second: "queries for names with a suffix that do not exist, per second";
        per_query: "such queries for each query for the name itself";
        suffixes: "suffixes that were tried";
    }
}

/// What one program asks, in one network namespace.
pub(super) type OfProgram<'a> = BTreeMap<(&'a str, u32), Vec<&'a DnsNameUse>>;

pub(super) fn by_program(dns: &DnsSummary) -> OfProgram<'_> {
    let mut programs = OfProgram::new();
    for name in &dns.names {
        programs.entry((&name.comm, name.net_namespace)).or_default().push(name);
    }
    programs
}

/// The suffix by which this name is another one that exists.
pub(super) fn suffix_of<'a>(name: &'a DnsNameUse, others: &[&DnsNameUse]) -> Option<(usize, &'a str)> {
    if name.missing == 0 || name.found > 0 {
        return None;
    }
    others.iter().enumerate().filter(|(_, other)| other.found > 0 && other.name != ".").find_map(|(i, other)| {
        let suffix = name.name.strip_prefix(&other.name)?.strip_prefix('.')?;
        (!suffix.is_empty()).then_some((i, suffix))
    })
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn judge(window: &Window, rule: &DnsSearchList) -> Vec<Finding> {
    let Some(dns) = &window.dns_query else { return Vec::new() };
    let mut findings = Vec::new();
    for names in by_program(dns).values() {
        let mut in_vain = 0u64;
        let mut by_base: BTreeMap<usize, u64> = BTreeMap::new();
        let mut by_suffix: BTreeMap<&str, u64> = BTreeMap::new();
        for name in names {
            if let Some((base, suffix)) = suffix_of(name, names) {
                in_vain += name.missing;
                *by_base.entry(base).or_default() += name.missing;
                *by_suffix.entry(suffix).or_default() += name.missing;
            }
        }
        let queries: u64 = by_base.keys().filter_map(|base| names.get(*base)).map(|name| name.queries).sum();
        let (per_second, per_query) = (in_vain as f64 / window.seconds(), in_vain as f64 / queries.max(1) as f64);
        if per_second < rule.per_second || per_query < rule.per_query {
            continue;
        }
        let most = by_base.iter().max_by_key(|(_, count)| **count).and_then(|(base, _)| names.get(*base));
        let suffix = by_suffix.iter().max_by_key(|(_, count)| **count).map(|(suffix, _)| *suffix);
        let (Some(name), Some(suffix)) = (most, suffix) else { continue };
        let severity = if per_second >= rule.warning_per_second { Severity::Warning } else { Severity::Info };
        let mut finding = DnsSearchList::finding(severity)
            .about(asker(window, name))
            .detail("name", name.name.as_str())
            .detail("suffix", suffix)
            .measured("per_second", per_second, Unit::PerSecond, Some(rule.per_second))
            .measured("per_query", per_query, Unit::Ratio, Some(rule.per_query))
            .measured("suffixes", by_suffix.len() as f64, Unit::Count, None)
            .look(
                format!("cat /proc/{}/root/etc/resolv.conf", name.pid),
                "its search list, and ndots among the options",
            );
        finding = Namespace::of(window, name.pid).look(
            finding,
            [(
                format!("tcpdump -ni any -c 20 port 53 and host {}", server(name)),
                "shows the queries as they are sent",
            )],
        );
        if starts_anew(name) {
            finding = finding.detail("program", name.comm.as_str());
        }
        finding.excess = per_second / rule.per_second;
        finding.since = since(window, name.first_ns);
        findings.push(finding);
    }
    worst(findings)
}

fn server(name: &DnsNameUse) -> String {
    name.server.map_or_else(|| "127.0.0.1".to_owned(), |server| server.ip.to_string())
}

fn words(finding: &Finding) -> Words {
    let name = finding.text("name").unwrap_or("a name");
    let suffix = finding.text("suffix").unwrap_or("");
    let per_second = finding.number("per_second").map(|rate| format!("{} queries in vain per second", number(rate)));
    let per_query = finding.number("per_query").map_or_else(String::new, number);
    let by = finding.text("program").map(|program| format!(" by {program}")).unwrap_or_default();
    Words {
        title: title(
            &format!("{} asks{by} for {name}.{suffix} and the like before {name}", who(finding)),
            [per_second],
        ),
        cause: format!(
            "The resolver tries each suffix of its search list first, because the name has fewer dots than ndots in /etc/resolv.conf: \
             {per_query} queries in vain for each that is answered. A dot at the end of the name, or ndots:1, prevents it."
        ),
        impact: "Each look-up waits for these answers, and the DNS server has that much more to do.".to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns_server::testing::{judged, name};
    use super::super::testing::title_of;
    use super::*;

    fn asked(base: &str, lookups: u64, suffixes: &[&str]) -> Vec<DnsNameUse> {
        let of_suffix = |suffix: &&str| DnsNameUse {
            queries: lookups,
            missing: lookups,
            ..name(&format!("{base}.{suffix}"), "curl", 12)
        };
        let found = DnsNameUse { queries: lookups, found: lookups / 2, ..name(base, "curl", 12) };
        suffixes.iter().map(of_suffix).chain([found]).collect()
    }

    #[test]
    fn a_name_that_is_asked_for_with_each_suffix_first_is_told() {
        let names = asked("api.example.org", 400, &["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        let findings = judged(&DnsSearchList::RULE, vec![], names);
        let title = "curl (12) asks for api.example.org.svc.cluster.local and the like before api.example.org: 120 queries in vain per second";
        assert_eq!(findings.iter().map(title_of).collect::<Vec<_>>(), [title]);
        assert_eq!(findings[0].severity, Severity::Warning);
        let few = judged(&DnsSearchList::RULE, vec![], asked("api.example.org", 40, &["a.test", "b.test"]));
        assert_eq!(few[0].severity, Severity::Info);
    }

    #[test]
    fn other_names_that_do_not_exist_are_not_its_business() {
        assert!(judged(&DnsSearchList::RULE, vec![], asked("api.example.org", 20, &["a.test"])).is_empty(), "few");
        assert!(
            judged(&DnsSearchList::RULE, vec![], asked("api.example.org", 90, &["a.test"])).is_empty(),
            "one suffix"
        );
        let mut apart = asked("api.example.org", 400, &["a.test", "b.test"]);
        apart.iter_mut().filter(|name| name.found > 0).for_each(|name| name.comm = "wget".into());
        assert!(judged(&DnsSearchList::RULE, vec![], apart).is_empty(), "of another program");
        let mut none = asked("api.example.org", 400, &["a.test", "b.test"]);
        none.iter_mut().for_each(|name| name.found = 0);
        assert!(judged(&DnsSearchList::RULE, vec![], none).is_empty(), "no name exists");
    }
}
