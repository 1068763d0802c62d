//! Where the time of a few processes goes, and whom they wait for.
//!
//! | | |
//! |---|---|
//! | hooks | `tp_btf/sched_switch`, `tp_btf/sched_waking`, `tp_btf/sched_wakeup_new`; `contention_begin` and `contention_end` (5.19), `sock_send_length` and `sock_recv_length` (6.3); `iter/task` |
//! | minimum kernel | 5.10 |
//! | cost | of a process that is not followed: an array slot a hook. Of one that is: a hash look-up a hook, and for each sleep its registers, the file behind its descriptor, and the kernel's stack where the call alone does not say what it waits for |
//! | kernel memory | about 8 MB |
//!
//! A [`WhyWatch`] follows the threads of a [`Target`] and accounts for all of their time. Whoever they wait for most is followed, too, from
//! the next [`step`](WhyWatch::step) on. [`kerno_doctor::why::explain`] makes accounts and the chain of waits of what was observed.
//!
//! Not seen: what was sent before it began, where a socket itself does not tell; which lock of a program a futex is, beyond those that
//! store their owner (glibc's, and `FUTEX_LOCK_PI`); before Linux 6.3, requests and answers, so that a wait for one in an event loop looks
//! like a wait for work; before 5.19, who holds a lock of the kernel.

mod disks;
mod objects;
mod programs;
mod symbols;
mod target;
mod watch;

#[cfg(test)]
pub(crate) use programs::plan;
pub use target::Target;
pub use watch::{WhyError, WhyOptions, WhyWatch};
