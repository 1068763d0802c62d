//! From a ring that another CPU fills to typed events, and to lines of JSON.

use std::fs;
use std::hint::black_box;
use std::io::{BufWriter, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::maps::{Array, MapData};
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader};
use kerno::{CancelToken, Events, Filter, Handle, Loader, OomEvent, OomTrackLoader, Options};
use kerno_kit::cargo::command_beside;

use super::child::{Child, spawn};
use super::crowd::Paced;
use super::table::{Row, Spread, Target};
use super::{allocations, compiled, cpus, step, thread_usage};

pub(super) const ABOUT: &str = "Records of 128 bytes (OOM kills that never were) that a program on another CPU puts into a ring of 64 MiB: \
                                what the reader keeps up with, of one core's CPU time, and how often it is woken. Then all system calls \
                                through kerno trace. JSON goes to /dev/null.";

const RING_BYTES: u32 = 64 << 20;
const RECORDS_A_RUN: u64 = 256;
const TIME: Duration = Duration::from_secs(1);
/// `BPF_MAP_TYPE_RINGBUF`
const RINGBUF: u32 = 27;
/// `BPF_PROG_TEST_RUN`
const TEST_RUN: libc::c_long = 10;

/// Mirror of `struct plan` in stream.bpf.c.
#[derive(Clone, Copy)]
#[repr(C)]
struct Plan {
    record: [u8; 128],
    wakeup_bytes: u64,
    made: u64,
    lost: u64,
}

// SAFETY: plain integers without padding.
unsafe impl aya::Pod for Plan {}

/// A record that decodes.
fn record() -> [u8; 128] {
    let mut record = [0; 128];
    for (at, byte) in [(std::mem::offset_of!(OomEvent, pid), 77), (std::mem::offset_of!(OomEvent, scope), 1)] {
        if let Some(place) = record.get_mut(at) {
            *place = byte;
        }
    }
    let comm = std::mem::offset_of!(OomEvent, comm);
    record.iter_mut().skip(comm).zip(*b"postgres").for_each(|(place, byte)| *place = byte);
    record
}

/// The library's reader, and a program that fills its ring.
struct Stream {
    handle: Handle,
    events: Events,
    producer: Ebpf,
    plan: Array<MapData, Plan>,
}

/// A name in the file system of BPF, gone when dropped.
struct Pin(PathBuf);

impl Drop for Pin {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Stream {
    fn new(object: &[u8]) -> anyhow::Result<Self> {
        let options = Options {
            ring_bytes: RING_BYTES,
            filter: Filter { pids: vec![u32::MAX], ..Filter::default() },
            ..Options::default()
        };
        let mut loader = OomTrackLoader::new(options);
        let handle = loader.load()?;
        let events = loader.events(&CancelToken::new()?)?;
        let found = ring_ids()?;
        let [id] = found[..] else { anyhow::bail!("{} rings came with one loader", found.len()) };
        let pin = Pin(PathBuf::from(format!("/sys/fs/bpf/kerno-bench-{}", std::process::id())));
        MapData::from_id(id)?.pin(&pin.0).context("is a bpf file system mounted at /sys/fs/bpf?")?;
        let mut producer = EbpfLoader::new().map_pin_path("events", pin.0.clone()).load(object)?;
        let program: &mut RawTracePoint = producer.program_mut("produce").context("in stream.bpf.c")?.try_into()?;
        program.load()?;
        let plan = Array::try_from(producer.take_map("plan").context("in stream.bpf.c")?)?;
        Ok(Self { handle, events, producer, plan })
    }

    fn begin(&mut self) -> anyhow::Result<()> {
        let plan = Plan { record: record(), wakeup_bytes: u64::from(RING_BYTES / 4), made: 0, lost: 0 };
        self.plan.set(0, plan, 0)?;
        Ok(())
    }

