//! Who stands still, and whom for, as a window says it.

use std::io::Write as _;
use std::time::{Duration, Instant};

use kerno_model::{AwaitedKind, Stall, StallNeed, StandingState, Window};

use crate::support::{self, slowness};

/// A forked child that is killed in the end.
struct Forked(libc::pid_t);

impl Forked {
    fn new(work: impl FnOnce()) -> Self {
        // SAFETY: the child only makes system calls, and never returns from here.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "{}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: a number, and a wait for a signal.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            work();
            loop {
                // SAFETY: as above.
                unsafe { libc::pause() };
            }
        }
        Self(pid)
    }

    fn pid(&self) -> u32 {
        self.0.cast_unsigned()
    }

    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    fn until(&self, state: char, channel: &str) {
        let deadline = Instant::now() + Duration::from_secs(20 * slowness());
        // On x86, kernels before 5.16 cannot tell where a task sleeps: get_wchan() did not know the ORC unwinder.
        let is_told = |place: &str| place.contains(channel) || place == "0";
        let sleeps_in = || is_told(std::fs::read_to_string(format!("/proc/{}/wchan", self.0)).unwrap().trim());
        while self.state() != state || !sleeps_in() {
            assert!(Instant::now() < deadline, "{} is in state {}", self.0, self.state());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // SAFETY: a child of ours that nobody else waits for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn close(file: &impl std::os::fd::AsRawFd) {
    // SAFETY: of a child, which shares no memory with the test.
    unsafe { libc::close(file.as_raw_fd()) };
}

fn watch(seconds: f64) -> Window {
    let mut observer = support::observer(&["sched_delay"]);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
        observer.sample().unwrap();
    }
    observer.finish().unwrap()
}

fn stall_of(window: &Window, pid: u32) -> Option<&Stall> {
    window.sched_delay.as_ref().unwrap().stalls.iter().find(|stall| stall.pid == pid)
}

#[test]
fn a_writer_and_the_stopped_reader_that_it_waits_for_are_told() {
    let (read, write) = std::io::pipe().unwrap();
    let reader = Forked::new(|| close(&write));
    let writer = Forked::new(|| {
        close(&read);
        while (&write).write_all(&[0; 4096]).is_ok() {}
    });
    // One that waits for data that nobody owes it.
    let (idle, kept) = std::io::pipe().unwrap();
    let waits = Forked::new(|| {
        close(&kept);
        let _ = std::io::Read::read(&mut &idle, &mut [0]);
    });
    drop((read, write));
    reader.until('S', "");
    // SAFETY: a child of ours.
    unsafe { libc::kill(reader.0, libc::SIGSTOP) };
    reader.until('T', "");
    writer.until('S', "pipe_write");
    let window = watch(4.0);
    let stall = stall_of(&window, writer.pid()).unwrap_or_else(|| panic!("{:?}", window.missing));
    assert_eq!((stall.awaits.need, stall.awaits.kind, &*stall.call), (StallNeed::Room, AwaitedKind::Pipe, "write"));
    assert!(stall.at_end && !stall.moves && !stall.deadlock && stall.seconds >= 3.5, "{stall:?}");
    let [root] = &stall.chain[..] else { panic!("{stall:?}") };
    assert_eq!((root.pid, root.state), (reader.pid(), StandingState::Stopped));
    let held = window.sched_delay.as_ref().unwrap().held.iter().find(|held| held.pid == reader.pid()).unwrap();
    assert!(held.at_end && held.seconds >= 3.5 && held.queued == 0, "{held:?}");
    assert_eq!(stall_of(&window, waits.pid()), None);
    let found = support::diagnose(&window);
    assert!(found.iter().any(|finding| finding.id == "stopped_process" && finding.culprit.pid == Some(reader.pid())));
}

#[test]
fn two_that_wait_for_each_other_are_a_deadlock() {
    let (first, second) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let fill = |mut pipe: &std::io::PipeWriter| while pipe.write_all(&[0; 4096]).is_ok() {};
    let a = Forked::new(|| {
        [close(&first.0), close(&second.1)].iter().for_each(drop);
        fill(&first.1);
    });
    let b = Forked::new(|| {
        [close(&first.1), close(&second.0)].iter().for_each(drop);
        fill(&second.1);
    });
    drop((first, second));
    a.until('S', "pipe_write");
    b.until('S', "pipe_write");
    let window = watch(4.0);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let stall = stall_of(&window, one.pid()).unwrap_or_else(|| panic!("{:?}", window.missing));
        let pids: Vec<_> = stall.chain.iter().map(|step| step.pid).collect();
        assert_eq!((stall.deadlock, pids), (true, vec![other.pid(), one.pid()]));
    }
}
