//! What two findings have in common.

use std::net::IpAddr;

use kerno_model::errno;
use kerno_model::paths::is_below;
use kerno_model::{Address, DiskDevice, Fact, Finding, Limit, RequestKind, Scope, Subject, WaitsFor, Window};

use super::storage::{REMOTE_SLEEPS, STORAGE_CALLS, STORAGE_SLEEPS};

/// How closely two findings are tied together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tie {
    /// The one works on the other in a known way.
    Mechanism,
    /// A device, a cgroup, an address.
    Place,
    /// A process.
    Process,
}

/// Ties between findings of the same window.
pub(crate) struct Ties<'a> {
    pub(super) window: &'a Window,
}

impl<'a> Ties<'a> {
    pub(crate) const fn new(window: &'a Window) -> Self {
        Self { window }
    }

    /// Both name the same process as behind it.
    #[allow(clippy::unused_self, reason = "all ties look alike in the table")]
    pub(crate) fn same_process(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let (cause, consequence) = (cause.subject.process.as_ref()?, consequence.subject.process.as_ref()?);
        (cause.id == consequence.id).then_some(Tie::Process)
    }

    /// The cause is about a run of the program that is started again and again, or that suffers from it: a process that the same one has started, in
    /// the same service where that starts them all.
    pub(crate) fn of_what_is_started_again(&self, cause: &Finding, again: &Finding) -> Option<Tie> {
        let starter = again.subject.pid()?;
        let last: Vec<u32> = again.victims.iter().filter_map(Subject::pid).collect();
        let is_a_run = |subject: &Subject| {
            let Some(pid) = subject.pid() else { return false };
            let started = || self.window.process(pid).is_some_and(|process| process.parent_pid == starter);
            let unit = again.subject.unit.is_some() && subject.unit == again.subject.unit;
            // Whoever manages services has started many programs.
            pid != starter && (last.contains(&pid) || unit || starter > 1 && started())
        };
        cause.victims.iter().chain([&cause.subject]).any(is_a_run).then_some(Tie::Process)
    }

    /// The same, and each time for want of memory.
    pub(crate) fn kills_what_is_started_again(&self, cause: &Finding, again: &Finding) -> Option<Tie> {
        (again.variant == "oom" && cause.rule == "oom_kill").then(|| self.of_what_is_started_again(cause, again))?
    }

    // Storage.

    /// Both name the same device, or a part of it.
    pub(crate) fn same_device(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let (a, b) = (self.device(&cause.subject)?, self.device(&consequence.subject)?);
        self.one_device(&a, &b).then_some(Tie::Place)
    }

    /// The consequence's device is made of the cause's.
    pub(crate) fn stacked_device(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let (below, above) = (self.device(&cause.subject)?, self.device(&consequence.subject)?);
        (!self.one_device(&below, &above) && self.is_made_of(&above, &below)).then_some(Tie::Place)
    }

    /// A device that fails requests, and what stands on it or is made of it.
    pub(crate) fn failing_device(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let fails = cause.rule == "disk_errors";
        fails.then(|| self.same_device(cause, consequence).or_else(|| self.stacked_device(cause, consequence)))?
    }

    /// A device made of a file on a file system that has no room left, and whose writes fail.
    pub(crate) fn stands_on_full(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let for_room = [errno::ENOSPC, errno::EDQUOT, errno::EIO];
        let told = consequence.rule == "filesystem_read_only" || self.any_errno(consequence, &for_room);
        let (full, above) = (self.device(&cause.subject)?, self.device(&consequence.subject)?);
        let parts = self.parts_of(&above);
        (told && cause.is_at(Limit::FileSystemBytes) && parts.iter().any(|part| self.lies_on(part, &full)))
            .then_some(Tie::Place)
    }

    /// Errors that failing storage gives to calls.
    pub(crate) fn failing_storage(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let errors = [errno::EIO, errno::EROFS, errno::ENODATA, errno::ENXIO, errno::EUCLEAN];
        // Whoever gets such an error from a file gets it from storage, though it may use other devices more.
        self.any_errno(consequence, &errors).then(|| self.uses_device(cause, consequence).unwrap_or(Tie::Mechanism))
    }

