use std::collections::BTreeMap;

use kerno_model::{Change, ChangeKind};
use procfs::process::Process;

use super::{change, now};

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

/// What differs between two states, each a text by a name.
pub(super) fn compare(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    kind: ChangeKind,
) -> Vec<Change> {
    let at = now();
    let gone = before.iter().filter(|(name, _)| !after.contains_key(*name));
    let gone = gone.map(|(name, was)| change(at, kind, name, Some(was), None));
    let other = after.iter().filter(|(name, is)| before.get(*name) != Some(*is));
    gone.chain(other.map(|(name, is)| change(at, kind, name, before.get(name).map(String::as_str), Some(is)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_with_before_and_after() {
        let state = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let before = state(&[("/", "ext4 (rw)"), ("/mnt", "xfs (rw)")]);
        let after = state(&[("/", "ext4 (ro)"), ("/new", "tmpfs (rw)")]);
        let changes = compare(&before, &after, ChangeKind::Mount);
        let told: Vec<_> = changes.iter().map(|c| (c.what.as_str(), c.before.as_deref(), c.after.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("/mnt", Some("xfs (rw)"), None),
                ("/", Some("ext4 (rw)"), Some("ext4 (ro)")),
                ("/new", None, Some("tmpfs (rw)"))
            ]
        );
        assert!(!Mounts::now().0.is_empty());
    }
}
