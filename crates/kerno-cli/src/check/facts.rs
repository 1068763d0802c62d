use std::fs;
use std::path::PathBuf;

use kerno::engine::{Observer, ObserverOptions};
use kerno::model::Missing;
use kerno::probe::Capability;
use kerno::signals::{self, SignalInfo};
use kerno::{Availability, FilterKind, Host, Options};

use crate::args::default_ring_bytes;
use crate::privileges;

/// What `kerno check` found. Serialised as it is by `--output json`.
#[derive(Debug, serde::Serialize)]
pub(super) struct Facts {
    pub(super) kerno: &'static str,
    /// `uname -r`
    pub(super) kernel: String,
    pub(super) machine: String,
    /// Whether the kernel describes its types.
    pub(super) btf: bool,
    pub(super) btf_error: Option<String>,
    /// none, integrity or confidentiality; null when the kernel has no lockdown or hides it.
    pub(super) lockdown: Option<String>,
    /// The capabilities that tracing needs.
    pub(super) capabilities: Vec<CapabilityFact>,
    pub(super) initial_pid_namespace: bool,
    pub(super) initial_user_namespace: bool,
    pub(super) cgroup2_mount: Option<PathBuf>,
    /// Whether the kernel compiles BPF programs (JIT); null if only root may know.
    pub(super) bpf_jit: Option<bool>,
    /// Kernel memory of all signals together while they are traced.
    pub(super) kernel_memory_bytes: Option<u64>,
    /// Whether the machine can be watched by `kerno doctor`.
    pub(super) doctor: DoctorFact,
    pub(super) signals: Vec<SignalFact>,
    /// What to type if capabilities are missing.
    pub(super) remedy: Option<String>,
}

#[derive(Debug, serde::Serialize)]
pub(super) struct CapabilityFact {
    pub(super) name: Capability,
    pub(super) present: bool,
}

#[derive(Debug, serde::Serialize)]
pub(super) struct DoctorFact {
    pub(super) available: bool,
    /// Why not.
    pub(super) reason: Option<String>,
    /// What it cannot see here.
    pub(super) missing: Vec<Missing>,
    /// Kernel memory of its maps while it watches; null if it cannot watch, or the kernel does not say.
    pub(super) kernel_memory_bytes: Option<u64>,
}

#[derive(Debug, serde::Serialize)]
pub(super) struct SignalFact {
    pub(super) signal: &'static str,
    pub(super) alias: &'static str,
    pub(super) available: bool,
    /// Why not.
    pub(super) reason: Option<String>,
    /// Whether it was loaded to find out.
    pub(super) tried: bool,
    pub(super) hooks: Vec<String>,
    /// Whether only capabilities are missing.
    #[serde(skip)]
    pub(super) unprivileged: bool,
    /// The names of its filters.
    pub(super) filters: Vec<&'static str>,
    /// Kernel memory of its maps while it is loaded; null if it was not, or the kernel does not say.
    pub(super) kernel_memory_bytes: Option<u64>,
}

impl Facts {
    pub(super) fn gather() -> Self {
        let host = Host::detect();
        let signals: Vec<_> = signals::ALL.iter().map(|signal| check(signal, &host)).collect();
        Self {
            kerno: env!("CARGO_PKG_VERSION"),
            btf: host.btf_error().is_none(),
            btf_error: host.btf_error().map(str::to_owned),
            capabilities: capabilities(&host),
            remedy: privileges::lacking(&host, "doctor"),
            kernel: host.release,
            machine: host.machine,
            lockdown: host.lockdown,
            initial_pid_namespace: host.initial_pid_namespace,
            initial_user_namespace: host.initial_user_namespace,
            cgroup2_mount: host.cgroup2_mount,
            bpf_jit: bpf_jit(),
            kernel_memory_bytes: signals.iter().filter_map(|signal| signal.kernel_memory_bytes).reduce(|a, b| a + b),
            signals,
            doctor: doctor(),
        }
    }
}

/// Starts to watch, and stops at once.
fn doctor() -> DoctorFact {
    let before = kerno::probe::kernel_memory_bytes();
    match Observer::start(ObserverOptions::default()) {
        Ok(observer) => DoctorFact {
            available: true,
            reason: None,
            missing: observer.missing().to_vec(),
            kernel_memory_bytes: before
                .zip(kerno::probe::kernel_memory_bytes())
                .map(|(before, after)| after.saturating_sub(before)),
        },
        Err(error) => DoctorFact {
            available: false,
            reason: Some(error.reason()),
            missing: Vec::new(),
            kernel_memory_bytes: None,
        },
    }
}

/// Static facts without the privileges; with them, a real load and unload.
fn check(signal: &SignalInfo, host: &Host) -> SignalFact {
    let mut loader =
        (signal.loader)(Options { ring_bytes: default_ring_bytes(signals::ALL.len()), ..Options::default() });
    let mut fact = SignalFact {
        signal: signal.name,
        alias: signal.alias,
        available: false,
        reason: None,
        tried: false,
        unprivileged: false,
        hooks: Vec::new(),
        filters: loader.filters().iter().map(|kind: &FilterKind| kind.name()).collect(),
        kernel_memory_bytes: None,
    };
    match loader.check(host) {
        Availability::Available { hooks } => {
            fact.hooks = hooks;
            fact.tried = true;
            let before = kerno::probe::kernel_memory_bytes();
            match loader.load() {
                Ok(handle) => {
                    fact.available = true;
                    fact.kernel_memory_bytes = before
                        .zip(kerno::probe::kernel_memory_bytes())
                        .map(|(before, after)| after.saturating_sub(before));
                    handle.close();
                }
                Err(error) => fact.reason = Some(error.reason()),
            }
        }
        Availability::Unavailable { reason, hooks } => {
            fact.unprivileged = host.missing_privileges().as_ref() == Some(&reason);
            (fact.reason, fact.hooks) = (Some(reason), hooks);
        }
        _ => fact.reason = Some("unknown".to_owned()),
    }
    fact
}

fn capabilities(host: &Host) -> Vec<CapabilityFact> {
    let mut needed = vec![Capability::CapBpf, Capability::CapPerfmon];
    if host.locked_memory_is_limited {
        needed.push(Capability::CapSysResource);
    }
    let fact = |name| CapabilityFact { name, present: !host.missing_capabilities.contains(&name) };
    needed.into_iter().map(fact).collect()
}

/// Documentation/admin-guide/sysctl/net.rst; only root may read it.
fn bpf_jit() -> Option<bool> {
    Some(fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?.trim() != "0")
}
