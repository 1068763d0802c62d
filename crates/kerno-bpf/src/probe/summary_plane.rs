//! Loads the programs that keep summaries in the kernel, and reads the summaries. No ring, no events.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::maps::{Array, Map, MapData};
use kerno_model::SummaryLoss;
use memmap2::{MmapOptions, MmapRaw};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::error::LoadError;
use super::group::{Group, Member};
use super::object::{Iteration, Object};
use super::plan::Plan;
use super::programs::{Programs, Share, SignalCounters};
use super::{Host, faults, sys};

/// One signal's programs and maps. Dropping it detaches and unloads everything that it does not share with other signals.
#[derive(Debug)]
pub(crate) struct SummaryPrograms {
    share: Share,
    counters: Option<SignalCounters>,
}

impl fmt::Debug for SignalCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalCounters").finish_non_exhaustive()
    }
}

/// Sets what every summary leaves out: our own activity is no news.
fn leave_out_ourselves(plan: &mut Plan) {
    plan.set_if_there("cfg_self_tgid", &std::process::id());
}

/// Whether these plans can be loaded by this process on this kernel.
fn can_load<'a>(plans: impl IntoIterator<Item = &'a Plan>, host: &Host) -> Result<(), LoadError> {
    for plan in plans {
        plan.hooks_exist(host)?;
    }
    if let Some(missing) = host.missing_privileges() {
        return Err(LoadError::Privileges(missing));
    }
    super::host::lift_memlock(host.version);
    Ok(())
}

impl SummaryPrograms {
    /// Loads without attaching. Sets `cfg_self_tgid` if the object has it, to exclude our own activity.
    pub(crate) fn load(object: Object, mut plan: Plan, host: &Host) -> Result<Self, LoadError> {
        can_load([&plan], host)?;
        let btf = host.btf().map_err(|reason| LoadError::Kernel(reason.to_owned()))?;
        leave_out_ourselves(&mut plan);
        let programs = Programs::load(object, &mut plan, btf)?;
        Ok(Self::of(Share::whole(programs, &plan)))
    }

    /// Loads the programs of signals that share hooks; one of these for each.
    pub(crate) fn load_together(group: &Group, members: &[Member], host: &Host) -> Result<Vec<Self>, LoadError> {
        can_load(members.iter().map(|member| &member.plan), host)?;
        let btf = host.btf().map_err(|reason| LoadError::Kernel(reason.to_owned()))?;
        let mut plan = group.plan(members);
        leave_out_ourselves(&mut plan);
        let shares = group.load(&mut plan, members, btf)?;
        Ok(shares.into_iter().map(Self::of).collect())
    }

    fn of(share: Share) -> Self {
        Self { counters: share.counters(), share }
    }

    /// Attaches the plan's programs in its order, and those of the signals that they are shared with.
    pub(crate) fn attach(&mut self) -> Result<(), LoadError> {
        self.share.attach()
    }

    /// Runs an iterator of the plan in the network namespace of the calling thread, and puts its output into `buffer`.
    pub(crate) fn iterate(&mut self, name: &str, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        faults::pass(name)?;
        self.share.with(|loaded| loaded.run_iterator(name, buffer))
    }

    /// As [`Self::iterate`], for output that may be very large or is wanted in parts: begins, and the caller reads.
    pub(crate) fn begin_iterator(&mut self, name: &str) -> io::Result<Iteration> {
        faults::pass(name)?;
        self.share.with(|loaded| loaded.begin_iterator(name))
    }

    /// Maps an array that may be (`BPF_F_MMAPABLE`). The `max_entries` of a `PER_CPU_BLOCK` the plan has set to [`possible_cpus`](super::possible_cpus).
    pub(crate) fn mapped<T: FromBytes>(&mut self, name: &str) -> Result<MappedBlocks<T>, LoadError> {
        let Some(Map::Array(map)) = self.share.take_map(name) else {
            return Err(self.share.missing_map(name));
        };
        MappedBlocks::map(map, Access::Reads).map_err(|error| LoadError::Io("cannot map a summary", error))
    }

    /// As [`Self::mapped`], for elements that programs take and this side [gives back](MappedBlocks::give_back).
    pub(crate) fn mapped_places<T: FromBytes>(&mut self, name: &str) -> Result<MappedBlocks<T>, LoadError> {
        let Some(Map::Array(map)) = self.share.take_map(name) else {
            return Err(self.share.missing_map(name));
        };
        MappedBlocks::map(map, Access::GivesBack).map_err(|error| LoadError::Io("cannot map a summary", error))
    }

