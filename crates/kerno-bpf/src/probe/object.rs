//! A compiled object: into the kernel, and onto its hooks.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;

use aya::maps::MapError;
use aya::programs::{BtfTracePoint, FExit, Iter, Program};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};

use super::error::{LoadError, chain};
use super::meminfo;
use super::plan::{Hook, Placed, Plan};

/// A compiled object and what to call it in errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    pub(crate) name: &'static str,
    pub(crate) data: &'static [u8],
}

impl Object {
    /// Makes its maps and has the plan's programs verified; attaches nothing. What the kernel refuses and has a substitute is replaced
    /// in the plan.
    pub(super) fn load(self, plan: &mut Plan, btf: &aya::Btf) -> Result<Ebpf, LoadError> {
        let mut loader = EbpfLoader::new();
        loader.btf(Some(btf)).verifier_log_level(VerifierLogLevel::DEBUG);
        for (name, bytes, must_exist) in &plan.globals {
            loader.override_global(name, bytes.as_slice(), *must_exist);
        }
        for (name, entries) in &plan.map_entries {
            loader.map_max_entries(name, *entries);
        }
        self.room_for_ring(plan)?;
        let mut ebpf = loader.load(self.data).map_err(|error| self.not_made(&error))?;
        for (name, hook) in plan.programs.clone() {
            let Err(error) = load(&mut ebpf, name, hook, btf) else { continue };
            let Some((name, hook)) = plan.substitute(name) else { return Err(refused(name, hook, error.as_ref())) };
            load(&mut ebpf, name, hook, btf).map_err(|error| refused(name, hook, error.as_ref()))?;
        }
        Ok(ebpf)
    }

    /// Maps are made here, and it is mostly the ring that there is no memory for.
    fn not_made(self, error: &EbpfError) -> LoadError {
        match error {
            EbpfError::MapError(MapError::CreateError { name, io_error })
                if io_error.raw_os_error() == Some(libc::ENOMEM) =>
            {
                self.no_memory(name, libc::ENOMEM)
            }
            _ => LoadError::Refused { what: format!("the {} object", self.name), detail: chain(error) },
        }
    }

    /// Refuses a ring larger than the memory there is. The kernel takes it page by page; older ones (seen on 5.10) end processes before
    /// they say that there is none left.
    fn room_for_ring(self, plan: &Plan) -> Result<(), LoadError> {
        let ring = plan.map_entries.iter().find(|(map, _)| *map == "events").map_or(0, |(_, bytes)| u64::from(*bytes));
        // What the kernel could hand out without ending anyone (Linux 3.14).
        match meminfo::bytes_of(&meminfo::read(), "MemAvailable") {
            Some(available) if ring > available => Err(self.no_memory("events", libc::ENOMEM)),
            _ => Ok(()),
        }
    }

    fn no_memory(self, map: &str, errno: i32) -> LoadError {
        LoadError::Memory { what: format!("map {map} of {}", self.name), source: io::Error::from_raw_os_error(errno) }
    }

    pub(super) fn missing_map(self, map: &str) -> LoadError {
        LoadError::Refused {
            what: format!("the {} object", self.name),
            detail: format!("has no map {map} of the kind expected; the build is broken"),
        }
    }
}

/// Attaches loaded programs in the plan's order; iterators that only seed are read once.
pub(super) fn attach(ebpf: &mut Ebpf, programs: &[Placed]) -> Result<(), LoadError> {
    for (name, hook) in programs {
        attach_one(ebpf, name, *hook).map_err(|error| refused(name, *hook, error.as_ref()))?;
    }
    Ok(())
}

/// How often the kernel skipped a program of these because it interrupted itself.
pub(super) fn missed_runs(ebpf: &Ebpf) -> u64 {
    ebpf.programs().filter_map(|(_, program)| program.fd().ok()).map(|fd| super::sys::missed_runs(fd.as_fd())).sum()
}

/// Runs a loaded iterator over what there is now, in the caller's network namespace, and appends what it writes.
pub(super) fn run_iterator(ebpf: &mut Ebpf, name: &str, out: &mut Vec<u8>) -> io::Result<()> {
    let file = open_iterator(ebpf, name).map_err(|error| io::Error::other(chain(error.as_ref())))?;
    read_iterator(file, out)
}