    /// Errors that a full file system gives to calls.
    pub(crate) fn no_space(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        // Watches, namespaces and the like have limits of their own, and the same error for them.
        const OTHER_LIMITS: &[&str] = &[
            "inotify_add_watch",
            "fanotify_mark",
            "epoll_ctl",
            "unshare",
            "clone",
            "clone3",
            "semget",
            "shmget",
            "msgget",
            "bpf",
        ];
        let other_limit = consequence.calls().any(|call| OTHER_LIMITS.contains(&call));
        if other_limit || !self.any_errno(consequence, &[errno::ENOSPC, errno::EDQUOT]) {
            return None;
        }
        if shares_pid(cause, consequence) {
            return Some(Tie::Process);
        }
        // The mount is rarely known where a call failed; where it is, it must be that one.
        match (&cause.subject.mount, &consequence.subject.mount) {
            (Some(full), Some(mount)) => (full == mount).then_some(Tie::Place),
            _ => Some(Tie::Mechanism),
        }
    }

    /// Slow calls that wait for storage, of someone who uses that device.
    pub(crate) fn slow_storage(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        self.slow_calls(consequence)
            .iter()
            .any(|call| STORAGE_CALLS.contains(call))
            .then(|| self.uses_device(cause, consequence))?
    }

    /// Tasks asleep in the kernel's storage code, which use that device.
    pub(crate) fn blocked_on_storage(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let pids = pids(consequence);
        let blocked = self.window.sched_delay.iter().flat_map(|sched| &sched.blocked);
        let sleeps: Vec<&str> = blocked
            .filter(|task| pids.contains(&task.pid))
            .flat_map(|task| task.stack.iter().chain(&task.wait_channel))
            .map(String::as_str)
            .collect();
        let any_of = |parts: &[&str]| sleeps.iter().any(|place| parts.iter().any(|part| place.contains(part)));
        let on_storage = match consequence.waits_for() {
            // The finding knows for what.
            Some(WaitsFor::Storage) => true,
            // Whoever holds a lock may wait for storage.
            Some(what) if !matches!(what, WaitsFor::Lock | WaitsFor::PageLock | WaitsFor::Unknown) => false,
            _ if !sleeps.is_empty() => any_of(STORAGE_SLEEPS) && !any_of(REMOTE_SLEEPS),
            // Without the right to read its stack: does it wait for block I/O?
            _ => self.io_delayed(&pids),
        };
        on_storage.then(|| self.uses_device(cause, consequence))?
    }

    /// Memory stalls on a machine with memory to spare are waits for pages that come from a slow device.
    pub(crate) fn memory_waits_for_disk(&self, _: &Finding, consequence: &Finding) -> Option<Tie> {
        (Self::memory_cgroup(consequence).is_none() && self.memory_to_spare() && !self.is_thrashing())
            .then_some(Tie::Mechanism)
    }

    /// Whether those whom the consequence names use the device or the cgroup's I/O limit that the cause names.
    fn uses_device(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let named = pids(consequence);
        if let Some(limited) = Self::limited_cgroup(cause) {
            return self.any_in_cgroup(&named, &consequence.subject, limited);
        }
        if shares_pid(cause, consequence) {
            return Some(Tie::Process);
        }
        let Some(device) = self.device(&cause.subject) else { return Some(Tie::Mechanism) };
        if let Some(other) = self.device(&consequence.subject) {
            let same = self.one_device(&other, &device) || self.is_made_of(&other, &device);
            return same.then_some(Tie::Place);
        }
        let disk = self.window.disk_io.as_ref()?;
        let mut own = disk.submitters.iter().filter(|submitter| named.contains(&submitter.pid)).peekable();
        if own.peek().is_some() {
            // What they are known to use, and nothing else.
            return own
                .any(|submitter| self.one_device(&submitter.dev, &device) || self.is_made_of(&submitter.dev, &device))
                .then_some(Tie::Place);
        }
        // Buffered writers submit nothing themselves.
        Some(Tie::Mechanism)
    }

