//! A run that needs a machine of its own making.

use std::time::Duration;

use super::boot::{Guest, Machine, Outcome};
use super::image::Image;
use super::{Vm, home};

/// A machine, and the tests to run in it.
pub(super) struct Case {
    /// The module of the tests, such as `conditions::lockdown`.
    pub(super) tests: &'static str,
    /// The kernel lines that it runs on unless told otherwise: where kernels differ, each; else one.
    pub(super) lines: &'static [&'static str],
    pub(super) machine: Machine<'static>,
}

impl Case {
    /// With a machine like that of the kernel tests.
    pub(super) const fn new(tests: &'static str, lines: &'static [&'static str]) -> Self {
        Self { tests, lines, machine: Machine { cpus: 2, memory_mib: 1024, append: "", qemu: &[] } }
    }

    pub(super) const fn append(mut self, words: &'static str) -> Self {
        self.machine.append = words;
        self
    }

    pub(super) const fn cpus(mut self, cpus: u32) -> Self {
        self.machine.cpus = cpus;
        self
    }

    pub(super) const fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.machine.memory_mib = memory_mib;
        self
    }

    pub(super) const fn qemu(mut self, arguments: &'static [&'static str]) -> Self {
        self.machine.qemu = arguments;
        self
    }

    pub(super) fn runs_on(&self, line: &str, args: &Vm) -> bool {
        args.all || !args.kernel.is_empty() || self.lines.contains(&line)
    }

    pub(super) fn run(&self, args: &Vm, line: &str, image: &Image, programs: &[std::path::PathBuf]) -> Outcome {
        let append = format!("{} {}", self.machine.append, args.append);
        let machine = Machine { append: &append, ..self.machine };
        let command = format!("KERNO_UNDER_TEST=/tmp/bin/kerno exec /tmp/bin/vm --test-threads 1 {}::", self.tests);
        let log = home().join(format!("logs/{}-{line}.log", self.tests.replace("::", "-")));
        Guest { image, machine: &machine, files: programs, command: &command, log: &log }
            .run(Duration::from_secs(args.minutes * 60))
    }
}
