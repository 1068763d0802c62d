//! What all events share: their type, their raw form and how it is decoded.

mod comm;
mod event_type;
#[cfg(test)]
pub(crate) mod layout;
mod raw;
pub(crate) mod syscall_names;

pub use comm::{Comm, TASK_COMM_LEN};
pub use event_type::{EventType, UnknownEventType};
pub use raw::{DecodeError, Event, RawEvent, RawEventBuf};
pub(crate) use raw::{EnumField, shared_fields, wire_enum};

/// Bytes of a file name in a [`FileEvent`](crate::FileEvent) with its NUL.
pub const MAX_FILENAME_LEN: usize = 256;

/// `ERESTARTSYS` to `ERESTART_RESTARTBLOCK` (linux/errno.h): a signal cut the call short. No caller ever sees these.
pub(crate) const fn is_restart(ret: i64) -> bool {
    matches!(ret, -516..=-512)
}
