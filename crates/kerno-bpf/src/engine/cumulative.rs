//! What the kernel adds up since some begin, and what came of it in a window: the difference of two readings. In one place, because of
//! the reading that fails: it must not be taken for zero, or the next window would tell of everything since the begin.

use std::io;

use kerno_model::{Missing, Window, fill};

/// A running total, or a table of them, read again and again.
#[derive(Debug)]
pub(crate) struct Cumulative<T> {
    /// What it is of, in words.
    what: &'static str,
    /// As last read.
    baseline: Option<T>,
    /// Why the latest readings failed.
    failed: Option<String>,
}

/// What lies between two readings.
#[derive(Debug)]
pub(crate) struct Delta<'a, T> {
    pub(crate) before: T,
    /// The baseline of the next one; what is taken out of the kernel's table has to be taken out here, too.
    pub(crate) now: &'a mut T,
    /// Why the window before could not be told of: what came in it is in this difference as well.
    pub(crate) late: Option<Gap>,
}

/// What came in the window is not known, because it could not be read at one of its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) what: String,
    pub(crate) reason: String,
}

impl<T> Cumulative<T> {
    /// Not read yet.
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, baseline: None, failed: None }
    }

    /// What began in this window, with nothing.
    pub(crate) const fn since_zero(what: &'static str, zero: T) -> Self {
        Self { what, baseline: Some(zero), failed: None }
    }

    /// Takes what has been added up by now as zero.
    pub(crate) fn begin(&mut self, reading: io::Result<T>) {
        match reading {
            Ok(now) => *self = Self { baseline: Some(now), ..Self::new(self.what) },
            Err(error) => self.failed = Some(error.to_string()),
        }
    }

    /// What came since the last reading that could be had. A reading that fails is a gap: the one before stays, so that nothing is lost
    /// and nothing is told of twice.
    pub(crate) fn advance(&mut self, reading: io::Result<T>) -> Result<Delta<'_, T>, Gap> {
        let now = match reading {
            Ok(now) => now,
            Err(error) => {
                let reason = error.to_string();
                self.failed = Some(reason.clone());
                return Err(Gap { what: self.what.to_owned(), reason });
            }
        };
        let failed = self.failed.take();
        let before = self.baseline.replace(now);
        match (before, &mut self.baseline) {
            (Some(before), Some(now)) => {
                let late = failed.map(|reason| Gap {
                    what: format!("when this happened: {}", self.what),
                    reason: format!(
                        "not readable when the window before ended ({reason}): this window has what came in both"
                    ),
                });
                Ok(Delta { before, now, late })
            }
            _ => Err(Gap {
                what: self.what.to_owned(),
                reason: failed.map_or_else(
                    || "this was the first reading".to_owned(),
                    |reason| format!("not readable when the window began: {reason}"),
                ),
            }),
        }
    }

    /// As last read.
    pub(crate) const fn latest(&self) -> Option<&T> {
        self.baseline.as_ref()
    }
}

/// What a signal could not read in a window.
#[derive(Debug)]
pub(crate) struct Gaps {
    signal: &'static str,
    gaps: Vec<Gap>,
}

/// Told of one by one.
const MAX_GAPS: usize = 16;

impl Gaps {
    pub(crate) const fn new(signal: &'static str) -> Self {
        Self { signal, gaps: Vec::new() }
    }

    /// Takes note of one; of several of the same thing, the first.
    pub(crate) fn add(&mut self, gap: Gap) {
        if self.gaps.len() < MAX_GAPS && self.gaps.iter().all(|known| known.what != gap.what) {
            self.gaps.push(gap);
        }
    }

    /// What was read, if it was.
    pub(crate) fn note<T>(&mut self, what: &str, reading: io::Result<T>) -> Option<T> {
        reading.map_err(|error| self.add(Gap { what: what.to_owned(), reason: error.to_string() })).ok()
    }

    /// The difference, if there is one.
    pub(crate) fn delta<'a, T>(&mut self, delta: Result<Delta<'a, T>, Gap>) -> Option<Delta<'a, T>> {
        match delta {
            Ok(mut delta) => {
                delta.late.take().into_iter().for_each(|late| self.add(late));
                Some(delta)
            }
            Err(gap) => {
                self.add(gap);
                None
            }
        }
    }

    /// Puts them all into the window.
    pub(crate) fn tell(&mut self, window: &mut Window) {
        let signal = self.signal;
        window.missing.extend(
            self.gaps.drain(..).map(|Gap { what, reason }| fill!(Missing { signal: signal.to_owned(), what, reason })),
        );
    }
}

/// Whether what was to be read has gone: a cgroup that was removed, a process that ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken() -> io::Error {
        io::Error::from_raw_os_error(libc::EIO)
    }

    fn came(total: &mut Cumulative<u64>, reading: io::Result<u64>) -> Result<(u64, bool), Gap> {
        total.advance(reading).map(|delta| (*delta.now - delta.before, delta.late.is_some()))
    }

    #[test]
    fn nothing_is_lost_and_nothing_told_twice() {
        let mut total = Cumulative::new("calls");
        total.begin(Ok(1_000_000));
        assert_eq!(came(&mut total, Ok(1_000_007)), Ok((7, false)));
        for _ in 0..2 {
            let gap = came(&mut total, Err(broken())).unwrap_err();
            assert!(gap.what == "calls" && gap.reason.contains("os error 5"), "{gap:?}");
        }
        assert_eq!(came(&mut total, Ok(1_000_012)), Ok((5, true)));
        assert_eq!(came(&mut total, Ok(1_000_013)), Ok((1, false)));
    }

    #[test]
    fn without_a_beginning_the_first_window_is_a_gap() {
        let mut total = Cumulative::new("calls");
        total.begin(Err(broken()));
        assert!(came(&mut total, Ok(1_000_000)).unwrap_err().reason.contains("when the window began"));
        assert_eq!(came(&mut total, Ok(1_000_003)), Ok((3, false)));
        assert!(came(&mut Cumulative::new("calls"), Ok(9)).is_err());
        assert_eq!(came(&mut Cumulative::since_zero("calls", 0), Ok(9)), Ok((9, false)));
    }

    #[test]
    fn each_gap_is_told_once() {
        let mut gaps = Gaps::new("disk_io");
        for number in 0..100 {
            assert_eq!(gaps.note::<()>(&format!("file {}", number % 40), Err(broken())), None);
        }
        assert_eq!(gaps.note("file 1", Ok(5)), Some(5));
        let mut window = Window::default();
        gaps.tell(&mut window);
        assert_eq!(window.missing.len(), MAX_GAPS);
        assert!(
            window.missing.iter().all(|missing| missing.signal == "disk_io" && missing.reason.contains("os error 5"))
        );
        gaps.tell(&mut window);
        assert_eq!(window.missing.len(), MAX_GAPS);
    }
}
