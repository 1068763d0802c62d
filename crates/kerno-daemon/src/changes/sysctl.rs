use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kerno_model::{Change, ChangeKind};

use super::compare;

/// Settings of the kernel that can be changed, by name.
#[derive(Debug, Default)]
pub(super) struct Sysctls(BTreeMap<String, String>);

/// Where they are; folders in these are left out, since they have settings of each interface and the like.
const FOLDERS: &[&str] = &[
    "vm",
    "kernel",
    "kernel/keys",
    "fs",
    "fs/inotify",
    "fs/epoll",
    "fs/mqueue",
    "net/core",
    "net/ipv4",
    "net/ipv6",
    "net/netfilter",
    "user",
];

/// Not settings: they change by themselves, reading them does something, or they are secret.
const LEFT_OUT: &[&str] = &[
    "kernel.ns_last_pid",
    "kernel.perf_event_max_sample_rate",
    "net.ipv4.tcp_fastopen_key",
    "net.netfilter.nf_conntrack_count",
    "vm.stat_refresh",
];

/// Longer ones are cut: nobody reads them.
const MAX_BYTES: usize = 256;

impl Sysctls {
    pub(super) fn now() -> Self {
        let mut all = BTreeMap::new();
        for folder in FOLDERS {
            let Ok(entries) = std::fs::read_dir(Path::new("/proc/sys").join(folder)) else { continue };
            for entry in entries.flatten() {
                let name = format!("{}.{}", folder.replace('/', "."), entry.file_name().to_string_lossy());
                let can_be_set =
                    entry.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o600 == 0o600);
                if !can_be_set || LEFT_OUT.contains(&name.as_str()) {
                    continue;
                }
                if let Ok(value) = std::fs::read_to_string(entry.path()) {
                    let value: String = value.trim().replace('\t', " ").chars().take(MAX_BYTES).collect();
                    all.insert(name, value);
                }
            }
        }
        Self(all)
    }

    pub(super) fn look(&mut self) -> Vec<Change> {
        let before = std::mem::replace(self, Self::now());
        compare(&before.0, &self.0, ChangeKind::Sysctl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_changed_is_told() {
        let mut sysctls = Sysctls::now();
        assert!(sysctls.0.len() > 100 && sysctls.0.contains_key("vm.swappiness"), "{}", sysctls.0.len());
        // Of this namespace only.
        let path = "/proc/sys/net/ipv4/tcp_fin_timeout";
        let was = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, "61").unwrap();
        let changes = sysctls.look();
        std::fs::write(path, &was).unwrap();
        let changed =
            changes.iter().find(|change| change.what == "net.ipv4.tcp_fin_timeout").expect("this test needs root");
        assert_eq!((changed.before.as_deref(), changed.after.as_deref()), (Some(was.trim()), Some("61")));
        let others: Vec<_> = changes.iter().filter(|change| change.what != "net.ipv4.tcp_fin_timeout").collect();
        assert!(others.is_empty(), "these change by themselves: {others:?}");
    }
}
