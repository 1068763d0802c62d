//! The committed objects against the kernels that people run, without running them: each kernel's types are stored in `tests/btf`
//! (`cargo xtask btf`). What a kernel's verifier says beyond that only a kernel can tell (`cargo xtask vm`).

mod missing;
mod reach;
mod relocations;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use aya_obj::btf::BtfKind;
use aya_obj::generated::bpf_insn;
use object::{Object as _, ObjectSymbol as _};

use super::btf::describe::{kind_name, without_flavour};
use super::{Hook, Host, KernelVersion, Object, Plan, loader};
use missing::MISSING;
use reach::{Knobs, Program, Reached};
use relocations::{INSTRUCTION_BYTES, Source};

/// A stored kernel.
struct Kernel {
    host: Host,
    /// Without the stable release's number, which Debian leaves out in some names.
    line: KernelVersion,
}

fn in_crate(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn files(folder: &str, suffix: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(in_crate(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(suffix)?.to_owned();
            Some((name, std::fs::read(path).unwrap()))
        })
        .collect();
    files.sort();
    files
}

/// The oldest first.
static KERNELS: LazyLock<Vec<Kernel>> = LazyLock::new(|| {
    let kernel = |(release, packed): (String, Vec<u8>)| {
        let mut btf = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut btf).unwrap();
        let host = Host::of_kernel(&release, btf).unwrap();
        Kernel { line: KernelVersion::new(host.version.major, host.version.minor), host }
    };
    let mut kernels: Vec<_> = files("tests/btf", ".btf.gz").into_iter().map(kernel).collect();
    kernels.sort_by_key(|kernel| kernel.line);
    kernels
});

static OBJECTS: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| files("objects", ".bpf.o"));

/// All that is loaded on a kernel.
fn plans(host: &Host) -> Vec<(Object, Plan)> {
    use crate::signals::{self, disk_io, file_audit, oom_track, sched_delay, syscall_latency, tcp_monitor};
    let mut plans = signals::hook_plans(host);
    plans.extend([
        disk_io::summary_plan(host),
        file_audit::summary_plan(host),
        oom_track::summary_plan(host),
        sched_delay::summary_plan(host),
        syscall_latency::summary_plan(host),
        tcp_monitor::summary_plan(host),
        Ok(crate::summary::Tasks::plan()),
    ]);
    plans.into_iter().map(Result::unwrap).collect()
}

fn assert_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_kernels_and_the_objects_are_all_there() {
    let lines: Vec<_> = KERNELS.iter().map(|kernel| (kernel.line.major, kernel.line.minor)).collect();
    assert_eq!(lines[..4], [(5, 10), (6, 1), (6, 12), (6, 18)]);
    assert!(lines.len() == 5 && lines[4] > lines[3], "{lines:?} has no newer one");
    // What proves histogram.h in the kernel is loaded by its test alone.
    let expected: BTreeSet<_> =
        OBJECTS.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "histogram_test").collect();
    for kernel in KERNELS.iter() {
        let planned: BTreeSet<_> = plans(&kernel.host).iter().map(|(object, _)| object.name).collect();
        assert_eq!(planned, expected, "{}", kernel.host.release);
    }
}

#[test]
fn every_relocation_finds_what_it_is_about_or_is_known_not_to() {
    let names = std::fs::read_to_string(in_crate("tests/btf/NAMES")).unwrap();
    let stored: BTreeSet<_> = names.lines().collect();
    let mut failures = Vec::new();
    let mut known = BTreeMap::new();
    let (mut checked, mut absent) = (0, BTreeSet::new());
    for (name, data) in OBJECTS.iter() {
        let source = Source::read(data);
        for kernel in KERNELS.iter() {
            let release = &kernel.host.release;
            let mut object = aya_obj::Object::parse(data).unwrap();
            let btf = &kernel.host.btf().unwrap().relocations;
            let found = match relocations::relocate(&mut object, &source.relocations, btf) {
                Ok(found) => found,
                Err(error) => {
                    failures.push(format!("{name}: cannot be relocated on {release}: {error}"));
                    continue;
                }
            };
            for (relocation, found) in
                source.relocations.iter().zip(found).filter(|(relocation, _)| !relocation.is_local())
            {
                checked += 1;
                let (access, line) = (&relocation.access, &relocation.line);
                let root = without_flavour(access.split(['.', '[']).next().unwrap());
                if !stored.contains(root) {
                    failures.push(format!("{name}: {root} ({line}) is not among the stored types: cargo xtask btf"));
                    continue;
                }
                let entry = MISSING.iter().find(|(missing, _)| missing == access);
                known.entry(access.clone()).or_insert(());
                if !found {
                    absent.insert(access.clone());
                }
                match (found, entry) {
                    (false, None) => failures.push(format!("{name}: {release} has no {access}: {line}")),
                    (_, Some((_, has))) if has.there(kernel.line) != found => {
                        let is = if found { "has" } else { "has no" };
                        failures.push(format!("{name}: {release} {is} {access}, and the table says {has:?}: {line}"));
                    }
                    _ => {}
                }
            }
        }
    }
    for (access, _) in MISSING {
        if !known.contains_key(*access) {
            failures.push(format!("the table has {access}, which no program asks for"));
        } else if !absent.contains(*access) {
            failures.push(format!("the table has {access}, which every kernel has"));
        }
    }
    failures.sort();
    failures.dedup();
    assert_none(&failures);
    assert!(checked > 5000, "only {checked} relocations");
}

