//! Identifies processes: reads from /proc what the kernel side does not know, and remembers it for a while after they end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read as _;
use std::time::{Duration, Instant};

use super::cgroups::Hierarchy;
use super::cumulative::{Gap, Gaps};
use super::membership::{Membership, membership};
use super::resolver::{Late, Question, Resolver};
use super::tasks::{ProcessAccount, TaskRow};
use crate::event::Comm;
use crate::names::Names;
use crate::probe::clock::boottime_shift_ns;
use kerno_model::{Container, Process};

/// The most processes that are remembered.
const MAX_KNOWN: usize = 1024;
/// The most users, and the most cgroups, that are remembered.
const MAX_NAMES: usize = 1024;
/// The most bytes of a command line that are kept.
const MAX_CMDLINE: usize = 512;
/// The most processes that one sample looks up: three small files each.
const MAX_NOTICED: usize = 8;
/// The most processes or users without an answer that are named.
const MAX_TOLD: usize = 8;
/// The most containers whose names are looked up for one window.
const MAX_CONTAINERS: usize = 64;
/// How long the name of a container holds; and how long none, since some engines write theirs after the start.
const NAMED_FOR: Duration = Duration::from_secs(600);
const NAMELESS_FOR: Duration = Duration::from_secs(30);
/// The least time between two walks of the cgroups.
const WALK_INTERVAL: Duration = Duration::from_secs(10);

/// Hierarchies that tell the cgroup of a process at the root of the v2 hierarchy, in the order in which they are tried.
const V1_CONTROLLERS: &[&str] = &["memory", "cpu", "name=systemd", "blkio", "pids"];

/// Identifies processes. Remembers what does not change while they live.
#[derive(Debug, Default)]
pub(crate) struct Identities {
    known: HashMap<u32, Known>,
    users: HashMap<u32, Option<String>>,
    /// Paths in the v2 hierarchy by id, from living processes and walks; for processes that ended.
    cgroups: HashMap<u64, String>,
    walked: Option<Instant>,
    /// By runtime and id; also of those that have ended.
    containers: HashMap<(String, String), (Option<Names>, Instant)>,
    turn: u64,
    /// Processes (with names) and users that are not known because no answer came.
    late: BTreeMap<u32, (String, Late)>,
    late_users: BTreeMap<u32, Late>,
}

/// What was read about a process.
#[derive(Clone, Debug)]
struct Known {
    /// As long as this is the same, the rest still holds: ids are reused, and programs replace themselves (exec).
    same: (u64, Comm, u64),
    cmdline: String,
    cgroup: Option<String>,
    /// In the hierarchy that limits processes.
    pids_cgroup: Option<String>,
    membership: Membership,
    /// When it was last asked for.
    turn: u64,
}

