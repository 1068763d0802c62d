use std::borrow::Cow;
use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a task's name with its NUL, as in the kernel (`TASK_COMM_LEN`).
pub const TASK_COMM_LEN: usize = 16;

/// A task's name: at most 15 bytes and a NUL, any bytes (a process chooses its own name).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Comm(pub [u8; TASK_COMM_LEN]);

impl Comm {
    /// The bytes before the first NUL.
    pub fn as_bytes(&self) -> &[u8] {
        kerno_model::text::until_nul(&self.0)
    }

    /// The name as text; bytes that are not UTF-8 become U+FFFD. May hold control characters: see [`kerno_model::text::Escaped`].
    pub fn to_str_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        kerno_model::text::Escaped(self.as_bytes()).fmt(f)
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_str_lossy())
    }
}

impl serde::Serialize for Comm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_str_lossy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_nul_and_survives_any_bytes() {
        let mut raw = [b'x'; TASK_COMM_LEN];
        assert_eq!(Comm(raw).to_str_lossy().len(), TASK_COMM_LEN);
        raw[2] = 0;
        assert_eq!(Comm(raw).to_str_lossy(), "xx");
        raw[..3].copy_from_slice(&[0xff, 0x1b, 0]);
        assert_eq!(Comm(raw).to_str_lossy(), "\u{fffd}\u{1b}");
        assert_eq!(Comm(raw).to_string(), "\\xff\\x1b");
    }
}
