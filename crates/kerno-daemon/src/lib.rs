//! Kerno, always on: watches in windows without a gap, follows incidents over them, remembers both, and answers questions over HTTP.
//!
//! [`Daemon::start`] loads the programs and opens everything that can fail; [`Daemon::run`] watches until it is told to stop. One thread
//! watches (the [engine](kerno_bpf::engine)), the caller's thread judges, one writes to the store, one serves HTTP, and one sends to
//! OpenTelemetry if that is wanted, so that neither a slow disk nor a slow client or receiver delays judgement.
//!
//! | what | where |
//! |---|---|
//! | the loop: windows in, incidents and totals out | `watching.rs` |
//! | what the loop knows and others read | `state.rs` |
//! | writing to the store | `writer.rs` |
//! | what changed on the machine | `changes/` |
//! | the past, from the store; as tables | `past.rs`, `export/` |
//! | HTTP: listeners and their limits, routes, metrics | `api/` |
//! | OpenTelemetry: metrics, and incidents as log records | `otlp/` |
//! | objectives: what is kept of them, and when | `objectives.rs` |
//! | text without secrets | `hiding.rs` |
//! | messages to those who have to know | `sinks/` |
//! | connections to other machines: TLS, secrets, headers | `outbound.rs` |
//! | asking a running daemon | [`Client`] |

mod api;
mod changes;
mod client;
pub mod confine;
mod explain;
mod exponential;
mod export;
mod hiding;
mod objectives;
mod otlp;
mod outbound;
mod past;
mod settings;
mod sinks;
mod state;
mod times;
mod watching;
mod writer;

pub use api::{Guard, GuardError};
pub use client::{Client, ClientError, Lines};
pub use export::{Column, ColumnKind, ExportError, Exported, Format, Table, columns, export};
pub use otlp::settings::{OtlpHistograms, OtlpProtocol, OtlpSettings, parse_otlp_header};
pub use otlp::status::OtlpStatus;
pub use outbound::{Outbound, OutboundError, Secret};
pub use past::{Past, PastError};
pub use settings::{DEFAULT_HTTP, DEFAULT_SOCKET, DEFAULT_STORE, INTERVALS, Settings};
pub use sinks::deliver::SinkStatus;
pub use sinks::settings::{MAX_SINKS, Place, SinkKind, SinkSettings, SyslogAddress, is_name};
pub use sinks::{JOURNAL_SOCKET, SYSLOG_FACILITIES, send_test};
pub use state::{Status, StoreStatus};
pub use times::{Range, parse_moment};
pub use watching::{Daemon, DaemonError};
