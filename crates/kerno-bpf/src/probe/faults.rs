//! A place where each read of what the kernel tells passes, so that tests can make it fail. Anywhere else it does nothing.

use std::io;
use std::path::Path;

#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps, reason = "in tests it fails")]
pub(crate) const fn pass(_name: &str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use injected::{fail, pass, passed};

/// A file's text.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    pass_file(path)?;
    std::fs::read_to_string(path)
}

/// As [`pass`], by the file's name.
pub(crate) fn pass_file(path: &Path) -> io::Result<()> {
    if cfg!(test) { pass(path.file_name().and_then(|name| name.to_str()).unwrap_or_default()) } else { Ok(()) }
}

#[cfg(test)]
mod injected {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::io;

    thread_local! {
        static FAILING: RefCell<Option<String>> = const { RefCell::new(None) };
        static PASSED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
        static FAILED: Cell<u64> = const { Cell::new(0) };
    }

    /// Whether the read of this name fails, on this thread.
    pub(crate) fn pass(name: &str) -> io::Result<()> {
        PASSED.with_borrow_mut(|passed| {
            if !passed.contains(name) {
                passed.insert(name.to_owned());
            }
        });
        if FAILING.with_borrow(|failing| failing.as_deref() == Some(name)) {
            FAILED.set(FAILED.get() + 1);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// Makes the reads of one name fail, until another one's or none's; how many failed of the one before.
    pub(crate) fn fail(name: Option<&str>) -> u64 {
        FAILING.set(name.map(str::to_owned));
        FAILED.take()
    }

    /// The names of all reads on this thread so far.
    pub(crate) fn passed() -> BTreeSet<String> {
        PASSED.with_borrow(Clone::clone)
    }
}
