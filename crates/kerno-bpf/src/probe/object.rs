//! A compiled object: into the kernel, and onto its hooks. aya-obj reads and relocates it; what is asked of the kernel is asked here, since
//! aya's own loader reads all of the kernel's types for each object.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData, MapError};
use aya_obj::btf::BtfFeatures;
use aya_obj::generated::bpf_attach_type;
use aya_obj::{EbpfSectionKind, Function};

use super::btf::Btf;
use super::error::{LoadError, chain};
use super::meminfo;
use super::parallel;
use super::plan::{Hook, Placed, Plan, RING, Substitute};
use super::sys::{self, ProgramToLoad, Records};

/// A compiled object and what to call it in errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object {
    pub(crate) name: &'static str,
    pub(crate) data: &'static [u8],
}

/// An object's programs and maps in the kernel. Dropping it detaches and unloads everything but the maps that were taken.
#[derive(Debug)]
pub(super) struct Loaded {
    programs: Vec<Program>,
    maps: HashMap<String, Map>,
}

/// A verified program. What it is attached with goes first.
#[derive(Debug)]
struct Program {
    name: &'static str,
    link: Option<OwnedFd>,
    fd: OwnedFd,
}

/// Kinds of types that Linux 5.10 knows; newer ones are replaced in what the kernel is given.
const KNOWN_TYPES: BtfFeatures = BtfFeatures::new(true, true, true, false, false, false, false, false);

impl Object {
    /// Makes its maps and has the plan's programs verified; attaches nothing. What the kernel refuses and has a substitute is replaced
    /// in the plan.
    pub(super) fn load(self, plan: &mut Plan, kernel: &Btf) -> Result<Loaded, LoadError> {
        self.room_for_ring(plan)?;
        let source = self.prepare(plan, kernel)?;
        let load = |(name, hook)| (name, hook, source.load(name, hook, kernel));
        let mut programs = Vec::with_capacity(plan.programs.len());
        // The verifier needs a processor's time for each, and no lock that others need. The longest first, so that no processor is left with it
        // when the others are done.
        let mut longest_first = plan.programs.clone();
        longest_first.sort_by_key(|(name, _)| std::cmp::Reverse(source.length(name)));
        for (name, hook, loaded) in parallel::each(longest_first, load) {
            let (name, fd) = match loaded {
                Ok(fd) => (name, fd),
                Err(error) => match plan.substitute(name) {
                    None => return Err(refused(name, hook, &error)),
                    Some(Substitute::Planned) => continue,
                    Some(Substitute::Load((name, hook))) => {
                        (name, source.load(name, hook, kernel).map_err(|error| refused(name, hook, &error))?)
                    }
                },
            };
            programs.push(Program { name, link: None, fd });
        }
        Ok(Loaded { programs, maps: source.maps })
    }

    /// Reads and relocates it, and makes its maps.
    fn prepare(self, plan: &Plan, kernel: &Btf) -> Result<Source, LoadError> {
        let refused = |error: &dyn std::error::Error| LoadError::Refused {
            what: format!("the {} object", self.name),
            detail: chain(error),
        };
        let mut object = aya_obj::Object::parse(self.data).map_err(|error| refused(&error))?;
        let globals = plan.globals.iter().map(|(name, bytes, must_exist)| (*name, (bytes.as_slice(), *must_exist)));
        object.patch_map_data(globals.collect()).map_err(|error| refused(&error))?;
        // The types as they are in the object, before any is replaced: relocations ask for these.
        let relocatable = kernel.relocatable(&object).map_err(|error| refused(&error))?;
        let types = object.fixup_and_sanitize_btf(&KNOWN_TYPES).map_err(|error| refused(&error))?;
        let types = types.ok_or_else(|| self.broken("has no types"))?.to_bytes();
        let btf = sys::load_btf(&types).map_err(|error| LoadError::Refused {
            what: format!("the types of the {} object", self.name),
            detail: error.to_string(),
        })?;
        object.relocate_btf(&relocatable).map_err(|error| refused(&error))?;
        drop(relocatable);

        let mut maps = Vec::new();
        for (name, mut map) in std::mem::take(&mut object.maps) {
            if let Some((_, entries)) = plan.map_entries.iter().find(|(sized, _)| *sized == name) {
                map.set_max_entries(*entries);
            }
            let data = self.make_map(&name, &map, &btf)?;
            maps.push((name, data, map));
        }
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        let places = maps.iter().map(|(name, data, map)| (name.as_str(), data.fd().as_fd().as_raw_fd(), map));
        object.relocate_maps(places, &sections).map_err(|error| refused(&error))?;
        object.relocate_calls(&sections).map_err(|error| refused(&error))?;
        let typed = |(name, data, _)| match Map::from_map_data(data) {
            Ok(map) => Ok((name, map)),
            Err(error) => Err(refused(&error)),
        };
        Ok(Source { object, btf, maps: maps.into_iter().map(typed).collect::<Result<_, _>>()? })
    }

