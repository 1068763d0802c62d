use super::error::{LoadError, Unavailable};
use super::group::{Group, Member};
use super::handle::{Handle, Prepared};
use super::loader::Loader;
use super::stream::{Events, StreamError};
use super::{CancelToken, Counters, Host, parallel};
use std::collections::VecDeque;
use std::sync::Arc;

/// Signals that are prepared and not yet attached. Unloads the last one first.
#[derive(Default)]
struct Waiting(VecDeque<(&'static str, Prepared)>);

impl Drop for Waiting {
    fn drop(&mut self) {
        while self.0.pop_back().is_some() {}
    }
}

/// Loaders, with their places in the set, that are prepared one after the other.
struct Company<'a> {
    loaders: Vec<(usize, &'a mut dyn Loader)>,
    /// What they would load alone, where they are to share programs.
    sharing: Option<(&'static Group, Vec<Member>)>,
}

/// Who shares programs with whom: a group has each signal once, so a second loader of a signal is in another company.
fn companies<'a>(loaders: impl Iterator<Item = &'a mut dyn Loader>) -> Vec<Company<'a>> {
    let mut companies: Vec<Company<'a>> = Vec::new();
    for entry in loaders.enumerate() {
        // What cannot be loaded is told of when it is tried alone.
        let (Some((group, number)), Ok(plan)) = (entry.1.group(), entry.1.plan_load()) else {
            companies.push(Company { loaders: vec![entry], sharing: None });
            continue;
        };
        let member = Member { number, plan };
        let has_room = |company: &&mut Company<'_>| {
            let sharing = company.sharing.as_ref();
            sharing.is_some_and(|(of, members)| {
                std::ptr::eq(*of, group) && members.iter().all(|other| other.number != number)
            })
        };
        match companies.iter_mut().find(has_room) {
            Some(Company { loaders, sharing: Some((_, members)) }) => {
                loaders.push(entry);
                members.push(member);
            }
            _ => companies.push(Company { loaders: vec![entry], sharing: Some((group, vec![member])) }),
        }
    }
    companies
}

/// Prepares each of these, all at once, as many as there are processors for; those that have hooks in common share their programs there.
#[doc(hidden)]
pub fn prepare_all<'a>(loaders: impl Iterator<Item = &'a mut dyn Loader>) -> Vec<Result<Prepared, LoadError>> {
    let _indexed_once = Host::detect();
    let companies = companies(loaders);
    let mut prepared: Vec<_> = parallel::each(companies, Company::prepare).into_iter().flatten().collect();
    prepared.sort_unstable_by_key(|(place, _)| *place);
    prepared.into_iter().map(|(_, prepared)| prepared).collect()
}

impl Company<'_> {
    fn prepare(mut self) -> Vec<(usize, Result<Prepared, LoadError>)> {
        if let Some(prepared) = self.prepare_together() {
            return self.loaders.iter().map(|(place, _)| *place).zip(prepared.into_iter().map(Ok)).collect();
        }
        // What the kernel does not take of several signals it may take of one.
        self.loaders.into_iter().map(|(place, loader)| (place, loader.prepare())).collect()
    }

    /// Loads one program a hook for all of them, if they are several and the kernel takes it.
    fn prepare_together(&mut self) -> Option<Vec<Prepared>> {
        let (group, members) = self.sharing.as_ref().filter(|(_, members)| members.len() > 1)?;
        let host = Host::detect();
        super::host::lift_memlock(host.version);
        let mut plan = group.plan(members);
        let shares = group.load(&mut plan, members, host.btf().ok()?).ok()?;
        let parts = self.loaders.iter_mut().zip(members).zip(shares);
        parts.map(|(((_, loader), member), share)| loader.join(share, Group::ring(member.number)).ok()).collect()
    }
}

/// Several signals, loaded and closed together. Those that have hooks in common share their programs there, so that an event costs one
/// program whatever the number of signals that it concerns.
#[derive(Debug, Default)]
pub struct LoaderSet {
    loaders: Vec<Box<dyn Loader>>,
    handles: Vec<Handle>,
}

impl LoaderSet {
    /// A set of loaders that are not loaded yet.
    pub fn new(loaders: Vec<Box<dyn Loader>>) -> Self {
        Self { loaders, handles: Vec::new() }
    }

