use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::IntoBytes;

use crate::EventType;
use crate::calls;
use crate::event::{MAX_FILENAME_LEN, syscall_names};
use crate::probe::{FilterKind, Group, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader};

/// Loads `file_audit`: [`FileEvent`](crate::FileEvent)s.
pub type FileAuditLoader = SignalLoader<FileAudit>;

/// The signal's marker.
#[derive(Debug)]
pub struct FileAudit;

/// The calls, with the `CLASS_*` of opens.h.
const CLASSES: [(&str, u8); 5] = [("open", 1), ("creat", 2), ("openat", 3), ("openat2", 4), ("open_by_handle_at", 5)];

impl Signal for FileAudit {
    const NAME: &'static str = "file_audit";
    const TYPE: EventType = EventType::FileAudit;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/file_audit.bpf.o");
    const GROUP: Option<&'static Group> = Some(&calls::EVENTS);
    const FILTERS: &'static [FilterKind] = &[
        FilterKind::Pids,
        FilterKind::Comms,
        FilterKind::Uids,
        FilterKind::Cgroups,
        FilterKind::ErrorsOnly,
        FilterKind::PathPrefix,
    ];

    fn hooks(host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        plan.attach("on_sys_exit", Hook::Tracepoint("sys_exit"));
        // The request is the second argument of both forms.
        if matches!(host.uring_completion_arity(), Some(3 | 7)) {
            plan.attach("on_io_uring_complete", Hook::Tracepoint("io_uring_complete"));
        }
        Ok(())
    }

    fn knobs(options: &Options, plan: &mut Plan) -> Result<(), LoadError> {
        plan.set("cfg_classes", &classes());
        for (knob, name) in [("cfg_openat_nr", "openat"), ("cfg_openat2_nr", "openat2")] {
            if let (Some(nr), _) = syscall_names::numbers(name) {
                plan.set(knob, &nr);
            }
        }
        if let Some(prefix) = &options.filter.path_prefix {
            let (len, words) = prefix_words(prefix)?;
            plan.set("cfg_path_prefix_len", &len);
            plan.set("cfg_path_prefix", &words);
        }
        Ok(())
    }
}

/// The class of each call, as opens.h has it.
pub(super) fn classes() -> [u8; syscall_names::MAX_SYSCALLS] {
    let mut classes = [0u8; syscall_names::MAX_SYSCALLS];
    for (name, class) in CLASSES {
        let (native, compat) = syscall_names::numbers(name);
        for (nr, bits) in [(native, class), (compat, class << 4)] {
            if let Some(slot) = nr.and_then(|nr| classes.get_mut(nr as usize)) {
                *slot |= bits;
            }
        }
    }
    classes
}

/// A prefix's length, and its bytes as the words that the kernel side compares.
fn prefix_words(prefix: &Path) -> Result<(u32, [u64; MAX_FILENAME_LEN / 8]), LoadError> {
    let bytes = prefix.as_os_str().as_bytes();
    if bytes.first() != Some(&b'/') || bytes.len() >= MAX_FILENAME_LEN || bytes.contains(&0) {
        return Err(LoadError::Filter(format!(
            "path prefix {prefix:?}: must start with / and have at most {} bytes",
            MAX_FILENAME_LEN - 1
        )));
    }
    let mut words = [0u64; MAX_FILENAME_LEN / 8];
    words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
    #[allow(clippy::cast_possible_truncation, reason = "at most 255")]
    Ok((bytes.len() as u32, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_prefixes_are_refused() {
        let bad = |prefix: &str| prefix_words(Path::new(prefix)).unwrap_err().to_string();
        assert!(bad("").contains("must start with /"));
        assert!(bad("etc").contains("must start with /"));
        assert!(bad("/a\0b").contains("must start with /"));
        assert!(bad(&"/".repeat(256)).contains("at most 255 bytes"));
        assert_eq!(prefix_words(Path::new("/ab")).unwrap().1[0], 0x62_612f);
        assert_eq!(prefix_words(Path::new(&"/".repeat(255))).unwrap().0, 255);
    }
}
