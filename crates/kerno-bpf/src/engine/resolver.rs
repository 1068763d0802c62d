//! Asks questions that may never be answered: files of `/proc` that take a lock of the process, file systems whose server or disk is gone,
//! name services. Threads of its own ask, and the engine waits for each only so long. A late answer is used the next time.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cpu_clock;

/// How long to wait for one answer, from when a thread asks.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long one sample waits in all while no answer comes.
const PATIENCE_IN_ALL: Duration = Duration::from_millis(800);
/// How long one sample waits in all, with answers coming.
const LONGEST: Duration = Duration::from_secs(2);
/// After this time without an answer, another thread takes the questions that wait.
const STALL: Duration = Duration::from_millis(20);
/// How long a thread without questions lives.
const IDLE: Duration = Duration::from_secs(30);
/// The most threads, including those that hang.
const MAX_WORKERS: usize = 12;
/// The most late answers that are kept until they are asked for.
const MAX_KEPT: usize = 64;

/// What is asked. The same question is not asked again until its answer has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    /// Who a process is: its id and start.
    Process(u32, u64),
    /// Which descriptors it has open.
    Descriptors(u32, u64),
    /// Which files it has open for writing.
    OpenFiles(u32, u64),
    /// Which files without a name it has open.
    DeletedFiles(u32, u64),
    /// Which disks it writes to.
    WritesTo(u32, u64),
    /// Whether a thread sleeps because too much is dirty: its id, and since when it sleeps.
    HeldBack(u32, u64),
    /// Where in the kernel a thread sleeps: its id, and since when it sleeps.
    Stack(u32, u64),
    /// What some threads sleep for: the id of the first, and how often it had run before.
    Calls(u32, u64),
    /// How much waits in what it writes to.
    Level(u32, u64),
    /// Whom it waits for.
    Waits(u32, u64),
    /// Whether a cgroup is frozen.
    Frozen(u64),
    /// Why a process does nothing.
    Condition(u32),
    /// Which connections wait at a process.
    Backlogs(u32),
    /// How full the limits are that a call of a process failed for: its id, the call, the error.
    Limits(u32, String, i32),
    /// Which processes have which pipes and sockets.
    Ends,
    /// Who serves FUSE file systems.
    Servers,
    /// The Unix sockets that listen.
    Listeners,
    /// Whose a DNS server is.
    DnsServer(std::net::SocketAddr),
    /// The name of a user.
    User(u32),
    /// What the engine calls a container, by runtime and id.
    ContainerNames(String, String),
    /// How full the file system at this mount point is.
    Room(String),
    /// The devices that file systems are named after.
    Sources,
    /// Which loop devices stand on files without a name.
    DeletedBehindLoops,
    /// What errors the file system on a device has counted.
    Errors(u32, u32),
    /// What a block device is.
    Device(u32, u32),
    /// The operating system, virtualisation and the like.
    Machine,
}

/// Questions that hang for the same reasons. Threads are limited for each, so that one kind does not take them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Process,
    Storage,
    Names,
    Machine,
}

impl Kind {
    const fn may_hang(self) -> usize {
        match self {
            Self::Process => 5,
            Self::Storage => 4,
            Self::Names | Self::Machine => 1,
        }
    }
}

impl Question {
    const fn kind(&self) -> Kind {
        match self {
            Self::Process(..)
            | Self::Descriptors(..)
            | Self::OpenFiles(..)
            | Self::DeletedFiles(..)
            | Self::WritesTo(..)
            | Self::HeldBack(..)
            | Self::Stack(..)
            | Self::Calls(..)
            | Self::Level(..)
            | Self::Waits(..)
            | Self::Frozen(_)
            | Self::Condition(_)
            | Self::Backlogs(_)
            | Self::Limits(..)
            | Self::Ends
            | Self::Servers
            | Self::Listeners
            | Self::DnsServer(_) => Kind::Process,
            Self::ContainerNames(..)
            | Self::Room(_)
            | Self::Sources
            | Self::DeletedBehindLoops
            | Self::Errors(..)
            | Self::Device(..) => Kind::Storage,
            Self::User(_) => Kind::Names,
            Self::Machine => Kind::Machine,
        }
    }
}

/// Why there is no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Late {
    /// A thread has asked for this long.
    #[error("no answer for {:.1} s", .0.as_secs_f64())]
    Hangs(Duration),
    /// No thread was free: this many wait for other answers.
    #[error("not asked: {0} other questions are not answered")]
    NotAsked(usize),
}