impl Identities {
    /// Looks up the heaviest users that are not known yet. They may end, and their entries in /proc with them.
    pub(crate) fn notice<'a>(&mut self, processes: impl Iterator<Item = &'a ProcessAccount>, resolver: &Resolver) {
        let uses: [fn(&ProcessAccount) -> u64; 5] = [
            |p| p.used.run_ns,
            |p| p.used.write_bytes,
            |p| p.used.read_bytes,
            |p| p.row.anon_pages,
            |p| u64::from(p.row.fds),
        ];
        self.turn += 1;
        let mut most: [Vec<&ProcessAccount>; 5] = Default::default();
        for process in processes.filter(|process| process.alive && process.row.is_leader()) {
            if self.remembered(&process.row).is_some() || resolver.waits_for(&question(&process.row)) {
                continue;
            }
            for (used, top) in uses.iter().zip(&mut most) {
                let place = top.partition_point(|other| used(other) >= used(process));
                if used(process) > 0 && place < MAX_NOTICED {
                    top.insert(place, process);
                    top.truncate(MAX_NOTICED);
                }
            }
        }
        // First the heaviest user of each resource, then the second of each.
        let ranked = (0..MAX_NOTICED).flat_map(|rank| most.iter().filter_map(move |top| top.get(rank)));
        let mut unknown: Vec<TaskRow> = ranked.map(|process| process.row).collect();
        let mut seen = HashSet::new();
        unknown.retain(|row| seen.insert(row.pid));
        unknown.truncate(MAX_NOTICED);
        self.look_up(&unknown, resolver);
    }

    /// The cgroup that a process was last seen in, also after its end: the one that limits processes.
    pub(crate) fn pids_cgroup_of(&self, pid: u32) -> Option<&str> {
        self.known.get(&pid)?.pids_cgroup.as_deref()
    }

    /// Looks up these processes, for [`describe`](Self::describe).
    pub(crate) fn prepare(&mut self, accounts: &[&ProcessAccount], resolver: &Resolver) {
        self.late.clear();
        self.late_users.clear();
        let alive = accounts.iter().filter(|account| account.alive && self.remembered(&account.row).is_none());
        let unknown: Vec<_> = alive.map(|account| account.row).collect();
        self.look_up(&unknown, resolver);
        let members = accounts.iter().filter_map(|account| self.remembered(&account.row));
        let containers: Vec<_> = members.filter_map(|known| known.membership.container.clone()).collect();
        self.look_up_names(containers, resolver);
        let uids: HashSet<u32> = accounts.iter().map(|account| account.row.uid).collect();
        let uids: Vec<u32> = uids.into_iter().filter(|uid| !self.users.contains_key(uid)).collect();
        let questions = uids.iter().map(|uid| {
            let uid = *uid;
            (Question::User(uid), move || user_name(uid))
        });
        for (uid, answer) in uids.iter().zip(resolver.ask_all(questions)) {
            if self.users.len() >= MAX_NAMES {
                self.users.clear();
            }
            match answer {
                Ok(name) => drop(self.users.insert(*uid, name)),
                Err(late) => drop(self.late_users.insert(*uid, late)),
            }
        }
    }

    /// Looks up what engines call these containers, as far as that is not known.
    fn look_up_names(&mut self, containers: Vec<Container>, resolver: &Resolver) {
        let key = |container: Container| (container.runtime, container.id);
        let is_known = |key: &(String, String)| {
            let known = self.containers.get(key);
            known.is_some_and(|(names, at)| at.elapsed() < if names.is_some() { NAMED_FOR } else { NAMELESS_FOR })
        };
        let mut asked: Vec<_> = containers.into_iter().map(key).filter(|key| !is_known(key)).collect();
        asked.sort_unstable();
        asked.dedup();
        asked.truncate(MAX_CONTAINERS);
        if self.containers.len() + asked.len() > MAX_NAMES {
            let mut ages: Vec<_> = self.containers.values().map(|(_, at)| *at).collect();
            ages.sort_unstable();
            let middle = ages.get(ages.len() / 2).copied();
            self.containers.retain(|_, (_, at)| Some(*at) > middle);
        }
        let questions = asked.iter().map(|(runtime, id)| {
            let (runtime, id) = (runtime.clone(), id.clone());
            (Question::ContainerNames(runtime.clone(), id.clone()), move || Names::look_up(&runtime, &id))
        });
        let answers = resolver.ask_all(questions);
        for (key, answer) in asked.into_iter().zip(answers) {
            // What was known holds on while the disk hangs, or when the container has ended.
            match (answer, self.containers.get_mut(&key)) {
                (Ok(None) | Err(_), Some((_, at))) => *at = Instant::now(),
                (answer, _) => drop(self.containers.insert(key, (answer.ok().flatten(), Instant::now()))),
            }
        }
    }

    fn name(&self, container: &mut Container) {
        let known = self.containers.get(&(container.runtime.clone(), container.id.clone()));
        if let Some((Some(names), _)) = known {
            names.give(container);
        }
    }

    /// Adds what is not known because no answer came in time.
    pub(crate) fn tell_unanswered(&mut self, gaps: &mut Gaps) {
        let list = |late: Vec<String>| late.into_iter().take(MAX_TOLD).collect::<Vec<_>>().join("; ");
        if !self.late.is_empty() {
            let what = match self.late.len() {
                1 => "the command line of a process".to_owned(),
                many => format!("the command lines of {many} processes"),
            };
            let late = self.late.iter().map(|(pid, (name, late))| format!("/proc/{pid} ({name}): {late}"));
            gaps.add(Gap { what, reason: list(late.collect()) });
        }
        if !self.late_users.is_empty() {
            let late = self.late_users.iter().map(|(uid, late)| format!("{uid}: {late}"));
            gaps.add(Gap { what: "names of users".to_owned(), reason: list(late.collect()) });
        }
    }

    /// The process as it is now, or as it was when last seen, as far as [`prepare`](Self::prepare) could look it up.
    pub(crate) fn describe(&mut self, account: &ProcessAccount, redact: bool) -> Process {
        let row = &account.row;
        let turn = self.turn;
        let known = self.known.get_mut(&row.pid).filter(|known| known.same == same(row)).map(|known| {
            known.turn = turn;
            known.clone()
        });
        let (cmdline, cgroup, member) = match known {
            Some(known) => (known.cmdline, known.cgroup, known.membership),
            None => {
                // If all are at the root, as on hosts that use v1, the path says nothing.
                let cgroup = self.cgroup_by_id(row.cgroup_id).filter(|path| path != "/");
                let member = cgroup.as_deref().map(membership).unwrap_or_default();
                (String::new(), cgroup, member)
            }
        };
        let mut member = member;
        member.container.iter_mut().for_each(|container| self.name(container));
        Process {
            pid: row.pid,
            comm: row.comm.to_str_lossy().into_owned(),
            cmdline: if redact { String::new() } else { cmdline },
            parent_pid: row.parent_pid,
            uid: row.uid,
            user: self.users.get(&row.uid).cloned().flatten(),
            cgroup,
            container: member.container,
            unit: member.unit,
            kernel_thread: row.is_kernel_thread(),
            alive: account.alive,
            threads: account.threads,
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size in bytes")]
            anon_bytes: account.anon_bytes.last().unwrap_or(0.0) as u64,
            started_ns: row.start_ns,
            used: account.used,
        }
    }

    fn remembered(&self, row: &TaskRow) -> Option<&Known> {
        self.known.get(&row.pid).filter(|known| known.same == same(row))
    }

    /// Reads what /proc says about them.
    fn look_up(&mut self, rows: &[TaskRow], resolver: &Resolver) {
        let questions = rows.iter().map(|row| {
            let (pid, kernel_thread, start_boottime_ns) = (row.pid, row.is_kernel_thread(), row.start_boottime_ns);
            (question(row), move || Entry::read(pid, kernel_thread, start_boottime_ns))
        });
        for (row, answer) in rows.iter().zip(resolver.ask_all(questions)) {
            match answer {
                Ok(Some(entry)) => self.remember(row, entry),
                Ok(None) => {}
                Err(late) => drop(self.late.insert(row.pid, (row.comm.to_str_lossy().into_owned(), late))),
            }
        }
    }

    fn remember(&mut self, row: &TaskRow, Entry { cmdline, places }: Entry) {
        let place = Place::parse(&places);
        if let Some(path) = place.v2.filter(|_| self.cgroups.len() < MAX_NAMES) {
            self.cgroups.entry(row.cgroup_id).or_insert(path);
        }
        if self.known.len() >= MAX_KNOWN {
            self.forget_half();
        }
        let known = Known {
            same: same(row),
            cmdline,
            cgroup: place.cgroup,
            pids_cgroup: place.pids,
            membership: place.membership,
            turn: self.turn,
        };
        self.known.insert(row.pid, known);
    }

    /// Forgets those that were not asked for in the longest time.
    fn forget_half(&mut self) {
        let mut turns: Vec<u64> = self.known.values().map(|known| known.turn).collect();
        let middle = turns.len() / 2;
        let (_, median, _) = turns.select_nth_unstable(middle);
        let median = *median;
        self.known.retain(|_, known| known.turn > median);
    }

    /// The cgroup of a process that has ended.
    fn cgroup_by_id(&mut self, id: u64) -> Option<String> {
        if id == 0 {
            return None;
        }
        let due = self.walked.is_none_or(|walked| walked.elapsed() >= WALK_INTERVAL);
        if !self.cgroups.contains_key(&id) && due {
            self.walked = Some(Instant::now());
            // Forget those that are gone; ids are not reused.
            self.cgroups.clear();
            if let Some(hierarchy) = Hierarchy::v2() {
                let walk = hierarchy.walk();
                self.cgroups.extend(walk.cgroups.into_iter().take(MAX_NAMES).map(|cgroup| (cgroup.id, cgroup.path)));
            }
        }
        self.cgroups.get(&id).cloned()
    }
}

