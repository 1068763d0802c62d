//! The committed objects against the kernels that people run, without running them: each kernel's types are stored in `tests/btf`
//! (`cargo xtask btf`). What a kernel's verifier says beyond that only a kernel can tell (`cargo xtask vm`).

mod instructions;
mod missing;
mod reach;
mod relocations;
mod stack;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use aya_obj::generated::bpf_insn;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::btf::describe::{kind_name, without_flavour};
use super::{Group, Hook, Host, Member, Object, Plan};
use kerno_model::KernelVersion;
use missing::{MISSING, VALUES};
use reach::{Knobs, Program, Reached};
use relocations::{INSTRUCTION_BYTES, Relocation, Source};

/// A stored kernel.
struct Kernel {
    host: Host,
    /// Without the stable release's number, which Debian leaves out in some names.
    line: KernelVersion,
    /// All that is loaded on it.
    plans: Vec<(Object, Plan)>,
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

/// Releases and their BTF.
fn stored_kernels() -> Vec<(String, Vec<u8>)> {
    let unpacked = |packed: &[u8]| {
        let mut btf = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut btf).unwrap();
        btf
    };
    files("tests/btf", ".btf.gz").into_iter().map(|(release, packed)| (release, unpacked(&packed))).collect()
}

/// What was looked for in them.
fn stored_names() -> BTreeSet<String> {
    let names = std::fs::read_to_string(in_crate("tests/btf/NAMES")).unwrap();
    names.lines().map(str::to_owned).collect()
}

/// The oldest first.
static KERNELS: LazyLock<Vec<Kernel>> = LazyLock::new(|| {
    let kernel = |(release, btf): (String, Vec<u8>)| {
        let host = Host::of_kernel(&release, btf).unwrap();
        Kernel { line: KernelVersion::new(host.version.major, host.version.minor), plans: plans(&host), host }
    };
    let mut kernels: Vec<_> = stored_kernels().into_iter().map(kernel).collect();
    kernels.sort_by_key(|kernel| kernel.line);
    kernels
});

/// A committed object.
struct Committed {
    name: String,
    data: Vec<u8>,
    source: Source,
}

static OBJECTS: LazyLock<Vec<Committed>> = LazyLock::new(|| {
    let read = |(name, data): (String, Vec<u8>)| Committed { source: Source::read(&data), name, data };
    files("objects", ".bpf.o").into_iter().map(read).collect()
});

/// What is committed, for tests elsewhere.
pub(super) fn committed_objects() -> impl Iterator<Item = Vec<u8>> {
    files("objects", ".bpf.o").into_iter().map(|(_, data)| data)
}

fn plans(host: &Host) -> Vec<(Object, Plan)> {
    let mut plans = plans_alone(host);
    plans.extend(GROUPS.map(|group| (group.object, group.plan(&members(group, host)))));
    plans
}

/// The signals that are loaded together where several are asked for.
static GROUPS: [&Group; 2] = [&crate::calls::EVENTS, &crate::calls::summaries::SUMMARIES];

/// All signals of a group as they would be loaded one by one.
fn members(group: &Group, host: &Host) -> Vec<Member> {
    let suffix = if group.object.name.ends_with("_summary") { "_summary" } else { "" };
    let alone = plans_alone(host);
    let plan = |name: &&str| {
        let plan = alone.iter().find(|(object, _)| object.name == format!("{name}{suffix}"));
        plan.map(|(_, plan)| plan.clone()).unwrap()
    };
    group.signals.iter().map(plan).enumerate().map(|(number, plan)| Member { number, plan }).collect()
}

/// What is loaded of each signal where it is asked for alone.
fn plans_alone(host: &Host) -> Vec<(Object, Plan)> {
    use crate::signals::{
        self, disk_io, dns_query, file_audit, oom_track, process_life, sched_delay, syscall_latency, tcp_monitor,
    };
    let mut plans = signals::hook_plans(host);
    plans.extend([
        disk_io::summary_plan(host),
        dns_query::summary_plan(host),
        file_audit::summary_plan(host),
        oom_track::summary_plan(host),
        process_life::summary_plan(host),
        sched_delay::summary_plan(host),
        syscall_latency::summary_plan(host),
        tcp_monitor::summary_plan(host),
        Ok(crate::engine::Tasks::plan()),
        Ok(crate::why::plan(host)),
    ]);
    plans.into_iter().map(Result::unwrap).collect()
}