type Work = Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>;

struct Answer {
    value: Box<dyn Any + Send>,
    cpu_ns: u64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Question, Work)>,
    running: HashMap<Question, Instant>,
    answers: HashMap<Question, Answer>,
    /// What the engine waits for now.
    awaited: HashSet<Question>,
    /// Answers that came late, the oldest first.
    kept: VecDeque<Question>,
    workers: usize,
    idle: usize,
    stop: bool,
}

impl State {
    fn hanging(&self, kind: Kind) -> usize {
        let hangs = |(question, since): &(&Question, &Instant)| question.kind() == kind && since.elapsed() >= PATIENCE;
        self.running.iter().filter(hangs).count()
    }

    fn keep(&mut self, question: Question, answer: Answer) {
        if !self.awaited.contains(&question) {
            if self.kept.len() >= MAX_KEPT
                && let Some(oldest) = self.kept.pop_front()
            {
                self.answers.remove(&oldest);
            }
            self.kept.push_back(question.clone());
        }
        self.answers.insert(question, answer);
    }

    fn take(&mut self, question: &Question) -> Option<Answer> {
        let answer = self.answers.remove(question)?;
        self.kept.retain(|kept| kept != question);
        Some(answer)
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    asked: Condvar,
    answered: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is done under the lock that could leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks, and waits for a limited time.
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    sample: Mutex<Sample>,
    /// Nobody needs answers any more.
    stop: Arc<AtomicBool>,
}

/// How long a sample has waited.
#[derive(Clone, Copy)]
struct Sample {
    begun: Instant,
    /// Without an answer.
    waited: Duration,
}

impl Sample {
    fn begin() -> Self {
        Self { begun: Instant::now(), waited: Duration::ZERO }
    }

    /// How much longer to wait.
    fn left(&self) -> Duration {
        PATIENCE_IN_ALL.saturating_sub(self.waited).min(LONGEST.saturating_sub(self.begun.elapsed()))
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("hanging", &self.hanging()).finish_non_exhaustive()
    }
}

impl Resolver {
    /// Once `stop` is set, it waits for no answers any more.
    pub(crate) fn new(stop: Arc<AtomicBool>) -> Self {
        Self { shared: Arc::default(), sample: Mutex::new(Sample::begin()), stop }
    }

    /// Begins a sample, which may wait again.
    pub(crate) fn begin(&self) {
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = Sample::begin();
    }

    /// How many threads have waited for an answer for longer than the engine waits.
    pub(crate) fn hanging(&self) -> usize {
        self.shared.lock().running.values().filter(|since| since.elapsed() >= PATIENCE).count()
    }

    /// Whether a thread asks this now.
    pub(crate) fn waits_for(&self, question: &Question) -> bool {
        self.shared.lock().running.contains_key(question)
    }

    /// One answer; see [`ask_all`](Self::ask_all).
    pub(crate) fn ask<A: Send + 'static>(
        &self,
        question: Question,
        work: impl FnOnce() -> A + Send + 'static,
    ) -> Result<A, Late> {
        self.ask_all([(question, work)]).pop().unwrap_or(Err(Late::NotAsked(0)))
    }

