//! Tight loops, each in a process of its own: summaries leave out the process that reads them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;

use anyhow::{Context, ensure};
use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

use super::super::child::{Child, PingPong, spawn};
use super::super::{cpus, getppids};

/// A loop that can be measured again and again; it ends when this is dropped.
pub(super) struct Workload {
    _child: Child,
    ask: PipeWriter,
    answer: PipeReader,
    instructions: std::io::Result<Counter>,
}

/// What one measurement gives.
pub(super) struct Measured {
    /// CPU time of an operation: the first quartile of many short slices, which the machine's other doings disturb least.
    pub(super) ns: f64,
    pub(super) operations: f64,
    /// Of an operation: all that the processor ran on that CPU meanwhile, where it counts for us.
    pub(super) instructions: Option<f64>,
}

/// What a loop does.
struct Work {
    /// Of a slice, about a millisecond.
    operations: usize,
    run: Box<dyn FnMut(usize) -> anyhow::Result<()>>,
    /// Threads that work for it, beside the one that runs it.
    others: Box<dyn FnMut() -> Vec<i32>>,
}

impl Work {
    fn alone(operations: usize, run: impl FnMut(usize) -> anyhow::Result<()> + 'static) -> Self {
        Self { operations, run: Box::new(run), others: Box::new(Vec::new) }
    }
}

/// Which loop.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Getppid,
    OpenClose,
    PingPong,
    DirectReads,
    Connections,
    Messages,
}

impl Workload {
    /// Starts it, pinned and before all others on its CPU; `device` is for direct reads.
    pub(super) fn start(kind: Kind, device: &str) -> anyhow::Result<Self> {
        let (mut told, ask) = std::io::pipe()?;
        let (answer, mut tell) = std::io::pipe()?;
        let child = spawn(|| {
            let result = cpus::pin(cpus::measured())
                .and_then(|()| cpus::first_in_line())
                .and_then(|()| kind.prepare(device))
                .and_then(|work| serve(work, &mut told, &mut tell));
            if let Err(error) = result {
                eprintln!("the measured process: {error:#}");
            }
        })?;
        let mut instructions =
            Builder::new(Hardware::INSTRUCTIONS).any_pid().one_cpu(cpus::measured()).include_kernel().build();
        if let Ok(counter) = &mut instructions {
            counter.enable()?;
        }
        Ok(Self { _child: child, ask, answer, instructions })
    }

    /// Why no instructions are counted.
    pub(super) fn uncounted(&self) -> Option<String> {
        let error = self.instructions.as_ref().err()?;
        Some(format!("the processor counts no instructions for us: {error}"))
    }

    pub(super) fn measure(&mut self, slices: u32) -> anyhow::Result<Measured> {
        let mut counter = self.instructions.as_mut().ok();
        let before = counter.as_mut().map(|counter| counter.read()).transpose()?;
        self.ask.write_all(&slices.to_ne_bytes())?;
        let mut bytes = [0; 16];
        self.answer.read_exact(&mut bytes).context("the measured process failed")?;
        let [ns, operations] = [0, 8].map(|at| {
            bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(f64::NAN, f64::from_ne_bytes)
        });
        let after = counter.as_mut().map(|counter| counter.read()).transpose()?;
        let instructions = after.zip(before).map(|(after, before)| (after - before) as f64 / operations);
        Ok(Measured { ns, operations, instructions })
    }
}

fn serve(mut work: Work, told: &mut PipeReader, tell: &mut PipeWriter) -> anyhow::Result<()> {
    let mut slices = [0; 4];
    (work.run)(work.operations)?;
    // Until the other end is gone.
    while told.read_exact(&mut slices).is_ok() {
        let slices = u32::from_ne_bytes(slices);
        let mut took = Vec::new();
        (work.run)(work.operations)?;
        let mut clocks = vec![libc::CLOCK_THREAD_CPUTIME_ID];
        clocks.extend((work.others)().into_iter().filter_map(clock_of));
        for _ in 0..slices {
            let before = cpu_ns(&clocks);
            (work.run)(work.operations)?;
            if let (Some(before), Some(after)) = (before, cpu_ns(&clocks)) {
                took.push((after - before) / work.operations as f64);
            }
        }
        ensure!(!took.is_empty(), "no slice could be timed");
        took.sort_by(f64::total_cmp);
        let quartile = took.get(took.len() / 4).copied().unwrap_or(f64::NAN);
        tell.write_all(&quartile.to_ne_bytes())?;
        tell.write_all(&((slices as usize + 1) as f64 * work.operations as f64).to_ne_bytes())?;
    }
    Ok(())
}