/// What /proc says about a process.
#[derive(Debug)]
struct Entry {
    cmdline: String,
    /// `/proc/PID/cgroup`.
    places: String,
}

impl Entry {
    /// `None` if the id belongs to another process by now. The command line is read from the memory of the process, which waits as long as
    /// that is locked.
    fn read(pid: u32, kernel_thread: bool, start_boottime_ns: u64) -> Option<Self> {
        let directory = format!("/proc/{pid}");
        let cmdline = if kernel_thread { String::new() } else { read_cmdline(&directory) };
        let places = std::fs::read_to_string(format!("{directory}/cgroup")).unwrap_or_default();
        // Checked last: if it is the same process now, it was when the rest was read.
        started_at(&directory, start_boottime_ns).then_some(Self { cmdline, places })
    }
}

const fn question(row: &TaskRow) -> Question {
    Question::Process(row.pid, row.start_ns)
}

const fn same(row: &TaskRow) -> (u64, Comm, u64) {
    (row.start_ns, row.comm, row.cgroup_id)
}

/// Looks for local users first: looking up others may use the network.
fn user_name(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let local = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    });
    local.or_else(|| user_elsewhere(uid))
}

#[cfg(not(target_feature = "crt-static"))]
fn user_elsewhere(uid: u32) -> Option<String> {
    uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned())
}

