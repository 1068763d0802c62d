//! Who connects to whom, for how long and how well: connections opened, accepted, refused, reset and closed, retransmissions,
//! round-trip times.
mod event;
mod loader;

pub use event::{TcpDirection, TcpEvent, TcpEventType, TcpFamily, TcpResetBy, TcpState};
pub use loader::TcpMonitorLoader;
