//! Loaded programs, of one signal or shared by several.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, Map, MapData, PerCpuArray};

use super::btf::Btf;
use super::counters::WireCounters;
use super::error::{LoadError, chain};
use super::object::{Loaded, Object};
use super::plan::{Placed, Plan};
use super::sys;

/// The programs and maps of an object. They are detached and unloaded when the last share of them is dropped.
pub(super) struct Programs {
    object: Object,
    kernel: Mutex<KernelSide>,
    counters: Option<Arc<PerCpuArray<MapData, WireCounters>>>,
}

struct KernelSide {
    loaded: Loaded,
    /// In the order to attach.
    placed: Vec<Placed>,
    attached: Attached,
}

/// Signals that share programs are attached together, when the first of them is.
enum Attached {
    NotYet,
    Yes,
    /// What the first was told, for the others.
    Refused {
        what: String,
        detail: String,
    },
}

impl Programs {
    /// Loads what is planned; attaches nothing. What the kernel refuses and has a substitute is replaced in the plan.
    pub(super) fn load(object: Object, plan: &mut Plan, btf: &Btf) -> Result<Arc<Self>, LoadError> {
        let mut loaded = object.load(plan, btf)?;
        let counters = match loaded.take_map("counters") {
            None => None,
            Some(map) => Some(Arc::new(
                PerCpuArray::try_from(map)
                    .map_err(|error| LoadError::Refused { what: "map counters".into(), detail: chain(&error) })?,
            )),
        };
        let kernel = KernelSide { loaded, placed: plan.programs.clone(), attached: Attached::NotYet };
        Ok(Arc::new(Self { object, kernel: Mutex::new(kernel), counters }))
    }

    /// No user code runs under this lock, and ours does not panic.
    fn lock(&self) -> MutexGuard<'_, KernelSide> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets an element of an array of numbers that the programs read.
    pub(super) fn tell(&self, map: &str, index: u32, value: u32) -> Result<(), LoadError> {
        let mut kernel = self.lock();
        let mut array = kernel
            .loaded
            .map_mut(map)
            .and_then(|map| Array::<_, u32>::try_from(map).ok())
            .ok_or_else(|| self.object.missing_map(map))?;
        array
            .set(index, value, 0)
            .map_err(|error| LoadError::Refused { what: format!("map {map}"), detail: chain(&error) })
    }
}

/// What one signal has of an object's programs and maps.
pub(super) struct Share {
    programs: Arc<Programs>,
    /// Its number among the object's signals (signal.h).
    signal: u32,
    /// The programs that work for it.
    placed: Vec<Placed>,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("object", &self.programs.object.name).field("signal", &self.signal).finish()
    }
}

impl Share {
    pub(super) const fn new(programs: Arc<Programs>, signal: u32, placed: Vec<Placed>) -> Self {
        Self { programs, signal, placed }
    }

    /// All there is of an object with one signal.
    pub(super) fn whole(programs: Arc<Programs>, plan: &Plan) -> Self {
        Self::new(programs, 0, plan.programs.clone())
    }

    /// Attaches the programs, those of the signals that they are shared with too.
    pub(super) fn attach(&self) -> Result<(), LoadError> {
        let mut kernel = self.programs.lock();
        let KernelSide { loaded, placed, attached } = &mut *kernel;
        if matches!(attached, Attached::NotYet) {
            *attached = match loaded.attach(placed) {
                Ok(()) => Attached::Yes,
                Err(LoadError::Refused { what, detail }) => Attached::Refused { what, detail },
                Err(error) => return Err(error),
            };
        }
        match attached {
            Attached::Refused { what, detail } => {
                Err(LoadError::Refused { what: what.clone(), detail: detail.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether other signals use the same programs.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.programs) > 1
    }

    /// Does something with the programs and maps.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Loaded) -> T) -> T {
        f(&mut self.programs.lock().loaded)
    }

    pub(super) fn take_map(&self, name: &str) -> Option<Map> {
        self.with(|loaded| loaded.take_map(name))
    }

    pub(super) fn missing_map(&self, name: &str) -> LoadError {
        self.programs.object.missing_map(name)
    }

    pub(super) const fn signal(&self) -> u32 {
        self.signal
    }

    /// The hooks that its programs are for, as shown to people.
    pub(super) fn hooks(&self) -> Vec<String> {
        self.placed.iter().map(|(_, hook)| hook.display()).collect()
    }

    /// What the kernel side counts for this signal; it outlives the programs.
    pub(super) fn counters(&self) -> Option<SignalCounters> {
        self.programs.counters.as_ref().map(|map| SignalCounters { map: Arc::clone(map), signal: self.signal })
    }

    /// How often the kernel skipped a program that works for this signal.
    pub(super) fn missed_runs(&self) -> u64 {
        self.with(|loaded| loaded.descriptors(&self.placed).map(sys::missed_runs).sum())
    }

    /// How long each program that works for this signal has run. Those of which the kernel does not tell are left out.
    pub(super) fn run_times(&self) -> Vec<sys::RunTime> {
        self.with(|loaded| loaded.descriptors(&self.placed).filter_map(|fd| sys::run_time(fd).ok()).collect())
    }

    /// The kernel's ids of the programs that work for this signal.
    pub(super) fn program_ids(&self) -> Vec<u32> {
        self.with(|loaded| loaded.descriptors(&self.placed).filter_map(|fd| sys::program_id(fd).ok()).collect())
    }
}

/// Others may need the programs on: then they emit nothing for this signal any more (emit.h).
impl Drop for Share {
    fn drop(&mut self) {
        if self.is_shared() {
            // Summaries have no such map: what nobody reads may add up.
            let _ = self.programs.tell("stopped", self.signal, 1);
        }
    }
}

/// One signal's counters, of those of an object.
pub(super) struct SignalCounters {
    map: Arc<PerCpuArray<MapData, WireCounters>>,
    signal: u32,
}

impl SignalCounters {
    /// Of all CPUs together; `None` when they cannot be read.
    pub(super) fn read(&self) -> Option<WireCounters> {
        let cpus = self.map.get(&self.signal, 0).ok()?;
        Some(cpus.iter().fold(WireCounters::default(), |sum, cpu| WireCounters {
            emitted: sum.emitted + cpu.emitted,
            lost: sum.lost + cpu.lost,
            untracked: sum.untracked + cpu.untracked,
            overflow: sum.overflow + cpu.overflow,
        }))
    }
}