    /// Takes a hash map (`HASH` or `LRU_HASH`) of plain keys and values.
    pub(crate) fn hash<K, V>(&mut self, name: &str) -> Result<KernelHash<K, V>, LoadError> {
        match self.share.take_map(name) {
            Some(Map::HashMap(map) | Map::LruHashMap(map)) => KernelHash::new(name, map).ok_or(()),
            _ => Err(()),
        }
        .map_err(|()| self.share.missing_map(name))
    }

    /// Tells the kernel side that a window began (window.h): maxima and the like start again.
    pub(crate) fn begin_window(&mut self, now_ns: u64) {
        let signal = self.share.signal();
        self.share.with(|loaded| {
            if let Some(mut window) = loaded.map_mut("window").and_then(|map| Array::<_, u64>::try_from(map).ok()) {
                // Without it maxima are those since the load: nothing to stop for.
                let _ = window.set(signal, now_ns, 0);
            }
        });
    }

    /// Sets the only element of an array that the kernel side reads.
    pub(crate) fn tell(&mut self, name: &str, value: u32) -> io::Result<()> {
        self.tell_at(name, 0, value)
    }

    /// Sets an element of an array that the kernel side reads.
    pub(crate) fn tell_at(&mut self, name: &str, index: u32, value: u32) -> io::Result<()> {
        self.share.with(|loaded| {
            let map =
                loaded.map_mut(name).ok_or_else(|| io::Error::other(format!("no map {name}; the build is broken")))?;
            let mut array = Array::<_, u32>::try_from(map).map_err(io::Error::other)?;
            array.set(index, value, 0).map_err(io::Error::other)
        })
    }

    /// How long each of its programs has run, those too that it shares.
    pub(crate) fn run_times(&self) -> Vec<sys::RunTime> {
        self.share.run_times()
    }

    /// What the kernel side lost since it was loaded.
    pub(crate) fn loss(&self) -> SummaryLoss {
        let mut loss = SummaryLoss { missed_runs: self.share.missed_runs(), ..SummaryLoss::default() };
        if let Some(counters) = self.counters.as_ref().and_then(SignalCounters::read) {
            loss.overflow = counters.overflow;
            loss.untracked = counters.untracked;
        }
        loss
    }
}

/// An array of blocks, mostly one for each CPU (`PER_CPU_BLOCK`, block.h), mapped: reading it takes no system call and stops no writer.
/// Each word is consistent; two words may be from different moments.
pub(crate) struct MappedBlocks<T> {
    map: MmapRaw,
    access: Access,
    /// Keeps the map in the kernel.
    _data: MapData,
    stride: usize,
    block: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for MappedBlocks<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedBlocks").field("stride", &self.stride).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Reads,
    GivesBack,
}

impl<T: FromBytes> MappedBlocks<T> {
    fn map(data: MapData, access: Access) -> io::Result<Self> {
        let info = data.info().map_err(io::Error::other)?;
        let stride = (info.value_size() as usize).next_multiple_of(8);
        if stride != size_of::<T>().next_multiple_of(8) {
            return Err(io::Error::other(format!("a block has {stride} bytes, its mirror {}", size_of::<T>())));
        }
        let bytes = stride * info.max_entries() as usize;
        let fd = data.fd().as_fd().as_raw_fd();
        let mut options = MmapOptions::new();
        options.len(bytes);
        let map = if access == Access::Reads { options.map_raw_read_only(fd) } else { options.map_raw(fd) }?;
        Ok(Self { map, access, _data: data, stride, block: PhantomData })
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len() / self.stride
    }

    /// Gives a taken place back, of an element that no program adds to any more (of a process that ended). The element begins with the number and
    /// the claims that `in_flight_take` (in_flight.h) takes it with.
    pub(crate) fn give_back(&self, place: usize) {
        const CLAIMS: usize = 1;
        if self.access != Access::GivesBack || place >= self.len() {
            return;
        }
        // SAFETY: within the mapping, which can be written to; aligned to 8 bytes, as is each stride.
        let at = |word: usize| unsafe { self.map.as_mut_ptr().add(place * self.stride).cast::<u64>().add(word) };
        // SAFETY: as above; programs of the kernel use atomic operations, too, or plain loads and stores of whole words.
        unsafe {
            // What it held goes first, and the claim last: who takes it finds zeroes.
            (CLAIMS + 1..self.stride / 8).for_each(|word| AtomicU64::from_ptr(at(word)).store(0, Ordering::Relaxed));
            AtomicU64::from_ptr(at(0)).store(0, Ordering::Release);
            AtomicU32::from_ptr(at(CLAIMS).cast()).fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Each block in turn; the kernel writes while it is read, so only through volatile reads.
    pub(crate) fn iter(&self) -> impl Iterator<Item = VolatileBlock<'_, T>> {
        (0..self.len()).map(|place| VolatileBlock {
            // SAFETY: within the mapping, which has len() strides.
            at: unsafe { self.map.as_ptr().add(place * self.stride) }.cast(),
            map: PhantomData,
        })
    }
}

/// One block, changing as it is read.
#[derive(Debug)]
pub(crate) struct VolatileBlock<'a, T> {
    at: *const T,
    map: PhantomData<&'a T>,
}