    /// Makes a map, with the object's variables in it where it is one of those that the compiler made.
    fn make_map(self, name: &str, map: &aya_obj::Map, btf: &OwnedFd) -> Result<MapData, LoadError> {
        let data = MapData::create(map.clone(), name, Some(btf.as_fd())).map_err(|error| self.not_made(&error))?;
        let refused = |error: io::Error| LoadError::Refused {
            what: format!("map {name} of {}", self.name),
            detail: error.to_string(),
        };
        if !map.data().is_empty() {
            sys::set_only_element(data.fd().as_fd(), map.data()).map_err(refused)?;
        }
        if map.section_kind() == EbpfSectionKind::Rodata {
            sys::freeze(data.fd().as_fd()).map_err(refused)?;
        }
        Ok(data)
    }

    /// It is mostly the ring that there is no memory for.
    fn not_made(self, error: &MapError) -> LoadError {
        match error {
            MapError::CreateError { name, io_error } if io_error.raw_os_error() == Some(libc::ENOMEM) => {
                self.no_memory(name, libc::ENOMEM)
            }
            _ => LoadError::Refused { what: format!("the {} object", self.name), detail: chain(error) },
        }
    }

    /// Refuses a ring larger than the memory there is. The kernel takes it page by page; older ones (seen on 5.10) end processes before
    /// they say that there is none left.
    fn room_for_ring(self, plan: &Plan) -> Result<(), LoadError> {
        let rings = plan.map_entries.iter().filter(|(map, _)| map.starts_with(RING));
        let ring: u64 = rings.map(|(_, bytes)| u64::from(*bytes)).sum();
        if ring == 0 {
            return Ok(());
        }
        // What the kernel could hand out without ending anyone (Linux 3.14).
        match meminfo::bytes_of(&meminfo::read(), "MemAvailable") {
            Some(available) if ring > available => Err(self.no_memory(RING, libc::ENOMEM)),
            _ => Ok(()),
        }
    }

    fn no_memory(self, map: &str, errno: i32) -> LoadError {
        LoadError::Memory { what: format!("map {map} of {}", self.name), source: io::Error::from_raw_os_error(errno) }
    }

    pub(super) fn missing_map(self, map: &str) -> LoadError {
        self.broken(&format!("has no map {map} of the kind expected"))
    }

    fn broken(self, what: &str) -> LoadError {
        LoadError::Refused { what: format!("the {} object", self.name), detail: format!("{what}; the build is broken") }
    }
}

/// A relocated object whose maps are made: its programs can be loaded.
struct Source {
    object: aya_obj::Object,
    btf: OwnedFd,
    maps: HashMap<String, Map>,
}

impl Source {
    /// Of a program with the functions that it calls, in instructions; 0 if there is no such program.
    fn length(&self, name: &str) -> usize {
        let key = self.object.programs.get(name).map(aya_obj::Program::function_key);
        key.and_then(|key| self.object.functions.get(&key)).map_or(0, |function| function.instructions.len())
    }

