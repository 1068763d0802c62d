//! One run of a virtual machine, under software emulation.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::image::Image;
use super::{Vm, succeed};

/// What the virtual machine is made of.
pub(super) struct Machine<'a> {
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    /// More words for the kernel's command line.
    pub(super) append: &'a str,
    /// More arguments for qemu, where `{disk}` is the path of an empty disk of 64 MiB.
    pub(super) qemu: &'a [&'a str],
}

impl<'a> Machine<'a> {
    /// That of the kernel tests, and of a shell.
    pub(super) fn of(args: &'a Vm) -> Self {
        Self { cpus: args.cpus, memory_mib: 1536, append: &args.append, qemu: &[] }
    }
}

pub(super) struct Guest<'a> {
    pub(super) image: &'a Image,
    pub(super) machine: &'a Machine<'a>,
    /// Programs to have in it, at `/tmp/bin/NAME`.
    pub(super) files: &'a [PathBuf],
    /// What its shell is to do.
    pub(super) command: &'a str,
    /// Where what it prints is kept, with the second of the run in which each line came.
    pub(super) log: &'a Path,
}

/// What came of a run.
pub(super) struct Outcome {
    /// What the command printed.
    pub(super) output: Vec<String>,
    /// The command's exit status, or why there is none.
    pub(super) status: Result<i32, String>,
    pub(super) seconds: f64,
    /// Tests that failed at first and not when tried again.
    pub(super) passed_again: Vec<String>,
}

impl Outcome {
    pub(super) fn passed(&self) -> bool {
        self.status == Ok(0) && self.counts().0 > 0 && self.counts().1 == 0
    }

    /// Tests that passed and that failed.
    pub(super) fn counts(&self) -> (usize, usize) {
        let passed = self.tests().filter(|(_, passed)| *passed).count();
        (passed, self.tests().count() - passed)
    }

    /// Takes in a second run of what failed.
    pub(super) fn again(&mut self, second: Self) {
        self.seconds += second.seconds;
        self.status = second.status.clone();
        let failed: Vec<String> = self.failed_tests().into_iter().map(str::to_owned).collect();
        self.output.retain(|line| !(line == "FAILED" || (line.starts_with("test ") && line.ends_with(" ... FAILED"))));
        self.passed_again.extend(second.tests().filter(|(_, passed)| *passed).map(|(name, _)| name.to_owned()));
        let lost = failed.iter().filter(|name| !second.tests().any(|(again, _)| again == name.as_str()));
        self.output.extend(lost.map(|name| format!("test {name} ... FAILED")));
        self.output.extend(second.output);
    }

    /// Each test's name, and whether it passed. What a test's child prints may stand between the two.
    pub(super) fn tests(&self) -> impl Iterator<Item = (&str, bool)> {
        let mut begun = None;
        self.output.iter().filter_map(move |line| {
            let (name, result) = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
                Some((name, result)) => {
                    begun = Some(name);
                    (name, result)
                }
                None => (begun?, line.as_str()),
            };
            let over = matches!(result, "ok" | "FAILED");
            if over {
                begun = None;
            }
            over.then_some((name, result == "ok"))
        })
    }

    /// What a failed test printed when it was tried last, its figures apart; the last lines of it.
    pub(super) fn text_of_failed(&self, name: &str) -> Vec<&str> {
        const MOST: usize = 12;
        let head = format!("---- {name} stdout ----");
        let Some(at) = self.output.iter().rposition(|line| *line == head) else { return Vec::new() };
        let text = self.output[at + 1..].iter().map(String::as_str);
        let text = text.take_while(|line| !line.starts_with("---- ") && *line != "failures:" && *line != "successes:");
        let text: Vec<_> = text
            .filter(|line| !line.is_empty() && !line.starts_with("compared: ") && !line.starts_with("verified: "))
            .collect();
        text[text.len().saturating_sub(MOST)..].to_vec()
    }

    pub(super) fn failed_tests(&self) -> Vec<&str> {
        self.tests().filter(|(_, passed)| !passed).map(|(name, _)| name).collect()
    }

    pub(super) fn summary(&self) -> String {
        match &self.status {
            Ok(0) if self.counts().0 == 0 => "ran no test".to_owned(),
            Ok(0) if self.counts().1 > 0 => "failed".to_owned(),
            Ok(0) => "passed".to_owned(),
            Ok(status) => format!("failed (status {status})"),
            Err(reason) => reason.clone(),
        }
    }
}

