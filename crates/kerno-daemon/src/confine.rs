//! Gives up what is not needed (any longer): whoever gets hold of this process gets little.
//!
//! - [`process`], before there is a second thread: no new privileges by executing programs, no capabilities but those that are ever needed here,
//!   and no system calls that nothing here makes: to execute, to mount, to load modules, to become another user.
//! - `watching`, before the engine starts: what was needed to listen goes.
//! - `rest`, when all is loaded, in the thread that starts the others: no capabilities at all, no loading of programs, no other namespaces, no looking into
//!   other processes; files may be read as far as the user may, and written in the store and beside the socket only. Threads that it starts inherit
//!   this: HTTP, alerts, OpenTelemetry, the store.
//!
//! The threads that watch keep what [`WATCHING`] names: signals are loaded again when they become cheap, and processes come and go. Landlock
//! is not for them: it also forbids to look at processes outside of it, which is what they do.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use kerno_bpf::probe::running_kernel;
use kerno_model::KernelVersion;
use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetStatus,
};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// What watching needs; docs/privileges.md says what for.
pub const WATCHING: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYSLOG);

/// What it takes, besides, to open the store and to listen: ports below 1024, the group of the socket, directories of another user's.
const STARTING: CapabilitySet = CapabilitySet::NET_BIND_SERVICE
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER);

/// Maps count as locked memory before this version.
const COUNTED_BY_CGROUP: KernelVersion = KernelVersion::new(5, 11);

/// What nobody here does. A call that is refused fails with `EPERM`.
const NEVER: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_open_by_handle_at,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_acct,
];

/// What only those who watch do.
const WATCHERS: &[libc::c_long] = &[
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_setns,
    libc::SYS_process_vm_readv,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_quotactl,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
];

/// Confines the process, which may have no second thread yet. What the kernel cannot do is told, and no reason not to start.
pub fn process() {
    note("no new privileges", set_no_new_privs(true));
    // Without CAP_SETPCAP the bounding set stays; with no new privileges it gives nothing.
    let wanted = kept() | STARTING;
    for capability in CapabilitySet::all().iter().filter(|capability| !wanted.contains(*capability)) {
        if capability_is_in_bounding_set(capability) == Ok(true) {
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    note("ambient capabilities", clear_ambient_capability_set());
    note("capabilities", keep_capabilities(wanted));
    note("seccomp", deny(NEVER));
}

/// What it takes to write in these directories, besides what those who watch need: whoever runs it as root on a store of another user's.
pub(crate) fn to_write(writable: &[&Path]) -> CapabilitySet {
    let is_others =
        |path: &&Path| std::fs::metadata(path).is_ok_and(|data| data.uid() != rustix::process::geteuid().as_raw());
    if writable.iter().any(is_others) { CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() }
}

/// From now on, this thread and those that it starts have the capabilities of those who watch, and these.
pub(crate) fn watching(more: CapabilitySet) -> Result<(), Errno> {
    keep_capabilities(kept() | more)
}

/// From now on, this thread and those that it starts can do least: of files, they can change those in these directories; of capabilities, they have these.
pub(crate) fn rest(writable: &[&Path], keep: CapabilitySet) {
    // First the rules for files: they are for those without new privileges, and need none.
    note("Landlock", files(writable));
    note("capabilities", keep_capabilities(keep));
    note("seccomp", deny(WATCHERS));
}

/// As `rest`, without the rules for files: for a thread that was started before these are known.
pub fn thread() {
    // What fails here failed for the process, too, and was told.
    let _ = keep_capabilities(CapabilitySet::empty());
    let _ = deny(WATCHERS);
}

fn note<E: ToString>(what: &str, result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!("not confined as it could be: {what}: {}", error.to_string());
    }
}

fn kept() -> CapabilitySet {
    let old = running_kernel() < COUNTED_BY_CGROUP;
    if old { WATCHING | CapabilitySet::SYS_RESOURCE } else { WATCHING }
}

/// Gives up all capabilities of this thread but these, as far as it has them.
fn keep_capabilities(wanted: CapabilitySet) -> Result<(), Errno> {
    let has = capabilities(None)?;
    let permitted = has.permitted & wanted;
    let effective = has.effective & wanted;
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
}

/// These calls fail from now on, in this thread and those that it starts.
fn deny(calls: &[libc::c_long]) -> Result<(), String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    #[allow(clippy::cast_sign_loss, reason = "an errno")]
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    // No rules for a call: it matches whatever its arguments.
    let rules: BTreeMap<i64, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(|error| error.to_string())?;
    let program = seccompiler::BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}