    fn load(&self, name: &str, hook: Hook, kernel: &Btf) -> Result<OwnedFd, ProgramError> {
        let key = self.object.programs.get(name).ok_or(ProgramError::NotInObject)?.function_key();
        let function = self.object.functions.get(&key).ok_or(ProgramError::NotInObject)?;
        let (attach_type, target) = match hook {
            Hook::Tracepoint(name) => (bpf_attach_type::BPF_TRACE_RAW_TP, kernel.tracepoint_id(name)),
            Hook::FunctionExit(name) => (bpf_attach_type::BPF_TRACE_FEXIT, kernel.function_id(name)),
            Hook::Seed(name) | Hook::Iterator(name) => (bpf_attach_type::BPF_TRACE_ITER, kernel.iterator_id(name)),
        };
        let attach_btf_id = target.ok_or(ProgramError::NoTarget)?;
        let load = || self.verify(name, function, attach_type, attach_btf_id);
        let program = load()?;
        if !matches!(hook, Hook::FunctionExit(_)) {
            return Ok(program);
        }
        // arm64 before Linux 6.4 verifies it and only then says that it cannot be attached. What was attached once cannot be again
        // on older kernels (5.10 is one), so it is loaded anew.
        sys::attach(program.as_fd()).map_err(ProgramError::Attach)?;
        drop(program);
        load()
    }

    fn verify(
        &self,
        name: &str,
        function: &Function,
        attach_type: bpf_attach_type,
        attach_btf_id: u32,
    ) -> Result<OwnedFd, ProgramError> {
        /// A signal that comes all the same (SIGKILL, SIGSTOP) interrupts the verifier.
        const ATTEMPTS: usize = 5;
        /// Of the verifier's log: kernels before 6.4 keep its begin only and fail when it is longer, later ones its end.
        const LOG_BYTES: [usize; 2] = [1 << 20, 1 << 24];

        let (functions, lines) = (function.func_info.func_info_bytes(), function.line_info.line_info_bytes());
        let program = ProgramToLoad {
            name,
            license: &self.object.license,
            instructions: &function.instructions,
            attach_type,
            attach_btf_id,
            btf: self.btf.as_fd(),
            functions: Records { bytes: &functions, record_bytes: function.func_info_rec_size },
            lines: Records { bytes: &lines, record_bytes: function.line_info_rec_size },
        };
        let _blocked = sys::SignalsBlocked::new();
        let interrupted = |error: &io::Error| error.raw_os_error() == Some(libc::EAGAIN);
        let mut result = sys::load_program(&program, &mut []);
        for _ in 1..ATTEMPTS {
            if !result.as_ref().is_err_and(interrupted) {
                break;
            }
            result = sys::load_program(&program, &mut []);
        }
        let mut refusal = match result {
            Ok(fd) => return Ok(fd),
            Err(error) if interrupted(&error) => return Err(ProgramError::Refused(error, String::new())),
            Err(error) => ProgramError::Refused(error, String::new()),
        };
        // Again, to learn why: writing the log takes longer than all the rest.
        for bytes in LOG_BYTES {
            let mut log = vec![0; bytes];
            let Err(error) = sys::load_program(&program, &mut log) else { continue };
            let full = error.raw_os_error() == Some(libc::ENOSPC);
            refusal = ProgramError::Refused(error, last_words(&log));
            if !full {
                break;
            }
        }
        Err(refusal)
    }
}

/// The end of the verifier's log, which says what it did not like.
fn last_words(log: &[u8]) -> String {
    const BYTES: usize = 4096;
    let log = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(&log[log.len().saturating_sub(BYTES)..]);
    match text.split_once('\n') {
        Some((_, whole_lines)) if log.len() > BYTES => whole_lines.to_owned(),
        _ => text.into_owned(),
    }
}

/// Why a program was not loaded or attached.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error("not in the object; the build is broken")]
    NotInObject,
    #[error("the kernel has no such hook")]
    NoTarget,
    #[error("the kernel refused it: {0}. Verifier output: {1}")]
    Refused(io::Error, String),
    #[error("it cannot be attached: {0}")]
    Attach(io::Error),
    #[error("cannot run it: {0}")]
    Run(io::Error),
}

impl Loaded {
    /// Takes a map: it stays when the programs go.
    pub(super) fn take_map(&mut self, name: &str) -> Option<Map> {
        self.maps.remove(name)
    }

    /// A map that was not taken.
    pub(super) fn map_mut(&mut self, name: &str) -> Option<&mut Map> {
        self.maps.get_mut(name)
    }

    /// Attaches the programs in the plan's order; iterators that only seed are read once.
    pub(super) fn attach(&mut self, programs: &[Placed]) -> Result<(), LoadError> {
        programs
            .iter()
            .try_for_each(|(name, hook)| self.attach_one(name, *hook).map_err(|error| refused(name, *hook, &error)))
    }

