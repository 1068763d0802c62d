//! Writes to the store in a thread of its own: a disk that hangs delays neither judgement nor alerts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kerno_doctor::incidents::Incidents;
use kerno_doctor::objectives::Kept;
use kerno_model::{IncidentId, IncidentRecord, Window};
use kerno_store::Store;

use crate::explain::explain;
use crate::objectives::BUDGETS;
use crate::past::INCIDENTS;
use crate::sinks::deliver::Keep;
use crate::sinks::outbox::Outbox;
use crate::state::{Shared, StoreStatus};

/// Windows that wait while the disk is slow.
const QUEUE: usize = 32;

/// Incidents that wait until they can be written.
const MAX_PENDING: usize = 4096;

/// What the names of outboxes in the store begin with.
pub(crate) const OUTBOX: &str = "outbox-";

/// The name of a sink's outbox in the store.
pub(crate) fn outbox_name(sink: &str) -> String {
    format!("{OUTBOX}{sink}")
}

/// Outboxes that are to be written, by their names; the latest of each.
type Outboxes = Arc<Mutex<BTreeMap<String, Outbox>>>;

/// The budgets of objectives that are to be written; the latest.
type Budgets = Arc<Mutex<Option<Kept>>>;

/// What there is to write.
enum Job {
    Seen(Box<Seen>),
    /// An outbox changed, or the budgets of objectives.
    Told,
}

/// What is written after a window.
struct Seen {
    window: Arc<Window>,
    changed: Vec<IncidentRecord>,
    /// All that are followed, if any changed.
    incidents: Option<Incidents>,
}

/// The thread that writes.
pub(crate) struct Writer {
    /// `None` after the stop, also for those who may still have it.
    jobs: Arc<Mutex<Option<SyncSender<Job>>>>,
    outboxes: Outboxes,
    budgets: Budgets,
    thread: Option<JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    pub(crate) fn start(store: Store, directory: &Path, shared: Arc<Shared>) -> std::io::Result<Self> {
        let (jobs, received) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut work = Work {
            store,
            directory: directory.display().to_string(),
            shared,
            dropped: Arc::clone(&dropped),
            written: 0,
            failed: 0,
            failing: None,
            pending: BTreeMap::new(),
            followed: None,
            outboxes: Outboxes::default(),
            budgets: Budgets::default(),
        };
        let (outboxes, budgets) = (Arc::clone(&work.outboxes), Arc::clone(&work.budgets));
        work.tell();
        let thread = std::thread::Builder::new().name("kerno store".into()).spawn(move || work.run(&received))?;
        Ok(Self { jobs: Arc::new(Mutex::new(Some(jobs))), outboxes, budgets, thread: Some(thread), dropped })
    }

    /// Never waits: if the disk is too slow, the window is not kept. Incidents that changed are told again with the next one.
    pub(crate) fn offer(
        &self,
        window: Arc<Window>,
        changed: Vec<IncidentRecord>,
        incidents: Option<Incidents>,
    ) -> bool {
        let job = Job::Seen(Box::new(Seen { window, changed, incidents }));
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok());
        if !accepted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        accepted
    }

    /// What keeps outboxes. It never waits: of each outbox, the latest is written when the disk allows.
    pub(crate) fn keep(&self) -> Keep {
        let (jobs, outboxes) = (Arc::clone(&self.jobs), Arc::clone(&self.outboxes));
        Arc::new(move |name, outbox| {
            outboxes.lock().unwrap_or_else(PoisonError::into_inner).insert(outbox_name(name), outbox);
            // If the queue is full, it is written after what is in there.
            if let Some(jobs) = &*jobs.lock().unwrap_or_else(PoisonError::into_inner) {
                let _ = jobs.try_send(Job::Told);
            }
        })
    }

    /// Never waits: the latest are written when the disk allows.
    pub(crate) fn keep_budgets(&self, kept: Kept) {
        *self.budgets.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        // If the queue is full, they are written after what is in there.
        if let Some(jobs) = &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = jobs.try_send(Job::Told);
        }
    }

    /// Ends when everything is written, or after this time.
    pub(crate) fn stop(mut self, timeout: Duration) -> bool {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let deadline = Instant::now() + timeout;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

struct Work {
    store: Store,
    directory: String,
    shared: Arc<Shared>,
    dropped: Arc<AtomicU64>,
    written: u64,
    failed: u64,
    failing: Option<String>,
    /// Incidents whose latest form is not written yet.
    pending: BTreeMap<IncidentId, IncidentRecord>,
    followed: Option<Incidents>,
    outboxes: Outboxes,
    budgets: Budgets,
}

impl Work {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(Duration::from_secs(30)) {
                Ok(Job::Seen(seen)) => self.write(*seen),
                Ok(Job::Told) => {}
                // Another try for what could not be written, though no window came.
                Err(RecvTimeoutError::Timeout) => self.write_incidents(),
                Err(RecvTimeoutError::Disconnected) => {
                    self.write_incidents();
                    self.write_budgets();
                    return self.write_outboxes();
                }
            }
            self.write_budgets();
            self.write_outboxes();
            self.tell();
        }
    }

    fn write(&mut self, job: Seen) {
        for record in job.changed {
            self.pending.insert(record.incident.id.clone(), record);
        }
        while self.pending.len() > MAX_PENDING {
            self.pending.pop_first();
        }
        self.followed = job.incidents.or(self.followed.take());
        match self.store.append(&job.window) {
            Ok(()) => {
                self.written += 1;
                self.succeeded();
            }
            Err(error) => {
                self.failed += 1;
                self.failed_with(&explain(&error));
            }
        }
        self.write_incidents();
    }

    fn write_incidents(&mut self) {
        while let Some((id, record)) = self.pending.pop_first() {
            if let Err(error) = self.store.put_incident(&record) {
                self.pending.insert(id, record);
                return self.failed_with(&explain(&error));
            }
        }
        if let Some(followed) = self.followed.take()
            && let Err(error) = self.store.put_state(INCIDENTS, &followed)
        {
            self.followed = Some(followed);
            self.failed_with(&explain(&error));
        }
    }

    fn write_budgets(&mut self) {
        let latest = self.budgets.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(kept) = latest else { return };
        if let Err(error) = self.store.put_state(BUDGETS, &kept) {
            // A later one may have come meanwhile.
            self.budgets.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(kept);
            self.failed_with(&explain(&error));
        }
    }

    fn write_outboxes(&mut self) {
        loop {
            let next = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            let Some((name, outbox)) = next else { return };
            if let Err(error) = self.store.put_state(&name, &outbox) {
                // A later one may have come meanwhile.
                self.outboxes.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert(outbox);
                return self.failed_with(&explain(&error));
            }
        }
    }

    fn failed_with(&mut self, why: &str) {
        if self.failing.as_deref() != Some(why) {
            tracing::error!(directory = self.directory, "cannot write to the store: {why}; watching goes on");
        }
        self.failing = Some(why.to_owned());
    }

    fn succeeded(&mut self) {
        if self.failing.take().is_some() {
            tracing::info!(directory = self.directory, "the store can be written to again");
        }
    }

    fn tell(&self) {
        let status = self.store.status();
        self.shared.set_store(StoreStatus {
            directory: self.directory.clone(),
            bytes: status.bytes,
            cap_bytes: status.limit_bytes,
            written: self.written,
            lost: self.failed + self.dropped.load(Ordering::Relaxed),
            failing: self.failing.clone(),
        });
    }
}
