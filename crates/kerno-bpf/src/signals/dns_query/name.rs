use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes that the kernel side keeps of a name: 255, which no name exceeds, and one that is zero.
pub(crate) const NAME_BYTES: usize = 256;

/// The longest label (RFC 1035, 2.3.4). Longer values begin a pointer, which a question never has.
const MAX_LABEL: usize = 63;

/// A name as a query asked for it: labels with their lengths, as in the packet, and zeros behind them.
///
/// Displays as in a zone file: labels with dots between them, and `.` for the root; a dot or backslash in a label has a backslash before it,
/// and a byte that is no printable ASCII character is `\DDD`. So what is displayed holds no control characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct DnsName([u8; NAME_BYTES]);

impl DnsName {
    /// Its labels, the one that stands first coming first. Ends before what is no label.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let length = usize::from(*length);
            if length == 0 || length > MAX_LABEL {
                return None;
            }
            let (label, behind) = after.split_at_checked(length)?;
            rest = behind;
            Some(label)
        })
    }

    /// As displayed, in lower case: DNS does not distinguish, and some resolvers mix cases on purpose.
    pub fn to_lowercase(&self) -> String {
        self.to_string().to_ascii_lowercase()
    }

    /// True for the root, which has no labels.
    pub fn is_root(&self) -> bool {
        self.labels().next().is_none()
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for (i, label) in self.labels().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(*byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DnsName({self})")
    }
}

impl serde::Serialize for DnsName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
pub(super) fn named(wire: &[u8]) -> DnsName {
    let mut name = [0; NAME_BYTES];
    name[..wire.len()].copy_from_slice(wire);
    DnsName(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_in_a_zone_file() {
        assert_eq!(named(b"\x03www\x07Example\x03org").to_string(), "www.Example.org");
        assert_eq!(named(b"\x03www\x07Example\x03org").to_lowercase(), "www.example.org");
        assert_eq!((named(b"").to_string().as_str(), named(b"").is_root()), (".", true));
        assert_eq!(named(b"\x03a.b\x02\\c").to_string(), r"a\.b.\\c");
    }

    #[test]
    fn hostile_bytes_do_no_harm() {
        assert_eq!(named(b"\x06\x1b[2J\xff ").to_string(), r"\027[2J\255\032");
        // A pointer, a label that is too long, and no end at all: none of which the kernel side lets pass.
        assert_eq!(named(b"\x01a\xc0\x0c").to_string(), "a");
        assert_eq!(named(b"\x40").to_string(), ".");
        assert_eq!(DnsName([63; NAME_BYTES]).labels().count(), 4);
        assert_eq!(DnsName([1; NAME_BYTES]).labels().count(), 128);
    }
}
