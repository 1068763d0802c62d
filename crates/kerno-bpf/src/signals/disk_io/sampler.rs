use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::deleted;
use super::device_writers::DeviceWriters;
use super::devices::{Dev, Devices, number};
use super::event::DiskOp;
use super::filesystems::Filesystems;
use super::limits::Limits;
use super::loader;
use super::writers::Writers;
use crate::engine::{Cumulative, Delta, Gaps, PressureMeter, ProcFile, Sampler, Tick};
use crate::event::Comm;
use crate::probe::{Host, KernelHash, LoadError, MappedBlocks, Object, Plan, SummaryPrograms, VolatileBlock, meminfo};
use kerno_model::{DiskDevice, DiskFailure, DiskOpStat, DiskSubmitter, DiskSummary};
use kerno_model::{ErrnoCount, Histogram, RequestKind, Series, Window};

/// `HISTOGRAM_BUCKETS`
const BUCKETS: usize = 976;

/// Submitters told of, by each of requests, bytes and flushes.
const TOP_SUBMITTERS: usize = 32;

/// Bits of the minor number in the kernel's device numbers.
const MINOR_BITS: u32 = 20;

/// Mirrors of the structs in disk_io_summary.bpf.c, where the fields are explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct OpKey {
    dev: u32,
    op: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WireOp {
    number: u64,
    claims: u32,
    pad: u32,
    bytes: u64,
    queue_ns: [u32; BUCKETS],
    device_ns: [u32; BUCKETS],
}

