use std::fmt;

use zerocopy::{Immutable, KnownLayout, TryFromBytes};

use super::{Comm, EventType};

/// An event as it came out of the ring: its type, and its bytes still in the kernel's memory.
#[derive(Clone, Copy, Debug)]
pub struct RawEvent<'a> {
    /// Which signal it belongs to.
    pub event_type: EventType,
    /// The record, as the kernel side wrote it.
    pub data: &'a [u8],
}

/// A [`RawEvent`] with bytes of its own, for those who keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEventBuf {
    /// Which signal it belongs to.
    pub event_type: EventType,
    data: Aligned,
}

/// Bytes at an address that is a multiple of 8, which typed access needs and `Vec<u8>` does not promise.
#[derive(Clone, PartialEq, Eq)]
struct Aligned {
    words: Box<[u64]>,
    len: usize,
}

impl Aligned {
    fn new(data: &[u8]) -> Self {
        let mut words = vec![0u64; data.len().div_ceil(8)].into_boxed_slice();
        zerocopy::IntoBytes::as_mut_bytes(&mut words[..])[..data.len()].copy_from_slice(data);
        Self { words, len: data.len() }
    }

    fn as_bytes(&self) -> &[u8] {
        &zerocopy::IntoBytes::as_bytes(&self.words[..])[..self.len]
    }
}

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().fmt(f)
    }
}

impl<'a> RawEvent<'a> {
    /// The typed event of a type known beforehand, in place.
    ///
    /// # Errors
    /// [`DecodeError::Type`] when it is an event of another type, else as [`Event::decode`].
    pub fn decode_as<E: Event>(self) -> Result<&'a E, DecodeError> {
        if self.event_type != E::TYPE {
            return Err(DecodeError::Type { expected: E::TYPE, found: self.event_type });
        }
        E::decode(self.data)
    }

    /// A copy that does not borrow from the ring.
    pub fn to_owned(self) -> RawEventBuf {
        RawEventBuf { event_type: self.event_type, data: Aligned::new(self.data) }
    }
}

impl RawEventBuf {
    /// The borrowed form.
    pub fn as_raw(&self) -> RawEvent<'_> {
        RawEvent { event_type: self.event_type, data: self.data.as_bytes() }
    }
}

/// Why bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is an event, but of another type.
    #[error("expected a {expected} event, found {found}")]
    Type {
        /// What was asked for.
        expected: EventType,
        /// What it is.
        found: EventType,
    },
    /// The record is too short or too long.
    #[error("a {event_type} record is {expected} bytes long, found {found}")]
    Length {
        /// The type asked for.
        event_type: EventType,
        /// Bytes of such a record.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The record does not start at a multiple of 8 bytes, which those of the ring and of [`RawEventBuf`] do.
    #[error("a {event_type} record must be aligned to 8 bytes")]
    Alignment {
        /// The type asked for.
        event_type: EventType,
    },
    /// A field that holds one of a few values holds none of them.
    #[error("field {field} of a {event_type} record holds {value}, which has no meaning")]
    Value {
        /// The type asked for.
        event_type: EventType,
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: u8,
    },
}

/// A one-byte field of a record that not every byte is valid for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct EnumField {
    pub name: &'static str,
    pub offset: usize,
    pub valid: fn(u8) -> bool,
}

/// A typed event: the Rust mirror of a record that the kernel side writes.
pub trait Event: TryFromBytes + KnownLayout + Immutable + Sized + fmt::Display + serde::Serialize {
    /// Its type.
    const TYPE: EventType;

    /// The fields that not every byte is valid for.
    #[doc(hidden)]
    const ENUM_FIELDS: &'static [EnumField];

    /// When it happened: `CLOCK_MONOTONIC`, in nanoseconds.
    fn timestamp_ns(&self) -> u64;

    /// The process concerned (thread group id), 0 when the kernel could not know.
    fn pid(&self) -> u32;

    /// The name of the task concerned, empty when the kernel could not know.
    fn task_comm(&self) -> &Comm;

    /// True when it tells of something that went wrong: a failed call, an I/O error, a kill.
    fn failed(&self) -> bool {
        false
    }

    /// Checks and casts a record, in place. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// [`DecodeError`] says what is wrong: length, alignment, or the field that holds nonsense.
    fn decode(data: &[u8]) -> Result<&Self, DecodeError> {
        Self::try_ref_from_bytes(data).map_err(|_| explain::<Self>(data))
    }
}

