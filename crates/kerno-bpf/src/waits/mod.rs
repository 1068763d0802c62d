//! What a sleeping thread waits for, and who would have to act so that it goes on: the other end of a pipe or a socket, the holder of a
//! lock, a child. Made of `/proc` and sock_diag alone; knows nothing of windows and signals.
//!
//! Everything here is a question about one moment, and may hang, since some files of `/proc` take a lock of the process that they are
//! about: ask where a deadline is kept. Ids are those of the initial pid namespace.
//!
//! - [`asleep`]: the call that a thread sleeps in, and what its descriptor leads to.
//! - [`ends`]: which processes have the other end of it.
//! - [`locks`]: who holds a lock of a file or a mutex.
//! - [`namespaces`]: which one a process is in, and what it sees there.
//! - [`state`]: why a process does not do its part.
//! - [`places`]: at which file system or cgroup one is stuck.
//! - [`dns`]: which DNS server does not answer.
//! - [`chain`]: all this together, from a thread that waits to the one that all wait for.

// Some of it is for one user only.
#![allow(dead_code, reason = "an interface for several users")]

pub(crate) mod asleep;
pub(crate) mod chain;
pub(crate) mod dns;
pub(crate) mod ends;
pub(crate) mod locks;
pub(crate) mod namespaces;
pub(crate) mod net;
pub(crate) mod places;
pub(crate) mod state;

#[cfg(test)]
mod testing;
