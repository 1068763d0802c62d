//! What a program on a hook costs that only takes a timestamp.

use std::path::Path;
use std::rc::Rc;

use anyhow::Context;
use aya::programs::BtfTracePoint;
use aya::{Btf, Ebpf};

/// The compiled floor programs.
#[derive(Clone)]
pub(super) struct Floor {
    object: Vec<u8>,
    btf: Rc<Btf>,
}

impl Floor {
    pub(super) fn compile() -> anyhow::Result<Self> {
        let object = crate::bpf::compile_to_temp(Path::new("../../xtask/src/bench/floor.bpf.c"))?;
        Ok(Self { object, btf: Rc::new(Btf::from_sys_fs()?) })
    }

    /// Attaches programs to hooks; they are gone when what it gives is.
    pub(super) fn attach(&self, programs: &[(&str, &str)]) -> anyhow::Result<Ebpf> {
        let mut loaded = Ebpf::load(&self.object)?;
        for (name, hook) in programs {
            let program: &mut BtfTracePoint = loaded.program_mut(name).context("in floor.bpf.c")?.try_into()?;
            program.load(hook, &self.btf)?;
            program.attach()?;
        }
        Ok(loaded)
    }

    /// The programs that take a timestamp at these hooks.
    pub(super) fn stamp(&self, hooks: &[&str]) -> anyhow::Result<Ebpf> {
        let names: Vec<_> = hooks.iter().map(|hook| format!("stamp_{hook}")).collect();
        let programs: Vec<_> = names.iter().map(String::as_str).zip(hooks.iter().copied()).collect();
        self.attach(&programs)
    }
}