#[test]
fn no_relocated_type_is_defined_twice() {
    let mut failures = BTreeSet::new();
    let mut checked = 0;
    let running = Host::detect();
    for (name, data) in OBJECTS.iter() {
        let source = Source::read(data);
        let roots =
            source.relocations.iter().filter(|relocation| !relocation.is_local()).map(|relocation| relocation.root);
        let roots: BTreeSet<_> = roots.map(|root| source.btf.kind_and_name(root).unwrap()).collect();
        for host in KERNELS.iter().map(|kernel| &kernel.host).chain([&running]) {
            for (kind, root) in &roots {
                // aya takes the first: no relocation may depend on the order.
                let definitions = host.btf().unwrap().index.definitions(*kind, without_flavour(root));
                checked += definitions;
                if definitions > 1 {
                    let kind = kind_name(*kind);
                    failures.insert(format!("{name}: {} has {definitions} definitions of {kind} {root}", host.release));
                }
            }
        }
    }
    assert_none(&failures.into_iter().collect::<Vec<_>>());
    assert!(checked > 500, "only {checked} definitions");
}

/// An object as it is loaded on a kernel, up to the bpf system call.
struct Linked {
    object: aya_obj::Object,
    source: Source,
    rodata: Option<i32>,
}

impl Linked {
    fn on(kernel: &Kernel, data: &[u8]) -> Self {
        let mut object = aya_obj::Object::parse(data).unwrap();
        let source = Source::read(data);
        relocations::relocate(&mut object, &source.relocations, &kernel.host.btf().unwrap().relocations).unwrap();
        let maps = object.maps.clone();
        let descriptors: BTreeMap<_, _> = maps.keys().zip(1000..).collect();
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        object
            .relocate_maps(maps.iter().map(|(name, map)| (name.as_str(), descriptors[name], map)), &sections)
            .unwrap();
        object.relocate_calls(&sections).unwrap();
        let rodata = descriptors.iter().find(|(name, _)| name.as_str() == ".rodata").map(|(_, descriptor)| *descriptor);
        Self { object, source, rodata }
    }

    fn instructions(&self, program: &str) -> &[bpf_insn] {
        &self.object.functions[&self.object.programs[program].function_key()].instructions
    }

    fn reach(&self, program: &str, knobs: &Knobs) -> Reached {
        Program { instructions: self.instructions(program), rodata: self.rodata, knobs }.reach()
    }

    /// The type whose member the instruction goes to, when it is relocated and the program's own.
    fn looked_into(&self, program: &str, instruction: usize) -> Option<&str> {
        let program = &self.object.programs[program];
        let function = &self.object.functions[&program.function_key()];
        let offset = function.section_offset + instruction * INSTRUCTION_BYTES;
        let here = |at: &&relocations::Relocation| at.section == program.section_index && at.offset == offset;
        let relocation = self.source.relocations.iter().find(here)?;
        Some(without_flavour(relocation.access.split(['.', '[']).next()?))
    }
}

/// The knobs whose values the stored kernels' plans do not agree on, by object: the kernel decides them, and the verifier sees them as
/// constants. Others are the user's or the machine's and may have any value.
fn decided_knobs() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut values: BTreeMap<_, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut set = BTreeMap::new();
    for kernel in KERNELS.iter() {
        for (object, plan) in plans(&kernel.host) {
            for (knob, value, _) in plan.globals {
                values.entry((object.name, knob)).or_default().insert(value);
                *set.entry((object.name, knob)).or_insert(0) += 1;
            }
        }
    }
    let mut decided: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for ((object, knob), values) in values {
        if values.len() > 1 || set[&(object, knob)] < KERNELS.len() {
            decided.entry(object).or_default().insert(knob);
        }
    }
    decided
}

/// The bytes of these knobs with the plan's values, or those they have in the object.
fn knobs(data: &[u8], plan: &Plan, decided: Option<&BTreeSet<&str>>) -> Knobs {
    let file = object::File::parse(data).unwrap();
    let rodata = crate::event::layout::elf_section(data, ".rodata");
    let mut knobs = Knobs::new();
    for symbol in file.symbols() {
        let name = symbol.name().unwrap();
        if !decided.is_some_and(|decided| decided.contains(name)) {
            continue;
        }
        let (at, len) = (symbol.address(), usize::try_from(symbol.size()).unwrap());
        let planned = plan.globals.iter().find(|(knob, _, _)| *knob == name).map(|(_, value, _)| value.as_slice());
        let value = planned.unwrap_or_else(|| &rodata[usize::try_from(at).unwrap()..][..len]);
        knobs.extend((at..).zip(value.iter().copied()));
    }
    knobs
}

