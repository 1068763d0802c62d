//! Names and numbers of system calls, for the kernel's native table and its 32-bit one.

#[cfg(target_arch = "aarch64")]
use syscalls::{aarch64::Sysno as Native, arm::Sysno as Compat};
#[cfg(target_arch = "x86_64")]
use syscalls::{x86::Sysno as Compat, x86_64::Sysno as Native};

use crate::LoadError;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("kerno knows the system calls of x86_64 and aarch64 only");

/// Set in a number when an x86_64 process calls through the x32 table.
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// How many numbers of each table the kernel side looks at (`MAX_SYSCALLS` in syscall.h).
pub(crate) const MAX_SYSCALLS: usize = 512;

/// Calls that the tables name otherwise than the kernel and its users do, and what these say. In the kernel's table of aarch64
/// (include/uapi/asm-generic/unistd.h) 79 is `__NR3264_fstatat`, which is newfstatat where addresses have 64 bits.
const RENAMED: &[(&str, &str)] = if cfg!(target_arch = "aarch64") { &[("fstatat", "newfstatat")] } else { &[] };

/// The name of call number `nr`; `None` when this table has none (a newer kernel's call). The 32-bit table is that of i386 or arm.
pub(crate) fn name(nr: u32, compat: bool) -> Option<&'static str> {
    if compat {
        return Compat::new(nr as usize).map(|call| call.name());
    }
    let name = Native::new((nr & !X32_SYSCALL_BIT) as usize)?.name();
    Some(RENAMED.iter().find(|(known, _)| *known == name).map_or(name, |(_, said)| *said))
}

/// The numbers of a call by name: native and 32-bit. Both `None` when no table knows the name.
pub(crate) fn numbers(name: &str) -> (Option<u32>, Option<u32>) {
    let known = RENAMED.iter().find(|(_, said)| *said == name).map_or(name, |(known, _)| *known);
    let native = known.parse::<Native>().ok().map(|call| call as u32);
    (native, name.parse::<Compat>().ok().map(|call| call as u32))
}

/// As [`numbers`], for a name that a user gave.
///
/// # Errors
/// When no table knows it.
pub(crate) fn numbers_asked_for(name: &str) -> Result<(Option<u32>, Option<u32>), LoadError> {
    match numbers(name) {
        (None, None) => Err(LoadError::Filter(format!("syscall {name:?}: no such system call, see syscalls(2)"))),
        known => Ok(known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerno_doctor::knowledge::normal::{
        FILE_CALLS, NEVER_NORMAL, NORMAL_ERRORS, OPEN_CALLS, SYNC_CALLS, WAITING_CALLS,
    };

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn names_differ_by_table() {
        assert_eq!(name(0, false), Some("read"));
        assert_eq!(name(3, true), Some("read"));
        assert_eq!(name(X32_SYSCALL_BIT, false), Some("read"));
        assert_eq!(name(511, true), None);
        assert_eq!(name(u32::MAX, false), None);
        assert_eq!(numbers("openat2"), (Some(437), Some(437)));
        assert_eq!(numbers("socketcall"), (None, Some(102)));
        assert_eq!(numbers("nonsense"), (None, None));
    }

    #[test]
    fn every_call_that_the_rules_know_exists() {
        let groups = NORMAL_ERRORS.iter().chain(NEVER_NORMAL).flat_map(|(calls, _, _)| calls.iter().copied());
        let calls = WAITING_CALLS
            .iter()
            .chain(FILE_CALLS)
            .chain(OPEN_CALLS)
            .map(|(call, _)| *call)
            .chain(SYNC_CALLS.iter().copied());
        // Those of the other architecture, and newer ones than the table of names has.
        let mut elsewhere = vec!["getxattrat", "listxattrat"];
        elsewhere.extend(if cfg!(target_arch = "x86_64") {
            &["sync_file_range2", "arm_sync_file_range"][..]
        } else {
            &["time", "utime", "waitpid", "oldstat", "oldlstat", "oldfstat", "_llseek"][..]
        });
        let known = |call: &str| numbers(call) != (None, None);
        let unknown: Vec<_> =
            calls.chain(groups).filter(|call| *call != "*" && !known(call) && !elsewhere.contains(call)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    /// Both architectures' tables, on either: a call that only one of them knows under a name is known under another on the other, and
    /// users, rules and programs would have to know both.
    #[test]
    fn the_tables_agree_about_names() {
        use syscalls::{aarch64, arm, x86, x86_64};
        let native: Vec<_> = x86_64::Sysno::iter().map(|call| call.name()).collect();
        let compat: Vec<_> = x86::Sysno::iter().map(|call| call.name()).collect();
        // 32-bit kernels' calls with times of 64 bits, which the table of aarch64 has by mistake.
        let only_there = aarch64::Sysno::iter().map(|call| call.name()).filter(|name| !name.ends_with("time64"));
        let only_there: Vec<_> = only_there.filter(|name| !native.contains(name)).collect();
        assert_eq!(only_there, ["fstatat"], "renamed, see above");
        let of_arm = arm::Sysno::iter().map(|call| call.name());
        let of_arm: Vec<_> = of_arm.filter(|name| !compat.contains(name) && !native.contains(name)).collect();
        let own = [
            "send",
            "recv",
            "pciconfig_iobase",
            "pciconfig_read",
            "pciconfig_write",
            "arm_fadvise64_64",
            "arm_sync_file_range",
        ];
        assert!(of_arm.iter().all(|name| own.contains(name)), "{of_arm:?}");
    }

    #[test]
    #[cfg(target_arch = "aarch64")]
    fn names_are_those_that_users_know() {
        assert_eq!((name(79, false), numbers("newfstatat").0), (Some("newfstatat"), Some(79)));
        assert_eq!(
            (name(63, false), name(3, true), numbers("openat")),
            (Some("read"), Some("read"), (Some(56), Some(322)))
        );
        assert_eq!(numbers("socketcall"), (None, None), "the newer ABI of arm has none");
    }

    #[test]
    fn errors_have_the_names_that_the_kernel_s_headers_give_them() {
        for errno in 1..=200 {
            assert_eq!(kerno_model::errno::name(errno), syscalls::Errno::new(errno).name(), "{errno}");
        }
    }
}
