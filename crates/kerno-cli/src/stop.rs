use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use kerno::CancelToken;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// SIGINT or SIGTERM cancels. A second one ends the process at once, even if it hangs in a write that nobody reads; the kernel then
/// removes what was loaded. With `progress`, the progress on standard error will be wiped, together with the ^C of the terminal.
pub(crate) fn on_signal(cancel: CancelToken, progress: bool) -> anyhow::Result<()> {
    on_signal_after(|| {}, cancel, progress)
}

/// As [`on_signal`], by a thread that does this first.
pub(crate) fn on_signal_after(first: fn(), cancel: CancelToken, progress: bool) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot handle signals")?;
    let wait = move || {
        first();
        for signal in signals.forever() {
            if cancel.is_cancelled() {
                std::process::exit(128 + signal);
            }
            // After the ^C that the terminal shows.
            if signal == SIGINT && !progress && std::io::stderr().is_terminal() {
                let _ = std::io::stderr().write_all(b"\n");
            }
            cancel.cancel();
        }
    };
    std::thread::Builder::new().name("kerno-signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}
