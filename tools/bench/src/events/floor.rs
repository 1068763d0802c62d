//! Programs to compare with: empty ones, ones that only take a timestamp, and the common design of a hash map and a ring.

use std::rc::Rc;

use anyhow::Context;
use aya::maps::RingBuf;
use aya::programs::{BtfTracePoint, Program};
use aya::{Btf, Ebpf};

use super::super::child::{Child, spawn};
use super::super::{compiled, cpus};

/// The compiled programs.
#[derive(Clone)]
pub(super) struct Floor {
    floor: Rc<Vec<u8>>,
    hash_ring: Rc<Vec<u8>>,
    btf: Rc<Btf>,
}

impl Floor {
    pub(super) fn compile() -> anyhow::Result<Self> {
        let compile = |name| compiled(&format!("events/{name}.bpf.c")).map(Rc::new);
        Ok(Self { floor: compile("floor")?, hash_ring: compile("hash_ring")?, btf: Rc::new(Btf::from_sys_fs()?) })
    }

    /// The programs `PREFIX_HOOK` at these hooks, by prefix; they are gone when what it gives is.
    pub(super) fn attach(&self, programs: &[(&str, &[&str])]) -> anyhow::Result<Ebpf> {
        let mut loaded = Ebpf::load(&self.floor)?;
        for (prefix, hooks) in programs {
            self.attach_to(&mut loaded, prefix, hooks)?;
        }
        Ok(loaded)
    }

    fn attach_to(&self, loaded: &mut Ebpf, prefix: &str, hooks: &[&str]) -> anyhow::Result<()> {
        for hook in hooks {
            let name = format!("{prefix}_{hook}");
            match loaded.program_mut(&name).with_context(|| format!("no program {name}"))? {
                Program::BtfTracePoint(program) => attach_typed(program, hook, &self.btf)?,
                Program::TracePoint(program) => {
                    program.load()?;
                    program.attach("syscalls", hook)?;
                }
                _ => anyhow::bail!("{name} is neither kind of tracepoint"),
            }
        }
        Ok(())
    }

    /// A hash map and a ring, with a process that reads it.
    pub(super) fn hash_ring(&self, hooks: &[&str]) -> anyhow::Result<(Ebpf, Child)> {
        let mut loaded = Ebpf::load(&self.hash_ring)?;
        let mut ring = RingBuf::try_from(loaded.take_map("records").context("no map records")?)?;
        let reader = spawn(|| {
            if let Err(error) = drain(&mut ring) {
                eprintln!("the reader of the ring: {error:#}");
            }
        })?;
        self.attach_to(&mut loaded, "ring", hooks)?;
        Ok((loaded, reader))
    }
}

fn attach_typed(program: &mut BtfTracePoint, hook: &str, btf: &Btf) -> anyhow::Result<()> {
    program.load(hook, btf)?;
    program.attach()?;
    Ok(())
}

/// Sleeps until the kernel wakes it, as such tools do.
fn drain(ring: &mut RingBuf<aya::maps::MapData>) -> anyhow::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    cpus::pin(cpus::others())?;
    let mut sum = 0u64;
    loop {
        poll(&mut [PollFd::new(&*ring, PollFlags::IN)], None)?;
        while let Some(record) = ring.next() {
            sum = sum.wrapping_add(u64::from(record.first().copied().unwrap_or_default()));
        }
        std::hint::black_box(sum);
    }
}