    /// The answers to the questions, in their order, as far as they come in time. The work for a question may hang for ever, so it must hold
    /// nothing that others need. A question whose answer came late before is answered with that.
    pub(crate) fn ask_all<A: Send + 'static, W: FnOnce() -> A + Send + 'static>(
        &self,
        questions: impl IntoIterator<Item = (Question, W)>,
    ) -> Vec<Result<A, Late>> {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.shared.lock();
        let mut results: Vec<Option<Result<A, Late>>> = Vec::new();
        let mut pending: HashMap<Question, usize> = HashMap::new();
        let mut hanging: HashMap<&'static str, usize> = HashMap::new();
        for (question, work) in questions {
            let known = if let Some(answer) = state.take(&question) {
                answer.given().map(Ok)
            } else if let Some(since) = state.running.get(&question) {
                Some(Err(Late::Hangs(since.elapsed())))
            } else {
                let kind = question.kind();
                let hang = *hanging.entry(kind.name()).or_insert_with(|| state.hanging(kind));
                (hang >= kind.may_hang() || pending.contains_key(&question)).then_some(Err(Late::NotAsked(hang)))
            };
            if known.is_none() {
                pending.insert(question.clone(), results.len());
                state.awaited.insert(question.clone());
                state.queue.push_back((question, Box::new(move || Box::new(work()) as Box<dyn Any + Send>)));
            }
            results.push(known);
        }
        let (mut progress, mut looked) = (Instant::now(), Instant::now());
        while !pending.is_empty() {
            let before = pending.len();
            pending.retain(|question, place| match (state.take(question), results.get_mut(*place)) {
                (Some(answer), Some(result)) => {
                    *result = answer.given().map(Ok);
                    false
                }
                _ => true,
            });
            let now = Instant::now();
            if pending.len() < before {
                progress = now;
            } else {
                sample.waited += now.saturating_duration_since(looked);
            }
            looked = now;
            let waits = |question: &Question| {
                let looked_for = state.running.get(question).map(|since| now.saturating_duration_since(*since));
                looked_for.is_none_or(|time| time < PATIENCE)
            };
            let left = if self.stop.load(Ordering::Acquire) { Duration::ZERO } else { sample.left() };
            if pending.is_empty() || left.is_zero() || !pending.keys().any(waits) {
                break;
            }
            // No thread asks, or those that do have been held up.
            if state.idle == 0 && !state.queue.is_empty() && (state.workers == 0 || progress.elapsed() >= STALL) {
                if !self.add_worker(&mut state) && state.running.values().all(|since| since.elapsed() >= PATIENCE) {
                    break;
                }
                progress = now;
            }
            self.shared.asked.notify_one();
            let waited = self.shared.answered.wait_timeout(state, STALL.min(left));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queue.retain(|(question, _)| !pending.contains_key(question));
        state.awaited.clear();
        let others = state.running.len();
        for (question, place) in pending {
            let since = state.running.get(&question).map(|since| since.elapsed());
            if let Some(result) = results.get_mut(place) {
                *result = Some(Err(since.map_or(Late::NotAsked(others), Late::Hangs)));
            }
        }
        results.into_iter().map(|result| result.unwrap_or(Err(Late::NotAsked(others)))).collect()
    }

    fn add_worker(&self, state: &mut State) -> bool {
        if state.workers >= MAX_WORKERS {
            return false;
        }
        let shared = Arc::clone(&self.shared);
        let started = std::thread::Builder::new().name("kerno resolver".into()).spawn(move || work(&shared));
        state.workers += usize::from(started.is_ok());
        started.is_ok()
    }
}

impl Drop for Resolver {
    /// Ends the threads, and waits for those that have nothing to do.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stop = true;
        state.queue.clear();
        self.shared.asked.notify_all();
        let deadline = Instant::now() + PATIENCE;
        while state.workers > state.running.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.answered.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Storage => "storage",
            Self::Names => "names",
            Self::Machine => "machine",
        }
    }
}

impl Answer {
    /// The value; its cost is charged to the caller. `None` if it is the answer to the same question asked in another way.
    fn given<A: 'static>(self) -> Option<A> {
        cpu_clock::charge(self.cpu_ns);
        self.value.downcast().ok().map(|value| *value)
    }
}