impl WireOp {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        for (sums, others) in [(&mut self.queue_ns, &other.queue_ns), (&mut self.device_ns, &other.device_ns)] {
            for (sum, count) in sums.iter_mut().zip(others) {
                *sum = sum.wrapping_add(*count);
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SubmitterKey {
    pid: u32,
    dev: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WireSubmitted {
    number: u64,
    claims: u32,
    pad: u32,
    requests: u64,
    read_bytes: u64,
    write_bytes: u64,
    flushes: u64,
    total_ns: u64,
    comm: Comm,
}

impl WireSubmitted {
    /// Two CPUs may each have taken a place for the same.
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.read_bytes += other.read_bytes;
        self.write_bytes += other.write_bytes;
        self.flushes += other.flushes;
        self.total_ns += other.total_ns;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ErrorKey {
    dev: u32,
    op: u32,
    error: u32,
    pad: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct FailureKey {
    dev: u32,
    op: u32,
    error: u32,
    pid: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WireFailure {
    timestamp_ns: u64,
    sector: u64,
    count: u64,
    nr_bytes: u32,
    pad: u32,
    comm: Comm,
}

const fn decode_dev(dev: u32) -> Dev {
    (dev >> MINOR_BITS, dev & ((1 << MINOR_BITS) - 1))
}

/// What the kernel side's number means.
fn request_kind(op: u32) -> RequestKind {
    const PAIRS: [(DiskOp, RequestKind); 4] = [
        (DiskOp::Read, RequestKind::Read),
        (DiskOp::Write, RequestKind::Write),
        (DiskOp::Flush, RequestKind::Flush),
        (DiskOp::Discard, RequestKind::Discard),
    ];
    PAIRS.into_iter().find(|(known, _)| *known as u32 == op).map_or(RequestKind::Other, |(_, kind)| kind)
}

/// What is loaded on this kernel, and onto which hooks.
pub(crate) fn summary_plan(host: &Host) -> Result<(Object, Plan), LoadError> {
    let object =
        Object { name: "disk_io_summary", data: aya::include_bytes_aligned!("../../../objects/disk_io_summary.bpf.o") };
    let mut plan = Plan::default();
    loader::hooks(host, &mut plan, loader::WaitsSince::Made);
    Ok((object, plan))
}

/// Loads what sums up this signal; attaches nothing yet.
pub(crate) fn sampler(host: &Host) -> Result<Box<dyn Sampler>, LoadError> {
    let (object, plan) = summary_plan(host)?;
    let mut programs = SummaryPrograms::load(object, plan, host)?;
    Ok(Box::new(Sampled {
        ops: programs.mapped("device_ops")?,
        submitters: programs.mapped_places("submitters")?,
        errors: programs.hash("errors")?,
        failures: programs.hash("failures")?,
        programs,
        kept: Kept::default(),
        begun: false,
        devices: Devices::default(),
        filesystems: Filesystems::default(),
        limits: Limits::default(),
        writers: Writers::default(),
        device_writers: DeviceWriters::default(),
        pressure: PressureMeter::new("pressure on I/O", "/proc/pressure/io"),
        meminfo: ProcFile::new("/proc/meminfo"),
        dirty: Series::default(),
        writeback: Series::default(),
        gaps: Gaps::new("disk_io"),
    }))
}

type Ops = HashMap<OpKey, WireOp>;
type Submitters = HashMap<SubmitterKey, WireSubmitted>;
type Errors = HashMap<ErrorKey, u64>;

/// What the kernel side has added up.
#[derive(Debug)]
struct Kept {
    ops: Cumulative<Ops>,
    submitters: Cumulative<Submitters>,
    errors: Cumulative<Errors>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            ops: Cumulative::new("requests to disks"),
            submitters: Cumulative::new("who submitted requests to disks"),
            errors: Cumulative::new("which errors requests to disks gave"),
        }
    }
}

#[derive(Debug)]
struct Sampled {
    programs: SummaryPrograms,
    ops: MappedBlocks<WireOp>,
    submitters: MappedBlocks<WireSubmitted>,
    errors: KernelHash<ErrorKey, u64>,
    failures: KernelHash<FailureKey, WireFailure>,
    kept: Kept,
    begun: bool,
    devices: Devices,
    filesystems: Filesystems,
    limits: Limits,
    writers: Writers,
    device_writers: DeviceWriters,
    pressure: PressureMeter,
    meminfo: ProcFile,
    dirty: Series,
    writeback: Series,
    /// What could not be read in this window.
    gaps: Gaps,
}

impl Sampler for Sampled {
    fn attach(&mut self) -> Result<(), LoadError> {
        self.programs.attach()
    }

    fn begin(&mut self, tick: &Tick<'_>) {
        // Later windows begin where the one before ended.
        if !std::mem::replace(&mut self.begun, true) {
            self.kept.ops.begin(Ok(ops(&self.ops)));
            self.kept.submitters.begin(Ok(submitted(&self.submitters)));
            self.kept.errors.begin(self.errors.read());
            self.pressure.begin();
        }
        self.devices.begin(&mut self.gaps);
        self.filesystems.begin(tick.resolver);
        self.limits.begin(&mut self.gaps);
        self.writers.begin();
        self.device_writers.begin();
        self.dirty = Series::default();
        self.writeback = Series::default();
        self.sample_dirty(0.0);
    }

    fn sample(&mut self, tick: &Tick<'_>) {
        self.devices.sample(tick.seconds, &mut self.gaps);
        self.filesystems.sample(tick.seconds, tick.resolver);
        self.limits.sample(tick.seconds, &mut self.gaps);
        self.writers.sample(self.filesystems.list(), tick, &mut self.gaps);
        self.device_writers.sample(tick);
        self.sample_dirty(tick.seconds);
    }

    fn finish(&mut self, tick: &Tick<'_>, signals: &mut Window) {
        let ops = self.gaps.delta(self.kept.ops.advance(Ok(ops(&self.ops))));
        let submitters = self.gaps.delta(self.kept.submitters.advance(Ok(submitted(&self.submitters))));
        let errors = self.gaps.delta(self.kept.errors.advance(self.errors.read()));
        let failures = self.gaps.note("requests to disks that failed", self.failures.read()).unwrap_or_default();
        self.filesystems.finish(tick.resolver);
        let mut filesystems = self.filesystems.list().to_vec();
        self.writers.finish(&mut filesystems, tick, &mut self.gaps);
        deleted::find(&mut filesystems, tick, &mut self.gaps);
        let pressure = self.pressure.take(tick.seconds).map_err(|gap| self.gaps.add(gap)).ok();
        signals.missing.extend(self.filesystems.unread());
        let mounts = self.filesystems.mounts();
        let used = self.devices.used(tick.seconds, mounts, tick.resolver, &mut self.gaps);
        signals.disk_io = Some(DiskSummary {
            devices: describe_devices(used, ops.as_ref(), errors.as_ref(), mounts),
            submitters: submitters.as_ref().map(describe_submitters).unwrap_or_default(),
            writers: self.device_writers.finish(tick),
            failures: describe_failures(&failures),
            filesystems,
            throttled: self.limits.finish(tick.seconds, tick.tasks, &mut self.gaps),
            some_stalled: pressure.map(|pressure| pressure.0),
            all_stalled: pressure.map(|pressure| pressure.1),
            dirty_bytes: self.dirty.clone(),
            writeback_bytes: self.writeback.clone(),
        });
        self.gaps.tell(signals);
        self.failures.remove(failures.into_keys());
        let gone =
            |pid: u32| !tick.tasks.process(pid).is_some_and(|process| process.alive) && pid != std::process::id();
        if let Some(delta) = submitters {
            let ended: HashSet<_> = delta.now.extract_if(|key, _| gone(key.pid)).map(|(key, _)| key).collect();
            let places = self.submitters.iter().enumerate();
            let ended = places.filter(|(_, block)| submitter_key(block).is_some_and(|key| ended.contains(&key)));
            ended.for_each(|(place, _)| self.submitters.give_back(place));
        }
    }

    fn pulse(&mut self, _now_ns: u64) -> Option<String> {
        let (name, busy, await_ms) = self.devices.busiest()?;
        let busy = format!("{name} {:.0} % busy", busy * 100.0);
        Some(match await_ms {
            Some(ms) if ms >= 10.0 => format!("{busy}, {ms:.0} ms"),
            Some(ms) => format!("{busy}, {ms:.1} ms"),
            None => busy,
        })
    }

    fn programs(&self) -> Option<&SummaryPrograms> {
        Some(&self.programs)
    }
}

impl Sampled {
    #[allow(clippy::cast_precision_loss, reason = "bytes")]
    fn sample_dirty(&mut self, seconds: f64) {
        let Some(text) = self.gaps.note("dirty memory", self.meminfo.text()) else { return };
        for (name, series) in [("Dirty", &mut self.dirty), ("Writeback", &mut self.writeback)] {
            if let Some(bytes) = meminfo::bytes_of(text, name) {
                series.push(seconds, bytes as f64);
            }
        }
    }
}

fn ops(mapped: &MappedBlocks<WireOp>) -> Ops {
    let mut ops = Ops::new();
    for block in mapped.iter() {
        let number = block.project::<u64>(offset_of!(WireOp, number)).read();
        if number == 0 {
            continue;
        }
        let [dev, op] = [number >> 8, number & 0xff].map(|part| u32::try_from(part).unwrap_or(0));
        let sum = block.read();
        ops.entry(OpKey { dev, op }).and_modify(|known| known.add(&sum)).or_insert(sum);
    }
    ops
}

/// Whose sums these are; `None` if the place is free.
fn submitter_key(block: &VolatileBlock<'_, WireSubmitted>) -> Option<SubmitterKey> {
    let number = block.project::<u64>(offset_of!(WireSubmitted, number)).read();
    let [pid, dev] = [number >> 32, number & 0xffff_ffff].map(|part| u32::try_from(part).unwrap_or(0));
    (number != 0).then_some(SubmitterKey { pid, dev })
}

fn submitted(mapped: &MappedBlocks<WireSubmitted>) -> Submitters {
    let mut submitters = Submitters::new();
    for block in mapped.iter() {
        if let Some(key) = submitter_key(&block) {
            let sum = block.read();
            submitters.entry(key).and_modify(|known| known.add(&sum)).or_insert(sum);
        }
    }
    submitters
}

/// Those that `/proc/diskstats` tells of, with what the kernel side has added up.
fn describe_devices(
    used: HashMap<Dev, DiskDevice>,
    ops: Option<&Delta<'_, Ops>>,
    errors: Option<&Delta<'_, Errors>>,
    mounts: &HashMap<Dev, Vec<String>>,
) -> Vec<DiskDevice> {
    let mut devices: BTreeMap<Dev, DiskDevice> = used.into_iter().collect();
    for (key, sum) in ops.into_iter().flat_map(|delta| delta.now.iter()) {
        let earlier = ops.and_then(|delta| delta.before.get(key));
        let mut stat = DiskOpStat {
            op: request_kind(key.op),
            count: 0,
            bytes: sum.bytes.saturating_sub(earlier.map_or(0, |earlier| earlier.bytes)),
            errors: errors.map(|delta| describe_errors(*key, delta)).unwrap_or_default(),
            queue_ns: Histogram::new(),
            device_ns: Histogram::new(),
        };
        let none = [0; BUCKETS];
        stat.queue_ns.add_kernel_delta(&sum.queue_ns, earlier.map_or(&none, |earlier| &earlier.queue_ns));
        stat.device_ns.add_kernel_delta(&sum.device_ns, earlier.map_or(&none, |earlier| &earlier.device_ns));
        stat.count = stat.device_ns.count();
        if stat.count == 0 {
            continue;
        }
        let dev = decode_dev(key.dev);
        devices.entry(dev).or_insert_with(|| Devices::unlisted(dev, mounts)).ops.push(stat);
    }
    for device in devices.values_mut() {
        device.ops.sort_by_key(|stat| stat.op);
    }
    devices.into_values().collect()
}

fn describe_errors(key: OpKey, Delta { before, now, .. }: &Delta<'_, Errors>) -> Vec<ErrnoCount> {
    let of_this = now.iter().filter(|(error, _)| (error.dev, error.op) == (key.dev, key.op));
    let mut errors: Vec<_> = of_this
        .map(|(error, count)| (error.error, count.saturating_sub(before.get(error).copied().unwrap_or(0))))
        .filter(|(_, count)| *count > 0)
        .map(|(errno, count)| ErrnoCount::new(errno.cast_signed(), count))
        .collect();
    errors.sort_by_key(|error| std::cmp::Reverse(error.count));
    errors
}

fn describe_submitters(Delta { before, now, .. }: &Delta<'_, Submitters>) -> Vec<DiskSubmitter> {
    let describe = |(key, sum): (&SubmitterKey, &WireSubmitted)| {
        let earlier = before.get(key);
        let since = |pick: fn(&WireSubmitted) -> u64| pick(sum).saturating_sub(earlier.map_or(0, pick));
        DiskSubmitter {
            pid: key.pid,
            comm: sum.comm.to_str_lossy().into_owned(),
            dev: number(decode_dev(key.dev)),
            requests: since(|sum| sum.requests),
            read_bytes: since(|sum| sum.read_bytes),
            write_bytes: since(|sum| sum.write_bytes),
            flushes: since(|sum| sum.flushes),
            total_ns: since(|sum| sum.total_ns),
        }
    };
    let all: Vec<_> = now.iter().map(describe).filter(|submitter| submitter.requests > 0).collect();
    let uses: [fn(&DiskSubmitter) -> u64; 4] =
        [|s| s.read_bytes + s.write_bytes, |s| s.requests, |s| s.flushes, |s| s.total_ns];
    let mut chosen = HashSet::new();
    let mut order: Vec<usize> = (0..all.len()).collect();
    for used in uses {
        order.sort_unstable_by_key(|at| std::cmp::Reverse(all.get(*at).map_or(0, used)));
        chosen.extend(order.iter().take(TOP_SUBMITTERS).copied());
    }
    let kept = all.into_iter().enumerate().filter(|(at, _)| chosen.contains(at));
    let mut submitters: Vec<_> = kept.map(|(_, submitter)| submitter).collect();
    submitters.sort_by(|a, b| {
        let bytes = |s: &DiskSubmitter| s.read_bytes + s.write_bytes;
        (bytes(b), b.requests).cmp(&(bytes(a), a.requests)).then(a.pid.cmp(&b.pid)).then_with(|| a.dev.cmp(&b.dev))
    });
    submitters
}

fn describe_failures(failures: &HashMap<FailureKey, WireFailure>) -> Vec<DiskFailure> {
    let mut list: Vec<_> = failures
        .iter()
        .map(|(key, failure)| {
            let error = ErrnoCount::new(key.error.cast_signed(), failure.count);
            DiskFailure {
                timestamp_ns: failure.timestamp_ns,
                dev: number(decode_dev(key.dev)),
                op: request_kind(key.op),
                sector: failure.sector,
                bytes: failure.nr_bytes.into(),
                errno: error.errno,
                error: error.name,
                pid: key.pid,
                comm: failure.comm.to_str_lossy().into_owned(),
                count: failure.count,
            }
        })
        .collect();
    list.sort_by_key(|failure| failure.timestamp_ns);
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::layout::{assert_matches, fields};

    #[test]
    fn sums_are_as_the_kernel_side_has_them() {
        let object = aya::include_bytes_aligned!("../../../objects/disk_io_summary.bpf.o");
        assert_matches(
            object,
            "device_op",
            size_of::<WireOp>(),
            fields!(WireOp: number claims pad bytes queue_ns device_ns),
        );
        let fields = fields!(WireSubmitted: number claims pad requests read_bytes write_bytes flushes total_ns comm);
        assert_matches(object, "submitted", size_of::<WireSubmitted>(), fields);
        let fields = fields!(WireFailure: timestamp_ns sector count nr_bytes pad comm);
        assert_matches(object, "failure", size_of::<WireFailure>(), fields);
    }
}