#[cold]
fn explain<E: Event>(data: &[u8]) -> DecodeError {
    let event_type = E::TYPE;
    if data.len() != size_of::<E>() {
        return DecodeError::Length { event_type, expected: size_of::<E>(), found: data.len() };
    }
    for field in E::ENUM_FIELDS {
        match data.get(field.offset) {
            Some(value) if !(field.valid)(*value) => {
                return DecodeError::Value { event_type, field: field.name, value: *value };
            }
            _ => {}
        }
    }
    DecodeError::Alignment { event_type }
}

/// Declares a one-byte enum of a record: its values, its lower-case names (`Display`, `Serialize`) and which bytes are valid.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $value:literal, $text:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[derive(zerocopy::TryFromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(u8)]
        $vis enum $name { $($(#[$variant_meta])* $variant = $value,)+ }

        impl $name {
            /// The lower-case name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            #[allow(clippy::manual_range_patterns, reason = "the values are listed where the enum is declared")]
            pub(crate) const fn valid(byte: u8) -> bool {
                $(byte == $value)||+
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}
pub(crate) use wire_enum;

/// The part of an [`Event`] implementation that is the same for every record.
macro_rules! shared_fields {
    () => {
        fn timestamp_ns(&self) -> u64 {
            self.timestamp_ns
        }

        fn pid(&self) -> u32 {
            self.pid
        }

        fn task_comm(&self) -> &$crate::Comm {
            &self.comm
        }
    };
}
pub(crate) use shared_fields;

impl EnumField {
    /// For a `bool` field: only 0 and 1 are valid.
    pub(crate) const fn bool(name: &'static str, offset: usize) -> Self {
        const fn valid(byte: u8) -> bool {
            byte <= 1
        }
        Self { name, offset, valid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals;

    /// xorshift64*: the same bytes in every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }
    }

    /// The length that the decoder of a type asks for.
    fn record_bytes(event_type: EventType) -> usize {
        match (RawEvent { event_type, data: &[] }).decode() {
            Err(DecodeError::Length { expected, .. }) => expected,
            other => panic!("{other:?}"),
        }
    }

    /// Miri is some thousand times slower.
    const ROUNDS: u32 = if cfg!(miri) { 100 } else { 20_000 };

    #[test]
    fn any_bytes_decode_or_are_refused_and_never_panic() {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for signal in signals::ALL {
            let event_type = signal.event_type;
            let len = record_bytes(event_type);
            assert_eq!(len % 8, 0);
            let mut decoded = 0;
            for round in 0..ROUNDS {
                // Mostly small values in mostly valid lengths, so that the valid paths are reached too.
                let mask =
                    [0x0101_0101_0101_0101, 0x0f0f_0f0f_0f0f_0f0f, 0x0303_0303_0303_0303, u64::MAX][round as usize % 4];
                let mut bytes: Vec<u8> = (0..len / 8).flat_map(|_| (random.next() & mask).to_ne_bytes()).collect();
                if round % 16 == 0 {
                    bytes.truncate(usize::try_from(random.next()).unwrap() % (len + 1));
                }
                let owned = RawEvent { event_type, data: &bytes }.to_owned();
                assert_eq!(owned.as_raw().data, bytes);
                match owned.decode() {
                    Ok(event) => {
                        decoded += 1;
                        assert!(!event.to_string().chars().any(char::is_control), "{event}");
                        assert_eq!(serde_json::to_value(event).unwrap()["type"], event_type.name());
                    }
                    Err(DecodeError::Length { found, .. }) => assert_ne!(found, len),
                    Err(DecodeError::Value { .. }) => assert_eq!(bytes.len(), len),
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(decoded > 0 || cfg!(miri), "{event_type}: no random record was valid");
        }
    }

    #[test]
    fn unaligned_bytes_are_refused() {
        let words = [0u64; 64];
        let bytes = zerocopy::IntoBytes::as_bytes(&words[..]);
        let event_type = EventType::SyscallLatency;
        let raw = RawEvent { event_type, data: &bytes[1..=64] };
        assert_eq!(raw.decode().map(|_| ()), Err(DecodeError::Alignment { event_type }));
        assert!(raw.to_owned().decode().is_ok());
    }
}