    /// Loads all, in order, or none. All are prepared before the first is attached: they start together.
    ///
    /// # Errors
    /// [`LoadError::Loader`] names the loader that failed; those loaded before it have been unloaded, last first.
    /// [`LoadError::AlreadyLoaded`] when the set is loaded; it stays so.
    pub fn load_all(&mut self) -> Result<(), LoadError> {
        if !self.handles.is_empty() {
            return Err(LoadError::AlreadyLoaded);
        }
        let mut waiting = Waiting::default();
        let mut failed = None;
        for (loader, prepared) in self.prepare() {
            let loader = loader.name();
            match prepared {
                Ok(signal) => waiting.0.push_back((loader, signal)),
                Err(source) => {
                    failed.get_or_insert(LoadError::Loader { loader, source: Box::new(source) });
                }
            }
        }
        if let Some(error) = failed {
            drop(waiting);
            self.close();
            return Err(error);
        }
        while let Some((loader, signal)) = waiting.0.pop_front() {
            match signal.attach() {
                Ok(handle) => self.handles.push(handle),
                Err(source) => {
                    drop(waiting);
                    self.close();
                    return Err(LoadError::Loader { loader, source: Box::new(source) });
                }
            }
        }
        Ok(())
    }

    /// Loads what can be loaded, as [`load_all`](Self::load_all) does, and returns the rest with reasons. Keeps what is loaded already.
    pub fn load_available(&mut self) -> Vec<Unavailable> {
        let mut unavailable = Vec::new();
        let mut waiting = VecDeque::new();
        let mut handles = Vec::new();
        for (loader, prepared) in self.prepare() {
            match prepared {
                Ok(signal) => waiting.push_back((loader, signal.is_shared(), signal)),
                Err(LoadError::AlreadyLoaded) => {}
                Err(error) => unavailable.push(Unavailable { signal: loader.name(), reason: error.reason() }),
            }
        }
        while let Some((loader, shared, signal)) = waiting.pop_front() {
            let mut attached = signal.attach();
            if attached.is_err() && shared {
                // It may be another signal's hook that cannot be had.
                attached = loader.load();
            }
            match attached {
                Ok(handle) => handles.push(handle),
                Err(error) => unavailable.push(Unavailable { signal: loader.name(), reason: error.reason() }),
            }
        }
        self.handles.append(&mut handles);
        unavailable
    }

    /// What can be attached now, or why not, by loader.
    fn prepare(&mut self) -> impl Iterator<Item = (&mut Box<dyn Loader>, Result<Prepared, LoadError>)> {
        let prepared = prepare_all(self.loaders.iter_mut().map(|loader| &mut **loader as &mut dyn Loader));
        self.loaders.iter_mut().zip(prepared)
    }

    /// The loaders, loaded or not.
    pub fn loaders(&self) -> &[Box<dyn Loader>] {
        &self.loaders
    }

    /// The handles of what is loaded, in the order of loading.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// The events of everything that is loaded, in one stream.
    ///
    /// # Errors
    /// [`StreamError::NotLoaded`] when nothing is loaded.
    pub fn events(&self, cancel: &CancelToken) -> Result<Events, StreamError> {
        if self.handles.is_empty() {
            return Err(StreamError::NotLoaded("the set"));
        }
        Events::new(self.handles.iter().map(|handle| Arc::clone(&handle.shared)).collect(), cancel)
    }

    /// The counters of everything that is loaded, added up.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for handle in &self.handles {
            sum += handle.counters();
        }
        sum
    }

    /// Records handed to readers so far, of everything that is loaded.
    pub fn seen(&self) -> u64 {
        self.handles.iter().map(Handle::seen).sum()
    }

    /// As [`Handle::stop`], last loaded first.
    pub fn stop(&self) {
        self.handles.iter().rev().for_each(Handle::stop);
    }

    /// Unloads everything, last loaded first. Idempotent; also done when dropped.
    pub fn close(&mut self) {
        while let Some(handle) = self.handles.pop() {
            drop(handle);
        }
    }
}

impl Drop for LoaderSet {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_may_share_everything() {
        fn shareable<T: Send + Sync + std::fmt::Debug>() {}
        shareable::<LoaderSet>();
        shareable::<Handle>();
        shareable::<Prepared>();
        shareable::<Events>();
        shareable::<CancelToken>();
        shareable::<Host>();
    }
}
