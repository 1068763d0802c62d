use std::collections::BTreeMap;

use kerno_model::{Change, ChangeKind};
use procfs::process::Process;

use super::compare;

/// Mount points, each with what is mounted there and how.
#[derive(Debug, Default)]
pub(super) struct Mounts(BTreeMap<String, String>);

/// More are not compared: a machine with so many mounts them all the time.
const MAX: usize = 4096;

impl Mounts {
    pub(super) fn now() -> Self {
        let read = Process::myself().and_then(|process| process.mountinfo()).map(|mounts| mounts.0).unwrap_or_default();
        let mounts = read.into_iter().take(MAX).map(|mount| {
            let mut options: Vec<_> = mount.mount_options.into_iter().chain(mount.super_options).collect();
            options.sort();
            options.dedup();
            let options = options
                .into_iter()
                .map(|(name, value)| value.map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            let what = format!(
                "{} {} ({})",
                mount.fs_type,
                mount.mount_source.unwrap_or_default(),
                options.collect::<Vec<_>>().join(",")
            );
            (mount.mount_point.display().to_string(), what)
        });
        Self(mounts.collect())
    }

    pub(super) fn look(&mut self) -> Vec<Change> {
        let before = std::mem::replace(self, Self::now());
        if self.0.is_empty() {
            // It could not be read.
            *self = before;
            return Vec::new();
        }
        compare(&before.0, &self.0, ChangeKind::Mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_can_be_read() {
        assert!(!Mounts::now().0.is_empty());
    }
}