/// Calls `each` with what every program can do on every kernel that it is planned for.
fn for_each_planned(mut each: impl FnMut(&Kernel, &Linked, &Object, &str, Hook, &Reached)) {
    let decided = decided_knobs();
    for kernel in KERNELS.iter() {
        for (object, plan) in plans(&kernel.host) {
            let linked = Linked::on(kernel, object.data);
            let knobs = knobs(object.data, &plan, decided.get(object.name));
            for (program, hook) in &plan.programs {
                let reached = linked.reach(program, &knobs);
                each(kernel, &linked, &object, program, *hook, &reached);
            }
        }
    }
}

#[test]
fn no_program_can_reach_what_its_kernel_lacks() {
    let mut failures = BTreeSet::new();
    let helpers: BTreeMap<u32, &str> = KERNELS
        .iter()
        .flat_map(|kernel| kernel.host.btf().unwrap().index.values("bpf_func_id"))
        .map(|(name, number)| (number, name))
        .collect();
    let mut programs = 0;
    for_each_planned(|kernel, linked, object, program, _, reached| {
        programs += 1;
        let place = format!("{}: {program} on {}", object.name, kernel.host.release);
        for poison in &reached.poisons {
            let relocation = &linked.source.relocations[*poison];
            failures
                .insert(format!("{place} can reach {}, which is not there: {}", relocation.access, relocation.line));
        }
        let has: BTreeSet<_> = kernel
            .host
            .btf()
            .unwrap()
            .index
            .values("bpf_func_id")
            .into_iter()
            .filter(|(name, _)| *name != "__BPF_FUNC_MAX_ID")
            .map(|(_, number)| number)
            .collect();
        assert!(has.len() > 100);
        for helper in reached.helpers.difference(&has) {
            failures.insert(format!("{place} can call {}, which is not there", helpers.get(helper).unwrap_or(&"?")));
        }
        if reached.fetches && kernel.line < KernelVersion::new(5, 12) {
            failures.insert(format!("{place} uses an atomic operation that gives the old value"));
        }
    });
    assert_none(&failures.into_iter().collect::<Vec<_>>());
    assert!(programs > 200, "only {programs} programs");
}

#[test]
fn every_planned_hook_is_there_with_the_arguments_that_are_read() {
    let mut failures = BTreeSet::new();
    let mut typed = 0;
    for kernel in KERNELS.iter() {
        for (object, plan) in plans(&kernel.host) {
            if let Err(error) = loader::hooks_exist(&kernel.host, &plan) {
                failures.insert(format!("{}: {error}", object.name));
            }
        }
    }
    for_each_planned(|kernel, linked, object, program, hook, reached| {
        let btf = kernel.host.btf().unwrap();
        let place = format!("{}: {program} on {}", object.name, kernel.host.release);
        match hook {
            Hook::Tracepoint(name) => {
                let there = btf.relocations.id_by_type_name_kind(&format!("btf_trace_{name}"), BtfKind::Typedef);
                assert!(there.is_ok(), "{place}: no btf_trace_{name}");
                let arity = btf.index.tracepoint_arity(name).unwrap();
                if let Some(argument) = reached.arguments.last().filter(|argument| **argument >= arity) {
                    failures.insert(format!("{place} reads argument {argument} of {name}, which has {arity}"));
                }
                for (instruction, argument) in &reached.looks_into {
                    let Some(taken_for) = linked.looked_into(program, *instruction) else { continue };
                    let Some(is) = btf.index.tracepoint_argument(name, *argument) else { continue };
                    typed += 1;
                    if is != taken_for {
                        failures.insert(format!(
                            "{place} takes argument {argument} of {name} for a {taken_for}, and it is a {is}"
                        ));
                    }
                }
            }
            Hook::Iterator(name) | Hook::Seed(name) => {
                let there = btf.relocations.id_by_type_name_kind(&format!("bpf_iter_{name}"), BtfKind::Func);
                assert!(there.is_ok(), "{place}: no bpf_iter_{name}");
            }
        }
    });
    assert_none(&failures.into_iter().collect::<Vec<_>>());
    assert!(typed > 100, "only {typed} uses of arguments");
}

#[test]
fn every_kernel_has_the_kinds_of_maps() {
    let mut failures = BTreeSet::new();
    let newest: BTreeMap<_, _> = KERNELS
        .iter()
        .flat_map(|kernel| kernel.host.btf().unwrap().index.values("bpf_map_type"))
        .map(|(name, number)| (number, name))
        .collect();
    for kernel in KERNELS.iter() {
        let kinds: BTreeSet<_> = kernel.host.btf().unwrap().index.values("bpf_map_type").into_values().collect();
        assert!(kinds.len() > 20);
        for (name, data) in OBJECTS.iter() {
            for (map, definition) in &aya_obj::Object::parse(data).unwrap().maps {
                if !kinds.contains(&definition.map_type()) {
                    let kind = newest.get(&definition.map_type()).unwrap_or(&"?");
                    failures.insert(format!("{name}: {} has no {kind}, which {map} is", kernel.host.release));
                }
            }
        }
    }
    assert_none(&failures.into_iter().collect::<Vec<_>>());
}