/// Runs a loaded iterator until its end (with `ends`, or until its program asks for the same object again); appends at most `room`
/// bytes and gives how many more there were.
pub(super) fn run_iterator_into(
    ebpf: &mut Ebpf,
    name: &str,
    out: &mut Vec<u8>,
    room: usize,
    ends: bool,
) -> io::Result<u64> {
    let mut file = open_iterator(ebpf, name).map_err(|error| io::Error::other(chain(error.as_ref())))?;
    let mut chunk = vec![0; 1 << 15];
    let (mut left, mut beyond) = (room, 0);
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(beyond),
            Ok(bytes) => {
                let kept = bytes.min(left);
                out.extend(chunk.iter().take(kept));
                left -= kept;
                beyond += (bytes - kept) as u64;
            }
            Err(error) if ends && error.raw_os_error() == Some(libc::EAGAIN) => return Ok(beyond),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The kernel hands out at most what fits its page-sized (or, when asked, larger) buffer a call.
fn read_iterator(mut file: File, out: &mut Vec<u8>) -> io::Result<()> {
    out.reserve(1 << 16);
    loop {
        match file.read_to_end(out) {
            Ok(_) => return Ok(()),
            // It stops so that a signal or another task gets its turn; the position is kept.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

fn open_iterator(ebpf: &mut Ebpf, name: &str) -> Result<File, Box<dyn std::error::Error>> {
    let program: &mut Iter = ebpf.program_mut(name).ok_or(NO_PROGRAM)?.try_into()?;
    let link = program.attach()?;
    Ok(program.take_link(link)?.into_file()?)
}

fn refused(name: &str, hook: Hook, error: &dyn std::error::Error) -> LoadError {
    let detail = chain(error);
    // Who may load tracing programs is refused these for one reason only (bpf_tracing_func_proto, kernel/trace/bpf_trace.c). The mode
    // itself is not to be seen where no securityfs is mounted.
    let refused = ["cannot use helper bpf_probe_read", "unknown func bpf_probe_read"];
    if refused.iter().any(|words| detail.contains(words)) {
        return LoadError::Kernel(super::host::LOCKED_DOWN.to_owned());
    }
    LoadError::Refused { what: format!("program {name} on {}", hook.display()), detail }
}

const NO_PROGRAM: &str = "not in the object; the build is broken";

fn load(ebpf: &mut Ebpf, name: &str, hook: Hook, btf: &aya::Btf) -> Result<(), Box<dyn std::error::Error>> {
    let program: &mut Program = ebpf.program_mut(name).ok_or(NO_PROGRAM)?;
    let _blocked = super::sys::SignalsBlocked::new();
    match hook {
        Hook::Tracepoint(tracepoint) => <&mut BtfTracePoint>::try_from(program)?.load(tracepoint, btf)?,
        Hook::FunctionExit(function) => {
            let program = <&mut FExit>::try_from(program)?;
            program.load(function, btf)?;
            // arm64 before Linux 6.0 verifies it and only then says that it cannot be attached. What was attached once cannot be again
            // on older kernels (5.10 is one), so it is loaded anew.
            program.attach()?;
            program.unload()?;
            program.load(function, btf)?;
        }
        Hook::Seed(iterator) | Hook::Iterator(iterator) => <&mut Iter>::try_from(program)?.load(iterator, btf)?,
    }
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, name: &str, hook: Hook) -> Result<(), Box<dyn std::error::Error>> {
    match hook {
        Hook::Tracepoint(_) => {
            let program: &mut Program = ebpf.program_mut(name).ok_or(NO_PROGRAM)?;
            <&mut BtfTracePoint>::try_from(program)?.attach()?;
        }
        Hook::FunctionExit(_) => {
            let program: &mut Program = ebpf.program_mut(name).ok_or(NO_PROGRAM)?;
            <&mut FExit>::try_from(program)?.attach()?;
        }
        Hook::Seed(_) => {
            io::copy(&mut open_iterator(ebpf, name)?, &mut io::sink())?;
            <&mut Iter>::try_from(ebpf.program_mut(name).ok_or(NO_PROGRAM)?)?.unload()?;
        }
        Hook::Iterator(_) => {}
    }
    Ok(())
}
