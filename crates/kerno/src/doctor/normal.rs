//! What is normal life and no symptom: calls that wait by design, and errors that programs live with. One place, with reasons; used
//! by the kernel side (what to keep as an offender) and by the rules.

/// System calls that wait by design: a long one says that nothing happened, not that something is slow. With the reason.
pub const WAITING_CALLS: &[(&str, &str)] =
    &[("epoll_wait", "waits for events"), ("futex", "waits for another thread"), ("nanosleep", "asked to sleep")];

/// Errors that are normal life: (system call or `*`, errno, reason).
pub const NORMAL_ERRORS: &[(&str, i32, &str)] = &[("*", libc::EAGAIN, "nothing to read or write yet")];

/// Whether a call waits by design.
pub fn waits(call: &str) -> bool {
    WAITING_CALLS.iter().any(|(name, _)| *name == call)
}

/// Whether that error of that call is normal life.
pub fn is_normal_error(call: &str, errno: i32) -> bool {
    NORMAL_ERRORS.iter().any(|(name, number, _)| (*name == "*" || *name == call) && *number == errno)
}