    /// The cgroup whose own I/O limit is the cause, if it is that.
    fn limited_cgroup(cause: &Finding) -> Option<&str> {
        let path = cause.subject.cgroup.as_deref()?;
        cause.is_at(Limit::CgroupIo).then_some(path)
    }

    // Memory.

    /// Both are about the same cgroup's memory, or about the machine's.
    pub(crate) fn same_memory(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        match (Self::memory_cgroup(cause), Self::memory_cgroup(consequence)) {
            (Some(a), Some(b)) => (a == b || is_below(a, b) || is_below(b, a)).then_some(Tie::Place),
            (None, None) => Some(Tie::Place),
            // A cgroup at its limit makes its tasks wait, which the machine's pressure shows; but a machine short of memory
            // has a cause of its own.
            (Some(_), None) => {
                (consequence.rule == "memory_pressure" && self.memory_to_spare()).then_some(Tie::Mechanism)
            }
            (None, Some(_)) => shares_pid(cause, consequence).then_some(Tie::Process),
        }
    }

    /// Reads that only fetch again what had been dropped for want of memory, or swapping.
    pub(crate) fn thrashing(&self, _: &Finding, consequence: &Finding) -> Option<Tie> {
        let is_write = matches!(consequence.operation(), Some(RequestKind::Write | RequestKind::Flush));
        let swaps = self.window.oom_track.as_ref().is_some_and(|memory| memory.swapped_out_pages > 0);
        (self.is_thrashing() && Self::limited_cgroup(consequence).is_none() && (!is_write || swaps))
            .then_some(Tie::Mechanism)
    }

    /// Calls of processes that had to wait for memory.
    pub(crate) fn slow_for_memory(&self, _: &Finding, consequence: &Finding) -> Option<Tie> {
        /// Of its time in the window: less does not make calls slow.
        const SHARE: f64 = 0.02;
        let enough = SHARE * self.window.seconds() * 1e9;
        if consequence.waits_for() == Some(WaitsFor::Memory) {
            return Some(Tie::Mechanism);
        }
        let process = self.window.process(consequence.subject.pid()?)?;
        #[allow(clippy::cast_precision_loss, reason = "a duration")]
        let waited = process.used.reclaim_delay_ns as f64 >= enough;
        (waited || (process.used.major_faults > 100 && self.is_thrashing())).then_some(Tie::Mechanism)
    }

    /// The cgroup that a finding about memory means: `None` is the machine. A process is in some cgroup anyway, which is not meant where
    /// the machine's memory is short.
    fn memory_cgroup(finding: &Finding) -> Option<&str> {
        match finding.scope() {
            Some(Scope::Cgroup(path)) => Some(path),
            _ => None,
        }
    }

