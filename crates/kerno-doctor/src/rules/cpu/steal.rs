use crate::{Finding, Severity, Unit, rule};
use kerno_model::Window;
use kerno_model::amount;

rule! {
    /// The hypervisor runs others on our CPUs.
    CpuSteal = "cpu_steal", "sched_delay", "the hypervisor takes CPU time",
    "Steal is time in which a virtual CPU had something to run and the hypervisor ran others on the real one. Nothing inside the \
     machine can change it, and every other latency is longer by it. The mean of all CPUs is judged.", judge;
    warning_share: 0.1 Ratio, 0.001 ..= 1.0, "share of the window's CPU time taken, from where on it is found";
    critical_share: 0.3 Ratio, 0.001 ..= 1.0, "share from where on it is critical";
}

fn judge(window: &Window, rule: &CpuSteal) -> Vec<Finding> {
    let Some(sched) = window.sched_delay.as_ref().filter(|sched| !sched.cpus.is_empty()) else { return Vec::new() };
    #[allow(clippy::cast_precision_loss, reason = "a number of CPUs")]
    let mean =
        |pick: fn(&kerno_model::CpuStat) -> f64| sched.cpus.iter().map(pick).sum::<f64>() / sched.cpus.len() as f64;
    let steal = mean(|cpu| cpu.steal);
    if steal < rule.warning_share {
        return Vec::new();
    }
    let severity = if steal >= rule.critical_share { Severity::Critical } else { Severity::Warning };
    let title = format!("the hypervisor takes {} of this machine's CPU time for others", amount::share(steal));
    let mut finding = CpuSteal::finding(severity, title)
        .measured("CPU time stolen, mean of all CPUs", steal, Unit::Ratio, Some(rule.warning_share))
        .measured("CPU time used by tasks, mean of all CPUs", mean(|cpu| cpu.busy), Unit::Ratio, None)
        .look("mpstat -P ALL 1 5", "shows steal (%steal) for each CPU as it changes")
        .look("grep ^cpu /proc/stat", "the kernel's own counts; steal is the eighth number, in hundredths of a second");
    if let Some(worst) = sched.cpus.iter().max_by(|a, b| a.steal.total_cmp(&b.steal)) {
        finding = finding.measured(
            format!("CPU time stolen from CPU {}, the worst", worst.cpu),
            worst.steal,
            Unit::Ratio,
            None,
        );
    }
    finding.cause = "The real CPUs are shared with other virtual machines, or this one has used up its share (a burstable instance \
                     without credits, a CPU limit set on the host)."
        .into();
    finding.impact =
        "Everything that runs here takes longer, at random; waits inside this machine look longer than they are."
            .into();
    finding.excess = steal / rule.warning_share;
    finding.confidence = 0.95;
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Thresholds;
    use kerno_model::{CpuStat, SchedSummary};

    fn stolen(shares: &[f64]) -> Vec<Finding> {
        let cpus = (0..).zip(shares).map(|(cpu, steal)| CpuStat { cpu, steal: *steal, ..CpuStat::default() }).collect();
        let sched_delay = Some(SchedSummary { cpus, ..SchedSummary::default() });
        judge(&Window { sched_delay, ..Window::default() }, &CpuSteal::with(&Thresholds::default()))
    }

    #[test]
    fn the_mean_of_all_cpus_decides() {
        assert!(stolen(&[]).is_empty() && stolen(&[0.15, 0.0]).is_empty());
        let found = stolen(&[0.15, 0.05]);
        assert_eq!((found.len(), found[0].severity), (1, Severity::Warning));
        assert!(found[0].title.contains("10 %") && (found[0].excess - 1.0).abs() < 1e-9);
        assert_eq!(stolen(&[0.5, 0.2])[0].severity, Severity::Critical);
    }
}
