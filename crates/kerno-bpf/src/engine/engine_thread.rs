use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use kerno_model::Missing;

use super::observer::{Observer, ObserverOptions};
use super::pacing::{Due, Pacer};
use super::watchdog::{Overrun, Progress};
use super::windows::{Hub, Windows};
use crate::probe::LoadError;

/// What the engine is told to do.
enum Command {
    /// Windows are so long from now on, the running one too.
    SetWindow(Duration),
    /// The running window ends now.
    Cut,
    /// Tell what happens now.
    Pulse(Sender<Vec<(&'static str, String)>>),
    Stop,
}

/// Watches in a thread of its own, one window after another, and gives each to all who [`subscribe`](Self::subscribe). Dropping it, or
/// [`stop`](Self::stop), ends the thread and removes everything from the kernel.
///
/// Whoever wants one window and nothing else to happen meanwhile has it simpler with [`Observer::watch`].
pub struct Engine {
    commands: Sender<Command>,
    thread: Option<JoinHandle<Result<(), LoadError>>>,
    hub: Arc<Hub>,
    progress: Arc<Progress>,
    missing: Vec<Missing>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Ends the consumers' waiting whatever ends the thread.
struct Ending<'a>(&'a Hub);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Engine {
    /// Loads and attaches all that can run here, and begins with the first window, which is so long as all.
    ///
    /// # Errors
    /// As [`Observer::start`]; and when no thread can be started.
    pub fn start(options: ObserverOptions, window: Duration) -> Result<Self, LoadError> {
        let (commands, received) = channel();
        let (loaded, result) = channel();
        let hub = Arc::new(Hub::default());
        let publishes = Arc::clone(&hub);
        let work = move || {
            let _ending = Ending(&publishes);
            match Observer::start(options) {
                Ok(observer) => {
                    let _ = loaded.send(Ok((observer.progress(), observer.missing().to_vec())));
                    run(observer, window, &received, &publishes)
                }
                Err(error) => {
                    let _ = loaded.send(Err(error));
                    Ok(())
                }
            }
        };
        let failed = |error| LoadError::Io("cannot start a thread", error);
        let thread = std::thread::Builder::new().name("kerno engine".into()).spawn(work).map_err(failed)?;
        let (progress, missing) = result.recv().map_err(|_| LoadError::Io("cannot watch", ended()))??;
        Ok(Self { commands, thread: Some(thread), hub, progress, missing })
    }

    /// A consumer of all windows that end from now on. Its queue holds so many, at least one: when it does not take them in time, the
    /// oldest go, which [`Windows::lost`] counts. It never holds up the engine or others.
    ///
    /// # Errors
    /// When this process has no file descriptor left for it.
    pub fn subscribe(&self, capacity: usize) -> io::Result<Windows> {
        self.hub.subscribe(capacity)
    }

    /// What is known by the start not to be observed here; each window has what shows while it passes, too.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Windows are so long from now on, the running one too.
    pub fn set_window(&self, window: Duration) {
        let _ = self.commands.send(Command::SetWindow(window));
    }

    /// Ends the running window now: consumers get what was seen so far. The next one begins.
    pub fn cut(&self) {
        let _ = self.commands.send(Command::Cut);
    }

    /// A few words from each signal on what happens now: (signal's short name, words). `None` when the engine does not answer in this
    /// time, because a sample takes longer.
    pub fn pulse(&self, timeout: Duration) -> Option<Vec<(&'static str, String)>> {
        let (reply, words) = channel();
        self.commands.send(Command::Pulse(reply)).ok()?;
        words.recv_timeout(timeout).ok()
    }

    /// Where a sample is that takes too long, while it does so. No window comes meanwhile.
    pub fn overrun(&self) -> Option<Overrun> {
        self.progress.overrun()
    }

    /// Ends: consumers get no more windows, the running one is dropped, and nothing stays in the kernel.
    ///
    /// # Errors
    /// What ended it before, if it ended by itself: as [`Observer::sample`].
    pub fn stop(mut self) -> Result<(), LoadError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), LoadError> {
        let _ = self.commands.send(Command::Stop);
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(LoadError::Io("cannot watch", ended())),
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

fn ended() -> io::Error {
    io::Error::other("the engine's thread failed")
}

/// The engine's thread.
fn run(mut observer: Observer, mut window: Duration, commands: &Receiver<Command>, hub: &Hub) -> Result<(), LoadError> {
    let mut pacer = Pacer::begin(window);
    loop {
        let (due, wait) = pacer.next();
        // What is due comes before what is told.
        let told = if wait.is_zero() { Err(RecvTimeoutError::Timeout) } else { commands.recv_timeout(wait) };
        match (told, due) {
            (Err(RecvTimeoutError::Timeout), Due::Sample) => {
                observer.sample()?;
                pacer.sampled(observer.sample_cost());
            }
            (Err(RecvTimeoutError::Timeout), Due::End) | (Ok(Command::Cut), _) => {
                hub.publish(observer.finish()?);
                pacer = Pacer::begin(window);
            }
            (Ok(Command::SetWindow(length)), _) => {
                window = length;
                pacer.set_window(length);
            }
            (Ok(Command::Pulse(reply)), _) => drop(reply.send(observer.pulse())),
            (Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected), _) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::windows::Next;
    use super::*;
    use crate::probe::CancelToken;

    fn engine(window: Duration) -> Engine {
        let options = ObserverOptions { signals: vec!["fd_track".into()], redact: false };
        Engine::start(options, window).expect("the engine starts; this test needs root")
    }

    #[test]
    fn an_engine_may_move_to_a_thread() {
        fn is_send<T: Send>() {}
        is_send::<Engine>();
        is_send::<Windows>();
        fn is_sync<T: Sync>() {}
        is_sync::<Engine>();
    }

    #[test]
    fn all_consumers_get_the_same_windows_one_after_another() {
        let engine = engine(Duration::from_millis(300));
        // The first, so that it has a window when the others have it.
        let slow = engine.subscribe(1).unwrap();
        let consumers: Vec<_> = (0..3).map(|_| engine.subscribe(64).unwrap()).collect();
        let seen: Vec<Vec<_>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                consumers.into_iter().map(|windows| scope.spawn(move || windows.take(4).collect::<Vec<_>>())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for others in &seen[1..] {
            assert!(others.iter().zip(&seen[0]).all(|(a, b)| Arc::ptr_eq(a, b)));
        }
        for pair in seen[0].windows(2) {
            let end_ns = pair[0].span.started_ns as f64 + pair[0].span.seconds * 1e9;
            assert!((pair[1].span.started_ns as f64 - end_ns).abs() < 1e6, "no time falls between windows");
            assert!(pair[1].span.seconds >= 0.3, "{:?}", pair[1].span);
            assert!(pair[1].cost.cpu_seconds > 0.0 && pair[1].cost.cpu_seconds < pair[1].span.seconds);
            assert!(pair[1].host.uptime_seconds > pair[0].host.uptime_seconds);
        }
        assert!(slow.lost() >= 3 && slow.try_next().is_some());
        engine.stop().unwrap();
        assert!(matches!(slow.next_within(Duration::MAX, &CancelToken::new().unwrap()), Next::Window(_) | Next::Ended));
    }

    #[test]
    fn what_was_seen_so_far_comes_when_it_is_asked_for() {
        let engine = engine(Duration::from_secs(3600));
        let windows = engine.subscribe(4).unwrap();
        let words = engine.pulse(Duration::from_secs(60)).expect("an answer");
        assert!(words.iter().any(|(signal, words)| *signal == "fd" && words.ends_with("open")), "{words:?}");
        assert_eq!(engine.overrun(), None);
        let cancel = CancelToken::new().unwrap();
        assert!(matches!(windows.next_within(Duration::from_millis(300), &cancel), Next::TimedOut));
        engine.cut();
        let Next::Window(part) = windows.next_within(Duration::from_secs(60), &cancel) else { panic!("no window") };
        assert!((0.2..60.0).contains(&part.span.seconds) && part.fd_track.is_some(), "{:?}", part.span);
        engine.set_window(Duration::from_millis(200));
        let Next::Window(next) = windows.next_within(Duration::from_secs(60), &cancel) else { panic!("no window") };
        assert!(next.span.started_ns > part.span.started_ns);
        let begun = Instant::now();
        drop(engine);
        assert!(begun.elapsed() < Duration::from_secs(30));
        while let Next::Window(_) = windows.next_within(Duration::ZERO, &cancel) {}
        assert!(matches!(windows.next_within(Duration::ZERO, &cancel), Next::Ended));
    }

    #[test]
    fn what_cannot_start_says_why() {
        let options = ObserverOptions { signals: vec!["nope".into()], redact: false };
        let error = Engine::start(options, Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("no signal \"nope\""), "{error}");
    }
}