impl Guest<'_> {
    /// Runs the command to its end and takes what it prints.
    pub(super) fn run(&self, limit: Duration) -> Outcome {
        let started = Instant::now();
        let mut output = Vec::new();
        let status = self.run_into(limit, &mut output).unwrap_or_else(|error| Err(format!("{error:#}")));
        Outcome { output, status, seconds: started.elapsed().as_secs_f64(), passed_again: Vec::new() }
    }

    fn run_into(&self, limit: Duration, output: &mut Vec<String>) -> anyhow::Result<Result<i32, String>> {
        let work = tempfile::tempdir()?;
        let console = work.path().join("console");
        let nonce = format!("KERNO-EXIT-{:x}", std::process::id() ^ started_at());
        let mut command = self.qemu(work.path(), &format!("kerno.nonce={nonce}"))?;
        command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        command.arg("-monitor").arg(format!("unix:{},server=on,wait=off", work.path().join("monitor").display()));
        let mut qemu =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("qemu")?;
        let lines = BufReader::new(qemu.stdout.take().context("piped")?);
        let over = Arc::new(AtomicBool::new(false));
        let watchdog = {
            let (over, pid) = (Arc::clone(&over), qemu.id());
            std::thread::spawn(move || {
                let started = Instant::now();
                while !over.load(Ordering::SeqCst) {
                    if started.elapsed() > limit {
                        // SAFETY: our own child, not yet waited for.
                        unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
                        return true;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                false
            })
        };
        let mut status = None;
        let mut begun = String::new();
        let (mut log, started) = (fs::File::create(self.log)?, Instant::now());
        for line in lines.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            match line.strip_prefix(&nonce) {
                Some(code) => status = code.trim().parse().ok(),
                None => {
                    writeln!(log, "{:7.1} {line}", started.elapsed().as_secs_f64())?;
                    if let Some(commands) = line.strip_prefix(MONITOR) {
                        tell_monitor(&work.path().join("monitor"), commands)?;
                        // It came in the middle of a line.
                        begun = output.pop().unwrap_or_default();
                    } else {
                        output.push(std::mem::take(&mut begun) + &line);
                    }
                }
            }
        }
        over.store(true, Ordering::SeqCst);
        let timed_out = watchdog.join().unwrap_or(false);
        let mut complaint = String::new();
        let _ = qemu.stderr.take().map(|mut stderr| stderr.read_to_string(&mut complaint));
        let _ = qemu.wait();
        Ok(match status {
            Some(status) => {
                if status != 0 {
                    println!("{}", output.join("\n"));
                }
                Ok(status)
            }
            None => {
                println!("{}\n{}", output.join("\n"), fs::read_to_string(&console).unwrap_or_default());
                if !complaint.is_empty() {
                    println!("qemu: {}", complaint.trim());
                }
                Err(if timed_out { format!("not done in {} s", limit.as_secs()) } else { "the kernel died".to_owned() })
            }
        })
    }

    /// On this terminal, until the shell ends.
    pub(super) fn shell(&self) -> anyhow::Result<()> {
        let work = tempfile::tempdir()?;
        let mut command = self.qemu(work.path(), "kerno.shell=1")?;
        let status = command.args(["-serial", "mon:stdio"]).status().context("qemu")?;
        ensure!(status.success(), "qemu: {status}");
        Ok(())
    }

    fn qemu(&self, work: &Path, words: &str) -> anyhow::Result<Command> {
        let extra = work.join("extra");
        fs::create_dir_all(extra.join("tests"))?;
        fs::write(extra.join("command"), self.command)?;
        for file in self.files {
            fs::copy(file, extra.join("tests").join(file.file_name().context("a program has a name")?))?;
        }
        let initrd = work.join("initrd");
        fs::copy(&self.image.initrd, &initrd)?;
        // Archives one after another are unpacked over each other.
        succeed(Command::new("sh").current_dir(&extra).args([
            "-e",
            "-c",
            "find . -mindepth 1 | cpio -o -H newc --quiet >> ../initrd",
        ]))?;
        fs::remove_dir_all(&extra)?;
        let disk = work.join("disk");
        fs::File::create(&disk)?.set_len(512 << 20)?;
        let second_disk = work.join("disk2");
        fs::File::create(&second_disk)?.set_len(64 << 20)?;
        let second_disk = second_disk.display().to_string();
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-accel",
                "tcg,thread=single",
                "-cpu",
                "max,la57=off",
                "-M",
                "q35",
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args(["-m", &self.machine.memory_mib.to_string(), "-smp", &self.machine.cpus.to_string()])
            .arg("-drive")
            .arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()))
            .arg("-kernel")
            .arg(&self.image.vmlinux)
            .arg("-initrd")
            .arg(&initrd)
            .arg("-append")
            .arg(format!(
                "console=ttyS0 panic=-1 quiet no_timer_check random.trust_cpu=on mitigations=off cryptomgr.notests tsc=reliable clocksource=tsc \
                 lsm=landlock,lockdown,yama,integrity,bpf {} {words}",
                self.machine.append
            ))
            .args(self.machine.qemu.iter().map(|arg| arg.replace("{disk}", &second_disk)));
        Ok(command)
    }
}

/// What a line begins with on which the guest asks for something that only qemu can do: commands for its monitor, and pauses such as
/// `sleep 3`, with semicolons between them.
const MONITOR: &str = "@qemu ";

fn tell_monitor(socket: &Path, commands: &str) -> anyhow::Result<()> {
    let mut monitor = UnixStream::connect(socket).context("qemu's monitor")?;
    for command in commands.split(';').map(str::trim) {
        match command.strip_prefix("sleep ") {
            Some(seconds) => std::thread::sleep(Duration::from_secs(seconds.parse()?)),
            None => monitor.write_all(format!("{command}\n").as_bytes())?,
        }
    }
    // It reads until we are gone, and not what came just before that.
    std::thread::sleep(Duration::from_millis(200));
    Ok(())
}

fn started_at() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos())
}
