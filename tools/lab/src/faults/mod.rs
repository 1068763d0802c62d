//! The faults, by what they are faults of.

mod cpu;
mod descriptors;
mod disk;
pub(crate) mod dns;
pub(crate) mod drops;
mod filesystem;
mod kernel;
pub(crate) mod life;
mod limits;
mod memory;
mod neighbours;
mod network;
mod programs;
mod several;
mod standing;
mod stuck;
mod syscalls;

use super::case::Case;

pub(super) fn all() -> impl Iterator<Item = &'static Case> {
    let groups = [
        disk::CASES,
        neighbours::CASES,
        filesystem::CASES,
        kernel::CASES,
        network::CASES,
        dns::CASES,
        drops::CASES,
        stuck::CASES,
        cpu::CASES,
        descriptors::CASES,
        memory::CASES,
        syscalls::CASES,
        several::CASES,
        standing::CASES,
        programs::CASES,
        limits::CASES,
        life::CASES,
    ];
    groups.into_iter().flatten()
}