    /// The machine as a whole is not short of memory.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    fn memory_to_spare(&self) -> bool {
        const SPARE: f64 = 0.1;
        let Some(memory) = &self.window.oom_track else { return false };
        memory.available_bytes.min().is_some_and(|available| available > SPARE * memory.total_bytes as f64)
    }

    /// A good part of what is read has been dropped shortly before.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    fn is_thrashing(&self) -> bool {
        const PAGE: f64 = 4096.0;
        const SHARE: f64 = 0.3;
        const PAGES_PER_SECOND: f64 = 100.0;
        let Some(memory) = &self.window.oom_track else { return false };
        let pages = (memory.refaulted_pages + memory.swapped_out_pages) as f64;
        let reads =
            self.window.disk_io.iter().flat_map(|disk| &disk.devices).filter_map(|device| device.op(RequestKind::Read));
        let read_bytes: u64 = reads.map(|op| op.bytes).sum();
        pages > PAGES_PER_SECOND * self.window.seconds() && pages * PAGE >= SHARE * read_bytes as f64
    }

    // Descriptors.

    /// The process whose leak fills its own table; or, where the machine's is full, one that leaks.
    pub(crate) fn leaks_to_limit(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        self.same_process(cause, consequence).or_else(|| is_of_machine(consequence).then_some(Tie::Mechanism))
    }

    /// Errors for want of a descriptor, of that process or, where it is the machine that has none left, of anyone.
    pub(crate) fn no_descriptor(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        if self.any_errno(consequence, &[errno::EMFILE]) {
            return self.same_process(cause, consequence);
        }
        let system_wide = cause.rule == "fd_leak" || is_of_machine(cause);
        (system_wide && self.any_errno(consequence, &[errno::ENFILE])).then_some(Tie::Mechanism)
    }

    /// The same process, and it has no descriptor left, or next to none.
    pub(crate) fn at_limit_and_same_process(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        cause.is_at(Limit::Descriptors).then(|| self.same_process(cause, consequence))?
    }

    // CPUs.

    /// Someone in the cgroup that is held back.
    pub(crate) fn in_throttled_cgroup(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let cgroup = cause.subject.cgroup.as_deref()?;
        // Who suffers from contention are its victims; the culprit is who holds the CPUs.
        let contention = consequence.rule == "scheduler_contention";
        let named = if contention && !consequence.victims.is_empty() {
            consequence.victims.iter().filter_map(Subject::pid).collect()
        } else {
            pids(consequence)
        };
        let inside = |pid: &u32| self.in_cgroup(*pid, cgroup) || pids(cause).contains(pid);
        if contention {
            // Others who wait as well have another cause.
            return (!named.is_empty() && named.iter().all(inside)).then_some(Tie::Place);
        }
        consequence.subject.pid().filter(inside).map(|_| Tie::Place)
    }

    /// Calls that are slow though nothing but a CPU is needed, of someone who waited for one.
    pub(crate) fn slow_for_cpu(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let calls = self.slow_calls(consequence);
        if calls.iter().any(|call| STORAGE_CALLS.contains(call) || *call == "connect") {
            return None;
        }
        self.waits_for_cpu(cause, consequence)
    }

    /// The process behind the consequence waited for a CPU for a good part of the window, or is a known victim.
    pub(crate) fn waits_for_cpu(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        const SHARE: f64 = 0.1;
        let pid = consequence.subject.pid()?;
        if cause.victims.iter().any(|victim| victim.pid() == Some(pid)) {
            return Some(Tie::Process);
        }
        let process = self.window.process(pid)?;
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let waited = process.used.wait_ns as f64 > SHARE * self.window.seconds() * 1e9;
        let mut waiters = self.window.sched_delay.iter().flat_map(|sched| &sched.waiters);
        (waited || waiters.any(|waiter| waiter.pid == pid)).then_some(Tie::Mechanism)
    }

    // The network.

    /// Connections within the machine, which only a CPU can delay.
    #[allow(clippy::unused_self, reason = "all ties look alike in the table")]
    pub(crate) fn loopback(&self, _: &Finding, consequence: &Finding) -> Option<Tie> {
        let address = consequence.subject.remote?;
        address.ip.is_loopback().then_some(Tie::Mechanism)
    }

    /// The other end that the consequence names is one that the cause names.
    #[allow(clippy::unused_self, reason = "all ties look alike in the table")]
    pub(crate) fn same_remote(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let remote = consequence.subject.remote?;
        // Where many other ends are affected, they are the victims.
        let mut named = [&cause.subject].into_iter().chain(&cause.victims).filter_map(|who| who.remote);
        named.any(|address| address.ip == remote.ip).then_some(Tie::Place)
    }

    /// The same other end, and nothing came back from it.
    pub(crate) fn timed_out_to_same_remote(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let timed_out = self.any_errno(consequence, &[errno::ETIMEDOUT]);
        timed_out.then(|| self.same_remote(cause, consequence))?
    }

    /// Traffic to the listener that the cause names: its port, at an address of this machine.
    pub(crate) fn to_listener(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let listener = cause.subject.local?;
        let to_it = |end: Address| {
            let there = listener.ip.is_unspecified() || end.ip == listener.ip;
            let same_port = match end.port {
                Some(_) => end.port == listener.port,
                None => self.connects(end.ip, listener.port),
            };
            listener.port.is_some() && same_port && there
        };
        let ends = [consequence.subject.remote, consequence.subject.local];
        ends.into_iter().flatten().any(to_it).then_some(Tie::Place)
    }

    /// This machine dropped so many packets that they can be those that were sent again. What no protocol wanted was nobody's segment, and
    /// no interface is on the way to an address of this machine.
    pub(crate) fn dropped_here(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        const SHARE: f64 = 0.5;
        let dropped = cause.number("dropped").or_else(|| cause.number("errors"))?;
        let again = consequence.number("retransmitted")?;
        let local = consequence.subject.remote.is_some_and(|remote| remote.ip.is_loopback());
        let on_the_way = cause.subject.interface.is_none() || !local;
        (cause.variant != "unwanted" && on_the_way && dropped >= SHARE * again).then_some(Tie::Mechanism)
    }

    /// The kernel's message is about what the other finding is about: a rule that its table names, and the same device, interface or process
    /// where both name one.
    pub(crate) fn told_by_the_kernel(&self, cause: &Finding, message: &Finding) -> Option<Tie> {
        let kind = crate::kernel_log::entries().find(|entry| entry.id == message.variant)?;
        if !kind.rules.contains(&cause.rule.as_str()) {
            return None;
        }
        if let (Some(a), Some(b)) = (self.device(&cause.subject), self.device(&message.subject)) {
            let same = self.one_device(&a, &b) || self.is_made_of(&b, &a) || self.is_made_of(&a, &b);
            return same.then_some(Tie::Place);
        }
        match (cause.subject.pid(), message.subject.pid()) {
            (Some(a), Some(b)) if a == b => Some(Tie::Process),
            (_, Some(b)) if cause.victims.iter().any(|victim| victim.pid() == Some(b)) => Some(Tie::Process),
            (Some(_), Some(_)) => None,
            _ => Some(Tie::Mechanism),
        }
    }

    /// The backlogs of CPUs dropped so many packets that they can be those that a virtual interface could not hand over.
    pub(crate) fn dropped_by_backlog(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        const SHARE: f64 = 0.5;
        let (backlog, dropped) = (cause.number("dropped")?, consequence.number("dropped")?);
        (cause.subject.interface.is_none() && backlog >= SHARE * dropped).then_some(Tie::Mechanism)
    }

    /// Whether there are connections of ours to that port there.
    fn connects(&self, remote: IpAddr, port: Option<u16>) -> bool {
        let mut peers = self.window.tcp_monitor.iter().flat_map(|tcp| &tcp.peers);
        peers.any(|peer| peer.outgoing && peer.remote.to_canonical() == remote && Some(peer.port) == port)
    }

    /// Slow connects of someone whose connections go to that listener.
    pub(crate) fn slow_connect_to_listener(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        if !self.slow_calls(consequence).contains(&"connect") {
            return None;
        }
        let pid = consequence.subject.pid()?;
        let port = cause.subject.local?.port;
        let tcp = self.window.tcp_monitor.as_ref()?;
        let mut peers = tcp.peers.iter().filter(|peer| peer.outgoing && Some(peer.port) == port);
        let mut failures = tcp.failures.iter().filter(|failure| Some(failure.port) == port);
        (peers.any(|peer| peer.owners.iter().any(|owner| owner.pid == pid))
            || failures.any(|failure| failure.pid == pid))
        .then_some(Tie::Place)
    }

    /// Errors that connect gives, of the process whose connects fail.
    pub(crate) fn connect_errors(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        const CONNECT: &[i32] = &[
            errno::ECONNREFUSED,
            errno::ETIMEDOUT,
            errno::ECONNRESET,
            errno::EHOSTUNREACH,
            errno::ENETUNREACH,
            errno::EADDRNOTAVAIL,
        ];
        self.any_errno(consequence, CONNECT).then(|| self.same_process(cause, consequence))?
    }

    /// Slow connects of the process whose connects fail.
    pub(crate) fn slow_connect(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        self.slow_calls(consequence).contains(&"connect").then(|| self.same_process(cause, consequence))?
    }

    /// Errors that a limit gives, of a process that the cause says it gave them to.
    pub(crate) fn same_limit(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let errnos: Vec<i32> = cause.errnos().collect();
        let pid = consequence.subject.pid()?;
        let fails = cause.victims.iter().any(|victim| victim.pid() == Some(pid));
        (fails && self.any_errno(consequence, &errnos)).then_some(Tie::Process)
    }

    /// Segments that are sent again because a full table of tracked connections drops the first ones of connections. It drops no others.
    pub(crate) fn dropped_by_full_table(&self, cause: &Finding, _: &Finding) -> Option<Tie> {
        let tcp = self.window.tcp_monitor.as_ref()?;
        let data: u64 =
            tcp.peers.iter().map(|peer| peer.retransmitted_segments.saturating_sub(peer.syn_retransmits)).sum();
        let all: u64 = tcp.namespaces.iter().map(|namespace| namespace.retransmitted_segments).sum();
        (cause.variant == kerno_model::Resource::TrackedConnections.name() && 2 * data < all).then_some(Tie::Mechanism)
    }

    /// Connects to a Unix socket that fail because its backlog is full.
    pub(crate) fn refused_by_full_backlog(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let refused =
            consequence.calls().any(|call| call == "connect") && self.any_errno(consequence, &[errno::EAGAIN]);
        let held_up = cause.rule == "unix_backlog_full" && refused;
        held_up.then(|| if shares_pid(cause, consequence) { Tie::Process } else { Tie::Mechanism })
    }

    /// The one that the consequence names waits for the one that the cause names, or is it.
    #[allow(clippy::unused_self, reason = "all ties look alike in the table")]
    pub(crate) fn held_up(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        shares_pid(cause, consequence).then_some(Tie::Process)
    }

    /// Failed opens of the same process.
    pub(crate) fn failed_opens(&self, cause: &Finding, consequence: &Finding) -> Option<Tie> {
        let opens = consequence.calls().any(|call| matches!(call, "open" | "openat" | "openat2" | "creat"));
        opens.then(|| self.same_process(cause, consequence))?
    }

    // What findings are about.

    /// Whether a finding is about one of these errors: it says so, or, where it names none, its process had it.
    fn any_errno(&self, finding: &Finding, errnos: &[i32]) -> bool {
        if finding.errnos().next().is_some() {
            return finding.errnos().any(|errno| errnos.contains(&errno));
        }
        let calls = self.window.syscall_latency.iter().flat_map(|calls| &calls.offenders);
        calls
            .filter(|offender| finding.subject.pid() == Some(offender.pid))
            .flat_map(|offender| &offender.errors)
            .any(|error| errnos.contains(&error.errno))
    }

    /// The calls that a finding about slow calls is about: those it names, or the slowest of its process.
    fn slow_calls<'f>(&'f self, finding: &'f Finding) -> Vec<&'f str> {
        let named: Vec<_> = finding.calls().collect();
        if !named.is_empty() {
            return named;
        }
        let pid = finding.subject.pid();
        let calls = self.window.syscall_latency.iter().flat_map(|calls| &calls.offenders);
        let slow = calls.filter(|offender| offender.slow > 0 && pid.is_none_or(|pid| pid == offender.pid));
        slow.max_by_key(|offender| offender.slow_total_ns).map(|worst| worst.name.as_str()).into_iter().collect()
    }

    /// The device that is meant, as `major:minor` where that is known.
    fn device(&self, subject: &Subject) -> Option<String> {
        if let Some(device) = &subject.device {
            if !device.dev.is_empty() {
                return Some(device.dev.clone());
            }
            return Some(
                self.known_device(&device.name).map_or_else(|| device.name.clone(), |known| known.dev.clone()),
            );
        }
        let mount = subject.mount.as_ref()?;
        let disk = self.window.disk_io.as_ref()?;
        disk.filesystems.iter().find(|filesystem| filesystem.mount == *mount).map(|filesystem| filesystem.dev.clone())
    }

    fn known_device(&self, device: &str) -> Option<&DiskDevice> {
        let name = device.trim_start_matches("/dev/");
        let disk = self.window.disk_io.as_ref()?;
        disk.devices.iter().find(|known| known.dev == name || known.name == name)
    }

    fn one_device(&self, a: &str, b: &str) -> bool {
        let disk_of = |device: &str| {
            let name = self.known_device(device).map_or(device, |known| known.name.as_str());
            whole_disk(name.trim_start_matches("/dev/")).to_owned()
        };
        a == b || disk_of(a) == disk_of(b)
    }

    /// Over however many layers, as far as they are known.
    fn is_made_of(&self, above: &str, below: &str) -> bool {
        const LAYERS: usize = 8;
        let mut layer = vec![above.to_owned()];
        for _ in 0..LAYERS {
            let parts: Vec<String> = layer.iter().flat_map(|device| self.parts_of(device)).collect();
            if parts.iter().any(|part| self.one_device(part, below) || self.lies_on(part, below)) {
                return true;
            }
            layer = parts;
        }
        false
    }

    /// The devices or files that a device is made of. One without requests is known by its file system only.
    fn parts_of(&self, device: &str) -> Vec<String> {
        if let Some(known) = self.known_device(device) {
            return known.backing.clone();
        }
        let disk = self.window.disk_io.iter().flat_map(|disk| &disk.filesystems);
        disk.filter(|fs| fs.dev == device).flat_map(|fs| fs.backing.clone()).collect()
    }

    /// Whether a file (of a loop device) is on a file system on that device.
    fn lies_on(&self, file: &str, device: &str) -> bool {
        let disk = self.window.disk_io.iter().flat_map(|disk| &disk.filesystems);
        let holds = |mount: &str| file.starts_with('/') && (mount == "/" || is_below(file, mount));
        disk.filter(|filesystem| holds(&filesystem.mount))
            .max_by_key(|filesystem| filesystem.mount.len())
            .is_some_and(|filesystem| self.one_device(&filesystem.dev, device))
    }

    fn in_cgroup(&self, pid: u32, path: &str) -> bool {
        let listed = |pids: &Vec<u32>| pids.contains(&pid);
        let own = self.window.process(pid).and_then(|process| process.cgroup.as_deref());
        own.is_some_and(|own| own == path || is_below(own, path))
            || self.window.disk_io.iter().flat_map(|d| &d.throttled).any(|c| c.path == path && listed(&c.pids))
            || self.window.sched_delay.iter().flat_map(|s| &s.throttled).any(|c| c.path == path && listed(&c.pids))
    }

    fn any_in_cgroup(&self, pids: &[u32], subject: &Subject, path: &str) -> Option<Tie> {
        let inside = pids.iter().any(|pid| self.in_cgroup(*pid, path)) || subject.cgroup.as_deref() == Some(path);
        inside.then_some(Tie::Place)
    }

    fn io_delayed(&self, pids: &[u32]) -> bool {
        pids.iter().filter_map(|pid| self.window.process(*pid)).any(|process| process.used.io_delay_ns > 0)
    }
}

