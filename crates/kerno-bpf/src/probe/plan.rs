use super::cgroup;
use super::error::{LoadError, chain};
use super::host::{Host, LOCKED_DOWN, possible_cpus};
use super::options::{Filter, Options};

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// A tracepoint with typed arguments (`tp_btf`, Linux 5.5).
    Tracepoint(&'static str),
    /// The return of a function of the kernel (fexit; x86 from Linux 5.5, arm64 from 6.4). Not every kernel lets programs attach to
    /// functions, and only trying tells, so each has a substitute: [`Plan::attach_or`].
    FunctionExit(&'static str),
    /// An iterator that is read once, in its place in the plan, to learn what exists already (Linux 5.8).
    Seed(&'static str),
    /// An iterator that is run whenever its reader asks (Linux 5.8).
    Iterator(&'static str),
}

impl Hook {
    /// As shown to people: `tp_btf/sys_enter`, `iter/task_file`.
    pub(crate) fn display(self) -> String {
        match self {
            Self::Tracepoint(name) => format!("tp_btf/{name}"),
            Self::FunctionExit(name) => format!("fexit/{name}"),
            Self::Seed(name) | Self::Iterator(name) => format!("iter/{name}"),
        }
    }
}

/// What a load does: which knobs it sets, how large maps are, which programs it loads and then attaches in this order. It does not load
/// the rest of the object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Name, value, and whether the object must have it.
    pub(crate) globals: Vec<(&'static str, Vec<u8>, bool)>,
    pub(crate) map_entries: Vec<(&'static str, u32)>,
    pub(crate) programs: Vec<Placed>,
    /// Substitutes for programs of `programs`, by name, if the kernel refuses them.
    pub(crate) substitutes: Vec<(&'static str, Placed)>,
    /// Hooks that this signal may not need, and the number that an object of several signals reads to know.
    pub(crate) switches: Vec<(&'static str, Hook)>,
}

/// What is to be done in place of loading a refused program.
pub(super) enum Substitute {
    Load(Placed),
    /// Nothing: another signal has a program on that hook, which serves this one too.
    Planned,
}

/// The ring of an object with one signal.
pub(super) const RING: &str = "events";

/// The knobs of the shared headers (filter.h, emit.h): arrays with an element for each signal of the object.
pub(super) const PER_SIGNAL: [&str; 12] = [
    "cfg_self_tgid",
    "cfg_pid_count",
    "cfg_pids",
    "cfg_uid_count",
    "cfg_uids",
    "cfg_comm_count",
    "cfg_comms",
    "cfg_cgroup_count",
    "cfg_cgroups",
    "cfg_min_latency_ns",
    "cfg_errors_only",
    "cfg_wakeup_bytes",
];

/// A program of the object and where it goes.
pub(crate) type Placed = (&'static str, Hook);

/// A value of a knob, as the bytes of its C type.
pub(crate) trait Knob {
    fn to_bytes(&self) -> Vec<u8>;
}

macro_rules! knob {
    ($($int:ty)+) => {
        $(impl Knob for $int {
            fn to_bytes(&self) -> Vec<u8> {
                self.to_ne_bytes().to_vec()
            }
        })+
    };
}
knob!(u8 u32 u64);

impl<K: Knob, const N: usize> Knob for [K; N] {
    fn to_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(Knob::to_bytes).collect()
    }
}

/// `MAX_FILTER_*` in filter.h.
const MAX_PIDS: usize = 64;
const MAX_COMMS: usize = 16;
const MAX_UIDS: usize = 16;
const MAX_CGROUPS: usize = 16;

/// `MAX_START_SLOTS` in start.h.
const MAX_START_SLOTS: u32 = 1 << 18;

impl Plan {
    /// Sets a `const volatile` variable of the object.
    pub(crate) fn set(&mut self, name: &'static str, value: &impl Knob) {
        self.globals.push((name, value.to_bytes(), true));
    }

    /// Sets a variable that not every object has.
    pub(crate) fn set_if_there(&mut self, name: &'static str, value: &impl Knob) {
        self.globals.push((name, value.to_bytes(), false));
    }

    /// Gives a `PER_CPU_BLOCK` (block.h) an element for each CPU.
    pub(crate) fn size_per_cpu(&mut self, map: &'static str) {
        self.map_entries.push((map, possible_cpus()));
    }

    /// Attaches a program of the object.
    pub(crate) fn attach(&mut self, program: &'static str, hook: Hook) {
        self.programs.push((program, hook));
    }

    /// Attaches a program of the object, or another one if the kernel refuses it.
    pub(crate) fn attach_or(&mut self, preferred: Placed, substitute: Placed) {
        self.programs.push(preferred);
        self.substitutes.push((preferred.0, substitute));
    }

    /// Where this signal shares its object, its handler on this hook works only while the number in `map` is not 0; set where
    /// the plan comes to need the hook.
    pub(crate) fn switch(&mut self, map: &'static str, hook: Hook) {
        self.switches.push((map, hook));
    }

    /// Puts the substitute in a refused program's place; `None` when it has none.
    pub(super) fn substitute(&mut self, refused: &str) -> Option<Substitute> {
        let at = self.substitutes.iter().position(|(name, _)| *name == refused)?;
        let (_, substitute) = self.substitutes.swap_remove(at);
        let refused = self.programs.iter().position(|(name, _)| *name == refused)?;
        if self.programs.iter().any(|(_, hook)| *hook == substitute.1) {
            self.programs.remove(refused);
            return Some(Substitute::Planned);
        }
        *self.programs.get_mut(refused)? = substitute;
        Some(Substitute::Load(substitute))
    }

    /// The hooks as shown to people, before any is tried.
    pub(super) fn display_hooks(&self) -> Vec<String> {
        let substitute = |program| self.substitutes.iter().find(|(name, _)| *name == program);
        let shown = |(program, hook): &Placed| match substitute(*program) {
            Some((_, (_, other))) => format!("{}|{}", hook.display(), other.display()),
            None => hook.display(),
        };
        self.programs.iter().map(shown).collect()
    }

    /// Fails with the first hook that this kernel does not have, and where it lets no program see its memory.
    pub(super) fn hooks_exist(&self, host: &Host) -> Result<(), LoadError> {
        let btf = host.btf().map_err(|reason| LoadError::Kernel(reason.to_owned()))?;
        let substitutes = self.substitutes.iter().map(|(_, (_, hook))| hook);
        for hook in self.programs.iter().map(|(_, hook)| hook).chain(substitutes) {
            let there = match hook {
                Hook::Tracepoint(name) => host.tracepoint_arity(name).is_some(),
                Hook::FunctionExit(name) => host.function_arity(name).is_some(),
                Hook::Seed(name) | Hook::Iterator(name) => btf.has_iterator(name),
            };
            if !there {
                return Err(LoadError::Kernel(format!("this kernel ({}) has no {}", host.release, hook.display())));
            }
        }
        match host.lockdown.as_deref() {
            Some("confidentiality") => Err(LoadError::Kernel(LOCKED_DOWN.to_owned())),
            _ => Ok(()),
        }
    }

    /// Sets a list knob and its count. Refuses lists longer than the array of the kernel side.
    pub(crate) fn set_list<T: Copy + Default + Knob, const MAX: usize>(
        &mut self,
        count: &'static str,
        name: &'static str,
        filter: &'static str,
        values: &[T],
    ) -> Result<(), LoadError> {
        if values.is_empty() {
            return Ok(());
        }
        if values.len() > MAX {
            return Err(LoadError::Filter(format!(
                "{filter}: {} values given, at most {MAX} are possible",
                values.len()
            )));
        }
        let mut list = [T::default(); MAX];
        list[..values.len()].copy_from_slice(values);
        #[allow(clippy::cast_possible_truncation, reason = "at most MAX")]
        self.set(count, &(values.len() as u32));
        self.set(name, &list);
        Ok(())
    }

    /// Sizes the start array (start.h) to the machine's thread ids.
    pub(crate) fn size_starts(&mut self) {
        self.size_by_thread("starts", "cfg_start_mask");
    }

    /// Sizes an array that is direct-mapped by thread id: one element for each possible id, up to a limit. Sets the mask of ids for the
    /// kernel side.
    pub(crate) fn size_by_thread(&mut self, map: &'static str, mask: &'static str) {
        let pid_max = std::fs::read_to_string("/proc/sys/kernel/pid_max")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(MAX_START_SLOTS);
        let slots = pid_max.clamp(1024, MAX_START_SLOTS).next_power_of_two();
        self.map_entries.push((map, slots));
        self.set(mask, &(slots - 1));
    }

    /// The knobs of filter.h and emit.h, which every object has.
    pub(crate) fn set_shared(&mut self, options: &Options, wakeup_default: u32) -> Result<(), LoadError> {
        let Options { filter, ring_bytes, exclude_self, wakeup_bytes } = options;
        #[allow(clippy::cast_possible_truncation, reason = "page sizes are far below 4 GiB")]
        let page = rustix::param::page_size() as u32;
        if !ring_bytes.is_power_of_two() || *ring_bytes < page || *ring_bytes > 1 << 30 {
            return Err(LoadError::Filter(format!(
                "ring size {ring_bytes}: must be a power of two between {page} and {} bytes",
                1 << 30
            )));
        }
        self.map_entries.push((RING, *ring_bytes));
        self.set("cfg_wakeup_bytes", &wakeup_bytes.unwrap_or(wakeup_default));
        if *exclude_self {
            self.set("cfg_self_tgid", &std::process::id());
        }
        self.set_list::<_, MAX_PIDS>("cfg_pid_count", "cfg_pids", "pid", &filter.pids)?;
        self.set_list::<_, MAX_UIDS>("cfg_uid_count", "cfg_uids", "uid", &filter.uids)?;
        let comms = filter.comms.iter().map(|comm| comm_words(comm)).collect::<Result<Vec<_>, _>>()?;
        self.set_list::<_, MAX_COMMS>("cfg_comm_count", "cfg_comms", "comm", &comms)?;
        let cgroups = cgroup_ids(filter)?;
        self.set_list::<_, MAX_CGROUPS>("cfg_cgroup_count", "cfg_cgroups", "cgroup", &cgroups)?;
        if let Some(min) = filter.min_latency {
            self.set("cfg_min_latency_ns", &u64::try_from(min.as_nanos()).unwrap_or(u64::MAX));
        }
        if filter.errors_only {
            self.set("cfg_errors_only", &1u8);
        }
        Ok(())
    }
}

/// A task name as the two words the kernel side compares.
type CommWords = [u64; 2];

fn comm_words(comm: &str) -> Result<CommWords, LoadError> {
    const COMM_BYTES: usize = size_of::<CommWords>();
    let bytes = comm.as_bytes();
    if bytes.is_empty() || bytes.len() >= COMM_BYTES || bytes.contains(&0) {
        return Err(LoadError::Filter(format!(
            "comm {comm:?}: task names have 1 to {} bytes (the kernel cuts longer ones: use the cut name, as in /proc/PID/comm)",
            COMM_BYTES - 1
        )));
    }
    let mut words = [0u64; 2];
    zerocopy::IntoBytes::as_mut_bytes(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Ok(words)
}

fn cgroup_ids(filter: &Filter) -> Result<Vec<u64>, LoadError> {
    filter.cgroups.iter().map(|path| cgroup::id(path).map_err(|error| LoadError::Filter(chain(&error)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_filters_say_what_is_possible() {
        let load = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            Plan::default().set_shared(&options, 0).map_err(|error| error.to_string())
        };
        assert_eq!(load(|_| {}), Ok(()));
        let error = |change| load(change).unwrap_err();
        assert!(error(|o| o.ring_bytes = 5000).contains("power of two between 4096"));
        assert!(error(|o| o.ring_bytes = 1 << 31).contains("power of two"));
        assert!(error(|o| o.filter.pids = vec![1; 65]).contains("pid: 65 values given, at most 64"));
        assert!(error(|o| o.filter.comms = vec!["sixteen-bytes-xx".into()]).contains("1 to 15 bytes"));
        assert!(error(|o| o.filter.comms = vec![String::new()]).contains("1 to 15 bytes"));
        assert!(error(|o| o.filter.cgroups = vec!["no/such/group".into()]).contains("no such cgroup"));
        assert!(error(|o| o.filter.cgroups = vec!["/sys/fs/cgroup/memory".into()]).contains("cgroup"));
        assert!(error(|o| o.filter.uids = vec![0; 17]).contains("uid: 17 values"));
    }

    #[test]
    fn knobs_are_the_bytes_of_their_c_types() {
        assert_eq!([1u32, 2].to_bytes(), [1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(comm_words("ab").unwrap(), [0x6261, 0]);
    }
}