/// A static program cannot load the modules of the C library for other sources of users.
#[cfg(target_feature = "crt-static")]
const fn user_elsewhere(_: u32) -> Option<String> {
    None
}

/// The arguments, separated by spaces, the first [`MAX_CMDLINE`] bytes.
fn read_cmdline(directory: &str) -> String {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(format!("{directory}/cmdline"));
    // Keep what was read before an error.
    let _ = file.map(|file| file.take(MAX_CMDLINE as u64 + 1).read_to_end(&mut bytes));
    join_arguments(bytes)
}

fn join_arguments(mut bytes: Vec<u8>) -> String {
    let cut = bytes.len() > MAX_CMDLINE;
    bytes.truncate(MAX_CMDLINE);
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    for byte in &mut bytes {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if cut {
        // The cut may leave half a character at the end.
        text.truncate(text.trim_end_matches(char::REPLACEMENT_CHARACTER).len());
        text.push('…');
    }
    text
}

/// Whether the process in that directory of /proc started then, by `CLOCK_BOOTTIME`.
fn started_at(directory: &str, start_boottime_ns: u64) -> bool {
    let stat = std::fs::read_to_string(format!("{directory}/stat")).unwrap_or_default();
    let hertz = rustix::param::clock_ticks_per_second().max(1);
    let here = (i128::from(start_boottime_ns) + boottime_shift_ns()) * i128::from(hertz) / 1_000_000_000;
    start_ticks(&stat).is_some_and(|there| i128::from(there) == here)
}

/// `starttime` of `/proc/PID/stat`, which counts from boot and includes what the machine was suspended (Linux 5.5).
fn start_ticks(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold spaces and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Where a process is, from `/proc/PID/cgroup`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    /// In the v2 hierarchy.
    v2: Option<String>,
    /// In that one, or where it says nothing because all are at its root, in a v1 one.
    cgroup: Option<String>,
    /// In the hierarchy that has the controller of processes, or else in that of v2.
    pids: Option<String>,
    membership: Membership,
}

impl Place {
    fn parse(text: &str) -> Self {
        let (mut v2, mut pids) = (None, None);
        let mut v1: Vec<(usize, &str)> = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let path = path.strip_suffix(" (deleted)").unwrap_or(path);
            if controllers.is_empty() {
                v2 = Some(path);
                continue;
            }
            if controllers.split(',').any(|name| name == "pids") {
                pids = Some(path);
            }
            let known = |name: &str| V1_CONTROLLERS.iter().position(|controller| *controller == name);
            v1.extend(controllers.split(',').filter_map(known).min().map(|order| (order, path)));
        }
        v1.sort_by_key(|(order, _)| *order);
        let paths: Vec<&str> = v2.into_iter().chain(v1.into_iter().map(|(_, path)| path)).collect();
        let cgroup = paths.iter().find(|path| **path != "/").or_else(|| paths.first());
        // Each hierarchy may tell something: on hybrid hosts systemd uses its own.
        let all: Vec<Membership> = paths.iter().map(|path| membership(path)).collect();
        let container = all.iter().find(|member| member.container.is_some());
        let unit = all.iter().find_map(|member| member.unit.clone());
        let membership = container.cloned().unwrap_or(Membership { container: None, unit });
        let pids = pids.or(v2).map(str::to_owned);
        Self { v2: v2.map(str::to_owned), cgroup: cgroup.map(|path| (*path).to_owned()), pids, membership }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tasks::ProcessAccount;
    use zerocopy::FromZeros as _;

    fn own_row() -> TaskRow {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let hertz = rustix::param::clock_ticks_per_second();
        let boot_ns = i128::from(start_ticks(&stat).unwrap()) * 1_000_000_000 / i128::from(hertz);
        let mut row = TaskRow::new_zeroed();
        row.pid = std::process::id();
        row.tid = row.pid;
        row.start_boottime_ns = u64::try_from(boot_ns - boottime_shift_ns()).unwrap();
        row.uid = rustix::process::getuid().as_raw();
        row.cgroup_id = 1;
        row
    }

    fn account(row: TaskRow, alive: bool) -> ProcessAccount {
        let mut account = ProcessAccount::new(&row);
        account.used.run_ns = 1;
        account.alive = alive;
        account
    }

    #[test]
    fn this_process_is_known_and_stays_so_after_its_end() {
        let row = own_row();
        let (mut identities, resolver) = (Identities::default(), Resolver::new(std::sync::Arc::default()));
        identities.notice([account(row, true)].iter(), &resolver);
        for alive in [true, false] {
            identities.prepare(&[&account(row, alive)], &resolver);
            let process = identities.describe(&account(row, alive), false);
            let expected = std::env::args().collect::<Vec<_>>().join(" ");
            assert!(process.cmdline.starts_with(&expected[..expected.len().min(100)]), "{process:?}");
            assert!(process.cgroup.is_some(), "{process:?}");
            if row.uid == 0 {
                assert_eq!(process.user.as_deref(), Some("root"));
            }
            assert_eq!(process.alive, alive);
        }
        assert_eq!(identities.describe(&account(row, true), true).cmdline, "", "it is not to be shown");
    }

    #[test]
    fn an_id_used_again_is_not_mistaken() {
        let mut row = own_row();
        row.start_boottime_ns += 1_000_000_000;
        let mut identities = Identities::default();
        identities.prepare(&[&account(row, true)], &Resolver::new(std::sync::Arc::default()));
        let process = identities.describe(&account(row, true), false);
        assert_eq!(process.cmdline, "");
    }

    #[test]
    fn memory_stays_bounded() {
        let mut identities = Identities::default();
        let row = own_row();
        for turn in 0..3 * MAX_KNOWN {
            let pid = u32::try_from(turn).unwrap() + 1_000_000_000;
            let known = Known {
                same: same(&row),
                cmdline: String::new(),
                cgroup: None,
                pids_cgroup: None,
                membership: Membership::default(),
                turn: turn as u64,
            };
            identities.known.insert(pid, known);
            if identities.known.len() >= MAX_KNOWN {
                identities.forget_half();
            }
        }
        assert!(identities.known.len() < MAX_KNOWN && identities.known.len() >= MAX_KNOWN / 4);
        // If all were asked for just now, room is made nevertheless.
        identities.known.values_mut().for_each(|known| known.turn = 7);
        identities.forget_half();
        assert!(identities.known.is_empty());
    }

    #[test]
    fn arguments_are_joined_and_cut() {
        assert_eq!(join_arguments(b"sh\0-c\0echo  1\0".to_vec()), "sh -c echo  1");
        assert_eq!(join_arguments(b"postgres: writer\0\0\0\0".to_vec()), "postgres: writer");
        assert_eq!(join_arguments(b"a\0\xff\0".to_vec()), "a \u{fffd}");
        let long = join_arguments("ä".repeat(MAX_CMDLINE).into_bytes());
        assert!(long.ends_with("ä…") && long.len() <= MAX_CMDLINE + '…'.len_utf8(), "{long}");
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let fields = (3..=24).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_ticks(&format!("1 (a) b (c) {fields}")), Some(22));
        assert_eq!(start_ticks("1 (a"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn places_come_from_v2_or_else_from_v1() {
        let cgroup = |text: &str| Place::parse(text).cgroup.unwrap_or_default();
        assert_eq!(cgroup("0::/system.slice/cron.service\n"), "/system.slice/cron.service");
        let hybrid = "9:name=systemd:/system.slice/a.service\n4:memory:/jail\n1:cpu,cpuacct:/\n0::/\n";
        assert_eq!(cgroup(hybrid), "/jail");
        let pids = |text: &str| Place::parse(text).pids.unwrap_or_default();
        assert_eq!((pids(hybrid).as_str(), pids("8:pids:/few\n0::/a\n").as_str()), ("/", "/few"));
        assert_eq!(Place::parse(hybrid).membership.unit.as_deref(), Some("a.service"));
        assert_eq!(cgroup("2:cpu,cpuacct:/c\n0::/\n"), "/c");
        assert_eq!(cgroup("0::/\n"), "/");
        assert_eq!(cgroup("0::/gone (deleted)\n"), "/gone");
        assert_eq!(cgroup("5:name=a:b:/odd\n"), "");
        assert_eq!(cgroup(""), "");
    }
}
