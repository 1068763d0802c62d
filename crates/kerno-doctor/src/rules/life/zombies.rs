//! Children that ended and that nobody waits for.

use kerno_model::amount::{number, span};
use kerno_model::{Effect, Finding, Severity, Subject, Unit, Window, ZombieParent};

use super::float;
use crate::shell::{is_service, word};
use crate::title::title;
use crate::{Words, rule, suffers};

rule! {
    /// Zombies.
    Zombies = "zombies", "process_life", "a process does not wait for its children that ended",
        "Counts the processes that have ended and whose parent has not waited for them for a second or longer (state Z), by parent. They \
        use no memory and no CPU, but each keeps its process id, and counts in the limits of the user and the cgroup. Process 1 of a \
        container is given all orphans there, and many programs that run as it do not wait for them.",
        judge, words;
    causes: [];
    suffers: [
        suffers(Effect::LimitReached, |ties, a, b| ties.same_process(a, b), "they are what fills the limit"),
    ];
    thresholds: {
        zombies: 20.0 Count, 1.0 ..= 1e6, "zombies of one parent";
        seconds: 2.0 Seconds, 1.0 ..= 3600.0, "how long the oldest must have been there";
        critical_zombies: 5000.0 Count, 10.0 ..= 1e7, "zombies of one parent that are critical";
    }
    evidence: {
        zombies: "zombies";
        more: "zombies more than at the begin";
        oldest: "the oldest has been there for";
    }
}

fn judge(window: &Window, rule: &Zombies) -> Vec<Finding> {
    let Some(part) = &window.process_life else { return Vec::new() };
    let bad =
        |parent: &&ZombieParent| float(parent.zombies) >= rule.zombies && float(parent.oldest_ns) / 1e9 >= rule.seconds;
    part.zombies.iter().filter(bad).take(5).map(|parent| finding(window, rule, parent)).collect()
}

fn finding(window: &Window, rule: &Zombies, parent: &ZombieParent) -> Finding {
    let many = float(parent.zombies);
    let more = many - float(parent.at_begin);
    let mut finding =
        Zombies::finding(if many >= rule.critical_zombies { Severity::Critical } else { Severity::Warning })
            .variant(if parent.namespace_init { "namespace_init" } else { "" })
            .about(Subject::process(window, parent.pid, &parent.comm))
            .measured("zombies", many, Unit::Count, Some(rule.zombies))
            .measured("oldest", float(parent.oldest_ns) / 1e9, Unit::Seconds, Some(rule.seconds));
    if more > 0.0 {
        finding = finding.measured("more", more, Unit::Count, None);
    }
    if !parent.of.is_empty() {
        finding = finding.detail("of", parent.of.clone());
    }
    finding.excess = many / rule.zombies;
    finding.confidence = 0.97;
    let pid = parent.pid;
    finding = finding
        .look_at_process(
            format!("ps -o pid,stat,etime,comm --ppid {pid} | head"),
            "shows the first of them, and since when they are there",
        )
        .look_at_process(
            format!("timeout 5 strace -f -e trace=wait4,waitid -p {pid}"),
            "shows whether it waits for any children",
        );
    match finding.subject.unit.clone().filter(|unit| is_service(unit)) {
        Some(unit) => finding.change(
            format!("systemctl restart {}", word(&unit)),
            "removes them: when their parent ends, process 1 waits for them",
        ),
        None if pid > 1 && !parent.namespace_init => finding.change_process(
            format!("kill -CHLD {pid}"),
            "asks it to look for children that ended; many programs then do",
        ),
        None => finding,
    }
}

fn words(finding: &Finding) -> Words {
    let who = finding.subject.label().unwrap_or_else(|| "a process".to_owned());
    let count = finding.number("zombies").map(|count| format!("{} zombies", number(count)));
    let more = finding.number("more").map(|more| format!("{} more than before", number(more)));
    let of = finding.text("of").map_or_else(String::new, |of| format!(" Most of them were {of}."));
    let since = finding.number("oldest").map_or_else(String::new, |oldest| format!(" for {} or longer", span(oldest)));
    let cause = if finding.variant == "namespace_init" {
        format!(
            "It is process 1 of its container, which is given all orphans there, and it has not waited for children that ended{since}. An \
             init such as tini does (docker run --init).{of}"
        )
    } else {
        format!(
            "It has not waited for children that ended{since}.{of} Only it can remove them, or process 1 once it has ended."
        )
    };
    Words {
        title: title(&format!("{who} does not wait for its children that ended"), [count, more]),
        cause,
        impact: "Each keeps a process id, and counts in the limits of processes.".into(),
        outlook: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use kerno_model::{LifeSummary, fill};

    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;

    fn found(parent: ZombieParent) -> Vec<Finding> {
        let part = LifeSummary { zombies: vec![parent], ..LifeSummary::default() };
        let findings = judge(&fill!(Window { process_life: Some(part) }), &Zombies::with(&Thresholds::default()));
        findings.iter().for_each(words_hold);
        findings
    }

    fn parent(zombies: u64, at_begin: u64, seconds: u64) -> ZombieParent {
        let (pid, comm, of) = (12, "careless".into(), "worker".into());
        ZombieParent { pid, comm, zombies, at_begin, oldest_ns: seconds * 1_000_000_000, of, namespace_init: false }
    }

    #[test]
    fn a_parent_that_does_not_wait_is_named() {
        let findings = found(parent(37, 30, 5));
        let words = crate::words(&findings[0]);
        assert_eq!(
            words.title,
            "careless (12) does not wait for its children that ended: 37 zombies, 7 more than before"
        );
        assert!(words.cause.contains("Most of them were worker."));
        assert!(findings[0].fixes.iter().any(|fix| fix.command == "kill -CHLD 12"));
        assert!(found(parent(19, 0, 5)).is_empty() && found(parent(100, 0, 1)).is_empty());
    }

    #[test]
    fn process_1_of_a_container_is_told_what_it_lacks() {
        let findings = found(ZombieParent { namespace_init: true, ..parent(100, 100, 50) });
        assert_eq!(findings[0].variant, "namespace_init");
        assert!(crate::words(&findings[0]).cause.contains("docker run --init"));
        assert!(!findings[0].fixes.iter().any(|fix| fix.command.starts_with("kill")));
    }
}