    fn attach_one(&mut self, name: &str, hook: Hook) -> Result<(), ProgramError> {
        match hook {
            Hook::Tracepoint(_) | Hook::FunctionExit(_) => {
                let program = self.programs.iter_mut().find(|program| program.name == name);
                let program = program.ok_or(ProgramError::NotInObject)?;
                program.link = Some(sys::attach(program.fd.as_fd()).map_err(ProgramError::Attach)?);
            }
            Hook::Seed(_) => {
                let mut file = self.open_iterator(name).map_err(ProgramError::Run)?;
                io::copy(&mut file, &mut io::sink()).map_err(ProgramError::Run)?;
                self.programs.retain(|program| program.name != name);
            }
            Hook::Iterator(_) => {}
        }
        Ok(())
    }

    /// The descriptors of those of these programs that are loaded.
    pub(super) fn descriptors(&self, of: &[Placed]) -> impl Iterator<Item = BorrowedFd<'_>> {
        let asked_for = |program: &&Program| of.iter().any(|(name, _)| *name == program.name);
        self.programs.iter().filter(asked_for).map(|program| program.fd.as_fd())
    }

    /// Runs a loaded iterator over what there is now, in the caller's network namespace, and appends what it writes.
    pub(super) fn run_iterator(&self, name: &str, out: &mut Vec<u8>) -> io::Result<()> {
        let mut file = self.open_iterator(name)?;
        out.reserve(1 << 16);
        // The kernel hands out at most what fits its page-sized (or, when asked, larger) buffer a call.
        loop {
            match file.read_to_end(out) {
                Ok(_) => return Ok(()),
                // It stops so that a signal or another task gets its turn; the position is kept.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins to run a loaded iterator in the caller's network namespace.
    pub(super) fn begin_iterator(&self, name: &str) -> io::Result<Iteration> {
        Ok(Iteration { file: self.open_iterator(name)?, chunk: vec![0; 1 << 15] })
    }

    fn open_iterator(&self, name: &str) -> io::Result<File> {
        let program = self.programs.iter().find(|program| program.name == name);
        let program = program.ok_or_else(|| io::Error::other(ProgramError::NotInObject))?;
        Ok(File::from(sys::open_iterator(program.fd.as_fd())?))
    }
}

/// An iterator that is being read. It stays where it is until it is read on, in whatever thread.
#[derive(Debug)]
pub(crate) struct Iteration {
    file: File,
    chunk: Vec<u8>,
}

/// Why an iterator is read no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is no more.
    End,
    /// Its program asked for the same object again (returned 1), or the kernel lets others have their turn. It can be read on.
    Rest,
}

impl Iteration {
    /// Reads until it stops; appends at most `room` bytes and gives how many more there were.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>, room: usize) -> io::Result<(Stop, u64)> {
        let (mut left, mut beyond) = (room, 0);
        loop {
            match self.file.read(&mut self.chunk) {
                Ok(0) => return Ok((Stop::End, beyond)),
                Ok(bytes) => {
                    let kept = bytes.min(left);
                    out.extend(self.chunk.iter().take(kept));
                    left -= kept;
                    beyond += (bytes - kept) as u64;
                }
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return Ok((Stop::Rest, beyond)),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn refused(name: &str, hook: Hook, error: &ProgramError) -> LoadError {
    let detail = error.to_string();
    // Who may load tracing programs is refused these for one reason only (bpf_tracing_func_proto, kernel/trace/bpf_trace.c). The mode
    // itself is not to be seen where no securityfs is mounted.
    let refused = ["cannot use helper bpf_probe_read", "unknown func bpf_probe_read"];
    if refused.iter().any(|words| detail.contains(words)) {
        return LoadError::Kernel(super::host::LOCKED_DOWN.to_owned());
    }
    LoadError::Refused { what: format!("program {name} on {}", hook.display()), detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_last_whole_lines_are_kept() {
        assert_eq!(last_words(b"0: R1=ctx()\ncannot use helper\n\0\0\0"), "0: R1=ctx()\ncannot use helper\n");
        assert_eq!(last_words(&[0; 8]), "");
        let long = "0123456789\n".repeat(1000) + "invalid access\n";
        let kept = last_words(long.as_bytes());
        assert!(kept.len() <= 4096 && kept.starts_with("0123456789\n") && kept.ends_with("invalid access\n"), "{kept}");
    }
}
