//! Programs that ask again and again for names that do not exist.

use kerno_model::amount::number;
use kerno_model::{DnsNameUse, Finding, Severity, Unit, Window};

use super::dns_search_list::{by_program, suffix_of};
use super::dns_server::{asker, starts_anew};
use super::{since, who, worst};
use crate::title::title;
use crate::{Words, rule};

rule! {
    /// Programs that ask again and again for names that do not exist.
    DnsMissingName = "dns_missing_name", "dns_query", "a program asks again and again for a name that does not exist",
        "Counts the answers that there is no such name (NXDOMAIN), by program and name. Only names count that are asked for again and again, and \
        never found: mail servers ask block lists about each sender, for whom not to be there is good, and each name is another. What a \
        search list adds is told by dns_search_list.",
        judge, words;
    causes: [];
    suffers: [];
    thresholds: {
        per_second: 10.0 PerSecond, 0.1 ..= 1e6, "such answers per second";
        answers: 60.0 Count, 1.0 ..= 1e9, "number of such answers";
        same_name: 20.0 Count, 2.0 ..= 1e6, "number of such answers about one name for it to count";
    }
    evidence: {
        per_second: "answers that there is no such name, per second";
        answers: "such answers";
        names: "names that were asked for again and again";
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
fn judge(window: &Window, rule: &DnsMissingName) -> Vec<Finding> {
    let Some(dns) = &window.dns_query else { return Vec::new() };
    let mut findings = Vec::new();
    for names in by_program(dns).values() {
        let counts = |name: &&&DnsNameUse| {
            name.found == 0 && name.missing as f64 >= rule.same_name && suffix_of(name, names).is_none()
        };
        let missing: Vec<&DnsNameUse> = names.iter().filter(counts).copied().collect();
        let answers: u64 = missing.iter().map(|name| name.missing).sum();
        let per_second = answers as f64 / window.seconds();
        let Some(most) = missing.iter().max_by_key(|name| name.missing) else { continue };
        if (answers as f64) < rule.answers || per_second < rule.per_second {
            continue;
        }
        let mut finding = DnsMissingName::finding(Severity::Warning)
            .about(asker(window, most))
            .detail("name", most.name.as_str())
            .measured("per_second", per_second, Unit::PerSecond, Some(rule.per_second))
            .measured("answers", answers as f64, Unit::Count, Some(rule.answers))
            .measured("names", missing.len() as f64, Unit::Count, None)
            .look(
                format!("cat /proc/{}/root/etc/resolv.conf", most.pid),
                "which servers are asked, and the search list",
            )
            .look(format!("kerno trace dns --comm {}", quoted(&most.comm)), "shows each query and what came of it");
        if starts_anew(most) {
            finding = finding.detail("program", most.comm.as_str());
        }
        finding.excess = per_second / rule.per_second;
        finding.since = since(window, most.first_ns);
        findings.push(finding);
    }
    worst(findings)
}

/// As a shell takes it.
fn quoted(comm: &str) -> String {
    let plain = comm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte));
    if plain && !comm.is_empty() { comm.to_owned() } else { format!("'{}'", comm.replace('\'', r"'\''")) }
}

fn words(finding: &Finding) -> Words {
    let name = finding.text("name").unwrap_or("a name");
    let rate = finding.number("per_second").map(|rate| format!("{} queries per second", number(rate)));
    let more =
        finding.number("names").filter(|names| *names > 1.0).map(|names| format!(" and {} more", number(names - 1.0)));
    let by = finding.text("program").map(|program| format!(" by {program}")).unwrap_or_default();
    let names = format!("{name}{}", more.unwrap_or_default());
    Words {
        title: title(&format!("{} asks{by} again and again for {names}, which does not exist", who(finding)), [rate]),
        cause: "The name is misspelt or has been removed, or the suffixes that would make it whole are not in /etc/resolv.conf. The program asks \
                again as soon as it has the answer."
            .to_owned(),
        impact: "It does not find whom it wants to connect to, and the DNS server is kept busy.".to_owned(),
        ..Words::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dns_server::testing::{judged, name};
    use super::super::testing::title_of;
    use super::*;

    fn missing(label: &str, missing: u64) -> DnsNameUse {
        DnsNameUse { queries: missing, missing, ..name(label, "app", 12) }
    }

    #[test]
    fn a_name_that_does_not_exist_and_is_asked_for_again_and_again_is_told() {
        let findings = judged(&DnsMissingName::RULE, vec![], vec![missing("db.old.test", 110)]);
        let title = "app (12) asks again and again for db.old.test, which does not exist: 11 queries per second";
        assert_eq!(findings.iter().map(title_of).collect::<Vec<_>>(), [title]);
        let two = judged(&DnsMissingName::RULE, vec![], vec![missing("a.test", 60), missing("b.test", 61)]);
        assert!(title_of(&two[0]).contains("for b.test and 1 more, which"), "{}", title_of(&two[0]));
        assert!(judged(&DnsMissingName::RULE, vec![], vec![missing("db.old.test", 99)]).is_empty(), "few");
    }

    #[test]
    fn names_that_differ_each_time_or_are_found_are_silent() {
        let block_list = (0..128).map(|i| missing(&format!("{i}.0.0.127.dnsbl.test"), 4)).collect();
        assert!(judged(&DnsMissingName::RULE, vec![], block_list).is_empty());
        // It has an address of one kind only, or is found now.
        let found = DnsNameUse { found: 1, ..missing("www.test", 500) };
        assert!(judged(&DnsMissingName::RULE, vec![], vec![found]).is_empty());
        let searched = vec![
            missing("www.test.corp.test", 500),
            DnsNameUse { queries: 500, found: 500, ..name("www.test", "app", 12) },
        ];
        assert!(judged(&DnsMissingName::RULE, vec![], searched).is_empty());
    }

    #[test]
    fn commands_are_safe_whatever_a_program_is_called() {
        assert_eq!((quoted("curl"), quoted("a'b c")), ("curl".to_owned(), r"'a'\''b c'".to_owned()));
    }
}
