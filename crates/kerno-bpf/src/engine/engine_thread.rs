//! Watches in a thread of its own: commands in, windows out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use kerno_model::Missing;

use super::budget::Budget;
use super::error::WatchError;
use super::observer::{Observer, ObserverOptions};
use super::pacing::{Due, Pacer};
use super::watchdog::{Overrun, Progress};
use super::windows::{Hub, Windows};

/// The most commands that wait while a sample is taken.
const MAX_COMMANDS: usize = 16;

/// The shortest window: the engine would do nothing but end windows.
const SHORTEST: Duration = Duration::from_millis(1);

/// What the engine is told to do.
enum Command {
    /// Windows have this length from now on, the running one too.
    Watch(Duration),
    /// The running window ends now.
    Cut,
    /// This is what watching may cost.
    Limit(Budget),
    /// Say what happens now.
    Pulse(Sender<Vec<(&'static str, String)>>),
}

/// Watches in a thread of its own and hands each window to every consumer that has [subscribed](Self::subscribe). Dropping it, or
/// [`stop`](Self::stop), ends the thread and removes everything from the kernel.
///
/// ```no_run
/// use kerno_bpf::engine::{Engine, ObserverOptions};
/// use std::time::Duration;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::start(ObserverOptions::default())?;
/// let windows = engine.subscribe(8)?;
/// engine.watch(Duration::from_secs(30));
/// for window in windows {
///     println!("{} processes", window.processes.len());
/// }
/// # Ok(())
/// # }
/// ```
///
/// For a single window, [`Observer::watch`] is simpler.
pub struct Engine {
    /// `None` when it has been told to end.
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<Result<(), WatchError>>>,
    hub: Arc<Hub>,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    missing: Vec<Missing>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Tells the consumers when the thread ends, however it ends.
struct Ending<'a>(&'a Hub);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Engine {
    /// Loads and attaches all that can run here. The first window begins, and ends some time after the first [`watch`](Self::watch):
    /// whoever subscribes before that gets every window.
    ///
    /// # Errors
    /// As [`Observer::start`], and [`WatchError::Thread`] when no thread can be started.
    pub fn start(options: ObserverOptions) -> Result<Self, WatchError> {
        let (commands, received) = sync_channel(MAX_COMMANDS);
        let (loaded, result) = channel();
        let (hub, stop) = (Arc::new(Hub::default()), Arc::new(AtomicBool::new(false)));
        let (publishes, stops) = (Arc::clone(&hub), Arc::clone(&stop));
        let work = move || {
            let _ending = Ending(&publishes);
            match Observer::start_until(options, Arc::clone(&stops)) {
                Ok(observer) => {
                    let _ = loaded.send(Ok((observer.progress(), observer.missing().to_vec())));
                    run(observer, &received, &publishes, &stops)
                }
                Err(error) => {
                    let _ = loaded.send(Err(error));
                    Ok(())
                }
            }
        };
        let thread = std::thread::Builder::new().name("kerno engine".into()).spawn(work).map_err(WatchError::Thread)?;
        let (progress, missing) = result.recv().map_err(|_| failed())??;
        Ok(Self { commands: Some(commands), thread: Some(thread), hub, progress, stop, missing })
    }

    /// Adds a consumer of all windows that end from now on. Its queue holds up to `capacity` windows, at least one. A consumer that is too
    /// slow loses the oldest, which [`Windows::lost`] counts; it never delays the engine or other consumers.
    ///
    /// # Errors
    /// When this process has no file descriptor left for it.
    pub fn subscribe(&self, capacity: usize) -> io::Result<Windows> {
        self.hub.subscribe(capacity)
    }

    /// Watches in windows of this length (at least a millisecond), one after another without a gap. The first call ends the wait for
    /// consumers; the first window also holds what was seen since the start. A later call changes the length, of the running window too.
    ///
    /// Returns at once, unless many commands wait for a sample to end; so does [`cut`](Self::cut).
    pub fn watch(&self, window: Duration) {
        self.tell(Command::Watch(window.max(SHORTEST)));
    }

    /// Ends the running window now: consumers get what was seen so far, and the next window begins.
    pub fn cut(&self) {
        self.tell(Command::Cut);
    }

    /// Holds what watching costs within a budget, by taking out of the kernel what costs too much for as long as it does. Each time, the window
    /// that runs ends early. [`Window::missing`](kerno_model::Window::missing) tells what is out, and
    /// [`CostOfObserving`](kerno_model::CostOfObserving) what it costs.
    pub fn limit(&self, budget: Budget) {
        self.tell(Command::Limit(budget));
    }

    /// A few words from each signal about what happens now: (the signal's short name, words). `None` if the engine does not answer within
    /// the timeout, because a sample takes longer, or if it has ended.
    pub fn pulse(&self, timeout: Duration) -> Option<Vec<(&'static str, String)>> {
        let (reply, words) = channel();
        self.commands.as_ref()?.try_send(Command::Pulse(reply)).ok()?;
        words.recv_timeout(timeout).ok()
    }

    /// What cannot be observed here, as far as the start showed. [`Window::missing`](kerno_model::Window::missing) also has what shows
    /// later.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// The sample that takes too long now, if one does. No window ends meanwhile.
    pub fn overrun(&self) -> Option<Overrun> {
        self.progress.overrun()
    }

    /// Ends: the running window is dropped, consumers get no more after those in their queues, and nothing stays in the kernel.
    ///
    /// # Errors
    /// If it had ended by itself, the reason: as [`Observer::sample`], or [`WatchError::Failed`].
    pub fn stop(mut self) -> Result<(), WatchError> {
        self.join()
    }

    fn tell(&self, command: Command) {
        // If the thread has ended, consumers see that.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
    }

    fn join(&mut self) -> Result<(), WatchError> {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread.
        drop(self.commands.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(failed()),
            Some(Ok(result)) => result,
            None => Ok(()),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

/// Its panic was printed, or handled by the program's hook.
const fn failed() -> WatchError {
    WatchError::Failed
}

/// What the thread does.
fn run(mut observer: Observer, commands: &Receiver<Command>, hub: &Hub, stop: &AtomicBool) -> Result<(), WatchError> {
    let mut pacer: Option<Pacer> = None;
    loop {
        let told = match &pacer {
            Some(pacer) => commands.recv_timeout(pacer.next().1),
            None => commands.recv().map_err(RecvTimeoutError::from),
        };
        if stop.load(Ordering::Acquire) {
            return Ok(());
        }
        match told {
            Ok(Command::Watch(window)) => match &mut pacer {
                Some(pacer) => pacer.set_window(window),
                None => pacer = Some(Pacer::begin(window)),
            },
            Ok(Command::Cut) => {
                end_window(&mut observer, hub, stop)?;
                pacer = pacer.map(Pacer::again);
            }
            Ok(Command::Limit(budget)) => observer.limit(budget),
            Ok(Command::Pulse(reply)) => drop(reply.send(observer.pulse())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        // After each command, so that many of them do not delay what is due.
        let Some(pacer) = &mut pacer else { continue };
        match pacer.next() {
            (Due::Sample, Duration::ZERO) => {
                observer.sample_with(Some(pacer.left()))?;
                pacer.sampled(observer.sample_cost());
                if observer.wants_an_end() {
                    end_window(&mut observer, hub, stop)?;
                    *pacer = pacer.again();
                }
            }
            (Due::End, Duration::ZERO) => {
                end_window(&mut observer, hub, stop)?;
                *pacer = pacer.again();
                pacer.thin(observer.thinned());
            }
            _ => {}
        }
    }
}

fn end_window(observer: &mut Observer, hub: &Hub, stop: &AtomicBool) -> Result<(), WatchError> {
    let window = observer.finish()?;
    // If it was told to stop meanwhile, it waited for no answers: the window has gaps that nobody caused.
    if !stop.load(Ordering::Acquire) {
        hub.publish(window);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use kerno_model::Window;

    use super::super::windows::Next;
    use super::*;
    use crate::probe::CancelToken;

    fn engine() -> Engine {
        let options = ObserverOptions { signals: vec!["fd_track".into()], redact: false };
        Engine::start(options).expect("the engine starts; this test needs root")
    }

    fn next(windows: &Windows) -> Arc<Window> {
        let limit = Duration::from_secs(60);
        match windows.next_within(limit, &CancelToken::new().unwrap()) {
            Next::Window(window) => window,
            other => panic!("no window in {limit:?}: {other:?}"),
        }
    }

    #[test]
    fn an_engine_may_move_to_a_thread_and_be_shared() {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<Engine>();
        is_send_and_sync::<Windows>();
    }

    #[test]
    fn all_consumers_get_every_window() {
        let engine = engine();
        let idle = engine.subscribe(1).unwrap();
        let consumers: Vec<_> = (0..3).map(|_| engine.subscribe(64).unwrap()).collect();
        // However long consumers take to subscribe, none misses the first window.
        std::thread::sleep(Duration::from_millis(500));
        assert!(consumers.iter().all(|windows| windows.try_next().is_none()));
        engine.watch(Duration::from_millis(300));
        let seen: Vec<Vec<_>> = std::thread::scope(|scope| {
            let take = |windows: Windows| move || (0..4).map(|_| next(&windows)).collect::<Vec<_>>();
            let threads: Vec<_> = consumers.into_iter().map(|windows| scope.spawn(take(windows))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for others in &seen[1..] {
            assert!(others.iter().zip(&seen[0]).all(|(a, b)| Arc::ptr_eq(a, b)));
        }
        assert!(seen[0][0].span.seconds >= 0.8, "it began with the start: {:?}", seen[0][0].span);
        for pair in seen[0].windows(2) {
            let end_ns = pair[0].span.started_ns as f64 + pair[0].span.seconds * 1e9;
            assert!((pair[1].span.started_ns as f64 - end_ns).abs() < 1e6, "time is lost between windows");
            assert!(pair[1].span.seconds >= 0.3, "{:?}", pair[1].span);
            assert!(pair[1].cost.cpu_seconds > 0.0 && pair[1].cost.cpu_seconds < pair[1].span.seconds);
            assert!(pair[1].host.uptime_seconds > pair[0].host.uptime_seconds);
        }
        // It is the first in line: it had each window before the others did.
        assert!(idle.lost() >= 3 && idle.try_next().is_some());
        engine.stop().unwrap();
        while idle.try_next().is_some() {}
        assert!(matches!(idle.next_within(Duration::MAX, &CancelToken::new().unwrap()), Next::Ended));
    }

    #[test]
    fn a_window_is_cut_when_it_is_told() {
        let engine = engine();
        let windows = engine.subscribe(4).unwrap();
        engine.watch(Duration::from_secs(3600));
        let words = engine.pulse(Duration::from_secs(60)).expect("an answer");
        assert!(words.iter().any(|(signal, words)| *signal == "fd" && words.ends_with("open")), "{words:?}");
        assert_eq!(engine.overrun(), None);
        let cancel = CancelToken::new().unwrap();
        assert!(matches!(windows.next_within(Duration::from_millis(300), &cancel), Next::TimedOut));
        engine.cut();
        let part = next(&windows);
        assert!((0.2..60.0).contains(&part.span.seconds) && part.fd_track.is_some(), "{:?}", part.span);
        engine.watch(Duration::from_millis(200));
        assert!(next(&windows).span.started_ns > part.span.started_ns);
        drop(engine);
        while windows.try_next().is_some() {}
        assert!(matches!(windows.next_within(Duration::ZERO, &cancel), Next::Ended));
    }

    #[test]
    fn it_obeys_even_if_a_window_is_always_over() {
        let engine = engine();
        let windows = engine.subscribe(1).unwrap();
        engine.watch(Duration::ZERO);
        (0..10).for_each(|_| drop(next(&windows)));
        assert!(engine.pulse(Duration::from_secs(60)).is_some());
        engine.watch(Duration::from_secs(3600));
        assert!(engine.pulse(Duration::from_secs(60)).is_some());
        while windows.try_next().is_some() {}
        let quiet = windows.next_within(Duration::from_millis(300), &CancelToken::new().unwrap());
        assert!(matches!(quiet, Next::TimedOut), "{quiet:?}");
        // Nor do commands delay windows.
        engine.watch(Duration::from_millis(100));
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            engine.pulse(Duration::ZERO);
        }
        assert!(windows.lost() > 10, "{}", windows.lost());
    }

    #[test]
    fn what_cannot_start_says_why() {
        let options = ObserverOptions { signals: vec!["nope".into()], redact: false };
        let error = Engine::start(options).unwrap_err().to_string();
        assert!(error.contains("no signal \"nope\""), "{error}");
    }
}