/// Files may be read everywhere, as far as the user may, and changed in these directories.
fn files(writable: &[&Path]) -> Result<(), Box<dyn std::error::Error>> {
    let all = AccessFs::from_all(ABI::V5);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    let mut ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new("/")?, read))?;
    for path in writable {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, all & !AccessFs::Execute))?;
    }
    if let Ok(null) = PathFd::new("/dev/null") {
        ruleset = ruleset.add_rule(PathBeneath::new(null, AccessFs::ReadFile | AccessFs::WriteFile))?;
    }
    match ruleset.restrict_self()?.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel has none, or it is off".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::process::Command;

    use super::*;

    /// Runs this in a thread of its own: what is given up does not come back.
    fn apart(work: impl FnOnce() + Send) {
        std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    }

    fn status(name: &str) -> String {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().to_owned()
    }

    fn bpf() -> std::io::Error {
        // SAFETY: BPF_MAP_CREATE without attributes makes nothing.
        assert_eq!(unsafe { libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0) }, -1);
        std::io::Error::last_os_error()
    }

    #[test]
    fn a_process_can_execute_nothing_and_keeps_what_watching_needs() {
        apart(|| {
            let before = capabilities(None).unwrap().permitted;
            process();
            watching(CapabilitySet::empty()).unwrap();
            assert_eq!(status("NoNewPrivs"), "1");
            let caps = capabilities(None).unwrap();
            assert_eq!(caps.permitted, before & kept());
            assert_eq!((caps.effective, caps.inheritable), (before & kept(), CapabilitySet::empty()));
            assert_eq!(status("CapAmb"), "0000000000000000");
            assert_eq!(Command::new("/bin/true").status().unwrap_err().raw_os_error(), Some(libc::EPERM));
            let more = CapabilitySets { permitted: caps.permitted | CapabilitySet::SYS_MODULE, ..caps };
            assert_eq!(set_capabilities(None, more), Err(Errno::PERM), "it took back what it gave up");
            // SAFETY: numbers only; the user is that of now.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setuid, libc::getuid()) }, -1);
            // What watching is made of goes on.
            assert_ne!(bpf().raw_os_error(), Some(libc::EPERM));
            assert!(fs::read_dir("/proc/1/fd").is_ok(), "this test needs root");
        });
    }

    #[test]
    fn the_rest_can_do_least() {
        let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outside = others.path().join("file");
        fs::write(&outside, "readable").unwrap();
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let secrets = ["environ", "mem", "maps"].map(|name| format!("/proc/{}/{name}", other.id()));
        assert!(secrets.iter().all(|secret| fs::File::open(secret).is_ok()), "this test needs root");
        apart(|| {
            process();
            watching(CapabilitySet::empty()).unwrap();
            assert_eq!(to_write(&[ours.path()]), CapabilitySet::empty());
            rest(&[ours.path()], CapabilitySet::empty());
            assert_eq!(capabilities(None).unwrap().permitted, CapabilitySet::empty());
            assert_eq!(bpf().raw_os_error(), Some(libc::EPERM));
            let itself = fs::File::open("/proc/thread-self/ns/net").unwrap();
            use std::os::fd::AsRawFd as _;
            // SAFETY: numbers only; the namespace is that of now.
            assert_eq!(unsafe { libc::setns(itself.as_raw_fd(), 0) }, -1);
            assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EPERM));
            assert_eq!(Command::new("/bin/true").status().unwrap_err().raw_os_error(), Some(libc::EPERM));
            for secret in &secrets {
                assert!(fs::File::open(secret).is_err(), "{secret} can be read");
            }
            let denied = |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
            denied(fs::write(&outside, "changed").unwrap_err());
            denied(fs::write(others.path().join("new"), "").unwrap_err());
            denied(fs::remove_file(&outside).unwrap_err());
            denied(fs::create_dir("/etc/kerno-test").unwrap_err());
            assert_eq!(fs::read_to_string(&outside).unwrap(), "readable");
            // Where it works, it works as before.
            fs::write(ours.path().join("a"), "x").unwrap();
            fs::rename(ours.path().join("a"), ours.path().join("b")).unwrap();
            fs::remove_file(ours.path().join("b")).unwrap();
            // So do the threads that it starts.
            std::thread::spawn(|| assert_eq!(bpf().raw_os_error(), Some(libc::EPERM))).join().unwrap();
        });
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(Command::new("/bin/true").status().unwrap().success(), "others are not confined");
    }
}
