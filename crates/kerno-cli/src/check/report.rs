use std::fmt::Write as _;

use super::facts::{Facts, SignalFact};
use crate::error::one_line;
use crate::output::Style;

/// The facts for people: the machine, the signals, and what to do.
pub(super) fn text(facts: &Facts, style: Style) -> String {
    let mut text = String::new();
    let (good, bad) = (Mark(style, true), Mark(style, false));
    let mut row = |name: &str, mark: Option<&Mark>, value: &str| {
        let (on, off) = mark.map_or(("", ""), Mark::colours);
        let _ = writeln!(text, "{name:<14} {on}{}{off}", one_line(value));
    };
    let mark = |fine: bool| Some(if fine { &good } else { &bad });

    row("kernel", None, &format!("{} {}", facts.kernel, facts.machine));
    row("BTF", mark(facts.btf), facts.btf_error.as_deref().unwrap_or("yes"));
    match facts.lockdown.as_deref() {
        // The kernel then refuses programs that read its memory.
        Some("confidentiality") => row("lockdown", Some(&bad), "confidentiality: the kernel refuses tracing programs"),
        Some(mode) => row("lockdown", Some(&good), mode),
        None => row("lockdown", None, "unknown (no securityfs, or no lockdown in this kernel)"),
    }
    for capability in &facts.capabilities {
        let value = if capability.present { "yes" } else { "missing" };
        row(&capability.name.to_string(), mark(capability.present), value);
    }
    match facts.initial_pid_namespace {
        true => row("pid namespace", Some(&good), "the host's"),
        false => row("pid namespace", Some(&bad), "not the host's: process ids are those of the host, also for --pid"),
    }
    if !facts.initial_user_namespace {
        row("user namespace", Some(&bad), "not the host's: bpf(2) ignores the capabilities held here");
    }
    match &facts.cgroup2_mount {
        Some(path) => row("cgroup v2", Some(&good), &path.display().to_string()),
        None => row("cgroup v2", Some(&bad), "not mounted: --cgroup cannot be used"),
    }
    match facts.bpf_jit {
        Some(true) => row("BPF JIT", Some(&good), "on"),
        Some(false) => row("BPF JIT", Some(&bad), "off: tracing is slow; sysctl net.core.bpf_jit_enable=1"),
        None => row("BPF JIT", None, "unknown (only root may read it)"),
    }
    if let Some(bytes) = facts.kernel_memory_bytes {
        row("kernel memory", None, &format!("{} while all signals are traced", mebibytes(bytes)));
    }
    let doctor = &facts.doctor;
    let answer = match (&doctor.reason, doctor.kernel_memory_bytes) {
        // The remedy is printed once, at the end.
        (Some(_), _) if facts.remedy.is_some() => "no: capabilities are missing".to_owned(),
        (Some(reason), _) => format!("no: {reason}"),
        (None, Some(bytes)) => format!("yes, {} of kernel memory while it watches", mebibytes(bytes)),
        (None, None) => "yes".to_owned(),
    };
    row("doctor", mark(doctor.available), &answer);
    for missing in &doctor.missing {
        row("", Some(&bad), &format!("not seen: {} ({}): {}", missing.what, missing.signal, missing.reason));
    }

    let _ = writeln!(text, "\n{}signals{}", style.bold(), style.reset());
    let width = facts.signals.iter().map(|signal| signal.alias.len()).max().unwrap_or(0);
    for signal in &facts.signals {
        signal_lines(&mut text, signal, width, style);
    }
    if let Some(remedy) = &facts.remedy {
        let _ = writeln!(text, "\n{}{}{}", style.bold(), one_line(remedy), style.reset());
    }
    text
}

fn signal_lines(text: &mut String, signal: &SignalFact, width: usize, style: Style) {
    let (on, off) = Mark(style, signal.available).colours();
    let answer = if signal.available { "yes" } else { "no" };
    let why = match (&signal.reason, signal.kernel_memory_bytes) {
        // The remedy is printed once, at the end.
        _ if signal.unprivileged => "capabilities are missing; the kernel has the hooks".to_owned(),
        (Some(reason), _) => one_line(reason),
        (None, Some(bytes)) => format!("{} of kernel memory", mebibytes(bytes)),
        (None, None) => String::new(),
    };
    let line = format!("{:<width$}  {:<15}  {on}{answer:<3}{off}  {why}", signal.alias, signal.signal);
    let _ = writeln!(text, "{}", line.trim_end());
    if !signal.hooks.is_empty() {
        let _ = writeln!(text, "{:<width$}  {}{}{}", "", style.dim(), signal.hooks.join(" "), style.reset());
    }
}

fn mebibytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    format!("{mebibytes:.1} MiB")
}

/// Fine or not.
struct Mark(Style, bool);

impl Mark {
    const fn colours(&self) -> (&'static str, &'static str) {
        let Self(style, fine) = self;
        (if *fine { style.green() } else { style.red() }, style.reset())
    }
}
