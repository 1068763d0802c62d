//! The one writer of a directory.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use kerno_model::{IncidentRecord, Window};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::file::{room, sync_parent};
use crate::format::{Head, Kind};
use crate::incidents::{IncidentLog, ReadyIncident};
use crate::lock::Lock;
use crate::mend::{contents, refuse_newer};
use crate::reader::Reader;
use crate::settings::{Settings, Tier};
use crate::status::{Aside, Failing, Status};
use crate::tier::{Numbered, TierLog, WindowFile};
use crate::{Note, StoreError, Timestamp, state};

/// How many windows are merged into each coarser tier in one call, so that a call takes a bounded time: more than one, to catch up.
const MERGES_PER_CALL: usize = 16;

/// A file that cannot be read has fewer windows than this.
const UNREAD_WINDOWS: u64 = 1 << 20;

/// Incidents take at most this share of the store.
const INCIDENTS_SHARE: u64 = 4;

/// A file of windows is at most this share of the store: what is removed is whole files.
const FILE_SHARE: u64 = 64;

/// The smallest and largest of these.
const FILE_BYTES: (u64, u64) = (64 << 10, 8 << 20);

/// The lock file and the directory.
const OWN_BYTES: u64 = 3 * 4096;

/// The year 2500: what is stored in nanoseconds has to fit.
const MAX_SECONDS: f64 = 16_725_225_600.0;

/// Windows, in whose time the wall clock must not have been before a moment, for it to be believed.
const CLOCK_WINDOWS: usize = 360;

/// Writes windows, incidents and states to a directory. There is one at a time for a directory.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    settings: Settings,
    _lock: Lock,
    /// As in the settings, the finest first.
    tiers: Vec<TierLog>,
    /// Of resolutions that are no longer in the settings.
    retired: Vec<TierLog>,
    incidents: IncidentLog,
    states: BTreeMap<PathBuf, u64>,
    aside: VecDeque<Aside>,
    /// The number of the next file.
    next_file: u64,
    /// The number of the next window.
    next_window: u64,
    limit_bytes: u64,
    failing: Option<Failing>,
    not_written: u64,
    /// When the latest windows ended, by the wall clock.
    clock: VecDeque<Timestamp>,
}