    fn program(&self) -> anyhow::Result<libc::c_int> {
        let program: &RawTracePoint = self.producer.program("produce").context("in stream.bpf.c")?.try_into()?;
        Ok(program.fd()?.as_fd().as_raw_fd())
    }
}

/// Of this process.
fn ring_ids() -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for info in fs::read_dir("/proc/self/fdinfo")?.flatten() {
        let text = fs::read_to_string(info.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
        if field("map_type:") == Some(RINGBUF) {
            ids.extend(field("map_id:"));
        }
    }
    Ok(ids)
}

/// Runs the program once.
fn run_program(program: libc::c_int) -> bool {
    // prog_fd, retval, data sizes, data pointers, repeat, duration, context sizes and pointers, flags, cpu, batch size.
    let mut attributes = [0u8; 80];
    attributes[..4].copy_from_slice(&program.to_ne_bytes());
    // SAFETY: a whole `test` of bpf_attr, without any memory it points to.
    unsafe { libc::syscall(libc::SYS_bpf, TEST_RUN, attributes.as_mut_ptr(), attributes.len()) == 0 }
}

/// Fills the ring, so many a second; 0 for as fast as it goes.
fn fill(program: libc::c_int, a_second: u64) -> anyhow::Result<Child> {
    spawn(move || {
        if cpus::pin(cpus::others()).and_then(|()| cpus::first_in_line()).is_err() {
            return;
        }
        let (start, mut runs) = (Instant::now(), 0u64);
        while run_program(program) {
            runs += 1;
            let due = Duration::from_nanos((runs * RECORDS_A_RUN * 1_000_000_000).checked_div(a_second).unwrap_or(0));
            while start.elapsed() < due {
                std::hint::spin_loop();
            }
        }
    })
}

/// Where events go.
enum To {
    Nowhere(u64),
    Json(BufWriter<fs::File>),
}

impl To {
    fn json() -> anyhow::Result<Self> {
        Ok(Self::Json(BufWriter::with_capacity(256 << 10, fs::File::create("/dev/null")?)))
    }

