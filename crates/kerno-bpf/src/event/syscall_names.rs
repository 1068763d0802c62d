//! Names and numbers of system calls, for the kernel's native table and its 32-bit one.

#[cfg(target_arch = "aarch64")]
use syscalls::aarch64::Sysno as Native;
use syscalls::x86::Sysno as I386;
#[cfg(target_arch = "x86_64")]
use syscalls::x86_64::Sysno as Native;

use crate::LoadError;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("kerno knows the system calls of x86_64 and aarch64 only");

/// Set in a number when an x86_64 process calls through the x32 table.
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// How many numbers of each table the kernel side looks at (`MAX_SYSCALLS` in syscall.h).
pub(crate) const MAX_SYSCALLS: usize = 512;

/// The name of call number `nr`; `None` when this table has none (a newer kernel's call). The 32-bit table is i386's; on aarch64,
/// whose 32-bit table is another, compat calls have no name here.
pub(crate) fn name(nr: u32, compat: bool) -> Option<&'static str> {
    if compat {
        if cfg!(target_arch = "x86_64") { I386::new(nr as usize).map(|call| call.name()) } else { None }
    } else {
        Native::new((nr & !X32_SYSCALL_BIT) as usize).map(|call| call.name())
    }
}

/// The numbers of a call by name: native and 32-bit. Both `None` when no table knows the name.
pub(crate) fn numbers(name: &str) -> (Option<u32>, Option<u32>) {
    let native = name.parse::<Native>().ok().map(|call| call as u32);
    let compat = cfg!(target_arch = "x86_64").then(|| name.parse::<I386>().ok().map(|call| call as u32)).flatten();
    (native, compat)
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
        let elsewhere = ["sync_file_range2", "arm_sync_file_range", "getxattrat", "listxattrat"];
        let known = |call: &str| numbers(call) != (None, None);
        let unknown: Vec<_> =
            calls.chain(groups).filter(|call| *call != "*" && !known(call) && !elsewhere.contains(call)).collect();
        // The 32-bit table, which has the old names, is known on x86_64 only.
        assert!(unknown.is_empty() || cfg!(not(target_arch = "x86_64")), "{unknown:?}");
    }

    #[test]
    fn errors_have_the_names_that_the_kernel_s_headers_give_them() {
        for errno in 1..=200 {
            assert_eq!(kerno_model::errno::name(errno), syscalls::Errno::new(errno).name(), "{errno}");
        }
    }
}
