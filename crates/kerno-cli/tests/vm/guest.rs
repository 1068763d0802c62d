//! The virtual machine: what must hold in it after every test, and what it can ask its host for.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs a test and looks at what it leaves: nothing of ours may stay in the kernel, and the kernel may have nothing to complain of.
pub fn watched(test: impl FnOnce()) {
    let words = std::fs::read_to_string("/proc/cmdline").unwrap();
    assert!(words.contains("kerno.nonce="), "only for the virtual machines of `cargo xtask vm`");
    let mut log = KernelLog::from_now();
    let before = Loaded::now();
    test();
    before.assert_nothing_added();
    log.assert_no_complaint();
}

/// Ids of all programs, maps and links in the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Loaded {
    programs: Vec<u32>,
    maps: Vec<u32>,
    links: Vec<u32>,
}

impl Loaded {
    fn now() -> Self {
        use aya::maps::loaded_maps;
        use aya::programs::{loaded_links, loaded_programs};
        Self {
            programs: loaded_programs().filter_map(|program| Some(program.ok()?.id())).collect(),
            maps: loaded_maps().filter_map(|map| Some(map.ok()?.id())).collect(),
            links: loaded_links().filter_map(|link| Some(link.ok()?.id())).collect(),
        }
    }

    /// The kernel frees programs after a grace period: asks until they are gone.
    fn assert_nothing_added(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Self::now() != *self {
            assert!(Instant::now() < deadline, "in the kernel before: {self:?}, and now: {:?}", Self::now());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What the kernel says from now on.
pub struct KernelLog(File);

impl KernelLog {
    pub fn from_now() -> Self {
        let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").unwrap();
        log.seek(SeekFrom::End(0)).unwrap();
        Self(log)
    }

    /// The lines since then or since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&record[..bytes]);
                    lines.extend(text.lines().next().and_then(|line| Some(line.split_once(';')?.1.to_owned())));
                }
                // Some were overwritten before they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => lines.push("(lines were lost)".into()),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => return lines,
                Err(error) => panic!("/dev/kmsg: {error}"),
            }
        }
    }

    fn assert_no_complaint(&mut self) {
        const COMPLAINTS: &[&str] = &[
            "WARNING:",
            "BUG:",
            "Oops",
            "general protection",
            "detected stall",
            "self-detected",
            "soft lockup",
            "blocked for more than",
            "bpf",
            "use-after-free",
        ];
        let lines = self.lines();
        // Lockdown says what it refuses; who was refused may know.
        let odd = lines.iter().filter(|line| !line.starts_with("Lockdown: "));
        let complaint = odd.into_iter().find(|line| COMPLAINTS.iter().any(|word| line.contains(word)));
        assert!(complaint.is_none(), "the kernel complains: {complaint:?} in\n{}", lines.join("\n"));
    }
}

/// Loads a kernel module with its parameters.
pub fn modprobe(words: &[&str]) {
    let status = Command::new("modprobe").args(words).status().unwrap();
    assert!(status.success(), "modprobe {}: {status}", words.join(" "));
}

pub fn write(path: &str, value: &str) {
    std::fs::write(path, value).unwrap_or_else(|error| panic!("cannot write {value} to {path}: {error}"));
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

/// Has qemu's monitor do something: commands and pauses (`sleep 3`) with semicolons between them.
pub fn ask_qemu(commands: &str) {
    let mut serial = OpenOptions::new().write(true).open("/dev/ttyS1").unwrap();
    // The test program may be in the middle of a line.
    writeln!(serial, "\n@qemu {commands}").unwrap();
}