    fn event(&mut self, event: &OomEvent) -> std::io::Result<()> {
        match self {
            Self::Nowhere(sum) => *sum = sum.wrapping_add(event.timestamp_ns ^ u64::from(event.pid)),
            Self::Json(out) => {
                serde_json::to_writer(&mut *out, event)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }
}

/// What one run came to.
struct Run {
    events: u64,
    lost: u64,
    cpu_seconds: f64,
    seconds: f64,
    wakeups: u64,
    allocations: u64,
}

/// Reads until everything is read, or for a while.
fn read(stream: &mut Stream, to: &mut To, until: Until) -> anyhow::Result<Run> {
    let (mut seen, mut failed) = (0u64, None);
    let (cpu, wakeups) = thread_usage();
    let (allocations, start) = (allocations::count(), Instant::now());
    loop {
        let timeout = if matches!(until, Until::Empty) { Duration::ZERO } else { Duration::from_millis(100) };
        let batch = stream.events.next_batch(timeout, |raw| {
            let done = raw.decode_as::<OomEvent>().map_err(anyhow::Error::from).and_then(|event| Ok(to.event(event)?));
            seen += 1;
            match done {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failed.take() {
            return Err(error);
        }
        match until {
            Until::Empty if batch == kerno::Batch::Idle => break,
            Until::Time(time) if start.elapsed() >= time => break,
            _ => {}
        }
    }
    let (cpu_after, wakeups_after) = thread_usage();
    let run = Run {
        events: seen,
        lost: 0,
        cpu_seconds: cpu_after - cpu,
        seconds: start.elapsed().as_secs_f64(),
        wakeups: wakeups_after - wakeups,
        allocations: allocations::count() - allocations,
    };
    if let To::Nowhere(sum) = to {
        black_box(*sum);
    }
    Ok(run)
}

#[derive(Clone, Copy)]
enum Until {
    Empty,
    Time(Duration),
}

pub(super) fn rows(rounds: usize) -> anyhow::Result<Vec<Row>> {
    if cpus::measured() == cpus::others() {
        return Ok(vec![Row::unavailable("events from another CPU", "the reader", "there is one CPU only")]);
    }
    let object = compiled("stream.bpf.c")?;
    let mut stream = Stream::new(&object)?;
    let mut rows = Vec::new();
    cpus::pin(cpus::measured())?;
    for (variant, target) in [("typed events", 20.0), ("lines of JSON", 0.5)] {
        step(format_args!("stream: a full ring, {variant}"))?;
        let (mut rates, mut allocated) = (Vec::new(), 0);
        for round in 0..rounds + 1 {
            stream.begin()?;
            let program = stream.program()?;
            // 64 MiB hold 493,447 of them.
            for _ in 0..1900 {
                ensure!(run_program(program), "cannot run the producer: {}", std::io::Error::last_os_error());
            }
            let mut to = if variant == "typed events" { To::Nowhere(0) } else { To::json()? };
            let run = read(&mut stream, &mut to, Until::Empty)?;
            ensure!(run.events == 1900 * RECORDS_A_RUN, "{} events of {}", run.events, 1900 * RECORDS_A_RUN);
            // The first faults the pages in.
            if round > 0 {
                rates.push(run.events as f64 / run.cpu_seconds / 1e6);
                allocated += run.allocations;
            }
        }
        let note = format!("{allocated} allocations in {rounds} rounds of 486,400 events");
        rows.push(
            Row::new("from a full ring, one core", variant, "million/s", Spread::of(&rates)?)
                .target(Target::AtLeast(target))
                .note(note),
        );
    }
    for (millions, json) in [(1, false), (2, false), (5, false), (1, true), (2, true), (5, true)] {
        let variant = if json { "lines of JSON" } else { "typed events" };
        let subject = format!("{millions} million/s from another CPU, {variant}");
        step(format_args!("stream: {subject}"))?;
        let run = beside(&mut stream, millions * 1_000_000, json)?;
        let a_second = run.events as f64 / run.seconds;
        rows.push(Row::new(&subject, "lost", "events", Spread::exactly(run.lost as f64)).note(format!(
            "{:.2} million/s were read, {} allocations",
            a_second / 1e6,
            run.allocations
        )));
        let share = run.cpu_seconds / run.seconds * 100.0;
        rows.push(Row::new(&subject, "the reader", "% of a core", Spread::exactly(share)));
        let wakeups = run.wakeups as f64 / run.seconds;
        rows.push(
            Row::new(&subject, "wake-ups of the reader", "/s", Spread::exactly(wakeups)).target(Target::AtMost(1000.0)),
        );
    }
    drop(stream);
    cpus::unpin()?;
    rows.extend(trace()?);
    Ok(rows)
}

/// A second of reading while another CPU fills the ring.
fn beside(stream: &mut Stream, a_second: u64, json: bool) -> anyhow::Result<Run> {
    stream.begin()?;
    let mut to = if json { To::json()? } else { To::Nowhere(0) };
    let producer = fill(stream.program()?, a_second)?;
    // What others do on this CPU is not the reader's doing.
    cpus::first_in_line()?;
    let run = read(stream, &mut to, Until::Time(TIME));
    cpus::back_in_line()?;
    drop(producer);
    let mut run = run?;
    let rest = read(stream, &mut to, Until::Empty)?;
    let plan = stream.plan.get(&0, 0)?;
    run.lost = plan.lost;
    ensure!(
        run.events + rest.events + plan.lost == plan.made,
        "{} + {} read, {} lost, but {} made",
        run.events,
        rest.events,
        plan.lost,
        plan.made
    );
    ensure!(stream.handle.counters().emitted == 0, "an OOM kill came between");
    Ok(run)
}

/// The command itself, all system calls, beside half a million a second.
fn trace() -> anyhow::Result<Vec<Row>> {
    const SECONDS: u32 = 5;
    let subject = "kerno trace syscall --output json beside 500,000 getppid/s";
    step(format_args!("stream: {subject}"))?;
    let load = Paced::calls(500_000)?;
    std::thread::sleep(Duration::from_millis(200));
    let usage = || {
        // SAFETY: all zeroes is a valid value, and the call fills it.
        unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
            let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
            (seconds(usage.ru_utime) + seconds(usage.ru_stime), usage.ru_nvcsw)
        }
    };
    let (cpu, wakeups) = usage();
    let done = load.done();
    let output = Command::new(command_beside()?)
        .args(["trace", "syscall", "--output", "json", "--duration", &format!("{SECONDS}s")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()?;
    let calls = load.done() - done;
    let (cpu, wakeups) = (usage().0 - cpu, usage().1 - wakeups);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let number = |before: &str| -> Option<u64> { said.split_once(before)?.0.rsplit([' ', '\n']).next()?.parse().ok() };
    let (seen, lost) =
        number(" events seen").zip(number(" lost")).with_context(|| format!("what kerno said: {said}"))?;
    Ok(vec![
        Row::new(subject, "lost", "events", Spread::exactly(lost as f64))
            .target(Target::AtMost(0.0))
            .note(format!("{seen} were written; the load made {calls} calls meanwhile")),
        Row::new(subject, "CPU time, its start with it", "us/event", Spread::exactly(cpu / seen as f64 * 1e6)),
        Row::new(subject, "wake-ups", "/s", Spread::exactly(wakeups as f64 / f64::from(SECONDS))),
    ])
}