/// The processes that a finding names.
fn pids(finding: &Finding) -> Vec<u32> {
    [&finding.subject].into_iter().chain(&finding.victims).filter_map(Subject::pid).collect()
}

/// About the machine as a whole, not about one process.
fn is_of_machine(finding: &Finding) -> bool {
    finding.subject.process.is_none() || finding.has(&Fact::Scope(Scope::Machine))
}

/// The consequence's culprit is named by the cause.
fn shares_pid(cause: &Finding, consequence: &Finding) -> bool {
    consequence.subject.pid().is_some_and(|pid| pids(cause).contains(&pid))
}

/// The disk that a partition is on, by the kernel's names: sda1 on sda, nvme0n1p2 on nvme0n1, mmcblk0p1 on mmcblk0.
fn whole_disk(name: &str) -> &str {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == name.len() {
        return name;
    }
    let numbered =
        ["nvme", "mmcblk", "loop", "nbd", "zram", "md", "pmem"].iter().any(|prefix| name.starts_with(prefix));
    match (numbered, stem.strip_suffix('p')) {
        (true, Some(disk)) if disk.ends_with(|c: char| c.is_ascii_digit()) => disk,
        (false, _) if ["sd", "vd", "xvd", "hd"].iter().any(|prefix| name.starts_with(prefix)) => stem,
        _ => name,
    }
}