impl Store {
    /// Opens the store in a directory, which is made if only it is missing. Reads and checks all that is there, cuts off what was not written
    /// completely, and sets damaged files aside: the notes tell.
    ///
    /// # Errors
    /// If the settings are impossible, another process writes there ([`StoreError::InUse`]), a newer kerno wrote it
    /// ([`StoreError::Newer`]), or the directory cannot be used.
    pub fn open(dir: &Path, settings: Settings) -> Result<(Self, Vec<Note>), StoreError> {
        settings.check()?;
        match std::fs::DirBuilder::new().create(dir) {
            Ok(()) => sync_parent(dir)?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StoreError::io("make the directory", dir)(error)),
        }
        refuse_newer(dir)?;
        let lock = Lock::take(dir)?;
        let contents = contents(dir)?;
        let mut files: BTreeMap<u64, VecDeque<WindowFile>> = BTreeMap::new();
        let (mut incidents, mut states) = (Vec::new(), BTreeMap::new());
        for sound in contents.files {
            match sound.head.kind {
                Kind::Windows => {
                    let tier = files.entry(sound.head.resolution_seconds).or_default();
                    tier.push_back(WindowFile::new(sound.path, &sound.head, sound.len, sound.begin, &sound.scan));
                }
                Kind::Incidents => incidents.push(sound),
                Kind::State => drop(states.insert(sound.path, sound.len)),
            }
        }
        let tiers: Vec<_> = settings
            .tiers
            .iter()
            .map(|tier| TierLog::new(*tier, files.remove(&tier.seconds()).unwrap_or_default()))
            .collect();
        let retired: Vec<_> = files
            .into_iter()
            .map(|(seconds, files)| {
                let resolution = std::time::Duration::from_secs(seconds);
                let like = settings.tiers.iter().find(|tier| tier.resolution >= resolution).or(settings.tiers.last());
                TierLog::new(Tier::new(resolution, like.map_or(resolution, |tier| tier.keep)), files)
            })
            .collect();
        let last = tiers.iter().chain(&retired).map(TierLog::last).max().unwrap_or(0);
        let mut store = Self {
            dir: dir.to_owned(),
            settings,
            _lock: lock,
            tiers,
            retired,
            incidents: IncidentLog::new(incidents),
            states,
            aside: contents.aside.into(),
            next_file: contents.last_number + 1,
            next_window: last + 1 + if contents.unread { UNREAD_WINDOWS } else { 0 },
            limit_bytes: 0,
            failing: None,
            not_written: 0,
            clock: VecDeque::new(),
        };
        store.limit_bytes = store.limit()?;
        // The cap may be lower than it was.
        store.make_room(0)?;
        Ok((store, contents.notes))
    }

    /// Appends a window. When this returns, it is on the disk. Also merges windows into coarser ones and removes what is too old, a bounded
    /// piece of work.
    ///
    /// # Errors
    /// If it could not be written; then nothing of it was. The next call tries again with its own window. [`status`](Self::status) tells
    /// since when writing fails.
    pub fn append(&mut self, window: &Window) -> Result<(), StoreError> {
        let (started_unix, seconds) = (window.span.started_unix, window.span.covered_seconds());
        // What cannot be read again is not written; the system has nothing to do with it.
        if !(0.0..MAX_SECONDS).contains(&started_unix) || !(0.0..MAX_SECONDS).contains(&seconds) {
            return Err(StoreError::Span { started_unix, seconds });
        }
        let new = Numbered { window: window.clone(), first: self.next_window, count: 1 };
        let written = self.limit().and_then(|limit| {
            self.limit_bytes = limit;
            self.write(0, &new)
        });
        if let Err(error) = written {
            self.not_written += 1;
            self.fails(&error);
            return Err(error);
        }
        self.next_window += 1;
        self.saw_clock(&new);
        // The window is safe. What follows is done again when it fails.
        match self.merge_up(new).and_then(|()| self.remove_old()) {
            Ok(()) => self.failing = None,
            Err(error) => self.fails(&error),
        }
        Ok(())
    }

    /// Keeps an incident, in place of what was kept of it before. When this returns, it is on the disk.
    ///
    /// # Errors
    /// If it could not be written; then what was kept before still is.
    pub fn put_incident(&mut self, record: &IncidentRecord) -> Result<(), StoreError> {
        let ready = ReadyIncident::new(record)?;
        self.write_incident(ready).inspect_err(|error| self.fails(error))
    }

    fn write_incident(&mut self, ready: ReadyIncident) -> Result<(), StoreError> {
        self.limit_bytes = self.limit()?;
        self.make_room(self.incidents.growth(&ready))?;
        let number = self.take_file_number();
        self.incidents.put(&self.dir, ready, number)?;
        // The incident is safe.
        if let Err(error) = self.tidy_incidents() {
            self.fails(&error);
        }
        Ok(())
    }

    fn tidy_incidents(&mut self) -> Result<(), StoreError> {
        if let Some(now) = self.believed_clock() {
            let keep = u64::try_from(self.settings.keep_incidents.as_nanos()).unwrap_or(u64::MAX);
            self.incidents.forget_before(now.saturating_sub(keep));
        }
        self.incidents.forget_down_to(self.limit_bytes / INCIDENTS_SHARE / 2);
        if self.incidents.is_wasteful() {
            self.make_room(self.incidents.rewrite_growth())?;
            let number = self.take_file_number();
            self.incidents.rewrite(&self.dir, number)?;
        }
        Ok(())
    }

    /// Keeps a small value by its name, in place of the one before. When this returns, it is on the disk; after a crash, it is the old one or
    /// the new one.
    ///
    /// # Errors
    /// If it could not be written; then the value before is still there. A name has up to 64 of a-z, 0-9, - and _.
    pub fn put_state(&mut self, name: &str, value: &impl Serialize) -> Result<(), StoreError> {
        let (head, bytes) = state::to_bytes(name, value)?;
        let written = self.limit().and_then(|limit| {
            self.limit_bytes = limit;
            self.make_room(room(bytes.len() as u64))?;
            state::write(&self.dir, &head, &bytes)
        });
        match written {
            Ok(()) => {
                self.states.insert(self.dir.join(head.file_name()), bytes.len() as u64);
                Ok(())
            }
            Err(error) => {
                self.fails(&error);
                Err(error)
            }
        }
    }

    /// A named value; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or is of another type.
    pub fn state<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        state::read(&self.dir, name)
    }

    /// The names of the values that are kept.
    pub fn states(&self) -> Vec<String> {
        let name = |path: &PathBuf| Head::of_file_name(path.file_name()?.to_str()?);
        self.states.keys().filter_map(name).map(|head| head.name).collect()
    }

    /// Forgets a named value; nothing happens if there is none.
    ///
    /// # Errors
    /// If its file cannot be removed.
    pub fn forget_state(&mut self, name: &str) -> Result<(), StoreError> {
        let Some(path) = self.states.keys().find(|path| {
            let head = path.file_name().and_then(|name| Head::of_file_name(name.to_str()?));
            head.is_some_and(|head| head.name == name)
        }) else {
            return Ok(());
        };
        let path = path.clone();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", &path)(error)),
            _ => {
                self.states.remove(&path);
                Ok(())
            }
        }
    }

    /// How the store is.
    pub fn status(&self) -> Status {
        let tiers: Vec<_> = self.tiers.iter().chain(&self.retired).map(TierLog::status).collect();
        Status {
            dir: self.dir.clone(),
            bytes: self.used(),
            limit_bytes: self.limit_bytes,
            incidents: self.incidents.count(),
            incident_bytes: self.incidents.room(),
            oldest: tiers.iter().filter_map(|tier| tier.oldest).min(),
            newest: tiers.iter().filter_map(|tier| tier.newest).max(),
            tiers,
            failing: self.failing.clone(),
            not_written: self.not_written,
            aside: self.aside.iter().cloned().collect(),
        }
    }

    /// A reader of this store. It may be used in another thread.
    pub fn reader(&self) -> Reader {
        Reader::of(&self.dir)
    }

    fn fails(&mut self, error: &StoreError) {
        let why = error.in_full();
        match &mut self.failing {
            Some(failing) => {
                failing.why = why;
                failing.attempts += 1;
            }
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let since = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
                self.failing = Some(Failing { since, why, attempts: 1 });
            }
        }
    }

    fn take_file_number(&mut self) -> u64 {
        let number = self.next_file;
        self.next_file += 1;
        number
    }

    fn write(&mut self, tier: usize, new: &Numbered) -> Result<(), StoreError> {
        let file_bytes = (self.limit_bytes / FILE_SHARE).clamp(FILE_BYTES.0, FILE_BYTES.1);
        let number = self.next_file;
        let Some(log) = self.tiers.get_mut(tier) else { return Ok(()) };
        let ready = log.prepare(&self.dir, new, number, file_bytes)?;
        self.make_room(ready.growth)?;
        let Some(log) = self.tiers.get_mut(tier) else { return Ok(()) };
        // Even if it fails: the file may be there and refuse to go.
        self.next_file += 1;
        log.write(&self.dir, ready)
    }

    /// Merges the window that was just written, and those that have not been merged yet, into the coarser tiers.
    fn merge_up(&mut self, new: Numbered) -> Result<(), StoreError> {
        let mut fresh = VecDeque::from([new]);
        for tier in 1..self.tiers.len() {
            let mut written = VecDeque::new();
            for _ in 0..MERGES_PER_CALL {
                self.write_pending(tier, &mut written)?;
                let (finer, coarser) = self.tiers.split_at_mut(tier);
                let (Some(source), Some(log)) = (finer.last_mut(), coarser.first_mut()) else { break };
                fresh.retain(|fresh| fresh.first >= log.next);
                let next = match fresh.front() {
                    Some(front) if front.first == log.next => fresh.pop_front(),
                    _ if source.last() < log.next => None,
                    _ => source.read_from(log.next),
                };
                let Some(next) = next else { break };
                // What has to be written first is written in the next round, and what was returned is read again.
                if let Some(again) = log.take(next) {
                    fresh.push_front(again);
                }
            }
            self.write_pending(tier, &mut written)?;
            fresh = written;
        }
        Ok(())
    }

    fn write_pending(&mut self, tier: usize, written: &mut VecDeque<Numbered>) -> Result<(), StoreError> {
        let Some(log) = self.tiers.get_mut(tier) else { return Ok(()) };
        let Some(pending) = log.pending.take_if(|pending| pending.complete) else { return Ok(()) };
        match self.write(tier, &pending.merged) {
            Ok(()) => {
                written.push_back(pending.merged);
                Ok(())
            }
            Err(error) => {
                if let Some(log) = self.tiers.get_mut(tier) {
                    log.pending = Some(pending);
                }
                Err(error)
            }
        }
    }

    /// Removes windows that were kept long enough.
    fn remove_old(&mut self) -> Result<(), StoreError> {
        let next: Vec<_> = self.tiers.iter().skip(1).map(|tier| Some(tier.next)).chain([None]).collect();
        for (log, next) in self.tiers.iter_mut().zip(next) {
            while log.overdue().is_some_and(|share| share >= 1.0) && next.is_none_or(|next| log.is_oldest_merged(next))
            {
                log.remove_oldest()?;
            }
        }
        // Nothing is added to these: they are as old as what was added to others since.
        for log in &mut self.retired {
            let last = log.last();
            let since: f64 = self.tiers.iter().map(|tier| tier.covered_after(last)).fold(0.0, f64::max);
            while log.files.front().is_some() && log.overdue_after(since) >= 1.0 {
                log.remove_oldest()?;
            }
        }
        self.retired.retain(|log| !log.files.is_empty());
        Ok(())
    }

    /// What the store may take now.
    fn limit(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(&self.dir);
        let stat =
            stat.map_err(|error| StoreError::io("ask for the size of the file system of", &self.dir)(error.into()))?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        // Some file systems do not say how large they are.
        if total == 0 {
            return Ok(self.settings.cap_bytes);
        }
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a size"
        )]
        let share = (total as f64 * self.settings.max_share) as u64;
        Ok(share.min(self.settings.cap_bytes))
    }

    fn used(&self) -> u64 {
        let windows: u64 = self.tiers.iter().chain(&self.retired).map(TierLog::room).sum();
        let states: u64 = self.states.values().map(|len| room(*len)).sum();
        let aside: u64 = self.aside.iter().map(|aside| room(aside.bytes)).sum();
        windows + states + aside + self.incidents.room() + OWN_BYTES
    }

    /// Removes what matters least until there is room for so many bytes more.
    fn make_room(&mut self, growth: u64) -> Result<(), StoreError> {
        while self.used() + growth > self.limit_bytes {
            if let Some(aside) = self.aside.front() {
                match std::fs::remove_file(&aside.path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(StoreError::io("remove", &aside.path)(error));
                    }
                    _ => drop(self.aside.pop_front()),
                }
            } else if let Some(log) = self.retired.iter_mut().find(|log| !log.files.is_empty()) {
                log.remove_oldest()?;
            } else if !self.remove_most_overdue()? {
                return self.no_room(growth);
            }
        }
        Ok(())
    }

    /// Removes the file of windows that is furthest through its time, so that all tiers become shorter by the same share.
    fn remove_most_overdue(&mut self) -> Result<bool, StoreError> {
        let overdue = |log: &TierLog| log.overdue().unwrap_or(-1.0);
        let most = self.tiers.iter_mut().max_by(|a, b| overdue(a).total_cmp(&overdue(b)));
        match most {
            Some(log) if log.overdue().is_some() => log.remove_oldest().map(|()| true),
            _ => Ok(false),
        }
    }

    fn no_room(&self, growth: u64) -> Result<(), StoreError> {
        // With nothing to write, a cap that is too low is told with the first window.
        if growth == 0 {
            return Ok(());
        }
        Err(StoreError::NoRoom { needed_bytes: growth, limit_bytes: self.limit_bytes })
    }

    fn saw_clock(&mut self, new: &Numbered) {
        if self.clock.len() == CLOCK_WINDOWS {
            self.clock.pop_front();
        }
        self.clock.push_back(new.window.span.end().unix_ns);
    }

    /// A moment that the wall clock has surely passed: for an hour, it was never before it. `None` until that can be told.
    fn believed_clock(&self) -> Option<Timestamp> {
        self.clock.iter().min().copied().filter(|_| self.clock.len() == CLOCK_WINDOWS)
    }
}
