mod event;
mod loader;
mod open_flags;

pub use event::{FileEvent, OpenVia, PathKind};
pub use loader::FileAuditLoader;
pub use open_flags::OpenFlags;