fn clock_of(pid: i32) -> Option<libc::clockid_t> {
    let mut clock = 0;
    // SAFETY: writes to the place it gets.
    (unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } == 0).then_some(clock)
}

/// Of all these clocks; none if one has gone with its thread.
fn cpu_ns(clocks: &[libc::clockid_t]) -> Option<f64> {
    let mut sum = 0.0;
    for clock in clocks {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes to the place it gets.
        if unsafe { libc::clock_gettime(*clock, &raw mut time) } != 0 {
            return None;
        }
        sum += time.tv_sec as f64 * 1e9 + time.tv_nsec as f64;
    }
    Some(sum)
}

impl Kind {
    /// What one operation is.
    pub(super) const fn subject(self) -> &'static str {
        match self {
            Self::Getppid => "getppid()",
            Self::OpenClose => "open and close of /dev/null",
            Self::PingPong => "2 switches and 2 wake-ups on one CPU",
            Self::DirectReads => "direct read of 4 KiB from a loop device over memory",
            Self::Connections => "TCP connection on loopback, both ends",
            Self::Messages => "64 bytes and an answer over TCP on loopback",
        }
    }

    fn prepare(self, device: &str) -> anyhow::Result<Work> {
        match self {
            Self::Getppid => Ok(Work::alone(4000, |count| {
                getppids(count);
                Ok(())
            })),
            Self::OpenClose => Ok(Work::alone(1000, |count| {
                (0..count).try_for_each(|_| File::open("/dev/null").map(drop))?;
                Ok(())
            })),
            Self::PingPong => {
                let mut pair = PingPong::start()?;
                let other = pair.other();
                let run = Box::new(move |count| pair.rounds(count));
                Ok(Work { operations: 300, run, others: Box::new(move || vec![other]) })
            }
            Self::DirectReads => direct_reads(device),
            Self::Connections => connections(),
            Self::Messages => messages(),
        }
    }
}

/// In a network namespace that keeps no sockets in TIME_WAIT: connecting gets slower with their number, which depends on what was
/// measured before.
fn connections() -> anyhow::Result<Work> {
    own_network()?;
    fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "0")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let to = listener.local_addr()?;
    Ok(Work::alone(50, move |count| {
        for _ in 0..count {
            let here = TcpStream::connect(to)?;
            let (mut there, _) = listener.accept()?;
            drop(here);
            there.read_exact(&mut [0]).err().context("an end")?;
        }
        Ok(())
    }))
}

/// A network namespace for this process, with loopback.
fn own_network() -> anyhow::Result<()> {
    // SAFETY: a plain call.
    ensure!(unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0, "unshare: {}", std::io::Error::last_os_error());
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: plain numbers and a name, of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(b"lo").for_each(|(to, from)| *to = from.cast_signed());
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING)?;
    // SAFETY: the kernel reads the request.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    ensure!(done == 0, "cannot bring up loopback: {}", std::io::Error::last_os_error());
    Ok(())
}

fn messages() -> anyhow::Result<Work> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut here = TcpStream::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    Ok(Work::alone(150, move |count| {
        let mut message = [7; 64];
        for _ in 0..count {
            here.write_all(&message)?;
            there.read_exact(&mut message)?;
            there.write_all(&message)?;
            here.read_exact(&mut message)?;
        }
        Ok(())
    }))
}

/// Reads in flight at once: one sleep and one wake-up for so many, which are the noisiest part of a read.
const DEPTH: usize = 64;

const PAGE: usize = 4096;

/// linux/aio_abi.h.
const IOCB_CMD_PREAD: u16 = 0;