/// A thread that asks, until it is not needed any more.
fn work(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if state.stop {
            break;
        }
        let Some((question, work)) = state.queue.pop_front() else {
            state.idle += 1;
            let (woken, waited) = shared.asked.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
            continue;
        };
        state.running.insert(question.clone(), Instant::now());
        drop(state);
        let begun_ns = cpu_clock::thread_ns();
        let value = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let cpu_ns = cpu_clock::thread_ns().saturating_sub(begun_ns);
        state = shared.lock();
        state.running.remove(&question);
        if let Ok(value) = value {
            state.keep(question, Answer { value, cpu_ns });
        }
        // The engine is woken once for many answers: each wake-up costs more than most answers, and on a busy machine a turn of the scheduler.
        if state.queue.is_empty() {
            shared.answered.notify_all();
        }
    }
    state.workers -= 1;
    drop(state);
    shared.answered.notify_all();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Work that hangs until it is told its answer.
    fn hanging() -> (Sender<u32>, impl FnOnce() -> u32 + Send + 'static) {
        let (send, receive): (Sender<u32>, Receiver<u32>) = channel();
        (send, move || receive.recv().unwrap_or(0))
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let resolver = Resolver::new(Arc::default());
        let ask = || {
            resolver.begin();
            resolver.ask_all((0..1000).map(|uid| (Question::User(uid), move || uid * 2)))
        };
        for _ in 0..3 {
            let answers: Vec<u32> = ask().into_iter().map(Result::unwrap).collect();
            assert_eq!(answers, (0..1000).map(|uid| uid * 2).collect::<Vec<_>>());
        }
        assert!(resolver.shared.lock().workers <= MAX_WORKERS);
    }

    #[test]
    fn one_that_hangs_holds_up_no_other_and_its_answer_is_used_the_next_time() {
        let resolver = Resolver::new(Arc::default());
        let (answer, work) = hanging();
        let begun = Instant::now();
        let mut questions: Vec<(Question, Box<dyn FnOnce() -> u32 + Send>)> =
            vec![(Question::Room("/dead".into()), Box::new(work))];
        questions.extend((0..50).map(|place| {
            let work: Box<dyn FnOnce() -> u32 + Send> = Box::new(move || place);
            (Question::Room(format!("/{place}")), work)
        }));
        let answers = resolver.ask_all(questions);
        assert!(begun.elapsed() < 3 * PATIENCE, "{:?}", begun.elapsed());
        assert!(matches!(answers[0], Err(Late::Hangs(time)) if time >= PATIENCE), "{:?}", answers[0]);
        assert!(answers[1..].iter().enumerate().all(|(place, answer)| *answer == Ok(u32::try_from(place).unwrap())));
        assert_eq!(resolver.hanging(), 1);
        // It is not asked again, and nobody waits for it again.
        resolver.begin();
        let begun = Instant::now();
        assert!(matches!(resolver.ask(Question::Room("/dead".into()), || 7u32), Err(Late::Hangs(_))));
        assert!(begun.elapsed() < PATIENCE && resolver.waits_for(&Question::Room("/dead".into())));
        answer.send(42).unwrap();
        while resolver.waits_for(&Question::Room("/dead".into())) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(resolver.ask(Question::Room("/dead".into()), || 7u32), Ok(42));
        assert_eq!(resolver.ask(Question::Room("/dead".into()), || 7u32), Ok(7));
        assert_eq!(resolver.hanging(), 0);
    }

    #[test]
    fn it_waits_no_longer_once_it_is_told_to_stop() {
        let stop = Arc::new(AtomicBool::new(false));
        let resolver = Resolver::new(Arc::clone(&stop));
        let (answer, work) = hanging();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(2 * STALL);
                stop.store(true, Ordering::Release);
            });
            let begun = Instant::now();
            assert!(matches!(resolver.ask(Question::User(0), work), Err(Late::Hangs(_))));
            assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        });
        drop(resolver);
        drop(answer);
    }

    #[test]
    fn threads_are_bounded_however_many_hang() {
        let resolver = Resolver::new(Arc::default());
        let mut senders = Vec::new();
        for pid in 0..100 {
            resolver.begin();
            let (answer, work) = hanging();
            senders.push(answer);
            assert!(resolver.ask(Question::Process(pid, 0), work).is_err());
            if resolver.hanging() >= Kind::Process.may_hang() {
                break;
            }
        }
        assert_eq!(resolver.hanging(), Kind::Process.may_hang());
        let begun = Instant::now();
        for pid in 1000..2000 {
            assert!(matches!(resolver.ask(Question::Process(pid, 0), || 0), Err(Late::NotAsked(_))));
        }
        assert!(begun.elapsed() < PATIENCE, "nobody waits for what is not asked");
        assert_eq!(resolver.shared.lock().workers, Kind::Process.may_hang());
        // Others are answered all the same.
        assert_eq!(resolver.ask(Question::User(0), || 3), Ok(3));
        assert_eq!(resolver.ask(Question::Room("/".into()), || 4), Ok(4));
        let shared = Arc::clone(&resolver.shared);
        drop(resolver);
        assert_eq!(shared.lock().workers, Kind::Process.may_hang(), "those that wait for work are gone");
        drop(senders);
        let deadline = Instant::now() + Duration::from_secs(10);
        while shared.lock().workers > 0 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn late_answers_that_nobody_asks_for_are_bounded() {
        let mut state = State::default();
        for uid in 0..1000 {
            state.keep(Question::User(uid), Answer { value: Box::new(uid), cpu_ns: 0 });
        }
        assert_eq!((state.answers.len(), state.kept.len()), (MAX_KEPT, MAX_KEPT));
        assert!(state.take(&Question::User(999)).is_some() && state.take(&Question::User(0)).is_none());
        assert_eq!(state.kept.len(), MAX_KEPT - 1);
    }
}
