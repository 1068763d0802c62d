use kerno_model::amount::share;
use kerno_model::{CpuStat, Fact, Finding, Scope, Severity, Unit, Window};

use crate::title::title;
use crate::{Words, rule};

rule! {
    /// The hypervisor runs other virtual machines on the real CPUs.
    CpuSteal = "cpu_steal", "sched_delay", "the hypervisor takes CPU time",
        "Steal is time in which a virtual CPU had something to run while the hypervisor ran something else on the real CPU. Nothing \
         inside the virtual machine can change that, and it adds to every other latency. Judges the mean of all CPUs.",
        judge, words;
    causes: [CpusStolen];
    suffers: [];
    thresholds: {
        warning_share: 0.1 Ratio, 0.001 ..= 1.0, "stolen share of the CPU time of the window that counts as a problem";
        critical_share: 0.3 Ratio, 0.001 ..= 1.0, "stolen share that is critical";
    }
    evidence: {
        stolen: "CPU time stolen, mean of all CPUs";
        busy: "CPU time used by tasks, mean of all CPUs";
        worst_stolen: "CPU time stolen from CPU {}, the worst";
    }
}

fn judge(window: &Window, rule: &CpuSteal) -> Vec<Finding> {
    let Some(sched) = window.sched_delay.as_ref().filter(|sched| !sched.cpus.is_empty()) else { return Vec::new() };
    #[allow(clippy::cast_precision_loss, reason = "a number of CPUs")]
    let mean = |pick: fn(&CpuStat) -> f64| sched.cpus.iter().map(pick).sum::<f64>() / sched.cpus.len() as f64;
    let stolen = mean(|cpu| cpu.steal);
    if stolen < rule.warning_share {
        return Vec::new();
    }
    let severity = if stolen >= rule.critical_share { Severity::Critical } else { Severity::Warning };
    let mut finding = CpuSteal::finding(severity)
        .fact(Fact::Scope(Scope::Machine))
        .measured("stolen", stolen, Unit::Ratio, Some(rule.warning_share))
        .measured("busy", mean(|cpu| cpu.busy), Unit::Ratio, None)
        .look("mpstat -P ALL 1 5", "shows steal (%steal) of each CPU over time")
        .look(
            "grep ^cpu /proc/stat",
            "shows the counters of the kernel; steal is the eighth, in hundredths of a second",
        );
    if let Some(worst) = sched.cpus.iter().max_by(|a, b| a.steal.total_cmp(&b.steal)) {
        finding = finding.measured_of("worst_stolen", worst.cpu.to_string(), worst.steal, Unit::Ratio, None);
    }
    finding.excess = stolen / rule.warning_share;
    finding.confidence = 0.95;
    vec![finding]
}

fn words(finding: &Finding) -> Words {
    let stolen = finding.number("stolen").map(|stolen| format!("{} stolen", share(stolen)));
    Words {
        title: title("the hypervisor takes CPU time from this machine", [stolen]),
        cause: "Other virtual machines share the real CPUs, or this one has used up what it may use (a burstable instance without \
                credits, a CPU limit set on the host)."
            .to_owned(),
        impact: "Everything here takes longer, at random times. Waits inside the machine look longer than they are.".to_owned(),
        outlook: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use crate::rules::testing::words_hold;
    use kerno_model::SchedSummary;
    use kerno_model::fill;

    fn stolen(shares: &[f64]) -> Vec<Finding> {
        let cpus = (0..).zip(shares).map(|(cpu, steal)| CpuStat { cpu, steal: *steal, ..CpuStat::default() }).collect();
        let sched_delay = Some(SchedSummary { cpus, ..SchedSummary::default() });
        judge(&fill!(Window { sched_delay }), &CpuSteal::with(&Thresholds::default()))
    }

    #[test]
    fn the_mean_of_all_cpus_decides() {
        assert!(stolen(&[]).is_empty() && stolen(&[0.15, 0.0]).is_empty());
        let found = stolen(&[0.15, 0.05]);
        assert_eq!((found.len(), found[0].severity), (1, Severity::Warning));
        assert_eq!(crate::words(&found[0]).title, "the hypervisor takes CPU time from this machine: 10 % stolen");
        assert!((found[0].excess - 1.0).abs() < 1e-9);
        assert_eq!(CpuSteal::RULE.label(&found[0].evidence[2]), "CPU time stolen from CPU 0, the worst");
        assert_eq!(stolen(&[0.5, 0.2])[0].severity, Severity::Critical);
    }

    #[test]
    fn words_are_made_of_the_finding_alone() {
        words_hold(&stolen(&[0.15, 0.05])[0]);
    }
}
