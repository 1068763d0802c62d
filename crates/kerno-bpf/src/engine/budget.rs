use std::time::Duration;

/// What watching may cost the machine. Without one, everything that was asked for is watched, whatever it costs.
///
/// [`Engine::limit`](super::Engine::limit) sets it. It is held by measuring: the kernel counts how long programs run
/// (`BPF_ENABLE_STATS`) for a short while in each window, and all the time when they come near to the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// The time that all programs in the kernel may take together, as a share of all CPUs' time: 0.02 by default. Where it is exceeded, the
    /// dearest signal's programs are taken out of the kernel.
    pub kernel_share: f64,
    /// The CPU time that watching may take in user space, as a share of one CPU: 0.01 by default. Where it is exceeded, samples are taken
    /// more seldom.
    pub cpu_share: f64,
    /// For so long a signal stays out before it is tried again: a minute by default. Each time it has to go again, twice as long, up to
    /// half an hour.
    pub patience: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self { kernel_share: 0.02, cpu_share: 0.01, patience: Duration::from_secs(60) }
    }
}
