use super::error::{LoadError, Unavailable};
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

/// Several signals, loaded and closed together.
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
        let mut waiting = Waiting::default();
        for (signal, prepared) in self.prepare() {
            match prepared {
                Ok(programs) => waiting.0.push_back((signal, programs)),
                Err(LoadError::AlreadyLoaded) => {}
                Err(error) => unavailable.push(Unavailable { signal, reason: error.reason() }),
            }
        }
        while let Some((signal, programs)) = waiting.0.pop_front() {
            match programs.attach() {
                Ok(handle) => self.handles.push(handle),
                Err(error) => unavailable.push(Unavailable { signal, reason: error.reason() }),
            }
        }
        unavailable
    }

    /// Prepares all at once, as many as there are processors for; in order.
    fn prepare(&mut self) -> Vec<(&'static str, Result<Prepared, LoadError>)> {
        let _indexed_once = Host::detect();
        parallel::each(self.loaders.iter_mut().collect(), |loader| (loader.name(), loader.prepare()))
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