impl<T> Clone for VolatileBlock<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for VolatileBlock<'_, T> {}

impl<'a, T: FromBytes> VolatileBlock<'a, T> {
    /// Reads a field; get its place with `std::ptr::addr_of!`-like projections through [`Self::project`].
    pub(crate) fn read(self) -> T
    where
        T: Copy,
    {
        // SAFETY: a live mapping, aligned by the kernel to 8 bytes, of a type for which all bytes are valid.
        unsafe { self.at.read_volatile() }
    }

    /// A part of the block, such as one field: `block.project(offset_of!(Block, field))`.
    pub(crate) fn project<U: FromBytes>(self, offset: usize) -> VolatileBlock<'a, U> {
        assert!(offset + size_of::<U>() <= size_of::<T>() && offset.is_multiple_of(align_of::<U>()));
        // SAFETY: just checked to lie within the block.
        VolatileBlock { at: unsafe { self.at.cast::<u8>().add(offset) }.cast(), map: PhantomData }
    }
}

impl<U: FromBytes + Copy, const N: usize> VolatileBlock<'_, [U; N]> {
    /// Copies a table into `out`, which gets N values.
    pub(crate) fn copy_to(self, out: &mut Vec<U>) {
        out.clear();
        // SAFETY: element i of N is within the block; as in `read`.
        out.extend((0..N).map(|i| unsafe { self.at.cast::<U>().add(i).read_volatile() }));
    }
}

/// A bounded hash map that the kernel side fills. Read in batches; an element added or removed meanwhile may be missed.
#[derive(Debug)]
pub(crate) struct KernelHash<K, V> {
    name: String,
    data: MapData,
    max_entries: u32,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> KernelHash<K, V> {
    fn new(name: &str, data: MapData) -> Option<Self> {
        let name = name.to_owned();
        let info = data.info().ok()?;
        let fits = info.key_size() as usize == size_of::<K>() && info.value_size() as usize == size_of::<V>();
        fits.then(|| Self { name, max_entries: info.max_entries(), data, types: PhantomData })
    }
}

impl<K, V> KernelHash<K, V>
where
    K: FromBytes + IntoBytes + Immutable + Copy + Eq + Hash,
    V: FromBytes + IntoBytes + Immutable + Copy,
{
    /// Reads all elements.
    pub(crate) fn read(&self) -> io::Result<HashMap<K, V>> {
        faults::pass(&self.name)?;
        let room = self.max_entries as usize;
        let (mut keys, mut values) = (vec![K::new_zeroed(); room], vec![V::new_zeroed(); room]);
        let found = sys::lookup_batch(self.data.fd().as_fd(), keys.as_mut_bytes(), values.as_mut_bytes(), room)?;
        Ok(keys.into_iter().zip(values).take(found).collect())
    }

    /// Reads the elements with such keys and removes them. If no program writes to these any more, nothing is lost.
    pub(crate) fn take(&self, wanted: impl Fn(&K) -> bool) -> io::Result<Vec<(K, V)>> {
        let found: Vec<_> = self.read()?.into_iter().filter(|(key, _)| wanted(key)).collect();
        let mut keys: Vec<K> = found.iter().map(|(key, _)| *key).collect();
        let count = keys.len();
        sys::delete_batch(self.data.fd().as_fd(), keys.as_mut_bytes(), count)?;
        Ok(found)
    }

    /// Sets an element, or adds it.
    pub(crate) fn set(&self, key: &K, value: &V) -> io::Result<()> {
        sys::set(self.data.fd().as_fd(), key.as_bytes(), value.as_bytes())
    }

    /// Removes elements to make room for new ones. Only for elements that no program writes to any more (of a process that ended).
    pub(crate) fn remove(&self, keys: impl IntoIterator<Item = K>) {
        for key in keys {
            sys::delete(self.data.fd().as_fd(), key.as_bytes());
        }
    }
}
