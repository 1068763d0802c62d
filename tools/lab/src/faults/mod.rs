//! The faults, by what they are faults of.

mod cpu;
mod descriptors;
mod disk;
mod filesystem;
mod limits;
mod memory;
mod network;
mod several;
mod standing;
mod syscalls;

use super::case::Case;

pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    let groups = [
        disk::CASES,
        filesystem::CASES,
        network::CASES,
        cpu::CASES,
        descriptors::CASES,
        memory::CASES,
        syscalls::CASES,
        several::CASES,
        standing::CASES,
        limits::CASES,
    ];
    groups.into_iter().flatten()
}
