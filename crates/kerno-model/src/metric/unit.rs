use crate::{Container, Process};

/// Who a process belongs to, as a label says it: its container, or its service, or the slice that its login or scope is in. All of these
/// outlive processes, and none has a process's id in its name.
pub fn unit_of(process: &Process) -> String {
    if let Some(container) = &process.container {
        return container_label(container);
    }
    if process.kernel_thread {
        return "kernel".to_owned();
    }
    if let Some(unit) = process.unit.as_ref().filter(|unit| unit.ends_with(".service")) {
        return unit.clone();
    }
    // A scope lives as short as a login; its slice is that of the user.
    let mut levels = process.cgroup.as_deref().unwrap_or_default().rsplit('/');
    levels.find(|level| level.ends_with(".slice")).unwrap_or("unknown").to_owned()
}

/// A container as a label says it: its runtime and what people call it, or the first twelve characters of its id.
pub(crate) fn container_label(container: &Container) -> String {
    format!("{}:{}", container.runtime, container.label())
}

/// What it used, to choose the units with series of their own: time on CPUs, waiting and in I/O, in nanoseconds, with a byte as one.
pub(crate) fn weight_of(process: &Process) -> f64 {
    let used = &process.used;
    let parts = [used.run_ns, used.wait_ns, used.io_delay_ns, used.reclaim_delay_ns, used.read_bytes, used.write_bytes];
    #[allow(clippy::cast_precision_loss, reason = "to rank by")]
    parts.into_iter().map(|part| part as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_outlive_processes() {
        let scope = Process {
            unit: Some("session-3.scope".into()),
            cgroup: Some("/user.slice/user-1000.slice/session-3.scope".into()),
            ..Process::default()
        };
        assert_eq!(unit_of(&scope), "user-1000.slice");
        let service = Process { unit: Some("nginx.service".into()), ..Process::default() };
        assert_eq!(unit_of(&service), "nginx.service");
        let container = Container { runtime: "docker".into(), id: "0123456789abcdef".into(), ..Container::default() };
        assert_eq!(unit_of(&Process { container: Some(container), ..service }), "docker:0123456789ab");
        assert_eq!(unit_of(&Process { kernel_thread: true, ..Process::default() }), "kernel");
        assert_eq!(unit_of(&Process::default()), "unknown");
    }
}