/// Asynchronous reads, with the CPU time of the kernel's workers: they do the reading for a loop device.
fn direct_reads(device: &str) -> anyhow::Result<Work> {
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(device)?;
    let mut context: libc::c_ulong = 0;
    // SAFETY: the kernel writes the context's id.
    let made = unsafe { libc::syscall(libc::SYS_io_setup, DEPTH, &raw mut context) };
    ensure!(made == 0, "io_setup: {}", std::io::Error::last_os_error());
    // For as long as the process lives: the kernel writes to it. O_DIRECT wants it aligned.
    let room = Box::leak(vec![0u8; (DEPTH + 1) * PAGE].into_boxed_slice());
    let start = room.as_ptr().align_offset(PAGE);
    let mut requests = Vec::new();
    for (i, page) in room.get_mut(start..).context("room for pages")?.chunks_exact_mut(PAGE).take(DEPTH).enumerate() {
        // SAFETY: plain numbers and pointers, of which zero is a value.
        let mut request: libc::iocb = unsafe { std::mem::zeroed() };
        request.aio_lio_opcode = IOCB_CMD_PREAD;
        request.aio_fildes = u32::try_from(file.as_raw_fd())?;
        request.aio_buf = page.as_mut_ptr() as u64;
        request.aio_nbytes = PAGE as u64;
        // Not one after the other, which would be merged.
        request.aio_offset = i64::try_from(i * 2 * PAGE)?;
        requests.push(request);
    }
    let run = move |count: usize| {
        // Open for as long as it runs.
        let _file = &file;
        for _ in 0..count / DEPTH {
            let mut pointers: Vec<*mut libc::iocb> = requests.iter_mut().map(std::ptr::from_mut).collect();
            // SAFETY: as many requests as said, whose buffers live on.
            let sent = unsafe { libc::syscall(libc::SYS_io_submit, context, DEPTH, pointers.as_mut_ptr()) };
            ensure!(sent == DEPTH as libc::c_long, "io_submit took {sent}: {}", std::io::Error::last_os_error());
            let mut results = [[0u64; 4]; DEPTH];
            // SAFETY: room for as many results of 32 bytes as are asked for; no time limit.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    context,
                    DEPTH,
                    DEPTH,
                    results.as_mut_ptr(),
                    std::ptr::null::<libc::timespec>(),
                )
            };
            ensure!(got == DEPTH as libc::c_long, "io_getevents gave {got}");
            // The third is the result.
            ensure!(results.iter().all(|result| result[2] == PAGE as u64), "a read failed");
        }
        Ok(())
    };
    Ok(Work { operations: DEPTH * 8, run: Box::new(run), others: Box::new(kernel_workers) })
}

/// Requests end in soft interrupts, whose thread counts too.
fn kernel_workers() -> Vec<i32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let worker = |pid: &i32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.starts_with("kworker/") || comm.starts_with("ksoftirqd/")
    };
    pids.filter(worker).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A loop device over a file in memory.
pub(super) struct LoopDevice {
    pub(super) path: String,
    _file: tempfile::NamedTempFile,
}

impl LoopDevice {
    pub(super) fn new() -> anyhow::Result<Self> {
        let file = tempfile::NamedTempFile::new_in("/dev/shm")?;
        fs::write(file.path(), vec![7; 8 << 20])?;
        let output = Command::new("losetup").args(["--find", "--show"]).arg(file.path()).output()?;
        ensure!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { path: String::from_utf8(output.stdout)?.trim().to_owned(), _file: file })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
    }
}

/// Keeps the kernel's unbound workers on one CPU, until this is dropped.
pub(super) struct KernelWorkers {
    before: String,
}

const WORKERS: &str = "/sys/devices/virtual/workqueue/cpumask";

impl KernelWorkers {
    pub(super) fn on(cpu: usize) -> anyhow::Result<Self> {
        let before = fs::read_to_string(WORKERS).context(WORKERS)?;
        // Groups of 32 CPUs, the highest first.
        let mask = format!("{:x}{}", 1u32 << (cpu % 32), ",00000000".repeat(cpu / 32));
        fs::write(WORKERS, mask).context(WORKERS)?;
        Ok(Self { before })
    }
}

impl Drop for KernelWorkers {
    fn drop(&mut self) {
        if let Err(error) = fs::write(WORKERS, &self.before) {
            eprintln!("cannot write {} to {WORKERS}: {error}", self.before.trim());
        }
    }
}
