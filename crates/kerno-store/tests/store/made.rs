//! Made-up windows of a machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kerno_model::saved::read_window;
use kerno_model::{Process, SCHEMA_VERSION, Window};
use kerno_store::{Reader, Settings, Tier};

/// When the made-up machine begins to be watched: seconds since 1970.
pub const BEGIN: f64 = 1_784_563_200.0;

/// A second, in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// A machine that is watched.
#[derive(Clone, Debug)]
pub struct Machine {
    pub boot: u32,
    /// Seconds since 1970.
    pub wall: f64,
    /// `CLOCK_MONOTONIC`, in seconds.
    pub uptime: f64,
    pub count: u64,
    /// Windows are like this one.
    pub like: Window,
}

impl Default for Machine {
    fn default() -> Self {
        Self { boot: 1, wall: BEGIN, uptime: 1000.0, count: 0, like: small() }
    }
}

impl Machine {
    /// The next window.
    pub fn watch(&mut self, seconds: f64) -> Window {
        let mut window = self.like.clone();
        window.span.started_unix = self.wall;
        window.span.started_ns = (self.uptime * 1e9) as u64;
        (window.span.seconds, window.span.unwatched_seconds, window.span.samples) = (seconds, 0.0, 2);
        window.host.boot_id = format!("boot-{}", self.boot);
        window.host.hostname = "made-up".into();
        self.count += 1;
        window.cost.cpu_seconds = self.count as f64;
        for process in window.processes.values_mut() {
            process.used.run_ns = self.count * 1_000_003 % 7_777_777;
        }
        self.pass(seconds);
        window
    }

    /// Time goes by, unwatched.
    pub fn pass(&mut self, seconds: f64) {
        self.wall += seconds;
        self.uptime += seconds;
    }

    pub fn reboot(&mut self, off_seconds: f64) {
        self.boot += 1;
        self.wall += off_seconds;
        self.uptime = 5.0;
    }

    pub fn now_ns(&self) -> u64 {
        (self.wall * 1e9) as u64
    }
}

/// A window of a few hundred bytes.
pub fn small() -> Window {
    let mut window = Window::default();
    window.schema_version = SCHEMA_VERSION;
    window.kerno_version = "0.1.0".into();
    for pid in [1, 40, 77] {
        let process = Process {
            pid,
            comm: format!("process-{pid}"),
            alive: true,
            started_ns: u64::from(pid) * 1_000_000,
            ..Process::default()
        };
        window.processes.insert(pid, process);
    }
    window
}

/// A recorded window.
pub fn recorded(name: &str) -> Window {
    let path = format!("{}/../../tests/corpus/{name}.json", env!("CARGO_MANIFEST_DIR"));
    read_window(&std::fs::read(path).unwrap()).unwrap()
}

/// Short tiers: ten minutes of windows of 10 s in 24 files, and so on.
pub fn short() -> Settings {
    let mut settings = Settings::default();
    settings.max_share = 1.0;
    settings.tiers = vec![
        Tier::new(Duration::from_secs(10), Duration::from_secs(600)),
        Tier::new(Duration::from_secs(60), Duration::from_secs(1800)),
        Tier::new(Duration::from_secs(300), Duration::from_secs(6000)),
    ];
    settings
}

/// All windows that a reader gives.
pub fn all(reader: &Reader) -> Vec<Window> {
    reader.windows(0, u64::MAX).map(Result::unwrap).collect()
}

pub fn merged(windows: &[Window]) -> Window {
    let mut merged = windows[0].clone();
    windows[1..].iter().for_each(|window| merged.merge(window).unwrap());
    merged
}

/// What is kept must be the latest of these windows, without a gap, merged or not. Returns how many are there.
pub fn check_kept(kept: &[Window], windows: &[Window]) -> usize {
    let mut at = windows.len();
    for window in kept.iter().rev() {
        let count = window.merged.as_ref().map_or(1, |merged| merged.windows as usize);
        at -= count;
        assert_same(window, &merged(&windows[at..at + count]), &format!("{count} windows from {at}"));
    }
    windows.len() - at
}

/// Equal, but for what rounding does to sums of numbers with a point, which were added up in another order.
pub fn assert_same(window: &Window, expected: &Window, context: &str) {
    let near = |a: f64, b: f64| (a - b).abs() < 1e-6 * (1.0 + a.abs());
    assert!(near(window.span.seconds, expected.span.seconds), "{context}: {:?} {:?}", window.span, expected.span);
    assert!(near(window.span.unwatched_seconds, expected.span.unwatched_seconds), "{context}");
    let mut window = window.clone();
    (window.span.seconds, window.span.unwatched_seconds) = (expected.span.seconds, expected.span.unwatched_seconds);
    if let (Some(ours), Some(theirs)) = (&mut window.merged, &expected.merged) {
        assert_eq!(ours.gaps.len(), theirs.gaps.len(), "{context}");
        for (ours, theirs) in ours.gaps.iter_mut().zip(&theirs.gaps) {
            assert!(near(ours.at, theirs.at) && near(ours.seconds, theirs.seconds), "{context}: {ours:?} {theirs:?}");
            *ours = *theirs;
        }
    }
    assert!(window == *expected, "{context}: {window:#?}\n{expected:#?}");
}

/// A directory in memory: most tests are not about the disk.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// All files of a directory.
pub fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    files.sort();
    files
}

pub fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        std::fs::write(to.join(path.file_name().unwrap()), bytes).unwrap();
    }
}

/// Numbers that look random and are the same in each run.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