fn assert_none(failures: &BTreeSet<String>) {
    let lines: Vec<_> = failures.iter().map(String::as_str).collect();
    assert!(lines.is_empty(), "{} failures:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn the_kernels_and_the_objects_are_all_there() {
    let lines: Vec<_> = KERNELS.iter().map(|kernel| (kernel.line.major, kernel.line.minor)).collect();
    assert_eq!(lines[..4], [(5, 10), (6, 1), (6, 12), (6, 18)]);
    assert!(lines.len() == 5 && lines[4] > lines[3], "{lines:?} has no newer one");
    // Tests load what is for them alone.
    let expected: BTreeSet<_> =
        OBJECTS.iter().map(|object| object.name.as_str()).filter(|name| !name.ends_with("_test")).collect();
    for kernel in KERNELS.iter() {
        let planned: BTreeSet<_> = kernel.plans.iter().map(|(object, _)| object.name).collect();
        assert_eq!(planned, expected, "{}", kernel.host.release);
    }
}

/// What is not stored looks like what no kernel has: the loaders would plan without it.
#[test]
fn every_hook_of_the_objects_is_stored() {
    let stored = stored_names();
    let mut failures = BTreeSet::new();
    let mut hooks = 0;
    for Committed { name, data, .. } in OBJECTS.iter() {
        for section in object::File::parse(data.as_slice()).unwrap().sections() {
            let hook = match section.name().unwrap().split_once('/') {
                Some(("tp_btf", hook)) => format!("btf_trace_{hook}"),
                Some(("iter", hook)) => format!("bpf_iter_{hook}"),
                _ => continue,
            };
            hooks += 1;
            if !stored.contains(&hook) {
                failures.insert(format!("{name}: {hook} is not among the stored types: cargo xtask btf"));
            }
        }
    }
    assert_none(&failures);
    assert!(hooks > 50, "only {hooks} hooks");
}

#[test]
fn every_relocation_finds_what_it_is_about_or_is_known_not_to() {
    let stored = stored_names();
    let mut failures = BTreeSet::new();
    let mut known = BTreeSet::new();
    let (mut checked, mut absent) = (0, BTreeSet::new());
    for Committed { name, data, source } in OBJECTS.iter() {
        for kernel in KERNELS.iter() {
            let release = &kernel.host.release;
            let mut object = aya_obj::Object::parse(data).unwrap();
            let btf = kernel.host.btf().unwrap();
            let found = match relocations::relocate(&mut object, &source.relocations, btf) {
                Ok(found) => found,
                Err(error) => {
                    failures.insert(format!("{name}: cannot be relocated on {release}: {error}"));
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
                    failures.insert(format!("{name}: {root} ({line}) is not among the stored types: cargo xtask btf"));
                    continue;
                }
                let entry = MISSING.iter().find(|(missing, _)| missing == access);
                known.insert(access.clone());
                if !found {
                    absent.insert(access.clone());
                }
                failures.extend(match entry {
                    None if !found => Some(format!("{name}: {release} has no {access}: {line}")),
                    Some((_, has)) if has.there(kernel.line) != found => {
                        let is = if found { "has" } else { "has no" };
                        Some(format!("{name}: {release} {is} {access}, and the table says {has}: {line}"))
                    }
                    _ => None,
                });
            }
        }
    }
    for (access, _) in MISSING {
        if !known.contains(*access) {
            failures.insert(format!("the table has {access}, which no program asks for"));
        } else if !absent.contains(*access) {
            failures.insert(format!("the table has {access}, which every kernel has"));
        }
    }
    assert_none(&failures);
    assert!(checked > 5000, "only {checked} relocations");
}

#[test]
fn values_of_enums_without_names_are_found() {
    for kernel in KERNELS.iter() {
        for (name, has) in VALUES {
            let found = kernel.host.enum_value(name).is_some();
            assert_eq!(found, has.there(kernel.line), "{name} on {}", kernel.host.release);
        }
    }
}

/// The proof that the checks see what they are for: a kernel that has lost a field.
#[test]
fn a_lost_field_is_seen_and_what_reads_it_can_be_reached() {
    let (release, mut btf) = stored_kernels().pop().unwrap();
    let field = b"\0__state\0";
    let at = btf.windows(field.len()).position(|window| window == field).unwrap();
    btf[at + 3] = b'g';
    let host = Host::of_kernel(&release, btf).unwrap();
    let linked = Linked::on(&host, "sched_delay");
    let access = |number: &usize| linked.source.relocations[*number].access.as_str();
    let lost: BTreeSet<_> = (0..linked.found.len()).filter(|number| !linked.found[*number]).collect();
    assert!(lost.iter().map(access).any(|lost| lost == "task_struct.__state"));
    let reached = linked.reach("on_sched_switch", &Knobs::new());
    // The program then takes the kernel for an older one, whose field is not there either.
    let poisons: BTreeSet<_> = reached.poisons.iter().map(access).collect();
    assert_eq!(poisons, ["task_struct___pre_5_14.state"].into());
}

#[test]
fn no_relocated_type_is_defined_twice() {
    let mut failures = BTreeSet::new();
    let mut checked = 0;
    let running = Host::detect();
    let hosts = KERNELS.iter().map(|kernel| &kernel.host).chain([&running]);
    let hosts: Vec<_> = hosts.map(|host| (&host.release, host.btf().unwrap().definitions())).collect();
    for Committed { name, source, .. } in OBJECTS.iter() {
        let roots =
            source.relocations.iter().filter(|relocation| !relocation.is_local()).map(|relocation| relocation.root);
        let roots: BTreeSet<_> = roots.map(|root| source.btf.kind_and_name(root).unwrap()).collect();
        for (release, definitions) in &hosts {
            for (kind, root) in &roots {
                // aya takes the first: no relocation may depend on the order.
                let definitions = definitions.get(&(*kind, without_flavour(root))).copied().unwrap_or(0);
                checked += definitions;
                if definitions > 1 {
                    let kind = kind_name(*kind);
                    failures.insert(format!("{name}: {release} has {definitions} definitions of {kind} {root}"));
                }
            }
        }
    }
    assert_none(&failures);
    assert!(checked > 500, "only {checked} definitions");
}

/// An object as it is loaded on a kernel, up to the bpf system call.
struct Linked {
    object: aya_obj::Object,
    source: &'static Source,
    /// For each relocation whether the kernel has what it is about.
    found: Vec<bool>,
    rodata: Option<i32>,
}

impl Linked {
    fn on(host: &Host, name: &str) -> Self {
        let Committed { data, source, .. } = OBJECTS.iter().find(|object| object.name == name).unwrap();
        let mut object = aya_obj::Object::parse(data).unwrap();
        let found = relocations::relocate(&mut object, &source.relocations, host.btf().unwrap()).unwrap();
        let maps = object.maps.clone();
        let descriptors: BTreeMap<_, _> = maps.keys().zip(1000..).collect();
        let sections = object.functions.keys().map(|(section, _)| *section).collect();
        object
            .relocate_maps(maps.iter().map(|(name, map)| (name.as_str(), descriptors[name], map)), &sections)
            .unwrap();
        object.relocate_calls(&sections).unwrap();
        let rodata = descriptors.iter().find(|(name, _)| name.as_str() == ".rodata").map(|(_, descriptor)| *descriptor);
        Self { object, source, found, rodata }
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
        let key = program.function_key();
        let offset = self.object.functions[&key].section_offset + instruction * INSTRUCTION_BYTES;
        // Beyond it stand the functions that were linked to it, and in the section the next program.
        let of_next = |(other, function): (&(usize, u64), &aya_obj::Function)| {
            (other.0 == key.0 && other.1 > key.1).then_some(function.section_offset)
        };
        if self.object.functions.iter().filter_map(of_next).min().is_some_and(|next| offset >= next) {
            return None;
        }
        let here = |at: &&Relocation| at.section == program.section_index && at.offset == offset;
        let relocation = self.source.relocations.iter().find(here)?;
        Some(without_flavour(relocation.access.split(['.', '[']).next()?))
    }
}

/// The knobs whose values the stored kernels' plans do not agree on, by object: the kernel decides them, and the verifier sees them as
/// constants. Others are the user's or the machine's and may have any value.
fn decided_knobs() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut values: BTreeMap<_, BTreeSet<&[u8]>> = BTreeMap::new();
    let mut set = BTreeMap::new();
    for kernel in KERNELS.iter() {
        for (object, plan) in &kernel.plans {
            for (knob, value, _) in &plan.globals {
                let knob = *knob;
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

/// The bytes of the knobs asked for with the plan's values, or those they have in the object.
fn knobs(data: &[u8], plan: &Plan, wanted: impl Fn(&str) -> bool) -> Knobs {
    let file = object::File::parse(data).unwrap();
    let rodata = crate::event::layout::elf_section(data, ".rodata");
    let mut knobs = Knobs::new();
    for symbol in file.symbols() {
        let name = symbol.name().unwrap();
        if !wanted(name) {
            continue;
        }
        let (at, len) = (symbol.address(), usize::try_from(symbol.size()).unwrap());
        let planned = plan.globals.iter().find(|(knob, _, _)| *knob == name).map(|(_, value, _)| value.as_slice());
        let value = planned.unwrap_or_else(|| &rodata[usize::try_from(at).unwrap()..][..len]);
        knobs.extend((at..).zip(value.iter().copied()));
    }
    knobs
}

/// A program on a kernel that it is planned for.
struct Planned {
    kernel: &'static Kernel,
    object: &'static Object,
    linked: Arc<Linked>,
    program: &'static str,
    hook: Hook,
    reached: Reached,
}

impl Planned {
    fn place(&self) -> String {
        format!("{}: {} on {}", self.object.name, self.program, self.kernel.host.release)
    }
}

static PLANNED: LazyLock<Vec<Planned>> = LazyLock::new(|| {
    let decided = decided_knobs();
    let mut planned = Vec::new();
    for kernel in KERNELS.iter() {
        for (object, plan) in &kernel.plans {
            let linked = Arc::new(Linked::on(&kernel.host, object.name));
            let decided = decided.get(object.name);
            let knobs = knobs(object.data, plan, |knob| decided.is_some_and(|decided| decided.contains(knob)));
            let substitutes = plan.substitutes.iter().map(|(_, placed)| placed);
            for (program, hook) in plan.programs.iter().chain(substitutes) {
                let reached = linked.reach(program, &knobs);
                planned.push(Planned { kernel, object, linked: Arc::clone(&linked), program, hook: *hook, reached });
            }
        }
    }
    planned
});

/// Number and name of each value of an enum in any of the kernels.
fn all_values(name: &str) -> BTreeMap<u32, &'static str> {
    let values = KERNELS.iter().flat_map(|kernel| kernel.host.btf().unwrap().values(name));
    values.map(|(name, number)| (number, name)).collect()
}

#[test]
fn no_program_can_reach_what_its_kernel_lacks() {
    let mut failures = BTreeSet::new();
    let names = all_values("bpf_func_id");
    for planned in PLANNED.iter() {
        let (kernel, reached) = (planned.kernel, &planned.reached);
        for poison in &reached.poisons {
            let Relocation { access, line, .. } = &planned.linked.source.relocations[*poison];
            failures.insert(format!("{} can reach {access}, which is not there: {line}", planned.place()));
        }
        let mut has = kernel.host.btf().unwrap().values("bpf_func_id");
        assert!(has.remove("__BPF_FUNC_MAX_ID").is_some_and(|helpers| helpers > 100));
        let has = has.into_values().collect();
        for helper in reached.helpers.difference(&has) {
            let name = names.get(helper).unwrap_or(&"an unknown helper");
            failures.insert(format!("{} can call {name}, which is not there", planned.place()));
        }
        if reached.fetches && kernel.line < KernelVersion::new(5, 12) {
            failures.insert(format!("{} uses an atomic operation that gives the old value", planned.place()));
        }
    }
    assert_none(&failures);
    assert!(PLANNED.len() > 200, "only {} programs", PLANNED.len());
}

#[test]
fn every_planned_hook_is_there_with_the_arguments_that_are_read() {
    let mut failures = BTreeSet::new();
    let mut typed = 0;
    for kernel in KERNELS.iter() {
        for (object, plan) in &kernel.plans {
            if let Err(error) = plan.hooks_exist(&kernel.host) {
                failures.insert(format!("{}: {error}", object.name));
            }
        }
    }
    for planned in PLANNED.iter() {
        let btf = planned.kernel.host.btf().unwrap();
        // What the program is loaded for.
        let target = match planned.hook {
            Hook::Tracepoint(name) => btf.tracepoint_id(name),
            Hook::FunctionExit(name) => btf.function_id(name),
            Hook::Iterator(name) | Hook::Seed(name) => btf.iterator_id(name),
        };
        if target.is_none() {
            failures.insert(format!("{}: no {}", planned.place(), planned.hook.display()));
        }
        let (name, arity) = match planned.hook {
            Hook::Tracepoint(name) => (name, btf.tracepoint_arity(name).unwrap_or(0)),
            // What the function returned follows its arguments.
            Hook::FunctionExit(name) => (name, btf.function_arity(name).map_or(0, |arity| arity + 1)),
            Hook::Iterator(_) | Hook::Seed(_) => continue,
        };
        if let Some(argument) = planned.reached.arguments.last().filter(|argument| **argument >= arity) {
            failures.insert(format!("{} reads argument {argument} of {name}, which has {arity}", planned.place()));
        }
        for (instruction, argument) in &planned.reached.looks_into {
            let taken_for = planned.linked.looked_into(planned.program, *instruction);
            let is = btf.tracepoint_argument(name, *argument);
            let (Some(taken_for), Some(is)) = (taken_for, is) else { continue };
            typed += 1;
            if is != taken_for {
                failures.insert(format!(
                    "{} takes argument {argument} of {name} for a {taken_for}, and it is a {is}",
                    planned.place()
                ));
            }
        }
    }
    assert_none(&failures);
    assert!(typed > 100, "only {typed} uses of arguments");
}

/// Each signal relies on an order of its own: what takes up a beginning is there before what begins.
#[test]
fn signals_that_share_hooks_have_one_program_a_hook_in_an_order_that_is_each_ones() {
    let running = Host::detect();
    let lacks = running.clone().without("inet_csk_accept");
    let mut shared = BTreeSet::new();
    for host in KERNELS.iter().map(|kernel| &kernel.host).chain([&running, &lacks]) {
        for group in GROUPS {
            let members = members(group, host);
            // Each subset, as users ask for them.
            for chosen in 1..1u32 << members.len() {
                let chosen: Vec<_> =
                    members.iter().filter(|member| chosen >> member.number & 1 == 1).cloned().collect();
                let plan = group.plan(&chosen);
                let place = |hook: &Hook| plan.programs.iter().position(|(_, other)| other == hook);
                let hooks: Vec<_> = plan.programs.iter().map(|(_, hook)| hook.display()).collect();
                assert_eq!(hooks.iter().collect::<BTreeSet<_>>().len(), hooks.len(), "{hooks:?}");
                for Member { number, plan: alone } in &chosen {
                    let places: Vec<_> = alone.programs.iter().map(|(_, hook)| place(hook).unwrap()).collect();
                    assert!(places.is_sorted(), "{}: {:?} in {hooks:?}", group.signals[*number], alone.programs);
                    // What may come to serve a refused program stands where that one would.
                    for (refused, (_, hook)) in &alone.substitutes {
                        let at = alone.programs.iter().position(|(name, _)| name == refused).unwrap();
                        let before = places[..at].iter().max().copied();
                        assert!(
                            place(hook).is_none_or(|place| before.is_none_or(|before| before < place)),
                            "{hooks:?}"
                        );
                    }
                }
                for hook in &hooks {
                    let users = chosen
                        .iter()
                        .filter(|member| member.plan.programs.iter().any(|(_, other)| other.display() == *hook));
                    if users.count() > 1 {
                        shared.insert((group.object.name, hook.clone()));
                    }
                }
            }
        }
    }
    let shared: Vec<_> = shared.iter().map(|(object, hook)| format!("{object} {hook}")).collect();
    assert_eq!(
        shared,
        [
            "calls iter/task_file",
            "calls tp_btf/io_uring_complete",
            "calls tp_btf/sched_process_exec",
            "calls tp_btf/sched_process_exit",
            "calls tp_btf/sys_enter",
            "calls tp_btf/sys_exit",
            "calls_summary tp_btf/sched_process_exec",
            "calls_summary tp_btf/sched_process_exit",
            "calls_summary tp_btf/sys_exit",
        ]
    );
}

#[test]
fn every_kernel_has_the_kinds_of_maps() {
    let mut failures = BTreeSet::new();
    let names = all_values("bpf_map_type");
    for kernel in KERNELS.iter() {
        let kinds: BTreeSet<_> = kernel.host.btf().unwrap().values("bpf_map_type").into_values().collect();
        assert!(kinds.len() > 20);
        for Committed { name, data, .. } in OBJECTS.iter() {
            for (map, definition) in &aya_obj::Object::parse(data).unwrap().maps {
                if !kinds.contains(&definition.map_type()) {
                    let kind = names.get(&definition.map_type()).unwrap_or(&"map of an unknown kind");
                    failures.insert(format!("{name}: {} has no {kind}, which {map} is", kernel.host.release));
                }
            }
        }
    }
    assert_none(&failures);
}
