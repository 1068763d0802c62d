//! The past, for commands that ask for it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use kerno::model::Window;
use kerno_daemon::{Client, DEFAULT_SOCKET, Past, Range};

use crate::args::{DoctorArgs, PastArgs};

/// How long about a time `--at` looks.
const LENGTH: Duration = Duration::from_secs(60);

/// The stretch of time that `--at` or `--last` means; `None` without either.
pub(crate) fn range(args: &DoctorArgs) -> Option<Range> {
    let now_ns = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0);
    if let Some(last) = args.last {
        return Some(Range::before(now_ns, last));
    }
    args.at.map(|at| about(at, args.length))
}

/// The time about a moment.
pub(crate) fn about(at: u64, length: Option<Duration>) -> Range {
    let length = length.unwrap_or(LENGTH);
    let half = u64::try_from((length / 2).as_nanos()).unwrap_or(u64::MAX);
    Range::before(at.saturating_add(half), length)
}

/// Where to ask.
pub(crate) fn open(args: &PastArgs) -> anyhow::Result<Past> {
    if let Some(directory) = &args.store {
        return Past::of_store(directory).with_context(|| format!("cannot read the store {}", directory.display()));
    }
    Ok(Past::Daemon(client(args)?))
}

/// The daemon that runs.
pub(crate) fn client(args: &PastArgs) -> anyhow::Result<Client> {
    let socket = args.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET));
    Ok(Client::connect(socket)?)
}

/// What was observed in a stretch of time.
pub(crate) fn window(args: &PastArgs, range: Range) -> anyhow::Result<Window> {
    Ok(open(args)?.window(range)?)
}
